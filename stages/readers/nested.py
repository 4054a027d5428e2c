"""Fields inside fields, named with dots: `meta.url` is the field `url` of the field `meta`.

Takes what readers give, gives the same with the named fields at the top, under their dotted names; those that become
columns of documents are removed from where they were. A field whose own name has that dot wins. The one trade-off:
names are cut at every dot, so a field with a dot in its name cannot be reached inside another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from stages.readers.records import Item, Record
from stages.readers.rows import Fields


def value_at(values: dict[str, Any], name: str) -> tuple[dict[str, Any], str] | None:
    """The innermost object that holds a field, and the field's name in it; None where the record has no such field."""
    if name in values:
        return values, name
    *above, last = name.split(".")
    for part in above:
        inner = values.get(part)
        if not isinstance(inner, dict):
            return None
        values = inner
    return (values, last) if last in values else None


def of_items(items: Iterable[Item], fields: Fields) -> Iterable[Item]:
    """The items of a reader, nested fields put at the top of each record."""
    taken, copied = _dotted(fields)
    return (_lift(item, taken, copied) for item in items) if taken or copied else items


def of_parts(parts: Iterable[Any], fields: Fields) -> Iterable[Any]:
    """The parts of a table, nested fields made columns of their own in each batch; faults as they are."""
    taken, copied = _dotted(fields)
    if not (taken or copied):
        return parts
    return (
        (part[0], _lifted(part[1], taken, copied)) if isinstance(part[1], pa.RecordBatch) else part for part in parts
    )


def with_outer(fields: Fields) -> Fields:
    """The fields that a reader of columns must give, so that all nested ones are there."""
    taken, copied = _dotted(fields)
    if fields.meta is None or not (taken or copied):
        return fields
    return replace(fields, meta=(*fields.meta, *(name.partition(".")[0] for name in (*taken, *copied))))


def _dotted(fields: Fields) -> tuple[list[str], list[str]]:
    """The dotted names that become columns of documents, and those that go to `meta`."""
    taken = sorted(name for name in fields.used if "." in name)
    return taken, [name for name in fields.meta or () if "." in name and name not in taken]


def _lift(item: Item, taken: Sequence[str], copied: Sequence[str]) -> Item:
    if isinstance(item, Record):
        for name in (*taken, *copied):
            if name not in item.values and (place := value_at(item.values, name)):
                inner, last = place
                item.values[name] = inner.pop(last) if name in taken else inner[last]
    return item


def _lifted(batch: pa.RecordBatch, taken: Sequence[str], copied: Sequence[str]) -> pa.RecordBatch:
    for name in (*taken, *copied):
        path = name.split(".")
        place = batch.schema.get_field_index(path[0])
        if name in batch.schema.names or place < 0 or not _has(batch.schema.field(place).type, path[1:]):
            continue
        columns, names = list(batch.columns), list(batch.schema.names)
        values = pc.struct_field(columns[place], path[1:])
        if name in taken:
            columns[place] = _without(columns[place], path[1:])
        batch = pa.RecordBatch.from_arrays([*columns, values], names=[*names, name])
    return batch


def _has(kind: pa.DataType, path: list[str]) -> bool:
    for part in path:
        if not pa.types.is_struct(kind) or kind.get_field_index(part) < 0:
            return False
        kind = kind.field(part).type
    return True


def _without(column: pa.StructArray, path: list[str]) -> pa.Array:
    """A struct without one of its fields, at any depth; nulls stay nulls."""
    fields, arrays = list(column.type), [pc.struct_field(column, [k]) for k in range(column.type.num_fields)]
    place = column.type.get_field_index(path[0])
    if len(path) > 1:
        arrays[place] = _without(arrays[place], path[1:])
        fields[place] = fields[place].with_type(arrays[place].type)
    else:
        del fields[place], arrays[place]
    if not fields:
        return pa.nulls(len(column), pa.struct([]))
    return pa.StructArray.from_arrays(arrays, fields=fields, mask=column.is_null())
