"""What rows look like: a document's columns, and those of the rows that tell what became of it.

Every stage's shards begin with `DOCUMENT`; a dropped document is a row of `DROP`, a bad record one of `QUARANTINE`.
Drops carry the whole text, so that nothing is lost: they cost about the disk of what was dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pipeline.stage import Task

DOCUMENT = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("text", pa.large_string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("url", pa.string()),
        pa.field("lang", pa.string()),
        pa.field("lang_score", pa.float32()),
        pa.field("meta", pa.string()),
    ]
)
"""The columns every document has; stages that score add one struct column each."""

PAYLOAD = pa.field("payload", pa.large_binary())
"""Undecoded bytes of a page (HTML), from ingest to extract; null where the document already has its text."""

DROP = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("rule", pa.string(), nullable=False),
        pa.field(
            "broken",
            pa.list_(pa.struct([("rule", pa.string()), ("score", pa.float32()), ("limit", pa.float32())])),
        ),
        pa.field("text", pa.large_string(), nullable=False),
        pa.field("duplicate_of", pa.string()),
        pa.field("similarity", pa.float32()),
    ]
)
"""One row per dropped document; `rule` is the first of `broken`."""

QUARANTINE = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string()),
        pa.field("head", pa.large_binary()),
    ]
)
"""One row per bad record: `reason` is a short slug, `head` the record's first bytes (`HEAD_BYTES` at most)."""

HEAD_BYTES = 4096


def with_field(schema: pa.Schema, new: pa.Field) -> pa.Schema:
    """The schema with a field added at its end, or replaced where one has that name."""
    place = schema.get_field_index(new.name)
    return schema.append(new) if place < 0 else schema.set(place, new)


def with_column(batch: pa.RecordBatch, new: pa.Field, values: pa.Array) -> pa.RecordBatch:
    """The batch with a column added at its end, or replaced where one has that name."""
    place = batch.schema.get_field_index(new.name)
    columns = list(batch.columns)
    columns[place if place >= 0 else len(columns) :] = [values] if place < 0 else [values, *columns[place + 1 :]]
    return pa.RecordBatch.from_arrays(columns, schema=with_field(batch.schema, new))


def drop_rows(
    batch: pa.RecordBatch,
    task: Task,
    rule: Sequence[str] | pa.Array,
    broken: Sequence[Sequence[Mapping[str, Any]]] | pa.Array | None = None,
    duplicate_of: Sequence[str | None] | None = None,
    similarity: Sequence[float | None] | None = None,
) -> pa.RecordBatch:
    """Documents that are to be dropped → a `DROP` batch."""
    n = len(batch)
    columns = {
        "id": batch["id"],
        "source": batch["source"],
        "stage": pa.array([task.stage] * n, pa.string()),
        "rule": rule if isinstance(rule, pa.Array) else pa.array(rule, pa.string()),
        "broken": broken if isinstance(broken, pa.Array) else pa.array(broken or [[]] * n, DROP.field("broken").type),
        "text": batch["text"],
        "duplicate_of": pa.array(duplicate_of if duplicate_of is not None else [None] * n, pa.string()),
        "similarity": pa.array(similarity if similarity is not None else [None] * n, pa.float32()),
    }
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=DROP)


def quarantine_rows(records: Iterable[tuple[str, str, str, str, bytes]], task: Task) -> pa.RecordBatch:
    """(id, source, reason, detail, bytes) of bad records → a `QUARANTINE` batch."""
    rows = [(i, s, task.stage, reason, detail, data[:HEAD_BYTES]) for i, s, reason, detail, data in records]
    columns = [[row[k] for row in rows] for k in range(len(QUARANTINE))]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, QUARANTINE, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=QUARANTINE)


def text_array(data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> pa.Array:
    """Bytes of valid UTF-8 and n + 1 offsets that start at 0 → a large_string array of n texts, without a copy."""
    return pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(data))
