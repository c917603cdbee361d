use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, bail, ensure};
use gristmill_schemas::Token;
use gristmill_score::{Errors, Format, Source, Wish};

/// Scores the rows of files: the same rows come out, with the model's outputs, each accounted for.
///
/// The same command again goes on where it ended, and does nothing once it is finished: what is done is kept in
/// `<output>.run`.
#[derive(clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Formats: parquet, arrow (IPC file or stream), csv, jsonl; npy as input only. `-` is standard input or output, \
    jsonl or arrow, and cannot be continued.\n\nExit codes: 0 every row is in the output, or is accounted for as failed; 2 wrong \
    usage; 6 stopped at --max-errors; 7 interrupted or cancelled; 1 anything else.\n\nExamples:\n  \
    gristmill score --model digits --input digits.csv --map 'pixel_*=image' --keep label --output scored.parquet\n  \
    gristmill score --model encoder --input 'texts/*.parquet' --map tokens=ids --output scored.parquet --dry-run\n  \
    gristmill score --model mlp --input - --input-format jsonl --output - --output-format jsonl\n  \
    gristmill score status run-0123456789abcdef"
)]
pub struct Args {
    #[command(subcommand)]
    pub(super) control: Option<Control>,

    /// Model
    #[arg(long, required = true)]
    pub(super) model: Option<Token>,

    /// File, directory or pattern such as 'rows/*.parquet'; may be repeated
    #[arg(long, required = true, value_name = "PATH")]
    pub(super) input: Vec<String>,

    /// File to write
    #[arg(long, required = true, value_name = "PATH")]
    pub(super) output: Option<PathBuf>,

    /// Format of the input, if its name does not tell
    #[arg(long, value_name = "FORMAT")]
    pub(super) input_format: Option<Format>,

    /// Format of the output, if its name does not tell
    #[arg(long, value_name = "FORMAT")]
    pub(super) output_format: Option<Format>,

    /// Column that feeds an input; with * in it, several columns of single numbers side by side; may be repeated
    #[arg(long, value_name = "COLUMN=INPUT")]
    pub(super) map: Vec<String>,

    /// Columns that come along, separated by commas, * allowed; '' for none [default: all]
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    pub(super) keep: Option<Vec<String>>,

    /// Outputs, separated by commas [default: all]
    #[arg(long, value_delimiter = ',')]
    pub(super) outputs: Option<Vec<String>>,

    /// Goes before the names of output columns
    #[arg(long, default_value = "")]
    pub(super) prefix: String,

    /// Rows in the input's order, or parts as they come
    #[arg(long, default_value = "input", value_parser = ["input", "any"])]
    pub(super) order: String,

    /// Write failed rows to this file, one JSON object a line, instead of into the output
    #[arg(long, value_name = "PATH")]
    pub(super) errors: Option<PathBuf>,

    /// Stop once more rows failed than this number, or this share of those done so far
    #[arg(long, value_name = "N|P%")]
    pub(super) max_errors: Option<MaxErrors>,

    /// Send the failed rows of a finished run once more
    #[arg(long)]
    pub(super) retry_errors: bool,

    /// Begin anew, whatever was done before
    #[arg(long)]
    pub(super) restart: bool,

    /// Pin a model version
    #[arg(long)]
    pub(super) version: Option<Token>,

    /// Go on with whatever version workers serve, instead of the bytes that the run began with
    #[arg(long, conflicts_with = "version")]
    pub(super) follow_model: bool,

    /// Show what would be read, sent and written, and do nothing
    #[arg(long)]
    pub(super) dry_run: bool,

    /// Rows of a job: fewer where large batches slow the model down [default: the model's max_rows]
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) rows_per_job: Option<u32>,

    /// MiB of jobs without an answer [default: 4 for each instance of the model]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(super) outstanding: Option<u16>,

    /// Jobs without an answer, for each instance of the model, while jobs come in the online lane: 0.25 is, with one
    /// instance, one for a quarter of the time; 0 no such limit
    #[arg(long, value_name = "JOBS", default_value_t = 0.25, value_parser = beside_online)]
    pub(super) beside_online: f64,

    /// Share of jobs whose traces are recorded
    #[arg(long, default_value_t = 0.0)]
    pub(super) trace_ratio: f64,

    /// Seconds between lines of progress where standard error is no terminal; 0 for none
    #[arg(long, default_value_t = 10.0)]
    pub(super) interval: f64,

    /// Print the summary as JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// Runs that go on elsewhere.
