//! The settings of the whole worker, composed of those of its parts.

use std::net::SocketAddr;
use std::time::Duration;

use gristmill_schemas::Namespace;
use gristmill_schemas::topology;
use gristmill_torch::DeviceSetting;
use tracing_subscriber::EnvFilter;

use crate::cores::{self, Cores};
use crate::settings::{Invalid, Reader, Section, Sources};
use crate::{connect, registry, rescue};
use gristmill_telemetry::{Buckets, Format, Settings};

/// Everything that can be set. `gristmill-worker --help` and the README list the keys.
#[derive(Debug)]
pub struct Config {
    /// `namespace`
    pub namespace: Namespace,
    /// `worker`: this worker's name on results and in `/status`.
    pub worker: String,
    /// `device`
    pub device: DeviceSetting,
    /// `nats.*`
    pub nats: connect::Config,
    /// `models.*`
    pub models: registry::Config,
    /// `streams.*`: how missing streams and consumers are created.
    pub streams: topology::Config,
    /// `limits.*`
    pub limits: Limits,
    /// `ledger.*`
    pub ledger: rescue::Config,
    /// `admin.listen`
    pub admin: SocketAddr,
    /// `runtime.threads`: threads for everything but engines.
    pub runtime_threads: usize,
    /// `runtime.cores`: the processors of those threads; `None` for all.
    pub runtime_cores: Option<Cores>,
    /// `shutdown.grace_ms`: longest drain.
    pub grace: Duration,
    /// `log.format`
    pub log_format: Format,
    /// `log.filter`, in the form of `RUST_LOG`.
    pub log_filter: String,
    /// `OTEL_*`
    pub otel: Settings,
    /// `telemetry.histograms`
    pub histograms: Buckets,
    /// `telemetry.max_traces_per_s`: most jobs recorded a second, and at once; zero for no limit.
    pub max_traces: u32,
    /// `telemetry.slow_job_ms`: a job that is longer in the worker is logged; zero logs none.
    pub slow_job: Duration,
    /// `admin.metrics`: whether there is a page for Prometheus.
    pub has_metrics: bool,
}

/// What bounds memory.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// `limits.in_flight`: most jobs accepted and not settled.
    pub in_flight: usize,
    /// `limits.job_bytes`: most bytes of one job's body.
    pub job_bytes: usize,
    /// `limits.publish_window`: most outcomes being stored at once.
    pub publish_window: usize,
    /// `limits.max_hold_ms`: the longest that one run of a model may take.
    pub max_hold: Duration,
}

impl Config {
    /// Reads all settings, or tells all that is wrong with them.
    pub fn try_new(sources: Sources) -> Result<Self, Invalid> {
        let otel = Settings::read(&sources.environment);
        let mut reader = Reader::try_new(sources)?;
        let mut top = reader.section("");
        let namespace = top.parsed("namespace", "infer", str::parse);
        let device = top.parsed("device", "auto", str::parse);
        let worker = top.text("worker").unwrap_or_else(default_name);
        let mut section = reader.section("admin");
        let admin = section.parsed("listen", "127.0.0.1:9470", str::parse);
        let has_metrics =
            section.parsed("metrics", "true", |text| text.parse().map_err(|_| "true or false is expected"));
        let mut section = reader.section("telemetry");
        let histograms = section.parsed("histograms", "exponential", str::parse);
        let max_traces = section.number("max_traces_per_s", 2000, 0..=1_000_000);
        let slow_job = Duration::from_millis(section.number("slow_job_ms", 1000, 0..=86_400_000));
        let mut log = reader.section("log");
        let log_format = log.parsed("format", "auto", str::parse);
        // EnvFilter cannot be cloned, so its text is kept and parsed where logging starts.
        let filter = |text: &str| EnvFilter::try_new(text).map(|_| text.to_owned());
        let log_filter = log.parsed("filter", "info,async_nats=warn,opentelemetry=off", filter);
        let nats = connect::Config::read(&mut reader.section("nats"));
        let models = registry::Config::read(&mut reader.section("models"));
        let limits = Limits::read(&mut reader.section("limits"));
        let streams = streams(&mut reader.section("streams"), limits.max_hold);
        let ledger = rescue::Config::read(&mut reader.section("ledger"));
        let mut section = reader.section("runtime");
        let runtime_threads = section.number("threads", runtime_threads(), 1..=256);
        let runtime_cores = section.parsed("cores", "all", cores::read).flatten();
        let grace = Duration::from_millis(reader.section("shutdown").number("grace_ms", 30_000, 0..=3_600_000));
        let otel = finish(reader, otel)?;
        const READ: &str = "a setting without a value left a fault, which finish has returned";
        Ok(Self {
            namespace: namespace.expect(READ),
            device: device.expect(READ),
            admin: admin.expect(READ),
            log_format: log_format.expect(READ),
            log_filter: log_filter.expect(READ),
            histograms: histograms.expect(READ),
            has_metrics: has_metrics.expect(READ),
            max_traces,
            slow_job,
            otel,
            worker,
            nats,
            models,
            streams,
            limits,
            ledger,
            runtime_threads,
            runtime_cores,
            grace,
        })
    }
}

