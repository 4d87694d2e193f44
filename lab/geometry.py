"""Which input pixels each output of a layer sees, found by tracing: NaN in, and see where it comes out.

Nothing needs to be known of the layers. A network is run on a few copies of an image, in each of which some strips at
the edge are NaN; an output that stays finite sees none of the NaN pixels. Along each axis, the window of output j
begins at input pixel S·j − P and is R pixels long: total stride S, reach R (the receptive field), offset −P. The
interior is every j whose window lies inside the image, so that no padding enters it.

Source:
    A. Araujo et al., Computing Receptive Fields of Convolutional Neural Networks, Distill 2019, for the closed formula;
    tests compare the traced values with it wherever a network is a plain chain.
"""

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from lab.activations import module_of, observing
from lab.errors import InputError
from lab.models import evaluating

CHUNK = 8  # probes in memory at a time


@dataclass(frozen=True)
class Axis:
    """The windows of a layer's outputs along one axis; None where the trace does not tell.

    Attributes:
        size: N, input pixels.
        outputs: how many positions the layer has.
        stride: S, total stride in input pixels.
        reach: R, the length of a window in input pixels.
        offset: −P, the first input pixel of output 0's window; below 0 where that begins in the padding.
        interior: the outputs whose windows lie inside the image.
        circular: whether windows continue on the other side of the image, and the outputs fit that circle exactly.
    """

    size: int
    outputs: int
    stride: int | None
    reach: int | None
    offset: int | None
    interior: range
    circular: bool

    @property
    def rolls(self) -> bool:
        """Whether the outputs divide the image evenly, so that a circular shift of one can be one of the other."""
        return self.stride is not None and self.stride * self.outputs == self.size

    def moves(self, t: int) -> tuple[int, ...]:
        """The whole moves of the outputs next to a shift by `t` pixels: one where the stride divides it, else two."""
        if self.stride is None:
            return ()
        return tuple(dict.fromkeys((t // self.stride, -(-t // self.stride))))

    def comparable(self, move: int, *, wrap: bool = False) -> Bool[Tensor, " j"]:
        """The set J: which outputs of a translated image can be compared exactly with those of the image.

        Args:
            move: m, in outputs. Output j of the translated image belongs to output j − m of the image.
            wrap: for a circular shift, where j − m is counted around the circle if the axis `rolls`.

        Returns:
            True where both windows lie inside the image, for each j that has a counterpart: all outputs if wrapped,
            else the overlap, from max(m, 0) to outputs + min(m, 0).
        """
        inside = torch.zeros(self.outputs, dtype=torch.bool)
        inside[self.interior.start : self.interior.stop] = True
        if wrap and self.rolls:
            return torch.ones_like(inside) if self.circular else inside & inside.roll(move)
        here, there = overlap(self.outputs, move)
        return inside[here] & inside[there]


def overlap(outputs: int, move: int) -> tuple[slice, slice]:
    """The outputs that have a counterpart after a move, as slices of the translated image's map and of the image's."""
    kept = max(outputs - abs(move), 0)
    return slice(max(move, 0), max(move, 0) + kept), slice(max(-move, 0), max(-move, 0) + kept)


@dataclass(frozen=True)
class Layout:
    """Where an activation keeps its positions.

    Attributes:
        dims: which dimensions of the batched activation are the input's rows and columns. The same one twice: tokens,
            row by row.
        size: positions along each.
        prefix: tokens before the first that has a position, such as a class token.
    """

    dims: tuple[int, int]
    size: tuple[int, int]
    prefix: int = 0

    def maps(self, activation: Shaped[Tensor, "n ..."]) -> Shaped[Tensor, "n c h w"]:
        """The activation with its positions in the last two dimensions, and all else in one."""
        y, x = self.dims
        if y == x:
            activation = activation.narrow(y, self.prefix, math.prod(self.size)).unflatten(y, self.size)
            x = y + 1
        return activation.movedim((y, x), (-2, -1)).flatten(1, -3)


@dataclass(frozen=True)
class Grid:
    """The positions of a layer: where they are in its activation, and what each sees along rows and columns."""

    layout: Layout
    y: Axis
    x: Axis

    @property
    def stride(self) -> tuple[int, int] | None:
        """S along rows and columns, in input pixels; None where the positions lie on no regular grid of the image."""
        return None if self.y.stride is None or self.x.stride is None else (self.y.stride, self.x.stride)

    @property
    def circular(self) -> bool:
        """Whether both axes are."""
        return self.y.circular and self.x.circular


@dataclass(frozen=True)
class LayerGeometry:
    """What the outputs of one layer see.

    Attributes:
        shape: of one image's activation.
        grid: its positions; None if it keeps none.
        sees_all: every output sees the whole image: a global operation, or a reach that the image is too small for.
    """

    shape: tuple[int, ...]
    grid: Grid | None = None
    sees_all: bool = False


Strips = tuple[int, int, int, int]  # how many rows or columns are NaN: top, bottom, left, right


def trace(model: nn.Module, image: Float[Tensor, "1 c h w"]) -> dict[str, LayerGeometry]:
    """Find out what every layer sees, at the size of an image.

    The values of the image do not matter, unless a network chooses by value where to look.

    Args:
        model: anything that takes `image`; it runs in evaluation mode, and is left as it was.
        image: on the model's device and of its type.

    Returns:
        Name as in [`activations`][lab.activations.activations] -> geometry, for each module that returned
        floating-point tensors with the batch first, blocks and the network itself (`""`) included, in the order in
        which they returned.

    Raises:
        InputError: an image of another shape, or a network without such a module.

    Examples:
        >>> import torch
        >>> from lab import PooledCNN
        >>> from lab.geometry import trace
        >>> found = trace(PooledCNN(), torch.zeros(1, 1, 28, 28))
        >>> found["conv2"].grid.stride, found["conv2"].grid.x.reach, found["fc1"].grid
        ((2, 2), 8, None)
    """
    if image.dim() != 4 or len(image) != 1 or min(image.shape[-2:]) < 2:
        raise InputError(f"trace needs one image, 1 c h w, of at least 2 × 2 pixels: shape {tuple(image.shape)}")
    modules = dict(model.named_modules())
    masks: dict[str, Tensor] = {}
    probes = [(1, 0, 0, 0), (0, 0, 1, 0), (1, 1, 1, 1)]
    _run(model, image, modules, probes, lambda name, a, _: masks.update({name: a.isnan()}))
    if not masks:
        raise InputError("no module of the model returned a floating-point tensor whose first dimension is the batch")
    layouts = _layouts(masks, (image.shape[2], image.shape[3]))
    local = [name for name in layouts if not masks[name][2].all()]
    axes = _axes(model, image, modules, layouts, local)
    return {
        name: LayerGeometry(
            tuple(nan.shape[1:]),
            Grid(layouts[name], axes[name, 0], axes[name, 1]) if name in layouts else None,
            sees_all=bool(nan[:2].all()),
        )
        for name, nan in masks.items()
    }


def leaves(names: Collection[str]) -> list[str]:
    """The layers that ran without running another of them, such as convolutions, but not the blocks around them."""
    ran = {module_of(name) for name in names}
    outer = {name[: dot.start()] for name in ran for dot in re.finditer(r"\.", name)}
    return [name for name in names if (module_of(name) or len(ran) == 1) and module_of(name) not in outer]


class _StopError(Exception):
    """All that was asked for has run."""


def _run(
    model: nn.Module,
    image: Tensor,
    modules: Mapping[str, nn.Module],
    probes: Sequence[Strips],
    see: Callable[[str, Tensor, Sequence[Strips]], None],
    last: str | None = None,
) -> None:
    """Run the network on some probes at a time; `see` learns of the probes, and of what each layer makes of them."""
    h, w = image.shape[-2:]
    for start in range(0, len(probes), CHUNK):
        chunk = probes[start : start + CHUNK]
        x = image.repeat(len(chunk), 1, 1, 1)
        for one, (top, bottom, left, right) in zip(x, chunk, strict=True):
            one[:, :top] = one[:, h - bottom :] = torch.nan
            one[:, :, :left] = one[:, :, w - right :] = torch.nan

        def look(name: str, a: Tensor, chunk: Sequence[Strips] = chunk) -> None:
            if a.is_floating_point() and a.dim() > 1 and len(a) == len(chunk):
                see(name, a, chunk)
            if name == last:
                raise _StopError

        with observing(model, modules, look), evaluating(model, x.device), suppress(_StopError):
            model(x)


def _layouts(masks: Mapping[str, Tensor], size: tuple[int, int]) -> dict[str, Layout]:
    """Which dimensions are rows and columns: those along which a NaN row, or column, shows at some places only."""
    layouts: dict[str, Layout] = {}
    for name, nan in masks.items():
        rows, columns = (_varying(one) for one in nan[:2])
        y, x = rows - columns, columns - rows
        layout = None
        if len(y) == len(x) == 1:
            dims = min(y), min(x)
            layout = Layout((dims[0] + 1, dims[1] + 1), (nan.shape[dims[0] + 1], nan.shape[dims[1] + 1]))
        elif rows == columns == {0} and nan.dim() == 3:
            layout = _tokens(nan)
        elif nan[:2].all():
            layout = _by_shape(nan.shape, size, layouts)
        if layout and math.prod(layout.size) > 1:
            layouts[name] = layout
    return layouts


def _varying(nan: Bool[Tensor, "..."]) -> set[int]:
    found = set()
    for dim in range(nan.dim()):
        shown = nan.movedim(dim, 0).reshape(nan.shape[dim], -1).any(1)
        if bool(shown.any()) and not bool(shown.all()):
            found.add(dim)
    return found


def _tokens(nan: Bool[Tensor, "3 token feature"]) -> Layout | None:
    """Positions in one dimension, row by row: a NaN column comes back once a row."""
    row, column = nan[:2].any(-1)
    prefix = int(column.long().argmax())
    begins = (column[1:] & ~column[:-1]).nonzero()[:, 0] + 1
    begins = torch.cat([begins[:0] if prefix else begins.new_zeros(1), begins])
    width = int(begins[1] - begins[0]) if len(begins) > 1 else 0
    if not width or (len(row) - prefix) % width:
        return None
    grid = row[prefix:].unflatten(0, (-1, width))
    even = bool((grid.all(1) == grid.any(1)).all())  # a NaN row shows in whole rows of tokens, or it was no image
    return Layout((1, 1), (len(grid), width), prefix) if even else None


def _by_shape(shape: Sequence[int], size: tuple[int, int], before: Mapping[str, Layout]) -> Layout | None:
    """A layer that sees everything shows no positions; take those that its shape has in proportion to the image."""
    if len(shape) == 4:
        for y, x in ((2, 3), (1, 2)):
            h, w = shape[y], shape[x]
            if h <= size[0] and w <= size[1] and abs(h * size[1] - w * size[0]) <= max(size):
                return Layout((y, x), (h, w))
    alike = (b for b in before.values() if b.dims == (1, 1) and b.prefix + math.prod(b.size) == shape[1])
    return next(alike, None) if len(shape) == 3 else None


@dataclass
class _Edge:
    """Along one axis, the first output that is finite, by how many pixels of that edge are NaN."""

    first: dict[int, int] = field(default_factory=dict)
    hidden: int = 0  # how many outputs see the outermost pixel, gaps included


def _axes(
    model: nn.Module,
    image: Tensor,
    modules: Mapping[str, nn.Module],
    layouts: Mapping[str, Layout],
    local: Sequence[str],
) -> dict[tuple[str, int], Axis]:
    """Widen NaN strips pixel by pixel, until each layer's first finite output has moved on.

    One move tells P where the outputs divide the image evenly, for then they tell S; the wider strips test it. Two
    moves tell S and P of any layer.
    """
    size = image.shape[2], image.shape[3]
    step = max((-(-size[a] // layouts[name].size[a]) for name in local for a in (0, 1)), default=0)
    wide = [min(size) // 4, min(size) // 3, min(size) // 2]
    rounds = ([*range(1, step + 1), *(p for p in wide if p > step)], range(step + 1, 2 * step + 2))
    edges: dict[tuple[str, int], tuple[_Edge, _Edge]] = {}
    axes: dict[tuple[str, int], Axis] = {}
    for even_only, widths in zip((True, False), rounds, strict=True):
        probes = [strips for p in widths if p < min(size) for strips in ((p, 0, p, 0), (0, p, 0, p))]
        if step:
            _run(model, image, modules, probes, partial(_look_from_both_ends, edges, layouts), local[-1])
        for name, layout in layouts.items():
            for a in (0, 1):
                axes[name, a] = _axis(size[a], layout.size[a], edges.get((name, a)), even_only=even_only)
        if all(axes[name, a].reach for name in local for a in (0, 1)):
            break
    return axes


def _look_from_both_ends(
    edges: dict[tuple[str, int], tuple[_Edge, _Edge]],
    layouts: Mapping[str, Layout],
    name: str,
    activation: Tensor,
    probes: Sequence[Strips],
) -> None:
    if name not in layouts:
        return
    finite = ~layouts[name].maps(activation).sum(1).isnan()  # a sum is NaN if any of it is
    for one, (top, bottom, _, _) in zip(finite, probes, strict=True):
        for a, line in enumerate((one.any(1), one.any(0))):
            edge = edges.setdefault((name, a), (_Edge(), _Edge()))[0 if top else 1]
            start, length = _longest_run(line if top else line.flip(0))
            edge.first[top or bottom] = start
            if (top or bottom) == 1:
                edge.hidden = len(line) - length


def _longest_run(line: Bool[Tensor, " j"]) -> tuple[int, int]:
    """Begin and length of the longest stretch of True on a circle; the length of the line and 0 if there is none."""
    values = line.tolist()
    best, run = (len(values), 0), 0
    for i, value in enumerate(values + values[:-1]):
        run = run + 1 if value else 0
        if best[1] < run <= len(values):
            best = (i - run + 1, run)
    return best


def _axis(size: int, outputs: int, edges: tuple[_Edge, _Edge] | None, *, even_only: bool) -> Axis:
    """The stride and offset that explain what was seen from both ends of an axis, if there are any."""
    even = size // outputs if size % outputs == 0 else None
    unknown = Axis(size, outputs, even, None, None, range(0), False)
    if edges is None or outputs < 2:
        return unknown
    candidates = [even] if even else []
    for stride in candidates if even_only else [*candidates, *range(1, size + 1)]:
        head, tail = (_paddings(edge.first, stride, outputs) for edge in edges)
        if len(head) == len(tail) == 1:
            before, after = head[0], tail[0]
            break
    else:
        return unknown
    reach = size - stride * (outputs - 1) + before + after
    hidden = [p // stride + (reach - 1 - p) // stride + 1 for p in (before, after)]
    circular = stride * outputs == size and hidden == [edge.hidden for edge in edges] and max(hidden) < outputs
    first, last = max(-(-before // stride), 0), outputs - 1 - max(-(-after // stride), 0)
    return Axis(size, outputs, stride, reach, -before, range(first, max(last + 1, first)), circular)


def _paddings(first: Mapping[int, int], stride: int, outputs: int) -> range:
    """Every P for which the first window to begin at pixel p or after, S·j − P ≥ p, is the one that was seen."""
    low = max((stride * (j - 1) - p + 1 for p, j in first.items() if j > 0), default=-outputs * stride)
    high = min((stride * j - p for p, j in first.items() if j < outputs), default=low - 1)
    return range(low, high + 1)
