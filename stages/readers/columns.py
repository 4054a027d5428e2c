"""Makes documents of what is columnar already: a record batch in, the same rows as documents out.

Whole columns are renamed, joined and checked by Arrow; a Python object is made only for a bad row, and for a value of
`meta` that Arrow cannot write as JSON. The one trade-off: text is checked twice for UTF-8 (here, and never by Parquet's
own reader), at over 1 GB/s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.rows import PAYLOAD, quarantine_rows
from pipeline.stage import Emit, Task
from stages.readers.layouts import is_text, opened, row_sizes
from stages.readers.records import HEAD
from stages.readers.rows import BATCH_ROWS, Fields, Names, UnfitError, decoded, to_json
from stages.readers.tables import PIECE_BYTES, Lost, Part
from stages.readers.values import UNFIT, careful, objects, repeated

LOST_ROWS = 1 << 20
"""Rows of one fault that are quarantined one by one; a footer may claim any number."""

Faults = dict[int, tuple[str, str, bytes]]
"""Row of a batch → slug, sentence, first bytes."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Turns record batches of one source into Emits of `schema`."""

    names: Names
    fields: Fields
    task: Task
    schema: pa.Schema

    def gather(self, parts: Iterable[Part]) -> Iterator[Emit]:
        """An Emit for each (position of the first row, batch); at most `task.limit` records, kept or bad."""
        left = self.task.limit if self.task.limit is not None else 1 << 62
        for part in parts:
            if left <= 0:
                return
            emits = self._lost(part, left) if isinstance(part, Lost) else self._safely(part[0], part[1].slice(0, left))
            for emit in emits:
                left -= emit.counters["records"]
                yield emit

    def _lost(self, lost: Lost, left: int) -> Iterator[Emit]:
        """Rows that could not be read, each of them bad."""
        listed = min(lost.rows, LOST_ROWS)
        more = f"; {lost.rows - listed:,} more are lost than are listed" if lost.rows > listed else ""
        for start in range(0, min(listed, left), BATCH_ROWS):
            stop = min(start + BATCH_ROWS, listed, left)
            yield self._bad([(lost.first + k, lost.reason, lost.detail + more, b"") for k in range(start, stop)])

    def _bad(self, rows: list[tuple[int, str, str, bytes]]) -> Emit:
        prefix, name = self.names.prefix, self.names.name
        bad = [(f"{prefix}{row[0]}", f"{name}:{row[0]}", *row[1:]) for row in rows]
        return Emit(quarantine=quarantine_rows(bad, self.task), counters={"records": len(rows)})

    def _safely(self, first: int, batch: pa.RecordBatch) -> list[Emit]:
        """The documents of a batch; halved again and again where some row of it breaks a library."""
        try:
            return [self._documents(first, batch)]
        except MemoryError:
            raise
        except UNFIT as error:
            if len(batch) == 1:
                return [self._bad([(first, *_reason(error), b"")])]
        half = len(batch) // 2
        return self._safely(first, batch.slice(0, half)) + self._safely(first + half, batch.slice(half))

    def _documents(self, first: int, batch: pa.RecordBatch) -> Emit:
        faults: Faults = {}
        positions = pc.cast(pa.array(np.arange(first, first + len(batch))), pa.string())
        source = pc.binary_join_element_wise(self.names.name, positions, ":")
        derived = pc.binary_join_element_wise(self.names.prefix, positions, "")
        page = self._page(batch, faults)
        columns = {
            "id": self._id(batch, derived, faults),
            "text": self._text(batch, page, faults),
            "source": source,
            "url": self._strings(batch, self.fields.url, faults),
            "lang": pa.nulls(len(batch), pa.string()),
            "lang_score": pa.nulls(len(batch), pa.float32()),
            "meta": self._meta(batch, faults),
            PAYLOAD.name: page,
        }
        arrays = [columns[name] for name in self.schema.names]
        kept = np.ones(len(batch), np.bool_)
        kept[list(faults)] = False
        chosen = [array if kept.all() else array.filter(pa.array(kept)) for array in arrays]
        bad = [(derived[k].as_py(), source[k].as_py(), *faults[k]) for k in sorted(faults)]
        return Emit(
            rows=pa.RecordBatch.from_arrays(chosen, schema=self.schema),
            quarantine=quarantine_rows(bad, self.task) if bad else None,
            counters={"records": len(batch)},
        )

    def _page(self, batch: pa.RecordBatch, faults: Faults) -> pa.Array:
        column = _column(batch, self.fields.html)
        if not (is_text(column.type) or pa.types.is_null(column.type)):
            faults.update(dict.fromkeys(range(len(batch)), ("page_not_string", str(column.type)[:HEAD], b"")))
            return pa.nulls(len(batch), PAYLOAD.type)
        pages = column.cast(PAYLOAD.type)
        faults.update(_too_large(pages, self.fields.max_bytes))
        return pages

    def _text(self, batch: pa.RecordBatch, page: pa.Array, faults: Faults) -> pa.Array:
        """The texts, never null: empty where there is a page, or a fault, which is noted."""
        name = self.fields.text
        column = _column(batch, name)
        if is_text(column.type):
            raw = column.cast(pa.large_binary())
            faults.update(_too_large(raw, self.fields.max_bytes))
            texts = self._decoded(raw, "", faults)
        else:
            texts = pa.nulls(len(batch), pa.large_string())
        known = name in batch.schema.names
        reason, detail = ("missing_text", f"{name} is null" if known else f"no field {name!r}")
        if not (is_text(column.type) or pa.types.is_null(column.type)):
            reason, detail = "text_not_string", f"{name} is {column.type}"[:HEAD]
        for k in np.flatnonzero(pc.and_(texts.is_null(), page.is_null()).to_numpy(zero_copy_only=False)).tolist():
            faults.setdefault(k, (reason, detail, b""))
        if texts.null_count or page.null_count < len(page):
            texts = pc.if_else(page.is_valid(), "", texts).cast(pa.large_string()).fill_null("")
        return texts

    def _decoded(self, raw: pa.Array, what: str, faults: Faults) -> pa.Array:
        """Bytes → text, null where a fault is noted."""
        try:
            return raw.cast(pa.large_string())
        except pa.ArrowInvalid:  # some row is not UTF-8: look at each
            texts = [self._one(k, value, what, faults) for k, value in enumerate(raw.to_pylist())]
            return pa.array(texts, pa.large_string())

    def _one(self, k: int, value: bytes | None, what: str, faults: Faults) -> str | None:
        try:
            return None if value is None else decoded(value, self.fields.replace)
        except UnfitError as error:
            faults.setdefault(k, (error.reason, what + error.detail, error.head))
            return None

    def _strings(self, batch: pa.RecordBatch, name: str | None, faults: Faults) -> pa.Array:
        """Text, integers and UUIDs of a column as strings; anything else becomes null."""
        column = _column(batch, name)
        kind = column.type
        if pa.types.is_integer(kind) or (pa.types.is_decimal(kind) and kind.scale == 0):
            return column.cast(pa.string())
        if isinstance(kind, pa.UuidType):
            return pa.array([None if value is None else str(value) for value in column.to_pylist()], pa.string())
        if not is_text(kind):
            return pa.nulls(len(column), pa.string())
        return self._decoded(column.cast(pa.large_binary()), f"{name}: ", faults).cast(pa.string())

    def _id(self, batch: pa.RecordBatch, derived: pa.Array, faults: Faults) -> pa.Array:
        own = self._strings(batch, self.fields.id, faults)
        return derived if own.null_count == len(own) else pc.if_else(pc.equal(own, "").fill_null(True), derived, own)

    def _meta(self, batch: pa.RecordBatch, faults: Faults) -> pa.Array:
        """JSON of the fields that have no column of their own; null where there is none, or a fault, which is noted."""
        f, known = self.fields, batch.schema.names
        used = {name for name in f.used if known.count(name) == 1}
        places = [k for k, name in enumerate(known) if (name not in used if f.meta is None else name in f.meta)]
        names, columns = [known[k] for k in places], [batch.column(k) for k in places]
        fits = self._fits(names, columns, len(batch), faults)
        fit = np.flatnonzero(fits)
        if len(fit) < len(batch):
            columns = [column.take(pa.array(fit)) for column in columns] if len(fit) else []
        found = [self._json(name, column, fit, faults) for name, column in zip(names, columns, strict=bool(len(fit)))]
        if f.licence is not None and "licence" not in names:
            names, found = [*names, "licence"], [*found, repeated(to_json(f.licence), len(fit))]
        if not names or not len(fit):
            return pa.nulls(len(batch), pa.string())
        whole = objects(names, found).cast(pa.string())
        if len(fit) == len(batch):
            return whole
        return whole.take(pa.array(np.cumsum(fits) - 1, mask=~fits))

    def _fits(self, names: list[str], columns: list[pa.Array], rows: int, faults: Faults) -> NDArray[np.bool_]:
        """Which rows have no more of these columns than a record may have; a fault is noted of the others."""
        limit = self.fields.max_bytes
        if rows != 1 and limit >= PIECE_BYTES:
            return np.ones(rows, np.bool_)
        size = row_sizes(names, columns, rows)
        for k in np.flatnonzero(size > limit).tolist():
            faults.setdefault(k, ("record_too_large", f"meta of about {size[k]:,} bytes, the limit is {limit:,}", b""))
        return size <= limit

    def _json(self, name: str, column: pa.Array, rows: NDArray[np.int64], faults: Faults) -> pa.Array:
        """JSON texts of a column that has these rows of the batch; a fault is noted of each that has none."""

        def note(k: int, error: Exception) -> None:
            reason, detail = _reason(error)
            faults.setdefault(int(rows[k]), (reason, f"{name}: {detail}"[:HEAD], b""))

        return careful(column, self.fields.replace, note)


def _reason(error: Exception) -> tuple[str, str]:
    """Slug and sentence of what a row broke."""
    if isinstance(error, UnfitError):
        return error.reason, error.detail
    return "unfit_value", f"{type(error).__name__}: {error}"[:500]


def _column(batch: pa.RecordBatch, name: str | None) -> pa.Array:
    """A column by name, as what it stands for; nulls where there is none, or more than one."""
    place = -1 if name is None else batch.schema.get_field_index(name)
    return pa.nulls(len(batch)) if place < 0 else opened(batch.column(place))


def _too_large(values: pa.Array, limit: int) -> Faults:
    sizes = pc.binary_length(values).fill_null(0).to_numpy(zero_copy_only=False)
    return {
        k: ("record_too_large", f"{sizes[k]:,} bytes, the limit is {limit:,}", values[k].as_py()[:HEAD])
        for k in np.flatnonzero(sizes > limit).tolist()
    }
