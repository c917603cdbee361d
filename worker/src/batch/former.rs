//! The pure part: a state machine for the waiting jobs of one model. It is told the time and asked for batches.
//!
//! Jobs wait in one queue for each shape (so a different shape never ends another's batch) and lane. The queue whose
//! head has waited longest goes first, online before bulk; every [`BULK_FLOOR`]th batch the other way round, so that
//! bulk never starves. Online jobs fill a batch first, bulk jobs of the same shape what is left of it.
//!
//! A suspect (a job that may have killed a worker) never shares a batch. Suspects are as old as the crash and would go
//! first for long, so while others wait only every [`SOLO_TURN`]th batch is one of theirs.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use gristmill_schemas::Lane;

use super::ceilings::Ceilings;
use super::fill::fill;
use super::pace::Pace;
use super::queue::{Queue, Waiting};
use crate::telemetry::CloseReason;
use crate::ticket::Backlog;

/// One batch in this many starts with the bulk lane, if bulk jobs wait: bulk keeps an eighth of the batches under any online
/// load.
const BULK_FLOOR: u32 = 8;

/// One batch in this many is a suspect's, if one waits beside other jobs. While full batches keep an engine busy, it is let run empty for
/// it, and for jobs that no full batch would take.
const SOLO_TURN: u32 = 4;

/// When a batch is full and how long it may wait.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most rows.
    pub max_rows: usize,
    /// Most elements of the largest input.
    pub max_elements: usize,
    /// Most elements of a batch that bulk jobs are to join: beside online jobs, which would wait for it.
    pub bulk_elements: usize,
    /// How long an idle engine waits for a fuller batch; zero takes what is there.
    pub max_delay: Duration,
    /// How soon online jobs are to be answered.
    pub target: Option<Duration>,
}

impl Limits {
    /// Most elements of a batch that jobs of this lane are to join.
    pub(super) fn most_elements(&self, lane: Lane) -> usize {
        [self.max_elements, self.bulk_elements][lane as usize]
    }

    /// Most rows of a batch of this lane whose rows are like these.
    fn rows_like(&self, jobs: &Sum, lane: Lane) -> usize {
        let each = jobs.elements.div_ceil(jobs.rows.max(1)).max(1);
        self.max_rows.min(self.most_elements(lane) / each).max(jobs.rows)
    }
}

/// What the former needs to know of a job.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// Its lane.
    pub lane: Lane,
    /// Its rows.
    pub rows: usize,
    /// Its length, where it can be filled up to that of its mates; else the same for all.
    pub length: usize,
    /// Elements of its largest input that can be filled up, for each step of length; 0 where there is none.
    pub step: usize,
    /// Elements of its largest other input.
    pub fixed: usize,
    /// When its answer stops being of use.
    pub deadline: Option<Instant>,
    /// No job waited behind it in the stream: there is nothing to wait for.
    pub is_last: bool,
    /// It may kill a worker: it runs alone, lower ranks first.
    pub suspect: Option<u64>,
}

/// Full batches, and the jobs of each.
#[derive(Debug, Clone, Copy)]
struct Useful {
    batches: f64,
    jobs: usize,
}

/// Jobs together.
#[derive(Debug, Default)]
struct Sum {
    jobs: usize,
    rows: usize,
    elements: usize,
    is_online: bool,
    is_filled_up: bool,
}

impl Sum {
    fn of<'a>(facts: impl Iterator<Item = &'a Facts>) -> Self {
        facts.fold(Self::default(), |sum, facts| Self {
            jobs: sum.jobs + 1,
            rows: sum.rows + facts.rows,
            elements: sum.elements.saturating_add(facts.elements()),
            is_online: sum.is_online || facts.lane == Lane::Online,
            is_filled_up: sum.is_filled_up || facts.step > 0,
        })
    }

    /// Whose limits hold for a batch of these.
    fn lane(&self) -> Lane {
        if self.is_online { Lane::Online } else { Lane::Bulk }
    }
}

impl Facts {
    /// Elements of its largest input at its own length.
    pub fn elements(&self) -> usize {
        self.fixed.max(self.step.saturating_mul(self.length))
    }
}

/// A batch: its shape, its jobs, and why it was closed.
#[derive(Debug, PartialEq, Eq)]
pub struct Closed<K, J> {
    /// What its jobs have in common.
    pub key: K,
    /// At least one.
    pub jobs: Vec<J>,
    /// Why now.
    pub reason: CloseReason,
    /// Rows that it could have had.
    pub most: usize,
}

