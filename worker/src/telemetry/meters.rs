//! The instruments of the worker. Those that every job touches are bound to their attributes when a model is loaded or a
//! consumer known; errors, which are rare, name theirs when they happen.

use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, PoisonError};

use gristmill_schemas::metric::{self, Metric, attribute as a};
use gristmill_schemas::{ErrorCode, Lane, Token};
use gristmill_telemetry::{BoundCounter, BoundHistogram, Counter, Histogram, Instruments, KeyValue};

use super::clock::RunClock;
use super::sampled::Sampled;
use super::trace::{Templates, destination};

/// The broker, as in attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Host. Shared by all that names it.
    pub address: Arc<str>,
    /// Port.
    pub port: u16,
}

/// Instruments of the whole worker, and those of its models.
#[derive(Debug)]
pub struct Meters {
    instruments: Instruments,
    server: Arc<Server>,
    /// `<namespace>`
    templates: Templates,
    consumed: Counter<u64>,
    redelivered: Counter<u64>,
    broker: Histogram<f64>,
    queue: Histogram<f64>,
    process: Histogram<f64>,
    request: Histogram<f64>,
    device: Histogram<f64>,
    stage: Histogram<f64>,
    size: Histogram<f64>,
    fill: Histogram<f64>,
    elements: Counter<u64>,
    batches: Counter<u64>,
    rejected: Counter<u64>,
    dead_lettered: Counter<u64>,
    load: Histogram<f64>,
    /// Results, dead letters.
    stores: [Store; 2],
    /// How late the runtime wakes a timer.
    pub lag: BoundHistogram<f64>,
    /// Every model served, for what is read when metrics are collected. Taken when a model is loaded and then.
    pub(super) models: Mutex<Vec<Arc<ModelMeters>>>,
    /// Of every consumer, its name and its window; likewise.
    pub(super) windows: Mutex<Vec<(String, Arc<AtomicUsize>)>>,
}

/// Instruments of one kind of message that is stored.
#[derive(Debug)]
pub struct Store {
    sent: Counter<u64>,
    took: Histogram<f64>,
    attributes: Vec<KeyValue>,
    /// Stored.
    pub ok: (BoundCounter<u64>, BoundHistogram<f64>),
}

/// Why a batch was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// It had the most rows or elements.
    Full,
    /// Its oldest job had waited for the longest delay.
    Timeout,
    /// A job's deadline was near.
    Deadline,
    /// Nothing more was there to wait for: the stream ran empty, or no delay is set.
    Idle,
    /// It is a suspect, which runs alone.
    Solo,
}

impl CloseReason {
    const ALL: [Self; 5] = [Self::Full, Self::Timeout, Self::Deadline, Self::Idle, Self::Solo];

    /// As in attributes.
    pub fn as_str(self) -> &'static str {
        ["full", "timeout", "deadline", "idle", "solo"][self as usize]
    }
}

/// Instruments of one consumer.
#[derive(Debug)]
pub struct ConsumerMeters {
    /// Deliveries.
    pub consumed: BoundCounter<u64>,
    /// Deliveries that were not the first.
    pub redelivered: BoundCounter<u64>,
    /// Time in the stream.
    pub broker: BoundHistogram<f64>,
    /// Time to read a job.
    pub decode: Sampled,
    /// Jobs that may be in flight at present. Written by intake.
    pub window: Arc<AtomicUsize>,
}

/// Instruments of one model, and what is read of it when metrics are collected.
#[derive(Debug)]
pub struct ModelMeters {
    /// Name and version, as attributes: their text is shared.
    pub attributes: [KeyValue; 2],
    pub(super) digest: String,
    pub(super) device_name: String,
    /// Per lane.
    pub queue: [BoundHistogram<f64>; 2],
    /// Per lane, of jobs that were answered with a result.
    pub request: [BoundHistogram<f64>; 2],
    /// Likewise.
    pub process: [BoundHistogram<f64>; 2],
    /// Per batch.
    pub device: BoundHistogram<f64>,
    /// Per batch.
    pub pad: BoundHistogram<f64>,
    /// Per batch.
    pub split: BoundHistogram<f64>,
    /// Per job.
    pub encode: Sampled,
    /// Jobs of a batch.
    pub size: BoundHistogram<f64>,
    /// Rows of a batch over the most.
    pub fill: BoundHistogram<f64>,
    /// Input elements that came from jobs.
    pub real: BoundCounter<u64>,
    /// Input elements that were added.
    pub padding: BoundCounter<u64>,
    batches: [BoundCounter<u64>; 5],
    /// Jobs waiting, per lane. Written by the batch task.
    pub queued: [AtomicUsize; 2],
    /// Most rows of a batch at present. Written by the batch task.
    pub limit: AtomicUsize,
    /// Seconds that a run costs, and each element, as bits of floats. Written by the batch task.
    pub cost: [AtomicU64; 2],
    /// Elements that a batch ends at by what runs yield; 0 before that is known. Written by the batch task.
    pub knee: AtomicUsize,
    /// The clocks of its instances. Taken when an instance starts and when metrics are collected.
    pub(super) clocks: Mutex<Vec<Arc<RunClock>>>,
}

