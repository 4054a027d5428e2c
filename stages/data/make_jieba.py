"""Makes `jieba.safetensors.zst` beside this file: run by hand where jieba 0.42.1, numpy and zstandard are installed.

Reads jieba's dictionary (`dict.txt`) and the probabilities of its hidden Markov model (`finalseg/prob_*.py`), and
writes both as `stages.jieba` wants them, so that nothing is left to build at run time; jieba is not needed there. Word
classes are left out. Where the dictionary has a word twice, jieba takes the last frequency, and both for the total.

The dictionary becomes a double-array trie (Aoe 1989). Each row is a beginning of a word, row 0 the empty one: the child
of row r by the character with number c is row `base[r] + c`, if `check` of that row is r.
"""

from collections import Counter
from math import log
from pathlib import Path

import jieba
import numpy as np
from jieba.finalseg import emit_P, start_P, trans_P

from stages.arrays import write_arrays

FIRST_HAN, LAST_HAN, CODES = 0x4E00, 0x9FD5, 0x10000
STATES = "BEMS"
IMPOSSIBLE = -3.14e100


def dictionary():
    """Word → frequency, by code point, and the sum of all frequencies."""
    found, total = {}, 0
    for line in (Path(jieba.__file__).parent / "dict.txt").read_text("utf-8").splitlines():
        word, frequency, _ = line.split(" ")
        found[word] = int(frequency)
        total += int(frequency)
    return dict(sorted(found.items())), total


def nodes(words, numbers):
    """Every beginning of a word, the empty one first, parents before children: node by beginning, and of each node its
    parent and the number of its last character."""
    node, parents, letters = {"": 0}, [0], [0]
    for word in words:
        for end in range(1, len(word) + 1):
            if word[:end] not in node:
                node[word[:end]] = len(node)
                parents.append(node[word[: end - 1]])
                letters.append(numbers[word[end - 1]])
    return node, parents, letters


def bases(parents, letters):
    """The base of every node, and how many rows that takes; those without children have base 0.

    The nodes with most children go first, each to the next place where all of its children find a free row; the search
    begins anew from the first free row whenever nodes are half as large.
    """
    children = [[] for _ in parents]
    for child in range(1, len(parents)):
        children[parents[child]].append(letters[child])
    widest = max(letters) + 1
    used = bytearray(4 * (len(parents) + widest))
    used[0] = 1
    found, low, place, top, most = [0] * len(parents), 1, 1, 0, 2 * len(parents)
    for node in sorted(range(len(parents)), key=lambda node: -len(children[node])):
        mine = children[node]
        if not mine:
            break
        low = used.index(0, low)
        if 2 * len(mine) <= most:
            most, place = len(mine), low
        while place < mine[0] or any(used[place - mine[0] + letter] for letter in mine):
            place += 1
        found[node] = place - mine[0]
        for letter in mine:
            used[found[node] + letter] = 1
        top = max(top, found[node] + max(mine))
    return found, top + widest + 1


def trie(words, total):
    """The arrays of the trie. value: of a word's row, one more than where its score is in `scores`."""
    often = Counter("".join(words))
    numbers = {char: k for k, char in enumerate(sorted(often, key=lambda char: (-often[char], char)), 1)}
    node, parents, letters = nodes(words, numbers)
    found, rows = bases(parents, letters)
    row_of = [0] * len(parents)
    for child in range(1, len(parents)):
        row_of[child] = found[parents[child]] + letters[child]
    base, check = np.zeros(rows, np.int32), np.full(rows, -1, np.int32)
    base[row_of] = found
    check[row_of[1:]] = [row_of[parent] for parent in parents[1:]]
    frequencies = sorted(set(words.values()))
    place = {frequency: k for k, frequency in enumerate(frequencies, 1)}
    value = np.zeros(rows, np.uint16)
    value[[row_of[node[word]] for word in words]] = [place[frequency] for frequency in words.values()]
    ids = np.zeros(CODES, np.uint16)
    ids[[ord(char) for char in numbers]] = list(numbers.values())
    scores = np.array([log(frequency) - log(total) for frequency in frequencies])
    return {"scores": scores, "base": base, "check": check, "value": value, "ids": ids}, log(1) - log(total)


def model():
    """float64[4 + 1 + h, 4] by state: of what follows each state, of the first state, of each Han letter's emission."""
    found = np.full((5 + LAST_HAN + 1 - FIRST_HAN, 4), IMPOSSIBLE)
    for column, state in enumerate(STATES):
        found[4, column] = start_P[state]
        for before, chances in trans_P.items():
            found[STATES.index(before), column] = chances.get(state, IMPOSSIBLE)
        for char, chance in emit_P[state].items():
            if FIRST_HAN <= ord(char) <= LAST_HAN:
                found[5 + ord(char) - FIRST_HAN, column] = chance
    return found


def main():
    """Writes the file."""
    words, total = dictionary()
    arrays, unseen = trie(words, total)
    told = {"version": f"jieba {jieba.__version__}", "unseen": repr(unseen)}
    write_arrays(Path(__file__).with_name("jieba.safetensors.zst"), {"model": model(), **arrays}, told)


main()
