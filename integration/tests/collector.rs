//! The collector of the tests, fed by another implementation of OTLP: what was sent is what is read. And its sick fellows.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use gristmill_integration::collector::sick::{Hanging, Refusing, Resetting, Slow};
use gristmill_integration::collector::{Attributes, Data, Exponential, Kind, MetricKind, Point, Temporality, Value};
use gristmill_integration::{Collector, Ended, root, run};

/// Runs `integration/collector/feed.py`.
fn try_feed(args: &[&str]) -> Ended {
    let script = root().join("integration/collector/feed.py");
    let args = [&[script.to_str().unwrap()], args].concat();
    // No proxy of the environment comes between.
    run(&root().join(".venv/bin/python"), &args, &[("NO_PROXY", "127.0.0.1")])
}

fn feed(args: &[&str]) {
    let ended = try_feed(args);
    assert!(ended.code == 0 && !ended.err.contains("Failed to export"), "{}", ended.err);
}

/// A collector that was sent one of each kind.
fn fed() -> Collector {
    let collector = Collector::start();
    feed(&["everything", &collector.http_endpoint()]);
    collector
}

/// What `ODD` is in the script.
fn assert_odd(attributes: &Attributes) {
    let expected = [
        ("text", Kind::Str, "plain"),
        ("empty", Kind::Str, ""),
        ("quotes", Kind::Str, "va\"l'ue"),
        ("arrow", Kind::Str, "a -> b: Str(c)"),
        ("lines", Kind::Str, "line 1\nSpan #9\n\tTrace ID       : x\n     -> fake: Str(1)\nline )"),
        ("break", Kind::Str, "ends with one\r\n"),
        ("unicode", Kind::Str, "ünïcödé 漢字 \u{2028} \x1b[31m"),
        ("key: (odd)", Kind::Str, "v)"),
        ("int", Kind::Int, "-5"),
        ("double", Kind::Double, "1.5"),
        ("round", Kind::Double, "2"),
        ("bool", Kind::Bool, "false"),
        ("texts", Kind::Slice, "Str(a), Str(b, \"c\")"),
        ("ints", Kind::Slice, "Int(1), Int(2)"),
        ("none", Kind::Slice, ""),
        ("bytes", Kind::Bytes, "[0, 255]"),
    ];
    for (key, kind, text) in expected {
        assert_eq!((attributes[key].kind, attributes[key].text.as_str()), (kind, text), "{key}");
    }
    assert_eq!(attributes.len(), expected.len());
}

#[test]
fn every_field_of_a_span_arrives() {
    let mut collector = fed();
    let received = collector.received();
    let child = received.span("0000000000000002").unwrap();
    let parent = received.span(child.parent_id.as_ref().unwrap()).unwrap();
    assert_eq!(child.name, "odd \"name\"\nSpan #3");
    assert_eq!((child.kind.as_str(), parent.kind.as_str()), ("PRODUCER", "CONSUMER"));
    assert_eq!((child.start, child.end), (1_700_000_000_123_456_790, 1_700_000_000_123_456_800));
    assert_eq!((child.status.as_str(), child.status_message.as_str()), ("ERROR", "it broke\nbadly: x"));
    assert_eq!((parent.status.as_str(), parent.status_message.as_str()), ("OK", ""));
    assert_eq!((child.trace_id.as_str(), child.trace_state.as_str()), ("0000000000000000000000000000000a", "vendor=1"));
    assert_odd(&child.attributes);
    assert!(parent.attributes.is_empty());

    let events: Vec<_> = child.events.iter().map(|event| (event.name.as_str(), event.time)).collect();
    assert_eq!(events, [("first", 1_700_000_000_000_000_001), ("second\nline", 1_700_000_000_000_000_002)]);
    assert_eq!(["a", "s"].map(|key| child.events[0].attributes[key].as_str()), ["1", "x\ny"]);

    let (resource, scope) = (&child.resource, &child.scope);
    assert_eq!(
        [&resource["service.name"], &resource["n"], &resource["odd"]].map(Value::as_str),
        ["feed", "7", "a\nb)"]
    );
    assert_eq!((scope.name.as_str(), scope.version.as_str()), ("feed.spans", "1.2.3"));
    assert_eq!(scope.attributes["scope"], "yes");

    assert_eq!(received.children(parent), [child]);
    assert_eq!(parent.parent_id.as_deref(), Some("000000000000000b"));
    assert_eq!(received.named("process infer.jobs"), [parent]);
    let sizes: Vec<_> = received.spans_by_trace().into_values().map(|spans| spans.len()).collect();
    assert_eq!((sizes, received.doubled().len()), (vec![1, 2], 0));
}

