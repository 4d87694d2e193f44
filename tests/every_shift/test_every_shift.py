"""Every shift at once: the dense network equals its slow twin, or is refused by name; the maps, the command."""

import copy
import json
import math
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn

import lab
from lab.data import BACKGROUND
from lab.errors import InputError, LabWarning, NotDenseError
from lab.every_shift import dense as densely
from lab.every_shift import maps as mapping

ROUNDING = 1e-12  # float64: √k · 2⁻⁵³ is below 4e-15 for the largest sum, k = 1,000; a few layers, and frequencies


@pytest.fixture(autouse=True)
def _as_users_call(unchecked):
    """Bad input meets the lab's own errors."""


def generator(seed):
    return torch.Generator().manual_seed(seed)


def network(seed, *layers):
    """In float64, so that rounding cannot hide a wrong answer; the weights depend on the seed alone."""
    model = nn.Sequential(*layers).double().eval()
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator(seed), dtype=torch.float64) + 0.1 - 0.4)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_var.abs_().add_(0.5)
    return model


def error(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


WAYS = ("dense", "brute")


def both(model, images, **options):
    return (lab.shift_map(model, images, method=method, **options) for method in WAYS)


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def unpadded_networks(draw):
    """Convolutions and poolings of any size, stride and dilation that fit, then one or two linear layers."""
    c, h, w = draw(st.integers(1, 2)), draw(st.integers(7, 16)), draw(st.integers(7, 16))
    shape, layers = (c, h, w), []
    for _ in range(draw(st.integers(1, 3))):
        kernel, stride, dilation = draw(pairs), draw(pairs), draw(pairs)
        kind = draw(st.sampled_from(["conv", "max", "avg", "tanh", "norm"]))
        if kind == "conv":
            layer = nn.Conv2d(c, c := draw(st.integers(1, 3)), kernel, stride, dilation=dilation)
        elif kind == "max":
            layer = nn.MaxPool2d(kernel, stride, dilation=dilation, ceil_mode=draw(st.booleans()))
        else:
            kinds = {"avg": nn.AvgPool2d(kernel, stride), "tanh": nn.Tanh(), "norm": nn.BatchNorm2d(c)}
            layer = kinds[kind]
        layers.append(layer)
    head = [nn.Flatten(), nn.Dropout()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            size = nn.Sequential(*layers, *head).eval()(torch.zeros(1, *shape)).shape[1]
        except RuntimeError:
            assume(False)
    hidden = draw(st.booleans())
    head += [nn.Linear(size, 4), nn.ReLU(), nn.Linear(4, 3)] if hidden else [nn.Linear(size, 3)]
    head += [nn.LogSoftmax(-1)] if draw(st.booleans()) else []
    return network(draw(st.integers(0, 99)), *layers, *head), shape


def has_partial_windows(model, x):
    """Whether rounding up makes a map of the network larger."""
    for layer in model:
        if getattr(layer, "ceil_mode", False):
            down = nn.MaxPool2d(layer.kernel_size, layer.stride, dilation=layer.dilation)
            try:
                partial = down(x).shape != layer(x).shape
            except RuntimeError:  # not one window is whole
                return True
            if partial:
                return True
        x = layer(x)
    return False


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(unpadded_networks(), st.integers(0, 5), st.sampled_from([0.0, -0.4]))
def test_dense_equals_brute_on_any_unpadded_network(case, radius, background):
    model, shape = case
    images = torch.randn(2, *shape, generator=generator(radius), dtype=torch.float64)
    expected = lab.shift_map(model, images, radius=radius, background=background, method="brute")
    if any(getattr(layer, "ceil_mode", False) for layer in model) and has_partial_windows(model, images):
        with pytest.raises(NotDenseError, match="ceil_mode"):
            lab.dense_equivalent(model, images)
        return
    found = lab.shift_map(model, images, radius=radius, background=background, method="dense")
    assert found.shape == (2, 2 * radius + 1, 2 * radius + 1, 3)
    assert error(found, expected) <= ROUNDING


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(st.integers(8, 14), st.integers(8, 14), st.integers(0, 12), st.integers(1, 3), st.integers(1, 3))
def test_the_wide_kernel_of_one_channel_equals_brute(h, w, radius, kernel, stride):
    layers = nn.Conv2d(1, 1, kernel), nn.AvgPool2d(1, (1, stride)), nn.Flatten()
    size = nn.Sequential(*layers)(torch.zeros(1, 1, h + 7, w + 21)).shape[1]
    model = network(h, *layers, nn.Linear(size, 3))
    images = torch.randn(2, 1, h + 7, w + 21, generator=generator(w), dtype=torch.float64)
    found, expected = both(model, images, radius=radius, background=0.3)
    assert error(found, expected) <= ROUNDING


@pytest.mark.parametrize("name", ["given", "pooled"])
@pytest.mark.parametrize("radius", [0, 1, 2, 14, 30])
def test_the_networks_of_the_lab_give_the_same_in_float32(name, radius, digits):
    model = lab.build_model(name, seed=0)
    found, expected = both(model, lab.normalize(digits.images[:3]), radius=radius, background=BACKGROUND)
    assert (found - expected).abs().max() <= 1e-5  # logits are of the order of 1: 80 × float32's 1.2e-7


def test_in_float32_dense_is_as_near_the_exact_answer_as_brute_is(digits):
    """Both round some 800 sums an answer; added the other way round, the largest first, dense rounds 2 × as much."""
    model = lab.build_model("given", seed=0)
    lab.fit(model, digits, lab.TrainConfig(epochs=60))  # logits up to 56, so that it matters
    images = lab.normalize(digits.images[:96])
    exact = lab.shift_map(copy.deepcopy(model).double(), images.double(), background=BACKGROUND, method="brute")
    found, expected = (logits - exact for logits in both(model, images, background=BACKGROUND))
    assert found.abs().max() <= 1.5 * expected.abs().max()
    assert found.square().mean().sqrt() <= 1.5 * expected.square().mean().sqrt()


@pytest.mark.parametrize("method", ["dense", "brute"])
def test_every_entry_is_the_answer_to_that_shift(method, digits):
    model, images = lab.build_model("pooled", seed=0).eval(), lab.normalize(digits.images[:2])
    logits = lab.shift_map(model, images, radius=3, background=BACKGROUND, method=method)
    for dy, dx in [(0, 0), (3, -2), (-1, 3), (-3, -3)]:
        moved = lab.shift(images, dy, dx, background=BACKGROUND)
        torch.testing.assert_close(logits[:, 3 + dy, 3 + dx], model(moved), atol=1e-6, rtol=0)
    wrong = model(lab.shift(images, 3, -1, background=BACKGROUND))
    assert (logits[:, 3 + 3, 3 - 2] - wrong).abs().max() > 1e-3  # the control: one pixel to the side


def test_a_weight_that_is_slightly_off_gives_another_answer(digits):
    model, images = lab.build_model("pooled", seed=0), lab.normalize(digits.images[:2])
    right = lab.dense_equivalent(model, images)
    canvas = torch.randn(1, 1, 33, 35, generator=generator(0))
    conv = next(i for i, step in enumerate(right.steps) if step.layer == "conv2")
    source, weight, *options = right.steps[conv].args
    other = replace(right.steps[conv], args=(source, 0.9 * weight, *options))
    wrong = replace(right, steps=(*right.steps[:conv], other, *right.steps[conv + 1 :]))
    assert (right(canvas) - wrong(canvas)).abs().max() > 1e-3


def test_a_dilation_left_out_gives_another_answer():
    images = torch.rand(1, 1, 9, 9, generator=generator(0))
    model = nn.Sequential(nn.Conv2d(1, 1, 3, dilation=2), nn.Flatten(), nn.Linear(25, 2)).eval()
    right = lab.dense_equivalent(model, images)
    conv, *others = right.steps
    *args, _dilation, groups = conv.args
    thin = replace(conv, args=(*args, (1, 1), groups))
    wrong = replace(right, steps=(thin, *others))
    canvas = torch.rand(1, 1, 13, 13, generator=generator(1))
    rows = right(canvas).shape[1]
    assert (right(canvas) - wrong(canvas)[:, :rows, :rows]).abs().max() > 1e-2


def test_a_radius_larger_than_the_image_leaves_the_background(digits):
    model, images = lab.build_model("given", seed=0).eval(), digits.images[:1]
    found, expected = both(model, images, radius=29)
    blank = model(torch.zeros(1, 1, 28, 28))[0][0]
    torch.testing.assert_close(found[0, 0, 0], blank, atol=1e-6, rtol=0)
    assert (found - expected).abs().max() <= 1e-5


@pytest.mark.parametrize("radius", [11, 12, 13, 20])
def test_shifts_beyond_the_image_are_the_background_s_and_cost_nothing(radius, monkeypatch):
    model = network(1, nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2 * 3 * 5, 4))
    images = torch.rand(5, 1, 8, 12, generator=generator(0), dtype=torch.float64)
    labels, asked = torch.tensor([0, 3, 1, 1, 2]), []
    shifts = densely.Dense.shifts
    monkeypatch.setattr(densely.Dense, "shifts", lambda *args: asked.append(args[2]) or shifts(*args))
    found, expected = both(model, images, radius=radius, background=0.3)
    assert error(found, expected) <= ROUNDING
    assert found.is_contiguous()
    one, other = (lab.shift_maps(model, images, labels, radius=radius, background=0.3, method=m) for m in WAYS)
    for name in ("accuracy", "consistency", "kappa", "confidence", "margin", "per_class"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=1e-9, rtol=0, equal_nan=True)
    assert one.worst_case == other.worst_case
    assert max(asked) == min(radius, 12)


class Residual(nn.Module):
    """Two branches, a reshape that only flattens, operations in place, and a tuple as output."""

    def __init__(self):
        super().__init__()
        self.conv, self.side = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 1)
        self.fc = nn.Linear(2 * 6 * 8, 3)

    def forward(self, x):
        x = self.conv(x)
        x = x + self.side(x)
        kept = x.clone().detach()
        x -= 0.1
        x = F.relu(2 * x, inplace=True).view(x.shape[0], -1)
        return F.softmax(self.fc(x), dim=1), kept


