"""What a tokenizer is worth, on documents it has not learnt from: `stats.json` for programs, `stats.md` for people.

Reads a tokenizer and held-out documents, encodes them once. The trade-off: bytes per token compare tokenizers of equal
size on equal text only; what a model makes of them is bits per byte, which `train` reports.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stages.byte_level import byte_alphabet
from stages.encoder import Encoder, spelling

SHOWN = 20
OFTEN = 10
BAR = "\\|"
SPACELESS = re.compile("[\u0e00-\u109f\u1780-\u17ff\u3005-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
"""Characters of scripts written without spaces: Thai to Burmese, Khmer, kana, Han. Where they are a quarter of a
language's text, its words are not counted."""


def statistics(folder: Path, held: pa.Table, other: Path | None) -> dict[str, Any]:
    """What `stats.json` says of a folder's tokenizer. held: columns text and lang. other: folder of one with gpt2's
    pattern, or None."""
    encoder, texts = Encoder(folder), pa.concat_arrays([pa.array([], pa.large_string()), *held["text"].chunks])
    ids, offsets = encoder.encode(texts)
    tokens = np.diff(offsets)
    langs = pc.fill_null(held["lang"], "unknown").to_pylist()
    measures = np.stack([np.ones(len(texts), np.int64), *_sizes(texts), tokens], axis=1)
    by = {lang: np.array([one == lang for one in langs], np.bool_) for lang in sorted(set(langs))}
    found = {
        "overall": _ratios(measures.sum(0)),
        "by_language": {lang: _ratios(measures[rows].sum(0)) for lang, rows in by.items()},
        "vocabulary": encoder.exact.get_vocab_size(),
        **_use(encoder.exact, ids),
    }
    if other is not None:
        second = Encoder(other)
        count = len(second.encode(texts)[0])
        ratio = round(float(measures[:, 1].sum()) / max(count, 1), 4)
        found["gpt2_pattern"] = {"vocabulary": second.exact.get_vocab_size(), "bytes_per_token": ratio}
    return found


def _sizes(texts: pa.Array) -> list[NDArray[np.int64]]:
    """Bytes, characters, words (between blanks) and characters of scripts without spaces, of each text."""
    counts = np.array([(len(t), len(t.split()), len(SPACELESS.findall(t))) for t in texts.to_pylist()], np.int64)
    return [pc.binary_length(texts).to_numpy().astype(np.int64), *counts.reshape(-1, 3).T]


def _ratios(sums: NDArray[np.int64]) -> dict[str, float | int | None]:
    documents, size, characters, words, spaceless, tokens = sums.tolist()
    return {
        "documents": documents,
        "bytes": size,
        "tokens": tokens,
        "bytes_per_token": round(size / max(tokens, 1), 4),
        "tokens_per_character": round(tokens / max(characters, 1), 4),
        "tokens_per_word": round(tokens / max(words, 1), 4) if 4 * spaceless <= characters else None,
    }


def _use(tokenizer: Any, ids: NDArray[np.int32]) -> dict[str, Any]:
    """How much of the vocabulary is used; its longest tokens, and those seldom met."""
    lengths = np.array([len(token) for token in spelling(tokenizer)], np.int32)
    counts = np.bincount(ids, minlength=len(lengths))
    plain = np.flatnonzero(lengths)
    longest = plain[np.lexsort((plain, -lengths[plain]))][:SHOWN]
    met = plain[counts[plain] > 0]
    rarest = met[np.lexsort((-met, counts[met]))][:SHOWN]
    return {
        "never_met": int((counts[plain] == 0).sum()),
        f"met_under_{OFTEN}_times": int((counts[plain] < OFTEN).sum()),
        "single_byte_share": round(float(counts[lengths == 1].sum()) / max(len(ids), 1), 4),
        "longest": [{"token": _spelt(tokenizer, i), "id": int(i), "bytes": int(lengths[i])} for i in longest],
        "rarest": [{"token": _spelt(tokenizer, i), "id": int(i), "times": int(counts[i])} for i in rarest],
    }


