"""Kernels compiled ahead: what is said of them is what runs call, and nothing else is left to compile."""

import errno
import fcntl
import importlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import stages.kernels
from pipeline.engines.ahead import NO_CACHE, Kernels, compile_ahead
from pipeline.events import Event, KernelsCompiled, KernelsStarted, Notice
from tests.conftest import Cli
from tests.kernel_signatures import FILE, ROOT, kernels

RECORD = """
import json
from tests.kernel_signatures import record
engine, named = record()
print(json.dumps([engine.text(), *({k: sorted(v) for k, v in by.items() if v} for by in (engine.by_stage, named))]))
"""
NORMALISE = "stages.kernels.normalise"
RECIPE = """
stages:
  - {use: ingest, inputs: [texts.txt]}
  - use: exact_dedup
"""
OWN = """
from numba import njit

@njit(cache=True)
def twice(x):
    return x + x
"""
OWN_KERNEL = """
from stages.kernels.leaf import kernel

@kernel
def twice(x):
    return x + x
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Numba's cache, empty; beside it a recipe whose one stage with kernels needs those of `NORMALISE`."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "texts.txt").write_text("one text\n\none  text\n\nanother\n")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path / "cache"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's own file of kernels, with a signature that fits and two that do not."""
    (tmp_path / "own_kernels.py").write_text(OWN)
    signatures = {"own_kernels": {"gone": ["(int64,)"], "twice": ["(int64, int64)", "(float64,)"]}}
    (tmp_path / "signatures.json").write_text(json.dumps(signatures))
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def compiled(cache: Path) -> dict[str, bytes]:
    """What numba has compiled: its files and what is in them."""
    return {path.name: path.read_bytes() for path in cache.rglob("*.nb?")}


def ahead(*modules: str) -> list[Event]:
    told: list[Event] = []
    compile_ahead(modules, told.append)
    return told


def test_what_is_compiled_ahead_is_what_a_run_of_every_stage_calls() -> None:
    command = [sys.executable, "-c", RECORD]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    text, by_stage, named = json.loads(done.stdout)
    assert by_stage == named, "a stage's `kernels` are not those that it calls"
    assert text == FILE.read_text(), "write it anew: python -m tests.kernel_signatures"


def test_every_kernel_is_compiled_ahead_for_one_mixture_of_types() -> None:
    for module in pkgutil.iter_modules(stages.kernels.__path__):
        importlib.import_module(f"stages.kernels.{module.name}")
    here = {
        (module.rpartition(".")[2], name) for module, name, kernel in kernels() if kernel.targetoptions.get("nopython")
    }
    there = json.loads(FILE.read_text())
    assert here == {(module, name) for module, names in there.items() for name in names}
    assert all(len(signatures) == 1 for names in there.values() for signatures in names.values())


def test_a_run_compiles_ahead_says_so_and_compiles_nothing_more(folder: Path, cli: Cli) -> None:
    assert ahead(NORMALISE)[0] == KernelsStarted(1, 1)
    before = compiled(folder)
    assert len(before) == 4
    done = cli("run", "recipe.yaml", "--out", "warm")
    assert done.returncode == 0
    assert "compil" not in done.stderr
    assert compiled(folder) == before
    for path in folder.rglob("*.nb?"):
        path.unlink()
    assert "not compiled ahead" in cli("run", "recipe.yaml", "--out", "partly").stderr
    for path in folder.rglob("*.compiled"):
        path.unlink()
    done = cli("run", "recipe.yaml", "--out", "cold")
    assert "compiling kernels, once on this machine: 1 file on 1 core" in done.stderr
    assert "not compiled ahead" not in done.stderr
    events = [json.loads(line)["event"] for line in (folder.parent / "cold/events.jsonl").read_text().splitlines()]
    assert events[:4] == ["RunStarted", "KernelsStarted", "KernelsCompiled", "StageStarted"]


def test_kernels_that_another_process_compiles_are_waited_for(folder: Path) -> None:
    found = Kernels.of(NORMALISE)
    assert found is not None
    told: list[Event] = []
    waiting = threading.Thread(target=lambda: told.extend(ahead(NORMALISE)))
    with found.note.open("w") as note:
        fcntl.flock(note, fcntl.LOCK_EX)
        waiting.start()
        waiting.join(3)
        assert waiting.is_alive()
        note.write(found.key)
    waiting.join()
    assert isinstance(told[-1], KernelsCompiled)
    assert not compiled(folder)


