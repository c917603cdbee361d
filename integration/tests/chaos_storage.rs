//! The results stream is full, gone, and back: the worker holds what it has, asks for no more, says so, and goes on by
//! itself.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::collections::HashSet;
use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::stream::{Config, DiscardPolicy};
use gristmill_integration::{Answer, Chaos, Jobs, Mlp, Nats, Worker, WorkerBuilder};

/// Results that fit before the stream is full.
const ROOM: usize = 500;

/// Permits of the worker: more jobs than these wait in the stream, whatever happens.
const PERMITS: usize = 256;

async fn results(jobs: &Jobs) -> Config {
    jobs.context.get_stream("INFER_RESULTS").await.unwrap().cached_info().config.clone()
}

/// Waits until the worker says that it cannot store, holds all it may, and has no pull open.
async fn until_it_holds(jobs: &Jobs, worker: &Worker, says: &str) {
    let stream = jobs.context.get_stream("INFER_JOBS").await.unwrap();
    let mut looks = 0;
    loop {
        let (code, why) = worker.get("/readyz").unwrap();
        let consumer: PullConsumer = stream.get_consumer("mlp-online").await.unwrap();
        let pulls = consumer.cached_info().num_waiting;
        if code == 503 && why.contains("results cannot be stored") && why.contains(says) && pulls == 0 {
            return;
        }
        looks += 1;
        assert!(looks < 600, "{code} {why}, {pulls} pulls open");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn until_ready(worker: &mut Worker) {
    let mut looks = 0;
    while worker.get("/readyz").unwrap().0 != 200 {
        looks += 1;
        assert!(looks < 600, "{:?}", worker.get("/readyz"));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn ids(answers: &[Answer]) -> HashSet<usize> {
    answers.iter().map(|answer| answer.id().parse().unwrap()).collect()
}

#[tokio::test]
async fn a_full_lost_and_recreated_results_stream_loses_nothing_and_fills_no_memory() {
    let chaos = Chaos::begin("results_stream").await;
    let count = chaos.scale(5000, 50_000);
    let (nats, mlp) = (Nats::start(), Mlp::load());
    let mut worker = WorkerBuilder::new(&nats, &["mlp"]).set("limits.in_flight", PERMITS).start();
    let jobs = Jobs::new(nats.jetstream().await);
    let config = results(&jobs).await;
    let full = Config { max_messages: ROOM as i64, discard: DiscardPolicy::New, ..config.clone() };
    jobs.context.update_stream(full).await.unwrap();

    jobs.submit_all("infer.jobs.mlp.online", (0..count).map(|id| mlp.job(id))).await;
    until_it_holds(&jobs, &worker, "maximum messages exceeded").await;
    let before = worker.process.rss();
    let first = jobs.results(ROOM).await;
    // Long enough for many retries: what they keep would show.
    tokio::time::sleep(Duration::from_secs(chaos.scale(5, 30))).await;
    let after = worker.process.rss();
    chaos.tell(format!("full: RSS {} -> {} MiB", before >> 20, after >> 20));
    assert!(after < before + (8 << 20), "memory grew while results could not be stored");
    assert!(
        jobs.stored_count("INFER_JOBS").await >= (count - ROOM - PERMITS) as u64,
        "jobs left the stream unanswered"
    );

    jobs.context.delete_stream("INFER_RESULTS").await.unwrap();
    until_it_holds(&jobs, &worker, "no stream found").await;
    jobs.context.create_stream(config).await.unwrap();
    until_ready(&mut worker).await;
    jobs.settled().await;
    let stored = jobs.stored_count("INFER_RESULTS").await;
    let second = jobs.results(stored as usize).await;
    chaos.tell(format!("recreated: {stored} results, {} retries", worker.count("publish_retries")));
    // A job whose result was stored before the stream was deleted may have one in the new stream only if its
    // acknowledgement was lost, and none was.
    assert!(ids(&first).is_disjoint(&ids(&second)));
    assert_eq!(ids(&first).len() + ids(&second).len(), count);
    assert_eq!(stored as usize, count - ROOM);
    first.iter().chain(&second).for_each(|answer| mlp.check(answer.id().parse().unwrap(), answer));
    assert_eq!(worker.count("duplicate_deliveries"), 0, "held jobs are kept alive");
    assert!(worker.terminate().success());
}
