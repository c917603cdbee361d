"""What the check is made of: jobs, PyTorch alone, and what the worker says of itself."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import models
import numpy as np
import torch

import gristmill

KINDS = 37
"""Different jobs of each model; the others repeat them. A prime, so that batches behind each other differ."""


@dataclass
class Case:
    """One model and what is asked of it."""

    model: str
    jobs: int
    max_rows: int

    def inputs(self, kind: int) -> dict[str, np.ndarray]:
        random = np.random.default_rng(kind)
        if self.model == "mlp":
            return {"x": random.standard_normal((1, 64), np.float32)}
        if self.model == "image":
            return {"image": random.integers(0, 256, (1, 3, 224, 224), np.uint8)}
        length = int(np.clip(random.lognormal(np.log(32), 0.6), 4, 128))
        return {"ids": random.integers(0, models.VOCABULARY, (1, length)), "mask": np.ones((1, length), bool)}


class Raw:
    """PyTorch alone on the device."""

    def __init__(self, package: Path, device: torch.device) -> None:
        self.device = device
        self.module = torch.jit.load(str(package / "model.pt"), map_location=device).eval()

    def run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        with torch.no_grad():
            out = self.module(*(torch.from_numpy(array).to(self.device) for array in inputs.values()))
        return out.cpu().numpy()

    def rate(self, kinds: list[dict[str, np.ndarray]], rows: int, seconds: float = 3.0) -> float:
        """Rows per second in ideal batches: so many rows of one length each."""
        batches = [{name: np.repeat(array, rows, axis=0) for name, array in inputs.items()} for inputs in kinds]
        for batch in batches:
            self.run(batch)
        done, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            for batch in batches:
                self.run(batch)
            done += rows * len(batches)
        return done / (time.perf_counter() - began)


async def submit(client: gristmill.Client, model: str, jobs: list[dict[str, np.ndarray]]) -> None:
    queue = iter(enumerate(jobs))

    async def producer() -> None:
        for number, inputs in queue:
            await client.submit(model, inputs, reply="check", job_id=str(number))

    await asyncio.gather(*(producer() for _ in range(128)))


async def collect(client: gristmill.Client, model: str, count: int) -> dict[int, gristmill.Result]:
    found = client.results(model, reply="check", count=count, idle_timeout=60)
    return {int(result.job_id): result async for result in found}


class Admin:
    """What the worker says of itself."""

    def __init__(self, address: str) -> None:
        self.address = address

    def count(self, name: str) -> int:
        with urllib.request.urlopen(f"{self.address}/status", timeout=5) as response:
            return json.load(response)["counters"][name]

    def busy(self) -> float:
        """Seconds in which engines ran batches."""
        return self.sum("gristmill_engine_busy_time_seconds")

    def memory(self, state: str) -> float:
        """MiB of the device's memory that the worker has."""
        return self.sum("gristmill_device_memory_usage_bytes", f'gristmill_memory_state="{state}"') / 2**20

    def sum(self, metric: str, attribute: str = "") -> float:
        with urllib.request.urlopen(f"{self.address}/metrics", timeout=5) as response:
            lines = response.read().decode().splitlines()
        found = [line for line in lines if line.startswith(metric) and attribute in line]
        return sum(float(line.rsplit(" ", 1)[1]) for line in found)

    async def reaches(self, results: int) -> tuple[int, float, float]:
        """Results, time and seconds of work, once there are so many."""
        while (done := self.count("results")) < results:
            await asyncio.sleep(0.02)
        return done, time.perf_counter(), self.busy()
