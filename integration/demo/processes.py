"""Real processes on free ports, ended and cleaned up with the program that started them."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / "target" / os.environ.get("GRISTMILL_PROFILE", "release")
"""Where binaries lie: as the tests, see `integration/src/paths.rs`."""


def free_port() -> int:
    """A port nobody listens on now, below those that connections get: one of them would take it before it is used."""
    for port in random.sample(range(10_000, 30_000), 1000):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("loopback has no free port")


def require_free(*ports: int) -> None:
    """Raise if somebody listens on one of them."""
    for port in ports:
        if _accepts(port):
            raise RuntimeError(f"port {port} is in use; end what listens there first")


class Process:
    """A child whose output goes to a file; shown if it fails."""

    def __init__(self, name: str, command: list[str], directory: Path, env: dict[str, str] | None = None) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        with self.log.open("wb") as log:
            self.child = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | (env or {}),
                # Ctrl-C goes to us; we end the children in order.
                start_new_session=True,
            )

    def check(self) -> None:
        """Raise if it has ended."""
        if self.child.poll() is not None:
            tail = self.log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{self.name} ended with code {self.child.returncode}:\n{tail}")

    def stop(self, patience: float = 10) -> int:
        """Ask it to end; insist after `patience` seconds. Returns its exit code."""
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
            try:
                self.child.wait(patience)
            except subprocess.TimeoutExpired:
                self.child.kill()
        return self.child.wait()


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory that goes away again."""
    directory = Path(tempfile.mkdtemp(prefix="gristmill-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def nats_server(directory: Path, port: int | None = None) -> Iterator[str]:
    """nats-server with JetStream on a free port; yields its URL."""
    binary = shutil.which("nats-server", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if binary is None:
        raise RuntimeError("nats-server is not installed; `make venv` does it")
    port = port or free_port()
    command = [binary, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(directory / "jetstream")]
    server = Process("nats-server", command, directory)
    try:
        # Not by connecting: somebody else may listen there.
        wait_for(lambda: "Server is ready" in server.log.read_text(), server)
        yield f"nats://127.0.0.1:{port}"
    finally:
        server.stop()


@contextmanager
def worker(directory: Path, url: str, models: Path, admin_port: int | None = None) -> Iterator[str]:
    """A worker serving `models`; yields the address of its admin pages once it is ready."""
    admin = f"127.0.0.1:{admin_port or free_port()}"
    settings = {
        "GRISTMILL__NATS__URL": url,
        "GRISTMILL__MODELS__DIR": str(models),
        # So that the demo leaves nothing behind.
        "GRISTMILL__LEDGER__DIR": str(directory),
        "GRISTMILL__ADMIN__LISTEN": admin,
    }
    process = Process("worker", [str(BIN / "gristmill-worker")], directory, settings)
    try:
        wait_for(lambda: _ready(admin), process)
        yield f"http://{admin}"
        process.check()
    finally:
        code = process.stop(40)
    if code != 0:
        raise RuntimeError(f"the worker drained with exit code {code}:\n{process.log.read_text()[-2000:]}")


def wait_for(ready, process: Process, seconds: float = 60) -> None:
    """Poll until ready; raise if the process ends first."""
    until = time.monotonic() + seconds
    while not ready():
        process.check()
        if time.monotonic() > until:
            raise RuntimeError(f"{process.name} was not ready within {seconds} s:\n{process.log.read_text()[-2000:]}")
        time.sleep(0.02)


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _ready(admin: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{admin}/readyz", timeout=1) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False


async def until_interrupted() -> None:
    """Returns on Ctrl-C or SIGTERM."""
    done = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, done.set)
    await done.wait()
