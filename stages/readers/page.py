"""One HTML page → its text, title and charset; also the program that does so for `guard`, page after page.

Reads bytes and the Content-Type they came with. The one trade-off: bytes that are valid UTF-8 beyond ASCII are taken as
UTF-8 whatever the page declares, for wrong declarations are common and such bytes are hardly ever anything else.
"""

from __future__ import annotations

import codecs
import json
import struct
import sys
from collections.abc import Callable
from typing import IO, Any

READY, TEXT, ERROR = b"R", b"T", b"E"
"""What the program writes first, and before an answer."""

BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
WIDER = {"gbk": "gb18030", "gb2312": "gb18030", "shift_jis": "cp932", "euc-kr": "cp949", "windows-874": "cp874"}
"""Declared charset → the superset that browsers decode it as (WHATWG Encoding Standard, section 4.2)."""

SHIFTS = (b"\0", b"\x1b")
"""Bytes by which ASCII may be another charset after all: UTF-16 has NULs, ISO-2022-JP escapes."""

Extractor = Callable[[str], tuple[str, str]]
"""A page's HTML → its text and title."""


def decoded(data: bytes, content_type: str) -> tuple[str, str]:
    """A page's HTML, and the charset it was read with; malformed bytes become U+FFFD.

    In order: a byte order mark, valid UTF-8 (ASCII too, unless it has `SHIFTS`), the charset of the HTTP header, of a
    meta tag, of detection.
    """
    from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

    for mark, charset in BOMS:
        if data.startswith(mark):
            return data[len(mark) :].decode(charset, "replace"), charset
    if (not data.isascii() or not any(mark in data for mark in SHIFTS)) and (html := _utf8(data)) is not None:
        return html, "utf-8"
    declared = content_type.lower().partition("charset=")[2].partition(";")[0].strip(" \"'")
    known = map_encoding_to_html5(declared, fallback_utf8=False) if declared else None
    charset = str(known or detect_encoding(data, from_html_meta=True) or "utf-8")
    try:
        return data.decode(WIDER.get(charset, charset), "replace"), charset
    except LookupError:
        return data.decode(errors="replace"), "utf-8"


def _utf8(data: bytes) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def extractor(engine: str, options: dict[str, Any]) -> Extractor:
    """The function that extracts by an engine; `options` are `Extract`'s settings of the same names."""
    from resiliparse.parse.html import HTMLTree

    names = ("main_content", "links", "list_bullets", "alt_texts", "comments")
    chosen = {name: options[name] for name in names}
    if engine == "trafilatura":
        return _trafilatura(chosen)
    from resiliparse.extract.html2text import extract_plain_text

    def extract(html: str) -> tuple[str, str]:
        tree = HTMLTree.parse(html)
        return extract_plain_text(tree, **chosen), tree.title or ""

    return extract


def _trafilatura(chosen: dict[str, bool]) -> Extractor:
    import trafilatura
    from resiliparse.parse.html import HTMLTree

    def extract(html: str) -> tuple[str, str]:
        title = HTMLTree.parse(html).title or ""
        if not chosen["main_content"]:
            return trafilatura.html2txt(html), title
        text = trafilatura.extract(html, include_links=chosen["links"], include_comments=chosen["comments"])
        return text or "", title

    return extract


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

    A page gets `timeout_seconds` of CPU time of this process, not of the clock: then the kernel's SIGPROF ends it. More
    memory than `memory_bytes` ends it too, or is answered with `ERROR`, as is what an engine raises.
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
    except BaseException as error:  # noqa: BLE001 - a panic of the engine's Rust is no Exception
        return ERROR + framed(f"{type(error).__name__}: {error}"[:500].encode(errors="replace"))


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]), sys.stdin.buffer, sys.stdout.buffer)
