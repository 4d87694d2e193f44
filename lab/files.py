"""Where files are kept, how they are fetched, and how they are written: whole or not at all. Loads no torch."""

import json
import math
import os
import shutil
import socket
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from markupsafe import escape
from platformdirs import user_cache_path

from lab.errors import InputError, OutputError

if sys.platform != "win32":
    import fcntl

STAGE = ".writing-"  # how the name of a folder begins that is being written
NETWORK_TIMEOUT = 15.0  # seconds; torchvision's downloads have none of their own


def data_root(root: str | Path | None = None) -> Path:
    """The folder for MNIST and checkpoints: the argument, else `$LAB_DATA`, else a per-user cache folder."""
    return expanded(root or os.environ.get("LAB_DATA") or user_cache_path("equivariance-lab"))


def expanded(path: str | Path) -> Path:
    """With `~` as a home folder.

    Raises:
        InputError: there is no such home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InputError(f"there is no such home folder: {path}") from None


@contextmanager
def staged_output(folder: Path) -> Iterator[Path]:
    """A folder to write into; when the body ends without error, its files replace those of `folder`, each as a whole.

    Opened before the work starts, it finds out in time if `folder` cannot be written. It also removes what a killed
    process left there, but nothing that another process is still writing.

    Raises:
        OutputError: `folder` is not a folder, or does not take the files.
    """
    with ExitStack() as at_the_end:
        with output_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            _lock(folder, at_the_end)
            stage = Path(at_the_end.enter_context(TemporaryDirectory(dir=folder, prefix=STAGE)))
        yield stage
        with output_errors(folder):
            _move_files(stage, folder)


def _lock(folder: Path, at_the_end: ExitStack) -> None:
    """Share a lock on a folder with all others who write into it; a process that holds it alone removes leftovers.

    The lock ends with the process, however that ends. Without such locks (Windows, some network disks) leftovers stay.
    """
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    at_the_end.callback(os.close, handle)
    with suppress(OSError):  # others are writing, or the disk knows no locks
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for leftover in folder.glob(f"{STAGE}*"):
            shutil.rmtree(leftover, ignore_errors=True)
    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_SH)


def _move_files(stage: Path, folder: Path) -> None:
    paths = sorted(stage.iterdir())
    if taken := [path.name for path in paths if (folder / path.name).is_dir()]:
        raise OSError(f"{', '.join(taken)} is a folder")
    for path in paths:
        os.replace(path, folder / path.name)


@contextmanager
def output_errors(folder: Path) -> Iterator[None]:
    """Turn errors of the disk into an error of the lab that names the folder.

    Raises:
        OutputError: the body fails to write.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(f"the files cannot be written to {folder}: {error.strerror or error}") from error


def finite(value: float) -> float | str:
    """The value itself, or `"nan"`, `"inf"`, `"-inf"`, which JSON cannot hold as numbers."""
    return value if math.isfinite(value) else str(value)


def to_json(found: dict[str, Any]) -> str:
    """The evidence as text."""
    return json.dumps(found, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def fill_template(package: str, name: str, values: dict[str, Any]) -> str:
    """A page from a template of the package; every value is text, and escaped, unless it is `markupsafe.Markup`."""
    from jinja2 import Environment, StrictUndefined  # which only pages need

    source = resources.files(package).joinpath(name).read_text(encoding="utf-8")
    page = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True).from_string(source)
    return page.render(values)


def html_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table for a page; every cell is text, and escaped, unless it is `markupsafe.Markup`.

    Examples:
        >>> from lab.files import html_table
        >>> html_table(["a"], [["1 < 2"]])
        '<table><thead><tr><th scope="col">a</th></tr></thead><tbody><tr><td>1 &lt; 2</td></tr></tbody></table>'
    """
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(f'<tr>{row}</tr>' for row in body)}</tbody></table>"


def fetch_mnist(raw: Path) -> None:
    """Have torchvision verify MNIST's packed files by MD5, download them where that fails, and unpack them."""
    from torchvision.datasets import MNIST  # takes seconds and 150 MB to import, and only this needs it

    with staged_output(raw) as stage, ExitStack() as afterwards:
        afterwards.callback(socket.setdefaulttimeout, socket.getdefaulttimeout())
        socket.setdefaulttimeout(NETWORK_TIMEOUT)
        for path in raw.glob("*-ubyte.gz"):
            shutil.copy(path, stage)
        staged = type("Staged", (MNIST,), {"raw_folder": str(stage)})  # it would make folders of its own in there
        staged(stage, download=True)
