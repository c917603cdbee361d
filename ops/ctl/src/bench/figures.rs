//! What a run came to. Pure.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Parts of a run that are compared with each other: one that still becomes slower is not what its rate comes to.
const WINDOWS: usize = 3;

/// The P99 of every part is at most this many times that of any other in a stable run.
const STABLE: f64 = 1.5;

/// Below this a P99 is not compared: two runs of nothing differ by more.
const FLOOR: Duration = Duration::from_millis(2);

/// The longest latency told apart, in microseconds.
const HOUR: u64 = 3_600_000_000;

/// Latencies of a run, in microseconds, 3 significant digits, by when the jobs were due.
pub(super) struct Tally {
    windows: [Histogram<u64>; WINDOWS],
    /// How late jobs were sent: the sender's own fault.
    late: Histogram<u64>,
    warm_up: Duration,
    measured: Duration,
    pub(super) answered: u64,
    pub(super) refused: u64,
}

/// A run, for tables and files. Latencies are in milliseconds, from when a job was due to when its answer was here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Figures {
    /// Jobs per second asked for.
    pub(super) rate: f64,
    /// Jobs answered with a result, of those that count.
    pub(super) answered: u64,
    /// Jobs answered with an error.
    pub(super) refused: u64,
    /// Jobs not answered in time.
    pub(super) unanswered: u64,
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
    pub(super) max: f64,
    /// Standard deviation. 0 in files of before it was measured.
    #[serde(default)]
    pub(super) stdev: f64,
    /// P99 of how late jobs were sent.
    pub(super) sent_late_p99: f64,
    /// All answered, and no part of the run much slower than another.
    pub(super) is_stable: bool,
}

impl Tally {
    /// `warm_up` does not count.
    pub(super) fn new(warm_up: Duration, measured: Duration) -> Self {
        let histogram = || Histogram::new_with_bounds(1, HOUR, 3).expect("the bounds and digits are allowed");
        Self {
            windows: std::array::from_fn(|_| histogram()),
            late: histogram(),
            warm_up,
            measured,
            answered: 0,
            refused: 0,
        }
    }

    fn window(&self, due: Duration) -> Option<usize> {
        let at = due.checked_sub(self.warm_up)?;
        Some((at.as_secs_f64() / self.measured.as_secs_f64() * WINDOWS as f64) as usize).filter(|at| *at < WINDOWS)
    }

    /// Whether a job that is due then counts.
    pub(super) fn counts(&self, due: Duration) -> bool {
        self.window(due).is_some()
    }

    /// A job was sent.
    pub(super) fn sent(&mut self, due: Duration, late: Duration) {
        if self.counts(due) {
            self.late.saturating_record(micros(late));
        }
    }

    /// A job was answered, `after` it was due.
    pub(super) fn answer(&mut self, due: Duration, after: Duration, is_ok: bool) {
        let Some(window) = self.window(due) else { return };
        if is_ok {
            self.windows[window].saturating_record(micros(after));
            self.answered += 1;
        } else {
            self.refused += 1;
        }
    }

    /// The end. `sent`: jobs that count.
    pub(super) fn figures(&self, rate: f64, sent: u64) -> Figures {
        let mut all = self.windows[0].clone();
        self.windows[1..].iter().for_each(|window| all += window);
        let millis = |histogram: &Histogram<u64>, part| histogram.value_at_quantile(part) as f64 / 1e3;
        let p99s = self.windows.each_ref().map(|window| millis(window, 0.99).max(FLOOR.as_secs_f64() * 1e3));
        let [least, most] = [f64::min, f64::max].map(|pick| p99s.into_iter().reduce(pick).unwrap_or_default());
        let unanswered = sent.saturating_sub(self.answered + self.refused);
        Figures {
            rate,
            answered: self.answered,
            refused: self.refused,
            unanswered,
            p50: millis(&all, 0.5),
            p90: millis(&all, 0.9),
            p99: millis(&all, 0.99),
            p999: millis(&all, 0.999),
            max: all.max() as f64 / 1e3,
            stdev: all.stdev() / 1e3,
            sent_late_p99: millis(&self.late, 0.99),
            is_stable: unanswered == 0 && most <= least * STABLE,
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(after: impl Fn(u64) -> u64) -> Figures {
        let mut tally = Tally::new(Duration::from_secs(1), Duration::from_secs(3));
        for n in 0..4000 {
            let due = Duration::from_millis(n);
            tally.sent(due, Duration::from_micros(5));
            tally.answer(due, Duration::from_millis(after(n)), true);
        }
        tally.figures(1000.0, 3000)
    }

    #[test]
    fn quantiles_are_of_what_counts() {
        // The first second is the warm-up.
        let figures = tally(|n| if n < 1000 { 900 } else { 10 + u64::from(n % 100 == 0) * 90 });
        assert_eq!((figures.answered, figures.unanswered, figures.is_stable), (3000, 0, true));
        assert_eq!([figures.p50, figures.p90, figures.p99].map(f64::round), [10.0; 3]);
        assert_eq!([figures.p999, figures.max].map(f64::round), [100.0; 2]);
        // One of a hundred is 90 off: 90 times the root of 0.01 * 0.99.
        assert_eq!(figures.stdev.round(), 9.0);
    }

    #[test]
    fn a_run_that_falls_behind_is_not_stable() {
        assert!(!tally(|n| n / 10).is_stable);
        let mut short = Tally::new(Duration::ZERO, Duration::from_secs(1));
        short.answer(Duration::ZERO, Duration::from_millis(1), true);
        short.answer(Duration::ZERO, Duration::from_millis(1), false);
        let figures = short.figures(3.0, 3);
        assert_eq!((figures.answered, figures.refused, figures.unanswered, figures.is_stable), (1, 1, 1, false));
    }
}
