"""The examples in `--help` work as they are typed, in their order, in an empty folder; only what takes long is cut."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable

import pytest
from typer.testing import CliRunner

from pipeline.cli import app

pytestmark = pytest.mark.timeout(900)  # the first test waits for all the examples
Call = Callable[..., "subprocess.CompletedProcess[str]"]
COMMANDS = [
    str(command.name or command.callback.__name__).replace("_", "-")
    for command in app.registered_commands
    if command.callback
]
TINY = "--set stages.tokenizer.vocab_size=600 --set stages.train.max_steps=2 --set stages.train.sample_tokens=4"
SHORTER = {
    "run": TINY,
    "train": "--set max_steps=1 --set sample_tokens=4",
    "ablate": "--set max_steps=1 --set sample_tokens=4 --seeds 1",
    "generate": "--tokens 4",
    "bench-inference": "--prompt 4 --tokens 2",
}
"""What is added to an example so that it ends soon."""


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Call:
    """Runs `gristmill` in one folder, which has only what the examples themselves take for granted."""
    folder = tmp_path_factory.mktemp("newcomer")
    (folder / "questions.jsonl").write_text('{"query": "The mill", "choices": [" grinds", " flies"], "gold": 0}\n')

    def called(*words: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "pipeline.cli", *words]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)

    for name, like in (("a.yaml", "ablate_raw"), ("b.yaml", "ablate_clean")):
        assert called("init", name, "--like", like).returncode == 0
        recipe = folder / name
        recipe.write_text(recipe.read_text("utf-8").replace("vocab_size: 4096", "vocab_size: 600"), "utf-8")
    return called


def example(*command: str) -> list[str]:
    """The words of a command's example, without the output's redirection."""
    usage = CliRunner().invoke(app, [*command, "--help"]).stdout
    found = re.search(r"Example:\s+gristmill\s+(.*?)\.?\n\n", usage, re.DOTALL)
    assert found, usage
    return shlex.split(" ".join(found[1].split()).partition(" >")[0])


@pytest.fixture(scope="module")
def examples(call: Call) -> dict[str, tuple[list[str], "subprocess.CompletedProcess[str]"]]:
    """Each command → its example and what came of it, one after the other: later ones ask what earlier ones made."""
    found = {}
    for command in COMMANDS:
        words = example(command)
        typed = [an_id(call) if word == "ID" else word for word in words]
        found[command] = words, call(*typed, *shlex.split(SHORTER.get(command, "")))
    return found


def an_id(call: Call) -> str:
    rows = json.loads(call("sample", "runs/my", "near_dedup", "-n", "1", "--json").stdout)
    found: str = rows[0]["id"]
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_the_example_works(
    examples: dict[str, tuple[list[str], "subprocess.CompletedProcess[str]"]], command: str
) -> None:
    words, done = examples[command]
    assert words[0] == command
    assert done.returncode == 0, done.stderr
    assert done.stdout or command == "init"


def test_the_programs_own_example_is_that_of_run() -> None:
    assert example() == ["run", "my.yaml"]
