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
from typing import Any, BinaryIO, Protocol

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


class Ahead:
    """A stream's chunks, one after another, for whoever keeps a stretch of them. ended: there are no more. broken: why,
    where that is a fault of the stream."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        """Reads nothing yet."""
        self.chunks, self.ended = iter(chunks), False
        self.broken: Broken | None = None

    def next_chunk(self) -> bytes:
        """The next chunk; empty at the end, and where the stream cannot be read further."""
        try:
            piece = next(self.chunks, b"")
        except Broken as broken:
            self.broken, piece = broken, b""
        self.ended = not piece
        return piece


def compression(path: str) -> str:
    """The compression that a file's name tells: gzip, zstd, bz2, xz, or "" for none."""
    return SUFFIXES.get(PurePath(path).suffix.lower(), "")


def _decoder(codec: str) -> Callable[[], Decoder]:
    if codec == "gzip":
        from isal import igzip_lib

        return lambda: igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
    return ZstdFrames() if codec == "zstd" else {"bz2": bz2.BZ2Decompressor, "xz": lzma.LZMADecompressor}[codec]


class ZstdFrames:
    """Makes the decoders of one file's frames.

    A web archive may begin with a frame that holds the dictionary of all others, as it is or compressed by itself
    (IIPC, "Zstandard Compression for WARC Files" 1.0); it decodes to nothing.
    """

    def __init__(self) -> None:
        """At the start of a file."""
        self.use(b"")

    def use(self, dictionary: bytes) -> None:
        """Decodes the frames to come with a dictionary; b"" for none."""
        import zstandard

        known = zstandard.ZstdCompressionDict(dictionary) if dictionary else None
        self.dictionary_id = known.dict_id() if known else 0
        # Windows up to 2 GiB (`zstd --long=31`): such memory is touched only as far as data really fills it.
        self.decompressor = zstandard.ZstdDecompressor(dict_data=known, max_window_size=1 << 31)

    def __call__(self) -> ZstdFrame:
        """The decoder of the next frame; the one before it must be at its end."""
        return ZstdFrame(self)


class ZstdFrame:
    """`zstandard`'s frame decoder, which knows no `max_length`, in the shape of `Decoder`.

    Raises what `zstandard` raises, and ValueError where a dictionary is missing or too large.
    """

    magic = b"\x28\xb5\x2f\xfd"
    dictionary_magic = b"\x5d\x2a\x4d\x18"
    dictionary_limit = 16 << 20
    """Bytes of a dictionary at most, expanded too."""

    slice = 1 << 10
    """Bytes fed at a time: a four-byte block may expand to 128 KiB, so these give 32 MiB at most."""

    def __init__(self, frames: ZstdFrames | None = None) -> None:
        """At the start of a frame, of `frames` or alone."""
        self._frames = frames or ZstdFrames()
        self._frame: Any = None
        self._data, self._at, self._head = b"", 0, b""
        self._read_dictionary = False

    @property
    def eof(self) -> bool:
        """Whether the frame is at its end."""
        return self._read_dictionary or (self._frame is not None and self._frame.eof)

    @property
    def needs_input(self) -> bool:
        """Whether all the data given is decoded."""
        return not self.eof and self._at >= len(self._data)

    @property
    def unused_data(self) -> bytes:
        """What follows the frame."""
        return (self._frame.unused_data if self._frame is not None else b"") + self._data[self._at :]

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """What the data gives, not much more than `max_length` bytes of it."""
        if data:
            self._data, self._at = self._head + self._data[self._at :] + data, 0
            self._head = b""
        if self._frame is None and not self._begin():
            return b""
        out: list[bytes] = []
        while self._at < len(self._data) and not self.eof and sum(map(len, out)) < max_length:
            out.append(self._frame.decompress(self._data[self._at : self._at + self.slice]))
            self._at += self.slice
        return b"".join(out)

    def _begin(self) -> bool:
        """Takes the dictionary, or makes the decoder; false where there is nothing to decode with it yet."""
        size = int.from_bytes(self._data[4:8], "little")
        if not self._data.startswith(self.dictionary_magic):
            if not self.dictionary_magic.startswith(self._data):
                self._frame = self._decoder()
        elif size > self.dictionary_limit:
            raise ValueError(f"a dictionary of {size:,} bytes, the limit is {self.dictionary_limit:,}")
        elif len(self._data) >= 8 + size:
            self._frames.use(self._expanded(self._data[8 : 8 + size]))
            self._at, self._read_dictionary = 8 + size, True
        if self._frame is None and not self._read_dictionary:
            self._head, self._at = self._data, len(self._data)  # wait for more
        return self._frame is not None

    def _decoder(self) -> Any:
        import zstandard

        wanted = 0
        if self._data.startswith(self.magic) and len(self._data) >= 18:
            wanted = zstandard.get_frame_parameters(self._data[:18]).dict_id
        if wanted and wanted != self._frames.dictionary_id:
            raise ValueError(f"compressed with dictionary {wanted}, which the file does not hold")
        return self._frames.decompressor.decompressobj()

    def _expanded(self, dictionary: bytes) -> bytes:
        if not dictionary.startswith(self.magic):
            return dictionary
        frame = ZstdFrame()
        whole = frame.decompress(dictionary, self.dictionary_limit + 1)
        if not frame.eof or len(whole) > self.dictionary_limit:
            raise ValueError("the dictionary is cut off or too large")
        return whole