def test_sums_of_branches_flattening_views_and_tuples_are_dense(digits):
    model = Residual().eval()
    found, expected = both(model, torch.randn(2, 1, 8, 10, generator=generator(0)), radius=4)
    assert (found - expected).abs().max() <= 1e-6  # probabilities


class Forward(nn.Module):
    def __init__(self, forward, **parts):
        super().__init__()
        self.run = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.run(self, x)


def head(layer, size=2 * 6 * 6):
    return nn.Sequential(nn.Conv2d(1, 2, 3), layer, nn.Flatten(), nn.Linear(size, 3))


REFUSED = {
    "padding": (
        nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Flatten(), nn.Linear(128, 3)),
        r"layer '0' \(conv2d\) pads its input",
    ),
    "padding same": (
        nn.Sequential(nn.Conv2d(1, 2, 3, padding="same"), nn.Flatten(), nn.Linear(128, 3)),
        r"layer '0' \(conv2d\) pads its input",
    ),
    "circular padding": (
        nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"), nn.Flatten(), nn.Linear(128, 3)),
        r"layer '0' \(pad\) pads its input",
    ),
    "padded pooling": (head(nn.MaxPool2d(2, padding=1), 32), r"layer '1' \(max_pool2d\) pads"),
    "ceil mode": (head(nn.MaxPool2d(4, ceil_mode=True), 8), r"layer '1' \(max_pool2d\) has windows that reach beyond"),
    "global pooling": (head(nn.AdaptiveAvgPool2d(1), 2), r"layer '1' \(adaptive_avg_pool2d\) is global"),
    "group norm": (head(nn.GroupNorm(1, 2)), r"layer '1' \(group_norm\) is global"),
    "instance norm": (head(nn.InstanceNorm2d(2)), r"layer '1' \(instance_norm\) is global"),
    "layer norm": (head(nn.LayerNorm([2, 6, 6])), r"layer '1' \(layer_norm\) is global"),
    "softmax over positions": (head(nn.Softmax(-1)), r"layer '1' \(softmax\) is global"),
    "transposed convolution": (head(nn.ConvTranspose2d(2, 2, 1)), "is not an operation that is known to fit"),
    "no flatten": (
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(6, 3), nn.Flatten(), nn.Linear(36, 3)),
        r"layer '1' \(linear\) does not take a flattened map",
    ),
    "norm of each position": (
        nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 3)),
        "has weights for each position",
    ),
    "mean": (Forward(lambda s, x: s.fc(s.c(x).mean((2, 3))), c=nn.Conv2d(1, 2, 3), fc=nn.Linear(2, 3)), r"\(mean\)"),
    "slice": (Forward(lambda s, x: s.fc(x[:, :, 1:].flatten(1)), fc=nn.Linear(56, 3)), r"\(getitem\) rearranges"),
    "transpose": (
        Forward(lambda s, x: s.fc(x.transpose(2, 3).flatten(1)), fc=nn.Linear(64, 3)),
        r"\(transpose\) rearranges",
    ),
    "reshape": (
        Forward(lambda s, x: s.fc(s.c(x.reshape(-1, 1, 4, 16)).flatten(1)), c=nn.Conv2d(1, 1, 1), fc=nn.Linear(64, 3)),
        r"layer '' \(reshape\) rearranges",
    ),
    "batch as channels": (
        Forward(lambda s, x: s.fc(x.reshape(1, -1).reshape(len(x), -1)), fc=nn.Linear(64, 3)),
        r"\(reshape\) rearranges",
    ),
    "positions": (
        Forward(lambda s, x: s.fc((x * s.p).flatten(1)), p=nn.Parameter(torch.rand(8, 8)), fc=nn.Linear(64, 3)),
        "may differ from position to position",
    ),
    "data-dependent": (
        Forward(lambda s, x: s.fc((x if x.sum() > 0 else -x).flatten(1)), fc=nn.Linear(64, 3)),
        "lets the values decide",
    ),
    "item": (Forward(lambda s, x: s.fc(x.flatten(1)) * x.max().item(), fc=nn.Linear(64, 3)), "lets the values decide"),
    "attention": (
        Forward(lambda s, x: s.fc(F.scaled_dot_product_attention(x, x, x).flatten(1)), fc=nn.Linear(64, 3)),
        "scaled_dot_product_attention",
    ),
    "always random": (Forward(lambda s, x: s.fc(F.dropout(x).flatten(1)), fc=nn.Linear(64, 3)), "is random"),
    "no input": (Forward(lambda s, x: torch.ones(len(x), 3)), "no operation made that can be followed"),
}
RANDOM = {"always random"}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_by_name_and_falls_back(case):
    model, said = REFUSED[case]
    model.eval()
    images = torch.rand(2, 1, 8, 8, generator=generator(0))
    with pytest.raises(NotDenseError, match=said) as refused:
        lab.shift_map(model, images, radius=1, method="dense")
    assert "\n" not in str(refused.value)
    with pytest.warns(LabWarning, match=said):
        found = lab.shift_map(model, images, radius=1)
    if case not in RANDOM:
        assert torch.equal(found, lab.shift_map(model, images, radius=1, method="brute"))


