//! What the crash ledger costs: throughput of the main job with it and without, in pairs of runs that follow each other, so
//! that what else the machine does falls on both.
//!
//! All jobs are stored before the worker starts; only broker and worker compete for the cores. The rate is that of stored
//! results, between the first and the last of them, by the server's own timestamps.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints, and stops at what it does not expect")]

use std::time::Duration;

use gristmill_integration::{Jobs, Mlp, Nats, WorkerBuilder, binary, run};

const JOBS: usize = 100_000;
const PAIRS: usize = 9;

/// Jobs per second, and processor time of the worker in microseconds per job.
struct Sample {
    rate: f64,
    cpu: f64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mlp = Mlp::load();
    println!("{JOBS} jobs a run, {PAIRS} pairs; with the ledger / without, each pair in changing order");
    let mut ratios = Vec::new();
    for pair in 0..PAIRS {
        let (with, without) = if pair % 2 == 0 {
            let with = measure(&mlp, true).await;
            (with, measure(&mlp, false).await)
        } else {
            let without = measure(&mlp, false).await;
            (measure(&mlp, true).await, without)
        };
        println!(
            "{:>8.0} / {:>8.0} jobs/s = {:.4}   CPU {:.2} / {:.2} us/job = {:.4}",
            with.rate,
            without.rate,
            with.rate / without.rate,
            with.cpu,
            without.cpu,
            with.cpu / without.cpu
        );
        ratios.push((with.rate / without.rate, with.cpu / without.cpu));
    }
    println!("median of the pairs: rate {:.4}, CPU {:.4}", median(&ratios, |r| r.0), median(&ratios, |r| r.1));
}

fn median(ratios: &[(f64, f64)], of: impl Fn(&(f64, f64)) -> f64) -> f64 {
    let mut values: Vec<f64> = ratios.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

async fn measure(mlp: &Mlp, with_ledger: bool) -> Sample {
    let nats = Nats::start();
    let set_up = run(&binary("gristmill"), &["--nats", &nats.url(), "setup", "--model", "mlp"], &[]);
    assert_eq!(set_up.code, 0, "{}", set_up.err);
    let jobs = Jobs::new(nats.jetstream().await);
    jobs.submit_all("infer.jobs.mlp.online", (0..JOBS).map(|id| mlp.job(id))).await;
    let builder = WorkerBuilder::new(&nats, &["mlp"]);
    let builder = if with_ledger { builder } else { builder.set("ledger.dir", "off") };
    let worker = builder.start();
    while jobs.stored_count("INFER_RESULTS").await < JOBS as u64 {
        // Asked rarely: asking costs, too.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let stream = jobs.context.get_stream("INFER_RESULTS").await.unwrap();
    let state = &stream.cached_info().state;
    let seconds = (state.last_timestamp - state.first_timestamp).as_seconds_f64();
    Sample { rate: JOBS as f64 / seconds, cpu: worker.process.cpu_seconds() * 1e6 / JOBS as f64 }
}
