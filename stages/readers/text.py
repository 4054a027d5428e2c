"""Reads JSONL, JSON and plain text: a stream of bytes in, records out.

A fault ends one record, never the file. The one trade-off: each record is parsed for itself (orjson), so that the
single bad one is found.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from stages.readers.json_values import json_values
from stages.readers.records import BOM, HEAD, SPACE, Bad, Item, Record, Scanner, records
from stages.readers.rows import DEPTH, HALF_PAIR, SURROGATE, Fields, UnfitError, decoded, too_deep


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
