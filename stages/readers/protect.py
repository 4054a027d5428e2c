"""Keeps characters that extractors lose: other characters stand in for them while a page is extracted.

HTML in, HTML with stand-ins and the function that puts the characters back out. A stand-in is chosen from what the page
has nowhere, neither as a character nor as a numeric reference, so it cannot be taken for text.
"""

from __future__ import annotations

import html as entities
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, product
from string import ascii_letters, digits

Restore = Callable[[str], str]
"""Puts the characters back into a text."""

BLANK = r"[ \t\n\v\f\r\0]*+"
BEYOND_ASCII = r"(?:[^\0-\x7f]|&[#0-9A-Za-z]{2,33}+;?+)"
SHORT = re.compile(f">({BLANK})((?:{BEYOND_ASCII}{{1,2}}+|[!-%'-;=?-~]{BEYOND_ASCII}))(?={BLANK}(?:<|\\Z))")
"""A text between two tags that may be of three bytes and end with one beyond ASCII."""

CONTROLS = [chr(code) for code in (*range(1, 9), *range(0x0E, 0x1C), 0x7F)]
WORDS = ascii_letters + digits
REFERENCE = re.compile(r"&#(?:[xX]0*([0-9a-fA-F]{1,6})(?![0-9a-fA-F])|0*([0-9]{1,7})(?![0-9]));?")

JOINERS = re.compile(
    "[\u200c\u200d\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd\U000e0020-\U000e007f]"
)
"""Format characters that text needs: joiners, the marks of Arabic, Syriac and Kaithi numbers, tags of flags."""

JOINER_NAMES = re.compile(r"&zw(n?)j;")
LETTERS = range(0x13000, 0x13430)
"""Egyptian hieroglyphs, which are letters, so that nothing takes them for unprintable."""


def short_texts(html: str) -> tuple[str, Restore]:
    """Protects the texts of three bytes that Resiliparse 2.0 drops from a page's main content.

    It means to drop icons, which are single characters of the private use area. But it compares the three bytes in
    the wrong order, and so drops each one whose last byte is not ASCII. A stand-in has three bytes, too: link ratios
    stay as they are. Icons and their stand-ins are Resiliparse's own to drop.
    """
    found = {match[2] for match in SHORT.finditer(f">{html}")}
    texts = {source: entities.unescape(source) for source in found}
    lost = sorted(source for source, text in texts.items() if _is_lost(text))
    if not lost:
        return html, _as_it_is
    codes = dict(zip(lost, _codes(html), strict=False))
    restore = _restoring({code: texts[source] for source, code in codes.items()})
    return SHORT.sub(lambda match: f">{match[1]}{codes.get(match[2], match[2])}", f">{html}")[1:], restore


def joiners(html: str) -> tuple[str, Restore]:
    """Protects the format characters that text needs from trafilatura, which drops all that is not printable."""
    spelled = JOINER_NAMES.sub(lambda match: "\u200c" if match[1] else "\u200d", html)
    spelled = REFERENCE.sub(_joiner_itself, spelled)
    lost = sorted(set(JOINERS.findall(spelled)))
    if not lost:
        return html, _as_it_is
    codes = dict(zip(lost, _absent(spelled, map(chr, LETTERS)), strict=False))
    return spelled.translate(str.maketrans(codes)), _restoring({code: character for character, code in codes.items()})


def _joiner_itself(match: re.Match[str]) -> str:
    code = _code_point(match)
    return chr(code) if code < 0x110000 and JOINERS.match(chr(code)) else match[0]


def _is_lost(text: str) -> bool:
    """Whether Resiliparse drops a text for its three bytes, though it is no icon."""
    data = text.encode(errors="replace")
    number = int.from_bytes(data, "little")
    return len(data) == 3 and 0x8080EE <= number <= 0xBFA3EF and unicodedata.category(text[0]) != "Co"


def _codes(html: str) -> Iterator[str]:
    """Texts of three bytes that begin with a character which the page has nowhere."""
    for first in _absent(html, chain(CONTROLS, map(chr, range(0xA1, 0x800)))):
        for rest in product(WORDS, repeat=3 - len(first.encode())):
            yield first + "".join(rest)


def _absent(html: str, candidates: Iterable[str]) -> Iterator[str]:
    referred = {_code_point(match) for match in REFERENCE.finditer(html)}
    return (one for one in candidates if one not in html and ord(one) not in referred)


def _code_point(match: re.Match[str]) -> int:
    return int(match[1], 16) if match[1] else int(match[2])


def _restoring(back: dict[str, str]) -> Restore:
    """What puts characters in the places of their stand-ins; the first character of one tells its length."""
    codes = re.compile("|".join({re.escape(code[0]) + "." * (len(code) - 1) for code in back}), re.DOTALL)
    return lambda text: codes.sub(lambda match: back.get(match[0], match[0]), text)


def _as_it_is(text: str) -> str:
    return text
