"""Keeps two runs out of one folder, and a new run out of one in which a worker of a killed run is still at work.

Locks `RUN/.lock` by flock, which ends with the process that holds it. A run takes the file for itself, then shares it
with its own workers for as long as each has a task. Without flock (some network file systems), Linux keeps the runs of
one machine apart by a name in its socket namespace. The one trade-off: that keeps no other machine out.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

LOCK = ".lock"
WORKING = "is at work in this folder; wait for it, or give another --out"
WAIT_SECONDS, SHORT_SECONDS = 10.0, 1.0
"""How long a run waits for the workers of one that was killed, which end within a moment, and for one that lives."""


class LockedError(Exception):
    """A folder that cannot be had; the message says why and how to go on."""


@contextmanager
def alone(out: Path) -> Iterator[str]:
    """Holds a run's folder; gives "", or a note for people where a file system has no locks. Raises LockedError."""
    with _open(out / LOCK) as file:
        try:
            _take(file.fileno(), out)
        except (BlockingIOError, LockedError):
            raise
        except OSError as error:
            with _name(out, error):
                yield (
                    f"{out} is on a file system without locks ({error.strerror}): runs of this machine are kept apart; "
                    "start none in this folder on another machine meanwhile"
                )
            return
        file.truncate(0)
        file.write(f"{socket.gethostname()} {os.getpid()}")
        file.flush()
        yield ""


@contextmanager
def at_work(out: Path) -> Iterator[None]:
    """Shares the folder of a run, if it is locked, with the run itself, while a worker of it has a task. Raises
    LockedError where another run has it."""
    try:
        file = (out / LOCK).open("rb")
    except FileNotFoundError:
        yield
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockedError(f"{out}: another run has taken this folder") from None
        except OSError:  # no locks here
            pass
        yield


def _open(path: Path) -> TextIO:
    """The lock's file, made if need be. Raises LockedError where it is a link, which is not followed."""
    try:
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+", encoding="utf-8")
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise LockedError(f"{path} is a link. A run's folder holds its own files: remove the link.") from None


def _take(file: int, out: Path) -> None:
    """Takes the lock for this run alone, then shares it: a second run wants it alone. Raises OSError without flock."""
    began = time.monotonic()
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # where another run comes between, that one has it
            return
        holder = _holder(file)
        if time.monotonic() - began > (SHORT_SECONDS if holder else WAIT_SECONDS):
            who = f"another run ({holder})" if holder else "a worker of a killed run, or a run of another machine,"
            raise LockedError(f"{out}: {who} {WORKING}")
        time.sleep(0.05)


def _holder(file: int) -> str:
    """The process that took the lock, while it lives on this machine; else ""."""
    host, _, process = os.pread(file, 400, 0).decode(errors="replace").rpartition(" ")
    if host != socket.gethostname() or not process.isdecimal():
        return ""
    with suppress(OSError, OverflowError):
        os.kill(int(process), 0)
        return f"process {process}"
    return ""


@contextmanager
def _name(out: Path, error: OSError) -> Iterator[None]:
    """Holds a name that stands for the folder, of which Linux has one. Raises LockedError."""
    if sys.platform != "linux":
        raise LockedError(f"{out}: this file system has no locks ({error.strerror}); give an --out on another disk")
    name = hashlib.sha256(os.fsencode(out.resolve())).hexdigest()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as holder:
        try:
            holder.bind(f"\0gristmill-{name}")
        except OSError:
            raise LockedError(
                f"{out}: another run is at work in this folder; wait for it, or give another --out"
            ) from None
        yield
