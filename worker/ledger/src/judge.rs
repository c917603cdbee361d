//! Who killed the predecessor, and what becomes of the jobs it left. Pure.

use crate::mark::{Mark, RUN_BITS, State};

/// A job that ran alone in this many processes that were killed from outside (by the kernel for lack of memory, say) is
/// taken to be the reason. A single kill proves nothing: an operator or an orchestrator kills, too.
pub const MAX_STRIKES: u8 = 3;

/// How a process says that it dies. One that is killed from outside says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Death {
    /// Why.
    pub cause: Cause,
    /// The run that it dies of; `None` where it cannot tell, a fault on another thread than an engine's, say.
    pub run: Option<u64>,
}

/// Why a process dies, or why a job is held to have killed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// A fault: this signal.
    Signal(u8),
    /// A run did not end in the time allowed.
    Hung,
    /// The device can no longer be used.
    DeviceLost,
    /// Killed from outside [`MAX_STRIKES`] times.
    Killed,
    /// It ended of its own will (a drain cut short, say): no job is to blame.
    Ended,
}

/// What becomes of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It did not run when the process died, or the process died of another run: give it back.
    GiveBack,
    /// It may be the reason: run it alone.
    Suspect,
    /// It is the reason: it must not run again.
    Condemned(Cause),
}

impl Death {
    /// The cause in the lower 16 bits, the run in the upper 48.
    pub(crate) fn word(self) -> u64 {
        self.cause.word() | self.run.unwrap_or(0) << (64 - RUN_BITS)
    }

    pub(crate) fn read(word: u64) -> Option<Self> {
        let run = word >> (64 - RUN_BITS);
        Some(Self { cause: Cause::read(word & 0xffff)?, run: (run > 0).then_some(run) })
    }
}

impl Cause {
    pub(crate) fn word(self) -> u64 {
        match self {
            Self::Signal(signal) => 1 | u64::from(signal) << 8,
            Self::Hung => 2,
            Self::DeviceLost => 3,
            Self::Killed => 4,
            Self::Ended => 5,
        }
    }

    pub(crate) fn read(word: u64) -> Option<Self> {
        Some(match word & 0xff {
            1 => Self::Signal((word >> 8) as u8),
            2 => Self::Hung,
            3 => Self::DeviceLost,
            4 => Self::Killed,
            5 => Self::Ended,
            _ => return None,
        })
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Signal(signal) => write!(f, "a worker died of signal {signal} while it ran this job alone"),
            Self::Hung => f.write_str("a worker ran this job alone and its model did not return in the time allowed"),
            Self::DeviceLost => f.write_str("a worker ran this job alone and lost its device"),
            Self::Killed => write!(f, "{MAX_STRIKES} workers died while they ran this job alone, and nothing else"),
            Self::Ended => f.write_str("a worker ended"),
        }
    }
}

/// Judges the jobs that one process left. Returns the new mark of each, in the same order.
pub(crate) fn judge(marks: &[Mark], death: Option<Death>) -> Vec<Mark> {
    let mut runs: Vec<u64> = marks.iter().filter_map(|mark| mark.run()).collect();
    runs.sort_unstable();
    runs.dedup();
    let sole = if let [only] = runs[..] { Some(only) } else { None };
    let blame = match death {
        // A device is shared: whoever notices its loss first need not be the reason.
        Some(Death { cause: Cause::DeviceLost, .. }) => Blame { run: sole, is_certain: true, is_sole: sole.is_some() },
        // A fault on a thread of libtorch's own pool names no run; with one run it can be no other.
        Some(death) => Blame { run: death.run.or(sole), is_certain: true, is_sole: sole.is_some() },
        None => Blame { run: None, is_certain: false, is_sole: sole.is_some() },
    };
    marks.iter().map(|mark| mark.after(death.map(|death| death.cause), blame)).collect()
}

/// Whom a death points to.
#[derive(Clone, Copy)]
struct Blame {
    run: Option<u64>,
    /// The process said how it died.
    is_certain: bool,
    /// There was only one run.
    is_sole: bool,
}

impl Mark {
    fn run(&self) -> Option<u64> {
        match self.state {
            State::Together { run } | State::Alone { run } => Some(run),
            State::Waiting | State::Condemned { .. } => None,
        }
    }

    fn after(self, cause: Option<Cause>, blame: Blame) -> Self {
        let waits = Self { state: State::Waiting, ..self };
        let suspect = Self { is_suspect: true, ..waits };
        let condemned = |cause: Cause| Self { state: State::Condemned { cause: cause.word() }, ..self };
        match (self.state, cause, blame.run) {
            (State::Waiting | State::Condemned { .. }, ..) => self,
            (_, Some(Cause::Ended), _) => suspect,
            // Another run killed the process: what is known of this one stays as it was.
            (State::Together { run } | State::Alone { run }, _, Some(culprit)) if run != culprit => waits,
            (State::Alone { .. }, Some(cause), Some(_)) if blame.is_certain => condemned(cause),
            (State::Alone { .. }, ..) => suspect.struck(blame.is_sole),
            (State::Together { .. }, ..) => suspect,
        }
    }

