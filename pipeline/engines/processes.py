"""How a process of this machine begins: spawned, with one thread unless all the cores are its own, and told to end when
its parent does, whatever ended the parent.

Reads and writes nothing. A process starts from nothing, which costs about half a second, where a fork would take over
the threads and locks of its parent.
"""

from __future__ import annotations

import gc
import multiprocessing as mp
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
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
KEPT_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}
"""A worker keeps memory from one batch to the next, where giving it back and asking again costs 0.5 s of 7."""


def begin(target: Callable[..., None], *args: Any, wide: bool = False) -> SpawnProcess:
    """Starts a process that calls `target`; wide: with all the cores."""
    process = mp.get_context("spawn").Process(target=target, args=args, daemon=not wide)
    kept = {name: value for name, value in KEPT_MEMORY.items() if name not in os.environ}
    with _environment({} if wide else ONE_THREAD | kept), _no_main():
        process.start()
    return process


def settle() -> None:
    """What such a process does first: leaves the keyboard's interrupt to its parent, and watches that one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.set_threshold(*FEWER_COLLECTIONS)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    parent = mp.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


@contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    """Sets variables for a process that is about to be spawned, and puts them back."""
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
