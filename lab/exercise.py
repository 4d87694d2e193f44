"""The exercise, done: train, make pairs of mutually translated images, extract activations, check the theory.

Both networks are the same before and after training, so that what architecture gives can be told from what
training gives. Every layer keeps its outputs inside the image (no padding), so that f(T x) and T f(x) can be
compared exactly wherever both are defined: the overlap of the feature map and its translation.
"""

import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from lab.claims import Claim, Control
from lab.data import Mnist, normalize
from lab.metrics import (
    aligned_error,
    best_aligned_error,
    derangement,
    invariance_error,
    largest_error,
    mean_error,
    sort_positions,
)
from lab.models import LabModel, PooledCNN, build_model
from lab.observing import Evaluation, activations, evaluate, predict
from lab.shifting import TranslatedPairs, shift, translated_pairs
from lab.training import RECIPES, TrainConfig, TrainingRun, fit

PAIRS = 2_000  # every displacement of the square comes up 25 times
MAX_SHIFT = 4  # with MARGIN, the most for which every MNIST digit has room
MARGIN = 2  # pixels around the ink: the reach of the first convolution, minus 1 (of 3 × 3, the larger of the two)
ROUNDING = 1e-6  # float32: the largest sum has k = 145 terms, and √k · 2⁻²⁴ = 7e-7
BROKEN = 1e-2  # 10,000 × rounding: a difference that rounding cannot make


@dataclass(frozen=True)
class LayerErrors:
    """What one layer does to each pair; every field float64, `n`, nan where it does not apply.

    Attributes:
        equivariance: `equivariance_error` on the overlap, for the best translation of the feature map.
        wrong_shift: null model, the same with the feature map moved one step wrong.
        unrelated: null model, the same with the feature map of another image.
        invariance: `invariance_error`.
        invariance_unrelated: null model, the same between a translated image and another image.
        undone: positive control, the same between an image and its translation moved back: 0 for matched pairs.
        sorting: `sorted_distance`.
        sorting_unrelated: null model, likewise.
    """

    equivariance: Float[Tensor, " n"]
    wrong_shift: Float[Tensor, " n"]
    unrelated: Float[Tensor, " n"]
    invariance: Float[Tensor, " n"]
    invariance_unrelated: Float[Tensor, " n"]
    undone: Float[Tensor, " n"]
    sorting: Float[Tensor, " n"]
    sorting_unrelated: Float[Tensor, " n"]


@dataclass(frozen=True)
class NetworkResult:
    """One network: how well it classifies, and what its layers and its predictions do to the pairs."""

    model: LabModel | PooledCNN
    evaluation: Evaluation
    layers: dict[str, LayerErrors]
    scores: tuple[Float[Tensor, "n 10"], Float[Tensor, "n 10"]]


@dataclass(frozen=True)
class ExerciseResult:
    """All that one run of the exercise found. `timings` are in seconds."""

    model: str
    data: Mnist
    config: TrainConfig
    device: str
    training: TrainingRun
    pairs: TranslatedPairs
    networks: dict[str, NetworkResult]
    timings: dict[str, float]


def run_exercise(
    model: str,
    data: Mnist,
    *,
    config: TrainConfig | None = None,
    device: torch.device | None = None,
    cache: str | Path | None = None,
    progress: bool | None = None,
) -> ExerciseResult:
    """Do the exercise with the `"given"` or the `"pooled"` network; see [`fit`][lab.training.fit] for the rest.

    The seed of the recipe also draws the initial weights, the test images and the displacements. The device is
    that of the training; measured is on the CPU, whose rounding the tolerances are derived from.
    """
    config = config or RECIPES[model]
    device = device or torch.device("cpu")
    untrained = build_model(model, seed=config.seed).to(device)
    trained = copy.deepcopy(untrained)
    start = time.perf_counter()
    training = fit(trained, data.train, config, cache=cache, progress=progress)
    for network in (trained, untrained):
        network.cpu()  # the tolerances are those of IEEE float32; a GPU may round to fewer bits
    fitted = time.perf_counter()
    sample = data.test.sample(PAIRS, seed=config.seed)
    pairs = translated_pairs(sample, max_shift=MAX_SHIFT, margin=MARGIN, seed=config.seed)
    networks = {
        name: NetworkResult(
            network, evaluate(network, data.test), measure_pairs(network, pairs), _predictions(network, pairs)
        )
        for name, network in (("trained", trained), ("untrained", untrained))
    }
    timings = {"training": fitted - start, "measuring": time.perf_counter() - fitted}
    return ExerciseResult(model, data, config, device.type, training, pairs, networks, timings)


def measured_layers(model: nn.Module) -> list[str]:
    """The layers with something to say: convolutions, pooling and linear layers, in order."""
    kinds = (nn.Conv2d, nn.MaxPool2d, nn.Linear)
    return [name for name, module in model.named_modules() if isinstance(module, kinds)]


