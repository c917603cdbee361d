//! From the collector's text to records.

use std::sync::Arc;

use super::lines::{DEEP_INDENT, INDENT, LOG_LINE, Lines, Stop};
use super::parse_metrics::metric;
use super::received::Received;
use super::records::{Attributes, Event, Link, Log, Scope, Span};

/// How a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Whole,
    /// Within a record, which is left out.
    Cut,
}

/// Where a record comes from.
pub(super) struct Origin {
    pub resource: Arc<Attributes>,
    pub scope: Arc<Scope>,
}

/// Adds what `text` tells. It begins where the collector began to print, or where an earlier text ended.
///
/// # Errors
/// If it is not what the collector is known to print.
pub(super) fn read(text: &str, received: &mut Received) -> Result<End, String> {
    let mut lines = Lines::new(text);
    match exports(&mut lines, received) {
        Ok(()) => Ok(if text.is_empty() || text.ends_with('\n') { End::Whole } else { End::Cut }),
        Err(Stop::Cut) => Ok(End::Cut),
        Err(Stop::Odd(what)) => Err(what),
    }
}

fn exports(lines: &mut Lines<'_>, received: &mut Received) -> Result<(), Stop> {
    while lines.peek().is_some() {
        if lines.optional(LOG_LINE).is_some() {
            continue;
        } else if lines.numbered("ResourceSpans") {
            export(lines, ["ScopeSpans", "Span"], |lines, origin| {
                received.add_span(span(lines, origin)?);
                Ok(())
            })?;
        } else if lines.numbered("ResourceMetrics") {
            export(lines, ["ScopeMetrics", "Metric"], |lines, origin| {
                received.metrics.push(metric(lines, origin)?);
                Ok(())
            })?;
        } else if lines.numbered("ResourceLog") {
            export(lines, ["ScopeLogs", "LogRecord"], |lines, origin| {
                received.logs.push(log(lines, origin)?);
                Ok(())
            })?;
        } else {
            return Err(lines.odd("an export"));
        }
    }
    Ok(())
}

/// What one resource sent in one export.
fn export(
    lines: &mut Lines<'_>,
    [scope_name, record_name]: [&str; 2],
    mut record: impl FnMut(&mut Lines<'_>, &Origin) -> Result<(), Stop>,
) -> Result<(), Stop> {
    lines.expect("Resource SchemaURL: ")?;
    let resource = Arc::new(lines.attributes("Resource attributes:", INDENT)?);
    while lines.numbered(scope_name) {
        lines.expect(scope_name)?;
        let scope = match lines.optional("InstrumentationScope ") {
            None => Scope::default(),
            Some(both) => {
                let (name, version) = both.rsplit_once(' ').ok_or_else(|| lines.odd("a name and a version"))?;
                let attributes = lines.attributes("InstrumentationScope attributes:", INDENT)?;
                Scope { name: name.into(), version: version.into(), attributes }
            }
        };
        let origin = Origin { resource: Arc::clone(&resource), scope: Arc::new(scope) };
        while lines.numbered(record_name) {
            record(lines, &origin)?;
        }
    }
    Ok(())
}

fn span(lines: &mut Lines<'_>, origin: &Origin) -> Result<Span, Stop> {
    let trace_id = lines.expect("    Trace ID       : ")?.to_owned();
    let parent_id = present(lines.expect("    Parent ID      : ")?);
    let span_id = lines.expect("    ID             : ")?.to_owned();
    let name = lines.text_until("    Name           : ", "    Kind           : SPAN_KIND_")?;
    let kind = lines.expect("    Kind           : SPAN_KIND_")?.to_owned();
    let trace_state = lines.optional("    TraceState     : ").unwrap_or_default().to_owned();
    let start = lines.parsed("Start time: ")?;
    let end = lines.parsed("End time: ")?;
    let status = lines.expect("    Status code    : STATUS_CODE_")?.to_owned();
    Ok(Span {
        resource: Arc::clone(&origin.resource),
        scope: Arc::clone(&origin.scope),
        trace_id,
        span_id,
        parent_id,
        name,
        kind,
        trace_state,
        start,
        end,
        status,
        status_message: lines.last_text("    Status message : ")?,
        attributes: lines.attributes("Attributes:", INDENT)?,
        events: events(lines)?,
        links: links(lines)?,
    })
}

fn events(lines: &mut Lines<'_>) -> Result<Vec<Event>, Stop> {
    let mut events = Vec::new();
    if lines.optional("Events:").is_some() {
        while lines.numbered("SpanEvent") {
            let name = lines.text_until("     -> Name: ", "     -> Timestamp: ")?;
            let time = lines.parsed("     -> Timestamp: ")?;
            lines.expect("     -> DroppedAttributesCount: ")?;
            events.push(Event { name, time, attributes: lines.attributes("     -> Attributes::", DEEP_INDENT)? });
        }
    }
    Ok(events)
}

fn links(lines: &mut Lines<'_>) -> Result<Vec<Link>, Stop> {
    let mut links = Vec::new();
    if lines.optional("Links:").is_some() {
        while lines.numbered("SpanLink") {
            let trace_id = lines.expect("     -> Trace ID: ")?.to_owned();
            let span_id = lines.expect("     -> ID: ")?.to_owned();
            let trace_state = lines.expect("     -> TraceState: ")?.to_owned();
            lines.expect("     -> DroppedAttributesCount: ")?;
            let attributes = lines.attributes("     -> Attributes::", DEEP_INDENT)?;
            links.push(Link { trace_id, span_id, trace_state, attributes });
        }
    }
    Ok(links)
}

fn log(lines: &mut Lines<'_>, origin: &Origin) -> Result<Log, Stop> {
    let observed = lines.parsed("ObservedTimestamp: ")?;
    let time = lines.parsed("Timestamp: ")?;
    let severity = lines.expect("SeverityText: ")?.to_owned();
    let number = lines.expect("SeverityNumber: ")?;
    let number = number.rsplit_once('(').and_then(|(_, number)| number.strip_suffix(')')?.parse().ok());
    let severity_number = number.ok_or_else(|| lines.odd("a severity"))?;
    let has_name = lines.peek().is_some_and(|line| line.starts_with("EventName: "));
    let event_name = if has_name { lines.text_until("EventName: ", "Body: ")? } else { String::new() };
    let first = lines.expect("Body: ")?;
    Ok(Log {
        resource: Arc::clone(&origin.resource),
        scope: Arc::clone(&origin.scope),
        time,
        observed,
        severity,
        severity_number,
        event_name,
        body: lines.value(first)?,
        attributes: lines.attributes("Attributes:", INDENT)?,
        trace_id: present(lines.expect("    Trace ID       : ")?),
        span_id: present(lines.expect("    Span ID        : ")?),
        flags: lines.parsed("Flags: ")?,
    })
}

fn present(id: &str) -> Option<String> {
    (!id.is_empty()).then(|| id.to_owned())
}
