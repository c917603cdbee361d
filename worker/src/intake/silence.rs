use std::time::{Duration, Instant};

/// When pulls have gone unanswered for this long on a connection that claims to be up, it is given up for another: the
/// server ends each of them within a second, and the client's own pings take minutes to notice.
pub(super) const SILENCE: Duration = Duration::from_secs(8);

/// Since when pulls have been lost, with nothing heard since.
#[derive(Debug, Default)]
pub(super) struct Silence(Option<Instant>);

impl Silence {
    /// A message came.
    pub(super) fn broken(&mut self) {
        self.0 = None;
    }

    /// Pulls were lost. Returns whether that has gone on for too long; then it begins anew.
    pub(super) fn goes_on(&mut self, now: Instant) -> bool {
        let is_too_long = now.duration_since(*self.0.get_or_insert(now)) >= SILENCE;
        if is_too_long {
            self.0 = None;
        }
        is_too_long
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_counted_from_the_first_loss_and_ends_with_a_message() {
        let (mut silence, start) = (Silence::default(), Instant::now());
        assert!(!silence.goes_on(start) && !silence.goes_on(start + SILENCE / 2));
        silence.broken();
        assert!(!silence.goes_on(start + SILENCE));
        assert!(silence.goes_on(start + SILENCE * 2));
        assert!(!silence.goes_on(start + SILENCE * 2), "begun anew");
    }
}
