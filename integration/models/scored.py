"""Compares what the scorer wrote with PyTorch's own answers, by a reader of Parquet that is not ours.

    python integration/models/scored.py target/models/rows/mlp.parquet scored.parquet

The first file is the input, with `expected` beside the rows or PyTorch's samples beside the file. Fails with what
differs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq


def main() -> None:
    source, scored = Path(sys.argv[1]), pq.read_table(sys.argv[2])
    given = pq.read_table(source)
    times = len(scored) // len(given)
    assert len(scored) == times * len(given), f"{len(given)} rows in, {len(scored)} out"
    if "expected" in given.column_names:
        expected = given["expected"].to_numpy()
        assert (scored["digit"].to_numpy() == expected).all(), "digits differ from PyTorch's"
        assert [str(label) for label in scored["label"].to_pylist()] == [
            str(label) for label in given["label"].to_pylist()
        ]
        print(f"accuracy {(expected == given['label'].to_numpy()).mean():.4f}, as PyTorch's")
        return
    y = np.fromfile(source.parent.parent / "samples" / "y.f32", np.float32).reshape(len(given), -1)
    got = np.concatenate([chunk.flatten().to_numpy() for chunk in scored["y"].chunks]).reshape(-1, y.shape[1])
    assert (scored["id"].to_numpy() == np.tile(given["id"].to_numpy(), times)).all(), "rows are not in order"
    worst = np.abs(got - np.tile(y, (times, 1))).max()
    assert worst < 1e-5, f"outputs differ from PyTorch's by {worst}"
    print(f"{len(scored)} rows, at most {worst:.1e} from PyTorch's")


if __name__ == "__main__":
    main()
