//! Spans, made when they have ended: an unsampled job costs nothing but the look at its flags.

use std::borrow::Cow;
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use gristmill_schemas::TraceContext;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor};

/// What a span does, as the specification has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Within the process.
    Internal,
    /// Hands a message to the broker.
    Producer,
    /// Processes a message from the broker.
    Consumer,
    /// Asks the broker for something.
    Client,
}

/// A span that has ended.
#[derive(Debug, Clone)]
pub struct Span {
    /// Its own ids.
    pub context: TraceContext,
    /// The span above it.
    pub parent: Option<[u8; 8]>,
    /// Whether that one is in another process.
    pub has_remote_parent: bool,
    /// What it does.
    pub kind: Kind,
    /// A name out of few.
    pub name: Cow<'static, str>,
    /// When it began.
    pub start: SystemTime,
    /// When it ended.
    pub end: SystemTime,
    /// What is known of it.
    pub attributes: Vec<KeyValue>,
    /// Spans of other traces that it belongs to.
    pub links: Vec<Link>,
    /// The trace's `tracestate`, as it came.
    pub state: Option<String>,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

/// A span of another trace.
#[derive(Debug, Clone)]
pub struct Link {
    /// Its ids.
    pub context: TraceContext,
    /// What is known of the relation.
    pub attributes: Vec<KeyValue>,
}

impl Span {
    /// A span within the process, without attributes.
    pub fn new(name: impl Into<Cow<'static, str>>, context: TraceContext, interval: [SystemTime; 2]) -> Self {
        let [start, end] = interval;
        Self {
            context,
            parent: None,
            has_remote_parent: false,
            kind: Kind::Internal,
            name: name.into(),
            start,
            // Clocks of two stages: never before it began.
            end: end.max(start),
            attributes: Vec::new(),
            links: Vec::new(),
            state: None,
            error: None,
        }
    }

    /// Below another span of the process.
    pub fn below(self, parent: [u8; 8]) -> Self {
        Self { parent: Some(parent), ..self }
    }

    /// Of this kind.
    pub fn kind(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    /// With these attributes in addition.
    pub fn with(mut self, attributes: impl IntoIterator<Item = KeyValue>) -> Self {
        self.attributes.extend(attributes);
        self
    }
}

/// Where spans go. A clone is another handle to the same queue.
#[derive(Debug, Clone)]
pub struct Spans(Option<Arc<Queue>>);

#[derive(Debug)]
struct Queue {
    processor: BatchSpanProcessor,
    scope: InstrumentationScope,
    max_links: usize,
}

impl Spans {
    /// Nowhere.
    pub fn off() -> Self {
        Self(None)
    }

    pub(crate) fn new(processor: BatchSpanProcessor, scope: InstrumentationScope, max_links: usize) -> Self {
        Self(Some(Arc::new(Queue { processor, scope, max_links })))
    }

    /// Queues a span. Never waits: one that does not fit is dropped and counted by the queue.
    pub fn emit(&self, span: Span) {
        if let Some(queue) = &self.0 {
            queue.processor.on_end(data(span, queue));
        }
    }

    pub(crate) fn processor(&self) -> Option<&BatchSpanProcessor> {
        self.0.as_ref().map(|queue| &queue.processor)
    }
}

/// The SDK's form of ids.
pub(crate) fn span_context(context: TraceContext, is_remote: bool, state: Option<&str>) -> SpanContext {
    let state = state.and_then(|state| TraceState::from_str(state).ok()).unwrap_or_default();
    let (trace_id, span_id) = (TraceId::from_bytes(context.trace_id), SpanId::from_bytes(context.span_id));
    SpanContext::new(trace_id, span_id, TraceFlags::new(context.flags), is_remote, state)
}

/// Longest text of an error, in bytes: libtorch's come with a stack, and a queue of spans is bounded by number.
const MAX_ERROR: usize = 1024;

fn shortened(mut error: String) -> String {
    if error.len() > MAX_ERROR {
        error.truncate(error.floor_char_boundary(MAX_ERROR));
    }
    error
}

fn data(span: Span, queue: &Queue) -> SpanData {
    let Span { context, parent, has_remote_parent, kind, name, start, end, attributes, mut links, state, error } = span;
    let dropped = links.len().saturating_sub(queue.max_links);
    links.truncate(queue.max_links);
    let links = links.into_iter().map(|Link { context, attributes }| {
        opentelemetry::trace::Link::new(span_context(context, false, None), attributes, 0)
    });
    let mut spans_links = SpanLinks::default();
    spans_links.links = links.collect();
    spans_links.dropped_count = u32::try_from(dropped).unwrap_or(u32::MAX);
    SpanData {
        span_context: span_context(context, false, state.as_deref()),
        parent_span_id: parent.map_or(SpanId::INVALID, SpanId::from_bytes),
        parent_span_is_remote: has_remote_parent,
        span_kind: match kind {
            Kind::Internal => SpanKind::Internal,
            Kind::Producer => SpanKind::Producer,
            Kind::Consumer => SpanKind::Consumer,
            Kind::Client => SpanKind::Client,
        },
        name,
        start_time: start,
        end_time: end,
        attributes,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: spans_links,
        status: error.map_or(Status::Unset, |error| Status::error(shortened(error))),
        instrumentation_scope: queue.scope.clone(),
    }
}
