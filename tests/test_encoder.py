"""The encoder: two libraries, the same ids; special tokens in a text are text."""

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages import encoder as encoder_module
from stages.encoder import Encoder, _open, digest, spelling, vocab_size
from stages.tokenizer_bpe import PATTERNS, train_bpe
from stages.tokenizer_files import save

SPECIALS = ("<|bos|>", "<|eos|>", "<|pad|>")
TEXTS = [
    "The mill grinds slowly, but it's exceedingly FINE: 12,345 grains don't lie.\n\n\tSee also <|eos|>.",
    "敏捷的棕色狐狸跳过了懒狗。繁體字也在這裡，１２３！",
    "Быстрая лиса — ёж; ñandú, Straße, भारत, العربية, ไทย 👩‍👩‍👧 \r\n  x = [1, 2]\u0301",
    "",
]
HOSTILE = st.text(
    st.sampled_from("a'SsLl 12\n\r\t中文éЁ\u0301\u200d👩ไ<|eos>") | st.characters(codec="utf-8"), max_size=40
)


@pytest.fixture(scope="module", params=sorted(PATTERNS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small tokenizer of each pattern."""
    path = tmp_path_factory.mktemp(request.param)
    texts = pa.chunked_array([pa.array(TEXTS * 4, pa.large_string())])
    save(train_bpe(texts, request.param, 400, SPECIALS), path, request.param, SPECIALS)
    return path


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine without gigatoken."""
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    _open.cache_clear()
    yield
    _open.cache_clear()


def plain(folder: Path, texts: list[str]) -> list[list[int]]:
    """Ids by `tokenizers` from the file as written, special tokens taken for text."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]


def rows(ids: np.ndarray, offsets: np.ndarray) -> list[list[int]]:
    assert (ids.dtype, offsets.dtype) == (np.int32, np.int64)
    return [ids[a:b].tolist() for a, b in itertools.pairwise(offsets)]


def test_the_fast_encoder_gives_the_ids_of_tokenizers(folder: Path) -> None:
    encoder = Encoder(folder)
    texts = pa.array(["before", *TEXTS, "after"], pa.large_string()).slice(1, len(TEXTS))
    assert rows(*encoder.encode(texts, np.arange(len(TEXTS), dtype=np.uint64))) == plain(folder, TEXTS)
    assert (encoder.why, encoder.fallbacks) == ("", 0)


@given(texts=st.lists(HOSTILE, max_size=5), few=st.booleans())
@settings(deadline=None, max_examples=60)
def test_hostile_texts_come_back_from_their_ids(folder: Path, texts: list[str], few: bool) -> None:
    encoder = _loaded.setdefault(folder, Encoder(folder))
    if encoder.fast is not None:
        encoder.fast.left, encoder.fast.bytes = len(texts) if few else -1, 0
    found = rows(*encoder.encode(pa.array(texts, pa.large_string())))
    assert found == plain(folder, texts)
    assert [encoder.exact.decode(one, skip_special_tokens=False) for one in found] == texts
    spelt = spelling(encoder.exact)
    assert [b"".join(spelt[k] for k in one) for one in found] == [text.encode() for text in texts]
    assert all(max(one, default=0) < 397 for one in found), "no special token comes of a text"


_loaded: dict[Path, Encoder] = {}


@pytest.mark.parametrize("limit", ["FEW", "FEW_BYTES"])
def test_many_texts_are_encoded_as_batches_from_some_point_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    texts = pa.array(TEXTS, pa.string())
    monkeypatch.setattr(encoder_module, limit, {"FEW": len(texts), "FEW_BYTES": texts.nbytes}[limit])
    encoder = Encoder(folder)
    if encoder.fast is None:
        return  # this pattern is encoded by `tokenizers`
    encoder.fast.left, encoder.fast.bytes = encoder_module.FEW, 0
    found = [(rows(*encoder.encode(texts)), encoder.fast.left >= 0) for _ in range(3)]
    assert found == [(plain(folder, TEXTS), True), (plain(folder, TEXTS), False), (plain(folder, TEXTS), False)]


@pytest.mark.parametrize("folder", ["o200k"], indirect=True)
def test_few_texts_are_encoded_without_awkward(folder: Path) -> None:
    lines = ("import sys", "from pathlib import Path", "import pyarrow as pa", "from stages.encoder import Encoder")
    encodes = (f"encoder = Encoder(Path({str(folder)!r}))", "encoder.encode(pa.array(['the mill', '磨坊']))")
    told = "print(encoder.why == '', encoder.fast is not None, 'awkward' in sys.modules)"
    program = "\n".join((*lines, *encodes, told))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "False"]


def test_gigatoken_is_opened_anew_and_says_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, texts = Encoder(folder), pa.array(TEXTS, pa.large_string())
    if encoder.fast is None:
        return  # this pattern is encoded by `tokenizers`
    first, before = rows(*encoder.encode(texts)), encoder.fast.tokenizer
    monkeypatch.setattr(encoder_module, "REMEMBERED_BYTES", 0)
    assert rows(*encoder.encode(texts)) == first == plain(folder, TEXTS)
    assert encoder.fast.tokenizer is not before


@pytest.mark.usefixtures("slow")
def test_without_gigatoken_the_ids_are_the_same_and_it_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_module, "PIECE_BYTES", 50)
    encoder = Encoder(folder)
    texts = pa.array(TEXTS * 3, pa.string())
    assert rows(*encoder.encode(texts)) == plain(folder, TEXTS * 3)
    assert encoder.fallbacks == len(texts)
    assert "not installed" in encoder.why
    assert rows(*encoder.encode(texts.slice(0, 0))) == []


@pytest.mark.parametrize("folder", ["o200k"], indirect=True)
def test_a_fast_encoder_that_errs_is_found_out_and_left(folder: Path, tmp_path: Path) -> None:
    plain_json = json.loads((folder / "tokenizer.json").read_text())
    plain_json["model"]["merges"] = plain_json["model"]["merges"][:20]
    (tmp_path / "tokenizer.json").write_text(json.dumps(plain_json))
    encoder, other = Encoder(folder), Encoder(tmp_path)
    encoder.fast = other.fast
    texts = pa.array(["", *TEXTS[:1]], pa.large_string())
    assert rows(*encoder.encode(texts, np.array([9, 3], np.uint64))) == plain(folder, ["", *TEXTS[:1]])
    assert (encoder.fast, encoder.fallbacks) == (None, 2)
    assert "differ" in encoder.why


@pytest.mark.parametrize("folder", ["o200k"], indirect=True)
def test_a_split_pattern_that_gigatoken_does_not_know_is_encoded_all_the_same(folder: Path, tmp_path: Path) -> None:
    other = json.loads((folder / "tokenizer.json").read_text())
    other["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\p{N}{1,2}|\P{N}+"
    (tmp_path / "tokenizer.json").write_text(json.dumps(other))
    encoder = Encoder(tmp_path / "tokenizer.json")
    assert rows(*encoder.encode(pa.array(TEXTS, pa.large_string()))) == plain(tmp_path, TEXTS)
    assert (encoder.fast, encoder.fallbacks) == (None, len(TEXTS))
    assert "does not take" in encoder.why


def test_a_size_and_a_digest_are_those_of_the_file(folder: Path) -> None:
    assert vocab_size(folder) == 400
    assert digest(folder) == digest(folder / "tokenizer.json")
