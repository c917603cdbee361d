//! The jobs of one shape that wait. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use gristmill_schemas::Lane;

use super::former::{Facts, Limits};
use crate::telemetry::CloseReason;

/// Jobs of one lane, by length; those of a length in the order in which they came. A model that fills nothing up has all of
/// them under one length.
#[derive(Debug)]
pub(super) struct Jobs<J> {
    by_length: BTreeMap<usize, VecDeque<Waiting<J>>>,
    /// Empty, for the next length that comes: where every batch empties its queue, none has to grow again.
    spare: VecDeque<Waiting<J>>,
}

#[derive(Debug)]
pub(super) struct Queue<J> {
    pub(super) lanes: [Jobs<J>; 2],
    /// Of each lane, as what follows.
    pub(super) rows: [usize; 2],
    jobs: [usize; 2],
    pub(super) elements: [usize; 2],
    /// The stream ran empty behind one of these jobs.
    pub(super) is_closing: bool,
    /// The soonest deadline among these jobs.
    pub(super) deadline: Option<Instant>,
    /// The soonest time at which one of these jobs has used up half the time it had.
    pub(super) halfway: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Waiting<J> {
    pub(super) job: J,
    pub(super) facts: Facts,
    pub(super) since: Instant,
}

impl<J> Jobs<J> {
    fn push(&mut self, waiting: Waiting<J>) {
        let jobs = self.by_length.entry(waiting.facts.length).or_insert_with(|| std::mem::take(&mut self.spare));
        jobs.push_back(waiting);
    }

    /// The first of a length, and how many jobs of it there are.
    pub(super) fn first(&self, length: usize) -> Option<(&Waiting<J>, usize)> {
        let jobs = self.by_length.get(&length)?;
        jobs.front().map(|first| (first, jobs.len()))
    }

    /// Takes the first of a length, one after another, while they are wanted.
    pub(super) fn take(
        &mut self,
        length: usize,
        taken: &mut Vec<Waiting<J>>,
        mut is_wanted: impl FnMut(&Facts) -> bool,
    ) {
        let Some(jobs) = self.by_length.get_mut(&length) else { return };
        while let Some(first) = jobs.pop_front_if(|first| is_wanted(&first.facts)) {
            taken.push(first);
        }
        if jobs.is_empty() {
            self.spare = self.by_length.remove(&length).unwrap_or_default();
        }
    }

    /// Of the job that has waited longest, its length and since when.
    pub(super) fn oldest(&self) -> Option<(usize, Instant)> {
        let firsts = self.by_length.iter().filter_map(|(length, jobs)| Some((*length, jobs.front()?.since)));
        firsts.min_by_key(|(_, since)| *since)
    }

    /// The lengths next to this one that wait: up to it, and above it.
    pub(super) fn around(&self, length: usize) -> [Option<usize>; 2] {
        let key = |(length, _): (&usize, &VecDeque<Waiting<J>>)| *length;
        let up_to_it = self.by_length.range(..=length).next_back();
        [up_to_it.map(key), self.by_length.range(length + 1..).next().map(key)]
    }

    fn iter(&self) -> impl Iterator<Item = &Waiting<J>> {
        self.by_length.values().flatten()
    }

    /// Takes out those whose deadline has passed.
    fn take_expired(&mut self, now: Instant) -> Vec<(Waiting<J>, Instant)> {
        let mut expired = Vec::new();
        for jobs in self.by_length.values_mut() {
            for waiting in std::mem::take(jobs) {
                match waiting.facts.deadline {
                    Some(deadline) if deadline <= now => expired.push((waiting, deadline)),
                    _ => jobs.push_back(waiting),
                }
            }
        }
        self.by_length.retain(|_, jobs| !jobs.is_empty());
        expired
    }
}

impl<J> Default for Queue<J> {
    fn default() -> Self {
        let lanes = [(); 2].map(|()| Jobs { by_length: BTreeMap::new(), spare: VecDeque::new() });
        Self { lanes, rows: [0; 2], jobs: [0; 2], elements: [0; 2], is_closing: false, deadline: None, halfway: None }
    }
}

impl<J> Queue<J> {
    /// As new, for jobs of any shape. It is empty.
    pub(super) fn reused(self) -> Self {
        Self { lanes: self.lanes, ..Self::default() }
    }

    /// In both lanes.
    pub(super) fn jobs(&self) -> usize {
        self.jobs.iter().sum()
    }

    fn oldest(&self) -> Instant {
        let oldest = self.lanes.iter().filter_map(Jobs::oldest).map(|(_, since)| since);
        oldest.min().expect("an empty queue is removed")
    }

    /// Since when a job of this lane waits.
    pub(super) fn oldest_in(&self, lane: Lane) -> Option<Instant> {
        self.lanes[lane as usize].oldest().map(|(_, since)| since)
    }

