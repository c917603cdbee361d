use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Which run an engine instance is in. Written by its thread, read by whoever looks for one that does not return.
#[derive(Debug)]
pub struct RunClock {
    /// The present run; 0 outside of runs.
    present: AtomicU64,
    /// Runs so far.
    count: AtomicU64,
    /// Above all runs of the other instances.
    base: u64,
    /// When the clock was made.
    began: Instant,
    /// Nanoseconds of all batches that have ended.
    busy: AtomicU64,
    /// Nanoseconds from `began` to the start of the present batch, and one; 0 between batches.
    since: AtomicU64,
    /// The most that was ever told: a look between the two steps of `end` must not go back.
    told: AtomicU64,
}

/// Runs are numbered in blocks, one block for each instance: as many as a century of them.
const RUNS_PER_INSTANCE: u64 = 1 << 36;

impl RunClock {
    /// For the instance of this number, from 0: no two instances of a process share one.
    pub fn new(instance: u64) -> Self {
        let [present, count, busy, since, told] = [0; 5].map(AtomicU64::new);
        Self {
            present,
            count,
            base: instance % (1 << 11) * RUNS_PER_INSTANCE,
            began: Instant::now(),
            busy,
            since,
            told,
        }
    }

    /// A run begins. Returns its number, which the process gives once, between 1 and 2^47.
    pub fn start(&self) -> u64 {
        let run = self.base + self.count.fetch_add(1, Ordering::Relaxed) % (RUNS_PER_INSTANCE - 1) + 1;
        self.present.store(run, Ordering::Release);
        run
    }

    /// The run is over.
    pub fn stop(&self) {
        self.present.store(0, Ordering::Release);
    }

    /// Work on a batch begins: all its runs, and what lies between them.
    pub fn begin(&self) {
        self.since.store(self.elapsed() + 1, Ordering::Relaxed);
    }

    /// The batch is done.
    pub fn end(&self) {
        let since = self.since.swap(0, Ordering::Relaxed);
        let took = if since > 0 { self.elapsed() + 1 - since } else { 0 };
        self.busy.fetch_add(took, Ordering::Relaxed);
    }

    /// Time spent on batches, the present one included.
    pub fn busy(&self) -> Duration {
        let since = self.since.load(Ordering::Relaxed);
        let present = if since > 0 { (self.elapsed() + 1).saturating_sub(since) } else { 0 };
        let busy = self.busy.load(Ordering::Relaxed).saturating_add(present);
        Duration::from_nanos(self.told.fetch_max(busy, Ordering::Relaxed).max(busy))
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX - 1)
    }

    /// The present run, if there is one.
    pub fn present(&self) -> Option<u64> {
        Some(self.present.load(Ordering::Acquire)).filter(|run| *run > 0)
    }
}

/// Finds runs that do not end, by looking again and again. A process that was held still for long has not been looked at
/// meanwhile, so that its runs are not blamed for it.
#[derive(Debug, Default)]
pub struct Looks {
    /// Each instance's run at the last look, and at how many looks in a row it was there.
    seen: Vec<(Option<u64>, u32)>,
}

impl Looks {
    /// Takes the instances' present runs. Returns the positions and numbers of those seen `limit` times in a row.
    pub fn look(&mut self, present: impl Iterator<Item = Option<u64>>, limit: u32) -> Vec<(usize, u64)> {
        let mut overdue = Vec::new();
        for (index, run) in present.enumerate() {
            if self.seen.len() <= index {
                self.seen.push((None, 0));
            }
            let (last, looks) = &mut self.seen[index];
            *looks = if run.is_some() && run == *last { *looks + 1 } else { 0 };
            *last = run;
            overdue.extend(run.filter(|_| *looks >= limit).map(|run| (index, run)));
        }
        overdue
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_numbered_once_and_known_while_they_last() {
        let clock = RunClock::new(3);
        assert_eq!(clock.present(), None);
        let run = clock.start();
        assert_eq!(clock.present(), Some(run));
        clock.stop();
        assert_eq!(clock.present(), None);
        assert!(clock.start() != run && RunClock::new(2).start() != run);
    }

    #[test]
    fn a_clock_is_busy_from_the_start_of_a_batch_to_its_end() {
        let clock = RunClock::new(0);
        assert_eq!(clock.busy(), Duration::ZERO);
        clock.begin();
        std::thread::sleep(Duration::from_millis(2));
        assert!(clock.busy() >= Duration::from_millis(2), "the present batch counts");
        clock.end();
        let busy = clock.busy();
        std::thread::sleep(Duration::from_millis(2));
        assert!(busy >= Duration::from_millis(2) && clock.busy() == busy, "idle time does not");
    }

    #[test]
    fn only_a_run_that_is_there_at_every_look_is_overdue() {
        let mut looks = Looks::default();
        let mut look = |runs: [Option<u64>; 3]| looks.look(runs.into_iter(), 2);
        assert!(look([None, Some(1), Some(5)]).is_empty());
        assert!(look([None, Some(1), Some(6)]).is_empty());
        assert_eq!(look([None, Some(1), Some(6)]), [(1, 1)]);
        assert_eq!(look([None, None, Some(6)]), [(2, 6)]);
    }
}
