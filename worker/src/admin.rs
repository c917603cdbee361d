//! Admin: HTTP on its own thread and runtime, reading snapshots only. It answers while the data path is busy or stuck.

use std::net::{SocketAddr, TcpListener};
use std::time::Instant;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{Router, get};
use gristmill_telemetry::prometheus_text;
use serde_json::Value;

use crate::status::Status;

/// The pages.
#[derive(Clone)]
pub struct Admin {
    /// What they show.
    pub status: Status,
    /// Whether there is a page for Prometheus.
    pub has_metrics: bool,
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
        let pages = Router::new().route("/livez", get(live)).route("/readyz", get(ready)).route("/status", get(status));
        let pages = if self.has_metrics { pages.route("/metrics", get(metrics)) } else { pages };
        pages.with_state(self.status)
    }
}

/// Only whether the runtime runs its tasks: a restart mends neither the broker nor a collector.
async fn live(State(status): State<Status>) -> (StatusCode, String) {
    match status.vitals.heartbeat.silence(Instant::now()) {
        None => (StatusCode::OK, "alive\n".into()),
        Some(silence) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("the runtime has not run a task for {} s\n", silence.as_secs()))
        }
    }
}

async fn ready(State(status): State<Status>) -> (StatusCode, String) {
    match status.vitals.health.missing() {
        missing if missing.is_empty() => (StatusCode::OK, "ready\n".into()),
        missing => (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", missing.join("\n"))),
    }
}

async fn status(State(status): State<Status>) -> Json<Value> {
    Json(status.read())
}

async fn metrics(State(status): State<Status>) -> impl IntoResponse {
    let content = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (content, prometheus_text(&status.vitals.snapshots.take()))
}
