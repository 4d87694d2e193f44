"""What theory predicts for a layer and a shift, from the geometry of its outputs and the kinds of modules before it.

The table that this follows, with S the layer's total stride and t the shift:

| before the layer | S divides t | S does not divide t |
|---|---|---|
| convolution, pointwise, batch norm in evaluation mode, pooling | exact on J; everywhere on a ring | broken |
| BlurPool in place of each stride | exact on J; everywhere on a ring | approximate |
| adaptive polyphase sampling | exact up to m on a ring, else approximate | the same |
| a global operation (group norm, squeeze-excite, attention) | exact on a ring, else broken | as the strides |
| a fully connected layer, unless its weights are equal at all positions | broken | broken |
| a parameter that differs between positions | broken | broken |

On a ring: shifts are circular, all padding is, and every stride divides the size of its input. A vector pooled over
all positions is invariant where the map before it is equivariant on a ring; else approximately. "Before" is whatever
ran earlier; of fully connected layers and parameters, what the layer depends on. "Approximate" is of images whose
neighbouring pixels are alike. Not seen, and taken for absent: positions that a forward function computes, padding in a
function after a global operation. A class is taken at its word if its name ends in BlurPool, ApsPool or the like.

Source:
    R. Zhang, ICML 2019, arXiv:1904.11486 (BlurPool); A. Chaman and I. Dokmanić, CVPR 2021, arXiv:2011.14214 (adaptive
    polyphase sampling); O. Kayhan and J. van Gemert, CVPR 2020, arXiv:2003.07064 (padding).
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.pooling import _AvgPoolNd, _MaxPoolNd

from lab.errors import InputError
from lab.metering.receptive_fields import Axis, Grid, LayerGeometry, Layout
from lab.observing import evaluating, module_of, observing

Expectation = Literal["exact", "approximate", "broken", "untestable"]


@dataclass(frozen=True)
class Prediction:
    """What theory says, and why, in words for people; `unless_blank` if only content at the frame shows it."""

    expectation: Expectation
    why: str
    unless_blank: bool = False


@dataclass(frozen=True)
class Path:
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
        is_global: whether that is a global operation, rather than a reach beyond the image.
        subsampling: the last stride that is neither blurred nor adaptive; `skipped` is the total stride there.
        tiled: how the windows of the last map were pooled, `"averages"` or `"maxima"`, if they lie side by side.
        blurred: the first BlurPool.
        adaptive: the first adaptive polyphase sampling.
    """

    geometry: LayerGeometry
    last_map: LayerGeometry
    stride: tuple[int, int] | None = (1, 1)
    circular: bool = True
    position: str = ""
    connected: str = ""
    ties: float = 0.0
    flat: bool = False
    mixing: str = ""
    is_global: bool = False
    subsampling: str = ""
    skipped: tuple[int, int] = (1, 1)
    tiled: str = ""
    blurred: str = ""
    adaptive: str = ""


def paths(model: nn.Module, image: Float[Tensor, "1 c h w"], geometry: Mapping[str, LayerGeometry]) -> dict[str, Path]:
    """What lies before each of the layers in `geometry`, which [`trace`][lab.metering.receptive_fields.trace] gives."""
    modules = dict(model.named_modules(remove_duplicate=False))
    positional = _position_parameters(model, image, geometry)
    connected: dict[str, tuple[str, float]] = {}
    found: dict[str, Path] = {}
    h, w = image.shape[-2:]
    each = (Axis(n, n, stride=1, reach=1, offset=0, interior=range(n), circular=True) for n in (h, w))
    pixels = LayerGeometry(tuple(image.shape[1:]), Grid(Layout((2, 3), (h, w)), *each))
    path = Path(pixels, pixels)
    for name, layer in geometry.items():
        module, label = modules[module_of(name)], name or "the model"
        path = _mapped(_sampled(path, name, layer, modules), layer, module)
        if layer.sees_all and not path.mixing:
            by_reach = isinstance(module, _STRIDED) and layer.grid is not None
            path = replace(path, mixing=label, is_global=not by_reach)
        if name not in connected and _takes_positions(module, layer, path.last_map):
            flattened = module.weight[0].numel() == math.prod(path.last_map.shape)
            ties = orbit_share(module, path.last_map) if flattened else math.nan
            later = _depends_on(model, image, {f"{module_of(name)}.{kind}": p for kind, p in module.named_parameters()})
            connected |= {after: (label, ties) for after in later if connected.get(after, ("", 1))[1] >= TIED}
        head, ties = connected.get(name, ("", 0.0))
        path = replace(path, flat=not head and _is_flat(path, name, layer, module), geometry=layer)
        path = replace(path, position=positional.get(name, ""), connected=head, ties=ties)
        found[name] = path
    return found


