//! The crash ledger: a small mapped file that says which jobs a worker holds and which of them are running. It costs a
//! few stores for each job, survives the death of the process (the pages belong to the kernel), and tells the next
//! worker whom to give back at once, whom to run alone, and who killed its predecessor.
//!
//! Modules from the file upwards.

mod map;
mod mark;

mod bookmark;
mod claim;
mod fault;
mod files;
mod judge;
mod record;
mod slot;

pub use bookmark::Bookmark;
pub use claim::{Claimed, Error, Found, Ledger, Reached, Witness};
pub use fault::{end_now, enter, enter_ours, install_fault_handler};
pub use judge::{Cause, Death, MAX_STRIKES, Verdict};
pub use slot::Slot;
