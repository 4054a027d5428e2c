"""How fast a model trains here, beside transformers' Llama and litgpt's GPT of the same shape, on the same tokens.

Runs: python -m benchmarks.train [--threads 2] [--rounds 3] [--peer-python PYTHON]; meant to end in about ten minutes on
two quiet cores. The peers' Python has what `train-peers.txt` says and litgpt, installed with --no-deps lest pip change
torch (`make bench-train` makes one); nothing of Gristmill's is needed there. Without one, transformers runs here and
litgpt is left out. Compiling needs a C++ compiler.

Each step is forward, backward, clipping and fused AdamW on 8 rows of 512 tokens, 4 layers, width 256, vocabulary 8192,
tied embeddings. Peers see whole rows; ours also documents of lognormal length, in which attention stays. Every
contender runs in a process of its own, in turn, several rounds. Each is tried with the environment that `stages.train`
sets before torch is loaded (threads sleep soon, for machines that have other work) and with torch's own (they spin),
and goes on with the one that was faster for it; the table says where that was torch's own. In all of them malloc keeps
what a step frees, as our training has it do.
Prints the median over rounds of each process's median step: tokens per second, CPU seconds (which a busy machine
falsifies less), the ratios, and the share of the highest measured peak of the machine's matrix products.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
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
WARM_UP = 2
"""Steps that are not measured; the first compiles."""
PEAK_SIZE = 2048
"""Rows and columns of the matrices whose product is the peak."""
KEPT_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(1 << 30), "MALLOC_MMAP_THRESHOLD_": str(1 << 25)}
Environment = dict[str, str]
Result = dict[str, float]


def ours(dtype: torch.dtype, *, compiled: bool, documents: bool) -> tuple[torch.nn.Module, Callable[[], torch.Tensor]]:
    """A model and what gives its loss on random tokens."""
    import torch

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
    import torch
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
    import torch
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


def measure(name: str, dtype: torch.dtype, steps: int) -> Result:
    """Seconds and CPU seconds of the median of `steps` steps; operations a second of matrix products at their best."""
    import torch

    kind, _, how = name.partition("-")
    if kind == "ours":
        model, loss = ours(dtype, compiled=how == "compile", documents=how == "documents")
    else:
        model, loss = {"transformers": transformers, "litgpt": litgpt}[kind](dtype, compiled=how == "compile")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), fused=True)
    walls, cpus = [], []
    for _ in range(WARM_UP + steps):
        wall, cpu = time.perf_counter(), time.process_time()
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return {"seconds": median(walls[WARM_UP:]), "cpu": median(cpus[WARM_UP:]), "peak": _peak(dtype)}


def _peak(dtype: torch.dtype) -> float:
    """Operations a second of a large product, the best of three."""
    import torch

    a, times = torch.ones(PEAK_SIZE, PEAK_SIZE, dtype=dtype), []
    for _ in range(4):
        began = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - began)
    return 2 * PEAK_SIZE**3 / min(times)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5, help="Measured in each process.")
    parser.add_argument("--precision", choices=["fp32", "bf16"], nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--peer-python", help="A Python that has transformers and litgpt.")
    parser.add_argument("--only", nargs="*", choices=CONTENDERS, help="These contenders.")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.contender:
        print(json.dumps(_contend(asked)))
        return
    names = asked.only or [name for name in CONTENDERS if asked.peer_python or not name.startswith("litgpt")]
    found: dict[tuple[str, str], list[Result]] = {(p, name): [] for p in asked.precision for name in names}
    own, plain = _environments()
    best = dict.fromkeys(found, own)
    for number in range(asked.rounds):
        for key, results in found.items():
            results.append(_in_process(key, best[key], asked))
            if number == 0:
                other = _in_process(key, plain, asked)
                if other["seconds"] < results[0]["seconds"]:
                    best[key], results[0] = plain, other
    for precision in asked.precision:
        of = {name: found[precision, name] for name in names}
        _table(precision, asked.threads, of, {name for name in names if best[precision, name] is plain})


def _contend(asked: argparse.Namespace) -> Result:
    """One contender, in this process."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(asked.threads)
    return measure(asked.contender, {"fp32": torch.float32, "bf16": torch.bfloat16}[asked.precision[0]], asked.steps)


def _environments() -> tuple[Environment, Environment]:
    """What `gristmill train` runs in, and what this process was started in."""
    before = dict(os.environ)
    import stages.train  # noqa: F401 - sets what torch reads when it is loaded

    return dict(os.environ), before


def _in_process(key: tuple[str, str], environment: Environment, asked: argparse.Namespace) -> Result:
    """A contender in a process of its own. key: precision, contender."""
    precision, name = key
    python = sys.executable if name.startswith("ours") else asked.peer_python or sys.executable
    command = [python, "-W", "ignore", "-m", "benchmarks.train", "--contender", name, "--precision", precision]
    command += ["--threads", str(asked.threads), "--steps", str(asked.steps)]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment | KEPT_MEMORY, cwd=root)
    result: Result = json.loads(done.stdout.splitlines()[-1])
    return result


def _table(precision: str, threads: int, found: dict[str, list[Result]], plain: set[str]) -> None:
    """Prints the medians. plain: contenders that ran in torch's own environment."""
    from stages.train.estimate import flops_per_token
    from stages.train.model import Shape

    flops = TOKENS * flops_per_token(Shape(VOCAB, DEPTH, WIDTH, HEADS, HEADS, FFN), LENGTH / 2)
    peak = max(one["peak"] for several in found.values() for one in several)
    print(f"{precision}, {threads} threads, products at most {peak / 1e9:,.0f} GFLOP/s")
    middle = {name: {key: median(one[key] for one in several) for key in several[0]} for name, several in found.items()}
    peers = [one for name, one in middle.items() if not name.startswith("ours")]
    for name, one in middle.items():
        ratio = {key: min((peer[key] for peer in peers), default=one[key]) / one[key] for key in ("seconds", "cpu")}
        print(
            f"  {name:<22}{TOKENS / one['seconds']:>8,.0f} tokens/s {flops / one['seconds'] / peak:>6.1%} of the peak "
            f"{one['cpu']:>7.3f} CPU s a step; × the best peer {ratio['seconds']:.2f} (CPU time {ratio['cpu']:.2f})"
            f"{'; torch’s own environment' if name in plain else ''}"
        )


if __name__ == "__main__":
    main()
