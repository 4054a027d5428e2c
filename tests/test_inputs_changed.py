"""An input that is not what the plan saw stops the run, and nothing that was read of it is kept."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config import load_recipe
from pipeline.digests import Digests
from pipeline.engines import TaskError
from pipeline.engines.local import LocalEngine
from pipeline.plan import make_plan
from pipeline.runner import execute
from pipeline.stage import Source
from stages.readers.pieces import InputChanged
from tests.test_ingest import ingest, reading, task
from tests.test_inputs import put

RECIPE = "stages:\n  - use: ingest\n    inputs: [in]\n"


def restored(path: Path) -> None:
    """Writes other bytes of the same number, and puts the time of change back."""
    before = path.stat()
    path.write_bytes(path.read_bytes().replace(b"one", b"two"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: dict[str, Callable[[Path], object]] = {
    "grown": lambda path: path.write_bytes(path.read_bytes() + b"{}\n"),
    "shorter": lambda path: os.truncate(path, 5),
    "replaced": lambda path: put(path.with_suffix(".new"), "two").replace(path),
    "rewritten": lambda path: path.write_bytes(path.read_bytes()),
    "restored": restored,
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_between_plan_and_read_stops_the_run(tmp_path: Path, change: str) -> None:
    for name in ("a", "b"):
        put(tmp_path / f"in/{name}.jsonl", "one")
    (tmp_path / "r.yaml").write_text(RECIPE)
    recipe = load_recipe(tmp_path / "r.yaml")
    plan = make_plan(recipe, tmp_path / "out")
    CHANGES[change](tmp_path / "in/b.jsonl")
    engine = LocalEngine(1)
    with pytest.raises(TaskError, match=r"InputChanged: .*/in/b\.jsonl (changed|was there).* the run was planned"):
        execute(plan, engine, lambda _: None)
    engine.close()
    assert not (tmp_path / "out/01-ingest/_manifest.json").exists()


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_while_the_file_is_read_stops_the_task(tmp_path: Path, change: str) -> None:
    path = put(tmp_path / "in/b.jsonl", *["one"] * 100_000)
    stage = ingest("in")
    (source,) = stage.sources([tmp_path])
    emits = reading(stage).run(iter(()), task(tmp_path, source))
    next(emits)
    CHANGES[change](path)
    with pytest.raises(InputChanged, match=r"in/b\.jsonl"):
        list(emits)


def test_a_file_of_a_dataset_s_folder_that_changes_stops_the_task(tmp_path: Path) -> None:
    path = put(tmp_path / "in/b.jsonl", "one")
    stage = ingest({"path": "in", "format": "datasets"})
    (source,) = stage.sources([tmp_path])
    os.truncate(path, 5)
    with pytest.raises(InputChanged, match="in changed since"):
        list(reading(stage).run(iter(()), task(tmp_path, source)))


def test_what_the_plan_saw_is_no_part_of_an_identity(tmp_path: Path) -> None:
    path = put(tmp_path / "in/b.jsonl", "one")
    (before,) = ingest("in").sources([tmp_path])
    os.utime(path, ns=(1, 1))
    (after,) = ingest("in").sources([tmp_path])
    assert before.seen != after.seen
    digests = [Digests(tmp_path / "inputs.json").of_sources([source]) for source in (before, after)]
    assert digests[0] == digests[1]
    assert Source.of(before.plain()) == before


def test_a_digest_of_bytes_that_change_while_they_are_hashed_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path / "b.jsonl", "one")

    def hashed(at: Path) -> str:
        with at.open("a") as file:
            file.write("{}\n")
        return "mixed"

    monkeypatch.setattr("pipeline.digests.sha256_file", hashed)
    digests = Digests(tmp_path / "inputs.json")
    assert digests.of(path) == "mixed"
    assert digests.known == {}