def test_a_network_that_looks_at_its_values_behind_our_back_is_found_out():
    class Hidden(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.flip(-1)

    model = Forward(lambda s, x: s.fc(Hidden.apply(x).flatten(1)), fc=nn.Linear(64, 3)).eval()
    with pytest.raises(NotDenseError):
        lab.shift_map(model, torch.rand(2, 1, 8, 8), radius=1, method="dense")


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


@pytest.mark.parametrize("layer", [nn.Dropout(), nn.BatchNorm2d(1)], ids=["dropout", "batch norm"])
def test_a_model_in_training_mode_is_refused(layer):
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(784, 3))
    with pytest.raises(InputError, match=r"training mode, in which '0' is random or batch-dependent: \.eval\(\) it"):
        lab.shift_map(model, IMAGES, radius=1)
    assert model.training


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (torch.tensor([1]), "labels must be int64, one an image"),
        (torch.tensor([1.0, 2.0]), "labels must be int64, one an image: torch.float32"),
        (torch.tensor([1, 10]), "labels must be below the number of classes, at least 2: 1 to 10, 10"),
        (torch.tensor([-1, 1]), "labels must be below the number of classes, at least 2: -1 to 1, 10"),
    ],
    ids=["too few", "float", "too large", "negative"],
)
def test_labels_that_do_not_fit_are_refused(labels, said):
    with pytest.raises(InputError, match=said):
        lab.shift_maps(lab.build_model("given", seed=0), IMAGES, labels, radius=1)


