"""Point it at any `nn.Module`: which layers are equivariant or invariant to translation, where not, and why.

For each layer and shift the error is split: made where windows lie inside the image (the interior), made where they
reach beyond it (the border), made because the stride does not divide the shift. Memory is bounded by a batch.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from operator import index
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from lab.errors import EquivarianceError, InputError, failures
from lab.metering.measuring import Key, Measured, Task, measure_layers, takes_channels_last
from lab.metering.receptive_fields import LayerGeometry, Layers, leaves, trace
from lab.metering.report import OVERALL, Observation, Report, Row, receptive_field
from lab.metering.theory import Prediction, Upstream, expect, is_free, upstream
from lab.metrics import Grid, Quantity, Shift
from lab.observing import outputs
from lab.shifting import Mode, check_images, ink_margins, shift

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}  # relative: what arithmetic may do to an exact layer
ONE_IN = 4  # controls and sorted activations are taken of one image in so many
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
) -> Report:
    """Measure what translation of the images does to each layer, and set it against what theory predicts.

    Controls and sorted activations are taken of a quarter of each batch, at least two images.

    Args:
        model: anything that takes `images`. It runs in evaluation mode, and is left as it was.
        images: at least two different ones, as the model takes them (normalised, if it was trained so), on its device
            and of its type.
        shifts: `(dy, dx)` in input pixels; without it, (1, -1), (2, -2), (4, -4), ... up to a quarter of
            the image: down and to the left, for padding need not be the same on both sides.
        mode: what enters the frame: the background, or what left on the other side.
        background: the value of background pixels; `lab.data.BACKGROUND` for normalised MNIST.
        layers: as in [`activations`][lab.observing.activations]. Without it, every layer that ran without running
            another: convolutions, but not the blocks around them.
        quantities: any of `"equivariance"`, `"invariance"`, `"sorting"`.
        seed: of which images count as unrelated.

    Raises:
        InputError: bad images, shifts or layers; a model that cannot take the images, or returns NaN; no layer that
            keeps positions; no output free of the border anywhere.

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
    _check_images(model, images)
    _check_type(model, images)
    _check_options(quantities, background, layers)
    images, shifts = images.detach(), _checked_shifts(images, shifts, mode)
    before = _look_at(model, images[:1], layers)
    geometry = _chosen(before, layers)
    _check_positions([one.grid for one in geometry.values() if one.grid], shifts, mode, layers)
    task = Task(model, model, images, shifts, geometry, mode, background, quantities, seed, ONE_IN)
    theory = {(name, t): expect(before[name], *t, wrap=mode == "wrap") for name in geometry for t in shifts}
    found, again = _measure(task, theory)
    rows = tuple(_row(key, theory[key], found[key], again.get(key), task) for key in theory)
    return Report(rows, geometry, _heads(before), tuple(_notes(task, before)), _settings(task))


def _chosen(before: Mapping[str, Upstream], layers: Sequence[str] | None) -> dict[str, LayerGeometry]:
    """The layers to measure."""
    seen = {name: one.geometry for name, one in before.items()}
    names = leaves(seen) if layers is None else [n for n, one in seen.items() if one.layer.module in layers]
    return {name: seen[name] for name in names}


def _settings(task: Task) -> dict[str, Any]:
    dtype = str(task.images.dtype).removeprefix("torch.")
    images = {"images": len(task.images), "size": list(task.images.shape[1:]), "dtype": dtype}
    moved = {"shifts": [list(t) for t in task.shifts], "mode": task.mode, "background": float(task.background)}
    return (
        {"model": type(task.model).__name__}
        | images
        | moved
        | {"quantities": sorted(task.quantities), "seed": task.seed}
    )


def _measure(task: Task, theory: Mapping[Key, Prediction]) -> tuple[dict[Key, Measured], dict[Key, float]]:
    """What was found of each layer under each shift; and the doubtful errors measured again in float64."""
    with failures(task.images.shape):
        task = replace(task, channels_last=takes_channels_last(task))
        found = measure_layers(task)
    if silent := [name for name, t in theory if (name, t) not in found]:
        raise InputError(f"layer {silent[0]!r} does not run on every batch: the network chooses by its input what runs")
    exact = [key for key, one in theory.items() if one.expectation == "exact"]
    doubtful = {key: one for key, one in found.items() if one.error > 0 and (key in exact or one.error < SMALL)}
    return found, _in_float64(task, doubtful)


