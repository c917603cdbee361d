use super::Kind::{Counter, Duration, Gauge, Histogram, UpDown};
use super::{Kind, Metric};

/// Keys of the attributes.
pub mod attribute {
    #![allow(missing_docs, reason = "the value says it")]

    pub const MODEL: &str = "gristmill.model.name";
    pub const VERSION: &str = "gristmill.model.version";
    pub const DIGEST: &str = "gristmill.model.digest";
    pub const LANE: &str = "gristmill.lane";
    pub const DEVICE: &str = "gristmill.device";
    pub const STAGE: &str = "gristmill.stage";
    pub const CLOSE_REASON: &str = "gristmill.batch.close_reason";
    pub const ELEMENT_KIND: &str = "gristmill.element.kind";
    pub const VERDICT: &str = "gristmill.verdict";
    pub const FAULT: &str = "gristmill.fault";
    pub const CHECK: &str = "gristmill.check";
    pub const OUTCOME: &str = "gristmill.outcome";
    pub const SYSTEM: &str = "messaging.system";
    pub const OPERATION: &str = "messaging.operation.name";
    pub const OPERATION_TYPE: &str = "messaging.operation.type";
    pub const TEMPLATE: &str = "messaging.destination.template";
    pub const CONSUMER: &str = "messaging.consumer.group.name";
    pub const SERVER: &str = "server.address";
    pub const PORT: &str = "server.port";
    pub const ERROR: &str = "error.type";
    pub const GPU_ID: &str = "hw.id";
    pub const GPU_NAME: &str = "hw.name";
    pub const GPU_VENDOR: &str = "hw.vendor";
    pub const GPU_TASK: &str = "hw.gpu.task";
    pub const MEMORY_STATE: &str = "gristmill.memory.state";
    pub const CPU_MODE: &str = "cpu.mode";
    pub const COMPONENT: &str = "otel.component.type";
}

use attribute as a;

const M: &[&str] = &[a::MODEL, a::VERSION];
const M_LANE: &[&str] = &[a::MODEL, a::VERSION, a::LANE];
const B: &[&str] = &[a::SYSTEM, a::TEMPLATE, a::CONSUMER, a::SERVER, a::PORT];
const SENT: &[&str] = &[a::SYSTEM, a::TEMPLATE, a::OPERATION, a::OPERATION_TYPE, a::SERVER, a::PORT, a::ERROR];
const GPU: &[&str] = &[a::GPU_ID, a::GPU_NAME, a::GPU_VENDOR];

const fn metric(
    name: &'static str,
    kind: Kind,
    unit: &'static str,
    attributes: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind, unit, help, attributes }
}

