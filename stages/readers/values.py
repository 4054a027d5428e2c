"""Writes Arrow values of any type as JSON texts, column by column: an array in, a large_string array out.

Numbers are JSON numbers with all their digits; NaN and infinities, and what JSON has no form for, are strings in the
forms of ProtoJSON (https://protobuf.dev/programming-guides/json: base64, "NaN", "-Infinity"), dates and times those of
ISO 8601 with all their digits. Dictionary, run-end, view and extension types give what they stand for;
maps are lists of pairs, as their keys may be anything. The one trade-off: every level of a nested value is a copy.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stages.readers import times
from stages.readers.rows import DEPTH, UnfitError, decoded

TEXT = pa.large_string()
NOT_PLAIN = r'["\\\x00-\x1f]'
"""Characters that JSON must escape."""

UNFIT = (ValueError, TypeError, ArithmeticError, LookupError, RecursionError, pa.ArrowException)
"""What a library raises for a value that it has no form for. The machine's MemoryError is none: it is raised first."""

NUMBER_BYTES = 24
"""Bytes of a number, time or truth value in JSON, at most or nearly."""

is_ = pa.types


def is_text(kind: pa.DataType) -> bool:
    """Whether values of a type are strings of characters or bytes, of any layout but a fixed width."""
    binary = is_.is_binary(kind) or is_.is_large_binary(kind) or is_.is_binary_view(kind)
    return bool(binary or is_string(kind))


def is_string(kind: pa.DataType) -> bool:
    """Whether values of a type are strings of characters."""
    return bool(is_.is_string(kind) or is_.is_large_string(kind) or is_.is_string_view(kind))


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
        children, places = _choices(array)
        return pa.concat_arrays([texts(child, replace, depth + 1) for child in children]).take(pa.array(places))
    if array.null_count == len(array):
        return repeated("null", len(array))
    if (inner := opened(array)) is not array:
        return texts(inner, replace, depth)
    if is_.is_struct(kind):
        found = [texts(array.field(k), replace, depth + 1) for k in range(kind.num_fields)]
        whole = objects([field.name for field in kind], found) if found else repeated("{}", len(array))
    elif _is_nested(kind):
        offsets, *columns = _elements(array)
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


def row_sizes(names: Sequence[str], columns: Sequence[pa.Array], rows: int) -> NDArray[np.int64]:
    """About how many bytes each row of some columns takes as a JSON object."""
    keys = sum(len(name.encode()) + 4 for name in names)
    return sum(map(sizes, columns), np.full(rows, keys + 2, np.int64))


