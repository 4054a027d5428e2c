"""From bytes as they are found to documents: what `ingest` and `extract` are made of.

`streams` gives a file's bytes, decompressed and bounded; `records` cuts them at record ends; `text` and `warc` make
records of them, `rows` documents of records. `tables` reads what is columnar already, `columns` maps it to documents.
`paths` finds files and cuts large ones. `page` and `guard` turn HTML into text in a process of its own.
"""
