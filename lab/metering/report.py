"""What the meter found: a row for each layer and shift, as a table, a figure, and plain values."""

import csv
import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from io import StringIO
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from lab.errors import InputError
from lab.files import fill_template, finite, html_table
from lab.metering.receptive_fields import LayerGeometry
from lab.metering.remedies import Remedy, find_remedies
from lab.metering.theory import Expectation, divides
from lab.metrics import Grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCHEMA = "equivariance-lab/meter/4"
# folded, so that a line fits a terminal of 80 columns
COLUMNS = ["Layer", "s, S", "R", "Inside", "Inte-\nrior", "Border", "Off S\n(alias)", "Control", "Invari-\nance"]
COLUMNS += ["Theory |\nobserved"]
HEADERS = [column.replace("-\n", "").replace("\n", " ") for column in COLUMNS]
Observation = Literal["exact", "not exact", "degenerate", "nothing"]


@dataclass(frozen=True)
class Row:
    """One layer under one shift.

    Errors are relative, over all images: the root of summed squares over summed squares. Where t / s is
    not whole they are those of the best whole move of the map, chosen for each image. nan: nothing to measure.

    Attributes:
        layer: name.
        dy: pixels down.
        dx: pixels right.
        theory: what is expected of `error`.
        observed: `"exact"` up to rounding, `"not exact"`, `"degenerate"` (the same for all images or positions, so
            that nothing is shown), or `"nothing"` to compare.
        why: theory's reason.
        certain: whether an exact observation would refute theory's "broken"; it does not where exactness is merely not
            guaranteed.
        error: the error that theory speaks of: the interior's; the full frame's, if there is no interior; the
            invariance error, if the layer keeps no positions.
        worst: the same of the worst image.
        worst_image: which of the images that is; -1 where there is nothing to measure.
        in_float64: `error` measured again in float64, if it was small or ought to be zero, and was not; else None.
        interior_share: share w of ‖T f(x)‖² in the interior: full² = w · interior² + (1 − w) · border².
        full: equivariance error of every output that has a counterpart.
        interior: of those whose windows lie inside the image, in both images: the set J.
        border: of the others.
        wrong_shift: control of `error`, the map moved one step wrong.
        unrelated: control, the map of another image.
        invariance: mean ‖f(T x) − f(x)‖ over mean ‖f(x) − f(x')‖ of unrelated images.
        invariance_unrelated: control, mean ‖f(T x) − f(x')‖ over the same.
        sorting: as invariance, of the activations sorted within each channel.
        sorting_unrelated: control, likewise.
        interpolated: where the period does not divide the shift, the equivariance error against the map moved by t / s
            outputs, interpolated: what is aliasing; the rest of `error` is that no whole move of the map exists.
        without_blur: where a stride blurs first, the same as `error` without the blur.
    """

    layer: str
    dy: int
    dx: int
    theory: Expectation
    observed: Observation
    why: str
    certain: bool
    error: float
    worst: float
    worst_image: int
    in_float64: float | None
    interior_share: float
    full: float
    interior: float
    border: float
    wrong_shift: float
    unrelated: float
    invariance: float
    invariance_unrelated: float
    sorting: float
    sorting_unrelated: float
    interpolated: float
    without_blur: float

    @property
    def agrees(self) -> bool | None:
        """Whether theory and observation fit; None where either has nothing to say that could be refuted."""
        if self.theory == "untestable" or self.observed in ("degenerate", "nothing"):
            return None
        if self.theory == "approximate":
            return None if math.isnan(self.without_blur) else self.error < self.without_blur
        if self.theory == "broken" and self.observed == "exact" and not self.certain:
            return None
        return (self.theory == "exact") == (self.observed == "exact")

    @property
    def control(self) -> float:
        """The error of unrelated images: what `error` is to be compared with."""
        return self.invariance_unrelated if math.isnan(self.full) else self.unrelated


