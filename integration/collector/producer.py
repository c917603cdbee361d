"""A traced producer: submits jobs of the model `mlp`, each in a trace of its own, and sends its spans to a collector.

Prints one JSON object per job once the collector has taken them all: `job_id`, `trace_id`, and `span_id` and
`parent_span_id` of the PRODUCER span, which is the one whose context went with the job.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import logging
import sys

import numpy as np
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, format_span_id, format_trace_id

import gristmill

SPANS_PER_REQUEST = 500
"""Some 300 KB: far below what collectors take at once."""


def configure() -> InMemorySpanExporter:
    """Set the process's provider. Spans wait in memory, so that it is an error here if the collector takes none."""
    finished = InMemorySpanExporter()
    provider = TracerProvider(resource=Resource.create({"service.name": "producer"}))
    provider.add_span_processor(SimpleSpanProcessor(finished))
    trace.set_tracer_provider(provider)
    return finished


async def submit(url: str, model: str, jobs: int) -> None:
    """Submit them one after the other, each below a span as a server's request would be."""
    tracer = trace.get_tracer("producer")
    async with await gristmill.connect(url) as client:
        for _ in range(jobs):
            with tracer.start_as_current_span("request"):
                await client.submit(model, {"x": np.zeros((1, 64), np.float32)}, reply="traced")


def export(spans: tuple[ReadableSpan, ...], endpoint: str) -> None:
    """Send them to the collector; raise if it does not take them."""
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=10)
    waiting = iter(spans)
    while some := list(itertools.islice(waiting, SPANS_PER_REQUEST)):
        if exporter.export(some) is not SpanExportResult.SUCCESS:
            raise RuntimeError(f"the collector at {endpoint} did not take {len(some)} spans")
    exporter.shutdown()


def line(span: ReadableSpan) -> str:
    """What a reader needs to find the job's spans again."""
    own, parent = span.get_span_context(), span.parent
    return json.dumps(
        {
            "job_id": span.attributes["messaging.message.conversation_id"],
            "trace_id": format_trace_id(own.trace_id),
            "span_id": format_span_id(own.span_id),
            "parent_span_id": format_span_id(parent.span_id),
        }
    )


def main() -> None:
    """Submit, export, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nats", required=True, metavar="URL")
    parser.add_argument("--otlp", required=True, metavar="URL", help="OTLP over HTTP, without /v1/traces")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--model", default="mlp", help="takes x, FP32, [1, 64]")
    arguments = parser.parse_args()
    logging.getLogger("nats").setLevel(logging.CRITICAL)
    finished = configure()
    asyncio.run(submit(arguments.nats, arguments.model, arguments.jobs))
    spans = finished.get_finished_spans()
    export(spans, arguments.otlp)
    for span in spans:
        if span.kind is SpanKind.PRODUCER:
            print(line(span))


if __name__ == "__main__":
    try:
        main()
    except RuntimeError as error:
        sys.exit(f"failed: {error}")
