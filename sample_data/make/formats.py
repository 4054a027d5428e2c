"""Writes the dump's files: the same bytes for the same records, whenever they are written.

Takes records, gives the bytes of JSONL, WARC and Parquet files and the place of each record. The one trade-off: WARC is
framed by hand, since no writer in use leaves out the time of writing.
"""

from __future__ import annotations

import gzip
import io
import json
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

DATE = "2023-06-10T00:00:00Z"
"""When everything was fetched: the day Debian 12 appeared."""


@dataclass(frozen=True, slots=True)
class Response:
    """A web answer: url, status line, HTTP headers after the content's length, body."""

    url: str
    status: str
    headers: Sequence[tuple[str, str]]
    body: bytes


def packed(data: bytes) -> bytes:
    """gzip at its best, without a time."""
    out = io.BytesIO()
    with gzip.GzipFile("", "wb", 9, out, mtime=0) as file:
        file.write(data)
    return out.getvalue()


def compressed(name: str, data: bytes) -> bytes:
    """The bytes as the name's suffix says."""
    if name.endswith(".gz"):
        return packed(data)
    return zstandard.ZstdCompressor(level=19).compress(data) if name.endswith(".zst") else data


def jsonl(records: Iterable[dict[str, object] | bytes]) -> tuple[bytes, list[int]]:
    """Lines, and where each begins; a record of bytes is written as it is."""
    lines = [r if isinstance(r, bytes) else json.dumps(r, ensure_ascii=False).encode() for r in records]
    places, end = [], 0
    for line in lines:
        places.append(end)
        end += len(line) + 1
    return b"".join(line + b"\n" for line in lines), places


def warc(responses: Iterable[Response], requests_for: int) -> bytes:
    """An archive, a gzip member per record: warcinfo, then each answer, the first `requests_for` with their
    requests."""
    info = b"software: sample\r\nformat: WARC File Format 1.0\r\n"
    members = [_record("warcinfo", "", "application/warc-fields", info)]
    for k, response in enumerate(responses):
        if k < requests_for:
            path = response.url.split("/", 3)[3]
            ask = f"GET /{path} HTTP/1.1\r\nHost: {response.url.split('/')[2]}\r\n\r\n".encode()
            members.append(_record("request", response.url, "application/http; msgtype=request", ask))
        lines = [f"HTTP/1.1 {response.status}", *(f"{name}: {value}" for name, value in response.headers)]
        if not any(name == "Transfer-Encoding" for name, _ in response.headers):
            lines.append(f"Content-Length: {len(response.body)}")
        block = "\r\n".join(lines).encode() + b"\r\n\r\n" + response.body
        members.append(_record("response", response.url, "application/http; msgtype=response", block))
    return b"".join(map(packed, members))


def _record(kind: str, url: str, content: str, block: bytes) -> bytes:
    name = uuid.uuid5(uuid.NAMESPACE_URL, f"{kind} {url}")
    head = ["WARC/1.0", f"WARC-Type: {kind}", f"WARC-Date: {DATE}", f"WARC-Record-ID: <urn:uuid:{name}>"]
    head += [f"WARC-Target-URI: {url}"] if url else []
    head += [f"Content-Type: {content}", f"Content-Length: {len(block)}"]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + block + b"\r\n\r\n"


def chunked(body: bytes, size: int = 4000) -> bytes:
    """A body in HTTP's chunked transfer coding (RFC 9112, 7.1)."""
    parts = [body[k : k + size] for k in range(0, len(body), size)]
    return b"".join(f"{len(part):x}\r\n".encode() + part + b"\r\n" for part in parts) + b"0\r\n\r\n"


def parquet(records: Sequence[dict[str, str | None]]) -> bytes:
    """A table of id, url, title, text, as wiki dumps have it."""
    schema = pa.schema([(name, pa.string()) for name in ("id", "url", "title", "text")])
    out = io.BytesIO()
    pq.write_table(
        pa.Table.from_pylist(list(records), schema=schema),
        out,
        compression="zstd",
        compression_level=15,
        row_group_size=500,
    )
    return out.getvalue()
