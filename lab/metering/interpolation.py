"""Off the period: what of an error is aliasing, and what only that no whole move of the map exists.

Where the period does not divide the shift, f(T x) is compared with f(x) moved by t / step outputs, also where that is
not whole. A map that was sampled finely enough moves so exactly; what is left is aliasing.
"""

from fractions import Fraction

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from lab.metrics import NOTHING, Axis, Grid, Maps, RelativeErrors, Shift
from lab.shifting import circular_weights

LANCZOS = 3  # outputs on either side that a windowed sinc weighs


def interpolated_error(outputs: Maps, moved: Maps, grid: Grid, t: Shift, *, wrap: bool) -> RelativeErrors:
    """f(T x) against f(x) moved by t / step outputs, with [`weights`][lab.metering.interpolation.weights], on J'.

    Args:
        outputs: f(x).
        moved: f(T x).
        grid: their positions.
        t: `(dy, dx)`, input pixels.
        wrap: whether the shift is circular.

    Returns:
        nan where the period divides the shift, where there is no step, or where J' is empty.
    """
    if not grid.step or grid.exact_at(t):
        return NOTHING
    axes = zip((grid.y, grid.x), t, strict=True)
    (y, rows), (x, columns) = (weights(axis, pixels, wrap=wrap) for axis, pixels in axes)
    expected = rows.to(outputs) @ outputs @ columns.T.to(outputs)
    difference = moved[:, :, y.to(moved.device)][..., x.to(moved.device)] - expected
    return RelativeErrors(torch.stack([a.double().square().sum((1, 2, 3)).cpu() for a in (difference, expected)]))


def weights(axis: Axis, t: int, *, wrap: bool = False) -> tuple[Bool[Tensor, " j"], Float64[Tensor, "k j"]]:
    """How to move outputs by t / step, whole or not, as samples of a band-limited function.

    A circular map is moved as [`shift`][lab.shift] moves an image, exactly. Elsewhere a sinc, windowed to `LANCZOS`
    outputs on either side, has to do: for moves that are not whole it leaves an error of its own, of a few per cent
    where a map holds the finest detail that its outputs can.

    Returns:
        Which outputs can be computed, the set J': they and all that they are made of lie in I; and the weights of all
        outputs in each of these.

    Source:
        C. Duchon, Lanczos filtering in one and two dimensions, 1979,
        doi:10.1175/1520-0450(1979)018<1016:LFIOAT>2.0.CO;2.
    """
    move, inside = t / (axis.step or Fraction(axis.size, axis.outputs)), axis.comparable(0, wrap=wrap, still=t == 0)
    if wrap and axis.rolls and inside.all():
        return inside, circular_weights(axis.outputs, float(move))
    width = LANCZOS if move.denominator > 1 else 0.5  # a whole move takes one output, as it is
    j = torch.arange(axis.outputs, dtype=torch.float64)
    away = j[:, None] - j - float(move)
    taken = (away.abs() < width) & inside
    found = inside & (taken.sum(1) == 2 * width)
    weights = (torch.sinc(away) * torch.sinc(away / width) * taken)[found]
    return found, weights / weights.sum(1, keepdim=True)
