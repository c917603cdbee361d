//! Rescue: jobs that ordinary delivery cannot bring any more, or must not: those that a dead worker left, by its crash
//! ledger, and those that the server has given up delivering. Both are read by their number.

mod left;
mod recover;
mod stored;
mod sweep;
mod transit;

pub use left::{Claim, Config, Left, claim};
pub use recover::{Recoverer, Stray};
pub use sweep::Sweeper;
