"""Reads CSV and TSV: a stream of bytes in, a record for each row out, by the names in the header line.

A fault costs the row that it is in. The one trade-off: nothing tells an open quotation mark from a text of many lines,
so after a fault the lines behind the mark are read as rows of their own. Formats: RFC 4180, as the csv module reads it
strictly; without quoting, IANA's text/tab-separated-values.
"""

from __future__ import annotations

import csv
import re
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from stages.readers.records import BOM, HEAD, AnyLines, Bad, Item, Record, Scanner, records
from stages.readers.rows import Fields
from stages.readers.streams import Broken
from stages.readers.values import distinct

Line = tuple[int, bytes]
QUOTED = re.compile(rb'"[^"]*+(?:""[^"]*+)*+')


class Row(NamedTuple):
    """A row: its position, its fields, its first bytes, its size where it has several lines, a fault of its bytes."""

    position: int
    values: list[str]
    head: bytes
    lines: int = 0
    fault: Bad | None = None


def read_delimited(
    chunks: Iterable[bytes], fields: Fields, delimiter: str, scan: Scanner, *, quoted: bool
) -> Iterator[Item]:
    """The rows below a header line. quoted: fields may stand in quotation marks, and lines then end as they may;
    else `scan` cuts lines, and quotation marks are part of the text.

    A header that lacks the text, has it twice or cannot be read costs the file: one `Bad`, whose `lost` is the file's
    bytes. Other columns of one name are numbered.
    """
    stream = _Counted(chunks)
    items = records(stream, AnyLines() if quoted else scan, fields.max_bytes)
    rows: Iterator[Row | Bad] = _quoted(items, fields, delimiter) if quoted else _split(items, fields, delimiter)
    first = next(rows, None)
    if first is None:
        return
    wanted = fields.html or fields.text
    if isinstance(first, Bad) or wanted not in first.values:
        yield _given_up(first, wanted, stream)
        return
    if first.values.count(wanted) > 1:
        yield _given_up(first, wanted, stream)
        return
    if first.fault:
        yield first.fault._replace(reason="malformed_header")
    header = distinct(first.values)
    for row in rows:
        yield row if isinstance(row, Bad) else _record(row, header)


def _given_up(first: Row | Bad, wanted: str, stream: _Counted) -> Bad:
    """The whole file as a fault; what is left of it is read, so that its bytes are counted."""
    with suppress(Broken):
        for _ in stream:
            pass
    if isinstance(first, Bad):
        return first._replace(reason="malformed_header", lost=stream.size)
    number, names = first.values.count(wanted), ", ".join(first.values)
    reason = "malformed_header" if first.fault else "ambiguous_field" if number else "missing_field"
    detail = f"{number or 'no'} column{'s' if number > 1 else ''} {wanted!r} in: {names}"[:500]
    return Bad(first.position, reason, detail, first.head, stream.size)


def _record(row: Row, header: list[str]) -> Record | Bad:
    if row.fault:
        return row.fault
    if len(row.values) != len(header):
        detail = f"{len(row.values)} fields, the header has {len(header)}"
        return Bad(row.position, "csv_error", detail, row.head, row.lines)
    return Record(row.position, dict(zip(header, row.values, strict=True)))


class _Counted(Iterator[bytes]):
    """Chunks, and how many bytes they had."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self.chunks, self.size = iter(chunks), 0

    def __next__(self) -> bytes:
        chunk = next(self.chunks)
        self.size += len(chunk)
        return chunk


def _decoded(line: Line, fields: Fields) -> tuple[str, Bad | None]:
    """A line's text, and its fault where it is no UTF-8 and may not be replaced."""
    position, data = line
    if position == 0:
        data = data.removeprefix(BOM)
    try:
        return data.decode(), None
    except UnicodeDecodeError as error:
        place = f"byte {position + len(line[1]) - len(data) + error.start}: {error.reason}"
        fault = None if fields.replace else Bad(position, "invalid_utf8", place, line[1][:HEAD])
        return data.decode(errors="replace"), fault


def _split(items: Iterator[Line | Bad], fields: Fields, delimiter: str) -> Iterator[Row | Bad]:
    """A row a line, whatever is in it."""
    for item in items:
        if isinstance(item, Bad):
            yield item
            continue
        text, fault = _decoded(item, fields)
        if text := text.rstrip("\r\n"):
            yield Row(item[0], text.split(delimiter), item[1][:HEAD], 0, fault)


class _InterruptedError(Exception):
    """A row that can get no further line: it would be too large, or the next line is."""


