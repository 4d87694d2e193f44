"""The dense network equals its slow twin, or is refused by name; neither safety net hides behind the other."""

import copy
import itertools
import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from networks import ROUNDING, Forward, both, error, generator, network
from torch import nn

import lab
from lab.data import BACKGROUND
from lab.errors import InputError, LabWarning, NotDenseError
from lab.every_shift.dense import Map, largest


@pytest.fixture(autouse=True)
def _as_users_call(unchecked):
    """Bad input meets the lab's own errors."""


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


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
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


@pytest.mark.parametrize("name", ["given", "pooled"])
@pytest.mark.parametrize("radius", [0, 1, 2, 14])
def test_the_networks_of_the_lab_give_the_same_in_float32(name, radius, digits):
    model = lab.build_model(name, seed=0)
    found, expected = both(model, lab.normalize(digits.images[:3]), radius=radius, background=BACKGROUND)
    assert (found - expected).abs().max() <= 1e-5  # logits are of the order of 1: 80 × float32's 1.2e-7


def test_in_float32_dense_rounds_little_more_than_brute_does(digits):
    """Both sum some 800 products a score, in another order; on a trained network dense was off by 2.6 × as much."""
    model, images = lab.build_model("given", seed=0), lab.normalize(digits.images[:24])
    options = {"radius": 5, "background": BACKGROUND}
    exact = lab.shift_map(copy.deepcopy(model).double(), images.double(), method="brute", **options)
    found, expected = (logits - exact for logits in both(model, images, **options))
    assert found.abs().max() <= 3 * expected.abs().max()
    assert found.square().mean().sqrt() <= 3 * expected.square().mean().sqrt()


@pytest.mark.parametrize("method", ["dense", "brute"])
def test_every_entry_is_the_output_at_that_shift(method, digits):
    model, images = lab.build_model("pooled", seed=0).eval(), lab.normalize(digits.images[:2])
    logits = lab.shift_map(model, images, radius=3, background=BACKGROUND, method=method)
    for dy, dx in [(0, 0), (3, -2), (-1, 3), (-3, -3)]:
        moved = lab.shift(images, dy, dx, background=BACKGROUND)
        torch.testing.assert_close(logits[:, 3 + dy, 3 + dx], model(moved), atol=1e-6, rtol=0)
    wrong = model(lab.shift(images, 3, -1, background=BACKGROUND))
    assert (logits[:, 3 + 3, 3 - 2] - wrong).abs().max() > 1e-3  # the control: one pixel to the side


def test_a_weight_that_is_slightly_off_gives_other_outputs(digits):
    model, images = lab.build_model("pooled", seed=0), lab.normalize(digits.images[:2])
    right = lab.dense_equivalent(model, images)
    with torch.no_grad():
        model.conv2.weight.mul_(0.9)
    wrong = lab.dense_equivalent(model, images)
    canvas = torch.randn(1, 1, 33, 35, generator=generator(0))
    assert (right(canvas) - wrong(canvas)).abs().max() > 1e-3


