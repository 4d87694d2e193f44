"""Figures of a run, drawn from the rows of its evidence or from one of its pairs, and of shift maps."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure
from torch import Tensor

from lab.data import normalize
from lab.exercise import ExerciseResult
from lab.observing import activations
from lab.plotting import COLORS, CONTROL_LOOK, FIRST, MARKERS, SECOND, Panel, draw_panels, drawing
from lab.shifting import shift

Rows = Sequence[dict[str, Any]]


@drawing()
def error_curves(found: dict[str, Any]) -> Figure:
    """Error against distance with its control: one row for each network, positions left, linear layers right.

    Left, the equivariance error of each layer that keeps positions: solid at the shifts that its stride
    divides, dotted at the others. Right, the invariance error of each linear layer.

    Args:
        found: the [evidence][lab.reporting.evidence.collect_evidence] of a run.
    """
    networks = list(found["evaluation"])
    figure = Figure(figsize=(9.6, 7.2), layout="constrained")
    grid = figure.subplots(len(networks), 2, sharex=True, sharey=True, squeeze=False)
    for (left, right), network in zip(grid, networks, strict=True):
        _network_curves(left, right, [row for row in found["measurements"] if row["network"] == network])
        left.set(title=f"{network}: layers that keep positions", ylabel="equivariance error on the overlap")
        right.set(title=f"{network}: linear layers", ylabel="invariance error")
        right.yaxis.set_tick_params(labelleft=True)
    for axes in grid[-1]:
        axes.set(xlabel="distance max(|dy|, |dx|) (px)", ylim=(-0.05, None))
        axes.set_xticks(sorted({row["distance"] for row in found["measurements"]}))
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize=8, ncols=2)
    return figure


def _network_curves(left: Axes, right: Axes, rows: Rows) -> None:
    strides = {row["layer"]: row["stride"] for row in rows}
    for i, (layer, stride) in enumerate(strides.items()):
        look = {"color": COLORS[i % 6], "marker": MARKERS[i % 6], "markersize": 11 - 1.5 * i}
        if stride is None:
            _line(right, rows, layer, "invariance", layer, look)
            continue
        kind = "every shift" if stride == 1 else f"multiples of {stride} px"
        _line(left, rows, layer, "equivariance_on_stride", f"{layer}, {kind}", look)
        if stride > 1:
            off = look | {"linestyle": ":", "markerfacecolor": "none"}
            _line(left, rows, layer, "equivariance_off_stride", f"{layer}, other shifts", off)
    _line(left, rows, "conv1", "wrong_shift", "control: conv1, wrong shift", CONTROL_LOOK)
    _line(right, rows, "fc1", "invariance_unrelated", "control: fc1, unrelated image", CONTROL_LOOK)


def _line(axes: Axes, rows: Rows, layer: str, error: str, label: str, look: Mapping[str, Any]) -> None:
    """One error of a layer against distance, at the distances at which it is defined."""
    own = [row for row in rows if row["layer"] == layer and row[error] not in (None, "nan")]
    distances, errors = [row["distance"] for row in own], [float(row[error]) for row in own]
    label = label if own else f"{label} (undefined)"
    axes.plot(distances, errors, label=label, clip_on=not own, **look)  # a line without points has no size, unclipped


@drawing()
def pair_figure(result: ExerciseResult) -> Figure:
    """One pair through the trained network: f(x), T f(x), f(T x) and their difference, layer by layer.

    Each layer is shown by the channel whose activations vary most; hatched means that there is nothing to compare.
    Below are the outputs of the first linear layer for both images. If there is such a pair, it is moved by 1 pixel up
    or down and by 4 to a side, so that a stride of 2 or 4 divides only one of the two.
    """
    model, pairs = result.networks["trained"].model, result.pairs
    i = int(((pairs.dy.abs() == 1) & (pairs.dx.abs() == 4)).long().argmax())
    dy, dx = int(pairs.dy[i]), int(pairs.dx[i])
    images = torch.stack([pairs.first[i], pairs.second[i]])
    found = activations(model, normalize(images))
    layers = [layer for layer in result.networks["trained"].layers if layer in model.STRIDES]
    figure = Figure(figsize=(8.4, 1.9 * (len(layers) + 2)), layout="constrained")
    rows: Any = figure.subfigures(len(layers) + 2, 1)
    left, right, note = rows[0].subplots(1, 3)
    draw_panels([left, right], [("x", images[0, 0], "image"), ("T x", images[1, 0], "image")])
    note.axis("off")
    note.text(0, 0.5, f"T: {abs(dy)} px {'down' if dy > 0 else 'up'},\n{abs(dx)} px {'right' if dx > 0 else 'left'}")
    for row, layer in zip(rows[1:-1], layers, strict=True):
        _feature_panels(row, layer, found[layer], dy, dx, model.STRIDES[layer])
    _bars(rows[-1], found["fc1"])
    return figure


def _feature_panels(row: SubFigure, layer: str, maps: Float[Tensor, "2 c h w"], dy: int, dx: int, stride: int) -> None:
    channel = int(maps[0].flatten(1).std(1).argmax())
    first, second = maps[:, channel]
    my, mx = round(dy / stride), round(dx / stride)
    expected = shift(first, my, mx, background=torch.nan)
    difference = second - expected
    largest = difference.abs().nan_to_num(0).max()
    panels: list[Panel] = [("f(x)", first, "feature"), (f"T f(x): by {my}, {mx}", expected, "feature")]
    panels += [("f(T x)", second, "feature"), (f"difference, largest {largest:.2g}", difference, "difference")]
    draw_panels(row.subplots(1, 4), panels)
    which = layer if maps.shape[1] == 1 else f"{layer}, channel {channel} of {maps.shape[1]}"
    row.suptitle(f"{which}, total stride {stride}", x=0.02, ha="left", fontsize=10)


def _bars(row: SubFigure, outputs: Float[Tensor, "2 features"]) -> None:
    axes = row.subplots()
    first, second = outputs[:, :10].numpy()
    at = torch.arange(len(first)).numpy()
    axes.bar(at - 0.2, first, 0.4, label="f(x)", color=FIRST, edgecolor="white")
    axes.bar(at + 0.2, second, 0.4, label="f(T x)", color=SECOND, edgecolor="white", hatch="////")
    axes.axhline(0, color=rcParams["axes.edgecolor"], linewidth=0.8)
    axes.set(xticks=at.tolist(), xlabel=f"output of fc1 (first {len(at)} of {outputs.shape[1]})")
    axes.legend(fontsize=8)
    row.suptitle("fc1", x=0.02, ha="left", fontsize=10)


@drawing()
def shift_figure(title: str, values: Float[Tensor, "side side"]) -> Figure:
    """A map over all shifts, from 0 to 1; the cross marks the unshifted image.

    Args:
        title: of the figure.
        values: entry `[radius + dy, radius + dx]` is drawn dy pixels down, dx to the right.
    """
    figure = Figure(figsize=(4.8, 4.2), layout="constrained")
    axes, edge = figure.add_subplot(), len(values) / 2
    extent, scale = (-edge, edge, edge, -edge), Normalize(0, 1)
    drawn = axes.imshow(values.numpy(), cmap="cividis", norm=scale, extent=extent, interpolation="none")
    axes.plot(0, 0, marker="+", markersize=12, color="white", markeredgewidth=3)
    axes.plot(0, 0, marker="+", markersize=10, color="black", markeredgewidth=1)
    axes.set(title=title, xlabel="dx (px), right is positive", ylabel="dy (px), down is positive")
    figure.colorbar(drawn, ax=axes, shrink=0.8)
    return figure
