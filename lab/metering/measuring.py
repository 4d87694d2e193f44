"""Layers × shifts -> errors, a batch at a time: nothing is kept of an image but sums.

This is the fast twin of `lab.metrics`: every error is the root of summed squares over summed squares (for
invariance, a mean distance over a mean distance), so that parts of a map, and batches, add up.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from typing import Literal, NoReturn

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor, nn

from lab.errors import InputError
from lab.metering.receptive_fields import Grid, LayerGeometry, overlap
from lab.metrics import derangement
from lab.observing import evaluating, observing
from lab.shifting import Mode, shift

Quantity = Literal["equivariance", "invariance", "sorting"]
Shift = tuple[int, int]
MEMORY = 2**27  # bytes of one batch's activations
LARGEST_BATCH = 128  # images; more are not faster, for the activations leave the processor's cache
SQUARES = 1e-9, 1e15  # float32 activations beyond: squares of their rounding errors, or sums of squares, do not fit it
TIE = 1e-5  # a candidate's error within this of the smallest, relatively: rounding must not choose between them
NULLS = 4  # null models and sorted activations are taken of one image in so many


@dataclass(frozen=True)
class Task:
    """What is to be measured: `images` under `shifts`, at the layers of `geometry`; how they lie in memory."""

    images: Float[Tensor, "n c h w"]
    shifts: Sequence[Shift]
    geometry: Mapping[str, LayerGeometry]
    mode: Mode
    background: float
    quantities: Collection[Quantity]
    seed: int = 0
    nulls: bool = True
    channels_last: bool = False


@dataclass(frozen=True)
class Errors:
    """What one layer does under one shift, as [`Row`][lab.metering.report.Row] has it; nan: nothing to measure."""

    error: float
    worst: float
    worst_image: int
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
        scale = self["invariance scale"] / self["invariance scale n"] if self["invariance scale n"] else 0.0
        farthest = self.get("farthest", math.nan) / scale if scale else math.nan
        return Errors(
            error=self.ratio("judged") if positions else self.relative("invariance"),
            worst=self.get("worst", math.nan) if positions else farthest,
            worst_image=int(self.get("worst image" if positions else "farthest image", -1)),
            full=self.ratio("full"),
            interior=self.ratio("interior"),
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
    first = 0
    for batch in _batches(task):
        bases: dict[str, _Base] = {}

        def keep(name: str, a: Tensor, bases: dict[str, _Base] = bases, first: int = first) -> None:
            if name in task.geometry:
                bases[name] = _Base(name, a.clone(), task, first)

        with observing(model, modules, keep), evaluating(model, batch.device):
            forward(_channels_last(batch) if task.channels_last else batch)
        for t in task.shifts:

            def compare(name: str, a: Tensor, bases: dict[str, _Base] = bases, t: Shift = t) -> None:
                if name in bases:
                    bases[name].add(a, t, found[name, t])

            moved = shift(batch, *t, mode=task.mode, background=task.background)
            with observing(model, modules, compare), evaluating(model, batch.device):
                forward(_channels_last(moved) if task.channels_last else moved)
        first += len(batch)
    for (name, _), sums in found.items():
        if not all(math.isfinite(value) for key, value in sums.items() if key != "worst"):  # that may be x / 0
            _refuse(name)
    return found


def takes_channels_last(model: nn.Module, modules: Mapping[str, nn.Module], images: Float[Tensor, "n c h w"]) -> bool:
    """Whether a network answers alike if a pixel's channels lie side by side: twice as fast, on a processor.

    Not all do: `view` wants positions side by side, and whoever takes strides for granted sees another image.
    """
    if images.device.type != "cpu":
        return False
    answers: list[dict[str, Tensor]] = []
    for x in (images[:2], _channels_last(images[:2])):
        found: dict[str, Tensor] = {}

        def keep(name: str, a: Tensor, found: dict[str, Tensor] = found) -> None:
            found[name] = a.clone()

        with suppress(Exception), observing(model, modules, keep), evaluating(model, x.device):
            model(x)
        answers.append(found)
    first, second = answers
    alike = (torch.dist(a, second[name]) <= 1e-3 * a.norm() for name, a in first.items() if name in second)
    return first.keys() == second.keys() and all(alike)


def _channels_last(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """The same values, also where one channel makes torch think that nothing is to be done."""
    _, c, h, w = x.shape
    return torch.empty_strided(x.shape, (c * h * w, 1, w * c, c), dtype=x.dtype, device=x.device).copy_(x)


def _refuse(name: str) -> NoReturn:
    raise InputError(f"{name or 'the model'} returns NaN or an infinite value")


def _batches(task: Task) -> Iterator[Tensor]:
    """Parts of nearly equal size, never a single image, for unrelated images come from the same part."""
    values = sum(math.prod(layer.shape) for layer in task.geometry.values())
    size = min(max(MEMORY // (values * task.images.element_size()), 2), LARGEST_BATCH)
    parts = max(min(-(-len(task.images) // size), len(task.images) // 2), 1)
    return iter(task.images.tensor_split(parts))


class _Base:
    """What a layer answers to a batch of images as they are, and how its answer to their translations differs."""

    def __init__(self, name: str, a: Float[Tensor, "n ..."], task: Task, first: int) -> None:
        largest = max(-a.amin().item(), a.amax().item())
        if not math.isfinite(largest):
            _refuse(name)
        if not SQUARES[0] < largest < SQUARES[1]:
            a = a.double()
        self.a, self.task, self.grid, self.first = a, task, task.geometry[name].grid, first
        self.few = slice(max(2, len(a) // NULLS))
        # not the images that make the scale: a null model that is divided by itself would be 1 whatever the layer does
        self.other = derangement(len(a[self.few]), seed=task.seed + 1).to(a.device)
        self.unrelated = a[self.few][self.other]
        partner, few = (derangement(n, seed=task.seed).to(a.device) for n in (len(a), len(self.other)))
        self.scale = _norm(a - a[partner]).sum().item() if "invariance" in task.quantities else 0.0
        if "equivariance" in task.quantities and self.grid is not None:
            # the sum over channels at each position, so that what is summed over parts of a map is small
            self.energy = self.grid.layout.maps(a).square().sum(1, keepdim=True).double()
        if "sorting" in task.quantities:
            self.sorted = self._sort(a[self.few])
            self.sorted_scale = _norm(self.sorted - self.sorted[few]).sum().item()

    def add(self, moved: Float[Tensor, "n ..."], t: Shift, sums: Sums) -> None:
        quantities, n = self.task.quantities, len(moved)
        if "equivariance" in quantities and self.grid is not None:
            self._add_equivariance(moved, self.grid, t, sums)
        if "invariance" in quantities:
            distance = _norm(moved - self.a)
            _add(sums, "invariance", distance)
            self._note_worst(sums, "farthest", distance)
            sums["invariance scale"] += self.scale
            sums["invariance scale n"] += n
            if self.task.nulls:
                _add(sums, "invariance unrelated", _norm(moved[self.few] - self.unrelated))
        if "sorting" in quantities:
            ordered = self._sort(moved[self.few])
            _add(sums, "sorting", _norm(ordered - self.sorted))
            _add(sums, "sorting unrelated", _norm(ordered - self.sorted[self.other]))
            sums["sorting scale"] += self.sorted_scale
            sums["sorting scale n"] += len(ordered)

    def _note_worst(self, sums: Sums, name: str, values: Tensor) -> None:
        value, image = values.max(0)
        if name not in sums or value > sums[name]:
            sums[name], sums[f"{name} image"] = value.item(), self.first + int(image)

    def _sort(self, a: Tensor) -> Tensor:
        """Each channel's activations in ascending order. NumPy sorts with vector instructions, torch without."""
        if self.grid is None:
            return a
        return torch.from_numpy(np.sort(self.grid.layout.maps(a).flatten(2).cpu().numpy(), axis=-1)).to(a.device)

    def _add_equivariance(self, moved: Tensor, grid: Grid, t: Shift, sums: Sums) -> None:
        wrap = self.task.mode == "wrap"
        axes = (grid.y, t[0]), (grid.x, t[1])
        right = [[m for m in axis.moves(step) if abs(m) < axis.outputs or (wrap and axis.rolls)] for axis, step in axes]
        moves = list(product(right[0], right[1]))
        if not moves:
            return
        first, second = grid.layout.maps(self.a), grid.layout.maps(moved)
        best = _best([_compare(first, self.energy, second, grid, move, wrap=wrap) for move in moves])
        for name, square, expected in best.parts():
            sums[name] += square.sum().item()
            sums[f"{name} expected"] += expected.sum().item()
        self._note_worst(sums, "worst", best.judged())
        if not self.task.nulls:
            return
        first, energy, second = first[self.few], self.energy[self.few], second[self.few]
        other = grid.layout.maps(self.unrelated), energy[self.other]
        unrelated = _best([_compare(*other, second, grid, move, wrap=wrap) for move in moves])
        wrong = _compare(first, energy, second, grid, _wrong_move(grid, t, right), wrap=wrap)
        for name, parts in (("unrelated", unrelated), ("wrong shift", wrong)):
            square, expected = parts.chosen()
            sums[name] += square.sum().item()
            sums[f"{name} expected"] += expected.sum().item()


