"""Characters that extractors lose are kept, and nothing else of what they give changes."""

import html as entities
import re
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

from stages.extract import Extract
from stages.readers import protect
from stages.readers.page import extractor

PROSE = "<p>" + "An honest paragraph about grain, long enough to be content. " * 6 + "</p>"
THREE_BYTES = [chr(code) for code in range(0x800, 0x10000) if not 0xD800 <= code < 0xE000]
TEXTS = [one for one in THREE_BYTES if unicodedata.category(one) != "Co" and not 0xFDD0 <= ord(one) < 0xFDF0]
"""Without icons, of the private use area, and noncharacters."""


def options(**more: Any) -> dict[str, Any]:
    return {**Extract().model_dump(), **more}


def extracted(html: str, engine: str = "resiliparse", **more: Any) -> str:
    return extractor(engine, options(**more))(html)[0]


def plain(html: str, **more: Any) -> str:
    """What Resiliparse itself gives."""
    names = ("main_content", "links", "list_bullets", "alt_texts", "comments")
    chosen = {name: value for name, value in options(**more).items() if name in names}
    return extract_plain_text(HTMLTree.parse(html), **chosen)


@pytest.mark.parametrize("form", ["{}", "&#{code};", "&#x{code:X}", " \n{}\t", "\0{}"])
def test_every_text_of_one_character_is_kept(form: str) -> None:
    step = 1 if form == "{}" else 53
    for start in range(0, len(TEXTS), 4000):
        part = TEXTS[start : start + 4000 : step]
        rows = [f"<p>{k}:<b>{form.format(one, code=ord(one))}</b>;</p>" for k, one in enumerate(part)]
        text = extracted(PROSE + "".join(rows) + PROSE)
        found = dict(re.findall(r"(\d+):\s*([^;]*?)\s*;", text))
        lost = [one for k, one in enumerate(part) if one.strip() and found[str(k)] != one]
        assert lost == []


PLACES = [
    "<b>{}</b>",
    "<p>{}</p>",
    "<li>{}</li>",
    "a<a href=x>{}</a>b",
    "<table><tr><td>{}</td><td>x</td></tr></table>",
    "<ruby>{}<rt>x</rt></ruby>",
    "x<br>{}<br>",
    "<pre> {} </pre>",
    "<b><!-- c -->{}<!-- c --></b>",
    "<b></i>{}</b>",
    "{}",
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("text", ["水", "&mdash;", "&#27700;", "aé", "a&eacute;", "&euro;"])
def test_every_place_keeps_its_text(place: str, text: str) -> None:
    page = PROSE + place.format(text) + PROSE
    kept = extracted(page)
    longer = plain(PROSE + place.format(entities.unescape(text) + "zz") + PROSE)
    assert re.sub(r"\s", "", kept) == re.sub(r"\s", "", longer).replace("zz", "")


def test_texts_at_both_ends_of_a_page_and_titles_are_kept() -> None:
    assert extracted(f"水{PROSE}火").split() == ["水", *re.sub("<.*?>", "", PROSE).split(), "火"]
    assert extractor("resiliparse", options())("<title>水</title>" + PROSE)[1] == "水"


def test_icons_stay_dropped() -> None:
    assert extracted(f"{PROSE}<i>\uf015</i><i>¶</i>") == plain(PROSE)


TAGS = ["<b>", "</b>", "<p>", "<div class=nav>", "</div>", "<ul><li>", "<a href=x>", "</a>", "<br>", "<td>", "<!-- -->"]
WORDS = ["é", "水火", "word ", "abc", "ab", "\x01aa", "<script>x</script>", "&amp;", "&#1;bb", "😀", " ", "&lt;b&gt;"]
PIECES = st.sampled_from([*TAGS, *WORDS])


@given(st.lists(PIECES, max_size=30), st.booleans(), st.booleans())
def test_pages_without_such_texts_are_extracted_as_before(pieces: list[str], links: bool, bullets: bool) -> None:
    page = PROSE + "".join(pieces)
    more = {"links": links, "list_bullets": bullets}
    assert extracted(page, **more) == plain(page, **more)


@given(st.lists(st.one_of(PIECES, st.sampled_from(["水", "<i>水</i>", "<b>—</b>", "<i>aé</i>"])), max_size=30))
def test_other_texts_stay_as_they_are_beside_them(pieces: list[str]) -> None:
    shielded, restore = protect.short_texts(PROSE + "".join(pieces))
    assert restore(shielded) == PROSE + "".join(pieces)
    assert len(shielded.encode()) == len((PROSE + "".join(pieces)).encode())
    kept, before = extracted(PROSE + "".join(pieces)), plain(PROSE + "".join(pieces))
    rest = iter(re.sub(r"\s", "", kept))
    assert all(one in rest for one in re.sub(r"\s", "", before)), "in order, nothing of before is missing"


def test_stand_ins_are_what_the_page_has_nowhere() -> None:
    taken = "".join(f"&#{code};" for code in range(1, 5)) + "\x05&#x6;&#X0007"
    shielded, restore = protect.short_texts(f"<b>水</b>{taken}")
    assert shielded[3] == "\x08"
    assert restore(shielded) == f"<b>水</b>{taken}"
    everything = "".join(map(chr, range(1, 0x800)))
    shielded, restore = protect.short_texts(f"<b>水</b>{everything}")
    assert restore(shielded) == f"<b>水</b>{everything}"


PERSIAN = "نیم\u200cفاصله می&zwnj;روم می&#8204;شود"
EMOJI = "👩\u200d💻 👨&#x200D;👩&zwj;👧 \U0001f3f4\U000e0067\U000e0062\U000e007f \u06dd"


@pytest.mark.parametrize("main_content", [True, False])
@pytest.mark.parametrize("engine", ["resiliparse", "trafilatura"])
def test_joiners_and_marks_of_numbers_are_kept(engine: str, main_content: bool) -> None:
    text = extracted(f"<body>{PROSE}<p>{PERSIAN} {EMOJI}</p>{PROSE}</body>", engine, main_content=main_content)
    assert entities.unescape(PERSIAN) in text
    assert entities.unescape(EMOJI) in text
    assert "\U00013000" not in text


def test_hieroglyphs_of_a_page_are_its_own() -> None:
    text = extracted(f"<body>{PROSE}<p>a\u200cb \U00013000 &#x13001;</p>{PROSE}</body>", "trafilatura")
    assert "a\u200cb \U00013000 \U00013001" in text
