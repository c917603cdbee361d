use super::*;
use proptest::prelude::*;

const DELAY: Duration = Duration::from_millis(10);

const ROOM: Limits = Limits {
    max_rows: usize::MAX,
    max_elements: usize::MAX,
    bulk_elements: usize::MAX,
    max_delay: Duration::ZERO,
    target: None,
};

/// The next batch, without the reason.
fn take(former: &mut Former<&'static str, u32>, now: Instant) -> Option<(&'static str, Vec<u32>)> {
    former.take(now).map(|Closed { key, jobs, .. }| (key, jobs))
}

fn former(max_rows: usize, max_delay: Duration) -> Former<&'static str, u32> {
    Former::new(
        Limits { max_rows, max_elements: usize::MAX, max_delay, bulk_elements: usize::MAX, target: None },
        false,
    )
}

fn online(rows: usize) -> Facts {
    Facts { lane: Lane::Online, rows, length: 1, step: 0, fixed: rows, deadline: None, is_last: false, suspect: None }
}

fn bulk(rows: usize) -> Facts {
    Facts { lane: Lane::Bulk, ..online(rows) }
}

#[test]
fn an_idle_engine_takes_what_is_there_when_no_delay_is_set() {
    let (mut former, now) = (former(8, Duration::ZERO), Instant::now());
    assert!(take(&mut former, now).is_none());
    former.push("a", 1, online(1), now);
    assert_eq!(take(&mut former, now), Some(("a", vec![1])));
    assert!(take(&mut former, now).is_none() && former.next_wake(now).is_none());
}

#[test]
fn a_delay_is_waited_for_unless_the_batch_is_full_or_the_stream_is_empty() {
    let now = Instant::now();
    let mut waits = former(4, DELAY);
    waits.push("a", 1, online(1), now);
    assert!(take(&mut waits, now).is_none());
    assert_eq!(waits.next_wake(now), Some(now + DELAY));
    assert!(take(&mut waits, now + DELAY).is_some());
    let mut full = former(4, DELAY);
    (0..4).for_each(|job| full.push("a", job, online(1), now));
    assert_eq!(take(&mut full, now).map(|(_, jobs)| jobs.len()), Some(4));
    let mut closing = former(4, DELAY);
    closing.push("a", 1, Facts { is_last: true, ..online(1) }, now);
    assert!(take(&mut closing, now).is_some());
}

#[test]
fn a_batch_says_why_it_was_closed() {
    let now = Instant::now();
    let reason = |max_delay, facts: &[Facts], at: Instant| {
        let mut former = former(4, max_delay);
        facts.iter().for_each(|facts| former.push("a", 0, *facts, now));
        former.take(at).map(|closed| closed.reason)
    };
    let soon = Facts { deadline: Some(now + DELAY), ..online(1) };
    assert_eq!(reason(DELAY, &[online(4)], now), Some(CloseReason::Full));
    assert_eq!(reason(DELAY, &[online(1)], now + DELAY), Some(CloseReason::Timeout));
    assert_eq!(reason(DELAY, &[soon], now + DELAY / 2), Some(CloseReason::Deadline));
    assert_eq!(reason(DELAY, &[Facts { is_last: true, ..online(1) }], now), Some(CloseReason::Idle));
    assert_eq!(reason(Duration::ZERO, &[online(1)], now), Some(CloseReason::Idle));
    assert_eq!(reason(DELAY, &[Facts { suspect: Some(1), ..online(1) }], now), Some(CloseReason::Solo));
}

#[test]
fn what_stays_behind_a_full_batch_waits_its_own_delay() {
    let (mut former, now) = (former(2, DELAY), Instant::now());
    (0..2).for_each(|job| former.push("a", job, online(1), now));
    former.push("a", 2, Facts { is_last: true, ..online(1) }, now);
    assert_eq!(take(&mut former, now).map(|(_, jobs)| jobs.len()), Some(2));
    assert!(take(&mut former, now).is_none());
    assert!(take(&mut former, now + DELAY).is_some());
}

#[test]
fn a_batch_is_full_by_elements_too() {
    let now = Instant::now();
    let mut former = Former::new(
        Limits { max_rows: 100, max_elements: 30, max_delay: DELAY, bulk_elements: usize::MAX, target: None },
        false,
    );
    (0..4).for_each(|job| former.push("a", job, Facts { fixed: 10, ..online(1) }, now));
    assert_eq!(take(&mut former, now), Some(("a", vec![0, 1, 2])));
}

