"""Language of each document: label, score and script; documents outside the keep-list are dropped.

Reads documents; writes `lang`, `lang_score` (0–1) and the struct column `language`, whose `script` is the ISO 15924
code of the script of most letters. Simplified and traditional Chinese have one label, `zh`, and two scripts, Hans and
Hant. The default is py3langid's model run by a kernel over whole batches; the other two backends are called document by
document, which is the price of choosing them.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from pipeline.rows import DOCUMENT, drop_rows, with_column, with_field
from pipeline.stage import UNICODE, Each, Emit, Problem, Stage, Task, each_batch, resolve
from stages.arrays import LINE, from_a_line, read_arrays
from stages.letters import Letters

UNKNOWN = "und"
"""The label of a text in which a backend finds nothing to go by (ISO 639-2)."""
MOST_WEIGHTS = 4096
SCRIPT = pa.field("language", pa.struct([pa.field("script", pa.string())]))

Span = tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]
"""Texts as (bytes, where each starts, where each ends)."""
Labels = tuple[list[str], NDArray[np.float64]]
Share = Annotated[float, Field(ge=0, le=1)]


class Language(Stage):
    """Labels each document with its language and script; with `keep`, drops the rest."""

    version: ClassVar[int] = 1
    backend: Literal["langid", "langdetect", "fasttext"] = Field(
        "langid", description="Who tells the language: py3langid's model, langdetect, or a fastText model of your own."
    )
    keep: dict[str, Share] | None = Field(
        None,
        description="Labels to keep, each with its least score: {en: 0.65, zh: 0.65}. Labels are the backend's own. "
        "null: label, drop nothing.",
    )
    model: str | None = Field(None, description="fasttext: path of the model (lid.176.bin, GlotLID's model.bin).")
    seed: int = Field(0, description="langdetect: seed of its random sampling, set anew for every document.")
    max_chars: int | None = Field(None, ge=1, description="Characters looked at in a document; null: all.")

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]  # which files a stage needs may hang on its settings
        """The fastText model, which the plan finds from the recipe's folders and hands over as an artifact."""
        return ("model",) if self.backend == "fasttext" and self.model is not None else ()

    def check(self, folders: list[Path]) -> list[Problem]:  # type: ignore[override]
        """A missing model, a missing package, labels that the backend never gives."""
        if self.backend == "fasttext":
            return self._check_fasttext(folders)
        problems = [] if self.model is None else [Problem(("model",), "only the fasttext backend reads a model")]
        if not self.keep:
            return problems
        known = (
            set(_langid().labels) if self.backend == "langid" else set(map(_folded, _langdetect(self.seed).langlist))
        )
        return problems + [
            Problem(("keep", label), f"{self.backend} has no label `{label}`; it has {' '.join(sorted(known))}")
            for label in sorted(set(self.keep) - known)
        ]

    def _check_fasttext(self, folders: list[Path]) -> list[Problem]:
        from importlib.util import find_spec

        problems = []
        if find_spec("fasttext") is None:
            problems.append(Problem(("backend",), "fastText is not installed: pip install 'gristmill[fasttext]'"))
        if self.model is None:
            problems.append(Problem(("backend",), "the fasttext backend needs `model: PATH`"))
        elif not resolve(self.model, folders).is_file():
            problems.append(Problem(("model",), f"no such file: {self.model}"))
        return problems

    def libraries(self) -> tuple[str, ...]:
        """The backend that is a library, and what Python knows of characters; the model of langid comes with us."""
        names = {"langdetect": ("langdetect",), "fasttext": ("fasttext-predict",)}
        return (*names.get(self.backend, ()), UNICODE)

    def kernels(self) -> tuple[str, ...]:
        """Those that count letters, py3langid's model, and the one that clips texts."""
        chosen = {"letters": True, "langid": self.backend == "langid", "text": self.max_chars is not None}
        return tuple(f"stages.kernels.{name}" for name, needed in chosen.items() if needed)

    def steps(self) -> tuple[Each, ...]:
        """One pass over the shards."""
        return (Each("label", each_batch(self._label), schema=lambda incoming: with_field(incoming, SCRIPT)),)

    def _label(self, batch: pa.RecordBatch, task: Task) -> Emit:
        span = _span(batch, self.max_chars)
        letters = Letters.of(*span)
        labels, scores = self._identify(span, letters, task)
        batch = with_column(batch, DOCUMENT.field("lang"), pa.array(labels, pa.string()))
        batch = with_column(batch, DOCUMENT.field("lang_score"), pa.array(scores.astype(np.float32)))
        scripts = pa.StructArray.from_arrays([pa.array(letters.scripts(), pa.string())], fields=list(SCRIPT.type))
        return self._sieve(with_column(batch, SCRIPT, scripts), labels, scores.astype(np.float32), task)

    def _identify(self, span: Span, letters: Letters, task: Task) -> Labels:
        if self.backend == "langid":
            return _langid().classify(_as_langid_reads(span, letters.may_be_read_anew()))
        texts = [str(span[0].data[a:b], "utf-8") for a, b in zip(*span[1:], strict=True)]
        found = [self._ask(text, task) for text in texts]
        return [label for label, _ in found], np.array([score for _, score in found], np.float64)

    def _ask(self, text: str, task: Task) -> tuple[str, float]:
        if self.backend == "langdetect":
            return _ask_langdetect(text, self.seed)
        return _ask_fasttext(text, task.artifacts["model"])

    def _sieve(self, batch: pa.RecordBatch, labels: list[str], scores: NDArray[np.float32], task: Task) -> Emit:
        """Drops what the keep-list does not name, by a rule that names the label, and what scores under its limit."""
        if self.keep is None:
            return Emit(rows=batch)
        broken: list[list[dict[str, Any]]] = []
        for label, score in zip(labels, scores, strict=True):
            limit = self.keep.get(label)
            if limit is None:
                broken.append([{"rule": f"language:{label}", "score": 0.0, "limit": 1.0}])
            elif score < np.float32(limit):
                broken.append([{"rule": "language_score", "score": float(score), "limit": limit}])
            else:
                broken.append([])
        lost = np.array([bool(rules) for rules in broken], np.bool_)
        if not lost.any():
            return Emit(rows=batch)
        reasons = [rules for rules in broken if rules]
        drops = drop_rows(batch.filter(pa.array(lost)), task, [rules[0]["rule"] for rules in reasons], broken=reasons)
        return Emit(rows=batch.filter(pa.array(~lost)), drops=drops)


