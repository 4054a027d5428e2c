"""Text repair: line breaks, then exactly ftfy's, then our own rules for characters and lines.

Reads documents, writes the same documents with mended text; one that ends up empty is dropped. A kernel proves line by
line, a long one in ftfy's segments, that nothing would change, and only the other lines are repaired in Python: the
answer is that of ftfy's `fix_text` followed by the rules, byte for byte. The break characters that ftfy does not know
become newlines before it runs: alone, it removes U+000B and so joins two words, and reads U+0085 as an ellipsis. One
trade-off: a line that ftfy keeps changing after ROUNDS rounds sends its document to quarantine, where ftfy itself would
go on, for hours if the line is made for it. Normalisation takes time in proportion to the text, as ftfy's does not.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from pipeline.rows import drop_rows, text_array, with_column
from pipeline.stage import UNICODE, Each, Emit, Stage, Task, each_batch
from stages.normalisation import normalize

ROUNDS = 32
"""Rounds of ftfy's repairs after which a segment that still changes is given up; real text settles within 6."""
LINE_BREAK = re.compile("\r\n|[\r\v\f\x85\u2028\u2029]")
"""Unicode's mandatory breaks but the newline itself (UAX #14, BK, CR and NL)."""
LATIN = ("latin-1", "iso-8859-2")
"""Encodings in which the byte 85, a common one in UTF-8, is U+0085, of those from which ftfy decodes mojibake."""
LINE = re.compile("[^\n]*\n|[^\n]+")
CONTROL_CHARS = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u206a-\u206f\ufdd0-\ufdef\ufeff\ufff9-\ufffc"
    + "".join(f"{chr(plane + 0xFFFE)}{chr(plane + 0xFFFF)}" for plane in range(0, 0x110000, 0x10000))
    + "]"
)
BIDI = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
SOFT_HYPHEN = re.compile("\u00ad")
INVISIBLE = re.compile("[\u200b-\u200d\u2060-\u2064]")
"""Zero-width space, joiners, word joiner, invisible operators."""
FULL_WIDTH = re.compile("[０-９Ａ-Ｚａ-ｚ]")
LINE_COUNTERS = ("lines_ended_crlf", "lines_stripped", "lines_blank_removed")

Fixer = Callable[[str], str]


