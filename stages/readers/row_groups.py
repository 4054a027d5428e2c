"""Plans how much of a Parquet row group may be decoded at once: a row group in, rows of a batch out.

A dictionary page holds a long value once, however many rows have it, so a row group's own sizes say little of what it
decodes to. The longest value of each dictionary is therefore looked up first. The one trade-off: the dictionary of a
column that could fill a batch is read twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from stages.readers.rows import BATCH_BYTES, BATCH_ROWS

DECODED_BYTES = 32 << 20
"""Bytes that one batch decodes to at most, where its rows are not longer; most batches are of `BATCH_BYTES`."""

WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 8}


class Plan(NamedTuple):
    """rows: of a batch to hand on, about `BATCH_BYTES`. step: rows to decode at once. encoded: paths of nested columns
    that stay dictionary-encoded, as a single row might be too long otherwise. fixed: bytes that all the values of fixed
    width decode to. int96: columns of the type that Spark and Impala once wrote times in."""

    rows: int
    step: int
    encoded: list[str]
    fixed: int
    int96: list[str]


class _Leaf(NamedTuple):
    """A column chunk: path, type, values, uncompressed bytes, bytes of a value if fixed, whether it is nested in a
    list, has a dictionary, or is encoded by prefixes."""

    path: str
    kind: str
    values: int
    size: int
    width: int | None
    nested: bool
    dictionary: bool
    prefixes: bool


def plan(file: Any, path: str, group: int, wanted: Sequence[str] | None) -> Plan:
    """How to read row group `group` of an open ParquetFile of `path`; wanted: its top-level columns, None for all.

    Raises what pyarrow raises for a dictionary that cannot be read.
    """
    about = file.metadata.row_group(group)
    rows = max(about.num_rows, 1)
    leaves = [leaf for leaf in _leaves(file, about) if wanted is None or leaf.path.split(".")[0] in wanted]
    fixed = sum(leaf.values * leaf.width for leaf in leaves if leaf.width)
    mean = max(about.total_byte_size, fixed) / rows
    longest, encoded = 0, []
    for leaf in leaves:
        most = _most(path, group, leaf) if leaf.width is None else 0
        if not leaf.nested:
            longest += most
        elif leaf.values * most > DECODED_BYTES and leaf.dictionary:
            encoded.append(leaf.path)
    size = int(min(BATCH_ROWS, max(1, BATCH_BYTES // max(mean, 1))))
    int96 = [leaf.path for leaf in leaves if leaf.kind == "INT96" and file.schema_arrow.names.count(leaf.path) == 1]
    return Plan(size, min(size, max(1, DECODED_BYTES // max(longest, 1))), encoded, fixed, int96)


def _leaves(file: Any, about: Any) -> Iterator[_Leaf]:
    for k in range(about.num_columns):
        chunk, column = about.column(k), file.schema.column(k)
        kind = chunk.physical_type
        fixed = column.length if kind == "FIXED_LEN_BYTE_ARRAY" else WIDTHS.get(kind)
        dictionary, prefixes = chunk.has_dictionary_page, "DELTA_BYTE_ARRAY" in chunk.encodings
        nested, path = column.max_repetition_level > 0, chunk.path_in_schema
        yield _Leaf(path, kind, chunk.num_values, chunk.total_uncompressed_size, fixed, nested, dictionary, prefixes)


def _most(path: str, group: int, leaf: _Leaf) -> int:
    """Bytes that a value of a string column may have more than its share of the chunk's bytes."""
    if leaf.values * leaf.size <= BATCH_BYTES:
        return 0
    if leaf.prefixes:  # each value may repeat the one before it, and a page is not known to be short
        return leaf.size
    return min(leaf.size, _longest(path, group, leaf)) if leaf.dictionary else 0


def _longest(path: str, group: int, leaf: _Leaf) -> int:
    """Bytes of the longest value in a column chunk's dictionary; the chunk's, where the dictionary cannot be told."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, read_dictionary=[leaf.path], pre_buffer=False, buffer_size=1 << 16) as file:
        for rows in (1, BATCH_ROWS):  # a reader meets the dictionary with the first value that is not null
            for batch in file.iter_batches(rows, [group], [leaf.path], use_threads=False):
                found = [values for column in batch.columns for values in _dictionaries(column)]
                if len(found) != batch.num_columns:
                    return leaf.size
                if any(len(values) for values in found):
                    return max(pc.max(pc.binary_length(values)).as_py() or 0 for values in found)
                if rows == 1:
                    break
    return 0


def _dictionaries(array: pa.Array) -> Iterator[pa.Array]:
    """The dictionaries within a column that was read with one leaf alone."""
    if isinstance(array, pa.DictionaryArray):
        yield array.dictionary
    elif isinstance(array, pa.StructArray):
        yield from (found for k in range(array.type.num_fields) for found in _dictionaries(array.field(k)))
    elif hasattr(array, "values"):
        yield from _dictionaries(array.values)
