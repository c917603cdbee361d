"""What the tests cannot show without a GPU: `check.py [--device cuda:0] [--instances 1] [--scale 1.0]`, and one table.

Needs what `make build` makes (`make dist`, with `GRISTMILL_PROFILE=dist`), nats-server, the Python package `gristmill`
and PyTorch 2.11.0; no registry, no compiler.
The worker loads the libtorch of the Python that runs this. `--device cpu` tries the check itself where there is no GPU.

Each model's jobs are stored before the worker starts. Every answer is compared with PyTorch's on the same device. Rates
are taken between a tenth and nine tenths of the answers, and set beside a loop that feeds the same TorchScript module
from memory, copies included, in batches of `max_rows`. Ends with 1 if an answer is wrong or missing.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import gristmill

PLACES = ["demo", "models", "bench/python"]
sys.path[:0] = [str(Path(__file__).resolve().parents[1] / place) for place in PLACES]
import faults  # noqa: E402
import models  # noqa: E402
from parts import KINDS, Admin, Case, Raw, collect, submit  # noqa: E402
from processes import BIN, nats_server, scratch, worker  # noqa: E402

TORCH = "2.11.0"

TOLERANCE = 2e-3
"""Most that an output may differ from PyTorch's: kernels depend on the size of the batch."""


@dataclass
class Row:
    """One line of the table."""

    what: str
    value: str
    holds: bool = True


def set_up(url: str, model: str) -> None:
    command = [str(BIN / "gristmill"), "--nats", url, "setup", "--model", model]
    subprocess.run(command, check=True, capture_output=True)


async def check(case: Case, directory: Path, packages: Path, device: torch.device, instances: int) -> list[Row]:
    """Answers, rate and idle time of one model."""
    raw = Raw(packages / case.model / "1", device)
    kinds = [case.inputs(kind) for kind in range(KINDS)]
    with nats_server(directory) as url:
        set_up(url, case.model)
        async with await gristmill.connect(url) as client:
            await submit(client, case.model, [kinds[number % KINDS] for number in range(case.jobs)])
            with worker(directory, url, packages) as address:
                admin = Admin(address)
                before = await admin.reaches(case.jobs // 10)
                after = await admin.reaches(case.jobs * 9 // 10)
                answers = await collect(client, case.model, case.jobs)
                used, cached = (admin.memory(state) for state in ("used", "cached"))
    expected = [raw.run(inputs) for inputs in kinds]
    missing = case.jobs - sum(answer.error is None for answer in answers.values())
    well = {number: answer for number, answer in answers.items() if answer.error is None}
    most = max((float(np.abs(well[n]["y"] - expected[n % KINDS]).max()) for n in well), default=float("inf"))
    done, took, busy = (b - a for a, b in zip(before, after, strict=True))
    rate, alone = done / took, raw.rate(kinds, case.max_rows)
    return [
        Row(
            f"{case.model}: {case.jobs} answers",
            f"{missing} missing, at most {most:.1e} off",
            missing == 0 and most <= TOLERANCE,
        ),
        Row(f"{case.model}: rows/s", f"{rate:,.0f}, {rate / alone:.2f} of PyTorch alone ({alone:,.0f})"),
        Row(f"{case.model}: engines idle", f"{1 - busy / took / instances:.1%} of the time, jobs waiting"),
        Row(f"{case.model}: memory of the device", f"{used:,.0f} MiB used, {cached:,.0f} MiB cached"),
    ]


async def memory(directory: Path, packages: Path) -> list[Row]:
    """Batches that fit nowhere are halved until they do, and no job is lost: an allocation that the device refuses."""
    jobs = 400
    with nats_server(directory) as url:
        set_up(url, "together")
        async with await gristmill.connect(url) as client:
            await submit(client, "together", [{"x": np.ones((1, 1), np.int64)}] * jobs)
            with worker(directory, url, packages) as address:
                answers = await collect(client, "together", jobs)
                refused = Admin(address).count("out_of_memory")
    well = sum(answer.error is None for answer in answers.values())
    return [
        Row(
            "batches too large for the memory",
            f"{refused} halved, {well} of {jobs} jobs answered",
            refused > 0 and well == jobs,
        )
    ]


def prepare(directory: Path) -> None:
    models.build(directory)
    zeros = {"x": torch.zeros(2, 1, dtype=torch.int64)}
    gristmill.export(faults.Together(), zeros, directory, name="together", output_names=["y"], max_rows=64)


def set_up_workers(device: str, instances: int) -> None:
    """They take settings from the environment, and the libtorch of this Python."""
    libraries = [str(Path(torch.__file__).parent / "lib"), os.environ.get("LD_LIBRARY_PATH", "")]
    os.environ["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, libraries))
    os.environ["GRISTMILL__DEVICE"] = device
    os.environ["GRISTMILL__MODELS__INSTANCES"] = str(instances)


async def run(device: str, instances: int, scale: float) -> list[Row]:
    sizes = [("mlp", 40_000, 256), ("image", 4_000, 16), ("encoder", 8_000, 32)]
    cases = [Case(model, max(KINDS, int(jobs * scale)), rows) for model, jobs, rows in sizes]
    torch_device = torch.device(device)
    name = torch.cuda.get_device_name(torch_device) if torch_device.type == "cuda" else "CPU"
    rows = [Row("device", f"{device} ({name})"), Row("PyTorch", torch.__version__, torch.__version__.startswith(TORCH))]
    with scratch() as directory:
        prepare(directory / "models")
        for case in cases:
            print(f"{case.model}: {case.jobs} jobs ...", flush=True)
            (own := directory / case.model).mkdir()
            rows += await check(case, own, only(directory, case.model), torch_device, instances)
        (own := directory / "together").mkdir()
        rows += await memory(own, only(directory, "together"))
    return rows


def only(directory: Path, model: str) -> Path:
    """A directory with this package alone."""
    alone = directory / f"only-{model}"
    alone.mkdir()
    (alone / model).symlink_to(directory / "models" / model)
    return alone


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0", help="as the worker's setting `device`")
    parser.add_argument("--instances", type=int, default=1, help="of each model, each on a stream of its own")
    parser.add_argument("--scale", type=float, default=1.0, help="part of the jobs")
    arguments = parser.parse_args()
    set_up_workers(arguments.device, arguments.instances)
    rows = asyncio.run(run(arguments.device, arguments.instances, arguments.scale))
    width = max(len(row.what) for row in rows)
    for row in rows:
        print(f"{'ok' if row.holds else 'NO':<3} {row.what:<{width}}  {row.value}")
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
