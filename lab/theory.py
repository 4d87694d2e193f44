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
ran earlier.

Source:
    R. Zhang, ICML 2019, arXiv:1904.11486 (BlurPool); A. Chaman and I. Dokmanić, CVPR 2021, arXiv:2011.14214 (adaptive
    polyphase sampling); O. Kayhan and J. van Gemert, CVPR 2020, arXiv:2003.07064 (padding).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.pooling import _AvgPoolNd, _MaxPoolNd

from lab.activations import module_of, observing
from lab.errors import InputError
from lab.geometry import Axis, LayerGeometry
from lab.models import evaluating

Expectation = Literal["exact", "approximate", "broken", "untestable"]


@dataclass(frozen=True)
class Prediction:
    """What theory says, and why, in words for people."""

    expectation: Expectation
    why: str


@dataclass(frozen=True)
class Path:
    """What lies between the image and a layer's output, as far as theory asks; `""` where there is no such thing.

    Attributes:
        geometry: of the layer itself.
        last_map: the same of the last layer that keeps positions, itself included.
        stride: total stride of that layer along rows and columns; None if its positions lie on no regular grid.
        circular: nothing before ends at the frame: no padding but circular, and each stride divides its input.
        position: the parameter that has a value for each position.
        connected: the fully connected layer that took a map with its positions.
        ties: ρ of that layer's weights, 1 if they are equal at all positions.
        mixing: the first layer of which every output sees the whole image.
        is_global: whether that is a global operation, rather than a reach beyond the image.
        subsampling: the first stride that is neither blurred nor adaptive.
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
    mixing: str = ""
    is_global: bool = False
    subsampling: str = ""
    blurred: str = ""
    adaptive: str = ""


def paths(model: nn.Module, image: Float[Tensor, "1 c h w"], geometry: Mapping[str, LayerGeometry]) -> dict[str, Path]:
    """What lies before each of the layers in `geometry`, as [`trace`][lab.geometry.trace] gives it for all layers."""
    modules = dict(model.named_modules(remove_duplicate=False))
    positional = _position_parameters(model, image, geometry)
    found: dict[str, Path] = {}
    whole = LayerGeometry(tuple(image.shape[1:]))
    path = Path(whole, whole)
    for name, layer in geometry.items():
        module = modules[module_of(name)]
        path = replace(path, geometry=layer, position=positional.get(name, ""))
        path = _sampled(path, name, modules)
        if layer.grid is not None:
            closes = _closes(layer.grid.y) and _closes(layer.grid.x) and not _pads_with_values(module)
            path = replace(path, stride=layer.grid.stride, circular=path.circular and closes, last_map=layer)
        if layer.sees_all and not path.mixing:
            by_reach = isinstance(module, _STRIDED) and layer.grid is not None
            path = replace(path, mixing=name, is_global=not by_reach)
        if not path.connected and layer.grid is None and _takes_positions(module, path.last_map):
            flattened = module.weight[0].numel() == math.prod(path.last_map.shape)
            path = replace(path, connected=name, ties=orbit_share(module, path.last_map) if flattened else 0.0)
        found[name] = path
    return found


_STRIDED = (_ConvNd, _AvgPoolNd, _MaxPoolNd)


def _closes(axis: Axis) -> bool:
    """Whether the outputs fit the circle, and no window was seen to end at the frame."""
    return axis.rolls and (axis.circular or axis.reach is None)


def _sampled(path: Path, name: str, modules: Mapping[str, nn.Module]) -> Path:
    """Note where a stride comes from; a class that is called BlurPool or the like vouches for what is inside it."""
    parts = module_of(name).split(".")
    owners = [type(modules[".".join(parts[: i + 1])]).__name__.lower().replace("_", "") for i in range(len(parts))]
    module = modules[module_of(name)]
    if any("blurpool" in owner for owner in owners):
        return replace(path, blurred=path.blurred or name)
    if any("polyphase" in owner or owner.startswith("aps") for owner in owners):
        return replace(path, adaptive=path.adaptive or name)
    if isinstance(module, _STRIDED) and max(_pair(module.stride)) > 1:
        return replace(path, subsampling=path.subsampling or name)
    return path


def _pair(sizes: object) -> tuple[int, ...]:
    return sizes if isinstance(sizes, tuple) else (sizes,)


def _pads_with_values(module: nn.Module) -> bool:
    """Whether a module pads, and not circularly: zeros, -inf, copies of the border."""
    if not isinstance(module, _STRIDED) or module.padding == "valid":
        return False
    padded = isinstance(module.padding, str) or max(_pair(module.padding)) > 0
    return padded and getattr(module, "padding_mode", "zeros") != "circular"


def _takes_positions(module: nn.Module, last_map: LayerGeometry) -> bool:
    """Whether a layer without positions weighs each position of the last map by itself."""
    if isinstance(module, nn.Linear) and last_map.grid is not None:
        positions = math.prod(last_map.grid.layout.size) + last_map.grid.layout.prefix
        return module.in_features in (math.prod(last_map.shape), positions)
    return isinstance(module, nn.Conv2d) and math.prod(module.kernel_size) > 1


def orbit_share(layer: nn.Linear | nn.Conv2d, before: LayerGeometry) -> float:
    """ρ = ‖Π W‖² / ‖W‖², where Π averages the weights of each channel over the positions of the layer before.

    Args:
        layer: fully connected, or a convolution as large as the map.
        before: geometry of the layer whose output it takes, flattened.

    Returns:
        In [0, 1]. 1 = equal at all positions, invariant by construction; 1 / positions = what random weights give;
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
                for layer in _depends_on(model, image, name, value):
                    found.setdefault(layer, name)
    return found


