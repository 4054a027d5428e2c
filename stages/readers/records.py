"""Cuts a stream of bytes into records: lines, or blocks between blank lines.

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

BOM = b"\xef\xbb\xbf"
"""How a file may begin that is UTF-8."""


class Bad(NamedTuple):
    """A record that cannot be a document: where it starts, a short slug, what is wrong, its first bytes.

    lost: bytes of the stream that were not read as records because of it. 0 where the fault is one record's; the size
    of what was passed over where that may have held several, or is too large to be looked at.
    """

    position: int
    reason: str
    detail: str
    head: bytes = b""
    lost: int = 0


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
            return Bad(position, "record_too_large", f"{size:,} bytes, the limit is {self.limit:,}", data[:HEAD], size)
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


class AnyLines:
    """A record ends with each line feed, each carriage return and line feed, and each carriage return by itself."""

    def __init__(self) -> None:
        """At the start of a stream."""
        self._open = False

    def __call__(self, chunk: bytes) -> NDArray[np.int64]:
        """The ends of the lines of the next chunk; 0 where the last chunk's return was a line end by itself."""
        data = np.frombuffer(chunk, np.uint8)
        follows = data[1:] != ord("\n")
        ends = data == ord("\n")
        ends[:-1] |= (data[:-1] == ord("\r")) & follows
        begins = self._open and len(chunk) > 0 and data[0] != ord("\n")
        self._open = chunk.endswith(b"\r") if chunk else self._open
        cuts: NDArray[np.int64] = np.flatnonzero(ends) + 1
        return np.concatenate([[0], cuts]) if begins else cuts


class BlankLines:
    """A record ends with each blank line (nothing in it but white space)."""

    def __init__(self, end: bytes = b"\n") -> None:
        """At the start of a stream; `end` is the byte that ends a line."""
        self._blank, self._end = True, ord(end)
        self._table = np.ones(256, np.int64)
        self._table[list(b" \t\r\n\v\f")] = 0

    def __call__(self, chunk: bytes) -> NDArray[np.int64]:
        """The ends of the blank lines of the next chunk."""
        data = np.frombuffer(chunk, np.uint8)
        ends = np.flatnonzero(data == self._end)
        inked = np.concatenate([[0 if self._blank else -1], np.cumsum(self._table[data])])
        at = inked[np.concatenate([[0], ends + 1])]
        self._blank = bool(inked[-1] == (at[-1]))
        blank: NDArray[np.int64] = ends[np.diff(at) == 0] + 1
        return blank
