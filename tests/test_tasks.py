"""Questions to a model: the likelihoods are those of one plain pass each, the scores those of lm-evaluation-harness."""

import json
import math
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from stages.inference.tasks import (
    Choices,
    Cloze,
    Likelihood,
    as_json,
    encode_pair,
    evaluate,
    likelihoods,
    read_questions,
    score,
)
from stages.train.attention import layout
from stages.train.export import export
from stages.train.model import Model, Shape
from tests.conftest import Cli
from tests.oracles_train import pack_meta, tiny_tokenizer

LONGEST = 24


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model that nobody trained."""
    folder = tmp_path_factory.mktemp("run")
    file = tiny_tokenizer(folder / "tokenizer")
    meta = pack_meta(file)
    shape = Shape(int(str(meta["vocab_size"])), depth=2, width=32, heads=4, kv_heads=2, ffn=64)
    made = Model(shape, seed=3)
    with torch.no_grad():
        for weight in made.parameters():
            weight.mul_(3)
    export(shape, made.state_dict(), folder / "model", file, meta)
    return folder / "model"


def test_likelihoods_are_those_of_a_plain_pass_each(model: Path) -> None:
    from stages.train.export import load_model

    net, _ = load_model(model)
    pairs = [([5, 9, 30, 31, 7], 2), ([5, 3], 1), ([9, 9, 9, 40, 41, 42, 43], 6)]
    found = likelihoods(net, pairs)
    for (ids, count), answer in zip(pairs, found, strict=True):
        where = layout([len(ids)], net.shape.heads, net.shape.kv_heads)
        with torch.no_grad():
            odds = net.logits(net(torch.tensor(ids), torch.arange(len(ids)), where)).log_softmax(-1)
        asked = range(len(ids) - count, len(ids))
        assert answer.logp == pytest.approx(sum(float(odds[k - 1, ids[k]]) for k in asked), abs=1e-5)
        assert answer.greedy == all(int(odds[k - 1].argmax()) == ids[k] for k in asked)


def test_a_pair_is_encoded_as_one_text_and_cut_on_the_left(model: Path) -> None:
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    bos = tokenizer.token_to_id("<|bos|>")

    def spelt(context: str, continuation: str, longest: int = LONGEST) -> tuple[str, str]:
        ids, count = encode_pair(tokenizer, context, continuation, bos, longest)
        inside = [one for one in ids if one != bos]
        return tokenizer.decode(inside[:-count]), tokenizer.decode(ids[-count:])

    assert spelt("the mill", " grinds") == ("the mill", " grinds")
    assert spelt("the mill  ", "grinds") == ("the mill", "  grinds")
    assert spelt("磨", "坊") == ("磨", "坊")
    assert spelt("", "the") == ("", "the")
    cut, answer = spelt("x" * 50, " grinds", 12)
    assert answer == " grinds"
    assert cut == "x" * (12 + 1 - (len(encode_pair(tokenizer, "", " grinds", bos, 99)[0]) - 1))
    assert spelt("a", "b" * 90)[1] == "b" * LONGEST


@pytest.mark.parametrize("context", ["", "  ", "the", "the mi", "the mill ", "磨", "x" * 40, "the mill grinds " * 5])
@pytest.mark.parametrize("continuation", ["x", "ll grinds", " grinds", "坊 the", "y" * LONGEST])
def test_a_pair_is_read_as_the_harness_reads_it(model: Path, context: str, continuation: str) -> None:
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    bos = tokenizer.token_to_id("<|bos|>")
    blanks = len(context) - len(context.rstrip())
    bare = context[: len(context) - blanks]
    before = [bos, *tokenizer.encode(bare).ids]
    after = [bos, *tokenizer.encode(context + continuation).ids][len(before) :]
    read = (before + after)[-(LONGEST + 1) :][:-1]
    ids, count = encode_pair(tokenizer, context, continuation, bos, LONGEST)
    assert (ids[:-1], ids[len(ids) - count :]) == (read, after[-LONGEST:])


def test_the_boundary_is_where_the_context_ends_alone_also_where_a_token_spans_it(model: Path) -> None:
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    ids, count = encode_pair(tokenizer, "the mi", "ll grinds", 0, LONGEST)
    own, whole = (tokenizer.encode(text).ids for text in ("the mi", "the mill grinds"))
    assert whole[: len(own)] != own
    assert ids == [0, *own, *whole[len(own) :]]
    assert count == len(whole) - len(own)


def test_scores_by_hand() -> None:
    choice = [Choices(query="q", choices=["a", "bbbb"], gold=gold) for gold in (0, 1, 1)]
    logps = [-1.0, -2.0, -1.0, -2.0, -3.0, -2.0]  # the first two: a is likelier, bbbb is by length
    found = score(choice, [Likelihood(logp, greedy=False) for logp in logps])
    assert found["acc"] == pytest.approx(2 / 3)
    assert found["acc_norm"] == pytest.approx(2 / 3)
    assert found["acc_stderr"] == pytest.approx(math.sqrt((2 / 9) * 3 / 2 / 3))
    cloze = [Cloze(text="t", target="x")] * 2
    found = score(cloze, [Likelihood(-1.0, greedy=True), Likelihood(-3.0, greedy=False)])
    assert found["exact"] == 0.5
    assert found["perplexity"] == pytest.approx(math.exp(2))
    assert as_json({"t": score(cloze[:1], [Likelihood(-1.0, greedy=True)])})["t"]["exact_stderr"] is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"query": "q", "choices": ["a", "b"], "gold": 2}', "gold 2 of 2 choices"),
        ('{"query": "q", "choices": ["a"], "gold": 0}', "neither"),
        ("no json", "neither"),
        ('{"query": "q", "choices": ["a", ""], "gold": 0, "delimiter": ""}', "empty answer"),
        ('{"text": "a", "target": "b"}', "in one file"),
    ],
)
def test_a_line_that_is_no_question_is_told_with_its_place(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text('{"query": "q", "choices": ["a", "b"], "gold": 0}\n\n' + line + "\n")
    with pytest.raises(ValueError, match=f"t.jsonl:3: .*{message}"):
        read_questions(file)


def test_a_file_is_scored_the_same_whatever_shares_its_batch(model: Path, tmp_path: Path) -> None:
    lines = [
        {"query": f"the mill {k}", "choices": ["grinds", "磨坊", "x" * k], "gold": k % 3, "extra": k} for k in range(9)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "磨", "target": "坊", "delimiter": ""}))
    found = evaluate(model, [tmp_path / "a.jsonl", tmp_path / "b.jsonl"])
    assert found["a.jsonl"]["items"] == 9
    assert found["b.jsonl"]["items"] == 1
    alone = []
    for k, line in enumerate(lines):
        (tmp_path / f"{k}.jsonl").write_text(json.dumps(line))
        alone.append(evaluate(model, [tmp_path / f"{k}.jsonl"])[f"{k}.jsonl"]["acc"])
    assert found["a.jsonl"]["acc"] == pytest.approx(sum(alone) / 9)


def test_from_the_command_line(model: Path, cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run/10-train"
    run.mkdir(parents=True)
    (run / "model").symlink_to(model)
    file = tmp_path / "t.jsonl"
    file.write_text('{"text": "the mill", "target": "grinds"}\n')
    wrong = cli("evaluate", "run", file)
    assert wrong.returncode == 2, "a folder without manifests is no run"
    told = cli("evaluate", model.parent, file, "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["t.jsonl"]["items"] == 1
    file.write_text("nonsense\n")
    assert "t.jsonl:1" in cli("evaluate", model.parent, file).stderr
