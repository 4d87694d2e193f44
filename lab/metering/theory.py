"""What theory predicts for a layer and a shift, from the geometry of its outputs and the kinds of modules before it.

The table that this follows, with S the layer's total stride and t the shift:

| before the layer | S divides t | S does not divide t |
|---|---|---|
| convolution, pointwise, batch norm in evaluation mode, pooling | exact on J; everywhere if circular | broken |
| BlurPool in place of each stride | exact on J; everywhere if circular | approximate |
| adaptive polyphase sampling | exact up to m if circular, else approximate | the same |
| a global operation (group norm, squeeze-excite, attention) | exact if circular, else broken | as the strides |
| a fully connected layer, unless its weights are equal at all positions | broken | broken |
| a parameter that differs between positions | broken | broken |

Circular: shifts are, all padding is, and every stride divides the size of its input. A vector pooled over all positions
is invariant where the map before it is equivariant everywhere; else approximately. "Before" is whatever ran earlier; of
fully connected layers and parameters, what the layer depends on. "Approximate" is of images whose neighbouring pixels
are alike. Not seen, and taken for absent: positions that a forward function computes, padding in a function after a
global operation. A class is taken at its word if its name ends in BlurPool, ApsPool or the like.

Source:
    R. Zhang, ICML 2019, arXiv:1904.11486 (BlurPool); A. Chaman and I. Dokmanić, CVPR 2021, arXiv:2011.14214 (adaptive
    polyphase sampling); O. Kayhan and J. van Gemert, CVPR 2020, arXiv:2003.07064 (padding).
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import gt
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.pooling import _AvgPoolNd, _MaxPoolNd
from torch.nn.modules.utils import _pair

from lab.errors import InputError
from lab.metering.receptive_fields import LayerGeometry, Layers, Layout
from lab.metrics import Axis, Grid, Shift
from lab.observing import Layer, evaluating, watching

Expectation = Literal["exact", "approximate", "broken", "untestable"]
Stride = tuple[int, int]  # along rows and columns


@dataclass(frozen=True)
class Prediction:
    """What theory says, and why, in words for people; `unless_blank` if only content at the frame shows it."""

    expectation: Expectation
    why: str
    unless_blank: bool = False


@dataclass(frozen=True)
class Upstream:
    """What lies between the image and a layer's output, as far as theory asks; `""` where there is no such thing.

    Attributes:
        geometry: of the layer itself.
        last_map: the same of the last layer that keeps positions, itself included.
        stride: total stride of that layer, or the largest before it if its own is not seen; None for no regular grid.
        circular: nothing before ends at the frame: no padding but circular, and each stride divides its input.
        position: the parameter that has a value for each position.
        connected: the fully connected layer that took a map with its positions.
        ties: ρ of that layer's weights, 1 if they are equal at all positions; nan if it cannot be told.
        flat: it keeps positions, but not as rows and columns, such as a flattened map.
        mixing: the first layer of which every output sees the whole image.
        is_global: whether that is a global operation, rather than a receptive field larger than the image.
        subsampling: the last stride that is neither blurred nor adaptive; `skipped` is the total stride there.
        tiled: how the windows of the last map were pooled, `"averages"` or `"maxima"`, if they lie side by side.
        blurred: the first BlurPool.
        adaptive: the first adaptive polyphase sampling.
    """

    geometry: LayerGeometry
    last_map: LayerGeometry
    stride: Stride | None = (1, 1)
    circular: bool = True
    position: str = ""
    connected: str = ""
    ties: float = 0.0
    flat: bool = False
    mixing: str = ""
    is_global: bool = False
    subsampling: str = ""
    skipped: Stride = (1, 1)
    tiled: str = ""
    blurred: str = ""
    adaptive: str = ""


TIED = 1 - 1e-6  # ρ is a sum of squares in float64; weights that differ in their last bit of float32 pass
_STRIDED = (_ConvNd, _AvgPoolNd, _MaxPoolNd)
_POOLS = {"averages": (_AvgPoolNd, nn.AdaptiveAvgPool2d), "maxima": (_MaxPoolNd, nn.AdaptiveMaxPool2d)}
_BLURS = re.compile(r"blur_?(max|avg)?_?pool(ing)?_?(\dd)?$", re.IGNORECASE)
_ADAPTS = re.compile(r"(^aps|polyphase\w*?)_?(pool(ing)?|down|(down)?sampl(e|ing))_?(\dd)?$|^aps$", re.IGNORECASE)


def upstream(model: nn.Module, image: Float[Tensor, "1 c h w"], layers: Layers) -> dict[str, Upstream]:
    """What lies before each layer, of those that [`trace`][lab.metering.receptive_fields.trace] gives."""
    modules = dict(model.named_modules(remove_duplicate=False))
    positional = _position_parameters(model, image, layers)
    heads: dict[str, tuple[str, float]] = {}  # layer -> the fully connected layer that took positions, and its ρ
    found: dict[str, Upstream] = {}
    before = _nothing_before(image)
    for name, layer in layers.items():
        module = modules[layer.layer.module]
        before = _mixed(_mapped(_sampled(before, layer, modules), layer, module), name, layer, module)
        if name not in heads and _takes_positions(module, layer, before.last_map):
            ties = _ties(module, before.last_map)
            later = _depends_on(model, image, {f"{layer.layer.module}.{n}": p for n, p in module.named_parameters()})
            heads |= {after: (name or "the model", ties) for after in later if heads.get(after, ("", 1.0))[1] >= TIED}
        connected, ties = heads.get(name, ("", 0.0))
        before = replace(before, flat=not connected and _is_flat(before, layer, module), geometry=layer)
        before = replace(before, position=positional.get(name, ""), connected=connected, ties=ties)
        found[name] = before
    return found


def _nothing_before(image: Tensor) -> Upstream:
    """What lies before the pixels themselves."""
    h, w = image.shape[-2:]
    y, x = (Axis(n, n, 1, range(n), receptive_field=1, offset=0, circular=True) for n in (h, w))
    pixels = LayerGeometry(Layer(""), tuple(image.shape[1:]), Grid(y, x), Layout((2, 3), (h, w)))
    return Upstream(pixels, pixels)


def _mixed(before: Upstream, name: str, layer: LayerGeometry, module: nn.Module) -> Upstream:
    """Note the first layer of which every output sees the whole image."""
    if not layer.sees_all or before.mixing:
        return before
    by_size = isinstance(module, _STRIDED) and layer.grid is not None
    return replace(before, mixing=name or "the model", is_global=not by_size)


def _mapped(before: Upstream, layer: LayerGeometry, module: nn.Module) -> Upstream:
    """Note the stride of a map and whether it closes the circle: as traced, else from its size and what came before."""
    if layer.grid is None:
        return before
    axes, stride, closes = (layer.grid.y, layer.grid.x), layer.grid.stride, layer.grid.circular
    if not all(axis.receptive_field for axis in axes):
        a, b = stride, before.stride
        stride = (max(a[0], b[0]), max(a[1], b[1])) if a and b else None
        closes = all(axis.rolls for axis in axes)
    closes = isinstance(module, nn.CircularPad2d) or (closes and not _pads_with_values(module))
    return replace(before, stride=stride, circular=before.circular and closes, last_map=layer)


def _sampled(before: Upstream, layer: LayerGeometry, modules: Mapping[str, nn.Module]) -> Upstream:
    """Note where a stride comes from; a class that is called BlurPool or the like vouches for what is inside it."""
    name = layer.layer.module
    parts, module = name.split("."), modules[name]
    owners = [type(modules[".".join(parts[:i])]).__name__ for i in range(len(parts) + 1)]
    before, label = replace(before, tiled=_tiled(before, layer, module)), str(layer.layer) or "the model"
    if any(map(_BLURS.search, owners)):
        return replace(before, blurred=before.blurred or label)
    if any(map(_ADAPTS.search, owners)):
        return replace(before, adaptive=before.adaptive or label)
    if layer.stride and _skips(before, layer.stride, module):
        return replace(before, subsampling=label, skipped=layer.stride)
    return before


def _skips(before: Upstream, stride: Stride, module: nn.Module) -> bool:
    """Whether a layer has a stride of its own, or in all a larger one than what came before."""
    larger = any(map(gt, stride, before.stride or (1, 1)))
    return larger or (isinstance(module, _STRIDED) and max(_pair(module.stride)) > 1)


def _tiled(before: Upstream, layer: LayerGeometry, module: nn.Module) -> str:
    """How the last map was pooled, unless something came after it, or a vector is pooled another way."""
    kind = next((kind for kind, classes in _POOLS.items() if isinstance(module, classes)), "")
    if kind and isinstance(module, _STRIDED) and layer.grid is not None:
        side_by_side = _pair(module.kernel_size) == _pair(module.stride) and not _pads_with_values(module)
        return kind if side_by_side else ""
    return before.tiled if kind in ("", before.tiled) and _keeps_tiles(before, layer, module) else ""


def _keeps_tiles(before: Upstream, layer: LayerGeometry, module: nn.Module) -> bool:
    """Whether a layer leaves it to see how the last map was pooled; a block's own layers have been asked already."""
    leaves_maxima = isinstance(module, nn.ReLU) and before.tiled == "maxima"
    return layer.grid is None or any(module.children()) or leaves_maxima