macro_rules! table {
    ($($id:ident: $name:literal, $kind:expr, $unit:literal, $attributes:expr, $help:literal;)*) => {
        $(#[doc = concat!("`", $name, "`: ", $help)] pub const $id: Metric = metric($name, $kind, $unit, $attributes, $help);)*
        /// All of them.
        pub const ALL: &[Metric] = &[$($id),*];
    };
}

table! {
    CONSUMED_MESSAGES: "messaging.client.consumed.messages", Counter, "{message}", &[a::SYSTEM, a::TEMPLATE, a::CONSUMER, a::OPERATION, a::SERVER, a::PORT],
        "Jobs delivered to the worker, redeliveries among them.";
    SENT_MESSAGES: "messaging.client.sent.messages", Counter, "{message}", SENT,
        "Attempts to store a result or a dead letter; failed ones carry an error type.";
    OPERATION_DURATION: "messaging.client.operation.duration", Duration, "s", SENT,
        "Time from publishing a result or dead letter to JetStream's confirmation, or to the error.";
    PROCESS_DURATION: "messaging.process.duration", Duration, "s", &[a::SYSTEM, a::TEMPLATE, a::CONSUMER, a::SERVER, a::PORT, a::MODEL, a::VERSION, a::ERROR],
        "Time of a job in the worker: received to settled.";
    REQUEST_DURATION: "gristmill.request.duration", Duration, "s", &[a::MODEL, a::VERSION, a::LANE, a::ERROR],
        "Time from the job stored by the server to its answer stored: what its sender waits for.";
    BROKER_DURATION: "gristmill.broker.duration", Duration, "s", B,
        "Time of a job in the stream: stored to received by the worker. Clock differences below 0 count as 0.";
    QUEUE_DURATION: "gristmill.queue.duration", Duration, "s", M_LANE,
        "Time of a job in the batch former: queued to batch closed.";
    DEVICE_DURATION: "gristmill.device.duration", Duration, "s", &[a::MODEL, a::VERSION, a::DEVICE],
        "Time of one batch on the device: forward, with copies to and from it.";
    STAGE_DURATION: "gristmill.stage.duration", Duration, "s", &[a::MODEL, a::STAGE],
        "Time of one stage: decode and encode of every 64th job, pad (stacking the inputs) and split (the outputs) of each batch.";
    BATCH_SIZE: "gristmill.batch.size", Histogram(&[1.0, 2.0, 4.0, 8.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0, 128.0, 256.0]), "{request}", M,
        "Jobs in one batch.";
    BATCH_FILL: "gristmill.batch.fill", Histogram(&[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]), "1", M,
        "Rows of one batch over the most rows that a batch may have at present.";
    BATCH_ELEMENTS: "gristmill.batch.elements", Counter, "{element}", &[a::MODEL, a::VERSION, a::ELEMENT_KIND],
        "Input elements that went to the device: real ones, and padding.";
    BATCHES: "gristmill.batches", Counter, "{batch}", &[a::MODEL, a::VERSION, a::CLOSE_REASON],
        "Batches, by why they were closed: full, timeout (max delay), deadline (of a job), idle (the stream ran empty or no delay is set), solo (a suspect, alone).";
    BATCH_LIMIT: "gristmill.batch.limit", Gauge, "{row}", M,
        "Most rows of a batch at present: the package's limit, or the lowest ceiling learned from lacks of memory.";
    BATCH_KNEE: "gristmill.batch.knee", Gauge, "{element}", M,
        "Elements of the largest input, padding included, that batches end at: more yield no more a second. Twice the largest that ran, where that may not be enough.";
    BATCH_COST_RUN: "gristmill.batch.cost.run", Gauge, "s", M,
        "What a run costs however small it is, from stacking to splitting, by a line through the latest runs.";
    BATCH_COST_ELEMENT: "gristmill.batch.cost.element", Gauge, "s", M,
        "What each element of the largest input adds to that, padding included.";
    QUEUE_DEPTH: "gristmill.queue.depth", UpDown, "{request}", M_LANE,
        "Jobs waiting for a batch.";
    QUEUE_LIMIT: "gristmill.queue.limit", UpDown, "{request}", &[],
        "In-flight permits: most jobs accepted and not settled.";
    REQUESTS_ACTIVE: "gristmill.requests.active", UpDown, "{request}", &[],
        "Jobs accepted and not settled.";
    REQUESTS_REJECTED: "gristmill.requests.rejected", Counter, "{request}", &[a::MODEL, a::ERROR],
        "Jobs answered with an error result, by its code.";
    SETTLEMENTS: "gristmill.settlements", Counter, "{message}", &[a::SYSTEM, a::TEMPLATE, a::VERDICT, a::SERVER, a::PORT],
        "Deliveries answered for: ack, term (refused), nak (given back), in_progress (kept alive).";
    REDELIVERIES: "gristmill.message.redeliveries", Counter, "{message}", B,
        "Jobs delivered that had been delivered before.";
    DEAD_LETTERED: "gristmill.message.dead_lettered", Counter, "{message}", &[a::MODEL, a::ERROR],
        "Dead letters stored, by error code.";
    RESULT_DUPLICATES: "gristmill.result.duplicates", Counter, "{message}", &[],
        "Results that JetStream had already: stored before a crash or a lost acknowledgement.";
    CONSUMER_PENDING: "gristmill.consumer.pending", Gauge, "{message}", B,
        "Jobs in the stream that the consumer has not delivered yet. Every worker reports the same: take the maximum.";
    CONSUMER_ACK_PENDING: "gristmill.consumer.ack_pending", Gauge, "{message}", B,
        "Jobs delivered by the consumer to any worker and not settled. Take the maximum.";
    CONSUMER_ACK_LIMIT: "gristmill.consumer.ack_limit", Gauge, "{message}", B,
        "Most jobs that the consumer lets be unsettled. Take the maximum.";
    CONSUMER_REDELIVERED: "gristmill.consumer.redelivered", Gauge, "{message}", B,
        "Jobs delivered more than once and not settled. Take the maximum.";
    CONSUMER_WAITING: "gristmill.consumer.waiting", Gauge, "{request}", B,
        "Pulls open at the consumer: none while jobs are pending means that nobody serves them, or that all who do hold enough. Take the maximum.";
    CONSUMER_WINDOW: "gristmill.consumer.window", UpDown, "{request}", B,
        "Jobs of the consumer that this worker may have in flight at present: those on their way, and as many waiting as its engines run soon.";
    MODEL_INFO: "gristmill.model.info", Gauge, "{model}", &[a::MODEL, a::VERSION, a::DIGEST, a::DEVICE],
        "1 for each model served: its version, the digest of its file, its device.";
    MODEL_LOAD_DURATION: "gristmill.model.load.duration", Duration, "s", &[a::MODEL, a::OUTCOME],
        "Time to read, check, load and warm up one package.";
    ENGINE_BUSY_TIME: "gristmill.engine.busy.time", Counter, "s", M,
        "Time in which instances ran a batch. One minus its rate over the instances is their idle fraction.";
    ENGINE_INSTANCES: "gristmill.engine.instances", UpDown, "{instance}", M,
        "Engine instances.";
    ENGINE_FAULTS: "gristmill.engine.faults", Counter, "{fault}", &[a::FAULT],
        "What went wrong in engines: run_error, out_of_memory, panic, rebuild.";
    CONNECTION_FAULTS: "gristmill.connection.faults", Counter, "{fault}", &[a::FAULT],
        "What went wrong with NATS: loss of the connection, client_rebuild, forced_reconnect, pull_lost, publish_retry.";
    RESCUES: "gristmill.rescues", Counter, "{message}", &[a::FAULT],
        "Jobs saved from dead workers and given-up deliveries: returned, recovered, quarantined, swept.";
    READY: "gristmill.ready", Gauge, "{check}", &[a::CHECK],
        "1 where the check holds, 0 where it keeps the worker from being ready.";
    RUNTIME_LAG: "gristmill.runtime.lag", Duration, "s", &[],
        "How late the worker's runtime wakes a timer.";
    DEVICE_MEMORY_USAGE: "gristmill.device.memory.usage", UpDown, "By", &[a::MEMORY_STATE],
        "Memory of the GPU that the worker has: used (in tensors), cached (what libtorch has beyond that: freed, not yet free, or split off). After each batch; absent on the CPU.";
    GPU_MEMORY_USAGE: "hw.gpu.memory.usage", UpDown, "By", GPU,
        "Memory in use on the GPU, by anybody (NVML).";
    GPU_MEMORY_LIMIT: "hw.gpu.memory.limit", UpDown, "By", GPU,
        "Memory of the GPU (NVML).";
    GPU_MEMORY_UTILIZATION: "hw.gpu.memory.utilization", Gauge, "1", GPU,
        "Memory in use over memory of the GPU (NVML).";
    GPU_UTILIZATION: "hw.gpu.utilization", Gauge, "1", &[a::GPU_ID, a::GPU_NAME, a::GPU_VENDOR, a::GPU_TASK],
        "Part of the time in which a kernel ran on the GPU (NVML).";
    PROCESS_CPU_TIME: "process.cpu.time", Counter, "s", &[a::CPU_MODE],
        "Processor time of the worker, user and system.";
    PROCESS_MEMORY_USAGE: "process.memory.usage", UpDown, "By", &[],
        "Resident memory of the worker.";
    PROCESS_THREAD_COUNT: "process.thread.count", UpDown, "{thread}", &[],
        "Threads of the worker.";
    PROCESS_FILE_DESCRIPTORS: "process.unix.file_descriptor.count", UpDown, "{file_descriptor}", &[],
        "Open file descriptors of the worker.";
    PROCESS_UPTIME: "process.uptime", Gauge, "s", &[],
        "Time since the worker started.";
    SPANS_PROCESSED: "otel.sdk.processor.span.processed", Counter, "{span}", &["otel.component.name", a::COMPONENT, a::ERROR],
        "Spans taken by the exporter's queue, and with error.type=queue_full those dropped in front of it.";
    SPANS_EXPORTED: "otel.sdk.exporter.span.exported", Counter, "{span}", &[a::COMPONENT, a::ERROR],
        "Spans sent to the collector; with an error type, those it did not take.";
    LOGS_PROCESSED: "otel.sdk.processor.log.processed", Counter, "{log_record}", &["otel.component.name", a::COMPONENT, a::ERROR],
        "Log records taken by the exporter's queue, and with error.type=queue_full those dropped in front of it.";
    LOGS_EXPORTED: "otel.sdk.exporter.log.exported", Counter, "{log_record}", &[a::COMPONENT, a::ERROR],
        "Log records sent to the collector; with an error type, those it did not take.";
    METRICS_EXPORTED: "otel.sdk.exporter.metric_data_point.exported", Counter, "{data_point}", &[a::COMPONENT, a::ERROR],
        "Data points sent to the collector; with an error type, those it did not take.";
    TRACES_SKIPPED: "gristmill.traces.skipped", Counter, "{trace}", &[],
        "Jobs that were to be recorded and were not, since telemetry.max_traces_per_s was reached.";
    LOG_LINES_DROPPED: "gristmill.log.dropped", Counter, "{line}", &[],
        "Log lines dropped because standard output was not read fast enough.";
}
