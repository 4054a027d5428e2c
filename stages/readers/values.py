"""Writes Arrow values of any type as JSON texts, column by column: an array in, a large_string array out.

Numbers are JSON numbers with all their digits; NaN and infinities, and what JSON has no form for, are strings in the
forms of ProtoJSON (https://protobuf.dev/programming-guides/json: base64, "NaN", "-Infinity"), dates and times those of
ISO 8601 with all their digits. Dictionary, run-end, view and extension types give what they stand for;
maps are lists of pairs, as their keys may be anything. The one trade-off: every level of a nested value is a copy.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.readers import times
from stages.readers.layouts import choices, elements, is_nested, is_string, is_text, opened
from stages.readers.rows import DEPTH, UnfitError, decoded

TEXT = pa.large_string()
NOT_PLAIN = r'["\\\x00-\x1f]'
"""Characters that JSON must escape."""

UNFIT = (ValueError, TypeError, ArithmeticError, LookupError, RecursionError, pa.ArrowException)
"""What a library raises for a value that it has no form for. The machine's MemoryError is none: it is raised first."""

is_ = pa.types


def distinct(names: Iterable[str]) -> list[str]:
    """Names, each as it is where it comes first, else with the first free number: n, n → n, n_1."""
    found: dict[str, None] = {}
    for name in (names := list(names)):
        number, free = 0, name
        while free in found or (number and free in names):
            number += 1
            free = f"{name}_{number}"
        found[free] = None
    return list(found)


def objects(names: Iterable[str], columns: Sequence[pa.Array]) -> pa.Array:
    """A JSON object of each row of one column or more, which are JSON texts; names that repeat are numbered."""
    parts: list[pa.Array | pa.Scalar] = [_wide("{")]
    for name, column in zip(distinct(names), columns, strict=True):
        parts += [_wide(f"{',' if len(parts) > 1 else ''}{_quoted(name)}:"), column]
    return _joined(*parts, _wide("}"))


def careful(array: pa.Array, replace: bool, note: Callable[[int, Exception], None], first: int = 0) -> pa.Array:
    """What `texts` gives; a value that has no JSON form is noted, by its place, and is null."""
    try:
        return texts(array, replace)
    except MemoryError:
        raise
    except UNFIT as error:
        if len(array) == 1:
            note(first, error)
            return repeated("null", 1)
    half = len(array) // 2
    parts = (array.slice(0, half), first), (array.slice(half), first + half)
    return pa.concat_arrays([careful(part, replace, note, place) for part, place in parts])


def texts(array: pa.Array, replace: bool = False, depth: int = 0) -> pa.Array:
    """An array's values as JSON texts, "null" for null; malformed UTF-8 becomes U+FFFD, if `replace`.

    Raises `UnfitError` for malformed UTF-8 and for values nested too deep, any of `UNFIT` for what has no form.
    """
    kind = array.type
    if depth > DEPTH:
        raise UnfitError("nested_too_deep", f"over {DEPTH} levels")
    if is_.is_union(kind):
        children, places = choices(array)
        return pa.concat_arrays([texts(child, replace, depth + 1) for child in children]).take(pa.array(places))
    if array.null_count == len(array):
        return repeated("null", len(array))
    if (inner := opened(array)) is not array:
        return texts(inner, replace, depth)
    if is_.is_struct(kind):
        found = [texts(array.field(k), replace, depth + 1) for k in range(kind.num_fields)]
        whole = objects([field.name for field in kind], found) if found else repeated("{}", len(array))
    elif is_nested(kind):
        offsets, *columns = elements(array)
        found = [texts(column, replace, depth + 1) for column in columns]
        inner = found[0] if len(found) == 1 else _joined(_wide("["), found[0], _wide(","), found[1], _wide("]"))
        lists = pa.LargeListArray.from_arrays(pa.array(offsets), inner)
        whole = _joined(_wide("["), pc.binary_join(lists, _wide(",")), _wide("]"))
    else:
        whole = _leaf(array, replace)
    return pc.if_else(array.is_valid(), whole, _wide("null")) if array.null_count else whole


def repeated(text: str, rows: int) -> pa.Array:
    """The same text in each row."""
    return pa.repeat(_wide(text), rows)


def _leaf(array: pa.Array, replace: bool) -> pa.Array:
    """JSON texts of values that hold no others; what stands where one is null does not matter."""
    kind = array.type
    if is_.is_integer(kind):
        return array.cast(TEXT)
    if is_.is_boolean(kind):
        return pc.if_else(array, "true", "false").cast(TEXT)
    if is_.is_floating(kind):
        return pa.array(_floats(array), TEXT)
    if is_string(kind):
        return _strings(array, replace)
    return _quotes(_plain(array))


def _plain(array: pa.Array) -> pa.Array:
    """Texts that need no escapes."""
    kind = array.type
    if is_.is_decimal(kind):
        return array.cast(pa.string()).cast(TEXT)
    if isinstance(kind, pa.UuidType):
        return pa.array([value and str(value) for value in array.to_pylist()], TEXT)
    if is_text(kind) or is_.is_fixed_size_binary(kind):
        return pa.array([value and base64.b64encode(value).decode() for value in array.to_pylist()], TEXT)
    return pa.array(times.texts(array), TEXT)


def _floats(array: pa.Array) -> list[str]:
    import orjson

    values = array.cast(pa.float64()).fill_null(0).to_numpy(zero_copy_only=False)
    found = orjson.dumps(np.ascontiguousarray(values), option=orjson.OPT_SERIALIZE_NUMPY).decode()[1:-1].split(",")
    for k in np.flatnonzero(~np.isfinite(values)).tolist():
        found[k] = '"NaN"' if np.isnan(values[k]) else '"Infinity"' if values[k] > 0 else '"-Infinity"'
    return found


def _strings(array: pa.Array, replace: bool) -> pa.Array:
    import orjson

    raw = array.cast(pa.large_binary())
    try:
        strings = raw.cast(TEXT)  # checks UTF-8, which no reader has done
    except pa.ArrowInvalid:
        strings = pa.array([None if value is None else decoded(value, replace) for value in raw.to_pylist()], TEXT)
    if not pc.any(pc.match_substring_regex(strings, NOT_PLAIN)).as_py():
        return _quotes(strings)
    return pa.array([orjson.dumps(value).decode() for value in strings.to_pylist()], TEXT)


def _quoted(name: str) -> str:
    import orjson

    return orjson.dumps(name).decode()


def _quotes(strings: pa.Array) -> pa.Array:
    return _joined(_wide('"'), strings, _wide('"'))


def _joined(*parts: pa.Array | pa.Scalar) -> pa.Array:
    return pc.binary_join_element_wise(*parts, _wide(""))


def _wide(text: str) -> pa.Scalar:
    return pa.scalar(text, TEXT)
