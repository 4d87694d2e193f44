"""Which input pixels each output of a layer sees, found by tracing: NaN in, and see where it comes out.

Nothing needs to be known of the layers, as long as they compute with NaN: arithmetic, convolution, ReLU, pooling and
normalisation do; what compares or selects (`torch.where(x > 0, …)`, `nan_to_num`) hides it. A network is run on a few
copies of an image, in each of which some strips at the edge are NaN; an output that stays finite sees none of the NaN
pixels. Along each axis, the window of output j begins at input pixel S·j − P and is R pixels long: total stride S,
reach R (the receptive field), offset −P. The interior is every j whose window lies inside the image, so that no padding
enters it.

Source:
    A. Araujo et al., Computing Receptive Fields of Convolutional Neural Networks, Distill 2019, for the closed formula;
    tests compare the traced values with it wherever a network is a plain chain.
"""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from lab.errors import InputError
from lab.observing import evaluating, module_of, observing

CHUNK = 8  # probes in memory at a time
ROUNDS = 6  # of probes
FEW = 8  # outputs, up to which the begin of every window is looked for


@dataclass(frozen=True)
class Axis:
    """The windows of a layer's outputs along one axis; reach and offset are None where the trace does not tell.

    That is so if every output sees an edge, of this axis or the other; if fewer than three windows begin, or end,
    strictly inside; if they lie on no regular grid, or begin in gaps. Taps that never meet the image are not seen.

    Attributes:
        size: N, input pixels.
        outputs: how many positions the layer has.
        stride: S, total stride in input pixels. Where the reach is None, a mere assumption: that the outputs divide
            the image evenly; None if they do not, or if that contradicts what was seen.
        reach: R, the length of a window in input pixels.
        offset: −P, the first input pixel of output 0's window; below 0 where that begins in the padding.
        interior: the outputs whose windows lie inside the image; empty where the reach is None.
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
        return activation.movedim((y, x), (-2, -1)).reshape(len(activation), -1, *self.size)


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
        blind: no output shows the NaN of any edge: it is constant, sees the middle alone, or something hides NaN.
    """

    shape: tuple[int, ...]
    grid: Grid | None = None
    sees_all: bool = False
    blind: bool = False


HEAD, TAIL, ALONE = range(3)  # NaN: the first p pixels, the last p, or pixel p alone
Probe = tuple[int, tuple[int, int]]  # one of these, and p along rows and columns; -1 for none
Free = dict[str, tuple[Layout, Tensor, Tensor]]  # layers with outputs that see no edge; rows, columns that see anything
Run = tuple[int, int]  # begin and length of the longest stretch of finite outputs on a circle
Runs = defaultdict[tuple[str, int, int], dict[int, Run]]  # layer, axis and kind of probe -> p -> what stays finite
Ends = tuple[dict[int, Run], dict[int, Run]]  # of one layer and axis: HEAD, and TAIL, counted from there
Explanation = tuple[int, tuple[range, range]]  # S, and what P may be at either end


def trace(model: nn.Module, image: Float[Tensor, "1 c h w"]) -> dict[str, LayerGeometry]:
    """Find out what every layer sees, at the size of an image.

    The values of the image do not matter, unless a network chooses by value where to look.

    Args:
        model: anything that takes `image`; it runs in evaluation mode, and is left as it was.
        image: on the model's device and of its type.

    Returns:
        Name as in [`activations`][lab.observing.activations] -> geometry, for each module that returned
        floating-point tensors with the batch first, blocks and the network itself (`""`) included, in the order in
        which they returned.

    Raises:
        InputError: an image of another shape, or a network without such a module.

    Examples:
        >>> import torch
        >>> from lab import PooledCNN
        >>> from lab.metering.receptive_fields import trace
        >>> found = trace(PooledCNN(), torch.zeros(1, 1, 28, 28))
        >>> found["conv2"].grid.stride, found["conv2"].grid.x.reach, found["fc1"].grid
        ((2, 2), 8, None)
    """
    if image.dim() != 4 or len(image) != 1 or min(image.shape[-2:]) < 3:
        raise InputError(f"trace needs one image, 1 c h w, of at least 3 × 3 pixels: shape {tuple(image.shape)}")
    run, size = partial(_run, model, image, dict(model.named_modules())), (image.shape[2], image.shape[3])
    masks = _survey(run, size)
    if not masks:
        raise InputError("no module of the model returned a floating-point tensor whose first dimension is the batch")
    layouts = _layouts(masks, size)
    seen = {name: layout.maps(masks[name]).any(1) for name, layout in layouts.items()}
    free = {name: (layouts[name], nan[1].any(1), nan[0].any(0)) for name, nan in seen.items()}
    free = {name: one for name, one in free.items() if not seen[name].any(0)[one[1]][:, one[2]].all()}
    axes = _axes(run, size, layouts, free)
    return {
        name: LayerGeometry(
            tuple(nan.shape[1:]),
            Grid(layouts[name], axes[name, 0], axes[name, 1]) if name in layouts else None,
            sees_all=bool(nan[:2].all()),
            blind=not nan.any(),
        )
        for name, nan in masks.items()
    }


