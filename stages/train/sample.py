"""Text from a model: prompts read at once, then one token at a time through a key-value cache.

Reads a model and token ids, gives tokens; `samples` gives those that a training ends with. Bytes are held back until
they are valid UTF-8, so that half a character is never shown.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as fn

from pipeline import seeds
from stages.encoder import spelling
from stages.train.model import Model


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

    The prompts are read in one pass. Text k draws from a stream of its own, whatever the others do.
    """
    chances = [torch.Generator().manual_seed(seeds.number("write.text", seed, k)) for k in range(len(prompts))]
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


def prompt_ids(tokenizer: Tokenizer, prompt: str, bos: int | None, limit: int) -> list[int]:
    """The beginning token, if documents have one, and the last tokens of a prompt, `limit` in all at most."""
    ids = [*([] if bos is None else [bos]), *tokenizer.encode(prompt, add_special_tokens=False).ids[1 - limit :]]
    if not ids:
        raise ValueError("an empty prompt cannot be continued: documents were packed without a beginning token")
    return ids


def text_of(tokens: Iterable[int], spelt: Sequence[bytes]) -> Iterator[str]:
    """The text of tokens in pieces of whole characters; bytes that are no UTF-8 become U+FFFD."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for token in tokens:
        if piece := decoder.decode(spelt[token]):
            yield piece
    if rest := decoder.decode(b"", final=True):
        yield rest


def samples(
    model: Model, tokenizer: Tokenizer, prompts: Sequence[str], count: int, meta: Mapping[str, Any], seed: int
) -> list[dict[str, str]]:
    """Each prompt, and the text of it and of `count` tokens at most. meta: what `pack` said: length, special ids."""
    length, spelt = meta["sequence_length"], spelling(tokenizer)
    read = [prompt_ids(tokenizer, text, meta["bos_id"], max(length - count, 2)) for text in prompts]
    if not read:
        return []
    room = length - max(map(len, read))
    turns = continue_all(model, read, min(count, room), Choice(0.7, 40, 0.95), meta["eos_id"], seed)
    written = [[one for one in column if one is not None] for column in zip(*turns, strict=True)]
    return [
        {"prompt": prompt, "text": prompt + "".join(text_of(ids, spelt))}
        for prompt, ids in zip(prompts, written, strict=True)
    ]
