//! The network between worker and broker fails in every way; every job still has its one result.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::time::{Duration, Instant};

use gristmill_integration::{Chaos, Faults, Jobs, Mlp, Nats, Proxy, Tally, Worker, WorkerBuilder};

/// Longest time from the return of the link to the next result. Seconds are expected; machines are shared.
const RECOVERY: Duration = Duration::from_secs(20);

/// A broker that tests talk to directly, and a worker that reaches it through a proxy.
struct Scene {
    jobs: Jobs,
    mlp: Mlp,
    proxy: Proxy,
    worker: Worker,
    _nats: Nats,
    /// Last, since the next test begins when it is dropped.
    chaos: Chaos,
}

impl Scene {
    async fn start(name: &'static str) -> Self {
        let chaos = Chaos::begin(name).await;
        let (nats, mlp) = (Nats::start(), Mlp::load());
        let proxy = Proxy::start(nats.port(), chaos.seed);
        let worker = WorkerBuilder::at(&proxy.url(), &["mlp"]).set("streams.ack_wait_ms", 2000);
        let worker = worker.set("streams.max_deliver", 100).start();
        let jobs = Jobs::new(nats.jetstream().await);
        Self { chaos, jobs, mlp, proxy, worker, _nats: nats }
    }

    async fn submit(&self, ids: std::ops::Range<usize>) {
        self.jobs.submit_all("infer.jobs.mlp.online", ids.map(|id| self.mlp.job(id))).await;
    }

    /// Checks the results of all jobs, and prints and returns what the proxy and the worker counted.
    async fn finish(&mut self, count: usize) -> (Tally, u64) {
        self.jobs.assert_exactly_once(count, |id, answer| self.mlp.check(id, answer)).await;
        let redelivered = self.jobs.deliveries("mlp").await - count as u64;
        let tally = self.proxy.tally();
        let duplicates = self.worker.count("duplicate_results");
        let (again, acked) = (self.worker.count("publish_retries"), self.worker.count("acked"));
        self.chaos.tell(format!(
            "{tally:?}, {redelivered} redeliveries; worker: {duplicates} duplicate results, {again} publishes tried \
             again, {acked} acknowledged"
        ));
        assert_eq!(tally.malformed, 0, "the proxy does not understand NATS");
        assert!(self.worker.process.ended().is_none());
        (tally, duplicates)
    }

    /// Jobs that came to the worker, however often.
    fn known(&self) -> u64 {
        self.worker.count("received") - self.worker.count("duplicate_deliveries")
    }

