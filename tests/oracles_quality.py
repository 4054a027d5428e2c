"""Slow twins of the quality kernels: spaCy's words by regular expressions, and every score of one text in plain Python.

The words are cut by the tables the kernel reads, put back into regular expressions of spaCy's shape.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise

from stages.words import rules

NAN = float("nan")
POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
CITATION = re.compile(r"\[[0-9]*]|\[edit]|\[citation needed]")


@cache
def characters(name: str) -> str:
    """The inside of a regular expression's class for one of the tables' classes."""
    return "".join(f"{re.escape(chr(first))}-{re.escape(chr(last))}" for first, last in rules()["classes"][name])


def has(name: str, char: str) -> bool:
    """Whether a character is of a class."""
    return any(first <= ord(char) <= last for first, last in rules()["classes"][name])


@cache
def expressions() -> dict[str, re.Pattern[str]]:
    """Prefixes, suffixes, infixes and addresses."""
    c = {name: characters(name) for name in rules()["classes"]}
    tails = "|".join(map(re.escape, rules()["after_digits"]))
    stops = rf"(?<=°[FfCcKk])\.|(?<=[{c['stopped']}])\.|(?<=[{c['upper']}]{{2}})\."
    infixes = [
        rf"\.\.+|[{c['infix']}]|(?<=[0-9])[+\-*^](?=[0-9-])",
        rf"(?<=[{c['lower']}{c['quote']}])\.(?=[{c['upper']}{c['quote']}])",
        rf"(?<=[{c['alpha']}]),(?=[{c['alpha']}])",
        rf"(?<=[{c['alpha']}0-9])(?:-|–|—|--|---|——|~)(?=[{c['alpha']}])",
        rf"(?<=[{c['alpha']}0-9])[:<>=/](?=[{c['alpha']}])",
    ]
    label = rf"[{c['host']}](?:[{c['host']}_-]{{0,62}}[{c['host']}])?"
    host = rf"(?:{label}\.)+[{c['lower']}]{{2,63}}|(?P<number>[0-9]+(?:\.[0-9]+){{3}})"
    return {
        "prefix": re.compile(rf"[{c['prefix']}]|\+(?![0-9])|\.\.+|US\$|[CA]\$"),
        "suffix": re.compile(rf"(?:[{c['suffix']}]|……|\.\.+|['’][sS]|(?<=[0-9])(?:\+|{tails})|{stops})\Z"),
        "infix": re.compile("|".join(infixes)),
        "address": re.compile(rf"(?:[{c['word']}+.-]{{2,}}://)?(?:\S+@)?(?:{host})(?::[0-9]{{2,5}})?(?:[/?#]\S*)?"),
    }


@cache
def exceptions() -> tuple[dict[str, list[str]], dict[tuple[str, ...], list[str]]]:
    """Words of each exception by its text, and by the words that affixes alone make of it."""
    whole, sought = {}, {}
    for text, splits, pattern in rules()["exceptions"]:
        whole[text] = pieces(text, splits)
        if pattern is not None:
            sought[tuple(pieces(text, pattern))] = whole[text]
    return whole, sought


def pieces(text: str, cuts: Sequence[int]) -> list[str]:
    """A text cut at some places."""
    edges = [0, *cuts, len(text)]
    return [text[a:b] for a, b in pairwise(edges)]


def is_public(number: str) -> bool:
    """Whether four numbers are an IPv4 address outside loopback, private and reserved ranges."""
    a, b, c, d = number.split(".")
    shapes = re.fullmatch(r"[1-9]\d{0,2}", a) and re.fullmatch(r"[1-9]\d{0,2}", d) and int(a) <= 223 and int(d) <= 254
    middle = all(len(x) <= 2 or (len(x) == 3 and 100 <= int(x) <= 255) for x in (b, c))
    private = a in {"10", "127"} or (a, b) in {("169", "254"), ("192", "168")}
    private |= a == "172" and len(b) == 2 and 16 <= int(b) <= 31
    return bool(shapes) and middle and not private


def is_address(text: str) -> bool:
    """Whether a text is an address. Each place after an @ is tried, since a user may hold anything."""
    found = expressions()["address"].fullmatch(text)
    if found and (not found["number"] or is_public(found["number"])):
        return True
    rest = [text[at + 1 :] for at in range(1, len(text)) if text[at] == "@"]
    rest += [text.partition("://")[2]] if re.match(rf"[{characters('word')}+.-]{{2,}}://", text) else []
    return any(is_address(part) for part in rest)


def words(text: str, singles: bool = False) -> list[str]:
    """The words of a text."""
    found = [word for chunk in text.split() for word in merge(cut(chunk))]
    if not singles:
        return found
    lone = re.compile(rf"[{characters('single')}]|[^{characters('single')}]+")
    return [part for word in found for part in lone.findall(word)]


def cut(chunk: str) -> list[str]:
    """The words of a chunk by prefixes, suffixes, exceptions, addresses and infixes."""
    whole, before, after, rest, size = exceptions()[0], [], [], chunk, -1
    while rest and len(rest) != size:
        size = len(rest)
        if rest in whole:
            break
        prefix = expressions()["prefix"].match(rest)
        left = prefix.end() if prefix else 0
        if left and rest[left:] in whole:
            before.append(rest[:left])
            rest = rest[left:]
            break
        suffix = expressions()["suffix"].search(rest[left:])
        right = left + suffix.start() if suffix else len(rest)
        if suffix and rest[:right] in whole:
            after.append(rest[right:])
            rest = rest[:right]
            break
        before += [rest[:left]] if left else []
        after += [rest[right:]] if suffix else []
        rest = rest[left:right]
    return [*before, *middle(rest), *reversed(after)]


def middle(rest: str) -> list[str]:
    """What affixes left of a chunk: an exception, an address, or parted by infixes."""
    whole = exceptions()[0]
    if not rest or rest in whole:
        return whole.get(rest, [])
    if is_address(rest):
        return [rest]
    found = [match.span() for match in expressions()["infix"].finditer(rest) if match.start() > 0]
    return [piece for piece in pieces(rest, [place for span in found for place in span]) if piece]


def merge(tokens: list[str]) -> list[str]:
    """Words in a row that make an exception, the most first, then the leftmost; one overlapped by an earlier match
    stays."""
    sought, out, taken = exceptions()[1], [[token] for token in tokens], set()
    for size in range(min(len(tokens), 16), 0, -1):
        for k in range(len(tokens) - size + 1):
            match = sought.get(tuple(tokens[k : k + size]))
            if match is None:
                continue
            if k not in taken and k + size - 1 not in taken:
                out[k : k + size] = [match, *([[]] * (size - 1))]
            taken |= set(range(k, k + size))
    return [word for group in out for word in group]


def sentences(text: str) -> int:
    """How many sentences spaCy's sentencizer finds; blanks other than one space are tokens too."""
    count, ended = int(bool(text)), False
    parts = re.split(
        r"(\s+)", text.replace("\x1c", "\t").replace("\x1d", "\t").replace("\x1e", "\t").replace("\x1f", "\t")
    )
    for k, part in enumerate(parts):
        blank = not part.strip() and part != "" and (part != " " or (k == 1 and parts[0] == ""))
        for token in [part] if blank else words(part):
            mark = len(token) == 1 and has("sentence", token)
            if mark:
                ended = True
            elif ended and not all(unicodedata.category(c)[0] == "P" for c in token):
                count, ended = count + 1, False
    return count


