"""The model on disk, in Hugging Face's layout: what `transformers` loads, and what `generate` loads again.

Writes and reads `config.json`, `generation_config.json`, `model.safetensors` and the tokenizer's files. The parameters
have transformers' names already, so there is no conversion; the price is that a shape it does not know cannot be had.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from stages.special_tokens import BESIDE, ROLES, beginning_with
from stages.train.model import EPSILON, Model, Shape

CHANGING = {"add_bos_token", "add_eos_token", "auto_map", "tokenizer_file"}
"""Keys of a tokenizer_config.json by which transformers would make another post-processor, or run a stranger's code."""


def export(shape: Shape, weights: Mapping[str, Tensor], folder: Path, tokenizer: Path, meta: Mapping[str, Any]) -> None:
    """Writes a model as Qwen3ForCausalLM, or as LlamaForCausalLM without QK-norm.

    weights: a model's state. tokenizer: its tokenizer.json. meta: what `pack` said of the shards: length, special ids.
    The tokenizer begins texts as `pack` began documents, and ends them with nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ids = {f"{name}_token_id": meta[f"{name}_id"] for name in ROLES}
    config = {**_config(shape), "max_position_embeddings": meta["sequence_length"], **ids}
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", {**ids, "do_sample": True, "temperature": 0.8, "top_k": 50})
    save_file(dict(weights), folder / "model.safetensors", metadata={"format": "pt"})
    _export_tokenizer(tokenizer, folder, meta)


def _export_tokenizer(tokenizer: Path, folder: Path, meta: Mapping[str, Any]) -> None:
    """Copies a tokenizer's files; its post-processor and its config say what begins a text, as the shards have it."""
    loaded, ids = Tokenizer.from_file(str(tokenizer)), {name: meta[f"{name}_id"] for name in ROLES}
    roles = {name: None if number is None else loaded.id_to_token(number) for name, number in ids.items()}
    whole = json.loads(tokenizer.read_bytes())
    begun = beginning_with(whole, roles["bos"], meta["bos_id"])
    if begun == whole:
        (folder / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    else:
        write_json(folder / "tokenizer.json", begun)
    for name in BESIDE:
        source = tokenizer.with_name(name)
        told = json.loads(source.read_bytes()) if source.is_file() else {}
        if told or name == "tokenizer_config.json":
            write_json(folder / name, _config_of(told, roles, whole=name == "tokenizer_config.json"))


def _config_of(told: Mapping[str, Any], roles: Mapping[str, str | None], *, whole: bool) -> dict[str, Any]:
    """A tokenizer's config with these roles; flags and classes that would change the post-processor go."""
    kept = {key: value for key, value in told.items() if key not in CHANGING}
    named = {f"{name}_token": token for name, token in roles.items()}
    return kept | named | ({"tokenizer_class": "PreTrainedTokenizerFast"} if whole else {})


def _config(shape: Shape) -> dict[str, Any]:
    kind = ("Qwen3ForCausalLM", "qwen3") if shape.qk_norm else ("LlamaForCausalLM", "llama")
    return {
        "architectures": [kind[0]],
        "model_type": kind[1],
        "vocab_size": shape.vocab,
        "hidden_size": shape.width,
        "num_hidden_layers": shape.depth,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head,
        "intermediate_size": shape.ffn,
        "hidden_act": "silu",
        "rms_norm_eps": EPSILON,
        "rope_theta": shape.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_theta},
        "attention_bias": False,
        "tie_word_embeddings": shape.tied,
        "torch_dtype": "float32",
    }


def load_model(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[Model, dict[str, Any]]:
    """The model in a folder that `export` wrote, reckoning in `dtype`, and its config."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    shape = Shape(
        vocab=config["vocab_size"],
        depth=config["num_hidden_layers"],
        width=config["hidden_size"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        ffn=config["intermediate_size"],
        qk_norm=config["model_type"] == "qwen3",
        rope_theta=config["rope_theta"],
        tied=config["tie_word_embeddings"],
    )
    model = Model(shape, dtype=dtype)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval(), config


def write_json(path: Path, value: Any) -> None:
    """Writes a value as JSON that people can read: indented, UTF-8 as it is."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
