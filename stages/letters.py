"""What letters texts are made of: their script, and whether py3langid may read a text otherwise than written.

Reads UTF-8 bytes; gives counts and traits of code points by one pass of a kernel, over tables derived from Unicode and
OpenCC (`data/README.md`). A table of all code points takes 2.2 MB of a worker's memory.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NO_LETTERS = "Zyyy"
KANA_SHARE = 10
"""Han letters count as Japanese where at least one in so many letters of Han and kana is kana."""
CAREFUL = 0x400
"""A trait: NFC may change the code point or its place, or it is not assigned, or an upper-case letter of `RARE`."""
RARE = 0x2000
"""From here on case is not looked up: Latin, Greek and Cyrillic letters, nearly all that have it, lie below."""


class Table(NamedTuple):
    """Of each code point its script, an index of `names`, 0 for no letter, and its traits: uint16[0x110000]."""

    entries: NDArray[np.uint16]
    names: list[str]


class Letters(NamedTuple):
    """Of n texts: letters by script int64[n, scripts], and the traits of their code points uint16[n]."""

    counts: NDArray[np.int64]
    traits: NDArray[np.uint16]

    @classmethod
    def of(cls, data: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Letters:
        """Reads the texts `data[starts[k]:ends[k]]`."""
        from stages.kernels.letters import read_letters

        return cls(*read_letters(data, starts, ends, table().entries, len(table().names)))

    def may_be_read_anew(self) -> NDArray[np.bool_]:
        """bool[n]: false only where a text is in NFC and not wholly in upper case (py3langid lowers such a text)."""
        from stages.kernels.letters import LOWER, UPPER

        shouted: NDArray[np.bool_] = self.traits & (UPPER | LOWER) == UPPER
        return shouted | (self.traits & CAREFUL > 0)

    def scripts(self) -> list[str]:
        """The script of most letters of each text, as ISO 15924 code; of equals, the first by name.

        Han with kana is Jpan, with at least as much Hangul Kore, else Hans or Hant by the letters that only one of them
        uses, Hani if neither leads. A text without letters is Zyyy.
        """
        counts, names = self.counts.copy(), table().names
        column = {name: counts[:, k] for k, name in enumerate(names)}
        hans, hant = column["Hans"].copy(), column["Hant"].copy()
        column["Hani"] += hans + hant
        hans_leads, hant_leads = hans > hant, hant > hans
        han, kana = column["Hani"].copy(), column["Hira"] + column["Kana"]
        column["Hans"][:] = column["Hant"][:] = 0
        japanese = (kana > 0) & (kana * KANA_SHARE >= kana + han)
        korean = ~japanese & (column["Hang"] > 0) & (column["Hang"] >= han)
        column["Jpan"][:] = np.where(japanese, kana + han, 0)
        column["Kore"][:] = np.where(korean, column["Hang"] + han, 0)
        for name, taken in (("Hani", japanese | korean), ("Hira", japanese), ("Kana", japanese), ("Hang", korean)):
            column[name][taken] = 0
        winners = counts.argmax(axis=1)
        chinese = winners == names.index("Hani")
        winners[chinese & hans_leads], winners[chinese & hant_leads] = names.index("Hans"), names.index("Hant")
        return [names[k] for k in winners]


@cache
def table() -> Table:
    """Made once a process, in 2 ms. Han letters that only simplified or only traditional text uses count apart."""
    from stages.kernels.arrow import read_only
    from stages.kernels.letters import LOWER, UPPER

    ranges, one_sided = _lines("scripts.tsv"), _lines("han.tsv")
    names = [NO_LETTERS, *sorted({"Hans", "Hant", "Jpan", "Kore", *(code for _, _, code in ranges)})]
    entries = np.zeros(0x110000, np.uint16)
    for first, last, code in ranges:
        entries[int(first, 16) : int(last, 16) + 1] = names.index(code)
    for code, chars in one_sided:
        entries[[ord(char) for char in chars]] = names.index(code)
    for first, last in _lines("careful.tsv"):
        entries[int(first, 16) : int(last, 16) + 1] |= CAREFUL
    places = np.arange(RARE, dtype=np.uint32).view("<U1")
    for trait, has in ((UPPER, np.strings.isupper), (LOWER, np.strings.islower)):
        entries[:RARE][has(places)] |= np.uint16(trait)
    return Table(read_only(entries), names)


def _lines(name: str) -> list[list[str]]:
    text = Path(__file__).with_name("data").joinpath(name).read_text("utf-8")
    return [line.split("\t") for line in text.splitlines()]
