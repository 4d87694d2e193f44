"""Which input pixels each output of a layer sees, found by tracing: NaN in, and see where it comes out.

Nothing needs to be known of the layers, as long as they compute with NaN: arithmetic, convolution, ReLU, pooling and
normalisation do; what compares or selects (`torch.where(x > 0, …)`, `nan_to_num`) hides it. A network is run on a few
copies of an image, in each of which some strips at the edge are NaN; an output that stays finite sees none of the NaN
pixels. Along each axis, the window of output j begins at input pixel S·j − P and is R pixels long: total stride S,
receptive field R, offset −P. The interior is every j whose window lies inside the image, so that no padding enters it.

Source:
    A. Araujo et al., Computing Receptive Fields of Convolutional Neural Networks, Distill 2019, for the closed formula;
    tests compare the traced values with it wherever a network is a plain chain.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from lab.errors import InputError
from lab.metrics import Axis, Grid
from lab.observing import Layer, by_name, evaluating, watching

CHUNK = 8  # probes in memory at a time
ROUNDS = 6  # of probes
FEW = 8  # outputs, up to which the begin of every window is looked for


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
class LayerGeometry:
    """What the outputs of one layer see.

    Where the trace does not tell the receptive field along an axis, its interior is empty, and its stride is a mere
    assumption: that the outputs divide the image evenly; None if they do not, or if that contradicts what was seen.
    That is so if every output sees an edge, of this axis or the other; if fewer than three windows begin, or end,
    strictly inside; if they lie on no regular grid, or begin in gaps. Pixels that a layer passes over are not seen, nor
    are those with a weight of 0 told from others (0 · NaN is NaN), so that R is an upper bound.

    Attributes:
        layer: which module, call and output.
        shape: of one image's activation.
        grid: its positions; None if it keeps none.
        layout: where these are in the activation; None likewise.
        sees_all: every output sees the whole image: a global operation, or a receptive field that is larger.
        blind: no output shows the NaN of any edge: it is constant, sees the middle alone, or something hides NaN.
    """

    layer: Layer
    shape: tuple[int, ...]
    grid: Grid | None = None
    layout: Layout | None = None
    sees_all: bool = False
    blind: bool = False

    @property
    def stride(self) -> tuple[int, int] | None:
        """Total stride along rows and columns; None without a grid, or without a regular one."""
        return self.grid.stride if self.grid else None

    def maps(self, activation: Shaped[Tensor, "n ..."]) -> Shaped[Tensor, "n ..."]:
        """The activation as `n c h w`; as it is, if it keeps no positions."""
        return self.layout.maps(activation) if self.layout else activation


Layers = Mapping[str, LayerGeometry]
HEAD, TAIL, ALONE = range(3)  # NaN: the first p pixels, the last p, or pixel p alone
Probe = tuple[int, tuple[int, int]]  # one of these, and p along rows and columns; -1 for none
Run = tuple[int, int]  # begin and length of the longest stretch of finite outputs on a circle
Explanation = tuple[int, tuple[range, range]]  # S, and what P may be at either end
Asked = tuple[set[int], set[int]]  # which p to try next, at HEAD and at TAIL
See = Callable[[Layer, Tensor, Sequence[Probe]], None]  # learns what a layer makes of some probes


@dataclass(frozen=True)
class _Line:
    """What was seen of one layer along one axis: for each kind of probe, p -> the outputs that stay finite."""

    size: int
    outputs: int
    runs: tuple[dict[int, Run], dict[int, Run], dict[int, Run]] = field(default_factory=lambda: ({}, {}, {}))

    @property
    def lasts(self) -> list[int]:
        """From either end, how many outputs do not see it from the other one, around a circle."""
        return [min([self.outputs, *(first + n for first, n in run.values() if n)]) for run in self.runs[:ALONE]]


Lines = dict[tuple[Layer, int], _Line]  # layer and axis


@dataclass(frozen=True)
class _Shown:
    """A map of which some outputs see no edge: where it is in the activation, and which rows, columns see anything."""

    layout: Layout
    rows: Bool[Tensor, " y"]
    columns: Bool[Tensor, " x"]


@dataclass(frozen=True)
class _Network:
    """A network, and the image that it is run on."""

    model: nn.Module
    image: Float[Tensor, "1 c h w"]

    @property
    def size(self) -> tuple[int, int]:
        return self.image.shape[2], self.image.shape[3]

    def run(self, probes: Sequence[Probe], see: See, last: Layer | None = None) -> None:
        """Run on some probes at a time; `see` learns of the probes, and of what each layer makes of them."""
        for start in range(0, len(probes), CHUNK):
            chunk = probes[start : start + CHUNK]

            def look(layer: Layer, a: Tensor, chunk: Sequence[Probe] = chunk) -> None:
                if a.is_floating_point() and a.dim() > 1 and len(a) == len(chunk):
                    see(layer, a, chunk)
                if layer == last:
                    raise _StopError

            x = torch.cat([_probed(self.image, probe) for probe in chunk])
            modules = dict(self.model.named_modules())
            with watching(self.model, modules, look), evaluating(self.model, x.device), suppress(_StopError):
                self.model(x)


def _probed(image: Tensor, probe: Probe) -> Tensor:
    """A copy of the image with NaN where the probe says."""
    kind, widths = probe
    image = image.clone(memory_format=torch.contiguous_format)  # some models take the usual order for granted
    for dim, p in enumerate(widths, 2):
        i = torch.arange(image.shape[dim])
        image.movedim(dim, 0)[(i < p, i >= len(i) - p, i == p)[kind]] = torch.nan
    return image


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
        InputError: an image of another shape, a network without such a module, or two layers of one name.

    Examples:
        >>> import torch
        >>> from lab import PooledCNN, trace
        >>> found = trace(PooledCNN(), torch.zeros(1, 1, 28, 28))
        >>> found["conv2"].grid.stride, found["conv2"].grid.x.receptive_field, found["fc1"].grid
        ((2, 2), 8, None)
    """
    if image.dim() != 4 or len(image) != 1 or min(image.shape[-2:]) < 3:
        raise InputError(f"trace needs one image, 1 c h w, of at least 3 × 3 pixels: shape {tuple(image.shape)}")
    network = _Network(model, image)
    masks = _first_look(network)
    if not masks:
        raise InputError("no module of the model returned a floating-point tensor whose first dimension is the batch")
    layouts = _layouts(masks, network.size)
    axes = _axes(network, layouts, _not_all_seen(masks, layouts))
    found = {}
    for name, layer in by_name(masks).items():
        nan, layout = masks[layer], layouts.get(layer)
        grid = Grid(axes[layer, 0], axes[layer, 1]) if layout else None
        sees_all, blind = bool(nan[:2].all()), not nan.any()
        found[name] = LayerGeometry(layer, tuple(nan.shape[1:]), grid, layout, sees_all, blind)
    return found


