"""Reads WARC and WET: a stream of bytes in, pages and texts out.

The records are framed here and their headers and HTTP parsed by fastwarc, one record at a time: its own iterator ends
without a word at a truncated record and gives up the whole file at a bad header. The one trade-off: a record's bytes
are held at once, up to the size limit; a longer one is passed over. Format: ISO 28500 (WARC 1.0 and 1.1).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from stages.readers.records import HEAD, Bad, Item, Passed, Record
from stages.readers.streams import Broken

if TYPE_CHECKING:
    from fastwarc.warc import WarcRecord

HEADER_LIMIT = 64 << 10
"""Bytes of a WARC header at most."""

HTML_TYPES = ("text/html", "application/xhtml+xml")
PAGES = re.compile(rb"\s*(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL)
"""How a page begins whose type nobody tells."""

TYPE = re.compile(rb"^WARC-Type:[ \t]*([^\s;]+)", re.IGNORECASE | re.MULTILINE)
LENGTH = re.compile(rb"^Content-Length:[ \t]*(\d{1,18})[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
END = b"\r\n\r\n"
NEXT = b"\nWARC/1."
KINDS = (b"response", b"resource", b"conversion")
"""Record types that may be documents."""


class _Window:
    """A stretch of the stream that moves forward: `data[at:]` is what lies ahead, `position` where that begins."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self.chunks, self.data, self.at, self.base = iter(chunks), b"", 0, 0
        self.ended = False
        self.broken: Broken | None = None

    @property
    def position(self) -> int:
        return self.base + self.at

    @property
    def ahead(self) -> int:
        return len(self.data) - self.at

    def fill(self, size: int) -> bool:
        """Reads on until `size` bytes lie ahead; false where the stream ends before."""
        if self.ahead >= size or self.ended:
            return self.ahead >= size
        pieces, have = [self.data[self.at :]], self.ahead
        while have < size and not self.ended:
            pieces.append(self._next())
            have += len(pieces[-1])
        self.base, self.at, self.data = self.position, 0, b"".join(pieces)
        return have >= size

    def _next(self) -> bytes:
        try:
            piece = next(self.chunks, b"")
        except Broken as broken:
            self.broken, piece = broken, b""
        self.ended = not piece
        return piece

    def find(self, mark: bytes, start: int, limit: int) -> int:
        """Bytes from here to `mark`, looked for in [start, limit); -1 where it is not there."""
        while (place := self.data.find(mark, self.at + start, self.at + limit)) < 0:
            if self.ahead >= limit or self.ended:
                return -1
            self.fill(min(limit, 2 * self.ahead + len(mark)))
        return place - self.at

    def seek_record(self, start: int) -> None:
        """Moves to the next line that begins a record, at least `start` bytes ahead; to the end where there is none."""
        self.at += start
        while (place := self.data.find(NEXT, self.at)) < 0:
            if self.ended:
                self.at = len(self.data)
                return
            self.at = max(self.at, len(self.data) - len(NEXT))
            self.fill(self.ahead + 1)
        self.at = place + 1

    def skip_blank(self) -> bool:
        """Moves past line ends; false at the end of the stream."""
        while self.fill(1):
            if self.data[self.at] not in b"\r\n":
                return True
            self.at += 1
        return False

    def fault(self, reason: str, detail: str) -> Bad:
        """What lies ahead as a bad record."""
        return Bad(self.position, reason, detail, self.data[self.at : self.at + HEAD])


def frames(chunks: Iterable[bytes], limit: int) -> Iterator[tuple[int, bytes] | Bad | Passed]:
    """The bytes of each record that may be a document, with its position; after a fault, on from the next record.

    A truncated or broken end is one `Bad`, the last.
    """
    window = _Window(chunks)
    while window.skip_blank():
        size = window.find(b"\r\n\r\n", 0, HEADER_LIMIT) + 4
        if size < 4 and window.ended:
            break
        header = window.data[window.at : window.at + max(size, 0)]
        length, kind = LENGTH.search(header), TYPE.search(header)
        if not header.startswith(b"WARC/") or length is None or kind is None:
            yield window.fault("bad_warc_header", "no WARC version, type or length")
            window.seek_record(1)
        elif (frame := _frame(window, size, size + int(length[1]), kind[1].lower() in KINDS, limit)) is not None:
            yield frame
        else:
            break
    if window.broken:
        yield window.fault(window.broken.reason, window.broken.detail)
    elif window.ahead:
        yield window.fault("truncated_stream", f"the record ends early at byte {window.base + len(window.data)}")


