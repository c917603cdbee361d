//! What the admin pages say.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use gristmill_integration::{Jobs, Nats, WorkerBuilder};

#[tokio::test]
async fn the_pages_tell_what_the_worker_does() {
    let nats = Nats::start();
    let worker = WorkerBuilder::new(&nats, &["mlp"]).set("limits.in_flight", 77).start();
    assert_eq!(worker.get("/livez").unwrap().0, 200);
    assert_eq!(worker.get("/readyz").unwrap(), (200, "ready\n".into()));
    assert_eq!(worker.get("/nothing").unwrap().0, 404);
    let jobs = Jobs::new(nats.jetstream().await);
    jobs.submit("mlp", "one", Jobs::body("x", &[3, 64], &[0.5; 192]), &[]).await;
    jobs.results(1).await;
    jobs.settled().await;
    let status = worker.status();
    assert_eq!((status["permits"]["limit"].as_u64(), status["ready"].as_bool()), (Some(77), Some(true)));
    assert_eq!(
        (status["models"][0]["name"].as_str(), status["models"][0]["device"].as_str()),
        (Some("mlp"), Some("cpu"))
    );
    assert_eq!((worker.count("batch_rows"), worker.count("batch_jobs"), worker.count("results")), (3, 1, 1));
}

#[tokio::test]
async fn a_worker_that_loses_its_broker_is_not_ready_until_it_is_back() {
    let mut nats = Nats::start();
    let mut worker = WorkerBuilder::new(&nats, &["mlp"]).start();
    nats.crash_and_restart();
    worker.process.wait_until(|process| process.log().contains("disconnected from NATS"));
    while worker.get("/readyz").is_none_or(|(code, _)| code != 200) {
        assert!(worker.process.ended().is_none());
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let jobs = Jobs::new(nats.jetstream().await);
    jobs.submit("mlp", "after", Jobs::body("x", &[1, 64], &[0.5; 64]), &[]).await;
    assert_eq!(jobs.results(1).await.len(), 1);
}
