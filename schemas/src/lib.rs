//! Gristmill's contract, version 1: what travels over NATS and what lies in a model package.
//!
//! Nothing here opens a socket or runs a model. Decoding borrows from the payload, is bounded by [`limits`], never
//! panics, and says what is wrong by naming the thing, the value and the limit. The data model of the bodies is that
//! of the [Open Inference Protocol](https://github.com/kserve/open-inference-protocol), version 2, in MessagePack.
//! `schemas/python` holds a second implementation, written against the same page; `schemas/golden` the bytes both
//! must read and write.

mod datatype;
mod dead_letter;
mod error;
mod headers;
mod job;
pub mod limits;
pub mod manifest;
pub mod metric;
mod replay;
mod result;
mod shape;
mod subject;
mod tensor;
mod token;
#[cfg(feature = "nats")]
pub mod topology;
mod trace;

pub use datatype::Datatype;
pub use dead_letter::{DeadLetter, header as dead_letter_header, replayable_headers};
pub use error::{ErrorCode, InvalidJob};
pub use headers::{InvalidHeader, JobHeaders, name as header};
pub use job::JobBody;
pub use manifest::Manifest;
pub use replay::{Replay, Unreplayable, is_jobs_own, replays};
pub use result::{ErrorBody, InvalidResult, Parameters, Reply, ResultBody};
pub use shape::Shape;
pub use subject::{Lane, Namespace};
pub use tensor::Tensor;
pub use token::{InvalidToken, Token};
pub use trace::TraceContext;