def test_a_dilation_left_out_gives_other_outputs():
    images, canvas = torch.rand(1, 1, 9, 9, generator=generator(0)), torch.rand(1, 1, 13, 13, generator=generator(1))
    wide = nn.Sequential(nn.Conv2d(1, 1, 3, dilation=2), nn.Flatten(), nn.Linear(25, 2)).eval()
    thin = copy.deepcopy(wide)
    thin[0].dilation, images7 = (1, 1), images[:, :, :7, :7]  # the same map of 5 × 5
    right, wrong = lab.dense_equivalent(wide, images)(canvas), lab.dense_equivalent(thin, images7)(canvas)
    assert (right - wrong[:, :5, :5]).abs().max() > 1e-2


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
    "instance norm": (
        head(nn.InstanceNorm2d(2)),
        "layer '1' lets its input decide what runs, or else cannot be traced",
    ),
    "layer norm": (head(nn.LayerNorm([2, 6, 6])), r"layer '1' \(layer_norm\) is global"),
    "weights of an activation": (head(nn.PReLU(2)), r"layer '1' \(prelu\) is not an operation that is known to fit"),
    "softmax over positions": (head(nn.Softmax(-1)), r"layer '1' \(softmax\) is global"),
    "transposed convolution": (head(nn.ConvTranspose2d(2, 2, 1)), "is not an operation that is known to fit"),
    "no flatten": (
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(6, 3), nn.Flatten(), nn.Linear(36, 3)),
        r"layer '1' \(linear\) does not take a flattened map",
    ),
    "norm of each position": (
        nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 3)),
        r"layer '1' \(batch_norm\) takes a tensor that may differ from position to position",
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
        Forward(lambda s, x: s.fc(x.reshape(1, -1).reshape(x.shape[0], -1)), fc=nn.Linear(64, 3)),
        r"\(reshape\) rearranges",
    ),
    "positions": (
        Forward(lambda s, x: s.fc((x * s.p).flatten(1)), p=nn.Parameter(torch.rand(8, 8)), fc=nn.Linear(64, 3)),
        "may differ from position to position",
    ),
    "data-dependent": (
        Forward(lambda s, x: s.fc((x if x.sum() > 0 else -x).flatten(1)), fc=nn.Linear(64, 3)),
        "layer '' lets its input decide",
    ),
    "item": (Forward(lambda s, x: s.fc(x.flatten(1)) * x.max().item(), fc=nn.Linear(64, 3)), r"\(max\) joins"),
    "attention": (
        Forward(lambda s, x: s.fc(F.scaled_dot_product_attention(x, x, x).flatten(1)), fc=nn.Linear(64, 3)),
        "scaled_dot_product_attention",
    ),
    "always random": (Forward(lambda s, x: s.fc(F.dropout(x).flatten(1)), fc=nn.Linear(64, 3)), "is random"),
    "no input": (
        Forward(lambda s, x: s.p.expand(x.shape[0], 3), p=nn.Parameter(torch.ones(3))),
        "no operation made that can be followed",
    ),
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


class Changing(nn.Module):
    """Counts how often it runs; from the given time on it returns something else."""

    def __init__(self, first):
        super().__init__()
        self.fc, self.runs, self.first = nn.Linear(16, 3), itertools.count(1), first

    def forward(self, x):
        return self.fc(x.flatten(1)) * (1.0 if next(self.runs) < self.first else 2.0)


def test_a_value_that_the_trace_burned_in_is_found_out_on_the_traced_window():
    """The first run is the network's own, the second is traced."""
    with pytest.raises(NotDenseError, match="differ from those of the network itself at the window that was traced"):
        lab.dense_equivalent(Changing(first=2), torch.rand(1, 1, 4, 4))


def test_a_network_that_does_something_else_later_is_found_out_by_its_shifts():
    model, images = Changing(first=3), torch.rand(2, 1, 4, 4)
    lab.dense_equivalent(model, images)  # the window that was traced shows nothing
    model.runs = itertools.count(1)
    with pytest.raises(NotDenseError, match="differ from those of the network itself at dy=1, dx=1"):
        lab.shift_map(model, images, radius=1, method="dense")


def test_phases_that_are_mixed_up_are_found_out_by_its_shifts(monkeypatch):
    model = network(0, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3))
    images = torch.rand(2, 1, 8, 8, generator=generator(0), dtype=torch.float64)
    joined = Map.joined
    monkeypatch.setattr(Map, "joined", lambda self: joined(self).transpose(2, 3))
    assert lab.dense_equivalent(model, images).window == (1, 8, 8)  # the first window is where it was
    with pytest.raises(NotDenseError, match="differ from those of the network itself at dy="):
        lab.shift_map(model, images, radius=2, method="dense")


