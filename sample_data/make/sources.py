"""Reads unpacked Debian packages, gives documents: pages, manuals, books and dictionaries as text, pages also as bytes.

The one trade-off: a page's text is found by the elements that hold it, package by package, and not by a general
extractor, so the sample does not change when an extractor does.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from lxml import etree, html  # type: ignore[import-untyped]

BLOCKS = set("p div h1 h2 h3 h4 h5 h6 pre table section title blockquote note screen code-block dl ul ol".split())
LINES = set("li dt dd tr item br figcaption caption desc".split())
SKIP = set("script style nav head form noscript svg info button input select iframe aside template".split())
FURNITURE = re.compile(
    r"\b(navheader|navfooter|docnav|toc|related|sphinxsidebar|headerlink|footer|searchmenu|menu|nosearch|icontable|"
    r"bug-reference|indexterm|wy-nav-side|fancy_toc|tagline|banner)\b"
)
BODIES = (
    "//*[@id='DisplayArea']",
    "//*[@itemprop='articleBody']",
    "//*[@role='main']",
    "//*[contains(@class,'body') and @role='main']",
    "//body",
)
EMAIL = re.compile(r"[\w.+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}")
SPELT_OUT = re.compile(r"\b[\w.+-]+ ?[<(\[]? ?(?:at|AT) ?[>)\]]? ?[\w-]+ ?[<(\[]? ?(?:dot|DOT) ?[>)\]]? ?\w{2,}")
ADDRESS = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])")
ADDRESS_6 = re.compile(r"(?<![\w:])2[0-9a-f]{3}:(?!0?db8)[0-9a-f]{1,4}(?=(?::[0-9a-f]{0,4}){2,6}(?![\w:]))")
PHONE = re.compile(r"(?<![\w.-])(?:\+?1[ .-])?(?:\(\d{3}\) ?|\d{3}[.-])\d{3}[.-]\d{4}(?![\w-])")
SCRIPTS = {"zh": r"\u4e00-\u9fff", "ja": r"\u3040-\u30ff\u4e00-\u9fff", "ko": r"\uac00-\ud7a3", "ru": r"\u0400-\u04ff"}
SCRIPTS |= {"uk": r"\u0400-\u04ff", "ar": r"\u0600-\u06ff", "hi": r"\u0900-\u097f", "th": r"\u0e00-\u0e7f"}


@dataclass(frozen=True, slots=True)
class Page:
    """A document of a package: `text` is what a reader reads; `raw` is the page in UTF-8, None where it is no page."""

    package: str
    path: str
    lang: str
    title: str
    text: str
    raw: str | None = None

    @property
    def id(self) -> str:
        """Package and path: stable as long as the package is."""
        return f"{self.package}/{self.path}"

    @property
    def url(self) -> str:
        """An address on a host that cannot exist (RFC 2606)."""
        return f"http://{re.sub('[^a-z0-9-]', '-', self.package)}.example/{self.path}"


def digest(value: str) -> int:
    """A number made of the text's own bytes: the only source of chance here."""
    return int.from_bytes(hashlib.sha256(value.encode()).digest()[:8], "big")


def nobody(text: str) -> str:
    """The text with every e-mail and IP address and US phone number replaced by one of the documentation ranges."""
    for pattern in (EMAIL, SPELT_OUT):
        text = pattern.sub(lambda m: f"reader{digest(m[0].lower()) % 1000:03}@example.org", text)
    text = ADDRESS.sub(lambda m: m[0] if _private(m[0]) else f"198.51.100.{digest(m[0]) % 254 + 1}", text)
    text = ADDRESS_6.sub("2001:db8", text)
    return PHONE.sub(lambda m: f"202-555-01{digest(m[0]) % 100:02}", text)


def _private(address: str) -> bool:
    """Addresses that are nobody's: private, loopback, multicast, the documentation ranges, and what is none at all."""
    a, b, c, d = map(int, address.split("."))
    documentation = (a, b, c) in {(192, 0, 2), (198, 51, 100), (203, 0, 113)}
    return (
        max(a, b, c, d) > 255
        or a in (0, 10, 127)
        or a >= 224
        or (a, b) in {(192, 168), (169, 254)}
        or ((a == 172 and 16 <= b < 32) or documentation)
    )


def tidy(text: str) -> str:
    """Spaces and blank lines as an editor would leave them: none at a line's end, no lone one at its beginning."""
    text = re.sub(r"[ \t\r\f\v\u00a0]+\n", "\n", text.replace("\u200b", "").replace("\u00b6\n", "\n"))
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"(?m)^ (?=\S)", "", text)).strip()


def blocks(node: etree._Element) -> str:
    """The text beneath an element: a blank line around paragraphs, a line per list item and row, `pre` as it is."""
    out: list[str] = []
    _walk(node, out, pre=False)
    return tidy("".join(out))


def _walk(node: etree._Element, out: list[str], pre: bool) -> None:
    name = etree.QName(node).localname if isinstance(node.tag, str) else ""
    if name and name not in SKIP and not FURNITURE.search(f"{node.get('class', '')} {node.get('id', '')}"):
        pre_here = pre or name in ("pre", "screen", "code-block")
        mark = "\n\n" if name in BLOCKS else "\n" if name in LINES else " " if name in ("td", "th") else ""
        out.append(mark)
        out.append(_words(node.text, pre_here))
        for child in node:
            _walk(child, out, pre_here)
        out.append(mark)
    out.append(_words(node.tail, pre))


