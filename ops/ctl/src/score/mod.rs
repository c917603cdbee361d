//! `gristmill score`: files in, the same rows with the model's outputs out, by the workers that serve online.
//!
//! A thread reads, a thread writes, and one task between them feeds jobs and collects answers. The crate `gristmill-score` says
//! what rows become; here is what needs a network or a terminal.

mod args;
mod begin;
mod board;
mod collect;
mod control;
mod dry;
mod feed;
mod model;
mod read;
mod show;
mod write;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use async_nats::jetstream;
use async_nats::jetstream::context::GetStreamErrorKind;
use gristmill_schemas::{Namespace, Token};
use gristmill_score::{Desk, Finished, Limits, Plan, Room, Run, Settings, Sink, Source, Total};
use hdrhistogram::Histogram;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

pub use args::Args;

use self::begin::{Begun, Input, Job, facts, open};
use self::board::Progress;
use self::collect::Collector;
use self::feed::{Ended, Ends, Feed, Lines, Rooms};
use self::model::Model;
use self::show::Summary;
use crate::connection::Connection;
use crate::error::Failure;
use crate::table;

/// More windows than are ever on their way to the writer: the feed waits for the writer nowhere, nor the writer for the feed.
const WINDOWS: usize = 16;

/// Results that wait to be looked at.
const NEWS: usize = 256;

/// Bytes of jobs without an answer, for each instance: more make no run faster, and others wait behind them.
const INSTANCE_BYTES: usize = 4 << 20;

/// Where cores are short, others come first: those that wait for answers, and who gives them.
const NICE: i32 = 10;

/// Between two questions at the start: that nobody answers may be told at once.
const RETRY: Duration = Duration::from_millis(500);

/// Longest wait for one answer at the start: who asked when there was no leader is answered by none that comes later.
const ANSWER: Duration = Duration::from_secs(1);

/// Longest wait for a stream at the start.
const ELECTION: Duration = Duration::from_secs(30);

/// Exit codes; see `gristmill score --help`.
const TOO_MANY_ERRORS: u8 = 6;
const CANCELLED: u8 = 7;

/// Runs `gristmill score`.
pub async fn run(connection: &Connection, mut args: Args) -> Result<(), Failure> {
    if let Some(control) = args.control.take() {
        return control::run(connection, control).await;
    }
    // Refused by some systems, and no reason not to score.
    let _ = rustix::process::nice(NICE);
    let usage = |error| Failure::with(2, error);
    let wish = args.wish().map_err(usage)?;
    let (output, format) = args.sink().map_err(usage)?;
    let (source, input_format) = args.source().map_err(usage)?;
    let client = connection.client().await?;
    let name = args.model.as_ref().context("--model is missing")?;
    let (model, signature) = model::find(&client, &connection.namespace, name, args.version.as_ref()).await?;
    let mut limits = Limits::new(&signature, client.server_info().max_payload);
    if let Some(rows) = args.rows_per_job {
        limits = limits.with_rows(rows as usize).map_err(usage)?;
    }
    let plan =
        Plan::try_new(source.schema(), signature, limits, (&wish, &args.prefix, args.errors_go())).map_err(usage)?;
    let sink = Sink::try_new(format, plan.written().clone(), output.is_none()).map_err(usage)?;
    if args.dry_run {
        return Ok(dry::run(source, &plan, &model, &args)?);
    }
    let facts = facts(&args, &source, &plan, &model, [input_format, format])?;
    let opened = open(&args, &source, output, facts.clone(), sink)?;
    let job = match opened {
        Begun::Ready(job) => job,
        Begun::Finished(run, finished) => return already(&run, &finished, &args),
    };
    let scoring = Scoring {
        connection,
        client,
        args: &args,
        model,
        plan: Arc::new(plan),
        run: job.run.clone(),
        traces: facts.id(),
        input: Input::try_new(&source, &facts)?,
    };
    scoring.go(source, job).await
}

/// The run is finished already: there is nothing to do.
fn already(run: &Run, finished: &Finished, args: &Args) -> Result<(), Failure> {
    let latencies = Histogram::new(3)?;
    let output = args.output.as_deref().unwrap_or(Path::new("")).display().to_string();
    let (total, run) = (&finished.total, run.id());
    let summary = Summary {
        run,
        output: &output,
        state: "complete before",
        total,
        rows: 0,
        seconds: 0.0,
        padding: 0.0,
        latencies: &latencies,
    };
    Ok(tell(&summary, args)?)
}

