"""The figures of a run show what was measured."""

import sys

import torch
from matplotlib.figure import Figure

from lab.plotting import training_curve
from lab.reporting.figures import error_curves, pair_figure, shift_figure


def test_figures_are_drawn_without_pyplots_global_state(given):
    figures = [
        training_curve(given.result.training.loss, 1),
        pair_figure(given.result),
        error_curves(given.found),
        shift_figure("accuracy", torch.rand(3, 3)),
    ]
    assert all(isinstance(figure, Figure) for figure in figures)
    assert "matplotlib.pyplot" not in sys.modules


def lines(axes):
    return {str(line.get_label()): line for line in axes.lines}


def test_error_curves_show_the_measured_errors_and_their_controls(each):
    trained_left, trained_right, left, right = error_curves(each.found).axes
    conv1 = lines(trained_left)["conv1, every shift"]
    assert max(conv1.get_ydata()) <= 1e-6
    assert len(conv1.get_ydata()) == 4
    fc1 = lines(trained_right)["fc1"].get_ydata()
    overall = each.result.networks["trained"].layers["fc1"].invariance.overall
    assert min(fc1) < overall < max(fc1)
    for axes, control in (
        *((axes, "control: conv1, wrong shift") for axes in (trained_left, left)),
        *((axes, "control: fc1, unrelated image") for axes in (trained_right, right)),
    ):
        assert min(lines(axes)[control].get_ydata()) > 0.1


def test_error_curves_tell_shifts_that_the_stride_divides_from_the_others(pooled):
    axes = error_curves(pooled.found).axes[0]
    on, off = lines(axes)["pool1, multiples of 2 px"], lines(axes)["pool1, other shifts"]
    assert (on.get_linestyle(), off.get_linestyle()) == ("-", ":")
    assert list(on.get_xdata()) == [2, 4]
    assert max(on.get_ydata()) <= 1e-6
    assert list(off.get_xdata()) == [1, 2, 3, 4]
    assert min(off.get_ydata()) > 0.01


def test_an_error_that_is_not_defined_is_said_to_be_so(dead):
    axes = error_curves(dead.found).axes[1]
    assert len(lines(axes)["fc1 (undefined)"].get_xdata()) == 0


def panel(figure, title):
    return next(axes.images[0].get_array() for axes in figure.get_axes() if axes.get_title().startswith(title))


def test_the_pair_figure_shows_the_translated_map_on_the_map_of_the_translated_image(each):
    figure = pair_figure(each.result)
    expected, moved, difference = (panel(figure, t) for t in ("T f(x)", "f(T x)", "difference"))  # of conv1, the first
    assert abs(difference).max() <= 1e-5 * abs(moved).max()
    assert abs(moved - moved.mean()).max() > 1e-2
    assert 0 < expected.mask.sum() < expected.size / 3, "only the strip that has nothing to compare is left out"


def test_a_pair_of_a_network_that_returns_always_the_same_can_be_drawn(dead):
    figure = pair_figure(dead.result)
    figure.draw_without_rendering()
    assert isinstance(figure, Figure)


def test_a_shift_map_is_drawn_with_down_and_right_as_positive():
    values = torch.zeros(5, 5)
    values[2 + 1, 2 - 2] = 1.0  # dy = 1, dx = -2
    axes = shift_figure("accuracy", values).axes[0]
    (image,) = axes.images
    assert image.get_clim() == (0.0, 1.0)
    left, right, bottom, top = image.get_extent()
    rows, columns = image.get_array().nonzero()
    at = (left + (columns[0] + 0.5) * (right - left) / 5, top + (rows[0] + 0.5) * (bottom - top) / 5)
    assert at == (-2.0, 1.0)
    assert axes.get_title() == "accuracy"
