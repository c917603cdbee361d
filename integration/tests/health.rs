//! Each cause that keeps a worker from being ready: `/readyz` names it, and turns by itself when it is gone. How long each took
//! is printed, not asserted.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a failing test may panic, and says what it measured")]

use std::time::{Duration, Instant};

use async_nats::jetstream::stream;
use gristmill_integration::{Jobs, Nats, Worker, WorkerBuilder};
use gristmill_schemas::{Datatype, JobBody, Shape, Tensor};

/// Waits until the worker is ready, or says this about why not.
async fn until(worker: &Worker, says: Option<&str>, what: &str) {
    let began = Instant::now();
    loop {
        let (code, why) = worker.get("/readyz").unwrap_or_default();
        let is_so = says.map_or(code == 200, |says| code == 503 && why.contains(says));
        if is_so {
            let check = ready_metric(worker);
            assert_eq!(check, says.is_none(), "the metric says the same");
            return println!("{what}: {} after {:.2} s", says.unwrap_or("ready"), began.elapsed().as_secs_f64());
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{what}: {code} {why}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Whether every check of `gristmill_ready` holds.
fn ready_metric(worker: &Worker) -> bool {
    let (_, page) = worker.get("/metrics").unwrap();
    let checks: Vec<&str> = page.lines().filter(|line| line.starts_with("gristmill_ready{")).collect();
    assert_eq!(checks.len(), 7, "{page}");
    checks.iter().all(|line| line.ends_with(" 1"))
}

#[tokio::test]
async fn a_broker_that_is_gone_is_named() {
    let mut nats = Nats::start();
    let worker = WorkerBuilder::new(&nats, &["mlp"]).start();
    nats.kill();
    until(&worker, Some("NATS is not connected"), "broker killed").await;
    assert_eq!(worker.get("/livez").unwrap(), (200, "alive\n".into()), "a restart would not mend it");
    nats.restart();
    until(&worker, None, "broker back").await;
}

#[tokio::test]
async fn a_consumer_that_is_gone_is_named() {
    let nats = Nats::start();
    let worker = WorkerBuilder::new(&nats, &["mlp"]).start();
    let stream = nats.jetstream().await.get_stream("INFER_JOBS").await.unwrap();
    stream.delete_consumer("mlp-bulk").await.unwrap();
    until(&worker, Some("consumers refuse pulls: mlp-bulk"), "consumer deleted").await;
    nats.set_up(&["--model", "mlp"]);
    until(&worker, None, "consumer back").await;
}

#[tokio::test]
async fn results_that_cannot_be_stored_are_named() {
    let nats = Nats::start();
    let worker = WorkerBuilder::new(&nats, &["mlp"]).start();
    let context = nats.jetstream().await;
    let config = context.get_stream("INFER_RESULTS").await.unwrap().cached_info().config.clone();
    context.delete_stream("INFER_RESULTS").await.unwrap();
    let jobs = Jobs::new(context.clone());
    jobs.submit("mlp", "one", Jobs::body("x", &[1, 64], &[0.5; 64]), &[]).await;
    until(&worker, Some("results cannot be stored"), "results stream deleted").await;
    context.create_stream(config).await.unwrap();
    until(&worker, None, "results stream back").await;
    assert_eq!(jobs.results(1).await.len(), 1);
}

#[tokio::test]
async fn a_stream_that_takes_the_results_of_another_is_named_and_gets_no_second_one() {
    let nats = Nats::start();
    let worker = WorkerBuilder::new(&nats, &["mlp"]).start();
    let jobs = Jobs::new(nats.jetstream().await);
    let context = &jobs.context;
    let config = context.get_stream("INFER_RESULTS").await.unwrap().cached_info().config.clone();
    context.delete_stream("INFER_RESULTS").await.unwrap();
    // Remembers no dedup id for long. Whoever reads results looks elsewhere.
    let (subjects, duplicate_window) = (config.subjects.clone(), Duration::from_millis(100));
    let other = stream::Config { name: "OTHER".into(), subjects, duplicate_window, ..Default::default() };
    context.create_stream(other).await.unwrap();
    jobs.submit("mlp", "one", Jobs::body("x", &[1, 64], &[0.5; 64]), &[]).await;
    until(&worker, Some("expected stream does not match"), "another stream there").await;
    assert!(worker.process.log().contains(r#"stream \"OTHER\" took it, \"INFER_RESULTS\" should have"#));
    let retries = worker.count("publish_retries");
    while worker.count("publish_retries") < retries + 3 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(jobs.stored_count("OTHER").await, 1, "the first attempt alone");
    assert_eq!(jobs.stored_count("INFER_JOBS").await, 1, "not acknowledged");
    context.delete_stream("OTHER").await.unwrap();
    context.create_stream(config).await.unwrap();
    until(&worker, None, "results stream back").await;
    assert_eq!(jobs.results(1).await.len(), 1);
}

#[tokio::test]
async fn a_start_and_a_drain_are_named() {
    let nats = Nats::start();
    let worker = WorkerBuilder::new(&nats, &["sluggish"]).launch();
    until(&worker, Some("models are not loaded yet"), "starting").await;
    until(&worker, None, "started").await;
    let jobs = Jobs::new(nats.jetstream().await);
    // The model multiplies matrices as often as its input says: some seconds, in which the worker drains.
    let data = 3000i64.to_le_bytes().to_vec();
    let shape = Shape::try_new(&[1, 1]).unwrap();
    let input = Tensor { name: "x", datatype: Datatype::Int64, shape, data: data.into() };
    let body = JobBody { id: None, inputs: vec![input], outputs: None }.encode();
    jobs.submit("sluggish", "long", body, &[]).await;
    while worker.status()["permits"]["in_flight"] != 1 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    worker.process.signal("TERM");
    until(&worker, Some("the worker is draining"), "told to end").await;
}
