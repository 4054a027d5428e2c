"""What the first bytes of a text file tell: whether it is UTF-8, and which bytes end its lines.

Takes a stream's first mebibyte off it and gives both back. The one trade-off: a file whose first line feed comes after
that counts as one whose lines end with carriage returns, if it has those.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator

from stages.readers.records import AnyLines, BlankLines, Scanner, lines, whole
from stages.readers.streams import Broken

SIZE = 1 << 20

MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
"""Byte order marks, those first that begin like another."""

LOOKED_AT = 64
"""Bytes in which every other one is NUL, where a file is UTF-16 without a mark."""


def taken_off(chunks: Iterable[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """The first bytes of a stream, `SIZE` of them or more where it has so many, and the whole stream."""
    source = iter(chunks)
    pieces, size = list[bytes](), 0
    broken: Broken | None = None
    try:
        while size < SIZE and (chunk := next(source, b"")):
            pieces.append(chunk)
            size += len(chunk)
    except Broken as fault:
        broken = fault
    return b"".join(pieces), _put_back(pieces, broken, source)


def _put_back(pieces: list[bytes], broken: Broken | None, source: Iterator[bytes]) -> Iterator[bytes]:
    yield from pieces
    pieces.clear()
    if broken is not None:
        raise broken
    yield from source


def foreign_encoding(head: bytes) -> str | None:
    """UTF-16 or UTF-32 where the first bytes of a file are that; None where it may be UTF-8.

    By a byte order mark; else by the NULs of ASCII in two bytes a character (RFC 4627, section 3).
    """
    for mark, name in MARKS.items():
        if head.startswith(mark):
            return name
    seen = head[: min(len(head), LOOKED_AT) // 2 * 2]
    even, odd = seen[::2], seen[1::2]
    utf_16 = len(seen) >= 8 and ((not any(even) and all(odd)) or (not any(odd) and all(even)))
    return "UTF-16" if utf_16 else None


def line_scanner(head: bytes) -> Scanner:
    """What cuts a file into lines: at line feeds, or at carriage returns too where its first bytes have only those."""
    return AnyLines() if _returns_only(head) else lines


def text_scanner(head: bytes, documents: str) -> Scanner:
    """What cuts plain text into documents: "file", "line" or "block" (blank lines between)."""
    if documents == "block":
        return BlankLines(b"\r" if _returns_only(head) else b"\n")
    return line_scanner(head) if documents == "line" else whole


def _returns_only(head: bytes) -> bool:
    return b"\r" in head and b"\n" not in head
