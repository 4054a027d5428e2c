"""The bundled trainer: packed rows → a decoder-only Transformer, its metrics, samples and checkpoints.

Reads packed shards and the tokenizer; writes `model/` (Hugging Face layout), `checkpoints/`, `metrics.jsonl`,
`summary.json`, `samples.json`, `highlights.json`. This module holds the settings only, so that a recipe is checked
without torch; the work is in `stages.train.run`.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from pipeline.stage import Once, Problem, Stage, Step, Task

# Read when torch is loaded: threads that wait at a barrier spin for some microseconds, then sleep. With two threads a
# small model takes 8,600 tokens/s on a quiet machine (9,600 if they spin on and on, 5,700 if they sleep at once) and
# 3,300 where another process has one of the cores (a fraction of that if they spin on).
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

AFTERWARDS = frozenset(
    "tokenizer accumulate compile spread checkpoint_every keep_checkpoints validation_rows prompts sample_tokens "
    "epochs max_steps".split()
)
"""Settings that leave the weights alone, but for rounding; the last two only through the steps, kept beside."""


LIBRARIES = ("torch", "safetensors")
INSTALL = "pip install 'gristmill[train]'"


def load_libraries() -> None:
    """Loads what every use of a model needs. Raises ValueError, with the command that installs it, where one is missing
    or does not load."""
    for name in LIBRARIES:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            raise ValueError(f"{name} is not installed: {INSTALL}") from None
        except (ImportError, OSError) as error:
            raise ValueError(f"{name} is installed but does not load ({error}): {INSTALL}") from error


class Train(Stage):
    """Train a decoder-only Transformer on the packed rows; `depth` alone sets its shape."""

    version: ClassVar[int] = 3
    gives: ClassVar[Literal["documents", "rows", "artifact"]] = "artifact"
    reads: ClassVar[Literal["sources", "documents", "rows"]] = "rows"
    needs: ClassVar[tuple[str, ...]] = ("tokenizer",)
    tokenizer: str | None = Field(None, description="A tokenizer.json or its folder; null: the recipe's own tokenizer.")
    depth: int = Field(4, ge=1, description="Layers; the one dial that the defaults below follow.")
    width: int | None = Field(None, ge=32, description="Width of the residual stream [depth × 64 - 64, 128 at least].")
    heads: int | None = Field(None, ge=1, description="Query heads [width / 64].")
    kv_heads: int | None = Field(None, ge=1, description="Key and value heads [half the query heads].")
    ffn: int | None = Field(None, ge=32, description="Width of the SwiGLU layer [8/3 width, to a multiple of 32].")
    qk_norm: bool = Field(True, description="Normalise queries and keys (Qwen3); false: a Llama.")
    tied: bool = Field(True, description="One matrix for the embedding and the output layer.")
    rope_theta: float = Field(10_000.0, gt=0, description="Base of the rotary position embedding.")
    batch: int = Field(8, ge=1, description="Packed rows per step, of all processes and parts together.")
    accumulate: int = Field(1, ge=1, description="Parts in which each process takes its share of a batch.")
    max_steps: int | None = Field(None, ge=1, description="Steps to take; null: `epochs` over the data.")
    epochs: float = Field(1.0, gt=0, description="Passes over the data, where `max_steps` is null.")
    optimizer: Literal["adamw", "muon"] = Field(
        "muon", description="muon: for the matrices inside the blocks, AdamW for the rest; adamw: for all."
    )
    lr: float = Field(3e-3, gt=0, description="Peak learning rate.")
    warmup: float = Field(0.05, ge=0, lt=1, description="Share of the steps in which the rate rises linearly.")
    schedule: Literal["cosine", "wsd"] = Field("cosine", description="After warm-up; wsd: level, then linear down.")
    decay: float = Field(0.2, gt=0, le=1, description="Share of the steps in which wsd goes down.")
    min_lr: float = Field(0.1, ge=0, le=1, description="Share of the peak rate at the end.")
    weight_decay: float = Field(0.1, ge=0, description="The optimiser's, on matrices only.")
    clip: float = Field(1.0, gt=0, description="Largest norm of the gradient.")
    spike: float = Field(
        20.0, ge=0, description="Skip a step whose gradient is so many times the usual norm; 0: never."
    )
    z_loss: float = Field(0.0, ge=0, description="Weight of log² of the softmax's sum in the loss.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="Of products and activations; weights stay fp32. auto: bf16 where the machine multiplies it.",
    )
    compile: bool = Field(False, description="torch.compile for what is not attention or loss; needs a C++ compiler.")
    spread: Literal["ddp", "fsdp"] = Field("ddp", description="Under torchrun: a model a process, or a share of it.")
    checkpoint_every: int = Field(200, ge=1, description="Steps between checkpoints, each with its bits per byte.")
    keep_checkpoints: int = Field(2, ge=1, description="The newest so many are kept, and the best.")
    validation_rows: int = Field(256, ge=1, description="At most so many held-out rows are measured.")
    prompts: tuple[str, ...] = Field(("The ", "中国"), description="What the samples at the end begin with.")
    sample_tokens: int = Field(80, ge=1, description="Tokens of each sample.")

    def steps(self) -> tuple[Step, ...]:
        """One step in a process of its own."""
        return (Once("train", self._run),)

    def check(self, folders: Sequence[Path]) -> list[Problem]:
        """Whether torch is installed, and whether the shape and the batch are possible."""
        absent = [name for name in LIBRARIES if find_spec(name) is None]
        problems = [Problem(("use",), f"{name} is not installed: {INSTALL}") for name in absent]
        width, heads, kv_heads, _ = self.shape()
        if width % (2 * heads) or heads % kv_heads:
            problems.append(
                Problem(("heads",), f"width {width}, {heads} heads, {kv_heads} kv_heads do not divide evenly")
            )
        if self.batch % self.accumulate:
            problems.append(Problem(("accumulate",), f"{self.batch} rows do not make {self.accumulate} equal parts"))
        return problems

    def shape(self) -> tuple[int, int, int, int]:
        """(width, heads, kv_heads, ffn), derived from depth where they are not given."""
        width = self.width or max(128, 64 * (self.depth - 1))
        heads = self.heads or max(1, width // 64)
        kv_heads = self.kv_heads or next(k for k in range(max(1, heads // 2), 0, -1) if heads % k == 0)
        return width, heads, kv_heads, self.ffn or -(-(8 * width // 3) // 32) * 32

    def deciding(self) -> dict[str, Any]:
        """The settings that decide the weights: a checkpoint made with others is refused."""
        return self.model_dump(mode="json", exclude=set(AFTERWARDS))

    def _run(self, shards: Sequence[Path], task: Task) -> Mapping[str, int]:
        from stages.train.run import train

        return train(self, shards, task)