/// All faults at once, those of the standard variables too.
fn finish(reader: Reader, otel: Result<Settings, Vec<String>>) -> Result<Settings, Invalid> {
    match (reader.finish(), otel) {
        (Ok(()), Ok(otel)) => Ok(otel),
        (own, otel) => {
            let own = own.err().map(|Invalid(faults)| faults);
            Err(Invalid([own, otel.err()].into_iter().flatten().flatten().collect()))
        }
    }
}

fn default_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() { "worker" } else { host.trim() };
    format!("{host}-{}", std::process::id())
}

impl Limits {
    fn read(section: &mut Section<'_>) -> Self {
        Self {
            in_flight: section.number("in_flight", 2048, 1..=1_000_000),
            job_bytes: section.number("job_bytes", 8 << 20, 1024..=(1 << 30)),
            publish_window: section.number("publish_window", 1024, 1..=100_000),
            max_hold: Duration::from_millis(section.number("max_hold_ms", default_hold_ms(), 100..=86_400_000)),
        }
    }
}

fn default_hold_ms() -> u64 {
    u64::try_from(topology::DEFAULT_MAX_HOLD.as_millis()).unwrap_or(u64::MAX)
}

fn streams(section: &mut Section<'_>, max_hold: Duration) -> topology::Config {
    let default = topology::Config::default();
    let streams = topology::Config {
        replicas: section.number("replicas", default.replicas, 1..=5),
        ack_wait_ms: section.number("ack_wait_ms", default.ack_wait_ms, 1000..=3_600_000),
        max_deliver: section.number("max_deliver", default.max_deliver, 10..=100_000),
        max_ack_pending: section.number("max_ack_pending", default.max_ack_pending, 1..=10_000_000),
        duplicate_window_s: section.number("duplicate_window_s", default.duplicate_window_s, 60..=604_800),
        results_max_age_s: section.number("results_max_age_s", default.results_max_age_s, 0..=315_360_000),
        dlq_max_age_s: section.number("dlq_max_age_s", default.dlq_max_age_s, 0..=315_360_000),
        jobs_max_bytes: section.number("jobs_max_bytes", default.jobs_max_bytes, -1..=i64::MAX),
    };
    let (window, least) = (streams.duplicate_window_s, streams.least_window(max_hold));
    if Duration::from_secs(window) < least {
        let limit = format!("at least {} is needed: twice ack_wait, limits.max_hold_ms and a minute", least.as_secs());
        section.fault("duplicate_window_s", &window.to_string(), limit);
    }
    streams
}

/// One thread of the runtime carries some 30,000 small jobs a second, and each further one makes jobs wander between cores. A quarter
/// of the cores; the others are for engines, and the broker if it is near.
fn runtime_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get() / 4).clamp(1, 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        let config = Config::try_new(Sources::default()).unwrap();
        assert_eq!(config.admin.to_string(), "127.0.0.1:9470");
        assert_eq!((config.limits.in_flight, config.nats.url.as_str()), (2048, "nats://127.0.0.1:4222"));
    }

    #[test]
    fn the_environment_names_of_the_readme_work() {
        let pairs = [
            ("GRISTMILL__NATS__URL", "nats://n:1"),
            ("GRISTMILL__NAMESPACE", "lab"),
            ("GRISTMILL__MODELS__DIR", "/m"),
            ("GRISTMILL__DEVICE", "cuda:1"),
            ("GRISTMILL__ADMIN__LISTEN", "0.0.0.0:1"),
            ("GRISTMILL__LIMITS__IN_FLIGHT", "7"),
            ("GRISTMILL__SHUTDOWN__GRACE_MS", "9"),
        ];
        let environment = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let config = Config::try_new(Sources { environment, ..Sources::default() }).unwrap();
        assert_eq!((config.nats.url.as_str(), config.namespace.to_string().as_str()), ("nats://n:1", "lab"));
        assert_eq!((config.models.dir.as_path(), config.device), ("/m".as_ref(), DeviceSetting::Cuda(1)));
        assert_eq!((config.admin.port(), config.limits.in_flight, config.grace.as_millis()), (1, 7, 9));
    }
}
