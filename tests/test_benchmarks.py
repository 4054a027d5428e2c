"""The benchmarks run: their rows add up, and all of them together tell of what fails. No speed is looked at here."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.__main__ import SIZES, question
from benchmarks.harness import HEADS, Measure, Row, batches, documents, parse
from benchmarks.pack import LENGTH, plain
from benchmarks.scaling import VOWELS

ROOT = Path(__file__).parent.parent
ROW = Row("clean", "english", 6.0, "peer", [2.0, 1.0, 3.0], [60.0], "all equal", 0.5)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpora")
    texts = [
        f"The mill of {k} stones turned.\n\nIt was the year {k}, and the river was high. 磨坊。" for k in range(90)
    ]
    for kind in ("english", "chinese", "multi", "code"):
        (folder / kind).mkdir()
        for part in range(2):
            half = texts[part::2] + texts[:3]
            table = pa.table({"id": [f"{kind}-{part}-{k}" for k in range(len(half))], "text": half})
            pq.write_table(table, folder / kind / f"part-{part}.parquet")
    return folder


def test_a_row_tells_rates_ratio_and_distance() -> None:
    assert (ROW.ratio, ROW.distance) == (30.0, 4.0)
    cells = [cell.strip() for cell in ROW.text().strip("|").split("|")]
    assert cells == "clean|english|6.0 MB|3.00 (± 50%)|peer|0.10|30.0 ×|12|4.0 ×|all equal".split("|")
    assert len(cells) == HEADS[Row].partition("\n")[0].count("|") - 1


@pytest.mark.parametrize("row", [ROW, Measure("first batch", "both", "1.2 s", "at most 1.5 s")])
def test_rows_come_back_from_json(row: Row | Measure) -> None:
    assert parse(json.dumps(asdict(row))) == row


def test_documents_come_from_all_files(corpora: Path) -> None:
    texts = documents(corpora, "english", 0.004)
    assert {"The mill of 0 ", "The mill of 1 "} <= {text[:14] for text in texts}
    assert 4000 <= sum(len(text.encode()) for text in texts) < 4400
    assert [text for batch in batches(texts) for text in batch["text"].to_pylist()] == texts


def test_plain_packing_fills_rows() -> None:
    assert plain([LENGTH // 2] * 4 + [LENGTH * 3 + 1, LENGTH - 1]) == 2 + 3 + 1


def test_moved_vowels_are_another_text_of_the_same_length() -> None:
    moved = {"A mill in Ulm, 磨坊".translate(table) for table in VOWELS}
    assert len(moved) == len(VOWELS) == 5
    assert {text.lower().translate({ord(c): "." for c in "aeiou"}) for text in moved} == {". m.ll .n .lm, 磨坊"}


@pytest.mark.parametrize("name", [name for name in SIZES if (ROOT / f"benchmarks/{name}.py").exists()])
def test_every_script_says_what_it_asks_and_runs(name: str) -> None:
    title, _, about = question(name).partition(": ")
    assert 10 < len(title) < 90
    assert about
    assert callable(import_module(f"benchmarks.{name}").main)


def test_all_run_and_one_that_fails_says_so(corpora: Path, tmp_path: Path) -> None:
    results = tmp_path / "results.md"
    command = [sys.executable, "-m", "benchmarks", corpora, "--quick", "--out", results]
    subprocess.run([*command, "--only", "quality", "exact_dedup", "clean"], check=True, cwd=ROOT, capture_output=True)
    failed, exact, clean = results.read_text(encoding="utf-8").split("## ")[1:]
    assert "did not run to its end" in failed
    assert "the same documents kept" in exact
    assert clean.count("48 of 48 texts equal") + clean.count("96 of 96 texts equal") == 4
    assert str(corpora) not in failed


def test_the_recipes_of_the_ablation_are_good_and_differ_as_said(corpora: Path) -> None:
    folder = ROOT / "benchmarks/ablate"
    for name in ("raw", "clean", "concat"):
        command = [sys.executable, "-m", "pipeline.cli", "check", str(folder / f"english_{name}.yaml")]
        done = subprocess.run(command, cwd=corpora, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    clean, concat = (
        (folder / f"english_{name}.yaml").read_text("utf-8").splitlines()[1:] for name in ("clean", "concat")
    )
    assert concat == [line.replace("english_clean", "english_concat") for line in clean] + ["    algorithm: concat"]
