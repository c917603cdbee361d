//! The audit that the tests with faults end with finds what it is there to find.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use async_nats::HeaderMap;
use gristmill_integration::{Audit, Jobs, Nats};
use gristmill_schemas::header;

/// An audit of three jobs whose results are these: job, dedup id, status.
async fn audit(results: &[(&str, &str, &str)]) -> Audit {
    let nats = Nats::start();
    nats.set_up(&["--model", "mlp"]);
    let jobs = Jobs::new(nats.jetstream().await);
    for (id, dedup_id, status) in results {
        let mut headers = HeaderMap::new();
        headers.insert(header::JOB_ID, *id);
        headers.insert(header::STATUS, *status);
        headers.insert(header::ERROR_CODE, "model_error");
        headers.insert("Nats-Msg-Id", *dedup_id);
        let sent = jobs.context.publish_with_headers("infer.results.mlp.all", headers, "".into());
        sent.await.unwrap().await.unwrap();
    }
    jobs.audit(3, |_, _| {}).await
}

#[tokio::test]
async fn one_result_for_each_job_is_right() {
    let audit = audit(&[("0", "a", "ok"), ("2", "b", "ok"), ("1", "c", "ok")]).await;
    assert_eq!((audit.results, audit.stored_twice.len()), (3, 0));
}

#[tokio::test]
#[should_panic(expected = "1 jobs have no result, the first: [1]")]
async fn a_lost_job_is_found() {
    audit(&[("0", "a", "ok"), ("2", "b", "ok")]).await;
}

#[tokio::test]
#[should_panic(expected = "nobody submitted job 3")]
async fn a_job_nobody_submitted_is_found() {
    audit(&[("0", "a", "ok"), ("2", "b", "ok"), ("1", "c", "ok"), ("3", "d", "ok")]).await;
}

#[tokio::test]
#[should_panic(expected = "job 2: model_error")]
async fn a_job_that_was_refused_is_found() {
    audit(&[("0", "a", "ok"), ("2", "b", "error"), ("1", "c", "ok")]).await;
}

#[tokio::test]
async fn a_second_result_is_found() {
    let audit = audit(&[("0", "a", "ok"), ("2", "b", "ok"), ("1", "c", "ok"), ("2", "d", "ok")]).await;
    assert_eq!((audit.results, audit.stored_twice.get(&2)), (4, Some(&2)));
}
