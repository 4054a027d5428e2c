"""WARC and WET archives → records: pages as undecoded bytes, converted text as text.

Frames records itself by Content-Length: the libraries at hand end quietly or abort the process on a truncated archive, and here
what comes before the break must be kept and the break named. Memory is one record.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

from stages.readers import Bad, BrokenStreamError, Good, Limits, Record
from stages.readers.records import decode

PAGES = ("text/html", "application/xhtml+xml", "text/xhtml")
LINE = 1 << 16


class _Reader:
    """Bytes in pieces, read by line and by length; knows how far it is."""

    def __init__(self, stream: Iterator[bytes]) -> None:
        self.stream, self.buffer, self.place = stream, b"", 0

    def _more(self) -> bool:
        piece = next(self.stream, b"")
        self.buffer += piece
        return bool(piece)

    def line(self) -> bytes:
        """Up to and with the next newline; shorter at the end of the stream."""
        while b"\n" not in self.buffer and len(self.buffer) < LINE and self._more():
            continue
        end = self.buffer.find(b"\n") + 1 or min(len(self.buffer), LINE)
        return self._take(end)

    def read(self, size: int) -> bytes:
        """So many bytes; fewer at the end of the stream."""
        parts = [self._take(min(size, len(self.buffer)))]
        left = size - len(parts[0])
        while left and self._more():
            parts.append(self._take(min(left, len(self.buffer))))
            left -= len(parts[-1])
        return b"".join(parts)

    def skip(self, size: int) -> int:
        """Passes over so many bytes; how many there were."""
        left = size
        while left and (self.buffer or self._more()):
            left -= len(self._take(min(left, len(self.buffer))))
        return size - left

    def _take(self, size: int) -> bytes:
        taken, self.buffer = self.buffer[:size], self.buffer[size:]
        self.place += size
        return taken


def warc(stream: Iterator[bytes], limits: Limits) -> Iterator[Record]:
    """Responses with HTML as pages, plain-text responses and conversions as text; other records are passed over.

    Position is the record's byte offset in the decompressed archive. `url`, and `content_type` of a page, are fields.
    """
    reader = _Reader(stream)
    place = 0
    try:
        while True:
            first = reader.line()
            if not first:
                return
            if not first.strip():
                place = reader.place
                continue
            if not first.startswith(b"WARC/"):
                yield Bad(str(place), "invalid_warc", "a record does not begin with WARC/", first[:4096])
                return
            yield from _record(reader, str(place), limits)
            place = reader.place
    except BrokenStreamError as error:
        yield Bad(str(place), error.reason, error.detail)


def _record(reader: _Reader, place: str, limits: Limits) -> Iterator[Record]:
    headers = _headers(reader)
    size = headers.get("content-length", "")
    if not size.isdecimal():
        raise BrokenStreamError("invalid_warc", f"a record without a Content-Length at byte {place}")
    length, kind = int(size), headers.get("warc-type", "")
    wanted = kind in ("response", "conversion", "resource")
    if not wanted or length > limits.record:
        whole = reader.skip(length) == length
        if wanted and whole:
            yield Bad(place, "too_long", f"{length:,} bytes")
        body = b""
    else:
        body = reader.read(length)
        whole = len(body) == length
    if not whole:
        raise BrokenStreamError("truncated", f"the record at byte {place} is cut short")
    if body:
        yield from _content(kind, headers, body, place, limits)


def _headers(reader: _Reader) -> dict[str, str]:
    """Header lines up to a blank one: lower-case names."""
    headers: dict[str, str] = {}
    while (line := reader.line()).strip():
        name, _, value = line.decode("utf-8", "replace").partition(":")
        headers[name.strip().lower()] = value.strip()
    if not line:
        raise BrokenStreamError("truncated", "the archive ends within a record's headers")
    return headers


def _content(kind: str, headers: dict[str, str], body: bytes, place: str, limits: Limits) -> Iterator[Record]:
    fields: dict[str, Any] = {"url": headers.get("warc-target-uri", "").strip("<>")}
    if date := headers.get("warc-date"):
        fields["date"] = date
    content = headers.get("content-type", "")
    if kind == "response":
        head, gap, body = body.partition(b"\r\n\r\n")
        if not gap:
            yield Bad(place, "invalid_http", "no end of the HTTP headers", head[:4096])
            return
        http = _headers(_Reader(iter([head + b"\r\n\r\n"])))
        content = http.get("content-type", "")
        try:
            body = _plain(http, body, limits)
        except (ValueError, zlib.error) as error:
            yield Bad(place, "invalid_http", str(error), body[:4096])
            return
    media = content.partition(";")[0].strip().lower()
    if media in PAGES:
        yield Good(place, fields | {"content_type": content}, payload=body)
    elif media == "text/plain":
        try:
            yield Good(place, fields | {"text": decode(body, limits)})
        except UnicodeDecodeError as bad:
            yield Bad(place, "invalid_utf8", f"{bad.reason} at byte {bad.start}", body[:4096])


def _plain(http: dict[str, str], body: bytes, limits: Limits) -> bytes:
    """The body without transfer and content encodings. Raises ValueError or zlib.error where they are broken."""
    if "chunked" in http.get("transfer-encoding", "").lower():
        body = _dechunk(body)
    encoding = http.get("content-encoding", "").lower()
    if encoding in ("gzip", "x-gzip", "deflate"):
        decoder = zlib.decompressobj(47)
        body = decoder.decompress(body, limits.record)
        if decoder.unconsumed_tail:
            raise ValueError("the body expands over the record limit")
        if not decoder.eof:
            raise ValueError("the compressed body is cut short")
    elif encoding not in ("", "identity"):
        raise ValueError(f"content encoding {encoding} is not supported")
    return body


def _dechunk(body: bytes) -> bytes:
    parts, place = [], 0
    while True:
        end = body.find(b"\r\n", place)
        size = int(body[place:end].partition(b";")[0], 16) if end > 0 else 0
        if size == 0:
            return b"".join(parts) or body
        parts.append(body[end + 2 : end + 2 + size])
        place = end + 2 + size + 2
