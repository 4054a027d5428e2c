"""A recipe: YAML → checked stages, or every error at once with file:line:column and the nearest right word.

Reads one YAML file (safe load only) and `--set` overrides; writes nothing. Importing user stages runs their code: a
recipe that names `use: my_stages:NoShouting` is as trusted as the file it names.
"""

from __future__ import annotations

import difflib
import io
import re
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, MappingStartEvent, NodeEvent
from ruamel.yaml.reader import ReaderError

from pipeline.faults import told
from pipeline.loading import load, stage_refs
from pipeline.stage import Problem, Stage
from pipeline.terminal import one_line

Loc = tuple[str | int, ...]
MOST_BYTES, MOST_VALUES, MOST_DEEP, MOST_DIGITS = 1 << 20, 50_000, 50, 1000
"""More of a recipe than this is no recipe: ten thousand names of files fit in easily."""


class Settings(BaseModel):
    """A recipe's own keys, beside its stages."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str | None = Field(
        None,
        pattern=r"^[^/\\\x00-\x1f.][^/\\\x00-\x1f]*$",
        description="What the run is called: its folder is runs/NAME unless --out says otherwise. The recipe file's "
        "own name, if not given.",
    )
    seed: int = Field(0, ge=0, description="Seeds every choice that is left to chance; same seed, same bytes.")
    max_bad: float = Field(
        0.01,
        ge=0,
        le=1,
        description="The run stops beyond this share of a stage's records in quarantine, or of the input's bytes lost "
        "to faults that took more than one record.",
    )
    intermediates: Literal["keep", "fuse"] = Field(
        "keep",
        description="fuse: neighbouring stages that look at one document at a time run in one pass, ingest with them "
        "unless a source is very large, and only the last of them writes shards; drops are written by each, and the "
        "bytes at the end are the same.",
    )


@dataclass(frozen=True)
class Use:
    """One stage of a recipe: its name in the recipe, `module:Class`, and the checked object.

    meant: keys that the recipe may mean by unknown ones, which the object lacks. faulty: the settings are wrong, and
    not checked. No run is made of either.
    """

    name: str
    ref: str
    stage: Stage
    meant: frozenset[str] = frozenset()
    faulty: bool = False

    def problems(self, folders: Sequence[Path]) -> list[Problem]:
        """What the stage finds wrong, but for what may come of a key that is spelled wrong."""
        found = [] if self.faulty else self.stage.check(folders)
        return [problem for problem in found if self.meant.isdisjoint(map(str, problem.loc))]


@dataclass(frozen=True)
class Recipe:
    """A checked recipe. folders: where its relative paths start, in order."""

    path: Path
    settings: Settings
    uses: tuple[Use, ...]
    folders: tuple[Path, ...]

    @property
    def name(self) -> str:
        """What the run is called: the recipe's `name`, or its file's."""
        return self.settings.name or self.path.stem


class RecipeError(Exception):
    """Everything that is wrong with a recipe, one message a line."""

    def __init__(self, messages: Sequence[str]) -> None:
        """Keeps the messages apart, for --json."""
        super().__init__("\n".join(messages))
        self.messages = list(messages)


class _Source:
    """The YAML tree and where its keys stand."""

    def __init__(self, path: Path, text: str) -> None:
        self.path, self.lines = path, text.splitlines()
        self.tree = YAML(typ="rt").load(text)
        self.overridden: set[Loc] = set()

    def at(self, loc: Loc) -> tuple[int, int] | None:
        """Line and column, from 1, of the deepest key of `loc` that is in the file."""
        node, place = self.tree, (1, 1)
        for key in loc:
            try:
                mark = node.lc.data[key]
                node = node[key]
            except (AttributeError, KeyError, IndexError, TypeError):
                break
            place = (mark[0] + 1, mark[1] + 1)
        return place

    def message(self, loc: Loc, text: str) -> str:
        """file:line:column, what is wrong, and the line itself."""
        if any(loc[: len(o)] == o for o in self.overridden):
            return f"--set {dotted(loc)}: {text}"
        line, column = self.at(loc) or (1, 1)
        shown = self.lines[line - 1].rstrip() if line <= len(self.lines) else ""
        where = f" ({dotted(loc)})" if loc else ""
        return f"{self.path}:{line}:{column}: {text}{where}\n    {shown.strip()}"


def dotted(loc: Loc) -> str:
    """("stages", 3, "keep") → "stages[3].keep"."""
    return "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in loc).lstrip(".")


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads and checks a recipe. Raises RecipeError with every problem found."""
    source = _parse(path)
    errors = _override(source, overrides)
    tree = _plain(source.tree)
    if not isinstance(tree, dict):
        raise RecipeError([source.message((), "a recipe is a mapping with a list of stages")])
    items = tree.pop("stages", None)
    settings = _settings(source, tree, errors)
    folders = tuple(dict.fromkeys([Path.cwd(), path.resolve().parent]))
    if not isinstance(items, list) or not items:
        errors.append(source.message(("stages",), "`stages` must be a list of at least one stage"))
        items = []
    uses = [_use(source, k, item, folders, errors) for k, item in enumerate(items)]
    errors += [source.message(p.loc, p.message) for p in order_problems(uses)]
    for k, use in enumerate(uses):
        found = use.problems(folders) if use else []
        errors += [source.message(("stages", k, *p.loc), p.message) for p in found]
    if errors:
        raise RecipeError(sorted(errors, key=_line))
    return Recipe(path, settings or Settings(), tuple(use for use in uses if use is not None), folders)


