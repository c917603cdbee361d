//! Settle: owns the ack subject of every open delivery, keeps the open ones alive, and answers the server.

use std::time::{Duration, Instant};

use async_nats::jetstream::AckKind;
use async_nats::{Client, Subject};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use gristmill_ledger::Slot;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};

use crate::burst;
use crate::link::Current;
use crate::sequences::BySequence;
use crate::telemetry::{Count, Link, Processing, Vitals};
use crate::ticket::{Closed, Notice, Verdict};

/// A job that was given back is delivered again after this long: a bug in here cannot spin a job through its deliveries,
/// and a draining worker does not get its own jobs back, since its last pull has ended by then
/// ([`crate::intake`] keeps pulls no longer open than this).
const GIVE_BACK_DELAY: Duration = Duration::from_millis(500);

/// Longest wait for the server's confirmation of the last acknowledgement.
const BARRIER_TIMEOUT: Duration = Duration::from_secs(2);

/// Bursts taken from the inbox at once.
const BURSTS: usize = 64;

/// The settle task.
pub struct Settler {
    /// Answers go out here.
    pub nats: Current,
    /// Name of the jobs stream, to delete swept jobs from.
    pub jobs: String,
    /// Whether anything goes out: without a connection, keep-alives would pile up in the client.
    pub link: watch::Receiver<Link>,
    /// Tells intake which deliveries are closed. Has room for every open one.
    pub closed: mpsc::Sender<Vec<Closed>>,
    /// After this long without an answer or a keep-alive, the server delivers again.
    pub ack_wait: Duration,
    /// Written: answers, spans of jobs.
    pub vitals: Vitals,
}

type OpenJobs = BySequence<Open>;

/// What the settle task knows.
#[derive(Default)]
struct Books {
    open: OpenJobs,
    /// The ack subject of the last job that was acknowledged, for the barrier at the end. A copy, as in [`crate::intake`]: to share each
    /// one costs more.
    last_ack: String,
    /// Closed since intake was last told.
    closed: Vec<Closed>,
}

struct Open {
    ack: Subject,
    touched: Instant,
    /// The server no longer delivers the job: to end it is to delete it.
    is_swept: bool,
}

/// A job to be deleted, and the advisory to be answered then.
struct Swept {
    sequence: u64,
    advisory: Subject,
}

