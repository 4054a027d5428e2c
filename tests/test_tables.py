"""Columns of any type, name and size become documents: faithful values, bounded batches, rows that add up."""

import base64
import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.rows import DOCUMENT
from pipeline.stage import Emit, Source
from stages.readers import tables
from stages.readers.layouts import sizes
from stages.readers.records import Record
from stages.readers.rows import Fields, Rows
from stages.readers.values import distinct, texts
from tests.test_ingest import ingest, read, reading, task

BYTES_LIMIT = 24 << 20
"""Of one batch: three times what is aimed at."""


def meta(folder: Path, column: pa.Array, **settings: Any) -> list[Any]:
    """The values of a Parquet column as `meta` has them; every row must be kept."""
    words = [f"row {k}" for k in range(len(column))]
    pq.write_table(pa.table({"text": words, "m": column}), folder / "a.parquet")
    rows, bad = read(ingest("a.parquet", **settings), folder)
    assert (len(rows), bad) == (len(column), [])
    return [json.loads(row["meta"])["m"] for row in rows]


def malformed() -> pa.Array:
    """Strings of which the first is not UTF-8."""
    return pa.StringArray.from_buffers(2, *pa.array([b"\xff", b"ok"]).buffers()[1:])


FAITHFUL = [
    (pa.array([1_700_000_000_123_456_789, 1, None], pa.timestamp("ns")),
     ["2023-11-14T22:13:20.123456789", "1970-01-01T00:00:00.000000001", None]),
    (pa.array([253_402_300_800, -62_198_755_200], pa.timestamp("s")),
     ["+10000-01-01T00:00:00", "-0001-01-01T00:00:00"]),
    (pa.array([-(2**63), 9 * 10**18], pa.timestamp("us")), ["-290308-12-21T19:59:05.224192", "+287168-08-24T16:00:00"]),
    (pa.array([0, 15_552_000], pa.timestamp("s", "Europe/Berlin")),
     ["1970-01-01T01:00:00+01:00", "1970-06-30T01:00:00+01:00"]),
    (pa.array([5], pa.timestamp("us", "Mars/Phobos")), ["1970-01-01T00:00:00.000005+00:00"]),
    (pa.array([5], pa.timestamp("ms", "-03:30")), ["1969-12-31T20:30:00.005-03:30"]),
    (pa.array([2**31 - 1, -1], pa.int32()).view(pa.date32()), ["+5881580-07-11", "1969-12-31"]),
    (pa.array([1, 10**18, -1], pa.duration("ns")), ["PT0.000000001S", "PT1000000000S", "PT-0.000000001S"]),
    (pa.array([1, 86_399_000_000_000], pa.time64("ns")), ["00:00:00.000000001", "23:59:59"]),
    (pa.array([86_399_999], pa.time32("ms")), ["23:59:59.999"]),
    (pa.array([2**64 - 1, None], pa.uint64()), [2**64 - 1, None]),
    (pa.array([Decimal("12345678901234567890.50")], pa.decimal128(30, 2)), ["12345678901234567890.50"]),
    (pa.array([float("nan"), float("inf"), -float("inf"), 1e300, None]), ["NaN", "Infinity", "-Infinity", 1e300, None]),
    (pa.array([b"\xff\x00", b"", None]), ["/wA=", "", None]),
    (pa.array([b"0123456789abcdef"], pa.uuid()), ["30313233-3435-3637-3839-616263646566"]),
    (pa.array(["a", None, 'q"\n', "a"]).dictionary_encode(), ["a", None, 'q"\n', "a"]),
    (pa.array([[("k", 1), ("k", None)], None, []], pa.map_(pa.string(), pa.int64())),
     [[["k", 1], ["k", None]], None, []]),
    (pa.array([[{"at": 1, "of": [0.5, float("nan")]}, None], None],
              pa.list_(pa.struct([("at", pa.timestamp("ns")), ("of", pa.list_(pa.float64()))]))),
     [[{"at": "1970-01-01T00:00:00.000000001", "of": [0.5, "NaN"]}, None], None]),
]  # fmt: skip


@pytest.mark.parametrize(("column", "expected"), FAITHFUL, ids=[str(column.type)[:40] for column, _ in FAITHFUL])
def test_a_value_goes_to_meta_with_all_its_digits(tmp_path: Path, column: pa.Array, expected: list[Any]) -> None:
    assert meta(tmp_path, column) == expected


