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
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
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

    def maps(self, activation: Shaped[Tensor, "n ..."]) -> Shaped[Tensor, "n ..."]:
        """The activation as `n c h w`; as it is, if it keeps no positions."""
        return self.layout.maps(activation) if self.layout else activation


HEAD, TAIL, ALONE = range(3)  # NaN: the first p pixels, the last p, or pixel p alone
Probe = tuple[int, tuple[int, int]]  # one of these, and p along rows and columns; -1 for none
Run = tuple[int, int]  # begin and length of the longest stretch of finite outputs on a circle
Runs = defaultdict[tuple[Layer, int, int], dict[int, Run]]  # layer, axis and kind of probe -> p -> what stays finite
Ends = tuple[dict[int, Run], dict[int, Run]]  # of one layer and axis: HEAD, and TAIL, counted from there
Explanation = tuple[int, tuple[range, range]]  # S, and what P may be at either end
See = Callable[[Layer, Tensor, Sequence[Probe]], None]  # learns what a layer makes of some probes
RunProbes = Callable[[Sequence[Probe], See, Layer | None], None]


@dataclass(frozen=True)
class _Shown:
    """A map of which some outputs see no edge: where it is in the activation, and which rows, columns see anything."""

    layout: Layout
    rows: Bool[Tensor, " y"]
    columns: Bool[Tensor, " x"]


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
    run: RunProbes = partial(_run, model, image, dict(model.named_modules()))
    size = (image.shape[2], image.shape[3])
    masks = _first_look(run, size)
    if not masks:
        raise InputError("no module of the model returned a floating-point tensor whose first dimension is the batch")
    layouts = _layouts(masks, size)
    axes = _axes(run, size, layouts, _not_all_seen(masks, layouts))
    return {
        name: LayerGeometry(
            layer,
            shape=tuple(masks[layer].shape[1:]),
            grid=Grid(axes[layer, 0], axes[layer, 1]) if layer in layouts else None,
            layout=layouts.get(layer),
            sees_all=bool(masks[layer][:2].all()),
            blind=not masks[layer].any(),
        )
        for name, layer in by_name(masks).items()
    }


def _not_all_seen(masks: Mapping[Layer, Tensor], layouts: Mapping[Layer, Layout]) -> dict[Layer, _Shown]:
    """The maps that have outputs which see no edge; of the others there is nothing to trace."""
    found = {}
    for layer, layout in layouts.items():
        row, column, *_ = nan = layout.maps(masks[layer]).any(1)
        shown = _Shown(layout, column.any(1), row.any(0))
        if not nan.any(0)[shown.rows][:, shown.columns].all():
            found[layer] = shown
    return found


def leaves(geometry: Mapping[str, LayerGeometry]) -> list[str]:
    """The layers that ran without running another of them, such as convolutions, but not the blocks around them."""
    ran = {layer.layer.module for layer in geometry.values()}
    outer = {name[:i] for name in ran for i, letter in enumerate(name) if letter == "."}
    inner = {name for name in ran - outer if name or len(ran) == 1}
    return [name for name, layer in geometry.items() if layer.layer.module in inner]


class _StopError(BaseException):
    """All that was asked for has run; no `except Exception` of a model stops it."""


def _run(
    model: nn.Module,
    image: Tensor,
    modules: Mapping[str, nn.Module],
    probes: Sequence[Probe],
    see: See,
    last: Layer | None = None,
) -> None:
    """Run the network on some probes at a time; `see` learns of the probes, and of what each layer makes of them."""
    for start in range(0, len(probes), CHUNK):
        chunk = probes[start : start + CHUNK]
        x = image.repeat(len(chunk), 1, 1, 1)
        for one, (kind, widths) in zip(x, chunk, strict=True):
            for dim, p in enumerate(widths, 1):
                i = torch.arange(one.shape[dim])
                one.movedim(dim, 0)[(i < p, i >= len(i) - p, i == p)[kind]] = torch.nan

        def look(layer: Layer, a: Tensor, chunk: Sequence[Probe] = chunk) -> None:
            if a.is_floating_point() and a.dim() > 1 and len(a) == len(chunk):
                see(layer, a, chunk)
            if layer == last:
                raise _StopError

        with watching(model, modules, look), evaluating(model, x.device), suppress(_StopError):
            model(x)


