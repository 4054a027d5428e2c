"""A tokenizer of Hugging Face's for plain text: whatever a text spells, no special token comes of it.

Reads a tokenizer.json. `tokenizers` can be told not to look for special tokens in texts, but a model whose own
vocabulary has them finds them all the same (Unigram, WordLevel, WordPiece, a BPE that takes whole words). So they are
taken out of the vocabulary: their ids go to spellings that no text can have. What cannot be taken out, since merges of
a BPE lead through it, is replaced after encoding by the tokens that it was merged from. SentencePiece never makes
control symbols of text either. The trade-off: such a tokenizer is loaded twice.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from stages.byte_level import byte_alphabet
from stages.kernels.arrow import text_buffers

FLAGS = {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"}
"""What is known of an added token."""
BYTE = re.compile("<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class Plain:
    """tokenizer: a `tokenizers.Tokenizer` of plain text. source: a tokenizer.json of it without special tokens. apart:
    id → the ids to put in its place. unknown: the id of the unknown token, or -1. refuses: whether it raises an error
    for text that it does not know. missing: bytes without a token that vanish without an error. doubt: why other
    encoders may not read the source, or ""."""

    tokenizer: Any
    source: bytes
    apart: Mapping[int, Sequence[int]]
    unknown: int
    refuses: bool
    missing: frozenset[int]
    doubt: str

    def lost(self, texts: pa.Array) -> int:
        """Bytes of texts that vanish."""
        if not self.missing:
            return 0
        data, offsets = text_buffers(texts.cast(pa.large_string()))
        counts = np.bincount(data[offsets[0] : offsets[-1]], minlength=256)
        return int(counts[list(self.missing)].sum())

    def separated(
        self, ids: NDArray[np.int32], offsets: NDArray[np.int64]
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The same texts' ids with the special tokens that were merged from text taken apart."""
        hits = np.flatnonzero(np.isin(ids, list(self.apart))) if self.apart else ids[:0]
        if not len(hits):
            return ids, offsets
        pieces = [np.array(self.apart[number], np.int32) for number in ids[hits].tolist()]
        sizes = np.ones(len(ids), np.int64)
        sizes[hits] = [len(piece) for piece in pieces]
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        out = np.repeat(ids, sizes)
        for hit, piece in zip(hits.tolist(), pieces, strict=True):
            out[ends[hit] : ends[hit + 1]] = piece
        return out, ends[offsets]


def plain_tokenizer(file: Path, special: frozenset[str]) -> Plain:
    """The tokenizer of a tokenizer.json for plain text. special: texts that are special besides those that it marks.

    Raises ValueError where a special token is the only token of some character, and for a file that is none.
    """
    data = orjson.loads(file.read_bytes())
    model, added = data["model"], data.get("added_tokens") or []
    unknown = _unknown(model)
    wanted = {token["content"] for token in added if token.get("special")} | special | ({unknown} if unknown else set())
    ids = _ids(model)
    kept, apart = _merged(model, ids, wanted & ids.keys(), unknown)
    hidden = (wanted & ids.keys()) - kept
    data["model"] = _hiding(model, hidden)
    data["added_tokens"] = [
        token | {"special": token["content"] in wanted} for token in added if token["content"] not in hidden
    ]
    data["post_processor"] = data["truncation"] = data["padding"] = None
    tokenizer = _loaded(data)
    data["added_tokens"] = [token for token in data["added_tokens"] if not token["special"]]
    strange = [t["content"] for t in data["added_tokens"] if t.get("single_word") or not t.keys() <= FLAGS]
    doubt = f"its added token {strange[0]!r} has a flag that gigatoken does not know" if strange else ""
    number = ids.get(unknown, -1) if unknown else -1
    refuses = "merges" not in model and number < 0
    return Plain(tokenizer, orjson.dumps(data), apart, number, refuses, _missing(data, ids, number), doubt)


