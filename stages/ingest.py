"""Reads sources of any kind into documents: files, folders, globs and `datasets`.

Reads JSONL, JSON, Parquet, CSV, TSV, text, WARC and WET, plain or compressed; writes `DOCUMENT` rows, `payload`
beside them where a source may carry pages, and a quarantine row for every bad record. The one trade-off: records are
parsed one by one so that one bad record costs one row; Parquet alone stays columnar.
"""

from __future__ import annotations

import csv
import importlib.util
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pyarrow as pa
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from pipeline.rows import DOCUMENT, PAYLOAD, with_field
from pipeline.stage import SOURCES, Each, Emit, Problem, Source, Stage, Step, Task, resolve
from stages.readers import paths
from stages.readers.rows import Fields
from stages.readers.streams import Broken, Limits, Stream

Format = Literal["jsonl", "json", "parquet", "csv", "tsv", "text", "warc", "wet", "datasets"]
WEB = ("warc", "wet")
TABULAR = ("parquet", "datasets")


class FieldMap(BaseModel):
    """Which fields of a record become which columns; an input may set any of them for itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text_field: str = Field("text", description="The field that holds the text.")
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


class Input(FieldMap):
    """One input: a file, folder, glob (`**` included), or a `datasets` source."""

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


def _as_input(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


class Ingest(FieldMap, Stage):
    """Sources → documents, with stable ids; every bad record goes to quarantine with its place and the reason.

    `source` is "name:position": a byte offset in the (expanded) file, or a row number. An id of the source's own that
    occurs twice is kept twice; `source` tells the two apart. Counters: records (kept and quarantined), bytes_read,
    skipped_* (parts of a WARC that are no documents).
    """

    version: ClassVar[int] = 2
    reads: ClassVar[Literal["sources", "documents", "rows"]] = "sources"

    inputs: tuple[Annotated[Input, BeforeValidator(_as_input)], ...] = Field(
        min_length=1, description="What to read: paths, or mappings with path, name, licence, format and fields."
    )
    invalid_utf8: Literal["quarantine", "replace"] = Field(
        "quarantine", description="A record of malformed UTF-8 is quarantined, or its bad bytes become U+FFFD."
    )
    max_record_bytes: int = Field(
        64 << 20, gt=0, description="A longer record is quarantined, and never held in memory."
    )
    max_ratio: float = Field(
        1000, gt=1, description="Expanded over compressed size, from 16 MiB on, at which a file counts as a bomb."
    )
    max_expanded_bytes: int = Field(256 << 30, gt=0, description="Bytes to which one file may expand.")
    piece_bytes: int = Field(
        128 << 20, gt=0, description="A larger file is cut where its format allows: plain JSONL, text lines, Parquet."
    )

    def steps(self) -> tuple[Step, ...]:
        """One pass over the sources."""
        return (Each("read", self._read, self._schema(), reads=SOURCES),)

    def sources(self, folders: Sequence[Path]) -> list[Source]:
        """The pieces of all inputs, input by input, sorted by name within each."""
        return [piece for k in range(len(self.inputs)) for piece in self._pieces(k, folders)]

    def check(self, folders: Sequence[Path]) -> list[Problem]:
        """Inputs that are missing, empty or of no known format, fields that are not in them, names that clash."""
        found = [problem for k in range(len(self.inputs)) for problem in self._check_input(k, folders)]
        if found:
            return found
        places: dict[str, tuple[int, str]] = {}
        for source in self.sources(folders):
            k, path = places.setdefault(source.name, (source.input, source.path))
            if path != source.path or k != source.input:
                message = f"{source.name} is called like a file of inputs[{k}]: give each input a `name` of its own"
                return [Problem(("inputs", source.input, "path"), message)]
        return []

    def _pieces(self, k: int, folders: Sequence[Path]) -> Iterator[Source]:
        entry, title = self.inputs[k], self.inputs[k].title(folders)
        if entry.format == "datasets":
            yield from _dataset(entry, k, title, folders)
            return
        for path, below in paths.find(entry.path, folders, known_only=entry.format is None):
            name, form, size = f"{title}/{below}".lstrip("/"), entry.form(path.name), path.stat().st_size
            if form == "parquet":
                for start, end, part in paths.row_group_pieces(path, self.piece_bytes):
                    yield Source(str(path), name, start, end, k, part)
            elif form == "jsonl" or (form == "text" and self._setting(k, "documents") == "line"):
                for start, end in paths.line_pieces(path, self.piece_bytes):
                    yield Source(str(path), name, start, end, k, end - start if end >= 0 else size)
            else:
                yield Source(str(path), name, input=k, size=size)

    def _check_input(self, k: int, folders: Sequence[Path]) -> Iterator[Problem]:
        entry, loc = self.inputs[k], ("inputs", k, "path")
        if entry.format == "datasets":
            yield from (Problem(loc, message) for message in _dataset_faults(entry, folders))
            return
        files = [path for path, _ in paths.find(entry.path, folders, known_only=entry.format is None)]
        unknown = [path.name for path in files if entry.form(path.name) is None]
        if not files:
            yield Problem(loc, _nothing(entry.path, folders))
        elif unknown:
            known = " ".join(paths.FORMATS)
            yield Problem(loc, f"{unknown[0]}: no known format ({known}); say it with `format`")
        elif not any(path.stat().st_size for path in files):
            yield Problem(loc, f"{entry.path}: only empty files")
        elif any(entry.form(path.name) in WEB for path in files) and not importlib.util.find_spec("fastwarc"):
            yield Problem(loc, "WARC and WET need fastwarc: pip install 'gristmill[warc]'")
        else:
            yield from self._check_fields(k, next(path for path in files if path.stat().st_size))

    def _check_fields(self, k: int, path: Path) -> Iterator[Problem]:
        """Problems of fields that the input's first file has not, where its columns can be told."""
        columns = _columns(path, str(self.inputs[k].form(path.name)))
        text = "html_field" if self._setting(k, "html_field") else "text_field"
        for field in (text, "id_field"):
            wanted = self._setting(k, field)
            if columns is not None and wanted is not None and wanted not in columns:
                own = field in self.inputs[k].model_fields_set
                message = f"{path.name} has no column {wanted!r}, but: {', '.join(columns)}"
                yield Problem(("inputs", k, field) if own else (field,), message[:500])

    def _setting(self, k: int, name: str) -> Any:
        """A field of `FieldMap` for input k: its own where it sets one, else the stage's."""
        entry = self.inputs[k]
        return getattr(entry if name in entry.model_fields_set else self, name)

    def _fields(self, k: int, form: str) -> Fields:
        own = {name: self._setting(k, name) for name in FieldMap.model_fields}
        web = form in WEB
        return Fields(
            text="text" if web else own["text_field"],
            id=own["id_field"],
            url="url" if web else own["url_field"],
            html="html" if web else own["html_field"],
            meta=own["meta_fields"],
            licence=self.inputs[k].licence,
            replace=self.invalid_utf8 == "replace",
            max_bytes=self.max_record_bytes,
        )

    def _read(self, batches: Iterator[pa.RecordBatch], task: Task) -> Iterator[Emit]:
        source = task.source
        if source is None:
            raise ValueError("ingest reads a source, and the task has none")
        form = self.inputs[source.input].form(source.path) or "text"
        read = self._tables if form in TABULAR else self._rows
        yield from read(source, form, self._fields(source.input, form), task)

    def _tables(self, source: Source, form: str, fields: Fields, task: Task) -> Iterator[Emit]:
        from stages.readers import tables
        from stages.readers.columns import Columns
        from stages.readers.rows import Names

        entry = self.inputs[source.input]
        if form == "parquet":
            parts = tables.read_parquet(source, fields, self._limits())
        elif Path(source.path).is_file():
            parts = tables.read_saved(source.path)
        else:
            parts = tables.read_dataset(source.path or entry.path, entry.config, entry.split, entry.revision)
        yield from Columns(Names(source.name), fields, task, self._schema()).gather(parts)
        yield Emit(counters={"bytes_read": source.size})

    def _rows(self, source: Source, form: str, fields: Fields, task: Task) -> Iterator[Emit]:
        from stages.readers import text, warc
        from stages.readers.records import JsonValues, lines
        from stages.readers.rows import Rows

        stream = Stream(source.path, self._limits(), source.start, source.end)
        if form in WEB:
            items = warc.read_warc(stream, fields.max_bytes)
        elif form in ("jsonl", "json"):
            items = text.read_json(stream, fields, source.start, lines if form == "jsonl" else JsonValues())
        elif form in ("csv", "tsv"):
            items = text.read_csv(stream, fields, source.start, "\t" if form == "tsv" else ",")
        else:
            items = text.read_text(stream, fields, source.start, self._setting(source.input, "documents"))
        yield from Rows(source.name, fields, task, self._schema()).gather(items)
        yield Emit(counters={"bytes_read": stream.consumed})

    def _limits(self) -> Limits:
        return Limits(self.max_ratio, self.max_expanded_bytes)

    def _schema(self) -> pa.Schema:
        """With `payload` if any input may carry pages: a web archive, an HTML field, files yet to be found."""
        forms = [(k, entry.form(entry.path)) for k, entry in enumerate(self.inputs)]
        pages = any(form is None or form in WEB or self._setting(k, "html_field") for k, form in forms)
        return with_field(DOCUMENT, PAYLOAD) if pages else DOCUMENT


