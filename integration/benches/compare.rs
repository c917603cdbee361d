//! This build of the worker against another one, at the same time on the same cores: what else the machine does falls on both
//! alike. `cargo bench -p gristmill-integration --bench compare -- target/release/other`; the other
//! lies there, too, since binaries find libtorch by a path relative to their own.

#![allow(clippy::print_stdout, reason = "a bench prints")]

use gristmill_integration::{Mlp, Speed, WorkerBuilder};

const JOBS: usize = 80_000;
const ROUNDS: usize = 5;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mlp = Mlp::load();
    let Some(other) = std::env::args().nth(1).filter(|arg| !arg.starts_with('-')) else {
        return println!("name another build to compare with: cargo bench ... --bench compare -- PATH");
    };
    let this = |worker: WorkerBuilder| worker;
    let other = |worker: WorkerBuilder| worker.binary(&other);
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let ratio = Speed::ratio(JOBS, &mlp, [&this, &other]).await;
        println!("{:.3} {:.3}", ratio.rate, ratio.cpu);
        ratios.push(ratio);
    }
    let Speed { rate, cpu } = Speed::median(&ratios);
    println!(
        "this build / the other: rate {rate:.3}, CPU per job {cpu:.3} (medians of {ROUNDS} rounds in both orders)"
    );
}