OVERALL = [field.name for field in fields(Row)][-11:-1]  # from `full` on: errors over all images


@dataclass(frozen=True)
class ClassAgreement:
    """Whether images and their translations are given the same class.

    Attributes:
        dy: pixels down.
        dx: pixels right.
        consistency: share of images with the same class, in [0, 1].
        kappa: the same beyond chance, at most 1.
    """

    dy: int
    dx: int
    consistency: float
    kappa: float


@dataclass(frozen=True)
class LayerMeans:
    """Means of one layer's errors over the shifts; nan where there is none.

    Attributes:
        interior: over the shifts that the period divides.
        border: likewise.
        off_period: `error` over the others.
        aliasing: `interpolated` over the others: what is left of `off_period` if a map may be moved by fractions. Away
            from a circle the interpolation itself errs by up to 0.05.
        control: over all.
        invariance: over all.
    """

    interior: float
    border: float
    off_period: float
    aliasing: float
    control: float
    invariance: float


@dataclass(frozen=True, repr=False)
class Report:
    """What [`meter`][lab.metering.instrument.meter] found.

    Attributes:
        rows: layer by layer in running order, shift by shift.
        geometry: of each layer.
        heads: fully connected layer that takes a map -> ρ of its weights, and what random weights give, 1 / positions.
        notes: what to know of the images, the background and the size before reading the errors.
        settings: what was measured, for the record.
        classes: where the network returns class scores, for each shift whether they stay the same.
    """

    rows: tuple[Row, ...]
    geometry: dict[str, LayerGeometry]
    heads: dict[str, tuple[float, float]]
    notes: tuple[str, ...]
    settings: dict[str, Any]
    classes: tuple[ClassAgreement, ...] = ()

    @property
    def disagreements(self) -> tuple[Row, ...]:
        """The rows in which theory and observation do not fit."""
        return tuple(row for row in self.rows if row.agrees is False)

    @property
    def remedies(self) -> tuple[Remedy, ...]:
        """What to do about what is not exact: one remedy for each cause, at the first layer that has it."""
        return find_remedies(self.rows, self.geometry)

    def of(self, layer: str) -> tuple[Row, ...]:
        """The rows of one layer.

        Raises:
            InputError: it was not measured.
        """
        if layer not in self.geometry:
            raise InputError(f"no layer {layer!r} in the report: it has {', '.join(self.geometry)}")
        return tuple(row for row in self.rows if row.layer == layer)

    def means(self, layer: str) -> LayerMeans:
        """Means over the shifts."""
        rows = self.of(layer)
        on, off = _by_period(self.geometry[layer], rows)
        interior, border, off_period = _mean(on, "interior"), _mean(on, "border"), _mean(_with_interior(off), "error")
        control, invariance = _mean(rows, "control"), _mean(rows, "invariance")
        return LayerMeans(interior, border, off_period, _mean(off, "interpolated"), control, invariance)

    def off_period(self, layer: str) -> Float[Tensor, "sy sx"]:
        """The error by what the period leaves of the shift, `dy mod sy, dx mod sx`; nan where none was measured.

        The mean over the shifts that leave it, of those with an interior; of all where none has one.

        Raises:
            InputError: the layer was not measured, or has no period.
        """
        rows, geometry = _with_interior(self.of(layer)), self.geometry[layer]
        if not geometry.grid or not geometry.grid.period:
            raise InputError(f"{layer!r} has no period: it keeps no positions, or they lie on no regular grid")
        sy, sx = geometry.grid.period
        sums, counts = torch.zeros(sy, sx, dtype=torch.float64), torch.zeros(sy, sx)
        for row in rows:
            sums[row.dy % sy, row.dx % sx] += row.error
            counts[row.dy % sy, row.dx % sx] += 1
        return sums / counts

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values for JSON; nan and infinities as strings."""
        return {
            "schema": SCHEMA,
            "settings": self.settings,
            "notes": list(self.notes),
            "layers": {name: _plain_geometry(layer) for name, layer in self.geometry.items()},
            "classes": [asdict(one) for one in self.classes],
            "heads": {name: {"rho": finite(rho), "random": random} for name, (rho, random) in self.heads.items()},
            "remedies": [asdict(remedy) for remedy in self.remedies],
            "rows": [{name: _plain(value) for name, value in record.items()} for record in self._records()],
        }

    def to_frame(self) -> dict[str, list[Any]]:
        """Column -> one value for each row, for `pandas.DataFrame(report.to_frame())`, or another library's table."""
        records = self._records()
        return {name: [record[name] for record in records] for name in records[0]}

    def _records(self) -> list[dict[str, Any]]:
        return [asdict(row) | {"agrees": row.agrees} for row in self.rows]

    def to_csv(self) -> str:
        """A line for each layer and shift under the names of the columns, for a spreadsheet; nan as a word."""
        text, frame = StringIO(), self.to_frame()
        csv.writer(text, lineterminator="\n").writerows([frame, *zip(*frame.values(), strict=True)])
        return text.getvalue()

    def to_html(self) -> str:
        """All of it as one page that needs no other file: the figure, the table, reasons, notes, and what was measured.

        Every name is text on it; it follows a reader's choice of light or dark.
        """
        from lab.plotting import inline_svg

        lines, reasons = self._lines()
        shown = {"table": html_table(HEADERS, lines), "reasons": reasons, "classes": self.classes}
        return fill_template("lab.metering", "report.html", shown | {"report": self, "figure": inline_svg(self.plot)})

    def table(self) -> Table:
        """For a terminal, one line per layer: errors where the period divides the shift, and where not; and reasons."""
        title = f"{self.settings['model']}: theory | observed"
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        for column in COLUMNS:
            table.add_column(column, overflow="fold", justify="right")
        table.columns[0].justify = table.columns[-1].justify = "left"
        lines, reasons = self._lines()
        for line in lines:
            table.add_row(*map(escape, line))
        why = [f"[{number}] {reason}." for reason, number in reasons.items()]
        kept = [f"({one.dy}, {one.dx}) {one.consistency:.0%} (κ = {one.kappa:.2g})" for one in self.classes]
        classes = [f"The predicted class stays at shift {', '.join(kept)}."] if kept else []
        notes = [f"Note: {note}." for note in self.notes]
        cures = [f"To mend {remedy}." for remedy in self.remedies]
        where = ["What each gains and costs: page 13 of the course, What helps?"] if cures else []
        table.caption = escape("\n".join([*why, *classes, *notes, *cures, *where]))
        table.caption_justify = "left"
        return table

    def _repr_html_(self) -> str:
        """The same table for a notebook."""
        lines, reasons = self._lines()
        why = "".join(f"<li>{html.escape(reason)}</li>" for reason in reasons)
        notes = "".join(f"<p>Note: {html.escape(note)}.</p>" for note in self.notes)
        cures = "".join(f"<li>To mend {html.escape(str(remedy))}.</li>" for remedy in self.remedies)
        return f"{html_table(HEADERS, lines)}<ol>{why}</ol>{notes}{f'<ul>{cures}</ul>' if cures else ''}"

    def __repr__(self) -> str:
        size = f"{len(self.geometry)} layers, {len(self.settings['shifts'])} shifts"
        return f"<Report on {self.settings['model']}: {size}, {len(self.disagreements)} disagreements>"

    def _lines(self) -> tuple[list[list[str]], dict[str, int]]:
        """The cells of each layer, and the reasons that they refer to by number."""
        reasons: dict[str, int] = {}
        return [self._cells(name, layer, reasons) for name, layer in self.geometry.items()], reasons

    def _cells(self, name: str, layer: LayerGeometry, reasons: dict[str, int]) -> list[str]:
        means = asdict(self.means(name))
        aliasing = _number(means.pop("aliasing"))
        numbers = {key: _number(value) for key, value in means.items()}
        numbers["off_period"] += f" ({aliasing})" if aliasing else ""
        verdicts = dict.fromkeys(_verdict(part, reasons) for part in _by_period(layer, self.of(name)) if part)
        return [name or "(output)", *_grid_cells(layer.grid), *numbers.values(), "\n".join(verdicts)]

    def plot(self) -> "Figure":
        """Each layer's error: interior, border, off the period; of layers without positions, the invariance error."""
        from lab.plotting import layer_profile

        means = {name: asdict(self.means(name)) for name in self.geometry}
        for name, layer in self.geometry.items():
            means[name]["off_period" if layer.grid is None else "invariance"] = math.nan
        names = ("interior", "border", "off_period", "invariance", "control")
        series = {name.replace("_", " "): [one[name] for one in means.values()] for name in names}
        return layer_profile([name or "(output)" for name in self.geometry], series)