#[test]
fn links_beyond_the_usual_limit_arrive() {
    let mut collector = fed();
    let received = collector.received();
    let batch = received.named("batch")[0];
    assert_eq!((batch.parent_id.as_ref(), batch.links.len()), (None, 300));
    for (i, link) in batch.links.iter().enumerate() {
        assert_eq!((&link.trace_id, &link.span_id), (&format!("{:032x}", 0x1000 + i), &format!("{:016x}", 0x2000 + i)));
        if i % 2 == 0 {
            assert!(link.attributes.is_empty());
        } else {
            assert_eq!(["i", "s"].map(|key| link.attributes[key].as_str()), [&i.to_string(), "a\nb"]);
        }
    }
    let mut linked = batch.clone();
    (linked.trace_id, linked.span_id) = (batch.links[7].trace_id.clone(), batch.links[7].span_id.clone());
    assert_eq!(received.linking_to(&linked), [batch]);
}

#[test]
fn sums_and_gauges_arrive_with_every_export() {
    let mut collector = fed();
    let received = collector.received();
    // The shutdown is an export, too.
    let exports = received.exports("counter");
    let (counter, cumulative) = (exports[0], Temporality::Cumulative);
    assert_eq!((counter.description.as_str(), counter.unit.as_str()), ("described in\ntwo lines", "{message}"));
    assert_eq!(counter.kind, MetricKind::Sum { is_monotonic: true, temporality: cumulative });
    assert_eq!(
        (counter.scope.name.as_str(), counter.resource["service.instance.id"].as_str()),
        ("feed.metrics", "i-1")
    );
    let x: Vec<f64> =
        exports.iter().map(|export| export.points.iter().find(|p| p.has(&[("a", "x")])).unwrap().number()).collect();
    assert_eq!(x, [1.0, 11.0, 11.0]);
    assert_eq!(received.latest("counter").len(), 2);
    assert_eq!(received.total("counter", &[]), 13.5);
    assert_eq!(received.total("counter", &[("a", "y"), ("n", "1")]), 2.5);
    assert_eq!(received.total("counter", &[("a", "z")]), 0.0);

    let updown = received.exports("updown")[0];
    assert_eq!(updown.kind, MetricKind::Sum { is_monotonic: false, temporality: cumulative });
    assert_eq!(updown.points[0].number(), -3.0);
    assert!(updown.points[0].start > 0 && updown.points[0].time >= updown.points[0].start);
    let gauges = ["gauge", "observed"].map(|name| received.exports(name)[0]);
    assert_eq!(gauges.map(|gauge| gauge.kind), [MetricKind::Gauge; 2]);
    assert_eq!(gauges.map(|gauge| gauge.points[0].number()), [0.25, 7.0]);
    assert!(gauges[1].unit == "By" && gauges[1].points[0].has(&[("k", "v")]));
}

fn exponential(points: Vec<&Point>) -> &Exponential {
    match &points[..] {
        [Point { data: Data::Exponential(data), .. }] => data,
        _ => panic!("not one exponential histogram: {points:?}"),
    }
}

