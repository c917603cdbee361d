//! Bad jobs: each gets its error result and its dead letter, and harms nobody.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::borrow::Cow;

use gristmill_integration::{Answer, Jobs, Nats, Worker, WorkerBuilder, publish_raw};
use gristmill_schemas::{Datatype, ErrorCode, JobBody, Shape, Tensor, dead_letter_header as dead};

const BYSTANDERS: usize = 200;

fn mlp(rows: usize) -> Vec<u8> {
    Jobs::body("x", &[rows, 64], &vec![0.5; rows * 64])
}

fn tensor<'a>(name: &'a str, datatype: Datatype, shape: &[usize], data: Vec<u8>) -> Tensor<'a> {
    Tensor { name, datatype, shape: Shape::try_new(shape).unwrap(), data: Cow::Owned(data) }
}

fn job(inputs: Vec<Tensor<'_>>) -> Vec<u8> {
    JobBody { id: None, inputs, outputs: None }.encode()
}

/// Replaces the dimensions that `mlp` wrote; MessagePack writes [1, 64] as 92 01 40.
fn with_shape(bytes: Vec<u8>, shape: &[u8]) -> Vec<u8> {
    let at = bytes.windows(3).position(|window| window == [0x92, 1, 0x40]).expect("the shape is there");
    [&bytes[..at], shape, &bytes[at + 3..]].concat()
}

struct Case {
    id: &'static str,
    body: Vec<u8>,
    headers: Vec<(&'static str, &'static str)>,
    code: ErrorCode,
    says: &'static str,
}

fn case(id: &'static str, body: Vec<u8>, code: ErrorCode, says: &'static str) -> Case {
    Case { id, body, headers: vec![], code, says }
}

fn with(header: (&'static str, &'static str), case: Case) -> Case {
    Case { headers: vec![header], ..case }
}

fn cases() -> Vec<Case> {
    use ErrorCode::{InvalidInput, InvalidMessage, TooLarge, UnknownVersion};
    let fp32 = |shape: &[usize]| vec![0; shape.iter().product::<usize>() * 4];
    let cut = mlp(1)[..100].to_vec();
    let nested = std::iter::once(0x81).chain([0xa1, b'p']).chain(std::iter::repeat_n(0x91, 10_000)).collect();
    let extra =
        job(vec![tensor("x", Datatype::Fp32, &[1, 64], fp32(&[1, 64])), tensor("z", Datatype::Bool, &[1], vec![1])]);
    let differ =
        job(vec![tensor("x", Datatype::Fp32, &[1, 64], fp32(&[1, 64])), tensor("z", Datatype::Bool, &[2], vec![1; 2])]);
    let twice = JobBody { outputs: Some(vec!["y", "y"]), ..JobBody::decode(&mlp(1), 1 << 20).unwrap() }.encode();
    let outputs = JobBody { outputs: Some(vec!["z"]), ..JobBody::decode(&mlp(1), 1 << 20).unwrap() }.encode();
    vec![
        case("truncated", cut, InvalidMessage, "body is not a job"),
        case("empty", vec![], InvalidMessage, "it is cut off"),
        case("not-a-map", vec![0x93, 1, 2, 3], InvalidMessage, "expected a map with \"inputs\""),
        case("nested", nested, InvalidMessage, "nested deeper than 16 levels"),
        case(
            "wrong-datatype",
            job(vec![tensor("x", Datatype::Int32, &[1, 64], vec![0; 256])]),
            InvalidInput,
            "input \"x\" is INT32, the model takes FP32",
        ),
        case(
            "bytes",
            job(vec![tensor("x", Datatype::Bytes, &[1], vec![1, 0, 0, 0, 9])]),
            InvalidInput,
            "input \"x\" is BYTES, the model takes FP32",
        ),
        case(
            "wrong-shape",
            job(vec![tensor("x", Datatype::Fp32, &[1, 63], fp32(&[63]))]),
            InvalidInput,
            "input \"x\" has shape [1, 63], the model has [-1, 64]",
        ),
        case(
            "wrong-length",
            with_shape(mlp(1), &[0x92, 1, 0x3f]),
            InvalidInput,
            "63 values of FP32 need 252 bytes, got 256",
        ),
        case(
            "zero-rows",
            with_shape(mlp(1), &[0x92, 0, 0x40]),
            InvalidInput,
            "shape [0, 64] has 0 rows, at least 1 is needed",
        ),
        case(
            "negative",
            with_shape(mlp(1), &[0x92, 1, 0xff]),
            InvalidInput,
            "dimension 1 of shape [1, -1] is negative",
        ),
        case(
            "overflow",
            with_shape(mlp(1), &[0x92, 0xcf, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x40]),
            InvalidInput,
            "more elements than memory has addresses",
        ),
        case(
            "missing-input",
            job(vec![tensor("z", Datatype::Fp32, &[1, 64], fp32(&[64]))]),
            InvalidInput,
            "input \"x\" is missing",
        ),
        case("extra-input", extra, InvalidInput, "the model has no input \"z\""),
        case("rows-differ", differ, InvalidInput, "input \"z\" has 2 rows, input \"x\" has 1"),
        case("output-twice", twice, InvalidInput, "output \"y\" is asked for twice"),
        case("unknown-output", outputs, InvalidInput, "the model has no output \"z\", only y"),
        case("too-many-rows", mlp(257), TooLarge, "the job has 257 rows, model \"mlp\" takes at most 256"),
        case("too-large", mlp(4000), TooLarge, "body has 1024052 bytes, the limit is 1000000"),
        with(
            ("Gristmill-Version", "9"),
            case("unknown-version", mlp(1), UnknownVersion, "model \"mlp\" has no version \"9\" here, only 1"),
        ),
        with(
            ("Gristmill-Timeout-Ms", "soon"),
            case("bad-timeout", mlp(1), InvalidMessage, "header Gristmill-Timeout-Ms is \"soon\""),
        ),
        with(
            ("Gristmill-Reply", "a.b"),
            case("bad-reply", mlp(1), InvalidMessage, "header Gristmill-Reply is \"a.b\""),
        ),
    ]
}

