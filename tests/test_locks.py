"""One run in a folder at a time, also beside workers that a killed run left, and on file systems without locks."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pipeline.locks
from pipeline.locks import LOCK, LockedError, alone, at_work

HOLD = """\
import sys
from pathlib import Path
from pipeline.locks import at_work
with at_work(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def no_locks(*_: Any) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def test_a_second_run_is_told_who_has_the_folder(tmp_path: Path) -> None:
    told = rf"another run \(process {os.getpid()}\) is at work"
    with alone(tmp_path) as note, pytest.raises(LockedError, match=told), alone(tmp_path):
        pass
    assert note == ""
    with alone(tmp_path):
        pass


def test_a_worker_of_a_killed_run_keeps_a_new_run_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / LOCK).write_text("elsewhere 1")
    monkeypatch.setattr(pipeline.locks, "WAIT_SECONDS", 0.2)
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"held\n"
        with pytest.raises(LockedError, match="a worker of a killed run"), alone(tmp_path):
            pass
        worker.kill()
    with alone(tmp_path):
        pass


def test_workers_share_their_runs_folder_and_no_others(tmp_path: Path) -> None:
    with alone(tmp_path), at_work(tmp_path), at_work(tmp_path):
        pass
    with at_work(tmp_path / "unlocked"):
        pass
    with (tmp_path / LOCK).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(LockedError, match="another run has taken this folder"), at_work(tmp_path):
            pass


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is no other way")
def test_without_locks_the_runs_of_one_machine_are_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", no_locks)
    with alone(tmp_path) as note, at_work(tmp_path):
        assert "without locks (No locks available)" in note
        with pytest.raises(LockedError, match="another run is at work"), alone(tmp_path):
            pass
    with alone(tmp_path):
        pass


def test_where_nothing_keeps_runs_apart_one_line_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", no_locks)
    monkeypatch.setattr(sys, "platform", "elsewhere")
    with pytest.raises(LockedError, match=r"no locks.*give an --out on another disk"), alone(tmp_path):
        pass
