"""What could not be read: weighed in bytes, told with the file's name, and no more than it is."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from pipeline.stage import Each, Task
from stages.ingest import Ingest
from stages.readers.beginning import SIZE, foreign_encoding, taken_off
from stages.readers.records import Bad, Record
from stages.readers.rows import Fields
from stages.readers.streams import Broken, Limits, Stream
from stages.readers.text import read_json_values
from tests.conftest import Cli


def taken(folder: Path, *inputs: Any, **settings: Any) -> tuple[list[str], list[tuple[str, str]], dict[str, int]]:
    """Texts, (reason, detail) of bad records, and counters of an ingest."""
    stage = Ingest.model_validate({"inputs": inputs, **settings})
    (step,) = stage.steps()
    assert isinstance(step, Each)
    texts: list[str] = []
    bad: list[tuple[str, str]] = []
    counters: dict[str, int] = {}
    for source in stage.sources([folder]):
        task = Task(stage="01-ingest", seed=0, index=0, count=1, folder=folder, scratch=folder, source=source)
        for emit in step.run(iter(()), task):
            texts += emit.rows["text"].to_pylist() if emit.rows is not None else []
            bad += [(r["reason"], r["detail"]) for r in emit.quarantine.to_pylist()] if emit.quarantine else []
            for name, n in emit.counters.items():
                counters[name] = counters.get(name, 0) + n
    return texts, bad, counters


DOCS = b"".join(json.dumps({"text": f"document {k} {k * k} {k**9 % 9973}"}).encode() + b"\n" for k in range(4000))
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def damaged(suffix: str) -> bytes:
    """`DOCS` in twelve members, one after another, of which the sixth does not begin as one should."""
    size = len(DOCS) // 12 + 1
    members = [COMPRESS[suffix](DOCS[k : k + size]) for k in range(0, len(DOCS), size)]
    members[5] = b"no such thing" + members[5]
    return b"".join(members)


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_broken_file_weighs_by_its_stored_bytes_that_were_not_read(tmp_path: Path, suffix: str) -> None:
    packed = damaged(suffix)
    (tmp_path / f"a.jsonl{suffix}").write_bytes(packed)
    texts, bad, counters = taken(tmp_path, f"a.jsonl{suffix}")
    assert [reason for reason, _ in bad] == ["corrupt_stream"]
    assert 0.5 * len(packed) < counters["bytes_lost"] < 0.7 * len(packed)
    assert 1500 < len(texts) < 1800


def test_a_sound_or_cut_file_loses_no_more_than_its_end(tmp_path: Path) -> None:
    packed = gzip.compress(DOCS)
    (tmp_path / "whole.jsonl.gz").write_bytes(packed)
    (tmp_path / "cut.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    assert taken(tmp_path, "whole.jsonl.gz")[1:] == (
        [],
        {"records": 4000, "bytes_read": len(packed), "bytes_lost": 0},
    )
    _, bad, counters = taken(tmp_path, "cut.jsonl.gz")
    assert [reason for reason, _ in bad] == ["truncated_stream"]
    assert counters["bytes_lost"] <= 1 << 10


def test_templated_pages_are_no_bomb_and_a_bomb_weighs_all_that_is_left(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(b'{"text": "the same page"}\n' * 1_000_000))
    size = (tmp_path / "a.jsonl.zst").stat().st_size
    assert Limits(1000, 1 << 40).ratio_from >= 1 << 29
    stream = Stream(str(tmp_path / "a.jsonl.zst"), Limits(1000, 1 << 40))
    assert sum(map(len, stream)) == 26_000_000
    stream = Stream(str(tmp_path / "a.jsonl.zst"), Limits(1000, 1 << 40, 1 << 20))
    with pytest.raises(Broken, match="decompression_bomb"):
        list(stream)
    assert stream.unread > size // 2


def test_an_oversized_line_weighs_by_its_bytes_as_stored(tmp_path: Path) -> None:
    data = b'{"text": "a"}\n{"text": "' + b"x" * 500_000 + b'"}\n' + b'{"text": "b"}\n'
    for name, packed in (("a.jsonl", data), ("a.jsonl.gz", gzip.compress(data))):
        (tmp_path / name).write_bytes(packed)
        texts, bad, counters = taken(tmp_path, name, max_record_bytes=1000)
        assert (texts, [reason for reason, _ in bad]) == (["a", "b"], ["record_too_large"])
        assert 0.95 * len(packed) < counters["bytes_lost"] <= len(packed)


ENCODINGS = ["utf-16", "utf-16-be", "utf-16-le", "utf-32"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.txt", "a.csv.gz"])
def test_a_file_that_is_not_utf8_is_one_fault_and_told_beforehand(tmp_path: Path, name: str, encoding: str) -> None:
    data = "id,text\r\n1,some words\r\n".encode(encoding) * 50
    data = gzip.compress(data) if name.endswith("gz") else data
    (tmp_path / name).write_bytes(data)
    told = f"{name} is {'UTF-32' if encoding == 'utf-32' else 'UTF-16'}, not UTF-8"
    (problem,) = Ingest.model_validate({"inputs": [name]}).check([tmp_path])
    assert problem.message.startswith(told)
    texts, bad, counters = taken(tmp_path, name, piece_bytes=100)
    assert (texts, bad, counters["records"]) == ([], [("not_utf8", told)], 1)
    assert abs(counters["bytes_lost"] - len(data)) <= 1


@pytest.mark.parametrize("text", ["", "a", "ab", "中文中文中文中文", "é" * 9, "\0" * 99, "a\0b", "plain words\n"])
def test_utf8_is_not_taken_for_anything_else(text: str) -> None:
    assert foreign_encoding(text.encode()) is None


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.csv", 'id,text\r1,first\r2,"second, and"\r', ["first", "second, and"]),
        ("a.tsv", 'text\tid\rfirst\t1\r"second\t2', ["first", '"second']),
        ("a.jsonl", '{"text": "first"}\r{"text": "second"}\r', ["first", "second"]),
        ("a.json", '{"text": "first"}\r{"text": "bro\r{"text": "second"}\r', ["first", "second"]),
        ("a.txt", "first\rsecond\r\rthird\r", ["first", "second", "third"]),
        ("b.txt", "first\r\r\rsecond\rpart", ["first", "second\rpart"]),
        ("mixed.jsonl", '{"text": "first"}\r{"text": "second"}\r' + " " * SIZE + '\r{"text": "third"}\n', None),
    ],
)
def test_carriage_returns_end_lines_where_there_are_no_line_feeds(
    tmp_path: Path, name: str, text: str, expected: list[str] | None
) -> None:
    (tmp_path / name).write_bytes(text.encode())
    documents = "block" if name == "b.txt" else "line"
    assert taken(tmp_path, name, documents=documents)[0] == (expected or ["first", "second", "third"])
    assert Ingest.model_validate({"inputs": [name]}).check([tmp_path]) == []


def test_a_carriage_return_in_a_file_of_line_feeds_is_no_line_end(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text":\r"one"}\r\n{"text": "two"}\n')
    (tmp_path / "a.txt").write_bytes(b"one\rstill one\ntwo\r\n")
    assert taken(tmp_path, "a.jsonl")[:2] == (["one", "two"], [])
    assert taken(tmp_path, {"path": "a.txt", "documents": "line"})[0] == ["one\rstill one", "two"]


def test_the_beginning_is_given_back_with_what_broke_it() -> None:
    def stream() -> Any:
        yield b"one"
        raise Broken("corrupt_stream", "here")

    head, chunks = taken_off(stream())
    assert head == b"one"
    assert next(chunks) == b"one"
    with pytest.raises(Broken):
        next(chunks)


@pytest.mark.parametrize(
    ("data", "texts", "reasons"),
    [
        (b'[{"text": "a"},\n{"text": "b"}', "ab", ["truncated_json"]),
        (b'[{"text": "a"},\n{"text": "b"},\n', "ab", ["truncated_json"]),
        (b'[{"text": "a"},\n{"text": "b', "a", ["truncated_json"]),
        (b"[", "", ["truncated_json"]),
        (b'[{"text": "a"}]\n[{"text": "b"}]', "ab", []),
        (b'[{"text": "a"}]{"text": "b"}', "ab", []),
        (b'{"text": "a"}\n{"text": "b"', "a", ["truncated_json"]),
        (b'{"text": "a"} {"text": "b"}', "ab", []),
        (b'{"text": "a"}, {"text": "b"}\n{"text": "c"}\n', "c", ["invalid_json"]),
        (b'xx\n{"text": "a"}\n5\n}\n{"text": "b"}', "ab", ["invalid_json", "not_an_object", "invalid_json"]),
        (b'[{"text": "a"}, [{"text": "x"}], {"text": "b"}]', "ab", ["invalid_json"]),
        (b'[\n  {\n    "text": "bro,\n    "n": 1\n  }\n]\n', "", ["invalid_json"]),
        (b'[{\n  "text": "a"\n}, {\n  "text": "bro\n}, {\n  "text": "b"\n}]', "ab", ["invalid_json"]),
        (b'[\n{"text": "a"}\n,{"text": "bro}\n,{"text": "b"}\n]', "ab", ["invalid_json"]),
    ],
)
def test_json_that_ends_early_or_does_not_follow_its_form(data: bytes, texts: str, reasons: list[str]) -> None:
    items = list(read_json_values(iter([data]), Fields()))
    assert "".join(item.values["text"] for item in items if isinstance(item, Record)) == texts
    assert [item.reason for item in items if isinstance(item, Bad)] == reasons


def test_objects_nested_in_a_broken_one_are_no_records() -> None:
    posts = [
        {"id": k, "text": f"post {k}", "replies": [{"id": n, "text": "reply"} for n in range(4)]} for k in range(9)
    ]
    for indent in (None, 1):
        data = json.dumps(posts, indent=indent).encode().replace(b'post 4"', b"post 4")
        items = list(read_json_values(iter([data]), Fields()))
        texts = [item.values["text"] for item in items if isinstance(item, Record)]
        assert "reply" not in texts
        assert texts[:4] == [f"post {k}" for k in range(4)]
        assert len(texts) == 8 or sum(item.lost for item in items if isinstance(item, Bad)) > len(data) // 3


def write(folder: Path, max_bad: float = 0.01) -> Path:
    recipe = folder / "recipe.yaml"
    recipe.write_text(f"max_bad: {max_bad}\nstages:\n  - {{use: ingest, inputs: ['in/*']}}\n")
    return recipe


def test_a_run_that_loses_most_of_its_bytes_stops_and_names_the_files(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "in").mkdir()
    packed = damaged(".gz")
    for k in range(14):
        (tmp_path / "in" / f"part{k:02}\x1b[31m.jsonl.gz").write_bytes(packed)
    (tmp_path / "in" / "z.jsonl").write_bytes(DOCS)
    stopped = cli("run", write(tmp_path), "--out", "out", "--quiet")
    assert stopped.returncode == 1
    assert "bytes of the input could not be read" in stopped.stderr
    assert "over max_bad 1.00%" in stopped.stderr
    assert "\x1b" not in stopped.stderr
    assert cli("run", write(tmp_path, 1), "--out", "out", "--quiet").returncode == 0
    told = cli("status", "out")
    assert "faults of whole files (14):" in told.stdout
    assert "in/part00\\x1b[31m.jsonl.gz: corrupt_stream at " in told.stdout
    assert told.stdout.count(": corrupt_stream at ") == 12
    assert "and 2 more" in told.stdout
    (stage,) = json.loads(cli("status", "out", "--json").stdout)
    assert len(stage["given_up"]) == 14


def test_a_run_without_lost_files_says_nothing_of_them(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_bytes(DOCS + b"broken\n")
    ended = cli("run", write(tmp_path), "--out", "out", "--quiet")
    assert ended.returncode == 0
    assert "whole files" not in ended.stdout + ended.stderr
