"""Text from a trained model: prefill, then one token at a time through a key-value cache.

Reads a folder in Hugging Face layout as `export` writes it. Bytes are held back until they are valid UTF-8, so that
no half
character is shown. What comes out is a model's text and may hold any character: whoever prints it escapes it.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from stages.encoder import byte_alphabet
from stages.train.model import Model, Shape


def load_model(folder: Path) -> tuple[Model, dict[str, Any]]:
    """The model in a folder and its config."""
    config = json.loads((folder / "config.json").read_text())
    shape = Shape(
        vocab=config["vocab_size"],
        depth=config["num_hidden_layers"],
        width=config["hidden_size"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        ffn=config["intermediate_size"],
        qk_norm=config["model_type"] == "qwen3",
        rope_theta=config["rope_theta"],
    )
    model = Model(shape)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval(), config


def generate(
    folder: Path,
    prompt: str,
    max_tokens: int = 200,
    temperature: float = 0.8,
    top_k: int = 50,
    top_p: float = 0.95,
    seed: int = 0,
) -> Iterator[str]:
    """Writes on from a prompt, piece by piece, until the end token or `max_tokens`; the same seed, the same text."""
    model, config = load_model(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = [config["bos_token_id"], *tokenizer.encode(prompt, add_special_tokens=False).ids]
    alphabet = byte_alphabet()
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    limit = min(max_tokens, config["max_position_embeddings"] - len(ids))
    for token in sample_ids(model, ids, limit, temperature, top_k, top_p, seed):
        if token == config["eos_token_id"]:
            break
        piece = decoder.decode(bytes(alphabet[c] for c in (tokenizer.id_to_token(token) or "") if c in alphabet))
        if piece:
            yield piece
    if rest := decoder.decode(b"", final=True):
        yield rest


@torch.no_grad()
def sample_ids(
    model: Model, ids: list[int], count: int, temperature: float, top_k: int, top_p: float, seed: int
) -> Iterator[int]:
    """Up to `count` token ids that follow `ids`."""
    generator = torch.Generator().manual_seed(seed)
    cache = model.cache()
    tokens = torch.tensor([ids])
    for _ in range(count):
        start, length = cache.length, tokens.shape[1]
        positions = torch.arange(start, start + length)[None]
        mask = torch.ones(length, start + length, dtype=torch.bool).tril(start)[None, None]
        logits = model.logits(model(tokens, positions, mask, cache)[0, -1])
        token = choose(logits, temperature, top_k, top_p, generator)
        yield token
        tokens = torch.tensor([[token]])


def choose(logits: Tensor, temperature: float, top_k: int, top_p: float, generator: torch.Generator) -> int:
    """A token drawn from logits [vocab]: of the top_k likeliest (0: all) that make up top_p; temperature 0: the
    likeliest."""
    if temperature == 0:
        return int(logits.argmax())
    values, order = (logits / temperature).sort(descending=True, stable=True)
    shares = values.softmax(-1)
    out = shares.cumsum(-1) - shares >= top_p
    if top_k:
        out[top_k:] = True
    out[0] = False
    kept = shares.masked_fill(out, 0.0)
    return int(order[torch.multinomial(kept, 1, generator=generator)])


def sample_text(model: Model, tokenizer: Any, prompt: str, meta: Mapping[str, int], count: int, seed: int) -> str:
    """A prompt and what follows it, as one string."""
    ids = [meta["bos_id"], *tokenizer.encode(prompt, add_special_tokens=False).ids]
    found = []
    for token in sample_ids(model, ids, count, 0.7, 40, 0.95, seed):
        if token == meta["eos_id"]:
            break
        found.append(token)
    return str(tokenizer.decode([*ids[1:], *found]))
