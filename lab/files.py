"""Where files are kept; apart from the rest, so that asking for it does not load torch."""

import json
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from lab.errors import InputError, OutputError


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
    """A folder to write into; when the body ends well, its files replace those of `folder`, each as a whole.

    Opened before the work starts, it finds out in time that `folder` cannot be written.

    Raises:
        OutputError: `folder` is not a folder, or does not take the files.
    """
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        directory = tempfile.TemporaryDirectory(dir=folder, prefix=".writing-")
    with directory as name:
        stage = Path(name)
        yield stage
        with output_errors(folder):
            paths = sorted(stage.iterdir())
            if taken := [path.name for path in paths if (folder / path.name).is_dir()]:
                raise OSError(f"{', '.join(taken)} is a folder")
            for path in paths:
                os.replace(path, folder / path.name)


@contextmanager
def output_errors(folder: Path) -> Iterator[None]:
    """What the disk refuses, as an error of the lab that says where.

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
