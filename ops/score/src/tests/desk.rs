//! What the desk makes of answers.

use std::time::Duration;

use gristmill_schemas::Reply;

use super::*;

#[test]
fn failed_rows_alone_are_sent_once_more() {
    let mut rows = vec![[1.0; 3]; 100];
    rows[7][1] = -1.0;
    let batch = floats(&rows);
    let plan = plan(&batch, doubling(), Errors::Apart);
    let first = score(&batch, &plan, (false, 1)).remove(0);
    assert_eq!((first.rows, first.batch.num_rows(), first.faults.len()), (100, 99, 1));
    assert_eq!((first.faults[0].0, first.faults[0].1.code), (7, ErrorCode::ModelError));
    // The model has changed its mind.
    rows[7][1] = 3.0;
    let window = window(&floats(&rows), &plan);
    let mut again = Gathering::new(&window, &plan, first.outputs).unwrap();
    let pieces: Vec<Piece> = again.pieces().collect();
    let body = again.body(pieces[0]);
    let job = JobBody::decode(&body, 1 << 20).unwrap();
    assert_eq!((pieces.len(), job.rows()), (1, 1));
    let payload = Bytes::from(answer(&job));
    let Ok(Reply::Ok(result)) = Reply::decode(&payload) else { panic!("it is one") };
    assert!(again.answer(pieces[0], &payload, &result).unwrap());
    let whole = again.finish().unwrap();
    let y = whole.batch.column_by_name("y").unwrap().as_fixed_size_list().clone();
    assert_eq!((whole.batch.num_rows(), whole.faults.len(), y.null_count()), (100, 0, 0));
    let all: Vec<f32> = y.values().as_primitive::<Float32Type>().values().to_vec();
    assert_eq!(all[20..25], [2.0, 2.0, 6.0, 2.0, 2.0]);
}

#[test]
fn no_more_is_on_its_way_than_there_is_room_for() {
    let batch = floats(&[[1.0; 3]; 400]);
    let plan = plan(&batch, doubling(), Errors::InOutput);
    let now = Instant::now();
    for (room, jobs) in [
        (Room { bytes: 1 << 20, jobs: 2, rest: 0.0 }, 2),
        // A job of 16 rows has 192 bytes of numbers and some of names.
        (Room { bytes: 600, jobs: 100, rest: 0.0 }, 3),
        (Room { bytes: 1 << 20, jobs: 100, rest: 0.0 }, 25),
    ] {
        let mut desk = desk(0);
        desk.open(Gathering::new(&window(&batch, &plan), &plan, None).unwrap(), 0);
        desk.set_room(room);
        let sent: Vec<Job> = std::iter::from_fn(|| desk.next(now).unwrap()).collect();
        assert_eq!(sent.len(), jobs, "{room:?}");
        // Room comes back with an answer.
        let payload = Bytes::from(answer(&JobBody::decode(&sent[0].body, 1 << 20).unwrap()));
        desk.reply(&sent[0].id, &payload, now).unwrap();
        assert_eq!(desk.next(now).unwrap().is_some(), jobs < 25, "{room:?}");
    }
}

#[test]
fn less_than_one_job_is_one_and_a_rest_after_its_answer() {
    let batch = floats(&[[1.0; 3]; 400]);
    let plan = plan(&batch, doubling(), Errors::InOutput);
    let start = Instant::now();
    let millis = |n| start + Duration::from_millis(n);
    let mut desk = desk(1 << 20);
    let room = Room { bytes: 1 << 20, jobs: usize::MAX, rest: 0.0 };
    assert_eq!([2.6, 0.25].map(|jobs| (room.of_jobs(jobs).jobs, room.of_jobs(jobs).rest)), [(3, 0.0), (1, 3.0)]);
    desk.set_room(room.of_jobs(0.25));
    desk.open(Gathering::new(&window(&batch, &plan), &plan, None).unwrap(), 0);
    let mut at = 0;
    // However late an answer comes, a second is long enough.
    for (took, rest) in [(10, 30), (2, 6), (5000, 1000)] {
        let job = desk.next(millis(at)).unwrap().unwrap();
        assert!(desk.next(millis(at)).unwrap().is_none() && desk.wakes().is_none());
        let payload = Bytes::from(answer(&JobBody::decode(&job.body, 1 << 20).unwrap()));
        at += took;
        desk.reply(&job.id, &payload, millis(at)).unwrap();
        assert_eq!(
            (desk.next(millis(at + rest - 1)).unwrap().is_some(), desk.wakes()),
            (false, Some(millis(at + rest)))
        );
        at += rest;
    }
    assert!(desk.next(millis(at)).unwrap().is_some());
    // Alone again, there is no rest.
    let mut alone = desk;
    alone.set_room(room);
    assert!(alone.next(start).unwrap().is_some() && alone.wakes().is_none());
}

#[test]
fn a_row_has_one_answer() {
    let batch = floats(&[[1.0; 3]; 16]);
    let plan = plan(&batch, doubling(), Errors::InOutput);
    let mut gathering = Gathering::new(&window(&batch, &plan), &plan, None).unwrap();
    let whole = gathering.pieces().next().unwrap();
    let payload = Bytes::from(answer(&JobBody::decode(&gathering.body(whole), 1 << 20).unwrap()));
    let Ok(Reply::Ok(result)) = Reply::decode(&payload) else { panic!("it is one") };
    assert!(gathering.answer(whole, &payload, &result).unwrap() && gathering.is_complete());
    // Neither a second answer nor a late fault changes what is there.
    assert!(!gathering.answer(whole, &payload, &result).unwrap());
    let fault = Fault { code: ErrorCode::Internal, message: "late".into(), trace_id: None };
    gathering.fail(whole, &fault);
    let scored = gathering.finish().unwrap();
    assert_eq!((scored.batch.num_rows(), scored.faults.len()), (16, 0));
}

