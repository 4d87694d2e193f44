"""Layers × shifts -> errors, a batch at a time: nothing is kept of an image but sums.

This is the fast twin of `lab.metrics`: every error is the root of summed squares over summed squares (for
invariance, a mean distance over a mean distance), so that parts of a map, and batches, add up.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor, nn

from lab.activations import observing
from lab.errors import InputError
from lab.geometry import Grid, LayerGeometry, overlap
from lab.metrics import derangement
from lab.models import evaluating
from lab.shifting import Mode, shift

Quantity = Literal["equivariance", "invariance", "sorting"]
Shift = tuple[int, int]
MEMORY = 2**27  # bytes of one batch's activations
LARGEST_BATCH = 128  # images; more are not faster, for the activations leave the processor's cache
NULLS = 4  # null models and sorted activations are taken of one image in so many


@dataclass(frozen=True)
class Task:
    """What is to be measured: `images` under `shifts`, at the layers of `geometry`."""

    images: Float[Tensor, "n c h w"]
    shifts: Sequence[Shift]
    geometry: Mapping[str, LayerGeometry]
    mode: Mode
    background: float
    quantities: Collection[Quantity]
    seed: int = 0
    nulls: bool = True


@dataclass(frozen=True)
class Errors:
    """What one layer does under one shift, as [`Row`][lab.meter.Row] has it; nan where there is nothing to measure."""

    error: float
    worst: float
    full: float
    interior: float
    border: float
    inside: float
    wrong_shift: float
    unrelated: float
    invariance: float
    invariance_unrelated: float
    sorting: float
    sorting_unrelated: float


class Sums(defaultdict[str, float]):
    """Sums over images of squares and distances, by name."""

    def __init__(self) -> None:
        super().__init__(float)

    def ratio(self, name: str) -> float:
        """Root of summed squares over summed squares; nan for 0/0, inf for a part that ought to be zero."""
        above, below = self[name], self[f"{name} expected"]
        return math.sqrt(above / below) if below else (math.inf if above else math.nan)

    def relative(self, name: str) -> float:
        """Mean distance over the mean distance of unrelated images; the second has a sum of its own for a sample."""
        sampled = "sorting scale" if name.startswith("sorting") else "invariance scale"
        scale, n = self[sampled], self[f"{sampled} n"]
        return (self[name] / self[f"{name} n"]) / (scale / n) if scale and self[f"{name} n"] else math.nan

    def errors(self, *, positions: bool) -> Errors:
        """The errors that the sums make; `positions` says which of them theory speaks of."""
        whole = self["full expected"]
        interior, full = self.ratio("interior"), self.ratio("full")
        judged = (full if math.isnan(interior) else interior) if positions else self.relative("invariance")
        scale = self["invariance scale"] / self["invariance scale n"] if self["invariance scale n"] else 0.0
        worst = self["worst"] if positions else self["farthest"] / scale if scale else math.nan
        return Errors(
            error=judged,
            worst=worst,
            full=full,
            interior=interior,
            border=self.ratio("border"),
            inside=self["interior expected"] / whole if whole else math.nan,
            wrong_shift=self.ratio("wrong shift"),
            unrelated=self.ratio("unrelated"),
            invariance=self.relative("invariance"),
            invariance_unrelated=self.relative("invariance unrelated"),
            sorting=self.relative("sorting"),
            sorting_unrelated=self.relative("sorting unrelated"),
        )


def measure(
    forward: Callable[[Tensor], object], model: nn.Module, modules: Mapping[str, nn.Module], task: Task
) -> dict[tuple[str, Shift], Sums]:
    """Run the images, then each translation of them, and add up the errors of each layer under each shift.

    Args:
        forward: runs `model`, which may be the model itself.
        model: the network whose modules are observed.
        modules: those of the layers in `task`, by name.
        task: what to measure.

    Raises:
        InputError: a layer returns NaN or an infinite value.
    """
    found: dict[tuple[str, Shift], Sums] = defaultdict(Sums)
    for batch in _batches(task):
        bases: dict[str, _Base] = {}

        def keep(name: str, a: Tensor, bases: dict[str, _Base] = bases) -> None:
            if name in task.geometry:
                bases[name] = _Base(name, a.clone(), task)

        with observing(model, modules, keep), evaluating(model, batch.device):
            forward(batch)
        for t in task.shifts:

            def compare(name: str, a: Tensor, bases: dict[str, _Base] = bases, t: Shift = t) -> None:
                if name in bases:
                    bases[name].add(a, t, found[name, t])

            moved = shift(batch, *t, mode=task.mode, background=task.background)
            with observing(model, modules, compare), evaluating(model, batch.device):
                forward(moved)
    return found


def _batches(task: Task) -> Iterator[Tensor]:
    """Parts of nearly equal size, never a single image, for unrelated images come from the same part."""
    values = sum(math.prod(layer.shape) for layer in task.geometry.values())
    size = min(max(MEMORY // (values * task.images.element_size()), 2), LARGEST_BATCH)
    parts = max(min(-(-len(task.images) // size), len(task.images) // 2), 1)
    return iter(task.images.tensor_split(parts))


class _Base:
    """What a layer answers to a batch of images as they are, and how its answer to their translations differs."""

    def __init__(self, name: str, a: Float[Tensor, "n ..."], task: Task) -> None:
        if not a.sum().isfinite():
            raise InputError(f"{name or 'the model'} returns NaN or an infinite value")
        self.a, self.task, self.grid = a, task, task.geometry[name].grid
        self.few = slice(max(2, len(a) // NULLS))
        self.other = derangement(len(a[self.few]), seed=task.seed).to(a.device)
        partner = derangement(len(a), seed=task.seed).to(a.device)
        self.scale = _norm(a - a[partner]).sum().item() if "invariance" in task.quantities else 0.0
        if "equivariance" in task.quantities and self.grid is not None:
            self.energy = _energy(self.grid.layout.maps(a))
        if "sorting" in task.quantities:
            self.sorted = self._sort(a[self.few])
            self.sorted_scale = _norm(self.sorted - self.sorted[self.other]).sum().item()

    def add(self, moved: Float[Tensor, "n ..."], t: Shift, sums: Sums) -> None:
        quantities, n = self.task.quantities, len(moved)
        if "equivariance" in quantities and self.grid is not None:
            self._add_equivariance(moved, self.grid, t, sums)
        if "invariance" in quantities:
            distance = _norm(moved - self.a)
            _add(sums, "invariance", distance)
            sums["farthest"] = max(sums["farthest"], distance.max().item())
            sums["invariance scale"] += self.scale
            sums["invariance scale n"] += n
            if self.task.nulls:
                _add(sums, "invariance unrelated", _norm(moved[self.few] - self.a[self.few][self.other]))
        if "sorting" in quantities:
            ordered = self._sort(moved[self.few])
            _add(sums, "sorting", _norm(ordered - self.sorted))
            _add(sums, "sorting unrelated", _norm(ordered - self.sorted[self.other]))
            sums["sorting scale"] += self.sorted_scale
            sums["sorting scale n"] += len(ordered)

    def _sort(self, a: Tensor) -> Tensor:
        """Each channel's activations in ascending order. NumPy sorts with vector instructions, torch without."""
        if self.grid is None:
            return a
        return torch.from_numpy(np.sort(self.grid.layout.maps(a).flatten(2).cpu().numpy(), axis=-1))

    def _add_equivariance(self, moved: Tensor, grid: Grid, t: Shift, sums: Sums) -> None:
        moves = list(product(grid.y.moves(t[0]), grid.x.moves(t[1])))
        if not moves:
            return
        wrap = self.task.mode == "wrap"
        first, second = grid.layout.maps(self.a), grid.layout.maps(moved)
        best = _best([_compare(first, self.energy, second, grid, move, wrap=wrap) for move in moves])
        for name, square, expected in best.parts():
            sums[name] += square.sum().item()
            sums[f"{name} expected"] += expected.sum().item()
        sums["worst"] = max(sums["worst"], best.judged().max().item())
        if not self.task.nulls:
            return
        first, energy, second = first[self.few], self.energy[self.few], second[self.few]
        other = first[self.other], energy[self.other]
        unrelated = _best([_compare(*other, second, grid, move, wrap=wrap) for move in moves])
        step = (-1 if moves[0][0] > 0 else 1, 0) if grid.y.outputs > 1 else (0, -1 if moves[0][1] > 0 else 1)
        wrong = _compare(first, energy, second, grid, (moves[0][0] + step[0], moves[0][1] + step[1]), wrap=wrap)
        for name, parts in (("unrelated", unrelated), ("wrong shift", wrong)):
            square, expected = parts.chosen()
            sums[name] += square.sum().item()
            sums[f"{name} expected"] += expected.sum().item()