IN_MEMORY = [
    pa.RunEndEncodedArray.from_arrays(pa.array([2, 5, 6], pa.int32()), pa.array(["x", None, "y"])),
    pa.UnionArray.from_sparse(pa.array([0, 1, 0], pa.int8()), [pa.array([1, 2, None]), pa.array(["x", "y", "z"])]),
    pa.UnionArray.from_dense(
        pa.array([5, 7, 5], pa.int8()), pa.array([0, 0, 1], pa.int32()), [pa.array([1, 2]), pa.array(["x"])],
        ["a", "b"], [5, 7],
    ),
    pa.ListViewArray.from_arrays(pa.array([1, 0, 0], pa.int32()), pa.array([2, 2, 0], pa.int32()), pa.array([1, 2, 3])),
    pa.array(["ab", None, "long enough for a buffer of its own"], pa.string_view()),
    pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int64(), 2)),
]  # fmt: skip


@pytest.mark.parametrize("array", IN_MEMORY, ids=[str(array.type)[:40] for array in IN_MEMORY])
def test_types_that_arrow_files_alone_have_are_read_whole_or_in_slices(array: pa.Array) -> None:
    for part in (array, array.slice(1), array.slice(1, 1)):
        assert [json.loads(text) for text in texts(part).to_pylist()] == part.to_pylist()
        assert len(sizes(part)) == len(part)


def test_intervals_and_numbered_names() -> None:
    assert texts(pa.array([(1, 2, 3), None], pa.month_day_nano_interval())).to_pylist() == [
        '"P1M2DT0.000000003S"',
        "null",
    ]
    assert distinct(["n", "n", "n_1", "m"]) == ["n", "n_2", "n_1", "m"]


def test_times_of_an_old_type_do_not_wrap_around(tmp_path: Path) -> None:
    times = pa.array([253_402_214_400_000_000, None, -62_135_596_800_000_000, 1], pa.timestamp("us"))
    columns = {"text": list("abcd"), "at": times, "day": times.slice(1, 2).take(pa.array([0, 0, 0, 0]))}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet", use_deprecated_int96_timestamps=True, row_group_size=3)
    rows, bad = read(ingest("a.parquet"), tmp_path)
    far = ["9999-12-31T00:00:00", None, "0001-01-01T00:00:00", "1970-01-01T00:00:00.000001000"]
    assert [json.loads(row["meta"]) for row in rows] == [{"at": value, "day": None} for value in far]
    assert bad == []


def test_strings_that_are_not_utf8_follow_the_setting_wherever_they_are(tmp_path: Path) -> None:
    inside = pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), malformed())
    for field in ("m", "url"):
        for column in (malformed(), inside) if field == "m" else (malformed(),):
            pq.write_table(pa.table({"text": ["a", "b"], field: column}), tmp_path / "a.parquet")
            rows, bad = read(ingest("a.parquet"), tmp_path)
            assert [row["text"] for row in rows] == ["b"]
            assert [(b["source"], b["reason"]) for b in bad] == [("a.parquet:0", "invalid_utf8")]
            assert bad[0]["detail"].startswith(f"{field}: ")
            rows, bad = read(ingest("a.parquet", invalid_utf8="replace"), tmp_path)
            assert ([row["text"] for row in rows], bad) == (["a", "b"], [])
            assert "\ufffd" in (rows[0]["meta"] or rows[0]["url"])


def test_columns_of_one_name_are_numbered_in_meta(tmp_path: Path) -> None:
    arrays = [pa.array(["t"]), pa.array([1]), pa.array([2]), pa.array(["u"]), pa.array(["v"])]
    pq.write_table(pa.Table.from_arrays(arrays, ["text", "n", "n", "url", "url"]), tmp_path / "a.parquet")
    rows, bad = read(ingest("a.parquet"), tmp_path)
    assert (rows[0]["text"], rows[0]["url"], bad) == ("t", None, [])
    assert json.loads(rows[0]["meta"]) == {"n": 1, "n_1": 2, "url": "u", "url_1": "v"}
    rows, _ = read(ingest("a.parquet", meta_fields=["n"]), tmp_path)
    assert json.loads(rows[0]["meta"]) == {"n": 1, "n_1": 2}


