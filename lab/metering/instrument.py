"""Point it at any `nn.Module`: which layers are equivariant or invariant to translation, where not, and why.

For each layer and shift the error is split: made where windows lie inside the image (the interior), made where they
reach beyond it (the border), made because the stride does not divide the shift. Memory is bounded by a batch.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from lab.checkpoints import restored
from lab.errors import EquivarianceError, InputError, check_images, failures, require
from lab.metering.inputs import as_images, check_model
from lab.metering.measuring import STILL, Key, Measured, Task, measure_layers, takes_channels_last, unblurred
from lab.metering.receptive_fields import LayerGeometry, Layers, Trace, trace_network
from lab.metering.report import OVERALL, ClassAgreement, Observation, Report, Row, receptive_field
from lab.metering.theory import Prediction, expect, has_interior
from lab.metrics import Quantity, Shift, cohen_kappa, consistency
from lab.observing import Forward, Layer, outputs
from lab.shifting import Mode, ink_margins, shift

# relative: what arithmetic may do to an exact layer; of coarser types four roundings, an empirical bound
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
COARSE = 4
ONE_IN = 16  # of many images, controls and sorted activations are taken of one in 16: sorting takes time
SMALL = 1e-4  # 10 × rounding: below it, and wherever theory says exact, float64 tells rounding from breakage


def meter(
    model: nn.Module,
    images: Float[Tensor, "n c h w"],
    shifts: Sequence[Shift] | None = None,
    *,
    mode: Mode = "background",
    background: float = 0.0,
    layers: Sequence[str] | None = None,
    quantities: Collection[Quantity] = get_args(Quantity),
    seed: int = 0,
    forward: Forward | None = None,
    progress: bool = False,
) -> Report:
    """Measure what translation of the images does to each layer, and set it against what theory predicts.

    Controls and sorted activations are taken of a part of the images, at least two: of a quarter of up to 16, of four
    of up to 64, of one in 16 of more.

    Args:
        model: anything that takes `images`. It runs in evaluation mode, and is left as it was, bit for bit.
        images: as the model takes them (normalised, if it was trained so), on its device and of its type; also an
            array, or a list. A single one has errors, but no controls.
        shifts: `(dy, dx)` in input pixels; by default (1, -1), (2, -2), (4, -4), ... up to a quarter of
            the image: down and to the left, because padding need not be the same on both sides.
        mode: what enters the frame: the background, or what left on the other side.
        background: the value of background pixels; `lab.data.BACKGROUND` for normalised MNIST.
        layers: as in [`activations`][lab.observing.activations]. By default every layer that computes: one that runs no
            other layer, such as a convolution, or that returns something else than the layers in it.
        quantities: any of `"equivariance"`, `"invariance"`, `"sorting"`.
        seed: of which images count as unrelated.
        forward: runs the model on images, if it needs other inputs too: `lambda x: model(x, time)`.
        progress: show a bar on standard error, if that is a terminal.

    Raises:
        InputError: bad images, shifts or layers; a model that cannot take the images, or returns NaN; no layer that
            keeps positions.

    Source:
        The split of the error follows from the geometry of `lab.metering.receptive_fields`; the
        definitions are those of `lab.metrics`.

    Examples:
        >>> import torch, lab
        >>> images = torch.rand(4, 1, 28, 28)
        >>> report = lab.meter(lab.build_model("given", seed=0), images, [(1, 0)])
        >>> row = report.of("conv1")[0]
        >>> row.theory, row.observed, row.interior < 1e-6 < row.wrong_shift
        ('exact', 'exact', True)
    """
    model, images = check_model(model), as_images(images)
    check_batch(model, images)
    _check_options(quantities, background, layers)
    images, shifts = images.detach(), _checked_shifts(images, shifts, mode)
    with restored(model):
        seen = _look_at(model, images[:1], layers, forward)
        geometry = _chosen(seen, layers)
        theory = {(name, t): expect(geometry[name], *t, wrap=mode == "wrap") for name in geometry for t in shifts}
        controls = max(2, min(len(images) // 4, 4), len(images) // ONE_IN)  # of few images, a quarter or 4
        task = Task(model, forward or model, images, shifts, geometry, mode, background, quantities, seed, controls)
        task = replace(task, classes=_class_scores(seen.layers), progress=progress)
        found, again, plain, scores = _measure(task, theory)
        notes = tuple(_notes(task, seen))
    rows = tuple(_row(key, theory[key], found[key], again.get(key), plain.get(key, math.nan), task) for key in theory)
    pairs = {t: (scores[STILL], scores[t]) for t in shifts if scores}
    agreement = tuple(ClassAgreement(*t, consistency(*pair), cohen_kappa(*pair)) for t, pair in pairs.items())
    return Report(rows, geometry, _heads(seen.layers), notes, _settings(task), agreement)


def _chosen(seen: Trace, layers: Sequence[str] | None) -> dict[str, LayerGeometry]:
    """The layers to measure."""
    names = seen.leaves if layers is None else [n for n, one in seen.layers.items() if one.layer.module in layers]
    geometry = {name: seen.layers[name] for name in names}
    moves = layers is not None or any(one.grid for one in geometry.values())
    require(moves, "no layer keeps positions, so that nothing can move: is the first one fully connected?")
    return geometry


def _class_scores(layers: Layers) -> Layer | None:
    """The network's own output, if that is a vector."""
    found = (one.layer for one in layers.values() if not one.layer.module and len(one.shape) == 1 and one.shape[0] > 1)
    return next(found, None)


