"""One input of a recipe: its settings, its files, and what is wrong with them.

Reads names, sizes and the first bytes of files; writes nothing. The one trade-off: of an input's many files only the
first of each format is looked into; the run tells what is wrong with the others.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.names import shown_name, utf8_name
from pipeline.stage import Source, resolve
from stages.readers import paths, pieces
from stages.readers.beginning import foreign_encoding
from stages.readers.search import MAGIC
from stages.readers.streams import Broken, Limits, Stream

Format = Literal["jsonl", "json", "parquet", "csv", "tsv", "text", "html", "warc", "wet", "datasets"]
WEB = ("warc", "wet")
PAGES = (*WEB, "html")
TABULAR = ("parquet", "datasets")
TEXTUAL = ("jsonl", "json", "csv", "tsv", "text")
DELIMITERS = {"csv": ",", "tsv": "\t"}
NAMED_FIELDS = ("text_field", "id_field", "url_field", "html_field", "meta_fields")


class FieldMap(BaseModel):
    """Which fields of a record become which columns; an input may set any of them for itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text_field: str = Field(
        "text", description="The field that holds the text; one inside another by its dotted name: `content.text`."
    )
    id_field: str | None = Field(
        None,
        description="The field that holds the record's own id (a string or an integer). "
        "Without it, or where it is empty, the id is made of the source's name and the record's position.",
    )
    url_field: str | None = Field("url", description="The field that holds the address, where a record has it.")
    html_field: str | None = Field(None, description="The field that holds a page's HTML, for `extract`.")
    meta_fields: tuple[str, ...] | None = Field(
        None, description="The fields kept in `meta`; all that have no column of their own, if not given."
    )
    documents: Literal["file", "line", "block"] = Field(
        "file", description="Plain text only: a document per file, per line, or per block between blank lines."
    )
    quote: Literal["double", "none"] | None = Field(
        None,
        description="CSV and TSV only. double: a field may stand in quotation marks; none: they are part of the text. "
        "If not given: double for CSV, none for TSV.",
    )


class Input(FieldMap):
    """One input: a file, folder, glob (`**` included), or a `datasets` source.

    Of a folder every file of a known format is read, links followed, but for names that begin with "." or "_", what
    `datasets` writes about its files, and files that describe records beside or below them: pages, Markdown, README.
    What a path or glob names is read whatever it is called. A folder that `datasets` saved to disk is known as such.
    """

    path: str = Field(min_length=1, description="File, folder or glob; for `datasets` a saved folder or a Hub name.")
    name: str | None = Field(None, description="What ids and sources call it; the path's fixed folder, if not given.")
    licence: str | None = Field(None, description="Goes into each document's `meta`, unless the record has its own.")
    format: Format | None = Field(None, description="Told by the file's suffix, if not given.")
    split: str = Field("train", description="`datasets` only: the split.")
    config: str | None = Field(None, description="`datasets` only: the configuration.")
    revision: str | None = Field(None, description="`datasets` only: the Hub revision; pin it to repeat a run.")

    def title(self, folders: Sequence[Path]) -> str:
        """The name, given or made from the path as written."""
        return paths.default_name(self.path, resolve(self.path, folders).is_dir()) if self.name is None else self.name

    def form(self, path: str) -> str | None:
        """The format of one of this input's files, None where nothing tells it."""
        return self.format or paths.format_of(path)

    def is_dataset(self, folders: Sequence[Path]) -> bool:
        """Whether `datasets` reads the input as a whole: the recipe says so, or `datasets` saved it."""
        return self.format == "datasets" or (self.format is None and pieces.is_saved(resolve(self.path, folders)))

    def files(self, folders: Sequence[Path]) -> paths.Files:
        """The files of an input that is read file by file."""
        return paths.find(self.path, folders, known_only=self.format is None)


FAULTS = 20
"""Files and folders of an input that a check names at most, of those that cannot be read."""


def source_name(title: str, below: str) -> str:
    """How a file of an input is called in `source` and derived ids: UTF-8, whatever its name is."""
    return utf8_name(f"{title}/{below}".lstrip("/"))