async fn bystanders(jobs: &Jobs, model: &str, body: Vec<u8>) {
    let all = (0..BYSTANDERS).map(|i| (format!("bystander-{i}"), body.clone()));
    jobs.submit_all(&format!("infer.jobs.{model}.online"), all).await;
}

fn assert_bystanders_are_well(results: &[Answer]) {
    let well = results
        .iter()
        .filter(|answer| answer.id().starts_with("bystander-"))
        .filter(|answer| !answer.ok().outputs.is_empty());
    assert_eq!(well.count(), BYSTANDERS);
}

fn assert_alive(worker: &mut Worker) {
    assert!(worker.process.ended().is_none());
    assert!(worker.terminate().success());
}

#[tokio::test]
async fn every_bad_job_is_refused_with_its_reason_and_its_bytes_are_kept() {
    let nats = Nats::start();
    let mut worker = WorkerBuilder::new(&nats, &["mlp"]).set("limits.job_bytes", 1_000_000).start();
    let jobs = Jobs::new(nats.jetstream().await);
    let cases = cases();
    for case in &cases {
        jobs.submit("mlp", case.id, case.body.clone(), &case.headers).await;
    }
    bystanders(&jobs, "mlp", mlp(1)).await;
    let results = jobs.results(cases.len() + BYSTANDERS).await;
    let letters = jobs.dead_letters(cases.len()).await;
    for case in cases {
        let answer = results.iter().find(|answer| answer.id() == case.id).expect("every job is answered");
        let error = answer.error();
        assert_eq!(error.code, case.code, "{}: {}", case.id, error.message);
        assert!(error.message.contains(case.says), "{}: {} instead of {}", case.id, error.message, case.says);
        assert_eq!(
            (answer.header("Gristmill-Status"), answer.header("Gristmill-Error-Code")),
            ("error", case.code.as_str())
        );
        let letter = letters.iter().find(|letter| letter.id() == case.id).expect("every refused job is kept");
        assert_eq!(letter.payload, case.body, "{}", case.id);
        assert_eq!(
            (letter.header(dead::CODE), letter.header(dead::SUBJECT)),
            (case.code.as_str(), "infer.jobs.mlp.online")
        );
        assert!(letter.header(dead::ERROR).contains(case.says));
        assert!(case.headers.iter().all(|(name, value)| letter.header(name) == *value));
    }
    assert_bystanders_are_well(&results);
    jobs.settled().await;
    assert_eq!(jobs.stored_count("INFER_DLQ").await, letters.len() as u64);
    assert_alive(&mut worker);
}

