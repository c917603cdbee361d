//! The pure part of intake: how many jobs may be asked for, and from which consumer.
//!
//! One number bounds memory: the jobs accepted and not settled, plus those asked for and not yet delivered, never exceed
//! the capacity. Within that each consumer has a window. Where that has room, it always has a small pull open, online consumers
//! first, so that neither lane waits for the other to go quiet; what is left goes to consumers known to have more, online before bulk.

use std::collections::hash_map::Entry;
use std::time::{Duration, Instant};

use gristmill_schemas::Lane;

use super::consumer::{Consumer, Open};
use crate::sequences::BySequence;
use crate::ticket::Backlog;

/// How long the server keeps a pull open. Short: it is also the longest that a drain waits for pulls to end.
pub const EXPIRES: Duration = Duration::from_millis(500);

/// A pull whose end the server has not told this long after it expired is written off: the connection was cut, and the
/// server has forgotten the pull.
const GRACE: Duration = Duration::from_secs(2);

/// After a second loss of the connection within this many times ack_wait, jobs are asked for one by one for as long.
///
/// A message that the client cannot read (headers that are not UTF-8) costs it the connection and all that was on the
/// wire behind it; the server delivers them together again after ack_wait, and so for ever. Asked for one by one, only
/// that message is lost, until its deliveries are used up and the sweeper takes it.
const CAREFUL_ACK_WAITS: u32 = 2;

/// One request for jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pull {
    /// Index of the consumer.
    pub consumer: usize,
    /// Names the pull in the server's status messages.
    pub id: u64,
    /// Most jobs to deliver.
    pub batch: usize,
}

/// What became of a delivery's credit.
#[derive(Debug, PartialEq, Eq)]
pub enum Admission {
    /// The job is new: open it.
    Accepted,
    /// The job is open already: the server delivered it again.
    Duplicate,
}

/// Permits and open pulls.
#[derive(Debug)]
pub struct Credit {
    capacity: usize,
    /// Most jobs of all consumers asked for and open at present: small until this process was seen to survive them.
    proven: usize,
    /// Open jobs and the consumer each came from; `None` for those that a dead worker left.
    open: BySequence<Option<usize>>,
    consumers: Vec<Consumer>,
    next_id: u64,
    /// Who is asked first next time: with few permits, everyone in turn.
    turn: usize,
    ack_wait: Duration,
    last_disconnect: Option<Instant>,
    careful_until: Option<Instant>,
}

impl Credit {
    /// No job accepted, no pull open.
    pub fn new(capacity: usize, ack_wait: Duration, lanes: impl Iterator<Item = Lane>) -> Self {
        let consumers: Vec<_> = lanes.map(|lane| Consumer::new(lane, capacity)).collect();
        Self {
            capacity,
            proven: start(&consumers),
            open: BySequence::default(),
            turn: 0,
            consumers,
            next_id: 0,
            ack_wait,
            last_disconnect: None,
            careful_until: None,
        }
    }

    /// Counts a job that a dead worker left as accepted.
    pub fn adopt(&mut self, sequence: u64) {
        self.open.entry(sequence).or_insert(None);
    }

    /// Jobs accepted and not settled.
    pub fn in_flight(&self) -> usize {
        self.open.len()
    }

    /// Of each consumer, how many jobs may be in flight at present, as far as the others leave room.
    pub fn windows(&self) -> impl Iterator<Item = usize> {
        self.consumers.iter().map(|consumer| consumer.window.jobs())
    }

    /// Whether the server may still deliver.
    pub fn has_open_pulls(&self) -> bool {
        self.consumers.iter().any(|consumer| !consumer.pulls.is_empty())
    }

    /// Jobs asked for and not delivered yet.
    pub fn asked(&self) -> usize {
        self.consumers.iter().map(Consumer::asked).sum()
    }

    /// The pulls to send now.
    pub fn grant(&mut self, now: Instant) -> Vec<Pull> {
        let asked = self.asked();
        // What a dead worker left runs beside what is proven: it must not keep others waiting.
        let own: usize = self.consumers.iter().map(|consumer| consumer.open).sum();
        let free = self.capacity.saturating_sub(self.open.len() + asked);
        let mut free = free.min(self.proven.saturating_sub(own + asked));
        let is_careful = self.careful_until.is_some_and(|until| now < until);
        let count = self.consumers.len();
        let mut pulls = Vec::new();
        for index in (0..count).map(|i| (i + self.turn) % count).collect::<Vec<_>>() {
            let consumer = &self.consumers[index];
            let share = consumer.window.jobs().min(self.proven.min(self.capacity) / count);
            let floor = if is_careful { 1 } else { (share / 8).max(1) };
            let batch = floor.min(free).min(consumer.room());
            let enough = batch >= floor.min(consumer.quantum(self.proven));
            if enough && consumer.wants_floor(self.capacity / 8, now) {
                free -= batch;
                self.turn = index + 1;
                pulls.push(self.pull(index, batch, now));
            }
        }
        for lane in Lane::ALL.into_iter().filter(|_| !is_careful) {
            for index in self.of_lane(lane, now) {
                let consumer = &self.consumers[index];
                let want = usize::try_from(consumer.pending).unwrap_or(usize::MAX);
                let batch = want.min(free).min(consumer.room());
                // Wait for a worthwhile one unless it is all there is to get.
                if batch > 0 && (batch == want || batch >= consumer.quantum(self.proven)) {
                    free -= batch;
                    pulls.push(self.pull(index, batch, now));
                }
            }
        }
        pulls
    }

