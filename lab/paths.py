"""Where files are kept; apart from the rest, so that asking for it does not load torch."""

import os
from pathlib import Path

from platformdirs import user_cache_path


def data_root(root: str | Path | None = None) -> Path:
    """The folder for MNIST and checkpoints: the argument, else `$LAB_DATA`, else a per-user cache folder."""
    return Path(root or os.environ.get("LAB_DATA") or user_cache_path("equivariance-lab")).expanduser()
