"""The mill itself: same bytes for any number of workers and after any crash, and books that are kept."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.stage import Source
from pipeline.stage_run import grouped, partitions
from tests.conftest import Cli, digest

RECIPE = """\
name: toy
stages:
  - use: toy_stages:Make
    bad: 1
    {make}
  - use: toy_stages:NoShouting
  - use: toy_stages:Mumble
  - use: toy_stages:Regroup
    {regroup}
"""
STAGES = ["01-make", "02-no_shouting", "03-mumble", "04-regroup"]


def write(folder: Path, make: str = "", regroup: str = "") -> Path:
    path = folder / "toy.yaml"
    path.write_text(RECIPE.format(make=make, regroup=regroup))
    return path


def test_one_and_three_workers_write_the_same_bytes(cli: Cli, tmp_path: Path) -> None:
    recipe = write(tmp_path)
    for workers in (1, 3):
        done = cli("run", recipe, "--out", f"w{workers}", "--workers", workers)
        assert done.returncode == 0, done.stderr
    assert digest(tmp_path / "w1") == digest(tmp_path / "w3")
    assert [p.name for p in sorted((tmp_path / "w1").iterdir()) if p.is_dir()] == STAGES


def test_what_is_largest_begins_first(cli: Cli, tmp_path: Path) -> None:
    for name, rows in (("a", 10), ("b", 300), ("c", 100)):
        (tmp_path / f"{name}.jsonl").write_text("".join(f'{{"text": "{name} {k}"}}\n' for k in range(rows)))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("stages:\n  - {use: ingest, inputs: [a.jsonl, b.jsonl, c.jsonl]}\n  - use: exact_dedup\n")
    assert cli("run", recipe, "--out", "run", "--workers", 1).returncode == 0
    events = map(json.loads, (tmp_path / "run/events.jsonl").read_text().splitlines())
    rows = [event["rows"] for event in events if event["event"] == "TaskDone" and ".each." in event["task"]]
    assert rows[:3] == rows[-3:] == [300, 100, 10]
    assert pq.read_table(tmp_path / "run/01-ingest/part-00000.parquet").num_rows == 10


def test_a_second_run_does_nothing_and_says_so(cli: Cli, tmp_path: Path) -> None:
    recipe = write(tmp_path)
    assert cli("run", recipe).returncode == 0
    before = digest(tmp_path / "runs/toy")
    again = cli("run", recipe)
    assert again.returncode == 0
    assert "nothing to do" in again.stderr
    assert digest(tmp_path / "runs/toy") == before


def test_a_changed_setting_runs_that_stage_and_those_after_it(cli: Cli, tmp_path: Path) -> None:
    recipe = write(tmp_path)
    cli("run", recipe)
    plan = cli("plan", recipe, "--set", "stages.no_shouting.max_upper=0.9")
    assert plan.returncode == 2, "a user's own stage is addressed by its number"
    plan = cli("plan", recipe, "--set", "stages[1].max_upper=0.9")
    assert "max_upper 0.5 → 0.9" in plan.stdout
    assert "02-no_shouting runs again" in plan.stdout
    assert plan.stdout.splitlines()[0].endswith("done")


@pytest.mark.parametrize(("how", "wanted"), [("keep", 6), ("fuse", 4)])
def test_killed_at_random_it_ends_with_the_same_bytes(
    cli: Cli, tmp_path: Path, environment: dict[str, str], how: str, wanted: int
) -> None:
    recipe = write(tmp_path, "pause: 0.1", "pause: 0.05")
    recipe.write_text(f"intermediates: {how}\n{recipe.read_text()}")
    began = time.monotonic()
    assert cli("run", recipe, "--out", "calm", "--workers", 2).returncode == 0
    took = time.monotonic() - began
    chance, kills, attempts, whole = random.Random(7), 0, 0, False
    command = [sys.executable, "-m", "pipeline.cli", "run", str(recipe), "--out", "stormy", "--workers", "2", "--quiet"]
    while kills < wanted:
        assert (attempts := attempts + 1) <= 60, "runs end before they can be disturbed"
        process = subprocess.Popen(
            [*command, "--force", "make"] if whole else command,
            cwd=tmp_path,
            env=environment,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(chance.uniform(0.1, 0.9) * took)
        victim = worker_of(process) if kills % 2 else process.pid
        if victim is not None and process.poll() is None:
            (os.kill if kills % 2 else os.killpg)(victim, signal.SIGKILL)
            kills += 1
        whole = process.wait(60) == 0
        if whole:  # a dead worker's task was tried again
            assert digest(tmp_path / "stormy") == digest(tmp_path / "calm")
    assert cli("run", recipe, "--out", "stormy", "--workers", 2).returncode == 0
    assert digest(tmp_path / "stormy") == digest(tmp_path / "calm")
    assert cli("verify", "stormy").returncode == 0


KILLED_AT_A_REMOVAL = """\
import os, signal, sys
left = [int(os.environ.pop("REMOVALS", "0"))]
def hook(event, arguments):
    if event == "os.remove" and left[0]:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
