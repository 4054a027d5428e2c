"""Cuts a stream of bytes into records: lines, blocks between blank lines, or JSON values.

Reads chunks, gives (position, bytes) pairs; a scanner tells where records end, `records` holds what is still open. The
one trade-off: never more than one record's limit is held, so of a longer record only the head is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from stages.readers.streams import Broken

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEAD = 4096
"""Bytes of a bad record that go to quarantine."""

SPACE = b" \t\r\n"
"""JSON's white space."""


class Bad(NamedTuple):
    """A record that cannot be a document: where it starts, a short slug, what is wrong, its first bytes."""

    position: int
    reason: str
    detail: str
    head: bytes = b""


class Record(NamedTuple):
    """A record: its position in the source, and its values by field name."""

    position: int
    values: dict[str, Any]


class Passed(NamedTuple):
    """Something in the source that is no document and no fault, such as a WARC request: `kind` names its counter."""

    kind: str


Item = Record | Bad | Passed
"""What a reader of records yields."""

Scanner = Callable[[bytes], "NDArray[np.int64]"]
"""Fed with every chunk in turn, answers with the offsets in it at which a record ends (the first byte after it)."""


class _Open:
    """The record that is still open: its pieces as far as they fit the limit, and how long it is."""

    def __init__(self, position: int, limit: int) -> None:
        self.position, self.limit = position, limit
        self.size, self.pieces = 0, list[bytes]()

    def add(self, piece: bytes) -> None:
        self.size += len(piece)
        if self.size <= self.limit:
            self.pieces.append(piece)
        else:
            self.pieces = [b"".join([*self.pieces, piece[:HEAD]])[:HEAD]]

    def head(self) -> bytes:
        return b"".join(self.pieces)[:HEAD]

    def close(self) -> tuple[int, bytes] | Bad:
        position, size, data = self.position, self.size, b"".join(self.pieces)
        self.position, self.size, self.pieces = position + size, 0, []
        if size > self.limit:
            return Bad(position, "record_too_large", f"{size:,} bytes, the limit is {self.limit:,}", data[:HEAD])
        return position, data


def records(chunks: Iterable[bytes], scan: Scanner, limit: int, start: int = 0) -> Iterator[tuple[int, bytes] | Bad]:
    """Records of at most `limit` bytes with their positions, counted from `start`; `Bad` for a longer one.

    Where the stream is broken, the record that is open then and all that would follow are one `Bad`, the last.
    """
    held = _Open(start, limit)
    try:
        for chunk in chunks:
            begin = 0
            for cut in scan(chunk).tolist():
                held.add(chunk[begin:cut])
                yield held.close()
                begin = cut
            held.add(chunk[begin:])
    except Broken as broken:
        yield Bad(held.position, broken.reason, broken.detail, held.head())
        return
    if held.size:
        yield held.close()


def whole(chunk: bytes) -> NDArray[np.int64]:
    """No record ends before the file does."""
    return np.empty(0, np.int64)


def lines(chunk: bytes) -> NDArray[np.int64]:
    """A record ends with each line feed."""
    return np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n")) + 1


class BlankLines:
    """A record ends with each blank line (nothing in it but white space)."""

    def __init__(self) -> None:
        """At the start of a stream."""
        self._blank = True
        self._table = np.ones(256, np.int64)
        self._table[list(b" \t\r\n\v\f")] = 0

    def __call__(self, chunk: bytes) -> NDArray[np.int64]:
        """The ends of the blank lines of the next chunk."""
        data = np.frombuffer(chunk, np.uint8)
        ends = np.flatnonzero(data == ord("\n"))
        inked = np.concatenate([[0 if self._blank else -1], np.cumsum(self._table[data])])
        at = inked[np.concatenate([[0], ends + 1])]
        self._blank = bool(inked[-1] == (at[-1]))
        blank: NDArray[np.int64] = ends[np.diff(at) == 0] + 1
        return blank


class JsonValues:
    """A record ends with each value: of an array, if the stream's first one is an array, else of the top level.

    In an array the brackets and commas between the values are records of their own, to be passed over.
    """

    def __init__(self) -> None:
        """At the start of a stream."""
        self._array: bool | None = None
        self._depth, self._in_string, self._escape = 0, 0, False
        self._step = np.zeros(256, np.int64)
        self._step[list(b"[{")], self._step[list(b"]}")] = 1, -1
        self._mark = np.zeros(256, np.bool_)
        self._mark[list(b"[]{},")] = True

    def __call__(self, chunk: bytes) -> NDArray[np.int64]:
        """The ends of the values of the next chunk."""
        if self._array is None and (begun := chunk.removeprefix(b"\xef\xbb\xbf").lstrip(SPACE)):
            self._array = begun.startswith(b"[")
        data = np.frombuffer(chunk, np.uint8)
        quotes = self._quotes(data)
        marks = np.flatnonzero(self._mark[data])
        inside = (np.searchsorted(quotes, marks) + self._in_string) & 1
        marks = marks[inside == 0]
        self._in_string = (self._in_string + len(quotes)) & 1
        steps = self._step[data[marks]]
        depths = self._depth + np.cumsum(steps)
        self._depth = int(depths[-1]) if len(depths) else self._depth
        closed = marks[(steps < 0) & (depths == 0)]
        ends: NDArray[np.int64] = closed + 1
        if not self._array:
            return ends
        parts = np.concatenate([closed, marks[(depths == 1) & (steps >= 0)]])  # "]", then "[" and ","
        return np.unique(np.concatenate([parts, parts + 1]))

    def _quotes(self, data: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Offsets of the quotation marks that no backslash escapes: one after an odd run of them is escaped."""
        slashes = np.flatnonzero(data == ord("\\"))
        order = np.arange(len(slashes))
        first = np.diff(slashes, prepend=-2) != 1
        place = order - np.maximum.accumulate(np.where(first, order, 0))
        if self._escape:  # the last chunk ended in an escaping backslash: the run at 0, if any, is one longer
            place += np.cumsum(first) == 1 if len(slashes) and slashes[0] == 0 else 0
        escaping = slashes[place % 2 == 0]
        quotes = np.flatnonzero(data == ord('"'))
        quotes = quotes[~np.isin(quotes - 1, escaping)]
        if self._escape and len(quotes) and quotes[0] == 0:
            quotes = quotes[1:]
        if len(data):
            self._escape = bool(len(escaping)) and int(escaping[-1]) == len(data) - 1
        return quotes
