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
