//! Decode: an untrusted delivery becomes a job that agrees with itself, or a refusal. Borrows, copies no tensor bytes.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

use async_nats::HeaderMap;
use bytes::Bytes;
use gristmill_schemas::metric::attribute;
use gristmill_schemas::{ErrorCode, InvalidJob, JobBody, JobHeaders, Token, TraceContext, header, limits};
use gristmill_telemetry::KeyValue;
use time::OffsetDateTime;

use crate::message::{Delivery, Envelope, Input, Job, Marks, Origin, Outcome, Suspicion, find};
use crate::telemetry::{Processing, Trace, Tracing, destination, job_attributes};

/// Reads deliveries.
#[derive(Debug, Clone)]
pub struct Decoder {
    /// Name of the jobs stream; part of the id of jobs that bring none.
    pub stream: Arc<str>,
    /// Most bytes of one body.
    pub max_bytes: usize,
    /// What deliveries before this one tell of a job.
    pub redelivery: Redelivery,
    /// Which jobs are recorded.
    pub tracing: Tracing,
}

/// What the server does with a job that nobody answers.
#[derive(Debug, Clone, Copy)]
pub struct Redelivery {
    /// Delivers it again after this long without a sign of life.
    pub ack_wait: Duration,
    /// Gives up after this many deliveries.
    pub max_deliver: i64,
}

/// What of its headers and body a job is answered by.
struct Address {
    id: String,
    reply: Token,
    /// The sender's place in its trace.
    parent: Option<TraceContext>,
    no_dead_letter: bool,
    passes_on: bool,
}

/// From this delivery on, a job that was not answered in time runs alone. The second may be the end of a drain, whoever
/// ended it; twice is no accident.
const SUSPECT_FROM: i64 = 3;

/// Made once: most jobs name none.
static DEFAULT_REPLY: LazyLock<Token> =
    LazyLock::new(|| JobHeaders::DEFAULT_REPLY.parse().expect("the default reply is a token"));

impl Redelivery {
    /// Whether a job delivered this often, and this long in the stream, may have killed a worker. One that is younger than
    /// `ack_wait` was given back by a living worker each time.
    fn is_suspect(&self, deliveries: i64, in_stream: Duration) -> bool {
        deliveries >= SUSPECT_FROM && in_stream >= self.ack_wait
    }

    /// Whether such a job must not be tried again: should this worker die of it, too, nobody could answer it any more
    /// but by number.
    fn is_spent(&self, deliveries: i64) -> bool {
        deliveries >= self.max_deliver - 1
    }
}

impl Decoder {
    /// Reads one delivery. `now` is the wall clock.
    pub fn decode(&self, delivery: Delivery, now: OffsetDateTime) -> Result<Job, Box<Outcome>> {
        let payload = &delivery.origin.payload;
        let mut headers = read_headers(delivery.origin.headers.as_ref());
        let body = match headers.fault.take() {
            Some(fault) => Err(fault.into()),
            None => JobBody::decode(payload, self.max_bytes),
        };
        let body_id = body.as_ref().ok().and_then(|body| body.id);
        let (version, timeout) = (headers.version.take(), headers.timeout);
        let address = self.address(headers, body_id, delivery.origin.sequence);
        let content = body.map(|body| Content::of(body, payload));
        let envelope = self.envelope(delivery, now, address);
        let (received, deliveries) = (envelope.origin.received, envelope.origin.deliveries);
        let is_suspect = match envelope.origin.suspicion {
            Suspicion::Suspect => true,
            Suspicion::Cleared => false,
            Suspicion::ByDeliveries => self.redelivery.is_suspect(deliveries, envelope.in_stream),
        };
        if is_suspect && self.redelivery.is_spent(deliveries) {
            let most = self.redelivery.max_deliver;
            let text =
                format!("delivered {deliveries} times without an answer, the consumer allows {most}; not run again");
            return Err(Outcome::refused(envelope, None, ErrorCode::Quarantined, text).into());
        }
        let deadline = timeout.map(|timeout| deadline(&envelope, timeout));
        match (content, deadline) {
            (_, Some(deadline)) if deadline <= received => Err(Outcome::expired(envelope, deadline, received).into()),
            (Ok(Content { rows, inputs, outputs }), _) => {
                Ok(Job { envelope, version, deadline, rows, inputs, outputs, is_suspect })
            }
            (Err(error), _) => Err(refused(envelope, &error).into()),
        }
    }

    /// Refuses a delivery without reading its body.
    pub fn refuse(&self, delivery: Delivery, now: OffsetDateTime, code: ErrorCode, message: impl ToString) -> Outcome {
        let address = self.address(read_headers(delivery.origin.headers.as_ref()), None, delivery.origin.sequence);
        let envelope = self.envelope(delivery, now, address);
        Outcome::refused(envelope, None, code, message)
    }

