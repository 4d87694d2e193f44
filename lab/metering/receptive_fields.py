"""What the outputs of each layer see: step, period, receptive field, offset and interior.

A network runs once on one image, and every value tells which pixels it was computed from
(`lab.metering.origins`). Along each axis the window of output j begins at input pixel s·j − P and is R pixels long:
step s, receptive field R, offset −P. The interior is every j whose window lies inside the image, and that no padding
has entered on the way.

Source:
    A. Araujo et al., Computing Receptive Fields of Convolutional Neural Networks, Distill 2019, for the closed formula;
    tests compare the traced values with it wherever a network is a plain chain.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from lab.checkpoints import restored
from lab.errors import require
from lab.metering.operations import is_circle, origins_of_results
from lab.metering.origins import AT, HIGH, LOW, PAD, Along, Facts, Origin, Pattern, Tracer, find_pattern
from lab.metrics import Axis, Grid
from lab.observing import Layer, by_name, evaluating, original, watching

NOISE = 1e-4  # of activations, relative: what two runs on one image may differ by, an empirical bound
SOME = 199  # activations that are compared one by one: a prime, so that a map that is turned shows others
Forward = Callable[[Tensor], object]


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

    Where no step explains the windows along an axis, it has no regular grid, and its interior is empty. A weight of 0
    counts as seen, so that R is an upper bound.

    Attributes:
        layer: which module, call and output.
        shape: of one image's activation.
        grid: its positions; None if it keeps none.
        layout: where these are in the activation; None likewise.
        sees_all: every output sees the whole image: a global operation, or a receptive field that is larger.
        blind: no output was computed from the image.
        flat: it keeps positions, but not as rows and columns, such as a flattened map.
        noisy: it is not the same if the network runs again on the same image.
        facts: what else is known of where its values come from.
    """

    layer: Layer
    shape: tuple[int, ...]
    grid: Grid | None = None
    layout: Layout | None = None
    sees_all: bool = False
    blind: bool = False
    flat: bool = False
    noisy: bool = False
    facts: Facts = field(default_factory=Facts)

    @property
    def circular(self) -> bool:
        """Whether nothing on the way ends at the frame: the positions, and whatever was summed up, close a circle."""
        return all(self.facts.closed) and (self.grid is None or (self.grid.y.circular and self.grid.x.circular))

    def exact_at(self, dy: int, dx: int) -> bool:
        """Whether the period divides a shift along rows and along columns."""
        return dy % self.facts.period[0] == 0 and dx % self.facts.period[1] == 0

    def maps(self, activation: Shaped[Tensor, "n ..."]) -> Shaped[Tensor, "n ..."]:
        """The activation as `n c h w`; as it is, if it keeps no positions."""
        return self.layout.maps(activation) if self.layout else activation


Layers = Mapping[str, LayerGeometry]


@dataclass(frozen=True)
class Trace:
    """What was found of a network.

    Attributes:
        layers: name -> geometry, in the order in which they returned.
        leaves: the names of those that compute: that ran no other module, or return something else than it did.
        left_out: layers that return tensors whose first dimension is not the batch.
        read: modules that read values of the image, as numbers of Python, on which what runs may depend.
    """

    layers: dict[str, LayerGeometry]
    leaves: tuple[str, ...]
    left_out: tuple[str, ...]
    read: tuple[str, ...]


@dataclass(frozen=True)
class _Seen:
    """What one run shows of a layer's output: its shape, some of its first image's values and two sums, its origin."""

    shape: tuple[int, ...]
    sums: tuple[float, float]
    some: tuple[float, ...]
    origin: Origin | None


def trace(
    model: nn.Module, image: Float[Tensor, "1 c h w"], *, forward: Forward | None = None
) -> dict[str, LayerGeometry]:
    """Find out what every layer sees in an image of this size.

    Args:
        model: anything that takes `image`; it runs in evaluation mode, and is left as it was.
        image: on the model's device and of its type.
        forward: runs the model on images, if it needs other inputs too.

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
        >>> found["conv2"].grid.period, found["conv2"].grid.x.receptive_field, found["fc1"].grid
        ((2, 2), 8, None)
    """
    with restored(model):
        return trace_network(model, image, forward=forward).layers


