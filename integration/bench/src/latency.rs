//! How long an answer takes under a fixed load, contestant by contestant.

use std::path::Path;

use gristmill_integration::{Collector, Nats, binary, median, run};
use serde::Deserialize;

use crate::run::Contestant;
use crate::workload::Workload;

/// What `gristmill bench` says of one run, in milliseconds.
#[derive(Debug, Clone, Copy, Deserialize)]
struct Run {
    p50: f64,
    p99: f64,
    p999: f64,
    sent_late_p99: f64,
    unanswered: u64,
    refused: u64,
}

/// Who is measured: raw libtorch has no queue to wait in.
const WHO: [Contestant; 3] = [Contestant::Relay, Contestant::Python, Contestant::Gristmill];

/// Runs each in turn at this rate, and prints medians and what they add to the relay's.
#[allow(clippy::print_stdout, reason = "a bench prints")]
pub async fn compare(workload: Workload, rate: f64, rounds: usize, collector: &Collector) {
    let body = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    std::fs::write(body.path(), workload.body(0)).expect("it can be written to");
    let mut runs = WHO.map(|_| Vec::new());
    for round in 0..rounds {
        for turn in 0..WHO.len() {
            let who = (turn + round) % WHO.len();
            let run = measure(WHO[who], workload, rate, body.path(), collector).await;
            eprintln!("{} {} {run:?}", workload.name(), WHO[who].name());
            runs[who].push(run);
        }
    }
    let of = |who: usize, field: fn(&Run) -> f64| median(runs[who].iter().map(field));
    println!("\n{} at {rate} jobs/s, Poisson: medians of {rounds} runs, ms (and more than the relay)", workload.name());
    println!("{:<14} {:>18} {:>18} {:>18} {:>14} {:>8}", "", "P50", "P99", "P99.9", "sent late P99", "failed");
    for (who, contestant) in WHO.iter().enumerate() {
        let fields: [fn(&Run) -> f64; 3] = [|run| run.p50, |run| run.p99, |run| run.p999];
        let cell = |field| format!("{:.2} ({:+.2})", of(who, field), of(who, field) - of(0, field));
        let [p50, p99, p999] = fields.map(cell);
        let failed: u64 = runs[who].iter().map(|run| run.unanswered + run.refused).sum();
        let late = of(who, |run| run.sent_late_p99);
        println!("{:<14} {p50:>18} {p99:>18} {p999:>18} {late:>14.2} {failed:>8}", contestant.name());
    }
}

async fn measure(who: Contestant, workload: Workload, rate: f64, body: &Path, collector: &Collector) -> Run {
    let nats = Nats::start();
    let url = nats.url();
    nats.set_up(&["--model", workload.model()]);
    let _running = who.start(workload, &nats, collector);
    let (body, rate) = (body.display().to_string(), rate.to_string());
    let args = ["--nats", &url, "bench", workload.model(), "--raw", &body, "--rate", &rate, "--json-output"];
    // The warm-up is also the contestant's time to start.
    let args: Vec<&str> = args.into_iter().chain(["--warm-up", "8", "--seconds", "10"]).collect();
    let ended = tokio::task::spawn_blocking({
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        move || run(&binary("gristmill"), &args.iter().map(String::as_str).collect::<Vec<_>>(), &[])
    });
    let ended = ended.await.expect("it does not panic");
    let runs: Vec<Run> = serde_json::from_slice(&ended.out).unwrap_or_else(|_| panic!("{}", ended.err));
    runs[0]
}
