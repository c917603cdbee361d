use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use gristmill_telemetry::BoundHistogram;

/// Of so many times, one is measured.
const ONE_IN: u32 = 64;

/// How long something takes that is done for every job and is so short that to measure it each time would show.
#[derive(Debug)]
pub struct Sampled {
    times: AtomicU32,
    histogram: BoundHistogram<f64>,
}

impl Sampled {
    /// Measures into this histogram.
    pub(super) fn new(histogram: BoundHistogram<f64>) -> Self {
        Self { times: AtomicU32::new(0), histogram }
    }

    /// Counts one time. Whether it is to be measured: the first is, and every 64th from there.
    pub fn is_due(&self) -> bool {
        self.times.fetch_add(1, Ordering::Relaxed).is_multiple_of(ONE_IN)
    }

    /// It took this long.
    pub fn record(&self, took: Duration) {
        self.histogram.record(took.as_secs_f64());
    }
}
