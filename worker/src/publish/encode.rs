//! Outcomes as messages. Pure; called again where a publish has to be repeated.

use async_nats::header::HeaderValue;
use async_nats::{HeaderMap, HeaderName, Subject};
use bytes::Bytes;
use gristmill_engine::{RowSlice, Rows};
use gristmill_schemas::{
    DeadLetter, ErrorBody, ErrorCode, Namespace, Parameters, ResultBody, Shape, Tensor, Token, TraceContext,
    dead_letter_header, header, replayable_headers,
};
use gristmill_telemetry::Propagation;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::lines::Lines;
use crate::datatype;
use crate::message::{Envelope, Served, find};

/// What stands on every message of this worker.
#[derive(Debug, Clone)]
pub struct Names {
    /// Prefix of subjects and streams.
    pub namespace: Namespace,
    /// This worker.
    pub worker: String,
    /// The jobs stream; part of every dedup id.
    pub jobs: String,
    /// The results stream; a result that another stream takes does not count as stored.
    pub results: String,
    /// The dead-letter stream, likewise.
    pub dlq: String,
    /// What of a job's trace is passed on.
    pub propagation: Propagation,
}

/// Room for the headers that each answer has of its own: two ids of up to 50 bytes and a `traceparent`.
const OWN_HEADERS: usize = 192;

/// How much of the job a dead letter carries. Together with its own headers, a job may be over a limit that it kept alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    All,
    Payload,
    Headers,
    Nothing,
}

impl Keep {
    /// What to try next where this does not fit.
    pub(super) fn less(self) -> Option<Self> {
        match self {
            Self::All => Some(Self::Payload),
            Self::Payload => Some(Self::Headers),
            Self::Headers => Some(Self::Nothing),
            Self::Nothing => None,
        }
    }
}

/// A job on its way out, and the span that its answer is sent by.
#[derive(Debug, Clone, Copy)]
pub(super) struct From<'a> {
    /// The job.
    pub(super) envelope: &'a Envelope,
    /// The span.
    pub(super) context: TraceContext,
    /// `tracestate` and `baggage` go along, if the job has them.
    pub(super) passes_on: bool,
}

/// A message ready to be published.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) subject: Subject,
    pub(super) headers: HeaderMap,
    pub(super) payload: Bytes,
}

impl Message {
    /// Has the server refuse it for any other stream than this one.
    pub(super) fn only_for(&mut self, stream: &str) {
        set(&mut self.headers, header::EXPECTED_STREAM, stream);
    }
}

impl Names {
    /// The dedup id of a job's result: the same in every redelivery and for success and error, so that one is stored.
    pub(super) fn result_id(&self, envelope: &Envelope) -> String {
        let mut id = String::new();
        self.write_result_id(envelope, &mut id);
        id
    }

    fn write_result_id(&self, envelope: &Envelope, to: &mut String) {
        // Until the year 2262; numbers of 128 bits are slow to write.
        let nanos = i64::try_from(envelope.origin.published.unix_timestamp_nanos()).unwrap_or(i64::MAX);
        let (mut sequence, mut time) = (itoa::Buffer::new(), itoa::Buffer::new());
        // Not by `format!`, whose machinery shows in profiles: this stands on every result.
        let parts = [&self.jobs, ".", sequence.format(envelope.origin.sequence), ".", time.format(nanos)];
        parts.into_iter().for_each(|part| to.push_str(part));
    }

    /// Likewise of its dead letter.
    pub(super) fn dead_letter_id(&self, envelope: &Envelope) -> String {
        format!("dlq.{}", self.result_id(envelope))
    }

    /// The result. `head` and `subject`: of [`super::heads::Heads`].
    pub(super) fn result(
        &self,
        from: From<'_>,
        (model, (head, subject)): (&Served, (&Lines, Subject)),
        outputs: &Rows,
        parameters: Parameters,
    ) -> Message {
        let body = ResultBody {
            id: &from.envelope.id,
            model_name: model.name.as_str(),
            model_version: model.version.as_str(),
            outputs: outputs.slices().map(|slice| tensor(model, slice)).collect(),
            parameters,
        };
        let payload = body.encode().into();
        self.reply(from, head, subject, payload)
    }

    pub(super) fn error(&self, from: From<'_>, model: Option<&Served>, code: ErrorCode, message: &str) -> Message {
        let envelope = from.envelope;
        let model_name = envelope.origin.consumer.model.as_str();
        let payload = ErrorBody { id: &envelope.id, model_name, code, message }.encode().into();
        let mut head = self.head(&envelope.origin.consumer.model, model, "error");
        head.add(header::ERROR_CODE, code.as_str());
        let subject = self.namespace.result_subject(&envelope.origin.consumer.model, &envelope.reply);
        self.reply(from, &head, subject.into(), payload)
    }

