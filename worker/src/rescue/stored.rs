//! Jobs read by their number, as raw bytes: for those that ordinary delivery cannot, or must not, bring.

use std::sync::Arc;
use std::time::Instant;

use async_nats::jetstream::response::Response;
use async_nats::jetstream::{Context, ErrorCode};
use async_nats::{HeaderMap, HeaderName, HeaderValue};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gristmill_schemas::{Namespace, dead_letter_header};
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::message::{Consumer, Origin, Suspicion};

/// Why a job could not be read, or handed on: tried again later.
pub(super) type Error = Box<dyn std::error::Error + Send + Sync>;

/// The answer to STREAM.MSG.GET. The client's own reader fails on headers that are not UTF-8.
#[derive(Deserialize)]
struct Answer {
    message: Message,
}

#[derive(Deserialize)]
struct Message {
    subject: String,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
    time: String,
}

/// A job as the stream holds it.
pub(super) struct Stored {
    /// As of a delivery; `deliveries` as the caller knows them.
    pub(super) origin: Origin,
    /// What of its headers cannot be read.
    pub(super) fault: Option<String>,
}

/// Reads a job. `None` if it is gone: answered, deleted or expired; or if it is no job of this namespace.
pub(super) async fn read(
    context: &Context,
    namespace: &Namespace,
    sequence: u64,
    deliveries: i64,
) -> Result<Option<Stored>, Error> {
    let request = serde_json::json!({ "seq": sequence });
    let subject = format!("STREAM.MSG.GET.{}", namespace.stream("JOBS"));
    let message = match context.request(subject, &request).await? {
        Response::Ok(Answer { message }) => message,
        Response::Err { error } if error.error_code() == ErrorCode::NO_MESSAGE_FOUND => return Ok(None),
        // No leader, say.
        Response::Err { error } => return Err(error.into()),
    };
    let Some((model, lane)) = namespace.parse_job_subject(&message.subject) else { return Ok(None) };
    let (headers, fault) = read_headers(&STANDARD.decode(&message.hdrs)?);
    let name = Namespace::consumer(&model, lane).into();
    let origin = Origin {
        subject: message.subject.into(),
        headers: Some(headers),
        payload: STANDARD.decode(&message.data)?.into(),
        consumer: Arc::new(Consumer { model, lane, name }),
        sequence,
        published: OffsetDateTime::parse(&message.time, &Rfc3339)?,
        deliveries,
        pending: 0,
        received: Instant::now(),
        suspicion: Suspicion::Suspect,
    };
    Ok(Some(Stored { origin, fault }))
}

/// Reads a header block as far as it can be read. What is not text is named, and the block kept as it is.
fn read_headers(block: &[u8]) -> (HeaderMap, Option<String>) {
    let mut headers = HeaderMap::new();
    let mut fault = None;
    let lines = block.split(|&byte| byte == b'\n').skip(1).map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    for line in lines.filter(|line| !line.is_empty()) {
        let Some((name, value)) = std::str::from_utf8(line).ok().and_then(|line| line.split_once(':')) else {
            let start: String = String::from_utf8_lossy(line).chars().take(60).collect();
            fault = Some(format!("header line {start:?} is not UTF-8 text with a colon"));
            continue;
        };
        match (name.parse::<HeaderName>(), value.trim().parse::<HeaderValue>()) {
            (Ok(name), Ok(value)) => headers.append(name, value),
            _ => fault = Some(format!("header {:?} has a name or value that NATS does not allow", name)),
        }
    }
    if fault.is_some() {
        headers.insert(dead_letter_header::RAW_HEADERS, STANDARD.encode(block).as_str());
    }
    (headers, fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_read_of_a_header_block_is_read_and_the_rest_named() {
        let (headers, fault) = read_headers(b"NATS/1.0\r\nA: 1\r\nB: \xff\xfe\r\nC:2\r\n\r\n");
        assert_eq!((headers.get("A").unwrap().as_str(), headers.get("C").unwrap().as_str()), ("1", "2"));
        assert!(fault.unwrap().contains("is not UTF-8"));
        assert!(headers.get(dead_letter_header::RAW_HEADERS).is_some());
        let (headers, fault) = read_headers(b"NATS/1.0\r\nA: x\ry\r\n\r\n");
        assert!(headers.get("A").is_none() && fault.unwrap().contains("\"A\""));
        assert!(read_headers(b"NATS/1.0\r\nA: 1\r\n\r\n").1.is_none());
    }
}
