"""From counted words to a byte-level BPE tokenizer of Hugging Face's `tokenizers`.

Reads words and their counts; the merges are those that `tokenizers` would learn from the same words, ties included. The
trade-off: `tokenizers` is left to hold, encode and save; only its training is replaced, by kernels 10–17 times as fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stages.byte_level import byte_alphabet
from stages.kernels.arrow import read_only, text_buffers
from stages.tokenizer_words import WHOLE, WordTable

PATTERNS: dict[str, str] = {
    "gpt2": r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""",
    "cl100k": r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"""
    r"""|\s*[\r\n]+|\s+(?!\S)|\s+""",
    "o200k": r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"""
    r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"""
    r"""[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*"""
    r"""|\s*[\r\n]+|\s+(?!\S)|\s+""",
    "qwen2": r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"""
    r"""|\s*[\r\n]+|\s+(?!\S)|\s+""",
}
"""The stock split patterns, verbatim: openai/gpt-2 src/encoder.py; openai/tiktoken tiktoken_ext/openai_public.py
(cl100k_base as Llama 3's tokenizer.json spells it, without the possessive quantifiers that only save time; o200k_base);
huggingface/transformers models/qwen2/tokenization_qwen2.py. Other spellings would forfeit the fast encoders."""


def splitter(pattern: str) -> Any:
    """The `tokenizers` pre-tokenizer of a stock pattern's name or a regular expression; ValueError for a bad one."""
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import Split

    try:
        return Split(Regex(PATTERNS.get(pattern, pattern)), "isolated")
    except Exception as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error


def special_problem(token: str, tokens: Sequence[str], pattern: str) -> str | None:
    """Why a text cannot be a special token beside others, or None.

    A vocabulary holds texts in the byte-level alphabet, where "Ġthe" is " the": a special token must be neither the
    text nor the spelling of a byte or of a word of the pattern, which merging could make. Patterns of the user's own
    may take any text for one word, so there only single characters are refused; `build` leaves out other merges.
    """
    if not token:
        return "a special token is empty"
    if tokens.count(token) > 1:
        return f"the special token {token!r} comes twice: each needs a text of its own"
    alphabet = byte_alphabet()
    spelt = all(char in alphabet for char in token)
    read = bytes(alphabet[char] for char in token).decode(errors="replace") if spelt else token
    if len(token) == 1 or len(read) == 1:
        return f"the special token {token!r} is an ordinary character's own token; give one such as '<|{token}|>'"
    splits = splitter(pattern).pre_tokenize_str
    if pattern in PATTERNS and any(len(splits(text)) == 1 for text in (token, read)):
        return (
            f"the special token {token!r} is a word of the pattern {pattern}: merging could make it of ordinary text; "
            f"give one that the pattern splits, such as '<|{token}|>'"
        )
    return None


def learn(words: pa.Table, size: int, least: int) -> NDArray[np.int32]:
    """The merges of a vocabulary of `size` tokens, the 256 bytes included: int32[m, 2], ids; merge k makes 256 + k.

    words: `WORDS`, each word once. least: a pair met less often is not merged.
    """
    from stages.kernels.bpe import learn_merges

    rows = words.combine_chunks()
    data, offsets = text_buffers(pa.concat_arrays([pa.array([], pa.large_binary()), *rows["word"].chunks]))
    if int(offsets[-1] - offsets[0]) + len(offsets) >= 1 << 31:
        raise ValueError("the words to learn from take more than 2 GB: lower max_words")
    counts = read_only(rows["count"].to_numpy())
    alphabet = byte_alphabet()
    ids = np.empty(256, np.int32)
    ids[[alphabet[char] for char in sorted(alphabet)]] = np.arange(256)
    return np.asarray(learn_merges(data, offsets, counts, read_only(ids), max(0, size - 256), max(1, least)))


def build(merges: NDArray[np.int32], pattern: str, specials: Sequence[str]) -> Any:
    """A `tokenizers.Tokenizer`: the 256 bytes, the merges, special tokens last, no normaliser, no unknown token.

    A merge that would spell a special token is left out, and so are those that need it.
    """
    from tokenizers import Tokenizer, decoders, models
    from tokenizers.pre_tokenizers import ByteLevel, Sequence

    made, taken = sorted(byte_alphabet()), set(specials)
    pairs, left_out = [], set()
    for left, right in merges.tolist():
        token = made[left] + made[right]
        if token in taken or left in left_out or right in left_out:
            left_out.add(len(made))
        else:
            pairs.append((made[left], made[right]))
        made.append(token)
    tokens = [token for number, token in enumerate(made) if number not in left_out]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, pairs))
    stock = ByteLevel(add_prefix_space=False, use_regex=True)
    own = Sequence([splitter(pattern), ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.pre_tokenizer = stock if pattern == "gpt2" else own
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(specials))
    return tokenizer


def train_bpe(
    texts: pa.ChunkedArray,
    pattern: str,
    vocab_size: int,
    specials: Sequence[str],
    min_frequency: int = 2,
    longest: int = WHOLE,
) -> Any:
    """A `tokenizers.Tokenizer` trained on texts (large_string) in memory; `vocab_size` includes the special tokens.

    longest: longer pre-tokens are learnt from in pieces of so many characters.
    """
    table = WordTable()
    for chunk in texts.chunks:
        table.count(chunk, pattern, longest)
    merges = learn(pa.Table.from_batches([table.rows()]), vocab_size - len(specials), min_frequency)
    return build(merges, pattern, specials)
