"""Bodies of contract version 1: MessagePack maps in the data model of the Open Inference Protocol, version 2."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt

ArrayLike = npt.ArrayLike

_NUMPY: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
_NAMES = {dtype: name for name, dtype in _NUMPY.items()}
#: Error codes after which the same job, sent again, could succeed.
_RETRYABLE = frozenset({"deadline_exceeded", "resource_exhausted", "internal"})


class InvalidTensor(ValueError):
    """An array that the contract cannot carry."""


class InvalidBody(ValueError):
    """Bytes that are no body of the contract."""


@dataclass(frozen=True)
class Tensor:
    """One tensor as it is on the wire: row-major, little-endian."""

    datatype: str
    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, array: ArrayLike | Tensor) -> Tensor:
        """Make a tensor of an array; strings and bytes become BYTES."""
        if isinstance(array, Tensor):
            return array
        given, array = array, np.asarray(array)
        if array.dtype.kind in "US" and not isinstance(given, (np.ndarray, np.generic)):
            # numpy's own strings would drop trailing NULs and turn numbers among them into text.
            array = np.asarray(given, object)
        if array.dtype.kind in "USO":
            return cls("BYTES", array.shape, b"".join(_bytes_element(value) for value in array.flat))
        little = array.dtype.newbyteorder("<") if array.dtype.byteorder == ">" else array.dtype
        name = _NAMES.get(little)
        if name is None:
            known = ", ".join(str(dtype) for dtype in _NAMES)
            raise InvalidTensor(f"dtype {array.dtype} is none of {known}")
        return cls(name, array.shape, np.ascontiguousarray(array, little).tobytes())

    @classmethod
    def bf16(cls, array: ArrayLike) -> Tensor:
        """Round to BF16 (to nearest, ties to even), which numpy has no dtype for."""
        bits = np.ascontiguousarray(array, "<f4").view("<u4")
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        # A NaN must not be rounded up into infinity.
        rounded = np.where(np.isnan(bits.view("<f4")), (bits >> 16) | 0x40, rounded)
        return cls("BF16", np.shape(array), rounded.astype("<u2").tobytes())

    def numpy(self) -> npt.NDArray[Any]:
        """Read as an array: BF16 widened to float32, BYTES as an object array of bytes. Does not copy the others."""
        if self.datatype == "BF16":
            wide = np.frombuffer(self.data, "<u2").astype("<u4") << 16
            return wide.view("<f4").reshape(self.shape)
        if self.datatype == "BYTES":
            out = np.empty(len(elements := list(_split_bytes(self.data))), object)
            out[:] = elements
            return out.reshape(self.shape)
        dtype = _NUMPY.get(self.datatype)
        if dtype is None:
            raise InvalidBody(f"datatype {self.datatype!r} is not in contract version 1")
        return np.frombuffer(self.data, dtype).reshape(self.shape)


def _bytes_element(value: object) -> bytes:
    if isinstance(value, str):
        value = value.encode()
    if not isinstance(value, bytes):
        raise InvalidTensor(f"an element of {type(value).__name__} is neither str nor bytes")
    return struct.pack("<I", len(value)) + value


def _split_bytes(data: bytes) -> Iterable[bytes]:
    at = 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "little")
        if at + 4 + length > len(data):
            raise InvalidBody(f"BYTES data is cut off at byte {at} of {len(data)}")
        yield data[at + 4 : at + 4 + length]
        at += 4 + length


@dataclass(frozen=True)
class Job:
    """The body of a job."""

    inputs: dict[str, Tensor]
    id: str | None = None
    outputs: list[str] | None = None


@dataclass(frozen=True)
class ErrorInfo:
    """Why a job has no result."""

    code: str
    message: str
    retryable: bool


@dataclass(frozen=True)
class Reply:
    """The body of a result: outputs, or an error."""

    id: str
    model_name: str
    model_version: str = ""
    outputs: dict[str, Tensor] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)
    error: ErrorInfo | None = None


def _tensor_maps(tensors: Mapping[str, ArrayLike | Tensor]) -> list[dict[str, Any]]:
    out = []
    for name, value in tensors.items():
        tensor = Tensor.of(value)
        out.append({"name": name, "datatype": tensor.datatype, "shape": list(tensor.shape), "data": tensor.data})
    return out


def _pack(body: dict[str, Any]) -> bytes:
    packed: bytes = msgpack.packb(body, use_bin_type=True)
    return packed


def encode_job(
    inputs: Mapping[str, ArrayLike | Tensor], *, id: str | None = None, outputs: Sequence[str] | None = None
) -> bytes:
    """Write the body of a job. Keys stand in the order of the contract."""
    body: dict[str, Any] = {} if id is None else {"id": id}
    body["inputs"] = _tensor_maps(inputs)
    if outputs is not None:
        body["outputs"] = [{"name": name} for name in outputs]
    return _pack(body)


def encode_result(
    id: str,
    model_name: str,
    model_version: str,
    outputs: Mapping[str, ArrayLike | Tensor],
    parameters: Mapping[str, int],
) -> bytes:
    """Write the body of a result, as a worker does."""
    return _pack(
        {
            "id": id,
            "model_name": model_name,
            "model_version": model_version,
            "outputs": _tensor_maps(outputs),
            "parameters": dict(parameters),
        }
    )


def encode_error(id: str, model_name: str, code: str, message: str) -> bytes:
    """Write the body of an error result, as a worker does."""
    error = {"code": code, "message": message, "retryable": code in _RETRYABLE}
    return _pack({"id": id, "model_name": model_name, "error": error})


def decode_job(payload: bytes) -> Job:
    """Read the body of a job."""
    body = _unpack(payload)
    outputs = body.get("outputs")
    try:
        names = None if outputs is None else [output["name"] for output in outputs]
    except (KeyError, TypeError) as error:
        raise InvalidBody(f"an output without {error}") from error
    return Job(inputs=_tensors(body.get("inputs", ())), id=body.get("id"), outputs=names)


def decode_reply(payload: bytes) -> Reply:
    """Read the body of a result or error result."""
    body = _unpack(payload)
    error = body.get("error")
    try:
        info = error and ErrorInfo(error["code"], error["message"], error["retryable"])
    except (KeyError, TypeError) as fault:
        raise InvalidBody(f"an error without {fault}") from fault
    return Reply(
        id=body.get("id", ""),
        model_name=body.get("model_name", ""),
        model_version=body.get("model_version", ""),
        outputs=_tensors(body.get("outputs", ())),
        parameters=body.get("parameters", {}),
        error=info,
    )


def _unpack(payload: bytes) -> dict[str, Any]:
    try:
        body = msgpack.unpackb(payload, raw=False)
    except Exception as error:
        raise InvalidBody(f"not MessagePack: {error}") from error
    if not isinstance(body, dict):
        raise InvalidBody(f"a {type(body).__name__}, not a map")
    return body


def _tensors(maps: Iterable[Mapping[str, Any]]) -> dict[str, Tensor]:
    try:
        return {m["name"]: Tensor(m["datatype"], tuple(m["shape"]), m["data"]) for m in maps}
    except (KeyError, TypeError) as error:
        raise InvalidBody(f"a tensor without {error}") from error
