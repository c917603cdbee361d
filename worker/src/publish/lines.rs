//! The headers of an answer, written as lines.
//!
//! The client keeps headers in a table, with a list of strings for each name, and writes a line for each of them, which takes time that
//! shows (`contest`: `headed relay` beside `relay`). So it is given a single header, the first, whose value goes on with the lines of
//! the others: the client writes name, colon, value and a line break, and what is on the wire is the same (`first_light.rs` holds it).
//! Such a value can only be deserialized, since the client's other ways to make one refuse line breaks; so they are looked for here.

use std::fmt::{Display, Write};

use async_nats::header::HeaderValue;
use async_nats::{HeaderMap, HeaderName};
use serde::Deserialize;
use serde::de::value::StringDeserializer;

/// Headers in the making, each behind the line break that ends the one before. The value of the first may stand in front of them.
#[derive(Debug, Default)]
pub(super) struct Lines(String);

impl Lines {
    /// They follow the value of the first header, which is of our own making, without a line break.
    pub(super) fn after(first: String) -> Self {
        Self(first)
    }

    /// Adds a header, or leaves it out where the value cannot be one: a label is not worth a panic.
    pub(super) fn add(&mut self, name: &'static str, value: impl Display) {
        let before = self.0.len();
        ["\r\n", name, ": "].into_iter().for_each(|part| self.0.push_str(part));
        let from = self.0.len();
        let is_written = write!(self.0, "{value}").is_ok();
        // To the end in any case, many bytes at a time: fewer instructions than to stop at the first.
        let breaks = self.0.as_bytes()[from..].iter().fold(false, |found, &byte| found | matches!(byte, b'\r' | b'\n'));
        if breaks || !is_written {
            self.0.truncate(before);
        }
    }

    /// Adds what another one holds, which follows nothing.
    pub(super) fn extend(&mut self, others: &Self) {
        self.0.push_str(&others.0);
    }

    /// In bytes.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// What the client takes. `name`: of the header whose value stands in front.
    pub(super) fn into_headers(self, name: &'static str) -> HeaderMap {
        let value = StringDeserializer::<serde::de::value::Error>::new(self.0);
        let value =
            HeaderValue::deserialize(value).expect("any string is a header value to serde: the type is transparent");
        HeaderMap::from_iter([(HeaderName::from_static(name), value)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_others_follow_the_first_value() {
        let mut head = Lines::default();
        head.add("B", "2");
        let mut lines = Lines::after("1".into());
        lines.extend(&head);
        lines.add("C", 3);
        let headers = lines.into_headers("A");
        assert_eq!((headers.len(), headers.get("A").unwrap().as_str()), (1, "1\r\nB: 2\r\nC: 3"));
    }

    #[test]
    fn no_value_brings_a_line_of_its_own() {
        let mut lines = Lines::after("1".into());
        for value in ["x\r\nB: 2", "x\n", "\r", "\r\n\r\nbody"] {
            lines.add("Label", value);
        }
        lines.add("C", "");
        assert_eq!(lines.into_headers("A").get("A").unwrap().as_str(), "1\r\nC: ");
    }
}
