"""The tokenizer: a repeatable sample, files that three libraries agree on, statistics that can be checked."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline import seeds
from pipeline.rows import DOCUMENT
from pipeline.stage import Each, Task
from stages.encoder import Encoder
from stages.tokenizer import Tokenizer
from stages.tokenizer_bpe import PATTERNS, train_bpe
from stages.tokenizer_files import load_tiktoken, save, try_files
from stages.tokenizer_sample import CLIP, budgets, choose, clipped, ranked
from tests.test_encoder import HOSTILE, SPECIALS, TEXTS

LANGS = ("en", "zh", "ru")


def corpus(count: int = 300) -> pa.RecordBatch:
    """Documents in three languages, English ten times as many as the others together."""
    rows = []
    for k in range(count):
        which = 0 if k % 11 else 1 + k % 2
        text = f"{k}: {TEXTS[which]} " * (1 + k % 3)
        rows.append({"id": f"d{k}", "text": text, "source": f"{which}.txt:{k}", "lang": LANGS[which]})
    return pa.RecordBatch.from_pylist(rows, schema=DOCUMENT)


def run(stage: Tokenizer, shards: Sequence[Sequence[pa.RecordBatch]], folder: Path, seed: int = 0) -> dict[str, int]:
    """All steps over the shards, each Fold into its folder; the counters of all."""
    artifacts: dict[str, Path] = {}
    counters: Counter[str] = Counter()
    outputs: dict[str, Sequence[Sequence[pa.RecordBatch]]] = {"documents": shards}
    for step in stage.steps():
        out, scratch = folder / step.name, folder / f"scratch-{step.name}"
        out.mkdir(parents=True)
        scratch.mkdir()
        task, read = Task("09-t", seed, 0, len(shards), out, scratch, artifacts=artifacts), outputs[step.reads]
        if isinstance(step, Each):
            outputs[step.name] = [[e.rows for e in step.run(iter(shard), task)] for shard in read]
            continue
        rows = [e.rows for shard in read for e in step.map(iter(shard), task)]
        counters.update(step.finish(iter(rows), task))
        artifacts[step.name] = out
    return dict(counters)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module", params=sorted(PATTERNS))
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    run(Tokenizer(vocab_size=400, pattern=request.param), [[corpus()]], path)
    return path / "tokenizer"


def test_shards_and_batches_change_nothing(tmp_path: Path) -> None:
    rows, stage = corpus(), Tokenizer(vocab_size=350, balance="lang", sample_bytes=20_000)
    run(stage, [[rows]], tmp_path / "a")
    run(stage, [[rows.slice(0, 40), rows.slice(40, 60)], [rows.slice(100, 0)], [rows.slice(100)]], tmp_path / "b")
    run(stage, [[rows]], tmp_path / "c", seed=1)
    assert files(tmp_path / "a/tokenizer") == files(tmp_path / "b/tokenizer")
    assert files(tmp_path / "a/tokenizer") != files(tmp_path / "c/tokenizer")


@pytest.mark.parametrize("balance", ["lang", "source"])
def test_a_balanced_sample_gives_each_group_its_share(tmp_path: Path, balance: str) -> None:
    stage = Tokenizer(balance=balance, sample_bytes=6_000, weights={"zh": 0.5, "1.txt": 0.5})
    sizes_step, step = stage.steps()[:2]
    task = Task("t", 0, 0, 1, tmp_path, tmp_path, artifacts={"sizes": tmp_path})
    sizes_step.finish((e.rows for e in sizes_step.map(iter([corpus()]), task)), task)
    (rows,) = [e.rows for e in step.run(iter([corpus()]), task)]
    choice = choose(pa.Table.from_batches([ranked(rows)]), stage.sample_bytes, stage.weights)
    sample = rows.filter(pa.array(choice.chosen(rows)))
    spent: Counter[str] = Counter()
    for row in sample.to_pylist():
        spent[row["lang"]] += len(row["text"].encode())
    given_bytes = {"en": 2400, "zh": 1200, "ru": 2400}
    longest = max(map(len, (t.encode() for t in corpus()["text"].to_pylist())))
    assert all(given_bytes[lang] <= spent[lang] < given_bytes[lang] + longest for lang in LANGS)


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 1000), max_size=6),
    st.integers(0, 3000),
    st.dictionaries(st.sampled_from("abc"), st.sampled_from([0.0, 0.5, 3.0])),
)
def test_budgets_spend_all_they_can(sizes: dict[str, int], total: int, weights: dict[str, float]) -> None:
    found = budgets(sizes, total, weights)
    wanted = {group for group in sizes if weights.get(group, 1.0)}
    assert all(0 <= found[group] <= size for group, size in sizes.items())
    assert all(found[group] == 0 for group in sizes.keys() - wanted)
    most = min(total, sum(sizes[group] for group in wanted))
    assert most - len(sizes) <= sum(found.values()) <= most
    short = {group: found[group] / weights.get(group, 1.0) for group in wanted if found[group] < sizes[group]}
    level = max(short.values(), default=0)
    assert all(level - value <= 4 for value in short.values()), "those that could give more give alike"
    assert all(found[g] / weights.get(g, 1.0) <= level + 4 for g in wanted - short.keys() if short)


def test_a_long_document_gives_its_beginning_only() -> None:
    texts = pa.array(["短", "書" * (CLIP + 5)], pa.large_string())
    assert clipped(texts).to_pylist() == ["短", "書" * CLIP]
    assert clipped(texts.slice(0, 1)).to_pylist() == ["短"]


def test_three_libraries_agree(trained: Path) -> None:
    from transformers import AutoTokenizer

    encoding, fast, encoder = load_tiktoken(trained), AutoTokenizer.from_pretrained(trained), Encoder(trained)
    assert (fast.bos_token, fast.eos_token, fast.pad_token) == SPECIALS
    assert len(fast) == encoding.n_vocab == 400
    for text in TEXTS:
        ids = encoder.encode(pa.array([text], pa.large_string()))[0].tolist()
        assert encoding.encode_ordinary(text) == ids
        assert fast(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] == ids
        assert fast.decode(ids) == encoding.decode(ids) == text
        begun = [encoding.encode_single_token("<|bos|>"), *encoding.encode(text, allowed_special="all")]
        assert begun == fast(text)["input_ids"], "specials that are meant, after the one that begins documents"


@given(text=HOSTILE)
@settings(deadline=None, max_examples=60)
def test_tiktoken_agrees_on_hostile_text(trained: Path, text: str) -> None:
    if trained not in _encodings:
        from tokenizers import Tokenizer as Loaded

        exact = Loaded.from_file(str(trained / "tokenizer.json"))
        exact.encode_special_tokens = True
        _encodings[trained] = (load_tiktoken(trained), exact)
    encoding, exact = _encodings[trained]
    ids = exact.encode(text, add_special_tokens=False).ids
    assert encoding.encode_ordinary(text) == ids
    assert exact.decode(ids, skip_special_tokens=False) == text


_encodings: dict[Path, tuple[object, object]] = {}


@pytest.mark.parametrize("trained", ["o200k"], indirect=True)
def test_ids_are_bytes_then_merges_then_specials(trained: Path) -> None:
    written = json.loads((trained / "tokenizer.json").read_text(encoding="utf-8"))
    assert [(t["content"], t["id"]) for t in written["added_tokens"]] == [
        (name, 397 + k) for k, name in enumerate(SPECIALS)
    ]
    vocabulary = written["model"]["vocab"]
    merged = [vocabulary["".join(pair)] for pair in written["model"]["merges"]]
    assert merged == list(range(256, 397))
    assert written["normalizer"] is None
    assert [*written["post_processor"]["special_tokens"]] == ["<|bos|>"]
    assert written["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] == PATTERNS["o200k"]
    assert len(written["pre_tokenizer"]["pretokenizers"]) == 2, "only training cuts long runs"


@pytest.mark.parametrize("threads", ["1", "3"])
@pytest.mark.parametrize("trained", ["o200k"], indirect=True)
def test_the_number_of_threads_changes_nothing(trained: Path, tmp_path: Path, threads: str) -> None:
    code = """if True:
        import sys
        from pathlib import Path
        from stages.tokenizer import Tokenizer
        from tests.test_tokenizer import corpus, run
        run(Tokenizer(vocab_size=400), [[corpus()]], Path(sys.argv[1]))
    """
    env = {**os.environ, "RAYON_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "true"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=env, check=True, cwd=Path(__file__).parents[1])
    assert files(tmp_path / "tokenizer") == files(trained)


def test_a_bound_on_words_is_off_and_when_it_bites_it_is_told(tmp_path: Path) -> None:
    rows = [{"id": f"d{k}", "text": "磨" * 1000, "source": f"a:{k}", "lang": "zh"} for k in range(4)]
    batch = pa.RecordBatch.from_pylist(rows, schema=DOCUMENT)
    for longest, letters, cut in ((None, 1000, 0), (64, 64, 3)):
        folder = tmp_path / str(longest)
        counters = run(Tokenizer(vocab_size=400, longest_word=longest), [[batch]], folder)
        tokenizer = Encoder(folder / "tokenizer").exact
        assert max(len(token) for token in tokenizer.get_vocab()) == 3 * letters
        assert tokenizer.pre_tokenizer.pre_tokenize_str("磨" * 1000)[0][1] == (0, 1000), "encoding cuts nothing"
        assert counters["words_cut"] == cut
        notes = json.loads((folder / "tokenizer/highlights.json").read_text(encoding="utf-8"))
        assert ("words cut" in notes) == (cut > 0)


def test_statistics_can_be_counted_again(tmp_path: Path) -> None:
    counters = run(Tokenizer(vocab_size=400), [[corpus()]], tmp_path)
    folder = tmp_path / "tokenizer"
    stats = json.loads((folder / "stats.json").read_text(encoding="utf-8"))
    encoding = load_tiktoken(folder)
    whole = stats["overall"]
    assert stats["held_out"] is True
    assert counters["sample_documents"] + whole["documents"] == 300
    assert counters["tiktoken_tried"] == counters["tried"] == whole["documents"]
    assert (counters["tiktoken_differs"], counters["vocabulary"]) == (0, 400)
    rank = seeds.number("tokenizer.sample", 0)
    rows = sorted(corpus().to_pylist(), key=lambda row: xxhash.xxh3_64_intdigest(row["id"].encode(), rank))
    texts = {lang: [row["text"] for row in rows if row["lang"] == lang][::16] for lang in LANGS}
    for lang, own in texts.items():
        row, joined = stats["by_language"][lang], "".join(own)
        tokens = sum(len(encoding.encode_ordinary(text)) for text in own)
        assert (row["documents"], row["bytes"], row["tokens"]) == (len(own), len(joined.encode()), tokens)
        assert row["bytes_per_token"] == round(len(joined.encode()) / tokens, 4)
        assert row["tokens_per_character"] == round(tokens / len(joined), 4)
        words = sum(len(text.split()) for text in own)
        assert row["tokens_per_word"] == (None if lang == "zh" else round(tokens / words, 4))
    ids = Counter(i for own in texts.values() for text in own for i in encoding.encode_ordinary(text))
    assert stats["never_met"] == sum(ids[i] == 0 for i in range(397))
    assert stats["met_under_10_times"] == sum(ids[i] < 10 for i in range(397))
    assert [row["times"] for row in stats["rarest"]] == sorted(ids.values())[:20]
    lengths = sorted((len(encoding.decode_single_token_bytes(i)) for i in range(397)), reverse=True)
    assert [row["bytes"] for row in stats["longest"]] == lengths[:20]
    assert stats["gpt2_pattern"]["vocabulary"] == 400
    assert stats["gpt2_pattern"]["bytes_per_token"] > 1
    note = json.loads((folder / "highlights.json").read_text(encoding="utf-8"))["bytes per token"]
    assert f"{whole['bytes_per_token']:.3f}" in note
    assert f"{stats['gpt2_pattern']['bytes_per_token']:.3f}" in note
    page = (folder / "stats.md").read_text(encoding="utf-8")
    assert all(f"| {lang} |" in page for lang in LANGS)
    assert all(char.isprintable() for line in page.splitlines() for char in line)


def test_a_sample_too_small_to_hold_any_out_says_so(tmp_path: Path) -> None:
    run(Tokenizer(vocab_size=300, compare_gpt2=False), [[corpus(1)]], tmp_path)
    stats = json.loads((tmp_path / "tokenizer/stats.json").read_text(encoding="utf-8"))
    assert stats["held_out"] is False
    assert "for want of others" in (tmp_path / "tokenizer/stats.md").read_text(encoding="utf-8")


def test_more_words_than_allowed_are_pruned_and_told(tmp_path: Path) -> None:
    """2,600 words, half of them met twice: only those stay, whatever the shards."""
    names = ["".join(chr(97 + k // 26**j % 26) for j in range(3)) for k in range(2600)]
    texts = [f"-{name}" * (1 + k % 2) for k, name in enumerate(names)]
    rows = [{"id": f"d{k}", "text": text, "source": f"a:{k}", "lang": None} for k, text in enumerate(texts)]
    batch = pa.RecordBatch.from_pylist(rows, schema=DOCUMENT)
    stage = Tokenizer(vocab_size=400, max_words=1500, compare_gpt2=False)
    counters = run(stage, [[batch]], tmp_path / "a")
    run(stage, [[batch.slice(1300)], [batch.slice(0, 700), batch.slice(700, 600)]], tmp_path / "b")
    stats = json.loads((tmp_path / "a/tokenizer/stats.json").read_text(encoding="utf-8"))
    assert stats["least_met"] == 2
    assert counters["words_pruned"] == counters["met_pruned"] == stats["words_pruned"]
    assert 1100 < counters["words_pruned"] <= 1300
    assert counters["words"] <= 1500
    page = (tmp_path / "a/tokenizer/stats.md").read_text(encoding="utf-8")
    assert f"{stats['words_pruned']:,} words met fewer than 2 times were pruned" in page
    merges = [json.loads((tmp_path / k / "tokenizer/tokenizer.json").read_text())["model"]["merges"] for k in "ab"]
    assert merges[0] == merges[1]


def test_a_corpus_without_documents_gives_the_bytes(tmp_path: Path) -> None:
    counters = run(Tokenizer(), [[corpus(0)], []], tmp_path)
    assert (counters["words"], counters["vocabulary"]) == (0, 259)


def test_files_that_do_not_give_a_text_back_are_refused(tmp_path: Path) -> None:
    from tokenizers.normalizers import Lowercase

    texts = pa.chunked_array([pa.array(TEXTS, pa.large_string())])
    tokenizer = train_bpe(texts, "cl100k", 300, SPECIALS)
    tokenizer.normalizer = Lowercase()
    save(tokenizer, tmp_path, "cl100k", SPECIALS)
    with pytest.raises(ValueError, match="does not give a text back"):
        try_files(tmp_path, texts)


@pytest.mark.parametrize("trained", ["o200k"], indirect=True)
def test_without_tiktoken_the_trial_says_so(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    texts = pa.chunked_array([pa.array(TEXTS, pa.large_string())])
    assert try_files(trained, texts) == {"tried": len(TEXTS), "tiktoken_tried": 0, "tiktoken_differs": 0}


@pytest.mark.parametrize(
    ("specials", "message"),
    [
        (("<|bos|>", "<|eos|>", ""), "is empty"),
        (("<|bos|>", "<|eos|>", "<|bos|>"), "comes twice"),
        (("<|bos|>", "<|eos|>", "a"), "ordinary character's own token"),
        (("<|bos|>", "<|eos|>", "Ġ"), "ordinary character's own token"),
        (("<|bos|>", "<|eos|>", "磨"), "ordinary character's own token"),
        (("<|bos|>", "<|eos|>", "the"), "is a word of the pattern"),
        (("<|bos|>", "<|eos|>", "Ġthe"), "is a word of the pattern"),
        (("<|bos|>", "<|eos|>", "磨坊"), "is a word of the pattern"),
        (("<|bos|>", "<|eos|>", "\n\n"), "is a word of the pattern"),
        (("<|bos|>", "<|eos|>", "###"), "is a word of the pattern"),
    ],
)
@pytest.mark.parametrize("pattern", sorted(PATTERNS))
def test_special_tokens_that_text_could_spell_are_refused(
    specials: tuple[str, ...], message: str, pattern: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        Tokenizer(pattern=pattern, special_tokens=specials)


@pytest.mark.parametrize("pattern", [*sorted(PATTERNS), r"\S+|\s+"])
def test_common_special_tokens_are_taken(pattern: str) -> None:
    for specials in (("<s>", "</s>", "<pad>", "<unk>"), ("[BOS]", "[EOS]", "[PAD]"), ("<｜b▁of▁s｜>", "<e:d>", "<p>")):
        assert Tokenizer(pattern=pattern, special_tokens=specials).special_tokens == specials


def test_a_vocabulary_without_room_for_its_special_tokens_is_refused() -> None:
    specials = tuple(f"<|{k}|>" for k in range(60))
    with pytest.raises(ValidationError, match="give 316 or more"):
        Tokenizer(vocab_size=300, special_tokens=specials)
    assert Tokenizer(vocab_size=316, special_tokens=specials).vocab_size == 316


def test_a_pattern_of_ones_own_never_merges_a_special_token(tmp_path: Path) -> None:
    texts = ["<|eos|>", "<|eos|>more", "more"] * 20
    rows = [{"id": f"d{k}", "text": text, "source": f"a:{k}", "lang": None} for k, text in enumerate(texts)]
    batch = pa.RecordBatch.from_pylist(rows, schema=DOCUMENT)
    run(Tokenizer(pattern=r"\S+|\s+", vocab_size=300, compare_gpt2=False), [[batch]], tmp_path)
    encoder = Encoder(tmp_path / "tokenizer")
    vocabulary = encoder.exact.get_vocab()
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert [vocabulary[token] for token in SPECIALS] == [len(vocabulary) - 3 + k for k in range(3)]
    ids, _ = encoder.encode(pa.array(["<|eos|>"], pa.large_string()))
    assert max(ids) < len(vocabulary) - 3
    assert encoder.exact.decode(ids.tolist()) == "<|eos|>"


def test_documents_whose_end_is_not_sampled_are_counted(tmp_path: Path) -> None:
    step = Tokenizer().steps()[0]
    texts = ["x" * (CLIP + 1), "x" * CLIP, "磨" * CLIP, "磨" * (CLIP + 1)]
    rows = [{"id": f"d{k}", "text": text, "source": f"a:{k}", "lang": None} for k, text in enumerate(texts)]
    emits = list(
        step.map(iter([pa.RecordBatch.from_pylist(rows, schema=DOCUMENT)]), Task("t", 0, 0, 1, tmp_path, tmp_path))
    )
    assert sum(emit.counters["clipped_documents"] for emit in emits) == 2
