"""Finds an input's files: a path, folder or glob in, files with their names out, and what is passed over.

Nothing here depends on the working directory or the number of workers, and no file is opened. The one trade-off: what
a file of a folder is for is told by its name and by what lies beside it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from pipeline.names import shown_name
from pipeline.stage import resolve
from stages.readers.search import EVERYTHING, GONE, MAGIC, Found, kind_of, may_read, search
from stages.readers.streams import SUFFIXES

FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jl": "jsonl",
    ".jsonlines": "jsonl",
    ".json-lines": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".warc": "warc",
    ".wet": "wet",
    ".arrow": "datasets",
}
"""File suffix, after that of a compression, → format."""

HIDDEN = "._"
"""First characters of names that are left out of folders."""

DESCRIBING = (".md", ".html", ".htm", ".xhtml")
"""Suffixes of files that are no documents of a folder if records lie beside or below them: they describe those."""

DESCRIPTIONS = re.compile(r"(readme|licen[cs]e|copying|notice|changelog|citation|authors)\b", re.IGNORECASE)
"""How names of text files begin that are no documents there either."""

ABOUT_DATASETS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""What `datasets` writes beside a dataset's files."""


DESCRIBING_OTHERS = "describing others"
PROSE = ("text", "html")


@dataclass
class Files:
    """What an input means.

    files: sorted by name, each with its name below the folder or the fixed part of the glob. passed: kind of what is
    passed over → names below. faults: what cannot be read, a sentence each.
    """

    files: list[tuple[Path, str]] = field(default_factory=list)
    passed: dict[str, list[str]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def suffix_of(path: str) -> str:
    """The suffix that tells a format, in lower case: "a.WARC.gz" has ".warc"."""
    stem, suffix = os.path.splitext(path)
    return (os.path.splitext(stem)[1] if suffix.lower() in SUFFIXES else suffix).lower()


def format_of(path: str) -> str | None:
    """The format that a file's name tells, None for an unknown one: "a.warc.gz" is "warc"."""
    return FORMATS.get(suffix_of(path))


def fixed_parent(path: str) -> PurePath:
    """The part of a path or glob before its first wildcard, the last component not counted."""
    parts = PurePath(path).parts
    wild = next((k for k, part in enumerate(parts) if MAGIC.search(part)), len(parts) - 1)
    return PurePath(*parts[:wild])


def default_name(path: str, folder: bool) -> str:
    """How an input without a name is called: its folder as written, only the last component of an absolute one."""
    parent = PurePath(path) if folder else fixed_parent(path)
    parts = [part for part in parent.parts if part not in (".", "..", parent.anchor)]
    return "/".join(parts[-1:] if parent.is_absolute() else parts)


def find(path: str, folders: Sequence[Path], known_only: bool) -> Files:
    """The files that a path, folder or glob means.

    A file that is named, or that a glob matches, is read whatever it is called. In a folder, names that begin with "."
    or "_" are passed over; so are, if `known_only`, unknown formats and files that describe the others.
    """
    whole = resolve(path, folders)
    kind = kind_of(whole)
    if kind == "folder":
        return _beneath(whole, known_only)
    if kind == "file":
        return _readable(Files([(whole, whole.name)]))
    if kind != GONE:
        return Files(faults=[f"{shown_name(path)} {kind}"])
    return _matching(path, folders) if MAGIC.search(path) else Files()


def _matching(path: str, folders: Sequence[Path]) -> Files:
    fixed = fixed_parent(path)
    pattern = PurePath(path).relative_to(fixed).parts
    place = resolve(str(fixed / pattern[0]), folders)  # where its brackets are meant as they are written
    parent = place.parent if kind_of(place) != GONE else resolve(str(fixed), folders)
    found = search(parent, pattern, ".")
    passed = {"folders, not entered without `**`": found.folders, **_again(found)}
    return _readable(_named(parent, found.files, passed, found.faults))


def _beneath(folder: Path, known_only: bool) -> Files:
    found = search(folder, EVERYTHING, HIDDEN)
    passed = {"hidden": found.hidden, **_again(found)}
    names = list(found.files)
    if known_only:
        names, others = _documents(names)
        passed |= others
    return _readable(_named(folder, names, passed, found.faults))


def _again(found: Found) -> dict[str, list[str]]:
    return {"second links to a folder": found.again}


def _named(parent: Path, names: Iterable[str], passed: dict[str, list[str]], faults: list[str]) -> Files:
    listed = {kind: sorted(some) for kind, some in passed.items() if some}
    return Files([(parent / name, name) for name in sorted(names)], listed, sorted({*faults}))


def _readable(found: Files) -> Files:
    """The same with a fault for each file that this process may not read."""
    found.faults += [f"{shown_name(path)} may not be read" for path, _ in found.files if not may_read(str(path))]
    return found


def _documents(names: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Those of a folder's files that hold documents, and the others by kind."""
    passed: dict[str, list[str]] = {}
    there = set(names)
    formats = {name: None if _about_dataset(name, there) else format_of(name) for name in names}
    records = {os.path.dirname(name) for name, form in formats.items() if form not in (None, *PROSE, "datasets")}
    records |= {"/".join(parts[:k]) for parts in (name.split("/") for name in records) for k in range(len(parts))}
    documents = []
    for name, form in formats.items():
        if form in PROSE and _is_card(name, records):
            passed.setdefault(DESCRIBING_OTHERS, []).append(name)
        elif form in (None, "datasets"):
            kind = os.path.splitext(name)[1] or "no suffix"
            about = format_of(name) not in (None, "datasets")
            passed.setdefault(DESCRIBING_OTHERS if about else shown_name(kind), []).append(name)
        else:
            documents.append(name)
    return documents, passed


def _about_dataset(name: str, there: set[str]) -> bool:
    """Whether a file is what `datasets` writes about others; a state.json alone may be anything."""
    folder, base = os.path.split(name)
    return base in ABOUT_DATASETS and (base != "state.json" or os.path.join(folder, "dataset_info.json") in there)


def _is_card(name: str, records: set[str]) -> bool:
    """Whether a text or page describes records beside or below it. records: the folders that have such."""
    folder, base = os.path.split(name)
    return folder in records and (suffix_of(base) in DESCRIBING or bool(DESCRIPTIONS.match(base)))


def passed_over(path: str, found: Files) -> str | None:
    """In a sentence, how many files of an input are passed over, of which kinds, and a few names."""
    count = sum(map(len, found.passed.values()))
    if not count:
        return None
    kinds = sorted(found.passed.items(), key=lambda item: (-len(item[1]), item[0]))
    told = ", ".join(f"{len(names):,} {kind}" for kind, names in kinds[:8])
    more = f", {sum(len(names) for _, names in kinds[8:]):,} of {len(kinds) - 8} other kinds" if kinds[8:] else ""
    base = fixed_parent(path) if MAGIC.search(path) else PurePath(path)
    examples = ", ".join(shown_name(base / names[0]) for _, names in kinds[:3])
    files = "file" if count == 1 else "files"
    return f"{shown_name(path)}: {count:,} {files} passed over: {told}{more}; e.g. {examples}"
