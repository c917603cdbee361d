//! Results that are sent together are confirmed together, where the results stream allows it.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::time::Duration;

use async_nats::Subscriber;
use async_nats::jetstream::Context;
use async_nats::jetstream::stream::Config;
use futures_util::StreamExt;
use gristmill_integration::{Jobs, Mlp, Nats, WorkerBuilder};

const JOBS: usize = 3000;

/// A broker with jobs that wait, and a subscription that sees every result as it is sent.
struct Scene {
    nats: Nats,
    jobs: Jobs,
    mlp: Mlp,
    sent: Subscriber,
}

impl Scene {
    async fn with_backlog() -> Self {
        Self::with_backlog_on(Nats::start()).await
    }

    async fn with_backlog_on(nats: Nats) -> Self {
        let mlp = Mlp::load();
        nats.set_up(&["--model", "mlp"]);
        let (jobs, client) = (Jobs::new(nats.jetstream().await), nats.client().await);
        let sent = client.subscribe("infer.results.>").await.unwrap();
        client.flush().await.unwrap();
        jobs.submit_all("infer.jobs.mlp.online", (0..JOBS).map(|id| mlp.job(id))).await;
        Self { nats, jobs, mlp, sent }
    }

    /// How many of the next results were sent together with others: where the server is to answer says so.
    async fn together(&mut self, count: usize) -> usize {
        let mut together = 0;
        for index in 0..count {
            let message = tokio::time::timeout(Duration::from_secs(60), self.sent.next()).await;
            let message = message.unwrap_or_else(|_| panic!("{index} results came")).unwrap();
            together += usize::from(message.reply.is_some_and(|reply| reply.ends_with(".$FI")));
        }
        together
    }

    async fn finish(&self, jobs: usize) {
        self.jobs.assert_exactly_once(jobs, |id, answer| self.mlp.check(id, answer)).await;
    }
}

async fn allow(context: &Context, allow_batch_publish: bool) {
    let config = context.get_stream("INFER_RESULTS").await.unwrap().cached_info().config.clone();
    assert_ne!(config.allow_batch_publish, allow_batch_publish);
    context.update_stream(Config { allow_batch_publish, ..config }).await.unwrap();
}

#[tokio::test]
async fn results_of_a_backlog_are_confirmed_together() {
    let mut scene = Scene::with_backlog().await;
    let worker = WorkerBuilder::new(&scene.nats, &["mlp"]).start();
    let together = scene.together(JOBS).await;
    assert!(together > JOBS / 2, "{together} of {JOBS} results were sent together with others");
    scene.finish(JOBS).await;
    let counts = ["results", "duplicate_results", "publish_retries"].map(|name| worker.count(name));
    assert_eq!(counts, [JOBS as u64, 0, 0]);
}

#[tokio::test]
async fn where_the_stream_does_not_allow_it_each_is_confirmed_by_itself() {
    let mut scene = Scene::with_backlog().await;
    allow(&scene.jobs.context, false).await;
    let worker = WorkerBuilder::new(&scene.nats, &["mlp"]).start();
    assert_eq!(scene.together(JOBS).await, 0);
    scene.finish(JOBS).await;
    assert!(worker.process.log().contains("allow_batched"), "said at the start");
}

#[tokio::test]
async fn a_stream_that_allows_it_no_longer_loses_nothing() {
    let mut scene = Scene::with_backlog().await;
    let worker = WorkerBuilder::new(&scene.nats, &["mlp"]).start();
    scene.together(JOBS).await;
    scene.jobs.settled().await;
    allow(&scene.jobs.context, false).await;
    let more = (JOBS..2 * JOBS).map(|id| scene.mlp.job(id));
    scene.jobs.submit_all("infer.jobs.mlp.online", more).await;
    scene.finish(2 * JOBS).await;
    assert!(worker.process.log().contains("batch publish is disabled"), "none was sent together with others");
    assert_eq!(worker.count("duplicate_results"), 0);
}

#[tokio::test]
async fn a_result_that_the_client_does_not_take_leaves_its_company_unharmed() {
    let config = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&config, "max_payload: 4096").unwrap();
    let nats = Nats::start_with(&["-js", "-c", config.path().to_str().unwrap()]);
    let mut scene = Scene::with_backlog_on(nats).await;
    // With this header a job is within the limit, and its result, which has more of them and takes this one along at first, is not.
    let baggage = format!("k={}", "x".repeat(3650));
    scene.jobs.submit("mlp", "wide", scene.mlp.job(0).1, &[("baggage", &baggage)]).await;
    let more = (JOBS..2 * JOBS).map(|id| scene.mlp.job(id));
    scene.jobs.submit_all("infer.jobs.mlp.online", more).await;
    let worker = WorkerBuilder::new(&scene.nats, &["mlp"]).start();
    assert!(scene.together(JOBS).await > JOBS / 2);
    for answer in scene.jobs.results(2 * JOBS + 1).await {
        let sample = if answer.id() == "wide" { 0 } else { answer.id().parse().unwrap() };
        scene.mlp.check(sample, &answer);
    }
    scene.jobs.settled().await;
    assert_eq!(scene.jobs.stored_count("INFER_RESULTS").await, 2 * JOBS as u64 + 1, "without the baggage it fits");
    assert!(worker.process.log().contains("the client did not take all of them"), "it was sent with others");
    assert_eq!(worker.count("given_back"), 0);
}
