use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use async_nats::Message;
use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep_until};

use super::burst::{Burst, Out};
use super::credit::{Admission, Credit, EXPIRES, Pull};
use super::journal::Journal;
use super::reader::{Place, Reader};
use super::silence::{SILENCE, Silence};
use super::status::Status;
use crate::decode::Decoder;
use crate::link::{Current, Inbox};
use crate::message::{Consumer, Delivery, Origin, Outcome, Suspicion};
use crate::route::{Routed, Routes};
use crate::shutdown::Stopped;
use crate::telemetry::{ConsumerMeters, Count, Link, Vitals};
use crate::ticket::{Closed, Notice, Ticket};

/// A consumer that cannot serve is asked again after this long.
const RETRY: Duration = Duration::from_secs(1);

/// Messages taken from the subscription at once.
const BURST: usize = 256;

/// When a burst came, on both clocks.
type Anchor = (OffsetDateTime, Instant);

/// How often the ledger is told that this process lives, at least.
const TOUCH: Duration = Duration::from_secs(1);

/// The intake task.
pub struct Intake {
    /// Pulls go out and jobs come in here.
    pub nats: Current,
    /// Name of the jobs stream.
    pub stream: String,
    /// Consumers to pull from.
    pub consumers: Vec<Arc<Consumer>>,
    /// Most jobs accepted or asked for.
    pub capacity: usize,
    /// After this long without an answer or a keep-alive, the server delivers again.
    pub ack_wait: Duration,
    /// Jobs that a dead worker left and this one has taken up.
    pub adopted: Vec<u64>,
    /// Where each job is entered before anything else is done with it.
    pub journal: Journal,
    /// Reads jobs.
    pub decoder: Decoder,
    /// The models that they are for.
    pub routes: Arc<Routes>,
    /// Where jobs go.
    pub jobs: mpsc::Sender<Vec<Routed>>,
    /// Where refusals go.
    pub outcomes: mpsc::Sender<Vec<Outcome>>,
    /// Where openings go; tickets get clones.
    pub notices: mpsc::Sender<Vec<Notice>>,
    /// Deliveries that are settled.
    pub closed: mpsc::Receiver<Vec<Closed>>,
    /// The end.
    pub stopped: Stopped,
    /// Written: deliveries, jobs in flight, pulling, consumers that refuse pulls. Read: whether the connection is up and
    /// results can be stored; otherwise nothing is asked for, since requests would pile up in the client, and jobs in the
    /// worker.
    pub vitals: Vitals,
}

