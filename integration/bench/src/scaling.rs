//! What does not compare with anybody: start, memory, several models, several workers, batches at part of the load, and how
//! long an engine waits while there are jobs.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use gristmill_integration::{Jobs, Nats, Process, Worker, WorkerBuilder, binary, median, run};
use gristmill_schemas::metric;
use tempfile::TempDir;

use crate::run::reaches;
use crate::workload::Workload;

/// Runs of each, of which the median counts.
const REPEATS: usize = 5;

/// Jobs of a run, of all models together.
const JOBS: usize = 60_000;

/// Prints all of it.
#[allow(clippy::print_stdout, reason = "a bench prints")]
pub async fn print(rounds: usize) {
    start();
    let mut highest = 0.0f64;
    for models in [1, 2, 4, 8] {
        let runs = repeat(rounds, || serve(models, 1)).await;
        highest = highest.max(median(runs.iter().map(|run| run.rate)));
        tell(&format!("{models} models, 1 worker"), &runs);
    }
    for workers in [2, 4] {
        let runs = repeat(rounds, || serve(1, workers)).await;
        tell(&format!("1 model, {workers} workers"), &runs);
    }
    for part in [0.1, 0.5] {
        load(part, highest * part).await;
    }
    for workload in [Workload::Image, Workload::Encoder] {
        idle(workload).await;
    }
}

async fn repeat<F: Future<Output = Served>>(rounds: usize, measure: impl Fn() -> F) -> Vec<Served> {
    let mut runs = Vec::new();
    for _ in 0..rounds {
        runs.push(measure().await);
    }
    runs
}

/// What a run with several models or workers came to.
struct Served {
    /// Jobs per second, between a tenth and nineteen twentieths of them.
    rate: f64,
    /// Jobs in a batch, on average.
    batch: f64,
    /// Most resident memory of a worker, in MiB.
    peak_mib: f64,
}

#[allow(clippy::print_stdout, reason = "a bench prints")]
fn tell(what: &str, runs: &[Served]) {
    let of = |field: fn(&Served) -> f64| median(runs.iter().map(field));
    let [rate, batch, peak] = [of(|run| run.rate), of(|run| run.batch), of(|run| run.peak_mib)];
    println!("{what:<22} {rate:>8.0} jobs/s, {batch:>5.1} jobs a batch, at most {peak:.0} MiB a worker");
}

/// From the start of the process to its readiness, and what it then has in memory beside libtorch: against a process that
/// loads libtorch and ends.
#[allow(clippy::print_stdout, reason = "a bench prints")]
fn start() {
    let nats = Nats::start();
    set_up(&nats, &["mlp".into()]);
    let mut times = Vec::new();
    let mut memory = Vec::new();
    for _ in 0..REPEATS {
        let began = Instant::now();
        let worker = WorkerBuilder::with_packages(&nats.url(), &[Workload::Mlp.package()]).launch();
        while worker.get("/readyz").is_none_or(|(code, _)| code != 200) {
            std::thread::sleep(Duration::from_millis(2));
        }
        times.push(began.elapsed().as_secs_f64());
        memory.push(worker.process.rss() as f64);
    }
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    let (ready, libtorch) = (median(memory), libtorch());
    println!("start to ready {:.2} s (median of {REPEATS})", median(times));
    println!("memory when ready {:.0} MiB, {:.0} MiB of it libtorch's own", mib(ready), mib(libtorch));
}

/// Resident memory of a process that has loaded libtorch and done nothing with it, seen just before its end.
fn libtorch() -> f64 {
    let mut command = Command::new(binary("gristmill-worker"));
    command.arg("--version");
    let mut process = Process::start("libtorch", command);
    let mut most = 0;
    while process.ended().is_none() {
        most = most.max(process.rss());
    }
    most as f64
}

fn set_up(nats: &Nats, models: &[String]) {
    for model in models {
        nats.set_up(&["--model", model]);
    }
}

/// The package of the workload `mlp` under other names.
fn packages(names: &[String]) -> TempDir {
    let dir = TempDir::new().expect("a temporary directory can be made");
    let package = Workload::Mlp.package().join("1");
    let manifest = std::fs::read_to_string(package.join("model.toml")).expect("the package was built");
    for name in names {
        let copy = dir.path().join(name).join("1");
        std::fs::create_dir_all(&copy).expect("a directory can be made");
        let manifest = manifest.replace("name = \"mlp\"", &format!("name = {name:?}"));
        std::fs::write(copy.join("model.toml"), manifest).expect("it can be written");
        link(&package.join("model.pt"), &copy.join("model.pt"));
    }
    dir
}