def trace_network(model: nn.Module, image: Float[Tensor, "1 c h w"], *, forward: Forward | None = None) -> Trace:
    """The same, and which layers compute, or had to be left out."""
    fits = image.dim() == 4 and len(image) == 1
    require(fits, f"trace needs one image, 1 c h w: shape {tuple(image.shape)}")
    model = original(model)
    run = partial(_run, model, forward=forward or model)
    traced, read = run(image, seed=0, follow=True)
    doubled, again = (run(image.expand(2, -1, -1, -1), seed=seed)[0] for seed in (1, 2))  # of one size: rounded alike
    both = doubled.keys() & again.keys()
    usable = {layer: one for layer, one in traced.items() if layer in both and _is_batch(one, doubled[layer])}
    require(usable, "no module of the model returned a floating-point tensor whose first dimension is the batch")
    size = image.shape[2], image.shape[3]
    layers = {
        name: _geometry(layer, usable[layer], size, noisy=_differ(doubled[layer], again[layer]))
        for name, layer in by_name(usable).items()
    }
    left_out = dict.fromkeys(str(layer) for layer in traced if layer not in usable)
    return Trace(layers, _leaves(usable), tuple(left_out), read)


def _is_batch(one: _Seen, two: _Seen) -> bool:
    return one.shape[:1] == (1,) and two.shape == (2, *one.shape[1:])


def _differ(one: _Seen, two: _Seen) -> bool:
    """Whether two runs on the same images differ by more than rounding: in single values, or in sums of all."""
    largest, total = max(map(abs, one.some), default=0.0), max(one.sums[1], two.sums[1])
    apart = max((abs(a - b) for a, b in zip(one.some, two.some, strict=True)), default=0.0)
    return apart > NOISE * largest or abs(one.sums[0] - two.sums[0]) > NOISE * total


