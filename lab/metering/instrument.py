"""Point it at any `nn.Module`: which layers are equivariant or invariant to translation, where not, and why.

For each layer and shift the error is split: made where windows lie inside the image (the interior), made where they
reach beyond it (the border), made because the stride does not divide the shift. Memory is bounded by a batch.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from operator import index
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from lab.errors import EquivarianceError, InputError
from lab.metering.measuring import Measured, Task, measure_layers, takes_channels_last
from lab.metering.receptive_fields import LayerGeometry, leaves, trace
from lab.metering.report import OVERALL, Report, Row, receptive_field
from lab.metering.theory import Prediction, Upstream, expect, upstream
from lab.metrics import Grid, Quantity, Shift
from lab.observing import failures, outputs
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
    _check_model(model, images)
    _check_images(images)
    _check_options(quantities, background)
    images, shifts = images.detach(), _checked_shifts(images, shifts, mode)
    geometry, before = _look_at(model, images[:1], layers)
    names = leaves(geometry) if layers is None else [n for n, one in geometry.items() if one.layer.module in layers]
    _check_positions([grid for name in names if (grid := geometry[name].grid)], shifts, mode, layers)
    task = Task(
        model,
        model,
        images,
        shifts,
        {name: geometry[name] for name in names},
        mode,
        background,
        quantities,
        seed,
        ONE_IN,
    )
    found, again = _measure(task, before)
    rows = [
        _row(name, t, expect(before[name], *t, wrap=mode == "wrap"), found[name, t], again.get((name, t)), task)
        for name in names
        for t in shifts
    ]
    settings = {
        "model": type(model).__name__,
        "images": len(images),
        "size": list(images.shape[1:]),
        "dtype": str(images.dtype).removeprefix("torch."),
        "shifts": [list(t) for t in shifts],
        "mode": mode,
        "background": float(background),
        "quantities": sorted(quantities),
        "seed": seed,
    }
    return Report(tuple(rows), dict(task.geometry), _heads(before), tuple(_notes(task, before)), settings)


def _measure(
    task: Task, before: Mapping[str, Upstream]
) -> tuple[dict[tuple[str, Shift], Measured], dict[tuple[str, Shift], float]]:
    """What was found of each layer under each shift; and the doubtful errors measured again in float64."""
    with failures(task.images.shape):
        task = replace(task, channels_last=takes_channels_last(task))
        found = measure_layers(task)
    if silent := [name for name in task.geometry for t in task.shifts if (name, t) not in found]:
        raise InputError(f"layer {silent[0]!r} does not run on every batch: the network chooses by its input what runs")

    def is_doubtful(name: str, t: Shift) -> bool:
        exact = expect(before[name], *t, wrap=task.mode == "wrap").expectation == "exact"
        return found[name, t].error > 0 and (exact or found[name, t].error < SMALL)

    return found, _in_float64(task, {key: found[key] for key in found if is_doubtful(*key)})


def _heads(before: Mapping[str, Upstream]) -> dict[str, tuple[float, float]]:
    """Fully connected layer that takes a map -> ρ of its weights, and what random weights give."""
    return {
        name: (one.ties, 1 / math.prod(one.last_map.layout.size))
        for name, one in before.items()
        if one.connected == name and one.last_map.layout
    }


def _check_model(model: nn.Module, images: Tensor) -> None:
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device != images.device:
            raise InputError(f"images must be on the model's device: {images.device}, {tensor.device}")
    for parameter in model.parameters():
        if parameter.is_floating_point() and parameter.dtype != images.dtype:
            raise InputError(f"images must be of the model's type: {images.dtype}, {parameter.dtype}")


def _check_images(images: Tensor) -> None:
    check_images(images)
    if images.dim() != 4 or images.dtype not in TOLERANCE:
        raise InputError(f"images must be n c h w, float32 or float64: {images.dtype}, shape {tuple(images.shape)}")
    if len(images) < 2 or bool((images == images[:1]).all()):
        raise InputError(f"there must be at least two different images: {len(images)} given, all the same")
    if bool((images == images[:, :, :1, :1]).all()):
        raise InputError("images must not be constant: translation does nothing to them")


def _check_options(quantities: Collection[Quantity], background: float) -> None:
    if not quantities or not set(quantities) <= set(get_args(Quantity)):
        raise InputError(f"quantities must be a list of some of {', '.join(get_args(Quantity))}: {quantities!r}")
    if not math.isfinite(background):
        raise InputError(f"background must be finite: {background}")


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


def _look_at(
    model: nn.Module, image: Tensor, layers: Sequence[str] | None
) -> tuple[dict[str, LayerGeometry], dict[str, Upstream]]:
    """Geometry of every layer and what lies before it; the model's own errors come up here, where it runs first."""
    _check_layers(model, layers)
    with failures(image.shape):
        geometry = trace(model, image)
        before = upstream(model, image, geometry)
    ran = {layer.layer.module for layer in geometry.values()}
    if silent := [name for name in layers or () if name not in ran]:
        raise InputError(f"layer did not run, or returned no floating-point tensor: {', '.join(silent)}")
    return geometry, before


