"""Writes the files of the dump, and for each document in them the truth.

Takes documents, gives files and rows. The one trade-off: everything is held in memory, since the truth needs all pairs.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import damage
import formats
import plan
from choice import Doc
from overlap import groups
from sources import Page, digest


def response(d: Doc) -> tuple[Doc, formats.Response]:
    """A page as a server sent it: two in five in an old charset where the plan has one, some compressed or chunked."""
    raw, n = d.page.raw or "", digest("charset" + d.page.id)
    olds = plan.OLD_CHARSETS.get(d.source, ())
    charset = olds[n % len(olds)] if olds and n // 8 % 5 < 2 else "utf-8"
    told = "utf-8" if charset == "utf-8" else ("meta", "header", "nobody")[n // 64 % 3]
    if told != "utf-8":
        declared = rf"charset={charset}" if told == "meta" else ""
        raw = re.sub(r"(?i)charset=[\"']?[\w-]+", declared, raw, count=1).replace('encoding="UTF-8"', "", 1)
    body = raw.encode(charset, errors="xmlcharrefreplace")
    content = f"text/html; charset={charset}" if told in ("header", "utf-8") and n % 3 else "text/html"
    content = f"text/html; charset={charset}" if told == "header" else content
    d = replace(d, charset=charset, detail=d.detail or ("" if told == "utf-8" else f"charset told by {told}"))
    headers, sent = [("Content-Type", content)], body
    if n % 50 == 1:
        headers, sent = [*headers, ("Content-Encoding", "gzip")], formats.packed(body)
    elif n % 50 == 2:
        headers, sent = [*headers, ("Transfer-Encoding", "chunked")], formats.chunked(body)
    answer = formats.Response(d.page.url, "200 OK", headers, sent)
    return replace(d, page=replace(d.page, raw=body.decode("latin-1"))), answer


NOT_PAGES = (
    ("http://www.example/moved", "301 Moved Permanently", "text/html", b"<html><body>Moved.</body></html>"),
    ("http://www.example/gone.html", "404 Not Found", "text/html", b"<html><body><h1>Not Found</h1></body></html>"),
    ("http://www.example/logo.png", "200 OK", "image/png", b"\x89PNG\r\n\x1a\n" + bytes(64)),
    ("http://www.example/data.json", "200 OK", "application/json", b'{"a": 1}'),
)
"""Answers of a crawl that are no documents."""

BAD_LINES = {
    "docs/manuals.en.jsonl.gz": (
        ("invalid_utf8", b'{"id": "bad/1", "text": "caf\xe9 au lait, in Latin-1"}'),
        ("invalid_json", b'{"id": "bad/2", "text": "the writer was stopped in the mid'),
        ("missing_text", b'{"id": "bad/3", "title": "no text here"}'),
        ("text_not_string", b'{"id": "bad/4", "text": ["a", "list"]}'),
        ("not_an_object", b'"only a string"'),
    ),
    "docs/manuals.zh.jsonl.zst": (
        ("invalid_utf8", '{"id": "bad/5", "text": "国标码的一行"}'.encode("gb18030")),
        ("missing_text", b'{"id": "bad/6", "text": null}'),
        ("invalid_json", b"<!-- 502 Bad Gateway -->"),
    ),
}
"""File → what is wrong and the line."""


class Dump:
    """The files as bytes, and the truth about each document in them."""

    def __init__(self, folder: Path) -> None:
        """Takes the folder to write to."""
        self.folder = folder
        self.truth: list[dict[str, Any]] = []
        self.texts: list[str | None] = []

    def write(self, file: str, data: bytes) -> None:
        """One file, its folder made."""
        (self.folder / file).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / file).write_bytes(data)

    def note(self, d: Doc, position: int | None, web: bool = False) -> None:
        """A document's truth; its text takes part in the search for duplicates unless it is damaged."""
        data = (d.page.raw or "").encode("latin-1") if web else d.page.text.encode()
        row: dict[str, Any] = {"file": d.file, "id": d.page.url if web else d.page.id, "position": position}
        row |= {"kind": d.kind, "lang": d.lang, "script": d.script, "package": d.page.package, "bytes": len(data)}
        row |= {"text_bytes": len(d.page.text.encode()), "sha256": hashlib.sha256(data).hexdigest()}
        optional = {"detail": d.detail, "charset": d.charset if d.charset != "utf-8" else "", "pii": d.pii}
        row |= {name: value for name, value in optional.items() if value}
        if d.clean:
            row |= {"clean_sha256": hashlib.sha256(d.clean.encode()).hexdigest(), "repairable": d.repairable}
        self.truth.append(row)
        self.texts.append(d.page.text if d.kind != "mojibake" and d.page.text else None)

    def bad(self, file: str, position: int | None, reason: str, line: bytes) -> None:
        """A bad record's truth."""
        row = {"file": file, "id": None, "position": position, "kind": "bad", "detail": reason}
        self.truth.append(row | {"bytes": len(line), "sha256": hashlib.sha256(line).hexdigest()})
        self.texts.append(None)

    def jsonl(self, file: str, docs: list[Doc]) -> None:
        """A JSONL file, bad lines among the good ones; `docs/cut` ends early."""
        made: list[tuple[str, dict[str, object] | bytes]] = [("", self._record(d)) for d in docs]
        for k, (reason, line) in enumerate(BAD_LINES.get(file, ()), 1):
            made.insert(k * len(made) // 6, (reason, line))
        data, places = formats.jsonl(record for _, record in made)
        stored, left = formats.compressed(file, data), iter(docs)
        whole = len(data)
        if "cut" in file:
            stored, readable = damage.cut_gzip(stored, 0.7)
            whole = readable.rfind(b"\n") + 1
        self.write(file, stored)
        for (reason, record), place in zip(made, places, strict=True):
            if isinstance(record, bytes):
                self.bad(file, place, reason, record)
            elif place < whole:
                self.note(next(left), place)
        if "cut" in file:
            self.bad(file, whole, "truncated_stream", readable[whole:])

    @staticmethod
    def _record(d: Doc) -> dict[str, object]:
        return {"id": d.page.id, "url": d.page.url, "title": d.page.title, "fetched": formats.DATE, "text": d.page.text}

    def parquet(self, file: str, docs: list[Doc]) -> None:
        """A Parquet file; in the world's, two rows have no text."""
        rows: list[dict[str, str | None]] = [
            {"id": d.page.id, "url": d.page.url, "title": d.page.title, "text": d.page.text} for d in docs
        ]
        for k, d in enumerate(docs):
            self.note(d, k)
        if "world" in file:
            for k in (1, 2):
                self.bad(file, len(rows), "missing_text", b"")
                rows.append({"id": f"bad/null-{k}", "url": None, "title": "no text", "text": None})
        self.write(file, formats.parquet(rows))

    def warc(self, file: str, docs: list[Doc]) -> None:
        """A web archive; the second one's last record ends early."""
        sent = [response(d) for d in docs]
        others = [formats.Response(url, told, [("Content-Type", kind)], body) for url, told, kind, body in NOT_PAGES]
        answers = [answer for _, answer in sent]
        cut = file.endswith("1.warc.gz")
        if cut:
            last = sent.pop()
            answers.pop()
        data = formats.warc([*answers[:5], *others, *answers[5:]], requests_for=12)
        for d, _ in sent:
            self.note(d, None, web=True)
        if cut:
            tail = formats.warc([last[1]], requests_for=0)
            member = tail[len(formats.warc([], requests_for=0)) :]
            data += member[: len(member) // 2]
            self.bad(file, None, "truncated_stream", member[: len(member) // 2])
        self.write(file, data)

    def book(self, file: str, page: Page) -> None:
        """A text file that is one document."""
        self.write(file, page.text.encode())
        self.note(Doc(file, replace(page, path=file), "book"), 0)
        self.truth[-1]["id"] = file

    def duplicates(self, limit: float = 0.8) -> None:
        """Finds what overlaps and notes it in the truth: group, similarity with its first, the kind of the others."""
        have = [k for k, text in enumerate(self.texts) if text]
        found = groups([self.texts[k] or "" for k in have], limit)
        for k, (first, similarity) in found.items():
            row, leader = self.truth[have[k]], self.truth[have[first]]
            row |= {"group": f"{leader['file']}#{leader['id']}", "jaccard": round(similarity, 6)}
            if k != first and row["kind"] == "prose":
                one, other = (str(self.texts[have[j]]).split() for j in (k, first))
                row["kind"] = "exact_duplicate" if one == other else "near_duplicate"

    def finish(self) -> None:
        """Writes the truth."""
        self.duplicates()
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.truth)
        self.write("truth.jsonl.gz", formats.packed(lines.encode()))
