"""What decides that a page is too complex to be read: its bytes and its tree, never the clock.

Some pages take time that grows with the square of their size: deep trees, and tags with thousands of attributes. The
limits are far from what authors write (Chrome nests 512 elements at most), so that all other pages are done long before
any limit of time, and a page has the same fate on every machine. The one trade-off: a hostile page may hide its
attributes from the check here; it meets the time limit.
"""

from __future__ import annotations

import re
from typing import Any

MAX_DEPTH = 512
"""Elements that may be nested within each other."""

DEEP = 64
"""Nesting up to which any number of elements is read in seconds."""

MAX_DEEP_ELEMENTS = 100_000
"""Elements of a page that nests deeper. Few tags can make many: each that is not closed may be opened again."""

MAX_ATTRIBUTES = 8192
"""Attributes of the long tags of a page."""

LONG_TAG = re.compile(r"<[a-zA-Z][^>]{16384,}")
QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'")
SCRIPT_START = re.compile(r"<(?:script|style)[^>]{0,999}>", re.IGNORECASE)
SCRIPT_END = re.compile(r"</(?:script|style)", re.IGNORECASE)

class TooComplexError(ValueError):
    """A page whose shape passes a limit; `reason` is a short slug."""

    def __init__(self, reason: str, detail: str) -> None:
        """Takes the slug and the sentence."""
        super().__init__(detail)
        self.reason = reason


def check_source(html: str) -> None:
    """Raises TooComplexError where tags have too many attributes: a parser compares each with all before it."""
    if LONG_TAG.search(html) is None:
        return
    count = sum(len(QUOTED.sub('""', tag).split()) for part in SCRIPT_END.split(html) for tag in _long_tags(part))
    if count > MAX_ATTRIBUTES:
        raise TooComplexError("page_too_complex", f"{count:,} attributes in long tags, the limit is {MAX_ATTRIBUTES:,}")


def _long_tags(part: str) -> list[str]:
    return LONG_TAG.findall(SCRIPT_START.split(part, maxsplit=1)[0])


def check_tree(html: str, tree: Any) -> None:
    """Raises TooComplexError where a page's tree is too deep or has too many elements for its depth."""
    if html.count("<") < MAX_DEPTH or not _nests(tree, DEEP):
        return
    if _nests(tree, MAX_DEPTH + 1):
        raise TooComplexError("page_too_deep", f"over {MAX_DEPTH} elements within each other")
    count = len(tree.document.get_elements_by_tag_name("*"))
    if count > MAX_DEEP_ELEMENTS:
        message = f"{count:,} elements, nested over {DEEP} deep; the limit is {MAX_DEEP_ELEMENTS:,}"
        raise TooComplexError("page_too_complex", message)


def _nests(tree: Any, depth: int) -> bool:
    """Whether as many elements are within each other somewhere."""
    return tree.document.query_selector(">".join("*" * depth)) is not None
