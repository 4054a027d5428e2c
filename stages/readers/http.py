"""Reads HTTP answers and header blocks as archives hold them: heads with any line ends, bodies as stored.

Bytes in, status, headers and a decoded body out. A body is often not as its header says, because crawlers store it
decoded or without its chunks and keep the header. One rule for cut bodies, for all codings and for chunks alike: what
can be decoded is kept and the body is marked as truncated. Formats: RFC 9110 section 8.4 and RFC 9112.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from stages.readers.media import is_binary
from stages.readers.streams import ZstdFrame

LINE_END = re.compile(rb"\r*\n")
HEAD_END = re.compile(rb"\n\r*\n")
"""The end of the last line of a head and the blank line after it. A line ends with LF, and the CRs before it go too."""

STATUS = re.compile(rb"(?:HTTP|ICY)(?:/[\d.]+)?[ \t]+(\d{3})(?!\d)", re.IGNORECASE)
CHUNK_SIZE = re.compile(rb"[ \t]*([0-9a-fA-F]{1,16})[ \t]*(?:;[^\n]*)?(?:\r*\n|\r?\Z)")
"""The line before a chunk; extensions are ignored."""

CHUNK_END = re.compile(rb"\r*\n|\r?\Z")
GZIP = b"\x1f\x8b"
SLICE = 256


class HttpError(ValueError):
    """An answer that cannot be read; the message says why."""


class Answer(NamedTuple):
    """The head of an answer and its body as stored. headers: by lower-case name, several of one name joined by ", "."""

    status: int
    headers: dict[str, str]
    body: bytes


class Body(NamedTuple):
    """A decoded body. whole: whether nothing is missing at its end."""

    data: bytes
    whole: bool


def head_fields(head: bytes) -> dict[str, str]:
    """The fields of a head, without its first line: values by lower-case name, several of one name joined by ", ".

    A line that begins with a blank continues the one before it; a line without a colon is passed over.
    """
    fields: dict[str, str] = {}
    name = ""
    for line in LINE_END.split(head)[1:]:
        if line[:1] in (b" ", b"\t") and name:
            fields[name] = f"{fields[name]} {_text(line)}".strip()
            continue
        key, colon, value = line.partition(b":")
        if not colon or not key.strip():
            continue
        name = _text(key).lower()
        fields[name] = f"{fields[name]}, {_text(value)}" if name in fields else _text(value)
    return fields


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace").strip(" \t\r")


def read_answer(data: bytes) -> Answer:
    """The final answer in the bytes: blank lines before it and interim (1xx) answers are passed over.

    Raises HttpError where no status line or no end of the head is found.
    """
    while True:
        data = data.lstrip(b"\r\n")
        line = STATUS.match(data)
        if line is None:
            raise HttpError("no HTTP status line")
        end = HEAD_END.search(data)
        if end is None:
            raise HttpError("the HTTP head does not end")
        answer = Answer(int(line[1]), head_fields(data[: end.start()]), data[end.end() :])
        if not 100 <= answer.status < 200 or not STATUS.match(answer.body.lstrip(b"\r\n")):
            return answer
        data = answer.body


def read_body(answer: Answer, limit: int) -> Body:
    """The body with its chunks and codings undone, as far as it has them; not much more than `limit` + 1 bytes of it.

    Where a coding of the header cannot be undone, a body that is no binary data stands as it is.
    Raises HttpError for a binary one.
    """
    data, whole = answer.body, True
    if "chunked" in answer.headers.get("transfer-encoding", "").lower():
        data, whole = _dechunked(data) or (data, True)
    codings = _codings(answer.headers)
    if not codings and data is answer.body:
        return Body(data, len(data) >= _length(answer.headers))
    for coding in codings:
        done = _decoded(data, coding, limit)
        if done is not None and (done.whole or is_binary(data)):
            data, whole = done.data, done.whole and whole
        elif is_binary(data):
            raise HttpError(f"the body is not what Content-Encoding says: {coding[:40]}")
    return Body(data, whole)


def _codings(headers: Mapping[str, str]) -> list[str]:
    """The codings of a body, the one to undo first at the front."""
    names = ", ".join(headers.get(name, "") for name in ("content-encoding", "transfer-encoding"))
    codings = [name.strip().lower() for name in names.split(",")]
    return [coding for coding in reversed(codings) if coding not in ("", "identity", "none", "chunked")]


def _length(headers: Mapping[str, str]) -> int:
    """Content-Length; 0 where it is missing or no number."""
    value = headers.get("content-length", "")
    return int(value) if re.fullmatch("[0-9]{1,18}", value) else 0


def _dechunked(data: bytes) -> Body | None:
    """The body without its chunks; None where it has none. Where the chunks end early, the rest stays as it is."""
    pieces: list[bytes] = []
    at = 0
    while (line := CHUNK_SIZE.match(data, at)) is not None:
        start, size = line.end(), int(line[1], 16)
        if size == 0:
            return Body(b"".join(pieces), True)
        if start + size > len(data):
            return Body(b"".join([*pieces, data[start:]]), False) if pieces or start < len(data) else None
        if (end := CHUNK_END.match(data, start + size)) is None:
            break
        pieces.append(data[start : start + size])
        at = end.end()
    return Body(b"".join([*pieces, data[at:]]), False) if pieces else None


class _Decoder(Protocol):
    """The shape of `zlib.decompressobj`."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def _decoded(data: bytes, coding: str, limit: int) -> Body | None:
    """The data with one coding undone; None where it is not so coded or the coding is unknown."""
    if coding in ("gzip", "x-gzip"):
        return _expanded(data, limit, lambda: zlib.decompressobj(zlib.MAX_WBITS | 16), GZIP)
    if coding == "deflate":
        with_head = _expanded(data, limit, zlib.decompressobj)
        return with_head or _expanded(data, limit, lambda: zlib.decompressobj(-zlib.MAX_WBITS))
    if coding == "zstd":
        return _expanded(data, limit, ZstdFrame, ZstdFrame.magic)
    if coding == "br":
        return _brotli(data, limit)
    return None


