"""Engines run tasks and know nothing of stages: `work` is the one function a worker runs, `local` the engine of
processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pipeline.engines.work import TaskResult, TaskSpec

FEWER_COLLECTIONS = (100_000, 50, 100)
"""Python's search for cycles takes a tenth of the time that loading libraries or compiling kernels takes, and frees
15 MB."""
Report = Callable[[dict[str, Any]], None]


class TaskError(Exception):
    """A task that cannot be done: its message is for people, `trace` for the log."""

    def __init__(self, message: str, trace: str = "") -> None:
        """Keeps both."""
        super().__init__(message)
        self.trace = trace


class Engine(Protocol):
    """Runs tasks in any order and on any number of workers; what they write depends on neither."""

    def run(self, specs: Sequence[TaskSpec], report: Report) -> Iterator[TaskResult]:
        """Results as tasks end. Raises TaskError for one that fails, or whose worker died three times."""
        ...

    def close(self) -> None:
        """Ends the workers."""
        ...
