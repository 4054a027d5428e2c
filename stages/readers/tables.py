"""Reads Parquet files and `datasets` sources: paths in, (position of the first row, record batch) out.

Rows that cannot be read are told by number, and the row group after them is read. A batch is bounded by what its
columns stand for, not by how they are stored. The one trade-off: each batch is measured before it is handed on.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.stage import Source
from stages.readers.layouts import opened, row_sizes
from stages.readers.row_groups import Plan, plan
from stages.readers.rows import BATCH_BYTES, Fields
from stages.readers.streams import RATIO_FROM, Broken, Limits
from stages.readers.times import widest

ROWS = 1000
"""Rows of one batch of a `datasets` source."""

ROW_BYTES = 64
"""What a row costs beside its values: its id and its source."""

DECODED_FROM = 4 << 30
"""Decoded bytes of one file below which no ratio counts as a bomb: values that repeat take hardly any bytes there."""


class Lost(NamedTuple):
    """Rows [first, first + rows) of a source that cannot be read: a short slug, and what is wrong."""

    first: int
    rows: int
    reason: str
    detail: str


OPEN: dict[str, Any] = {"pre_buffer": False, "buffer_size": 1 << 20}
"""How a Parquet file is opened: no more of it is held than is being decoded."""

PIECE_BYTES = 2 * BATCH_BYTES
"""What the rows of a batch stand for at most, if it has more than one."""

Part = tuple[int, pa.RecordBatch] | Lost
FAULTS = (OSError, ValueError, RecursionError, pa.ArrowException)


def read_parquet(source: Source, fields: Fields, limits: Limits) -> Iterator[Part]:
    """The rows of row groups [start, end) of a Parquet file; positions are row numbers in the file."""
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(source.path, **OPEN)
        names = file.schema_arrow.names
    except FAULTS as error:
        yield Lost(0, 1, "unreadable_parquet", _said(error))
        return
    with file:
        end = source.end if source.end >= 0 else file.num_row_groups
        ends = np.cumsum([0] + [max(file.metadata.row_group(g).num_rows, 0) for g in range(end)]).tolist()
        at, last = ends[source.start], ends[-1]
        if name := ambiguous(names, fields):
            yield Lost(at, last - at, "ambiguous_field", f"several columns are named {name!r}")
            return
        pieces = _Pieces(limits, os.path.getsize(source.path))
        for group in range(source.start, end):
            try:
                for position, batch in pieces.cut(at, _row_group(file, source.path, group, fields, limits)):
                    yield position, batch
                    at = position + len(batch)
                lost = Lost(at, ends[group + 1] - at, "missing_rows", f"row group {group} holds fewer rows than told")
            except Broken as error:
                yield _rows(Lost(at, last - at, error.reason, error.detail))
                return
            except FAULTS as error:
                detail = f"row group {group}: {_said(error)[:400]}"
                lost = Lost(at, ends[group + 1] - at, "unreadable_row_group", detail)
            if lost.rows:
                yield _rows(lost)
            at = ends[group + 1]


def _row_group(file: Any, path: str, group: int, fields: Fields, limits: Limits) -> Iterator[pa.RecordBatch]:
    """Batches of a row group; raises `Broken` where its own sizes tell a bomb."""
    import pyarrow.parquet as pq

    about = file.metadata.row_group(group)
    packed = min(sum(about.column(k).total_compressed_size for k in range(about.num_columns)), os.path.getsize(path))
    known = file.schema_arrow.names
    wanted = None if fields.meta is None else [n for n in known if n in fields.used or n in fields.meta]
    if about.total_byte_size > min(limits.expanded, max(packed * limits.ratio, RATIO_FROM)):
        raise Broken("decompression_bomb", f"row group {group} expands to {about.total_byte_size:,} bytes")
    how = plan(file, path, group, wanted)
    if how.fixed > min(limits.expanded, max(packed * limits.ratio, DECODED_FROM)):
        raise Broken("decompression_bomb", f"row group {group} decodes to {how.fixed:,} bytes")
    options = {"batch_size": how.step, "row_groups": [group], "columns": wanted, "use_threads": False}
    with ExitStack() as stack:
        if how.encoded:
            file = stack.enter_context(pq.ParquetFile(path, read_dictionary=how.encoded, **OPEN))
        batches = file.iter_batches(**options)
        if how.int96:
            coarse = stack.enter_context(pq.ParquetFile(path, coerce_int96_timestamp_unit="us", **OPEN))
            batches = _far(batches, coarse.iter_batches(**options | {"columns": how.int96}), how.int96)
        yield from batches if how.encoded else _joined(batches, how)


def _far(
    batches: Iterable[pa.RecordBatch], coarse: Iterable[pa.RecordBatch], names: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """Batches in whose INT96 times pyarrow lets years beyond 1677 to 2262 wrap around, with these years put right."""
    for batch, other in zip(batches, coarse, strict=True):
        found = batch
        for name in names:
            found = found.set_column(found.schema.get_field_index(name), name, widest(found[name], other[name]))
        yield found


def _joined(batches: Iterable[pa.RecordBatch], how: Plan) -> Iterator[pa.RecordBatch]:
    """Batches of about `how.rows` rows or `BATCH_BYTES`, of batches decoded in smaller steps."""
    if how.step == how.rows:
        yield from batches
        return
    held: list[pa.RecordBatch] = []
    for batch in batches:
        columns = [opened(column) for column in batch.columns]
        plain = pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
        rows, size = sum(map(len, held)) + len(plain), sum(part.nbytes for part in held) + plain.nbytes
        if held and (rows > how.rows or size > BATCH_BYTES):
            yield _one(held)
            held = []
        held.append(plain)
    if held:
        yield _one(held)


def _one(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    return pa.concat_batches(batches) if len(batches) > 1 else batches[0]


class _Pieces:
    """Cuts batches by what their rows stand for, and counts it: what is over the limits of one file is a bomb."""

    def __init__(self, limits: Limits, stored: int) -> None:
        self.most = min(limits.expanded, max(stored * limits.ratio, DECODED_FROM))
        self.total = 0

    def cut(self, at: int, batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, pa.RecordBatch]]:
        """(Position of the first row, rows) of pieces of at most `PIECE_BYTES`, or of one row; raises `Broken`."""
        for batch in batches:
            ends = np.cumsum(row_sizes(batch.schema.names, batch.columns, len(batch)) + ROW_BYTES)
            start = begun = 0
            while start < len(batch):
                stop = len(batch)
                if ends[-1] - begun > PIECE_BYTES:
                    stop = max(start + 1, int(np.searchsorted(ends, begun + BATCH_BYTES)))
                self.total += int(ends[stop - 1]) - begun
                if self.total > self.most:
                    raise Broken("decompression_bomb", f"decodes to over {self.most:,.0f} bytes")
                yield at + start, batch.slice(start, stop - start)
                start, begun = stop, int(ends[stop - 1])
            at += len(batch)


def read_saved(path: str, fields: Fields, limits: Limits) -> Iterator[Part]:
    """The rows of one Arrow file of a dataset that `save_to_disk` wrote; positions are row numbers in the file."""
    at = 0
    try:
        with pa.memory_map(path) as file, pa.ipc.open_stream(file) as reader:
            if name := ambiguous(reader.schema.names, fields):
                yield Lost(0, 1, "ambiguous_field", f"several columns are named {name!r}: nothing is read")
                return
            for position, batch in _Pieces(limits, os.path.getsize(path)).cut(0, map(_checked, reader)):
                yield position, batch
                at = position + len(batch)
    except Broken as error:
        yield Lost(at, 1, error.reason, f"{error.detail}; nothing is read from row {at} on")
    except FAULTS as error:
        yield Lost(at, 1, "unreadable_dataset", f"{_said(error)}; nothing is read from row {at} on")


def _checked(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A batch whose offsets and indices lie within its buffers, else pa.ArrowInvalid; strings may still be no UTF-8."""
    for column in batch.columns:
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            if "UTF8" not in str(error):
                raise
    return batch


