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

/// What a job's headers say. All are optional.
#[derive(Debug, Clone, PartialEq)]
pub struct JobHeaders<'a> {
    /// `Gristmill-Job-Id`, else `Nats-Msg-Id`.
    pub job_id: Option<&'a str>,
    /// Last token of the result subject.
    pub reply: Option<Token>,
    /// Counted from the time the server stored the job.
    pub timeout: Option<Duration>,
    /// Pinned model version.
    pub version: Option<Token>,
    /// The sender's trace; `None` also where the header is malformed, as W3C asks.
    pub trace: Option<TraceContext>,
    /// Passed through to the result.
    pub tracestate: Option<&'a str>,
    /// Passed through to the result.
    pub baggage: Option<&'a str>,
}

impl<'a> JobHeaders<'a> {
    /// The reply token of jobs that name none.
    pub const DEFAULT_REPLY: &'static str = "all";

    /// Reads the headers through `get`, which looks up one name.
    pub fn parse(get: impl Fn(&str) -> Option<&'a str>) -> Result<Self, InvalidHeader> {
        let job_id = get(name::JOB_ID).map(check_id).transpose()?;
        Ok(Self {
            job_id: job_id.or_else(|| get(name::MSG_ID).and_then(|id| check_id(id).ok())),
            reply: get(name::REPLY).map(|v| token(name::REPLY, v)).transpose()?,
            timeout: get(name::TIMEOUT_MS).map(timeout).transpose()?,
            version: get(name::VERSION).map(|v| token(name::VERSION, v)).transpose()?,
            trace: Self::trace(&get),
            tracestate: get(name::TRACESTATE).filter(|v| !v.is_empty()),
            baggage: get(name::BAGGAGE).filter(|v| !v.is_empty()),
        })
    }

    /// The trace context alone: also wanted where the other headers are refused.
    pub fn trace(get: &impl Fn(&str) -> Option<&'a str>) -> Option<TraceContext> {
        TraceContext::parse(get(name::TRACEPARENT).or_else(|| get("Traceparent"))?)
    }
}

fn invalid(name: &'static str, value: &str, limit: &'static str) -> InvalidHeader {
    InvalidHeader { name, value: value.chars().take(80).collect(), limit }
}

fn check_id(value: &str) -> Result<&str, InvalidHeader> {
    if value.is_empty() || value.len() > MAX_ID_BYTES || value.chars().any(char::is_control) {
        return Err(invalid(name::JOB_ID, value, "an id has 1 to 256 bytes and no control characters"));
    }
    Ok(value)
}

fn token(name: &'static str, value: &str) -> Result<Token, InvalidHeader> {
    let limit = "a token has 1 to 64 characters of A-Z, a-z, 0-9, '_' and '-'";
    value.parse().map_err(|_| invalid(name, value, limit))
}

fn timeout(value: &str) -> Result<Duration, InvalidHeader> {
    match value.parse() {
        Ok(ms @ 1..=MAX_TIMEOUT_MS) => Ok(Duration::from_millis(ms)),
        _ => Err(invalid(name::TIMEOUT_MS, value, "a timeout is 1 to 604800000 (7 days), in milliseconds")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&'static str, &'static str)]) -> Result<JobHeaders<'static>, InvalidHeader> {
        JobHeaders::parse(|name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| *v))
    }

    #[test]
    fn every_header_is_optional() {
        let headers = parse(&[]).unwrap();
        assert_eq!((headers.job_id, headers.reply, headers.timeout, headers.trace), (None, None, None, None));
    }

    #[test]
    fn the_job_id_falls_back_to_the_message_id() {
        assert_eq!(parse(&[(name::MSG_ID, "m")]).unwrap().job_id, Some("m"));
        assert_eq!(parse(&[(name::MSG_ID, "m"), (name::JOB_ID, "j")]).unwrap().job_id, Some("j"));
    }

    #[test]
    fn a_refusal_names_header_value_and_limit() {
        let error = parse(&[(name::TIMEOUT_MS, "soon")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "header Gristmill-Timeout-Ms is \"soon\": a timeout is 1 to 604800000 (7 days), in milliseconds"
        );
        for (name, value) in [
            (name::TIMEOUT_MS, "0"),
            (name::TIMEOUT_MS, "-1"),
            (name::TIMEOUT_MS, "604800001"),
            (name::REPLY, "a.b"),
            (name::VERSION, ">"),
            (name::JOB_ID, ""),
            (name::JOB_ID, "a\u{7}b"),
        ] {
            assert_eq!(parse(&[(name, value)]).unwrap_err().name, name);
        }
    }

    #[test]
    fn a_malformed_trace_is_ignored_not_refused() {
        assert_eq!(parse(&[(name::TRACEPARENT, "garbage")]).unwrap().trace, None);
    }
}
