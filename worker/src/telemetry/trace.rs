//! A job's place in its trace, and the one span that is open as long as the job is: `process`.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use gristmill_schemas::metric::attribute;
use gristmill_schemas::{ErrorCode, TraceContext};
use gristmill_telemetry::{KeyValue, Kind, Link, Propagation, Sampling, Span, Spans};

use super::limiter::Limiter;
use super::meters::Server;

/// How traces are joined and begun.
#[derive(Debug, Clone)]
pub struct Tracing {
    /// Which are recorded.
    pub sampling: Sampling,
    /// How many of them.
    pub limiter: Arc<Limiter>,
    /// Which headers count.
    pub propagation: Propagation,
    /// The broker, for attributes.
    pub server: Arc<Server>,
    /// Subjects, for attributes.
    pub templates: Templates,
}

/// Subjects without what differs from message to message. Their text is shared by all attributes.
#[derive(Debug, Clone)]
pub struct Templates {
    /// `<namespace>.jobs`
    pub jobs: Arc<str>,
    /// `<namespace>.results`
    pub results: Arc<str>,
    /// `<namespace>.dlq`
    pub dlq: Arc<str>,
}

impl Templates {
    /// Of a namespace with this prefix.
    pub fn new(prefix: &str) -> Self {
        let [jobs, results, dlq] = ["jobs", "results", "dlq"].map(|kind| format!("{prefix}.{kind}").into());
        Self { jobs, results, dlq }
    }
}

/// A job's place in its trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// Our own span: `process`. Where no spans are made, the sender's: what comes behind us belongs below that.
    pub context: TraceContext,
    /// The sender's.
    pub parent: Option<TraceContext>,
    /// Spans are made.
    pub is_recorded: bool,
}

impl Tracing {
    /// Joins the sender's trace, or begins one.
    pub fn join(&self, parent: Option<TraceContext>) -> Trace {
        let parent = parent.filter(|_| self.propagation.trace_context);
        let trace_id = parent.map_or_else(new_trace_id, |parent| parent.trace_id);
        let is_recorded = self.sampling.takes(parent.as_ref(), trace_id) && self.limiter.admit(Instant::now());
        let context = match parent {
            Some(parent) if !is_recorded => parent,
            Some(parent) => TraceContext { span_id: new_span_id(), flags: parent.flags | 1, ..parent },
            // Bit 1 says that the id is random.
            None => TraceContext { trace_id, span_id: new_span_id(), flags: 2 | u8::from(is_recorded) },
        };
        Trace { context, parent, is_recorded }
    }
}

impl Trace {
    /// The context of a new span below ours.
    pub fn child(&self) -> TraceContext {
        self.context.child(new_span_id())
    }

    /// The context of a new recorded trace.
    pub fn root() -> TraceContext {
        TraceContext { trace_id: new_trace_id(), span_id: new_span_id(), flags: 3 }
    }
}

fn new_trace_id() -> [u8; 16] {
    fastrand::u128(1..).to_be_bytes()
}

fn new_span_id() -> [u8; 8] {
    fastrand::u64(1..).to_be_bytes()
}

/// The open `process` span of a recorded job. Moves with the job's ticket, and ends where the server is answered.
#[derive(Debug)]
pub struct Processing {
    /// Its place.
    pub trace: Trace,
    /// When the job was received, on both clocks: times of its other spans are told from these.
    pub received: (SystemTime, Instant),
    /// What is known so far.
    pub attributes: Vec<KeyValue>,
    /// The trace's `tracestate`.
    pub state: Option<String>,
    /// How it failed, if it did.
    pub error: Option<(&'static str, String)>,
    /// `<namespace>.jobs`
    pub template: Arc<str>,
}

/// Wall-clock time of an instant, told from another.
pub fn wall_time((wall, instant): (SystemTime, Instant), at: Instant) -> SystemTime {
    match at.checked_duration_since(instant) {
        Some(later) => wall + later,
        None => wall - instant.saturating_duration_since(at),
    }
}

/// Attributes that say where messages go.
pub fn destination(server: &Server, template: &Arc<str>) -> [KeyValue; 4] {
    [
        KeyValue::new(attribute::SYSTEM, "nats"),
        KeyValue::new(attribute::TEMPLATE, Arc::clone(template)),
        KeyValue::new(attribute::SERVER, server.address.clone()),
        KeyValue::new(attribute::PORT, i64::from(server.port)),
    ]
}

/// Attributes of an operation on messages.
pub fn job_attributes(operation: &'static str, kind: &'static str) -> [KeyValue; 2] {
    [KeyValue::new(attribute::OPERATION, operation), KeyValue::new(attribute::OPERATION_TYPE, kind)]
}

impl Processing {
    /// The job failed of this.
    pub fn fail(&mut self, code: ErrorCode, message: &str) {
        self.error = Some((code.as_str(), message.to_owned()));
    }

