//! The last words of a process that dies of a fault: a handler of fatal signals writes the signal and the run of its
//! thread into the ledger, then lets the signal take its course.

use std::cell::Cell;
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::judge::{Cause, Death};
use crate::map::{Header, Map};

/// Faults of a process's own doing. SIGABRT among them: C++ ends that way on an exception that nobody catches.
const SIGNALS: [libc::c_int; 5] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGABRT];

/// The ledger that the handler writes to; a leaked `Arc`, since a signal may come at any time until the very end.
static MAP: AtomicPtr<Map> = AtomicPtr::new(null_mut());

/// What was there before us: Rust's own report of a stack overflow, say.
static BEFORE: OnceLock<[libc::sigaction; SIGNALS.len()]> = OnceLock::new();

thread_local! {
    static RUN: Cell<u64> = const { Cell::new(0) };
}

/// This thread now runs `run`; 0 for none. A fault on it is that run's.
pub fn enter(run: u64) {
    RUN.set(run);
}

/// This thread is ours and runs no model: a fault on it is no job's.
pub fn enter_ours() {
    RUN.set(NO_RUN);
}

/// See [`enter_ours`].
const NO_RUN: u64 = u64::MAX;

/// Writes how the process dies. The first to say so is believed.
pub(crate) fn record(map: &Map, death: Death) {
    // Another word stands there already: then that one counts.
    let _ = map.header(Header::Death).compare_exchange(0, death.word(), Ordering::AcqRel, Ordering::Relaxed);
}

/// Has fatal signals written to this ledger. For the one ledger of the process; later calls do nothing.
pub(crate) fn install(map: &Arc<Map>) {
    let leaked = Arc::into_raw(Arc::clone(map)).cast_mut();
    if MAP.compare_exchange(null_mut(), leaked, Ordering::Release, Ordering::Relaxed).is_err() {
        // SAFETY: it came from `into_raw` just now, and nobody else was given it.
        drop(unsafe { Arc::from_raw(leaked) });
        return;
    }
    let handler: extern "C" fn(libc::c_int, *const libc::siginfo_t, *const libc::c_void) = on_fault;
    // SAFETY: all zero is a valid sigaction: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as usize;
    // On the alternate stack that Rust gives each of its threads, so that an overflown stack can still say so.
    action.sa_flags = libc::SA_ONSTACK | libc::SA_SIGINFO;
    // First what was there is read, then ours is set: the handler must find it whenever it is called.
    BEFORE.get_or_init(|| SIGNALS.map(|signal| swap(signal, None)));
    for signal in SIGNALS {
        swap(signal, Some(&action));
    }
}

/// Sets an action, or none; returns what was set before.
fn swap(signal: libc::c_int, action: Option<&libc::sigaction>) -> libc::sigaction {
    // SAFETY: all zero is a valid sigaction.
    let mut before: libc::sigaction = unsafe { std::mem::zeroed() };
    let action = action.map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: both point to actions that live through the call; a null action only reads. sigaction may be called from a
    // signal handler.
    unsafe { libc::sigaction(signal, action, &raw mut before) };
    before
}

/// Only what may be done in a signal handler: atomic stores, a thread-local without a destructor, getpid, sigaction, raise.
extern "C" fn on_fault(signal: libc::c_int, info: *const libc::siginfo_t, _context: *const libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo_t; the field of the sender is there for signals that were sent.
    let (is_sent, is_own) = unsafe { ((*info).si_code <= 0, (*info).si_pid() == libc::getpid()) };
    // SAFETY: null, or a leaked map that is never freed.
    let map = unsafe { MAP.load(Ordering::Acquire).as_ref() };
    // `kill -ABRT` from outside is no fault of a job's.
    if let Some(map) = map.filter(|_| !is_sent || is_own) {
        record(
            map,
            match RUN.try_with(Cell::get).unwrap_or(0) {
                NO_RUN => Death { cause: Cause::Ended, run: None },
                run => Death { cause: Cause::Signal(signal as u8), run: (run > 0).then_some(run) },
            },
        );
    }
    let at = SIGNALS.iter().position(|known| *known == signal);
    if let (Some(before), Some(at)) = (BEFORE.get(), at) {
        swap(signal, Some(&before[at]));
    }
    // Returning repeats a faulting instruction, now with what was there before. A signal that was sent is sent again.
    if is_sent {
        // SAFETY: sends a signal to this thread, which takes it when the handler returns.
        unsafe { libc::raise(signal) };
    }
}

/// Has a fatal signal of this process written to `ledger`.
pub fn install_fault_handler(ledger: &crate::Ledger) {
    install(ledger.map());
}

/// Ends the process without running what libraries have registered for its end. For ends with an engine still inside its
/// model: it would see them taken down around it, fail of that, and take back what the ledger says of its jobs.
///
/// An end of our own will is no job's fault: the ledger says so, unless it says another reason already.
pub fn end_now(code: u8) -> ! {
    // SAFETY: null, or a leaked map that is never freed.
    if let Some(map) = unsafe { MAP.load(Ordering::Acquire).as_ref() } {
        record(map, Death { cause: Cause::Ended, run: None });
    }
    // SAFETY: ends the process; nothing of it is used afterwards.
    unsafe { libc::_exit(code.into()) }
}
