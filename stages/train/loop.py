"""The steps of a training, from the first or from the newest checkpoint to the last.

Reads batches of packed rows; writes checkpoints and `metrics.jsonl`. The loss is averaged over the labelled tokens of
the global batch, which is the same whatever number of processes and parts share it. A run that was stopped and is run
again ends with the same bits, on as many threads and processes: a sum's order depends on them.
"""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stages.packed_rows import PackedRows
from stages.train import checkpoint
from stages.train.attention import Layout, layout
from stages.train.data import Batch, Rows, ahead
from stages.train.estimate import flops_per_token, gemm_peak
from stages.train.evaluate import HeldOut
from stages.train.model import Model, Shape
from stages.train.optim import Guard, Optimizer, clip, rate_at
from stages.train.parallel import World, like, whole

if TYPE_CHECKING:
    from pipeline.stage import Task
    from stages.train import Train

REPORT_SECONDS = 0.5
TOLD = ("step", "steps", "loss", "tokens_per_second", "seconds_left")
"""What a person watching is told; metrics.jsonl has all."""
Part = tuple[Batch, Layout]


class Loop:
    """The steps of one run: what is left of them after the newest checkpoint.

    steps: how many there are in all. step, tokens, loss: steps taken, labelled tokens seen, the last step's loss (nats
    per token).
    """

    def __init__(
        self,
        stage: Train,
        task: Task,
        model: Model,
        rows: Rows,
        held: HeldOut | None = None,
        world: World | None = None,
    ) -> None:
        """Goes on from the newest checkpoint in the task's folder; raises OtherDataError where it is not this run's."""
        self.stage, self.task, self.model, self.rows, self.held = stage, task, model, rows, held
        self.world = world or World()
        if stage.batch % (self.world.size * stage.accumulate):
            raise ValueError(f"{stage.batch} rows do not go evenly to {self.world.size} processes × {stage.accumulate}")
        self.steps = steps_of(stage, rows)
        self.same = {"shards": rows.fingerprint(), "settings": stage.deciding(), "seed": task.seed, "steps": self.steps}
        self.same |= {"version": stage.version}
        self.folder = task.folder / "checkpoints"
        self.forward = self.world.spread(model, stage.spread)
        self.optimizer = Optimizer(model, stage.optimizer, stage.lr, stage.weight_decay)
        state = self._resume()
        self.guard = Guard(stage.spike, **state.get("guard", {}))
        self.step, self.tokens, self.loss = state.get("step", 0), state.get("tokens", 0), state.get("loss", math.nan)
        if stage.compile:
            for block in model.blocks:
                block.compile_halves()
        self.stopping = False

    def _resume(self) -> Mapping[str, Any]:
        found = checkpoint.newest(self.folder, self.same)
        if found is None:
            return {}
        tensors, state = found
        own = self.model.state_dict()
        weights = _named("model:", tensors)
        self.model.load_state_dict({name: like(value, own[name]) for name, value in weights.items()})
        self.optimizer.load(_named("optimizer:", tensors))
        return state

    def run(self) -> dict[str, float]:
        """Takes the steps that are left; the bits per byte at the end, by group.

        SIGTERM, in any process, saves a checkpoint after the step under way and exits with 143.
        """
        meter, scores = _Meter(self), dict[str, float]()
        with _on_sigterm(self._stop), _metrics(self.task.folder / "metrics.jsonl", self.step, self.world) as metrics:
            for parts in ahead(self._parts, range(self.step, self.steps)):
                norm, stopping = self.advance(parts)
                news = meter.news(parts, norm)
                if stopping or self.step == self.steps or self.step % self.stage.checkpoint_every == 0:
                    scores = {} if stopping else self._measured()
                    news |= {"bits_per_byte": scores} if scores else {}
                    self.save(scores)
                metrics(news)
                if stopping:
                    raise SystemExit(128 + signal.SIGTERM)
        return scores or self._measured()

    def _measured(self) -> dict[str, float]:
        """Bits per byte by group, of now; none where nothing is held out."""
        return self.held.measure(self.model, self.world) if self.held else {}

    def _parts(self, step: int) -> list[Part]:
        """This process's parts of a batch, in order."""
        stage, world, shape, made = self.stage, self.world, self.model.shape, []
        for k in range(stage.accumulate):
            batch = self.rows.batch(step, stage.batch, world.rank * stage.accumulate + k, world.size * stage.accumulate)
            made.append((batch, layout(batch.lengths.tolist(), shape.heads, shape.kv_heads, world.device)))
        return made

    def advance(self, parts: Sequence[Part]) -> tuple[float, bool]:
        """One optimiser step; the norm of its gradient before clipping, and whether some process is to stop."""
        known = sum(batch.known() for batch, _ in parts)
        counts = self.world.total(torch.tensor([known, self.stopping], device=self.world.device)).tolist()
        loss = self.gradients(parts, counts[0])
        norm = clip(self.model.parameters(), self.stage.clip)
        self.loss = float(self.world.total(loss))
        if not self.guard.refuses(self.loss, norm):
            self.optimizer.step(self._rate())
        self.optimizer.clear()
        self.step, self.tokens = self.step + 1, self.tokens + counts[0]
        return norm, bool(counts[1])

    def _rate(self) -> float:
        stage = self.stage
        decay = stage.decay if stage.schedule == "wsd" else None
        return stage.lr * rate_at(self.step, self.steps, stage.warmup, stage.min_lr, decay)

    def gradients(self, parts: Sequence[Part], known: int) -> Tensor:
        """Adds up the gradients of the mean over all processes' `known` labelled tokens; this process's share of it."""
        device, total = self.world.device, torch.zeros((), device=self.world.device)
        for number, (batch, where) in enumerate(parts):
            ids, positions, labels = (x.to(device) for x in (batch.ids, batch.positions, batch.labels))
            with self._later(last=number + 1 == len(parts)):
                loss = self.forward(ids, positions, where, labels, self.stage.z_loss) / max(known, 1)
                (loss * self.world.size).backward()  # both DDP and FSDP take the mean over processes
            total += loss.detach()
        return total

    def _later(self, *, last: bool) -> AbstractContextManager[None]:
        """Gradients are exchanged after the last part only."""
        if self.world.size > 1 and self.stage.spread == "fsdp":
            self.forward.set_requires_gradient_sync(last)  # type: ignore[operator]
        elif self.world.size > 1 and not last:
            return self.forward.no_sync()  # type: ignore[operator, no-any-return]
        return nullcontext()

    def save(self, scores: Mapping[str, float]) -> None:
        """Writes a checkpoint of now. scores: bits per byte, if measured."""
        tensors = {f"model:{name}": whole(value) for name, value in self.model.state_dict().items()}
        tensors |= {f"optimizer:{name}": value for name, value in self.optimizer.state().items()}
        own = {"step": self.step, "position": self.step * self.stage.batch, "tokens": self.tokens, "loss": self.loss}
        state = {**self.same, **own, "guard": self.guard.state(), "bits_per_byte": scores.get("")}
        if self.world.rank == 0:
            checkpoint.save(self.folder, tensors, state, self.stage.keep_checkpoints)

    def _stop(self, *_: object) -> None:
        self.stopping = True


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those whose name begins so, by what follows."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


