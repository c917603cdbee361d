//! The way of rows through the crate, without a network: a model that is a function answers the jobs.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, Float32Array, Int64Array, ListArray, RecordBatch, StringArray,
};
use arrow::datatypes::{DataType, Field, Float32Type, Int64Type};
use bytes::Bytes;
use gristmill_schemas::manifest::{Batching, Input, Output, Signature};
use gristmill_schemas::{Datatype, ErrorBody, ErrorCode, JobBody, Parameters, Reply, ResultBody, Tensor};
use proptest::prelude::*;

use super::*;

fn input(name: &str, datatype: Datatype, shape: &[i64]) -> Input {
    Input { name: name.into(), datatype, shape: shape.into(), pad: 0.0, range: None, mask: false, example_shape: None }
}

fn output(name: &str, datatype: Datatype, shape: &[i64]) -> Output {
    Output { name: name.into(), datatype, shape: shape.into() }
}

/// Doubles three floats; refuses a negative one.
fn doubling() -> Signature {
    Signature {
        inputs: vec![input("x", Datatype::Fp32, &[-1, 3])],
        outputs: vec![output("y", Datatype::Fp32, &[-1, 3])],
        batching: Batching { max_rows: 16, ..Batching::default() },
    }
}

/// Tells tokens back, and how many there are.
fn echoing() -> Signature {
    let mask = Input { mask: true, ..input("mask", Datatype::Bool, &[-1, -1]) };
    Signature {
        inputs: vec![Input { pad: -7.0, ..input("ids", Datatype::Int64, &[-1, -1]) }, mask],
        outputs: vec![output("same", Datatype::Int64, &[-1, -1]), output("n", Datatype::Int64, &[-1])],
        batching: Batching { max_rows: 16, ..Batching::default() },
    }
}

fn i64s(bytes: &[u8]) -> Vec<i64> {
    bytes.as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect()
}

fn answer(job: &JobBody<'_>) -> Vec<u8> {
    let tensor = |name, datatype, shape: &[usize], data: Vec<u8>| Tensor {
        name,
        datatype,
        shape: gristmill_schemas::Shape::try_new(shape).unwrap(),
        data: data.into(),
    };
    let first = &job.inputs[0];
    let outputs = if first.name == "x" {
        let floats: Vec<f32> = first.data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        if floats.iter().any(|value| *value < 0.0) {
            let message = "a negative value";
            return ErrorBody { id: "j", model_name: "m", code: ErrorCode::ModelError, message }.encode();
        }
        let data = floats.iter().flat_map(|value| (value * 2.0).to_le_bytes()).collect();
        vec![tensor("y", Datatype::Fp32, &first.shape, data)]
    } else {
        let (rows, length) = (first.shape[0], first.shape[1]);
        let mask = job.inputs.iter().find(|input| input.name == "mask");
        let mask = mask.map_or(vec![1; rows * length], |mask| mask.data.to_vec());
        // Where the mask says that there is nothing, there has to be the pad value.
        assert!(i64s(&first.data).iter().zip(&mask).all(|(id, real)| *real == 1 || *id == -7));
        let n = mask.chunks(length).flat_map(|row| row.iter().map(|real| i64::from(*real)).sum::<i64>().to_le_bytes());
        let same = tensor("same", Datatype::Int64, &first.shape, first.data.to_vec());
        vec![same, tensor("n", Datatype::Int64, &[rows], n.collect())]
    };
    let parameters = Parameters { batch_rows: job.rows() as u64, ..Parameters::default() };
    ResultBody { id: "j", model_name: "m", model_version: "1", outputs, parameters }.encode()
}

fn plan(batch: &RecordBatch, signature: Signature, errors: Errors) -> Arc<Plan> {
    let limits = Limits::new(&signature, 1 << 20);
    let wish = Wish::default();
    Arc::new(Plan::try_new(&batch.schema(), signature, limits, (&wish, "", errors)).unwrap())
}

fn desk(bytes: usize) -> Desk {
    let settings = Settings { run: "r".into(), series: "r/s".into(), max_bytes: 1 << 20, trace_ratio: 0.0 };
    Desk::new(settings, Room { bytes, jobs: 100 }, Closed::default())
}

