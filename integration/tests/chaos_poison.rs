//! Jobs that harm the worker that takes them: each ends as one dead letter, and every bystander is answered.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::borrow::Cow;
use std::time::Duration;

use gristmill_integration::{Answer, Chaos, Jobs, Nats, Worker, WorkerBuilder, publish_raw};
use gristmill_schemas::{Datatype, ErrorCode, JobBody, Shape, Tensor, dead_letter_header as dead};

const BYSTANDERS: usize = 1000;

/// The value that no 64 bits hold the negative of.
const DEADLY: i64 = i64::MIN;

fn int64(value: i64) -> Vec<u8> {
    let shape = Shape::try_new(&[1, 1]).unwrap();
    let data = Cow::Owned(value.to_le_bytes().to_vec());
    let x = Tensor { name: "x", datatype: Datatype::Int64, shape, data };
    JobBody { id: None, inputs: vec![x], outputs: None }.encode()
}

/// `BYSTANDERS` good jobs of one row, with each of `poison` somewhere among them.
async fn submit(jobs: &Jobs, model: &str, good: &[u8], poison: &[(&str, Vec<u8>)]) {
    let every = BYSTANDERS / (poison.len() + 1);
    let mut all: Vec<_> = (0..BYSTANDERS).map(|i| (format!("bystander-{i}"), good.to_vec())).collect();
    for (index, (id, body)) in poison.iter().enumerate().rev() {
        all.insert((index + 1) * every, ((*id).to_owned(), body.clone()));
    }
    jobs.submit_all(&format!("infer.jobs.{model}.online"), all.into_iter()).await;
}

/// Waits for all answers: every bystander `ok`, every poison job refused with this code and kept once. Returns the
/// refusals.
async fn assert_only_poison_is_refused(jobs: &Jobs, poison: usize, code: ErrorCode) -> Vec<Answer> {
    let results = jobs.results(BYSTANDERS + poison).await;
    jobs.settled().await;
    let (well, refused): (Vec<Answer>, Vec<Answer>) =
        results.into_iter().partition(|answer| answer.id().starts_with("bystander-"));
    assert_eq!(well.iter().filter(|answer| !answer.ok().outputs.is_empty()).count(), BYSTANDERS);
    assert_eq!(jobs.stored_count("INFER_RESULTS").await, (BYSTANDERS + poison) as u64);
    for answer in &refused {
        assert_eq!(answer.error().code, code, "{}: {}", answer.id(), answer.error().message);
    }
    assert_eq!(jobs.stored_count("INFER_DLQ").await, poison as u64);
    let mut kept: Vec<String> = jobs.dead_letters(poison).await.iter().map(|letter| letter.id().to_owned()).collect();
    kept.sort();
    kept.dedup();
    assert_eq!(kept.len(), poison, "a dead letter for each: {kept:?}");
    refused
}

#[tokio::test]
async fn undecodable_and_throwing_jobs_fail_alone() {
    let _chaos = Chaos::begin("undecodable_and_throwing").await;
    let nats = Nats::start();
    let mut worker = WorkerBuilder::new(&nats, &["picky"]).start();
    let jobs = Jobs::new(nats.jetstream().await);
    let good = Jobs::body("x", &[1, 4], &[1.0; 4]);
    let throws = Jobs::body("x", &[1, 4], &[-1.0; 4]);
    submit(&jobs, "picky", &good, &[("throws-1", throws.clone()), ("throws-2", throws)]).await;
    assert_only_poison_is_refused(&jobs, 2, ErrorCode::ModelError).await;
    assert!(worker.count("run_errors") > 0);
    assert!(worker.terminate().success());
}

