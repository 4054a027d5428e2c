"""Text of documents, files and recipes made fit to be shown: a hostile one must not steer the terminal.

Reads and writes nothing. The price: characters that only lay out text (a joiner, a mark of direction) are shown as
escapes too.
"""

from __future__ import annotations

import base64
import json
import re
from typing import Any

CONTROLS = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Text fit for a terminal: control characters but newline and tab are shown as escapes, so they steer nothing."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str) -> str:
    """The text in one line, every character that a terminal may act on or not show written as an escape."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def as_json(value: Any) -> str:
    """JSON fit for a terminal and for any encoding: bytes in base64, control characters and surrogates escaped."""
    text = json.dumps(value, ensure_ascii=False, indent=1, default=_plain)
    return CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _plain(value: object) -> str:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)
