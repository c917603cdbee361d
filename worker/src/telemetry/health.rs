use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use gristmill_schemas::manifest::Signature;
use serde::Serialize;
use tokio::sync::watch;

/// States of the worker. Each is written by one owner, named in its doc.
#[derive(Debug, Default)]
pub struct Health {
    /// The NATS connection. Written by the client's event callback.
    pub link: watch::Sender<Link>,
    /// Jobs are being pulled. Written by the intake task.
    pub pulling: AtomicBool,
    /// The end was announced. Written by the app.
    pub draining: AtomicBool,
    /// Jobs accepted and not settled. Written by the intake task.
    pub in_flight: AtomicUsize,
    /// Jobs waiting for a batch, online and bulk. Written by the batch task.
    pub queued: [AtomicUsize; 2],
    /// Bytes of the device's memory in tensors, and kept for the next ones; 0 where models run in the host's. Written by engine
    /// threads, after each batch.
    pub device_memory: [AtomicU64; 2],
    /// Models served. Written once by the registry.
    pub models: OnceLock<Vec<ModelReport>>,
    /// Why results cannot be stored at present; intake asks for no jobs meanwhile. Written by the publish task.
    pub stalled: watch::Sender<Option<String>>,
    /// Ceilings learned from lacks of memory, below what the packages allow. Written by the batch task.
    pub ceilings: watch::Sender<Vec<CeilingReport>>,
    /// Consumers that refuse pulls, and why. Written by the intake task.
    pub refusing: watch::Sender<BTreeMap<String, String>>,
    /// What the server says of each consumer. Written by the lag task.
    pub lags: watch::Sender<Vec<Lag>>,
    /// Why the process is about to end by itself. Written once by the app.
    pub failed: OnceLock<String>,
}

/// What the server says of a consumer: of all workers together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Lag {
    /// Its name.
    pub consumer: String,
    /// Jobs not delivered yet.
    pub pending: u64,
    /// Jobs delivered and not settled.
    pub ack_pending: u64,
    /// Most of them.
    pub ack_limit: u64,
    /// Jobs delivered more than once and not settled.
    pub redelivered: u64,
    /// Open pulls.
    pub waiting: u64,
}

/// What `/status` says of a lack of memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CeilingReport {
    /// The model.
    pub model: String,
    /// Dimensions behind the rows, one entry for each input.
    pub shape: Vec<Vec<usize>>,
    /// Most rows in one batch at present.
    pub max_rows: usize,
}

/// The state of the NATS connection.
#[derive(Debug, Clone, Copy, Default)]
pub struct Link {
    /// It is up.
    pub is_up: bool,
    /// How often it was lost.
    pub losses: u64,
}

/// What `/status` says of one model package.
#[derive(Debug, Clone, Serialize)]
pub struct ModelReport {
    /// Model name; for a refused package, that of its directory.
    pub name: String,
    /// Version.
    pub version: String,
    /// `sha256:<hex>` of the file.
    pub digest: String,
    /// Device of its instances.
    pub device: String,
    /// Number of instances.
    pub instances: usize,
    /// What it takes and gives; none for a refused package.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signature>,
    /// Why the package is not served, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

impl Health {
    /// What has to hold for the worker to be ready, by name; with the reason where it does not.
    pub fn checks(&self) -> [(&'static str, Option<String>); 7] {
        let on = |state: &AtomicBool| state.load(Ordering::Relaxed);
        let unless = |holds: bool, what: &str| (!holds).then(|| what.to_owned());
        let is_loaded = self.models.get().is_some();
        let refusing = self.refusing.borrow().iter().map(|(name, why)| format!("{name}: {why}")).collect::<Vec<_>>();
        let refused = format!("consumers refuse pulls: {}", refusing.join(", "));
        [
            ("models", unless(is_loaded, "models are not loaded yet")),
            ("nats", unless(self.link.borrow().is_up, "NATS is not connected")),
            ("consumers", unless(refusing.is_empty(), &refused)),
            ("pulling", unless(on(&self.pulling), "jobs are not being pulled")),
            ("draining", unless(!on(&self.draining), "the worker is draining")),
            ("results", self.stalled.borrow().clone().map(|why| format!("results cannot be stored: {why}"))),
            ("engines", self.failed.get().map(|why| format!("the worker is about to end: {why}"))),
        ]
    }

    /// What keeps the worker from being ready; empty when it is.
    pub fn missing(&self) -> Vec<String> {
        self.checks().into_iter().filter_map(|(_, fault)| fault).collect()
    }
}