@dataclass(frozen=True)
class _Parts:
    """For each image, ‖f(T x) − T f(x)‖² and ‖T f(x)‖² over the full frame and over the interior of a map."""

    full: Float64[Tensor, " n"]
    full_expected: Float64[Tensor, " n"]
    interior: Float64[Tensor, " n"]
    interior_expected: Float64[Tensor, " n"]
    outside: bool  # whether any position lies outside the interior
    inside: bool  # whether any lies in it

    def parts(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        yield "full", self.full, self.full_expected
        yield "interior", self.interior, self.interior_expected
        if self.outside:
            square, expected = self.full - self.interior, self.full_expected - self.interior_expected
            yield "border", square.clamp(min=0), expected.clamp(min=0)

    def chosen(self) -> tuple[Tensor, Tensor]:
        """The interior, or the full frame where there is none."""
        return (self.interior, self.interior_expected) if self.inside else (self.full, self.full_expected)

    def judged(self) -> Float64[Tensor, " n"]:
        """The error of each image; 0 where there is nothing."""
        square, expected = self.chosen()
        return torch.where(expected > 0, (square / expected).sqrt(), torch.where(square > 0, torch.inf, 0.0))


def _best(candidates: Sequence[_Parts]) -> _Parts:
    """For each image the candidate with the smallest error; those with an interior come first."""
    inside = [parts for parts in candidates if parts.inside] or list(candidates)
    if len(inside) == 1:
        return inside[0]
    chosen = torch.stack([parts.judged() for parts in inside]).argmin(0)
    one = torch.arange(len(chosen), device=chosen.device)

    def pick(parts: Callable[[_Parts], Tensor]) -> Tensor:
        return torch.stack([parts(candidate) for candidate in inside])[chosen, one]

    return _Parts(
        pick(lambda c: c.full),
        pick(lambda c: c.full_expected),
        pick(lambda c: c.interior),
        pick(lambda c: c.interior_expected),
        outside=any(candidate.outside for candidate in inside),
        inside=inside[0].inside,
    )


def aligned(
    first: Float[Tensor, "n c h w"], second: Float[Tensor, "n c h w"], grid: Grid, move: Shift, *, wrap: bool
) -> tuple[Float[Tensor, "n c j i"], Float[Tensor, "n c j i"], list[Bool[Tensor, " _"]]]:
    """The maps of the images, moved by whole positions, and those of the translated images, where both are defined.

    Returns:
        T f(x), f(T x), and for each axis which positions are free of the border in both.
    """
    axes = (2, grid.y, move[0]), (3, grid.x, move[1])
    free = [axis.comparable(m, wrap=wrap) for _, axis, m in axes]
    for dim, axis, m in axes:
        if wrap and axis.rolls:
            first = first.roll(m, dim)
        else:
            here, there = overlap(axis.outputs, m)
            first = first.narrow(dim, there.start, there.stop - there.start)
            second = second.narrow(dim, here.start, here.stop - here.start)
    return first, second, free


def _compare(first: Tensor, energy: Tensor, second: Tensor, grid: Grid, move: Shift, *, wrap: bool) -> _Parts:
    """f(T x) against f(x) moved by whole positions of the map; `energy` is that of f(x), `n 1 h w`."""
    expected, found, free = aligned(first, second, grid, move, wrap=wrap)
    square = _energy(found - expected)
    weight = aligned(energy, energy, grid, move, wrap=wrap)[0]
    full, full_expected = square.sum((1, 2, 3)), weight.sum((1, 2, 3))
    if all(bool(one.all()) for one in free):
        return _Parts(full, full_expected, full, full_expected, outside=False, inside=weight.numel() > 0)
    square, weight = _select(square, free), _select(weight, free)
    interior, interior_expected = square.sum((1, 2, 3)), weight.sum((1, 2, 3))
    return _Parts(full, full_expected, interior, interior_expected, outside=True, inside=weight.numel() > 0)


def _select(t: Tensor, free: Sequence[Tensor]) -> Tensor:
    """Only the rows and columns that are free; without a copy where they lie side by side."""
    for dim, one in zip((2, 3), free, strict=True):
        index = one.nonzero()[:, 0]
        side_by_side = len(index) == 0 or int(index[-1] - index[0]) == len(index) - 1
        start = int(index[0]) if len(index) else 0
        t = t.narrow(dim, start, len(index)) if side_by_side else t.index_select(dim, index.to(t.device))
    return t


def _energy(t: Float[Tensor, "n c h w"]) -> Float64[Tensor, "n 1 h w"]:
    """The sum of squares over the channels at each position, so that what is summed over parts of a map is small."""
    return t.square().sum(1, keepdim=True).double()


def _norm(t: Float[Tensor, "n ..."]) -> Float64[Tensor, " n"]:
    norms: Tensor = torch.linalg.vector_norm(t.flatten(1), dim=1)
    return norms.double()


def _add(sums: Sums, name: str, distances: Tensor) -> None:
    sums[name] += distances.sum().item()
    sums[f"{name} n"] += len(distances)
