"""The exercise end to end on real digits, and proof that it would notice a network that breaks the theory."""

from dataclasses import replace
from math import isnan

import pytest
import torch
from sources import SOURCES
from torch import nn

import lab
from lab import exercise
from lab.exercise import (
    MARGIN,
    MAX_SHIFT,
    ROUNDING,
    exercise_claims,
    measure_pairs,
    on_stride,
    run_exercise,
)
from lab.metering import instrument, measuring
from lab.metrics import aligned_error, best_aligned_error, derangement
from lab.metrics import largest_error as largest
from lab.metrics import mean_error as mean
from lab.models import MODELS
from lab.training import RECIPES

POOLED_PAIRS = 320  # every displacement of the square comes up four times


@pytest.fixture(scope="module", params=[*(f"given-{source}" for source in SOURCES), "pooled"])
def result(request, root_of, trained_once):
    """The given network in full, on each data set. The pooled one, little trained and on fewer pairs: exactness needs
    neither, nor the full set, of whose digits the embedded ones are some."""
    name, _, source = request.param.partition("-")
    mnist = lab.load_mnist(source or "embedded", root_of(source or "embedded"))
    if name == "given":
        return run_exercise("given", mnist, config=RECIPES["given"], cache=trained_once(source))
    few = replace(mnist, train=mnist.train.sample(4_000, seed=0), test=mnist.test.sample(2_000, seed=0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exercise, "PAIRS", POOLED_PAIRS)
        return run_exercise("pooled", few, config=replace(RECIPES["pooled"], epochs=1))


def test_theory_and_observation_agree_on_every_claim(result):
    lab.check(exercise_claims(result))


def test_convolutions_and_pooling_are_exact_trained_and_untrained_at_every_shift_their_stride_divides(result):
    for network in result.networks.values():
        for layer, stride in network.model.STRIDES.items():
            if layer in network.layers:
                exact = network.layers[layer].equivariance[on_stride(result.pairs, stride)]
                assert len(exact.each) > 0
                assert exact.largest <= ROUNDING


def test_exactness_is_not_for_want_of_power(result):
    for network in result.networks.values():
        for layer, stride in network.model.STRIDES.items():
            if layer in network.layers:
                here = on_stride(result.pairs, stride)
                assert network.layers[layer].wrong_shift[here].overall > 0.1
                assert network.layers[layer].unrelated[here].overall > 0.1


def test_linear_layers_are_not_invariant_with_their_control_beside_them(result):
    for network in result.networks.values():
        errors = network.layers["fc1"]
        assert errors.invariance.overall > 0.2
        assert errors.invariance_unrelated.overall == pytest.approx(1, abs=0.1)


def test_the_further_the_shift_the_less_invariant_the_trained_linear_layer(result):
    errors = result.networks["trained"].layers["fc1"].invariance
    means = [errors[index].overall for index in lab.group_by_distance(result.pairs).values()]
    assert means == sorted(means)


def test_training_changes_the_weights_and_not_the_exactness(result):
    before, after = (result.networks[name].model.conv1.weight for name in ("untrained", "trained"))
    assert not torch.equal(before, after)
    for network in result.networks.values():
        assert network.layers["conv1"].equivariance.largest <= ROUNDING


def test_the_untrained_network_knows_nothing_and_the_trained_one_a_lot(result):
    untrained, trained = (result.networks[name].evaluation for name in ("untrained", "trained"))
    assert untrained.accuracy < 0.25
    assert trained.accuracy > 0.85
    assert untrained.images == trained.images == len(result.data.test)


def test_the_pairs_cover_the_square_of_displacements(result):
    displacements = set(zip(result.pairs.dy.tolist(), result.pairs.dx.tolist(), strict=True))
    assert len(displacements) == (2 * MAX_SHIFT + 1) ** 2 - 1
    assert sum(map(len, lab.group_by_distance(result.pairs).values())) == len(result.pairs)
    assert len(result.pairs) == {"given": 2_000, "pooled": POOLED_PAIRS}[result.model]


def test_the_same_seed_gives_the_same_claims(digits):
    data = lab.Mnist(digits, lab.Split(digits.images[:160], digits.labels[:160]), "MNIST-10k", "0" * 64)
    config = lab.TrainConfig(epochs=1)
    one, two = (exercise_claims(run_exercise("given", data, config=config)) for _ in range(2))
    assert one == two


# Would it notice?


def test_unmatched_pairs_are_found_out(result):
    """The published mistake: each first image beside the second one of another pair."""
    pairs = result.pairs[torch.arange(160)]  # every displacement twice
    unmatched = replace(pairs, second=pairs.second[derangement(len(pairs), seed=9)])
    networks = {
        name: replace(network, layers=measure_pairs(network.model, unmatched))
        for name, network in result.networks.items()
    }
    claims = exercise_claims(replace(result, pairs=unmatched, networks=networks))
    assert {c.verdict for c in claims if "invariance error" in c.name or "exact" in c.theory} <= {
        "disagree",
        "no control",
    }


def test_one_pair_among_hundreds_is_enough_to_refute_an_exact_claim(result):
    pairs = result.pairs[torch.arange(320)]
    second = pairs.second.clone()
    second[7] = second[8]
    spoilt = replace(pairs, second=second)
    networks = {
        name: replace(network, layers=measure_pairs(network.model, spoilt, ["conv1"]))
        for name, network in result.networks.items()
    }
    claims = exercise_claims(replace(result, pairs=spoilt, networks=networks))
    assert len(claims) == 4, "equivariance and sorted distance, of two networks"
    for claim in claims:
        assert claim.verdict == "disagree"
        assert claim.observed > 0.1, f"the largest error, not a mean: {claim.name}"  # a mean of 320: at most 0.08


def test_a_few_undefined_pairs_are_left_out_and_many_make_a_layer_degenerate():
    nan, inf = float("nan"), float("inf")
    assert mean(torch.tensor([1.0, 2.0, nan, inf, 3.0])) == 2
    assert largest(torch.tensor([1.0, 2.0, nan])) == 2
    assert largest(torch.tensor([1.0, inf, nan])) == inf, "an error where nothing was expected is no undefined one"
    assert isnan(mean(torch.tensor([1.0, nan])))
    assert isnan(largest(torch.tensor([1.0, nan])))


@pytest.fixture(scope="module")
def pairs(digits):
    return lab.translated_pairs(digits, max_shift=MAX_SHIFT, margin=MARGIN, seed=0)


class PositionDependent(lab.LabModel):
    """The given network with a gain that grows along the rows: translation changes what its convolution says."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Sequential(self.conv1, Gain())


class Gain(nn.Module):
    def forward(self, x):
        return x * torch.linspace(0.5, 1.5, x.shape[-2])[:, None]


def test_a_layer_that_depends_on_position_is_found_out(pairs):
    torch.manual_seed(0)
    errors = measure_pairs(PositionDependent(), pairs, ["conv1"])["conv1"]
    assert errors.equivariance.overall > 0.01
    assert errors.equivariance.largest > 1e4 * ROUNDING


def test_zero_padding_is_found_out_at_the_border(pairs):
    torch.manual_seed(0)
    padded = lab.PooledCNN(padding=1)
    assert measure_pairs(padded, pairs, ["conv1"])["conv1"].equivariance.largest > 1e4 * ROUNDING


def test_a_dead_network_is_degenerate_and_not_invariant(digits):
    data = lab.Mnist(digits, digits, "MNIST-10k", "0" * 64)
    dead = run_exercise("given", data, config=lab.TrainConfig(epochs=1, seed=31))  # no window is ever positive
    assert lab.consistency(*dead.networks["trained"].scores) == 1
    assert lab.cohen_kappa(*dead.networks["trained"].scores) == 0
    claims = exercise_claims(dead)
    assert {c.verdict for c in claims if "fc1" in c.name} == {"degenerate"}
    with pytest.raises(lab.ClaimError, match=r"fc1: invariance error: degenerate \(the layer is zero, or"):
        lab.check(claims)


def test_the_best_move_is_the_only_one_where_the_stride_divides_the_shift():
    f = torch.rand(4, 2, 6, 6)
    dy, dx = torch.tensor([2, -2, 0, 4]), torch.tensor([0, 2, -4, 4])
    moved = lab.shift(f, dy // 2, dx // 2)
    assert best_aligned_error(f, moved, dy, dx, 2).max() == 0
    assert torch.equal(best_aligned_error(f, moved, dy, dx, 2), aligned_error(f, moved, dy // 2, dx // 2))


@pytest.mark.parametrize(("dy", "dx"), [(1, 0), (-1, 3), (3, -3), (2, 1)])
def test_the_best_move_is_the_smallest_error_of_the_neighbours_elsewhere(dy, dx):
    f, g = torch.rand(3, 2, 6, 6), torch.rand(3, 2, 6, 6)
    ones = torch.ones(3, dtype=torch.long)
    neighbours = [
        aligned_error(f, g, my * ones, mx * ones) for my in {dy // 2, -(-dy // 2)} for mx in {dx // 2, -(-dx // 2)}
    ]
    best = best_aligned_error(f, g, dy * ones, dx * ones, 2)
    assert torch.equal(best, torch.stack(neighbours).amin(0))


def test_measuring_in_chunks_changes_only_which_images_are_unrelated(pairs):
    model = lab.build_model("given", seed=0)
    whole, parts = (measure_pairs(model, pairs, chunk=chunk) for chunk in (500, 100))
    assert torch.equal(whole["conv1"].equivariance.each, parts["conv1"].equivariance.each)
    # the scale is a mean over 100 unrelated images instead of 500: its standard error is a few per cent
    ratio = whole["fc1"].invariance.each / parts["fc1"].invariance.each
    assert ((ratio - 1).abs() < 0.2).all()


# One engine: whoever asks the same question gets the same number


QUANTITIES = ("equivariance", "wrong_shift", "unrelated", "invariance", "invariance_unrelated", "sorting")


@pytest.mark.parametrize("t", [(1, 1), (2, -2), (0, 3), (4, 0)], ids=str)
@pytest.mark.parametrize("name", list(MODELS))
def test_the_exercise_and_the_meter_find_the_same_numbers_on_the_same_pairs(name, t, digits, monkeypatch):
    monkeypatch.setattr(instrument, "ONE_IN", 1)  # controls of all images, as the exercise takes them
    monkeypatch.setattr(measuring, "AT_MOST_ONE_IN", 1)
    room = lab.ink_margins(digits.images).fits(*t, margin=MARGIN)
    first = digits.images[room][:60]
    dy, dx = (torch.full((len(first),), pixels) for pixels in t)
    pairs = lab.TranslatedPairs(first, lab.shift(first, dy, dx), dy, dx, digits.labels[room][:60])
    model = lab.build_model(name, seed=0)
    ours = measure_pairs(model, pairs)
    report = lab.meter(model, lab.normalize(first), [t], background=lab.data.BACKGROUND, layers=list(ours))
    compared = 0
    for row in report.rows:
        for quantity in QUANTITIES:
            expected = getattr(ours[row.layer], quantity).overall
            found = row.interior if quantity == "equivariance" else getattr(row, quantity)
            # the meter runs batches in another memory layout: float32, sums of up to 145 terms
            assert found == pytest.approx(expected, rel=1e-5, abs=ROUNDING, nan_ok=True), (row.layer, quantity)
            compared += expected > 0.1
        assert row.worst == pytest.approx(
            (ours[row.layer].equivariance if report.geometry[row.layer].grid else ours[row.layer].invariance).largest,
            rel=1e-5,
            abs=ROUNDING,
        )
    assert compared >= 2 * len(report.rows), "these were all 0 or nan: nothing was compared"


def test_the_wrong_shift_is_no_move_that_could_be_right():
    """At (1, 1) and a stride of 2 a step towards 0 in y alone is one of the four moves nearest to the shift."""
    grid = lab.metrics.Grid.unpadded((28, 28), (11, 11), 2)
    for t in [(1, 1), (-1, 1), (3, -3), (2, 1), (0, 1), (0, 0)]:
        assert grid.wrong_move(t) not in grid.moves(t), t
