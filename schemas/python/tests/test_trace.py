"""The producer's span, with the SDK's exporter in memory, and the headers that a real nats-server stored."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from broker import PATIENCE, X, doubled, responder
from nats.js.errors import NoStreamResponseError
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags, TraceState

import gristmill
from gristmill import Client

THEIRS = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Spans:
    """An SDK of this test alone: the process-wide provider can be set only once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False, **options)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("test")
        monkeypatch.setattr(trace, "get_tracer_provider", lambda: self.provider)

    def published(self) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.kind is SpanKind.PRODUCER]


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Spans:
    return Spans(monkeypatch)


def remote(flags: int = TraceFlags.SAMPLED) -> context.Context:
    """What a server made of a request that belongs to `THEIRS`."""
    _, trace_id, span_id, _ = THEIRS.split("-")
    state = TraceState([("vendor", "x")])
    parent = SpanContext(int(trace_id, 16), int(span_id, 16), True, TraceFlags(flags), state)
    return trace.set_span_in_context(NonRecordingSpan(parent), context.Context())


class attached:
    """Makes a context the current one."""

    def __init__(self, current: context.Context) -> None:
        self._current = current

    def __enter__(self) -> None:
        self._token = context.attach(self._current)

    def __exit__(self, *_: object) -> None:
        context.detach(self._token)


def traceparent(span: trace.Span | ReadableSpan) -> str:
    own = span.get_span_context()
    assert own is not None
    return f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}"


def sampled(traceparent: str) -> bool:
    # Not the whole byte: newer SDKs also say that the trace's id is random.
    return bool(int(traceparent.split("-")[3], 16) & TraceFlags.SAMPLED)


async def stored_headers(client: Client, sequence: int) -> dict[str, str]:
    return dict((await client.jetstream.get_msg("INFER_JOBS", sequence)).headers)


async def submit(client: Client, **options: Any) -> dict[str, str]:
    """Submit a job; returns the headers that the server stored, but for the job's id."""
    submitted = await client.submit("digits", X, **options)
    headers = await stored_headers(client, submitted.sequence)
    assert headers.pop("Gristmill-Job-Id") == submitted.job_id
    return headers


async def test_a_job_has_a_span_that_says_what_was_published(client: Client, server: str, spans: Spans) -> None:
    await client.submit("digits", X, lane="bulk", job_id="job-1", dedup_id="once")
    (span,) = spans.published()
    assert (span.name, span.kind) == ("publish infer.jobs", SpanKind.PRODUCER)
    assert dict(span.attributes or {}) == {
        "messaging.system": "nats",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.template": "infer.jobs",
        "messaging.destination.name": "infer.jobs.digits.bulk",
        "messaging.message.id": "once",
        "messaging.message.conversation_id": "job-1",
        "messaging.message.body.size": len(gristmill.encode_job(X)),
        "messaging.nats.stream": "INFER_JOBS",
        "messaging.nats.sequence": 1,
        "server.address": "127.0.0.1",
        "server.port": urlsplit(server).port,
        "gristmill.model.name": "digits",
        "gristmill.lane": "bulk",
    }
    assert span.status.status_code is StatusCode.UNSET
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.name == "gristmill"


async def test_a_job_without_a_dedup_id_is_known_by_its_own(client: Client, spans: Spans) -> None:
    await client.submit("digits", X, job_id="job-1")
    await client.submit_encoded("digits", gristmill.encode_job(X), job_id="job-2", headers={"Nats-Msg-Id": "theirs"})
    ids = [(span.attributes or {})["messaging.message.id"] for span in spans.published()]
    assert ids == ["job-1", "theirs"]


async def test_the_span_is_a_child_of_the_current_one_and_its_context_goes_with_the_job(
    client: Client, spans: Spans
) -> None:
    with spans.tracer.start_as_current_span("request") as request:
        headers = await submit(client)
        assert trace.get_current_span() is request
    (span,) = spans.published()
    assert span.parent == request.get_span_context()
    assert headers == {"traceparent": traceparent(span)}
    assert sampled(headers["traceparent"])


async def test_without_a_current_span_the_job_begins_a_trace(client: Client, spans: Spans) -> None:
    headers = await submit(client)
    (span,) = spans.published()
    assert (span.parent, headers) == (None, {"traceparent": traceparent(span)})


