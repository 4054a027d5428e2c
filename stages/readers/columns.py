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

from pipeline.rows import PAYLOAD, quarantine_rows
from pipeline.stage import Emit, Task
from stages.readers.records import HEAD, Bad
from stages.readers.rows import Fields, Names, UnfitError, decoded, to_json

NOT_PLAIN = r'["\\\x00-\x1f]'
"""Characters that JSON must escape."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Turns record batches of one source into Emits of `schema`."""

    names: Names
    fields: Fields
    task: Task
    schema: pa.Schema

    def gather(self, parts: Iterable[tuple[int, pa.RecordBatch] | Bad]) -> Iterator[Emit]:
        """An Emit for each (position of the first row, batch); at most `task.limit` records, kept or bad."""
        left = self.task.limit if self.task.limit is not None else 1 << 62
        for part in parts:
            if left <= 0:
                return
            emit = self._fault(part) if isinstance(part, Bad) else self._documents(part[0], part[1].slice(0, left))
            left -= emit.counters["records"]
            yield emit

    def _fault(self, bad: Bad) -> Emit:
        place = f"{self.names.name}:{bad.position}"
        row = (f"{self.names.prefix}{bad.position}", place, bad.reason, bad.detail, bad.head)
        return Emit(quarantine=quarantine_rows([row], self.task), counters={"records": 1, "bytes_lost": bad.lost})

    def _documents(self, first: int, batch: pa.RecordBatch) -> Emit:
        faults: dict[int, tuple[str, str, bytes]] = {}
        positions = pc.cast(pa.array(np.arange(first, first + len(batch))), pa.string())
        source = pc.binary_join_element_wise(self.names.name, positions, ":")
        derived = pc.binary_join_element_wise(self.names.prefix, positions, "")
        page = self._page(batch, faults)
        columns = {
            "id": self._id(batch, derived),
            "text": self._text(batch, page, faults),
            "source": source,
            "url": _strings(_column(batch, self.fields.url), pa.string()),
            "lang": pa.nulls(len(batch), pa.string()),
            "lang_score": pa.nulls(len(batch), pa.float32()),
            "meta": self._meta(batch),
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

    def _page(self, batch: pa.RecordBatch, faults: dict[int, tuple[str, str, bytes]]) -> pa.Array:
        column = _column(batch, self.fields.html)
        if not (_is_text(column.type) or pa.types.is_null(column.type)):
            faults.update(dict.fromkeys(range(len(batch)), ("page_not_string", str(column.type), b"")))
            return pa.nulls(len(batch), PAYLOAD.type)
        pages = column.cast(PAYLOAD.type)
        faults.update(_too_large(pages, self.fields.max_bytes))
        return pages

    def _text(self, batch: pa.RecordBatch, page: pa.Array, faults: dict[int, tuple[str, str, bytes]]) -> pa.Array:
        """The texts, never null: empty where there is a page, or a fault, which is noted."""
        name = self.fields.text
        column = _column(batch, name)
        if _is_text(column.type):
            texts = self._decoded(column.cast(pa.large_binary()), faults)
        else:
            texts = pa.nulls(len(batch), pa.large_string())
        known = name in batch.schema.names
        reason, detail = ("missing_text", f"{name} is null" if known else f"no field {name!r}")
        if not (_is_text(column.type) or pa.types.is_null(column.type)):
            reason, detail = "text_not_string", f"{name} is {column.type}"
        for k in np.flatnonzero(pc.and_(texts.is_null(), page.is_null()).to_numpy(zero_copy_only=False)).tolist():
            faults.setdefault(k, (reason, detail, b""))
        if texts.null_count or page.null_count < len(page):
            texts = pc.if_else(page.is_valid(), "", texts).cast(pa.large_string()).fill_null("")
        return texts

    def _decoded(self, raw: pa.Array, faults: dict[int, tuple[str, str, bytes]]) -> pa.Array:
        """Bytes → text, null where a fault is noted."""
        faults.update(_too_large(raw, self.fields.max_bytes))
        try:
            return raw.cast(pa.large_string())
        except pa.ArrowInvalid:  # some row is not UTF-8: look at each
            texts = [self._one(k, value, faults) for k, value in enumerate(raw.to_pylist())]
            return pa.array(texts, pa.large_string())

    def _one(self, k: int, value: bytes | None, faults: dict[int, tuple[str, str, bytes]]) -> str | None:
        try:
            return None if value is None else decoded(value, self.fields.replace)
        except UnfitError as error:
            faults[k] = (error.reason, error.detail, error.head)
            return None

    def _id(self, batch: pa.RecordBatch, derived: pa.Array) -> pa.Array:
        column = _column(batch, self.fields.id)
        if not (_is_text(column.type) or pa.types.is_integer(column.type)):
            return derived
        own = _strings(column, pa.string())
        return pc.if_else(pc.equal(own, "").fill_null(True), derived, own)

    def _meta(self, batch: pa.RecordBatch) -> pa.Array:
        f = self.fields
        names = [n for n in batch.schema.names if (n not in f.used if f.meta is None else n in f.meta)]
        parts: list[pa.Array | str] = []
        for name in names:
            parts += [f"{',' if parts else '{'}{to_json(name)}:", _json(batch[name])]
        if f.licence is not None and "licence" not in names:
            parts += [f"{',' if parts else '{'}{to_json('licence')}:{to_json(f.licence)}"]
        if not parts or not len(batch):
            return pa.nulls(len(batch), pa.string())
        joined = pc.binary_join_element_wise(*[_wide(part) for part in parts], _wide("}"), _wide(""))
        whole = joined if isinstance(joined, pa.Array) else pa.repeat(joined, len(batch))
        return whole.cast(pa.string())


def _wide(part: pa.Array | str) -> pa.Array | pa.Scalar:
    return pa.scalar(part, pa.large_string()) if isinstance(part, str) else part


def _column(batch: pa.RecordBatch, name: str | None) -> pa.Array:
    """A column by name; nulls where there is none."""
    if name is None or name not in batch.schema.names:
        return pa.nulls(len(batch))
    column = batch[name]
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _is_text(kind: pa.DataType) -> bool:
    t = pa.types
    return bool(
        t.is_string(kind)
        or t.is_large_string(kind)
        or t.is_string_view(kind)
        or t.is_binary(kind)
        or t.is_large_binary(kind)
        or t.is_binary_view(kind)
    )


def _strings(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Text and integers as strings, malformed UTF-8 replaced; anything else becomes null."""
    if pa.types.is_integer(column.type):
        return column.cast(kind)
    if not _is_text(column.type):
        return pa.nulls(len(column), kind)
    raw = column.cast(pa.large_binary())
    try:
        return raw.cast(pa.large_string()).cast(kind)
    except pa.ArrowInvalid:
        return pa.array([None if v is None else v.decode(errors="replace") for v in raw.to_pylist()], kind)


def _json(column: pa.Array) -> pa.Array:
    """A column's values as JSON texts, "null" for null."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    wide = pa.large_string()
    if pa.types.is_integer(kind):
        return column.cast(kind).cast(wide).fill_null("null")
    if pa.types.is_boolean(kind):
        return pc.if_else(column, "true", "false").cast(wide).fill_null("null")
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        strings = _strings(column.cast(kind), wide)
        if not pc.any(pc.match_substring_regex(strings, NOT_PLAIN)).as_py():
            quote = _wide('"')
            return pc.binary_join_element_wise(quote, strings, quote, _wide("")).fill_null("null")
        column = strings
    return pa.array([to_json(value) for value in column.to_pylist()], wide)


def _too_large(values: pa.Array, limit: int) -> dict[int, tuple[str, str, bytes]]:
    sizes = pc.binary_length(values).fill_null(0).to_numpy(zero_copy_only=False)
    return {
        k: ("record_too_large", f"{sizes[k]:,} bytes, the limit is {limit:,}", values[k].as_py()[:HEAD])
        for k in np.flatnonzero(sizes > limit).tolist()
    }
