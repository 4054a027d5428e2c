"""What a stage's answer depends on: one canonical form, its fingerprint, and what changed between two of them.

Reads the settings, a user's own code and the versions of installed libraries; writes nothing. The one trade-off: of a
user's code the modules in one folder count, as far as import statements name them; installed packages do not.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import json
import unicodedata
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from pipeline.loading import neighbours
from pipeline.stage import UNICODE, Stage

FORMAT = 2
"""Of the run's folder: raise it when shards or manifests of the same identity are written otherwise."""


class Identity(BaseModel):
    """All that decides a stage's bytes. Two stages of one fingerprint write the same files.

    use: "module:Class". code: digest of a user's own module, None for ours, which carry `version`. settings: every
    field of the stage, defaults too; a worker gets exactly these. libraries: versions of those that decide the answer.
    parent: fingerprint of the stage that is read. artifacts: digest by name. sources: digest of the list of sources,
    without where they lie. limit: of records, for a stage that reads sources.
    """

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    use: str
    code: str | None
    version: int
    settings: dict[str, Any]
    libraries: dict[str, str]
    seed: int
    parent: str | None
    artifacts: dict[str, str]
    sources: str | None
    limit: int | None

    @property
    def fingerprint(self) -> str:
        """Hex sha256 of the canonical JSON."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()

    def changes(self, old: Identity) -> str:
        """What differs from an older identity, in a few words; empty where nothing does."""
        found = [*_differences(old.settings, self.settings), *_differences(old.libraries, self.libraries)]
        found += [
            f"{name} {before!r} → {now!r}"
            for name in ("use", "version", "seed", "limit")
            if (before := getattr(old, name)) != (now := getattr(self, name))
        ]
        found += [
            f"{name} changed" for name in sorted(self.artifacts) if old.artifacts.get(name) != self.artifacts[name]
        ]
        names = {
            "code": "its code",
            "sources": "its inputs",
            "parent": "what it reads",
            "format": "the folder's format",
        }
        found += [f"{words} changed" for name, words in names.items() if getattr(old, name) != getattr(self, name)]
        return "; ".join(found)


def _differences(old: Any, new: Any, at: str = "") -> list[str]:
    """Where two values of settings differ, each as `path old → new`."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*new, *(key for key in old if key not in new)]
        return [d for key in keys for d in _differences(old.get(key), new.get(key), f"{at}.{key}".lstrip("."))]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [d for k in range(len(new)) for d in _differences(old[k], new[k], f"{at}[{k}]")]
    return [f"{at} {old!r} → {new!r}"] if old != new else []


def settings_of(stage: Stage) -> dict[str, Any]:
    """A stage's settings as plain data, defaults too. Raises TypeError where a stage made of them is not the same."""
    settings = stage.model_dump(mode="json")
    if type(stage).model_validate(settings).model_dump(mode="json") != settings:
        raise TypeError(f"{type(stage).__name__}: its settings do not survive being written and read again")
    return settings


def code_of(stage: Stage) -> str | None:
    """The digest of the modules of a user's own stage, of its bases, and of the modules beside them that they import,
    so that an edit is seen; None for ours."""
    if _ours(type(stage)):
        return None
    own = [Path(inspect.getfile(kind)) for kind in type(stage).__mro__ if not _ours(kind)]
    files = dict.fromkeys(file for one in own for file in neighbours(one))
    return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()


def _ours(kind: type) -> bool:
    """Whether a class comes with Gristmill, with what it is built on, or with Python."""
    return kind.__module__.partition(".")[0] in ("pipeline", "stages", "pydantic", "builtins", "abc", "typing")


def libraries_of(stage: Stage) -> dict[str, str]:
    """The versions of the libraries that decide the stage's answer; "" for one that is not installed."""
    return {name: library_version(name) or "" for name in sorted(stage.libraries())}


def library_version(name: str) -> str | None:
    """The version of an installed distribution, or of the character database; None where it is not installed."""
    if name == UNICODE:
        return unicodedata.unidata_version
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
