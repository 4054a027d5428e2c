"""Tasks on processes of this machine: single-threaded, long-lived; a task that fails by the machine's fault, or whose
worker dies, is tried again by a new worker, after a pause.

One pipe per worker, so that it is known which task a dead worker had. A worker ends when its parent does, whatever
ended the parent; it tells when a kernel is compiled for the first time. Tasks that want all the cores run in a process
of their own. Workers that are started ahead, by `prepare` and `warm`, share what the caller has loaded; so nothing
heavy is imported here before it is needed.
"""

from __future__ import annotations

import gc
import os
import signal
import time
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engines import Report, TaskError
from pipeline.engines.processes import begin, branch, has_threads, keep_memory, load, settle
from pipeline.faults import last_frames, may_pass, told
from pipeline.loading import is_own
from pipeline.locks import at_work

if TYPE_CHECKING:
    from pipeline.engines.work import TaskResult, TaskSpec

ATTEMPTS = 3
PAUSES = (0.0, 1.0, 4.0)
"""Seconds before each attempt."""

SAVING_SECONDS, LEAVING_SECONDS = 60, 10


class LocalEngine:
    """Runs tasks on `workers` processes, started when first needed and kept until `close`."""

    def __init__(self, workers: int) -> None:
        """Starts nothing yet."""
        self.workers = workers
        self._idle: list[_Worker] = []
        self._branches = False

    def prepare(self) -> None:
        """Loads what workers need, before the caller plans, if this process has one thread; else a worker is started
        that loads it meanwhile."""
        self._branches = load(_libraries)
        if not self._branches:
            self._idle.append(_Worker())

    def warm(self, *, kernels: bool = True) -> None:
        """Starts workers ahead of their first task, once the plan is made: forks that have all that this process has
        loaded, the stages too. One that has got threads meanwhile starts none. kernels: whether tasks will call any."""
        if self._branches and (load(_types) if kernels else not has_threads()):
            while len(self._idle) < self.workers:
                self._idle.append(_Worker(branches=True, elder=[worker.pipe for worker in self._idle]))

    def run(self, specs: Sequence[TaskSpec], report: Report) -> Iterator[TaskResult]:
        """Results as tasks end; see `Engine.run`."""
        todo = deque((spec, 1) for spec in specs)
        busy: list[_Worker] = []
        try:
            while todo or busy:
                self._occupy(busy, todo)
                for worker in _ready(busy):
                    outcome = worker.receive(report)
                    if outcome is None:
                        continue
                    busy.remove(worker)
                    if isinstance(outcome, _Failed):
                        todo.appendleft(_again(worker, outcome, report))
                    else:
                        self._put(worker)
                        self._occupy(busy, todo)  # before the caller takes note of the result, which waits for the disk
                        yield outcome
        except BaseException:
            for worker in busy:
                worker.end()
            raise

    def close(self) -> None:
        """Ends the idle workers."""
        for worker in self._idle:
            worker.kill()
        self._idle.clear()

    def _occupy(self, busy: list[_Worker], todo: deque[tuple[TaskSpec, int]]) -> None:
        """Hands tasks to workers until all are busy, or there are none left."""
        while todo and len(busy) < self.workers:
            spec, attempt = todo.popleft()
            worker = _Worker(wide=True) if spec.wide else self._take()
            worker.start(spec, attempt)
            busy.append(worker)

    def _take(self) -> _Worker:
        return self._idle.pop() if self._idle else _Worker()

    def _put(self, worker: _Worker) -> None:
        if worker.wide:
            worker.dismiss()
        else:
            self._idle.append(worker)


@dataclass(frozen=True)
class _Failed:
    """An attempt that came to nothing and may be repeated: why, and how to say so after the last one."""

    cause: str
    finally_: str
    trace: str = ""


