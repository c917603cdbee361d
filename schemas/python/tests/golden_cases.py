"""The golden bodies of contract version 1. Run this file to write them again; the Rust crate reads the same files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from gristmill import Tensor, encode_error, encode_job, encode_result

DIRECTORY = Path(__file__).parents[2] / "golden" / "v1"


def job_minimal() -> bytes:
    return encode_job({"x": np.arange(6, dtype=np.float32).reshape(2, 3)})


def job_full() -> bytes:
    inputs = {
        # 200 columns, so that a dimension needs two bytes and the data a bin 16.
        "image": (np.arange(400, dtype=np.float32) / 8).reshape(2, 200),
        "ids": np.array([[1, -2, 3], [2**40, -(2**63), 2**63 - 1]], np.int64),
    }
    return encode_job(inputs, id="job-1", outputs=["scores", "digit"])


def job_types() -> bytes:
    return encode_job(
        {
            "bool": np.array([True, False]),
            "uint8": np.array([0, 255], np.uint8),
            "int8": np.array([-128, 127], np.int8),
            "int16": np.array([-(2**15), 2**15 - 1], np.int16),
            "int32": np.array([-(2**31), 2**31 - 1], np.int32),
            "int64": np.array([-(2**63), 2**63 - 1], np.int64),
            "fp16": np.array([1.5, -65504], np.float16),
            "bf16": Tensor.bf16([1.5, -3.0]),
            "fp32": np.array([0.1, -np.inf], np.float32),
            "fp64": np.array([0.1, -1e300], np.float64),
            "bytes": [b"\x00\xff\x00", "grün".encode()],
        }
    )


def result() -> bytes:
    outputs = {"scores": (np.arange(10, dtype=np.float32) / 4).reshape(1, 10), "digit": np.array([9], np.int64)}
    # One value for each length of an integer.
    parameters = {"batch_rows": 32, "batch_jobs": 200, "stream_us": 1000, "queue_us": 70_000, "infer_us": 2**32}
    return encode_result("job-1", "digits", "3", outputs, parameters)


def error() -> bytes:
    return encode_error("job-1", "digits", "invalid_input", 'input "x": 64 values of FP32 need 256 bytes, got 250')


CASES: list[tuple[str, Callable[[], bytes]]] = [
    ("job_minimal.msgpack", job_minimal),
    ("job_full.msgpack", job_full),
    ("job_types.msgpack", job_types),
    ("result.msgpack", result),
    ("error.msgpack", error),
]


def write() -> None:
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    for name, make in CASES:
        (DIRECTORY / name).write_bytes(make())


if __name__ == "__main__":
    write()
