//! Which model scores: what its workers say of it.

use std::time::Duration;

use anyhow::{bail, ensure};
use async_nats::Client;
use gristmill_schemas::manifest::Signature;
use gristmill_schemas::{Namespace, Token};
use serde::Deserialize;

use crate::ask;

/// A model as its workers serve it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Model {
    pub(super) name: String,
    pub(super) version: Token,
    /// `sha256:<hex>`
    pub(super) digest: String,
    /// Engine instances; of all workers together, once a model is chosen.
    #[serde(default)]
    pub(super) instances: usize,
    pub(super) signature: Option<Signature>,
}

/// A worker's status, as far as it matters here. What cannot be read is no worker that could be asked.
#[derive(Deserialize)]
struct Status {
    models: Vec<serde_json::Value>,
}

/// How often workers are asked before a model is said to be missing: one that is busy, just starting or connecting anew may be late.
const ASKED: usize = 3;

/// Between two questions: that nobody is there is answered at once.
const PAUSE: Duration = Duration::from_millis(500);

/// Asks all workers for a model; of the version asked for, or of the one that jobs without a version get.
pub(super) async fn find(
    client: &Client,
    namespace: &Namespace,
    name: &Token,
    version: Option<&Token>,
) -> anyhow::Result<(Model, Signature)> {
    for _ in 1..ASKED {
        if let Ok(found) = ask_once(client, namespace, name, version).await {
            return Ok(found);
        }
        tokio::time::sleep(PAUSE).await;
    }
    ask_once(client, namespace, name, version).await
}

async fn ask_once(
    client: &Client,
    namespace: &Namespace,
    name: &Token,
    version: Option<&Token>,
) -> anyhow::Result<(Model, Signature)> {
    let answers = ask::all(client, namespace.status_subject(), "", usize::MAX).await?;
    ensure!(!answers.is_empty(), "no worker answers on {}: is one running?", namespace.status_subject());
    let statuses = answers.iter().filter_map(|answer| serde_json::from_slice::<Status>(answer).ok());
    // Of each worker the first is its highest version, unless all are of interest.
    let models =
        statuses.map(|status| status.models.into_iter().filter_map(|m| serde_json::from_value(m).ok()).collect());
    choose(models.collect(), name, version)
}

/// One model of what each worker serves.
fn choose(workers: Vec<Vec<Model>>, name: &Token, version: Option<&Token>) -> anyhow::Result<(Model, Signature)> {
    let count = workers.len();
    let is_it = |model: &Model| model.name == name.as_str() && version.is_none_or(|version| model.version == *version);
    let told = |m: &Model| match m.signature {
        Some(_) => format!("{} {}", m.name, m.version),
        None => format!("{} {} (refused, or by a worker that does not say what it takes)", m.name, m.version),
    };
    let mut served: Vec<String> = workers.iter().flatten().map(told).collect();
    let found = workers.into_iter().filter_map(|models| {
        let mut sound = models.into_iter().filter(is_it);
        sound.find_map(|model| model.signature.clone().map(|signature| (model, signature)))
    });
    let found: Vec<(Model, Signature)> = found.collect();
    let Some((first, signature)) = found.first() else {
        served.sort();
        served.dedup();
        let version = version.map(|version| format!(" version {version}")).unwrap_or_default();
        bail!("no worker serves model {name}{version}; the {count} that answered serve {}", served.join(", "));
    };
    if let Some((other, _)) = found.iter().find(|(other, _)| other.digest != first.digest) {
        let told = |model: &Model| format!("version {} ({})", model.version, model.digest);
        bail!("workers serve different models {name}: {} and {}; name one with --version", told(first), told(other));
    }
    let instances = found.iter().map(|(model, _)| model.instances).sum();
    Ok((Model { instances, ..first.clone() }, signature.clone()))
}
