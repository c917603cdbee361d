//! A process that dies of a fault says so. Each death is that of a child: this test, run again.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use gristmill_ledger::{Cause, Ledger, Verdict, enter, install_fault_handler};
use tempfile::TempDir;

/// Names the directory of the ledger to a child, and how it is to die.
const DIR: &str = "LEDGER_TEST_DIR";
const DEATH: &str = "LEDGER_TEST_DEATH";

const ACK_WAIT: Duration = Duration::from_secs(60);

fn claim(dir: &Path) -> (Ledger, Vec<(u64, Verdict)>) {
    let (ledger, claimed) = Ledger::claim(dir, "infer", 8, ACK_WAIT).unwrap();
    let found = claimed.found.iter().map(|found| (found.sequence, found.verdict)).collect();
    (ledger, found)
}

/// Job 1 waits, job 2 runs alone on the thread that dies, job 3 runs alone on another.
fn child(dir: PathBuf) {
    let (mut ledger, _) = claim(&dir);
    install_fault_handler(&ledger);
    let mut slots: Vec<_> = (1..=3).map(|sequence| ledger.open(sequence, "ack").unwrap()).collect();
    slots[1].run(1, false);
    slots[2].run(2, false);
    let (death, named) = (std::env::var(DEATH).unwrap(), std::env::var("UNNAMED").is_err());
    let dying = std::thread::spawn(move || {
        if named {
            enter(1);
        }
        match death.as_str() {
            "kill" => raise(libc::SIGKILL),
            "abort" => std::process::abort(),
            "overflow" => drop(std::hint::black_box(deepen(0))),
            // SAFETY: it is not; that is the point.
            "segfault" => unsafe { std::ptr::null_mut::<u8>().wrapping_add(8).write_volatile(1) },
            _ => raise(libc::SIGFPE),
        }
    });
    drop(dying.join());
}

fn raise(signal: i32) {
    // SAFETY: sends a signal to this thread.
    unsafe { libc::raise(signal) };
}

#[expect(unconditional_recursion, reason = "it overflows the stack")]
fn deepen(n: u64) -> u64 {
    std::hint::black_box(deepen(std::hint::black_box(n + 1)) + 1)
}

/// The child's signal, and what its successor finds.
fn die(death: &str, unnamed: bool) -> (Option<i32>, Vec<Verdict>) {
    let dir = TempDir::new().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "a_fault_is_told_and_takes_its_course", "--nocapture"]);
    command.env(DIR, dir.path()).env(DEATH, death).stderr(Stdio::null()).stdout(Stdio::null());
    if unnamed {
        command.env("UNNAMED", "");
    }
    let status = command.status().unwrap();
    let (_ledger, mut found) = claim(dir.path());
    found.sort_by_key(|(sequence, _)| *sequence);
    (status.signal(), found.into_iter().map(|(_, verdict)| verdict).collect())
}

#[test]
fn a_fault_is_told_and_takes_its_course() {
    if let Some(dir) = std::env::var_os(DIR) {
        return child(dir.into());
    }
    let give_back = Verdict::GiveBack;
    let faults = [
        ("fpe", libc::SIGFPE),
        ("segfault", libc::SIGSEGV),
        ("abort", libc::SIGABRT),
        // Rust's own handler reports the overflow, and aborts: ours has seen the first signal.
        ("overflow", libc::SIGABRT),
    ];
    for (death, signal) in faults {
        let (ended, verdicts) = die(death, false);
        assert_eq!(ended, Some(signal), "{death}");
        let Verdict::Condemned(Cause::Signal(told)) = verdicts[1] else { panic!("{death}: {verdicts:?}") };
        assert!(i32::from(told) == signal || death == "overflow", "{death}: signal {told}");
        assert_eq!((verdicts[0], verdicts[2]), (give_back, give_back), "{death}");
    }
    // A fault on a thread that runs nothing, and a kill: neither says which of the two it was.
    for (death, unnamed) in [("fpe", true), ("kill", false)] {
        assert_eq!(die(death, unnamed).1, [give_back, Verdict::Suspect, Verdict::Suspect], "{death}");
    }
}
