"""Cuts files into pieces, and tells whether one changed since it was cut.

Reads the files' sizes, line ends and tables' footers. The one trade-off: a piece's bounds are found by reading to the
next line end, so planning touches each large file a few times.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import xxhash

from pipeline.names import shown_name
from pipeline.stage import Source
from stages.readers.beginning import foreign_encoding
from stages.readers.footers import Footer
from stages.readers.search import EVERYTHING, search
from stages.readers.streams import compression

STATE_BYTES = 64 << 20
"""Of a dataset's list of files, at most."""


class InputChanged(Exception):  # noqa: N818 - the name is part of the message
    """An input is not what the plan saw; the message names it."""


def seen(path: Path) -> tuple[int, ...]:
    """What tells that a file has changed: size and times of change in ns; of a folder, a hash over all its files'."""
    about = path.stat()
    if stat.S_ISDIR(about.st_mode):
        names = sorted(search(path, EVERYTHING, "").files)
        return (xxhash.xxh3_64_intdigest(repr([(name, seen(path / name)) for name in names]).encode()),)
    return about.st_size, about.st_mtime_ns, about.st_ctime_ns


def hold(source: Source) -> None:
    """Raises InputChanged where the source's file is not what the plan saw."""
    if not source.seen or not source.path:
        return
    name, again = shown_name(source.path), "Nothing of it is kept: run again when it no longer changes."
    try:
        now = seen(Path(source.path))
    except OSError as error:
        gone = f"{name} was there when the run was planned, and cannot be read now ({error.strerror})"
        raise InputChanged(f"{gone}. {again}") from None
    if now == source.seen:
        return
    sizes = f" ({source.seen[0]:,} bytes then, {now[0]:,} now)" if len(now) > 1 and now[0] != source.seen[0] else ""
    raise InputChanged(f"{name} changed since the run was planned{sizes}. {again}")


def line_pieces(path: Path, size: int, total: int) -> Iterator[tuple[int, int]]:
    """[start, end) of pieces of about `size` bytes that begin at line starts, of a file of `total` bytes; one for a
    file that is small, compressed or not UTF-8."""
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


def row_group_pieces(footer: Footer, size: int, whole: int) -> list[tuple[int, int, int]]:
    """(first row group, last + 1, stored bytes) of pieces of about `size` expanded bytes; (0, -1, `whole`) for a table
    that is unreadable or has no row groups."""
    pieces: list[tuple[int, int, int]] = []
    start = expanded = stored = 0
    for group, (more, packed) in enumerate(footer.groups):
        expanded += more
        stored += packed
        if expanded >= size or group == len(footer.groups) - 1:
            pieces.append((start, group + 1, stored))
            start, expanded, stored = group + 1, 0, 0
    return pieces or [(0, -1, whole)]


def is_saved(folder: Path) -> bool:
    """Whether `datasets` saved a folder to disk."""
    if os.path.isfile(folder / "dataset_dict.json"):
        return True
    beside = [os.path.isfile(folder / name) for name in ("state.json", "dataset_info.json")]
    return all(beside) and any(folder.glob("*.arrow"))


def saved_files(folder: Path, split: str) -> list[tuple[Path, str]] | None:
    """The Arrow files of a dataset that `datasets` saved to disk, in its order; None where the folder is none such.

    Raises ValueError where its list of files makes no sense.
    """
    place = folder / split if (folder / "dataset_dict.json").is_file() else folder
    state = place / "state.json"
    if not state.is_file():
        return None
    names = _listed(state)
    return [(place / name, (place / name).relative_to(folder).as_posix()) for name in names]


def _listed(state: Path) -> list[str]:
    """The names of files in a state.json: plain ones, for it may come from anywhere."""
    try:
        with state.open("rb") as file:
            names = [entry["filename"] for entry in json.loads(file.read(STATE_BYTES))["_data_files"]]
    except (OSError, ValueError, RecursionError, LookupError, TypeError) as error:
        raise ValueError(f"{shown_name(state)} lists no files ({type(error).__name__})") from None
    for name in names:
        if not isinstance(name, str) or not name or "/" in name or "\0" in name or name in (".", ".."):
            raise ValueError(f"{shown_name(state)} lists {shown_name(repr(name))}, which is no file beside it")
        if not (state.parent / name).is_file():
            raise ValueError(f"{shown_name(state.parent / name)} is listed in {state.name}, and is not there")
    return names


def saved_splits(folder: Path) -> list[str]:
    """The splits that a folder saved by `datasets` has; none where it is a single dataset."""
    return sorted(place.parent.name for place in folder.glob("*/state.json"))


def folder_digest(folder: Path) -> str:
    """sha256 over the names and bytes of all files beneath a folder but hidden ones."""
    digest = hashlib.sha256()
    for name in sorted(search(folder, EVERYTHING, "._").files):
        with (folder / name).open("rb") as file:
            digest.update(os.fsencode(name) + f"\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