#[tokio::test]
async fn a_job_that_exhausts_memory_fails_alone() {
    let chaos = Chaos::begin("exhausts_memory").await;
    let nats = Nats::start();
    let mut worker = WorkerBuilder::new(&nats, &["hungry"]).start();
    let jobs = Jobs::new(nats.jetstream().await);
    submit(&jobs, "hungry", &int64(1), &[("glutton-1", int64(1 << 48)), ("glutton-2", int64(1 << 48))]).await;
    let refused = assert_only_poison_is_refused(&jobs, 2, ErrorCode::ResourceExhausted).await;
    assert!(refused[0].error().code.retryable());
    let (run_out, redelivered) = (worker.count("out_of_memory"), worker.count("duplicate_deliveries"));
    chaos.tell(format!("memory ran out {run_out} times, {redelivered} redeliveries"));
    assert!(run_out >= 2);
    assert!(worker.terminate().success());
}

/// Batches of more than four rows fit nowhere: the worker finds that out once, not with every batch. One job that fits
/// nowhere even alone does not make the others' batches smaller.
#[tokio::test]
async fn what_fits_the_memory_is_learned_and_shown() {
    let chaos = Chaos::begin("memory_is_learned").await;
    let nats = Nats::start();
    let mut worker = WorkerBuilder::new(&nats, &["together"]).start();
    let jobs = Jobs::new(nats.jetstream().await);
    submit(&jobs, "together", &int64(1), &[("alone-too-large", int64(5))]).await;
    assert_only_poison_is_refused(&jobs, 1, ErrorCode::ResourceExhausted).await;
    let (run_out, batches) = (worker.count("out_of_memory"), worker.count("batches"));
    let ceilings = worker.status()["ceilings"].clone();
    chaos.tell(format!("memory ran out {run_out} times in {batches} batches; {ceilings}"));
    assert!(ceilings[0]["max_rows"].as_u64().is_some_and(|rows| (2..8).contains(&rows)), "{ceilings}");
    // Without the ceiling each batch would be halved anew.
    assert!(run_out < batches / 4, "{run_out} of {batches}");
    assert!(batches < (BYSTANDERS / 2) as u64, "the one job made the batches of all others smaller: {batches}");
    assert!(worker.terminate().success());
}

/// How long the slowest bystander waited for a supervised worker whose job kills it, and the worker.
async fn killed(jobs: &Jobs, worker: WorkerBuilder, poison: usize) -> (Duration, Worker) {
    let mut worker = worker.supervised().launch();
    worker.wait_until_ready();
    let ids = ["killer-1", "killer-2", "killer-3"];
    let all: Vec<_> = ids[..poison].iter().map(|id| (*id, int64(DEADLY))).collect();
    let started = std::time::Instant::now();
    submit(jobs, "killer", &int64(1), &all).await;
    drop(jobs.results(BYSTANDERS + poison).await);
    let took = started.elapsed();
    let refused = assert_only_poison_is_refused(jobs, poison, ErrorCode::Quarantined).await;
    assert!(worker.process.log().contains("the worker died"), "nothing was killed");
    for letter in jobs.dead_letters(poison).await {
        assert_eq!((letter.header(dead::CODE), &letter.payload[..]), ("quarantined", &int64(DEADLY)[..]));
    }
    assert!(refused.iter().all(|answer| answer.id().starts_with("killer-")), "{refused:?}");
    (took, worker)
}

#[tokio::test]
async fn a_job_that_kills_the_process_is_found_by_the_next_one_at_once() {
    let chaos = Chaos::begin("kills_the_process").await;
    let nats = Nats::start();
    let jobs = Jobs::new(nats.jetstream().await);
    // ack_wait is 30 s: whoever waited for that would be told by the time.
    let (took, mut worker) = killed(&jobs, WorkerBuilder::new(&nats, &["killer"]), 2).await;
    let restarts = worker.process.log().matches("the worker died").count();
    chaos.tell(format!("{restarts} restarts, all answered after {:.1} s", took.as_secs_f64()));
    assert!(took < Duration::from_secs(25), "somebody waited for ack_wait: {took:?}");
    assert!(restarts <= 4, "each killer may kill once in company and once alone: {restarts}\n{}", worker.process.log());
    assert!(worker.process.log().contains("a worker died of signal 8"), "the dead letter says what happened");
    assert!(worker.terminate().success());
}