def repeats(parts: Sequence[str]) -> tuple[int, int]:
    """(how many, of how many characters) of the parts have occurred before."""
    seen: set[str] = set()
    count = size = 0
    for part in parts:
        if part in seen:
            count, size = count + 1, size + len(part)
        seen.add(part)
    return count, size


def top_gram(tokens: Sequence[str], n: int) -> int:
    """Characters that the commonest n-gram takes, blanks between its words counted, overlaps too; first seen wins
    ties."""
    grams = Counter(" ".join(tokens[k : k + n]) for k in range(len(tokens) - n + 1))
    return next((len(gram) * count for gram, count in grams.most_common(1)), 0)


def repeated_grams(tokens: Sequence[str], n: int) -> int:
    """Characters in n-grams that have occurred before, without overlaps: after one the next n words are passed over."""
    seen: set[tuple[str, ...]] = set()
    size = k = 0
    while k <= len(tokens) - n:
        gram = tuple(tokens[k : k + n])
        if gram in seen:
            size, k = size + sum(map(len, gram)), k + n
        else:
            seen.add(gram)
            k += 1
    return size


def ratio(part: float, whole: float) -> float:
    """part / whole, NaN where whole is 0."""
    return part / whole if whole else NAN


def gopher_repetition(text: str, tokens: Sequence[str]) -> dict[str, float]:
    """The scores of that set."""
    size = max(len(text), 1)
    paragraphs, rows = re.split(r"\n{2,}", text.strip()), re.split(r"\n+", text)
    old_paragraphs, paragraph_size = repeats(paragraphs)
    old_rows, row_size = repeats(rows)
    return {
        "gopher_dup_para_frac": old_paragraphs / len(paragraphs),
        "gopher_dup_para_char_frac": paragraph_size / size,
        "gopher_dup_line_frac": old_rows / len(rows),
        "gopher_dup_line_char_frac": row_size / size,
        **{f"gopher_top_{n}_gram": top_gram(tokens, n) / size for n in (2, 3, 4)},
        **{f"gopher_dup_{n}_grams": repeated_grams(tokens, n) / size for n in range(5, 11)},
    }


