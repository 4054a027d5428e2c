"""Parquet shards: written whole or not at all, never changed, listed by a manifest that is written last.

Reads and writes `part-*.parquet` (zstd) and `_manifest.json`. One row group is one batch, cut by the rows' own sizes at
about 8 MB whatever batches came in, so that the bytes do not depend on how rows arrived; a batch of it in memory is the
price.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError, field_validator

from pipeline.identity import Identity

ROW_GROUP_BYTES = 8 << 20
ROW_GROUP_ROWS = 1 << 14
SHARD_BYTES = 64 << 20
MANIFEST = "_manifest.json"
RUN = "run.json"
GONE = ".gone"
LOW_CARDINALITY = frozenset({"lang", "stage", "rule", "reason"})


class Damaged(ValueError):  # noqa: N818
    """A file of a run's folder that does not say what such a file says; the message names it."""


class File(BaseModel):
    """A file of a stage's folder: its name below that folder, rows (0 if not Parquet), size and sha256."""

    name: str
    rows: int = 0
    bytes: int
    text_bytes: int = 0
    sha256: str

    @field_validator("name")
    @classmethod
    def _inside(cls, name: str) -> str:
        """A manifest may come from anywhere: no name leads out of the stage's folder."""
        if not name or "\0" in name or name.startswith("/") or ".." in name.split("/"):
            raise ValueError("a file's name leads out of its folder")
        return name

    def fault(self, folder: Path) -> str | None:
        """Why the file below `folder` is not the one described, as far as its size shows; None where it may be."""
        path = folder / self.name
        try:
            size = path.lstat().st_size
        except OSError:
            return f"{self.name} is missing"
        if path.is_symlink():
            return f"{self.name} is a link"
        return None if size == self.bytes else f"{self.name} has {size:,} bytes, not {self.bytes:,}"


class Rows(BaseModel):
    """The books of a stage, in documents (or packed rows, for a stage that reads those)."""

    read: int = 0
    kept: int = 0
    dropped: int = 0
    quarantined: int = 0

    @property
    def balanced(self) -> bool:
        """Whether every row read is accounted for."""
        return self.read == self.kept + self.dropped + self.quarantined


class Manifest(BaseModel):
    """What a finished stage says of itself; its presence means done. It holds no time, host or number of workers."""

    format: int = 1
    stage: str
    gives: str
    fingerprint: str
    identity: Identity
    parent: str | None
    rows: Rows
    rules: dict[str, int]
    counters: dict[str, int]
    files: dict[str, list[File]]
    remarks: list[str] = []
    """What people should know of the inputs: files that were passed over."""
    fused_bytes: int | None = None
    """Text bytes of the rows kept, where the stage was fused into the next and wrote no shards."""

    @property
    def kept_bytes(self) -> int:
        """Text bytes of the rows kept."""
        rows = self.files.get("rows", [])
        return sum(file.text_bytes for file in rows) if self.fused_bytes is None else self.fused_bytes

    @property
    def use(self) -> str:
        """The stage's "module:Class"."""
        return self.identity.use

    @property
    def settings(self) -> dict[str, Any]:
        """The stage's settings, defaults too."""
        return self.identity.settings

    def all_files(self) -> list[File]:
        """The files of all streams."""
        return [file for files in self.files.values() for file in files]

    @property
    def shards(self) -> list[str]:
        """Names of the stage's own shards, in order."""
        return [file.name for file in self.files.get("rows", [])]


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a stage's folder, or None where the stage is not done. Raises Damaged where it is no manifest."""
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValidationError, OSError) as error:
        what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise Damaged(f"{folder.name}/{MANIFEST} is damaged ({what})") from None


def write_json(path: Path, value: Any) -> None:
    """Writes JSON (keys sorted), as `write_text` does."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 to a temporary name, syncs it, renames it: a link of that name is replaced, not followed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    with temporary.open("wb") as file:
        file.write(text.encode())
    commit(temporary, path)


def temporary_name(path: Path) -> Path:
    """A hidden name beside `path` that no other process uses."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def commit(temporary: Path, path: Path) -> None:
    """Syncs a finished file, renames it into place and syncs the folder."""
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Waits until the disk has a file's bytes, or a folder's names."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def discard(folder: Path) -> None:
    """Removes a folder, if it is there, as one step: it is first renamed into `GONE` beside it, so that none of it can
    be taken for whole when its removal is cut short. What an earlier one left in `GONE` goes too."""
    gone = folder.parent / GONE
    if gone.exists():
        shutil.rmtree(gone)
    if folder.exists():
        gone.mkdir()
        folder.rename(gone / folder.name)
        shutil.rmtree(gone)


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe(path: Path, root: Path, rows: int = 0, text_bytes: int = 0) -> File:
    """A committed file's entry in the manifest of the stage whose folder is `root`."""
    name = path.relative_to(root).as_posix()
    return File(name=name, rows=rows, bytes=path.stat().st_size, text_bytes=text_bytes, sha256=sha256_file(path))


def read_batches(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """A shard's rows, one record batch per row group (about 8 MB of text, one document at least)."""
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=columns, use_threads=False).combine_chunks()
            yield from table.to_batches()


def count_rows(path: Path) -> int:
    """Rows of a shard, from its footer."""
    return int(pq.read_metadata(path).num_rows)


