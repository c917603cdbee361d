use gristmill_schemas::metric;

use super::work::{Work, answers};
use crate::top::format;
use crate::top::snapshot::{Queue, Snapshot, Stream};

/// Names of the streams as people say them, in the order of the snapshot.
const STREAMS: [&str; 3] = ["jobs", "results", "dead letters"];

/// What someone should look at.
pub(super) fn faults(snapshot: &Snapshot) -> Vec<String> {
    let mut faults = snapshot.faults.clone();
    let deserted = snapshot.queues.iter().filter(|queue| queue.is_deserted());
    let deserted: Vec<String> = deserted.map(|queue| format!("{} {}", queue.model, queue.lane)).collect();
    if !deserted.is_empty() {
        faults.push(format!("jobs wait and no worker pulls: {}", deserted.join(", ")));
    }
    let uncovered: Vec<String> =
        snapshot.uncovered.iter().map(|(subject, jobs)| format!("{subject} {}", format::count(*jobs as f64))).collect();
    if !uncovered.is_empty() {
        faults.push(format!("jobs without a consumer: {}", uncovered.join(", ")));
    }
    faults
}

/// Totals: streams, then workers.
pub(super) fn items(earlier: Option<&Snapshot>, later: &Snapshot, work: &Work) -> Vec<String> {
    let streams = STREAMS.iter().enumerate().map(|(index, name)| {
        let before = earlier.and_then(|earlier| earlier.streams[index].as_ref());
        stream(name, before, later.streams[index].as_ref(), work)
    });
    let mut items: Vec<String> = streams.collect();
    let ready = answers(later).filter(|answer| answer.ready).count();
    items.push(format!("workers {ready} of {} ready", later.workers.len()));
    let permits = answers(later).map(|answer| answer.permits);
    let (now, limit) = permits
        .fold((0.0, 0.0), |(now, limit), permits| (now + permits.in_flight as f64, limit + permits.limit as f64));
    items.push(format!("in flight {}/{}", format::count(now), format::count(limit)));
    for (name, metric) in [("delivered", metric::CONSUMED_MESSAGES), ("redelivered", metric::REDELIVERIES)] {
        let rate = work.total.as_ref().and_then(|series| work.rate(series.sum(metric, &[])));
        items.extend(rate.map(|rate| format!("{name} {}/s", format::rate(rate))));
    }
    items
}

fn stream(name: &str, before: Option<&Stream>, now: Option<&Stream>, work: &Work) -> String {
    let Some(now) = now else { return format!("{name} {}", format::NONE) };
    // One that was deleted and made anew counts from 1 again.
    let added = before.map(|before| now.last_sequence.checked_sub(before.last_sequence).unwrap_or(now.last_sequence));
    let rate = added.and_then(|added| work.rate(added as f64)).map(|rate| format!(" +{}/s", format::rate(rate)));
    let [messages, bytes] = [format::count(now.messages as f64), format::bytes(now.bytes as f64)];
    format!("{name} {messages} {bytes}{}", rate.unwrap_or_default())
}

impl Queue {
    /// Jobs wait, nobody has any and nobody asks for one.
    pub(super) fn is_deserted(&self) -> bool {
        self.pending > 0 && self.ack_pending == 0 && self.open_pulls == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::sample::{busy, read, snapshot};

    #[test]
    fn totals_are_of_streams_and_workers() {
        let earlier = snapshot(100, vec![read(busy("w1", 100)), read(busy("w2", 10))]);
        let later = snapshot(102, vec![read(busy("w1", 102)), read(busy("w2", 12))]);
        assert_eq!(
            items(Some(&earlier), &later, &Work::between(Some(&earlier), &later)),
            [
                "jobs 12.3k 12.1M +600/s",
                "results 50.0k 48.8M +500/s",
                "dead letters 40 40.0K +1.00/s",
                "workers 2 of 2 ready",
                "in flight 34/4096",
                "delivered 1002/s",
                "redelivered 2.00/s",
            ]
        );
    }

    #[test]
    fn a_stream_that_is_gone_or_new_is_shown() {
        let (mut earlier, mut later) = (snapshot(100, vec![]), snapshot(102, vec![]));
        later.streams[0] = None;
        if let Some(results) = &mut earlier.streams[1] {
            results.last_sequence = u64::MAX;
        }
        let items = items(Some(&earlier), &later, &Work::between(Some(&earlier), &later));
        assert_eq!(items[..2], ["jobs -", "results 50.0k 48.8M +25.5k/s"]);
        assert_eq!(items.last().unwrap(), "in flight 0/0");
    }

    #[test]
    fn jobs_that_nobody_will_take_are_a_fault() {
        let mut snapshot = snapshot(100, vec![]);
        (snapshot.queues[0].open_pulls, snapshot.queues[0].ack_pending) = (0, 0);
        snapshot.uncovered.insert("infer.jobs.nowhere.online".into(), 5);
        assert_eq!(
            faults(&snapshot),
            ["jobs wait and no worker pulls: mlp bulk", "jobs without a consumer: infer.jobs.nowhere.online 5",]
        );
    }
}
