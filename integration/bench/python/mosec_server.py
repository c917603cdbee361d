"""The same model behind HTTP, batched by mosec: `PACKAGE=... BATCH=... mosec_server.py --port PORT`.

Takes the body of a job and gives its outputs, both in MessagePack, as the queue worker beside it does. Nothing is
kept: what is being worked on when a process dies is lost.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgpack
import numpy as np
import torch
from mosec import Server, Worker

DTYPES = {"FP32": np.float32, "UINT8": np.uint8}


class Model(Worker):
    """Owns the model."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.module = torch.jit.load(str(Path(os.environ["PACKAGE"]) / "model.pt")).eval()

    def deserialize(self, data: bytes) -> np.ndarray:
        part = msgpack.unpackb(data)["inputs"][0]
        return np.frombuffer(part["data"], DTYPES[part["datatype"]]).reshape(part["shape"])

    def serialize(self, data: np.ndarray) -> bytes:
        outputs = [{"name": "y", "datatype": "FP32", "shape": data.shape, "data": data.tobytes()}]
        return msgpack.packb({"outputs": outputs})

    def forward(self, data: list[np.ndarray]) -> list[np.ndarray]:
        with torch.inference_mode():
            out = self.module(torch.from_numpy(np.concatenate(data))).numpy()
        return np.split(out, np.cumsum([len(rows) for rows in data])[:-1])


if __name__ == "__main__":
    server = Server()
    server.append_worker(Model, num=1, max_batch_size=int(os.environ["BATCH"]), max_wait_time=1)
    server.run()
