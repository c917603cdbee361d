use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::NamedTempFile;

/// Longest wait for a process to start or end. Generous: machines are shared.
const PATIENCE: Duration = Duration::from_secs(60);

/// A child process whose output is kept and shown if the test fails.
pub struct Process {
    name: String,
    child: Child,
    log: NamedTempFile,
}

impl Process {
    /// Starts it.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(name: &str, mut command: Command) -> Self {
        let log = NamedTempFile::new().expect("a temporary file can be made");
        let file = File::options().append(true).open(log.path()).expect("the log was just made");
        let err = Stdio::from(file.try_clone().expect("a file can be cloned"));
        let child = command.stdin(Stdio::null()).stdout(file).stderr(err).spawn();
        let child = child.unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Self { name: name.into(), child, log }
    }

    /// What it has printed so far.
    pub fn log(&self) -> String {
        std::fs::read(self.log.path()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// What it has printed from this byte on. The last of it may be half a line, or half a character.
    pub fn log_from(&self, start: usize) -> Vec<u8> {
        let mut read = Vec::new();
        let file = File::open(self.log.path());
        let read_to_end =
            |mut file: File| file.seek(SeekFrom::Start(start as u64)).and_then(|_| file.read_to_end(&mut read));
        drop(file.and_then(read_to_end));
        read
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory, in bytes; 0 once it has ended.
    pub fn rss(&self) -> u64 {
        memory(self.id(), "VmRSS:")
    }

    /// The most resident memory so far, in bytes; 0 once it has ended.
    pub fn peak_rss(&self) -> u64 {
        Self::peak_rss_of(self.id())
    }

    /// That of another process.
    pub fn peak_rss_of(id: u32) -> u64 {
        memory(id, "VmHWM:")
    }

    /// Open file descriptors; 0 once it has ended.
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.id())).map_or(0, Iterator::count)
    }

    /// Processor time used so far, in seconds; 0 once it has ended.
    pub fn cpu_seconds(&self) -> f64 {
        Self::cpu_seconds_of(self.id())
    }

    /// That of another process.
    pub fn cpu_seconds_of(id: u32) -> f64 {
        // Fields 14 and 15 count clock ticks, of which Linux has 100 a second on every platform that matters here. The
        // name in field 2 may hold spaces, so counting starts behind it.
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let ticks = fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok());
        ticks.sum::<f64>() / 100.0
    }

    /// Sends a signal by name: `TERM`, `KILL`, `STOP`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.id().to_string()).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill -{name} {}", self.name);
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it goes on for too long.
    pub fn wait(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "{} does not end", self.name);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Polls until `ready`.
    ///
    /// # Panics
    /// If the process ends first or takes too long.
    pub fn wait_until(&mut self, mut ready: impl FnMut(&Self) -> bool) {
        let started = Instant::now();
        while !ready(self) {
            assert!(self.ended().is_none(), "{} ended early:\n{}", self.name, self.log());
            assert!(started.elapsed() < PATIENCE, "{} is not ready:\n{}", self.name, self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn memory(id: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            drop(writeln!(std::io::stderr(), "---- {} ----\n{}", self.name, tail.join("\n")));
        }
    }
}

/// Below those that Linux, unless it is set otherwise, gives to whoever asks for any: no connection takes one between here and its use.
const PORTS: std::ops::Range<u16> = 10_000..30_000;

/// A port nobody listens on now, another each time.
///
/// # Panics
/// If there is none.
pub fn free_port() -> u16 {
    static TURN: AtomicU32 = AtomicU32::new(0);
    let from_turn = |turn: u32| PORTS.start + (turn % u32::from(PORTS.end - PORTS.start)) as u16;
    // Processes begin at different places.
    let first = std::process::id().wrapping_mul(101);
    let mut ports = std::iter::repeat_with(|| from_turn(first.wrapping_add(TURN.fetch_add(1, Ordering::Relaxed))));
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    ports.by_ref().take(PORTS.len()).find(is_free).expect("loopback has a free port")
}

/// How a command that ends by itself ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit code; -1 for a signal.
    pub code: i32,
    /// Standard output.
    pub out: Vec<u8>,
    /// Standard error.
    pub err: String,
}

impl Ended {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }
}

/// Runs a command to its end.
///
/// # Panics
/// If it cannot be started.
pub fn run<A: AsRef<OsStr>>(program: &Path, args: &[A], environment: &[(&str, &str)]) -> Ended {
    let mut command = Command::new(program);
    let output = command.args(args).envs(environment.iter().copied()).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    Ended {
        code: output.status.code().unwrap_or(-1),
        out: output.stdout,
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
