"""The commands that need a model: train one, write with it, question it, measure it, compare recipes by it.

Each makes a call or two into the trainer, or into what uses its models; their modules are loaded by name: the engine
room knows no stage.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.console import (
    JsonOpt,
    OutOpt,
    RunArg,
    TrainSetOpt,
    WeightsOpt,
    WorkersOpt,
    answer,
    guard,
    interruptible,
    say,
    values,
)
from pipeline.standard_streams import reader_may_leave


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
    """Write on from a prompt with a run's model. Example: gristmill generate runs/my "The mill"."""
    from pipeline.queries import model_folder
    from pipeline.terminal import printable

    with guard(), values():
        pieces = _model_door("stages.inference.generate").generate(
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
        with reader_may_leave():
            sys.stdout.write(printable(prompt))
            for piece in pieces:
                sys.stdout.write(printable(piece))
                sys.stdout.flush()
            sys.stdout.write("\n")
            sys.stdout.flush()


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
    processes. Example: gristmill train runs/my --set depth=6 --out runs/deeper."""
    with guard(), values():
        door = _model_door("stages.train.command")
        if plan:
            cost, lines = door.plan(run, set_ or [], budget, tokenizer)
            answer(cost, as_json=json_, text="\n".join(lines))
        elif out is None:
            raise ValueError("--out is missing: where the model goes")
        else:
            summary = door.train(run, out, set_ or [], seed, tokenizer)
            if os.environ.get("RANK", "0") == "0":
                answer(summary, as_json=True)


def export(
    run: RunArg,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write.")],
    format_: Annotated[
        str, typer.Option("--format", help="hf: the model; nanogpt, megatron, mds: the packed rows.")
    ] = "hf",
    json_: JsonOpt = False,
) -> None:
    """Write a run's model or packed rows as others read them. Example: gristmill export runs/my model."""
    from pipeline.queries import model_folder

    with guard(), values():
        if format_ == "hf":
            shutil.copytree(model_folder(run), folder, copy_function=shutil.copyfile, dirs_exist_ok=True)
            written = sorted(folder.iterdir())
        else:
            pack = _door("stages.train.command").rows_folder(run)
            written = _door("stages.formats").export_rows(pack, folder, format_)
        files = [str(path) for path in written]
        answer(files, as_json=json_, text="\n".join(files))


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
    Example: gristmill ablate a.yaml b.yaml --set max_steps=500."""
    from pipeline.config import load_recipe
    from pipeline.engines.local import LocalEngine
    from pipeline.plan import plan_rows
    from pipeline.progress import Progress
    from pipeline.runner import execute

    with guard(as_json=json_), values(), interruptible():
        door = _model_door("stages.ablate.ablate")
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


def evaluate(
    run: RunArg,
    tasks: Annotated[list[Path], typer.Argument(metavar="TASKS", help="Files of questions, JSON lines.")],
    weights: WeightsOpt = "fp32",
    json_: JsonOpt = False,
) -> None:
    """Put questions to a run's model: multiple choice {"query", "choices", "gold"} or cloze {"text", "target"}.
    Example: gristmill evaluate runs/my questions.jsonl."""
    from pipeline.queries import model_folder

    with guard(), values():
        door = _model_door("stages.inference.tasks")
        found = door.evaluate(model_folder(run), tasks, weights)
        answer(door.as_json(found), as_json=json_, text=door.as_text(found))


def bench_inference(
    run: RunArg,
    prompt: Annotated[int, typer.Option("--prompt", min=1, help="Tokens of each prompt.")] = 128,
    tokens: Annotated[int, typer.Option("--tokens", min=2, help="Tokens written after it.")] = 64,
    texts: Annotated[int, typer.Option("--texts", min=1, help="Texts at once.")] = 1,
    weights: WeightsOpt = "fp32",
    json_: JsonOpt = False,
) -> None:
    """Measure a run's model: time to first token, time per token, share of the memory's bandwidth.
    Example: gristmill bench-inference runs/my --weights int8."""
    from pipeline.queries import model_folder

    with guard(), values():
        found = _model_door("stages.inference.bench").bench_inference(model_folder(run), prompt, tokens, texts, weights)
        answer(found, as_json=json_, text="\n".join(f"{name:<26}{value:,.6g}" for name, value in found.items()))


def _door(name: str) -> Any:
    """A module of `stages`, loaded by name: the engine room knows no stage."""
    return importlib.import_module(name)


def _model_door(name: str) -> Any:
    """A module that needs a model's libraries. Raises ValueError where one of them is missing."""
    _door("stages.train").load_libraries()
    return _door(name)