def test_two_columns_for_the_text_are_told_by_check_and_cost_the_file(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_arrays([pa.array(["a", "b"])] * 2, ["text", "text"]), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": ["fine"]}), tmp_path / "b.parquet")
    (problem,) = ingest("a.parquet").check([tmp_path])
    assert "2 columns 'text'" in problem.message
    rows, bad = read(ingest("*.parquet"), tmp_path)
    assert [row["text"] for row in rows] == ["fine"]
    assert [(b["reason"], b["source"]) for b in bad] == [("ambiguous_field", f"a.parquet:{k}") for k in range(2)]


def emits(folder: Path, *inputs: Any, **options: Any) -> Iterator[Emit]:
    stage = ingest(*inputs, **options)
    for source in stage.sources([folder]):
        yield from reading(stage).run(iter(()), task(folder, source))


def largest(found: Iterator[Emit]) -> tuple[int, int, int]:
    """Kept rows, bad rows and the bytes of the largest batch of some emits."""
    kept = bad = size = 0
    for emit in found:
        kept += len(emit.rows) if emit.rows is not None else 0
        bad += len(emit.quarantine) if emit.quarantine is not None else 0
        size = max(size, emit.rows.nbytes if emit.rows is not None else 0)
    return kept, bad, size


LONG = "a licence of forty thousand letters " * 1100


@pytest.mark.parametrize("where", ["flat", "list", "text", "late", "dictionary", "prefixes"])
def test_a_value_that_a_file_stores_once_is_read_in_bounded_batches(tmp_path: Path, where: str) -> None:
    rows, options = 3000, {}
    columns: dict[str, Any] = {"text": [f"row {k}" for k in range(rows)], "m": [LONG] * rows}
    if where == "list":
        columns["m"] = [[LONG, None]] * rows
    elif where == "text":
        columns["text"] = [LONG] * rows
        del columns["m"]
    elif where == "late":
        columns["m"] = ["short"] * (rows // 2) + [LONG] * (rows // 2)
    elif where == "dictionary":
        columns["m"] = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), [LONG])
    elif where == "prefixes":
        options = {"use_dictionary": False, "column_encoding": {"text": "PLAIN", "m": "DELTA_BYTE_ARRAY"}}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet", **options)
    before = pa.total_allocated_bytes()
    peak = 0
    kept = 0
    for emit in emits(tmp_path, "a.parquet"):
        kept += len(emit.rows) if emit.rows is not None else 0
        assert emit.rows is None or emit.rows.nbytes < BYTES_LIMIT
        peak = max(peak, pa.total_allocated_bytes() - before)
    assert kept == rows
    assert peak < 120 << 20, "the whole is 120 MB decoded"


def test_a_row_of_a_repeated_value_is_too_large_before_it_is_decoded(tmp_path: Path) -> None:
    columns = {"text": ["huge", "fine"], "m": [[LONG] * 5000, ["x"]]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    before = pa.default_memory_pool().max_memory()
    rows, bad = read(ingest("a.parquet"), tmp_path)
    assert [row["text"] for row in rows] == ["fine"]
    assert [(b["source"], b["reason"]) for b in bad] == [("a.parquet:0", "record_too_large")]
    assert pa.default_memory_pool().max_memory() - before < 100 << 20, "the row is 200 MB decoded"


def test_a_bomb_counts_in_decoded_bytes_and_costs_the_rows_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "DECODED_FROM", 20 << 20)
    pq.write_table(pa.table({"text": [LONG] * 3000}), tmp_path / "a.parquet", row_group_size=1000)
    rows, bad = read(ingest("a.parquet", max_ratio=2), tmp_path)
    assert 0 < len(rows) < 1000
    assert len(rows) + len(bad) == 3000
    assert {b["reason"] for b in bad} == {"decompression_bomb"}
    assert bad[0]["source"] == f"a.parquet:{len(rows)}"
    assert "to 2,999 are lost" in bad[0]["detail"]


def test_meta_counts_for_the_size_of_a_batch(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"short {k}", "raw": LONG}) for k in range(1000)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    kept, bad, size = largest(emits(tmp_path, "a.jsonl"))
    assert (kept, bad) == (1000, 0)
    assert size < BYTES_LIMIT


def test_integers_of_json_are_exact_and_other_numbers_as_near_as_a_float(tmp_path: Path) -> None:
    integers = [2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**40, 123456789012345678901234567890]
    lines = [f'{{"text": "t", "id": {n}, "n": {{"deep": [{n}, 1.5, 1e20]}}}}' for n in integers]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    rows, bad = read(ingest("a.jsonl", id_field="id"), tmp_path)
    assert bad == []
    assert [row["id"] for row in rows] == [str(n) for n in integers]
    assert [json.loads(row["meta"])["n"]["deep"] for row in rows] == [[n, 1.5, 1e20] for n in integers]


