"""The data sets that the tests run on: the embedded digits, and the official files where this machine has them.

And the pages that take long.
"""

from pathlib import Path

from lab.files import data_root

MNIST_FILE = "train-images-idx3-ubyte"


def _full_mnist() -> Path | None:
    """The folder of the official files, where they are on this machine already; the tests never download."""
    raw = data_root() / "MNIST" / "raw"
    return raw.parent if any(raw.glob(f"{MNIST_FILE}*")) else None


FULL = _full_mnist()
SOURCES = ["embedded", "full"] if FULL else ["embedded"]
STUDIES = ["13_what_helps", "14_the_paper_says"]  # pages that train a study's networks
LONG = ["03_exercise", "06_borders", "08_invariance", "10_meter", "11_shift_maps", *STUDIES]  # more than half a minute
