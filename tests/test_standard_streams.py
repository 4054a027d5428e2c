"""Streams that are closed, or whose reader leaves, keep no command from its work."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Cli, digest

RECIPE = "stages:\n  - use: toy_stages:Make\n  - use: toy_stages:NoShouting\n"
GRISTMILL = f"{sys.executable} -m pipeline.cli"


def shell(folder: Path, environment: dict[str, str], line: str) -> "subprocess.CompletedProcess[str]":
    command = ["bash", "-c", f"set -o pipefail; {line}"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_run_whose_streams_are_closed_is_done(
    cli: Cli, tmp_path: Path, environment: dict[str, str], closed: str
) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    assert shell(tmp_path, environment, f"{GRISTMILL} run r.yaml --out closed {closed}").returncode == 0
    assert cli("run", "r.yaml", "--out", "open").returncode == 0
    assert digest(tmp_path / "closed") == digest(tmp_path / "open")
    events = (tmp_path / "closed/events.jsonl").read_text().splitlines()
    assert all(line.startswith('{"at"') for line in events)


def test_a_reader_that_leaves_changes_nothing(cli: Cli, tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    run = shell(tmp_path, environment, f"{GRISTMILL} run r.yaml --out out 2>&1 | true")
    assert (run.returncode, run.stderr) == (0, "")
    assert cli("verify", "out").returncode == 0
    read = shell(tmp_path, environment, f"{GRISTMILL} show out make -n 200 | head -1")
    assert (read.returncode, read.stderr) == (0, "")
    (tmp_path / "out/01-make/part-00000.parquet").unlink()
    assert shell(tmp_path, environment, f"{GRISTMILL} verify out | true").returncode == 3


def test_an_answer_that_cannot_be_written_is_a_failure(cli: Cli, tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    full = shell(tmp_path, environment, f"{GRISTMILL} check r.yaml > /dev/full")
    assert full.returncode == 1
    assert "stopped: OSError: [Errno 28] No space left on device" in full.stderr
    assert "Traceback" not in full.stderr


def test_a_folder_that_cannot_be_made_is_one_clear_message(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    (tmp_path / "file").touch()
    done = cli("run", "r.yaml", "--out", "file/out")
    assert done.returncode == 1
    assert "stopped: NotADirectoryError" in done.stderr
    assert "Traceback" not in done.stderr
