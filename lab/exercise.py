"""The exercise, done: train, make pairs of mutually translated images, extract activations, check the theory.

Both networks are the same before and after training, so that what architecture gives can be told from what
training gives. Every layer keeps its outputs inside the image (no padding), so that f(T x) and T f(x) can be
compared exactly wherever both are defined: the overlap of the feature map and its translation.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lab.claims import Claim, Control
from lab.data import Mnist, Split, normalize
from lab.metrics import NOTHING, Comparison, Grid, LayerErrors, RelativeErrors
from lab.models import Network, build_model
from lab.observing import Evaluation, activations, evaluate, predict
from lab.shifting import TranslatedPairs, shift, translated_pairs
from lab.training import RECIPES, TrainConfig, TrainingRun, fit

PAIRS = 2_000  # every displacement of the square comes up 25 times
MAX_SHIFT = 4  # with MARGIN, the most for which every MNIST digit has room
MARGIN = 2  # pixels around the ink: the first convolution's kernel, less 1 (of 3 × 3, the larger of the two)
ROUNDING = 1e-6  # float32: the largest sum has k = 145 terms, and √k · 2⁻²⁴ = 7e-7
MEASURED = nn.Conv2d | nn.MaxPool2d | nn.Linear  # the layers with something to say
BROKEN = 1e-2  # 10,000 × rounding: a difference that rounding cannot make


@dataclass(frozen=True)
class PairErrors(LayerErrors):
    """What one layer makes of each pair: [`LayerErrors`][lab.metrics.LayerErrors], and a positive control.

    Attributes:
        undone: the invariance error between an image and its translation moved back: 0 for matched pairs.
    """

    undone: RelativeErrors = NOTHING


@dataclass(frozen=True)
class NetworkResult:
    """One network: how well it classifies, and what its layers and its predictions do to the pairs."""

    model: Network
    evaluation: Evaluation
    layers: dict[str, PairErrors]
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
    model: str, data: Mnist, *, config: TrainConfig | None = None, device: str = "cpu", cache: Path | None = None
) -> ExerciseResult:
    """Do the exercise with the `"given"` or the `"pooled"` network; see [`fit`][lab.training.fit] for the rest.

    The seed of the recipe also draws the initial weights, the test images and the displacements. Only the training
    uses `device`; everything is measured on the CPU, because the tolerances are derived from its rounding.
    """
    config = config or RECIPES[model]
    trained, untrained = (build_model(model, seed=config.seed).to(device) for _ in range(2))
    start = time.perf_counter()
    training = fit(trained, data.train, config, cache=cache)
    fitted = time.perf_counter()
    sample = data.test.sample(PAIRS, seed=config.seed)
    pairs = translated_pairs(sample, max_shift=MAX_SHIFT, margin=MARGIN, seed=config.seed)
    # on the CPU: the tolerances are those of IEEE float32; a GPU may round to fewer bits
    networks = (("trained", trained), ("untrained", untrained))
    found = {name: _observe(network.cpu(), data.test, pairs) for name, network in networks}
    timings = {"training": fitted - start, "measuring": time.perf_counter() - fitted}
    return ExerciseResult(model, data, config, device, training, pairs, found, timings)


def _observe(network: Network, test: Split, pairs: TranslatedPairs) -> NetworkResult:
    scores = predict(network, pairs.first), predict(network, pairs.second)
    return NetworkResult(network, evaluate(network, test), measure_pairs(network, pairs), scores)


def measure_pairs(
    model: Network, pairs: TranslatedPairs, layers: Sequence[str] | None = None, *, chunk: int = 500
) -> dict[str, PairErrors]:
    """Errors of each layer for each pair: what [`meter`][lab.metering.instrument.meter] finds for the same images.

    Args:
        model: a network without padding, with the total strides of its maps in `STRIDES`.
        pairs: images in [0, 1]; they are normalised here.
        layers: names; by default convolutions, pooling and linear layers, in order.
        chunk: how many pairs are in memory at a time; unrelated images are taken from among them.

    Returns:
        Layer -> one value for each pair.
    """
    names = layers or [name for name, layer in model.named_modules() if isinstance(layer, MEASURED)]
    chunks = torch.arange(len(pairs)).tensor_split(max(1, -(-len(pairs) // chunk)))
    parts = [_measure(model, pairs[index], names) for index in chunks]
    return {name: PairErrors.join([part[name] for part in parts]) for name in parts[0]}


def _measure(model: Network, pairs: TranslatedPairs, names: Sequence[str]) -> dict[str, PairErrors]:
    back = shift(pairs.second, -pairs.dy, -pairs.dx)
    first, second, undone = (activations(model, normalize(x), names) for x in (pairs.first, pairs.second, back))
    found = {}
    for name, a in first.items():
        stride = model.STRIDES.get(name)
        grid = Grid.unpadded(pairs.first.shape[2:], a.shape[2:], stride) if stride else None
        errors = Comparison(a, grid, name=name).errors_by_pair(second[name], pairs.dy, pairs.dx)
        again = Comparison(a, None, quantities=["invariance"], controls=0, name=name).errors(undone[name], (0, 0))
        found[name] = PairErrors(**vars(errors), undone=again.invariance)
    return found


def on_stride(pairs: TranslatedPairs, stride: int) -> Bool[Tensor, " n"]:
    """The pairs whose displacement the stride divides, along both axes."""
    return (pairs.dy % stride == 0) & (pairs.dx % stride == 0)


def exercise_claims(result: ExerciseResult) -> list[Claim]:
    """What theory says of each measured layer, beside what was observed, trained and untrained."""
    layers = ((network, layer, found) for network, found in result.networks.items() for layer in found.layers)
    return [claim for one in layers for claim in _layer_claims(*one, result.pairs)]


def _layer_claims(network: str, layer: str, found: NetworkResult, pairs: TranslatedPairs) -> Iterator[Claim]:
    name, errors, stride = f"{network} {layer}", found.layers[layer], found.model.STRIDES.get(layer)
    if stride is None:
        back = Control("translation undone", errors.undone.largest, "<=", ROUNDING)
        other = Control("unrelated image", errors.invariance_unrelated.overall, ">=", 0.5)
        yield _broken(f"{name}: invariance error", "not invariant", errors.invariance.overall, len(pairs), back, other)
        return
    exact = on_stride(pairs, stride)
    worst, n = errors.equivariance[exact].largest, int(exact.sum())
    shifts = "every shift" if stride == 1 else f"shifts by multiples of {stride} px"
    wrong = Control("wrong shift", errors.wrong_shift[exact].overall, ">=", BROKEN)
    other = Control("unrelated image", errors.unrelated[exact].overall, ">=", BROKEN)
    yield _exact(f"{name}: equivariance error, {shifts}", worst, n, wrong, other)
    if layer == "conv1":
        other = Control("unrelated image", errors.sorting_unrelated.overall, ">=", 0.5)
        yield _exact(f"{name}: sorted distance", errors.sorting.largest, len(pairs), other)
    if stride > 1:
        control = Control(f"multiples of {stride} px", worst, "<=", ROUNDING)
        rest = errors.equivariance[~exact].overall
        yield _broken(f"{name}: equivariance error, other shifts", "broken", rest, len(pairs) - n, control)


def _exact(name: str, observed: float, n: int, *controls: Control) -> Claim:
    why = "float32: sums of up to 145 terms in another order differ by about √145 · 2⁻²⁴ = 7e-7 of their size"
    return Claim(name, "exact", 0.0, observed, controls, tolerance=ROUNDING, why=why, kind="exact", n=n)


def _broken(name: str, theory: str, observed: float, n: int, *controls: Control) -> Claim:
    why = "10,000 × what rounding can do"
    return Claim(name, theory, BROKEN, observed, controls, relation=">=", why=why, kind="empirical", n=n)
