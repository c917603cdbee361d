"""The client: submit jobs, await answers, read stored results."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

import nats
import numpy.typing as npt
from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg
from nats.errors import TimeoutError as NatsTimeout
from nats.js.api import ConsumerConfig, DeliverPolicy

from ._names import job_id as checked_id
from ._names import token
from ._score import Model, Scores, chunks, table_of, values
from ._trace import Publish, publishing
from ._wire import ArrayLike, ErrorInfo, InvalidBody, Tensor, decode_reply, encode_job

Lane = Literal["online", "bulk"]


class JobError(Exception):
    """The job was answered with an error result."""

    def __init__(self, info: ErrorInfo, job_id: str) -> None:
        super().__init__(f"{info.code}: {info.message}")
        self.info = info
        self.job_id = job_id


@dataclass(frozen=True)
class Submitted:
    """JetStream's word that a job is stored."""

    job_id: str
    sequence: int
    duplicate: bool


@dataclass(frozen=True)
class Result:
    """One answer. `result["scores"]` is an output as a numpy array."""

    job_id: str
    model: str
    model_version: str
    model_digest: str
    worker: str
    outputs: Mapping[str, Tensor]
    #: Timings in microseconds and the size of the batch.
    parameters: Mapping[str, int]
    error: ErrorInfo | None
    #: The span at the worker that published this; empty where the worker sent none. `headers` has all of the context.
    traceparent: str
    headers: Mapping[str, str]
    #: Where the result is stored; 0 for one that came by `infer`, which does not wait to learn it.
    sequence: int

    def __getitem__(self, output: str) -> npt.NDArray[Any]:
        return self.outputs[output].numpy()

    @classmethod
    def of(cls, message: Msg, sequence: int = 0) -> Result:
        """Read a message of the results stream."""
        headers = message.headers or {}
        reply = decode_reply(message.data)
        return cls(
            job_id=headers.get("Gristmill-Job-Id", reply.id),
            model=reply.model_name,
            model_version=reply.model_version,
            model_digest=headers.get("Gristmill-Model-Digest", ""),
            worker=headers.get("Gristmill-Worker", ""),
            outputs=reply.outputs,
            parameters=reply.parameters,
            error=reply.error,
            traceparent=headers.get("traceparent", ""),
            headers=headers,
            sequence=sequence,
        )


async def connect(
    servers: str | list[str] = "nats://127.0.0.1:4222", *, namespace: str = "infer", **options: Any
) -> Client:
    """Connect to NATS. `options` go to `nats.connect`: credentials, TLS, reconnection."""
    token(namespace, "namespace")
    return Client(await nats.connect(servers, **options), namespace=namespace)


