use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long an engine instance has been inside its model. Written by its thread, read by whoever looks for one that does
/// not return.
#[derive(Debug)]
pub struct RunClock {
    /// What the other times count from.
    made: Instant,
    /// When the present run began, in milliseconds; 0 outside of runs.
    since: AtomicU64,
    /// The present run, or the last.
    run: AtomicU64,
    /// Above all runs of the other instances.
    base: u64,
}

/// Runs are numbered in blocks, one block for each instance: as many as a century of them.
const RUNS_PER_INSTANCE: u64 = 1 << 36;

impl RunClock {
    /// For the instance of this number, from 0: no two instances of a process share one.
    pub fn new(instance: u64) -> Self {
        let (since, run) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { made: Instant::now(), since, run, base: instance % (1 << 11) * RUNS_PER_INSTANCE }
    }

    /// A run begins. Returns its number, which the process gives once.
    pub fn start(&self) -> u64 {
        let run = self.base + self.run.fetch_add(1, Ordering::Relaxed) % (RUNS_PER_INSTANCE - 1) + 1;
        self.since.store(self.now().max(1), Ordering::Release);
        run
    }

    /// The run is over.
    pub fn stop(&self) {
        self.since.store(0, Ordering::Release);
    }

    /// The present run, if it has taken longer than `limit`.
    pub fn overdue(&self, limit: Duration) -> Option<u64> {
        let since = self.since.load(Ordering::Acquire);
        let taken = Duration::from_millis(self.now().saturating_sub(since));
        (since > 0 && taken > limit).then(|| self.base + self.run.load(Ordering::Relaxed))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_run_that_goes_on_is_overdue_and_it_is_named() {
        let clock = RunClock::new(3);
        assert_eq!(clock.overdue(Duration::ZERO), None);
        let run = clock.start();
        assert_eq!(clock.overdue(Duration::from_secs(3600)), None);
        while clock.overdue(Duration::ZERO).is_none() {}
        assert_eq!(clock.overdue(Duration::ZERO), Some(run));
        clock.stop();
        assert_eq!(clock.overdue(Duration::ZERO), None);
        assert_ne!(RunClock::new(2).start(), run);
    }
}