#[tokio::test]
async fn a_throwing_job_fails_alone() {
    let nats = Nats::start();
    let mut worker = WorkerBuilder::new(&nats, &["picky"]).start();
    let jobs = Jobs::new(nats.jetstream().await);
    let body = |value: f32| Jobs::body("x", &[1, 4], &[1.0, 1.0, 1.0, value]);
    let all = (0..BYSTANDERS + 5).map(|i| match i % 41 {
        0 => (format!("negative-{i}"), body(-1.0)),
        _ => (format!("bystander-{i}"), body(1.0)),
    });
    jobs.submit_all("infer.jobs.picky.online", all).await;
    let results = jobs.results(BYSTANDERS + 5).await;
    let refused: Vec<&Answer> = results.iter().filter(|answer| answer.id().starts_with("negative")).collect();
    assert_eq!(refused.len(), 5);
    for answer in refused {
        assert_eq!(answer.error().code, ErrorCode::ModelError);
        assert!(answer.error().message.contains("a negative value"), "{}", answer.error().message);
        assert!(!answer.error().message.contains('\n'));
    }
    assert_bystanders_are_well(&results);
    assert_eq!(jobs.dead_letters(5).await.len(), 5);
    assert_alive(&mut worker);
}

#[tokio::test]
async fn a_value_out_of_range_never_reaches_the_model() {
    let nats = Nats::start();
    let mut worker = WorkerBuilder::new(&nats, &["lengths"]).start();
    let jobs = Jobs::new(nats.jetstream().await);
    let ids = |values: &[i64]| {
        job(vec![tensor(
            "ids",
            Datatype::Int64,
            &[1, values.len()],
            values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        )])
    };
    jobs.submit("lengths", "beyond", ids(&[0, 99, 100]), &[]).await;
    bystanders(&jobs, "lengths", ids(&[0, 99, 50])).await;
    let results = jobs.results(BYSTANDERS + 1).await;
    let beyond = results.iter().find(|answer| answer.id() == "beyond").unwrap();
    assert_eq!(beyond.error().message, "input \"ids\": value 2 is 100, the model takes 0 to 99");
    assert_eq!(worker.count("run_errors"), 0);
    assert_bystanders_are_well(&results);
    assert_alive(&mut worker);
}

#[tokio::test]
async fn an_expired_job_has_an_error_result_and_no_dead_letter() {
    let nats = Nats::start();
    let mut worker = WorkerBuilder::new(&nats, &["slow"]).start();
    let jobs = Jobs::new(nats.jetstream().await);
    let body = Jobs::body("x", &[1, 1], &[1.0]);
    // Enough work before it that one millisecond cannot do.
    jobs.submit_all("infer.jobs.slow.online", (0..100).map(|i| (i.to_string(), body.clone()))).await;
    jobs.submit("slow", "late", body.clone(), &[("Gristmill-Timeout-Ms", "1")]).await;
    let results = jobs.results(101).await;
    let late = results.iter().find(|answer| answer.id() == "late").unwrap();
    assert_eq!((late.error().code, late.error().code.retryable()), (ErrorCode::DeadlineExceeded, true));
    assert!(late.error().message.contains("the job's timeout passed"), "{}", late.error().message);
    jobs.settled().await;
    assert_eq!(jobs.stored_count("INFER_DLQ").await, 0);
    assert_alive(&mut worker);
}

#[tokio::test]
async fn a_result_larger_than_max_payload_is_refused_with_both_sizes() {
    let nats = Nats::start();
    let mut worker = WorkerBuilder::new(&nats, &["wide"]).start();
    let jobs = Jobs::new(nats.jetstream().await);
    jobs.submit("wide", "wide", Jobs::body("x", &[1, 1], &[1.0]), &[]).await;
    let answer = jobs.results(1).await.remove(0);
    assert_eq!(answer.error().code, ErrorCode::TooLarge);
    assert!(answer.error().message.contains("1048576"), "{}", answer.error().message);
    assert!(answer.error().message.contains("2400"), "{}", answer.error().message);
    jobs.settled().await;
    assert_eq!(jobs.dead_letters(1).await[0].header(dead::CODE), "too_large");
    assert_alive(&mut worker);
}

