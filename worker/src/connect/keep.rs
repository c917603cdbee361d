use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::{Client, jetstream};
use futures_util::StreamExt;
use tokio::sync::watch;

use super::{Config, ConnectError, connect};
use crate::link::{Current, Nats};
use crate::telemetry::{Count, Counters, Health, Link};

/// First and longest pause before another client is made.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// A client that lived this long has the next one begin with the first pause.
const LIVED: Duration = Duration::from_secs(30);

/// Makes the client, and another when it dies.
///
/// The client's own task reconnects for ever, but it can panic: async-nats 0.51 does on a header with a lone CR. Every
/// subscription ends then, and every publish fails.
pub struct Keeper {
    /// How to connect.
    pub config: Config,
    /// The connection's name on the server.
    pub name: String,
    /// Most messages that the client may hold for a subscription.
    pub subscriptions: usize,
    /// Written: losses of the connection.
    pub health: Arc<Health>,
    /// Written: clients made anew.
    pub counters: Arc<Counters>,
}

/// A keeper with a living client.
pub struct Kept {
    keeper: Keeper,
    nats: watch::Sender<Nats>,
}

impl Keeper {
    /// Connects for the first time.
    pub async fn connect(self) -> Result<Kept, ConnectError> {
        let nats = self.nats().await?;
        Ok(Kept { keeper: self, nats: watch::Sender::new(nats) })
    }

    async fn nats(&self) -> Result<Nats, ConnectError> {
        let client = connect(&self.config, &self.name, self.subscriptions, &self.health).await?;
        Ok(Nats { context: jetstream::new(client.clone()), client })
    }
}

impl Kept {
    /// The client, now and whenever there is another.
    pub fn current(&self) -> Current {
        Current::new(&self.nats)
    }

    /// Runs until it is dropped.
    pub async fn run(self) {
        let mut pause = PAUSE.0;
        loop {
            let began = Instant::now();
            let client = self.nats.borrow().client.clone();
            death(&client).await;
            self.keeper.counters.inc(Count::ClientRebuilds);
            let lost = |link: &mut Link| *link = Link { is_up: false, losses: link.losses + 1 };
            self.keeper.health.link.send_modify(lost);
            tracing::error!("the NATS client died, making another");
            if began.elapsed() > LIVED {
                pause = PAUSE.0;
            }
            self.nats.send_replace(self.another(&mut pause).await);
        }
    }

    async fn another(&self, pause: &mut Duration) -> Nats {
        loop {
            tokio::time::sleep(*pause).await;
            *pause = (*pause * 2).min(PAUSE.1);
            match self.keeper.nats().await {
                Ok(nats) => return nats,
                Err(error) => tracing::warn!(%error, "no connection to NATS yet"),
            }
        }
    }
}

/// Returns when the client's task has ended: a subscription that nobody publishes to ends with it, and not before.
async fn death(client: &Client) {
    if let Ok(mut canary) = client.subscribe(client.new_inbox()).await {
        while canary.next().await.is_some() {}
    }
}
