"""Finds an input's files and cuts large ones into pieces: a path, folder or glob in, (path, name) and byte ranges out.

Nothing here depends on the working directory or the number of workers. The one trade-off: a piece's bounds are found by
reading to the next line end, so planning touches each large file a few times.
"""

from __future__ import annotations

import glob
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

from pipeline.stage import resolve
from stages.readers.beginning import foreign_encoding
from stages.readers.streams import SUFFIXES, compression

FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".warc": "warc",
    ".wet": "wet",
}
"""File suffix, after that of a compression, → format."""

MAGIC = re.compile(r"[*?\[]")


def format_of(path: str) -> str | None:
    """The format that a file's name tells, None for an unknown one: "a.warc.gz" is "warc"."""
    pure = PurePath(path)
    return FORMATS.get((pure.with_suffix("") if pure.suffix.lower() in SUFFIXES else pure).suffix.lower())


def fixed_parent(path: str) -> PurePath:
    """The part of a path or glob before its first wildcard, the last component not counted."""
    parts = PurePath(path).parts
    wild = next((k for k, part in enumerate(parts) if MAGIC.search(part)), len(parts) - 1)
    return PurePath(*parts[:wild])


def default_name(path: str, folder: bool) -> str:
    """How an input without a name is called: its folder as written, only the last component of an absolute one."""
    parent = PurePath(path) if folder else fixed_parent(path)
    parts = [part for part in parent.parts if part not in (".", "..", parent.anchor)]
    return "/".join(parts[-1:] if parent.is_absolute() else parts)


def find(path: str, folders: Sequence[Path], known_only: bool) -> list[tuple[Path, str]]:
    """The files that a path, folder or glob means, sorted, each with its path below the folder or fixed parent.

    Names that begin with "." or "_" are left out of folders; so are unknown formats, if `known_only`.
    """
    whole = resolve(path, folders)
    if whole.is_file():
        return [(whole, whole.name)]
    if whole.is_dir():
        return _beneath(whole, known_only)
    parent = resolve(str(fixed_parent(path)), folders)
    pattern = str(PurePath(path).relative_to(fixed_parent(path)))
    found = glob.glob(pattern, root_dir=parent, recursive=True) if MAGIC.search(path) else []
    return sorted(
        ((parent / name, PurePath(name).as_posix()) for name in found if (parent / name).is_file()), key=_name
    )


def _beneath(folder: Path, known_only: bool) -> list[tuple[Path, str]]:
    found = []
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if not any(part[0] in "._" for part in name.parts) and path.is_file():
            found += [(path, name.as_posix())] if not known_only or format_of(path.name) else []
    return sorted(found, key=_name)


def _name(found: tuple[Path, str]) -> str:
    return found[1]


def line_pieces(path: Path, size: int) -> Iterator[tuple[int, int]]:
    """[start, end) of pieces of about `size` bytes that begin at line starts; one for a file that is small, compressed
    or not UTF-8."""
    total = path.stat().st_size
    if compression(path.name) or total <= size:
        yield 0, -1
        return
    start = 0
    with path.open("rb") as file:
        if foreign_encoding(file.read(1 << 10)):
            yield 0, -1
            return
        while start < total:
            file.seek(min(start + size, total) - 1)
            while (line := file.readline(1 << 20)) and not line.endswith(b"\n"):
                pass
            yield start, file.tell()
            start = file.tell()


def row_group_pieces(path: Path, size: int) -> list[tuple[int, int, int]]:
    """(first row group, last + 1, stored bytes) of pieces of about `size` expanded bytes; one if unreadable."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        about = pq.read_metadata(path)
    except (OSError, ValueError, pa.ArrowException):
        return [(0, -1, path.stat().st_size)]
    pieces: list[tuple[int, int, int]] = []
    start = expanded = stored = 0
    for group in range(about.num_row_groups):
        row_group = about.row_group(group)
        expanded += row_group.total_byte_size
        stored += sum(row_group.column(k).total_compressed_size for k in range(row_group.num_columns))
        if expanded >= size or group == about.num_row_groups - 1:
            pieces.append((start, group + 1, stored))
            start, expanded, stored = group + 1, 0, 0
    return pieces or [(0, -1, path.stat().st_size)]


def saved_files(folder: Path, split: str) -> list[tuple[Path, str]] | None:
    """The Arrow files of a dataset that `datasets` saved to disk, in its order; None where the folder is none such."""
    place = folder / split if (folder / "dataset_dict.json").is_file() else folder
    state = place / "state.json"
    if not state.is_file():
        return None
    names = [entry["filename"] for entry in json.loads(state.read_bytes())["_data_files"]]
    return [(place / name, (place / name).relative_to(folder).as_posix()) for name in names]


def folder_digest(folder: Path) -> str:
    """sha256 over the names and bytes of all files beneath a folder."""
    digest = hashlib.sha256()
    for path, name in _beneath(folder, known_only=False):
        with path.open("rb") as file:
            digest.update(f"{name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
