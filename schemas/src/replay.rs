use crate::dead_letter::{header as dead, replayable_headers};
use crate::headers::{JobHeaders, name};
use crate::job::JobBody;
use crate::subject::Namespace;

/// Why a dead letter cannot become a job again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each message says it")]
pub enum Unreplayable {
    #[error("header {0} is missing")]
    Missing(&'static str),
    #[error("the job's bytes are not in it: header Gristmill-Dlq-Payload is {0:?}")]
    Payload(String),
    #[error("the job's headers were left out: with them the dead letter was over a limit of the broker")]
    HeadersOmitted,
    #[error("the job's headers are not text that headers can carry")]
    HeadersUnreadable,
    #[error("{0:?} is not a job subject of namespace {1}")]
    Subject(String, String),
}

/// The way of one dead letter back to its queue, read from its headers.
#[derive(Debug, PartialEq, Eq)]
pub struct Replay<'a> {
    /// Where the job was, and goes again.
    pub subject: &'a str,
    /// How often the job will have been replayed with this.
    pub count: u32,
    /// The same for every attempt at this replay, so that one is stored; of no other replay and no submission.
    pub msg_id: String,
    /// The jobs stream of the namespace.
    stream: String,
    /// The id of a job that has none in its body; `None` where the job's own header says it.
    job_id: Option<String>,
}

impl<'a> Replay<'a> {
    /// Reads a dead letter's headers through `get`, which looks up one name.
    pub fn try_new(namespace: &Namespace, get: impl Fn(&str) -> Option<&'a str>) -> Result<Self, Unreplayable> {
        let required = |name| get(name).ok_or(Unreplayable::Missing(name));
        match required(dead::PAYLOAD)? {
            "inline" => {}
            other => return Err(Unreplayable::Payload(other.into())),
        }
        match get(dead::RAW_HEADERS) {
            None => {}
            Some("omitted") => return Err(Unreplayable::HeadersOmitted),
            Some(_) => return Err(Unreplayable::HeadersUnreadable),
        }
        let subject = required(dead::SUBJECT)?;
        if namespace.parse_job_subject(subject).is_none() {
            return Err(Unreplayable::Subject(subject.into(), namespace.to_string()));
        }
        let (stream, sequence) = (required(dead::STREAM)?, required(dead::SEQ)?);
        let count = replays(&get).saturating_add(1);
        let submission = get(dead::ORIGINAL_MSG_ID).map(submission).map(str::to_owned);
        // A job without one: the dead letter's own id names the stored job, whichever stream of this name stored it.
        let submission = submission.or_else(|| get(name::MSG_ID).map(str::to_owned));
        let submission = submission.unwrap_or_else(|| format!("dlq.{stream}.{sequence}"));
        Ok(Self {
            subject,
            count,
            // The job's number, because senders may use an id again once the stream has forgotten it: of two such jobs,
            // replayed together, one would be taken for the other and lost.
            msg_id: format!("{submission}~r{count}.{sequence}"),
            stream: namespace.stream("JOBS"),
            job_id: default_job_id(&get, stream, sequence),
        })
    }

    /// The headers to add to those for which [`is_jobs_own`] holds. `payload` is the job's body.
    pub fn headers(&self, payload: &[u8]) -> Vec<(&'static str, String)> {
        let body = || JobBody::decode(payload, usize::MAX).ok()?.id.map(str::to_owned);
        // The replay's msg_id would be the job's id otherwise, which its sender has never seen.
        let job_id = self.job_id.as_ref().map(|default| (name::JOB_ID, body().unwrap_or_else(|| default.clone())));
        let ours = [
            (name::MSG_ID, self.msg_id.clone()),
            (name::EXPECTED_STREAM, self.stream.clone()),
            (dead::REPLAY, self.count.to_string()),
        ];
        ours.into_iter().chain(job_id).collect()
    }
}

/// How often the job of a dead letter was replayed before it became this dead letter.
pub fn replays<'a>(get: impl Fn(&str) -> Option<&'a str>) -> u32 {
    get(dead::REPLAY).and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// Whether a header of a dead letter is the job's own, so that a replay takes it along.
pub fn is_jobs_own(name: &str) -> bool {
    !name.starts_with(dead::PREFIX) && replayable_headers(name) == Some(name)
}

/// The id of a job that has none in its body, as the worker chooses it; `None` where a header says it.
fn default_job_id<'a>(get: &impl Fn(&str) -> Option<&'a str>, stream: &str, sequence: &str) -> Option<String> {
    if get(name::JOB_ID).is_some() {
        return None;
    }
    let headers = JobHeaders::parse(get(dead::ORIGINAL_MSG_ID).map(|id| (name::MSG_ID, id)));
    Some(headers.msg_id.map_or_else(|| format!("{stream}.{sequence}"), str::to_owned))
}

