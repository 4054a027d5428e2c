"""What all commands share: their arguments, words for people on stderr, data on stdout, and what ends them how.

Exit codes: 0 done · 1 the run failed · 2 the recipe or the call is wrong · 3 a check missed · 130 interrupted, run
again to resume. Everything but typer is imported where it is used: `gristmill --help` answers in under 0.3 s.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.standard_streams import reader_may_leave
from pipeline.terminal import as_json as to_json
from pipeline.terminal import printable

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
    """Words for people. Names and messages in them are hostile: nothing in them steers the terminal."""
    with suppress(OSError), reader_may_leave(2):
        typer.echo(printable(" ".join(map(str, words))), err=True)


def answer(value: Any, *, as_json: bool, text: str | None = None) -> None:
    """Data: JSON where asked for, else text, escaped."""
    with reader_may_leave():
        typer.echo(to_json(value) if as_json else printable(text if text is not None else str(value)))


@contextmanager
def guard(*, as_json: bool = False) -> Iterator[None]:
    """Turns what can go wrong into one clear message and the right exit code; of a user's own code, its last calls."""
    from pipeline.config import RecipeError
    from pipeline.engines import TaskError
    from pipeline.faults import last_frames, told
    from pipeline.loading import raised_beside
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
    except typer.Exit:
        raise
    except Exception as error:
        is_machine, is_users = isinstance(error, OSError | MemoryError), raised_beside(error)
        if not (is_machine or is_users):
            raise
        words = f"{told(error)}\n{last_frames(error)}" if is_users else told(error)
        answer({"errors": [words]}, as_json=True) if as_json else say(f"stopped: {words}")
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        say("interrupted: run the same command again to go on from here")
        raise typer.Exit(130) from None


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM, as schedulers send it, ends the block as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def values() -> Iterator[None]:
    """What a stage finds wrong with the call, told as such."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        say(error)
        raise typer.Exit(2) from None
