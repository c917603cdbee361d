//! What the server says to a message. Pure.

use std::borrow::Cow;

use async_nats::client::PublishErrorKind;
use async_nats::jetstream::{self, ErrorCode};
use async_nats::{Message, PublishError, StatusCode};
use serde::Deserialize;

/// When a message was stored: the dedup id makes an earlier attempt, ours or another worker's, count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    Now,
    /// In this place of the stream.
    Before(u64),
}

/// What became of one attempt.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Word {
    Stored(Stored),
    /// Every further attempt would be refused as well: over the server's max_payload, its limit of 64 KiB for headers, or the
    /// stream's own limit.
    TooLarge(String),
    /// The server, or the client, says no, or nothing for too long.
    Refused(String),
    /// The connection was lost: nobody will ever say.
    Lost,
}

#[derive(Deserialize)]
struct PubAck<'a> {
    #[serde(default, borrow)]
    stream: Cow<'a, str>,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
    error: Option<jetstream::Error>,
}

impl Word {
    /// Reads the server's answer to a message for this stream.
    ///
    /// Which one stored it is looked at here: having the server look, by `Nats-Expected-Stream`, is one more header to make, send, read
    /// and keep on each message.
    pub(super) fn read(message: &Message, stream: &str) -> Self {
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            return Self::Refused("no stream found for the subject".into());
        }
        match serde_json::from_slice(&message.payload) {
            Ok(PubAck { error: Some(error), .. }) => match error.error_code() {
                ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM | ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM => {
                    Self::TooLarge(error.to_string())
                }
                _ => Self::Refused(error.to_string()),
            },
            Ok(PubAck { seq: 0, .. }) => Self::Refused("the server's answer has no sequence".into()),
            Ok(ack) if ack.stream.is_empty() => Self::Refused("the server's answer names no stream".into()),
            Ok(ack) if ack.stream != stream => {
                Self::Refused(format!("stream {:?} took it, {stream:?} should have", ack.stream))
            }
            Ok(PubAck { seq, duplicate: true, .. }) => Self::Stored(Stored::Before(seq)),
            Ok(_) => Self::Stored(Stored::Now),
            Err(error) => Self::Refused(format!("the server's answer cannot be read: {error}")),
        }
    }

    /// Reads the client's refusal.
    pub(super) fn of_client(error: &PublishError) -> Self {
        match error.kind() {
            PublishErrorKind::MaxPayloadExceeded => Self::TooLarge(error.to_string()),
            _ => Self::Refused(error.to_string()),
        }
    }

    /// As in attributes, if it is a failure.
    pub(super) fn fault(&self) -> Option<&'static str> {
        match self {
            Self::Stored(_) => None,
            Self::TooLarge(_) => Some("too_large"),
            Self::Refused(_) => Some("refused"),
            Self::Lost => Some("connection_lost"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(payload: &'static str) -> Word {
        let payload = payload.as_bytes().into();
        let (subject, length) = ("_INBOX.a.1".into(), 0);
        let message = Message { subject, reply: None, payload, headers: None, status: None, description: None, length };
        Word::read(&message, "S")
    }

    #[test]
    fn the_servers_answers_are_told_apart() {
        assert_eq!(read(r#"{"stream":"S","seq":4}"#), Word::Stored(Stored::Now));
        assert_eq!(read(r#"{"stream":"S","domain":"d","seq":4,"duplicate":true}"#), Word::Stored(Stored::Before(4)));
        let full =
            r#"{"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"},"stream":"S","seq":0}"#;
        assert!(matches!(read(full), Word::Refused(why) if why.contains("maximum messages exceeded")));
        let large =
            r#"{"error":{"code":400,"err_code":10054,"description":"message size exceeds maximum allowed"},"seq":0}"#;
        assert!(matches!(read(large), Word::TooLarge(_)));
    }

    #[test]
    fn another_stream_than_the_one_meant_is_named() {
        let why = |payload| match read(payload) {
            Word::Refused(why) => why,
            other => panic!("{other:?}"),
        };
        assert_eq!(why(r#"{"stream":"T","seq":4}"#), r#"stream "T" took it, "S" should have"#);
        assert_eq!(why(r#"{"stream":"T","seq":4,"duplicate":true}"#), r#"stream "T" took it, "S" should have"#);
        assert_eq!(why(r#"{"seq":4}"#), "the server's answer names no stream");
    }

    #[test]
    fn an_answer_that_proves_nothing_is_no_success() {
        for payload in [
            "",
            "{}",
            "[]",
            r#"{"stream":"S"}"#,
            r#"{"stream":"S","seq":0,"duplicate":true}"#,
            r#"{"seq":-1}"#,
            r#"{"seq":4}"#,
            r#"{"stream":"T","seq":4}"#,
        ] {
            assert!(matches!(read(payload), Word::Refused(_)), "{payload}");
        }
    }
}
