"""Figures of the exercise and of the meter. Each function returns a `Figure`, and never shows or saves it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from matplotlib import rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure
from torch import Tensor

from lab.data import normalize
from lab.exercise import ExerciseResult, LayerErrors, group_by_distance, on_stride
from lab.observing import activations
from lab.shifting import shift

STYLE: Any = {  # matplotlib names every key in its type
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
COLORS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
)  # Okabe and Ito: told apart by all
MARKERS = ("o", "s", "^", "D", "v", "P")
CONTROL_COLOR = "#777777"
FIRST, SECOND = COLORS[:2]  # f(x) or T f(x), and f(T x)
CONTROL_LOOK = {"color": CONTROL_COLOR, "linestyle": "-.", "marker": "x"}


Panel = tuple[str, Float[Tensor, "_ _"], Literal["image", "feature", "difference"]]


def image_row(panels: Sequence[Panel], *, width: float = 1.9) -> Figure:
    """Images side by side, each with its title; `nan` is hatched: there is nothing to compare.

    Args:
        panels: title, values and kind of each. An `"image"` is drawn in gray from 0 to 1, ink dark; all that are a
            `"feature"` share one scale, from the least to the largest value; a `"difference"` is red above 0, blue
            below, on a scale as wide as the features' (its own, where there are none).
        width: inches for each panel.
    """
    features = [values for _, values, kind in panels if kind == "feature"]
    low, high = _range(features or [values for _, values, kind in panels if kind == "difference"])
    top = max(abs(low), abs(high))
    looks = {
        "image": ("gray_r", (0.0, 1.0)),
        "feature": ("viridis", (low, high)),
        "difference": ("RdBu_r", (-top, top)),
    }
    with rc_context(STYLE):
        figure = Figure(figsize=(width * len(panels), width + 0.3), layout="constrained")
        for axes, (title, values, kind) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            cmap, limit = looks[kind]
            _show(axes, values, title, cmap=cmap, limit=limit)
        return figure


def _range(images: Sequence[Tensor]) -> tuple[float, float]:
    """The least and the largest value that is not nan; (0, 1) where there is none."""
    values = torch.cat([image.flatten() for image in images] or [torch.zeros(0)])
    values = values[~values.isnan()]
    return (values.min().item(), values.max().item()) if len(values) else (0.0, 1.0)


def training_curve(loss: Float[Tensor, " steps"], epochs: int, *, window: int = 25) -> Figure:
    """Loss of each step, and its running mean over `window` steps, against the epoch."""
    with rc_context(STYLE):
        figure = Figure(figsize=(6.4, 2.8), layout="constrained")
        axes = figure.add_subplot()
        at = torch.arange(1, len(loss) + 1) * epochs / len(loss)
        axes.plot(at, loss, color=COLORS[0], alpha=0.3, linewidth=0.8, label="each batch")
        if len(loss) >= window:
            axes.plot(
                at[window - 1 :],
                loss.unfold(0, window, 1).mean(1),
                color=COLORS[0],
                label=f"mean of {window}",
            )
        axes.set(xlabel="epoch", ylabel="cross-entropy (nats)", ylim=(0, None), xlim=(0, epochs))
        axes.legend()
        return figure


def error_curves(result: ExerciseResult) -> Figure:
    """Error against distance with its null model: one row a network, positions left, linear layers right.

    Left, the equivariance error of each layer that keeps positions: solid at the shifts that its stride
    divides, dotted at the others. Right, the invariance error of each linear layer.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(9.6, 7.2), layout="constrained")
        grid = figure.subplots(len(result.networks), 2, sharex=True, sharey=True, squeeze=False)
        for (left, right), (name, network) in zip(grid, result.networks.items(), strict=True):
            strides = network.model.STRIDES
            for i, (layer, errors) in enumerate(network.layers.items()):
                look = {"color": COLORS[i % 6], "marker": MARKERS[i % 6], "markersize": 11 - 1.5 * i}
                if layer in strides:
                    _split_by_stride(left, result, errors, layer, strides[layer], look)
                else:
                    _line(right, result, errors.invariance, layer, look)
            _line(left, result, network.layers["conv1"].wrong_shift, "null: conv1, wrong shift", CONTROL_LOOK)
            _line(right, result, network.layers["fc1"].invariance_unrelated, "null: fc1, unrelated image", CONTROL_LOOK)
            left.set(title=f"{name}: layers that keep positions", ylabel="equivariance error on the overlap")
            right.set(title=f"{name}: linear layers", ylabel="invariance error")
            right.yaxis.set_tick_params(labelleft=True)
        for axes in grid[-1]:
            axes.set(xlabel="distance max(|dy|, |dx|) (px)", ylim=(-0.05, None))
            axes.set_xticks(sorted(group_by_distance(result.pairs)))
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize=8, ncols=2)
        return figure


