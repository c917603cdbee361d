"""Bodies as bytes: golden files, round trips of every datatype, and what is refused."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import hypothesis.extra.numpy as hnp
import msgpack
import numpy as np
import pytest
from golden_cases import CASES, DIRECTORY
from hypothesis import given
from hypothesis import strategies as st

import gristmill
from gristmill import InvalidBody, InvalidTensor, Tensor
from gristmill._names import token

NUMERIC = ["?", "u1", "i1", "i2", "i4", "i8", "f2", "f4", "f8"]
#: Zero rows is for the worker to refuse; here any shape survives.
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
NAMES = st.text(min_size=1, max_size=20)


def numeric_arrays(byte_orders: str = "<>") -> st.SearchStrategy[np.ndarray]:
    dtypes = st.tuples(st.sampled_from(byte_orders), st.sampled_from(NUMERIC)).map(
        lambda parts: np.dtype("".join(parts))
    )
    return dtypes.flatmap(lambda dtype: hnp.arrays(dtype, SHAPES))


def bytes_arrays() -> st.SearchStrategy[np.ndarray]:
    return hnp.arrays(object, SHAPES, elements=st.binary(max_size=20) | st.text(max_size=20), fill=st.nothing())


def as_bytes(array: np.ndarray) -> list[bytes]:
    return [value.encode() if isinstance(value, str) else value for value in array.flat]


def assert_same(read: np.ndarray, written: np.ndarray) -> None:
    assert read.shape == written.shape
    if written.dtype == object:
        assert list(read.flat) == as_bytes(written)
    else:
        # Bytes, so that NaN payloads and the sign of zero count too.
        little = written.dtype.newbyteorder("<")
        assert (read.dtype, read.tobytes()) == (little, written.astype(little).tobytes())


@pytest.mark.parametrize(("name", "make"), CASES, ids=[name for name, _ in CASES])
def test_a_golden_file_is_what_the_encoder_writes(name: str, make: Callable[[], bytes]) -> None:
    assert (DIRECTORY / name).read_bytes() == make()


def test_every_golden_file_has_a_case() -> None:
    assert {path.name for path in DIRECTORY.iterdir()} == {name for name, _ in CASES}


@pytest.mark.parametrize("name", [name for name, _ in CASES if name.startswith("job")])
def test_a_golden_job_is_written_again_as_the_same_bytes(name: str) -> None:
    golden = (DIRECTORY / name).read_bytes()
    job = gristmill.decode_job(golden)
    assert gristmill.encode_job(job.inputs, id=job.id, outputs=job.outputs) == golden
    # Also by way of arrays, but for BF16, which they widen.
    arrays = {name: tensor if tensor.datatype == "BF16" else tensor.numpy() for name, tensor in job.inputs.items()}
    assert gristmill.encode_job(arrays, id=job.id, outputs=job.outputs) == golden


def test_the_golden_result_is_written_again_as_the_same_bytes() -> None:
    golden = (DIRECTORY / "result.msgpack").read_bytes()
    reply = gristmill.decode_reply(golden)
    assert reply.error is None
    again = gristmill.encode_result(reply.id, reply.model_name, reply.model_version, reply.outputs, reply.parameters)
    assert again == golden


def test_the_golden_error_is_written_again_as_the_same_bytes() -> None:
    golden = (DIRECTORY / "error.msgpack").read_bytes()
    reply = gristmill.decode_reply(golden)
    assert reply.error is not None
    assert not reply.error.retryable
    assert gristmill.encode_error(reply.id, reply.model_name, reply.error.code, reply.error.message) == golden


@given(
    inputs=st.dictionaries(NAMES, numeric_arrays() | bytes_arrays(), min_size=1, max_size=4),
    id=st.none() | st.text(max_size=20),
    outputs=st.none() | st.lists(NAMES, max_size=4),
)
def test_any_job_survives_encoding_and_decoding(
    inputs: dict[str, np.ndarray], id: str | None, outputs: list[str] | None
) -> None:
    job = gristmill.decode_job(gristmill.encode_job(inputs, id=id, outputs=outputs))
    assert (job.id, job.outputs, list(job.inputs)) == (id, outputs, list(inputs))
    for name, array in inputs.items():
        assert_same(job.inputs[name].numpy(), array)


@given(numeric_arrays(), st.data())
def test_an_array_that_is_not_contiguous_is_written_row_major(array: np.ndarray, data: st.DataObject) -> None:
    steps = [slice(None, None, data.draw(st.sampled_from([-2, -1, 1, 2]))) for _ in array.shape]
    view = array[tuple(steps)].T
    assert_same(Tensor.of(view).numpy(), view)


def test_big_endian_values_are_written_little_endian() -> None:
    tensor = Tensor.of(np.array([1, 256], ">i2"))
    assert (tensor.datatype, tensor.data) == ("INT16", b"\x01\x00\x00\x01")


def test_plain_numbers_and_lists_are_taken_as_numpy_takes_them() -> None:
    assert Tensor.of([[1, 2], [3, 4]]) == Tensor.of(np.array([[1, 2], [3, 4]]))
    assert Tensor.of(1.5) == Tensor("FP64", (), np.float64(1.5).tobytes())


def test_a_tensor_is_taken_as_it_is() -> None:
    tensor = Tensor.bf16([1.0])
    assert Tensor.of(tensor) is tensor


@given(st.lists(st.integers(0, 2**32 - 1), max_size=50).map(lambda bits: np.array(bits, "<u4")))
def test_bf16_rounds_as_torch_does(bits: np.ndarray) -> None:
    assert_rounds_as_torch(bits)


def test_bf16_rounds_as_torch_does_at_every_boundary() -> None:
    # Every upper half, which covers infinities, NaN and subnormals, with the lower halves around a tie.
    upper = np.arange(2**16, dtype="<u4") << 16
    assert_rounds_as_torch((upper[:, None] + np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], "<u4")).ravel())


def assert_rounds_as_torch(bits: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    values = bits.view("<f4")
    tensor = Tensor.bf16(values)
    ours = np.frombuffer(tensor.data, "<u2")
    theirs = torch.from_numpy(values.copy()).to(torch.bfloat16).view(torch.int16).numpy().view("<u2")
    nan = np.isnan(values)
    np.testing.assert_array_equal(ours[~nan], theirs[~nan])
    # Which NaN it is, torch does not promise.
    np.testing.assert_array_equal(np.isnan(tensor.numpy()), nan)


def test_bf16_keeps_its_shape_and_is_read_as_float32() -> None:
    array = Tensor.bf16([[1.0, -2.5], [0.0, np.inf]]).numpy()
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, [[1.0, -2.5], [0.0, np.inf]])
    assert Tensor.bf16(3.0).numpy().shape == ()


@pytest.mark.parametrize(
    "given",
    [
        ["a", "grün", ""],
        [b"a", b"\x00\xff", b"a\x00"],
        ["a\x00", "b"],
        np.array(["a", "grün"]),
        np.array([b"a", b"bc"]),
        np.array([["a", b"b"], [b"\x00", ""]], object),
        "one",
        b"\x00",
    ],
)
def test_strings_and_bytes_become_bytes_and_come_back(given: Any) -> None:
    tensor = Tensor.of(given)
    as_objects = np.asarray(given, object)
    assert (tensor.datatype, tensor.shape) == ("BYTES", as_objects.shape)
    assert list(tensor.numpy().flat) == as_bytes(as_objects)


def test_an_element_of_bytes_stands_behind_its_length() -> None:
    assert Tensor.of(["ab", ""]).data == b"\x02\x00\x00\x00ab\x00\x00\x00\x00"


@pytest.mark.parametrize("dtype", ["c8", ">c16", "u2", "u4", "u8", "M8[s]", "m8[s]", "V4", np.longdouble])
def test_a_dtype_outside_the_contract_is_refused(dtype: Any) -> None:
    with pytest.raises(InvalidTensor, match="is none of bool, uint8"):
        Tensor.of(np.zeros(2, dtype))


@pytest.mark.parametrize("value", [None, 1, ["a"], bytearray(b"a"), {"a": 1}])
def test_an_object_that_is_no_string_is_refused(value: Any) -> None:
    array = np.empty(2, object)
    array[:] = ["a", value]
    with pytest.raises(InvalidTensor, match=f"an element of {type(value).__name__} is neither str nor bytes"):
        Tensor.of(array)


def test_a_number_among_strings_is_refused_and_not_turned_into_text() -> None:
    with pytest.raises(InvalidTensor, match="an element of int"):
        Tensor.of(["a", 1])


@pytest.mark.parametrize(("name", "make"), CASES, ids=[name for name, _ in CASES])
def test_a_body_cut_off_anywhere_is_refused(name: str, make: Callable[[], bytes]) -> None:
    body = make()
    decode = gristmill.decode_job if name.startswith("job") else gristmill.decode_reply
    for length in range(len(body)):
        with pytest.raises(InvalidBody):
            decode(body[:length])
    with pytest.raises(InvalidBody):
        decode(body + b"\xc0")


@pytest.mark.parametrize("value", [None, 1, "text", b"bytes", [], [["inputs", []]]])
@pytest.mark.parametrize("decode", [gristmill.decode_job, gristmill.decode_reply])
def test_a_body_that_is_no_map_is_refused(decode: Callable[[bytes], object], value: Any) -> None:
    with pytest.raises(InvalidBody, match=f"a {type(value).__name__}, not a map"):
        decode(msgpack.packb(value))


KEYS = st.sampled_from(["id", "inputs", "outputs", "parameters", "error", "name", "datatype", "shape", "data", "code"])
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=10,
)


@given(st.dictionaries(KEYS, VALUES) | VALUES)
def test_a_body_of_any_other_form_raises_nothing_but_invalid_body(value: Any) -> None:
    for decode in (gristmill.decode_job, gristmill.decode_reply):
        with contextlib.suppress(InvalidBody):
            decode(msgpack.packb(value))


@pytest.mark.parametrize("data", [b"\x01", b"\x05\x00\x00\x00ab", b"\x00\x00\x00\x00\x01\x00\x00"])
def test_bytes_data_that_is_cut_off_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidBody, match="cut off"):
        Tensor("BYTES", (1,), data).numpy()


def test_an_unknown_datatype_is_refused_when_it_is_read() -> None:
    with pytest.raises(InvalidBody, match="'FP8' is not in contract version 1"):
        Tensor("FP8", (1,), b"\x00").numpy()


@pytest.mark.parametrize("code", ["deadline_exceeded", "resource_exhausted", "internal"])
def test_an_error_that_may_pass_says_so(code: str) -> None:
    reply = gristmill.decode_reply(gristmill.encode_error("job-1", "digits", code, "later"))
    assert reply.error == gristmill.ErrorInfo(code, "later", retryable=True)


def test_unknown_keys_are_ignored() -> None:
    body = msgpack.unpackb(CASES[0][1]()) | {"parameters": {"priority": 1}, "later": [1]}
    assert list(gristmill.decode_job(msgpack.packb(body)).inputs) == ["x"]


@pytest.mark.parametrize("text", ["a", "digits", "A-Z_09", "-", "x" * 64])
def test_a_token_is_taken(text: str) -> None:
    assert token(text, "model") == text


@pytest.mark.parametrize("text", ["", "a.b", "*", ">", "a b", "a\n", "ä", "x" * 65, "a/b", "\x00"])
def test_what_is_no_token_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=r"^model .* is not a token: 1 to 64 characters"):
        token(text, "model")
