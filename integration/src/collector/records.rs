use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Attributes by key.
pub type Attributes = BTreeMap<String, Value>;

/// An attribute's value, or a log's body. Compares with a `&str` by its text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Value {
    /// Its type on the wire.
    pub kind: Kind,
    /// As printed: `-5`, `true`, `1.5`; arrays as `Str(a), Str(b)`. A double without a fraction reads like an integer.
    pub text: String,
}

/// The type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "they are OTLP's own names")]
pub enum Kind {
    Str,
    Bool,
    Int,
    Double,
    Slice,
    Map,
    Bytes,
    Empty,
}

impl Value {
    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl PartialEq<str> for Value {
    fn eq(&self, other: &str) -> bool {
        self.text == other
    }
}

impl PartialEq<&str> for Value {
    fn eq(&self, other: &&str) -> bool {
        self.text == *other
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Who recorded something: its instrumentation scope.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "they are OTLP's own names")]
pub struct Scope {
    pub name: String,
    pub version: String,
    pub attributes: Attributes,
}

/// A span. Its flags and its counts of what was dropped are not printed, so a test cannot see them.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// Attributes of the process that sent it.
    pub resource: Arc<Attributes>,
    /// The instrumentation that made it.
    pub scope: Arc<Scope>,
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// 16 hexadecimal digits.
    pub span_id: String,
    /// None in a root.
    pub parent_id: Option<String>,
    /// What it did.
    pub name: String,
    /// `CONSUMER`, `INTERNAL`, ...
    pub kind: String,
    /// Empty if there is none.
    pub trace_state: String,
    /// Nanoseconds since 1970.
    pub start: u64,
    /// Nanoseconds since 1970.
    pub end: u64,
    /// `UNSET`, `OK` or `ERROR`.
    pub status: String,
    /// Only an error has one.
    pub status_message: String,
    /// What was said about it.
    pub attributes: Attributes,
    /// In the order they were added.
    pub events: Vec<Event>,
    /// In the order they were added.
    pub links: Vec<Link>,
}

/// What happened at a time within a span.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "they are OTLP's own names")]
pub struct Event {
    pub name: String,
    /// Nanoseconds since 1970.
    pub time: u64,
    pub attributes: Attributes,
}

/// From a span to another one.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "they are OTLP's own names")]
pub struct Link {
    pub trace_id: String,
    pub span_id: String,
    pub trace_state: String,
    pub attributes: Attributes,
}

/// A log record.
#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    /// Attributes of the process that sent it.
    pub resource: Arc<Attributes>,
    /// The instrumentation that made it.
    pub scope: Arc<Scope>,
    /// Nanoseconds since 1970; 0 if nobody set it.
    pub time: u64,
    /// Nanoseconds since 1970.
    pub observed: u64,
    /// As the sender calls it.
    pub severity: String,
    /// 1 to 24; 0 if nobody set it.
    pub severity_number: i32,
    /// What kind of event it is; empty if it is none.
    pub event_name: String,
    /// The message.
    pub body: Value,
    /// The fields.
    pub attributes: Attributes,
    /// Outside of every span, none.
    pub trace_id: Option<String>,
    /// Outside of every span, none.
    pub span_id: Option<String>,
    /// 1: sampled; 2: with a random trace id.
    pub flags: u32,
}
