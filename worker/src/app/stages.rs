//! The chain of stages, from the last to the first.

use std::sync::Arc;

use gristmill_schemas::topology::Ready;
use gristmill_schemas::{Lane, Namespace, Token};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

use crate::batch::Batcher;
use crate::config::Config;
use crate::decode::{Decoder, Redelivery};
use crate::intake::{Intake, Journal};
use crate::lag::LagWatch;
use crate::link::Current;
use crate::message::{Broken, Consumer, Outcome, Report};
use crate::publish::{Names, Publisher};
use crate::rescue::{Left, Recoverer, Stray, Sweeper};
use crate::respond::Responder;
use crate::route::{Routed, Routes};
use crate::settle::Settler;
use crate::shutdown::{self, Stopped, Stopper};
use crate::status::Status;
use crate::telemetry::{SlowLog, Vitals};
use crate::ticket::{Closed, Notice};

/// Both ends of every channel. What a stage has done in one go travels as one burst: one wake-up for the next stage.
///
/// Each has room for all jobs in flight, should each be a burst of its own, so that no stage waits on a full channel in a
/// circle; settle hears of an opening and a settlement for each job. The slack is for jobs that the sweeper takes in beside.
pub(super) struct Ends {
    pub(super) outcomes: (mpsc::Sender<Vec<Outcome>>, mpsc::Receiver<Vec<Outcome>>),
    pub(super) reports: (mpsc::Sender<Report>, mpsc::Receiver<Report>),
    pub(super) broken: (mpsc::Sender<Broken>, mpsc::Receiver<Broken>),
    jobs: (mpsc::Sender<Vec<Routed>>, mpsc::Receiver<Vec<Routed>>),
    notices: (mpsc::Sender<Vec<Notice>>, mpsc::Receiver<Vec<Notice>>),
    closed: (mpsc::Sender<Vec<Closed>>, mpsc::Receiver<Vec<Closed>>),
    /// Most messages that the client may hold for us unread.
    pub(super) subscriptions: usize,
}

/// More than the jobs that sweepers hold at once, see `Topology::sweeper`.
const SLACK: usize = 1024;

impl Ends {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            outcomes: mpsc::channel(capacity),
            reports: mpsc::channel(256),
            broken: mpsc::channel(1),
            jobs: mpsc::channel(capacity),
            notices: mpsc::channel(2 * capacity + SLACK),
            closed: mpsc::channel(capacity + SLACK),
            subscriptions: 2 * capacity + SLACK,
        }
    }
}

/// Where jobs enter the chain.
#[derive(Clone)]
struct Into {
    routes: Arc<Routes>,
    jobs: mpsc::Sender<Vec<Routed>>,
    outcomes: mpsc::Sender<Vec<Outcome>>,
    notices: mpsc::Sender<Vec<Notice>>,
    stopped: Stopped,
}

/// What the stages are made of.
pub(super) struct Stages<'a> {
    pub(super) config: &'a Config,
    pub(super) nats: Current,
    pub(super) vitals: &'a Vitals,
    pub(super) ready: Ready,
}

/// The running chain.
pub(super) struct Started {
    pub(super) stopper: Stopper,
    pub(super) tasks: JoinSet<&'static str>,
    pub(super) settle: JoinHandle<()>,
    pub(super) broken: mpsc::Receiver<Broken>,
    /// Beside the chain: they look and answer questions, and hold no job.
    pub(super) observers: JoinSet<()>,
}

