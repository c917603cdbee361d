use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::nats::Nats;
use crate::paths::{binary, linked, models_with};
use crate::process::{Process, free_port};

/// A worker to be started.
pub struct WorkerBuilder {
    /// Kept until no process needs it any more.
    _models: TempDir,
    /// The crash ledger, kept from one process to the next.
    ledger: TempDir,
    port: u16,
    settings: Vec<(String, String)>,
    environment: Vec<(String, String)>,
    is_supervised: bool,
    binary: PathBuf,
}

/// A worker process.
pub struct Worker {
    /// The process.
    pub process: Process,
    /// What it was started with, and will be again.
    builder: WorkerBuilder,
}

impl WorkerBuilder {
    /// Serves these test models from `nats`.
    pub fn new(nats: &Nats, models: &[&str]) -> Self {
        Self::at(&nats.url(), models)
    }

    /// Serves these test models from a broker at this address.
    pub fn at(url: &str, models: &[&str]) -> Self {
        Self::with_dir(url, models_with(models))
    }

    /// Serves these packages, each a directory with the name of its model.
    ///
    /// # Panics
    /// If one was not built.
    pub fn with_packages(url: &str, packages: &[PathBuf]) -> Self {
        Self::with_dir(url, linked(packages.iter().cloned()))
    }

    /// Serves a directory of its own making.
    pub fn with_dir(url: &str, models: TempDir) -> Self {
        let port = free_port();
        let dir = models.path().display().to_string();
        let ledger = TempDir::new().expect("a temporary directory can be made");
        let builder = Self {
            _models: models,
            ledger,
            port,
            settings: Vec::new(),
            environment: Vec::new(),
            is_supervised: false,
            binary: binary("gristmill-worker"),
        };
        let (admin, ledger) = (format!("127.0.0.1:{port}"), builder.ledger.path().display().to_string());
        let builder = builder.set("nats.url", url).set("models.dir", &dir).set("admin.listen", &admin);
        builder.set("device", "cpu").set("ledger.dir", ledger)
    }

    /// Another build than this one.
    pub fn binary(self, path: impl Into<PathBuf>) -> Self {
        Self { binary: path.into(), ..self }
    }

    /// One setting, by its key.
    pub fn set(mut self, key: &str, value: impl ToString) -> Self {
        self.settings.push((key.into(), value.to_string()));
        self
    }

    /// One variable of its environment, such as `OTEL_TRACES_SAMPLER`.
    pub fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.environment.push((name.into(), value.to_string()));
        self
    }

    /// Everything goes to a collector at this endpoint, over `grpc` or `http/protobuf`.
    pub fn exporting(self, protocol: &str, endpoint: &str) -> Self {
        self.env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol).env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    }

    /// With a supervisor, which is then the process that the test sees.
    pub fn supervised(mut self) -> Self {
        self.is_supervised = true;
        self
    }

    /// Starts it without waiting: for starts that are to fail.
    pub fn launch(self) -> Worker {
        Worker { process: self.spawn(), builder: self }
    }

    /// Starts it and waits until it is ready.
    pub fn start(self) -> Worker {
        let mut worker = self.launch();
        worker.wait_until_ready();
        worker
    }

    fn spawn(&self) -> Process {
        let mut command = Command::new(&self.binary);
        for (key, value) in &self.settings {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        if self.is_supervised {
            command.arg("--supervise");
        }
        Process::start("worker", command)
    }
}

impl Worker {
    /// Waits until it can serve.
    ///
    /// # Panics
    /// If it ends first or takes too long.
    pub fn wait_until_ready(&mut self) {
        let port = self.builder.port;
        self.process.wait_until(|_| get(port, "/readyz").is_some_and(|(code, _)| code == 200));
    }

    /// kill -9 if it still runs, and a new process with the same settings, address and models. Does not wait for it.
    pub fn respawn(&mut self) {
        if self.process.ended().is_none() {
            self.kill();
        }
        self.process = self.builder.spawn();
    }

    /// The directory of its crash ledger.
    pub fn ledger_dir(&self) -> &Path {
        self.builder.ledger.path()
    }

    /// An admin page: status code and body; `None` where nobody answers.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        get(self.builder.port, path)
    }

    /// Base of the admin pages.
    pub fn admin(&self) -> String {
        format!("http://127.0.0.1:{}", self.builder.port)
    }

    /// `/status`, parsed.
    ///
    /// # Panics
    /// If the worker does not answer.
    pub fn status(&self) -> Value {
        let (_, body) = self.get("/status").expect("the admin page answers");
        serde_json::from_str(&body).expect("/status is JSON")
    }

    /// One of the totals in `/status`.
    pub fn count(&self, name: &str) -> u64 {
        self.status()["counters"][name].as_u64().unwrap_or_else(|| panic!("no counter {name}"))
    }

    /// One of the totals in `/status`; 0 where the process does not answer yet or any more.
    pub fn count_so_far(&self, name: &str) -> u64 {
        let status = self.get("/status").and_then(|(_, body)| serde_json::from_str::<Value>(&body).ok());
        status.and_then(|status| status["counters"][name].as_u64()).unwrap_or(0)
    }

    /// The page for Prometheus: the sum of a metric's lines that hold `label`.
    ///
    /// # Panics
    /// If the worker does not answer.
    pub fn metric(&self, name: &str, label: &str) -> f64 {
        let (_, page) = self.get("/metrics").expect("the worker answers");
        let lines = page.lines().filter(|line| line.starts_with(name) && line.contains(label));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// SIGTERM, and how it ended.
    pub fn terminate(&mut self) -> ExitStatus {
        self.process.signal("TERM");
        self.process.wait()
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.process.signal("KILL");
        self.process.wait();
    }
}

fn get(port: u16, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: worker\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}