    /// Whether there is enough for a whole batch: another job of the usual size would not fit.
    pub(super) fn is_full(&self, limits: &Limits) -> bool {
        let jobs = self.jobs().max(1);
        let with_one_more = |sum: usize| sum.saturating_add(sum / jobs);
        let [online, bulk] = self.elements.map(with_one_more);
        let most = if online == 0 { limits.bulk_elements } else { limits.max_elements };
        with_one_more(self.rows()) > limits.max_rows || online.saturating_add(bulk) > most
    }

    /// How many whole batches this lane's jobs make.
    pub(super) fn full_batches(&self, lane: Lane, limits: &Limits) -> usize {
        let [rows, elements, jobs] = [self.rows, self.elements, self.jobs].map(|of| of[lane as usize]);
        let full = (rows / limits.max_rows.max(1)).max(elements / limits.most_elements(lane).max(1));
        // A job may be of more than the knee: never more batches than jobs.
        full.min(jobs)
    }

    /// Of both lanes.
    pub(super) fn rows(&self) -> usize {
        self.rows.iter().sum()
    }

    /// Likewise.
    pub(super) fn elements(&self) -> usize {
        self.elements[0].saturating_add(self.elements[1])
    }

    /// When an idle engine should take from this queue. `run`: what that is expected to take.
    pub(super) fn due(&self, limits: &Limits, run: Duration) -> Instant {
        let oldest = self.oldest();
        if self.is_closing || self.is_full(limits) {
            return oldest;
        }
        // A job leaves the model at least half the time it had left on arrival, and twice what a run takes: runs scatter.
        // Whoever sets a longer delay than the target wants company more than haste.
        let target = limits.target.filter(|target| *target > limits.max_delay);
        let aim = self.oldest_in(Lane::Online).zip(target).map(|(since, target)| since + target);
        let soonest = self.deadline.into_iter().chain(aim).min();
        let latest = soonest.map(|end| end.checked_sub(run.saturating_mul(2)).unwrap_or(oldest));
        self.halfway.into_iter().chain(latest).fold(oldest + limits.max_delay, Instant::min)
    }

    /// Why an idle engine takes from this queue, which is due.
    pub(super) fn reason(&self, limits: &Limits, now: Instant) -> CloseReason {
        if self.is_full(limits) {
            CloseReason::Full
        } else if self.is_closing || limits.max_delay.is_zero() {
            CloseReason::Idle
        } else if self.oldest() + limits.max_delay <= now {
            CloseReason::Timeout
        } else {
            CloseReason::Deadline
        }
    }

    /// Takes a job in.
    pub(super) fn push(&mut self, waiting: Waiting<J>) {
        let lane = waiting.facts.lane as usize;
        self.rows[lane] += waiting.facts.rows;
        self.jobs[lane] += 1;
        let elements = &mut self.elements[lane];
        *elements = elements.saturating_add(waiting.facts.elements());
        self.is_closing |= waiting.facts.is_last;
        self.note(waiting.facts.deadline, waiting.since);
        self.lanes[lane].push(waiting);
    }

    /// A job has left.
    pub(super) fn remove(&mut self, facts: &Facts) {
        let lane = facts.lane as usize;
        self.rows[lane] -= facts.rows;
        self.jobs[lane] -= 1;
        let elements = &mut self.elements[lane];
        *elements = elements.saturating_sub(facts.elements());
    }

    /// Takes out the jobs whose deadline has passed.
    pub(super) fn take_expired(&mut self, now: Instant) -> Vec<(Waiting<J>, Instant)> {
        let expired: Vec<_> = self.lanes.iter_mut().flat_map(|jobs| jobs.take_expired(now)).collect();
        expired.iter().for_each(|(waiting, _)| self.remove(&waiting.facts));
        self.recall();
        expired
    }

    /// Takes a job's deadline into account.
    fn note(&mut self, deadline: Option<Instant>, since: Instant) {
        let Some(deadline) = deadline else { return };
        let halfway = since + deadline.saturating_duration_since(since) / 2;
        self.deadline = Some(self.deadline.map_or(deadline, |soonest| soonest.min(deadline)));
        self.halfway = Some(self.halfway.map_or(halfway, |soonest| soonest.min(halfway)));
    }

    /// Finds the soonest deadline again after jobs have left. Costs nothing where no job has one.
    pub(super) fn recall(&mut self) {
        if self.deadline.take().is_some() {
            self.halfway = None;
            let lanes = self.lanes.iter().flat_map(Jobs::iter);
            let deadlines: Vec<_> = lanes.map(|waiting| (waiting.facts.deadline, waiting.since)).collect();
            deadlines.into_iter().for_each(|(deadline, since)| self.note(deadline, since));
        }
    }

    /// Order among due queues: the preferred lane first, then the longest wait.
    pub(super) fn rank(&self, bulk_first: bool) -> (bool, Instant) {
        let (preferred, other) = if bulk_first { (Lane::Bulk, Lane::Online) } else { (Lane::Online, Lane::Bulk) };
        match self.oldest_in(preferred) {
            Some(since) => (false, since),
            None => (true, self.oldest_in(other).expect("an empty queue is removed")),
        }
    }
}
