"""What each kind of operation makes of where values come from: pointwise, moved about, in windows, summed up.

An operation that is not known is taken to look at everything, and is named.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from lab.metering.origins import (
    AT,
    HIGH,
    LOW,
    PAD,
    PERIODS,
    Along,
    Call,
    Facts,
    Origin,
    extent,
    find_pattern,
    lcm,
    nothing,
    tight,
)

Taps = Int64[Tensor, "outputs taps"]  # along one dimension, which inputs each output looks at; also beyond both ends
MEAN, MAX = "mean_period", "max_period"
TIED = 1 - 1e-6  # ρ is a sum of squares in float64; weights that differ in their last bit of float32 pass


def origins_of_results(call: Call, results: Sequence[Tensor]) -> list[Origin | None]:
    """Where the results of an operation come from, if some of its arguments come from the image."""
    name = call.name.removesuffix("_")
    if name in CONSTANT or name.endswith("_like"):
        return [None] * len(results)
    pointwise = torch.Tag.pointwise in call.tags or ("other" in call.arguments and name in SUMMED)
    rule = _pointwise if pointwise else RULES.get(name, _everything)
    origin = rule(call)
    facts = _after(call, name, origin.facts)
    if not facts.mixing and any(_differ(p[AT]) and bool(p[LOW].isneginf().any()) for p in origin.along):
        facts = replace(facts, mixing=call.place)
    origin = replace(origin, facts=facts)
    first = results[0].shape
    return [origin if one.shape == first else _whole(one.dim(), facts) for one in results]


def _after(call: Call, name: str, facts: Facts) -> Facts:
    """After anything that is not linear, the mean over all positions is no simpler than the map; nor is the maximum."""
    linear = name in LINEAR or (name in PRODUCTS and sum(call.of(one) is not None for one in call.tensors) == 1)
    kept = name in MOVED or name in SUMMED or "pool" in name
    if not (kept or linear):
        facts = replace(facts, mean_period=lcm(facts.period, facts.mean_period))
    if not (kept or name in MONOTONE):
        facts = replace(facts, max_period=lcm(facts.period, facts.max_period))
    return facts


# ---- values that stand at the same place


def _pointwise(call: Call) -> Origin:
    tensors = [(one, call.of(one)) for one in (call.tensors[1:] if call.name == "copy_" else call.tensors)]
    dims = call.results[0].dim()
    origin = _joined([one for _, one in tensors if one], dims)
    for tensor, source in tensors:
        if source is None and tensor.numel() > 1:
            origin = _beside_constant(call, origin, tensor, dims)
    return origin


def _joined(origins: Sequence[Origin], dims: int) -> Origin:
    """Computed from all of them; of none, if something from the image is overwritten."""
    if not origins:
        return Origin((nothing(dims), nothing(dims)), Facts())
    along, facts = origins[0].along, origins[0].facts
    for one in origins[1:]:
        along = (_merged(along[0], one.along[0], dims), _merged(along[1], one.along[1], dims))
        facts = facts.joined(one.facts)
    return Origin((_broadcast(along[0], dims), _broadcast(along[1], dims)), facts)


def _together(call: Call) -> Origin:
    """Computed from all arguments."""
    return _joined(call.sources, max(tensor.dim() for tensor in call.tensors))


def _broadcast(p: Along, dims: int) -> Along:
    return p.reshape(4, *[1] * (dims + 1 - p.dim()), *p.shape[1:])


def _merged(p: Along, q: Along, dims: int) -> Along:
    """At the first one's pixel, if it has one, and computed from what both are."""
    p, q = torch.broadcast_tensors(_broadcast(p, dims), _broadcast(q, dims))
    at = torch.where(p[AT].isnan(), q[AT], p[AT])
    low, high, pad = torch.minimum(p[LOW], q[LOW]), torch.maximum(p[HIGH], q[HIGH]), torch.maximum(p[PAD], q[PAD])
    return torch.stack([at, low, high, pad])


def _beside_constant(call: Call, origin: Origin, constant: Tensor, dims: int) -> Origin:
    """Constants that differ between positions mark them, unless they are the same again farther on: in each window."""
    facts, varies = origin.facts, _varying(constant, dims)
    for axis, p in enumerate(origin.along):
        places = {d for d in range(dims) if p.shape[d + 1] > 1}
        if not places & varies:
            continue
        lines = [p[AT].movedim(d, -1).flatten(0, -2)[0] for d in places - varies]
        distances = [_distance(at) for at in lines if 2 * extent(at) >= extent(p[AT])]  # not channels side by side
        if distances and all(distances):
            facts = _with_period(facts, axis, math.lcm(*distances))
        else:
            facts = facts.along(axis, positions=facts.positions[axis] or call.constant_name(constant))
            facts = replace(facts, everywhere=facts.everywhere or len(constant.unique()) > 2)
    return replace(origin, facts=facts)


