//! The task in the middle: sends jobs, takes answers, hands windows on. Thin: what to do is the desk's to say.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use async_nats::header::HeaderValue;
use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::Info;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::{HeaderMap, jetstream};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use gristmill_schemas::{Lane, Namespace, Token, header};
use gristmill_score::{Desk, Gathering, Job, Piece, Room, Total};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::MissedTickBehavior;

use super::args::MaxErrors;
use super::board::{Board, Progress};
use super::collect::{Answer, News};

/// Between two looks at how far the run is.
const LOOK: Duration = Duration::from_millis(250);

/// Without an answer for so long, jobs are looked for.
const SILENCE: Duration = Duration::from_secs(3);

/// Longest wait for what the broker says of a consumer.
const PATIENCE: Duration = Duration::from_secs(2);

/// A job without an answer for so long is looked for while others are answered.
const OLD: Duration = Duration::from_secs(30);

/// Pause after the broker did not take a job.
const REFUSED: Duration = Duration::from_millis(250);

/// Windows that are being written.
const MAX_WRITING: usize = 2;

/// Parts written between two removals of results that nobody needs any more.
const PURGE_PARTS: u32 = 16;

/// Where jobs go and answers come from.
pub(super) struct Lines {
    pub(super) context: Context,
    pub(super) namespace: Namespace,
    pub(super) model: Token,
    /// The run's id, the last token of its results' subject.
    pub(super) run: Token,
    /// Version that jobs are pinned to.
    pub(super) version: Option<Token>,
    /// Digest that results have to have.
    pub(super) digest: Option<String>,
    pub(super) rooms: Rooms,
    pub(super) max_rows: usize,
    pub(super) max_errors: Option<MaxErrors>,
}

/// How much may be on its way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rooms {
    pub(super) alone: Room,
    /// While jobs come in the online lane: what is more would be in the way of theirs.
    pub(super) beside_online: Room,
}

/// The other ends: reader, writer, collector, and people.
pub(super) struct Ends {
    pub(super) windows: mpsc::Receiver<anyhow::Result<Gathering>>,
    pub(super) writer: mpsc::Sender<Gathering>,
    pub(super) written: mpsc::Receiver<anyhow::Result<(u32, Total)>>,
    pub(super) news: mpsc::Receiver<News>,
    pub(super) renew: Arc<Notify>,
    pub(super) cancel: watch::Receiver<Option<String>>,
    pub(super) progress: watch::Sender<Progress>,
}

/// How feeding ended.
pub(super) enum Ended {
    /// Every window is on disk.
    Complete,
    /// More rows failed than allowed.
    TooManyErrors,
    /// Somebody wanted it so; why.
    Cancelled(String),
}

/// Feeds a run.
pub(super) struct Feed {
    pub(super) lines: Lines,
    pub(super) desk: Desk,
    pub(super) board: Board,
    /// What is on disk.
    pub(super) total: Total,
    /// Windows handed to the writer and not on disk: their rows, and those that failed.
    writing: BTreeMap<u32, [u64; 2]>,
    /// Windows of an earlier time that are to be scored again: their failed rows, which count no more.
    reopened: BTreeMap<u32, u64>,
    is_catching_up: bool,
    input_ended: bool,
    /// The broker does not take jobs before.
    pause: Option<Instant>,
    trouble: Option<String>,
    last_answer: Instant,
    /// When lost jobs were last looked for.
    last_look: Instant,
    /// Every job up to this sequence was settled when the reader of results was made anew.
    floor: Option<u64>,
    /// Online jobs delivered, when last looked.
    online: Option<u64>,
    /// Of the last result.
    seen: u64,
    parts: u32,
}

impl Feed {
    pub(super) fn new(lines: Lines, desk: Desk, total: Total, reopened: BTreeMap<u32, u64>) -> Self {
        Self {
            lines,
            desk,
            board: Board::new(),
            total,
            writing: BTreeMap::new(),
            reopened,
            is_catching_up: false,
            input_ended: false,
            pause: None,
            trouble: None,
            last_answer: Instant::now(),
            last_look: Instant::now(),
            floor: None,
            online: None,
            seen: 0,
            parts: 0,
        }
    }

