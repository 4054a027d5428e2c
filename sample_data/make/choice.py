"""Chooses the documents of the dump and damages some of them.

Takes the packages and the plan, gives documents with what is known of each. The one trade-off: nothing is random;
what is chosen and what is damaged follows from digests of ids, so the sample stays the same while the packages do.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import damage
import plan
from sources import Page, changelog, digest, nobody

MOJIBAKE = {"en": 6, "fr": 9, "de": 8, "es": 5, "ru": 9, "zh": 10, "ja": 4}
"""Documents of each language that get a wrong encoding."""
CONTACTS = {"en": 20, "zh": 14, "de": 7, "fr": 7, "es": 6, "ru": 6, "ja": 5}
"""Documents of each language that get personal data of nobody."""
COPIES = 30
"""Documents that occur a second time, in another file, under another id."""
SCRIPTS = {"zh-cn": "Hans", "zh-tw": "Hant", "zh": "Hans", "ru": "Cyrl", "uk": "Cyrl"}
SCRIPTS |= {"ja": "Jpan", "ko": "Kore", "ar": "Arab", "hi": "Deva"}


@dataclass(frozen=True)
class Doc:
    """A document on its way into the dump: its page, its file, and what is known of it."""

    file: str
    page: Page
    source: str
    kind: str = "prose"
    detail: str = ""
    clean: str = ""
    repairable: bool | None = None
    charset: str = "utf-8"
    pii: list[dict[str, str]] = field(default_factory=list)

    @property
    def lang(self) -> str:
        """The language."""
        return self.page.lang

    @property
    def script(self) -> str:
        """The script, by ISO 15924."""
        variant = self.source.partition("/")[2]
        return SCRIPTS.get(variant) or SCRIPTS.get(self.lang, "Latn")


def choose(root: Path) -> list[Doc]:
    """The documents of every file of the plan, none twice, and none that is only contents."""
    shelves: dict[str, Iterator[Page]] = {}
    contents = {
        f"{package}/{path.removeprefix('doc/')}" for package in plan.CONTENTS for path in plan.CONTENTS[package]
    }
    chosen = []
    for file, wanted in plan.PLAN.items():
        for name, budget in wanted.items():
            shelves.setdefault(name, plan.shelf(root, name))
            largest, left = plan.LARGEST.get(name, plan.LARGEST_ELSEWHERE), budget
            for page in shelves[name]:
                size = len(page.text.encode())
                if size <= largest and page.id not in contents:
                    chosen.append(Doc(file, page, name))
                    left -= size
                if left <= 0:
                    break
    return chosen


def furniture(root: Path) -> list[Doc]:
    """Boilerplate: contents and search pages, changelogs, and what crawls are full of."""
    docs = []
    for package, paths in plan.CONTENTS.items():
        for path in paths:
            raw = nobody((root / package / "usr/share" / path).read_text())[:300_000]
            title = re.search(r"(?is)<title[^>]*>(.*?)</title>", raw)
            lang = "zh" if "zh" in path else "de" if "de-DE" in path else "ja" if "ja-JP" in path else "en"
            page = Page(package, path.removeprefix("doc/"), lang, html.unescape(title[1]) if title else "", "", raw)
            docs.append(Doc("web/crawl-0.warc.gz", page, "contents", "boilerplate", "contents"))
    for package in plan.CHANGELOGS:
        text = changelog(root, package)[:4000].rpartition("\n\n")[0]
        page = Page(package, "changelog", "en", f"{package} changelog", text)
        docs.append(Doc("docs/manuals.en.jsonl.gz", page, "changelog", "boilerplate", "changelog"))
    files = ("docs/help.en.jsonl.zst", "wiki-like/world.parquet", "web/crawl-1.warc.gz")
    for k in range(75):
        lang, sort, text = damage.boilerplate(k)
        body = "".join(f"<p>{html.escape(line)}</p>\n" for line in text.split("\n"))
        raw = f"<html><head><title>{sort}</title></head>\n<body>\n{body}</body></html>\n"
        file = files[digest(f"boilerplate/{k}") % 3]
        page = Page("none", f"{sort}/{k}.html", lang, sort, text, raw if file.startswith("web/") else None)
        docs.append(Doc(file, page, "made", "boilerplate", sort))
    return docs


def some(docs: list[Doc], counts: dict[str, int], purpose: str, fit: Callable[[Doc], bool]) -> set[str]:
    """Ids of so many untouched documents of each language, chosen by digest."""
    picked: set[str] = set()
    for lang, count in counts.items():
        able = [d for d in docs if d.lang == lang and d.kind == "prose" and fit(d)]
        picked |= {d.page.id for d in sorted(able, key=lambda d: digest(purpose + d.page.id))[:count]}
    return picked


def hurt(docs: list[Doc]) -> list[Doc]:
    """The documents with mojibake and personal data put into some, and copies of others added."""

    def able(d: Doc) -> bool:
        return not d.file.startswith(("web/", "docs/cut")) and 800 < len(d.page.text) < 12_000

    def telling(d: Doc) -> bool:
        return able(d) and sum(c > "\x7f" for c in d.page.text) >= 20

    wrong = some(docs, MOJIBAKE, "mojibake", telling)
    docs = [_misread(d) if d.page.id in wrong else d for d in docs]
    private = some(docs, CONTACTS, "pii", able)
    docs = [_with_contact(d) if d.page.id in private else d for d in docs]
    web = some(
        docs, {"en": 5, "de": 2, "zh": 3}, "pii", lambda d: d.file.startswith("web/") and "</p>" in str(d.page.raw)
    )
    docs = [_with_contact(d) if d.page.id in web else d for d in docs]
    twice = some(docs, {"en": COPIES // 2, "zh": COPIES // 3, "fr": COPIES // 6}, "copy", able)
    files = {"en": "wiki-like/en.parquet", "zh": "wiki-like/zh.parquet", "fr": "docs/manuals.world.jsonl.zst"}
    copies = [replace(_again(d, "print"), file=files[d.lang]) for d in docs if d.page.id in twice]
    mirrors = some(docs, {"en": 6, "zh": 3}, "mirror", lambda d: d.file.startswith("web/"))
    return docs + copies + [_again(d, "session") for d in docs if d.page.id in mirrors]


def _again(d: Doc, why: str) -> Doc:
    return replace(d, page=replace(d.page, path=f"{d.page.path}?{why}=1"))


def _misread(d: Doc) -> Doc:
    bad, how, repairable = damage.mojibake(d.page.id, d.page.text, d.lang)
    page = replace(d.page, text=bad)
    return replace(d, page=page, kind="mojibake", detail=how, clean=d.page.text, repairable=repairable)


def _with_contact(d: Doc) -> Doc:
    sentence, found = damage.contact(d.page.id, d.lang)
    first, gap, rest = d.page.text.partition("\n\n")
    page = replace(d.page, text=f"{first}\n\n{sentence}{gap}{rest}")
    if d.page.raw is not None:
        page = replace(page, raw=d.page.raw.replace("</p>", f"</p><p>{html.escape(sentence)}</p>", 1))
    return replace(d, page=page, kind="pii", pii=found)
