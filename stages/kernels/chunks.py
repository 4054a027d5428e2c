"""Words of chunks: runs of characters between blanks, cut as spaCy's blank English tokenizer does.

Reads chunks as byte ranges of one buffer; writes where each word starts and ends. A chunk loses prefixes and
suffixes, then is an exception, an address, or cut at its infixes; then words in a row that make an exception are cut as
it is (spacy/tokenizer.pyx).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stages.kernels.exceptions import EXCEPTION, HEAD, LONGEST, PATTERN, TAIL, has_sign, row_of
from stages.kernels.leaf import inlined, leaf
from stages.kernels.utf8 import decode

PREFIX, SUFFIX, LOWER, UPPER, ALPHA, QUOTE, INFIX, STOPPED, WORD, HOST = (1 << bit for bit in range(2, 12))
SINGLE, EDGE, INNER, DIGIT = (1 << bit for bit in range(17, 21))
"""Bits of a character's class; `stages.words` says what each means."""
PLUS, DOT, DOLLAR, DEGREE, ELLIPSIS, APOSTROPHE, RAISED, HYPHEN, STAR, CARET = map(ord, "+.$°…'’-*^")
COMMA, COLON, LESS, GREATER, EQUALS, SLASH = map(ord, ",:<>=/")
EN_DASH, TILDE, EM_DASH, AT, UNDERSCORE, QUESTION, HASH = map(ord, "–~—@_?#")
UPPER_C, UPPER_A, UPPER_U, UPPER_S, LOWER_F, LOWER_C, LOWER_K, LOWER_S = map(ord, "CAUSfcks")
LONGEST_TAIL = 5
"""Characters of the longest TAIL."""


@leaf
def cut(
    data: Any, start: int, end: int, table: Any, known: Any, signs: Any, singles: bool, scratch: Any, cuts: Any
) -> Any:
    """Cuts a chunk, `data[start:end]`, valid UTF-8 without blanks: how many words it has.

    Writes into scratch, int64[characters + 1, 4], a row for each character (code point, class, where it starts) and one
    for the end, and in the last column, by word, the character that it begins with, one more for the end. cuts:
    uint8[characters + 1] to work with. The rest is as for `kernels.words.find_words`. singles: characters of scripts
    without spaces are words of their own.
    """
    n, some = _load(data, start, end, table, scratch)
    _cut(data, known, signs, scratch, cuts, n, some)
    words = _list(scratch, cuts, n)
    if _may_merge(data, signs, scratch, words):
        _merge(data, known, signs, scratch, cuts, n, words)
        words = _list(scratch, cuts, n)
    if singles and some & SINGLE:
        for k in range(n):
            if scratch[k, 1] & SINGLE:
                cuts[k] = cuts[k + 1] = 1
        words = _list(scratch, cuts, n)
    return words


@inlined
def _lookup(data: Any, known: Any, signs: Any, scratch: Any, a: int, b: int, kind: int) -> Any:
    """The row of `known` for characters a to b of the chunk if they are of this kind, else -1."""
    return row_of(data, scratch[a, 2], scratch[b, 2], known, signs, kind)


@leaf
def _load(data: Any, start: int, end: int, table: Any, scratch: Any) -> Any:
    """A chunk's characters → scratch rows (code point, class, where it starts), one more row for the end: (how many,
    all their classes)."""
    n, i, some = np.int64(0), start, np.uint32(0)
    while i < end:
        code, width = decode(data, i)
        entry = table[code]
        scratch[n, 0], scratch[n, 1], scratch[n, 2] = code, entry, i
        some |= entry
        n += 1
        i += width
    scratch[n, 0], scratch[n, 1], scratch[n, 2] = 0, 0, end
    return n, some


