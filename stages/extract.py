"""Turns pages into text: main content, title and charset of the HTML that `ingest` handed on.

Reads documents with a `payload`, writes them with `text` and without it; documents that have their text already pass
untouched. The one trade-off: pages are read in a process beside the worker, which a hostile page may kill.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import orjson
import pyarrow as pa
from pydantic import Field

from pipeline.rows import PAYLOAD, drop_rows, quarantine_rows, with_column
from pipeline.stage import Each, Emit, Problem, Stage, Step, Task
from stages.readers.guard import Fault, Guard, Text

MEMORY_BYTES = 1 << 30
"""Address space of the extracting process: 16 MiB of plain paragraphs need 0.3 GB."""


class Extract(Stage):
    """HTML → text; a page that is too large or too complex or breaks the parser is quarantined, one without text
    dropped ("empty").

    Adds `title` and `charset` to `meta`. Counter: pages. A page's bytes decide: over `max_page_bytes`, or elements
    so deep within each other, or attributes so many, that the time grows with their square. The limit of time is for
    what passes these checks and is still too slow.
    """

    version: ClassVar[int] = 2

    engine: Literal["resiliparse", "trafilatura"] = Field(
        "resiliparse",
        description="Who extracts; trafilatura takes over twenty times as long, and drops what is not printable, "
        "such as soft hyphens, but for the joiners and other format characters that text needs.",
    )
    main_content: bool = Field(True, description="Only the main content: no navigation, no footers.")
    links: bool = Field(False, description="Write the targets of links into the text.")
    list_bullets: bool = Field(True, description="Keep bullets and numbers of lists (resiliparse).")
    alt_texts: bool = Field(False, description="Put the alternative texts of images in (resiliparse).")
    comments: bool = Field(True, description="Take readers' comments for content.")
    timeout_seconds: float = Field(
        30.0,
        gt=0,
        description="CPU seconds, not of the clock, that one page may take; four times as many when it is tried "
        "again, alone. Set it far above what pages take: whether a page passes depends on the machine.",
    )
    max_page_bytes: int = Field(16 << 20, gt=0, description="A larger page is quarantined unread.")

    def libraries(self) -> tuple[str, ...]:
        """The extractor, and Resiliparse for charsets."""
        return ("Resiliparse", *(("trafilatura", "jusText", "lxml") if self.engine == "trafilatura" else ()))

    def steps(self) -> tuple[Step, ...]:
        """One pass over the shards."""
        return (Each("extract", self._run, schema=_without_payload),)

    def check(self, folders: Sequence[Path]) -> list[Problem]:
        """Extractors that are not installed."""
        # lxml_html_clean: trafilatura's justext fails without it, and does not ask for it.
        needed = ("resiliparse", *(("trafilatura", "lxml_html_clean") if self.engine == "trafilatura" else ()))
        missing = [name for name in needed if importlib.util.find_spec(name) is None]
        return [Problem(("engine",), f"{name} is not installed: pip install 'gristmill[html]'") for name in missing[:1]]

    def _run(self, batches: Iterator[pa.RecordBatch], task: Task) -> Iterator[Emit]:
        settings = {**self.model_dump(exclude={"max_page_bytes"}), "memory_bytes": MEMORY_BYTES}
        with Guard(settings) as guard:
            for batch in batches:
                yield self._batch(batch, guard, task)

    def _batch(self, batch: pa.RecordBatch, guard: Guard, task: Task) -> Emit:
        if batch.schema.get_field_index(PAYLOAD.name) < 0:
            return Emit(rows=batch)
        where = np.flatnonzero(batch[PAYLOAD.name].is_valid().to_numpy(zero_copy_only=False)).tolist()
        documents = batch.drop_columns([PAYLOAD.name])
        if not where:
            return Emit(rows=documents)
        payloads = {k: batch[PAYLOAD.name][k].as_py() for k in where}
        metas = {k: _meta(batch["meta"][k].as_py()) for k in where}
        results = self._results(payloads, metas, guard)
        bad = [k for k in where if isinstance(results[k], Fault)]
        documents = _rewritten(documents, results, metas)
        empty = [k for k in where if k not in set(bad) and not documents["text"][k].as_py().strip()]
        gone = np.zeros(len(batch), np.bool_)
        gone[bad + empty] = True
        broken = [[{"rule": "empty", "score": 0.0, "limit": 1.0}]] * len(empty)
        rows = [(documents["id"][k].as_py(), documents["source"][k].as_py(), *results[k], payloads[k]) for k in bad]
        dropped = documents.take(pa.array(empty, pa.int64()))
        return Emit(
            rows=documents.filter(pa.array(~gone)),
            drops=drop_rows(dropped, task, ["empty"] * len(empty), broken=broken) if empty else None,
            quarantine=quarantine_rows(rows, task) if rows else None,
            counters={"pages": len(where)},
        )

    def _results(
        self, payloads: Mapping[int, bytes], metas: Mapping[int, dict[str, Any]], guard: Guard
    ) -> dict[int, Text | Fault]:
        """What comes of each page, by its row."""
        fit = [k for k, data in payloads.items() if len(data) <= self.max_page_bytes]
        pages = [(str(metas[k].get("content_type") or ""), payloads[k]) for k in fit]
        results: dict[int, Text | Fault] = dict(zip(fit, guard.extract(pages), strict=True))
        limit = f"the limit is {self.max_page_bytes:,}"
        large = {k: Fault("page_too_large", f"{len(payloads[k]):,} bytes, {limit}") for k in payloads.keys() - set(fit)}
        return results | large


def _without_payload(schema: pa.Schema) -> pa.Schema:
    place = schema.get_field_index(PAYLOAD.name)
    return schema if place < 0 else schema.remove(place)


def _meta(text: str | None) -> dict[str, Any]:
    value = orjson.loads(text) if text else {}
    return value if isinstance(value, dict) else {"meta": value}


def _rewritten(
    documents: pa.RecordBatch, results: Mapping[int, Text | Fault], metas: Mapping[int, dict[str, Any]]
) -> pa.RecordBatch:
    """The documents with the texts of their pages, and title and charset in `meta`."""
    texts, notes = documents["text"].to_pylist(), documents["meta"].to_pylist()
    for k, result in results.items():
        if isinstance(result, Text):
            title = {"title": result.title.decode()} if result.title else {}
            texts[k] = result.text.decode()
            notes[k] = orjson.dumps({**metas[k], **title, "charset": result.charset}).decode()
    documents = with_column(documents, documents.schema.field("text"), pa.array(texts, pa.large_string()))
    return with_column(documents, documents.schema.field("meta"), pa.array(notes, pa.string()))
