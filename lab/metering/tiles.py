"""How to cut large images into tiles whose outputs, put together, are exactly the output for the whole image.

Where no output sees the edge of a part, an equivariant network returns for it what it returns there for the whole. So a
tile is a core with a halo around it: the network runs on both, and what it returns for the core is kept.
"""

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from itertools import compress
from typing import Any

import torch
from jaxtyping import Float, Int64
from rich.markup import escape
from torch import Tensor, nn

from lab.checkpoints import restored
from lab.errors import InputError, failures, require
from lab.files import finite
from lab.metering.inputs import as_images, check_model
from lab.metering.instrument import TOLERANCE, check_batch, in_double, tolerance
from lab.metering.origins import Pair
from lab.metering.receptive_fields import Forward, LayerGeometry, Layers, trace_network
from lab.metering.theory import expect
from lab.metrics import Axis
from lab.observing import Layer, evaluating, watching

CORE = 8  # pixels, or one period: cores that are tried are one and two periods larger
FEW = 8  # outputs along an axis, of which no pattern can be read
TILES = 6  # that an image is cut into: of two sizes, at three places along each axis
PAYS = 1 + math.sqrt(2)  # times the halo: t² is half of (t + halo)²
ATTEMPTS = 5  # at finding the size from which on an image holds a tile with its halo
Images = Float[Tensor, "n c h w"]


