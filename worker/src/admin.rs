//! Admin: HTTP on its own thread and runtime, reading snapshots only. It answers while the data path is busy or stuck.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{Router, get};
use serde_json::{Value, json};

use crate::telemetry::{Counters, Health};

/// What the pages show.
#[derive(Clone)]
pub struct Admin {
    /// This worker's name.
    pub worker: String,
    /// Most jobs in flight.
    pub permits: usize,
    /// States.
    pub health: Arc<Health>,
    /// Totals.
    pub counters: Arc<Counters>,
}

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("admin.listen {address}: {source}")]
pub struct ListenError {
    address: SocketAddr,
    source: std::io::Error,
}

impl Admin {
    /// Starts listening and serves until the process ends. Returns the address, which tells the port if 0 was asked for.
    pub fn spawn(self, address: SocketAddr) -> Result<SocketAddr, ListenError> {
        let failed = |source| ListenError { address, source };
        let listener = TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let serve = async move {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            axum::serve(listener, self.pages()).await
        };
        let thread = move || {
            gristmill_ledger::enter_ours();
            if let Err(error) = runtime.block_on(serve) {
                tracing::error!(%error, "the admin listener ended");
            }
        };
        std::thread::Builder::new().name("admin".into()).spawn(thread).map_err(failed)?;
        Ok(bound)
    }

    fn pages(self) -> Router {
        Router::new()
            .route("/livez", get(|| async { "alive\n" }))
            .route("/readyz", get(ready))
            .route("/status", get(status))
            .with_state(self)
    }
}

async fn ready(State(admin): State<Admin>) -> (StatusCode, String) {
    match admin.health.missing() {
        missing if missing.is_empty() => (StatusCode::OK, "ready\n".into()),
        missing => (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", missing.join("\n"))),
    }
}

async fn status(State(admin): State<Admin>) -> Json<Value> {
    let Health { in_flight, queued: [online, bulk], models, .. } = &*admin.health;
    let missing = admin.health.missing();
    Json(json!({
        "worker": admin.worker,
        "version": env!("CARGO_PKG_VERSION"),
        "ready": missing.is_empty(),
        "missing": missing,
        "models": models.get().map_or(&[][..], |models| models),
        "permits": { "limit": admin.permits, "in_flight": in_flight.load(Ordering::Relaxed) },
        "ceilings": *admin.health.ceilings.borrow(),
        "queued": { "online": online.load(Ordering::Relaxed), "bulk": bulk.load(Ordering::Relaxed) },
        "counters": admin.counters.snapshot(),
    }))
}
