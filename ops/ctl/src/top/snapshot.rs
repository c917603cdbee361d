use std::collections::BTreeMap;

use gristmill_schemas::Lane;
use gristmill_schemas::metric::Point;
use serde::Deserialize;
use serde_json::Value;

/// What one poll saw: plain data, for the differences and rates to be made from two of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Snapshot {
    /// When workers were asked, in seconds of a clock that never goes back.
    pub(super) at: f64,
    /// The streams of jobs, results and dead letters, in this order; `None` for one that could not be read.
    pub(super) streams: [Option<Stream>; 3],
    /// One for each consumer of a model and lane.
    pub(super) queues: Vec<Queue>,
    /// Jobs by subject for which there is no consumer.
    pub(super) uncovered: BTreeMap<String, usize>,
    /// Workers that answered.
    pub(super) workers: Vec<Worker>,
    /// What could not be read, in words.
    pub(super) faults: Vec<String>,
}

/// A stream.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Stream {
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) last_sequence: u64,
}

/// A consumer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Queue {
    pub(super) model: String,
    pub(super) lane: Lane,
    /// In the stream and not delivered yet.
    pub(super) pending: u64,
    /// Delivered and not settled.
    pub(super) ack_pending: usize,
    /// Pulls that wait on the server: none while jobs are pending means that no worker is there, or all are full.
    pub(super) open_pulls: usize,
}

/// What came back from one worker.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Worker {
    /// An answer.
    Read(Box<Answer>),
    /// Something else: who sent it, as far as it says so, and what is wrong with it.
    Unreadable { name: String, why: String },
}

/// A worker's status. Keys that are not read here are ignored, so that workers may say more than this program knows.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Answer {
    pub(super) worker: String,
    pub(super) version: String,
    pub(super) uptime_s: f64,
    pub(super) ready: bool,
    /// What keeps it from being ready.
    pub(super) missing: Vec<String>,
    pub(super) models: Vec<Model>,
    pub(super) permits: Permits,
    /// Since the worker's start.
    pub(super) metrics: Vec<Point>,
}

/// A model package of a worker.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Model {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) instances: u64,
    /// Why it is not served.
    #[serde(default)]
    pub(super) refused: Option<String>,
}

/// Jobs in flight.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub(super) struct Permits {
    pub(super) limit: u64,
    pub(super) in_flight: u64,
}

impl Worker {
    /// Reads an answer. Never fails: what cannot be read is shown as that.
    pub(super) fn read(payload: &[u8]) -> Self {
        match serde_json::from_slice(payload) {
            Ok(answer) => Self::Read(Box::new(answer)),
            Err(error) => {
                let value: Value = serde_json::from_slice(payload).unwrap_or_default();
                Self::Unreadable { name: value["worker"].as_str().unwrap_or("?").to_owned(), why: error.to_string() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_kept_with_its_name_and_fault() {
        for (payload, name, says) in [
            (&b"busy"[..], "?", "expected value"),
            (b"\xff{}", "?", "expected value"),
            (b"", "?", "EOF"),
            (b"[1]", "?", "invalid type"),
            (br#"{"worker": "w7"}"#, "w7", "missing field `version`"),
            (br#"{"worker": "w7", "uptime_s": "long"}"#, "w7", "invalid type: string \"long\""),
        ] {
            let Worker::Unreadable { name: found, why } = Worker::read(payload) else { panic!("{payload:?} was read") };
            assert_eq!(found, name);
            assert!(why.contains(says), "{why}");
        }
    }

    #[test]
    fn keys_that_are_not_known_do_not_matter() {
        let text = br#"{"worker": "w", "version": "2.0.0", "uptime_s": 1, "ready": true, "missing": [], "models": [],
            "permits": {"limit": 8, "in_flight": 0}, "metrics": [], "mood": "good"}"#;
        assert!(matches!(Worker::read(text), Worker::Read(answer) if answer.uptime_s == 1.0));
    }
}
