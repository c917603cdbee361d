use std::io::Write;
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use super::connection::{CHUNK, Connection, Direction, Parcel};
use super::fault::{Faults, Switch};
use super::wire::Frame;

/// A connection is drawn for a random cut once in so many bytes of a direction.
const LAP: u64 = 64 << 10;

/// How JetStream's answer to a stored result begins. Errors begin otherwise, and pass.
const PUBLISH_ACK: &[u8] = b"{\"stream\":\"INFER_RESULTS\"";

/// Writes one direction of a connection, under the faults of the time.
pub(super) struct Writer {
    connection: Arc<Connection>,
    switch: Arc<Switch>,
    direction: Direction,
    doom: Doom,
    /// Passed, and not written yet.
    out: Vec<u8>,
}

impl Writer {
    /// `index` tells its random numbers from those of the others.
    pub fn new(connection: Arc<Connection>, switch: Arc<Switch>, direction: Direction, index: u64) -> Self {
        let doom = Doom::new(switch.rng(index));
        Self { connection, switch, direction, doom, out: Vec::new() }
    }

    /// Runs until the stream ends or the connection is cut, which is what `None` says in here.
    pub fn run(mut self, parcels: &Receiver<Parcel>) -> Option<()> {
        loop {
            // What is there goes in one write, as far as it may pass.
            let Parcel { due, frame } = match parcels.try_recv() {
                Ok(parcel) => parcel,
                Err(_) => {
                    self.flush()?;
                    parcels.recv().ok()?
                }
            };
            if due > Instant::now() || self.out.len() >= CHUNK {
                self.flush()?;
            }
            let faults = self.switch.pass(due, &self.connection)?;
            match frame {
                Some(frame) => self.forward(&frame, faults)?,
                None => return self.end(),
            }
        }
    }

    /// Takes a message into what is to be written.
    fn forward(&mut self, frame: &Frame, faults: Faults) -> Option<()> {
        if faults.swallows_publish_acks && frame.payload().starts_with(PUBLISH_ACK) {
            self.switch.swallowed.fetch_add(1, Ordering::SeqCst);
            return Some(());
        }
        let results = Self::is_result(frame).then(|| self.switch.results.fetch_add(1, Ordering::SeqCst) + 1);
        let is_hit = |every: Option<u64>| every.zip(results).is_some_and(|(every, count)| count.is_multiple_of(every));
        if is_hit(faults.loses_result) || faults.loses_last_results && results.is_some() && is_last(frame) {
            self.switch.lost.fetch_add(1, Ordering::SeqCst);
            return Some(());
        }
        let length = frame.bytes.len();
        if let Some(left) = self.doom.strikes_within(length as u64, faults.cut_share) {
            let left = usize::try_from(left).unwrap_or(length).min(length);
            self.out.extend_from_slice(&frame.bytes[..left]);
            self.flush()?;
            self.connection.cut(&self.switch);
            return None;
        }
        self.out.extend_from_slice(&frame.bytes);
        if is_hit(faults.cut_behind_result) {
            self.flush()?;
            self.connection.cut_behind(&self.switch);
            return None;
        }
        Some(())
    }

    fn is_result(frame: &Frame) -> bool {
        frame.is("HPUB") && frame.words().nth(1).is_some_and(|word| word.starts_with("infer.results."))
    }

    fn flush(&mut self) -> Option<()> {
        let (_, mut to) = self.connection.ends(self.direction);
        to.write_all(&self.out).ok()?;
        self.out.clear();
        Some(())
    }

    fn end(&mut self) -> Option<()> {
        self.flush()?;
        let (_, to) = self.connection.ends(self.direction);
        to.shutdown(Shutdown::Write).ok()
    }
}

/// Whether it ends a batch of JetStream's fast ingest: where the server is to answer says so.
fn is_last(frame: &Frame) -> bool {
    frame.words().nth(2).is_some_and(|reply| reply.ends_with(".2.$FI"))
}

/// Where one direction of a connection is cut, if it is one of those that are.
struct Doom {
    rng: fastrand::Rng,
    /// Bytes until the next draw.
    lap: u64,
    /// Bytes until the cut.
    strike: Option<u64>,
}

impl Doom {
    fn new(rng: fastrand::Rng) -> Self {
        Self { rng, lap: 0, strike: None }
    }

    /// Lets bytes pass; returns after how many of them the cut comes, if it does.
    fn strikes_within(&mut self, length: u64, share: f64) -> Option<u64> {
        if share <= 0.0 {
            return None;
        }
        if self.lap == 0 {
            self.lap = LAP;
            self.strike = (self.rng.f64() < share).then(|| self.rng.u64(0..LAP));
        }
        self.lap = self.lap.saturating_sub(length);
        match self.strike {
            Some(left) if left < length => Some(left),
            strike => {
                self.strike = strike.map(|left| left - length);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn about_the_share_asked_for_is_cut_in_each_lap() {
        let struck = |seed| {
            let mut doom = Doom::new(fastrand::Rng::with_seed(seed));
            (0..LAP / 512).any(|_| doom.strikes_within(512, 0.05).is_some())
        };
        let share = (0..10_000).filter(|&seed| struck(seed)).count() as f64 / 10_000.0;
        assert!((0.04..0.06).contains(&share), "{share}");
        assert!(Doom::new(fastrand::Rng::with_seed(1)).strikes_within(u64::MAX, 0.0).is_none());
    }
}
