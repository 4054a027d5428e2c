"""The command line: parse, make one call, render. Data goes to stdout, words for people to stderr.

Exit codes: 0 done · 1 the run failed · 2 the recipe or the call is wrong · 3 a check missed · 130 interrupted, run
again to resume. Everything but typer is imported inside the commands, so that `gristmill --help` answers in under
0.3 s.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="gristmill",
    help="Raw text dumps in, packed Parquet shards and a trained model out.\n\n"
    "Example: gristmill run configs/quickstart.yaml",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RecipeArg = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.")]
RunArg = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, as given to --out or runs/NAME.")]
OutOpt = Annotated[Path | None, typer.Option("--out", help="The run's folder [default: runs/NAME].")]
SetOpt = Annotated[
    list[str] | None, typer.Option("--set", metavar="K=V", help="Override, as stages.pack.sequence_length=512.")
]
JsonOpt = Annotated[bool, typer.Option("--json", help="Answer in JSON, for programs.")]
LimitOpt = Annotated[
    int | None, typer.Option("--limit", min=1, help="About N records: each source's first N/sources; repeatable.")
]
StageArg = Annotated[str, typer.Argument(metavar="STAGE", help="A stage, as quality or 05-quality.")]
WorkersOpt = Annotated[int | None, typer.Option("--workers", min=1, help="Processes [default: cores].")]
TrainSetOpt = Annotated[
    list[str] | None, typer.Option("--set", metavar="K=V", help="A setting of `train`, as depth=6.")
]
WeightsOpt = Annotated[str, typer.Option("--weights", help="How weights are kept: fp32, bf16 or int8.")]
CountOpt = Annotated[int, typer.Option("-n", min=1, help="How many.")]


def say(*words: object) -> None:
    """Words for people."""
    typer.echo(" ".join(map(str, words)), err=True)


def answer(value: Any, *, as_json: bool, text: str | None = None) -> None:
    """Data: JSON where asked for, else text."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=1) if as_json else text if text is not None else str(value))


@contextmanager
def _guard(*, as_json: bool = False) -> Iterator[None]:
    """Turns what can go wrong into one clear message and the right exit code."""
    from pipeline.config import RecipeError
    from pipeline.engines import TaskError
    from pipeline.queries import QueryError
    from pipeline.stage_run import RunError

    try:
        yield
    except (RecipeError, QueryError) as error:
        messages = getattr(error, "messages", None) or [str(error)]
        answer({"errors": messages}, as_json=True) if as_json else say("\n".join(messages))
        raise typer.Exit(2) from None
    except (RunError, TaskError) as error:
        answer({"errors": [str(error)]}, as_json=True) if as_json else say(f"stopped: {error}")
        if os.environ.get("GRISTMILL_DEBUG") and getattr(error, "trace", ""):
            say(error.trace)  # type: ignore[union-attr]
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        say("interrupted: run the same command again to go on from here")
        raise typer.Exit(130) from None


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM, as schedulers send it, ends the block as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="Where to write the recipe.")] = Path("recipe.yaml"),
    like: Annotated[str, typer.Option("--like", help="Which shipped recipe to start from.")] = "quickstart",
) -> None:
    """Write a commented recipe to start from. Example: gristmill init my.yaml --like web_chinese."""
    from pipeline.queries import shipped_recipes

    with _guard():
        recipes = shipped_recipes()
        if like not in recipes:
            say(f"--like {like}: the shipped recipes are {', '.join(sorted(recipes))}")
            raise typer.Exit(2)
        if path.exists():
            say(f"{path} exists; nothing written")
            raise typer.Exit(2)
        path.write_text(recipes[like].read_text(encoding="utf-8"), encoding="utf-8")
        say(f"wrote {path}; check it with: gristmill check {path}")


@app.command()
def check(recipe: RecipeArg, set_: SetOpt = None, json_: JsonOpt = False) -> None:
    """Check a recipe: every error at once, with file:line:column. Example: gristmill check configs/quickstart.yaml."""
    from pipeline.config import load_recipe

    with _guard(as_json=json_):
        loaded = load_recipe(recipe, set_ or [])
        names = [use.name for use in loaded.uses]
        answer(
            {"ok": True, "stages": names},
            as_json=json_,
            text=f"{recipe}: good, {len(names)} stages: {' → '.join(names)}",
        )


