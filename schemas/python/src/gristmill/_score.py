"""Scoring a table in memory through the bulk lane.

Files larger than memory, and runs that must survive a crash, are for the command `gristmill score`.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ._wire import ErrorInfo

if TYPE_CHECKING:
    import pyarrow as pa

Array = npt.NDArray[Any]
#: Sends the inputs of one job and returns its outputs, or why it has none.
Ask = Callable[[dict[str, Array]], Awaitable["Mapping[str, Array] | ErrorInfo"]]

#: Bytes of one job. The broker takes 1 MiB unless set otherwise, and names and headers count.
MAX_BYTES = 768 * 1024

#: Datatypes of the contract that numpy knows; it has no BF16.
DTYPES = {
    "BOOL": "?", "UINT8": "u1", "INT8": "i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8",
    "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip


class NoSuchModel(Exception):
    """No worker that answered serves the model."""


@dataclass(frozen=True)
class Input:
    """An input of the model, as its workers tell it."""

    name: str
    datatype: str
    shape: Sequence[int]
    pad: float
    mask: bool

    @property
    def free(self) -> bool:
        """Whether rows of it may differ in length."""
        return -1 in self.shape[1:]


@dataclass(frozen=True)
class Model:
    """What a model takes."""

    version: str
    inputs: list[Input]
    max_rows: int

    @classmethod
    def of(cls, answers: Sequence[bytes], name: str, version: str | None) -> Model:
        """Read workers' answers to a question for their status."""
        served = [model for answer in answers for model in json.loads(answer).get("models", [])]
        for model in served:
            signature = model.get("signature")
            if model["name"] == name and signature and version in (None, model["version"]):
                inputs = [
                    Input(one["name"], one["datatype"], one["shape"], float(one.get("pad", 0.0)), bool(one.get("mask")))
                    for one in signature["inputs"]
                ]
                return cls(model["version"], inputs, signature["batching"]["max_rows"])
        known = ", ".join(sorted({f"{model['name']} {model['version']}" for model in served}))
        raise NoSuchModel(
            f"none of {len(answers)} workers that answered serves {name!r} {version or ''}; served: {known}"
        )


def table_of(rows: Any) -> pa.Table:
    """A pandas or pyarrow table as it is, or the file at a path."""
    import pyarrow as pa
    import pyarrow.dataset as ds

    if isinstance(rows, pa.Table):
        return rows
    if isinstance(rows, (str, os.PathLike)):
        path = os.fspath(rows)
        kind = path.rsplit(".", 1)[-1].lower()
        formats = {"parquet": "parquet", "pq": "parquet", "csv": "csv", "arrow": "ipc", "feather": "feather"}
        if kind not in formats:
            raise ValueError(f"{path}: the name tells no format; known are {', '.join(formats)}")
        return ds.dataset(path, format=formats[kind]).to_table()
    return pa.Table.from_pandas(rows, preserve_index=False)


def values(table: pa.Table, spec: Input, columns: Sequence[str]) -> list[Array | str]:
    """Each row's values for an input, or what is wrong with the row."""
    if spec.datatype not in DTYPES:
        raise ValueError(f"input {spec.name!r} is {spec.datatype}, which numpy does not know")
    found = [table[name].to_pylist() for name in columns]
    rows = found[0] if len(found) == 1 else [list(row) for row in zip(*found, strict=True)]
    tail = [dim for dim in spec.shape[1:]]
    return [_row(row, spec, tail) for row in rows]


def _row(row: Any, spec: Input, tail: list[int]) -> Array | str:
    if row is None:
        return f"input {spec.name!r}: the row is null"
    try:
        given = np.asarray(row)
        if given.dtype.kind == "f" and DTYPES[spec.datatype].strip("<|")[0] not in "f":
            return f"input {spec.name!r}: fractions would be lost in {spec.datatype}"
        # The first dimension of a row is its place in the job.
        return given.astype(DTYPES[spec.datatype], casting="unsafe").reshape(tail)
    except (ValueError, TypeError, OverflowError):
        return f"input {spec.name!r}: the row does not make up {spec.datatype} of shape {tail}"


