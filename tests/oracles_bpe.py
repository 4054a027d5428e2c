"""Plain twins of the tokenizer's kernels: the `regex` module, a Counter, and Hugging Face's own trainer."""

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

import regex
from tokenizers import Regex, Tokenizer, models, trainers
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

from stages.byte_level import byte_alphabet
from stages.tokenizer_bpe import PATTERNS


def words_of(text: str, pattern: str, longest: int) -> list[str]:
    """The pre-tokens of a text by the `regex` module, the long ones in pieces."""
    found = regex.findall(PATTERNS[pattern], text)
    return [word[k : k + longest] for word in found for k in range(0, len(word), longest)]


def words_of_tokenizers(text: str, pattern: str) -> list[str]:
    """The pre-tokens of a text by the regular expressions of `tokenizers`."""
    return [word for word, _ in Split(Regex(PATTERNS[pattern]), "isolated").pre_tokenize_str(text)]


def counted(texts: Iterable[str], pattern: str, longest: int) -> dict[bytes, int]:
    """The words of some texts, as bytes, and how often each is met."""
    return Counter(word.encode() for text in texts for word in words_of(text, pattern, longest))


def trained(texts: Iterable[str], pattern: str, size: int, least: int, longest: int | None = None) -> Tokenizer:
    """A tokenizer of `size` tokens trained by BpeTrainer; longest: words of more characters are cut into pieces."""
    tokenizer = Tokenizer(models.BPE())
    split = [Split(Regex(PATTERNS[pattern]), "isolated")]
    split += [Split(Regex(f"(?m:.{{1,{longest}}})"), "isolated")] if longest else []
    tokenizer.pre_tokenizer = Sequence([*split, ByteLevel(False, use_regex=False)])
    alphabet = sorted(byte_alphabet())
    trainer = trainers.BpeTrainer(vocab_size=size, min_frequency=least, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def merges_by_hand(words: dict[bytes, int], ids: list[int], most: int, least: int) -> list[tuple[int, int]]:
    """Merges found by counting all pairs anew each time; counts may be of any size."""
    parts = {word: [ids[byte] for byte in word] for word in words}
    found: list[tuple[int, int]] = []
    while len(found) < most:
        pairs: Counter[tuple[int, int]] = Counter()
        for word, tokens in parts.items():
            for pair in pairwise(tokens):
                pairs[pair] += words[word]
        best = min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)
        if best is None or pairs[best] < least:
            break
        new = 256 + len(found)
        found.append(best)
        parts = {word: _merged(tokens, best, new) for word, tokens in parts.items()}
    return found


def _merged(tokens: list[int], pair: tuple[int, int], new: int) -> list[int]:
    out, k = [], 0
    while k < len(tokens):
        joined = tuple(tokens[k : k + 2]) == pair
        out.append(new if joined else tokens[k])
        k += 2 if joined else 1
    return out
