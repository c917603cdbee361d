//! `gristmill top` against a real broker. Workers are stood in for by small responders on the status subject, so that every
//! number is known beforehand.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use async_nats::Client;
use futures_util::StreamExt;
use gristmill_integration::{Ended, Jobs, Mlp, Nats, Process, WorkerBuilder, binary, free_port, root, run};
use gristmill_schemas::metric::{self, Buckets, Histogram, Metric, Point, Value, attribute as a};
use gristmill_schemas::{Lane, Namespace};
use serde_json::json;
use tempfile::TempDir;

const MLP: [(&str, &str); 2] = [(a::MODEL, "mlp"), (a::VERSION, "3")];

fn gristmill(nats: &Nats, args: &[&str]) -> Ended {
    run(&binary("gristmill"), &[&["--nats", &nats.url()], args].concat(), &[])
}

fn point(metric: Metric, more: &[(&str, &str)], value: Value) -> Point {
    let attributes = MLP.iter().chain(more).map(|(key, value)| ((*key).into(), (*value).into())).collect();
    Point { name: metric.name.into(), attributes, value }
}

/// Buckets end with 1/1024, 1/512, 1/256 ... s.
fn durations(counts: &[u64]) -> Value {
    let buckets = Buckets::Exponential { scale: 0, offset: -11, zero: 0, counts: counts.to_vec() };
    Value::Histogram(Histogram { count: counts.iter().sum(), sum: 1.0, buckets })
}

fn explicit(bounds: &[f64], counts: &[u64], sum: f64) -> Value {
    let buckets = Buckets::Explicit { bounds: bounds.to_vec(), counts: counts.to_vec() };
    Value::Histogram(Histogram { count: counts.iter().sum(), sum, buckets })
}

/// What a worker says that has done `n` batches of 10 jobs, all of them online.
fn metrics(n: u64) -> Vec<Point> {
    let lane = [(a::LANE, Lane::Online.as_str())];
    let real = n as f64;
    vec![
        point(metric::REQUEST_DURATION, &lane, durations(&[0, 0, 6 * n, 4 * n])),
        point(metric::QUEUE_DURATION, &lane, durations(&[10 * n])),
        point(metric::BATCHES, &[(a::CLOSE_REASON, "full")], Value::Value(real)),
        point(metric::BATCH_SIZE, &[], explicit(&[8.0, 16.0], &[0, n, 0], 10.0 * real)),
        point(metric::BATCH_FILL, &[], explicit(&[0.5, 1.0], &[0, n, 0], 0.8 * real)),
        point(metric::BATCH_ELEMENTS, &[(a::ELEMENT_KIND, "real")], Value::Value(3.0 * real)),
        point(metric::BATCH_ELEMENTS, &[(a::ELEMENT_KIND, "padding")], Value::Value(real)),
        point(metric::ENGINE_INSTANCES, &[], Value::Value(1.0)),
    ]
}

/// Answers on the status subject with what `answer` makes of the number of the request, from 0.
async fn respond(client: Client, answer: impl Fn(u64) -> Vec<u8> + Send + 'static) {
    let mut requests = client.subscribe(Namespace::default().status_subject()).await.unwrap();
    client.flush().await.unwrap();
    tokio::spawn(async move {
        let mut number = 0;
        while let Some(request) = requests.next().await {
            client.publish(request.reply.unwrap(), answer(number).into()).await.unwrap();
            number += 1;
        }
    });
}

/// A worker that did 1000 batches before it was asked first, and 100 between any two looks.
async fn worker(nats: &Nats, name: &'static str, missing: &'static [&'static str]) {
    let started = Instant::now();
    let answer = move |number| {
        let answer = json!({
            "worker": name, "version": "0.1.0", "uptime_s": 500.0 + started.elapsed().as_secs_f64(),
            "ready": missing.is_empty(), "missing": missing,
            "models": [{"name": "mlp", "version": "3", "digest": "sha256:00", "device": "cpu", "instances": 1}],
            "permits": {"limit": 2048, "in_flight": 7}, "queued": {"online": 0, "bulk": 0}, "ceilings": [], "counters": {},
            "metrics": metrics(1000 + 100 * number),
        });
        serde_json::to_vec(&answer).unwrap()
    };
    respond(nats.client().await, answer).await;
}

/// The cells of the row that begins with these, without them.
fn row<'a>(text: &'a str, begin: &[&str]) -> Vec<&'a str> {
    let rows = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let found = rows.into_iter().find(|cells| cells.starts_with(begin));
    found.unwrap_or_else(|| panic!("no row {begin:?} in\n{text}"))[begin.len()..].to_vec()
}

