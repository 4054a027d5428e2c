"""Roles of special tokens: from the recipe, else from the tokenizer's own files, else an error; never from an order."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import BertProcessing, RobertaProcessing, TemplateProcessing

from stages.encoder import special_tokens
from stages.pack import Pack
from stages.special_tokens import beginning_with
from tests.conftest import Cli

PLAIN = ("<unk>", "<s>", "</s>", "<pad>", "[CLS]", "[SEP]")


def bare(folder: Path, specials: Sequence[str] = PLAIN, processor: Any = None) -> Path:
    """A byte-level BPE with special tokens, which come first, and nothing beside its tokenizer.json; that folder."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=list(specials), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(["the miller grinds grain at dawn"] * 5, trainer)
    tokenizer.post_processor = processor
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def found(folder: Path, **settings: Any) -> dict[str, tuple[str, str] | None]:
    """Role → (token, who says so)."""
    roles = special_tokens(folder, **settings)
    exact = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert all(role is None or exact.token_to_id(role.token) == role.id for role in roles.items().values())
    return {name: (role.token, role.source) if role else None for name, role in roles.items().items()}


CONFIG, MAP, PROCESSOR = "tokenizer_config.json", "special_tokens_map.json", "the post-processor of tokenizer.json"


def test_the_config_names_roles_as_strings_or_objects(tmp_path: Path) -> None:
    folder = bare(tmp_path)
    (folder / CONFIG).write_text(json.dumps({"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": False}}))
    (folder / MAP).write_text(json.dumps({"eos_token": "<unk>", "pad_token": {"content": "<pad>"}}))
    assert found(folder) == {"bos": ("<s>", CONFIG), "eos": ("</s>", CONFIG), "pad": ("<pad>", MAP)}


@pytest.mark.parametrize(
    ("processor", "bos", "eos"),
    [
        (BertProcessing(("[SEP]", 5), ("[CLS]", 4)), "[CLS]", "[SEP]"),
        (RobertaProcessing(("</s>", 2), ("<s>", 1)), "<s>", "</s>"),
        (TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]), "<s>", "</s>"),
        (TemplateProcessing("$A </s>", special_tokens=[("</s>", 2)]), None, "</s>"),
    ],
)
def test_a_post_processor_names_roles(tmp_path: Path, processor: Any, bos: str | None, eos: str) -> None:
    ends = found(bare(tmp_path, processor=processor))
    assert ends["eos"] == (eos, PROCESSOR)
    assert ends["bos"] == ((bos, PROCESSOR) if bos else (eos, "the end token, since no beginning token is named"))
    assert ends["pad"] == (eos, "the end token, since no padding token is named")


@pytest.mark.parametrize(
    "processor",
    [
        None,
        TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)]),
        TemplateProcessing("$A </s> <pad>", special_tokens=[("</s>", 2), ("<pad>", 3)]),
    ],
)
def test_where_no_file_names_an_end_the_message_says_what_to_do(tmp_path: Path, processor: Any) -> None:
    with pytest.raises(ValueError, match=r"no end token is named .*set `eos` to .*'<unk>', '<s>', '</s>', '<pad>'"):
        found(bare(tmp_path, processor=processor))


def test_an_only_special_token_is_the_end_if_its_name_says_so(tmp_path: Path) -> None:
    ends = found(bare(tmp_path / "gpt2", ["<|endoftext|>"]))
    assert ends["eos"] == ("<|endoftext|>", "the only special token")
    for only in ("<unk>", "<s>", "<pad>"):
        with pytest.raises(ValueError, match="no end token"):
            found(bare(tmp_path / only.strip("<>"), [only]))


