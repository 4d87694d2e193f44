"""Tensors in, numbers out: how far activations are from equivariant or invariant.

Every error is relative to something that says what a large error would be, and is nan where that something is zero. No
error is read without its controls: a layer that returns the same whatever it sees has an invariance error of nan, and
an equivariance error of 0 for a wrong shift too. Norms are accumulated in float64.

What is compared is defined here once, for the exercise, the meter, the pages and the figures: the comparable set J
([`Axis.comparable`][lab.metrics.Axis.comparable]), the move of a map that fits a shift best, and the two controls, a
wrong shift and an unrelated image ([`Comparison`][lab.metrics.Comparison]).
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from fractions import Fraction
from functools import cached_property
from itertools import product
from typing import Literal, TypeVar, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, Shaped
from torch import Tensor

from lab.errors import InputError, check_finite, require

Quantity = Literal["equivariance", "invariance", "sorting"]
Shift = tuple[int, int]
Batch = Float[Tensor, "n *shape"]
Maps = Float[Tensor, "n c h w"]
Some = Float[Tensor, "k c h w"]  # of fewer images than those beside it
PerImage = Float64[Tensor, " n"]
Whole = Int64[Tensor, " n"]
Index = slice | Tensor  # which images
R = TypeVar("R", bound="Record")
PLAIN = 1e-9, 1e15  # float32 activations beyond: their squares, or sums of these, do not fit it
CACHE = 2**20  # bytes of activations that are subtracted at a time: more do not stay in the processor's cache
COPIED = 2**17  # likewise, where images are copied that are not in order
TIE = 1e-5  # a move's error within this of the smallest, relatively: rounding must not choose between them


def equivariance_error(moved: Batch, expected: Batch, valid: Bool[Tensor, "..."] | None = None) -> PerImage:
    r"""How far f(T x) is from T f(x), for each image: ‖M (moved − expected)‖ / ‖M expected‖.

    Controls: the same with `expected` from another image, or moved by a wrong shift.

    Args:
        moved: f(T x), the activations of the translated images.
        expected: T f(x), the translated activations of the images.
        valid: the mask M, True where the two can be compared; boolean, broadcasts to `n *shape`. All by default.

    Returns:
        float64, at least 0. 0 = exactly equivariant; nan = `expected` and `moved` are zero wherever valid;
        inf = only `expected` is.

    Raises:
        InputError: shapes that differ, no floating-point type, NaN at a valid position, or an image without a valid
            position.

    Source:
        The commuting square f ∘ T = T ∘ f; D. Worrall et al., Harmonic Networks, CVPR 2017, arXiv:1612.04642.

    Examples:
        >>> import torch
        >>> from lab import equivariance_error
        >>> a = torch.tensor([[3.0, 4.0]])
        >>> equivariance_error(a, a).item(), equivariance_error(2 * a, a).item()
        (0.0, 1.0)
    """
    moved, expected = _comparable(valid, moved=moved, expected=expected)
    return _norm(moved.double() - expected.double()) / _norm(expected)


def invariance_error(a: Batch, b: Batch) -> PerImage:
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
    _comparable(a=a, b=b)
    return _norm(b.double() - a.double()) / unrelated_distance(a)


def sorted_distance(a: Float[Tensor, "n c *shape"], b: Float[Tensor, "n c *shape"]) -> PerImage:
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
    _comparable(a=a, b=b)
    return invariance_error(sort_positions(a), sort_positions(b))


def sort_positions(a: Float[Tensor, "n c *shape"]) -> Float[Tensor, "n c positions"]:
    """The activations of each channel in ascending order; a vector's entries are channels with one position."""
    return a.flatten(2).sort(-1).values if a.dim() > 2 else a.unsqueeze(-1)


def consistency(a: Float[Tensor, "n classes"], b: Float[Tensor, "n classes"]) -> float:
    """The share of images whose predicted class is the same in both: P[argmax a = argmax b], in [0, 1].

    Read it with `cohen_kappa` beside it: a network that always says the same class scores 1.

    Raises:
        InputError: shapes that differ or are not `n classes`, NaN, or no image.

    Source:
        R. Zhang, Making Convolutional Networks Shift-Invariant Again, ICML 2019, section 4, arXiv:1904.11486.
    """
    _comparable(a=a, b=b)
    require(a.dim() == 2, f"class scores must be n classes: shape {tuple(a.shape)}")
    return (a.argmax(1) == b.argmax(1)).double().mean().item()