#[test]
fn a_batch_is_full_where_no_other_job_like_these_fits() {
    let (mut former, now) = (former(25, DELAY), Instant::now());
    former.push("a", 0, online(10), now);
    assert_eq!(take(&mut former, now), None);
    former.push("a", 1, online(10), now);
    assert_eq!(take(&mut former, now), Some(("a", vec![0, 1])), "for a third nobody has to wait");
}

#[test]
fn bulk_jobs_beside_online_jobs_share_no_long_run() {
    let (target, now) = (Some(Duration::from_secs(40)), Instant::now());
    let limits = Limits {
        max_rows: 100,
        max_elements: usize::MAX,
        bulk_elements: usize::MAX,
        max_delay: Duration::ZERO,
        target,
    };
    let mut former = Former::new(limits, false);
    (1..20).for_each(|rows| former.pace.observe(rows, Duration::from_secs(1 + rows as u64)));
    (0..50).for_each(|job| former.push("a", job, bulk(1), now));
    former.push("a", 50, online(1), now);
    let rows = |former: &mut Former<_, _>, now| take(former, now).map(|(_, jobs)| jobs.len());
    assert_eq!(rows(&mut former, now), Some(9), "ten seconds");
    assert_eq!(rows(&mut former, now + Duration::from_secs(2)), Some(42), "no online jobs are expected any more");
}

#[test]
fn a_suspect_runs_alone_and_does_not_hold_the_others_up() {
    let (mut former, now) = (former(8, Duration::ZERO), Instant::now());
    (0..3).rev().for_each(|job| former.push("a", job, Facts { suspect: Some(job.into()), ..online(1) }, now));
    for job in 10..50 {
        former.push("a", job, online(1), now);
    }
    let batches: Vec<Vec<u32>> = std::iter::from_fn(|| take(&mut former, now)).map(|(_, jobs)| jobs).collect();
    let alone: Vec<usize> = (0..batches.len()).filter(|at| batches[*at][0] < 10).collect();
    assert_eq!(alone, [0, 4, 7], "while others wait one in four is a suspect's, then each: {batches:?}");
    assert_eq!(alone.iter().map(|at| &batches[*at][..]).collect::<Vec<_>>(), [[0], [1], [2]], "lower ranks first");
    assert_eq!((batches.len(), former.waiting(), former.next_wake(now)), (8, [0, 0], None));
}

#[test]
fn a_suspect_expires_like_any_job() {
    let (mut former, now) = (former(8, Duration::ZERO), Instant::now());
    former.push("a", 1, Facts { suspect: Some(0), deadline: Some(now + DELAY), ..online(1) }, now);
    assert_eq!(former.next_deadline(), Some(now + DELAY));
    assert_eq!(former.take_expired(now + DELAY), [(1, now + DELAY)]);
    assert_eq!(former.waiting(), [0, 0]);
}

#[test]
fn a_busy_engine_is_given_only_what_nothing_can_join() {
    let (mut former, now) = (former(2, Duration::ZERO), Instant::now());
    former.push("a", 1, online(1), now);
    former.push("b", 2, online(1), now);
    former.push("b", 3, Facts { suspect: Some(1), ..online(1) }, now);
    former.batches = 1;
    assert_eq!(former.take_full(now), None);
    former.push("b", 4, online(1), now);
    let full = Closed { key: "b", jobs: vec![2, 4], reason: CloseReason::Full, most: 2 };
    assert_eq!((former.take_full(now), former.take_full(now)), (Some(full), None));
    assert_eq!(former.waiting(), [2, 0]);
}

#[test]
fn a_busy_engine_is_let_run_empty_for_those_that_full_batches_pass_over() {
    let turns = |suspect| {
        let (mut former, now) = (former(2, Duration::ZERO), Instant::now());
        former.push("b", 0, Facts { suspect, ..online(1) }, now);
        (1..20).for_each(|job| former.push("a", job, online(1), now + DELAY));
        let later = now + DELAY;
        (0..5).map(|_| former.take_full(later).or_else(|| former.take(later)).unwrap().key).collect::<String>()
    };
    assert_eq!((turns(None), turns(Some(1))), ("baaaa".into(), "baaaa".into()));
}

#[test]
fn full_batches_follow_each_other_where_they_are_first_in_turn() {
    let (mut former, now) = (former(2, Duration::ZERO), Instant::now());
    (1..20).for_each(|job| former.push("a", job, online(1), now));
    former.push("b", 0, online(1), now + DELAY);
    assert!((0..5).all(|_| former.take_full(now + DELAY).is_some()));
}

#[test]
fn a_ceiling_bounds_a_batch_and_makes_it_full() {
    let (mut former, now) = (former(8, DELAY), Instant::now());
    former.ceilings.lower("a", 2, now);
    (0..3).for_each(|job| former.push("a", job, online(1), now));
    assert_eq!(take(&mut former, now), Some(("a", vec![0, 1])));
    assert_eq!(take(&mut former, now), None);
}

