use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, Context};
use async_nats::{Client, Message, Subscriber};
use futures_util::{FutureExt, StreamExt};
use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep_until;

use super::credit::{Admission, Credit, EXPIRES, Pull};
use super::status::Status;
use crate::decode::Decoder;
use crate::message::{Consumer, Delivery, Job, Origin, Outcome};
use crate::shutdown::Stopped;
use crate::telemetry::{Count, Counters, Health, Link};
use crate::ticket::{Notice, Ticket};

/// A consumer that cannot serve is asked again after this long.
const RETRY: Duration = Duration::from_secs(1);

/// Messages taken from the subscription at once.
const BURST: usize = 256;

/// The intake task.
pub struct Intake {
    /// Pulls go out and jobs come in here.
    pub client: Client,
    /// Name of the jobs stream.
    pub stream: String,
    /// Consumers to pull from.
    pub consumers: Vec<Arc<Consumer>>,
    /// Most jobs accepted or asked for.
    pub capacity: usize,
    /// After this long without an answer or a keep-alive, the server delivers again.
    pub ack_wait: Duration,
    /// The connection: without one nothing is asked for, since requests would pile up in the client.
    pub link: watch::Receiver<Link>,
    /// Reads jobs.
    pub decoder: Decoder,
    /// Where jobs go.
    pub jobs: mpsc::Sender<Job>,
    /// Where refusals go.
    pub outcomes: mpsc::Sender<Outcome>,
    /// Where openings go; tickets get clones.
    pub notices: mpsc::Sender<Notice>,
    /// Deliveries that are settled.
    pub closed: mpsc::Receiver<u64>,
    /// The end.
    pub stopped: Stopped,
    /// Written: deliveries.
    pub counters: Arc<Counters>,
    /// Written: jobs in flight, pulling.
    pub health: Arc<Health>,
}

/// Why intake could not start.
pub type SubscribeError = async_nats::SubscribeError;

impl Intake {
    /// Runs until the stop is announced and the last pull has ended. Jobs that come in between are given back.
    pub async fn run(self) -> Result<(), SubscribeError> {
        let Self { client, stream, consumers, decoder, notices, link, counters, health, .. } = self;
        let inbox = client.new_inbox();
        let subscriber = client.subscribe(format!("{inbox}.*.*")).await?;
        let next = consumers.iter().map(|c| format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{}", c.name)).collect();
        let puller = Puller {
            credit: Credit::new(self.capacity, self.ack_wait, consumers.iter().map(|consumer| consumer.lane)),
            context: jetstream::new(client.clone()),
            out: Some((self.jobs, self.outcomes)),
            client,
            inbox,
            next,
            consumers,
            decoder,
            notices,
            link,
            counters,
            health,
        };
        puller.run(subscriber, self.closed, self.stopped).await;
        Ok(())
    }
}

struct Puller {
    client: Client,
    context: Context,
    inbox: String,
    /// Subject to ask each consumer on.
    next: Vec<String>,
    consumers: Vec<Arc<Consumer>>,
    credit: Credit,
    decoder: Decoder,
    notices: mpsc::Sender<Notice>,
    /// Jobs and refusals; `None` once the end was announced.
    out: Option<(mpsc::Sender<Job>, mpsc::Sender<Outcome>)>,
    link: watch::Receiver<Link>,
    counters: Arc<Counters>,
    health: Arc<Health>,
}

impl Puller {
    async fn run(mut self, mut messages: Subscriber, mut closed: mpsc::Receiver<u64>, mut stopped: Stopped) {
        self.health.pulling.store(true, Ordering::Relaxed);
        let mut losses = self.link.borrow_and_update().losses;
        while self.out.is_some() || self.credit.has_open_pulls() {
            let now = Instant::now();
            let lost = self.credit.write_off(now) as u64;
            self.counters.add(Count::PullsLost, lost);
            if self.out.is_some() && self.link.borrow().is_up {
                for pull in self.credit.grant(now) {
                    self.ask(pull).await;
                }
            }
            let wake = self.credit.next_wake().unwrap_or(now + RETRY);
            tokio::select! {
                message = messages.next() => {
                    let Some(message) = message else { break };
                    self.take(message).await;
                    for _ in 1..BURST {
                        let Some(Some(message)) = messages.next().now_or_never() else { break };
                        self.take(message).await;
                    }
                }
                sequence = closed.recv() => {
                    let Some(sequence) = sequence else { break };
                    self.credit.closed(sequence);
                    while let Ok(sequence) = closed.try_recv() {
                        self.credit.closed(sequence);
                    }
                }
                () = sleep_until(wake.into()) => {}
                changed = self.link.changed() => {
                    // The sender lives in health, which outlives every stage.
                    if changed.is_err() { break }
                    let seen = std::mem::replace(&mut losses, self.link.borrow_and_update().losses);
                    if losses > seen {
                        self.credit.disconnected(Instant::now());
                    }
                }
                () = stopped.wait(), if self.out.is_some() => {
                    self.out = None;
                    self.health.pulling.store(false, Ordering::Relaxed);
                }
            }
            self.health.in_flight.store(self.credit.in_flight(), Ordering::Relaxed);
        }
        self.health.pulling.store(false, Ordering::Relaxed);
    }

