use std::time::{Duration, Instant};

use crate::{Jobs, Mlp, Nats, Worker, WorkerBuilder};

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
        let stream = backlog.sender.stream("INFER_RESULTS").await;
        let state = &stream.cached_info().state;
        let seconds = (state.last_timestamp - state.first_timestamp).as_seconds_f64();
        (Self { rate: jobs as f64 / seconds, cpu }, worker, backlog.nats)
    }

    /// One worker as a ratio of another, each with a broker and a backlog of its own. Both live at the same time and take turns of
    /// a tenth of a second, the other held still: what else the machine does falls on both alike, and neither takes time from the
    /// other. Runs one after the other, at the same time, or on a core each all differ by more than a few percent of themselves.
    /// `swapped`: the other starts first.
    ///
    /// # Panics
    /// If anything fails.
    pub async fn ratio(jobs: usize, mlp: &Mlp, mut configure: [Configure<'_>; 2], swapped: bool) -> Self {
        if swapped {
            configure.swap(0, 1);
        }
        let mut sides = Vec::new();
        for configure in configure {
            sides.push(Side::start(Backlog::store(jobs, mlp).await, configure));
        }
        for side in &mut sides {
            side.backlog.reaches(jobs / 10).await;
            side.mark().await;
            side.signal("STOP");
        }
        let mut rates = Vec::new();
        while sides.iter().all(|side| side.done < jobs * 19 / 20) {
            // One, other, other, one: a drift favours none.
            let mut turns = [0.0; 2];
            for side in [0, 1, 1, 0] {
                turns[side] += sides[side].runs(TURN).await;
            }
            rates.push(turns[0] / turns[1]);
        }
        for side in &sides {
            side.signal("CONT");
        }
        // Of the four turns in the middle: what the machine does for a moment falls on a few of them only.
        let (rate, cpu) = (median(rates), sides[0].cpu() / sides[1].cpu());
        if swapped { Self { rate: 1.0 / rate, cpu: 1.0 / cpu } } else { Self { rate, cpu } }
    }
}

/// How long one of two workers runs before the other does.
const TURN: Duration = Duration::from_millis(100);

/// One of two workers that take turns.
struct Side {
    backlog: Backlog,
    worker: Worker,
    /// Jobs done and processor time used before the first turn.
    before: (usize, f64),
    /// Jobs done.
    done: usize,
}

impl Side {
    fn start(backlog: Backlog, configure: Configure<'_>) -> Self {
        let worker = configure(WorkerBuilder::new(&backlog.nats, &["mlp"])).launch();
        Self { backlog, worker, before: (0, 0.0), done: 0 }
    }

    async fn mark(&mut self) {
        self.done = self.backlog.done().await;
        self.before = (self.done, self.worker.process.cpu_seconds());
    }

    /// Jobs per second in one turn.
    async fn runs(&mut self, time: Duration) -> f64 {
        let (began, had) = (Instant::now(), self.done);
        self.signal("CONT");
        tokio::time::sleep(time).await;
        self.done = self.backlog.done().await;
        self.signal("STOP");
        (self.done - had) as f64 / began.elapsed().as_secs_f64()
    }

    /// To the broker as well: its work for a worker that is held still would fall on the other's turn.
    fn signal(&self, name: &str) {
        self.worker.process.signal(name);
        self.backlog.nats.process().signal(name);
    }

    /// Processor time per job.
    fn cpu(&self) -> f64 {
        (self.worker.process.cpu_seconds() - self.before.1) / (self.done - self.before.0) as f64
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
        nats.set_up(&["--model", "mlp"]);
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

/// The middle one; of an even number, halfway between the two in the middle: either of them alone would lean to its side.
///
/// # Panics
/// If there is none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let above = values.len() / 2;
    values[above].midpoint(values[(values.len() - 1) / 2])
}
