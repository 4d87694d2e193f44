"""What to point the meter at, from the words of a command line: a network by name, images by name or from files."""

import importlib
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lab.data import BACKGROUND, load_mnist, normalize
from lab.errors import InputError
from lab.files import expanded
from lab.models import MODELS, build_model

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
Images = Float[Tensor, "n channels h w"]


def load_model(name: str, *, seed: int) -> nn.Module:
    """A network in evaluation mode; if it is new, its weights depend on the seed alone.

    Args:
        name: `given`, `pooled`, `torchvision:resnet18` (untrained), or `package.module:thing`, where the thing is a
            module, or something that returns one when called without arguments. The current folder is searched too.
        seed: of the weights.

    Raises:
        InputError: no such network, or it cannot be made.
    """
    if name in MODELS:
        return build_model(name, seed=seed).eval()
    where, colon, what = name.partition(":")
    if not colon or not what:
        choice = f"{', '.join(MODELS)}, torchvision:NAME or package.module:callable"
        raise InputError(f"model must be {choice}: {name!r}")
    try:
        with torch.random.fork_rng(devices=[]):
            make = _imported(where, what)
            torch.default_generator.manual_seed(seed)  # after the import, which may draw numbers the first time
            model = make if isinstance(make, nn.Module) else make()
    except Exception as error:  # importing and making run somebody else's code, which may raise anything
        said = str(error).strip().partition("\n")[0]
        raise InputError(f"model {name!r} cannot be made: {type(error).__name__}: {said}") from error
    if not isinstance(model, nn.Module):
        raise InputError(f"model {name!r} must be a torch.nn.Module, or return one: {type(model).__name__}")
    return model.eval()


def _imported(where: str, what: str) -> Any:
    if where == "torchvision":
        return partial(importlib.import_module("torchvision.models").get_model, what, weights=None)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return getattr(importlib.import_module(where), what)


def input_channels(model: nn.Module) -> int:
    """Of the first convolution; 3 if there is none."""
    return next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)), 3)


def load_images(source: str, n: int, size: tuple[int, int], *, channels: int, seed: int) -> tuple[Images, float]:
    """Images for a network, and the value of their background.

    Args:
        source: `mnist` (test digits, normalised as for training), `fractal`
            ([`fractal_images`][lab.metering.inputs.fractal_images]), or a folder of pictures, which are
            resized, and scaled to a mean of 0 and a standard deviation of 1 over all of them.
        n: how many, at most.
        size: height and width; digits are put in the middle of a larger background.
        channels: 1 is gray, 3 is colour; digits are repeated.
        seed: of which digits, or clouds.

    Raises:
        InputError: unknown source, no picture, or digits that do not fit.
    """
    if n < 1 or min(size) < 1:
        raise InputError(f"count and size must be at least 1: count {n}, size {size[0]} {size[1]}")
    if source == "fractal":
        return fractal_images(n, size, channels=channels, seed=seed), 0.0
    if source == "mnist":
        digits = load_mnist().test.sample(n, seed=seed).images
        down, right = size[0] - digits.shape[2], size[1] - digits.shape[3]
        if down < 0 or right < 0:
            raise InputError(f"digits are 28 × 28, and do not fit into {size[0]} × {size[1]}")
        framed = nn.functional.pad(digits, (right // 2, right - right // 2, down // 2, down - down // 2))
        return normalize(framed).expand(-1, channels, -1, -1).contiguous(), BACKGROUND
    return _pictures(expanded(source), n, size, channels), 0.0


def _pictures(folder: Path, n: int, size: tuple[int, int], channels: int) -> Images:
    if not folder.is_dir():
        raise InputError(f"images must be mnist, fractal or a folder of pictures: {str(folder)!r}")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)[:n]
    if not files or channels not in (1, 3):
        found = f"{len(files)} in {folder}, {channels} channels"
        raise InputError(f"a folder must hold pictures, for 1 or 3 channels: {found}")
    images = torch.stack([_picture(path, size, channels) for path in files])
    return (images - images.mean()) / images.std().clamp(min=1e-6)


def _picture(path: Path, size: tuple[int, int], channels: int) -> Float[Tensor, "channels h w"]:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            resized = picture.convert("RGB" if channels == 3 else "L").resize((size[1], size[0]))
    except Exception as error:  # a damaged file raises whatever its format's reader comes upon; one too large, too
        raise InputError(f"{path.name} is no picture: {error}") from error
    return torch.from_numpy(np.array(resized, dtype=np.float32)).reshape(*size, channels).permute(2, 0, 1)


def fractal_images(n: int, size: tuple[int, int], *, channels: int = 3, seed: int = 0) -> Images:
    """Clouds: random images whose amplitude falls with frequency f as 1/f, as that of natural images does.

    For networks that want photographs where none are at hand. But for special weights, architecture alone decides which
    layers are exact, so that any image shows it; white noise would do too, but its images all look alike to whatever
    averages.

    Args:
        n: how many.
        size: height and width.
        channels: each with the same clouds, and some of its own.
        seed: of the phases.

    Returns:
        Mean about 0 and standard deviation about 1 over all images.

    Source:
        D. Field, Relations between the statistics of natural images and the response properties of cortical cells,
        JOSA A 4 (1987), doi:10.1364/JOSAA.4.002379.

    Examples:
        >>> from lab import fractal_images
        >>> fractal_images(2, (8, 12)).shape
        torch.Size([2, 3, 8, 12])
    """
    h, w = size
    noise = torch.randn(n, channels + 1, h, w, generator=torch.Generator().manual_seed(seed))
    noise = noise[:, :1] + 0.5 * noise[:, 1:]
    frequency = torch.hypot(torch.fft.fftfreq(h)[:, None], torch.fft.rfftfreq(w))
    frequency[0, 0] = 0.5 / max(h, w)  # images differ in their mean too
    images: Tensor = torch.fft.irfft2(torch.fft.rfft2(noise) / frequency, s=(h, w))
    return (images - images.mean()) / images.std()
