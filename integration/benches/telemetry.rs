//! What telemetry costs: throughput of the main job with everything exported to a real collector on the same cores, at 1 % and
//! at 100 % of the jobs recorded, the latter with the default limit on recorded jobs and without one, against a worker without
//! any that takes turns with it. Over HTTP, as by default, and over gRPC. The control, none against none, says how far the machine's noise goes.
//!
//! Then 10,000 jobs a second, a tenth of them recorded: whether every span reaches the collector. Then collectors that are away,
//! hang, refuse or are slow against one that is well.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints, and stops at what it does not expect")]

use std::time::{Duration, Instant};

use gristmill_integration::collector::sick::{Hanging, Refusing, Slow};
use gristmill_integration::{Collector, Jobs, Mlp, Nats, Speed, WorkerBuilder, free_port, median};
use gristmill_schemas::metric;

const JOBS: usize = 200_000;
const ROUNDS: usize = 6;

/// A way of exporting.
struct Mode {
    name: &'static str,
    /// Part of the jobs that is recorded.
    ratio: &'static str,
    /// Whether recorded jobs are limited as they are by default.
    is_limited: bool,
    is_grpc: bool,
}

const MODES: [Mode; 6] = [
    Mode { name: "metrics only", ratio: "0", is_limited: true, is_grpc: false },
    Mode { name: "1 % recorded", ratio: "0.01", is_limited: true, is_grpc: false },
    Mode { name: "1 % recorded, over gRPC", ratio: "0.01", is_limited: true, is_grpc: true },
    Mode { name: "100 % recorded", ratio: "1", is_limited: true, is_grpc: false },
    Mode { name: "100 % recorded, over gRPC", ratio: "1", is_limited: true, is_grpc: true },
    Mode { name: "100 % recorded, without a limit", ratio: "1", is_limited: false, is_grpc: false },
];

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mlp = Mlp::load();
    let collector = Collector::quiet();
    // One part alone, or some modes by number (0 is the control), for who is in a hurry.
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|arg| arg == "outages") {
        return outages(&mlp, &collector).await;
    }
    if args.iter().any(|arg| arg == "steady") {
        return steady(&mlp, &collector).await;
    }
    let chosen: Vec<usize> = args.iter().filter_map(|arg| arg.parse().ok()).collect();
    println!("{JOBS} jobs a run, {ROUNDS} rounds; ratios against off, turn by turn: rate / CPU of the worker");
    let off = |builder: WorkerBuilder| builder.env("OTEL_SDK_DISABLED", "true");
    for (number, mode) in std::iter::once(None).chain(MODES.iter().map(Some)).enumerate() {
        if !chosen.is_empty() && !chosen.contains(&number) {
            continue;
        }
        let on = |builder: WorkerBuilder| match mode {
            Some(mode) => export(builder, &collector, mode),
            None => off(builder),
        };
        let mut ratios = Vec::new();
        for round in 0..ROUNDS {
            let ratio = Speed::ratio(JOBS, &mlp, [&on, &off], round % 2 == 1).await;
            print!("{:.3}/{:.3} ", ratio.rate, ratio.cpu);
            ratios.push(ratio);
        }
        let (Speed { rate, cpu }, name) = (Speed::median(&ratios), mode.map_or("off, as a control", |mode| mode.name));
        println!("\n{name}: rate {rate:.3}, CPU {cpu:.3} (medians)");
    }
    if !chosen.is_empty() {
        return;
    }
    steady(&mlp, &collector).await;
    outages(&mlp, &collector).await;
}

/// 1 % recorded, for collectors of all kinds: throughput against one that is well, in the same round.
async fn outages(mlp: &Mlp, collector: &Collector) {
    const OUTAGE_ROUNDS: usize = 5;
    let (hanging, refusing) = (Hanging::start(), Refusing::start());
    let slow = Slow::start(collector.grpc_port(), Duration::from_millis(200));
    let away = format!("http://127.0.0.1:{}", free_port());
    let kinds = [
        ("well", collector.grpc_endpoint()),
        ("away", away),
        ("hanging", hanging.endpoint()),
        ("refusing", refusing.endpoint()),
        ("slow", slow.endpoint()),
    ];
    let mut ratios = vec![Vec::new(); kinds.len()];
    for round in 0..OUTAGE_ROUNDS {
        let mut rates = vec![0.0; kinds.len()];
        for turn in 0..kinds.len() {
            let kind = (turn + round) % kinds.len();
            let configure = |builder: WorkerBuilder| {
                let builder = builder.exporting("grpc", &kinds[kind].1).env("OTEL_METRIC_EXPORT_INTERVAL", 1000);
                builder.env("OTEL_TRACES_SAMPLER", "traceidratio").env("OTEL_TRACES_SAMPLER_ARG", "0.01")
            };
            rates[kind] = Speed::of_backlog(JOBS / 2, mlp, configure).await.0.rate;
        }
        ratios.iter_mut().zip(&rates).for_each(|(ratios, rate)| ratios.push(rate / rates[0]));
    }
    for ((name, _), ratios) in kinds.iter().zip(ratios).skip(1) {
        println!("a collector that is {name}: rate {:.4} of one that is well (median)", median(ratios));
    }
}

fn export(builder: WorkerBuilder, collector: &Collector, mode: &Mode) -> WorkerBuilder {
    // A worker that takes turns is held still half of the time, and what it may record in a second falls on the other half:
    // so half of the default.
    let limit = if mode.is_limited { 1000 } else { 0 };
    let builder = builder.set("telemetry.max_traces_per_s", limit);
    let builder = if mode.is_grpc {
        builder.exporting("grpc", &collector.grpc_endpoint())
    } else {
        builder.exporting("http/protobuf", &collector.http_endpoint())
    };
    builder.env("OTEL_TRACES_SAMPLER", "traceidratio").env("OTEL_TRACES_SAMPLER_ARG", mode.ratio)
}

async fn steady(mlp: &Mlp, collector: &Collector) {
    let nats = Nats::start();
    let mode = Mode { name: "10 % recorded", ratio: "0.1", is_limited: true, is_grpc: false };
    // Alone, it has all of the default.
    let builder = export(WorkerBuilder::new(&nats, &["mlp"]), collector, &mode).set("telemetry.max_traces_per_s", 2000);
    let worker = builder.start();
    let jobs = Jobs::new(nats.jetstream().await);
    let (began, mut sent) = (Instant::now(), 0);
    for second in 0..10 {
        for slice in 0..10u32 {
            let ids = sent..sent + 1000;
            jobs.submit_all("infer.jobs.mlp.online", ids.map(|id| mlp.job(id))).await;
            sent += 1000;
            let due = began + Duration::from_secs(second) + Duration::from_millis(100) * (slice + 1);
            tokio::time::sleep_until(due.into()).await;
        }
    }
    let rate = sent as f64 / began.elapsed().as_secs_f64();
    jobs.settled().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let [queued, exported] = [metric::SPANS_PROCESSED, metric::SPANS_EXPORTED].map(|metric| metric.prometheus());
    let dropped = worker.metric(&queued, "queue_full") + worker.metric(&exported, "export_failed");
    let all = worker.metric(&exported, "") - worker.metric(&exported, "export_failed");
    println!("{rate:.0} jobs/s, 10 % recorded: {all:.0} spans exported, {dropped:.0} dropped");
}
