"""Kernels compiled ahead of the first task, in as many processes as there are cores, however many workers a run has.

Reads, for each file of kernels, what they are called with (`signatures.json` beside it); fills numba's cache and leaves
a note there for each file, since asking numba itself would cost every run half a second. A note holds what its kernels
were compiled for, and the sources that they were compiled from: their file, and those beside it that they link kernels
from, of which numba knows nothing. Where it does not hold what there is now, numba's cache of that file is cleared.
Whoever compiles locks the note, so that the processes of one run, and of two runs that start at the same time, share
the work. Where a note is wrong (kernels that came since, a cache cleared in part), the worker that calls a kernel
compiles it, as it does for kernels of which nothing is said here.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import importlib.metadata
import json
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipeline.engines.processes import begin, settle
from pipeline.events import KernelsCompiled, KernelsStarted, Listener, Notice
from pipeline.loading import full_name

SIGNATURES = "signatures.json"
NO_CACHE = (
    "no folder for compiled kernels can be written, so each worker compiles them for itself and keeps none; name one "
    "in NUMBA_CACHE_DIR to compile them once"
)
IMPORT = re.compile(rb"^from (?:[\w.]*\.)?(\w+) import", re.MULTILINE)
"""What a line of a source that imports names from a module says of that module: the last part of its name."""


@dataclass(frozen=True)
class Kernels:
    """A file of kernels. note: a file in numba's cache; key: what it holds once they are compiled."""

    module: str
    source: Path
    note: Path
    key: str

    @classmethod
    def of(cls, module: str, folders: Sequence[Path] = ()) -> Kernels | None:
        """The kernels of a module, which is not imported, though packages that it is in are; None where numba has no
        room for a cache. folders: of the recipe, where the module may lie."""
        found = find_spec(full_name(module, folders))
        if found is None or found.origin is None:
            raise ModuleNotFoundError(f"no kernels in {module}")
        source = Path(found.origin)
        folder = _cache_folder(source)
        if folder is None:
            return None
        key = hashlib.sha256(_machine())
        for text in (*_linked(source), source.with_name(SIGNATURES).read_bytes()):
            key.update(text)
        place = hashlib.sha256(str(source.resolve()).encode()).hexdigest()
        return cls(module, source, folder / f"{source.stem}-{place[:12]}.compiled", key.hexdigest())

    @property
    def are_compiled(self) -> bool:
        """Whether the note says so."""
        with suppress(OSError):
            return self.note.read_text() == self.key
        return False

    def compile(self, folders: Sequence[Path], *, wait: bool) -> None:
        """Compiles what the cache has not. wait: for a process that is at it; else they are left to that one. Where
        there are no locks, two processes may do the same work."""
        with self.note.open("a+") as note, suppress(BlockingIOError):
            try:
                fcntl.flock(note, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                raise
            except OSError:
                pass
            note.seek(0)
            if note.read() != self.key:
                for path in self.note.parent.rglob(f"{self.source.stem}.*.nb?"):
                    path.unlink(missing_ok=True)
                self._compile(folders)
                note.truncate(0)
                note.write(self.key)

    def _compile(self, folders: Sequence[Path]) -> None:
        """Calls numba; a kernel that its signature no longer fits is left to the worker that calls it."""
        from numba.core.sigutils import normalize_signature

        kernels = importlib.import_module(full_name(self.module, folders))
        called = json.loads(self.source.with_name(SIGNATURES).read_text()).get(self.source.stem, {})
        for name, signatures in called.items():
            for signature in signatures:
                with suppress(Exception):
                    # as types, as a call gives them: numba's cache does not know them by their text
                    getattr(kernels, name).compile(normalize_signature(signature)[0])


def compile_ahead(modules: Iterable[str], tell: Listener, folders: Sequence[Path] = ()) -> None:
    """Compiles the kernels of these modules that are not in the cache, if any, and tells of it. folders: of the recipe,
    where a user's own modules may lie."""
    if os.environ.get("NUMBA_DISABLE_JIT", "0") != "0":
        return
    known = [Kernels.of(module, folders) for module in dict.fromkeys(modules)]
    if None in known:
        tell(Notice(NO_CACHE))
    todo = [kernels for kernels in known if kernels is not None and not kernels.are_compiled]
    if not todo:
        return
    todo.sort(key=lambda kernels: kernels.source.stat().st_size, reverse=True)
    cores, began = min(len(todo), _cores()), time.perf_counter()
    tell(KernelsStarted(len(todo), cores))
    crew = [begin(_compile, todo, folders) for _ in range(cores)]
    try:
        for process in crew:
            process.join()
    finally:
        for process in crew:
            process.kill()
            process.join()
    tell(KernelsCompiled(len(todo), time.perf_counter() - began))


def _compile(todo: Sequence[Kernels], folders: Sequence[Path]) -> None:
    """One process's share: what no other has begun, then what another began and has left."""
    settle()
    from pipeline.engines.spare import spare

    spare()
    _remember_operators()
    with suppress(OSError):
        for wait in (False, True):
            for kernels in todo:
                kernels.compile(folders, wait=wait)


def _remember_operators() -> None:
    """Has numba remember the type that an operator gives of numbers and arrays, where it tries ten rules or so each
    time: 12,000 times for all kernels, of which 650 differ. The price is that one of its methods is replaced."""
    import operator

    from numba.core.types import Array, BaseFunction, Boolean, Number

    operators = {bool, *(one for one in vars(operator).values() if callable(one))}
    resolve, known = BaseFunction.get_call_type, dict[Any, Any]()

    def remembered(self: Any, context: Any, args: Any, kws: Any) -> Any:
        if kws or self.typing_key not in operators or not all(isinstance(a, Array | Boolean | Number) for a in args):
            return resolve(self, context, args, kws)
        if (self, args) not in known:
            known[self, args] = resolve(self, context, args, kws)
        return known[self, args]

    BaseFunction.get_call_type = remembered  # type: ignore[method-assign]


def _linked(source: Path) -> Iterator[bytes]:
    """What is in a file of kernels and in those beside it whose names it, or one of them, imports."""
    names = [source.stem]
    for name in names:
        with suppress(FileNotFoundError):
            yield (text := source.with_name(f"{name}.py").read_bytes())
            names += [other for other in map(bytes.decode, IMPORT.findall(text)) if other not in names]


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _cache_folder(source: Path) -> Path | None:
    """Where numba keeps what it compiles of a file, in the order in which it tries, and by its own test: a folder where
    a file can be written."""
    own, home = os.environ.get("NUMBA_CACHE_DIR"), Path(os.path.expanduser("~"))
    wide = home / "Library/Caches" if sys.platform == "darwin" else os.environ.get("XDG_CACHE_HOME", home / ".cache")
    for folder in (own, source.parent / "__pycache__", Path(wide, "numba")):
        if folder:
            with suppress(OSError):
                Path(folder).mkdir(parents=True, exist_ok=True)
                tempfile.TemporaryFile(dir=folder).close()
                return Path(folder)
    return None


@cache
def _machine() -> bytes:
    """What compiled code hangs on beside its source: numba, Python, the processor."""
    processor = platform.machine()
    with suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
        processor += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return "\n".join((importlib.metadata.version("numba"), sys.implementation.cache_tag, processor)).encode()
