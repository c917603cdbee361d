//! How large a batch is worth making: what runs of each size yield, learned from the runs as they come. Pure.
//!
//! Larger batches yield more, until they do not: the device is full, or the caches are not large enough. Above that knee a larger
//! batch only has its jobs wait for each other. Sizes are classes of a factor of two. The knee is the smallest class that yields
//! nearly as much as the best. Where that is the largest that was ever seen, the next one is tried at once, else from time to time;
//! and so are the smaller ones, in turn, which costs little. So the knee moves with the machine.

use std::time::Duration;

/// A class this near to the best is as good: what is measured scatters by as much.
const NEARLY: f64 = 0.97;

/// What a batch costs outside of its run (forming, waking, handing on), on a core that the model's thread may want.
const OUTSIDE: Duration = Duration::from_micros(50);

/// One batch in this many tries the class above the knee, and one a class below.
const TRY: u32 = 32;

/// Which of them these are: not the turns of suspects, nor of bulk.
const TRY_ABOVE: u32 = 1;

/// Likewise.
const TRY_BELOW: u32 = 17;

/// Classes below the knee that are tried.
const FURTHEST: u32 = 8;

/// What a run that yields more than its class is thought to says of it: a size that was long not tried is soon believed.
const RISE: f64 = 1.0 / 4.0;

/// What one that yields less says: a thread that was kept from its core says little of the size.
const FALL: f64 = 1.0 / 16.0;

/// And the most that it says, as a factor.
const OUTLIER: f64 = 1.5;

/// Runs for which a class that has none is remembered: the machine was another then.
const MEMORY: u64 = 1024;

/// What runs yield, by class: class `n` has more than 2^(n-1) elements, and up to 2^n.
#[derive(Debug)]
pub struct Knee {
    classes: [Option<Class>; CLASSES],
    runs: u64,
    found: Option<Found>,
}

const CLASSES: usize = usize::BITS as usize + 1;

#[derive(Debug, Clone, Copy)]
struct Class {
    /// Elements per second, the logarithm.
    yielded: f64,
    /// Number of its last run.
    last: u64,
}

/// What the runs say.
#[derive(Debug, Clone, Copy)]
struct Found {
    class: usize,
    /// No larger one is known: the knee may lie beyond.
    is_largest: bool,
}

impl Default for Knee {
    fn default() -> Self {
        Self { classes: [None; CLASSES], runs: 0, found: None }
    }
}

impl Knee {
    /// Takes in a run of so many elements of the largest input, those filled in included.
    pub fn observe(&mut self, elements: usize, took: Duration) {
        let elements = elements.max(1);
        self.runs += 1;
        let class = &mut self.classes[(usize::BITS - (elements - 1).leading_zeros()) as usize];
        let yielded = (elements as f64 / (took + OUTSIDE).as_secs_f64()).ln();
        let yielded = class.map_or(yielded, |Class { yielded: thought, .. }| {
            let news = (yielded - thought).max(-OUTLIER.ln());
            thought + news * if news > 0.0 { RISE } else { FALL }
        });
        *class = Some(Class { yielded, last: self.runs });
        self.found = self.find();
    }

    fn find(&self) -> Option<Found> {
        let fresh = |class: &Option<Class>| class.filter(|class| self.runs - class.last < MEMORY);
        let classes = self.classes.iter().map(fresh).enumerate();
        let known = || classes.clone().filter_map(|(number, class)| Some((number, class?.yielded)));
        let best = known().map(|(_, yielded)| yielded).max_by(f64::total_cmp)?;
        let (class, _) = known().find(|(_, yielded)| *yielded >= best + NEARLY.ln())?;
        let (largest, _) = known().next_back()?;
        Some(Found { class, is_largest: class == largest })
    }

    /// Most elements of a batch, the `turn`th.
    pub fn most(&self, turn: u32) -> usize {
        let Some(Found { class, is_largest }) = self.found else { return usize::MAX };
        let nth = turn / TRY;
        top(match turn % TRY {
            TRY_ABOVE => class + above(nth),
            TRY_BELOW => class - below(nth).min(class),
            _ if is_largest => class + 1,
            _ => class,
        })
    }

