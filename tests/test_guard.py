"""What is held against a page and what against the machine, and whose time it is."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.engines.fused import cpu_seconds
from stages.extract import MEMORY_BYTES, Extract
from stages.readers.guard import Fault, Guard, Text
from tests.conftest import Cli

GOOD = ("text/html", b"<html><body><p>" + b"A page of honest prose about mills. " * 20 + b"</p></body></html>")
SLOW = ("text/html", b"<div>" * 5000 + b"<p>deep but allowed</p>")
linux = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds its children in /proc")


def settings(**more: Any) -> dict[str, Any]:
    stage = {key: more.pop(key) for key in list(more) if key in Extract.model_fields}
    return {**Extract(**stage).model_dump(exclude={"max_page_bytes"}), "memory_bytes": MEMORY_BYTES, **more}


def extractors() -> set[int]:
    tasks = Path(f"/proc/{os.getpid()}/task").iterdir()
    return {int(child) for task in tasks for child in (task / "children").read_text("ascii").split()}


@contextmanager
def killing(times: int, after: float = 0.0) -> Iterator[list[int]]:
    """Kills so many of the processes that are started meanwhile, each `after` seconds from when it is seen."""
    killed: list[int] = []
    over = threading.Event()
    before = extractors()

    def kill() -> None:
        while not over.is_set() and len(killed) < times:
            for child in extractors() - before - set(killed):
                time.sleep(after)
                os.kill(child, signal.SIGKILL)
                killed.append(child)
            time.sleep(0.005)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


ATTRIBUTES = b" ".join(b"a%d=b" % k for k in range(10_000))
SHAPES = {
    b"<div>" * 50_000 + b"x": "page_too_deep",
    b"".join(b"<p><font size=%d>x" % k for k in range(800)): "page_too_deep",
    b"<div>" * 400 + b"<i>x</i>" * 60_000: "page_too_deep",
    b"<p " + ATTRIBUTES + b">x": "page_too_complex",
    (b"<p " + ATTRIBUTES[:40_000] + b">x</p>") * 3: "page_too_complex",
}


@pytest.mark.parametrize("engine", ["resiliparse", "trafilatura"])
def test_the_shape_of_a_page_decides_before_the_clock(engine: str) -> None:
    with Guard(settings(engine=engine, timeout_seconds=20)) as guard:
        results = guard.extract([("text/html", page) for page in SHAPES])
    assert [result.reason for result in results if isinstance(result, Fault)] == list(SHAPES.values())


def test_ordinary_shapes_pass_whatever_their_size() -> None:
    image = b'<img src="data:image/png;base64,' + b"QUJD" * 100_000 + b'">'
    drawing = b'<svg><path d="' + b"M 1 2 L 3 4 " * 20_000 + b'"/></svg>'
    script = b"<script>if (a <b) x = [" + b"1, 2, 3, " * 20_000 + b"]</script>"
    lines = b"<br>line" * 50_000
    nested = b"<div>" * 300 + b"within" + b"</div>" * 300
    unclosed = b"<li>item" * 20_000
    with Guard(settings(main_content=False)) as guard:
        results = guard.extract(
            [("", b"<p>words</p>" + more) for more in (image, drawing, script, lines, nested, unclosed)]
        )
    assert [type(result) for result in results] == [Text] * 6


def test_a_page_that_is_only_slow_is_told_as_depending_on_the_machine() -> None:
    with Guard(settings(timeout_seconds=0.02)) as guard:
        first, slow, last = guard.extract([GOOD, ("", b"<div>" * 7000), GOOD])
    assert isinstance(slow, Fault)
    assert slow.reason == "page_timeout"
    assert "depends on the machine" in slow.detail
    assert first == last
    assert isinstance(last, Text)


def test_a_page_gets_more_time_alone_before_it_is_blamed() -> None:
    with Guard(settings()) as guard:
        began = cpu_seconds()
        guard.extract([SLOW])
    needed = cpu_seconds() - began
    with Guard(settings(timeout_seconds=needed / 2)) as guard:
        (result,) = guard.extract([SLOW])
    assert isinstance(result, Text)


@linux
@pytest.mark.parametrize("after", [0.0, 0.3])
def test_an_extractor_killed_from_outside_changes_nothing(after: float) -> None:
    with Guard(settings()) as guard:
        calm = guard.extract([GOOD, SLOW, GOOD])
    with killing(1, after) as killed, Guard(settings()) as guard:
        assert guard.extract([GOOD, SLOW, GOOD]) == calm
    assert len(killed) == 1


@linux
def test_an_extractor_killed_between_batches_changes_nothing() -> None:
    with Guard(settings()) as guard:
        before = extractors()
        calm = guard.extract([GOOD])
        for child in extractors() - before:
            os.kill(child, signal.SIGKILL)
        assert guard.extract([GOOD]) == calm


@linux
@pytest.mark.parametrize("after", [0.0, 0.3])
def test_extractors_killed_again_and_again_stop_the_task(after: float) -> None:
    with killing(100, after), Guard(settings()) as guard, pytest.raises(ChildProcessError, match="SIGKILL"):
        guard.extract([SLOW])


def test_where_a_harmless_page_fails_too_the_machine_is_at_fault() -> None:
    with Guard(settings(memory_bytes=1)) as guard, pytest.raises(ChildProcessError, match="harmless"):
        guard.extract([GOOD])


def test_memory_is_a_fault_of_the_page_that_needs_it() -> None:
    with Guard(settings(memory_bytes=300 << 20)) as guard:
        results = guard.extract([GOOD, ("", b"<p>words of text</p>\n" * 900_000), GOOD])
    assert [type(result) for result in results] == [Text, Fault, Text]


def test_time_of_ended_extractors_counts() -> None:
    own, began = time.process_time(), cpu_seconds()
    with Guard(settings()) as guard:
        guard.extract([SLOW])
    assert cpu_seconds() - began > 2 * (time.process_time() - own)


@pytest.mark.parametrize("how", ["keep", "fuse"])
def test_a_stage_has_the_time_of_its_extractors_fused_or_not(how: str, cli: Cli, tmp_path: Path) -> None:
    pages = [json.dumps({"html": SLOW[1].decode()}), json.dumps({"html": GOOD[1].decode()})]
    (tmp_path / "in.jsonl").write_text("\n".join(pages))
    stages = "- {use: ingest, inputs: [in.jsonl], html_field: html}\n- use: extract\n- use: clean\n"
    recipe = f"intermediates: {how}\nstages:\n{stages}"
    (tmp_path / "r.yaml").write_text(recipe)
    done = cli("run", "r.yaml", "--out", "out", "--workers", 1)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in (tmp_path / "out/events.jsonl").read_text("utf-8").splitlines()]
    spent = {event["stage"]: event["cpu_seconds"] for event in events if event["event"] == "StageDone"}
    with Guard(settings()) as guard:
        began = cpu_seconds()
        guard.extract([SLOW])
    assert spent["02-extract"] > (cpu_seconds() - began) / 2
    assert 0 <= spent["01-ingest"] < spent["02-extract"]
