"""What takes long is kept below `.cache`: executed walkthroughs, and the exported networks.

The name of an entry is a digest of all that its content depends on, so no entry is ever out of date. Those used last
stay, also those that builds with other data have made.
"""

import asyncio
import gzip
import hashlib
import logging
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from threading import Thread
from typing import Any

import nbformat
from execution import ROOT, VERSIONS, code_of, execute
from lab_imports import reached

from lab.files import data_root

KEPT = 20  # entries a page, of about 200 KB each
AT_ONCE = min(os.cpu_count() or 1, 4)  # pages in execution; each takes 1 to 3 GB of memory
log = logging.getLogger("mkdocs.hooks.execution")


def executed(path: Path, folder: Path) -> Any:
    """The executed notebook of a walkthrough, from the cache in `folder` where nothing that it depends on has changed.

    Raises:
        WalkthroughError: a cell failed.
    """
    (notebook,) = all_executed([path], folder)
    return notebook


def all_executed(paths: Sequence[Path], folder: Path, at_once: int = AT_ONCE) -> list[Any]:
    """The executed notebooks of walkthroughs, as many at a time as there are processor cores.

    Each has a process of its own, and finds what it would find alone. The last begin first: they take longest.

    Raises:
        WalkthroughError: a cell failed. Of several such pages the first is told, whichever failed first; pages behind
            it are given up.
    """
    with _loop_beside() as loop:
        seats = asyncio.Semaphore(at_once)
        waiting = [asyncio.run_coroutine_threadsafe(_executed(path, folder, seats), loop) for path in reversed(paths)]
        return [each.result() for each in reversed(waiting)]


@contextmanager
def _loop_beside() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop in a thread of its own: in the main thread each kernel would take Ctrl-C for itself.

    What still runs in it at the end is stopped, and has ended when this does.
    """
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        asyncio.run_coroutine_threadsafe(_stop_the_others(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _stop_the_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def _executed(path: Path, folder: Path, seats: asyncio.Semaphore) -> Any:
    entry = folder / path.stem / f"{digest(code_of(path), path.read_text(encoding='utf-8'))}.ipynb"
    if notebook := _read(entry):
        log.debug(f"From the cache: {path.name}")
        with suppress(OSError):  # another build may have dropped it by now
            os.utime(entry)
        return notebook
    async with seats:
        log.info(f"Executing {path.name}, which may take minutes")
        notebook = await execute(path)
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
    for name, path in _data_files(data_root() / "MNIST" / "raw"):
        state = path.stat()
        total.update(name.encode() + _content(path, state.st_size, state.st_mtime_ns))
    return total.hexdigest()[:16]


def _data_files(folder: Path) -> list[tuple[str, Path]]:
    """Name and file of each part of the data set: packed, as downloaded, or unpacked, as whoever reads it leaves it."""
    found = {path.name.removesuffix(".gz"): path for path in folder.glob("*-ubyte.gz")}
    return sorted((found | {path.name: path for path in folder.glob("*-ubyte")}).items())


@cache
def _content(path: Path, _size: int, _time: int) -> bytes:
    """A data file's digest, the same packed and unpacked; made again only where size or time have changed."""
    content = path.read_bytes()
    return hashlib.sha256(gzip.decompress(content) if path.suffix == ".gz" else content).digest()


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
