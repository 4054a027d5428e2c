"""What the benchmarks share: documents of a corpus, turns of us and of a peer on one core, and the rows they print.

Reads the Parquet files under CORPORA/<kind>/ (any folder of files with a `text` column will do). Both sides hold the
same documents in memory and are timed by CPU seconds, in turn, after one turn that is not counted; a peer runs in its
own Python (`--peer-python`), which has it installed. Rows are lines of Markdown, or of JSON for `python -m benchmarks`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.engines.processes import ONE_THREAD
from pipeline.rows import DOCUMENT
from pipeline.shards import ShardWriter, read_batches
from pipeline.stage import Each, Stage, Task
from stages.encoder import tokenizer_file

TURNS, AGAIN = 3, 5
PEER = """
import json, os, sys, time
os.sched_setaffinity(0, {{{core}}})
texts = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
{script}
for line in sys.stdin:
    began = time.process_time()
    answers = run(texts)
    took = time.process_time() - began
    print(json.dumps({{"seconds": took, "answers": answers if line.strip() == "answers" else None}}), flush=True)
"""


@dataclass
class Row:
    """One comparison: `megabytes` of a corpus (millions, where the unit is not MB), CPU seconds of each turn of ours
    and of the peer, how the answers agree, in words, and the CPU seconds of reading and writing the same shard."""

    name: str
    corpus: str
    megabytes: float
    peer: str
    ours: list[float]
    theirs: list[float]
    answers: str
    reading_and_writing: float | None = None
    unit: str = "MB"

    @property
    def ratio(self) -> float:
        """How many times less time ours takes, by medians."""
        return median(self.theirs) / median(self.ours)

    @property
    def distance(self) -> float | None:
        """How many times longer ours takes than reading and writing the shard."""
        return median(self.ours) / self.reading_and_writing if self.reading_and_writing else None

    def text(self) -> str:
        """The row as a line of a Markdown table."""
        disk = f"{self.megabytes / self.reading_and_writing:,.0f}" if self.reading_and_writing else ""
        times = "" if self.distance is None else f"{self.distance:,.1f} ×"
        return (
            f"| {self.name} | {self.corpus} | {self.megabytes:,.1f} {self.unit} | {rate(self.megabytes, self.ours)} | "
            f"{self.peer} | {rate(self.megabytes, self.theirs)} | {self.ratio:,.1f} × | {disk} | {times} | "
            f"{self.answers} |"
        )


@dataclass
class Measure:
    """One figure of ours without a peer, beside what is wanted of it ("at most 1.5 s"), both in words."""

    name: str
    corpus: str
    measured: str
    wanted: str = ""

    def text(self) -> str:
        """The figure as a line of a Markdown table."""
        return f"| {self.name} | {self.corpus} | {self.measured} | {self.wanted} |"


HEADS = {
    Row: "| what | corpus | amount | ours, a second | peer | peer, a second | ratio | reading and writing, a second "
    "| ours takes | answers |\n|---|---|--:|--:|---|--:|--:|--:|--:|---|",
    Measure: "| what | corpus | measured | wanted |\n|---|---|---|---|",
}


def rate(amount: float, seconds: Sequence[float]) -> str:
    """The median rate, and half the spread of all turns as a share of it where there are several."""
    middle = median(seconds)
    spread = f" (± {(max(seconds) - min(seconds)) / middle / 2:.0%})" if len(seconds) > 1 else ""
    return f"{amount / middle:,.{2 if amount / middle < 10 else 1}f}{spread}"


def parse(line: str) -> Row | Measure:
    """A row or figure of a JSON line."""
    values = json.loads(line)
    return Row(**values) if "ours" in values else Measure(**values)


def arguments(
    about: str, peer: bool = True, megabytes: float = 8, pin: bool = True, encodes: bool = False
) -> argparse.Namespace:
    """The command line of every benchmark: the corpora, how much of them, turns, the peer's Python, the core.

    encodes: it wants a tokenizer, too. pin: keep this process and those it starts on that core.
    """
    parser = argparse.ArgumentParser(description=about.partition("\n")[0])
    parser.add_argument("corpora", type=Path, help="a folder with a folder of Parquet files for each kind of text")
    parser.add_argument("--megabytes", type=float, default=megabytes, help=f"how much text of each kind [{megabytes}]")
    parser.add_argument("--turns", type=int, default=TURNS, help=f"how often each side runs [{TURNS}]")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)), help="where all run [the last core]")
    parser.add_argument("--json", action="store_true", help="rows as JSON lines")
    if peer:
        parser.add_argument("--peer-python", type=Path, default=Path(sys.executable), help="has the peer installed")
    if encodes:
        parser.add_argument("--tokenizer", type=Path, help="a tokenizer.json or its folder [one is trained]")
    given = parser.parse_args()
    # the peers' Python files are compiled when they are installed: ours must not be at each start
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if pin:
        os.sched_setaffinity(0, {given.core})
        pa.set_cpu_count(1)
        pa.set_io_thread_count(1)
    return given


def documents(corpora: Path, kind: str, megabytes: float) -> list[str]:
    """The first texts of CORPORA/kind, about so many megabytes, from each of its files by that file's size."""
    files = sorted((corpora / kind).glob("*.parquet"))
    whole = sum(path.stat().st_size for path in files)
    texts: list[str] = []
    for path in files:
        room = megabytes * 1e6 * path.stat().st_size / whole
        for batch in pq.ParquetFile(path).iter_batches(64, columns=["text"]):
            if room <= 0:
                break
            for text in batch["text"].to_pylist():
                if room > 0 and text and len(text) < 1 << 20:
                    texts.append(text)
                    room -= len(text.encode())
    if not texts:
        raise SystemExit(f"{corpora / kind}: no Parquet files with texts")
    return texts


