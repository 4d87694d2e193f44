"""Maps over all shifts: what they are made of, what they refuse."""

import math

import pytest
import torch
from networks import WAYS, both, error, generator, network
from torch import nn

import lab
from lab.data import BACKGROUND
from lab.errors import InputError


@pytest.fixture(autouse=True)
def _as_users_call(unchecked):
    """Bad input meets the lab's own errors."""


def test_a_radius_larger_than_the_image_leaves_the_background(digits):
    model, images = lab.build_model("given", seed=0).eval(), digits.images[:1]
    found, expected = both(model, images, radius=29)
    blank = model(torch.zeros(1, 1, 28, 28))[0][0]
    torch.testing.assert_close(found[0, 0, 0], blank, atol=1e-6, rtol=0)
    assert (found - expected).abs().max() <= 1e-5


def test_the_maps_are_those_of_the_logits(digits):
    model, labels = lab.build_model("pooled", seed=0), digits.labels[:130]
    images, r = lab.normalize(digits.images[:130]), 2
    logits = lab.shift_map(model, images, radius=r, background=BACKGROUND, method="brute")
    for method in ("dense", "brute"):
        maps = lab.shift_maps(model, images, labels, radius=r, background=BACKGROUND, method=method)
        assert (maps.method, maps.images, maps.radius) == (method, 130, r)
        right = logits.argmax(-1) == labels[:, None, None]
        torch.testing.assert_close(maps.accuracy, right.double().mean(0))
        assert maps.worst_case == right.flatten(1).all(1).double().mean().item()
        own = logits.gather(-1, labels[:, None, None, None].expand(-1, 5, 5, 1))[..., 0]
        others = logits.scatter(-1, labels[:, None, None, None].expand(-1, 5, 5, 1), -math.inf).amax(-1)
        torch.testing.assert_close(maps.margin, (own - others).double().mean(0), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(maps.confidence, logits.softmax(-1).amax(-1).double().mean(0), atol=1e-6, rtol=0)
        for dy, dx in [(0, 0), (2, -1), (-2, 2)]:
            here, still = logits[:, r + dy, r + dx], logits[:, r, r]
            assert maps.consistency[r + dy, r + dx].item() == pytest.approx(lab.consistency(here, still))
            assert maps.kappa[r + dy, r + dx].item() == pytest.approx(lab.cohen_kappa(here, still))
            for digit in range(10):
                expected = right[labels == digit, r + dy, r + dx].double().mean()
                torch.testing.assert_close(maps.per_class[digit, r + dy, r + dx], expected, equal_nan=True)


def test_rings_are_means_over_the_shifts_of_one_distance(digits):
    maps = lab.shift_maps(lab.build_model("given", seed=0), digits.images[:20], digits.labels[:20], radius=2)
    steps = torch.tensor([2, 1, 0, 1, 2])
    ring = torch.maximum(steps[:, None], steps)
    expected = torch.stack([maps.margin[ring == r].mean() for r in range(3)])
    torch.testing.assert_close(maps.rings("margin"), expected)


def test_a_network_that_always_says_the_same_is_consistent_without_kappa(digits):
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).eval()
    nn.init.zeros_(model[1].weight)
    nn.init.zeros_(model[1].bias)
    maps = lab.shift_maps(model, digits.images[:20], digits.labels[:20], radius=1)
    assert maps.consistency.eq(1).all()
    assert maps.kappa.eq(0).all()
    assert maps.accuracy[1, 1] == (digits.labels[:20] == 0).double().mean()  # of equals the first wins, as in argmax


def test_more_classes_than_a_byte_counts(digits):
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 300)).eval()
    labels = model(digits.images[:20]).argmax(1)
    maps = lab.shift_maps(model, digits.images[:20], labels, radius=1)
    assert maps.accuracy[1, 1] == 1
    assert labels.max() > 255 or labels.max() > 100


@pytest.mark.parametrize("method", ["auto", "dense", "brute"])
def test_the_model_is_left_as_it_was(method, digits):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(1352, 10)).train()
    model[3].eval()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    state = torch.random.get_rng_state()
    for images in (digits.images[:2], torch.full((1, 1, 28, 28), 1e38) * 10):
        try:
            lab.shift_map(model, images, radius=1, method=method)
        except InputError:
            continue
    assert [m.training for m in model.modules()] == [True, True, True, True, False]
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


