"""Point it at any `nn.Module`: which layers are equivariant or invariant to translation, where not, and why.

For each layer and shift the error is split: made where windows lie inside the image (the interior), made where they
reach beyond it (the border), made because the stride does not divide the shift. Memory is bounded by a batch.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from operator import index
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from lab.errors import EquivarianceError, InputError
from lab.metering.measuring import Errors, Quantity, Shift, Task, aligned, measure, takes_channels_last
from lab.metering.receptive_fields import Grid, LayerGeometry, leaves, trace
from lab.metering.report import Report, Row, _reach
from lab.metering.theory import Path, Prediction, paths, predict
from lab.observing import check_mode, evaluating, failures, module_of, observing
from lab.shifting import Mode, check_images, ink_margins, shift

ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-12}  # relative: what arithmetic may do to an exact layer
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
    """Measure how each layer answers to translated images, and set it against what theory predicts.

    Null models and sorted activations are taken of a quarter of each batch, at least two images.

    Args:
        model: anything that takes `images`, in evaluation mode as far as that matters. It is left as it was.
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
        InputError: bad images, shifts or layers; a model in training mode although that matters; a model that cannot
            take the images, or returns NaN; no layer that keeps positions; no output free of the border anywhere.

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
    shifts = _check(model, images, shifts, mode, background, quantities)
    images = images.detach()
    geometry, between = _survey(model, images[:1], layers)
    names = leaves(geometry) if layers is None else [name for name in geometry if module_of(name) in layers]
    _check_positions(geometry, names, shifts, mode, layers)
    modules = {module_of(name): model.get_submodule(module_of(name)) for name in names}
    task = Task(images, shifts, {name: geometry[name] for name in names}, mode, background, quantities, seed)
    with failures(images.shape):
        task = replace(task, channels_last=takes_channels_last(model, modules, images))
        sums = measure(model, model, modules, task)
    if silent := [name for name in names for t in shifts if (name, t) not in sums]:
        raise InputError(f"layer {silent[0]!r} does not run on every batch: the network chooses by its input what runs")
    errors = {(name, t): sums[name, t].errors(positions=geometry[name].grid is not None) for name, t in sums}
    theory = {(name, t): predict(between[name], *t, wrap=mode == "wrap") for name in names for t in shifts}
    doubtful = [key for key, one in errors.items() if 0 < one.error < SMALL or theory[key].expectation == "exact"]
    again = _in_float64(model, modules, task, {key: errors[key] for key in doubtful if errors[key].error > 0})
    rows = [_row(*key, theory[key], errors[key], again.get(key), task) for key in theory]
    heads = {
        name: (path.ties, 1 / math.prod(path.last_map.grid.layout.size))
        for name, path in between.items()
        if path.connected == name and path.last_map.grid
    }
    settings = {
        **{"model": type(model).__name__, "images": len(images), "size": list(images.shape[1:])},
        **{"dtype": str(images.dtype).removeprefix("torch."), "shifts": [list(t) for t in shifts]},
        **{"mode": mode, "background": float(background), "quantities": sorted(quantities), "seed": seed},
    }
    return Report(tuple(rows), dict(task.geometry), heads, tuple(_notes(model, task, between)), settings)


