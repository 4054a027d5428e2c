"""The command line: parse, make one call, render. The commands of recipes and runs; `cli_model` has those of models.

Everything but typer is imported inside the commands, so that `gristmill --help` answers in under 0.3 s.
"""

from __future__ import annotations

import gc
import os
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline import __version__
from pipeline.cli_model import ablate, bench_inference, evaluate, export, generate, train
from pipeline.console import (
    CountOpt,
    JsonOpt,
    LimitOpt,
    OutOpt,
    RecipeArg,
    RunArg,
    SetOpt,
    StageArg,
    WorkersOpt,
    answer,
    guard,
    interruptible,
    say,
    values,
)
from pipeline.engines import FEWER_COLLECTIONS
from pipeline.standard_streams import open_streams

app = typer.Typer(
    name="gristmill",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _tell_version(asked: bool) -> None:
    if asked:
        answer(f"gristmill {__version__}", as_json=False)
        raise typer.Exit


@app.callback()
def main_options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_tell_version)
    ] = False,
) -> None:
    """Raw text dumps in, packed Parquet shards and a trained model out.

    Example: gristmill run my.yaml

    GRISTMILL_DEBUG=1 in the environment shows the whole traceback of what stops a run."""


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="Where to write the recipe.")] = Path("recipe.yaml"),
    like: Annotated[str, typer.Option("--like", help="Which shipped recipe to start from.")] = "quickstart",
) -> None:
    """Write a commented recipe to start from. Example: gristmill init my.yaml."""
    from pipeline.shipped import begin_recipe

    with values():
        for written in begin_recipe(path, like):
            say(written)


@app.command()
def check(recipe: RecipeArg, set_: SetOpt = None, json_: JsonOpt = False) -> None:
    """Check a recipe: every error at once, with file:line:column. Example: gristmill check my.yaml."""
    from pipeline.config import load_recipe
    from pipeline.names import shown_name

    with guard(as_json=json_):
        loaded = load_recipe(recipe, set_ or [])
        names = [use.name for use in loaded.uses]
        remarks = [remark for use in loaded.uses for remark in use.stage.remarks(loaded.folders)]
        told = f"{shown_name(recipe)}: good, {len(names)} stages: {' → '.join(names)}"
        answer({"ok": True, "stages": names, "remarks": remarks}, as_json=json_, text="\n".join([told, *remarks]))


@app.command()
def plan(
    recipe: RecipeArg, out: OutOpt = None, limit: LimitOpt = None, set_: SetOpt = None, json_: JsonOpt = False
) -> None:
    """Show what a run would do and why. Example: gristmill plan my.yaml."""
    from pipeline.queries import plan_table

    with guard(as_json=json_):
        rows, text = plan_table(_plan(recipe, out, limit, set_))
        answer(rows, as_json=json_, text=text)


