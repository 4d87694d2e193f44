"""What theory predicts for a layer and a shift, from where its values come from.

The table that this follows, with S the layer's period and t the shift:

| before the layer | S divides t | S does not divide t |
|---|---|---|
| convolution, pointwise, batch norm in evaluation mode, pooling | exact on J; everywhere if circular | not guaranteed |
| transposed convolution, upsampling, pixel shuffle, skips | exact on J, with a step of its own | not guaranteed |
| a blur in each stride | exact on J; everywhere if circular | smaller than without the blur |
| positions that the data choose | exact if circular, ties aside | the same |
| a global operation (group norm, squeeze-excite, attention) | exact if circular, else broken | as the strides |
| a linear layer that takes a map, unless its weights are equal at all positions | broken | broken |
| values that differ between positions | broken | broken |

Circular: shifts are, no padding has entered, and positions go once round the image at every stride. A vector summed up
over all positions is invariant where the map before it is equivariant everywhere. All of this is known by what the
network does (`lab.metering.origins`), not by the classes of its modules.

Source:
    R. Zhang, ICML 2019, arXiv:1904.11486 (BlurPool); A. Chaman and I. Dokmanić, CVPR 2021, arXiv:2011.14214 (adaptive
    polyphase sampling); O. Kayhan and J. van Gemert, CVPR 2020, arXiv:2003.07064 (padding).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import ne
from typing import Literal

from lab.metering.operations import TIED
from lab.metering.receptive_fields import LayerGeometry
from lab.metrics import Axis, Grid, Shift

CIRCLE = "pad circularly, and shift with mode='wrap'"
Expectation = Literal["exact", "approximate", "broken", "untestable"]


@dataclass(frozen=True)
class Prediction:
    """What theory says, and why, in words for people.

    Attributes:
        expectation: `"exact"` up to rounding; `"approximate"`, smaller than without the blur; `"broken"`, not
            guaranteed or worse; `"untestable"`, nothing can be said.
        why: the reason.
        remedy: the smallest change after which it would be exact; nothing where none is known.
        certain: broken for whatever content, not only in general, so that an exact observation would refute it.
        unless_blank: only content at the frame shows it.
    """

    expectation: Expectation
    why: str
    remedy: str = ""
    certain: bool = False
    unless_blank: bool = False


def expect(layer: LayerGeometry, dy: int, dx: int, *, wrap: bool = False) -> Prediction:
    """What theory says of a layer under a shift: of its equivariance, or of its invariance if it keeps no positions.

    Args:
        layer: from [`trace`][lab.metering.receptive_fields.trace].
        dy: pixels down.
        dx: pixels right.
        wrap: whether the shift is circular.
    """
    if dy == dx == 0 and not layer.noisy:
        return Prediction("exact", "nothing moves")
    if found := None if layer.noisy or layer.blind else _by_position(layer, (dy, dx)):
        return found
    if why := _cannot_be_told(layer):
        return Prediction("untestable", why, "draw no random numbers in evaluation mode" if layer.noisy else "")
    return _by_the_frame(layer, (dy, dx), wrap=wrap)


def _cannot_be_told(layer: LayerGeometry) -> str:
    """Why theory has nothing to say of a layer; nothing if it has."""
    if layer.noisy:
        return "random numbers in the forward function: two runs on one image differ"
    if layer.blind:
        return "nothing of the image enters it: it is constant"
    if layer.facts.unknown:
        return f"it is not known which pixels {layer.facts.unknown} looks at"
    return "it keeps positions, but not as rows and columns of the image" if layer.flat else ""


def _by_position(layer: LayerGeometry, t: Shift) -> Prediction | None:
    """What can be said whatever the period, if positions are told apart along the shift."""
    facts = layer.facts
    marked, weighed = (
        next((one for one, pixels in zip(pair, t, strict=True) if one and pixels), None)
        for pair in (facts.positions, facts.weighed)
    )
    if marked:
        unless = "" if layer.grid else ", unless it is only added and all is averaged"
        certain, remedy = layer.grid is not None and facts.everywhere, f"make {marked} the same at all positions"
        return Prediction("broken", f"{marked} has a value for each position{unless}", remedy, certain=certain)
    if facts.patched:
        remedy = f"change all positions alike in {facts.patched}"
        return Prediction("broken", f"{facts.patched} changes values at some positions only", remedy)
    if weighed and not facts.ties >= TIED:
        why = f"{facts.head} weighs positions differently (ρ = {facts.ties:.2g}, 1 is tied)"
        return Prediction("broken", why, f"pool over all positions before {facts.head}", certain=True)
    return None


def _by_the_frame(layer: LayerGeometry, t: Shift, *, wrap: bool) -> Prediction:
    if wrap and layer.circular:
        return _on_the_grid(layer, t, "everywhere: nothing in front of it ends at the frame")
    if layer.grid is None:
        closed = _on_the_grid(layer, t, "")
        pooled = Prediction("broken", "pooled over all positions, and what crosses the border changes it", CIRCLE)
        return pooled if closed.expectation == "exact" else closed
    if layer.facts.mixing:
        why = f"from {layer.facts.mixing} on, every output sees the whole image, the border included"
        return Prediction("broken", why, CIRCLE, unless_blank=True)
    if layer.facts.chosen:
        return Prediction("untestable", f"{layer.facts.chosen} chooses the positions by the data, the border included")
    for axis, pixels in zip((layer.grid.y, layer.grid.x), t, strict=True):
        if pixels and (reason := _untestable(axis, pixels, wrap=wrap)):
            return Prediction("untestable", reason)
    return _on_the_grid(layer, t, "away from the border")


def _untestable(axis: Axis, pixels: int, *, wrap: bool) -> str:
    """Why nothing can be said of a shift along an axis; nothing if something can."""
    if axis.outputs == 1:
        return "a single output along the shift: nothing can move"
    if axis.step is None:
        return "its outputs do not lie on a regular grid of the image"
    if is_free(axis, pixels, wrap=wrap):
        return ""
    window = f"receptive field {axis.receptive_field} px" if axis.receptive_field else "every output sees all"
    return f"{window}, image {axis.size} px, shift {pixels} px: no output is free of the border"


def is_free(axis: Axis, t: int, *, wrap: bool) -> bool:
    """Whether some output is free of the border in an image and in its translation."""
    return any(bool(axis.comparable(m, wrap=wrap, still=t == 0).any()) for m in axis.moves(t, wrap=wrap))


def _on_the_grid(layer: LayerGeometry, t: Shift, where: str) -> Prediction:
    """What the period does, where there is no border."""
    facts = layer.facts
    s = "×".join(map(str, dict.fromkeys(facts.period)))
    if divides(facts.period, t):
        return Prediction("exact", f"S = {s} divides the shift; {where}" if where else "")
    return _off_the_grid(layer, t, f"S = {s} does not divide the shift", where)


def _off_the_grid(layer: LayerGeometry, t: Shift, off: str, where: str) -> Prediction:
    """What can be said where the period does not divide the shift."""
    facts, s = layer.facts, "×".join(map(str, dict.fromkeys(layer.facts.period)))
    remedy = f"shift by multiples of {s} px, or take the stride out of {facts.subsampling or facts.blurred}"
    if facts.blurred and divides(facts.sharp, t):
        return Prediction("approximate", f"{off}; {facts.blurred} blurs first", remedy)
    if facts.chosen and layer.grid and any(map(ne, layer.grid.step or (), facts.period)):
        return Prediction("untestable", f"{off}; {facts.chosen} chooses among positions that are finer than S")
    if facts.chosen and layer.circular and divides(facts.sharp, t):
        return Prediction("exact", f"{facts.chosen} chooses the positions by the data, ties aside; {where}")
    skips = f": {facts.subsampling} skips positions" if facts.subsampling else ""
    return Prediction("broken", f"{off}{skips}", remedy)


def divides(period: Sequence[int], t: Shift) -> bool:
    """Whether a shift is a multiple of the period along rows and columns."""
    return all(pixels % one == 0 for pixels, one in zip(t, period, strict=True))


def has_interior(grid: Grid, t: Shift, *, wrap: bool) -> bool:
    """Whether there is anything to compare exactly; on a circle that may be so although every output sees all."""
    pairs = zip((grid.y, grid.x), t, strict=True)
    return all((wrap and axis.rolls) or is_free(axis, pixels, wrap=wrap) for axis, pixels in pairs)