def test_answers_that_are_no_scores_are_refused():
    with pytest.raises(InputError, match=r"must return scores, n classes: shape \(2, 2, 26, 26\)"):
        lab.shift_map(nn.Conv2d(1, 2, 3), IMAGES, radius=1, method="brute")
    broken = nn.Sequential(nn.Flatten(), nn.Linear(784, 3))
    nn.init.constant_(broken[1].bias, torch.nan)
    for method in ("dense", "brute"):
        with pytest.raises(InputError, match="the model's scores must be finite"):
            lab.shift_map(broken.eval(), IMAGES, radius=1, method=method)


def test_a_canvas_that_does_not_fit_is_refused():
    dense = lab.dense_equivalent(lab.build_model("given", seed=0), IMAGES)
    with pytest.raises(InputError, match=r"a canvas must be n 1 y x, at least 28 × 28: shape \(1, 1, 27, 40\)"):
        dense(torch.rand(1, 1, 27, 40))
    assert "fc1 linear: a convolution of 729 inputs" in str(dense)


def test_batches_shrink_where_the_canvas_grows():
    assert mapping._batch_size(lab.build_model("given", seed=0), torch.rand(1, 3, 2000, 2000), 14) == 1
    assert densely.framed(torch.rand(1, 1, 2, 3), 2, 0.0).shape == (1, 1, 6, 7)


SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "shiftmap.schema.json").read_text(encoding="utf-8"))
COMMAND = str(Path(sys.executable).with_name("lab"))


def run(*arguments, root, cwd):
    environment = os.environ | {"LAB_DATA": str(root), "COLUMNS": "100", "NO_COLOR": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [COMMAND, "shiftmap", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shiftmap")
    return folder, run("--data", "embedded", "--count", 60, "--radius", 3, root=folder / "data", cwd=folder)


def test_the_command_prints_a_table_and_writes_figures(mapped):
    folder, process = mapped
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    said = " ".join(process.stdout.split())
    for part in ("60 images at 49 shifts", "Accuracy", "Consistency", "right at every shift:", "computed dense"):
        assert part in said
    out = folder / "lab-shiftmap"
    names = {"accuracy.png", "accuracy.svg", "consistency.png", "consistency.svg", "shiftmap.json"}
    assert {path.name for path in out.iterdir()} == names
    found = json.loads((out / "shiftmap.json").read_text())
    jsonschema.validate(found, SCHEMA)
    with pytest.raises(jsonschema.ValidationError, match="is greater than the maximum"):
        jsonschema.validate(found | {"worst_case": 1.01}, SCHEMA)
    assert (found["model"], found["data"], found["images"], found["radius"]) == ("given", "MNIST-10k", 60, 3)
    assert found["accuracy"][3][3] >= 0.8
    assert found["consistency"][3][3] == 1


def test_the_second_time_the_network_comes_from_cache_and_says_the_same(mapped):
    folder, _ = mapped
    options = ("--data", "embedded", "--count", 60, "--radius", 3)
    process = run(*options, "--method", "brute", "--json", root=folder / "data", cwd=folder)
    assert process.stderr == ""
    brute = json.loads(process.stdout)
    jsonschema.validate(brute, SCHEMA)
    assert (brute["method"], brute["why"]) == ("brute", "asked for")
    assert json.loads((folder / "lab-shiftmap" / "shiftmap.json").read_text()) == brute
    assert len(list((folder / "data" / "checkpoints").iterdir())) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "resnet"], "model must be one of given, pooled: 'resnet'"),
        (["--radius", "-1"], "radius must be at least 0: -1"),
        (["--count", "0"], "count must be at least 1: 0"),
        (["--method", "fast"], "method must be one of auto, dense, brute: 'fast'"),
        (["--data", "cifar"], "source must be one of auto, full, embedded: 'cifar'"),
        (["--seed", "-1"], "seed must be at least 0"),
        (["--seed", str(2**64)], "seed must be at least 0 and below 2 ** 63: 18446744073709551616"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_wrong_usage_is_exit_code_2_and_leaves_nothing(arguments, said, mapped, tmp_path):
    folder, _ = mapped
    process = run("--data", "embedded", *arguments, root=folder / "data", cwd=tmp_path)
    assert process.returncode == 2, process.stderr
    assert said in process.stderr
    assert process.stderr.count("\n") == 1
    assert process.stdout == ""
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
