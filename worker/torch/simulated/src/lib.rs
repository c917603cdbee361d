//! An accelerator without hardware: what libtorch's accelerators have in common (streams, events, page-locked memory, memory of
//! their own that is used again), made of threads that do their copies late. What forgets to wait reads the wrong bytes.
//!
//! It stands in for CUDA where no GPU is, for the order of copies and runs alone: its operators compute on the CPU, and have
//! computed when they return. The same order on a real device is what `integration/gpu/check.py` runs.

unsafe extern "C" {
    fn simulated_register();
    fn simulated_pending() -> u64;
    fn simulated_pinned_cached() -> i64;
    fn simulated_lose(lost: bool);
    fn simulated_hold();
    fn simulated_release();
}

/// Makes it the accelerator of this process: libtorch knows of one. Of no consequence when called again.
pub fn register() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    // SAFETY: takes nothing and runs once, before anything of the accelerator's is used.
    ONCE.call_once(|| unsafe { simulated_register() });
}

/// Copies that were begun and are not done.
pub fn pending() -> u64 {
    // SAFETY: takes nothing.
    unsafe { simulated_pending() }
}

/// Pieces of page-locked memory that were freed and not given back since.
pub fn pinned_cached() -> i64 {
    // SAFETY: takes nothing.
    unsafe { simulated_pinned_cached() }
}

/// Has the present thread's stream stand still until it is dropped. One at a time.
#[derive(Debug)]
pub struct Held(());

impl Held {
    /// Behind what the stream was given so far.
    #[allow(clippy::new_without_default, reason = "it does something")]
    pub fn new() -> Self {
        // SAFETY: takes nothing.
        unsafe { simulated_hold() };
        Self(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: takes nothing, once after each hold.
        unsafe { simulated_release() };
    }
}

/// Has whatever the device did have made it useless, as an illegal access does, until it is dropped.
#[derive(Debug)]
pub struct Lost(());

impl Lost {
    /// From now on.
    #[allow(clippy::new_without_default, reason = "it does something")]
    pub fn new() -> Self {
        // SAFETY: takes a flag.
        unsafe { simulated_lose(true) };
        Self(())
    }
}

impl Drop for Lost {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { simulated_lose(false) };
    }
}
