"""What goes where: the sources of the dump by name, and for each file of it how many bytes of text of which.

Changing a figure here and running the script again gives another sample; everything else follows.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sources import Page, dictionary, markdown, pages, sword

HANDBOOK = {"ar": "ar-MA", "de": "de-DE", "en": "en-US", "es": "es-ES", "fr": "fr-FR", "it": "it-IT", "ja": "ja-JP"}
HANDBOOK |= {"pt": "pt-BR", "ru": "ru-RU", "zh-tw": "zh-TW", "zh-cn": "zh-CN"}
BOOKS = "Gen Exod Ruth Job Prov Eccl Matt Mark Luke John Acts".split()
"""Books of the King James Bible, as its SWORD module names them."""

PLAN: dict[str, dict[str, int]] = {
    "web/crawl-0.warc.gz": {
        "sqlite": 450_000,
        "llvm-13": 110_000,
        "llvm-14": 110_000,
        "llvm-15": 110_000,
        "llvm-16": 110_000,
        "handbook/en": 200_000,
        "linux/en": 250_000,
        "anarchism/html": 250_000,
    },
    "web/crawl-1.warc.gz": {
        "linux/zh-cn": 250_000,
        "linux/zh-tw": 120_000,
        "help/zh-cn": 160_000,
        "help/zh-tw": 100_000,
        "handbook/zh-tw": 100_000,
        "handbook/zh-cn": 100_000,
        "help/ko": 60_000,
        **{f"handbook/{lang}": 60_000 for lang in ("ar", "de", "es", "fr", "it", "ja", "pt", "ru")},
    },
    "docs/manuals.en.jsonl.gz": {
        "handbook/en": 500_000,
        "anarchism/text": 1_500_000,
        "commentary": 700_000,
        "jargon-4.4.7": 700_000,
        "jargon-4.0.0": 400_000,
    },
    "docs/help.en.jsonl.zst": {"help/en-us": 400_000, "help/en-gb": 400_000},
    "docs/manuals.zh.jsonl.zst": {
        "linux/zh-cn": 1_100_000,
        "linux/zh-tw": 300_000,
        "reference/zh-cn": 300_000,
        "reference/zh-tw": 300_000,
        "guide/zh-cn": 100_000,
        "guide/zh-tw": 100_000,
        "faq/zh-cn": 150_000,
    },
    "docs/manuals.world.jsonl.zst": {
        f"handbook/{lang}": 130_000 for lang in ("de", "es", "fr", "it", "ja", "pt", "ru")
    },
    "docs/cut.jsonl.gz": {"gnome/de": 30_000},
    "wiki-like/en.parquet": {
        "gnome/en": 400_000,
        "llvm-13": 90_000,
        "llvm-14": 90_000,
        "llvm-15": 90_000,
        "llvm-16": 90_000,
    },
    "wiki-like/zh.parquet": {"help/zh-cn": 900_000, "help/zh-tw": 500_000},
    "wiki-like/world.parquet": {
        **{f"gnome/{lang}": 130_000 for lang in ("de", "es", "fr", "ja", "ko", "pt", "ru", "uk")},
        "handbook/ar": 130_000,
        "help/hi": 130_000,
    },
}
"""File → source → bytes of text at most."""

LARGEST = {"anarchism/text": 100_000, "commentary": 100_000, "reference/zh-cn": 120_000, "reference/zh-tw": 120_000}
"""Bytes of a document at most, where it is not `LARGEST_ELSEWHERE`."""
LARGEST_ELSEWHERE = 40_000

OLD_CHARSETS = {
    "handbook/ru": ("windows-1251", "koi8-r"),
    "handbook/de": ("iso-8859-1", "windows-1252"),
    "handbook/fr": ("iso-8859-15", "windows-1252"),
    "handbook/es": ("iso-8859-1",),
    "handbook/ja": ("shift_jis", "euc-jp"),
    "handbook/ar": ("windows-1256",),
    "help/ko": ("euc-kr",),
    "help/zh-cn": ("gb18030", "gbk"),
    "help/zh-tw": ("big5",),
}
"""Sources of `web/` whose pages are, two in five, in a charset of their time."""

CONTENTS = {
    "sqlite3-doc": ("doc/sqlite3/keyword_index.html", "doc/sqlite3/doclist.html", "doc/sqlite3/sitemap.html"),
    "llvm-16-doc": ("doc/llvm-16-doc/html/search.html", "doc/llvm-16-doc/html/index.html"),
    "linux-doc-6.1": ("doc/linux-doc-6.1/html/search.html", "doc/linux-doc-6.1/html/translations/zh_CN/index.html"),
    "debian-handbook": (
        "doc/debian-handbook/html/en-US/index.html",
        "doc/debian-handbook/html/de-DE/index.html",
        "doc/debian-handbook/html/zh-CN/index.html",
        "doc/debian-handbook/html/ja-JP/index.html",
    ),
    "anarchism": ("doc/anarchism/html/links.html",),
}
"""Pages that are contents, search forms and lists of links."""

CHANGELOGS = "anarchism apt debian-handbook debian-reference-zh-cn dict-devil fortunes-zh gnome-user-docs".split()
CHANGELOGS += (
    "jargon-text linux-doc-6.1 llvm-13-doc llvm-14-doc llvm-15-doc llvm-16-doc maint-guide-zh-cn sqlite3-doc".split()
)


def shelf(root: Path, name: str) -> Iterator[Page]:
    """The documents of one source of the plan, in a fixed order."""
    kind, _, tag = name.partition("/")
    lang = tag.split("-")[0]
    makers = {
        "sqlite": lambda: pages(root, "sqlite3-doc", "doc/sqlite3/*.html", "en"),
        "handbook": lambda: pages(root, "debian-handbook", f"doc/debian-handbook/html/{HANDBOOK[tag]}/*.html", lang),
        "anarchism": lambda: (
            markdown(root, "anarchism", "usr/share/doc/anarchism/markdown/*.md.gz")
            if tag == "text"
            else pages(root, "anarchism", "doc/anarchism/html/*.html", "en")
        ),
        "commentary": lambda: sword(root, "sword-comm-mhcc"),
        "bible": lambda: sword(root, "sword-text-kjv"),
        "jargon-4.4.7": lambda: dictionary(
            root, "jargon-text", "usr/share/doc/jargon-text/jargon.txt.gz", r"^   :[^:\n]+:", 3000
        ),
        "jargon-4.0.0": lambda: dictionary(root, "jargon", "usr/share/info/jargon.info.gz", r"^:[^:\n]+:", 3000),
        "help": lambda: pages(root, f"libreoffice-help-{tag}", "libreoffice/help/*/text/**/*.html", lang),
        "gnome": lambda: pages(root, "gnome-user-docs", f"help/{'C' if tag == 'en' else tag}/*/*.page", lang),
        "reference": lambda: pages(root, f"debian-reference-{tag}", "debian-reference/*.html", lang),
        "guide": lambda: pages(root, f"maint-guide-{tag}", f"doc/maint-guide-{tag}/html/*.html", lang),
        "faq": lambda: pages(root, f"debian-faq-{tag}", f"doc/debian/FAQ/{tag}/*.html", lang),
        "linux": lambda: pages(root, "linux-doc-6.1", f"doc/linux-doc-6.1/html/{LINUX[tag]}", lang),
    }
    if kind.startswith("llvm-"):
        return pages(root, f"{kind}-doc", f"doc/{kind}-doc/html/*.html", "en")
    return makers[kind]()


LINUX = {"en": "process/*.html", "zh-cn": "translations/zh_CN/**/*.html", "zh-tw": "translations/zh_TW/**/*.html"}


def devils_dictionary(root: Path) -> str:
    """The whole dictionary, which is one book."""
    head = r"^[A-Z][A-Z' -]+, (?:n|v|adj|p|x|pro|adv|int)"
    parts = dictionary(root, "dict-devil", "usr/share/dictd/devil.dict.dz", head, 4000)
    return "\n\n".join(part.text for part in parts) + "\n"
