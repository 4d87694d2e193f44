"""Each metric with its positive control, its null model and its negative controls, and what the sort test misses."""

import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import lab
from lab.errors import InputError
from lab.metrics import Axis, Comparison, Grid, _overlap, aligned_error, derangement, sort_positions
from lab.shifting import TranslatedPairs

EXACT = 1e-6  # float32: 5 terms a sum, 5 * 6e-8 = 3e-7 relative


@pytest.fixture(scope="module")
def pairs(digits) -> TranslatedPairs:
    """Pairs whose ink stays a pixel from the frame: every 2 × 2 window that touches ink is inside it."""
    return lab.translated_pairs(digits, max_shift=4, seed=0, margin=1)


@pytest.fixture(scope="module")
def conv(pairs):
    """conv1 of the given network, untrained, of the first and of the second images."""
    model = lab.build_model("given", seed=0)
    return tuple(lab.activations(model, lab.normalize(x))["conv1"] for x in (pairs.first, pairs.second))


def unrelated(a):
    return a[derangement(len(a), seed=5)]


# Equivariance error


def test_equivariance_error_is_its_definition():
    moved, expected = torch.tensor([[1.0, 5.0]]), torch.tensor([[1.0, 2.0]])
    assert lab.equivariance_error(moved, expected).item() == pytest.approx(3 / 5**0.5)
    valid = torch.tensor([True, False])
    assert lab.equivariance_error(moved, expected, valid).item() == 0


def test_equivariance_error_of_a_convolution_is_zero_and_of_its_null_models_about_one(conv, pairs):
    first, second = conv
    assert aligned_error(first, second, pairs.dy, pairs.dx).max() <= EXACT
    wrong_shift = aligned_error(first, second, pairs.dy - pairs.dy.sign() + (pairs.dy == 0), pairs.dx)
    other_image = aligned_error(unrelated(first), second, pairs.dy, pairs.dx)
    assert wrong_shift.mean() > 0.3
    assert other_image.mean() > 0.5


def test_equivariance_error_sees_what_the_border_adds_when_it_is_not_masked(conv, pairs):
    first, second = conv
    full_frame = lab.equivariance_error(second, lab.shift(first, pairs.dy, pairs.dx))
    assert full_frame.mean() > 1e-3  # 1,000 × rounding
    assert (full_frame >= aligned_error(first, second, pairs.dy, pairs.dx)).all()


@given(scale=st.floats(0.01, 100))
def test_equivariance_error_has_no_unit(scale):
    moved, expected = torch.tensor([[1.0, 5.0]]), torch.tensor([[1.0, 2.0]])
    error = lab.equivariance_error(moved, expected)
    assert torch.allclose(lab.equivariance_error(scale * moved, scale * expected), error)


def test_what_the_mask_leaves_out_may_be_nan():
    f = torch.rand(2, 1, 4, 4)
    expected = lab.shift(f, 1, 0, background=torch.nan)
    assert lab.equivariance_error(lab.shift(f, 1, 0), expected, ~expected.isnan()).max() == 0
    with pytest.raises(InputError, match="expected must be finite: 8 of 32"):
        lab.equivariance_error(lab.shift(f, 1, 0), expected)


def test_a_dead_layer_is_undefined_not_equivariant():
    dead = torch.zeros(2, 1, 3, 3)
    assert lab.equivariance_error(dead, dead).isnan().all()
    assert lab.equivariance_error(dead + 1, dead).isinf().all()


def test_small_errors_are_not_lost_in_large_norms():
    expected = torch.ones(1, 1_000_000)
    moved = expected.clone()
    moved[0, 0] += 1e-3
    assert lab.equivariance_error(moved, expected).item() == pytest.approx(1e-6, rel=1e-3)


def test_norms_are_accumulated_in_float64():
    generator = torch.Generator().manual_seed(0)
    moved, expected = torch.rand(2, 1, 10_000, generator=generator)
    differences = [a - b for a, b in zip(moved[0].tolist(), expected[0].tolist(), strict=True)]
    exact = math.hypot(*differences) / math.hypot(*expected[0].tolist())
    # float64: √10,000 · 1e-16; norms in float32 differ by about 1e-8
    assert lab.equivariance_error(moved, expected).item() == pytest.approx(exact, rel=1e-13)


