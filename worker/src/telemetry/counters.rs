use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, Value};

/// What is counted or measured. The closed set: `/status` shows each under its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names below say it")]
pub enum Count {
    Received,
    DuplicateDeliveries,
    Refused,
    Expired,
    Batches,
    BatchRows,
    BatchJobs,
    RunErrors,
    Results,
    DuplicateResults,
    DeadLetters,
    PublishRetries,
    Acked,
    Terminated,
    GivenBack,
    KeepAlives,
    Swept,
    PullsLost,
    Panics,
    Rebuilds,
    OutOfMemory,
    SoloRuns,
    Quarantined,
    Recovered,
    Returned,
    ClientRebuilds,
    ForcedReconnects,
}

/// Every [`Count`] with its name. Lower case, as in JSON.
const NAMES: [(Count, &str); 27] = [
    (Count::Received, "received"),
    (Count::DuplicateDeliveries, "duplicate_deliveries"),
    (Count::Refused, "refused"),
    (Count::Expired, "expired"),
    (Count::Batches, "batches"),
    (Count::BatchRows, "batch_rows"),
    (Count::BatchJobs, "batch_jobs"),
    (Count::RunErrors, "run_errors"),
    (Count::Results, "results"),
    (Count::DuplicateResults, "duplicate_results"),
    (Count::DeadLetters, "dead_letters"),
    (Count::PublishRetries, "publish_retries"),
    (Count::Acked, "acked"),
    (Count::Terminated, "terminated"),
    (Count::GivenBack, "given_back"),
    (Count::KeepAlives, "keep_alives"),
    (Count::Swept, "swept"),
    (Count::PullsLost, "pulls_lost"),
    (Count::Panics, "panics"),
    (Count::Rebuilds, "rebuilds"),
    (Count::OutOfMemory, "out_of_memory"),
    (Count::SoloRuns, "solo_runs"),
    (Count::Quarantined, "quarantined"),
    (Count::Recovered, "recovered"),
    (Count::Returned, "returned"),
    (Count::ClientRebuilds, "client_rebuilds"),
    (Count::ForcedReconnects, "forced_reconnects"),
];

/// Totals since start.
#[derive(Debug, Default)]
pub struct Counters([AtomicU64; NAMES.len()]);

impl Counters {
    /// Adds to a total.
    pub fn add(&self, count: Count, n: u64) {
        self.0[count as usize].fetch_add(n, Ordering::Relaxed);
    }

    /// Adds one.
    pub fn inc(&self, count: Count) {
        self.add(count, 1);
    }

    /// A total.
    pub fn get(&self, count: Count) -> u64 {
        self.0[count as usize].load(Ordering::Relaxed)
    }

    /// All totals, by name.
    pub fn snapshot(&self) -> Map<String, Value> {
        NAMES.iter().map(|&(count, name)| (name.to_owned(), self.get(count).into())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_count_is_shown_under_its_own_name() {
        for (index, (count, _)) in NAMES.iter().enumerate() {
            assert_eq!(*count as usize, index);
        }
        let counters = Counters::default();
        counters.add(Count::BatchRows, 3);
        assert_eq!(counters.snapshot()["batch_rows"], 3);
    }
}
