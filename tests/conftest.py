"""What tests share: the command line as a user calls it, recipes on disk, and a run's bytes as one digest."""

import hashlib
import os
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

import stages.kernels
from pipeline.engines.ahead import compile_ahead

settings.register_profile("mill", deadline=None)  # a busy machine is no fault of a text
settings.load_profile("mill")
TESTS = Path(__file__).parent
Cli = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_sessionstart() -> None:
    """Compiles the kernels whose sources changed: numba alone would go on with old code of those that others link.
    Where tests run in parallel, before their processes start."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    compile_ahead((f"stages.kernels.{module.name}" for module in pkgutil.iter_modules(stages.kernels.__path__)), print)


@pytest.fixture
def environment() -> dict[str, str]:
    """The environment of a user who has the toy stages beside the recipe."""
    return {**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}"}


@pytest.fixture
def cli(tmp_path: Path, environment: dict[str, str]) -> Cli:
    """Runs `gristmill` in an empty folder; output is text."""

    def call(*words: object, cwd: Path = tmp_path) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "pipeline.cli", *map(str, words)]
        return subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240, check=False
        )

    return call


def digest(run: Path) -> dict[str, str]:
    """sha256 of every file of a run but its logs: what must not depend on workers or crashes."""
    left_out = {"events.jsonl", "run.json", "inputs.json", "report.html", ".lock"}
    paths = [p for p in sorted(run.rglob("*")) if p.is_file() and p.name not in left_out]
    return {p.relative_to(run).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}