@pytest.mark.parametrize(
    ("size", "dtype"),
    [
        (6e4, torch.float16),
        (1e-7, torch.float16),
        (1e38, torch.bfloat16),
        (1e200, torch.float64),
        (1e-200, torch.float64),
    ],
    ids=str,
)
def test_values_whose_squares_fit_no_type_are_measured_right(size, dtype):
    """The two images, and each image and its translation, are 2 · size apart at every position."""
    a = torch.full((2, 1, 2, 4), size, dtype=dtype)
    a[1] = -a[1]
    assert lab.equivariance_error(-a, a).tolist() == [2, 2]
    assert lab.invariance_error(a, -a).tolist() == [1, 1]
    assert lab.sorted_distance(a, -a).tolist() == [1, 1]
    errors = Comparison(a, Grid.unpadded((2, 4), (2, 4), 1)).errors(-a, (0, 0))
    assert errors.equivariance.each.tolist() == [2, 2]
    assert errors.invariance.each.tolist() == errors.sorting.each.tolist() == [1, 1]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("valid", "said"),
    [
        (torch.ones(3, 3, dtype=torch.int64), "valid must be boolean: torch.int64"),
        (torch.zeros(3, 3, dtype=torch.bool), "every image needs a valid position"),
        (torch.ones(4, 4, dtype=torch.bool), "valid must broadcast to the activations"),
    ],
    ids=["integers", "empty", "shape"],
)
def test_a_mask_that_cannot_be_used_is_refused(valid, said):
    a = torch.rand(2, 1, 3, 3)
    with pytest.raises(InputError, match=said):
        lab.equivariance_error(a, a, valid)


# Invariance error


def test_invariance_error_of_a_global_sum_is_zero_of_its_null_model_one(pairs):
    sums = [x.double().sum((2, 3)) for x in (pairs.first, pairs.second)]
    assert lab.invariance_error(*sums).max() <= 1e-12  # float64
    assert lab.invariance_error(sums[0], unrelated(sums[0])).mean().item() == pytest.approx(1, abs=0.15)


def test_the_invariance_error_is_relative_to_the_images_and_not_to_their_translations():
    a, b = torch.tensor([[0.0], [2.0]]), torch.tensor([[0.0], [4.0]])
    assert lab.invariance_error(a, b).tolist() == [0, 1]  # 2 apart, as are the images; their translations are 4 apart


def test_invariance_error_of_a_linear_layer_on_flattened_features_is_not_zero(pairs):
    model = lab.build_model("given", seed=0)
    answers = [lab.activations(model, lab.normalize(x))["fc1"] for x in (pairs.first, pairs.second)]
    assert lab.invariance_error(*answers).mean() > 0.3


def test_unrelated_images_are_unrelated_also_where_images_are_sorted_by_class():
    a = torch.arange(10.0).repeat_interleave(100)[:, None]
    null = lab.invariance_error(a, unrelated(a)).mean().item()
    # E |i - j| over the classes is 3.3 both above and below the line; 1,000 pairs give it to about 3 %
    assert null == pytest.approx(1, abs=0.1)
    rolled = lab.invariance_error(a, a.roll(1, 0)).mean().item()
    assert rolled < 0.05, "a roll, the tempting null model, pairs digits of one class"


@given(st.integers(2, 50), st.integers(0, 5))
def test_a_derangement_is_a_permutation_that_leaves_nothing_in_place(n, seed):
    order = derangement(n, seed=seed)
    assert sorted(order.tolist()) == list(range(n))
    assert not (order == torch.arange(n)).any()


def test_the_seed_decides_which_images_are_unrelated():
    assert torch.equal(derangement(50, seed=3), derangement(50, seed=3))
    assert not torch.equal(derangement(50, seed=3), derangement(50, seed=4))


