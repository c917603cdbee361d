use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::bookmark::Bookmark;
use crate::fault;
use crate::files::{forget, lock, numbers, open, own_dir};
use crate::judge::{Death, Verdict};
use crate::map::{Header, MAX_ACK, Map};
use crate::mark::Mark;
use crate::record::{Contents, Furthest, Record, read};
use crate::slot::Slot;

/// The ledger of this process. Owned by the one that accepts jobs: it opens and closes slots.
pub struct Ledger {
    map: Arc<Map>,
    free: Vec<usize>,
    /// Keeps the lock, as the mapping does; the kernel lets go of it when the process ends, in whatever way.
    _file: File,
}

/// What was found when a ledger was claimed.
#[derive(Debug, Default)]
pub struct Claimed {
    /// Jobs that dead processes left. Each has its slot in the new ledger already: should this process die, too, the
    /// next one finds it again.
    pub found: Vec<Found>,
    /// How far the deliveries of each of their consumers had come. What was delivered after is in no ledger.
    pub reached: Vec<Reached>,
    /// How they died, if they said.
    pub deaths: Vec<Death>,
    /// Jobs that they had asked for, and that may have been on their way.
    pub asked: u64,
    /// Records too old to be of use: the server has delivered their jobs again.
    pub stale: usize,
    /// Records that were not whole, and files that were no ledgers.
    pub damaged: usize,
}

/// A job that a dead process left.
#[derive(Debug)]
pub struct Found {
    /// Its sequence in the jobs stream.
    pub sequence: u64,
    /// The subject to answer it on; valid for any process.
    pub ack: String,
    /// What becomes of it.
    pub verdict: Verdict,
    /// Its place in the new ledger.
    pub slot: Slot,
}

/// How far the deliveries of a consumer to a dead process had come.
#[derive(Debug)]
pub struct Reached {
    /// The subject to answer the furthest job on, which names the consumer.
    pub ack: String,
    /// Its place in the new ledger.
    pub bookmark: Bookmark,
}

/// No ledger can be kept.
#[derive(Debug, thiserror::Error)]
#[error("{path:?}: {source}")]
pub struct Error {
    path: PathBuf,
    source: io::Error,
}

impl Ledger {
    /// Takes a ledger of `key` in `dir` that no living process has, or makes one, with room for `capacity` jobs more
    /// than were left in it. What other dead processes of the same key left is moved into it.
    ///
    /// `ack_wait`: how long after this process was last seen the server delivers its jobs again.
    pub fn claim(dir: &Path, key: &str, capacity: usize, ack_wait: Duration) -> Result<(Self, Claimed), Error> {
        let failed = |source| Error { path: dir.to_owned(), source };
        let dir = &own_dir(dir).map_err(failed)?;
        // One at a time: two that start together must not both pass over the same file, or move it away.
        let turn = open(&dir.join(format!("{key}.lock"))).map_err(failed)?;
        turn.lock().map_err(failed)?;
        let now = SystemTime::now();
        let mut claimed = Claimed::default();
        let mut own = None;
        let mut moved = Contents::default();
        let mut siblings = Vec::new();
        let numbers = numbers(dir, key).map_err(failed)?;
        let unused = (0..).find(|number| !numbers.contains(number)).expect("no directory holds 2^64 files");
        for number in numbers.into_iter().chain([unused]) {
            let path = dir.join(format!("{key}-{number}.ledger"));
            if own.is_some() && number == unused {
                break;
            }
            let Some(file) = lock(&path).map_err(failed)? else { continue };
            if own.is_none() {
                own = Some((path, file));
            } else {
                let (map, is_foreign) = Map::open(&file, 0).map_err(failed)?;
                claimed.damaged += usize::from(is_foreign);
                let Contents { jobs, reached } = read(&map, now, &mut claimed);
                moved.jobs.extend(jobs);
                moved.reached.extend(reached);
                siblings.push((path, file));
            }
        }
        forget(dir, key, now);
        let (path, file) = own.expect("the unused number is locked by nobody: it is our turn");
        let ledger = Self::begin(file, capacity, ack_wait, now, moved, &mut claimed);
        let ledger = ledger.map_err(|source| Error { path, source })?;
        // Only now: what they held stands in ours. Locked until they are gone.
        for (path, _file) in siblings {
            std::fs::remove_file(&path).map_err(failed)?;
        }
        Ok((ledger, claimed))
    }