TIED = 1 - 1e-6  # ρ is a sum of squares in float64; weights that differ in their last bit of float32 pass
_STRIDED = (_ConvNd, _AvgPoolNd, _MaxPoolNd)
_BLURS = re.compile(r"blur_?(max|avg)?_?pool(ing)?_?(\dd)?$", re.IGNORECASE)
_ADAPTS = re.compile(r"(^aps|polyphase\w*?)_?(pool(ing)?|down|(down)?sampl(e|ing))_?(\dd)?$|^aps$", re.IGNORECASE)


def _mapped(path: Path, layer: LayerGeometry, module: nn.Module) -> Path:
    """Note the stride of a map and whether it closes the circle: as traced, else from its size and what came before."""
    if layer.grid is None:
        return path
    axes, stride = (layer.grid.y, layer.grid.x), layer.grid.stride
    if not (known := all(axis.reach for axis in axes)):
        stride = (max(stride[0], path.stride[0]), max(stride[1], path.stride[1])) if stride and path.stride else None
    closes = layer.grid.circular if known else all(axis.rolls for axis in axes)
    circular = path.circular and (isinstance(module, nn.CircularPad2d) or (closes and not _pads_with_values(module)))
    return replace(path, stride=stride, circular=circular, last_map=layer)


def _sampled(path: Path, name: str, layer: LayerGeometry, modules: Mapping[str, nn.Module]) -> Path:
    """Note where a stride comes from; a class that is called BlurPool or the like vouches for what is inside it."""
    parts, module = module_of(name).split("."), modules[module_of(name)]
    owners = [type(modules[".".join(parts[:i])]).__name__ for i in range(len(parts) + 1)]
    path = replace(path, tiled=_tiled(path, layer, module))
    name = name or "the model"
    if any(map(_BLURS.search, owners)):
        return replace(path, blurred=path.blurred or name)
    if any(map(_ADAPTS.search, owners)):
        return replace(path, adaptive=path.adaptive or name)
    stride = layer.grid and layer.grid.stride
    strided = isinstance(module, _STRIDED) and max(_pair(module.stride)) > 1
    grows = any(after > before for after, before in zip(stride or (1, 1), path.stride or (1, 1), strict=True))
    return replace(path, subsampling=name, skipped=stride) if stride and (strided or grows) else path


def _tiled(path: Path, layer: LayerGeometry, module: nn.Module) -> str:
    """How the last map was pooled, unless something came after it, or a vector is pooled another way."""
    kinds = {"averages": (_AvgPoolNd, nn.AdaptiveAvgPool2d), "maxima": (_MaxPoolNd, nn.AdaptiveMaxPool2d)}
    kind = next((kind for kind, classes in kinds.items() if isinstance(module, classes)), "")
    if isinstance(module, _STRIDED) and kind and layer.grid is not None:
        return kind if _pair(module.kernel_size) == _pair(module.stride) and not _pads_with_values(module) else ""
    keeps = layer.grid is None or any(module.children()) or (isinstance(module, nn.ReLU) and path.tiled == "maxima")
    return path.tiled if keeps and kind in ("", path.tiled) else ""


def _is_flat(path: Path, name: str, layer: LayerGeometry, module: nn.Module) -> bool:
    """Whether positions are there but not seen: flattened, tokens, some of the image's, pairs of them in attention."""
    if layer.grid is not None:
        return isinstance(module, nn.MultiheadAttention) and name.endswith("[1]")
    follows = (path.geometry.grid is not None or path.flat) and not isinstance(module, nn.Linear)
    flattened = follows and math.prod(layer.shape) == math.prod(path.last_map.shape)
    return flattened or not layer.sees_all or sum(size > 1 for size in layer.shape) > 1


def _pair(sizes: object) -> tuple[int, ...]:
    return sizes if isinstance(sizes, tuple) else (sizes,)


def _pads_with_values(module: nn.Module) -> bool:
    """Whether a module pads, and not circularly: zeros, -inf, copies of the border."""
    if not isinstance(module, _STRIDED) or module.padding == "valid":
        return False
    padded = isinstance(module.padding, str) or max(_pair(module.padding)) > 0
    return padded and getattr(module, "padding_mode", "zeros") != "circular"


