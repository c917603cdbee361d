//! Lag: asks the server now and then how far each consumer is behind. For people and dashboards; nothing here depends on it.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::Context;
use tokio::time::{MissedTickBehavior, interval};

use crate::link::Current;
use crate::message::Consumer;
use crate::telemetry::{Health, Lag};

/// How often: each answer costs the server a look at the stream's state.
const INTERVAL: Duration = Duration::from_secs(10);

/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The lag task.
pub struct LagWatch {
    /// To ask with.
    pub nats: Current,
    /// Name of the jobs stream.
    pub stream: String,
    /// Whom to ask for.
    pub consumers: Vec<Arc<Consumer>>,
    /// Written: what was answered.
    pub health: Arc<Health>,
}

impl LagWatch {
    /// Runs until it is dropped.
    pub async fn run(self) {
        let mut tick = interval(INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if !self.health.link.borrow().is_up {
                continue;
            }
            let mut lags = Vec::with_capacity(self.consumers.len());
            for consumer in &self.consumers {
                lags.extend(ask(&self.nats.context(), &self.stream, &consumer.name).await);
            }
            self.health.lags.send_replace(lags);
        }
    }
}

/// `None` where the server does not answer: no number is better than an old one.
async fn ask(context: &Context, stream: &str, consumer: &str) -> Option<Lag> {
    let info = async { context.get_stream_no_info(stream).await.ok()?.consumer_info(consumer).await.ok() };
    let info = tokio::time::timeout(PATIENCE, info).await.ok()??;
    Some(Lag {
        consumer: consumer.to_owned(),
        pending: info.num_pending,
        ack_pending: info.num_ack_pending as u64,
        ack_limit: u64::try_from(info.config.max_ack_pending).unwrap_or(0),
        redelivered: info.num_redelivered as u64,
        waiting: info.num_waiting as u64,
    })
}