@app.command()
def plan(
    recipe: RecipeArg, out: OutOpt = None, limit: LimitOpt = None, set_: SetOpt = None, json_: JsonOpt = False
) -> None:
    """Show what a run would do and why. Example: gristmill plan configs/quickstart.yaml."""
    from pipeline.queries import plan_table

    with _guard(as_json=json_):
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
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    json_: JsonOpt = False,
) -> None:
    """Run a recipe; the same command again resumes. Example: gristmill run configs/quickstart.yaml --workers 2."""
    from pipeline.engines.local import LocalEngine

    engine = LocalEngine(workers or os.cpu_count() or 1)
    engine.warm()
    with closing(engine), _guard(as_json=json_), _interruptible():
        from pipeline.progress import Progress
        from pipeline.queries import funnel, highlights
        from pipeline.report import report as page
        from pipeline.runner import execute

        planned = _plan(recipe, out, limit, set_, force)
        with Progress(quiet=quiet or json_) as progress:
            execute(planned, engine, progress)
        rows, text = funnel(planned.out)
        notes = highlights(planned.out)
        where = planned.out / "report.html"
        where.write_text(page(planned.out), encoding="utf-8")
        told = [f"{label}: {note}" for label, note in notes.items()]
        text = "\n".join([text, *told, f"everything is in {planned.out}; a page to look at: {where}"])
        idle = all(stage.why is None for stage in planned.stages)
        if idle and not json_:
            say(f"nothing to do: every stage of {planned.out} is done and up to date")
        answer({"out": str(planned.out), "idle": idle, "stages": rows, "highlights": notes}, as_json=json_, text=text)


def _plan(
    recipe: Path, out: Path | None, limit: int | None, overrides: list[str] | None, force: str | None = None
) -> Any:
    from pipeline.config import load_recipe
    from pipeline.plan import make_plan

    loaded = load_recipe(recipe, overrides or [])
    name = loaded.settings.name + (f"-limit-{limit}" if limit else "")
    return make_plan(loaded, out or Path("runs") / name, limit, force)


@app.command()
def status(run: RunArg, json_: JsonOpt = False) -> None:
    """Show a run's funnel: documents and bytes in and out of each stage. Example: gristmill status runs/quickstart."""
    from pipeline.queries import funnel

    with _guard(as_json=json_):
        rows, text = funnel(run)
        answer(rows, as_json=json_, text=text)


@app.command()
def verify(run: RunArg, json_: JsonOpt = False) -> None:
    """Prove a run's books from its files alone; exit 3 where they do not hold. Example: gristmill verify
    runs/quickstart."""
    from pipeline.verify import verify_run

    with _guard(as_json=json_):
        problems, checked = verify_run(run)
        text = "\n".join(problems) or f"{run}: {checked} files as their manifests say; every document is accounted for"
        answer({"problems": problems, "files": checked}, as_json=json_, text=text)
        if problems:
            raise typer.Exit(3)


@app.command()
def show(run: RunArg, stage: StageArg, n: CountOpt = 5, json_: JsonOpt = False) -> None:
    """Show a stage's first rows. Example: gristmill show runs/quickstart clean -n 3."""
    from pipeline.queries import first_rows, render_rows

    with _guard(as_json=json_):
        rows = first_rows(run, stage, n)
        answer(rows, as_json=json_, text=render_rows(rows))


@app.command()
def sample(
    run: RunArg,
    stage: StageArg,
    n: CountOpt = 5,
    dropped: Annotated[bool, typer.Option("--dropped", help="From what the stage dropped.")] = False,
    rule: Annotated[str | None, typer.Option("--rule", help="Only drops that broke this rule.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Another seed, another sample.")] = 0,
    json_: JsonOpt = False,
) -> None:
    """Show a repeatable sample of a stage. Example: gristmill sample runs/quickstart quality --dropped --rule
    fineweb_short_line."""
    from pipeline.queries import render_rows, sample_rows

    with _guard(as_json=json_):
        rows = sample_rows(run, stage, n, dropped=dropped or rule is not None, rule=rule, seed=seed)
        answer(rows, as_json=json_, text=render_rows(rows))


