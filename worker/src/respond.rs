//! Respond: answers on a core subject with the worker's status, so that people need not reach every admin page.

use std::time::{Duration, Instant};

use async_nats::{Client, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use gristmill_schemas::Namespace;

use crate::link::Current;
use crate::status::Status;

/// An answer is given again for this long: who asks in a loop does not cost the worker its time.
const FRESH: Duration = Duration::from_millis(100);

/// Between two answers, so that a flood of questions does not become a flood of answers.
const PAUSE: Duration = Duration::from_millis(10);

/// Pause after an error of the client.
const RETRY: Duration = Duration::from_secs(1);

/// The respond task.
pub struct Responder {
    /// Questions come in and answers go out here.
    pub nats: Current,
    /// `<namespace>.status`
    pub subject: String,
    /// What is answered.
    pub status: Status,
}

impl Responder {
    /// Runs until it is dropped.
    pub async fn run(mut self) {
        let mut last: Option<(Instant, Bytes)> = None;
        loop {
            let client = self.nats.client();
            match client.subscribe(self.subject.clone()).await {
                Ok(questions) => self.answer(&client, questions, &mut last).await,
                // The client died, or may not subscribe here; the next one may.
                Err(error) => {
                    tracing::warn!(%error, subject = self.subject, "cannot be asked for the status");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Answers until the client dies or is replaced.
    async fn answer(&mut self, client: &Client, mut questions: Subscriber, last: &mut Option<(Instant, Bytes)>) {
        loop {
            let question = tokio::select! {
                question = questions.next() => question,
                () = self.nats.changed() => return,
            };
            let Some(question) = question else { return tokio::time::sleep(RETRY).await };
            let Some(reply) = question.reply.filter(|reply| Namespace::is_inbox(reply)) else { continue };
            let now = Instant::now();
            let fresh = last.take().filter(|(at, _)| now.duration_since(*at) < FRESH);
            let (at, answer) = fresh.unwrap_or_else(|| (now, self.read(client.server_info().max_payload)));
            if let Err(error) = client.publish(reply, answer.clone()).await {
                tracing::warn!(%error, "a question for the status was not answered");
            }
            *last = Some((at, answer));
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The status with its metrics, or without them where the server would not take it.
    fn read(&self, max_payload: usize) -> Bytes {
        let all = self.status.read_all().to_string();
        if all.len() <= max_payload { all.into() } else { self.status.read().to_string().into() }
    }
}