fn link(from: &Path, to: &Path) {
    std::os::unix::fs::symlink(from, to).expect("a link can be made in a fresh directory");
}

/// A backlog spread evenly over the models, on so many workers.
async fn serve(models: usize, workers: usize) -> Served {
    let names: Vec<String> = (0..models).map(|model| format!("mlp-{model}")).collect();
    let nats = Nats::start();
    set_up(&nats, &names);
    let sender = Jobs::new(nats.jetstream().await);
    for (model, name) in names.iter().enumerate() {
        let jobs = (model..JOBS).step_by(models).map(|id| (id.to_string(), Workload::Mlp.body(id)));
        sender.submit_all(&format!("infer.jobs.{name}.online"), jobs).await;
    }
    let start = |_| WorkerBuilder::with_dir(&nats.url(), packages(&names)).launch();
    let running: Vec<Worker> = (0..workers).map(start).collect();
    let (had, from) = (reaches(&sender, JOBS / 10).await, Instant::now());
    let (done, to) = (reaches(&sender, JOBS - JOBS / 20).await, Instant::now());
    let sum = |name| running.iter().map(|worker| worker.count(name)).sum::<u64>() as f64;
    let batch = sum("batch_jobs") / sum("batches");
    let peak = running.iter().map(|worker| worker.process.peak_rss()).max().unwrap_or(0);
    let rate = (done - had) as f64 / (to - from).as_secs_f64();
    Served { rate, batch, peak_mib: peak as f64 / f64::from(1 << 20) }
}

/// Seconds in which the engine ran batches.
fn busy(worker: &Worker) -> f64 {
    worker.metric(&metric::ENGINE_BUSY_TIME.prometheus(), "")
}

/// Batches under part of the highest load, by Poisson arrivals.
#[allow(clippy::print_stdout, reason = "a bench prints")]
async fn load(part: f64, rate: f64) {
    let nats = Nats::start();
    set_up(&nats, &["mlp".into()]);
    let worker = WorkerBuilder::with_packages(&nats.url(), &[Workload::Mlp.package()]).start();
    let body = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    std::fs::write(body.path(), Workload::Mlp.body(0)).expect("it can be written to");
    let (url, body, rate) = (nats.url(), body.path().display().to_string(), format!("{rate:.0}"));
    let args = ["--nats", &url, "bench", "mlp", "--raw", &body, "--rate", &rate, "--json-output", "--seconds", "10"];
    let busy = || (busy(&worker), Instant::now());
    let (before, from) = busy();
    let ended = run(&binary("gristmill"), &args, &[]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    let (after, to) = busy();
    let idle = 1.0 - (after - before) / (to - from).as_secs_f64();
    let batch = worker.count("batch_jobs") as f64 / worker.count("batches") as f64;
    println!(
        "{:.0} % load ({rate} jobs/s)   {batch:.1} jobs a batch, of 256; engine idle for {:.0} % of the time",
        part * 100.0,
        idle * 100.0
    );
}

/// How much of the time its engine was idle while jobs waited for it: a backlog of a workload that is nothing but computing.
#[allow(clippy::print_stdout, reason = "a bench prints")]
async fn idle(workload: Workload) {
    let jobs = workload.size().jobs;
    let nats = Nats::start();
    set_up(&nats, &[workload.model().into()]);
    let sender = Jobs::new(nats.jetstream().await);
    let subject = format!("infer.jobs.{}.online", workload.model());
    sender.submit_all(&subject, (0..jobs).map(|id| (id.to_string(), workload.body(id)))).await;
    let worker = WorkerBuilder::with_packages(&nats.url(), &[workload.package()]).start();
    let sample = async |count| {
        reaches(&sender, count).await;
        (busy(&worker), Instant::now())
    };
    let (busy, from) = sample(jobs / 10).await;
    let (busy_then, to) = sample(jobs * 9 / 10).await;
    let idle = 1.0 - (busy_then - busy) / (to - from).as_secs_f64();
    println!("{:<22} engine idle for {:.1} % of the time while jobs waited", workload.name(), idle * 100.0);
}
