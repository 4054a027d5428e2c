"""What each character means to `clean`: one table over all code points, and ftfy's mojibake pattern as an automaton.

Reads the running Python's Unicode data and the installed ftfy's own pattern and tables; writes numpy arrays for
`stages.kernels.text.find_suspects`. Nothing is stored, so the tables always fit the versions in use; making them costs
each process once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from itertools import chain
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stages.kernels.text import (
    BAD,
    CHANGED,
    CLASS_SHIFT,
    JOINED,
    JOINER,
    MIDDLE,
    SPACED,
    START,
    STOP,
    WORD_BREAK,
)
from stages.normalisation import CODE_POINTS, quick_check

OTHER_LETTER, OTHER_MARK = "一。"
"""They stand for the letters and digits, and for the rest, that ftfy's pattern does not name."""
WORDS_END = 0x40000
"""No letter or digit is in a plane above the third."""
JOINING_SCRIPTS = (
    "\u0590-\u0dff\u0e80-\u109f\u1780-\u18af\u1a20-\u1aaf\u1b00-\u1c4f\u1cd0-\u1cff\ua840-\ua87f\ua8e0-\ua8ff"
    "\ua930-\ua95f\ua980-\ua9df\uaa60-\uaa7f\uabc0-\uabff\ufb1d-\ufdff\ufe70-\ufefc"
    "\U00010a00-\U00011fff\U0001e900-\U0001e95f"
)
"""Hebrew to Sinhala, Lao to Myanmar, Khmer, Mongolian and other scripts in which a joiner changes what is read (UAX
#31, 2.3)."""
EMOJI = "\u2190-\u2bff\u3030\u303d\u3297\u3299\ufe0f\U0001f000-\U0001faff\U000e0020-\U000e007f"
"""What a zero-width joiner follows in an emoji sequence (UTS #51)."""
UNSPACED_SCRIPTS = "\u0e00-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\u1b00-\u1b7f\ua980-\ua9ff\uaa60-\uaadf"
"""Scripts written without spaces, where U+200B marks a word's end: Thai, Lao, Myanmar, Khmer … (UAX #14, class SA)."""
JOINERS = "\u200c\u200d"
ZERO_WIDTH_SPACE = "\u200b"

Form = Literal["NFC", "NFKC", "none"]


def character_table(form: Form, changed: Iterable[str], where_needed: bool, pattern: str) -> NDArray[np.uint32]:
    """What `find_suspects` must know of each code point: uint32[0x110000].

    form: the normalisation that must change nothing. changed: characters that some rule always changes. where_needed: a
    joiner or U+200B is left where its script needs it (else nothing is said of them here). pattern: ftfy's mojibake
    pattern, for the class of each character in bits 16–23.
    """
    table = quick_check(form) if form != "none" else np.zeros(CODE_POINTS, np.uint32)
    table[[ord(char) for char in changed]] |= CHANGED
    if where_needed:
        table[[ord(char) for char in JOINERS]] |= JOINER
        table[ord(ZERO_WIDTH_SPACE)] |= WORD_BREAK
        table[_members(JOINING_SCRIPTS + EMOJI)] |= JOINED
        table[_members(UNSPACED_SCRIPTS)] |= SPACED
    table[[ord(char) for char in "\n\r&<"]] |= STOP
    table[:128] |= np.where(table[:128] & CHANGED, np.uint32(STOP), np.uint32(0))
    return table | character_classes(pattern)[0].astype(np.uint32) << np.uint32(CLASS_SHIFT)


def _members(ranges: str) -> NDArray[np.int64]:
    """Code points of a character class without escapes ("a-cx")."""
    bounds = re.findall(r"(.)(?:-(.))?", ranges, re.DOTALL)
    return np.concatenate([np.arange(ord(low), ord(high or low) + 1) for low, high in bounds])


ATOM = re.compile(
    r"(?P<atom>\[(?:\\.|[^\]\\])*\]|\\.|[^\s\\\[\]|?*+(){}$])(?P<optional>\?)?|(?P<bar>\|)|[ \t\n]+", re.DOTALL
)


def _alternatives(pattern: str) -> list[list[tuple[str, bool]]]:
    """A verbose pattern of alternatives, each a sequence of single-character atoms → [[(atom, optional)]]."""
    body = "\n".join(line for line in pattern.split("\n") if not line.lstrip().startswith("#"))
    found: list[list[tuple[str, bool]]] = [[]]
    place = 0
    while place < len(body):
        match = ATOM.match(body, place)
        if match is None:
            raise ValueError(
                f"ftfy's mojibake pattern holds more than characters and classes: {body[place : place + 20]!r}"
            )
        if match["bar"]:
            found.append([])
        elif match["atom"]:
            found[-1].append((match["atom"], bool(match["optional"])))
        place = match.end()
    return found