def test_the_images_of_the_control_are_not_those_that_make_the_scale():
    a = torch.randn(50, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    errors = Comparison(a, Grid.unpadded((3, 3), (3, 3), 1)).errors(a, (0, 0))
    for control in (errors.invariance_unrelated, errors.sorting_unrelated):
        assert control.overall == pytest.approx(1, abs=0.3)  # a mean of 50 distances: a few per cent
        assert abs(control.overall - 1) > 1e-3, "divided by itself, it would be 1 whatever the layer does"


def test_a_constant_layer_is_undefined_not_invariant():
    assert lab.invariance_error(torch.ones(3, 2), torch.ones(3, 2)).isnan().all()


# Sorted distance: necessary ...


def test_a_convolution_passes_the_sort_test_and_unrelated_images_do_not(conv):
    first, second = conv
    assert lab.sorted_distance(first, second).max() <= EXACT
    assert lab.sorted_distance(first, unrelated(second)).mean() > 0.5


@given(st.integers(0, 100))
def test_sorting_ignores_permutations(seed):
    generator = torch.Generator().manual_seed(seed)
    a = torch.rand(4, 2, 3, 3, generator=generator)
    order = torch.randperm(9, generator=generator)
    assert lab.sorted_distance(a, a.flatten(2)[..., order].view_as(a)).max() == 0


def test_sorting_is_within_each_channel():
    a = torch.rand(4, 2, 3, 3)
    assert (lab.sorted_distance(a, a.flip(1)) > 0).all()


def test_without_positions_the_sort_test_is_the_invariance_error():
    a, b = torch.rand(5, 7), torch.rand(5, 7)
    assert torch.equal(lab.sorted_distance(a, b), lab.invariance_error(a, b))


# ... and not sufficient


@pytest.mark.parametrize(
    "imposter",
    [lambda f: f.flip(-1), lambda f: f.flatten(2)[..., torch.randperm(27 * 27)].view_as(f)],
    ids=["flip", "fixed permutation"],
)
def test_an_imposter_passes_the_sort_test_but_is_not_equivariant(conv, pairs, imposter):
    state = torch.random.get_rng_state()
    fooled = []
    for activation in conv:
        torch.manual_seed(0)  # the same permutation for both
        fooled.append(imposter(activation))
    torch.random.set_rng_state(state)
    first, second = fooled
    assert lab.sorted_distance(first, second).max() <= EXACT
    assert aligned_error(first, second, pairs.dy, pairs.dx).mean() > 0.3


def test_a_constant_output_passes_by_saying_nothing_and_is_flagged(conv, pairs):
    first, second = (0 * activation + 1 for activation in conv)
    assert torch.equal(sort_positions(first), sort_positions(second)), "the sort test itself"
    assert lab.sorted_distance(first, second).isnan().all()
    assert aligned_error(first, second, pairs.dy, pairs.dx).max() == 0
    assert aligned_error(first, second, pairs.dy * 0, pairs.dx * 0).max() == 0, "the null model gives it away"
    constant = first
    assert lab.consistency(constant[:, 0, 0], constant[:, 0, 0]) == 1
    assert lab.cohen_kappa(constant[:, 0, 0], constant[:, 0, 0]) == 0


def test_a_digit_leaving_the_frame_fails_the_sort_test_although_the_convolution_is_exact(digits):
    model = lab.build_model("given", seed=0)
    dy = 8
    images = digits.images[~lab.ink_margins(digits.images).fits(dy, 0)]
    n = len(images)
    assert n > 400, "nearly all of the 500 digits lose ink"
    first, second = (lab.activations(model, lab.normalize(x))["conv1"] for x in (images, lab.shift(images, dy, 0)))
    step, still = torch.full((n,), dy), torch.zeros(n, dtype=torch.long)
    assert aligned_error(first, second, step, still).max() <= EXACT
    assert lab.sorted_distance(first, second).mean() > 0.2


def test_ink_at_the_frame_alone_fails_the_sort_test_for_windows_that_are_cut(digits):
    model = lab.build_model("given", seed=0)
    pairs = lab.translated_pairs(digits, max_shift=4, seed=0, margin=0)
    first, second = (lab.activations(model, lab.normalize(x))["conv1"] for x in (pairs.first, pairs.second))
    room = lab.ink_margins(pairs.first).fits(0, 0, margin=1) & lab.ink_margins(pairs.second).fits(0, 0, margin=1)
    distance = lab.sorted_distance(first, second)
    assert distance[room].max() <= EXACT
    assert distance[~room].max() > 1e-3


# Consistency


def test_consistency_counts_equal_decisions():
    a = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    b = torch.tensor([[9.0, 0.0], [0.0, 2.0], [0.0, 1.0], [1.0, 0.0]])
    assert lab.consistency(a, b) == 0.75
    # chance: 3/4 * 2/4 + 1/4 * 2/4 = 1/2
    assert lab.cohen_kappa(a, b) == pytest.approx((0.75 - 0.5) / 0.5)


def test_kappa_of_independent_decisions_is_zero_although_they_often_agree():
    generator = torch.Generator().manual_seed(0)
    draws = torch.rand(2, 20_000, generator=generator) < 0.9  # both say class 1 nine times of ten
    a, b = (F.one_hot(d.long(), 2).float() for d in draws)
    assert lab.consistency(a, b) == pytest.approx(0.82, abs=0.01)  # 0.9² + 0.1²; standard error 0.003
    assert lab.cohen_kappa(a, b) == pytest.approx(0, abs=0.03)  # standard error 0.007


def test_kappa_is_one_for_equal_and_negative_for_opposite_decisions():
    a = torch.eye(2).repeat(5, 1)
    assert lab.cohen_kappa(a, a) == 1
    assert lab.cohen_kappa(a, a.flip(1)) == -1


# What is compared


axes = st.builds(
    lambda size, begin, end, circular, even: Axis(
        size * (even or 1),
        size,
        Fraction(even) if even else None,
        even,
        interior=range(min(begin, size), max(min(size - end, size), min(begin, size))),
        circular=bool(circular and even),
    ),
    *(st.integers(1, 12), st.integers(0, 6), st.integers(0, 6), st.booleans(), st.sampled_from([None, 1, 2, 4])),
)


@given(axes, st.integers(-15, 15), st.booleans())
def test_outputs_are_comparable_where_they_and_their_counterparts_are_inside(axis, move, wrap):
    around = wrap and axis.rolls
    expected = []
    for j in range(axis.outputs):
        counterpart = (j - move) % axis.outputs if around else j - move
        if 0 <= counterpart < axis.outputs:
            both = j in axis.interior and counterpart in axis.interior
            expected.append(both or (around and axis.circular))
    assert axis.comparable(move, wrap=wrap).tolist() == expected


@given(st.integers(1, 12), st.integers(-15, 15))
def test_the_overlap_pairs_each_output_with_its_counterpart(outputs, move):
    here, there = (list(range(outputs))[one] for one in _overlap(outputs, move))
    assert list(zip(here, there, strict=True)) == [(j, j - move) for j in range(outputs) if 0 <= j - move < outputs]


@pytest.mark.parametrize(("t", "moves"), [(0, (0,)), (4, (1,)), (-8, (-2,)), (1, (0, 1)), (-1, (-1, 0)), (6, (1, 2))])
def test_a_shift_moves_the_outputs_by_one_of_the_next_whole_steps(t, moves):
    assert Axis(32, 8, Fraction(4), 4, range(8)).moves(t) == moves
    assert Axis(32, 8, Fraction(4), 8, range(8)).moves(t) == moves, "whatever the period"
    assert Axis(32, 8, None, None, range(0)).moves(t) == moves, "without a step, as if 8 outputs divided the image"


def test_behind_upsampling_a_pixel_moves_the_outputs_by_more_than_one():
    assert [Axis(8, 16, Fraction(1, 2), 1, range(16)).moves(t) for t in (0, 1, -3)] == [(0,), (2,), (-6,)]
    assert [Axis(8, 12, Fraction(2, 3), 2, range(12)).moves(t) for t in (1, 2, -1)] == [(1, 2), (3,), (-2, -1)]


def test_a_shift_leaves_an_output_without_a_counterpart_unless_it_goes_round():
    axis = Axis(8, 4, Fraction(2), 2, range(4))
    assert axis.moves(7) == (3,)
    assert axis.moves(7, wrap=True) == (3, 4)


def test_exact_are_the_shifts_that_the_period_divides():
    axis = Axis(32, 32, Fraction(1), 4, range(32))
    assert [t for t in range(-8, 9) if axis.exact_at(t)] == [-8, -4, 0, 4, 8]
    assert not Axis(32, 32, Fraction(1), None, range(32)).exact_at(0), "no period is known"
    grid = Grid(axis, replace(axis, period=3))
    assert (grid.step, grid.period) == ((1, 1), (4, 3))
    assert [t for t in ((4, 3), (4, 4), (3, 3), (0, 0)) if grid.exact_at(t)] == [(4, 3), (0, 0)]


def test_a_shift_along_one_axis_needs_an_interior_along_that_axis_alone():
    rows, columns = (Axis(8, 8, Fraction(1), 1, inside) for inside in (range(1, 7), range(0)))
    a, grid = torch.rand(2, 3, 8, 8), Grid(rows, columns)
    *_, inside = grid.aligned(a, a, (1, 0), (1, 0))
    assert inside.tolist() == [[j in range(2, 7)] * 8 for j in range(1, 8)]
    assert not grid.aligned(a, a, (1, 1), (1, 1))[2].any()
    assert not grid.aligned(a, a, (0, 1), (0, 1))[2].any()


def with_step(step, outputs=24):
    """A map of which every output is interior."""
    axis = Axis(int(step * outputs), outputs, step, step.numerator, range(outputs))
    return Grid(axis, axis)


@pytest.mark.parametrize("step", [Fraction(1), Fraction(2), Fraction(1, 2), Fraction(2, 3)], ids=str)
@pytest.mark.parametrize("t", [(1, 1), (-1, 1), (3, -3), (2, 0), (0, -1), (0, 0)], ids=str)
def test_the_wrong_move_is_one_output_beside_the_right_ones_along_the_shift(t, step):
    grid = with_step(step)
    right, wrong = grid.moves(t), grid.wrong_move(t)
    assert wrong not in right
    for axis, (pixels, move) in enumerate(zip(t, wrong, strict=True)):
        beside = min(abs(move - one[axis]) for one in right)
        assert beside == (pixels != 0 or not any(t))


# A single image


def test_activations_that_still_hang_on_a_gradient_are_compared_like_others(pairs):
    weighted = torch.nn.Conv2d(1, 2, 3)
    first, second = weighted(pairs.first), weighted(pairs.second)
    with_gradient = lab.aligned_error(first, second, pairs.dy, pairs.dx)
    without = lab.aligned_error(first.detach(), second.detach(), pairs.dy, pairs.dx)
    assert torch.equal(with_gradient, without)
    assert not with_gradient.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_of_a_single_image_errors_are_measured_and_controls_are_not(dtype):
    a, grid = torch.randn(1, 2, 8, 8).to(dtype), Grid(*[Axis(16, 8, Fraction(2), 2, range(8), circular=True)] * 2)
    errors = Comparison(a, grid, wrap=True).errors(a.roll(1, -1), (0, 2))
    assert errors.equivariance.each.tolist() == [0]
    controls = (errors.wrong_shift, errors.unrelated, errors.invariance_unrelated, errors.sorting_unrelated)
    assert all(one.each.isnan().all() for one in (*controls, errors.invariance, errors.sorting))
    off = Comparison(a, grid, wrap=True).errors(a.roll(1, -1), (0, 1))
    assert off.equivariance.overall == 0, "the better of the two whole moves"


# Bad input

TWO = [lab.equivariance_error, lab.invariance_error, lab.sorted_distance, lab.consistency, lab.cohen_kappa]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("metric", TWO, ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 4), "must have the same shape"),
        (torch.zeros(0, 3), torch.zeros(0, 3), "at least one element"),
        (torch.zeros(3), torch.zeros(3), "same shape n ..."),
        (torch.tensor([[1.0], [torch.nan]]), torch.zeros(2, 1), "must be finite: 1 of 2"),
        (torch.zeros(2, 1), torch.tensor([[1.0], [torch.inf]]), "must be finite: 1 of 2"),
        (torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 3), "must hold floating-point values: torch.int64"),
        (torch.ones(2, 3), torch.ones(2, 3, device="meta"), "must hold values: a tensor on the meta device has none"),
    ],
    ids=["shapes", "empty", "vector", "nan", "inf", "integers", "meta"],
)
def test_what_cannot_be_compared_is_refused(metric, a, b, said):
    with pytest.raises(InputError, match=said):
        metric(a, b)