impl Intake {
    /// Runs until the stop is announced and the last pull has ended. Jobs that come in between are given back.
    pub async fn run(self) {
        let Self { nats, stream, consumers, journal, decoder, routes, notices, vitals, .. } = self;
        let next = consumers.iter().map(|c| format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{}", c.name)).collect();
        let mut credit = Credit::new(self.capacity, self.ack_wait, consumers.iter().map(|consumer| consumer.lane));
        self.adopted.into_iter().for_each(|sequence| credit.adopt(sequence));
        let puller = Puller {
            reader: Reader::new(nats.context()),
            inbox: Inbox::open(nats).await,
            silence: Silence::default(),
            out: Some(Out { jobs: self.jobs, outcomes: self.outcomes }),
            burst: Burst::default(),
            credit,
            next,
            meters: consumers.iter().map(|c| vitals.meters.consumer(&c.name, &c.model)).collect(),
            consumers,
            journal,
            decoder,
            routes,
            notices,
            link: vitals.health.link.subscribe(),
            stalled: vitals.health.stalled.subscribe(),
            refusing: BTreeMap::new(),
            vitals,
        };
        puller.run(self.closed, self.stopped).await;
    }
}

struct Puller {
    inbox: Inbox,
    silence: Silence,
    reader: Reader,
    /// Subject to ask each consumer on.
    next: Vec<String>,
    consumers: Vec<Arc<Consumer>>,
    /// Of each consumer.
    meters: Vec<ConsumerMeters>,
    credit: Credit,
    journal: Journal,
    decoder: Decoder,
    routes: Arc<Routes>,
    notices: mpsc::Sender<Vec<Notice>>,
    /// Jobs and refusals; `None` once the end was announced.
    out: Option<Out>,
    /// What the present burst of messages has led to.
    burst: Burst,
    link: watch::Receiver<Link>,
    stalled: watch::Receiver<Option<String>>,
    /// Consumers that refused the last pull, and why.
    refusing: BTreeMap<String, String>,
    vitals: Vitals,
}

impl Puller {
    async fn run(mut self, mut closed: mpsc::Receiver<Vec<Closed>>, mut stopped: Stopped) {
        self.vitals.health.pulling.store(true, Ordering::Relaxed);
        let mut losses = self.link.borrow_and_update().losses;
        let mut touch = interval(TOUCH);
        touch.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.out.is_some() || self.credit.has_open_pulls() {
            let now = Instant::now();
            let lost = self.credit.write_off(now) as u64;
            if lost > 0 {
                self.vitals.counters.add(Count::PullsLost, lost);
                self.lost(now).await;
            }
            if self.may_ask() {
                for pull in self.credit.grant(now) {
                    self.ask(pull).await;
                }
            }
            self.journal.asked(self.credit.asked());
            let wake = self.credit.next_wake().unwrap_or(now + RETRY);
            tokio::select! {
                message = self.inbox.next() => {
                    self.silence.broken();
                    let anchor = (OffsetDateTime::now_utc(), Instant::now());
                    self.take(message, anchor);
                    for _ in 1..BURST {
                        let Some(message) = self.inbox.ready() else { break };
                        self.take(message, anchor);
                    }
                    self.journal.turn_page();
                    self.burst.hand_on(&self.notices, self.out.as_ref()).await;
                }
                ended = closed.recv() => {
                    let Some(ended) = ended else { break };
                    ended.into_iter().for_each(|ended| self.close(ended));
                }
                () = sleep_until(wake.into()) => {}
                _ = touch.tick() => self.journal.touch(SystemTime::now()),
                changed = self.link.changed() => {
                    // The senders live in health, which outlives every stage.
                    if changed.is_err() { break }
                    let seen = std::mem::replace(&mut losses, self.link.borrow_and_update().losses);
                    if losses > seen {
                        self.silence.broken();
                        self.credit.disconnected(Instant::now());
                    }
                }
                changed = self.stalled.changed() => {
                    if changed.is_err() { break }
                }
                () = stopped.wait(), if self.out.is_some() => {
                    self.out = None;
                    self.vitals.health.pulling.store(false, Ordering::Relaxed);
                }
            }
            self.vitals.health.in_flight.store(self.credit.in_flight(), Ordering::Relaxed);
            let windows = self.credit.windows().zip(&self.meters);
            windows.for_each(|(jobs, meters)| meters.window.store(jobs, Ordering::Relaxed));
        }
        self.vitals.health.pulling.store(false, Ordering::Relaxed);
        self.outlast(closed).await;
    }

    /// Goes on telling the ledger that the process lives while the stages behind finish.
    async fn outlast(self, mut closed: mpsc::Receiver<Vec<Closed>>) {
        let Self { mut journal, notices, out, .. } = self;
        // The stages behind end when these have.
        drop((notices, out));
        let mut touch = interval(TOUCH);
        loop {
            tokio::select! {
                ended = closed.recv() => match ended {
                    Some(_) => {}
                    None => return journal.end(),
                },
                _ = touch.tick() => journal.touch(SystemTime::now()),
            }
        }
    }

    /// Pulls were lost: has the connection given up if that has gone on for too long.
    async fn lost(&mut self, now: Instant) {
        if self.silence.goes_on(now) {
            tracing::warn!("the server has not answered for {} s, connecting anew", SILENCE.as_secs());
            self.vitals.counters.inc(Count::ForcedReconnects);
            drop(self.inbox.client.force_reconnect().await);
        }
    }

    fn may_ask(&self) -> bool {
        self.out.is_some() && self.link.borrow().is_up && self.stalled.borrow().is_none()
    }

    fn close(&mut self, Closed { sequence, slot, backlog }: Closed) {
        self.credit.closed(sequence, backlog);
        slot.iter().for_each(|slot| self.journal.close(slot));
    }

