//! What the crash ledger costs: throughput of the main job with it and without, in runs that follow each other, so that what
//! else the machine does falls on both.
//!
//! All jobs are stored before the worker starts; only broker and worker compete for the cores. The rate is that of stored
//! results, between the first and the last of them, by the server's own timestamps.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints, and stops at what it does not expect")]

use gristmill_integration::{Mlp, Speed, median};

const JOBS: usize = 100_000;
const ROUNDS: usize = 7;

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
    println!("medians: rate {:.4}, CPU {:.4}", median(ratios.iter().map(|r| r.0)), median(ratios.iter().map(|r| r.1)));
}

async fn measure(mlp: &Mlp, with_ledger: bool) -> Speed {
    let off = if with_ledger { None } else { Some("off") };
    Speed::of_backlog(JOBS, mlp, |builder| off.into_iter().fold(builder, |b, off| b.set("ledger.dir", off))).await.0
}
