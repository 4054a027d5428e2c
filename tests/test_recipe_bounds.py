"""A recipe that is hostile or broken YAML is one clear message with its place, in bounded time."""

import time
from pathlib import Path

import pytest

from pipeline.config import RecipeError, load_recipe
from tests.conftest import Cli

AFTER = "\nstages:\n  - use: clean\n"
LAUGHS = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x]", *(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 8)}]" for k in range(1, 12))]
)
MERGES = "\n".join(
    ["a0: &a0 {x: 1, y: 2}", *(f"a{k}: &a{k} {{<<: [{', '.join([f'*a{k - 1}'] * 8)}]}}" for k in range(1, 12))]
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, ":6:10: not YAML: over 50,000 values"),
        (MERGES, ":6:20: not YAML: over 50,000 values"),
        ("name: &a [*a]", ":1:11: not YAML: *a stands within itself"),
        ("name: &a {b: [*a]}", ":1:15: not YAML: *a stands within itself"),
        (f"name: {'[' * 3000}{']' * 3000}", ":1:56: not YAML: nested over 50 deep"),
        (f"name: {'{' * 40}{'}' * 40}", ":1:8: not YAML: a key is a word, not a list or mapping"),
        ("? [a, b]\n: c", ":1:3: not YAML: a key is a word"),
        ("b: &a [c, d]\n*a : e", ":2:1: not YAML: a key is a word"),
        ("%YAML 1.1\n---\nseed: 1" + ":59" * 300_000, ":3:7: not YAML: a number or word of 900,001 characters"),
        ("seed: " + "9" * 5000, ":1:7: not YAML: a number or word of 5,000 characters"),
        ('name: "a\x1bb"', ":1:9: not YAML: character U+001B"),
        ("name: 2001-99-99", ":1:7: not YAML: ValueError: month must be in 1..12"),
        ("name: x # " + "-" * (1 << 20), ": 1,048,610 bytes; a recipe has at most 1,048,576"),
        ("name: " + "[" + "x, " * 60_000 + "]", ":1:149999: not YAML: over 50,000 values"),
    ],
)
def test_what_is_too_much_or_broken_is_told_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text + AFTER)
    began = time.process_time()
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    assert time.process_time() - began < 20
    assert len(error.value.messages) == 1
    assert f"{path}{message}" in str(error.value)


def test_anchors_aliases_and_merges_in_ordinary_use_work(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("a text")
    path = tmp_path / "r.yaml"
    path.write_text(
        "name: &name mine\nstages:\n  - {use: ingest, inputs: &inputs [a.txt, b.txt]}\n"
        "  - &tidy {use: clean, bidi: remove}\n  - {<<: *tidy, bidi: keep}\n  - *tidy\n"
    )
    bidi = [use.stage.model_dump().get("bidi") for use in load_recipe(path).uses]
    assert bidi == [None, "remove", "keep", "remove"]


def test_a_recipe_with_thousands_of_inputs_is_no_bomb(tmp_path: Path) -> None:
    names = [f"texts-{k:05}.txt" for k in range(2000)]
    for name in names:
        (tmp_path / name).write_text("a text")
    path = tmp_path / "r.yaml"
    path.write_text("stages:\n  - use: ingest\n    inputs:\n" + "".join(f"      - {name}\n" for name in names))
    assert len(load_recipe(path).uses) == 1


def test_a_value_of_set_that_is_not_yaml_or_has_no_place_is_one_message(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "r.yaml").write_text("{seed: 1, stages: [{use: ingest, inputs: [a.txt]}]}")
    for change, told in (("stages.ingest.inputs=[", "not YAML"), ("seed.x.y=3", "keys of its own")):
        done = cli("check", "r.yaml", "--set", change)
        assert done.returncode == 2
        assert f"--set {change}: " in done.stderr
        assert told in done.stderr
        assert "Traceback" not in done.stderr
