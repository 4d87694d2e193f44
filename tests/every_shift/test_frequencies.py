"""The product in frequency and its twin, `conv2d`."""

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import ROUNDING, both, error, generator, network
from torch import nn

from lab.every_shift import dense
from lab.every_shift.frequencies import WideConvolution, constant_margin

sides = st.integers(1, 12)


@settings(max_examples=60)
@given(sides, sides, st.integers(0, 9), st.integers(0, 9), st.integers(0, 6), st.booleans())
def test_it_is_conv2d_of_any_size_with_any_margin(h, w, more_rows, more_columns, margin, blank):
    def draw(*shape):
        return torch.randn(shape, generator=generator(h + 13 * w), dtype=torch.float64)

    x = F.pad(draw(3, 1, h + more_rows, w + more_columns) * (not blank) + 0.3, (margin,) * 4, value=0.3)
    weight, bias = draw(2, 1, h, w), draw(2)
    convolution = WideConvolution(weight, bias)
    for images in (x, x[:1], x):  # what it kept from one call serves the next
        expected = F.conv2d(images, weight, bias)
        found = convolution(images)
        assert found.shape == expected.shape
        assert (found - expected).abs().max() <= ROUNDING * (1 + expected.abs().max())


def test_without_a_bias_and_in_float32_it_is_conv2d_up_to_rounding():
    x, weight = (torch.randn(*shape, generator=generator(0)) for shape in ((4, 1, 40, 38), (3, 1, 27, 25)))
    assert error(WideConvolution(weight, None)(x), F.conv2d(x, weight)) <= 1e-5


def test_one_pixel_to_the_side_it_is_something_else():
    x, weight = (torch.randn(*shape, generator=generator(0)) for shape in ((1, 1, 20, 20), (1, 1, 9, 9)))
    found, expected = WideConvolution(weight, None)(x), F.conv2d(x, weight)
    assert error(found[..., 1:], expected[..., :-1]) > 0.1


def test_the_margin_is_what_holds_one_value_in_all_images():
    x = torch.full((2, 1, 9, 12), 0.5)
    assert constant_margin(x) == 4  # one row is left
    x[1, 0, 3, 6] = 0.6
    assert constant_margin(x) == 3
    x[0, 0, 0, 0] = 0.4
    assert constant_margin(x) == 0


@settings(max_examples=25)
@given(st.integers(8, 11), st.integers(8, 11), st.integers(0, 6), st.integers(1, 3), st.integers(1, 3))
def test_the_wide_kernel_of_one_channel_equals_brute(h, w, radius, kernel, stride):
    layers = nn.Conv2d(1, 1, kernel), nn.AvgPool2d(1, (1, stride)), nn.Flatten()
    size = nn.Sequential(*layers)(torch.zeros(1, 1, h + 3, w + 9)).shape[1]
    model = network(h, *layers, nn.Linear(size, 3))
    images = torch.randn(2, 1, h + 3, w + 9, generator=generator(w), dtype=torch.float64)
    found, expected = both(model, images, radius=radius, background=0.3)
    assert error(found, expected) <= ROUNDING


def test_large_kernels_of_one_channel_take_this_way(monkeypatch):
    used = []
    monkeypatch.setattr(dense, "WideConvolution", lambda *args: used.append(1) or WideConvolution(*args))
    for side, expected in ((8, 1), (7, 0)):
        used.clear()
        dense.dense_equivalent(network(0, nn.Flatten(), nn.Linear(side**2, 3)), torch.rand(1, 1, side, side).double())
        assert len(used) == expected
