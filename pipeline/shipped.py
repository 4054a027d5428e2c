"""What comes with Gristmill beside its code: recipes and a small sample of data.

Looks beside the code, where a wheel puts them, and in the checkout; writes a recipe and, if nothing is in its place,
the sample. The one trade-off: the sample that goes out is the small one, in the checkout too, so that `init` does the
same everywhere.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
SAMPLE = "sample_data"
"""The folder that the recipes' inputs name."""
SCHEMA = "# yaml-language-server: $schema=./schema.json\n"
"""The first line of the recipes in `configs`, where schema.json lies beside them."""


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with Gristmill, by name."""
    folders = [HERE / "configs", HERE.parent / "configs"]
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}


def named(recipe: str, name: str) -> str:
    """A recipe's text with another `name`, its comment gone with the old one, and without the schema's line."""
    text = recipe.removeprefix(SCHEMA)
    return re.sub(r"(?m)^name:.*$", lambda _: f"name: {json.dumps(name, ensure_ascii=False)}", text, count=1)


def begin_recipe(path: Path, like: str) -> Iterator[str]:
    """Writes a shipped recipe to `path`, named after the file, and the small sample where the recipe looks for it;
    yields what was written, for people. Nothing that is there is written over. Raises ValueError where there is no such
    recipe, or a file cannot be written."""
    recipes = shipped_recipes()
    if like not in recipes:
        raise ValueError(f"--like {like}: the shipped recipes are {', '.join(sorted(recipes))}")
    if not path.stem.isprintable() or "\\" in path.stem or path.stem.startswith("."):
        raise ValueError(f"{path}: a run is named after its recipe, and no run can have this name")
    text = named(recipes[like].read_text(encoding="utf-8"), path.stem)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ValueError(f"{path} exists; nothing written") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}") from None
    yield f"wrote {path}; check it with: gristmill check {path}"
    yield from _write_sample(path.parent)


def _write_sample(folder: Path) -> Iterator[str]:
    if any(os.path.lexists(place / SAMPLE) for place in (Path.cwd(), folder)):
        return
    beside = [place for place in (HERE / SAMPLE, HERE.parent / SAMPLE / "small") if place.is_dir()]
    try:
        shutil.copytree(beside[0], folder / SAMPLE, copy_function=shutil.copyfile)
    except OSError as error:
        raise ValueError(f"{folder / SAMPLE} cannot be written: {error}") from None
    yield f"wrote {folder / SAMPLE}, a small sample to try it on; for data of your own change the paths under `inputs`"