def read_dataset(
    name: str, config: str | None, split: str, revision: str | None, fields: Fields, limits: Limits
) -> Iterator[Part]:
    """The rows of a dataset of the Hub, or of a folder that `load_dataset` understands, streamed."""
    import datasets

    at = 0
    data = datasets.load_dataset(name, config, split=split, revision=revision, streaming=True)
    tables = data.with_format("arrow").iter(batch_size=ROWS)
    batches = (batch for table in tables for batch in table.combine_chunks().to_batches())
    try:
        for position, batch in _Pieces(limits, limits.expanded).cut(0, batches):
            yield position, batch
            at = position + len(batch)
    except Broken as error:
        yield Lost(at, 1, error.reason, f"{error.detail}; nothing is read from row {at} on")
    except (ValueError, pa.ArrowException) as error:  # an OSError may be the network's
        yield Lost(at, 1, "unreadable_dataset", f"{_said(error)}; nothing is read from row {at} on")


def ambiguous(names: Sequence[str], fields: Fields) -> str | None:
    """The field of the text, the page or the id that more than one column is named by, if any."""
    wanted = (fields.text, fields.html, fields.id)
    return next((name for name in wanted if name is not None and names.count(name) > 1), None)


def _rows(lost: Lost) -> Lost:
    """Says which rows."""
    return lost._replace(detail=f"{lost.detail} (rows {lost.first:,} to {lost.first + lost.rows - 1:,} are lost)")


def _said(error: Exception) -> str:
    """What is wrong with the data; raises the error again where it is the machine's: no memory, or an errno."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) is not None:
        raise error
    return str(error)[:500]