impl ModelMeters {
    /// Counts a batch.
    pub fn closed(&self, reason: CloseReason) {
        self.batches[reason as usize].add(1);
    }

    /// Another instance runs.
    pub fn add_instance(&self, clock: Arc<RunClock>) {
        self.clocks.lock().unwrap_or_else(PoisonError::into_inner).push(clock);
    }
}

impl Store {
    fn new(instruments: &Instruments, server: &Server, template: &Arc<str>) -> Self {
        let sent = instruments.counter(&metric::SENT_MESSAGES);
        let took = instruments.histogram(&metric::OPERATION_DURATION);
        let operation = [KeyValue::new(a::OPERATION, "publish"), KeyValue::new(a::OPERATION_TYPE, "send")];
        let attributes: Vec<KeyValue> = destination(server, template).into_iter().chain(operation).collect();
        let ok = (sent.bind(&attributes), took.bind(&attributes));
        Self { sent, took, attributes, ok }
    }

    /// An attempt failed.
    pub fn failed(&self, kind: &'static str, seconds: f64) {
        let attributes: Vec<_> = self.attributes.iter().cloned().chain([KeyValue::new(a::ERROR, kind)]).collect();
        self.sent.add(1, &attributes);
        self.took.record(seconds, &attributes);
    }
}

impl Meters {
    /// Makes them all.
    pub fn new(instruments: Instruments, server: Arc<Server>, templates: Templates) -> Self {
        let (counter, histogram) = (|m: &Metric| instruments.counter(m), |m: &Metric| instruments.histogram(m));
        let store = |template| Store::new(&instruments, &server, template);
        Self {
            consumed: counter(&metric::CONSUMED_MESSAGES),
            redelivered: counter(&metric::REDELIVERIES),
            broker: histogram(&metric::BROKER_DURATION),
            queue: histogram(&metric::QUEUE_DURATION),
            process: histogram(&metric::PROCESS_DURATION),
            request: histogram(&metric::REQUEST_DURATION),
            device: histogram(&metric::DEVICE_DURATION),
            stage: histogram(&metric::STAGE_DURATION),
            size: histogram(&metric::BATCH_SIZE),
            fill: histogram(&metric::BATCH_FILL),
            elements: counter(&metric::BATCH_ELEMENTS),
            batches: counter(&metric::BATCHES),
            rejected: counter(&metric::REQUESTS_REJECTED),
            dead_lettered: counter(&metric::DEAD_LETTERED),
            load: histogram(&metric::MODEL_LOAD_DURATION),
            stores: [store(&templates.results), store(&templates.dlq)],
            lag: histogram(&metric::RUNTIME_LAG).bind(&[]),
            models: Mutex::default(),
            windows: Mutex::default(),
            templates,
            server,
            instruments,
        }
    }

    /// Instruments that measure nothing.
    #[cfg(test)]
    pub fn off() -> Self {
        let server = Server { address: "".into(), port: 0 };
        Self::new(Instruments::off(), server.into(), Templates::new("infer"))
    }

    /// To read other things when metrics are collected.
    pub(super) fn instruments(&self) -> &Instruments {
        &self.instruments
    }

    /// Attributes of the jobs stream.
    pub(super) fn of_jobs(&self) -> [KeyValue; 4] {
        destination(&self.server, &self.templates.jobs)
    }

    /// Attributes of one consumer.
    pub(super) fn of_consumer(&self, consumer: &str) -> Vec<KeyValue> {
        self.of_jobs().into_iter().chain([KeyValue::new(a::CONSUMER, consumer.to_owned())]).collect()
    }