#[tokio::test]
async fn a_job_that_fills_max_payload_is_kept_even_where_its_dead_letter_does_not_fit() {
    let nats = Nats::start();
    let mut worker = WorkerBuilder::new(&nats, &["mlp"]).start();
    let jobs = Jobs::new(nats.jetstream().await);
    // With the job's own header it is just within 1 MiB; with those of a dead letter it is not.
    jobs.submit("mlp", "full", vec![0xc1; (1 << 20) - 100], &[]).await;
    assert_eq!(jobs.results(1).await[0].error().code, ErrorCode::InvalidMessage);
    let letter = jobs.dead_letters(1).await.remove(0);
    assert_eq!((letter.header(dead::PAYLOAD), letter.payload.len()), ("omitted", 0));
    assert_alive(&mut worker);
}

#[tokio::test]
async fn headers_that_fill_their_limit_keep_no_job_from_its_end() {
    let nats = Nats::start();
    let mut worker = WorkerBuilder::new(&nats, &["mlp"]).start();
    let jobs = Jobs::new(nats.jetstream().await);
    // With the worker's own headers these are over the server's 64 KiB.
    let baggage = format!("k={}", "x".repeat(65_000));
    jobs.submit("mlp", "good", mlp(1), &[("baggage", &baggage)]).await;
    jobs.submit("mlp", "bad", vec![0xc1], &[("baggage", &baggage)]).await;
    let results = jobs.results(2).await;
    let of = |id: &str| results.iter().find(|answer| answer.id() == id).unwrap();
    assert_eq!((of("good").ok().id, of("good").header("baggage")), ("good", ""));
    assert_eq!(of("bad").error().code, ErrorCode::InvalidMessage);
    let letter = jobs.dead_letters(1).await.remove(0);
    assert_eq!((&letter.payload[..], letter.header(dead::RAW_HEADERS)), (&[0xc1][..], "omitted"));
    jobs.settled().await;
    assert_alive(&mut worker);
}

#[tokio::test]
async fn jobs_for_a_model_nobody_serves_wait_in_the_stream() {
    let nats = Nats::start();
    let mut worker = WorkerBuilder::new(&nats, &["mlp"]).start();
    let jobs = Jobs::new(nats.jetstream().await);
    jobs.submit("nowhere", "waits", mlp(1), &[]).await;
    bystanders(&jobs, "mlp", mlp(1)).await;
    assert_bystanders_are_well(&jobs.results(BYSTANDERS).await);
    jobs.settled_but(1).await;
    assert_eq!(jobs.stored_count("INFER_JOBS").await, 1);
    assert_alive(&mut worker);
}

#[tokio::test]
async fn a_job_whose_headers_are_not_text_ends_as_a_dead_letter_with_its_bytes() {
    let nats = Nats::start();
    let builder = WorkerBuilder::new(&nats, &["mlp"]);
    // The client drops the connection at such a header, so the job is only ever seen by number, once its deliveries
    // are used up: here soon.
    let mut worker = builder.set("streams.ack_wait_ms", 1000).set("streams.max_deliver", 10).start();
    let jobs = Jobs::new(nats.jetstream().await);
    publish_raw(&nats, "infer.jobs.mlp.online", b"Gristmill-Job-Id: odd\r\nX: \xff\xfe", &mlp(1));
    bystanders(&jobs, "mlp", mlp(1)).await;
    let results = jobs.results(BYSTANDERS + 1).await;
    assert_bystanders_are_well(&results);
    let odd = results.iter().find(|answer| answer.id() == "odd").unwrap();
    assert_eq!(odd.error().code, ErrorCode::InvalidMessage);
    assert!(odd.error().message.contains("is not UTF-8"), "{}", odd.error().message);
    let letter = jobs.dead_letters(1).await.remove(0);
    assert_eq!(letter.payload, mlp(1));
    assert!(!letter.header(dead::RAW_HEADERS).is_empty());
    jobs.settled().await;
    assert_eq!((worker.count("swept"), jobs.stored_count("INFER_DLQ").await), (1, 1));
    assert_alive(&mut worker);
}