    /// Runs until all is done, or until it cannot or shall not go on.
    pub(super) async fn run(&mut self, ends: &mut Ends) -> anyhow::Result<Ended> {
        if let Some(why) = self.catch_up(ends).await? {
            return Ok(Ended::Cancelled(why));
        }
        let mut publishes = FuturesUnordered::new();
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            while let Some(job) = self.next_job()? {
                publishes.push(publish(&self.lines, job));
            }
            while let Some(window) = self.desk.complete() {
                self.writing.insert(window.index(), [window.rows() as u64, window.errors() as u64]);
                hand_over(ends, window).await?;
            }
            if self.has_too_many_errors() {
                return Ok(Ended::TooManyErrors);
            }
            if self.input_ended && self.desk.is_empty() && self.writing.is_empty() {
                return Ok(Ended::Complete);
            }
            let rest = self.desk.wakes().map(|at| self.pause.map_or(at, |pause| at.max(pause)));
            let wants_window = !self.input_ended && self.desk.wants_window() && self.writing.len() < MAX_WRITING;
            tokio::select! {
                window = ends.windows.recv(), if wants_window => match window {
                    Some(window) => self.desk.open(window?, self.seen),
                    None => self.input_ended = true,
                },
                Some((piece, stored)) = publishes.next() => self.stored(piece, stored)?,
                news = ends.news.recv() => self.hear(news.context("the collector is gone")?)?,
                part = ends.written.recv() => self.written(part.context("the writer is gone")??).await,
                () = rested(rest) => {}
                _ = looks.tick() => self.look(ends).await,
                _ = ends.cancel.changed() => return Ok(Ended::Cancelled(why(&ends.cancel))),
            }
        }
    }

    /// Answers to an earlier process come first: what is here need not be asked for. Tells why nobody wants them any more.
    async fn catch_up(&mut self, ends: &mut Ends) -> anyhow::Result<Option<String>> {
        self.is_catching_up = true;
        loop {
            tokio::select! {
                news = ends.news.recv() => match news.context("the collector is gone")? {
                    News::CaughtUp => {
                        self.is_catching_up = false;
                        return Ok(None);
                    }
                    news => self.hear(news)?,
                },
                _ = ends.cancel.changed() => return Ok(Some(why(&ends.cancel))),
            }
            let trouble = self.trouble.clone();
            ends.progress.send_modify(|progress| progress.state = trouble.unwrap_or_else(|| "starting".into()));
        }
    }

    fn next_job(&mut self) -> anyhow::Result<Option<Job>> {
        if self.pause.is_some_and(|until| Instant::now() < until) {
            return Ok(None);
        }
        Ok(self.desk.next(Instant::now())?)
    }

    fn stored(&mut self, piece: Piece, stored: Result<u64, PublishError>) -> anyhow::Result<()> {
        match stored {
            Ok(sequence) => {
                self.desk.stored(piece, sequence);
                (self.pause, self.trouble) = (None, None);
            }
            Err(error) if error.kind() == PublishErrorKind::MaxPayloadExceeded => bail!("job {piece}: {error}"),
            // Full, without a leader, away: it may come back, and nothing is lost meanwhile.
            Err(error) => {
                self.desk.not_stored(piece);
                self.pause = Some(Instant::now() + REFUSED);
                self.trouble = Some(format!("the broker does not take jobs: {error}"));
            }
        }
        Ok(())
    }

    fn hear(&mut self, news: News) -> anyhow::Result<()> {
        match news {
            News::Result(answer) => self.answer(&answer),
            News::CaughtUp => {
                if let Some(floor) = self.floor.take() {
                    self.desk.settled(floor);
                }
                self.trouble = None;
                Ok(())
            }
            News::Trouble(why) => {
                self.trouble = Some(format!("results cannot be read: {why}"));
                Ok(())
            }
        }
    }

    fn answer(&mut self, answer: &Answer) -> anyhow::Result<()> {
        (self.last_answer, self.seen) = (Instant::now(), answer.sequence);
        let digest = answer.header(header::MODEL_DIGEST);
        if self.desk.piece(answer.id()).is_none() {
            return Ok(());
        }
        if let Some(pinned) = self.lines.digest.as_deref().filter(|pinned| !digest.is_empty() && digest != *pinned) {
            // What ended the run before must not end it again.
            if self.is_catching_up {
                return Ok(());
            }
            let version = answer.header(header::MODEL_VERSION);
            bail!(
                "job {} was answered by version {version} ({digest}), the run began with {pinned}: begin anew with --restart, and with --follow-model if it may change",
                answer.id()
            );
        }
        let heard = self.desk.reply(answer.id(), &answer.payload, Instant::now())?;
        self.board.heard(heard, answer.header(header::WORKER));
        Ok(())
    }

    fn has_too_many_errors(&self) -> bool {
        self.lines.max_errors.is_some_and(|most| most.is_exceeded(self.errors(), self.answered()))
    }

    /// Rows that failed, wherever their windows are.
    fn errors(&self) -> u64 {
        let writing: u64 = self.writing.values().map(|[_, errors]| errors).sum();
        let before: u64 = self.reopened.values().sum();
        (self.total.errors + writing + self.desk.errors() as u64).saturating_sub(before)
    }

    /// Rows that have an answer or a fault.
    fn answered(&self) -> u64 {
        self.total.rows + self.writing.values().map(|[rows, _]| rows).sum::<u64>() + self.desk.answered() as u64
    }

    async fn written(&mut self, (window, total): (u32, Total)) {
        self.desk.written(window);
        self.writing.remove(&window);
        self.reopened.remove(&window);
        (self.total, self.parts) = (total, self.parts + 1);
        if self.parts.is_multiple_of(PURGE_PARTS) {
            self.purge(self.desk.needed_from().unwrap_or(self.seen + 1)).await;
        }
    }

    /// Removes results before this sequence, which are on disk. One that stays is removed by its age.
    pub(super) async fn purge(&self, before: u64) {
        // To the server, none would mean all.
        if before <= 1 {
            return;
        }
        let lines = &self.lines;
        let subject = lines.namespace.result_subject(&lines.model, &lines.run);
        let Ok(stream) = lines.context.get_stream_no_info(lines.namespace.stream("RESULTS")).await else { return };
        drop(stream.purge().filter(subject).sequence(before).await);
    }

    async fn look(&mut self, ends: &mut Ends) {
        let is_silent = self.last_answer.elapsed() > SILENCE && self.desk.outstanding() > 0;
        let is_old = self.desk.oldest().is_some_and(|sent| sent.elapsed() > OLD) && self.last_look.elapsed() > OLD;
        if (is_silent || is_old) && self.floor.is_none() {
            self.last_look = Instant::now();
            // Before the reader is made anew: what is settled now has its answer stored.
            self.floor = self.settled().await;
            self.last_answer = Instant::now();
            ends.renew.notify_one();
        }
        self.make_room().await;
        let (errors, answered) = (self.errors(), self.answered());
        let (lines, desk) = (&self.lines, &self.desk);
        let state = self.trouble.clone().unwrap_or_else(|| match is_silent {
            true => "waiting for answers".into(),
            false => "scoring".into(),
        });
        let (total, board) = (&self.total, &mut self.board);
        ends.progress.send_modify(|progress| {
            progress.state = state;
            (progress.done, progress.codes) = (total.rows, total.codes.clone());
            (progress.errors, progress.answered) = (errors, answered);
            progress.outstanding = desk.outstanding();
            board.look(progress, lines.max_rows);
        });
    }

    /// Steps aside while others wait for answers.
    async fn make_room(&mut self) {
        let delivered = self.lane(Lane::Online).await.map(|info| info.delivered.consumer_sequence);
        let is_used = delivered.is_some() && self.online.is_some() && delivered != self.online;
        self.online = delivered.or(self.online);
        let Rooms { alone, beside_online } = self.lines.rooms;
        self.desk.set_room(if is_used { beside_online } else { alone });
    }

    /// Up to which sequence every job of the lane is settled; none where nobody says.
    async fn settled(&self) -> Option<u64> {
        self.lane(Lane::Bulk).await.map(|info| info.ack_floor.stream_sequence)
    }

    async fn lane(&self, lane: Lane) -> Option<Info> {
        let lines = &self.lines;
        let stream = lines.context.get_stream_no_info(lines.namespace.stream("JOBS")).await.ok()?;
        let info = stream.consumer_info(Namespace::consumer(&lines.model, lane));
        tokio::time::timeout(PATIENCE, info).await.ok()?.ok()
    }
}