/// The id that the sender gave, without what an earlier replay put behind it.
fn submission(msg_id: &str) -> &str {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_replay = |end: &str| end.split_once('.').is_some_and(|(count, sequence)| digits(count) && digits(sequence));
    match msg_id.rsplit_once("~r") {
        Some((submission, end)) if is_replay(end) => submission,
        _ => msg_id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Datatype, Shape, Tensor};

    const LETTER: [(&str, &str); 5] = [
        (dead::SUBJECT, "infer.jobs.digits.bulk"),
        (dead::STREAM, "INFER_JOBS"),
        (dead::SEQ, "812"),
        (dead::PAYLOAD, "inline"),
        (name::MSG_ID, "dlq.INFER_JOBS.812.17"),
    ];

    fn replay(extra: &[(&'static str, &'static str)]) -> Result<Replay<'static>, Unreplayable> {
        let headers = [extra, &LETTER].concat();
        let get = |name: &str| headers.iter().find(|(n, _)| *n == name).map(|(_, value)| *value);
        Replay::try_new(&Namespace::default(), get)
    }

    fn added(extra: &[(&'static str, &'static str)], payload: &[u8], name: &str) -> Option<String> {
        let headers = replay(extra).unwrap().headers(payload);
        headers.into_iter().find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    #[test]
    fn a_replay_goes_where_the_job_was_under_an_id_of_its_own() {
        let first = replay(&[(dead::ORIGINAL_MSG_ID, "order-7")]).unwrap();
        assert_eq!(
            (first.subject, first.count, &*first.msg_id),
            ("infer.jobs.digits.bulk", 1, "order-7~r1.812"),
            "{first:?}"
        );
        assert_eq!(added(&[], b"", name::EXPECTED_STREAM).unwrap(), "INFER_JOBS");
        let again = [(dead::ORIGINAL_MSG_ID, "order-7~r1.533"), (dead::REPLAY, "1")];
        assert_eq!(replay(&again).unwrap().msg_id, "order-7~r2.812");
        assert_eq!(added(&again, b"", dead::REPLAY).unwrap(), "2");
    }

    #[test]
    fn a_job_without_a_dedup_id_gets_one_that_names_the_stored_job() {
        assert_eq!(replay(&[]).unwrap().msg_id, "dlq.INFER_JOBS.812.17~r1.812");
        let again = replay(&[(dead::ORIGINAL_MSG_ID, "dlq.INFER_JOBS.533.16~r1.533"), (dead::REPLAY, "1")]);
        assert_eq!(again.unwrap().msg_id, "dlq.INFER_JOBS.533.16~r2.812");
    }

    #[test]
    fn only_what_a_replay_added_is_cut_off() {
        for whole in ["a~r", "a~r1", "a~r1.", "a~r.5", "a~rx.5", "a~r1.5x", "~", ""] {
            assert_eq!(submission(whole), whole);
        }
        assert_eq!(submission("a~r1~r2.30"), "a~r1");
    }

    #[test]
    fn the_sender_gets_the_answer_under_the_id_it_knows() {
        let shape = Shape::try_new(&[1]).unwrap();
        let x = Tensor { name: "x", datatype: Datatype::Uint8, shape, data: vec![0].into() };
        let body = JobBody { id: Some("in-body"), inputs: vec![x], outputs: None }.encode();
        assert_eq!(added(&[(name::JOB_ID, "own")], &body, name::JOB_ID), None, "its own header travels");
        let msg_id = (dead::ORIGINAL_MSG_ID, "order-7");
        assert_eq!(added(&[msg_id], &body, name::JOB_ID).unwrap(), "in-body");
        assert_eq!(added(&[msg_id], b"", name::JOB_ID).unwrap(), "order-7");
        assert_eq!(added(&[(dead::ORIGINAL_MSG_ID, "no\tlabel")], b"", name::JOB_ID).unwrap(), "INFER_JOBS.812");
        assert_eq!(added(&[], b"", name::JOB_ID).unwrap(), "INFER_JOBS.812");
    }

    #[test]
    fn what_was_not_kept_whole_is_not_replayed() {
        for (header, why) in [
            ((dead::PAYLOAD, "omitted"), "the job's bytes are not in it: header Gristmill-Dlq-Payload is \"omitted\""),
            ((dead::RAW_HEADERS, "omitted"), "the job's headers were left out"),
            ((dead::RAW_HEADERS, "TkFUUw=="), "the job's headers are not text"),
            ((dead::SUBJECT, "other.jobs.digits.bulk"), "\"other.jobs.digits.bulk\" is not a job subject"),
        ] {
            let error = replay(&[header]).unwrap_err().to_string();
            assert!(error.starts_with(why), "{error}");
        }
        let none = Replay::try_new(&Namespace::default(), |_| None);
        assert_eq!(none.unwrap_err().to_string(), "header Gristmill-Dlq-Payload is missing");
    }

    #[test]
    fn a_counter_that_is_none_counts_as_never() {
        assert_eq!(replays(|_| Some("often")), 0);
        assert_eq!(replay(&[(dead::REPLAY, "4294967295")]).unwrap().count, u32::MAX);
    }

    #[test]
    fn headers_of_the_dead_letter_stay_behind() {
        for own in ["traceparent", name::JOB_ID, name::TIMEOUT_MS, "X-Team"] {
            assert!(is_jobs_own(own), "{own}");
        }
        for other in [dead::CODE, dead::REPLAY, dead::RAW_HEADERS, name::MSG_ID, name::EXPECTED_STREAM] {
            assert!(!is_jobs_own(other), "{other}");
        }
    }
}
