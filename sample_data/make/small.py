"""Makes `small/` from the dump: its records in the public domain, in files of the same names and formats.

`python sample_data/make/small.py` reads the dump and its truth, and writes `sample_data/small`, which the wheel ships:
so a recipe that names `sample_data/...` finds something to read where there is no checkout. Records go over as they
are, Chinese ones into the Chinese files, with two broken lines. The Bible and its commentary are left out: their size.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import formats
import pyarrow.parquet as pq
import zstandard

ROOT = Path(__file__).resolve().parents[1]
FREE = {"dict-devil", "fortunes-zh", "jargon", "jargon-text", "sqlite3-doc", "none"}
"""Packages whose text is in the public domain, and what was made for the dump (CC0-1.0)."""
BROKEN = {"invalid_json", "missing_text"}
"""What is wrong with the broken lines, which were made for the dump too."""
CHINESE = {"docs": "docs/manuals.zh.jsonl.zst", "wiki-like": "wiki-like/zh.parquet"}


def wanted() -> dict[str, list[dict[str, Any]]]:
    """File of the dump → the truth of its records to copy, in the order of the file."""
    found: dict[str, list[dict[str, Any]]] = {}
    with gzip.open(ROOT / "truth.jsonl.gz", "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            broken = row["file"].endswith(".en.jsonl.gz") and row.get("detail") in BROKEN
            if broken or row.get("package") in FREE:
                found.setdefault(row["file"], []).append(row)
    return found


def lines_of(file: str, rows: list[dict[str, Any]]) -> Iterator[tuple[str, bytes]]:
    """(file of the small sample, line) of the rows of a file of JSON lines."""
    data = (ROOT / file).read_bytes()
    data = gzip.decompress(data) if file.endswith(".gz") else zstandard.ZstdDecompressor().stream_reader(data).read()
    for row in rows:
        chinese = row.get("lang") == "zh"
        yield CHINESE["docs"] if chinese else file, data[row["position"] : data.index(b"\n", row["position"])]


def records_of(file: str, rows: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file of the small sample, record) of the rows of a Parquet file."""
    table = pq.read_table(ROOT / file)
    for row in rows:
        chinese = row["lang"] == "zh"
        yield CHINESE["wiki-like"] if chinese else file, table.slice(row["position"], 1).to_pylist()[0]


def members_of(file: str, rows: list[dict[str, Any]]) -> bytes:
    """The gzip members of an archive that hold the rows and their requests, and the first, which describes it."""
    data, kept, ids = (ROOT / file).read_bytes(), [], {row["id"] for row in rows}
    while data:
        one = zlib.decompressobj(31)
        head = one.decompress(data).partition(b"\r\n\r\n")[0].decode()
        if not one.eof:
            break
        url = head.partition("WARC-Target-URI: ")[2].partition("\r\n")[0]
        kept += [data[: len(data) - len(one.unused_data)]] if url in ids or not kept else []
        data = one.unused_data
    return b"".join(kept)


def books_as_records(files: dict[str, list[Any]]) -> None:
    """The poems again, one book in each of the Chinese files, which would hold next to nothing without them."""
    for name, file in (("tang300", CHINESE["docs"]), ("song100", CHINESE["wiki-like"])):
        text = (ROOT / f"books/{name}.zh.txt").read_text("utf-8")
        record = {"id": f"fortunes-zh/{name}", "url": None, "title": text.partition("\n")[0], "text": text}
        lines = file.startswith("docs")
        files.setdefault(file, []).append(json.dumps(record, ensure_ascii=False).encode() if lines else record)


def make(folder: Path) -> None:
    """Writes the small sample."""
    files: dict[str, list[Any]] = {}
    for file, rows in wanted().items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        if file.startswith("books"):
            (folder / file).write_bytes((ROOT / file).read_bytes())
        elif file.startswith("web"):
            (folder / file).write_bytes(members_of(file, rows))
        else:
            for name, record in (lines_of if file.startswith("docs") else records_of)(file, rows):
                files.setdefault(name, []).append(record)
    books_as_records(files)
    for name, records in files.items():
        data = formats.parquet(records) if name.endswith(".parquet") else lines_as(name, records)
        (folder / name).write_bytes(data)


def lines_as(name: str, lines: list[bytes]) -> bytes:
    """JSON lines, compressed as the file's name says."""
    return formats.compressed(name, b"".join(line + b"\n" for line in lines))


if __name__ == "__main__":
    make(ROOT / "small")
