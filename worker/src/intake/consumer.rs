//! One consumer as credit sees it. Pure.

use std::collections::VecDeque;
use std::time::Instant;

use gristmill_schemas::Lane;

#[derive(Debug)]
pub(super) struct Consumer {
    pub(super) lane: Lane,
    pub(super) pulls: VecDeque<Open>,
    /// Jobs that wait on the server, by its last word, less those asked for since.
    pub(super) pending: u64,
    /// After an error status: not before this.
    pub(super) retry_at: Option<Instant>,
    /// Jobs accepted and not settled.
    pub(super) open: usize,
}

#[derive(Debug)]
pub(super) struct Open {
    pub(super) id: u64,
    pub(super) left: usize,
    pub(super) lost_at: Instant,
}

impl Consumer {
    /// Whether to keep a small pull open. A bulk consumer that already holds its share has to wait for what the online
    /// consumers leave, else it would take half of every permit that comes free.
    pub(super) fn wants_floor(&self, share: usize, now: Instant) -> bool {
        let may = self.retry_at.is_none_or(|at| at <= now);
        may && self.pulls.is_empty() && (self.lane == Lane::Online || self.open <= share)
    }

    pub(super) fn asked(&self) -> usize {
        self.pulls.iter().map(|pull| pull.left).sum()
    }
}
