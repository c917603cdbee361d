//! Long work and long runs: nothing is delivered twice, nothing grows.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::borrow::Cow;
use std::time::{Duration, Instant};

use gristmill_integration::{Chaos, Jobs, Mlp, Nats, Worker, WorkerBuilder};
use gristmill_schemas::{Datatype, JobBody, Shape, Tensor};

/// The shortest that the settings allow.
const ACK_WAIT: Duration = Duration::from_secs(1);

/// A job for the model `sluggish`, which multiplies so often.
fn sluggish(times: i64) -> Vec<u8> {
    let shape = Shape::try_new(&[1, 1]).unwrap();
    let data = Cow::Owned(times.to_le_bytes().to_vec());
    let input = Tensor { name: "x", datatype: Datatype::Int64, shape, data };
    JobBody { id: None, inputs: vec![input], outputs: None }.encode()
}

/// How long the engine took over each of the first so many jobs, in the order of their results.
async fn forwards(jobs: &Jobs, count: usize) -> Vec<Duration> {
    let answers = jobs.results(count).await;
    answers.iter().map(|answer| Duration::from_micros(answer.ok().parameters.infer_us)).collect()
}

/// Waits until so many jobs have come.
async fn until(worker: &Worker, received: usize) {
    let began = Instant::now();
    while worker.count("received") < received as u64 {
        assert!(began.elapsed() < Duration::from_secs(60), "the worker does not get {received} jobs");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// One forward is longer than ack_wait, so a worker that only kept alive between batches would be too late, for the job that runs and for
/// those that wait behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_run_or_wait_longer_than_ack_wait_are_not_delivered_again() {
    const PROBE: i64 = 100;
    // After so many, the worker takes as many more at once.
    const PROBES: usize = 20;
    const WAITING: usize = 10;
    const ALL: usize = PROBES + 1 + WAITING;
    let chaos = Chaos::begin("chaos_soak, long batch").await;
    let nats = Nats::start();
    let jobs = Jobs::new(nats.jetstream().await);
    let worker = WorkerBuilder::new(&nats, &["sluggish"]).set("streams.ack_wait_ms", ACK_WAIT.as_millis()).start();
    for id in 0..PROBES {
        jobs.submit("sluggish", &id.to_string(), sluggish(PROBE), &[]).await;
        jobs.until_stored(id as u64 + 1).await;
    }
    // The shortest is the least disturbed.
    let probe = forwards(&jobs, PROBES).await.into_iter().min().unwrap().as_micros().max(1);
    let times = PROBE * i64::try_from(3 * ACK_WAIT.as_micros() / probe).unwrap();
    jobs.submit("sluggish", &PROBES.to_string(), sluggish(times), &[]).await;
    until(&worker, PROBES + 1).await;
    for id in PROBES + 1..ALL {
        jobs.submit("sluggish", &id.to_string(), sluggish(1), &[]).await;
    }
    until(&worker, ALL).await;
    assert_eq!(jobs.stored_count("INFER_RESULTS").await, PROBES as u64, "the long job was done too soon");
    jobs.assert_exactly_once(ALL, |_, _| {}).await;
    let forward = forwards(&jobs, ALL).await[PROBES];
    let (deliveries, kept_alive) = (jobs.deliveries("sluggish").await, worker.count("keep_alives"));
    chaos.tell(format!("{times} products took {forward:?}; {deliveries} deliveries, {kept_alive} keep-alives"));
    assert!(forward > ACK_WAIT, "the forward took {forward:?} only");
    assert_eq!(deliveries, ALL as u64, "a job was delivered again");
    // Each is every third of a second, for three seconds.
    assert!(kept_alive > 4 * (1 + WAITING as u64), "{kept_alive} keep-alives");
}

/// Resident bytes and open files.
fn size(worker: &Worker) -> (u64, usize) {
    (worker.process.rss(), worker.process.open_files())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_run_keeps_its_memory_and_files() {
    const MIB: u64 = 1 << 20;
    let chaos = Chaos::begin("chaos_soak, long run").await;
    let count: usize = chaos.scale(60_000, 1_000_000);
    let (nats, mlp) = (Nats::start(), Mlp::load());
    let worker = WorkerBuilder::new(&nats, &["mlp"]).start();
    let jobs = Jobs::new(nats.jetstream().await);
    let warm = count / 5;
    jobs.submit_all("infer.jobs.mlp.online", (0..warm).map(|id| mlp.job(id))).await;
    jobs.drained().await;
    let (rss, files) = size(&worker);
    jobs.submit_all("infer.jobs.mlp.online", (warm..count).map(|id| mlp.job(id))).await;
    jobs.drained().await;
    let (rss_after, files_after) = size(&worker);
    let rate = (count as f64 / chaos.elapsed().as_secs_f64()).round();
    chaos.tell(format!(
        "{count} jobs, {rate} a second; from {warm} jobs on: {} -> {} MiB, {files} -> {files_after} open files",
        rss / MIB,
        rss_after / MIB
    ));
    jobs.assert_exactly_once(count, |id, answer| mlp.check(id, answer)).await;
    assert!(rss_after < rss + rss / 10 + 16 * MIB, "resident memory grew from {rss} to {rss_after} bytes");
    assert!(files_after.abs_diff(files) <= 2, "open files went from {files} to {files_after}");
    assert!(!worker.process.log().contains("the client dropped messages"), "a subscription was too slow");
    assert_eq!(worker.count("received"), count as u64, "jobs were delivered again");
}
