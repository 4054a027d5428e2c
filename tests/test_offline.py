"""A run asks nothing of a network: the whole chain under a guard that refuses sockets, in every process.

The guard is an audit hook, which Python's own sockets cannot get past. Any of a run's processes installs it as it
begins (`sitecustomize`), or has it from the process that it was forked from.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import TESTS

GUARD = """
import os, socket, sys
ASKED = ("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg")
NAMES = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo")

def note(name, text):
    place = os.open(os.path.join(os.environ["GUARD_NOTES"], name), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(place, f"{os.getpid()} {text}\\n".encode())
    os.close(place)

def guard(event, args):
    if event in NAMES or event in ASKED and args[0].family != socket.AF_UNIX:
        note("asked", f"{event} {args[1:]}")
        raise PermissionError(f"no network here: {event}")

sys.addaudithook(guard)
note("guarded", " ".join(sys.orig_argv))
os.register_at_fork(after_in_child=lambda: note("guarded", "forked"))
"""
CANARY = '''
import socket
from pipeline.stage import Filter, at_most

class Canary(Filter):
    """Asks for the network, once for each batch."""

    def judge(self, batch):
        if len(batch):
            for ask in (socket.socket().connect, socket.create_connection):
                try:
                    ask(("192.0.2.1", 80))
                except PermissionError:
                    continue
                raise AssertionError("the guard is asleep")
        return [at_most("asked", [0] * len(batch), 1)]
'''
SAMPLE = TESTS.parent / "sample_data/small"
RECIPE = f"""
stages:
  - use: ingest
    inputs: ["{SAMPLE}/docs/manuals.en.jsonl.gz", "{SAMPLE}/web/crawl-0.warc.gz", "{SAMPLE}/wiki-like/en.parquet"]
  - use: extract
  - use: clean
  - use: language
  - use: quality
    rules: [gopher_repetition]
  - use: exact_dedup
  - use: near_dedup
  - use: tokenizer
    vocab_size: 300
  - use: pack
    sequence_length: 32
    validation: 0.2
  - use: train
    depth: 1
    width: 32
    heads: 1
    batch: 2
    max_steps: 2
    sample_tokens: 2
"""


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """The guard's folder, which its notes go to."""
    folder = tmp_path / "guard"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(GUARD)
    return folder


def guarded_run(folder: Path, notes: Path, recipe: str) -> None:
    path = os.pathsep.join([str(notes), str(TESTS.parent)])
    environment = {**os.environ, "PYTHONPATH": path, "GUARD_NOTES": str(notes)}
    command = [sys.executable, "-m", "pipeline.cli", "run", recipe, "--workers", "2", "--limit", "60", "--quiet"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_run_from_dumps_to_a_model_asks_nothing_of_a_network(tmp_path: Path, notes: Path) -> None:
    (tmp_path / "whole.yaml").write_text(RECIPE)
    guarded_run(tmp_path, notes, "whole.yaml")
    assert not (notes / "asked").exists(), (notes / "asked").read_text()
    guarded = (notes / "guarded").read_text().splitlines()
    assert len({line.split()[0] for line in guarded}) >= 4  # the parent, two workers, the pages' process
    assert any("stages.readers.page" in line for line in guarded)
    assert (tmp_path / "runs/whole-limit-60/10-train/model/config.json").is_file()


def test_the_guard_is_awake_in_workers(tmp_path: Path, notes: Path) -> None:
    (tmp_path / "canary.py").write_text(CANARY)
    (tmp_path / "lines.txt").write_text("one\ntwo\n")
    (tmp_path / "canary.yaml").write_text(
        "stages:\n  - use: ingest\n    inputs: [lines.txt]\n    documents: line\n  - use: canary:Canary\n"
    )
    guarded_run(tmp_path, notes, "canary.yaml")
    asked = [line.split() for line in (notes / "asked").read_text().splitlines()]
    parent = (notes / "guarded").read_text().split()[0]
    assert {event for _, event, *_ in asked} == {"socket.connect", "socket.getaddrinfo"}
    assert parent not in {process for process, *_ in asked}