def _split_by_stride(
    axes: Axes, result: ExerciseResult, errors: LayerErrors, layer: str, stride: int, look: dict[str, Any]
) -> None:
    exact = on_stride(result.pairs, stride)
    kind = "every shift" if stride == 1 else f"multiples of {stride} px"
    _line(axes, result, errors.equivariance.where(exact, torch.nan), f"{layer}, {kind}", look)
    if stride > 1:
        off = look | {"linestyle": ":", "markerfacecolor": "none"}
        _line(axes, result, errors.equivariance.where(~exact, torch.nan), f"{layer}, other shifts", off)


def _line(axes: Axes, result: ExerciseResult, values: Float[Tensor, " n"], label: str, look: dict[str, Any]) -> None:
    means = {r: values[index].nanmean().item() for r, index in group_by_distance(result.pairs).items()}
    shown = {r: mean for r, mean in means.items() if not math.isnan(mean)}  # nan: no pair of this kind there
    if shown:
        axes.plot(list(shown), list(shown.values()), label=label, clip_on=False, **look)
    else:
        axes.plot([], [], label=f"{label} (undefined)", **look)


def layer_profile(layers: Sequence[str], series: Mapping[str, Sequence[float]]) -> Figure:
    """Errors against layers in running order, on a scale that is linear up to 1e-7 and logarithmic above.

    Args:
        layers: names.
        series: what the error is of -> one value a layer, nan where it does not apply; `"null"` is drawn as such.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(min(max(6.4, 0.17 * len(layers)), 9.6), 4.4), layout="constrained")
        axes = figure.add_subplot()
        shown = [(name, values) for name, values in series.items() if not all(map(math.isnan, values))]
        for i, (name, values) in enumerate(shown):
            look: dict[str, Any] = {
                "color": COLORS[i % 6],
                "marker": MARKERS[i % 6],
                "linestyle": "none",
                "markersize": 5,
            }
            axes.plot(
                range(len(layers)), values, label=name, clip_on=False, **(CONTROL_LOOK if name == "null" else look)
            )
        every = -(-len(layers) // 40)
        names = [name if len(name) <= 24 else f"…{name[-23:]}" for name in layers[::every]]
        axes.set_xticks(range(0, len(layers), every), names, rotation=90, fontsize=7)
        axes.set_yscale("symlog", linthresh=1e-7)
        axes.set(ylabel="relative error (0 = exact)", ylim=(0, 10), xlim=(-0.5, len(layers) - 0.5))
        axes.set_yticks([0, *(10.0**k for k in range(-7, 2))])
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=5)
        return figure


def shift_figure(maps: Mapping[str, Float[Tensor, "side side"]], *, low: float = 0.0, high: float = 1.0) -> Figure:
    """Maps over all shifts side by side, on one scale; the cross marks the unshifted image.

    Args:
        maps: title -> map, whose entry `[radius + dy, radius + dx]` is drawn dy pixels down, dx to the right.
        low: value of the darkest colour.
        high: value of the lightest.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(4.2 * len(maps) + 0.6, 4.2), layout="constrained")
        panels: Any = figure.subplots(1, len(maps), squeeze=False, sharey=True)[0]
        for axes, (title, values) in zip(panels, maps.items(), strict=True):
            edge = len(values) / 2
            drawn = axes.imshow(
                values.numpy(),
                cmap="cividis",
                norm=Normalize(low, high),
                extent=(-edge, edge, edge, -edge),
                interpolation="none",
            )
            axes.plot(0, 0, marker="+", markersize=12, color="white", markeredgewidth=3)
            axes.plot(0, 0, marker="+", markersize=10, color="black", markeredgewidth=1)
            axes.set(title=title, xlabel="dx (px), right is positive")
        panels[0].set(ylabel="dy (px), down is positive")
        figure.colorbar(drawn, ax=panels, shrink=0.8)
        return figure