def _not_all_seen(masks: Mapping[Layer, Tensor], layouts: Mapping[Layer, Layout]) -> dict[Layer, _Shown]:
    """The maps that have outputs which see no edge; of the others there is nothing to trace."""
    found = {}
    for layer, layout in layouts.items():
        row, column, *_ = nan = layout.maps(masks[layer]).any(1)
        shown = _Shown(layout, column.any(1), row.any(0))
        if not nan.any(0)[shown.rows][:, shown.columns].all():
            found[layer] = shown
    return found


def leaves(geometry: Layers) -> list[str]:
    """The layers that ran without running another of them, such as convolutions, but not the blocks around them."""
    ran = {layer.layer.module for layer in geometry.values()}
    outer = {name[:i] for name in ran for i, letter in enumerate(name) if letter == "."}
    inner = {name for name in ran - outer if name or len(ran) == 1}
    return [name for name, layer in geometry.items() if layer.layer.module in inner]


class _StopError(BaseException):
    """All that was asked for has run; no `except Exception` of a model stops it."""


def _first_look(network: _Network) -> dict[Layer, Tensor]:
    """Where each layer is NaN if the first row is, if the first column is, and if the last ones are."""
    masks: dict[Layer, Tensor] = {}

    def see(layer: Layer, a: Tensor, _: Sequence[Probe]) -> None:
        if layer not in masks or not _shows_both(masks[layer]):
            masks[layer] = a.isnan()

    for p in (1, min(network.size) // 4):  # again with wider strips if a layer does not look at the edge
        network.run([(HEAD, (p, -1)), (HEAD, (-1, p)), (TAIL, (p, p))], see)
        if all(map(_shows_both, masks.values())):
            break
    return masks


def _shows_both(nan: Bool[Tensor, "3 ..."]) -> bool:
    """Whether the first row and the first column show."""
    return bool(nan[:2].flatten(1).any(1).all())


def _layouts(masks: Mapping[Layer, Tensor], size: tuple[int, int]) -> dict[Layer, Layout]:
    layouts: dict[Layer, Layout] = {}
    for layer, nan in masks.items():
        layout = _rows_and_columns(nan) or _by_shape(nan, size, list(layouts.values())) or _tokens(nan)
        if layout and math.prod(layout.size) > 1:
            layouts[layer] = layout
    return layouts


def _rows_and_columns(nan: Bool[Tensor, "3 ..."]) -> Layout | None:
    """Which dimensions are rows and columns: along the first, a NaN row shows at fewer places than a NaN column."""
    shown = torch.stack([nan[:2, ..., None].transpose(1, d).flatten(2).any(2).sum(1) for d in range(1, nan.dim())])
    row, column = shown.T
    y, x = ([int(d) + 1 for d in fewer.nonzero()] for fewer in (row < column, column < row))
    if nan.dim() == 4 and len(y) + len(x) == 1:
        y, x = _completed(y, x, nan)
    return Layout((y[0], x[0]), (nan.shape[y[0]], nan.shape[x[0]])) if len(y) == len(x) == 1 else None


def _completed(y: list[int], x: list[int], nan: Bool[Tensor, "3 ..."]) -> tuple[list[int], list[int]]:
    """Rows lie before columns, if one of them is missing because all outputs see the first pixel along it."""
    if y:
        return y, [d + 1 for d in y if nan[1].all()]
    return [d - 1 for d in x if nan[0].all()], x


def _tokens(nan: Bool[Tensor, "3 ..."]) -> Layout | None:
    """Positions in one dimension, row by row, from the first that does not see all."""
    if nan.dim() != 3:
        return None
    row, column = nan[:2].any(-1)
    prefix = int((row & column).long().argmax())
    count = len(row) - prefix
    for width in range(2, count // 2 + 1):
        if count % width == 0 and _are_rows(*(one[prefix:].unflatten(0, (-1, width)) for one in (row, column))):
            return Layout((1, 1), (count // width, width), prefix)
    return None


def _are_rows(row: Bool[Tensor, "y x"], column: Bool[Tensor, "y x"]) -> bool:
    """Whether a NaN row shows all along a row, in some of them, and a NaN column in all rows alike."""
    alike = bool((row == row[:, :1]).all() and (column == column[:1]).all())
    return alike and all(bool(one.any()) and not bool(one.all()) for one in (row, column))


def _by_shape(nan: Bool[Tensor, "3 ..."], size: tuple[int, int], before: Sequence[Layout]) -> Layout | None:
    """A layer that sees everything shows no positions: take a size seen before, or one in the image's proportion."""
    if not nan[:2].all():
        return None
    if nan.dim() == 3:
        tokens = [one for one in before if one.dims == (1, 1)]
        return next((one for one in tokens if one.prefix + math.prod(one.size) == nan.shape[1]), None)
    return next(iter(_maps_by_shape(nan.shape, size, before)), None) if nan.dim() == 4 else None


def _maps_by_shape(shape: Sequence[int], size: tuple[int, int], before: Sequence[Layout]) -> list[Layout]:
    dims, sizes = {(2, 3), *(one.dims for one in before)}, {one.size for one in before}
    found = [Layout((y, x), (shape[y], shape[x])) for y, x in ((2, 3), (1, 2)) if (y, x) in dims]
    known = [one for one in found if one.size in sizes]
    return known + [one for one in found if _in_proportion(one.size, size)]


def _in_proportion(map_size: tuple[int, int], size: tuple[int, int]) -> bool:
    (y, x), (h, w) = map_size, size
    return y <= h and x <= w and abs(y * w - x * h) <= max(size)


def _axes(
    network: _Network, layouts: Mapping[Layer, Layout], shown: Mapping[Layer, _Shown]
) -> dict[tuple[Layer, int], Axis]:
    """Widen NaN strips from both ends, until a single stride and offset explain what each map shows."""
    size = network.size
    lines = {(layer, a): _Line(size[a], one.size[a]) for layer, one in layouts.items() for a in (0, 1)}
    look = partial(_look, lines, shown)
    found: dict[tuple[Layer, int], tuple[Axis, Asked]] = {}
    probes, last = _first_probes(size, layouts, shown), [None, *shown][-1]
    for attempt in range(ROUNDS):
        network.run(probes, look, last)
        found = {key: _axis(line) for key, line in lines.items()}
        probes = _next_probes([doubts for _, doubts in found.values()], apart=attempt > 0)
        last = [None, *(key[0] for key, (_, doubts) in found.items() if any(doubts))][-1]
        if not probes:
            break
    axes = {key: axis for key, (axis, _) in found.items()}
    return axes | _checked_circles(network, look, axes, lines)


def _first_probes(size: tuple[int, int], layouts: Mapping[Layer, Layout], shown: Iterable[Layer]) -> list[Probe]:
    """Strips up to the largest stride wide, and of a third of the image."""
    strides = [-(-size[a] // layouts[layer].size[a]) for layer in shown for a in (0, 1)]
    pairs = [*((p, p) for p in range(1, max(strides, default=0) + 1)), (size[0] // 3, size[1] // 3)]
    return [(end, pair) for end in (HEAD, TAIL) for pair in pairs if strides]


def _next_probes(doubts: Sequence[Asked], *, apart: bool) -> list[Probe]:
    """The strips that were asked for, along both axes at once, or one along each."""
    asked = [(end, p) for end in (HEAD, TAIL) for p in sorted({p for one in doubts for p in one[end]})]
    return [(end, pair) for end, p in asked for pair in ([(p, -1), (-1, p)] if apart else [(p, p)])]


def _checked_circles(
    network: _Network, look: See, axes: Mapping[tuple[Layer, int], Axis], lines: Lines
) -> dict[tuple[Layer, int], Axis]:
    """The axes that seem circular, and whether they are: what continues otherwise shows from pixels near the ends."""
    circles = {key: axis for key, axis in axes.items() if axis.circular}
    wide = [axis for axis in circles.values() if axis.offset or axis.receptive_field != axis.stride]
    if far := max((axis.receptive_field or 0 for axis in wide), default=0):
        network.run(_pixels_near_the_ends(network.size, far), look, [*circles][-1][0])
    return {key: replace(axis, circular=_turns(axis, lines[key].runs[ALONE])) for key, axis in circles.items()}


def _pixels_near_the_ends(size: tuple[int, int], far: int) -> list[Probe]:
    near = range(-min(far, max(size) // 2), min(far, -(-max(size) // 2)))
    return [(ALONE, pair) for p in near for pair in ((p % size[0], -1), (-1, p % size[1]))]


def _look(lines: Lines, shown: Mapping[Layer, _Shown], layer: Layer, a: Tensor, probes: Sequence[Probe]) -> None:
    if layer not in shown:
        return
    seen = shown[layer]
    finite = ~seen.layout.maps(a).amax(1).isnan()  # a maximum is NaN if any of it is
    for one, (kind, widths) in zip(finite, probes, strict=True):
        for axis, along in enumerate((one[:, seen.columns].any(1), one[seen.rows].any(0))):
            run = _longest_run(along.flip(0) if kind == TAIL else along)
            if widths[axis] >= 0 and (run[1] or widths[1 - axis] < 0):  # else it may be due to the other axis
                lines[layer, axis].runs[kind][widths[axis]] = run


def _longest_run(line: Bool[Tensor, " j"]) -> Run:
    """Begin and length of the longest stretch of True on a circle; the length of the line and 0 if there is none."""
    values = line.tolist()
    best, run = (len(values), 0), 0
    for i, value in enumerate(values + values[:-1]):
        run = run + 1 if value else 0
        if best[1] < run <= len(values):
            best = (i - run + 1, run)
    return best


def _axis(line: _Line) -> tuple[Axis, Asked]:
    """What explains the runs seen from both ends, if one thing alone does and nothing is in doubt."""
    size, outputs, lasts, found = line.size, line.outputs, line.lasts, _explain(line)
    doubts, certain = _doubts(line, found)
    if not certain:
        return Axis(size, outputs, _assumed_stride(line, found), range(0)), doubts
    stride, ((before,), (after,)) = found[0]
    head, tail = (max(-(-p // stride), 0) for p in (before, after))  # outputs whose windows begin, or end, in padding
    if outputs - lasts[HEAD] > tail or outputs - lasts[TAIL] > head:
        return Axis(size, outputs, None, range(0)), doubts  # a gap in the windows was taken for the interior
    interior, receptive_field = range(head, max(outputs - tail, head)), size - stride * (outputs - 1) + before + after
    circular = stride * outputs == size and (min(lasts) < outputs or max(before, after) <= 0)
    return Axis(size, outputs, stride, interior, receptive_field, offset=-before, circular=circular), doubts


def _assumed_stride(line: _Line, found: Sequence[Explanation]) -> int | None:
    """That the outputs divide the image evenly, unless what was seen contradicts it."""
    divides = line.size % line.outputs == 0 and line.outputs > 1  # one output may be a pool of all
    even = line.size // line.outputs if divides else None
    return even if not any(line.runs[:ALONE]) or even in [stride for stride, _ in found] else None


def _explain(line: _Line) -> list[Explanation]:
    """Each S and P for which the first finite output is the first with S·j − P ≥ p; first the S that divides evenly."""
    size, outputs = line.size, line.outputs
    seen = [[(p, first) for p, (first, length) in runs.items() if length < outputs] for runs in line.runs[:ALONE]]
    if not all(seen):
        return []
    stride = torch.arange(1, size + 1)
    bounds = [stride]
    for end, last in zip(seen, line.lasts, strict=True):
        p, j = torch.tensor([(p, min(first, last)) for p, first in end]).T[:, :, None]
        bounds.append(torch.where(j > 0, stride * (j - 1) - p + 1, -stride * outputs).amax(0))
        bounds.append(torch.where(j < last, stride * j - p, stride * outputs).amin(0) + 1)
    _, low, high, low_tail, high_tail = bounds
    fits = (low < high) & (low_tail < high_tail) & (size - stride * (outputs - 1) + high + high_tail > 2)
    found = [(s, (range(a, b), range(c, d))) for s, a, b, c, d in torch.stack(bounds, 1)[fits].tolist()]
    return sorted(found, key=lambda one: one[0] * outputs != size)


def _doubts(line: _Line, found: Sequence[Explanation]) -> tuple[Asked, bool]:
    """Which p to try next at either end, and whether there is no need: one explanation, for at least three windows."""
    if not found:
        return (set(), set()), False
    (head, enough_head), (tail, enough_tail) = (_doubts_at(line, end, found) for end in (HEAD, TAIL))
    return (head, tail), len(found) == 1 and enough_head and enough_tail and not head | tail


def _doubts_at(line: _Line, end: int, found: Sequence[Explanation]) -> tuple[set[int], bool]:
    """At p, the output whose window begins there is the first left; two are to be seen to go at p + 1, or all of a few.

    Returns:
        Which p to try next, and whether P is settled by at least three windows.
    """
    stride, paddings = found[0]
    padding, third, seen, last = paddings[end], line.size // 3, line.runs[end].keys(), line.lasts[end]
    begins = (stride * j - padding[len(padding) // 2] for j in range(last))
    goes = [p for p in begins if 0 < p < line.size - 1]
    unseen = _unseen(goes, seen, third)
    settled = len(padding) == 1
    if last > FEW:
        unseen = [] if settled and len(found) == 1 and len(goes) - len(unseen) > 1 else unseen[:1]
    return {third, *unseen, *(p + 1 for p in unseen)} - seen, settled and len(goes) > 2


def _unseen(goes: Iterable[int], seen: Collection[int], third: int) -> list[int]:
    """Those at which it was not seen whether an output goes, nearest to a third of the image first."""
    return sorted((p for p in goes if p not in seen or p + 1 not in seen), key=lambda p: abs(p - third))


def _turns(axis: Axis, alone: Mapping[int, Run]) -> bool:
    """Whether that which a pixel hides, NaN alone, moves on by one output from each pixel to the one a stride later."""
    n = axis.outputs
    moved = {p: ((begin + 1) % n if 0 < length < n else begin, length) for p, (begin, length) in alone.items()}
    return all(alone.get((p + (axis.stride or 0)) % axis.size, run) == run for p, run in moved.items())
