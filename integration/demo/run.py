"""`make run`: the main job, end to end, on real input. `make dev`: the same set-up, left running.

Trains a CNN on handwritten digits, exports it, starts nats-server and a worker, submits the held-out digits through the
Python client, and prints what came back.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import time
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "models"))
from processes import nats_server, require_free, scratch, until_interrupted, worker

PASSES = 20
"""Each held-out digit is submitted this often: enough jobs for a rate that means something."""

NATS_PORT, ADMIN_PORT = 4222, 9470
"""Where `make dev` listens: the defaults of worker and command."""

CALLERS = 8
"""Callers that each wait for one answer before they ask for the next, for the latency."""


def say(text: str) -> None:
    print(text, flush=True)


def prepare(models: Path):
    """Train and export; returns the held-out digits."""
    say("training a CNN on scikit-learn's handwritten digits ...")
    started = time.perf_counter()
    import digits
    import torch

    import gristmill

    warnings.filterwarnings("ignore", category=DeprecationWarning)
    # A compute thread that spins would take a core from the broker and the worker later on.
    torch.set_num_threads(2)
    trained = digits.train()
    package = gristmill.export(trained.model, {"image": torch.from_numpy(trained.images[:2])}, models, name="digits")
    say(f"  trained and exported to {package.name} in {time.perf_counter() - started:.1f} s")
    return trained.images, trained.labels


def draw(image: np.ndarray) -> list[str]:
    """A digit as text: two characters for each of the 8 x 8 pixels."""
    shades = " .:-=+*#%@"
    return ["".join(shades[min(9, int(pixel * 9.99))] * 2 for pixel in row) for row in image[0]]


def show(images: np.ndarray, labels: np.ndarray, answers: np.ndarray) -> None:
    wrong = np.flatnonzero(answers != labels)[:2]
    chosen = [*np.flatnonzero(answers == labels)[: 5 - len(wrong)], *wrong]
    for lines in zip(*(draw(images[i]) for i in chosen), strict=True):
        say("   ".join(lines))
    captions = [f"says {answers[i]}" + ("" if answers[i] == labels[i] else f", is {labels[i]}") for i in chosen]
    say("   ".join(f"{caption:<16}" for caption in captions))


async def submit(client, images: np.ndarray) -> None:
    """Submit every held-out digit `PASSES` times, many at once."""
    queue = iter([(n, i) for n in range(PASSES) for i in range(len(images))])

    async def producer() -> None:
        for n, i in queue:
            await client.submit("digits", {"image": images[i : i + 1]}, reply="demo", job_id=f"{n}/{i}")

    await asyncio.gather(*(producer() for _ in range(128)))


async def collect(client, count: int):
    """Read every stored result; returns answers by job id, and the batch size of each."""
    answers, rows = {}, []
    async for result in client.results("digits", reply="demo", count=count, idle_timeout=30):
        if result.error:
            raise RuntimeError(f"job {result.job_id}: {result.error.code}: {result.error.message}")
        answers[result.job_id] = int(result["digit"][0])
        rows.append(result.parameters["batch_rows"])
        if len(rows) % 3000 == 0:
            say(f"  {len(rows)} of {count} results")
    if len(answers) != count:
        raise RuntimeError(f"{count} jobs, results for {len(answers)}")
    return answers, np.array(rows)


async def round_trips(client, images: np.ndarray) -> np.ndarray:
    """Milliseconds from submitting to the answer, on the client's own clock."""
    times, queue = [], iter(range(len(images)))

    async def caller() -> None:
        for i in queue:
            started = time.perf_counter()
            await client.infer("digits", {"image": images[i : i + 1]}, timeout=30)
            times.append((time.perf_counter() - started) * 1000)

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return np.array(times)


async def job(url: str, images: np.ndarray, labels: np.ndarray) -> float:
    import gristmill

    count = PASSES * len(images)
    async with await gristmill.connect(url) as client:
        say(f"submitting {len(images)} held-out digits {PASSES} times: {count} jobs ...")
        started = time.perf_counter()
        collecting = asyncio.ensure_future(collect(client, count))
        await submit(client, images)
        answers, rows = await collecting
        seconds = time.perf_counter() - started
        say(f"asking for each digit once more, {CALLERS} callers at a time ...")
        latency = await round_trips(client, images)
    said = np.array([answers[f"0/{i}"] for i in range(len(images))])
    accuracy = float((said == labels).mean())
    # Each batch is counted once: every one of its jobs reports its size.
    mean_batch = len(rows) / (1 / rows).sum()
    say("")
    show(images, labels, said)
    say("")
    say(f"accuracy        {accuracy:.4f} on {len(images)} held-out digits")
    say(f"throughput      {count / seconds:,.0f} jobs/s, submitted and collected by one Python process")
    p50, p99 = np.percentile(latency, [50, 99])
    say(f"latency         p50 {p50:.2f} ms, p99 {p99:.2f} ms, submit to answer, {CALLERS} callers")
    say(f"mean batch      {mean_batch:.1f} rows")
    return accuracy


async def run(directory: Path, images: np.ndarray, labels: np.ndarray) -> None:
    say("starting nats-server ...")
    with nats_server(directory) as url:
        say(f"  {url}\nstarting the worker ...")
        with worker(directory, url, directory / "models") as admin:
            say(f"  ready, see {admin}/status")
            accuracy = await job(url, images, labels)
            say("stopping the worker and nats-server ...")
    if accuracy < 0.95:
        raise RuntimeError(f"accuracy {accuracy:.4f} is below 0.95")


async def dev(directory: Path) -> None:
    with (
        nats_server(directory, NATS_PORT) as url,
        worker(directory, url, directory / "models", ADMIN_PORT) as admin,
    ):
        gristmill = "target/release/gristmill"
        say(f"\nnats-server     {url}\nworker          {admin}/status\nlogs            {directory}")
        say(f"try             {gristmill} status --admin {admin}")
        say("                and the commands under 'Try it' in README.md\nCtrl-C stops all of it.")
        await until_interrupted()
        say("\nstopping ...")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dev", action="store_true", help="leave broker, worker and model running")
    stay = parser.parse_args().dev
    logging.getLogger("nats").setLevel(logging.CRITICAL)
    if stay:
        require_free(NATS_PORT, ADMIN_PORT)
    with scratch() as directory:
        images, labels = prepare(directory / "models")
        asyncio.run(dev(directory) if stay else run(directory, images, labels))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except RuntimeError as error:
        sys.exit(f"failed: {error}")
