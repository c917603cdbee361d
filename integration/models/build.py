"""Writes the model packages of the integration tests, and PyTorch's own answers to compare with.

    python integration/models/build.py target/models

Small models with fixed seeds; each exists to make one behaviour of the worker observable.
"""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from pathlib import Path

import digits
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from faults import FAULTS
from pyarrow import csv
from torch import nn

import gristmill

warnings.filterwarnings("ignore", category=DeprecationWarning)


class Mlp(nn.Module):
    """64 floats to 10: the smallest useful job."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


class Mixed(nn.Module):
    """Two inputs of different datatypes, a dict of three outputs, each computed row by row."""

    def forward(self, x: torch.Tensor, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        total = ids.sum(1, keepdim=True)
        return {"scaled": x * total.to(torch.float32), "total": total, "even": total % 2 == 0}


class Types(nn.Module):
    """Every datatype in, the same out, as a tuple."""

    def forward(
        self,
        bool_: torch.Tensor,
        uint8: torch.Tensor,
        int8: torch.Tensor,
        int16: torch.Tensor,
        int32: torch.Tensor,
        int64: torch.Tensor,
        fp16: torch.Tensor,
        bf16: torch.Tensor,
        fp32: torch.Tensor,
        fp64: torch.Tensor,
    ) -> tuple[
        torch.Tensor,
        torch.Tensor,
        torch.Tensor,
        torch.Tensor,
        torch.Tensor,
        torch.Tensor,
        torch.Tensor,
        torch.Tensor,
        torch.Tensor,
        torch.Tensor,
    ]:
        return (~bool_, uint8 + 1, int8 + 1, int16 + 1, int32 + 1, int64 + 1, fp16 + 1, bf16 + 1, fp32 + 1, fp64 + 1)


class Picky(nn.Module):
    """Throws on a negative value, whoever shares its batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool((x < 0).any()):
            raise ValueError("a negative value")
        return x * 2


class Lengths(nn.Module):
    """Token ids of any length; an id of 100 or more would be out of the table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(100, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.table(ids).sum(1)


class Slow(nn.Module):
    """A forward of some tens of milliseconds, so that a worker can be caught in it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.eye(512))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Depends on the input, or freezing would compute it once and for all.
        y = self.weight + x.sum() * 0
        for _ in range(10):
            y = y @ self.weight
        return x * y[0, 0]


class Crowded(nn.Module):
    """Each row is compared with every other: twice the rows take four times as long."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.expand(x.shape[0], 4096).contiguous()
        return x + (wide @ wide.t()).sum() * 0


class Even(nn.Module):
    """Each row costs the same, some milliseconds."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.eye(256))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.weight + x[:, :, None] * 0
        for _ in range(8):
            y = torch.bmm(y, y)
        return x * y[:, 0, :1]


class Tokens(nn.Module):
    """Of each sequence its sum and its length, of each token how much is left behind it: filling would show."""

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        real = ids * mask
        left = real.sum(1, keepdim=True) - real.cumsum(1)
        batch = torch.full_like(real[:, :1], real.shape[1])
        return {"sum": real.sum(1), "length": mask.sum(1), "left": left, "batch_length": batch}


class Wide(nn.Module):
    """A result of 2.4 MB for every row: more than NATS takes in one message."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.expand(x.shape[0], 600_000).contiguous()


def samples(directory: Path, model: nn.Module, rows: int) -> None:
    """PyTorch's answers to `rows` random rows, for the worker to be compared with."""
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((rows, 64), dtype=np.float32))
    with torch.no_grad():
        y = model(x)
    directory.mkdir(parents=True, exist_ok=True)
    np.save(directory / "row.npy", x[:1].numpy())
    (directory / "x.f32").write_bytes(x.numpy().tobytes())
    (directory / "y.f32").write_bytes(y.numpy().tobytes())


