"""What libtorch does when nothing else is in the way: `raw.py PACKAGE WORKLOAD ROWS SECONDS`.

Runs a model on one thread, fed from memory in batches of so many rows. Prints rows per second, processor time per row
and the most resident memory.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch


def batches(workload: str, most: int) -> list[list[torch.Tensor]]:
    """The arguments of each call: of the same distribution as the jobs of `contest`."""
    random = np.random.default_rng(0)
    if workload == "encoder":
        # As ideal as can be: sorted by length, so that next to nothing is filled up.
        lengths = np.sort(np.clip(random.lognormal(np.log(32), 0.6, 20 * most), 4, 128).astype(int))
        return [tokens(random, part) for part in np.split(lengths, 20)]
    if workload == "image":
        return [[torch.from_numpy(random.integers(0, 256, (most, 3, 224, 224), np.uint8))] for _ in range(4)]
    return [[torch.from_numpy(random.standard_normal((most, 64), np.float32))] for _ in range(64)]


def tokens(random: np.random.Generator, lengths: np.ndarray) -> list[torch.Tensor]:
    """Random token ids of these lengths, and which of them are real."""
    mask = np.arange(lengths.max())[None, :] < lengths[:, None]
    return [torch.from_numpy(random.integers(0, 30_000, mask.shape) * mask), torch.from_numpy(mask)]


def main(package: Path, workload: str, rows_per_batch: int, seconds: float) -> None:
    torch.set_num_threads(1)
    module = torch.jit.load(str(package / "model.pt")).eval()
    data = batches(workload, rows_per_batch)
    with torch.inference_mode():
        for batch in data[:3]:
            module(*batch)
        rows, began, cpu = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - began < seconds:
            for batch in data:
                module(*batch)
                rows += len(batch[0])
        took, used = time.perf_counter() - began, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"rows_per_s": rows / took, "cpu_us": used / rows * 1e6, "peak_mib": peak}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
