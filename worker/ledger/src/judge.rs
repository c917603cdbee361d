//! Who killed the predecessor, and what becomes of the jobs it left. Pure.

use crate::mark::{Mark, State};

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

impl Cause {
    pub(crate) fn word(self) -> u64 {
        match self {
            Self::Signal(signal) => 1 | u64::from(signal) << 8,
            Self::Hung => 2,
            Self::DeviceLost => 3,
            Self::Killed => 4,
        }
    }

    pub(crate) fn read(word: u64) -> Option<Self> {
        Some(match word & 0xff {
            1 => Self::Signal((word >> 8) as u8),
            2 => Self::Hung,
            3 => Self::DeviceLost,
            4 => Self::Killed,
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
            Self::Killed => write!(f, "{MAX_STRIKES} workers were killed while they ran this job alone"),
        }
    }
}

/// Judges the jobs that one process left. Returns the new mark of each, in the same order.
pub(crate) fn judge(marks: &[Mark], death: Option<Death>) -> Vec<Mark> {
    let mut runs: Vec<u64> = marks.iter().filter_map(|mark| mark.run()).collect();
    runs.sort_unstable();
    runs.dedup();
    // A fault on a thread of libtorch's own pool names no run; with one run it can be no other.
    let culprit = death.and_then(|death| death.run.or(if let [only] = runs[..] { Some(only) } else { None }));
    marks.iter().map(|mark| mark.after(death, culprit)).collect()
}

impl Mark {
    fn run(&self) -> Option<u64> {
        match self.state {
            State::Together { run } | State::Alone { run } => Some(run),
            State::Waiting | State::Condemned { .. } => None,
        }
    }

    fn after(self, death: Option<Death>, culprit: Option<u64>) -> Self {
        let waits = Self { state: State::Waiting, ..self };
        let suspect = Self { is_suspect: true, ..waits };
        let condemned = |cause: Cause| Self { state: State::Condemned { cause: cause.word() }, ..self };
        match (self.state, death, culprit) {
            (State::Waiting | State::Condemned { .. }, ..) => self,
            // Another run killed the process: what is known of this one stays as it was.
            (State::Together { run } | State::Alone { run }, Some(_), Some(culprit)) if run != culprit => waits,
            (State::Alone { .. }, Some(death), Some(_)) => condemned(death.cause),
            (State::Alone { .. }, None, _) if self.strikes + 1 >= MAX_STRIKES => condemned(Cause::Killed),
            (State::Alone { .. }, None, _) => Self { strikes: self.strikes + 1, ..suspect },
            (State::Together { .. } | State::Alone { .. }, ..) => suspect,
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
    fn a_suspect_that_has_not_run_yet_stays_one_and_a_condemned_job_stays_condemned() {
        let suspect = Mark { is_suspect: true, ..WAITING };
        let condemned = Mark { state: State::Condemned { cause: Cause::Hung.word() }, ..WAITING };
        assert_eq!(verdicts(&[suspect, condemned], fault(Some(9))), [Suspect, Condemned(Cause::Hung)]);
    }
}
