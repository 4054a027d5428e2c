"""The character encodings of the web: a label in, the encoding it means, and its bytes as text.

Labels are those of the WHATWG Encoding Standard, section 4.2, and no others: never any name that Python knows. Texts
come out as browsers show them, with two trade-offs: the encodings that browsers refuse ("replacement") are read where
Python can, and Big5's A241 and A242 are U+FF0F and U+FF3C.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from typing import Any

LABELS = {
    label: line.partition(": ")[0]
    for line in """\
utf-8: unicode-1-1-utf-8 unicode11utf8 unicode20utf8 utf-8 utf8 x-unicode20utf8
ibm866: 866 cp866 csibm866 ibm866
iso-8859-2: csisolatin2 iso-8859-2 iso-ir-101 iso8859-2 iso88592 iso_8859-2 iso_8859-2:1987 l2 latin2
iso-8859-3: csisolatin3 iso-8859-3 iso-ir-109 iso8859-3 iso88593 iso_8859-3 iso_8859-3:1988 l3 latin3
iso-8859-4: csisolatin4 iso-8859-4 iso-ir-110 iso8859-4 iso88594 iso_8859-4 iso_8859-4:1988 l4 latin4
iso-8859-5: csisolatincyrillic cyrillic iso-8859-5 iso-ir-144 iso8859-5 iso88595 iso_8859-5 iso_8859-5:1988
iso-8859-6: arabic asmo-708 csiso88596e csiso88596i csisolatinarabic ecma-114 iso-8859-6 iso-8859-6-e iso-8859-6-i \
iso-ir-127 iso8859-6 iso88596 iso_8859-6 iso_8859-6:1987
iso-8859-7: csisolatingreek ecma-118 elot_928 greek greek8 iso-8859-7 iso-ir-126 iso8859-7 iso88597 iso_8859-7 \
iso_8859-7:1987 sun_eu_greek
iso-8859-8: csiso88598e csisolatinhebrew hebrew iso-8859-8 iso-8859-8-e iso-ir-138 iso8859-8 iso88598 iso_8859-8 \
iso_8859-8:1988 visual
iso-8859-8-i: csiso88598i iso-8859-8-i logical
iso-8859-10: csisolatin6 iso-8859-10 iso-ir-157 iso8859-10 iso885910 l6 latin6
iso-8859-13: iso-8859-13 iso8859-13 iso885913
iso-8859-14: iso-8859-14 iso8859-14 iso885914
iso-8859-15: csisolatin9 iso-8859-15 iso8859-15 iso885915 iso_8859-15 l9
iso-8859-16: iso-8859-16
koi8-r: cskoi8r koi koi8 koi8-r koi8_r
koi8-u: koi8-ru koi8-u
macintosh: csmacintosh mac macintosh x-mac-roman
windows-874: dos-874 iso-8859-11 iso8859-11 iso885911 tis-620 windows-874
windows-1250: cp1250 windows-1250 x-cp1250
windows-1251: cp1251 windows-1251 x-cp1251
windows-1252: ansi_x3.4-1968 ascii cp1252 cp819 csisolatin1 ibm819 iso-8859-1 iso-ir-100 iso8859-1 iso88591 \
iso_8859-1 iso_8859-1:1987 l1 latin1 us-ascii windows-1252 x-cp1252
windows-1253: cp1253 windows-1253 x-cp1253
windows-1254: cp1254 csisolatin5 iso-8859-9 iso-ir-148 iso8859-9 iso88599 iso_8859-9 iso_8859-9:1989 l5 latin5 \
windows-1254 x-cp1254
windows-1255: cp1255 windows-1255 x-cp1255
windows-1256: cp1256 windows-1256 x-cp1256
windows-1257: cp1257 windows-1257 x-cp1257
windows-1258: cp1258 windows-1258 x-cp1258
x-mac-cyrillic: x-mac-cyrillic x-mac-ukrainian
gbk: chinese csgb2312 csiso58gb231280 gb2312 gb_2312 gb_2312-80 gbk iso-ir-58 x-gbk
gb18030: gb18030
big5: big5 big5-hkscs cn-big5 csbig5 x-x-big5
euc-jp: cseucpkdfmtjapanese euc-jp x-euc-jp
iso-2022-jp: csiso2022jp iso-2022-jp
shift_jis: csshiftjis ms932 ms_kanji shift-jis shift_jis sjis windows-31j x-sjis
euc-kr: cseuckr csksc56011987 euc-kr iso-ir-149 korean ks_c_5601-1987 ks_c_5601-1989 ksc5601 ksc_5601 windows-949
utf-16be: unicodefffe utf-16be
utf-16le: csunicode iso-10646-ucs-2 ucs-2 unicode unicodefeff utf-16 utf-16le
x-user-defined: x-user-defined
hz-gb-2312: hz-gb-2312
iso-2022-kr: csiso2022kr iso-2022-kr""".splitlines()
    for label in line.partition(": ")[2].split()
}
"""Label → encoding, of every label that Python can read."""

CODECS = {
    "ibm866": "cp866",
    "iso-8859-8-i": "iso8859-8",
    "macintosh": "mac-roman",
    "windows-874": "cp874",
    "x-mac-cyrillic": "mac-cyrillic",
    "gbk": "gb18030",
    "big5": "big5hkscs",
    "shift_jis": "cp932",
    "euc-kr": "cp949",
    "hz-gb-2312": "hz",
    "iso-2022-kr": "iso2022-kr",
}
"""Encoding → Python's codec, where it has another name or is the smaller set."""

