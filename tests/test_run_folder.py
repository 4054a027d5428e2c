"""A run's folder belongs to one recipe: nothing goes unasked, what is lost is made anew, no link is followed."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import Cli, digest

MAKE = "stages:\n  - use: ingest\n    inputs: [{path: in.txt, documents: line}]\n"
FIRST = MAKE + "  - use: exact_dedup\n  - use: tokenizer\n    vocab_size: 300\n"
SECOND = MAKE + "  - use: clean\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in.txt").write_text("".join(f"document {k // 2} of many\n" for k in range(60)))
    (tmp_path / "first.yaml").write_text(FIRST)
    (tmp_path / "second.yaml").write_text(SECOND)
    return tmp_path


def test_recipes_without_a_name_have_folders_of_their_own(folder: Path, cli: Cli) -> None:
    for name in ("first", "second"):
        assert cli("run", f"{name}.yaml", "--quiet", "--workers", 1).returncode == 0
    assert sorted(path.name for path in (folder / "runs").iterdir()) == ["first", "second"]


@pytest.mark.parametrize("named", [True, False])
def test_finished_stages_of_another_recipe_are_removed_only_on_demand(folder: Path, cli: Cli, named: bool) -> None:
    out = () if named else ("--out", "runs/same")
    for name, text in (("first", FIRST), ("second", SECOND)):
        (folder / f"{name}.yaml").write_text(("name: same\n" if named else "") + text)
    assert cli("run", "first.yaml", *out, "--quiet", "--workers", 1).returncode == 0
    before = digest(folder / "runs/same")
    planned = cli("plan", "second.yaml", *out)
    assert "in the way: 02-exact_dedup, 03-tokenizer" in planned.stdout
    refused = cli("run", "second.yaml", *out)
    assert refused.returncode == 2
    assert "02-exact_dedup, 03-tokenizer" in refused.stderr
    assert "--replace" in refused.stderr
    assert digest(folder / "runs/same") == before
    assert cli("run", "second.yaml", *out, "--replace", "--quiet").returncode == 0
    assert sorted(path.name for path in (folder / "runs/same").iterdir() if path.is_dir()) == ["01-ingest", "02-clean"]


def test_a_recipes_own_stages_are_made_anew_but_those_it_lost_are_not_removed(folder: Path, cli: Cli) -> None:
    recipe = folder / "first.yaml"
    assert cli("run", recipe, "--quiet", "--workers", 1).returncode == 0
    changed = cli("run", recipe, "--set", "stages.tokenizer.vocab_size=301", "--quiet")
    assert changed.returncode == 0, changed.stderr
    recipe.write_text(FIRST.replace("  - use: exact_dedup\n", "  - use: clean\n  - use: exact_dedup\n"))
    refused = cli("run", recipe)
    assert refused.returncode == 2
    assert "02-exact_dedup, 03-tokenizer" in refused.stderr


@pytest.mark.parametrize("lost", ["part-00000.parquet", "drops/part-00000.parquet", "a short shard"])
def test_what_is_lost_is_made_again_alone(folder: Path, cli: Cli, lost: str) -> None:
    assert cli("run", "first.yaml", "--quiet", "--workers", 1).returncode == 0
    before = digest(folder / "runs/first")
    path = folder / "runs/first/02-exact_dedup" / (lost if lost.endswith("parquet") else "part-00000.parquet")
    if lost == "a short shard":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.unlink()
    planned = cli("plan", "first.yaml").stdout.splitlines()
    assert path.name in planned[1]
    assert [line.endswith("done") for line in planned[:3]] == [True, False, True]
    again = cli("run", "first.yaml")
    assert again.returncode == 0, again.stderr
    assert "1 of 3 stages to do" in again.stderr
    assert digest(folder / "runs/first") == before


DAMAGE = {
    "a manifest": ("01-ingest/_manifest.json", lambda data: data[:20]),
    "the cache of digests": ("inputs.json", lambda data: data[:20]),
    "a cache of another shape": ("inputs.json", lambda data: b'{"a": 1}'),
    "a cache nested without end": ("inputs.json", lambda data: b"[" * 100_000),
    "a line of the events": ("events.jsonl", lambda data: b"x" + data),
    "an event of another shape": ("events.jsonl", lambda data: b'[]\n{"event": "StageDone"}\n' + data),
    "the run's own file": ("run.json", lambda data: data[:20]),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_notes_end_in_a_message_and_a_run_goes_on(folder: Path, cli: Cli, what: str) -> None:
    assert cli("run", "second.yaml", "--quiet", "--workers", 1).returncode == 0
    run = folder / "runs/second"
    before = digest(run)
    name, change = DAMAGE[what]
    for command in (("status", run), ("verify", run), ("report", run), ("show", run, "clean"), ("run", "second.yaml")):
        (run / name).write_bytes(change((run / name).read_bytes()))
        done = cli(*command)
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == (0 if command[0] == "run" or name.startswith(("i", "e")) else done.returncode)
        assert done.returncode in (0, 2, 3)
    assert digest(run) == before


@pytest.mark.parametrize("name", [".lock", "events.jsonl", "inputs.json", "run.json", "report.html", "02-clean"])
def test_no_link_is_followed_out_of_the_folder(folder: Path, cli: Cli, name: str) -> None:
    assert cli("run", "second.yaml", "--quiet", "--workers", 1).returncode == 0
    run, victim = folder / "runs/second", folder / "victim"
    if (run / name).is_dir():
        shutil.rmtree(run / name)
        victim.mkdir()
        (victim / "precious").write_text("precious")
    else:
        (run / name).unlink()
        victim.write_text("precious")
    (run / name).symlink_to(victim)
    assert cli("report", run).returncode in (0, 2)
    refused = cli("run", "second.yaml", "--quiet")
    assert refused.returncode in (0, 1)
    assert refused.returncode == (0 if name in ("report.html", "inputs.json") else 1), refused.stderr
    assert "Traceback" not in refused.stderr
    precious = victim / "precious" if victim.is_dir() else victim
    assert precious.read_text() == "precious"