async def test_a_trace_that_is_not_sampled_goes_with_the_job_and_says_so(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans = Spans(monkeypatch, sampler=ParentBased(TraceIdRatioBased(0)))
    with spans.tracer.start_as_current_span("request") as request:
        headers = await submit(client)
    assert headers["traceparent"].split("-")[1] == traceparent(request).split("-")[1]
    assert headers["traceparent"] != traceparent(request)
    assert not sampled(headers["traceparent"])
    assert spans.published() == []


async def test_tracestate_and_baggage_of_the_current_context_go_with_the_job(client: Client, spans: Spans) -> None:
    with attached(baggage.set_baggage("tenant", "a b", remote())):
        headers = await submit(client)
    (span,) = spans.published()
    assert headers == {"traceparent": traceparent(span), "tracestate": "vendor=x", "baggage": "tenant=a+b"}
    assert headers["traceparent"].split("-")[1] == THEIRS.split("-")[1]


async def test_each_of_many_concurrent_jobs_has_its_own_span(client: Client, spans: Spans) -> None:
    with spans.tracer.start_as_current_span("request") as request:
        stored = await asyncio.gather(*(submit(client) for _ in range(50)))
    published = spans.published()
    assert {headers["traceparent"] for headers in stored} == {traceparent(span) for span in published}
    assert len({traceparent(span) for span in published}) == 50
    assert all(span.parent == request.get_span_context() for span in published)


@pytest.mark.parametrize(
    "options",
    [
        {"traceparent": THEIRS},
        {"headers": {"traceparent": THEIRS}},
        # The worker takes it like this, too.
        {"headers": {"Traceparent": THEIRS}},
    ],
)
async def test_a_traceparent_of_the_caller_wins(client: Client, spans: Spans, options: dict[str, Any]) -> None:
    with attached(baggage.set_baggage("tenant", "a")), spans.tracer.start_as_current_span("request"):
        headers = await submit(client, **options)
    assert headers == options.get("headers", {"traceparent": THEIRS})
    assert spans.published() == []


async def test_tracestate_and_baggage_of_the_caller_pass_untouched(client: Client, spans: Spans) -> None:
    given = {"tracestate": "a=b", "baggage": "c=d"}
    with attached(baggage.set_baggage("tenant", "a", remote())):
        headers = await submit(client, headers=given)
    (span,) = spans.published()
    assert headers == given | {"traceparent": traceparent(span)}


async def test_an_empty_context_of_the_caller_is_none(client: Client, spans: Spans) -> None:
    headers = await submit(client, traceparent="", headers={"tracestate": " ", "baggage": ""})
    (span,) = spans.published()
    assert headers == {"traceparent": traceparent(span)}


class Careless(TextMapPropagator):
    """Brings what a header cannot carry, and what is not a propagator's to set."""

    def inject(self, carrier: Any, context: Any = None, setter: Any = None) -> None:
        carrier |= {"b3": "0", "empty": " ", "broken": "a\r\nb", "not a name": "x", "x:y": "z", "gristmill-job-id": "j"}

    def extract(self, carrier: Any, context: Any = None, getter: Any = None) -> Any:
        return context

    @property
    def fields(self) -> set[str]:
        return set()


async def test_the_configured_propagator_decides_but_for_what_no_header_can_carry(
    client: Client, spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(propagate, "get_global_textmap", Careless)
    assert await submit(client) == {"b3": "0"}
    assert len(spans.published()) == 1


async def test_a_job_that_no_stream_takes_marks_its_span(server: str, spans: Spans) -> None:
    async with await gristmill.connect(server, namespace="absent") as client:
        with pytest.raises(NoStreamResponseError):
            await client.submit("digits", X)
    (span,) = spans.published()
    attributes = span.attributes or {}
    assert (span.name, span.status.status_code) == ("publish absent.jobs", StatusCode.ERROR)
    assert span.status.description == str(NoStreamResponseError())
    assert attributes["error.type"] == "nats.js.errors.NoStreamResponseError"
    assert attributes["messaging.destination.name"] == "absent.jobs.digits.online"
    assert "messaging.nats.stream" not in attributes
    assert not span.events


async def test_what_is_refused_before_it_is_published_has_no_span(client: Client, spans: Spans) -> None:
    for options in ({"model": "a.b"}, {"model": "digits", "lane": "slow"}, {"model": "digits", "reply": "*"}):
        with pytest.raises(ValueError, match="is n"):
            await client.submit(inputs=X, **options)
    assert spans.published() == []


async def test_infer_submits_in_the_callers_trace(client: Client, spans: Spans) -> None:
    with spans.tracer.start_as_current_span("request") as request:
        async with responder(client, doubled):
            await client.infer("digits", X, timeout=PATIENCE)
    (span,) = spans.published()
    assert span.parent == request.get_span_context()


async def test_a_publish_that_infer_gave_up_marks_its_span(
    client: Client, spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def publish(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(client.jetstream, "publish", publish)
    with pytest.raises(TimeoutError, match="no answer to job"):
        await client.infer("digits", X, timeout=0.2)
    (span,) = spans.published()
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "asyncio.exceptions.CancelledError"


async def test_a_result_continues_its_trace(client: Client, spans: Spans) -> None:
    body = gristmill.encode_result("job-1", "digits", "3", {"y": X["x"]}, {"batch_rows": 2})
    headers = {"Gristmill-Job-Id": "job-1", "traceparent": THEIRS, "tracestate": "vendor=x"}
    await client.jetstream.publish("infer.results.digits.all", body, headers=headers)
    (result,) = [result async for result in client.results(count=1)]
    assert result.traceparent == THEIRS
    with spans.tracer.start_span("use", context=propagate.extract(result.headers)) as used:
        assert isinstance(used, ReadableSpan)
        assert used.parent == trace.get_current_span(remote()).get_span_context()


async def test_without_an_sdk_headers_stay_as_they_were(client: Client) -> None:
    with attached(baggage.set_baggage("tenant", "a")):
        assert await submit(client) == {}
        assert await submit(client, headers={"tracestate": "a=b"}) == {"tracestate": "a=b"}


async def test_without_an_sdk_the_callers_trace_still_goes_with_the_job(client: Client) -> None:
    with attached(remote()):
        assert await submit(client) == {"traceparent": THEIRS, "tracestate": "vendor=x"}


async def test_an_sdk_that_is_configured_later_is_taken(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await submit(client) == {}
    for _ in range(2):
        spans = Spans(monkeypatch)
        headers = await submit(client)
        assert [{"traceparent": traceparent(span)} for span in spans.published()] == [headers]


PROGRAM = """
import asyncio, logging, sys
logging.basicConfig(level=logging.WARNING, format="log: %(message)s", stream=sys.stdout)
{before}
import gristmill
loaded = [name for name in sys.modules if name.startswith("opentelemetry.")]

async def main():
    async with await gristmill.connect(sys.argv[1]) as client:
        await client.submit("digits", {{"x": [1.0]}}, job_id="job-1", traceparent="")
        {after}
        await client.submit("digits", {{"x": [1.0]}}, job_id="job-2")

asyncio.run(main())
print("loaded", loaded)
"""


def other_program(server: str, before: str = "", after: str = "", **env: str) -> list[str]:
    """Submits two jobs from a process of its own; returns what it printed."""
    source = Path(gristmill.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(before=before, after=after), server],
        env=os.environ | {"PYTHONPATH": str(source)} | env,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


async def test_without_opentelemetry_jobs_are_submitted_as_ever(client: Client, server: str) -> None:
    # What an import finds where the package is not installed.
    assert other_program(server, before="sys.modules['opentelemetry'] = None") == ["loaded []"]
    assert [await stored_headers(client, n) for n in (1, 2)] == [{"Gristmill-Job-Id": f"job-{n}"} for n in (1, 2)]


async def test_an_opentelemetry_that_cannot_be_loaded_stops_no_job(client: Client, server: str) -> None:
    warning, loaded = other_program(server, OTEL_PROPAGATORS="absent")
    # Once, not for every job.
    assert warning.startswith("log: jobs carry no trace, OpenTelemetry cannot be loaded: Propagator absent not found")
    assert loaded == "loaded []"
    assert await stored_headers(client, 2) == {"Gristmill-Job-Id": "job-2"}


async def test_the_provider_of_the_process_is_taken_when_it_is_set(client: Client, server: str) -> None:
    after = (
        "from opentelemetry import trace; from opentelemetry.sdk.trace import TracerProvider; "
        "trace.set_tracer_provider(TracerProvider())"
    )
    # Importing the client loads nothing of OpenTelemetry.
    assert other_program(server, after=after) == ["loaded []"]
    assert await stored_headers(client, 1) == {"Gristmill-Job-Id": "job-1"}
    assert sampled((await stored_headers(client, 2))["traceparent"])
