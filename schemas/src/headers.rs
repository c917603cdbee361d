use std::time::Duration;

use crate::limits::{MAX_ID_BYTES, MAX_TIMEOUT_MS};
use crate::token::Token;
use crate::trace::TraceContext;

/// Header names, as they are on the wire. NATS header names are case-sensitive.
pub mod name {
    /// The job's label; shown and returned, not used for deduplication.
    pub const JOB_ID: &str = "Gristmill-Job-Id";
    /// Last token of the result subject.
    pub const REPLY: &str = "Gristmill-Reply";
    /// Milliseconds from the time the server stored the job.
    pub const TIMEOUT_MS: &str = "Gristmill-Timeout-Ms";
    /// Pins a model version.
    pub const VERSION: &str = "Gristmill-Version";
    /// `none`, where the sender keeps the job's bytes itself.
    pub const DEAD_LETTER: &str = "Gristmill-Dead-Letter";
    /// JetStream's deduplication id.
    pub const MSG_ID: &str = "Nats-Msg-Id";
    /// `ok` or `error`, on results.
    pub const STATUS: &str = "Gristmill-Status";
    /// An [`crate::ErrorCode`], on error results.
    pub const ERROR_CODE: &str = "Gristmill-Error-Code";
    /// Model that answered.
    pub const MODEL: &str = "Gristmill-Model";
    /// Its version.
    pub const MODEL_VERSION: &str = "Gristmill-Model-Version";
    /// SHA-256 of its file, `sha256:<hex>`.
    pub const MODEL_DIGEST: &str = "Gristmill-Model-Digest";
    /// Worker that answered.
    pub const WORKER: &str = "Gristmill-Worker";
    /// W3C trace context.
    pub const TRACEPARENT: &str = "traceparent";
    /// W3C trace state, passed through.
    pub const TRACESTATE: &str = "tracestate";
    /// W3C baggage, passed through.
    pub const BAGGAGE: &str = "baggage";
    /// What travels with a trace, and the longest of each that is passed on with the answer.
    pub const PASSED_ON: [(&str, usize); 2] =
        [(TRACESTATE, crate::limits::MAX_TRACESTATE_BYTES), (BAGGAGE, crate::limits::MAX_BAGGAGE_BYTES)];
    /// Makes JetStream refuse a message that the wrong stream would store.
    pub const EXPECTED_STREAM: &str = "Nats-Expected-Stream";
}

/// A header whose value the contract does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("header {name} is {value:?}: {limit}")]
pub struct InvalidHeader {
    /// Which header.
    pub name: &'static str,
    /// Its value, shortened.
    pub value: String,
    /// What would be allowed.
    pub limit: &'static str,
}

/// What a job's headers say. All are optional; one that is invalid counts as absent, and the first such is kept in
/// `fault`, so that the refusal can still be addressed by the others.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JobHeaders<'a> {
    /// `Gristmill-Job-Id`.
    pub job_id: Option<&'a str>,
    /// `Nats-Msg-Id`, the label of jobs that have no other.
    pub msg_id: Option<&'a str>,
    /// Last token of the result subject.
    pub reply: Option<Token>,
    /// Counted from the time the server stored the job.
    pub timeout: Option<Duration>,
    /// Pinned model version.
    pub version: Option<Token>,
    /// The sender wants no dead letter of a job that is refused for its own fault.
    pub no_dead_letter: bool,
    /// The sender's trace; `None` also where the header is malformed, which is no fault, as W3C asks.
    pub trace: Option<TraceContext>,
    /// There is one of those that are passed on, see [`name::PASSED_ON`].
    pub passes_on: bool,
    /// The first header that is invalid.
    pub fault: Option<InvalidHeader>,
}

impl<'a> JobHeaders<'a> {
    /// The reply token of jobs that name none.
    pub const DEFAULT_REPLY: &'static str = "all";

    /// Reads headers, names and values in any order.
    pub fn parse(headers: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let given = Given::of(headers);
        let mut fault = None;
        Self {
            job_id: read(given.job_id, name::JOB_ID, check_id, &mut fault),
            // Another program's deduplication id may be anything; as a label it has to be presentable.
            msg_id: given.msg_id.and_then(|id| check_id(id).ok()),
            reply: read(given.reply, name::REPLY, token, &mut fault),
            timeout: read(given.timeout, name::TIMEOUT_MS, timeout, &mut fault),
            version: read(given.version, name::VERSION, token, &mut fault),
            no_dead_letter: read(given.dead_letter, name::DEAD_LETTER, none, &mut fault).is_some(),
            trace: given.traceparent.or(given.capital_traceparent).and_then(TraceContext::parse),
            passes_on: given.passes_on,
            fault,
        }
    }
}

/// The values that are of use, found on one walk: to look up each name in the client's table would hash it.
#[derive(Default)]
struct Given<'a> {
    job_id: Option<&'a str>,
    msg_id: Option<&'a str>,
    reply: Option<&'a str>,
    timeout: Option<&'a str>,
    version: Option<&'a str>,
    dead_letter: Option<&'a str>,
    traceparent: Option<&'a str>,
    /// `Traceparent`, as libraries for HTTP write it.
    capital_traceparent: Option<&'a str>,
    passes_on: bool,
}