def measure_pairs(
    model: LabModel | PooledCNN,
    pairs: TranslatedPairs,
    layers: Sequence[str] | None = None,
    *,
    chunk: int = 500,
) -> dict[str, LayerErrors]:
    """Errors of each layer for each pair, `chunk` pairs in memory at a time (unrelated images come from there)."""
    parts: list[dict[str, LayerErrors]] = []
    for index in torch.arange(len(pairs)).tensor_split(max(1, -(-len(pairs) // chunk))):
        dy, dx = pairs.dy[index], pairs.dx[index]
        images = pairs.first[index], pairs.second[index], shift(pairs.second[index], -dy, -dx)
        first, second, back = (activations(model, normalize(x), layers or measured_layers(model)) for x in images)
        parts.append({n: _layer_errors(first[n], second[n], back[n], dy, dx, model.STRIDES.get(n)) for n in first})
    return {
        name: LayerErrors(*(torch.cat([getattr(part[name], f.name) for part in parts]) for f in fields(LayerErrors)))
        for name in parts[0]
    }


def _layer_errors(
    first: Tensor, second: Tensor, back: Tensor, dy: Tensor, dx: Tensor, stride: int | None
) -> LayerErrors:
    other = derangement(len(first), seed=1)  # 0 makes the scale of the errors
    equivariance = wrong = unrelated = torch.full((len(first),), torch.nan, dtype=torch.float64)
    if stride is not None:
        equivariance = best_aligned_error(first, second, dy, dx, stride)
        unrelated = best_aligned_error(first[other], second, dy, dx, stride)
        my, mx = (t.div(stride, rounding_mode="floor") for t in (dy, dx))
        wrong = aligned_error(first, second, my + torch.where(my > 0, -1, 1), mx)  # towards 0: the overlap stays
    ordered = sort_positions(first), sort_positions(second)  # once, for sorted_distance and its null model
    errors = (
        *(equivariance, wrong, unrelated),
        *(invariance_error(first, t) for t in (second, second[other], back)),
        *(invariance_error(*ordered), invariance_error(ordered[0], ordered[1][other])),
    )
    return LayerErrors(*errors)


def _predictions(model: nn.Module, pairs: TranslatedPairs) -> tuple[Tensor, Tensor]:
    return predict(model, pairs.first), predict(model, pairs.second)


def group_by_distance(pairs: TranslatedPairs) -> dict[int, Int64[Tensor, " k"]]:
    """Distance max(|dy|, |dx|) in pixels -> indices of the pairs at that distance."""
    distance = torch.maximum(pairs.dy.abs(), pairs.dx.abs())
    return {r: (distance == r).nonzero()[:, 0] for r in sorted(set(distance.tolist()))}


def on_stride(pairs: TranslatedPairs, stride: int) -> Bool[Tensor, " n"]:
    """The pairs whose displacement the stride divides, along both axes."""
    return (pairs.dy % stride == 0) & (pairs.dx % stride == 0)


def exercise_claims(result: ExerciseResult) -> list[Claim]:
    """What theory says of each measured layer, beside what was observed, trained and untrained."""
    return [
        claim
        for network, found in result.networks.items()
        for layer, errors in found.layers.items()
        for claim in _layer_claims(f"{network} {layer}", layer, errors, result.pairs, found.model.STRIDES.get(layer))
    ]


def _layer_claims(
    name: str, layer: str, errors: LayerErrors, pairs: TranslatedPairs, stride: int | None
) -> Iterator[Claim]:
    if stride is None:
        undone = Control("translation undone", largest_error(errors.undone), "<=", ROUNDING)
        null = Control("unrelated image", mean_error(errors.invariance_unrelated), ">=", 0.5)
        yield _broken(f"{name}: invariance error", "not invariant", mean_error(errors.invariance), undone, null)
        return
    exact = on_stride(pairs, stride)
    worst = largest_error(errors.equivariance[exact])
    shifts = "every shift" if stride == 1 else f"shifts by multiples of {stride} px"
    nulls = [
        Control(what, mean_error(null[exact]), ">=", BROKEN)
        for what, null in (("wrong shift", errors.wrong_shift), ("unrelated image", errors.unrelated))
    ]
    yield _exact(f"{name}: equivariance error, {shifts}", worst, *nulls)
    if layer == "conv1":
        null = Control("unrelated image", mean_error(errors.sorting_unrelated), ">=", 0.5)
        yield _exact(f"{name}: sorted distance", largest_error(errors.sorting), null)
    if stride > 1:
        control = Control(f"multiples of {stride} px", worst, "<=", ROUNDING)
        yield _broken(
            f"{name}: equivariance error, other shifts", "broken", mean_error(errors.equivariance[~exact]), control
        )


def _exact(name: str, observed: float, *controls: Control) -> Claim:
    why = "float32: sums of up to 145 terms in another order differ by about √145 · 2⁻²⁴ = 7e-7 of their size"
    return Claim(name, "exact", 0.0, observed, controls, tolerance=ROUNDING, why=why)


def _broken(name: str, theory: str, observed: float, *controls: Control) -> Claim:
    why = "10,000 × what rounding can do"
    return Claim(name, theory, BROKEN, observed, controls, relation=">=", why=why)