BIG5 = {
    (int(first, 16) + k).to_bytes(2, "big"): character
    for first, characters in re.findall(
        r"([0-9a-f]{4})(\S+)",
        """
877a㡵𡵓𣚞𦀡㻬 87a1𥣞㫵竼龗𤅡𨤍𣇪𠪊𣉞䌊蒄龖鐯䤰蘓墖靊鈘秐稲晠権袝瑌篅枂稬剏遆㓦
87bf珄𥶹瓆鿇垳䤯呌䄱𣚎堘穲𧭥讏䚮𦺈䆁𥶙箮𢒼鿈𢓁𢓉𢓌鿉蔄𣖻䂴鿊䓡𪷿 87dd拁灮鿋 8e69箸 8e6f簆 8e7e糎 8eab緒 8eb4縝
8ecd者 8ed0耨 8f57菁 8f69蒨 8f6e萏 8fcb覦 8fcc覩 8ffe起 906d都 907a銹 90dc靜 90f1響 91bf鼖 9244蔃 92af兙
92b0兛兝兞 92c8鍮 92d1瑹 9447浧 94ca禛 95d9邗 9644靝 96ed瀞 96fc嬨 9b76爁 9b78矗 9b7b纇 9bc6駖 9bde釔 9bec惞
9bf6澶 9c42輶 9c53侻 9c62營 9c68鄄 9c6b鷰 9c77菏 9cbc尐秣 9cd0婧 9d57輋 9d5a筑 9dc4拐 9ea9恢 9eef痹 9efd汊
9f60鬮 9f66鼗 9fcb僭 9fd8弌 a063蠏 a077拎 a0d5瑨 a0df煢 a0e4牐 a3c0␀␁␂␃␄␅␆␇␈␉␊␋␌␍␎␏␐␑␒␓␔␕␖␗␘␙␚␛␜␝ a3de␞␟␡€
c6cf廴 c6d3无 c6d5癶 c6d7隶 c6de〃仝 fa5f倩 fa66偽 fabd包 fac5卄 fad5卿 fb48嘅 fbb8婷 fbf3幵 fbf9廐 fc4f彘
fc6c悤 fcb9撐 fce2晴 fcf1杞 fdb7沜渝 fdbb港 fdf1煮 fe52猪 fe6f瑜 feaa瓩 fedd砉
        """,
    )
    for k, character in enumerate(characters)
}
"""Pairs of the standard's Big5 that Python's big5hkscs does not know."""

OTHERS = {
    "koi8-u": ("╝╬", "ўЎ"),
    "big5": ("•､‾∼♁☉¥¢£", "‧﹑¯～⊕⊙￥￠￡"),
    "euc-jp": ("〜‖−¢£¬", "～∥－￠￡￢"),
    "shift_jis": ("\uf8f0\uf8f1\uf8f2\uf8f3", "\ufffd" * 4),
    "gbk": (
        "\ue5e5\ue78d\ue78e\ue78f\ue790\ue791\ue792\ue793\ue794\ue795\ue796\ue7c7"
        "\ue81e\ue826\ue82b\ue82c\ue832\ue843\ue854\ue864",
        "\u3000︐︒︑︓︔︕︖︗︘︙ḿ龴龵龶龷龸龹龺龻",
    ),
}
OTHERS["gb18030"] = OTHERS["gbk"]
"""Encoding → characters of Python's codec, and those of the standard in their places."""

