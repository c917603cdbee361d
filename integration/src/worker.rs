use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::nats::Nats;
use crate::paths::{binary, models_with};
use crate::process::{Process, free_port};

/// A worker to be started.
pub struct WorkerBuilder {
    models: TempDir,
    port: u16,
    settings: Vec<(String, String)>,
}

/// A running worker process.
pub struct Worker {
    /// The process.
    pub process: Process,
    port: u16,
    _models: TempDir,
}

impl WorkerBuilder {
    /// Serves these test models from `nats`.
    pub fn new(nats: &Nats, models: &[&str]) -> Self {
        Self::with_dir(&nats.url(), models_with(models))
    }

    /// Serves a directory of its own making.
    pub fn with_dir(url: &str, models: TempDir) -> Self {
        let port = free_port();
        let dir = models.path().display().to_string();
        let builder = Self { models, port, settings: Vec::new() };
        let admin = format!("127.0.0.1:{port}");
        builder.set("nats.url", url).set("models.dir", &dir).set("admin.listen", &admin).set("device", "cpu")
    }

    /// One setting, by its key.
    pub fn set(mut self, key: &str, value: impl ToString) -> Self {
        self.settings.push((key.into(), value.to_string()));
        self
    }

    /// Starts it without waiting: for starts that are to fail.
    pub fn launch(self) -> Worker {
        let mut command = Command::new(binary("gristmill-worker"));
        for (key, value) in &self.settings {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        Worker { process: Process::start("worker", command), port: self.port, _models: self.models }
    }

    /// Starts it and waits until it is ready.
    pub fn start(self) -> Worker {
        let mut worker = self.launch();
        let port = worker.port;
        worker.process.wait_until(|_| get(port, "/readyz").is_some_and(|(code, _)| code == 200));
        worker
    }
}

impl Worker {
    /// An admin page: status code and body; `None` where nobody answers.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        get(self.port, path)
    }

    /// Base of the admin pages.
    pub fn admin(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
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