def _run(
    model: nn.Module, x: Tensor, forward: Forward, *, seed: int, follow: bool = False
) -> tuple[dict[Layer, _Seen], tuple[str, ...]]:
    """Run once, with random numbers of its own; and follow where values come from."""
    image = x.clone(memory_format=torch.contiguous_format)  # some models take the usual order for granted
    names = {t.untyped_storage()._cdata: name for name, t in (*model.named_parameters(), *model.named_buffers())}
    tracer = Tracer(image, names, origins_of_results)
    found: dict[Layer, _Seen] = {}

    def see(layer: Layer, a: Tensor) -> None:
        if a.is_floating_point() and a.dim() > 1 and layer not in found:
            with tracer.paused():
                values = a[0].flatten()
                values = values if values.dtype == torch.float64 else values.float()
                some = values[:: max(len(values) // SOME, 1)].tolist()
                sums = values.sum().item(), values.abs().sum().item()
                found[layer] = _Seen(tuple(a.shape), sums, tuple(some), tracer.of(a) if follow else None)

    with (
        watching(model, dict(model.named_modules()), see),
        evaluating(model, x.device),
        ExitStack() as stack,
    ):
        torch.manual_seed(seed)
        if follow:
            stack.enter_context(_naming(model, tracer))
            stack.enter_context(tracer)
        forward(image)
    return found, tuple(tracer.read)


@contextmanager
def _naming(model: nn.Module, tracer: Tracer) -> Iterator[None]:
    """While the body runs, tell the tracer which module runs; and none of them as a single fused operation."""
    fused = torch.backends.mha.get_fastpath_enabled()
    running: list[str] = []

    def begin(name: str, *_: object) -> None:
        running.append(name)
        tracer.module = name

    def end(*_: object) -> None:
        running.pop()
        tracer.module = running[-1] if running else ""

    with ExitStack() as hooks:
        torch.backends.mha.set_fastpath_enabled(False)
        hooks.callback(torch.backends.mha.set_fastpath_enabled, fused)
        for name, module in model.named_modules():
            hooks.enter_context(module.register_forward_pre_hook(partial(begin, name)))
            hooks.enter_context(module.register_forward_hook(end))
        yield


def _leaves(seen: Mapping[Layer, _Seen]) -> tuple[str, ...]:
    """The layers that compute: those that ran no other module, or return something else than any of these did."""
    found = []
    for layer, one in seen.items():
        inside = layer.module + "." if layer.module else ""
        inner = [two for other, two in seen.items() if other.module != layer.module and other.module.startswith(inside)]
        if not any(
            math.prod(two.shape) == math.prod(one.shape) and two.sums == one.sums and two.some == one.some
            for two in inner
        ):
            found.append(str(layer))
    return tuple(found)


def _geometry(layer: Layer, seen: _Seen, size: tuple[int, int], *, noisy: bool) -> LayerGeometry:
    shape, origin = seen.shape[1:], seen.origin
    if origin is None:
        return LayerGeometry(layer, shape, blind=True, noisy=noisy)
    along, facts = origin.along, origin.facts
    blind = all(bool((p[LOW] > p[HIGH]).all()) for p in along)
    sees_all = all(bool((p[LOW] <= 0).all() and (p[HIGH] >= n - 1).all()) for p, n in zip(along, size, strict=True))
    layout = None if facts.pairs else _layout(along, seen.shape, size, facts)
    if layout is None:
        flat = any(_places(p) for p in along)
        return LayerGeometry(layer, shape, None, None, sees_all, blind, flat, noisy, facts)
    y, x = (_axis(_line(p, layout, i), n, facts, i) for i, (p, n) in enumerate(zip(along, size, strict=True)))
    for i, axis in enumerate((y, x)):
        if axis.period and axis.period != facts.period[i]:  # of a view, which no operation has shown
            facts = replace(facts.along(i, period=axis.period), subsampling=layer.module or "the model")
    return LayerGeometry(layer, shape, Grid(y, x), layout, sees_all, blind, False, noisy, facts)


def _places(p: Along) -> list[int]:
    """The dimensions along which a value's pixel differs."""
    return [d for d in range(p.dim() - 1) if p.shape[d + 1] > 1 and _changes(p[AT], d)]


def _changes(at: Tensor, dim: int) -> bool:
    first = at.narrow(dim, 0, 1)
    return not bool(((at == first) | (at.isnan() & first.isnan())).all())


def _layout(along: Sequence[Along], shape: Sequence[int], size: tuple[int, int], facts: Facts) -> Layout | None:
    """Which dimensions hold rows and columns, if one each does, or one dimension both, row by row."""
    y, x = map(_main_dimension, along)
    if y is None and x is None:
        return _by_shape(shape, size) if facts.unknown else None
    if any(_has_more(p, n, (y, x)) for p, n in zip(along, size, strict=True)):
        return None
    if y == x and y is not None:
        return _tokens(y, _first_at(along[0], y), _first_at(along[1], y))
    y, x = _beside(x, -1, shape) if y is None else y, _beside(y, 1, shape) if x is None else x
    return None if y is None or x is None else Layout((y, x), (shape[y], shape[x]))


def _main_dimension(p: Along) -> int | None:
    """Along which positions go farthest."""
    return max(_places(p), key=lambda d: _apart(p[AT], d), default=None)


def _has_more(p: Along, size: int, known: Collection[int | None]) -> bool:
    """Whether positions, or windows, go far along some other dimension too."""
    others = (d for d in range(p.dim() - 1) if d not in known and p.shape[d + 1] > 1)
    return any(2 * _apart(p[:PAD], d + 1) >= size for d in others)


def _beside(dim: int | None, step: int, shape: Sequence[int]) -> int | None:
    """The next dimension, if a single position lies along it."""
    other = (dim or 0) + step
    return other if 0 < other < len(shape) and shape[other] == 1 else None


def _apart(values: Tensor, dim: int) -> float:
    """How far, at most, what lies along a dimension is apart: channels, if not far."""
    known = values.isfinite()
    high, low = (values.where(known, torch.full_like(values, end)) for end in (-math.inf, math.inf))
    apart = high.amax(dim) - low.amin(dim)
    return apart.amax().clamp(min=0).item()


def _first_at(p: Along, dim: int) -> Float[Tensor, " positions"]:
    """The pixels of the positions along a dimension; nan for none."""
    at = p[AT].movedim(dim, -1).flatten(0, -2).nan_to_num(math.inf).amin(0)
    return at.where(at.isfinite(), torch.full_like(at, math.nan))


def _by_shape(shape: Sequence[int], size: tuple[int, int]) -> Layout | None:
    """After an operation that is not known: as maps usually lie, if they have the image's proportion."""
    if len(shape) != 4 or min(shape[2:]) < 2 or abs(shape[2] * size[1] - shape[3] * size[0]) > max(size):
        return None
    return Layout((2, 3), (shape[2], shape[3]))


def _tokens(dim: int, y: Tensor, x: Tensor) -> Layout | None:
    """Positions in one dimension, row by row, behind tokens that stand at none."""
    prefix = int(y.isnan().sum())
    y, x = y[prefix:], x[prefix:]
    width = int((y != y[:1]).long().argmax())
    if y.isnan().any() or x.isnan().any() or width < 1 or len(y) % width:
        return None
    rows, columns = y.unflatten(0, (-1, width)), x.unflatten(0, (-1, width))
    regular = bool((rows == rows[:, :1]).all() and (columns == columns[:1]).all())
    regular = regular and bool((rows[:, 0].diff() > 0).all() and (columns[0].diff() > 0).all())
    return Layout((dim, dim), (len(rows), width), prefix) if regular else None


def _line(p: Along, layout: Layout, axis: int) -> Float[Tensor, "4 outputs"]:
    """What is known of the outputs along one axis, whatever their channel, and place along the other axis."""
    y, x = layout.dims
    if y == x:
        p = p.narrow(y + 1, layout.prefix, math.prod(layout.size)).unflatten(y + 1, layout.size)
        x = y + 1
    p = p.movedim((y, x)[axis] + 1, -1).flatten(1, -2).expand(-1, -1, layout.size[axis])
    at = p[AT].nan_to_num(math.inf).amin(0)
    return torch.stack([at, p[LOW].amin(0), p[HIGH].amax(0), p[PAD].amax(0)])


def _axis(line: Float[Tensor, "4 outputs"], size: int, facts: Facts, axis: int) -> Axis:
    outputs, pattern = line.shape[1], find_pattern(line)
    if pattern is None:
        pooled = outputs == 1 and facts.closed[axis] and not line[PAD].any()
        return Axis(size, outputs, None, None, range(0), circular=bool(pooled))
    low, high = line[LOW], line[HIGH]
    expected = _continued(line, pattern)
    regular = ((line[:PAD] == expected) | ((line[:PAD] - expected).abs() < 1e-3)).all(0)
    inside = regular & (low >= 0) & (high <= size - 1) & (line[PAD] == 0)
    circular = bool(regular.all()) and pattern.step * outputs == size and is_circle(line, size) and facts.closed[axis]
    widest = (high - low)[regular].max().item() + 1
    known = math.isfinite(widest)
    return Axis(
        size,
        outputs,
        pattern.step,
        math.lcm(facts.period[axis], pattern.distance),
        _longest_run(inside),
        receptive_field=int(widest) if known else None,
        offset=int(expected[LOW, 0]) if known else None,
        circular=circular,
    )


def _continued(line: Float[Tensor, "4 outputs"], pattern: Pattern) -> Float[Tensor, "3 outputs"]:
    """Where outputs stand and what they see, if all go on as those in the middle do."""
    outputs = line.shape[1]
    j, middle = torch.arange(outputs), outputs // 2
    alike = middle + (j - middle) % pattern.every
    alike = torch.where(alike >= outputs, alike - pattern.every, alike)
    return line[:PAD, alike] + (j - alike) / pattern.every * pattern.distance


def _longest_run(values: Bool[Tensor, " j"]) -> range:
    best, begin = range(0), 0
    for j, value in enumerate([*values.tolist(), False]):
        if not value:
            best, begin = max(best, range(begin, j), key=len), j + 1
    return best
