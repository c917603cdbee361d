//! The app: the only module that knows every stage. It builds the chain from the last stage to the first and ends it by
//! closing the first.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::context::ContextBuilder;
use async_nats::jetstream::{self, Context};
use gristmill_engine::Load;
use gristmill_schemas::topology::{self, Ready, Topology};
use gristmill_schemas::{Lane, Namespace, Token};
use gristmill_torch::TorchLoader;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::batch::Batcher;
use crate::config::Config;
use crate::connect::connect;
use crate::decode::Decoder;
use crate::intake::Intake;
use crate::message::Consumer;
use crate::publish::{Names, Publisher};
use crate::registry::{self, Loaded};
use crate::run::Instances;
use crate::settle::Settler;
use crate::shutdown::{self, Stopper};
use crate::sweep::Sweeper;
use crate::telemetry::{Counters, Health};

/// Longest wait for jobs to be given back when a drain is cut short.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A running pipeline.
pub struct App {
    stopper: Stopper,
    /// Every stage but settle.
    tasks: JoinSet<&'static str>,
    /// Outlives the others: it answers for the jobs that they drop.
    settle: JoinHandle<()>,
    /// Models whose engine thread panicked.
    died: mpsc::Receiver<Token>,
    engines: Vec<std::thread::JoinHandle<()>>,
    health: Arc<Health>,
    client: Client,
}

/// A stage ended that should have gone on.
#[derive(Debug, thiserror::Error)]
#[error("the {0} stage ended by itself")]
pub struct StageEnded(String);

/// The drain took longer than `shutdown.grace_ms`.
#[derive(Debug, thiserror::Error)]
#[error("the drain did not end within shutdown.grace_ms = {0} ms; unfinished jobs will be delivered again")]
pub struct GraceOver(u128);

impl App {
    /// Connects, loads and warms up the models, makes streams and consumers ready, and starts the stages.
    pub async fn start(config: &Config, health: Arc<Health>, counters: Arc<Counters>) -> anyhow::Result<Self> {
        let capacity = config.limits.in_flight;
        registry::check_dir(&config.models)?;
        let client = connect(&config.nats, &config.worker, 2 * capacity + 1024, &health).await?;
        let threads = config.models.threads;
        let device = config.device;
        let loader = tokio::task::spawn_blocking(move || TorchLoader::try_new(device, threads)).await??;

        // Every channel has room for all jobs in flight, so that no stage ever waits for the one behind it for longer
        // than that one works; settle hears of an opening and a settlement for each.
        let (outcomes, outcome_inbox) = mpsc::channel(capacity);
        let (idle, idle_inbox) = mpsc::channel(256);
        let loader: Arc<dyn Load> = Arc::new(loader);
        let name = loader.device();
        let (deaths, died) = mpsc::channel(1);
        let counted = Arc::clone(&counters);
        let instances = Instances { loader, idle, outcomes: outcomes.clone(), counters: counted, deaths };
        let spawn = |model, file| instances.spawn(model, file);
        let Loaded { routes, reports, threads: engines } = registry::load(&config.models, &name, &spawn).await?;
        drop(instances);

        let models: Vec<Token> = routes.models.keys().cloned().collect();
        let publishing = publishing(&client, config.limits.publish_window);
        let Ready { ack_wait, sweeper, .. } = make_ready(config, &publishing, models.clone()).await?;
        let stream = config.namespace.stream("JOBS");
        let jobs_stream = publishing.get_stream_no_info(&stream).await?;
        // The write end is dropped: models are loaded once, at start.
        let (_, routes) = watch::channel(Arc::new(routes));
        drop(health.models.set(reports));

        let (notices, notice_inbox) = mpsc::channel(2 * capacity + 1024);
        let (closed, closed_inbox) = mpsc::channel(capacity + 1024);
        let (jobs, job_inbox) = mpsc::channel(capacity);
        let (stopper, stopped) = shutdown::channel();
        let mut tasks = JoinSet::new();
        let decoder = Decoder { stream: stream.clone(), max_bytes: config.limits.job_bytes };
        let settler =
            Settler { client: client.clone(), jobs: jobs_stream, closed, ack_wait, counters: Arc::clone(&counters) };
        let settle = tokio::spawn(settler.run(notice_inbox));
        let publisher = Publisher {
            inbox: outcome_inbox,
            context: publishing,
            names: names(config),
            window: config.limits.publish_window,
            counters: Arc::clone(&counters),
        };
        tasks.spawn(async { named("publish", publisher.run()).await });
        let batcher = Batcher {
            inbox: job_inbox,
            idle: idle_inbox,
            routes,
            outcomes: outcomes.clone(),
            counters: Arc::clone(&counters),
            health: Arc::clone(&health),
        };
        tasks.spawn(async { named("batch", batcher.run()).await });
        let sweeper = Sweeper {
            advisories: sweeper,
            context: jetstream::new(client.clone()),
            namespace: config.namespace.clone(),
            decoder: decoder.clone(),
            outcomes: outcomes.clone(),
            notices: notices.clone(),
            stopped: stopped.clone(),
            counters: Arc::clone(&counters),
        };
        tasks.spawn(async { named("sweep", sweeper.run()).await });
        let intake = Intake {
            client: client.clone(),
            consumers: consumers(&models),
            capacity,
            ack_wait,
            link: health.link.subscribe(),
            decoder,
            stream,
            jobs,
            outcomes,
            notices,
            closed: closed_inbox,
            stopped,
            counters,
            health: Arc::clone(&health),
        };
        tasks.spawn(async {
            if let Err(error) = intake.run().await {
                tracing::error!(%error, "intake cannot subscribe");
            }
            "intake"
        });
        Ok(Self { stopper, tasks, settle, died, engines, health, client })
    }

