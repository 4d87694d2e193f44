"""The meter's independent twin: f(T x) and T f(x) written out, with hooks and moves of its own; nothing of `lab`."""

import math
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from itertools import product

import torch


def moved(x, t, *, wrap):
    """T x."""
    if wrap:
        return x.roll(t, (-2, -1))
    out = torch.zeros_like(x)
    h, w = x.shape[-2:]
    (dy, dx) = t
    out[..., max(dy, 0) : h + min(dy, 0), max(dx, 0) : w + min(dx, 0)] = x[
        ..., max(-dy, 0) : h + min(-dy, 0), max(-dx, 0) : w + min(-dx, 0)
    ]
    return out


def tensors(output, place=()):
    if isinstance(output, torch.Tensor):
        yield place, output
    elif isinstance(output, dict):
        for key, value in output.items():
            yield from tensors(value, (*place, key))
    elif isinstance(output, tuple | list):
        for i, value in enumerate(output):
            yield from tensors(value, (*place, i))


def outputs(run, x, model=None):
    """(module's name, which of its calls, place in its output) -> what it returned."""
    found, calls = {}, Counter()

    def keep(name):
        def hook(_module, _inputs, output):
            calls[name] += 1
            found.update({(name, calls[name], place): a.detach().clone() for place, a in tensors(output)})

        return hook

    hooks = [module.register_forward_hook(keep(name)) for name, module in (model or run).named_modules()]
    with torch.no_grad():
        run(x)
    for hook in hooks:
        hook.remove()
    return found


def as_maps(layout, a):
    """n c h w, from the dimensions that the meter claims to be rows and columns."""
    (y, x), (h, w) = layout.dims, layout.size
    if y == x:
        a = a.narrow(y, layout.prefix, h * w)
        a = a.reshape(*a.shape[:y], h, w, *a.shape[y + 1 :])
        x = y + 1
    rest = [d for d in range(1, a.dim()) if d not in (y, x)]
    return a.permute(0, *rest, y, x).reshape(len(a), -1, h, w)


def pairs_along(axis, t, *, wrap):
    """(j, j − m) of the outputs that the meter claims to be comparable exactly; None without a whole move."""
    if t == 0:
        return [(j, j) for j in range(axis.outputs)]
    move = t / axis.step if axis.step else Fraction(1, 2)
    if move.denominator != 1:
        return None
    m, inside = int(move), set(axis.interior)
    if wrap and axis.step * axis.outputs == axis.size and axis.size % axis.period == 0:
        if axis.circular:
            inside = set(range(axis.outputs))
        back = {j: (j - m) % axis.outputs for j in range(axis.outputs)}
    else:
        back = {j: j - m for j in range(axis.outputs)}
    return [(j, i) for j, i in back.items() if j in inside and i in inside]


def equivariance_error(grid, fx, ftx, t, *, wrap):
    """Largest relative difference on the claimed interior; None where that is empty, or no whole move exists."""
    y, x = (pairs_along(axis, pixels, wrap=wrap) for axis, pixels in zip((grid.y, grid.x), t, strict=True))
    if not y or not x:
        return None
    (to_y, from_y), (to_x, from_x) = (list(zip(*pairs, strict=True)) for pairs in (y, x))
    first, second = fx[:, :, list(from_y)][..., list(from_x)], ftx[:, :, list(to_y)][..., list(to_x)]
    return relative(first, second)


def error_of_chosen_move(grid, fx, ftx, t):
    """The same where the data choose the move of each image: the best of those round the circle."""
    steps = [pixels / step for pixels, step in zip(t, grid.step, strict=True)]
    moves = list(product(*({math.floor(one), math.ceil(one)} for one in steps)))
    return max(min(relative(a.roll(m, (-2, -1)), b) for m in moves) for a, b in zip(fx, ftx, strict=True))


def relative(first, second):
    largest = first.abs().max().item()
    difference = (second - first).abs().max().item()
    return difference / largest if largest else (math.inf if difference else 0.0)


def is_constant(fx):
    """The same for all images or at all positions, so that nothing is shown."""
    same = torch.allclose(fx, fx[:1].expand_as(fx), rtol=1e-9, atol=1e-12)
    return same or (fx.dim() == 4 and torch.allclose(fx, fx[:, :, :1, :1].expand_as(fx), rtol=1e-9, atol=1e-12))


@dataclass(frozen=True)
class Judged:
    """A row of a report, and what the twin found: the error where the meter claims exactness, None without a claim."""

    row: object
    geometry: object
    error: float | None
    shows: bool
    bound: float

    @property
    def exact(self):
        return self.error is not None and self.error <= self.bound

    @property
    def complaint(self):
        """What is wrong with the row; nothing, if it is right."""
        row = self.row
        if row.theory == "exact" and not self.exact:
            return "said to be exact, and is not"
        if row.theory == "exact" and self.shows and row.observed not in ("exact", "degenerate"):
            return "exact, but not seen as such"
        if row.theory == "broken" and row.certain and self.exact and self.shows:
            return "said to be broken for certain, and is exact"
        return ""

    def __str__(self):
        row = self.row
        return f"{row.layer or 'output'} {row.dy, row.dx}: {self.complaint}: {self.error}, {row.observed}, {row.why}"


def judged(report, model, images, *, wrap, bound=1e-9, run=None):
    """Every row of a report against f(T x) and T f(x)."""
    still, found = outputs(run or model, images, model), []
    for t in dict.fromkeys((row.dy, row.dx) for row in report.rows):
        then = outputs(run or model, moved(images, t, wrap=wrap), model)
        for row in (row for row in report.rows if (row.dy, row.dx) == t):
            geometry = report.geometry[row.layer]
            key = (geometry.layer.module, geometry.layer.call, geometry.layer.place)
            fx, ftx = still[key], then[key]
            if geometry.grid:
                fx, ftx = as_maps(geometry.layout, fx), as_maps(geometry.layout, ftx)
                error = equivariance_error(geometry.grid, fx, ftx, t, wrap=wrap)
                if geometry.facts.chosen and wrap and geometry.circular:
                    error = error_of_chosen_move(geometry.grid, fx, ftx, t)
            else:
                error = relative(fx, ftx)
            found.append(Judged(row, geometry, error, not is_constant(fx), bound))
    return found
