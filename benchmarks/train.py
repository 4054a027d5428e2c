"""How fast a model trains here, beside transformers' Llama and litgpt's GPT of the same shape, on the same tokens.

Runs: python benchmarks/train.py [--threads 2] [--rounds 3] [--litgpt-python PATH]. Every contender runs in a process of
its own, in turn, several rounds; each step is forward, backward, clipping and fused AdamW on 8 rows of 512 tokens, 4
layers, width 256, vocabulary 8192, tied embeddings. Peers see whole rows; ours also the documents of real packed rows,
within which attention stays. Prints tokens per second of the best step, CPU seconds of the best step (which a busy
machine does not falsify), the ratios, and the share of the measured peak of the machine's matrix products.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

VOCAB, DEPTH, WIDTH, HEADS, FFN, LENGTH, ROWS = 8192, 4, 256, 4, 704, 512, 8
TOKENS = LENGTH * ROWS
CONTENDERS = (
    "ours",
    "ours-documents",
    "ours-compile",
    "transformers",
    "transformers-compile",
    "litgpt",
    "litgpt-compile",
)


def ours(dtype: torch.dtype, *, compiled: bool, documents: bool) -> tuple[torch.nn.Module, Callable[[], torch.Tensor]]:
    """A model and what gives its loss on random tokens."""
    from stages.train.attention import layout
    from stages.train.model import Model, Shape

    model = Model(Shape(VOCAB, DEPTH, WIDTH, HEADS, HEADS, FFN, qk_norm=False), dtype=dtype)
    if compiled:
        for block in model.blocks:
            block.compile_halves()
    chance = np.random.default_rng(0)
    ids = torch.from_numpy(chance.integers(0, VOCAB, TOKENS))

    def loss() -> torch.Tensor:
        lengths = np.concatenate([_documents(chance) if documents else [LENGTH] for _ in range(ROWS)])
        positions = np.concatenate([np.arange(n) for n in lengths])
        total: torch.Tensor = model(ids, torch.from_numpy(positions), layout(lengths, HEADS, HEADS), ids)
        return total / TOKENS

    return model, loss


def _documents(chance: np.random.Generator) -> list[int]:
    """Lengths of documents that fill a row: lognormal with a median of 150 tokens."""
    lengths, left = [], LENGTH
    while left:
        lengths.append(min(left, int(chance.lognormal(5, 1)) + 1))
        left -= lengths[-1]
    return lengths


def transformers(dtype: torch.dtype, *, compiled: bool) -> tuple[torch.nn.Module, Callable[[], torch.Tensor]]:
    """LlamaForCausalLM with torch's own attention, autocast for bf16."""
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=WIDTH,
            num_hidden_layers=DEPTH,
            num_attention_heads=HEADS,
            intermediate_size=FFN,
            tie_word_embeddings=True,
            max_position_embeddings=LENGTH,
            use_cache=False,
            attn_implementation="sdpa",
        )
    )
    run = torch.compile(model) if compiled else model
    ids = torch.randint(0, VOCAB, (ROWS, LENGTH))

    def loss() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            found: torch.Tensor = run(input_ids=ids, labels=ids).loss
        return found

    return model, loss


def litgpt(dtype: torch.dtype, *, compiled: bool) -> tuple[torch.nn.Module, Callable[[], torch.Tensor]]:
    """litgpt's GPT as a Llama, with its own chunked loss, autocast for bf16 (its bf16-mixed)."""
    from litgpt.config import Config
    from litgpt.model import GPT
    from litgpt.utils import chunked_cross_entropy

    model = GPT(
        Config(
            name="llama",
            block_size=LENGTH,
            padded_vocab_size=VOCAB,
            n_layer=DEPTH,
            n_head=HEADS,
            n_embd=WIDTH,
            intermediate_size=FFN,
            rotary_percentage=1.0,
            parallel_residual=False,
            bias=False,
            norm_class_name="RMSNorm",
            mlp_class_name="LLaMAMLP",
        )
    )
    model.lm_head.weight = model.transformer.wte.weight
    run = torch.compile(model) if compiled else model
    ids = torch.randint(0, VOCAB, (ROWS, LENGTH))

    def loss() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            found: torch.Tensor = chunked_cross_entropy(run(ids), ids)
        return found

    return model, loss


def measure(name: str, dtype: torch.dtype, steps: int) -> dict[str, float]:
    """Seconds and CPU seconds of the best of `steps` steps."""
    kind, _, how = name.partition("-")
    if kind == "ours":
        model, loss = ours(dtype, compiled=how == "compile", documents=how == "documents")
    else:
        model, loss = {"transformers": transformers, "litgpt": litgpt}[kind](dtype, compiled=how == "compile")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), fused=True)
    walls, cpus = [], []
    for _ in range(steps + 3):
        wall, cpu = time.perf_counter(), time.process_time()
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return {"seconds": min(walls[3:]), "cpu": min(cpus[3:]), "peak": _peak(dtype)}


def _peak(dtype: torch.dtype) -> float:
    from stages.train.estimate import gemm_peak

    return gemm_peak(dtype, torch.device("cpu"), 2048, 3)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--precision", choices=["fp32", "bf16"], action="append")
    parser.add_argument("--litgpt-python", help="A Python that has litgpt; without it litgpt is left out.")
    parser.add_argument("--only", nargs="*", help="These contenders.")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if asked.contender:
        torch.manual_seed(0)
        torch.set_num_threads(asked.threads)
        print(json.dumps(measure(asked.contender, dtypes[asked.precision[0]], asked.steps)))
        return
    for precision in asked.precision or ["fp32", "bf16"]:
        found: dict[str, list[dict[str, float]]] = {}
        for _ in range(asked.rounds):
            for name in asked.only or CONTENDERS:
                if not name.startswith("litgpt") or asked.litgpt_python:
                    found.setdefault(name, []).append(_in_process(name, precision, asked))
        _table(precision, asked.threads, found)


def _in_process(name: str, precision: str, asked: argparse.Namespace) -> dict[str, float]:
    python = asked.litgpt_python if name.startswith("litgpt") else sys.executable
    command = [python, "-W", "ignore", __file__, "--contender", name, "--precision", precision]
    command += ["--threads", str(asked.threads), "--steps", str(asked.steps)]
    result: dict[str, float] = json.loads(
        subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1]
    )
    return result


def _table(precision: str, threads: int, found: dict[str, list[dict[str, float]]]) -> None:
    from stages.train.estimate import flops_per_token
    from stages.train.model import Shape

    flops = TOKENS * flops_per_token(Shape(VOCAB, DEPTH, WIDTH, HEADS, HEADS, FFN), LENGTH / 2)
    peak = max(one["peak"] for several in found.values() for one in several)
    print(f"{precision}, {threads} threads, products at most {peak / 1e9:,.0f} GFLOP/s")
    best = {
        name: {key: min(one[key] for one in several) for key in ("seconds", "cpu")} for name, several in found.items()
    }
    peers = [name for name in best if not name.startswith("ours")]
    for name, one in best.items():
        ratio = {
            key: min((best[peer][key] for peer in peers), default=one[key]) / one[key] for key in ("seconds", "cpu")
        }
        print(
            f"  {name:<22}{TOKENS / one['seconds']:>8,.0f} tokens/s {flops / one['seconds'] / peak:>6.1%} of the peak "
            f"{one['cpu']:>7.3f} CPU s a step; × the best peer {ratio['seconds']:.2f} (CPU time {ratio['cpu']:.2f})"
        )


if __name__ == "__main__":
    main()
