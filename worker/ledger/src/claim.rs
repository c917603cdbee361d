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
mod tests {
    use super::*;
    use crate::fault::record;
    use crate::judge::Cause;
    use tempfile::TempDir;

    const WAIT: Duration = Duration::from_secs(30);

    fn claim(dir: &TempDir) -> (Ledger, Claimed) {
        Ledger::claim(dir.path(), "infer", 4, WAIT).unwrap()
    }

    /// What is found of jobs 1 (waited), 2 and 3 (ran together), 4 (ran alone), after their process was killed.
    fn leave_four(dir: &TempDir) {
        let (mut ledger, _) = claim(dir);
        for sequence in 1..=4 {
            let mut slot = ledger.open(sequence, &format!("$JS.ACK.{sequence}")).unwrap();
            match sequence {
                2 | 3 => slot.run(1, true),
                4 => slot.run(2, false),
                _ => {}
            }
        }
        assert!(ledger.open(5, "$JS.ACK.5").is_none(), "there is room for four");
    }

    /// Where ledgers are.
    fn own(dir: &TempDir) -> PathBuf {
        own_dir(dir.path()).unwrap()
    }

    fn found(claimed: &Claimed) -> Vec<(u64, &str, Verdict)> {
        let mut found: Vec<_> = claimed.found.iter().map(|f| (f.sequence, f.ack.as_str(), f.verdict)).collect();
        found.sort_by_key(|(sequence, ..)| *sequence);
        found
    }

    #[test]
    fn the_next_process_finds_what_was_not_cleared_as_often_as_it_takes() {
        use Verdict::{GiveBack, Suspect};
        let dir = TempDir::new().unwrap();
        leave_four(&dir);
        for _ in 0..2 {
            let (_ledger, claimed) = claim(&dir);
            let all = [
                (1, "$JS.ACK.1", GiveBack),
                (2, "$JS.ACK.2", Suspect),
                (3, "$JS.ACK.3", Suspect),
                (4, "$JS.ACK.4", Suspect),
            ];
            assert_eq!(found(&claimed), all);
        }
        let (_, mut claimed) = claim(&dir);
        claimed.found.iter_mut().for_each(|found| found.slot.clear());
        assert!(claim(&dir).1.found.is_empty());
    }

    fn reached(claimed: &Claimed) -> Vec<(u64, &str)> {
        claimed.reached.iter().map(|Reached { ack, bookmark }| (bookmark.sequence(), ack.as_str())).collect()
    }

    #[test]
    fn a_bookmark_outlasts_its_jobs_moves_with_a_ledger_and_is_stale_when_they_would_be() {
        let dir = TempDir::new().unwrap();
        let (mut ledger, _) = claim(&dir);
        let mut bookmark = ledger.bookmark(7, "$JS.ACK.7").unwrap();
        bookmark.set(9, "$JS.ACK.9");
        bookmark.set(10, &"x".repeat(MAX_ACK + 1));
        let (other, _) = claim(&dir);
        drop((ledger, bookmark));
        // Of its own, then of a sibling.
        let (ledger, claimed) = claim(&dir);
        assert_eq!(reached(&claimed), [(9, "$JS.ACK.9")]);
        drop((ledger, claimed, other));
        let (ledger, claimed) = claim(&dir);
        assert_eq!((reached(&claimed), claimed.found.len(), claimed.damaged), (vec![(9, "$JS.ACK.9")], 0, 0));
        ledger.touch(SystemTime::now() - WAIT);
        drop((ledger, claimed));
        assert!(claim(&dir).1.reached.is_empty());
    }