#[test]
fn a_batch_is_closed_while_a_run_still_fits_before_the_deadline() {
    let (mut former, now) = (former(8, Duration::from_secs(60)), Instant::now());
    (1..20).for_each(|rows| former.pace.observe(rows, Duration::from_secs(2 + rows as u64)));
    let deadline = now + Duration::from_secs(20);
    former.push("a", 1, Facts { deadline: Some(deadline), ..online(1) }, now);
    assert_eq!(former.next_wake(now).map(|wake| (wake - now).as_secs()), Some(10), "half the time is enough for 3 s");
    former.push("a", 2, online(4), now);
    // 5 rows run for 7 s, which may become 14 s.
    assert_eq!(former.next_wake(now).map(|wake| (wake - now).as_secs_f64().round()), Some(6.0));
}

#[test]
fn a_batch_is_closed_while_a_run_still_fits_before_the_target_and_bulk_has_none() {
    let now = Instant::now();
    let (max_delay, target) = (Duration::from_secs(15), Some(Duration::from_secs(20)));
    let mut former = Former::new(
        Limits { max_rows: 8, max_elements: usize::MAX, max_delay, bulk_elements: usize::MAX, target },
        false,
    );
    (1..20).for_each(|rows| former.pace.observe(rows, Duration::from_secs(2 + rows as u64)));
    former.push("a", 1, bulk(1), now);
    assert_eq!(former.next_wake(now), Some(now + max_delay));
    let later = now + Duration::from_secs(1);
    former.push("a", 2, online(1), later);
    // 2 rows run for 4 s, which may become 8 s.
    assert_eq!(former.next_wake(later).map(|wake| (wake - later).as_secs_f64().round()), Some(12.0));
    assert_eq!(former.take(later + Duration::from_secs(13)).map(|closed| closed.reason), Some(CloseReason::Deadline));
}

#[test]
fn a_deadline_shortens_the_delay() {
    let (mut former, now) = (former(4, DELAY), Instant::now());
    let deadline = Some(now + Duration::from_millis(8));
    former.push("a", 1, Facts { deadline, ..online(1) }, now);
    assert_eq!(former.next_wake(now), Some(now + Duration::from_millis(4)));
}

#[test]
fn an_expired_job_is_taken_out_and_its_mates_stay() {
    let (mut former, now) = (former(4, DELAY), Instant::now());
    let deadline = now + Duration::from_millis(1);
    former.push("a", 1, Facts { deadline: Some(deadline), ..online(1) }, now);
    former.push("a", 2, online(1), now);
    assert!(former.take_expired(now).is_empty());
    assert_eq!(former.take_expired(deadline), vec![(1, deadline)]);
    assert_eq!(take(&mut former, now + DELAY), Some(("a", vec![2])));
}

#[test]
fn another_shape_neither_joins_nor_ends_a_batch() {
    let (mut former, now) = (former(8, Duration::ZERO), Instant::now());
    for job in 0..6 {
        former.push(if job % 2 == 0 { "a" } else { "b" }, job, online(1), now);
    }
    let mut batches = [take(&mut former, now).unwrap(), take(&mut former, now).unwrap()];
    batches.sort();
    assert_eq!(batches, [("a", vec![0, 2, 4]), ("b", vec![1, 3, 5])]);
}

#[test]
fn online_goes_first_and_bulk_keeps_its_floor() {
    let (mut former, now) = (former(1, Duration::ZERO), Instant::now());
    (0..100).for_each(|job| former.push("a", job, bulk(1), now));
    (100..200).for_each(|job| former.push("a", job, online(1), now));
    let first: Vec<bool> = (0..16).map(|_| take(&mut former, now).unwrap().1[0] >= 100).collect();
    assert_eq!(first.iter().filter(|online| !**online).count(), 2, "{first:?}");
    assert!(first[..7].iter().all(|online| *online));
}

#[test]
fn bulk_jobs_fill_what_online_jobs_leave() {
    let (mut former, now) = (former(3, Duration::ZERO), Instant::now());
    former.push("a", 1, bulk(1), now);
    former.push("a", 2, online(2), now);
    assert_eq!(take(&mut former, now), Some(("a", vec![2, 1])));
}