def _frame(window: _Window, head: int, size: int, wanted: bool, limit: int) -> tuple[int, bytes] | Bad | Passed | None:
    """The record ahead, `head` bytes of header and `size` in all, and the window past it; None where it is cut off."""
    if size > limit + head:
        fault = window.fault("record_too_large", f"{size - head:,} bytes, the limit is {limit:,}")
        window.seek_record(head)  # not past `size`: it may be a lie
        return fault if wanted else Passed("skipped_records")
    filled = window.fill(size + len(END) + len(b"WARC/"))
    tail = window.data[window.at + size : window.at + size + len(END) + len(b"WARC/")]
    if window.ahead < size or not (tail.startswith(END) or b"WARC/".startswith(tail.lstrip(b"\r\n")[:5])):
        if not filled and window.find(END + NEXT[1:], head - len(END), window.ahead) < 0 and window.ahead < size:
            return None
        fault = window.fault("bad_content_length", f"no record ends after {size - head} bytes")
        window.seek_record(head - 2)
        return fault
    start = window.position
    window.at += size
    return (start, window.data[window.at - size : window.at]) if wanted else Passed("skipped_records")


def read_warc(chunks: Iterable[bytes], limit: int) -> Iterator[Item]:
    """Pages (`html`, bytes as sent) and texts (`text`, bytes) with url, content_type, warc_date, warc_record_id.

    Other record types, other content and answers that are not 2xx are passed over.
    """
    for frame in frames(chunks, limit):
        if isinstance(frame, Bad | Passed):
            yield frame
            continue
        position, data = frame
        try:
            yield _document(position, data, limit)
        except (OSError, ValueError) as error:
            yield Bad(position, "bad_warc_record", str(error)[:500], data[:HEAD])


def _document(position: int, data: bytes, limit: int) -> Item:
    from fastwarc.warc import WarcRecord

    record = WarcRecord.from_bytes(data)
    values: dict[str, Any] = {
        "url": record.headers.get("WARC-Target-URI"),
        "content_type": record.headers.get("Content-Type"),
        "warc_date": record.headers.get("WARC-Date"),
        "warc_record_id": record.headers.get("WARC-Record-ID"),
    }
    if record.is_http:
        body = _http_body(data, limit)
        if body is None:
            return Bad(position, "bad_http", "the body is not what Content-Encoding says", data[:HEAD])
        record, content = body
        if len(content) > limit:
            return Bad(position, "record_too_large", f"the body expands to over {limit:,} bytes", data[:HEAD])
        status = record.http_headers.status_code
        if status is not None and not 200 <= status < 300:
            return Passed("skipped_http_status")
        values |= {"content_type": record.http_headers.get("Content-Type"), "http_status": status}
    else:
        content = record.reader.read(len(data))
    return _typed(position, values, content)


def _typed(position: int, values: dict[str, Any], content: bytes) -> Item:
    kind, _, parameters = (values["content_type"] or "").lower().partition(";")
    if kind.strip() in HTML_TYPES or (not kind.strip() and PAGES.match(content[:1024])):
        return Record(position, {"html": content, **values})
    if kind.strip() == "text/plain":
        return Record(position, {"text": _plain(content, parameters), **values})
    return Passed("skipped_content")


def _plain(content: bytes, parameters: str) -> bytes | str:
    """Text by its declared charset where that fits, else the bytes, to be taken as UTF-8."""
    charset = parameters.partition("charset=")[2].strip(" \"';")
    try:
        return content.decode(charset) if charset else content
    except (LookupError, ValueError):
        return content


def _http_body(data: bytes, limit: int) -> tuple[WarcRecord, bytes] | None:
    """The record with its HTTP header parsed, and the body decoded as the header says.

    Crawlers often store a body decoded and leave the header as it was: where decoding fails, a body that is plainly
    text stands as it is. None where it is neither.
    """
    from fastwarc.warc import WarcRecord

    for decode in ("all", "none"):
        record = WarcRecord.from_bytes(data)
        try:
            record.parse_http(auto_decode=decode)
            body = record.reader.read(limit + 1)
        except OSError:
            continue
        if decode == "all" or body.lstrip()[:1] == b"<":
            return record, body
    return None
