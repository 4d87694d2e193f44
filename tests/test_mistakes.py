"""The course's seven measurement mistakes: each misleads when made on purpose, and the package does not make it."""

from dataclasses import replace

import pytest
import torch

import lab
from lab.data import BACKGROUND
from lab.errors import InputError
from lab.exercise import MARGIN, MAX_SHIFT, ROUNDING, measure_pairs
from lab.metrics import aligned_error, derangement
from lab.metrics import largest_error as largest
from lab.observing import predict

LATER = slice(100, None)  # all but the first batch
RECIPE = lab.TrainConfig(epochs=2, batch_size=64)  # on 8,000 digits: half a second, about 0.87 of them right


class Pixels(lab.LabModel):
    """f(x) = x, under the name that `measure` knows to keep positions: an error is the measurement's own."""

    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Identity()

    def forward(self, x):
        return self.conv1(x)


@pytest.fixture(scope="module")
def model(mnist):
    """The given network, trained on 8,000 real digits."""
    network = lab.build_model("given", seed=0)
    lab.fit(network, mnist.train.sample(8_000, seed=0), RECIPE)
    return network


@pytest.fixture(scope="module")
def test_digits(mnist) -> lab.Split:
    return mnist.test.sample(1_000, seed=0)


@pytest.fixture(scope="module")
def pairs(test_digits):
    return lab.translated_pairs(test_digits, max_shift=MAX_SHIFT, margin=MARGIN, seed=0)


@pytest.fixture(scope="module")
def near(test_digits):
    """Moved by one pixel at most: a small change, which a careless measurement can hide."""
    return lab.translated_pairs(test_digits, max_shift=1, margin=MARGIN, seed=0)


@pytest.fixture(scope="module")
def right(model, near):
    return measure_pairs(model, near)


def act(model, images, layer):
    return lab.activations(model, lab.normalize(images), [layer])[layer]


# 1. Unmatched pairs


