"""The files of a run: `evidence.json` for machines, figures, and one self-contained `report.html` for people."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.style import context
from rich.markup import escape
from rich.table import Table

from lab.claims import COLUMNS, Verdicts, cells
from lab.every_shift.maps import ShiftMaps
from lab.exercise import ExerciseResult
from lab.files import fill_template, html_table, output_errors, to_json
from lab.plotting import DPI, drawing, training_curve
from lab.reporting.figures import error_curves, pair_figure, shift_figure


@context("default")  # nobody's matplotlibrc enters a report
def write_report(stage: Path, result: ExerciseResult, verdicts: Verdicts, found: dict[str, Any]) -> None:
    """Write `evidence.json`, each figure as PNG and SVG, and `report.html` into a folder.

    Args:
        stage: the folder.
        result: of the run.
        verdicts: on its claims.
        found: its [evidence][lab.reporting.evidence.collect_evidence].

    Raises:
        OutputError: the disk does not take them.
    """
    training = training_curve(result.training.loss, result.config.epochs)
    write_figures(stage, {"training": training, "pair": pair_figure(result), "errors": error_curves(found)})
    with output_errors(stage.parent):
        images = {path.stem: base64.b64encode(path.read_bytes()).decode() for path in stage.glob("*.svg")}
        (stage / "report.html").write_text(page(found, verdicts, images), encoding="utf-8")
        (stage / "evidence.json").write_text(to_json(found), encoding="utf-8")


@context("default")
def write_shift_maps(stage: Path, maps: ShiftMaps, found: dict[str, Any]) -> None:
    """Write `shiftmap.json`, and the maps of accuracy and consistency as PNG and SVG, into a folder.

    Raises:
        OutputError: the disk does not take them.
    """
    write_figures(stage, {name: shift_figure(name, getattr(maps, name)) for name in ("accuracy", "consistency")})
    with output_errors(stage.parent):
        (stage / "shiftmap.json").write_text(to_json(found), encoding="utf-8")


@drawing()
def write_figures(stage: Path, figures: Mapping[str, Figure]) -> None:
    """Save each figure as `NAME.png` and `NAME.svg`; the same figure gives the same bytes."""
    with output_errors(stage.parent):
        for name, figure in figures.items():
            figure.savefig(stage / f"{name}.png", dpi=DPI)
            figure.savefig(stage / f"{name}.svg", metadata={"Date": None})


def claims_table(verdicts: Verdicts) -> Table:
    """For people at a terminal: each claim with theory, observation, controls and verdict."""
    table = Table()
    for column in COLUMNS:
        table.add_column(column, overflow="fold", no_wrap=column in ("Kind", "Verdict"))
    for claim in verdicts.claims:
        style = "green" if claim.verdict == "agree" else "bold red"
        table.add_row(*map(escape, cells(claim)[:-1]), f"[{style}]{claim.verdict}[/]")
    return table


def summary(found: dict[str, Any]) -> str:
    """What was trained on what, and how it turned out."""
    accuracy, data, claims = found["evaluation"]["trained"]["accuracy"], found["data"], found["claims"]
    trained = f"{found['model']['name']} network, {data['name']} ({data['train']:,} training images)"
    agree = f"{sum(claim['verdict'] == 'agree' for claim in claims)} of {len(claims)} claims"
    text = f"{trained}, seed {found['seed']}: test accuracy {accuracy:.4f}; theory and observation agree on {agree}."
    failed = " Training failed, as it does with some seeds: choose another seed to see what training does."
    return text if accuracy > 0.5 else text + failed


def linear_layers(found: dict[str, Any]) -> str:
    """What the exercise says of fully connected layers, and what the claims about them say."""
    claims = [claim for claim in found["claims"] if claim["theory"] == "not invariant"]
    values = ", ".join(f"{claim['name'].partition(':')[0]} {float(claim['observed']):.2f}" for claim in claims)
    verdicts = {claim["verdict"] for claim in claims}
    finding = "They are not" if verdicts == {"agree"} else "This run does not settle it"
    if "degenerate" in verdicts:
        finding = "This network shows nothing about it, because its output is the same for every image"
    stated = "The exercise states that fully connected layers are invariant, error 0."
    return f"{stated} {finding}: {values}, where an unrelated image gives 1."


def page(found: dict[str, Any], verdicts: Verdicts, images: dict[str, str]) -> str:
    """The page, on which every value is text and escaped; `images` is figure -> its SVG in base 64."""
    reasons = dict.fromkeys(f"{cells(claim)[1]} ({claim.why})" for claim in verdicts.claims if claim.why)
    shares = ("consistency", "kappa", "accuracy")
    rows = [[r["network"], str(r["distance"]), *(f"{r[share]:.3f}" for share in shares)] for r in found["predictions"]]
    columns = ("Network", "Distance", "Consistency", "Cohen's κ", "Accuracy")
    tables = {"claims": verdicts.to_html(), "predictions": html_table(columns, rows)}
    said = {"summary": summary(found), "linear": linear_layers(found), "reasons": reasons}
    return fill_template("lab.reporting", "report.html", tables | said | {"found": found, "images": images})
