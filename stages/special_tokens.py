"""Which tokens begin, end and pad: what a recipe says, else what a tokenizer's own files say, else an error.

Reads `tokenizer.json` and, beside it, `tokenizer_config.json` and `special_tokens_map.json` (Hugging Face). Nothing is
taken from the order of ids. The trade-off: a tokenizer.json alone is often an error, which names the settings to give.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROLES = ("bos", "eos", "pad")
MEANING = {"bos": "beginning", "eos": "end", "pad": "padding"}
BESIDE = ("tokenizer_config.json", "special_tokens_map.json")
"""Files beside a tokenizer.json that name its special tokens, the first one first."""
PROCESSOR = "the post-processor of tokenizer.json"
ENDS = frozenset({"</s>", "<|endoftext|>", "<|end_of_text|>", "<|eos|>", "<eos>", "<EOS>", "[EOS]"})
"""Texts that mean the end wherever they are: enough where a tokenizer has one of them and no other special token."""
SHOWN = 24
"""Special tokens that a message lists at most."""


@dataclass(frozen=True)
class Role:
    """A token in a role. source: who says so, in words."""

    token: str
    id: int
    source: str


@dataclass(frozen=True)
class Roles:
    """The tokens that begin and end a document (None: it begins or ends with its own text) and that pad a row."""

    bos: Role | None
    eos: Role | None
    pad: Role

    def items(self) -> dict[str, Role | None]:
        """By role."""
        return {"bos": self.bos, "eos": self.eos, "pad": self.pad}

    def ids(self) -> dict[str, int | None]:
        """{"bos_id", "eos_id", "pad_id"}."""
        return {f"{name}_id": role.id if role else None for name, role in self.items().items()}

    def texts(self) -> frozenset[str]:
        """The tokens' texts."""
        return frozenset(role.token for role in self.items().values() if role)


def find_roles(file: Path, tokenizer: Any, bos: bool | str, eos: bool | str, pad: str | None) -> Roles:
    """The roles of a tokenizer's special tokens.

    file: its tokenizer.json. tokenizer: the same as `tokenizers.Tokenizer`. bos, eos: a token's text, True for the one
    that the files name, False for none. pad: a token's text, or None for the one that the files name. Where the files
    name no beginning token, the end token stands for it, so that a document's first token is learnt too; where they
    name no padding token, the end token pads, which no loss sees. Where they name nothing, an only special token of
    `ENDS` is the end token. Raises ValueError for a token that is not there, and where no end token is known.
    """
    words = [*_beside(file), (PROCESSOR, _of_processor(json.loads(file.read_bytes()).get("post_processor")))]
    words.append(("the only special token", {"eos": only} if (only := _only_end(tokenizer)) else {}))
    found: dict[str, Role] = {}
    for name, given in zip(ROLES, (bos, eos, pad), strict=True):
        said = [("the recipe", given)] if isinstance(given, str) else [(who, each.get(name)) for who, each in words]
        if named := next(((token, who) for who, token in said if token is not None), None):
            found[name] = _role(file, tokenizer, name, *named)
    if "eos" not in found and eos is not False:
        raise ValueError(_unnamed("eos", tokenizer))
    end = found.get("eos")
    begin = found.get("bos") or (end and Role(end.token, end.id, "the end token, since no beginning token is named"))
    padding = found.get("pad") or (end and Role(end.token, end.id, "the end token, since no padding token is named"))
    if padding is None:
        raise ValueError(_unnamed("pad", tokenizer))
    return Roles(begin if bos is not False else None, end if eos is not False else None, padding)


def _role(file: Path, tokenizer: Any, name: str, token: str, who: str) -> Role:
    number = tokenizer.token_to_id(token)
    if number is None:
        raise ValueError(f"{file} has no token {token!r}, which {who} names as `{name}`; {_listed(tokenizer)}")
    return Role(token, number, who)


def _unnamed(name: str, tokenizer: Any) -> str:
    return (
        f"no {MEANING[name]} token is named by {', '.join(BESIDE)} or {PROCESSOR}: set `{name}` to a token's text, and "
        f"the others of `bos`, `eos` and `pad` as you wish; {_listed(tokenizer)}"
    )