def with_the_first_translated_batch(pairs, size=100):
    """The published way: the translated images are taken once, before the loop over the batches."""
    translated = pairs.second[:size].repeat(len(pairs) // size, 1, 1, 1)
    return replace(pairs, second=translated)


def test_unmatched_pairs_hide_every_effect_and_matched_ones_do_not(model, near, right):
    wrong = measure_pairs(model, with_the_first_translated_batch(near))
    # all meet the same 100 images, whose sampling error is a few per cent; the first batch is matched all the same
    assert wrong["conv1"].sorting[LATER].overall == pytest.approx(1, abs=0.15), "an exact layer looks unrelated"
    assert wrong["fc1"].invariance[LATER].overall == pytest.approx(1, abs=0.15), "one pixel looks like another digit"
    assert right["conv1"].sorting.largest <= ROUNDING
    assert right["fc1"].invariance.overall < 0.6  # about 0.35; unrelated images give 1
    assert right["fc1"].invariance_unrelated.overall == pytest.approx(1, abs=0.1)  # 1,000 pairs: a few per cent


def test_undoing_the_translation_finds_unmatched_pairs_out(model, near, right):
    for layer, errors in right.items():
        assert errors.undone.largest <= ROUNDING, layer
    for layer, errors in measure_pairs(model, with_the_first_translated_batch(near)).items():
        assert errors.undone.overall > 0.5, layer


# 2. Filling with 0 after normalisation


def test_a_grey_band_makes_an_exact_layer_fail_the_sort_test_and_shifting_first_does_not(model, pairs):
    first = lab.normalize(pairs.first)
    banded = lab.shift(first, pairs.dy, pairs.dx)  # 0, where the background is -0.42
    maps, wrong = (lab.activations(model, x, ["conv1"])["conv1"] for x in (first, banded))
    assert lab.sorted_distance(maps, wrong).mean() > 0.05  # 50,000 × rounding
    assert lab.sorted_distance(first, banded).mean() > 0.05, "the identity gives it away: f(x) = x must give 0"
    assert measure_pairs(model, pairs, ["conv1"])["conv1"].sorting.largest <= ROUNDING
    assert measure_pairs(Pixels(), pairs, ["conv1"])["conv1"].sorting.largest == 0, "the same pixels, bit for bit"


@pytest.mark.parametrize(("dy", "dx"), [(4, 0), (-3, 2)])
def test_a_blank_image_stays_blank_when_it_is_translated(dy, dx):
    blank = torch.zeros(1, 1, 28, 28)
    right = lab.normalize(lab.shift(blank, dy, dx))
    filled = lab.shift(lab.normalize(blank), dy, dx, background=BACKGROUND)
    wrong = lab.shift(lab.normalize(blank), dy, dx)
    assert torch.equal(right, lab.normalize(blank))
    assert torch.allclose(filled, lab.normalize(blank), rtol=1e-6)  # float32: the constant is rounded once more
    assert (wrong - lab.normalize(blank)).abs().max() > 0.4


# 3. Digits clipped by the frame


def test_clipped_digits_fail_the_sort_test_and_pairs_with_room_do_not(model, test_digits, pairs):
    moved = lab.shift(test_digits.images, pairs.dy, pairs.dx)  # the same displacements, of digits as they lie
    clipped = ~lab.ink_margins(test_digits.images).fits(pairs.dy, pairs.dx)
    first, second = (act(model, x, "conv1") for x in (test_digits.images, moved))
    distance = lab.sorted_distance(first, second)
    assert 0.05 < clipped.double().mean() < 0.3  # about 15 %: few enough to be overlooked
    assert distance[clipped].mean() > 0.05  # 50,000 × rounding
    assert distance.mean() > 0.01
    assert lab.sorted_distance(test_digits.images, moved)[clipped].min() > 0, "the identity gives each of them away"
    assert largest(aligned_error(first, second, pairs.dy, pairs.dx)) <= ROUNDING, "the convolution is innocent"
    for network in (model, Pixels()):
        assert measure_pairs(network, pairs, ["conv1"])["conv1"].sorting.largest <= ROUNDING


def test_no_pair_loses_ink_at_its_first_place_or_at_its_second(test_digits, pairs):
    before = test_digits.images.flatten(1).sort(1).values
    assert torch.equal(pairs.first.flatten(1).sort(1).values, before)
    assert torch.equal(pairs.second.flatten(1).sort(1).values, before)


# 4. No control


def test_without_a_control_training_seems_to_destroy_the_invariance_that_it_makes(model, near, right):
    untrained = lab.build_model("given", seed=0)
    distance = [(act(m, near.second, "fc1") - act(m, near.first, "fc1")).norm(dim=1).mean() for m in (model, untrained)]
    error = [right["fc1"].invariance.overall, measure_pairs(untrained, near)["fc1"].invariance.overall]
    assert distance[0] > 5 * distance[1]  # about 30 ×
    assert error[0] < 0.8 * error[1]  # about 0.45 ×


@pytest.fixture(scope="module")
def dead():
    """The given network with a ReLU that never lets anything through: it answers the same whatever it sees."""
    network = lab.build_model("given", seed=0)
    with torch.no_grad():
        network.conv1.bias.fill_(-100.0)
    return network


def test_a_dead_layer_is_perfect_by_absolute_distance_and_degenerate_by_the_lab(dead, near):
    first, second = (act(dead, x, "fc1") for x in (near.first, near.second))
    assert (second - first).norm(dim=1).max() == 0, "invariant, says the distance"
    assert lab.consistency(first, second) == 1, "invariant, says consistency"
    assert lab.cohen_kappa(first, second) == 0
    errors = measure_pairs(dead, near)["fc1"]
    assert errors.invariance.each.isnan().all()
    null = lab.Control("unrelated images", errors.invariance_unrelated.overall, ">=", 0.5)
    claim = lab.Claim("dead fc1", "invariant", 0.0, errors.invariance.overall, (null,), kind="exact")
    assert claim.verdict == "degenerate"
    with pytest.raises(lab.ClaimError, match="dead fc1: degenerate"):
        lab.check([claim])


def test_a_number_cannot_be_claimed_without_its_control():
    with pytest.raises(InputError, match="a claim without a control shows nothing"):
        lab.Claim("fc1 moves by 5.24", "invariant", 5.24, 5.24, (), kind="exact")


def test_a_number_is_no_finding_where_its_control_gives_the_same():
    null = lab.Control("unrelated images", 0.0, ">=", 0.5)
    assert lab.Claim("constant layer", "equivariant", 0.0, 0.0, (null,), kind="exact").verdict == "no control"


# 5. Early return from the evaluation loop


def accuracy_of_the_first_batch(model, split, size=64):
    for images, labels in zip(split.images.split(size), split.labels.split(size), strict=True):
        return (predict(model, images).argmax(1) == labels).double().mean().item()  # inside the loop
    raise AssertionError("no batch")


def in_order(split, order):
    return lab.Split(split.images[order], split.labels[order])


def test_one_batch_depends_on_the_order_of_the_images_and_the_whole_set_does_not(model, test_digits):
    moved = lab.Split(lab.shift(test_digits.images, 0, 2), test_digits.labels)
    by_class = moved.labels.argsort(stable=True)
    orders = [in_order(moved, by_class.roll(start)) for start in range(0, len(moved), 100)]
    wrong = [accuracy_of_the_first_batch(model, split) for split in orders]
    whole = [lab.evaluate(model, split).accuracy for split in orders]
    assert max(wrong) - min(wrong) > 0.2  # one class is far easier than another
    # a mean has no order; where two classes tie, other batches may round differently: one image of 1,000
    assert max(whole) - min(whole) <= 1e-3


def test_evaluation_counts_every_image_once(model, mnist):
    result = lab.evaluate(model, mnist.test)
    with torch.no_grad():
        log_probabilities = model(lab.normalize(mnist.test.images))[0]
    correct = (log_probabilities.argmax(1) == mnist.test.labels).double()
    loss = torch.nn.functional.nll_loss(log_probabilities, mnist.test.labels).item()
    assert result.images == len(mnist.test)
    assert result.accuracy == pytest.approx(correct.mean().item(), abs=2 / len(correct))  # two ties at most
    assert result.loss == pytest.approx(loss, rel=1e-5)  # float32 sums over other batches
    assert abs(result.accuracy - correct[:64].mean().item()) > 2 / len(correct), "the first batch says something else"


def test_errors_are_measured_on_every_pair(model, near, right):
    assert len(right["fc1"].invariance.each) == len(near)
    reverse = replace(near, **{name: value.flip(0) for name, value in vars(near).items()})
    again = measure_pairs(model, reverse)
    for layer, errors in right.items():
        # the last 500 pairs are measured first: the scale, a mean over 500 other pairs, differs by a few per cent
        assert torch.allclose(again[layer].invariance.each.flip(0), errors.invariance.each, rtol=0.2), layer


# 6. One unseeded draw of shifts


def test_one_draw_of_a_displacement_says_anything_and_a_balanced_design_the_same_each_time(model, test_digits):
    room = lab.ink_margins(test_digits.images)
    roomy = in_order(test_digits, room.fits(4, 4) & room.fits(-4, -4))
    answers = act(model, roomy.images, "fc1")
    generator = torch.Generator().manual_seed(0)  # for whatever state the unseeded generator would have been in
    draws = []
    for dy, dx in torch.randint(-4, 5, (20, 2), generator=generator).tolist():
        draws.append(lab.invariance_error(answers, act(model, lab.shift(roomy.images, dy, dx), "fc1")).mean())
    designs = []
    for seed in range(20):
        made = lab.translated_pairs(roomy, max_shift=4, seed=seed)
        designs.append(lab.invariance_error(act(model, made.first, "fc1"), act(model, made.second, "fc1")).mean())
    draws, designs = torch.stack(draws), torch.stack(designs)
    assert draws.max() - draws.min() > 0.4  # from a pixel or two to the corner of the square
    # each design averages some 250 digits: 0.3 / √250 = 0.02; the draws' deviation is about 0.25
    assert draws.std() > 5 * designs.std()


def test_the_seed_and_nothing_else_decides_the_pairs(test_digits, pairs):
    torch.manual_seed(7)  # as any code before may have done
    again = lab.translated_pairs(test_digits, max_shift=MAX_SHIFT, margin=MARGIN, seed=0)
    other = lab.translated_pairs(test_digits, max_shift=MAX_SHIFT, margin=MARGIN, seed=1)
    assert torch.equal(again.first, pairs.first)
    assert torch.equal(again.second, pairs.second)
    assert not torch.equal(other.dy, pairs.dy)


@pytest.mark.parametrize("seed", range(3))
def test_no_displacement_is_left_out_or_favoured(test_digits, seed):
    made = lab.translated_pairs(test_digits, max_shift=MAX_SHIFT, margin=MARGIN, seed=seed)
    _, counts = torch.stack([made.dy, made.dx]).unique(dim=1, return_counts=True)
    assert len(counts) == 9 * 9 - 1
    assert counts.max() - counts.min() <= 1
    drawn = torch.randint(-4, 5, (2, len(made)), generator=torch.Generator().manual_seed(seed))
    _, counts = drawn.unique(dim=1, return_counts=True)
    assert counts.max() - counts.min() > 5, "independent draws favour some: 12 ± 3.5 each"


# 7. Absolute norms compared across layers


@pytest.fixture(scope="module")
def pooled(digits):
    """The untrained pooled network on 500 digits: name -> activations of the first and the second images."""
    network = lab.build_model("pooled", seed=0)
    made = lab.translated_pairs(digits, max_shift=MAX_SHIFT, margin=MARGIN, seed=0)
    first, second = (lab.activations(network, lab.normalize(x)) for x in (made.first, made.second))
    return network, made, {name: (first[name], second[name]) for name in first}


def test_absolute_norms_make_a_deep_layer_look_invariant_and_relative_ones_do_not(pooled):
    _, _, maps = pooled
    absolute = {name: (b - a).flatten(1).norm(dim=1).mean().item() for name, (a, b) in maps.items()}
    assert absolute["fc2"] < absolute["conv1"] / 100  # ten outputs of 0.1 each beside 10,816 of 1: about 1 / 600
    assert lab.invariance_error(*maps["fc2"]).mean() > 0.5 * lab.invariance_error(*maps["conv1"]).mean()


def test_absolute_norms_turn_the_order_of_two_pooling_layers_around(pooled):
    network, made, maps = pooled
    errors = measure_pairs(network, made, ["pool1", "pool2"])
    relative = {name: e.equivariance.overall / e.unrelated.overall for name, e in errors.items()}
    gap = {}
    for name in relative:
        a, b = maps[name]
        my, mx = ((t / network.STRIDES[name]).round().long() for t in (made.dy, made.dx))
        valid = lab.shift(torch.ones_like(a[:, :1]), my, mx)
        gap[name] = (valid * (b - lab.shift(a, my, mx))).flatten(1).norm(dim=1).mean().item()
    assert gap["pool2"] < 0.8 * gap["pool1"]  # about 0.3 ×: it has fewer and smaller outputs
    assert relative["pool2"] > 1.1 * relative["pool1"]  # about 1.6 ×: stride 4 divides fewer displacements than 2


@pytest.mark.parametrize("scale", [0.01, 100.0])
def test_no_number_of_the_lab_changes_when_a_layer_is_multiplied(pooled, scale):
    a, b = (maps[:50] for maps in pooled[2]["conv1"])
    other = a[derangement(len(a), seed=1)]
    for metric in (lab.invariance_error, lab.sorted_distance, lab.equivariance_error):
        for partner in (b, other):
            # float32: multiplying rounds each value once, 6e-8
            assert torch.allclose(metric(scale * a, scale * partner), metric(a, partner), rtol=1e-5), metric.__name__
    absolute = (b - a).flatten(1).norm(dim=1).mean()
    assert (scale * b - scale * a).flatten(1).norm(dim=1).mean().item() == pytest.approx(scale * absolute.item())
