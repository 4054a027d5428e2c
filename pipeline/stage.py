"""The contract between the engine room and the stages.

A stage is a frozen pydantic model: its fields are the recipe's keys, the help, the JSON schema and the fingerprint.
It offers a tuple of steps of four kinds; engines run steps and never know stages. The one trade-off: a step's function
travels to a worker as (stage settings, step name), never as a pickled callable, so it must be a method of its stage.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from pipeline.faults import is_machine, place, told
from pipeline.rows import DOCUMENT, DROP, HEAD_BYTES, drop_rows, quarantine_rows, with_column, with_field

if TYPE_CHECKING:
    from numpy.typing import NDArray

DOCUMENTS = "documents"
SOURCES = "sources"
ORDINARY = "This is a short and ordinary text.\n"
UNICODE = "unicode"
"""Among a stage's libraries: the character database that comes with Python."""


@dataclass(frozen=True, slots=True)
class Emit:
    """What a step hands on for the rows it has just read.

    rows: the step's own output (kept documents, bands, packed rows). drops, quarantine: batches of `DROP`,
    `QUARANTINE`. aside: further named outputs, declared by the step. counters: integers, summed over all tasks of the
    stage.
    """

    rows: pa.RecordBatch | None = None
    drops: pa.RecordBatch | None = None
    quarantine: pa.RecordBatch | None = None
    aside: Mapping[str, pa.RecordBatch] = field(default_factory=dict)
    counters: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Source:
    """A piece of input that one ingest task reads.

    path: the file (empty where there is none, as for a Hub dataset). name: how ids and `source` call it; valid UTF-8,
    and it does not depend on where the working directory is. start, end: byte or row-group range, end -1 for "to the
    end". input: which of the stage's inputs it belongs to. size: bytes. digest: identity, where it cannot be had by
    hashing `path`. seen: what the plan saw of the file, so that a reader can tell that it changed. Where the file lies
    and what was seen are no part of the stage's identity.
    """

    path: str
    name: str
    start: int = 0
    end: int = -1
    input: int = 0
    size: int = 0
    digest: str = ""
    seen: tuple[int, ...] = ()

    def plain(self) -> dict[str, Any]:
        """The source as JSON can hold it: a path's bytes, which need not be UTF-8, as Latin-1."""
        return asdict(self) | {"path": os.fsencode(self.path).decode("latin-1")}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Self:
        """The source that `plain` described."""
        path = os.fsdecode(plain["path"].encode("latin-1"))
        return cls(**{**plain, "path": path, "seen": tuple(plain["seen"])})

    @property
    def bytes(self) -> float:
        """Its size; infinite where it is not known."""
        return math.inf if self.digest and not self.size else self.size


@dataclass(frozen=True, slots=True)
class Task:
    """What a step's function may know of where it runs; equal for every engine and number of workers.

    stage: the folder's name ("05-quality"). index: the number of this shard, partition or group of sources; count: how
    many there are. Both are -1 in an `Each` that is fused with the reading of sources, where the number of shards in
    front is not known yet. artifacts: folder or file by name, of the stages that this one needs and of this stage's own
    earlier Folds. beside: partition `index` of the step named by `Each.beside`. folder: where a Fold's finish or a Once
    writes. scratch: an empty folder of this task's own, removed after it. report: tells the person watching; never in
    the output. limit: at most so many records from this source, or None.
    """

    stage: str
    seed: int
    index: int
    count: int
    folder: Path
    scratch: Path
    artifacts: Mapping[str, Path] = field(default_factory=dict)
    source: Source | None = None
    beside: pa.Table | None = None
    limit: int | None = None
    report: Callable[[Mapping[str, Any]], None] = field(default=lambda _: None)


StepRun = Callable[[Iterator[pa.RecordBatch], Task], Iterator[Emit]]
"""Reads one shard (batch by batch) or one sorted partition, yields what comes of it."""


@dataclass(frozen=True)
class Each:
    """Shard → shard: task k reads shard k of `reads` and writes shard k, under the same name.

    schema: of `rows`, given or computed from the incoming schema. beside: an earlier Exchange of this stage with
    `by="shard"`, whose partition k is handed over as `task.beside`. aside: schemas of the named outputs.
    keep: the output stays in the stage's folder under the step's name (a stage's last step always stays).
    """

    name: str
    run: StepRun
    schema: pa.Schema | Callable[[pa.Schema], pa.Schema]
    reads: str = DOCUMENTS
    beside: str | None = None
    aside: Mapping[str, pa.Schema] = field(default_factory=dict)
    keep: bool = False


