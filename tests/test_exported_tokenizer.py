"""An exported tokenizer begins texts as packed documents began: the ids are those of `transformers`."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tokenizers.processors import TemplateProcessing

from pipeline.rows import DOCUMENT
from stages.inference.tasks import encode_pair, evaluate
from stages.pack import Pack
from stages.packed_rows import METADATA, PACKED
from stages.tokenizer import Tokenizer
from stages.train.export import export
from stages.train.model import Model, Shape
from tests.test_pack import packed, run
from tests.test_special_tokens import bare
from tests.test_tokenizer import corpus
from tests.test_tokenizer import run as train_tokenizer

TEXT = "the miller grinds grain"
BOTH = TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])


def exported(tokenizer: Path, folder: Path, **settings: Any) -> tuple[list[int], dict[str, Any]]:
    """Packs one document, exports an untrained model: the document's ids as packed, and what the shards say."""
    rows = [{"id": "d", "text": TEXT, "source": "a:1", "lang": None}]
    stage = Pack(sequence_length=64, validation=0, **settings)
    emits = run(stage, [pa.RecordBatch.from_pylist(rows, schema=DOCUMENT)], tokenizer)
    (row,) = packed(emits, held=False)
    schema = next(e.rows.schema for e in emits if e.rows is not None and e.rows.schema.names == PACKED.names)
    meta = json.loads(schema.metadata[METADATA.encode()])
    model = Model(Shape(meta["vocab_size"], 1, 32, 2, 1, 64))
    export(model.shape, model.state_dict(), folder, tokenizer / "tokenizer.json", meta)
    return row["input_ids"][: row["seq_lengths"][0]], meta


CASES: dict[str, tuple[dict[str, Any] | None, dict[str, Any], Any]] = {
    "own words": ({"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}, {}, None),
    "recipe": (None, {"bos": "<s>", "eos": "</s>"}, None),
    "end begins": ({"eos_token": "</s>"}, {}, None),
    "no beginning": ({"bos_token": "<s>", "eos_token": "</s>"}, {"bos": False}, BOTH),
    "processor adds an end": ({"eos_token": "</s>"}, {}, BOTH),
    "flags": (
        {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": False, "add_eos_token": True,
         "tokenizer_class": "LlamaTokenizer", "auto_map": {"AutoTokenizer": ["strange.Code", None]}}, {}, None
    ),
    "another beginning": ({"bos_token": "<s>", "eos_token": "</s>"}, {"bos": "[CLS]", "pad": "<pad>"}, BOTH),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_transformers_begins_a_text_as_its_document_began(tmp_path: Path, name: str) -> None:
    from transformers import AutoTokenizer

    config, settings, processor = CASES[name]
    folder = bare(tmp_path / "tok", processor=processor)
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    document, meta = exported(folder, tmp_path / "model", **settings)
    loaded = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert [*loaded(TEXT)["input_ids"], meta["eos_id"]] == document
    assert [*loaded.encode(TEXT), meta["eos_id"]] == document
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id) == (
        meta["bos_id"], meta["eos_id"], meta["pad_id"]
    )  # fmt: skip


def test_the_stages_own_tokenizer_begins_documents_wherever_it_is_loaded(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    train_tokenizer(Tokenizer(vocab_size=400), [[corpus()]], tmp_path / "run")
    own = tmp_path / "run/tokenizer"
    document, meta = exported(own, tmp_path / "model")
    for folder in (own, tmp_path / "model"):
        assert [*AutoTokenizer.from_pretrained(folder).encode(TEXT), meta["eos_id"]] == document
    assert (tmp_path / "model/tokenizer.json").read_bytes() == (own / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("name", ["own words", "no beginning", "end begins"])
def test_evaluation_reads_what_transformers_reads(tmp_path: Path, name: str) -> None:
    from tokenizers import Tokenizer as Loaded
    from transformers import AutoTokenizer

    config, settings, processor = CASES[name]
    folder = bare(tmp_path / "tok", processor=processor)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    exported(folder, tmp_path / "model", **settings)
    loaded, exact = (
        AutoTokenizer.from_pretrained(tmp_path / "model"),
        Loaded.from_file(str(tmp_path / "model/tokenizer.json")),
    )
    about = json.loads((tmp_path / "model/config.json").read_text())
    ids, count = encode_pair(exact, "the miller", " grinds", about["bos_token_id"], 64)
    whole, context = loaded.encode("the miller grinds"), loaded.encode("the miller")
    assert (ids, count) == (whole, len(whole) - len(context))
    lines = [{"query": query, "choices": [" grinds", " grain"], "gold": 0} for query in ("the miller", "")]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert evaluate(tmp_path / "model", [tmp_path / "q.jsonl"])["q.jsonl"]["items"] == 2
