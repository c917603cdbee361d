//! One run: jobs go out when they are due, whatever the answers do.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use async_nats::header::HeaderValue;
use async_nats::{Client, HeaderMap, Message};
use bytes::Bytes;
use futures_util::StreamExt;
use gristmill_schemas::{Lane, Namespace, Reply, Token, header};

use super::figures::{Figures, Tally};

/// What is sent, and where.
pub(super) struct Load {
    pub(super) client: Client,
    pub(super) namespace: Namespace,
    pub(super) model: Token,
    pub(super) lane: Lane,
    pub(super) version: Option<Token>,
    pub(super) body: Bytes,
    pub(super) warm_up: Duration,
    pub(super) measured: Duration,
    /// Longest wait for answers when the last job is due.
    pub(super) patience: Duration,
}

impl Load {
    /// Sends a job at each of these times and waits for the answers. A job's latency begins when it is due, not when it is sent:
    /// a system that holds up the sender does not look the better for it.
    pub(super) async fn run(&self, dues: Vec<Duration>, rate: f64) -> anyhow::Result<Figures> {
        // Of this run alone: answers that come too late for one are not those of the next.
        let reply: Token = format!("bench-{:016x}", fastrand::u64(..)).parse()?;
        let mut answers = self.client.subscribe(self.namespace.result_subject(&self.model, &reply)).await?;
        // The server has the subscription before the first job is out.
        self.client.flush().await?;
        let mut tally = Tally::new(self.warm_up, self.measured);
        let began = Instant::now();
        let sender = self.send(dues.clone(), &reply, began);
        let (mut is_open, mut open) = (vec![true; dues.len()], dues.len());
        let end = began + self.warm_up + self.measured + self.patience;
        while open > 0 {
            tokio::select! {
                Some(message) = answers.next() => {
                    let after = began.elapsed();
                    let number = number(&message).filter(|number| is_open.get(*number) == Some(&true));
                    let Some(number) = number else { continue };
                    (is_open[number], open) = (false, open - 1);
                    let is_ok = matches!(Reply::decode(&message.payload), Ok(Reply::Ok(_)));
                    tally.answer(dues[number], after.saturating_sub(dues[number]), is_ok);
                }
                () = tokio::time::sleep_until(end.into()) => break,
            }
        }
        answers.unsubscribe().await?;
        let lates = tokio::task::spawn_blocking(|| sender.join()).await?;
        let lates = lates.map_err(|_| anyhow::anyhow!("the sender panicked"))??;
        dues.iter().zip(&lates).for_each(|(due, late)| tally.sent(*due, *late));
        let counting = dues.iter().filter(|due| tally.counts(**due)).count();
        Ok(tally.figures(rate, counting as u64))
    }

    /// Sends from a thread of its own: a runtime's timers are too coarse by a millisecond. Tells how late each job was.
    fn send(&self, dues: Vec<Duration>, reply: &Token, began: Instant) -> JoinHandle<anyhow::Result<Vec<Duration>>> {
        let (runtime, client) = (tokio::runtime::Handle::current(), self.client.clone());
        let subject = self.namespace.job_subject(&self.model, self.lane);
        let (body, mut headers) = (self.body.clone(), self.headers(reply));
        std::thread::spawn(move || {
            let mut lates = Vec::with_capacity(dues.len());
            for (number, due) in dues.into_iter().enumerate() {
                std::thread::sleep(due.saturating_sub(began.elapsed()));
                headers.insert(header::JOB_ID, HeaderValue::from(number));
                let sent = client.publish_with_headers(subject.clone(), headers.clone(), body.clone());
                runtime.block_on(sent).context("a job was not sent")?;
                lates.push(began.elapsed().saturating_sub(due));
            }
            Ok(lates)
        })
    }

    fn headers(&self, reply: &Token) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::REPLY, HeaderValue::from(reply.as_str()));
        let version = self.version.iter().map(|version| HeaderValue::from(version.as_str()));
        version.for_each(|version| headers.insert(header::VERSION, version));
        headers
    }
}

fn number(message: &Message) -> Option<usize> {
    message.headers.as_ref()?.get(header::JOB_ID)?.as_str().parse().ok()
}