def sizes(array: pa.Array) -> NDArray[np.int64]:
    """About how many bytes each value takes in JSON; nothing that a dictionary or a view repeats is copied for it."""
    kind = array.type
    if is_.is_dictionary(kind):
        own = np.append(sizes(array.dictionary), 4)
        return own[_integers(array.indices.cast(pa.int64()).fill_null(len(own) - 1))]
    if is_.is_run_end_encoded(kind):
        return sizes(array.values)[_runs(array)]
    if isinstance(array, pa.ExtensionArray):
        return sizes(array.storage)
    if is_.is_struct(kind):
        return row_sizes([field.name for field in kind], [array.field(k) for k in range(kind.num_fields)], len(array))
    if _is_view(kind):
        starts, counts = _spans(array)
        ends = _ends(sizes(array.values) + 1)
        return ends[starts + counts] - ends[starts] + 2
    if _is_nested(kind):
        offsets, *columns = _elements(array)
        return np.diff(_ends(sum(sizes(column) + 2 for column in columns))[offsets]) + 2
    if is_.is_union(kind):
        children, places = _choices(array)
        return np.concatenate([sizes(child) for child in children])[places]
    if is_.is_fixed_size_binary(kind):
        return np.full(len(array), kind.byte_width * 4 // 3 + 4, np.int64)
    if is_text(kind):
        return _lengths(array) + 2
    return np.full(len(array), NUMBER_BYTES, np.int64)


def opened(array: pa.Array) -> pa.Array:
    """The values that a dictionary, run-end or extension array stands for; any other array as it is."""
    kind = array.type
    if is_.is_dictionary(kind):
        return array.dictionary.take(array.indices)
    if is_.is_run_end_encoded(kind):
        return array.values.take(pa.array(_runs(array)))
    if isinstance(array, pa.ExtensionArray) and not isinstance(kind, pa.UuidType):
        return array.storage
    return array


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
    if is_.is_decimal(kind):
        return _quotes(array.cast(pa.string()).cast(TEXT))
    if is_text(kind) or is_.is_fixed_size_binary(kind):
        return _quotes(pa.array([v and base64.b64encode(v).decode() for v in array.to_pylist()], TEXT))
    if isinstance(kind, pa.UuidType):
        return _quotes(pa.array([v and str(v) for v in array.to_pylist()], TEXT))
    return _quotes(pa.array(times.texts(array), TEXT))


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


def _is_view(kind: pa.DataType) -> bool:
    return bool(is_.is_list_view(kind) or is_.is_large_list_view(kind))


def _is_nested(kind: pa.DataType) -> bool:
    lists = is_.is_list(kind) or is_.is_large_list(kind) or is_.is_fixed_size_list(kind)
    return bool(lists or is_.is_map(kind) or _is_view(kind))


def _elements(array: pa.Array) -> tuple[Any, ...]:
    """The n + 1 offsets that part the elements of an array's lists, and these: a column, or a map's keys and values."""
    kind = array.type
    if is_.is_fixed_size_list(kind):
        width = kind.list_size
        offsets = np.arange(len(array) + 1, dtype=np.int64) * width
        return offsets, array.values.slice(array.offset * width, len(array) * width)
    if _is_view(kind):
        starts, counts = _spans(array)
        offsets = _ends(counts)
        return offsets, array.values.take(pa.array(np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], counts)))
    offsets = _integers(array.offsets)
    columns = (array.keys, array.items) if is_.is_map(kind) else (array.values,)
    return offsets - offsets[0], *(column.slice(offsets[0], offsets[-1] - offsets[0]) for column in columns)


def _spans(array: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First element and number of elements of each list of a view; none where it is null."""
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    return np.where(valid, _integers(array.offsets), 0), np.where(valid, _integers(array.sizes), 0)


def _choices(array: pa.Array) -> tuple[list[pa.Array], NDArray[np.int64]]:
    """The children of a union, and which of all their values, one child after the other, each row has."""
    kind, rows = array.type, slice(array.offset, array.offset + len(array))
    children = [array.field(k) for k in range(kind.num_fields)]
    starts = np.zeros(128, np.int64)
    starts[kind.type_codes] = _ends(np.array([len(child) for child in children]))[:-1]
    _, codes, *offsets = array.buffers()[: 3 if kind.mode == "dense" else 2]
    within = np.frombuffer(offsets[0], np.int32)[rows] if offsets else np.arange(len(array))
    return children, starts[np.frombuffer(codes, np.int8)[rows]] + within


def _lengths(array: pa.Array) -> NDArray[np.int64]:
    """Bytes of each string; a null's may be anything."""
    kind = array.type
    if is_.is_string_view(kind) or is_.is_binary_view(kind):  # a view of 16 bytes begins with its length
        views = np.frombuffer(array.buffers()[1], np.int32)[: (array.offset + len(array)) * 4]
        return views[array.offset * 4 :: 4].astype(np.int64)
    return _integers(pc.binary_length(array).fill_null(0))


def _runs(array: pa.Array) -> NDArray[np.int64]:
    """Which value of a run-end array each row has."""
    places = np.arange(array.offset, array.offset + len(array))
    return np.searchsorted(_integers(array.run_ends), places, side="right")


def _ends(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])


def _integers(array: pa.Array) -> NDArray[np.int64]:
    found: NDArray[np.int64] = array.to_numpy(zero_copy_only=False).astype(np.int64)
    return found


def _quoted(name: str) -> str:
    import orjson

    return orjson.dumps(name).decode()


def _quotes(strings: pa.Array) -> pa.Array:
    return _joined(_wide('"'), strings, _wide('"'))


def _joined(*parts: pa.Array | pa.Scalar) -> pa.Array:
    return pc.binary_join_element_wise(*parts, _wide(""))


def _wide(text: str) -> pa.Scalar:
    return pa.scalar(text, TEXT)
