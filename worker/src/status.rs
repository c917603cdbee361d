//! What the worker says of itself to whoever asks: over HTTP and over NATS alike. Pure.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use crate::telemetry::{Health, Vitals};

/// What does not change.
#[derive(Clone)]
pub struct Status {
    /// This worker's name.
    pub worker: String,
    /// Most jobs in flight.
    pub permits: usize,
    /// Everything else.
    pub vitals: Vitals,
}

impl Status {
    /// The status as it is now.
    pub fn read(&self) -> Value {
        let Vitals { health, counters, started, .. } = &self.vitals;
        let Health { in_flight, queued: [online, bulk], models, .. } = &**health;
        let missing = health.missing();
        json!({
            "worker": self.worker,
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_s": started.elapsed().as_secs_f64(),
            "ready": missing.is_empty(),
            "missing": missing,
            "models": models.get().map_or(&[][..], |models| models),
            "permits": { "limit": self.permits, "in_flight": in_flight.load(Ordering::Relaxed) },
            "ceilings": *health.ceilings.borrow(),
            "queued": { "online": online.load(Ordering::Relaxed), "bulk": bulk.load(Ordering::Relaxed) },
            "consumers": *health.lags.borrow(),
            "counters": counters.snapshot(),
        })
    }

    /// The status with every series of every metric.
    pub fn read_all(&self) -> Value {
        let mut status = self.read();
        status["metrics"] = json!(self.vitals.snapshots.take());
        status
    }
}
