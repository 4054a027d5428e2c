"""Generation: the cache gives what the whole gives, choices keep their bounds, no half characters, no stop strings."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from stages.encoder import spelling
from stages.inference.generate import generate, judged, speculate, until
from stages.inference.quantise import quantise
from stages.train.attention import layout
from stages.train.export import export, load_model
from stages.train.model import Model, Shape
from stages.train.sample import Cache, Choice, continue_all, prompt_ids, text_of
from tests.oracles_train import SHAPE, pack_meta, tiny_tokenizer

GREEDY = Choice(temperature=0)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are slower on several threads, the more so where a machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def loud(shape: Shape, seed: int = 2) -> Model:
    """A model of random weights, large enough that its choices differ."""
    model = Model(shape, seed)
    with torch.no_grad():
        model.head.mul_(20)
    return model


def test_threads_are_set_up_before_torch_is_loaded() -> None:
    code = "import os, sys, stages.inference; assert 'GOMP_SPINCOUNT' in os.environ and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("generate")
    tokenizer = tiny_tokenizer(root / "tokenizer")
    meta = pack_meta(tokenizer)
    for name, width in (("model", 32), ("draft", 16)):
        model = loud(Shape(int(str(meta["vocab_size"])), 2, width, 2, 1, 64, tied=False))
        export(model.shape, model.state_dict(), root / name, tokenizer, meta)
    return root / "model"


def whole(model: Model, ids: list[int]) -> torch.Tensor:
    """Hidden states of a text read at once."""
    where = layout([len(ids)], model.shape.heads, model.shape.kv_heads)
    hidden: torch.Tensor = model(torch.tensor(ids), torch.arange(len(ids)), where)
    return hidden


@torch.no_grad()
def test_the_cache_gives_what_the_whole_gives() -> None:
    model, ids = Model(SHAPE), list(range(3, 15))
    cache = Cache(model, 1, 12)
    pieces = [(0, 5), (5, 8), *((k, k + 1) for k in range(8, 12))]
    parts = [cache.read(torch.tensor([ids[a:b]]), torch.arange(a, b)[None])[0] for a, b in pieces]
    assert torch.allclose(torch.cat(parts), whole(model, ids), atol=1e-5)
    again = cache.read(torch.tensor([[50, 51]]), torch.tensor([[4, 5]]))[0]
    assert torch.allclose(again, whole(model, [*ids[:4], 50, 51])[4:], atol=1e-5)


@torch.no_grad()
def test_the_likeliest_tokens_are_those_of_the_whole_model_read_anew_each_time_in_a_batch_as_alone() -> None:
    model = loud(SHAPE, 4)
    prompts = [[1, 2, 3], [5], [7, 8, 9, 10, 11, 12]]
    turns = list(continue_all(model, prompts, 6, GREEDY, -1, 0))
    for k, prompt in enumerate(prompts):
        ids = list(prompt)
        for turn in turns:
            assert turn[k] == int(model.logits(whole(model, ids)[-1]).argmax())
            ids.append(turn[k])


def test_a_text_that_has_ended_stays_ended() -> None:
    model = loud(SHAPE, 4)
    first = next(continue_all(model, [[1, 2, 3], [5]], 1, GREEDY, -1, 0))
    assert first[0] != first[1]
    turns = list(continue_all(model, [[1, 2, 3], [5]], 5, GREEDY, first[0] or 0, 0))
    assert {turn[0] for turn in turns} == {None}
    assert turns[0][1] == first[1]
    assert list(continue_all(model, [[1, 2, 3]], 5, GREEDY, first[0] or 0, 0)) == [[None]]


def test_a_choice_keeps_to_its_bounds() -> None:
    logits = torch.tensor([0.0, 5.0, 4.0, -3.0])
    chance = torch.Generator().manual_seed(0)

    def drawn(count: int, *settings: float) -> set[int]:
        choice = Choice(settings[0], int(settings[1]), *settings[2:])
        return {choice.draw(logits, chance) for _ in range(count)}

    assert drawn(1, 0.0, 0) == {1}
    assert drawn(60, 1.0, 2) == {1, 2}
    assert drawn(300, 9.0, 0, 1.0) == {0, 1, 2, 3}
    assert drawn(20, 1.0, 0, 0.5) == drawn(20, 1.0, 0, 0.0) == drawn(20, 1e-30, 0) == {1}
    assert drawn(60, 9.0, 0, 1.0, 0.8) == {1, 2}
    assert drawn(20, 1.0, 0, 1.0, 1.0) == {1}
    assert torch.allclose(Choice(1.0, 0, 1.0).shares(logits), logits.softmax(0))
    with pytest.raises(ValueError, match="below 0"):
        Choice(-1.0)


def test_what_is_judged_is_distributed_as_the_larger_model_says() -> None:
    chance = torch.Generator().manual_seed(0)
    small, large, after = torch.tensor([[0.7, 0.2, 0.1, 0.0], [0.1, 0.3, 0.2, 0.4], [0.0, 0.5, 0.5, 0.0]])
    counts = torch.zeros(4), torch.zeros(4)
    for _ in range(6000):
        proposed = [9, int(torch.multinomial(small, 1, generator=chance))]
        first, *rest = judged(proposed, [small], [large, after], chance)[1:]
        counts[0][first] += 1
        for token in rest:
            counts[1][token] += 1
    assert torch.allclose(counts[0] / 6000, large, atol=0.025)
    assert torch.allclose(counts[1] / counts[1].sum(), after, atol=0.035)
    accepted = float(torch.minimum(small, large).sum())
    assert abs(float(counts[1].sum()) / 6000 - accepted) < 0.025


def test_speculation_is_greedy_where_the_model_is() -> None:
    model, draft = loud(SHAPE, 4), loud(SHAPE, 5)
    alone = [turn[0] for turn in continue_all(model, [[1, 2]], 9, GREEDY, -1, 0)]
    assert list(speculate(model, draft, [1, 2], 9, GREEDY, -1, 0)) == alone
    assert len(list(speculate(model, draft, [1, 2], 7, Choice(), -1, 3))) == 7


def test_speculation_with_itself_agrees_and_ends_at_the_end_token() -> None:
    model = loud(SHAPE, 4)
    alone = [turn[0] for turn in continue_all(model, [[1, 2]], 9, GREEDY, -1, 0)]
    assert list(speculate(model, model, [1, 2], 9, GREEDY, -1, 0)) == alone
    end = alone[6]
    assert list(speculate(model, model, [1, 2], 9, GREEDY, end or 0, 0)) == alone[: alone.index(end)]


def test_eight_bits_say_nearly_the_same(folder: Path) -> None:
    model, _ = load_model(folder)
    ids = list(range(3, 40))
    with torch.no_grad():
        model.head.div_(4)
        exact = model.logits(whole(model, ids)).log_softmax(-1)
        quantise(model)
        coarse = model.logits(whole(model, ids)).log_softmax(-1)
    assert model.model.layers[0].mlp.up_proj.weight.dtype == torch.int8
    gap = (exact.exp() * (exact - coarse)).sum(-1)
    assert gap.mean() < 0.02
    assert "".join(generate(folder, "the", 8, weights="int8"))
    assert "".join(generate(folder, "the", 8, weights="bf16"))


def test_the_same_seed_writes_the_same_text_and_another_another(folder: Path) -> None:
    texts = ["".join(generate(folder, "the mill", max_tokens=12, seed=seed)) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    drafted = "".join(generate(folder, "the mill", max_tokens=12, temperature=0, draft=folder.with_name("draft")))
    assert drafted == "".join(generate(folder, "the mill", max_tokens=12, temperature=0, seed=5)) != ""
    assert "".join(generate(folder, "the mill", 12, 0, stop=[drafted[3:5]])) == drafted[: drafted.index(drafted[3:5])]


@pytest.mark.parametrize("prompt", ["", "磨坊 mill " * 50])
def test_prompts_of_any_length_leave_room_for_text(folder: Path, prompt: str) -> None:
    assert "".join(generate(folder, prompt, max_tokens=6, top_k=0))
    assert "".join(generate(folder, prompt, max_tokens=6_000, top_k=0))


def test_a_long_prompt_keeps_its_end(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert prompt_ids(tokenizer, "abcd", 7, 9) == [7, *tokenizer.encode("abcd", add_special_tokens=False).ids]
    assert prompt_ids(tokenizer, "abcd", 7, 3) == [7, *tokenizer.encode("cd", add_special_tokens=False).ids]


def test_characters_come_whole(folder: Path) -> None:
    spelt = spelling(Tokenizer.from_file(str(folder / "tokenizer.json")))
    single = {each: number for number, each in enumerate(spelt) if len(each) == 1}
    ids = [single[bytes([byte])] for byte in "a磨🏠".encode()]
    assert list(text_of(ids, spelt)) == ["a", "磨", "🏠"]
    assert list(text_of(ids[:-1], spelt)) == ["a", "磨", "\ufffd"]
    assert spelt[-3:] == [b"", b"", b""]
    assert sorted(single) == [bytes([byte]) for byte in range(256)]


def test_stop_strings_stop_wherever_the_pieces_break() -> None:
    text = "ab\n\nQ: and more"
    for width in (1, 2, 3, 5, 20):
        pieces = [text[k : k + width] for k in range(0, len(text), width)]
        assert "".join(until(pieces, ["\nQ:", "never"])) == "ab\n"
        assert "".join(until(pieces, [])) == "".join(until(pieces, ["more!"])) == text
    assert list(until(["a", "b"], [])) == ["a", "b"]
