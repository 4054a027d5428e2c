"""What an exception says of itself (type, message, place), in words that are safe on a terminal, and whose fault it is.

Only what a document's bytes say is held against it. A fault of the machine (`is_machine`) never is.
"""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

from pipeline.terminal import one_line

MESSAGE_CHARACTERS = 400
FRAMES = 4
ENGINE = str(Path(__file__).resolve().parent)
INSTALLED = tuple(
    sorted({f"{Path(ENGINE).parent}/", *(f"{sysconfig.get_path(name)}/" for name in ("purelib", "platlib", "stdlib"))})
)
"""Folders below which a file has the same name on every machine."""


def is_machine(error: BaseException) -> bool:
    """Whether an exception tells of the machine or the installation, whatever the document: reading and writing
    (`OSError`), memory, what cannot be imported, what numba cannot compile."""
    if isinstance(error, OSError | MemoryError | ImportError):
        return True
    return any(kind.__module__ == "numba.core.errors" for kind in type(error).__mro__)


def may_pass(error: BaseException) -> bool:
    """Whether the same work may succeed when it is tried again."""
    return isinstance(error, OSError | MemoryError)


def told(error: BaseException, *, full: bool = True) -> str:
    """`Type: message (file:line, in function)`, in one line; the place is the innermost one outside the engine.

    full: with the whole path of a file; else without the folders that differ between machines.
    """
    try:
        message = one_line(str(error))
    except Exception:  # noqa: BLE001 - a class of the user's that cannot say what it means
        message = "(its message cannot be made)"
    if len(message) > MESSAGE_CHARACTERS:
        message = f"{message[:MESSAGE_CHARACTERS]}…"
    outside = [] if isinstance(error, SyntaxError) else _outside(error)
    where = (
        f" ({_short(outside[-1].filename, full=full)}:{outside[-1].lineno}, in {outside[-1].name})" if outside else ""
    )
    return f"{type(error).__name__}: {message}{one_line(where)}" if message else f"{type(error).__name__}{where}"


def place(error: BaseException) -> tuple[str, str, int | None]:
    """Type, file and line of where an exception was raised: alike for two that have one cause."""
    frames = _frames(error)
    return (
        (type(error).__name__, frames[-1].filename, frames[-1].lineno) if frames else (type(error).__name__, "", None)
    )


def last_frames(error: BaseException) -> str:
    """The last calls outside the engine that led to an exception, one a line with its source; "" for none."""
    frames = _outside(error)[-FRAMES:]
    return "\n".join(one_line(f"  {f.filename}:{f.lineno}, in {f.name}: {f.line or ''}".rstrip(": ")) for f in frames)


def _frames(error: BaseException) -> traceback.StackSummary:
    return traceback.extract_tb(error.__traceback__)


def _outside(error: BaseException) -> list[traceback.FrameSummary]:
    inside = (f"{ENGINE}/", "<frozen ")
    return [frame for frame in _frames(error) if not frame.filename.startswith(inside)]


def _short(file: str, *, full: bool) -> str:
    for folder in sorted(INSTALLED, key=len, reverse=True):
        if file.startswith(folder):
            return file.removeprefix(folder)
    return file if full or file.startswith("<") else Path(file).name
