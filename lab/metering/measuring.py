"""Layers × shifts → errors, a batch at a time: only sums over images are kept.

The errors are those of [`Comparison`][lab.metrics.Comparison]; those of a batch are kept as one.
"""

import math
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Float, Float64, Int64
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lab.metering.interpolation import interpolated_error
from lab.metering.operations import is_blur
from lab.metering.receptive_fields import LayerGeometry
from lab.metrics import NOTHING, Comparison, LayerErrors, Quantity, RelativeErrors, Shift, each_field
from lab.observing import Layer, evaluating, outputs, watching
from lab.shifting import Mode, shift

MEMORY = 9 * 10**8  # bytes of one batch's activations: controls of two images in many cost little, of two in two a lot
MANY = 500  # images × shifts, from which it pays to look which order in memory is faster
AT_MOST_ONE_IN = 4  # of a batch, controls are taken of no more than one image in 4: sorted activations take memory, too
LARGEST_BATCH = 128  # images; of more, activations leave the processor's cache, and may be fresh memory each time

STILL = (0, 0)
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
        controls: of how many images, at least two, controls and sorted activations are taken; 0: of none.
        channels_last: whether a pixel's channels lie side by side in memory.
        classes: the tensor that holds class scores, if there is one.
        progress: show a bar on standard error, if that is a terminal.
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
    controls: int
    channels_last: bool = False
    classes: Layer | None = None
    progress: bool = False

    @cached_property
    def modules(self) -> dict[str, nn.Module]:
        """Those of the layers, by name."""
        layers = filter(None, [self.classes, *(one.layer for one in self.geometry.values())])
        return {layer.module: self.model.get_submodule(layer.module) for layer in layers}

    def only(self, keys: Collection[Key]) -> "Task":
        """The same of some layers and shifts, without controls and classes."""
        geometry, shifts = {name: self.geometry[name] for name, _ in keys}, list(dict.fromkeys(t for _, t in keys))
        return replace(self, geometry=geometry, shifts=shifts, controls=0, classes=None)

    def run(self, x: Tensor, see: Callable[[str, Tensor], None]) -> Tensor | None:
        """Run the network, and call `see` with the names of the layers to measure and what they return.

        Returns:
            The class scores, `n classes`, if there are any.
        """
        scores = None

        def look(layer: Layer, a: Tensor) -> None:
            nonlocal scores
            if layer == self.classes:
                scores = a.float()
            if (name := str(layer)) in self.geometry:
                see(name, a)

        with watching(self.model, self.modules, look), evaluating(self.model, x.device):
            self.forward(channels_last(x) if self.channels_last else x)
        return scores


@dataclass(frozen=True)
class MeterErrors(LayerErrors):
    """Those of a comparison, and one more.

    Attributes:
        interpolated: of the first image, where the period does not divide the shift, against the map moved by t / step
            outputs, interpolated.
    """

    interpolated: RelativeErrors = NOTHING


@dataclass(frozen=True)
class Measured(MeterErrors):
    """What was found of one layer under one shift: one value for each batch as a whole.

    Attributes:
        judged: the error that theory speaks of: the equivariance error, or the invariance error without positions.
        largest: of an image; -1 where there is nothing to compare.
        image: which one that is.
    """

    _: KW_ONLY
    judged: RelativeErrors
    largest: Float64[Tensor, " n"]
    image: Int64[Tensor, " n"]

    @property
    def error(self) -> float:
        """The error that theory speaks of, over all images."""
        return self.judged.overall

    @property
    def worst(self) -> tuple[float, int]:
        """The largest error of an image, and which one that is; nan and -1 where there is nothing to compare."""
        largest, batch = self.largest.max(0)
        return (largest.item(), int(self.image[batch])) if largest >= 0 else (math.nan, -1)


