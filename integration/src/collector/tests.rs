use super::parse::{End, read};
use super::{Data, Kind, MetricKind, Received, Temporality};

const TRACES: &str = concat!(
    "\x1b[2m2026-11-22T00:11:00.421958Z\x1b[0m \x1b[32m INFO\x1b[0m Starting Rotel.\n",
    "ResourceSpans #0\nResource SchemaURL: \nResource attributes:\n     -> service.name: Str(worker)\n",
    "ScopeSpans #0\nScopeSpans SchemaURL: \nInstrumentationScope two words \n",
    "Span #0\n",
    "    Trace ID       : 99bbdcb32a6ef4597bbb2d3d9c84769e\n    Parent ID      : \n    ID             : 816d35fa245801a3\n",
    "    Name           : a\nSpan #1\n    Kind           : SPAN_KIND_CONSUMER\nStart time: 5\nEnd time: 7\n",
    "    Status code    : STATUS_CODE_ERROR\n    Status message : it broke\n\nbadly: x\n",
    "Attributes:\n     -> odd: Str(a)\nSpan #1 and more\n     -> no: attribute)\n     -> i: Int(1)\n",
    "Links:\nSpanLink #0\n     -> Trace ID: 01\n     -> ID: 02\n     -> TraceState: v=1\n     -> DroppedAttributesCount: 0\n",
    "     -> Attributes::\n          -> k: Str(x\r\n)\n",
);

const MARK: &str = "ResourceSpans #0\nResource SchemaURL: mark:1\n";

fn parse(text: &str) -> (Received, End) {
    let mut received = Received::default();
    let end = read(text, &mut received).unwrap();
    (received, end)
}

#[test]
fn odd_strings_end_where_they_end() {
    let (received, end) = parse(&format!("{TRACES}{MARK}"));
    let span = received.span("816d35fa245801a3").unwrap();
    assert_eq!((end, span.name.as_str(), span.kind.as_str()), (End::Whole, "a\nSpan #1", "CONSUMER"));
    assert_eq!((span.scope.name.as_str(), span.scope.version.as_str()), ("two words", ""));
    assert_eq!((span.status.as_str(), span.status_message.as_str()), ("ERROR", "it broke\n\nbadly: x"));
    assert_eq!(span.attributes["odd"], "a)\nSpan #1 and more\n     -> no: attribute");
    assert_eq!((span.attributes["i"].kind, span.attributes.len()), (Kind::Int, 2));
    assert_eq!((span.links[0].trace_state.as_str(), span.parent_id.as_ref()), ("v=1", None));
    assert_eq!(span.links[0].attributes["k"], "x\r\n");
}

#[test]
fn a_text_cut_anywhere_gives_what_was_whole_and_nothing_odd() {
    let text = format!("{TRACES}{}{MARK}", TRACES.replace("816d35fa245801a3", "916d35fa245801a3"));
    let whole = parse(&text).0;
    for cut in (0..text.len()).filter(|&cut| text.is_char_boundary(cut)) {
        let (received, _) = parse(&text[..cut]);
        // The last record of a text that ends with a line may lack lines, which no parser can know.
        let sure = received.spans.len().saturating_sub(1);
        assert_eq!(received.spans[..sure], whole.spans[..sure], "cut at byte {cut}");
        assert!(cut > TRACES.find("it broke").unwrap() || received.spans.is_empty(), "cut at byte {cut}");
        assert!(cut < TRACES.len() || received.spans[0] == whole.spans[0], "cut at byte {cut}");
    }
}

#[test]
fn a_line_nobody_knows_is_not_passed_over() {
    let odd = |text: &str| read(text, &mut Received::default()).unwrap_err();
    assert!(odd("thread 'main' panicked\n").contains("panicked"));
    assert!(odd(&TRACES.replace("Start time", "Begin time")).contains("Start time"));
    assert!(odd(&TRACES.replace("-> i:", "-> odd:")).contains("one attribute odd only"));
}

#[test]
fn negative_and_zero_bars_are_read() {
    let text = concat!(
        "ResourceMetrics #0\nResource SchemaURL: \nScopeMetrics #0\nScopeMetrics SchemaURL: \nMetric #0\nDescriptor:\n",
        "     -> Name: h\n     -> Description: \n     -> Unit: s\n     -> DataType: ExponentialHistogram\n",
        "     -> AggregationTemporality: AGGREGATION_TEMPORALITY_DELTA\nExponentialHistogramDataPoints #0\n",
        "StartTimestamp: 1\nTimestamp: 2\nCount: 6\nBucket [-4, -2), Count: 1\nBucket [-2, -1), Count: 2\n",
        "Bucket [0, 0], Count: 3\n",
    );
    let (received, _) = parse(text);
    let metric = &received.metrics[0];
    assert_eq!(metric.kind, MetricKind::Exponential(Temporality::Delta));
    let Data::Exponential(data) = &metric.points[0].data else { panic!("{metric:?}") };
    let bars: Vec<_> = data.negative.iter().map(|bar| (bar.lower, bar.upper, bar.count)).collect();
    assert_eq!(bars, [(-4.0, -2.0, 1), (-2.0, -1.0, 2)]);
    assert_eq!((data.count, data.sum, data.zero, data.scale(), data.positive.len()), (6, None, 3, Some(0), 0));
}
