"""Media types: what a Content-Type says, and what bytes are that have none.

The one trade-off: a page behind a byte order mark is a page, where the standard says plain text. Sources: Fetch
Standard ("extract a MIME type"), MIME Sniffing Standard sections 4 and 7.1.
"""

from __future__ import annotations

import codecs
import re
from typing import NamedTuple

HTML = "text/html"
PLAIN = "text/plain"
UNKNOWN = frozenset({"unknown/unknown", "application/unknown", "*/*"})
"""Types that say as much as none (MIME Sniffing Standard, section 7)."""

BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16le"), (codecs.BOM_UTF16_BE, "utf-16be"))
"""Byte order marks and the encodings that they tell."""

SNIFFED = 1445
"""Bytes by which a type is told (section 5.2)."""

PAGE = re.compile(
    rb"[\t\n\f\r ]*<(?:!--|\?xml|"
    rb"(?:!doctype html|html|head|script|iframe|h1|div|font|table|a|style|title|b|body|br|p)[\s/>])",
    re.IGNORECASE,
)
"""How a page begins (section 7.1)."""

BINARY = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")
"""Bytes that no text has (section 3, "binary data byte")."""

OTHER = (b"%PDF-", b"%!PS-Adobe-")
"""How printable documents begin that are no text."""

TYPE = re.compile(r"[\t\n\r ]*([!#$%&'*+.^_`|~0-9a-z-]+/[!#$%&'*+.^_`|~0-9a-z-]+)(?=[\t\n\r ;(]|\Z)")
PARAMETER = re.compile(r"[;\t\n\r ]([a-z0-9_-]+)[ \t]*=[ \t]*(\"(?:[^\"\\]|\\.)*+\"?|[^;,\t\n\r ]*)")


class MediaType(NamedTuple):
    """A media type without parameters and its charset, both in lower case; "" where there is none."""

    essence: str
    charset: str


def media_type(value: str) -> MediaType:
    """What a Content-Type says: of values joined by commas the last valid one, with the charset of those of its type.

    `text/html charset=x`, without the semicolon, is read as browsers do.
    """
    essence = charset = ""
    for part in _parts(value.lower()):
        found = TYPE.match(part)
        own = next((value for name, value in PARAMETER.findall(f";{part}") if name == "charset"), None)
        if found is not None and found[1] not in ("*/*", essence):
            essence, charset = found[1], ""
        if own is not None and (found is None or found[1] == essence):  # no type: "text/html,charset=utf-8"
            charset = own.strip("\"' ")
    return MediaType("" if essence in UNKNOWN else essence, charset)


def _parts(value: str) -> list[str]:
    """The values of a list, cut at commas outside of quotation marks."""
    return re.findall(r"(?:\"(?:[^\"\\]|\\.)*+(?:\"|\Z)|[^\",])++", value)


def is_binary(data: bytes) -> bool:
    """Whether the first bytes are no text; a byte order mark says that they are."""
    return not any(data.startswith(mark) for mark, _ in BOMS) and BINARY.search(data[:SNIFFED]) is not None


def sniffed(data: bytes) -> str:
    """The type of bytes that come without one: `HTML`, `PLAIN` or "" for anything else."""
    head = data[:SNIFFED]
    for mark, charset in BOMS:
        if data.startswith(mark):
            head = head[len(mark) :].decode(charset, "ignore").encode(errors="ignore")
            return HTML if PAGE.match(head) else PLAIN
    if PAGE.match(head):
        return HTML
    return PLAIN if head.strip() and not head.startswith(OTHER) and not is_binary(head) else ""
