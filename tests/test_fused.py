"""Stages fused with the reading of sources: the files and bytes of a run that keeps all, where sources roll too.

All runs here are in this process, with row groups and shards made small, so that a few kilobytes make many of each.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import shards
from pipeline.config import load_recipe
from pipeline.engines import Report, fused, work
from pipeline.engines.streams import BooksError
from pipeline.engines.work import TaskResult, TaskSpec, run_task
from pipeline.explain import explain_document
from pipeline.plan import ALONE_BYTES, make_plan
from pipeline.queries import QueryError, first_rows, plan_table, sample_rows
from pipeline.runner import execute
from pipeline.stage_run import RunError
from pipeline.verify import verify_run
from tests.conftest import digest

GROUP, SHARD = 400, 1000
RECIPE = """\
max_bad: 0.5
intermediates: {how}
stages:
  - use: ingest
    inputs: [in]
    id_field: id
  - use: toy_stages:NoShouting
  - use: clean
  - use: exact_dedup
"""
STAGES = ["01-ingest", "02-no_shouting", "03-clean", "04-exact_dedup"]


class Here:
    """An engine without processes. backwards: the last task first. fails_at: raises instead of that task."""

    def __init__(self, *, backwards: bool = False, fails_at: int = -1) -> None:
        self.backwards, self.fails_at, self.count = backwards, fails_at, 0

    def run(self, specs: Sequence[TaskSpec], report: Report) -> Iterator[TaskResult]:
        for spec in reversed(specs) if self.backwards else specs:
            if self.count == self.fails_at:
                raise KeyboardInterrupt
            self.count += 1
            yield run_task(spec, report)

    def close(self) -> None:
        """Nothing to end."""


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.chdir(tmp_path)
    for module in (shards, fused):
        monkeypatch.setattr(module, "ROW_GROUP_BYTES", GROUP)
    for module in (work, fused):
        monkeypatch.setattr(module, "SHARD_BYTES", SHARD)


def sources(folder: Path) -> None:
    """One that rolls, one whose documents all go, one of bad records alone, one of Parquet, and many small ones."""
    folder.mkdir()
    texts = [("LOUD " if k % 5 == 0 else "calm ") * (1 + k * 7 % 40) for k in range(120)]
    lines = [json.dumps({"id": f"a{k}", "text": text, "url": f"http://a/{k}"}) for k, text in enumerate(texts)]
    (folder / "a.jsonl").write_text("\n".join([*lines[:60], "no json", *lines[60:]]))
    (folder / "b.jsonl").write_text("".join(json.dumps({"text": "ALL LOUD " * 30 + str(k)}) + "\n" for k in range(9)))
    (folder / "c.jsonl").write_text("neither\nof these\n")
    table = pa.table({"text": [f"row {k} of this table " * (k % 9) for k in range(50)] + [None]})
    pq.write_table(table, folder / "d.parquet", row_group_size=7)
    for k in range(70):
        (folder / f"e{k:02}.txt").write_text(f"file {k} {'is here ' * (k % 4)}")


def run(out: Path, how: str, engine: Here | None = None, limit: int | None = None, recipe: str = RECIPE) -> None:
    path = out.with_suffix(".yaml")
    path.write_text(recipe.format(how=how))
    execute(make_plan(load_recipe(path), out, limit), engine or Here(), lambda _: None)


def held_to(kept: Path, thin: Path, fused_stages: Sequence[str]) -> None:
    """Two runs have the same files, but for the rows of fused stages; and their manifests say so."""
    one, two = digest(kept), digest(thin)
    rows = tuple(f"{stage}/part-" for stage in fused_stages)
    books = {name for name in one if name.endswith("_manifest.json")}
    assert any(name.startswith(rows) for name in one)
    assert {k: v for k, v in one.items() if not k.startswith(rows) and k not in books} == {
        k: v for k, v in two.items() if k not in books
    }
    for name in books:
        told, thin_told = (json.loads((folder / name).read_text()) for folder in (kept, thin))
        if name.split("/")[0] in fused_stages:
            assert thin_told.pop("fused_bytes") == sum(file["text_bytes"] for file in told["files"].pop("rows"))
            told.pop("fused_bytes")
        assert told == thin_told


@pytest.mark.parametrize("limit", [None, 90])
def test_names_and_bytes_are_those_of_a_run_that_keeps_all(tmp_path: Path, limit: int | None) -> None:
    sources(tmp_path / "in")
    run(tmp_path / "kept", "keep", limit=limit)
    run(tmp_path / "thin", "fuse", limit=limit)
    run(tmp_path / "back", "fuse", Here(backwards=True), limit=limit)
    names = [path.name for path in sorted((tmp_path / "kept/01-ingest").glob("part-*"))]
    if limit is None:
        assert {"part-00000.parquet", "part-00000_001.parquet", "part-00000_002.parquet"} <= set(names)
    manifest = json.loads((tmp_path / "thin/04-exact_dedup/_manifest.json").read_text())
    assert [file["name"] for file in manifest["files"]["rows"]] == names
    held_to(tmp_path / "kept", tmp_path / "thin", STAGES[:2])
    held_to(tmp_path / "kept", tmp_path / "back", STAGES[:2])
    assert verify_run(tmp_path / "thin")[0] == []


def test_pages_are_eaten_on_the_way(tmp_path: Path) -> None:
    pages = [{"id": f"p{k}", "html": f"<p>{'a word or two ' * k}</p>" if k % 3 else None} for k in range(20)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({**page, "text": "plain"}) + "\n" for page in pages))
    recipe = "intermediates: {how}\nstages:\n  - {{use: ingest, inputs: [in.jsonl], html_field: html}}\n"
    recipe += "  - {{use: extract, engine: resiliparse}}\n  - use: clean\n"
    run(tmp_path / "kept", "keep", recipe=recipe)
    run(tmp_path / "thin", "fuse", recipe=recipe)
    held_to(tmp_path / "kept", tmp_path / "thin", ["01-ingest", "02-extract"])
    assert "payload" in pq.read_schema(tmp_path / "kept/01-ingest/part-00000.parquet").names
    assert "payload" not in pq.read_schema(tmp_path / "thin/03-clean/part-00000.parquet").names


def test_interrupted_anywhere_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    sources(tmp_path / "in")
    run(tmp_path / "calm", "fuse")
    for place in (1, 3, 40):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "stormy", "fuse", Here(fails_at=place))
        turned = tmp_path / f"turned{place}"
        with pytest.raises(KeyboardInterrupt):
            run(turned, "keep", Here(fails_at=place))
        run(turned, "fuse")
        assert last(turned) == last(tmp_path / "calm")
        assert verify_run(turned)[0] == []
    run(tmp_path / "stormy", "fuse")
    assert digest(tmp_path / "stormy") == digest(tmp_path / "calm")


def last(out: Path) -> dict[str, str]:
    return {name: sha for name, sha in digest(out).items() if name.startswith(STAGES[-1])}


def test_a_setting_changed_later_runs_the_pass_again_and_kept_shards_are_used(tmp_path: Path) -> None:
    sources(tmp_path / "in")
    run(tmp_path / "out", "fuse")
    run(tmp_path / "out", "keep")
    for stage in STAGES:
        assert list((tmp_path / "out" / stage).glob("part-*"))
    changed = load_recipe(_written(tmp_path, RECIPE.replace("clean", "clean\n    unicode: NFKC")))
    plan = make_plan(changed, tmp_path / "out")
    assert [p.why is None for p in plan.stages] == [True, True, False, False]
    execute(plan, Here(), lambda _: None, replace=True)
    assert list((tmp_path / "out/01-ingest").glob("part-*")), "what is done is not done again"


def _written(folder: Path, recipe: str) -> Path:
    (folder / "changed.yaml").write_text(recipe.format(how="fuse"))
    return folder / "changed.yaml"


def test_explain_follows_every_fate_through_the_pass(tmp_path: Path) -> None:
    sources(tmp_path / "in")
    run(tmp_path / "kept", "keep")
    run(tmp_path / "thin", "fuse")

    def way(out: str, wanted: str) -> list[tuple[str, str]]:
        return [(step["stage"], step["outcome"]) for step in explain_document(tmp_path / out, wanted)]

    assert way("thin", "a1")[:3] == [("01-ingest", "passed"), ("02-no_shouting", "passed"), ("03-clean", "kept")]
    assert way("thin", "a5") == [("01-ingest", "passed"), ("02-no_shouting", "dropped")]
    (bad,) = pq.read_table(tmp_path / "kept/01-ingest/quarantine/part-00000.parquet")["id"].to_pylist()
    assert way("thin", bad) == way("kept", bad) == [("01-ingest", "quarantined")]
    with pytest.raises(QueryError, match="01-ingest, 02-no_shouting fused: what they dropped has no url"):
        way("thin", "http://a/5")


def test_what_needs_rows_says_that_they_were_fused_away(tmp_path: Path) -> None:
    sources(tmp_path / "in")
    run(tmp_path / "thin", "fuse")
    for ask, stage in ((sample_rows, "no_shouting"), (first_rows, "ingest")):
        with pytest.raises(QueryError, match=f"{stage} was fused into the stage after it and wrote no rows"):
            ask(tmp_path / "thin", stage, 3)
    assert len(sample_rows(tmp_path / "thin", "no_shouting", 3, stream="drops")) == 3


@pytest.mark.parametrize("what", ["a drop", "a number"])
def test_verify_finds_what_is_wrong_with_a_pass(tmp_path: Path, what: str) -> None:
    sources(tmp_path / "in")
    run(tmp_path / "thin", "fuse")
    folder = tmp_path / "thin" / ("02-no_shouting" if what == "a drop" else "01-ingest")
    if what == "a drop":
        sorted((folder / "drops").iterdir())[0].unlink()
    else:
        told = json.loads((folder / "_manifest.json").read_text())
        told["rows"]["read"] += 1
        told["rows"]["quarantined"] += 1
        (folder / "_manifest.json").write_text(json.dumps(told))
    problems, _ = verify_run(tmp_path / "thin")
    assert str(folder) in problems[0]


def test_too_much_that_is_bad_in_front_stops_the_pass(tmp_path: Path) -> None:
    sources(tmp_path / "in")
    with pytest.raises(RunError, match=r"01-ingest: 4 of 253 records are bad .*over max_bad 1\.00%"):
        run(tmp_path / "thin", "fuse", recipe=RECIPE.replace("max_bad: 0.5", "max_bad: 0.01"))


def test_a_source_of_great_size_is_not_fused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, size in (("small.txt", 9), ("large.txt", ALONE_BYTES + 1)):
        with (tmp_path / "in" / name).open("wb") as file:
            file.truncate(size)
    recipe = load_recipe(_written(tmp_path, RECIPE))
    plan = make_plan(recipe, tmp_path / "out")
    assert [p.fused for p in plan.stages] == [False, True, False, False]
    (tmp_path / "in/large.txt").unlink()
    rows, text = plan_table(make_plan(recipe, tmp_path / "out"))
    assert [row["fused"] for row in rows] == [True, True, False, False]
    assert "01-ingest          reads 1 source         run: not done yet, in one pass with the next" in text


def test_each_shard_of_a_pass_has_an_empty_scratch_folder_and_no_number(tmp_path: Path) -> None:
    sources(tmp_path / "in")
    recipe = RECIPE.partition("  - use: toy")[0] + "  - use: toy_stages:Notes\n"
    run(tmp_path / "thin", "fuse", limit=4000, recipe=recipe)
    shards = sorted((tmp_path / "thin/02-notes").glob("part-00000*"))
    assert len(shards) > 2
    assert {note for path in shards for note in pq.read_table(path)["meta"].to_pylist()} == {"-1 of -1, None"}


def test_a_step_that_leaves_rows_unread_fails_the_books(tmp_path: Path) -> None:
    sources(tmp_path / "in")
    recipe = (
        "max_bad: 0.5\nintermediates: {how}\nstages:\n  - {{use: ingest, inputs: [in]}}\n  - use: toy_stages:Stops\n"
    )
    with pytest.raises(BooksError, match="rows in"):
        run(tmp_path / "thin", "fuse", recipe=recipe)
