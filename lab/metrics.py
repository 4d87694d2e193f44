"""Tensors in, numbers out: how far activations are from equivariant or invariant.

Every error is relative to something that says what a large error would be, and is nan where that
something is zero. A layer that answers the same whatever it sees shows nothing about translation: its invariance
error is nan, and its equivariance error 0 for the wrong shift too, which is why no error is read without its null
models. Norms are accumulated in float64.
"""

from itertools import product

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from lab.errors import InputError
from lab.shifting import check_finite, shift


def equivariance_error(
    moved: Float[Tensor, "n *shape"],
    expected: Float[Tensor, "n *shape"],
    valid: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, " n"]:
    r"""How far f(T x) is from T f(x), for each image: ‖M (moved − expected)‖ / ‖M expected‖.

    Null models: the same with `expected` from another image, or moved by a wrong shift; both give values
    of the order of 1.

    Args:
        moved: f(T x), the activations of the translated images.
        expected: T f(x), the translated activations of the images.
        valid: the mask M, True where the two can be compared; broadcasts to `n *shape`. All by default.

    Returns:
        float64, at least 0. 0 = exactly equivariant; nan = `expected` and `moved` are zero wherever valid;
        inf = only `expected` is.

    Raises:
        InputError: shapes that differ, NaN at a valid position, or an image without a valid position.

    Source:
        The commuting square f ∘ T = T ∘ f; D. Worrall et al., Harmonic Networks, CVPR 2017, arXiv:1612.04642.

    Examples:
        >>> import torch
        >>> from lab import equivariance_error
        >>> a = torch.tensor([[3.0, 4.0]])
        >>> equivariance_error(a, a).item(), equivariance_error(2 * a, a).item()
        (0.0, 1.0)
    """
    _check_shapes("moved", moved, "expected", expected)
    if valid is not None:
        mask = _broadcast(valid, moved)
        if not mask.flatten(1).any(1).all():
            raise InputError(f"every image needs a valid position: valid has shape {tuple(valid.shape)}")
        moved, expected = (t.masked_fill(~mask, 0) for t in (moved, expected))
    check_finite("moved", moved)
    check_finite("expected", expected)
    return _norm(moved - expected) / _norm(expected)


def invariance_error(a: Float[Tensor, "n *shape"], b: Float[Tensor, "n *shape"]) -> Float[Tensor, " n"]:
    """How far f(T x) is from f(x), for each image: ‖b − a‖ over the mean ‖a − a'‖ of unrelated images.

    Args:
        a: f(x), of at least two different images.
        b: f(T x), of the same images in the same order.

    Returns:
        float64, at least 0. 0 = invariant; about 1 = as different as another image; nan = f is the same for
        all images and their translations.

    Raises:
        InputError: shapes that differ, NaN, or fewer than two images.

    Examples:
        >>> import torch
        >>> from lab import invariance_error
        >>> a = torch.tensor([[0.0], [2.0]])
        >>> invariance_error(a, a + 1.0)
        tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    _check_alike("a", a, "b", b)
    return _norm(b - a) / unrelated_distance(a)


def sorted_distance(a: Float[Tensor, "n c *shape"], b: Float[Tensor, "n c *shape"]) -> Float[Tensor, " n"]:
    """The exercise's sort test: the invariance error of the activations sorted within each channel.

    Sorting is invariant to permutations, and an equivariant layer permutes its activations when the image is
    translated, so 0 is *necessary* for equivariance as long as every window that touches ink lies in the frame. It is
    not *sufficient*: a flip, a scramble and a constant pass the test too. Without positions (`n c`), sorting
    within a channel changes nothing, and this is `invariance_error`.

    Args:
        a: f(x), of at least two different images.
        b: f(T x), of the same images in the same order.

    Returns:
        float64, at least 0. 0 = the same values in each channel; about 1 = as different as another image; nan
        as in `invariance_error`.

    Raises:
        InputError: shapes that differ, NaN, or fewer than two images.

    Examples:
        >>> import torch
        >>> from lab import sorted_distance
        >>> a = torch.tensor([[[1.0, 2.0, 3.0]], [[0.0, 0.0, 0.0]]])
        >>> sorted_distance(a, a.flip(-1))  # a flip passes
        tensor([0., 0.], dtype=torch.float64)
    """
    _check_alike("a", a, "b", b)
    return invariance_error(sort_positions(a), sort_positions(b))


def sort_positions(a: Float[Tensor, "n c *shape"]) -> Float[Tensor, "n c positions"]:
    """The activations of each channel in ascending order; a vector's entries are channels with one position."""
    return a.flatten(2).sort(-1).values if a.dim() > 2 else a.unsqueeze(-1)


