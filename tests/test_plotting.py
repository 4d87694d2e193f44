import io
import math
from pathlib import Path

import pytest
import torch
from matplotlib import rc_context, rcParams
from matplotlib.colors import to_hex
from matplotlib.text import Text

from lab.errors import OutputError
from lab.plotting import CONTROL_LOOK, image_row, layer_profile, save_figure, training_curve

ROOT = Path(__file__).parent.parent

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


# Settings of the user's, and of the pages


@pytest.fixture(params=["image_row", "training_curve", "layer_profile"])
def draw(request):
    """Draws one figure of each kind."""
    return {
        "image_row": lambda: image_row([("x", torch.eye(4), "image"), ("f(x)", FEATURE, "feature")]),
        "training_curve": lambda: training_curve(torch.linspace(2.3, 0.1, 40), 1),
        "layer_profile": lambda: layer_profile(["conv1", "fc1"], {"interior": [0.0, 1e-7], "control": [0.9, 1.1]}),
    }[request.param]


def saved(figure, path):
    save_figure(figure, path)
    return path.read_bytes()


def test_a_users_matplotlibrc_changes_no_figure(draw, tmp_path):
    settings = tmp_path / "matplotlibrc"
    settings.write_text(
        "text.usetex: True\nfont.size: 30\nfont.family: serif\naxes.grid: True\nsavefig.dpi: 7\n"
        "image.cmap: jet\nlines.linewidth: 9\naxes.prop_cycle: cycler('color', ['ff0000'])\n"
    )
    expected = saved(draw(), tmp_path / "expected.png")
    with rc_context(fname=settings):
        assert saved(draw(), tmp_path / "found.png") == expected


def test_figures_of_a_page_have_its_ink_and_its_paper(draw):
    with rc_context(fname=ROOT / "docs" / "_hooks" / "matplotlibrc"):
        figure = draw()
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg")  # as the page does it, by its own settings
    words = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    assert words
    assert {to_hex(text.get_color()) for text in words} == {"#0a0b0c"}
    assert to_hex(figure.get_facecolor(), keep_alpha=True)[-2:] == "00"
    assert "#0a0b0c" in drawn.getvalue()
    assert "<text" in drawn.getvalue()  # letters, which the page sets in its own font


def test_settings_are_left_as_they_were(draw):
    with rc_context({"font.size": 17}):
        draw()
        assert rcParams["font.size"] == 17


# Errors of layers


def test_a_profile_shows_each_series_that_applies_and_the_control_in_its_own_look():
    series = {"interior": [0.0, 1e-6], "border": [math.nan, math.nan], "control": [0.9, math.nan]}
    (axes,) = layer_profile(["conv1", "fc1"], series).axes
    interior, control = axes.lines
    assert [line.get_label() for line in axes.lines] == ["interior", "control"]
    assert list(interior.get_ydata()) == [0.0, 1e-6]
    assert {key: getattr(control, f"get_{key}")() for key in CONTROL_LOOK} == CONTROL_LOOK
    assert interior.get_color() != control.get_color()


NAMES = ["a$b$", "$", "$x_1$", r"\$\frac$"]


def test_names_with_dollar_signs_are_drawn_as_they_are(tmp_path):
    figure = layer_profile(NAMES, {"interior": [0.1] * len(NAMES)})
    assert_literal(figure.axes[0].get_xticklabels(), NAMES)
    titles = image_row([(name, FEATURE, "feature") for name in NAMES])
    assert_literal([axes.title for axes in titles.axes], NAMES)
    for drawn in (figure, titles):
        save_figure(drawn, tmp_path / "figure.svg")


def assert_literal(texts, names):
    assert [text.get_text() for text in texts] == names
    assert not any(text.get_parse_math() for text in texts)


def test_long_names_are_cut_and_every_second_of_eighty_layers_is_named():
    names = [f"a.very.long.name.of.a.layer.{i}" for i in range(80)]
    (axes,) = layer_profile(names, {"interior": [0.1] * 80}).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == [f"…{name[-23:]}" for name in names[::2]]


@pytest.mark.parametrize("name", ["no/such/folder/figure.png", "figure.xyz"])
def test_a_figure_that_cannot_be_saved_is_one_clear_error(name, tmp_path):
    with pytest.raises(OutputError, match="the figure cannot be written to"):
        save_figure(training_curve(torch.ones(3), 1), tmp_path / name)
