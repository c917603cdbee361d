//! What the dashboard shows, one module for each row.

mod batching;
mod device;
mod latency;
mod models;
mod process;
mod queue;
mod slo;
mod telemetry;
mod traffic;

use crate::panel::Row;

/// The rows from the top.
pub(crate) fn all() -> Vec<Row> {
    vec![
        slo::row(),
        traffic::row(),
        latency::row(),
        batching::row(),
        queue::row(),
        device::row(),
        process::row(),
        telemetry::row(),
        models::row(),
    ]
}
