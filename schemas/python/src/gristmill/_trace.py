"""The producer's side of a trace: a span for each job that is published, and its context among the job's headers.

Names follow the semantic conventions 1.44 for messaging. Nothing happens where OpenTelemetry's API is not installed or
the program configured no SDK.
"""

from __future__ import annotations

import functools
import logging
import re
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import ParseResult

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer, TracerProvider

_SCHEMA = "https://opentelemetry.io/schemas/1.44.0"
#: W3C's names; NATS takes case as it is, so that a caller may have written them otherwise.
_TRACEPARENT = "traceparent"
_W3C = frozenset({_TRACEPARENT, "tracestate", "baggage"})
#: What nats-py takes as the name of a header. A propagator may make names of baggage keys, which can be anything.
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


class Publish(NamedTuple):
    """One job on its way to the broker."""

    namespace: str
    model: str
    lane: str
    job_id: str
    body_size: int
    #: The server that the client is connected to; None while it reconnects.
    server: ParseResult | None

    @property
    def subject(self) -> str:
        """Where the job goes."""
        return f"{self.template}.{self.model}.{self.lane}"

    @property
    def template(self) -> str:
        """What the subjects of all jobs have in common."""
        return f"{self.namespace}.jobs"

    def attributes(self, message_id: str) -> dict[str, str | int]:
        """What is known before the broker answers."""
        known: dict[str, str | int] = {
            "messaging.system": "nats",
            "messaging.operation.name": "publish",
            "messaging.operation.type": "send",
            "messaging.destination.template": self.template,
            # Bounded: as many as there are models and lanes.
            "messaging.destination.name": self.subject,
            "messaging.message.id": message_id,
            "messaging.message.conversation_id": self.job_id,
            "messaging.message.body.size": self.body_size,
            "gristmill.model.name": self.model,
            "gristmill.lane": self.lane,
        }
        if self.server is not None and self.server.hostname:
            known["server.address"] = self.server.hostname
            if self.server.port:
                known["server.port"] = self.server.port
        return known


class PublishSpan:
    """The span of one publish, or none. It ends with the `with` block; what is raised there marks it as failed.

    It is not made the current span: nothing of the program runs below it, and a task that nats-py starts there would
    keep it as its own for as long as it lives.
    """

    def __init__(self, span: Span | None = None) -> None:
        self._span = span

    def stored(self, stream: str, sequence: int) -> None:
        """The broker has confirmed the job."""
        if self._span is not None:
            # Not registered: the conventions say nothing of NATS yet.
            self._span.set_attribute("messaging.nats.stream", stream)
            self._span.set_attribute("messaging.nats.sequence", sequence)

    def __enter__(self) -> PublishSpan:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._span is None:
            return
        if error is not None:
            _fail(self._span, error)
        self._span.end()


def publishing(job: Publish, headers: dict[str, str]) -> PublishSpan:
    """Start the span of a publish and add its context to `headers`.

    A `traceparent` that is there already is the caller's own trace, and no span is made. No other header is replaced.
    Of W3C's headers, empty ones are removed: `traceparent=result.traceparent` is then harmless where there is none.
    """
    for name in [name for name, value in headers.items() if not value.strip() and name.lower() in _W3C]:
        del headers[name]
    present = {name.lower() for name in headers}
    if _TRACEPARENT in present or not _installed():
        return PublishSpan()
    from opentelemetry import propagate, trace

    provider = trace.get_tracer_provider()
    # Without an SDK nobody reads them, and they are most of what a span costs.
    unread = isinstance(provider, trace.ProxyTracerProvider)
    attributes = None if unread else job.attributes(headers.get("Nats-Msg-Id") or job.job_id)
    span = _tracer(provider).start_span(f"publish {job.template}", kind=trace.SpanKind.PRODUCER, attributes=attributes)
    if not span.get_span_context().is_valid:
        return PublishSpan()
    carrier: dict[str, str] = {}
    propagate.inject(carrier, context=trace.set_span_in_context(span))
    for name, value in carrier.items():
        # A header can neither be empty nor hold a line break.
        if value.strip() and name.lower() not in present and _NAME.fullmatch(name) and not re.search(r"[\r\n]", value):
            headers[name] = value
    return PublishSpan(span)


@functools.cache
def _installed() -> bool:
    """Whether OpenTelemetry's API can be imported; only looked at when the first job is published."""
    try:
        import opentelemetry.propagate
        import opentelemetry.trace  # noqa: F401
    except ModuleNotFoundError:
        return False
    except Exception as error:
        # For one, OTEL_PROPAGATORS names one that is not installed. Jobs matter more than their traces.
        logging.getLogger("gristmill").warning("jobs carry no trace, OpenTelemetry cannot be loaded: %s", error)
        return False
    return True


@functools.lru_cache(maxsize=1)
def _tracer(provider: TracerProvider) -> Tracer:
    """Kept for the provider at hand: the SDK takes a lock to find it. A program may set its provider at any time."""
    return provider.get_tracer("gristmill", schema_url=_SCHEMA)


def _fail(span: Span, error: BaseException) -> None:
    """Also for a publish that was cancelled: nobody knows whether the job is stored."""
    from opentelemetry.trace import StatusCode

    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    span.set_attribute("error.type", name)
    span.set_status(StatusCode.ERROR, str(error) or None)