def _spelt(tokenizer: Any, number: np.int64) -> str:
    """A token as Python spells it: text where it is whole characters, else bytes; control characters steer nothing."""
    alphabet = byte_alphabet()
    raw = bytes(alphabet[char] for char in tokenizer.id_to_token(int(number)))
    try:
        return repr(raw.decode())
    except UnicodeDecodeError:
        return repr(raw)


def write_statistics(folder: Path, found: dict[str, Any]) -> None:
    """Writes `stats.json`, `stats.md` and `highlights.json`."""
    _write(folder / "stats.json", found)
    _write(folder / "highlights.json", {"bytes per token": _headline(found), **_warnings(found)})
    (folder / "stats.md").write_text("\n".join(_page(found)) + "\n", encoding="utf-8")


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _warnings(found: dict[str, Any]) -> dict[str, str]:
    """What is not as the settings or a good corpus would have it."""
    told = {}
    if found["vocabulary"] < found["vocabulary_asked"]:
        told["vocabulary"] = (
            f"{found['vocabulary']:,} of the {found['vocabulary_asked']:,} tokens asked for: {found['sample_bytes']:,} "
            "bytes of sample have no more pairs that are met often enough"
        )
    if found["words_cut"]:
        longest = f"{found['longest_word']:,} characters (longest_word)"
        told["words cut"] = f"{found['words_cut']:,} words of more than {longest} were learnt from in pieces"
    if found["repeated_ids"]:
        told["repeated ids"] = (
            f"{found['repeated_ids']:,} documents have the id of an earlier one: ids should be unique (id_field)"
        )
    return told


def _headline(found: dict[str, Any]) -> str:
    own = f"{found['overall']['bytes_per_token']:.3f} ({found['pattern']}, {found['vocabulary']:,} tokens)"
    if other := found.get("gpt2_pattern"):
        return f"{own}; {other['bytes_per_token']:.3f} with gpt2's pattern ({other['vocabulary']:,} tokens)"
    return own


def _page(found: dict[str, Any]) -> list[str]:
    on = "held out of its training" if found["held_out"] else "that it has learnt from, for want of others"
    lines = [
        f"# Tokenizer: {found['vocabulary']:,} tokens, pattern {found['pattern']}",
        "",
        f"Learnt from {found['sample_documents']:,} documents, {found['sample_bytes']:,} bytes, {found['words']:,} "
        f"distinct words{_pruned(found)}. Measured on documents {on}.",
        "",
        *(f"Note: {text}." for text in _warnings(found).values()),
        f"Bytes per token: {_headline(found)}.",
        f"{found['never_met']:,} tokens were not met at all, {found[f'met_under_{OFTEN}_times']:,} under {OFTEN} "
        f"times; {found['single_byte_share']:.2%} of the tokens met are single bytes.",
        f"All {found['tried']:,} texts tried came back from their ids; {_told_of_tiktoken(found)}.",
        "",
        "| language | documents | bytes | bytes per token | tokens per character | tokens per word |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for lang, row in {"all": found["overall"], **found["by_language"]}.items():
        word = f"{row['tokens_per_word']:.3f}" if row["tokens_per_word"] else "–"
        numbers = f"{row['bytes_per_token']:.3f} | {row['tokens_per_character']:.3f} | {word}"
        lines.append(f"| {lang} | {row['documents']:,} | {row['bytes']:,} | {numbers} |")
    for name, measure in (("longest", "bytes"), ("rarest", "times")):
        rows = [f"| `` {row['token'].replace('|', BAR)} `` | {row['id']} | {row[measure]:,} |" for row in found[name]]
        lines += ["", f"## {name.capitalize()} tokens", "", f"| token | id | {measure} |", "|---|---:|---:|", *rows]
    return lines


def _pruned(found: dict[str, Any]) -> str:
    if not found["words_pruned"]:
        return ""
    gone = f"{found['words_pruned']:,} words met fewer than {found['least_met']:,} times"
    return f"; {gone} were pruned (max_words), {found['met_pruned']:,} occurrences in all"


def _told_of_tiktoken(found: dict[str, Any]) -> str:
    if not found["tiktoken_tried"]:
        return "tiktoken was not there to compare"
    return f"tiktoken gives other ids on {found['tiktoken_differs']:,} of {found['tiktoken_tried']:,}"