def _check_layers(model: nn.Module, layers: Sequence[str] | None) -> None:
    if isinstance(layers, str):
        raise InputError(f"layers must be a list of names: {layers!r}")
    known, first_names = dict(model.named_modules(remove_duplicate=False)), dict(model.named_modules())
    if layers is not None and (not layers or any(name not in known for name in layers)):
        missing = ", ".join(repr(name) for name in layers if name not in known)
        raise InputError(f"no layer {missing or 'asked for'}: the model has {', '.join(filter(None, known))}")
    for name in layers or ():
        if name not in first_names:
            other = next(n for n, module in first_names.items() if module is known[name])
            raise InputError(f"layer {name!r} is the same module as {other!r}: ask for that")


def _check_positions(grids: Sequence[Grid], shifts: Sequence[Shift], mode: Mode, layers: Sequence[str] | None) -> None:
    if layers is None and not grids:
        raise InputError(
            "no layer keeps positions, so that there is nothing to move: is the first one fully connected?"
        )
    if grids and not any(_comparable(grid, t, mode) for grid in grids for t in shifts):
        fields = ", ".join(dict.fromkeys(map(receptive_field, grids)))
        size = f"image {grids[0].y.size}×{grids[0].x.size} px, receptive field {fields} px, shifts {list(shifts)}"
        raise InputError(
            f"no output of any layer is free of the border at any shift: {size}; use larger images or smaller shifts"
        )


def _comparable(grid: Grid, t: Shift, mode: Mode) -> bool:
    """Whether there is anything to compare exactly; on a circle that may be so although every output sees all."""
    wrap = mode == "wrap"
    return all(
        (wrap and axis.rolls) or any(bool(axis.comparable(m, wrap=wrap).any()) for m in axis.moves(step, wrap=wrap))
        for axis, step in ((grid.y, t[0]), (grid.x, t[1]))
    )


def _in_float64(task: Task, found: Mapping[tuple[str, Shift], Measured]) -> dict[tuple[str, Shift], float]:
    """Measure errors again in float64, of the worst image and another; nothing if the model cannot run so."""
    if not found or task.images.dtype == torch.float64:
        return {}
    worst = max(found.values(), key=lambda one: one.error).worst_image
    different = (task.images != task.images[worst]).flatten(1).any(1)
    pair = [worst, int(different.long().argmax())]
    tensors = {**dict(task.model.named_parameters()), **dict(task.model.named_buffers())}
    state = {name: t.detach().double() for name, t in tensors.items() if t.is_floating_point()}
    again = replace(
        task,
        forward=lambda x: functional_call(task.model, state, (x,)),
        images=task.images[pair].double(),
        shifts=list(dict.fromkeys(t for _, t in found)),
        geometry={name: task.geometry[name] for name, _ in found},
        quantities=("equivariance", "invariance"),
        one_in=0,
        channels_last=False,
    )
    try:
        measured = measure_layers(again)
    except Exception:  # a model with tensors of its own that are neither parameters nor buffers
        return {}
    return {key: measured[key].error for key in found if key in measured and not math.isnan(measured[key].error)}