"""


@pytest.mark.parametrize("how", ["keep", "fuse"])
def test_killed_while_it_removes_old_shards_it_does_not_take_the_rest_for_a_finished_stage(
    cli: Cli, tmp_path: Path, environment: dict[str, str], how: str
) -> None:
    recipe = write(tmp_path)
    recipe.write_text(f"intermediates: {how}\n{recipe.read_text()}")
    assert cli("run", recipe, "--out", "stormy").returncode == 0
    calm = digest(tmp_path / "stormy")
    (tmp_path / "sitecustomize.py").write_text(KILLED_AT_A_REMOVAL)
    command = [sys.executable, "-m", "pipeline.cli", "run", str(recipe), "--out", "stormy", "--force", "make"]
    path = f"{tmp_path}{os.pathsep}{environment['PYTHONPATH']}"
    for removals in ("2", "4"):
        hostile = {**environment, "PYTHONPATH": path, "REMOVALS": removals}
        killed = subprocess.run(command, cwd=tmp_path, env=hostile, capture_output=True, timeout=240, check=False)
        assert killed.returncode == -signal.SIGKILL
        with (tmp_path / "stormy/events.jsonl").open("a") as events:
            events.write('{"at": 1795000000.5, "event": "Sta')
        again = cli("run", recipe, "--out", "stormy")
        assert again.returncode == 0, again.stderr
        assert digest(tmp_path / "stormy") == calm
    events = (tmp_path / "stormy/events.jsonl").read_text().splitlines()
    assert all(json.loads(event)["event"] for event in events)


@pytest.mark.parametrize("left", [lambda note: b"", lambda note: note[: len(note) // 2], lambda note: bytes(len(note))])
def test_a_note_that_the_disk_has_not_got_all_of_is_no_note(
    cli: Cli, tmp_path: Path, environment: dict[str, str], left: Callable[[bytes], bytes]
) -> None:
    recipe = write(tmp_path, "pause: 0.2")
    assert cli("run", recipe, "--out", "calm").returncode == 0
    command = [sys.executable, "-m", "pipeline.cli", "run", str(recipe), "--out", "stormy", "--quiet"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True)
    while not (notes := list(tmp_path.glob("stormy/01-make/.work/tasks/*.json"))):
        assert process.poll() is None, "the run ends before it can be disturbed"
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for note in notes:
        note.write_bytes(left(note.read_bytes()))
    again = cli("run", recipe, "--out", "stormy")
    assert again.returncode == 0, again.stderr
    assert digest(tmp_path / "stormy") == digest(tmp_path / "calm")


def worker_of(process: "subprocess.Popen[bytes]") -> int | None:
    """A process that the run has started; None where it ends first."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.poll() is None:
        if len(started := children.read_text().split()) > 1:  # one may track resources
            return int(started[-1])
        time.sleep(0.01)
    return None