    /// It ran alone when a process died that does not say of what. Where it was the only one to run, that counts against
    /// it; where it was not, it goes back to the server after as many times, so that its deliveries count.
    fn struck(self, is_sole: bool) -> Self {
        let strikes = self.strikes + 1;
        match (strikes >= MAX_STRIKES, is_sole) {
            (true, true) => Self { state: State::Condemned { cause: Cause::Killed.word() }, ..self },
            (true, false) => Self { is_suspect: false, strikes: 0, ..self },
            (false, _) => Self { strikes, ..self },
        }
    }

    /// What the next worker does with the job.
    pub(crate) fn verdict(self) -> Verdict {
        match self.state {
            State::Condemned { cause } => Verdict::Condemned(Cause::read(cause).unwrap_or(Cause::Killed)),
            _ if self.is_suspect => Verdict::Suspect,
            _ => Verdict::GiveBack,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAITING: Mark = Mark::FRESH;

    fn together(run: u64) -> Mark {
        Mark { state: State::Together { run }, ..Mark::FRESH }
    }

    fn alone(run: u64) -> Mark {
        Mark { state: State::Alone { run }, ..Mark::FRESH }
    }

    fn verdicts(marks: &[Mark], death: Option<Death>) -> Vec<Verdict> {
        judge(marks, death).into_iter().map(Mark::verdict).collect()
    }

    fn fault(run: Option<u64>) -> Option<Death> {
        Some(Death { cause: Cause::Signal(8), run })
    }

    use Verdict::{Condemned, GiveBack, Suspect};

    #[test]
    fn what_waited_is_given_back_and_what_ran_together_is_suspect() {
        for death in [None, fault(None), fault(Some(1))] {
            assert_eq!(verdicts(&[WAITING, together(1), together(1)], death), [GiveBack, Suspect, Suspect]);
        }
    }

    #[test]
    fn a_fault_condemns_the_job_that_ran_alone_in_the_run_it_names() {
        let marks = [alone(1), alone(2), together(3)];
        assert_eq!(verdicts(&marks, fault(Some(2))), [GiveBack, Condemned(Cause::Signal(8)), GiveBack]);
        // Unnamed, it condemns nobody among several, and the only run where there is one.
        assert_eq!(verdicts(&marks, fault(None)), [Suspect; 3]);
        assert_eq!(verdicts(&[WAITING, alone(2)], fault(None)), [GiveBack, Condemned(Cause::Signal(8))]);
    }

    #[test]
    fn a_kill_from_outside_condemns_only_after_the_third_time() {
        let mut marks = vec![alone(1)];
        for strikes in 1..MAX_STRIKES {
            marks = judge(&marks, None);
            assert_eq!((marks[0].verdict(), marks[0].strikes), (Suspect, strikes));
            marks[0].state = State::Alone { run: 1 };
        }
        assert_eq!(verdicts(&marks, None), [Condemned(Cause::Killed)]);
    }

    #[test]
    fn a_lone_run_among_others_is_never_condemned_by_a_kill_nor_kept_for_ever() {
        let mut marks = vec![alone(1), alone(2)];
        for _ in 1..MAX_STRIKES {
            marks = judge(&marks, None);
            assert!(marks.iter().all(|mark| mark.verdict() == Suspect));
            for (mark, run) in marks.iter_mut().zip(1..) {
                mark.state = State::Alone { run };
            }
        }
        assert_eq!(verdicts(&marks, fault(None)), [GiveBack; 2], "from here on deliveries count");
    }

    #[test]
    fn a_lost_device_blames_a_sole_run_only_and_an_end_of_its_own_will_blames_nobody() {
        let lost = Some(Death { cause: Cause::DeviceLost, run: Some(2) });
        assert_eq!(verdicts(&[alone(1), alone(2)], lost), [Suspect; 2]);
        assert_eq!(verdicts(&[alone(2)], lost), [Condemned(Cause::DeviceLost)]);
        let ended = Some(Death { cause: Cause::Ended, run: None });
        let mut marks = vec![alone(1)];
        for _ in 0..2 * MAX_STRIKES {
            marks = judge(&marks, ended);
            assert_eq!((marks[0].verdict(), marks[0].strikes), (Suspect, 0));
            marks[0].state = State::Alone { run: 1 };
        }
    }

    #[test]
    fn a_suspect_that_has_not_run_yet_stays_one_and_a_condemned_job_stays_condemned() {
        let suspect = Mark { is_suspect: true, ..WAITING };
        let condemned = Mark { state: State::Condemned { cause: Cause::Hung.word() }, ..WAITING };
        assert_eq!(verdicts(&[suspect, condemned], fault(Some(9))), [Suspect, Condemned(Cause::Hung)]);
    }
}