def _row(name: str, t: Shift, theory: Prediction, found: Measured, again: float | None, task: Task) -> Row:
    errors = found.errors
    observed = _observed(found, again, task)
    if theory.unless_blank and observed == "exact":
        theory = Prediction("untestable", f"{theory.why}; but no content is there")
    unexplained = theory.expectation == "exact" and observed == "not exact"
    doubt = "; the error is not explained: does the forward function use positions, or something theory does not know?"
    inside, full = (part.denominator.sum().item() for part in (errors.interior, errors.full))
    return Row(
        layer=name,
        dy=t[0],
        dx=t[1],
        theory=theory.expectation,
        observed=observed,
        why=theory.why + (doubt if unexplained else ""),
        error=found.error,
        worst=found.worst,
        worst_image=found.worst_image,
        in_float64=again,
        interior_share=inside / full if full else math.nan,
        **{name: getattr(errors, name).overall for name in OVERALL},
    )


def _observed(
    found: Measured, again: float | None, task: Task
) -> Literal["exact", "not exact", "degenerate", "nothing"]:
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
    geometry = {name: one.geometry for name, one in before.items()}
    grids = {name: grid for name in leaves(geometry) if (grid := geometry[name].grid)}
    yield from _size_notes(task, list(grids.values()))
    for name, grid in grids.items():
        full = next((axis for axis in (grid.y, grid.x) if not axis.interior), None)
        if full and not (task.mode == "wrap" and before[name].circular):
            r = full.receptive_field
            why = f"its receptive field, {r} px, does not fit" if r else "it sees the whole image"
            yield f"from {name} on, no output is free of the border: {why}"
            break
    if task.mode == "background":
        yield from _ink_notes(task)
        yield from _frame_notes(task, {name: geometry[name] for name in grids if not before[name].position})


def _size_notes(task: Task, grids: Sequence[Grid]) -> Iterator[str]:
    for axis, letter in ((0, "height"), (1, "width")):
        size = task.images.shape[2 + axis]
        stride = max((grid.stride[axis] for grid in grids if grid.stride), default=1)
        if size % stride:
            fits = f"{letter} {size} supports total stride {math.gcd(size, stride)}, not {stride}"
            yield f"{fits}: outputs do not close a circle; use {-(-size // stride) * stride}"


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


def _frame_notes(task: Task, layers: Mapping[str, LayerGeometry]) -> Iterator[str]:
    """Whether padding shows in a blank image, and from which layer on."""
    blank = torch.full_like(task.images[:1], task.background)
    found = _maps(task.model, torch.cat([blank, task.images[:1]]), layers)
    for name, layer in layers.items():
        maps, (y, x) = found[name], _interior(layer)
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


def _interior(layer: LayerGeometry) -> tuple[slice, slice]:
    assert layer.grid
    y, x = (slice(axis.interior.start, axis.interior.stop) for axis in (layer.grid.y, layer.grid.x))
    return y, x


def _maps(model: nn.Module, x: Tensor, layers: Mapping[str, LayerGeometry]) -> dict[str, Tensor]:
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
            raise EquivarianceError(
                f"{name} returns the same for all images, or at all positions, at {at}: that shows nothing"
            )
        if not row.worst <= rtol:
            where = _where(model, images, row, geometry, mode, background)
            raise EquivarianceError(
                f"{name} is not equivariant to {at}: error {row.worst:.2g} > {rtol:g}, {where}: {row.why}"
            )


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
