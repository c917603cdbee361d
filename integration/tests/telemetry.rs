//! What a real collector, made by others, receives of 1,000 jobs: the whole tree of spans, metrics that add up, logs that
//! belong to spans. Over gRPC and over HTTP.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::collections::{BTreeMap, BTreeSet, HashMap};

use gristmill_integration::collector::{Data, Point, Received, Span};
use gristmill_integration::{Answer, Collector, Jobs, Nats, Worker, WorkerBuilder, binary, root, run};
use gristmill_schemas::TraceContext;
use gristmill_schemas::metric::{self, Kind};
use tempfile::TempDir;

const JOBS: usize = 1000;

/// One line of the producer.
struct Produced {
    trace_id: String,
    span_id: String,
}

/// Jobs of a Python producer, each in a trace of its own.
fn produce(nats: &Nats, collector: &Collector, jobs: usize) -> HashMap<String, Produced> {
    let script = root().join("integration/collector/producer.py").display().to_string();
    let (url, otlp, jobs) = (nats.url(), collector.http_endpoint(), jobs.to_string());
    let args = [&*script, "--nats", &url, "--otlp", &otlp, "--jobs", &jobs, "--model", "mlp"];
    let ended = run(&root().join(".venv/bin/python"), &args, &[]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    let text = ended.text();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let own = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let read = |line: serde_json::Value| {
        (own(&line["job_id"]), Produced { trace_id: own(&line["trace_id"]), span_id: own(&line["span_id"]) })
    };
    lines.map(read).collect()
}

struct Scene {
    produced: HashMap<String, Produced>,
    results: Vec<Answer>,
    status: serde_json::Value,
    collector: Collector,
}

/// The test model `mlp`, with batches of at most 150 jobs that wait for that many: 1,000 jobs are six full batches, which have
/// more links than the 128 of the SDK's default, and a smaller one.
fn patient_mlp() -> TempDir {
    let dir = TempDir::new().unwrap();
    let (from, to) = (root().join("target/models/packages/mlp/1"), dir.path().join("mlp/1"));
    std::fs::create_dir_all(&to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    let manifest = std::fs::read_to_string(to.join("model.toml")).unwrap();
    let manifest =
        manifest.replace("max_rows = 256", "max_rows = 150").replace("max_delay_ms = 0", "max_delay_ms = 500");
    // A batch of more than 128 jobs is wanted, whatever this machine makes of it.
    let manifest = manifest + "knee = false\n";
    assert!(manifest.contains("max_rows = 150") && manifest.contains("max_delay_ms = 500"), "{manifest}");
    std::fs::write(to.join("model.toml"), manifest).unwrap();
    dir
}

/// 1,000 jobs are stored, then a worker answers them, then it ends and its telemetry is complete.
async fn scene(protocol: &str) -> Scene {
    let nats = Nats::start();
    nats.set_up(&["--model", "mlp"]);
    let collector = Collector::start();
    let produced = produce(&nats, &collector, JOBS);
    let jobs = Jobs::new(nats.jetstream().await);
    let bad = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    jobs.submit("mlp", "bad", b"nonsense".to_vec(), &[bad, ("tracestate", "a=b")]).await;
    let endpoint = if protocol == "grpc" { collector.grpc_endpoint() } else { collector.http_endpoint() };
    let builder = WorkerBuilder::with_dir(&nats.url(), patient_mlp()).exporting(protocol, &endpoint);
    let builder = builder.env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test");
    let mut worker: Worker = builder.set("worker", "w1").set("telemetry.slow_job_ms", 1).start();
    let results = jobs.results(JOBS + 1).await;
    jobs.settled().await;
    let status = worker.status();
    assert!(worker.terminate().success(), "{}", worker.process.log());
    let log = worker.process.log();
    assert!(log.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{log}");
    Scene { produced, results, status, collector }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_receives_the_whole_tree_over_grpc() {
    check(scene("grpc").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_receives_the_whole_tree_over_http() {
    check(scene("http/protobuf").await);
}

fn check(Scene { produced, results, status, mut collector }: Scene) {
    let received = collector.received();
    assert!(received.doubled().is_empty(), "a span came twice");
    let results: HashMap<&str, &Answer> = results.iter().map(|answer| (answer.id(), answer)).collect();
    assert_eq!(results.len(), JOBS + 1);
    for (id, producer) in &produced {
        check_job(received, id, producer, results[id.as_str()]);
    }
    check_refusal(received, results["bad"]);
    check_batches(received, &produced);
    check_metrics(received, &status);
    check_logs(received);
}

fn is_within(child: &Span, parent: &Span) -> bool {
    // Times come from two clocks of the same process, read once per job.
    const SLACK: u64 = 1_000_000;
    child.start + SLACK >= parent.start && child.end <= parent.end + SLACK && child.start <= child.end
}

fn check_job(received: &Received, id: &str, producer: &Produced, result: &Answer) {
    let sent = received.span(&producer.span_id).unwrap();
    assert_eq!((sent.name.as_str(), sent.kind.as_str()), ("publish infer.jobs", "PRODUCER"));
    let process = received.children(sent).into_iter().find(|span| span.name == "process infer.jobs").unwrap();
    assert_eq!((process.kind.as_str(), &process.trace_id), ("CONSUMER", &producer.trace_id));
    assert_eq!(process.links.iter().map(|link| &link.span_id).collect::<Vec<_>>(), [&producer.span_id]);
    assert_eq!(process.status, "UNSET");
    let attribute = |key: &str| process.attributes.get(key).unwrap_or_else(|| panic!("{key} of {process:?}")).as_str();
    let expected = [
        ("messaging.system", "nats"),
        ("messaging.operation.name", "process"),
        ("messaging.operation.type", "process"),
        ("messaging.destination.template", "infer.jobs"),
        ("messaging.destination.name", "infer.jobs.mlp.online"),
        ("messaging.consumer.group.name", "mlp-online"),
        ("messaging.message.conversation_id", id),
        ("messaging.nats.stream", "INFER_JOBS"),
        ("messaging.nats.message.delivery_count", "1"),
        ("server.address", "127.0.0.1"),
        ("gristmill.model.name", "mlp"),
        ("gristmill.model.version", "1"),
        ("gristmill.lane", "online"),
    ];
    expected.iter().for_each(|(key, value)| assert_eq!(attribute(key), *value, "{key}"));
    let children: BTreeMap<&str, &Span> =
        received.children(process).into_iter().map(|span| (span.name.as_str(), span)).collect();
    let names: BTreeSet<&str> = children.keys().copied().filter(|name| *name != "decode").collect();
    assert_eq!(names, BTreeSet::from(["ack infer.jobs", "infer mlp", "publish infer.results", "queue"]));
    children.values().for_each(|child| assert!(is_within(child, process), "{child:?} of {process:?}"));
    let kinds =
        ["ack infer.jobs", "infer mlp", "publish infer.results", "queue"].map(|name| children[name].kind.as_str());
    assert_eq!(kinds, ["CLIENT", "INTERNAL", "PRODUCER", "INTERNAL"]);
    assert!(children["queue"].end <= children["infer mlp"].end);
    assert_eq!(children["ack infer.jobs"].attributes["messaging.operation.type"], "settle");
    // The answer goes on with the span that sent it.
    let context = TraceContext::parse(result.header("traceparent")).unwrap();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let publish = children["publish infer.results"];
    assert_eq!((hex(&context.trace_id), hex(&context.span_id)), (producer.trace_id.clone(), publish.span_id.clone()));
    assert!(context.is_sampled());
    assert_eq!(publish.attributes["messaging.message.id"], result.header("Nats-Msg-Id"));
    // Both directions of the link between job and batch.
    let infer = children["infer mlp"];
    let batch = received.span(&infer.links[0].span_id).unwrap();
    assert_eq!((batch.name.as_str(), infer.links.len(), &batch.trace_id), ("batch mlp", 1, &infer.links[0].trace_id));
    let place = attribute("gristmill.batch.index").parse::<usize>().unwrap();
    assert_eq!((&batch.links[place].span_id, &batch.links[place].trace_id), (&process.span_id, &process.trace_id));
    assert_eq!(batch.attributes["gristmill.batch.size"], attribute("gristmill.batch.size"));
}

fn check_refusal(received: &Received, result: &Answer) {
    let process = received.named("process infer.jobs").into_iter().find(|span| span.status == "ERROR").unwrap();
    assert_eq!(process.trace_id, "0af7651916cd43dd8448eb211c80319c");
    assert_eq!((process.parent_id.as_deref(), process.trace_state.as_str()), (Some("b7ad6b7169203331"), "a=b"));
    assert_eq!(process.attributes["error.type"], "invalid_message");
    assert_eq!(process.status_message, result.error().message);
    let children: BTreeSet<&str> = received.children(process).iter().map(|span| span.name.as_str()).collect();
    let expected = ["decode", "publish infer.dlq", "publish infer.results", "term infer.jobs"];
    assert_eq!(children, BTreeSet::from(expected));
    let letter = received.named("publish infer.dlq")[0];
    assert_eq!(
        (letter.kind.as_str(), &letter.attributes["error.type"]),
        ("PRODUCER", &process.attributes["error.type"])
    );
}

fn check_batches(received: &Received, produced: &HashMap<String, Produced>) {
    let batches = received.named("batch mlp");
    let sizes: Vec<usize> =
        batches.iter().map(|batch| batch.attributes["gristmill.batch.size"].as_str().parse().unwrap()).collect();
    assert_eq!(sizes.iter().sum::<usize>(), JOBS);
    assert!(sizes.iter().any(|size| *size > 128) && sizes.iter().any(|size| *size < 128), "{sizes:?}");
    let mut members = HashMap::new();
    for (batch, size) in batches.iter().zip(&sizes) {
        assert_eq!((batch.parent_id.as_ref(), batch.kind.as_str()), (None, "INTERNAL"));
        assert_eq!(batch.links.len(), *size, "all members are linked");
        batch.links.iter().for_each(|link| *members.entry(&link.trace_id).or_insert(0) += 1);
        let children: Vec<&Span> = received.children(batch);
        let mut names: Vec<&str> = children.iter().map(|span| span.name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["batch.form", "batch.pad", "batch.split", "device.run mlp"]);
        children.iter().for_each(|child| assert!(is_within(child, batch), "{child:?} of {batch:?}"));
        assert!(batch.attributes.contains_key("gristmill.batch.close_reason"));
    }
    assert!(produced.values().all(|producer| members.get(&producer.trace_id) == Some(&1)), "each in one batch");
}

fn check_metrics(received: &Received, status: &serde_json::Value) {
    let mlp = [("gristmill.model.name", "mlp"), ("gristmill.model.version", "1")];
    let number = |name: &str| status["counters"][name].as_f64().unwrap();
    let (jobs, batches) = (JOBS as f64, number("batches"));
    let count = |metric: &metric::Metric, attributes: &[(&str, &str)]| {
        let points = received.latest(metric.name);
        points.iter().filter(|point| point.has(attributes)).map(|point| point.count()).sum::<u64>() as f64
    };
    assert_eq!(
        received.total(metric::CONSUMED_MESSAGES.name, &[("messaging.consumer.group.name", "mlp-online")]),
        jobs + 1.0
    );
    let sizes = received.latest(metric::BATCH_SIZE.name);
    let sum = |point: &&Point| match &point.data {
        Data::Histogram(histogram) => histogram.sum.unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!(sizes.iter().map(sum).sum::<f64>(), jobs, "sizes of batches add up to the jobs");
    assert_eq!(count(&metric::BATCH_SIZE, &mlp), batches);
    assert_eq!(received.total(metric::BATCHES.name, &mlp), batches);
    assert_eq!(received.total(metric::BATCH_ELEMENTS.name, &[("gristmill.element.kind", "real")]), 64.0 * jobs);
    assert_eq!(received.total(metric::BATCH_ELEMENTS.name, &[("gristmill.element.kind", "padding")]), 0.0);
    assert_eq!(count(&metric::QUEUE_DURATION, &[("gristmill.lane", "online")]), jobs);
    assert_eq!(count(&metric::DEVICE_DURATION, &mlp), batches);
    let bad = [("error.type", "invalid_message")];
    for metric in [metric::REQUEST_DURATION, metric::PROCESS_DURATION] {
        assert_eq!((count(&metric, &mlp), count(&metric, &bad)), (jobs, 1.0), "{}", metric.name);
    }
    for (metric, value) in [(metric::REQUESTS_REJECTED, 1.0), (metric::DEAD_LETTERED, 1.0)] {
        assert_eq!(received.total(metric.name, &bad), value, "{}", metric.name);
    }
    let sent = |template| received.total(metric::SENT_MESSAGES.name, &[("messaging.destination.template", template)]);
    assert_eq!((sent("infer.results"), sent("infer.dlq")), (jobs + 1.0, 1.0));
    let settled = |verdict| received.total(metric::SETTLEMENTS.name, &[("gristmill.verdict", verdict)]);
    assert_eq!((settled("ack"), settled("term"), settled("nak")), (jobs, 1.0, 0.0));
    assert_eq!(received.total(metric::REQUESTS_ACTIVE.name, &[]), 0.0);
    assert_eq!(received.total(metric::MODEL_INFO.name, &mlp), 1.0);
    assert_eq!(received.total(metric::SPANS_PROCESSED.name, &[("error.type", "queue_full")]), 0.0);
    assert!(received.total(metric::ENGINE_BUSY_TIME.name, &mlp) > 0.0);
    assert!(received.total(metric::PROCESS_MEMORY_USAGE.name, &[]) > 10e6);
    check_table(received);
}

/// What came is in the table, with the unit and the attributes it has there.
fn check_table(received: &Received) {
    for sent in received
        .metrics
        .iter()
        .filter(|sent| sent.resource.get("service.name").is_some_and(|n| *n == "gristmill-worker"))
    {
        let Some(metric) = metric::ALL.iter().find(|metric| metric.name == sent.name) else {
            assert!(sent.name.starts_with("otel.sdk."), "{} is not in the table", sent.name);
            continue;
        };
        if !sent.name.starts_with("otel.sdk.") {
            assert_eq!((sent.unit.as_str(), sent.description.as_str()), (metric.unit, metric.help), "{}", sent.name);
        }
        for point in &sent.points {
            let unknown: Vec<_> =
                point.attributes.keys().filter(|key| !metric.attributes.contains(&key.as_str())).collect();
            assert!(unknown.is_empty(), "{} has {unknown:?}", sent.name);
        }
        if metric.kind == Kind::Duration {
            let exponential = |point: &Point| matches!(point.data, Data::Exponential(_));
            assert!(sent.points.iter().all(exponential), "{}", sent.name);
        }
        assert_eq!(sent.resource["service.instance.id"], "w1");
        assert_eq!(sent.resource["deployment.environment.name"], "test");
    }
    let came: BTreeSet<&str> = received.metrics.iter().map(|metric| metric.name.as_str()).collect();
    let absent: Vec<&str> = metric::ALL.iter().map(|m| m.name).filter(|name| !came.contains(name)).collect();
    // Without a GPU there is nothing to say of one; the log queue reports when it is full; this model has no knee, which
    // `batching.rs` looks at.
    let is_of_part = |name: &&str| name.starts_with("hw.gpu.") || name.starts_with("otel.sdk.processor.log");
    let excused = |name: &&str| {
        is_of_part(name) || [metric::BATCH_KNEE, metric::DEVICE_MEMORY_USAGE].iter().any(|m| m.name == *name)
    };
    assert!(absent.iter().all(excused), "not exported: {absent:?}");
}

fn check_logs(received: &Received) {
    let refused = received.logs.iter().find(|log| log.body == "job refused").unwrap();
    let process = received.named("process infer.jobs").into_iter().find(|span| span.status == "ERROR").unwrap();
    assert_eq!(refused.event_name, "messaging.process.exception");
    assert!(received.logs_of(process).iter().any(|log| log.body == "job refused"));
    let slow = received.logs.iter().find(|log| log.body == "a slow job").unwrap();
    assert!(
        ["worker_ms", "stream_ms", "queue_ms", "run_ms", "publish_ms"]
            .iter()
            .all(|key| slow.attributes.contains_key(*key))
    );
    assert!(received.logs.iter().any(|log| log.body == "serving"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_from_the_command_line_is_one_trace() {
    let (nats, mut collector) = (Nats::start(), Collector::start());
    let endpoint = collector.grpc_endpoint();
    let mut worker = WorkerBuilder::new(&nats, &["mlp"]).exporting("grpc", &endpoint).start();
    let row = format!("{{\"x\": [[{}]]}}", ["0.5"; 64].join(","));
    let args = ["--nats", &nats.url(), "submit", "mlp", "--json", &row];
    let around = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let environment =
        [("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), ("TRACEPARENT", around)];
    let ended = run(&binary("gristmill"), &args, &environment);
    assert_eq!(ended.code, 0, "{}", ended.err);
    Jobs::new(nats.jetstream().await).settled().await;
    assert!(worker.terminate().success());
    let received = collector.received();
    let sent = received.named("publish infer.jobs")[0];
    assert_eq!((sent.kind.as_str(), sent.parent_id.as_deref()), ("PRODUCER", Some("b7ad6b7169203331")));
    assert_eq!(sent.resource["service.name"], "gristmill");
    assert_eq!(sent.attributes["messaging.nats.stream"], "INFER_JOBS");
    let process = received.named("process infer.jobs")[0];
    assert_eq!((process.parent_id.as_deref(), &process.trace_id), (Some(sent.span_id.as_str()), &sent.trace_id));
    assert_eq!(process.resource["service.name"], "gristmill-worker");
}
