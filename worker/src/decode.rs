//! Decode: an untrusted delivery becomes a job that agrees with itself, or a refusal. Borrows, copies no tensor bytes.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gristmill_schemas::{ErrorCode, InvalidJob, JobBody, JobHeaders, TraceContext, header};
use time::OffsetDateTime;

use crate::message::{Delivery, Envelope, Input, Job, Outcome};

/// Reads deliveries.
#[derive(Debug, Clone)]
pub struct Decoder {
    /// Name of the jobs stream; part of the id of jobs that bring none.
    pub stream: String,
    /// Most bytes of one body.
    pub max_bytes: usize,
}

impl Decoder {
    /// Reads one delivery. `now` is the wall clock.
    pub fn decode(&self, delivery: Delivery, now: OffsetDateTime) -> Result<Job, Box<Outcome>> {
        let Delivery { ticket, origin } = delivery;
        // Text in headers and body is borrowed from here while the origin itself moves into the envelope.
        let (header_map, payload) = (origin.headers.clone(), origin.payload.clone());
        let get = |name: &str| header_map.as_ref()?.get(name).map(|value| value.as_str());
        let headers = JobHeaders::parse(get);
        let body = JobBody::decode(&payload, self.max_bytes);
        let trace = JobHeaders::trace(&get);
        let label = headers.as_ref().ok().and_then(|headers| headers.job_id);
        let body_id = body.as_ref().ok().and_then(|body| body.id);
        let named = header_map.as_ref().is_some_and(|map| map.get(header::JOB_ID).is_some());
        // The sender's own label first, in the header or the body; then the id that deduplicated the submission.
        let id = if named { label.or(body_id) } else { body_id.or(label) };
        let id = id.map(str::to_owned);
        let envelope = self.envelope(Delivery { ticket, origin }, now, id, headers.as_ref().ok(), trace);
        let refuse = |envelope, error: InvalidJob| Box::new(Outcome::refused(envelope, None, error.code(), error));
        let headers = match headers {
            Ok(headers) => headers,
            Err(error) => return Err(refuse(envelope, error.into())),
        };
        let deadline = headers.timeout.map(|timeout| deadline(&envelope, timeout));
        let now = envelope.origin.received;
        if let Some(deadline) = deadline.filter(|deadline| *deadline <= now) {
            return Err(Box::new(Outcome::expired(envelope, deadline, now)));
        }
        match body {
            Ok(body) => Ok(job(envelope, headers, body, &payload, deadline)),
            Err(error) => Err(refuse(envelope, error)),
        }
    }

    /// Refuses a delivery without reading it any further.
    pub fn refuse(&self, delivery: Delivery, now: OffsetDateTime, code: ErrorCode, message: impl ToString) -> Outcome {
        let header_map = delivery.origin.headers.clone();
        let get = |name: &str| header_map.as_ref()?.get(name).map(|value| value.as_str());
        let headers = JobHeaders::parse(get).ok();
        let id = headers.as_ref().and_then(|headers| headers.job_id).map(str::to_owned);
        let envelope = self.envelope(delivery, now, id, headers.as_ref(), JobHeaders::trace(&get));
        Outcome::refused(envelope, None, code, message)
    }

    fn envelope(
        &self,
        Delivery { ticket, origin }: Delivery,
        now: OffsetDateTime,
        id: Option<String>,
        headers: Option<&JobHeaders<'_>>,
        parent: Option<TraceContext>,
    ) -> Box<Envelope> {
        Box::new(Envelope {
            id: id.unwrap_or_else(|| format!("{}.{}", self.stream, origin.sequence)),
            reply: reply(headers),
            trace: trace(parent),
            in_stream: Duration::try_from(now - origin.published).unwrap_or_default(),
            ticket,
            origin,
        })
    }
}

fn reply(headers: Option<&JobHeaders<'_>>) -> gristmill_schemas::Token {
    let reply = headers.and_then(|headers| headers.reply.clone());
    reply.unwrap_or_else(|| JobHeaders::DEFAULT_REPLY.parse().expect("the default reply is a token"))
}

/// The span of our own work in the sender's trace, or the root of a new trace.
fn trace(parent: Option<TraceContext>) -> TraceContext {
    let span_id = fastrand::u64(1..).to_be_bytes();
    match parent {
        Some(parent) => parent.child(span_id),
        // Not sampled, since nobody asked for it; bit 1 says that the trace id is random.
        None => TraceContext { trace_id: fastrand::u128(1..).to_be_bytes(), span_id, flags: 2 },
    }
}

/// The deadline on our monotonic clock; in the past if the timeout had passed before the job arrived.
fn deadline(envelope: &Envelope, timeout: Duration) -> Instant {
    let (received, in_stream) = (envelope.origin.received, envelope.in_stream);
    match timeout.checked_sub(in_stream) {
        Some(left) => received + left,
        None => received.checked_sub(in_stream - timeout).unwrap_or(received),
    }
}

fn job(
    envelope: Box<Envelope>,
    headers: JobHeaders<'_>,
    body: JobBody<'_>,
    payload: &Bytes,
    deadline: Option<Instant>,
) -> Job {
    let rows = body.rows();
    let inputs = body.inputs.into_iter().map(|input| Input {
        name: payload.slice_ref(input.name.as_bytes()),
        datatype: input.datatype,
        shape: input.shape,
        data: match input.data {
            Cow::Borrowed(data) => payload.slice_ref(data),
            Cow::Owned(data) => data.into(),
        },
    });
    Job {
        inputs: inputs.collect(),
        outputs: body.outputs.map(|names| names.into_iter().map(str::to_owned).collect()),
        version: headers.version,
        envelope,
        deadline,
        rows,
    }
}