def _varies_over(value: Tensor, whole: Sequence[int], dims: Sequence[int]) -> bool:
    """Whether a tensor broadcasts to `whole`, and is not the same all along `dims`."""
    shape = (1,) * (len(whole) - value.dim()) + tuple(value.shape)
    if len(shape) != len(whole) or any(a not in (1, b) for a, b in zip(shape, whole, strict=True)):
        return False
    value = value.reshape(shape)
    return any(bool((value != value.narrow(dim, 0, 1)).any()) for dim in dims)


def _depends_on(model: nn.Module, image: Tensor, name: str, value: Tensor) -> set[str]:
    touched: set[str] = set()

    def see(layer: str, a: Tensor) -> None:
        if bool(a.isnan().any()):
            touched.add(layer)

    with observing(model, dict(model.named_modules()), see), evaluating(model, image.device):
        functional_call(model, {name: torch.full_like(value, torch.nan)}, (image,))
    return touched


def predict(path: Path, dy: int, dx: int, *, wrap: bool = False) -> Prediction:
    """What theory says of a layer under a shift: of its equivariance, or of its invariance if it keeps no positions.

    Args:
        path: from [`paths`][lab.theory.paths].
        dy: pixels down.
        dx: pixels right.
        wrap: whether the shift is circular.
    """
    if path.position:
        return Prediction("broken", f"{path.position} has a value for each position")
    if path.connected and path.ties < 1 - 1e-6:
        return Prediction("broken", f"{path.connected} weighs positions differently (ρ = {path.ties:.2g}, 1 is tied)")
    if path.stride is None:
        return Prediction("untestable", "its outputs do not lie on a regular grid of the image")
    divides = all(t % s == 0 for t, s in zip((dy, dx), path.stride, strict=True))
    layer = path.geometry
    if wrap and path.circular:
        return _on_the_grid(path, divides, "everywhere, for nothing before it ends at the frame")
    if layer.grid is None:
        return _pooled(path, divides)
    if layer.sees_all:
        return _mixed(path)
    if path.adaptive:
        return Prediction(
            "approximate", f"{path.adaptive} chooses the positions by the data, and the border is part of it"
        )
    free = [
        bool(any(axis.comparable(m, wrap=wrap).any() for m in axis.moves(t)))
        for axis, t in ((layer.grid.y, dy), (layer.grid.x, dx))
    ]
    if not all(free):
        axis, t = (layer.grid.x, dx) if free[0] else (layer.grid.y, dy)
        reach = f"{axis.reach} px" if axis.reach else "more than the image"
        return Prediction(
            "untestable", f"reach {reach}, image {axis.size} px, shift {t} px: no output is free of the border"
        )
    return _on_the_grid(path, divides, "away from the border", whole=False)


def _on_the_grid(path: Path, divides: bool, where: str, *, whole: bool = True) -> Prediction:
    s = "×".join(map(str, dict.fromkeys(path.stride or ())))
    if divides:
        return Prediction("exact", f"S = {s} divides the shift; {where}")
    if path.subsampling:
        return Prediction("broken", f"S = {s} does not divide the shift: {path.subsampling} skips positions")
    if path.adaptive and not path.blurred:
        return Prediction(
            "exact" if whole else "approximate", f"{path.adaptive} chooses the positions by the data; {where}"
        )
    if path.blurred:
        return Prediction("approximate", f"S = {s} does not divide the shift; {path.blurred} blurs first")
    return Prediction("broken", f"S = {s} does not divide the shift")


def _pooled(path: Path, divides: bool) -> Prediction:
    if divides or path.blurred or path.adaptive:
        return Prediction("approximate", "pooled over all positions; what crosses the border changes it")
    return Prediction("broken", f"S = {'×'.join(map(str, dict.fromkeys(path.stride or ())))} does not divide the shift")


def _mixed(path: Path) -> Prediction:
    if path.is_global:
        return Prediction("broken", f"from {path.mixing} on, every output sees the whole image, the border included")
    return Prediction(
        "untestable", f"from {path.mixing} on, the reach is larger than the image: no output is free of the border"
    )
