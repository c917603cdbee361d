//! `--supervise`: a parent that starts the worker again when it dies, for machines where nothing else does. It holds no
//! job and loads no model, so that nothing a job does can kill it.

use std::num::NonZero;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use gristmill_ledger::end_now;
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};
use tokio::process::{Child, Command};

use crate::signals::Signals;

/// First and longest pause before the worker is started again. The first is short: what it held waits for it.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// A worker that lived this long has the next one begin with the first pause.
const LIVED: Duration = Duration::from_secs(60);

/// The worker's exit code for wrong flags or settings: no start will ever succeed.
const WRONG_SETTINGS: i32 = 2;

/// Tells a worker its supervisor's process id: an environment variable.
const MARK: &str = "GRISTMILL_SUPERVISED";

/// Runs the worker with these arguments until it ends well, or is told to end. Signals are passed on.
pub fn supervise(args: Vec<String>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut signals = Signals::try_new()?;
        let mut pause = PAUSE.0;
        loop {
            let began = Instant::now();
            let mut child = start(&args)?;
            let Ended { status, was_told } = watch(&mut child, &mut signals).await?;
            if was_told || status.success() || status.code() == Some(WRONG_SETTINGS) {
                return Ok(code(status));
            }
            if began.elapsed() >= LIVED {
                pause = PAUSE.0;
            }
            tracing::error!(%status, restart_ms = pause.as_millis() as u64, "the worker died, starting it again");
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = signals.recv() => return Ok(ExitCode::SUCCESS),
            }
            pause = (pause * 2).min(PAUSE.1);
        }
    })
}

/// For a worker: drains when its supervisor dies, instead of going on beside the next one. Says whether it has one.
pub fn follow_supervisor() -> bool {
    let Some(supervisor) = std::env::var(MARK).ok().and_then(|pid| pid.parse().ok()) else { return false };
    if let Err(error) = set_parent_process_death_signal(Some(Signal::TERM)) {
        tracing::warn!(%error, "the supervisor's death will go unnoticed");
    }
    if getppid().map(Pid::as_raw_nonzero) != NonZero::new(supervisor) {
        tracing::error!("the supervisor died while the worker started");
        end_now(1);
    }
    true
}

struct Ended {
    status: ExitStatus,
    /// A signal was passed on to it.
    was_told: bool,
}

fn start(args: &[String]) -> std::io::Result<Child> {
    // The same file, even if another was put in its place: parent and child stay of one version.
    // In a group of its own: Ctrl-C reaches it once, through us, and not a second time, which would end it at once.
    Command::new("/proc/self/exe").args(args).env(MARK, std::process::id().to_string()).process_group(0).spawn()
}

async fn watch(child: &mut Child, signals: &mut Signals) -> std::io::Result<Ended> {
    let pid = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
    let mut was_told = false;
    loop {
        let number = tokio::select! {
            status = child.wait() => return Ok(Ended { status: status?, was_told }),
            (_, number) = signals.recv() => number,
        };
        was_told = true;
        let signal = if number == 2 { Signal::INT } else { Signal::TERM };
        // It may have ended by now: then its status comes next.
        let _ = pid.map(|pid| kill_process(pid, signal));
    }
}

/// As a shell would say it.
fn code(status: ExitStatus) -> ExitCode {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
