"""Ingest as a stage: every format and compression, ids, pieces, quarantine, books, checks."""

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from pipeline.rows import DOCUMENT, PAYLOAD, with_field
from pipeline.stage import Each, Emit, Source, Task
from stages.ingest import Ingest

DOCS = [
    {"text": f'document {k} — 中文 "quoted", \\ back\nand more', "n": k, "url": f"http://x.example/{k}"}
    for k in range(50)
]


def task(folder: Path, source: Source, limit: int | None = None) -> Task:
    return Task(stage="01-ingest", seed=0, index=0, count=1, folder=folder, scratch=folder, source=source, limit=limit)


def read(stage: Ingest, folder: Path, limit: int | None = None) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """All documents and bad records, after the books have been checked emit by emit."""
    rows: list[dict[str, Any]] = []
    bad: list[dict[str, Any]] = []
    step = reading(stage)
    for source in stage.sources([folder]):
        for emit in step.run(iter(()), task(folder, source, limit)):
            assert emit.counters.get("records", 0) == count(emit.rows) + count(emit.quarantine)
            rows += taken(emit, step.schema)
            bad += emit.quarantine.to_pylist() if emit.quarantine is not None else []
    ids = [row["id"] for row in rows + bad]
    assert len(set(ids)) == len(ids)
    return rows, bad


def reading(stage: Ingest) -> Each:
    (step,) = stage.steps()
    assert isinstance(step, Each)
    return step


def ingest(*inputs: Any, **settings: Any) -> Ingest:
    return Ingest.model_validate({"inputs": inputs, **settings})


def count(batch: pa.RecordBatch | None) -> int:
    return 0 if batch is None else len(batch)


def taken(emit: Emit, schema: Any) -> list[dict[str, Any]]:
    if emit.rows is None:
        return []
    assert emit.rows.schema == schema
    emit.rows.validate(full=True)
    return list(emit.rows.to_pylist())


def jsonl(docs: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(doc).encode() + b"\n" for doc in docs)


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("form", ["jsonl", "json"])
def test_json_in_every_compression(tmp_path: Path, suffix: str, form: str) -> None:
    data = jsonl(DOCS) if form == "jsonl" else json.dumps(DOCS, indent=1).encode()
    half = len(data) // 2
    members = COMPRESS[suffix](data[:half]) + COMPRESS[suffix](data[half:])
    (tmp_path / f"a.{form}{suffix}").write_bytes(members)
    rows, bad = read(ingest(f"a.{form}{suffix}"), tmp_path)
    assert [row["text"] for row in rows] == [doc["text"] for doc in DOCS]
    assert [row["url"] for row in rows] == [doc["url"] for doc in DOCS]
    assert [json.loads(row["meta"]) for row in rows] == [{"n": k} for k in range(50)]
    assert bad == []


