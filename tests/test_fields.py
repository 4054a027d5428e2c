"""Fields that a recipe names: nested ones by dotted names, and those that are not there are errors of `check`."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.ingest import Ingest
from tests.conftest import Cli
from tests.test_ingest import ingest, jsonl, read

RECORDS = [
    {"key": f"k{k}", "body": {"text": f"text {k}", "n": k}, "about": {"link": f"http://x.example/{k}", "tag": "t"}}
    for k in range(3)
]


def problems(stage: Ingest, folder: Path) -> list[tuple[tuple[str | int, ...], str]]:
    return [(problem.loc, problem.message) for problem in stage.check([folder])]


def write(folder: Path, form: str, records: list[dict[str, Any]]) -> str:
    path = folder / f"a.{form}"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        path.write_bytes(jsonl(records) if form == "jsonl" else json.dumps(records).encode())
    return path.name


@pytest.mark.parametrize("form", ["jsonl", "json", "parquet"])
def test_nested_fields_have_dotted_names(tmp_path: Path, form: str) -> None:
    name = write(tmp_path, form, RECORDS)
    stage = ingest(name, text_field="body.text", url_field="about.link", id_field="key")
    assert problems(stage, tmp_path) == []
    rows, bad = read(stage, tmp_path)
    assert [(row["id"], row["text"], row["url"]) for row in rows] == [
        (f"k{k}", f"text {k}", f"http://x.example/{k}") for k in range(3)
    ]
    assert [json.loads(row["meta"]) for row in rows] == [{"body": {"n": k}, "about": {"tag": "t"}} for k in range(3)]
    assert bad == []
    rows, _ = read(ingest(name, text_field="body.text", meta_fields=["about.tag", "key"]), tmp_path)
    assert json.loads(rows[1]["meta"]) == {"about.tag": "t", "key": "k1"}


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_field_with_a_dot_in_its_own_name_wins(tmp_path: Path, form: str) -> None:
    name = write(tmp_path, form, [{"a.b": "own", "a": {"b": "nested"}}])
    rows, _ = read(ingest(name, text_field="a.b"), tmp_path)
    assert [(row["text"], json.loads(row["meta"])) for row in rows] == [("own", {"a": {"b": "nested"}})]


def test_nested_fields_may_be_missing_from_a_record(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl([{"a": {"b": "x"}}, {"a": 5}, {"a": None}, {"a": {"b": {"c": 1}}}, {}]))
    rows, bad = read(ingest("a.jsonl", text_field="a.b"), tmp_path)
    assert [row["text"] for row in rows] == ["x"]
    assert [one["reason"] for one in bad] == ["missing_text", "missing_text", "text_not_string", "missing_text"]
    pq.write_table(pa.table({"a": pa.array([{"b": "x"}, None, {"b": None}])}), tmp_path / "a.parquet")
    rows, bad = read(ingest("a.parquet", text_field="a.b"), tmp_path)
    assert ([row["text"] for row in rows], [one["reason"] for one in bad]) == (["x"], ["missing_text"] * 2)


@pytest.mark.parametrize("form", ["jsonl", "json", "parquet"])
def test_named_fields_that_are_not_there_are_errors(tmp_path: Path, form: str) -> None:
    write(tmp_path, form, RECORDS)
    own = {"path": f"a.{form}", "text_field": "body.text", "id_field": "kee", "meta_fields": ["about", "tagg"]}
    found = problems(ingest({**own, "url_field": "about.lnk", "html_field": "page"}), tmp_path)
    assert [loc for loc, _ in found] == [
        ("inputs", 0, name) for name in ("id_field", "url_field", "html_field", "meta_fields")
    ]
    assert "'kee', did you mean `key`?" in found[0][1]
    assert "'about.lnk', did you mean `about.link`?" in found[1][1]
    assert all("key, body, body.text, body.n, about, about.link, about.tag" in message for _, message in found)
    ((loc, message),) = problems(ingest(f"a.{form}"), tmp_path)
    assert (loc, "'text'" in message) == (("text_field",), True)


def test_a_field_named_for_all_inputs_may_be_in_one_of_them(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl([{"text": "a", "link": "u"}]))
    (tmp_path / "b.csv").write_text("text,n\nb,1\n")
    (tmp_path / "c.txt").write_text("c")
    assert problems(ingest("a.jsonl", "b.csv", "c.txt", url_field="link", meta_fields=["n"]), tmp_path) == []
    found = problems(ingest("a.jsonl", "b.csv", "c.txt", url_field="lnk"), tmp_path)
    assert [loc for loc, _ in found] == [("url_field",)]
    found = problems(ingest("a.jsonl", {"path": "b.csv", "url_field": "url_"}), tmp_path)
    assert [loc for loc, _ in found] == [("inputs", 1, "url_field")]


def test_only_the_first_thousand_records_are_asked(tmp_path: Path) -> None:
    records = [{"text": "x"}] * 1000 + [{"text": "x", "late": 1}]
    (tmp_path / "a.jsonl").write_bytes(b"no record\n" + jsonl(records))
    assert len(problems(ingest({"path": "a.jsonl", "id_field": "late"}), tmp_path)) == 1
    (tmp_path / "a.jsonl").write_bytes(jsonl(records[1:]))
    assert problems(ingest({"path": "a.jsonl", "id_field": "late"}), tmp_path) == []
    (tmp_path / "a.jsonl").write_bytes(b"no record at all\n")
    assert problems(ingest({"path": "a.jsonl", "id_field": "late"}), tmp_path) == []


def test_an_unknown_key_of_an_input_is_one_message(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl([{"text": "a"}]))
    (tmp_path / "r.yaml").write_text("stages:\n  - use: ingest\n    inputs: [{path: a.jsonl, nme: x, text_feild: y}]\n")
    done = cli("check", "r.yaml", "--json")
    errors = json.loads(done.stdout)["errors"]
    assert [error.partition(": ")[2].partition(" (")[0] for error in errors] == [
        "unknown key `nme`, did you mean `name`?",
        "unknown key `text_feild`, did you mean `text_field`?",
    ]


def test_unknown_keys_missing_inputs_and_the_order_of_stages_are_told_together(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        "seeed: 1\nstages:\n  - use: pack\n  - use: ingest\n    inputs: [{path: not/here.csv, licens: x}, gone.jsonl]\n"
        "  - use: clean\n    normalise: 7\n  - use: train\n"
    )
    errors = json.loads(cli("check", "r.yaml", "--json").stdout)["errors"]
    told = [error.partition("\n")[0].partition(": ")[2] for error in errors]
    for words in (
        "unknown key `seeed`",
        "unknown key `licens`, did you mean `licence`?",
        "not/here.csv: no such file or folder",
        "gone.jsonl: no such file or folder",
        "`pack` reads documents: put an `ingest` before it",
        "`pack` needs a `tokenizer` stage before it",
        "`train` needs a `tokenizer` stage before it",
    ):
        assert sum(words in message for message in told) == 1, words
