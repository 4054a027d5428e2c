"""Makes documents of records, one by one, and gathers them into batches.

Reads the items of a reader, writes `DOCUMENT` rows (and `payload`, where the schema has it) and `QUARANTINE` rows. The
one trade-off: a Python dict for each record, so that each may fail by itself; what is columnar goes by `columns`.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import xxhash

from pipeline.rows import PAYLOAD, quarantine_rows
from pipeline.stage import Emit, Task
from stages.readers.records import HEAD, Bad, Item, Passed, Record

BATCH_BYTES = 8 << 20
"""All columns of one batch together, roughly: the record that passes it is the batch's last."""

BATCH_ROWS = 65_536
"""Rows of one batch at most."""

DEPTH = 254
"""Levels of lists and dicts in a record's `meta`: as many as orjson writes."""

SURROGATE = re.compile("[\ud800-\udfff]")
HALF_PAIR = "half a surrogate pair, which no UTF-8 can hold"


@dataclass(frozen=True, slots=True)
class Fields:
    """Where in a record a document's columns are; None: nowhere.

    meta: the fields that go to `meta`, None for all the others. licence: put into `meta` where the record has none
    of its own. replace: malformed UTF-8 becomes U+FFFD, else the record is bad. max_bytes: of one text or page.
    """

    text: str = "text"
    id: str | None = None
    url: str | None = None
    html: str | None = None
    meta: tuple[str, ...] | None = None
    licence: str | None = None
    replace: bool = False
    max_bytes: int = 64 << 20

    @property
    def used(self) -> frozenset[str]:
        """The fields that become columns of their own."""
        return frozenset(name for name in (self.text, self.id, self.url, self.html) if name is not None)


@dataclass(frozen=True, slots=True)
class Names:
    """How one source's records are called: `source` is "name:position", a derived id "<xxh3_64 of name>-<position>".

    Two positions of one name never share an id, and two names share a hash by chance of 2^-64.
    """

    name: str

    @property
    def prefix(self) -> str:
        """What every derived id of this source begins with."""
        return f"{xxhash.xxh3_64_hexdigest(self.name.encode())}-"

    def own(self, value: object) -> str | None:
        """A record's own id as a string: a non-empty string as it is, an integer in decimal, else None."""
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return value if isinstance(value, str) and value else None


class UnfitError(ValueError):
    """A record that has no usable text: `reason` is a short slug."""

    def __init__(self, reason: str, detail: str, head: bytes = b"") -> None:
        """Takes the slug, the sentence and the record's first bytes."""
        super().__init__(detail)
        self.reason, self.detail, self.head = reason, detail, head


@dataclass(slots=True)
class _Batch:
    """The columns of the batch in the making."""

    ids: list[str | bytes] = field(default_factory=list)
    texts: list[str | bytes] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    urls: list[str | bytes | None] = field(default_factory=list)
    metas: list[bytes | None] = field(default_factory=list)
    payloads: list[str | bytes | None] = field(default_factory=list)
    bad: list[tuple[str, str, str, str, bytes]] = field(default_factory=list)
    passed: dict[str, int] = field(default_factory=dict)
    size: int = 0


