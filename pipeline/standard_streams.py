"""stdin, stdout and stderr that are closed, or whose reader leaves: neither keeps a command from its work."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def open_streams() -> None:
    """Opens those of stdin, stdout and stderr that the caller has closed: else the next file that is opened would get
    the number of one of them, and what is meant for people would be written into it."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            stream = open(number, mode, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


@contextmanager
def reader_may_leave(number: int = 1) -> Iterator[None]:
    """Writing to stdout or stderr (by number): whoever reads it may stop (`head`), which is no fault of the command's.
    Any other OSError is raised; either way nothing more is written there."""
    try:
        yield
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
        if not isinstance(error, BrokenPipeError):
            raise
