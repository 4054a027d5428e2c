"""What fields the first records of a file have, and what is wrong with a recipe that names others.

Takes items of a reader or the names of columns; reads the first `RECORDS` records and `BYTES` at most.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from pipeline.names import shown_name
from stages.readers.records import Item, Record

RECORDS = 1000
BYTES = 16 << 20
DEPTH = 4
"""Levels of objects in objects whose fields are told."""

TOLD = 40
"""Fields that a message lists at most."""


class Sample(NamedTuple):
    """The fields of a file's first records: names in the order they come, nested ones with dots. records: how many
    were read, 0 where the file has columns."""

    file: str
    form: str
    names: Sequence[str]
    records: int = 0

    def lacks(self, name: str) -> str:
        """In a sentence, that there is no such field, which is meant perhaps, and which there are."""
        near = difflib.get_close_matches(name, list(self.names)[:1000], 1, 0.6)
        meant = f", did you mean `{shown_name(near[0])}`? The" if near else "; the"
        shown = ", ".join(shown_name(one) for one in self.names[:TOLD]) or "none"
        more = ", …" if len(self.names) > TOLD else ""
        where = f"of its first {self.records:,} records" if self.records else "it"
        no = f"none {where} has a field" if self.records else "has no column"
        return f"{shown_name(self.file)}: {no} {name!r}{meant} fields there are: {shown}{more}"

    def repeats(self, name: str | None) -> str | None:
        """In a sentence, that several columns have the name; None where they have not."""
        count = list(self.names).count(name) if name else 0
        return f"{shown_name(self.file)} has {count} columns {name!r}" if count > 1 else None


def head(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The first `BYTES` of a stream, in its chunks."""
    left = BYTES
    for chunk in chunks:
        yield chunk[:left]
        left -= len(chunk)
        if left <= 0:
            return


def sampled(file: str, form: str, items: Iterable[Item], enough: Iterable[str]) -> Sample | None:
    """The fields of the first records, until all of `enough` are found; None where no record can be read."""
    names: dict[str, None] = {}
    wanted, count = set(enough), 0
    for item in items:
        if isinstance(item, Record):
            _name(item.values, "", DEPTH, names)
            count += 1
        if count == RECORDS or wanted <= names.keys():
            break
    return Sample(file, form, list(names), count) if count else None


def _name(values: dict[str, object], above: str, depth: int, names: dict[str, None]) -> None:
    for name, value in values.items():
        names[f"{above}{name}"] = None
        if isinstance(value, dict) and depth > 1:
            _name(value, f"{above}{name}.", depth - 1, names)