@dataclass(frozen=True)
class Exchange:
    """Rows regrouped by key and totally ordered.

    scatter: per shard of `reads`, yields Emits whose rows follow `scattered`. columns: of the shard, those that scatter
    is given; None: all. key: a uint64 column of `scattered`; rows of one key meet in one partition. order: further
    columns that make the order total: `(key, *order)` must never tie, or ties must be alike. gather: reads a
    partition's rows in that order, in batches of bounded size (the rows of one key may span batches); None hands the
    rows on as they are. by: "hash" cuts the key's whole 64-bit range evenly, into partitions of about
    `partition_bytes`, or half of it where they are few; "shard" makes partition k of key k, one for each shard of the
    stage's documents.
    """

    name: str
    scatter: StepRun
    scattered: pa.Schema
    key: str
    order: tuple[str, ...]
    schema: pa.Schema
    gather: StepRun | None = None
    reads: str = DOCUMENTS
    columns: tuple[str, ...] | None = None
    by: Literal["hash", "shard"] = "hash"
    partition_bytes: int = 64 << 20
    aside: Mapping[str, pa.Schema] = field(default_factory=dict)
    keep: bool = False


@dataclass(frozen=True)
class Fold:
    """Shards → one artifact, a folder.

    map: per shard, partial rows (None: `reads` is small already and is read as it is). finish: reads all partials in
    shard order, one after the other, writes into `task.folder`, returns counters. Partials come in a stated order, so
    finish need not be commutative to give the same bytes for any number of workers.
    """

    name: str
    finish: Callable[[Iterator[pa.RecordBatch], Task], Mapping[str, int]]
    partial: pa.Schema
    map: StepRun | None = None
    reads: str = DOCUMENTS
    keep: bool = False


@dataclass(frozen=True)
class Once:
    """Everything so far → one folder, in a process of its own with all the cores; it may resume from what it left
    there.

    run: gets the paths of the shards of `reads`, writes into `task.folder`, returns counters.
    """

    name: str
    run: Callable[[Sequence[Path], Task], Mapping[str, int]]
    reads: str = DOCUMENTS
    keep: bool = True


Step = Each | Exchange | Fold | Once


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with a stage's settings that its types cannot tell: `loc` is the path of keys to the setting."""

    loc: tuple[str | int, ...]
    message: str


