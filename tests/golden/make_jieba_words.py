"""Makes jieba_words.json.gz: jieba's words of texts, for tests/test_jieba.py.

Runs where jieba 0.42.1 and pyarrow are installed: make_jieba_words.py FOLDER_OF_PARQUET. Texts are excerpts of 300
characters, eight from each Debian package that the column `source` begins with (Chinese manuals, handbooks, help pages
and fortunes, all under free licences), and hostile strings.
"""

import gzip
import json
import random
import sys
from collections import defaultdict
from pathlib import Path

import jieba
import pyarrow.parquet as pq

HOSTILE = [
    "",
    " \t\r\n　",
    "圆周率约为3.14%，v1.0-beta+2&C#_x.9.8%%",
    "他说hello world，然后用iPhone12Pro拍了100.5%的照片.",
    "研究生命起源结婚的和尚未结婚的长春市长春药店工信处女干事每月经过下属科室",
    "李小福是创新办主任也是云计算方面的专家；他来到了网易杭研大厦",
    "𠀀𪚥龘靐齉爩鱻麤龗灪吁龖厵滟爨癵籱饢驫",
    "龥鿕鿖㐀〇々丨亅丿乀乁乂乄乆乇",
    "臺灣大學與中華民國政府於臺北市舉辦會議，為了電腦軟體的發展。",
    "ひらがなとカタカナと漢字が混ざった文章。한국어도 있고 русский тоже. Ｆｕｌｌｗｉｄｔｈ１２３",
    "的的的的的的的的的的的的一一一一一一一一一一一一" * 4,
    "T恤B超C++卡拉OK α射线γ射线 3G网络 a片AA制",
    "……——！？。，；：“”‘’（）【】《》\u200b\u0301e\u0301😀👨‍👩‍👧",
    "a.b.c-d_e+f#g&h%i 1.2.3.4 1..2 .5 5. % %% 100%%",
    "\x1c\x85\u2028\ufeff\u00a0中\x00文",
]


def main():
    """Writes [text, words] pairs."""
    jieba.setLogLevel(60)
    rng, by_package = random.Random(0), defaultdict(list)
    for file in sorted(Path(sys.argv[1]).glob("*.parquet")):
        table = pq.read_table(file, columns=["source", "text"])
        for source, text in zip(table["source"].to_pylist(), table["text"].to_pylist(), strict=True):
            by_package[source.split("/")[0]].append(text)
    texts = list(HOSTILE)
    for package, found in sorted(by_package.items()):
        if not package.startswith("pypi-"):
            for text in rng.sample(found, min(8, len(found))):
                begin = rng.randrange(max(len(text) - 300, 1))
                texts.append(text[begin : begin + 300])
    rng.shuffle(found := sorted(jieba.dt.FREQ))
    texts += ["".join(found[begin : begin + 40]) for begin in range(0, 1600, 40)]
    rows = [[text, [word for word in jieba.cut(text) if not word.isspace()]] for text in texts]
    data = json.dumps(rows, ensure_ascii=False).encode()
    Path(__file__).with_name("jieba_words.json.gz").write_bytes(gzip.compress(data, 9, mtime=0))


main()
