"""A trained tokenizer ready to use: texts → ids without a Python object per token, and the facts others ask of it.

Reads `tokenizer.json` (Hugging Face). gigatoken encodes where it is installed and knows the split pattern, after its
ids have been found equal to those of `tokenizers` on some documents of every batch; else `tokenizers` does. That is the
trade-off: an optional part for 25–125 MB/s on one core instead of 1–3 (English, Chinese, 60 languages, code).
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stages.byte_level import byte_alphabet
from stages.plain_text import Plain, plain_tokenizer
from stages.special_tokens import Roles, find_roles, named_in_config

CHECKED = 3
"""Documents of each batch that both encoders encode."""
CHECKED_BYTES = 1 << 20
"""Longer documents are not chosen for the check: `tokenizers` takes a third of a second for a megabyte."""
REMEMBERED_BYTES = 128 << 20
"""Text after which gigatoken is opened anew, which takes a tenth of a second."""
FEW, FEW_BYTES = 8192, 32 << 20
"""Documents and their text that gigatoken encodes one by one, which costs some microseconds for each: batches need
awkward, which takes 0.12 s to load."""
PIECE_BYTES = 1 << 20
"""Bytes handed to `tokenizers` at once: its results take about twenty times the memory of the ids."""

Ids = tuple[NDArray[np.int32], NDArray[np.int64]]
"""Ids of n texts, one after the other: int32[total], and where each text starts: int64[n + 1]."""


class UnknownTextError(ValueError):
    """A text that a tokenizer without an unknown token cannot encode."""


class Encoder:
    """Encodes texts as plain text: no special token comes of them whatever they spell, no BOS or EOS is added.

    exact: the tokenizer as its file has it. fallbacks: documents that `tokenizers` encoded since gigatoken could not or
    did not agree. why: the reason, or "". unknown: ids of the unknown token so far. lost: bytes of text so far that a
    byte-level vocabulary has no token for, nor an unknown one: `tokenizers` leaves them out.
    """

    def __init__(self, path: Path, special: frozenset[str] = frozenset()) -> None:
        """path: tokenizer.json or its folder. special: texts of tokens that are special besides those that its files
        call so. Raises FileNotFoundError, ValueError where it is no tokenizer, or none that text can be encoded with.
        """
        self.file = tokenizer_file(path)
        self.exact = _opened(_exact, self.file)
        named = frozenset(text for text in named_in_config(self.file) if len(text) > 1)
        self.plain: Plain = _opened(plain_tokenizer, self.file, special | named)
        self.fast, self.why = _opened(_gigatoken, self.file, special | named)
        self.fallbacks = self.unknown = self.lost = 0

    def encode(self, texts: pa.Array, ranks: NDArray[np.uint64] | None = None) -> Ids:
        """The ids of a large_string or string array without nulls. ranks: the lowest are checked; else the first.

        Raises UnknownTextError.
        """
        ids, offsets = self.plain.separated(*self._encode(texts, ranks))
        self.unknown += int((ids == self.plain.unknown).sum())
        self.lost += self.plain.lost(texts)
        return ids, offsets

    def refused(self, texts: pa.Array) -> dict[int, str]:
        """The texts that cannot be encoded, since a character is unknown and there is no token for that: position →
        why."""
        found: dict[int, str] = {}
        for k in range(len(texts) if self.plain.refuses else 0):
            try:
                self._by_tokenizers(texts.slice(k, 1))
            except UnknownTextError as error:
                found[k] = str(error)
        return found

    def _encode(self, texts: pa.Array, ranks: NDArray[np.uint64] | None) -> Ids:
        if self.fast is not None and len(texts):
            found: Ids = self.fast.encode(texts)
            if self._agrees(texts, found, ranks):
                return found
            self.fast, self.why = None, "gigatoken's ids differ from those of tokenizers"
        self.fallbacks += len(texts)
        return self._by_tokenizers(texts)

    def _agrees(self, texts: pa.Array, found: Ids, ranks: NDArray[np.uint64] | None) -> bool:
        short = np.flatnonzero(pc.binary_length(texts).to_numpy(zero_copy_only=False) <= CHECKED_BYTES)
        chosen = short[:CHECKED] if ranks is None else short[np.argsort(ranks[short], kind="stable")[:CHECKED]]
        ids, offsets = found
        exact, edges = self._by_tokenizers(texts.take(pa.array(chosen)))
        return all(
            np.array_equal(ids[offsets[row] : offsets[row + 1]], exact[edges[k] : edges[k + 1]])
            for k, row in enumerate(chosen)
        )

    def _by_tokenizers(self, texts: pa.Array) -> Ids:
        lists = [np.empty(0, np.int32)]
        for piece in _pieces(texts, PIECE_BYTES):
            try:
                encoded = self.plain.tokenizer.encode_batch_fast(piece.to_pylist(), add_special_tokens=False)
            except Exception as error:
                if type(error) is not Exception:
                    raise
                raise UnknownTextError(str(error)) from error  # `tokenizers` has no class of its own for this
            lists += [np.array(one.ids, np.int32) for one in encoded]
        return np.concatenate(lists), np.cumsum([len(ids) for ids in lists], dtype=np.int64)


def _opened(how: Callable[..., Any], file: Path, *special: frozenset[str]) -> Any:
    """What `how` makes of a tokenizer.json; remembered, since every shard's task asks."""
    stat = file.stat()
    return _open(how, file, stat.st_size, stat.st_mtime_ns, *special)


