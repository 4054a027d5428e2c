"""One HTML page → its text, title and charset; also the program that does so for `guard`, page after page.

Reads bytes and the Content-Type they came with. The one trade-off: bytes that are valid UTF-8 beyond ASCII are taken as
UTF-8 whatever the page declares, for wrong declarations are common and such bytes are hardly ever anything else.
"""

from __future__ import annotations

import json
import re
import struct
import sys
from collections.abc import Callable
from typing import IO, Any

from stages.readers import charset, protect, shape
from stages.readers.media import BOMS, media_type

READY, TEXT, FAULT = b"R", b"T", b"F"
"""What the program writes first, and before an answer."""

SHIFTS = (b"\0", b"\x1b", b"~{")
"""Bytes by which ASCII may be another charset after all: UTF-16 has NULs, ISO-2022 escapes, HZ tildes."""

META = re.compile(rb"<meta[^>]*?charset\s*=\s*[\"']?\s*([^\s\"'/>;]+)", re.IGNORECASE)
ROOT = re.compile("<html", re.IGNORECASE)
META_BYTES = 4096
"""Bytes of a page in which a meta tag may tell its charset."""

OF_META = {"utf-16be": "utf-8", "utf-16le": "utf-8", "x-user-defined": "windows-1252"}
"""What a meta tag means that names an encoding in which nobody could read it (HTML Standard, "prescan")."""

DETECTED = {"iso2022_jp": "iso-2022-jp", "mac-roman": "macintosh", "utf-16-be": "utf-16be", "utf-16-le": "utf-16le"}
"""Detection's names that are no labels → encodings."""

Extractor = Callable[[str], tuple[str, str]]
"""A page's HTML → its text and title."""


def decoded(data: bytes, content_type: str) -> tuple[str, str]:
    """A page's HTML, and the charset it was read with, by its name in the WHATWG Encoding Standard.

    In order: a byte order mark, valid UTF-8 (ASCII too, unless it has `SHIFTS`), the charset of the HTTP header, of a
    meta tag, of detection. Malformed bytes become U+FFFD.
    """
    for mark, name in BOMS:
        if data.startswith(mark):
            return charset.decode(data[len(mark) :], name), name
    if (not data.isascii() or not any(mark in data for mark in SHIFTS)) and (html := _utf8(data)) is not None:
        return html, "utf-8"
    name = charset.encoding(media_type(content_type).charset) or _meta(data) or _detected(data)
    return charset.decode(data, name), name


def _utf8(data: bytes) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def _meta(data: bytes) -> str:
    found = META.search(data[:META_BYTES])
    name = charset.encoding(found[1].decode("latin-1")) if found else ""
    return OF_META.get(name, name)


def _detected(data: bytes) -> str:
    from resiliparse.parse.encoding import detect_encoding

    found = str(detect_encoding(data) or "").lower()
    return DETECTED.get(found) or charset.encoding(found) or charset.encoding(found.replace("_", "-")) or "utf-8"


def extractor(engine: str, options: dict[str, Any]) -> Extractor:
    """The function that extracts by an engine; `options` are `Extract`'s settings of the same names."""
    names = ("main_content", "links", "list_bullets", "alt_texts", "comments")
    chosen = {name: options[name] for name in names}
    if engine == "trafilatura":
        return _trafilatura(chosen)
    from resiliparse.extract.html2text import extract_plain_text

    def extract(html: str) -> tuple[str, str]:
        html, restore = protect.short_texts(html) if chosen["main_content"] else (html, str)
        tree = _tree(html)
        title = tree.title or ""
        return restore(extract_plain_text(tree, **chosen)), restore(title)

    return extract


def _trafilatura(chosen: dict[str, bool]) -> Extractor:
    import trafilatura

    def extract(html: str) -> tuple[str, str]:
        title = _tree(html).title or ""
        html, restore = protect.joiners(html)
        if not chosen["main_content"]:
            # It finds the text of no page whose <html> is left out.
            return restore(trafilatura.html2txt(html if ROOT.search(html) else f"<html>{html}")), title
        text = trafilatura.extract(html, include_links=chosen["links"], include_comments=chosen["comments"])
        return restore(text or ""), title

    return extract


def _tree(html: str) -> Any:
    """The page's tree. Raises `shape.TooComplexError` where reading it could take longer than its size allows."""
    from resiliparse.parse.html import HTMLTree

    shape.check_source(html)
    tree = HTMLTree.parse(html)
    shape.check_tree(html, tree)
    return tree


def receive(pipe: IO[bytes]) -> bytes:
    """One frame: four bytes of length, then so many bytes. Raises EOFError where the other side is gone."""
    size = pipe.read(4)
    data = pipe.read(struct.unpack("<I", size)[0]) if len(size) == 4 else b""
    if len(size) < 4 or len(data) < struct.unpack("<I", size)[0]:
        raise EOFError
    return data


def framed(*parts: bytes) -> bytes:
    """The parts as frames."""
    return b"".join(piece for part in parts for piece in (struct.pack("<I", len(part)), part))


def serve(settings: dict[str, Any], pages: IO[bytes], answers: IO[bytes]) -> None:
    """Answers every page (frames: Content-Type, bytes) until there are no more: `TEXT` with text, title and charset.

    A page that is no text is answered with `FAULT`, a slug and what happened. A page that takes over `timeout_seconds`
    of CPU time of this process, not of the clock, ends it by the kernel's SIGPROF; more memory than `memory_bytes`
    ends it too, or is a fault.
    """
    import resource
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    extract = extractor(settings["engine"], settings)
    decoded(b"<p>\xe9", "")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (settings["memory_bytes"], settings["memory_bytes"]))
    answers.write(READY)
    answers.flush()
    while True:
        try:
            count = struct.unpack("<I", receive(pages))[0]
            batch = [(receive(pages).decode(), receive(pages)) for _ in range(count)]
        except EOFError:
            return
        for content_type, data in batch:
            signal.setitimer(signal.ITIMER_PROF, settings["timeout_seconds"])
            answer = _answer(extract, data, content_type)
            signal.setitimer(signal.ITIMER_PROF, 0)
            answers.write(answer)
            answers.flush()


def _answer(extract: Extractor, data: bytes, content_type: str) -> bytes:
    try:
        html, charset = decoded(data, content_type)
        text, title = extract(html)
        return TEXT + framed(text.encode(errors="replace"), title.encode(errors="replace"), charset.encode())
    except shape.TooComplexError as error:
        return _fault(error.reason, str(error))
    except BaseException as error:  # noqa: BLE001 - a panic of the engine's Rust is no Exception
        return _fault("page_error", f"{type(error).__name__}: {error}")


def _fault(reason: str, detail: str) -> bytes:
    return FAULT + framed(reason.encode(), detail[:500].encode(errors="replace"))


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]), sys.stdin.buffer, sys.stdout.buffer)
