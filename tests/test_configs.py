"""The recipes in configs/: each is good, is commented, runs as it stands, and keeps its books.

Each runs on the sample dump, cut to a few hundred records; `dedup_only` on the whole of it, and is held to its truth.
"""

import gzip
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest

from tests.conftest import Cli

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "configs").glob("*.yaml"))
SMALL = {
    "quickstart": ["stages.tokenizer.vocab_size=600", "stages.train.max_steps=2", "stages.train.sample_tokens=4"],
    "multilingual": ["stages.tokenizer.vocab_size=600"],
    "web_chinese": ["stages.tokenizer.vocab_size=600"],
    "web_english": ["stages.tokenizer.vocab_size=600", "stages.extract.engine=resiliparse"],
    "ablate_raw": ["stages.tokenizer.vocab_size=600", "stages.train.max_steps=2"],
    "ablate_clean": ["stages.tokenizer.vocab_size=600"],
    "ablate_concat": ["stages.tokenizer.vocab_size=600"],
    "tokenizer_only": ["stages.tokenizer.vocab_size=600"],
}
"""Settings that make a trial small; the recipes that are not named run as they are."""


def test_these_are_the_recipes() -> None:
    assert {path.stem for path in RECIPES} == {*SMALL, "dedup_only"}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_line_that_says_something_has_its_comment(recipe: Path) -> None:
    lines = recipe.read_text("utf-8").splitlines()
    assert lines[0] == "# yaml-language-server: $schema=./schema.json"
    said = [
        line
        for before, line in pairwise(lines)
        if line.strip() and "#" not in line and not before.lstrip().startswith("#")
    ]
    plain = r"stages:|  - use: \w+|      - \{path: .*\}|    keep:|      (en|de|fr|es|ru|ja|pt): [\d.]+"
    assert [line for line in said if not re.fullmatch(plain, line)] == []


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_good_and_plans_every_stage(cli: Cli, tmp_path: Path, recipe: Path) -> None:
    planned = cli("plan", recipe, "--out", tmp_path / "run", cwd=ROOT)
    assert planned.returncode == 0, planned.stderr
    wanted = re.findall(r"^  - use: (\w+)", recipe.read_text("utf-8"), re.MULTILINE)
    assert re.findall(r"^\d\d-(\w+)", planned.stdout, re.MULTILINE) == wanted


@pytest.mark.parametrize("name", SMALL)
def test_every_recipe_runs_small_and_its_books_balance(cli: Cli, tmp_path: Path, name: str) -> None:
    changes = [word for change in SMALL[name] for word in ("--set", change)]
    run = tmp_path / "run"
    done = cli("run", ROOT / f"configs/{name}.yaml", "--out", run, "--limit", 240, "--quiet", *changes, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert cli("verify", run).returncode == 0
    last = sorted(path for path in run.iterdir() if re.match(r"\d\d-", path.name))[-1]
    assert (last / "_manifest.json").is_file()


@pytest.fixture(scope="module")
def truth() -> list[dict[str, Any]]:
    with gzip.open(ROOT / "sample_data/truth.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [t for t in rows if t["file"].startswith(("docs/", "wiki-like/"))]


def table(folder: Path, columns: list[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = ds.dataset(sorted(map(str, folder.glob("*.parquet")))).to_table(columns).to_pylist()
    return rows


def shingles(text: str) -> set[tuple[str, ...]]:
    """Five words in a row, a character for a word in scripts without spaces: the plain way."""
    words: list[str] = []
    for run in re.findall(r"\w+", text.lower()):
        words += re.findall(
            r"[\u0e00-\u0eff\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|[^\u3005-\u9fff]+", run
        )
    return {tuple(words[k : k + 5]) for k in range(max(1, len(words) - 4))}


def test_dedup_only_on_the_whole_dump_is_held_to_its_truth(
    cli: Cli, tmp_path: Path, truth: list[dict[str, Any]]
) -> None:
    run = tmp_path / "run"
    done = cli("run", ROOT / "configs/dedup_only.yaml", "--out", run, "--quiet", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    read = {row["id"]: row["text"] for row in table(run / "01-ingest", ["id", "text"])}
    assert set(read) == {t["id"] for t in truth if t["kind"] != "bad"}
    bad = table(run / "01-ingest/quarantine", ["reason"])
    assert sorted(row["reason"] for row in bad) == sorted(t["detail"] for t in truth if t["kind"] == "bad")
    kept = {row["id"] for row in table(run / "03-near_dedup", ["id"])}
    held_to_the_truth(truth, read, kept)
    removed_rightly(run, read, kept)


def held_to_the_truth(truth: list[dict[str, Any]], read: dict[str, str], kept: set[str]) -> None:
    """Of a pair that the truth calls duplicates, at most one stays; what is in no group stays."""
    leaders = {t["group"]: t["id"] for t in truth if t.get("group") == f"{t['file']}#{t['id']}"}
    pairs = [(t["id"], leaders[t["group"]]) for t in truth if t.get("group") in leaders and t["jaccard"] >= 0.8]
    pairs = [(a, b) for a, b in pairs if a != b]
    both = [pair for pair in pairs if kept.issuperset(pair)]
    assert len(pairs) > 200
    assert len(both) <= 0.01 * len(pairs)
    mine = {t["group"] for t in truth if "group" in t}
    alone = {t["id"] for t in truth if t["kind"] in ("prose", "pii") and t.get("group") not in mine}
    assert alone <= kept


def removed_rightly(run: Path, read: dict[str, str], kept: set[str]) -> None:
    """Every document removed has a survivor, and the similarity that its drop names."""
    for row in table(run / "02-exact_dedup/drops", ["id", "duplicate_of"]):
        assert read[row["id"]].split() == read[row["duplicate_of"]].split()
    drops = table(run / "03-near_dedup/drops", ["id", "duplicate_of", "similarity"])
    assert len(drops) > 100
    for row in drops:
        one, other = shingles(read[row["id"]]), shingles(read[row["duplicate_of"]])
        assert row["duplicate_of"] in kept
        assert len(one & other) / len(one | other) == pytest.approx(row["similarity"], abs=1e-6)
        assert row["similarity"] >= 0.8


def test_the_schema_beside_the_recipes_is_that_of_the_code(cli: Cli) -> None:
    assert cli("schema").stdout == (ROOT / "configs/schema.json").read_text("utf-8")
