"""Whose fault an exception is: the machine's is tried again, a stage's stops the run with its place, a document's is
quarantined."""

import errno
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.faults import told
from pipeline.rows import DOCUMENT
from pipeline.stage import Emit, StageFault, Task, each_batch
from tests.conftest import Cli, digest

STAGE = """\
from pathlib import Path

from pipeline.stage import Filter, at_most


class Judge(Filter):
    \"\"\"Judges.\"\"\"

    marker: str = ""

    def rules(self):
        return ("n",)

    def judge(self, batch):
        texts = batch["text"].to_pylist()
        return [at_most("n", [{expression} for text in texts], 1)]
"""


READ_ERROR = "open('/proc/self/mem', 'rb').read(1)"
IMPATIENT = """\
import pipeline.cli, pipeline.engines.local
pipeline.engines.local.PAUSES = (0, 0.01, 0.02)
pipeline.cli.main()
"""


@pytest.fixture
def impatient(tmp_path: Path, environment: dict[str, str]) -> Cli:
    """Runs `gristmill` with short pauses between attempts."""

    def call(*words: object) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-c", IMPATIENT, *map(str, words)]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return call


def recipe(folder: Path, expression: str, texts: int = 3, **settings: object) -> Path:
    (folder / "in.jsonl").write_text("".join(f'{{"text": "document {k}"}}\n' for k in range(texts)))
    (folder / "my_judge.py").write_text(STAGE.format(expression=expression))
    given = "".join(f"\n    {name}: {value}" for name, value in settings.items())
    path = folder / "recipe.yaml"
    path.write_text(f"max_bad: 1\nstages:\n  - use: ingest\n    inputs: [in.jsonl]\n  - use: my_judge:Judge{given}\n")
    return path


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return Task("01-toy", 0, 0, 1, tmp_path, tmp_path)


def batch(*texts: str) -> pa.RecordBatch:
    rows = [{"id": text, "text": text, "source": f"{text}:0"} for text in texts]
    return pa.RecordBatch.from_pylist(rows, schema=DOCUMENT)


def emits(function: Callable[[str], object], task: Task, *texts: str) -> list[Emit]:
    def run(rows: pa.RecordBatch, _: Task) -> Emit:
        for text in rows["text"].to_pylist():
            function(text)
        return Emit(rows=rows)

    batches: Iterator[pa.RecordBatch] = iter([batch(*texts)])
    return list(each_batch(run)(batches, task))


def test_a_fault_of_the_machine_is_raised_even_if_it_comes_while_rows_are_tried_alone(task: Task) -> None:
    calls = iter(range(100))

    def function(text: str) -> None:
        if "bad" in text:
            raise ValueError(text)
        if next(calls) == 1:
            raise OSError(errno.EIO, "read error")

    with pytest.raises(OSError, match="read error"):
        emits(function, task, "a", "bad", "b")


@pytest.mark.parametrize("error", [MemoryError(), ImportError("no such library"), OSError(errno.EIO, "disk")])
def test_what_only_the_machine_can_mean_quarantines_nothing(task: Task, error: Exception) -> None:
    def function(text: str) -> None:
        raise error

    with pytest.raises(type(error)):
        emits(function, task, "a", "b")


def test_numba_that_cannot_compile_is_no_fault_of_a_document(task: Task) -> None:
    from numba import njit
    from numba.core.errors import NumbaError

    kernel = njit(lambda text: text.no_such_thing)
    with pytest.raises(NumbaError):
        emits(kernel, task, "a", "b")


def test_what_fails_without_any_document_is_the_stages_fault(task: Task) -> None:
    def run(rows: pa.RecordBatch, _: Task) -> Emit:
        return Emit(rows=no_such_name)  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(StageFault, match=r"NameError: .*test_faults.py:\d+, in run\); it fails without any document"):
        list(each_batch(run)(iter([batch("a", "b")]), task))


@pytest.mark.parametrize("texts", [("a",), ("a", "b", "c")])
def test_what_fails_for_every_document_alike_is_the_stages_fault(task: Task, texts: tuple[str, ...]) -> None:
    def function(text: Any) -> None:
        text.no_such_attribute()

    with pytest.raises(StageFault, match="fails for every document alike"):
        emits(function, task, *texts)