    async fn ask(&self, pull: Pull) {
        let batch = pull.batch;
        let body = format!("{{\"batch\":{batch},\"expires\":{}}}", EXPIRES.as_nanos());
        let reply = format!("{}.{}.{}", self.inbox.prefix, pull.consumer, pull.id);
        let next = self.next[pull.consumer].clone();
        if let Err(error) = self.inbox.client.publish_with_reply(next, reply, body.into()).await {
            // The pull is written off when it has expired.
            tracing::warn!(%error, consumer = &*self.consumers[pull.consumer].name, "a pull was not sent");
        }
    }

    /// Takes a message of the burst that came at `anchor`.
    fn take(&mut self, message: Message, anchor: Anchor) {
        match Status::of(&message) {
            None => self.accept(message, anchor),
            Some(Status::Heartbeat) => {}
            Some(status) => {
                let mut tokens = message.subject.rsplit('.').map(str::parse);
                let (Some(Ok(id)), Some(Ok(index))) = (tokens.next(), tokens.next()) else { return };
                let index = index as usize;
                // Only the server answers on our inbox, but an index is not taken on trust.
                let Some(consumer) = self.consumers.get(index) else { return };
                let name = consumer.name.to_string();
                let retry_at = match status {
                    Status::Failed(reason) => {
                        tracing::warn!(consumer = name, reason, "a pull failed");
                        self.refused(name, Some(reason));
                        Some(Instant::now() + RETRY)
                    }
                    _ => {
                        self.refused(name, None);
                        None
                    }
                };
                self.credit.ended(index, id, retry_at);
            }
        }
    }

    /// Takes down whether a consumer refuses pulls.
    fn refused(&mut self, consumer: String, reason: Option<String>) {
        let before = match reason.clone() {
            Some(reason) => self.refusing.insert(consumer, reason),
            None => self.refusing.remove(&consumer),
        };
        if before != reason {
            self.vitals.health.refusing.send_replace(self.refusing.clone());
        }
    }

    fn accept(&mut self, message: Message, (now, received): Anchor) {
        let (message, place) = self.reader.read(message, &self.consumers);
        let Place { index, sequence, published, deliveries, pending } = match place {
            Ok(place) => place,
            Err(error) => return tracing::warn!(error, subject = %message.subject, "a message that nobody asked for"),
        };
        if !self.refusing.is_empty() {
            self.refused(self.consumers[index].name.to_string(), None);
        }
        self.vitals.counters.inc(Count::Received);
        let meters = &self.meters[index];
        meters.consumed.add(1);
        if deliveries > 1 {
            meters.redelivered.add(1);
        }
        let Some(ack) = message.reply else { return };
        if self.credit.delivered(index, sequence, pending) == Admission::Duplicate {
            self.vitals.counters.inc(Count::DuplicateDeliveries);
            return self.burst.notices.push(Notice::Renewed { sequence, ack });
        }
        // Entered before it goes anywhere: whatever it may do to the process, it can be found.
        let (slot, was_returned) = self.journal.open(index, sequence, &ack);
        self.burst.notices.push(Notice::Opened { sequence, ack });
        let ticket = Ticket::new(sequence, slot, self.notices.clone());
        if self.out.is_none() {
            return self.burst.returned.push(ticket);
        }
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
            suspicion: if was_returned { Suspicion::Cleared } else { Suspicion::ByDeliveries },
        };
        let meters = &self.meters[index];
        let decoded = self.decoder.decode(Delivery { ticket, origin }, now);
        let envelope = decoded.as_ref().map_or_else(|refusal| &refusal.envelope, |job| &job.envelope);
        meters.broker.record(envelope.in_stream.as_secs_f64());
        if meters.decode.is_due() {
            meters.decode.record(envelope.marks.decoded.saturating_duration_since(received));
        }
        if decoded.as_ref().is_ok_and(|job| job.is_suspect) {
            self.credit.suspected();
        }
        // Right away, while what was read is at hand: in another task it would have gone cold.
        match decoded.and_then(|job| self.routes.route(job)) {
            Ok(routed) => self.burst.jobs.push(routed),
            Err(refusal) => self.burst.refusals.push(*refusal),
        }
    }
}