@lru_cache(maxsize=8)
def _open(how: Callable[..., Any], file: Path, _size: int, _changed: int, *special: frozenset[str]) -> Any:
    return how(file, *special)


def _exact(file: Path) -> Any:
    """The tokenizer of `tokenizers`: no special tokens in texts, nothing cut or added."""
    from tokenizers import Tokenizer

    exact = Tokenizer.from_file(str(file))
    exact.encode_special_tokens = True
    exact.no_padding()
    exact.no_truncation()
    return exact


class _Gigatoken:
    """gigatoken's tokenizer, opened anew from time to time: it remembers every word, 0.3 MB for a MB of text."""

    def __init__(self, source: bytes) -> None:
        """source: a tokenizer.json without special tokens, which gigatoken would see in texts. As `Tokenizer`."""
        self.source, self.left = source, FEW
        self._open()

    def _open(self) -> None:
        from gigatoken import Tokenizer

        self.tokenizer, self.bytes = Tokenizer.from_json(self.source), 0

    def encode(self, texts: pa.Array) -> Ids:
        """The ids of texts."""
        if self.bytes > REMEMBERED_BYTES:
            self._open()
        self.bytes += pc.sum(pc.binary_length(texts)).as_py() or 0
        self.left = self.left - len(texts) if self.bytes <= FEW_BYTES else -1
        return self._one_by_one(texts) if self.left >= 0 else self._batch(texts)

    def _one_by_one(self, texts: pa.Array) -> Ids:
        lists = [np.empty(0, np.uint32), *map(self.tokenizer.encode, texts.cast(pa.large_binary()).to_pylist())]
        return np.concatenate(lists).view(np.int32), np.cumsum([len(ids) for ids in lists], dtype=np.int64)

    def _batch(self, texts: pa.Array) -> Ids:
        import awkward as ak

        wide = ak.from_arrow(texts.cast(pa.large_string()))
        layout = self.tokenizer.encode_batch(wide, parallel=False).layout.to_ListOffsetArray64(True)
        return layout.content.data.view(np.int32), layout.offsets.data


def _gigatoken(file: Path, special: frozenset[str]) -> tuple[_Gigatoken | None, str]:
    """gigatoken's tokenizer of a tokenizer.json and "", or None and why not."""
    plain: Plain = _opened(plain_tokenizer, file, special)
    if plain.doubt:
        return None, plain.doubt
    try:
        return _Gigatoken(plain.source), ""
    except ImportError:
        return None, "gigatoken is not installed"
    except (RuntimeError, ValueError) as error:
        return None, f"gigatoken does not take this tokenizer: {error}"


def _pieces(texts: pa.Array, size: int) -> list[pa.Array]:
    """Slices of about `size` bytes, one text at least."""
    ends = np.cumsum(pc.binary_length(texts).to_numpy(zero_copy_only=False).astype(np.int64))
    edges = np.flatnonzero(np.diff(ends // size, prepend=0)) + 1 if len(ends) else np.empty(0, np.int64)
    bounds = np.unique(np.concatenate([[0], edges, [len(texts)]]))
    return [texts.slice(low, high - low) for low, high in itertools.pairwise(bounds)]


def tokenizer_file(path: Path) -> Path:
    """The `tokenizer.json` that a path means: the file itself, or the one in the folder."""
    return path / "tokenizer.json" if path.is_dir() else path


def digest(path: Path) -> str:
    """sha256 of a tokenizer's `tokenizer.json`; path: the file or its folder."""
    return hashlib.sha256(tokenizer_file(path).read_bytes()).hexdigest()


def special_tokens(path: Path, bos: bool | str = True, eos: bool | str = True, pad: str | None = None) -> Roles:
    """The tokens that begin, end and pad, by settings and the tokenizer's files, as `find_roles` finds them.

    path: a tokenizer.json or its folder.
    """
    file = tokenizer_file(path)
    return find_roles(file, _opened(_exact, file), bos, eos, pad)


def vocab_size(path: Path) -> int:
    """The highest id of a tokenizer.json, or of the one in a folder, + 1."""
    return int(_opened(_size, tokenizer_file(path)))


def _size(file: Path) -> int:
    vocabulary: dict[str, int] = _opened(_exact, file).get_vocab()
    return max(vocabulary.values()) + 1


def spelling(tokenizer: Any) -> list[bytes]:
    """The bytes of each token id of a byte-level `tokenizers.Tokenizer`; none for special tokens and unused ids."""
    alphabet, vocabulary = byte_alphabet(), tokenizer.get_vocab(with_added_tokens=True)
    special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    spelt = [b""] * (max(vocabulary.values()) + 1)
    for token, number in vocabulary.items():
        if number not in special:
            plain = all(char in alphabet for char in token)
            spelt[number] = bytes(alphabet[char] for char in token) if plain else token.encode()
    return spelt