@app.command()
def explain(
    run: RunArg,
    document: Annotated[str, typer.Argument(metavar="ID", help="An id, source or url.")],
    json_: JsonOpt = False,
) -> None:
    """Tell a document's whole way: every stage it passed and why it ended. Example: gristmill explain
    runs/quickstart ID."""
    from pipeline.queries import explain_document, render_explanation

    with _guard(as_json=json_):
        steps = explain_document(run, document)
        answer(steps, as_json=json_, text=render_explanation(document, steps))


@app.command()
def report(
    run: RunArg,
    to: Annotated[Path | None, typer.Option("--to", metavar="FILE", help="Where [default: RUN/report.html].")] = None,
) -> None:
    """Write a run as one page to look at, with charts. Example: gristmill report runs/quickstart."""
    from pipeline.report import report as page

    with _guard():
        path = to or run / "report.html"
        path.write_text(page(run), encoding="utf-8")
        answer(str(path), as_json=False)


@app.command()
def stages(
    name: Annotated[str | None, typer.Argument(help="One stage, with its settings.")] = None, json_: JsonOpt = False
) -> None:
    """List the stages, or one stage's settings. Example: gristmill stages near_dedup."""
    from pipeline.queries import describe_stage, list_stages

    with _guard(as_json=json_):
        rows, text = list_stages() if name is None else describe_stage(name)
        answer(rows, as_json=json_, text=text)


@app.command()
def schema() -> None:
    """Print the JSON schema of recipes, for editors. Example: gristmill schema > configs/schema.json."""
    from pipeline.config import schema as make_schema

    answer(make_schema(), as_json=True)


@app.command()
def generate(
    run: RunArg,
    prompt: Annotated[str, typer.Argument(help="What the text begins with.")],
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="At most so many tokens.")] = 200,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token.")] = 0.8,
    top_k: Annotated[int, typer.Option(min=0, help="Of the k likeliest tokens; 0: of all.")] = 50,
    top_p: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Of the likeliest tokens that make up this share.")
    ] = 0.95,
    min_p: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="At least so many times as likely as the likeliest.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Another seed, another text.")] = 0,
    stop: Annotated[list[str] | None, typer.Option("--stop", help="End before this string.")] = None,
    weights: WeightsOpt = "fp32",
    draft: Annotated[
        Path | None, typer.Option("--draft", metavar="RUN", help="A run with a smaller model that guesses ahead.")
    ] = None,
) -> None:
    """Write on from a prompt with a run's model. Example: gristmill generate runs/quickstart "The mill"."""
    from pipeline.queries import model_folder, printable

    with _guard(), _values():
        pieces = _door("stages.train.generate").generate(
            model_folder(run),
            prompt,
            max_tokens=tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            seed=seed,
            stop=stop or (),
            weights=weights,
            draft=model_folder(draft) if draft else None,
        )
        sys.stdout.write(printable(prompt))
        for piece in pieces:
            sys.stdout.write(printable(piece))
            sys.stdout.flush()
        sys.stdout.write("\n")


