"""WARC and HTTP as archives hold them: heads, bodies and types that are not as the standards want them."""

import gzip
import random
import zlib
from pathlib import Path
from typing import Any

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from stages.readers.media import media_type, sniffed
from stages.readers.records import Bad, Item, Passed, Record
from stages.readers.streams import Broken, Limits, Stream
from stages.readers.warc import read_warc

LIMITS = Limits(1000.0, 1 << 40)
PAGE = "<!doctype html><title>Mill</title><p>The miller's wheel turns: grünes Öl, 小麦.</p>".encode()
NUMBERS = random.Random(3)
LONG = b"<!doctype html>" + b" ".join(b"<p>%06x</p>" % NUMBERS.randrange(1 << 24) for _ in range(30000))


def raw_deflate(data: bytes) -> bytes:
    return zlib.compress(data)[2:-4]


CODINGS = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "GZIP": gzip.compress,
    "deflate": zlib.compress,
    "br": lambda data: brotli.compress(data, quality=5),
    "zstd": zstandard.compress,
}


def warc(block: bytes, *fields: bytes, kind: bytes = b"response", end: bytes = b"\r\n") -> bytes:
    head = [b"WARC/1.0", b"WARC-Type: " + kind, *fields, b"Content-Length: %d" % len(block)]
    return end.join([*head, b"", block, b"", b""])


def http(body: bytes, *fields: bytes, status: bytes = b"HTTP/1.1 200 OK", end: bytes = b"\r\n") -> bytes:
    return end.join([status, *fields, b"", body])


HTTP = b"Content-Type: application/http; msgtype=response"
HTML = b"Content-Type: text/html"


def read(*records: bytes, limit: int = 1 << 20) -> list[Item]:
    data = b"".join(records)
    return list(read_warc((data[k : k + 100] for k in range(0, len(data), 100)), limit))


def only(block: bytes, *fields: bytes) -> dict[str, Any]:
    (item,) = read(warc(block, *(fields or (HTTP,))))
    assert isinstance(item, Record), item
    return item.values


def chunks(data: bytes, *, size: int = 50, extension: bytes = b"", last: bytes = b"0\r\n\r\n") -> bytes:
    pieces = [data[k : k + size] for k in range(0, len(data), size)]
    return b"".join(b"%X%s\r\n%s\r\n" % (len(piece), extension, piece) for piece in pieces) + last


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r\r\n"])
@pytest.mark.parametrize("blank", [b"\n", b"\r\n", b"\r\r\n"])
@pytest.mark.parametrize("before", [b"", b"\r\n", b"\n\n"])
def test_heads_end_with_any_blank_line(end: bytes, blank: bytes, before: bytes) -> None:
    head = before + end.join([b"HTTP/1.1 200 OK", HTML + b"; charset=utf-8", b"X-Mill: yes", b""])
    assert only(head + blank + PAGE)["html"] == PAGE
    interim = end.join([b"HTTP/1.1 100 Continue", b"", b"HTTP/1.1 103 Early Hints", b"Link: </x>", b"", b""])
    assert only(before + interim + head + blank + PAGE)["html"] == PAGE


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_warc_heads_may_end_their_lines_with_lf(end: bytes) -> None:
    one = warc(http(PAGE, HTML), HTTP, b"WARC-Target-URI: http://x/1", end=end)
    two = warc(b"plain", b"Content-Type: text/plain", b"WARC-Target-URI: http://x/2", kind=b"conversion", end=end)
    items = read(one, two, one)
    assert [item.values["url"] for item in items if isinstance(item, Record)] == [
        "http://x/1",
        "http://x/2",
        "http://x/1",
    ]
    assert [item.position for item in items if isinstance(item, Record)] == [0, len(one), len(one) + len(two)]


def test_folded_and_doubled_fields_count() -> None:
    assert (
        only(http(PAGE, b"content-type:", b"  text/html;", b"\tcharset=utf-8"))["content_type"]
        == "text/html; charset=utf-8"
    )
    assert only(http(PAGE, HTML, HTML))["content_type"] == "text/html, text/html"


