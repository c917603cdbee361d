"""The client against a real nats-server. A coroutine of the test answers where a worker would."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nats
import numpy as np
import pytest
from broker import PATIENCE, X, doubled, publish_result, responder, running_server
from nats.aio.msg import Msg
from nats.js.errors import NoStreamResponseError

import gristmill
from gristmill import Client, Job, JobError, Result


async def stored_jobs(client: Client) -> int:
    return (await client.jetstream.stream_info("INFER_JOBS")).state.messages


def refused(message: Msg, job: Job) -> bytes:
    return gristmill.encode_error(message.headers["Gristmill-Job-Id"], "digits", "model_error", "a negative value")


async def store_results(client: Client, ids: list[str], **where: str) -> None:
    for job_id in ids:
        body = gristmill.encode_result(job_id, "digits", "3", {"y": np.ones((1, 2), np.float32)}, {"batch_rows": 1})
        await publish_result(client, body, job_id, **where)


async def test_a_job_is_stored_with_subject_headers_and_body(client: Client) -> None:
    submitted = await client.submit(
        "digits",
        X,
        lane="bulk",
        outputs=["y"],
        job_id="job-1",
        dedup_id="once",
        reply="run-7",
        timeout=1.5,
        version="3",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        headers={"tracestate": "a=b"},
    )
    assert submitted == gristmill.Submitted("job-1", sequence=1, duplicate=False)
    stored = await client.jetstream.get_msg("INFER_JOBS", 1)
    assert stored.subject == "infer.jobs.digits.bulk"
    assert stored.headers == {
        "Gristmill-Job-Id": "job-1",
        "Nats-Msg-Id": "once",
        "Gristmill-Reply": "run-7",
        "Gristmill-Timeout-Ms": "1500",
        "Gristmill-Version": "3",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tracestate": "a=b",
    }
    assert stored.data == gristmill.encode_job(X, outputs=["y"])


async def test_a_job_without_options_has_an_id_and_no_other_header(client: Client) -> None:
    first, second = await client.submit("digits", X), await client.submit("digits", X)
    stored = await client.jetstream.get_msg("INFER_JOBS", first.sequence)
    assert (stored.subject, stored.headers) == ("infer.jobs.digits.online", {"Gristmill-Job-Id": first.job_id})
    assert first.job_id != second.job_id


async def test_a_timeout_below_a_millisecond_is_not_zero(client: Client) -> None:
    submitted = await client.submit("digits", X, timeout=0.0001)
    stored = await client.jetstream.get_msg("INFER_JOBS", submitted.sequence)
    assert stored.headers["Gristmill-Timeout-Ms"] == "1"


async def test_a_repeated_submission_is_stored_once(client: Client) -> None:
    first = await client.submit("digits", X, dedup_id="run-7/1")
    again = await client.submit("digits", X, dedup_id="run-7/1")
    assert (first.duplicate, again.duplicate) == (False, True)
    assert (first.job_id, again.job_id) == ("run-7/1", "run-7/1")
    assert first.sequence == again.sequence
    assert await stored_jobs(client) == 1


async def test_a_job_that_no_stream_takes_is_an_error(server: str) -> None:
    async with await gristmill.connect(server, namespace="absent") as client:
        with pytest.raises(NoStreamResponseError):
            await client.submit("digits", X)
        with pytest.raises(NoStreamResponseError):
            await client.infer("digits", X, timeout=PATIENCE)


@pytest.mark.parametrize(
    ("model", "options", "what"),
    [
        ("a.b", {}, "model 'a.b'"),
        ("*", {}, "model '\\*'"),
        ("digits", {"version": "1.0"}, "version '1.0'"),
        ("digits", {"reply": "a.b"}, "reply 'a.b'"),
        ("digits", {"lane": "a.b"}, "lane 'a.b'"),
    ],
)
async def test_what_is_no_token_is_refused_before_anything_is_sent(
    client: Client, model: str, options: dict[str, Any], what: str
) -> None:
    sent = client.connection.stats["out_msgs"]
    with pytest.raises(ValueError, match=what):
        await client.submit(model, X, **options)
    assert client.connection.stats["out_msgs"] == sent
    if "reply" not in options:
        with pytest.raises(ValueError, match=what):
            await client.infer(model, X, **options)
        assert client.connection.stats["out_msgs"] == sent


async def test_results_of_what_is_no_token_are_refused(client: Client) -> None:
    with pytest.raises(ValueError, match=r"model 'a\.b'"):
        await anext(client.results("a.b"))
    with pytest.raises(ValueError, match="reply '>'"):
        await anext(client.results(reply=">"))


async def test_a_namespace_that_is_no_token_is_refused_before_connecting() -> None:
    with pytest.raises(ValueError, match=r"namespace 'a\.b'"):
        # Nothing listens on port 1.
        await gristmill.connect("nats://127.0.0.1:1", namespace="a.b", allow_reconnect=False)


async def test_infer_returns_the_outputs(client: Client) -> None:
    async with responder(client, doubled):
        result = await client.infer("digits", X, timeout=PATIENCE)
    np.testing.assert_array_equal(result["y"], X["x"] * 2)
    assert (result.model, result.model_version, result.model_digest) == ("digits", "3", "sha256:00")
    assert (result.worker, result.parameters, result.error) == ("test-worker", {"batch_rows": 2}, None)


async def test_infer_raises_the_error_of_an_error_result(client: Client) -> None:
    async with responder(client, refused):
        with pytest.raises(JobError, match="model_error: a negative value") as raised:
            await client.infer("digits", X, job_id="job-1", timeout=PATIENCE)
    assert raised.value.info == gristmill.ErrorInfo("model_error", "a negative value", retryable=False)
    assert raised.value.job_id == "job-1"


async def test_infer_returns_an_error_result_where_asked(client: Client) -> None:
    async with responder(client, refused):
        result = await client.infer("digits", X, timeout=PATIENCE, raise_on_error=False)
    assert result.error is not None
    assert result.error.code == "model_error"
    assert result.outputs == {}


async def test_infer_without_an_answer_times_out(client: Client) -> None:
    started = time.monotonic()
    with pytest.raises(TimeoutError, match=r"no answer to job job-1 of model 'digits' within 0.2 s"):
        await client.infer("digits", X, job_id="job-1", timeout=0.2)
    assert time.monotonic() - started < PATIENCE
    # The worker is told the same limit.
    assert (await client.jetstream.get_msg("INFER_JOBS", 1)).headers["Gristmill-Timeout-Ms"] == "200"


async def test_infer_times_out_where_the_server_does_not_confirm_the_job(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def publish(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(client.jetstream, "publish", publish)
    with pytest.raises(TimeoutError, match="no answer to job"):
        await asyncio.wait_for(client.infer("digits", X, timeout=0.2), PATIENCE)


async def test_an_answer_that_comes_too_late_is_dropped(client: Client) -> None:
    with pytest.raises(TimeoutError):
        await client.infer("digits", X, job_id="late", timeout=0.2)
    async with responder(client, doubled):
        # The late answer comes first: its job is the first in the stream.
        result = await client.infer("digits", X, job_id="next", timeout=PATIENCE)
    assert result.job_id == "next"


async def test_each_of_many_concurrent_calls_gets_its_own_answer(client: Client) -> None:
    async def ask(number: int) -> Result:
        return await client.infer("digits", {"x": np.full((1, 2), number, np.int64)}, timeout=PATIENCE)

    async with responder(client, doubled, batch=200):
        results = await asyncio.gather(*map(ask, range(200)))
    assert [int(result["y"][0, 0]) for result in results] == list(range(0, 400, 2))
    assert len({result.job_id for result in results}) == 200


async def test_two_clients_do_not_take_each_others_answers(client: Client, server: str) -> None:
    async def ask(asking: Client, number: int) -> int:
        inputs = {"x": np.array([number], np.int64)}
        return int((await asking.infer("digits", inputs, job_id="the-same", timeout=PATIENCE))["y"][0])

    async with await gristmill.connect(server) as other, responder(client, doubled, batch=2):
        assert await asyncio.gather(ask(client, 1), ask(other, 2)) == [2, 4]


async def test_a_job_id_that_is_waiting_already_is_refused(client: Client) -> None:
    async with waiting(client, "job-1") as first:
        with pytest.raises(ValueError, match="'job-1' is already waiting"):
            await client.infer("digits", X, job_id="job-1")
        async with responder(client, doubled):
            assert (await first).job_id == "job-1"


async def test_infer_works_again_after_its_subscription_failed(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    async def flush() -> None:
        raise nats.errors.FlushTimeoutError

    with monkeypatch.context() as broken:
        broken.setattr(client.connection, "flush", flush)
        with pytest.raises(TimeoutError):
            await client.infer("digits", X, timeout=PATIENCE)
    async with responder(client, doubled):
        np.testing.assert_array_equal((await client.infer("digits", X, timeout=PATIENCE))["y"], X["x"] * 2)


@contextlib.asynccontextmanager
async def waiting(client: Client, job_id: str) -> AsyncIterator[asyncio.Task[Result]]:
    """A call of `infer` whose job is stored and that nobody answers."""
    stored = asyncio.Event()
    submit = client.submit

    async def observed(*args: Any, **options: Any) -> gristmill.Submitted:
        submitted = await submit(*args, **options)
        stored.set()
        return submitted

    client.submit = observed  # type: ignore[method-assign]
    task = asyncio.create_task(client.infer("digits", X, job_id=job_id, timeout=PATIENCE))
    await asyncio.wait_for(stored.wait(), PATIENCE)
    client.submit = submit  # type: ignore[method-assign]
    try:
        yield task
    finally:
        task.cancel()


async def test_closing_cancels_calls_that_wait(client: Client) -> None:
    async with waiting(client, "job-1") as task:
        await client.close()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, PATIENCE)
    with pytest.raises(nats.errors.ConnectionClosedError):
        await client.submit("digits", X)


async def test_closing_twice_is_harmless(client: Client) -> None:
    await client.close()
    await client.close()
    assert client.connection.is_closed


async def test_closing_does_not_wait_for_results_that_nobody_reads(client: Client) -> None:
    await store_results(client, [f"job-{i}" for i in range(50)])
    unread = client.results()
    assert (await anext(unread)).job_id == "job-0"
    async for _ in client.results():
        break
    started = time.monotonic()
    await client.close()
    assert time.monotonic() - started < PATIENCE
    with pytest.raises(nats.errors.ConnectionClosedError):
        await anext(unread)


async def test_closing_ends_a_reader_that_waits(client: Client) -> None:
    await store_results(client, ["job-1"])
    results = client.results()
    await anext(results)
    task = asyncio.ensure_future(anext(results))
    await client.close()
    with pytest.raises(nats.errors.ConnectionClosedError):
        await asyncio.wait_for(task, PATIENCE)


async def test_closing_where_the_server_is_gone_ends_the_connection(tmp_path: Path) -> None:
    gone = asyncio.Event()

    async def disconnected() -> None:
        gone.set()

    with running_server(tmp_path) as (url, process):
        client = await gristmill.connect(url, disconnected_cb=disconnected)
        process.terminate()
        await asyncio.wait_for(gone.wait(), PATIENCE)
        await asyncio.wait_for(client.close(), PATIENCE)
        assert client.connection.is_closed


async def test_results_come_stored_ones_first_then_new_ones(client: Client) -> None:
    await store_results(client, ["a", "b"])
    results = client.results("digits")
    assert [(await anext(results)).job_id for _ in range(2)] == ["a", "b"]
    await store_results(client, ["c"])
    new = await asyncio.wait_for(anext(results), PATIENCE)
    assert (new.job_id, new.sequence) == ("c", 3)
    np.testing.assert_array_equal(new["y"], [[1, 1]])


async def test_a_count_ends_the_results(client: Client) -> None:
    await store_results(client, ["a", "b", "c"])
    assert [result.job_id async for result in client.results(count=2)] == ["a", "b"]
    assert [result.job_id async for result in client.results(count=0)] == []


async def test_results_continue_after_a_sequence(client: Client) -> None:
    await store_results(client, ["a", "b", "c", "d"])
    first = [result async for result in client.results(count=2)]
    rest = client.results(start_sequence=first[-1].sequence + 1, count=2)
    assert [(result.job_id, result.sequence) async for result in rest] == [("c", 3), ("d", 4)]


async def test_results_end_when_none_comes_any_more(client: Client) -> None:
    assert [result async for result in client.results(idle_timeout=0.1)] == []
    await store_results(client, ["a", "b"])
    assert [result.job_id async for result in client.results(idle_timeout=1)] == ["a", "b"]


async def test_results_are_those_of_one_model_and_replytoken(client: Client) -> None:
    await store_results(client, ["a"], reply="run-7")
    await store_results(client, ["b"], reply="run-8")
    await store_results(client, ["c"], reply="run-7", model="mlp")
    assert [result.job_id async for result in client.results(reply="run-7", count=2)] == ["a", "c"]
    assert [result.job_id async for result in client.results("mlp", reply="run-7", count=1)] == ["c"]


async def test_results_carry_errors_without_raising(client: Client) -> None:
    async with responder(client, refused):
        submitted = await client.submit("digits", X, reply="run-7")
        (result,) = [result async for result in client.results(reply="run-7", count=1)]
    assert result.job_id == submitted.job_id
    assert result.error == gristmill.ErrorInfo("model_error", "a negative value", retryable=False)
