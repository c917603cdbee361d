//! Processes die and drain; jobs do not notice.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::collections::HashSet;
use std::time::Duration;

use gristmill_integration::{Answer, Jobs, Nats, WorkerBuilder};

/// Short, so that what a killed worker held is delivered again soon.
const ACK_WAIT_MS: u64 = 2000;

fn worker(nats: &Nats, model: &str) -> WorkerBuilder {
    WorkerBuilder::new(nats, &[model]).set("streams.ack_wait_ms", ACK_WAIT_MS)
}

async fn submit(jobs: &Jobs, model: &str, width: usize, count: usize) {
    let body = Jobs::body("x", &[1, width], &vec![1.0; width]);
    let all = (0..count).map(|job| (job.to_string(), body.clone()));
    jobs.submit_all(&format!("infer.jobs.{model}.online"), all).await;
}

async fn assert_each_answered_once(jobs: &Jobs, count: usize) {
    let results = jobs.results(count).await;
    let ids: HashSet<&str> = results.iter().map(Answer::id).collect();
    assert_eq!(ids.len(), count);
    assert!(results.iter().all(|answer| answer.header("Gristmill-Status") == "ok"));
    jobs.settled().await;
    assert_eq!(jobs.stored_count("INFER_RESULTS").await, count as u64, "a result was stored twice");
}

async fn until_stored(jobs: &Jobs, count: u64) {
    while jobs.stored_count("INFER_RESULTS").await < count {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_worker_killed_in_the_middle_loses_and_doubles_nothing() {
    const COUNT: usize = 10_000;
    let nats = Nats::start();
    let jobs = Jobs::new(nats.jetstream().await);
    // All jobs are there before the first worker is, so that it is killed in the middle of them.
    nats.set_up(&["--model", "mlp", "--ack-wait-ms", &ACK_WAIT_MS.to_string()]);
    submit(&jobs, "mlp", 64, COUNT).await;
    let mut first = worker(&nats, "mlp").launch();
    until_stored(&jobs, 1000).await;
    first.kill();
    let stored = jobs.stored_count("INFER_RESULTS").await;
    assert!((1000..COUNT as u64).contains(&stored), "the worker was killed too late: {stored} results");
    let second = worker(&nats, "mlp").start();
    assert_each_answered_once(&jobs, COUNT).await;
    assert!(second.count("received") >= COUNT as u64 - stored);
}

#[tokio::test]
async fn a_worker_killed_while_its_model_runs_leaves_its_jobs_to_the_next() {
    let nats = Nats::start();
    let jobs = Jobs::new(nats.jetstream().await);
    let mut first = worker(&nats, "slow").start();
    submit(&jobs, "slow", 1, 64).await;
    until_stored(&jobs, 8).await;
    first.kill();
    let _second = worker(&nats, "slow").start();
    assert_each_answered_once(&jobs, 64).await;
}

#[tokio::test]
async fn a_broker_killed_and_restarted_loses_nothing() {
    const COUNT: usize = 3000;
    let mut nats = Nats::start();
    let mut worker = worker(&nats, "mlp").start();
    let jobs = Jobs::new(nats.jetstream().await);
    submit(&jobs, "mlp", 64, COUNT).await;
    until_stored(&jobs, 100).await;
    nats.crash_and_restart();
    let jobs = Jobs::new(nats.jetstream().await);
    assert_each_answered_once(&jobs, COUNT).await;
    assert!(worker.terminate().success());
}

#[tokio::test]
async fn a_termination_under_load_gives_back_what_has_not_started() {
    let nats = Nats::start();
    let jobs = Jobs::new(nats.jetstream().await);
    // Without the drain, the second worker would wait for this long.
    let set = |builder: WorkerBuilder| builder.set("streams.ack_wait_ms", 600_000);
    let mut first = set(worker(&nats, "slow")).start();
    submit(&jobs, "slow", 1, 400).await;
    until_stored(&jobs, 16).await;
    assert_eq!(first.terminate().code(), Some(0));
    assert!(jobs.stored_count("INFER_RESULTS").await < 400, "the worker finished before it was told to end");
    let second = set(worker(&nats, "slow")).start();
    assert_each_answered_once(&jobs, 400).await;
    assert!(second.count("received") > 0);
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let nats = Nats::start();
    let jobs = Jobs::new(nats.jetstream().await);
    let mut worker = worker(&nats, "slow").start();
    submit(&jobs, "slow", 1, 100).await;
    until_stored(&jobs, 8).await;
    worker.process.signal("INT");
    worker.process.wait_until(|process| process.log().contains("draining"));
    worker.process.signal("TERM");
    assert_eq!(worker.process.wait().code(), Some(128 + 15));
}

#[tokio::test]
async fn a_drain_longer_than_its_grace_is_a_failure() {
    let nats = Nats::start();
    let jobs = Jobs::new(nats.jetstream().await);
    let mut worker = worker(&nats, "slow").set("shutdown.grace_ms", 1).start();
    submit(&jobs, "slow", 1, 100).await;
    until_stored(&jobs, 8).await;
    assert_eq!(worker.terminate().code(), Some(1));
    assert!(worker.process.log().contains("shutdown.grace_ms = 1 ms"), "{}", worker.process.log());
}
