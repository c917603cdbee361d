//! Counts the instructions that a piece of code takes, on machines that are too noisy for a clock and have no hardware counters:
//! the test runs once more, in a process of its own, and that process goes through the piece step by step under ptrace(2).
//!
//! A count repeats to within a percent or so (hash seeds differ), on other processors, too: the C library is told to use routines that
//! all of them have, or it would be its copying that differs. A repeated instruction (`rep movsb`) counts once for each time. Going
//! through 100,000 takes about half a second.

use std::hint::black_box;
use std::io::{Error, Result};
use std::process::{Command, Stdio};

use nix::sys::ptrace;
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// In the process that is counted: the piece.
const PIECE: &str = "GRISTMILL_STEPS";

/// How that process ends where it may not be traced.
const FORBIDDEN: i32 = 77;

/// What a piece of code came to.
#[derive(Debug)]
pub struct Counted<T> {
    /// Its name.
    pub piece: &'static str,
    /// What it returned.
    pub value: T,
    /// Its instructions; `None` where they cannot be counted: no x86-64, a build without optimisation, or no leave to trace.
    pub instructions: Option<u64>,
}

/// For the C library: the routines of any x86-64.
const PLAIN: (&str, &str) = (
    "GLIBC_TUNABLES",
    "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX512BW,-AVX2,-AVX_Fast_Unaligned_Load,-SSSE3,-ERMS,-FSRM",
);

/// What is more than this many percent above a known count is more work, not another C library or compiler.
const LEEWAY: u64 = 15;

impl<T> Counted<T> {
    /// The value. Prints the count.
    ///
    /// # Panics
    /// If the piece took clearly more instructions than it did when `known` was written down: by 15 %.
    #[allow(clippy::print_stdout, reason = "shown with --nocapture")]
    pub fn about(self, known: u64) -> T {
        let Self { piece, value, instructions } = self;
        let Some(instructions) = instructions else {
            println!("{piece}: not counted here");
            return value;
        };
        println!("{piece}: {instructions} instructions");
        let most = known + known * LEEWAY / 100;
        assert!(instructions <= most, "{piece} takes {instructions} instructions, it was {known}, {most} are let pass");
        value
    }
}

/// Runs a piece of a test, and counts it. `test` is the whole path of the test, as the harness prints it; `piece` tells its pieces
/// apart.
///
/// # Panics
/// If there is no such test, or it does not come to this piece.
pub fn count<T>(test: &str, piece: &'static str, code: impl FnOnce() -> T) -> Counted<T> {
    match std::env::var(PIECE) {
        Ok(asked) if asked == piece => be_counted(code),
        // On the way to another piece.
        Ok(_) => Counted { piece, value: code(), instructions: None },
        Err(_) => Counted { piece, value: code(), instructions: of_process(test, piece) },
    }
}

/// Ends the process.
fn be_counted<T>(code: impl FnOnce() -> T) -> ! {
    if ptrace::traceme().is_err() {
        std::process::exit(FORBIDDEN);
    }
    mark();
    // What a mark takes by itself.
    mark();
    let value = black_box(code());
    mark();
    drop(value);
    std::process::exit(0)
}

fn mark() {
    // To this thread alone, which stops here for the tracer.
    raise(Signal::SIGSTOP).expect("a process may stop itself");
}

fn of_process(test: &str, piece: &str) -> Option<u64> {
    if cfg!(any(debug_assertions, not(target_arch = "x86_64"))) {
        return None;
    }
    let this = std::env::current_exe().expect("a test knows its own program");
    let mut command = Command::new(this);
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(PIECE, piece).env(PLAIN.0, PLAIN.1);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut child = child.expect("a test can run itself");
    let counted = follow();
    drop(child.wait());
    counted.unwrap_or_else(|error| panic!("{test}, {piece}: {error}"))
}

/// Follows the process that this thread has started from mark to mark.
fn follow() -> Result<Option<u64>> {
    // Whichever thread of it is traced, and no child of another test.
    let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
    let thread = match waitpid(None, Some(flags))? {
        WaitStatus::Stopped(thread, Signal::SIGSTOP) => thread,
        WaitStatus::Exited(_, FORBIDDEN) => return Ok(None),
        other => return Err(Error::other(format!("no such test, or it does not come to the piece: {other:?}"))),
    };
    // Not all systems that let a process be traced have steps.
    let counted = ptrace::step(thread, None).is_ok().then(|| between_marks(thread)).transpose();
    match counted {
        Ok(Some(_)) => ptrace::detach(thread, None)?,
        Ok(None) | Err(_) => drop(ptrace::kill(thread)),
    }
    counted
}

/// From the second mark to the third, less what a mark takes.
fn between_marks(thread: Pid) -> Result<u64> {
    let own = to_next_mark(thread)?;
    ptrace::step(thread, None)?;
    Ok(to_next_mark(thread)?.saturating_sub(own))
}

/// How many steps it is from here, the first of them under way.
fn to_next_mark(thread: Pid) -> Result<u64> {
    let mut steps = 0;
    loop {
        match waitpid(thread, Some(WaitPidFlag::__WALL))? {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => steps += 1,
            WaitStatus::Stopped(_, Signal::SIGSTOP) => return Ok(steps),
            other => return Err(Error::other(format!("within the piece: {other:?}"))),
        }
        ptrace::step(thread, None)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twice_the_work_takes_twice_the_instructions() {
        let test = "tests::twice_the_work_takes_twice_the_instructions";
        let work = |rounds: u64| (0..rounds).fold(0u64, |sum, round| black_box(sum ^ black_box(round)));
        let counts = ["once", "twice"].map(|piece| {
            let rounds = if piece == "once" { 1000 } else { 2000 };
            count(test, piece, || work(rounds)).instructions
        });
        if let [Some(once), Some(twice)] = counts {
            assert!(once >= 1000 && (19..=21).contains(&(twice * 10 / once)), "{once} and {twice}");
        }
    }

    #[test]
    fn a_test_that_is_not_there_is_told() {
        let counted = std::panic::catch_unwind(|| count("tests::not_there", "piece", || ()).instructions);
        let is_told = |text: &String| text.contains("no such test");
        match counted {
            // Where nothing can be counted nobody looks for the test.
            Ok(instructions) => assert_eq!(instructions, None),
            Err(panic) => assert!(panic.downcast_ref().is_some_and(is_told)),
        }
    }
}
