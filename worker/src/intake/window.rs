//! How many jobs of one consumer this worker holds: what is on its way and being answered, and as many waiting as its engines can use
//! soon. More would only lie here: in memory gone cold, out of reach of other workers, to be finished before a stop. Pure.

use crate::ticket::Backlog;

/// To begin with: nothing is known of the jobs.
const FIRST: f64 = 64.0;

/// The most that one settled job takes from the window.
const SHRINK: f64 = 0.5;

/// Most jobs asked for and open of one consumer.
#[derive(Debug)]
pub(super) struct Window {
    jobs: f64,
    capacity: f64,
    /// The latest news.
    backlog: Backlog,
}

impl Window {
    pub(super) fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1) as f64;
        Self { jobs: FIRST.min(capacity), capacity, backlog: Backlog::default() }
    }

    /// At least one.
    pub(super) fn jobs(&self) -> usize {
        // A cast of a float saturates.
        self.jobs as usize
    }

    /// A job was settled while `used` of its consumer were asked for or open, itself included. `backlog`: what waited behind it, if it
    /// got as far as a queue.
    ///
    /// The news is as old as the job's way from the queue to its settlement, and of all the jobs on that way each brings it. So the
    /// steps are in proportion to what is missing, or too much: full ones would overshoot by a whole way, each time.
    pub(super) fn settled(&mut self, used: usize, backlog: Option<Backlog>) {
        if let Some(news) = backlog {
            self.backlog = news;
        } else {
            // Old news is no reason to shrink. After a window of such jobs hardly anything of what waited then is left: a flood of
            // refused jobs, which keep no engine busy, is not worked off one by one.
            self.backlog.fill *= 1.0 - 1.0 / self.jobs.max(2.0) as f32;
        }
        let (fill, enough) = (f64::from(self.backlog.fill), f64::from(self.backlog.enough));
        let step = if fill > 1.0 && backlog.is_none() {
            0.0
        } else if fill > 1.0 {
            -((fill - 1.0) * enough / self.jobs / 2.0).min(SHRINK)
        } else if self.jobs < enough {
            1.0
        } else if 2 * used >= self.jobs() {
            1.0 - fill
        } else {
            // What is not used does not grow: a burst would fill it at once.
            0.0
        };
        self.jobs = (self.jobs + step).clamp(1.0, self.capacity);
    }
}

#[cfg(test)]
mod tests;
