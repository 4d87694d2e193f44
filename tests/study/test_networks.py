"""Each network of a study, held against what theory says of it, by the meter."""

from itertools import product
from typing import get_args

import pytest
import torch
from torch.nn.functional import avg_pool2d, max_pool2d

import lab
from lab.data import BACKGROUND
from lab.errors import InputError
from lab.study.networks import Head, Padding, Pooling

HEADS, POOLINGS, PADDINGS = map(get_args, (Head, Pooling, Padding))
ON, OFF = (4, -4), (1, -1)  # multiples of the period of two strides of 2, and not
CLEAR = 0.01  # far above rounding


@pytest.fixture(scope="module")
def clouds():
    return lab.fractal_images(4, (28, 28), channels=1, seed=0)


def network(**factors):
    return lab.study_network(lab.Setting(width=2, **factors), seed=0).eval()


@pytest.mark.parametrize(("head", "pooling", "padding"), [*product(HEADS, POOLINGS, PADDINGS)])
def test_every_combination_gives_ten_scores(head, pooling, padding):
    assert network(head=head, pooling=pooling, padding=padding)(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_on_a_ring_theory_and_observation_agree_for_every_layer(pooling, clouds):
    report = lab.meter(network(pooling=pooling, head="maximum"), clouds, [ON, OFF], mode="wrap")
    assert not report.disagreements
    on = {row.layer: row for row in report.rows if (row.dy, row.dx) == ON}
    assert on["fc"].observed == "exact"


@pytest.mark.parametrize("padding", ["none", "zeros", "reflect"])
def test_without_a_ring_theory_and_observation_agree_too(padding, clouds):
    report = lab.meter(network(padding=padding), clouds, [ON, OFF], background=BACKGROUND)
    assert not report.disagreements


@pytest.mark.parametrize(("pooling", "exact"), [("adaptive", True), ("max", False), ("blur", False), ("stride", False)])
@pytest.mark.parametrize("head", ["average", "maximum"])
def test_of_all_poolings_only_the_adaptive_grid_is_invariant_off_the_period_untrained(pooling, exact, head, clouds):
    net = network(pooling=pooling, head=head).double()  # float64: a tie of two grids is less likely
    first, second = (net(x.double()) for x in (clouds, lab.shift(clouds, *OFF, mode="wrap")))
    error = lab.invariance_error(first, second).max().item()
    assert error <= 1e-12 if exact else error >= CLEAR


@pytest.mark.parametrize("pooling", ["max", "adaptive"])
def test_a_head_that_flattens_is_invariant_to_nothing(pooling, clouds):
    net = network(pooling=pooling)
    first, second = (net(x) for x in (clouds, lab.shift(clouds, *ON, mode="wrap")))
    assert lab.invariance_error(first, second).min() >= CLEAR


def test_blur_pool_is_the_binomial_filter_at_every_second_position():
    x = torch.rand(1, 2, 7, 7, dtype=torch.float64)
    line = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64) / 4
    expected = [[(line[:, None] * line * x[0, 1, i : i + 3, j : j + 3]).sum() for j in (0, 2, 4)] for i in (0, 2, 4)]
    found = lab.BlurPool(2).double()(x)[0, 1]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_the_adaptive_grid_is_the_one_of_largest_norm():
    x = torch.zeros(2, 1, 4, 4)
    x[0, 0, 1, 2], x[1, 0, 2, 3] = 3.0, -3.0  # rows 1, columns 0; rows 0, columns 1
    assert torch.equal(lab.AdaptivePolyphase()(x)[0, 0], x[0, 0, 1::2, ::2])
    assert torch.equal(lab.AdaptivePolyphase()(x)[1, 0], x[1, 0, ::2, 1::2])


@pytest.mark.parametrize(
    ("head", "pool"), [("average", lambda maps: maps.mean((2, 3))), ("maximum", lambda maps: maps.amax((2, 3)))]
)
def test_a_global_head_is_the_mean_or_the_maximum_of_each_channel(head, pool, clouds):
    found = lab.activations(network(head=head), clouds, ["relu3", "pooled"])
    torch.testing.assert_close(found["pooled"].flatten(1), pool(found["relu3"]))


@pytest.mark.parametrize(("pooling", "pool"), [("max", max_pool2d), ("average", avg_pool2d)])
def test_each_stage_halves_its_map_as_it_says(pooling, pool, clouds):
    found = lab.activations(network(pooling=pooling), clouds, ["relu1", "pool1", "relu2", "pool2"])
    for i in (1, 2):
        torch.testing.assert_close(found[f"pool{i}"], pool(found[f"relu{i}"], 2))
    assert network(pooling="stride").conv1.stride == (2, 2)


def test_weights_depend_on_the_seed_alone():
    nets = [network() for _ in range(2)] + [lab.study_network(lab.Setting(width=2), seed=1)]
    first, again, other = (net.conv2.weight for net in nets)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    "bad", [{"head": "mean"}, {"pooling": "min"}, {"padding": "same"}, {"width": 0}, {"augmentation": 28}], ids=str
)
@pytest.mark.usefixtures("unchecked")
def test_an_unknown_value_is_refused_and_the_known_ones_are_named(bad):
    ((factor, value),) = bad.items()
    known = {"head": "average", "pooling": "adaptive", "padding": "reflect"}.get(factor, "")
    with pytest.raises(InputError, match=rf"(?s){factor} must be.*{known}.*{value}"):
        lab.Setting(**bad)
