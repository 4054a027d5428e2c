"""Damage costs the record that it is in: the others come out, or their bytes are counted as lost."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.readers.delimited import read_delimited
from stages.readers.json_values import json_values
from stages.readers.records import Bad, Item, Record, lines
from stages.readers.rows import Fields
from stages.readers.text import read_json, read_json_values

WOUND = st.text(st.sampled_from('"\\{}[],: \n1a'), max_size=4).map(str.encode)
DOCS: list[dict[str, Any]] = [
    {"id": k, "text": f"words of {k}, and {{more}}", "meta": {"a": [k, {"b": "c"}]}, "tags": ["x", "y"]}
    for k in range(9)
]
PLACE = st.integers(0, 8)


def chunked(data: bytes, size: int) -> Iterator[bytes]:
    return (data[k : k + size] for k in range(0, len(data), size))


def ids(items: list[Item]) -> list[Any]:
    return [item.values.get("id") for item in items if isinstance(item, Record)]


def lost(items: list[Item]) -> int:
    return sum(item.lost for item in items if isinstance(item, Bad))


def wounded(record: bytes, place: int, gone: int, new: bytes) -> bytes:
    at = place % len(record)
    return record[:at] + new + record[at + gone :]


LAYOUTS = {
    "lines": ("", "\n", "\n", None),
    "array of lines": ("[\n", ",\n", "\n]\n", None),
    "array on one line": ("[", ", ", "]", None),
    "pretty array": ("[\n", ",\n", "\n]", 2),
    "pretty, one after another": ("", "\n", "\n", 1),
}


def laid_out(layout: str) -> tuple[bytes, list[bytes], bytes, bytes]:
    """What comes first, the records as they stand, what is between them, and what comes last."""
    begin, between, end, indent = LAYOUTS[layout]
    whole = [json.dumps(doc, indent=indent) for doc in DOCS]
    if indent == 2:
        whole = ["\n".join("  " + line for line in one.splitlines()) for one in whole]
    return begin.encode(), [one.encode() for one in whole], between.encode(), end.encode()


@pytest.mark.parametrize("layout", LAYOUTS)
@given(PLACE, st.integers(0, 500), st.integers(0, 9), WOUND, st.integers(1, 400))
def test_json_damage_costs_its_own_record(layout: str, k: int, place: int, gone: int, new: bytes, size: int) -> None:
    begin, whole, between, end = laid_out(layout)
    whole[k] = wounded(whole[k], place, gone, new)
    data = begin + between.join(whole) + end
    items = list(read_json_values(chunked(data, size), Fields()))
    others = [doc["id"] for doc in DOCS if doc["id"] != k]
    missing = set(others) - set(ids(items))
    assert not missing or lost(items) > 0
    if layout in ("lines", "array of lines"):
        assert not missing
    assert [i.position for i in items] == sorted({i.position for i in items})


@given(PLACE, st.integers(0, 500), st.integers(0, 9), WOUND)
def test_lines_give_the_same_records_whatever_the_file_is_called(k: int, place: int, gone: int, new: bytes) -> None:
    _, whole, between, end = laid_out("lines")
    whole[k] = wounded(whole[k], place, gone, new.replace(b"\n", b""))
    data = between.join(whole) + end
    as_lines = list(read_json(chunked(data, 100), Fields(), 0, lines))
    as_values = list(read_json_values(chunked(data, 100), Fields()))
    assert set(ids(as_lines)) - {k} <= set(ids(as_values))
    assert len(as_lines) <= len(as_values)


@given(
    st.lists(st.sampled_from([b'{"a": ', b'"b', b'"', b"}", b"{", b"[", b"]", b",", b":", b"\n", b" ", b"1", b"\\"]))
)
def test_chunks_do_not_matter_and_no_byte_is_passed_over_unseen(parts: list[bytes]) -> None:
    data = b"".join(parts)
    one = list(json_values(iter([data] if data else []), 40))
    for size in (1, 2, 7):
        assert list(json_values(chunked(data, size), 40)) == one


def rows(data: bytes, size: int, *, quoted: bool = True, limit: int = 1 << 20) -> list[Item]:
    fields = Fields(id="id", max_bytes=limit)
    return list(read_delimited(chunked(data, size), fields, "," if quoted else "\t", lines, quoted=quoted))


@given(
    st.lists(st.booleans(), min_size=9, max_size=9),
    PLACE,
    st.integers(0, 30),
    st.integers(0, 4),
    st.text(st.sampled_from('",\n1a'), max_size=3).map(str.encode),
    st.integers(1, 99),
    st.sampled_from([40, 1 << 20]),
)
def test_csv_damage_costs_its_own_row(
    quoted: list[bool], k: int, place: int, gone: int, new: bytes, size: int, limit: int
) -> None:
    whole = [b'%d,"words of it"' % n if quoted[n] else b"%d,words" % n for n in range(9)]
    whole[k] = wounded(whole[k], place, gone, new)
    items = rows(b"id,text\n" + b"\n".join(whole) + b"\n", size, limit=limit)
    assert {str(n) for n in range(9)} - {str(k)} <= set(ids(items))
    assert [item.position for item in items] == sorted({item.position for item in items})


def test_a_quotation_mark_that_is_never_closed_costs_its_own_row() -> None:
    body = [b"%d,row" % n for n in range(3000)]
    body[1000] = b'1000,"row'
    items = rows(b"id,text\n" + b"\n".join(body), 1 << 16)
    assert ids(items) == [str(n) for n in range(3000) if n != 1000]
    assert [(i.reason, i.detail) for i in items if isinstance(i, Bad)] == [
        ("csv_error", "a quotation mark is never closed")
    ]
    small = rows(b"id,text\n" + b"\n".join(body), 1 << 16, limit=200)
    assert ids(small) == ids(items)
    assert [i.reason for i in small if isinstance(i, Bad)] == ["record_too_large"]


def test_a_row_that_took_in_others_gives_them_back() -> None:
    data = b'id,text\n1,a\n2,"b\n3,c\n4,"d"\n5,",e"\n6,"f\nstill f"\n7,g\n'
    items = rows(data, 5)
    assert ids(items) == ["1", "3", "4", "5", "6", "7"]
    assert [i.position for i in items if isinstance(i, Bad)] == [12]
    two = rows(b'id,text\n1,"a\n2,b\n3,",c"\n4,d\n', 5)
    assert ids(two) == ["2", "3", "4"]


def test_rows_of_many_lines_and_marks_that_are_text_stay_whole() -> None:
    data = b'\xef\xbb\xbfid,text\r\n1,"a ""b""\r\n\r\nc, d"\r\n2,an inch is 1"\r\n3,"x"\ry\r4,z\n'
    texts = [i.values["text"] for i in rows(data, 3) if isinstance(i, Record)]
    assert texts == ['a "b"\r\n\r\nc, d', 'an inch is 1"', "x", "z"]
    (bad,) = [i for i in rows(data, 3) if isinstance(i, Bad)]
    assert (bad.reason, bad.head) == ("csv_error", b"y\r")


def test_rows_that_nothing_tells_from_a_text_are_lost_bytes() -> None:
    line = b'x","z\n1,2\n'
    bad, last = rows(b"id,text\n" + line * 3000, 1 << 16)
    assert isinstance(bad, Bad)
    assert bad.lost == len(line) * 3000 - len(b"1,2\n")
    assert ids([last]) == ["1"]


def test_many_open_marks_take_linear_time() -> None:
    line = b'1,"2\n' + b"1,2\n" * 50
    items = rows(b"id,text\n" + line * 400, 1 << 16)
    assert len(ids(items)) == 400 * 50
    assert len(items) == 400 * 51


def test_tsv_has_no_quoting() -> None:
    data = b'id\ttext\n1\t"Yes," she said.\n2\t"open\n3\tthree\rfour\n4\tx\ty\n'
    items = rows(data, 7, quoted=False)
    assert [i.values["text"] for i in items if isinstance(i, Record)] == ['"Yes," she said.', '"open', "three\rfour"]
    assert [i.detail for i in items if isinstance(i, Bad)] == ["3 fields, the header has 2"]


@pytest.mark.parametrize(
    ("data", "kept", "reason", "whole"),
    [
        (b"id,t\xffl,text\n1,x,a\n2,y,b\n", ["1", "2"], "malformed_header", False),
        (b"id,t\xffxt\n1,a\n2,b\n", [], "malformed_header", True),
        (b'id,"text\n1,a\n2,b\n', [], "malformed_header", True),
        (b'"id"x,text\n1,a\n2,b\n', [], "malformed_header", True),
        (b"id,body\n1,a\n2,b\n", [], "missing_field", True),
        (b"id,text" + b" " * 200 + b"\n1,a\n2,b\n", [], "malformed_header", True),
    ],
)
def test_a_faulty_header_is_told_and_no_row_stands_in_for_it(
    data: bytes, kept: list[str], reason: str, whole: bool
) -> None:
    items = rows(data, 9, limit=100)
    assert ids(items) == kept
    assert [(i.position, i.reason) for i in items if isinstance(i, Bad)] == [(0, reason)]
    assert lost(items) == (len(data) if whole else 0)


def test_columns_of_one_name_are_numbered_and_two_texts_cost_the_file() -> None:
    def read(header: str) -> list[Record | Bad]:
        chunks = [f"{header}\n1,first,3\n".encode()]
        return list(read_delimited(chunks, Fields(), ",", lines, quoted=True))

    assert read("n,text,n") == [Record(9, {"n": "1", "text": "first", "n_1": "3"})]
    (bad,) = read("text,text,n")
    assert isinstance(bad, Bad)
    assert (bad.reason, bad.detail, bad.lost) == ("ambiguous_field", "2 columns 'text' in: text, text, n", 22)
