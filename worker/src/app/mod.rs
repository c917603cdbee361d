//! The app: the only module that knows every stage. It builds the chain from the last stage to the first and ends it by
//! closing the first.

mod stages;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_nats::jetstream::Context;
use gristmill_engine::Load;
use gristmill_ledger::{Cause, Death, Witness};
use gristmill_schemas::Token;
use gristmill_schemas::topology::{self, Ready, Topology};
use gristmill_torch::TorchLoader;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::MissedTickBehavior;

use self::stages::{Ends, Stages, Started};
use crate::config::Config;
use crate::connect::Keeper;
use crate::link::Current;
use crate::message::Broken;
use crate::registry::{self, Loaded};
use crate::rescue::{self, Claim, Left};
use crate::run::Instances;
use crate::shutdown::Stopper;
use crate::telemetry::{Health, Looks, Vitals};

/// Longest wait for jobs to be given back when a drain is cut short.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How often engines are looked at, in parts of the longest time they may take for a run.
const LOOKS: u32 = 20;

/// A running pipeline.
pub struct App {
    stopper: Stopper,
    /// Every stage but settle.
    tasks: JoinSet<&'static str>,
    /// Outlives the others: it answers for the jobs that they drop.
    settle: JoinHandle<()>,
    /// Outlives even that: without a client nothing can be answered.
    keeper: JoinHandle<()>,
    /// Look and answer questions; end when they are dropped.
    _observers: JoinSet<()>,
    /// Engine instances that cannot go on.
    broken: mpsc::Receiver<Broken>,
    engines: Vec<registry::Started>,
    max_hold: Duration,
    witness: Arc<OnceLock<Witness>>,
    health: Arc<Health>,
    nats: Current,
}

/// Why the app cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// A stage ended that should have gone on.
    #[error("the {0} stage ended by itself")]
    Stage(String),
    /// An engine instance cannot run anything any more.
    #[error("model {model}: {reason}")]
    Engine {
        /// Its model.
        model: Token,
        /// What happened.
        reason: String,
    },
    /// A model did not return.
    #[error("model {model}: a run has not ended within limits.max_hold_ms = {limit} ms")]
    Hung {
        /// The model.
        model: Token,
        /// The setting.
        limit: u128,
    },
}

/// The drain took longer than `shutdown.grace_ms`.
#[derive(Debug, thiserror::Error)]
#[error("the drain did not end within shutdown.grace_ms = {0} ms; unfinished jobs will be delivered again")]
pub struct GraceOver(u128);

impl App {
    /// Connects, takes up what a dead worker left, loads and warms up the models, makes streams and consumers ready, and
    /// starts the stages.
    pub async fn start(config: &Config, vitals: &Vitals) -> anyhow::Result<Self> {
        registry::check_dir(&config.models)?;
        let ends = Ends::new(config.limits.in_flight);
        let kept = keeper(config, &ends, vitals).connect().await?;
        let nats = kept.current();
        let keeper = tokio::spawn(kept.run());
        let witness = Arc::new(OnceLock::new());
        let mut left = match jobs_made(&nats.context(), config).await {
            Some(made) => claim(config, made, config.streams.ack_wait(), &nats, vitals).await,
            // The first start: nobody can have left anything.
            None => Left::default(),
        };
        left.ledger.iter().for_each(|ledger| drop(witness.set(ledger.witness())));
        let loaded = tokio::select! {
            loaded = load(config, &ends, vitals, &witness) => loaded?,
            never = left.keep_alive(&nats, config.streams.ack_wait()) => match never {},
        };
        let models = loaded.routes.models.keys().cloned().collect();
        let ready = make_ready(config, &nats.context(), models).await?;
        if left.ledger.is_none() {
            left = claim(config, ready.jobs_made, ready.ack_wait, &nats, vitals).await;
            left.ledger.iter().for_each(|ledger| drop(witness.set(ledger.witness())));
        }
        left.ledger.iter().for_each(|ledger| ledger.set_ack_wait(ready.ack_wait));
        drop(vitals.health.models.set(loaded.reports));
        let stages = Stages { config, nats: nats.clone(), vitals, ready };
        let Started { stopper, tasks, settle, broken, observers } = stages.start(ends, loaded.routes, left).await;
        let (engines, max_hold) = (loaded.engines, config.limits.max_hold);
        let health = Arc::clone(&vitals.health);
        Ok(Self {
            stopper,
            tasks,
            settle,
            keeper,
            _observers: observers,
            broken,
            engines,
            max_hold,
            witness,
            health,
            nats,
        })
    }

