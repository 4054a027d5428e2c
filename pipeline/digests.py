"""Digests of what a run reads: files, artifacts, lists of sources; each file is hashed once.

Reads files; writes a cache of digests by path, size and time of change. The one trade-off: a file that changes and
keeps all three is not seen to have changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.config import RecipeError
from pipeline.names import shown_name, utf8_name
from pipeline.shards import sha256_file, write_json
from pipeline.stage import Source


class Digests:
    """sha256 of files, remembered in `path` by name, size and time of change. A cache that cannot be read is empty."""

    def __init__(self, path: Path) -> None:
        self.path, self.changed = path, False
        self.known: dict[str, Any] = _read_cache(path)

    def of(self, path: Path) -> str:
        """Hex sha256 of a file."""
        key, mark = utf8_name(str(path)), _mark(path)
        entry = self.known.get(key)
        if not (isinstance(entry, list) and len(entry) == 4 and entry[:3] == mark and isinstance(entry[3], str)):
            entry = [*mark, sha256_file(path)]
            if _mark(path) != mark:  # what was hashed is neither the old file nor the new one
                return str(entry[3])
            self.known[key] = entry
            self.changed = True
        return str(entry[3])

    def of_sources(self, sources: Sequence[Source]) -> str | None:
        """One digest of all sources: name, range, size and bytes of each, not where they lie. None for no sources.

        Raises RecipeError where one cannot be read.
        """
        if not sources:
            return None
        digest = hashlib.sha256()
        for source in sources:
            try:
                item = asdict(source) | {"digest": source.digest or self.of(Path(source.path))}
            except OSError as error:
                raise RecipeError([f"{shown_name(source.path)} cannot be read ({error.strerror})"]) from None
            del item["path"], item["seen"]
            digest.update(json.dumps(item, sort_keys=True).encode() + b"\n")
        return digest.hexdigest()

    def of_artifact(self, path: Path) -> str | None:
        """One digest of a file, with a tokenizer's configs beside it, or of all files beneath a folder but hidden ones;
        None where there are none."""
        if not path.exists():
            return None
        found = path.rglob("*") if path.is_dir() else [path, *path.parent.glob("*token*.json")]
        files = sorted({file for file in found if file.is_file()})
        named = [(file.relative_to(path if path.is_dir() else path.parent).as_posix(), file) for file in files]
        shown = [(name, self.of(file)) for name, file in named if not name.startswith((".", "_"))]
        return hashlib.sha256(json.dumps(shown).encode()).hexdigest() if shown else None

    def save(self) -> None:
        """Writes what is new."""
        if self.changed:
            write_json(self.path, self.known)


def _mark(path: Path) -> list[int]:
    about = path.stat()
    return [about.st_size, about.st_mtime_ns, about.st_ctime_ns]


def _read_cache(path: Path) -> dict[str, Any]:
    try:
        known = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}
