"""The bundled trainer: packed rows → a decoder-only Transformer, its metrics, samples and checkpoints.

Reads packed shards and the tokenizer; writes `model/` (Hugging Face layout), `checkpoints/`, `metrics.jsonl`,
`summary.json`, `samples.json`.
This module holds the settings only, so that a recipe is checked without torch; the work is in `stages.train.loop`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from pipeline.stage import Once, Problem, Stage, Step, Task


class Train(Stage):
    """Train a decoder-only Transformer on the packed rows; `depth` alone sets its shape."""

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
    rope_theta: float = Field(10_000.0, gt=0, description="Base of the rotary position embedding.")
    batch: int = Field(8, ge=1, description="Packed rows per step.")
    max_steps: int | None = Field(None, ge=1, description="Steps to take; null: `epochs` over the data.")
    epochs: float = Field(1.0, gt=0, description="Passes over the data, where `max_steps` is null.")
    lr: float = Field(3e-3, gt=0, description="Peak learning rate.")
    warmup: float = Field(0.05, ge=0, lt=1, description="Share of the steps in which the rate rises linearly.")
    min_lr: float = Field(0.1, ge=0, le=1, description="Share of the peak rate at which the cosine ends.")
    weight_decay: float = Field(0.1, ge=0, description="AdamW's, on matrices only.")
    clip: float = Field(1.0, gt=0, description="Largest norm of the gradient.")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="Of the matrix products; weights are kept in fp32.")
    checkpoint_every: int = Field(200, ge=1, description="Steps between checkpoints.")
    keep_checkpoints: int = Field(2, ge=1, description="The newest so many are kept.")
    validation_rows: int = Field(256, ge=1, description="At most so many held-out rows are measured.")
    prompts: tuple[str, ...] = Field(("The ", "中国"), description="What the samples at the end begin with.")
    sample_tokens: int = Field(80, ge=1, description="Tokens of each sample.")

    def steps(self) -> tuple[Step, ...]:
        """One step in a process of its own."""
        return (Once("train", self._run),)

    def check(self, folders: Sequence[Path]) -> list[Problem]:
        """Whether torch is installed, and whether the shape is one."""
        absent = [name for name in ("torch", "safetensors") if find_spec(name) is None]
        problems = [Problem(("use",), f"{n} is not installed: pip install 'gristmill[train]'") for n in absent]
        width, heads, kv_heads, _ = self.shape()
        if width % (2 * heads) or heads % kv_heads:
            problems.append(
                Problem(("heads",), f"width {width}, {heads} heads, {kv_heads} kv_heads do not divide evenly")
            )
        return problems

    def shape(self) -> tuple[int, int, int, int]:
        """(width, heads, kv_heads, ffn), derived from depth where they are not given."""
        width = self.width or max(128, 64 * (self.depth - 1))
        heads = self.heads or max(1, width // 64)
        kv_heads = self.kv_heads or next(k for k in range(max(1, heads // 2), 0, -1) if heads % k == 0)
        return width, heads, kv_heads, self.ffn or -(-(8 * width // 3) // 32) * 32

    def _run(self, shards: Sequence[Path], task: Task) -> Mapping[str, int]:
        from stages.train.loop import train

        return train(self, shards, task)
