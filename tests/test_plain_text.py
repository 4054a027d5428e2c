"""Texts never become special tokens, whatever the model; all else is encoded as `tokenizers` encodes it."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from pipeline.rows import DOCUMENT
from stages.encoder import Encoder
from stages.pack import Pack
from tests.test_pack import packed, run, totals

SPECIAL = ("<pad>", "</s>", "<unk>", "[CLS]", "the")
LETTERS = "abcdefghijklmnopqrstuvwxyz<>/[]CLS|.▁"


def unigram() -> Tokenizer:
    """As T5's: special tokens are pieces like others."""
    pieces = [(token, 0.0) for token in SPECIAL]
    pieces += [(letter, -3.0 - k / 10) for k, letter in enumerate(LETTERS)] + [("▁t", -4.0), ("he", -4.0), ("ther", -5)]
    tokenizer = Tokenizer(models.Unigram(pieces, 2, False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def word_level() -> Tokenizer:
    """Whole words; what it does not know is the unknown token."""
    words = [*SPECIAL, "miller", "said", "s", "and", "pad"]
    tokenizer = Tokenizer(models.WordLevel({word: k for k, word in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def word_piece() -> Tokenizer:
    """Pieces of words between blanks, so that a special token can be one."""
    words = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS), "mill", "##er"]
    tokenizer = Tokenizer(models.WordPiece({word: k for k, word in enumerate(words)}, unk_token="<unk>"))  # noqa: S106 - no password
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def byte_level(whole_words: bool = False) -> Tokenizer:
    """A BPE in which merges make two of the special tokens, "the" being a part of "there"."""
    merges = [("t", "h"), ("th", "e"), ("r", "e"), ("the", "re"), ("<", "/"), ("</", "s"), ("</s", ">")]
    made = [left + right for left, right in merges]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*(one for one in SPECIAL if one not in made), *alphabet, *made]
    tokenizer = Tokenizer(models.BPE({token: k for k, token in enumerate(tokens)}, merges, ignore_merges=whole_words))
    split = pre_tokenizers.Split(Regex(r"\S+|\s+"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def sentence_piece() -> Tokenizer:
    """As Llama's: a BPE with tokens for bytes where a character is unknown; the letter q is a special token."""
    tokens = [*SPECIAL, "q", *(f"<0x{byte:02X}>" for byte in range(256)), *LETTERS.replace("q", ""), "th", "he"]
    merges = [("t", "h"), ("h", "e"), ("th", "e")]
    vocabulary = {token: k for k, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))  # noqa: S106 - no password
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.add_special_tokens(["q"])
    return tokenizer


MODELS: dict[str, Callable[[], Tokenizer]] = {
    "unigram": unigram, "word_level": word_level, "word_piece": word_piece, "byte_level": byte_level,
    "whole_words": lambda: byte_level(whole_words=True), "sentence_piece": sentence_piece,
}  # fmt: skip


@pytest.fixture(scope="module", params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of each kind of model, its special tokens marked, and two added tokens that are not special."""
    path = tmp_path_factory.mktemp(request.param)
    tokenizer = MODELS[request.param]()
    tokenizer.add_special_tokens([AddedToken(one, lstrip=one == "</s>", normalized=False) for one in SPECIAL])
    tokenizer.add_tokens([AddedToken("<think>", normalized=False), AddedToken("grain", single_word=True)])
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "pad_token": "<pad>"}))
    return path


def ids_of(encoder: Encoder, texts: list[str]) -> list[list[int]]:
    ids, offsets = encoder.encode(pa.array(texts, pa.large_string()))
    assert (ids.dtype, offsets.dtype) == (np.int32, np.int64)
    return [ids[a:b].tolist() for a, b in itertools.pairwise(offsets)]


def forbidden(encoder: Encoder) -> set[int]:
    """Ids of all special tokens but the unknown one, which stands for what is unknown too."""
    added = encoder.exact.get_added_tokens_decoder().items()
    return {number for number, token in added if token.special and token.content != "<unk>"}


PARTS = st.sampled_from(
    [*SPECIAL, " ", " ", "<", "the", "there", "grain", "<think>", "mill", "er", "q", "é", "磨", "a"]
)


@given(texts=st.lists(st.lists(PARTS, max_size=8).map("".join), max_size=4))
@settings(max_examples=60)
def test_no_special_token_comes_of_a_text(folder: Path, texts: list[str]) -> None:
    encoder = _loaded.setdefault(folder, Encoder(folder))
    found = ids_of(encoder, texts)
    assert not forbidden(encoder) & {number for row in found for number in row}
    plain = [encoder.exact.encode(text, add_special_tokens=False).ids for text in texts]
    for mine, theirs, text in zip(found, plain, texts, strict=True):
        if not forbidden(encoder) & set(theirs) and "<unk>" not in text:
            assert mine == theirs, "what is not special is as tokenizers has it"


_loaded: dict[Path, Encoder] = {}


def test_what_is_spelt_comes_back(folder: Path) -> None:
    encoder, text = Encoder(folder), "a </s> the<pad> [CLS]</s>"
    if encoder.exact.decoder is None:
        pytest.skip("this model does not give texts back at all")
    (found,) = ids_of(encoder, [text])
    assert encoder.exact.decode(found, skip_special_tokens=False).replace("▁", " ").strip() == text
    assert ids_of(encoder, [text, text]) == [found, found]


def test_added_tokens_that_are_not_special_stay_whole(folder: Path) -> None:
    encoder = Encoder(folder)
    think, grain = (encoder.exact.token_to_id(token) for token in ("<think>", "grain"))
    found = ids_of(encoder, ["a<think>a", "a grain", "a grains", "grain</s>"])
    assert [(row.count(think), row.count(grain)) for row in found] == [(1, 0), (0, 1), (0, 0), (0, 1)]
    assert encoder.fast is None, "gigatoken knows no whole words"
    assert "grain" in encoder.why


def test_roles_that_a_file_does_not_mark_are_special_all_the_same(tmp_path: Path) -> None:
    unigram().save(str(tmp_path / "tokenizer.json"))
    eos, cls = (unigram().token_to_id(token) for token in ("</s>", "[CLS]"))
    assert ids_of(Encoder(tmp_path), ["</s>"]) == [[unigram().token_to_id("▁"), eos]], "just a piece"
    assert eos not in ids_of(Encoder(tmp_path, frozenset({"</s>"})), ["</s>"])[0]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"cls_token": "[CLS]"}))
    assert cls not in ids_of(Encoder(tmp_path), ["[CLS]"])[0]


def test_pack_puts_special_tokens_where_they_belong_and_counts_what_is_unknown(folder: Path) -> None:
    texts = ["the miller </s> said <pad> and <unk> [CLS] 磨", "</s>", "grain"]
    rows = [{"id": f"d{k}", "text": text, "source": f"a:{k}", "lang": None} for k, text in enumerate(texts)]
    emits = run(Pack(sequence_length=128, validation=0), [pa.RecordBatch.from_pylist(rows, schema=DOCUMENT)], folder)
    encoder = Encoder(folder)
    eos, unknown = (encoder.exact.token_to_id(token) for token in ("</s>", "<unk>"))
    (row,) = packed(emits, held=False)
    ends = np.cumsum(row["seq_lengths"])
    documents = [row["input_ids"][end - size : end] for end, size in zip(ends, row["seq_lengths"], strict=True)]
    assert all((one[0], one[-1]) == (eos, eos) for one in documents)
    assert not forbidden(encoder) & {number for one in documents for number in one[1:-1]}
    assert totals(emits)["unknown_tokens"] == sum(one.count(unknown) for one in documents)


def test_a_special_token_that_ordinary_text_needs_is_refused(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.add_special_tokens(["a", "</s>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (problem,) = Pack(tokenizer=str(tmp_path), eos="</s>").check([])
    assert "'a' is the only token of ordinary text" in problem.message


def test_dropout_is_not_for_packing(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.model.dropout = 0.5
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert len({tuple(ids_of(Encoder(tmp_path), ["rere re<re"])[0]) for _ in range(20)}) == 1


def test_bytes_that_a_vocabulary_lacks_are_counted(tmp_path: Path) -> None:
    whole = json.loads(byte_level().to_str())
    del whole["model"]["vocab"]["q"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
    encoder = Encoder(tmp_path)
    encoder.encode(pa.array(["not counted: q", "quick quiz", "re"], pa.large_string()).slice(1))
    assert encoder.lost == 2


def test_a_text_that_cannot_be_encoded_is_quarantined_with_its_reason(tmp_path: Path) -> None:
    words: dict[str, int] = {"</s>": 0, "miller": 1}
    tokenizer = Tokenizer(models.WordLevel(words, "<none>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["</s>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    texts = ["miller miller", "stranger", "miller"]
    rows: list[dict[str, Any]] = [{"id": t, "text": t, "source": f"a:{k}", "lang": None} for k, t in enumerate(texts)]
    emits = run(Pack(sequence_length=8, validation=0), [pa.RecordBatch.from_pylist(rows, schema=DOCUMENT)], tmp_path)
    (bad,) = [row for e in emits if e.quarantine is not None for row in e.quarantine.to_pylist()]
    assert (bad["id"], bad["source"], bad["reason"]) == ("stranger", "a:1", "not_encodable")
    assert {name for row in packed(emits, held=False) for name in row["doc_ids"]} == {"miller miller", "miller"}
    assert totals(emits)["documents"] == 3