impl Settler {
    /// Runs until every delivery is settled and no more can come: `notices` ends when intake and every ticket are gone.
    pub async fn run(self, mut notices: mpsc::Receiver<Vec<Notice>>) {
        let mut books = Books::default();
        let mut bursts = Vec::with_capacity(BURSTS);
        let mut deletes = FuturesUnordered::new();
        let mut sweep = interval(self.ack_wait / 12);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                received = notices.recv_many(&mut bursts, BURSTS) => {
                    if received == 0 {
                        break;
                    }
                    let (client, now) = (self.nats.client(), Instant::now());
                    for notice in bursts.drain(..).flatten() {
                        if let Some(swept) = self.take(&client, &mut books, notice, now).await {
                            // Beside the loop: acks and keep-alives do not wait for it.
                            deletes.push(self.delete(swept));
                        }
                    }
                    if !books.closed.is_empty() {
                        // Intake may be gone: then nobody counts permits any more.
                        let _ = self.closed.send(burst::take(&mut books.closed)).await;
                    }
                }
                Some(()) = deletes.next() => {}
                _ = sweep.tick(), if self.link.borrow().is_up => self.keep_alive(&mut books.open, Instant::now()).await,
            }
        }
        while deletes.next().await.is_some() {}
        self.confirm(books.last_ack).await;
    }

    /// Takes one notice in. Returns a swept job whose end was stored, to be deleted.
    async fn take(&self, client: &Client, books: &mut Books, notice: Notice, now: Instant) -> Option<Swept> {
        let open = &mut books.open;
        match notice {
            Notice::Opened { sequence, ack } => {
                open.insert(sequence, Open { ack, touched: now, is_swept: false });
            }
            Notice::Renewed { sequence, ack } => match open.get_mut(&sequence) {
                Some(delivery) => delivery.ack = ack,
                // It was settled in between, and nobody else will answer this delivery.
                None => self.answer(client, ack, Verdict::GivenBack).await,
            },
            Notice::Swept { sequence, ack } => {
                open.insert(sequence, Open { ack, touched: now, is_swept: true });
            }
            Notice::Settled { sequence, verdict, mut slot, span, backlog } => {
                if verdict == Verdict::GivenBack && slot.as_ref().is_some_and(Slot::is_held) {
                    // A suspect that has not run, at the end of a drain: not for other workers to run beside their own.
                    // It stays in the ledger for the next process, and is delivered again after ack_wait where none comes.
                    open.remove(&sequence);
                    self.trace(span, None);
                    return None;
                }
                let began = span.is_some().then(Instant::now);
                // A swept job is deleted, not answered for.
                let is_answered = open.get(&sequence).is_some_and(|o| !o.is_swept || verdict == Verdict::GivenBack);
                let swept = self.end(client, books, sequence, verdict).await;
                let answer = began.filter(|_| is_answered);
                self.trace(span, answer.map(|began| (word(verdict), [began, Instant::now()])));
                // After the answer: a crash in between leaves the job to be found, not to be forgotten.
                slot.iter_mut().for_each(Slot::clear);
                books.closed.push(Closed { sequence, slot, backlog });
                return swept;
            }
        }
        None
    }

    /// Answers for a job. Returns it if it was swept and its end was stored.
    async fn end(&self, client: &Client, books: &mut Books, sequence: u64, verdict: Verdict) -> Option<Swept> {
        let Open { ack, is_swept, .. } = books.open.remove(&sequence)?;
        if is_swept && verdict != Verdict::GivenBack {
            return Some(Swept { sequence, advisory: ack });
        }
        if verdict == Verdict::Done {
            books.last_ack.clear();
            books.last_ack.push_str(&ack);
        }
        self.answer(client, ack, verdict).await;
        None
    }

    /// Ends a recorded job's span.
    fn trace(&self, span: Option<Box<Processing>>, answer: Option<(&'static str, [Instant; 2])>) {
        if let Some(span) = span {
            span.end(answer, &self.vitals.spans);
        }
    }

    /// Deletes a swept job and answers the advisory that told of it.
    async fn delete(&self, Swept { sequence, advisory }: Swept) {
        let verdict = match self.remove(sequence).await {
            Ok(()) => Verdict::Done,
            Err(error) => {
                // Also when another worker deleted it first: the advisory comes again and finds nothing.
                tracing::warn!(%error, sequence, "a swept job was not deleted");
                Verdict::GivenBack
            }
        };
        self.answer(&self.nats.client(), advisory, verdict).await;
    }

    async fn remove(&self, sequence: u64) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.nats.context().get_stream_no_info(&self.jobs).await?.delete_message(sequence).await?;
        Ok(())
    }

    async fn answer(&self, client: &Client, ack: Subject, verdict: Verdict) {
        let (count, payload) = match verdict {
            Verdict::Done => (Count::Acked, AckKind::Ack.into()),
            Verdict::Refused(code) => (Count::Terminated, Bytes::from(format!("+TERM {code}"))),
            Verdict::GivenBack => (Count::GivenBack, AckKind::Nak(Some(GIVE_BACK_DELAY)).into()),
        };
        self.vitals.counters.inc(count);
        publish(client, ack, payload).await;
    }

    /// Every open job hears from us after a quarter of ack_wait, and a tick of a twelfth later at most: two keep-alives
    /// in a row may be lost before the server takes the job away.
    async fn keep_alive(&self, open: &mut OpenJobs, now: Instant) {
        let client = self.nats.client();
        for delivery in open.values_mut() {
            if now.saturating_duration_since(delivery.touched) >= self.ack_wait / 4 {
                delivery.touched = now;
                self.vitals.counters.inc(Count::KeepAlives);
                publish(&client, delivery.ack.clone(), AckKind::Progress.into()).await;
            }
        }
    }

    /// Waits until the server has taken the last acknowledgement, and with it all before it on this connection.
    async fn confirm(&self, last_ack: String) {
        if last_ack.is_empty() {
            return;
        }
        let client = self.nats.client();
        let request = client.request(last_ack, AckKind::Ack.into());
        match tokio::time::timeout(BARRIER_TIMEOUT, request).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the last acknowledgement was not confirmed"),
            Err(_) => tracing::warn!("the last acknowledgement was not confirmed in time"),
        }
    }
}

/// JetStream's own, for spans.
fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Done => "ack",
        Verdict::Refused(_) => "term",
        Verdict::GivenBack => "nak",
    }
}

async fn publish(client: &Client, ack: Subject, payload: Bytes) {
    if let Err(error) = client.publish(ack, payload).await {
        // The client died. What was not answered is delivered again and deduplicated.
        tracing::warn!(%error, "an answer to the server was not sent");
    }
}