def test_a_run_killed_while_it_compiles_is_taken_up(folder: Path, cli: Cli, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "pipeline.cli", "run", "recipe.yaml", "--out", "run"]
    with subprocess.Popen(command, cwd=folder.parent, env=environment, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        while "compiling kernels" not in run.stderr.readline():
            assert run.poll() is None
        run.send_signal(signal.SIGKILL)
    assert cli("run", "recipe.yaml", "--out", "run").returncode == 0
    assert not ahead(NORMALISE)


def test_a_changed_file_is_compiled_anew_and_a_signature_that_does_not_fit_stops_nothing(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/dev/null/no-folder")
    assert len(ahead("own_kernels")) == 2
    assert not ahead("own_kernels")
    assert {path.suffix for path in (own / "__pycache__").glob("own_kernels*twice*")} == {".nbi", ".nbc"}
    (own / "own_kernels.py").write_text(OWN.replace("x + x", "2 * x"))
    assert len(ahead("own_kernels")) == 2
    (own / "signatures.json").write_text("{}")
    assert len(ahead("own_kernels")) == 2
    assert "own_kernels" not in sys.modules


def test_a_kernel_is_compiled_anew_with_one_that_it_links_from_a_changed_file(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/dev/null/no-folder")
    (own / "third.py").write_text("from numba import njit\n\n@njit\ndef more(x):\n    return x + 1\n")
    (own / "other.py").write_text("from third import more\n")
    (own / "own_kernels.py").write_text(OWN.replace("x + x", "more(x)") + "\nfrom other import more\n")
    (own / "signatures.json").write_text(json.dumps({"own_kernels": {"twice": ["(int64,)"]}}))
    ask = [sys.executable, "-c", "import own_kernels; print(own_kernels.twice(1))"]
    assert len(ahead("own_kernels")) == 2
    assert subprocess.check_output(ask, cwd=own) == b"2\n"
    (own / "third.py").write_text((own / "third.py").read_text().replace("x + 1", "x + 2"))
    assert len(ahead("own_kernels")) == 2
    assert subprocess.check_output(ask, cwd=own) == b"3\n"


NOWHERE = {"NUMBA_CACHE_DIR": "/dev/null/none", "HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null/none"}
CALL = """
import sys
import own_kernels
print(own_kernels.twice(1), own_kernels.twice._cache.cache_path)
"""


def test_where_no_folder_can_be_written_a_kernel_is_compiled_in_memory(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own / "own_kernels.py").write_text(OWN_KERNEL)
    for name, value in NOWHERE.items():
        monkeypatch.setenv(name, value)
    (own / "__pycache__").write_text("a file where the folder would be")
    assert ahead("own_kernels") == [Notice(NO_CACHE)]
    called = subprocess.run([sys.executable, "-c", CALL], cwd=own, capture_output=True, text=True, check=False)
    assert (called.stdout, called.stderr) == ("2 None\n", "")


@pytest.mark.parametrize("left", [0, 40])
def test_a_compiled_kernel_that_the_disk_has_not_got_all_of_is_compiled_again(own: Path, left: int) -> None:
    (own / "own_kernels.py").write_text(OWN_KERNEL)
    cache = own / "__pycache__"
    for suffix in ("nbi", "nbc"):
        for _ in range(2):
            called = subprocess.run([sys.executable, "-c", CALL], cwd=own, capture_output=True, text=True, check=True)
            assert called.stdout == f"2 {cache}\n"
        (path,) = cache.glob(f"*.{suffix}")
        whole = path.read_bytes()
        path.write_bytes(whole[:left])
        subprocess.run([sys.executable, "-c", CALL], cwd=own, capture_output=True, check=True)
        assert len(path.read_bytes()) > 40


def test_kernels_are_compiled_ahead_where_files_cannot_be_locked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Kernels.of(NORMALISE)
    assert found is not None

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    monkeypatch.setattr(Kernels, "_compile", lambda *_: None)
    found.compile((), wait=False)
    assert found.are_compiled


def test_kernels_beside_a_recipe_are_compiled_ahead(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(own)])
    told: list[Event] = []
    compile_ahead(["own_kernels"], told.append, [own])
    assert told[0] == KernelsStarted(1, 1)
    assert list((own / "__pycache__").glob("own_kernels.twice*.nbc"))


def test_nothing_is_compiled_where_numba_compiles_nothing(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    assert not ahead("own_kernels")
    assert not (own / "__pycache__").exists()


def test_a_module_that_is_not_there_is_named() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"own_kernels"):
        ahead("own_kernels")