def rows(directory: Path, trained: digits.Digits) -> None:
    """Files of rows for the scorer, each with PyTorch's answer beside the input."""
    directory.mkdir(parents=True, exist_ok=True)
    x = np.fromfile(directory.parent / "samples" / "x.f32", np.float32)
    table = pa.table({"id": np.arange(len(x) // 64), "x": pa.FixedSizeListArray.from_arrays(pa.array(x), 64)})
    pq.write_table(table, directory / "mlp.parquet")
    with torch.no_grad():
        expected = trained.model(torch.from_numpy(trained.images))["digit"].numpy()
    flat = trained.images.reshape(len(trained.images), -1)
    beside = {"label": trained.labels, "expected": expected}
    image = pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1])
    pq.write_table(pa.table({"image": image, **beside}), directory / "digits.parquet")
    columns = {f"pixel_{index}": flat[:, index] for index in range(flat.shape[1])}
    csv.write_csv(pa.table({**columns, **beside}), directory / "digits.csv")
    np.save(directory / "digits.npy", trained.images)
    lengths = np.random.default_rng(2).lognormal(3, 0.8, 5_000).clip(1, 128).astype(int)
    tokens = [list(range(1, length + 1)) for length in lengths]
    pq.write_table(
        pa.table({"ids": pa.array(tokens, pa.list_(pa.int64())), "n": lengths}), directory / "tokens.parquet"
    )


def build(directory: Path) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)

    def export(name: str, module: nn.Module, inputs: dict[str, torch.Tensor], **options) -> None:
        gristmill.export(module, inputs, directory / "packages", name=name, overwrite=True, **options)

    trained = digits.train()
    export("digits", trained.model, {"image": torch.from_numpy(trained.images[:2])})
    mlp = Mlp().eval()
    export("mlp", mlp, {"x": torch.randn(2, 64)}, output_names=["y"], max_rows=256)
    samples(directory / "samples", mlp, 100_000)
    rows(directory / "rows", trained)
    mixed = {"x": torch.randn(2, 4), "ids": torch.ones(2, 3, dtype=torch.int64)}
    export("mixed", Mixed(), mixed, max_rows=32)
    kinds = ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64"]
    names = ["bool_", "uint8", "int8", "int16", "int32", "int64", "fp16", "bf16", "fp32", "fp64"]
    inputs = {name: torch.ones(2, 2, dtype=getattr(torch, kind)) for name, kind in zip(names, kinds, strict=True)}
    export("types", Types(), inputs, output_names=names)
    export("picky", Picky(), {"x": torch.ones(2, 4)}, output_names=["y"], ranges={"x": (-1e6, 1e6)}, max_rows=256)
    ids = {"ids": torch.zeros(2, 3, dtype=torch.int64)}
    export("lengths", Lengths(), ids, output_names=["y"], dynamic={"ids": [1]}, ranges={"ids": (0, 99)})
    tokens = {"ids": torch.ones(2, 3, dtype=torch.int64), "mask": torch.ones(2, 3, dtype=torch.bool)}
    padding = {"dynamic": {"ids": [1], "mask": [1]}, "masks": ["mask"], "pads": {"ids": -9}, "max_rows": 16}
    export("tokens", Tokens(), tokens, **padding)
    export("bucketed", Tokens(), tokens, **padding, buckets=[8, 32])
    export("slow", Slow(), {"x": torch.ones(2, 1)}, output_names=["y"], max_rows=8)
    for name, knee in [("crowded", True), ("unlearned", False)]:
        export(name, Crowded(), {"x": torch.ones(2, 1)}, output_names=["y"], max_rows=256, knee=knee)
    for name, target_ms in [("prompt", 40), ("patient", 0)]:
        inputs = {"x": torch.ones(2, 1)}
        export(name, Even(), inputs, output_names=["y"], max_rows=64, knee=False, target_ms=target_ms)
    export("wide", Wide(), {"x": torch.ones(2, 1)}, output_names=["y"], max_rows=4)
    for name, module, max_rows in FAULTS:
        zeros = {"x": torch.zeros(2, 1, dtype=torch.int64)}
        export(name, module, zeros, output_names=["y"], max_rows=max_rows)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    shutil.rmtree(target, ignore_errors=True)
    build(target)
    print(json.dumps(sorted(path.name for path in (target / "packages").iterdir())))