def _varying(constant: Tensor, dims: int) -> set[int]:
    """The dimensions along which it differs, counted in a result of so many dimensions."""
    shown = constant.detach().reshape((1,) * (dims - constant.dim()) + tuple(constant.shape))
    return {d for d in range(dims) if bool((shown != shown.narrow(d, 0, 1)).any())}


def _distance(at: Tensor) -> int:
    """From one position to the next, in pixels; 0 if there is no next, or no whole number of pixels."""
    steps = at[~at.isnan()].unique().diff()
    distance = steps.min().item() if len(steps) else 0.0
    return int(distance) if distance == int(distance) else 0


def _with_period(facts: Facts, axis: int, distance: int, keeps: Collection[str] = ()) -> Facts:
    """Where the values are the same again after some pixels only."""
    new = {name: math.lcm(getattr(facts, name)[axis], distance) for name in PERIODS if name not in keeps}
    return facts.along(axis, **new)


def _folded(origin: Origin, call: Call, keeps: Collection[str] = ()) -> Origin:
    """With the distance after which positions repeat, where that is seen along a single dimension."""
    facts = origin.facts
    for axis, p in enumerate(origin.along):
        pattern = find_pattern(p.flatten(1)) if sum(size > 1 for size in p.shape[1:]) == 1 else None
        if pattern and facts.period[axis] % pattern.distance:
            facts = _with_period(facts, axis, pattern.distance, keeps)
            if "sharp" not in keeps:
                facts = replace(facts, subsampling=call.place)
    return replace(origin, facts=facts)


# ---- values that are put elsewhere


def _moved(call: Call) -> Origin:
    """The same operation moves where they come from."""
    origin = _together(call)
    chosen = any(call.of(tensor) and not tensor.is_floating_point() for tensor in call.tensors)
    if chosen:
        origin = replace(origin, facts=origin.facts.but(chosen=origin.facts.chosen or call.place))
    moved = origin.changed(lambda _, axis: tight(torch.stack([_again(call, axis, quantity) for quantity in range(4)])))
    return _folded(moved, call, keeps=["sharp"] if chosen else ())


def _patched(call: Call) -> Origin:
    """Some values are exchanged for others: the rest of the map stays as it was."""
    origin = call.of(call.tensors[0])
    if origin is None:
        return _everything(call)
    facts = _together(call).facts
    return replace(origin, facts=replace(facts, patched=facts.patched or call.place))


def _unfolded(call: Call) -> Origin:
    """The windows of each position, as channels; into padding, positions go on."""
    x, origin, padding = call.tensors[0], _first(call), call["padding"]
    for i, n in enumerate(padding):
        origin = _windows(origin, 2 + i, torch.arange(-n, x.shape[2 + i] + n)[:, None], call.size)
    size = [1, *x.shape[1:2], *(k + 2 * n for k, n in zip(x.shape[2:], padding, strict=True))]
    options = call["kernel_size"], call["dilation"], [0, 0], call["stride"]
    y, x = (tight(torch.stack([call.operation(one.expand(size).clone(), *options) for one in p])) for p in origin.along)
    return _folded(Origin((y, x), origin.facts), call)


def _cut(call: Call) -> Origin:
    """A triangle of zeros."""
    x = call.tensors[0]
    kept = call.operation(torch.ones(x.shape[-2:]), call["diagonal"])
    return _beside_constant(call, _first(call), kept, x.dim())


def _ordered(call: Call) -> Origin:
    """Sorted, added up, or halved along a dimension: known where that holds no positions."""
    origin, dim = _first(call), call["dim"] % call.tensors[0].dim()
    return origin if all(p.shape[dim + 1] == 1 for p in origin.along) else _everything(call)