def _words(text: str | None, pre: bool) -> str:
    return (text or "") if pre else re.sub(r"\s+", " ", text or "")


def native(text: str, lang: str) -> bool:
    """Whether the text is in the language it should be in: untranslated pages are many."""
    letters = re.sub(r"[\W\d_]+", "", text)
    if lang in SCRIPTS:
        need = 0.45 if lang in ("zh", "ja") else 0.6
        return len(re.findall(f"[{SCRIPTS[lang]}]", letters)) >= need * len(letters)
    words = re.findall(r"\w+", text.lower())
    english = sum(word in {"the", "of", "and", "to", "is"} for word in words) / max(1, len(words))
    return (english > 0.06) == (lang == "en")


def page(root: Path, package: str, file: Path, lang: str) -> Page | None:
    """An HTML or Mallard page of UTF-8; None where it has no text of its language."""
    raw = file.read_bytes().decode(errors="strict")
    mallard = file.suffix == ".page"
    tree = (
        etree.fromstring(raw.encode())
        if mallard
        else html.document_fromstring(raw.encode(), html.HTMLParser(encoding="utf-8"))
    )
    node = tree if mallard else next(found[0] for body in BODIES if (found := tree.xpath(body)))
    text = re.sub(r"(?m)^ +(?=\S)", "", blocks(node)) if mallard else blocks(node)
    title = tree.findtext("{*}title") if mallard else tree.findtext(".//title")
    path = file.relative_to(root / package / "usr/share")
    path = path.relative_to("doc") if path.parts[0] == "doc" else path
    if len(text) < (80 if lang in ("zh", "ja", "ko") else 200) or not native(text, lang):
        return None
    return Page(package, str(path), lang, tidy(title or ""), nobody(text), None if mallard else nobody(raw))


def pages(root: Path, package: str, pattern: str, lang: str) -> Iterator[Page]:
    """The pages of a package that a glob names, in an order that their names' digests make."""
    files = sorted((root / package / "usr/share").glob(pattern), key=lambda f: (digest(f"{f.parent.name}/{f.name}"), f))
    for file in files:
        if file.is_file() and not file.is_symlink() and 500 < file.stat().st_size < 400_000:
            found = page(root, package, file, lang)
            if found:
                yield found


def sword(root: Path, package: str) -> Iterator[Page]:
    """The books of a SWORD module: zlib blocks, one a book, OSIS markup taken off, a line a verse."""
    for index in sorted((root / package).glob("usr/share/sword/modules/*/*/*/*t.bzs"), reverse=True):
        data = index.with_suffix(".bzz").read_bytes()
        for start, size, _ in struct.iter_unpack("<III", index.read_bytes()):
            osis = zlib.decompress(data[start : start + size]).decode()
            name = re.search(r'osisID="([\w]+)"', osis)
            osis = re.sub(r"(?s)<note.*?</note>", "", osis)
            lined = re.sub(r"<div[^>]*eID[^>]*x-p[^>]*>|<title[^>]*>|</title>|<chapter [^>]*eID[^>]*>", "\n", osis)
            text = tidy(re.sub(r"(?m)^ +| +(?= )", "", re.sub(r"<[^>]+>", "", lined)))
            if name and len(text) > 1000:
                yield Page(package, f"{name[1]}.txt", "en", name[1], nobody(text))


def dictionary(root: Path, package: str, file: str, head: str, size: int) -> Iterator[Page]:
    """A dictionary's entries, each beginning with a line that `head` matches, gathered in their order to about
    `size`."""
    text = gzip.decompress((root / package / file).read_bytes()).decode(errors="replace")
    starts = [m.start() for m in re.finditer(head, text, re.MULTILINE)] + [len(text)]
    first = last = 0
    for k, end in enumerate(starts[1:], 1):
        last = k
        if end - starts[first] >= size or k == len(starts) - 1:
            body = tidy(text[starts[first] : end])
            yield Page(package, f"{Path(file).name}#{first}", "en", body.split("\n")[0][:60].strip(), nobody(body))
            first = last


def markdown(root: Path, package: str, pattern: str) -> Iterator[Page]:
    """Markdown files as they are, in the order in which `pages` gives those of the same names."""
    for file in sorted((root / package).glob(pattern), key=lambda f: digest(f"html/{f.name.split('.')[0]}.html")):
        data = file.read_bytes()
        text = tidy((gzip.decompress(data) if file.suffix == ".gz" else data).decode())
        if native(text, "en"):
            title = re.search(r"(?m)^#+ *(.+)$", text)
            yield Page(package, file.name, "en", title[1] if title else file.stem, nobody(text))


def poems(root: Path, name: str) -> list[str]:
    """The poems of a fortunes file, terminal colours taken off: title, author, lines."""
    text = (root / "fortunes-zh/usr/share/games/fortunes" / name).read_text()
    text = re.sub(r"\x1b\[\d*m", "", text)
    return [tidy(re.sub(r"\n\s*\n", "\n", poem)) for poem in re.split(r"(?m)^%$", text) if len(poem.strip()) > 20]


@lru_cache
def changelog(root: Path, package: str) -> str:
    """A package's changelog of Debian, or of upstream."""
    folder = root / package / "usr/share/doc" / package
    files = [f for f in (folder / "changelog.Debian.gz", folder / "changelog.gz") if f.is_file()]
    return nobody(tidy(gzip.decompress(files[0].read_bytes()).decode(errors="replace")))
