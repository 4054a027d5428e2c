"""Extract: text, title and charset of pages; hostile pages cost themselves and nothing else."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.rows import DOCUMENT, PAYLOAD, with_field
from pipeline.stage import Each, Emit, Task
from stages.extract import Extract
from stages.readers.guard import Fault, Guard, Text
from stages.readers.page import decoded

PAGES = with_field(DOCUMENT, PAYLOAD)
PARAGRAPH = "This is a sentence of the main content, long enough to be taken for one by any extractor. " * 5
HTML = f"<html><head><title>The &amp; title</title></head><body><main><p>{PARAGRAPH}</p></main></body></html>"


def page(payload: bytes | None, content_type: str = "", text: str = "") -> dict[str, Any]:
    meta = json.dumps({"content_type": content_type}) if content_type else None
    return {"text": text, "meta": meta, "payload": payload}


def extracting(stage: Extract) -> Each:
    (step,) = stage.steps()
    assert isinstance(step, Each)
    return step


def listed(batch: pa.RecordBatch | None) -> list[dict[str, Any]]:
    return [] if batch is None else list(batch.to_pylist())


def run(stage: Extract, pages: list[dict[str, Any]], folder: Path) -> list[Emit]:
    rows = [{"id": f"d{k}", "source": f"s:{k}", **p} for k, p in enumerate(pages)]
    batch = pa.RecordBatch.from_pylist(rows, schema=PAGES)
    task = Task(stage="02-extract", seed=0, index=0, count=1, folder=folder, scratch=folder)
    emits = list(extracting(stage).run(iter([batch]), task))
    assert sum(len(listed(b)) for e in emits for b in (e.rows, e.drops, e.quarantine)) == len(pages)
    return emits


@pytest.mark.parametrize("engine", ["resiliparse", "trafilatura"])
def test_pages_become_text_and_texts_stay(tmp_path: Path, engine: Any) -> None:
    (emit,) = run(Extract(engine=engine), [page(HTML.encode()), page(None, text="untouched")], tmp_path)
    assert emit.rows is not None
    assert emit.rows.schema == DOCUMENT
    first, second = listed(emit.rows)
    assert first["text"].strip() == PARAGRAPH.strip()
    assert json.loads(first["meta"]) == {"title": "The & title", "charset": "utf-8"}
    assert (second["text"], second["meta"]) == ("untouched", None)


def test_documents_without_the_column_pass(tmp_path: Path) -> None:
    batch = pa.RecordBatch.from_pylist([{"id": "a", "text": "t", "source": "s:0"}], schema=DOCUMENT)
    task = Task(stage="02-extract", seed=0, index=0, count=1, folder=tmp_path, scratch=tmp_path)
    (emit,) = extracting(Extract()).run(iter([batch]), task)
    assert emit.rows == batch


def test_an_empty_page_is_dropped_with_its_rule(tmp_path: Path) -> None:
    (emit,) = run(Extract(), [page(b"<p> </p>"), page(b""), page(HTML.encode())], tmp_path)
    assert len(listed(emit.rows)) == 1
    assert [(d["id"], d["rule"], d["broken"]) for d in listed(emit.drops)] == [
        (k, "empty", [{"rule": "empty", "score": 0.0, "limit": 1.0}]) for k in ("d0", "d1")
    ]


CHARSETS = [
    ("中文内容", "gbk", "text/html; charset=GB2312", ""),
    ("中文內容", "big5", "", '<meta charset="big5">'),
    ("русский текст", "windows-1251", "text/html; charset=windows-1251", ""),
    ("日本語の文章", "shift_jis", "", '<meta http-equiv="Content-Type" content="text/html; charset=Shift_JIS">'),
    ("日本語の文章", "iso-2022-jp", "text/html; charset=iso-2022-jp", ""),
    ("déjà vu", "utf-8", "text/html; charset=iso-8859-1", '<meta charset="latin1">'),
    ("déjà vu", "utf-16", "", ""),
    ("déjà vu", "cp1252", "text/html; charset=no-such-charset", ""),
    ("Это довольно длинный русский текст без всякого объявления кодировки.", "koi8-r", "", ""),
]


@pytest.mark.parametrize(("text", "encoding", "header", "meta"), CHARSETS)
def test_charset_of_mark_header_meta_and_detection(text: str, encoding: str, header: str, meta: str) -> None:
    html, _ = decoded(f"<html><head>{meta}</head><body>{text}</body></html>".encode(encoding), header)
    assert f"<body>{text}</body>" in html


def test_hostile_pages_are_quarantined_and_the_others_read(tmp_path: Path) -> None:
    deep = b"<div>" * 100_000 + b"text"
    names = b"<div " + b" ".join(b"a%d=b" % k for k in range(80_000)) + b">x</div>"
    big = b"<p>text</p>" * 200_000
    good = page(HTML.encode())
    pages = [good, page(deep), good, page(names), page(big), good]
    (emit,) = run(Extract(max_page_bytes=2_000_000), pages, tmp_path)
    bad = listed(emit.quarantine)
    assert [(b["id"], b["reason"]) for b in bad] == [
        ("d1", "page_too_deep"),
        ("d3", "page_too_complex"),
        ("d4", "page_too_large"),
    ]
    assert bad[0]["head"] == deep[:4096]
    assert [r["text"].strip() for r in listed(emit.rows)] == [PARAGRAPH.strip()] * 3
    assert emit.counters["pages"] == 6


def test_a_page_that_needs_too_much_memory_costs_itself() -> None:
    settings = {**Extract().model_dump(), "memory_bytes": 400 << 20}
    with Guard(settings) as guard:
        results = guard.extract([("", HTML.encode()), ("", b"<p>words of text</p>\n" * 900_000), ("", HTML.encode())])
    assert [type(result) for result in results] == [Text, Fault, Text]
    assert isinstance(results[1], Fault)
    assert results[1].reason in ("page_crash", "page_error")


def test_an_extractor_that_cannot_start_says_why() -> None:
    with Guard({"engine": "resiliparse"}) as guard, pytest.raises(ChildProcessError, match="KeyError"):
        guard.extract([("", b"<p>x")])


def test_many_pages_come_back_in_order() -> None:
    pages = [("", f"<p>page number {k} {'x' * (k * 97 % 5000)}</p>".encode()) for k in range(2000)]
    with Guard({**Extract(main_content=False).model_dump(), "memory_bytes": 1 << 30}) as guard:
        results = guard.extract(pages)
    assert [r.text.split()[2] for r in results if isinstance(r, Text)] == [str(k).encode() for k in range(2000)]
