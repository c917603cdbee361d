"""A queue worker as a good Python team would write it: `worker.py NATS_URL PACKAGE MODEL BATCH`.

Pulls the next batch while this one runs, decodes with msgpack and numpy without copies, runs one TorchScript call for
each batch, pipelines its publishes, and acknowledges each job when its result is stored. For models of one input (and
its mask) and one output.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgpack
import nats
import numpy as np
import torch
from nats.aio.msg import Msg
from nats.errors import TimeoutError as Nothing
from nats.js import JetStreamContext
from nats.js.api import Header

DTYPES = {"FP32": np.float32, "UINT8": np.uint8, "INT64": np.int64}


def padded(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Sequences filled up to the longest of them, and which of it is real."""
    lengths = np.array([array.shape[1] for array in arrays])
    mask = np.arange(lengths.max())[None, :] < lengths[:, None]
    ids = np.zeros(mask.shape, arrays[0].dtype)
    for row, array in zip(ids, arrays, strict=True):
        row[: array.shape[1]] = array[0]
    return [ids, mask]


class Worker:
    """Owns the model."""

    def __init__(self, js: JetStreamContext, package: Path, model: str) -> None:
        self.js, self.model = js, model
        self.module = torch.jit.load(str(package / "model.pt")).eval()

    def run(self, bodies: list[dict]) -> list[np.ndarray]:
        """One forward for all jobs; each job's rows."""
        parts = [body["inputs"][0] for body in bodies]
        arrays = [np.frombuffer(p["data"], DTYPES[p["datatype"]]).reshape(p["shape"]) for p in parts]
        arguments = padded(arrays) if self.model == "encoder" else [np.concatenate(arrays)]
        with torch.inference_mode():
            out = self.module(*map(torch.from_numpy, arguments)).numpy()
        return np.split(out, np.cumsum([len(array) for array in arrays])[:-1])

    async def answer(self, messages: list[Msg]) -> None:
        bodies = [msgpack.unpackb(message.data) for message in messages]
        loop = asyncio.get_running_loop()
        results = await loop.run_in_executor(None, self.run, bodies)
        stored = []
        for message, body, rows in zip(messages, bodies, results, strict=True):
            sequence = message.metadata.sequence.stream
            outputs = [{"name": "y", "datatype": "FP32", "shape": rows.shape, "data": rows.tobytes()}]
            reply = {"id": body.get("id") or str(sequence), "model_name": self.model, "outputs": outputs}
            given = message.headers or {}
            headers = {Header.MSG_ID: f"INFER_JOBS.{sequence}"}
            if job := given.get("Gristmill-Job-Id"):
                headers["Gristmill-Job-Id"] = job
            subject = f"infer.results.{self.model}.{given.get('Gristmill-Reply', 'all')}"
            stored.append(await self.js.publish_async(subject, msgpack.packb(reply), headers=headers))
        for message, future in zip(messages, stored, strict=True):
            await future
            await message.ack()


async def main(url: str, package: Path, model: str, batch: int) -> None:
    torch.set_num_threads(1)
    client = await nats.connect(url)
    js = client.jetstream(publish_async_max_pending=4096)
    worker = Worker(js, package, model)
    jobs = await js.pull_subscribe_bind(durable=f"{model}-online", stream="INFER_JOBS")
    coming = asyncio.ensure_future(jobs.fetch(batch, timeout=1))
    while True:
        try:
            messages = await coming
        except Nothing:
            messages = []
        coming = asyncio.ensure_future(jobs.fetch(batch, timeout=1))
        if messages:
            await worker.answer(messages)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