def _heads(before: Mapping[str, Upstream]) -> dict[str, tuple[float, float]]:
    """Fully connected layer that takes a map -> ρ of its weights, and what random weights give."""
    heads = {name: (one.ties, one.last_map.layout) for name, one in before.items() if one.connected == name}
    return {name: (ties, 1 / math.prod(layout.size)) for name, (ties, layout) in heads.items() if layout}


def _check_images(model: nn.Module, images: Tensor) -> None:
    devices = [tensor.device for tensor in (*model.parameters(), *model.buffers())]
    if elsewhere := [device for device in devices if device != images.device]:
        raise InputError(f"images must be on the model's device: {images.device}, {elsewhere[0]}")
    check_images(images)
    if images.dim() != 4 or images.dtype not in TOLERANCE:
        raise InputError(f"images must be n c h w, float32 or float64: {images.dtype}, shape {tuple(images.shape)}")
    if len(images) < 2 or bool((images == images[:1]).all()):
        raise InputError(f"there must be at least two different images: {len(images)} given, all the same")
    if bool((images == images[:, :, :1, :1]).all()):
        raise InputError("images must not be constant: translation does nothing to them")


def _check_type(model: nn.Module, images: Tensor) -> None:
    types = [parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()]
    if others := [dtype for dtype in types if dtype != images.dtype]:
        raise InputError(f"images must be of the model's type: {images.dtype}, {others[0]}")


def _check_options(quantities: Collection[Quantity], background: float, layers: Sequence[str] | None) -> None:
    if not quantities or not set(quantities) <= set(get_args(Quantity)):
        raise InputError(f"quantities must be a list of some of {', '.join(get_args(Quantity))}: {quantities!r}")
    if not math.isfinite(background):
        raise InputError(f"background must be finite: {background}")
    if isinstance(layers, str):
        raise InputError(f"layers must be a list of names: {layers!r}")


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
    if not pairs:
        raise InputError("there must be at least one shift")
    return list(dict.fromkeys((index(dy), index(dx)) for dy, dx in pairs))


def _look_at(model: nn.Module, image: Tensor, layers: Sequence[str] | None) -> dict[str, Upstream]:
    """What every layer is, and what lies before it; the model's own errors come up here, where it runs first."""
    if layers is not None:
        _check_layers(model, layers)
    with failures(image.shape):
        before = upstream(model, image, trace(model, image))
    ran = {one.geometry.layer.module for one in before.values()}
    if silent := [name for name in layers or () if name not in ran]:
        raise InputError(f"layer did not run, or returned no floating-point tensor: {', '.join(silent)}")
    return before


def _check_layers(model: nn.Module, layers: Sequence[str]) -> None:
    known, first_names = dict(model.named_modules(remove_duplicate=False)), dict(model.named_modules())
    missing = ", ".join(repr(name) for name in layers if name not in known)
    if missing or not layers:
        raise InputError(f"no layer {missing or 'asked for'}: the model has {', '.join(filter(None, known))}")
    for name in layers:
        if name not in first_names:
            other = next(n for n, module in first_names.items() if module is known[name])
            raise InputError(f"layer {name!r} is the same module as {other!r}: ask for that")


def _check_positions(grids: Sequence[Grid], shifts: Sequence[Shift], mode: Mode, layers: Sequence[str] | None) -> None:
    if layers is None and not grids:
        raise InputError("no layer keeps positions, so that nothing can move: is the first one fully connected?")
    if grids and not any(_comparable(grid, t, mode) for grid in grids for t in shifts):
        fields = ", ".join(dict.fromkeys(map(receptive_field, grids)))
        size = f"image {grids[0].y.size}×{grids[0].x.size} px, receptive field {fields} px, shifts {list(shifts)}"
        none = "no output of any layer is free of the border at any shift"
        raise InputError(f"{none}: {size}; use larger images or smaller shifts")