/// The columns that the plan reads.
fn read(batch: &RecordBatch, plan: &Plan) -> RecordBatch {
    batch.project(&plan.mapping.columns).unwrap()
}

/// The first window.
fn window(batch: &RecordBatch, plan: &Plan) -> Window {
    Window { index: 0, first_row: 0, batch: read(batch, plan) }
}

/// Has every job answered, the last one first where so wanted, and each answer come `copies` times.
fn score(batch: &RecordBatch, plan: &Arc<Plan>, (lifo, copies): (bool, usize)) -> Vec<Scored> {
    let mut desk = desk(4 << 10);
    let batches: Batches = Box::new(std::iter::once(Ok(read(batch, plan))));
    let (now, mut done, mut jobs) = (Instant::now(), Vec::new(), Vec::new());
    for window in Windows::new(batches, plan.read().clone(), Cut { rows: 512, bytes: 1 << 20, step: 256 }, (0, 0)) {
        desk.open(Gathering::new(&window.unwrap(), plan, None).unwrap(), 0);
        loop {
            while let Some(job) = desk.next(now).unwrap() {
                jobs.push(job);
            }
            let Some(job) = (if lifo { jobs.pop() } else { (!jobs.is_empty()).then(|| jobs.remove(0)) }) else { break };
            let body = JobBody::decode(&job.body, 1 << 20).unwrap();
            assert!(body.rows() <= plan.limits.rows);
            let payload = Bytes::from(answer(&body));
            (0..copies).for_each(|_| assert!(desk.reply(&job.id, &payload, now).is_ok()));
        }
        while let Some(window) = desk.complete() {
            done.push(window.finish().unwrap());
        }
    }
    assert!(desk.is_empty() && desk.outstanding() == 0);
    done
}

fn floats(rows: &[[f32; 3]]) -> RecordBatch {
    let values: Float32Array = rows.iter().flatten().copied().collect();
    let item = Arc::new(Field::new_list_field(DataType::Float32, true));
    let x: ArrayRef = Arc::new(FixedSizeListArray::new(item, 3, Arc::new(values), None));
    let id: ArrayRef = Arc::new((0..rows.len() as i64).collect::<Int64Array>());
    RecordBatch::try_from_iter([("id", id), ("x", x)]).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_row_is_scored_or_failed_for_its_own_fault(
        rows in prop::collection::vec(prop::array::uniform3(-0.05f32..1.0), 1..1200),
        lifo: bool,
        copies in 1usize..3,
    ) {
        let batch = floats(&rows);
        let plan = plan(&batch, doubling(), Errors::InOutput);
        let mut row = 0usize;
        let mut scored = score(&batch, &plan, (lifo, copies));
        scored.sort_by_key(|window| window.index);
        for window in scored {
            prop_assert_eq!(window.first_row, row as u64);
            let y = window.batch.column_by_name("y").unwrap().as_fixed_size_list().clone();
            let codes = window.batch.column_by_name("error_code").unwrap().as_string::<i32>().clone();
            for at in 0..window.batch.num_rows() {
                let x = rows[row];
                if x.iter().any(|value| *value < 0.0) {
                    prop_assert!(y.is_null(at) && codes.value(at) == "model_error");
                } else {
                    let values = y.value(at);
                    let got: Vec<f32> = values.as_primitive::<Float32Type>().values().to_vec();
                    prop_assert_eq!(got, x.map(|value| value * 2.0).to_vec());
                    prop_assert!(codes.is_null(at));
                }
                row += 1;
            }
        }
        prop_assert_eq!(row, rows.len());
    }

    #[test]
    fn rows_of_any_length_come_back_as_long_as_they_were(lengths in prop::collection::vec(0usize..40, 1..600)) {
        let lists = lengths.iter().map(|n| Some((0..*n as i64).map(Some).collect::<Vec<_>>()));
        let ids: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(lists));
        let batch = RecordBatch::try_from_iter([("ids", ids)]).unwrap();
        let plan = plan(&batch, echoing(), Errors::InOutput);
        let mut row = 0;
        for window in score(&batch, &plan, (false, 1)) {
            let same = window.batch.column_by_name("same").unwrap().as_list::<i32>().clone();
            let n = window.batch.column_by_name("n").unwrap().as_primitive::<Int64Type>().clone();
            for at in 0..window.batch.num_rows() {
                if lengths[row] == 0 {
                    prop_assert!(same.is_null(at) && n.is_null(at));
                } else {
                    let values: Vec<i64> = same.value(at).as_primitive::<Int64Type>().values().to_vec();
                    prop_assert_eq!(values, (0..lengths[row] as i64).collect::<Vec<_>>());
                    prop_assert_eq!(n.value(at), lengths[row] as i64);
                }
                row += 1;
            }
        }
        prop_assert_eq!(row, lengths.len());
    }
}

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
        (Room { bytes: 1 << 20, jobs: 2 }, 2),
        // A job of 16 rows has 192 bytes of numbers and some of names.
        (Room { bytes: 600, jobs: 100 }, 3),
        (Room { bytes: 1 << 20, jobs: 100 }, 25),
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

