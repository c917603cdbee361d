use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Bounds how many jobs are recorded per second. A recorded job costs several times as much as one that is not: senders
/// that mark every job as sampled should not slow the others down.
///
/// A bucket that holds a second's worth and is filled evenly: a burst is recorded whole, and of a flood jobs of all its time
/// rather than the first of each second.
#[derive(Debug)]
pub struct Limiter {
    /// What one job takes from the bucket, as the time to fill that in again, in nanoseconds. 0 for no limit.
    each: u64,
    began: Instant,
    /// When the bucket is full again, in nanoseconds from the beginning.
    full_at: AtomicU64,
    skipped: AtomicU64,
}

/// What the bucket holds.
const SECOND: u64 = 1_000_000_000;

impl Limiter {
    /// `per_second` 0 admits all.
    pub fn new(per_second: u32) -> Self {
        let each = SECOND.checked_div(u64::from(per_second)).unwrap_or(0);
        Self { each, began: Instant::now(), full_at: AtomicU64::new(0), skipped: AtomicU64::new(0) }
    }

    /// Whether one more may be recorded.
    pub fn admit(&self, now: Instant) -> bool {
        if self.each == 0 {
            return true;
        }
        let now = nanos(now.saturating_duration_since(self.began));
        let next = |full_at: u64| Some(full_at.max(now) + self.each).filter(|next| next - now <= SECOND);
        let admitted = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok();
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

/// Enough for 500 years.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(limiter: &Limiter, millis: u64, asked: usize) -> usize {
        let at = limiter.began + Duration::from_millis(millis);
        (0..asked).filter(|_| limiter.admit(at)).count()
    }

    #[test]
    fn so_many_at_once_and_so_many_a_second() {
        let limiter = Limiter::new(4);
        assert_eq!(admitted(&limiter, 0, 9), 4);
        assert_eq!((admitted(&limiter, 249, 9), admitted(&limiter, 250, 9)), (0, 1));
        assert_eq!((admitted(&limiter, 60_000, 9), limiter.skipped()), (4, 27), "no more is saved up than a second's");
        assert_eq!(admitted(&Limiter::new(0), 0, 1000), 1000);
        assert_eq!(admitted(&Limiter::new(1_000_000), 0, 1001), 1001);
    }

    #[test]
    fn of_a_flood_jobs_of_all_its_time_are_recorded() {
        let limiter = Limiter::new(100);
        let seconds: usize = (0..2000).map(|millis| admitted(&limiter, millis, 50)).sum();
        assert!((290..=300).contains(&seconds), "{seconds} in two seconds, and those of the full bucket");
        let tenths: Vec<usize> = (0..10).map(|tenth| admitted(&limiter, 2100 + 100 * tenth, 1000)).collect();
        assert!(tenths.iter().all(|tenth| (9..=11).contains(tenth)), "{tenths:?}");
    }
}
