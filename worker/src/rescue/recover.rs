//! Jobs that were running when a worker died: each runs alone now, or not at all.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::{Message, Subject};
use bytes::Bytes;
use gristmill_ledger::{Cause, Slot};
use gristmill_schemas::{ErrorCode, Namespace};
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::stored::{Stored, read};
use crate::decode::Decoder;
use crate::link::Current;
use crate::message::{Consumer, Delivery, Outcome};
use crate::route::{Routed, Routes};
use crate::shutdown::Stopped;
use crate::telemetry::{Count, Counters};
use crate::ticket::{Notice, Ticket, Verdict};

/// Pause after an error of the server. The jobs are kept alive meanwhile.
const RETRY: Duration = Duration::from_secs(1);

/// A job that a dead worker was running. Its delivery goes on under the old ack subject, which is valid for any process.
#[derive(Debug)]
pub struct Stray {
    /// Its sequence in the jobs stream.
    pub sequence: u64,
    /// Where to answer.
    pub ack: Subject,
    /// Its place in the ledger.
    pub slot: Slot,
    /// It killed the worker: it must not run again.
    pub condemned: Option<Cause>,
}

/// The recover task.
pub struct Recoverer {
    /// What to take up.
    pub strays: Vec<Stray>,
    /// To read them by number.
    pub nats: Current,
    /// To read their subjects.
    pub namespace: Namespace,
    /// Consumers of the models served here.
    pub consumers: Vec<Arc<Consumer>>,
    /// Reads jobs.
    pub decoder: Decoder,
    /// The models that they are for.
    pub routes: Arc<Routes>,
    /// Where jobs go.
    pub jobs: mpsc::Sender<Vec<Routed>>,
    /// Where refusals go.
    pub outcomes: mpsc::Sender<Vec<Outcome>>,
    /// Where openings go.
    pub notices: mpsc::Sender<Vec<Notice>>,
    /// The end.
    pub stopped: Stopped,
    /// Written: jobs recovered.
    pub counters: Arc<Counters>,
}

impl Recoverer {
    /// Takes every stray up, then waits for the end: a stage that ends by itself is a failure.
    pub async fn run(mut self) {
        let mut stopped = self.stopped.clone();
        let strays = std::mem::take(&mut self.strays);
        let tickets: Vec<(Ticket, i64, Option<Cause>)> = self.open(strays).await;
        tokio::select! {
            () = self.take_up(tickets) => {}
            // The tickets drop: their jobs are given back.
            () = stopped.wait() => return,
        }
        let Self { jobs, outcomes, notices, .. } = self;
        // The stages behind end when these have.
        drop((jobs, outcomes, notices));
        stopped.wait().await;
    }

    /// Has all of them kept alive from now on.
    async fn open(&self, strays: Vec<Stray>) -> Vec<(Ticket, i64, Option<Cause>)> {
        let mut tickets = Vec::with_capacity(strays.len());
        for Stray { sequence, ack, slot, condemned } in strays {
            let deliveries = self.deliveries(&ack);
            drop(self.notices.send(vec![Notice::Opened { sequence, ack }]).await);
            tickets.push((Ticket::new(sequence, Some(slot), self.notices.clone()), deliveries, condemned));
        }
        tickets
    }

    async fn take_up(&self, tickets: Vec<(Ticket, i64, Option<Cause>)>) {
        let mut todo = VecDeque::from(tickets);
        while let Some((ticket, deliveries, condemned)) = todo.pop_front() {
            let sequence = ticket.sequence();
            match read(&self.nats.context(), &self.namespace, sequence, deliveries).await {
                // Gone: somebody has answered it.
                Ok(None) => ticket.settle(Verdict::Done),
                Ok(Some(stored)) => self.send(ticket, stored, condemned).await,
                Err(error) => {
                    tracing::warn!(%error, sequence, "a job that a dead worker left cannot be read, trying again");
                    todo.push_back((ticket, deliveries, condemned));
                    sleep(RETRY).await;
                    continue;
                }
            }
            self.counters.inc(Count::Recovered);
        }
    }

    /// A closed channel means that the next stage is gone: what is sent is dropped, and its job given back.
    async fn send(&self, ticket: Ticket, Stored { origin, fault }: Stored, condemned: Option<Cause>) {
        let now = OffsetDateTime::now_utc();
        let is_served = self.consumers.iter().any(|consumer| **consumer == *origin.consumer);
        let delivery = Delivery { ticket, origin };
        match (condemned, fault) {
            (Some(cause), _) => {
                self.counters.inc(Count::Quarantined);
                let refusal = self.decoder.refuse(delivery, now, ErrorCode::Quarantined, cause);
                drop(self.outcomes.send(vec![refusal]).await);
            }
            (None, Some(fault)) => {
                let refusal = self.decoder.refuse(delivery, now, ErrorCode::InvalidMessage, fault);
                drop(self.outcomes.send(vec![refusal]).await);
            }
            // Given back to those who serve its model, which is nothing against it.
            (None, None) if !is_served => {
                let Delivery { mut ticket, .. } = delivery;
                ticket.ran();
            }
            (None, None) => match self.decoder.decode(delivery, now).and_then(|job| self.routes.route(job)) {
                Ok(routed) => drop(self.jobs.send(vec![routed]).await),
                Err(refusal) => drop(self.outcomes.send(vec![*refusal]).await),
            },
        }
    }

    /// How often the server has delivered a job, by its ack subject.
    fn deliveries(&self, ack: &Subject) -> i64 {
        let message = Message {
            subject: ack.clone(),
            reply: Some(ack.clone()),
            payload: Bytes::new(),
            headers: None,
            status: None,
            description: None,
            length: 0,
        };
        let message = jetstream::Message { message, context: self.nats.context() };
        message.info().map_or(1, |info| info.delivered)
    }
}
