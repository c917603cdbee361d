//! Bulk scoring of files, all of it that needs no network: rows come out of files, become jobs, answers become rows again and
//! those files. Nothing here knows NATS, a runtime or a model; `gristmill score` feeds and collects.
//!
//! One way, by value: a [`Source`] yields record batches, [`Windows`] cuts them, a [`Window`] is planned into [`Chunk`]s of rows
//! that travel as one job each, [`Gathering`] takes the answers until every row has one, [`Scored`] rows become a part on disk
//! and a line in the [`Ledger`], and the parts become the output. What is promised to users stands in `ops/README.md`.

mod chunk;
mod datatype;
mod desk;
mod format;
mod gather;
mod ledger;
mod lower;
mod mapping;
mod output;
mod plan;
mod run;
mod sink;
mod source;
mod window;

pub use chunk::{Limits, Piece};
pub use desk::{Closed, Desk, Heard, Job, Room, Settings, Stop};
pub use format::Format;
pub use gather::{Gathering, Scored, Unfit};
pub use ledger::{Ledger, Part, Stored, Total, replace};
pub use lower::Fault;
pub use mapping::{Mapping, Wish};
pub use plan::{Errors, Plan};
pub use run::{Facts, Finished, Opened, Run, fingerprint};
pub use sink::Sink;
pub use source::{Batches, Source, npy};
pub use window::{Cut, Window, Windows};

#[cfg(test)]
mod tests;