def measure_layers(task: Task) -> tuple[dict[Key, Measured], dict[Shift, Tensor]]:
    """Run the images, then each translation of them, and compare what each layer returns, shift by shift.

    Returns:
        What was found of each layer under each shift; and the class scores under each shift, if there are any.

    Raises:
        InputError: a layer returns NaN or an infinite value.
    """
    found: dict[str, list[Measured]] = defaultdict(list)
    scores: dict[Shift, list[Tensor]] = defaultdict(list)
    batches, left, bar = list(_batches(task)), task.controls, task.progress and sys.stderr.isatty()
    shown = track(batches, "measuring", console=Console(stderr=True), disable=not bar, transient=True)
    for first, batch in shown:
        part = replace(task, controls=min(left, max(len(batch) // AT_MOST_ONE_IN, 2)))
        left -= part.controls
        for name, errors in _compare_batch(part, batch, scores).items():
            if errors.keys() == set(task.shifts):
                judged = "invariance" if task.geometry[name].grid is None else "equivariance"
                found[name].append(_summed([errors[t] for t in task.shifts], judged, range(first, first + len(batch))))
    whole = {name: Measured.join(parts) for name, parts in found.items() if len(parts) == len(batches)}
    measured = {(n, t): one[i :: len(task.shifts)] for n, one in whole.items() for i, t in enumerate(task.shifts)}
    return measured, {t: torch.cat(parts) for t, parts in scores.items()}


def _compare_batch(task: Task, batch: Tensor, scores: dict[Shift, list[Tensor]]) -> dict[str, dict[Shift, MeterErrors]]:
    wrap = task.mode == "wrap"
    compared: dict[str, Comparison] = {}
    comparison = partial(Comparison, wrap=wrap, quantities=task.quantities, seed=task.seed, controls=task.controls)
    found: dict[str, dict[Shift, MeterErrors]] = defaultdict(dict)

    def keep(name: str, a: Tensor) -> None:
        geometry = task.geometry[name]
        compared[name] = comparison(geometry.maps(a.clone()), geometry.grid, name=name or "the model")

    def compare(t: Shift, name: str, a: Tensor) -> None:
        if name in compared:
            found[name][t] = _errors(compared[name], task.geometry[name].maps(a), t)

    for t in dict.fromkeys((STILL, *task.shifts)):
        moved = shift(batch, *t, mode=task.mode, background=task.background)
        see = keep if t == STILL else partial(compare, t)
        if (classes := task.run(moved, see)) is not None:
            scores[t].append(classes)
        if t == STILL and t in task.shifts:
            task.run(batch, partial(compare, t))
    return found


def _errors(comparison: Comparison, moved: Tensor, t: Shift) -> MeterErrors:
    errors, interpolated = comparison.errors(moved, t), NOTHING
    if comparison.grid and "equivariance" in comparison.quantities:
        one = comparison.outputs[:1], comparison.in_range(moved[:1])
        interpolated = interpolated_error(*one, comparison.grid, t, wrap=comparison.wrap)
    return MeterErrors(**vars(errors), interpolated=interpolated)


def _batches(task: Task) -> Iterator[tuple[int, Tensor]]:
    """Parts of nearly equal size, never a single image, because unrelated images come from the same part."""
    values = sum(math.prod(layer.shape) for layer in task.geometry.values())
    size = min(max(MEMORY // (values * task.images.element_size()), 2), LARGEST_BATCH)
    parts = max(min(-(-len(task.images) // size), len(task.images) // 2), 1)
    first = 0
    for batch in task.images.tensor_split(parts):
        yield first, batch
        first += len(batch)


def _summed(errors: Sequence[MeterErrors], judged: str, images: range) -> Measured:
    """Of a layer under each shift: a batch as a whole, and its worst image."""
    totals, each = each_field(_totals, *errors), [getattr(one, judged).of_each(len(images)) for one in errors]
    values = RelativeErrors.join(each).each.view(len(errors), -1)
    values = values.nan_to_num(0.0, posinf=math.inf).where(totals.positions[:, None] > 0, values)  # 0 of 0 is right
    largest, image = values.nan_to_num(-1.0, posinf=math.inf).max(1)
    return Measured(**vars(totals), judged=each_field(_totals, *each), largest=largest, image=images.start + image)


def _totals(*values: Tensor) -> Tensor:
    """The sums over the images of each record, as if each were one image."""
    if all(one is values[0] for one in values):  # what was not compared is the same everywhere
        return values[0].sum(-1, keepdim=True).repeat_interleave(len(values), -1)
    return torch.stack([one.sum(-1) for one in values], -1)


class unblurred(TorchDispatchMode):  # noqa: N801  # a context, as torch.no_grad
    """While it is entered, a stride that blurs takes the middle of its window, or what is just before."""

    _should_skip_dynamo = classmethod(lambda _: False)  # or its first use loads the compiler, which takes seconds

    def __torch_dispatch__(self, operation: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation."""
        if operation is torch.ops.aten.convolution.default and is_blur(*args):
            kernels = torch.zeros_like(args[1])
            kernels[..., *[(n - 1) // 2 for n in kernels.shape[2:]]] = 1  # type: ignore[index]  # right for torch
            args = (args[0], kernels, *args[2:])
        return operation(*args, **(kwargs or {}))


def takes_channels_last(task: Task) -> bool:
    """Whether a network returns the same if a pixel's channels lie side by side in memory, which is faster on a CPU.

    Forward passes on one core: 2.6 × (PooledCNN), 1.2 × (ResNet-18, VGG-11, MobileNetV3-small), 1.05 × (given network,
    ResNet-50, ConvNeXt-tiny). Not all networks allow it: `view` needs positions side by side, and code that takes
    strides for granted sees another image.
    """
    images = task.images[:1]
    if images.device.type == "cpu" and len(task.images) * len(task.shifts) >= MANY:
        with suppress(Exception):  # a model that needs the usual order may raise anything
            first, second = (outputs(task.model, task.modules, x) for x in (images, channels_last(images)))
            alike = (torch.dist(a, second[layer]) <= 1e-3 * a.norm() for layer, a in first.items())
            return first.keys() == second.keys() and all(alike)
    return False


def channels_last(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """The same values, also where one channel makes torch think that nothing is to be done."""
    _, c, h, w = x.shape
    return torch.empty_strided(x.shape, (c * h * w, 1, w * c, c), dtype=x.dtype, device=x.device).copy_(x)
