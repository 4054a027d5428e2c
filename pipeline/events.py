"""What happens in a run, as typed events: appended to `events.jsonl`, shown live by whoever listens.

Events carry the time and the cost of things; nothing that a stage writes does.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class RunStarted:
    """A run begins: its folder and the stages that will run, of how many."""

    out: str
    todo: int
    stages: int


@dataclass(frozen=True)
class Notice:
    """Something about the machine that a person should know of; the run goes on."""

    text: str


@dataclass(frozen=True)
class KernelsStarted:
    """Kernels that no run has needed before are to be compiled: so many files of them, by so many processes."""

    files: int
    processes: int


@dataclass(frozen=True)
class KernelsCompiled:
    """They are compiled, for this run and later ones; wall seconds."""

    files: int
    seconds: float


@dataclass(frozen=True)
class StageSkipped:
    """A stage was done already."""

    stage: str


@dataclass(frozen=True)
class StageStarted:
    """A stage begins, and why it must run."""

    stage: str
    why: str


@dataclass(frozen=True)
class StepStarted:
    """A step begins: its tasks, and how many an earlier, interrupted run has done. total: rows to read where known."""

    stage: str
    step: str
    tasks: int
    done: int
    total: int = 0


@dataclass(frozen=True)
class News:
    """A task under way tells how far it is."""

    stage: str
    task: str
    values: dict[str, Any]


@dataclass(frozen=True)
class TaskDone:
    """A task ended: rows and bytes read, rows kept, seconds, peak memory of its worker in bytes."""

    stage: str
    task: str
    rows: int
    kept: int
    bytes: int
    seconds: float
    peak: int


@dataclass(frozen=True)
class StageDone:
    """A stage is committed: its books in rows, text bytes in and out, drops by rule, counters, and what it cost."""

    stage: str
    rows: dict[str, int]
    bytes_in: int
    bytes_out: int
    seconds: float
    cpu_seconds: float
    peak: int
    rules: dict[str, int] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class RunDone:
    """A run is over."""

    out: str
    seconds: float


Event = (
    RunStarted
    | Notice
    | KernelsStarted
    | KernelsCompiled
    | StageSkipped
    | StageStarted
    | StepStarted
    | News
    | TaskDone
    | StageDone
    | RunDone
)
Listener = Callable[[Event], None]


class EventLog:
    """Appends every event but mere news to a file of JSON lines, each with its time in seconds since 1970."""

    def __init__(self, path: Path) -> None:
        """Opens the file; an interrupted run's events stay, but for a last line of which only a part was written."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
        self._file = path.open("a", encoding="utf-8")

    def __call__(self, event: Event) -> None:
        """Writes one line."""
        if not isinstance(event, News):
            line = {"at": round(time.time(), 3), "event": type(event).__name__, **asdict(event)}
            self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
