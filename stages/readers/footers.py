"""Reads the footers of tables (Parquet, Arrow) in a process beside this one, which a damaged file may kill.

Gives paths, gets row groups, names of columns, or what is wrong. The process is started for the first file that is not
known yet, and anew for the file after one that killed it; it is this very module, run as a program. The one trade-off:
0.2 s to start it, once for each plan that has tables.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple

READY = b"ready\n"
"""What the program writes first."""

SECONDS = 10.0
"""CPU time that one footer may take."""

MEMORY_BYTES = 4 << 30
"""Address space of the program: with pyarrow loaded it takes 0.6 GiB at rest."""

NAMES = 10_000
"""Names of columns that are told at most."""

BY_THE_FILE = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGPROF)
"""Signals that end a process for what it reads; any other is a fault of the machine."""


class Footer(NamedTuple):
    """A table's footer: expanded and stored bytes of each row group, names of columns (those of structs below their
    own, with a dot), or why it cannot be read."""

    groups: Sequence[tuple[int, int]] = ()
    names: Sequence[str] = ()
    fault: str = ""


_known: dict[tuple[str, int, int, int], Footer] = {}
"""Footers by path, size and times of change: a plan asks for the same ones as the check before it."""


def footers(paths: Iterable[Path]) -> dict[Path, Footer]:
    """The footer of each table. Raises RuntimeError where the process cannot be started, or something else ends it."""
    found: dict[Path, Footer] = {}
    with _Process() as process:
        for path in paths:
            try:
                about = path.stat()
            except OSError as error:
                found[path] = Footer(fault=str(error.strerror))
                continue
            key = (str(path), about.st_size, about.st_mtime_ns, about.st_ctime_ns)
            if key not in _known:
                _known[key] = process.ask(path)
            found[path] = _known[key]
    return found


class _Process:
    """The process, while a `with` lasts; started for the first question."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()

    def ask(self, path: Path) -> Footer:
        """What the file's footer says."""
        process = self._running()
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the reader of footers has no pipes")
        try:
            process.stdin.write(json.dumps(str(path)).encode() + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line.endswith(b"\n"):
            return Footer(fault=self._death(process))
        answer = json.loads(line)
        return Footer([(more, packed) for more, packed in answer["groups"]], answer["names"], answer["fault"])

    def _death(self, process: subprocess.Popen[bytes]) -> str:
        status = process.wait()
        said = self._end()
        if -status not in BY_THE_FILE:
            raise RuntimeError(f"the reader of footers ended with status {status}:\n{said}")
        if -status == signal.SIGPROF:
            return f"reading its footer takes over {SECONDS:g} s"
        return f"its footer ends the process that reads it ({signal.Signals(-status).name})"

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by _end
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "stages.readers.footers"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
            if self._process.stdout is None or self._process.stdout.readline() != READY:
                raise RuntimeError(f"the reader of footers did not start:\n{self._end()}")
        return self._process

    def _end(self) -> str:
        """Ends the process, which holds nothing; what it wrote of errors."""
        said = b""
        if self._process is not None and self._errors is not None:
            self._process.kill()
            self._process.communicate()
            self._errors.seek(0)
            said = self._errors.read()[-2000:]
            self._errors.close()
        self._process = self._errors = None
        return said.decode(errors="replace")


def _about(path: str) -> dict[str, Any]:
    """What the footer says; touches of it all that a reader does."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pa.OSFile(os.fsencode(path)) as file:  # a name need not be UTF-8
            if path.endswith(".arrow"):
                return _answer([], pa.ipc.open_stream(file).schema)
            table = pq.ParquetFile(file)
            groups = [table.metadata.row_group(k) for k in range(table.num_row_groups)]
            sizes = [
                (about.total_byte_size, sum(about.column(k).total_compressed_size for k in range(about.num_columns)))
                for about in groups
            ]
            return _answer(sizes, table.schema_arrow)
    except (OSError, ValueError, RecursionError, MemoryError, pa.ArrowException) as error:
        return {"groups": [], "names": [], "fault": str(error)[:500] or type(error).__name__}


def _answer(groups: Sequence[tuple[int, int]], schema: Any) -> dict[str, Any]:
    names: list[str] = []
    for field in schema:
        _name(field, "", names)
    return {"groups": groups, "names": names, "fault": ""}


def _name(field: Any, above: str, names: list[str]) -> None:
    import pyarrow as pa

    if len(names) < NAMES:
        names.append(f"{above}{field.name}")
        if pa.types.is_struct(field.type):
            for inner in field.type:
                _name(inner, f"{above}{field.name}.", names)


def serve() -> None:
    """Answers a path in JSON on each line of standard input with a footer in JSON on a line of standard output."""
    import resource

    import pyarrow.parquet  # noqa: F401 - loaded before the memory is limited

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    answers = sys.stdout.buffer
    answers.write(READY)
    answers.flush()
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        answer = json.dumps(_about(json.loads(line)))
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(answer.encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    serve()
