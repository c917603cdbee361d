//! An accelerator without hardware: what libtorch's accelerators have in common (streams, events, page-locked memory, memory of
//! their own that is used again), as late as it may be. Nothing is copied before somebody waits for it, and only what has to be:
//! what forgets to wait reads bytes that nobody has written, every time and on any machine.
//!
//! It stands in for CUDA where no GPU is, for the order of copies and runs alone: its operators compute on the CPU, and have
//! computed when they return. What a real device makes of the same code `integration/gpu/check.py` looks at.

use std::ffi::c_int;

unsafe extern "C" {
    fn simulated_register();
    fn simulated_count(what: c_int) -> i64;
    fn simulated_set(what: c_int, value: bool);
    fn simulated_switch();
}

/// Makes it the accelerator of this process: libtorch knows of one. Of no consequence when called again.
pub fn register() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    // SAFETY: takes nothing and runs once, before anything of the accelerator's is used.
    ONCE.call_once(|| unsafe { simulated_register() });
}

/// What it counts.
#[derive(Debug, Clone, Copy)]
pub enum Count {
    /// Copies that were begun and are not done.
    Pending,
    /// Pieces of page-locked memory that were freed and not given back since.
    PinnedCached,
    /// Pieces of page-locked memory that were made.
    PinnedMade,
    /// Number of the present thread's stream; 0 is the one that all share.
    Stream,
}

/// A count.
pub fn count(what: Count) -> i64 {
    // SAFETY: takes a number.
    unsafe { simulated_count(what as c_int) }
}

/// What can be wrong with it.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// Whatever it did has made it useless, as an illegal access does.
    Lost,
    /// It makes no more page-locked memory.
    LacksPinned,
}

/// A fault that lasts until it is dropped.
#[derive(Debug)]
pub struct Faulty(Fault);

impl Faulty {
    /// From now on.
    pub fn new(fault: Fault) -> Self {
        // SAFETY: takes a number and a flag.
        unsafe { simulated_set(fault as c_int, true) };
        Self(fault)
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { simulated_set(self.0 as c_int, false) };
    }
}

/// Gives the present thread another stream, as a model may do.
pub fn switch_stream() {
    // SAFETY: takes nothing.
    unsafe { simulated_switch() };
}
