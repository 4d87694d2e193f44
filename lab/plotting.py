"""The look of the lab's figures, and those that pages and the meter draw. Each function returns a `Figure`."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.style import context
from torch import Tensor

from lab.errors import OutputError

STYLE = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
REPEATABLE = {"svg.hashsalt": "equivariance-lab"}  # the same figure gives the same bytes
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito: told apart by all
MARKERS = ("o", "s", "^", "D", "v", "P")
FIRST, SECOND = COLORS[:2]  # f(x) or T f(x), and f(T x)
CONTROL_COLOR = "#777777"
CONTROL_LOOK: dict[str, Any] = {"color": CONTROL_COLOR, "linestyle": "-.", "marker": "x"}
DPI = 144

Panel = tuple[str, Float[Tensor, "_ _"], Literal["image", "feature", "difference"]]


@contextmanager
def drawing() -> Iterator[None]:
    """Draw and save by matplotlib's defaults and `STYLE`, whatever a matplotlibrc says.

    Its colours alone are kept: on a page of the course, they are what the page's ink is made of.
    """
    colors: dict[str, Any] = {str(key): rcParams[key] for key in rcParams if key.endswith("color")}
    with context(["default", colors, STYLE, REPEATABLE]):
        yield


@drawing()
def save_figure(figure: Figure, path: Path) -> None:
    """Save a figure in the format that the file's name says.

    Raises:
        OutputError: the disk does not take it, or the format is unknown.
    """
    try:
        figure.savefig(path, dpi=DPI)
    except (OSError, ValueError) as error:
        raise OutputError(f"the figure cannot be written to {path}: {error}") from error


@drawing()
def image_row(panels: Sequence[Panel], *, width: float = 1.9) -> Figure:
    """Images side by side, each with its title; `nan` is hatched: there is nothing to compare.

    Args:
        panels: title, values and kind of each. An `"image"` is drawn in gray from 0 to 1, ink dark; all that are a
            `"feature"` share one scale, from the least to the largest value; a `"difference"` is red above 0, blue
            below, on a scale as wide as the features' (its own, where there are none).
        width: inches for each panel.

    Examples:
        >>> import torch
        >>> from lab.plotting import image_row
        >>> figure = image_row([("x", torch.rand(28, 28), "image"), ("f(x)", torch.randn(27, 27), "feature")])
        >>> [axes.get_title() for axes in figure.axes]
        ['x', 'f(x)']
    """
    figure = Figure(figsize=(width * len(panels), width + 0.3), layout="constrained")
    draw_panels(figure.subplots(1, len(panels), squeeze=False)[0], panels)
    return figure


def draw_panels(grid: Iterable[Axes], panels: Sequence[Panel]) -> None:
    """Draw each panel of [`image_row`][lab.plotting.image_row] on its axes."""
    features = [values for _, values, kind in panels if kind == "feature"]
    low, high = _range(features or [values for _, values, kind in panels if kind == "difference"])
    top = max(abs(low), abs(high))
    looks = {"image": ("gray_r", 0.0, 1.0), "feature": ("viridis", low, high), "difference": ("RdBu_r", -top, top)}
    for axes, (title, values, kind) in zip(grid, panels, strict=True):
        axes.set_facecolor("none")
        axes.patch.set(hatch="////", edgecolor=CONTROL_COLOR)
        cmap, least, most = looks[kind]
        axes.imshow(values.numpy(), cmap, Normalize(least, most), interpolation="none")  # each pixel stays one
        axes.set(xticks=[], yticks=[])
        axes.set_title(title, fontsize=9, parse_math=False)
        axes.spines[:].set_visible(True)


def _range(images: Sequence[Tensor]) -> tuple[float, float]:
    """The least and the largest value that is not nan; (0, 1) where there is none."""
    values = torch.cat([image[~image.isnan()] for image in images] or [torch.zeros(0)])
    return (values.min().item(), values.max().item()) if len(values) else (0.0, 1.0)


@drawing()
def training_curve(loss: Float[Tensor, " steps"], epochs: int, *, window: int = 25) -> Figure:
    """Loss of each step, and its running mean over `window` steps, against the epoch."""
    figure = Figure(figsize=(6.4, 2.8), layout="constrained")
    axes = figure.add_subplot()
    at = torch.arange(1, len(loss) + 1) * epochs / len(loss)
    axes.plot(at, loss, color=COLORS[0], alpha=0.3, linewidth=0.8, label="each batch")
    if len(loss) >= window:
        means = loss.unfold(0, window, 1).mean(1)
        axes.plot(at[window - 1 :], means, color=COLORS[0], label=f"mean of {window}")
    axes.set(xlabel="epoch", ylabel="cross-entropy (nats)", ylim=(0, None), xlim=(0, epochs))
    axes.legend()
    return figure


@drawing()
def layer_profile(layers: Sequence[str], series: Mapping[str, Sequence[float]]) -> Figure:
    """Errors against layers in running order, on a scale that is linear up to 1e-7 and logarithmic above.

    Args:
        layers: names.
        series: what the error is of -> one value a layer, nan where it does not apply; `"control"` looks like one.
    """
    figure = Figure(figsize=(min(max(6.4, 0.17 * len(layers)), 9.6), 4.4), layout="constrained")
    axes = figure.add_subplot()
    shown = {name: values for name, values in series.items() if not all(map(math.isnan, values))}
    for i, (name, values) in enumerate(shown.items()):
        own = {"color": COLORS[i % 6], "marker": MARKERS[i % 6], "linestyle": "none", "markersize": 5}
        look = CONTROL_LOOK if name == "control" else own
        axes.plot(range(len(layers)), values, label=name, clip_on=False, **look)
    _layer_axis(axes, layers)
    axes.set_yscale("symlog", linthresh=1e-7)
    axes.set(ylabel="relative error (0 = exact)", ylim=(0, 10))
    axes.set_yticks([0, *(10.0**k for k in range(-7, 2))])
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=5)
    return figure


def _layer_axis(axes: Axes, layers: Sequence[str]) -> None:
    """The names of at most 40 layers, and of long ones the end."""
    every = math.ceil(len(layers) / 40)
    names = [name if len(name) <= 24 else f"…{name[-23:]}" for name in layers[::every]]
    axes.set_xticks(range(0, len(layers), every), names, rotation=90, fontsize=7, parse_math=False)
    axes.set(xlim=(-0.5, len(layers) - 0.5))