def leaves(names: Collection[str]) -> list[str]:
    """The layers that ran without running another of them, such as convolutions, but not the blocks around them."""
    ran = {module_of(name) for name in names}
    outer = {name[: dot.start()] for name in ran for dot in re.finditer(r"\.", name)}
    return [name for name in names if (module_of(name) or len(ran) == 1) and module_of(name) not in outer]


class _StopError(BaseException):
    """All that was asked for has run; no `except Exception` of a model stops it."""


def _run(
    model: nn.Module,
    image: Tensor,
    modules: Mapping[str, nn.Module],
    probes: Sequence[Probe],
    see: Callable[[str, Tensor, Sequence[Probe]], None],
    last: str | None = None,
) -> None:
    """Run the network on some probes at a time; `see` learns of the probes, and of what each layer makes of them."""
    for start in range(0, len(probes), CHUNK):
        chunk = probes[start : start + CHUNK]
        x = image.repeat(len(chunk), 1, 1, 1)
        for one, (kind, widths) in zip(x, chunk, strict=True):
            for dim, p in enumerate(widths, 1):
                i = torch.arange(one.shape[dim])
                one.movedim(dim, 0)[(i < p, i >= len(i) - p, i == p)[kind]] = torch.nan

        def look(name: str, a: Tensor, chunk: Sequence[Probe] = chunk) -> None:
            if a.is_floating_point() and a.dim() > 1 and len(a) == len(chunk):
                see(name, a, chunk)
            if name == last:
                raise _StopError

        with observing(model, modules, look), evaluating(model, x.device), suppress(_StopError):
            model(x)


