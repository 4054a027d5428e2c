"""A trained tokenizer as the files of three libraries, and the trial of those files.

Reads a `tokenizers.Tokenizer`; writes `tokenizer.json` and `tokenizer_config.json` (Hugging Face), `tokenizer.tiktoken`
and `tiktoken.json`. The trade-off: the trial takes some held-out documents, not all.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from stages.byte_level import token_bytes
from stages.encoder import Encoder
from stages.special_tokens import beginning_with
from stages.tokenizer_bpe import PATTERNS

CHECKED, CHECKED_CHARACTERS = 200, 10_000
"""Held-out documents, and characters of each, on which the written files are tried."""


def save(tokenizer: Any, folder: Path, pattern: str, specials: Sequence[str]) -> None:
    """Writes the tokenizer for `tokenizers` and `transformers` (tokenizer.json, tokenizer_config.json) and, with the
    same ids, for `tiktoken` (tokenizer.tiktoken: base64 of a token and its rank a line; tiktoken.json: the rest).

    specials: the first one begins a text where a library adds special tokens, as `pack` begins documents.
    """
    whole = beginning_with(json.loads(tokenizer.to_str()), specials[0], tokenizer.token_to_id(specials[0]))
    _write(folder / "tokenizer.json", whole)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{role}_token": token for role, token in zip(("bos", "eos", "pad"), specials, strict=False)},
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1 << 30,
    }
    _write(folder / "tokenizer_config.json", config)
    special = {token: tokenizer.token_to_id(token) for token in specials}
    plain = sorted((number, token) for token, number in tokenizer.get_vocab().items() if token not in special)
    spelt = token_bytes([token for _, token in plain])
    lines = [base64.b64encode(one) + b" %d\n" % number for one, (number, _) in zip(spelt, plain, strict=True)]
    (folder / "tokenizer.tiktoken").write_bytes(b"".join(lines))
    _write(folder / "tiktoken.json", {"pattern": PATTERNS.get(pattern, pattern), "special_tokens": special})


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def load_tiktoken(folder: Path) -> Any:
    """The tokenizer of a folder as a `tiktoken.Encoding`. Elsewhere, without Gristmill, these lines do it:

    about = json.load(open("tiktoken.json"))
    lines = [line.split() for line in open("tokenizer.tiktoken", "rb")]
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    encoding = tiktoken.Encoding("mine", pat_str=about["pattern"], mergeable_ranks=ranks,
                                 special_tokens=about["special_tokens"])
    """
    import tiktoken

    about = json.loads((folder / "tiktoken.json").read_text(encoding="utf-8"))
    lines = [line.split() for line in (folder / "tokenizer.tiktoken").read_bytes().splitlines()]
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    return tiktoken.Encoding(
        "gristmill", pat_str=about["pattern"], mergeable_ranks=ranks, special_tokens=about["special_tokens"]
    )


def try_files(folder: Path, texts: pa.ChunkedArray) -> dict[str, int]:
    """Encodes some texts by the files just written and decodes them again.

    Returns counters: tried (documents whose text came back), tiktoken_tried (0 where tiktoken is not installed) and
    tiktoken_differs (documents on which its ids are others: known only of characters that one of the two regex engines
    is too old to know). Raises ValueError where a text does not come back.
    """
    some = pa.array([text[:CHECKED_CHARACTERS] for text in texts.slice(0, CHECKED).to_pylist()], pa.large_string())
    encoder = Encoder(folder)
    ids, offsets = encoder.encode(some)
    rows = [row.tolist() for row in np.split(ids, offsets[1:-1])] if len(some) else []
    for text, row in zip(some.to_pylist(), rows, strict=True):
        if encoder.exact.decode(row, skip_special_tokens=False) != text:
            raise ValueError(f"the tokenizer in {folder} does not give a text back: {text[:200]!r}")
    try:
        encoding = load_tiktoken(folder)
    except ImportError:
        return {"tried": len(rows), "tiktoken_tried": 0, "tiktoken_differs": 0}
    differs = sum(encoding.encode_ordinary(text) != row for text, row in zip(some.to_pylist(), rows, strict=True))
    return {"tried": len(rows), "tiktoken_tried": len(rows), "tiktoken_differs": differs}
