"""Fixtures of the tests that need a broker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from broker import running_server
from nats.js.api import RetentionPolicy

import gristmill
from gristmill import Client


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with running_server(tmp_path) as (url, _):
        yield url


@pytest.fixture
async def client(server: str) -> AsyncIterator[Client]:
    async with await gristmill.connect(server) as client:
        await client.jetstream.add_stream(
            name="INFER_JOBS", subjects=["infer.jobs.>"], retention=RetentionPolicy.WORK_QUEUE
        )
        await client.jetstream.add_stream(name="INFER_RESULTS", subjects=["infer.results.>"])
        yield client