def _grid_cells(grid: Grid | None) -> tuple[str, str, str]:
    """S and S, once where they are the same; R; and how many outputs are interior, of how many."""
    if grid is None:
        return "", "", ""
    axes = grid.y, grid.x
    inside, outputs = _both(len(axis.interior) for axis in axes), _both(axis.outputs for axis in axes)
    steps = _both(axis.step or "?" for axis in axes), _both(axis.period or "?" for axis in axes)
    return ", ".join(dict.fromkeys(steps)), receptive_field(grid), f"{inside}/{outputs}"


def _both(values: Iterable[object]) -> str:
    """`2` for (2, 2), and `2×3` for (2, 3)."""
    return "×".join(dict.fromkeys(map(str, values)))


def receptive_field(grid: Grid) -> str:
    """R in words: `8`, `8×6`, or `>28` where it is larger than the image, or could not be traced."""
    return _both(axis.receptive_field or f">{axis.size}" for axis in (grid.y, grid.x))


def _by_period(layer: LayerGeometry, rows: Iterable[Row]) -> tuple[list[Row], list[Row]]:
    """The rows whose shift the period divides, and the others."""
    on = [row for row in rows if divides(layer.facts.period, (row.dy, row.dx))]
    return on, [row for row in rows if not divides(layer.facts.period, (row.dy, row.dx))]