OTHER = {name: (re.compile(f"[{pair[0]}]"), str.maketrans(*pair)) for name, pair in OTHERS.items()}
STATEFUL = ("hz-gb-2312", "iso-2022-kr")
ESCAPES = re.compile(rb"\x1b(\([BJI]|\$[@B])")
"""What switches the character set of ISO-2022-JP."""

HIGH = bytes(byte | 0x80 if byte > 0x20 else byte for byte in range(256))
KATAKANA = {byte: 0xFF61 - 0x21 + byte for byte in range(0x21, 0x60)}
ROMAN = {0x5C: "¥", 0x7E: "‾"}


def encoding(label: str) -> str:
    """The encoding that a label means, "" where it is no label of the standard or nothing can read it."""
    return LABELS.get(label.strip("\t\n\f\r ").lower(), "")


def decode(data: bytes, name: str) -> str:
    """Bytes as text, by the name of an encoding that `encoding` gives; malformed bytes become U+FFFD."""
    if name == "x-user-defined":
        return data.decode("latin-1").translate({byte: 0xF700 + byte for byte in range(0x80, 0x100)})
    if name == "iso-2022-jp":
        return _iso_2022_jp(data)
    text = data.decode(CODECS.get(name, name), _repair(name))
    if name in OTHER and OTHER[name][0].search(text):
        text = text.translate(OTHER[name][1])
    return text


def _repair(name: str) -> str:
    """The name of the error handler that reads what Python's codec does not know and the standard does."""
    if name.startswith("utf-") or name in STATEFUL:
        return "replace"
    try:
        codecs.lookup_error(f"whatwg.{name}")
    except LookupError:
        codecs.register_error(f"whatwg.{name}", _handler(name))
    return f"whatwg.{name}"


def _handler(name: str) -> Callable[[UnicodeError], tuple[str, int]]:
    two_bytes = name in ("gbk", "gb18030", "big5", "euc-jp", "shift_jis", "euc-kr")

    def repair(error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeDecodeError):
            raise error
        at, pair = error.start, error.object[error.start : error.start + 2]
        if not two_bytes:
            known = "\u05ba" if (name, pair[0]) == ("windows-1255", 0xCA) else "\ufffd"
            return (chr(pair[0]) if 0x80 <= pair[0] < 0xA0 else known), at + 1
        found = BIG5.get(pair, "") if name == "big5" else _jis(pair) if name == "euc-jp" else ""
        # A lead byte takes a wrong second byte with it, but no ASCII.
        size = 2 if len(pair) == 2 and 0x81 <= pair[0] <= 0xFE and pair[1] >= 0x80 else 1
        return (found, at + 2) if found else ("\ufffd", at + size)

    return repair


def _jis(pair: bytes) -> str:
    """The character of two bytes of EUC-JP, by the same place of Shift_JIS: there Python knows the rows of NEC and
    IBM; "" where there is none."""
    if len(pair) < 2 or min(pair) < 0xA1 or max(pair) > 0xFE:
        return ""
    row, cell = pair[0] - 0xA1, pair[1] - 0xA1
    trail = cell + 0x9F if row % 2 else cell + 0x40 + (cell >= 0x3F)
    try:
        return bytes([row // 2 + (0x81 if row < 62 else 0xC1), trail]).decode("cp932")
    except UnicodeDecodeError:
        return ""


def _iso_2022_jp(data: bytes) -> str:
    first, *rest = ESCAPES.split(data)
    pieces = [first.decode("ascii", "replace")]
    for mode, part in zip(rest[::2], rest[1::2], strict=True):
        if mode.startswith(b"$"):
            pieces.append(decode(part.translate(HIGH), "euc-jp"))
        else:
            tables: dict[bytes, Any] = {b"(I": KATAKANA, b"(J": ROMAN, b"(B": {}}
            pieces.append(part.decode("ascii", "replace").translate(tables[mode]))
    return "".join(pieces)