def test_settings_name_roles_and_take_them_away(tmp_path: Path) -> None:
    folder = bare(tmp_path)
    recipe = {"bos": ("<s>", "the recipe"), "eos": ("</s>", "the recipe"), "pad": ("<unk>", "the recipe")}
    assert found(folder, bos="<s>", eos="</s>", pad="<unk>") == recipe
    assert found(folder, bos=False, eos="</s>")["bos"] is None
    assert found(folder, bos=False, eos=False, pad="<pad>") == {
        "bos": None,
        "eos": None,
        "pad": ("<pad>", "the recipe"),
    }
    with pytest.raises(ValueError, match="no padding token"):
        found(folder, bos=False, eos=False)
    with pytest.raises(ValueError, match=r"no token '<end>', which the recipe names as `eos`.*'</s>'"):
        found(folder, eos="<end>")


@pytest.mark.parametrize("text", ["[]", "{", '{"eos_token": "<|nowhere|>"}', '{"eos_token": {"content": 7}}'])
def test_a_config_that_is_broken_or_wrong_is_a_problem_of_the_recipe(tmp_path: Path, text: str) -> None:
    folder = bare(tmp_path)
    (folder / CONFIG).write_text(text)
    (problem,) = Pack(tokenizer=str(folder)).check([])
    assert problem.loc == ("tokenizer",)
    assert CONFIG in problem.message


def test_a_tokenizer_begins_with_what_it_is_told_to(tmp_path: Path) -> None:
    processor = TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    whole = json.loads((bare(tmp_path, processor=processor) / "tokenizer.json").read_text())
    plain = Tokenizer.from_str(json.dumps(whole)).encode("the mill", add_special_tokens=False).ids
    for token, number, begun in (("<pad>", 3, [3]), (None, None, [])):
        changed = Tokenizer.from_str(json.dumps(beginning_with(whole, token, number)))
        assert changed.encode("the mill").ids == [*begun, *plain]
    again = beginning_with(whole, "a:b $A", 3)
    assert Tokenizer.from_str(json.dumps(again)).encode("the mill").ids == [3, *plain]
    assert beginning_with(again, "a:b $A", 3) == again


RECIPE = """
stages:
  - {{use: ingest, inputs: [{{path: in.txt, documents: line}}]}}
  - {{use: pack, tokenizer: {tokenizer}, sequence_length: 16, validation: 0{more}}}
"""


def test_a_run_stops_at_check_or_shows_its_roles(tmp_path: Path, cli: Cli) -> None:
    bare(tmp_path / "tok")
    (tmp_path / "in.txt").write_text("the miller\ngrinds grain\n")
    (tmp_path / "bad.yaml").write_text(RECIPE.format(tokenizer="tok/tokenizer.json", more=""))
    refused = cli("check", "bad.yaml", cwd=tmp_path)
    assert refused.returncode == 2
    assert "bad.yaml:4:" in refused.stderr + refused.stdout
    assert "set `eos`" in refused.stderr + refused.stdout
    named = ', bos: "<s>", eos: "</s>"'
    (tmp_path / "good.yaml").write_text(RECIPE.format(tokenizer="tok/tokenizer.json", more=named))
    done = cli("run", "good.yaml", "--out", "out", "--quiet", "--workers", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "documents begin with '<s>' (the recipe)" in done.stdout + done.stderr
    assert "padding '</s>' (the end token, since no padding token is named)" in done.stdout + done.stderr


def test_a_config_that_changes_beside_a_tokenizer_file_is_seen(tmp_path: Path, cli: Cli) -> None:
    bare(tmp_path / "tok")
    (tmp_path / "in.txt").write_text("the miller\n")
    (tmp_path / "r.yaml").write_text(RECIPE.format(tokenizer="tok/tokenizer.json", more=""))
    for end in ("</s>", "<pad>"):
        (tmp_path / "tok" / CONFIG).write_text(json.dumps({"eos_token": end}))
        done = cli("run", "r.yaml", "--out", "out", "--quiet", "--workers", 1, cwd=tmp_path)
        assert f"end with '{end}' (tokenizer_config.json)" in done.stdout + done.stderr
