use crate::error::ErrorCode;
use crate::token::Token;

/// Headers that only a dead letter has.
#[allow(missing_docs, reason = "the names say it; `gristmill dlq show` prints them")]
pub mod header {
    /// What the names of all of them begin with.
    pub const PREFIX: &str = "Gristmill-Dlq-";
    pub const SUBJECT: &str = "Gristmill-Dlq-Subject";
    pub const STREAM: &str = "Gristmill-Dlq-Stream";
    pub const SEQ: &str = "Gristmill-Dlq-Seq";
    pub const CONSUMER: &str = "Gristmill-Dlq-Consumer";
    pub const DELIVERIES: &str = "Gristmill-Dlq-Deliveries";
    pub const CODE: &str = "Gristmill-Dlq-Code";
    pub const ERROR: &str = "Gristmill-Dlq-Error";
    pub const WORKER: &str = "Gristmill-Dlq-Worker";
    pub const MODEL: &str = "Gristmill-Dlq-Model";
    pub const PUBLISHED: &str = "Gristmill-Dlq-Published";
    pub const AT: &str = "Gristmill-Dlq-At";
    pub const PAYLOAD: &str = "Gristmill-Dlq-Payload";
    pub const ORIGINAL_MSG_ID: &str = "Gristmill-Dlq-Orig-Msg-Id";
    /// How often the job was replayed. The one of them that a job has, too: so it outlives the next dead letter.
    pub const REPLAY: &str = "Gristmill-Dlq-Replay";
    /// The original header block in base64, where it is not text that headers can carry.
    pub const RAW_HEADERS: &str = "Gristmill-Dlq-Headers";
}

/// Longest error text in a header, in bytes. The whole of it is in the error result.
const MAX_ERROR_BYTES: usize = 1024;

/// What a dead letter says of the job it keeps; the job's own headers and bytes travel beside it.
#[derive(Debug)]
#[allow(missing_docs, reason = "the fields are the headers above")]
pub struct DeadLetter<'a> {
    pub subject: &'a str,
    pub stream: &'a str,
    pub sequence: u64,
    pub consumer: &'a str,
    pub deliveries: i64,
    pub code: ErrorCode,
    pub error: &'a str,
    pub worker: &'a str,
    pub model: &'a Token,
    /// RFC 3339.
    pub published: &'a str,
    /// RFC 3339.
    pub at: &'a str,
    /// `inline`, or `omitted` where job and headers together exceed the broker's max_payload.
    pub payload: &'a str,
}

impl DeadLetter<'_> {
    /// The headers to add to the job's own.
    pub fn headers(&self) -> [(&'static str, String); 12] {
        [
            (header::SUBJECT, self.subject.into()),
            (header::STREAM, self.stream.into()),
            (header::SEQ, self.sequence.to_string()),
            (header::CONSUMER, self.consumer.into()),
            (header::DELIVERIES, self.deliveries.to_string()),
            (header::CODE, self.code.to_string()),
            (header::ERROR, one_line(self.error)),
            (header::WORKER, self.worker.into()),
            (header::MODEL, self.model.to_string()),
            (header::PUBLISHED, self.published.into()),
            (header::AT, self.at.into()),
            (header::PAYLOAD, self.payload.into()),
        ]
    }
}

/// The name under which a header of a job travels on its dead letter, or `None` for those that would make JetStream act
/// (expectations, time-to-live, batches and schedules) and for those that would speak as the dead letter.
pub fn replayable_headers(name: &str) -> Option<&str> {
    const ACTING: [&str; 4] = ["Nats-Expected-", "Nats-TTL", "Nats-Batch-", "Nats-Schedule"];
    // The raw header block is put among a job's headers by the worker that found them unreadable. A sender that forges it
    // only keeps its own job from being replayed.
    const KEPT: [&str; 2] = [header::REPLAY, header::RAW_HEADERS];
    let forged = name.starts_with(header::PREFIX) && !KEPT.contains(&name);
    if forged || ACTING.iter().any(|prefix| name.starts_with(prefix)) {
        return None;
    }
    Some(if name == crate::headers::name::MSG_ID { header::ORIGINAL_MSG_ID } else { name })
}

/// Header values hold one line: control characters become spaces, the rest is cut at a character boundary.
fn one_line(text: &str) -> String {
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    while line.len() > MAX_ERROR_BYTES {
        line.pop();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_becomes_one_short_line() {
        let text = format!("first\r\nsecond {}", "é".repeat(2000));
        let line = one_line(&text);
        assert!(line.starts_with("first  second é") && line.len() <= MAX_ERROR_BYTES);
        assert!(!line.contains(['\r', '\n']));
    }

    #[test]
    fn headers_that_act_stay_behind() {
        assert_eq!(replayable_headers("Nats-Expected-Last-Sequence"), None);
        assert_eq!(replayable_headers("Nats-TTL"), None);
        assert_eq!(replayable_headers("Nats-Msg-Id"), Some("Gristmill-Dlq-Orig-Msg-Id"));
        assert_eq!(replayable_headers("traceparent"), Some("traceparent"));
    }

    #[test]
    fn a_job_cannot_speak_as_its_dead_letter() {
        let letter = DeadLetter {
            subject: "infer.jobs.digits.bulk",
            stream: "INFER_JOBS",
            sequence: 812,
            consumer: "digits-bulk",
            deliveries: 1,
            code: ErrorCode::ModelError,
            error: "",
            worker: "w",
            model: &"digits".parse().unwrap(),
            published: "",
            at: "",
            payload: "inline",
        };
        for (name, _) in letter.headers() {
            assert_eq!(replayable_headers(name), None, "{name}");
        }
        assert_eq!(replayable_headers(header::ORIGINAL_MSG_ID), None);
        assert_eq!(replayable_headers("Gristmill-Dlq-Anything"), None);
        assert_eq!(replayable_headers(header::REPLAY), Some(header::REPLAY));
        assert_eq!(replayable_headers(header::RAW_HEADERS), Some(header::RAW_HEADERS));
    }
}
