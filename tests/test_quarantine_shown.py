"""Bad records are shown where a newcomer looks: the message that stops a run, status, show, sample, report, explain."""

import json
from pathlib import Path

import pytest

from tests.conftest import Cli

RECIPE = "stages:\n  - use: ingest\n    inputs: [in]\n    {more}\n  - use: clean\n"


@pytest.fixture
def stopped(tmp_path: Path, cli: Cli) -> str:
    """A run that is stopped, since most of its records have no text; what it said."""
    (tmp_path / "in").mkdir()
    lines = [{"id": f"d{k}", "content" if k else "text": "some text"} for k in range(5)]
    (tmp_path / "in/a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "r.yaml").write_text(RECIPE.format(more="id_field: id"))
    done = cli("run", "r.yaml", "--workers", 1)
    assert done.returncode == 1
    return done.stderr


def test_the_message_names_reason_place_and_first_records(stopped: str) -> None:
    assert "4 of 5 records are bad" in stopped
    assert "missing_text 4" in stopped
    assert "in/a.jsonl:" in stopped
    assert "no field 'text'" in stopped
    assert "gristmill sample runs/r 01-ingest --quarantined" in stopped


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (("status", "runs/r"), "01-ingest: stopped, 4 in quarantine (missing_text 4)"),
        (("show", "runs/r", "ingest"), "no field 'text'"),
        (("sample", "runs/r", "ingest", "--quarantined"), "reason: missing_text"),
        (("explain", "runs/r", "in/a.jsonl:34"), "quarantined"),
        (("explain", "runs/r", "d0"), "kept"),
    ],
)
def test_every_command_shows_it_on_a_stopped_run(stopped: str, cli: Cli, command: tuple[str, ...], shown: str) -> None:
    done = cli(*command)
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout


def test_so_does_the_report(stopped: str, cli: Cli, tmp_path: Path) -> None:
    assert cli("report", "runs/r").returncode == 0
    page = (tmp_path / "runs/r/report.html").read_text()
    assert "01-ingest (stopped)" in page
    assert "missing_text 4" in page
    assert "no field &#39;text&#39;" in page


def test_a_finished_run_shows_it_too(stopped: str, cli: Cli) -> None:
    done = cli("run", "r.yaml", "--workers", 1, "--set", "max_bad=1")
    assert done.returncode == 0, done.stderr
    assert "01-ingest: 4 in quarantine (missing_text 4)" in done.stdout
    rows = json.loads(cli("sample", "runs/r", "ingest", "--quarantined", "--rule", "missing_text", "--json").stdout)
    assert len(rows) == 4
    unknown = cli("sample", "runs/r", "ingest", "--quarantined", "--rule", "nothing")
    assert unknown.returncode == 2
    assert "there are: missing_text" in unknown.stderr
