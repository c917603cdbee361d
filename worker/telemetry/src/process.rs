//! What the operating system says of the process.

use std::fs;
use std::time::Instant;

use gristmill_schemas::metric::{self, attribute};
use opentelemetry::KeyValue;

use crate::instruments::Instruments;

/// Clock ticks of a second, on every platform of Linux that matters here.
const TICKS: f64 = 100.0;

/// Reports the `process.*` metrics. They are read from `/proc` when metrics are collected, which does not wait.
pub fn observe(instruments: &Instruments) {
    let started = Instant::now();
    instruments.observe(&metric::PROCESS_UPTIME, move || vec![(started.elapsed().as_secs_f64(), Vec::new())]);
    instruments.observe(&metric::PROCESS_CPU_TIME, || {
        let mode = |mode| vec![KeyValue::new(attribute::CPU_MODE, mode)];
        cpu_seconds().map_or_else(Vec::new, |[user, system]| vec![(user, mode("user")), (system, mode("system"))])
    });
    instruments.observe(&metric::PROCESS_MEMORY_USAGE, || {
        status("VmRSS:").map_or_else(Vec::new, |kib| vec![(kib * 1024.0, Vec::new())])
    });
    instruments.observe(&metric::PROCESS_THREAD_COUNT, || {
        status("Threads:").map_or_else(Vec::new, |threads| vec![(threads, Vec::new())])
    });
    instruments.observe(&metric::PROCESS_FILE_DESCRIPTORS, || {
        fs::read_dir("/proc/self/fd").map_or_else(|_| Vec::new(), |found| vec![(found.count() as f64, Vec::new())])
    });
}

fn cpu_seconds() -> Option<[f64; 2]> {
    // Fields 14 and 15; the name in field 2 may hold spaces, so counting starts behind it.
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let mut fields = stat.rsplit(')').next()?.split_whitespace().skip(11);
    let mut seconds = || Some(fields.next()?.parse::<f64>().ok()? / TICKS);
    Some([seconds()?, seconds()?])
}

fn status(key: &str) -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_knows_itself() {
        assert!(cpu_seconds().is_some_and(|[user, system]| user >= 0.0 && system >= 0.0));
        assert!(status("VmRSS:").is_some_and(|kib| kib > 100.0) && status("Threads:").is_some_and(|n| n >= 1.0));
    }
}