/// Never waits: there is room for more windows than are ever on their way. Where the writer is gone, says why.
async fn hand_over(ends: &mut Ends, window: Gathering) -> anyhow::Result<()> {
    if ends.writer.send(window).await.is_ok() {
        return Ok(());
    }
    while let Some(written) = ends.written.recv().await {
        written?;
    }
    bail!("the writer is gone")
}

/// The end of a rest, where there is one.
async fn rested(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until.into()).await,
        None => std::future::pending().await,
    }
}

/// Why the run was ended.
fn why(cancel: &watch::Receiver<Option<String>>) -> String {
    cancel.borrow().clone().unwrap_or_else(|| "interrupted".into())
}

fn publish(lines: &Lines, job: Job) -> impl Future<Output = (Piece, Result<u64, PublishError>)> + use<> {
    let mut headers = HeaderMap::new();
    let mut set = |name: &'static str, value: &str| headers.insert(name, HeaderValue::from(value));
    set(header::JOB_ID, &job.id);
    set(header::MSG_ID, &job.message_id);
    set(header::REPLY, lines.run.as_str());
    set(header::TRACEPARENT, &job.trace.to_string());
    // The input has the rows, and a job with a bad one comes again in pieces.
    set(header::DEAD_LETTER, "none");
    set(header::EXPECTED_STREAM, &lines.namespace.stream("JOBS"));
    lines.version.iter().for_each(|version| set(header::VERSION, version.as_str()));
    let subject = lines.namespace.job_subject(&lines.model, Lane::Bulk);
    let (context, piece): (jetstream::Context, Piece) = (lines.context.clone(), job.piece);
    async move {
        let stored = match context.publish_with_headers(subject, headers, job.body).await {
            Ok(ack) => ack.await.map(|ack| ack.sequence),
            Err(error) => Err(error),
        };
        (piece, stored)
    }
}
