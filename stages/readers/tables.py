"""Reads Parquet files and `datasets` sources: paths in, (position of the first row, record batch) out.

A row group that cannot be read is one fault, and the next one is read. The one trade-off: batches are sized by the row
group's average row, so a group of unequal rows gives batches of unequal bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from pipeline.stage import Source
from stages.readers.records import Bad
from stages.readers.rows import BATCH_BYTES, BATCH_ROWS, Fields
from stages.readers.streams import Limits

ROWS = 1000
"""Rows of one batch of a `datasets` source."""

Part = tuple[int, pa.RecordBatch] | Bad
FAULTS = (OSError, ValueError, pa.ArrowException)


def read_parquet(source: Source, fields: Fields, limits: Limits) -> Iterator[Part]:
    """The rows of row groups [start, end) of a Parquet file; positions are row numbers in the file."""
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(source.path, pre_buffer=False, buffer_size=1 << 20)
    except FAULTS as error:
        yield Bad(0, "unreadable_parquet", str(error)[:500], lost=source.size)
        return
    with file:
        end = source.end if source.end >= 0 else file.num_row_groups
        first = sum(file.metadata.row_group(g).num_rows for g in range(source.start))
        for group in range(source.start, end):
            yield from _row_group(file, group, first, fields, limits)
            first += file.metadata.row_group(group).num_rows


def _row_group(file: Any, group: int, first: int, fields: Fields, limits: Limits) -> Iterator[Part]:
    about = file.metadata.row_group(group)
    packed = sum(about.column(k).total_compressed_size for k in range(about.num_columns))
    if about.total_byte_size > min(limits.expanded, max(packed * limits.ratio, 16 << 20)):
        detail = f"row group {group} expands to {about.total_byte_size:,} bytes"
        yield Bad(first, "decompression_bomb", detail, lost=packed)
        return
    mean = about.total_byte_size / max(about.num_rows, 1)
    size = int(min(BATCH_ROWS, max(1, BATCH_BYTES // max(mean, 1))))
    known = file.schema_arrow.names
    wanted = None if fields.meta is None else [n for n in known if n in fields.used or n in fields.meta]
    try:
        for batch in file.iter_batches(batch_size=size, row_groups=[group], columns=wanted, use_threads=False):
            yield first, batch
            first += len(batch)
    except FAULTS as error:
        yield Bad(first, "unreadable_row_group", f"row group {group}: {str(error)[:400]}", lost=packed)


def read_saved(path: str) -> Iterator[Part]:
    """The rows of one Arrow file of a dataset that `save_to_disk` wrote; positions are row numbers in the file."""
    import datasets

    first = 0
    try:
        for at, batch in _batches(datasets.Dataset.from_file(path)):
            yield at, batch
            first = at + len(batch)
    except FAULTS as error:
        yield Bad(first, "unreadable_dataset", str(error)[:500])


def read_dataset(name: str, config: str | None, split: str, revision: str | None) -> Iterator[Part]:
    """The rows of a dataset of the Hub, or of a folder that `load_dataset` understands, streamed."""
    import datasets

    yield from _batches(datasets.load_dataset(name, config, split=split, revision=revision, streaming=True))


def _batches(dataset: Any) -> Iterator[tuple[int, pa.RecordBatch]]:
    first = 0
    for table in dataset.with_format("arrow").iter(batch_size=ROWS):
        for batch in table.combine_chunks().to_batches():
            yield first, batch
            first += len(batch)
