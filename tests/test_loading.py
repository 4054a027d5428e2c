"""Python files in the working directory or beside a recipe: none runs unless the recipe names it, and none is in the
way of another."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.loading import full_name, load

ROOT = Path(__file__).parents[1]
SHADOWS = ("sitecustomize", "usercustomize", "json", "struct", "random", "socket", "pandas", "yaml", "resiliparse")
LEAVES_A_MARK = "open(__file__ + '.ran', 'w')\nraise ImportError('hijacked')\n"
OWN = """\
from pipeline.stage import Filter, at_most
import {neighbour}

class Own(Filter):
    \"\"\"Own.\"\"\"

    def judge(self, batch):
        from late import ZERO
        return [at_most("n", [ZERO + {neighbour}.ZERO] * len(batch), 1)]
"""


def gristmill(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """Runs the command as its script does: without the working directory on the search path."""
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pipeline.cli import main; main()"
    command = [sys.executable, "-P", "-c", program, *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def test_no_file_of_the_working_directory_or_beside_the_recipe_runs_unasked(tmp_path: Path) -> None:
    beside = tmp_path / "recipes"
    beside.mkdir()
    for name in SHADOWS:
        for folder in (tmp_path, beside):
            (folder / f"{name}.py").write_text(LEAVES_A_MARK)
    inputs = f'["{ROOT}/sample_data/web/crawl-0.warc.gz"]'
    (beside / "r.yaml").write_text(f"stages:\n  - use: ingest\n    inputs: {inputs}\n  - use: extract\n")
    done = gristmill(tmp_path, "run", "recipes/r.yaml", "--limit", "20", "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("*.ran"))


def test_own_modules_called_as_gristmills_packages_disturb_nothing_and_find_their_neighbours(tmp_path: Path) -> None:
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline/__init__.py").write_text(LEAVES_A_MARK)
    (tmp_path / "stages.py").write_text(OWN.format(neighbour="pandas_of_mine"))
    (tmp_path / "pandas_of_mine.py").write_text("from .late import ZERO\n")
    (tmp_path / "late.py").write_text("ZERO = 0.0\n")
    (tmp_path / "json.py").write_text(LEAVES_A_MARK)
    (tmp_path / "in.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "r.yaml").write_text("stages:\n  - use: ingest\n    inputs: [in.jsonl]\n  - use: stages:Own\n")
    done = gristmill(tmp_path, "run", "r.yaml", "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert "02-own" in done.stdout
    assert not list(tmp_path.rglob("*.ran"))


def test_a_neighbour_is_no_module_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text("import neighbour_of_mine\nclass Own: x = neighbour_of_mine.X\n")
    (tmp_path / "neighbour_of_mine.py").write_text("X = 1\n")
    path = list(sys.path)
    assert load("mine:Own", [tmp_path]).x == 1
    assert sys.path == path
    assert not {"mine", "neighbour_of_mine"} & sys.modules.keys()


def test_gristmills_own_folder_is_no_users_even_where_it_is_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "stages.py").write_text("class Own: pass\n")
    assert load("stages:Own", [ROOT, tmp_path]).__name__ == "Own"
    assert full_name("stages", [ROOT]) == "stages"
    assert load("stages.clean:Clean", [tmp_path]).__module__ == "stages.clean"
    assert full_name("../stages", [tmp_path]) == "../stages"


def test_what_a_module_of_ones_own_cannot_import_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import other_of_mine\n")
    (tmp_path / "other_of_mine.py").write_text("import there_is_none\n")
    with pytest.raises(ModuleNotFoundError, match="'there_is_none'"):
        load("mine:Own", [tmp_path])
