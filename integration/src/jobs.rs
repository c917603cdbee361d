use std::borrow::Cow;
use std::collections::HashSet;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::OrderedPullConsumer;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_nats::jetstream::context::{GetStreamErrorKind, PublishAckFuture};
use async_nats::jetstream::stream::{ConsumerErrorKind, Stream};
use bytes::Bytes;
use futures_util::StreamExt;
use gristmill_schemas::{Datatype, ErrorBody, JobBody, Reply, ResultBody, Shape, Tensor, header};

/// Longest wait for the next stored message.
const PATIENCE: Duration = Duration::from_secs(60);

/// Submissions waiting for JetStream's word at once.
const WINDOW: usize = 512;

/// Longest time to try to have a job stored.
const STUBBORNNESS: Duration = Duration::from_secs(120);

/// Submits jobs to a broker and reads what is stored there.
#[derive(Clone)]
pub struct Jobs {
    /// The broker.
    pub context: Context,
}

/// One stored result or dead letter.
#[derive(Debug)]
pub struct Answer {
    /// Where it is stored.
    pub sequence: u64,
    /// Its subject.
    pub subject: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub payload: Bytes,
}

impl Answer {
    /// A header, empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.as_str())
    }

    /// The job's id.
    pub fn id(&self) -> &str {
        self.header(header::JOB_ID)
    }

    /// The body, read.
    ///
    /// # Panics
    /// If it is none.
    pub fn reply(&self) -> Reply<'_> {
        Reply::decode(&self.payload).expect("a stored result can be read")
    }

    /// The body of a success.
    ///
    /// # Panics
    /// If it is an error result.
    pub fn ok(&self) -> ResultBody<'_> {
        match self.reply() {
            Reply::Ok(result) => result,
            Reply::Error(error) => panic!("job {} was refused: {error:?}", self.id()),
        }
    }

    /// The body of an error result.
    ///
    /// # Panics
    /// If it is a success.
    pub fn error(&self) -> ErrorBody<'_> {
        match self.reply() {
            Reply::Error(error) => error,
            Reply::Ok(result) => panic!("job {} was answered: {result:?}", self.id()),
        }
    }
}

impl Jobs {
    /// On this connection.
    pub fn new(context: Context) -> Self {
        Self { context }
    }

    /// A one-input body of FP32.
    pub fn body(name: &str, shape: &[usize], values: &[f32]) -> Vec<u8> {
        let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let shape = Shape::try_new(shape).expect("tests use few dimensions");
        let input = Tensor { name, datatype: Datatype::Fp32, shape, data: Cow::Owned(data) };
        JobBody { id: None, inputs: vec![input], outputs: None }.encode()
    }

    /// Submits one job.
    ///
    /// # Panics
    /// If it is not stored.
    pub async fn submit(&self, model: &str, id: &str, body: Vec<u8>, headers: &[(&str, &str)]) {
        self.send(&format!("infer.jobs.{model}.online"), id, body, headers).await.await.expect("the job is stored");
    }

    /// Submits many jobs to one subject, pipelined: id and body of each.
    ///
    /// # Panics
    /// If one is not stored.
    pub async fn submit_all(&self, subject: &str, jobs: impl Iterator<Item = (String, Vec<u8>)>) {
        let mut window = futures_util::stream::iter(jobs)
            .map(|(id, body)| async move { self.send(subject, &id, body, &[]).await.await })
            .buffer_unordered(WINDOW);
        while let Some(stored) = window.next().await {
            stored.expect("the job is stored");
        }
    }

    /// Submits many jobs to one subject, each under a dedup id and again until it is confirmed, whatever becomes of the
    /// broker meanwhile. Returns those that took more than one attempt.
    ///
    /// # Panics
    /// If one is not confirmed for too long.
    pub async fn submit_stubbornly(
        &self,
        subject: &str,
        jobs: impl Iterator<Item = (String, Vec<u8>)>,
    ) -> HashSet<String> {
        let window = futures_util::stream::iter(jobs).map(|(id, body)| self.insist(subject, id, body));
        window.buffer_unordered(WINDOW).filter_map(std::future::ready).collect().await
    }

