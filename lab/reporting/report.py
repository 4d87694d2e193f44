"""The report of a run: `evidence.json` for machines, figures, and one self-contained `report.html` for people.

`docs/evidence.schema.json` documents the evidence. A report on disk is replaced by a whole one or not at all.
"""

import base64
import html
import io
import platform
from collections.abc import Iterator
from dataclasses import asdict
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor

from lab import __version__, plotting
from lab.claims import Verdicts
from lab.errors import OutputError
from lab.every_shift.maps import ShiftMaps
from lab.exercise import MARGIN, MAX_SHIFT, ExerciseResult, PairErrors, group_by_distance, on_stride
from lab.files import finite, output_errors, to_json
from lab.metrics import RelativeErrors, cohen_kappa, consistency

SCHEMA = "equivariance-lab/evidence/1"
CAPTIONS = {
    "training": "The loss of each batch while training, and its running mean. Chance is ln 10 = 2.30.",
    "pair": "One digit at two places, through the trained network. Where a total stride divides the shift the "
    "difference is blank: the layer moved its answer along with the digit. Elsewhere the nearest whole move of the "
    "map is drawn, and what is left cannot be moved away. Hatched: nothing to compare.",
    "errors": "Error against distance. Left: layers that keep positions are exact (0) at shifts that their stride "
    "divides, trained or not. Right: linear layers are not invariant, trained or not.",
}


def evidence(result: ExerciseResult, verdicts: Verdicts, timings: dict[str, float]) -> dict[str, Any]:
    """All that a run found, as plain values for JSON."""
    trained = result.networks["trained"].model
    return {
        "schema": SCHEMA,
        "agree": not verdicts.failed,
        "claims": verdicts.to_dict(),
        "data": {
            "name": result.data.name,
            "sha256": result.data.sha256,
            "train": len(result.data.train),
            "test": len(result.data.test),
        },
        "seed": result.config.seed,
        "model": {"name": result.model, "parameters": sum(p.numel() for p in trained.parameters())},
        "training": {
            **asdict(result.config),
            "seconds": result.training.seconds,
            "from_cache": result.training.from_cache,
        },
        "evaluation": {name: asdict(network.evaluation) for name, network in result.networks.items()},
        "pairs": {"n": len(result.pairs), "max_shift": MAX_SHIFT, "margin": MARGIN},
        "measurements": list(_measurements(result)),
        "grid": list(_grid(result)),
        "predictions": list(_predictions(result)),
        "device": result.device,
        "versions": {
            "equivariance-lab": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "torchvision", "numpy", "matplotlib")},
        },
        "timings": timings,
    }


def _measurements(result: ExerciseResult) -> Iterator[dict[str, Any]]:
    """Mean errors of each layer at each distance; the equivariance error apart for shifts the stride divides."""
    for name, network in result.networks.items():
        for layer, errors in network.layers.items():
            stride = network.model.STRIDES.get(layer)
            for distance, index in group_by_distance(result.pairs).items():
                row = {
                    "network": name,
                    "layer": layer,
                    "stride": stride,
                    "distance": distance,
                    "n": len(index),
                }
                yield row | _means(errors, index, on_stride(result.pairs, stride or 1)[index])


def _means(errors: PairErrors, index: Tensor, exact: Tensor) -> dict[str, Any]:
    return {
        "unrelated": _overall(errors.unrelated[index]),
        "invariance": _overall(errors.invariance[index]),
        "invariance_unrelated": _overall(errors.invariance_unrelated[index]),
        "undone": _overall(errors.undone[index]),
        "sorting": _overall(errors.sorting[index]),
        "sorting_unrelated": _overall(errors.sorting_unrelated[index]),
        "equivariance_on_stride": _overall(errors.equivariance[index[exact]]),
        "equivariance_off_stride": _overall(errors.equivariance[index[~exact]]),
        "wrong_shift": _overall(errors.wrong_shift[index[exact]]),
    }


def _grid(result: ExerciseResult) -> Iterator[dict[str, Any]]:
    """The error of each layer at each displacement."""
    displacements = sorted(set(zip(result.pairs.dy.tolist(), result.pairs.dx.tolist(), strict=True)))
    for name, network in result.networks.items():
        for layer, errors in network.layers.items():
            kind = "equivariance" if layer in network.model.STRIDES else "invariance"
            for dy, dx in displacements:
                here = (result.pairs.dy == dy) & (result.pairs.dx == dx)
                row = {"network": name, "layer": layer, "error": kind, "dy": dy, "dx": dx, "n": int(here.sum())}
                yield row | {"mean": _overall(getattr(errors, kind)[here])}


def _predictions(result: ExerciseResult) -> Iterator[dict[str, Any]]:
    """How often the predicted class survives the translation; theory makes no promise here."""
    for name, network in result.networks.items():
        for distance, index in group_by_distance(result.pairs).items():
            first, second = (scores[index] for scores in network.scores)
            yield {
                "network": name,
                "distance": distance,
                "consistency": consistency(first, second),
                "kappa": cohen_kappa(first, second),
                "accuracy": (second.argmax(1) == result.pairs.labels[index]).double().mean().item(),
            }


def _overall(errors: RelativeErrors) -> float | str | None:
    """None where there is nothing to compare: no such pair, or a quantity that does not apply to the layer."""
    nothing = len(errors.numerator) == 0 or not (errors.numerator.any() or errors.denominator.any())
    return None if nothing else finite(errors.overall)