def _survey(run: Callable[..., None], size: tuple[int, int]) -> dict[str, Tensor]:
    """Where each layer is NaN if the first row is, if the first column is, and if the last ones are."""
    masks: dict[str, Tensor] = {}

    def see(name: str, a: Tensor, _: Sequence[Probe]) -> None:
        if name not in masks or not masks[name][:2].flatten(1).any(1).all():
            masks[name] = a.isnan()

    for p in (1, min(size) // 4):  # again with wider strips if a layer does not look at the edge
        run([(HEAD, (p, -1)), (HEAD, (-1, p)), (TAIL, (p, p))], see)
        if all(bool(nan[:2].flatten(1).any(1).all()) for nan in masks.values()):
            break
    return masks


def _layouts(masks: Mapping[str, Tensor], size: tuple[int, int]) -> dict[str, Layout]:
    """Which dimensions are rows and columns: along the first, a NaN row shows at fewer places than a NaN column."""
    layouts: dict[str, Layout] = {}
    for name, nan in masks.items():
        shown = [nan[:2, ..., None].transpose(1, d).flatten(2).any(2).sum(1).tolist() for d in range(1, nan.dim())]
        y = [d for d, (row, column) in enumerate(shown, 1) if row < column]
        x = [d for d, (row, column) in enumerate(shown, 1) if column < row]
        if nan.dim() == 4:  # along one axis, all outputs may see the first pixel
            y, x = y or [d - 1 for d in x if nan[0].all()], x or [d + 1 for d in y if nan[1].all()]
        layout = _by_shape(nan.shape, size, layouts) if nan[:2].all() else None
        if len(y) == len(x) == 1:
            layout = Layout((y[0], x[0]), (nan.shape[y[0]], nan.shape[x[0]]))
        elif nan.dim() == 3:
            layout = layout or _tokens(nan)
        if layout and math.prod(layout.size) > 1:
            layouts[name] = layout
    return layouts


def _tokens(nan: Bool[Tensor, "3 token feature"]) -> Layout | None:
    """Positions in one dimension, row by row: a NaN row shows all along a row, a NaN column in all rows alike."""
    row, column = nan[:2].any(-1)
    prefix = int((row & column).long().argmax())
    count = len(row) - prefix
    for width in range(2, count // 2 + 1):
        if count % width == 0 and row.any():
            y, x = (one[prefix:].unflatten(0, (-1, width)) for one in (row, column))
            if bool((y == y[:, :1]).all() and (x == x[:1]).all() and x.any() and not x.all() and not y.all()):
                return Layout((1, 1), (count // width, width), prefix)
    return None


def _by_shape(shape: Sequence[int], size: tuple[int, int], before: Mapping[str, Layout]) -> Layout | None:
    """A layer that sees everything shows no positions: take a size seen before, or one in the image's proportion."""
    if len(shape) == 3:
        return next((b for b in before.values() if b.dims == (1, 1) and b.prefix + math.prod(b.size) == shape[1]), None)
    dims, sizes = {(2, 3), *(b.dims for b in before.values())}, {b.size for b in before.values()}
    found = [Layout((y, x), (shape[y], shape[x])) for y, x in ((2, 3), (1, 2)) if len(shape) == 4 and (y, x) in dims]
    h, w = size
    alike = [a for a in found if a.size[0] <= h and a.size[1] <= w and abs(a.size[0] * w - a.size[1] * h) <= max(size)]
    return next(iter([a for a in found if a.size in sizes] + alike), None)


def _axes(
    run: Callable[..., None], size: tuple[int, int], layouts: Mapping[str, Layout], free: Free
) -> dict[tuple[str, int], Axis]:
    """Widen NaN strips from both ends, until a single stride and offset explain what each layer of `free` shows."""
    runs: Runs = defaultdict(dict)
    look = partial(_look, runs, free)
    step = max((-(-size[a] // layouts[name].size[a]) for name in free for a in (0, 1)), default=0)
    pairs = [*((p, p) for p in range(1, step + 1)), (size[0] // 3, size[1] // 3)]
    probes, last = [(end, pair) for end in (HEAD, TAIL) for pair in pairs if free], [None, *free][-1]
    axes: dict[tuple[str, int], Axis] = {}
    for attempt in range(ROUNDS):
        run(probes, look, last)
        asked, last = [set[int](), set[int]()], None
        for name, a in ((name, a) for name in layouts for a in (0, 1)):
            ends = runs[name, a, HEAD], runs[name, a, TAIL]
            axes[name, a], doubts = _axis(size[a], layouts[name].size[a], ends)
            asked = [one | more for one, more in zip(asked, doubts, strict=True)]
            last = name if any(doubts) else last
        both = [(end, p) for end in (HEAD, TAIL) for p in sorted(asked[end])]
        probes = [(end, pair) for end, p in both for pair in ([(p, -1), (-1, p)] if attempt else [(p, p)])]
        if not probes:
            break
    circles = {key: axis for key, axis in axes.items() if axis.circular}
    far = max((axis.reach or 0 for axis in circles.values() if axis.offset or axis.reach != axis.stride), default=0)
    if far:  # what continues otherwise, or elsewhere, shows from some pixels near the ends only
        pixels = [(p % size[0], p % size[1]) for p in range(-min(far, max(size) // 2), min(far, -(-max(size) // 2)))]
        run([(ALONE, pair) for y, x in pixels for pair in ((y, -1), (-1, x))], look, [*circles][-1][0])
    return axes | {key: replace(axis, circular=_turns(axis, runs[(*key, ALONE)])) for key, axis in circles.items()}


def _look(runs: Runs, free: Free, name: str, activation: Tensor, probes: Sequence[Probe]) -> None:
    if name not in free:
        return
    layout, y, x = free[name]
    finite = ~layout.maps(activation).amax(1).isnan()  # a maximum is NaN if any of it is
    for one, (kind, widths) in zip(finite, probes, strict=True):
        for a, line in enumerate((one[:, x].any(1), one[y].any(0))):
            run = _longest_run(line.flip(0) if kind == TAIL else line)
            if widths[a] >= 0 and (run[1] or widths[1 - a] < 0):  # else it may be due to the other axis
                runs[name, a, kind][widths[a]] = run


def _longest_run(line: Bool[Tensor, " j"]) -> Run:
    """Begin and length of the longest stretch of True on a circle; the length of the line and 0 if there is none."""
    values = line.tolist()
    best, run = (len(values), 0), 0
    for i, value in enumerate(values + values[:-1]):
        run = run + 1 if value else 0
        if best[1] < run <= len(values):
            best = (i - run + 1, run)
    return best


def _axis(size: int, outputs: int, ends: Ends) -> tuple[Axis, list[set[int]]]:
    """What explains the runs seen from both ends, if one thing alone does and nothing is in doubt."""
    # outputs up to which those are that do not see this end of the image from the other one, around a circle
    lasts = [min([outputs, *(first + length for first, length in runs.values() if length)]) for runs in ends]
    found = _explain(size, outputs, ends, lasts)
    even = size // outputs if size % outputs == 0 and outputs > 1 else None  # one output may be a pool of all
    assumed = even if not any(ends) or even in [stride for stride, _ in found] else None
    unknown = Axis(size, outputs, assumed, None, None, range(0), False)
    doubts, certain = _doubts(size, ends, lasts, found)
    if not certain:
        return unknown, doubts
    stride, ((before,), (after,)) = found[0]
    outside = [max(-(-p // stride), 0) for p in (before, after)]  # outputs whose windows begin, or end, in padding
    if any(outputs - last > more for last, more in zip(lasts, reversed(outside), strict=True)):
        return replace(unknown, stride=None), doubts  # a gap in the windows was taken for the interior
    reach = size - stride * (outputs - 1) + before + after
    circular = stride * outputs == size and (min(lasts) < outputs or max(before, after) <= 0)
    inside = range(outside[0], max(outputs - outside[1], outside[0]))
    return Axis(size, outputs, stride, reach, -before, inside, circular), doubts


def _explain(size: int, outputs: int, ends: Ends, lasts: Sequence[int]) -> list[Explanation]:
    """Each S and P for which the first finite output is the first with S·j − P ≥ p; first the S that divides evenly."""
    seen = [[(p, first) for p, (first, length) in runs.items() if length < outputs] for runs in ends]
    if not all(seen):
        return []
    stride = torch.arange(1, size + 1)
    bounds = [stride]
    for end, last in zip(seen, lasts, strict=True):
        p, j = torch.tensor([(p, min(first, last)) for p, first in end]).T[:, :, None]
        bounds.append(torch.where(j > 0, stride * (j - 1) - p + 1, -stride * outputs).amax(0))
        bounds.append(torch.where(j < last, stride * j - p, stride * outputs).amin(0) + 1)
    _, low, high, low_tail, high_tail = bounds
    fits = (low < high) & (low_tail < high_tail) & (size - stride * (outputs - 1) + high + high_tail > 2)
    found = [(s, (range(a, b), range(c, d))) for s, a, b, c, d in torch.stack(bounds, 1)[fits].tolist()]
    return sorted(found, key=lambda one: one[0] * outputs != size)


def _doubts(size: int, ends: Ends, lasts: Sequence[int], found: Sequence[Explanation]) -> tuple[list[set[int]], bool]:
    """Which p to try next at either end, and whether there is no need: one explanation, for at least three windows.

    At p, the output whose window begins there is the first left; two are to be seen to go at p + 1, or all of a few.
    """
    doubts: list[set[int]] = [set(), set()]
    certain = len(found) == 1
    for end, runs in enumerate(ends if found else ()):
        stride, padding = found[0][0], found[0][1][end]
        begins = (stride * j - padding[len(padding) // 2] for j in range(lasts[end]))
        goes = [p for p in begins if 0 < p < size - 1]
        unseen = sorted((p for p in goes if not {p, p + 1} <= runs.keys()), key=lambda p: abs(p - size // 3))
        enough = len(found) == len(padding) == 1 and len(goes) - len(unseen) > 1 and lasts[end] > FEW
        wanted = [] if enough else unseen[: 1 if lasts[end] > FEW else None]
        doubts[end].update({size // 3, *(p + i for p in wanted for i in (0, 1))} - runs.keys())
        certain = certain and len(padding) == 1 and len(goes) > 2
    return doubts, certain and not any(doubts)


def _turns(axis: Axis, alone: Mapping[int, Run]) -> bool:
    """Whether that which a pixel hides, NaN alone, moves on by one output from each pixel to the one a stride later."""
    n = axis.outputs
    moved = {p: ((begin + 1) % n if 0 < length < n else begin, length) for p, (begin, length) in alone.items()}
    return all(alone.get((p + (axis.stride or 0)) % axis.size, run) == run for p, run in moved.items())