#[test]
fn histograms_arrive_bar_by_bar() {
    let mut collector = fed();
    let received = collector.received();
    assert_eq!(received.exports("explicit")[0].kind, MetricKind::Histogram(Temporality::Cumulative));
    let explicit = received.latest("explicit")[0];
    let Data::Histogram(data) = &explicit.data else { panic!("{explicit:?}") };
    assert_eq!((&data.bounds[..], &data.counts[..]), (&[0.5, 1.0, 2.0][..], &[1, 2, 0, 1][..]));
    assert_eq!((data.count, data.min, data.max), (4, Some(0.1), Some(3.0)));
    assert!((data.sum.unwrap() - 4.6).abs() < 1e-9);
    assert_eq!((explicit.count(), received.total("explicit", &[("a", "x")])), (4, 4.0));

    let many = received.exports("exponential")[0];
    assert_eq!((many.kind, many.unit.as_str()), (MetricKind::Exponential(Temporality::Cumulative), "s"));
    let data = exponential(received.latest("exponential"));
    assert_eq!((data.count, data.zero, data.min, data.max), (6, 1, Some(0.0), Some(9.9)));
    assert!((data.sum.unwrap() - 10.421).abs() < 1e-9);
    // 0.001 to 9.9 are 13.3 factors of two; 160 bars hold them at 2^3 bars a factor.
    assert_eq!(data.scale(), Some(3));
    for (value, count) in [(0.001, 1), (0.01, 2), (0.5, 1), (9.9, 1)] {
        let bar = data.positive.iter().find(|bar| bar.lower < value && value <= bar.upper * (1.0 + 1e-9)).unwrap();
        assert_eq!(bar.count, count, "{value} in {bar:?}");
    }
    assert_eq!(data.positive.iter().map(|bar| bar.count).sum::<u64>(), 5);
    assert!(data.negative.iter().all(|bar| bar.count == 0));

    let one = exponential(received.latest("exponential.one"));
    assert_eq!((one.count, one.zero, one.scale()), (1, 0, Some(20)));
}

#[test]
fn logs_arrive_with_their_span() {
    let mut collector = fed();
    let received = collector.received();
    let [full, structured, empty] = &received.logs[..] else { panic!("{:?}", received.logs) };
    assert_eq!((full.time, full.observed), (5, 6));
    assert_eq!((full.severity.as_str(), full.severity_number), ("WARN", 13));
    assert_eq!((full.event_name.as_str(), full.body.as_str()), ("messaging.process.exception", "two\nlines: Str(x)"));
    assert_odd(&full.attributes);
    assert_eq!(full.flags & 1, 1, "the span is sampled");
    assert_eq!((full.scope.name.as_str(), full.resource["service.name"].as_str()), ("feed.logs", "feed"));
    assert_eq!(received.logs_of(received.span("0000000000000002").unwrap()), [full]);

    assert_eq!((structured.body.kind, structured.body.as_str()), (Kind::Map, "a:Slice(Int(1), Str(x)), b:Empty"));
    assert_eq!((structured.severity_number, structured.time, structured.event_name.as_str()), (9, 0, ""));
    assert_eq!((empty.body.kind, empty.trace_id.as_ref(), empty.span_id.as_ref()), (Kind::Empty, None, None));
}

#[tokio::test]
async fn what_many_send_at_once_is_not_mixed_up() {
    let mut collector = Collector::start();
    let endpoint = collector.http_endpoint();
    let marks = ["1", "2", "3"];
    let feeders = marks.map(|mark| {
        let endpoint = endpoint.clone();
        std::thread::spawn(move || feed(&["flood", &endpoint, mark]))
    });
    let count = 1000 * marks.len();
    let received = collector
        .wait_for("three floods", |received| {
            let metrics = marks.map(|mark| received.total("counter", &[("key 0", &format!("{mark}\n{mark}"))]));
            received.spans.len() == count && received.logs.len() == count && metrics == [1000.0; 3]
        })
        .await;
    for span in &received.spans {
        let texts = span.attributes.values().chain(span.links[0].attributes.values());
        assert!(texts.count() == 20 && span.attributes.values().all(|v| *v == *format!("{0}\n{0}", span.name)));
        assert!(span.scope.name == span.name && span.resource["service.instance.id"] == *span.name);
    }
    assert!(received.logs.iter().all(|log| log.body == *format!("{0}\n{0}", log.scope.name)));
    assert_eq!(received.doubled().len(), 0);
    feeders.into_iter().for_each(|feeder| feeder.join().unwrap());
}