class _Meter:
    """How fast it goes."""

    def __init__(self, loop: Loop) -> None:
        self.loop, self.began, self.first, self.told = loop, time.perf_counter(), loop.step, -math.inf
        self.peak = gemm_peak(loop.model.dtype, loop.world.device) * loop.world.size if loop.step < loop.steps else 1.0
        self.tokens, self.flops = 0, 0.0

    def news(self, parts: Sequence[Part], norm: float) -> dict[str, Any]:
        """What is to be told of the step that was just taken; also tells the person watching."""
        loop, now = self.loop, time.perf_counter()
        self._count([batch for batch, _ in parts])
        spent = now - self.began
        news = {
            "step": loop.step,
            "steps": loop.steps,
            "loss": loop.loss,
            "gradient_norm": norm,
            "refused": loop.guard.refused,
            "tokens": loop.tokens,
            "tokens_per_second": round(self.tokens / spent, 1),
            "mfu": round(self.flops / spent / self.peak, 4),
            "memory": _memory(loop.world.device),
            "seconds_left": round(spent / (loop.step - self.first) * (loop.steps - loop.step), 1),
        }
        if now - self.told >= REPORT_SECONDS:
            loop.task.report({name: news[name] for name in TOLD})
            self.told = now
        return news

    def _count(self, batches: Sequence[Batch]) -> None:
        """Tokens and operations of a step; other processes' are taken to be as many."""
        own = sum(len(batch.ids) for batch in batches)
        seen = sum(float(batch.positions.sum()) for batch in batches) / own
        self.tokens += own * self.loop.world.size
        self.flops += own * self.loop.world.size * flops_per_token(self.loop.model.shape, seen + 1)


def _memory(device: torch.device) -> int:
    """The most bytes this process has held so far, on its device."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def shape_of(stage: Train, vocab: int) -> Shape:
    """The model that the settings mean."""
    width, heads, kv_heads, ffn = stage.shape()
    return Shape(vocab, stage.depth, width, heads, kv_heads, ffn, stage.qk_norm, stage.rope_theta, stage.tied)


def steps_of(stage: Train, rows: PackedRows) -> int:
    """Steps in all."""
    return stage.max_steps or max(1, round(stage.epochs * rows.total / stage.batch))


def dtype_of(stage: Train, device: torch.device) -> torch.dtype:
    """What to compute in: bf16 where asked for, or by "auto" where the machine has products of its own for it."""
    if stage.precision != "auto":
        return torch.bfloat16 if stage.precision == "bf16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32


@contextmanager
def _on_sigterm(handler: Any) -> Iterator[None]:
    """Handles SIGTERM inside the block; only a main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _metrics(path: Path, step: int, world: World) -> Iterator[Any]:
    """Writes lines of metrics.jsonl, going on after `step`: lines of steps to be taken again are cut off."""
    if world.rank:
        yield lambda _: None
        return
    if path.exists():
        lines = path.read_bytes().splitlines(keepends=True)
        os.truncate(path, sum(map(len, lines[:step])))
    with path.open("a", encoding="utf-8", buffering=1) as file:
        yield lambda news: file.write(json.dumps(news) + "\n")
