//! Support for black-box tests: real nats-server, real worker, real models, each on free ports and in temporary
//! directories, ended when dropped. A failing test shows their logs.

mod jobs;
mod nats;
mod paths;
mod process;
mod worker;

pub use jobs::{Answer, Jobs, f32s, floats};
pub use nats::Nats;
pub use paths::{binary, models_with, root, samples};
pub use process::{Ended, Process, free_port, run};
pub use worker::{Worker, WorkerBuilder};