def consistency(a: Float[Tensor, "n classes"], b: Float[Tensor, "n classes"]) -> float:
    """The share of images whose predicted class is the same in both: P[argmax a = argmax b], in [0, 1].

    Read it with `cohen_kappa` beside it: a network that always says the same class scores 1.

    Raises:
        InputError: shapes that differ, NaN, or no image.

    Source:
        R. Zhang, Making Convolutional Networks Shift-Invariant Again, ICML 2019, section 4, arXiv:1904.11486.
    """
    _check_alike("a", a, "b", b)
    return (a.argmax(1) == b.argmax(1)).double().mean().item()


def cohen_kappa(a: Float[Tensor, "n classes"], b: Float[Tensor, "n classes"]) -> float:
    """Agreement of the predicted classes beyond chance: (p_observed − p_chance) / (1 − p_chance).

    Returns:
        At most 1. 1 = always the same, 0 = no more than two independent predictors with these class
        frequencies; also 0 where both always say one and the same class, for chance alone explains that.

    Raises:
        InputError: shapes that differ, NaN, or no image.

    Source:
        J. Cohen, A coefficient of agreement for nominal scales, 1960, doi:10.1177/001316446002000104.
    """
    observed = consistency(a, b)
    frequencies = (torch.bincount(t.argmax(1), minlength=t.shape[1]).double() / len(t) for t in (a, b))
    chance = torch.stack(list(frequencies)).prod(0).sum().item()
    return (observed - chance) / (1 - chance) if chance < 1 else 0.0


def derangement(n: int, *, seed: int = 0) -> Tensor:
    """A permutation of `n` images that leaves none in place: it pairs each with an unrelated one.

    A fixed roll would not do: where images are sorted by class, it pairs digits of one class.

    Raises:
        InputError: fewer than two images.
    """
    if n < 2:
        raise InputError(f"unrelated images need at least two images: n={n}")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    partner = torch.empty_like(order)
    partner[order] = order.roll(1)
    return partner


def unrelated_distance(a: Float[Tensor, "n *shape"]) -> Float[Tensor, ""]:
    """Mean ‖a − a'‖ of unrelated images: what `invariance_error` calls 1."""
    return _norm(a - a[derangement(len(a)).to(a.device)]).mean()


def _norm(a: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(a.flatten(1), dim=1, dtype=torch.float64)
    return norms


def _broadcast(valid: Tensor, like: Tensor) -> Tensor:
    try:
        return valid.to(like.device).expand(like.shape)
    except RuntimeError:
        raise InputError(
            f"valid must broadcast to the activations: {tuple(valid.shape)}, {tuple(like.shape)}"
        ) from None


def _check_alike(name_a: str, a: Tensor, name_b: str, b: Tensor) -> None:
    _check_shapes(name_a, a, name_b, b)
    check_finite(name_a, a)
    check_finite(name_b, b)


def _check_shapes(name_a: str, a: Tensor, name_b: str, b: Tensor) -> None:
    if a.shape != b.shape or a.dim() < 2 or a.numel() == 0:
        shapes = f"{name_a} {tuple(a.shape)}, {name_b} {tuple(b.shape)}"
        raise InputError(f"both must have the same shape n ..., and at least one element: {shapes}")


def aligned_error(
    first: Float[Tensor, "n c h w"],
    second: Float[Tensor, "n c h w"],
    my: Int64[Tensor, " n"],
    mx: Int64[Tensor, " n"],
) -> Float[Tensor, " n"]:
    """`equivariance_error` of feature maps without padding, on the overlap after a move by `my, mx` of their pixels."""
    valid = shift(torch.ones_like(first[:, :1]), my, mx) > 0
    return equivariance_error(second, shift(first, my, mx), valid)


def best_aligned_error(
    first: Float[Tensor, "n c h w"],
    second: Float[Tensor, "n c h w"],
    dy: Int64[Tensor, " n"],
    dx: Int64[Tensor, " n"],
    stride: int,
) -> Float[Tensor, " n"]:
    """The smallest `aligned_error` over the moves next to `dy / stride, dx / stride`.

    Where the stride divides the displacement there is one such move; elsewhere no move of the feature map's
    pixels corresponds to it, and the best of the two or four nearest is taken.
    """
    floors = [t.div(stride, rounding_mode="floor") for t in (dy, dx)]
    ceilings = [-(-t).div(stride, rounding_mode="floor") for t in (dy, dx)]
    if all(torch.equal(low, high) for low, high in zip(floors, ceilings, strict=True)):
        return aligned_error(first, second, *floors)
    moves = product(*zip(floors, ceilings, strict=True))
    return torch.stack([aligned_error(first, second, my, mx) for my, mx in moves]).amin(0)


def mean_error(errors: Float[Tensor, " n"]) -> float:
    """Mean over the pairs for which the error is defined and finite; nan where that is not even half of them."""
    defined = errors[errors.isfinite()]
    return defined.mean().item() if 2 * len(defined) > len(errors) else float("nan")


def largest_error(errors: Float[Tensor, " n"]) -> float:
    """Largest error of the pairs for which it is defined, inf included; nan where that is not even half of them."""
    defined = errors[~errors.isnan()]
    return defined.max().item() if 2 * len(defined) > len(errors) else float("nan")
