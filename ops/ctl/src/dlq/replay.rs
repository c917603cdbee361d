use std::time::Duration;

use anyhow::{Context as _, anyhow};
use async_nats::HeaderMap;
use async_nats::header::HeaderValue;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::Stream;
use gristmill_schemas::{Namespace, Replay, is_jobs_own};
use tokio::time::{Interval, MissedTickBehavior};

use super::choice::Choice;
use super::letter::{self, Letter};
use super::select::Selection;
use super::summary::Summary;
use crate::error::Failure;
use crate::table;

/// Puts jobs back into their queues.
#[derive(clap::Args)]
#[command(after_help = "Needs numbers, a filter other than --limit, or --all.\n\n\
    A job has the bytes and headers it had; its dead letter is deleted once it is stored. It keeps its id, so its sender \
    knows the answer. Its timeout (Gristmill-Timeout-Ms) counts anew \
    from now. A job that is refused again becomes a new dead letter, which this run does not replay.\n\n\
    After an interruption run the same again: a job that was stored already is not stored twice within the duplicate \
    window of the jobs stream (2 minutes unless set).\n\n\
    Exit code 5: some were skipped, because too much of the job was left out of the dead letter, its subject is no job \
    subject of this namespace, it was replayed --max-replays times, or there is none of that number. They are kept.\n\n\
    Examples:\n  \
    gristmill dlq replay 17\n  \
    gristmill dlq replay --model digits --code internal --newer-than 2h --dry-run\n  \
    gristmill dlq replay --all --rate 20")]
pub struct Args {
    #[command(flatten)]
    choice: Choice,

    /// Say what would be replayed, change nothing
    #[arg(long)]
    dry_run: bool,

    /// Jobs per second at most, 0 for no limit
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    rate: u32,

    /// Skip jobs that were replayed this often already
    #[arg(long, value_name = "N", default_value_t = 3)]
    max_replays: u32,

    /// Print a summary as JSON
    #[arg(long)]
    json: bool,
}

/// What a replay needs at each dead letter.
struct Replayer<'a> {
    context: &'a Context,
    namespace: &'a Namespace,
    stream: &'a Stream,
    args: &'a Args,
}

pub(super) async fn run(context: &Context, namespace: &Namespace, stream: &Stream, args: Args) -> Result<(), Failure> {
    let mut selection = Selection::open(namespace, stream, &args.choice.numbers, &args.choice.filter).await?;
    let mut summary = Summary::new("replayed", args.dry_run);
    let replayer = Replayer { context, namespace, stream, args: &args };
    let ended = replayer.all(&mut selection, &mut summary).await;
    summary.close(selection, ended, args.json)
}

impl Replayer<'_> {
    async fn all(&self, selection: &mut Selection<'_>, summary: &mut Summary) -> anyhow::Result<()> {
        let mut pace = pace(self.args.rate);
        while let Some(letter) = selection.next().await? {
            match self.plan(&letter) {
                Err(why) => summary.skip(letter.sequence, why),
                Ok(replay) if self.args.dry_run => {
                    self.announce(&letter, &replay)?;
                    summary.done += 1;
                }
                Ok(replay) => {
                    if let Some(pace) = &mut pace {
                        pace.tick().await;
                    }
                    match letter::read(self.stream, letter.sequence).await? {
                        Some(found) => {
                            self.replay(&replay, found).await?;
                            summary.done += 1;
                        }
                        None => summary.skip(letter.sequence, "somebody else replayed or deleted it meanwhile"),
                    }
                }
            }
        }
        Ok(())
    }

    fn plan<'l>(&self, letter: &'l Letter) -> Result<Replay<'l>, String> {
        let replay = Replay::try_new(self.namespace, |name| letter.find(name)).map_err(|why| why.to_string())?;
        let (before, limit) = (replay.count - 1, self.args.max_replays);
        if before >= limit {
            return Err(format!("it was replayed {before} times, --max-replays is {limit}"));
        }
        Ok(replay)
    }

    fn announce(&self, letter: &Letter, replay: &Replay<'_>) -> std::io::Result<()> {
        if self.args.json {
            return Ok(());
        }
        let Replay { subject, count, msg_id, .. } = replay;
        table::line(format!("{} would go to {subject} as {msg_id}, replay {count}", letter.sequence))
    }

    /// Stores the job, then deletes the dead letter. Interrupted between the two, the next attempt is told `duplicate`,
    /// which is as good as stored.
    async fn replay(&self, replay: &Replay<'_>, found: StreamMessage) -> anyhow::Result<()> {
        let headers = headers(replay, &found)?;
        let stored = match self.context.publish_with_headers(replay.subject.to_owned(), headers, found.payload).await {
            Ok(ack) => ack.await,
            Err(error) => Err(error),
        };
        stored.map_err(|error| match error.kind() {
            PublishErrorKind::StreamNotFound => {
                anyhow!("no stream takes the job of dead letter {} (gristmill setup creates it)", found.sequence)
            }
            _ => anyhow!("the job of dead letter {} was not stored: {error}", found.sequence),
        })?;
        let stays = "the job is back in its queue, its dead letter is still there; run the same again soon";
        letter::delete(self.context, self.stream, found.sequence).await.context(stays)
    }
}

/// The job's own headers, and those of this replay.
fn headers(replay: &Replay<'_>, found: &StreamMessage) -> anyhow::Result<HeaderMap> {
    let own = found.headers.iter().filter(|(name, _)| is_jobs_own((*name).as_ref()));
    let mut headers = HeaderMap::new();
    for (name, values) in own {
        values.iter().for_each(|value| headers.append(name.clone(), value.clone()));
    }
    for (name, value) in replay.headers(&found.payload) {
        headers.insert(name, value.parse::<HeaderValue>().with_context(|| format!("header {name}"))?);
    }
    Ok(headers)
}

/// Evenly spaced, without catching up: what waits behind a slow answer must not come as a burst.
fn pace(rate: u32) -> Option<Interval> {
    let period = Duration::from_secs(1).checked_div(rate)?;
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Some(interval)
}