    /// Instruments of one consumer.
    pub fn consumer(&self, name: &str, model: &Token) -> ConsumerMeters {
        let attributes = self.of_consumer(name);
        let fetch: Vec<_> = attributes.iter().cloned().chain([KeyValue::new(a::OPERATION, "fetch")]).collect();
        let stage = [KeyValue::new(a::MODEL, model.to_string()), KeyValue::new(a::STAGE, "decode")];
        let window = Arc::<AtomicUsize>::default();
        self.windows.lock().unwrap_or_else(PoisonError::into_inner).push((name.to_owned(), Arc::clone(&window)));
        ConsumerMeters {
            consumed: self.consumed.bind(&fetch),
            redelivered: self.redelivered.bind(&attributes),
            broker: self.broker.bind(&attributes),
            decode: Sampled::new(self.stage.bind(&stage)),
            window,
        }
    }

    /// Instruments of one model. `device`: where its instances run; `limit`: its most rows.
    pub fn model(&self, name: &Token, version: &Token, digest: &str, device: &str, limit: usize) -> Arc<ModelMeters> {
        let model = [(a::MODEL, name), (a::VERSION, version)];
        let model = model.map(|(key, token)| KeyValue::new(key, Arc::<str>::from(token.as_str())));
        let with = |pair: KeyValue| [model[0].clone(), model[1].clone(), pair];
        let lane = |lane: Lane| with(KeyValue::new(a::LANE, lane.as_str()));
        let stage = |stage: &'static str| {
            self.stage.bind(&[KeyValue::new(a::MODEL, name.to_string()), KeyValue::new(a::STAGE, stage)])
        };
        let process = |lane: Lane| {
            let consumer = self.of_consumer(&gristmill_schemas::Namespace::consumer(name, lane));
            self.process.bind(&consumer.into_iter().chain(model.clone()).collect::<Vec<_>>())
        };
        let meters = Arc::new(ModelMeters {
            queue: Lane::ALL.map(|l| self.queue.bind(&lane(l))),
            request: Lane::ALL.map(|l| self.request.bind(&lane(l))),
            process: Lane::ALL.map(process),
            device: self.device.bind(&with(KeyValue::new(a::DEVICE, device.to_owned()))),
            pad: stage("pad"),
            split: stage("split"),
            encode: Sampled::new(stage("encode")),
            size: self.size.bind(&model),
            fill: self.fill.bind(&model),
            real: self.elements.bind(&with(KeyValue::new(a::ELEMENT_KIND, "real"))),
            padding: self.elements.bind(&with(KeyValue::new(a::ELEMENT_KIND, "padding"))),
            batches: CloseReason::ALL.map(|r| self.batches.bind(&with(KeyValue::new(a::CLOSE_REASON, r.as_str())))),
            queued: Default::default(),
            limit: AtomicUsize::new(limit),
            cost: Default::default(),
            knee: AtomicUsize::new(0),
            clocks: Mutex::default(),
            attributes: model,
            digest: digest.to_owned(),
            device_name: device.to_owned(),
        });
        self.models.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&meters));
        meters
    }

    /// The package turned out not to be servable.
    pub fn forget(&self, model: &Arc<ModelMeters>) {
        let mut models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        models.retain(|other| !Arc::ptr_eq(other, model));
    }

    /// A package was loaded, or refused.
    pub fn loaded(&self, model: &str, outcome: &'static str, seconds: f64) {
        self.load.record(seconds, &[KeyValue::new(a::MODEL, model.to_owned()), KeyValue::new(a::OUTCOME, outcome)]);
    }

    /// Of results.
    pub fn results(&self) -> &Store {
        &self.stores[0]
    }

    /// Of dead letters.
    pub fn dead_letters(&self) -> &Store {
        &self.stores[1]
    }

    /// A dead letter is stored.
    pub fn dead_lettered(&self, model: &Token, code: ErrorCode) {
        self.dead_lettered
            .add(1, &[KeyValue::new(a::MODEL, model.to_string()), KeyValue::new(a::ERROR, code.as_str())]);
    }

    /// A job was answered with an error result: it was in the worker for `process` seconds, and its sender waited
    /// `request` seconds.
    pub fn rejected(
        &self,
        consumer: (&str, &Token, Lane),
        version: &str,
        code: ErrorCode,
        [process, request]: [f64; 2],
    ) {
        let (name, model, lane) = consumer;
        let (model, error) = (KeyValue::new(a::MODEL, model.to_string()), KeyValue::new(a::ERROR, code.as_str()));
        self.rejected.add(1, &[model.clone(), error.clone()]);
        let version = KeyValue::new(a::VERSION, version.to_owned());
        let of_process = self.of_consumer(name).into_iter().chain([model.clone(), version.clone(), error.clone()]);
        self.process.record(process, &of_process.collect::<Vec<_>>());
        self.request.record(request, &[model, version, KeyValue::new(a::LANE, lane.as_str()), error]);
    }
}
