use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::connection::Connection;

/// What is wrong with the network. The default: nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// How long bytes take, each way. Any number may be on their way at once: bandwidth is not limited.
    pub latency: Duration,
    /// Nothing gets through in either direction, and no connection is closed. What is sent meanwhile is held.
    pub is_black_hole: bool,
    /// JetStream's answers to stored results are lost.
    pub swallows_publish_acks: bool,
    /// After every so many results from clients: the server gets the result, and the connection is cut before the answer.
    pub cut_behind_result: Option<u64>,
    /// Of every so many results from clients, one never reaches the server, which the connection outlives.
    pub loses_result: Option<u64>,
    /// Of results that are sent together, the last one never reaches the server.
    pub loses_last_results: bool,
    /// This share of connections is cut, each at a random byte of the first 64 KiB of either direction. A connection that
    /// lives on is drawn again for each 64 KiB more, else those that last would be spared.
    pub cut_share: f64,
}

/// What a proxy did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Connections made through it.
    pub connections: u64,
    /// Connections it cut.
    pub cuts: u64,
    /// Answers of JetStream it lost.
    pub swallowed: u64,
    /// Results it lost.
    pub lost: u64,
    /// Connections cut because they did not speak NATS: a bug of the proxy.
    pub malformed: u64,
}

/// The faults of one proxy, with what its threads count.
#[derive(Debug, Default)]
pub(super) struct Switch {
    /// A lock because every thread of the proxy reads it and the test writes it; held for a copy only.
    faults: Mutex<Faults>,
    /// Told when faults change, when a connection is cut, and at the end.
    changed: Condvar,
    is_over: AtomicBool,
    seed: u64,
    pub connections: AtomicU64,
    pub cuts: AtomicU64,
    pub swallowed: AtomicU64,
    pub lost: AtomicU64,
    pub malformed: AtomicU64,
    pub results: AtomicU64,
}

impl Switch {
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self { seed, ..Self::default() })
    }

    pub fn set(&self, faults: Faults) {
        *self.lock() = faults;
        self.changed.notify_all();
    }

    pub fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        self.wake();
    }

    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    /// Makes waiting threads look again.
    pub fn wake(&self) {
        // Under the lock: a thread that has looked and does not wait yet would miss it.
        let _guard = self.lock();
        self.changed.notify_all();
    }

    /// The faults now.
    pub fn faults(&self) -> Faults {
        *self.lock()
    }

    /// Waits until what is due then may pass, and returns the faults it meets; `None` once its connection is cut.
    pub fn pass(&self, due: Instant, connection: &Connection) -> Option<Faults> {
        let mut faults = self.lock();
        loop {
            let now = Instant::now();
            if connection.is_cut() {
                return None;
            } else if faults.is_black_hole {
                faults = self.changed.wait(faults).unwrap_or_else(PoisonError::into_inner);
            } else if due > now {
                let waited = self.changed.wait_timeout(faults, due - now);
                faults = waited.unwrap_or_else(PoisonError::into_inner).0;
            } else {
                return Some(*faults);
            }
        }
    }

    /// A generator of its own for each direction of each connection, by the order they come in.
    pub fn rng(&self, index: u64) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.seed.wrapping_add(index))
    }

    pub fn tally(&self) -> Tally {
        let read = |count: &AtomicU64| count.load(Ordering::SeqCst);
        let [connections, cuts] = [&self.connections, &self.cuts].map(read);
        let [swallowed, lost, malformed] = [&self.swallowed, &self.lost, &self.malformed].map(read);
        Tally { connections, cuts, swallowed, lost, malformed }
    }

    fn lock(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
