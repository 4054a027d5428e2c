"""How Arrow lays out nested and encoded values: which values a row stands for, and how many bytes these take.

An array in, its parts out, whatever slice of other arrays it is. The one trade-off: offsets and places are int64, so a
nested column costs eight bytes more per value while it is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

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


def row_sizes(names: Sequence[str], columns: Sequence[pa.Array], rows: int) -> NDArray[np.int64]:
    """About how many bytes each row of some columns takes as a JSON object."""
    whole = np.full(rows, sum(len(name.encode()) + 4 for name in names) + 2, np.int64)
    for column in columns:
        whole += sizes(column)
    return whole


def sizes(array: pa.Array) -> NDArray[np.int64]:
    """About how many bytes each value takes in JSON; nothing that a dictionary or a view repeats is copied for it."""
    kind = array.type
    if is_.is_dictionary(kind):
        own = np.append(sizes(array.dictionary), 4)
        return _taken(own, _integers(array.indices.cast(pa.int64()).fill_null(len(own) - 1)))
    if is_.is_run_end_encoded(kind):
        return _taken(sizes(array.values), _runs(array))
    if is_.is_struct(kind):
        return row_sizes([field.name for field in kind], [array.field(k) for k in range(kind.num_fields)], len(array))
    if is_.is_union(kind) or is_nested(kind):
        return _list_sizes(array)
    if isinstance(array, pa.ExtensionArray):
        return sizes(array.storage)
    width = kind.byte_width + 4 if is_.is_fixed_size_binary(kind) else NUMBER_BYTES
    return _lengths(array) + 2 if is_text(kind) else np.full(len(array), width, np.int64)


def _list_sizes(array: pa.Array) -> NDArray[np.int64]:
    if is_.is_union(array.type):
        children, places = choices(array)
        return _taken(np.concatenate([sizes(child) for child in children]), places)
    if is_view(array.type):
        starts, counts = _spans(array)
        ends = _ends(sizes(array.values) + 1)
        return _taken(ends, starts + counts) - _taken(ends, starts) + 2
    offsets, *columns = elements(array)
    inner = row_sizes([], columns, len(columns[0]))
    return np.diff(_taken(_ends(inner), offsets)) + 2


def is_view(kind: pa.DataType) -> bool:
    """Whether values of a type are lists that may share elements."""
    return bool(is_.is_list_view(kind) or is_.is_large_list_view(kind))


def is_nested(kind: pa.DataType) -> bool:
    """Whether values of a type are lists of any layout, maps included."""
    lists = is_.is_list(kind) or is_.is_large_list(kind) or is_.is_fixed_size_list(kind)
    return bool(lists or is_.is_map(kind) or is_view(kind))


def elements(array: pa.Array) -> tuple[Any, ...]:
    """The n + 1 offsets that part the elements of an array's lists, and these: a column, or a map's keys and values."""
    kind = array.type
    if is_.is_fixed_size_list(kind):
        width = kind.list_size
        offsets = np.arange(len(array) + 1, dtype=np.int64) * width
        return offsets, array.values.slice(array.offset * width, len(array) * width)
    if is_view(kind):
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


def choices(array: pa.Array) -> tuple[list[pa.Array], NDArray[np.int64]]:
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


def _taken(values: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.int64]:
    found: NDArray[np.int64] = values[places]
    return found


def _runs(array: pa.Array) -> NDArray[np.int64]:
    """Which value of a run-end array each row has."""
    places = np.arange(array.offset, array.offset + len(array))
    return np.searchsorted(_integers(array.run_ends), places, side="right")


def _ends(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])


def _integers(array: pa.Array) -> NDArray[np.int64]:
    found: NDArray[np.int64] = array.to_numpy(zero_copy_only=False).astype(np.int64)
    return found
