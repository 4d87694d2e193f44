"""The files of a run: `evidence.json` for machines, figures, and one self-contained `report.html` for people."""

import base64
import html
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from matplotlib.figure import Figure
from matplotlib.style import context

from lab.claims import Verdicts, cells, html_table
from lab.every_shift.maps import ShiftMaps
from lab.exercise import ExerciseResult
from lab.files import output_errors, to_json
from lab.plotting import DPI, drawing, training_curve
from lab.reporting.figures import error_curves, pair_figure, shift_figure


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
    with context("default"):  # nobody's matplotlibrc enters a report
        figures = {
            "training": training_curve(result.training.loss, result.config.epochs),
            "pair": pair_figure(result),
            "errors": error_curves(found),
        }
    with output_errors(stage.parent):
        write_figures(stage, figures)
        images = {name: base64.b64encode((stage / f"{name}.svg").read_bytes()).decode() for name in figures}
        (stage / "report.html").write_text(page(found, verdicts, images), encoding="utf-8")
        (stage / "evidence.json").write_text(to_json(found), encoding="utf-8")


def write_shift_maps(stage: Path, maps: ShiftMaps, found: dict[str, Any]) -> None:
    """Write `shiftmap.json`, and the maps of accuracy and consistency as PNG and SVG, into a folder.

    Raises:
        OutputError: the disk does not take them.
    """
    with context("default"):
        figures = {
            "accuracy": shift_figure("accuracy", maps.accuracy),
            "consistency": shift_figure("consistency", maps.consistency),
        }
    with output_errors(stage.parent):
        write_figures(stage, figures)
        (stage / "shiftmap.json").write_text(to_json(found), encoding="utf-8")


@drawing()
def write_figures(folder: Path, figures: Mapping[str, Figure]) -> None:
    """Save each figure as `NAME.png` and `NAME.svg`; the same figure gives the same bytes."""
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=DPI)
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})


def summary(found: dict[str, Any]) -> str:
    """What was trained on what, and how it turned out."""
    accuracy = found["evaluation"]["trained"]["accuracy"]
    agree = sum(claim["verdict"] == "agree" for claim in found["claims"])
    text = (
        f"{found['model']['name']} network, {found['data']['name']} ({found['data']['train']:,} training images), "
        f"seed {found['seed']}: test accuracy {accuracy:.4f}; theory and observation agree on "
        f"{agree} of {len(found['claims'])} claims."
    )
    failed = " Training failed, as it does with some seeds: choose another seed to see what training does."
    return text if accuracy > 0.5 else text + failed


def linear_layers(found: dict[str, Any]) -> str:
    """What the exercise says of fully connected layers, and what the claims about them say."""
    claims = [claim for claim in found["claims"] if claim["theory"] == "not invariant"]
    values = ", ".join(f"{claim['name'].partition(':')[0]} {float(claim['observed']):.2f}" for claim in claims)
    verdicts = {claim["verdict"] for claim in claims}
    if verdicts == {"agree"}:
        finding = "They are not"
    elif "degenerate" in verdicts:
        finding = "This network shows nothing about it, because its output is the same for every image"
    else:
        finding = "This run does not settle it"
    return (
        "The exercise states that fully connected layers are invariant, error 0. "
        f"{finding}: {values}, where an unrelated image gives 1."
    )


def page(found: dict[str, Any], verdicts: Verdicts, images: dict[str, str]) -> str:
    """The page; `images` is figure -> its SVG in base 64."""
    template = Template(resources.files("lab.reporting").joinpath("report.html").read_text(encoding="utf-8"))
    reasons = dict.fromkeys(f"{cells(claim)[1]} ({claim.why})" for claim in verdicts.claims if claim.why)
    return template.substitute(
        images,
        model=html.escape(found["model"]["name"]),
        summary=html.escape(summary(found)),
        linear=html.escape(linear_layers(found)),
        claims=verdicts.to_html(),
        reasons="".join(f"<li>{html.escape(reason)}</li>" for reason in reasons),
        predictions=_predictions(found["predictions"]),
        provenance=_provenance(found),
        accuracy=f"{found['evaluation']['trained']['accuracy']:.3f}",
    )


def _predictions(rows: Iterable[dict[str, Any]]) -> str:
    columns = ("Network", "Distance", "Consistency", "Cohen's κ", "Accuracy")
    shares = ("consistency", "kappa", "accuracy")
    lines = ([row["network"], str(row["distance"]), *(f"{row[share]:.3f}" for share in shares)] for row in rows)
    return html_table(columns, lines)


def _provenance(found: dict[str, Any]) -> str:
    recipe = {name: value for name, value in found["training"].items() if name not in ("seconds", "from_cache")}
    parts = {
        "data": f"{found['data']['name']}, SHA-256 {found['data']['sha256']}",
        "recipe": _listed(recipe),
        "pairs": _listed(found["pairs"]),
        "device": found["device"],
        "versions": _listed(found["versions"]),
        "seconds": _listed({name: f"{value:.1f}" for name, value in found["timings"].items()}),
    }
    return "".join(f"<dt>{name}</dt><dd>{html.escape(text)}</dd>" for name, text in parts.items())


def _listed(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
