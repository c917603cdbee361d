//! Throughput of the main job on this machine: 100,000 one-row jobs of the 64-float MLP, broker, worker and submitter on
//! the same cores, file storage.
//!
//! `backlog`: all jobs are stored before the worker starts; only broker and worker compete for the cores.
//! `live`: jobs are submitted while the worker runs; the submitter competes, too.
//!
//! The rate is that of stored results, between the first and the last of them, by the server's own timestamps.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints, and stops at what it does not expect")]

use std::time::Duration;

use gristmill_integration::{Jobs, Nats, Worker, WorkerBuilder, samples};

const JOBS: usize = 100_000;
const REPEATS: usize = 3;

struct Sample {
    jobs_per_second: f64,
    rss_mib: [f64; 2],
    mean_batch: f64,
    cpu_us_per_job: f64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let rows = samples("x");
    println!("{JOBS} jobs, {REPEATS} runs each, medians; resident memory after a fifth of the jobs and at the end");
    println!("{:<8} {:>10} {:>16} {:>12} {:>14}", "", "jobs/s", "RSS MiB", "mean batch", "CPU us/job");
    for name in ["backlog", "live"] {
        let mut samples = Vec::new();
        for _ in 0..REPEATS {
            samples.push(measure(&rows, name == "live").await);
        }
        samples.sort_by(|a, b| a.jobs_per_second.total_cmp(&b.jobs_per_second));
        let Sample { jobs_per_second, rss_mib: [early, late], mean_batch, cpu_us_per_job } = &samples[REPEATS / 2];
        let rss = format!("{early:.0} -> {late:.0}");
        println!("{name:<8} {jobs_per_second:>10.0} {rss:>16} {mean_batch:>12.1} {cpu_us_per_job:>14.1}");
        let all: Vec<String> = samples.iter().map(|sample| format!("{:.0}", sample.jobs_per_second)).collect();
        println!("         runs: {} jobs/s", all.join(", "));
    }
}

async fn measure(rows: &[f32], live: bool) -> Sample {
    let nats = Nats::start();
    nats.set_up(&["--model", "mlp"]);
    let jobs = Jobs::new(nats.jetstream().await);
    let bodies = (0..JOBS).map(|row| (row.to_string(), Jobs::body("x", &[1, 64], &rows[row * 64..][..64])));
    let worker = if live {
        let worker = WorkerBuilder::new(&nats, &["mlp"]).start();
        jobs.submit_all("infer.jobs.mlp.online", bodies).await;
        worker
    } else {
        jobs.submit_all("infer.jobs.mlp.online", bodies).await;
        WorkerBuilder::new(&nats, &["mlp"]).start()
    };
    let early = watch(&jobs, &worker).await;
    let stream = jobs.context.get_stream("INFER_RESULTS").await.unwrap();
    let state = &stream.cached_info().state;
    assert_eq!(state.messages, JOBS as u64);
    let seconds = (state.last_timestamp - state.first_timestamp).as_seconds_f64();
    Sample {
        jobs_per_second: JOBS as f64 / seconds,
        rss_mib: [early, worker.process.rss() as f64].map(|bytes| bytes / f64::from(1 << 20)),
        mean_batch: worker.count("batch_jobs") as f64 / worker.count("batches") as f64,
        cpu_us_per_job: worker.process.cpu_seconds() * 1e6 / JOBS as f64,
    }
}

/// Waits until all is answered; returns the resident memory once a fifth was. Asks rarely: asking costs, too.
async fn watch(jobs: &Jobs, worker: &Worker) -> f64 {
    let mut early = None;
    loop {
        let stored = jobs.stored_count("INFER_RESULTS").await;
        if stored >= JOBS as u64 / 5 {
            early.get_or_insert_with(|| worker.process.rss());
        }
        if stored == JOBS as u64 {
            return early.unwrap_or(0) as f64;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
