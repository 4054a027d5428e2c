"""The plain meaning of `language`: py3langid's formula in float64, and scripts by the property of each letter."""

from __future__ import annotations

import unicodedata
from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import regex
from py3langid.langid import MODEL_FILE, LanguageIdentifier, visit_counts

from stages.letters import table


@cache
def identifier() -> Any:
    """py3langid itself, with probabilities."""
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def classify(text: str) -> tuple[str, float]:
    """py3langid's formula (its `_decide`), summed in float64 in the order in which features first occur."""
    model = identifier()
    data = unicodedata.normalize("NFC", text.lower() if text.isupper() else text).encode()
    visits = visit_counts(model.tk_nextmove, model._rowbase, model.tk_output, data) or {}
    scores = np.zeros(len(model.nb_classes))
    for feature, count in visits.items():
        scores += np.float64(np.log1p(np.float32([count]))[0]) * model.nb_ptc[feature].astype(np.float64)
    scores = scores + model.nb_pc if visits else scores
    chances = np.exp((scores - scores.max()) / np.sqrt(len(data) or 1))
    chances /= chances.sum()
    for first, other in model._alias_pairs:
        chances[first] += chances[other]
        chances[other] = 0
    return model.nb_classes[int(chances.argmax())], float(chances.max())


def script(text: str) -> str:
    """The script of most letters, by the Unicode property that the package regex knows."""
    counts: Counter[str] = Counter()
    hans = hant = 0
    for letter in regex.findall(r"\p{L}", text):
        code = next((c for c in table().names if len(c) == 4 and property_of(c, letter)), None)
        counts[code or ""] += 1
        hans += letter in one_sided()["Hans"]
        hant += letter in one_sided()["Hant"]
    counts.pop("", None)
    han, kana, hangul = counts["Hani"], counts["Hira"] + counts["Kana"], counts["Hang"]
    if kana and kana * 10 >= kana + han:
        counts["Jpan"], counts["Hani"], counts["Hira"], counts["Kana"] = kana + han, 0, 0, 0
    elif hangul and hangul >= han:
        counts["Kore"], counts["Hani"], counts["Hang"] = hangul + han, 0, 0
    if not any(counts.values()):
        return "Zyyy"
    best = max(counts.values())
    first = min(name for name, count in counts.items() if count == best)
    if first == "Hani" and hans != hant:
        return "Hans" if hans > hant else "Hant"
    return first


@cache
def property_of(code: str, letter: str) -> bool:
    """Whether a letter is of a script, where the code is one of Unicode's."""
    if code in {"Hans", "Hant", "Jpan", "Kore", "Zyyy"}:
        return False
    return regex.fullmatch(rf"\p{{Script={code}}}", letter) is not None


@cache
def one_sided() -> dict[str, frozenset[str]]:
    """The letters of `stages/data/han.tsv`."""
    from pathlib import Path

    import stages.language

    path = Path(stages.language.__file__).parent / "data" / "han.tsv"
    return {
        code: frozenset(chars) for code, chars in (line.split("\t") for line in path.read_text("utf-8").splitlines())
    }
