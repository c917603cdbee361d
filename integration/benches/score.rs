//! Bulk scoring beside a loop that needs no queue, and online jobs beside bulk scoring. Prints medians and ratios; asserts nothing.
//!
//! `cargo bench -p gristmill-integration --bench score -- [rounds]`

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench may panic and prints")]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use gristmill_integration::{Nats, Process, Worker, WorkerBuilder, binary, median, root, run};
use serde_json::Value;
use tempfile::TempDir;

/// Online jobs a second.
const RATE: &str = "500";

struct Scene {
    nats: Nats,
    worker: Worker,
    dir: TempDir,
    /// Further arguments of the scorer.
    more: Vec<String>,
}

impl Scene {
    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// A file of so many times 100,000 rows of 64 floats.
    fn input(&self, times: usize) -> String {
        let path = self.path(&format!("{times}.parquet"));
        let write = "import sys, pyarrow as pa, pyarrow.parquet as pq\n\
            t = pq.read_table(sys.argv[1]); n = int(sys.argv[3])\n\
            w = pq.ParquetWriter(sys.argv[2], t.schema)\n\
            [w.write_table(t) for _ in range(n)]; w.close()";
        let given = root().join("target/models/rows/mlp.parquet").display().to_string();
        python(&["-c", write, &given, &path, &times.to_string()]);
        path
    }

    fn scorer(&self, input: &str, output: &str) -> Command {
        let mut command = Command::new(binary("gristmill"));
        command.args([
            "--nats",
            &self.nats.url(),
            "score",
            "--model",
            "mlp",
            "--keep",
            "id",
            "--json",
            "--interval",
            "0",
        ]);
        command.args(["--restart", "--input", input, "--output", output]).args(&self.more);
        command
    }

    /// Rows a second and the scorer's peak memory in MB.
    fn score(&self, input: &str) -> (f64, f64) {
        let output = self.path("scored.parquet");
        let of_others = || [self.worker.process.cpu_seconds(), self.nats.process().cpu_seconds()];
        let before = of_others();
        let mut process = Process::start("scorer", self.scorer(input, &output));
        let (mut peak, mut cpu) = (0, 0.0f64);
        while process.ended().is_none() {
            (peak, cpu) = (peak.max(process.peak_rss()), cpu.max(process.cpu_seconds()));
            std::thread::sleep(Duration::from_millis(20));
        }
        let [worker, broker] = of_others();
        let (worker, broker) = (worker - before[0], broker - before[1]);
        println!("    CPU seconds: scorer {cpu:.1}, worker {worker:.1}, broker {broker:.1}");
        let log = process.log();
        let summary: Value = serde_json::from_str(&log[log.find('{').unwrap()..]).unwrap();
        assert_eq!(summary["errors"], 0);
        (summary["rows_per_second"].as_f64().unwrap(), peak as f64 / 1e6)
    }

    /// P50 and P99 of online jobs, in milliseconds.
    fn online(&self, seconds: &str) -> [f64; 2] {
        let npy = root().join("target/models/samples/row.npy").display().to_string();
        let url = self.nats.url();
        let args = ["--nats", &url, "bench", "mlp", "--npy", &format!("x={npy}"), "--rate", RATE];
        let more = ["--seconds", seconds, "--warm-up", "0.5", "--json-output"];
        let ended = run(&binary("gristmill"), &[&args[..], &more].concat(), &[]);
        let figures: Value = serde_json::from_slice(&ended.out).unwrap_or_else(|_| panic!("{}", ended.err));
        let figures = figures.as_array().map_or(&figures, |all| &all[0]);
        ["p50", "p99"].map(|name| figures[name].as_f64().unwrap())
    }

    /// Rows of the run that goes on which have an answer.
    fn answered(&self) -> u64 {
        let status = run(&binary("gristmill"), &["--nats", &self.nats.url(), "score", "status"], &[]);
        let status: Value = serde_json::from_slice(&status.out).unwrap();
        status[0]["answered"].as_u64().unwrap()
    }
}

