"""Reads JSONL, JSON and plain text: a stream of bytes in, records out.

A fault ends one record, never the file. The one trade-off: each record is parsed for itself (orjson), so that the
single bad one is found.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from stages.readers.json_values import json_values
from stages.readers.records import BOM, HEAD, SPACE, Bad, Item, Record, Scanner, records
from stages.readers.rows import Fields, UnfitError, decoded

SURROGATE = re.compile("[\ud800-\udfff]")


def read_json(chunks: Iterable[bytes], fields: Fields, start: int, scan: Scanner) -> Iterator[Item]:
    """JSON objects, one a line; `scan` cuts the lines."""
    for item in records(chunks, scan, fields.max_bytes, start):
        if isinstance(item, Bad):
            yield item
        elif data := _unmarked(*item).strip(SPACE):
            yield _object(item[0], data, fields.replace)


def read_json_values(chunks: Iterable[bytes], fields: Fields) -> Iterator[Item]:
    """JSON objects of an array or of the top level, however they lie in lines."""
    for item in json_values(chunks, fields.max_bytes):
        yield item if isinstance(item, Bad) else _object(*item, fields.replace)


def _object(position: int, data: bytes, replace: bool) -> Record | Bad:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        try:
            value = _mended(data, str(error), replace)
        except UnfitError as unfit:
            return Bad(position, unfit.reason, unfit.detail, data[:HEAD])
    if not isinstance(value, dict):
        return Bad(position, "not_an_object", f"the record is {type(value).__name__}", data[:HEAD])
    return Record(position, value)


def _mended(data: bytes, fault: str, replace: bool) -> Any:
    """The value of JSON that orjson refuses for its encoding: malformed UTF-8, or half a surrogate pair escaped."""
    text = decoded(data, replace)
    try:
        whole_text = json.dumps(json.loads(text, parse_constant=_refuse), ensure_ascii=False)
        if not SURROGATE.search(whole_text):
            return orjson.loads(text.encode())
    except (ValueError, RecursionError) as error:
        raise UnfitError("invalid_json", fault) from error
    if not replace:
        raise UnfitError("lone_surrogate", "half a surrogate pair, which no UTF-8 can hold")
    return orjson.loads(SURROGATE.sub("\ufffd", whole_text))


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def read_text(chunks: Iterable[bytes], fields: Fields, start: int, scan: Scanner, documents: str) -> Iterator[Item]:
    """Plain text: `scan` cuts documents, each a "file", "line" or "block"; white space alone is no document."""
    edges = {"file": b"", "line": b"\r\n", "block": b" \t\r\n\v\f"}[documents]
    for item in records(chunks, scan, fields.max_bytes, start):
        if isinstance(item, Bad):
            yield item
            continue
        position, data = item[0], _unmarked(*item)
        if data and not data.isspace():
            yield Record(position, {fields.text: data.strip(edges) if edges else data})


def _unmarked(position: int, data: bytes) -> bytes:
    return data.removeprefix(BOM) if position == 0 else data
