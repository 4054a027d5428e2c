"""Files in the formats people have → documents in shards, every bad record in quarantine with its place and reason.

Reads JSONL, JSON, Parquet, CSV, TSV, text, WARC, WET (plain, .gz, .zst, .bz2, .xz) and `datasets` sources; writes `DOCUMENT` rows, with
`payload` where pages may come. One large file is cut by bytes or row groups, never by the number of workers. Records pass
through Python objects, about 100 MB/s a core of JSONL: what it costs to take each format as it is.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import orjson
import pyarrow as pa
import xxhash
from pydantic import BaseModel, ConfigDict, Field, field_validator

from pipeline.stage import (
    DOCUMENT,
    PAYLOAD,
    SOURCES,
    Each,
    Emit,
    Problem,
    Source,
    Stage,
    Step,
    Task,
    quarantine_rows,
    resolve,
)
from stages.readers import Bad, Good, Limits, Record, records, streams, warc
from stages.readers.parquet import parquet_pieces, parquet_records

Format = Literal["jsonl", "json", "parquet", "csv", "tsv", "text", "warc", "wet", "datasets"]
SUFFIXES: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "text",
    ".md": "text",
    ".warc": "warc",
    ".wet": "wet",
}
BATCH_BYTES = 8 << 20
BATCH_ROWS = 1 << 13


class Input(BaseModel):
    """One input: files that share a name, a licence and a format."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: str = Field(description="A file, a folder, a glob (** too), or a datasets name.")
    name: str | None = Field(None, description="What ids and `source` call it [default: the path's last fixed part].")
    licence: str | None = Field(None, description="Noted in every document's meta.")
    format: Format | None = Field(None, description="Told by the suffix unless given.")
    split: str = Field("train", description="Which split of a datasets source.")