    /// The headers that all answers of a model share.
    pub(super) fn head(&self, name: &Token, model: Option<&Served>, status: &str) -> Lines {
        let mut head = Lines::default();
        head.add(header::STATUS, status);
        head.add(header::MODEL, name);
        if let Some(model) = model {
            head.add(header::MODEL_VERSION, &model.version);
            head.add(header::MODEL_DIGEST, &model.digest);
        }
        head.add(header::WORKER, &self.worker);
        head
    }

    fn reply(&self, from: From<'_>, head: &Lines, subject: Subject, payload: Bytes) -> Message {
        let mut id = String::with_capacity(head.len() + OWN_HEADERS);
        self.write_result_id(from.envelope, &mut id);
        let mut lines = Lines::after(id);
        lines.add(header::JOB_ID, &from.envelope.id);
        lines.extend(head);
        self.trace(&mut lines, from);
        Message { subject, headers: lines.into_headers(header::MSG_ID), payload }
    }

    /// Our span in the job's trace, and what travels with the trace untouched.
    fn trace(&self, lines: &mut Lines, From { envelope, context, passes_on }: From<'_>) {
        let Propagation { trace_context, baggage } = self.propagation;
        if trace_context {
            lines.add(header::TRACEPARENT, context);
        }
        if !passes_on {
            return;
        }
        for ((name, limit), _) in
            header::PASSED_ON.into_iter().zip([trace_context, baggage]).filter(|(_, passes)| *passes)
        {
            let value = envelope.origin.headers.as_ref().and_then(|headers| find(headers, name));
            if let Some(value) = value.filter(|value| (1..=limit).contains(&value.len())) {
                lines.add(name, value);
            }
        }
    }

    /// The job with its own headers and bytes, as far as they are kept, and what became of it.
    pub(super) fn dead_letter(&self, envelope: &Envelope, code: ErrorCode, error: &str, keep: Keep) -> Message {
        let origin = &envelope.origin;
        let with_payload = matches!(keep, Keep::All | Keep::Payload);
        let kept = origin.headers.iter().filter(|_| matches!(keep, Keep::All | Keep::Headers));
        let mut headers = HeaderMap::new();
        for (name, values) in kept.flat_map(HeaderMap::iter) {
            let name: &str = name.as_ref();
            let Some(Ok(name)) = replayable_headers(name).map(str::parse::<HeaderName>) else { continue };
            values.iter().for_each(|value| headers.append(name.clone(), value.clone()));
        }
        let letter = DeadLetter {
            subject: &origin.subject,
            stream: &self.jobs,
            sequence: origin.sequence,
            consumer: &origin.consumer.name,
            deliveries: origin.deliveries,
            code,
            error,
            worker: &self.worker,
            model: &origin.consumer.model,
            published: &rfc3339(origin.published),
            at: &rfc3339(OffsetDateTime::now_utc()),
            payload: if with_payload { "inline" } else { "omitted" },
        };
        letter.headers().iter().for_each(|(name, value)| set(&mut headers, name, value));
        if matches!(keep, Keep::Payload | Keep::Nothing) {
            set(&mut headers, dead_letter_header::RAW_HEADERS, "omitted");
        }
        set(&mut headers, header::MSG_ID, &self.dead_letter_id(envelope));
        let payload = if with_payload { origin.payload.clone() } else { Bytes::new() };
        let subject = self.namespace.dlq_subject(&origin.consumer.model).into();
        Message { subject, headers, payload }
    }
}

fn tensor<'a>(model: &'a Served, slice: RowSlice<'a>) -> Tensor<'a> {
    Tensor {
        name: &model.signature.outputs[slice.output].name,
        datatype: datatype::wire(slice.dtype),
        shape: Shape::of_rows(slice.rows, slice.tail)
            .expect("outputs were checked against a manifest, which bounds the rank"),
        data: slice.data.into(),
    }
}

fn rfc3339(time: OffsetDateTime) -> String {
    time.format(&Rfc3339).unwrap_or_default()
}

/// Sets a header, or leaves it out where the value cannot be one: a label is not worth a panic.
fn set(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = value.parse::<HeaderValue>() {
        headers.insert(HeaderName::from_static(name), value);
    }
}

#[cfg(test)]
mod tests;