    fn begin(
        file: File,
        capacity: usize,
        ack_wait: Duration,
        now: SystemTime,
        moved: Contents,
        claimed: &mut Claimed,
    ) -> io::Result<Self> {
        let (map, is_foreign) = Map::open(&file, 0)?;
        claimed.damaged += usize::from(is_foreign);
        let kept = read(&map, now, claimed);
        drop(map);
        let (map, _) = Map::open(&file, capacity + kept.len() + moved.len())?;
        let map = Arc::new(map);
        let taken: BTreeSet<usize> = kept.indices().collect();
        let free = (0..map.slots()).rev().filter(|index| !taken.contains(index)).collect();
        let mut ledger = Self { map, free, _file: file };
        claimed.reached.extend(kept.reached.into_iter().map(|(index, furthest)| ledger.reached(index, furthest)));
        for (_, Furthest { sequence, ack }) in moved.reached {
            let bookmark = ledger.bookmark(sequence, &ack);
            claimed.reached.extend(bookmark.map(|bookmark| Reached { ack, bookmark }));
        }
        for (index, record) in kept.jobs {
            claimed.found.push(ledger.found(index, record));
        }
        for (_, record) in moved.jobs {
            // Two of them may have been given the same job, one after the other: what is held against it counts.
            if let Some(known) = claimed.found.iter_mut().find(|found| found.sequence == record.sequence) {
                if known.verdict == Verdict::GiveBack {
                    known.verdict = record.mark.verdict();
                    known.slot = Slot::new(Arc::clone(&ledger.map), known.slot.index(), record.mark);
                }
                continue;
            }
            if let Some(index) = ledger.free.pop() {
                ledger.map.write(index, record.sequence, record.ack.as_bytes());
                claimed.found.push(ledger.found(index, record));
            }
        }
        // Their verdicts stand in their slots now: what was said of the death is used up.
        ledger.map.header(Header::Death).store(0, Ordering::Release);
        ledger.asked(0);
        ledger.map.header(Header::AckWait).store(millis(ack_wait), Ordering::Release);
        ledger.touch(now);
        Ok(ledger)
    }

    fn found(&self, index: usize, Record { sequence, ack, mark }: Record) -> Found {
        let slot = Slot::new(Arc::clone(&self.map), index, mark);
        Found { sequence, ack, verdict: mark.verdict(), slot }
    }

    fn reached(&self, index: usize, Furthest { sequence, ack }: Furthest) -> Reached {
        Reached { ack, bookmark: Bookmark::new(Arc::clone(&self.map), index, sequence) }
    }

    /// Enters a job. `None` where there is no room: the job is served, only its crash would be noticed late.
    pub fn open(&mut self, sequence: u64, ack: &str) -> Option<Slot> {
        if ack.len() > MAX_ACK {
            return None;
        }
        let index = self.free.pop()?;
        self.map.write(index, sequence, ack.as_bytes());
        Some(Slot::new(Arc::clone(&self.map), index, Mark::FRESH))
    }

    /// Enters how far the deliveries of a consumer have come. `None` where there is no room: then what is on its way to a
    /// process that dies waits for the server to deliver it again.
    pub fn bookmark(&mut self, sequence: u64, ack: &str) -> Option<Bookmark> {
        if ack.len() > MAX_ACK {
            return None;
        }
        let mut bookmark = Bookmark::new(Arc::clone(&self.map), self.free.pop()?, sequence);
        bookmark.set(sequence, ack);
        Some(bookmark)
    }

    /// Takes a cleared place back, to be used again.
    pub fn close(&mut self, slot: &Slot) {
        self.free.push(slot.index());
    }

    /// Says how many jobs are asked for and not delivered yet.
    pub fn asked(&self, jobs: u64) {
        self.map.header(Header::Asked).store(jobs, Ordering::Release);
    }

    /// Says that this process lives. To be called well within `ack_wait`.
    pub fn touch(&self, now: SystemTime) {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.map.header(Header::Touched).store(millis(since), Ordering::Release);
    }

    /// Another time after which the server delivers again than was said when the ledger was claimed.
    pub fn set_ack_wait(&self, ack_wait: Duration) {
        self.map.header(Header::AckWait).store(millis(ack_wait), Ordering::Release);
    }

    /// A handle for those who may have to say how the process dies.
    pub fn witness(&self) -> Witness {
        Witness(Arc::clone(&self.map))
    }

    pub(crate) fn map(&self) -> &Arc<Map> {
        &self.map
    }
}

/// Writes last words.
#[derive(Clone)]
pub struct Witness(Arc<Map>);

impl Witness {
    /// Says how the process dies, and of which run. The first word is believed.
    pub fn record(&self, death: Death) {
        fault::record(&self.0, death);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
