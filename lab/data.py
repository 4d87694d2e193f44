"""MNIST: the full set through torchvision, or 10,000 digits embedded in the package.

Images stay in [0, 1] with background 0 until they enter a network; [`normalize`][lab.data.normalize] is
that last step. Shift first, then normalise: after it the background is -0.424, and a shift that fills
with 0 draws a grey band.
"""

import hashlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from lab.errors import DataError, LabWarning, OutputError, check_choice, check_finite, check_seed, require
from lab.files import data_root, fetch_mnist

MEAN, STD = 0.1307, 0.3081  # of all pixels of the 60,000 training images
BACKGROUND = -MEAN / STD  # what a background pixel becomes when normalised
FULL_SHA256 = "06b0d1f124c4e5fa796686ade41a9b778edacc8622f2195a352ef479ad44fc16"
EMBEDDED_FILE_SHA256 = "0c60e9cc58268284d33ca19d4492713726841c11d5a9ac1d199ef4e978640657"
EMBEDDED_FILE = Path(__file__).parent / "embedded" / "mnist10k.npz"
CUT = 8_000  # of the embedded digits, how many are for training

Source = Literal["auto", "full", "embedded"]


@dataclass(frozen=True)
class Split:
    """Images and their labels.

    Attributes:
        images: float32, `n c h w`, in [0, 1], background 0; MNIST has one channel.
        labels: int64, `n`, the digit.
    """

    images: Float[Tensor, "n c h w"]
    labels: Int64[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.labels)

    def sample(self, n: int, *, seed: int) -> "Split":
        """`n` different images drawn at random; all of them, shuffled, if there are no more than `n`.

        Raises:
            InputError: `n` below 1, or a seed that is not a whole number from 0 to 2 ** 63 − 1.
        """
        require(n >= 1, f"a sample must hold at least one image: {n}")
        check_seed(seed)
        index = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))[:n]
        return Split(self.images[index], self.labels[index])


@dataclass(frozen=True)
class Mnist:
    """MNIST, split into training and test images.

    Attributes:
        train: 60,000 images (full) or 8,000 (embedded).
        test: 10,000 images (full) or 2,000 (embedded).
        name: `"MNIST"` or `"MNIST-10k"`.
        sha256: digest of all images and labels as uint8: train images, train labels, test images, test labels.
    """

    train: Split
    test: Split
    name: str
    sha256: str


def normalize(images: Float[Tensor, "*batch h w"]) -> Float[Tensor, "*batch h w"]:
    """Images in [0, 1] as the networks want them: zero mean and unit variance over MNIST's pixels.

    Examples:
        >>> import torch
        >>> from lab import normalize
        >>> normalize(torch.zeros(1, 1, 28, 28)).unique().item()  # a background pixel
        -0.42421296...
    """
    return (images - MEAN) / STD


def check_split(split: Split, what: str) -> None:
    """Refuse a split without images, or with NaN or infinite values.

    Raises:
        InputError: what `what` (training, evaluation) cannot do without.
    """
    require(len(split) > 0, f"{what} needs at least one image: the split is empty")
    check_finite("images", split.images)


def load_mnist(source: Source = "auto", root: str | Path | None = None) -> Mnist:
    """Load MNIST.

    Args:
        source: `"full"` is the official set, from the data root, else downloaded into it; `"embedded"` the
            10,000 images in the package, which need neither network nor disk; `"auto"` the full set where
            it is available, else the embedded one, with a warning.
        root: data root; see [`data_root`][lab.files.data_root].

    Raises:
        InputError: unknown source.
        DataError: the set that was asked for is not available, or is damaged.
    """
    check_choice("source", source, get_args(Source))
    if source != "embedded":
        try:
            return _load_full(data_root(root))
        except DataError as error:
            if source == "full":
                raise
            warnings.warn(f"using the 10,000 embedded digits (MNIST-10k): {error}", LabWarning, stacklevel=2)
    return _load_embedded()


def _load_embedded() -> Mnist:
    content = EMBEDDED_FILE.read_bytes() if EMBEDDED_FILE.is_file() else b""
    if hashlib.sha256(content).hexdigest() != EMBEDDED_FILE_SHA256:
        raise DataError(f"the embedded digits are damaged, reinstall the package: SHA-256 of {EMBEDDED_FILE}")
    with np.load(io.BytesIO(content)) as arrays:
        images, labels = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])
    return _mnist("MNIST-10k", (images[:CUT], labels[:CUT]), (images[CUT:], labels[CUT:]))


def _load_full(root: Path) -> Mnist:
    """The official set from its unpacked files; where they are not there or damaged, they are fetched first."""
    raw = root / "MNIST" / "raw"
    if (mnist := _read_unpacked(raw)) is not None:
        return mnist
    try:
        fetch_mnist(raw)
    except (OSError, RuntimeError, ValueError, OutputError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"the full MNIST set is not in {root} and cannot be fetched: {reason}") from error
    if (mnist := _read_unpacked(raw)) is None:
        raise DataError(f"the MNIST files in {root} are not the official ones: SHA-256 of their images and labels")
    return mnist


def _read_unpacked(raw: Path) -> Mnist | None:
    """The set from its four IDX files (a header of 4 bytes, and 4 for each dimension); None unless all is right."""
    parts = []
    try:
        for part in ("train", "t10k"):
            images = np.fromfile(raw / f"{part}-images-idx3-ubyte", np.uint8, offset=16).reshape(-1, 28, 28)
            labels = np.fromfile(raw / f"{part}-labels-idx1-ubyte", np.uint8, offset=8)
            parts.append((torch.from_numpy(images), torch.from_numpy(labels)))
        mnist = _mnist("MNIST", *parts)
    except (OSError, ValueError):
        return None
    return mnist if mnist.sha256 == FULL_SHA256 else None


_Raw = tuple[UInt8[Tensor, "_ h w"], UInt8[Tensor, " _"]]


def _mnist(name: str, train: _Raw, test: _Raw) -> Mnist:
    every = torch.cat([tensor.flatten() for tensor in (*train, *test)])
    splits = [Split(images[:, None].float().div_(255), labels.long()) for images, labels in (train, test)]
    return Mnist(splits[0], splits[1], name, hashlib.sha256(every.numpy().data).hexdigest())
