//! The streams and consumers a deployment needs, and how they compare with those a server has.
//!
//! What is needed is created if missing. What is there is compared only in what the promises depend on: an operator is
//! free to choose sizes, ages, replicas and placement, but not, say, a results stream that forgets ids too early.

mod apply;
mod compare;
mod wanted;

pub use apply::{Error, Plan, Ready, Step, apply, plan};
pub use compare::Difference;
pub use wanted::{Config, DEFAULT_MAX_HOLD, Topology};