    async fn insist(&self, subject: &str, id: String, body: Vec<u8>) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(header::JOB_ID, id.as_str());
        headers.insert("Nats-Msg-Id", id.as_str());
        let started = Instant::now();
        for attempt in 1.. {
            let sent =
                self.context.publish_with_headers(subject.to_owned(), headers.clone(), body.clone().into()).await;
            let error = match sent {
                Ok(stored) => match stored.await {
                    Ok(_) => return (attempt > 1).then_some(id),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            assert!(started.elapsed() < STUBBORNNESS, "job {id} is not stored: {error}");
            // Some refusals come at once, as long as a stream has no leader.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        None
    }

    async fn send(&self, subject: &str, id: &str, body: Vec<u8>, extra: &[(&str, &str)]) -> PublishAckFuture {
        let mut headers = HeaderMap::new();
        headers.insert(header::JOB_ID, id);
        extra.iter().for_each(|(name, value)| headers.insert(*name, *value));
        let sent = self.context.publish_with_headers(subject.to_owned(), headers, body.into()).await;
        sent.expect("the job is sent")
    }

    /// Reads `count` stored results, oldest first.
    pub async fn results(&self, count: usize) -> Vec<Answer> {
        self.stored("INFER_RESULTS", count).await
    }

    /// Reads `count` stored dead letters, oldest first.
    pub async fn dead_letters(&self, count: usize) -> Vec<Answer> {
        self.stored("INFER_DLQ", count).await
    }

    async fn stored(&self, stream: &str, count: usize) -> Vec<Answer> {
        let mut read = Vec::with_capacity(count);
        self.read(stream, count, |answer| read.push(answer)).await;
        read
    }

    /// Reads `count` stored messages, oldest first, keeping none.
    pub(crate) async fn read(&self, stream: &str, count: usize, mut visit: impl FnMut(Answer)) {
        if count == 0 {
            return;
        }
        let mut messages = self.reader(stream).await.messages().await.expect("a reader can read");
        for index in 0..count {
            let message = tokio::time::timeout(PATIENCE, messages.next()).await;
            let message = message.unwrap_or_else(|_| panic!("{index} of {count} stored messages came"));
            let message = message.expect("the reader goes on").expect("the reader reads");
            let sequence = message.info().expect("a delivery has a sequence").stream_sequence;
            let headers = message.headers.clone().unwrap_or_default();
            let (subject, payload) = (message.subject.to_string(), message.payload.clone());
            visit(Answer { sequence, subject, headers, payload });
        }
    }

    /// A reader of a whole stream. Asks again while nobody answers, as [`Self::stream`].
    async fn reader(&self, stream: &str) -> OrderedPullConsumer {
        let started = Instant::now();
        loop {
            match self.stream(stream).await.create_consumer(OrderedConfig::default()).await {
                Ok(consumer) => return consumer,
                Err(error) if error.kind() == ConsumerErrorKind::TimedOut && started.elapsed() < PATIENCE => {}
                Err(error) => panic!("no reader of {stream} can be made: {error}"),
            }
        }
    }

    /// How many messages a stream holds.
    ///
    /// # Panics
    /// If there is no such stream.
    pub async fn stored_count(&self, stream: &str) -> u64 {
        self.stream(stream).await.cached_info().state.messages
    }

    /// A stream as it is now. Asks again while nobody answers: that is an election going on, or a broker on its way up.
    pub(crate) async fn stream(&self, name: &str) -> Stream {
        let started = Instant::now();
        loop {
            match self.context.get_stream(name).await {
                Ok(stream) => return stream,
                Err(error) if matches!(error.kind(), GetStreamErrorKind::Request) => {
                    assert!(started.elapsed() < PATIENCE, "nobody says anything of stream {name}: {error}");
                }
                Err(error) => panic!("stream {name}: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the jobs stream is empty: every job is settled.
    pub async fn settled(&self) {
        self.settled_but(0).await;
    }

    /// Waits until the jobs stream holds this many.
    ///
    /// # Panics
    /// If that takes too long.
    pub async fn settled_but(&self, left: u64) {
        let started = Instant::now();
        while self.stored_count("INFER_JOBS").await > left {
            assert!(started.elapsed() < PATIENCE, "more than {left} jobs are left in the stream");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Little-endian FP32.
pub fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// An FP32 output by name.
///
/// # Panics
/// If there is none.
pub fn f32s(result: &ResultBody<'_>, name: &str) -> Vec<f32> {
    let output = result.outputs.iter().find(|output| output.name == name);
    floats(&output.unwrap_or_else(|| panic!("no output {name}")).data)
}