class Client:
    """Submits jobs and reads results. Close it, or use it as `async with`."""

    def __init__(self, connection: NatsClient, *, namespace: str = "infer") -> None:
        self.connection = connection
        self.namespace = namespace
        self.jetstream = connection.jetstream()
        #: Answers to `infer` come under a token of this client alone.
        self._reply = f"c{secrets.token_hex(8)}"
        self._waiting: dict[str, asyncio.Future[Result]] = {}
        self._listening: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Send what is buffered and disconnect. Calls of `infer` still waiting are cancelled."""
        for future in self._waiting.values():
            future.cancel()
        try:
            # Not `drain`: it waits for results that nobody reads any more, and raises where the server is away.
            if self.connection.is_connected:
                await self.connection.flush()
        finally:
            await self.connection.close()

    async def submit(
        self,
        model: str,
        inputs: Mapping[str, ArrayLike | Tensor],
        *,
        lane: Lane = "online",
        outputs: Sequence[str] | None = None,
        job_id: str | None = None,
        dedup_id: str | None = None,
        reply: str | None = None,
        timeout: float | None = None,
        version: str | None = None,
        traceparent: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Submitted:
        """Store one job; returns when JetStream has confirmed it.

        `timeout` is in seconds, from the time the server stores the job. `dedup_id` makes submitting again harmless.
        Where OpenTelemetry is configured, the publish gets a span, whose context goes with the job. A `traceparent`
        given here or among `headers` goes instead.
        """
        payload = encode_job(inputs, outputs=outputs)
        return await self.submit_encoded(
            model,
            payload,
            lane=lane,
            job_id=job_id,
            dedup_id=dedup_id,
            reply=reply,
            timeout=timeout,
            version=version,
            traceparent=traceparent,
            headers=headers,
        )

    async def submit_encoded(
        self,
        model: str,
        payload: bytes,
        *,
        lane: Lane = "online",
        job_id: str | None = None,
        dedup_id: str | None = None,
        reply: str | None = None,
        timeout: float | None = None,
        version: str | None = None,
        traceparent: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Submitted:
        """Store one job whose body is already encoded.

        Raises nats-py's `NoStreamResponseError` where no stream takes the job (no worker and no `gristmill setup` ran
        yet) and its `MaxPayloadError` where the body is over the server's max_payload.
        """
        if lane not in ("online", "bulk"):
            raise ValueError(f"lane {lane!r} is neither 'online' nor 'bulk'")
        job_id = checked_id(job_id or dedup_id or secrets.token_hex(12))
        optional = {
            "Nats-Msg-Id": dedup_id,
            "Gristmill-Reply": reply and token(reply, "reply"),
            "Gristmill-Timeout-Ms": None if timeout is None else str(max(1, round(timeout * 1000))),
            "Gristmill-Version": version and token(version, "version"),
            "traceparent": traceparent,
        }
        all_headers = dict(headers or {}) | {"Gristmill-Job-Id": job_id}
        all_headers |= {name: value for name, value in optional.items() if value is not None}
        job = Publish(
            self.namespace, token(model, "model"), lane, job_id, len(payload), server=self.connection.connected_url
        )
        with publishing(job, all_headers) as span:
            ack = await self.jetstream.publish(job.subject, payload, headers=all_headers)
            span.stored(ack.stream, ack.seq)
        return Submitted(job_id, ack.seq, bool(ack.duplicate))

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, ArrayLike | Tensor],
        *,
        timeout: float = 30.0,
        raise_on_error: bool = True,
        **options: Any,
    ) -> Result:
        """Submit one job and wait for its answer, at most `timeout` seconds.

        Takes the options of `submit` but `reply`. Raises `JobError` for an error result unless told not to, and
        `TimeoutError` when nothing came, `ValueError` if `dedup_id` was used before.
        """
        job_id = checked_id(options.pop("job_id", None) or secrets.token_hex(12))
        if job_id in self._waiting:
            raise ValueError(f"job {job_id!r} is already waiting for its answer; the two could not be told apart")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        deadline = loop.time() + timeout
        options |= {"job_id": job_id, "reply": self._reply, "timeout": timeout}

        async def ask() -> None:
            await self._listen()
            submitted = await self.submit(model, inputs, **options)
            if submitted.duplicate:
                raise ValueError("the job was submitted before under this dedup_id; its result is among results()")

        self._waiting[job_id] = future
        try:
            await asyncio.wait_for(ask(), timeout)
            result = await asyncio.wait_for(future, deadline - loop.time())
        except (asyncio.TimeoutError, NatsTimeout) as error:
            raise TimeoutError(f"no answer to job {job_id} of model {model!r} within {timeout} s") from error
        finally:
            del self._waiting[job_id]
        if result.error and raise_on_error:
            raise JobError(result.error, job_id)
        return result

    async def score(
        self,
        rows: Any,
        model: str,
        *,
        inputs: Mapping[str, str | Sequence[str]] | None = None,
        keep: Sequence[str] | None = None,
        outputs: Sequence[str] | None = None,
        version: str | None = None,
        outstanding: int = 16,
        timeout: float = 3600.0,
    ) -> Any:
        """Score a pandas or pyarrow table, or the file at a path, through the bulk lane.

        Returns the same rows, in order, with the model's outputs and `error_code` and `error_message` of rows that have
        none: as pandas where pandas came in, else as pyarrow. `inputs` names the column of each input, or the columns,
        where several make one; otherwise it is the one of its name. `keep`: columns that come along (default: all). At
        most `outstanding` jobs are on their way, each for at most `timeout` seconds. Needs pyarrow, and all rows in
        memory. Raises `NoSuchModel`, and `KeyError` for a column that is not there.
        """
        found = Model.of(await self._ask_workers(), token(model, "model"), version)
        table = table_of(rows)
        columns = {name: [of] if isinstance(of, str) else list(of) for name, of in (inputs or {}).items()}
        for spec in found.inputs:
            if spec.name in table.column_names or not spec.mask:
                columns.setdefault(spec.name, [spec.name])
        given = {spec.name: values(table, spec, columns[spec.name]) for spec in found.inputs if spec.name in columns}

        async def ask(job: dict[str, npt.NDArray[Any]]) -> Mapping[str, npt.NDArray[Any]] | ErrorInfo:
            # The table has the rows: nobody needs dead letters of them.
            headers = {"Gristmill-Dead-Letter": "none"}
            options: dict[str, Any] = {"lane": "bulk", "outputs": outputs, "version": found.version, "headers": headers}
            result = await self.infer(model, job, timeout=timeout, raise_on_error=False, **options)
            return result.error or {name: tensor.numpy() for name, tensor in result.outputs.items()}

        scores = Scores(found, given, len(table), ask)
        for row in range(len(table)):
            faults = [column[row] for column in given.values() if isinstance(column[row], str)]
            if faults:
                scores.errors[row] = ErrorInfo("invalid_input", str(faults[0]), False)
        sound = [row for row, error in enumerate(scores.errors) if error is None]
        room = asyncio.Semaphore(outstanding)
        await asyncio.gather(*(scores.run(chunk, room) for chunk in chunks(found, given, sound)))
        scored = scores.table(table if keep is None else table.select(list(keep)))
        return scored.to_pandas() if type(rows).__module__.startswith("pandas") else scored

    async def _ask_workers(self) -> list[bytes]:
        answers: list[bytes] = []

        async def take(message: Msg) -> None:
            if message.data:
                answers.append(message.data)

        inbox = self.connection.new_inbox()
        asked = await self.connection.subscribe(inbox, cb=take)
        await self.connection.publish(f"{self.namespace}.status", b"", reply=inbox)
        await asyncio.sleep(0.5)
        await asked.unsubscribe()
        return answers

    async def _listen(self) -> None:
        failed = self._listening is not None and self._listening.done() and self._listening.exception() is not None
        if self._listening is None or failed:
            self._listening = asyncio.ensure_future(self._subscribe())
        await asyncio.shield(self._listening)

    async def _subscribe(self) -> None:
        async def take(message: Msg) -> None:
            future = self._waiting.get((message.headers or {}).get("Gristmill-Job-Id", ""))
            if future is None or future.done():
                return
            try:
                future.set_result(Result.of(message))
            except InvalidBody as error:
                future.set_exception(error)

        await self.connection.subscribe(f"{self.namespace}.results.*.{self._reply}", cb=take)
        # The server has the subscription before the first job is out.
        await self.connection.flush()

    async def results(
        self,
        model: str = "*",
        *,
        reply: str = "all",
        start_sequence: int | None = None,
        count: int | None = None,
        idle_timeout: float | None = None,
    ) -> AsyncIterator[Result]:
        """Iterate over stored results, oldest first, then over new ones as they come.

        Ends after `count` results, or when none came for `idle_timeout` seconds; without either it goes on for ever.
        `start_sequence` continues after an earlier `Result.sequence` + 1.
        """
        model = model if model == "*" else token(model, "model")
        by_sequence = start_sequence is not None
        config = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE if by_sequence else DeliverPolicy.ALL,
            opt_start_seq=start_sequence,
        )
        subject = f"{self.namespace}.results.{model}.{token(reply, 'reply')}"
        subscription = await self.jetstream.subscribe(
            subject, stream=f"{self.namespace.upper()}_RESULTS", config=config, ordered_consumer=True
        )
        try:
            seen = 0
            while count is None or seen < count:
                try:
                    message = await subscription.next_msg(timeout=idle_timeout)
                except NatsTimeout:
                    return
                seen += 1
                yield Result.of(message, message.metadata.sequence.stream)
        finally:
            if not (self.connection.is_closed or self.connection.is_draining):
                await subscription.unsubscribe()
