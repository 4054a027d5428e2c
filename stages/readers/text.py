"""Reads JSONL, JSON, CSV, TSV and plain text: a stream of bytes in, records out.

A fault ends one record, never the file. The one trade-off: each record is parsed for itself (orjson, the csv module),
so that the single bad one is found.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from stages.readers.records import (
    HEAD,
    SPACE,
    Bad,
    BlankLines,
    Item,
    JsonValues,
    Record,
    Scanner,
    lines,
    records,
    whole,
)
from stages.readers.rows import DEPTH, HALF_PAIR, SURROGATE, Fields, UnfitError, decoded, too_deep

BOM = b"\xef\xbb\xbf"
PUNCTUATION = (b"", b"[", b"]", b",")
"""What `JsonValues` cuts out beside the values of an array."""


def read_json(chunks: Iterable[bytes], fields: Fields, start: int, scan: Scanner) -> Iterator[Item]:
    """JSON objects: one a line with `lines`, of an array or of the top level with `JsonValues`."""
    skipped = PUNCTUATION if isinstance(scan, JsonValues) else (b"",)
    for item in records(chunks, scan, fields.max_bytes, start):
        if isinstance(item, Bad):
            yield item
            continue
        position, data = item
        if (data := _unmarked(position, data).strip(SPACE)) not in skipped:
            yield _object(position, data, fields.replace)


def _object(position: int, data: bytes, replace: bool) -> Record | Bad:
    try:
        value = _value(data, replace)
    except UnfitError as unfit:
        return Bad(position, unfit.reason, unfit.detail, data[:HEAD])
    if not isinstance(value, dict):
        return Bad(position, "not_an_object", f"the record is {type(value).__name__}", data[:HEAD])
    return Record(position, value)


def _value(data: bytes, replace: bool) -> Any:
    """The value of JSON, its integers exact. Raises `UnfitError`."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        return _mended(data, str(error), replace)
    return _mended(data, "", replace) if _may_be_rounded(value) else value


def _may_be_rounded(value: Any) -> bool:
    """Whether a float is so large that it may stand for an integer beyond 64 bits, which orjson rounds."""
    unseen = [value] if isinstance(value, dict | list) else []
    for item in unseen:  # which grows meanwhile
        for part in item.values() if type(item) is dict else item:
            kind = type(part)
            if kind is float and abs(part) >= 2**63:
                return True
            if kind is dict or kind is list:
                unseen.append(part)
    return False


def _mended(data: bytes, fault: str, replace: bool) -> Any:
    """The value of JSON that orjson refuses for its encoding (malformed UTF-8, or half a surrogate pair escaped) or
    rounds: slower, with integers of any size."""
    text = decoded(data, replace)
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
        if too_deep(value):
            raise RecursionError
        whole_text = json.dumps(value, ensure_ascii=False)
    except RecursionError as error:
        reason, detail = ("invalid_json", fault) if fault else ("nested_too_deep", f"over {DEPTH} levels")
        raise UnfitError(reason, detail) from error
    except UnfitError:
        raise
    except ValueError as error:
        raise UnfitError("invalid_json", fault or str(error)) from error
    if not SURROGATE.search(whole_text):
        return value
    if not replace:
        raise UnfitError("lone_surrogate", HALF_PAIR)
    return json.loads(SURROGATE.sub("\ufffd", whole_text))


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _finite(digits: str) -> float:
    if math.isinf(number := float(digits)):
        raise UnfitError("number_too_large", f"{digits[:40]} is beyond a 64-bit float")
    return number


def read_text(chunks: Iterable[bytes], fields: Fields, start: int, documents: str) -> Iterator[Item]:
    """Plain text: `documents` is "file", "line" or "block" (blank lines between); white space alone is passed over."""
    scans: dict[str, Scanner] = {"file": whole, "line": lines, "block": BlankLines()}
    edges = {"file": b"", "line": b"\r\n", "block": b" \t\r\n\v\f"}[documents]
    for item in records(chunks, scans[documents], fields.max_bytes, start):
        if isinstance(item, Bad):
            yield item
            continue
        position, data = item[0], _unmarked(*item)
        if data and not data.isspace():
            yield Record(position, {fields.text: data.strip(edges) if edges else data})


def _unmarked(position: int, data: bytes) -> bytes:
    return data.removeprefix(BOM) if position == 0 else data


class _Lines(Iterator[str]):
    """Lines for `csv.reader`, which takes as many as a record needs; keeps where the record began, and its fault."""

    def __init__(self, items: Iterator[tuple[int, bytes] | Bad], fields: Fields) -> None:
        self.items, self.fields = items, fields
        self.position, self.size, self.head = -1, 0, b""
        self.fault: Bad | None = None

    def begin(self) -> None:
        """The next line is the first of a record."""
        self.position, self.size, self.head, self.fault = -1, 0, b"", None

    def __next__(self) -> str:
        item = next(self.items)
        position, data = (item.position, item.head) if isinstance(item, Bad) else item
        if self.position < 0:
            self.position, self.head = position, data[:HEAD]
        self.size += len(data)
        if isinstance(item, Bad) or self.size > self.fields.max_bytes:
            bad = item if isinstance(item, Bad) else Bad(0, "record_too_large", f"over {self.fields.max_bytes:,} bytes")
            self.fault = bad._replace(position=self.position, head=self.head)
            raise _FaultyLineError
        try:
            return _unmarked(position, data).decode()
        except UnicodeDecodeError as error:
            if not self.fields.replace:
                self.fault = Bad(
                    self.position, "invalid_utf8", f"byte {position + error.start}: {error.reason}", self.head
                )
            return data.decode(errors="replace")


class _FaultyLineError(Exception):
    """A line that ends its record: the record starts anew with the line after it."""


def read_csv(chunks: Iterable[bytes], fields: Fields, start: int, delimiter: str) -> Iterator[Item]:
    """CSV or TSV with a header line and quoted newlines: RFC 4180 as the csv module reads it, strictly."""
    csv.field_size_limit(max(csv.field_size_limit(), fields.max_bytes + 1))
    source = _Lines(records(chunks, lines, fields.max_bytes, start), fields)
    rows = _rows(source, csv.reader(source, delimiter=delimiter, strict=True))
    header: list[str] | None = None
    for row in rows:
        if isinstance(row, Bad):
            yield row
        elif header is None:
            header = row
            if (wanted := fields.html or fields.text) not in header:
                yield Bad(0, "missing_field", f"no column {wanted!r} in: {', '.join(header)}"[:500])
                return
        elif len(row) == len(header):
            yield Record(source.position, dict(zip(header, row, strict=True)))
        elif row:
            yield Bad(source.position, "csv_error", f"{len(row)} fields, the header has {len(header)}", source.head)


def _rows(source: _Lines, reader: Iterator[list[str]]) -> Iterator[list[str] | Bad]:
    while True:
        source.begin()
        try:
            row = next(reader)
        except StopIteration:
            return
        except _FaultyLineError:
            row = []
        except csv.Error as error:
            source.fault = source.fault or Bad(source.position, "csv_error", str(error), source.head)
        yield source.fault or row
