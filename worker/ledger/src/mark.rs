//! What one word says of a job.

/// What a job is doing, and what is known of it from earlier deaths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) state: State,
    /// It ran, perhaps with others, when a process died: it runs alone until it is answered.
    pub(crate) is_suspect: bool,
    /// Processes that were killed from outside while it ran alone.
    pub(crate) strikes: u8,
}

/// What a job is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It is here and not running.
    Waiting,
    /// It runs with others.
    Together { run: u64 },
    /// It runs alone.
    Alone { run: u64 },
    /// It killed a process; the cause, see [`crate::judge::Cause`].
    Condemned { cause: u64 },
}

/// The word of a slot that holds no job.
pub(crate) const FREE: u64 = 0;

/// The word of a slot that holds a bookmark.
pub(crate) const REACHED: u64 = 5;

/// Runs are numbered within this many bits, from 1.
pub(crate) const RUN_BITS: u32 = 48;

impl Mark {
    /// A job that has just come.
    pub(crate) const FRESH: Self = Self { state: State::Waiting, is_suspect: false, strikes: 0 };

    /// The word: kind in bits 0 to 2, suspicion in bit 3, strikes in bits 8 to 15, run or cause in the upper 48.
    pub(crate) fn word(self) -> u64 {
        let (kind, upper) = match self.state {
            State::Waiting => (1, 0),
            State::Together { run } => (2, run),
            State::Alone { run } => (3, run),
            State::Condemned { cause } => (4, cause),
        };
        kind | u64::from(self.is_suspect) << 3 | u64::from(self.strikes) << 8 | upper << (64 - RUN_BITS)
    }

    /// Reads a word; `None` for one that says nothing of a job, [`FREE`] and [`REACHED`] among them.
    pub(crate) fn read(word: u64) -> Option<Self> {
        let upper = word >> (64 - RUN_BITS);
        let state = match word & 0b111 {
            1 => State::Waiting,
            2 => State::Together { run: upper },
            3 => State::Alone { run: upper },
            4 => State::Condemned { cause: upper },
            _ => return None,
        };
        let strikes = (word >> 8 & 0xff) as u8;
        let mark = Self { state, is_suspect: word & 0b1000 != 0, strikes };
        (mark.word() == word).then_some(mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_it_was_written_and_nothing_else_is_read() {
        let run = (1 << RUN_BITS) - 1;
        for state in [State::Waiting, State::Together { run }, State::Alone { run: 7 }, State::Condemned { cause: 8 }] {
            for is_suspect in [false, true] {
                let mark = Mark { state, is_suspect, strikes: 255 };
                assert_eq!(Mark::read(mark.word()), Some(mark));
                assert_eq!(Mark::read(mark.word() | 0b1_0000), None);
            }
        }
        assert_eq!([FREE, REACHED, u64::MAX].map(Mark::read), [None; 3]);
    }
}
