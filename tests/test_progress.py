"""What a person sees of a run: a live line on a terminal, plain lines elsewhere, and nothing loaded for either."""

import os
import subprocess
import sys

import pytest

PROGRAM = """\
import sys
from pipeline.events import RunStarted
from pipeline.progress import Progress
with Progress(quiet=sys.argv[1] == "quiet") as progress:
    progress(RunStarted("runs/one", 2, 3))
print("rich" in sys.modules)
"""


@pytest.mark.parametrize(
    ("quiet", "forced", "loaded", "said"),
    [
        ("quiet", {}, "False", ""),
        ("loud", {}, "False", "run runs/one: 2 of 3 stages to do\n"),
        ("loud", {"TTY_COMPATIBLE": "0"}, "True", "run runs/one: 2 of 3 stages to do\n"),
        ("loud", {"FORCE_COLOR": "1"}, "True", "\x1b"),
    ],
)
def test_rich_is_loaded_where_a_terminal_may_show_it(
    quiet: str, forced: dict[str, str], loaded: str, said: str
) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "TTY_COMPATIBLE")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, quiet], capture_output=True, text=True, check=True, env=environment | forced
    )
    assert done.stdout.strip() == loaded
    assert said in done.stderr if said == "\x1b" else done.stderr == said
