//! How much a batch may have: what throughput takes; and while online jobs come, not so many bulk jobs that they would wait for long.
//! Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::cost::Cost;
use super::knee::Knee;
use crate::message::{AHEAD, MOST_AHEAD};

/// A run with bulk jobs may take one part in this many of the target: an online job that comes finds one run under way and others
/// handed to the engine, and is in the next. One part is left for what scatters.
const PARTS: u32 = AHEAD as u32 + 2;

/// After an online job, others are expected for this long.
const EXPECTED: Duration = Duration::from_secs(1);

/// What an engine runs within this time is worth having wait for it: deliveries may be held up for as long.
const SOON: Duration = Duration::from_millis(20);

/// Where runs are long, so many batches are, as far as they are run within a second,
const BATCHES: f64 = 8.0;

/// or so many, where jobs of like lengths are looked for among what waits.
const TO_CHOOSE_FROM: f64 = 24.0;

/// Of runs longer than that, so many.
const LEAST: f64 = 2.0;

/// Full batches of so much time are handed to an engine: where cores are short, the batch task may wait for one as long as the time
/// slices of others take.
const BRIDGED: Duration = Duration::from_millis(2);

/// What the runs of a model taught, and what it is used for.
#[derive(Debug)]
pub struct Pace {
    to_knee: bool,
    target: Option<Duration>,
    cost: Cost,
    knee: Knee,
    /// When the last online job came.
    online: Option<Instant>,
}

impl Pace {
    /// Nothing is known. `to_knee`: batches end at the knee. `target`: how soon online jobs are to be answered.
    pub fn new(to_knee: bool, target: Option<Duration>) -> Self {
        Self { to_knee, target, cost: Cost::default(), knee: Knee::default(), online: None }
    }

    /// Takes in what a run cost: so many elements of the largest input, those filled in included.
    pub fn observe(&mut self, elements: usize, took: Duration) {
        self.cost.observe(elements, took);
        self.knee.observe(elements, took);
    }

    /// An online job came.
    pub fn came(&mut self, now: Instant) {
        self.online = Some(now);
    }

    /// What runs cost.
    pub fn cost(&self) -> &Cost {
        &self.cost
    }

    /// What a run of so many elements is expected to take; nothing is known before the first.
    pub fn expected(&self, elements: usize) -> Option<Duration> {
        Some(self.cost.estimate(elements)).filter(|run| !run.is_zero())
    }

    /// Whether an engine that was given runs of these lengths may have one more full batch. An online job that comes finds no more
    /// before it than where runs are long.
    pub fn gives_more(&self, given: &VecDeque<Option<Duration>>) -> bool {
        let most = self.target.map_or(BRIDGED, |target| BRIDGED.min(target / PARTS));
        let known: Option<Duration> = given.iter().copied().sum();
        given.len() < AHEAD || given.len() < MOST_AHEAD && known.is_some_and(|known| known < most)
    }

    /// How many batches of so many elements are worth having wait for an engine. Before the first run, any number is.
    /// `is_filled_up`: batches are of jobs of different lengths.
    pub fn useful(&self, elements: usize, is_filled_up: bool) -> f64 {
        let run = self.cost.estimate(elements).as_secs_f64();
        let most = if is_filled_up { TO_CHOOSE_FROM } else { BATCHES };
        (SOON.as_secs_f64() / run).max((1.0 / run).clamp(LEAST, most))
    }

    /// Elements that a batch ends at by what runs yield; nothing before the first run, or where that is not wanted.
    pub fn knee(&self) -> Option<usize> {
        self.knee.elements().filter(|_| self.to_knee)
    }

    /// Most elements of a batch, the `turn`th of the model.
    pub fn most(&self, turn: u32) -> usize {
        if self.to_knee { self.knee.most(turn) } else { usize::MAX }
    }

    /// Most elements of a batch that bulk jobs join: while online jobs are expected, of a run that these can wait for. They themselves
    /// are not held back: in smaller runs the last of them would be answered no sooner.
    pub fn beside_online(&self, now: Instant) -> usize {
        let is_expected = self.online.is_some_and(|last| now.saturating_duration_since(last) < EXPECTED);
        let target = self.target.filter(|_| is_expected);
        target.map_or(usize::MAX, |target| self.cost.within(target / PARTS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Duration = Duration::from_millis(42);

    /// A run costs 1 ms, and 1 ms for each element.
    fn pace(to_knee: bool, target: Option<Duration>) -> Pace {
        let mut pace = Pace::new(to_knee, target);
        (1..30).for_each(|elements| pace.observe(elements, Duration::from_millis(1 + elements as u64)));
        pace
    }

    #[test]
    fn while_online_jobs_come_others_fill_no_long_run() {
        let (mut pace, now) = (pace(false, Some(TARGET)), Instant::now());
        assert_eq!(pace.beside_online(now), usize::MAX, "no online job came");
        pace.came(now);
        assert_eq!(pace.beside_online(now), 9, "a run of a quarter of 42 ms");
        assert_eq!(pace.beside_online(now + EXPECTED), usize::MAX, "no more are expected");
    }

    #[test]
    fn without_a_target_online_jobs_change_nothing() {
        let (mut pace, now) = (pace(false, None), Instant::now());
        pace.came(now);
        assert_eq!((pace.beside_online(now), pace.most(1), pace.knee()), (usize::MAX, usize::MAX, None));
    }

    #[test]
    fn what_is_worth_having_wait_goes_by_how_long_runs_take() {
        let useful = |micros: u64, is_filled_up| {
            let mut pace = Pace::new(false, None);
            (0..2).for_each(|_| pace.observe(1, Duration::from_micros(micros)));
            pace.useful(1, is_filled_up).round()
        };
        assert_eq!([100, 1_000, 2_500, 50_000].map(|micros| useful(micros, false)), [200.0, 20.0, 8.0, 8.0]);
        assert_eq!([250_000, 10_000_000].map(|micros| useful(micros, false)), [4.0, 2.0]);
        assert_eq!([10_000, 50_000, 250_000].map(|micros| useful(micros, true)), [24.0, 20.0, 4.0]);
        assert_eq!(Pace::new(false, None).useful(1, true), f64::INFINITY);
    }

    #[test]
    fn an_engine_has_two_batches_before_it_or_a_few_milliseconds() {
        let gives = |pace: &Pace, runs: usize, micros: Option<u64>| {
            pace.gives_more(&vec![micros.map(Duration::from_micros); runs].into())
        };
        let any = pace(false, None);
        assert!(gives(&any, 1, Some(1_000_000)) && !gives(&any, 2, Some(2_000)), "long runs");
        assert!(gives(&any, 3, Some(500)) && !gives(&any, 4, Some(500)));
        assert!(gives(&any, 7, Some(1)) && !gives(&any, 8, Some(1)));
        assert!(gives(&any, 1, None) && !gives(&any, 2, None), "nothing is known of them");
        let urgent = pace(false, Some(Duration::from_millis(4)));
        assert!(gives(&urgent, 3, Some(300)) && !gives(&urgent, 4, Some(300)), "a quarter of 4 ms");
    }

    #[test]
    fn the_knee_is_a_limit_where_it_is_wanted() {
        let pace = pace(true, None);
        assert_eq!((pace.most(2), pace.knee()), (64, Some(64)), "twice the largest that was seen");
    }
}
