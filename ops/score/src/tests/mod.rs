//! The way of rows through the crate, without a network: a model that is a function answers the jobs.

mod columns;
mod desk;

use std::sync::Arc;
use std::time::Instant;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray, Float32Array, Int64Array, ListArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Float32Type, Int64Type};
use bytes::Bytes;
use gristmill_schemas::manifest::{Batching, Input, Output, Signature};
use gristmill_schemas::{Datatype, ErrorBody, ErrorCode, JobBody, Parameters, ResultBody, Tensor};
use proptest::prelude::*;

use crate::*;

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
    Desk::new(settings, Room { bytes, jobs: 100, rest: 0.0 }, Closed::default())
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