#[test]
fn what_is_settled_without_an_answer_is_sent_anew() {
    let batch = floats(&[[1.0; 3]; 16]);
    let plan = plan(&batch, doubling(), Errors::InOutput);
    let mut desk = desk(1 << 20);
    let now = Instant::now();
    desk.open(Gathering::new(&window(&batch, &plan), &plan, None).unwrap(), 0);
    let job = desk.next(now).unwrap().unwrap();
    desk.stored(job.piece, 9);
    // One look is not enough: the answer may have come between the two questions.
    assert_eq!((desk.settled(8), desk.settled(9), desk.next(now).unwrap().is_none()), (0, 0, true));
    assert_eq!(desk.settled(9), 1);
    let again = desk.next(now).unwrap().unwrap();
    assert_eq!((again.id == job.id, again.message_id), (true, format!("{}~1", job.id)));
}

#[test]
fn answers_to_an_earlier_process_are_not_asked_for_again() {
    let batch = floats(&[[1.0; 3]; 40]);
    let plan = plan(&batch, doubling(), Errors::InOutput);
    let gathering = || Gathering::new(&window(&batch, &plan), &plan, None).unwrap();
    let now = Instant::now();
    let mut before = desk(1 << 20);
    before.open(gathering(), 0);
    let jobs: Vec<Job> = std::iter::from_fn(|| before.next(now).unwrap()).collect();
    assert_eq!(jobs.len(), 3);
    let mut desk = desk(1 << 20);
    for job in &jobs[..2] {
        let payload = Bytes::from(answer(&JobBody::decode(&job.body, 1 << 20).unwrap()));
        assert_eq!(desk.reply(&job.id, &payload, now).unwrap(), Heard::default());
    }
    // Not removed before they are used.
    assert_eq!(desk.needed_from(), Some(1));
    desk.open(gathering(), 12);
    let left: Vec<String> = std::iter::from_fn(|| desk.next(now).unwrap()).map(|job| job.id).collect();
    assert_eq!(left, [jobs[2].id.clone()]);
}

#[test]
fn answers_that_are_of_no_use_are_not_kept() {
    let batch = floats(&[[1.0; 3]; 40]);
    let plan = plan(&batch, doubling(), Errors::InOutput);
    let now = Instant::now();
    let settings = Settings { run: "r".into(), series: "r/s".into(), max_bytes: 1 << 20, trace_ratio: 0.0 };
    let closed = Closed { next: 1, others: [3].into() };
    let mut desk = Desk::new(settings, Room { bytes: 1 << 20, jobs: 100, rest: 0.0 }, closed);
    let ok = Bytes::from(answer(&JobBody::decode(&gathering_body(&batch, &plan), 1 << 20).unwrap()));
    let gone = ErrorBody { id: "j", model_name: "m", code: ErrorCode::UnknownVersion, message: "no such version" };
    let gone = Bytes::from(gone.encode());
    // Of windows that are done, of other runs and beginnings, too far away; and what ended the run before.
    for (id, payload) in [
        ("r/s/0.0.0-16", &ok),
        ("r/s/3.0.0-16", &ok),
        ("r/t/2.0.0-16", &ok),
        ("q/s/2.0.0-16", &ok),
        ("r/s/999.0.0-16", &ok),
        ("r/s/2.0.16-0", &ok),
        ("r/s/2.0.0-16", &gone),
    ] {
        desk.reply(id, payload, now).unwrap();
        assert_eq!(desk.needed_from(), None, "{id}");
    }
    desk.reply("r/s/2.0.0-16", &ok, now).unwrap();
    assert_eq!(desk.needed_from(), Some(1));
    desk.written(2);
    assert_eq!(desk.needed_from(), None);
}

fn gathering_body(batch: &RecordBatch, plan: &Arc<Plan>) -> Vec<u8> {
    let gathering = Gathering::new(&window(batch, plan), plan, None).unwrap();
    let piece = gathering.pieces().next().unwrap();
    gathering.body(piece)
}

#[test]
fn a_model_that_is_gone_ends_the_run() {
    let batch = floats(&[[1.0; 3]; 1]);
    let plan = plan(&batch, doubling(), Errors::InOutput);
    let mut desk = desk(1 << 20);
    let now = Instant::now();
    desk.open(Gathering::new(&window(&batch, &plan), &plan, None).unwrap(), 0);
    let job = desk.next(now).unwrap().unwrap();
    let body = ErrorBody { id: "j", model_name: "m", code: ErrorCode::UnknownVersion, message: "no version 1 here" };
    let stop = desk.reply(&job.id, &Bytes::from(body.encode()), now).unwrap_err();
    assert_eq!(stop.to_string(), "the model is gone: no version 1 here");
}

#[test]
fn a_fault_of_the_worker_is_retried_three_times() {
    let batch = floats(&[[1.0; 3]; 1]);
    let plan = plan(&batch, doubling(), Errors::InOutput);
    let mut desk = desk(1 << 20);
    let now = Instant::now();
    desk.open(Gathering::new(&window(&batch, &plan), &plan, None).unwrap(), 0);
    let body = ErrorBody { id: "j", model_name: "m", code: ErrorCode::Internal, message: "tired" };
    let payload = Bytes::from(body.encode());
    for _ in 0..4 {
        let job = desk.next(now).unwrap().unwrap();
        desk.reply(&job.id, &payload, now).unwrap();
    }
    let scored = desk.complete().unwrap().finish().unwrap();
    assert_eq!((scored.faults[0].1.code, &*scored.faults[0].1.message), (ErrorCode::Internal, "tired"));
    assert_eq!(scored.faults[0].1.trace_id.as_deref().map(str::len), Some(32));
}
