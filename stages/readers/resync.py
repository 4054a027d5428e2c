"""Where reading takes up again after broken JSON: the next place at which a record can begin.

Gets the bytes around a broken record and the offset of its fault, gives offsets. Indentation tells records from what
is nested in them: a record begins with a brace that is first on its line, no deeper than that of the broken record. On
a line with several records the next one begins with the same key as those before. The one trade-off: JSON that nests
objects without indenting them can give parts of a broken record as records of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from stages.readers.records import BOM, HEAD

LINE = re.compile(rb"[\r\n][ \t]*+(,?)[ \t]*+([{}\]])")
"""A line that begins with a bracket, a comma before it or not."""

PRETTY = re.compile(rb"\{[ \t]*+[\r\n]")
"""A record whose first line holds its brace alone."""

FIRST_KEY = re.compile(rb'\{[ \t\r\n]*+"[^"\\\r\n]{0,200}+"[ \t\r\n]*+:')
MORE = re.compile(rb"[}\]][ \t]*+,[ \t]*+\{[^\r\n]")
"""Records of an array on one line, it seems."""

NEAR = 512
"""Bytes before a record in which the beginning of its line is looked for, and after a fault, in which the end of a key
is looked for that begins before it."""

LOOKED_AT = 1 << 16
"""Bytes of a line in which further records are looked for."""

SEVERAL = re.compile(rb"[\r\n][ \t\r\n]*+[^ \t\r\n]")


class Layout(NamedTuple):
    """How a broken record lies: the column of its brace, whether it is an array's, whether it is pretty-printed.

    shared: its line holds other records. opening: how the next record on such a line begins, None where that is not
    known. usual: bytes that one record of this file may well have.
    """

    column: int
    array: bool
    pretty: bool
    shared: bool
    opening: re.Pattern[bytes] | None
    usual: int

    def taken_in(self, data: bytes, at: int, fault: int) -> list[int]:
        """The offsets after `at`, and not after `fault`, at which records begin that the broken one at `at` took in."""
        if self.pretty:
            return []
        found = {place for place, bracket in self._lines(data, at, fault + 1) if bracket == b"{"}
        if self.opening:
            near = self.opening.finditer(data, at, fault + NEAR)
            found |= {match.start(1) for match in near if match.start(1) <= fault}
        return sorted(found)

    def after(self, data: bytes, at: int, fault: int) -> int | None:
        """The first offset after `at` at which the record can be over, the fault behind it; None where there is none.

        That is before a record, or an array's end; or after a brace that closes the broken record.
        """
        line = max(data.rfind(b"\n", at, fault + 1), data.rfind(b"\r", at, fault + 1)) if fault >= at else at
        match = self.opening.search(data, at) if self.opening else None
        for place, bracket in self._lines(data, max(line, at), match.start(1) if match else len(data)):
            if place >= fault and (bracket != b"]" or self.array):
                return place + (bracket == b"}")
        return match.start(1) if match else None

    def several(self, data: bytes, at: int, end: int) -> bool:
        """Whether [at, end) may hold more than one record, although it ends where one begins.

        A brace that begins a line may be a record's, however deep it is: what is broken may be the brace before it.
        """
        if self.pretty:
            return any(match[2] == b"{" for match in LINE.finditer(data, at, end))
        return not self.opening and self.lines(data, at, end)

    def lines(self, data: bytes, at: int, end: int) -> bool:
        """Whether [at, end) is more than a line that holds one record."""
        return self.shared or SEVERAL.search(data, at, end) is not None

    def _lines(self, data: bytes, low: int, high: int) -> Iterator[tuple[int, bytes]]:
        """The brackets, with their offsets, that are first on their lines and no deeper than the broken record."""
        for match in LINE.finditer(data, low, high):
            if match.start(2) - match.start() - 1 <= self.column and (self.array or not match[1]):
                yield match.start(2), match[2]


def layout_of(data: bytes, at: int, *, whole: bool, array: bool, good: bytes) -> Layout:
    """The layout of the broken record at `at`.

    whole: `data` begins where the stream does. array: the record is an array's. good: the last record before that was
    not broken. Where that one holds its first key twice, nothing tells a record from what is nested in it.
    """
    low, high = max(0, at - NEAR), at + LOOKED_AT
    whole = whole and not low
    line = max(low, data.rfind(b"\n", low, at) + 1, data.rfind(b"\r", low, at) + 1)
    before = data[line:at].removeprefix(BOM if whole else b"")
    alone = not before.strip(b" \t[,") and (line > low or whole)
    column = len(before) if alone else len(before) - len(before.lstrip(b" \t"))
    end = next((found for mark in (b"\n", b"\r") if (found := data.find(mark, at, high)) >= 0), high)
    shared = not alone or b"[" in before or (array and MORE.search(data, at, end) is not None)
    first = FIRST_KEY.match(good) or FIRST_KEY.match(data, at)
    opening = None
    if shared and first and good.count(first[0]) <= 1:
        opening = re.compile(rb"[,}\]][ \t\r\n]*+(" + re.escape(first[0]) + rb")")
    return Layout(column, array, PRETTY.match(data, at) is not None, shared, opening, 4 * max(len(good), HEAD))