@leaf
def _cut(data: Any, known: Any, signs: Any, scratch: Any, cuts: Any, n: Any, some: Any) -> None:
    """Marks in `cuts` where the words of a chunk of n characters begin. some: all their classes."""
    for k in range(1, n + 1):
        cuts[k] = 0
    cuts[0] = 1
    a, b, last = n - n, n, n - n - 1
    special = _lookup(data, known, signs, scratch, a, b, EXCEPTION)
    while special < 0 and a < b and b - a != last:
        last = b - a
        before = after = a - a
        if scratch[a, 1] & EDGE or scratch[a, 0] in (UPPER_C, UPPER_A, UPPER_U):
            before = _prefix(scratch, a, b)
        if before > 0:
            special = _lookup(data, known, signs, scratch, a + before, b, EXCEPTION)
        if special < 0 and a + before < b and _may_end(scratch, b):
            after = _suffix(scratch, a + before, b)
        if special < 0 and a + before < b and some & DIGIT:
            after = _tail(data, known, signs, scratch, a + before, b, after)
        if after > 0:
            special = _lookup(data, known, signs, scratch, a, b - after, EXCEPTION)
            b -= after
            cuts[b] = 1
            if special >= 0:
                break
        a += before
        cuts[a] = 1
        if before > 0 and after > 0:
            special = _lookup(data, known, signs, scratch, a, b, EXCEPTION)
    cuts[n] = 0
    if special >= 0:
        _mark(cuts, a, b, known[special, 1])
    elif a < b and some & INNER:
        _cut_infixes(scratch, cuts, a, b)


@inlined
def _may_end(scratch: Any, b: int) -> Any:
    """Whether characters up to b may have a suffix that is no TAIL."""
    return scratch[b - 1, 1] & EDGE or scratch[b - 1, 0] in (LOWER_S, UPPER_S, ELLIPSIS)


@leaf
def _mark(cuts: Any, a: int, b: int, splits: Any) -> None:
    """Cuts characters a to b where the bits of `splits` say, and nowhere else between."""
    for k in range(a, b):
        cuts[k] = splits & np.uint64(1)
        splits >>= np.uint64(1)


@leaf
def _prefix(scratch: Any, a: int, b: int) -> Any:
    """Characters of the prefix of characters a to b."""
    code = scratch[a, 0]
    if scratch[a, 1] & PREFIX:
        return 1
    if code == PLUS:
        return 0 if a + 1 < b and scratch[a + 1, 1] & DIGIT else 1
    if code == DOT:
        run = a + 1
        while run < b and scratch[run, 0] == DOT:
            run += 1
        return run - a if run - a > 1 else 0
    if (code in (UPPER_C, UPPER_A)) and a + 1 < b and scratch[a + 1, 0] == DOLLAR:
        return 2
    if code == UPPER_U and a + 2 < b and scratch[a + 1, 0] == UPPER_S and scratch[a + 2, 0] == DOLLAR:
        return 3
    return 0


@leaf
def _suffix(scratch: Any, a: int, b: int) -> Any:
    """Characters of the longest suffix of characters a to b but for a TAIL."""
    code, entry = scratch[b - 1, 0], scratch[b - 1, 1]
    before = scratch[b - 2, 1] if b - 2 >= a else 0
    best = 1 if entry & SUFFIX else 0
    if code == DOT:
        run = b - 1
        while run > a and scratch[run - 1, 0] == DOT:
            run -= 1
        if b - run > 1:
            return b - run
        if before & STOPPED or (before & UPPER and b - 3 >= a and scratch[b - 3, 1] & UPPER):
            best = 1
        elif before and b - 3 >= a and scratch[b - 3, 0] == DEGREE:
            letter = scratch[b - 2, 0] | 32
            best = 1 if letter in (LOWER_F, LOWER_C, LOWER_K) else 0
    elif code == ELLIPSIS:
        return 2 if b - 2 >= a and scratch[b - 2, 0] == ELLIPSIS else 1
    elif code in (LOWER_S, UPPER_S):
        if b - 2 >= a and (scratch[b - 2, 0] == APOSTROPHE or scratch[b - 2, 0] == RAISED):
            best = 2
    elif code == PLUS and before & DIGIT:
        best = 1
    return best