def write_report(stage: Path, result: ExerciseResult, verdicts: Verdicts, found: dict[str, Any]) -> None:
    """Write `evidence.json`, each figure as PNG and SVG, and `report.html` into a folder.

    Raises:
        OutputError: the disk does not take them.
    """
    figures = {
        "training": plotting.training_curve(result.training.loss, result.config.epochs),
        "pair": plotting.pair_figure(result),
        "errors": plotting.error_curves(result),
    }
    images = {name: _svg(figure) for name, figure in figures.items()}
    with output_errors(stage.parent):
        for name, figure in figures.items():
            _write_figure(stage, name, figure, images[name])
        (stage / "report.html").write_text(_html(found, verdicts, images), encoding="utf-8")
        (stage / "evidence.json").write_text(to_json(found), encoding="utf-8")


def write_shift_maps(stage: Path, maps: ShiftMaps, found: dict[str, Any]) -> None:
    """Write `shiftmap.json`, and the maps of accuracy and consistency as PNG and SVG, into a folder.

    Raises:
        OutputError: the disk does not take them.
    """
    figures = {name: plotting.shift_figure({name: getattr(maps, name)}) for name in ("accuracy", "consistency")}
    with output_errors(stage.parent):
        for name, figure in figures.items():
            _write_figure(stage, name, figure, _svg(figure))
        (stage / "shiftmap.json").write_text(to_json(found), encoding="utf-8")


def _write_figure(stage: Path, name: str, figure: Figure, svg: bytes) -> None:
    figure.savefig(stage / f"{name}.png", dpi=144)
    (stage / f"{name}.svg").write_bytes(svg)


def save_figure(figure: Figure, path: Path) -> None:
    """Save a figure in the format that the file's name says.

    Raises:
        OutputError: the disk does not take it, or the format is unknown.
    """
    try:
        figure.savefig(path, dpi=144)
    except (OSError, ValueError) as error:
        raise OutputError(f"the figure cannot be written to {path}: {error}") from error


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "equivariance-lab"}):  # the same figure gives the same bytes
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _html(found: dict[str, Any], verdicts: Verdicts, images: dict[str, bytes]) -> str:
    template = Template(resources.files("lab.reporting").joinpath("report.html").read_text(encoding="utf-8"))
    figures = "".join(
        f'<figure><img alt="{html.escape(CAPTIONS[name])}" src="data:image/svg+xml;base64,'
        f'{base64.b64encode(image).decode()}"><figcaption>{html.escape(CAPTIONS[name])}</figcaption></figure>'
        for name, image in images.items()
    )
    return template.substitute(
        model=html.escape(found["model"]["name"]),
        summary=html.escape(summary(found)),
        linear=html.escape(linear_layers(found)),
        claims=verdicts.to_html(),
        reasons=_reasons(verdicts),
        predictions=_prediction_rows(found),
        figures=figures,
        provenance=_provenance(found),
        accuracy=f"{found['evaluation']['trained']['accuracy']:.3f}",
    )


def summary(found: dict[str, Any]) -> str:
    """What was trained on what, and how it turned out."""
    accuracy = found["evaluation"]["trained"]["accuracy"]
    failed = "" if accuracy > 0.5 else " Training failed, as it does with some seeds: take another for what is learned."
    return (
        f"{found['model']['name']} network, {found['data']['name']} ({found['data']['train']:,} training images), "
        f"seed {found['seed']}: test accuracy {accuracy:.4f}; theory and observation agree on "
        f"{sum(c['verdict'] == 'agree' for c in found['claims'])} of {len(found['claims'])} claims.{failed}"
    )


def linear_layers(found: dict[str, Any]) -> str:
    """What the exercise says of fully connected layers, and what the claims about them say."""
    claims = [c for c in found["claims"] if c["theory"] == "not invariant"]
    values = ", ".join(f"{c['name'].partition(':')[0]} {float(c['observed']):.2f}" for c in claims)
    verdicts = {c["verdict"] for c in claims}
    if verdicts == {"agree"}:
        finding = "They are not"
    elif "degenerate" in verdicts:
        finding = "This network shows nothing about it, for it answers the same whatever it sees"
    else:
        finding = "This run does not settle it"
    return (
        "The exercise states that fully connected layers are invariant, error 0. "
        f"{finding}: {values}, where an unrelated image gives 1."
    )


def _reasons(verdicts: Verdicts) -> str:
    reasons = dict.fromkeys(
        (f"{claim.relation.replace('==', '')} {claim.predicted:g} ± {claim.tolerance:g}", claim.why)
        for claim in verdicts.claims
        if claim.why
    )
    return "".join(f"<li>{html.escape(bound)}: {html.escape(why)}.</li>" for bound, why in reasons)


def _prediction_rows(found: dict[str, Any]) -> str:
    keys = ("consistency", "kappa", "accuracy")
    return "".join(
        f"<tr><td>{row['network']}</td><td>{row['distance']}</td>"
        + "".join(f"<td>{row[key]:.3f}</td>" for key in keys)
        + "</tr>"
        for row in found["predictions"]
    )


def _provenance(found: dict[str, Any]) -> str:
    recipe = {key: value for key, value in found["training"].items() if key not in ("seconds", "from_cache")}
    rows = {
        "data": f"{found['data']['name']}, SHA-256 {found['data']['sha256']}",
        "recipe": ", ".join(f"{key} {value}" for key, value in recipe.items()),
        "pairs": ", ".join(f"{key} {value}" for key, value in found["pairs"].items()),
        "device": found["device"],
        "versions": ", ".join(f"{name} {number}" for name, number in found["versions"].items()),
        "seconds": ", ".join(f"{name} {seconds:.1f}" for name, seconds in found["timings"].items()),
    }
    return "".join(f"<dt>{name}</dt><dd>{html.escape(text)}</dd>" for name, text in rows.items())
