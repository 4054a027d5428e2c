"""Names, messages and documents are hostile: nothing of them steers a terminal or breaks JSON."""

import base64
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.terminal import as_json, printable
from tests.conftest import Cli

EVIL = "\x1b]52;c;cHduZWQ=\x07\x1b[2J"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@given(st.text(st.characters(codec=None)))
def test_nothing_is_left_that_steers(text: str) -> None:
    assert not CONTROL.search(printable(text))
    printable(text).encode()
    shown = as_json({"text": text, "bytes": b"\xff"})
    shown.encode()
    assert not CONTROL.search(shown.replace("\n", ""))
    assert json.loads(shown) == {"text": text, "bytes": base64.b64encode(b"\xff").decode()}


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    (tmp_path / "evil.csv").write_text(f"{EVIL}col,b\nA,B\n")
    (tmp_path / f"x{EVIL.replace('/', '')}.foo").write_text("x")
    pq.write_table(pa.table({"text": ["a", EVIL], "id": [EVIL, "b"]}), tmp_path / "t.parquet")
    (tmp_path / "column.yaml").write_text("stages: [{use: ingest, inputs: [evil.csv]}]")
    (tmp_path / "name.yaml").write_text("stages: [{use: ingest, inputs: ['x*']}]")
    (tmp_path / "text.yaml").write_text(
        "stages: [{use: ingest, id_field: id, inputs: [t.parquet]}, {use: exact_dedup}]"
    )
    (tmp_path / "key.yaml").write_text(json.dumps({"stages": [{"use": "ingest", EVIL: 1}], EVIL: 2}))
    return tmp_path


def test_no_command_passes_them_on(evil: Path, cli: Cli) -> None:
    assert cli("run", "text.yaml", "--quiet").returncode == 0
    commands = [("check", f"{name}.yaml") for name in ("column", "name", "key")]
    commands += [("run", f"{name}.yaml") for name in ("column", "name", "text")]
    commands += [("show", "runs/text", "ingest"), ("sample", "runs/text", "ingest"), ("explain", "runs/text", EVIL)]
    commands += [("show", "runs/text", "ingest", "--json"), ("status", "runs/text"), ("check", f"no{EVIL}.yaml")]
    commands += [("show", f"runs{EVIL}", "x"), ("sample", "runs/text", EVIL), ("stages", EVIL)]
    for command in commands:
        done = cli(*command)
        assert not CONTROL.search((done.stdout + done.stderr).replace("\n", "")), command
        assert "Traceback" not in done.stderr, command


def test_pages_are_shown_as_base64_in_json(tmp_path: Path, cli: Cli) -> None:
    pq.write_table(pa.table({"page": [b"<p>a \xff page</p>"]}), tmp_path / "pages.parquet")
    (tmp_path / "r.yaml").write_text("stages: [{use: ingest, html_field: page, inputs: [pages.parquet]}]")
    assert cli("run", "r.yaml", "--quiet").returncode == 0
    for command in ("show", "sample"):
        (row,) = json.loads(cli(command, "runs/r", "ingest", "--json").stdout)
        assert base64.b64decode(row["payload"]) == b"<p>a \xff page</p>"