def cohen_kappa(a: Float[Tensor, "n classes"], b: Float[Tensor, "n classes"]) -> float:
    """Agreement of the predicted classes beyond chance: (p_observed − p_chance) / (1 − p_chance).

    Returns:
        At most 1. 1 = always the same, 0 = no more than two independent predictors with these class
        frequencies; also 0 where both always say one and the same class, because chance alone explains that.

    Raises:
        InputError: shapes that differ or are not `n classes`, NaN, or no image.

    Source:
        J. Cohen, A coefficient of agreement for nominal scales, 1960, doi:10.1177/001316446002000104.
    """
    observed = consistency(a, b)
    frequencies = (torch.bincount(t.argmax(1), minlength=t.shape[1]).double() / len(t) for t in (a, b))
    chance = torch.stack(list(frequencies)).prod(0).sum().item()
    return (observed - chance) / (1 - chance) if chance < 1 else 0.0


def derangement(n: int, *, seed: int = 0) -> Tensor:
    """A permutation of `n` images that leaves none in place: it pairs each with an unrelated one.

    A fixed roll would not be enough: where images are sorted by class, it pairs digits of one class.

    Raises:
        InputError: fewer than two images.
    """
    require(n >= 2, f"unrelated images need at least two images: n={n}")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return order.roll(1)[order.argsort()]  # each is paired with the one before it in a random order


def unrelated_distance(a: Float[Tensor, "n *shape"]) -> Float[Tensor, ""]:
    """Mean ‖a − a'‖ of unrelated images: what `invariance_error` calls 1."""
    return _norm(a.double() - a[derangement(len(a)).to(a.device)].double()).mean()


def mean_error(errors: Float[Tensor, " n"]) -> float:
    """Mean over the images for which the error is defined and finite; nan where that is not even half of them."""
    defined = errors[errors.isfinite()]
    return defined.mean().item() if 2 * len(defined) > len(errors) else math.nan


def largest_error(errors: Float[Tensor, " n"]) -> float:
    """Largest error of the images for which it is defined, inf included; nan where that is not even half of them."""
    defined = errors[~errors.isnan()]
    return defined.max().item() if 2 * len(defined) > len(errors) else math.nan


@dataclass(frozen=True)
class Axis:
    """The windows of a layer's outputs along one axis of the image.

    Attributes:
        size: N, input pixels.
        outputs: how many positions the layer has.
        step: s, by how many input pixels the window moves from one output to the next, a fraction behind upsampling;
            None where the outputs lie on no regular grid.
        period: S, the smallest shift in input pixels at which the layer can be exact; None where none is known. In a
            plain encoder step and period are the total stride; in the last layer of a U-Net they are 1 and 2^depth.
        interior: the outputs whose windows lie inside the image: the set I.
        receptive_field: R, the length of a window in input pixels; None where it is not known.
        offset: −P, the first input pixel of output 0's window; below 0 where that begins in the padding.
        circular: whether windows continue on the other side of the image, and the outputs fit that circle exactly.
    """

    size: int
    outputs: int
    step: Fraction | None
    period: int | None
    interior: range
    receptive_field: int | None = None
    offset: int | None = None
    circular: bool = False

    @property
    def rolls(self) -> bool:
        """Whether the outputs go evenly round the image, so that a circular shift of one can be one of the other."""
        return self.step is not None and self.step * self.outputs == self.size and self.exact_at(self.size)

    def exact_at(self, t: int) -> bool:
        """Whether the period divides a shift by `t` pixels, so that the layer can be exact."""
        return self.period is not None and t % self.period == 0

    def moves(self, t: int, *, wrap: bool = False) -> tuple[int, ...]:
        """The whole moves of the outputs next to a shift by `t` pixels: one where t / step is whole, else two.

        Without a step, they are as if the outputs divided the image evenly. Those that leave no output with a
        counterpart are left out, unless `wrap` and the axis `rolls`.
        """
        steps = t / (self.step or Fraction(self.size, self.outputs))
        moves = dict.fromkeys((math.floor(steps), math.ceil(steps)))
        return tuple(m for m in moves if abs(m) < self.outputs or (wrap and self.rolls))

    def comparable(self, move: int, *, wrap: bool = False, still: bool = False) -> Bool[Tensor, " j"]:
        """The set J = I ∩ (I + m): which outputs of a translated image can be compared exactly with those of the image.

        Args:
            move: m, in outputs. Output j of the translated image belongs to output j − m of the image.
            wrap: for a circular shift, where j − m is counted around the circle if the axis `rolls`.
            still: the shift is not along this axis, so that what enters a window beyond the image is the same in both.

        Returns:
            True where both windows lie inside the image, or the axis is `still`, for each j that has a counterpart: all
            outputs if wrapped, else the overlap, from max(m, 0) to outputs + min(m, 0).
        """
        inside = torch.full((self.outputs,), still)
        inside[self.interior.start : self.interior.stop] = True
        if wrap and self.rolls:
            return torch.ones_like(inside) if self.circular else inside & inside.roll(move)
        here, there = _overlap(self.outputs, move)
        return inside[here] & inside[there]