IMAGES = torch.rand(2, 1, 28, 28)
NAN = torch.full((2, 1, 28, 28), torch.nan)
BAD = {
    "three dimensions": ({"images": torch.rand(2, 28, 28)}, r"images must be n c h w: shape \(2, 28, 28\)"),
    "integers": ({"images": torch.ones(2, 1, 28, 28, dtype=torch.int64)}, "must be floating point"),
    "no images": ({"images": torch.rand(0, 1, 28, 28)}, r"at least one image and one pixel: shape \(0, 1, 28, 28\)"),
    "nan": ({"images": NAN}, "images must be finite: 1568 of 1568"),
    "channels": ({"images": torch.rand(2, 3, 28, 28)}, r"fails on images of shape \(2, 3, 28, 28\)"),
    "size": ({"images": torch.rand(2, 1, 27, 28)}, r"fails on images of shape \(2, 1, 27, 28\)"),
    "too small": ({"images": torch.rand(2, 1, 1, 1)}, r"fails on images of shape \(2, 1, 1, 1\)"),
    "type": ({"images": torch.rand(2, 1, 28, 28).double()}, r"fails on images of shape .* RuntimeError"),
    "radius": ({"radius": -1}, "radius must be at least 0: -1"),
    "half a pixel": ({"radius": 0.5}, "radius must be a whole number of pixels: 0.5"),
    "background": ({"background": math.nan}, "background must be finite: nan"),
    "method": ({"method": "fast"}, "method must be one of auto, dense, brute: 'fast'"),
}


@pytest.mark.parametrize("method", ["auto", "brute"])
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_error(case, method):
    changed, said = BAD[case]
    options = {"images": IMAGES, "radius": 1, "method": method} | changed
    with pytest.raises(InputError, match=said) as raised:
        lab.shift_map(lab.build_model("given", seed=0), **options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("method", WAYS)
@pytest.mark.parametrize("layer", [nn.Dropout(), nn.BatchNorm2d(1)], ids=["dropout", "batch norm"])
def test_a_model_in_training_mode_is_run_in_evaluation_mode(layer, method):
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(784, 3))
    found = lab.shift_map(model, IMAGES, radius=1, method=method)
    assert model.training
    torch.testing.assert_close(found[:, 1, 1], model.eval()(IMAGES), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (torch.tensor([1]), "labels must be int64, one per image"),
        (torch.tensor([1.0, 2.0]), "labels must be int64, one per image: torch.float32"),
        (torch.tensor([1, 10]), "labels must be at least 0 and below 10, the number of classes: 10"),
        (torch.tensor([-1, 1]), "labels must be at least 0 and below 10, the number of classes: -1"),
    ],
    ids=["too few", "float", "too large", "negative"],
)
def test_labels_that_do_not_fit_are_refused(labels, said):
    with pytest.raises(InputError, match=said):
        lab.shift_maps(lab.build_model("given", seed=0), IMAGES, labels, radius=1)


def test_outputs_that_are_no_scores_are_refused():
    with pytest.raises(InputError, match=r"must return scores, n classes: shape \(2, 2, 26, 26\)"):
        lab.shift_map(nn.Conv2d(1, 2, 3), IMAGES, radius=1, method="brute")
    broken = nn.Sequential(nn.Flatten(), nn.Linear(784, 3))
    nn.init.constant_(broken[1].bias, torch.nan)
    for method in ("dense", "brute"):
        with pytest.raises(InputError, match="the model's scores must be finite"):
            lab.shift_map(broken.eval(), IMAGES, radius=1, method=method)


@pytest.mark.parametrize("radius", [8, 11])
def test_shifts_beyond_the_image_are_the_background_s(radius):
    model = network(1, nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2 * 2 * 3, 4))
    images = torch.rand(5, 1, 6, 8, generator=generator(0), dtype=torch.float64)
    found, expected = both(model, images, radius=radius, background=0.3)
    assert error(found, expected) <= 1e-12
    assert found.is_contiguous()
    labels = torch.tensor([0, 3, 1, 1, 2])
    one, other = (lab.shift_maps(model, images, labels, radius=radius, background=0.3, method=m) for m in WAYS)
    for name in ("accuracy", "consistency", "kappa", "confidence", "margin", "per_class"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=1e-9, rtol=0, equal_nan=True)
    assert one.worst_case == other.worst_case


def test_of_equal_scores_the_first_is_the_largest():
    """Weights of 0 and 1 and pixels of 0 and 1 make many equal scores."""
    weight = torch.randint(0, 2, (7, 16), generator=generator(0)).float()
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 7, bias=False)).eval()
    model[1].weight.data.copy_(weight)
    images, labels = torch.randint(0, 2, (90, 1, 4, 4), generator=generator(1)).float(), torch.arange(90) % 7
    logits = lab.shift_map(model, images, radius=1, method="brute")
    assert (logits == logits.amax(-1, keepdim=True)).sum(-1).gt(1).any()
    right = logits.argmax(-1) == labels[:, None, None]
    for method in WAYS:
        assert torch.equal(
            lab.shift_maps(model, images, labels, radius=1, method=method).accuracy, right.double().mean(0)
        )


def test_batches_shrink_where_the_canvas_grows(monkeypatch):
    sizes = []
    run = lab.every_shift.dense.Dense.__call__
    monkeypatch.setattr(
        lab.every_shift.dense.Dense, "__call__", lambda self, x, **k: sizes.append(len(x)) or run(self, x, **k)
    )
    model, images = network(0, nn.Flatten(), nn.Linear(16, 2)), torch.rand(40, 1, 4, 4).double()
    for radius, size in ((1, 40), (130, 8)):  # 2 ** 20 values of 2 classes at 261² shifts
        sizes.clear()
        lab.shift_map(model, images, radius=radius)
        assert max(sizes) in (size, size - 1)
