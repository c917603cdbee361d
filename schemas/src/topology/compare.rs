//! Pure comparisons of what a server has with what the promises need.

use std::fmt;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, Config as ConsumerConfig, DeliverPolicy, pull};
use async_nats::jetstream::stream::{self, DiscardPolicy, RetentionPolicy};

/// One field of a stream or consumer that is not what a promise needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// `stream INFER_JOBS`, say.
    pub object: String,
    /// The field, by the name `nats stream info` and the server's API use.
    pub field: &'static str,
    /// What the server has.
    pub have: String,
    /// What is needed.
    pub need: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} is {}, needed is {}", self.object, self.field, self.have, self.need)
    }
}

/// Collects differences of one object.
struct Report {
    object: String,
    differences: Vec<Difference>,
}

impl Report {
    fn need(&mut self, holds: bool, field: &'static str, have: impl fmt::Debug, need: impl Into<String>) {
        if !holds {
            let (object, have, need) = (self.object.clone(), format!("{have:?}"), need.into());
            self.differences.push(Difference { object, field, have, need });
        }
    }
}

/// Where a stream falls short. `window` is the shortest time results must be remembered.
pub(super) fn stream(want: &stream::Config, have: &stream::Config, window: Duration) -> Vec<Difference> {
    let mut report = Report { object: format!("stream {}", want.name), differences: Vec::new() };
    let covered = want.subjects.iter().all(|subject| have.subjects.contains(subject));
    report.need(covered, "subjects", &have.subjects, format!("{:?}", want.subjects));
    report.need(have.retention == want.retention, "retention", have.retention, format!("{:?}", want.retention));
    if want.retention == RetentionPolicy::WorkQueue {
        // Discarding old would delete jobs that were accepted.
        report.need(have.discard == DiscardPolicy::New, "discard", have.discard, "New");
    } else if want.duplicate_window > Duration::ZERO {
        report.need(
            have.duplicate_window >= window,
            "duplicate_window",
            have.duplicate_window,
            format!("at least {window:?} (twice the consumers' ack_wait and a minute)"),
        );
    }
    report.need(!have.sealed, "sealed", have.sealed, "false");
    report.need(!have.no_ack, "no_ack", have.no_ack, "false");
    report.differences
}

/// Where a consumer falls short. `in_flight` is what one worker may hold.
pub(super) fn consumer(want: &pull::Config, have: &ConsumerConfig, in_flight: usize) -> Vec<Difference> {
    let name = want.durable_name.as_deref().unwrap_or_default();
    let mut report = Report { object: format!("consumer {name}"), differences: Vec::new() };
    report.need(have.deliver_subject.is_none(), "deliver_subject", &have.deliver_subject, "none (a pull consumer)");
    report.need(
        have.filter_subject == want.filter_subject,
        "filter_subject",
        &have.filter_subject,
        &want.filter_subject,
    );
    report.need(have.ack_policy == AckPolicy::Explicit, "ack_policy", have.ack_policy, "Explicit");
    report.need(have.deliver_policy == DeliverPolicy::All, "deliver_policy", have.deliver_policy, "All");
    report.need(have.ack_wait >= Duration::from_secs(1), "ack_wait", have.ack_wait, "at least 1s");
    report.need(have.max_deliver >= 10, "max_deliver", have.max_deliver, "10 or more, and finite");
    let pending = have.max_ack_pending;
    let enough = pending < 0 || usize::try_from(pending).is_ok_and(|pending| pending >= in_flight);
    report.need(enough, "max_ack_pending", pending, format!("at least {in_flight} (limits.in_flight of one worker)"));
    report.need(have.backoff.is_empty(), "backoff", &have.backoff, "none (it distorts the worker's own delays)");
    let limits = (have.max_batch, have.max_bytes, have.max_expires);
    let unlimited = limits == (0, 0, Duration::ZERO);
    report.need(unlimited, "max_batch, max_bytes, max_expires", limits, "no limit (pulls would be refused)");
    let grouped = have.priority_groups.is_empty();
    report.need(grouped, "priority_groups", &have.priority_groups, "none (pulls without a group would be refused)");
    let lasting = have.inactive_threshold.is_zero();
    report.need(lasting, "inactive_threshold", have.inactive_threshold, "none (an idle consumer would vanish)");
    report.need(!have.headers_only, "headers_only", have.headers_only, "false");
    report.differences
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Config, Topology};

    fn topology() -> Topology {
        let models = vec!["digits".parse().unwrap()];
        Topology { namespace: Default::default(), config: Config::default(), models, in_flight: 2048 }
    }

    #[test]
    fn what_we_would_create_satisfies_us() {
        let topology = topology();
        for want in topology.streams() {
            assert_eq!(stream(&want, &want, Duration::from_secs(120)), []);
        }
    }

    #[test]
    fn a_stream_that_breaks_a_promise_is_named_with_the_field() {
        let [jobs, results, ..] = topology().streams();
        let lossy = stream::Config { retention: RetentionPolicy::Limits, discard: DiscardPolicy::Old, ..jobs.clone() };
        let found = stream(&jobs, &lossy, Duration::ZERO);
        assert_eq!(found[0].to_string(), "stream INFER_JOBS: retention is Limits, needed is WorkQueue");
        assert_eq!(found[1].field, "discard");
        let forgetful = stream::Config { duplicate_window: Duration::from_secs(5), ..results.clone() };
        assert_eq!(stream(&results, &forgetful, Duration::from_secs(120))[0].field, "duplicate_window");
    }

    #[test]
    fn sizes_ages_and_replicas_are_the_operators() {
        let [jobs, ..] = topology().streams();
        let tuned = stream::Config { max_bytes: 1 << 30, num_replicas: 3, max_messages: 10, ..jobs.clone() };
        assert_eq!(stream(&jobs, &tuned, Duration::ZERO), []);
    }
}
