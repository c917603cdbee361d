use std::collections::{BTreeMap, HashMap};

use super::metrics::{Metric, Point};
use super::records::{Attributes, Log, Span};

/// What a collector received, each kind in the order it came.
#[derive(Debug, Default)]
pub struct Received {
    /// Every span. One that was sent twice is here twice.
    pub spans: Vec<Span>,
    /// Every metric of every export.
    pub metrics: Vec<Metric>,
    /// Every log record.
    pub logs: Vec<Log>,
    /// Places in `spans`, by span id.
    by_id: HashMap<String, Vec<usize>>,
    /// Places in `spans`, by the parent's id.
    by_parent: HashMap<String, Vec<usize>>,
}

impl Received {
    pub(super) fn add_span(&mut self, span: Span) {
        let place = self.spans.len();
        self.by_id.entry(span.span_id.clone()).or_default().push(place);
        if let Some(parent) = &span.parent_id {
            self.by_parent.entry(parent.clone()).or_default().push(place);
        }
        self.spans.push(span);
    }

    /// The span with this id.
    pub fn span(&self, id: &str) -> Option<&Span> {
        self.by_id.get(id).map(|places| &self.spans[places[0]])
    }

    /// Spans of this name.
    pub fn named(&self, name: &str) -> Vec<&Span> {
        self.spans.iter().filter(|span| span.name == name).collect()
    }

    /// Spans whose parent this is.
    pub fn children(&self, of: &Span) -> Vec<&Span> {
        let places = self.by_parent.get(&of.span_id).map(Vec::as_slice).unwrap_or_default();
        let children = places.iter().map(|&place| &self.spans[place]);
        children.filter(|span| span.trace_id == of.trace_id).collect()
    }

    /// The spans of each trace, by trace id.
    pub fn spans_by_trace(&self) -> BTreeMap<&str, Vec<&Span>> {
        let mut traces = BTreeMap::<_, Vec<_>>::new();
        for span in &self.spans {
            traces.entry(span.trace_id.as_str()).or_default().push(span);
        }
        traces
    }

    /// Spans with a link to this one.
    pub fn linking_to(&self, to: &Span) -> Vec<&Span> {
        let is_it = |id: &str, trace: &str| id == to.span_id && trace == to.trace_id;
        let links = |span: &&Span| span.links.iter().any(|link| is_it(&link.span_id, &link.trace_id));
        self.spans.iter().filter(links).collect()
    }

    /// Spans that came more than once: an exporter whose answer was lost sends again.
    pub fn doubled(&self) -> Vec<&Span> {
        self.by_id.values().filter(|places| places.len() > 1).map(|places| &self.spans[places[0]]).collect()
    }

    /// Log records made within this span.
    pub fn logs_of(&self, span: &Span) -> Vec<&Log> {
        let is_of = |log: &&Log| log.span_id.as_ref() == Some(&span.span_id);
        self.logs.iter().filter(is_of).filter(|log| log.trace_id.as_ref() == Some(&span.trace_id)).collect()
    }

    /// Every export of a metric.
    pub fn exports(&self, name: &str) -> Vec<&Metric> {
        self.metrics.iter().filter(|metric| metric.name == name).collect()
    }

    /// The last point of each process and set of attributes. Of a cumulative metric, that is all there is to know. Which
    /// processes there were, their `service.instance.id` tells.
    pub fn latest(&self, name: &str) -> Vec<&Point> {
        let mut latest = BTreeMap::<(&Attributes, &Attributes), &Point>::new();
        for metric in self.exports(name) {
            for point in &metric.points {
                // Exports may overtake each other.
                let last = latest.entry((&*metric.resource, &point.attributes)).or_insert(point);
                if point.time >= last.time {
                    *last = point;
                }
            }
        }
        latest.into_values().collect()
    }

    /// A sum's total, or a histogram's count, over the latest points with these attributes; 0 if there are none.
    pub fn total(&self, name: &str, attributes: &[(&str, &str)]) -> f64 {
        let points = self.latest(name).into_iter().filter(|point| point.has(attributes));
        points.map(Point::total).sum()
    }

    /// A few lines for a test that fails: what came, by name.
    pub(super) fn summary(&self) -> String {
        let list = |names: &mut dyn Iterator<Item = &str>| {
            let mut counts = BTreeMap::<_, usize>::new();
            names.for_each(|name| *counts.entry(name.to_owned()).or_default() += 1);
            format!("{counts:?}")
        };
        let spans = list(&mut self.spans.iter().map(|span| span.name.as_str()));
        let metrics = list(&mut self.metrics.iter().map(|metric| metric.name.as_str()));
        let logs = list(&mut self.logs.iter().map(|log| log.event_name.as_str()));
        format!("spans: {spans}\nexports of metrics: {metrics}\nlog records by event: {logs}")
    }
}
