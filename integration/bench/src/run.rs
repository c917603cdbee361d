//! One contestant against one backlog of jobs.

use std::process::Command;
use std::time::{Duration, Instant};

use gristmill_integration::{Collector, Jobs, Nats, Process, Worker, WorkerBuilder, binary, root, run};
use gristmill_schemas::metric;
use serde::{Deserialize, Serialize};

use crate::http;
use crate::workload::Workload;

/// Who takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Contestant {
    /// Pulls, publishes and acknowledges; no decode, no model.
    Relay,
    /// The same, with all the headers of a result.
    Headed,
    /// libtorch alone, fed from memory in the best batches.
    Raw,
    /// A good worker in Python, `python/worker.py`.
    Python,
    /// mosec over HTTP, `python/mosec_server.py`: nothing is stored.
    Mosec,
    /// Gristmill with its defaults and 1 % of the jobs recorded.
    Gristmill,
}

/// What a run came to.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Figures {
    /// Rows per second.
    pub rows_per_s: f64,
    /// Processor time of the contestant, in microseconds per row.
    pub cpu_us: f64,
    /// Likewise of the broker; 0 where there is none.
    pub broker_us: f64,
    /// Most resident memory of the contestant, in MiB.
    pub peak_mib: f64,
    /// Of Gristmill's batches.
    #[serde(default)]
    pub batches: Option<Batches>,
}

/// What Gristmill's batches were like.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Batches {
    /// Rows, on average.
    pub rows: f64,
    /// Part of the input elements that was filled in.
    pub padding: f64,
}

/// Whatever a contestant runs as.
pub enum Running {
    Process(Process),
    Worker(Worker),
}

impl Running {
    fn process(&self) -> &Process {
        match self {
            Self::Process(process) => process,
            Self::Worker(worker) => &worker.process,
        }
    }

    fn batches(&self) -> Option<Batches> {
        let Self::Worker(worker) = self else { return None };
        let elements = |kind| worker.metric(&metric::BATCH_ELEMENTS.prometheus(), kind);
        let [real, padding] = ["\"real\"", "\"padding\""].map(elements);
        let rows = worker.count("batch_rows") as f64 / worker.count("batches") as f64;
        Some(Batches { rows, padding: padding / (real + padding) })
    }
}

impl Contestant {
    /// Whether it can: mosec has nothing that fills rows up to the same length.
    pub fn takes(self, workload: Workload) -> bool {
        self != Self::Mosec || workload != Workload::Encoder
    }

    /// As in tables.
    pub fn name(self) -> &'static str {
        ["relay", "headed relay", "raw libtorch", "Python worker", "mosec", "gristmill"][self as usize]
    }

    /// Runs the workload once. Measured between a tenth of the jobs and the last but a twentieth: neither the start nor the
    /// end of a run counts.
    pub async fn measure(self, workload: Workload, collector: &Collector) -> Figures {
        match self {
            Self::Raw => return raw(workload),
            Self::Mosec => return http::measure(workload).await,
            Self::Relay | Self::Headed | Self::Python | Self::Gristmill => {}
        }
        let size = workload.size();
        let jobs = if self == Self::Python { size.jobs / 5 } else { size.jobs };
        let nats = Nats::start();
        nats.set_up(&["--model", workload.model()]);
        let sender = Jobs::new(nats.jetstream().await);
        let subject = format!("infer.jobs.{}.online", workload.model());
        sender.submit_all(&subject, (0..jobs).map(|id| (id.to_string(), workload.body(id)))).await;
        let running = self.start(workload, &nats, collector);
        let sample = async |count| {
            let done = reaches(&sender, count).await;
            let processes = [running.process(), nats.process()].map(Process::cpu_seconds);
            (done as f64, Instant::now(), processes)
        };
        let (had, from, before) = sample(jobs / 10).await;
        let (done, to, after) = sample(jobs - jobs / 20).await;
        let rows = (done - had) * size.rows as f64;
        let [cpu_us, broker_us] = [0, 1].map(|i| (after[i] - before[i]) * 1e6 / rows);
        let peak_mib = running.process().peak_rss() as f64 / f64::from(1 << 20);
        let batches = running.batches();
        Figures { rows_per_s: rows / (to - from).as_secs_f64(), cpu_us, broker_us, peak_mib, batches }
    }

    pub fn start(self, workload: Workload, nats: &Nats, collector: &Collector) -> Running {
        let python = |script: &str| {
            let mut command = Command::new(root().join(".venv/bin/python"));
            command.arg(root().join("integration/bench/python").join(script));
            command
        };
        match self {
            Self::Relay | Self::Headed => {
                let mut command = Command::new(binary("relay"));
                command.args([&nats.url(), workload.model()]).args((self == Self::Headed).then_some("--headers"));
                Running::Process(Process::start("relay", command))
            }
            Self::Python => {
                let mut command = python("worker.py");
                command.arg(nats.url()).arg(workload.package().join("1")).arg(workload.model());
                command.arg(workload.size().python_batch.to_string());
                Running::Process(Process::start("Python worker", command))
            }
            _ => {
                let worker = WorkerBuilder::with_packages(&nats.url(), &[workload.package()]);
                let worker = worker.exporting("grpc", &collector.grpc_endpoint());
                let worker = worker.env("OTEL_TRACES_SAMPLER", "traceidratio").env("OTEL_TRACES_SAMPLER_ARG", "0.01");
                Running::Worker(worker.launch())
            }
        }
    }
}

/// Waits until so many results are stored; returns how many there are then.
pub async fn reaches(sender: &Jobs, count: usize) -> u64 {
    loop {
        let done = sender.stored_count("INFER_RESULTS").await;
        if done >= count as u64 {
            return done;
        }
        // Asked rarely: asking costs, too.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[derive(Deserialize)]
struct Raw {
    rows_per_s: f64,
    cpu_us: f64,
    peak_mib: f64,
}

fn raw(workload: Workload) -> Figures {
    let script = root().join("integration/bench/python/raw.py").display().to_string();
    let package = workload.package().join("1").display().to_string();
    let rows = workload.size().best_rows.to_string();
    let ended = run(&root().join(".venv/bin/python"), &[&script, &package, workload.name(), &rows, "4"], &[]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    let Raw { rows_per_s, cpu_us, peak_mib } = serde_json::from_slice(&ended.out).expect("raw.py prints JSON");
    Figures { rows_per_s, cpu_us, broker_us: 0.0, peak_mib, batches: None }
}
