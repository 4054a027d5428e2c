"""Parquet files → records, row group by row group; a row group that cannot be read is one bad record, the rest go on.

Memory is one row group of the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from stages.readers import Bad, Good, Record

UNREADABLE = (pa.ArrowException, OSError, ValueError)


def parquet_pieces(path: Path, size: int) -> list[tuple[int, int]]:
    """Ranges of row groups of about `size` stored bytes; one whole range for a file whose footer cannot be read."""
    try:
        meta = pq.read_metadata(path)
    except UNREADABLE:
        return [(0, -1)]
    edges, total = [0], 0
    for group in range(meta.num_row_groups):
        total += meta.row_group(group).total_byte_size
        if total >= size and group + 1 < meta.num_row_groups:
            edges.append(group + 1)
            total = 0
    return list(zip(edges, [*edges[1:], -1], strict=True))


def parquet_records(path: Path, start: int, end: int) -> Iterator[Record]:
    """The rows of row groups [start, end); position is the row's number in the file."""
    try:
        file = pq.ParquetFile(path)
    except UNREADABLE as error:
        yield Bad(str(start), "invalid_parquet", str(error)[:500])
        return
    with file:
        row = sum(file.metadata.row_group(g).num_rows for g in range(start))
        for group in range(start, file.num_row_groups if end < 0 else end):
            try:
                table = file.read_row_group(group, use_threads=False)
                table.validate(full=True)
                values = table.to_pylist()
            except UNREADABLE as error:
                yield Bad(f"row-group-{group}", "invalid_parquet", str(error)[:500])
                values = []
            for k, value in enumerate(values):
                yield Good(str(row + k), value)
            row += file.metadata.row_group(group).num_rows