#[derive(clap::Subcommand)]
pub enum Control {
    /// Show how far a run is; all that go on, if none is named
    Status {
        /// Its id, or the path of its output
        run: Option<String>,
    },
    /// Stop a run; the same command goes on with it
    Cancel {
        /// Its id
        run: Token,
    },
}

/// When to give up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MaxErrors {
    /// So many rows.
    Rows(u64),
    /// So much of the rows done so far, counted once there are 1,000.
    Share(f64),
}

/// Reads `--beside-online`.
fn beside_online(text: &str) -> Result<f64, String> {
    let jobs = text.parse().ok().filter(|jobs| *jobs == 0.0 || (0.01..=1000.0).contains(jobs));
    jobs.ok_or_else(|| format!("{text:?} is neither 0 nor a number of jobs from 0.01 to 1000"))
}

impl FromStr for MaxErrors {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fault = || format!("{text:?} is neither a number of rows nor 0% to 100%");
        match text.strip_suffix('%') {
            None => text.parse().map(Self::Rows).map_err(|_| fault()),
            Some(percent) => match percent.parse::<f64>() {
                Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(Self::Share(percent / 100.0)),
                _ => Err(fault()),
            },
        }
    }
}

impl MaxErrors {
    /// Whether that is too much.
    pub(super) fn is_exceeded(self, errors: u64, rows: u64) -> bool {
        match self {
            Self::Rows(most) => errors > most,
            Self::Share(share) => rows >= 1000 && errors as f64 > share * rows as f64,
        }
    }
}

impl Args {
    /// What is asked of the columns.
    pub(super) fn wish(&self) -> anyhow::Result<Wish> {
        let maps = self.map.iter().map(|text| match text.rsplit_once('=') {
            Some((column, input)) if !column.is_empty() && !input.is_empty() => Ok((column.into(), input.into())),
            _ => bail!("--map {text:?} is not COLUMN=INPUT"),
        });
        let some = |names: &Vec<String>| names.iter().filter(|name| !name.is_empty()).cloned().collect();
        let (keep, outputs) = (self.keep.as_ref().map(some), self.outputs.as_ref().map(some));
        Ok(Wish { maps: maps.collect::<anyhow::Result<_>>()?, keep, outputs })
    }

    /// Where failed rows go.
    pub(super) fn errors_go(&self) -> Errors {
        if self.errors.is_some() { Errors::Apart } else { Errors::InOutput }
    }

    /// The input, opened.
    pub(super) fn source(&self) -> anyhow::Result<(Source, Format)> {
        if self.input.iter().any(|path| path == "-") {
            ensure!(self.input.len() == 1, "standard input cannot be joined with files");
            let format = self.input_format.context("--input-format says what standard input holds: jsonl or arrow")?;
            return Ok((Source::stdin(format)?, format));
        }
        let mut files = Vec::new();
        for pattern in &self.input {
            files.extend(expand(pattern, self.input_format)?);
        }
        let format = match self.input_format {
            Some(format) => format,
            None => {
                let format = Format::of(&files[0]);
                format.with_context(|| format!("{}: the name tells no format (--input-format)", files[0].display()))?
            }
        };
        Ok((Source::open(files, format)?, format))
    }

    /// The output's path and format; no path for standard output.
    pub(super) fn sink(&self) -> anyhow::Result<(Option<&Path>, Format)> {
        let output = self.output.as_deref().context("--output is missing")?;
        if output == Path::new("-") {
            return Ok((None, self.output_format.unwrap_or(Format::Jsonl)));
        }
        ensure!(!output.is_dir(), "--output {} is a directory; name a file in it", output.display());
        let format = self.output_format.or_else(|| Format::of(output));
        let format =
            format.with_context(|| format!("{}: the name tells no format (--output-format)", output.display()))?;
        Ok((Some(output), format))
    }
}

/// Files of a path, a directory (those of a known format) or a pattern, sorted by name.
fn expand(pattern: &str, format: Option<Format>) -> anyhow::Result<Vec<PathBuf>> {
    let path = Path::new(pattern);
    let mut files: Vec<PathBuf> = if path.is_dir() {
        let entries = std::fs::read_dir(path).with_context(|| pattern.to_owned())?;
        let all = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
        let is_known =
            |path: &PathBuf| path.is_file() && Format::of(path).is_some_and(|f| format.is_none_or(|w| w == f));
        all.into_iter().filter(is_known).collect()
    } else if path.exists() {
        vec![path.into()]
    } else {
        glob::glob(pattern)?.collect::<Result<_, _>>()?
    };
    files.sort();
    ensure!(!files.is_empty(), "--input {pattern}: there is no such file");
    Ok(files)
}
