//! `gristmill top`: what the cluster does now. Data moves one way: polls become snapshots, two snapshots become a view, a
//! view is drawn.

mod draw;
mod fit;
mod format;
mod live;
mod poll;
#[cfg(test)]
mod sample;
mod series;
mod snapshot;
mod view;

use std::io::{IsTerminal, stdout};
use std::time::Duration;

use anyhow::anyhow;
use futures_util::StreamExt;

use crate::connection::Connection;
use crate::error::Failure;
use crate::table;
use poll::Poller;
use view::View;

/// Shortest and longest time between two looks, in seconds. Every look asks every worker.
const INTERVALS: std::ops::RangeInclusive<f64> = 0.1..=3600.0;

/// Shows models, lanes and workers as they work: rates, queues, latencies, batches. q, Esc or Ctrl-C leaves.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  gristmill top\n  gristmill top --once --interval 10 > frame.txt")]
pub struct Args {
    /// Time between two looks; rates and percentiles are of this time
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    interval: f64,

    /// Print one frame as plain text, after two looks one interval apart, and end
    #[arg(long)]
    once: bool,
}

/// Runs `gristmill top`.
pub async fn run(connection: &Connection, args: Args) -> Result<(), Failure> {
    let usage = |error| Err(Failure::with(2, error));
    if !INTERVALS.contains(&args.interval) {
        let (least, most) = (INTERVALS.start(), INTERVALS.end());
        return usage(anyhow!("--interval is {}, {least} to {most} seconds are allowed", args.interval));
    }
    if !args.once && !stdout().is_terminal() {
        return usage(anyhow!("standard output is no terminal: use --once for one frame as plain text"));
    }
    let period = Duration::from_secs_f64(args.interval);
    let namespace = connection.namespace.clone();
    // Credentials that cannot be read are told before the screen is taken: no later try would do better.
    let poller = Poller::new(connection.target().await?, namespace.clone());
    if args.once {
        once(poller, &namespace.to_string(), period).await
    } else {
        Ok(live::run(poller, namespace.to_string(), period).await?)
    }
}

async fn once(poller: Poller, namespace: &str, period: Duration) -> Result<(), Failure> {
    let mut polls = std::pin::pin!(poller.every(period));
    let mut next = async || polls.next().await.unwrap_or_else(|| Err(anyhow!("polls ended")));
    let (earlier, later) = (next().await?, next().await?);
    let frame = draw::plain(&View::new(namespace, Some(&earlier), &later));
    table::line(frame.trim_end())?;
    // Scripts must see that numbers are missing.
    match later.faults.first() {
        Some(fault) => Err(anyhow!("{fault}").into()),
        None => Ok(()),
    }
}
