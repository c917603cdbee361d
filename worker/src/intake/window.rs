//! How many jobs of one consumer this worker holds: what is on its way and being answered, and as many waiting as its engines can use
//! soon. More would only lie here: in memory gone cold, out of reach of other workers, to be finished before a stop. Pure.

use crate::ticket::Backlog;

/// What a settled job behind which more than enough wait takes from the window. Less than one: the news is as old as the job's
/// way from the queue to its settlement, and of all the jobs on that way each brings it.
const SHRINK: f64 = 0.25;

/// Most jobs asked for and open of one consumer.
#[derive(Debug)]
pub(super) struct Window {
    jobs: f64,
    capacity: usize,
}

impl Window {
    /// One job: see [`Self::restart`].
    pub(super) fn new(capacity: usize) -> Self {
        Self { jobs: 1.0, capacity }
    }

    /// At least one.
    pub(super) fn jobs(&self) -> usize {
        // A cast of a float saturates.
        self.jobs as usize
    }

    /// To begin with, and from the delivery of a suspect (a job that may have killed a worker) on. Each settled job allows
    /// one more, so that the window doubles with every round trip, as TCP's does. What was delivered again comes first, so a job that
    /// kills this process, too, is here with no other that would have spent a delivery with it.
    pub(super) fn restart(&mut self) {
        self.jobs = 1.0;
    }

    /// A job was settled while `open` of its consumer were, itself included. `backlog`: what waited behind it.
    pub(super) fn settled(&mut self, open: usize, Backlog { waiting, enough }: Backlog) {
        let (jobs, enough) = (self.jobs, f64::from(enough));
        self.jobs = if f64::from(waiting) > enough {
            (jobs - SHRINK).max(enough.min(jobs))
        } else if jobs < enough || 2 * open >= self.jobs() {
            // Beyond that, what is not used does not grow: a burst would fill it at once.
            jobs + 1.0
        } else {
            jobs
        }
        .clamp(1.0, self.capacity.max(1) as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: usize = 2048;

    /// A consumer with a backlog, and what happens to its jobs: `on_the_way` besides those that wait.
    fn run(window: &mut Window, on_the_way: usize, enough: u32, settled: usize) -> u32 {
        let waiting = |window: &Window| window.jobs().saturating_sub(on_the_way) as u32;
        for _ in 0..settled {
            let backlog = Backlog { waiting: waiting(window), enough };
            window.settled(window.jobs(), backlog);
        }
        waiting(window)
    }

    #[test]
    fn as_many_wait_as_are_enough() {
        let mut window = Window::new(CAPACITY);
        assert_eq!(run(&mut window, 100, 64, 1000), 64);
        assert_eq!(run(&mut window, 300, 64, 1000), 64, "a longer way to the broker");
        assert_eq!(run(&mut window, 20, 64, 2000), 64, "and a shorter one");
        assert_eq!(run(&mut window, 20, 100_000, 5000), CAPACITY as u32 - 20, "never more than there are permits");
    }

    #[test]
    fn the_window_doubles_with_every_round_trip() {
        let mut window = Window::new(CAPACITY);
        let mut rounds = 0;
        while window.jobs() < CAPACITY {
            (0..window.jobs()).for_each(|_| window.settled(1, Backlog { waiting: 0, enough: CAPACITY as u32 }));
            rounds += 1;
        }
        assert_eq!(rounds, 11);
        window.restart();
        assert_eq!(window.jobs(), 1);
    }

    #[test]
    fn what_is_not_used_does_not_grow_beyond_enough() {
        let mut window = Window::new(CAPACITY);
        (0..1000).for_each(|_| window.settled(3, Backlog { waiting: 0, enough: 16 }));
        assert_eq!(window.jobs(), 16);
        (0..1000).for_each(|_| window.settled(30, Backlog::default()));
        assert_eq!(window.jobs(), 61, "a refused job tells nothing of queues");
    }

    #[test]
    fn there_is_always_room_for_one() {
        let mut window = Window::new(1);
        (0..100).for_each(|_| window.settled(1, Backlog { waiting: 5, enough: 0 }));
        assert_eq!(window.jobs(), 1);
    }
}
