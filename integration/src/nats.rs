use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;

use async_nats::jetstream::Context;
use async_nats::{Client, jetstream};
use tempfile::TempDir;

use crate::paths::{binary, root};
use crate::process::{Process, free_port, run};

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

    /// Makes streams, and what else `gristmill setup` is asked for: `--model NAME`.
    ///
    /// # Panics
    /// If that fails.
    pub fn set_up(&self, args: &[&str]) {
        let ended = run(&binary("gristmill"), &[&["--nats", &self.url(), "setup"], args].concat(), &[]);
        assert_eq!(ended.code, 0, "{}", ended.err);
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// kill -9, and a new process on the same port and store.
    pub fn crash_and_restart(&mut self) {
        self.kill();
        self.restart();
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.process.signal("KILL");
        self.process.wait();
    }

    /// A new process in place of an ended one, on the same port and store.
    pub fn restart(&mut self) {
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

/// Publishes with a header block that no client would write.
///
/// # Panics
/// If the server does not take it.
pub fn publish_raw(nats: &Nats, subject: &str, headers: &[u8], payload: &[u8]) {
    let mut stream = TcpStream::connect(("127.0.0.1", nats.port())).expect("the server takes it");
    let head = [b"NATS/1.0\r\n", headers, b"\r\n\r\n"].concat();
    stream.write_all(b"CONNECT {\"headers\":true,\"verbose\":false}\r\n").expect("the server takes it");
    write!(stream, "HPUB {subject} {} {}\r\n", head.len(), head.len() + payload.len()).expect("the server takes it");
    stream.write_all(&[&head, payload, b"\r\nPING\r\n"].concat()).expect("the server takes it");
    let mut read = Vec::new();
    while !read.ends_with(b"PONG\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("the server takes it");
        read.push(byte[0]);
    }
}