class Ftfy(BaseModel):
    """ftfy's settings, under its own names (ftfy 6.3, `TextFixerConfig`). Normalisation is the stage's own
    `unicode`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    unescape_html: Literal["auto"] | bool = Field(
        "auto", description="Decode HTML entities; `auto`: until a line with a `<` is met, which may be real HTML."
    )
    remove_terminal_escapes: bool = Field(
        True, description="Remove ANSI escapes, such as those that colour a terminal."
    )
    fix_encoding: bool = Field(True, description="Find mojibake and decode it as it was meant.")
    restore_byte_a0: bool = Field(
        True, description="In mojibake, read a space as the byte A0 where that makes sense of it."
    )
    replace_lossy_sequences: bool = Field(True, description="Turn mojibake that has lost bytes into U+FFFD.")
    decode_inconsistent_utf8: bool = Field(True, description="Mend mojibake inside a line that is otherwise sound.")
    fix_c1_controls: bool = Field(True, description="Read U+0080–U+009F as Windows-1252, as browsers do.")
    fix_latin_ligatures: bool = Field(
        False,
        description="Take ligatures such as ﬁ apart. Off: they are in the source, and some are letters (Dutch ĳ).",
    )
    fix_character_width: bool = Field(
        False, description="Full-width forms to ASCII. Off: it would turn Chinese punctuation (，！) into ASCII."
    )
    uncurl_quotes: bool = Field(False, description="Curly quotes to straight ones. Off: they are correct typography.")
    fix_line_breaks: bool = Field(
        True,
        description="Line breaks to newline: CRLF, CR, U+2028, U+2029, and before ftfy runs U+000B, which it removes, "
        "U+000C and U+0085, which it reads as an ellipsis. U+0085 is left to ftfy where it may be a byte of mojibake, "
        "and in a line with other C1 controls (Windows-1252).",
    )
    fix_surrogates: bool = Field(True, description="Join surrogate pairs (valid UTF-8 holds none; entities may).")
    remove_control_chars: bool = Field(True, description="Remove control characters that show nothing, and U+FEFF.")
    max_decode_length: int = Field(
        100_000,
        ge=1,
        description="Characters repaired at once in a long line (ftfy: 1,000,000, which hostile text makes slow).",
    )


class Clean(Stage):
    """Repairs text with ftfy, then normalises characters and lines."""

    version: ClassVar[int] = 3
    ftfy: Ftfy = Field(default_factory=Ftfy, description="ftfy's own settings.")
    unicode: Literal["NFC", "NFKC", "none"] = Field(
        "NFC", description="Normalisation form. NFKC also folds ², ﬁ, Ａ and the like, and so changes meaning."
    )
    control_chars: Literal["remove", "keep"] = Field(
        "remove", description="Control characters but tab and newline, byte order marks, noncharacters."
    )
    zero_width: Literal["where_needed", "remove", "keep"] = Field(
        "where_needed",
        description="U+200B–U+200D, U+2060–U+2064. `where_needed`: joiners stay after letters of scripts that use them "
        "(Persian, Indic …) and in emoji, U+200B after letters of scripts without spaces (Thai, Khmer …).",
    )
    bidi: Literal["keep", "remove"] = Field(
        "keep", description="Marks of writing direction; Arabic and Hebrew need them."
    )
    soft_hyphen: Literal["remove", "keep"] = Field(
        "remove", description="U+00AD, which cuts words where nothing shows."
    )
    full_width: Literal["keep", "ascii_letters_digits"] = Field(
        "keep", description="`ascii_letters_digits`: Ａ１ to A1; Chinese punctuation stays full-width."
    )
    strip_line_ends: bool = Field(True, description="Remove blanks at the ends of lines.")
    max_blank_lines: int | None = Field(
        2, ge=0, description="Blank lines kept of a run of them; none where a document starts or ends. null: all stay."
    )

    def libraries(self) -> tuple[str, ...]:
        """ftfy, whose answers these are, and what Python knows of characters."""
        return ("ftfy", UNICODE)

    def kernels(self) -> tuple[str, ...]:
        """Those that prove lines sound and tidy them."""
        return ("stages.kernels.text",)

    def steps(self) -> tuple[Each, ...]:
        """One pass over the shards."""
        return (Each("clean", each_batch(self._clean), schema=lambda incoming: incoming),)

    def _clean(self, batch: pa.RecordBatch, task: Task) -> Emit:
        from stages.kernels.arrow import text_buffers

        before, tools, counters = batch, _tools(self), Counter[str]()
        data, offsets = text_buffers(batch["text"])
        data, offsets, repaired = _repair_lines(data, offsets, tools, counters)
        data, offsets, tidied = self._tidy(data, offsets, counters)
        changed = repaired | tidied
        counters["documents_changed"] = int(changed.sum())
        if changed.any():
            batch = with_column(batch, batch.schema.field("text"), text_array(data, offsets))
        empty = offsets[1:] == offsets[:-1]
        if not empty.any():
            return Emit(rows=batch, counters=counters)
        drops = drop_rows(before.filter(pa.array(empty)), task, ["empty"] * int(empty.sum()))
        return Emit(rows=batch.filter(pa.array(~empty)), drops=drops, counters=counters)

    def _tidy(
        self, data: NDArray[np.uint8], offsets: NDArray[np.int64], counters: Counter[str]
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.bool_]]:
        from stages.kernels.arrow import read_only
        from stages.kernels.text import tidy_lines

        most = -1 if self.max_blank_lines is None else self.max_blank_lines
        sizes, counts = tidy_lines(data, offsets, self.strip_line_ends, most, np.empty(0, np.uint8))
        counters.update(dict(zip(LINE_COUNTERS, counts.sum(axis=0).tolist(), strict=True)))
        changed = counts.any(axis=1)
        if not changed.any():
            return data, offsets, changed
        out = np.empty(sizes.sum(), np.uint8)
        tidy_lines(data, offsets, self.strip_line_ends, most, out)
        return read_only(out), read_only(_offsets(sizes)), changed


def _offsets(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


class Tools(NamedTuple):
    """What a recipe's settings come to: the arguments of `find_suspects` after the texts, and the repair of a line."""

    proof: tuple[Any, ...]
    ftfy: Any
    rules: tuple[tuple[str, Fixer], ...]


@cache
def _tools(stage: Clean) -> Tools:
    from ftfy import TextFixerConfig
    from ftfy.badness import BADNESS_RE

    from stages.characters import character_table, longest_match, mojibake_automaton
    from stages.kernels.arrow import read_only

    form = None if stage.unicode == "none" else stage.unicode
    config = TextFixerConfig(**stage.ftfy.model_dump(), normalization=form)
    table = character_table(
        stage.unicode, _always_changed(stage), stage.zero_width == "where_needed", BADNESS_RE.pattern
    )
    moves = mojibake_automaton(BADNESS_RE.pattern)
    if not config.fix_encoding:
        moves = np.zeros_like(moves)
    unescape = {"auto": 1, True: 2, False: 0}[config.unescape_html]
    proof = (read_only(table), read_only(moves), longest_match(BADNESS_RE.pattern), unescape, config.max_decode_length)
    return Tools(proof, config, _rules(stage))