def test_numbers_that_cannot_be_held_cost_their_record(tmp_path: Path) -> None:
    long = "9" * 5000
    lines = [f'{{"text": "t", "n": {n}}}' for n in ("1e400", "-1e999", long)] + ['{"text": "fine"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    rows, bad = read(ingest("a.jsonl"), tmp_path)
    assert [row["text"] for row in rows] == ["fine"]
    assert [b["reason"] for b in bad] == ["number_too_large", "number_too_large", "invalid_json"]


@pytest.mark.parametrize("number", ["1", str(2**70)])
def test_json_nested_too_deep_for_meta_costs_its_record(tmp_path: Path, number: str) -> None:
    def deep(levels: int) -> str:
        return json.dumps({"text": "x"})[:-1] + ', "a": ' + "[" * levels + number + "]" * levels + "}"

    (tmp_path / "a.jsonl").write_text("\n".join(deep(n) for n in (10, 253, 254, 600, 900)))
    rows, bad = read(ingest("a.jsonl"), tmp_path)
    assert [json.loads(row["meta"])["a"] is not None for row in rows] == [True, True]
    assert [b["reason"] for b in bad] == ["nested_too_deep"] * 3
    assert all(b["head"] for b in bad)


def test_half_a_surrogate_pair_in_any_field_of_a_record_costs_that_record() -> None:
    good = {"text": "a", "id": "i", "url": "u", "m": "m"}
    items = [Record(0, good), *(Record(1, {**good, name: "\ud800"}) for name in good), Record(2, good)]
    for replace, kept in ((False, 2), (True, 6)):
        rows = Rows("n", Fields(id="id", url="url", replace=replace), task(Path(), Source("", "n")), DOCUMENT)
        (emit,) = rows.gather(items)
        assert emit.rows is not None
        assert len(emit.rows) == kept
        assert (len(emit.quarantine) if emit.quarantine else 0) == 6 - kept


def test_a_saved_dataset_of_odd_values_is_read_and_its_faults_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    columns = {
        "text": pa.array(["a", "b"]),
        "far": pa.array([2**31 - 1, None], pa.int32()).view(pa.date32()),
        "runs": pa.RunEndEncodedArray.from_arrays(pa.array([2], pa.int32()), pa.array(["x"])),
        "bad": malformed(),
    }
    batch = pa.RecordBatch.from_pydict(columns)
    with pa.ipc.new_stream(folder / "data.arrow", batch.schema) as writer:
        writer.write_batch(batch)
    entry = {"path": "saved", "format": "datasets"}
    rows, bad = read(ingest(entry), tmp_path)
    assert json.loads(rows[0]["meta"]) == {"far": None, "runs": "x", "bad": "ok"}
    assert [b["reason"] for b in bad] == ["invalid_utf8"]
    data = (folder / "data.arrow").read_bytes()
    (folder / "data.arrow").write_bytes(data[: len(data) // 2])
    rows, bad = read(ingest(entry), tmp_path)
    assert (rows, [b["reason"] for b in bad]) == ([], ["unreadable_dataset"])


LEAVES: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    (pa.uint64(), st.integers(0, 2**64 - 1)),
    (pa.bool_(), st.booleans()),
    (pa.string(), st.text(st.characters(codec="utf-8"), max_size=8)),
    (pa.float64(), st.floats()),
    (pa.float32(), st.floats(width=32)),
    (pa.binary(), st.binary(max_size=5)),
    (pa.binary(3), st.binary(min_size=3, max_size=3)),
    (pa.null(), st.none()),
    (pa.decimal128(20, 3), st.decimals(-(10**16), 10**16, places=3)),
    (pa.date32(), st.integers(-(2**31), 2**31 - 1)),
    (pa.time64("ns"), st.integers(0, 86_399_999_999_999)),
    (pa.duration("ns"), st.integers(-(2**63), 2**63 - 1)),
    *(
        (pa.timestamp(unit, zone), st.integers(-(2**63), 2**63 - 1))
        for unit in ("ms", "us", "ns")
        for zone in (None, "UTC", "Asia/Kathmandu", "+05:45", "Not/A zone")
    ),
]


@st.composite
def typed(draw: st.DrawFn, depth: int = 2) -> tuple[pa.DataType, st.SearchStrategy[Any]]:
    """A type, and values of it as integers, strings and containers of these."""
    shape = draw(st.sampled_from(["leaf", "leaf", "list", "struct", "map"])) if depth else "leaf"
    if shape == "leaf":
        kind, values = draw(st.sampled_from(LEAVES))
    elif shape == "list":
        inner, parts = draw(typed(depth - 1))
        kind, values = pa.list_(inner), st.lists(parts, max_size=3)
    elif shape == "struct":
        members = {name: draw(typed(depth - 1)) for name in draw(st.sampled_from(["a", "ab", 'a"']))}
        kind = pa.struct([(name, member[0]) for name, member in members.items()])
        values = st.fixed_dictionaries({name: member[1] for name, member in members.items()})
    else:
        inner, parts = draw(typed(depth - 1))
        kind = pa.map_(pa.string(), inner)
        values = st.lists(st.tuples(st.text("ab", max_size=2), parts), max_size=3)
    return kind, st.none() | values


def stored(values: list[Any], kind: pa.DataType) -> pa.Array:
    """An array of values, times given as the integers they are stored as."""
    if pa.types.is_temporal(kind) and not pa.types.is_nested(kind):
        return pa.array(values, pa.int32() if kind.bit_width == 32 else pa.int64()).view(kind)
    if pa.types.is_nested(kind):
        plain = pa.array(values, _integral(kind))
        return plain if plain.type == kind else plain.cast(kind)
    return pa.array(values, kind)


def _integral(kind: pa.DataType) -> pa.DataType:
    """A nested type with integers in place of times."""
    if pa.types.is_map(kind):
        return pa.map_(pa.string(), _integral(kind.item_type))
    if pa.types.is_list(kind):
        return pa.list_(_integral(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _integral(field.type)) for field in kind])
    if pa.types.is_temporal(kind):
        return pa.int32() if kind.bit_width == 32 else pa.int64()
    return kind


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_table_is_read_without_an_error_and_its_rows_add_up(tmp_path: Path, data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 12))
    columns: dict[str, pa.Array] = {"text": pa.array([f"row {k}" for k in range(rows)])}
    values: dict[str, list[Any]] = {}
    for name in "pqr"[: data.draw(st.integers(1, 3))]:
        kind, one = data.draw(typed())
        values[name] = data.draw(st.lists(one, min_size=rows, max_size=rows))
        columns[name] = stored(values[name], kind)
        if kind in (pa.int64(), pa.string(), pa.binary(), pa.float64()) and data.draw(st.booleans()):
            columns[name] = columns[name].dictionary_encode()
    pq.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=data.draw(st.integers(1, rows)))
    kept, bad = read(ingest("a.parquet", max_record_bytes=1 << 20), tmp_path)
    assert (len(kept), bad) == (rows, [])
    for k, row in enumerate(kept):
        found = json.loads(row["meta"])
        assert found.keys() == values.keys()
        for name, expected in values.items():
            kind = columns[name].type
            same(found[name], expected[k], kind.value_type if pa.types.is_dictionary(kind) else kind)


