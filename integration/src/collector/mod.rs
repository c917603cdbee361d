//! A real OpenTelemetry collector, made by others: what it prints is what came over the wire, and tests read that.

mod lines;
mod mark;
mod metrics;
mod parse;
mod parse_metrics;
mod received;
mod records;
pub mod sick;
#[cfg(test)]
mod tests;

use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use tokio::net::TcpSocket;

use crate::paths::root;
use crate::process::Process;

use self::mark::Mark;
use self::parse::{End, read};

pub use self::metrics::{Bar, Data, Exponential, Histogram, Metric, MetricKind, Point, Temporality};
pub use self::received::Received;
pub use self::records::{Attributes, Event, Kind, Link, Log, Scope, Span, Value};

/// Longest wait for something to come. Exporters send every so many seconds, and more slowly after failures.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks.
const POLL: Duration = Duration::from_millis(50);

/// A collector (rotel) that takes everything over gRPC and HTTP, up to 4 MiB a gRPC message and 20 MiB an HTTP body.
pub struct Collector {
    /// None while it is down.
    process: Option<Process>,
    grpc: Port,
    http: Port,
    extra: Vec<String>,
    /// It prints nothing: for benches, where printing would take the processors' time.
    is_quiet: bool,
    /// Read so far, from all its processes.
    received: Received,
    /// Bytes of the present process's text that were read.
    read: usize,
    /// Marks sent so far.
    marks: u64,
}

/// A port that stays ours while nobody listens on it. Bound and not listening, it refuses connections, the collector may
/// listen on it, and the system gives it to no other test, nor to a client as its own end.
struct Port {
    number: u16,
    _bound: TcpSocket,
}

impl Collector {
    /// Starts one on free ports, and waits until it listens.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// As [`Self::start`], with more arguments.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_with(extra: &[&str]) -> Self {
        Self::launch(extra, false)
    }

    /// One that takes everything and tells nothing, for benches: [`Self::received`] stays empty.
    ///
    /// # Panics
    /// If it does not start.
    pub fn quiet() -> Self {
        Self::launch(&[], true)
    }

    fn launch(extra: &[&str], is_quiet: bool) -> Self {
        let extra = extra.iter().map(|&arg| arg.into()).collect();
        let (grpc, http) = (Port::reserve(), Port::reserve());
        let mut collector =
            Self { process: None, grpc, http, extra, is_quiet, received: Received::default(), read: 0, marks: 0 };
        collector.restart();
        collector
    }

    /// `http://127.0.0.1:port` of OTLP over gRPC.
    pub fn grpc_endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.grpc.number)
    }

    /// `http://127.0.0.1:port` of OTLP over HTTP, to be followed by `/v1/traces` and so on.
    pub fn http_endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.http.number)
    }

    /// Port of OTLP over gRPC.
    pub fn grpc_port(&self) -> u16 {
        self.grpc.number
    }

    /// Port of OTLP over HTTP.
    pub fn http_port(&self) -> u16 {
        self.http.number
    }

    /// SIGTERM. What it had taken before is not lost.
    ///
    /// # Panics
    /// If it does not run, or does not end.
    pub fn stop(&mut self) {
        self.received();
        self.end("TERM");
    }

    /// kill -9. What it had taken and not printed yet is lost, though the sender was told that it arrived.
    ///
    /// # Panics
    /// If it does not run.
    pub fn kill(&mut self) {
        self.end("KILL");
    }

    /// A new process in place of an ended one, on the same ports. What earlier ones received stays.
    ///
    /// # Panics
    /// If it does not start.
    pub fn restart(&mut self) {
        assert!(self.process.is_none(), "the collector still runs");
        let mut command = Command::new(binary());
        command.args(["start", "--exporter", "blackhole", "--debug-log-verbosity", "detailed"]);
        let told: &[&str] = if self.is_quiet { &[] } else { &["traces", "metrics", "logs"] };
        command.args(told.iter().flat_map(|kind| ["--debug-log", kind]));
        command.args(["--otlp-grpc-endpoint", &format!("127.0.0.1:{}", self.grpc.number)]);
        command.args(["--otlp-http-endpoint", &format!("127.0.0.1:{}", self.http.number)]).args(&self.extra);
        let mut process = Process::start("collector", command);
        for port in [self.grpc.number, self.http.number] {
            process.wait_until(|_| TcpStream::connect(("127.0.0.1", port)).is_ok());
        }
        (self.process, self.read) = (Some(process), 0);
    }

    /// All it has received. While it runs, that includes whatever it had answered for before this call.
    ///
    /// # Panics
    /// If it has ended by itself, or prints what it is not known to print, or a sender gave one attribute twice.
    pub fn received(&mut self) -> &Received {
        if self.process.is_some() && !self.is_quiet {
            self.marks += 1;
            self.read_to(&Mark::new(self.marks));
        }
        &self.received
    }

    /// Waits until what it has received is so.
    ///
    /// # Panics
    /// If that takes too long.
    pub async fn wait_for(&mut self, what: &str, mut is_so: impl FnMut(&Received) -> bool) -> &Received {
        let started = Instant::now();
        while !is_so(self.received()) {
            assert!(started.elapsed() < PATIENCE, "waited in vain for {what}\n{}", self.received.summary());
            tokio::time::sleep(POLL).await;
        }
        &self.received
    }

    fn read_to(&mut self, mark: &Mark) {
        let process = self.process.as_mut().expect("only a running collector is asked");
        mark.send(self.http.number).unwrap_or_else(|| panic!("the collector takes nothing:\n{}", process.log()));
        let (mut text, mut end) = (Vec::new(), None);
        process.wait_until(|process| {
            text = process.log_from(self.read);
            end = mark.end_in(&text);
            end.is_some()
        });
        text.truncate(end.expect("it was waited for"));
        assert_eq!(self.take(&text), End::Whole, "a mark lies within a record");
    }

    fn end(&mut self, signal: &str) {
        let mut process = self.process.take().expect("the collector runs");
        process.signal(signal);
        process.wait();
        // Its last words may be half a record.
        let text = process.log_from(self.read);
        self.take(&text);
    }

    fn take(&mut self, text: &[u8]) -> End {
        self.read += text.len();
        let end = read(&String::from_utf8_lossy(text), &mut self.received);
        end.unwrap_or_else(|what| panic!("the collector's text is not understood: {what}"))
    }
}

impl Port {
    fn reserve() -> Self {
        let bound = TcpSocket::new_v4().expect("a socket can be made");
        bound.set_reuseaddr(true).expect("a new socket takes options");
        bound.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("loopback has a free port");
        let number = bound.local_addr().expect("a bound socket has an address").port();
        Self { number, _bound: bound }
    }
}

fn binary() -> PathBuf {
    let lib = root().join(".venv/lib");
    let pythons = std::fs::read_dir(&lib).into_iter().flatten().flatten();
    let mut binaries = pythons.map(|python| python.path().join("site-packages/rotel/rotel-agent"));
    let found = binaries.find(|path| path.exists());
    found.unwrap_or_else(|| panic!("rotel is missing in {}: run the tests through `make test`", lib.display()))
}
