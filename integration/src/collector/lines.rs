//! The lines of the collector's text, and what stands in more than one kind of record.
//!
//! Nothing is escaped. A text with line breaks goes on until a line ends it and the next line is one that may follow it,
//! which only a text that imitates the format can fool.

use std::str::FromStr;

use super::records::{Attributes, Kind, Value};

/// The types of values, as printed.
const KINDS: [(&str, Kind); 7] = [
    ("Str(", Kind::Str),
    ("Bool(", Kind::Bool),
    ("Int(", Kind::Int),
    ("Double(", Kind::Double),
    ("Slice(", Kind::Slice),
    ("Map(", Kind::Map),
    ("Bytes(", Kind::Bytes),
];

/// What has a number: `Span #0`.
const NUMBERED: [&str; 15] = [
    "ResourceSpans",
    "ScopeSpans",
    "Span",
    "SpanEvent",
    "SpanLink",
    "ResourceMetrics",
    "ScopeMetrics",
    "Metric",
    "NumberDataPoints",
    "HistogramDataPoints",
    "ExponentialHistogramDataPoints",
    "Exemplar",
    "ResourceLog",
    "ScopeLogs",
    "LogRecord",
];

/// Other lines that may follow a text.
const HEADINGS: [&str; 5] = ["Attributes:", "Events:", "Links:", "Exemplars:", "     -> Attributes::"];

/// Beginnings of further lines that may follow a text. The last is a line of the collector's own log.
const BEGINNINGS: [&str; 3] = ["StartTimestamp: ", "    Trace ID       : ", LOG_LINE];

/// How the collector's own log lines begin: a dimmed time.
pub(super) const LOG_LINE: &str = "\x1b[2m2";

/// Before an attribute.
pub(super) const INDENT: &str = "     -> ";

/// Before an attribute of an event or a link.
pub(super) const DEEP_INDENT: &str = "          -> ";

/// Why a record is not there.
#[derive(Debug)]
pub(super) enum Stop {
    /// The text ends within it.
    Cut,
    /// The collector prints something else than we know.
    Odd(String),
}

pub(super) struct Lines<'a> {
    lines: Vec<&'a str>,
    at: usize,
}

impl<'a> Lines<'a> {
    /// Without the last line if that does not end. Not `str::lines`, which takes a carriage return for part of the break.
    pub fn new(text: &'a str) -> Self {
        let lines = text.rfind('\n').map(|end| text[..end].split('\n').collect());
        Self { lines: lines.unwrap_or_default(), at: 0 }
    }

