"""Workers that are branched off: only from a process with one thread, and never left behind. Each in a fresh Python."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

READY = ("engine = LocalEngine(3)", "engine.prepare()", "engine.warm()")
forks = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is forked: processes are spawned")


def started(*lines: str) -> "subprocess.Popen[str]":
    program = "\n".join(("import os, sys, threading, time", "from pipeline.engines.local import LocalEngine", *lines))
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)


def printed(*lines: str) -> str:
    told, _ = started(*lines).communicate(timeout=60)
    return told.strip()


@forks
def test_workers_started_ahead_have_what_their_parent_has_loaded() -> None:
    lines = (*READY, "print(len(engine._idle), 'numba' in sys.modules)")
    kind = "print({type(worker.process).__name__ for worker in engine._idle})"
    assert printed(*lines, kind, "engine.close()") == "3 True\n{'ForkProcess'}"


def test_a_process_with_threads_loads_nothing_and_spawns_one() -> None:
    thread = "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()"
    lines = (*READY, "print(len(engine._idle), 'numba' in sys.modules)")
    kind = "print({type(worker.process).__name__ for worker in engine._idle})"
    assert printed(thread, *lines, kind, "engine.close()") == "1 False\n{'SpawnProcess'}"


@forks
def test_workers_started_ahead_share_numbas_tables() -> None:
    known = "print(len(__import__('numba').core.registry.cpu_target.target_context._defns) > 100)"
    assert printed(*READY[:2], known, READY[2], known, "engine.close()") == "False\nTrue"


@forks
def test_a_plan_that_starts_threads_leaves_workers_to_be_spawned() -> None:
    thread = "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()"
    assert printed(*READY[:2], thread, READY[2], "print(len(engine._idle))", "engine.close()") == "0"


@forks
def test_libraries_that_start_threads_make_it_spawn() -> None:
    lines = (
        "from pipeline.engines.processes import load",
        "start = lambda: threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
        "print(load(lambda: None), load(start), load(lambda: None))",
    )
    assert printed(*lines) == "True False False"


@forks
def test_a_branch_has_one_thread_for_all_its_libraries_and_its_parent_keeps_its_variables() -> None:
    lines = (
        "from pipeline.engines.processes import branch, load",
        "os.environ.pop('RAYON_NUM_THREADS', None)",
        "load(lambda: None)",
        "branch(lambda: print(os.environ['RAYON_NUM_THREADS'], flush=True)).join()",
        "print('RAYON_NUM_THREADS' in os.environ)",
    )
    assert printed(*lines) == "1\nFalse"


@forks
def test_a_branch_that_is_asked_to_end_does_not_do_as_its_parent_would() -> None:
    lines = (
        "import signal",
        "signal.signal(signal.SIGTERM, signal.default_int_handler)",
        *READY,
        "worker = engine._idle[0].process",
        "os.kill(worker.pid, signal.SIGTERM)",
        "worker.join(30)",
        "print(worker.exitcode, signal.getsignal(signal.SIGTERM) is signal.default_int_handler)",
        "engine.close()",
    )
    assert printed(*lines) == "-15 True"


@forks
def test_workers_end_when_their_parent_is_killed() -> None:
    process = started(
        *READY,
        "print(*(worker.process.pid for worker in engine._idle), flush=True)",
        "time.sleep(60)",
    )
    assert process.stdout is not None
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == 3
    assert all(_is_there(pid) for pid in workers)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    until = time.monotonic() + 20
    while any(_is_there(pid) for pid in workers):
        assert time.monotonic() < until
        time.sleep(0.01)


KEEPS_PYTHONS_LOCK = (
    "from multiprocessing import Pipe",
    "from pipeline.engines.processes import begin, branch",
    "from tests.toy_stages import keep_pythons_lock as keep",
    "ours, theirs = Pipe()",
)


@forks
@pytest.mark.parametrize("how", ["branch", "begin"])
def test_a_worker_that_keeps_pythons_lock_ends_with_its_parent(how: str) -> None:
    started_ = f"process = {how}(keep, theirs)"
    process = started(*KEEPS_PYTHONS_LOCK, started_, "ours.recv()", "print(process.pid, flush=True)", "time.sleep(60)")
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    assert _is_there(worker)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    until = time.monotonic() + 2
    while _is_there(worker):
        assert time.monotonic() < until
        time.sleep(0.01)


@forks
def test_a_branch_holds_no_pipe_of_an_elder_one() -> None:
    lines = (
        "from pipeline.engines.processes import branch",
        "from multiprocessing import Pipe",
        "fds = lambda *_: print(len(os.listdir('/proc/self/fd')), flush=True)",
        "branch(fds).join()",
        "ours, theirs = Pipe()",
        "elder = branch(theirs.recv)",
        "theirs.close()",
        "branch(fds, leave=[ours]).join()",
        "elder.kill()",
    )
    assert len(set(printed(*lines).split())) == 1


def test_a_child_of_a_thread_that_ends_lives_on() -> None:
    lines = (
        "from pipeline.engines.processes import begin",
        "made = []",
        "thread = threading.Thread(target=lambda: made.append(begin(time.sleep, 60)))",
        "thread.start()",
        "thread.join()",
        "time.sleep(1)",
        "print(made[0].is_alive())",
        "made[0].kill()",
    )
    assert printed(*lines) == "True"


def _is_there(pid: int) -> bool:
    """Whether a process is alive, and not only waiting for somebody to ask how it ended."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
