//! Progress and summary, for people and for scripts.

use std::io::{IsTerminal, Write, stderr};
use std::time::Duration;

use gristmill_score::Total;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::board::Progress;

/// Between two pictures on a terminal.
const FRAME: Duration = Duration::from_millis(250);

/// Cells of the bar.
const BAR: usize = 24;

/// Shows progress until it is dropped: a bar on a terminal, elsewhere a line of JSON every `interval` seconds, if that is not 0.
pub(super) async fn show(progress: watch::Receiver<Progress>, interval: f64) {
    let is_terminal = stderr().is_terminal();
    if !is_terminal && interval <= 0.0 {
        return;
    }
    let period = if is_terminal { FRAME } else { Duration::from_secs_f64(interval) };
    loop {
        tokio::time::sleep(period).await;
        let now = progress.borrow().clone();
        let text = if is_terminal { format!("\r\x1b[K{}", bar(&now)) } else { json!(now).to_string() + "\n" };
        // Who looks on must not end the run.
        drop(stderr().lock().write_all(text.as_bytes()));
    }
}

/// Takes the bar away.
pub(super) fn clear() {
    if stderr().is_terminal() {
        drop(stderr().lock().write_all(b"\r\x1b[K"));
    }
}

fn bar(now: &Progress) -> String {
    let mut parts = Vec::new();
    match now.rows {
        Some(rows) => {
            let share = if rows == 0 { 1.0 } else { now.answered as f64 / rows as f64 };
            let full = ((share * BAR as f64) as usize).min(BAR);
            parts.push(format!("{}{} {:5.1} %", "█".repeat(full), "░".repeat(BAR - full), share * 100.0));
            parts.push(format!("{} of {} rows", grouped(now.answered), grouped(rows)));
        }
        None => parts.push(format!("{} rows", grouped(now.answered))),
    }
    parts.push(format!("{} rows/s", grouped(now.rows_per_second as u64)));
    parts.extend(now.eta_s.map(|eta| format!("{} left", duration(eta))));
    if now.errors > 0 {
        parts.push(format!("{} failed", grouped(now.errors)));
    }
    parts.push(format!("{} workers", now.workers));
    parts.extend(now.batch_fill.map(|fill| format!("batches {:.0} % full", fill * 100.0)));
    if now.state != "scoring" {
        parts.push(now.state.clone());
    }
    parts.join("  ")
}

fn duration(seconds: f64) -> String {
    let seconds = seconds.ceil() as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// How a run ended.
pub(super) struct Summary<'a> {
    pub(super) run: &'a str,
    pub(super) output: &'a str,
    /// `complete`, `stopped`, `cancelled`.
    pub(super) state: &'a str,
    pub(super) total: &'a Total,
    /// Rows that this command scored.
    pub(super) rows: u64,
    pub(super) seconds: f64,
    /// Share of what was sent.
    pub(super) padding: f64,
    pub(super) latencies: &'a Histogram<u64>,
}

impl Summary<'_> {
    /// For scripts. Latencies in milliseconds, from a job's submission to its answer.
    pub(super) fn json(&self) -> Value {
        let of = |quantile| self.latencies.value_at_quantile(quantile) as f64 / 1000.0;
        json!({
            "run": self.run, "output": self.output, "state": self.state,
            "rows": self.total.rows, "ok": self.total.ok(), "errors": self.total.errors, "codes": self.total.codes,
            "scored_now": self.rows, "seconds": self.seconds, "rows_per_second": self.rate(),
            "jobs": self.latencies.len(), "padding": self.padding,
            "job_latency_ms": { "p50": of(0.5), "p90": of(0.9), "p99": of(0.99), "max": self.latencies.max() as f64 / 1000.0 },
        })
    }

    fn rate(&self) -> f64 {
        if self.seconds > 0.0 { self.rows as f64 / self.seconds } else { 0.0 }
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let Total { rows, errors, codes } = self.total;
        let mut lines = vec![format!("{} {}: {}", self.run, self.state, self.output)];
        let sum = format!("{} rows = {} ok + {} failed", grouped(*rows), grouped(self.total.ok()), grouped(*errors));
        let pace =
            format!("{} rows in {:.1} s, {} rows/s", grouped(self.rows), self.seconds, grouped(self.rate() as u64));
        lines.push(format!("{sum}; now {pace}"));
        lines.extend(codes.iter().map(|(code, rows)| format!("  {code}: {}", grouped(*rows))));
        if !self.latencies.is_empty() {
            let (jobs, padding) = (grouped(self.latencies.len()), self.padding * 100.0);
            lines.push(format!("{jobs} jobs, {padding:.1} % padding, from submission to answer:"));
            lines.extend(histogram(self.latencies));
        }
        lines.join("\n")
    }
}

/// A bar for each doubling of the latency.
fn histogram(latencies: &Histogram<u64>) -> Vec<String> {
    let all = latencies.len() as f64;
    let buckets = latencies.iter_log(1000, 2.0).filter(|bucket| bucket.count_since_last_iteration() > 0);
    let line = |bucket: hdrhistogram::iterators::IterationValue<u64>| {
        let share = bucket.count_since_last_iteration() as f64 / all;
        let bar = "▇".repeat((share * 40.0).ceil() as usize);
        format!("  up to {:>7} ms {bar} {:.1} %", bucket.value_iterated_to().div_ceil(1000), share * 100.0)
    };
    buckets.map(line).collect()
}
