//! What a dead process wrote, read and judged.

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::claim::Claimed;
use crate::judge::{Death, Verdict, judge};
use crate::map::{Header, Map};
use crate::mark::{FREE, Mark, REACHED};

/// One job's slot.
pub(crate) struct Record {
    pub(crate) sequence: u64,
    pub(crate) ack: String,
    pub(crate) mark: Mark,
}

/// How far a consumer's deliveries had come.
pub(crate) struct Furthest {
    pub(crate) sequence: u64,
    pub(crate) ack: String,
}

/// What one ledger holds, and in which slots.
#[derive(Default)]
pub(crate) struct Contents {
    pub(crate) jobs: Vec<(usize, Record)>,
    pub(crate) reached: Vec<(usize, Furthest)>,
}

impl Contents {
    pub(crate) fn len(&self) -> usize {
        self.jobs.len() + self.reached.len()
    }

    /// The slots that are taken.
    pub(crate) fn indices(&self) -> impl Iterator<Item = usize> {
        self.jobs.iter().map(|(index, _)| *index).chain(self.reached.iter().map(|(index, _)| *index))
    }
}

/// Reads and judges what a dead process left; writes the verdicts back, so that they are passed only once. What is damaged
/// is freed, and what is stale, but for what is held against a job: that stays true.
pub(crate) fn read(map: &Map, now: SystemTime, claimed: &mut Claimed) -> Contents {
    let is_stale = is_stale(map, now);
    let Contents { jobs: mut records, mut reached } = Contents::default();
    for index in 0..map.slots() {
        let word = map.state(index).load(Ordering::Acquire);
        if word == FREE {
            continue;
        }
        match (Mark::read(word), map.read(index)) {
            // The server has delivered again what was on its way.
            (None, Some(_)) if word == REACHED && is_stale => map.state(index).store(FREE, Ordering::Release),
            (None, Some((sequence, ack))) if word == REACHED => reached.push((index, Furthest { sequence, ack })),
            (Some(mark), Some((sequence, ack))) => records.push((index, Record { sequence, ack, mark })),
            _ => {
                claimed.damaged += 1;
                map.state(index).store(FREE, Ordering::Release);
            }
        }
    }
    let death = Death::read(map.header(Header::Death).load(Ordering::Acquire));
    claimed.deaths.extend(death);
    claimed.asked += map.header(Header::Asked).load(Ordering::Acquire);
    let marks: Vec<Mark> = records.iter().map(|(_, record)| record.mark).collect();
    for ((index, record), mark) in records.iter_mut().zip(judge(&marks, death)) {
        record.mark = mark;
        map.state(*index).store(mark.word(), Ordering::Release);
    }
    records.retain(|(index, record)| {
        let is_void = is_stale && record.mark.verdict() == Verdict::GiveBack;
        if is_void {
            claimed.stale += 1;
            map.state(*index).store(FREE, Ordering::Release);
        }
        !is_void
    });
    Contents { jobs: records, reached }
}

/// Whether the server has delivered the jobs again by now, perhaps to somebody who works on them. A time in the future is
/// no better: clocks were changed.
fn is_stale(map: &Map, now: SystemTime) -> bool {
    let touched = UNIX_EPOCH + Duration::from_millis(map.header(Header::Touched).load(Ordering::Acquire));
    let ack_wait = Duration::from_millis(map.header(Header::AckWait).load(Ordering::Acquire));
    now.duration_since(touched).map_or(true, |age| age >= ack_wait)
}