def gopher_quality(text: str, tokens: Sequence[str], stop_list: frozenset[str]) -> dict[str, float]:
    """The scores of that set."""
    real, n, lines = [w for w in tokens if not all(has("symbol", c) for c in w)], len(tokens), text.splitlines()
    return {
        "gopher_min_words": len(real),
        "gopher_max_words": len(real),
        "gopher_min_word_length": ratio(sum(map(len, real)), len(real)),
        "gopher_max_word_length": ratio(sum(map(len, real)), len(real)),
        "gopher_hashes": ratio(text.count("#"), n),
        "gopher_ellipses": ratio(text.count("...") + text.count("…"), n),
        "gopher_bullet_lines": ratio(sum(line.lstrip().startswith(("•", "-")) for line in lines), len(lines)),
        "gopher_ellipsis_lines": ratio(sum(line.rstrip().endswith(("...", "…")) for line in lines), len(lines)),
        "gopher_alphabetic_words": ratio(sum(any(c.isalpha() for c in w) for w in tokens), n),
        "gopher_stop_words": len(stop_list & set(tokens)),
    }


def c4(text: str) -> tuple[dict[str, float], str, Mapping[str, int]]:
    """(scores, the lines that are left, lines removed by reason)."""
    kept: list[str] = []
    removed: Counter[str] = Counter()
    found: Counter[str] = Counter()
    count = 0
    for line in (line.strip() for line in text.splitlines()):
        parts, cut_line = line.split(), CITATION.sub("", line)
        low = cut_line.lower().replace("\u212a", "k")
        if any(len(word) > 1000 for word in parts):
            removed["long_word"] += 1
        elif not cut_line.endswith((".", "?", "!", '"', "'")) or cut_line.endswith("..."):
            removed["no_terminal_mark"] += 1
        elif len(parts) < 3:
            removed["few_words"] += 1
        elif "lorem ipsum" in low:
            found["lorem_ipsum"] += 1
        elif "javascript" in low:
            removed["javascript"] += 1
        elif "{" in cut_line:
            found["curly_bracket"] += 1
        elif any(phrase in low for phrase in POLICY):
            removed["policy"] += 1
        else:
            kept.append(cut_line)
            count += sentences(cut_line)
    scores = {"c4_lorem_ipsum": found["lorem_ipsum"], "c4_curly_bracket": found["curly_bracket"], "c4_sentences": count}
    return scores, "\n".join(kept).strip(), removed


def fineweb(text: str, tokens: Sequence[str]) -> dict[str, float]:
    """The scores of that set."""
    lines = [line for line in text.split("\n") if line.strip()]
    ended = sum(has("terminal", line[-1]) for line in lines)
    return {
        "fineweb_line_punct": ended / max(len(lines), 1),
        "fineweb_short_lines": ratio(sum(len(line) <= 30 for line in lines), len(lines)),
        "fineweb_char_dup": ratio(repeats(lines)[1], len(text.replace("\n", ""))),
        "fineweb_new_lines": ratio(text.count("\n"), len(tokens)),
    }
