use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use opentelemetry_sdk::error::OTelSdkResult;

/// What can be exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    Traces,
    Metrics,
    Logs,
}

impl Signal {
    pub const ALL: [Self; 3] = [Self::Traces, Self::Metrics, Self::Logs];

    /// As in the names of variables.
    pub fn upper(self) -> &'static str {
        ["TRACES", "METRICS", "LOGS"][self as usize]
    }

    /// As in messages.
    pub fn lower(self) -> &'static str {
        ["traces", "metrics", "logs"][self as usize]
    }
}

/// How many items of one signal the collector took. Written by its exporter, read by the metrics' callbacks.
#[derive(Debug)]
pub struct Exports {
    signal: Signal,
    taken: AtomicU64,
    lost: AtomicU64,
    is_failing: AtomicBool,
}

impl Exports {
    pub fn new(signal: Signal) -> Arc<Self> {
        let (taken, lost, is_failing) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
        Arc::new(Self { signal, taken, lost, is_failing })
    }

    /// Taken, and not taken.
    pub fn totals(&self) -> [u64; 2] {
        [&self.taken, &self.lost].map(|total| total.load(Ordering::Relaxed))
    }

    /// Takes the end of one export down. Says once when the collector stops taking, and once when it takes again: an
    /// outage of hours is two lines.
    pub fn count(&self, items: u64, result: &OTelSdkResult) {
        let total = if result.is_ok() { &self.taken } else { &self.lost };
        total.fetch_add(items, Ordering::Relaxed);
        let was_failing = self.is_failing.swap(result.is_err(), Ordering::Relaxed);
        let signal = self.signal.lower();
        match result {
            Err(error) if !was_failing => {
                tracing::warn!(signal, %error, "the collector does not take this, it is dropped and counted");
            }
            Ok(()) if was_failing => tracing::info!(signal, "the collector takes this again"),
            _ => {}
        }
    }
}
