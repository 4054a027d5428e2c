"""Names of files as they may be written down or shown: valid UTF-8, on one line, and nothing steers a terminal.

Takes and gives strings; reads and writes nothing.
"""

from __future__ import annotations

import os

LONGEST = 200
"""Characters of a name that are shown at most."""


def utf8_name(name: str) -> str:
    """A file's name as UTF-8 text: bytes that are not UTF-8 become backslash escapes, and a backslash becomes two.

    Two names never become one.
    """
    return name if name.isascii() and "\\" not in name else utf8(name.replace("\\", "\\\\"))


def utf8(text: str) -> str:
    """Text from the system (a file's name, an argument) as UTF-8: bytes that are not UTF-8 become escapes."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def is_utf8(name: str) -> bool:
    """Whether a file's name is valid UTF-8."""
    return not any("\ud800" <= c <= "\udfff" for c in name)


def shown_name(name: object) -> str:
    """A file's name or path on one line of a message: escaped, and its middle left out where it is very long."""
    line = "".join(c if c.isprintable() else _escaped(c) for c in str(name))
    return line if len(line) <= LONGEST else f"{line[: LONGEST // 2]}…{line[-LONGEST // 2 :]}"


def _escaped(c: str) -> str:
    """A character's escape; a byte that is not UTF-8, which Python keeps as half a surrogate pair, as that byte's."""
    return f"\\x{ord(c) - 0xDC00:02x}" if "\udc80" <= c <= "\udcff" else c.encode("unicode_escape").decode()
