use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;

use async_nats::jetstream::Context;
use async_nats::{Client, jetstream};
use tempfile::TempDir;

use crate::paths::root;
use crate::process::{Process, free_port};

/// A nats-server with JetStream, file storage in a temporary directory.
pub struct Nats {
    process: Process,
    port: u16,
    /// Arguments, to start it again with.
    args: Vec<String>,
    _store: TempDir,
}

impl Nats {
    /// Starts one.
    pub fn start() -> Self {
        Self::start_with(&["-js"])
    }

    /// Starts one with these arguments besides address and store.
    pub fn start_with(extra: &[&str]) -> Self {
        let store = TempDir::new().expect("a temporary directory can be made");
        let port = free_port();
        let mut args: Vec<String> = extra.iter().map(|&arg| arg.into()).collect();
        args.extend(["-a".into(), "127.0.0.1".into(), "-p".into(), port.to_string()]);
        args.extend(["-sd".into(), store.path().display().to_string()]);
        Self { process: launch(&args, port), port, args, _store: store }
    }

    /// `nats://127.0.0.1:port`
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Connects to it.
    ///
    /// # Panics
    /// If it is not there.
    pub async fn client(&self) -> Client {
        async_nats::connect(self.url()).await.expect("the server was waited for")
    }

    /// Connects to its JetStream.
    pub async fn jetstream(&self) -> Context {
        jetstream::new(self.client().await)
    }

    /// kill -9, and a new process on the same port and store.
    pub fn crash_and_restart(&mut self) {
        self.process.signal("KILL");
        self.process.wait();
        self.process = launch(&self.args, self.port);
    }
}

fn launch(args: &[String], port: u16) -> Process {
    let mut command = Command::new(server());
    command.args(args);
    let mut process = Process::start("nats-server", command);
    process.wait_until(|_| TcpStream::connect(("127.0.0.1", port)).is_ok());
    process
}

fn server() -> PathBuf {
    let path = root().join(".venv/bin/nats-server");
    assert!(path.exists(), "{} is missing: run the tests through `make test`", path.display());
    path
}
