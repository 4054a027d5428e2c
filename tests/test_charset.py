"""Charsets: every label of the WHATWG Encoding Standard, and what its encodings mean, byte by byte.

The digests are of the standard's own files, encodings.json and index-*.txt.
"""

import hashlib
import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.readers import charset
from stages.readers.page import decoded

LABELS = "c141078c009585393602eebf9945e9e107320d90d086919fe941842b59e00bc6"
"""Of "label=encoding" in lower case, sorted, one a line, without those of "replacement"."""

INDEXES = {
    "big5": "5913f139411a8904",
    "euc-kr": "71c2d7fd16556843",
    "shift_jis": "8bdf1922c862b7ae",
    "euc-jp": "558b4700e27303f6",
    "gb18030": "6f0387d61337cd66",
    "ibm866": "2e3f89d51df1d1b9",
    "iso-8859-2": "da4d3b2f8f06435d",
    "iso-8859-3": "c1d9ce25d3762a52",
    "iso-8859-4": "54140e6e75ba62ce",
    "iso-8859-5": "5372981566958051",
    "iso-8859-6": "2b716bc800e7bfe3",
    "iso-8859-7": "8d94b0308cf418c9",
    "iso-8859-8": "ade2c0790e86ddc8",
    "iso-8859-8-i": "ade2c0790e86ddc8",
    "iso-8859-10": "129e084c5bc4da60",
    "iso-8859-13": "20a9bcd406361c31",
    "iso-8859-14": "80050213abdb4257",
    "iso-8859-15": "b9a4a2394ee58552",
    "iso-8859-16": "c2bb18a77fe0cd90",
    "koi8-r": "25a9da95cf2db39e",
    "koi8-u": "79b0a6e96024f61a",
    "macintosh": "94dcdcc19412eb48",
    "windows-874": "4bb5efdc1a2832ec",
    "windows-1250": "52665a0c49e77322",
    "windows-1251": "153baf169d84e269",
    "windows-1252": "9ba654722668eee9",
    "windows-1253": "fa630499b7db169e",
    "windows-1254": "612d01246f4b5106",
    "windows-1255": "16925d6a9d5cff62",
    "windows-1256": "ae636a90722c9d75",
    "windows-1257": "abd51531663d43f8",
    "windows-1258": "ded84db6d51e3143",
    "x-mac-cyrillic": "ab39a8a69bbbd008",
}
"""Of the texts of all pairs but `LEFT_OUT` (or of the bytes from 0x80 on), U+FFFD where there is none."""

LEFT_OUT = (b"\xa2\x41", b"\xa2\x42", b"\x8f\xa2\xb7")
"""Two slashes of Big5 and a tilde of EUC-JP that Python has otherwise."""


def ranged(*bounds: int) -> list[int]:
    return [k for low, high in zip(bounds[::2], bounds[1::2], strict=True) for k in range(low, high + 1)]


def sequences(name: str) -> Iterator[bytes]:
    leads, trails = {
        "big5": (ranged(0x81, 0xFE), ranged(0x40, 0x7E, 0xA1, 0xFE)),
        "euc-kr": (ranged(0x81, 0xFE), ranged(0x41, 0xFE)),
        "shift_jis": (ranged(0x81, 0x9F, 0xE0, 0xFC), ranged(0x40, 0x7E, 0x80, 0xFC)),
        "euc-jp": (ranged(0xA1, 0xFE), ranged(0xA1, 0xFE)),
        "gb18030": (ranged(0x81, 0xFE), ranged(0x40, 0x7E, 0x80, 0xFE)),
    }.get(name, (ranged(0x80, 0xFF), []))
    pairs = [bytes(pair) for pair in itertools.product(leads, trails)] or [bytes([lead]) for lead in leads]
    more = [b"\x8f" + pair for pair in pairs] if name == "euc-jp" else []
    return (one for one in [*pairs, *more] if one not in LEFT_OUT)


def test_labels_are_those_of_the_standard() -> None:
    read = ("hz-gb-2312", "iso-2022-kr")
    lines = sorted(f"{label}={name}" for label, name in charset.LABELS.items() if name not in read)
    assert len(lines) == 222
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == LABELS
    assert charset.encoding(" KS_C_5601-1987\n") == "euc-kr"
    assert charset.encoding("Big5-HKSCS") == "big5"


@pytest.mark.parametrize("label", ["utf-7", "unicode_escape", "raw_unicode_escape", "punycode", "idna", "rot13", "hex"])
def test_names_that_only_python_knows_mean_nothing(label: str) -> None:
    assert charset.encoding(label) == ""


@pytest.mark.parametrize("name", INDEXES)
def test_encodings_are_those_of_the_standard(name: str) -> None:
    texts = [charset.decode(one, name) for one in sequences(name)]
    text = "".join("\ufffd" if "\ufffd" in text else text for text in texts)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == INDEXES[name]


@pytest.mark.parametrize("label", [*charset.LABELS, "no-such", "utf-7", ""])
def test_any_label_in_a_header_gives_text_without_surrogates(label: str) -> None:
    data = bytes(range(256)) + b"+2AA- \\ud800 \x1b$B\x21\x21\xff\x1b(I\x31\x1b(J~"
    html, name = decoded(data, f"text/html; charset={label}")
    assert html.encode()
    assert charset.encoding(label) in ("", name) or charset.encoding(name) == name


@given(st.binary(max_size=40), st.sampled_from(sorted(set(charset.LABELS.values()))))
def test_no_bytes_break_a_decoder(data: bytes, name: str) -> None:
    assert charset.decode(data, name).encode().decode() is not None


PAGES = [
    ("windows-949", "헬로 똠방각하 샾", "cp949"),
    ("korean", "펲", "cp949"),
    ("cn-big5", "佢哋嚟咗", "big5hkscs"),
    ("x-sjis", "①髙﨑", "cp932"),
    ("chinese", "㐂镕", "gb18030"),
    ("x-mac-ukrainian", "Привіт", "mac_cyrillic"),
    ("hz-gb-2312", "麦子", "hz"),
    ("csiso2022jp", "小麦", "iso2022_jp"),
]


@pytest.mark.parametrize(("label", "text", "codec"), PAGES)
def test_labels_count_in_headers_and_in_meta_tags(label: str, text: str, codec: str) -> None:
    body = f"<p>{text}</p>".encode(codec)
    assert text in decoded(body, f"text/html; charset={label}")[0]
    assert text in decoded(b'<meta charset="%s">' % label.encode() + body, "text/html")[0]


def test_japanese_of_nec_and_ibm_has_its_rows_in_every_encoding() -> None:
    shifted = bytes.fromhex("adb5 ade2 f9a1 fcfe".replace(" ", ""))
    assert charset.decode(shifted, "euc-jp").endswith(charset.decode(bytes.fromhex("eefc"), "shift_jis"))
    seven_bit = b"\x1b$B" + bytes(byte & 0x7F for byte in shifted) + b"\x1b(B."
    assert charset.decode(seven_bit, "iso-2022-jp") == charset.decode(shifted, "euc-jp") + "."
    assert charset.decode(b"\x1b(I\x36\x1b(J\x5c", "iso-2022-jp") == "ｶ¥"
