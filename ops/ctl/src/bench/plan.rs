//! When each job is due. Pure.

use std::time::Duration;

/// How jobs arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Arrivals {
    /// Each after the same time.
    Constant,
    /// Independent of each other, as from many senders: gaps are exponential.
    Poisson,
}

/// The times of arrivals, from the start of a run on.
pub(super) struct Plan {
    arrivals: Arrivals,
    rate: f64,
    random: fastrand::Rng,
    at: f64,
}

impl Plan {
    /// So many jobs per second, the same with each `seed`.
    pub(super) fn new(arrivals: Arrivals, rate: f64, seed: u64) -> Self {
        Self { arrivals, rate, random: fastrand::Rng::with_seed(seed), at: 0.0 }
    }
}

impl Iterator for Plan {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let due = Duration::from_secs_f64(self.at);
        self.at += match self.arrivals {
            Arrivals::Constant => 1.0,
            Arrivals::Poisson => -(1.0 - self.random.f64()).ln(),
        } / self.rate;
        Some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_keep_their_rate() {
        let second = |arrivals| Plan::new(arrivals, 1000.0, 7).take_while(|due| due.as_secs() < 20).count();
        assert_eq!(second(Arrivals::Constant), 20_000);
        // 20,000 of a Poisson process are off by 141 at a standard deviation.
        assert!((19_300..20_700).contains(&second(Arrivals::Poisson)));
        let gaps: Vec<Duration> = Plan::new(Arrivals::Poisson, 1000.0, 7).take(3).collect();
        assert!(gaps[1] - gaps[0] != gaps[2] - gaps[1]);
        assert_eq!(gaps, Plan::new(Arrivals::Poisson, 1000.0, 7).take(3).collect::<Vec<_>>());
    }
}
