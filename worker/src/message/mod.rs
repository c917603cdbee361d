//! What travels through the pipeline: `Delivery -> Job -> Batch -> Outcome`, each consuming the one before.

mod engine;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use gristmill_engine::{Part, Rows, Signature};
use gristmill_schemas::{Datatype, ErrorCode, Lane, Parameters, Shape, Token, TraceContext};
use gristmill_telemetry::{KeyValue, Link};
use time::OffsetDateTime;

use crate::telemetry::{CloseReason, ModelMeters, Trace};
use crate::ticket::Ticket;

pub use engine::{AHEAD, Broken, Ceiling, EngineEvent, Instance, MOST_AHEAD, Ran, Report};

/// A message as the server delivered it.
#[derive(Debug)]
pub struct Delivery {
    /// The claim on its settlement.
    pub ticket: Ticket,
    /// What came.
    pub origin: Origin,
}

/// The message itself and where it came from; kept to the end, for the dead letter.
#[derive(Debug)]
pub struct Origin {
    /// Subject it was published to.
    pub subject: Subject,
    /// Its headers, untouched.
    pub headers: Option<HeaderMap>,
    /// Its body, untouched.
    pub payload: Bytes,
    /// Consumer that delivered it.
    pub consumer: Arc<Consumer>,
    /// Sequence in the jobs stream.
    pub sequence: u64,
    /// When the server stored it; the same in every redelivery.
    pub published: OffsetDateTime,
    /// How often it was delivered, this time included.
    pub deliveries: i64,
    /// Jobs still waiting behind it in its consumer.
    pub pending: u64,
    /// When it arrived here.
    pub received: Instant,
    /// Whether it may kill a worker.
    pub suspicion: Suspicion,
}

/// What is known of a delivery before its job is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suspicion {
    /// Its number of deliveries decides.
    ByDeliveries,
    /// It was given back as innocent: this delivery does not count against it.
    Cleared,
    /// A worker died while it ran: it runs alone.
    Suspect,
}

/// A header's first value. Jobs have few headers: to look at each is cheaper than to hash the name, for which the map's own `get`
/// makes a name of its own.
pub fn find<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let (_, values) = headers.iter().find(|(key, _)| AsRef::<str>::as_ref(*key) == name)?;
    values.first().map(|value| value.as_str())
}

/// A durable consumer: one model, one lane.
#[derive(Debug, PartialEq, Eq)]
pub struct Consumer {
    /// Model of its jobs.
    pub model: Token,
    /// Lane of its jobs.
    pub lane: Lane,
    /// Its name on the server.
    pub name: Arc<str>,
}

/// All of a job but its tensors: what an answer of any kind needs.
#[derive(Debug)]
pub struct Envelope {
    /// The claim on the job's settlement.
    pub ticket: Ticket,
    /// What came.
    pub origin: Origin,
    /// The sender's label, or one made of stream and sequence.
    pub id: String,
    /// Last token of the result subject.
    pub reply: Token,
    /// The sender keeps the job's bytes itself.
    pub no_dead_letter: bool,
    /// Of its headers, some go on with the answer.
    pub passes_on: bool,
    /// Its place in the sender's trace, or in a new one.
    pub trace: Trace,
    /// Time from stored by the server to received here, clamped at 0.
    pub in_stream: Duration,
    /// When it was where.
    pub marks: Marks,
}

/// When a job was where; filled on its way, read at its end.
#[derive(Debug)]
pub struct Marks {
    /// It was read.
    pub decoded: Instant,
    /// It was put into its model's queue.
    pub queued: Option<Instant>,
    /// Its batch was closed, and its place among the batch's jobs.
    pub sealed: Option<(Arc<Seal>, usize)>,
    /// Its last run began, and ended.
    pub ran: Option<[Instant; 2]>,
}

/// How a batch was closed; its jobs and the parts it may be taken into share it.
#[derive(Debug)]
pub struct Seal {
    /// When.
    pub at: Instant,
    /// When its oldest job was queued.
    pub first_queued: Instant,
    /// Why.
    pub reason: CloseReason,
    /// How many jobs.
    pub jobs: usize,
    /// How many rows.
    pub rows: usize,
    /// The span of the batch, the root of a trace; there is one if a job is recorded.
    pub trace: Option<TraceContext>,
    /// The recorded jobs' spans.
    pub links: Vec<Link>,
}

/// A job that was read and agrees with itself; whether a model takes it is still open.
#[derive(Debug)]
pub struct Job {
    /// All but the tensors.
    pub envelope: Box<Envelope>,
    /// Pinned model version.
    pub version: Option<Token>,
    /// When its answer stops being of use.
    pub deadline: Option<Instant>,
    /// Rows of every input.
    pub rows: usize,
    /// Inputs, in the sender's order.
    pub inputs: Vec<Input>,
    /// Outputs wanted, in this order; `None` for all.
    pub outputs: Option<Vec<String>>,
    /// It may kill a worker: it runs alone.
    pub is_suspect: bool,
}