class Stage(BaseModel):
    """Settings and behaviour of one stage.

    version: raise it when the same settings give another answer. gives: "documents", "rows" (packed) or "artifact" (the
    documents stay where they are). needs: names of artifacts; a field of the same name may point to another run's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    version: ClassVar[int] = 1
    gives: ClassVar[Literal["documents", "rows", "artifact"]] = "documents"
    reads: ClassVar[Literal["sources", "documents", "rows"]] = "documents"
    needs: ClassVar[tuple[str, ...]] = ()

    def steps(self) -> tuple[Step, ...]:
        """The stage's steps, in order; the last one's output is the stage's."""
        raise TypeError(f"{type(self).__name__} defines no steps()")

    def check(self, folders: Sequence[Path]) -> list[Problem]:
        """Problems that only the machine can tell: missing files, extras not installed. folders: where relative
        paths start."""
        return []

    def sources(self, folders: Sequence[Path]) -> list[Source]:
        """The pieces of input, in order, never depending on the number of workers; only for stages that read
        sources."""
        return []

    def remarks(self, folders: Sequence[Path]) -> list[str]:
        """What people should know of the inputs and is no error, a sentence each: files that are passed over. Only for
        stages that read sources."""
        return []

    def libraries(self) -> tuple[str, ...]:
        """Distributions whose version decides the stage's answer (and `UNICODE`): another version runs it again."""
        return ()

    def kernels(self) -> tuple[str, ...]:
        """Modules of numba kernels that the steps call, to be compiled ahead: each has its kernels' types of arguments
        in a `signatures.json` beside it. What is not named here is compiled when first called."""
        return ()

    @classmethod
    def column(cls) -> str:
        """The name of this stage's struct column of scores: its class's name in snake case."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()


class Map(Stage):
    """Text in, text out: a stage that rewrites documents and drops none."""

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The same rows, in the same order, with the same columns."""
        raise TypeError(f"{type(self).__name__} defines no apply()")

    def steps(self) -> tuple[Step, ...]:
        """One pass over the shards."""
        return (Each("map", each_batch(lambda batch, task: Emit(rows=self.apply(batch))), schema=lambda s: s),)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule's verdict on a batch of n documents: scores float32[n] (NaN: not computed), broken bool[n].

    limit: one for all, or float32[n] where it depends on the document (its language, say).
    """

    name: str
    scores: NDArray[np.float32]
    limit: float | NDArray[np.float32]
    broken: NDArray[np.bool_]


def at_most(name: str, scores: Iterable[float], limit: float) -> Rule:
    """A rule broken by scores over the limit."""
    values = np.asarray(scores, dtype=np.float32)
    return Rule(name, values, limit, values > np.float32(limit))


def at_least(name: str, scores: Iterable[float], limit: float) -> Rule:
    """A rule broken by scores under the limit."""
    values = np.asarray(scores, dtype=np.float32)
    return Rule(name, values, limit, values < np.float32(limit))


class Filter(Stage):
    """Judge, never rewrite: a stage that keeps or drops documents and writes every rule's score beside them."""

    def judge(self, batch: pa.RecordBatch) -> Sequence[Rule]:
        """Every rule's verdict on the batch, in the order in which a drop names them."""
        raise TypeError(f"{type(self).__name__} defines no judge()")

    def rules(self) -> tuple[str, ...]:
        """The names `judge` returns, in order; found by judging an empty batch unless a stage says otherwise."""
        return tuple(rule.name for rule in self.judge(pa.RecordBatch.from_pylist([], schema=DOCUMENT)))

    def steps(self) -> tuple[Step, ...]:
        """One pass over the shards."""
        return (Each("judge", each_batch(self._judge), schema=self._schema),)

    def _schema(self, incoming: pa.Schema) -> pa.Schema:
        column = pa.field(self.column(), pa.struct([(rule, pa.float32()) for rule in self.rules()]))
        return with_field(incoming, column)

    def _judge(self, batch: pa.RecordBatch, task: Task) -> Emit:
        return verdict(with_scores(batch, self.column(), rules := tuple(self.judge(batch))), rules, task)


def with_scores(batch: pa.RecordBatch, column: str, rules: Sequence[Rule]) -> pa.RecordBatch:
    """The batch with the rules' scores in one struct column, null where a score is NaN."""
    fields = [pa.field(rule.name, pa.float32()) for rule in rules]
    arrays = [pa.array(rule.scores, pa.float32(), from_pandas=True) for rule in rules]
    if not fields:
        return batch
    return with_column(batch, pa.field(column, pa.struct(fields)), pa.StructArray.from_arrays(arrays, fields=fields))


def verdict(
    batch: pa.RecordBatch, rules: Sequence[Rule], task: Task, counters: Mapping[str, int] | None = None
) -> Emit:
    """Splits a batch by its rules: kept rows, and drops that name every rule broken with score and limit."""
    broken = np.array([rule.broken for rule in rules], np.bool_).reshape(len(rules), len(batch))
    dropped = broken.any(axis=0)
    if not dropped.any():
        return Emit(rows=batch, counters=counters or {})
    where = np.flatnonzero(dropped)
    firsts = pa.array([rules[k].name for k in broken[:, where].argmax(axis=0).tolist()], pa.string())
    lost = batch.select(["id", "source", "text"]).take(pa.array(where))
    drops = drop_rows(lost, task, firsts, _reasons(rules, broken, where))
    return Emit(rows=batch.filter(pa.array(~dropped)), drops=drops, counters=counters or {})


