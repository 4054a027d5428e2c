"""What is shipped from others has its licence beside it, and what is installed has its hash."""

import gzip
import hashlib
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import zstandard
from fastwarc.warc import ArchiveIterator, WarcRecordType
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
SMALL = ROOT / "sample_data/small"
FREE = {"dict-devil", "fortunes-zh", "jargon", "jargon-text", "sqlite3-doc", "none", None}
"""Packages in the public domain, what was made for the sample, and broken lines, which were made too."""


def listed() -> list[tuple[str, str]]:
    """(first cell, last cell) of every row of the licences' tables."""
    rows = re.findall(r"^\| (`.+?) \|.*\| ([^|]+) \|$", (ROOT / "LICENSES/README.md").read_text("utf-8"), re.MULTILINE)
    return [(first, last) for first, last in rows]


def test_every_table_is_listed_with_its_licence() -> None:
    own = {"make_english.py", "make_jieba.py", "make_langid.py", "make_tables.py"}
    tables = {p.name for p in (ROOT / "stages/data").iterdir() if p.is_file() and p.suffix != ".md"} - own
    assert tables == {name for first, _ in listed() for name in re.findall(r"`stages/data/([^`]+)`", first)}


def test_every_licence_named_is_there_and_every_one_there_is_named() -> None:
    named = {name for _, last in listed() for name in re.findall(r"`([^`]+)`", last)}
    there = {f"LICENSES/{path.name}" for path in (ROOT / "LICENSES").glob("*.txt")}
    assert named == there | {"LICENSE"}
    assert all((ROOT / name).stat().st_size > 500 for name in named)
    assert "Apache License" in (ROOT / "LICENSE").read_text("utf-8")
    assert "© 1991-2025 Unicode, Inc." in (ROOT / "LICENSES/Unicode-3.0.txt").read_text("utf-8")


def test_every_module_listed_is_there() -> None:
    modules = [name for first, _ in listed() for name in re.findall(r"`([^`]+\.py)`", first)]
    assert modules
    assert all((ROOT / name).is_file() for name in modules)


def small_texts() -> Iterator[tuple[str, str]]:
    """(sha256, file) of each record of the small sample but pages: of its text, or of the bytes of a broken line."""
    for path in sorted(SMALL.glob("docs/*")):
        data = path.read_bytes()
        unpack = zstandard.ZstdDecompressor().stream_reader(data).read if path.suffix == ".zst" else None
        for line in (unpack() if unpack else gzip.decompress(data)).splitlines():
            whole = line.endswith(b"}") and "text" in json.loads(line)
            yield hashlib.sha256(json.loads(line)["text"].encode() if whole else line).hexdigest(), path.name
    for path in sorted(SMALL.glob("wiki-like/*")):
        for text in pq.read_table(path)["text"].to_pylist():
            yield hashlib.sha256(text.encode()).hexdigest(), path.name
    for path in sorted(SMALL.glob("books/*")):
        yield hashlib.sha256(path.read_bytes()).hexdigest(), path.name


def test_the_small_sample_holds_free_texts_of_the_dump_alone() -> None:
    with gzip.open(ROOT / "sample_data/truth.jsonl.gz", "rt", encoding="utf-8") as lines:
        truth = [json.loads(line) for line in lines]
    free = {row["sha256"] for row in truth if row.get("package") in FREE}
    texts = list(small_texts())
    assert len(texts) > 300
    assert [file for digest, file in texts if digest not in free] == []
    pages = {row["id"] for row in truth if row.get("package") in FREE}
    for path in SMALL.glob("web/*"):
        archive = ArchiveIterator(io.BytesIO(path.read_bytes()), WarcRecordType.response)
        urls = [record.headers["WARC-Target-URI"] for record in archive]
        assert urls
        assert set(urls) <= pages


def pins(name: str) -> dict[str, Requirement]:
    lines = [line.rstrip("\\ ") for line in (ROOT / name).read_text("utf-8").splitlines()]
    found = [Requirement(line) for line in lines if line and not line.startswith(("#", " "))]
    return {re.sub(r"[-_.]+", "-", pin.name).lower(): pin for pin in found}


def test_the_lock_has_the_versions_of_the_constraints() -> None:
    locked, constrained = pins("requirements.lock"), pins("constraints.txt")
    assert {name: str(locked[name].specifier) for name in constrained} == {
        name: str(pin.specifier) for name, pin in constrained.items()
    }
    unconditional = {name for name in locked.keys() - constrained.keys() if locked[name].marker is None}
    assert unconditional <= {"setuptools"}  # torch asks for it, and `pip freeze` does not name it
    assert [name for name in constrained if locked[name].marker is not None] == []


def test_every_package_of_the_lock_has_hashes_and_no_host_is_named() -> None:
    text = (ROOT / "requirements.lock").read_text("utf-8")
    entries = re.split(r"^(?=[A-Za-z])", text, flags=re.MULTILINE)[1:]
    assert len(entries) == len(pins("requirements.lock"))
    entry = re.compile(r"[^\\\n]+ \\\n(    --hash=sha256:[0-9a-f]{64} \\\n)*    --hash=sha256:[0-9a-f]{64}\n")
    assert [found for found in entries if not entry.fullmatch(found)] == []
    assert re.findall(r"https?:|file:|--(?:extra-)?index-url|--find-links", text) == []


@pytest.mark.parametrize("package", ["pipeline", "stages"])
def test_the_packages_say_that_they_are_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()
