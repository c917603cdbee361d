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
    /// What an operator can do about it.
    pub fix: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { object, field, have, need, fix } = self;
        write!(f, "{object}: {field} is {have}, needed is {need}; {fix}")
    }
}

/// Collects differences of one object.
struct Report {
    object: String,
    /// Command that edits the object; takes a flag.
    edit: String,
    /// What to do about a field that the server lets nobody edit.
    remake: &'static str,
    differences: Vec<Difference>,
}

/// How a field is put right.
enum Fix<'a> {
    /// With this flag of the object's edit command.
    Edit(&'a str),
    /// By making the object anew.
    Remake,
}

impl Report {
    fn need(&mut self, holds: bool, field: &'static str, have: impl fmt::Debug, need: impl Into<String>, fix: Fix<'_>) {
        if !holds {
            let fix = match fix {
                Fix::Edit(flag) => format!("fix: {} {flag}", self.edit),
                Fix::Remake => format!("fix: {}", self.remake),
            };
            let (object, have, need) = (self.object.clone(), format!("{have:?}"), need.into());
            self.differences.push(Difference { object, field, have, need, fix });
        }
    }
}

/// Where a stream falls short. `window` is the shortest time results must be remembered.
pub(super) fn stream(want: &stream::Config, have: &stream::Config, window: Duration) -> Vec<Difference> {
    let name = &want.name;
    let mut report = Report {
        object: format!("stream {name}"),
        edit: format!("nats stream edit {name}"),
        remake: "copy what it holds elsewhere, remove it, and let it be created again",
        differences: Vec::new(),
    };
    let covered = want.subjects.iter().all(|subject| have.subjects.contains(subject));
    let subjects = format!("--subjects {:?}", want.subjects.join(","));
    report.need(covered, "subjects", &have.subjects, format!("{:?}", want.subjects), Fix::Edit(&subjects));
    let retention = format!("{:?}", want.retention);
    report.need(have.retention == want.retention, "retention", have.retention, retention, Fix::Remake);
    if want.retention == RetentionPolicy::WorkQueue {
        // Discarding old would delete jobs that were accepted.
        let holds = have.discard == DiscardPolicy::New;
        report.need(holds, "discard", have.discard, "New", Fix::Edit("--discard new"));
    } else if want.duplicate_window > Duration::ZERO {
        report.need(
            have.duplicate_window >= window,
            "duplicate_window",
            have.duplicate_window,
            format!("at least {window:?} (twice the consumers' ack_wait, limits.max_hold_ms and a minute)"),
            Fix::Edit(&format!("--dupe-window {}s", want.duplicate_window.max(window).as_secs())),
        );
    }
    report.need(!have.sealed, "sealed", have.sealed, "false", Fix::Remake);
    report.need(!have.no_ack, "no_ack", have.no_ack, "false", Fix::Edit("--ack"));
    report.differences
}

/// Where a consumer of the stream `jobs` falls short. `in_flight` is what one worker may hold.
pub(super) fn consumer(want: &pull::Config, have: &ConsumerConfig, jobs: &str, in_flight: usize) -> Vec<Difference> {
    use Fix::{Edit, Remake};
    let name = want.durable_name.as_deref().unwrap_or_default();
    let mut report = Report {
        object: format!("consumer {name}"),
        edit: format!("nats consumer edit {jobs} {name}"),
        remake: "remove it while no worker runs: it is created again, and no job is lost",
        differences: Vec::new(),
    };
    let pull = have.deliver_subject.is_none();
    report.need(pull, "deliver_subject", &have.deliver_subject, "none (a pull consumer)", Remake);
    let filtered = have.filter_subject == want.filter_subject;
    let filter = format!("--filter {}", want.filter_subject);
    report.need(filtered, "filter_subject", &have.filter_subject, &want.filter_subject, Edit(&filter));
    let (explicit, all) = (have.ack_policy == AckPolicy::Explicit, have.deliver_policy == DeliverPolicy::All);
    report.need(explicit, "ack_policy", have.ack_policy, "Explicit", Remake);
    report.need(all, "deliver_policy", have.deliver_policy, "All", Remake);
    report.need(have.ack_wait >= Duration::from_secs(1), "ack_wait", have.ack_wait, "at least 1s", Edit("--wait 30s"));
    let max_deliver = format!("--max-deliver {}", want.max_deliver);
    report.need(have.max_deliver >= 10, "max_deliver", have.max_deliver, "10 or more, and finite", Edit(&max_deliver));
    let pending = have.max_ack_pending;
    let enough = pending < 0 || usize::try_from(pending).is_ok_and(|pending| pending >= in_flight);
    let need = format!("at least {in_flight} (limits.in_flight of one worker)");
    let fix = format!("--max-pending {}, or lower limits.in_flight", want.max_ack_pending);
    report.need(enough, "max_ack_pending", pending, need, Edit(&fix));
    let need = "none (it distorts the worker's own delays)";
    report.need(have.backoff.is_empty(), "backoff", &have.backoff, need, Edit("--backoff none"));
    let limits = (have.max_batch, have.max_bytes, have.max_expires);
    let unlimited = limits == (0, 0, Duration::ZERO);
    report.need(unlimited, "max_batch, max_bytes, max_expires", limits, "no limit (pulls would be refused)", Remake);
    let grouped = have.priority_groups.is_empty();
    let need = "none (pulls without a group would be refused)";
    report.need(grouped, "priority_groups", &have.priority_groups, need, Remake);
    let lasting = have.inactive_threshold.is_zero();
    let need = "none (an idle consumer would vanish)";
    report.need(lasting, "inactive_threshold", have.inactive_threshold, need, Edit("--inactive-threshold 0s"));
    report.need(!have.headers_only, "headers_only", have.headers_only, "false", Edit("--no-headers-only"));
    report.differences
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Config, Topology};

    fn topology() -> Topology {
        let models = vec!["digits".parse().unwrap()];
        Topology {
            namespace: Default::default(),
            config: Config::default(),
            models,
            in_flight: 2048,
            max_hold: Duration::ZERO,
        }
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
        let says = "stream INFER_JOBS: retention is Limits, needed is WorkQueue; fix: copy what it holds elsewhere, ";
        assert!(found[0].to_string().starts_with(says), "{}", found[0]);
        assert_eq!(found[1].field, "discard");
        let forgetful = stream::Config { duplicate_window: Duration::from_secs(5), ..results.clone() };
        let found = stream(&results, &forgetful, Duration::from_secs(120));
        assert_eq!(found[0].field, "duplicate_window");
        assert_eq!(found[0].fix, "fix: nats stream edit INFER_RESULTS --dupe-window 1800s");
    }

    #[test]
    fn sizes_ages_and_replicas_are_the_operators() {
        let [jobs, ..] = topology().streams();
        let tuned = stream::Config { max_bytes: 1 << 30, num_replicas: 3, max_messages: 10, ..jobs.clone() };
        assert_eq!(stream(&jobs, &tuned, Duration::ZERO), []);
    }
}
