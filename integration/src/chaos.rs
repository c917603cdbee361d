use std::fmt::Display;
use std::ops::Range;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, MutexGuard};

/// The seed unless `GRISTMILL_SEED` says otherwise.
const SEED: u64 = 20_261_121;

/// Two tests with faults on the same few cores would be each other's fault.
static TURN: Mutex<()> = Mutex::const_new(());

/// What every test with faults begins with: its random numbers, its scale, and its turn.
pub struct Chaos {
    /// Decides when and whom faults hit. Processes run in their own time, so a seed repeats the plan, not the run.
    pub rng: fastrand::Rng,
    /// What [`Self::rng`] began with.
    pub seed: u64,
    name: &'static str,
    is_full: bool,
    started: Instant,
    _turn: MutexGuard<'static, ()>,
}

impl Chaos {
    /// Waits until no other test of this binary has faults, and prints the seed.
    ///
    /// # Panics
    /// If `GRISTMILL_SEED` is set and no number.
    pub async fn begin(name: &'static str) -> Self {
        let turn = TURN.lock().await;
        let text = std::env::var("GRISTMILL_SEED").ok();
        let seed = text.map_or(SEED, |text| text.parse().expect("GRISTMILL_SEED is a number"));
        let is_full = std::env::var("GRISTMILL_CHAOS").is_ok_and(|scale| scale == "full");
        let rng = fastrand::Rng::with_seed(seed);
        let chaos = Self { rng, seed, name, is_full, started: Instant::now(), _turn: turn };
        chaos.tell(format!("GRISTMILL_SEED={seed}, {}", chaos.scale("short form", "full scale")));
        chaos
    }

    /// One value for `make test`, another for `make chaos`, which sets `GRISTMILL_CHAOS=full`.
    pub fn scale<T>(&self, short: T, full: T) -> T {
        if self.is_full { full } else { short }
    }

    /// Since the test began.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Prints what happened, with the seconds since the test began.
    #[expect(clippy::print_stdout, reason = "cargo shows it where a test fails, or where it is asked to")]
    pub fn tell(&self, what: impl Display) {
        println!("{} +{:.1} s: {what}", self.name, self.elapsed().as_secs_f64());
    }

    /// Goes on at a random time from now, in milliseconds.
    pub async fn pause(&mut self, millis: Range<u64>) {
        tokio::time::sleep(Duration::from_millis(self.rng.u64(millis))).await;
    }
}
