//! `contest`: Gristmill beside others on this machine, in turn, on the same kind of broker. Prints medians and ratios, and keeps
//! them in `target/bench/`.

mod http;
mod latency;
mod plot;
mod report;
mod run;
mod scaling;
mod workload;

use clap::{Parser, ValueEnum};
use gristmill_integration::Collector;

use crate::report::Report;
use crate::run::Contestant;
use crate::workload::Workload;

/// Runs every contestant on every workload, in turn, and compares.
#[derive(Parser)]
struct Args {
    /// Only these workloads
    #[arg(long, value_delimiter = ',')]
    workloads: Vec<Workload>,
    /// Only these contestants
    #[arg(long, value_delimiter = ',')]
    contestants: Vec<Contestant>,
    /// Compare latencies at this many jobs per second instead
    #[arg(long, value_name = "JOBS")]
    latency: Option<f64>,
    /// Measure start, memory, several models, several workers, part of the load and idle engines instead
    #[arg(long)]
    scaling: bool,
    /// Runs of each
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// What cargo passes to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let of = |named: &[Workload]| if named.is_empty() { Workload::value_variants().to_vec() } else { named.to_vec() };
    let contestants = match &args.contestants[..] {
        [] => Contestant::value_variants().to_vec(),
        named => named.to_vec(),
    };
    if args.scaling {
        scaling::print(args.rounds).await;
        return Ok(());
    }
    let collector = Collector::quiet();
    if let Some(rate) = args.latency {
        for workload in of(&args.workloads) {
            latency::compare(workload, rate, args.rounds, &collector).await;
        }
        return Ok(());
    }
    let mut report = Report::default();
    for workload in of(&args.workloads) {
        for round in 0..args.rounds {
            for turn in 0..contestants.len() {
                // Another one begins each time: what else the machine does falls on all.
                let contestant = contestants[(turn + round) % contestants.len()];
                if !contestant.takes(workload) {
                    continue;
                }
                let figures = contestant.measure(workload, &collector).await;
                eprintln!("{} {} {figures:?}", workload.name(), contestant.name());
                report.add(workload, contestant, figures);
            }
        }
        report.print(workload);
    }
    report.save()
}