    /// Heals the link, and checks how long it takes until the next result is stored and until the next job comes.
    async fn assert_resumes(&self, what: &str) {
        let (stored, known) = (self.jobs.stored_count("INFER_RESULTS").await, self.known());
        let healed = Instant::now();
        self.proxy.heal();
        self.jobs.until_stored(stored + 1).await;
        let result = healed.elapsed();
        while self.known() == known && healed.elapsed() < RECOVERY {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let job = healed.elapsed();
        self.chaos.tell(format!("{what}: the next result after {result:.2?}, the next job after {job:.2?}"));
        assert!(result < RECOVERY && job < RECOVERY, "{what}: work was not resumed in time");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_cut_between_a_result_and_its_confirmation_stores_no_second_one() {
    let mut scene = Scene::start("chaos_network, cut behind results").await;
    let count = scene.chaos.scale(3000, 20_000);
    scene.proxy.inject(Faults { cut_behind_result: Some(500), ..Faults::default() });
    scene.submit(0..count).await;
    let (tally, duplicates) = scene.finish(count).await;
    assert!(tally.cuts >= count as u64 / 500, "{} cuts", tally.cuts);
    assert!(duplicates > 0, "every cut came before the result was stored");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_whose_confirmation_is_lost_is_published_again_and_stored_once() {
    let mut scene = Scene::start("chaos_network, swallowed confirmations").await;
    let count = scene.chaos.scale(3000, 20_000);
    scene.proxy.inject(Faults { swallows_publish_acks: true, ..Faults::default() });
    scene.submit(0..count).await;
    // Some were tried again in vain, and none was acknowledged without its confirmation.
    while scene.worker.count("publish_retries") == 0 {
        assert_eq!(scene.worker.count("acked"), 0, "a job was acknowledged before its result was confirmed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(scene.jobs.stored_count("INFER_JOBS").await, count as u64);
    scene.proxy.heal();
    let (tally, duplicates) = scene.finish(count).await;
    assert!(tally.swallowed > 0 && duplicates > 0, "no confirmation was lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_lost_on_its_way_is_missed_though_others_are_confirmed_with_it() {
    let mut scene = Scene::start("chaos_network, lost results").await;
    let count = scene.chaos.scale(3000, 20_000);
    scene.proxy.inject(Faults { loses_result: Some(200), ..Faults::default() });
    scene.submit(0..count).await;
    scene.jobs.until_stored(count as u64 / 2).await;
    let (together, lost) = (scene.worker.process.log().contains("not confirmed together"), scene.proxy.tally().lost);
    scene.proxy.heal();
    scene.finish(count).await;
    assert!(lost > 0 && together, "{lost} results were lost, none of them among others");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_sent_together_whose_end_is_lost_are_sent_again_one_by_one() {
    let mut scene = Scene::start("chaos_network, lost ends").await;
    let count = scene.chaos.scale(3000, 20_000);
    scene.proxy.inject(Faults { loses_last_results: true, ..Faults::default() });
    scene.submit(0..count).await;
    // The server has nothing to say of them, for ever.
    let (tally, duplicates) = scene.finish(count).await;
    assert!(tally.lost > 0 && duplicates > 0, "none was sent together with others");
    assert!(scene.worker.process.log().contains("they are sent one by one"), "silence changed nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_link_has_nothing_delivered_again() {
    let mut scene = Scene::start("chaos_network, 200 ms each way").await;
    let count = scene.chaos.scale(5000, 50_000);
    scene.proxy.inject(Faults { latency: Duration::from_millis(200), ..Faults::default() });
    scene.submit(0..count).await;
    scene.finish(count).await;
    let took = scene.chaos.elapsed();
    assert_eq!(scene.worker.count("received"), count as u64, "jobs were delivered again");
    assert!(took >= Duration::from_millis(1200), "three ways through the proxy in {took:?}: there was no latency");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_cut_at_random_bytes_lose_and_double_nothing() {
    let mut scene = Scene::start("chaos_network, 5 % cut").await;
    let count = scene.chaos.scale(5000, 50_000);
    scene.proxy.inject(Faults { cut_share: 0.05, ..Faults::default() });
    scene.submit(0..count).await;
    let (tally, _) = scene.finish(count).await;
    assert!(tally.cuts > 0, "no connection was cut");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_black_hole_is_survived_whether_its_bytes_come_late_or_never() {
    let mut scene = Scene::start("chaos_network, black hole").await;
    let (slice, length) = scene.chaos.scale((2000, 8), (20_000, 30));
    for (round, is_cut) in [false, true].into_iter().enumerate() {
        scene.submit(2 * round * slice..(2 * round + 1) * slice).await;
        scene.proxy.inject(Faults { is_black_hole: true, ..Faults::default() });
        // Jobs wait behind it, too.
        scene.submit((2 * round + 1) * slice..2 * (round + 1) * slice).await;
        tokio::time::sleep(Duration::from_secs(length)).await;
        assert!(scene.jobs.stored_count("INFER_JOBS").await >= slice as u64, "the hole was not black");
        if is_cut {
            scene.proxy.cut_all();
        }
        scene.assert_resumes(if is_cut { "cut" } else { "late" }).await;
    }
    let (tally, _) = scene.finish(4 * slice).await;
    assert!(tally.cuts > 0);
}
