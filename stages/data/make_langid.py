"""Makes `langid.safetensors.zst` beside this file, by hand, where py3langid 0.4, numpy, scipy, zstandard are installed.

Reads py3langid's model and writes it as `stages.kernels.langid` wants it, so that nothing is left to do at run time
(py3langid's own file takes half a second to unpack and arrange). What changes is names only: bytes that do the same
become one class, the usual ones first; and rows and features are numbered so that one step of the automaton, its next
row and its feature, fits 32 bits.

Features number 17 bits, and an entry has room for 16. The missing bit is told by the row: features whose states lead on
to the rows below `second` are numbered from 1, the others from 65,537. A feature may lead on to several rows, so
features and rows that hang together are numbered together.
"""

import io
import lzma
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from stages.arrays import write_arrays

LOW = 65_535
LINE = 16
"""Entries of a cache line, on which the rows of the automaton begin; likelihoods that a processor works on together."""


def halves(rows, features, row_count, feature_count):
    """Which rows and which features (0 is none) get the lower numbers, so that just `LOW` features do.

    rows, features: of each state that has a feature.
    """
    nodes = row_count + feature_count
    links = coo_matrix((np.ones(len(rows)), (rows, row_count + features)), shape=(nodes, nodes))
    count, part = connected_components(links, directed=False)
    sizes = np.bincount(part[row_count + 1 :], minlength=count)
    lower, room = np.zeros(count, bool), LOW
    for k in np.argsort(-sizes, kind="stable"):
        if sizes[k] <= room:
            lower[k], room = True, room - sizes[k]
    if room:
        raise SystemExit("the features do not divide as they should")
    return lower[part[:row_count]], lower[part[row_count:]]


def renumbered(lower, first, second):
    """A number for each item: from `first` where it is in the lower half, from `second` where not."""
    numbers = np.empty(len(lower), np.int64)
    numbers[lower], numbers[~lower] = first + np.arange(lower.sum()), second + np.arange((~lower).sum())
    return numbers


def depth(nexts, first):
    """Bytes of the longest feature: steps from the first row to the farthest (Aho and Corasick 1975)."""
    reached, edge, steps = np.zeros(len(nexts), bool), np.array([first]), -1
    while len(edge):
        reached[edge] = True
        steps += 1
        edge = np.setdiff1d(nexts[edge], np.flatnonzero(reached))
    return steps


def main():
    """Writes the file."""
    packed = files("py3langid").joinpath("data", "model.npz.xz").read_bytes()
    with np.load(io.BytesIO(lzma.decompress(packed)), allow_pickle=False) as file:
        model = {name: file[name] for name in file.files}
    row_of, feature_of = model["nextmove_row"].astype(np.int64), model["out_feat"].astype(np.int64) + 1
    states = model["nextmove"].reshape(-1, 256)
    nexts, features = row_of[states], feature_of[states]

    ends = np.unique(states[features > 0])
    lower_rows, lower_features = halves(row_of[ends], feature_of[ends], len(states), len(model["ptc"]) + 1)
    second = int(lower_rows.sum())
    row_number = renumbered(lower_rows, 0, second)
    feature_number = np.concatenate([[0], renumbered(lower_features[1:], 1, LOW + 2)])

    entries = (row_number[nexts] << 16 | feature_number[features] & 0xFFFF).astype(np.uint32)
    usual = sorted(range(256), key=lambda byte: -len(np.unique(entries[:, byte])))
    classes = {}
    byte_class = np.zeros(256, np.uint8)
    for byte in usual:
        byte_class[byte] = classes.setdefault(entries[:, byte].tobytes(), len(classes))
    automaton = np.zeros((len(states), -(-len(classes) // LINE) * LINE), np.uint32)
    automaton[row_number[:, None], byte_class[None, :]] = entries
    columns = -(-len(model["classes"]) // LINE) * LINE
    table = np.zeros((feature_number.max() + 1, columns), np.int16)
    table[feature_number[1:], : len(model["classes"])] = model["ptc"].view(np.int16)

    arrays = {"automaton": automaton, "prior": model["pc"], "table": table, "byte_class": byte_class}
    told = {
        "version": f"py3langid {version('py3langid')}",
        "labels": " ".join(model["classes"]),
        "first": str(row_number[row_of[0]]),
        "second": str(second),
        "longest": str(depth(nexts, row_of[0])),
    }
    write_arrays(Path(__file__).with_name("langid.safetensors.zst"), arrays, told)


main()
