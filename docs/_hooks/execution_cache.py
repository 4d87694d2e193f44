"""What takes long is kept below `.cache`: executed walkthroughs, and the exported networks.

The name of an entry is a digest of all that its content depends on, so no entry is ever out of date. Those used last
stay, also those that builds with other data have made.
"""

import hashlib
import logging
import os
import platform
import shutil
import tempfile
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nbformat
from execution import ROOT, VERSIONS, code_of, execute
from lab_imports import reached

from lab.files import data_root

KEPT = 20  # entries a page, of about 200 KB each
log = logging.getLogger("mkdocs.hooks.execution")


def executed(path: Path, folder: Path) -> Any:
    """The executed notebook of a walkthrough, from the cache in `folder` where nothing that it depends on has changed.

    Raises:
        WalkthroughError: a cell failed.
    """
    entry = folder / path.stem / f"{digest(code_of(path), path.read_text(encoding='utf-8'))}.ipynb"
    if notebook := _read(entry):
        log.debug(f"From the cache: {path.name}")
        with suppress(OSError):  # another build may have dropped it by now
            os.utime(entry)
        return notebook
    log.info(f"Executing {path.name}, which may take minutes")
    notebook = execute(path)
    entry.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=entry.parent, prefix=".writing-") as stage:
        nbformat.write(notebook, Path(stage) / entry.name)
        os.replace(Path(stage) / entry.name, entry)
    drop_oldest(entry.parent, KEPT)
    return notebook


def digest(code: str, text: str = "", root: Path = ROOT) -> str:
    """Of a program, of what it reaches in the package, of what executes and draws, of the data set, and of versions."""
    runs = [root / "docs" / "_hooks" / name for name in ("execution.py", "matplotlibrc")]
    total = hashlib.sha256(f"{platform.python_version()}{code}{text}".encode())
    for name in (*VERSIONS, "nbclient", "ipykernel", "jupytext"):
        total.update(f"{name}={version(name)}".encode())
    for path in sorted([*reached(code, root / "lab"), *runs]):
        total.update(str(path.relative_to(root)).encode() + path.read_bytes())
    for path in sorted((data_root() / "MNIST" / "raw").glob("*-ubyte")):
        state = path.stat()
        total.update(path.name.encode() + _content(path, state.st_size, state.st_mtime_ns))
    return total.hexdigest()[:16]


@cache
def _content(path: Path, _size: int, _time: int) -> bytes:
    """A data file's digest, made again only where size or time of the file have changed."""
    return hashlib.sha256(path.read_bytes()).digest()


def _read(entry: Path) -> Any:
    """The notebook, or None if it is not there or damaged."""
    try:
        notebook = nbformat.read(entry, as_version=4)
        nbformat.validate(notebook)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, nbformat.ValidationError):
        return None
    return notebook if "lab" in notebook.metadata else None


def drop_oldest(folder: Path, kept: int) -> None:
    """Remove all but the entries used last, whether files or folders; those that other builds are writing stay."""
    entries = sorted(folder.glob("[!.]*"), key=_last_used, reverse=True)
    for old in entries[kept:]:
        if old.is_dir():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.unlink(missing_ok=True)


def _last_used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another build has dropped it
        return 0.0
