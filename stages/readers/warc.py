"""Reads WARC and WET: a stream of bytes in, pages and texts out.

The records are framed and read here, one at a time, so that a truncated record or a bad header costs that record and
no other. The one trade-off: a record's bytes are held at once, up to the size limit; a longer one is passed over.
Format: ISO 28500 (WARC 1.0 and 1.1), and what is found in its place: line ends of LF alone, addresses in brackets, no
Content-Type.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from stages.readers import charset
from stages.readers.http import head_fields, read_answer, read_body
from stages.readers.media import BOMS, HTML, PLAIN, media_type, sniffed
from stages.readers.records import HEAD, Bad, Item, Passed, Record
from stages.readers.streams import Ahead

HEADER_LIMIT = 64 << 10
"""Bytes of a WARC header at most."""

HTML_TYPES = (HTML, "application/xhtml+xml")
ANSWER = re.compile(rb"[\r\n]*(?:HTTP/\d|ICY )", re.IGNORECASE)
"""How an answer begins whose record tells no type."""

BLANK_LINE = re.compile(rb"\n\r*\n")
END = b"\r\n\r\n"
NEXT = b"\nWARC/1."
RECORD = re.compile(rb"\n\r*\nWARC/1\.")
LENGTH = re.compile(r"[0-9]{1,18}")
KINDS = ("response", "resource", "conversion")
"""Record types that may be documents."""


class _Window(Ahead):
    """A stretch of the stream that moves forward: `data[at:]` is what lies ahead, `position` where that begins."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        super().__init__(chunks)
        self.data, self.at, self.base = b"", 0, 0

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
            pieces.append(self.next_chunk())
            have += len(pieces[-1])
        self.base, self.at, self.data = self.position, 0, b"".join(pieces)
        return have >= size

    def head(self, limit: int) -> bytes:
        """What lies ahead up to the first blank line and with it; b"" where `limit` bytes have none."""
        while (found := BLANK_LINE.search(self.data, self.at, self.at + limit)) is None:
            if self.ahead >= limit or self.ended:
                return b""
            self.fill(min(limit, 2 * self.ahead + len(END)))
        return self.data[self.at : found.end()]

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


class Frame(NamedTuple):
    """A record: its position, the fields of its header by lower-case name, its whole bytes and those of its block."""

    position: int
    fields: dict[str, str]
    data: bytes
    block: bytes


def frames(chunks: Iterable[bytes], limit: int) -> Iterator[Frame | Bad | Passed]:
    """Each record that may be a document; after a fault, on from the next record.

    A truncated or broken end is one `Bad`, the last.
    """
    window = _Window(chunks)
    while window.skip_blank():
        head = window.head(HEADER_LIMIT)
        if not head and window.ended:
            break
        fields = head_fields(head)
        length, kind = fields.get("content-length", ""), fields.get("warc-type", "").lower()
        if not head.startswith(b"WARC/") or not LENGTH.fullmatch(length) or not kind:
            yield window.fault("bad_warc_header", "no WARC version, type or length")
            window.seek_record(1)
        elif (frame := _frame(window, len(head), fields, limit)) is not None:
            yield frame
        else:
            break
    if window.broken:
        yield window.fault(window.broken.reason, window.broken.detail)
    elif window.ahead:
        yield window.fault("truncated_stream", f"the record ends early at byte {window.base + len(window.data)}")