def write(texts: Sequence[str], path: Path, rows: int = 1000) -> Path:
    """A Parquet file of `id` and `text`, in row groups of so many rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {"id": [str(k) for k in range(len(texts))], "text": texts}
    pq.write_table(pa.table(columns), path, row_group_size=rows, compression="zstd")
    return path


def tokenizer(given: argparse.Namespace) -> Path:
    """The tokenizer.json of `--tokenizer`, or one trained here: 16,384 tokens of English, Chinese and code."""
    if given.tokenizer is not None:
        return tokenizer_file(given.tokenizer.resolve())
    texts = [text for kind in ("english", "chinese", "code") for text in documents(given.corpora, kind, 4)]
    folder = Path(tempfile.mkdtemp())
    recipe = (
        "stages:\n  - {use: ingest, inputs: ['in.parquet'], id_field: id}\n  - {use: tokenizer, compare_gpt2: false}\n"
    )
    (folder / "tokenizer.yaml").write_text(recipe)
    write(texts, folder / "in.parquet")
    command = [sys.executable, "-m", "pipeline.cli", "run", folder / "tokenizer.yaml", "--out", folder / "run"]
    subprocess.run([*command, "--workers", "1", "--quiet"], check=True, stdout=subprocess.DEVNULL)
    return folder / "run/02-tokenizer/tokenizer.json"


def megabytes(texts: Sequence[str]) -> float:
    """Size of texts in millions of bytes of UTF-8."""
    return sum(len(text.encode()) for text in texts) / 1e6


def batches(texts: Sequence[str], langs: Sequence[str] | None = None) -> list[pa.RecordBatch]:
    """Documents as the engine hands them to a stage: batches of about 8 MB."""
    found: list[pa.RecordBatch] = []
    begin = size = 0
    for k, text in enumerate(texts, 1):
        size += len(text.encode())
        if size >= 8 << 20 or k == len(texts):
            part = texts[begin:k]
            columns: dict[str, list[Any]] = {name: [None] * len(part) for name in DOCUMENT.names}
            columns |= {"id": [str(n) for n in range(begin, k)], "text": list(part), "source": ["x:0"] * len(part)}
            columns |= {"lang": list(langs[begin:k])} if langs else {}
            found.append(pa.record_batch(columns, schema=DOCUMENT))
            begin, size = k, 0
    return found


def step_of(stage: Stage) -> Callable[[Sequence[pa.RecordBatch]], list[Any]]:
    """Runs the first step of a stage in this process; all that it emits."""
    step = stage.steps()[0]
    if not isinstance(step, Each):
        raise TypeError(f"{type(stage).__name__} does not begin with an Each")
    task = bench_task()
    return lambda found: list(step.run(iter(found), task))


def bench_task() -> Task:
    """What a step's functions are told."""
    folder = Path(tempfile.mkdtemp())
    return Task(stage="00-bench", seed=0, index=0, count=1, folder=folder, scratch=folder)


def peer(python: Path, script: str, texts: Sequence[str], core: int) -> Callable[[bool], tuple[float, Any]]:
    """A peer that waits for its turns. script: Python that defines `run(texts)`; the call gives (seconds, answers)."""
    file = Path(tempfile.mkdtemp()) / "texts.jsonl"
    file.write_text("".join(json.dumps(text) + "\n" for text in texts), encoding="utf-8")
    source = PEER.format(core=core, script=script)
    quiet = {**os.environ, **ONE_THREAD, "PYTHONWARNINGS": "ignore", "PYTHONPATH": ""}
    process = subprocess.Popen(
        [python, "-c", source, file],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=quiet,
    )

    def turn(answers: bool = False) -> tuple[float, Any]:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("answers\n" if answers else "turn\n")
        process.stdin.flush()
        for line in process.stdout:
            if line.startswith('{"seconds"'):
                told = json.loads(line)
                return told["seconds"], told["answers"]
        raise RuntimeError(f"the peer ended with {process.wait()}")

    return turn


def in_turn(
    ours: Callable[[], Any], theirs: Callable[[bool], tuple[float, Any]], turns: int = TURNS
) -> tuple[list[float], list[float], Any, Any]:
    """CPU seconds of ours and theirs, one after the other, and the answers of a first turn that is not counted.

    Ours runs `AGAIN` times a turn: it is so short that what else the machine does shows in a single run of it.
    """
    mine, (_, their) = ours(), theirs(True)
    own, other = [], []
    for _ in range(turns):
        own += [timed(ours) for _ in range(AGAIN)]
        other.append(theirs(False)[0])
    return own, other, mine, their


def reading_and_writing(found: Sequence[pa.RecordBatch]) -> float:
    """CPU seconds to write the documents to a shard and to read it, the median of several: no stage can be faster."""
    folder = Path(tempfile.mkdtemp())

    def once() -> None:
        with ShardWriter(folder, folder, "part", found[0].schema) as writer:
            for batch in found:
                writer.write(batch)
        for _ in read_batches(folder / "part.parquet"):
            pass

    return median(timed(once) for _ in range(TURNS * AGAIN))


def timed(work: Callable[[], Any]) -> float:
    """CPU seconds of this process for a piece of work."""
    began = time.process_time()
    work()
    return time.process_time() - began


def show(given: argparse.Namespace, rows: Iterable[Row | Measure]) -> None:
    """Prints each row as it comes, under the head of its table."""
    head = ""
    for row in rows:
        if not given.json and head != HEADS[type(row)]:
            head = HEADS[type(row)]
            print(head)
        print(json.dumps(asdict(row), ensure_ascii=False) if given.json else row.text(), flush=True)
