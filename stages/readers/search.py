"""Looks for files below a folder: all of them, or those that a glob means; links are followed, each folder once.

Reads folders and never opens a file; gives names below the folder, and a sentence for what cannot be looked at. Folders
themselves come before links to them, so that each file has one name, whatever order the file system has. The one
trade-off: a folder below that two names lead to is read under one of them, where a shell's glob gives both.
"""

from __future__ import annotations

import fnmatch
import os
import re
import stat
from collections import deque
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from pipeline.names import shown_name

MAGIC = re.compile(r"[*?\[]")
GONE = "is gone"
EVERYTHING = ("**",)
"""The pattern of all files at any depth."""


@dataclass
class Found:
    """What a search gives.

    files: names below the folder. folders: names of folders that the pattern's end matches. again: links to folders
    that are read under another name. hidden: names that begin with "." or "_", where such are left out. faults: what
    cannot be read, a sentence each.
    """

    files: dict[str, None] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def search(root: Path, pattern: tuple[str, ...], hidden: str) -> Found:
    """The files below `root` that match a pattern, given by its components.

    `**` stands for any number of folders, and at the end for all that is in them. A component that has brackets and is
    the name of something that exists is taken as it is written. hidden: the first characters of names that wildcards do
    not match.
    """
    looking = _Search(root, hidden)
    looking.match("", pattern)
    while looking.links:
        looking.follow(*looking.links.popleft())
    found = looking.found
    found.folders = [name for name in found.folders if not any(file.startswith(f"{name}/") for file in found.files)]
    return found


def kind_of(path: Path) -> str:
    """ "file", "folder", or what is wrong with anything else."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "is a link to nothing" if path.is_symlink() else GONE
    except (OSError, ValueError) as error:
        return f"cannot be read ({getattr(error, 'strerror', None) or error})"
    if stat.S_ISDIR(mode):
        return "folder"
    return "file" if stat.S_ISREG(mode) else "is a pipe, socket or device, which is never opened"


def may_read(path: str) -> bool:
    """Whether this process may read a file, without opening it."""
    return os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids)


class _Search:
    """A search under way: what it found, the links to be followed after all folders, the folders it has been in."""

    def __init__(self, root: Path, hidden: str) -> None:
        self.root, self.hidden = root, tuple(hidden)
        self.found = Found()
        self.links: deque[tuple[str, tuple[str, ...]]] = deque()
        self.visited: set[tuple[int, int, int]] = set()

    def match(self, below: str, pattern: tuple[str, ...]) -> None:
        """Takes what matches the pattern in the folder of this name."""
        head, rest = pattern[0], pattern[1:]
        if head == "**":
            self._everything(below, pattern)
        elif not MAGIC.search(head) or (not {"*", "?"} & set(head) and os.path.lexists(self.root / below / head)):
            self._take(_join(below, head), rest)
        else:
            matches = _matcher(head)
            for name, entry in self._listed(below):
                if matches.match(name) and (not name.startswith(self.hidden) or head.startswith(self.hidden)):
                    self._take(_join(below, name), rest, is_file=_is_file(entry))

    def follow(self, below: str, pattern: tuple[str, ...]) -> None:
        """Goes on behind a link to a folder, unless that has been read already."""
        if self._new(below, pattern):
            self.match(below, pattern)
        else:
            self.found.again.append(below)

    def _everything(self, below: str, pattern: tuple[str, ...]) -> None:
        """The rest of the pattern here and in all folders below; all files where nothing of the pattern is left."""
        if not below:
            self._new(below, pattern)
        if pattern[1:]:
            self.match(below, pattern[1:])
        for name, entry in self._listed(below):
            child = _join(below, name)
            if name.startswith(self.hidden):
                self._hide(child)
            elif _is_folder(entry):
                if entry.is_symlink():
                    self.links.append((child, pattern))
                elif self._new(child, pattern):
                    self.match(child, pattern)
            elif not pattern[1:]:
                self._take(child, (), is_file=_is_file(entry))

    def _take(self, child: str, rest: tuple[str, ...], *, is_file: bool = False) -> None:
        """Goes on below a name that matches; at the pattern's end it is a file, a folder or a fault."""
        kind = "file" if is_file else kind_of(self.root / child)
        if kind == "folder" and rest:
            self.match(child, rest)
        elif kind == "folder":
            self.found.folders.append(child)
        elif kind == "file" and not rest:
            self.found.files[child] = None
        elif kind not in ("file", GONE):
            self.found.faults.append(f"{shown_name(self.root / child)} {kind}")

    def _listed(self, below: str) -> list[tuple[str, os.DirEntry[str]]]:
        """What is in a folder, by name."""
        try:
            with os.scandir(self.root / below) as entries:
                return sorted((entry.name, entry) for entry in entries)
        except FileNotFoundError:
            return []
        except OSError as error:
            name = shown_name(self.root / below)
            self.found.faults.append(f"{name} is a folder that cannot be read ({error.strerror})")
            return []

    def _new(self, below: str, pattern: tuple[str, ...]) -> bool:
        """Whether the folder has not been entered yet with so much of the pattern left; notes that it has."""
        try:
            about = (self.root / below).stat()
        except OSError:
            return True  # `_listed` tells why it cannot be read
        key = (about.st_dev, about.st_ino, len(pattern))
        new = key not in self.visited
        self.visited.add(key)
        return new

    def _hide(self, child: str) -> None:
        """Notes the files of a hidden name, without following links."""
        path = self.root / child
        if not path.is_dir() or path.is_symlink():
            self.found.hidden.append(child)
            return
        for folder, _, names in os.walk(path):
            inside = Path(folder).relative_to(self.root).as_posix()
            self.found.hidden += [_join(inside, name) for name in sorted(names)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # `kind_of` tells why


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def _join(below: str, name: str) -> str:
    return f"{below}/{name}" if below else name


@cache
def _matcher(pattern: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(pattern))
