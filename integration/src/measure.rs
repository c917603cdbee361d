use std::time::Duration;

use crate::{Jobs, Mlp, Nats, Worker, WorkerBuilder, binary, run};

/// What a run of the main job at full speed came to.
#[derive(Debug, Clone, Copy)]
pub struct Speed {
    /// Stored results per second, between the first and the last of them, by the server's own timestamps.
    pub rate: f64,
    /// Processor time of the worker, in microseconds per job.
    pub cpu: f64,
}

/// Sums of two runs.
impl std::ops::Add for Speed {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { rate: self.rate + other.rate, cpu: self.cpu + other.cpu }
    }
}

impl Speed {
    /// Has a worker answer so many jobs of the test model `mlp` that are stored before it starts: only broker and worker
    /// compete for the cores. Returns the worker, still running, too.
    ///
    /// # Panics
    /// If anything fails.
    pub async fn of_backlog(
        jobs: usize,
        mlp: &Mlp,
        configure: impl FnOnce(WorkerBuilder) -> WorkerBuilder,
    ) -> (Self, Worker, Nats) {
        let nats = Nats::start();
        let set_up = run(&binary("gristmill"), &["--nats", &nats.url(), "setup", "--model", "mlp"], &[]);
        assert_eq!(set_up.code, 0, "{}", set_up.err);
        let sender = Jobs::new(nats.jetstream().await);
        sender.submit_all("infer.jobs.mlp.online", (0..jobs).map(|id| mlp.job(id))).await;
        let worker = configure(WorkerBuilder::new(&nats, &["mlp"])).start();
        while sender.stored_count("INFER_RESULTS").await < jobs as u64 {
            // Asked rarely: asking costs, too.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let cpu = worker.process.cpu_seconds() * 1e6 / jobs as f64;
        let stream = sender.context.get_stream("INFER_RESULTS").await.expect("the stream is there");
        let state = &stream.cached_info().state;
        let seconds = (state.last_timestamp - state.first_timestamp).as_seconds_f64();
        (Self { rate: jobs as f64 / seconds, cpu }, worker, nats)
    }
}

/// The middle one.
///
/// # Panics
/// If there is none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
