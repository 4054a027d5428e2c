"""Text from a trained model: the prompts at once, then one token at a time through a key-value cache.

Reads a folder in Hugging Face layout, as `export` writes it; yields text. Bytes are held back until they are valid
UTF-8, so that half a character is never shown. The text never outgrows the length that the model was trained on: an
overlong prompt keeps its end. What comes out may hold any character: whoever prints it escapes it.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as fn

from stages.train.evaluate import spelling
from stages.train.export import load_model
from stages.train.model import Model
from stages.train.quantise import quantise

GUESSES = 4
"""Tokens that the smaller model of a speculative pair proposes at once."""
Weights = Literal["fp32", "bf16", "int8"]


@dataclass(frozen=True)
class Choice:
    """How a token is drawn: among the `top_k` likeliest (0: all) that make up `top_p` (Holtzman et al. 2020) and are at
    least `min_p` times as likely as the likeliest (Nguyen et al. 2024); temperature 0: the likeliest."""

    temperature: float = 0.8
    top_k: int = 50
    top_p: float = 0.95
    min_p: float = 0.0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"a temperature of {self.temperature} is below 0")

    def shares(self, logits: Tensor) -> Tensor:
        """logits [vocab] → the probabilities [vocab] to draw with."""
        if self.temperature == 0:
            return fn.one_hot(logits.argmax(), len(logits)).float()
        values, order = ((logits - logits.max()) / self.temperature).sort(descending=True, stable=True)
        found = values[: self.top_k or None].softmax(-1)
        out = (found.cumsum(-1) - found >= self.top_p) | (found < self.min_p * found[0])
        out[0] = False
        found = found.masked_fill(out, 0.0)
        return torch.zeros_like(logits).scatter_(0, order[: len(found)], found / found.sum())

    def draw(self, logits: Tensor, chance: torch.Generator) -> int:
        """A token."""
        return int(torch.multinomial(self.shares(logits), 1, generator=chance))


class Cache:
    """Keys and values of several texts, each at the slot of its position; also the attention of the model reading them.

    What lies at later positions is never seen, so going back is to read on from an earlier position, and texts of
    different lengths are padded on the right with anything.
    """

    def __init__(self, model: Model, texts: int, capacity: int) -> None:
        shape, device = model.shape, model.device
        size = (shape.depth, texts, shape.kv_heads, capacity, shape.head)
        self.model = model
        self.keys = torch.zeros(size, dtype=model.dtype, device=device)
        self.values = torch.zeros(size, dtype=model.dtype, device=device)
        self.positions, self.seen = torch.zeros(0), torch.zeros(0)

    def read(self, ids: Tensor, positions: Tensor) -> Tensor:
        """ids, positions int64 [texts, T] → hidden states [texts, T, width]."""
        self.positions = positions
        self.seen = torch.arange(int(positions.max()) + 1, device=positions.device) <= positions[:, None, :, None]
        hidden: Tensor = self.model(ids.reshape(-1), positions.reshape(-1), self)
        return hidden.view(*ids.shape, -1)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        """Stores k and v, attends to all that lies at the same or earlier positions."""
        texts, length = self.positions.shape
        end = self.seen.shape[-1]
        where = torch.arange(texts, device=q.device)[:, None]
        self.keys[layer][where, :, self.positions] = k.view(texts, length, *k.shape[1:])
        self.values[layer][where, :, self.positions] = v.view(texts, length, *v.shape[1:])
        query = q.view(texts, length, *q.shape[1:]).transpose(1, 2)
        keys, values = self.keys[layer, :, :, :end], self.values[layer, :, :, :end]
        out = fn.scaled_dot_product_attention(query, keys, values, attn_mask=self.seen, enable_gqa=True)
        return out.transpose(1, 2).reshape(q.shape)


@torch.no_grad()
def continue_all(
    model: Model, prompts: Sequence[Sequence[int]], count: int, choice: Choice, eos: int, seed: int
) -> Iterator[list[int | None]]:
    """The next token of every prompt, `count` times or until all have ended; None for a text that has.

    The prompts are read in one pass. Text k draws with the seed `seed + k`, whatever the others do.
    """
    chances = [torch.Generator().manual_seed(seed + k) for k in range(len(prompts))]
    lengths, device = torch.tensor([len(one) for one in prompts]), model.device
    longest = int(lengths.max())
    cache = Cache(model, len(prompts), longest + count)
    ids = torch.tensor([[*one, *([0] * (longest - len(one)))] for one in prompts])
    hidden = cache.read(ids.to(device), torch.arange(longest, device=device).expand(len(prompts), -1))
    last = hidden[torch.arange(len(prompts)), lengths - 1]
    ended = [False] * len(prompts)
    for turn in range(count):
        logits = model.logits(last).cpu()
        drawn = [eos if end else choice.draw(*pair) for end, *pair in zip(ended, logits, chances, strict=True)]
        ended = [token == eos for token in drawn]
        yield [None if token == eos else token for token in drawn]
        if all(ended) or turn + 1 == count:
            return
        last = cache.read(torch.tensor(drawn, device=device)[:, None], (lengths + turn)[:, None].to(device))[:, 0]


@torch.no_grad()
def speculate(
    model: Model, draft: Model, prompt: Sequence[int], count: int, choice: Choice, eos: int, seed: int
) -> Iterator[int]:
    """The tokens after a prompt, `count` at most or until the end token, distributed as `model` alone would draw them.

    The smaller `draft` proposes tokens, `model` judges several in one pass (Leviathan et al. 2023, algorithm 1).
    """
    chance, ids, told = torch.Generator().manual_seed(seed), list(prompt), len(prompt)
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


def prompt_ids(tokenizer: Tokenizer, prompt: str, bos: int, limit: int) -> list[int]:
    """The beginning token and the last tokens of a prompt, `limit` in all at most."""
    return [bos, *tokenizer.encode(prompt, add_special_tokens=False).ids[1 - limit :]]


def text_of(tokens: Iterable[int], spelt: Sequence[bytes]) -> Iterator[str]:
    """The text of tokens in pieces of whole characters; bytes that are no UTF-8 become U+FFFD."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for token in tokens:
        if piece := decoder.decode(spelt[token]):
            yield piece
    if rest := decoder.decode(b"", final=True):
        yield rest


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