def dataset_sources(entry: Input, k: int, title: str, folders: Sequence[Path]) -> Iterator[Source]:
    """One source for each Arrow file of a saved dataset, else one for the whole of a folder or Hub name."""
    folder = resolve(entry.path, folders)
    saved = pieces.saved_files(folder, entry.split) if os.path.isdir(folder) else None
    if saved is not None:
        for path, below in saved:
            seen = pieces.seen(path)
            yield Source(str(path), source_name(title, below), input=k, size=seen[0], seen=seen)
        return
    what = f"{entry.config or ''}@{entry.split}@{entry.revision or ''}"
    place = str(folder) if os.path.isdir(folder) else ""
    seen = pieces.seen(folder) if place else ()
    digest = pieces.folder_digest(folder) if place else entry.path
    name = utf8_name(f"{title or entry.path}/{entry.split}")
    yield Source(place, name, input=k, digest=f"{digest}@{what}", seen=seen)


def dataset_faults(entry: Input, folders: Sequence[Path]) -> Iterator[str]:
    """What is wrong with an input that `datasets` reads, in sentences."""
    folder = resolve(entry.path, folders)
    if not os.path.isdir(folder) and (entry.path[0] in "./~" or entry.path.count("/") > 1):
        yield f"{entry.path}: no such folder, nor the name of a dataset on the Hub"
    try:
        none = os.path.isdir(folder) and pieces.saved_files(folder, entry.split) is None
    except ValueError as error:
        yield str(error)
        return
    except OSError as error:
        yield f"{shown_name(entry.path)} cannot be read ({error.strerror})"
        return
    if none and (folder / "dataset_dict.json").is_file():
        splits = ", ".join(map(shown_name, pieces.saved_splits(folder)))
        yield f"{entry.path} has no split {entry.split!r}; say with `split` which one is meant of: {splits}"


def saved_tables(entry: Input, folders: Sequence[Path]) -> list[Path]:
    """The first Arrow file of a saved dataset."""
    folder = resolve(entry.path, folders)
    return [path for path, _ in (pieces.saved_files(folder, entry.split) or [])[:1]] if os.path.isdir(folder) else []


def other_splits(entry: Input, folders: Sequence[Path]) -> str | None:
    """In a sentence, the splits of a saved dataset that the recipe does not name."""
    folder = resolve(entry.path, folders)
    others = [split for split in pieces.saved_splits(folder) if split != entry.split] if os.path.isdir(folder) else []
    if not others or not (folder / "dataset_dict.json").is_file():
        return None
    names = ", ".join(map(shown_name, others))
    return f"{entry.path}: {len(others)} {'split' if len(others) == 1 else 'splits'} passed over: {names}"


def nothing_found(path: str, found: paths.Files, folders: Sequence[Path]) -> str:
    """In a sentence, that a path, folder or glob gives no file, and what it has instead."""
    name = shown_name(path)
    if MAGIC.search(path):
        brackets = "; [ ] stand for one of the characters between them, [[] for [ itself" if "[" in path else ""
        return f"nothing matches {name}{brackets}"
    if os.path.isdir(resolve(path, folders)):
        known = " ".join(paths.FORMATS)
        passed = paths.passed_over(path, found)
        return f"{name}: no file of a known format beneath ({known})" + (f"; {passed}" if passed else "")
    return f"{name}: no such file or folder"


def _head(path: Path) -> bytes:
    """The first bytes of a file, plain or compressed."""
    return next(iter(Stream(str(path), Limits(1e9, 1 << 40))), b"")


def encoding_fault(path: Path) -> str | None:
    """What is wrong with the encoding of a text file, where that can be told (the run will say the rest)."""
    try:
        encoding = foreign_encoding(_head(path))
    except (OSError, Broken):
        return None
    told = f"{path.name} is {encoding}, not UTF-8; convert it, as with: iconv -f {encoding} -t UTF-8"
    return told if encoding else None


def header(path: Path, delimiter: str, *, quoted: bool) -> list[str]:
    """The columns of a CSV or TSV file: its first line that is not blank."""
    text = io.StringIO(_head(path).removeprefix(b"\xef\xbb\xbf").decode(errors="replace"), newline=None)
    rows = csv.reader(text, delimiter=delimiter)
    plain = (line.rstrip("\n").split(delimiter) for line in text)
    return next((row for row in (rows if quoted else plain) if any(row)), [])