def _frame(window: _Window, head: int, fields: dict[str, str], limit: int) -> Frame | Bad | Passed | None:
    """The record ahead, with `head` bytes of header, and the window past it; None where it is cut off."""
    size, wanted = head + int(fields["content-length"]), fields["warc-type"].lower() in KINDS
    if size > limit + head:
        fault = window.fault("record_too_large", f"{size - head:,} bytes, the limit is {limit:,}")
        window.seek_record(head)  # not past `size`: it may be a lie
        return fault if wanted else Passed("skipped_records")
    filled = window.fill(size + len(END) + len(b"WARC/"))
    tail = window.data[window.at + size : window.at + size + len(END) + len(b"WARC/")]
    if window.ahead < size or not (tail.startswith(END) or b"WARC/".startswith(tail.lstrip(b"\r\n")[:5])):
        if not filled and window.ahead < size and RECORD.search(window.data, window.at + head - 2) is None:
            return None
        fault = window.fault("bad_content_length", f"no record ends after {size - head} bytes")
        window.seek_record(head - 2)
        return fault
    start = window.position
    window.at += size
    data = window.data[window.at - size : window.at]
    return Frame(start, fields, data, data[head:]) if wanted else Passed("skipped_records")


def read_warc(chunks: Iterable[bytes], limit: int) -> Iterator[Item]:
    """Pages (`html`, bytes as sent) and texts (`text`) with url, content_type, warc_date, warc_record_id.

    Pages of HTTP have their http_status, and what is not whole has `truncated`: what WARC-Truncated says, else "body"
    where an HTTP body ends early, whatever its coding. Passed over, each kind counted: other record types, other
    content, answers that are not 2xx.
    """
    for frame in frames(chunks, limit):
        if not isinstance(frame, Frame):
            yield frame
            continue
        try:
            yield _document(frame, limit)
        except ValueError as error:
            yield Bad(frame.position, "bad_http", str(error), frame.data[:HEAD])


def _document(frame: Frame, limit: int) -> Item:
    fields = frame.fields
    values: dict[str, Any] = {
        "url": _address(fields.get("warc-target-uri")),
        "content_type": fields.get("content-type"),
        "warc_date": fields.get("warc-date"),
        "warc_record_id": fields.get("warc-record-id"),
    }
    content, truncated = frame.block, fields.get("warc-truncated")
    if _is_http(frame):
        answer = read_answer(frame.block)
        if not 200 <= answer.status < 300:
            return Passed("skipped_http_status")
        values |= {"content_type": answer.headers.get("content-type"), "http_status": answer.status}
        if media_type(values["content_type"] or "").essence not in (*HTML_TYPES, PLAIN, ""):
            return Passed("skipped_content")
        content, whole = read_body(answer, limit)
        if len(content) > limit:
            detail = f"the body expands to over {limit:,} bytes"
            return Bad(frame.position, "record_too_large", detail, frame.data[:HEAD])
        truncated = truncated or (None if whole else "body")
    return _typed(frame.position, values | ({"truncated": truncated} if truncated else {}), content)


def _address(value: str | None) -> str | None:
    """WARC-Target-URI without the brackets that WARC 1.0's grammar has and some crawlers write."""
    return value[1:-1] if value and value.startswith("<") and value.endswith(">") else value


def _is_http(frame: Frame) -> bool:
    """Whether the block is an HTTP answer: by its type, and by its first bytes where the type says something else."""
    if media_type(frame.fields.get("content-type", "")).essence == "application/http":
        return True
    return frame.fields["warc-type"].lower() == "response" and ANSWER.match(frame.block) is not None


def _typed(position: int, values: dict[str, Any], content: bytes) -> Item:
    kind, label = media_type(values["content_type"] or "")
    kind = kind or sniffed(content)
    if kind in HTML_TYPES:
        return Record(position, {"html": content, **values})
    if kind == PLAIN:
        return Record(position, {"text": _plain(content, label), **values})
    return Passed("skipped_content")


def _plain(content: bytes, label: str) -> bytes | str:
    """Text by its byte order mark or declared charset where that fits, else the bytes, to be taken as UTF-8."""
    for mark, name in BOMS:
        if content.startswith(mark):
            text = charset.decode(content[len(mark) :], name)
            return content[len(mark) :] if name == "utf-8" else content if "\ufffd" in text else text
    name = charset.encoding(label)
    text = charset.decode(content, name) if name not in ("", "utf-8") else "\ufffd"
    return content if "\ufffd" in text else text