def _comparable(grid: Grid, t: Shift, mode: Mode) -> bool:
    """Whether there is anything to compare exactly; on a circle that may be so although every output sees all."""
    wrap, axes = mode == "wrap", ((grid.y, t[0]), (grid.x, t[1]))
    return all((wrap and axis.rolls) or is_free(axis, pixels, wrap=wrap) for axis, pixels in axes)


def _in_float64(task: Task, found: Mapping[Key, Measured]) -> dict[Key, float]:
    """Measure errors again in float64, of the worst image and another; nothing if the model cannot run so."""
    if not found or task.images.dtype == torch.float64:
        return {}
    worst = max(found.values(), key=lambda one: one.error).worst_image
    different = (task.images != task.images[worst]).flatten(1).any(1)
    images = task.images[[worst, int(different.long().argmax())]].double()
    state = _in_double(task.model)
    shifts, geometry = list(dict.fromkeys(t for _, t in found)), {name: task.geometry[name] for name, _ in found}
    again = replace(task, images=images, shifts=shifts, geometry=geometry, one_in=0, channels_last=False)
    again = replace(again, quantities=("equivariance", "invariance"))
    try:
        measured = measure_layers(replace(again, forward=lambda x: functional_call(task.model, state, (x,))))
    except Exception:  # a model with tensors of its own that are neither parameters nor buffers
        return {}
    return {key: measured[key].error for key in found if key in measured and not math.isnan(measured[key].error)}


def _in_double(model: nn.Module) -> dict[str, Tensor]:
    tensors = (*model.named_parameters(), *model.named_buffers())
    return {name: t.detach().double() for name, t in tensors if t.is_floating_point()}


def _row(key: Key, theory: Prediction, found: Measured, again: float | None, task: Task) -> Row:
    errors, observed = found.errors, _observed(found, again, task)
    if theory.unless_blank and observed == "exact":
        theory = Prediction("untestable", f"{theory.why}; but no content is there")
    if theory.expectation == "exact" and observed == "not exact":
        doubt = (
            "the error is not explained: does the forward function use positions, or something theory does not know?"
        )
        theory = Prediction("exact", f"{theory.why}; {doubt}")
    inside, full = (part.denominator.sum().item() for part in (errors.interior, errors.full))
    return Row(
        layer=key[0],
        dy=key[1][0],
        dx=key[1][1],
        theory=theory.expectation,
        observed=observed,
        why=theory.why,
        error=found.error,
        worst=found.worst,
        worst_image=found.worst_image,
        in_float64=again,
        interior_share=inside / full if full else math.nan,
        **{name: getattr(errors, name).overall for name in OVERALL},
    )


def _observed(found: Measured, again: float | None, task: Task) -> Observation:
    bound = TOLERANCE[task.images.dtype]
    if "invariance" in task.quantities and math.isnan(found.errors.invariance.overall) and not math.isinf(found.error):
        return "degenerate"
    if math.isnan(found.error):
        return "nothing" if math.isnan(found.worst) else "degenerate"  # no output to compare; or all of them are 0
    if not (found.error <= bound if again is None else again <= TOLERANCE[torch.float64]):
        return "not exact"
    return "degenerate" if found.errors.wrong_shift.overall <= bound else "exact"


def _notes(task: Task, before: Mapping[str, Upstream]) -> Iterator[str]:
    """What to know of the size, the images and the background before reading the errors."""
    maps = {name: before[name] for name in leaves({n: one.geometry for n, one in before.items()})}
    maps = {name: one for name, one in maps.items() if one.geometry.grid}
    yield from _size_notes(task, [one.geometry.stride for one in maps.values() if one.geometry.stride])
    yield from _border_notes(maps, wrap=task.mode == "wrap")
    if task.mode == "background":
        yield from _ink_notes(task)
        yield from _frame_notes(task, {name: one.geometry for name, one in maps.items() if not one.position})


def _size_notes(task: Task, strides: Sequence[Shift]) -> Iterator[str]:
    for axis, letter in enumerate(("height", "width")):
        size, stride = task.images.shape[2 + axis], max((one[axis] for one in strides), default=1)
        if size % stride:
            fits = f"{letter} {size} supports total stride {math.gcd(size, stride)}, not {stride}"
            yield f"{fits}: outputs do not close a circle; use {-(-size // stride) * stride}"


