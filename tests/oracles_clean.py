"""The plain meaning of `clean`: line breaks that ftfy does not know, ftfy on the whole document, then each rule on the
whole document, in Python."""

from __future__ import annotations

import re
import unicodedata

import ftfy

from stages.clean import Clean

BLANKS = "\t \xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
JOINING = re.compile(
    "[\u0590-\u0dff\u0e80-\u109f\u1780-\u18af\u1a20-\u1aaf\u1b00-\u1c4f\u1cd0-\u1cff\ua840-\ua87f\ua8e0-\ua8ff"
    "\ua930-\ua95f\ua980-\ua9df\uaa60-\uaa7f\uabc0-\uabff\ufb1d-\ufdff\ufe70-\ufefc\U00010a00-\U00011fff"
    "\U0001e900-\U0001e95f\u2190-\u2bff\u3030\u303d\u3297\u3299\ufe0f\U0001f000-\U0001faff\U000e0020-\U000e007f]"
)
UNSPACED = re.compile("[\u0e00-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\u1b00-\u1b7f\ua980-\ua9ff\uaa60-\uaadf]")


def broken(text: str) -> str:
    """A document with the characters as newlines that end a line to Unicode but not to ftfy."""
    return "\n".join(map(broken_line, text.split("\n")))


def broken_line(line: str) -> str:
    controls = [k for k, char in enumerate(line) if "\x80" <= char <= "\x9f" and not in_sequence(line, k)]
    breaks = controls if all(line[k] == "\x85" for k in controls) else []
    return "".join("\n" if char in "\v\f" or k in breaks else char for k, char in enumerate(line))


def in_sequence(line: str, place: int) -> bool:
    """Whether a character is one of those that a UTF-8 sequence becomes in Latin-1 or Latin-2."""
    spans = [(start, start + size) for size in (2, 3, 4) for start in range(place - size + 1, place + 1)]
    return any(is_sequence(line[start:end], code) for start, end in spans if start >= 0 for code in LATIN)


LATIN = ("latin-1", "iso-8859-2")


def is_sequence(chars: str, encoding: str) -> bool:
    raw = chars.encode(encoding, "replace")
    sizes = [(0xC2, 0xDF, 2), (0xE0, 0xEF, 3), (0xF0, 0xF4, 4)]
    leads = any(raw and low <= raw[0] <= high and len(raw) == size for low, high, size in sizes)
    return leads and all(0x80 <= byte <= 0xBF for byte in raw[1:])


def ftfy_text(text: str, stage: Clean) -> str:
    """ftfy's own answer. `explain` makes its encoding step heed the settings, which it otherwise ignores (6.3.1)."""
    form = None if stage.unicode == "none" else stage.unicode
    return ftfy.fix_text(text, ftfy.TextFixerConfig(**stage.ftfy.model_dump(), normalization=form, explain=True))


def clean_text(text: str, stage: Clean) -> str:
    """Line breaks, ftfy, then our rules."""
    text = ftfy_text(broken(text) if stage.ftfy.fix_line_breaks else text, stage)
    text = re.sub("\r\n|[\r\v\f\x85\u2028\u2029]", "\n", text)
    if stage.control_chars == "remove":
        text = "".join(c for c in text if not is_control(c))
    if stage.soft_hyphen == "remove":
        text = text.replace("\u00ad", "")
    if stage.bidi == "remove":
        text = "".join(c for c in text if unicodedata.bidirectional(c) not in FORMAT and c not in "\u200e\u200f\u061c")
    if stage.zero_width != "keep":
        before = ["", *text[:-1]] if text else []
        text = "".join(c for c, b in zip(text, before, strict=True) if keeps_zero_width(c, b, stage.zero_width))
    if stage.full_width != "keep":
        text = "".join(
            chr(ord(c) - 0xFEE0) if unicodedata.normalize("NFKC", c).isalnum() and is_wide_ascii(c) else c for c in text
        )
    if stage.unicode != "none":
        text = unicodedata.normalize(stage.unicode, text)
    return tidy(text, strip=stage.strip_line_ends, most_blank=stage.max_blank_lines)


FORMAT = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def is_wide_ascii(char: str) -> bool:
    return "\uff01" <= char <= "\uff5e"


def is_control(char: str) -> bool:
    """A control character but tab and newline, a deprecated or annotation character, a byte order mark, no
    character."""
    code = ord(char)
    if char in "\t\n":
        return False
    named = 0x206A <= code <= 0x206F or 0xFFF9 <= code <= 0xFFFC or code == 0xFEFF
    nothing = 0xFDD0 <= code <= 0xFDEF or code & 0xFFFE == 0xFFFE
    return unicodedata.category(char) == "Cc" or named or nothing


def keeps_zero_width(char: str, before: str, choice: str) -> bool:
    """Whether an invisible character stays after the character before it; any other character does."""
    if char not in "\u200b\u200c\u200d\u2060\u2061\u2062\u2063\u2064":
        return True
    if choice == "where_needed" and char in "\u200c\u200d":
        return bool(JOINING.match(before))
    return choice == "where_needed" and char == "\u200b" and bool(UNSPACED.match(before))


def tidy(text: str, *, strip: bool, most_blank: int | None) -> str:
    """Returns before newlines, blanks at line ends, runs of blank lines."""
    lines: list[str] = []
    blank: list[str] = []
    for line in re.findall(r"[^\n]*\n|[^\n]+", text.replace("\r\n", "\n")):
        end = "\n" if line.endswith("\n") else ""
        body = line.removesuffix("\n")
        if most_blank is not None and not body.strip(BLANKS):
            blank.append("\n")
            continue
        lines += blank[:most_blank] if lines else []
        blank = []
        lines.append((body.rstrip(BLANKS) if strip else body) + end)
    return "".join(lines)