def _settings(task: Task) -> dict[str, Any]:
    dtype = str(task.images.dtype).removeprefix("torch.")
    images = {"images": len(task.images), "size": list(task.images.shape[1:]), "dtype": dtype}
    shifts = {"shifts": [list(t) for t in task.shifts], "mode": task.mode, "background": float(task.background)}
    how = {"quantities": sorted(task.quantities), "seed": task.seed}
    return {"model": type(task.model).__name__, **images, **shifts, **how}


def _measure(task: Task, theory: Mapping[Key, Prediction]) -> tuple[Any, ...]:
    """What was found of each layer under each shift; what float64, and no blur, make of it; and of the classes."""
    with failures(task.images.shape):
        task = replace(task, channels_last=takes_channels_last(task))
        found, scores = measure_layers(task)
    silent = next((name for name, t in theory if (name, t) not in found), None)
    require(silent is None, f"layer {silent!r} does not run on every batch: the network chooses by its input what runs")
    bounds = {key: math.inf if one.expectation == "exact" else SMALL for key, one in theory.items()}
    doubtful = {key: one for key, one in found.items() if 0 < one.error <= bounds[key]}
    return found, _in_float64(task, doubtful), _without_blur(task, theory), scores


def _without_blur(task: Task, theory: Mapping[Key, Prediction]) -> dict[Key, float]:
    """The same errors for the same network without blur: each stride takes the middle of its window."""
    if not (blurred := [key for key, one in theory.items() if one.expectation == "approximate"]):
        return {}
    with failures(task.images.shape), unblurred():
        found, _ = measure_layers(task.only(blurred))
    return {key: found[key].error for key in blurred}


def _heads(layers: Layers) -> dict[str, tuple[float, float]]:
    """Layer that weighs the positions of a map -> ρ of its weights, and what random weights give."""
    found = {}
    last = 1
    for name, one in layers.items():
        if one.facts.head == (one.layer.module or "the model") and not one.layer.place:
            found[name] = (one.facts.ties, 1 / last)
        last = math.prod(one.layout.size) if one.layout else last
    return found