def _special(tokenizer: Any) -> list[str]:
    return [token.content for _, token in sorted(tokenizer.get_added_tokens_decoder().items()) if token.special]


def _only_end(tokenizer: Any) -> str | None:
    found = _special(tokenizer)
    return found[0] if len(found) == 1 and found[0] in ENDS else None


def _listed(tokenizer: Any) -> str:
    found = _special(tokenizer)
    if not found:
        return "the tokenizer marks no token as special"
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"its special tokens are {', '.join(map(repr, found[:SHOWN]))}{more}"


def _beside(file: Path) -> Iterator[tuple[str, dict[str, str | None]]]:
    """(name of the file, role → token) of each file beside a tokenizer.json. Raises ValueError for a broken one."""
    for name in BESIDE:
        about = read_beside(file, name)
        yield name, {role: text_of(about.get(f"{role}_token")) for role in ROLES}


def read_beside(file: Path, name: str) -> Mapping[str, Any]:
    """What a file of `BESIDE` says; {} where there is none. Raises ValueError where it is no JSON object."""
    path = file.with_name(name)
    if not path.is_file():
        return {}
    try:
        about = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    if not isinstance(about, dict):
        raise ValueError(f"{path} is no JSON object")
    return about


def text_of(value: Any) -> str | None:
    """A token's text from a config: a string, or an object with `content`; None for anything else or an empty text."""
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) and value else None


def named_in_config(file: Path) -> frozenset[str]:
    """Texts of all tokens that the files beside a tokenizer.json call special, roles of other models' kinds too."""
    found: set[str | None] = set()
    for name in BESIDE:
        about = read_beside(file, name)
        found |= {text_of(value) for key, value in about.items() if key.endswith("_token")}
        for key in ("additional_special_tokens", "extra_special_tokens"):
            several = about.get(key) or []
            found |= {text_of(one) for one in (several.values() if isinstance(several, dict) else several)}
        decoder = about.get("added_tokens_decoder")
        tokens = decoder.values() if isinstance(decoder, dict) else ()
        found |= {text_of(one) for one in tokens if isinstance(one, dict) and one.get("special")}
    return frozenset(text for text in found if text is not None)


def _of_processor(processor: Mapping[str, Any] | None) -> dict[str, str | None]:
    """{"bos", "eos"} → token, by what a post-processor puts before and after one text: a single token or nothing."""
    for part in _parts(processor):
        if part["type"] in ("BertProcessing", "RobertaProcessing"):
            return {"bos": part["cls"][0], "eos": part["sep"][0]}
        if part["type"] == "TemplateProcessing":
            names = [piece.get("SpecialToken", {}).get("id") for piece in part["single"]]
            at = names.index(None) if None in names else len(names)
            return {"bos": _only(part, names[:at]), "eos": _only(part, names[at + 1 :])}
    return {}


def _only(part: Mapping[str, Any], names: list[str]) -> str | None:
    tokens = [token for name in names for token in part["special_tokens"][name]["tokens"]]
    return tokens[0] if len(tokens) == 1 else None


def _parts(processor: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if processor is None:
        return []
    return list(processor["processors"]) if processor["type"] == "Sequence" else [processor]


def beginning_with(tokenizer: Mapping[str, Any], token: str | None, number: int | None) -> dict[str, Any]:
    """A tokenizer.json, as an object, whose post-processor puts a token before each text and nothing after it.

    token: None for no token. Offsets are trimmed as they were.
    """
    kept = [part for part in _parts(tokenizer.get("post_processor")) if part["type"] == "ByteLevel"]
    parts: list[Any] = [*kept, *([_template(token, number)] if token is not None else [])]
    changed = dict(copy.copy(tokenizer))
    sequence = {"type": "Sequence", "processors": parts}
    changed["post_processor"] = sequence if len(parts) > 1 else parts[0] if parts else None
    return changed


def _template(token: str, number: int | None) -> dict[str, Any]:
    single, second = (
        [{"SpecialToken": {"id": token, "type_id": k}}, {"Sequence": {"id": name, "type_id": k}}]
        for k, name in enumerate("AB")
    )
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, *second],
        "special_tokens": {token: {"id": token, "ids": [number], "tokens": [token]}},
    }
