"""What a task says it has written is on the disk before it says so: notes and manifests, which come later, may rely on
it where the power fails."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pipeline.config import load_recipe
from pipeline.engines import Report
from pipeline.engines.work import TaskResult, TaskSpec, run_task
from pipeline.plan import make_plan
from pipeline.runner import execute

RECIPE = """\
intermediates: {how}
stages:
  - {{use: ingest, inputs: [in.jsonl], id_field: id}}
  - {{use: clean}}
  - {{use: exact_dedup}}
  - {{use: tokenizer, vocab_size: 300, compare_gpt2: false}}
  - {{use: pack, sequence_length: 64}}
"""


class Checks:
    """An engine without processes that looks, after each task, for files that were not synced."""

    def __init__(self, synced: set[int]) -> None:
        self.synced, self.phases, self.missing = synced, set[str](), list[str]()

    def run(self, specs: Sequence[TaskSpec], report: Report) -> Iterator[TaskResult]:
        for spec in specs:
            result = run_task(spec, report)
            self.phases.add(spec.phase)
            paths = [Path(path) for path in result.runs]
            for root, link in ((spec.root, result), *zip((b.root for b in spec.before), result.before, strict=True)):
                paths += [Path(root) / file.name for files in link.files.values() for file in files]
            self.missing += [
                str(p) for path in paths for p in (path, path.parent) if p.stat().st_ino not in self.synced
            ]
            yield result

    def close(self) -> None:
        """Nothing to end."""


@pytest.mark.parametrize("how", ["keep", "fuse"])
def test_what_a_task_has_written_is_on_the_disk_when_it_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    synced, fsync = set[int](), os.fsync

    def noted(number: int) -> None:
        fsync(number)
        synced.add(os.fstat(number).st_ino)

    monkeypatch.setattr(os, "fsync", noted)
    lines = [json.dumps({"id": str(k), "text": f"the same and not the same, {k % 30}"}) for k in range(60)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(how=how))
    engine = Checks(synced)
    execute(make_plan(load_recipe(tmp_path / "recipe.yaml"), tmp_path / "run"), engine, lambda _: None)
    assert engine.phases >= {"each", "scatter", "gather", "map", "finish"}
    assert engine.missing == []