    fn of_lane(&self, lane: Lane, now: Instant) -> Vec<usize> {
        let may = |c: &Consumer| c.lane == lane && c.retry_at.is_none_or(|at| at <= now);
        (0..self.consumers.len()).filter(|&index| may(&self.consumers[index])).collect()
    }

    fn pull(&mut self, index: usize, batch: usize, now: Instant) -> Pull {
        let id = self.next_id;
        self.next_id += 1;
        let consumer = &mut self.consumers[index];
        consumer.pulls.push_back(Open { id, left: batch, lost_at: now + EXPIRES + GRACE });
        consumer.pending = consumer.pending.saturating_sub(batch as u64);
        consumer.retry_at = None;
        Pull { consumer: index, id, batch }
    }

    /// A job came. `pending` is what the server says still waits behind it.
    pub fn delivered(&mut self, index: usize, sequence: u64, pending: u64) -> Admission {
        let consumer = &mut self.consumers[index];
        // A delivery does not say which pull it answers; the server serves the oldest first.
        if let Some(pull) = consumer.pulls.front_mut() {
            pull.left -= 1;
            if pull.left == 0 {
                consumer.pulls.pop_front();
            }
        }
        consumer.pending = pending.saturating_sub(consumer.asked() as u64);
        match self.open.entry(sequence) {
            Entry::Occupied(_) => Admission::Duplicate,
            Entry::Vacant(entry) => {
                entry.insert(Some(index));
                self.consumers[index].open += 1;
                Admission::Accepted
            }
        }
    }

    /// A job that was delivered may have killed a worker.
    pub fn suspected(&mut self) {
        self.proven = self.proven.min(start(&self.consumers));
    }

    /// A job was settled. `backlog`: what waited behind it.
    pub fn closed(&mut self, sequence: u64, backlog: Option<Backlog>) {
        if let Some(Some(index)) = self.open.remove(&sequence) {
            let consumer = &mut self.consumers[index];
            consumer.window.settled(consumer.open + consumer.asked(), backlog);
            consumer.open -= 1;
            self.proven = (self.proven + 1).min(self.capacity.max(start(&self.consumers)));
        }
    }

    /// The server ended a pull. `retry_at` holds the consumer back after an error.
    pub fn ended(&mut self, index: usize, id: u64, retry_at: Option<Instant>) {
        let consumer = &mut self.consumers[index];
        consumer.pulls.retain(|pull| pull.id != id);
        // Another pull's error still counts.
        consumer.retry_at = consumer.retry_at.max(retry_at);
    }

    /// The connection was lost, and with it every open pull.
    pub fn disconnected(&mut self, now: Instant) {
        self.consumers.iter_mut().for_each(|consumer| consumer.pulls.clear());
        let window = self.ack_wait * CAREFUL_ACK_WAITS;
        if self.last_disconnect.is_some_and(|last| now < last + window) {
            self.careful_until = Some(now + window);
        }
        self.last_disconnect = Some(now);
    }

    /// Writes off the pulls whose end never came, and lets consumers be asked whose time has come. Returns how many.
    pub fn write_off(&mut self, now: Instant) -> usize {
        for consumer in &mut self.consumers {
            consumer.retry_at = consumer.retry_at.filter(|at| *at > now);
        }
        let before = self.consumers.iter().map(|consumer| consumer.pulls.len()).sum::<usize>();
        for consumer in &mut self.consumers {
            consumer.pulls.retain(|pull| pull.lost_at > now);
        }
        before - self.consumers.iter().map(|consumer| consumer.pulls.len()).sum::<usize>()
    }

    /// When to call [`Self::write_off`], then [`Self::grant`], again, if nothing else happens.
    pub fn next_wake(&self) -> Option<Instant> {
        let lost = self.consumers.iter().flat_map(|consumer| &consumer.pulls).map(|pull| pull.lost_at);
        let retries = self.consumers.iter().filter_map(|consumer| consumer.retry_at);
        lost.chain(retries).min()
    }
}

/// Most jobs asked for and open to begin with, and from the delivery of a suspect (a job that may have killed a worker)
/// on: one of each consumer. Each settled job proves one more, so that their number doubles with every round trip, as
/// TCP's window does. What was delivered again comes first, so a job that kills this process, too, is here with no other
/// that would have spent a delivery with it.
fn start(consumers: &[Consumer]) -> usize {
    consumers.len().max(1)
}

#[cfg(test)]
mod tests;
