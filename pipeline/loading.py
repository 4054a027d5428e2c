"""Loads the class that a recipe's `use` names: a stage of Gristmill's own, a file beside the recipe, or an installed
package's.

A file in one of the recipe's folders is loaded by its location, under a private name, and no such folder goes on
Python's search path. So a `stages.py` or `json.py` there takes the place of nothing, and it runs only if the recipe, or
a module that the recipe names, asks for it. A module loaded so imports what it likes; a name that Python finds nowhere
else is looked for beside the module (`import helpers`), and relative imports (`from .helpers import tidy`) work too.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import importlib
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any

BESIDE = "gristmill_beside_"
"""How the private names begin; the rest stands for the folder."""

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("pipeline", "stages")


def stage_refs() -> Mapping[str, str]:
    """The stages that come with Gristmill: name → module:Class."""
    refs: Mapping[str, str] = importlib.import_module("stages").STAGES
    return refs


def is_own(ref: str) -> bool:
    """Whether `module:Class` names a stage that comes with Gristmill."""
    return ref in stage_refs().values()


def load(ref: str, folders: Sequence[Path]) -> Any:
    """What `module:Class` names; folders: where a user's own module may lie. Raises what the module raises."""
    module, _, name = ref.partition(":")
    return getattr(importlib.import_module(module if is_own(ref) else full_name(module, folders)), name)


def full_name(module: str, folders: Sequence[Path]) -> str:
    """The name to import a module by: a private one if its file lies in one of the folders, else its own."""
    for folder in folders:
        if _has(folder, module):
            return f"{_package(folder)}.{module}"
    return module


def neighbours(file: Path) -> list[Path]:
    """A user's module and those of its folder that it imports, directly or by way of others: itself first, the others
    sorted."""
    found: set[Path] = set()
    todo = [file]
    while todo:
        path = todo.pop()
        if path not in found:
            found.add(path)
            todo += [module for name in _imported(path) for module in _files(file.parent, name)]
    return [file, *sorted(found - {file})]


def _imported(file: Path) -> Iterator[str]:
    """The names of modules that import statements of a file may mean."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from [node.module] if node.module else [alias.name for alias in node.names]


def _files(folder: Path, module: str) -> list[Path]:
    """The files of a dotted name in a folder, those of the packages it lies in too."""
    parts = module.split(".")
    paths = [folder.joinpath(*parts[: k + 1]) for k in range(len(parts))]
    files = [file for path in paths for file in (path.with_name(f"{path.name}.py"), path / "__init__.py")]
    return [file for file in files if file.is_file()]


def raised_beside(error: BaseException) -> bool:
    """Whether an exception was raised by, or within a call of, a module that lies beside a recipe."""
    calls = (frame.f_globals.get("__name__") for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(str(name).startswith(BESIDE) for name in calls)


def _has(folder: Path, module: str) -> bool:
    """Whether a folder has the module's file, unless that is Gristmill's own."""
    parts = module.split(".")
    if not all(part.isidentifier() for part in parts) or (parts[0] in PACKAGES and folder.resolve() == ROOT):
        return False
    path = folder.joinpath(*parts)
    return path.with_name(f"{path.name}.py").is_file() or (path / "__init__.py").is_file()


def _package(folder: Path) -> str:
    """The private package that holds a folder's modules."""
    place = str(folder.resolve())
    name = BESIDE + hashlib.sha256(os.fsencode(place)).hexdigest()[:12]
    if name not in sys.modules:
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [place]
        sys.modules[name] = module_from_spec(spec)
        if _Finder not in sys.meta_path:
            sys.meta_path.insert(0, _Finder)
    return name


class _Finder:
    """Finds the modules of private packages."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if path is None or not name.startswith(BESIDE):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(name, str(spec.loader.path))
        return spec


class _Loader(SourceFileLoader):
    """Gives a module an `import` of its own, which knows the module's neighbours."""

    def exec_module(self, module: ModuleType) -> None:
        package = module.__name__.partition(".")[0]
        vars(module)["__builtins__"] = {**vars(builtins), "__import__": partial(_import, package)}
        super().exec_module(module)


def _import(
    package: str,
    name: str,
    globals_: Mapping[str, Any] | None = None,
    locals_: Mapping[str, Any] | None = None,
    names: Sequence[str] = (),
    level: int = 0,
) -> Any:
    """Python's own import; then a neighbour's, for a name that Python finds nowhere."""
    top = name.partition(".")[0]
    try:
        return builtins.__import__(name, globals_, locals_, names, level)
    except ModuleNotFoundError as error:
        if level or error.name != top:
            raise
        missing = error
    try:
        found = builtins.__import__(f"{package}.{name}", globals_, locals_, names)
    except ModuleNotFoundError as error:
        if error.name == f"{package}.{top}":
            raise missing from None
        raise
    return found if names else getattr(found, top)