def _is_flat(before: Upstream, layer: LayerGeometry, module: nn.Module) -> bool:
    """Whether positions are there but not seen: flattened, tokens, some of the image's, pairs of them in attention."""
    if layer.grid is not None:
        return isinstance(module, nn.MultiheadAttention) and layer.layer.place == (1,)
    follows = (before.geometry.grid is not None or before.flat) and not isinstance(module, nn.Linear)
    flattened = follows and math.prod(layer.shape) == math.prod(before.last_map.shape)
    return flattened or not layer.sees_all or sum(size > 1 for size in layer.shape) > 1


def _pads_with_values(module: nn.Module) -> bool:
    """Whether a module pads, and not circularly: zeros, -inf, copies of the border."""
    if not isinstance(module, _STRIDED) or module.padding == "valid":
        return False
    padded = isinstance(module.padding, str) or max(_pair(module.padding)) > 0
    return padded and getattr(module, "padding_mode", "zeros") != "circular"


def _takes_positions(module: nn.Module, layer: LayerGeometry, last_map: LayerGeometry) -> bool:
    """Whether a layer without positions weighs each position of the last map by itself."""
    if layer.grid is not None or last_map.layout is None:
        return False
    if isinstance(module, nn.Linear):  # of the whole map, or of each channel by itself
        positions = math.prod(last_map.layout.size) + last_map.layout.prefix
        by_channel = module.in_features == positions and 1 < math.prod(layer.shape[:-1]) != positions
        return by_channel or module.in_features == math.prod(last_map.shape)
    return isinstance(module, nn.Conv2d) and math.prod(module.kernel_size) > 1


