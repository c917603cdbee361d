//! From another terminal: how far runs are, and the end of one.

use async_nats::{Client, Subscriber};
use futures_util::StreamExt;
use gristmill_schemas::{Namespace, Token};
use gristmill_score::Run;
use serde_json::Value;
use tokio::sync::watch;

use super::args::Control;
use super::board::Progress;
use crate::connection::Connection;
use crate::error::Failure;
use crate::{ask, table};

/// What is asked to end a run.
const CANCEL: &str = "cancel";

/// Answers for as long as the run goes on.
pub(super) async fn answer(
    client: Client,
    subjects: [String; 2],
    progress: watch::Receiver<Progress>,
    cancel: watch::Sender<Option<String>>,
) {
    let [own, all] = subjects;
    let (Ok(own), Ok(all)) = (client.subscribe(own).await, client.subscribe(all).await) else { return };
    let mut questions = futures_util::stream::select(marked(own, true), marked(all, false));
    while let Some((question, is_own)) = questions.next().await {
        let Some(reply) = question.reply.filter(|reply| Namespace::is_inbox(reply)) else { continue };
        // Never all runs at once.
        if is_own && question.payload == CANCEL {
            cancel.send_replace(Some("cancelled".into()));
        }
        let told = serde_json::to_vec(&*progress.borrow()).unwrap_or_default();
        // Who asked will ask again.
        drop(client.publish(reply, told.into()).await);
    }
}

fn marked(questions: Subscriber, is_own: bool) -> impl futures_util::Stream<Item = (async_nats::Message, bool)> {
    questions.map(move |question| (question, is_own))
}

/// Runs `gristmill score status` and `gristmill score cancel`.
pub(super) async fn run(connection: &Connection, control: Control) -> Result<(), Failure> {
    let namespace = &connection.namespace;
    let (run, question) = match control {
        Control::Status { run: Some(run) } if run.parse::<Token>().is_err() => {
            return Ok(table::json(&Run::peek(run.as_ref())?)?);
        }
        Control::Status { run } => (run.map(|run| run.parse()).transpose()?, ""),
        Control::Cancel { run } => (Some(run), CANCEL),
    };
    let client = connection.client().await?;
    let expected = if run.is_some() { 1 } else { usize::MAX };
    let answers = ask::all(&client, namespace.score_subject(run.as_ref()), question, expected).await?;
    let runs: Vec<Value> = answers.iter().filter_map(|answer| serde_json::from_slice(answer).ok()).collect();
    match (run, runs.as_slice()) {
        (Some(run), []) => {
            let why = "it has ended, or never was (the path of its output shows what is on disk)";
            Err(anyhow::anyhow!("no scorer answers for run {run} in namespace {namespace}: {why}").into())
        }
        (Some(_), [one, ..]) => Ok(table::json(one)?),
        (None, runs) => Ok(table::json(&runs)?),
    }
}