@dataclass(frozen=True)
class Tiling:
    """How to cut images so that a layer's outputs for the tiles are those for the whole image.

    Along rows, for a core from a to b: run the network on the image from begin = max(a − top, 0) to b + bottom, or to
    the image's end if that comes first. Of the outputs keep (b − a) / step, from (a − begin) / step on: they are the
    whole image's from a / step on. a and b are multiples; of the last core, where the image ends, all outputs are kept.
    The same holds along columns.

    Attributes:
        layer: whose outputs are put together.
        size: of the images that were cut: those given, or larger ones made of mirrored copies, if a tile with its halo
            does not fit into those given.
        why: the layer that forbids it, in words; `""` if none does.
        halo: `((top, bottom), (left, right))`, input pixels: rounded up to multiples, so that also a tile with its halo
            begins and ends on a multiple. None where no halo is enough.
        multiple: `(py, px)`, input pixels: what origins and sizes of cores must be multiples of, the layer's period.
            None as above.
        step: input pixels from one output to the next, along rows and along columns; a fraction where the output is
            finer than the image. None as above.
        circular: along which axes padding continues the image on its other side. There a tile at the image's edge
            takes its halo from the other edge, and the image's size has to be a multiple, too.
        error: largest |tiled − whole| divided by the largest |whole|; in float64, if float32 leaves a doubt. nan if
            nothing was run.
        without_halo: the same for cores alone, infinite where outputs would be missing, nan where the network cannot
            take them: what the halo is good for, and that the comparison can fail.
        tiles: how many were run.
    """

    layer: str
    size: Pair
    why: str
    halo: tuple[Pair, Pair] | None = None
    multiple: Pair | None = None
    step: tuple[Fraction, Fraction] | None = None
    circular: tuple[bool, bool] = (False, False)
    error: float = math.nan
    without_halo: float = math.nan
    tiles: int = 0

    @property
    def smallest_tile(self) -> Pair | None:
        """The smallest core that pays: at least half of the pixels that the network runs on are its own."""
        if not (self.halo and self.multiple):
            return None
        sides = zip(self.halo, self.multiple, strict=True)
        y, x = (max(_up(math.ceil(sum(halo) * PAYS), p), p) for halo, p in sides)
        return y, x

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values for JSON; nan and infinities as strings."""
        plain = {name: finite(one) if isinstance(one, float) else one for name, one in asdict(self).items()}
        step = self.step and [str(one) for one in self.step]
        return {"schema": "equivariance-lab/tiling/1", **plain, "step": step, "smallest_tile": self.smallest_tile}

    def lines(self) -> list[str]:
        """For a terminal."""
        if not (self.halo and self.multiple and self.smallest_tile):
            return [escape(f"No tiles: {self.why}.")]
        (top, bottom), (left, right) = self.halo
        around = " and ".join(compress(("rows", "columns"), self.circular))
        edge = f"along {around} from the other edge" if around else "none at the image's own edge"
        return [
            f"Halo: top {top}, bottom {bottom}, left {left}, right {right} px; {edge}.",
            f"Origins and sizes of tiles, without their halo: multiples of {_by(self.multiple)} px.",
            f"Smallest tile that pays: {_by(self.smallest_tile)} px; half of what is computed is halo.",
            f"Proof: {self.tiles} tiles, cut out of {_by(self.size)} px, differ from the whole by at most "
            f"{self.error:.2g} of the largest output; without a halo by {self.without_halo:.2g}.",
        ]


def _by(size: Pair) -> str:
    return f"{size[0]} × {size[1]}"


def tiling(model: nn.Module, images: Images, *, layer: str = "", forward: Forward | None = None) -> Tiling:
    """Find out how to cut large images into tiles, and prove it: run the network on tiles and on whole images.

    Args:
        model: anything that takes `images`. It runs in evaluation mode, and is left as it was, bit for bit.
        images: as the model takes them, on its device and of its type. What is found holds for all sizes.
        layer: as [`trace`][lab.metering.receptive_fields.trace] names it; by default the first map that the model
            returns.
        forward: runs the model on images, if it needs other inputs too.

    Returns:
        If a layer forbids tiles, or the outputs for tiles differ from those for the whole: `why`, and no halo.

    Raises:
        InputError: bad images, no such layer, a layer that returns a vector and not a map, or a model that fails, or
            returns only 0, or NaN.

    Examples:
        >>> import torch, lab
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.Conv2d(4, 1, 3, padding=1))
        >>> found = lab.tiling(net, lab.fractal_images(1, (64, 64), channels=1))
        >>> found.halo, found.multiple, found.error < 1e-5 < found.without_halo
        (((4, 2), (4, 2)), (2, 2), True)
    """
    model, images = check_model(model), as_images(images).detach()
    check_batch(model, images)
    runner = _Runner(model, forward or model, layer)
    with restored(model):
        one, why = runner.find(images[:1])
        found = Tiling(str(one.layer), _size(images), why)
        return found if why else _proved(found, runner, one, images)


@dataclass(frozen=True)
class _Line:
    """How to cut along one axis: what `Tiling` says of rows, or of columns."""

    period: int
    step: Fraction
    halo: Pair
    circular: bool

    @classmethod
    def of(cls, axis: Axis, period: int) -> "_Line":
        """The halo is what is not interior of an image that begins and ends on a multiple, as a tile does."""
        step = axis.step or Fraction(1)
        before, after = axis.interior.start * step, axis.size - axis.interior.stop * step
        return cls(period, step, (_up(before, period), max(_up(after, period), 0)), axis.circular)

    @property
    def room(self) -> int:
        """From which size on an image holds the cores that are tried with their halos, and more on both sides."""
        return sum(self.halo) + _up(CORE, self.period) + 4 * self.period

    def fits(self, size: int) -> bool:
        """Whether it does."""
        return size >= self.room and not (self.circular and size % self.period)

    def cuts(self, size: int, outputs: int, larger: int) -> list[tuple[Int64[Tensor, " pixels"], slice, slice]]:
        """At the beginning, in the middle, at the end: a tile's pixels, its outputs in the whole, and in its own."""
        core, (before, after) = _up(CORE, self.period) + (1 + larger) * self.period, self.halo
        middle, last, found = before + self.period, int(outputs * self.step - core) // self.period * self.period, []
        for a, b in (0, core), (middle, middle + core), (last, size):
            begin, end = a - before, b + after
            if not self.circular:
                begin, end = max(begin, 0), min(end, size)
            whole = slice(int(a / self.step), outputs if b == size else int(b / self.step))
            first = int((a - begin) / self.step)
            found.append((torch.arange(begin, end) % size, whole, slice(first, first + whole.stop - whole.start)))
        return found