    /// Waits for a stage to end, which none does before [`Self::drain`].
    pub async fn failed(&mut self) -> StageEnded {
        tokio::select! {
            ended = self.tasks.join_next() => match ended {
                Some(Ok(stage)) => StageEnded(stage.to_owned()),
                Some(Err(panic)) => StageEnded(format!("panicked ({panic})")),
                None => StageEnded("last".into()),
            },
            Some(model) = self.died.recv() => StageEnded(format!("engine of model {model}")),
            _ = &mut self.settle => StageEnded("settle".into()),
        }
    }

    /// Closes the intake and waits until every stage behind it has ended. What had not started is given back at once.
    pub async fn drain(mut self, grace: Duration) -> Result<(), GraceOver> {
        self.health.draining.store(true, Ordering::Relaxed);
        self.stopper.stop();
        let stages = async {
            while self.tasks.join_next().await.is_some() {}
            drop((&mut self.settle).await);
        };
        if tokio::time::timeout(grace, stages).await.is_err() {
            self.abandon().await;
            return Err(GraceOver(grace.as_millis()));
        }
        // They ended before publish did; joined, so that none is inside libtorch when the process exits.
        for engine in std::mem::take(&mut self.engines) {
            drop(tokio::task::spawn_blocking(|| engine.join()).await);
        }
        self.flush().await;
        Ok(())
    }

    /// Ends every stage where it is. Their jobs are given back, but for those an engine is running.
    pub async fn abandon(mut self) {
        self.tasks.shutdown().await;
        drop(tokio::time::timeout(LAST_WORDS, &mut self.settle).await);
        self.flush().await;
    }

    /// Waits until what was sent has left the process.
    async fn flush(&self) {
        drop(tokio::time::timeout(LAST_WORDS, self.client.flush()).await);
    }
}

async fn named(stage: &'static str, task: impl Future<Output = ()>) -> &'static str {
    task.await;
    stage
}

fn consumers(models: &[Token]) -> Vec<Arc<Consumer>> {
    let consumer =
        |model: &Token, lane| Consumer { model: model.clone(), lane, name: Namespace::consumer(model, lane) };
    models.iter().flat_map(|model| Lane::ALL.map(|lane| Arc::new(consumer(model, lane)))).collect()
}

fn names(config: &Config) -> Names {
    Names {
        namespace: config.namespace.clone(),
        worker: config.worker.clone(),
        jobs: config.namespace.stream("JOBS"),
        results: config.namespace.stream("RESULTS"),
        dlq: config.namespace.stream("DLQ"),
    }
}

fn publishing(client: &Client, window: usize) -> Context {
    ContextBuilder::new().max_ack_inflight(2 * window).backpressure_on_inflight(true).build(client.clone())
}

/// Makes streams and consumers ready, or says how they differ from what is needed.
async fn make_ready(config: &Config, context: &Context, models: Vec<Token>) -> anyhow::Result<Ready> {
    let topology = Topology {
        namespace: config.namespace.clone(),
        config: config.streams.clone(),
        models,
        in_flight: config.limits.in_flight,
    };
    let ready = topology::apply(context, &topology).await?;
    for (object, step) in &ready.plan.0 {
        tracing::info!(object, ?step, "stream or consumer ready");
    }
    Ok(ready)
}
