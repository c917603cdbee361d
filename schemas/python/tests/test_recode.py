"""The Rust implementation reads what this package writes, and writes the same bytes."""

import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import gristmill

BINARY = Path(__file__).parents[3] / "target/release/examples/recode"
Recode = Callable[[str, bytes], bytes]


@pytest.fixture(scope="module")
def recode() -> Iterator[Recode]:
    assert BINARY.exists(), f"{BINARY} is missing: run the tests through `make test`"
    with subprocess.Popen([BINARY], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout

        def call(kind: str, body: bytes) -> bytes:
            process.stdin.write(kind.encode() + struct.pack("<I", len(body)) + body)
            process.stdin.flush()
            answer, length = struct.unpack("<cI", process.stdout.read(5))
            body = process.stdout.read(length)
            assert answer == kind.encode(), body.decode()
            return body

        yield call
        process.stdin.close()


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=20)
IDS = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=40)
DTYPES = st.sampled_from(["?", "u1", "i1", "<i2", "<i4", "<i8", "<f2", "<f4", "<f8"])


@st.composite
def inputs(draw: st.DrawFn) -> dict[str, np.ndarray]:
    rows = draw(st.integers(1, 20))
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    tails = st.lists(st.integers(0, 5), max_size=3).map(tuple)
    return {name: draw(hnp.arrays(draw(DTYPES), (rows, *draw(tails)))) for name in names}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(inputs(), st.none() | IDS, st.none() | st.lists(NAMES, max_size=3, unique=True))
def test_rust_writes_any_job_as_we_do(recode: Recode, arrays: dict, id: str | None, outputs: list[str] | None) -> None:
    body = gristmill.encode_job(arrays, id=id, outputs=outputs)
    assert recode("j", body) == body


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(inputs(), st.lists(st.integers(0, 2**63 - 1), min_size=5, max_size=5))
def test_rust_writes_any_result_as_we_do(recode: Recode, arrays: dict, values: list[int]) -> None:
    names = ["batch_rows", "batch_jobs", "stream_us", "queue_us", "infer_us"]
    parameters = dict(zip(names, values, strict=True))
    body = gristmill.encode_result("id", "model", "1", arrays, parameters)
    assert recode("r", body) == body


def test_rust_writes_every_error_as_we_do(recode: Recode) -> None:
    codes = (
        "invalid_message invalid_input unknown_model unknown_version too_large deadline_exceeded model_error "
        "resource_exhausted quarantined cancelled internal"
    )
    for code in codes.split():
        body = gristmill.encode_error("id", "model", code, "why")
        assert recode("r", body) == body


def test_rust_writes_bytes_as_we_do(recode: Recode) -> None:
    body = gristmill.encode_job({"x": ["", "grün"], "y": gristmill.Tensor.bf16(np.ones((2, 3)))})
    assert recode("j", body) == body
