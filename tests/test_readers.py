"""The readers: streams that break anywhere, records of any size, WARC with every kind of lie in it."""

import bz2
import gzip
import json
import lzma
import random
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from stages.readers.records import AnyLines, Bad, BlankLines, Item, Passed, Record, lines, records
from stages.readers.rows import Fields
from stages.readers.streams import Broken, Limits, Stream
from stages.readers.text import read_json, read_json_values, read_text
from stages.readers.warc import read_warc
from tests import oracles_ingest as oracles

LIMITS = Limits(1000.0, 1 << 40, 16 << 20)
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def chunked(data: bytes, size: int) -> Iterator[bytes]:
    return (data[k : k + size] for k in range(0, len(data), size))


@contextmanager
def memory() -> Iterator[list[int]]:
    """Puts into a list the most bytes that Python held at a time within the `with`."""
    peak: list[int] = []
    tracemalloc.start()
    try:
        yield peak
        peak.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()


def drained(stream: Stream) -> tuple[bytes, str]:
    """What a stream gives, and why it stopped."""
    out = b""
    try:
        for chunk in stream:
            out += chunk
    except Broken as broken:
        return out, broken.reason
    return out, ""


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_stream_cut_anywhere_gives_its_beginning_and_says_so(tmp_path: Path, suffix: str) -> None:
    rng = random.Random(3)
    data = b"".join(b"%d line\n" % rng.randrange(10**9) for _ in range(4000))
    packed = COMPRESS[suffix](data)
    path = tmp_path / f"a{suffix}"
    for cut in [1, 5, len(packed) - 1, *(rng.randrange(1, len(packed)) for _ in range(25))]:
        path.write_bytes(packed[:cut])
        out, reason = drained(Stream(str(path), LIMITS))
        assert data.startswith(out)
        assert reason == "truncated_stream"
    path.write_bytes(packed + packed)
    assert drained(Stream(str(path), LIMITS)) == (data + data, "")
    path.write_bytes(packed + bytes(1000) + packed + bytes(512))
    assert drained(Stream(str(path), LIMITS)) == (data + data, "")
    path.write_bytes(packed + b"this is something else")
    assert drained(Stream(str(path), LIMITS)) == (data, "corrupt_stream")
    path.write_bytes(b"")
    assert drained(Stream(str(path), LIMITS)) == (b"", "")


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_flipped_byte_is_found(tmp_path: Path, suffix: str) -> None:
    data = bytes(random.Random(1).randbytes(20000))
    pack: Any = zstandard.ZstdCompressor(write_checksum=True).compress if suffix == ".zst" else COMPRESS[suffix]
    packed = bytearray(pack(data))
    packed[len(packed) // 2] ^= 0x10
    (tmp_path / f"a{suffix}").write_bytes(packed)
    assert drained(Stream(str(tmp_path / f"a{suffix}"), LIMITS))[1] == "corrupt_stream"


@pytest.mark.parametrize("suffix", COMPRESS)
def test_bombs_stop_early_in_little_memory(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"bomb{suffix}"
    path.write_bytes(COMPRESS[suffix](bytes(150 << 20)))
    for limits, most in ((Limits(500.0, 1 << 40, 16 << 20), 80 << 20), (Limits(1e9, 5 << 20), 5 << 20)):
        got, reason = 0, ""
        with memory() as peak:
            try:
                for chunk in Stream(str(path), limits):
                    got += len(chunk)
            except Broken as broken:
                reason = broken.reason
        assert reason == "decompression_bomb"
        assert got <= most
        assert peak[0] < 40 << 20


def test_records_before_a_break_are_kept_and_the_rest_is_one_fault(tmp_path: Path) -> None:
    docs = [{"text": f"text {k} " + "ab" * (k % 50)} for k in range(3000)]
    whole = b"".join(json.dumps(doc).encode() + b"\n" for doc in docs)
    packed = gzip.compress(whole)
    for cut in (100, len(packed) // 2, len(packed) - 4):
        (tmp_path / "a.jsonl.gz").write_bytes(packed[:cut])
        items = list(read_json(Stream(str(tmp_path / "a.jsonl.gz"), LIMITS), Fields(), 0, lines))
        assert [item.values for item in items if isinstance(item, Record)] == docs[: len(items) - 1]
        assert isinstance(items[-1], Bad)
        assert (items[-1].reason, str(cut) in items[-1].detail) == ("truncated_stream", True)
        assert whole[items[-1].position :].startswith(items[-1].head)


def test_a_line_over_the_limit_is_passed_over_in_bounded_memory() -> None:
    def stream() -> Iterator[bytes]:
        yield b'{"text": "a"}\n{"text": "'
        for _ in range(300):
            yield b"x" * (1 << 20)
        yield b'"}\n{"text": "b"}\n'

    with memory() as peak:
        items = list(read_json(stream(), Fields(max_bytes=8 << 20), 0, lines))
    assert [type(item) for item in items] == [Record, Bad, Record]
    assert isinstance(items[1], Bad)
    assert (items[1].position, items[1].reason, len(items[1].head)) == (14, "record_too_large", 4096)
    assert isinstance(items[2], Record)
    assert items[2].position == 14 + 10 + (300 << 20) + 3
    assert peak[0] < 40 << 20


@given(
    st.lists(st.sampled_from([b"a", b"\n", b" ", b"\r\n", b"\r", b"\t", b"word", b"\n\n"])).map(b"".join),
    st.integers(1, 9),
)
def test_scanners_are_their_slow_twins(data: bytes, size: int) -> None:
    assert [r[1] for r in records(chunked(data, size), lines, 1 << 20)] == oracles.lines(data)
    assert [r[1] for r in records(chunked(data, size), AnyLines(), 1 << 20)] == data.splitlines(keepends=True)
    blocks = [
        r.values["text"]
        for r in read_text(chunked(data, size), Fields(), 0, BlankLines(), "block")
        if isinstance(r, Record)
    ]
    assert blocks == oracles.blank_line_blocks(data)


STRINGS = st.text(st.sampled_from('ab"\\[]{},: \n中'), max_size=8)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 9), STRINGS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(STRINGS, inner, max_size=3)),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(STRINGS, VALUES, max_size=3), max_size=5), st.integers(1, 7), st.booleans())
def test_json_values_are_those_of_the_json_module(docs: list[dict[str, Any]], size: int, array: bool) -> None:
    data = json.dumps(docs, indent=1) if array else "\n".join(json.dumps(doc, ensure_ascii=False) for doc in docs)
    items = list(read_json_values(chunked(data.encode(), size), Fields()))
    assert [item.values for item in items if isinstance(item, Record)] == docs
    assert len(items) == len(docs)


