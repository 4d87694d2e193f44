"""What is left of an error off the period, if a map may be moved by fractions of an output."""

from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lab
from lab.metering.interpolation import interpolated_error, weights
from lab.metrics import Axis, Comparison, Grid


def measured(a, b, grid, t, *, wrap):
    """The errors for the best whole move, and for the one that fits."""
    errors = Comparison(a, grid, wrap=wrap).errors(b, t)
    interpolated = interpolated_error(a, b, grid, t, wrap=wrap)
    return SimpleNamespace(equivariance=errors.equivariance, unrelated=errors.unrelated, interpolated=interpolated)


def circular_grid(n, step, period, interior=None):
    axis = Axis(n, int(n / step), Fraction(step), period, interior or range(int(n / step)), circular=interior is None)
    return Grid(axis, axis)


@pytest.fixture(scope="module")
def stack():
    """Page 1's: circular convolution, ReLU, a stride of 2; an ideal low-pass before it makes it free of aliasing."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        conv = nn.Conv2d(1, 8, 3, padding=1, padding_mode="circular").double()

    def run(images, *, ideal):
        a = F.relu(conv(images.double()))
        if ideal:
            low = (torch.fft.fftfreq(a.shape[-1]).abs() < 0.25 - 1e-9).double()
            return torch.fft.ifft2(torch.fft.fft2(a) * low[:, None] * low).real[..., ::2, ::2]
        return F.max_pool2d(a, 2)

    with torch.no_grad():
        yield run


def errors_of_the_stack(run, digits, t, *, ideal, wrap=True, interior=None):
    images = digits.images[:40]
    moved = lab.shift(images, *t, mode="wrap" if wrap else "background")
    a, b = (run(x, ideal=ideal) for x in (images, moved))
    return measured(a, b, circular_grid(28, 2, 2, interior), t, wrap=wrap)


@pytest.mark.parametrize("t", [(0, 1), (1, 1), (-3, 2)], ids=str)
def test_what_interpolation_leaves_is_aliasing(t, stack, digits):
    free, plain = (errors_of_the_stack(stack, digits, t, ideal=ideal) for ideal in (True, False))
    assert free.interpolated.largest < 1e-12, "without aliasing, half a pixel is a move like any other"
    assert free.equivariance.overall > 0.2, "no whole move tells that"
    assert 0.1 < plain.interpolated.overall < plain.equivariance.overall < plain.unrelated.overall


def test_on_the_period_there_is_nothing_to_interpolate(stack, digits):
    errors = errors_of_the_stack(stack, digits, (2, -4), ideal=False)
    assert errors.equivariance.largest < 1e-12
    assert errors.interpolated.each.isnan().all()


@pytest.mark.parametrize("t", [(0, 1), (1, 0), (1, -1)], ids=str)
def test_on_frames_a_windowed_sinc_has_to_do(t, stack, digits):
    asked = {"wrap": False, "interior": range(1, 13)}
    free, plain = (errors_of_the_stack(stack, digits, t, ideal=ideal, **asked) for ideal in (True, False))
    assert free.interpolated.overall < 0.1 < 0.15 < plain.interpolated.overall


def test_no_output_can_be_had_where_the_interior_is_narrower_than_the_window(stack, digits):
    narrow = errors_of_the_stack(stack, digits, (1, 1), ideal=False, wrap=False, interior=range(4, 9))
    assert narrow.interpolated.each.isnan().all()
    assert narrow.equivariance.each.isfinite().all()


@pytest.mark.parametrize("wrap", [True, False], ids=["wrap", "background"])
def test_where_a_whole_move_exists_off_the_period_interpolation_is_that_move(wrap):
    """As in a U-Net: a step of 1 and a period of 4."""
    grid = circular_grid(12, 1, 4, None if wrap else range(2, 10))
    a, b = torch.randn(2, 6, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    errors = measured(a, b, grid, (3, -2), wrap=wrap)
    torch.testing.assert_close(errors.interpolated.each, errors.equivariance.each, rtol=1e-5, atol=0)
    assert errors.interpolated.overall > 1


@pytest.mark.parametrize("step", [None, Fraction(2)], ids=["no step", "no period"])
def test_interpolation_needs_a_step_alone(step):
    axis = Axis(24, 12, step, None, range(12))
    errors = measured(*torch.rand(2, 2, 1, 12, 12), Grid(axis, axis), (3, 3), wrap=False)
    assert errors.interpolated.each.isnan().all().item() == (step is None)


def test_weights_move_a_constant_as_it_is_and_a_whole_move_takes_one_output():
    axis = Axis(40, 20, Fraction(2), 2, range(1, 19))
    j, found = weights(axis, 3)
    assert found.sum(1).tolist() == pytest.approx([1] * len(found))
    assert j.nonzero()[:, 0].tolist() == list(range(5, 18))  # j − 1.5 ± 3 outputs lie in 1 to 18
    j, found = weights(axis, -4)
    assert torch.equal(j, torch.tensor([1 <= k <= 16 for k in range(20)]))
    assert (found == torch.eye(20, dtype=torch.float64)[j].roll(2, 1)).all()
