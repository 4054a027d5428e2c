"""What decides that a page is too complex to be read: its bytes and its tree, never the clock.

Some pages take time that grows with the square of their size: deep trees, and tags with thousands of attributes. The
limits are far from what authors write, so that all other pages are done long before any limit of time, and a page has
the same fate on every machine. The one trade-off: a hostile page may hide its
attributes from the check here; it meets the time limit.
"""

from __future__ import annotations

import re
from typing import Any

DEEP = 64
"""Elements within each other up to which any page is read in seconds."""

MAX_DEPTHS = 32_000_000
"""The depths of all nodes of a deeper page, added up: as this sum does, the time of extraction grows. It is reached by
8,000 elements within each other, or by 64,000 nodes at a depth of 500. Few tags can make many such nodes: an element
that is not closed may be opened again and again."""

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
    """Raises TooComplexError where a page's tree has too many nodes too deep.

    Only a deep tree is walked, since that takes longer than to extract a usual page.
    """
    if html.count("<") < 2 * DEEP or tree.document.query_selector(">".join("*" * DEEP)) is None:
        return
    node, depth, depths = tree.document, 0, 0
    while node is not None:
        depth += 1
        depths += depth
        if depths > MAX_DEPTHS:
            raise TooComplexError("page_too_deep", f"the depths of its nodes add up to over {MAX_DEPTHS:,}")
        following = node.first_child
        while following is None and node is not None:
            following, node, depth = node.next_sibling, node.parent_node, depth - 1
        node = following
