//! `gristmill bench`: latency under a load that does not wait for answers.

mod figures;
mod load;
mod plan;
mod search;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use gristmill_schemas::{Lane, Token};

use self::figures::Figures;
use self::load::Load;
use self::plan::{Arrivals, Plan};
use self::search::Search;
use crate::connection::Connection;
use crate::error::Failure;
use crate::submit::Inputs;
use crate::table;

/// Sends the same job at a fixed rate and measures how long answers take, from when each job was due. Real jobs in the real
/// streams: their results stay there until the stream's limits take them.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    gristmill bench mlp --npy x=row.npy --rate 500 --rate 2000\n  \
    gristmill bench mlp --npy x=row.npy --rate 1000 --p99-ms 20 --arrivals poisson --save before.json\n  \
    gristmill bench mlp --npy x=row.npy --rate 1000 --p99-ms 20 --arrivals poisson --compare before.json\n\n\
    A run is stable if every job was answered and no third of it has a P99 over 1.5 times that of another. Exit code 1 if a \
    job of a fixed rate was not answered.")]
pub struct Args {
    /// Model
    model: Token,

    #[command(flatten)]
    inputs: Inputs,

    /// Jobs per second; may be repeated. With --p99-ms, where the search begins
    #[arg(long, required = true, value_name = "JOBS")]
    rate: Vec<f64>,

    /// How jobs arrive
    #[arg(long, value_enum, default_value = "poisson")]
    arrivals: Arrivals,

    /// Find the highest rate that is stable with a P99 of at most so many milliseconds
    #[arg(long, value_name = "MS")]
    p99_ms: Option<f64>,

    /// Seconds that count, of each run
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,

    /// Seconds before those
    #[arg(long, default_value_t = 2.0)]
    warm_up: f64,

    /// Longest wait for answers after the last job, in seconds
    #[arg(long, default_value_t = 10.0)]
    timeout: f64,

    /// The same arrivals again
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// online or bulk
    #[arg(long, default_value = "online")]
    lane: Lane,

    /// Pin a model version
    #[arg(long)]
    version: Option<Token>,

    /// Write the runs to a file
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,

    /// Show runs of the same rate in this file beside these
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,

    /// Print the runs as JSON
    #[arg(long = "json-output")]
    json_output: bool,
}

/// Most jobs of one run.
const MOST: f64 = 10e6;

impl Args {
    fn check(&self) -> anyhow::Result<()> {
        let times = [("seconds", self.seconds, 0.1), ("warm-up", self.warm_up, 0.0), ("timeout", self.timeout, 0.0)];
        for (name, seconds, least) in times {
            anyhow::ensure!(
                (least..=3600.0).contains(&seconds),
                "--{name} is {seconds}, {least} to 3600 s are allowed"
            );
        }
        for rate in &self.rate {
            let jobs = rate * (self.seconds + self.warm_up);
            anyhow::ensure!(*rate > 0.0 && jobs <= MOST, "--rate is {rate}: above 0, and {MOST} jobs a run at most");
        }
        Ok(())
    }
}

/// Runs `gristmill bench`.
pub async fn run(connection: &Connection, args: Args) -> Result<(), Failure> {
    let usage = |error| Failure::with(2, error);
    args.check().map_err(usage)?;
    let body = args.inputs.body().map_err(usage)?;
    let before = args.compare.as_deref().map(read).transpose().map_err(usage)?.unwrap_or_default();
    let load = Load {
        client: connection.client().await?,
        namespace: connection.namespace.clone(),
        model: args.model.clone(),
        lane: args.lane,
        version: args.version.clone(),
        body: body.into(),
        warm_up: Duration::from_secs_f64(args.warm_up),
        measured: Duration::from_secs_f64(args.seconds),
        patience: Duration::from_secs_f64(args.timeout),
    };
    let runs = match args.p99_ms {
        None => each(&args, &load).await?,
        Some(bound) => search(&args, &load, bound).await?,
    };
    if let Some(path) = &args.save {
        std::fs::write(path, serde_json::to_vec_pretty(&runs)?).with_context(|| path.display().to_string())?;
    }
    if args.json_output {
        table::json(&runs)?
    } else {
        print(&runs, &before)?
    }
    let unanswered: u64 = runs.iter().map(|run| run.unanswered).sum();
    if args.p99_ms.is_none() && unanswered > 0 {
        return Err(anyhow::anyhow!("{unanswered} jobs were not answered within {} s", args.timeout).into());
    }
    Ok(())
}

async fn each(args: &Args, load: &Load) -> anyhow::Result<Vec<Figures>> {
    let mut runs = Vec::new();
    for rate in &args.rate {
        runs.push(one(args, load, *rate).await?);
    }
    Ok(runs)
}

/// Looks for the highest rate. Each try begins when the one before has been answered.
async fn search(args: &Args, load: &Load, bound: f64) -> anyhow::Result<Vec<Figures>> {
    let mut search = Search::new(args.rate[0]);
    let mut runs = Vec::new();
    while let Some(rate) = search.next() {
        if rate * (args.seconds + args.warm_up) > MOST {
            break;
        }
        let run = one(args, load, rate).await?;
        search.tried(run.is_stable && run.refused == 0 && run.p99 <= bound);
        runs.push(run);
    }
    // The one that was found stands last.
    let found = search.highest().and_then(|rate| runs.iter().position(|run| run.rate == rate));
    let found = found.with_context(|| format!("no rate keeps a P99 of {bound} ms"))?;
    let found = runs.remove(found);
    runs.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    runs.push(found);
    Ok(runs)
}

async fn one(args: &Args, load: &Load, rate: f64) -> anyhow::Result<Figures> {
    let whole = load.warm_up + load.measured;
    load.run(Plan::new(args.arrivals, rate, args.seed).take_while(|due| *due < whole).collect(), rate).await
}

fn read(path: &Path) -> anyhow::Result<Vec<Figures>> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    serde_json::from_slice(&bytes).with_context(|| format!("{} was not written by --save", path.display()))
}

fn print(runs: &[Figures], before: &[Figures]) -> anyhow::Result<()> {
    let row = |run: &Figures| {
        let earlier = before.iter().find(|other| (other.rate - run.rate).abs() <= run.rate * 0.01);
        let ratio =
            earlier.map_or(String::new(), |other| format!("{:.2} / {:.2}", run.p50 / other.p50, run.p99 / other.p99));
        let ms = |value: f64| format!("{value:.2}");
        [
            format!("{:.0}", run.rate),
            run.answered.to_string(),
            (run.refused + run.unanswered).to_string(),
            ms(run.p50),
            ms(run.p90),
            ms(run.p99),
            ms(run.p999),
            ms(run.max),
            ms(run.stdev),
            ms(run.sent_late_p99),
            if run.is_stable { "yes" } else { "no" }.to_owned(),
            ratio,
        ]
    };
    let rows: Vec<_> = runs.iter().map(row).collect();
    let header = [
        "JOBS/S",
        "ANSWERED",
        "FAILED",
        "P50 MS",
        "P90",
        "P99",
        "P99.9",
        "MAX",
        "STDEV",
        "SENT LATE P99",
        "STABLE",
        "P50 / P99 TO BEFORE",
    ];
    table::print(header, &rows)?;
    Ok(())
}
