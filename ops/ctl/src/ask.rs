//! Questions that several may answer: workers, scoring runs.

use std::time::Duration;

use async_nats::{Client, StatusCode};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::{Instant, timeout_at};

/// Longest wait for answers; they are given from memory.
const GATHER: Duration = Duration::from_millis(500);

/// Wait for those that nobody expects, once as many as expected have answered.
const LINGER: Duration = Duration::from_millis(50);

/// Asks all at once. Each question has a reply subject of its own, so that an answer to the one before is not taken for one to
/// this.
pub async fn all(client: &Client, subject: String, question: &str, expected: usize) -> anyhow::Result<Vec<Bytes>> {
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await?;
    client.publish_with_reply(subject, inbox, question.to_owned().into()).await?;
    let mut deadline = Instant::now() + GATHER;
    let mut all = Vec::new();
    // The end of the deadline or of the subscription is the end of the answers.
    while let Ok(Some(message)) = timeout_at(deadline, answers.next()).await {
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            break;
        }
        all.push(message.payload);
        if all.len() == expected {
            deadline = deadline.min(Instant::now() + LINGER);
        }
    }
    Ok(all)
}