@app.command()
def train(
    run: RunArg,
    out: OutOpt = None,
    set_: TrainSetOpt = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only tell what it would cost.")] = False,
    budget: Annotated[float | None, typer.Option(help="With --plan: operations, as 1e18, to advise for.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="The rows' tokenizer, where it is not in the run.")] = None,
    seed: Annotated[int, typer.Option(help="Another seed, another model.")] = 0,
    json_: JsonOpt = False,
) -> None:
    """Train on a run's packed rows with other settings; again to go on; torchrun -m pipeline.cli train for many
    processes. Example: gristmill train runs/quickstart --set depth=6 --out runs/deeper."""
    door = _door("stages.train.command")
    with _guard(), _values():
        if plan:
            cost, lines = door.plan(run, set_ or [], budget, tokenizer)
            answer(cost, as_json=json_, text="\n".join(lines))
        elif out is None:
            raise ValueError("--out is missing: where the model goes")
        else:
            summary = door.train(run, out, set_ or [], seed, tokenizer)
            if os.environ.get("RANK", "0") == "0":
                answer(summary, as_json=True)


@app.command()
def export(
    run: RunArg,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write.")],
    format_: Annotated[
        str, typer.Option("--format", help="hf: the model; nanogpt, megatron, mds: the packed rows.")
    ] = "hf",
    json_: JsonOpt = False,
) -> None:
    """Write a run's model or packed rows as others read them. Example: gristmill export runs/quickstart model."""
    with _guard(), _values():
        files = [str(path) for path in _door("stages.train.command").export(run, folder, format_)]
        answer(files, as_json=json_, text="\n".join(files))


@app.command()
def ablate(
    recipes: Annotated[list[Path], typer.Argument(metavar="RECIPE...", help="Recipes that pack rows of one length.")],
    out: Annotated[Path, typer.Option("--out", help="Where runs and models go.")] = Path("runs/ablate"),
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Models trained on each recipe's rows.")] = 3,
    held_out: Annotated[
        list[Path] | None,
        typer.Option("--held-out", help="Parquet with `text` [default: what every recipe's `pack` holds out]."),
    ] = None,
    workers: WorkersOpt = None,
    set_: TrainSetOpt = None,
    json_: JsonOpt = False,
) -> None:
    """Train the same small model on each recipe's output and compare bits per byte; the same command resumes.
    Example: gristmill ablate configs/ablate_raw.yaml configs/ablate_clean.yaml --set max_steps=500."""
    from pipeline.config import load_recipe
    from pipeline.engines.local import LocalEngine
    from pipeline.plan import plan_rows
    from pipeline.progress import Progress
    from pipeline.runner import execute

    door = _door("stages.train.ablate")
    with _guard(as_json=json_), _values(), _interruptible():
        loaded = {path.stem: load_recipe(path) for path in recipes}
        if len(loaded) < len(recipes):
            raise ValueError("two recipes have one name; files of different names are told apart in the table")
        plans = {name: plan_rows(recipe, out / name) for name, recipe in loaded.items()}
        with closing(LocalEngine(workers or os.cpu_count() or 1)) as engine:
            for planned in plans.values():
                with Progress(quiet=json_) as progress:
                    execute(planned, engine, progress)
        runs = {name: planned.out for name, planned in plans.items()}
        trains = [use.stage for use in loaded[recipes[0].stem].uses if use.stage.reads == "rows"]
        base = trains[0].model_dump() if trains else {}
        found = door.ablate(runs, base, set_ or [], seeds, out / "models", held_out or [], say)
        answer(found, as_json=json_, text=door.as_text(found))


@app.command()
def evaluate(
    run: RunArg,
    tasks: Annotated[list[Path], typer.Argument(metavar="TASKS", help="Files of questions, JSON lines.")],
    weights: WeightsOpt = "fp32",
    json_: JsonOpt = False,
) -> None:
    """Put questions to a run's model: multiple choice {"query", "choices", "gold"} or cloze {"text", "target"}.
    Example: gristmill evaluate runs/quickstart questions.jsonl."""
    from pipeline.queries import model_folder

    door = _door("stages.train.tasks")
    with _guard(), _values():
        found = door.evaluate(model_folder(run), tasks, weights)
        answer(door.as_json(found), as_json=json_, text=door.as_text(found))


@app.command()
def bench_inference(
    run: RunArg,
    prompt: Annotated[int, typer.Option("--prompt", min=1, help="Tokens of each prompt.")] = 128,
    tokens: Annotated[int, typer.Option("--tokens", min=2, help="Tokens written after it.")] = 64,
    texts: Annotated[int, typer.Option("--texts", min=1, help="Texts at once.")] = 1,
    weights: WeightsOpt = "fp32",
    json_: JsonOpt = False,
) -> None:
    """Measure a run's model: time to first token, time per token, share of the memory's bandwidth.
    Example: gristmill bench-inference runs/quickstart --weights int8."""
    from pipeline.queries import model_folder

    with _guard(), _values():
        found = _door("stages.train.bench").bench_inference(model_folder(run), prompt, tokens, texts, weights)
        answer(found, as_json=json_, text="\n".join(f"{name:<26}{value:,.6g}" for name, value in found.items()))


def _door(name: str) -> Any:
    """A module of the trainer, loaded by name: the engine room knows no stage."""
    import importlib

    return importlib.import_module(name)


@contextmanager
def _values() -> Iterator[None]:
    """What a stage finds wrong with the call, told as such."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        say(error)
        raise typer.Exit(2) from None


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
