"""Questions put to a model: how likely it finds each answer, as lm-evaluation-harness asks.

Reads JSON lines, one question each, gives a score a file. Two forms, all lines of a file of one: multiple choice
`{"query": "…", "choices": ["…", "…"], "gold": 1}` and cloze `{"text": "…", "target": "…"}`. An answer follows its
question after `"delimiter"`, one blank unless the line says otherwise (`""` in Chinese). Questions share no batch row
and no padding; the price is that a question's tokens are read once for each of its choices.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from tokenizers import Tokenizer
from torch import Tensor

from stages.inference.generate import Weights, ready
from stages.train.attention import layout
from stages.train.loss import CHUNK
from stages.train.model import Model

BATCH_TOKENS = 8192


class Choices(BaseModel):
    """A question with several answers, of which `choices[gold]` is right."""

    model_config = ConfigDict(extra="ignore", strict=True)
    query: str
    choices: Annotated[list[str], Field(min_length=2)]
    gold: Annotated[int, Field(ge=0)]
    delimiter: str = " "

    def pairs(self) -> list[tuple[str, str]]:
        """(context, continuation) of each answer."""
        return [(self.query, self.delimiter + choice) for choice in self.choices]


class Cloze(BaseModel):
    """A text and how it goes on."""

    model_config = ConfigDict(extra="ignore", strict=True)
    text: str
    target: Annotated[str, Field(min_length=1)]
    delimiter: str = " "

    def pairs(self) -> list[tuple[str, str]]:
        """(context, continuation)."""
        return [(self.text, self.delimiter + self.target)]


QUESTION: TypeAdapter[Choices | Cloze] = TypeAdapter(Choices | Cloze)


@dataclass(frozen=True)
class Likelihood:
    """log p of a continuation, in nats, and whether each of its tokens is the likeliest one."""

    logp: float
    greedy: bool


def evaluate(model_folder: Path, files: Sequence[Path], weights: Weights = "fp32") -> dict[str, dict[str, float]]:
    """Scores a model on files of questions: numbers by file name. Raises ValueError for a line that is no question."""
    model, config = ready(model_folder, weights)
    tokenizer = Tokenizer.from_file(str(model_folder / "tokenizer.json"))
    bos, eos, longest = (config[name] for name in ("bos_token_id", "eos_token_id", "max_position_embeddings"))
    found = {}
    for file in files:
        questions = read_questions(file)
        texts = [pair for question in questions for pair in question.pairs()]
        begins = [eos if bos is None and not context.rstrip() else bos for context, _ in texts]
        pairs = [encode_pair(tokenizer, *pair, begin, longest) for pair, begin in zip(texts, begins, strict=True)]
        found[file.name] = score(questions, likelihoods(model, pairs))
    return found


def read_questions(file: Path) -> list[Choices] | list[Cloze]:
    """The questions of a file; blank lines are passed over. Raises ValueError with file:line for what is none."""
    found: list[Any] = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            question = QUESTION.validate_json(line)
        except ValidationError:
            raise ValueError(
                f'{file}:{number}: neither {{"query", "choices", "gold"}} nor {{"text", "target"}}: {line[:80]}'
            ) from None
        if isinstance(question, Choices) and question.gold >= (count := len(question.choices)):
            raise ValueError(f"{file}:{number}: gold {question.gold} of {count} choices, counted from 0")
        if not all(answer for _, answer in question.pairs()):
            raise ValueError(f"{file}:{number}: an empty answer after an empty delimiter: {line[:80]}")
        if found and type(question) is not type(found[0]):
            raise ValueError(f"{file}:{number}: multiple choice and cloze in one file")
        found.append(question)
    if not found:
        raise ValueError(f"{file}: no questions")
    return found


def encode_pair(
    tokenizer: Tokenizer, context: str, continuation: str, bos: int | None, longest: int
) -> tuple[list[int], int]:
    """(ids, how many at their end are the continuation's): BOS, the context, the continuation. The last `longest + 1`
    tokens stay, since a model of that length reads all but the last of them.

    bos: None where documents began without one; an empty context is then the end token (lm_eval, prefix_token_id).
    Blanks at the context's end count to the continuation. The context is encoded alone; the continuation's tokens are
    those of both as one text after as many as the context has, one at least. Where a token spans the boundary, what is
    asked is thus not quite the text, but it is what lm_eval asks (0.4.13, api/model.py, TemplateLM._encode_pair;
    models/huggingface.py, HFLM._loglikelihood_tokens).
    """
    own = tokenizer.encode(context.rstrip(), add_special_tokens=False).ids
    whole = tokenizer.encode(context + continuation, add_special_tokens=False).ids
    answer = whole[min(len(own), len(whole) - 1) :]
    ids = [*([] if bos is None else [bos]), *own, *answer][-(longest + 1) :]
    return ids, min(len(answer), len(ids) - 1)


@torch.no_grad()
def likelihoods(model: Model, pairs: Sequence[tuple[list[int], int]]) -> list[Likelihood]:
    """How likely each continuation is; pairs: ids, and the number at their end that are asked for, fewer than all.

    The model reads all but the last id of each.
    """
    found = []
    for batch in _batches(pairs):
        lengths = np.array([len(ids) - 1 for ids, _ in batch])
        ends = np.cumsum(lengths)
        ids = torch.tensor([one for ids, _ in batch for one in ids[:-1]], dtype=torch.int64)
        wanted = torch.tensor([one for ids, count in batch for one in ids[len(ids) - count :]])
        positions = torch.from_numpy(np.arange(len(ids)) - np.repeat(ends - lengths, lengths))
        asked = np.concatenate([np.arange(end - count, end) for end, (_, count) in zip(ends, batch, strict=True)])
        where = layout(lengths.tolist(), model.shape.heads, model.shape.kv_heads, model.device)
        hidden = model(ids.to(model.device), positions.to(model.device), where)
        hidden = hidden[torch.from_numpy(asked).to(model.device)]
        logp, right = (torch.cat(column) for column in zip(*_answers(model, hidden, wanted), strict=True))
        cuts = [count for _, count in batch]
        parts = zip(torch.split(logp, cuts), torch.split(right, cuts), strict=True)
        found += [Likelihood(float(nats.sum()), bool(hits.all())) for nats, hits in parts]
    return found


def _answers(model: Model, hidden: Tensor, wanted: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """log p of each wanted token (float64) and whether it is the likeliest, a few logits at a time."""
    rows = max(1, CHUNK // model.shape.vocab)
    for states, tokens in zip(torch.split(hidden, rows), torch.split(wanted, rows), strict=True):
        logits = model.logits(states).cpu()
        yield logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0].double(), logits.argmax(-1) == tokens


def _batches(pairs: Sequence[tuple[list[int], int]]) -> Iterator[list[tuple[list[int], int]]]:
    """Neighbours together, `BATCH_TOKENS` at most."""
    batch: list[tuple[list[int], int]] = []
    size = 0
    for pair in pairs:
        if batch and size + len(pair[0]) > BATCH_TOKENS:
            yield batch
            batch, size = [], 0
        batch.append(pair)
        size += len(pair[0])
    yield batch


def score(questions: Sequence[Choices | Cloze], answers: Sequence[Likelihood]) -> dict[str, float]:
    """Numbers of a file. answers: one for each pair of each question, in order.

    Multiple choice: acc takes the likeliest choice, acc_norm the likeliest per character (lm_eval, api/task.py,
    ConfigurableTask.process_results). Cloze: exact, all tokens the likeliest; perplexity of a target, as LAMBADA's.
    """
    if isinstance(questions[0], Cloze):
        exact = np.array([answer.greedy for answer in answers], np.float64)
        return {
            "items": len(questions),
            **_share("exact", exact),
            "perplexity": math.exp(-sum(answer.logp for answer in answers) / len(answers)),
        }
    left, likeliest, by_length = iter(answers), [], []
    for question in questions:
        assert isinstance(question, Choices)  # noqa: S101 - a file is of one form
        logps = np.array([next(left).logp for _ in question.choices])
        lengths = np.array([max(len(choice), 1) for choice in question.choices])
        likeliest.append(float(logps.argmax() == question.gold))
        by_length.append(float((logps / lengths).argmax() == question.gold))
    return {
        "items": len(questions),
        **_share("acc", np.array(likeliest)),
        **_share("acc_norm", np.array(by_length)),
    }


def _share(name: str, hits: Any) -> dict[str, float]:
    """A mean and its standard error."""
    error = float(hits.std(ddof=1) / math.sqrt(len(hits))) if len(hits) > 1 else math.nan
    return {name: float(hits.mean()), f"{name}_stderr": error}


def as_text(found: dict[str, dict[str, float]]) -> str:
    """The numbers for people, a line a file."""
    return "\n".join(
        f"{name}: " + ", ".join(f"{key} {value:,.4g}" for key, value in numbers.items())
        for name, numbers in found.items()
    )


def as_json(found: dict[str, dict[str, float]]) -> Any:
    """The numbers for programs; what is not a number is null."""
    return json.loads(json.dumps(found).replace("NaN", "null"))