def _expanded(data: bytes, limit: int, new: Callable[[], _Decoder], magic: bytes | None = None) -> Body | None:
    """Compressed data undone, and the further members where they begin with `magic`; what follows is ignored."""
    import zstandard

    pieces: list[bytes] = []
    size = 0
    while not pieces or (magic and data.startswith(magic) and size <= limit):
        decoder = new()
        try:
            pieces.append(decoder.decompress(data, limit + 1 - size))
        except (zlib.error, zstandard.ZstdError):
            return Body(b"".join(pieces), False) if pieces else None
        size += len(pieces[-1])
        if not decoder.eof:
            return Body(b"".join(pieces), size > limit)
        data = decoder.unused_data
    return Body(b"".join(pieces), True)


def _brotli(data: bytes, limit: int) -> Body | None:
    """Brotli data undone. Its decoder takes bytes after the end for a fault, so where it finds one, it is given less at
    a time, to stop at the end."""
    body, _ = _brotli_pieces([data], limit)
    if body is None:
        body, fed = _brotli_pieces(_slices(data, SLICE), limit)
        if body is None:
            body, _ = _brotli_pieces([*_slices(data[:fed], SLICE), *_slices(data[fed : fed + SLICE], 1)], limit)
    return body


def _slices(data: bytes, size: int) -> list[bytes]:
    return [data[k : k + size] for k in range(0, len(data), size)]


def _brotli_pieces(pieces: list[bytes], limit: int) -> tuple[Body | None, int]:
    """What the pieces give, None after a fault, and how many bytes were given before the last piece."""
    import brotli

    decoder, out, size, fed = brotli.Decompressor(), list[bytes](), 0, 0
    for piece in pieces:
        try:
            more = decoder.process(piece, output_buffer_limit=limit + 1 - size)
            while more:  # a call may leave some of the output to the next one
                out.append(more)
                size += len(more)
                more = decoder.process(b"", output_buffer_limit=limit + 1 - size) if size <= limit else b""
        except brotli.error:
            return None, fed
        if size > limit or decoder.is_finished():
            return Body(b"".join(out), True), fed
        fed += len(piece)
    return Body(b"".join(out), False), fed