proptest! {
    #[test]
    fn no_job_is_lost_doubled_or_put_over_a_limit(
        jobs in prop::collection::vec((0usize..3, any::<bool>(), 1usize..20), 1..200),
        max_rows in 1usize..40,
    ) {
        let now = Instant::now();
        let keys = ["a", "b", "c"];
        let mut former = former(max_rows, Duration::ZERO);
        for (job, &(key, is_bulk, rows)) in jobs.iter().enumerate() {
            former.push(keys[key], job as u32, if is_bulk { bulk(rows) } else { online(rows) }, now);
        }
        let mut seen = vec![0; jobs.len()];
        while let Some((key, batch)) = take(&mut former, now) {
            let rows: usize = batch.iter().map(|&job| jobs[job as usize].2).sum();
            prop_assert!(rows <= max_rows || batch.len() == 1);
            prop_assert!(batch.iter().all(|&job| keys[jobs[job as usize].0] == key));
            batch.iter().for_each(|&job| seen[job as usize] += 1);
        }
        prop_assert!(seen.iter().all(|&times| times == 1));
        prop_assert_eq!(former.waiting(), [0, 0]);
    }
}

/// A small job of a backlog, from its place in a queue to a batch of 128.
#[test]
fn forming_takes_no_more_instructions_than_it_did() {
    let test = "batch::former::tests::forming_takes_no_more_instructions_than_it_did";
    let (mut former, now) = (former(128, Duration::ZERO), Instant::now());
    let mut form = || {
        (0..128).for_each(|job| former.push("a", job, online(1), now));
        former.take(now)
    };
    // What the first batch makes is kept.
    form();
    let batch = gristmill_steps::count(test, "forming a batch of 128", form).about(79_681);
    assert_eq!(batch.map(|closed| closed.jobs.len()), Some(128));
}

#[test]
fn what_waits_is_held_against_what_engines_run_soon() {
    let (mut former, now) = (former(8, Duration::ZERO), Instant::now());
    let backlog = |former: &mut Former<_, _>, engines| {
        (0..20).for_each(|job| former.push("a", job, online(2), now));
        assert_eq!(take(former, now).map(|(_, jobs)| jobs.len()), Some(4));
        let [Backlog { fill, enough }, bulk] = former.backlog(engines, now);
        while take(former, now).is_some() {}
        assert_eq!(bulk.fill, 0.0);
        (fill, enough)
    };
    assert_eq!(backlog(&mut former, 1), (0.0, u32::MAX), "before the first run");
    (0..2).for_each(|_| former.pace.observe(8, Duration::from_millis(100)));
    assert_eq!(backlog(&mut former, 1), (0.5, 8 * 4), "four full batches of eight that are enough");
    assert_eq!(backlog(&mut former, 2), (0.25, 2 * 8 * 4));
    assert_eq!(backlog(&mut former, 0), (0.5, 8 * 4), "of a model that is being loaded");
}

#[test]
fn what_waits_for_company_is_no_backlog() {
    let (mut former, now) = (Former::new(Limits { max_rows: 8, ..ROOM }, false), Instant::now());
    (0..2).for_each(|_| former.pace.observe(8, Duration::from_millis(100)));
    (0..7 * 200).for_each(|job| former.push(job % 200, job, online(1), now));
    assert!(former.take(now).is_some());
    assert_eq!(former.backlog(1, now)[0].fill, 0.0, "seven of each shape");
    (0..200).for_each(|shape| former.push(shape, 0, online(1), now));
    assert_eq!(former.backlog(1, now)[0].fill, 199.0 / 8.0);
}

#[test]
fn large_jobs_are_more_of_a_backlog_than_small_ones() {
    let (mut former, now) = (former(64, Duration::ZERO), Instant::now());
    (0..2).for_each(|_| former.pace.observe(64, Duration::from_millis(100)));
    (0..1000).for_each(|job| former.push("a", job, bulk(if job % 2 == 0 { 64 } else { 1 }), now));
    let _ = former.take(now);
    let fill = former.backlog(1, now)[1].fill;
    assert!((60.0..64.0).contains(&fill), "500 full batches, of 8 that are enough: {fill}");
}

#[test]
fn a_job_beyond_the_knee_is_one_batch() {
    let (mut former, now) = (Former::new(Limits { max_rows: 64, ..ROOM }, true), Instant::now());
    // One row yields as much as any other number.
    (0..100).for_each(|run| former.pace.observe(1 + run % 64, Duration::from_millis(10 * (1 + run as u64 % 64))));
    (0..5).for_each(|job| former.push("a", job, bulk(64), now));
    assert!(former.take(now).is_some_and(|batch| batch.jobs.len() == 1));
    let Backlog { fill, enough } = former.backlog(1, now)[1];
    assert_eq!((fill * enough as f32, enough), (4.0, 2), "four wait, and of runs of 640 ms two are enough");
}
