use super::*;
use proptest::prelude::*;

/// Beyond its slow start.
fn credit(capacity: usize) -> Credit {
    let mut credit = Credit::new(capacity, Duration::from_secs(30), Lane::ALL.into_iter());
    credit.proven = capacity;
    for consumer in &mut credit.consumers {
        (0..capacity).for_each(|_| consumer.window.settled(0, HUNGRY));
    }
    credit
}

/// Grants pulls, and delivers all that they ask for; more waits behind.
fn deliver(credit: &mut Credit, now: Instant, sequence: &mut u64) {
    for pull in credit.grant(now) {
        for _ in 0..pull.batch {
            *sequence += 1;
            credit.delivered(pull.consumer, *sequence, 100_000);
        }
    }
}

/// Nothing waits, and any number would be run.
const HUNGRY: Option<Backlog> = Some(Backlog { fill: 0.0, enough: u32::MAX });

#[test]
fn few_jobs_are_asked_for_at_first_and_after_a_suspect() {
    let now = Instant::now();
    let mut credit = Credit::new(2048, Duration::from_secs(30), Lane::ALL.into_iter());
    let mut sequence = 0;
    let mut round = |credit: &mut Credit| {
        let first = sequence + 1;
        deliver(credit, now, &mut sequence);
        (first..=sequence).for_each(|sequence| credit.closed(sequence, HUNGRY));
        sequence + 1 - first
    };
    let jobs: Vec<u64> = (0..16).map(|_| round(&mut credit)).collect();
    assert_eq!((jobs[0], jobs[15]), (2, 2048), "{jobs:?}");
    assert!(jobs.iter().zip(&jobs[1..]).all(|(before, jobs)| *jobs <= 2 * before), "{jobs:?}");
    credit.suspected();
    let jobs: Vec<u64> = (0..3).map(|_| round(&mut credit)).collect();
    assert_eq!(jobs[0], 2);
    assert!(jobs[2] <= 8, "{jobs:?}");
}

#[test]
fn a_consumer_whose_jobs_wait_leaves_the_permits_to_others() {
    let (mut credit, now) = (credit(160), Instant::now());
    let mut next = 0;
    for _ in 0..2000 {
        deliver(&mut credit, now, &mut next);
        let online = credit.open.iter().filter(|(_, index)| **index == Some(0)).map(|(sequence, _)| *sequence);
        let (count, first) = (online.clone().count(), online.min());
        // All of them wait, and 16 are enough.
        let backlog = Some(Backlog { fill: count as f32 / 16.0, enough: 16 });
        first.into_iter().for_each(|sequence| credit.closed(sequence, backlog));
    }
    let open = credit.consumers.iter().map(|consumer| consumer.open).collect::<Vec<_>>();
    assert!(open[0] <= 17 && open[1] >= 140, "online and bulk hold {open:?} permits");
}

#[test]
fn every_consumer_has_a_small_pull_open() {
    let mut credit = credit(160);
    let pulls = credit.grant(Instant::now());
    assert_eq!(pulls.iter().map(|pull| (pull.consumer, pull.batch)).collect::<Vec<_>>(), [(0, 10), (1, 10)]);
    assert!(credit.grant(Instant::now()).is_empty());
}

#[test]
fn the_rest_goes_to_the_online_lane_first() {
    let (mut credit, now) = (credit(160), Instant::now());
    credit.grant(now);
    credit.delivered(1, 1, 1000);
    credit.delivered(0, 2, 1000);
    let pulls = credit.grant(now);
    assert_eq!((pulls.len(), pulls[0].consumer, pulls[0].batch), (1, 0, 140));
}

#[test]
fn bulk_holds_no_more_than_its_share_while_online_has_more() {
    let (mut credit, now) = (credit(160), Instant::now());
    let mut sequence = 0;
    for _ in 0..100 {
        deliver(&mut credit, now, &mut sequence);
        // Online jobs are settled, bulk jobs wait.
        for sequence in credit.open.iter().filter(|(_, index)| **index == Some(0)).map(|(s, _)| *s).collect::<Vec<_>>()
        {
            credit.closed(sequence, None);
        }
    }
    assert!(credit.consumers[1].open <= 160 / 8 + 10, "bulk holds {} permits", credit.consumers[1].open);
}

#[test]
fn one_permit_goes_round_all_consumers() {
    let (mut credit, now) = (credit(1), Instant::now());
    let mut asked = Vec::new();
    for _ in 0..4 {
        let pull = credit.grant(now)[0];
        asked.push(pull.consumer);
        credit.ended(pull.consumer, pull.id, None);
    }
    assert_eq!(asked, [0, 1, 0, 1]);
}

#[test]
fn a_retry_that_is_due_does_not_wake_for_ever() {
    let (mut credit, now) = (credit(160), Instant::now());
    let pulls = credit.grant(now);
    let later = now + Duration::from_secs(1);
    pulls.iter().for_each(|pull| credit.ended(pull.consumer, pull.id, Some(later)));
    assert_eq!(credit.next_wake(), Some(later));
    credit.write_off(later);
    assert_eq!(credit.next_wake(), None);
}

