//! How large batches are made.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::time::Duration;

use gristmill_integration::{Jobs, Nats, WorkerBuilder, f32s};

/// Of a model whose batches take four times as long when they are twice as large: the rows of the batch of each of the last
/// thousand of these jobs, and the knee that the worker shows.
async fn batches(model: &str, count: usize) -> (Vec<u64>, f64) {
    let nats = Nats::start();
    nats.set_up(&["--model", model]);
    let jobs = Jobs::new(nats.jetstream().await);
    let bodies = (0..count).map(|job| (job.to_string(), Jobs::body("x", &[1, 1], &[job as f32])));
    // All wait before the first runs: batches are as large as they may be.
    jobs.submit_all(&format!("infer.jobs.{model}.bulk"), bodies).await;
    let worker = WorkerBuilder::new(&nats, &[model]).start();
    let mut rows = Vec::new();
    for answer in jobs.results(count).await {
        let result = answer.ok();
        assert_eq!(f32s(&result, "y"), [answer.id().parse::<f32>().unwrap()]);
        rows.push(result.parameters.batch_rows);
    }
    let mut last = rows.split_off(count - 1000);
    last.sort_unstable();
    (last, worker.metric("gristmill_batch_knee", model))
}

#[tokio::test]
async fn batches_end_where_more_rows_yield_no_more() {
    let (rows, knee) = batches("crowded", 8000).await;
    // One row is one element. At 256 rows a second has a fifth of the rows that it has at 16.
    assert!((1.0..128.0).contains(&knee), "a knee at {knee} elements");
    assert!(rows[500] < 128, "half of the last jobs were in batches of {} rows and more", rows[500]);
}

#[tokio::test]
async fn where_no_knee_is_wanted_batches_grow_to_the_most_rows() {
    let (rows, knee) = batches("unlearned", 8000).await;
    assert_eq!((knee, rows.last()), (0.0, Some(&256)), "no knee is shown");
}

/// Bulk jobs that wait while online jobs come, of a model each of whose rows costs the same: the rows of the batches that they
/// were in.
async fn bulk_beside_online(model: &str) -> Vec<u64> {
    const BULK: usize = 200;
    let nats = Nats::start();
    let _worker = WorkerBuilder::new(&nats, &[model]).start();
    let jobs = Jobs::new(nats.jetstream().await);
    let submit = async |lane: &str, ids: std::ops::Range<usize>| {
        let bodies = ids.map(|job| (job.to_string(), Jobs::body("x", &[1, 1], &[job as f32])));
        jobs.submit_all(&format!("infer.jobs.{model}.{lane}"), bodies).await;
    };
    // From these the worker learns what a run costs.
    submit("online", 0..20).await;
    jobs.results(20).await;
    submit("online", 20..21).await;
    submit("bulk", 1000..1000 + BULK).await;
    let mut online = 21;
    // As long as any bulk job waits, so that online jobs are expected.
    while (jobs.stored_count("INFER_RESULTS").await as usize) < online + BULK {
        submit("online", online..online + 1).await;
        online += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let answers = jobs.results(online + BULK).await;
    let bulk = answers.iter().filter(|answer| answer.id().parse::<usize>().unwrap() >= 1000);
    let mut rows: Vec<u64> = bulk.map(|answer| answer.ok().parameters.batch_rows).collect();
    rows.sort_unstable();
    rows
}

#[tokio::test]
async fn while_online_jobs_come_bulk_jobs_fill_no_long_run() {
    // A row takes some milliseconds, a run is to take 10.
    let rows = bulk_beside_online("prompt").await;
    assert!(rows[100] < 32, "half of the bulk jobs were in batches of {} rows and more", rows[100]);
}

#[tokio::test]
async fn where_online_jobs_have_no_target_bulk_jobs_fill_their_batches() {
    assert_eq!(bulk_beside_online("patient").await.last(), Some(&64));
}

#[tokio::test]
async fn a_worker_leaves_to_the_stream_what_its_engines_do_not_run_soon() {
    const JOBS: usize = 800;
    let nats = Nats::start();
    nats.set_up(&["--model", "slow"]);
    let jobs = Jobs::new(nats.jetstream().await);
    let bodies = (0..JOBS).map(|job| (job.to_string(), Jobs::body("x", &[1, 1], &[1.0])));
    jobs.submit_all("infer.jobs.slow.online", bodies).await;
    // A run of 8 rows takes some tens of milliseconds: 8 batches may wait, and some jobs are on their way.
    let worker = WorkerBuilder::new(&nats, &["slow"]).set("models.threads", 1).start();
    let mut most = 0;
    while (jobs.stored_count("INFER_RESULTS").await as usize) < JOBS {
        most = worker.status()["permits"]["in_flight"].as_u64().unwrap().max(most);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!((16..200).contains(&most), "{most} jobs were in flight");
    let full = jobs.results(JOBS).await.iter().filter(|answer| answer.ok().parameters.batch_rows == 8).count();
    assert!(full > JOBS * 3 / 4, "{full} of {JOBS} jobs were in full batches");
}
