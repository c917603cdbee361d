//! What one job costs in the ledger: entered, running, run, cleared, its place taken back. In nanoseconds, to be held against
//! the time a worker spends on a job (`make bench` of `integration/` prints it).

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints, and stops at what it does not expect")]

use std::time::{Duration, Instant};

use gristmill_ledger::Ledger;

const JOBS: u64 = 2_000_000;

/// As many jobs as a worker holds at once by default, so that the places are spread as they are there.
const OPEN: usize = 2048;

fn main() {
    let dir = tempfile::TempDir::new().unwrap();
    let (mut ledger, _) = Ledger::claim(dir.path(), "bench", OPEN, Duration::from_secs(30)).unwrap();
    let ack = "$JS.ACK.INFER_JOBS.mlp-online.1.1234567.1234567.1700000000000000000.100000";
    let mut rounds: Vec<f64> = (0..7).map(|_| round(&mut ledger, ack)).collect();
    rounds.sort_by(f64::total_cmp);
    println!("{:.0} ns per job, median of {} rounds of {JOBS} jobs", rounds[rounds.len() / 2], rounds.len());
}

fn round(ledger: &mut Ledger, ack: &str) -> f64 {
    let mut open = std::collections::VecDeque::with_capacity(OPEN);
    let began = Instant::now();
    for sequence in 0..JOBS {
        if open.len() == OPEN {
            let mut slot: gristmill_ledger::Slot = open.pop_front().unwrap();
            slot.run(1 + sequence / 64, true);
            slot.ran();
            slot.clear();
            ledger.close(&slot);
        }
        open.push_back(ledger.open(sequence, ack).unwrap());
    }
    let taken = began.elapsed();
    open.iter_mut().for_each(gristmill_ledger::Slot::clear);
    open.iter().for_each(|slot| ledger.close(slot));
    taken.as_nanos() as f64 / JOBS as f64
}
