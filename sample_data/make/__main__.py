"""Makes the sample dump from unpacked Debian packages: `python sample_data/make PACKAGES [FOLDER]`.

PACKAGES holds a folder per package, each as `dpkg-deb --extract` leaves it; FOLDER is where the dump goes (else this
folder's parent). The one trade-off: the same packages give the same bytes, at half a minute a run.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import plan
from choice import choose, furniture, hurt
from dump import Dump
from sources import Page, digest, nobody, poems, tidy


def books(dump: Dump, root: Path) -> None:
    """The text files: books of the Bible, a dictionary, poems, and one file that is not UTF-8."""
    for page in plan.shelf(root, "bible"):
        if page.title in plan.BOOKS:
            dump.book(f"books/kjv-{page.title.lower()}.txt", replace(page, text=page.text + "\n"))
    text = nobody(plan.devils_dictionary(root))
    dump.book("books/devils-dictionary.txt", Page("dict-devil", "", "en", "The Devil's Dictionary", text))
    for name, title in (("tang300", "唐诗三百首"), ("song100", "宋诗一百首")):
        text = f"{title}\n\n" + "\n\n".join(poems(root, name)) + "\n"
        dump.book(f"books/{name}.zh.txt", Page("fortunes-zh", "", "zh", title, text))
    latin = next(page for page in plan.shelf(root, "gnome/fr") if 1500 < len(page.text) < 3000)
    data = tidy(latin.text).encode("latin-1", errors="ignore")
    dump.write("books/latin1.fr.txt", data)
    dump.bad("books/latin1.fr.txt", 0, "invalid_utf8", data)


def make(root: Path, folder: Path) -> Dump:
    """The whole dump, written; a summary comes back in it."""
    dump = Dump(folder)
    docs = sorted(hurt(choose(root) + furniture(root)), key=lambda d: digest("order" + d.page.id))
    for file in plan.PLAN:
        mine = [d for d in docs if d.file == file]
        writers = {"web": dump.warc, "docs": dump.jsonl, "wiki-like": dump.parquet}
        writers[file.partition("/")[0]](file, mine)
    books(dump, root)
    dump.finish()
    return dump


def summary(dump: Dump) -> str:
    """Bytes and documents by file, language and kind."""
    lines = []
    for what in ("file", "lang", "kind", "script", "package"):
        count, size = Counter[str](), Counter[str]()
        for row in dump.truth:
            count[str(row.get(what))] += 1
            size[str(row.get(what))] += row.get("text_bytes", 0)
        lines += [f"{what:8} {k:32} {count[k]:6,} {size[k]:12,}" for k, _ in size.most_common()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    target = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).parents[1]
    sys.stdout.write(summary(make(Path(sys.argv[1]), target)))
