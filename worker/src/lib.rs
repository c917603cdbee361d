//! The worker: pulls jobs from JetStream, batches them onto models, stores one result for each, and acknowledges only
//! then. `ARCHITECTURE.md` lists who owns what and which invariants hold.
//!
//! Modules in the order a job meets them.

// Rank 0: what stages say to each other.
mod burst;
mod cores;
mod datatype;
mod link;
mod message;
mod sequences;
pub mod settings;
mod shutdown;
mod signals;
pub mod telemetry;
mod ticket;

// Rank 1: pure decisions about one job.
mod decode;
mod route;
mod status;

// Rank 2: stages. None knows another.
mod admin;
mod batch;
mod connect;
mod intake;
mod lag;
mod publish;
mod registry;
mod rescue;
mod respond;
mod run;
mod settle;

// Rank 3: the whole.
mod app;
mod config;
mod supervise;

pub use admin::Admin;
pub use app::App;
pub use config::Config;
pub use cores::Cores;
pub use signals::Signals;
pub use status::Status;
pub use supervise::{follow_supervisor, supervise};
