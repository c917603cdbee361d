//! What lacks of memory teach: how many rows of a shape a device holds. Pure.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// How long a ceiling stands before it is raised by an eighth: what else used the memory may be gone.
const RAISE: Duration = Duration::from_secs(10);

/// Most rows in one batch, by shape `K`, where that is below what the package allows.
#[derive(Debug)]
pub struct Ceilings<K> {
    max_rows: usize,
    known: HashMap<K, Ceiling>,
}

#[derive(Debug)]
struct Ceiling {
    rows: usize,
    since: Instant,
}

impl<K: Eq + Hash> Ceilings<K> {
    /// None but the package's own.
    pub fn new(max_rows: usize) -> Self {
        Self { max_rows, known: HashMap::new() }
    }

    /// Most rows for a batch of this shape.
    pub fn max_rows(&self, key: &K) -> usize {
        self.known.get(key).map_or(self.max_rows, |ceiling| ceiling.rows)
    }

    /// A batch of this shape did not fit; this many rows may.
    pub fn lower(&mut self, key: K, rows: usize, now: Instant) {
        let rows = rows.clamp(1, self.max_rows(&key));
        self.known.insert(key, Ceiling { rows, since: now });
    }

    /// Raises those that have stood long enough, and forgets those that no longer bind. Returns whether any did.
    pub fn raise(&mut self, now: Instant) -> bool {
        let mut changed = false;
        for ceiling in self.known.values_mut().filter(|ceiling| now.duration_since(ceiling.since) >= RAISE) {
            ceiling.rows += (ceiling.rows / 8).max(1);
            ceiling.since = now;
            changed = true;
        }
        self.known.retain(|_, ceiling| ceiling.rows < self.max_rows);
        changed
    }

    /// Most rows for a batch of any shape that is known to have a ceiling, or of any at all.
    pub fn lowest(&self) -> usize {
        self.known.values().map(|ceiling| ceiling.rows).min().unwrap_or(self.max_rows)
    }

    /// Those that bind.
    pub fn iter(&self) -> impl Iterator<Item = (&K, usize)> {
        self.known.iter().map(|(key, ceiling)| (key, ceiling.rows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ceiling_falls_at_once_rises_slowly_and_goes() {
        let (mut ceilings, mut now) = (Ceilings::new(64), Instant::now());
        ceilings.lower("a", 32, now);
        ceilings.lower("a", 16, now);
        ceilings.lower("a", 40, now);
        assert_eq!((ceilings.max_rows(&"a"), ceilings.max_rows(&"b")), (16, 64), "a larger one is no news");
        assert!(!ceilings.raise(now + RAISE / 2));
        now += RAISE;
        assert!(ceilings.raise(now));
        assert_eq!(ceilings.max_rows(&"a"), 18);
        let mut steps = 0;
        while ceilings.iter().next().is_some() {
            now += RAISE;
            ceilings.raise(now);
            steps += 1;
        }
        assert!((8..20).contains(&steps), "{steps} steps from 18 to 64");
        ceilings.lower("a", 0, now);
        assert_eq!(ceilings.max_rows(&"a"), 1);
    }
}