    /// Elements that a batch ends at that tries nothing; nothing before the first run.
    pub fn elements(&self) -> Option<usize> {
        self.found.map(|found| top(found.class + usize::from(found.is_largest)))
    }
}

/// How far above the knee the `nth` try goes: a class that is worse than its neighbours is not to hide one behind it.
fn above(nth: u32) -> usize {
    if nth % 4 == 3 { 2 } else { 1 }
}

/// How far below the knee the `nth` try goes: every other to the next class, the others each time one further.
fn below(nth: u32) -> usize {
    1 + (nth % 2 * nth / 2 % FURTHEST) as usize
}

/// Most elements of a class.
fn top(class: usize) -> usize {
    u32::try_from(class).ok().and_then(|class| 2usize.checked_pow(class)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Has batches of the most elements run, of those that wait, on a machine that takes `micros` for so many.
    fn run(knee: &mut Knee, batches: std::ops::Range<u32>, waiting: usize, micros: impl Fn(f64) -> f64) -> Vec<usize> {
        let each = |turn| {
            let elements = knee.most(turn).min(waiting);
            knee.observe(elements, Duration::from_secs_f64(micros(elements as f64) / 1e6));
            elements
        };
        batches.map(each).collect()
    }

    /// Full at 100 elements.
    fn device(elements: f64) -> f64 {
        10_000.0 * (elements / 100.0).max(1.0)
    }

    #[test]
    fn batches_grow_up_to_the_knee_and_not_beyond() {
        let mut knee = Knee::default();
        assert_eq!((knee.elements(), knee.most(2)), (None, usize::MAX), "nothing is known");
        run(&mut knee, 0..4, 1, device);
        assert_eq!((knee.elements(), knee.most(2)), (Some(2), 2), "twice the largest that was seen");
        let sizes = run(&mut knee, 2..100, 10_000, device);
        assert_eq!((knee.elements(), sizes[97]), (Some(128), 128), "{sizes:?}");
        assert!(sizes.iter().all(|size| *size < 1024), "{sizes:?}");
    }

    #[test]
    fn where_larger_batches_are_slower_the_best_is_found_from_above() {
        let mut knee = Knee::default();
        let caches = |elements: f64| 10.0 + elements * if elements > 70.0 { 3.0 } else { 1.0 };
        let sizes = run(&mut knee, 2..1000, 1 << 12, caches);
        assert_eq!((sizes[0], knee.elements()), (1 << 12, Some(64)), "also where those next to it are worse");
    }

    #[test]
    fn it_moves_with_the_machine() {
        let mut knee = Knee::default();
        run(&mut knee, 0..500, 1 << 20, device);
        run(&mut knee, 500..2500, 1 << 20, |elements| 3.0 * device(elements / 8.0));
        assert_eq!(knee.elements(), Some(1024));
        run(&mut knee, 2500..4500, 1 << 20, device);
        assert_eq!(knee.elements(), Some(128));
    }

    #[test]
    fn one_slow_run_moves_nothing() {
        let mut knee = Knee::default();
        run(&mut knee, 0..500, 1 << 20, device);
        knee.observe(128, Duration::from_secs(1));
        assert_eq!(knee.elements(), Some(128));
    }

    #[test]
    fn where_everything_is_small_a_batch_has_costs_of_its_own() {
        let mut knee = Knee::default();
        run(&mut knee, 0..1000, 300, |elements| elements / 1000.0);
        assert_eq!((knee.elements(), knee.most(2)), (Some(1024), 1024), "50 us are saved with each batch");
    }

    #[test]
    fn the_largest_and_the_smallest_size_are_sizes_too() {
        let mut knee = Knee::default();
        knee.observe(0, Duration::ZERO);
        assert_eq!(knee.most(2), 2);
        knee.observe(usize::MAX, Duration::from_secs(1));
        assert_eq!(knee.most(2), usize::MAX);
    }
}