class Ingest(Stage):
    """Raw dumps → documents; bad records are quarantined, never lost.

    Ids are the source's own where `id_field` is set, else 16 hex digits of xxh3 over the input's name and the record's position.
    """

    reads: ClassVar[Literal["sources", "documents", "rows"]] = "sources"
    inputs: tuple[Input, ...] = Field(min_length=1, description="Paths, or mappings of path, name, licence, format.")
    text_field: str = Field("text", description="Where a record has its text.")
    id_field: str | None = Field(None, description="Where a record has its own id; null: derived from its position.")
    url_field: str | None = Field("url", description="Where a record has its URL.")
    html_field: str | None = Field(None, description="Where a record has HTML for `extract`, in place of text.")
    meta_fields: tuple[str, ...] | None = Field(None, description="Fields kept in meta as JSON; null: all others.")
    documents: records.Split = Field("file", description="In plain text, a document is a file, a line or a block.")
    invalid_utf8: Literal["quarantine", "replace"] = Field("quarantine", description="What to do with malformed UTF-8.")
    max_record_bytes: int = Field(64 << 20, ge=1, description="A longer record is quarantined, unread.")
    max_expanded_bytes: int = Field(1 << 40, ge=1, description="A compressed file that expands to more is a bomb.")
    max_ratio: int = Field(
        1000, ge=1, description="So is one that expands, past 64 MB, to more than so many times its size."
    )
    piece_bytes: int = Field(
        64 << 20, ge=1 << 16, description="Plain JSONL, text lines and Parquet are cut into such pieces."
    )

    @field_validator("inputs", mode="before")
    @classmethod
    def _paths(cls, value: Any) -> Any:
        """A plain string is an input of that path."""
        items = [value] if isinstance(value, str | dict) else value
        return (
            [{"path": item} if isinstance(item, str) else item for item in items]
            if isinstance(items, list | tuple)
            else items
        )

    def steps(self) -> tuple[Step, ...]:
        """One task per piece of input."""
        return (Each("read", self._read, self._schema(), reads=SOURCES),)

    def check(self, folders: Sequence[Path]) -> list[Problem]:
        """Inputs that are missing, empty or of no known format."""
        problems = []
        for k, given in enumerate(self.inputs):
            loc = ("inputs", k)
            if given.format == "datasets":
                continue
            files = self._files(given, folders)
            if not files:
                problems.append(Problem(loc, f"no file matches {given.path!r}"))
            elif not any(path.stat().st_size for path in files):
                problems.append(Problem(loc, f"every file that matches {given.path!r} is empty"))
            unknown = [path for path in files if _format(path) is None] if given.format is None else []
            problems += [
                Problem(
                    loc,
                    f"{path.name}: no known suffix; say `format:`, one of {', '.join(sorted(set(SUFFIXES.values())))}",
                )
                for path in unknown[:3]
            ]
        return problems

    def sources(self, folders: Sequence[Path]) -> list[Source]:
        """Pieces of files in the order of the inputs and of their names."""
        found: list[Source] = []
        for k, given in enumerate(self.inputs):
            if given.format == "datasets":
                found.append(_dataset_source(k, given, folders))
                continue
            for path in self._files(given, folders):
                if path.stat().st_size:
                    found += self._pieces(k, given, path, _name(given, path, folders))
        return found

    def _files(self, given: Input, folders: Sequence[Path]) -> list[Path]:
        """The files an input means, sorted; in a folder those of a known format."""
        for folder in folders:
            path = folder / given.path
            if path.is_dir():
                return sorted(p for p in path.rglob("*") if p.is_file() and (given.format or _format(p)))
            hits = [Path(p) for p in glob.glob(str(path), recursive=True)]
            if hits:
                return sorted(p for p in hits if p.is_file())
        return []

    def _pieces(self, k: int, given: Input, path: Path, name: str) -> list[Source]:
        size, kind = path.stat().st_size, given.format or _format(path)
        ranges = [(0, -1)]
        if kind == "parquet":
            ranges = parquet_pieces(path, self.piece_bytes)
        elif size > self.piece_bytes and path.suffix not in streams.COMPRESSED:
            if kind == "jsonl" or (kind == "text" and self.documents == "line"):
                edges = [*range(0, size, self.piece_bytes), -1]
                ranges = list(zip(edges, edges[1:], strict=False))
        return [Source(str(path), name, start, end, k, size) for start, end in ranges]

    def _schema(self) -> pa.Schema:
        pages = self.html_field is not None or any(
            given.format in (None, "warc")
            and ".warc" in given.path
            or given.format == "warc"
            or "." not in Path(given.path).name
            for given in self.inputs
        )
        return DOCUMENT.append(PAYLOAD) if pages else DOCUMENT

    def _limits(self) -> Limits:
        return Limits(self.max_record_bytes, self.max_expanded_bytes, self.max_ratio, self.invalid_utf8 == "replace")

    def _read(self, _: Iterator[pa.RecordBatch], task: Task) -> Iterator[Emit]:
        source = task.source
        if source is None:
            raise ValueError("ingest reads sources")
        batch = _Batch(self, source, self._schema(), task)
        for number, record in enumerate(self._records(source)):
            if task.limit is not None and number >= task.limit:
                break
            if batch.add(record):
                yield batch.emit()
        yield batch.emit()

    def _records(self, source: Source) -> Iterator[Record]:
        given, path, limits = self.inputs[source.input], Path(source.path), self._limits()
        kind = given.format or _format(path)
        if kind == "datasets":
            return records.as_rows(_dataset(given, source))
        if kind == "parquet":
            return parquet_records(path, source.start, source.end)
        if (source.start, source.end) == (0, -1):
            stream, offset = streams.pieces(path, limits), 0
        else:
            stream, offset = (
                streams.plain_range(path, source.start, source.end),
                streams.range_start(path, source.start),
            )
        match kind:
            case "jsonl":
                return records.jsonl(stream, limits, offset)
            case "json":
                return records.json_values(stream, limits)
            case "csv" | "tsv":
                return records.separated(stream, limits, "," if kind == "csv" else "\t")
            case "text":
                return records.text(stream, limits, self.documents, offset)
            case _:
                return warc.warc(stream, limits)


