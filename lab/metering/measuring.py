"""Layers × shifts → errors, a batch at a time: of an image nothing is kept but what is added up.

The errors are those of [`Comparison`][lab.metrics.Comparison]; those of a batch are kept as one.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lab.metering.receptive_fields import LayerGeometry
from lab.metrics import Comparison, LayerErrors, Quantity, Shift
from lab.observing import Layer, evaluating, outputs, watching
from lab.shifting import Mode, shift

MEMORY = 2**27  # bytes of one batch's activations
LARGEST_BATCH = 128  # images; more are not faster, for the activations leave the processor's cache

Key = tuple[str, Shift]  # a layer's name, and how the images were moved


@dataclass(frozen=True)
class Task:
    """What is to be measured.

    Attributes:
        model: the network.
        forward: runs it; the model itself, or the same with other weights.
        images: as it takes them.
        shifts: `(dy, dx)`, input pixels.
        geometry: of the layers to measure.
        mode: what enters the frame.
        background: the value of background pixels.
        quantities: as in [`Comparison`][lab.metrics.Comparison].
        seed: likewise.
        one_in: likewise.
        channels_last: whether a pixel's channels lie side by side in memory.
    """

    model: nn.Module
    forward: Callable[[Tensor], object]
    images: Float[Tensor, "n c h w"]
    shifts: Sequence[Shift]
    geometry: Mapping[str, LayerGeometry]
    mode: Mode
    background: float
    quantities: Collection[Quantity]
    seed: int
    one_in: int
    channels_last: bool = False

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Those of the layers, by name."""
        names = {layer.layer.module for layer in self.geometry.values()}
        return {name: self.model.get_submodule(name) for name in names}

    def run(self, x: Tensor, see: Callable[[str, Tensor], None]) -> None:
        """Run the network, and call `see` with the names of the layers to measure and what they return."""

        def look(layer: Layer, a: Tensor) -> None:
            if (name := str(layer)) in self.geometry:
                see(name, a)

        with watching(self.model, self.modules, look), evaluating(self.model, x.device):
            self.forward(channels_last(x) if self.channels_last else x)


@dataclass(frozen=True)
class Measured:
    """What was found of one layer under one shift.

    Attributes:
        errors: of each batch as a whole.
        keeps_positions: whether theory speaks of the equivariance error, rather than the invariance error.
        worst: the largest error of an image; nan where there is nothing to compare.
        worst_image: which one that is; -1 where there is nothing.
    """

    errors: LayerErrors
    keeps_positions: bool
    worst: float
    worst_image: int

    @property
    def error(self) -> float:
        """The error that theory speaks of, over all images."""
        return (self.errors.equivariance if self.keeps_positions else self.errors.invariance).overall


def measure_layers(task: Task) -> dict[Key, Measured]:
    """Run the images, then each translation of them, and compare what each layer returns, shift by shift.

    Raises:
        InputError: a layer returns NaN or an infinite value.
    """
    found: dict[Key, list[Measured]] = defaultdict(list)
    for first, batch in _batches(task):
        for key, errors in _compare_batch(task, batch).items():
            found[key].append(_summed(errors, first, keeps_positions=task.geometry[key[0]].grid is not None))
    return {key: _joined(parts) for key, parts in found.items()}


def _compare_batch(task: Task, batch: Tensor) -> dict[Key, LayerErrors]:
    wrap = task.mode == "wrap"
    compared: dict[str, Comparison] = {}
    comparison = partial(Comparison, wrap=wrap, quantities=task.quantities, seed=task.seed, one_in=task.one_in)
    found: dict[Key, LayerErrors] = {}

    def keep(name: str, a: Tensor) -> None:
        geometry = task.geometry[name]
        compared[name] = comparison(geometry.maps(a.clone()), geometry.grid, name=name or "the model")

    def compare(t: Shift, name: str, a: Tensor) -> None:
        if name in compared:
            found[name, t] = compared[name].errors(task.geometry[name].maps(a), t)

    task.run(batch, keep)
    for t in task.shifts:
        task.run(shift(batch, *t, mode=task.mode, background=task.background), partial(compare, t))
    return found


def _batches(task: Task) -> Iterator[tuple[int, Tensor]]:
    """Parts of nearly equal size, never a single image, for unrelated images come from the same part."""
    values = sum(math.prod(layer.shape) for layer in task.geometry.values())
    size = min(max(MEMORY // (values * task.images.element_size()), 2), LARGEST_BATCH)
    parts = max(min(-(-len(task.images) // size), len(task.images) // 2), 1)
    first = 0
    for batch in task.images.tensor_split(parts):
        yield first, batch
        first += len(batch)


def _summed(errors: LayerErrors, first: int, *, keeps_positions: bool) -> Measured:
    """A batch as a whole, and its worst image."""
    each = (errors.equivariance if keeps_positions else errors.invariance).each
    if keeps_positions and errors.positions.any():
        each = each.nan_to_num(0.0, posinf=math.inf)  # where both are 0, nothing is wrong
    worst, image = each.nan_to_num(-1.0, posinf=math.inf).max(0)
    if worst < 0:
        return Measured(errors.total(), keeps_positions, math.nan, -1)
    return Measured(errors.total(), keeps_positions, worst.item(), first + int(image))


def _joined(parts: Sequence[Measured]) -> Measured:
    worst = max(parts, key=lambda part: -1.0 if math.isnan(part.worst) else part.worst)
    errors = LayerErrors.join([part.errors for part in parts])
    return Measured(errors, worst.keeps_positions, worst.worst, worst.worst_image)


def takes_channels_last(task: Task) -> bool:
    """Whether a network returns the same if a pixel's channels lie side by side in memory, which is faster on a CPU.

    Forward passes on one core: 3.1 × (PooledCNN), 2.5 × (given network), 1.2 × (ResNet-18, MobileNetV3-small), 1.04 ×
    (ConvNeXt-tiny). Not all networks can: `view` wants positions side by side, and whoever takes strides for granted
    sees another image.
    """
    images = task.images[:2]
    if images.device.type == "cpu":
        with suppress(Exception):  # a model that needs the usual order may raise anything
            first, second = (outputs(task.model, task.modules, x) for x in (images, channels_last(images)))
            alike = (torch.dist(a, second[layer]) <= 1e-3 * a.norm() for layer, a in first.items())
            return first.keys() == second.keys() and all(alike)
    return False


def channels_last(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """The same values, also where one channel makes torch think that nothing is to be done."""
    _, c, h, w = x.shape
    return torch.empty_strided(x.shape, (c * h * w, 1, w * c, c), dtype=x.dtype, device=x.device).copy_(x)
