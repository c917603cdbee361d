use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Bounds how many jobs are recorded per second. A recorded job costs about as much again as one that is not: senders that
/// mark every job as sampled should not slow the others down.
#[derive(Debug)]
pub struct Limiter {
    /// 0 for no limit.
    per_second: u32,
    began: Instant,
    /// The present second in the upper half, jobs recorded in it in the lower.
    window: AtomicU64,
    skipped: AtomicU64,
}

impl Limiter {
    /// `per_second` 0 admits all.
    pub fn new(per_second: u32) -> Self {
        Self { per_second, began: Instant::now(), window: AtomicU64::new(0), skipped: AtomicU64::new(0) }
    }

    /// Whether one more may be recorded.
    pub fn admit(&self, now: Instant) -> bool {
        if self.per_second == 0 {
            return true;
        }
        let second = now.saturating_duration_since(self.began).as_secs() << 32;
        let next = |window: u64| match window {
            window if window >> 32 != second >> 32 => Some(second + 1),
            window => (window as u32 as u64 != u64::from(self.per_second)).then_some(window + 1),
        };
        let admitted = self.window.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok();
        if !admitted {
            self.skipped.fetch_add(1, Ordering::Relaxed);
        }
        admitted
    }

    /// How many were not.
    pub fn skipped(&self) -> u64 {
        self.skipped.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn so_many_a_second_and_no_more() {
        let limiter = Limiter::new(3);
        let admitted = |at: Duration| (0..5).filter(|_| limiter.admit(limiter.began + at)).count();
        assert_eq!(admitted(Duration::ZERO), 3);
        assert_eq!(admitted(Duration::from_millis(999)), 0);
        assert_eq!((admitted(Duration::from_secs(1)), limiter.skipped()), (3, 9));
        assert!((0..1000).all(|_| Limiter::new(0).admit(Instant::now())));
    }
}
