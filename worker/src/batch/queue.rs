//! The jobs of one shape that wait, and the room of a batch. Pure.

use std::collections::VecDeque;
use std::time::Instant;

use gristmill_schemas::Lane;

use super::former::{Facts, Limits};
use crate::telemetry::CloseReason;

#[derive(Debug)]
pub(super) struct Queue<J> {
    pub(super) lanes: [VecDeque<Waiting<J>>; 2],
    pub(super) rows: usize,
    pub(super) elements: usize,
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

impl<J> Default for Queue<J> {
    fn default() -> Self {
        let lanes = [VecDeque::new(), VecDeque::new()];
        Self { lanes, rows: 0, elements: 0, is_closing: false, deadline: None, halfway: None }
    }
}

impl<J> Queue<J> {
    fn heads(&self) -> impl Iterator<Item = &Waiting<J>> {
        self.lanes.iter().filter_map(VecDeque::front)
    }

    /// When an idle engine should take from this queue.
    pub(super) fn due(&self, limits: &Limits) -> Instant {
        let oldest = self.heads().map(|waiting| waiting.since).min().expect("an empty queue is removed");
        if self.is_closing || self.rows >= limits.max_rows || self.elements >= limits.max_elements {
            return oldest;
        }
        // A job leaves the model at least half the time it had left on arrival.
        self.halfway.into_iter().fold(oldest + limits.max_delay, Instant::min)
    }

    /// Why an idle engine takes from this queue, which is due.
    pub(super) fn reason(&self, limits: &Limits, now: Instant) -> CloseReason {
        let oldest = self.heads().map(|waiting| waiting.since).min().expect("an empty queue is removed");
        if self.rows >= limits.max_rows || self.elements >= limits.max_elements {
            CloseReason::Full
        } else if self.is_closing || limits.max_delay.is_zero() {
            CloseReason::Idle
        } else if oldest + limits.max_delay <= now {
            CloseReason::Timeout
        } else {
            CloseReason::Deadline
        }
    }

    pub(super) fn remove(&mut self, facts: &Facts) {
        self.rows -= facts.rows;
        self.elements = self.elements.saturating_sub(facts.elements);
    }

    /// Takes a job's deadline into account.
    pub(super) fn note(&mut self, waiting: &Waiting<J>) {
        let Some(deadline) = waiting.facts.deadline else { return };
        let halfway = waiting.since + deadline.saturating_duration_since(waiting.since) / 2;
        self.deadline = Some(self.deadline.map_or(deadline, |soonest| soonest.min(deadline)));
        self.halfway = Some(self.halfway.map_or(halfway, |soonest| soonest.min(halfway)));
    }

    /// Finds the soonest deadline again after jobs have left. Costs nothing where no job has one.
    pub(super) fn recall(&mut self) {
        if self.deadline.take().is_some() {
            self.halfway = None;
            let lanes = std::mem::take(&mut self.lanes);
            lanes.iter().flatten().for_each(|waiting| self.note(waiting));
            self.lanes = lanes;
        }
    }

    /// Order among due queues: the preferred lane first, then the longest wait.
    pub(super) fn rank(&self, bulk_first: bool) -> (bool, Instant) {
        let (preferred, other) = if bulk_first { (Lane::Bulk, Lane::Online) } else { (Lane::Online, Lane::Bulk) };
        let since = |lane: Lane| self.lanes[lane as usize].front().map(|waiting| waiting.since);
        match since(preferred) {
            Some(since) => (false, since),
            None => (true, since(other).expect("an empty queue is removed")),
        }
    }
}

/// What is left of a batch.
pub(super) struct Room {
    pub(super) rows: usize,
    pub(super) elements: usize,
    pub(super) is_empty: bool,
}

impl Room {
    /// Takes a job's share, if there is enough. The first job is always admitted: route has checked it alone.
    pub(super) fn admit(&mut self, facts: &Facts) -> bool {
        let fits = facts.rows <= self.rows && facts.elements <= self.elements;
        if fits || self.is_empty {
            self.rows = self.rows.saturating_sub(facts.rows);
            self.elements = self.elements.saturating_sub(facts.elements);
            self.is_empty = false;
            return true;
        }
        false
    }
}
