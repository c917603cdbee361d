//! Finds the highest rate that keeps a promise. Pure.

/// How exact: the highest rate that kept it and the lowest that did not differ by this part at most.
const PRECISION: f64 = 0.05;

/// Doubles until a rate is too high, then halves the gap.
#[derive(Debug)]
pub(super) struct Search {
    next: f64,
    kept: Option<f64>,
    broken: Option<f64>,
}

impl Search {
    /// Begins with this rate.
    pub(super) fn new(first: f64) -> Self {
        Self { next: first, kept: None, broken: None }
    }

    /// The rate to try; `None` at the end.
    pub(super) fn next(&self) -> Option<f64> {
        match (self.kept, self.broken) {
            (Some(kept), Some(broken)) if broken - kept <= kept * PRECISION => None,
            (None, Some(broken)) if broken <= 1.0 => None,
            _ => Some(self.next),
        }
    }

    /// Takes in how that went.
    pub(super) fn tried(&mut self, is_kept: bool) {
        if is_kept {
            self.kept = Some(self.next);
        } else {
            self.broken = Some(self.next);
        }
        self.next = match (self.kept, self.broken) {
            (Some(kept), Some(broken)) => f64::midpoint(kept, broken),
            (Some(kept), None) => kept * 2.0,
            (None, Some(broken)) => broken / 2.0,
            (None, None) => self.next,
        };
    }

    /// The highest rate that kept it.
    pub(super) fn highest(&self) -> Option<f64> {
        self.kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(first: f64, limit: f64) -> (Option<f64>, usize) {
        let (mut search, mut tries) = (Search::new(first), 0);
        while let Some(rate) = search.next() {
            search.tried(rate <= limit);
            tries += 1;
        }
        (search.highest(), tries)
    }

    #[test]
    fn the_highest_rate_is_found_from_both_sides() {
        for first in [10.0, 500.0, 80_000.0] {
            let (found, tries) = search(first, 3210.0);
            assert!((3050.0..=3210.0).contains(&found.unwrap()), "{found:?}");
            assert!(tries < 16, "{tries}");
        }
        assert_eq!(search(8.0, 0.1).0, None, "not even one a second");
    }
}