def test_one_object_and_objects_one_after_another_are_json_too(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text(json.dumps(DOCS[0], indent=2))
    (tmp_path / "many.json").write_bytes(jsonl(DOCS[:3]))
    (tmp_path / "empty.json").write_text("[ ]")
    rows, bad = read(ingest("one.json", {"path": "*y.json", "name": "b"}, "empty.json"), tmp_path)
    assert [row["text"] for row in rows] == [DOCS[k]["text"] for k in (0, 0, 1, 2)]
    assert bad == []


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_csv_and_tsv_with_quoted_newlines(tmp_path: Path, delimiter: str) -> None:
    out = io.StringIO()
    writer = csv.DictWriter(out, ["text", "n", "url"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(DOCS)
    name = "a.csv" if delimiter == "," else "a.tsv"
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + out.getvalue().encode())
    rows, bad = read(ingest(name, quote="double"), tmp_path)
    assert [row["text"] for row in rows] == [doc["text"] for doc in DOCS]
    assert json.loads(rows[7]["meta"]) == {"n": "7"}
    assert bad == []


def test_csv_faults_cost_their_own_record(tmp_path: Path) -> None:
    data = b'text,n\ngood,1\n"bad"x,2\ngood,3\nlone\n\xff\xfe,4\nlast,5\n"open,6\n'
    (tmp_path / "a.csv").write_bytes(data)
    rows, bad = read(ingest("a.csv"), tmp_path)
    assert [row["text"] for row in rows] == ["good", "good", "last"]
    assert [b["reason"] for b in bad] == ["csv_error", "csv_error", "invalid_utf8", "csv_error"]
    assert [data[int(b["source"].split(":")[1]) :][:4] for b in bad] == [b'"bad', b"lone", b"\xff\xfe,4", b'"ope']
    (tmp_path / "b.csv").write_text("body,n\nx,1\n")
    assert [b["reason"] for b in read(ingest("b.csv"), tmp_path)[1]] == ["missing_field"]


@pytest.mark.parametrize(
    ("documents", "expected"),
    [("file", ["one\r\ntwo\n \n\nthree\n"]), ("line", ["one", "two", "three"]), ("block", ["one\r\ntwo", "three"])],
)
def test_text(tmp_path: Path, documents: str, expected: list[str]) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\n \n\nthree\n")
    rows, bad = read(ingest({"path": "a.txt", "documents": documents}), tmp_path)
    assert [row["text"] for row in rows] == expected
    assert bad == []


def table() -> pa.Table:
    return pa.table(
        {
            "text": ["plain", None, 'quo"te', "", "x" * 3000],
            "n": [1, 2, None, 4, 5],
            "when": pa.array([0, 1, 2, 3, None], pa.timestamp("s")),
            "tag": ["a", 'b"\n', None, "d", "中"],
            "ok": [True, False, None, True, True],
        }
    )


def test_parquet_is_what_json_lines_of_the_same_rows_are(tmp_path: Path) -> None:
    pq.write_table(table(), tmp_path / "a.parquet", row_group_size=2)
    lines = [
        {k: str(v).replace(" ", "T") if k == "when" and v else v for k, v in row.items()} for row in table().to_pylist()
    ]
    (tmp_path / "a.jsonl").write_bytes(jsonl(lines))
    options = {"max_record_bytes": 2000, "id_field": "n"}
    ours = read(ingest({"path": "a.parquet", "licence": "CC0"}, **options), tmp_path)
    theirs = read(ingest({"path": "a.jsonl", "licence": "CC0"}, **options), tmp_path)
    assert [(r["text"], json.loads(r["meta"])) for r in ours[0]] == [
        (r["text"], json.loads(r["meta"])) for r in theirs[0]
    ]
    assert [r["id"] for r in ours[0] if r["id"] in "14"] == ["1", "4"]
    assert [b["reason"] for b in ours[1]] == [b["reason"] for b in theirs[1]] == ["missing_text", "record_too_large"]
    assert json.loads(ours[0][0]["meta"])["licence"] == "CC0"


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), pa.large_binary(), "dictionary"])
def test_parquet_text_of_any_string_type(tmp_path: Path, kind: Any) -> None:
    texts = pa.array(["a", "中", None])
    texts = texts.dictionary_encode() if kind == "dictionary" else texts.cast(kind)
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    rows, bad = read(ingest("a.parquet"), tmp_path)
    assert [row["text"] for row in rows] == ["a", "中"]
    assert [b["source"] for b in bad] == ["a.parquet:2"]


def test_parquet_faults(tmp_path: Path) -> None:
    texts = pa.array([b"good", b"\xff\xfe bad", b"fine"], pa.binary())
    pq.write_table(pa.table({"text": texts}), tmp_path / "utf8.parquet")
    rows, bad = read(ingest("utf8.parquet"), tmp_path)
    assert ([r["text"] for r in rows], [b["reason"] for b in bad]) == (["good", "fine"], ["invalid_utf8"])
    rows, bad = read(ingest("utf8.parquet", invalid_utf8="replace"), tmp_path)
    assert ([r["text"] for r in rows][1], bad) == ("\ufffd\ufffd bad", [])
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "ints.parquet")
    assert [b["reason"] for b in read(ingest("ints.parquet"), tmp_path)[1]] == ["text_not_string"] * 2


