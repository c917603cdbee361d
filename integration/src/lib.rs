//! Support for black-box tests: real nats-server, real worker, real models, real collector, each on free ports and in
//! temporary directories, ended when dropped. A failing test shows their logs.

mod audit;
mod chaos;
mod cluster;
pub mod collector;
mod jobs;
mod measure;
mod nats;
mod paths;
mod process;
mod proxy;
mod worker;

pub use audit::{Audit, Mlp};
pub use chaos::Chaos;
pub use cluster::Cluster;
pub use collector::Collector;
pub use jobs::{Answer, Jobs, f32s, floats};
pub use measure::{Configure, Speed, median};
pub use nats::{Nats, publish_raw};
pub use paths::{binary, models_with, root, samples};
pub use process::{Ended, Process, free_port, run};
pub use proxy::{Faults, Proxy, Tally};
pub use worker::{Worker, WorkerBuilder};
