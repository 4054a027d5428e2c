"""Slow, plain twins of the readers' scanners: one byte after the other, the whole stream at once."""

import re


def lines(data: bytes) -> list[bytes]:
    """Lines with their line feeds."""
    return data.splitlines(keepends=True) if b"\r" not in data else re.findall(rb"[^\n]*\n|[^\n]+", data)


def blank_line_blocks(data: bytes) -> list[bytes]:
    """What lies between blank lines, stripped, without what is only white space."""
    blocks: list[list[bytes]] = [[]]
    for line in data.split(b"\n"):
        if line.strip():
            blocks[-1].append(line)
        else:
            blocks.append([])
    return [b"\n".join(block).strip() for block in blocks if block]
