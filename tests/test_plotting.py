import pytest
import torch
from matplotlib.colors import to_hex

from lab.plotting import image_row

FEATURE = torch.tensor([[-1.0, 3.0], [0.0, 1.0]])


def test_image_row_draws_each_panel_with_its_title_and_values():
    figure = image_row([("x", torch.rand(4, 5), "image"), ("f(x)", FEATURE, "feature")])
    assert [axes.get_title() for axes in figure.axes] == ["x", "f(x)"]
    assert figure.axes[1].images[0].get_array().tolist() == FEATURE.tolist()


def test_features_share_one_scale_and_differences_are_centred_on_it():
    small, difference = FEATURE / 10, FEATURE - FEATURE
    figure = image_row([("a", FEATURE, "feature"), ("b", small, "feature"), ("d", difference, "difference")])
    limits = [axes.images[0].get_clim() for axes in figure.axes]
    assert limits == [(-1.0, 3.0), (-1.0, 3.0), (-3.0, 3.0)]


def test_digits_are_drawn_on_one_scale_with_ink_dark():
    (axes,) = image_row([("x", torch.zeros(2, 2), "image")]).axes
    assert axes.images[0].get_clim() == (0.0, 1.0)
    image = axes.images[0]
    assert to_hex(image.cmap(image.norm(1.0))) == "#000000"
    assert to_hex(image.cmap(image.norm(0.0))) == "#ffffff"


@pytest.mark.parametrize("values", [torch.full((2, 2), torch.nan), torch.zeros(2, 2)], ids=["nothing", "zero"])
def test_panels_without_anything_to_compare_can_be_drawn(values):
    figure = image_row([("d", values, "difference")])
    figure.draw_without_rendering()
    assert len(figure.axes) == 1


def test_nan_does_not_widen_the_scale():
    with_nan = FEATURE.clone()
    with_nan[0, 0] = torch.nan
    (axes,) = image_row([("f", with_nan, "feature")]).axes
    assert axes.images[0].get_clim() == (0.0, 3.0)