READ_BACK: list[tuple[Callable[[pa.DataType], bool], Callable[[Any], Any]]] = [
    (pa.types.is_floating, lambda found: repr(float(found))),
    (pa.types.is_binary, base64.b64decode),
    (pa.types.is_fixed_size_binary, base64.b64decode),
    (pa.types.is_decimal, Decimal),
    (pa.types.is_duration, lambda found: int(Decimal(found[2:-1]) * 10**9)),
    (pa.types.is_time, lambda found: nanoseconds(f"1970-01-01T{found}", "ns")),
]
"""How a value that JSON has no type for is read from its text."""


def nanoseconds(text: str, unit: str) -> int:
    """The integer that a time of years 0 to 9999 stands for."""
    return int(np.datetime64(text, unit).astype(np.int64))


def same(found: Any, value: Any, kind: pa.DataType) -> None:
    """Asserts that JSON's value is Arrow's."""
    if value is None:
        assert found is None
    elif pa.types.is_map(kind):
        for pair, (key, item) in zip(found, value, strict=True):
            assert pair[0] == key
            same(pair[1], item, kind.item_type)
    elif pa.types.is_list(kind):
        for part, item in zip(found, value, strict=True):
            same(part, item, kind.value_type)
    elif pa.types.is_struct(kind):
        for field in kind:
            same(found[field.name], value[field.name], field.type)
    elif pa.types.is_timestamp(kind) and found[0].isdigit() and kind.tz in (None, "UTC", "Not/A zone"):
        assert nanoseconds(found.removesuffix("+00:00"), kind.unit) == value
    elif not pa.types.is_date(kind) and not pa.types.is_timestamp(kind):
        back = next((back for of_kind, back in READ_BACK if of_kind(kind)), lambda plain: plain)
        assert back(found) == (repr(float(value)) if pa.types.is_floating(kind) else value)
