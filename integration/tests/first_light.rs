//! The main job: what goes in comes out once, right, in its place, and traced.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::borrow::Cow;
use std::collections::HashSet;

use gristmill_integration::{Jobs, Nats, WorkerBuilder, f32s, samples};
use gristmill_schemas::{Datatype, JobBody, Shape, Tensor, TraceContext, header};

/// One job for each of PyTorch's sample rows.
const JOBS: usize = 100_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_jobs_have_one_result_each_equal_to_pytorchs() {
    let nats = Nats::start();
    let worker = WorkerBuilder::new(&nats, &["mlp"]).start();
    let jobs = Jobs::new(nats.jetstream().await);
    let (x, y) = (samples("x"), samples("y"));
    let body = |row: usize| Jobs::body("x", &[1, 64], &x[row * 64..][..64]);
    jobs.submit_all("infer.jobs.mlp.online", (0..JOBS / 5).map(|row| (row.to_string(), body(row)))).await;
    jobs.settled().await;
    let warm = worker.process.rss();
    jobs.submit_all("infer.jobs.mlp.bulk", (JOBS / 5..JOBS).map(|row| (row.to_string(), body(row)))).await;
    let results = jobs.results(JOBS).await;
    let mut seen = HashSet::new();
    for answer in &results {
        let row: usize = answer.id().parse().expect("ids are row numbers");
        assert!(seen.insert(row), "row {row} is answered twice");
        assert_eq!(answer.header(header::STATUS), "ok");
        for (got, want) in f32s(&answer.ok(), "y").iter().zip(&y[row * 10..][..10]) {
            assert!((got - want).abs() <= 1e-5, "row {row}: {got} instead of {want}");
        }
    }
    jobs.settled().await;
    assert_eq!(jobs.stored_count("INFER_RESULTS").await, JOBS as u64);
    assert_eq!(worker.count("acked"), JOBS as u64);
    // Eighty thousand jobs later: buffers may have grown to their working size, jobs may not have been kept.
    let grown = worker.process.rss().saturating_sub(warm);
    assert!(grown < 48 << 20, "resident memory grew by {grown} bytes from {warm}");
}

/// Bodies of `rows` rows for the model `mixed`, whose values tell job and row.
fn mixed(job: usize, rows: usize, outputs: Option<Vec<&'static str>>) -> Vec<u8> {
    let x: Vec<u8> = (0..rows * 4).flat_map(|i| ((job * 1000 + i) as f32).to_le_bytes()).collect();
    let ids: Vec<u8> = (0..rows * 3).flat_map(|i| ((job + i) as i64).to_le_bytes()).collect();
    let tensor = |name, datatype, width, data| Tensor {
        name,
        datatype,
        shape: Shape::try_new(&[rows, width]).unwrap(),
        data: Cow::Owned(data),
    };
    // Not in the model's order: inputs are matched by name.
    let inputs = vec![tensor("ids", Datatype::Int64, 3, ids), tensor("x", Datatype::Fp32, 4, x)];
    JobBody { id: None, inputs, outputs }.encode()
}

#[tokio::test]
async fn every_row_of_mixed_jobs_comes_back_in_its_place() {
    const COUNT: usize = 2000;
    let nats = Nats::start();
    let _worker = WorkerBuilder::new(&nats, &["mixed"]).set("models.instances", 2).start();
    let jobs = Jobs::new(nats.jetstream().await);
    let rows = |job: usize| job % 17 + 1;
    let all = (0..COUNT).map(|job| (job.to_string(), mixed(job, rows(job), None)));
    jobs.submit_all("infer.jobs.mixed.online", all).await;
    let results = jobs.results(COUNT).await;
    assert!(results.iter().any(|answer| answer.ok().parameters.batch_jobs > 1), "no two jobs shared a batch");
    for answer in results {
        let (job, result) = (answer.id().parse::<usize>().unwrap(), answer.ok());
        let rows = rows(job);
        let names: Vec<&str> = result.outputs.iter().map(|output| output.name).collect();
        assert_eq!(names, ["scaled", "total", "even"]);
        assert!(result.outputs.iter().all(|output| output.shape[0] == rows));
        let scaled = f32s(&result, "scaled");
        let totals: Vec<i64> =
            result.outputs[1].data.as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect();
        for row in 0..rows {
            let total: i64 = (0..3).map(|i| (job + row * 3 + i) as i64).sum();
            assert_eq!(totals[row], total, "job {job}, row {row}");
            assert_eq!(result.outputs[2].data[row], u8::from(total % 2 == 0));
            for i in 0..4 {
                let x = (job * 1000 + row * 4 + i) as f32;
                assert_eq!(scaled[row * 4 + i], x * total as f32, "job {job}, row {row}, column {i}");
            }
        }
    }
}

