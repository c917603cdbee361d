//! `relay NATS_URL MODEL [--headers]`: what any worker on this broker has to do, and nothing else. Pulls jobs, publishes a result of
//! about the size of a real one under a dedup id, and acknowledges the job when JetStream has confirmed the result. Reads no body and
//! runs no model. Written to be as fast as the client allows: it is the yardstick. With `--headers` its results carry all the headers
//! that the contract wants on a result, as the client keeps them, which costs client and broker something, too.

use std::collections::VecDeque;

use anyhow::Context;
use async_nats::header::{HeaderMap, HeaderName, HeaderValue};
use async_nats::jetstream::AckKind;
use async_nats::{Client, Message, Subject, jetstream};
use bytes::Bytes;
use futures_util::StreamExt;
use gristmill_schemas::{Datatype, Parameters, ResultBody, Shape, Tensor, header};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Jobs asked for or held at once, as many as the worker's default.
const IN_FLIGHT: usize = 2048;

/// Jobs asked for in one request.
const PULL: usize = 512;

/// A result of the `mlp` workload.
fn result() -> Bytes {
    let shape = Shape::try_new(&[1, 10]).expect("two dimensions");
    let y = Tensor { name: "y", datatype: Datatype::Fp32, shape, data: vec![0; 40].into() };
    let parameters = Parameters { batch_rows: 128, batch_jobs: 128, stream_us: 70_000, queue_us: 7000, infer_us: 700 };
    let body = ResultBody { id: "12345", model_name: "mlp", model_version: "1", outputs: vec![y], parameters };
    body.encode().into()
}

/// Those of a real result, as long.
fn head(model: &str) -> HeaderMap {
    let digest = format!("sha256:{:064}", 0);
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    let all = [
        (header::STATUS, "ok"),
        (header::MODEL, model),
        (header::MODEL_VERSION, "1"),
        (header::MODEL_DIGEST, &digest),
        (header::WORKER, "worker-12345"),
        (header::TRACEPARENT, trace),
    ];
    all.into_iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from(value))).collect()
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let (url, model) = (args.next().context("NATS URL")?, args.next().context("model")?);
    let head = match args.next().as_deref() {
        None => HeaderMap::new(),
        Some("--headers") => head(&model),
        Some(other) => anyhow::bail!("{other} is no argument of the relay"),
    };
    let client = async_nats::connect(url).await?;
    let inbox = client.new_inbox();
    let mut jobs = client.subscribe(format!("{inbox}.p.*")).await?;
    let mut stored = client.subscribe(format!("{inbox}.r.*")).await?;
    let next = format!("$JS.API.CONSUMER.MSG.NEXT.INFER_JOBS.{model}-online");
    let relay = Relay {
        context: jetstream::new(client.clone()),
        subject: format!("infer.results.{model}.all").into(),
        result: result(),
        prefix: format!("{inbox}.r."),
        head,
        client,
    };
    // Jobs whose result is on its way; the server answers in the order in which it was asked.
    let mut open: VecDeque<Subject> = VecDeque::with_capacity(IN_FLIGHT);
    let (mut asked, mut pulls) = (0, 0u64);
    loop {
        while asked + open.len() + PULL <= IN_FLIGHT {
            pulls += 1;
            asked += PULL;
            let body = format!("{{\"batch\":{PULL},\"expires\":1000000000}}");
            relay.client.publish_with_reply(next.clone(), format!("{inbox}.p.{pulls}"), body.into()).await?;
        }
        tokio::select! {
            Some(message) = jobs.next() => match message.status {
                None => {
                    asked -= 1;
                    open.push_back(relay.forward(message).await?);
                }
                // The request has ended; what it was not given is asked for again.
                Some(_) => {
                    let left = message.headers.as_ref().and_then(|h| h.get("Nats-Pending-Messages"));
                    asked -= left.and_then(|left| left.as_str().parse::<usize>().ok()).unwrap_or(0);
                }
            },
            Some(message) = stored.next() => {
                let ack: PubAck = serde_json::from_slice(&message.payload)?;
                anyhow::ensure!(ack.seq > 0, "not stored");
                let job = open.pop_front().context("an answer without a question")?;
                relay.client.publish(job, AckKind::Ack.into()).await?;
            }
            else => return Ok(()),
        }
    }
}

#[derive(serde::Deserialize)]
struct PubAck {
    seq: u64,
}

struct Relay {
    client: Client,
    context: jetstream::Context,
    subject: Subject,
    result: Bytes,
    prefix: String,
    /// Headers that all results share.
    head: HeaderMap,
}

impl Relay {
    /// Publishes a result. Returns where the job is acknowledged.
    async fn forward(&self, message: Message) -> anyhow::Result<Subject> {
        let message = jetstream::Message { message, context: self.context.clone() };
        let info = message.info().map_err(|error| anyhow::anyhow!(error))?;
        let sequence = info.stream_sequence;
        let mut headers = self.head.clone();
        if !headers.is_empty() {
            headers.insert(HeaderName::from_static(header::JOB_ID), sequence.to_string());
        }
        headers.insert("Nats-Msg-Id", format!("INFER_JOBS.{sequence}.{}", info.published.unix_timestamp_nanos()));
        // Where a sender waits for its answer, that is where it goes, under the sender's name for it.
        let mut subject = self.subject.clone();
        let given = |name| message.headers.as_ref().and_then(|headers| headers.get(name));
        if let Some(reply) = given(header::REPLY) {
            subject = subject.replace(".all", &format!(".{reply}")).into();
            given(header::JOB_ID).into_iter().for_each(|id| headers.insert(header::JOB_ID, id.clone()));
        }
        let ack = message.message.reply.clone().context("a delivery has a reply subject")?;
        let reply = format!("{}{sequence}", self.prefix);
        self.client.publish_with_reply_and_headers(subject, reply, headers, self.result.clone()).await?;
        Ok(ack)
    }
}