@cache
def character_classes(pattern: str) -> tuple[NDArray[np.uint8], list[frozenset[str]]]:
    """The class of each code point, uint8[0x110000], and for each class the atoms of the pattern that match it."""
    atoms = {atom for alternative in _alternatives(pattern) for atom, _ in alternative} - {"^"}
    ranges = (range(ord(low), ord(high) + 1) for low, high in re.findall("(?=(.)-(.))", pattern, re.DOTALL))
    named = {*pattern, *map(chr, chain.from_iterable(ranges))}
    if named & {OTHER_LETTER, OTHER_MARK} or re.search(r"\\[NUu]", pattern):
        raise ValueError("ftfy's mojibake pattern names characters that stand for others, or some by their numbers")
    blanks = re.findall(r"\s", "".join(map(chr, range(0x3001))))
    listed = sorted({*map(chr, range(0x100)), *blanks, *named, OTHER_LETTER, OTHER_MARK})
    text = "".join(listed)
    matched = {atom: set(re.findall(atom, text)) for atom in sorted(atoms)}
    signature = {char: frozenset(atom for atom in matched if char in matched[atom]) for char in listed}
    kinds = sorted(set(signature.values()), key=sorted)
    number = {kind: k for k, kind in enumerate(kinds)}
    is_word = np.strings.isalnum(np.arange(WORDS_END, dtype=np.uint32).view("U1"))
    classes = np.full(CODE_POINTS, number[signature[OTHER_MARK]], np.uint8)
    classes[:WORDS_END][is_word] = number[signature[OTHER_LETTER]]
    classes[[ord(char) for char in listed]] = [number[signature[char]] for char in listed]
    return classes, kinds


def mojibake_automaton(pattern: str) -> NDArray[np.uint16]:
    """The pattern's search as an automaton: uint16[states, classes], the next state.

    START is the state before a segment's first character, MIDDLE that before any other after characters that began no
    match, BAD that after a match. Built by the subset construction on bit sets of positions (shift-and).
    """
    kinds = character_classes(pattern)[1]
    begin = anchored = optional = final = place = 0
    accepts = [0] * len(kinds)
    for alternative in _alternatives(pattern):
        atoms = alternative[1:] if alternative[0][0] == "^" else alternative
        anchored |= 1 << place
        begin |= 0 if atoms is not alternative else 1 << place
        for atom, may_miss in atoms:
            optional |= may_miss << place
            for k, kind in enumerate(kinds):
                accepts[k] |= (atom in kind) << place
            place += 1
        final |= 1 << (place - 1)
        place += 1  # an empty position, so that no match runs on into the next alternative
    states = {(-1, anchored): START, (0, begin): MIDDLE, (-2, 0): BAD}
    rows: list[list[int]] = []
    for partial, entry in (queue := list(states)):
        row = []
        for accept in accepts:
            reach = entry | (partial << 1 if partial > 0 else 0)
            after = (reach | (reach & optional) << 1) & accept
            state = (-2, 0) if partial == -2 or after & final else (after, begin)
            if state not in states:
                states[state] = len(states)
                queue.append(state)
            row.append(states[state])
        rows.append(row)
    return np.array(rows, np.uint16)


def longest_match(pattern: str) -> int:
    """Characters in the pattern's longest alternative; each must hold one that is not ASCII, else ValueError."""
    ascii_only = {chr(code) for code in range(128)}
    for alternative in _alternatives(pattern):
        if all(
            optional or atom == "^" or ascii_only & set(re.findall(atom, "".join(ascii_only)))
            for atom, optional in alternative
        ):
            raise ValueError(f"ftfy's mojibake pattern matches plain ASCII: {alternative}")
    return max(map(len, _alternatives(pattern)))


@cache
def mojibake_clue(pattern: str) -> re.Pattern[str]:
    """A character such as every match of the pattern holds one of: only atoms without ASCII match it."""
    longest_match(pattern)  # else it has no such atoms in each alternative
    classes, kinds = character_classes(pattern)
    common = frozenset().union(*(kinds[k] for k in classes[:128]))
    clues = np.flatnonzero(np.array([bool(kind - common) for kind in kinds])[classes])
    return re.compile(f"[{re.escape(''.join(map(chr, clues)))}]")