impl Stages<'_> {
    /// Starts every stage. Each gets the only copies of the ends it needs: what is left of `ends` is dropped here, so that
    /// a stage ends when the one before it has.
    pub(super) async fn start(&self, ends: Ends, routes: Routes, left: Left) -> Started {
        let Ends { outcomes, reports, broken, jobs, notices, closed, .. } = ends;
        let Left { ledger, returned, reached, strays } = left;
        let consumers = consumers(routes.models.keys());
        let journal = Journal::new(ledger, returned, reached, &consumers, self.ready.ack_wait);
        let (stopper, stopped) = shutdown::channel();
        let mut tasks = JoinSet::new();
        let settle = tokio::spawn(self.settler(closed.0).run(notices.1));
        let publisher = self.publisher(outcomes.1);
        tasks.spawn(async { named("publish", publisher.run()).await });
        let batcher = self.batcher(jobs.1, reports.1, outcomes.0.clone());
        tasks.spawn(async { named("batch", batcher.run()).await });
        let sweeper = self.sweeper(outcomes.0.clone(), notices.0.clone(), stopped.clone());
        tasks.spawn(async { named("sweep", sweeper.run()).await });
        let adopted = strays.iter().map(|stray| stray.sequence).collect();
        let into = Into { routes: Arc::new(routes), jobs: jobs.0, outcomes: outcomes.0, notices: notices.0, stopped };
        let recoverer = self.recoverer(strays, consumers.clone(), into.clone());
        tasks.spawn(async { named("recover", recoverer.run()).await });
        let observers = self.observers(consumers.clone());
        let intake = self.intake(consumers, into, closed.1, adopted, journal);
        tasks.spawn(async { named("intake", intake.run()).await });
        Started { stopper, tasks, settle, broken: broken.1, observers }
    }

    fn observers(&self, consumers: Vec<Arc<Consumer>>) -> JoinSet<()> {
        let (nats, stream) = (self.nats.clone(), self.names().jobs);
        let lag = LagWatch { nats: nats.clone(), stream, consumers, health: Arc::clone(&self.vitals.health) };
        let status = Status {
            worker: self.config.worker.clone(),
            permits: self.config.limits.in_flight,
            vitals: self.vitals.clone(),
        };
        let responder = Responder { nats, subject: self.config.namespace.status_subject(), status };
        let mut observers = JoinSet::new();
        observers.spawn(lag.run());
        observers.spawn(responder.run());
        observers
    }

    fn settler(&self, closed: mpsc::Sender<Vec<Closed>>) -> Settler {
        Settler {
            nats: self.nats.clone(),
            jobs: self.names().jobs,
            link: self.vitals.health.link.subscribe(),
            closed,
            ack_wait: self.ready.ack_wait,
            vitals: self.vitals.clone(),
        }
    }

    fn publisher(&self, inbox: mpsc::Receiver<Vec<Outcome>>) -> Publisher {
        Publisher {
            inbox,
            nats: self.nats.clone(),
            names: self.names(),
            window: self.config.limits.publish_window,
            together: self.ready.batched_results,
            vitals: self.vitals.clone(),
            slow: SlowLog::new(self.config.slow_job),
        }
    }

    fn batcher(
        &self,
        inbox: mpsc::Receiver<Vec<Routed>>,
        reports: mpsc::Receiver<Report>,
        outcomes: mpsc::Sender<Vec<Outcome>>,
    ) -> Batcher {
        let (counters, health) = (Arc::clone(&self.vitals.counters), Arc::clone(&self.vitals.health));
        Batcher { inbox, reports, outcomes, counters, health }
    }

    fn sweeper(
        &self,
        outcomes: mpsc::Sender<Vec<Outcome>>,
        notices: mpsc::Sender<Vec<Notice>>,
        stopped: Stopped,
    ) -> Sweeper {
        Sweeper {
            nats: self.nats.clone(),
            consumer: self.ready.sweeper.clone(),
            namespace: self.config.namespace.clone(),
            decoder: self.decoder(),
            outcomes,
            notices,
            stopped,
            counters: Arc::clone(&self.vitals.counters),
        }
    }

    fn recoverer(&self, strays: Vec<Stray>, consumers: Vec<Arc<Consumer>>, into: Into) -> Recoverer {
        let Into { routes, jobs, outcomes, notices, stopped } = into;
        Recoverer {
            strays,
            nats: self.nats.clone(),
            namespace: self.config.namespace.clone(),
            consumers,
            decoder: self.decoder(),
            routes,
            jobs,
            outcomes,
            notices,
            stopped,
            counters: Arc::clone(&self.vitals.counters),
        }
    }

    fn intake(
        &self,
        consumers: Vec<Arc<Consumer>>,
        into: Into,
        closed: mpsc::Receiver<Vec<Closed>>,
        adopted: Vec<u64>,
        journal: Journal,
    ) -> Intake {
        let Into { routes, jobs, outcomes, notices, stopped } = into;
        Intake {
            nats: self.nats.clone(),
            stream: self.names().jobs,
            consumers,
            capacity: self.config.limits.in_flight,
            ack_wait: self.ready.ack_wait,
            adopted,
            journal,
            decoder: self.decoder(),
            routes,
            jobs,
            outcomes,
            notices,
            closed,
            stopped,
            vitals: self.vitals.clone(),
        }
    }

    fn decoder(&self) -> Decoder {
        let Ready { ack_wait, max_deliver, .. } = self.ready;
        let redelivery = Redelivery { ack_wait, max_deliver };
        let (max_bytes, tracing) = (self.config.limits.job_bytes, self.vitals.tracing.clone());
        Decoder { stream: self.names().jobs.into(), max_bytes, redelivery, tracing }
    }

    fn names(&self) -> Names {
        let namespace = self.config.namespace.clone();
        let [jobs, results, dlq] = ["JOBS", "RESULTS", "DLQ"].map(|kind| namespace.stream(kind));
        let propagation = self.vitals.tracing.propagation;
        Names { namespace, worker: self.config.worker.clone(), jobs, results, dlq, propagation }
    }
}

async fn named(stage: &'static str, task: impl Future<Output = ()>) -> &'static str {
    task.await;
    stage
}

fn consumers<'a>(models: impl Iterator<Item = &'a Token>) -> Vec<Arc<Consumer>> {
    let consumer =
        |model: &Token, lane| Consumer { model: model.clone(), lane, name: Namespace::consumer(model, lane).into() };
    let mut all: Vec<_> = models.flat_map(|model| Lane::ALL.map(|lane| Arc::new(consumer(model, lane)))).collect();
    // Where permits are short the first ones are asked first: not the same ones by every worker.
    fastrand::shuffle(&mut all);
    all
}
