"""The sample dump is what its truth and its README say: the files are read here by other means than the pipeline's."""

import gzip
import hashlib
import io
import ipaddress
import json
import re
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import ftfy
import pyarrow.parquet as pq
import pytest
import zstandard
from fastwarc.warc import ArchiveIterator, WarcRecordType

ROOT = Path(__file__).parents[1] / "sample_data"
DOCUMENTATION = [ipaddress.ip_network(n) for n in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")]
Found = dict[tuple[str, Any], bytes]


@pytest.fixture(scope="module")
def truth() -> list[dict[str, Any]]:
    with gzip.open(ROOT / "truth.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def found() -> Found:
    """(file, id) → bytes of each document; for bad records (file, position) → bytes."""
    everything: Found = {}
    for path in data_files():
        name = str(path.relative_to(ROOT))
        read = {".warc.gz": read_warc, ".parquet": read_parquet, ".txt": read_text}
        reader = next((r for suffix, r in read.items() if name.endswith(suffix)), read_jsonl)
        everything |= {(name, key): data for key, data in reader(path).items()}
    return everything


def data_files() -> list[Path]:
    return sorted(p for folder in ("web", "docs", "wiki-like", "books") for p in (ROOT / folder).iterdir())


def expanded(path: Path) -> bytes:
    """The file's bytes, as far as they can be had."""
    if path.suffix == ".zst":
        return zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read()
    return zlib.decompressobj(31).decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def read_jsonl(path: Path) -> dict[Any, bytes]:
    rows: dict[Any, bytes] = {}
    place = 0
    for line in expanded(path).split(b"\n"):
        try:
            record = json.loads(line)
            rows[record["id"]] = record["text"].encode()
        except (ValueError, KeyError, TypeError, AttributeError):
            rows[place] = line
        place += len(line) + 1
    return rows


def read_parquet(path: Path) -> dict[Any, bytes]:
    rows = pq.read_table(path).to_pylist()
    return {(k if r["text"] is None else r["id"]): (r["text"] or "").encode() for k, r in enumerate(rows)}


def read_text(path: Path) -> dict[Any, bytes]:
    data = path.read_bytes()
    try:
        data.decode()
    except UnicodeDecodeError:
        return {0: data}
    return {str(path.relative_to(ROOT)): data}


def read_warc(path: Path) -> dict[Any, bytes]:
    pages = {}
    for record in ArchiveIterator(
        io.BytesIO(path.read_bytes()), record_types=WarcRecordType.response, parse_http=False
    ):
        record.parse_http(auto_decode="all")
        if record.http_headers.status_code == 200 and "html" in record.http_headers["Content-Type"]:
            pages[record.headers["WARC-Target-URI"]] = record.reader.read()
    return pages


def test_every_truth_row_is_in_the_files_and_nothing_else_is(truth: list[dict[str, Any]], found: Found) -> None:
    documents = {(t["file"], t["id"]): t for t in truth if t["kind"] != "bad"}
    assert len(documents) == sum(t["kind"] != "bad" for t in truth), "two documents of one file with one id"
    for key, row in documents.items():
        assert hashlib.sha256(found[key]).hexdigest() == row["sha256"], key
        assert len(found[key]) == row["bytes"], key
    unknown = {key[0] for key in found if isinstance(key[1], str) and key not in documents}
    assert unknown <= {"web/crawl-1.warc.gz"}, "only the cut record may show its head"


def test_bad_records_are_where_the_truth_says(truth: list[dict[str, Any]], found: Found) -> None:
    bad = [t for t in truth if t["kind"] == "bad"]
    placed = [t for t in bad if t["position"] is not None]
    for row in placed:
        data = found[row["file"], row["position"]]
        assert hashlib.sha256(data).hexdigest() == row["sha256"], row
    nameless = {key for key in found if isinstance(key[1], int) and found[key]}
    assert nameless <= {(t["file"], t["position"]) for t in placed}
    assert 10 <= len(bad) < 0.005 * len(truth)
    reasons = {"invalid_utf8", "invalid_json", "missing_text", "text_not_string", "not_an_object", "truncated_stream"}
    assert {t["detail"] for t in bad} == reasons


def test_size_as_stored() -> None:
    stored = sum(path.stat().st_size for path in [*data_files(), ROOT / "truth.jsonl.gz"])
    assert 5_000_000 < stored < 10_000_000


def test_languages_and_scripts(truth: list[dict[str, Any]]) -> None:
    size: Counter[str] = Counter()
    scripts: Counter[str] = Counter()
    for t in truth:
        size[t.get("lang", "")] += t.get("text_bytes", 0)
        scripts[t.get("script", "")] += t.get("text_bytes", 0)
    assert [lang for lang, _ in size.most_common(2)] == ["en", "zh"]
    assert len([lang for lang in size if size[lang] > 100_000]) >= 8
    assert min(scripts["Hans"], scripts["Hant"]) > 1_000_000


def test_every_kind_and_format_is_there(truth: list[dict[str, Any]]) -> None:
    kinds = Counter(t["kind"] for t in truth)
    assert set(kinds) == {"prose", "near_duplicate", "exact_duplicate", "boilerplate", "pii", "mojibake", "bad"}
    assert min(kinds[kind] for kind in kinds if kind != "bad") >= 50
    suffixes = {"".join(path.suffixes[-2:]) for path in data_files()}
    assert {".jsonl.gz", ".jsonl.zst", ".warc.gz"} <= {s[s.rfind(".", 0, s.rfind(".")) :] for s in suffixes}
    assert {path.suffix for path in data_files()} == {".gz", ".zst", ".parquet", ".txt"}
    assert len({t["charset"] for t in truth if "charset" in t}) >= 10


def shingles(text: str) -> set[tuple[str, ...]]:
    """Five words in a row, a character for a word in scripts without spaces: the plain way."""
    words: list[str] = []
    for run in re.findall(r"\w+", text.lower()):
        words += re.findall(
            r"[\u0e00-\u0eff\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|[^\u3005-\u9fff]+", run
        )
    return {tuple(words[k : k + 5]) for k in range(max(1, len(words) - 4))}


def test_similarities_are_exact(truth: list[dict[str, Any]], found: Found) -> None:
    groups: dict[str, list[dict[str, Any]]] = {}
    for t in truth:
        if "group" in t and not t["file"].startswith("web/"):
            groups.setdefault(t["group"], []).append(t)
    checked = 0
    for name, members in groups.items():
        file, _, own = name.partition("#")
        if file.startswith("web/"):
            continue
        first = shingles(found[file, own].decode())
        for t in members:
            other = shingles(found[t["file"], t["id"]].decode())
            assert len(first & other) / len(first | other) == pytest.approx(t["jaccard"], abs=1e-6), t
            checked += t["id"] != own
    assert checked > 200


def test_duplicates_by_name(truth: list[dict[str, Any]]) -> None:
    leaders = {t["group"] for t in truth if "group" in t}
    assert leaders <= {f"{t['file']}#{t['id']}" for t in truth if t.get("jaccard") == 1.0}
    for t in truth:
        if t["kind"] == "exact_duplicate":
            assert t["jaccard"] == 1.0
        if t["kind"] in ("near_duplicate", "exact_duplicate"):
            assert t["group"] != f"{t['file']}#{t['id']}"
            assert t["jaccard"] > 0.5


def test_mojibake_is_repairable_where_the_truth_says(truth: list[dict[str, Any]], found: Found) -> None:
    rows = [t for t in truth if t["kind"] == "mojibake"]
    for t in rows:
        mended = ftfy.fix_encoding(found[t["file"], t["id"]].decode())
        assert (hashlib.sha256(mended.encode()).hexdigest() == t["clean_sha256"]) is t["repairable"], t["id"]
        assert t["sha256"] != t["clean_sha256"]
    verdicts = Counter(t["repairable"] for t in rows)
    assert min(verdicts[True], verdicts[False]) >= 5


def test_charsets_of_pages(truth: list[dict[str, Any]], found: Found) -> None:
    pages = [(found[t["file"], t["id"]], t["charset"]) for t in truth if "charset" in t]
    telling = [(data, charset) for data, charset in pages if not data.isascii()]
    assert len(telling) > 0.9 * len(pages) > 90
    for data, charset in telling:
        assert data.decode(charset)
        with pytest.raises(UnicodeDecodeError):
            data.decode("utf-8")


def test_personal_data_is_nobodys(truth: list[dict[str, Any]], found: Found) -> None:
    charsets = {(t["file"], t["id"]): t.get("charset", "utf-8") for t in truth}
    for key, data in found.items():
        text = data.decode(charsets.get(key, "utf-8"), errors="replace")
        for host in re.findall(r"[\w.+-]+@([A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,})", text):
            assert re.fullmatch(r"example\.(com|org|net)", host), (key, host)
        for value in re.findall(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])", text):
            assert nobodys(value), (key, value)
        for value in re.findall(r"(?<![\w.-])(?:\(\d{3}\) ?|\d{3}[.-])(\d{3}[.-]\d{4})(?![\w-])", text):
            assert re.fullmatch(r"555[.-]01\d\d", value), (key, value)


def nobodys(value: str) -> bool:
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        return True
    return any(address in net for net in DOCUMENTATION) or not address.is_global or address.is_multicast


def test_inserted_personal_data_is_there(truth: list[dict[str, Any]], found: Found) -> None:
    rows = [t for t in truth if t["kind"] == "pii"]
    for t in rows:
        text = found[t["file"], t["id"]].decode(t.get("charset", "utf-8"))
        plain = text.replace("&lt;", "<").replace("&gt;", ">")
        assert t["pii"]
        for item in t["pii"]:
            assert item["value"] in plain or item["value"].encode("ascii", "xmlcharrefreplace").decode() in plain, item
    assert {i["kind"] for t in rows for i in t["pii"]} == {"name", "email", "phone", "ip4", "ip6", "card", "iban"}


def test_readme_names_every_file_and_licence(truth: list[dict[str, Any]]) -> None:
    readme = (ROOT / "README.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in readme.splitlines() if line.startswith("| ")]
    licences = {row[0]: row[2] for row in rows if len(row) == 4 and row[0] != "package"}
    packages: dict[str, set[str]] = {}
    for t in truth:
        packages.setdefault(t["file"], set()).add(t.get("package", ""))
    listed = {row[0]: row for row in rows if len(row) >= 5 or row[0].endswith((".txt", ".gz"))}
    for file, used in packages.items():
        assert listed[file][2].replace(",", "") == str((ROOT / file).stat().st_size), file
        assert used - {""} <= set(listed[file][4].split()), file
    free = ("GPL", "CC-BY-SA", "CC0", "MPL", "Apache", "public domain", "copyleft")
    assert {t["package"] for t in truth if "package" in t} == set(licences)
    assert all(any(word in licence for word in free) for licence in licences.values())