    pub fn peek(&self) -> Option<&'a str> {
        self.lines.get(self.at).copied()
    }

    pub fn next(&mut self) -> Result<&'a str, Stop> {
        let line = self.peek().ok_or(Stop::Cut)?;
        self.at += 1;
        Ok(line)
    }

    /// Takes the next line if it begins so, and gives the rest of it.
    pub fn optional(&mut self, prefix: &str) -> Option<&'a str> {
        let rest = self.peek()?.strip_prefix(prefix)?;
        self.at += 1;
        Some(rest)
    }

    /// The rest of a line that must begin so.
    pub fn expect(&mut self, prefix: &str) -> Result<&'a str, Stop> {
        match self.peek() {
            None => Err(Stop::Cut),
            Some(_) => self.optional(prefix).ok_or_else(|| self.odd(prefix)),
        }
    }

    /// The rest of a line that must begin so, as a number or the like.
    pub fn parsed<T: FromStr>(&mut self, prefix: &str) -> Result<T, Stop> {
        let text = self.expect(prefix)?;
        text.parse().map_err(|_| self.odd(prefix))
    }

    /// As [`Self::parsed`], where the line need not be there.
    pub fn maybe_parsed<T: FromStr>(&mut self, prefix: &str) -> Result<Option<T>, Stop> {
        match self.peek() {
            Some(line) if line.starts_with(prefix) => self.parsed(prefix).map(Some),
            _ => Ok(None),
        }
    }

    /// Takes the next line if it is this name with a number.
    pub fn numbered(&mut self, name: &str) -> bool {
        let is_it = self.peek().is_some_and(|line| number(line) == Some(name));
        self.at += usize::from(is_it);
        is_it
    }

    /// A text behind `prefix`, which goes on until the next line begins with `follower`.
    pub fn text_until(&mut self, prefix: &str, follower: &str) -> Result<String, Stop> {
        let first = self.expect(prefix)?;
        self.go_on(first, |_, next| next.is_some_and(|next| next.starts_with(follower)))
    }

    /// A text behind `prefix` that ends a part of a record.
    pub fn last_text(&mut self, prefix: &str) -> Result<String, Stop> {
        let first = self.expect(prefix)?;
        self.go_on(first, |_, next| next.is_none_or(is_boundary))
    }

    /// A value whose first line begins so.
    pub fn value(&mut self, first: &str) -> Result<Value, Stop> {
        if first == "Empty" {
            return Ok(Value { kind: Kind::Empty, text: String::new() });
        }
        let known = KINDS.iter().find_map(|(name, kind)| Some((first.strip_prefix(name)?, *kind)));
        let (first, kind) = known.ok_or_else(|| self.odd("a value"))?;
        let mut text = self.go_on(first, |line, next| line.ends_with(')') && next.is_none_or(is_boundary))?;
        text.pop();
        Ok(Value { kind, text })
    }

    /// Attributes below `heading`, which is left out where there are none.
    pub fn attributes(&mut self, heading: &str, indent: &str) -> Result<Attributes, Stop> {
        let mut attributes = Attributes::new();
        if self.peek() != Some(heading) {
            return Ok(attributes);
        }
        self.at += 1;
        while let Some((key, first)) = self.peek().and_then(|line| key_and_value(line, indent)) {
            self.at += 1;
            let value = self.value(first)?;
            // No key may come twice, and not every sender sees to it.
            if attributes.insert(key.to_owned(), value).is_some() {
                return Err(self.odd(&format!("one attribute {key} only")));
            }
        }
        Ok(attributes)
    }

    /// What the text does not hold, with the place.
    pub fn odd(&self, wanted: &str) -> Stop {
        let around = &self.lines[self.at.saturating_sub(12)..(self.at + 4).min(self.lines.len())];
        Stop::Odd(format!("expected {wanted:?} about line {} in:\n{}", self.at + 1, around.join("\n")))
    }

    /// A text from `first` on, which the last line was, to a line of which `is_end` is true, given the line after it.
    fn go_on(&mut self, first: &str, is_end: impl Fn(&str, Option<&str>) -> bool) -> Result<String, Stop> {
        let mut text = first.to_owned();
        let mut line = first;
        while !is_end(line, self.peek()) {
            line = self.next()?;
            text.push('\n');
            text.push_str(line);
        }
        Ok(text)
    }
}

/// The name in a line like `Span #0`.
fn number(line: &str) -> Option<&str> {
    let (name, number) = line.split_once(" #")?;
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    (is_number && NUMBERED.contains(&name)).then_some(name)
}

fn is_boundary(line: &str) -> bool {
    number(line).is_some()
        || HEADINGS.contains(&line)
        || BEGINNINGS.iter().any(|beginning| line.starts_with(beginning))
        || [INDENT, DEEP_INDENT].iter().any(|indent| key_and_value(line, indent).is_some())
}

/// A key may hold anything, so it ends where the first value begins.
fn key_and_value<'a>(line: &'a str, indent: &str) -> Option<(&'a str, &'a str)> {
    let pair = line.strip_prefix(indent)?;
    let mut splits = pair.match_indices(": ").map(|(at, _)| (&pair[..at], &pair[at + 2..]));
    splits.find(|(_, value)| *value == "Empty" || KINDS.iter().any(|(name, _)| value.starts_with(name)))
}
