"""What the figures of a study show: the numbers of its records, at their places."""

from dataclasses import asdict

import numpy as np

from lab.study.figures import maps_figure, named, ranking_figure


def test_the_ranking_shows_each_mean_with_its_interval_beside_the_accuracy_in_place(done):
    (axes,) = ranking_figure(done).axes
    lines = [line.get_xdata().tolist() for line in axes.lines]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    for place, (setting, found) in enumerate(reversed(done.ranking("moved"))):  # the best on top
        interval, mean, own = (lines[3 * place + i] for i in range(3))
        assert interval == [found.low, found.high]
        assert mean == [found.mean]
        assert own == [done.interval("accuracy", **asdict(setting)).mean]
        assert labels[place] == named(setting, list(done.study.factors))


def test_a_map_has_up_and_left_where_they_are_on_the_digit(done):
    rows, columns = [{"head": "maximum"}], [{"pooling": "max"}, {"pooling": "adaptive"}]
    shown = [axes.images[0] for axes in maps_figure(done, rows, columns).axes if axes.images and axes.get_title()]
    for image, column in zip(shown, columns, strict=True):
        assert np.array_equal(image.get_array(), done.map_of("accuracy", **column))
        assert image.get_extent() == [-8.5, 8.5, 8.5, -8.5]  # row 0, dy = −8, on top; column 0, dx = −8, on the left
