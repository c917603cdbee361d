//! The app: the only module that knows every stage. It builds the chain from the last stage to the first and ends it by
//! closing the first.

mod stages;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::ContextBuilder;
use gristmill_engine::Load;
use gristmill_schemas::Token;
use gristmill_schemas::topology::{self, Ready, Topology};
use gristmill_torch::TorchLoader;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

use self::stages::{Ends, Stages, Started};
use crate::config::Config;
use crate::connect::connect;
use crate::registry::{self, Loaded};
use crate::run::Instances;
use crate::shutdown::Stopper;
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
        registry::check_dir(&config.models)?;
        let ends = Ends::new(config.limits.in_flight);
        let client = connect(&config.nats, &config.worker, ends.subscriptions, &health).await?;
        let loaded = load(config, &ends, &counters).await?;
        let models = loaded.routes.models.keys().cloned().collect();
        let context = publishing(&client, config.limits.publish_window);
        let ready = make_ready(config, &context, models).await?;
        drop(health.models.set(loaded.reports));
        let stages = Stages { config, client: &client, context, health: &health, counters: &counters, ready };
        let started = stages.start(ends, loaded.routes).await?;
        let Started { stopper, tasks, settle, died } = started;
        Ok(Self { stopper, tasks, settle, died, engines: loaded.threads, health, client })
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

/// Finds the device and has every model loaded.
async fn load(config: &Config, ends: &Ends, counters: &Arc<Counters>) -> anyhow::Result<Loaded> {
    let (device, threads) = (config.device, config.models.threads);
    let loader = tokio::task::spawn_blocking(move || TorchLoader::try_new(device, threads)).await??;
    let device = loader.device();
    let instances = Instances {
        loader: Arc::new(loader),
        idle: ends.idle.0.clone(),
        outcomes: ends.outcomes.0.clone(),
        counters: Arc::clone(counters),
        deaths: ends.deaths.0.clone(),
    };
    Ok(registry::load(&config.models, &device, &|model, file| instances.spawn(model, file)).await?)
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