    #[test]
    fn last_words_condemn_and_are_used_up() {
        let dir = TempDir::new().unwrap();
        leave_four(&dir);
        let (map, _) = Map::open(&open(&own(&dir).join("infer-0.ledger")).unwrap(), 0).unwrap();
        record(&map, Death { cause: Cause::Hung, run: Some(2) });
        record(&map, Death { cause: Cause::Signal(11), run: Some(1) });
        for _ in 0..2 {
            let (_ledger, claimed) = claim(&dir);
            let verdicts: Vec<Verdict> = found(&claimed).into_iter().map(|(.., verdict)| verdict).collect();
            let give_back = Verdict::GiveBack;
            assert_eq!(verdicts, [give_back, give_back, give_back, Verdict::Condemned(Cause::Hung)]);
        }
        assert!(claim(&dir).1.deaths.is_empty());
    }

    #[test]
    fn a_living_process_keeps_its_ledger_and_a_dead_siblings_is_moved() {
        let dir = TempDir::new().unwrap();
        let (first, _) = claim(&dir);
        leave_four(&dir);
        let (second, claimed) = claim(&dir);
        assert_eq!(claimed.found.len(), 4);
        // The slots, too: a mapping keeps its file open, and the lock with it.
        drop((first, second, claimed));
        let (_ledger, claimed) = claim(&dir);
        assert_eq!((claimed.found.len(), own(&dir).join("infer-1.ledger").exists()), (4, false));
        assert!(Ledger::claim(dir.path(), "other", 4, WAIT).unwrap().1.found.is_empty(), "keys are kept apart");
    }

    #[test]
    fn what_the_server_has_delivered_again_is_stale() {
        let dir = TempDir::new().unwrap();
        let (mut ledger, _) = claim(&dir);
        drop(ledger.open(1, "$JS.ACK.1"));
        for touched in [SystemTime::now() - WAIT, SystemTime::now() + WAIT] {
            ledger.touch(touched);
            drop(ledger);
            let claimed;
            (ledger, claimed) = claim(&dir);
            assert_eq!((claimed.found.len(), claimed.stale), (0, 1));
            drop(ledger.open(1, "$JS.ACK.1"));
        }
    }

    #[test]
    fn what_is_held_against_a_job_outlasts_staleness() {
        let dir = TempDir::new().unwrap();
        leave_four(&dir);
        let (map, _) = Map::open(&open(&own(&dir).join("infer-0.ledger")).unwrap(), 0).unwrap();
        map.header(Header::Touched).store(1, Ordering::Release);
        drop(map);
        let (_ledger, claimed) = claim(&dir);
        assert_eq!(found(&claimed).iter().map(|(sequence, ..)| *sequence).collect::<Vec<_>>(), [2, 3, 4]);
        assert_eq!(claimed.stale, 1);
    }

    #[test]
    fn no_damage_makes_up_a_job_or_keeps_a_worker_from_starting() {
        fastrand::seed(7);
        let dir = TempDir::new().unwrap();
        let path = own(&dir).join("infer-0.ledger");
        leave_four(&dir);
        let whole = std::fs::read(&path).unwrap();
        for round in 0..300 {
            let mut bytes = whole.clone();
            match round % 3 {
                0 => bytes.truncate(fastrand::usize(..bytes.len())),
                1 => (0..40).for_each(|_| bytes[4096 + fastrand::usize(..4 * 384)] = fastrand::u8(..)),
                _ => bytes[fastrand::usize(..48)] ^= 1 << fastrand::u32(..8),
            }
            std::fs::write(&path, bytes).unwrap();
            for (sequence, ack, verdict) in found(&claim(&dir).1) {
                assert_eq!(ack, format!("$JS.ACK.{sequence}"), "round {round}");
                assert!(!matches!(verdict, Verdict::Condemned(Cause::Signal(_))), "round {round}: nobody said so");
            }
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn a_directory_that_cannot_be_had_is_named() {
        let dir = TempDir::new().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = Ledger::claim(&file, "infer", 4, WAIT).err().unwrap();
        assert!(error.to_string().contains("file"), "{error}");
        std::fs::set_permissions(own(&dir), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let error = Ledger::claim(dir.path(), "infer", 4, WAIT).err().unwrap();
        assert!(error.to_string().contains("others may write to it"), "{error}");
    }
}