class Rows:
    """Turns one source's items into Emits."""

    def __init__(self, name: str, fields: Fields, task: Task, schema: pa.Schema) -> None:
        """name: the source's; schema: of the rows, with or without `payload`."""
        self.names, self.fields, self.task, self.schema = Names(name), fields, task, schema
        self._prefix, self._used, self._batch = self.names.prefix, fields.used, _Batch()

    def gather(self, items: Iterable[Item]) -> Iterator[Emit]:
        """Batches of what the items give: at most `task.limit` records, kept or bad."""
        left = self.task.limit if self.task.limit is not None else -1
        for item in items:
            if isinstance(item, Passed):
                self._batch.passed[item.kind] = self._batch.passed.get(item.kind, 0) + 1
                continue
            if left == 0:
                break
            left -= 1
            self._add(item)
            if self._batch.size >= BATCH_BYTES or len(self._batch.ids) + len(self._batch.bad) >= BATCH_ROWS:
                yield self._emit()
        yield self._emit()

    def _add(self, item: Record | Bad) -> None:
        if isinstance(item, Record):
            try:
                return self._document(item)
            except UnfitError as error:
                item = Bad(item.position, error.reason, error.detail, error.head or _head(item.values))
        place = f"{self.names.name}:{item.position}"
        self._batch.bad.append((f"{self._prefix}{item.position}", place, item.reason, item.detail, item.head))
        self._batch.size += len(item.head)
        return None

    def _document(self, record: Record) -> None:
        """Adds a record's document to the batch; raises `UnfitError` before anything of it is added."""
        f, values, batch = self.fields, record.values, self._batch
        page = self._page(values.get(f.html)) if f.html else None
        text = "" if page is not None else self._text(values)
        meta = self._meta(values)
        address = values.get(f.url) if f.url else None
        url = self._encoded(address) if isinstance(address, str) else None
        own = self.names.own(values.get(f.id)) if f.id else None
        batch.ids.append(self._encoded(own) if own else f"{self._prefix}{record.position}")
        batch.texts.append(text)
        batch.sources.append(f"{self.names.name}:{record.position}")
        batch.urls.append(url)
        batch.metas.append(meta)
        batch.payloads.append(page)
        batch.size += len(text) + sum(len(part) for part in (page, meta, url) if part is not None)

    def _page(self, value: object) -> str | bytes | None:
        """A page's bytes, None where the record has none."""
        if value is None or isinstance(value, bytes):
            return value
        if not isinstance(value, str):
            raise UnfitError("page_not_string", f"{self.fields.html} is {type(value).__name__}")
        return self._encoded(value)

    def _text(self, values: dict[str, Any]) -> str | bytes:
        name = self.fields.text
        text = values.get(name)
        if isinstance(text, str):
            return self._encoded(text)
        if isinstance(text, bytes):
            return self._encoded(decoded(text, self.fields.replace))
        if text is None:
            raise UnfitError("missing_text", f"{name} is null" if name in values else f"no field {name!r}")
        raise UnfitError("text_not_string", f"{name} is {type(text).__name__}")

    def _encoded(self, text: str) -> str | bytes:
        """UTF-8, or the text itself where it is ASCII; of a length in bytes. Half a surrogate pair is U+FFFD where
        malformed text may be replaced, else the record is bad."""
        if text.isascii():
            return text
        try:
            return text.encode()
        except UnicodeEncodeError as error:
            if not self.fields.replace:
                raise UnfitError("lone_surrogate", HALF_PAIR) from error
            return SURROGATE.sub("\ufffd", text).encode()

    def _meta(self, values: dict[str, Any]) -> bytes | None:
        wanted = self.fields.meta
        if wanted is None:
            meta = {key: value for key, value in values.items() if key not in self._used}
        else:
            meta = {key: values[key] for key in wanted if key in values}
        if self.fields.licence is not None:
            meta.setdefault("licence", self.fields.licence)
        return to_json(meta, self.fields.replace).encode() if meta else None

    def _emit(self) -> Emit:
        batch, self._batch = self._batch, _Batch()
        n = len(batch.ids)
        columns = {
            "id": pa.array(batch.ids, pa.string()),
            "text": pa.array(batch.texts, pa.large_string()),
            "source": pa.array(batch.sources, pa.string()),
            "url": pa.array(batch.urls, pa.string()),
            "lang": pa.nulls(n, pa.string()),
            "lang_score": pa.nulls(n, pa.float32()),
            "meta": pa.array(batch.metas, pa.string()),
            PAYLOAD.name: pa.array(batch.payloads, PAYLOAD.type),
        }
        rows = pa.RecordBatch.from_arrays([columns[name] for name in self.schema.names], schema=self.schema)
        bad = quarantine_rows(batch.bad, self.task) if batch.bad else None
        return Emit(rows=rows, quarantine=bad, counters={"records": n + len(batch.bad), **batch.passed})


def to_json(value: object, replace: bool = False) -> str:
    """JSON text of what JSON knows: dicts of strings, lists, strings, numbers (not NaN), truth values, None.

    Raises `UnfitError` for half a surrogate pair (U+FFFD, if `replace`), for over `DEPTH` levels, and for values of any
    other type.
    """
    import orjson

    try:
        return orjson.dumps(value).decode()
    except TypeError as error:  # an integer beyond 64 bits is one of its reasons
        return _exact_json(value, replace, error)


def _exact_json(value: object, replace: bool, fault: Exception) -> str:
    """What `to_json` gives where orjson cannot: slower, with integers of any size."""
    if too_deep(value):
        raise UnfitError("nested_too_deep", f"over {DEPTH} levels") from fault
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise UnfitError("no_json_form", str(error)[:500]) from error
    if not replace and SURROGATE.search(text):
        raise UnfitError("lone_surrogate", HALF_PAIR) from fault
    return SURROGATE.sub("\ufffd", text)


def too_deep(value: object) -> bool:
    """Whether lists and dicts are nested in each other over `DEPTH` levels."""
    level = [value]
    for _ in range(DEPTH + 1):
        level = [part for item in level for part in _parts(item)]
        if not level:
            return False
    return True


def _parts(value: object) -> Iterable[object]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def decoded(data: bytes, replace: bool) -> str:
    """UTF-8 bytes as text; raises `UnfitError` where they are malformed and may not be replaced."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        if replace:
            return data.decode(errors="replace")
        raise UnfitError("invalid_utf8", f"byte {error.start}: {error.reason}", data[:HEAD]) from error


def _head(values: dict[str, Any]) -> bytes:
    """The beginning of a record's values, of whatever they are, for people."""
    shown = {key: value[:HEAD] if isinstance(value, str | bytes) else value for key, value in values.items()}
    try:
        return to_json(shown).encode()[:HEAD]
    except UnfitError:
        return reprlib.repr(shown).encode(errors="backslashreplace")[:HEAD]
