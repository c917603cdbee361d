//! Workers are told to end, or held still, under full load.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::time::{Duration, Instant};

use gristmill_integration::{Chaos, Jobs, Nats, Worker, WorkerBuilder};

/// The time `shutdown.grace_ms` gives a drain unless set.
const GRACE: Duration = Duration::from_secs(30);

fn worker(nats: &Nats, ack_wait: Duration) -> WorkerBuilder {
    let worker = WorkerBuilder::new(nats, &["slow"]).set("streams.ack_wait_ms", ack_wait.as_millis());
    // On many cores all would be done too soon.
    worker.set("models.threads", 1)
}

/// Jobs of a model that takes some milliseconds each, far more than can be done at once; before any worker is there.
async fn load(nats: &Nats, jobs: &Jobs, ack_wait: Duration, count: usize) {
    nats.set_up(&["--model", "slow", "--ack-wait-ms", &ack_wait.as_millis().to_string()]);
    let body = Jobs::body("x", &[1, 1], &[1.0]);
    jobs.submit_all("infer.jobs.slow.online", (0..count).map(|id| (id.to_string(), body.clone()))).await;
}

/// Polls until a worker has counted so many.
async fn until(worker: &Worker, name: &str, count: u64) {
    let started = Instant::now();
    while worker.count(name) < count {
        assert!(started.elapsed() < Duration::from_secs(60), "{name} stays below {count}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminated_worker_ends_in_time_and_hands_over_what_it_has_not_begun() {
    let chaos = Chaos::begin("chaos_signals, SIGTERM").await;
    let count = chaos.scale(1000, 4000);
    let nats = Nats::start();
    let jobs = Jobs::new(nats.jetstream().await);
    // What is not given back would come to the other worker after this long, and not before.
    let ack_wait = Duration::from_secs(600);
    load(&nats, &jobs, ack_wait, count).await;
    let mut first = worker(&nats, ack_wait).start();
    let second = worker(&nats, ack_wait).start();
    until(&first, "results", 16).await;
    let told = Instant::now();
    first.process.signal("TERM");
    let status = first.process.wait();
    let ended = told.elapsed();
    chaos.tell(format!("the end came {:.2} s after SIGTERM", ended.as_secs_f64()));
    assert_eq!(status.code(), Some(0));
    assert!(ended < GRACE);
    // Waits for 90 s at most: what was not given back would come too late.
    jobs.assert_exactly_once(count, |_, _| {}).await;
    let given_back = jobs.deliveries("slow").await - count as u64;
    chaos.tell(format!("{given_back} jobs were given back, {} came to the other worker", second.count("received")));
    assert!(given_back > 0, "nothing was left to hand over");
    assert_eq!(second.count("duplicate_results"), 0, "the first worker published what it did not acknowledge");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_held_still_past_ack_wait_doubles_nothing_when_it_goes_on() {
    let chaos = Chaos::begin("chaos_signals, SIGSTOP").await;
    let count = chaos.scale(1000, 4000);
    let nats = Nats::start();
    let jobs = Jobs::new(nats.jetstream().await);
    let ack_wait = Duration::from_secs(1);
    load(&nats, &jobs, ack_wait, count).await;
    let first = worker(&nats, ack_wait).start();
    let second = worker(&nats, ack_wait).start();
    until(&first, "results", 16).await;
    first.process.signal("STOP");
    // Only past ack_wait can the other worker have all: the first held some of them.
    jobs.until_stored(count as u64).await;
    let redelivered = jobs.deliveries("slow").await - count as u64;
    first.process.signal("CONT");
    // It still believes in the jobs it held, finishes them and finds them done.
    until(&first, "duplicate_results", 1).await;
    jobs.assert_exactly_once(count, |_, _| {}).await;
    while first.status()["permits"]["in_flight"] != 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (late, at_other) = (first.count("duplicate_results"), second.count("received"));
    chaos.tell(format!("{redelivered} redeliveries, {at_other} jobs at the other worker, {late} answered too late"));
    assert!(redelivered > 0);
    // Once more, now that the last late result has come.
    jobs.assert_exactly_once(count, |_, _| {}).await;
}
