"""Makes `english.json` beside this file: run by hand where spaCy 3.8 and datatrove 0.10 are installed.

Reads spaCy's rules for blank English (prefixes, suffixes, infixes, exceptions) and datatrove's marks, and writes them
as ranges of code points and as splits; neither package is needed to run the pipeline.
"""

import json
import re
import unicodedata
from pathlib import Path

import spacy
from datatrove.utils.text import PUNCTUATION_SET, TERMINAL_PUNCTUATION
from spacy.lang import char_classes as spacy_classes
from spacy.pipeline import Sentencizer
from spacy.tokenizer import Tokenizer

TOKENIZER = spacy.blank("en").tokenizer
SCRIPTS_WITHOUT_SPACES = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}]"


def one_of(characters):
    """A test of one character against the inside of a regular expression's class."""
    return re.compile(f"[{characters}]").match


def classes():
    """Name → test of one character."""
    import regex

    quotes, lower = spacy_classes.CONCAT_QUOTES, spacy_classes.ALPHA_LOWER
    return {
        "space": str.isspace,
        "line": lambda c: len(f"a{c}a".splitlines()) == 2,
        "prefix": lambda c: c != "+" and TOKENIZER.find_prefix(c),
        "suffix": TOKENIZER.find_suffix,
        "lower": one_of(lower),
        "upper": one_of(spacy_classes.ALPHA_UPPER),
        "alpha": one_of(spacy_classes.ALPHA),
        "quote": one_of(quotes),
        "infix": lambda c: c == "…" or one_of(spacy_classes.CONCAT_ICONS)(c),
        "stopped": one_of(rf"0-9{lower}%²\-\+{spacy_classes.PUNCT}(?:{quotes})"),
        "word": re.compile(r"\w").match,
        "host": one_of("A-Za-z0-9\u00a1-\uffff"),
        "letter": str.isalpha,
        "symbol": PUNCTUATION_SET.__contains__,
        "terminal": TERMINAL_PUNCTUATION.__contains__,
        "sentence": set(Sentencizer.default_punct_chars).__contains__,
        "punctuation": lambda c: unicodedata.category(c)[0] == "P",
        "single": regex.compile(SCRIPTS_WITHOUT_SPACES).match,
    }


def ranges(test):
    """[first, last] of every run of code points that pass the test."""
    found = []
    for code in range(0x110000):
        if 0xD800 <= code < 0xE000 or not test(chr(code)):
            continue
        if found and found[-1][1] == code - 1:
            found[-1][1] = code
        else:
            found.append([code, code])
    return found


def cuts(tokens):
    """Where tokens begin, in characters, the first aside."""
    places, at = [], 0
    for token in tokens[:-1]:
        at += len(token)
        places.append(at)
    return places


def exceptions():
    """[text, where its tokens begin, where they begin by affixes alone]; the last is null where spaCy does not look
    for the text among finished tokens."""
    plain = Tokenizer(
        TOKENIZER.vocab,
        {},
        TOKENIZER.prefix_search,
        TOKENIZER.suffix_search,
        TOKENIZER.infix_finditer,
        url_match=TOKENIZER.url_match,
    )
    rows = []
    for text, tokens in sorted(TOKENIZER.rules.items()):
        if text.isspace():
            continue
        split = cuts([token[spacy.symbols.ORTH] for token in tokens])
        sought = TOKENIZER.find_prefix(text) or TOKENIZER.find_infix(text) or TOKENIZER.find_suffix(text)
        pattern = cuts([token.text for token in plain(text)]) if sought else None
        rows.append([text, split, pattern if pattern or split else None])
    return rows


def main():
    """Writes the file."""
    unescaped = re.sub(r"\\(.)", r"\1", f"{spacy_classes.UNITS}|{spacy_classes.CURRENCY}")
    tables = {
        "versions": f"spaCy {spacy.__version__}, Unicode {unicodedata.unidata_version}",
        "classes": {name: ranges(test) for name, test in classes().items()},
        "after_digits": sorted(set(unescaped.split("|"))),
        "exceptions": exceptions(),
    }
    lines = [
        f'"{key}": {json.dumps(value, ensure_ascii=False, separators=(",", ":"))}' for key, value in tables.items()
    ]
    Path(__file__).with_name("english.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")


main()