SUPPORTED = {
    "functional": Forward(
        lambda s, x: s.fc(F.max_pool2d(F.relu(s.c(x)), 2).flatten(1)), c=nn.Conv2d(1, 2, 3), fc=nn.Linear(18, 3)
    ),
    "groups and dilation": nn.Sequential(
        nn.Conv2d(1, 4, 3, dilation=(2, 1)), nn.Conv2d(4, 4, 2, groups=2), nn.Flatten(), nn.Linear(4 * 3 * 5, 3)
    ),
    "norm, activation, dropout": nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.LeakyReLU(), nn.Dropout2d(), nn.Flatten(), nn.Linear(144, 3)
    ),
    "a norm without positions": nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)),
    "options by their names": Forward(
        lambda s, x: s.fc(
            F.avg_pool2d(F.conv2d(x, weight=s.w, groups=1), kernel_size=2, divisor_override=3).flatten(1)
        ),
        w=nn.Parameter(torch.rand(2, 1, 3, 3)),
        fc=nn.Linear(18, 3),
    ),
    "strides that are not square": nn.Sequential(
        nn.Conv2d(1, 2, 3, (1, 2)), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(6, 3)
    ),
    "a layer twice": Forward(lambda s, x: s.fc(s.c(s.c(x)).flatten(1)), c=nn.Conv2d(1, 1, 3), fc=nn.Linear(16, 3)),
    "softmax of channels": nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.Softmax(1), nn.Flatten(), nn.Linear(108, 3), nn.LogSoftmax(-1)
    ),
    "sizes asked for": Forward(
        lambda s, x: s.fc(x.reshape(x.shape[0], x.size(2) * x.size(3))),
        fc=nn.Linear(64, 3),
    ),
    "an option with a default": Forward(
        lambda s, x, twice=False: s.fc((2 * x if twice else x).flatten(1)), fc=nn.Linear(64, 3)
    ),
    "an unused branch that would not fit": Forward(
        lambda s, x: (s.fc(x.flatten(1)), x.mean((2, 3))), fc=nn.Linear(64, 3)
    ),
    "in place on the images": Forward(lambda s, x: s.fc(x.sub_(0.5).flatten(1)), fc=nn.Linear(64, 3)),
    "in place, its result left": Forward(lambda s, x: (x.mul_(2), s.fc(x.flatten(1)))[1], fc=nn.Linear(64, 3)),
    "branches with strides": Forward(
        lambda s, x: s.fc((s.a(x) + s.b(x)).flatten(1)),
        a=nn.Conv2d(1, 2, 2, 2),
        b=nn.Conv2d(1, 2, 1, 2),
        fc=nn.Linear(32, 3),
    ),
}


@pytest.mark.parametrize("case", SUPPORTED)
def test_what_fits_is_dense(case):
    model = SUPPORTED[case].eval()
    images = torch.randn(2, 1, 8, 8, generator=generator(0))
    before = images.clone()
    shifted = [model(lab.shift(images, dy, 2).clone()) for dy in (-3, 3)]
    shifted = torch.stack([one[0] if isinstance(one, tuple) else one for one in shifted], 1)
    for found in both(model, images, radius=3):
        assert error(found[:, [0, 6], 5], shifted) <= 1e-5
        assert torch.equal(images, before)


@pytest.mark.parametrize("dilation", [1, 2])
def test_the_largest_along_both_axes_in_turn_are_those_of_max_pool2d(dilation):
    x = torch.randn(2, 3, 9, 10, generator=generator(0))
    found = largest(x, (3, 2), (dilation, 2))
    assert torch.equal(found, F.max_pool2d(x, (3, 2), 1, dilation=(dilation, 2)))


def test_a_canvas_that_does_not_fit_is_refused():
    dense = lab.dense_equivalent(lab.build_model("given", seed=0), torch.rand(1, 1, 28, 28))
    with pytest.raises(InputError, match=r"a canvas must be n 1 y x, at least 28 × 28: shape \(1, 1, 27, 40\)"):
        dense(torch.rand(1, 1, 27, 40))
    assert "conv1 conv2d: 1 × 27 × 27" in str(dense)