def pair_figure(result: ExerciseResult) -> Figure:
    """One pair through the trained network: f(x), T f(x), f(T x) and their difference, layer by layer.

    Below, the answers of the first linear layer to both. Of each layer, the channel whose activations vary
    most; hatched, where there is nothing to compare.
    """
    network = result.networks["trained"]
    i = _telling_pair(result)
    dy, dx = int(result.pairs.dy[i]), int(result.pairs.dx[i])
    pair = torch.stack([result.pairs.first[i], result.pairs.second[i]])
    found = activations(network.model, normalize(pair))
    layers = [layer for layer in network.layers if layer in network.model.STRIDES]
    with rc_context(STYLE):
        figure = Figure(figsize=(8.4, 1.9 * (len(layers) + 2)), layout="constrained")
        rows: Any = figure.subfigures(len(layers) + 2, 1)
        _images(rows[0], result, i)
        for row, layer in zip(rows[1:-1], layers, strict=True):
            maps = found[layer]
            channel = int(maps[0].flatten(1).std(1).argmax())
            stride = network.model.STRIDES[layer]
            title = layer if maps.shape[1] == 1 else f"{layer}, channel {channel} of {maps.shape[1]}"
            _feature_row(row, title, maps[:, channel], dy, dx, stride)
        _bars(rows[-1], found["fc1"])
        return figure


def _telling_pair(result: ExerciseResult) -> int:
    """The first pair moved by an odd number of pixels down and by 4 to a side: told apart by every stride."""
    wanted = (result.pairs.dy.abs() == 1) & (result.pairs.dx.abs() == 4)
    return int(wanted.long().argmax())


def _images(row: SubFigure, result: ExerciseResult, i: int) -> None:
    pairs = result.pairs
    dy, dx = int(pairs.dy[i]), int(pairs.dx[i])
    left, right, note = row.subplots(1, 3)
    for axes, image, title in ((left, pairs.first[i, 0], "x"), (right, pairs.second[i, 0], "T x")):
        _show(axes, image, title, cmap="gray_r", limit=(0.0, 1.0))
    note.axis("off")
    note.text(0, 0.5, f"T: {abs(dy)} px {'down' if dy > 0 else 'up'},\n{abs(dx)} px {'right' if dx > 0 else 'left'}")


def _feature_row(row: SubFigure, title: str, maps: Float[Tensor, "2 h w"], dy: int, dx: int, stride: int) -> None:
    my, mx = (round(t / stride) for t in (dy, dx))
    expected = shift(maps[0], my, mx, background=torch.nan)
    difference = maps[1] - expected
    limit = (float(maps.min()), float(maps.max()))
    top = max(abs(limit[0]), abs(limit[1]))
    panels = (
        (maps[0], "f(x)", "viridis", limit),
        (expected, f"T f(x): by {my}, {mx}", "viridis", limit),
        (maps[1], "f(T x)", "viridis", limit),
        (
            difference,
            f"difference, largest {difference.abs().nan_to_num(0).max():.2g}",
            "RdBu_r",
            (-top, top),
        ),
    )
    for axes, (image, name, cmap, bounds) in zip(row.subplots(1, 4), panels, strict=True):
        _show(axes, image, name, cmap=cmap, limit=bounds)
    row.suptitle(f"{title}, total stride {stride}", x=0.02, ha="left", fontsize=10)


def _show(axes: Axes, image: Float[Tensor, "h w"], title: str, *, cmap: str, limit: tuple[float, float]) -> None:
    axes.set_facecolor("none")
    axes.patch.set(hatch="////", edgecolor=CONTROL_COLOR)
    axes.imshow(image.numpy(), cmap=cmap, norm=Normalize(*limit), interpolation="none")  # each pixel stays one
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=9)
    axes.spines[:].set_visible(True)


def _bars(row: SubFigure, answers: Float[Tensor, "2 features"]) -> None:
    axes = row.subplots()
    shown = answers[:, :10].numpy()
    at = np.arange(shown.shape[1])
    for offset, values, label, hatch in ((-0.2, shown[0], "f(x)", ""), (0.2, shown[1], "f(T x)", "////")):
        color = COLORS[0] if hatch == "" else COLORS[1]
        axes.bar(at + offset, values, 0.4, label=label, color=color, hatch=hatch, edgecolor="white")
    axes.axhline(0, color=rcParams["axes.edgecolor"], linewidth=0.8)
    axes.set(xticks=at.tolist(), xlabel=f"output of fc1 (first {len(at)} of {answers.shape[1]})")
    axes.legend(fontsize=8)
    row.suptitle("fc1", x=0.02, ha="left", fontsize=10)