def _rules(stage: Clean) -> tuple[tuple[str, Fixer], ...]:
    """Our own rules for characters, in order; each is named by its counter."""
    from stages.characters import EMOJI, JOINING_SCRIPTS, UNSPACED_SCRIPTS

    joined, spaced = f"(?<![{JOINING_SCRIPTS}{EMOJI}][\u200c\u200d])", f"(?<![{UNSPACED_SCRIPTS}]\u200b)"
    needless = re.compile(INVISIBLE.pattern + joined + spaced)
    zero_width = needless if stage.zero_width == "where_needed" else INVISIBLE
    rules: list[tuple[bool, str, Fixer]] = [
        (True, "line_breaks", partial(LINE_BREAK.sub, "\n")),
        (stage.control_chars == "remove", "control_chars", partial(CONTROL_CHARS.sub, "")),
        (stage.soft_hyphen == "remove", "soft_hyphens", partial(SOFT_HYPHEN.sub, "")),
        (stage.bidi == "remove", "bidi", partial(BIDI.sub, "")),
        (stage.zero_width != "keep", "zero_width", partial(zero_width.sub, "")),
        (stage.full_width != "keep", "full_width", partial(FULL_WIDTH.sub, lambda m: chr(ord(m[0]) - 0xFEE0))),
    ]
    if stage.unicode != "none":
        rules.append((True, "normalisation", partial(normalize, stage.unicode)))
    return tuple((name, fixer) for chosen, name, fixer in rules if chosen)


def _always_changed(stage: Clean) -> set[str]:
    """Characters that ftfy or one of our rules changes wherever they stand (normalisation apart)."""
    from ftfy import chardata

    patterns = [(True, LINE_BREAK), (stage.control_chars == "remove", CONTROL_CHARS), (stage.bidi == "remove", BIDI)]
    patterns += [(stage.soft_hyphen == "remove", SOFT_HYPHEN), (stage.full_width != "keep", FULL_WIDTH)]
    patterns += [
        (stage.zero_width == "remove", INVISIBLE),
        (stage.zero_width == "where_needed", re.compile("[\u2060-\u2064]")),
    ]
    patterns += [
        (stage.ftfy.fix_c1_controls, chardata.C1_CONTROL_RE),
        (stage.ftfy.remove_terminal_escapes, re.compile("\x1b")),
    ]
    patterns += [(stage.ftfy.uncurl_quotes, p) for p in (chardata.SINGLE_QUOTE_RE, chardata.DOUBLE_QUOTE_RE)]
    tables = [
        (stage.ftfy.remove_control_chars, chardata.CONTROL_CHARS),
        (stage.ftfy.fix_latin_ligatures, chardata.LIGATURES),
    ]
    tables += [(stage.ftfy.fix_character_width, chardata.WIDTH_MAP)]
    ends = np.arange(0xFFFE, 0x110000, 0x10000)  # of planes; no rule is about other ideographs or private use
    named = np.r_[0:0xD800, 0xE000:0x20000, 0xE0000:0xE1000, ends, ends + 1]
    everything = named.astype("<u4").tobytes().decode("utf-32-le")
    changed = {char for chosen, pattern in patterns if chosen for char in pattern.findall(everything)}
    return changed - {"\r"} | {chr(code) for chosen, table in tables if chosen for code in table}


def _repair_lines(
    data: NDArray[np.uint8], offsets: NDArray[np.int64], tools: Tools, counters: Counter[str]
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.bool_]]:
    """Mends the lines that the kernel cannot prove sound: (bytes, offsets, which texts changed)."""
    from stages.kernels.arrow import read_only
    from stages.kernels.text import find_suspects

    suspects = find_suspects(data, offsets, *tools.proof).tolist()
    growth = np.zeros(len(offsets) - 1, np.int64)
    mended: dict[int, set[str]] = {}
    pieces: list[memoryview | bytes] = []
    view, place = data.data, int(offsets[0])
    for text, start, end, angle in suspects:
        line = str(view[start:end], "utf-8")
        marks: set[str] = set()
        new = mend_line(line, bool(angle), tools, marks)
        if new != line:
            pieces += [view[place:start], new.encode()]
            growth[text] += len(pieces[-1]) - (end - start)
            place = end
            mended.setdefault(text, set()).update(marks)
    counters["lines_sent_to_ftfy"] = len(suspects)
    for marks in mended.values():
        counters.update(f"documents_{mark}" for mark in marks)
    changed = np.zeros(len(growth), np.bool_)
    if not mended:
        return data, offsets, changed
    changed[list(mended)] = True
    pieces.append(view[place : offsets[-1]])
    data = np.frombuffer(b"".join(pieces), np.uint8)
    return data, read_only(_offsets(np.diff(offsets) + growth)), changed


