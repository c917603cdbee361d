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
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Word {
    Stored(Stored),
    /// Every further attempt would be refused as well: over the server's max_payload, its limit of 64 KiB for headers, or the
    /// stream's own limit.
    TooLarge(String),
    /// The server, or the client, says no, or nothing for too long.
    Refused(String),
    /// The connection was lost: nobody will ever say.
    Lost,
    /// It was sent together with others, and the server did not confirm all of them: it is to be sent by itself.
    Apart(String),
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
    /// Messages that were sent together: the name of the batch.
    #[serde(default, borrow)]
    batch: Cow<'a, str>,
    /// How many of them are stored.
    #[serde(default)]
    count: u64,
    /// What is said of a batch that goes on: `ack`, `gap`, `err`.
    #[serde(default, rename = "type", borrow)]
    kind: Cow<'a, str>,
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
            Ok(ack) => Self::of_ack(&ack, stream),
            Err(error) => Self::Refused(unreadable(&error)),
        }
    }

    /// Reads the server's answer to one of `count` messages that were sent together, under this name. `None` if there will be
    /// another: the last one tells how many the server took, after a word about each that it could not store. Whatever is not clear has each sent by itself, which the dedup ids make
    /// harmless.
    pub(super) fn read_together(message: &Message, stream: &str, batch: &str, count: usize) -> Option<Self> {
        if message.status.is_some() {
            return Some(Self::read(message, stream));
        }
        let ack: PubAck<'_> = match serde_json::from_slice(&message.payload) {
            Ok(ack) => ack,
            Err(error) => return Some(Self::Apart(unreadable(&error))),
        };
        if ack.kind == "ack" {
            return None;
        }
        let all = ack.batch == batch && ack.count == count as u64;
        Some(match Self::of_ack(&ack, stream) {
            _ if !ack.kind.is_empty() => Self::Apart(String::from_utf8_lossy(&message.payload).into_owned()),
            _ if !ack.stream.is_empty() && ack.stream != stream => Self::Refused(taken_by(&ack, stream)),
            Self::TooLarge(why) => Self::Apart(why),
            Self::Refused(why) if ack.error.as_ref().map_or(ack.seq == 0, concerns_batches) => Self::Apart(why),
            Self::Stored(_) if !all => Self::Apart(format!("{} of {count} messages were taken", ack.count)),
            word => word,
        })
    }

    fn of_ack(ack: &PubAck<'_>, stream: &str) -> Self {
        match ack {
            PubAck { error: Some(error), .. } => match error.error_code() {
                ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM | ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM => {
                    Self::TooLarge(error.to_string())
                }
                _ => Self::Refused(error.to_string()),
            },
            PubAck { seq: 0, .. } => Self::Refused("the server's answer has no sequence".into()),
            ack if ack.stream.is_empty() => Self::Refused("the server's answer names no stream".into()),
            ack if ack.stream != stream => Self::Refused(taken_by(ack, stream)),
            PubAck { seq, duplicate: true, .. } => Self::Stored(Stored::Before(*seq)),
            _ => Self::Stored(Stored::Now),
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
            Self::Apart(_) => Some("unconfirmed"),
        }
    }
}

fn taken_by(ack: &PubAck<'_>, stream: &str) -> String {
    format!("stream {:?} took it, {stream:?} should have", ack.stream)
}

fn unreadable(error: &serde_json::Error) -> String {
    format!("the server's answer cannot be read: {error}")
}

/// Whether an error is about sending messages together, not about what was sent.
fn concerns_batches(error: &jetstream::Error) -> bool {
    (ErrorCode::BATCH_PUBLISH_DISABLED.0..=ErrorCode::BATCH_PUBLISH_TOO_MANY_INFLIGHT.0).contains(&error.error_code().0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(payload: &'static str) -> Message {
        let payload = payload.as_bytes().into();
        let (subject, length) = ("_INBOX.a.1".into(), 0);
        Message { subject, reply: None, payload, headers: None, status: None, description: None, length }
    }

    fn read(payload: &'static str) -> Word {
        Word::read(&message(payload), "S")
    }

    /// Of three that were sent together as `w7`.
    fn together(payload: &'static str) -> Option<Word> {
        Word::read_together(&message(payload), "S", "w7", 3)
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

    #[test]
    fn what_was_sent_together_is_stored_when_the_server_has_all_of_it() {
        assert_eq!(together(r#"{"type":"ack","seq":0,"msgs":500}"#), None, "it goes on");
        let all = r#"{"stream":"S","seq":9,"batch":"w7","count":3}"#;
        assert_eq!(together(all), Some(Word::Stored(Stored::Now)));
    }

    #[test]
    fn what_was_sent_together_goes_by_itself_where_anything_is_in_doubt() {
        for payload in [
            "",
            "{}",
            // One is missing, and what was behind it was not taken.
            r#"{"type":"gap","last_seq":2,"seq":3}"#,
            r#"{"stream":"S","seq":7,"batch":"w7","count":1}"#,
            // Of another bundle; of a server that knows none.
            r#"{"stream":"S","seq":9,"batch":"w8","count":3}"#,
            r#"{"stream":"S","seq":9}"#,
            // About bundles; about one message of it.
            r#"{"error":{"code":400,"err_code":10205,"description":"batch publish is disabled"},"stream":"S","seq":0}"#,
            r#"{"error":{"code":400,"err_code":10208,"description":"batch publish ID unknown"},"stream":"S","seq":0}"#,
            r#"{"type":"err","seq":2,"error":{"code":400,"err_code":10060,"description":"no match"}}"#,
            r#"{"error":{"code":400,"err_code":10054,"description":"message size exceeds maximum"},"stream":"S","seq":0}"#,
        ] {
            assert!(matches!(together(payload), Some(Word::Apart(_))), "{payload}: {:?}", together(payload));
        }
    }

    #[test]
    fn what_is_said_of_the_stream_holds_for_all_that_was_sent_together() {
        for payload in [
            r#"{"stream":"T","seq":9,"batch":"w7","count":3}"#,
            r#"{"error":{"code":400,"err_code":10205,"description":"batch publish is disabled"},"stream":"T","seq":0}"#,
            r#"{"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"},"stream":"S","seq":0}"#,
        ] {
            assert!(matches!(together(payload), Some(Word::Refused(_))), "{payload}: {:?}", together(payload));
        }
        let nobody = Message { status: Some(StatusCode::NO_RESPONDERS), ..message("") };
        assert!(matches!(Word::read_together(&nobody, "S", "w7", 3), Some(Word::Refused(_))));
    }
}