/// The control: without a ledger the same holds, later. Delivery counts tell the suspects.
#[tokio::test]
async fn without_a_ledger_bystanders_of_a_killed_process_wait_for_ack_wait() {
    const ACK_WAIT: Duration = Duration::from_secs(3);
    let chaos = Chaos::begin("without_a_ledger").await;
    let nats = Nats::start();
    let jobs = Jobs::new(nats.jetstream().await);
    let worker = WorkerBuilder::new(&nats, &["killer"]).set("ledger.dir", "off");
    let worker = worker.set("streams.ack_wait_ms", ACK_WAIT.as_millis()).set("streams.max_deliver", 10);
    let (took, mut worker) = killed(&jobs, worker, 1).await;
    let restarts = worker.process.log().matches("the worker died").count();
    chaos.tell(format!("{restarts} restarts, all answered after {:.1} s", took.as_secs_f64()));
    assert!(took >= ACK_WAIT, "nobody waited: {took:?}");
    assert!(worker.terminate().success());
}

/// A model that does not return: the process ends by itself, and the job that did it is found in the same way.
#[tokio::test]
async fn a_job_whose_model_does_not_return_is_found_and_quarantined() {
    let chaos = Chaos::begin("does_not_return").await;
    let nats = Nats::start();
    let jobs = Jobs::new(nats.jetstream().await);
    let worker = WorkerBuilder::new(&nats, &["hang"]).set("limits.max_hold_ms", 2000).supervised();
    let mut worker = worker.start();
    let started = std::time::Instant::now();
    submit(&jobs, "hang", &int64(1), &[("hangs", int64(-1))]).await;
    let refused = assert_only_poison_is_refused(&jobs, 1, ErrorCode::Quarantined).await;
    assert!(refused[0].error().message.contains("did not return"), "{}", refused[0].error().message);
    assert!(worker.process.log().contains("limits.max_hold_ms = 2000 ms"));
    chaos.tell(format!("all answered after {:.1} s", started.elapsed().as_secs_f64()));
    assert!(worker.terminate().success());
}

/// The client cannot read these: one costs it the connection, the other its life. They are only ever seen by number, once
/// their deliveries are used up: here soon.
#[tokio::test]
async fn jobs_whose_headers_break_the_client_end_as_dead_letters_with_their_bytes() {
    let chaos = Chaos::begin("headers").await;
    let nats = Nats::start();
    let builder = WorkerBuilder::new(&nats, &["mlp"]).set("streams.ack_wait_ms", 1000).set("streams.max_deliver", 10);
    let mut worker = builder.start();
    let jobs = Jobs::new(nats.jetstream().await);
    let good = Jobs::body("x", &[1, 64], &[0.5; 64]);
    publish_raw(&nats, "infer.jobs.mlp.online", b"Gristmill-Job-Id: not-text\r\nX: \xff\xfe", &good);
    publish_raw(&nats, "infer.jobs.mlp.online", b"Gristmill-Job-Id: lone-cr\r\nX: a\rb", &good);
    submit(&jobs, "mlp", &good, &[]).await;
    let refused = assert_only_poison_is_refused(&jobs, 2, ErrorCode::InvalidMessage).await;
    assert!(refused.iter().any(|answer| answer.id() == "lone-cr"));
    for letter in jobs.dead_letters(2).await {
        assert_eq!(&letter.payload[..], &good[..]);
        assert!(!letter.header(dead::RAW_HEADERS).is_empty());
    }
    let (rebuilt, swept) = (worker.count("client_rebuilds"), worker.count("swept"));
    chaos.tell(format!("the client was made anew {rebuilt} times; swept {swept}"));
    assert!(rebuilt > 0, "the lone CR did not kill the client");
    assert!(worker.process.ended().is_none(), "the worker died with its client");
    assert!(worker.terminate().success());
}
