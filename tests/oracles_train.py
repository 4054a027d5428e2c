"""Plain twins of the trainer's fast parts, with masks and one document at a time; and small data to train on."""

import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional as fn

from stages.packed_rows import METADATA, PACKED
from stages.train.data import Batch
from stages.train.model import Shape

SHAPE = Shape(vocab=97, depth=2, width=32, heads=4, kv_heads=2, ffn=64)
LENGTH = 24


def plain_attention(q: Tensor, k: Tensor, v: Tensor, lengths: list[int]) -> Tensor:
    """[N, heads, head]: every score made, those of other documents and later tokens masked away."""
    document = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    seen = (document[:, None] == document[None, :]).tril()
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) / q.shape[2] ** 0.5
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(~seen, float("-inf")).softmax(-1), v)


def plain_loss(hidden: Tensor, head: Tensor, labels: Tensor, z: float) -> Tensor:
    """Summed cross-entropy and z-loss from whole logits."""
    logits = hidden @ head.T
    return fn.cross_entropy(logits, labels, reduction="sum") + z * (logits.logsumexp(-1) ** 2).sum()


def plain_ngram_nats(learnt: list[Batch], batch: Batch, vocab: int) -> np.ndarray:
    """Witten-Bell from unigrams to trigrams, one token at a time; a document begins after an endless run of nothing."""
    followers: dict[tuple[int | None, ...], Counter[int]] = defaultdict(Counter)

    def histories(of: Batch) -> Iterator[tuple[int, list[tuple[int | None, ...]]]]:
        ids, positions, labels = of.ids.tolist(), of.positions.tolist(), of.labels.tolist()
        for k, label in enumerate(labels):
            if label >= 0:
                last, other = ids[k], ids[k - 1] if positions[k] else None
                yield label, [(), (last,), (other, last)]

    for one in learnt:
        for label, contexts in histories(one):
            for context in contexts:
                followers[context][label] += 1
    found = []
    for label, contexts in histories(batch):
        share = 1 / vocab
        for context in contexts:
            seen = followers[context]
            if seen:
                share = (seen[label] + len(seen) * share) / (seen.total() + len(seen))
        found.append(-math.log(share))
    return np.array(found)


def tiny_tokenizer(folder: Path) -> Path:
    """A byte-level tokenizer of about 270 tokens, the last three special; its tokenizer.json."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=270, initial_alphabet=sorted(alphabet), show_progress=False)
    tokenizer.train_from_iterator(["the mill grinds 磨坊"] * 9, trainer)
    tokenizer.add_special_tokens(["<|bos|>", "<|eos|>", "<|pad|>"])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    roles = {f"{role}_token": f"<|{role}|>" for role in ("bos", "eos", "pad")}
    (folder / "tokenizer_config.json").write_text(json.dumps(roles))
    return folder / "tokenizer.json"


def pack_meta(tokenizer: Path) -> dict[str, object]:
    """What `pack` would say of shards made with a tokenizer."""
    size = Tokenizer.from_file(str(tokenizer)).get_vocab_size()
    ids = {"bos_id": size - 3, "eos_id": size - 2, "pad_id": size - 1}
    digest = hashlib.sha256(tokenizer.read_bytes()).hexdigest()
    return {"sequence_length": LENGTH, "vocab_size": size, **ids, "tokenizer_sha256": digest}


def write_rows(path: Path, count: int, meta: dict[str, object], seed: int) -> None:
    """Rows of two or three segments, every third one padded."""
    chance = np.random.default_rng(seed)
    rows = []
    for k in range(count):
        lengths = [10, 14] if k % 3 else [5, 9, 6]
        ids = chance.integers(32, 120, sum(lengths)).tolist()
        segments = range(len(lengths))
        rows.append(
            {
                "input_ids": ids + [meta["pad_id"]] * (LENGTH - len(ids)),
                "seq_lengths": lengths,
                "doc_ids": [f"{path.stem}-{k}-{s}" for s in segments],
                "doc_offsets": [0 for s in segments],
                "sources": [f"{'web' if s else 'books'}/{k}.jsonl" for s in segments],
                "langs": ["en" if s else None for s in segments],
            }
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = PACKED.with_metadata({METADATA: json.dumps(meta)})
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=16)