#[test]
fn what_was_received_outlives_a_collector_and_its_ports_stay() {
    let mut collector = Collector::start();
    let endpoint = collector.http_endpoint();
    feed(&["everything", &endpoint]);
    collector.stop();
    assert_eq!(collector.received().spans.len(), 3);
    assert_eq!(
        TcpStream::connect(("127.0.0.1", collector.http_port())).unwrap_err().kind(),
        ErrorKind::ConnectionRefused
    );
    collector.restart();
    feed(&["everything", &endpoint]);
    assert_eq!((collector.received().spans.len(), collector.received().doubled().len()), (6, 3));
    // Somebody is connected while it dies, and while the next one takes the port.
    let _connected = [collector.grpc_port(), collector.http_port()].map(|port| TcpStream::connect(("127.0.0.1", port)));
    collector.kill();
    collector.restart();
    assert_eq!(collector.received().spans.len(), 6);
    feed(&["everything", &endpoint]);
    assert_eq!(collector.received().spans.len(), 9);
}

fn connect(endpoint: &str) -> TcpStream {
    let stream = TcpStream::connect(endpoint.strip_prefix("http://").unwrap()).unwrap();
    // Only where nothing is to come does a test wait this long.
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    stream
}

#[test]
fn a_hanging_collector_says_nothing() {
    let hanging = Hanging::start();
    let mut streams = [(); 3].map(|()| connect(&hanging.endpoint()));
    for stream in &mut streams {
        stream.write_all(b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").unwrap();
    }
    assert_eq!(streams[0].read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(hanging.connections(), 3);
    drop(hanging);
    assert!(!matches!(streams[2].read(&mut [0]), Ok(1..)));
}

#[test]
fn a_resetting_collector_resets() {
    let resetting = Resetting::start();
    for _ in 0..3 {
        let mut stream = connect(&resetting.endpoint());
        stream.set_read_timeout(None).unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    assert_eq!(resetting.connections(), 3);
}

#[test]
fn a_refusing_collector_answers_each_request_over_http() {
    let refusing = Refusing::start();
    let mut stream = connect(&refusing.endpoint());
    stream.set_read_timeout(None).unwrap();
    for _ in 0..2 {
        stream.write_all(b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello").unwrap();
        let expected = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
        let mut answer = vec![0; expected.len()];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, expected);
    }
    assert_eq!((refusing.connections(), refusing.requests()), (1, 2));
}

#[test]
fn a_refusing_collector_answers_each_request_over_grpc() {
    let refusing = Refusing::start();
    let mut stream = connect(&refusing.endpoint());
    stream.set_read_timeout(None).unwrap();
    // The preface, empty settings, and two requests: each `:method: POST` as its whole header block, and an empty body.
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    for id in [1, 3] {
        stream.write_all(&[0, 0, 1, 1, 4, 0, 0, 0, id, 0x83]).unwrap();
        stream.write_all(&[0, 0, 0, 0, 1, 0, 0, 0, id]).unwrap();
    }
    let (mut kinds, mut answered) = (Vec::new(), BTreeSet::new());
    while answered.len() < 2 {
        let mut head = [0; 9];
        stream.read_exact(&mut head).unwrap();
        let mut payload = vec![0; usize::from(head[2])];
        stream.read_exact(&mut payload).unwrap();
        kinds.push((head[3], head[4]));
        if head[3] == 1 {
            assert!(payload.ends_with(b"\x0bgrpc-status\x0214") && payload[0] == 0x88);
            answered.insert(head[8]);
        }
    }
    // Settings, their acknowledgement, and two answers that end their streams.
    assert_eq!(kinds, [(4, 0), (4, 1), (1, 5), (1, 5)]);
    assert_eq!((answered, refusing.requests()), (BTreeSet::from([1, 3]), 2));
}

#[test]
fn all_arrives_through_a_slow_way() {
    let mut collector = Collector::start();
    let slow = Slow::start(collector.http_port(), Duration::from_millis(20));
    feed(&["everything", &slow.endpoint()]);
    let received = collector.received();
    assert_eq!((received.spans.len(), received.logs.len(), received.exports("counter").len()), (3, 3, 3));
    assert!(slow.connections() >= 3, "one for each exporter");
}
