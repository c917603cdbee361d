//! A collector that is away, silent, slow, refusing or restarted: no job waits for it, the worker ends in its own time, and
//! what was dropped is counted.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a failing test may panic, and says what it measured")]

use std::time::Instant;

use gristmill_integration::collector::sick::{Hanging, Refusing, Resetting, Slow};
use gristmill_integration::{Collector, Jobs, Mlp, Nats, Worker, WorkerBuilder, free_port};
use gristmill_schemas::metric;

const JOBS: usize = 3000;

struct Scene {
    nats: Nats,
    worker: Worker,
    mlp: Mlp,
}

/// A worker that records every job for a collector at this endpoint, with a small queue and little patience.
fn scene(protocol: &str, endpoint: &str) -> Scene {
    let nats = Nats::start();
    let builder = WorkerBuilder::new(&nats, &["mlp"]).exporting(protocol, endpoint);
    let builder = builder.env("OTEL_TRACES_SAMPLER", "always_on").env("OTEL_BSP_MAX_QUEUE_SIZE", 1000);
    let builder = builder.env("OTEL_EXPORTER_OTLP_TIMEOUT", 500).env("OTEL_METRIC_EXPORT_INTERVAL", 500);
    Scene { worker: builder.start(), mlp: Mlp::load(), nats }
}

impl Scene {
    async fn answer(&self, first: usize) {
        let jobs = Jobs::new(self.nats.jetstream().await);
        jobs.submit_all("infer.jobs.mlp.online", (first..first + JOBS).map(|id| self.mlp.job(id))).await;
        jobs.settled().await;
    }

    /// Spans dropped before and in export, by the worker's own word.
    fn dropped(&self) -> f64 {
        let of = |metric: metric::Metric, label| self.worker.metric(&metric.prometheus(), label);
        of(metric::SPANS_PROCESSED, "queue_full") + of(metric::SPANS_EXPORTED, "export_failed")
    }

    /// Waits until the collector is known not to take spans.
    async fn wait_for_failure(&self) {
        while self.worker.metric(&metric::SPANS_EXPORTED.prometheus(), "export_failed") == 0.0 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    /// Every job has its one right answer; the worker ends well, telemetry or not.
    async fn end(mut self, what: &str, jobs: usize) {
        let stored = Jobs::new(self.nats.jetstream().await);
        stored.assert_exactly_once(jobs, |id, answer| self.mlp.check(id, answer)).await;
        let (began, dropped) = (Instant::now(), self.dropped());
        assert!(self.worker.terminate().success(), "{}", self.worker.process.log());
        println!("{what}: {dropped} spans dropped, ended in {:.2} s", began.elapsed().as_secs_f64());
        assert!(self.worker.process.log().contains("drained"));
    }
}

/// Names of the threads of a process, and how nice they are (field 19 of `stat`, see proc(5)).
fn threads(process: u32) -> Vec<(String, i32)> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("stat")).ok());
    let read = |stat: String| {
        let (name, fields) = stat.split_once('(').unwrap().1.rsplit_once(')').unwrap();
        (name.to_owned(), fields.split_whitespace().nth(16).unwrap().parse().unwrap())
    };
    stats.map(read).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn threads_that_export_yield_to_those_that_work_on_jobs() {
    let scene = scene("grpc", &format!("http://127.0.0.1:{}", free_port()));
    let threads = threads(scene.worker.process.id());
    let nice = |prefix: &str| -> Vec<i32> {
        threads.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, nice)| *nice).collect()
    };
    // Names are cut to 15 bytes. Whoever runs the test may be nice already.
    let usual = nice("gristmill-worke")[0];
    // Traces, metrics, logs.
    assert_eq!((nice("OpenTelemetry"), nice("telemetry")), (vec![usual + 10; 3], vec![usual + 10]), "{threads:?}");
    let working = [nice("runtime"), nice("engine"), nice("tracing-app")].concat();
    assert!(working.len() >= 3 && working.iter().all(|nice| *nice == usual), "{threads:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_costs_spans_only() {
    for protocol in ["grpc", "http/protobuf"] {
        let scene = scene(protocol, &format!("http://127.0.0.1:{}", free_port()));
        scene.answer(0).await;
        scene.wait_for_failure().await;
        let log = scene.worker.process.log();
        let told = log.lines().filter(|line| line.contains("the collector does not take this")).count();
        assert!((1..=3).contains(&told), "once for each signal: {log}");
        scene.end(&format!("away, {protocol}"), JOBS).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_never_answers_costs_spans_only() {
    for protocol in ["grpc", "http/protobuf"] {
        let hanging = Hanging::start();
        let scene = scene(protocol, &hanging.endpoint());
        scene.answer(0).await;
        scene.wait_for_failure().await;
        assert!(hanging.connections() > 0);
        scene.end(&format!("hanging, {protocol}"), JOBS).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_refuses_costs_spans_only() {
    for protocol in ["grpc", "http/protobuf"] {
        let refusing = Refusing::start();
        let scene = scene(protocol, &refusing.endpoint());
        scene.answer(0).await;
        scene.wait_for_failure().await;
        assert!(refusing.requests() > 0);
        scene.end(&format!("refusing, {protocol}"), JOBS).await;
    }
    let resetting = Resetting::start();
    let scene = scene("http/protobuf", &resetting.endpoint());
    scene.answer(0).await;
    scene.wait_for_failure().await;
    scene.end("resetting", JOBS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_collector_costs_spans_at_most() {
    let mut collector = Collector::start();
    let slow = Slow::start(collector.grpc_port(), std::time::Duration::from_millis(200));
    let scene = scene("grpc", &slow.endpoint());
    scene.answer(0).await;
    scene.end("slow", JOBS).await;
    assert!(!collector.received().spans.is_empty() || slow.connections() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_comes_back_receives_what_happens_then() {
    let mut collector = Collector::start();
    let scene = scene("grpc", &collector.grpc_endpoint());
    collector.wait_for("the first metrics", |received| !received.metrics.is_empty()).await;
    collector.stop();
    scene.answer(0).await;
    scene.wait_for_failure().await;
    collector.restart();
    let before = collector.received().spans.len();
    let mut scene = scene;
    scene.answer(JOBS).await;
    collector.wait_for("spans again", |received| received.spans.len() > before).await;
    scene.worker.process.wait_until(|process| process.log().contains("the collector takes this again"));
    scene.end("restarted", 2 * JOBS).await;
}