def _with_interior(rows: Sequence[Row]) -> list[Row]:
    """Those with an interior, so that no border enters their errors; all of them if none has one."""
    return [row for row in rows if not math.isnan(row.interior)] or list(rows)


def _mean(rows: Sequence[Row], name: str) -> float:
    """Of one of their values, where it is defined."""
    defined = [value for row in rows if not math.isnan(value := getattr(row, name))]
    return sum(defined) / len(defined) if defined else math.nan


def _number(value: float) -> str:
    return "" if math.isnan(value) else "0" if value == 0 else f"{value:.2g}"


def _verdict(rows: Sequence[Row], reasons: dict[str, int]) -> str:
    """One line for rows about which theory says the same; those that disagree come first, because they are the news."""
    row = min(rows, key=lambda row: (row.agrees is not False, row.theory == "untestable"))
    mark = {True: "✓", False: "✗", None: "–"}[row.agrees]
    seen = "" if row.agrees else f" | {row.observed}"  # what agrees needs no second word
    return f"{mark} {row.theory}{seen} [{reasons.setdefault(row.why, len(reasons) + 1)}]"


def _plain(value: object) -> object:
    return finite(value) if isinstance(value, float) else value


def _plain_geometry(layer: LayerGeometry) -> dict[str, Any]:
    axes = {"y": layer.grid.y, "x": layer.grid.x} if layer.grid else {}
    plain = {
        name: asdict(one) | {"interior": [one.interior.start, one.interior.stop], "step": one.step and str(one.step)}
        for name, one in axes.items()
    }
    return {"shape": list(layer.shape), "sees_all": layer.sees_all, **plain}