def _border_notes(maps: Mapping[str, Upstream], *, wrap: bool) -> Iterator[str]:
    for name, one in maps.items():
        grid = one.geometry.grid
        full = next((axis for axis in (grid.y, grid.x) if not axis.interior), None) if grid else None
        if full and not (wrap and one.circular):
            r = full.receptive_field
            why = f"its receptive field, {r} px, does not fit" if r else "it sees the whole image"
            yield f"from {name} on, no output is free of the border: {why}"
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
    found = _maps(task.model, torch.cat([blank, task.images[:1]]), layers)
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


def _maps(model: nn.Module, x: Tensor, layers: Layers) -> dict[str, Tensor]:
    """What some layers return, as maps; unlike `activations`, whatever else their modules return."""
    modules = {layer.layer.module: model.get_submodule(layer.layer.module) for layer in layers.values()}
    with failures(x.shape):
        found = outputs(model, modules, x)
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

    Raises:
        EquivarianceError: an `AssertionError` with the layer, the shift, the error, where it is, and why.
        InputError: as in [`meter`][lab.metering.instrument.meter].

    Examples:
        >>> import torch, lab
        >>> pooled, images = lab.build_model("pooled", seed=0), torch.rand(2, 1, 28, 28)
        >>> lab.assert_equivariant(pooled, images, layer="pool1", shifts=[(2, 0), (0, 4)])
        >>> lab.assert_equivariant(pooled, images, layer="pool1", shifts=[(1, 0)])
        Traceback (most recent call last):
        lab.errors.EquivarianceError: pool1 is not equivariant to the shift dy=1, dx=0: ...
    """
    report = meter(model, images, shifts, mode=mode, background=background, layers=[layer], quantities=["equivariance"])
    for row in report.rows:
        geometry, name = report.geometry[row.layer], row.layer or "the output"
        at = f"the shift dy={row.dy}, dx={row.dx}"
        if geometry.grid is None:
            raise EquivarianceError(f"{name} keeps no positions, so that nothing can move with {at}; is it invariant?")
        if math.isnan(row.interior) and not (row.theory == "exact" and row.worst <= rtol):
            raise EquivarianceError(f"{name} cannot be tested with {at}: {row.why}")
        if row.observed == "degenerate":
            same = "the same for all images, or at all positions"
            raise EquivarianceError(f"{name} returns {same}, at {at}: that shows nothing")
        if not row.worst <= rtol:
            error = f"error {row.worst:.2g} > {rtol:g}, {_where(model, images, row, geometry, mode, background)}"
            raise EquivarianceError(f"{name} is not equivariant to {at}: {error}: {row.why}")


def _where(model: nn.Module, images: Tensor, row: Row, geometry: LayerGeometry, mode: Mode, background: float) -> str:
    """Where f(T x) differs most from T f(x): of the worst image, for the best move of its map."""
    assert geometry.grid
    grid, wrap, image = geometry.grid, mode == "wrap", images[row.worst_image : row.worst_image + 1]
    pair = torch.cat([image, shift(image, row.dy, row.dx, mode=mode, background=background)])
    first, second = _maps(model, pair, {row.layer: geometry})[row.layer].double().split(1)
    found = []
    for move in grid.moves((row.dy, row.dx), wrap=wrap):
        expected, seen, inside = grid.aligned(first, second, move, wrap=wrap)
        part = inside if inside.any() else ~inside
        difference = (seen - expected) * part
        error = (difference.norm() / (expected * part).norm()).item()
        found.append((bool(inside.any()), -error, difference[0].abs(), move))
    *_, difference, move = max(found, key=lambda one: one[:2])
    channel, y, x = (int(i) for i in torch.unravel_index(difference.argmax(), difference.shape))
    dropped = [0 if wrap and axis.rolls else max(m, 0) for axis, m in zip((grid.y, grid.x), move, strict=True)]
    return f"most at row {y + dropped[0]}, column {x + dropped[1]} of channel {channel}, image {row.worst_image}"
