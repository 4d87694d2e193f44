"""What a run of the exercise found, as plain values: the rows that its report and its figures are drawn from.

`docs/evidence.schema.json` documents them.
"""

import platform
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from lab import __version__
from lab.claims import Verdicts
from lab.exercise import MARGIN, MAX_SHIFT, ExerciseResult, PairErrors, on_stride
from lab.files import finite
from lab.metrics import RelativeErrors, cohen_kappa, consistency
from lab.shifting import TranslatedPairs

OTHER_ERRORS = ("unrelated", "invariance", "invariance_unrelated", "undone", "sorting", "sorting_unrelated")


def collect_evidence(result: ExerciseResult, verdicts: Verdicts, timings: dict[str, float]) -> dict[str, Any]:
    """All that a run found, as plain values for JSON; `timings` in seconds."""
    data, parameters = result.data, result.networks["trained"].model.parameters()
    run = {"seconds": result.training.seconds, "from_cache": result.training.from_cache}
    packages = {name: version(name) for name in ("torch", "torchvision", "numpy", "matplotlib")}
    return {
        "schema": "equivariance-lab/evidence/3",
        "agree": not verdicts.failed,
        "claims": verdicts.to_dict(),
        "data": {"name": data.name, "sha256": data.sha256, "train": len(data.train), "test": len(data.test)},
        "seed": result.config.seed,
        "model": {"name": result.model, "parameters": sum(p.numel() for p in parameters)},
        "training": asdict(result.config) | run,
        "evaluation": {name: asdict(network.evaluation) for name, network in result.networks.items()},
        "pairs": {"n": len(result.pairs), "max_shift": MAX_SHIFT, "margin": MARGIN},
        "measurements": list(_measurements(result)),
        "grid": list(_grid(result)),
        "predictions": list(_predictions(result)),
        "device": result.device,
        "versions": {"equivariance-lab": __version__, "python": platform.python_version()} | packages,
        "timings": timings,
    }


def _layers(result: ExerciseResult) -> Iterator[tuple[dict[str, Any], PairErrors]]:
    """How a row about a layer begins, and the layer's errors."""
    for name, network in result.networks.items():
        for layer, errors in network.layers.items():
            yield {"network": name, "layer": layer, "stride": network.model.STRIDES.get(layer)}, errors


def _measurements(result: ExerciseResult) -> Iterator[dict[str, Any]]:
    """Errors of each layer over the pairs of each distance; apart for the shifts that the stride divides, and not."""
    for row, errors in _layers(result):
        exact = on_stride(result.pairs, row["stride"] or 1)
        for distance, index in group_by_distance(result.pairs).items():
            on, off = index[exact[index]], index[~exact[index]]
            yield row | {
                "distance": distance,
                "n": len(index),
                "equivariance_on_stride": _overall(errors.equivariance[on]),
                "equivariance_off_stride": _overall(errors.equivariance[off]),
                "wrong_shift": _overall(errors.wrong_shift[on]),
                **{error: _overall(getattr(errors, error)[index]) for error in OTHER_ERRORS},
            }


def _grid(result: ExerciseResult) -> Iterator[dict[str, Any]]:
    """The error of each layer at each displacement."""
    pairs = result.pairs
    for row, errors in _layers(result):
        error = "equivariance" if row.pop("stride") else "invariance"
        for dy, dx in torch.stack([pairs.dy, pairs.dx], 1).unique(dim=0).tolist():
            here = (pairs.dy == dy) & (pairs.dx == dx)
            found = {"n": int(here.sum()), "overall": _overall(getattr(errors, error)[here])}
            yield row | {"error": error, "dy": dy, "dx": dx} | found


def group_by_distance(pairs: TranslatedPairs) -> dict[int, Int64[Tensor, " k"]]:
    """Distance max(|dy|, |dx|) in pixels -> indices of the pairs at that distance."""
    distance = torch.maximum(pairs.dy.abs(), pairs.dx.abs())
    return {r: (distance == r).nonzero()[:, 0] for r in sorted(set(distance.tolist()))}


def _predictions(result: ExerciseResult) -> Iterator[dict[str, Any]]:
    """How often the predicted class survives the translation; theory makes no promise here."""
    for name, network in result.networks.items():
        for distance, index in group_by_distance(result.pairs).items():
            first, second = (scores[index] for scores in network.scores)
            agreement = {"consistency": consistency(first, second), "kappa": cohen_kappa(first, second)}
            accuracy = (second.argmax(1) == result.pairs.labels[index]).double().mean().item()
            yield {"network": name, "distance": distance, **agreement, "accuracy": accuracy}


def _overall(errors: RelativeErrors) -> float | str | None:
    """None where there is nothing to compare: no such pair, or a quantity that does not apply to the layer."""
    return None if errors.each.isnan().all() else finite(errors.overall)
