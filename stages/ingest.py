"""Reads sources of any kind into documents: files, folders, globs and `datasets`.

Reads JSONL, JSON, Parquet, CSV, TSV, text, WARC and WET, plain or compressed; writes `DOCUMENT` rows, `payload`
beside them where a source may carry pages, and a quarantine row for every bad record. The one trade-off: records are
parsed one by one so that one bad record costs one row; Parquet alone stays columnar.
"""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import pyarrow as pa
from pydantic import BeforeValidator, Field, model_validator

from pipeline.names import is_utf8, shown_name
from pipeline.rows import DOCUMENT, PAYLOAD, with_field
from pipeline.stage import SOURCES, Each, Emit, Problem, Source, Stage, Step, Task
from stages.readers import nested, paths, pieces, preview
from stages.readers.beginning import foreign_encoding
from stages.readers.footers import Footer, footers
from stages.readers.inputs import (
    DELIMITERS,
    FAULTS,
    NAMED_FIELDS,
    PAGES,
    TABULAR,
    TEXTUAL,
    WEB,
    FieldMap,
    Input,
    dataset_faults,
    dataset_sources,
    encoding_fault,
    header,
    nothing_found,
    other_splits,
    saved_tables,
    source_name,
)
from stages.readers.records import HEAD, Bad, Item, lines
from stages.readers.rows import Fields
from stages.readers.streams import RATIO_FROM, Broken, Limits, Stream