@pytest.mark.parametrize("metric", [lab.invariance_error, lab.sorted_distance], ids=lambda f: f.__name__)
def test_one_image_has_no_unrelated_one(metric):
    with pytest.raises(InputError, match="need at least two images: n=1"):
        metric(torch.zeros(1, 3), torch.zeros(1, 3))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("metric", [lab.consistency, lab.cohen_kappa], ids=lambda f: f.__name__)
def test_a_map_is_no_class_score(metric):
    a = torch.rand(2, 3, 4, 4)
    with pytest.raises(InputError, match=r"class scores must be n classes: shape \(2, 3, 4, 4\)"):
        metric(a, a)


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        (torch.ones(2, 3, dtype=torch.int64), "conv1 must return floating-point values: torch.int64"),
        (torch.ones(2, 3, device="meta"), "conv1 must return floating-point values: torch.float32"),
        (torch.ones(0, 3), r"conv1 must return floating-point values: torch.float32, shape \(0, 3\)"),
        (torch.tensor([[1.0], [torch.nan]]), "conv1 returns NaN or an infinite value"),
    ],
    ids=["integers", "meta", "empty", "nan"],
)
def test_outputs_that_cannot_be_compared_are_refused_with_the_layers_name(outputs, said):
    with pytest.raises(InputError, match=said):
        Comparison(outputs, None, name="conv1")