/// The summary: on standard output, unless rows went there.
#[expect(clippy::print_stderr, reason = "standard output may be taken by rows")]
fn tell(summary: &Summary<'_>, args: &Args) -> anyhow::Result<()> {
    let text = if args.json { serde_json::to_string_pretty(&summary.json())? } else { summary.text() };
    if args.output.as_deref() == Some(Path::new("-")) {
        eprintln!("{text}");
        return Ok(());
    }
    Ok(table::line(text)?)
}

/// A run that is about to be fed.
struct Scoring<'a> {
    connection: &'a Connection,
    client: async_nats::Client,
    args: &'a Args,
    model: Model,
    plan: Arc<Plan>,
    run: Token,
    /// What traces are made of; see [`Settings`].
    traces: String,
    input: Input,
}

impl Scoring<'_> {
    async fn go(self, source: Source, job: Job) -> Result<(), Failure> {
        let Job { store, done, total, reopened, closed, retries, .. } = job;
        let started = Instant::now();
        let before = total.rows;
        let (args, namespace) = (self.args, &self.connection.namespace);
        let context = jetstream::new(self.client.clone());
        check_stream(&context, namespace).await?;
        let (window_sender, windows) = mpsc::channel(1);
        let (writer, to_write) = mpsc::channel(WINDOWS);
        let (written_sender, written) = mpsc::channel(WINDOWS);
        let (news_sender, news) = mpsc::channel(NEWS);
        let (cancel_sender, cancel) = watch::channel(None);
        let (progress, shown) = watch::channel(self.progress(&total));
        let renew = Arc::new(Notify::new());
        let plan = Arc::clone(&self.plan);
        let reader = std::thread::spawn(move || read::read(source, plan, done, &window_sender));
        let storing = std::thread::spawn(move || store.run(to_write, &written_sender));
        let subject = namespace.result_subject(args.model.as_ref().context("--model is missing")?, &self.run);
        let stream = namespace.stream("RESULTS");
        let collector =
            Collector { context: context.clone(), stream, subject, news: news_sender, renew: Arc::clone(&renew) };
        let subjects = [namespace.score_subject(Some(&self.run)), namespace.score_subject(None)];
        let mut beside = JoinSet::new();
        beside.spawn(collector.run());
        beside.spawn(control::answer(self.client.clone(), subjects, shown.clone(), cancel_sender.clone()));
        beside.spawn(show::show(shown, args.interval));
        beside.spawn(interrupted(cancel_sender));
        let rooms = self.rooms();
        let mut feed =
            Feed::new(self.lines(context)?, Desk::new(self.settings(retries), rooms.alone, closed), total, reopened);
        let mut ends = Ends { windows, writer, written, news, renew, cancel, progress };
        let ended = feed.run(&mut ends).await;
        ends.progress.send_modify(|progress| progress.state = "joining".into());
        // The writer ends when there are no more windows.
        drop((ends.windows, ends.writer, ends.written));
        let ended = match ended {
            Ok(Ended::Complete) => {
                let (seconds, rows) = (started.elapsed().as_secs_f64(), feed.total.rows);
                let input = self.input.clone();
                let closed = tokio::task::spawn_blocking(move || {
                    reader.join().map_err(|_| anyhow::anyhow!("the reader of the input panicked"))?;
                    input.check(rows)?;
                    let store = storing.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?;
                    store.context("the writer is gone")?.close(seconds)
                });
                closed.await?.map(|total| (Ended::Complete, total))
            }
            // Threads that wait for others are not waited for: what is on disk is whole at any time.
            Ok(ended) => Ok((ended, feed.total.clone())),
            Err(error) => Err(error),
        };
        beside.shutdown().await;
        show::clear();
        let (ended, total) = ended.with_context(|| self.unfinished(&feed.total))?;
        if matches!(ended, Ended::Complete) {
            feed.purge(u64::MAX).await;
        }
        self.close(&ended, &total, before, (started, &feed))
    }

    fn close(
        &self,
        ended: &Ended,
        total: &Total,
        before: u64,
        (started, feed): (Instant, &Feed),
    ) -> Result<(), Failure> {
        let output = self.args.output.as_deref().unwrap_or(Path::new("")).display().to_string();
        let state = match ended {
            Ended::Complete => "complete",
            Ended::TooManyErrors => "stopped",
            Ended::Cancelled(_) => "cancelled",
        };
        let (run, rows) = (self.run.as_str(), total.rows.saturating_sub(before));
        let (seconds, latencies) = (started.elapsed().as_secs_f64(), &feed.board.latencies);
        tell(
            &Summary { run, output: &output, state, total, rows, seconds, padding: feed.desk.padding(), latencies },
            self.args,
        )?;
        match ended {
            Ended::Complete => Ok(()),
            Ended::TooManyErrors => {
                let why = format!("more rows failed than --max-errors allows; {}", self.unfinished(total));
                Err(Failure::with(TOO_MANY_ERRORS, anyhow::anyhow!(why)))
            }
            Ended::Cancelled(why) => {
                Err(Failure::with(CANCELLED, anyhow::anyhow!("{why}; {}", self.unfinished(total))))
            }
        }
    }

    /// What becomes of a run that did not end.
    fn unfinished(&self, total: &Total) -> String {
        let is_file = self.args.output.as_deref() != Some(Path::new("-"));
        match is_file && !self.args.input.iter().any(|path| path == "-") {
            true => format!("{} rows of {} are kept, the same command goes on", total.rows, self.run),
            false => "what was read from or written to a stream is not kept".into(),
        }
    }

    fn progress(&self, total: &Total) -> Progress {
        Progress {
            run: self.run.to_string(),
            model: format!("{} {}", self.model.name, self.model.version),
            output: self.args.output.as_deref().unwrap_or(Path::new("")).display().to_string(),
            state: "starting".into(),
            rows: self.input.rows,
            done: total.rows,
            answered: total.rows,
            ..Progress::default()
        }
    }

    fn lines(&self, context: jetstream::Context) -> anyhow::Result<Lines> {
        let is_pinned = !self.args.follow_model;
        Ok(Lines {
            context,
            namespace: self.connection.namespace.clone(),
            model: self.args.model.clone().context("--model is missing")?,
            run: self.run.clone(),
            version: is_pinned.then(|| self.model.version.clone()),
            digest: is_pinned.then(|| self.model.digest.clone()),
            rooms: self.rooms(),
            max_rows: self.plan.signature.batching.max_rows,
            max_errors: self.args.max_errors,
        })
    }

    fn rooms(&self) -> Rooms {
        let instances = self.model.instances.max(1);
        let bytes = self.args.outstanding.map_or(INSTANCE_BYTES * instances, |mib| usize::from(mib) << 20);
        let alone = Room { bytes, jobs: usize::MAX, rest: 0.0 };
        let jobs = self.args.beside_online * instances as f64;
        Rooms { alone, beside_online: if jobs > 0.0 { alone.of_jobs(jobs) } else { alone } }
    }

    fn settings(&self, retries: u32) -> Settings {
        Settings {
            run: self.traces.clone(),
            series: format!("{}/{retries}", self.run),
            // Bodies have names and shapes beside the data, and less than half of what is kept free for headers.
            max_bytes: self.plan.limits.bytes + (8 << 10),
            trace_ratio: self.args.trace_ratio,
        }
    }
}

/// Fails early where jobs or results would have no place to go. A stream whose group elects a leader answers nobody for a while.
async fn check_stream(context: &jetstream::Context, namespace: &Namespace) -> anyhow::Result<()> {
    let mut asking = context.clone();
    asking.set_timeout(ANSWER);
    let until = Instant::now() + ELECTION;
    for kind in ["JOBS", "RESULTS"] {
        let name = namespace.stream(kind);
        while let Err(error) = asking.get_stream(&name).await {
            match error.kind() {
                GetStreamErrorKind::Request if Instant::now() < until => tokio::time::sleep(RETRY).await,
                GetStreamErrorKind::JetStream(_) => bail!("stream {name} (gristmill setup creates it): {error}"),
                _ => bail!("stream {name}: {error}"),
            }
        }
    }
    Ok(())
}

/// Tells when someone wants the end.
async fn interrupted(cancel: watch::Sender<Option<String>>) {
    let Ok(mut term) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) else { return };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = term.recv() => {}
    }
    cancel.send_replace(Some("interrupted".into()));
    // The others end the run; who ends this task ends their last sender.
    std::future::pending::<()>().await;
}
