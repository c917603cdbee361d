//! How a run begins: what it is known by, whether it was begun before, and where its windows go.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::ensure;
use gristmill_schemas::Token;
use gristmill_score::{Closed, Facts, Finished, Format, Ledger, Opened, Plan, Run, Sink, Source, Total, fingerprint};
use serde_json::{Value, json};

use super::args::Args;
use super::model::Model;
use super::read::Done;
use super::write::{Parts, Store, Stream};

/// Everything that the output depends on.
pub(super) fn facts(
    args: &Args,
    source: &Source,
    plan: &Plan,
    model: &Model,
    formats: [Format; 2],
) -> anyhow::Result<Facts> {
    let files = source.files().iter().map(|path| fingerprint(path)).collect::<anyhow::Result<Vec<_>>>()?;
    // What cannot be read twice is another input each time.
    let input = if files.is_empty() { json!(format!("{:032x}", fastrand::u128(..))) } else { json!(files) };
    let model = if args.follow_model {
        json!({ "name": model.name, "followed": true })
    } else {
        json!({ "name": model.name, "version": model.version.as_str(), "digest": model.digest })
    };
    let wish = args.wish()?;
    let options = json!({
        "map": wish.maps, "keep": wish.keep, "outputs": wish.outputs, "prefix": args.prefix, "order": args.order,
        "errors": args.errors, "input_format": formats[0], "output_format": formats[1],
        "window": plan.cut(), "limits": [plan.limits.rows, plan.limits.elements, plan.limits.bytes],
    });
    Ok(Facts { input, model, options })
}

/// What there is to do.
pub(super) struct Job {
    pub(super) store: Store,
    pub(super) done: Done,
    pub(super) total: Total,
    /// Windows with rows to be sent again, and how many failed before.
    pub(super) reopened: BTreeMap<u32, u64>,
    /// Windows that are done.
    pub(super) closed: Closed,
    /// The run's id, and how often its failed rows were sent once more.
    pub(super) run: Token,
    pub(super) retries: u32,
}

/// Whether there is anything to do.
pub(super) enum Begun {
    Ready(Job),
    Finished(Run, Finished),
}

/// Finds the run, or begins it.
pub(super) fn open(
    args: &Args,
    source: &Source,
    output: Option<&Path>,
    facts: Facts,
    sink: Sink,
) -> anyhow::Result<Begun> {
    let began = format!("{:08x}", fastrand::u32(..));
    let Some(output) = output else {
        let store = Store::Stream(Stream::start(sink, args.errors.as_deref())?);
        let run = format!("{}-{began}", facts.id()).parse()?;
        let (done, total, closed) = (Done::default(), Total::default(), Closed::default());
        return Ok(Begun::Ready(Job { store, done, total, reopened: BTreeMap::new(), closed, run, retries: 0 }));
    };
    check_places(source, output, args.errors.as_deref())?;
    let is_stream = source.files().is_empty();
    let run = match Run::open(output, facts, &began, args.restart || is_stream)? {
        Opened::Ready(run) => run,
        Opened::Finished(mut run, finished) if args.retry_errors && finished.total.errors > 0 => {
            run.reopen()?;
            run
        }
        Opened::Finished(run, finished) => return Ok(Begun::Finished(run, finished)),
    };
    let ledger = Ledger::open(run.dir())?;
    let (id, retries) = (run.id().parse()?, run.retries());
    let done = Done::of(&ledger, run.dir().into(), retries);
    let (reopened, closed) = (done.reopened(&ledger), done.closed());
    let total = ledger.total();
    let (output, errors) = (output.to_owned(), args.errors.clone());
    let is_ordered = args.order == "input";
    let store = Store::Parts(Box::new(Parts { run, ledger, sink, output, errors, is_ordered }));
    Ok(Begun::Ready(Job { store, done, total, reopened, closed, run: id, retries }))
}

/// No file is written over another that is needed.
fn check_places(source: &Source, output: &Path, errors: Option<&Path>) -> anyhow::Result<()> {
    let real = |path: &Path| path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.into());
    for place in [Some(output), errors].into_iter().flatten() {
        let is_input = source.files().iter().any(|input| real(input) == real(place));
        ensure!(!is_input, "{} is an input: write somewhere else", place.display());
    }
    let is_same = errors.is_some_and(|errors| real(errors) == real(output));
    ensure!(!is_same, "--errors and --output are the same file");
    Ok(())
}

/// What the input was when the run was looked for.
#[derive(Clone)]
pub(super) struct Input {
    /// Its rows, where it says.
    pub(super) rows: Option<u64>,
    /// Its files, and what they were known by.
    files: Vec<(PathBuf, Value)>,
}

impl Input {
    /// The input as it is now, which the run is known by.
    pub(super) fn try_new(source: &Source, facts: &Facts) -> anyhow::Result<Self> {
        let known = facts.input.as_array().cloned().unwrap_or_default();
        Ok(Self { rows: source.rows()?, files: source.files().iter().cloned().zip(known).collect() })
    }

    /// What was read has to be what the run began with.
    pub(super) fn check(&self, read: u64) -> anyhow::Result<()> {
        if let Some(rows) = self.rows {
            ensure!(read == rows, "{read} rows were read, the input said that it has {rows}");
        }
        for (path, was) in &self.files {
            let is = fingerprint(path)?;
            ensure!(is == *was, "{} changed while it was read: it is {is}, was {was}", path.display());
        }
        Ok(())
    }
}