@pytest.mark.parametrize("block", [b"", b"<p>no head", b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n", b"\n\n"])
def test_what_is_no_answer_is_quarantined(block: bytes) -> None:
    (item,) = read(warc(block, HTTP))
    assert isinstance(item, Bad)
    assert item.reason == "bad_http"


@pytest.mark.parametrize("coding", [*CODINGS, "raw"])
def test_bodies_are_decoded_however_they_are_stored(coding: str) -> None:
    name = "deflate" if coding == "raw" else coding
    packed = raw_deflate(PAGE) if coding == "raw" else CODINGS[coding](PAGE)
    coded, chunked = b"Content-Encoding: " + name.encode(), b"Transfer-Encoding: chunked"
    assert only(http(packed, HTML, coded))["html"] == PAGE
    assert only(http(packed, HTML, coded, chunked))["html"] == PAGE
    assert only(http(chunks(packed), HTML, coded, chunked))["html"] == PAGE
    assert only(http(chunks(PAGE), HTML, coded, chunked))["html"] == PAGE
    assert only(http(PAGE, HTML, coded, chunked))["html"] == PAGE
    assert only(http(packed + b"\r\n", HTML, coded))["html"] == PAGE
    assert only(http(packed, HTML, b"Transfer-Encoding: %s, chunked" % name.encode()))["html"] == PAGE
    assert "truncated" not in only(http(packed, HTML, coded))


def test_codings_of_codings_and_members_after_members() -> None:
    twice = gzip.compress(brotli.compress(PAGE))
    assert only(http(twice, HTML, b"Content-Encoding: br, gzip"))["html"] == PAGE
    members = gzip.compress(PAGE[:20]) + gzip.compress(PAGE[20:]) + b"trailing bytes"
    assert only(http(members, HTML, b"Content-Encoding: gzip"))["html"] == PAGE
    assert only(http(PAGE, HTML, b"Content-Encoding: identity, none, utf-8"))["html"] == PAGE


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b"Warning: deprecated\n", "\ufeff小麦".encode("utf-16-le")])
@pytest.mark.parametrize("kind", [b"text/html", b"text/plain"])
@pytest.mark.parametrize("coding", [b"gzip", b"br", b"deflate", b"zstd", b"mystery"])
def test_text_that_is_decoded_already_stands(start: bytes, kind: bytes, coding: bytes) -> None:
    values = only(http(start + PAGE, b"Content-Type: " + kind, b"Content-Encoding: " + coding))
    body = values["html"] if kind == b"text/html" else values["text"]
    found = body if isinstance(body, bytes) else body.encode()
    assert found.endswith(b"</p>") or "小麦" in str(body)


@pytest.mark.parametrize(
    "options", [{"extension": b";a=b"}, {"extension": b' ; q="\\""'}, {"last": b"0"}, {"last": b"0\r\n"}]
)
def test_chunks_of_any_kind(options: dict[str, bytes]) -> None:
    for size in (1, 7, 1000):
        values = only(http(chunks(PAGE, size=size, **options), HTML, b"Transfer-Encoding: Chunked"))
        assert (values["html"], values.get("truncated")) == (PAGE, None)


