"""Recipes: every error at once, each with file:line:column and the nearest right word."""

import json
from pathlib import Path

import pytest

from tests.conftest import Cli


def test_every_error_is_told_at_once_with_its_place(cli: Cli, tmp_path: Path) -> None:
    recipe = tmp_path / "bad.yaml"
    recipe.write_text(
        "name: bad\nsede: 1\nstages:\n  - use: toy_stages:Make\n"
        "    shrads: 3\n    rows: many\n  - use: qualty\n  - nothing: here\n"
    )
    done = cli("check", recipe)
    assert done.returncode == 2
    assert done.stdout == ""
    assert f"{recipe}:2:1: unknown key `sede`, did you mean `seed`?" in done.stderr
    assert f"{recipe}:5:5: unknown key `shrads`, did you mean `shards`?" in done.stderr
    assert f"{recipe}:6:5: Input should be a valid integer" in done.stderr
    assert f"{recipe}:7:5: no stage is called `qualty`, did you mean `quality`?" in done.stderr
    assert f"{recipe}:8:5: each stage is a mapping with `use: NAME`" in done.stderr
    assert "Traceback" not in done.stderr


def test_json_asks_for_errors_as_data(cli: Cli, tmp_path: Path) -> None:
    done = cli("check", tmp_path / "absent.yaml", "--json")
    assert done.returncode == 2
    assert "no such recipe" in json.loads(done.stdout)["errors"][0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stages: [", "not YAML"),
        ("- a", "a recipe is a mapping"),
        ("name: x", "`stages` must be a list"),
        ("stages:\n  - use: toy_stages:NoShouting\n", "reads documents: put an `ingest` before it"),
        ("stages:\n  - use: toy_stages:Nobody\n", "cannot be loaded"),
        ("stages:\n  - use: pathlib:Path\n", "is not a Stage"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_one_clear_message(cli: Cli, tmp_path: Path, text: str, message: str) -> None:
    recipe = tmp_path / "bad.yaml"
    recipe.write_text(text)
    done = cli("check", recipe)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_an_override_is_typed_checked_and_named_in_its_error(cli: Cli, tmp_path: Path) -> None:
    recipe = tmp_path / "toy.yaml"
    recipe.write_text("stages:\n  - use: toy_stages:Make\n")
    assert cli("check", recipe, "--set", "stages[0].rows=5", "--set", "seed=3").returncode == 0
    wrong = cli("check", recipe, "--set", "stages[0].rows=five")
    assert wrong.returncode == 2
    assert "--set stages[0].rows: Input should be a valid integer" in wrong.stderr
    nowhere = cli("check", recipe, "--set", "stages.pack.rows=5")
    assert "no single stage is meant" in nowhere.stderr


def test_help_lists_the_commands_and_their_flags_are_frozen(cli: Cli) -> None:
    shown = cli("--help").stdout
    for command in [
        "init",
        "check",
        "plan",
        "run",
        "status",
        "verify",
        "show",
        "sample",
        "explain",
        "stages",
        "schema",
        "generate",
    ]:
        assert f"  {command} " in shown
    flags = {word.strip(",") for word in cli("run", "--help").stdout.split() if word.startswith("--")}
    assert flags == {"--out", "--workers", "--limit", "--set", "--force", "--replace", "--quiet", "--json", "--help"}


def test_help_is_quick(tmp_path: Path, environment: dict[str, str]) -> None:
    import resource
    import subprocess
    import sys

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "pipeline.cli", "--help"], env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.3