def _check(
    model: nn.Module,
    images: Tensor,
    shifts: Sequence[Shift] | None,
    mode: Mode,
    background: float,
    quantities: Collection[Quantity],
) -> list[Shift]:
    """Refuse what cannot be measured; the shifts, each once."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device != images.device:
            raise InputError(f"images must be on the model's device: {images.device}, {tensor.device}")
    check_images(images)
    if images.dim() != 4 or images.dtype not in ROUNDING:
        raise InputError(f"images must be n c h w, float32 or float64: {images.dtype}, shape {tuple(images.shape)}")
    if len(images) < 2 or bool((images == images[:1]).all()):
        raise InputError(f"there must be at least two different images: {len(images)} given, all the same")
    if bool((images == images[:, :, :1, :1]).all()):
        raise InputError("images must not be constant: translation does nothing to them")
    for tensor in model.parameters():
        if tensor.is_floating_point() and tensor.dtype != images.dtype:
            raise InputError(f"images must be of the model's type: {images.dtype}, {tensor.dtype}")
    check_mode(model)
    if not quantities or not set(quantities) <= set(get_args(Quantity)):
        raise InputError(f"quantities must be a list of some of {', '.join(get_args(Quantity))}: {quantities!r}")
    if not math.isfinite(background):
        raise InputError(f"background must be finite: {background}")
    h, w = images.shape[-2:]
    if shifts is None:
        shifts = [(2**k, -(2**k)) for k in range(max(min(h, w) // 4, 1).bit_length())]
    try:
        pairs = [(dy, dx) for dy, dx in shifts]
    except (TypeError, ValueError):
        raise InputError(f"shifts must be a list of pairs (dy, dx): {shifts!r}") from None
    for dy, dx in pairs:
        shift(images[:1], dy, dx, mode=mode)  # refuses what is no shift of these images
    if not pairs:
        raise InputError("there must be at least one shift")
    return list(dict.fromkeys((index(dy), index(dx)) for dy, dx in pairs))


def _survey(
    model: nn.Module, image: Tensor, layers: Sequence[str] | None
) -> tuple[dict[str, LayerGeometry], dict[str, Path]]:
    """Geometry and path of every layer; the first time that the model runs, so that its own errors come up here."""
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
    with failures(image.shape):
        geometry = trace(model, image)
        between = paths(model, image, geometry)
    if silent := [name for name in layers or () if name not in map(module_of, geometry)]:
        raise InputError(f"layer did not run, or returned no floating-point tensor: {', '.join(silent)}")
    return geometry, between


def _check_positions(
    geometry: dict[str, LayerGeometry],
    names: Sequence[str],
    shifts: Sequence[Shift],
    mode: Mode,
    layers: Sequence[str] | None,
) -> None:
    grids = [grid for name in names if (grid := geometry[name].grid)]
    if layers is None and not grids:
        raise InputError(
            "no layer keeps positions, so that there is nothing to move: is the first one fully connected?"
        )
    if grids and not any(_comparable(grid, t, mode) for grid in grids for t in shifts):
        reaches = ", ".join(dict.fromkeys(map(_reach, grids)))
        raise InputError(
            f"no output of any layer is free of the border at any shift: image {grids[0].y.size}×{grids[0].x.size} px, "
            f"reach {reaches}, shifts {list(shifts)}; use larger images or smaller shifts"
        )


def _comparable(grid: Grid, t: Shift, mode: Mode) -> bool:
    """Whether there is anything to compare exactly; on a ring that may be so although every output sees all."""
    wrap = mode == "wrap"
    axes = (grid.y, t[0]), (grid.x, t[1])
    return all(
        (wrap and axis.rolls) or any(bool(axis.comparable(m, wrap=wrap).any()) for m in axis.moves(step))
        for axis, step in axes
    )


def _in_float64(
    model: nn.Module, modules: dict[str, nn.Module], task: Task, errors: Mapping[tuple[str, Shift], Errors]
) -> dict[tuple[str, Shift], float]:
    """Measure errors again in float64, of the worst image and another; nothing if the model cannot run so."""
    if not errors or task.images.dtype == torch.float64:
        return {}
    worst = max(errors.values(), key=lambda found: found.error).worst_image
    different = (task.images != task.images[worst]).flatten(1).any(1)
    pair = [worst, int(different.long().argmax())]
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    state = {name: t.detach().double() for name, t in tensors.items() if t.is_floating_point()}
    again = Task(
        task.images[pair].double(),
        list(dict.fromkeys(t for _, t in errors)),
        {name: task.geometry[name] for name, _ in errors},
        *(task.mode, task.background, ("equivariance", "invariance"), task.seed),
        nulls=False,
    )
    try:
        found = measure(lambda x: functional_call(model, state, (x,)), model, modules, again)
    except Exception:  # a model with tensors of its own that are neither parameters nor buffers
        return {}
    measured = {
        key: found[key].errors(positions=task.geometry[key[0]].grid is not None).error for key in errors if key in found
    }
    return {key: error for key, error in measured.items() if not math.isnan(error)}


def _row(name: str, t: Shift, theory: Prediction, found: Errors, again: float | None, task: Task) -> Row:
    observed = _observed(found, again, task)
    if theory.unless_blank and observed == "exact":
        theory = Prediction("untestable", f"{theory.why}; but no content is there")
    why = theory.why
    if theory.expectation == "exact" and observed == "not exact":
        why += (
            "; the error is not explained: does the forward function use positions, or something theory does not know?"
        )
    return Row(
        **vars(found),
        layer=name,
        dy=t[0],
        dx=t[1],
        theory=theory.expectation,
        why=why,
        observed=observed,
        in_float64=again,
    )


def _observed(found: Errors, again: float | None, task: Task) -> Literal["exact", "not exact", "degenerate", "nothing"]:
    bound = ROUNDING[task.images.dtype]
    if math.isnan(found.invariance) and "invariance" in task.quantities and not math.isinf(found.error):
        return "degenerate"
    if math.isnan(found.error):
        return "nothing" if math.isnan(found.worst) else "degenerate"  # no output to compare; or all of them are 0
    exact = found.error <= bound if again is None else again <= ROUNDING[torch.float64]
    if not exact:
        return "not exact"
    return "degenerate" if found.wrong_shift <= bound else "exact"


def _notes(model: nn.Module, task: Task, between: Mapping[str, Path]) -> Iterator[str]:
    """What to know of the size, the images and the background before reading the errors."""
    grids = [(name, grid) for name in leaves(between) if (grid := between[name].geometry.grid)]
    for axis, letter in ((0, "height"), (1, "width")):
        size = task.images.shape[2 + axis]
        stride = max((grid.stride[axis] for _, grid in grids if grid.stride), default=1)
        if size % stride:
            fits = f"{letter} {size} supports total stride {math.gcd(size, stride)}, not {stride}"
            yield f"{fits}: outputs do not close a circle; use {-(-size // stride) * stride}"
    ends = [(name, grid) for name, grid in grids if not (task.mode == "wrap" and between[name].circular)]
    for name, grid in ends:
        if full := next((axis for axis in (grid.y, grid.x) if not axis.interior), None):
            why = f"its reach, {full.reach} px, does not fit" if full.reach else "it sees the whole image"
            yield f"from {name} on, no output is free of the border: {why}"
            break
    if task.mode == "background":
        yield from _background_notes(model, task, {name: grid for name, grid in grids if not between[name].position})


def _background_notes(model: nn.Module, task: Task, grids: Mapping[str, Grid]) -> Iterator[str]:
    ink = ((task.images - task.background).abs() > 1e-6).any(1, keepdim=True)  # normalising rounds the background
    edge = torch.cat([ink[..., 0, :], ink[..., -1, :], ink[..., :, 0], ink[..., :, -1]], -1).flatten(1).any(1)
    if edge.double().mean() > 0.5:
        yield f"most images reach the frame: every shift moves content out, and background {task.background:.3g} in"
    else:
        room = ink_margins(ink.float())
        lost = [1 - room.fits(*t).double().mean().item() for t in task.shifts]
        if max(lost) > 0:
            dy, dx = task.shifts[lost.index(max(lost))]
            yield f"up to {max(lost):.0%} of the images lose ink at the frame (shift {dy}, {dx})"
    blank = torch.full_like(task.images[:1], task.background)
    answers = _answers(model, torch.cat([blank, task.images[:1]]), grids)
    for name, grid in grids.items():
        maps = grid.layout.maps(answers[name])
        inside = maps[:1, :, grid.y.interior.start : grid.y.interior.stop, grid.x.interior.start : grid.x.interior.stop]
        if not inside.numel():
            return
        frame = (maps[0] - inside.mean((0, 2, 3))[:, None, None]).abs().max().item()
        largest = maps.abs().max().item()
        if frame > 1e-3 * largest:  # rounding is below 1e-5
            why = f"padding is not the background, {task.background:.3g}" if task.background else "biases"
            share = f"{frame / largest:.0%} of the largest activation"
            yield f"a blank image shows a frame of {share} from {name} on: {why}"
            return


def _answers(model: nn.Module, x: Tensor, names: Collection[str]) -> dict[str, Tensor]:
    """What some layers answer; unlike `activations`, whatever else their modules return."""
    found: dict[str, Tensor] = {}
    modules = {module_of(name): model.get_submodule(module_of(name)) for name in names}

    def keep(name: str, a: Tensor) -> None:
        if name in names:
            found[name] = a.clone()

    with observing(model, modules, keep), evaluating(model, x.device), failures(x.shape):
        model(x)
    return found


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
        grid, name = report.geometry[row.layer].grid, row.layer or "the output"
        at = f"the shift dy={row.dy}, dx={row.dx}"
        if grid is None:
            raise EquivarianceError(f"{name} keeps no positions, so that nothing can move with {at}; is it invariant?")
        if math.isnan(row.interior) and not (row.theory == "exact" and row.worst <= rtol):
            raise EquivarianceError(f"{name} cannot be tested with {at}: {row.why}")
        if row.observed == "degenerate":
            raise EquivarianceError(
                f"{name} answers the same to all images, or at all positions, at {at}: shows nothing"
            )
        if not row.worst <= rtol:
            where = _where(model, images, row, grid, mode, background)
            raise EquivarianceError(
                f"{name} is not equivariant to {at}: error {row.worst:.2g} > {rtol:g}, {where}: {row.why}"
            )


def _where(model: nn.Module, images: Tensor, row: Row, grid: Grid, mode: Mode, background: float) -> str:
    """Where f(T x) differs most from T f(x): of the worst image, for the best move of its map."""
    image = images[row.worst_image : row.worst_image + 1]
    pair = torch.cat([image, shift(image, row.dy, row.dx, mode=mode, background=background)])
    first, second = grid.layout.maps(_answers(model, pair, [row.layer])[row.layer]).double().split(1)
    found = []
    for move in product(grid.y.moves(row.dy), grid.x.moves(row.dx)):
        expected, seen, free = aligned(first, second, grid, move, wrap=mode == "wrap")
        inside = (free[0][:, None] & free[1]).to(first.device)
        part = inside if inside.any() else ~inside
        if part.any():
            difference = (seen - expected) * part
            error = (difference.norm() / (expected * part).norm()).item()
            found.append((bool(inside.any()), -error, difference[0].abs(), move))
    *_, difference, move = max(found, key=lambda one: one[:2])
    channel, y, x = (int(i) for i in torch.unravel_index(difference.argmax(), difference.shape))
    rolled = [mode == "wrap" and axis.rolls for axis in (grid.y, grid.x)]
    y, x = (i + (0 if roll else max(m, 0)) for i, m, roll in zip((y, x), move, rolled, strict=True))
    return f"most at row {y}, column {x} of channel {channel}, image {row.worst_image}"
