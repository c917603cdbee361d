use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::token::{InvalidToken, Token};

/// Which of a model's two queues a job waits in. `online` goes first; `bulk` has a floor and never starves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    /// Someone is waiting for the answer.
    Online,
    /// Offline scoring: throughput counts, latency does not.
    Bulk,
}

impl Lane {
    /// Both lanes, the preferred one first.
    pub const ALL: [Self; 2] = [Self::Online, Self::Bulk];

    /// The lane's subject token.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Bulk => "bulk",
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Lane {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|lane| lane.as_str() == text)
            .ok_or_else(|| format!("lane {text:?} is neither \"online\" nor \"bulk\""))
    }
}

/// The prefix that lets several deployments share one NATS: of every subject as it is, of every stream in upper case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace(Token);

impl Default for Namespace {
    fn default() -> Self {
        Self("infer".parse().expect("\"infer\" is a token"))
    }
}

impl FromStr for Namespace {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        text.parse().map(Self)
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Namespace {
    /// Whether questions may be answered there. Whoever may ask must not make another write wherever that one may, such as to a jobs
    /// subject.
    pub fn is_inbox(subject: &str) -> bool {
        subject.starts_with("_INBOX.")
    }

    /// Where jobs for `model` are published.
    pub fn job_subject(&self, model: &Token, lane: Lane) -> String {
        format!("{}.jobs.{model}.{lane}", self.0)
    }

    /// Where workers answer with their status, each one, to whoever asks.
    pub fn status_subject(&self) -> String {
        format!("{}.status", self.0)
    }

    /// Where the scoring run of this id answers for as long as it goes on; `None` for every run.
    pub fn score_subject(&self, run: Option<&Token>) -> String {
        format!("{}.score.{}", self.0, run.map_or("all", Token::as_str))
    }

    /// Where results of `model` appear; `reply` comes from the job's header, else [`crate::JobHeaders::DEFAULT_REPLY`].
    pub fn result_subject(&self, model: &Token, reply: &Token) -> String {
        format!("{}.results.{model}.{reply}", self.0)
    }

    /// Where refused jobs of `model` are kept with their bytes.
    pub fn dlq_subject(&self, model: &Token) -> String {
        format!("{}.dlq.{model}", self.0)
    }

    /// Every subject of one kind: `jobs`, `results` or `dlq`.
    pub fn all_subjects(&self, kind: &str) -> String {
        format!("{}.{kind}.>", self.0)
    }

    /// Name of a stream: `JOBS`, `RESULTS`, `DLQ` or `ADVISORIES` behind the namespace in upper case.
    pub fn stream(&self, kind: &str) -> String {
        format!("{}_{kind}", self.0.as_str().to_ascii_uppercase())
    }

    /// Name of the durable consumer of one model and lane.
    pub fn consumer(model: &Token, lane: Lane) -> String {
        format!("{model}-{lane}")
    }

    /// The model and lane of a job subject; `None` for any other subject.
    pub fn parse_job_subject(&self, subject: &str) -> Option<(Token, Lane)> {
        let rest = subject.strip_prefix(self.0.as_str())?.strip_prefix(".jobs.")?;
        let (model, lane) = rest.split_once('.')?;
        Some((model.parse().ok()?, lane.parse().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_and_streams_carry_the_namespace() {
        let namespace: Namespace = "lab-2".parse().unwrap();
        let (model, reply) = ("digits".parse().unwrap(), "run7".parse().unwrap());
        assert_eq!(namespace.job_subject(&model, Lane::Bulk), "lab-2.jobs.digits.bulk");
        assert_eq!(namespace.result_subject(&model, &reply), "lab-2.results.digits.run7");
        assert_eq!(namespace.dlq_subject(&model), "lab-2.dlq.digits");
        assert_eq!(namespace.stream("JOBS"), "LAB-2_JOBS");
        assert_eq!(namespace.parse_job_subject("lab-2.jobs.digits.bulk"), Some((model, Lane::Bulk)));
    }

    #[test]
    fn a_subject_outside_the_contract_names_no_model() {
        let namespace = Namespace::default();
        for subject in ["infer.jobs.digits", "infer.jobs.a.b.c", "infer.jobs.a.slow", "other.jobs.a.bulk", "infer"] {
            assert_eq!(namespace.parse_job_subject(subject), None, "{subject}");
        }
    }

    #[test]
    fn only_inboxes_are_answered() {
        let answered = ["_INBOX.a.1", "_INBOX", "infer.jobs.digits.bulk", "a._INBOX.b"].map(Namespace::is_inbox);
        assert_eq!(answered, [true, false, false, false]);
    }
}
