//! One consumer as credit sees it. Pure.

use std::collections::VecDeque;
use std::time::Instant;

use gristmill_schemas::Lane;

use super::window::Window;

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
    /// Bounds those and what is asked for.
    pub(super) window: Window,
}

#[derive(Debug)]
pub(super) struct Open {
    pub(super) id: u64,
    pub(super) left: usize,
    pub(super) lost_at: Instant,
}

impl Consumer {
    pub(super) fn new(lane: Lane, capacity: usize) -> Self {
        let window = Window::new(capacity);
        Self { lane, pulls: VecDeque::new(), pending: 0, retry_at: None, open: 0, window }
    }

    /// Whether to keep a small pull open. A bulk consumer that already holds its share has to wait for what the online
    /// consumers leave, else it would take half of every permit that comes free.
    pub(super) fn wants_floor(&self, share: usize, now: Instant) -> bool {
        let may = self.retry_at.is_none_or(|at| at <= now);
        may && self.pulls.is_empty() && (self.lane == Lane::Online || self.open <= share)
    }

    /// Jobs that may be asked for, as far as this consumer goes.
    pub(super) fn room(&self) -> usize {
        self.window.jobs().saturating_sub(self.open + self.asked())
    }

    /// The smallest pull that is worth its while, where all together are at most `most` jobs: small ones cost as much as large ones.
    pub(super) fn quantum(&self, most: usize) -> usize {
        (self.window.jobs().min(most) / 16).max(1)
    }

    pub(super) fn asked(&self) -> usize {
        self.pulls.iter().map(|pull| pull.left).sum()
    }
}