    fn address(&self, headers: JobHeaders<'_>, body_id: Option<&str>, sequence: u64) -> Address {
        // The sender's own label first, in the header or the body; then the id that deduplicated the submission.
        let id = headers.job_id.or(body_id).or(headers.msg_id);
        Address {
            id: id.map_or_else(|| format!("{}.{sequence}", self.stream), str::to_owned),
            reply: headers.reply.unwrap_or_else(|| DEFAULT_REPLY.clone()),
            parent: headers.trace,
            no_dead_letter: headers.no_dead_letter,
            passes_on: headers.passes_on && self.tracing.propagation.passes_on(),
        }
    }

    fn envelope(
        &self,
        Delivery { ticket, origin }: Delivery,
        now: OffsetDateTime,
        Address { id, reply, parent, no_dead_letter, passes_on }: Address,
    ) -> Box<Envelope> {
        let mut envelope = Box::new(Envelope {
            id,
            reply,
            no_dead_letter,
            passes_on,
            trace: self.tracing.join(parent),
            in_stream: Duration::try_from(now - origin.published).unwrap_or_default(),
            marks: Marks { decoded: Instant::now(), queued: None, sealed: None, ran: None },
            ticket,
            origin,
        });
        if envelope.trace.is_recorded {
            let span = self.processing(&envelope.trace, &envelope.origin, &envelope.id, now);
            envelope.ticket.record(span.into());
        }
        envelope
    }

    /// The `process` span of a recorded job, as far as it is known when the job has been read.
    fn processing(&self, trace: &Trace, origin: &Origin, id: &str, now: OffsetDateTime) -> Processing {
        let template = Arc::clone(&self.tracing.templates.jobs);
        let sequence = i64::try_from(origin.sequence).unwrap_or(i64::MAX);
        let consumer = &origin.consumer;
        let msg_id = read_headers(origin.headers.as_ref()).msg_id;
        let mut attributes = Vec::with_capacity(20);
        attributes.extend(destination(&self.tracing.server, &template));
        attributes.extend(job_attributes("process", "process"));
        attributes.extend([
            KeyValue::new("messaging.destination.name", origin.subject.to_string()),
            KeyValue::new(attribute::CONSUMER, Arc::clone(&consumer.name)),
            KeyValue::new(
                "messaging.message.id",
                msg_id.map_or_else(|| format!("{}:{sequence}", self.stream), str::to_owned),
            ),
            KeyValue::new("messaging.message.conversation_id", id.to_owned()),
            KeyValue::new("messaging.message.body.size", i64::try_from(origin.payload.len()).unwrap_or(i64::MAX)),
            KeyValue::new("messaging.nats.stream", Arc::clone(&self.stream)),
            KeyValue::new("messaging.nats.sequence", sequence),
            KeyValue::new("messaging.nats.message.delivery_count", origin.deliveries),
            KeyValue::new(attribute::MODEL, Arc::<str>::from(&consumer.model)),
            KeyValue::new(attribute::LANE, consumer.lane.as_str()),
        ]);
        // The wall clock of intake, moved by what has passed since.
        let received = (SystemTime::from(now), origin.received);
        // As the publish stage passes it on.
        let state = text(origin, header::TRACESTATE).filter(|state| state.len() <= limits::MAX_TRACESTATE_BYTES);
        let state = state.map(str::to_owned);
        Processing { trace: trace.clone(), received, attributes, state, error: None, template }
    }
}

fn read_headers(headers: Option<&HeaderMap>) -> JobHeaders<'_> {
    let headers = headers.into_iter().flat_map(HeaderMap::iter);
    JobHeaders::parse(headers.filter_map(|(name, values)| Some((name.as_ref(), values.first()?.as_str()))))
}

fn refused(envelope: Box<Envelope>, error: &InvalidJob) -> Outcome {
    Outcome::refused(envelope, None, error.code(), error)
}

fn text<'a>(origin: &'a Origin, name: &str) -> Option<&'a str> {
    find(origin.headers.as_ref()?, name).filter(|value| !value.is_empty())
}

/// The deadline on our monotonic clock; in the past if the timeout had passed before the job arrived.
fn deadline(envelope: &Envelope, timeout: Duration) -> Instant {
    let (received, in_stream) = (envelope.origin.received, envelope.in_stream);
    match timeout.checked_sub(in_stream) {
        Some(left) => received + left,
        None => received.checked_sub(in_stream - timeout).unwrap_or(received),
    }
}

/// What a body holds, borrowed no more.
struct Content {
    rows: usize,
    inputs: Vec<Input>,
    outputs: Option<Vec<String>>,
}