def _reasons(rules: Sequence[Rule], broken: NDArray[np.bool_], where: NDArray[np.int64]) -> pa.Array:
    """The broken rules of some documents, as `DROP` has them, without a Python object for each. broken: bool[r, n]."""
    places, which = np.nonzero(broken[:, where].T)
    n = broken.shape[1]
    scores = np.array([rule.scores for rule in rules], np.float32)
    limits = np.array([np.broadcast_to(np.asarray(rule.limit, np.float32), n) for rule in rules])
    names = pa.array([rule.name for rule in rules], pa.string()).take(pa.array(which))
    numbers = [pa.array(values[which, where[places]], pa.float32()) for values in (scores, limits)]
    kind = DROP.field("broken").type
    ends = np.searchsorted(places, np.arange(len(where) + 1)).astype(np.int32)
    values = pa.StructArray.from_arrays([names, *numbers], fields=list(kind.value_type))
    return pa.ListArray.from_arrays(pa.array(ends), values, type=kind)


class StageFault(Exception):  # noqa: N818 - the word that tells it from the machine's and a document's
    """A stage that fails whatever the document is; `__cause__` is what it raised."""


def each_batch(function: Callable[[pa.RecordBatch, Task], Emit]) -> StepRun:
    """Makes a step's `run` from a function on one batch, by which a document that breaks a library ends no run.

    Where the function raises, it is asked whose fault that is. A fault of the machine (`faults.is_machine`) is raised,
    for the engine to try the task again. What the function raises for a batch without rows too, at the same line, is
    the stage's fault, and raised as `StageFault`. Else the batch is tried row by row, and each row for which the
    function raises is quarantined with the exception as its reason; if it does so for every row at the same line, and
    for an ordinary document in the place of the first too, that is the stage's fault as well.
    """

    def run(batches: Iterator[pa.RecordBatch], task: Task) -> Iterator[Emit]:
        for batch in batches:
            emit, error = _tried(function, batch, task)
            if error is not None:
                yield from _one_by_one(function, batch, task, error)
            elif emit is not None:
                yield emit

    return run


def _tried(
    function: Callable[[pa.RecordBatch, Task], Emit], batch: pa.RecordBatch, task: Task
) -> tuple[Emit | None, BaseException | None]:
    """What the function makes of a batch, or what it raises, unless that is the machine's fault or a wish to end."""
    try:
        return function(batch, task), None
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic of a library's Rust is no Exception
        if is_machine(error):
            raise
        return None, error


def _one_by_one(
    function: Callable[[pa.RecordBatch, Task], Emit], batch: pa.RecordBatch, task: Task, error: BaseException
) -> Iterator[Emit]:
    _, empty = _tried(function, batch.slice(0, 0), task)
    if empty is not None and place(empty) == place(error):
        raise StageFault(f"{told(error)}; it fails without any document, so this is the stage's fault") from error
    bad: list[tuple[str, str, str, str, bytes]] = []
    places = set()
    for k in range(len(batch)):
        row = batch.slice(k, 1)
        emit, own = _tried(function, row, task) if len(batch) > 1 else (None, error)
        if emit is not None:
            yield emit
        if own is not None:
            places.add(place(own))
            text = (row["text"][0].as_py() or "").encode()
            about = (row["id"][0].as_py(), row["source"][0].as_py())
            bad.append((*about, "stage_error", told(own, full=False), text[:HEAD_BYTES]))
    if len(bad) == len(batch) and len(places) == 1:
        _, usual = _tried(function, _ordinary(batch), task)
        if usual is not None and place(usual) in places:
            said = f"{told(usual)}; it fails for every document alike, so this is the stage's fault"
            raise StageFault(said) from usual
    if bad:
        yield Emit(quarantine=quarantine_rows(bad, task))


def _ordinary(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A document in which nothing is odd: the batch's first row, with a plain text, and no other text or list."""
    row = batch.slice(0, 1)
    for name in row.schema.names:
        field = row.schema.field(name)
        kind = field.type
        if name == "text":
            row = with_column(row, field, pa.array([ORDINARY], kind))
        elif field.nullable and not (pa.types.is_struct(kind) or pa.types.is_primitive(kind)):
            row = with_column(row, field, pa.nulls(1, kind))
    return row


def resolve(path: str, folders: Sequence[Path]) -> Path:
    """A path of the recipe: absolute as it is, relative from the first folder where it (or its glob's parent)
    exists."""
    for folder in folders:
        if os.path.lexists(folder / path):
            return folder / path
    return folders[0] / path if folders else Path(path)
