//! What the stages report: counters and states that `/status` and `/readyz` read, instruments, and the spans of jobs. Written
//! by the stages without waiting, read as a snapshot by whoever wants to know; nothing on the data path waits for either.

mod clock;
mod counters;
mod health;
mod heartbeat;
mod limiter;
mod meters;
mod observed;
mod sampled;
mod slow;
mod trace;

use std::sync::Arc;
use std::time::Instant;

pub use clock::{Looks, RunClock};
pub use counters::{Count, Counters};
pub use health::{CeilingReport, Health, Lag, Link, ModelReport};
pub use heartbeat::Heartbeat;
pub use limiter::Limiter;
pub use meters::{CloseReason, ConsumerMeters, Meters, ModelMeters, Server, Store};
pub use sampled::Sampled;
pub use slow::SlowLog;
pub use trace::{Processing, Templates, Trace, Tracing, destination, job_attributes, wall_time};

pub use gristmill_telemetry::{Snapshots, Spans};

/// Everything that the parts of the worker report to.
#[derive(Clone)]
pub struct Vitals {
    /// States.
    pub health: Arc<Health>,
    /// Totals.
    pub counters: Arc<Counters>,
    /// Instruments.
    pub meters: Arc<Meters>,
    /// Where spans go.
    pub spans: Spans,
    /// Reads the instruments.
    pub snapshots: Snapshots,
    /// Whether the runtime still runs.
    pub heartbeat: Arc<Heartbeat>,
    /// How traces are joined and begun.
    pub tracing: Tracing,
    /// When the worker started.
    pub started: Instant,
}