def check_batch(model: nn.Module, images: Tensor) -> None:
    """Refuse images that the model cannot take, or on which nothing can be seen.

    Raises:
        InputError: another device, type or shape, NaN, or images that are constant or all the same.
    """
    devices = [tensor.device for tensor in (*model.parameters(), *model.buffers(), images)]
    elsewhere = next((device for device in devices if device != images.device), None)
    require(elsewhere is None, f"images must be on the model's device: {images.device}, {elsewhere}")
    check_images(images)
    shape = tuple(images.shape)
    require(images.dim() == 4, f"images must be n c h w, for a network of two dimensions: shape {shape}")
    types = [parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()]
    other = next((dtype for dtype in types if dtype != images.dtype), None)
    require(other is None, f"images must be of the model's type: {images.dtype}, {other}")
    same = len(images) > 1 and bool((images == images[:1]).all())
    require(not same, f"there must be at least two different images, or one: {len(images)} given, all the same")
    constant = bool((images == images[:, :, :1, :1]).all())
    require(not constant, "images must not be constant: translation does nothing to them")


def _check_options(quantities: Collection[Quantity], background: float, layers: Sequence[str] | None) -> None:
    known = quantities and set(quantities) <= set(get_args(Quantity))
    require(known, f"quantities must be a list of some of {', '.join(get_args(Quantity))}: {quantities!r}")
    require(math.isfinite(background), f"background must be finite: {background}")
    require(not isinstance(layers, str), f"layers must be a list of names: {layers!r}")