impl<'a> Given<'a> {
    fn of(headers: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut given = Self::default();
        for (name, value) in headers {
            let place = match name {
                name::JOB_ID => &mut given.job_id,
                name::MSG_ID => &mut given.msg_id,
                name::REPLY => &mut given.reply,
                name::TIMEOUT_MS => &mut given.timeout,
                name::VERSION => &mut given.version,
                name::DEAD_LETTER => &mut given.dead_letter,
                name::TRACEPARENT => &mut given.traceparent,
                "Traceparent" => &mut given.capital_traceparent,
                other => {
                    given.passes_on |= name::PASSED_ON.iter().any(|(passed, _)| *passed == other);
                    continue;
                }
            };
            place.get_or_insert(value);
        }
        given
    }
}

/// What a value would have to be.
type Limit = &'static str;

fn read<'a, T>(
    value: Option<&'a str>,
    name: &'static str,
    parse: impl Fn(&'a str) -> Result<T, Limit>,
    fault: &mut Option<InvalidHeader>,
) -> Option<T> {
    let value = value?;
    match parse(value) {
        Ok(parsed) => Some(parsed),
        Err(limit) => {
            let value = value.chars().take(80).collect();
            fault.get_or_insert(InvalidHeader { name, value, limit });
            None
        }
    }
}

fn check_id(value: &str) -> Result<&str, Limit> {
    if value.is_empty() || value.len() > MAX_ID_BYTES || value.chars().any(char::is_control) {
        return Err("an id has 1 to 256 bytes and no control characters");
    }
    Ok(value)
}

fn token(value: &str) -> Result<Token, Limit> {
    value.parse().map_err(|_| "a token has 1 to 64 characters of A-Z, a-z, 0-9, '_' and '-'")
}

fn none(value: &str) -> Result<(), Limit> {
    if value == "none" { Ok(()) } else { Err("the only value is none") }
}

fn timeout(value: &str) -> Result<Duration, Limit> {
    match value.parse() {
        Ok(ms @ 1..=MAX_TIMEOUT_MS) => Ok(Duration::from_millis(ms)),
        _ => Err("a timeout is 1 to 604800000 (7 days), in milliseconds"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&'static str, &'static str)]) -> JobHeaders<'static> {
        JobHeaders::parse(pairs.iter().copied())
    }

    #[test]
    fn every_header_is_optional() {
        assert_eq!(parse(&[]), JobHeaders::default());
    }

    #[test]
    fn a_fault_names_header_value_and_limit() {
        let fault = parse(&[(name::TIMEOUT_MS, "soon")]).fault.unwrap();
        assert_eq!(
            fault.to_string(),
            "header Gristmill-Timeout-Ms is \"soon\": a timeout is 1 to 604800000 (7 days), in milliseconds"
        );
        for (name, value) in [
            (name::TIMEOUT_MS, "0"),
            (name::TIMEOUT_MS, "-1"),
            (name::TIMEOUT_MS, "604800001"),
            (name::REPLY, "a.b"),
            (name::VERSION, ">"),
            (name::DEAD_LETTER, "yes"),
            (name::JOB_ID, ""),
            (name::JOB_ID, "a\u{7}b"),
        ] {
            assert_eq!(parse(&[(name, value)]).fault.unwrap().name, name);
        }
    }

    #[test]
    fn what_is_beside_a_fault_is_still_read() {
        let headers = parse(&[(name::TIMEOUT_MS, "soon"), (name::JOB_ID, "j"), (name::REPLY, "r")]);
        assert_eq!((headers.job_id, headers.reply.unwrap().as_str()), (Some("j"), "r"));
    }

    #[test]
    fn the_first_fault_is_the_same_in_any_order_and_of_two_values_the_first_counts() {
        let mut pairs = [(name::REPLY, "a.b"), (name::TIMEOUT_MS, "soon"), (name::MSG_ID, "m")];
        let there = parse(&pairs);
        pairs.reverse();
        assert_eq!((&there, there.fault.as_ref().unwrap().name), (&parse(&pairs), name::REPLY));
        assert_eq!(parse(&[(name::JOB_ID, "first"), (name::JOB_ID, "second")]).job_id, Some("first"));
    }

    #[test]
    fn what_travels_with_a_trace_is_noticed_and_nothing_else() {
        let passes_on = |name| parse(&[(name::MSG_ID, "m"), (name, "x")]).passes_on;
        assert!(passes_on(name::TRACESTATE) && passes_on(name::BAGGAGE));
        assert!(!passes_on(name::TRACEPARENT) && !passes_on("Baggage"));
    }

    #[test]
    fn a_malformed_trace_is_ignored_not_refused() {
        let headers = parse(&[(name::TRACEPARENT, "garbage")]);
        assert_eq!((headers.trace, headers.fault), (None, None));
    }
}