def _line(message: str) -> tuple[int, int]:
    """Where in the file a message points; those that point nowhere come first."""
    place = re.search(r":(\d+):(\d+): ", message.partition("\n")[0])
    return (int(place[1]), int(place[2])) if place else (0, 0)


def order_problems(uses: Sequence[Use | None]) -> list[Problem]:
    """Stages that come before what they read. After a stage that is not known, nothing is held against the others."""
    problems: list[Problem] = []
    given = {"sources"}
    for k, use in enumerate(uses):
        if use is None:
            return problems
        stage = use.stage
        if stage.reads not in given:
            before = "an `ingest`" if stage.reads == "documents" else "a `pack`"
            problems.append(Problem(("stages", k, "use"), f"`{use.name}` reads {stage.reads}: put {before} before it"))
        missing = [n for n in stage.needs if n not in given and getattr(stage, n, None) is None]
        problems += [
            Problem(
                ("stages", k, "use"), f"`{use.name}` needs a `{n}` stage before it, or `{n}: PATH` of another run's"
            )
            for n in missing
        ]
        given |= {use.name, stage.gives if stage.gives != "artifact" else use.name}
    return problems


def _parse(path: Path) -> _Source:
    """The YAML tree. Raises RecipeError for what is not YAML, or more of it than a recipe ever has."""
    try:
        data = path.read_bytes()
        text = data.decode()
    except FileNotFoundError:
        raise RecipeError([f"{path}: no such recipe; `gristmill init` writes one to start from"]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError([f"{path}: cannot be read: {error}"]) from None
    if len(data) > MOST_BYTES:
        raise RecipeError([f"{path}: {len(data):,} bytes; a recipe has at most {MOST_BYTES:,}"])
    try:
        _bounded(text)
        return _Source(path, text)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise RecipeError([f"{path}{place}: not YAML: {one_line(str(error.problem))[:300]}"]) from None
    except ReaderError as error:
        before = text[: error.position].splitlines() or [""]
        place = f":{len(before)}:{len(before[-1]) + 1}"
        raise RecipeError([f"{path}{place}: not YAML: character U+{ord(text[error.position]):04X}"]) from None
    except Exception as error:  # noqa: BLE001 - what is made of a value (a date, a number) may raise anything
        raise RecipeError([f"{path}{_place(error)}: not YAML: {told(error)}"]) from None


def _place(error: Exception) -> str:
    """:line:column of the value that YAML was making when it raised, as far as its calls tell."""
    nodes = [frame.f_locals.get("node") for frame, _ in traceback.walk_tb(error.__traceback__)]
    marks = [mark for node in nodes if (mark := getattr(node, "start_mark", None)) is not None]
    return f":{marks[-1].line + 1}:{marks[-1].column + 1}" if marks else ""


def _bounded(text: str) -> None:
    """Reads YAML as events, which costs no more than its length. Raises MarkedYAMLError where it is nested too deep,
    has too many values once every alias is written out, an alias within what it stands for, a list or mapping for a
    key, or a number of too many digits."""
    sizes: dict[str, int] = {}
    open_: list[_Open] = []
    total = 0
    for event in YAML(typ="rt", pure=True).parse(io.StringIO(text)):
        name, ends = getattr(event, "anchor", None) or "", isinstance(event, CollectionEndEvent)
        if ends:
            name = open_[-1].anchor
            size = total - open_.pop().before
        elif isinstance(event, NodeEvent):
            size = sizes.get(name, 1) if isinstance(event, AliasEvent) else 1
            total += size
        else:
            continue
        problem = None if ends else _problem(event, name, size, total, open_)
        if problem:
            raise MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        if isinstance(event, CollectionStartEvent):
            open_.append(_Open(name, total - 1, isinstance(event, MappingStartEvent)))
        elif name:
            sizes[name] = size


@dataclass
class _Open:
    """A list or mapping under way: its anchor, the values before it, and how many of its own have begun."""

    anchor: str
    before: int
    mapping: bool
    begun: int = 0


def _problem(event: Any, name: str, size: int, total: int, open_: Sequence[_Open]) -> str | None:
    """What is too much of a value that begins, if anything."""
    is_key = False
    if open_:
        is_key = open_[-1].mapping and open_[-1].begun % 2 == 0
        open_[-1].begun += 1
    value = getattr(event, "value", "")
    if isinstance(event, AliasEvent) and name in (one.anchor for one in open_):
        return f"*{name} stands within itself"
    if is_key and (size > 1 or isinstance(event, CollectionStartEvent)):
        return "a key is a word, not a list or mapping"
    if len(open_) >= MOST_DEEP:
        return f"nested over {MOST_DEEP} deep"
    if len(value) > MOST_DIGITS and re.fullmatch(r"[-+.:\w]*", value, re.ASCII) and not event.style:
        return f"a number or word of {len(value):,} characters"
    return f"over {MOST_VALUES:,} values, aliases written out" if total > MOST_VALUES else None


def _override(source: _Source, overrides: Sequence[str]) -> list[str]:
    """Puts each `K=V` into the tree; the messages of those that cannot be."""
    errors = []
    for text in overrides:
        key, equals, value = text.partition("=")
        loc = _locate(source.tree, key)
        if not equals or loc is None:
            errors.append(f"--set {text}: {_no_such_key(source.tree, key) if equals else 'expected KEY=VALUE'}")
            continue
        try:
            node = source.tree
            for part in loc[:-1]:
                node = node[part] if isinstance(part, int) else node.setdefault(part, {})
            node[loc[-1]] = YAML(typ="safe").load(io.StringIO(value))
        except (YAMLError, RecursionError, ValueError) as error:
            errors.append(f"--set {text}: the value is not YAML: {str(error).splitlines()[0]}")
        except (AttributeError, TypeError, LookupError):
            errors.append(f"--set {text}: nothing there has keys of its own")
        source.overridden.add(loc)
    return errors


def _names(tree: Any) -> list[str]:
    items = tree.get("stages") if isinstance(tree, dict) else None
    return [str(item.get("use")) if isinstance(item, dict) else "" for item in items or []]


def _locate(tree: Any, key: str) -> Loc | None:
    """stages.pack.sequence_length or stages[8].sequence_length → the path in the tree; None where no stage is meant."""
    parts = re.findall(r"[^.\[\]]+", key)
    if not parts:
        return None
    if parts[0] != "stages":
        return tuple(parts)
    names = _names(tree)
    if len(parts) < 3:
        return None
    which = [k for k, name in enumerate(names) if parts[1] in (name, str(k))]
    return ("stages", which[0], *parts[2:]) if len(which) == 1 else None


def _no_such_key(tree: Any, key: str) -> str:
    return f"no single stage is meant by {key!r}; stages here: {', '.join(_names(tree))} (or stages[0].key)"


def _plain(node: Any) -> Any:
    if isinstance(node, dict):
        return {str(k): _plain(v) for k, v in node.items()}
    if isinstance(node, list):
        return [_plain(v) for v in node]
    return node


def _settings(source: _Source, tree: dict[str, Any], errors: list[str]) -> Settings | None:
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        errors += _messages(source, (), error, Settings)
        return None


def _use(source: _Source, k: int, item: Any, folders: Sequence[Path], errors: list[str]) -> Use | None:
    loc: Loc = ("stages", k)
    if not isinstance(item, dict) or not isinstance(item.get("use"), str):
        errors.append(source.message(loc, "each stage is a mapping with `use: NAME`"))
        return None
    settings = {key: value for key, value in item.items() if key != "use"}
    try:
        ref, kind = find_stage(item["use"], folders)
    except LookupError as error:
        errors.append(source.message((*loc, "use"), str(error.args[0])))
        return None
    name = kind.column() if ":" in item["use"] else item["use"]
    try:
        return Use(name, ref, kind.model_validate(settings))
    except ValidationError as error:
        errors += _messages(source, loc, error, kind)
        return _without_unknown(name, ref, kind, settings, error)


def _without_unknown(name: str, ref: str, kind: type[Stage], settings: dict[str, Any], error: ValidationError) -> Use:
    """The stage without its unknown keys, to be checked further; faulty where more than these is wrong with it."""
    unknown = [tuple(item["loc"]) for item in error.errors() if item["type"] == "extra_forbidden"]
    meant = set()
    for *above, key in unknown:
        node: Any = settings
        for part in above:
            node = node[part]
        del node[key]
        meant |= set(difflib.get_close_matches(str(key), _fields(kind, tuple(above)), 3, 0.5))
    try:
        return Use(name, ref, kind.model_validate(settings), frozenset(meant))
    except ValidationError:
        return Use(name, ref, kind.model_construct(**settings), faulty=True)


def find_stage(use: str, folders: Sequence[Path] = ()) -> tuple[str, type[Stage]]:
    """A stage's name or `module:Class` → its reference and class. Raises LookupError with a message for people."""
    refs = stage_refs()
    if use not in refs and ":" not in use:
        raise LookupError(f"no stage is called `{use}`{nearest(use, refs)}; the stages are {', '.join(refs)}")
    ref = refs.get(use, use)
    try:
        kind = load(ref, folders)
    except Exception as error:
        raise LookupError(f"`{use}` cannot be loaded: {told(error)}") from error
    if not (isinstance(kind, type) and issubclass(kind, Stage)):
        raise LookupError(f"`{use}` is not a Stage")
    return ref, kind


def nearest(word: str, words: Mapping[str, Any] | Sequence[str]) -> str:
    """ ", did you mean `x`?" or nothing."""
    found = difflib.get_close_matches(word, list(words), 1, 0.6)
    return f", did you mean `{found[0]}`?" if found else ""


def _messages(source: _Source, loc: Loc, error: ValidationError, kind: type[BaseModel]) -> list[str]:
    messages = []
    found = error.errors(include_url=False)
    inside = {tuple(item["loc"])[:n] for item in found for n in range(len(item["loc"]))}
    for item in found:
        if item["type"] == "too_short" and tuple(item["loc"]) in inside:
            continue  # of a list with a bad item: it is only the good ones that are too few
        inner: Loc = tuple(item["loc"])
        text = item["msg"]
        if item["type"] == "extra_forbidden":
            fields = _fields(kind, inner[:-1])
            text = f"unknown key `{inner[-1]}`{nearest(str(inner[-1]), fields)}"
        elif item["type"] != "missing":
            text = f"{text}, got {item['input']!r}"[:300]
        messages.append(source.message((*loc, *inner), text))
    return messages


def _fields(kind: type[BaseModel], inner: Loc) -> list[str]:
    """The keys allowed where `inner` leads, as far as nested models tell."""
    for key in inner:
        field = kind.model_fields.get(str(key))
        kind = _model(field.annotation) or kind if field else kind
    return list(kind.model_fields)


def _model(annotation: Any) -> type[BaseModel] | None:
    """The model in an annotation, or in what it is a list of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model(part))), None)


def schema() -> dict[str, Any]:
    """The JSON schema of a recipe, with every stage that comes with Gristmill, for editors."""
    definitions: dict[str, Any] = {}
    options = []
    for name in stage_refs():
        _, kind = find_stage(name)
        own = kind.model_json_schema(ref_template="#/$defs/{model}")
        definitions |= own.pop("$defs", {})
        own["properties"] = {
            "use": {"const": name, "description": own.get("description", "")},
            **own.get("properties", {}),
        }
        own["required"] = ["use", *own.get("required", [])]
        definitions[f"stage_{name}"] = own
        options.append({"$ref": f"#/$defs/stage_{name}"})
    foreign = {"type": "object", "properties": {"use": {"type": "string", "pattern": ":"}}, "required": ["use"]}
    whole = Settings.model_json_schema()
    whole["properties"]["stages"] = {"type": "array", "minItems": 1, "items": {"anyOf": [*options, foreign]}}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Gristmill recipe",
        "type": "object",
        "properties": whole["properties"],
        "required": ["stages"],
        "additionalProperties": False,
        "$defs": definitions,
    }