def _takes_positions(module: nn.Module, layer: LayerGeometry, last_map: LayerGeometry) -> bool:
    """Whether a layer without positions weighs each position of the last map by itself."""
    if layer.grid is not None or last_map.grid is None:
        return False
    if isinstance(module, nn.Linear):  # of the whole map, or of each channel by itself
        positions = math.prod(last_map.grid.layout.size) + last_map.grid.layout.prefix
        by_channel = module.in_features == positions and 1 < math.prod(layer.shape[:-1]) != positions
        return by_channel or module.in_features == math.prod(last_map.shape)
    return isinstance(module, nn.Conv2d) and math.prod(module.kernel_size) > 1


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
    maps = before.grid.layout.maps(weight.reshape(-1, *before.shape)).flatten(2)
    return (maps.mean(2).square().sum() * maps.shape[2] / maps.square().sum()).item()


def _position_parameters(model: nn.Module, image: Tensor, geometry: Mapping[str, LayerGeometry]) -> dict[str, str]:
    """Layer -> the parameter with a value for each position on which it depends: NaN in it, and see where that goes."""
    found: dict[str, str] = {}
    grids = [(tuple(image.shape), (2, 3))]
    grids += [((1, *layer.shape), layer.grid.layout.dims) for layer in geometry.values() if layer.grid]
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

    def see(layer: str, a: Tensor) -> None:
        if bool(a.isnan().any()):
            touched.add(layer)

    with observing(model, dict(model.named_modules()), see), evaluating(model, image.device):
        functional_call(model, {name: torch.full_like(p, torch.nan) for name, p in parameters.items()}, (image,))
    return touched


def predict(path: Path, dy: int, dx: int, *, wrap: bool = False) -> Prediction:
    """What theory says of a layer under a shift: of its equivariance, or of its invariance if it keeps no positions.

    Args:
        path: from [`paths`][lab.metering.theory.paths].
        dy: pixels down.
        dx: pixels right.
        wrap: whether the shift is circular.
    """
    if dy == dx == 0:
        return Prediction("exact", "nothing moves")
    if path.geometry.blind:
        return Prediction("untestable", "no pixel near the edge shows in it: constant, or a comparison hides the trace")
    if path.position:
        unless = "" if path.geometry.grid else ", unless it is only added and all is averaged"
        return Prediction("broken", f"{path.position} has a value for each position{unless}")
    if path.connected and not path.ties >= TIED:
        return Prediction("broken", f"{path.connected} weighs positions differently (ρ = {path.ties:.2g}, 1 is tied)")
    if path.flat:
        return Prediction("untestable", "it keeps positions, but not as rows and columns of the image")
    if path.stride is None:
        return Prediction("untestable", "its outputs do not lie on a regular grid of the image")
    layer = path.geometry
    if wrap and path.circular:
        return _on_the_grid(path, dy, dx, "everywhere, for nothing before it ends at the frame")
    if layer.grid is None:
        on_a_ring = _on_the_grid(path, dy, dx, "")
        pooled = Prediction("approximate", "pooled over all positions; what crosses the border changes it")
        return on_a_ring if on_a_ring.expectation == "broken" else pooled
    if layer.sees_all and path.is_global:
        why = f"from {path.mixing} on, every output sees the whole image, the border included"
        return Prediction("broken", why, unless_blank=True)
    if path.adaptive:
        return Prediction("approximate", f"{path.adaptive} chooses the positions by the data, the border included")
    for axis, t in ((layer.grid.y, dy), (layer.grid.x, dx)):
        if not any(axis.comparable(m, wrap=wrap).any() for m in axis.moves(t)):
            reach = f"reach {axis.reach} px" if axis.reach else "windows unlike each other, or larger than the image"
            return Prediction("untestable", f"{reach}; image {axis.size} px, shift {t} px: none is free of the border")
    return _on_the_grid(path, dy, dx, "away from the border")


def _on_the_grid(path: Path, dy: int, dx: int, where: str) -> Prediction:
    """What the strides do, where there is no border."""
    s = "×".join(map(str, dict.fromkeys(path.stride or ())))
    if all(t % stride == 0 for t, stride in zip((dy, dx), path.stride or (), strict=True)):
        return Prediction("exact", f"S = {s} divides the shift; {where}")
    off = f"S = {s} does not divide the shift"
    if path.tiled and path.geometry.grid is None:
        return Prediction("approximate", f"{off}; but {path.tiled} of {path.tiled} can be those of the whole")
    if any(t % stride for t, stride in zip((dy, dx), path.skipped, strict=True)):
        unless = "" if path.geometry.grid else ", unless all is pooled alike"
        return Prediction("broken", f"{off}: {path.subsampling} skips positions{unless}")
    if path.blurred:
        return Prediction("approximate", f"{off}; {path.blurred} blurs first")
    if path.adaptive and (path.geometry.grid is None or path.geometry.grid.stride == path.stride):
        return Prediction("exact", f"{path.adaptive} chooses the positions by the data, ties aside; {where}")
    return Prediction("broken", off)
