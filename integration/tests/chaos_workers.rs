//! Workers die all the time; jobs do not notice.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use gristmill_integration::{Chaos, Jobs, Mlp, Nats, Worker, WorkerBuilder};
use tokio::task::JoinHandle;

/// From the submission of some jobs to a kill that is not aimed. Shorter than a start, so that some workers are hit before
/// they serve.
const HITS_AFTER_MS: std::ops::Range<u64> = 0..400;

/// What killed workers had counted by then.
#[derive(Debug, Default)]
struct Toll {
    received: u64,
    duplicate_results: u64,
}

impl Toll {
    fn read(&mut self, worker: &Worker) {
        self.received += worker.count_so_far("received");
        self.duplicate_results += worker.count_so_far("duplicate_results");
    }
}

fn worker(nats: &Nats) -> WorkerBuilder {
    WorkerBuilder::new(nats, &["mlp"]).set("streams.ack_wait_ms", 2000).set("streams.max_deliver", 100)
}

/// Submits some of the jobs in the background.
fn submit(jobs: &Jobs, mlp: &Mlp, ids: std::ops::Range<usize>) -> JoinHandle<()> {
    let (jobs, bodies) = (jobs.clone(), ids.map(|id| mlp.job(id)).collect::<Vec<_>>());
    tokio::spawn(async move { jobs.submit_all("infer.jobs.mlp.online", bodies.into_iter()).await })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_workers_killed_over_and_over_lose_and_double_nothing() {
    let mut chaos = Chaos::begin("chaos_workers").await;
    let (count, kills) = chaos.scale((10_000, 8), (50_000, 30));
    let (nats, mlp) = (Nats::start(), Mlp::load());
    let jobs = Jobs::new(nats.jetstream().await);
    let mut workers = [worker(&nats).start(), worker(&nats).start()];
    let mut toll = Toll::default();
    // A slice of the jobs for each kill, so that there is work at every one of them.
    let slice = count / kills;
    for kill in 0..kills {
        let victim = &mut workers[chaos.rng.usize(0..2)];
        let last = if kill + 1 == kills { count } else { (kill + 1) * slice };
        // Every other kill comes in the middle of work: the victim is up, and so many more results are there.
        let is_aimed = kill % 2 == 0;
        if is_aimed {
            victim.wait_until_ready();
        }
        let stored = jobs.stored_count("INFER_RESULTS").await;
        let submission = submit(&jobs, &mlp, kill * slice..last);
        if is_aimed {
            jobs.until_stored(stored + chaos.rng.u64(1..=slice as u64 / 2)).await;
        } else {
            chaos.pause(HITS_AFTER_MS).await;
        }
        toll.read(victim);
        victim.respawn();
        submission.await.unwrap();
    }
    let left = jobs.count("INFER_JOBS").await.unwrap();
    chaos.tell(format!("{kills} kills, {left} jobs left"));
    jobs.assert_exactly_once(count, |id, answer| mlp.check(id, answer)).await;
    workers.iter().for_each(|worker| toll.read(worker));
    let redelivered = jobs.deliveries("mlp").await - count as u64;
    chaos.tell(format!("{redelivered} redeliveries, {toll:?}"));
    assert!(redelivered > 0, "no kill hit a worker that held jobs");
}
