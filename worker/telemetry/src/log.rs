use std::fmt;
use std::str::FromStr;

use gristmill_schemas::TraceContext;
use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::span::span_context;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// One JSON object per line.
    Json,
    /// For people.
    Text,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "json" => Ok(Self::Json),
            "text" => Ok(Self::Text),
            other => Err(format!("{other:?} is none of auto, json, text")),
        }
    }
}

/// Log events inside carry the ids of this span, on standard output and over OTLP.
pub fn within<T>(context: TraceContext, log: impl FnOnce() -> T) -> T {
    let _attached = Context::new().with_remote_span_context(span_context(context, true, None)).attach();
    log()
}

/// One JSON object per line: `timestamp`, `level`, `target`, `message`, `service.*`, `trace_id`, `span_id` and `trace_flags`
/// where there is a span, and the event's fields.
pub(crate) struct Json {
    pub(crate) service: String,
    pub(crate) instance: String,
}

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let metadata = event.metadata();
        let mut line = Map::new();
        let mut set = |key: &str, value: Value| drop(line.insert(key.to_owned(), value));
        set("timestamp", OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default().into());
        set("level", metadata.level().as_str().into());
        set("target", metadata.target().into());
        set("service.name", self.service.as_str().into());
        set("service.instance.id", self.instance.as_str().into());
        Context::map_current(|current| {
            let span = current.span().span_context().clone();
            if span.is_valid() {
                set("trace_id", span.trace_id().to_string().into());
                set("span_id", span.span_id().to_string().into());
                set("trace_flags", format!("{:02x}", span.trace_flags().to_u8()).into());
            }
        });
        event.record(&mut Fields(&mut line));
        writeln!(writer, "{}", Value::Object(line))
    }
}

/// The fields of an event, as JSON. A field named like one of the line's own does not replace it.
struct Fields<'a>(&'a mut Map<String, Value>);

impl Fields<'_> {
    fn set(&mut self, field: &Field, value: Value) {
        if !self.0.contains_key(field.name()) {
            self.0.insert(field.name().to_owned(), value);
        }
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_is_one_json_object_with_the_ids_of_the_span() {
        let sink = Sink::default();
        let writer = sink.clone();
        let json = Json { service: "s".into(), instance: "i".into() };
        let subscriber = tracing_subscriber::fmt().event_format(json).with_writer(move || writer.clone()).finish();
        let context = TraceContext { trace_id: [0xab; 16], span_id: [1; 8], flags: 1 };
        tracing::subscriber::with_default(subscriber, || {
            within(context, || tracing::info!(n = 3u64, odd = "a\"\n", level = "mine", "said"));
            tracing::warn!("outside");
        });
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0]["trace_id"], "ab".repeat(16));
        assert_eq!((&lines[0]["span_id"], &lines[0]["trace_flags"]), (&"01".repeat(8).into(), &"01".into()));
        assert_eq!(
            (&lines[0]["message"], &lines[0]["n"], &lines[0]["odd"]),
            (&"said".into(), &3.into(), &"a\"\n".into())
        );
        assert_eq!((&lines[0]["level"], &lines[0]["service.name"]), (&"INFO".into(), &"s".into()));
        assert!(lines[1].get("trace_id").is_none() && lines.len() == 2);
    }
}