#[test]
fn each_way_to_be_no_input_is_a_fault_of_its_row() {
    let mut signature = doubling();
    signature.inputs[0].range = Some([0.0, 1.0]);
    let lists = [
        Some(vec![Some(0.5), Some(0.5), Some(0.5)]),
        Some(vec![Some(0.5), Some(0.5)]),
        None,
        Some(vec![Some(0.5), None, Some(0.5)]),
        Some(vec![Some(0.5), Some(f32::NAN), Some(0.5)]),
        Some(vec![Some(0.5), Some(2.0), Some(0.5)]),
    ];
    let x: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(lists));
    let batch = RecordBatch::try_from_iter([("x", x)]).unwrap();
    let plan = plan(&batch, signature, Errors::InOutput);
    let gathering = Gathering::new(&Window { first_row: 50, ..window(&batch, &plan) }, &plan, None).unwrap();
    let faults: Vec<String> = gathering.faults().map(|(row, fault)| format!("{row} {}", fault.message)).collect();
    assert_eq!(
        faults,
        [
            "51 input \"x\": the row has 2 values, the model takes 3",
            "52 input \"x\": the row is null",
            "53 input \"x\": value 1 is null or no FP32",
            "54 input \"x\": value 1 is NaN, the model takes 0 to 1",
            "55 input \"x\": value 1 is 2, the model takes 0 to 1",
        ]
    );
    assert_eq!(gathering.pieces().count(), 1);
}

#[test]
fn columns_that_do_not_fit_are_refused_with_names() {
    let text: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
    let fraction: ArrayRef = Arc::new(Float32Array::from(vec![0.5]));
    let batch = RecordBatch::try_from_iter([("name", text), ("x", fraction)]).unwrap();
    let refuse = |signature: Signature, wish: &Wish| {
        let limits = Limits::new(&signature, 1 << 20);
        Plan::try_new(&batch.schema(), signature, limits, (wish, "", Errors::InOutput)).unwrap_err().to_string()
    };
    let mut ids = doubling();
    ids.inputs[0].datatype = Datatype::Int64;
    assert!(
        refuse(ids, &Wish::default())
            .contains("column \"x\" is Float32, input \"x\" takes INT64: fractions would be lost")
    );
    let mut other = doubling();
    other.inputs[0].name = "z".into();
    assert!(refuse(other, &Wish::default()).contains("no column \"z\" for the input of that name (--map COLUMN=z)"));
    let wish = |wish| Wish { maps: vec![wish], ..Wish::default() };
    assert!(refuse(doubling(), &wish(("q*".into(), "x".into()))).contains("no column is called \"q*\""));
    assert!(refuse(doubling(), &wish(("x".into(), "q".into()))).contains("--map names input \"q\"; the model has x"));
    let mut same = doubling();
    same.outputs[0].name = "name".into();
    assert!(refuse(same, &Wish::default()).contains("two columns \"name\""));
}
