"""Words and sentences, for rules that count them: regular expressions near to spaCy's blank English tokenizer.

Splits off punctuation, English contractions and units as spaCy does, keeps abbreviations, numbers and addresses
whole; in scripts written
without spaces each character is a word. The difference from spaCy's own words is measured by the golden decisions in
the tests.
"""

from __future__ import annotations

from functools import cache
from typing import Any

PATTERN = r"""
    (?:https?://|www\.)[^\s<>"]*[^\s<>".,;:!?)\]}'’]             # addresses stay whole
  | [\w.+-]+@\w+(?:\.\w+)+                                       # so do e-mail addresses
  | [\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}]
  | (?:[A-Za-z]\.){2,}                                           # e.g. U.S.
  | \.{2,} | …+ | -{2,} | —+
  | [A-Za-z]+(?=n['’]t\b) | n['’]t\b | ['’](?:s|S|re|ve|ll|d|m|em)\b
  | \d+(?:[.,:/]\d+)*(?=(?:km|m|cm|mm|ha|kg|g|mg|t|lb|oz|m/s|km/h|mph|hPa|Pa|mbar|mb|MB|kb|KB|gb|GB|tb|TB|T|G|M|K|%)\b)
  | [\p{L}\p{N}\p{M}_]+(?:[.@#&+*|~^\\=](?=[\p{Ll}\p{N}_])[\p{L}\p{N}\p{M}_]+)*
  | [^\s\x1c-\x1f]
"""
ENDS = frozenset("!.?։؟۔܀܁܂߹।॥၊။።፧፨᙮᜵᜶᠃᠉᥄᥅᪨᪩᪪᪫᭚᭛᭞᭟᰻᰼᱾᱿‼‽⁇⁈⁉⸮⸼꓿꘎꘏꛳꛷꡶꡷꣎꣏꤯꧈꧉꩝꩞꩟꫰꫱꯫﹒﹖﹗！．？｡。")
CLOSERS = frozenset("\"'”’)]}»›」』）】》〉…,;:-–—_/*&%#@")


@cache
def _pattern() -> Any:
    import regex

    return regex.compile(PATTERN, regex.VERBOSE | regex.V0)


def words(text: str) -> list[str]:
    """The words of a text, in order; every character that is not blank is in one of them."""
    found: list[str] = _pattern().findall(text)
    return found


def sentences(tokens: list[str]) -> int:
    """How many sentences the words make: one ends at a mark of `ENDS` and the closing marks after it (spaCy's
    sentencizer)."""
    count, ended = int(bool(tokens)), False
    for token in tokens:
        if token in ENDS:
            ended = True
        elif ended and token not in CLOSERS:
            count, ended = count + 1, False
    return count
