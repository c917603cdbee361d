//! The Grafana dashboard, made from the table of metrics, so that a metric renamed there is renamed here or breaks the
//! build. Rules are written by hand in `ops/alerts`; a test of this crate holds their names against the same table.

mod dashboard;
mod panel;
mod query;
pub mod recorded;
mod rows;

pub use dashboard::{dashboard, expressions};
