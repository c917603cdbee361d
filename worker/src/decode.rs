//! Decode: an untrusted delivery becomes a job that agrees with itself, or a refusal. Borrows, copies no tensor bytes.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use bytes::Bytes;
use gristmill_schemas::{ErrorCode, InvalidJob, JobBody, JobHeaders, Token, TraceContext};
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
        // Text in headers and body is borrowed from here while the delivery itself moves into the envelope.
        let (header_map, payload) = (delivery.origin.headers.clone(), delivery.origin.payload.clone());
        let mut headers = read_headers(header_map.as_ref());
        let fault = headers.fault.take();
        let body = match fault {
            Some(fault) => Err(fault.into()),
            None => JobBody::decode(&payload, self.max_bytes),
        };
        let body_id = body.as_ref().ok().and_then(|body| body.id);
        let envelope = self.envelope(delivery, now, &headers, body_id);
        let received = envelope.origin.received;
        let deadline = headers.timeout.map(|timeout| deadline(&envelope, timeout));
        match (body, deadline) {
            (_, Some(deadline)) if deadline <= received => Err(Outcome::expired(envelope, deadline, received).into()),
            (Ok(body), _) => Ok(job(envelope, headers.version, body, &payload, deadline)),
            (Err(error), _) => Err(refused(envelope, &error).into()),
        }
    }

    /// Refuses a delivery without reading its body.
    pub fn refuse(&self, delivery: Delivery, now: OffsetDateTime, code: ErrorCode, message: impl ToString) -> Outcome {
        let header_map = delivery.origin.headers.clone();
        let envelope = self.envelope(delivery, now, &read_headers(header_map.as_ref()), None);
        Outcome::refused(envelope, None, code, message)
    }

    fn envelope(
        &self,
        Delivery { ticket, origin }: Delivery,
        now: OffsetDateTime,
        headers: &JobHeaders<'_>,
        body_id: Option<&str>,
    ) -> Box<Envelope> {
        // The sender's own label first, in the header or the body; then the id that deduplicated the submission.
        let id = headers.job_id.or(body_id).or(headers.msg_id);
        let default = || JobHeaders::DEFAULT_REPLY.parse().expect("the default reply is a token");
        Box::new(Envelope {
            id: id.map_or_else(|| format!("{}.{}", self.stream, origin.sequence), str::to_owned),
            reply: headers.reply.clone().unwrap_or_else(default),
            trace: trace(headers.trace),
            in_stream: Duration::try_from(now - origin.published).unwrap_or_default(),
            ticket,
            origin,
        })
    }
}

fn read_headers(headers: Option<&HeaderMap>) -> JobHeaders<'_> {
    JobHeaders::parse(|name| headers?.get(name).map(|value| value.as_str()))
}

fn refused(envelope: Box<Envelope>, error: &InvalidJob) -> Outcome {
    Outcome::refused(envelope, None, error.code(), error)
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
    version: Option<Token>,
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
        version,
        envelope,
        deadline,
        rows,
    }
}
