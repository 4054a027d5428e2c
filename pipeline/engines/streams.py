"""What one stage writes in one task: rows, drops, quarantine and asides, each stream through a `ShardWriter`.

Reads emits; writes shards, each whole or not at all, and counts what went where. A stream costs the memory of one row
group (about 8 MB).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel

from pipeline.rows import DROP, QUARANTINE
from pipeline.shards import File, ShardWriter
from pipeline.stage import Emit


class Link(BaseModel):
    """A stage in a task: what to run, and the folder that its files go to."""

    use: str
    settings: dict[str, Any]
    stage: str
    root: str
    artifacts: dict[str, str] = {}


class LinkResult(BaseModel):
    """What a stage did in a task: rows and bytes read, files by stream, counters, drops by rule, CPU seconds.

    kept, kept_bytes: of a fused stage, which writes no rows itself.
    """

    rows: int = 0
    bytes: int = 0
    kept: int = 0
    kept_bytes: int = 0
    files: dict[str, list[File]] = {}
    counters: dict[str, int] = {}
    rules: dict[str, int] = {}
    seconds: float = 0.0


class BooksError(Exception):
    """Rows that a step lost or made up."""


@dataclass
class Streams:
    """A stage's writers in a task, one for each stream, with its counters and drops by rule.

    stem: of the shard under way; whoever closes the streams may give them another, for a next shard. aside_stem: of all
    streams but `rows`, where it is not the same. roll, even_empty: of `rows`, see `ShardWriter`.
    """

    root: Path
    folder: Path
    stem: str
    result: LinkResult
    aside_stem: str | None = None
    roll: int | None = None
    even_empty: bool = True
    writers: dict[str, ShardWriter] = field(default_factory=dict)
    counters: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)

    def side(self, emit: Emit, aside: Mapping[str, pa.Schema]) -> None:
        """Takes all of an emit but its rows."""
        self.counters.update(emit.counters)
        streams = {"drops": emit.drops, "quarantine": emit.quarantine, **emit.aside}
        schemas = {"drops": DROP, "quarantine": QUARANTINE, **aside}
        for name, batch in streams.items():
            if batch is not None and len(batch):
                self._aside(name, schemas[name]).write(batch)
        if emit.drops is not None:
            for row in pc.value_counts(emit.drops["rule"]).to_pylist():
                self.rules[row["values"]] += row["counts"]

    def rows(self, schema: pa.Schema) -> ShardWriter:
        """The writer of the shard under way."""
        if "rows" not in self.writers:
            self.writers["rows"] = ShardWriter(
                self.root, self.folder, self.stem, schema, roll=self.roll, even_empty=self.even_empty
            )
        return self.writers["rows"]

    def close(self) -> None:
        """Commits all streams, adds their files to the result, and is ready for a next shard."""
        for name, writer in self.writers.items():
            self.result.files.setdefault(name, []).extend(writer.close())
        self.writers = {}
        self.result.counters, self.result.rules = dict(self.counters), dict(self.rules)

    def abandon(self) -> None:
        """Removes what is not committed."""
        for writer in self.writers.values():
            writer.abandon()

    def balance(self, name: str, read: int, kept: int) -> None:
        """Holds the books of a stage whose streams are closed. Raises BooksError."""
        gone = sum(file.rows for stream in ("drops", "quarantine") for file in self.result.files.get(stream, []))
        if read != kept + gone:
            raise BooksError(f"{name}: {read} rows in, {kept} kept and {gone} dropped or quarantined")

    def _aside(self, name: str, schema: pa.Schema) -> ShardWriter:
        """The writer of a stream that goes to a folder of its own."""
        if name not in self.writers:
            folder, stem = self.root / name, self.aside_stem or self.stem
            self.writers[name] = ShardWriter(self.root, folder, stem, schema, even_empty=False)
        return self.writers[name]