def _as_input(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


class Ingest(FieldMap, Stage):
    """Sources → documents, with stable ids; every bad record goes to quarantine with its place and the reason.

    `source` is "name:position": a byte offset in the (expanded) file, or a row number. An id of the source's own that
    occurs twice is kept twice; `source` tells the two apart. Counters: records (kept and quarantined), bytes_read,
    bytes_lost (of the files as stored: what faults took that is in no record), skipped_* (parts of a WARC that are no
    documents).
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
        1000, gt=1, description="Expanded over compressed size, beyond `ratio_from`, at which a file counts as a bomb."
    )
    ratio_from: int = Field(
        RATIO_FROM,
        gt=0,
        description="Expanded bytes of a file up to which no ratio counts: so much costs little time and disk, and "
        "templated pages expand some thousandfold.",
    )
    max_expanded_bytes: int = Field(256 << 30, gt=0, description="Bytes to which one file may expand.")
    piece_bytes: int = Field(
        128 << 20, gt=0, description="A larger file is cut where its format allows: plain JSONL, text lines, Parquet."
    )

    @model_validator(mode="after")
    def _inherit(self) -> Self:
        """Gives every input all fields, its own or the stage's: a recipe's settings, written and read again, are the
        same."""
        shared = {name: getattr(self, name) for name in FieldMap.model_fields}
        inputs = tuple(
            entry.model_copy(update={name: v for name, v in shared.items() if name not in entry.model_fields_set})
            for entry in self.inputs
        )
        object.__setattr__(self, "inputs", inputs)  # the model is frozen for everyone else
        return self

    def libraries(self) -> tuple[str, ...]:
        """Brotli decodes bodies of web archives."""
        return ("brotli",) if any(entry.form(entry.path) in (*WEB, None) for entry in self.inputs) else ()

    def steps(self) -> tuple[Step, ...]:
        """One pass over the sources."""
        return (Each("read", self._read, self._schema(), reads=SOURCES),)

    def sources(self, folders: Sequence[Path]) -> list[Source]:
        """The pieces of all inputs, input by input, sorted by name within each."""
        found = [None if entry.is_dataset(folders) else entry.files(folders) for entry in self.inputs]
        known = self._footers(found)
        return [piece for k, files in enumerate(found) for piece in self._pieces(k, files, known, folders)]

    def check(self, folders: Sequence[Path]) -> list[Problem]:
        """Inputs that are missing, empty, unreadable or of no known format, fields that are not in them, names that
        clash."""
        found = [None if entry.is_dataset(folders) else entry.files(folders) for entry in self.inputs]
        problems: list[Problem] = []
        samples: dict[int, list[preview.Sample]] = {}
        known = self._footers(found)
        for k, files in enumerate(found):
            told = self._file_faults(k, files, folders) if files else dataset_faults(self.inputs[k], folders)
            messages = list(told)
            problems += [Problem(("inputs", k, "path"), message) for message in messages]
            if not messages:
                samples[k] = self._samples(k, files, known, folders)
        sound = {k: found[k] for k in samples}
        return [*problems, *self._clashes(sound, folders), *self._field_problems(samples)]

    def remarks(self, folders: Sequence[Path]) -> list[str]:
        """How many files each input passes over, and tables that cannot be read, which will be quarantined."""
        found = [None if entry.is_dataset(folders) else entry.files(folders) for entry in self.inputs]
        told = []
        for entry, files in zip(self.inputs, found, strict=True):
            told += [other_splits(entry, folders)] if files is None else [paths.passed_over(entry.path, files)]
        unreadable = [(path, footer.fault) for path, footer in self._footers(found).items() if footer.fault]
        told += [f"{shown_name(path)} cannot be read: {shown_name(fault)}" for path, fault in unreadable]
        return [one for one in told if one]

    def _footers(self, found: Sequence[paths.Files | None]) -> Mapping[Path, Footer]:
        """The footers of the inputs' tables."""
        tables = [
            path
            for entry, files in zip(self.inputs, found, strict=True)
            for path, _ in (files.files if files else [])
            if entry.form(path.name) in TABULAR and path.stat().st_size
        ]
        return footers(tables)

    def _pieces(
        self, k: int, files: paths.Files | None, known: Mapping[Path, Footer], folders: Sequence[Path]
    ) -> Iterator[Source]:
        entry, title = self.inputs[k], self.inputs[k].title(folders)
        if files is None:
            yield from dataset_sources(entry, k, title, folders)
            return
        for path, below in files.files:
            name, form, seen = source_name(title, below), entry.form(path.name), pieces.seen(path)
            whole = Source(str(path), name, input=k, size=seen[0], seen=seen)
            if form == "parquet":
                for start, end, part in pieces.row_group_pieces(known.get(path, Footer()), self.piece_bytes, seen[0]):
                    yield replace(whole, start=start, end=end, size=part)
            elif form == "jsonl" or (form == "text" and self._setting(k, "documents") == "line"):
                for start, end in pieces.line_pieces(path, self.piece_bytes, seen[0]):
                    yield replace(whole, start=start, end=end, size=end - start if end >= 0 else seen[0])
            else:
                yield whole

    def _file_faults(self, k: int, found: paths.Files, folders: Sequence[Path]) -> Iterator[str]:
        entry = self.inputs[k]
        files = [path for path, _ in found.files]
        unknown = [path.name for path in files if entry.form(path.name) is None]
        yield from found.faults[:FAULTS]
        if len(found.faults) > FAULTS:
            yield f"and {len(found.faults) - FAULTS:,} more that cannot be read"
        if found.faults:
            return
        if not files:
            yield nothing_found(entry.path, found, folders)
        elif unknown:
            yield f"{shown_name(unknown[0])}: no known format ({' '.join(paths.FORMATS)}); say it with `format`"
        elif not any(path.stat().st_size for path in files):
            yield f"{entry.path}: only empty files"
        elif any(entry.form(path.name) in WEB for path in files) and not importlib.util.find_spec("brotli"):
            yield "WARC and WET need brotli: pip install 'gristmill[warc]'"
        else:
            first = next(path for path in files if path.stat().st_size)
            fault = encoding_fault(first) if entry.form(first.name) in TEXTUAL else None
            yield from [fault] if fault else []

    def _clashes(self, found: Mapping[int, paths.Files | None], folders: Sequence[Path]) -> list[Problem]:
        """The first name that two files would have."""
        places: dict[str, tuple[int, str]] = {}
        for k, files in found.items():
            entry, title = self.inputs[k], self.inputs[k].title(folders)
            if files is None:
                named = [(f"{title or entry.path}/{entry.split}", entry.path)]
            else:
                named = [(source_name(title, below), str(path)) for path, below in files.files]
            for name, path in named:
                if places.setdefault(name, (k, path)) != (k, path):
                    message = f"{shown_name(name)} is called like a file of inputs[{places[name][0]}]: "
                    return [Problem(("inputs", k, "name"), message + "give each input a `name` of its own")]
        return []

    def _samples(
        self, k: int, found: paths.Files | None, known: Mapping[Path, Footer], folders: Sequence[Path]
    ) -> list[preview.Sample]:
        """The fields of the input's first file of each format that has fields."""
        entry, first = self.inputs[k], dict[str, Path]()
        files = [path for path, _ in found.files] if found else saved_tables(entry, folders)
        for path in files:
            form = entry.form(path.name) or ""
            if form not in first and path.stat().st_size:
                first[form] = path
        if found is None and first:
            known = footers(first.values())
        each = [self._sample(k, form, path, known) for form, path in first.items()]
        return [sample for sample in each if sample is not None]

    def _sample(self, k: int, form: str, path: Path, known: Mapping[Path, Footer]) -> preview.Sample | None:
        """A file's fields; None where it has none, or they cannot be told (the run will say why)."""
        if form in TABULAR:
            footer = known.get(path, Footer())
            return preview.Sample(path.name, form, footer.names) if footer.names else None
        try:
            if form in DELIMITERS:
                return preview.Sample(path.name, form, header(path, DELIMITERS[form], quoted=self._quoted(k, form)))
            if form in ("json", "jsonl"):
                fields, stream = self._fields(k, form), Stream(str(path), self._limits())
                wanted = [name for values in self._wanted(k).values() for name in values]
                enough = [*wanted, fields.html or fields.text]
                items = self._items(k, form, preview.head(stream), fields, path.name)
                return preview.sampled(path.name, form, items, enough)
        except (OSError, ValueError, csv.Error, Broken):
            return None
        return None

    def _wanted(self, k: int) -> dict[str, tuple[str, ...]]:
        """The fields that the recipe names for input k, by setting; not those that are looked for by default."""
        found = {}
        for setting in NAMED_FIELDS:
            value = self._setting(k, setting)
            if value is not None and value != FieldMap.model_fields[setting].default:
                found[setting] = (value,) if isinstance(value, str) else tuple(value)
        return found

    def _field_problems(self, samples: Mapping[int, Sequence[preview.Sample]]) -> Iterator[Problem]:
        """Text that an input has not, and fields that the recipe names: for one input that has them not, or for all
        inputs where none has them."""
        told: dict[tuple[tuple[str | int, ...], str], str] = {}
        shared: dict[tuple[str, str], list[preview.Sample]] = {}
        for k, some in samples.items():
            for sample in some:
                names = self._text_names(k, sample.form)
                if not any(name in sample.names for name in names):
                    setting = "html_field" if self._setting(k, "html_field") else "text_field"
                    told[self._place(k, setting), names[0]] = sample.lacks(names[0])
                for setting in ("html_field", "text_field", "id_field"):
                    if fault := sample.repeats(self._setting(k, setting)):
                        told[self._place(k, setting), "repeated"] = fault
            for setting, wanted in self._wanted(k).items():
                for name in wanted if some else ():
                    if self._setting(k, setting) == getattr(self, setting):
                        shared.setdefault((setting, name), []).extend(some)
                    elif not any(name in sample.names for sample in some):
                        told.setdefault((self._place(k, setting), name), some[0].lacks(name))
        for (setting, name), some in shared.items():
            if not any(name in sample.names for sample in some):
                told.setdefault(((setting,), name), some[0].lacks(name))
        return (Problem(loc, message) for (loc, _), message in told.items())

    def _text_names(self, k: int, form: str) -> list[str]:
        """The fields of which a record must have one."""
        names = [self._setting(k, "html_field"), self._setting(k, "text_field")]
        return [name for name in names if name][: 1 if form in DELIMITERS else 2]

    def _place(self, k: int, setting: str) -> tuple[str | int, ...]:
        """Where the recipe gives input k a setting."""
        own = self._setting(k, setting) != getattr(self, setting)
        return ("inputs", k, setting) if own else (setting,)

    def _setting(self, k: int, name: str) -> Any:
        """A field of `FieldMap` for input k."""
        return getattr(self.inputs[k], name)

    def _quoted(self, k: int, form: str) -> bool:
        return (self._setting(k, "quote") or ("none" if form == "tsv" else "double")) == "double"

    def _fields(self, k: int, form: str) -> Fields:
        own = {name: self._setting(k, name) for name in FieldMap.model_fields}
        web = form in PAGES
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
        pieces.hold(source)
        form = "datasets" if source.digest else self.inputs[source.input].form(source.path) or "text"
        read = self._tables if form in TABULAR else self._rows
        yield from read(source, form, self._fields(source.input, form), task)
        pieces.hold(source)

    def _tables(self, source: Source, form: str, fields: Fields, task: Task) -> Iterator[Emit]:
        from stages.readers import tables
        from stages.readers.columns import Columns
        from stages.readers.rows import Names, Rows

        entry = self.inputs[source.input]
        if form == "parquet" and source.end < 0 and (fault := footers([Path(source.path)])[Path(source.path)].fault):
            bad = Bad(0, "unreadable_parquet", fault)  # it would end this process
            yield from Rows(source.name, fields, task, self._schema()).gather([bad])
            return
        source = _aliased(source, task)
        if form == "parquet":
            parts = tables.read_parquet(source, nested.with_outer(fields), self._limits())
        elif Path(source.path).is_file():
            parts = tables.read_saved(source.path, fields, self._limits())
        else:
            name, about = source.path or entry.path, (entry.config, entry.split, entry.revision)
            parts = tables.read_dataset(name, *about, fields, self._limits())
        columns = Columns(Names(source.name), fields, task, self._schema())
        yield from columns.gather(nested.of_parts(parts, fields))
        yield Emit(counters={"bytes_read": source.size})

    def _rows(self, source: Source, form: str, fields: Fields, task: Task) -> Iterator[Emit]:
        from stages.readers.rows import Rows

        stream = Stream(source.path, self._limits(), source.start, source.end)
        whole = source.start == 0 and source.end < 0
        items = self._items(source.input, form, stream, fields, source.name, source.start, whole=whole)
        rows = Rows(source.name, fields, task, self._schema())
        yield from rows.gather(nested.of_items(items, fields))
        lost = stream.stored(rows.lost) + stream.unread
        yield Emit(counters={"bytes_read": stream.consumed, "bytes_lost": lost})

    def _items(
        self,
        k: int,
        form: str,
        stream: Iterable[bytes],
        fields: Fields,
        file: str,
        start: int = 0,
        *,
        whole: bool = True,
    ) -> Iterator[Item]:
        """The records of a stream that begins at byte `start` of its file. whole: it is all of the file."""
        from stages.readers import beginning, records, text, warc

        if form in WEB:
            return warc.read_warc(stream, fields.max_bytes)
        if form == "html":
            return text.read_text(stream, replace(fields, text=str(fields.html)), start, records.whole, "file")
        head, chunks = beginning.taken_off(stream)
        if start == 0 and (encoding := foreign_encoding(head)):
            lost = sum(map(len, chunks))
            return iter([Bad(0, "not_utf8", f"{file} is {encoding}, not UTF-8", head[:HEAD], lost)])
        return self._textual(k, form, fields, head, chunks, start, whole=whole)

    def _textual(
        self, k: int, form: str, fields: Fields, head: bytes, chunks: Iterator[bytes], start: int, *, whole: bool
    ) -> Iterator[Item]:
        """The records of a file that is UTF-8; `head` are its first bytes, `chunks` all of them."""
        from stages.readers import beginning, delimited, text

        scan = beginning.line_scanner(head) if whole else lines
        if form == "jsonl":
            return text.read_json(chunks, fields, start, scan)
        if form == "json":
            return text.read_json_values(chunks, fields)
        if form in DELIMITERS:
            return delimited.read_delimited(chunks, fields, DELIMITERS[form], scan, quoted=self._quoted(k, form))
        documents = self._setting(k, "documents")
        scan = beginning.text_scanner(head, documents) if whole else scan
        return text.read_text(chunks, fields, start, scan, documents)

    def _limits(self) -> Limits:
        return Limits(self.max_ratio, self.max_expanded_bytes, self.ratio_from)

    def _schema(self) -> pa.Schema:
        """With `payload` if any input may carry pages: a web archive, an HTML field, files yet to be found."""
        forms = [(k, entry.form(entry.path)) for k, entry in enumerate(self.inputs)]
        pages = any(form is None or form in PAGES or self._setting(k, "html_field") for k, form in forms)
        return with_field(DOCUMENT, PAYLOAD) if pages else DOCUMENT


def _aliased(source: Source, task: Task) -> Source:
    """The source under a name that libraries which take text for names can open."""
    if is_utf8(source.path):
        return source
    alias = task.scratch / f"source-{source.input}{Path(source.path).suffix}"
    alias.unlink(missing_ok=True)
    alias.symlink_to(Path(source.path).absolute())
    return replace(source, path=str(alias))
