//! What the stages report: counters and states that `/status` and `/readyz` read. Written with relaxed atomics by the
//! stages, read as a snapshot by the admin thread; nothing on the data path waits for either.

mod clock;
mod counters;
mod health;
mod log;

pub use clock::{Looks, RunClock};
pub use counters::{Count, Counters};
pub use health::{CeilingReport, Health, Link, ModelReport};
pub use log::{Format, init};
