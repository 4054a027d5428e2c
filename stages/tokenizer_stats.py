"""What a tokenizer is worth, on documents that it has not learnt from: `stats.json` for programs, `stats.md` for
people.

Reads a tokenizer and held-out documents (one in 32 of the sample). Bytes per token compare tokenizers of equal size
only.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

SHOWN = 20


def statistics(tokenizer: Any, held: list[tuple[str, str]], other: Any, pattern: str) -> dict[str, Any]:
    """Compression overall and by language, vocabulary use, longest and rarest tokens. held: (lang, text)."""
    counts = np.zeros(tokenizer.get_vocab_size(), np.int64)
    langs: dict[str, Counter[str]] = defaultdict(Counter)
    for lang, text in held:
        ids = tokenizer.encode(text).ids
        np.add.at(counts, ids, 1)
        langs[lang or "unknown"].update(
            bytes=len(text.encode()), tokens=len(ids), words=len(text.split()), characters=len(text), documents=1
        )
    total: Counter[str] = Counter()
    for one in langs.values():
        total.update(one)
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    words = [tokenizer.decode([i]) for _, i in vocabulary]
    longest = sorted(range(len(words)), key=lambda i: (-len(vocabulary[i][0]), i))[:SHOWN]
    rarest = sorted((i for i in range(len(words)) if counts[i]), key=lambda i: (counts[i], -i))[:SHOWN]
    found: dict[str, Any] = {
        "pattern": pattern,
        "vocabulary": len(vocabulary),
        "held_out": _ratios(total),
        "by_language": {lang: _ratios(langs[lang]) for lang in sorted(langs)},
        "vocabulary_used": int((counts > 0).sum()),
        "vocabulary_used_ten_times": int((counts >= 10).sum()),
        "longest": [words[i] for i in longest],
        "rarest": [words[i] for i in rarest],
    }
    if other is not None:
        tokens = sum(len(other.encode(text).ids) for _, text in held)
        found["gpt2_pattern_bytes_per_token"] = round(total["bytes"] / max(tokens, 1), 4)
    return found


def _ratios(counts: Counter[str]) -> dict[str, float]:
    tokens = max(counts["tokens"], 1)
    return {
        "documents": counts["documents"],
        "bytes": counts["bytes"],
        "bytes_per_token": round(counts["bytes"] / tokens, 4),
        "tokens_per_word": round(tokens / max(counts["words"], 1), 4),
        "tokens_per_character": round(tokens / max(counts["characters"], 1), 4),
    }


def write_statistics(folder: Path, found: dict[str, Any]) -> None:
    """Writes both pages; tokens are shown as Python spells them, so that hostile ones steer nothing."""
    (folder / "stats.json").write_text(json.dumps(found, indent=1, ensure_ascii=True) + "\n", encoding="utf-8")
    whole = found["held_out"]
    lines = [
        f"# Tokenizer: {found['vocabulary']:,} tokens, pattern {found['pattern']}",
        "",
        f"{whole['bytes_per_token']:.3f} bytes per token on {whole['bytes']:,} bytes held out"
        + (f"; {v:.3f} with gpt2's pattern" if (v := found.get("gpt2_pattern_bytes_per_token")) else "")
        + f". {found['vocabulary_used']:,} tokens were used, {found['vocabulary_used_ten_times']:,} ten times or more.",
        "",
        "| language | documents | bytes per token | tokens per word | tokens per character |",
        "|---|---|---|---|---|",
    ]
    for lang, row in found["by_language"].items():
        ratios = (row["bytes_per_token"], row["tokens_per_word"], row["tokens_per_character"])
        lines.append(f"| {lang} | {row['documents']:,} | " + " | ".join(f"{x:.3f}" for x in ratios) + " |")
    note = f"{whole['bytes_per_token']:.3f}" + (f", {v:.3f} with gpt2's pattern at equal size" if v else "")
    (folder / "highlights.json").write_text(json.dumps({"bytes per token": note}) + "\n")
    for name in ("longest", "rarest"):
        lines += ["", f"{name.capitalize()}: " + " ".join(f"`{ascii(t)[1:-1]}`" for t in found[name])]
    (folder / "stats.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