def _again(call: Call, axis: int, quantity: int) -> Tensor:
    """The operation once more, with what is known of each value in place of the values."""

    def known(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [known(one) for one in value]
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value.cpu() if isinstance(value, Tensor) else value  # an index
        origin = call.of(value)
        p = origin.along[axis] if origin else nothing(value.dim())
        return p[quantity].expand(value.shape).clone()

    result: Tensor = call.operation(**{name: known(value) for name, value in call.arguments.items()})
    return result


def _catenated(call: Call) -> Origin:
    tensors = [tensor for tensor in call["tensors"] if tensor.numel()]
    dim, dims = call["dim"] % tensors[0].dim(), tensors[0].dim()
    sources = [call.of(tensor) for tensor in tensors]
    sizes = [tensor.shape[dim] for tensor in tensors]

    def joined(axis: int) -> Along:
        return _side_by_side([one.along[axis] if one else nothing(dims) for one in sources], sizes, dim + 1)

    return _folded(Origin((joined(0), joined(1)), _facts_of_parts(call, tensors, dim)), call)


def _facts_of_parts(call: Call, tensors: Sequence[Tensor], dim: int) -> Facts:
    """What is true of tensors side by side; some of them may be constants, such as coordinates as channels."""
    image = next(one for one in map(call.of, tensors) if one)
    found = image
    for tensor in tensors:
        if source := call.of(tensor):
            found = replace(found, facts=found.facts.joined(source.facts))
        elif not any(_spans(p[AT], dim) for p in image.along):  # else they are padding
            found = _beside_constant(call, found, tensor, tensor.dim())
    return found.facts


def _side_by_side(parts: Sequence[Along], sizes: Sequence[int], dim: int) -> Along:
    first = parts[0]
    if first.shape[dim] == 1 and all(p.shape == first.shape and bool(_same(p, first).all()) for p in parts):
        return first
    shape = [max(one) for one in zip(*(p.shape for p in parts), strict=True)]
    wide = [p.expand(*shape[:dim], size, *shape[dim + 1 :]) for p, size in zip(parts, sizes, strict=True)]
    return tight(torch.cat(wide, dim))


def _same(p: Tensor, q: Tensor) -> Tensor:
    return (p == q) | (p.isnan() & q.isnan())


# ---- windows


def window_taps(outputs: int, kernel: int, stride: int, padding: int, dilation: int = 1) -> Taps:
    """The inputs of each output of a convolution or a pooling."""
    return torch.arange(outputs)[:, None] * stride - padding + torch.arange(kernel) * dilation


def _transposed_taps(outputs: int, kernel: int, stride: int, padding: int, dilation: int = 1) -> Taps:
    """The inputs that come to each output; where none does, the nearest."""
    place = torch.arange(outputs)[:, None] + padding - torch.arange(kernel) * dilation
    lands = place % stride == 0
    inputs = place.div(stride, rounding_mode="floor")
    some = inputs.masked_fill(~lands, int(inputs.min()) - 1).amax(1, keepdim=True)
    return torch.where(lands, inputs, torch.where(lands.any(1, keepdim=True), some, inputs[:, :1]))


def _adaptive_taps(inputs: int, outputs: int) -> Taps:
    windows = [range(j * inputs // outputs, -(-(j + 1) * inputs // outputs)) for j in range(outputs)]
    widest = max(map(len, windows))
    return torch.tensor([[min(window.start + i, window.stop - 1) for i in range(widest)] for window in windows])


def _sources(name: str, inputs: int, outputs: int, scale: float, corners: bool) -> Float[Tensor, " outputs"]:
    """Where among the inputs each output of an interpolation lies."""
    j = torch.arange(outputs, dtype=torch.float64)
    if "nearest" in name:
        return (j + 0.5) / scale if "exact" in name else j / scale
    return j * (inputs - 1) / max(outputs - 1, 1) if corners else (j + 0.5) / scale - 0.5


def _interpolation_taps(name: str, source: Float[Tensor, " outputs"], inputs: int, scale: float) -> Taps:
    """The inputs that an output lies between; one alone, if it lies on that."""
    before = (source + 1e-9).floor().long()[:, None]
    if "nearest" in name:
        return before.clamp(max=inputs - 1)
    more = 1 if "cubic" in name else 0
    if "_aa" in name:
        more = math.ceil((more + 1) / min(scale, 1)) - 1
    on = ((source[:, None] - before).abs() < 1e-9) & ("_aa" not in name)
    return torch.where(on, before, before + torch.arange(-more, more + 2))


def _windows(origin: Origin, dim: int, taps: Taps, size: Sequence[int]) -> Origin:
    """Each output along a dimension is computed from some inputs, also such as lie beyond the ends."""

    def seen(p: Along, axis: int) -> Along:
        if p.shape[dim + 1] == 1:
            return p
        p = tight(_taken(_counted_on(p, dim + 1, size[axis]), dim + 1, taps))
        return p if len(taps) > 1 else torch.cat([torch.full_like(p[:1], math.nan), p[1:]])  # no positions are left

    return origin.changed(seen)


def _counted_on(p: Along, dim: int, size: int) -> Along:
    """Where positions jump back to the other side of the image, as in circular padding, they are counted on instead."""
    step = p[AT].movedim(dim - 1, -1).diff().nan_to_num(0)
    turns = (step <= -size / 2).long().cumsum(-1)
    if not turns.any():
        return p
    turns = torch.nn.functional.pad(turns, (1, 0))
    turns = (turns - turns[..., turns.shape[-1] // 2, None]).movedim(-1, dim - 1) * size
    return torch.stack([p[AT] + turns, p[LOW] + turns, p[HIGH] + turns, p[PAD]])


def _taken(p: Along, dim: int, taps: Taps) -> Along:
    """The inputs that each output takes, put together; beyond the ends positions go on as inside, in padding."""
    n, shape = p.shape[dim], [1] * p.dim()
    shape[dim - 1], shape[dim] = taps.shape
    lines = p.movedim(dim, 1).flatten(2)
    pattern = find_pattern(lines[:, :, int(lines[AT].isfinite().sum(0).argmax())])
    every, distance = (pattern.every, pattern.distance) if pattern else (1, 0)
    turns = torch.where(taps < 0, taps // every, torch.where(taps >= n, (taps - n) // every + 1, 0))
    inside = (taps - turns * every).clamp(0, n - 1)
    q = p.index_select(dim, inside.flatten()).unflatten(dim, taps.shape)
    beyond, outside = (turns * distance).reshape(shape), ((taps < 0) | (taps >= n)).reshape(shape)
    low, high = (q[LOW] + beyond).amin(dim), (q[HIGH] + beyond).amax(dim)
    return torch.stack([_middle(q[AT] + beyond, [dim]), low, high, q[PAD].maximum(outside.float()).amax(dim)])


def _middle(at: Tensor, dims: list[int], *, keepdim: bool = False) -> Tensor:
    """Halfway between the first and the last; nan if there is none."""
    low = at.nan_to_num(math.inf).amin(dims, keepdim=keepdim)
    return (low + at.nan_to_num(-math.inf).amax(dims, keepdim=keepdim)) / 2  # inf − inf is nan


def _convolved(call: Call) -> Origin:
    x, weight, out = call["input"], call["weight"], call.results[0]
    if (before := call.of(x)) is None:
        return _everything(call)
    n, make = weight.dim() - 2, _transposed_taps if call["transposed"] else window_taps
    stride, padding, dilation = (_numbers(call, name, n) or [] for name in ("stride", "padding", "dilation"))
    origin = _over(before, [1], call.size)
    if kernels := call.of(weight):  # which the image has made
        whole = _over(kernels, range(weight.dim()), call.size)
        origin = _joined([origin, _whole(x.dim(), whole.facts)], x.dim())
    for i in range(n):
        taps = make(out.shape[2 + i], weight.shape[2 + i], stride[i], padding[i], dilation[i])
        origin = _windows(origin, 2 + i, taps, call.size)
    if any(_lost(before, origin)):
        return replace(origin, facts=_head(call, before, origin, _ties_of_kernel(weight, x), range(1, x.dim())))
    if max(stride) == 1 or call["transposed"]:
        return _folded(origin, call)
    blurs = is_blur(*call.arguments.values())
    found = _folded(origin, call, keeps=["sharp"] if blurs else ())
    facts = replace(found.facts, blurred=call.place) if blurs else found.facts
    return replace(found, facts=replace(facts, mean_period=facts.period))


def is_blur(
    _x: Tensor, weight: Tensor, _bias: object, stride: Sequence[int], _padding: object, _dilation: object, *last: Any
) -> bool:
    """Whether a convolution, of these arguments, blurs at a stride: the same kernel in all channels, none below 0."""
    transposed, _, groups = last
    kernels = weight.detach().flatten(1)
    alike = groups == len(weight) and weight.shape[1] == 1 and bool((kernels == kernels[:1]).all())
    several = bool((kernels >= 0).all()) and int((kernels[0] > 0).sum()) > 1
    return max(stride) > 1 and not transposed and alike and several


def _pooled(call: Call) -> Origin:
    x, origin = call.tensors[0], _first(call)
    kind = MEAN if "avg" in call.name else MAX
    taps, tiles = _pool_taps(call)
    for d, one in enumerate(taps, x.dim() - len(taps)):
        whole = one.tolist() == [list(range(x.shape[d]))]
        origin = _over(origin, [d], call.size, kind) if whole else _windows(origin, d, one, call.size)
    found = _folded(origin, call, keeps=[kind] if tiles else ())
    if not any(_differ(p[AT]) for p in found.along):
        return found
    others = {MEAN, MAX} - ({kind} if tiles else set())
    return replace(found, facts=found.facts.but(**dict.fromkeys(others, found.facts.period)))


def _pool_taps(call: Call) -> tuple[list[Taps], bool]:
    """The inputs of each output along each dimension; and whether windows lie side by side."""
    n = int(next(letter for letter in call.name if letter.isdigit()))
    sizes = list(zip(call.tensors[0].shape[-n:], call.results[0].shape[-n:], strict=True))
    kernel = _numbers(call, "kernel_size", n)
    if kernel is None:
        return [_adaptive_taps(*size) for size in sizes], False
    stride, padding = _numbers(call, "stride", n) or kernel, _numbers(call, "padding", n) or [0] * n
    dilation = _numbers(call, "dilation", n) or [1] * n
    windows = zip(sizes, kernel, stride, padding, dilation, strict=True)
    return [window_taps(outputs, *how) for (_, outputs), *how in windows], kernel == stride and not any(padding)


def _numbers(call: Call, name: str, n: int) -> list[int] | None:
    value = call.arguments.get(name)
    if value is None or value == []:
        return None
    value = [value] if isinstance(value, int) else list(value)
    return value * n if len(value) == 1 else value


def _shifted(origin: Origin, dim: int, by: Float[Tensor, " outputs"], inputs: Origin) -> Origin:
    """Each output along a dimension stands somewhat beside the middle of its window; in inputs."""
    parts = []
    for p, q in zip(origin.along, inputs.along, strict=True):
        if p.shape[dim + 1] > 1 and (pattern := find_pattern(q.movedim(dim + 1, 1).flatten(2)[:, :, 0])):
            beside = (by * float(pattern.step)).float().reshape(-1, *[1] * (p.dim() - dim - 2))
            p = torch.stack([p[AT] + beside, *p[1:]])
        parts.append(p)
    return replace(origin, along=(parts[0], parts[1]))


def _padded(call: Call) -> Origin:
    x, origin = call.tensors[0], _first(call)
    pads = call["pad"] if "pad" in call.arguments else call["padding"]
    for i, (before, after) in enumerate(zip(pads[::2], pads[1::2], strict=True)):
        dim = x.dim() - 1 - i
        if max(before, after) > 0 and all(p.shape[dim + 1] > 1 for p in origin.along):
            origin = _with_tokens(origin, dim + 1, before, after)
        elif before or after:
            origin = _windows(origin, dim, torch.arange(-before, x.shape[dim] + after)[:, None], call.size)
    return _folded(origin, call)


def _with_tokens(origin: Origin, dim: int, before: int, after: int) -> Origin:
    """More tokens, which stand at no pixel, such as a class token."""

    def wider(p: Along, _: int) -> Along:
        no = nothing(p.dim() - 1)
        return _side_by_side([no, p, no], [before, p.shape[dim], after], dim)

    return origin.changed(wider)


def _upsampled(call: Call) -> Origin:
    x, out, origin = call.tensors[0], call.results[0], _first(call)
    names = {3: ["scales"], 4: ["scales_h", "scales_w"], 5: ["scales_d", "scales_h", "scales_w"]}[x.dim()]
    for dim, name in enumerate(names, 2):
        scale = call.arguments.get(name) or out.shape[dim] / x.shape[dim]
        corners = bool(call.arguments.get("align_corners"))
        source = _sources(call.name, x.shape[dim], out.shape[dim], scale, corners)
        taps = _interpolation_taps(call.name, source, x.shape[dim], scale)
        found = _windows(origin, dim, taps, call.size)
        nearest = "nearest" in call.name  # which stands where its input does
        origin = found if nearest else _shifted(found, dim, source - taps.double().mean(1), origin)
    return _folded(origin, call)


# ---- sums


def _over(origin: Origin, dims: Collection[int], size: Sequence[int], kind: str = "period") -> Origin:
    """Summed up over dimensions, which stay with size 1; `kind` is the period that counts, if all are summed up."""
    facts, parts = origin.facts, []
    for axis, (p, n) in enumerate(zip(origin.along, size, strict=True)):
        where = [d for d in dims if p.shape[d + 1] > 1]
        if where:
            at, low = _middle(p[AT], where, keepdim=True), p[LOW].amin(where, keepdim=True)
            high, pad = p[HIGH].amax(where, keepdim=True), p[PAD].amax(where, keepdim=True)
            if _is_lost(p[AT], at):
                at = torch.full_like(at, math.nan)
                facts = _summed_up(facts, axis, p, n, kind)
            if not (_differ(low) or _differ(high)) and bool((low <= 0).all() and (high >= n - 1).all()):
                low, high = torch.full_like(low, -math.inf), torch.full_like(high, math.inf)
            p = tight(torch.stack([at, low, high, pad]))
        parts.append(p)
    return Origin((parts[0], parts[1]), facts)


def _differ(values: Tensor) -> bool:
    """Whether there are several different ones."""
    known = values[~values.isnan()]
    return bool((known != known[:1]).any())


def _lost(before: Origin, after: Origin) -> tuple[bool, bool]:
    """Whether there were positions, along rows and along columns, and are none."""
    y, x = (_differ(p[AT]) and not _differ(q[AT]) for p, q in zip(before.along, after.along, strict=True))
    return y, x


def _is_lost(before: Tensor, after: Tensor) -> bool:
    """Whether what is left of positions, such as those of channels beside each other, is not a map any more."""
    return 2 * extent(after) < extent(before)


def _summed_up(facts: Facts, axis: int, p: Along, n: int, kind: str) -> Facts:
    """Nothing is left of the positions along an axis."""
    distance = _distance(p[AT])  # of a view, perhaps, that no operation has shown yet
    if distance and facts.period[axis] % distance:
        facts = _with_period(facts, axis, distance)
    closed, period = facts.closed[axis] and is_circle(p, n), getattr(facts, kind)[axis]
    sharp = math.gcd(facts.sharp[axis], period)
    return facts.along(axis, closed=closed, sharp=sharp, period=period, mean_period=period, max_period=period)


def is_circle(p: Along, size: int) -> bool:
    """Whether positions, and what is seen from them, repeat all around the image, and no padding enters."""
    known = ~p[AT].isnan()
    place = p[AT] % size
    at = place[known].unique()
    if not len(at) or bool(p[PAD].any()):
        return False
    steps = torch.cat([at.diff(), at[:1] + size - at[-1:]]).tolist()
    before, after = p[AT] - p[LOW], p[HIGH] - p[AT]
    seen = [sorted(zip(before[place == a].tolist(), after[place == a].tolist(), strict=True)) for a in at]
    turn = list(zip((round(step, 3) for step in steps), seen, strict=True))
    repeats = (every for every in range(1, len(turn) // 2 + 1) if len(turn) % every == 0)
    return len(turn) == 1 or any(turn == turn[every:] + turn[:every] for every in repeats)


def _summed(call: Call) -> Origin:
    first = next(tensor for tensor in call.tensors if call.of(tensor))
    chosen = call.arguments.get("dim")
    dims = [chosen] if isinstance(chosen, int) else list(chosen or range(first.dim()))
    dims = sorted(d % max(first.dim(), 1) for d in dims)
    kind = MEAN if call.name in ("mean", "sum") else MAX if call.name in ("amax", "max") else "period"
    origin = _over(_first(call), dims, call.size, kind)
    if call.results[0].dim() < first.dim():
        y, x = origin.along
        for d in reversed(dims):
            y, x = y.select(d + 1, 0), x.select(d + 1, 0)
        origin = replace(origin, along=(y, x))
    return _folded(origin, call)


def _spread(call: Call) -> Origin:
    """Softmax and normalisation: each value depends on all others along some dimensions, and stays where it is."""
    first = call.tensors[0]
    if "layer_norm" in call.name:
        dims = range(first.dim() - len(call["normalized_shape"]), first.dim())
    elif "group_norm" in call.name:
        dims = range(1, first.dim())
    else:
        dims = range(call["dim"] % first.dim(), call["dim"] % first.dim() + 1)
    origin = _spread_over(call, _first(call), dims)
    for weight in call.tensors[1:] if "layer_norm" in call.name else ():
        origin = _beside_constant(call, origin, weight, first.dim())
    return origin


def _spread_over(call: Call, origin: Origin, dims: Collection[int]) -> Origin:
    summed, n = _over(origin, dims, call.size), call.results[0].dim()
    y, x = (tight(_merged(p, q, n)) for p, q in zip(origin.along, summed.along, strict=True))
    facts = replace(summed.facts, **{name: getattr(origin.facts, name) for name in PERIODS})
    return _folded(Origin((y, x), facts), call)


def _normalized(call: Call) -> Origin:
    """Batch normalisation: a scale and an offset for each channel, or with the batch's own mean and deviation."""
    origin = _first(call)
    if not call.arguments.get("training") and call.arguments.get("running_mean") is not None:
        return origin
    return _spread_over(call, origin, [d for d in range(call.tensors[0].dim()) if d != 1])


# ---- products


def _multiplied(call: Call) -> Origin:
    """Rows of the first with columns of the second matrix, summed up over what they share."""
    a, b = (next(call[name] for name in names if name in call.arguments) for names in FACTORS)
    dims, left, right = a.dim(), call.of(a), call.of(b)
    if left and right:
        rows, columns = _over(left, [dims - 1], call.size), _over(right, [dims - 2], call.size)
        both = zip(rows.along, columns.along, strict=True)
        pairs = any(_spans(p[AT], dims - 2) and _spans(q[AT], dims - 1) for p, q in both)
        found = _joined([rows, columns], dims)
        found = replace(found, facts=found.facts.repeating(left.facts, right.facts).but(pairs=pairs))
    elif left:
        found = _weighed(call, left, b, dims - 1)
    elif right:
        found = _weighed(call, right, a.mT, dims - 2)
    else:
        return _everything(call)
    added = call.of(call["self"]) if "add" in call.name else None
    return _folded(_joined([found, added], dims) if added else found, call)


def _spans(at: Tensor, dim: int) -> bool:
    """Whether a dimension holds the whole map's positions, not those of a window or of none."""
    if at.shape[dim] == 1:
        return False
    return 2 * extent(at.movedim(dim, -1).flatten(0, -2)[0]) >= extent(at) > 0


def _weighed(call: Call, origin: Origin, weight: Tensor, shared: int) -> Origin:
    """A product with constant weights."""
    summed = _over(origin, [shared], call.size)
    if not any(_lost(origin, summed)):
        return summed
    return replace(summed, facts=_head(call, origin, summed, _ties(origin, weight, shared), [shared]))


def _head(call: Call, before: Origin, after: Origin, ties: float, dims: Collection[int]) -> Facts:
    """Each position is weighed by itself; where all weights are equal, that is a mean."""
    facts = _over(before, dims, call.size, MEAN).facts if ties >= TIED else before.facts
    (y, x), known = _lost(before, after), facts.weighed
    facts = replace(facts, weighed=(known[0] or y, known[1] or x))
    if facts.head and not facts.ties > ties:
        return facts
    return replace(facts, head=call.place, ties=ties)


def _ties_of_kernel(weight: Tensor, x: Tensor) -> float:
    """ρ of a convolution with one output; nan where it does not take all of the map."""
    return tied_share(weight.flatten(2).transpose(1, 2)) if weight.shape[1:] == x.shape[1:] else math.nan


def _ties(origin: Origin, weight: Float[Tensor, "*batch k out"], shared: int) -> float:
    """ρ of the weights for one position after another; nan where positions have not as many channels each."""
    k = weight.shape[-2]
    places = [p[AT].movedim(shared, -1).reshape(-1, p.shape[shared + 1])[0].expand(k) for p in origin.along]
    _, place, counts = torch.stack(places).nan_to_num(0).unique(dim=1, return_inverse=True, return_counts=True)
    if counts.min() != counts.max():
        return math.nan
    ordered = weight.reshape(-1, k, weight.shape[-1])[0][place.argsort(stable=True)]
    return tied_share(ordered.reshape(len(counts), int(counts[0]), -1).permute(2, 0, 1))


def tied_share(weight: Float[Tensor, "out positions channels"]) -> float:
    """ρ = ‖Π W‖² / ‖W‖², where Π averages the weights of each channel over the positions.

    Returns:
        Between 0 and 1. 1 = equal at all positions, invariant by construction; 1 / positions = random weights;
        nan = all weights are 0.
    """
    weight = weight.detach().double()
    return (weight.mean(1).square().sum() * weight.shape[1] / weight.square().sum()).item()


def _attended(call: Call) -> Origin:
    """Attention in one operation: each query, with all keys and values."""
    query, key, value = (call.of(call[name]) for name in ("query", "key", "value"))
    if not (query and key and value):
        return _everything(call)
    dims = call["query"].dim()
    summed = [_over(one, [dims - 2, dims - 1], call.size) for one in (key, value)]
    found = _joined([_over(query, [dims - 1], call.size), *summed], dims)
    found = replace(found, facts=found.facts.repeating(query.facts, key.facts, value.facts))
    mask = call.arguments.get("attn_bias", call.arguments.get("attn_mask"))
    if mask is not None and call.of(mask) is None:
        found = _beside_constant(call, found, mask, dims)
    return _folded(found, call)


def _first(call: Call) -> Origin:
    """Where the first argument that is not a constant comes from."""
    return call.sources[0]


def _everything(call: Call) -> Origin:
    """An operation that is not known."""
    facts = _together(call).facts
    return _whole(call.results[0].dim(), replace(facts, unknown=facts.unknown or call.full_name))


def _whole(dims: int, facts: Facts) -> Origin:
    """At no pixel, and computed from all of them."""
    everything = torch.tensor([math.nan, -math.inf, math.inf, 1.0]).reshape(4, *[1] * dims)
    return Origin((everything, everything), facts)


FACTORS = ("mat1", "batch1", "self"), ("mat2", "batch2")
LINEAR = {"add", "sub", "neg", "clone", "_to_copy", "native_batch_norm", "copy", "cat"}
PRODUCTS = {"mul", "div", "convolution", "mm", "addmm", "bmm", "baddbmm"}  # linear in one of their factors
MONOTONE = {"relu", "clone", "_to_copy", "copy", "cat"}  # the largest stays the largest
CONSTANT = {"new_zeros", "new_ones", "new_empty", "new_full", "new_empty_strided", "fill", "zero"}
POINTWISE = ["_to_copy", "log_sigmoid_forward", "_prelu_kernel", "rrelu_with_noise", "complex", "polar", "hardswish"]
POINTWISE += ["hardtanh", "leaky_relu", "elu", "gelu", "native_dropout", "copy", "where", "prelu"]
MOVED = ["roll", "flip", "index_select", "gather", "index", "repeat", "repeat_interleave", "take_along_dim"]
MOVED += ["pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "stack"]
ORDERED = ["glu", "sort", "topk", "cumsum", "cumprod", "cummax", "cummin", "logcumsumexp"]
PATCHES = ["index_put", "scatter", "scatter_add", "index_fill", "index_copy", "masked_scatter", "slice_scatter"]
PATCHES += ["select_scatter", "_index_put_impl"]
SUMMED = ["mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "std_mean", "linalg_vector_norm"]
SUMMED += ["prod", "logsumexp", "argmax", "argmin", "any", "all", "norm", "median"]
SPREAD = ["_softmax", "_log_softmax", "_safe_softmax", "native_layer_norm", "native_group_norm"]
PADS = ["constant_pad_nd", *(f"{kind}_pad{n}d" for kind in ("reflection", "replication") for n in (1, 2, 3))]
POOLS = ["avg_pool", "_adaptive_avg_pool", "adaptive_max_pool", "max_pool"]
UPSAMPLINGS = ["nearest1d", "nearest2d", "nearest3d", "linear1d", "bilinear2d", "bicubic2d", "trilinear3d"]
NORMS = ["native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"]
NORMS += ["_batch_norm_with_update", "_batch_norm_no_update", "miopen_batch_norm"]
ATTENTION = ["flash_attention", "flash_attention_for_cpu", "efficient_attention", "cudnn_attention"]
RULES: dict[str, Callable[[Call], Origin]] = {
    "cat": _catenated,
    "convolution": _convolved,
    "im2col": _unfolded,
    "tril": _cut,
    "triu": _cut,
    **dict.fromkeys(ORDERED, _ordered),
    **dict.fromkeys(POINTWISE, _pointwise),
    **dict.fromkeys(MOVED, _moved),
    **dict.fromkeys(PATCHES, _patched),
    **dict.fromkeys(SUMMED, _summed),
    **dict.fromkeys(SPREAD, _spread),
    **dict.fromkeys(PADS, _padded),
    **dict.fromkeys(NORMS, _normalized),
    **dict.fromkeys(["mm", "addmm", "bmm", "baddbmm"], _multiplied),
    **dict.fromkeys(
        [f"{kind}{n}d{end}" for kind in POOLS for n in (1, 2, 3) for end in ("", "_with_indices")], _pooled
    ),
    **dict.fromkeys([f"upsample_{kind}" for kind in UPSAMPLINGS], _upsampled),
    **dict.fromkeys([f"_upsample_{kind}_aa" for kind in ("bilinear2d", "bicubic2d")], _upsampled),
    **dict.fromkeys([f"_upsample_nearest_exact{n}d" for n in (1, 2, 3)], _upsampled),
    **dict.fromkeys([f"_scaled_dot_product_{kind}" for kind in ATTENTION], _attended),
}