#[tokio::test]
async fn a_job_gets_the_outputs_it_asks_for_in_its_order() {
    let nats = Nats::start();
    let _worker = WorkerBuilder::new(&nats, &["mixed"]).start();
    let jobs = Jobs::new(nats.jetstream().await);
    jobs.submit("mixed", "some", mixed(1, 2, Some(vec!["even", "scaled"])), &[]).await;
    let results = jobs.results(1).await;
    let names: Vec<String> = results[0].ok().outputs.iter().map(|output| output.name.to_owned()).collect();
    assert_eq!(names, ["even", "scaled"]);
}

#[tokio::test]
async fn every_datatype_goes_in_and_comes_out() {
    let cases: [(&str, Datatype, &[u8], &[u8]); 10] = [
        ("bool_", Datatype::Bool, &[1], &[0]),
        ("uint8", Datatype::Uint8, &[200], &[201]),
        ("int8", Datatype::Int8, &[0xfe], &[0xff]),
        ("int16", Datatype::Int16, &[0xff, 1], &[0, 2]),
        ("int32", Datatype::Int32, &[0xff, 0, 0, 0], &[0, 1, 0, 0]),
        ("int64", Datatype::Int64, &[0xff, 0xff, 0, 0, 0, 0, 0, 0], &[0, 0, 1, 0, 0, 0, 0, 0]),
        ("fp16", Datatype::Fp16, &[0x00, 0x3c], &[0x00, 0x40]),
        ("bf16", Datatype::Bf16, &[0x80, 0x3f], &[0x00, 0x40]),
        ("fp32", Datatype::Fp32, &[0, 0, 0x80, 0x3f], &[0, 0, 0, 0x40]),
        ("fp64", Datatype::Fp64, &[0, 0, 0, 0, 0, 0, 0xf0, 0x3f], &[0, 0, 0, 0, 0, 0, 0, 0x40]),
    ];
    let nats = Nats::start();
    let _worker = WorkerBuilder::new(&nats, &["types"]).start();
    let jobs = Jobs::new(nats.jetstream().await);
    let inputs = cases.iter().map(|(name, datatype, element, _)| Tensor {
        name,
        datatype: *datatype,
        shape: Shape::try_new(&[3, 2]).unwrap(),
        data: Cow::Owned(element.repeat(6)),
    });
    let body = JobBody { id: None, inputs: inputs.collect(), outputs: None }.encode();
    jobs.submit("types", "all", body, &[]).await;
    let results = jobs.results(1).await;
    for (output, (name, datatype, _, want)) in results[0].ok().outputs.iter().zip(cases) {
        assert_eq!((output.name, output.datatype, &*output.shape), (name, datatype, &[3usize, 2][..]));
        assert_eq!(*output.data, want.repeat(6), "{name}");
    }
}

#[tokio::test]
async fn a_result_goes_on_with_the_jobs_trace_or_begins_one() {
    // Nothing is recorded here, so that the sender's own span stays the one to belong to. What is recorded goes on with
    // the span of its answer: see telemetry.rs.
    let nats = Nats::start();
    let _worker = WorkerBuilder::new(&nats, &["mlp"]).start();
    let jobs = Jobs::new(nats.jetstream().await);
    let body = || Jobs::body("x", &[1, 64], &[0.5; 64]);
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers =
        [("traceparent", parent), ("tracestate", "vendor=1"), ("baggage", "user=7"), ("Gristmill-Reply", "mine")];
    jobs.submit("mlp", "traced", body(), &headers).await;
    jobs.submit("mlp", "untraced", body(), &[("traceparent", "garbage")]).await;
    let results = jobs.results(2).await;
    let of = |id: &str| results.iter().find(|answer| answer.id() == id).expect("both are answered");
    let (traced, parent) = (of("traced"), TraceContext::parse(parent).unwrap());
    assert_eq!(TraceContext::parse(traced.header("traceparent")), Some(parent));
    assert_eq!((traced.header("tracestate"), traced.header("baggage")), ("vendor=1", "user=7"));
    assert_eq!(traced.subject, "infer.results.mlp.mine");
    let begun = TraceContext::parse(of("untraced").header("traceparent")).expect("a trace was begun");
    assert_ne!(begun.trace_id, parent.trace_id);
    assert_eq!(of("untraced").subject, "infer.results.mlp.all");
}

