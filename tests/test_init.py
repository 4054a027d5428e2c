"""`init`: a recipe that works where it is written, or one message; nothing written over."""

import os
from pathlib import Path

import pytest

from pipeline import __version__
from pipeline.config import load_recipe
from pipeline.shipped import shipped_recipes
from tests.conftest import Cli


def test_a_recipe_begun_in_an_empty_folder_is_good_as_it_is(cli: Cli, tmp_path: Path) -> None:
    begun = cli("init")
    assert (begun.returncode, begun.stdout) == (0, "")
    assert "wrote recipe.yaml" in begun.stderr
    assert "wrote sample_data, a small sample" in begun.stderr
    assert sorted(os.listdir(tmp_path)) == ["recipe.yaml", "sample_data"]
    assert cli("check", "recipe.yaml").returncode == 0


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_finds_its_inputs_in_the_sample(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    assert cli("init", "mine.yaml", "--like", name).returncode == 0
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(tmp_path / "mine.yaml", [])
    assert recipe.name == "mine"
    assert recipe.uses[0].stage.sources(recipe.folders)
    assert "$schema" not in (tmp_path / "mine.yaml").read_text("utf-8")


def test_the_sample_lies_beside_the_recipe(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    assert cli("init", "below/my.yaml").returncode == 0
    assert sorted(os.listdir(tmp_path / "below")) == ["my.yaml", "sample_data"]
    assert cli("check", "below/my.yaml").returncode == 0


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_what_is_called_sample_data_stays_as_it_is(cli: Cli, tmp_path: Path, kind: str) -> None:
    place = tmp_path / "sample_data"
    make = {"folder": place.mkdir, "file": place.touch, "dangling link": lambda: place.symlink_to("nowhere")}
    make[kind]()
    begun = cli("init")
    assert (begun.returncode, "small sample" in begun.stderr) == (0, False)
    assert not place.exists() if kind == "dangling link" else place.is_file() or os.listdir(place) == []


def test_a_recipe_that_is_there_is_not_written_over(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("mine")
    begun = cli("init")
    assert (begun.returncode, begun.stderr) == (2, "recipe.yaml exists; nothing written\n")
    assert (tmp_path / "recipe.yaml").read_text() == "mine"
    assert os.listdir(tmp_path) == ["recipe.yaml"]


@pytest.mark.parametrize("name", [".yaml", "a\\b.yaml", "a\nb.yaml", "nowhere/my.yaml", "\udcff.yaml", ""])
def test_a_place_where_no_recipe_can_be_is_one_message(cli: Cli, tmp_path: Path, name: str) -> None:
    begun = cli("init", name)
    assert begun.returncode == 2
    assert "Traceback" not in begun.stderr
    assert begun.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "name", ["two words.yaml", "磨坊.yaml", 'say "hi": #1.yaml', "on.yaml", "2026.yaml", "-x.yaml"]
)
def test_a_run_is_named_after_its_recipe(cli: Cli, tmp_path: Path, name: str) -> None:
    assert cli("init", "--", name).returncode == 0
    assert load_recipe(tmp_path / name, []).name == Path(name).stem


def test_an_unknown_recipe_is_told_with_those_there_are(cli: Cli) -> None:
    begun = cli("init", "--like", "nothing")
    assert begun.returncode == 2
    assert "quickstart" in begun.stderr


def test_the_version_and_short_help(cli: Cli) -> None:
    assert cli("--version").stdout == f"gristmill {__version__}\n"
    for words in ([], ["run"], ["generate"]):
        assert cli(*words, "-h").stdout == cli(*words, "--help").stdout != ""
