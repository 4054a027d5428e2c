"""`verify` against damage and tampering: each kind is reported with the file and what to do, without a traceback."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.shards import sha256_file
from pipeline.verify import verify_run
from tests.conftest import Cli

RECIPE = """\
max_bad: 0.1
stages:
  - use: ingest
    inputs: [in.jsonl]
  - use: exact_dedup
  - use: clean
  - use: tokenizer
    vocab_size: 300
  - use: pack
    sequence_length: 32
    validation: 0.2
"""
Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    lines = [json.dumps({"id": f"d{k}", "text": f"An ordinary document, number {k // 3}. " * 4}) for k in range(90)]
    (folder / "in.jsonl").write_text("\n".join([*lines, '{"text": 3}']))
    (folder / "r.yaml").write_text(RECIPE)
    command = [sys.executable, "-m", "pipeline.cli", "run", "r.yaml", "--out", "run", "--quiet", "--workers", "1"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tmp_path / "run"


def manifest(stage: str, change: Callable[[dict[str, Any]], object], *, forged: bool = False) -> Change:
    """Edits a manifest; forged: `run.json` then says that it was so."""

    def apply(run: Path) -> None:
        path = run / stage / "_manifest.json"
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))
        if forged:
            whole = json.loads((run / "run.json").read_text())
            for entry in whole["stages"]:
                entry["manifest"] = sha256_file(path) if entry["stage"] == stage else entry["manifest"]
            (run / "run.json").write_text(json.dumps(whole))

    return apply


def rewritten(stage: str, stream: str, change: Callable[[pa.Table], pa.Table]) -> Change:
    """Writes a shard anew and has the manifest say that it was so: only the proofs of what is in it are left."""

    def apply(run: Path) -> None:
        folder = run / stage
        (file, *_) = json.loads((folder / "_manifest.json").read_text())["files"][stream]
        path = folder / file["name"]
        table = change(pq.read_table(path))
        pq.write_table(table, path)

        def describe(value: dict[str, Any]) -> None:
            told = value["files"][stream][0]
            told |= {"rows": len(table), "bytes": path.stat().st_size, "sha256": sha256_file(path)}

        manifest(stage, describe, forged=True)(run)

    return apply


def damaged(name: str, change: Callable[[bytes], bytes]) -> Change:
    def apply(run: Path) -> None:
        (run / name).write_bytes(change((run / name).read_bytes()))

    return apply


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def tokens_overwritten(table: pa.Table) -> pa.Table:
    lengths = [[max(n - 1, 1) for n in row] for row in table["seq_lengths"].to_pylist()]
    return table.set_column(1, table.schema.field(1), pa.array(lengths, table.schema.field(1).type))


def unfinished(run: Path) -> None:
    whole = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(whole | {"finished": False}))


def linked(run: Path) -> None:
    (run / "03-clean").rename(run.parent / "elsewhere")
    (run / "03-clean").symlink_to(run.parent / "elsewhere")


def renamed(run: Path) -> None:
    (run / "02-exact_dedup").rename(run / "02-x")


def a_folder(run: Path) -> None:
    (run / "03-clean/_manifest.json").unlink()
    (run / "03-clean/_manifest.json").mkdir()


def linked_shard(run: Path) -> None:
    (run / SHARD).rename(run.parent / "a")
    (run / SHARD).symlink_to(run.parent / "a")


def linked_folder(run: Path) -> None:
    (run / "02-exact_dedup/drops").rename(run.parent / "drops")
    (run / "02-exact_dedup/drops").symlink_to(run.parent / "drops")


def stray(run: Path) -> None:
    (run / "04-tokenizer/special_tokens_map.json").write_text("{}")


def extra(run: Path) -> None:
    shutil.copy(run / SHARD, run / "03-clean/x.parquet")


def stranger(run: Path) -> None:
    shutil.copytree(run / "03-clean", run / "09-clean")


SHARD, DROPS = "02-exact_dedup/part-00000.parquet", "02-exact_dedup/drops/part-00000.parquet"
OUTSIDE = {"name": "../../in.jsonl", "rows": 0, "bytes": 1, "sha256": "0"}
KINDS: dict[str, tuple[Change, str, str]] = {
    "a stage gone": (lambda run: shutil.rmtree(run / "02-exact_dedup"), "02-exact_dedup", "missing as a whole"),
    "the first stage gone": (lambda run: shutil.rmtree(run / "01-ingest"), "01-ingest", "missing as a whole"),
    "the last stage gone": (lambda run: shutil.rmtree(run / "05-pack"), "05-pack", "missing as a whole"),
    "a manifest gone": (lambda run: (run / "02-exact_dedup/_manifest.json").unlink(), "02-exact_dedup", "no manifest"),
    "a manifest cut short": (damaged("02-exact_dedup/_manifest.json", lambda d: d[:20]), "02-exact_dedup", "damaged"),
    "a manifest emptied": (damaged("03-clean/_manifest.json", lambda d: b""), "03-clean/_manifest.json", "damaged"),
    "a manifest of other JSON": (damaged("03-clean/_manifest.json", lambda d: b"[1]"), "03-clean", "damaged"),
    "a manifest nested without end": (
        damaged("03-clean/_manifest.json", lambda d: b"[" * 100_000), "03-clean/_manifest.json", "damaged",
    ),
    "a manifest that is a folder": (
        a_folder,
        "03-clean/_manifest.json", "damaged",
    ),
    "a manifest that names files outside": (
        manifest("02-exact_dedup", lambda m: m["files"]["rows"].append(OUTSIDE)), "02-exact_dedup", "damaged",
    ),
    "a stage's folder renamed": (
        renamed, "02-x/_manifest.json", "name the folder",
    ),
    "a stage's folder that is a link": (linked, "03-clean", "link"),
    "a shard that is a link": (
        linked_shard,
        SHARD, "link",
    ),
    "a shard gone": (lambda run: (run / SHARD).unlink(), SHARD, "missing"),
    "a shard cut short": (damaged(SHARD, lambda d: d[:-9]), SHARD, "bytes"),
    "a shard emptied": (damaged(SHARD, lambda d: b""), SHARD, "0 bytes"),
    "a bit of a shard": (damaged(SHARD, flip), SHARD, "not the bytes that were written"),
    "an extra shard": (extra, "x.parquet", "remove"),
    "drops gone": (lambda run: (run / DROPS).unlink(), DROPS, "missing"),
    "a bit of drops": (damaged(DROPS, flip), DROPS, "not the bytes that were written"),
    "quarantine gone": (
        lambda run: shutil.rmtree(run / "01-ingest/quarantine"), "01-ingest/quarantine/part-00000.parquet", "missing",
    ),
    "the tokenizer changed": (damaged("04-tokenizer/tokenizer.json", flip), "tokenizer.json", "not the bytes"),
    "books that do not balance": (
        manifest("02-exact_dedup", lambda m: m["rows"].update(dropped=1), forged=True), "02-exact_dedup", "dropped 1",
    ),
    "counts edited so that they balance": (
        manifest("02-exact_dedup", lambda m: m["rows"].update(dropped=50, kept=40), forged=True),
        "02-exact_dedup", "its files hold 60",
    ),
    "reasons edited": (
        manifest("02-exact_dedup", lambda m: m.update(rules={"exact_duplicate": 1}), forged=True),
        "02-exact_dedup", "drops by rule",
    ),
    "reasons edited, and no more": (
        manifest("02-exact_dedup", lambda m: m.update(rules={})),
        "02-exact_dedup/_manifest.json", "changed since the run",
    ),
    "a parent taken away": (
        manifest("02-exact_dedup", lambda m: m.update(parent=None), forged=True),
        "02-exact_dedup", "same stage as read",
    ),
    "a parent that is another": (
        manifest("03-clean", lambda m: m.update(parent="01-ingest"), forged=True), "03-clean", "another 01-ingest",
    ),
    "settings edited": (
        manifest("03-clean", lambda m: m["identity"]["settings"].update(unicode="NFD"), forged=True),
        "03-clean/_manifest.json", "its fingerprint",
    ),
    "the kind of a stage edited": (
        manifest("02-exact_dedup", lambda m: m.update(gives="artifact")), "02-exact_dedup", "changed",
    ),
    "a kept document lost": (
        rewritten("03-clean", "rows", lambda t: t.slice(1)), "03-clean", "not those kept",
    ),
    "a kept document replaced": (
        rewritten("03-clean", "rows", lambda t: t.set_column(0, "id", pa.array([f"x{k}" for k in range(len(t))]))),
        "03-clean", "not those kept, dropped and quarantined",
    ),
    "tokens overwritten": (rewritten("05-pack", "rows", tokens_overwritten), "05-pack", "tokens"),
    "packed rows lost": (rewritten("05-pack", "rows", lambda t: t.slice(1)), "05-pack", "rows"),
    "a run that is not finished": (unfinished, "run", "not finished"),
    "run.json gone": (lambda run: (run / "run.json").unlink(), "run.json", "not finished"),
    "run.json cut short": (damaged("run.json", lambda d: d[:30]), "run.json", "damaged"),
    "run.json of other JSON": (damaged("run.json", lambda d: b"[1]"), "run.json", "damaged"),
    "a folder that is a link": (linked_folder, "02-exact_dedup/drops", "link"),
    "a stray file beside the tokenizer": (stray, "special_tokens_map.json", "in no manifest"),
    "a stage of another run": (
        stranger, "09-clean", "not in run.json",
    ),
}  # fmt: skip


def test_a_whole_run_is_proved(run: Path) -> None:
    problems, checked = verify_run(run)
    assert problems == []
    assert checked == len([p for p in run.rglob("*") if p.is_file() and p.parent != run and p.name != "_manifest.json"])


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_damage_is_reported_with_the_file_and_the_remedy(run: Path, kind: str) -> None:
    change, file, what = KINDS[kind]
    change(run)
    problems, _ = verify_run(run)
    assert any(file in problem and what in problem for problem in problems), problems
    assert all("run the recipe again" in problem or "remove" in problem or "name" in problem for problem in problems)


def test_it_says_so_on_the_command_line_and_a_run_mends_it(run: Path, cli: Cli) -> None:
    before = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in run.glob("*/**/*.*")}
    (run / SHARD).unlink()
    (run / DROPS).write_bytes(b"")
    found = cli("verify", "run")
    assert found.returncode == 3
    assert "Traceback" not in found.stderr
    assert found.stdout.count("\n") == 2
    again = cli("run", "r.yaml", "--out", "run", "--workers", 1)
    assert again.returncode == 0, again.stderr
    assert "run run: 1 of 5 stages to do" in again.stderr
    assert {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in run.glob("*/**/*.*")} == before
    assert cli("verify", "run").returncode == 0


def test_no_run_at_all(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "nowhere"):
        found = cli("verify", name)
        assert found.returncode == 2
        assert "no finished stage here" in found.stderr