class _Lines(Iterator[str]):
    """The lines that `csv.reader` asks for, those of the row in the making held, with the first fault of their bytes.

    Lines of `back` come first. Raises _InterruptedError.
    """

    def __init__(self, items: Iterator[Line | Bad], fields: Fields) -> None:
        self.items, self.fields, self.back = items, fields, deque[Line | Bad]()
        self.begin()

    def begin(self) -> None:
        """The next line is the first of a row."""
        self.held, self.size = list[Line](), 0
        self.fault: Bad | None = None

    def __next__(self) -> str:
        item = self.back.popleft() if self.back else next(self.items)
        if isinstance(item, Bad):
            self.back.appendleft(item)
            raise _InterruptedError("the next line is too large or cannot be read")
        self.held.append(item)
        self.size += len(item[1])
        if self.size > self.fields.max_bytes:
            raise _InterruptedError(f"over {self.fields.max_bytes:,} bytes")
        text, fault = _decoded(item, self.fields)
        self.fault = self.fault or (fault and fault._replace(position=self.held[0][0], head=self.held[0][1][:HEAD]))
        return text


def _quoted(items: Iterator[Line | Bad], fields: Fields, delimiter: str) -> Iterator[Row | Bad]:
    """Rows as the csv module reads them; after a fault, on from the line behind the one where it lies."""
    csv.field_size_limit(max(csv.field_size_limit(), fields.max_bytes + 1))
    source = _Lines(items, fields)
    reader = csv.reader(source, delimiter=delimiter, strict=True)
    width = 0
    while True:
        source.begin()
        try:
            values = next(reader)
        except StopIteration:
            return
        except _InterruptedError as fault:
            if source.held:
                reason = "record_too_large" if source.size > fields.max_bytes else "csv_error"
                yield from _taken_up(source, delimiter, reason, str(fault))
            else:
                yield source.back.popleft()  # type: ignore[misc]
            continue
        except csv.Error as fault:
            yield from _taken_up(source, delimiter, "csv_error", _plain(fault))
            continue
        if width and values and len(values) != width and _took_rows(source, delimiter, width):
            detail = f"{len(values)} fields, the header has {width}, and lines of it are rows"
            yield from _taken_up(source, delimiter, "csv_error", detail)
        elif values:
            width = width or len(values)
            (position, line), several = source.held[0], len(source.held) > 1
            yield Row(position, values, line[:HEAD], source.size if several else 0, source.fault)


def _plain(fault: csv.Error) -> str:
    """What the csv module says, where its words are for programmers in words for users."""
    return "a quotation mark is never closed" if str(fault) == "unexpected end of data" else str(fault)


def _taken_up(source: _Lines, delimiter: str, reason: str, detail: str) -> Iterator[Row | Bad]:
    """The row held as a fault, up to the line where its last quotation mark opened; then the lines behind it.

    Each of those is a row by itself, but the last, which is put back and may begin a longer one: so no line is read
    more than three times.
    """
    last = _opened(source.held, delimiter)[-1]
    (position, line), behind = source.held[0], source.held[last + 1 :]
    size = sum(len(data) for _, data in source.held[: last + 1])
    yield Bad(position, reason, detail, line[:HEAD], size if last or reason == "record_too_large" else 0)
    for one in behind[:-1]:
        if row := _alone(one, source.fields, delimiter):
            yield row
    source.back.extendleft(behind[-1:])


def _alone(line: Line, fields: Fields, delimiter: str) -> Row | Bad | None:
    """A line as a row; None where it is blank."""
    text, fault = _decoded(line, fields)
    try:
        values = next(csv.reader([text], delimiter=delimiter, strict=True))
    except csv.Error as error:
        return Bad(line[0], "csv_error", _plain(error), line[1][:HEAD])
    return Row(line[0], values, line[1][:HEAD], 0, fault) if values else None


def _took_rows(source: _Lines, delimiter: str, width: int) -> bool:
    """Whether the line behind the first open quotation mark is a whole row: the mark is then astray."""
    behind = _opened(source.held, delimiter)[0] + 1
    row = _alone(source.held[behind], source.fields, delimiter) if behind < len(source.held) else None
    return isinstance(row, Row) and len(row.values) == width


def _opened(held: list[Line], delimiter: str) -> list[int]:
    """The lines, by number, where quoted fields open that do not end on their line, or that end badly; else the first.

    The last one of a row with a fault is where the fault lies.
    """
    data = b"".join(line for _, line in held)
    plain = re.compile(rb"[^\r\n" + re.escape(delimiter.encode()) + rb"]*+")
    ends = [0]
    for _, line in held:
        ends.append(ends[-1] + len(line))
    opened = list[int]()
    at = len(BOM) if held[0][0] == 0 and data.startswith(BOM) else 0
    while at < len(data):
        quoted = QUOTED.match(data, at)
        end = quoted.end() + 1 if quoted else plain.match(data, at).end()  # type: ignore[union-attr]
        number = bisect_right(ends, at) - 1
        ends_badly = quoted is not None and data[end : end + 1] not in (b"", b"\r", b"\n", delimiter.encode())
        if ends_badly or (quoted and end > ends[number + 1]):
            opened.append(number)
        if ends_badly:
            break
        at = end + 1
    return opened or [0]