@leaf
def _tail(data: Any, known: Any, signs: Any, scratch: Any, a: int, b: int, best: int) -> Any:
    """Characters of the TAIL that characters a to b end with, if it is longer than the best suffix so far."""
    for digit in range(b - 2, max(a, b - 1 - LONGEST_TAIL) - 1, -1):
        if scratch[digit, 1] & DIGIT:
            if b - 1 - digit > best and _lookup(data, known, signs, scratch, digit + 1, b, TAIL) >= 0:
                return np.int64(b - 1 - digit)
            break
    return best


@leaf
def _infix(scratch: Any, k: int, a: int, b: int) -> Any:  # noqa: PLR0911 - a return for each rule
    """Characters of an infix at k, within characters a to b."""
    code = scratch[k, 0]
    if scratch[k, 1] & INFIX:
        return 1
    before = scratch[k - 1, 1] if k > a else 0
    after = scratch[k + 1, 1] if k + 1 < b else 0
    if code == DOT:
        run = k + 1
        while run < b and scratch[run, 0] == DOT:
            run += 1
        if run - k > 1:
            return run - k
        return 1 if before & (LOWER | QUOTE) and after & (UPPER | QUOTE) else 0
    signed = after & DIGIT or (k + 1 < b and scratch[k + 1, 0] == HYPHEN)
    if before & DIGIT and signed and code in (PLUS, HYPHEN, STAR, CARET):
        return 1
    if not before & (ALPHA | DIGIT):
        return 0
    if code in (COMMA, COLON, LESS, GREATER, EQUALS, SLASH, EN_DASH, TILDE):
        return 1 if after & ALPHA and (code != COMMA or before & ALPHA) else 0
    if code in (HYPHEN, EM_DASH):
        most = 3 if code == HYPHEN else 2
        run = k + 1
        while run < b and scratch[run, 0] == code and run - k <= most:
            run += 1
        return run - k if run - k <= most and run < b and scratch[run, 1] & ALPHA else 0
    return 0


@leaf
def _cut_infixes(scratch: Any, cuts: Any, a: int, b: int) -> None:
    """Cuts characters a to b before and after each infix but one at a; an address stays whole."""
    k, found, dotted = a, False, False
    while k < b:
        dotted |= scratch[k, 0] == DOT
        width = _infix(scratch, k, a, b) if scratch[k, 1] & INNER else 0
        if width > 0:
            if k > a:
                cuts[k] = 1
                if k + width < b:
                    cuts[k + width] = 1
                found = True
            dotted |= scratch[k, 0] == DOT
            k += width
        else:
            k += 1
    if found and dotted and _is_address(scratch, a, b):
        for k in range(a + 1, b):
            cuts[k] = 0


@leaf
def _is_address(scratch: Any, a: int, b: int) -> bool:
    """Whether characters a to b are an address: scheme, user, host, port, path, all but the host optional."""
    if _is_host(scratch, a, b):
        return True
    k = a
    while k < b and (scratch[k, 1] & WORD or scratch[k, 0] == PLUS or scratch[k, 0] == HYPHEN or scratch[k, 0] == DOT):
        k += 1
    found = k - a >= 2 and k + 3 < b and scratch[k, 0] == COLON
    found = found and scratch[k + 1, 0] == SLASH and scratch[k + 2, 0] == SLASH and _is_host(scratch, k + 3, b)
    k = a + 1
    while k < b and not found:
        found = scratch[k, 0] == AT and _is_host(scratch, k + 1, b)
        k += 1
    return found


@leaf
def _is_host(scratch: Any, a: int, b: int) -> bool:
    """Whether characters a to b are a host (name or public IPv4 number), then a port and a path if any."""
    k, label, labels, named, top = a, a, 0, True, True
    while k < b:
        code, entry = scratch[k, 0], scratch[k, 1]
        if code == DOT:
            named &= 1 <= k - label <= 64 and (scratch[label, 1] & HOST) != 0 and (scratch[k - 1, 1] & HOST) != 0
            for j in range(label, min(k, label + 64)):
                named &= (scratch[j, 1] & HOST) != 0 or scratch[j, 0] == UNDERSCORE or scratch[j, 0] == HYPHEN
            label, labels, top = k + 1, labels + 1, True
        elif entry & (HOST | LOWER) or code in (UNDERSCORE, HYPHEN):
            top &= (entry & LOWER) != 0
        else:
            break
        k += 1
    named &= labels > 0 and top and 2 <= k - label <= 63
    if not (named or (labels == 3 and _is_public(scratch, a, k))):
        return False
    if k < b and scratch[k, 0] == COLON:
        port = k + 1
        while port < b and scratch[port, 1] & DIGIT:
            port += 1
        if not 2 <= port - k - 1 <= 5:
            return False
        k = port
    return k == b or scratch[k, 0] == SLASH or scratch[k, 0] == QUESTION or scratch[k, 0] == HASH