@given(st.binary(max_size=60), st.integers(1, 9))
def test_no_bytes_break_a_scanner_and_none_are_lost(data: bytes, size: int) -> None:
    for scan in (lines, AnyLines(), BlankLines()):
        found = [r for r in records(chunked(data, size), scan, 1 << 20) if not isinstance(r, Bad)]
        assert b"".join(r[1] for r in found) == data
        assert [r[0] for r in found] == np.cumsum([0, *(len(r[1]) for r in found)])[:-1].tolist()


PAGE = b"<html><body>page</body></html>"


def record(k: int, body: bytes = PAGE, length: object = None, kind: str = "response", http: bytes = b"") -> bytes:
    content = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n" + http + b"\r\n" + body
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Record-ID: <urn:uuid:{k}>\r\nWARC-Target-URI: http://x.example/{k}\r\n"
    )
    head += "Content-Type: application/http; msgtype=response\r\n"
    head += f"Content-Length: {len(content) if length is None else length}\r\n" if length != "none" else ""
    return head.encode() + b"\r\n" + content + b"\r\n\r\n"


def seen(data: bytes, limit: int = 1 << 20, size: int = 64) -> list[tuple[str, int]]:
    """(last part of the address or reason, position) of what a WARC gives."""
    items: list[Item] = list(read_warc(chunked(data, size), limit))
    return [
        (str(i.values["url"])[-1] if isinstance(i, Record) else i.reason, i.position)
        for i in items
        if not isinstance(i, Passed)
    ]


