//! What the crash ledger costs: throughput of the main job with it and without, in runs that follow each other, so that what
//! else the machine does falls on both.
//!
//! All jobs are stored before the worker starts; only broker and worker compete for the cores. The rate is that of stored
//! results, between the first and the last of them, by the server's own timestamps.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints, and stops at what it does not expect")]

use std::time::Duration;

use gristmill_integration::{Jobs, Mlp, Nats, WorkerBuilder, binary, run};

const JOBS: usize = 100_000;
const ROUNDS: usize = 7;

/// Jobs per second, and processor time of the worker in microseconds per job.
#[derive(Clone, Copy)]
struct Sample {
    rate: f64,
    cpu: f64,
}

/// Sums of two runs.
impl std::ops::Add for Sample {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { rate: self.rate + other.rate, cpu: self.cpu + other.cpu }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mlp = Mlp::load();
    println!("{JOBS} jobs a run, {ROUNDS} rounds of with, without, without, with: a drift falls on both alike");
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let first = measure(&mlp, true).await;
        let without = measure(&mlp, false).await + measure(&mlp, false).await;
        let with = first + measure(&mlp, true).await;
        let (rate, cpu) = (with.rate / without.rate, with.cpu / without.cpu);
        println!(
            "with {:>6.0} jobs/s, {:.1} us/job; without {:>6.0} jobs/s, {:.1} us/job; rate {rate:.4}, CPU {cpu:.4}",
            with.rate / 2.0,
            with.cpu / 2.0,
            without.rate / 2.0,
            without.cpu / 2.0
        );
        ratios.push((rate, cpu));
    }
    println!("medians: rate {:.4}, CPU {:.4}", median(&ratios, |r| r.0), median(&ratios, |r| r.1));
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
