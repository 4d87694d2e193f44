"""The look of the lab's figures, and those that pages and the meter draw. Each function returns a `Figure`."""

import math
import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from matplotlib import colormaps, rcParams
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.style import context
from torch import Tensor

from lab.errors import OutputError, require

STYLE = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
REPEATABLE = {"svg.hashsalt": "equivariance-lab"}  # the same figure gives the same bytes
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito: told apart by all
MARKERS = ("o", "s", "^", "D", "v", "P")
FIRST, SECOND = COLORS[:2]  # f(x) or T f(x), and f(T x)
CONTROL_COLOR = "#777777"
CONTROL_LOOK: dict[str, Any] = {"color": CONTROL_COLOR, "linestyle": "-.", "marker": "x"}
DPI = 144
INK = "#0a0b0c"  # stands for the colour of the text around a figure

FILM = "application/vnd.equivariance-lab.film+json"
LEVELS = 32  # of colour in a film's pictures: more cannot be told apart, and weigh more

Panel = tuple[str, Float[Tensor, "_ _"], Literal["image", "feature", "difference"]]


@contextmanager
def drawing() -> Iterator[None]:
    """Draw and save by matplotlib's defaults and `STYLE`, whatever a matplotlibrc says.

    Only its colours are kept, because on a page of the course they stand for the page's own ink.
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


def inline_svg(draw: Callable[[], Figure]) -> str:
    """A figure as part of a page, in the page's own ink: legible in light and dark."""
    inks = dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    text = StringIO()
    with context(["default", inks]), drawing():
        draw().savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = re.sub(r"^.*?(?=<svg)|<metadata>.*?</metadata>|<!--.*?-->", "", text.getvalue(), flags=re.DOTALL)
    return svg.replace(INK, "currentColor")


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
    looks = _looks(panels)
    for axes, (title, values, kind) in zip(grid, panels, strict=True):
        axes.set_facecolor("none")
        axes.patch.set(hatch="////", edgecolor=CONTROL_COLOR)
        cmap, least, most = looks[kind]
        axes.imshow(values.numpy(), cmap, Normalize(least, most), interpolation="none")  # each pixel stays one
        axes.set(xticks=[], yticks=[])
        axes.set_title(title, fontsize=9, parse_math=False)
        axes.spines[:].set_visible(True)


def _looks(panels: Sequence[Panel]) -> dict[str, tuple[str, float, float]]:
    """Kind of a panel -> its colours, and the values at their two ends."""
    features = [values for _, values, kind in panels if kind == "feature"]
    low, high = _range(features or [values for _, values, kind in panels if kind == "difference"])
    top = max(abs(low), abs(high))
    return {"image": ("gray_r", 0.0, 1.0), "feature": ("viridis", low, high), "difference": ("RdBu_r", -top, top)}


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
        series: name of an error -> one value for each layer, nan where it does not apply; `"control"` is drawn as one.
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
    """The names of at most 40 layers; of a long name, only the end."""
    every = math.ceil(len(layers) / 40)
    names = [name if len(name) <= 24 else f"…{name[-23:]}" for name in layers[::every]]
    axes.set_xticks(range(0, len(layers), every), names, rotation=90, fontsize=7, parse_math=False)
    axes.set(xlim=(-0.5, len(layers) - 0.5))


@dataclass(frozen=True)
class Film:
    """Curves, and a row of pictures at each of some positions along them; on a page, a slider moves through these.

    A notebook shows only the curves.

    Attributes:
        unit: what positions count, such as `"step"`.
        at: positions, ascending, at least two; drawn on a logarithmic axis that begins at 0.
        curves: name -> its value at each position.
        frames: the panels at each position, as those of [`image_row`][lab.plotting.image_row], each time with the same
            titles. One scale of colours holds for all positions.

    Examples:
        >>> import torch
        >>> from lab.plotting import Film
        >>> frames = [[("w", torch.full((2, 2), float(step)), "feature")] for step in (0, 10)]
        >>> film = Film("step", [0, 10], {"accuracy": [0.1, 0.9]}, frames)
        >>> film.record(film.figure())["readings"]
        [['accuracy', ['0.10', '0.90']]]
    """

    unit: str
    at: Sequence[int]
    curves: Mapping[str, Sequence[float]]
    frames: Sequence[Sequence[Panel]]

    def __post_init__(self) -> None:
        lengths = {len(self.at), len(self.frames), *map(len, self.curves.values())}
        alike = len(lengths) == 1 and len(self.at) > 1 and list(self.at) == sorted(set(self.at))
        require(alike, f"a film needs ascending positions, and at each one value a curve and one frame: {self.at}")

    @drawing()
    def figure(self) -> Figure:
        """The curves against the position, on one axis that begins at 0."""
        figure = Figure(figsize=(5.2, 3.0), layout="constrained")
        axes = figure.add_subplot()
        for (name, values), color, marker in zip(self.curves.items(), COLORS, MARKERS, strict=False):
            axes.plot(self.at, values, label=name, color=color, marker=marker, markersize=4, clip_on=False)
        axes.set_xscale("symlog", linthresh=1, linscale=0.5)
        axes.set(xlabel=self.unit, xlim=(0, self.at[-1]), ylim=(0, None))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        figure.legend(loc="outside upper left", ncols=2)
        return figure

    def record(self, figure: Figure) -> dict[str, Any]:
        """All that a page needs besides the curves in the figure, as plain values for JSON.

        Places in the figure are given as shares of its width and height, from the upper left.
        """
        figure.draw_without_rendering()
        (axes,) = figure.axes
        x = axes.transData.transform([(at, 0.0) for at in self.at])[:, 0] / figure.bbox.width
        y = 1 - axes.bbox.get_points()[::-1, 1] / figure.bbox.height
        readings = [[name, [*map(_reading, values)]] for name, values in self.curves.items()]  # a dict may be sorted
        place = {"x": x.round(4).tolist(), "y": y.round(4).tolist()}
        looks = _looks([panel for frame in self.frames for panel in frame])
        panels = [_strip(column, *looks[column[0][2]]) for column in zip(*self.frames, strict=True)]
        return {"unit": self.unit, "at": list(self.at), "readings": readings, "panels": panels, **place}

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        """The curves for a notebook, and the rest as data for a page."""
        figure, text = self.figure(), StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
        said = f"a film of {len(self.at)} frames"
        return {"image/svg+xml": text.getvalue(), "text/plain": said, FILM: self.record(figure)}


def _reading(value: float) -> str:
    return f"{value:.2f}" if abs(value) >= 0.005 else f"{value:.1g}"


def _strip(column: Sequence[Panel], cmap: str, least: float, most: float) -> dict[str, Any]:
    """A panel at all positions as one picture, one below the other; nan is transparent."""
    values = torch.cat([panel[1] for panel in column])
    shares = ((values - least) / (most - least or 1.0)).clamp(0, 1)
    colors = colormaps[cmap]((shares * LEVELS).round().numpy() / LEVELS, bytes=True)
    colors[values.isnan().numpy()] = 0
    imsave(file := BytesIO(), colors, format="png")
    title, (height, width) = column[0][0], column[0][1].shape
    return {"title": title, "width": width, "height": height, "png": b64encode(file.getvalue()).decode()}
