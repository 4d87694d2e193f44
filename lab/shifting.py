"""Translations of images on their finite grid, and pairs of mutually translated images.

Everywhere `dy > 0` is down and `dx > 0` is right, in pixels, and `dy` comes before `dx`.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from numbers import Real
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Float64, Int64, Integer, Shaped
from torch import Tensor, nn

from lab.data import Split
from lab.errors import check_choice, check_images, check_seed, require

Mode = Literal["background", "wrap"]
Images = Float[Tensor, "*batch h w"]  # or maps
Offset = int | Integer[Tensor, " n"]
Distance = Offset | float | Fraction | Float[Tensor, " n"]


def shift(images: Images, dy: Distance, dx: Distance, *, mode: Mode = "background", background: float = 0.0) -> Images:
    """Translate images, or feature maps, by pixels; on a circle also by fractions of a pixel.

    Fractions of a pixel are moved by Fourier interpolation: the phase of every frequency turns as far as the shift
    asks. So an image without content at or above the Nyquist frequency moves exactly as the continuous function does
    whose samples its pixels are. If the size is even, the Nyquist component itself (pixels that alternate between +1
    and −1) is only scaled by the cosine of its phase, so that the result is real; without that component, two moves by
    half a pixel make one by a whole pixel.

    Args:
        images: `... h w`; at least one image, no NaN, nothing infinite.
        dy: pixels down, one number for all images or one for each (then `images` is `n ... h w`).
        dx: pixels right, likewise.
        mode: `"background"` drops what leaves the frame and fills what enters it; `"wrap"` moves what
            leaves on one side in on the other (circular shift), and takes fractions.
        background: the value of the pixels that enter; `lab.data.BACKGROUND` for normalised images.

    Returns:
        A new tensor of the same shape; for whole pixels the values are the same, bit for bit.

    Raises:
        InputError: a shift not smaller than the image, a fraction in background mode, an unknown mode, or no image.

    Source:
        L. N. Trefethen, Spectral Methods in MATLAB, SIAM 2000, chapter 3: the band-limited interpolant.

    Examples:
        >>> import torch
        >>> from lab import shift
        >>> shift(torch.tensor([[1.0, 2.0, 3.0]]), 0, 1)
        tensor([[0., 1., 2.]])
        >>> shift(torch.tensor([[1.0, 2.0, 3.0]]), 0, 1, mode="wrap")
        tensor([[3., 1., 2.]])
        >>> shift(torch.tensor([[0.0, 1.0, 0.0, -1.0]]), 0, 0.5, mode="wrap").round(decimals=3)  # a sine
        tensor([[-0.7070,  0.7070,  0.7070, -0.7070]])
    """
    check_images(images)
    check_choice("mode", mode, get_args(Mode))
    rows, columns = _offsets("dy", dy, images, -2, mode), _offsets("dx", dx, images, -1, mode)
    if len(set(rows)) == len(set(columns)) == 1:
        return _shift_all(images, rows[0], columns[0], mode, background)
    return torch.stack([_shift_all(*one, mode, background) for one in zip(images, rows, columns, strict=True)])


def _offsets(name: str, offset: Distance, images: Tensor, dim: int, mode: Mode) -> list[Any]:
    """The offset of each image."""
    n, size = len(images) if images.dim() > 2 else 1, images.shape[dim]
    values = offset.reshape(-1).tolist() if isinstance(offset, Tensor) and not offset.is_meta else [offset]
    fit = len(values) in (1, n) and all(isinstance(one, Real) and math.isfinite(one) for one in values)
    require(fit, f"{name} must be a number of pixels, or one for each of {n} images: {offset!r}")
    largest = max(map(abs, values))
    require(largest < size, f"shift must be smaller than the image: |{name}|={largest}, {'hw'[dim]}={size}")
    whole = all(one == math.floor(one) for one in values)
    require(whole or mode == "wrap", f"only mode='wrap' takes fractions of a pixel: {name}={offset!r}, mode={mode!r}")
    return values * (n // len(values))


def _shift_all(images: Tensor, dy: Any, dx: Any, mode: Mode, background: float) -> Tensor:
    y, x = math.floor(dy), math.floor(dx)
    if mode == "background":
        return nn.functional.pad(images, (x, -x, y, -y), value=background)  # a negative width cuts off
    moved = images.roll((y, x), (-2, -1))
    for dim, rest in ((-2, float(dy - y)), (-1, float(dx - x))):
        if rest:
            weights = circular_weights(images.shape[dim], rest).to(images)
            moved = (moved.movedim(dim, -1) @ weights.T).movedim(-1, dim)
    return moved


def circular_weights(n: int, by: float) -> Float64[Tensor, "n n"]:
    """What moves `n` samples on a circle by a number of them, whole or not: out = weights @ samples."""
    j = torch.arange(n, dtype=torch.float64)
    kernel = torch.cos(2 * torch.pi * torch.outer(j - by, torch.fft.fftfreq(n, dtype=torch.float64))).mean(1)
    return kernel[(j[:, None] - j).long() % n]


@dataclass(frozen=True)
class InkMargins:
    """How many pixels of background each image has on each side: how far its ink can move that way.

    All are int64, `n`. For an image without ink, each is the largest possible shift: the size less 1.
    """

    up: Int64[Tensor, " n"]
    down: Int64[Tensor, " n"]
    left: Int64[Tensor, " n"]
    right: Int64[Tensor, " n"]

    def fits(self, dy: Offset, dx: Offset, *, margin: int = 0) -> Bool[Tensor, " n"]:
        """Whether the ink of each image stays inside the frame, `margin` pixels from its edge, when shifted."""
        vertical = (self.up + dy >= margin) & (self.down - dy >= margin)
        return vertical & (self.left + dx >= margin) & (self.right - dx >= margin)


def ink_margins(images: Float[Tensor, "n c h w"], *, background: float = 0.0) -> InkMargins:
    """The shift-safe range of each image. Ink is every pixel that differs from the background in any channel.

    Raises:
        InputError: no image, NaN.

    Examples:
        >>> import torch
        >>> from lab import ink_margins
        >>> image = torch.zeros(1, 1, 5, 5)
        >>> image[0, 0, 1, 2] = 1.0
        >>> ink_margins(image).down  # the ink is in row 1 of 0..4
        tensor([3])
    """
    check_images(images)
    ink = (images != background).any(1)
    sides = []
    for dim in (2, 1):  # rows that hold ink, then columns
        line = ink.any(dim).long()
        blank = line.sum(1) == 0
        sides += [torch.where(blank, line.shape[1] - 1, lines.argmax(1)) for lines in (line, line.flip(1))]
    return InkMargins(*sides)


@dataclass(frozen=True)
class TranslatedPairs:
    """Pairs of mutually translated images: `shift(first, dy, dx)` equals `second`, bit for bit.

    Attributes:
        first: `n c h w`.
        second: `n c h w`.
        dy: int64, `n`, pixels down from the first to the second.
        dx: int64, `n`, pixels right.
        labels: int64, `n`.
    """

    first: Float[Tensor, "n c h w"]
    second: Float[Tensor, "n c h w"]
    dy: Int64[Tensor, " n"]
    dx: Int64[Tensor, " n"]
    labels: Int64[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Shaped[Tensor, " k"]) -> "TranslatedPairs":
        """Some of the pairs, chosen by their numbers or by a mask."""
        return TranslatedPairs(**{name: value[index] for name, value in vars(self).items()})


def translated_pairs(split: Split, *, max_shift: int, seed: int, margin: int = 0) -> TranslatedPairs:
    """One pair from each image: the digit at two places, its ink inside the frame at both.

    Displacements are spread evenly over the square of `max_shift` pixels around zero, every direction
    alike. Each digit's first place is drawn among all that leave room for the displacement, so that a
    pair and its reverse are equally likely. Pairs that start from the images as they are would not be balanced,
    because most MNIST digits have more room above than below.

    Args:
        split: images in [0, 1], background 0.
        max_shift: largest displacement along each axis, in pixels.
        seed: of displacements and places.
        margin: pixels of background to keep between the ink and the frame. With a convolution's
            receptive field minus 1, every window that touches ink lies inside the frame in both images.

    Returns:
        As many pairs as images, less those images whose ink leaves no room for their displacement; where
        `max_shift + 2 * margin <= 8`, no MNIST digit is dropped.

    Raises:
        InputError: `max_shift` below 1 or not below the image size, negative margin, no image, NaN, or no
            image with room for its displacement.
    """
    h, w = split.images.shape[-2:]
    given = f"max_shift={max_shift}, margin={margin}, h={h}, w={w}"
    require(1 <= max_shift < min(h, w), f"max_shift must be at least 1 and smaller than the image: {given}")
    require(margin >= 0, f"margin must not be negative: {margin}")
    check_seed(seed)
    room = ink_margins(split.images)
    generator = torch.Generator().manual_seed(seed)
    dy, dx = _displacements(len(split), max_shift, generator)
    y, room_y = _places(room.up, room.down, dy, margin, generator)
    x, room_x = _places(room.left, room.right, dx, margin, generator)
    keep = room_y & room_x
    require(keep.any(), f"no image has room for its displacement: {given}")
    first = shift(split.images[keep], y[keep], x[keep])
    return TranslatedPairs(first, shift(first, dy[keep], dx[keep]), dy[keep], dx[keep], split.labels[keep])


def _displacements(n: int, max_shift: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Each of the square equally often, or once more, in random order."""
    steps = torch.arange(-max_shift, max_shift + 1)
    square = torch.cartesian_prod(steps, steps)
    square = square[square.any(1)]  # a pair of equal images says nothing
    square = square[torch.randperm(len(square), generator=generator)]
    return square[torch.arange(n) % len(square)][torch.randperm(n, generator=generator)].unbind(1)


def _places(before: Tensor, after: Tensor, step: Tensor, margin: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Along one axis: where the ink first goes, drawn evenly among the places that leave room; and whether any does."""
    low = margin - before + (-step).clamp(min=0)
    high = after - margin - step.clamp(min=0)
    draw = torch.rand(len(step), generator=random)
    return low + (draw * (high - low + 1).clamp(min=1)).long(), low <= high