def _dataset(entry: Input, k: int, title: str, folders: Sequence[Path]) -> Iterator[Source]:
    """One source for each Arrow file of a saved dataset, else one for the whole of a folder or Hub name."""
    folder = resolve(entry.path, folders)
    saved = paths.saved_files(folder, entry.split) if folder.is_dir() else None
    if saved is not None:
        for path, below in saved:
            yield Source(str(path), f"{title}/{below}".lstrip("/"), input=k, size=path.stat().st_size)
        return
    what = f"{entry.config or ''}@{entry.split}@{entry.revision or ''}"
    place = str(folder) if folder.is_dir() else ""
    digest = paths.folder_digest(folder) if place else entry.path
    name = f"{title or entry.path}/{entry.split}"
    yield Source(place, name, input=k, digest=f"{digest}@{what}")


def _dataset_faults(entry: Input, folders: Sequence[Path]) -> Iterator[str]:
    folder = resolve(entry.path, folders)
    if not folder.is_dir() and (entry.path[0] in "./~" or entry.path.count("/") > 1):
        yield f"{entry.path}: no such folder, nor the name of a dataset on the Hub"
    if (folder / "dataset_dict.json").is_file() and paths.saved_files(folder, entry.split) is None:
        yield f"{entry.path} has no split {entry.split!r}"


def _nothing(path: str, folders: Sequence[Path]) -> str:
    if paths.MAGIC.search(path):
        return f"nothing matches {path}"
    if resolve(path, folders).is_dir():
        return f"{path}: no file of a known format beneath ({' '.join(paths.FORMATS)})"
    return f"{path}: no such file or folder"


def _columns(path: Path, form: str) -> list[str] | None:
    """The columns of a Parquet, CSV or TSV file; None where they cannot be told (the run will say why)."""
    import pyarrow.parquet as pq

    try:
        if form == "parquet":
            return list(pq.read_schema(path).names)
        if form in ("csv", "tsv"):
            head = next(iter(Stream(str(path), Limits(1e9, 1 << 40))), b"").removeprefix(b"\xef\xbb\xbf")
            return next(
                csv.reader(io.StringIO(head.decode(errors="replace")), delimiter="\t" if form == "tsv" else ",")
            )
    except (OSError, ValueError, csv.Error, Broken, pa.ArrowException):
        return None
    return None
