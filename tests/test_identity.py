"""What a stage's answer depends on is its fingerprint: each part of it, once changed, runs the stage again."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ruamel.yaml import YAML

import pipeline.identity
from pipeline.config import find_stage, load_recipe, stage_refs
from pipeline.identity import settings_of
from pipeline.plan import make_plan
from stages.clean import Clean
from tests.conftest import Cli

HEAD = """\
seed: 0
stages:
  - use: ingest
    inputs: [{path: in/*.jsonl, text_field: body, name: a}]
  - use: own_identity:Short
  - use: clean
"""
MAKES = (
    HEAD
    + """\
  - use: tokenizer
    vocab_size: 300
"""
)
PACKS = (
    HEAD
    + """\
  - use: pack
    tokenizer: tokenizer
    sequence_length: 16
    validation: 0
"""
)
OWN = """\
from pipeline.stage import Filter, at_most
class Short(Filter):
    \"\"\"Short texts.\"\"\"
    most: int = 1000
    def judge(self, batch):
        return [at_most("length", [len(t) for t in batch["text"].to_pylist()], self.most)]
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a recipe with an own stage and a tokenizer of elsewhere."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "in").mkdir()
    (folder / "in/a.jsonl").write_text("".join(f'{{"body": "text {k}", "text": "other {k}"}}\n' for k in range(40)))
    (folder / "own_identity.py").write_text(OWN)
    for name, recipe in (("makes", MAKES), ("r", PACKS)):
        (folder / f"{name}.yaml").write_text(recipe)
        command = [sys.executable, "-m", "pipeline.cli", "run", f"{name}.yaml", "--quiet", "--workers", "1"]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
        if name == "makes":
            (folder / "runs/makes/04-tokenizer").rename(folder / "tokenizer")
    return folder


@pytest.fixture
def world(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return shutil.copytree(finished, tmp_path, dirs_exist_ok=True, copy_function=shutil.copy2)


def reasons(cli: Cli, *more: str) -> list[str]:
    planned = cli("plan", "r.yaml", "--json", *more)
    assert planned.returncode == 0, planned.stderr
    return [row["why"] for row in json.loads(planned.stdout)]


def edit(path: str, old: str, new: str) -> Callable[[Path], None]:
    def change(world: Path) -> None:
        (found,) = world.glob(path)
        text = found.read_text()
        assert old in text
        found.write_text(text.replace(old, new))

    return change


PARTS = {
    "a setting of an input, changed": (edit("r.yaml", "text_field: body", "text_field: text"), 0, "text_field"),
    "a setting of an input, removed": (edit("r.yaml", "text_field: body, ", ""), 0, "text_field"),
    "a setting inherited by an input": (edit("r.yaml", "inputs:", "id_field: body\n    inputs:"), 0, "id_field"),
    "a source's bytes": (edit("in/a.jsonl", 'text 7"', 'TEXT 7"'), 0, "its inputs changed"),
    "a source's name": (lambda world: (world / "in/a.jsonl").rename(world / "in/b.jsonl"), 0, "its inputs changed"),
    "the seed": (edit("r.yaml", "seed: 0", "seed: 1"), 0, "seed 0 → 1"),
    "an own stage's code": (edit("own_identity.py", "[len(t)", "[2 * len(t)"), 1, "its code changed"),
    "an artifact's bytes": (edit("tokenizer/tokenizer.json", '"version"', ' "version"'), 3, "tokenizer changed"),
}


@pytest.mark.parametrize("part", PARTS)
def test_each_part_of_the_identity_runs_the_stage_again(world: Path, cli: Cli, part: str) -> None:
    change, stage, why = PARTS[part]
    assert set(reasons(cli)) == {"done"}
    change(world)
    found = reasons(cli)
    assert why in found[stage]
    assert found[:stage] == ["done"] * stage
    assert "done" not in found[stage:]


def test_so_do_the_limit_the_version_and_the_libraries(world: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "limit None → 5" in reasons(cli, "--limit", "5", "--out", "runs/r")[0]
    monkeypatch.chdir(world)

    def why() -> list[str | None]:
        return [p.why for p in make_plan(load_recipe(Path("r.yaml")), Path("runs/r")).stages]

    assert why() == [None] * 4
    with monkeypatch.context() as patch:
        patch.setattr(Clean, "version", Clean.version + 1)
        assert why()[2] == f"version {Clean.version - 1} → {Clean.version}"
    with monkeypatch.context() as patch:
        patch.setattr(pipeline.identity, "library_version", lambda name: "0.1" if name == "ftfy" else None)
        assert "ftfy" in str(why()[2])


def test_an_artifact_of_any_suffix_counts_by_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("text")
    Path("r.yaml").write_text(
        "stages: [{use: ingest, inputs: [a.txt]}, {use: language, backend: fasttext, model: model.ftz}]"
    )
    prints = set()
    for content in (b"one", b"two"):
        Path("model.ftz").write_bytes(content)
        prints.add(make_plan(load_recipe(Path("r.yaml")), Path("out")).stages[1].fingerprint)
    assert len(prints) == 2


def test_what_a_worker_gets_makes_the_same_stage(tmp_path: Path) -> None:
    """Settings survive being written and read again, for every shipped stage with the settings of shipped recipes."""
    for recipe in Path("configs").glob("*.yaml"):
        for item in YAML(typ="safe").load(recipe.read_text())["stages"]:
            name = item.pop("use")
            _, kind = find_stage(name)
            stage = kind.model_validate(item)
            assert kind.model_validate(settings_of(stage)) == stage
    assert stage_refs()


def test_libraries_that_decide_an_answer_are_named_by_their_distributions() -> None:
    settings = {
        "ingest": {"inputs": ["a.warc"]},
        "extract": {"engine": "trafilatura"},
        "tokenizer": {"vocab_size": 300},
    }
    settings |= {"language": {"backend": "langdetect"}}
    for name in ("ingest", "extract", "clean", "language", "quality", "near_dedup", "tokenizer", "pack"):
        stage = find_stage(name)[1].model_validate(settings.get(name, {}))
        versions = pipeline.identity.libraries_of(stage)
        assert versions
        assert all(versions.values()), versions


def test_an_edit_of_a_module_beside_an_own_stage_is_seen(world: Path, cli: Cli) -> None:
    text = (world / "own_identity.py").read_text()
    (world / "helpers.py").write_text("MOST = 1000\n")
    (world / "own_identity.py").write_text(
        "from helpers import MOST\n" + text.replace("most: int = 1000", "most: int = MOST")
    )
    assert cli("run", "r.yaml", "--quiet", "--workers", 1).returncode == 0
    assert set(reasons(cli)) == {"done"}
    (world / "helpers.py").write_text("MOST = 1000  # edited\n")
    assert reasons(cli)[1] == "its code changed"
