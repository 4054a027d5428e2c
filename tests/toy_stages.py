"""Small stages for tests of the engine room: one of each kind of step, and two that misbehave."""

import atexit
import ctypes
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import ClassVar, Literal

import pyarrow as pa
import xxhash

from pipeline.rows import DOCUMENT, quarantine_rows
from pipeline.stage import (
    SOURCES,
    Each,
    Emit,
    Exchange,
    Filter,
    Fold,
    Map,
    Once,
    Rule,
    Source,
    Stage,
    Step,
    Task,
    at_most,
)

KEYED = pa.schema([("key", pa.uint64()), ("id", pa.string()), ("text", pa.large_string())])
OWN = ("id", "text")


class Make(Stage):
    """Makes documents, a few of them bad."""

    reads: ClassVar[Literal["sources", "documents", "rows"]] = "sources"
    shards: int = 4
    rows: int = 200
    bad: int = 0
    pause: float = 0.0

    def sources(self, folders: Sequence[Path]) -> list[Source]:
        return [Source("", f"made-{k}", k, size=1, digest="made") for k in range(self.shards)]

    def steps(self) -> tuple[Step, ...]:
        return (Each("make", self._run, DOCUMENT, reads=SOURCES),)

    def _run(self, _: Iterator[pa.RecordBatch], task: Task) -> Iterator[Emit]:
        assert task.source is not None
        name = task.source.name
        time.sleep(self.pause)
        rows = [
            {"id": f"{name}-{k}", "text": ("LOUD " if k % 7 == 0 else "calm ") * (1 + k % 50), "source": f"{name}:{k}"}
            for k in range(min(self.rows, task.limit or self.rows))
        ]
        bad = [(f"bad-{name}-{k}", f"{name}:bad", "made_bad", "on purpose", b"\xff") for k in range(self.bad)]
        batch = pa.RecordBatch.from_pylist(rows, schema=DOCUMENT)
        yield Emit(batch, quarantine=quarantine_rows(bad, task), counters={"records": len(rows) + len(bad)})


class NoShouting(Filter):
    """Drops documents written mostly in capitals."""

    max_upper: float = 0.5

    def judge(self, batch: pa.RecordBatch) -> list[Rule]:
        shares = [sum(c.isupper() for c in text) / max(len(text), 1) for text in batch["text"].to_pylist()]
        return [at_most("upper", shares, self.max_upper)]


class Mumble(Map):
    """Lower-cases text; raises on a word of its choice."""

    breaks_on: str = ""

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        texts = batch["text"].to_pylist()
        if self.breaks_on and any(self.breaks_on in text for text in texts):
            raise ValueError(f"cannot bear {self.breaks_on}")
        columns = {"text": pa.array([text.lower() for text in texts], pa.large_string())}
        return pa.RecordBatch.from_arrays([columns.get(n, batch[n]) for n in batch.schema.names], schema=batch.schema)


class Regroup(Stage):
    """Regroups rows by the hash of their id, keeps the table, counts by Fold, passes documents through."""

    pause: float = 0.0

    def steps(self) -> tuple[Step, ...]:
        return (
            Exchange(
                "table", self._scatter, KEYED, "key", ("id",), KEYED, columns=OWN, keep=True, partition_bytes=4096
            ),
            Fold("count", self._count, KEYED, reads="table"),
            Each("through", self._through, lambda schema: schema),
        )

    def _scatter(self, batches: Iterator[pa.RecordBatch], task: Task) -> Iterator[Emit]:
        for batch in batches:
            assert tuple(batch.schema.names) == OWN
            time.sleep(self.pause)
            keys = [xxhash.xxh3_64_intdigest(i.encode()) for i in batch["id"].to_pylist()]
            yield Emit(pa.record_batch([pa.array(keys, pa.uint64()), batch["id"], batch["text"]], schema=KEYED))

    def _count(self, batches: Iterator[pa.RecordBatch], task: Task) -> Mapping[str, int]:
        total = sum(len(batch) for batch in batches)
        (task.folder / "count.txt").write_text(str(total))
        return {"folded": total}

    def _through(self, batches: Iterator[pa.RecordBatch], task: Task) -> Iterator[Emit]:
        assert (task.artifacts["count"] / "count.txt").read_text().isdecimal()
        for batch in batches:
            time.sleep(self.pause)
            yield Emit(batch)


class Loses(Stage):
    """Loses a row, which the books must find."""

    def steps(self) -> tuple[Step, ...]:
        return (Each("lose", self._run, lambda schema: schema),)

    def _run(self, batches: Iterator[pa.RecordBatch], task: Task) -> Iterator[Emit]:
        for batch in batches:
            yield Emit(batch.slice(1))


class Stops(Stage):
    """Reads the first batch of a shard and no more."""

    def steps(self) -> tuple[Step, ...]:
        return (Each("stop", self._run, lambda schema: schema),)

    def _run(self, batches: Iterator[pa.RecordBatch], task: Task) -> Iterator[Emit]:
        yield Emit(next(batches))


class Notes(Stage):
    """Leaves a file in its scratch folder, which must be empty before, and the shard's number in `meta`."""

    def steps(self) -> tuple[Step, ...]:
        return (Each("note", self._run, lambda schema: schema),)

    def _run(self, batches: Iterator[pa.RecordBatch], task: Task) -> Iterator[Emit]:
        assert not list(task.scratch.iterdir())
        (task.scratch / "note").touch()
        for batch in batches:
            notes = {"meta": pa.array([f"{task.index} of {task.count}, {task.limit}"] * len(batch), pa.string())}
            columns = [notes.get(name, batch[name]) for name in batch.schema.names]
            yield Emit(pa.RecordBatch.from_arrays(columns, schema=batch.schema))


class DiesOnce(Stage):
    """Kills its own worker the first time it sees shard 0."""

    marker: str
    always: bool = False

    def steps(self) -> tuple[Step, ...]:
        return (Each("die", self._run, lambda schema: schema),)

    def _run(self, batches: Iterator[pa.RecordBatch], task: Task) -> Iterator[Emit]:
        if task.index == 0 and (self.always or not Path(self.marker).exists()):
            Path(self.marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        for batch in batches:
            yield Emit(batch)


class Alone(Stage):
    """Works on with all the cores until it is asked to end, then saves."""

    gives: ClassVar[Literal["documents", "rows", "artifact"]] = "artifact"

    def steps(self) -> tuple[Step, ...]:
        return (Once("alone", self._run),)

    def _run(self, shards: Sequence[Path], task: Task) -> Mapping[str, int]:
        asked = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: asked.set())
        (task.folder / "begun").touch()
        asked.wait()
        time.sleep(0.2)
        (task.folder / "saved").touch()
        raise SystemExit(128 + signal.SIGTERM)


def keep_pythons_lock(pipe: Connection) -> None:
    """Says that it begins, then is in a library's function that lets no other thread run."""
    pipe.send("begun")
    ctypes.PyDLL(None).sleep(30)


class Leaves(Stage):
    """Has its process write a file as it leaves."""

    gives: ClassVar[Literal["documents", "rows", "artifact"]] = "artifact"
    marker: str

    def steps(self) -> tuple[Step, ...]:
        return (Once("leave", self._run),)

    def _run(self, shards: Sequence[Path], task: Task) -> Mapping[str, int]:
        atexit.register(Path(self.marker).touch)
        return {}