@leaf
def _is_public(scratch: Any, a: int, b: int) -> bool:
    """Whether characters a to b are an IPv4 number outside the loopback, private and reserved ranges."""
    group, value, digits, first = 0, 0, 0, 0
    for k in range(a, b + 1):
        if k < b and scratch[k, 1] & DIGIT:
            value, digits = min(value * 10 + scratch[k, 0] - 48, 1000), digits + 1
            continue
        if digits == 0 or digits > 3 or (k < b and scratch[k, 0] != DOT):
            return False
        zero = scratch[k - digits, 0] == 48
        if group == 0:
            if zero or value > 223 or value in (10, 127):
                return False
            first = value
        elif group < 3:
            private = (first == 169 and value == 254) or (first == 192 and value == 168)
            private |= first == 172 and 16 <= value <= 31 and digits == 2
            if value > 255 or (digits == 3 and value < 100) or (group == 1 and private):
                return False
        elif zero or value > 254:
            return False
        group, value, digits = group + 1, 0, 0
    return group == 4


@leaf
def _list(scratch: Any, cuts: Any, n: int) -> Any:
    """Writes which characters begin words, and the end after the last; how many words."""
    count: Any = np.int64(0)
    for k in range(n):
        scratch[count, 3] = k
        count += cuts[k]
    scratch[count, 3] = n
    return count


@leaf
def _may_merge(data: Any, signs: Any, scratch: Any, count: int) -> Any:
    """Whether two words in a row may begin an exception to be sought."""
    found = np.int64(0)
    for first in range(count - 1):
        start = scratch[scratch[first, 3], 2]
        found |= has_sign(data, start, start + 2, signs, HEAD)
    return found != 0


@leaf
def _merge(data: Any, known: Any, signs: Any, scratch: Any, cuts: Any, n: int, count: int) -> None:
    """Words in a row that make an exception are cut as it is: the most words first, then the leftmost."""
    most: Any = np.int64(0)
    for first in range(count - 1):
        a = scratch[first, 3]
        for words in range(2, count - first + 1):
            b = scratch[first + words, 3]
            if scratch[b, 2] - scratch[a, 2] > LONGEST:
                break
            if _lookup(data, known, signs, scratch, a, b, PATTERN) >= 0:
                most = max(most, words)
    if most == 0:
        return
    for a in range(n):
        scratch[a, 3] = cuts[a]
    for words in range(most, 1, -1):
        for a in range(n):
            if scratch[a, 3] & 1:
                _merge_at(data, known, signs, scratch, cuts, n, a, words)


@leaf
def _merge_at(data: Any, known: Any, signs: Any, scratch: Any, cuts: Any, n: int, a: int, words: int) -> None:
    """Cuts the exception that so many words from character a make, if any, unless its first or last word is in one
    already."""
    pattern, last, b = np.uint64(1), a, a + 1
    while b < n and b - a <= LONGEST:
        if scratch[b, 3] & 1:
            words -= 1
            if words == 0:
                break
            pattern |= np.uint64(1) << np.uint64(b - a)
            last = b
        b += 1
    if words > 1 or b - a > LONGEST:
        return
    slot = _lookup(data, known, signs, scratch, a, b, PATTERN)
    if slot < 0 or known[slot, 2] != pattern:
        return
    if not scratch[a, 3] & 2 and not scratch[last, 3] & 2:
        _mark(cuts, a, b, known[slot, 1])
    for k in range(a, b):
        scratch[k, 3] |= 2