def _checked_shifts(images: Tensor, shifts: Sequence[Shift] | None, mode: Mode) -> list[Shift]:
    """The shifts, each once; by default powers of 2 up to a quarter of the image."""
    if shifts is None:
        shifts = [(2**k, -(2**k)) for k in range(max(min(images.shape[-2:]) // 4, 1).bit_length())]
    try:
        pairs = [(dy, dx) for dy, dx in shifts]
    except (TypeError, ValueError):
        raise InputError(f"shifts must be a list of pairs (dy, dx): {shifts!r}") from None
    for dy, dx in pairs:
        shift(images[:1], dy, dx, mode=mode)  # refuses what is no shift of these images
        require((dy, dx) == (int(dy), int(dx)), f"shifts must be whole numbers of pixels: {(dy, dx)}")
    require(pairs, "there must be at least one shift")
    return list(dict.fromkeys((int(dy), int(dx)) for dy, dx in pairs))


def _look_at(model: nn.Module, image: Tensor, layers: Sequence[str] | None, forward: Forward | None) -> Trace:
    """What every layer is; the model's own errors come up here, where it runs first."""
    if layers is not None:
        _check_layers(model, layers)
    with failures(image.shape):
        seen = trace_network(model, image, forward=forward)
    ran = {one.layer.module for one in seen.layers.values()}
    silent = ", ".join(name for name in layers or () if name not in ran)
    require(not silent, f"layer did not run, or returned no floating-point tensor: {silent}")
    return seen


def _check_layers(model: nn.Module, layers: Sequence[str]) -> None:
    known = dict(model.named_modules(remove_duplicate=False))
    first_names = {module: name for name, module in model.named_modules()}
    missing = ", ".join(repr(name) for name in layers if name not in known) if layers else "asked for"
    require(not missing, f"no layer {missing}: the model has {', '.join(filter(None, known))}")
    for name in layers:
        other = first_names[known[name]]
        require(name == other, f"layer {name!r} is the same module as {other!r}: ask for that")


def _in_float64(task: Task, found: Mapping[Key, Measured]) -> dict[Key, float]:
    """Measure errors again in float64, of the worst image and another; nothing if the model cannot run in float64."""
    if not found or task.images.dtype == torch.float64:
        return {}
    _, worst = max(found.values(), key=lambda one: one.error).worst
    different = (task.images != task.images[worst]).flatten(1).any(1)
    chosen = [worst, int(different.long().argmax())][: len(task.images)]
    again = replace(task.only(found), images=task.images[chosen].double(), channels_last=False, progress=False)
    try:
        forward = in_double(task.model, task.forward)
        measured, _ = measure_layers(replace(again, forward=forward, quantities=("equivariance", "invariance")))
    except InputError:  # the model fails: it has tensors of its own that are neither parameters nor buffers
        return {}
    return {key: measured[key].error for key in found if key in measured and not math.isnan(measured[key].error)}


class _Runner(nn.Module):
    """Runs a model on images as its user does, so that its tensors can be exchanged."""

    def __init__(self, model: nn.Module, forward: Forward) -> None:
        super().__init__()
        self.model, self.run = model, forward

    def forward(self, x: Tensor) -> object:
        """Run it."""
        return self.run(x)


def in_double(model: nn.Module, forward: Forward) -> Forward:
    """The same run of the model with its parameters and buffers in float64; its errors are those of the model."""
    runner, tensors = _Runner(model, forward), (*model.named_parameters(), *model.named_buffers())
    state = {f"model.{name}": t.detach().double() for name, t in tensors if t.is_floating_point()}

    def run(x: Tensor) -> object:
        with failures(x.shape):
            return functional_call(runner, state, (x,))

    return run


def _row(key: Key, theory: Prediction, found: Measured, again: float | None, plain: float, task: Task) -> Row:
    (layer, (dy, dx)), geometry = key, task.geometry[key[0]]
    observed = _observed(found, again, task, geometry)
    theory = _after(theory, observed, geometry.facts.read)
    worst, worst_image = found.worst
    inside, full = (part.sums[1].sum().item() for part in (found.interior, found.full))
    return Row(
        layer=layer,
        dy=dy,
        dx=dx,
        theory=theory.expectation,
        observed=observed,
        why=theory.why,
        certain=theory.certain,
        error=found.error,
        worst=worst,
        worst_image=worst_image,
        in_float64=again,
        interior_share=inside / full if full else math.nan,
        without_blur=plain,
        **{name: getattr(found, name).overall for name in OVERALL},
    )


def _after(theory: Prediction, observed: Observation, read: str) -> Prediction:
    """What theory says after an observation that it did not rule out, or cannot explain."""
    if theory.unless_blank and observed == "exact":
        return Prediction("untestable", f"{theory.why}; but no content is there")
    if theory.expectation != "exact" or observed != "not exact":
        return theory
    if read:
        return Prediction("untestable", f"{read} reads values of the image, on which what runs may depend")
    doubt = "the error is not explained: does the forward function do what theory does not know?"
    return Prediction("exact", f"{theory.why}; {doubt}")


def _observed(found: Measured, again: float | None, task: Task, layer: LayerGeometry) -> Observation:
    bound = tolerance(task.images.dtype, layer)
    alike = math.isnan(found.invariance.overall) and "invariance" in task.quantities and len(task.images) > 1
    if alike and not math.isinf(found.error):
        return "degenerate"
    if math.isnan(found.error):
        return "nothing" if math.isnan(found.worst[0]) else "degenerate"  # no output to compare; or all of them are 0
    if not (found.error <= bound if again is None else again <= TOLERANCE[torch.float64]):
        return "not exact"
    return "degenerate" if found.wrong_shift.overall <= bound else "exact"


def tolerance(dtype: torch.dtype, layer: LayerGeometry) -> float:
    """What rounding may do, in the coarsest of the types that a layer was computed in."""
    rounding = max(torch.finfo(dtype).eps, layer.facts.rounding)
    known = [bound for one, bound in TOLERANCE.items() if rounding <= torch.finfo(one).eps]
    return min(known, default=COARSE * rounding)


def _notes(task: Task, seen: Trace) -> Iterator[str]:
    """What to know of the size, the images and the background before reading the errors."""
    maps = {name: seen.layers[name] for name in seen.leaves if seen.layers[name].grid}
    yield from _size_notes(task, [one.facts.period for one in maps.values()])
    yield from _border_notes(maps, task)
    if seen.left_out:
        yield f"left out, because their first dimension is not the batch: {', '.join(seen.left_out)}"
    if seen.read:
        read = ", ".join(seen.read)
        yield f"{read} reads values of the image in its forward function: what runs, and where, may depend on them"
    if task.mode == "background":
        yield from _ink_notes(task)
        yield from _frame_notes(task, {name: one for name, one in maps.items() if not any(one.facts.positions)})


def _size_notes(task: Task, periods: Sequence[Shift]) -> Iterator[str]:
    for axis, letter in enumerate(("height", "width")):
        size, period = task.images.shape[2 + axis], max((one[axis] for one in periods), default=1)
        if size % period:
            fits = f"{letter} {size} supports a period of {math.gcd(size, period)}, not {period}"
            yield f"{fits}: outputs do not close a circle; use {-(-size // period) * period}"


def _border_notes(maps: Layers, task: Task) -> Iterator[str]:
    for name, one in maps.items():
        grid, wrap = one.grid, task.mode == "wrap"
        if grid and grid.step and not any(has_interior(grid, t, wrap=wrap) for t in task.shifts):
            sees = f"receptive field {receptive_field(grid)} px, image {grid.y.size}×{grid.x.size} px"
            yield f"from {name} on, no output is free of the border at any shift: {sees}"
            return


def _ink_notes(task: Task) -> Iterator[str]:
    ink = ((task.images - task.background).abs() > 1e-6).any(1, keepdim=True)  # normalising rounds the background
    edge = torch.cat([ink[..., 0, :], ink[..., -1, :], ink[..., :, 0], ink[..., :, -1]], -1).flatten(1).any(1)
    if edge.double().mean() > 0.5:
        yield f"most images reach the frame: every shift moves content out, and background {task.background:.3g} in"
        return
    room = ink_margins(ink.float())
    lost = [1 - room.fits(*t).double().mean().item() for t in task.shifts]
    if max(lost) > 0:
        dy, dx = task.shifts[lost.index(max(lost))]
        yield f"up to {max(lost):.0%} of the images lose ink at the frame (shift {dy}, {dx})"


def _frame_notes(task: Task, layers: Layers) -> Iterator[str]:
    """Whether padding shows in a blank image, and from which layer on."""
    blank = torch.full_like(task.images[:1], task.background)
    found = _maps(task.model, task.forward, torch.cat([blank, task.images[:1]]), layers)
    for name, layer in layers.items():
        assert layer.grid
        maps, (y, x) = found[name], (slice(a.interior.start, a.interior.stop) for a in (layer.grid.y, layer.grid.x))
        inside = maps[:1, :, y, x]
        if not inside.numel():
            return
        frame = (maps[0] - inside.mean((0, 2, 3))[:, None, None]).abs().max().item()
        largest = maps.abs().max().item()
        if frame > 1e-3 * largest:  # rounding is below 1e-5
            why = f"padding is not the background, {task.background:.3g}" if task.background else "biases"
            share = f"{frame / largest:.0%} of the largest activation"
            yield f"a blank image shows a frame of {share} from {name} on: {why}"
            return


def _maps(model: nn.Module, forward: Forward, x: Tensor, layers: Layers) -> dict[str, Tensor]:
    """What some layers return, as maps; unlike `activations`, whatever else their modules return."""
    modules = {layer.layer.module: model.get_submodule(layer.layer.module) for layer in layers.values()}
    with failures(x.shape):
        found = outputs(model, modules, x, forward=forward)
    return {name: layer.maps(found[layer.layer]) for name, layer in layers.items()}


def assert_equivariant(
    model: nn.Module,
    images: Float[Tensor, "n c h w"],
    *,
    layer: str,
    shifts: Sequence[Shift],
    mode: Mode = "background",
    background: float = 0.0,
    rtol: float = 1e-5,
    forward: Forward | None = None,
) -> None:
    """For your own tests: fail unless a layer is equivariant wherever no output sees beyond the image.

    Args:
        model: as in [`meter`][lab.metering.instrument.meter], like all that follows.
        images: at least two different ones.
        layer: the name of a module; each of its calls has to pass.
        shifts: `(dy, dx)` in input pixels.
        mode: what enters the frame.
        background: the value of background pixels.
        rtol: the largest relative error of the worst image; the default is what float32 rounding may do.
        forward: runs the model on images, if it needs other inputs too.

    Raises:
        EquivarianceError: an `AssertionError` with the layer, the shift, the error and its place, the control's error,
            the reason, and the smallest change that would mend it.
        InputError: as in [`meter`][lab.metering.instrument.meter].

    Examples:
        >>> import torch, lab
        >>> pooled, images = lab.build_model("pooled", seed=0), torch.rand(2, 1, 28, 28)
        >>> lab.assert_equivariant(pooled, images, layer="pool1", shifts=[(2, 0), (0, 4)])
        >>> lab.assert_equivariant(pooled, images, layer="pool1", shifts=[(1, 0)])
        Traceback (most recent call last):
        lab.errors.EquivarianceError: pool1 is not equivariant to the shift dy=1, dx=0: ...
    """
    model, images = check_model(model), as_images(images)
    how: dict[str, Any] = {"mode": mode, "background": background, "forward": forward}
    report = meter(model, images, shifts, layers=[layer], quantities=["equivariance"], **how)
    for row in report.rows:
        geometry, name = report.geometry[row.layer], row.layer or "the output"
        at = f"the shift dy={row.dy}, dx={row.dx}"
        if doubt := _untestable(row, geometry, rtol, at):
            raise EquivarianceError(f"{name} {doubt}")
        if not row.worst <= rtol:
            where = _where(model, forward or model, images, row, geometry, mode, background)
            error = f"error {row.worst:.2g} > {rtol:g}, {where}, a wrong shift has {row.wrong_shift:.2g}"
            known = expect(geometry, row.dy, row.dx, wrap=mode == "wrap").remedy
            remedy = f"to mend it: {known or 'look at what forward does with positions'}"
            raise EquivarianceError(f"{name} is not equivariant to {at}: {error}: {row.why}; {remedy}")


def _untestable(row: Row, geometry: LayerGeometry, rtol: float, at: str) -> str:
    """Why a row neither shows that its layer is equivariant nor that it is not; nothing if it does."""
    if geometry.grid is None:
        return f"keeps no positions, so that nothing can move with {at}; is it invariant?"
    if math.isnan(row.interior) and not (row.theory == "exact" and row.worst <= rtol):
        return f"cannot be tested with {at}: {row.why}"
    same = "returns the same for all images, or at all positions"
    return f"{same}, at {at}: that shows nothing" if row.observed == "degenerate" else ""


def _where(
    model: nn.Module, forward: Forward, images: Tensor, row: Row, geometry: LayerGeometry, mode: Mode, background: float
) -> str:
    """Where f(T x) differs most from T f(x): of the worst image, for the best move of its map."""
    assert geometry.grid
    grid, wrap, image = geometry.grid, mode == "wrap", images[row.worst_image : row.worst_image + 1]
    pair = torch.cat([image, shift(image, row.dy, row.dx, mode=mode, background=background)])
    first, second = _maps(model, forward, pair, {row.layer: geometry})[row.layer].double().split(1)
    found = []
    for move in grid.moves((row.dy, row.dx), wrap=wrap):
        expected, seen, inside = grid.aligned(first, second, move, (row.dy, row.dx), wrap=wrap)
        part = inside if inside.any() else ~inside
        difference = (seen - expected) * part
        error = (difference.norm() / (expected * part).norm()).item()
        found.append((bool(inside.any()), -error, difference[0].abs(), move))
    *_, difference, move = max(found, key=lambda one: one[:2])
    channel, y, x = (int(i) for i in torch.unravel_index(difference.argmax(), difference.shape))
    dropped = [0 if wrap and axis.rolls else max(m, 0) for axis, m in zip((grid.y, grid.x), move, strict=True)]
    return f"most at row {y + dropped[0]}, column {x + dropped[1]} of channel {channel}, image {row.worst_image}"