    /// Waits for a reason not to go on; there is none before [`Self::drain`] in the ordinary course.
    pub async fn failed(&mut self) -> Failed {
        let (mut tick, mut looks) = (tokio::time::interval(self.max_hold / LOOKS), Looks::default());
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let failed = loop {
            tokio::select! {
                ended = self.tasks.join_next() => break match ended {
                    Some(Ok(stage)) => Failed::Stage(stage.to_owned()),
                    Some(Err(panic)) => Failed::Stage(format!("panicked ({panic})")),
                    None => Failed::Stage("last".into()),
                },
                Some(Broken { model, reason }) = self.broken.recv() => break Failed::Engine { model, reason },
                _ = &mut self.settle => break Failed::Stage("settle".into()),
                _ = tick.tick() => if let Some(hung) = self.hung(&mut looks) {
                    break hung;
                },
            }
        };
        drop(self.health.failed.set(failed.to_string()));
        failed
    }

    /// Engines that do not return. Their jobs are the suspects of the next process, and where there is only one such
    /// engine, its run is named.
    fn hung(&self, looks: &mut Looks) -> Option<Failed> {
        let present = self.engines.iter().map(|engine| engine.clock.present());
        let overdue = looks.look(present, LOOKS);
        let &(index, run) = overdue.first()?;
        if let Some(witness) = self.witness.get() {
            witness.record(Death { cause: Cause::Hung, run: (overdue.len() == 1).then_some(run) });
        }
        Some(Failed::Hung { model: self.engines[index].model.clone(), limit: self.max_hold.as_millis() })
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
            drop(tokio::task::spawn_blocking(|| engine.thread.join()).await);
        }
        self.flush().await;
        self.keeper.abort();
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
        drop(tokio::time::timeout(LAST_WORDS, self.nats.client().flush()).await);
    }
}

fn keeper(config: &Config, ends: &Ends, vitals: &Vitals) -> Keeper {
    Keeper {
        config: config.nats.clone(),
        name: config.worker.clone(),
        subscriptions: ends.subscriptions,
        health: Arc::clone(&vitals.health),
        counters: Arc::clone(&vitals.counters),
    }
}

/// When the jobs stream was made; `None` if there is none yet, or the server does not say: then nothing is recovered.
async fn jobs_made(context: &Context, config: &Config) -> Option<i128> {
    let stream = context.get_stream(config.namespace.stream("JOBS")).await.ok()?;
    Some(stream.cached_info().created.unix_timestamp_nanos())
}

async fn claim(config: &Config, made: i128, ack_wait: Duration, nats: &Current, vitals: &Vitals) -> Left {
    let (context, capacity) = (&nats.context(), config.limits.in_flight);
    let (namespace, config, counters) = (&config.namespace, &config.ledger, &*vitals.counters);
    rescue::claim(Claim { config, namespace, made, capacity, ack_wait, context, counters }).await
}

/// Finds the device and has every model loaded.
async fn load(
    config: &Config,
    ends: &Ends,
    vitals: &Vitals,
    witness: &Arc<OnceLock<Witness>>,
) -> anyhow::Result<Loaded> {
    let (device, threads) = (config.device, config.models.threads);
    let loader = tokio::task::spawn_blocking(move || TorchLoader::try_new(device, threads)).await??;
    let device = loader.device();
    let instances = Instances {
        loader: Arc::new(loader),
        cores: config.models.cores.clone(),
        reports: ends.reports.0.clone(),
        outcomes: ends.outcomes.0.clone(),
        counters: Arc::clone(&vitals.counters),
        health: Arc::clone(&vitals.health),
        spans: vitals.spans.clone(),
        broken: ends.broken.0.clone(),
        witness: Arc::clone(witness),
        next: Arc::new(AtomicU64::new(0)),
    };
    Ok(registry::load(&config.models, &device, &vitals.meters, &|model, file| instances.spawn(model, file)).await?)
}

/// Makes streams and consumers ready, or says how they differ from what is needed.
async fn make_ready(config: &Config, context: &Context, models: Vec<Token>) -> anyhow::Result<Ready> {
    let topology = Topology {
        namespace: config.namespace.clone(),
        config: config.streams.clone(),
        models,
        in_flight: config.limits.in_flight,
        max_hold: config.limits.max_hold,
    };
    let ready = topology::apply(context, &topology).await?;
    for (object, step) in &ready.plan.0 {
        tracing::info!(object, ?step, "stream or consumer ready");
    }
    if !ready.batched_results {
        let stream = config.namespace.stream("RESULTS");
        tracing::info!(
            stream,
            "results are confirmed one by one: the stream has no allow_batched, or nats-server is older than 2.14.4"
        );
    }
    Ok(ready)
}
