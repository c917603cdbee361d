//! This build of the worker against another build, or against itself with other settings, turn by turn.
//!
//! `cargo bench -p gristmill-integration --bench compare -- target/release/other limits.in_flight=512`: the build of that path
//! with these settings is the other. It lies there, too, since binaries find libtorch by a path relative to their own. A key without a
//! dot and in capitals is a variable of the environment: `OTEL_SDK_DISABLED=true`.

#![allow(clippy::print_stdout, reason = "a bench prints")]

use gristmill_integration::{Mlp, Speed, WorkerBuilder};

const JOBS: usize = 200_000;
const ROUNDS: usize = 6;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mlp = Mlp::load();
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    if args.is_empty() {
        return println!("name a build or settings to compare with: cargo bench ... --bench compare -- PATH KEY=VALUE");
    }
    let this = |worker: WorkerBuilder| worker;
    let other = |worker: WorkerBuilder| {
        args.iter().fold(worker, |worker, arg| match arg.split_once('=') {
            Some((key, value)) if key.bytes().all(|byte| byte == b'_' || byte.is_ascii_uppercase()) => {
                worker.env(key, value)
            }
            Some((key, value)) => worker.set(key, value),
            None => worker.binary(arg),
        })
    };
    let mut ratios = Vec::new();
    for round in 0..ROUNDS {
        let ratio = Speed::ratio(JOBS, &mlp, [&this, &other], round % 2 == 1).await;
        println!("{:.3} {:.3}", ratio.rate, ratio.cpu);
        ratios.push(ratio);
    }
    let Speed { rate, cpu } = Speed::median(&ratios);
    println!("this build / the other: rate {rate:.3}, CPU per job {cpu:.3} (medians of {ROUNDS} rounds)");
}
