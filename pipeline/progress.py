"""A run as a person watches it: one live line while a step runs, one line for each stage that is done.

Reads events, writes to stderr only; plain lines, a few a minute, where stderr is not a terminal.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from pipeline.events import (
    Event,
    KernelsCompiled,
    KernelsStarted,
    News,
    Notice,
    RunDone,
    RunStarted,
    StageDone,
    StageSkipped,
    StageStarted,
    StepStarted,
    TaskDone,
)
from pipeline.standard_streams import reader_may_leave
from pipeline.terminal import printable

if TYPE_CHECKING:
    from rich.live import Live

PLAIN_SECONDS = 10.0
SHOWN_ANYWHERE = {"FORCE_COLOR", "TTY_COMPATIBLE"}
"""Variables by which rich takes for a terminal what is none, or the other way round."""


class Progress:
    """Listens to a run; use as a context manager, so that the terminal is left clean."""

    def __init__(self, *, quiet: bool = False) -> None:
        """quiet: say nothing."""
        self.quiet = quiet
        self.live = None if quiet else _last_line()
        self.compiling = False
        self.stage = self.step = ""
        self.tasks = self.done = self.rows = self.kept = self.bytes = self.total = 0
        self.under_way: dict[str, dict[str, float]] = {}
        self.began = self.told = time.monotonic()

    def __enter__(self) -> Self:
        """Takes the terminal's last line."""
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Gives it back."""
        if self.live:
            self.live.stop()

    def __call__(self, event: Event) -> None:
        """Shows an event."""
        if self.quiet:
            return
        match event:
            case RunStarted():
                self._line(f"run {event.out}: {event.todo} of {event.stages} stages to do")
            case Notice():
                self._line(f"note: {event.text}")
            case KernelsStarted():
                files, cores = _count(event.files, "file"), _count(event.processes, "core")
                self._line(f"  compiling kernels, once on this machine: {files} on {cores}")
            case KernelsCompiled():
                self._line(f"  compiled in {event.seconds:.1f} s")
            case StageSkipped():
                self._line(f"  {event.stage:<18} done already")
            case StageStarted():
                self.stage = event.stage
            case StepStarted():
                self._begin(event)
            case News():
                self._news(event)
            case TaskDone():
                self._task(event)
            case StageDone():
                self._line(stage_line(event))
            case RunDone():
                self._line(f"done in {event.seconds:.1f} s")

    def _begin(self, event: StepStarted) -> None:
        self.step, self.tasks, self.done, self.total = event.step, event.tasks, event.done, event.total
        self.rows = self.kept = self.bytes = 0
        self.under_way.clear()
        self.began = self.told = time.monotonic()
        if event.done:
            self._line(f"  {event.stage}: {event.step}: {event.done} of {event.tasks} tasks were done before")
        self._refresh()

    def _news(self, event: News) -> None:
        self.under_way[event.task] = event.values
        if "compiling" in event.values and not self.compiling:
            self.compiling = True
            self._line("  compiling kernels, once on this machine: those that were not compiled ahead")
        if "retry" in event.values:
            self._line(f"  {event.stage}: {event.task}: {event.values['cause']}, trying again")
        self._refresh()

    def _task(self, event: TaskDone) -> None:
        self.under_way.pop(event.task, None)
        self.done += 1
        self.rows, self.kept, self.bytes = self.rows + event.rows, self.kept + event.kept, self.bytes + event.bytes
        self._refresh()

    def _refresh(self) -> None:
        now = time.monotonic()
        if self.live:
            _show(self.live, self._now(now))
        elif now - self.told >= PLAIN_SECONDS:
            self.told = now
            self._line(self._now(now))

    def _now(self, now: float) -> str:
        """docs/s, MB/s, share of tasks, time left; a training step's own news."""
        rows = self.rows + sum(int(v.get("rows", 0)) for v in self.under_way.values())
        size = self.bytes + sum(int(v.get("bytes", 0)) for v in self.under_way.values())
        seconds = max(now - self.began, 1e-3)
        training = next((v for v in self.under_way.values() if "steps" in v), None)
        if training:
            return f"  {self.stage}: " + ", ".join(f"{k} {v:,.4g}" for k, v in training.items() if k != "task")
        share = rows / self.total if self.total else self.done / max(self.tasks, 1)
        left = f"{seconds * (1 - share) / share:,.0f} s left" if 0.02 < share < 1 else ""
        return (
            f"  {self.stage} {self.step}: {self.done}/{self.tasks} shards, {rows:,} docs, "
            f"{rows / seconds:,.0f} docs/s, {size / seconds / 1e6:,.1f} MB/s {left}"
        )

    def _line(self, text: str) -> None:
        text = printable(text)
        if self.live:
            _show(self.live, "")
            self.live.console.print(text, soft_wrap=True)
        else:
            with suppress(OSError), reader_may_leave(2):
                sys.stderr.write(text + "\n")
                sys.stderr.flush()


def _last_line() -> Live | None:
    """The terminal's last line, or None where stderr is none; rich, which takes 0.02 s to load, has the last word."""
    if not (sys.stderr.isatty() or SHOWN_ANYWHERE & os.environ.keys()):
        return None
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    class OneThatStays(Console):
        """Whose reader may leave."""

        def on_broken_pipe(self) -> None:
            self.quiet = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)

    console = OneThatStays(stderr=True, highlight=False, markup=False)
    return Live(Text(""), console=console, transient=True, auto_refresh=False) if console.is_terminal else None


def _show(live: Live, text: str) -> None:
    from rich.text import Text

    live.update(Text(text), refresh=True)


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def stage_line(event: StageDone) -> str:
    """One stage in one line: what came in, what stayed, how fast, and the three rules that took most."""
    rows, seconds = event.rows, max(event.seconds, 1e-3)
    kept = rows["kept"] / rows["read"] if rows["read"] else 0.0
    bad = f", {rows['quarantined']:,} quarantined" if rows["quarantined"] else ""
    why = ", ".join(f"{rule} {n:,}" for rule, n in list(event.rules.items())[:3])
    return (
        f"  {event.stage:<18} {rows['read']:>9,} in, {rows['kept']:>9,} kept ({kept:.1%}){bad}, "
        f"{rows['read'] / seconds:,.0f} docs/s, {event.bytes_in / seconds / 1e6:,.1f} MB/s, "
        f"{seconds:.1f} s, {event.cpu_seconds:.1f} s of CPU" + (f" [{why}]" if why else "")
    )
