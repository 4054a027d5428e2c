"""Makes `jieba.json.zst` beside this file: run by hand where jieba 0.42.1 and zstandard are installed.

Reads jieba's dictionary (`dict.txt`) and the probabilities of its hidden Markov model (`finalseg/prob_*.py`), and
writes them as one compressed JSON object; jieba is not needed to run the pipeline. Word classes are left out. Where the
dictionary has a word twice, jieba takes the last frequency, and both for the total.
"""

import json
from pathlib import Path

import jieba
import zstandard
from jieba.finalseg import emit_P, start_P, trans_P


def dictionary():
    """Word → frequency, by code point, and the sum of all frequencies."""
    found, total = {}, 0
    for line in (Path(jieba.__file__).parent / "dict.txt").read_text("utf-8").splitlines():
        word, frequency, _ = line.split(" ")
        found[word] = int(frequency)
        total += int(frequency)
    return dict(sorted(found.items())), total


def emission(state):
    """The characters that a state emits, and the logarithm of each one's probability."""
    found = dict(sorted(emit_P[state].items()))
    return {"characters": "".join(found), "values": list(found.values())}


def main():
    """Writes the file."""
    words, total = dictionary()
    tables = {
        "version": f"jieba {jieba.__version__}",
        "total": total,
        "words": "\n".join(words),
        "frequencies": list(words.values()),
        "start": start_P,
        "transition": trans_P,
        "emission": {state: emission(state) for state in "BEMS"},
    }
    data = json.dumps(tables, ensure_ascii=False, separators=(",", ":")).encode()
    packer = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters.from_level(22, window_log=23)
    )
    Path(__file__).with_name("jieba.json.zst").write_bytes(packer.compress(data))


main()