@app.command()
def run(
    recipe: RecipeArg,
    out: OutOpt = None,
    workers: WorkersOpt = None,
    limit: LimitOpt = None,
    set_: SetOpt = None,
    force: Annotated[
        str | None, typer.Option("--force", metavar="STAGE", help="Run this stage again, and all after it.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Remove finished stages of another recipe from the folder.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    json_: JsonOpt = False,
) -> None:
    """Run a recipe; the same command again resumes. Example: gristmill run my.yaml --workers 2."""
    from pipeline.engines.local import LocalEngine

    engine = LocalEngine(workers or os.cpu_count() or 1)
    engine.prepare()
    with closing(engine), guard(as_json=json_), interruptible():
        from pipeline.progress import Progress
        from pipeline.queries import funnel, highlights
        from pipeline.report import report as page
        from pipeline.runner import execute
        from pipeline.shards import write_text

        planned = _plan(recipe, out, limit, set_, force)
        todo = [one.stage for one in planned.stages if one.why is not None]
        if todo:
            engine.warm(kernels=any(stage.kernels() for stage in todo))
        with Progress(quiet=quiet or json_) as progress:
            execute(planned, engine, progress, replace=replace)
        rows, text = funnel(planned.out)
        notes = highlights(planned.out)
        where = planned.out / "report.html"
        write_text(where, page(planned.out))
        told = [f"{label}: {note}" for label, note in notes.items()]
        text = "\n".join([text, *told, f"everything is in {planned.out}; a page to look at: {where}"])
        idle = not todo
        if idle and not json_:
            say(f"nothing to do: every stage of {planned.out} is done and up to date")
        answer({"out": str(planned.out), "idle": idle, "stages": rows, "highlights": notes}, as_json=json_, text=text)


def _plan(
    recipe: Path, out: Path | None, limit: int | None, overrides: list[str] | None, force: str | None = None
) -> Any:
    from pipeline.config import load_recipe
    from pipeline.plan import make_plan

    loaded = load_recipe(recipe, overrides or [])
    name = loaded.name + (f"-limit-{limit}" if limit else "")
    return make_plan(loaded, out or Path("runs") / name, limit, force)


@app.command()
def status(run: RunArg, json_: JsonOpt = False) -> None:
    """Show a run's funnel: documents and bytes in and out of each stage. Example: gristmill status runs/my."""
    from pipeline.queries import funnel

    with guard(as_json=json_):
        rows, text = funnel(run)
        answer(rows, as_json=json_, text=text)


@app.command()
def verify(run: RunArg, json_: JsonOpt = False) -> None:
    """Prove a run's books from its files alone; exit 3 where they do not hold. Example: gristmill verify
    runs/my."""
    from pipeline.verify import verify_run

    with guard(as_json=json_):
        problems, checked = verify_run(run)
        text = "\n".join(problems) or f"{run}: {checked} files as their manifests say; every document is accounted for"
        answer({"problems": problems, "files": checked}, as_json=json_, text=text)
        if problems:
            raise typer.Exit(3)


@app.command()
def show(run: RunArg, stage: StageArg, n: CountOpt = 5, json_: JsonOpt = False) -> None:
    """Show a stage's first rows. Example: gristmill show runs/my clean -n 3."""
    from pipeline.queries import first_rows, render_rows

    with guard(as_json=json_):
        rows = first_rows(run, stage, n)
        answer(rows, as_json=json_, text=render_rows(rows))


@app.command()
def sample(
    run: RunArg,
    stage: StageArg,
    n: CountOpt = 5,
    dropped: Annotated[bool, typer.Option("--dropped", help="From what the stage dropped.")] = False,
    quarantined: Annotated[bool, typer.Option("--quarantined", help="From the stage's bad records.")] = False,
    rule: Annotated[
        str | None, typer.Option("--rule", help="Only drops that broke this rule, or bad records of this reason.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Another seed, another sample.")] = 0,
    json_: JsonOpt = False,
) -> None:
    """Show a repeatable sample of a stage. Example: gristmill sample runs/my quality --dropped --rule
    fineweb_short_lines."""
    from pipeline.queries import render_rows, sample_rows

    with guard(as_json=json_):
        stream = "quarantine" if quarantined else "drops" if dropped or rule is not None else "rows"
        rows = sample_rows(run, stage, n, stream=stream, rule=rule, seed=seed)
        answer(rows, as_json=json_, text=render_rows(rows))


@app.command()
def explain(
    run: RunArg,
    document: Annotated[str, typer.Argument(metavar="ID", help="An id, source or url.")],
    json_: JsonOpt = False,
) -> None:
    """Tell a document's whole way: every stage it passed and why it ended. Example: gristmill explain
    runs/my ID."""
    from pipeline.explain import explain_document, render_explanation

    with guard(as_json=json_):
        steps = explain_document(run, document)
        answer(steps, as_json=json_, text=render_explanation(document, steps))


@app.command()
def report(
    run: RunArg,
    to: Annotated[Path | None, typer.Option("--to", metavar="FILE", help="Where [default: RUN/report.html].")] = None,
) -> None:
    """Write a run as one page to look at, with charts. Example: gristmill report runs/my."""
    from pipeline.report import report as page
    from pipeline.shards import write_text

    with guard():
        path = to or run / "report.html"
        write_text(path, page(run))
        answer(str(path), as_json=False)


@app.command()
def stages(
    name: Annotated[str | None, typer.Argument(help="One stage, with its settings.")] = None, json_: JsonOpt = False
) -> None:
    """List the stages, or one stage's settings. Example: gristmill stages near_dedup."""
    from pipeline.queries import describe_stage, list_stages

    with guard(as_json=json_):
        rows, text = list_stages() if name is None else describe_stage(name)
        answer(rows, as_json=json_, text=text)


@app.command()
def schema() -> None:
    """Print the JSON schema of recipes, for editors. Example: gristmill schema > schema.json."""
    from pipeline.config import schema as make_schema

    answer(make_schema(), as_json=True)


for command in (generate, train, export, evaluate, ablate, bench_inference):
    app.command()(command)


def main() -> None:
    """The console script."""
    open_streams()
    gc.set_threshold(*FEWER_COLLECTIONS)
    try:
        app()
    finally:
        gc.freeze()  # all is let go now: Python would look for cycles in it first


if __name__ == "__main__":
    main()
