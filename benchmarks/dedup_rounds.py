"""What both benchmarks of deduplication share: one core, stages run by the real plan in this process, peers in theirs.

Times are CPU seconds (user and system), without imports, process starts and compilation, reading and writing of shards
included. Rates are 10^6 bytes of UTF-8 text per CPU second.
"""

import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
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


def pin() -> None:
    """Keeps this process and those it starts on the last core."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)


def sample(source: Path, count: int, folder: Path) -> Path:
    """The first `count` documents of a Parquet file as `folder/docs.parquet`, id and text alone."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pq.read_table(source, columns=["id", "text"]).slice(0, count)
    pq.write_table(table, folder / "docs.parquet", compression="zstd", row_group_size=1000)
    return folder / "docs.parquet"


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


def copying(stage: Path, out: Path) -> float:
    """CPU seconds of reading a stage's shards once and writing the same rows once."""
    begun = time.process_time()
    for path in sorted(stage.glob("part-*.parquet")):
        with ShardWriter(out, out, path.stem, pq.read_schema(path)) as writer:
            for batch in read_batches(path):
                writer.write(batch)
    return time.process_time() - begun


def peer(python: str, script: Path, name: str, folder: Path) -> dict[str, Any]:
    """What a peer reports of one round, as JSON on the last line of its output."""
    command = [python, str(script), "--peer", name, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} did not run: {done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def rounds(turns: int, contenders: dict[str, Callable[[Path], dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Every contender in turn, `turns` times, each in an empty folder of its own."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    for _ in range(turns):
        for name, contender in contenders.items():
            with tempfile.TemporaryDirectory() as folder:
                results[name].append(contender(Path(folder)))
    return results


def line(name: str, seconds: Sequence[float], megabytes: float, rest: str = "") -> str:
    """A row: median rate, its spread, and what else there is to say."""
    rates = sorted(megabytes / s for s in seconds)
    middle = statistics.median(rates)
    return f"{name:<36} {middle:8.2f} MB/s  ({rates[0]:.2f} to {rates[-1]:.2f} in {len(rates)})  {rest}"
