"""Writing model packages from torch modules."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ._names import token

if TYPE_CHECKING:
    import torch

FILE = "model.pt"


def export(
    module: torch.nn.Module,
    example_inputs: Mapping[str, torch.Tensor],
    directory: str | os.PathLike[str],
    *,
    name: str,
    version: str = "1",
    output_names: Sequence[str] | None = None,
    dynamic: Mapping[str, Sequence[int]] | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    masks: Sequence[str] = (),
    pads: Mapping[str, float] | None = None,
    buckets: Sequence[int] = (),
    method: Literal["script", "trace"] = "script",
    max_rows: int = 64,
    max_padded_elements: int | None = None,
    max_delay_ms: int = 0,
    knee: bool = True,
    target_ms: int = 200,
    overwrite: bool = False,
) -> Path:
    """Write `<directory>/<name>/<version>` with `model.pt` and `model.toml`; returns that path.

    `example_inputs` are the arguments of `forward`, in its order, by the names jobs use; their first dimension is the
    row count. `dynamic` lists, by input, further dimensions that are free. `ranges` gives the values an input may have:
    whatever the model indexes with belongs there, since an index out of range can kill a worker. A dict result names
    its outputs itself; `output_names` does it for a tensor or tuple, which else become `output0`, `output1`, ...

    `masks` names inputs of shape rows x length that are 1 where the others hold data and 0 where they are filled up.
    With one, or with `buckets`, jobs of different lengths share a batch: each input with a free dimension is filled up
    along it with its value of `pads` (default 0), to the length of the longest job of the batch or to the next of
    `buckets`; outputs are cut back; and jobs may leave the mask out. So all inputs with a free dimension have one
    length in a job.

    A worker learns from its runs where larger batches yield no more rows a second, and ends batches there; with
    `knee=False` they end at `max_rows` and `max_padded_elements` alone. `target_ms` is how soon a worker that has an
    online job is to answer it: while some come, bulk jobs share no run that takes longer than a quarter of that (0: no
    limit).

    The module is put into eval mode, compiled with `torch.jit.script` (or traced), frozen, and run with other row
    counts and sizes to learn which dimensions of its outputs are free. The package appears whole or not at all.
    """
    import torch

    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module is a {type(module).__name__}, not a torch.nn.Module")
    for key, example in example_inputs.items():
        if not isinstance(example, torch.Tensor):
            raise TypeError(f"example_inputs[{key!r}] is a {type(example).__name__}, not a torch.Tensor")
    module = module.eval().cpu()
    examples = tuple(tensor.detach().cpu().contiguous() for tensor in example_inputs.values())
    if unknown := {*(dynamic or {}), *(ranges or {}), *masks, *(pads or {})} - {*example_inputs}:
        # A misspelt range would be no range.
        what = "dynamic, ranges, masks or pads"
        raise ValueError(f"{what} name {sorted(unknown)}, the inputs are {list(example_inputs)}")
    if fixed := {*masks} - {*(dynamic or {})}:
        raise ValueError(f"masks name {sorted(fixed)}, whose length is not in dynamic")
    free = {key: {0, *dims} for key, dims in (dynamic or {}).items()}
    free = {key: free.get(key, {0}) for key in example_inputs}
    with torch.no_grad():
        compiled = torch.jit.script(module) if method == "script" else torch.jit.trace(module, examples, strict=False)
        program = torch.jit.freeze(compiled)
        small = _named(program(*examples), output_names)
        grown = tuple(_grow(tensor, free[key]) for key, tensor in zip(example_inputs, examples, strict=True))
        large = _named(program(*grown), output_names)

    target = Path(directory) / token(name, "name") / token(version, "version")
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists; a version is never changed in place (overwrite=True replaces it)")
    tables = []
    for key, tensor in zip(example_inputs, examples, strict=True):
        shape = [-1 if dim in free[key] else size for dim, size in enumerate(tensor.shape)]
        tables += _table("inputs", key, tensor, shape)
        tables.append(f"example_shape = {[1, *tensor.shape[1:]]}")
        if ranges and key in ranges:
            low, high = ranges[key]
            tables.append(f"range = [{float(low)}, {float(high)}]")
        if key in masks:
            tables.append("mask = true")
        if pads and key in pads:
            tables.append(f"pad = {float(pads[key])}")
    rows = examples[0].shape[0]
    for key, tensor in small.items():
        if tensor.shape[:1] != (rows,) or large[key].shape[:1] != (rows + 1,):
            raise ValueError(f"output {key!r} of shape {list(tensor.shape)} has not one row for each row of the inputs")
        shape = [-1 if other != size else size for size, other in zip(tensor.shape, large[key].shape, strict=True)]
        tables += _table("outputs", key, tensor, shape)

    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{version}-"))
    try:
        torch.jit.save(program, str(scratch / FILE))
        digest = hashlib.sha256((scratch / FILE).read_bytes()).hexdigest()
        lines = [
            f"name = {_quote(name)}",
            f"version = {_quote(version)}",
            'format = "torchscript"',
            f"file = {_quote(FILE)}",
            f"sha256 = {_quote(digest)}",
        ]
        lines += [*tables, "", "[batching]", f"max_rows = {max_rows}", f"max_delay_ms = {max_delay_ms}"]
        if max_padded_elements is not None:
            lines.append(f"max_padded_elements = {max_padded_elements}")
        if not knee:
            lines.append("knee = false")
        if target_ms != 200:
            lines.append(f"target_ms = {target_ms}")
        if buckets:
            lines.append(f"buckets = {[int(bucket) for bucket in buckets]}")
        (scratch / "model.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
        scratch.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _named(result: Any, names: Sequence[str] | None) -> dict[str, torch.Tensor]:
    if isinstance(result, dict):
        return result
    values = list(result) if isinstance(result, (tuple, list)) else [result]
    names = names or [f"output{i}" for i in range(len(values))]
    if len(names) != len(values):
        raise ValueError(f"output_names has {len(names)} names, the module returned {len(values)} tensors")
    return dict(zip(names, values, strict=True))


def _grow(tensor: torch.Tensor, dims: set[int]) -> torch.Tensor:
    """One more of every free dimension, by repeating the last."""
    import torch

    for dim in sorted(dims):
        tensor = torch.cat([tensor, tensor.narrow(dim, tensor.shape[dim] - 1, 1)], dim)
    return tensor


def _table(side: str, name: str, tensor: torch.Tensor, shape: list[int]) -> list[str]:
    lines = ["", f"[[{side}]]", f"name = {_quote(name)}", f"datatype = {_quote(_datatype(tensor))}"]
    return [*lines, f"shape = {shape}"]


def _quote(text: str) -> str:
    # A JSON string is a TOML basic string, but for surrogate pairs.
    return json.dumps(text, ensure_ascii=False)


def _datatype(tensor: torch.Tensor) -> str:
    import torch

    names = {
        torch.bool: "BOOL",
        torch.uint8: "UINT8",
        torch.int8: "INT8",
        torch.int16: "INT16",
        torch.int32: "INT32",
        torch.int64: "INT64",
        torch.float16: "FP16",
        torch.bfloat16: "BF16",
        torch.float32: "FP32",
        torch.float64: "FP64",
    }
    if tensor.dtype not in names:
        raise ValueError(f"{tensor.dtype} is not in contract version 1")
    return names[tensor.dtype]
