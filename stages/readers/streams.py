"""Reads a file, plain or compressed, and gives its bytes in bounded chunks.

A chunk is at most 33 MiB whatever the file claims, so a decompression bomb is met by its limits and not by memory. The
one trade-off: decoders are fed little at a time, to hold that bound (Zstandard 1 KiB) and to know what share of a
broken file was read: a tenth of gzip's speed.
"""

from __future__ import annotations

import bz2
import lzma
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import BinaryIO, Protocol

CHUNK = 1 << 20
"""Bytes asked for at a time, of a plain file or from a decoder."""

READ = 1 << 12
"""Bytes given at a time to a decoder; of a small file a 64th, so that its share that was read is known too."""

BUFFER = 1 << 18
"""Bytes read at a time from a compressed file."""

RATIO_FROM = 1 << 30
"""Expanded bytes of a file up to which no ratio is suspicious. Memory is bounded anyway: a bomb costs disk and time. A
gibibyte is little of either, and files of templated pages expand some thousandfold."""

SUFFIXES = {".gz": "gzip", ".gzip": "gzip", ".zst": "zstd", ".zstd": "zstd", ".bz2": "bz2", ".xz": "xz"}
"""File suffix → compression."""


class Broken(Exception):  # noqa: N818
    """A stream that cannot be read further: `reason` is a short slug, `detail` says where and why."""

    def __init__(self, reason: str, detail: str) -> None:
        """Takes the slug and the sentence."""
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class Decoder(Protocol):
    """One member (gzip), frame (zstd) or stream (bz2, xz); the shape of `bz2.BZ2Decompressor`."""

    @property
    def eof(self) -> bool: ...  # noqa: D102

    @property
    def needs_input(self) -> bool: ...  # noqa: D102

    @property
    def unused_data(self) -> bytes: ...  # noqa: D102

    def decompress(self, data: bytes, max_length: int) -> bytes: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Limits:
    """When a compressed file counts as a bomb: by expanded over compressed bytes, once more than `ratio_from` bytes
    are expanded; or by its expanded bytes alone."""

    ratio: float
    expanded: int
    ratio_from: int = RATIO_FROM


class Stream:
    """The bytes of one file, or of the range [start, end) of a plain one; iterate over it once.

    Raises `Broken` after the last good chunk of a truncated, corrupt or exploding file. `consumed`: bytes read so far.
    `unread`: bytes of a broken file, as stored, that nothing came of. `size`: bytes of the file, as stored.
    """

    def __init__(self, path: str, limits: Limits, start: int = 0, end: int = -1) -> None:
        """Opens nothing yet; `end` -1 is the end of the file."""
        self.path, self.limits, self.start, self.end = path, limits, start, end
        self.codec = compression(path)
        self.consumed = self.expanded = self.unread = self.size = 0
        self._fruitful, self._step = 0, READ

    def __iter__(self) -> Iterator[bytes]:
        """The chunks, in order."""
        with open(self.path, "rb", buffering=BUFFER if self.codec else 0) as file:
            self.size = os.fstat(file.fileno()).st_size
            self._step = max(1 << 8, min(READ, self.size >> 6))
            file.seek(self.start)
            yield from gathered(self._expand(file, _decoder(self.codec))) if self.codec else self._plain(file)

    def stored(self, size: int) -> int:
        """How many bytes of the file, as stored, stand for `size` bytes of what it gives, by the ratio so far."""
        return size if not self.codec else round(size * self._fruitful / max(self.expanded, 1))

    def _read(self, file: BinaryIO, size: int) -> bytes:
        data = file.read(size)
        self.consumed += len(data)
        return data

    def _plain(self, file: BinaryIO) -> Iterator[bytes]:
        left = self.end - self.start if self.end >= 0 else CHUNK
        while left > 0 and (data := self._read(file, min(CHUNK, left))):
            left -= len(data) if self.end >= 0 else 0
            yield data

    def _expand(self, file: BinaryIO, new: Callable[[], Decoder]) -> Iterator[bytes]:
        try:
            for out in self._members(file, new):
                self._fruitful = self.consumed
                yield out
        except Broken:
            self.unread = self.size - self._fruitful
            raise

    def _members(self, file: BinaryIO, new: Callable[[], Decoder]) -> Iterator[bytes]:
        rest = self._read(file, self._step)
        while rest:
            decoder = new()
            while not decoder.eof:
                data = b""
                if decoder.needs_input and not (data := rest or self._read(file, self._step)):
                    raise Broken("truncated_stream", f"the {self.codec} data ends early at byte {self.consumed}")
                rest = b""
                if out := self._decode(decoder, data):
                    yield out
            rest = decoder.unused_data.lstrip(b"\0")
            while not rest and (data := self._read(file, self._step)):  # padding with zeros is legal between members
                rest = data.lstrip(b"\0")

    def _decode(self, decoder: Decoder, data: bytes) -> bytes:
        try:
            out = decoder.decompress(data, CHUNK)
        except Exception as error:  # isal, zstandard, lzma and bz2 each have their own
            where = f"before byte {self.consumed}"
            raise Broken("corrupt_stream", f"not {self.codec} data {where}: {str(error)[:200]}") from error
        self.expanded += len(out)
        ratio = self.expanded / max(self.consumed, 1)
        if self.expanded > self.limits.expanded:
            raise Broken("decompression_bomb", f"expands to over {self.limits.expanded:,} bytes")
        if self.expanded > self.limits.ratio_from and ratio > self.limits.ratio:
            raise Broken("decompression_bomb", f"expands {ratio:,.0f}-fold by byte {self.consumed}")
        return out


def gathered(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of at least `CHUNK`, but the last; what came before a `Broken` is given before it."""
    held, size = list[bytes](), 0
    try:
        for piece in pieces:
            held.append(piece)
            size += len(piece)
            if size >= CHUNK:
                yield b"".join(held)
                held, size = [], 0
    except Broken:
        if held:
            yield b"".join(held)
        raise
    if held:
        yield b"".join(held)


def compression(path: str) -> str:
    """The compression that a file's name tells: gzip, zstd, bz2, xz, or "" for none."""
    return SUFFIXES.get(PurePath(path).suffix.lower(), "")


def _decoder(codec: str) -> Callable[[], Decoder]:
    if codec == "gzip":
        from isal import igzip_lib

        return lambda: igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
    return {"bz2": bz2.BZ2Decompressor, "xz": lzma.LZMADecompressor, "zstd": _Zstd}[codec]


class _Zstd:
    """`zstandard`'s frame decoder, which knows no `max_length`, in the shape of `Decoder`."""

    slice = 1 << 10
    """Bytes fed at a time: a four-byte block may expand to 128 KiB, so these give 32 MiB at most."""

    def __init__(self) -> None:
        import zstandard

        # Windows up to 2 GiB (`zstd --long=31`): such memory is touched only as far as data really fills it.
        self._frame = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
        self._data, self._at = b"", 0

    @property
    def eof(self) -> bool:
        return self._frame.eof

    @property
    def needs_input(self) -> bool:
        return not self.eof and self._at >= len(self._data)

    @property
    def unused_data(self) -> bytes:
        return self._frame.unused_data + self._data[self._at :]

    def decompress(self, data: bytes, max_length: int) -> bytes:
        if data:
            self._data, self._at = self._data[self._at :] + data, 0
        out: list[bytes] = []
        while self._at < len(self._data) and not self.eof and sum(map(len, out)) < max_length:
            out.append(self._frame.decompress(self._data[self._at : self._at + self.slice]))
            self._at += self.slice
        return b"".join(out)
