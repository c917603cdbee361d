use std::time::{Duration, Instant};

use crate::{Jobs, Mlp, Nats, Worker, WorkerBuilder, binary, run};

/// What a run of the main job at full speed came to.
#[derive(Debug, Clone, Copy)]
pub struct Speed {
    /// Stored results per second, between the first and the last of them, by the server's own timestamps.
    pub rate: f64,
    /// Processor time of the worker, in microseconds per job.
    pub cpu: f64,
}

/// Makes a worker what it is to be measured as.
pub type Configure<'a> = &'a dyn Fn(WorkerBuilder) -> WorkerBuilder;

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
        let backlog = Backlog::store(jobs, mlp).await;
        let worker = configure(WorkerBuilder::new(&backlog.nats, &["mlp"])).start();
        backlog.reaches(jobs).await;
        let cpu = worker.process.cpu_seconds() * 1e6 / jobs as f64;
        let stream = backlog.sender.context.get_stream("INFER_RESULTS").await.expect("the stream is there");
        let state = &stream.cached_info().state;
        let seconds = (state.last_timestamp - state.first_timestamp).as_seconds_f64();
        (Self { rate: jobs as f64 / seconds, cpu }, worker, backlog.nats)
    }

    /// One worker as a ratio of another that runs at the same time, each with a broker and a backlog of its own: what else the
    /// machine does meanwhile falls on both alike. Measured twice, the second time in the other order, since the first to start
    /// is in a slightly other position; the geometric mean of both.
    ///
    /// # Panics
    /// If anything fails.
    pub async fn ratio(jobs: usize, mlp: &Mlp, [one, other]: [Configure<'_>; 2]) -> Self {
        let [one_first, other_second] = Self::of_pair(jobs, mlp, [one, other]).await;
        let [other_first, one_second] = Self::of_pair(jobs, mlp, [other, one]).await;
        let ratio =
            |of: fn(&Self) -> f64| (of(&one_first) / of(&other_second) * of(&one_second) / of(&other_first)).sqrt();
        Self { rate: ratio(|speed| speed.rate), cpu: ratio(|speed| speed.cpu) }
    }

    /// Two at the same time, measured while both are at work.
    async fn of_pair(jobs: usize, mlp: &Mlp, configure: [Configure<'_>; 2]) -> [Self; 2] {
        let backlogs = [Backlog::store(jobs, mlp).await, Backlog::store(jobs, mlp).await];
        let mut backlog = backlogs.iter();
        // Launched both before either is waited for.
        let workers = configure.map(|configure| {
            let nats = &backlog.next().expect("one for each").nats;
            configure(WorkerBuilder::new(nats, &["mlp"])).launch()
        });
        let marks = async || {
            let [mut a, mut b] = [(0, 0.0), (0, 0.0)];
            for (mark, (backlog, worker)) in [&mut a, &mut b].into_iter().zip(backlogs.iter().zip(&workers)) {
                *mark = (backlog.done().await, worker.process.cpu_seconds());
            }
            ([a, b], Instant::now())
        };
        for backlog in &backlogs {
            backlog.reaches(jobs / 10).await;
        }
        let (before, began) = marks().await;
        tokio::select! {
            () = backlogs[0].reaches(jobs * 19 / 20) => {}
            () = backlogs[1].reaches(jobs * 19 / 20) => {}
        }
        let (after, ended) = marks().await;
        let seconds = (ended - began).as_secs_f64();
        [0, 1].map(|i| {
            let ((done, cpu), (had, had_cpu)) = (after[i], before[i]);
            let done = (done - had) as f64;
            Self { rate: done / seconds, cpu: (cpu - had_cpu) * 1e6 / done }
        })
    }
}

/// A broker with jobs that wait.
struct Backlog {
    nats: Nats,
    sender: Jobs,
}

impl Backlog {
    async fn store(jobs: usize, mlp: &Mlp) -> Self {
        let nats = Nats::start();
        let set_up = run(&binary("gristmill"), &["--nats", &nats.url(), "setup", "--model", "mlp"], &[]);
        assert_eq!(set_up.code, 0, "{}", set_up.err);
        let sender = Jobs::new(nats.jetstream().await);
        sender.submit_all("infer.jobs.mlp.online", (0..jobs).map(|id| mlp.job(id))).await;
        Self { nats, sender }
    }

    async fn done(&self) -> usize {
        self.sender.stored_count("INFER_RESULTS").await as usize
    }

    async fn reaches(&self, count: usize) {
        while self.done().await < count {
            // Asked rarely: asking costs, too.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Speed {
    /// The middle one of each of the two numbers.
    pub fn median(speeds: &[Self]) -> Self {
        Self { rate: median(speeds.iter().map(|s| s.rate)), cpu: median(speeds.iter().map(|s| s.cpu)) }
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