    /// Ends the span. `answer`: what the server was told, and from when to when; `None` where it was told nothing.
    pub fn end(self, answer: Option<(&'static str, [Instant; 2])>, spans: &Spans) {
        let Self { trace, received, mut attributes, state, mut error, template } = self;
        let wall = |at| wall_time(received, at);
        let mut end = SystemTime::now();
        if let Some((operation, [from, to])) = answer {
            end = wall(to);
            let mut settle = Span::new(format!("{operation} {template}"), trace.child(), [wall(from), end]);
            settle.state.clone_from(&state);
            let shared = attributes.iter().filter(|pair| SETTLE.contains(&pair.key.as_str())).cloned();
            let mut settle = settle.below(trace.context.span_id).kind(Kind::Client);
            settle.attributes.reserve_exact(SETTLE.len() + 2);
            spans.emit(settle.with(shared).with(job_attributes(operation, "settle")));
        }
        // Nobody is to blame for a job that is given back, but its trace should say that it did not end here.
        if error.is_none() && answer.is_none_or(|(operation, _)| operation == "nak") {
            error = Some(("given_back", "not finished here, to be delivered again".to_owned()));
        }
        attributes.extend(error.iter().map(|(kind, _)| KeyValue::new(attribute::ERROR, *kind)));
        let link = |parent| Link { context: parent, attributes: Vec::new() };
        spans.emit(Span {
            parent: trace.parent.map(|parent| parent.span_id),
            has_remote_parent: trace.parent.is_some(),
            kind: Kind::Consumer,
            attributes,
            links: trace.parent.map(link).into_iter().collect(),
            state,
            error: error.map(|(_, message)| message),
            ..Span::new(format!("process {template}"), trace.context, [received.0, end])
        });
    }
}

/// Attributes of the `process` span that the span of its settlement has, too: what the conventions require, and by what such spans
/// are told apart. The job's own stand on `process` alone.
const SETTLE: [&str; 4] = [attribute::SYSTEM, attribute::TEMPLATE, attribute::CONSUMER, attribute::SERVER];

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn tracing(sampling: Sampling) -> Tracing {
        let server = Arc::new(Server { address: "s".into(), port: 1 });
        let propagation = Propagation { trace_context: true, baggage: true };
        Tracing { sampling, limiter: Limiter::new(0).into(), propagation, server, templates: Templates::new("infer") }
    }

    fn parent(flags: u8) -> Option<TraceContext> {
        Some(TraceContext { trace_id: [7; 16], span_id: [8; 8], flags })
    }

    #[test]
    fn a_job_joins_its_senders_trace_and_its_decision() {
        let tracing = tracing(Sampling::DEFAULT);
        for flags in [0, 1, 2, 3] {
            let trace = tracing.join(parent(flags));
            assert_eq!((trace.context.trace_id, trace.context.flags, trace.parent), ([7; 16], flags, parent(flags)));
            assert_eq!(trace.is_recorded, flags & 1 == 1);
            assert_eq!(trace.context.span_id == [8; 8], !trace.is_recorded, "no parent that nobody knows");
        }
    }

    #[test]
    fn a_job_without_a_trace_begins_one() {
        let never = tracing(Sampling { follows_parent: true, ratio: 0.0 }).join(None);
        assert_eq!((never.is_recorded, never.context.flags, never.parent), (false, 2, None));
        let always = tracing(Sampling { follows_parent: true, ratio: 1.0 }).join(None);
        assert_eq!((always.is_recorded, always.context.flags), (true, 3));
    }

    #[test]
    fn what_is_not_recorded_here_may_be_recorded_behind_us() {
        let trace = tracing(Sampling::OFF).join(parent(1));
        assert_eq!((trace.is_recorded, Some(trace.context)), (false, parent(1)));
        let ours = tracing(Sampling { follows_parent: false, ratio: 1.0 }).join(parent(2));
        assert_eq!((ours.is_recorded, ours.context.flags), (true, 3));
        let mut limited = tracing(Sampling::DEFAULT);
        limited.limiter = Limiter::new(1).into();
        let both = [limited.join(parent(1)), limited.join(parent(1))];
        assert_eq!(both.each_ref().map(|trace| trace.is_recorded), [true, false]);
        assert_eq!(Some(both[1].context), parent(1));
        let mut deaf = tracing(Sampling::DEFAULT);
        deaf.propagation.trace_context = false;
        assert_eq!(deaf.join(parent(1)).parent, None);
    }

    #[test]
    fn times_are_told_from_the_anchor_in_both_directions() {
        let (wall, instant) = (SystemTime::UNIX_EPOCH + Duration::from_secs(100), Instant::now());
        let second = Duration::from_secs(1);
        assert_eq!(wall_time((wall, instant + second), instant), wall - second);
        assert_eq!(wall_time((wall, instant), instant + second), wall + second);
    }
}