def test_asked_to_end_it_lets_the_task_that_has_all_cores_save_its_work(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    recipe = tmp_path / "alone.yaml"
    recipe.write_text("stages:\n  - use: toy_stages:Make\n  - use: toy_stages:Alone\n")
    command = [sys.executable, "-m", "pipeline.cli", "run", str(recipe), "--quiet"]
    for ending in (signal.SIGTERM, signal.SIGINT):
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
        folder = tmp_path / "runs/alone/02-alone"
        while not (folder / "begun").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(ending)
        _, told = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "run the same command again" in told
        assert (folder / "saved").exists()
        (folder / "begun").unlink()
        (folder / "saved").unlink()


def test_a_process_with_all_the_cores_leaves_by_itself(cli: Cli, tmp_path: Path) -> None:
    recipe, marker = tmp_path / "toy.yaml", tmp_path / "left"
    recipe.write_text(f"stages:\n  - use: toy_stages:Make\n  - use: toy_stages:Leaves\n    marker: {marker}\n")
    done = cli("run", recipe)
    assert done.returncode == 0, done.stderr
    assert marker.exists()


def test_a_dead_worker_is_replaced_and_its_task_tried_again(cli: Cli, tmp_path: Path) -> None:
    recipe = tmp_path / "dies.yaml"
    marker = tmp_path / "died"
    recipe.write_text(f"stages:\n  - use: toy_stages:Make\n  - use: toy_stages:DiesOnce\n    marker: {marker}\n")
    done = cli("run", recipe)
    assert done.returncode == 0, done.stderr
    assert "worker died (SIGKILL" in done.stderr
    always = cli("run", recipe, "--set", "stages[1].always=true")
    assert always.returncode == 1
    assert "its worker died 3 times" in always.stderr


def test_a_lost_row_stops_the_run(cli: Cli, tmp_path: Path) -> None:
    recipe = tmp_path / "loses.yaml"
    recipe.write_text("stages:\n  - use: toy_stages:Make\n  - use: toy_stages:Loses\n")
    done = cli("run", recipe)
    assert done.returncode == 1
    assert "200 rows in, 199 kept" in done.stderr


def test_too_many_bad_records_stop_the_run_until_the_limit_is_raised(cli: Cli, tmp_path: Path) -> None:
    recipe = write(tmp_path, "shards: 2\n    rows: 20")
    stopped = cli("run", recipe)
    assert stopped.returncode == 1
    assert "2 of 42 records are bad (4.76%), over max_bad 1.00%" in stopped.stderr
    assert cli("run", recipe, "--set", "max_bad=0.1").returncode == 0


def test_a_document_that_breaks_a_stage_is_quarantined_alone(cli: Cli, tmp_path: Path) -> None:
    recipe = tmp_path / "mumble.yaml"
    recipe.write_text(
        "max_bad: 0.5\nstages:\n  - use: toy_stages:Make\n  - use: toy_stages:Mumble\n    breaks_on: LOUD\n"
    )
    done = cli("run", recipe)
    assert done.returncode == 0, done.stderr
    rows = pq.read_table(tmp_path / "runs/mumble/02-mumble/quarantine/part-00000.parquet").to_pylist()
    assert len(rows) == len(range(0, 200, 7))
    assert {row["reason"] for row in rows} == {"stage_error"}
    assert "cannot bear LOUD" in rows[0]["detail"]


@pytest.mark.parametrize("what", ["a byte", "a file", "an extra file", "a book"])
def test_verify_finds_what_was_tampered_with(cli: Cli, tmp_path: Path, what: str) -> None:
    cli("run", write(tmp_path))
    run = tmp_path / "runs/toy"
    assert cli("verify", run).returncode == 0
    shard = run / "02-no_shouting/part-00001.parquet"
    if what == "a byte":
        data = bytearray(shard.read_bytes())
        data[len(data) // 2] ^= 1
        shard.write_bytes(data)
    elif what == "a file":
        shard.unlink()
    elif what == "an extra file":
        (run / "02-no_shouting/part-99999.parquet").write_bytes(shard.read_bytes())
    else:
        manifest = run / "03-mumble/_manifest.json"
        manifest.write_text(manifest.read_text().replace('"dropped": 0', '"dropped": 1'))
    found = cli("verify", run)
    assert found.returncode == 3
    assert str(run) in found.stdout


def test_explain_follows_a_kept_a_dropped_and_a_quarantined_document(cli: Cli, tmp_path: Path) -> None:
    cli("run", write(tmp_path))
    kept = cli("explain", "runs/toy", "made-2-3").stdout
    assert [line.split()[0] for line in kept.splitlines() if line.startswith("  0")] == [
        *STAGES[:3],
        STAGES[3],
        STAGES[3],
    ]
    dropped = cli("explain", "runs/toy", "made-2-7").stdout
    assert "02-no_shouting     dropped" in dropped
    assert "broke upper: 0.8, limit 0.5" in dropped
    assert "03-mumble" not in dropped
    assert "quarantined: id bad-made-1-0" in cli("explain", "runs/toy", "bad-made-1-0").stdout
    nowhere = cli("explain", "runs/toy", "nobody")
    assert nowhere.returncode == 2
    assert "no document 'nobody'" in nowhere.stderr


def test_small_sources_share_a_task_and_large_ones_do_not() -> None:
    def sizes(*given: int) -> list[list[int]]:
        return [[s.size for s in group] for group in grouped([Source("f", "f", size=size) for size in given])]

    assert len(sizes(*[5_000] * 10_000)) == 64
    assert sizes(*[1 << 30] * 3) == [[1 << 30]] * 3
    assert [sum(group) for group in sizes(*[1 << 20] * 4000)] == [16 << 20] * 250
    assert sizes(0, 0) == [[0], [0]]
    assert len(grouped([Source("", "hub", digest="x")] * 3)) == 3


def test_few_partitions_are_half_as_large() -> None:
    sizes = (0, 1, 32, 33, 800, 1024, 1025, 2048, 2049, 10_000)
    assert [partitions(size, 64) for size in sizes] == [1, 1, 1, 2, 25, 32, 32, 32, 33, 157]


def test_many_small_files_make_few_shards(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for k in range(1000):
        (tmp_path / f"in/{k}.txt").write_text(f"file {k}")
    (tmp_path / "r.yaml").write_text("stages:\n  - use: ingest\n    inputs: [in]\n")
    assert cli("run", "r.yaml", "--out", "out").returncode == 0
    shards = sorted((tmp_path / "out/01-ingest").glob("part-*.parquet"))
    assert len(shards) <= 64
    texts = [row for path in shards for row in pq.read_table(path)["text"].to_pylist()]
    assert texts == [f"file {k}" for k in sorted(range(1000), key=lambda k: f"{k}.txt")]


def test_fused_stages_end_with_the_same_bytes_and_all_their_drops(cli: Cli, tmp_path: Path) -> None:
    recipe = write(tmp_path)
    assert cli("run", recipe, "--out", "kept").returncode == 0
    fused = cli("run", recipe, "--out", "fused", "--set", "intermediates=fuse", "--workers", 3)
    assert fused.returncode == 0, fused.stderr
    kept, thin = digest(tmp_path / "kept"), digest(tmp_path / "fused")
    gone = {name for name in kept if name.startswith(("01-make/part-", "02-no_shouting/part-"))}
    assert len(gone) == 8
    manifests = {name for name in kept if name.endswith("_manifest.json")}
    assert kept.keys() - thin.keys() == gone
    assert {k: v for k, v in kept.items() if k not in gone | manifests} == {
        k: v for k, v in thin.items() if k not in manifests
    }
    for stage in STAGES:
        one, two = (json.loads((tmp_path / run / stage / "_manifest.json").read_text()) for run in ("kept", "fused"))
        assert one["rows"] == two["rows"]
        assert one["counters"] == two["counters"]
        assert one["fingerprint"] == two["fingerprint"]
    assert cli("verify", tmp_path / "fused").returncode == 0
    assert "02-no_shouting" in cli("status", tmp_path / "fused").stdout


def test_verify_finds_a_drop_missing_from_a_fused_stage(cli: Cli, tmp_path: Path) -> None:
    recipe = write(tmp_path)
    assert cli("run", recipe, "--out", "fused", "--set", "intermediates=fuse").returncode == 0
    for name in ("02-no_shouting", "03-mumble"):
        folder = tmp_path / "fused" / name
        manifest = json.loads((folder / "_manifest.json").read_text())
        if manifest["files"].get("drops"):
            (folder / manifest["files"]["drops"][0]["name"]).unlink()
            assert cli("verify", tmp_path / "fused").returncode == 3
            return
    pytest.fail("no stage of the toy recipe drops anything")


def test_shards_that_were_fused_away_are_made_when_they_are_wanted(cli: Cli, tmp_path: Path) -> None:
    recipe = write(tmp_path)
    fuse = ("--out", "out", "--set", "intermediates=fuse")
    assert cli("run", recipe, *fuse).returncode == 0
    before = digest(tmp_path / "out")
    assert "nothing to do" in cli("run", recipe, *fuse).stderr
    forced = cli("plan", recipe, *fuse, "--json").stdout
    assert [row["run"] for row in json.loads(forced)] == [False] * 4
    (tmp_path / "out/03-mumble/_manifest.json").unlink()
    planned = json.loads(cli("plan", recipe, *fuse, "--json").stdout)
    assert [row["why"] for row in planned][:3] == ["its shards were not kept"] * 2 + ["not done yet"]
    assert cli("run", recipe, *fuse).returncode == 0
    assert digest(tmp_path / "out") == before
    kept = cli("run", recipe, "--out", "out", "--json")
    assert kept.returncode == 0
    assert list((tmp_path / "out/02-no_shouting").glob("part-*.parquet"))
    assert cli("verify", tmp_path / "out").returncode == 0