def _ties(head: nn.Module, last_map: LayerGeometry) -> float:
    """ρ of a layer that takes positions; nan where it does not take all of the map."""
    assert isinstance(head, nn.Linear | nn.Conv2d)
    return orbit_share(head, last_map) if head.weight[0].numel() == math.prod(last_map.shape) else math.nan


def orbit_share(layer: nn.Linear | nn.Conv2d, before: LayerGeometry) -> float:
    """ρ = ‖Π W‖² / ‖W‖², where Π averages the weights of each channel over the positions of the layer before.

    Args:
        layer: fully connected, or a convolution as large as the map.
        before: geometry of the layer whose output it takes, flattened.

    Returns:
        Between 0 and 1. 1 = equal at all positions, invariant by construction; 1 / positions = random weights;
        nan = all weights are 0.

    Raises:
        InputError: the layer before keeps no positions, or its output has another size.
    """
    weight = layer.weight.detach().double()
    if before.grid is None or weight[0].numel() != math.prod(before.shape):
        raise InputError(f"weights of shape {tuple(weight.shape)} do not take the positions of {before.shape}")
    maps = before.maps(weight.reshape(-1, *before.shape)).flatten(2)
    return (maps.mean(2).square().sum() * maps.shape[2] / maps.square().sum()).item()


def _position_parameters(model: nn.Module, image: Tensor, layers: Layers) -> dict[str, str]:
    """Layer -> the parameter with a value for each position on which it depends: NaN in it, and see where that goes."""
    found: dict[str, str] = {}
    grids = [(tuple(image.shape), (2, 3))]
    grids += [((1, *layer.shape), layer.layout.dims) for layer in layers.values() if layer.layout]
    for owner_name, owner in model.named_modules():
        if isinstance(owner, (_ConvNd, nn.Linear, nn.MultiheadAttention)):
            continue
        for kind, value in (*owner.named_parameters(recurse=False), *owner.named_buffers(recurse=False)):
            if value.is_floating_point() and any(_varies_over(value, *grid) for grid in grids):
                name = f"{owner_name}.{kind}".lstrip(".")
                found = dict.fromkeys(_depends_on(model, image, {name: value}), name) | found
    return found


def _varies_over(value: Tensor, whole: Sequence[int], dims: Sequence[int]) -> bool:
    """Whether a tensor broadcasts to `whole`, and is not the same all along `dims`; one dimension is of channels."""
    shape = (1,) * (len(whole) - value.dim()) + tuple(value.shape)
    if value.dim() < 2 or len(shape) != len(whole) or any(a not in (1, b) for a, b in zip(shape, whole, strict=True)):
        return False
    value = value.reshape(shape)
    return any(bool((value != value.narrow(dim, 0, 1)).any()) for dim in dims)