@pytest.mark.parametrize("coding", [*CODINGS, "raw", "chunked", "none"])
def test_a_cut_body_is_kept_as_far_as_it_goes_and_marked(coding: str) -> None:
    fields = {"chunked": b"Transfer-Encoding: chunked", "raw": b"Content-Encoding: deflate"}
    field = fields.get(coding, b"Content-Encoding: " + coding.encode())
    if coding == "none":
        field, packed = b"Content-Length: %d" % len(LONG), LONG
    else:
        packed = {**CODINGS, "raw": raw_deflate, "chunked": chunks}[coding](LONG)
    values = only(http(packed[: len(packed) * 3 // 4], HTML, field))
    assert values["truncated"] == "body"
    assert LONG.startswith(values["html"])
    assert len(values["html"]) > len(LONG) // 5


def test_what_a_crawler_says_it_cut_is_marked_as_it_says() -> None:
    assert only(http(PAGE, HTML), HTTP, b"WARC-Truncated: length")["truncated"] == "length"


def test_binary_bodies_that_are_not_what_they_should_be_are_quarantined() -> None:
    for coding in (b"gzip", b"br", b"deflate", b"zstd", b"compress"):
        (item,) = read(warc(http(b"\x00\x01\x02\x1f" * 50, HTML, b"Content-Encoding: " + coding), HTTP))
        assert isinstance(item, Bad), coding
        assert (item.reason, coding.decode() in item.detail) == ("bad_http", True)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_bombs_stop_at_the_limit(coding: str) -> None:
    packed = CODINGS[coding](bytes(4 << 20))
    (item,) = read(warc(http(packed, HTML, b"Content-Encoding: " + coding.encode()), HTTP))
    assert isinstance(item, Bad)
    assert item.reason == "record_too_large"


TYPES = [
    ("text/html, text/html; charset=utf-8", ("text/html", "utf-8")),
    ("text/html; charset=gbk, text/html", ("text/html", "gbk")),
    ("text/html; charset=gbk, text/plain", ("text/plain", "")),
    ("image/png, */*", ("image/png", "")),
    ("text/html,charset=gbk", ("text/html", "gbk")),
    ("text/html charset=gbk", ("text/html", "gbk")),
    ('TEXT/HTML ; Charset = "GBK"; x=1', ("text/html", "gbk")),
    ("text/html; x=\"a,b;charset=koi8-r\"; charset='gbk'", ("text/html", "gbk")),
    ("text/html;charset=gbk;charset=big5", ("text/html", "gbk")),
    ("html", ("", "")),
    ("", ("", "")),
    ("unknown/unknown", ("", "")),
    ("*/*", ("", "")),
]


@pytest.mark.parametrize(("value", "expected"), TYPES)
def test_media_types(value: str, expected: tuple[str, str]) -> None:
    assert media_type(value) == expected


@given(st.text('texthml/,;=" \\charset*', max_size=40))
def test_no_content_type_breaks_the_parser(value: str) -> None:
    assert isinstance(media_type(value).essence, str)


STARTS = "!DOCTYPE HTML,HTML,HEAD,SCRIPT,IFRAME,H1,DIV,FONT,TABLE,A,STYLE,TITLE,B,BODY,BR,P".split(",")


@pytest.mark.parametrize("name", [*STARTS, *map(str.lower, STARTS)])
def test_pages_without_a_type_are_told_by_their_first_tag(name: str) -> None:
    for end in (">", " x>"):
        assert sniffed(f" \n\t<{name}{end}".encode()) == "text/html"
        assert sniffed(f"\ufeff<{name}{end}".encode()) == "text/html"
        assert sniffed(f"\ufeff<{name}{end}".encode("utf-16-be")) == "text/html"
    assert only(http(f"<{name}>".encode()))["html"] == f"<{name}>".encode()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"<!-- x -->", "text/html"),
        (b'<?xml version="1.0"?>', "text/html"),
        (b"<blink>", "text/plain"),
        (b"words of a text", "text/plain"),
        ("\ufeffwords".encode("utf-16-le"), "text/plain"),
        (b"%PDF-1.7", ""),
        (b"\x89PNG\r\n\x1a\n", ""),
        (b"GIF89a\x01\x00", ""),
        (b"", ""),
    ],
)
def test_what_has_no_type_is_told_by_its_bytes(data: bytes, kind: str) -> None:
    assert sniffed(data) == kind


def test_an_answer_is_one_whatever_the_record_says_of_it() -> None:
    for fields in ((b"Content-Type: Application/HTTP",), (b"X: y",), (b"Content-Type: text/html",)):
        values = only(http(PAGE, HTML), *fields)
        assert (values["html"], values["http_status"]) == (PAGE, 200)
    assert only(PAGE, HTML)["html"] == PAGE
    assert "http_status" not in only(PAGE, HTML)


def test_what_is_passed_over_is_counted_by_kind() -> None:
    records = [
        warc(http(PAGE, HTML, status=b"HTTP/1.1 404 Not Found"), HTTP),
        warc(http(PAGE, HTML, status=b"HTTP/1.1 100 Continue"), HTTP),
        warc(http(b"\x1f\x8b broken", b"Content-Type: image/png", b"Content-Encoding: gzip"), HTTP),
        warc(b"x", kind=b"metadata"),
    ]
    kinds = [item.kind for item in read(*records) if isinstance(item, Passed)]
    assert kinds == ["skipped_http_status", "skipped_http_status", "skipped_content", "skipped_records"]


def test_addresses_lose_their_brackets() -> None:
    for found in (b"<http://x.example/a?b=<c>>", b"http://x.example/a?b=<c>"):
        assert only(http(PAGE, HTML), HTTP, b"WARC-Target-URI: " + found)["url"] == "http://x.example/a?b=<c>"
    assert only(http(PAGE, HTML), HTTP)["url"] is None


