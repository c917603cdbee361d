//! What a run costs: so much for itself, and so much for each element. Learned from the runs as they come. Pure.

use std::time::Duration;

/// What an observation weighs when the next is made: some fifty runs are remembered, so that a machine or a model that becomes
/// slower is noticed within seconds.
const MEMORY: f64 = 0.98;

/// A line through the latest runs, seconds over elements: least squares, older runs fading.
#[derive(Debug, Default, Clone, Copy)]
pub struct Cost {
    weight: f64,
    elements: f64,
    seconds: f64,
    elements_squared: f64,
    product: f64,
    /// The largest of the latest runs, fading as they do.
    largest: f64,
}

impl Cost {
    /// Takes in a run of so many elements of the largest input, those filled in included.
    pub fn observe(&mut self, elements: usize, took: Duration) {
        let (x, y) = (elements as f64, took.as_secs_f64());
        self.largest = x.max(self.largest * MEMORY);
        let sums =
            [&mut self.weight, &mut self.elements, &mut self.seconds, &mut self.elements_squared, &mut self.product];
        for (sum, value) in sums.into_iter().zip([1.0, x, y, x * x, x * y]) {
            *sum = *sum * MEMORY + value;
        }
    }

    /// Seconds of a run itself, and of each element. Runs of one size alone do not tell them apart: then all is the elements'.
    pub fn line(&self) -> [f64; 2] {
        let Some(slope) = self.slope() else {
            let each = if self.elements > 0.0 { self.seconds / self.elements } else { 0.0 };
            return [0.0, each];
        };
        let slope = slope.clamp(0.0, self.seconds / self.elements);
        [((self.seconds - slope * self.elements) / self.weight).max(0.0), slope]
    }

    /// Seconds that each element adds, as the runs have it, noise and all; nothing where all were of one size.
    fn slope(&self) -> Option<f64> {
        let spread = self.weight * self.elements_squared - self.elements * self.elements;
        let is_told = spread > 1e-6 * self.weight * self.elements_squared;
        is_told.then(|| (self.weight * self.product - self.elements * self.seconds) / spread)
    }

    /// How long a run of so many elements will take; nothing where none has been seen.
    pub fn estimate(&self, elements: usize) -> Duration {
        let [own, each] = self.line();
        Duration::try_from_secs_f64(own + each * elements as f64).unwrap_or(Duration::MAX)
    }

    /// How many elements a run of this time has. Where a run itself takes most of it, as many as double what it takes: fewer would
    /// save less than they cost. Never more than twice the largest of the latest runs: a line says little of what lies far off.
    pub fn within(&self, time: Duration) -> usize {
        let [own, each] = self.line();
        let elements = match self.slope() {
            _ if self.weight == 0.0 => f64::INFINITY,
            // Another size tells what a run costs itself.
            None => 2.0 * self.largest,
            // Noise: more elements never take less time.
            Some(slope) if slope <= 0.0 => self.largest,
            Some(_) => ((time.as_secs_f64() - own).max(own) / each).min(2.0 * self.largest),
        };
        // A cast of a float saturates.
        elements as usize
    }

    /// How many elements may be filled in to save a run.
    pub fn worth(&self) -> usize {
        let [own, each] = self.line();
        // Half of it: what is saved has to be more than what is spent. A cast of a float saturates.
        if each > 0.0 { (own / each / 2.0) as usize } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(cost: &mut Cost, elements: usize, own: u64, each: u64) {
        cost.observe(elements, Duration::from_micros(own + each * elements as u64));
    }

    fn micros(cost: &Cost) -> [u64; 2] {
        cost.line().map(|seconds| (seconds * 1e6).round() as u64)
    }

    #[test]
    fn a_runs_own_cost_is_told_from_that_of_its_elements() {
        let mut cost = Cost::default();
        assert_eq!(
            (micros(&cost), cost.worth(), cost.within(Duration::ZERO)),
            ([0, 0], 0, usize::MAX),
            "nothing is known"
        );
        (1..20).for_each(|n| run(&mut cost, n * 10, 500, 3));
        assert_eq!((micros(&cost), cost.worth()), ([500, 3], 83));
        assert_eq!(cost.estimate(1000).as_micros(), 3500);
        assert_eq!([1001, 800, 1].map(|micros| cost.within(Duration::from_micros(micros))), [167, 166, 166]);
        assert_eq!(cost.within(Duration::from_secs(1)), 380, "twice the largest run");
    }

    #[test]
    fn runs_of_one_size_alone_prove_no_cost_of_their_own() {
        let mut cost = Cost::default();
        (0..20).for_each(|_| run(&mut cost, 100, 500, 5));
        assert_eq!((micros(&cost), cost.worth()), ([0, 10], 0));
        assert_eq!(cost.within(Duration::from_micros(1)), 200, "another size has to be tried");
        run(&mut cost, 200, 500, 0);
        assert_eq!(cost.within(Duration::from_secs(1)), 200, "that more take less time is noise");
    }

    #[test]
    fn a_machine_that_becomes_slower_is_noticed() {
        let mut cost = Cost::default();
        (0..1000).for_each(|n| run(&mut cost, n % 50 + 1, 100, 1));
        (0..300).for_each(|n| run(&mut cost, n % 50 + 1, 300, 3));
        let [own, each] = micros(&cost);
        assert!((295..=300).contains(&own) && each == 3, "{own} {each}");
    }
}
