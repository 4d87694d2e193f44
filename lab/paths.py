"""Where files are kept; apart from the rest, so that asking for it does not load torch."""

import os
from pathlib import Path

from platformdirs import user_cache_path

from lab.errors import InputError


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