impl Content {
    fn of(body: JobBody<'_>, payload: &Bytes) -> Self {
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
        let outputs = body.outputs.map(|names| names.into_iter().map(str::to_owned).collect());
        Self { rows, inputs: inputs.collect(), outputs }
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::telemetry::{Limiter, Server};
    use gristmill_telemetry::{Propagation, Sampling};

    fn tracing() -> Tracing {
        let server = Server { address: "broker".into(), port: 4222 }.into();
        let propagation = Propagation { trace_context: true, baggage: true };
        let limiter = Limiter::new(0).into();
        Tracing {
            sampling: Sampling::DEFAULT,
            limiter,
            propagation,
            server,
            templates: crate::telemetry::Templates::new("infer"),
        }
    }

    /// Records what its sender records.
    pub(crate) fn decoder() -> Decoder {
        let redelivery = Redelivery { ack_wait: Duration::from_secs(30), max_deliver: 20 };
        Decoder { stream: "INFER_JOBS".into(), max_bytes: 1 << 20, redelivery, tracing: tracing() }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::decoder;
    use super::*;
    use crate::message::testing::{delivery, refusal};
    use gristmill_schemas::{Datatype, Shape, Tensor};
    use gristmill_telemetry::Propagation;

    fn body(id: Option<&str>) -> Vec<u8> {
        let shape = Shape::try_new(&[1, 2]).unwrap();
        let x = Tensor { name: "x", datatype: Datatype::Fp32, shape, data: vec![0; 8].into() };
        JobBody { id, inputs: vec![x], outputs: None }.encode()
    }

    fn decode(body: Vec<u8>, headers: &[(&str, &str)]) -> Result<Job, Box<Outcome>> {
        decoder().decode(delivery(body, headers).0, OffsetDateTime::now_utc())
    }

    #[test]
    fn tensor_bytes_and_names_share_the_payloads_memory() {
        let (delivery, _inbox) = delivery(body(None), &[]);
        let range = delivery.origin.payload.as_ptr_range();
        let job = decoder().decode(delivery, OffsetDateTime::now_utc()).unwrap();
        let input = &job.inputs[0];
        assert!(range.contains(&input.data.as_ptr()) && range.contains(&input.name.as_ptr()));
    }

    #[test]
    fn a_job_is_named_by_header_then_body_then_message_id_then_sequence() {
        let id = |body: Vec<u8>, headers: &[(&str, &str)]| decode(body, headers).unwrap().envelope.id;
        let (job, msg) = ((header::JOB_ID, "header"), (header::MSG_ID, "message"));
        assert_eq!(id(body(Some("body")), &[job, msg]), "header");
        assert_eq!(id(body(Some("body")), &[msg]), "body");
        assert_eq!(id(body(None), &[msg]), "message");
        assert_eq!(id(body(None), &[]), "INFER_JOBS.7");
    }

    #[test]
    fn a_refusal_keeps_the_address_and_the_trace() {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let headers =
            [(header::JOB_ID, "j"), (header::REPLY, "r"), (header::TRACEPARENT, parent), (header::TIMEOUT_MS, "x")];
        let outcome = decode(body(None), &headers).unwrap_err();
        assert_eq!(refusal(&outcome).0, ErrorCode::InvalidMessage);
        assert_eq!((outcome.envelope.id.as_str(), outcome.envelope.reply.as_str()), ("j", "r"));
        assert_eq!(outcome.envelope.trace.context.trace_id, TraceContext::parse(parent).unwrap().trace_id);
    }

    #[test]
    fn nothing_is_passed_on_where_no_propagator_does() {
        let passes = |trace_context, baggage| {
            let mut decoder = decoder();
            decoder.tracing.propagation = Propagation { trace_context, baggage };
            let (delivery, _inbox) = delivery(body(None), &[(header::TRACESTATE, "k=v")]);
            decoder.decode(delivery, OffsetDateTime::now_utc()).unwrap().envelope.passes_on
        };
        assert_eq!((passes(true, false), passes(false, false)), (true, false));
    }

    #[test]
    fn a_job_nobody_answered_in_time_is_suspect_and_one_given_back_is_not() {
        let told = |deliveries: i64, seconds: u64| {
            let (mut again, _inbox) = delivery(body(None), &[]);
            let now = OffsetDateTime::now_utc();
            (again.origin.deliveries, again.origin.published) = (deliveries, now - Duration::from_secs(seconds));
            decoder().decode(again, now).map(|job| job.is_suspect).map_err(|outcome| refusal(&outcome).0)
        };
        assert_eq!((told(1, 100), told(2, 100)), (Ok(false), Ok(false)));
        assert_eq!((told(3, 29), told(3, 30)), (Ok(false), Ok(true)));
        assert_eq!((told(18, 100), told(19, 100)), (Ok(true), Err(ErrorCode::Quarantined)));
        assert_eq!(told(19, 1), Ok(false), "given back often is not killed often");
    }

    #[test]
    fn a_timeout_counts_from_when_the_server_stored_the_job() {
        let headers = [(header::TIMEOUT_MS, "1000")];
        let (mut old, _inbox) = delivery(body(None), &headers);
        let now = OffsetDateTime::now_utc();
        old.origin.published = now - Duration::from_millis(400);
        let received = old.origin.received;
        let job = decoder().decode(old, now).unwrap();
        assert_eq!(job.deadline, Some(received + Duration::from_millis(600)));
        let (mut older, _inbox) = delivery(body(None), &headers);
        older.origin.published = now - Duration::from_millis(1500);
        let outcome = decoder().decode(older, now).unwrap_err();
        assert_eq!(refusal(&outcome), (ErrorCode::DeadlineExceeded, "the job's timeout passed 500 ms ago"));
    }
}