def test_warc_pages_texts_and_what_is_passed_over() -> None:
    wet = b"WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: http://x.example/w\r\nContent-Type: text/plain\r\n"
    text = "中文".encode()
    data = record(1, kind="request") + record(2) + wet + b"Content-Length: %d\r\n\r\n" % len(text) + text + b"\r\n\r\n"
    data += record(3).replace(b"200 OK", b"404 No") + record(4).replace(b"text/html", b"image/png")
    items = list(read_warc(chunked(data, 50), 1 << 20))
    kinds = [i.kind if isinstance(i, Passed) else "document" for i in items]
    assert kinds == ["skipped_records", "document", "document", "skipped_http_status", "skipped_content"]
    page, plain = (i for i in items if isinstance(i, Record))
    assert (page.values["html"], page.values["content_type"]) == (PAGE, "text/html; charset=utf-8")
    assert (page.values["warc_record_id"], page.values["http_status"]) == ("<urn:uuid:2>", 200)
    assert plain.values["text"] == text


def test_a_warc_fault_costs_its_own_record() -> None:
    first, size = record(0), len(record(0))
    cases = {
        b"garbage garbage\r\n" * 3: "bad_warc_header",
        record(1, length="none"): "bad_warc_header",
        record(1, length=-5): "bad_warc_header",
        record(1, length=60): "bad_content_length",
        record(1, length=400): "bad_content_length",
        record(1, length=50000): "bad_content_length",
        record(1, length=10**15): "record_too_large",
        record(1, body=b"<html>" + b"x" * (2 << 20)): "record_too_large",
    }
    for fault, reason in cases.items():
        whole = first + fault + record(2) + record(3)
        expected = [("0", 0), (reason, size), ("2", size + len(fault)), ("3", size + len(fault) + size)]
        assert seen(whole) == expected


def test_a_warc_cut_anywhere_gives_its_records_and_one_fault(tmp_path: Path) -> None:
    rng = random.Random(5)
    parts = [record(k, PAGE + rng.randbytes(rng.randrange(200)).hex().encode()) for k in range(6)]
    whole, ends = b"".join(parts), np.cumsum([len(part) for part in parts])
    for cut in [*rng.sample(range(1, len(whole)), 150), *ends.tolist()]:
        complete = int((ends - 4 <= cut).sum())
        clean = cut in [0, *ends, *(ends - 4), *(ends - 3), *(ends - 2), *(ends - 1)]
        expected = [str(k) for k in range(complete)] + ([] if clean else ["truncated_stream"])
        assert [name for name, _ in seen(whole[:cut], size=rng.choice([1, 50, 10**6]))] == expected
    packed = b"".join(gzip.compress(part) for part in parts)
    for cut in rng.sample(range(1, len(packed) - 1), 60):
        (tmp_path / "a.warc.gz").write_bytes(packed[:cut])
        items = list(read_warc(Stream(str(tmp_path / "a.warc.gz"), LIMITS), 1 << 20))
        assert sum(isinstance(i, Bad) for i in items) <= 1
        assert [i.values["url"][-1] for i in items if isinstance(i, Record)] == [str(k) for k in range(len(items))][
            : sum(isinstance(i, Record) for i in items)
        ]


@given(st.lists(st.tuples(st.integers(0, 10**6), st.binary(max_size=12), st.integers(0, 30)), max_size=6))
def test_no_damage_breaks_the_warc_reader(wounds: list[tuple[int, bytes, int]]) -> None:
    data = b"".join(record(k) for k in range(3))
    for place, new, gone in wounds:
        at = place % len(data)
        data = data[:at] + new + data[at + gone :] or b"x"
    found = seen(data)
    assert [place for _, place in found] == sorted(place for _, place in found)
    assert found or not data.strip(b"\r\n") or b"WARC-Type" in data


def test_http_bodies_are_decoded_and_lies_forgiven() -> None:
    packed = gzip.compress(PAGE)
    chunks = b"%x\r\n" % len(packed) + packed + b"\r\n0\r\n\r\n"
    gz = b"Content-Encoding: gzip\r\n"
    bodies = [
        record(0, packed, http=gz),
        record(1, chunks, http=b"Transfer-Encoding: chunked\r\n" + gz),
        record(2, PAGE, http=gz),
        record(3, PAGE, http=b"Transfer-Encoding: chunked\r\n"),
        record(4, PAGE, http=b"Content-Encoding: mystery\r\n"),
    ]
    items = list(read_warc(chunked(b"".join(bodies), 100), 1 << 20))
    assert [i.values["html"] for i in items if isinstance(i, Record)] == [PAGE] * 5
    assert seen(record(0, b"\x1f\x8b\x08 no gzip at all", http=gz)) == [("bad_http", 0)]
    assert seen(record(0, gzip.compress(bytes(5 << 20)), http=gz)) == [("record_too_large", 0)]
