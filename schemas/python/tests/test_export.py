"""Model packages: what is in them, what the manifest says, and that a failure leaves nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gristmill

torch = pytest.importorskip("torch")
# TorchScript is deprecated in favour of torch.export, yet it is the format of the packages.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

Manifest = Callable[[Path], dict[str, Any]]


@pytest.fixture
def manifest() -> Manifest:
    """Reads a package's manifest with a TOML parser that is not ours; Python has one from 3.11 on."""
    tomllib = pytest.importorskip("tomllib")
    return lambda package: tomllib.loads((package / "model.toml").read_text(encoding="utf-8"))


class Linear(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)
        self.dropout = torch.nn.Dropout()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.layer(x))


class Pair(torch.nn.Module):
    def forward(self, x: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x * 2, ids + 1


class Named(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"scores": x * 2, "digit": x.argmax(1)}


class Lengths(torch.nn.Module):
    """`ids` of any length: one value for each of them, and their sum."""

    def forward(self, ids: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        each = ids.to(torch.float32) * scale
        return {"each": each, "sum": each.sum(1, keepdim=True)}


class Complex(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.complex(x, x)


class Scalar(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum()


class Constant(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(2, 5) + x.sum()


class Casts(torch.nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(self.dtype)


def inputs(rows: int = 2) -> dict[str, Any]:
    return {"x": torch.randn(rows, 4)}


def left_behind(directory: Path) -> list[Path]:
    return list(directory.rglob("*"))


def test_a_package_is_a_directory_of_program_and_manifest(tmp_path: Path) -> None:
    package = gristmill.export(Linear(), inputs(), tmp_path / "new", name="linear", version="3")
    assert package == tmp_path / "new" / "linear" / "3"
    assert sorted(path.name for path in package.iterdir()) == ["model.pt", "model.toml"]
    # Nothing else beside it, and readable to whoever runs the worker.
    assert list(package.parent.iterdir()) == [package]
    assert package.stat().st_mode & 0o777 == 0o755


def test_the_manifest_describes_the_package(tmp_path: Path, manifest: Manifest) -> None:
    package = gristmill.export(
        Linear(),
        inputs(),
        tmp_path,
        name="linear",
        max_rows=8,
        max_delay_ms=2,
        max_padded_elements=1024,
        knee=False,
        target_ms=50,
    )
    assert manifest(package) == {
        "name": "linear",
        "version": "1",
        "format": "torchscript",
        "file": "model.pt",
        "sha256": hashlib.sha256((package / "model.pt").read_bytes()).hexdigest(),
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4], "example_shape": [1, 4]}],
        "outputs": [{"name": "output0", "datatype": "FP32", "shape": [-1, 3]}],
        "batching": {"max_rows": 8, "max_delay_ms": 2, "max_padded_elements": 1024, "knee": False, "target_ms": 50},
    }


def test_outputs_of_a_tuple_are_numbered_or_named(tmp_path: Path, manifest: Manifest) -> None:
    examples = {"x": torch.randn(2, 4), "ids": torch.zeros(2, dtype=torch.int64)}
    numbered = gristmill.export(Pair(), examples, tmp_path, name="numbered")
    named = gristmill.export(Pair(), examples, tmp_path, name="named", output_names=["double", "next"])
    assert [output["name"] for output in manifest(numbered)["outputs"]] == ["output0", "output1"]
    assert [(o["name"], o["datatype"], o["shape"]) for o in manifest(named)["outputs"]] == [
        ("double", "FP32", [-1, 4]),
        ("next", "INT64", [-1]),
    ]
    assert [(i["name"], i["datatype"], i["shape"]) for i in manifest(named)["inputs"]] == [
        ("x", "FP32", [-1, 4]),
        ("ids", "INT64", [-1]),
    ]


@pytest.mark.parametrize("method", ["script", "trace"])
def test_a_dict_names_its_outputs_itself(tmp_path: Path, manifest: Manifest, method: Any) -> None:
    package = gristmill.export(Named(), inputs(), tmp_path, name="named", method=method)
    assert [(o["name"], o["datatype"], o["shape"]) for o in manifest(package)["outputs"]] == [
        ("scores", "FP32", [-1, 4]),
        ("digit", "INT64", [-1]),
    ]


@pytest.mark.parametrize(
    ("dtype", "datatype"),
    [
        (torch.bool, "BOOL"),
        (torch.uint8, "UINT8"),
        (torch.int8, "INT8"),
        (torch.int16, "INT16"),
        (torch.int32, "INT32"),
        (torch.int64, "INT64"),
        (torch.float16, "FP16"),
        (torch.bfloat16, "BF16"),
        (torch.float32, "FP32"),
        (torch.float64, "FP64"),
    ],
)
def test_every_dtype_has_its_datatype(tmp_path: Path, manifest: Manifest, dtype: Any, datatype: str) -> None:
    package = gristmill.export(Casts(dtype), {"x": torch.ones(2, 4, dtype=dtype)}, tmp_path, name="casts")
    described = manifest(package)
    assert [t["datatype"] for t in described["inputs"] + described["outputs"]] == [datatype, datatype]


def test_a_free_dimension_is_free_in_the_outputs_that_depend_on_it(tmp_path: Path, manifest: Manifest) -> None:
    examples = {"ids": torch.zeros(2, 5, dtype=torch.int64), "scale": torch.ones(2, 1)}
    package = gristmill.export(Lengths(), examples, tmp_path, name="lengths", dynamic={"ids": [1]})
    described = manifest(package)
    assert [(i["shape"], i["example_shape"]) for i in described["inputs"]] == [([-1, -1], [1, 5]), ([-1, 1], [1, 1])]
    assert {o["name"]: o["shape"] for o in described["outputs"]} == {"each": [-1, -1], "sum": [-1, 1]}


def test_ranges_are_written_where_they_are_given(tmp_path: Path, manifest: Manifest) -> None:
    examples = {"x": torch.randn(2, 4), "ids": torch.zeros(2, dtype=torch.int64)}
    package = gristmill.export(Pair(), examples, tmp_path, name="pair", ranges={"ids": (0, 99)})
    by_name = {entry["name"]: entry for entry in manifest(package)["inputs"]}
    assert by_name["ids"]["range"] == [0.0, 99.0]
    assert "range" not in by_name["x"]


@pytest.mark.parametrize("range", [(1e-7, 1e30), (float("-inf"), 0.5), (-(2**53), 2**53)])
def test_any_range_is_valid_toml(tmp_path: Path, manifest: Manifest, range: tuple[float, float]) -> None:
    package = gristmill.export(Linear(), inputs(), tmp_path, name="linear", ranges={"x": range})
    assert manifest(package)["inputs"][0]["range"] == list(range)


@pytest.mark.parametrize("name", ["größe", "smile 😀", 'quote " and \\', "tab\tand\nline"])
def test_any_name_is_valid_toml(tmp_path: Path, manifest: Manifest, name: str) -> None:
    package = gristmill.export(Linear(), {name: torch.randn(2, 4)}, tmp_path, name="linear", output_names=[name])
    described = manifest(package)
    assert (described["inputs"][0]["name"], described["outputs"][0]["name"]) == (name, name)


@pytest.mark.parametrize("method", ["script", "trace"])
def test_the_saved_program_gives_the_same_numbers(tmp_path: Path, method: Any) -> None:
    module = Linear()
    package = gristmill.export(module, inputs(), tmp_path, name="linear", method=method)
    program = torch.jit.load(str(package / "model.pt"))
    x = torch.randn(7, 4)
    # The module is in eval mode now: dropout does nothing.
    assert torch.equal(program(x), module(x))


def test_an_existing_version_is_not_touched(tmp_path: Path) -> None:
    package = gristmill.export(Linear(), inputs(), tmp_path, name="linear")
    before = {path.name: path.read_bytes() for path in package.iterdir()}
    with pytest.raises(FileExistsError, match="a version is never changed in place"):
        gristmill.export(Linear(), inputs(), tmp_path, name="linear")
    assert {path.name: path.read_bytes() for path in package.iterdir()} == before
    assert list(package.parent.iterdir()) == [package]


def test_an_existing_version_is_replaced_where_asked(tmp_path: Path, manifest: Manifest) -> None:
    package = gristmill.export(Linear(), inputs(), tmp_path, name="linear")
    before = manifest(package)["sha256"]
    assert gristmill.export(Named(), inputs(), tmp_path, name="linear", overwrite=True) == package
    assert manifest(package)["sha256"] != before
    assert list(package.parent.iterdir()) == [package]


def test_a_dtype_outside_the_contract_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="complex64 is not in contract version 1"):
        gristmill.export(Complex(), inputs(), tmp_path, name="complex")
    assert left_behind(tmp_path) == []


def test_too_few_output_names_are_refused(tmp_path: Path) -> None:
    examples = {"x": torch.randn(2, 4), "ids": torch.zeros(2, dtype=torch.int64)}
    with pytest.raises(ValueError, match="output_names has 1 names, the module returned 2 tensors"):
        gristmill.export(Pair(), examples, tmp_path, name="pair", output_names=["one"])
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("module", [Scalar(), Constant()])
def test_an_output_without_a_row_for_each_row_is_refused(tmp_path: Path, module: Any) -> None:
    with pytest.raises(ValueError, match=r"'output0' .* has not one row for each row of the inputs"):
        gristmill.export(module, inputs(), tmp_path, name="rowless")
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("option", [{"ranges": {"ids": (0, 9)}}, {"dynamic": {"ids": [1]}}])
def test_an_option_for_no_input_is_refused(tmp_path: Path, option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"name \['ids'\], the inputs are \['x'\]"):
        gristmill.export(Linear(), inputs(), tmp_path, name="linear", **option)


def test_a_failing_module_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        gristmill.export(Linear(), {"x": torch.randn(2, 5)}, tmp_path, name="linear")
    assert left_behind(tmp_path) == []


def test_a_failing_write_leaves_no_package_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(program: object, path: str) -> None:
        Path(path).write_bytes(b"half a")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch.jit, "save", save)
    with pytest.raises(OSError, match="no space left"):
        gristmill.export(Linear(), inputs(), tmp_path, name="linear")
    assert left_behind(tmp_path) == [tmp_path / "linear"]


def test_a_package_whose_jobs_share_batches_of_one_length(tmp_path: Path, manifest: Manifest) -> None:
    class Tokens(torch.nn.Module):
        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return (ids * mask).sum(1)

    inputs = {"ids": torch.ones(2, 3, dtype=torch.int64), "mask": torch.ones(2, 3, dtype=torch.bool)}
    options = {"name": "tokens", "dynamic": {"ids": [1], "mask": [1]}, "masks": ["mask"]}
    package = gristmill.export(Tokens(), inputs, tmp_path, **options, pads={"ids": -1}, buckets=[8, 16])
    read = manifest(package)
    assert [entry.get("mask") for entry in read["inputs"]] == [None, True]
    assert (read["inputs"][0]["pad"], read["batching"]["buckets"]) == (-1, [8, 16])
    with pytest.raises(ValueError, match="'maks'"):
        gristmill.export(Tokens(), inputs, tmp_path, **{**options, "version": "2", "masks": ["maks"]})
    with pytest.raises(ValueError, match="length is not in dynamic"):
        gristmill.export(Tokens(), inputs, tmp_path, **{**options, "version": "2", "dynamic": {}})
