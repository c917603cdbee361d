use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gristmill_telemetry::BoundHistogram;

/// How often the runtime is asked to wake us.
const INTERVAL: Duration = Duration::from_millis(250);

/// A runtime that did not wake us for this long is stuck: far above what a busy machine causes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Tells whether the runtime still runs its tasks. Beaten by a task of the runtime, read by the admin thread.
#[derive(Debug)]
pub struct Heartbeat {
    began: Instant,
    /// Milliseconds from `began` to the last beat.
    last: AtomicU64,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self { began: Instant::now(), last: AtomicU64::new(0) }
    }
}

impl Heartbeat {
    /// Beats for ever, and measures how late the runtime wakes a timer.
    pub async fn run(&self, lag: BoundHistogram<f64>) {
        loop {
            let due = Instant::now() + INTERVAL;
            tokio::time::sleep_until(due.into()).await;
            let now = Instant::now();
            lag.record(now.saturating_duration_since(due).as_secs_f64());
            self.beat(now);
        }
    }

    fn beat(&self, now: Instant) {
        let since = now.saturating_duration_since(self.began).as_millis();
        self.last.store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// How long the runtime has been silent, if that is too long.
    pub fn silence(&self, now: Instant) -> Option<Duration> {
        let last = self.began + Duration::from_millis(self.last.load(Ordering::Relaxed));
        Some(now.saturating_duration_since(last)).filter(|silence| *silence > PATIENCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_that_does_not_wake_its_tasks_is_silent() {
        let heart = Heartbeat::default();
        let now = heart.began + Duration::from_secs(100);
        assert_eq!(heart.silence(now), Some(Duration::from_secs(100)));
        heart.beat(now);
        assert_eq!(heart.silence(now + PATIENCE), None);
        assert!(heart.silence(now + PATIENCE + Duration::from_millis(1)).is_some());
    }
}
