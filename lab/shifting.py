"""Translations of images on their finite grid, and pairs of mutually translated images.

Everywhere `dy > 0` is down and `dx > 0` is right, in pixels, and `dy` comes before `dx`.
"""

from dataclasses import dataclass
from operator import index
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int64, Integer, Shaped
from torch import Tensor, nn

from lab.data import Split, check_finite
from lab.errors import InputError, check_choice, check_seed, require

Mode = Literal["background", "wrap"]
Offset = int | Integer[Tensor, " n"]


def shift(
    images: Float[Tensor, "*batch h w"], dy: Offset, dx: Offset, *, mode: Mode = "background", background: float = 0.0
) -> Float[Tensor, "*batch h w"]:
    """Translate images, or feature maps, by whole pixels.

    Args:
        images: `... h w`; at least one image, no NaN, nothing infinite.
        dy: pixels down, one number for all images or one for each (then `images` is `n ... h w`).
        dx: pixels right, likewise.
        mode: `"background"` drops what leaves the frame and fills what enters it; `"wrap"` moves what
            leaves on one side in on the other (circular shift).
        background: the value of the pixels that enter; `lab.data.BACKGROUND` for normalised images.

    Returns:
        A new tensor of the same shape.

    Raises:
        InputError: a shift not smaller than the image, an unknown mode, or no image.

    Examples:
        >>> import torch
        >>> from lab import shift
        >>> shift(torch.tensor([[1.0, 2.0, 3.0]]), 0, 1)
        tensor([[0., 1., 2.]])
        >>> shift(torch.tensor([[1.0, 2.0, 3.0]]), 0, 1, mode="wrap")
        tensor([[3., 1., 2.]])
    """
    check_images(images)
    check_choice("mode", mode, get_args(Mode))
    rows, columns = _offsets("dy", dy, images, -2), _offsets("dx", dx, images, -1)
    if len(set(rows)) == len(set(columns)) == 1:
        return _shift_all(images, rows[0], columns[0], mode, background)
    each = zip(images, rows, columns, strict=True)
    return torch.stack([_shift_all(image, y, x, mode, background) for image, y, x in each])


def check_images(images: Tensor) -> None:
    """Refuse what is not a non-empty batch of finite images.

    Raises:
        InputError: fewer than two dimensions, no element, an integer type, NaN or an infinite value.
    """
    fit = images.dim() >= 2 and images.is_floating_point()
    require(fit, f"images must be floating point, ... h w: {images.dtype}, shape {tuple(images.shape)}")
    require(images.numel() > 0, f"there must be at least one image and one pixel: shape {tuple(images.shape)}")
    check_finite("images", images)


def _offsets(name: str, offset: Offset, images: Tensor, dim: int) -> list[int]:
    """The offset of each image."""
    n, size = len(images) if images.dim() > 2 else 1, images.shape[dim]
    try:
        whole = [index(offset)] * n  # also numpy's integers, and a tensor of one
    except (TypeError, RuntimeError):
        if not isinstance(offset, Tensor) or offset.shape != (n,) or offset.is_floating_point() or offset.is_meta:
            raise InputError(f"{name} must be a whole number, or one for each of {n} images: {offset!r}") from None
        whole = offset.long().tolist()
    largest = max(map(abs, whole))
    require(largest < size, f"shift must be smaller than the image: |{name}|={largest}, {'hw'[dim]}={size}")
    return whole


def _shift_all(images: Tensor, dy: int, dx: int, mode: Mode, background: float) -> Tensor:
    if mode == "wrap":
        return images.roll((dy, dx), (-2, -1))
    return nn.functional.pad(images, (dx, -dx, dy, -dy), value=background)  # a negative width cuts off


@dataclass(frozen=True)
class InkMargins:
    """How many pixels of background each image has on each side: how far its ink can move that way.

    An image without ink can move as far as a shift can: its size less 1. All `n`, int64.
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
        """Some of the pairs: their numbers, or a mask."""
        return TranslatedPairs(**{name: value[index] for name, value in vars(self).items()})


def translated_pairs(split: Split, *, max_shift: int, seed: int, margin: int = 0) -> TranslatedPairs:
    """One pair from each image: the digit at two places, its ink inside the frame at both.

    Displacements are spread evenly over the square of `max_shift` pixels around zero, every direction
    alike. Each digit's first place is drawn among all that leave room for the displacement, so that a
    pair and its reverse are equally likely; taking the images as they are would not do, for most MNIST
    digits have more room above than below.

    Args:
        split: images in [0, 1], background 0.
        max_shift: largest displacement along each axis, in pixels.
        seed: of displacements and places.
        margin: pixels of background to keep between the ink and the frame. With a convolution's
            receptive field minus 1, every window that touches ink lies inside the frame in both images.

    Returns:
        As many pairs as images, less those images whose ink leaves no room for their displacement; where
        `max_shift + 2 * margin <= 8`, that is no MNIST digit.

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
    second = shift(first, dy[keep], dx[keep])
    return TranslatedPairs(first, second, dy[keep], dx[keep], split.labels[keep])


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
