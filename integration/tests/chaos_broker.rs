//! Brokers die; every stored job still has its one result.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::collections::HashSet;
use std::time::{Duration, Instant};

use async_nats::jetstream::Context;
use gristmill_integration::{Audit, Chaos, Cluster, Jobs, Mlp, Nats, Worker, WorkerBuilder};
use tokio::task::JoinHandle;

/// Between two kills: time to come back, and to get some work done.
const LIVES_MS: std::ops::Range<u64> = 300..1500;

const SUBJECT: &str = "infer.jobs.mlp.online";

fn worker(url: &str, replicas: u32) -> Worker {
    let builder = WorkerBuilder::at(url, &["mlp"]).set("streams.ack_wait_ms", 2000).set("streams.max_deliver", 100);
    builder.set("streams.replicas", replicas).start()
}

/// What was not confirmed after a second will not be: here the broker is near, and dead.
fn jobs_of(mut context: Context) -> Jobs {
    context.set_timeout(Duration::from_secs(1));
    Jobs::new(context)
}

/// Submits a slice of the jobs in the background.
fn submit(jobs: &Jobs, mlp: &Mlp, ids: std::ops::Range<usize>) -> JoinHandle<HashSet<String>> {
    let (jobs, bodies) = (jobs.clone(), ids.map(|id| mlp.job(id)).collect::<Vec<_>>());
    tokio::spawn(async move { jobs.submit_stubbornly(SUBJECT, bodies.into_iter()).await })
}

/// The share of jobs that belongs to one kill.
fn slice(count: usize, kills: usize, kill: usize) -> std::ops::Range<usize> {
    count * kill / kills..count * (kill + 1) / kills
}

/// The broker forgets a job's dedup id with the job, when that is done: one whose confirmation was lost in a kill may be
/// stored again by its submitter, and then has a result for each time. No other has.
fn assert_only_resubmitted_jobs_are_stored_twice(audit: &Audit, retried: &HashSet<String>) {
    let others = audit.stored_twice.keys().filter(|id| !retried.contains(&id.to_string()));
    assert_eq!(others.count(), 0, "{:?}", audit.stored_twice);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_broker_killed_over_and_over_loses_and_doubles_nothing() {
    let mut chaos = Chaos::begin("chaos_broker, single").await;
    let (count, kills) = chaos.scale((5000, 3), (20_000, 10));
    let (mut nats, mlp) = (Nats::start(), Mlp::load());
    let mut worker = worker(&nats.url(), 1);
    let jobs = jobs_of(nats.jetstream().await);
    let mut retried = HashSet::new();
    for kill in 0..kills {
        let ids = slice(count, kills, kill);
        let hit_at = chaos.rng.usize(ids.clone());
        let submission = submit(&jobs, &mlp, ids);
        // In the middle of the work, or of the submission.
        if chaos.rng.bool() {
            jobs.until_stored(hit_at as u64 + 1).await;
        } else {
            chaos.pause(0..50).await;
        }
        nats.crash_and_restart();
        retried.extend(submission.await.unwrap());
        chaos.pause(LIVES_MS).await;
    }
    let audit = jobs.audit(count, |id, answer| mlp.check(id, answer)).await;
    let (again, twice) = (worker.count("publish_retries"), worker.count("duplicate_results"));
    let (deliveries, stored_twice) = (worker.count("received"), audit.stored_twice.len());
    chaos.tell(format!(
        "{kills} kills, {} jobs submitted again of which {stored_twice} were stored twice; worker: {deliveries} deliveries, \
         {again} publishes tried again, {twice} duplicate results",
        retried.len()
    ));
    assert_only_resubmitted_jobs_are_stored_twice(&audit, &retried);
    let losses = worker.process.log().matches("disconnected from NATS").count();
    // Fewer than kills where the next one came before the worker was back.
    assert!(losses > kills / 2, "the worker lost its connection {losses} times");
    assert!(worker.terminate().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_whose_leaders_are_killed_over_and_over_loses_and_doubles_nothing() {
    let mut chaos = Chaos::begin("chaos_broker, cluster").await;
    let (count, kills) = chaos.scale((5000, 3), (20_000, 10));
    let (mut cluster, mlp) = (Cluster::start().await, Mlp::load());
    let mut worker = worker(cluster.url(), 3);
    let jobs = jobs_of(cluster.jetstream().await);
    let mut retried = HashSet::new();
    let mut stepped_up = 0;
    for kill in 0..kills {
        let mut clock = Instant::now();
        let mut lap = || std::mem::replace(&mut clock, Instant::now()).elapsed().as_secs_f64();
        for stream in ["INFER_JOBS", "INFER_RESULTS"] {
            cluster.is_whole(stream).await;
        }
        let whole = lap();
        let stream = *chaos.rng.choice(&["INFER_JOBS", "INFER_RESULTS"]).unwrap();
        let leader = cluster.leader_of(stream).await;
        let ids = slice(count, kills, kill);
        let hit_at = chaos.rng.usize(ids.clone());
        let submission = submit(&jobs, &mlp, ids);
        jobs.until_stored(hit_at as u64 + 1).await;
        let hit = lap();
        cluster.kill(&leader);
        chaos.pause(LIVES_MS).await;
        let next = cluster.leader_of(stream).await;
        let led = lap();
        cluster.restart(&leader);
        retried.extend(submission.await.unwrap());
        chaos.tell(format!(
            "{stream}: whole after {whole:.1} s, {leader} killed {hit:.1} s later at {hit_at} results, {next} leads after {led:.1} s"
        ));
        stepped_up += usize::from(next != leader);
    }
    jobs.drained().await;
    // Whoever leads by then has all that was stored, and elections are over.
    cluster.is_whole("INFER_RESULTS").await;
    let audit = jobs.audit(count, |id, answer| mlp.check(id, answer)).await;
    let (again, twice) = (worker.count("publish_retries"), worker.count("duplicate_results"));
    let (deliveries, stored_twice) = (worker.count("received"), audit.stored_twice.len());
    chaos.tell(format!(
        "{stepped_up} changes of leader, {} jobs submitted again of which {stored_twice} were stored twice; worker: \
         {deliveries} deliveries, {again} publishes tried again, {twice} duplicate results",
        retried.len()
    ));
    assert_only_resubmitted_jobs_are_stored_twice(&audit, &retried);
    assert_eq!(stepped_up, kills, "a killed leader was still said to lead");
    assert!(worker.terminate().success());
}