    async fn ask(&self, pull: Pull) {
        let batch = pull.batch;
        let body = format!("{{\"batch\":{batch},\"expires\":{}}}", EXPIRES.as_nanos());
        let reply = format!("{}.{}.{}", self.inbox, pull.consumer, pull.id);
        if let Err(error) = self.client.publish_with_reply(self.next[pull.consumer].clone(), reply, body.into()).await {
            // The pull is written off when it has expired.
            tracing::warn!(%error, consumer = self.consumers[pull.consumer].name, "a pull was not sent");
        }
    }

    async fn take(&mut self, message: Message) {
        match Status::of(&message) {
            None => self.accept(message).await,
            Some(Status::Heartbeat) => {}
            Some(status) => {
                let mut tokens = message.subject.rsplit('.').map(str::parse);
                let (Some(Ok(id)), Some(Ok(index))) = (tokens.next(), tokens.next()) else { return };
                let index = index as usize;
                // Only the server answers on our inbox, but an index is not taken on trust.
                let Some(consumer) = self.consumers.get(index) else { return };
                let retry_at = match status {
                    Status::Failed(reason) => {
                        tracing::warn!(consumer = consumer.name, reason, "a pull failed");
                        Some(Instant::now() + RETRY)
                    }
                    _ => None,
                };
                self.credit.ended(index, id, retry_at);
            }
        }
    }

    async fn accept(&mut self, message: Message) {
        let (received, now) = (Instant::now(), OffsetDateTime::now_utc());
        let message = jetstream::Message { message, context: self.context.clone() };
        let info = match message.info() {
            Ok(info) => info,
            Err(error) => return tracing::warn!(%error, subject = %message.subject, "not a JetStream delivery"),
        };
        let Some(index) = self.consumers.iter().position(|consumer| consumer.name == info.consumer) else { return };
        self.counters.inc(Count::Received);
        let (sequence, pending) = (info.stream_sequence, info.pending);
        let (published, deliveries) = (info.published, info.delivered);
        let jetstream::Message { message, .. } = message;
        let Some(ack) = message.reply else { return };
        if self.credit.delivered(index, sequence, pending) == Admission::Duplicate {
            self.counters.inc(Count::DuplicateDeliveries);
            return self.tell(Notice::Renewed { sequence, ack }).await;
        }
        self.tell(Notice::Opened { sequence, ack }).await;
        let ticket = Ticket::new(sequence, self.notices.clone());
        let Some((jobs, outcomes)) = &self.out else { return };
        let origin = Origin {
            subject: message.subject,
            headers: message.headers,
            payload: message.payload,
            consumer: Arc::clone(&self.consumers[index]),
            sequence,
            published,
            deliveries,
            pending,
            received,
        };
        // A closed channel means that the next stage is gone: what is sent is dropped, and its job given back.
        match self.decoder.decode(Delivery { ticket, origin }, now) {
            Ok(job) => drop(jobs.send(job).await),
            Err(refusal) => drop(outcomes.send(*refusal).await),
        }
    }

    async fn tell(&self, notice: Notice) {
        // A closed channel means that settle is gone: the process is ending.
        drop(self.notices.send(notice).await);
    }
}