def _depends_on(model: nn.Module, image: Tensor, parameters: Mapping[str, Tensor]) -> set[str]:
    """The layers that show NaN where the parameters are NaN."""
    touched: set[str] = set()

    def see(layer: Layer, a: Tensor) -> None:
        if bool(a.isnan().any()):
            touched.add(str(layer))

    with watching(model, dict(model.named_modules()), see), evaluating(model, image.device):
        functional_call(model, {name: torch.full_like(p, torch.nan) for name, p in parameters.items()}, (image,))
    return touched


def expect(layer: Upstream, dy: int, dx: int, *, wrap: bool = False) -> Prediction:
    """What theory says of a layer under a shift: of its equivariance, or of its invariance if it keeps no positions.

    Args:
        layer: from [`upstream`][lab.metering.theory.upstream].
        dy: pixels down.
        dx: pixels right.
        wrap: whether the shift is circular.
    """
    if dy == dx == 0:
        return Prediction("exact", "nothing moves")
    if whatever := _at_any_shift(layer):
        return whatever
    if wrap and layer.circular:
        return _on_the_grid(layer, dy, dx, "everywhere, for nothing before it ends at the frame")
    if layer.geometry.grid is None:
        closed = _on_the_grid(layer, dy, dx, "")
        pooled = Prediction("approximate", "pooled over all positions; what crosses the border changes it")
        return closed if closed.expectation == "broken" else pooled
    return _with_a_border(layer, layer.geometry.grid, (dy, dx), wrap=wrap)


def _with_a_border(layer: Upstream, grid: Grid, t: Shift, *, wrap: bool) -> Prediction:
    """What can be said of a map that something enters at the frame."""
    if layer.geometry.sees_all and layer.is_global:
        why = f"from {layer.mixing} on, every output sees the whole image, the border included"
        return Prediction("broken", why, unless_blank=True)
    if layer.adaptive:
        return Prediction("approximate", f"{layer.adaptive} chooses the positions by the data, the border included")
    for axis, pixels in zip((grid.y, grid.x), t, strict=True):
        if not is_free(axis, pixels, wrap=wrap):
            r = axis.receptive_field
            window = f"receptive field {r} px" if r else "windows that could not be traced"
            size = f"{window}, image {axis.size} px, shift {pixels} px"
            return Prediction("untestable", f"{size}: no output is free of the border")
    return _on_the_grid(layer, *t, "away from the border")


def is_free(axis: Axis, t: int, *, wrap: bool) -> bool:
    """Whether some output is free of the border in an image and in its translation."""
    return any(bool(axis.comparable(m, wrap=wrap).any()) for m in axis.moves(t, wrap=wrap))


def _at_any_shift(layer: Upstream) -> Prediction | None:
    """What can be said whatever the shift: positions are weighed, or cannot be told."""
    if layer.geometry.blind:
        return Prediction("untestable", "no pixel near the edge shows in it: constant, or a comparison hides the trace")
    if layer.position:
        unless = "" if layer.geometry.grid else ", unless it is only added and all is averaged"
        return Prediction("broken", f"{layer.position} has a value for each position{unless}")
    if layer.connected and not layer.ties >= TIED:
        return Prediction("broken", f"{layer.connected} weighs positions differently (ρ = {layer.ties:.2g}, 1 is tied)")
    if layer.flat:
        return Prediction("untestable", "it keeps positions, but not as rows and columns of the image")
    if layer.stride is None:
        return Prediction("untestable", "its outputs do not lie on a regular grid of the image")
    return None


def _on_the_grid(layer: Upstream, dy: int, dx: int, where: str) -> Prediction:
    """What the strides do, where there is no border."""
    stride = layer.stride or (1, 1)
    s = "×".join(map(str, dict.fromkeys(stride)))
    if divides(stride, dy, dx):
        return Prediction("exact", f"S = {s} divides the shift; {where}")
    off = f"S = {s} does not divide the shift"
    if layer.tiled and layer.geometry.grid is None:
        return Prediction("approximate", f"{off}; but {layer.tiled} of {layer.tiled} can be those of the whole")
    if not divides(layer.skipped, dy, dx):
        unless = "" if layer.geometry.grid else ", unless all is pooled alike"
        return Prediction("broken", f"{off}: {layer.subsampling} skips positions{unless}")
    if layer.blurred:
        return Prediction("approximate", f"{off}; {layer.blurred} blurs first")
    if layer.adaptive and layer.geometry.stride in (None, layer.stride):
        return Prediction("exact", f"{layer.adaptive} chooses the positions by the data, ties aside; {where}")
    return Prediction("broken", off)


def divides(stride: Stride, dy: int, dx: int) -> bool:
    """Whether a shift is whole along rows and columns."""
    return dy % stride[0] == 0 and dx % stride[1] == 0