def row_bytes(batch: pa.RecordBatch) -> NDArray[np.int64]:
    """Bytes of each row's variable-length columns: int64[n]."""
    sizes = np.zeros(len(batch), np.int64)
    for column in batch.columns:
        kind = column.type
        if pa.types.is_large_string(kind) or pa.types.is_string(kind) or _is_bytes(kind):
            sizes += pc.fill_null(pc.binary_length(column), 0).to_numpy(zero_copy_only=False)
        elif (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_primitive(kind.value_type):
            lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
            sizes += lengths.astype(np.int64) * (kind.value_type.bit_width // 8)
    return sizes


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


class Piece(NamedTuple):
    """Rows of one row group, their bytes, and whether the row group and the file end with them."""

    rows: pa.RecordBatch
    bytes: int
    group_ends: bool
    file_ends: bool


class Cuts:
    """Where a stream of rows is cut: into row groups, and into files once `roll` bytes are passed.

    It looks at the rows' own sizes alone, so that whoever cuts a stream cuts it as the writer of its shards would.
    """

    def __init__(self, roll: int | None = None) -> None:
        self.roll = roll
        self._rows = self._bytes = self._file = 0

    def pieces(self, batch: pa.RecordBatch) -> Iterator[Piece]:
        """A batch in pieces that end where row groups do; no copy is made."""
        ends = np.cumsum(row_bytes(batch))
        start = begun = 0
        while start < len(batch):
            stop = int(np.searchsorted(ends, begun + ROW_GROUP_BYTES - self._bytes)) + 1
            stop = min(stop, len(batch), start + ROW_GROUP_ROWS - self._rows)
            size = int(ends[stop - 1]) - begun
            group_ends, file_ends = self._took(stop - start, size)
            yield Piece(batch.slice(start, stop - start), size, group_ends, file_ends)
            start, begun = stop, int(ends[stop - 1])

    def _took(self, rows: int, size: int) -> tuple[bool, bool]:
        """Adds rows to the row group under way; whether it ends, and whether the file does."""
        self._rows, self._bytes, self._file = self._rows + rows, self._bytes + size, self._file + size
        if self._bytes < ROW_GROUP_BYTES and self._rows < ROW_GROUP_ROWS:
            return False, False
        self._rows = self._bytes = 0
        if self.roll is None or self._file < self.roll:
            return True, False
        self._file = 0
        return True, True


def file_stem(stem: str, number: int) -> str:
    """The name, without suffix, of file `number` of a stream that rolls."""
    return f"{stem}_{number:03}" if number else stem


class ShardWriter:
    """Writes one stream of batches to `folder/stem.parquet`, and on to `stem_001.parquet` … once `roll` bytes are
    passed.

    A file takes its name when it is whole. Nothing is written for an empty stream unless `even_empty`. Key-value
    metadata of the first batch's schema goes into the file. Raises pa.ArrowInvalid where a batch does not have the
    columns of `schema`.
    """

    def __init__(
        self,
        root: Path,
        folder: Path,
        stem: str,
        schema: pa.Schema,
        *,
        roll: int | None = None,
        even_empty: bool = True,
    ) -> None:
        self.root, self.folder, self.stem, self.schema = root, folder, stem, schema
        self.even_empty = even_empty
        self.files: list[File] = []
        self._cuts = Cuts(roll)
        self._waiting: list[pa.RecordBatch] = []
        self._writer: pq.ParquetWriter | None = None
        self._temporary: Path | None = None
        self._rows = self._bytes = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Takes a batch; whole row groups go to disk."""
        if not self.files and self._writer is None and batch.schema.metadata:
            self.schema = self.schema.with_metadata(batch.schema.metadata)
        if batch.schema.names != self.schema.names:
            raise pa.ArrowInvalid(f"columns {batch.schema.names} are not those declared: {self.schema.names}")
        for piece in self._cuts.pieces(batch):
            self._waiting.append(piece.rows.cast(self.schema))
            self._bytes += piece.bytes
            if piece.group_ends:
                self._flush()
            if piece.file_ends:
                self._finish()

    def close(self) -> list[File]:
        """Commits what is open; the files written, in order."""
        if self._waiting:
            self._flush()
        if self._writer is None and not self.files and self.even_empty:
            self._open()
        self._finish()
        return self.files

    def abandon(self) -> None:
        """Removes what is not committed."""
        if self._writer is not None:
            self._writer.close()
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def _flush(self) -> None:
        if self._writer is None:
            self._open()
        table = pa.Table.from_batches(self._waiting, self.schema).combine_chunks()
        assert self._writer is not None  # noqa: S101 - for the type checker: _open has just set it
        self._writer.write_table(table, row_group_size=max(len(table), 1))
        self._rows += len(table)
        self._waiting = []

    def _open(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._path = self.folder / f"{file_stem(self.stem, len(self.files))}.parquet"
        self._temporary = temporary_name(self._path)
        self._writer = pq.ParquetWriter(
            self._temporary,
            self.schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=[name for name in self.schema.names if name in LOW_CARDINALITY] or False,
            write_statistics=[name for name in self.schema.names if name not in ("text", "payload")] or False,
        )

    def _finish(self) -> None:
        if self._writer is None or self._temporary is None:
            return
        self._writer.close()
        commit(self._temporary, self._path)
        self.files.append(describe(self._path, self.root, self._rows, self._bytes))
        self._writer = self._temporary = None
        self._rows = self._bytes = 0
