"""Slow twin of the kernel of Chinese words: jieba's way in plain Python, over the tables that the kernel reads."""

import re
from collections.abc import Iterator
from functools import cache

from stages.jieba import NONE, tables
from stages.kernels.jieba import FIRST_HAN

STATES = "BEMS"
IMPOSSIBLE = -3.14e100
BLOCK = re.compile(r"[\u4e00-\u9fd5a-zA-Z0-9+#&._%-]+|\S")
HAN_OR_NOT = re.compile(r"[\u4e00-\u9fd5]+|[^\u4e00-\u9fd5]+")
NUMBER_OR_SIGNS = re.compile(r"[a-zA-Z0-9]+(?:\.[0-9]+)?%?|[^a-zA-Z0-9]+")


@cache
def dictionary() -> tuple[dict[str, float], set[str], float]:
    """Each word's score, every beginning of a word, and the score of a character that begins none."""
    ids, links, values, unseen, _ = tables()
    chars = {number: chr(code) for code, number in enumerate(ids.tolist()) if number}
    bases, parents = links[:, 0].tolist(), links[:, 1].tolist()
    beginnings = {0: ""}
    for number in range(1, len(parents)):
        row, path = number, []
        while row not in beginnings and parents[row] >= 0:
            path.append(row)
            row = parents[row]
        for below in reversed(path):
            beginnings[below] = beginnings[parents[below]] + chars[below - bases[parents[below]]]
    scores = {word: float(values[row, 1]) for row, word in beginnings.items() if values[row, 1] != NONE}
    return dict(sorted(scores.items())), set(beginnings.values()), unseen


@cache
def model() -> tuple[dict[str, float], dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """The chances of first states, of a state after a state, and of a Han letter by state."""
    table = tables().model
    named = [dict(zip(STATES, row, strict=True)) for row in table.tolist()]
    after = {
        s: {t: chance for t, chance in row.items() if chance > IMPOSSIBLE}
        for s, row in zip(STATES, named, strict=False)
    }
    emission = {s: {chr(FIRST_HAN + k): row[s] for k, row in enumerate(named[5:])} for s in STATES}
    return named[4], after, emission


def words(text: str) -> list[str]:
    """The words of a text."""
    return [word for block in BLOCK.findall(text) for word in cut_block(block)]


def cut_block(block: str) -> Iterator[str]:
    """The words of a block: those of the best route, but that its runs of single characters are cut anew."""
    alone = ""
    for word in best_route(block):
        if len(word) == 1:
            alone += word
            continue
        yield from cut_alone(alone)
        yield word
        alone = ""
    yield from cut_alone(alone)


def best_route(block: str) -> list[str]:
    """The likeliest row of words; of two as likely, the one whose first word is longer."""
    scores, beginnings, unseen = dictionary()
    best = {len(block): (0.0, 0)}
    for first in range(len(block) - 1, -1, -1):
        found, end = [], first + 1
        while end <= len(block) and block[first:end] in beginnings:
            if block[first:end] in scores:
                found.append((scores[block[first:end]] + best[end][0], end))
            end += 1
        best[first] = max(found or [(unseen + best[first + 1][0], first + 1)])
    route, first = [], 0
    while first < len(block):
        route.append(block[first : best[first][1]])
        first = best[first][1]
    return route


def cut_alone(run: str) -> Iterator[str]:
    """The words of characters that the route leaves alone."""
    if len(run) < 2 or run in dictionary()[0]:
        yield from run
        return
    for part in HAN_OR_NOT.findall(run):
        if HAN_OR_NOT.fullmatch(part[0]) and "\u4e00" <= part[0] <= "\u9fd5":
            yield from cut_han(part)
        else:
            yield from NUMBER_OR_SIGNS.findall(part)


def cut_han(run: str) -> Iterator[str]:
    """The words of Han letters by their likeliest states; of two as likely, the later in the alphabet."""
    start, transition, emission = model()
    rows = [{s: (start[s] + emission[s].get(run[0], IMPOSSIBLE), "") for s in STATES}]
    for char in run[1:]:
        row = {}
        for state in STATES:
            emitted = emission[state].get(char, IMPOSSIBLE)
            row[state] = max(
                (rows[-1][before][0] + chances[state] + emitted, before)
                for before, chances in transition.items()
                if state in chances
            )
        rows.append(row)
    state = max("ES", key=lambda s: (rows[-1][s][0], s))
    states = [state]
    for row in reversed(rows[1:]):
        states.append(row[states[-1]][1])
    word = ""
    for char, state in zip(run, reversed(states), strict=True):
        word += char
        if state in "ES":
            yield word
            word = ""
    if word:
        yield word
