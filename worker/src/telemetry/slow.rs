use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Most lines: one in this time.
const EVERY: Duration = Duration::from_secs(1);

/// Decides which slow jobs are logged.
#[derive(Debug)]
pub struct SlowLog {
    /// Longest time in the worker that is nothing to speak of; zero for any.
    threshold: Duration,
    /// Taken for slow jobs only, by the publish task alone.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: Option<Instant>,
    skipped: u64,
}

impl SlowLog {
    /// `threshold` zero logs none.
    pub fn new(threshold: Duration) -> Self {
        Self { threshold, state: Mutex::default() }
    }

    /// Whether to log a job that took this long: how many were slow and not logged before it.
    pub fn admit(&self, took: Duration, now: Instant) -> Option<u64> {
        if self.threshold.is_zero() || took < self.threshold {
            return None;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.last.is_some_and(|last| now.duration_since(last) < EVERY) {
            state.skipped += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.skipped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_job_a_second_is_logged_with_the_number_of_others() {
        let (log, now) = (SlowLog::new(Duration::from_millis(10)), Instant::now());
        let slow = Duration::from_millis(10);
        assert_eq!(log.admit(Duration::from_millis(9), now), None);
        assert_eq!(log.admit(slow, now), Some(0));
        assert_eq!((log.admit(slow, now), log.admit(slow, now + EVERY / 2)), (None, None));
        assert_eq!(log.admit(slow, now + EVERY), Some(2));
        assert_eq!(SlowLog::new(Duration::ZERO).admit(slow, now), None);
    }
}