def test_documents_that_all_fail_where_an_ordinary_one_does_not_are_quarantined(task: Task) -> None:
    def function(text: str) -> None:
        if "bad" in text:
            raise ValueError(f"\x1b[31m{text}\ud800")

    (emit,) = emits(function, task, "bad 1", "bad 2")
    assert emit.rows is None
    assert emit.quarantine is not None
    assert emit.quarantine["detail"][0].as_py().startswith("ValueError: \\x1b[31mbad 1\\ud800 (tests/test_faults.py:")


def test_a_stage_that_cannot_do_without_rows_still_has_its_bad_documents_quarantined(task: Task) -> None:
    def run(rows: pa.RecordBatch, _: Task) -> Emit:
        max(rows["text"].to_pylist())
        if "bad" in rows["text"].to_pylist():
            raise ValueError
        return Emit(rows=rows)

    found = list(each_batch(run)(iter([batch("a", "bad", "b")]), task))
    assert [len(emit.rows) for emit in found if emit.rows is not None] == [1, 1]
    assert [len(emit.quarantine) for emit in found if emit.quarantine is not None] == [1]


def test_a_panic_of_a_librarys_rust_costs_its_document_alone(task: Task) -> None:
    class PanicException(BaseException):
        pass

    def function(text: str) -> None:
        if text == "bad":
            raise PanicException("index out of bounds")

    found = emits(function, task, "a", "bad")
    assert sum(len(emit.quarantine) for emit in found if emit.quarantine is not None) == 1


def test_an_exception_that_cannot_say_what_it_means_is_still_named() -> None:
    class Mute(Exception):  # noqa: N818
        def __str__(self) -> str:
            raise RuntimeError

    assert told(Mute()) == "Mute: (its message cannot be made)"


def test_a_stage_of_ones_own_that_raises_stops_the_run_with_file_and_line(cli: Cli, tmp_path: Path) -> None:
    done = cli("run", recipe(tmp_path, 'text["x"]'))
    assert done.returncode == 1
    assert f"TypeError: string indices must be integers, not 'str' ({tmp_path}/my_judge.py:16" in done.stderr
    assert 'return [at_most("n", [text["x"] for text in texts], 1)]' in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs/run/02-judge/quarantine").exists()
    assert "GRISTMILL_DEBUG" in cli("--help").stdout


def test_a_module_of_ones_own_that_cannot_be_loaded_is_named_with_its_line(cli: Cli, tmp_path: Path) -> None:
    path = recipe(tmp_path, "1")
    for text, told_ in (("x = (", "SyntaxError: '(' was never closed (my_judge.py, line 1)"), ("1 / 0", "division")):
        (tmp_path / "my_judge.py").write_text(text)
        done = cli("check", path)
        assert done.returncode == 2
        assert f"{path}:5:5: `my_judge:Judge` cannot be loaded: " in done.stderr
        assert told_ in done.stderr
        assert "Traceback" not in done.stderr


def test_one_read_error_is_tried_again_and_costs_no_row(cli: Cli, impatient: Cli, tmp_path: Path) -> None:
    once = (
        "0 if Path(self.marker).exists() else (Path(self.marker).touch(), open('/proc/self/mem', 'rb').read(1))[0] or 0"
    )
    failing = cli("run", recipe(tmp_path, once, marker=tmp_path / "failed"), "--out", "once")
    assert failing.returncode == 0, failing.stderr
    assert "OSError: [Errno 5] Input/output error" in failing.stderr
    assert "trying again" in failing.stderr
    again = cli("run", tmp_path / "recipe.yaml", "--out", "calm")
    assert again.returncode == 0
    assert digest(tmp_path / "once") == digest(tmp_path / "calm")


def test_a_read_error_that_stays_stops_the_run_with_its_cause(impatient: Cli, tmp_path: Path) -> None:
    done = impatient("run", recipe(tmp_path, READ_ERROR))
    assert done.returncode == 1
    assert "OSError: [Errno 5] Input/output error" in done.stderr
    assert "it failed 3 times" in done.stderr
    assert not (tmp_path / "runs/run/02-judge/quarantine").exists()