#[tokio::test]
async fn top_shows_queues_and_what_all_workers_did_between_two_looks() {
    let nats = Nats::start();
    nats.set_up(&["--model", "mlp"]);
    let jobs = Jobs::new(nats.jetstream().await);
    jobs.submit_all("infer.jobs.mlp.bulk", (0..5).map(|id| (id.to_string(), vec![0]))).await;
    jobs.submit("nowhere", "waits", vec![0], &[]).await;
    worker(&nats, "w1", &[]).await;
    worker(&nats, "w2", &["results cannot be stored: INFER_RESULTS is full"]).await;
    respond(nats.client().await, |_| b"{\"worker\": \"w3\", \"metrics\": 5}".to_vec()).await;
    respond(nats.client().await, |_| b"\xff\x00".to_vec()).await;

    let ended = tokio::task::spawn_blocking({
        let url = nats.url();
        move || run(&binary("gristmill"), &["--nats", &url, "top", "--once", "--interval", "0.5"], &[])
    });
    let ended = ended.await.unwrap();
    let text = ended.text();
    assert_eq!(ended.code, 0, "{text}{}", ended.err);
    for says in [
        "jobs wait and no worker pulls: mlp bulk\n",
        "jobs without a consumer: infer.jobs.nowhere.online 1\n",
        "workers 1 of 4 ready   in flight 14/4096",
        "not ready: results cannot be stored: INFER_RESULTS is full\n",
    ] {
        assert!(text.contains(says), "{says} is missing in\n{text}");
    }
    // Two workers with 1000 answers each in 0.5 s; a look takes its time, so the rate is a little lower.
    let online = row(&text, &["mlp", "online"]);
    let rate: f64 = match online[0].strip_suffix('k') {
        Some(thousands) => thousands.parse::<f64>().unwrap() * 1000.0,
        None => online[0].parse().unwrap(),
    };
    assert!((400.0..=4001.0).contains(&rate), "{text}");
    assert_eq!(online[1..], ["0", "0", "0", "3.9ms", "7.8ms", "7.8ms", "977us", "977us", "977us"], "{text}");
    assert_eq!(row(&text, &["mlp", "bulk"]), ["0", "0", "5", "0", "-", "-", "-", "-", "-", "-"], "{text}");
    let model = row(&text, &["mlp", "3"]);
    assert_eq!(model[0], "2", "{text}");
    assert_eq!(model[2..], ["10.0", "80", "25", "100", "full", "100%"], "{text}");
    assert_eq!(row(&text, &["w1", "0.1.0"])[1], "7/2048", "{text}");
    assert_eq!(row(&text, &["w3", "-", "-", "-", "-"])[0], "unreadable:", "{text}");
    assert_eq!(row(&text, &["?", "-", "-", "-", "-"])[0], "unreadable:", "{text}");
}

#[tokio::test]
async fn top_shows_a_broker_without_streams_or_workers() {
    let nats = Nats::start();
    let ended = gristmill(&nats, &["top", "--once", "--interval", "0.1"]);
    assert!(ended.code == 1 && ended.err.contains("stream INFER_JOBS: "), "{}", ended.err);
    for says in
        ["jobs -   results -", "no model has a consumer yet", "no worker answered", "gristmill setup creates it"]
    {
        assert!(ended.text().contains(says), "{says} is missing in\n{}", ended.text());
    }
    nats.set_up(&[]);
    assert_eq!(gristmill(&nats, &["top", "--once", "--interval", "0.1"]).code, 0);
}

#[test]
fn top_tells_what_it_was_asked_wrongly() {
    let top = |args: &[&str]| run(&binary("gristmill"), &[&["--nats", "127.0.0.1:1", "top"], args].concat(), &[]);
    for (args, code, says) in [
        (&["--once", "--interval", "0"][..], 2, "--interval is 0, 0.1 to 3600 seconds are allowed"),
        (&["--once", "--interval", "3601"], 2, "--interval is 3601, 0.1 to 3600 seconds are allowed"),
        (&["--once", "--interval", "NaN"], 2, "--interval is NaN, 0.1 to 3600 seconds are allowed"),
        (&[], 2, "standard output is no terminal: use --once"),
        (&["--once"], 1, "cannot connect to NATS at 127.0.0.1:1"),
    ] {
        let ended = top(args);
        assert!(ended.code == code && ended.err.contains(says), "{args:?}: {} {}", ended.code, ended.err);
    }
}

/// A pseudo-terminal of 80 by 24 around a command: keys come from its standard input, the screen goes to standard output.
const TERMINAL: &str = r#"
import fcntl, os, pty, select, struct, sys, termios
# The command waits until its terminal has a size and was looked at.
wait, go = os.pipe()
pid, fd = pty.fork()
if pid == 0:
    os.read(wait, 1)
    os.execvp(sys.argv[1], sys.argv[1:])
fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
before = termios.tcgetattr(fd)
os.write(go, b"\n")
keys = open(os.environ["KEYS"], "rb", buffering=0)
while True:
    ready, _, _ = select.select([fd], [], [], 0.05)
    if ready:
        try:
            screen = os.read(fd, 65536)
        except OSError:
            break
        os.write(1, screen)
    typed = keys.read()
    if typed.startswith(b"signal "):
        os.kill(pid, int(typed[7:]))
    elif typed:
        os.write(fd, typed)
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
after = termios.tcgetattr(fd)
os.write(1, b"\nended %d, terminal %s\n" % (code, b"restored" if before[3] == after[3] else b"left raw"))
"#;

/// `gristmill top` in a terminal.
struct Screen {
    process: Process,
    keys: PathBuf,
    _dir: TempDir,
}

impl Screen {
    fn start(url: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let keys = dir.path().join("keys");
        std::fs::write(&keys, "").unwrap();
        let mut command = Command::new(root().join(".venv/bin/python"));
        command.args(["-c", TERMINAL]).arg(binary("gristmill")).args(["--nats", url, "top", "--interval", "0.2"]);
        command.env("KEYS", &keys).env("TERM", "xterm-256color");
        Self { process: Process::start("top", command), keys, _dir: dir }
    }

    fn types(&self, keys: &str) {
        std::fs::write(&self.keys, keys).unwrap();
    }

    fn shows(&mut self, text: &str) {
        self.process.wait_until(|process| process.log().contains(text));
    }

    /// It left the alternate screen, showed the cursor and ended well.
    fn ends_restored(mut self) {
        self.process.wait();
        let log = self.process.log();
        assert!(log.ends_with("\nended 0, terminal restored\n"), "{log:?}");
        assert!(log.rfind("\u{1b}[?1049l") > log.rfind("\u{1b}[?1049h"), "{log:?}");
        assert!(log.rfind("\u{1b}[?25h") > log.rfind("\u{1b}[?25l"), "{log:?}");
    }
}

#[tokio::test]
async fn top_gives_the_terminal_back_however_it_ends() {
    let nats = Nats::start();
    for end in ["q", "\u{1b}", "\u{3}", "signal 15", "signal 1", "signal 2"] {
        let mut screen = Screen::start(&nats.url());
        screen.shows("no worker answered");
        screen.types(end);
        screen.ends_restored();
    }
}

#[tokio::test]
async fn top_waits_for_a_broker_that_is_gone_and_comes_back_by_itself() {
    let mut screen = Screen::start(&format!("nats://127.0.0.1:{}", free_port()));
    screen.shows("cannot connect to NATS at 127.0.0.1");
    screen.types("q");
    screen.ends_restored();

    let mut nats = Nats::start();
    nats.set_up(&["--model", "mlp"]);
    let mut screen = Screen::start(&nats.url());
    // Only cells that change are drawn, so texts must be such as share none with what stood there before.
    screen.shows("of the last");
    nats.kill();
    screen.shows("trying again: ");
    let before = screen.process.log().len();
    nats.restart();
    // Where the fault stood, the summary stands again.
    screen.process.wait_until(|process| process.log()[before..].contains("jobs"));
    screen.types("q");
    screen.ends_restored();
}

#[tokio::test]
async fn a_real_worker_answers_for_itself() {
    let (nats, mlp) = (Nats::start(), Mlp::load());
    let _worker = WorkerBuilder::new(&nats, &["mlp"]).set("worker", "real").start();
    let jobs = Jobs::new(nats.jetstream().await);
    let sender = jobs.clone();
    let load = tokio::spawn(async move {
        for round in 0.. {
            sender.submit_all("infer.jobs.mlp.online", (0..200).map(|id| mlp.job(round * 200 + id))).await;
        }
    });
    let url = nats.url();
    let args = ["--nats", &url, "top", "--once", "--interval", "1"].map(str::to_owned);
    let frame = tokio::task::spawn_blocking(move || run(&binary("gristmill"), &args, &[])).await.unwrap();
    load.abort();
    assert_eq!(frame.code, 0, "{}", frame.err);
    let text = frame.text();
    let row = |first: [&str; 2]| -> Vec<String> {
        let mut rows = text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        let found = rows.find(|row| row.len() > 2 && row[0] == first[0] && row[1] == first[1]);
        found.unwrap_or_else(|| panic!("{first:?}: {text}"))
    };
    assert!(
        text.contains("workers 1 of 1 ready") && row(["real", "0.1.0"]).join(" ").ends_with("ready: mlp 1"),
        "{text}"
    );
    // Answers a second, and their median time: some, whatever the machine.
    let lane = row(["mlp", "online"]);
    assert!(![&lane[2], &lane[6]].iter().any(|cell| matches!(cell.as_str(), "0" | "-")), "{text}");
    assert!(row(["mlp", "1"]).join(" ").contains('%'), "{text}");
}