#[test]
fn a_redelivery_of_an_open_job_is_no_second_job() {
    let (mut credit, now) = (credit(160), Instant::now());
    credit.grant(now);
    assert_eq!(credit.delivered(0, 7, 0), Admission::Accepted);
    assert_eq!(credit.delivered(0, 7, 0), Admission::Duplicate);
    assert_eq!(credit.in_flight(), 1);
}

#[test]
fn a_job_left_by_a_dead_worker_takes_a_permit_and_its_redelivery_is_no_second_job() {
    let mut credit = credit(16);
    credit.adopt(7);
    assert_eq!(credit.in_flight(), 1);
    credit.grant(Instant::now());
    assert_eq!(credit.delivered(0, 7, 0), Admission::Duplicate);
    credit.closed(7, None);
    assert_eq!(credit.in_flight(), 0);
}

#[test]
fn a_pull_that_never_ends_is_written_off_and_its_credit_comes_back() {
    let (mut credit, now) = (credit(160), Instant::now());
    credit.grant(now);
    let late = now + EXPIRES + GRACE;
    assert_eq!(credit.next_wake(), Some(late));
    assert_eq!(credit.write_off(late), 2);
    assert_eq!(credit.grant(late).len(), 2);
}

#[test]
fn an_error_holds_a_consumer_back_for_a_while() {
    let (mut credit, now) = (credit(160), Instant::now());
    let pulls = credit.grant(now);
    let later = now + Duration::from_secs(1);
    credit.ended(0, pulls[0].id, Some(later));
    assert!(credit.grant(now).is_empty());
    assert_eq!(credit.grant(later).len(), 1);
}

#[test]
fn after_repeated_disconnects_jobs_are_asked_for_one_by_one() {
    let (mut credit, now) = (credit(160), Instant::now());
    let batches = |pulls: Vec<Pull>| pulls.iter().map(|pull| pull.batch).collect::<Vec<_>>();
    credit.disconnected(now);
    assert_eq!(batches(credit.grant(now)), [10, 10]);
    let again = now + Duration::from_secs(30);
    credit.disconnected(again);
    assert_eq!(batches(credit.grant(again)), [1, 1]);
    credit.delivered(0, 1, 0);
    assert_eq!(batches(credit.grant(again)), [1]);
    let later = again + Duration::from_secs(61);
    credit.write_off(later);
    assert_eq!(batches(credit.grant(later)), [10, 10]);
}

#[test]
fn jobs_on_their_way_here_are_in_use() {
    let (mut credit, now) = (Credit::new(2048, Duration::from_secs(30), Lane::ALL.into_iter()), Instant::now());
    credit.proven = 2048;
    credit.grant(now);
    credit.delivered(0, 1, 1000);
    credit.grant(now);
    let (before, asked) = (credit.consumers[0].window.jobs(), credit.consumers[0].asked());
    assert!(asked > before / 2, "{asked} of {before}");
    credit.closed(1, Some(Backlog { fill: 0.0, enough: 1 }));
    assert_eq!(credit.consumers[0].window.jobs(), before + 1);
}

proptest! {
    #[test]
    fn accepted_and_asked_for_never_exceed_the_capacity(
        capacity in 1usize..300,
        consumers in 1usize..4,
        steps in prop::collection::vec((0usize..8, 0usize..4, 0u64..500), 1..300),
    ) {
        let lanes = (0..consumers).map(|i| Lane::ALL[i % 2]);
        let (mut credit, mut now) = (Credit::new(capacity, Duration::from_secs(30), lanes), Instant::now());
        let (mut sequence, mut pulls) = (0, Vec::new());
        for (step, consumer, n) in steps {
            let consumer = consumer % consumers;
            match step {
                0 => pulls.extend(credit.grant(now)),
                1 if credit.consumers[consumer].asked() > 0 => {
                    sequence += 1;
                    credit.delivered(consumer, sequence, n);
                }
                2 => {
                    let news = Backlog { fill: n as f32 / 100.0, enough: n as u32 };
                    credit.closed(sequence.saturating_sub(n), Some(news).filter(|_| n % 3 > 0));
                }
                3 => if let Some(pull) = pulls.pop() {
                    credit.ended(pull.consumer, pull.id, None);
                },
                4 => credit.suspected(),
                5 => credit.disconnected(now),
                6 => drop(credit.write_off(now)),
                _ => now += Duration::from_millis(n),
            }
            prop_assert!(credit.in_flight() + credit.asked() <= capacity);
        }
        (0..=sequence).for_each(|sequence| credit.closed(sequence, None));
        now += Duration::from_secs(60);
        credit.write_off(now);
        prop_assert!(!credit.grant(now).is_empty(), "nothing is asked for, and nothing will come");
    }
}
