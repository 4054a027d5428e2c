"""Inputs as they lie on disk: each file is read, or counted and named as passed over, or an error of `check`."""

import json
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.names import shown_name, utf8_name
from pipeline.terminal import printable
from stages.ingest import Ingest
from tests.conftest import Cli
from tests.test_ingest import ingest, read

RECIPE = "name: r\nmax_bad: 0.9\nstages:\n  - use: ingest\n    inputs: [in]\n"


def put(path: Path, *texts: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def names(stage: Ingest, folder: Path) -> list[str]:
    return [source.name for source in stage.sources([folder])]


def messages(stage: Ingest, folder: Path) -> list[str]:
    return [problem.message for problem in stage.check([folder])]


def test_a_name_never_stands_for_two() -> None:
    given = [b"caf\xe9", b"caf\\xe9", b"caf\\\\xe9", "café".encode(), b"a\\b", b"\xff\xfe", b"new\nline"]
    written = [utf8_name(os.fsdecode(name)) for name in given]
    assert len({*written}) == len(given)
    assert all(name.encode().decode() == name for name in written)
    assert written[3] == "café"
    assert shown_name(os.fsdecode(b"a\xe9\n\x1b[31m")) == r"a\xe9\n\x1b[31m"
    assert len(shown_name("x" * 5000)) < 250
    assert printable("a\tb\n\x07") == "a\tb\n\\x07"


def test_names_that_are_not_utf8_are_read_and_written_down(cli: Cli, tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path / "in")
    os.mkdir(folder)
    os.mkdir(folder + b"/\xfe")
    for name, text in ((b"\xe9", "byte"), (b"\\xe9", "escape"), (b"\xfe/x", "below")):
        put(Path(os.fsdecode(folder + b"/" + name + b".jsonl")), text)
    with open(folder + b"/t\xe9.parquet", "wb") as file:
        pq.write_table(pa.table({"text": ["table"]}), file)
    (tmp_path / "r.yaml").write_text(RECIPE)
    done = cli("run", "r.yaml")
    assert done.returncode == 0, done.stderr
    rows = pq.read_table(tmp_path / "runs/r/01-ingest").to_pylist()
    assert {row["text"]: row["source"] for row in rows} == {
        "byte": r"in/\xe9.jsonl:0",
        "escape": r"in/\\xe9.jsonl:0",
        "below": r"in/\xfe/x.jsonl:0",
        "table": r"in/t\xe9.parquet:0",
    }
    assert len({row["id"] for row in rows}) == 4
    assert "done already" in cli("run", "r.yaml").stderr
    raw = cli("explain", "runs/r", os.fsdecode(b"in/\xe9.jsonl:0"))
    assert (raw.returncode, "kept" in raw.stdout) == (0, True)


def test_folders_behind_links_are_read_once(tmp_path: Path) -> None:
    put(tmp_path / "in/a.jsonl", "a")
    put(tmp_path / "elsewhere/deep/b.jsonl", "b")
    (tmp_path / "in/link").symlink_to("../elsewhere")
    (tmp_path / "elsewhere/deep/up").symlink_to("..")
    for k in range(40):
        (tmp_path / f"in/loop{k}").symlink_to(".")
    (tmp_path / "in/z").symlink_to("../elsewhere/deep")
    assert names(ingest("in"), tmp_path) == ["in/a.jsonl", "in/link/deep/b.jsonl"]
    assert names(ingest("in/**"), tmp_path) == names(ingest("in"), tmp_path)
    assert names(ingest("in/**/*.jsonl"), tmp_path) == names(ingest("in"), tmp_path)
    assert names(ingest("in/z/*.jsonl"), tmp_path) == ["in/z/b.jsonl"]
    (remark,) = ingest("in").remarks([tmp_path])
    assert remark.startswith("in: 42 files passed over: 42 second links to a folder; e.g. in/link/deep/up")


def test_what_cannot_be_read_is_an_error_that_names_it(tmp_path: Path) -> None:
    put(tmp_path / "in/a.jsonl", "a")
    (tmp_path / "in/b.jsonl").symlink_to("gone\x1b[1m.jsonl")
    os.mkfifo(tmp_path / "in/c.jsonl")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(os.path.relpath(tmp_path / "in/d.sock"))
        for path in ("in", "in/**", "in/*"):
            found = messages(ingest(path), tmp_path)
            assert [message.rpartition("/")[2].partition(" ")[0] for message in found] == [
                "b.jsonl",
                "c.jsonl",
                "d.sock",
            ]
    assert "is a link to nothing" in found[0]
    assert "never opened" in found[1]
    assert "never opened" in messages(ingest("in/c.jsonl"), tmp_path)[0]
    assert "link to nothing" in messages(ingest("in/b.jsonl"), tmp_path)[0]
    (tmp_path / "in/c.jsonl").unlink()
    (tmp_path / "loop").symlink_to("loop")
    assert "Too many levels" in messages(ingest("loop"), tmp_path)[0]


@pytest.fixture
def humble() -> Iterator[None]:
    """A user who is not root, whom modes do not bind."""
    before = os.geteuid()
    os.seteuid(65534) if before == 0 else None
    yield
    os.seteuid(before)


def test_a_folder_or_file_that_may_not_be_read_is_an_error(tmp_path: Path, request: Any) -> None:
    put(tmp_path / "in/a.jsonl", "a")
    put(tmp_path / "in/locked/b.jsonl", "b")
    put(tmp_path / "in/mine.jsonl", "c")
    for folder in (tmp_path, *tmp_path.parents[:3]):  # one more where tests run in parallel
        folder.chmod(0o755)
    (tmp_path / "in/locked").chmod(0)
    (tmp_path / "in/mine.jsonl").chmod(0)
    request.getfixturevalue("humble")
    found = messages(ingest("in"), tmp_path)
    assert len(found) == 2
    assert "in/locked is a folder that cannot be read (Permission denied)" in found[0]
    assert "in/mine.jsonl may not be read" in found[1]
    assert "cannot be" in messages(ingest("in/locked/b.jsonl"), tmp_path)[0]
    assert "cannot be read" in messages(ingest("in/locked/*.jsonl"), tmp_path)[0]
    assert len(messages(ingest("in/**/*.jsonl"), tmp_path)) == 2


def test_what_a_folder_has_besides_documents_is_counted_and_named(cli: Cli, tmp_path: Path) -> None:
    put(tmp_path / "in/a.jsonl", "a")
    for name in ("b.lz4", "c.lz4", "d", "\x1b]0;e\x07.pdf", "_tmp/x.jsonl", "_tmp/y/z", ".git", "README.md", "i.HTML"):
        put(tmp_path / "in" / name, "no")
    (tmp_path / "r.yaml").write_text(RECIPE)
    told = "in: 9 files passed over: 3 hidden, 2 .lz4, 2 describing others, 1 .pdf, 1 no suffix; e.g. in/.git, in/b.lz4"
    checked, planned, done, status = (
        cli(*words)
        for words in (["check", "r.yaml"], ["plan", "r.yaml"], ["run", "r.yaml", "--quiet"], ["status", "runs/r"])
    )
    for one in (checked, planned, done, status):
        assert (told in one.stdout, one.stdout.count("passed over"), "\x1b" in one.stdout) == (True, 1, False)
    manifest = json.loads((tmp_path / "runs/r/01-ingest/_manifest.json").read_text())
    assert manifest["remarks"] == [
        line.removeprefix("01-ingest: ") for line in status.stdout.splitlines() if told in line
    ]
    assert manifest["rows"]["read"] == 1
    assert json.loads(cli("check", "r.yaml", "--json").stdout)["remarks"] == manifest["remarks"]


def test_text_that_describes_records_is_no_document_unless_it_is_named(tmp_path: Path) -> None:
    for name in (
        "data/x.jsonl",
        "data/notes.txt",
        "data/LICENSE.txt",
        "README.md",
        "index.html",
        "docs/guide.md",
        "docs/README.txt",
        "dataset_info.json",
        "state.json",
    ):
        put(tmp_path / "in" / name, name)
    read_ = ["in/data/notes.txt", "in/data/x.jsonl", "in/docs/README.txt", "in/docs/guide.md"]
    assert names(ingest("in"), tmp_path) == read_
    assert names(ingest("in/docs"), tmp_path) == read_[2:]
    assert names(ingest("in/*.md"), tmp_path) == ["in/README.md"]
    assert names(ingest("in/README.md"), tmp_path) == ["in/README.md"]
    put(tmp_path / "own/state.json", "mine")
    assert names(ingest("own"), tmp_path) == ["own/state.json"]


def test_pages_are_read_for_extract(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, page in (
        ("a.htm", "<title>t</title><p>One ÿ page.</p>"),
        ("b.xhtml", "<p>Another.</p>"),
        ("c.html", " "),
    ):
        (tmp_path / "in" / name).write_text(page, encoding="utf-8")
    (tmp_path / "r.yaml").write_text(RECIPE + "  - use: extract\n    main_content: false\n")
    assert cli("run", "r.yaml").returncode == 0
    rows = pq.read_table(tmp_path / "runs/r/02-extract").to_pylist()
    assert [(row["text"].strip(), row["source"]) for row in rows] == [
        ("One ÿ page.", "in/a.htm:0"),
        ("Another.", "in/b.xhtml:0"),
    ]


def test_brackets_of_a_name_that_exists_are_taken_as_written(tmp_path: Path) -> None:
    put(tmp_path / "data[v1]/x[0].jsonl", "x")
    put(tmp_path / "datav/no.jsonl", "no")
    for path in ("data[v1]", "data[v1]/*.jsonl", "data[v1]/x[0].jsonl", "data[[]*/x[[]0].jsonl", "data[v1]/**"):
        assert [row["text"] for row in read(ingest(path), tmp_path)[0]] == ["x"], path
    (message,) = messages(ingest("data[w2]/*.jsonl"), tmp_path)
    assert message.startswith("nothing matches data[w2]/*.jsonl; [ ] stand for one of the characters between them")
    assert [row["text"] for row in read(ingest("data[uv]/*.jsonl"), tmp_path)[0]] == ["no"]


def test_a_folder_that_a_glob_matches_is_told(tmp_path: Path) -> None:
    put(tmp_path / "in/a.jsonl", "a")
    put(tmp_path / "in/sub/b.jsonl", "b")
    assert names(ingest("in/*"), tmp_path) == ["in/a.jsonl"]
    assert ingest("in/*").remarks([tmp_path]) == [
        "in/*: 1 file passed over: 1 folders, not entered without `**`; e.g. in/sub"
    ]
    assert ingest("in/**").remarks([tmp_path]) == []


def test_a_dataset_saved_to_disk_is_known_as_one(tmp_path: Path) -> None:
    import datasets

    data = datasets.Dataset.from_list([{"text": f"document {k}"} for k in range(5)])
    data.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": data, "test": data, "dev": data}).save_to_disk(str(tmp_path / "three"))
    for path in ("one", "three"):
        assert messages(ingest(path), tmp_path) == []
        assert [row["text"] for row in read(ingest(path), tmp_path)[0]] == [f"document {k}" for k in range(5)]
    assert ingest("one").remarks([tmp_path]) == []
    assert ingest("three").remarks([tmp_path]) == ["three: 2 splits passed over: dev, test"]
    (message,) = messages(ingest({"path": "three", "split": "valid"}), tmp_path)
    assert "no split 'valid'; say with `split` which one is meant of: dev, test, train" in message
    (message,) = messages(ingest({"path": "one", "id_field": "key"}), tmp_path)
    assert "no column 'key'" in message
    for state in ("{", "[]", '{"_data_files": [{"filename": "../three/dataset_dict.json"}]}', "[" * 100_000):
        (tmp_path / "one/state.json").write_text(state)
        (message,) = messages(ingest("one"), tmp_path)
        assert "state.json lists" in message


def test_footers_that_end_their_reader_cost_one_quarantined_row(cli: Cli, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["whole"]}), tmp_path / "whole.parquet")
    data = (tmp_path / "whole.parquet").read_bytes()
    (tmp_path / "in").mkdir()
    damaged(tmp_path / "in/a.parquet")
    (tmp_path / "in/b.parquet").write_bytes(data)
    (tmp_path / "in/c.parquet").write_bytes(data[:-20])
    (tmp_path / "r.yaml").write_text(RECIPE)
    for command in ("check", "plan"):
        done = cli(command, "r.yaml")
        assert done.returncode == 0, done.stderr
        assert "in/a.parquet cannot be read: its footer ends the process that reads it (SIGABRT)" in done.stdout
        assert "in/c.parquet cannot be read: " in done.stdout
    runs = {workers: cli("run", "r.yaml", "--out", f"out{workers}", "--workers", workers) for workers in (1, 2)}
    for workers, done in runs.items():
        assert (done.returncode, "trying again" in done.stderr) == (0, False), done.stderr
        bad = pq.read_table(tmp_path / f"out{workers}/01-ingest/quarantine").to_pylist()
        assert [(b["reason"], b["source"]) for b in bad] == [
            ("unreadable_parquet", "in/a.parquet:0"),
            ("unreadable_parquet", "in/c.parquet:0"),
        ]
        assert "SIGABRT" in bad[0]["detail"]


def damaged(path: Path) -> None:
    """Writes a table whose footer counts more levels of repetition than its schema has: pyarrow 26 aborts at it."""
    pq.write_table(pa.table({"text": ["whole"], "tags": [["a", "b"]]}), path)
    data = path.read_bytes()
    counts = b"\x26\x02\x02\x19\x46"  # a list of two 64-bit integers, 1 and 1, and the head of the next one
    assert data.count(counts) == 1
    size = struct.unpack("<I", data[-8:-4])[0] + 2
    body = data[:-8].replace(counts, b"\x46\x02\x02\x00\x00\x19\x46")
    path.write_bytes(body + struct.pack("<I", size) + data[-4:])