class _Worker:
    """One process and the pipe to it."""

    def __init__(self, *, wide: bool = False, branches: bool = False, elder: Sequence[Connection] = ()) -> None:
        self.wide = wide
        self.pipe, theirs = Pipe()
        if branches:
            self.process = branch(_serve, theirs, leave=[self.pipe, *elder])
        else:
            self.process = begin(_serve, theirs, wide, wide=wide)
        theirs.close()

    def start(self, spec: TaskSpec, attempt: int) -> None:
        """Hands the task over; a worker that is dead already shows when its answer is awaited."""
        self.spec, self.attempt = spec, attempt
        with suppress(BrokenPipeError, ConnectionResetError):
            self.pipe.send((PAUSES[attempt - 1], spec.model_dump_json()))

    def receive(self, report: Report) -> TaskResult | _Failed | None:
        """A result, a failure that may pass, or None for mere news. Raises TaskError where the task itself failed."""
        try:
            kind, value = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            cause = _cause(self.process.exitcode)
            return _Failed(f"worker died ({cause})", f"its worker died {ATTEMPTS} times ({cause})")
        if kind == "news":
            report({"task": self.spec.key, **value})
            return None
        if kind == "failed":
            self.kill()
            if value["may_pass"]:
                cause = value["message"]
                return _Failed(cause, f"{cause}; it failed {ATTEMPTS} times", value["trace"])
            raise TaskError(f"{self.spec.stage} ({self.spec.key}): {value['message']}", value["trace"])
        from pipeline.engines.work import TaskResult

        return TaskResult.model_validate_json(value)

    def end(self) -> None:
        """Ends the process; one that has all the cores may first save what it has done (training, a checkpoint)."""
        if self.wide:
            self.process.terminate()
            self.process.join(SAVING_SECONDS)
        self.kill()

    def dismiss(self) -> None:
        """Lets the process leave by itself: libraries that it loaded may have processes of their own to end."""
        self.pipe.close()
        self.process.join(LEAVING_SECONDS)
        self.kill()

    def kill(self) -> None:
        """Ends the process at once: nothing that it has not committed counts."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _ready(busy: Sequence[_Worker]) -> list[_Worker]:
    ready = wait([worker.pipe for worker in busy])
    return [worker for worker in busy if worker.pipe in ready]


def _again(worker: _Worker, failed: _Failed, report: Report) -> tuple[TaskSpec, int]:
    spec, attempt = worker.spec, worker.attempt
    if attempt >= ATTEMPTS:
        files = ", ".join(spec.inputs[:1]) or ", ".join(source["name"] for source in spec.sources)
        reading = f" while reading {files}" if files else ""
        raise TaskError(f"{spec.stage} ({spec.key}): {failed.finally_}{reading}", failed.trace)
    report({"task": spec.key, "retry": attempt, "cause": failed.cause})
    return spec, attempt + 1


def _cause(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"{name}, often a lack of memory" if name == "SIGKILL" else name
    return f"exit code {code}"


def _libraries(spares: bool = True) -> None:
    """Loads what every worker needs; spares: without what only stages from elsewhere or a wide task may want."""
    with _staying():
        import pipeline.engines.work  # noqa: F401
        from pipeline.engines.spare import spare

        if spares:
            spare()


def _types() -> None:
    """Loads what every kernel asks of numba."""
    with _staying():
        from pipeline.engines.spare import know_types

        know_types()


@contextmanager
def _staying() -> Iterator[None]:
    """What is loaded meanwhile stays: no search for cycles need look at it, or touch memory that is shared."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _serve(pipe: Connection, wide: bool = False) -> None:
    """A worker's life: tasks in, results out, until the pipe or the parent is gone."""
    settle()
    _libraries(spares=not wide)
    from pipeline.engines.work import TaskSpec, run_task

    def report(news: dict[str, Any]) -> None:
        pipe.send(("news", dict(news)))

    if not wide:
        keep_memory()
        _one_thread()
        _tell_of_compiling(report)
    with suppress(EOFError, BrokenPipeError):
        while True:
            pause, text = pipe.recv()
            time.sleep(pause)
            spec = TaskSpec.model_validate_json(text)
            try:
                with at_work(Path(spec.root).parent):
                    answer: tuple[str, Any] = ("done", run_task(spec, report).model_dump_json())
            except Exception as error:  # noqa: BLE001 - whatever a task raises is told to the parent, which stops the run
                answer = ("failed", _failure(spec, error))
            pipe.send(answer)


def _failure(spec: TaskSpec, error: Exception) -> dict[str, Any]:
    """What the parent is told of an exception; of one in a user's own stage, the last calls too."""
    from pipeline.stage import StageFault

    raised = error.__cause__ or error if isinstance(error, StageFault) else error
    message = str(error) if isinstance(error, StageFault) else told(error)
    foreign = not all(is_own(link.use) for link in (spec, *spec.before))
    if foreign and not may_pass(error) and (frames := last_frames(raised)):
        message += f"\n{frames}"
    return {"message": message, "trace": traceback.format_exc(), "may_pass": may_pass(error)}


def _one_thread() -> None:
    """Has pyarrow work in this thread, with the memory that malloc keeps unless another is asked for."""
    import pyarrow as pa

    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    if "ARROW_DEFAULT_MEMORY_POOL" not in os.environ:
        pa.set_memory_pool(pa.system_memory_pool())


def _tell_of_compiling(report: Report) -> None:
    """Reports `compiling`, once, when numba compiles a kernel that is not in its cache."""
    from numba.core.event import Event, Listener, register

    class Teller(Listener):  # type: ignore[misc]  # numba has no types
        told = False

        def on_start(self, event: Event) -> None:
            if not self.told:
                self.told = True
                report({"compiling": 1})

        def on_end(self, event: Event) -> None:
            """Nothing to tell."""

    register("numba:compile", Teller())
