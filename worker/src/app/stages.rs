//! The chain of stages, from the last to the first.

use std::sync::Arc;

use async_nats::Client;
use async_nats::jetstream::{self, Context};
use gristmill_schemas::topology::Ready;
use gristmill_schemas::{Lane, Namespace, Token};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::batch::Batcher;
use crate::config::Config;
use crate::decode::Decoder;
use crate::intake::Intake;
use crate::message::{Consumer, Idle, Job, Outcome};
use crate::publish::{Names, Publisher};
use crate::route::Routes;
use crate::settle::Settler;
use crate::shutdown::{self, Stopped, Stopper};
use crate::sweep::Sweeper;
use crate::telemetry::{Counters, Health};
use crate::ticket::Notice;

/// Both ends of every channel.
///
/// Each has room for all jobs in flight, so that no stage waits on a full channel in a circle; settle hears of an opening
/// and a settlement for each job. The slack is for jobs that the sweeper takes in beside.
pub(super) struct Ends {
    pub(super) outcomes: (mpsc::Sender<Outcome>, mpsc::Receiver<Outcome>),
    pub(super) idle: (mpsc::Sender<Idle>, mpsc::Receiver<Idle>),
    pub(super) deaths: (mpsc::Sender<Token>, mpsc::Receiver<Token>),
    jobs: (mpsc::Sender<Job>, mpsc::Receiver<Job>),
    notices: (mpsc::Sender<Notice>, mpsc::Receiver<Notice>),
    closed: (mpsc::Sender<u64>, mpsc::Receiver<u64>),
    /// Most messages that the client may hold for us unread.
    pub(super) subscriptions: usize,
}

/// More than the jobs that sweepers hold at once, see `Topology::sweeper`.
const SLACK: usize = 1024;

impl Ends {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            outcomes: mpsc::channel(capacity),
            idle: mpsc::channel(256),
            deaths: mpsc::channel(1),
            jobs: mpsc::channel(capacity),
            notices: mpsc::channel(2 * capacity + SLACK),
            closed: mpsc::channel(capacity + SLACK),
            subscriptions: 2 * capacity + SLACK,
        }
    }
}

/// What the stages are made of.
pub(super) struct Stages<'a> {
    pub(super) config: &'a Config,
    pub(super) client: &'a Client,
    /// For publishing: lets more acknowledgements be outstanding than the window of the publish stage.
    pub(super) context: Context,
    pub(super) health: &'a Arc<Health>,
    pub(super) counters: &'a Arc<Counters>,
    pub(super) ready: Ready,
}

/// The running chain.
pub(super) struct Started {
    pub(super) stopper: Stopper,
    pub(super) tasks: JoinSet<&'static str>,
    pub(super) settle: JoinHandle<()>,
    pub(super) died: mpsc::Receiver<Token>,
}

impl Stages<'_> {
    /// Starts every stage. Each gets the only copies of the ends it needs: what is left of `ends` is dropped here, so that
    /// a stage ends when the one before it has.
    pub(super) async fn start(&self, ends: Ends, routes: Routes) -> anyhow::Result<Started> {
        let Ends { outcomes, idle, deaths, jobs, notices, closed, .. } = ends;
        let (stopper, stopped) = shutdown::channel();
        let consumers = consumers(routes.models.keys());
        let mut tasks = JoinSet::new();
        let settle = tokio::spawn(self.settler(closed.0).await?.run(notices.1));
        let publisher = self.publisher(outcomes.1);
        tasks.spawn(async { named("publish", publisher.run()).await });
        let batcher = self.batcher(jobs.1, idle.1, routes, outcomes.0.clone());
        tasks.spawn(async { named("batch", batcher.run()).await });
        let sweeper = self.sweeper(outcomes.0.clone(), notices.0.clone(), stopped.clone());
        tasks.spawn(async { named("sweep", sweeper.run()).await });
        let intake = self.intake(consumers, jobs.0, outcomes.0, notices.0, closed.1, stopped);
        tasks.spawn(async {
            if let Err(error) = intake.run().await {
                tracing::error!(%error, "intake cannot subscribe");
            }
            "intake"
        });
        Ok(Started { stopper, tasks, settle, died: deaths.1 })
    }

    async fn settler(&self, closed: mpsc::Sender<u64>) -> anyhow::Result<Settler> {
        Ok(Settler {
            client: self.client.clone(),
            jobs: self.context.get_stream_no_info(self.names().jobs).await?,
            closed,
            ack_wait: self.ready.ack_wait,
            counters: Arc::clone(self.counters),
        })
    }

    fn publisher(&self, inbox: mpsc::Receiver<Outcome>) -> Publisher {
        Publisher {
            inbox,
            context: self.context.clone(),
            names: self.names(),
            window: self.config.limits.publish_window,
            counters: Arc::clone(self.counters),
        }
    }

    fn batcher(
        &self,
        inbox: mpsc::Receiver<Job>,
        idle: mpsc::Receiver<Idle>,
        routes: Routes,
        outcomes: mpsc::Sender<Outcome>,
    ) -> Batcher {
        // The write end is dropped: models are loaded once, at start.
        let (_, routes) = watch::channel(Arc::new(routes));
        let (counters, health) = (Arc::clone(self.counters), Arc::clone(self.health));
        Batcher { inbox, idle, routes, outcomes, counters, health }
    }

    fn sweeper(&self, outcomes: mpsc::Sender<Outcome>, notices: mpsc::Sender<Notice>, stopped: Stopped) -> Sweeper {
        Sweeper {
            advisories: self.ready.sweeper.clone(),
            context: jetstream::new(self.client.clone()),
            namespace: self.config.namespace.clone(),
            decoder: self.decoder(),
            outcomes,
            notices,
            stopped,
            counters: Arc::clone(self.counters),
        }
    }

    fn intake(
        &self,
        consumers: Vec<Arc<Consumer>>,
        jobs: mpsc::Sender<Job>,
        outcomes: mpsc::Sender<Outcome>,
        notices: mpsc::Sender<Notice>,
        closed: mpsc::Receiver<u64>,
        stopped: Stopped,
    ) -> Intake {
        Intake {
            client: self.client.clone(),
            stream: self.names().jobs,
            consumers,
            capacity: self.config.limits.in_flight,
            ack_wait: self.ready.ack_wait,
            link: self.health.link.subscribe(),
            decoder: self.decoder(),
            jobs,
            outcomes,
            notices,
            closed,
            stopped,
            counters: Arc::clone(self.counters),
            health: Arc::clone(self.health),
        }
    }

    fn decoder(&self) -> Decoder {
        Decoder { stream: self.names().jobs, max_bytes: self.config.limits.job_bytes }
    }

    fn names(&self) -> Names {
        let namespace = self.config.namespace.clone();
        let [jobs, results, dlq] = ["JOBS", "RESULTS", "DLQ"].map(|kind| namespace.stream(kind));
        Names { namespace, worker: self.config.worker.clone(), jobs, results, dlq }
    }
}

async fn named(stage: &'static str, task: impl Future<Output = ()>) -> &'static str {
    task.await;
    stage
}

fn consumers<'a>(models: impl Iterator<Item = &'a Token>) -> Vec<Arc<Consumer>> {
    let consumer =
        |model: &Token, lane| Consumer { model: model.clone(), lane, name: Namespace::consumer(model, lane) };
    models.flat_map(|model| Lane::ALL.map(|lane| Arc::new(consumer(model, lane)))).collect()
}
