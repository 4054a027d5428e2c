"""How a process of this machine begins, with one thread unless all the cores are its own, and how it ends: when its
parent does, whatever ended the parent.

Reads and writes nothing. Spawned, a process starts from nothing and loads its libraries again, which costs 0.65 s of
CPU time; branched off by a fork, it has what its parent has loaded, in the same memory, which is safe as long as the
parent has one thread: else the fork may take over a lock that nobody will open.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing as mp
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any

from pipeline.engines import FEWER_COLLECTIONS

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
SAFE_PATH = {"PYTHONSAFEPATH": "1"}
"""Keeps the working directory off the search path of a Python that is started, and of those that it starts."""

NO_JEMALLOC_THREAD = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}
PR_SET_PDEATHSIG = 1
KEPT_MEMORY = {"MALLOC_TRIM_THRESHOLD_": (-1, 256 << 20), "MALLOC_MMAP_THRESHOLD_": (-3, 32 << 20)}
"""glibc's variables, how `mallopt` calls them, and bytes."""


def begin(target: Callable[..., None], *args: Any, wide: bool = False) -> BaseProcess:
    """Spawns a process that calls `target`; wide: with all the cores."""
    context = mp.get_context("spawn")
    process = context.Process(target=_spawned, args=(_on_main_thread(), target, *args), daemon=not wide)
    with _environment(SAFE_PATH if wide else ONE_THREAD | SAFE_PATH), _no_main():
        process.start()
    return process


def branch(target: Callable[..., None], *args: Any, leave: Sequence[Connection] = ()) -> BaseProcess:
    """Forks a process that calls `target`; only for a process with one thread, see `load`. Asked to end (SIGTERM) it
    ends at once, whatever its parent would do. leave: what of its parent's it closes."""
    elder = [end for child in mp.active_children() for end in _pipes(child)]
    process = mp.get_context("fork").Process(target=_branched, args=(elder, leave, target, *args), daemon=True)
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    process.start()
    signal.signal(signal.SIGTERM, before)
    return process


def _spawned(tied: bool, target: Callable[..., None], *args: Any) -> None:
    _watch_parent(tied=tied)
    target(*args)


def _branched(elder: Sequence[int], leave: Sequence[Connection], target: Callable[..., None], *args: Any) -> None:
    """Lets go of the pipes that its parent has to its other children, which would not see the parent's end else."""
    _watch_parent(tied=True)
    for end in elder:
        os.close(end)
    for connection in leave:
        connection.close()
    os.environ.update(ONE_THREAD | SAFE_PATH)
    target(*args)


def _pipes(child: BaseProcess) -> tuple[int, ...]:
    """The parent's ends of the pipes by which it and a child see each other's end, which Python does not name."""
    finalizer = getattr(getattr(child, "_popen", None), "finalizer", None)
    return tuple(getattr(finalizer, "_args", ()))


def _on_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def load(libraries: Callable[[], None]) -> bool:
    """Has `libraries` load them with one thread; whether this process may branch then. If it has threads already, or
    the system does not say, nothing is loaded."""
    if has_threads():
        return False
    with _environment(ONE_THREAD | NO_JEMALLOC_THREAD):
        libraries()
    return not has_threads()


def has_threads() -> bool:
    """Whether there are others beside this one, those that libraries start by themselves included."""
    with suppress(OSError):
        return len(os.listdir("/proc/self/task")) > 1
    return True


def settle() -> None:
    """What such a process does first: leaves the keyboard's interrupt to its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.set_threshold(*FEWER_COLLECTIONS)


def keep_memory() -> None:
    """Has glibc keep what one batch frees for the next one, where giving it back and asking again costs 0.5 s of 7;
    what the user's variables say stands, and elsewhere it does nothing."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for variable, (name, size) in KEPT_MEMORY.items():
            if variable not in os.environ:
                libc.mallopt(name, size)


def _watch_parent(*, tied: bool) -> None:
    """Ends this process when its parent ends, whatever ended that one.

    tied: Linux does so at once, even within a kernel or library that keeps Python's lock. It counts the end of the
    thread that started this process as its parent's end; so only a main thread's child is tied. Elsewhere a thread
    watches.
    """
    parent = mp.parent_process()
    if parent is None:
        return
    libc = ctypes.CDLL(None)
    if tied and sys.platform == "linux" and libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) == 0:
        if os.getppid() != parent.pid:  # it ended before
            os._exit(1)
        return
    threading.Thread(target=_die_with_parent, args=(parent.sentinel,), daemon=True).start()


def _die_with_parent(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


@contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    """Sets variables meanwhile, and puts them back."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _no_main() -> Iterator[None]:
    """Hides the main module from a process that is about to be spawned: it would import it, and needs none of it."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
