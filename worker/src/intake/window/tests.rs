use super::*;
use std::collections::VecDeque;

/// A worker whose engine runs full batches of [`Self::BATCH`] jobs, one in each step of time, beside a stream that never runs empty.
struct Worker {
    window: Window,
    /// Jobs that arrive in each step to come.
    coming: VecDeque<usize>,
    waiting: usize,
    /// Jobs that are settled in each step to come, and their news.
    going: VecDeque<(usize, Backlog)>,
}

impl Worker {
    const BATCH: usize = 8;
    /// Batches that are enough.
    const ENOUGH: usize = 8;

    /// `way`: steps from asking for a job to its arrival, and from its run to its settlement.
    fn new(capacity: usize, way: [usize; 2]) -> Self {
        let coming = vec![0; way[0]].into();
        let going = vec![(0, Backlog::default()); way[1]].into();
        Self { window: Window::new(capacity), coming, waiting: 0, going }
    }

    fn used(&self) -> usize {
        self.coming.iter().sum::<usize>() + self.waiting + self.going.iter().map(|(jobs, _)| jobs).sum::<usize>()
    }

    /// Returns the jobs that ran.
    fn run(&mut self, steps: usize) -> usize {
        let mut ran = 0;
        for _ in 0..steps {
            let asked = self.window.jobs().saturating_sub(self.used());
            self.coming.push_back(asked);
            self.waiting += self.coming.pop_front().unwrap();
            let batch = self.waiting.min(Self::BATCH);
            self.waiting -= batch;
            ran += batch;
            let fill = (self.waiting / Self::BATCH) as f32 / Self::ENOUGH as f32;
            self.going.push_back((batch, Backlog { fill, enough: (Self::ENOUGH * Self::BATCH) as u32 }));
            let (settled, news) = self.going.pop_front().unwrap();
            for left in (1..=settled).rev() {
                self.window.settled(self.used() + left, Some(news));
            }
        }
        ran
    }
}

#[test]
fn engines_never_wait_and_little_does_for_them_however_long_the_way() {
    for way in [[1, 1], [20, 20], [100, 100], [200, 200], [100, 20], [20, 100]] {
        let mut worker = Worker::new(16_384, way);
        worker.run(10_000);
        let ran = worker.run(5_000);
        assert!(ran > 5_000 * Worker::BATCH * 99 / 100, "{way:?}: {ran} jobs");
        // On their way, and enough.
        let needed = Worker::BATCH * (way[0] + way[1] + Worker::ENOUGH);
        let jobs = worker.window.jobs();
        assert!(jobs < needed * 3 / 2, "{way:?}: {jobs} jobs, where {needed} are needed");
    }
}

#[test]
fn it_follows_a_model_that_becomes_slower() {
    let mut worker = Worker::new(2048, [1, 1]);
    worker.window.jobs = 2048.0;
    worker.run(2000);
    assert!((64..160).contains(&worker.window.jobs()), "{} jobs", worker.window.jobs());
}

#[test]
fn without_enough_it_grows_as_fast_as_jobs_are_settled() {
    let mut window = Window::new(2048);
    let hungry = Some(Backlog { fill: 0.0, enough: u32::MAX });
    (0..64).for_each(|_| window.settled(1, hungry));
    assert_eq!(window.jobs(), 128);
    (0..5000).for_each(|_| window.settled(1, hungry));
    assert_eq!(window.jobs(), 2048, "never more than there are permits");
}

#[test]
fn what_is_not_used_does_not_grow_beyond_enough() {
    let mut window = Window::new(2048);
    (0..1000).for_each(|_| window.settled(3, Some(Backlog { fill: 0.0, enough: 80 })));
    assert_eq!(window.jobs(), 80);
    (0..1000).for_each(|_| window.settled(50, Some(Backlog { fill: 0.0, enough: 16 })));
    assert_eq!(window.jobs(), 101);
}

#[test]
fn jobs_that_get_into_no_queue_never_shrink_it_and_let_it_grow_again() {
    let mut window = Window::new(2048);
    (0..1000).for_each(|_| window.settled(window.jobs(), None));
    assert_eq!(window.jobs(), 1064, "nothing was ever known to wait");
    window.settled(1064, Some(Backlog { fill: 3.0, enough: 100 }));
    let before = window.jobs();
    for _ in 0..10_000 {
        window.settled(window.jobs(), None);
        assert!(window.jobs() >= before);
    }
    assert_eq!(window.jobs(), 2048);
}

#[test]
fn a_few_of_them_among_others_change_little() {
    let mut window = Window::new(2048);
    for job in 0..20_000 {
        let fill = (window.jobs() as f32 - 100.0).max(0.0) / 64.0;
        let news = Some(Backlog { fill, enough: 64 }).filter(|_| job % 5 > 0);
        window.settled(window.jobs(), news);
    }
    assert!((150..200).contains(&window.jobs()), "{} jobs, where 164 are needed", window.jobs());
}

#[test]
fn there_is_always_room_for_one() {
    let mut window = Window::new(0);
    (0..100).for_each(|_| window.settled(1, Some(Backlog { fill: f32::INFINITY, enough: u32::MAX })));
    assert_eq!(window.jobs(), 1);
}