def _span(batch: pa.RecordBatch, most: int | None) -> Span:
    from stages.kernels.arrow import read_only, text_buffers
    from stages.kernels.text import clip

    data, offsets = text_buffers(batch["text"])
    ends = offsets[1:] if most is None else clip(data, offsets, most)
    return data, offsets[:-1], read_only(ends)


class Langid(NamedTuple):
    """py3langid's model: its labels by class, and the arguments of the kernel after the texts."""

    labels: list[str]
    arrays: tuple[Any, ...]

    def classify(self, span: Span) -> Labels:
        """Label and probability of each text, as py3langid's `classify` with `norm_probs` gives them."""
        from stages.kernels.langid import classify

        winners, scores = classify(*span, *self.arrays)
        return [self.labels[k] for k in winners], scores


@cache
def _langid() -> Langid:
    """The model of py3langid 0.4, arranged for the kernel (`data/langid.md`)."""
    from stages.kernels.langid import SLOTS

    model, told = read_arrays(Path(__file__).with_name("data") / "langid.safetensors.zst")
    labels = told["labels"].split()
    alias = np.array([labels.index(label) for label in labels], np.int64)
    weights = np.log1p(np.arange(MOST_WEIGHTS, dtype=np.float32))
    numbers = (int(told["first"]), int(told["second"]), int(told["longest"]))
    steps, table = (model["automaton"], model["byte_class"], *numbers), model["table"]
    size = len(table) * SLOTS
    rough = from_a_line(np.zeros(size + LINE, np.uint8))[:size].reshape(-1, SLOTS)
    columns = np.zeros((len(labels), len(table) + 1), np.int16)
    return Langid(labels, (*steps, table, model["prior"], alias, weights, rough, columns))


def _as_langid_reads(span: Span, doubtful: NDArray[np.bool_]) -> Span:
    """The texts as py3langid encodes them: in lower case if all is upper case, in NFC. Most are left where they lie.

    doubtful: bool[texts], those that are to be looked at.
    """
    from stages.kernels.arrow import read_only
    from stages.normalisation import normalize

    data, starts, ends = span
    view, changed = data.data, {}
    for k in np.flatnonzero(doubtful).tolist():
        text = str(view[starts[k] : ends[k]], "utf-8")
        new = normalize("NFC", text.lower() if text.isupper() else text)
        if new != text:
            changed[k] = new.encode()
    if not changed:
        return span
    pieces = [changed.get(k, view[a:b]) for k, (a, b) in enumerate(zip(starts, ends, strict=True))]
    bounds = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])]).astype(np.int64)
    return read_only(np.frombuffer(b"".join(pieces), np.uint8)), read_only(bounds[:-1]), read_only(bounds[1:])


@cache
def _langdetect(seed: int) -> Any:
    """A factory of langdetect's own, its profiles in the order of their names; each detector starts from the seed."""
    from importlib.resources import files

    from langdetect.detector_factory import DetectorFactory

    profiles = sorted(files("langdetect").joinpath("profiles").iterdir(), key=lambda path: path.name)
    factory = DetectorFactory()
    factory.load_json_profile([path.read_text("utf-8") for path in profiles if "." not in path.name])
    factory.seed = seed
    return factory


def _ask_langdetect(text: str, seed: int) -> tuple[str, float]:
    from langdetect.lang_detect_exception import LangDetectException

    detector = _langdetect(seed).create()
    detector.append(text)
    try:
        found = detector.get_probabilities()
    except LangDetectException:  # no feature in the text
        return UNKNOWN, 0.0
    return (_folded(found[0].lang), found[0].prob) if found else (UNKNOWN, 0.0)


def _folded(label: str) -> str:
    """langdetect's zh-cn and zh-tw are one language in two scripts."""
    return "zh" if label.startswith("zh-") else label


@cache
def _fasttext(path: Path) -> Any:
    from fasttext import load_model

    return load_model(str(path))


def _ask_fasttext(text: str, path: Path) -> tuple[str, float]:
    """fastText reads one line; its probabilities may pass 1 by rounding."""
    labels, scores = _fasttext(path).predict(text.replace("\n", " "), k=1)
    return (labels[0].removeprefix("__label__"), min(float(scores[0]), 1.0)) if labels else (UNKNOWN, 0.0)