def chunks(model: Model, rows: Mapping[str, list[Array | str]], sound: list[int]) -> Iterator[list[int]]:
    """Rows that travel together: of like lengths where an input has a free dimension, of one where there is no mask."""
    free = next((spec.name for spec in model.inputs if spec.free and spec.name in rows), None)

    def length(row: int) -> int:
        return np.size(rows[free][row]) if free else 0

    may_pad = any(spec.mask for spec in model.inputs)
    chunk: list[int] = []
    for row in sorted(sound, key=length) if free else sound:
        size = sum(np.asarray(column[row]).nbytes for column in rows.values())
        is_full = len(chunk) == model.max_rows or (len(chunk) + 1) * size > MAX_BYTES
        if chunk and (is_full or (not may_pad and length(row) != length(chunk[0]))):
            yield chunk
            chunk = []
        chunk.append(row)
    if chunk:
        yield chunk


def stacked(model: Model, rows: Mapping[str, list[Array | str]], chunk: list[int]) -> dict[str, Array]:
    """The inputs of one job, filled up to its longest row, with the mask that tells so."""
    job: dict[str, Array] = {}
    lengths: list[int] = []
    for spec in model.inputs:
        if spec.name not in rows:
            continue
        arrays = [np.asarray(rows[spec.name][row]) for row in chunk]
        if spec.free:
            axis = list(spec.shape[1:]).index(-1)
            lengths = [array.shape[axis] for array in arrays]
            pads = [[(0, max(lengths) - n if at == axis else 0) for at in range(arrays[0].ndim)] for n in lengths]
            fill = 0 if spec.mask else spec.pad
            arrays = [np.pad(a, pad, constant_values=fill) for a, pad in zip(arrays, pads, strict=True)]
        job[spec.name] = np.stack(arrays)
    mask = next((spec for spec in model.inputs if spec.mask and spec.name not in rows), None)
    if mask and lengths:
        real = np.arange(max(lengths))[None, :] < np.asarray(lengths)[:, None]
        job[mask.name] = real.astype(DTYPES[mask.datatype])
    return job


class Scores:
    """Outputs and failures by row. A job that fails is sent again in halves until its bad rows are alone."""

    def __init__(self, model: Model, rows: Mapping[str, list[Array | str]], count: int, ask: Ask) -> None:
        self.model = model
        self.rows = rows
        self.ask = ask
        self.outputs: dict[str, list[Any]] = {}
        #: Element type and dimensions behind the rows.
        self.kinds: dict[str, tuple[np.dtype[Any], int]] = {}
        self.errors: list[ErrorInfo | None] = [None] * count

    async def run(self, chunk: list[int], room: asyncio.Semaphore) -> None:
        """Score these rows."""
        async with room:
            answer = await self.ask(stacked(self.model, self.rows, chunk))
        if not isinstance(answer, ErrorInfo):
            self._keep(chunk, answer)
        elif len(chunk) == 1:
            self.errors[chunk[0]] = answer
        else:
            half = len(chunk) // 2
            await asyncio.gather(self.run(chunk[:half], room), self.run(chunk[half:], room))

    def _keep(self, chunk: list[int], outputs: Mapping[str, Array]) -> None:
        free = next((spec for spec in self.model.inputs if spec.free and not spec.mask), None)
        for name, array in outputs.items():
            column = self.outputs.setdefault(name, [None] * len(self.errors))
            self.kinds[name] = (array.dtype, array.ndim - 1)
            for at, row in enumerate(chunk):
                value = array[at]
                if free:
                    axis = list(free.shape[1:]).index(-1)
                    lengths = [np.asarray(self.rows[free.name][other]).shape[axis] for other in chunk]
                    cut = tuple(slice(lengths[at]) if n == max(lengths) else slice(None) for n in value.shape)
                    value = value[cut]
                column[row] = value.tolist()

    def table(self, kept: pa.Table) -> pa.Table:
        """The rows that were given, with outputs and errors beside them."""
        import pyarrow as pa

        for name, column in self.outputs.items():
            dtype, depth = self.kinds[name]
            kind = pa.from_numpy_dtype(dtype)
            for _ in range(depth):
                kind = pa.list_(kind)
            kept = kept.append_column(name, pa.array(column, kind))
        told = [(None, None) if error is None else (error.code, error.message) for error in self.errors]
        kept = kept.append_column("error_code", pa.array([code for code, _ in told], pa.string()))
        return kept.append_column("error_message", pa.array([message for _, message in told], pa.string()))
