"""Sends telemetry whose every field is known, from another implementation of OTLP than the worker's.

feed.py everything http://127.0.0.1:4318    one of each kind
feed.py flood http://127.0.0.1:4318 7       many records, all with the mark 7
"""

import sys

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import Observation
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.view import (
    ExplicitBucketHistogramAggregation,
    ExponentialBucketHistogramAggregation,
    View,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

ODD = {
    "text": "plain",
    "empty": "",
    "quotes": "va\"l'ue",
    "arrow": "a -> b: Str(c)",
    "lines": "line 1\nSpan #9\n\tTrace ID       : x\n     -> fake: Str(1)\nline )",
    "break": "ends with one\r\n",
    "unicode": "ünïcödé 漢字 \u2028 \x1b[31m",
    "key: (odd)": "v)",
    "int": -5,
    "double": 1.5,
    "round": 2.0,
    "bool": False,
    "texts": ["a", 'b, "c"'],
    "ints": [1, 2],
    "none": [],
    "bytes": b"\x00\xff",
}


class Ids(IdGenerator):
    """Ids that a test can know: traces and spans are numbered from `first` on."""

    def __init__(self, first):
        self.trace = self.span = first

    def generate_trace_id(self):
        """The next one."""
        self.trace += 1
        return self.trace

    def generate_span_id(self):
        """The next one."""
        self.span += 1
        return self.span


class Telemetry:
    """Providers of all three kinds."""

    def __init__(self, base, instance, views=(), first_id=0):
        resource = Resource.create({"service.name": "feed", "service.instance.id": instance, "n": 7, "odd": "a\nb)"})
        limits = SpanLimits(max_links=1024, max_span_attributes=1024)
        self.tracers = TracerProvider(resource=resource, span_limits=limits, id_generator=Ids(first_id))
        exporter = OTLPSpanExporter(endpoint=base + "/v1/traces")
        self.tracers.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=100_000, max_export_batch_size=200))
        reader = PeriodicExportingMetricReader(OTLPMetricExporter(endpoint=base + "/v1/metrics"), 1e9)
        self.meters = MeterProvider([reader], resource, views=views)
        self.loggers = LoggerProvider(resource=resource)
        exporter = OTLPLogExporter(endpoint=base + "/v1/logs")
        self.loggers.add_log_record_processor(BatchLogRecordProcessor(exporter, max_export_batch_size=200))

    def shutdown(self):
        """Sends what is left."""
        self.tracers.shutdown()
        self.loggers.shutdown()
        self.meters.shutdown()


def remote(trace_id, span_id, state=None):
    """The context of somebody else's span."""
    return SpanContext(trace_id, span_id, True, TraceFlags(1), state)


def spans(tracers):
    """A parent, a child with everything, and a span with more links than the usual limit."""
    tracer = tracers.get_tracer("feed.spans", "1.2.3", attributes={"scope": "yes"})
    state = TraceState([("vendor", "1")])
    context = set_span_in_context(NonRecordingSpan(remote(0xA, 0xB, state)))
    parent = tracer.start_span("process infer.jobs", context, SpanKind.CONSUMER, start_time=1_700_000_000_123_456_789)
    child = tracer.start_span(
        'odd "name"\nSpan #3', set_span_in_context(parent), SpanKind.PRODUCER, ODD, start_time=1_700_000_000_123_456_790
    )
    child.add_event("first", {"a": 1, "s": "x\ny"}, 1_700_000_000_000_000_001)
    child.add_event("second\nline", timestamp=1_700_000_000_000_000_002)
    child.set_status(Status(StatusCode.ERROR, "it broke\nbadly: x"))
    child.end(1_700_000_000_123_456_800)
    parent.set_status(Status(StatusCode.OK))
    parent.end(1_700_000_000_123_456_900)
    links = [Link(remote(0x1000 + i, 0x2000 + i, state), {"i": i, "s": "a\nb"} if i % 2 else None) for i in range(300)]
    tracers.get_tracer("feed.other").start_span("batch", links=links, start_time=5).end(7)
    return child


def metrics(meters):
    """One of each kind, exported twice; the counter grows between."""
    meter = meters.get_meter("feed.metrics", "1")
    counter = meter.create_counter("counter", "{message}", "described in\ntwo lines")
    counter.add(1, {"a": "x"})
    counter.add(2.5, {"a": "y", "n": 1})
    meter.create_up_down_counter("updown", "{request}").add(-3)
    meter.create_gauge("gauge", "1").set(0.25)
    meter.create_observable_gauge("observed", [lambda _: [Observation(7, {"k": "v"})]], "By")
    explicit = meter.create_histogram("explicit", "s")
    for value in (0.1, 0.7, 0.8, 3):
        explicit.record(value, {"a": "x"})
    exponential = meter.create_histogram("exponential", "s")
    for value in (0, 0.001, 0.01, 0.01, 0.5, 9.9):
        exponential.record(value)
    meter.create_histogram("exponential.one", "s").record(0.25)
    meters.force_flush()
    counter.add(10, {"a": "x"})
    meters.force_flush()


def logs(loggers, span):
    """One in a span with everything, one with a structure for a body, one with nothing."""
    logger = loggers.get_logger("feed.logs", "2")
    logger.emit(
        LogRecord(
            timestamp=5,
            observed_timestamp=6,
            context=set_span_in_context(span),
            severity_text="WARN",
            severity_number=SeverityNumber.WARN,
            body="two\nlines: Str(x)",
            attributes=ODD,
            event_name="messaging.process.exception",
        )
    )
    logger.emit(LogRecord(observed_timestamp=7, severity_number=SeverityNumber.INFO, body={"a": [1, "x"], "b": None}))
    logger.emit(LogRecord(observed_timestamp=8))


def everything(base):
    """One of each kind."""
    views = [
        View(
            instrument_name="exponential*",
            aggregation=ExponentialBucketHistogramAggregation(max_size=160, max_scale=20),
        ),
        View(instrument_name="explicit", aggregation=ExplicitBucketHistogramAggregation([0.5, 1, 2])),
    ]
    telemetry = Telemetry(base, "i-1", views)
    child = spans(telemetry.tracers)
    metrics(telemetry.meters)
    logs(telemetry.loggers, child)
    telemetry.shutdown()


def flood(base, mark):
    """Many of each kind, whose every text holds the mark."""
    telemetry = Telemetry(base, mark, first_id=int(mark) << 32)
    tracer, logger = telemetry.tracers.get_tracer(mark), telemetry.loggers.get_logger(mark)
    counter = telemetry.meters.get_meter(mark).create_counter("counter")
    for i in range(1000):
        attributes = {f"key {j}": f"{mark}\n{mark}" for j in range(10)}
        tracer.start_span(mark, attributes=attributes, links=[Link(remote(1, 1), attributes)]).end()
        logger.emit(LogRecord(body=f"{mark}\n{mark}", attributes=attributes))
        counter.add(1, attributes)
        if i % 100 == 0:
            telemetry.meters.force_flush()
    telemetry.shutdown()


if __name__ == "__main__":
    {"everything": everything, "flood": flood}[sys.argv[1]](*sys.argv[2:])