def mend_line(line: str, angle: bool, tools: Tools, marks: set[str]) -> str:
    """One line through ftfy, segment by segment, and our rules for characters.

    angle: a "<" came in an earlier line of the text. marks: the names of the mends made are added to it. Raises
    ValueError if a segment does not settle.
    """
    config, mended, most = tools.ftfy, [], tools.ftfy.max_decode_length
    if config.fix_line_breaks:
        line = _apply(line, (("line_breaks", break_line),), marks)
    lines = LINE.findall(line)
    for segment in (one[start : start + most] for one in lines for start in range(0, len(one), most)):
        angle = angle or "<" in segment
        if config.unescape_html == "auto" and angle:
            config = config._replace(unescape_html=False)
        mended.append(_settle(segment, _ftfy_passes(config), marks))
    return _apply("".join(mended), tools.rules, marks)


def break_line(line: str) -> str:
    """A line with U+000B, U+000C and U+0085 as newlines (UAX #14, BK and NL).

    U+0085 stays where it may be a byte of a UTF-8 sequence read as another encoding. It stays too in a line with other
    C1 controls apart from such sequences: that is Windows-1252 read as Latin-1, in which the byte 85 is an ellipsis.
    """
    line = line.replace("\v", "\n").replace("\f", "\n")
    if "\x85" not in line:
        return line
    lone = _mojibake_or_control()
    if any(match[1] is None and match[0] != "\x85" for match in lone.finditer(line)):
        return line
    return lone.sub(lambda match: match[1] or "\n", line)


@cache
def _mojibake_or_control() -> re.Pattern[str]:
    """Matches the characters that the bytes of a UTF-8 sequence become in an encoding of `LATIN` (group 1), or a C1
    control."""
    sequences = []
    for name in LATIN:
        two, three, four, rest = (
            f"[{bytes(range(low, high + 1)).decode(name)}]"
            for low, high in ((0xC2, 0xDF), (0xE0, 0xEF), (0xF0, 0xF4), (0x80, 0xBF))
        )
        sequences.append(f"{two}{rest}|{three}{rest}{{2}}|{four}{rest}{{3}}")
    return re.compile(f"({'|'.join(sequences)})|[\x80-\x9f]")


def _apply(text: str, passes: Iterable[tuple[str, Fixer]], marks: set[str]) -> str:
    for name, fixer in passes:
        fixed = fixer(text)
        if fixed != text:
            marks.add(name)
            text = fixed
    return text


def _settle(text: str, passes: tuple[tuple[str, Fixer], ...], marks: set[str]) -> str:
    for _ in range(ROUNDS):
        before, text = text, _apply(text, passes, marks)
        if text == before:
            return text
    raise ValueError(f"ftfy did not settle in {ROUNDS} rounds")


@cache
def _ftfy_passes(config: Any) -> tuple[tuple[str, Fixer], ...]:
    """One round of ftfy's `fix_and_explain`, in its order; each pass is named by its counter."""
    from ftfy import FIXERS
    from ftfy.badness import BADNESS_RE

    from stages.characters import mojibake_clue

    clue = mojibake_clue(BADNESS_RE.pattern)

    def encoding(text: str) -> str:
        if clue.search(text) is None:  # ftfy's own search, which is slow, could find nothing
            return text
        return _settle(text, (("encoding", lambda t: _fix_encoding_once(t, config)),), set())

    passes: list[tuple[bool, str, Fixer]] = [
        (bool(config.unescape_html), "html_entities", FIXERS["unescape_html"]),
        (config.fix_encoding, "encoding", encoding),
        (config.fix_c1_controls, "encoding", FIXERS["fix_c1_controls"]),
        (config.fix_latin_ligatures, "ligatures", FIXERS["fix_latin_ligatures"]),
        (config.fix_character_width, "character_width", FIXERS["fix_character_width"]),
        (config.uncurl_quotes, "quotes", FIXERS["uncurl_quotes"]),
        (config.fix_line_breaks, "line_breaks", FIXERS["fix_line_breaks"]),
        (config.fix_surrogates, "surrogates", FIXERS["fix_surrogates"]),
        (config.remove_terminal_escapes, "terminal_escapes", FIXERS["remove_terminal_escapes"]),
        (config.remove_control_chars, "control_chars", FIXERS["remove_control_chars"]),
        (config.normalization is not None, "normalisation", partial(normalize, config.normalization)),
    ]
    return tuple((name, fixer) for chosen, name, fixer in passes if chosen)


def _fix_encoding_once(text: str, config: Any) -> str:
    from ftfy import _fix_encoding_one_step_and_explain

    return str(_fix_encoding_one_step_and_explain(text, config).text)