def _missing(data: Mapping[str, Any], ids: Mapping[str, int], unknown: int) -> frozenset[int]:
    """The bytes that a byte-level BPE without an unknown token has no token for."""
    steps = orjson.dumps([data.get("pre_tokenizer"), data.get("normalizer")])
    if "merges" not in data["model"] or unknown >= 0 or b'"ByteLevel"' not in steps:
        return frozenset()
    return frozenset(byte for char, byte in byte_alphabet().items() if char not in ids)


def _loaded(data: Mapping[str, Any]) -> Any:
    """The tokenizer, told to take special tokens in texts for text. Raises ValueError for an added token's wrong id."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(orjson.dumps(data).decode())
    tokenizer.encode_special_tokens = True
    for token in data["added_tokens"]:
        if not token["special"] and tokenizer.token_to_id(token["content"]) != token["id"]:
            raise ValueError(f"the added token {token['content']!r} has another id than {token['id']}, which it claims")
    return tokenizer


def _ids(model: Mapping[str, Any]) -> dict[str, int]:
    """token → id of a model's own vocabulary."""
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        return vocabulary
    return {piece: number for number, (piece, _) in enumerate(vocabulary)}


def _unknown(model: Mapping[str, Any]) -> str | None:
    """The text of a model's unknown token."""
    if isinstance(model["vocab"], dict):
        token: str | None = model.get("unk_token")
        return token
    number = model.get("unk_id")
    return model["vocab"][number][0] if number is not None else None


def _hiding(model: Mapping[str, Any], hidden: set[str]) -> dict[str, Any]:
    """The model with other spellings for some tokens. They are random, so that no text can have been written for them;
    no id depends on them."""
    spelt = {token: f"\uffff{secrets.token_hex(64)}" for token in hidden}
    if isinstance(model["vocab"], dict):
        vocabulary: Any = {spelt.get(token, token): number for token, number in model["vocab"].items()}
    else:
        vocabulary = [[spelt.get(piece, piece), score] for piece, score in model["vocab"]]
    changed = dict(model) | {"vocab": vocabulary}
    if changed.get("dropout") is not None:
        changed["dropout"] = None  # BPE dropout makes of one text other ids each time
    if changed.get("unk_token") in spelt:
        changed["unk_token"] = spelt[changed["unk_token"]]
    return changed


def _merged(
    model: Mapping[str, Any], ids: Mapping[str, int], wanted: set[str], unknown: str | None
) -> tuple[set[str], dict[int, list[int]]]:
    """Tokens of `wanted` that a BPE cannot do without (characters, bytes, parts and results of merges), and what to put
    for their ids."""
    if "merges" not in model:
        return set(), {}
    prefix = len(model.get("continuing_subword_prefix") or "")
    halves: dict[str, tuple[str, str]] = {}
    parts: set[str] = set()
    for merge in model["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        halves.setdefault(left + right[prefix:], (left, right))
        parts |= {left, right}
    fallback = {token for token in wanted if model.get("byte_fallback") and BYTE.fullmatch(token)}
    kept = {token for token in wanted if token in parts or token in halves or len(token) == 1} | fallback
    replaced = kept - fallback - {unknown}
    return kept, {ids[token]: _apart(token, model, ids, halves, replaced, unknown) for token in sorted(replaced)}


def _apart(
    token: str,
    model: Mapping[str, Any],
    ids: Mapping[str, int],
    halves: Mapping[str, tuple[str, str]],
    replaced: set[str],
    unknown: str | None,
) -> list[int]:
    """The ids of the tokens that a token was merged from, none of them special."""
    if token not in replaced:
        return [ids[token]]
    if token in halves:
        return [i for half in halves[token] for i in _apart(half, model, ids, halves, replaced, unknown)]
    spelt = [f"<0x{byte:02X}>" for byte in token.encode()]
    if model.get("byte_fallback") and all(one in ids for one in spelt):
        return [ids[one] for one in spelt]
    if unknown is not None and unknown in ids:
        return [ids[unknown]]
    raise ValueError(f"its special token {token!r} is the only token of ordinary text, which could not be encoded")
