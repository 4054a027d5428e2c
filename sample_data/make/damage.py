"""What a real dump suffers from: double encodings, personal data, bad records, boilerplate.

Takes clean texts, gives damaged ones, and says what was done to each. The one trade-off: the damage is made here, so
that its truth is known; the text it is done to is real.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import ftfy
import ftfy.bad_codecs
from sources import digest

WRONG_READINGS: dict[str, tuple[tuple[str, str], ...]] = {
    "en": (("utf-8", "sloppy-windows-1252"), ("utf-8", "latin-1")),
    "fr": (("utf-8", "sloppy-windows-1252"), ("utf-8", "latin-1"), ("utf-8", "macroman"), ("latin-1", "cp850")),
    "de": (("utf-8", "sloppy-windows-1252"), ("utf-8", "latin-1"), ("utf-8", "cp437"), ("latin-1", "macroman")),
    "es": (("utf-8", "sloppy-windows-1252"), ("utf-8", "latin-1")),
    "ru": (("utf-8", "sloppy-windows-1251"), ("utf-8", "latin-1"), ("koi8-r", "cp1251"), ("cp1251", "latin-1")),
    "zh": (("utf-8", "sloppy-windows-1252"), ("utf-8", "gb18030"), ("gb18030", "latin-1"), ("big5hkscs", "gb18030")),
    "ja": (("utf-8", "sloppy-windows-1252"), ("shift_jis_2004", "latin-1"), ("euc_jis_2004", "latin-1")),
}
"""By language: what the bytes were, and what somebody took them for."""


def misread(text: str, pair: tuple[str, str], rounds: int = 1) -> str:
    """The text written in one encoding and read in another, that many times over; what does not fit becomes U+FFFD
    or ?."""
    for _ in range(rounds):
        text = text.encode(pair[0], errors="replace").decode(pair[1], errors="replace")
    return text


def mojibake(doc_id: str, text: str, lang: str) -> tuple[str, str, bool]:
    """(damaged text, how, whether ftfy's `fix_encoding` restores it): the whole text, twice over, or its middle
    third."""
    pairs = WRONG_READINGS[lang]
    pair = pairs[digest(doc_id) % len(pairs)]
    style = digest(doc_id + "style") % 5
    how = f"{pair[0]} read as {pair[1]}"
    if style == 0 and pair[0] == "utf-8" and pair[1] in ("sloppy-windows-1252", "latin-1"):
        bad, how = misread(text, pair, rounds=2), f"{how}, twice"
    elif style == 1 and pair[0] == "utf-8":
        paragraphs = text.split("\n\n")
        third = len(paragraphs) // 3
        middle = misread("\n\n".join(paragraphs[third : len(paragraphs) - third]), pair)
        bad = "\n\n".join([*paragraphs[:third], middle, *paragraphs[len(paragraphs) - third :]])
        how = f"{how}, the middle"
    else:
        bad = misread(text, pair)
    return bad, how, ftfy.fix_encoding(bad) == text


CONTACTS: dict[str, str] = {
    "en": "For questions write to {name} <{email}>, call {phone}, or log in from {ip4} ({ip6}).",
    "zh": "如有疑问，请致信 {email}（{name}），或致电 {phone}；服务器地址为 {ip4} 和 {ip6}。",
    "de": "Bei Fragen: {name}, {email}, Telefon {phone}; Server {ip4}, Konto {iban}.",
    "fr": "Pour toute question : {name}, {email}, téléphone {phone} ; compte {iban}, serveur {ip6}.",
    "es": "Para cualquier duda escriba a {name} <{email}> o llame al {phone}; servidor {ip4}.",
    "ru": "По всем вопросам: {name}, {email}, телефон {phone}; сервер {ip4}, карта {card}.",
    "ja": "お問い合わせは {name}（{email}、電話 {phone}）まで。サーバーは {ip4} です。",
}
NAMES = ("Jane Roe", "John Doe", "Max Mustermann", "Jean Dupont", "Juan Pérez", "Иван Иванов", "山田太郎", "张三")
CARDS = ("4111 1111 1111 1111", "5555 5555 5555 4444", "3782 822463 10005", "6011 1111 1111 1117")
IBANS = ("DE89 3704 0044 0532 0130 00", "GB82 WEST 1234 5698 7654 32", "FR14 2004 1010 0505 0001 3M02 606")


def contact(doc_id: str, lang: str) -> tuple[str, list[dict[str, str]]]:
    """A sentence of personal data that belongs to nobody, and what is in it (kind and value).

    Ranges kept for documentation: RFC 2606 hosts, RFC 5737 and 3849 addresses, 555-01xx numbers, test cards, sample
    IBANs.
    """
    n = digest(doc_id)
    net = ("192.0.2", "198.51.100", "203.0.113")[n % 3]
    values = {
        "name": NAMES[n % len(NAMES)],
        "email": f"user{n % 10_000:04}@example.{('com', 'org', 'net')[n // 7 % 3]}",
        "phone": f"{('212', '415', '202')[n // 11 % 3]}-555-01{n // 13 % 100:02}",
        "ip4": f"{net}.{n // 17 % 254 + 1}",
        "ip6": f"2001:db8::{n // 19 % 65_536:x}",
        "card": CARDS[n % len(CARDS)],
        "iban": IBANS[n % len(IBANS)],
    }
    sentence = CONTACTS[lang]
    return sentence.format(**values), [{"kind": k, "value": v} for k, v in values.items() if f"{{{k}}}" in sentence]


COOKIES = {
    "en": "We use cookies to improve your experience. By continuing to use this site you accept our use of cookies. "
    "Read our privacy policy and terms of use.\nAccept all\nReject all\nManage preferences",
    "de": "Wir verwenden Cookies, um Ihnen den besten Service zu bieten. Mit der Nutzung dieser Seite stimmen Sie zu.\n"
    "Alle akzeptieren\nNur notwendige\nEinstellungen\nDatenschutz\nImpressum",
    "fr": "Ce site utilise des cookies pour améliorer votre navigation. En poursuivant, vous acceptez leur usage.\n"
    "Tout accepter\nTout refuser\nParamétrer\nMentions légales",
    "zh": "本网站使用 Cookie 以改善您的浏览体验。继续使用本网站即表示您同意我们使用 Cookie。\n"
    "全部接受\n全部拒绝\n设置\n隐私政策",
    "ja": "当サイトでは、利便性の向上のためにクッキーを使用しています。\n"
    "すべて同意する\n拒否する\n設定\nプライバシーポリシー",
}
LOREM = (
    "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor incididunt ut labore et dolore "
    "magna aliqua. Ut enim ad minim veniam, quis nostrud exercitation ullamco laboris nisi ut aliquip ex ea commodo. "
    "Duis aute irure dolor in reprehenderit in voluptate velit esse cillum dolore eu fugiat nulla pariatur."
)
MENU = "Home\nAbout\nProducts\nDownload\nSupport\nContact\nLog in\nSign up\nSearch\nCart (0)\n© All rights reserved"
WORDS = "buy cheap best online free download price review discount sale shop store deal top new fast easy".split()
WORDS_ZH = "免费 下载 在线 优惠 最新 官网 手机 电脑 价格 推荐 排行 注册 登录 客服 热门 专区".split()


def boilerplate(number: int) -> tuple[str, str, str]:
    """(language, sort, text) of one of the pages that every crawl is full of."""
    make: tuple[Callable[[int], tuple[str, str, str]], ...] = (_cookies, _lorem, _menu, _keywords, _short)
    return make[number % len(make)](number // len(make))


def _cookies(k: int) -> tuple[str, str, str]:
    lang = sorted(COOKIES)[k % len(COOKIES)]
    return lang, "cookie_banner", f"{COOKIES[lang]}\n{k + 1}"


def _lorem(k: int) -> tuple[str, str, str]:
    return "la", "lorem_ipsum", "\n\n".join(f"Section {i + 1}.{k}\n{LOREM}" for i in range(k % 3 + 1))


def _menu(k: int) -> tuple[str, str, str]:
    return "en", "menu", "\n".join(MENU.split("\n")[: 4 + k % 8]) + f"\nPage {k + 1}"


def _keywords(k: int) -> tuple[str, str, str]:
    lang, words = ("zh", WORDS_ZH) if k % 3 == 2 else ("en", WORDS)
    picked = [words[digest(f"{k}/{i}") % len(words)] for i in range(60 + 20 * (k % 5))]
    return lang, "keywords", ", ".join(picked)


def _short(k: int) -> tuple[str, str, str]:
    texts = (
        "Page not found.",
        "You must be logged in.",
        "404",
        "Loading…",
        "页面不存在。",
        "No results.",
        "...",
        "Seite leer.",
    )
    return "zh" if "页" in texts[k % 8] else "en", "short", f"{texts[k % 8]} {k // 8 or ''}".strip()


def cut_gzip(data: bytes, share: float) -> tuple[bytes, bytes]:
    """(a compressed file that ends early, what can still be read of it)."""
    short = data[: int(len(data) * share)]
    return short, zlib.decompressobj(31).decompress(short)