def _up(length: Fraction | int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def _wanted(axis: Axis, period: int) -> int:
    """The size at which an axis shows all that has to be known: a multiple, and large enough."""
    if axis.step is None:
        room = 2 * axis.size if axis.outputs < FEW else 0
    elif not axis.interior:
        room = (axis.receptive_field or 0) + 2 * period
    else:
        room = _Line.of(axis, period).room
    return _up(max(room, axis.size), period)


class _Seen(BaseException):
    """The layer has returned; what the network makes of that is of no interest."""


@dataclass(frozen=True)
class _Runner:
    """Runs the network on images of any size, for one of its layers."""

    model: nn.Module
    forward: Forward
    name: str

    def find(self, image: Float[Tensor, "1 c h w"]) -> tuple[LayerGeometry, str]:
        """The layer, at a size that holds a tile with its halo; and what forbids tiles."""
        layers = self.layers(image)
        for _ in range(ATTEMPTS):
            one, before = self._chosen(layers), layers
            size = _pair(_wanted(*along) for along in _axes(one)) or _size(image)
            if size == _size(image):
                break
            image = _mirrored(image, size)
            layers = self.layers(image)
            if one.grid and one.grid.period not in (None, self._chosen(layers).facts.period):
                return one, _changed(before, layers)
        return one, _against(one, layers)

    def layers(self, image: Float[Tensor, "1 c h w"]) -> Layers:
        """All that the network has."""
        with failures(image.shape):
            return trace_network(self.model, image, forward=self.forward).layers

    def _chosen(self, layers: Layers) -> LayerGeometry:
        maps = [name for name, one in layers.items() if name and one.grid]
        known = f"the last maps are {', '.join(maps[-3:]) or 'none'}"
        found = [one for name, one in layers.items() if self.name in (name, one.layer.module)]
        require(found, f"{_named(self.name)} returns no tensor: {known}")
        one = next((one for one in found if one.grid), found[0])
        vector = f"{_named(one.layer)} returns {one.shape[0]} values without a place"
        require(len(one.shape) > 1, f"tiles are put together to a map: {vector}; {known}")
        return one

    def maps(self, one: LayerGeometry, x: Images) -> Float[Tensor, "n channels oh ow"]:
        """What the layer returns."""
        found: list[Tensor] = []

        def see(layer: Layer, a: Tensor) -> None:
            if layer == one.layer:
                found.append(a.double())
                raise _Seen

        modules = {one.layer.module: self.model.get_submodule(one.layer.module)}
        running = evaluating(self.model, x.device)
        with watching(self.model, modules, see), running, failures(x.shape), suppress(_Seen):
            self.forward(x)
        require(found, f"{_named(one.layer)} does not run on images of shape {tuple(x.shape)}")
        assert one.layout
        (rows, columns), (a,) = one.layout.dims, found
        tokens = _pair(int(n / (axis.step or 1)) for n, (axis, _) in zip(_size(x), _axes(one), strict=True))
        size = tokens if rows == columns else (a.shape[rows], a.shape[columns])
        return replace(one.layout, size=size).maps(a)

    def difference(self, one: LayerGeometry, images: Images, lines: Sequence[_Line]) -> float:
        """Largest |tiled − whole|, divided by the largest |whole|; infinite where there are not as many outputs."""
        differences, largest = [], 0.0
        for image in images.split(1):
            whole = self.maps(one, image)
            largest = max(largest, whole.abs().max().item())
            for larger in (0, 1):
                sizes = zip(lines, _size(image), _size(whole), strict=True)
                y, x = (line.cuts(n, outputs, larger) for line, n, outputs in sizes)
                for (rows, top, own_top), (columns, left, own_left) in zip(y, x[larger:] + x[:larger], strict=True):
                    tile = self.maps(one, image[:, :, rows[:, None], columns])[:, :, own_top, own_left]
                    expected = whole[:, :, top, left]
                    alike = tile.shape == expected.shape
                    differences.append((tile - expected).abs().max().item() if alike else math.inf)
        require(0 < largest < math.inf, f"outputs must be finite, and not all 0: the largest is {largest}")
        return torch.tensor(differences, dtype=torch.float64).max().item() / largest  # nan, if any is


def _proved(found: Tiling, runner: _Runner, one: LayerGeometry, images: Images) -> Tiling:
    """Run the network on tiles and on whole images."""
    lines = [_Line.of(*along) for along in _axes(one)]
    if not all(line.fits(n) for n, line in zip(_size(images), lines, strict=True)):
        images = _mirrored(images, _pair(axis.size for axis, _ in _axes(one)))
    error, bound = _error(runner, one, images, lines)
    found = replace(found, error=error, tiles=TILES * len(images), size=_size(images))
    if not error <= bound:
        return replace(found, why=_unexplained(error, runner, one, images))
    with suppress(InputError):  # of kernels that are larger than a core
        alone = runner.difference(one, images, [replace(line, halo=(0, 0), circular=False) for line in lines])
        found = replace(found, without_halo=alone)
    halo, step, circular = (_pair(getattr(line, name) for line in lines) for name in ("halo", "step", "circular"))
    return replace(found, halo=halo, multiple=one.facts.period, step=step, circular=circular)


def _error(runner: _Runner, one: LayerGeometry, images: Images, lines: Sequence[_Line]) -> tuple[float, float]:
    """The largest difference, in float64 if float32 leaves a doubt; and what rounding may do."""
    error, bound = runner.difference(one, images, lines), tolerance(images.dtype, one)
    if bound < error < math.inf and images.dtype != torch.float64:
        double = replace(runner, forward=in_double(runner.model, runner.forward))
        with suppress(InputError):  # a model with tensors of its own that are neither parameters nor buffers
            return double.difference(one, images.double(), lines), TOLERANCE[torch.float64]
    return error, bound


def _unexplained(error: float, runner: _Runner, one: LayerGeometry, images: Images) -> str:
    """Why tiles differ from the whole, although theory says nothing against them."""
    (h, w), (py, px) = _size(images), one.facts.period
    if h % py or w % px:
        return f"{_named(one.layer)} is irregular at {_by((h, w))} px: pad images to multiples of {_by((py, px))} px"
    larger = _mirrored(images[:1], (h + py, w + px))
    doubt = _changed(runner.layers(images[:1]), runner.layers(larger)) or "is there what cannot be traced?"
    return f"tiles differ from the whole by {error:.2g} of the largest output: {doubt}"


def _changed(before: Layers, after: Layers) -> str:
    """The first layer that has another period at another size of the image, in words; nothing if there is none."""
    pairs = ((one, after.get(name)) for name, one in before.items() if one.grid and one.grid.period)
    first = next((one.layer for one, other in pairs if other and one.facts.period != other.facts.period), None)
    return f"the period of {_named(first)} depends on the size of the image" if first else ""


def _against(one: LayerGeometry, layers: Layers) -> str:
    """What theory says against moving by one period, and about which layer first; nothing if that is exact."""
    facts, found = one.facts, expect(one, *one.facts.period)
    if found.expectation == "exact":
        return ""
    if not one.noisy and (facts.mixing or facts.head or facts.chosen or any(facts.positions)):
        return found.why  # which names it
    first = next(name for name, other in layers.items() if expect(other, *facts.period).why == found.why)
    return f"{_named(first)}: {found.why}"


def _named(layer: object) -> str:
    return str(layer) or "the model"


def _axes(one: LayerGeometry) -> list[tuple[Axis, int]]:
    """Rows and columns, each with its period; none if there is no map."""
    return [*zip((one.grid.y, one.grid.x), one.facts.period, strict=True)] if one.grid else []


def _size(images: Float[Tensor, "n c h w"]) -> Pair:
    return images.shape[2], images.shape[3]


def _pair(values: Iterable[Any]) -> Any:
    return tuple(values)


def _mirrored(images: Images, size: Pair) -> Float[Tensor, "n c larger_h larger_w"]:
    """Continued by mirrored copies."""
    for dim, n in enumerate(size, 2):
        there = torch.arange(n) % (2 * images.shape[dim])
        images = images.index_select(dim, torch.minimum(there, 2 * images.shape[dim] - 1 - there))
    return images