fn python(args: &[&str]) -> String {
    let ended = run(&root().join(".venv/bin/python"), args, &[]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    ended.text()
}

fn alone(scene: &Scene) -> f64 {
    let script = root().join("integration/bench/python/score_loop.py").display().to_string();
    let model = root().join("target/models/packages/mlp/1/model.pt").display().to_string();
    let told = python(&["-W", "ignore", &script, &model, &scene.path("10.parquet"), &scene.path("loop.parquet")]);
    serde_json::from_str::<Value>(&told).unwrap()["rows_per_second"].as_f64().unwrap()
}

fn against_a_loop(scene: &Scene, rounds: usize) {
    let (one, four) = (scene.input(10), scene.input(40));
    let (mut rates, mut loops, mut peaks) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        // What comes first in one round comes last in the next.
        let first = if round % 2 == 0 { Some(alone(scene)) } else { None };
        let (rate, peak) = scene.score(&one);
        let rate_alone = first.unwrap_or_else(|| alone(scene));
        println!(
            "round {round}: {rate:.0} rows/s, loop {rate_alone:.0}, ratio {:.3}, peak {peak:.0} MB",
            rate / rate_alone
        );
        rates.push(rate);
        loops.push(rate_alone);
        peaks.push(peak);
    }
    let ratio = median(rates.iter().zip(&loops).map(|(rate, alone)| rate / alone));
    let (rate, alone, peak) = (median(rates), median(loops), median(peaks));
    println!("1,000,000 rows x 64 floats: {rate:.0} rows/s, loop {alone:.0}, ratio {ratio:.3}, peak {peak:.0} MB");
    let (rate, peak) = scene.score(&four);
    println!("4,000,000 rows: {rate:.0} rows/s, peak {peak:.0} MB");
}

/// Turns of two seconds with and without a bulk run: what else the machine does falls on both alike.
fn beside_online(scene: &Scene, rounds: usize) {
    let input = scene.input(40);
    let (mut calm, mut busy, mut rows) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds * 3 {
        calm.push(scene.online("2"));
        let process = Process::start("bulk", scene.scorer(&input, &scene.path("bulk.parquet")));
        std::thread::sleep(Duration::from_millis(1000));
        let (began, before) = (Instant::now(), scene.answered());
        busy.push(scene.online("2"));
        rows.push((scene.answered() - before) as f64 / began.elapsed().as_secs_f64());
        process.signal("INT");
        drop(process);
        std::thread::sleep(Duration::from_millis(500));
        let (calm, busy) = (calm[calm.len() - 1], busy[busy.len() - 1]);
        println!("online P50, P99: {:.2}, {:.2} ms; beside bulk {:.2}, {:.2} ms", calm[0], calm[1], busy[0], busy[1]);
    }
    for (name, at) in [("P50", 0), ("P99", 1)] {
        let [calm, busy] = [&calm, &busy].map(|all| median(all.iter().map(|one| one[at])));
        println!("{RATE} online jobs/s, {name}: {calm:.2} ms, beside bulk {busy:.2} ms, ratio {:.2}", busy / calm);
    }
    println!("bulk meanwhile: {:.0} rows/s", median(rows));
}

/// Rows a second of a bulk run while more online jobs wait than can be served.
fn below_online(scene: &Scene) {
    let (input, output) = (scene.input(2), scene.path("below.parquet"));
    let url = scene.nats.url();
    let npy = root().join("target/models/samples/row.npy").display().to_string();
    let mut flood = Command::new(binary("gristmill"));
    flood.args(["--nats", &url, "bench", "mlp", "--npy", &format!("x={npy}"), "--rate", "60000", "--seconds", "20"]);
    let flood = Process::start("flood", flood);
    std::thread::sleep(Duration::from_secs(2));
    let mut bulk = Process::start("bulk", scene.scorer(&input, &output));
    std::thread::sleep(Duration::from_secs(6));
    let (rows, ended) = (scene.answered(), bulk.ended().is_some());
    println!("bulk while online jobs flood: {rows} rows in 6 s{}", if ended { " (ended)" } else { "" });
    drop((flood, bulk));
}

/// Arguments: rounds; `online` for that part alone; all others are the scorer's.
fn main() {
    let (mut rounds, mut is_whole, mut more) = (5, true, Vec::new());
    for arg in std::env::args().skip(1).filter(|arg| arg != "--bench") {
        match arg.parse() {
            Ok(number) if more.is_empty() => rounds = number,
            Err(_) if arg == "online" => is_whole = false,
            _ => more.push(arg),
        }
    }
    let nats = Nats::start();
    let worker = WorkerBuilder::new(&nats, &["mlp"]).start();
    let scene = Scene { nats, worker, dir: TempDir::new().unwrap(), more };
    assert!(Path::new(&root().join("target/models/samples/row.npy")).exists(), "make models");
    if is_whole {
        against_a_loop(&scene, rounds);
    }
    beside_online(&scene, rounds);
    if is_whole {
        below_online(&scene);
    }
}