def _first_look(run: RunProbes, size: tuple[int, int]) -> dict[Layer, Tensor]:
    """Where each layer is NaN if the first row is, if the first column is, and if the last ones are."""
    masks: dict[Layer, Tensor] = {}

    def see(layer: Layer, a: Tensor, _: Sequence[Probe]) -> None:
        if layer not in masks or not _shows_both(masks[layer]):
            masks[layer] = a.isnan()

    for p in (1, min(size) // 4):  # again with wider strips if a layer does not look at the edge
        run([(HEAD, (p, -1)), (HEAD, (-1, p)), (TAIL, (p, p))], see, None)
        if all(map(_shows_both, masks.values())):
            break
    return masks


def _shows_both(nan: Bool[Tensor, "3 ..."]) -> bool:
    """Whether the first row and the first column show."""
    return bool(nan[:2].flatten(1).any(1).all())


def _layouts(masks: Mapping[Layer, Tensor], size: tuple[int, int]) -> dict[Layer, Layout]:
    layouts: dict[Layer, Layout] = {}
    for layer, nan in masks.items():
        layout = _rows_and_columns(nan)
        if layout is None and nan[:2].all():
            layout = _by_shape(nan.shape, size, list(layouts.values()))
        if layout is None and nan.dim() == 3:
            layout = _tokens(nan)
        if layout and math.prod(layout.size) > 1:
            layouts[layer] = layout
    return layouts


def _rows_and_columns(nan: Bool[Tensor, "3 ..."]) -> Layout | None:
    """Which dimensions are rows and columns: along the first, a NaN row shows at fewer places than a NaN column."""
    shown = [nan[:2, ..., None].transpose(1, d).flatten(2).any(2).sum(1).tolist() for d in range(1, nan.dim())]
    y = [d for d, (row, column) in enumerate(shown, 1) if row < column]
    x = [d for d, (row, column) in enumerate(shown, 1) if column < row]
    if nan.dim() == 4 and len(y) + len(x) == 1:  # along one axis, all outputs may see the first pixel
        y, x = y or [d - 1 for d in x if nan[0].all()], x or [d + 1 for d in y if nan[1].all()]
    return Layout((y[0], x[0]), (nan.shape[y[0]], nan.shape[x[0]])) if len(y) == len(x) == 1 else None


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


def _by_shape(shape: Sequence[int], size: tuple[int, int], before: Sequence[Layout]) -> Layout | None:
    """A layer that sees everything shows no positions: take a size seen before, or one in the image's proportion."""
    if len(shape) == 3:
        tokens = [one for one in before if one.dims == (1, 1)]
        return next((one for one in tokens if one.prefix + math.prod(one.size) == shape[1]), None)
    if len(shape) != 4:
        return None
    dims, sizes = {(2, 3), *(one.dims for one in before)}, {one.size for one in before}
    found = [Layout((y, x), (shape[y], shape[x])) for y, x in ((2, 3), (1, 2)) if (y, x) in dims]
    known = [one for one in found if one.size in sizes]
    return next((one for one in known + found if one in known or _in_proportion(one.size, size)), None)


def _in_proportion(map_size: tuple[int, int], size: tuple[int, int]) -> bool:
    (y, x), (h, w) = map_size, size
    return y <= h and x <= w and abs(y * w - x * h) <= max(size)


def _axes(
    run: RunProbes, size: tuple[int, int], layouts: Mapping[Layer, Layout], shown: Mapping[Layer, _Shown]
) -> dict[tuple[Layer, int], Axis]:
    """Widen NaN strips from both ends, until a single stride and offset explain what each map shows."""
    runs: Runs = defaultdict(dict)
    look = partial(_look, runs, shown)
    step = max((-(-size[a] // layouts[layer].size[a]) for layer in shown for a in (0, 1)), default=0)
    pairs = [*((p, p) for p in range(1, step + 1)), (size[0] // 3, size[1] // 3)]
    probes, last = [(end, pair) for end in (HEAD, TAIL) for pair in pairs if shown], [None, *shown][-1]
    axes: dict[tuple[Layer, int], Axis] = {}
    for attempt in range(ROUNDS):
        run(probes, look, last)
        axes, asked, last = _explained(size, layouts, runs)
        probes = [probe for end in (HEAD, TAIL) for p in sorted(asked[end]) for probe in _at(end, p, apart=attempt > 0)]
        if not probes:
            break
    return axes | _checked_circles(run, look, size, axes, runs)


def _at(end: int, p: int, *, apart: bool) -> list[Probe]:
    """A strip along both axes at once, or one along each."""
    return [(end, pair) for pair in ([(p, -1), (-1, p)] if apart else [(p, p)])]


def _explained(
    size: tuple[int, int], layouts: Mapping[Layer, Layout], runs: Runs
) -> tuple[dict[tuple[Layer, int], Axis], tuple[set[int], set[int]], Layer | None]:
    """Each axis as far as it is known; the strips to try next at either end; and the last layer that needs them."""
    axes: dict[tuple[Layer, int], Axis] = {}
    asked: tuple[set[int], set[int]] = (set(), set())
    last = None
    for layer, layout in layouts.items():
        for a in (0, 1):
            ends = runs[layer, a, HEAD], runs[layer, a, TAIL]
            axes[layer, a], doubts = _axis(size[a], layout.size[a], ends)
            for end in (HEAD, TAIL):
                asked[end].update(doubts[end])
            last = layer if any(doubts) else last
    return axes, asked, last


def _checked_circles(
    run: RunProbes, look: See, size: tuple[int, int], axes: Mapping[tuple[Layer, int], Axis], runs: Runs
) -> dict[tuple[Layer, int], Axis]:
    """The axes that seem circular, and whether they are: what continues otherwise shows from pixels near the ends."""
    circles = {key: axis for key, axis in axes.items() if axis.circular}
    wide = [axis for axis in circles.values() if axis.offset or axis.receptive_field != axis.stride]
    if far := max((axis.receptive_field or 0 for axis in wide), default=0):
        half = max(size)
        near = range(-min(far, half // 2), min(far, -(-half // 2)))
        probes = [(ALONE, pair) for p in near for pair in ((p % size[0], -1), (-1, p % size[1]))]
        run(probes, look, [*circles][-1][0])
    return {key: replace(axis, circular=_turns(axis, runs[(*key, ALONE)])) for key, axis in circles.items()}


def _look(runs: Runs, shown: Mapping[Layer, _Shown], layer: Layer, activation: Tensor, probes: Sequence[Probe]) -> None:
    if layer not in shown:
        return
    seen = shown[layer]
    finite = ~seen.layout.maps(activation).amax(1).isnan()  # a maximum is NaN if any of it is
    for one, (kind, widths) in zip(finite, probes, strict=True):
        for a, line in enumerate((one[:, seen.columns].any(1), one[seen.rows].any(0))):
            run = _longest_run(line.flip(0) if kind == TAIL else line)
            if widths[a] >= 0 and (run[1] or widths[1 - a] < 0):  # else it may be due to the other axis
                runs[layer, a, kind][widths[a]] = run


def _longest_run(line: Bool[Tensor, " j"]) -> Run:
    """Begin and length of the longest stretch of True on a circle; the length of the line and 0 if there is none."""
    values = line.tolist()
    best, run = (len(values), 0), 0
    for i, value in enumerate(values + values[:-1]):
        run = run + 1 if value else 0
        if best[1] < run <= len(values):
            best = (i - run + 1, run)
    return best


def _axis(size: int, outputs: int, ends: Ends) -> tuple[Axis, tuple[set[int], set[int]]]:
    """What explains the runs seen from both ends, if one thing alone does and nothing is in doubt."""
    # outputs up to which those are that do not see this end of the image from the other one, around a circle
    lasts = [min([outputs, *(first + length for first, length in runs.values() if length)]) for runs in ends]
    found = _explain(size, outputs, ends, lasts)
    doubts, certain = _doubts(size, ends, lasts, found)
    if not certain:
        return Axis(size, outputs, _assumed_stride(size, outputs, ends, found), range(0)), doubts
    stride, ((before,), (after,)) = found[0]
    outside = [max(-(-p // stride), 0) for p in (before, after)]  # outputs whose windows begin, or end, in padding
    if any(outputs - last > more for last, more in zip(lasts, reversed(outside), strict=True)):
        return Axis(size, outputs, None, range(0)), doubts  # a gap in the windows was taken for the interior
    axis = Axis(
        size,
        outputs,
        stride,
        interior=range(outside[0], max(outputs - outside[1], outside[0])),
        receptive_field=size - stride * (outputs - 1) + before + after,
        offset=-before,
        circular=stride * outputs == size and (min(lasts) < outputs or max(before, after) <= 0),
    )
    return axis, doubts


def _assumed_stride(size: int, outputs: int, ends: Ends, found: Sequence[Explanation]) -> int | None:
    """That the outputs divide the image evenly, unless what was seen contradicts it."""
    even = size // outputs if size % outputs == 0 and outputs > 1 else None  # one output may be a pool of all
    return even if not any(ends) or even in [stride for stride, _ in found] else None


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


def _doubts(
    size: int, ends: Ends, lasts: Sequence[int], found: Sequence[Explanation]
) -> tuple[tuple[set[int], set[int]], bool]:
    """Which p to try next at either end, and whether there is no need: one explanation, for at least three windows."""
    if not found:
        return (set(), set()), False
    (head, enough_head), (tail, enough_tail) = (
        _doubts_at(size, ends[end], lasts[end], found[0][0], found[0][1][end], alone=len(found) == 1)
        for end in (HEAD, TAIL)
    )
    return (head, tail), len(found) == 1 and enough_head and enough_tail and not head | tail


def _doubts_at(
    size: int, runs: dict[int, Run], last: int, stride: int, padding: range, *, alone: bool
) -> tuple[set[int], bool]:
    """At p, the output whose window begins there is the first left; two are to be seen to go at p + 1, or all of a few.

    Returns:
        Which p to try next, and whether P is settled by at least three windows.
    """
    begins = (stride * j - padding[len(padding) // 2] for j in range(last))
    goes = [p for p in begins if 0 < p < size - 1]
    unseen = sorted((p for p in goes if not {p, p + 1} <= runs.keys()), key=lambda p: abs(p - size // 3))
    settled = len(padding) == 1
    if alone and settled and len(goes) - len(unseen) > 1 and last > FEW:
        unseen = []
    wanted = unseen[: 1 if last > FEW else None]
    return {size // 3, *(p + i for p in wanted for i in (0, 1))} - runs.keys(), settled and len(goes) > 2


def _turns(axis: Axis, alone: Mapping[int, Run]) -> bool:
    """Whether that which a pixel hides, NaN alone, moves on by one output from each pixel to the one a stride later."""
    n = axis.outputs
    moved = {p: ((begin + 1) % n if 0 < length < n else begin, length) for p, (begin, length) in alone.items()}
    return all(alone.get((p + (axis.stride or 0)) % axis.size, run) == run for p, run in moved.items())