@pytest.mark.parametrize(
    ("label", "body", "text"),
    [
        (b"utf-7", b"hi +2AA- there", "hi +2AA- there"),
        (b"unicode_escape", rb"C:\new\table \ud800", r"C:\new\table \ud800"),
        (b"punycode", b"Mll-kla", "Mll-kla"),
        (b"iso-8859-1", "„Mühle“".encode("cp1252"), "„Mühle“"),
        (b"ks_c_5601-1987", "똠방각하".encode("cp949"), "똠방각하"),
        (b"utf-16", "Mühle".encode("utf-16-le"), "Mühle"),
        (b"", "Mühle".encode("utf-16"), "Mühle"),
        (b"latin1", "\ufeffMühle".encode(), "Mühle"),
    ],
)
def test_plain_text_is_read_by_labels_of_the_web(label: bytes, body: bytes, text: str) -> None:
    found = only(http(body, b"Content-Type: text/plain; charset=" + label))["text"]
    assert (found if isinstance(found, str) else found.decode()) == text


def test_lone_surrogates_of_a_text_are_malformed_bytes() -> None:
    body = "a\ud800b".encode("utf-16-le", "surrogatepass")
    found = only(http(body, b"Content-Type: text/plain; charset=utf-16le"))["text"]
    assert found == body, "bytes that are no UTF-8 go to quarantine"


@given(st.binary(max_size=80), st.sampled_from([b"gzip", b"br", b"deflate", b"zstd", b"mystery"]))
def test_no_body_breaks_the_reader(body: bytes, coding: bytes) -> None:
    fields = (HTML, b"Content-Encoding: " + coding, b"Transfer-Encoding: chunked")
    assert len(read(warc(http(body, *fields), HTTP))) == 1


def dictionary() -> bytes:
    samples = [b"WARC/1.0 Content-Type: text/html <p>miller %d grain %d</p>" % (k, k * k) for k in range(2000)]
    return zstandard.train_dictionary(4096, samples).as_bytes()


def frames(known: bytes, data: list[bytes]) -> bytes:
    kind = zstandard.ZstdCompressionDict(known)
    return b"".join(zstandard.ZstdCompressor(dict_data=kind).compress(one) for one in data)


def skippable(data: bytes, magic: bytes = b"\x5d\x2a\x4d\x18") -> bytes:
    return magic + len(data).to_bytes(4, "little") + data


@pytest.mark.parametrize("made", ["trained", "compressed", "raw"])
def test_a_dictionary_at_the_start_is_used(made: str, tmp_path: Path) -> None:
    known = b"miller grain flour bread " * 40 if made == "raw" else dictionary()
    records = [warc(http(b"<p>miller %d grain</p>" % k, HTML), HTTP) for k in range(50)]
    stored = zstandard.compress(known) if made == "compressed" else known
    packed = skippable(stored) + frames(known, records[:25]) + skippable(b"index", b"\x50\x2a\x4d\x18")
    (tmp_path / "a.warc.zst").write_bytes(packed + frames(known, records[25:]))
    items = list(read_warc(Stream(str(tmp_path / "a.warc.zst"), LIMITS), 1 << 20))
    assert [item.values["html"] for item in items if isinstance(item, Record)] == [
        b"<p>miller %d grain</p>" % k for k in range(50)
    ]
    assert len(items) == 50


def test_a_missing_dictionary_is_named_and_a_cut_one_ends_the_stream(tmp_path: Path) -> None:
    known = dictionary()
    number = zstandard.ZstdCompressionDict(known).dict_id()
    whole = skippable(known) + frames(known, [b"words " * 50])
    for data, reason, detail in [
        (frames(known, [b"words " * 50]), "corrupt_stream", f"dictionary {number}"),
        (whole[:1000], "truncated_stream", "ends early"),
        (whole[:5], "truncated_stream", "ends early"),
        (skippable(b"")[:4] + b"\xff\xff\xff\xff" + known, "corrupt_stream", "the limit is"),
    ]:
        (tmp_path / "a.zst").write_bytes(data)
        with pytest.raises(Broken, match=detail) as caught:
            list(Stream(str(tmp_path / "a.zst"), LIMITS))
        assert caught.value.reason == reason
