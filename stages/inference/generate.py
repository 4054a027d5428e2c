"""Text from a trained model, piece by piece, alone or with a smaller model that guesses ahead.

Reads a folder in Hugging Face layout, as `export` writes it; yields text. The text never outgrows the length that the
model was trained on: an overlong prompt keeps its end. What comes out may hold any character: whoever prints it escapes
it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from tokenizers import Tokenizer
from torch import Tensor

from pipeline import seeds
from stages.encoder import spelling
from stages.inference.quantise import quantise
from stages.train.export import load_model
from stages.train.model import Model
from stages.train.sample import Cache, Choice, continue_all, prompt_ids, text_of

GUESSES = 4
"""Tokens that the smaller model of a speculative pair proposes at once."""
Weights = Literal["fp32", "bf16", "int8"]


@torch.no_grad()
def speculate(
    model: Model, draft: Model, prompt: Sequence[int], count: int, choice: Choice, eos: int, seed: int
) -> Iterator[int]:
    """The tokens after a prompt, `count` at most or until the end token, distributed as `model` alone would draw them.

    The smaller `draft` proposes tokens, `model` judges several in one pass (Leviathan et al. 2023, algorithm 1).
    """
    chance, ids, told = torch.Generator().manual_seed(seeds.number("write.guess", seed)), list(prompt), len(prompt)
    readers = [_Reader(each, len(prompt) + count + GUESSES + 1) for each in (draft, model)]
    while len(ids) < len(prompt) + count and eos not in ids[told:]:
        yield from ids[told:]
        told = len(ids)
        proposed, odds = list(ids), []
        for _ in range(GUESSES):
            odds.append(choice.shares(readers[0].read(proposed, 1)[0]))
            proposed.append(int(torch.multinomial(odds[-1], 1, generator=chance)))
        wanted = [choice.shares(one) for one in readers[1].read(proposed, GUESSES + 1)]
        ids = judged(proposed, odds, wanted, chance)
        for reader in readers:
            reader.done = min(reader.done, len(ids) - 1)
    rest = ids[told : len(prompt) + count]
    yield from rest[: rest.index(eos)] if eos in rest else rest


def judged(proposed: list[int], odds: list[Tensor], wanted: list[Tensor], chance: torch.Generator) -> list[int]:
    """The proposed ids up to the first that is refused, and one token of the larger model's own."""
    start = len(proposed) - len(odds)
    for k, (q, p) in enumerate(zip(odds, wanted, strict=False)):
        token = proposed[start + k]
        if torch.rand((), generator=chance) * q[token] >= p[token]:
            return [*proposed[: start + k], int(torch.multinomial((p - q).clamp(min=0), 1, generator=chance))]
    return [*proposed, int(torch.multinomial(wanted[-1], 1, generator=chance))]


class _Reader:
    """One text and how much of it a model has read."""

    def __init__(self, model: Model, capacity: int) -> None:
        self.model, self.cache, self.done = model, Cache(model, 1, capacity), 0

    def read(self, ids: list[int], last: int) -> Tensor:
        """Reads on to the end of `ids`; the logits after each of the last tokens, float32 [last, vocab]."""
        device = self.model.device
        new = torch.tensor([ids[self.done :]], device=device)
        hidden = self.cache.read(new, torch.arange(self.done, len(ids), device=device)[None])
        self.done = len(ids)
        return self.model.logits(hidden[0, -last:]).cpu()


def generate(
    folder: Path,
    prompt: str,
    max_tokens: int = 200,
    temperature: float = 0.8,
    top_k: int = 50,
    top_p: float = 0.95,
    seed: int = 0,
    min_p: float = 0.0,
    stop: Sequence[str] = (),
    weights: Weights = "fp32",
    draft: Path | None = None,
) -> Iterator[str]:
    """Writes on from a prompt, piece by piece, until the end token, a stop string (which is not shown) or `max_tokens`.

    The same seed gives the same text. draft: a smaller model with the same tokenizer, which proposes tokens.
    """
    model, config = ready(folder, weights)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    longest, eos = config["max_position_embeddings"], config["eos_token_id"]
    ids = prompt_ids(tokenizer, prompt, config["bos_token_id"], max(longest - max_tokens, 2))
    count, choice = min(max_tokens, longest - len(ids)), Choice(temperature, top_k, top_p, min_p)
    tokens: Iterator[int]
    if draft is None:
        tokens = (one for (one,) in continue_all(model, [ids], count, choice, eos, seed) if one is not None)
    else:
        tokens = speculate(model, ready(draft, weights)[0], ids, count, choice, eos, seed)
    yield from until(text_of(tokens, spelling(tokenizer)), stop)


def ready(folder: Path, weights: Weights) -> tuple[Model, dict[str, Any]]:
    """A model to read with, and its config."""
    if weights not in get_args(Weights):
        raise ValueError(f"weights {weights}: known are {', '.join(get_args(Weights))}")
    model, config = load_model(folder)
    if weights == "int8":
        quantise(model)
    elif weights == "bf16":
        model.to(torch.bfloat16)
        model.dtype = torch.bfloat16
    return model, config


def until(pieces: Iterable[str], stop: Sequence[str]) -> Iterator[str]:
    """The pieces up to the first stop string; what may be the beginning of one is held back."""
    held = ""
    for piece in pieces:
        held += piece
        if ends := [at for one in stop if (at := held.find(one)) >= 0]:
            held = held[: min(ends)]
            break
        starts = [n for one in stop for n in range(1, len(one)) if held.endswith(one[:n])]
        safe = len(held) - max(starts, default=0)
        if safe:
            yield held[:safe]
            held = held[safe:]
    if held:
        yield held
