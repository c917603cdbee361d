//! Asking JetStream and the workers. Thin: nothing is decided here but how long to wait.

use std::time::Duration;

use anyhow::{Context as _, bail};
use async_nats::Client;
use async_nats::connection::State;
use async_nats::jetstream::consumer::Info;
use async_nats::jetstream::{self, Context};
use futures_util::{Stream as Polls, TryStreamExt, stream};
use gristmill_schemas::{Lane, Namespace};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::snapshot::{Queue, Snapshot, Stream, Worker};
use crate::ask;
use crate::connection::Target;
use crate::error;
use crate::status::uncovered;

/// Longest wait for JetStream or a connection. Less than the client's own, so that keys and errors are not late.
const PATIENCE: Duration = Duration::from_secs(3);

/// Owns the connection and what is known from the poll before.
pub(super) struct Poller {
    target: Target,
    namespace: Namespace,
    /// Made on the first poll that succeeds in it, and kept: the client connects anew by itself.
    client: Option<Client>,
    /// Workers that answered last; none known before the first poll.
    expected: usize,
    /// Zero of the snapshots' clock.
    started: Instant,
}

impl Poller {
    pub(super) fn new(target: Target, namespace: Namespace) -> Self {
        Self { target, namespace, client: None, expected: usize::MAX, started: Instant::now() }
    }

    /// Polls for ever, once every `period`.
    pub(super) fn every(self, period: Duration) -> impl Polls<Item = anyhow::Result<Snapshot>> {
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        stream::unfold((self, ticks), |(mut poller, mut ticks)| async move {
            ticks.tick().await;
            Some((poller.poll().await, (poller, ticks)))
        })
    }

    async fn poll(&mut self) -> anyhow::Result<Snapshot> {
        let client = self.client().await?;
        let at = self.started.elapsed().as_secs_f64();
        let context = jetstream::new(client.clone());
        let (broker, workers) = tokio::join!(
            timeout(PATIENCE, broker(&context, &self.namespace)),
            timeout(PATIENCE, workers(&client, &self.namespace, self.expected))
        );
        let silence = |who: &str| format!("{who} does not answer within {} s", PATIENCE.as_secs());
        let workers = workers.with_context(|| silence("NATS"))??;
        let broker = match broker {
            Ok(broker) => broker,
            Err(_) if workers.is_empty() => bail!(silence("NATS")),
            // Without a leader, say: the workers have something to tell all the same.
            Err(_) => Snapshot { faults: vec![silence("JetStream")], ..Snapshot::default() },
        };
        self.expected = workers.len();
        Ok(Snapshot { at, workers, ..broker })
    }

    async fn client(&mut self) -> anyhow::Result<Client> {
        let client = match &self.client {
            Some(client) => client.clone(),
            None => self.client.insert(self.target.connect().await?).clone(),
        };
        // Requests over a connection that is known to be lost would only wait for their timeouts.
        if client.connection_state() != State::Connected {
            bail!("the connection to NATS at {} is lost", self.target.names());
        }
        Ok(client)
    }
}

/// Streams and consumers. One that cannot be read does not hide the others.
async fn broker(context: &Context, namespace: &Namespace) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for (index, kind) in ["JOBS", "RESULTS", "DLQ"].into_iter().enumerate() {
        let name = namespace.stream(kind);
        let read = async {
            let stream = context.get_stream(&name).await.context("gristmill setup creates it")?;
            let state = &stream.cached_info().state;
            let (messages, bytes, last_sequence) = (state.messages, state.bytes, state.last_sequence);
            snapshot.streams[index] = Some(Stream { messages, bytes, last_sequence });
            if kind == "JOBS" {
                let consumers: Vec<Info> = stream.consumers().try_collect().await?;
                snapshot.queues = consumers.iter().filter_map(queue).collect();
                snapshot.uncovered = uncovered(&stream, &consumers).await?;
            }
            anyhow::Ok(())
        };
        if let Err(error) = read.await {
            snapshot.faults.push(format!("stream {name}: {}", error::chain(&error)));
        }
    }
    snapshot
}

/// The consumer of a model and lane, by its name; others are not ours.
fn queue(info: &Info) -> Option<Queue> {
    let (model, lane) = info.name.rsplit_once('-')?;
    let (model, lane) = (model.to_owned(), lane.parse::<Lane>().ok()?);
    Some(Queue {
        model,
        lane,
        pending: info.num_pending,
        ack_pending: info.num_ack_pending,
        open_pulls: info.num_waiting,
    })
}

async fn workers(client: &Client, namespace: &Namespace, expected: usize) -> anyhow::Result<Vec<Worker>> {
    let answers = ask::all(client, namespace.status_subject(), "", expected).await?;
    Ok(answers.iter().map(|answer| Worker::read(answer)).collect())
}