/// Jobs `J` of one model, by shape `K`.
#[derive(Debug)]
pub struct Former<K, J> {
    limits: Limits,
    queues: HashMap<K, Queue<J>>,
    /// Empty, for the next shape that comes.
    spare: Queue<J>,
    suspects: VecDeque<(K, Waiting<J>)>,
    /// What the device's memory was found to hold. Lowered and raised by the batch task.
    pub ceilings: Ceilings<K>,
    /// What the runs taught. Told by the batch task.
    pub pace: Pace,
    batches: u32,
    waiting: [usize; 2],
    /// What of each lane is worth having wait for each engine, by the last batch.
    useful: [Useful; 2],
}

impl<K: Clone + Eq + std::hash::Hash, J> Former<K, J> {
    /// Nothing waits. `to_knee`: batches end at the knee of throughput.
    pub fn new(limits: Limits, to_knee: bool) -> Self {
        let (queues, suspects, ceilings) = (HashMap::new(), VecDeque::new(), Ceilings::new(limits.max_rows));
        let pace = Pace::new(to_knee, limits.target);
        Self {
            limits,
            queues,
            spare: Queue::default(),
            suspects,
            ceilings,
            pace,
            batches: 0,
            waiting: [0; 2],
            useful: [Useful { batches: f64::INFINITY, jobs: usize::MAX }; 2],
        }
    }

    /// Jobs waiting, online and bulk.
    pub fn waiting(&self) -> [usize; 2] {
        self.waiting
    }

    /// What waits in each lane for so many engines.
    pub fn backlog(&self, engines: usize, now: Instant) -> [Backlog; 2] {
        let limits = self.settled_limits(now);
        let mut full = [0; 2];
        for (key, queue) in &self.queues {
            let limits = Limits { max_rows: self.ceilings.max_rows(key), ..limits };
            Lane::ALL.iter().for_each(|lane| full[*lane as usize] += queue.full_batches(*lane, &limits));
        }
        Lane::ALL.map(|lane| {
            let Useful { batches, jobs } = self.useful[lane as usize];
            let batches = batches * engines.max(1) as f64;
            // A cast of a float saturates.
            Backlog { fill: (full[lane as usize] as f64 / batches) as f32, enough: (batches * jobs as f64) as u32 }
        })
    }

    /// Takes a job in.
    pub fn push(&mut self, key: K, job: J, facts: Facts, now: Instant) {
        self.waiting[facts.lane as usize] += 1;
        if facts.lane == Lane::Online {
            self.pace.came(now);
        }
        if facts.suspect.is_some() {
            let at = self.suspects.partition_point(|(_, other)| other.facts.suspect <= facts.suspect);
            return self.suspects.insert(at, (key, Waiting { job, facts, since: now }));
        }
        let queue = self.queues.entry(key).or_insert_with(|| std::mem::take(&mut self.spare));
        queue.push(Waiting { job, facts, since: now });
    }

    /// Takes out the jobs whose deadline has passed.
    pub fn take_expired(&mut self, now: Instant) -> Vec<(J, Instant)> {
        let mut expired = Vec::new();
        if self.next_deadline().is_none_or(|deadline| deadline > now) {
            return expired;
        }
        for queue in self.queues.values_mut() {
            for (waiting, deadline) in queue.take_expired(now) {
                self.waiting[waiting.facts.lane as usize] -= 1;
                expired.push((waiting.job, deadline));
            }
        }
        self.queues.retain(|_, queue| queue.rows() > 0);
        for (key, waiting) in std::mem::take(&mut self.suspects) {
            match waiting.facts.deadline {
                Some(deadline) if deadline <= now => {
                    self.waiting[waiting.facts.lane as usize] -= 1;
                    expired.push((waiting.job, deadline));
                }
                _ => self.suspects.push_back((key, waiting)),
            }
        }
        expired
    }

    /// When the next job expires.
    pub fn next_deadline(&self) -> Option<Instant> {
        let suspects = self.suspects.iter().filter_map(|(_, waiting)| waiting.facts.deadline);
        self.queues.values().filter_map(|queue| queue.deadline).chain(suspects).min()
    }

    /// The next batch for an idle engine, if one is due: one shape, never over the limits unless a job alone is.
    pub fn take(&mut self, now: Instant) -> Option<Closed<K, J>> {
        let bulk_first = self.is_bulk_first();
        let key = self.first_due(bulk_first, now).map(|(key, _)| key.clone());
        let is_solo = key.is_none() || self.batches.is_multiple_of(SOLO_TURN);
        let batch = match (is_solo, key) {
            (true, None) => self.take_suspect()?,
            (true, Some(key)) => self.take_suspect().unwrap_or_else(|| self.fill(key, bulk_first, now)),
            (false, key) => self.fill(key?, bulk_first, now),
        };
        self.batches = self.batches.wrapping_add(1);
        Some(batch)
    }

