"""The same rows without a queue: read Parquet, run the model in the best batches, write Parquet.

    python integration/bench/python/score_loop.py model.pt in.parquet out.parquet

What bulk scoring is held against. Reading and writing have a thread each, as the scorer has. Prints rows, seconds and
rows a second as JSON.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
import time

import pyarrow as pa
import pyarrow.parquet as pq
import torch

BATCH = 65_536
"""Rows at once: of 256 to 262,144 the fastest for a model this small."""


def read(path: str, out: queue.Queue) -> None:
    for batch in pq.ParquetFile(path).iter_batches(BATCH):
        out.put(batch)
    out.put(None)


def write(path: str, batches: queue.Queue) -> None:
    writer = None
    while (table := batches.get()) is not None:
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer:
        writer.close()


def main() -> None:
    model, source, target = sys.argv[1:4]
    torch.set_num_threads(int(sys.argv[4]) if len(sys.argv) > 4 else 2)
    module = torch.jit.freeze(torch.jit.load(model).eval())
    began, rows = time.perf_counter(), 0
    waiting: queue.Queue = queue.Queue(2)
    done: queue.Queue = queue.Queue(2)
    threads = [
        threading.Thread(target=read, args=(source, waiting)),
        threading.Thread(target=write, args=(target, done)),
    ]
    for thread in threads:
        thread.start()
    with torch.inference_mode():
        while (batch := waiting.get()) is not None:
            x = torch.frombuffer(batch.column("x").flatten().buffers()[1], dtype=torch.float32)
            y = module(x.reshape(-1, 64)[: batch.num_rows]).numpy()
            scores = pa.FixedSizeListArray.from_arrays(pa.array(y.ravel()), y.shape[1])
            done.put(pa.table({"id": batch.column("id"), "y": scores}))
            rows += batch.num_rows
    done.put(None)
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    print(json.dumps({"rows": rows, "seconds": seconds, "rows_per_second": rows / seconds}))


if __name__ == "__main__":
    main()