def _wrong_move(grid: Grid, t: Shift, right: Sequence[Sequence[int]]) -> Shift:
    """One step beside the right moves, along each axis that the shift is along; along both if it is (0, 0)."""
    steps = [axis.outputs > 1 for axis in (grid.y, grid.x)]
    along = [step and pixels != 0 for step, pixels in zip(steps, t, strict=True)]
    beside = [moves[0] - 1 if moves[-1] > 0 else moves[-1] + 1 for moves in right]
    chosen = zip(along if any(along) else steps, beside, right, strict=True)
    y, x = (wrong if step else moves[0] for step, wrong, moves in chosen)
    return y, x


@dataclass(frozen=True)
class _Parts:
    """For each image, ‖f(T x) − T f(x)‖² and ‖T f(x)‖² over the interior of a map and over the rest."""

    interior: Float64[Tensor, " n"]
    interior_expected: Float64[Tensor, " n"]
    border: Float64[Tensor, " n"]
    border_expected: Float64[Tensor, " n"]
    inside: bool  # whether any position lies in the interior

    def full(self) -> tuple[Tensor, Tensor]:
        return self.interior + self.border, self.interior_expected + self.border_expected

    def parts(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        yield "judged", *self.chosen()
        yield "full", *self.full()
        yield "interior", self.interior, self.interior_expected
        yield "border", self.border, self.border_expected

    def chosen(self) -> tuple[Tensor, Tensor]:
        """The interior, or the full frame where there is none."""
        return (self.interior, self.interior_expected) if self.inside else self.full()

    def judged(self) -> Float64[Tensor, " n"]:
        """The error of each image; 0 where there is nothing."""
        square, expected = self.chosen()
        return torch.where(expected > 0, (square / expected).sqrt(), torch.where(square > 0, torch.inf, 0.0))


def _best(candidates: Sequence[_Parts]) -> _Parts:
    """For each image the first candidate with the smallest error; those with an interior come first."""
    inside = [parts for parts in candidates if parts.inside] or list(candidates)
    if len(inside) == 1:
        return inside[0]
    errors = torch.stack([parts.judged() for parts in inside])
    chosen = (errors <= (1 + TIE) * errors.amin(0)).byte().argmax(0)
    one = torch.arange(len(chosen), device=chosen.device)

    def pick(parts: Callable[[_Parts], Tensor]) -> Tensor:
        return torch.stack([parts(candidate) for candidate in inside])[chosen, one]

    return _Parts(
        pick(lambda c: c.interior),
        pick(lambda c: c.interior_expected),
        pick(lambda c: c.border),
        pick(lambda c: c.border_expected),
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
            before = (slice(None),) * dim
            first, second = first[(*before, there)], second[(*before, here)]
    return first, second, free


def _compare(first: Tensor, energy: Tensor, second: Tensor, grid: Grid, move: Shift, *, wrap: bool) -> _Parts:
    """f(T x) against f(x) moved by whole positions of the map; `energy` is that of f(x), `n 1 h w`."""
    expected, found, free = aligned(first, second, grid, move, wrap=wrap)
    interior = (free[0][:, None] & free[1]).to(found.device)
    difference = found - expected
    square = difference.mul_(difference).sum(1, keepdim=True).double()  # in place: fresh memory takes longer than sums
    weight = aligned(energy, energy, grid, move, wrap=wrap)[0]
    return _Parts(
        (square * interior).sum((1, 2, 3)),
        (weight * interior).sum((1, 2, 3)),
        (square * ~interior).sum((1, 2, 3)),
        (weight * ~interior).sum((1, 2, 3)),
        inside=bool(interior.any()),
    )


def _norm(t: Float[Tensor, "n ..."]) -> Float64[Tensor, " n"]:
    norms: Tensor = torch.linalg.vector_norm(t, dim=tuple(range(1, t.dim())))  # no copy, however they lie in memory
    return norms.double()


def _add(sums: Sums, name: str, distances: Tensor) -> None:
    sums[name] += distances.sum().item()
    sums[f"{name} n"] += len(distances)