    /// The next batch that nothing could join any more, for an engine that still runs another. Suspects wait: what runs before
    /// them is not to be lost with them.
    pub fn take_full(&mut self, now: Instant) -> Option<Closed<K, J>> {
        let bulk_first = self.is_bulk_first();
        if self.batches.is_multiple_of(SOLO_TURN) && self.is_passed_over(bulk_first, now) {
            return None;
        }
        let full = self.queues.iter().filter(|(key, queue)| queue.is_full(&self.limits_of(key, now)));
        let key = full.min_by_key(|(_, queue)| queue.rank(bulk_first)).map(|(key, _)| key.clone())?;
        let batch = self.fill(key, bulk_first, now);
        self.batches = self.batches.wrapping_add(1);
        Some(batch)
    }

    /// Whether full batches only would pass over a suspect, or over those who are first in turn.
    fn is_passed_over(&self, bulk_first: bool, now: Instant) -> bool {
        let first = self.first_due(bulk_first, now);
        !self.suspects.is_empty() || first.is_some_and(|(key, queue)| !queue.is_full(&self.limits_of(key, now)))
    }

    fn first_due(&self, bulk_first: bool, now: Instant) -> Option<(&K, &Queue<J>)> {
        let due = self.queues.iter().filter(|(key, queue)| self.due(key, queue, now) <= now);
        due.min_by_key(|(_, queue)| queue.rank(bulk_first))
    }

    fn is_bulk_first(&self) -> bool {
        self.batches % BULK_FLOOR == BULK_FLOOR - 1
    }

    fn due(&self, key: &K, queue: &Queue<J>, now: Instant) -> Instant {
        queue.due(&self.limits_of(key, now), self.pace.cost().estimate(queue.elements()))
    }

    fn limits_of(&self, key: &K, now: Instant) -> Limits {
        Limits { max_rows: self.ceilings.max_rows(key), ..self.limits_up_to(self.pace.most(self.batches), now) }
    }

    /// Those of a batch that tries nothing; as for rows, the package's.
    fn settled_limits(&self, now: Instant) -> Limits {
        self.limits_up_to(self.pace.knee().unwrap_or(usize::MAX), now)
    }

    fn limits_up_to(&self, elements: usize, now: Instant) -> Limits {
        let max_elements = elements.min(self.limits.max_elements);
        let bulk_elements = self.pace.beside_online(now).min(max_elements);
        Limits { max_elements, bulk_elements, ..self.limits }
    }

    fn take_suspect(&mut self) -> Option<Closed<K, J>> {
        let (key, waiting) = self.suspects.pop_front()?;
        self.waiting[waiting.facts.lane as usize] -= 1;
        let most = self.ceilings.max_rows(&key);
        Some(Closed { key, jobs: vec![waiting.job], reason: CloseReason::Solo, most })
    }

    /// Takes what fits into one batch out of a queue.
    fn fill(&mut self, key: K, bulk_first: bool, now: Instant) -> Closed<K, J> {
        let mut queue = self.queues.remove(&key).expect("the key was found in the queues");
        let limits = self.limits_of(&key, now);
        let reason = queue.reason(&limits, now);
        let order = if bulk_first { [Lane::Bulk, Lane::Online] } else { Lane::ALL };
        let taken = fill(&mut queue, &limits, order, self.pace.cost().worth());
        taken.iter().for_each(|waiting| self.waiting[waiting.facts.lane as usize] -= 1);
        let sum = Sum::of(taken.iter().map(|waiting| &waiting.facts));
        let settled = Limits { max_rows: limits.max_rows, ..self.settled_limits(now) };
        self.useful = Lane::ALL.map(|lane| self.useful(&sum, settled.rows_like(&sum, lane)));
        let most = limits.rows_like(&sum, sum.lane());
        let jobs = taken.into_iter().map(|waiting| waiting.job).collect();
        if queue.rows() > 0 {
            queue.is_closing = false;
            queue.recall();
            self.queues.insert(key.clone(), queue);
        } else {
            self.spare = queue.reused();
        }
        Closed { key, jobs, reason, most }
    }

    /// What of jobs like these is worth having wait for an engine, where a batch holds `most` rows.
    fn useful(&self, jobs: &Sum, most: usize) -> Useful {
        let of_a_full_one = |sum: usize| sum.saturating_mul(most).div_ceil(jobs.rows.max(1));
        let batches = self.pace.useful(of_a_full_one(jobs.elements), jobs.is_filled_up);
        Useful { batches, jobs: of_a_full_one(jobs.jobs) }
    }

    /// When to look again, if nothing else happens: the next batch falls due or the next deadline passes.
    pub fn next_wake(&self, now: Instant) -> Option<Instant> {
        let due = self.queues.iter().map(|(key, queue)| self.due(key, queue, now)).min();
        let suspect = self.suspects.front().map(|(_, waiting)| waiting.since);
        [due, suspect, self.next_deadline()].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests;
