//! What a dead worker left, found in its crash ledger at start.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use async_nats::jetstream::{AckKind, Context};
use gristmill_ledger::{Bookmark, Cause, Claimed, Found, Ledger, Slot, Verdict, install_fault_handler};
use gristmill_schemas::Namespace;

use super::recover::Stray;
use super::transit::recall;
use crate::link::Current;
use crate::settings::Section;
use crate::telemetry::{Count, Counters};

/// Where the crash ledger is.
#[derive(Debug, Clone)]
pub struct Config {
    /// Below it lie the ledgers of this machine's workers; `None` for none.
    pub dir: Option<PathBuf>,
}

impl Config {
    /// Reads the section `ledger`.
    pub fn read(section: &mut Section<'_>) -> Self {
        let dir = match section.text("dir").as_deref() {
            None => Some(std::env::temp_dir()),
            Some("off") => None,
            Some(dir) => Some(dir.into()),
        };
        Self { dir }
    }
}

/// The ledger of this process, and the jobs that dead ones left for it.
#[derive(Default)]
pub struct Left {
    /// To be given to intake; `None` where none is kept.
    pub ledger: Option<Ledger>,
    /// Jobs that were given back, and where they are entered.
    pub returned: Vec<(u64, Slot)>,
    /// How far the deliveries of each consumer have come.
    pub reached: HashMap<String, Bookmark>,
    /// Jobs to be taken up.
    pub strays: Vec<Stray>,
}

impl Left {
    /// Keeps what is left alive, and the ledger fresh, until the stages are there to do so.
    pub async fn keep_alive(&self, nats: &Current, ack_wait: Duration) -> Infallible {
        loop {
            let client = nats.client();
            for stray in &self.strays {
                drop(client.publish(stray.ack.clone(), AckKind::Progress.into()).await);
            }
            self.ledger.iter().for_each(|ledger| ledger.touch(SystemTime::now()));
            tokio::time::sleep(ack_wait / 4).await;
        }
    }
}

/// What it takes to claim a ledger.
pub struct Claim<'a> {
    /// Where ledgers are.
    pub config: &'a Config,
    /// Whose jobs.
    pub namespace: &'a Namespace,
    /// When the jobs stream was made: tells it from others of its name, on other servers, say.
    pub made: i128,
    /// Most jobs in flight.
    pub capacity: usize,
    /// After this long without an answer or a keep-alive, the server delivers again.
    pub ack_wait: Duration,
    /// Jobs are given back here.
    pub context: &'a Context,
    /// Written: jobs given back.
    pub counters: &'a Counters,
}

/// Claims a ledger, gives back at once what had only waited, and returns the rest.
///
/// Without a ledger the worker serves all the same: a crash is then noticed after ack_wait.
pub async fn claim(claim: Claim<'_>) -> Left {
    let Some(dir) = &claim.config.dir else { return Left::default() };
    let key = format!("{}-{:x}", claim.namespace, claim.made);
    // Twice: for the jobs to come, and for as many that were on their way to a dead worker.
    let capacity = 2 * claim.capacity;
    let (dir, ack_wait) = (dir.clone(), claim.ack_wait);
    // It may wait for another worker that claims.
    let claimed = tokio::task::spawn_blocking(move || Ledger::claim(&dir, &key, capacity, ack_wait)).await;
    let claimed = claimed.unwrap_or_else(|died| std::panic::resume_unwind(died.into_panic()));
    let (mut ledger, Claimed { found, reached, deaths, asked, stale, damaged }) = match claimed {
        Ok(claimed) => claimed,
        Err(error) => {
            tracing::error!(%error, "no crash ledger: jobs of a crash will wait for ack_wait (ledger.dir)");
            return Left::default();
        }
    };
    install_fault_handler(&ledger);
    if !found.is_empty() || stale + damaged > 0 {
        tracing::warn!(jobs = found.len(), ?deaths, stale, damaged, "a dead worker left jobs");
    }
    let (mut returned, reached) = recall(&claim, &mut ledger, (&found, reached), asked).await;
    let mut strays = Vec::new();
    for Found { sequence, ack, verdict, slot } in found {
        match verdict {
            Verdict::GiveBack => {
                claim.give_back(ack).await;
                returned.push((sequence, slot));
            }
            Verdict::Suspect => strays.push(Stray { sequence, ack: ack.into(), slot, condemned: None }),
            Verdict::Condemned(cause) => strays.push(condemned(sequence, ack, slot, cause)),
        }
    }
    // On the wire, before models are loaded.
    drop(claim.context.client().flush().await);
    Left { ledger: Some(ledger), returned, reached, strays }
}

fn condemned(sequence: u64, ack: String, slot: Slot, cause: Cause) -> Stray {
    tracing::error!(sequence, %cause, "a job is quarantined");
    Stray { sequence, ack: ack.into(), slot, condemned: Some(cause) }
}

impl Claim<'_> {
    pub(super) async fn give_back(&self, ack: String) {
        self.counters.inc(Count::Returned);
        if let Err(error) = self.context.client().publish(ack, AckKind::Nak(None).into()).await {
            tracing::warn!(%error, "a job was not given back, it will be delivered after ack_wait");
        }
    }
}