def _overlap(outputs: int, move: int) -> tuple[slice, slice]:
    """The outputs that have a counterpart after a move, as slices of the translated image's map and of the image's."""
    kept = max(outputs - abs(move), 0)
    return slice(max(move, 0), max(move, 0) + kept), slice(max(-move, 0), max(-move, 0) + kept)


@dataclass(frozen=True)
class Grid:
    """The positions of a map: what each sees along rows and columns."""

    y: Axis
    x: Axis

    @classmethod
    def unpadded(cls, size: Sequence[int], outputs: Sequence[int], stride: int) -> "Grid":
        """Of a map without padding: every window lies inside the image, so that all outputs are interior.

        Args:
            size: height and width of the image.
            outputs: height and width of the map.
            stride: total stride, in input pixels, along both axes: step and period.
        """
        return cls(*(Axis(n, k, Fraction(stride), stride, range(k)) for n, k in zip(size, outputs, strict=True)))

    @property
    def step(self) -> tuple[Fraction, Fraction] | None:
        """Step along rows and columns, input pixels; None where the positions lie on no regular grid of the image."""
        return None if self.y.step is None or self.x.step is None else (self.y.step, self.x.step)

    @property
    def period(self) -> tuple[int, int] | None:
        """Period along rows and columns, input pixels; None where it is not known along one of them."""
        return None if self.y.period is None or self.x.period is None else (self.y.period, self.x.period)

    def exact_at(self, t: Shift) -> bool:
        """Whether the period divides the shift `t = (dy, dx)` along both axes, so that the layer can be exact."""
        return self.y.exact_at(t[0]) and self.x.exact_at(t[1])

    def moves(self, t: Shift, *, wrap: bool = False) -> list[Shift]:
        """The whole moves of the map next to a shift by `t = (dy, dx)` pixels: one, two or four; none if it leaves."""
        return list(product(self.y.moves(t[0], wrap=wrap), self.x.moves(t[1], wrap=wrap)))

    def wrong_move(self, t: Shift, *, wrap: bool = False) -> Shift:
        """The control's move: one output beside the right ones, along the axes that the shift is along, or both."""
        right = self.y.moves(t[0], wrap=wrap), self.x.moves(t[1], wrap=wrap)
        wide = [axis.outputs > 1 for axis in (self.y, self.x)]
        along = [one and pixels != 0 for one, pixels in zip(wide, t, strict=True)]
        beside = [moves[0] - 1 if moves[-1] > 0 else moves[-1] + 1 for moves in right]
        wrong = zip(along if any(along) else wide, beside, right, strict=True)
        y, x = (move if is_wrong else moves[0] for is_wrong, move, moves in wrong)
        return y, x

    def aligned(self, a: Maps, b: Some, move: Shift, t: Shift, *, wrap: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """The maps of images moved by whole positions, and those of images shifted by `t`, where both are defined.

        Returns:
            T f(x) and f(T x), `n c j i`, and which positions are in J, `j i`.
        """
        axes = zip((self.y, self.x), move, t, strict=True)
        y, x = (axis.comparable(m, wrap=wrap, still=pixels == 0) for axis, m, pixels in axes)
        return *self._paired(a, b, move, wrap=wrap), (y[:, None] & x).to(a.device)

    def _paired(self, a: Maps, b: Some, move: Shift, *, wrap: bool) -> tuple[Tensor, Tensor]:
        """The positions of two batches that belong together after a move of the first."""
        for dim, axis, m in ((2, self.y, move[0]), (3, self.x, move[1])):
            if wrap and axis.rolls:
                a = a.roll(m, dim)
            else:
                here, there = _overlap(axis.outputs, m)
                before = (slice(None),) * dim
                a, b = a[(*before, there)], b[(*before, here)]
        return a, b


@dataclass(frozen=True)
class Record:
    """Named values of some images: under each name, one value for each image."""

    def __getitem__(self: R, index: Shaped[Tensor, " k"] | slice) -> R:
        """The values of some images, chosen by their numbers or by a mask."""
        return each_field(lambda values: values[..., index], self)

    def of_each(self: R, n: int) -> R:
        """One value that stands for all images, repeated for each of `n`."""
        return each_field(lambda values: values.expand(*values.shape[:-1], n), self)

    @classmethod
    def join(cls: type[R], parts: Sequence[R]) -> R:
        """The images of all parts, one part after the other."""
        return each_field(lambda *values: torch.cat(values, -1), *parts)


def each_field(change: Callable[..., Tensor], *records: R) -> R:
    """A record of what `change` makes of each name's values, one argument from each of the records."""
    fields = {name: [getattr(record, name) for record in records] for name in vars(records[0])}
    changed = {n: change(*v) if isinstance(v[0], Tensor) else each_field(change, *v) for n, v in fields.items()}
    return type(records[0])(**changed)


@dataclass(frozen=True)
class RelativeErrors(Record):
    """A relative error of each image, as two numbers that add up over images.

    Attributes:
        sums: ‖difference‖² of each image; and the same of what it is relative to, the denominator.
    """

    sums: Float64[Tensor, "2 n"]

    @property
    def each(self) -> Float64[Tensor, " n"]:
        """The error of each image; nan for 0 / 0, inf for a part that ought to be zero."""
        return (self.sums[0] / self.sums[1]).sqrt()

    @property
    def overall(self) -> float:
        """The error of all images, as if they were one large image; nan for 0 / 0."""
        return type(self)(self.sums.sum(-1, keepdim=True)).each.item()

    @property
    def largest(self) -> float:
        """[`largest_error`][lab.metrics.largest_error] of `each`."""
        return largest_error(self.each)


@dataclass(frozen=True)
class RelativeDistances(RelativeErrors):
    """The same, where norms are added up and not their squares."""

    @property
    def each(self) -> Float64[Tensor, " n"]:
        """The error of each image."""
        return self.sums[0] / self.sums[1]


NOTHING = RelativeErrors(torch.zeros(2, 1, dtype=torch.float64))  # was compared: nan, of all images alike
NONE = torch.zeros(1, dtype=torch.int64)


@dataclass(frozen=True)
class MovedMap(Record):
    """f(T x) against f(x) moved by whole positions of the map, for each image.

    Attributes:
        interior: equivariance error on J.
        border: of the other positions that have a counterpart.
        positions: int64, `n`, how many positions were compared.
        interior_positions: int64, `n`, how many of them are in J.
    """

    interior: RelativeErrors
    border: RelativeErrors
    positions: Int64[Tensor, " n"]
    interior_positions: Int64[Tensor, " n"]

    @property
    def full(self) -> RelativeErrors:
        """Equivariance error of every position that has a counterpart."""
        return RelativeErrors(self.interior.sums + self.border.sums)

    @property
    def equivariance(self) -> RelativeErrors:
        """The equivariance error that theory speaks of: on J, or on the full frame where J is empty."""
        return RelativeErrors(self.interior.sums.where(self.interior_positions > 0, self.full.sums))


@dataclass(frozen=True)
class LayerErrors(MovedMap):
    """What a layer makes of the translations of images: one value for each; nan where there is nothing to compare.

    The map is moved by the whole move that fits the shift best, chosen for each image where there are several.

    Attributes:
        wrong_shift: control of `equivariance`: the map moved one step wrong.
        unrelated: control: the map of another image.
        invariance: [`invariance_error`][lab.metrics.invariance_error].
        invariance_unrelated: control: the same between a translated image and another image.
        sorting: [`sorted_distance`][lab.metrics.sorted_distance].
        sorting_unrelated: control, likewise.
    """

    wrong_shift: RelativeErrors = NOTHING
    unrelated: RelativeErrors = NOTHING
    invariance: RelativeErrors = NOTHING
    invariance_unrelated: RelativeErrors = NOTHING
    sorting: RelativeErrors = NOTHING
    sorting_unrelated: RelativeErrors = NOTHING


@dataclass(eq=False)
class Comparison:
    """What a layer returns for images, ready to be compared with what it returns for their translations.

    The one place where `lab` measures: the exercise, the meter, the pages and the figures call it. Channels are summed
    in the type of the activations (float32: right to 3e-7 of the sum), all else in float64.

    Args:
        outputs: f(x), `n c h w` where it keeps positions, else `n ...`.
        grid: its positions; None if it keeps none, and has no equivariance error.
        wrap: whether shifts are circular.
        quantities: which of `"equivariance"`, `"invariance"`, `"sorting"` to measure.
        seed: of which images count as unrelated.
        controls: of how many images, the first ones, controls and sorted activations are taken; by default of all;
            where these are less than two, of none.
        name: of the layer, for messages.

    Raises:
        InputError: no floating-point type, NaN or an infinite value.
    """

    outputs: Shaped[Tensor, "n ..."]
    grid: Grid | None
    _: KW_ONLY
    wrap: bool = False
    quantities: Collection[Quantity] = get_args(Quantity)
    seed: int = 0
    controls: int | float = math.inf
    name: str = "the layer"

    def __post_init__(self) -> None:
        self.unit = _unit(self.outputs, self.name)
        self.outputs = a = self.in_range(self.outputs)
        self.few = int(min(self.controls, len(a))) if min(self.controls, len(a)) > 1 else 0
        # not the images that make the scale: a control that is divided by itself would be 1 whatever the layer does
        self.other = (derangement(self.few, seed=self.seed + 1) if self.few else torch.arange(0)).to(a.device)
        self.scale = _scale(a, self.seed) if "invariance" in self.quantities else math.nan
        self.sorted = self._sort(a[: self.few]) if "sorting" in self.quantities and self.few else None
        self.sorted_scale = math.nan if self.sorted is None else _scale(self.sorted, self.seed)

    @cached_property
    def energy(self) -> Float64[Tensor, "n 1 h w"]:
        """‖f(x)‖² at each position, over the channels, so that what is summed over parts of a map is small."""
        return _by_image(_squares, self.outputs, self.outputs.new_zeros(1).expand_as(self.outputs)).double()

    def errors(self, moved: Shaped[Tensor, "k ..."], t: Shift, images: Whole | None = None) -> LayerErrors:
        """The errors under one shift.

        Args:
            moved: f(T x) of the images, in the same order, or of some of them.
            t: `(dy, dx)`, input pixels.
            images: which of the images these are, by number, where controls are taken of all; by default all of them.

        Returns:
            One value for each image; what was not compared has one nan for all of them.

        Raises:
            InputError: NaN or an infinite value.
        """
        moved = self.in_range(moved)
        own, first = (slice(None), slice(self.few)) if images is None else (images, images[: self.few])
        few, other = moved[: self.few], self.other[first]
        found = self._equivariance(moved, own, first, other, t)
        if "invariance" in self.quantities:
            error, control = (_relative(a, self.outputs, i, self.scale) for a, i in ((moved, own), (few, other)))
            found = replace(found, invariance=error, invariance_unrelated=control)
        if self.sorted is not None:
            ordered = self._sort(few)
            error, control = (_relative(ordered, self.sorted, i, self.sorted_scale) for i in (first, other))
            found = replace(found, sorting=error, sorting_unrelated=control)
        sums = torch.cat([one.sums[0] for one in (found.interior, found.border, found.invariance, found.sorting)])
        require(math.isfinite(sums.sum()), f"{self.name} returns NaN or an infinite value")
        return found

    def errors_by_pair(self, moved: Shaped[Tensor, "n ..."], dy: Whole, dx: Whole) -> LayerErrors:
        """The errors where each image has a shift of its own, and controls are taken of all or none."""
        shifts, group = torch.stack([dy, dx], 1).unique(dim=0, return_inverse=True)
        members = [(group == i).nonzero()[:, 0] for i in range(len(shifts))]
        each = zip(shifts.tolist(), members, strict=True)
        parts = [self.errors(moved[m], (y, x), m).of_each(len(m)) for (y, x), m in each]
        return LayerErrors.join(parts)[torch.cat(members).argsort()]

    def in_range(self, a: Tensor) -> Tensor:
        """The values, converted and scaled so that their squares can be summed."""
        a = a if a.dtype in (torch.float32, torch.float64) else a.float()
        return a.detach().double() / self.unit if self.unit else a.detach()

    def _sort(self, a: Tensor) -> Tensor:
        """Each channel's activations in ascending order; NumPy sorts with vector instructions."""
        if self.grid is None:
            return a
        return torch.from_numpy(np.sort(a.flatten(2).contiguous().cpu().numpy(), axis=-1)).to(a.device)

    def _equivariance(self, moved: Tensor, own: Index, first: Index, other: Tensor, t: Shift) -> LayerErrors:
        """The errors of the moved map, with their controls."""
        if not self.grid or "equivariance" not in self.quantities or not (moves := self.grid.moves(t, wrap=self.wrap)):
            return LayerErrors(NOTHING, NOTHING, NONE, NONE)
        found = LayerErrors(**vars(self._best(moved, self.outputs, own, t, moves)))
        if not self.few:
            return found
        maps, moved = self.outputs[: self.few], moved[: self.few]
        wrong = self._best(moved, maps, first, t, [self.grid.wrong_move(t, wrap=self.wrap)])
        unrelated = self._best(moved, maps, other, t, moves)
        return replace(found, wrong_shift=wrong.equivariance, unrelated=unrelated.equivariance)

    def _best(self, moved: Tensor, maps: Tensor, which: Index, t: Shift, moves: Sequence[Shift]) -> MovedMap:
        """For each image the first move with the smallest error; those that leave an interior come first."""
        candidates = [self._moved(moved, maps, which, t, move) for move in moves]
        inside = [candidate for candidate in candidates if candidate.interior_positions.any()] or candidates
        if len(inside) == 1:
            return inside[0]
        errors = torch.stack([candidate.equivariance.each.nan_to_num(0.0, posinf=torch.inf) for candidate in inside])
        chosen = (errors <= (1 + TIE) * errors.amin(0)).byte().argmax(0)
        return MovedMap.join(inside)[chosen * len(moved) + torch.arange(len(moved))]

    def _moved(self, moved: Tensor, maps: Tensor, which: Index, t: Shift, move: Shift) -> MovedMap:
        """f(T x) against f(x), moved by whole positions of the map; `which` of `maps` belong to the moved ones."""
        assert self.grid
        energy = self.energy[: len(maps)]
        expected, found, inside = self.grid.aligned(maps, moved, move, t, wrap=self.wrap)
        weight, _ = self.grid._paired(energy, energy, move, wrap=self.wrap)
        squares = _by_image(_squares, found, expected, which)
        places = torch.stack([inside, ~inside]).flatten(1).double()
        interior, border = (torch.stack([squares.double(), weight[which]]).flatten(2) @ places.T).cpu().unbind(-1)
        counts = (torch.full((len(moved),), int(count)) for count in (inside.numel(), inside.sum()))
        return MovedMap(RelativeErrors(interior), RelativeErrors(border), *counts)


def _distances(a: Tensor, b: Tensor, room: Tensor) -> Float[Tensor, " n"]:
    # flatten would make a copy
    norms: Tensor = torch.linalg.vector_norm(torch.sub(a, b, out=room), dim=tuple(range(1, a.dim())))
    return norms


def _squares(a: Tensor, b: Tensor, room: Tensor) -> Float[Tensor, "n 1 h w"]:
    return torch.sub(a, b, out=room).square_().sum(1, keepdim=True)


def _scale(outputs: Tensor, seed: int) -> float:
    """The mean distance of unrelated images; nan of a single one."""
    if len(outputs) < 2:
        return math.nan
    order = derangement(len(outputs), seed=seed).to(outputs.device)
    return _by_image(_distances, outputs, outputs, order).double().mean().item()


def _relative(a: Tensor, b: Tensor, which: Index, scale: float) -> RelativeErrors:
    """The distances of images from some of `b`, if there are any, relative to a scale."""
    if not len(a):
        return NOTHING
    distance = _by_image(_distances, a, b, which).double().cpu()
    return RelativeDistances(torch.stack([distance, torch.full_like(distance, scale)]))


def _unit(outputs: Tensor, name: str) -> float:
    """A power of 2 to divide by, where squares of activations may not fit their type; else 0."""
    if not outputs.is_floating_point() or outputs.is_meta or outputs.numel() == 0:
        raise InputError(f"{name} must return floating-point values: {outputs.dtype}, shape {tuple(outputs.shape)}")
    largest = max(abs(end.item()) for end in outputs.aminmax())
    require(math.isfinite(largest), f"{name} returns NaN or an infinite value")
    return 0.0 if PLAIN[0] < largest < PLAIN[1] or largest == 0 else math.ldexp(1, math.frexp(largest)[1] - 1)


def _by_image(compare: Callable[..., Tensor], a: Tensor, b: Tensor, which: Index = slice(None)) -> Tensor:
    """What `compare` makes of each image of `a` and its own of `b`, a few at a time.

    It is given memory for what it computes on the way: the same again and again, which is faster than fresh memory. And
    images in order, or a single one, are not copied.
    """
    if isinstance(which, slice):
        parts = max(1, min(a.nbytes // CACHE, len(a)))
        chosen = iter(b[which].tensor_split(parts))
    else:
        parts = max(1, min(a.nbytes // COPIED, len(a)))
        chosen = (b[i] if len(i) > 1 else b.narrow(0, int(i), 1) for i in which.tensor_split(parts))
    if parts == 1:
        return compare(a, next(chosen), torch.empty_like(a))
    room = torch.empty_like(a[: len(a) // parts + 1])
    return torch.cat([compare(x, y, room[: len(x)]) for x, y in zip(a.tensor_split(parts), chosen, strict=True)])


def aligned_error(first: Maps, second: Maps, my: Whole, mx: Whole) -> PerImage:
    """`equivariance_error` of maps without padding, on the overlap after a move by `my, mx` of their pixels."""
    return best_aligned_error(first, second, my, mx, 1)


def best_aligned_error(first: Maps, second: Maps, dy: Whole, dx: Whole, stride: int) -> PerImage:
    """The smallest `aligned_error` over the moves next to `dy / stride, dx / stride`; float64.

    Where the stride divides the displacement there is one such move; elsewhere no move of the map's pixels
    corresponds to it, and the best of the two or four nearest is taken, for each image.
    """
    grid = Grid.unpadded([n * stride for n in first.shape[2:]], first.shape[2:], stride)
    comparison = Comparison(first, grid, quantities=["equivariance"], controls=0)
    return comparison.errors_by_pair(second, dy, dx).equivariance.each


def _norm(a: Shaped[Tensor, "n *shape"]) -> PerImage:
    """Euclidean norms, in float64 and relative to the largest value, so that no square is too large or too small."""
    a = a.flatten(1).double()
    largest = a.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    norms: Tensor = torch.linalg.vector_norm(a / largest, dim=1)
    return norms * largest[:, 0]


def _comparable(valid: Tensor | None = None, **both: Tensor) -> list[Tensor]:
    """Two batches of one shape, 0 where they are not valid.

    Raises:
        InputError: they cannot be compared; says which of the two, by its name.
    """
    a, b = both.values()
    shapes = ", ".join(f"{name} {tuple(values.shape)}" for name, values in both.items())
    alike = a.shape == b.shape and a.dim() >= 2 and a.numel() > 0
    require(alike, f"both must have the same shape n ..., and at least one element: {shapes}")
    if valid is not None:
        both = {name: values.masked_fill(~_mask(valid, values), 0) for name, values in both.items()}
    for name, values in both.items():
        require(values.is_floating_point(), f"{name} must hold floating-point values: {values.dtype}")
        check_finite(name, values)
    return list(both.values())


def _mask(valid: Tensor, like: Tensor) -> Tensor:
    require(valid.dtype == torch.bool, f"valid must be boolean: {valid.dtype}")
    shapes = f"{tuple(valid.shape)}, {tuple(like.shape)}"
    try:
        mask = valid.expand(like.shape)
    except RuntimeError:
        raise InputError(f"valid must broadcast to the activations: {shapes}") from None
    require(mask.flatten(1).any(1).all(), f"every image needs a valid position: {shapes}")
    return mask.to(like.device)