def test_a_corrupt_row_group_costs_its_own_rows_and_the_next_is_read(tmp_path: Path) -> None:
    words = [f"row {k} of the table" for k in range(300)]
    pq.write_table(pa.table({"text": words}), tmp_path / "a.parquet", row_group_size=100, compression="zstd")
    where = pq.read_metadata(tmp_path / "a.parquet").row_group(1).column(0)
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    start = where.dictionary_page_offset
    data[start : start + where.total_compressed_size] = bytes(where.total_compressed_size)
    (tmp_path / "a.parquet").write_bytes(data)
    rows, bad = read(ingest("a.parquet"), tmp_path)
    assert [row["text"] for row in rows] == words[:100] + words[200:]
    assert [b["source"] for b in bad] == [f"a.parquet:{k}" for k in range(100, 200)]
    assert {b["reason"] for b in bad} == {"unreadable_row_group"}
    assert "rows 100 to 199 are lost" in bad[0]["detail"]
    (tmp_path / "b.parquet").write_bytes(data[:-50])
    assert [b["reason"] for b in read(ingest("b.parquet"), tmp_path)[1]] == ["unreadable_parquet"]


def test_a_dataset_saved_to_disk_and_a_folder_of_files(tmp_path: Path) -> None:
    import datasets

    data = datasets.Dataset.from_list(DOCS)
    data.save_to_disk(str(tmp_path / "saved"), num_shards=2)
    datasets.DatasetDict({"train": data}).save_to_disk(str(tmp_path / "dict"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.jsonl").write_bytes(jsonl(DOCS))
    for name in ("saved", "dict", "folder"):
        rows, bad = read(ingest({"path": name, "format": "datasets"}), tmp_path)
        assert [(row["text"], row["url"]) for row in rows] == [(doc["text"], doc["url"]) for doc in DOCS]
        assert bad == []


def test_json_faults_cost_their_own_record(tmp_path: Path) -> None:
    lines = [
        b'{"text": "good"}',
        b'{"text": "bro',
        b'{"text": "bad \xff"}',
        b'{"text": 5}',
        b"{}",
        b'{"text": null}',
        b"[1]",
        rb'{"text": "half \ud800 pair"}',
        b'{"text": NaN}',
        rb'{"text": "pair \ud83d\ude00 nul \u0000"}',
        b"[" * 5000,
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    rows, bad = read(ingest("a.jsonl"), tmp_path)
    assert [row["text"] for row in rows] == ["good", "pair \U0001f600 nul \0"]
    assert [b["reason"] for b in bad] == [
        "invalid_json",
        "invalid_utf8",
        "text_not_string",
        "missing_text",
        "missing_text",
        "not_an_object",
        "lone_surrogate",
        "invalid_json",
        "invalid_json",
    ]
    assert bad[1]["head"] == lines[2]
    rows, _ = read(ingest("a.jsonl", invalid_utf8="replace"), tmp_path)
    assert [row["text"] for row in rows][1:3] == ["bad \ufffd", "half \ufffd pair"]


@pytest.mark.parametrize("size", [1, 7, 100, 997, 10**6])
def test_pieces_give_the_same_documents(tmp_path: Path, size: int) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl(DOCS) + b'{"text": "no newline at the end"}')
    pq.write_table(pa.Table.from_pylist(DOCS), tmp_path / "a.parquet", row_group_size=8)
    (tmp_path / "a.txt").write_text("\n".join(f"line {k}" for k in range(99)))
    inputs = ["a.jsonl", "a.parquet", {"path": "a.txt", "documents": "line"}]
    whole = ingest(*inputs)
    cut = ingest(*inputs, piece_bytes=size)
    assert read(cut, tmp_path) == read(whole, tmp_path)
    assert len(cut.sources([tmp_path])) > 3 or size == 10**6
    assert len(whole.sources([tmp_path])) == 3


def test_ids_do_not_depend_on_where_things_are(tmp_path: Path) -> None:
    for home in ("here", "there/deep"):
        (tmp_path / home / "data").mkdir(parents=True)
        (tmp_path / home / "data" / "a.jsonl").write_bytes(jsonl(DOCS))
    first, _ = read(ingest("data/*.jsonl"), tmp_path / "here")
    second, _ = read(ingest("./data"), tmp_path / "there/deep")
    assert [(r["id"], r["source"], r["text"]) for r in first] == [(r["id"], r["source"], r["text"]) for r in second]
    assert first[1]["source"] == f"data/a.jsonl:{len(jsonl(DOCS[:1]))}"
    absolute, _ = read(ingest(str(tmp_path / "here" / "data" / "**")), tmp_path)
    assert [row["id"] for row in absolute] == [row["id"] for row in first]


def test_own_ids(tmp_path: Path) -> None:
    values = ["own", 7, "", None, True, 1.5, ["x"]]
    (tmp_path / "a.jsonl").write_bytes(jsonl([{"text": "t", "key": value} for value in values] + [{"text": "t"}]))
    rows, _ = read(ingest("a.jsonl", id_field="key"), tmp_path)
    derived, _ = read(ingest("a.jsonl"), tmp_path)
    assert [row["id"] for row in rows] == ["own", "7", *(row["id"] for row in derived[2:])]


def test_fields_by_stage_and_by_input(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl([{"body": "a", "link": "u", "k": 1, "z": 2}]))
    (tmp_path / "b.jsonl").write_bytes(jsonl([{"text": "b", "link": "v", "k": 3, "licence": "own"}]))
    stage = ingest(
        {"path": "a.jsonl", "text_field": "body", "meta_fields": ["k"]},
        {"path": "b.jsonl", "licence": "MIT"},
        url_field="link",
    )
    rows, _ = read(stage, tmp_path)
    assert [(row["text"], row["url"], json.loads(row["meta"])) for row in rows] == [
        ("a", "u", {"k": 1}),
        ("b", "v", {"k": 3, "licence": "own"}),
    ]


def test_html_field_goes_to_payload(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl([{"html": "<p>é"}, {"html": None, "text": "has it"}, {"html": 5}]))
    pq.write_table(pa.table({"html": ["<p>é", None], "text": ["kept out", "has it"]}), tmp_path / "a.parquet")
    for name, faults in (("a.jsonl", 1), ("a.parquet", 0)):
        stage = ingest(name, html_field="html")
        assert reading(stage).schema == with_field(DOCUMENT, PAYLOAD)
        rows, bad = read(stage, tmp_path)
        assert [(row["text"], row["payload"]) for row in rows] == [("", "<p>é".encode()), ("has it", None)]
        assert len(bad) == faults
    assert reading(ingest("a.jsonl")).schema == DOCUMENT


def test_limit_counts_kept_and_bad_records(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"oops\n" + jsonl(DOCS))
    pq.write_table(pa.table({"text": ["a", None, "b", "c"]}), tmp_path / "a.parquet", row_group_size=1)
    for name in ("a.jsonl", "a.parquet"):
        rows, bad = read(ingest(name), tmp_path, limit=3)
        assert (len(rows), len(bad)) == (2, 1)


def test_batches_are_bounded(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl([{"text": "x" * (1 << 20)}] * 20))
    stage = ingest("a.jsonl")
    (source,) = stage.sources([tmp_path])
    sizes = [count(emit.rows) for emit in reading(stage).run(iter(()), task(tmp_path, source))]
    assert sizes == [8, 8, 4, 0]


def test_folders_take_known_formats_and_leave_hidden_files(tmp_path: Path) -> None:
    for name in ("d/b.jsonl", "d/a/c.jsonl.gz", "d/_SUCCESS", "d/.x.jsonl", "d/note.pdf"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(gzip.compress(b"") if name.endswith("gz") else b"{}\n")
    assert [s.name for s in ingest("d").sources([tmp_path])] == ["d/a/c.jsonl.gz", "d/b.jsonl"]
    assert [s.name for s in ingest({"path": "d", "name": "web"}).sources([tmp_path])][1] == "web/b.jsonl"


def test_check_names_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "what.dat").write_text("x")
    (tmp_path / "a.csv").write_text("body,n\nx,1\n")
    (tmp_path / "hollow").mkdir()
    wrong = {
        "gone.jsonl": "no such file",
        "*.parquet": "nothing matches",
        "hollow": "no file of a known format",
        "empty.jsonl": "only empty files",
        "what.dat": "no known format",
    }
    for path, message in wrong.items():
        (problem,) = ingest("a.csv", path, text_field="body").check([tmp_path])
        assert problem.loc == ("inputs", 1, "path")
        assert message in problem.message
    (problem,) = ingest("a.csv").check([tmp_path])
    assert (problem.loc, "body, n" in problem.message) == (("text_field",), True)
    assert ingest("a.csv", text_field="body").check([tmp_path]) == []
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.csv").write_text("text\ny\n")
    (problem,) = ingest({"path": "x/a.csv", "name": "n"}, {"path": "x/*.csv", "name": "n"}).check([tmp_path])
    assert problem.loc == ("inputs", 1, "name")