class _Batch:
    """Rows collected until they are worth a record batch."""

    def __init__(self, stage: Ingest, source: Source, schema: pa.Schema, task: Task) -> None:
        self.stage, self.source, self.schema, self.task = stage, source, schema, task
        self.licence = stage.inputs[source.input].licence
        self.columns: dict[str, list[Any]] = {name: [] for name in schema.names}
        self.bad: list[tuple[str, str, str, str, bytes]] = []
        self.bytes = 0

    def add(self, record: Record) -> bool:
        """Takes a record; whether the batch is full."""
        place = f"{self.source.name}:{record.position}"
        own = xxhash.xxh3_64_hexdigest(place.encode())
        if isinstance(record, Bad):
            self.bad.append((own, place, record.reason, record.detail, record.head))
        else:
            self._good(record, own, place)
        return self.bytes >= BATCH_BYTES or len(self.columns["id"]) + len(self.bad) >= BATCH_ROWS

    def _good(self, record: Good, own: str, place: str) -> None:
        stage, fields = self.stage, record.fields
        name = fields.pop(stage.id_field, None) if stage.id_field else None
        own = str(name) if isinstance(name, str | int) and name != "" else own
        payload = record.payload
        if stage.html_field is not None and (html := fields.pop(stage.html_field, None)) is not None:
            payload = html if isinstance(html, bytes) else str(html).encode("utf-8", "replace")
        text = fields.pop(stage.text_field, None) if payload is None else fields.pop(stage.text_field, "")
        if not isinstance(text, str):
            reason = "missing_text" if text is None else "text_not_a_string"
            found = f"field {stage.text_field!r}: {type(text).__name__}"
            self.bad.append((own, place, reason, found, _json(fields)[:4096]))
            return
        try:
            size = len(text.encode())
        except UnicodeEncodeError as error:
            self.bad.append((own, place, "lone_surrogate", str(error.reason), text.encode("utf-8", "replace")[:4096]))
            return
        url = fields.pop(stage.url_field, None) if stage.url_field else None
        kept = fields if stage.meta_fields is None else {k: fields[k] for k in stage.meta_fields if k in fields}
        if self.licence:
            kept = {**kept, "licence": self.licence}
        row = {
            "id": own,
            "text": text,
            "source": place,
            "url": url if isinstance(url, str) else None,
            "payload": payload,
        }
        row["meta"] = _json(kept).decode() if kept else None
        for key, column in self.columns.items():
            column.append(row.get(key))
        self.bytes += size + len(payload or b"")

    def emit(self) -> Emit:
        """What has been collected; the batch is empty after it."""
        arrays = [pa.array(self.columns[field.name], field.type) for field in self.schema]
        rows = pa.RecordBatch.from_arrays(arrays, schema=self.schema)
        quarantine = quarantine_rows(self.bad, self.task)
        counters = {"records": len(rows) + len(quarantine)}
        self.columns, self.bad, self.bytes = {name: [] for name in self.schema.names}, [], 0
        return Emit(rows=rows, quarantine=quarantine, counters=counters)


def _json(value: Any) -> bytes:
    """JSON with sorted keys; what JSON has no word for becomes its text."""
    options = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS
    try:
        return orjson.dumps(value, default=str, option=options)
    except (orjson.JSONEncodeError, TypeError):
        return orjson.dumps(ascii(value))


def _format(path: Path) -> Format | None:
    name = path.name
    for suffix in streams.COMPRESSED:
        name = name.removesuffix(suffix)
    return SUFFIXES.get(Path(name).suffix.lower())


def _name(given: Input, path: Path, folders: Sequence[Path]) -> str:
    """The input's name and the file's place below its fixed part: the same wherever the working directory is."""
    fixed = given.path
    while glob.has_magic(fixed):
        fixed = str(Path(fixed).parent)
    root = resolve(fixed, folders)
    if root.is_file():
        root = root.parent
    inside = path.relative_to(root).as_posix()
    own = given.name or (Path(fixed).name if not Path(fixed).suffix else Path(fixed).parent.name)
    return f"{own}/{inside}" if own else inside


def _dataset_source(k: int, given: Input, folders: Sequence[Path]) -> Source:
    local = resolve(given.path, folders)
    digest = f"datasets:{given.path}:{given.split}"
    if local.exists():
        files = sorted(p for p in local.rglob("*") if p.is_file())
        digest = xxhash.xxh3_128_hexdigest(b"".join(p.name.encode() + p.read_bytes() for p in files))
    path = str(local) if local.exists() else given.path
    return Source(path, f"{given.name or Path(given.path).name}/{given.split}", 0, -1, k, 0, digest)


def _dataset(given: Input, source: Source) -> Iterator[dict[str, Any]]:
    """Rows of a dataset: a folder made by save_to_disk, a folder of files, or a name, which is fetched as a stream."""
    import datasets  # noqa: PLC0415 - a second to import, needed for this format only

    path = Path(source.path)
    if path.exists() and (path / "state.json").exists():
        return iter(datasets.load_from_disk(source.path))
    if path.exists() and (path / "dataset_dict.json").exists():
        return iter(datasets.load_from_disk(source.path)[given.split])
    return iter(datasets.load_dataset(source.path, split=given.split, streaming=True))
