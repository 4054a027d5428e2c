"""What the benchmarks of deduplication share: stages run by the real plan in this process, peers in turn with them.

Times are CPU seconds (user and system) of this process, or as a peer's reports its own: without imports, process starts
and compilation, the reading and writing of shards included.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.config import load_recipe
from pipeline.engines import Report
from pipeline.engines.work import TaskResult, TaskSpec, run_task
from pipeline.events import Event, StageDone, StageStarted
from pipeline.plan import make_plan
from pipeline.runner import execute
from pipeline.shards import ShardWriter, read_batches


class Here:
    """An engine that runs each task in this process."""

    def run(self, specs: Sequence[TaskSpec], report: Report) -> Iterator[TaskResult]:
        """Results, one after the other."""
        return (run_task(spec, report) for spec in specs)

    def close(self) -> None:
        """Nothing to end."""


def sample(source: Path, megabytes: float, path: Path) -> Path:
    """The first documents of a Parquet file, id and text alone, as another: about so many megabytes of text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    left = megabytes * 1e6
    with pq.ParquetWriter(path, pq.read_schema(source).empty_table().select(["id", "text"]).schema) as writer:
        for batch in pq.ParquetFile(source).iter_batches(100, columns=["id", "text"]):
            if left > 0:
                writer.write_batch(batch)
                left -= batch["text"].nbytes
    return path


def run(recipe: str, out: Path) -> tuple[float, Path]:
    """Runs a recipe; CPU seconds and folder of its last stage."""
    path = out.with_suffix(".yaml")
    path.write_text(recipe)
    clock: dict[str, float] = {}

    def listen(event: Event) -> None:
        if isinstance(event, StageStarted):
            clock["start"] = time.process_time()
        elif isinstance(event, StageDone):
            clock["cost"] = time.process_time() - clock["start"]

    plan = make_plan(load_recipe(path), out)
    execute(plan, Here(), listen)
    return clock["cost"], out / plan.stages[-1].folder


def kept_ids(stage: Path) -> list[str]:
    """Ids of the documents that a stage kept, in order."""
    return [i for path in sorted(stage.glob("part-*.parquet")) for i in pq.read_table(path)["id"].to_pylist()]


def copying(stage: Path, out: Path) -> float:
    """CPU seconds of reading a stage's shards once and writing the same rows once."""
    begun = time.process_time()
    for path in sorted(stage.glob("part-*.parquet")):
        with ShardWriter(out, out, path.stem, pq.read_schema(path)) as writer:
            for batch in read_batches(path):
                writer.write(batch)
    return time.process_time() - begun


def reading(stage: Path) -> float:
    """CPU seconds of reading the ids and texts of a stage's shards once."""
    begun = time.process_time()
    for path in sorted(stage.glob("part-*.parquet")):
        for _ in read_batches(path, ("id", "text")):
            pass
    return time.process_time() - begun


def peer(python: Path, script: Path, name: str, folder: Path) -> dict[str, Any]:
    """What a peer reports of one round, as JSON on the last line of its output."""
    command = [str(python), str(script), "--peer", name, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} did not run: {done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


Contender = Callable[[Path], dict[str, Any]]


def rounds(turns: dict[str, int], contenders: dict[str, Contender]) -> dict[str, list[dict[str, Any]]]:
    """Every contender in turn, as often as `turns` says, each in an empty folder of its own."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    for turn in range(max(turns.values())):
        for name, contender in contenders.items():
            if turn < turns[name]:
                with tempfile.TemporaryDirectory() as folder:
                    results[name].append(contender(Path(folder)))
    return results


def seconds(found: Sequence[dict[str, Any]]) -> list[float]:
    """The CPU seconds of a contender's rounds."""
    return [one["seconds"] for one in found]