#[tokio::test]
async fn a_result_names_what_made_it() {
    let nats = Nats::start();
    let worker = WorkerBuilder::new(&nats, &["mlp"]).set("worker", "w-1").start();
    let jobs = Jobs::new(nats.jetstream().await);
    jobs.submit("mlp", "one", Jobs::body("x", &[1, 64], &[0.5; 64]), &[("Gristmill-Version", "1")]).await;
    let answer = jobs.results(1).await.remove(0);
    let status = worker.status();
    assert_eq!(answer.header(header::MODEL_DIGEST), status["models"][0]["digest"].as_str().unwrap());
    assert!(answer.header(header::MODEL_DIGEST).starts_with("sha256:"));
    assert_eq!((answer.header(header::MODEL), answer.header(header::MODEL_VERSION)), ("mlp", "1"));
    assert_eq!(answer.header(header::WORKER), "w-1");
    assert_eq!((answer.ok().parameters.batch_rows, answer.ok().id), (1, "one"));
    // One by one as the server has them, though the client is given them in one piece.
    let mut names: Vec<_> = answer.headers.iter().map(|(name, values)| (name.to_string(), values.len())).collect();
    names.sort();
    let made = [header::MODEL, header::MODEL_DIGEST, header::MODEL_VERSION, header::STATUS, header::WORKER];
    let mut wanted: Vec<_> = made.into_iter().chain([header::MSG_ID, header::JOB_ID, header::TRACEPARENT]).collect();
    wanted.sort_unstable();
    assert_eq!(names, wanted.into_iter().map(|name| (name.to_owned(), 1)).collect::<Vec<_>>());
}

#[tokio::test]
async fn several_models_and_both_lanes_are_served_by_one_worker() {
    let nats = Nats::start();
    let _worker = WorkerBuilder::new(&nats, &["mlp", "picky", "digits"]).set("runtime.threads", 2).start();
    let jobs = Jobs::new(nats.jetstream().await);
    for lane in ["online", "bulk"] {
        let many = |model: &str, body: Vec<u8>| {
            (0..100).map(move |i| (format!("{model}-{lane}-{i}"), body.clone())).collect::<Vec<_>>()
        };
        let mlp = many("mlp", Jobs::body("x", &[1, 64], &[0.5; 64]));
        let picky = many("picky", Jobs::body("x", &[2, 4], &[1.0; 8]));
        let digits = many("digits", Jobs::body("image", &[1, 1, 8, 8], &[0.0; 64]));
        jobs.submit_all(&format!("infer.jobs.mlp.{lane}"), mlp.into_iter()).await;
        jobs.submit_all(&format!("infer.jobs.picky.{lane}"), picky.into_iter()).await;
        jobs.submit_all(&format!("infer.jobs.digits.{lane}"), digits.into_iter()).await;
    }
    let ids: HashSet<String> = jobs.results(600).await.iter().map(|answer| answer.ok().id.to_owned()).collect();
    assert_eq!(ids.len(), 600);
}

#[tokio::test]
async fn one_permit_serves_every_lane_of_every_model() {
    let nats = Nats::start();
    let _worker = WorkerBuilder::new(&nats, &["mlp", "digits"]).set("limits.in_flight", 1).start();
    let jobs = Jobs::new(nats.jetstream().await);
    for lane in ["online", "bulk"] {
        let mlp = [(format!("mlp-{lane}"), Jobs::body("x", &[1, 64], &[0.5; 64]))];
        let digits = [(format!("digits-{lane}"), Jobs::body("image", &[1, 1, 8, 8], &[0.5; 64]))];
        jobs.submit_all(&format!("infer.jobs.mlp.{lane}"), mlp.into_iter()).await;
        jobs.submit_all(&format!("infer.jobs.digits.{lane}"), digits.into_iter()).await;
    }
    assert_eq!(jobs.results(4).await.len(), 4);
}

#[tokio::test]
async fn jobs_of_different_lengths_batch_with_their_own_kind() {
    let nats = Nats::start();
    let _worker = WorkerBuilder::new(&nats, &["lengths"]).start();
    let jobs = Jobs::new(nats.jetstream().await);
    let body = |length: usize| {
        let data: Vec<u8> = (0..length).flat_map(|_| 7i64.to_le_bytes()).collect();
        let shape = Shape::try_new(&[1, length]).unwrap();
        let ids = Tensor { name: "ids", datatype: Datatype::Int64, shape, data: Cow::Owned(data) };
        JobBody { id: None, inputs: vec![ids], outputs: None }.encode()
    };
    let all = (0..1000).map(|job| (job.to_string(), body(job % 5 + 1)));
    jobs.submit_all("infer.jobs.lengths.online", all).await;
    let results = jobs.results(1000).await;
    let one = results.iter().find(|answer| answer.id() == "0").map(|answer| f32s(&answer.ok(), "y")).unwrap();
    for answer in &results {
        let length = answer.id().parse::<usize>().unwrap() % 5 + 1;
        for (got, each) in f32s(&answer.ok(), "y").iter().zip(&one) {
            assert!((got - each * length as f32).abs() < 1e-4, "job {}", answer.id());
        }
    }
    let mean = results.iter().map(|answer| answer.ok().parameters.batch_jobs as f64).sum::<f64>() / 1000.0;
    assert!(mean > 2.0, "shapes that alternate must not give batches of one: {mean} jobs");
}
