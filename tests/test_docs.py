"""The READMEs: their stage runs, their commands exist, and the two keep step."""

import re
from pathlib import Path

import pytest

from tests.conftest import Cli

ROOT = Path(__file__).parent.parent
READMES = [ROOT / "README.md", ROOT / "README.zh-CN.md"]


def blocks(path: Path, kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", path.read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_the_stage_of_ten_lines_runs(cli: Cli, tmp_path: Path, readme: Path) -> None:
    (code,) = blocks(readme, "python")
    (tmp_path / "my_stages.py").write_text(code)
    (tmp_path / "loud.txt").write_text("STOP SHOUTING AT ME\nspeak softly and be heard\n")
    (tmp_path / "r.yaml").write_text(
        "stages:\n  - use: ingest\n    inputs: [loud.txt]\n    documents: line\n  - use: my_stages:NoShouting\n"
    )
    done = cli("run", "r.yaml")
    assert done.returncode == 0, done.stderr
    shown = cli("sample", "runs/r", "no_shouting", "--dropped").stdout
    assert "STOP SHOUTING" in shown
    assert "softly" not in shown


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_commands_and_flags_exist(cli: Cli, readme: Path) -> None:
    lines = [line for block in blocks(readme, "text") for line in block.splitlines() if line.startswith("gristmill ")]
    assert len(lines) == 16
    for line in lines:
        command = line.split()[1]
        usage = cli(command, "--help").stdout
        assert "Example: gristmill" in " ".join(usage.split())
        assert all(flag in usage for flag in re.findall(r"--[a-z]+", line))


def test_make_targets_exist() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for readme in READMES:
        for block in blocks(readme, "sh"):
            assert set(re.findall(r"^make ([a-z]+)", block, re.MULTILINE)) <= set(targets)


def test_the_two_keep_step() -> None:
    english, chinese = (path.read_text("utf-8") for path in READMES)
    assert blocks(READMES[0], "python") == blocks(READMES[1], "python")
    assert len(re.findall(r"^\| `", english, re.MULTILINE)) == len(re.findall(r"^\| `", chinese, re.MULTILINE)) == 18


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_the_file_tree_is_the_tree(readme: Path) -> None:
    tree = next(block for block in blocks(readme, "text") if block.startswith("pipeline/"))
    named, folder = set(), ""
    for line in tree.splitlines():
        name = line.split()[0]
        folder = name if not line.startswith(" ") else folder
        named |= {folder + name} if name.endswith(".py") and line.startswith(" ") else set()
    kept = [path.relative_to(ROOT) for top in ("pipeline", "stages") for path in (ROOT / top).rglob("*.py")]
    assert named == {path.as_posix() for path in kept if path.name != "__init__.py" and "data" not in path.parts}