/// One input as the sender wrote it. `name` and `data` share the payload's memory.
#[derive(Debug)]
pub struct Input {
    /// UTF-8.
    pub name: Bytes,
    /// Element type.
    pub datatype: Datatype,
    /// Dimensions, rows first.
    pub shape: Shape,
    /// Row-major, little-endian.
    pub data: Bytes,
}

/// A model this worker serves.
#[derive(Debug)]
pub struct Served {
    /// Subject token.
    pub name: Token,
    /// Version token.
    pub version: Token,
    /// `sha256:<hex>` of the model file.
    pub digest: String,
    /// Device its instances run on.
    pub device: Arc<str>,
    /// What it takes and gives.
    pub signature: Arc<Signature>,
    /// Most rows in one batch, and in one job.
    pub max_rows: usize,
    /// Most elements of the largest input in one batch.
    pub max_elements: usize,
    /// How long an idle engine waits for a fuller batch.
    pub max_delay: Duration,
    /// Its batches end at the knee of throughput.
    pub to_knee: bool,
    /// How soon online jobs are to be answered.
    pub target: Option<Duration>,
    /// Lengths that inputs are filled up to, ascending; none for the length of the longest in a batch.
    pub buckets: Vec<usize>,
    /// Its instruments.
    pub meters: Arc<ModelMeters>,
}

impl Served {
    /// The length that a job of this length is filled up to at least: of the buckets, the first that holds it. Above them all, its
    /// own.
    pub fn padded_length(&self, length: usize) -> usize {
        self.buckets.iter().copied().find(|bucket| *bucket >= length).unwrap_or(length)
    }

    /// Elements of a row: of the largest input that is filled up, for each step of its length, and of the largest that is not.
    pub fn row_elements(&self, tails: &Tails) -> [usize; 2] {
        let mut largest = [0; 2];
        for (tail, spec) in tails.iter().zip(&self.signature.inputs) {
            let fixed = tail.iter().enumerate().filter(|(dim, _)| spec.pad.is_none_or(|pad| pad.dim != *dim));
            let elements = fixed.fold(1usize, |product, (_, size)| product.saturating_mul(*size));
            let of_kind = &mut largest[usize::from(spec.pad.is_none())];
            *of_kind = elements.max(*of_kind);
        }
        largest
    }

    /// Which model, as attributes of spans.
    pub fn attributes(&self) -> [KeyValue; 2] {
        self.meters.attributes.clone()
    }
}

/// A job that a model takes.
#[derive(Debug)]
pub struct RoutedJob {
    /// All but the tensors.
    pub envelope: Box<Envelope>,
    /// When its answer stops being of use.
    pub deadline: Option<Instant>,
    /// Its rows, inputs in the order of the signature.
    pub part: Part,
    /// Indices of the outputs wanted, in the order wanted; `None` for all.
    pub wanted: Option<Vec<usize>>,
    /// It may kill a worker: it runs alone.
    pub is_suspect: bool,
}

/// Dimensions behind the rows, one entry for each input. Jobs of the same tails share a batch; where inputs are filled up, the
/// length does not count and is 0 until a batch has one.
pub type Tails = Vec<Vec<usize>>;

/// Jobs that run together.
#[derive(Debug)]
pub struct Batch {
    /// Model they run on.
    pub model: Arc<Served>,
    /// Dimensions they have in common.
    pub tails: Tails,
    /// Length that their inputs are filled up to, if they are.
    pub length: usize,
    /// At least one.
    pub jobs: Vec<RoutedJob>,
    /// How it was closed.
    pub seal: Arc<Seal>,
}

/// A job's end, on its way to be published.
#[derive(Debug)]
pub struct Outcome {
    /// All but the tensors.
    pub envelope: Box<Envelope>,
    /// The answer.
    pub answer: Answer,
}

/// Success or refusal. There is no third exit.
#[derive(Debug)]
pub enum Answer {
    /// Rows of the outputs wanted, and the model that gave them.
    Ok { model: Arc<Served>, outputs: Rows, parameters: Parameters },
    /// Why there are none, and the model that refused, if the job got as far as one.
    Refused { model: Option<Arc<Served>>, code: ErrorCode, message: String },
}

impl Outcome {
    /// Refuses a job.
    pub fn refused(
        envelope: Box<Envelope>,
        model: Option<Arc<Served>>,
        code: ErrorCode,
        message: impl ToString,
    ) -> Self {
        Self { envelope, answer: Answer::Refused { model, code, message: message.to_string() } }
    }

    /// Refuses a job whose deadline has passed.
    pub fn expired(envelope: Box<Envelope>, deadline: Instant, now: Instant) -> Self {
        let late = now.saturating_duration_since(deadline).as_millis();
        Self::refused(envelope, None, ErrorCode::DeadlineExceeded, format!("the job's timeout passed {late} ms ago"))
    }
}

impl Batch {
    /// Rows of all jobs together.
    pub fn rows(&self) -> usize {
        self.jobs.iter().map(|job| job.part.rows).sum()
    }

    /// Elements of the largest input.
    pub fn elements(&self) -> usize {
        let per_row = self.tails.iter().map(|tail| tail.iter().product::<usize>()).max().unwrap_or(0);
        per_row * self.rows()
    }
}

#[cfg(test)]
pub(crate) mod testing;
