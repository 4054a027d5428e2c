"""The wheel: what is in it, and that it works in an empty folder, without the checkout."""

import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built as `pip install .` builds it; by the hatchling that is installed, if one is."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    command += ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("gristmill-*.whl")
    return built


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def below(folder: Path, pattern: str) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob(pattern) if p.is_file()}


def test_it_holds_the_licence_and_those_of_what_it_ships(unpacked: Path) -> None:
    (info,) = unpacked.glob("gristmill-*.dist-info")
    assert (info / "licenses/LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert below(info / "licenses/LICENSES", "*") == below(ROOT / "LICENSES", "*")


def test_it_holds_recipes_sample_tables_and_marks(unpacked: Path) -> None:
    assert below(unpacked / "pipeline/configs", "*") == below(ROOT / "configs", "*")
    assert below(unpacked / "pipeline/sample_data", "*") == below(ROOT / "sample_data/small", "*")
    tables = {p.name for p in (ROOT / "stages/data").iterdir() if p.is_file()}
    assert {p.name for p in (unpacked / "stages/data").iterdir()} == tables
    assert all((unpacked / package / "py.typed").is_file() for package in ("pipeline", "stages"))
    assert {p.name for p in unpacked.iterdir() if not p.name.endswith(".dist-info")} == {"pipeline", "stages"}


def test_it_is_no_larger_than_its_tables_and_the_sample_ask(wheel: Path) -> None:
    assert wheel.stat().st_size < 10_000_000


def test_a_newcomer_begins_and_runs_in_an_empty_folder(unpacked: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}

    def call(*words: str) -> str:
        command = [sys.executable, *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert str(unpacked) in call("-c", "import pipeline, stages; print(pipeline.__file__, stages.__file__)")
    call("-m", "pipeline.cli", "init")
    call("-m", "pipeline.cli", "check", "recipe.yaml")
    planned = call("-m", "pipeline.cli", "plan", "recipe.yaml", "--limit", "200")
    assert "01-ingest" in planned
    assert "10-train" in planned
    (tmp_path / "books.yaml").write_text("stages:\n  - use: ingest\n    inputs: ['sample_data/books/*.txt']\n")
    call("-m", "pipeline.cli", "run", "books.yaml", "--workers", "1", "--quiet")
    assert "3" in call("-m", "pipeline.cli", "status", "runs/books")
