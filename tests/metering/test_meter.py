"""The meter as a whole: verdicts, report, notes, assertion, bad input, and that it leaves a model as it was."""

import io
import itertools
import json
import math
import re
from collections import OrderedDict
from dataclasses import fields, replace

import pytest
import torch
import torch.nn.functional as F
from layers import Function
from matplotlib.figure import Figure
from rich.console import Console
from test_measuring import assert_alike
from torch import nn

import lab
from lab.data import BACKGROUND
from lab.errors import EquivarianceError, InputError
from lab.metering import instrument
from lab.metering.inputs import fractal_images
from lab.metering.instrument import SMALL, TOLERANCE
from lab.metering.report import Row

EXACT = TOLERANCE[torch.float32]


def seeded(build, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build().eval()


def ring(*after, channels=1):
    """A circular convolution, `0`, and what comes after it."""
    conv = seeded(lambda: nn.Conv2d(channels, 4, 3, padding=1, padding_mode="circular"))
    return nn.Sequential(conv, *after).eval()


@pytest.fixture(scope="module")
def clouds():
    return fractal_images(6, (16, 16), channels=1)


@pytest.fixture(scope="module")
def ink(digits):
    return digits.images[:20]


@pytest.fixture(scope="module")
def report(ink):
    """A padded network over every residue of its stride of 4, and some shifts more."""
    shifts = [*itertools.product(range(4), range(4)), (-3, 0), (5, 0), (4, -4), (-4, -4), (24, 0)]
    return lab.meter(seeded(lambda: lab.PooledCNN(padding=1)), ink, shifts)


# Exact or broken: float64 decides


def rounded(x, much=100):
    """The image, and a wave of its sums: two orders of summing round differently, which the wave makes larger."""
    return x + (much * x.sum((2, 3), keepdim=True)).sin()


def pattern(x):
    """Random values at each position, always the same."""
    return torch.rand(x.shape[2:], generator=torch.Generator().manual_seed(0)).to(x) - 0.5


@pytest.mark.parametrize(("much", "least"), [(10, EXACT), (50, SMALL)])
def test_rounding_larger_than_the_tolerance_is_exact_for_float64_says_so(clouds, much, least):
    layer = Function(lambda x: rounded(x, much))
    row = lab.meter(ring(layer), clouds, [(3, 2)], mode="wrap").of("1")[0]
    assert row.error > least
    assert row.in_float64 <= TOLERANCE[torch.float64]
    assert (row.theory, row.observed, row.agrees) == ("exact", "exact", True)


def test_breakage_smaller_than_the_tolerance_is_not_exact_for_float64_says_so(clouds):
    broken = Function(lambda x: x + 2e-6 * pattern(x))
    row = lab.meter(ring(broken), clouds, [(3, 2)], mode="wrap").of("1")[0]
    assert row.error < EXACT
    assert row.in_float64 == pytest.approx(row.error, rel=0.5)
    assert row.in_float64 > 1e-7
    assert (row.theory, row.observed, row.agrees) == ("broken", "not exact", True)


def test_rounding_that_depends_on_the_number_of_images_is_no_random_number(clouds):
    """Kernels choose their order of summing by it, which a steep function makes visible."""
    steep = Function(lambda x: x + (50 * x.sum((2, 3), keepdim=True) * (1 + 1e-6 * len(x))).sin())
    row = lab.meter(ring(steep), clouds, [(3, 2)], mode="wrap").of("1")[0]
    assert (row.theory, row.observed) == ("exact", "exact")


@pytest.mark.parametrize("own", [False, True], ids=["of torch", "of the layer"])
def test_random_numbers_are_said_whoever_draws_them(clouds, own):
    generator = torch.Generator().manual_seed(0) if own else None
    layer = Function(lambda x: x + torch.rand(x.shape, generator=generator))
    row = lab.meter(ring(layer), clouds, [(3, 2)], mode="wrap").of("1")[0]
    assert (row.theory, row.observed) == ("untestable", "not exact")
    assert row.why.startswith("random numbers")


def test_an_error_of_zero_needs_no_float64(clouds):
    # clones of the same numbers: bit for bit
    row = lab.meter(nn.Identity(), clouds, [(3, 2)], mode="wrap").rows[0]
    assert (row.error, row.in_float64, row.observed) == (0, None, "exact")


def test_breakage_that_one_image_shows_is_found_in_it(clouds):
    """The float64 rerun takes two images: the worst, and another."""

    def marked(x):
        bright = x.mean((1, 2, 3), keepdim=True) > 20
        return x + torch.where(bright, 5e-3, 0.0).to(x) * pattern(x)

    images = clouds.clone()
    images[4] += 100
    row = lab.meter(nn.Sequential(Function(marked)), images, [(3, 2)], mode="wrap").of("0")[0]
    assert EXACT < row.error < 1e-4
    assert row.worst_image == 4
    assert row.observed == "not exact"
    assert row.in_float64 > 1e-6


def test_float64_tells_rounding_even_where_the_first_images_are_alike(clouds):
    """Of two equal images, no invariance error can be taken."""
    images = clouds[[0, 0, 1, 2]]
    row = lab.meter(ring(nn.AdaptiveAvgPool2d(1)), images, [(3, 2)], mode="wrap").of("1")[0]
    assert 0 < row.error < EXACT
    assert row.in_float64 <= TOLERANCE[torch.float64]
    assert row.observed == "exact"


def test_a_model_that_cannot_run_in_float64_is_judged_in_float32(clouds):
    kernel = seeded(lambda: nn.Conv2d(4, 1, 3)).weight.detach()  # no parameter of the model: it stays float32
    own = Function(lambda x: F.conv2d(x, kernel).mean((2, 3)))
    row = lab.meter(ring(Function(rounded), own), clouds, [(3, 2)], mode="wrap").of("1")[0]
    assert row.error > EXACT
    assert row.in_float64 is None
    assert row.observed == "not exact"


# Degenerate layers


def with_weights(layer, weight, bias):
    nn.init.constant_(layer.weight, weight)
    nn.init.constant_(layer.bias, bias)
    return layer


DEGENERATE = {
    "zero-weights": lambda: nn.Sequential(with_weights(nn.Conv2d(1, 2, 3), 0.0, 0.0)),
    "constant-output": lambda: nn.Sequential(with_weights(nn.Conv2d(1, 2, 3), 0.0, 1.5)),
    "dead-relu": lambda: nn.Sequential(with_weights(nn.Conv2d(1, 2, 3), 0.1, -99.0), nn.ReLU()),
    "padded-dead-relu": lambda: nn.Sequential(with_weights(nn.Conv2d(1, 2, 3, padding=1), -1.0, -99.0), nn.ReLU()),
}


@pytest.mark.parametrize("case", DEGENERATE)
def test_a_layer_that_shows_nothing_is_degenerate_and_proves_nothing(case, clouds):
    model = DEGENERATE[case]().eval()
    last = str(len(model) - 1)
    for quantities in (["equivariance", "invariance", "sorting"], ["equivariance"]):
        row = lab.meter(model, clouds, [(2, 0)], mode="wrap", quantities=quantities).of(last)[0]
        assert row.observed == "degenerate"
        assert row.agrees is None
    with pytest.raises(EquivarianceError, match=rf"{last} returns the same .* dy=2, dx=0: that shows nothing"):
        lab.assert_equivariant(model, clouds, layer=last, shifts=[(2, 0)], mode="wrap")


def test_a_layer_that_shows_something_is_not_degenerate(clouds):
    model = seeded(lambda: nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU()))
    assert {row.observed for row in lab.meter(model, clouds, [(2, 0)]).rows} == {"exact"}
    lab.assert_equivariant(model, clouds, layer="1", shifts=[(2, 0)])


def test_a_head_without_weights_is_degenerate(clouds):
    head = with_weights(nn.Linear(4, 3), 0.0, 1.0)
    report = lab.meter(ring(nn.AdaptiveAvgPool2d(1), nn.Flatten(), head), clouds, [(2, 0)])
    assert report.of("3")[0].observed == "degenerate"
    assert report.of("2")[0].observed == "not exact"


def test_a_border_alone_does_not_speak_for_an_interior_of_zeros(clouds):
    """Where padding alone makes activations, the interior shows nothing: neither exact nor broken."""
    ones = torch.ones(1, 1, 3, 3)
    frame = Function(lambda x: x * F.relu(8 - F.conv2d(x * 0 + 1, ones, padding=1)))  # 9 inside, 6 and 4 at the frame
    images, model = clouds, nn.Sequential(nn.Identity(), frame)
    row = lab.meter(model, images, [(-1, 1)]).of("1")[0]
    assert row.border > 0.01
    assert math.isnan(row.interior)
    assert row.observed == "degenerate"
    with pytest.raises(EquivarianceError):
        lab.assert_equivariant(model, images, layer="1", shifts=[(-1, 1)])


# What theory does not know


class CoordConv(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)

    def forward(self, x):
        rows = torch.linspace(-1, 1, x.shape[2]).to(x).view(1, 1, -1, 1).expand(len(x), 1, -1, x.shape[3])
        return self.conv(torch.cat([x, rows], 1))


POSITIONS = {
    "coordinates": (CoordConv, "conv", "background"),
    "coordinates-wrapped": (CoordConv, "conv", "wrap"),
    "fixed-mask": (lambda: ring(Function(lambda x: x * pattern(x))), "1", "background"),
    "fixed-mask-wrapped": (lambda: ring(Function(lambda x: x * pattern(x))), "1", "wrap"),
}


@pytest.mark.parametrize("case", POSITIONS)
def test_positions_that_forward_computes_are_known(case, clouds):
    build, layer, mode = POSITIONS[case]
    row = lab.meter(seeded(build), clouds, [(2, 0)], mode=mode).of(layer)[0]
    assert (row.theory, row.observed, row.agrees) == ("broken", "not exact", True)
    assert row.error > 0.01
    assert re.search("a constant of (1|the model) has a value for each position", row.why)


def test_a_network_that_theory_cannot_explain_is_a_disagreement_that_asks_why(clouds):
    """What becomes a number of Python on the way is a constant to the trace."""
    model = ring(Function(lambda x: x * (1 + float(x.numpy()[0, 0, 0, 0]) ** 2)))
    report = lab.meter(model, clouds, [(2, 0)])
    (row,) = report.disagreements
    assert (row.layer, row.theory, row.observed, row.agrees) == ("1", "exact", "not exact", False)
    assert "the error is not explained: does the forward function do what theory does not know?" in row.why


def test_where_forward_reads_values_of_the_image_theory_promises_nothing(clouds):
    model = ring(Function(lambda x: x * (1 + x[0, 0, 0, 0].item() ** 2)))
    report = lab.meter(model, clouds, [(2, 0)])
    row = report.of("1")[0]
    assert (row.theory, row.observed, row.agrees) == ("untestable", "not exact", None)
    assert any(note.startswith("1 reads values of the image in its forward function") for note in report.notes)


@pytest.mark.parametrize("mode", ["background", "wrap"])
def test_a_flip_passes_for_nothing(mode, clouds):
    """Its windows run backwards, so that theory has no word for it; sorted, its activations are those of the image."""
    flip = ring(Function(lambda x: x.flip(-2)))
    (row,) = lab.meter(flip, clouds, [(2, 0)], mode=mode).of("1")
    assert mode == "background" or row.sorting < EXACT
    assert row.observed != "exact"
    assert row.agrees is not True
    with pytest.raises((EquivarianceError, InputError)):
        lab.assert_equivariant(flip, clouds, layer="1", shifts=[(2, 0)], mode=mode)


@pytest.mark.parametrize("mode", ["background", "wrap"])
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
def test_theory_explains_a_cnn_with_pooling(padding_mode, mode, ink):
    model = seeded(lambda: lab.PooledCNN(padding=1, padding_mode=padding_mode))
    report = lab.meter(model, ink, [(1, 0), (-4, 4), (0, -8)], mode=mode)
    assert not report.disagreements
    assert {row.agrees for row in report.rows} >= {True}
    assert {row.theory for row in report.rows} >= {"exact", "broken"}


def test_a_global_layer_is_no_disagreement_where_the_frame_is_blank(clouds):
    """Raw digits with room around them, no biases: what breaks a group norm at the border is not there."""
    model = seeded(lambda: nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.GroupNorm(2, 4)))
    blank = F.pad(clouds, (6, 6, 6, 6))
    (quiet,) = lab.meter(model, blank, [(2, 1)]).of("1")
    assert (quiet.theory, quiet.observed, quiet.agrees) == ("untestable", "exact", None)
    assert quiet.why.endswith("every output sees the whole image, the border included; but no content is there")
    (loud,) = lab.meter(model, blank, [(-9, 1)]).of("1")
    assert (loud.theory, loud.observed, loud.agrees) == ("broken", "not exact", True)
    assert loud.error > 1e-3


# Report


def test_rows_are_layer_by_layer_and_shift_by_shift(ink):
    shifts = [(1, 0), (-4, 4), (1, 0)]
    report = lab.meter(seeded(lab.PooledCNN), ink, shifts)
    layers = ["conv1", "relu1", "pool1", "conv2", "relu2", "pool2", "fc1", "relu3", "fc2"]
    assert [(r.layer, r.dy, r.dx) for r in report.rows] == [(name, *t) for name in layers for t in shifts[:2]]
    assert list(report.geometry) == layers
    assert report.of("conv2") == report.rows[6:8]


def test_a_layer_that_was_not_measured_is_refused(report):
    with pytest.raises(InputError, match="no layer 'conv9' in the report: it has conv1, relu1"):
        report.of("conv9")


def test_off_period_is_the_error_by_what_the_period_leaves(report):
    errors = report.off_period("pool2")
    rows = {(row.dy, row.dx): row for row in report.of("pool2")}
    assert errors.shape == (4, 4)
    assert errors[2, 3] == rows[2, 3].error > 0.05
    assert errors[1, 0] == pytest.approx(sum(rows[dy, 0].error for dy in (1, -3, 5)) / 3)
    assert errors[0, 0] <= EXACT, "24 px leave pool2 no interior: what its border does is no matter of strides"
    assert math.isnan(rows[24, 0].interior)
    assert rows[24, 0].full > 0.01
    assert errors.flatten()[1:].min() > 0.05
    assert report.off_period("conv1").tolist() == [[0.0]]


def test_off_period_is_nan_where_nothing_was_measured(ink):
    errors = lab.meter(seeded(lab.PooledCNN), ink, [(1, 0), (2, 2)]).off_period("pool1")
    assert errors.isnan().tolist() == [[False, True], [False, True]]


@pytest.mark.parametrize("layer", ["fc1", "nowhere"])
def test_off_period_needs_a_layer_with_a_period(layer, report):
    with pytest.raises(InputError, match=r"'fc1' has no period: it keeps no positions|no layer 'nowhere'"):
        report.off_period(layer)


def test_heads_have_their_share_of_tied_weights(report):
    (name, (rho, chance)) = next(iter(report.heads.items()))
    assert (name, chance) == ("fc1", 1 / 49)
    assert rho == pytest.approx(chance, rel=0.3)  # 64 × 32 means of 49 random weights


def test_everything_is_in_the_dictionary_and_json_can_hold_it(report):
    record = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert set(record) == {"schema", "settings", "notes", "layers", "classes", "heads", "rows", "remedies"}
    assert record["settings"]["shifts"][-1] == [24, 0]
    assert record["settings"].items() >= {"model": "PooledCNN", "images": 20, "size": [1, 28, 28], "seed": 0}.items()
    assert list(record["layers"]) == list(report.geometry)
    assert record["layers"]["pool2"]["y"] == {
        **{"size": 28, "outputs": 7, "step": "4", "period": 4, "receptive_field": 10, "offset": -3},
        **{"interior": [1, 6], "circular": False},
    }
    assert record["notes"] == list(report.notes)
    names = {field.name for field in fields(Row)} | {"agrees"}
    for row, plain in zip(report.rows, record["rows"], strict=True):
        assert set(plain) == names
        for name, value in plain.items():
            original = getattr(row, name)
            assert value == (str(original) if isinstance(original, float) and not math.isfinite(original) else original)
    assert any(value == "nan" for row in record["rows"] for value in row.values())


def test_the_frame_is_columns_of_equal_length(report):
    frame = report.to_frame()
    assert list(frame)[:5] == ["layer", "dy", "dx", "theory", "observed"]
    assert set(frame) == {field.name for field in fields(Row)} | {"agrees"}
    assert {len(column) for column in frame.values()} == {len(report.rows)}
    assert frame["interior"][3] == report.rows[3].interior


def printed(report, width):
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(report.table())
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 160])
def test_the_table_fits_the_terminal(width, report):
    lines = printed(report, width).splitlines()
    assert max(map(len, lines)) <= width
    assert len([line for line in lines if any(line.split()[:1] == [name] for name in report.geometry)]) == 9
    text = " ".join(" ".join(lines).split())
    assert "✓ broken" in text
    assert "S = 4 does not divide the shift" in text, "reasons are not broken within a word"
    for note in report.notes:
        assert note in text


def test_the_table_takes_errors_off_the_stride_from_interiors_alone(ink):
    model = seeded(lambda: lab.PooledCNN(padding=1))
    report = lab.meter(model, ink, [(2, 0), (25, 0)], layers=["pool2"])
    near, far = report.rows
    assert f"{near.error:.2g}" != f"{(near.error + far.error) / 2:.2g}"
    assert math.isnan(far.interior)
    (line,) = (line.split() for line in printed(report, 160).splitlines() if line.split()[:1] == ["pool2"])
    assert line[4] == f"{near.error:.2g}"


def test_the_table_shows_disagreements_before_all_else(clouds):
    text = printed(lab.meter(ring(Function(lambda x: x * float(x.numpy()[0, 0, 0, 0]))), clouds, [(1, 0), (2, 0)]), 160)
    assert "✗ exact | not exact" in text
    assert "not explained" in text


def test_names_are_no_markup_in_the_table(clouds):
    named = Function(lambda x: {"red": x, "/": 2 * x})
    report = lab.meter(ring(named, Function(lambda found: found["red"])), clouds, [(1, 0)])
    assert list(report.geometry) == ["0", "1[red]", "1[/]", "2"]
    assert "1[red]" in printed(report, 100)
    assert "1[/]" in printed(report, 100)


def test_names_and_reasons_are_no_html_in_a_notebook(ink):
    convs = {name: nn.Conv2d(i, 4, 3, stride=2, padding=1) for name, i in (("<b>", 1), ("<i>", 4))}
    report = lab.meter(seeded(lambda: nn.Sequential(OrderedDict(convs))), ink, [(1, 0)])
    page = report._repr_html_()
    assert not re.search("<[bi]>", page)
    for named in ("<td>&lt;b&gt;</td>", "&lt;b&gt; skips positions", "from &lt;i&gt; on: biases"):
        assert named in page


def test_an_approximation_agrees_where_its_error_is_below_that_without_the_blur(report):
    (row,) = (row for row in report.of("pool2") if (row.dy, row.dx) == (1, 2))
    rows = (replace(row, theory="approximate", without_blur=share * row.error) for share in (1.1, 0.9, math.nan))
    assert [one.agrees for one in rows] == [True, False, None]


def test_what_is_not_guaranteed_is_not_refuted_by_an_exact_observation(report):
    (row,) = (row for row in report.of("pool2") if (row.dy, row.dx) == (1, 2))
    exact = replace(row, observed="exact")
    assert (row.theory, row.certain, row.agrees, exact.agrees) == ("broken", False, True, None)
    assert replace(exact, certain=True).agrees is False


def test_the_plot_is_a_figure(report, clouds):
    assert isinstance(report.plot(), Figure)
    assert isinstance(lab.meter(nn.Identity(), clouds, [(1, 0)]).plot(), Figure)


# Notes


def notes(model, images, shifts, **options):
    return "\n".join(lab.meter(model, images, shifts, **options).notes)


def test_a_size_that_the_stride_does_not_divide_comes_with_the_next_that_it_does():
    model = seeded(lambda: nn.Conv2d(1, 2, 8, stride=8))
    advice = "60 supports a period of 4, not 8: outputs do not close a circle; use 64"
    found = notes(model, fractal_images(4, (60, 60), channels=1), [(8, 0)])
    assert f"height {advice}" in found
    assert f"width {advice}" in found
    assert "supports" not in notes(model, fractal_images(4, (64, 64), channels=1), [(8, 0)])


def test_where_the_interior_ends_is_noted_for_shifts_along_the_axis_that_ends_it():
    model = seeded(lambda: nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, (3, 15), padding=(1, 7))))
    assert "free of the border" not in notes(model, fractal_images(4, (24, 32), channels=1), [(0, 1)])
    narrow = fractal_images(4, (24, 12), channels=1)
    sees = "receptive field 5×17 px, image 24×12 px"
    assert f"from 1 on, no output is free of the border at any shift: {sees}" in notes(model, narrow, [(0, 1)])
    assert "free of the border" not in notes(model, narrow, [(1, 0)])


def test_on_a_ring_no_border_is_noted(clouds):
    deep = ring(*(nn.Conv2d(4, 4, 9, padding=4, padding_mode="circular") for _ in range(2)))
    assert notes(deep, clouds, [(1, 0)], mode="wrap") == ""
    assert "no output is free of the border" in notes(deep, clouds, [(1, 0)])


@pytest.mark.parametrize("background", [0.0, BACKGROUND], ids=["raw", "normalised"])
def test_the_share_of_images_that_lose_ink_equals_a_direct_count(background, digits):
    shifts = [(1, 0), (-5, 3), (0, 2)]
    images = digits.images if background == 0 else lab.normalize(digits.images)
    present = [(lab.shift(digits.images, *t) > 0).sum((1, 2, 3)) for t in [(0, 0), *shifts]]
    lost = [(ink < present[0]).double().mean().item() for ink in present[1:]]
    assert max(lost) == lost[1] > 0.1
    found = notes(seeded(lab.LabModel), images, shifts, background=background)
    assert f"up to {lost[1]:.0%} of the images lose ink at the frame (shift -5, 3)" in found


def test_images_that_fill_the_frame_are_said_to(clouds, digits):
    assert "most images reach the frame" in notes(nn.Identity(), clouds, [(1, 0)])
    not_the_background = notes(nn.Identity(), lab.normalize(digits.images[:9]), [(1, 0)])
    assert "most images reach the frame: every shift moves content out, and background 0 in" in not_the_background
    assert "reach the frame" not in notes(nn.Identity(), clouds, [(1, 0)], mode="wrap")


def padded(bias):
    return seeded(lambda: nn.Sequential(*(nn.Conv2d(i, 4, 3, padding=1, bias=bias) for i in (1, 4))))


def test_a_blank_image_shows_a_frame_from_biases(ink):
    found = notes(padded(bias=True), ink, [(1, 0)])
    assert "a blank image shows a frame of" in found
    assert "from 1 on: biases" in found, "the first convolution's biases meet the second's padding"


def test_a_blank_image_shows_a_frame_where_padding_is_not_the_normalised_background(ink):
    found = notes(padded(bias=False), lab.normalize(ink), [(1, 0)], background=BACKGROUND)
    assert "from 0 on: padding is not the background, -0.424" in found


def test_a_blank_image_shows_no_frame_without_biases_or_padding(ink):
    assert "blank" not in notes(padded(bias=False), ink, [(1, 0)])
    assert "blank" not in notes(seeded(lab.LabModel), lab.normalize(ink), [(1, 0)], background=BACKGROUND)
    assert "blank" not in notes(padded(bias=True), ink, [(1, 0)], mode="wrap")


# assert_equivariant


def test_the_assertion_passes_where_the_layer_is_equivariant(ink):
    model = seeded(lambda: lab.PooledCNN(padding=1))
    lab.assert_equivariant(model, ink, layer="pool2", shifts=[(4, 0), (-4, 8)])
    lab.assert_equivariant(model, ink, layer="conv1", shifts=[(1, 2)], mode="wrap")
    pooled = nn.Sequential(ring(), nn.GroupNorm(2, 4)).eval()
    lab.assert_equivariant(pooled, ink, layer="1", shifts=[(3, 1)], mode="wrap")  # on a ring, without an interior


def test_the_assertion_fails_with_layer_shift_error_place_and_reason(ink):
    with pytest.raises(EquivarianceError) as caught:
        lab.assert_equivariant(seeded(lab.PooledCNN), ink, layer="pool2", shifts=[(4, 0), (0, -3)])
    message = str(caught.value)
    assert message.startswith("pool2 is not equivariant to the shift dy=0, dx=-3: error 0.")
    assert "> 1e-05, most at row " in message
    assert "a wrong shift has " in message
    assert message.endswith("; to mend it: shift by multiples of 4 px, or take the stride out of pool2")
    assert ": S = 4 does not divide the shift: pool" in message
    assert isinstance(caught.value, AssertionError)


def test_rtol_is_what_the_worst_image_may_do(ink):
    asked = {"layer": "pool2", "shifts": [(0, -3)]}
    model = seeded(lab.PooledCNN)
    (row,) = lab.meter(model, ink, [(0, -3)], layers=["pool2"]).rows
    assert row.worst > 1.05 * row.error
    with pytest.raises(EquivarianceError):
        lab.assert_equivariant(model, ink, **asked, rtol=row.error)
    lab.assert_equivariant(model, ink, **asked, rtol=row.worst * 1.001)


@pytest.mark.parametrize(
    ("t", "mode", "place"),
    [
        ((10, 0), "background", (12, 7)),
        ((10, -3), "background", (12, 7)),
        ((-9, 4), "background", (3, 6)),
        ((5, 3), "wrap", (2, 1)),
    ],
    ids=str,
)
def test_the_assertion_points_at_a_planted_defect(t, mode, place):
    """Too far from the frame for f(x)'s own defect to be seen, once moved; on the ring, larger than that."""
    images = fractal_images(20, (16, 16), channels=1)
    images[13] += 100  # only this image has the defect: it is known by its mean
    if mode == "wrap":
        images[13, 0, (place[0] - t[0]) % 16, (place[1] - t[1]) % 16] += 500

    def defect(x):
        bright = (x[:, :1].mean((1, 2, 3)) > 25).to(x)
        x = x.clone()
        x[:, 1, place[0], place[1]] += bright * (5 if mode == "background" else x[:, 1, place[0], place[1]])
        return x

    conv = with_weights(nn.Conv2d(1, 3, 1), 1.0, 0.0)
    model = nn.Sequential(conv, Function(defect))
    expected = rf"1 is not equivariant .* most at row {place[0]}, column {place[1]} of channel 1, image 13, "
    with pytest.raises(EquivarianceError, match=expected):
        lab.assert_equivariant(model, images, layer="1", shifts=[t], mode=mode)
    lab.assert_equivariant(model, images, layer="0", shifts=[t], mode=mode)


def test_the_assertion_points_off_period_and_padded_too(ink):
    """The place it names is the largest difference of the best move, computed here by hand."""
    model = seeded(lambda: nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.MaxPool2d(2)))
    with pytest.raises(EquivarianceError) as caught:
        lab.assert_equivariant(model, ink, layer="1", shifts=[(1, 0)])
    (row,) = lab.meter(model, ink, [(1, 0)], layers=["1"]).rows
    image = ink[row.worst_image, None]
    with torch.no_grad():
        a, b = (model(x)[0].double() for x in (image, lab.shift(image, 1, 0)))
    stay, down = (b - a)[:, 1:13], (b[:, 1:] - a[:, :-1])[:, 1:12]  # nothing moves along columns
    errors = stay.norm() / a[:, 1:13].norm(), down.norm() / a[:, 1:12].norm()
    assert min(errors) == pytest.approx(row.worst, rel=1e-5)  # float32
    best, top = (stay, 1) if errors[0] < errors[1] else (down, 2)
    channel, y, x = torch.unravel_index(best.abs().argmax(), best.shape)
    place = f"most at row {y + top}, column {x} of channel {channel}, image {row.worst_image},"
    assert place in str(caught.value)


def test_the_assertion_does_not_pass_what_cannot_be_tested(ink, clouds):
    model = seeded(lambda: lab.PooledCNN(padding=1))
    with pytest.raises(EquivarianceError, match=r"fc1 keeps no positions.* is it invariant"):
        lab.assert_equivariant(model, ink, layer="fc1", shifts=[(1, 0)])
    untested = "pool2 cannot be tested with the shift dy=24, dx=0: receptive field 10 px"
    with pytest.raises(EquivarianceError, match=untested):
        lab.assert_equivariant(model, ink, layer="pool2", shifts=[(4, 0), (24, 0)])
    mixed = nn.Sequential(ring(), nn.GroupNorm(2, 4)).eval()
    with pytest.raises((EquivarianceError, InputError), match="border"):
        lab.assert_equivariant(mixed, clouds, layer="1", shifts=[(1, 0)])
    large = fractal_images(4, (60, 60), channels=1)
    with pytest.raises(EquivarianceError, match="cannot be tested with the shift dy=59, dx=0"):
        lab.assert_equivariant(nn.Conv2d(1, 2, 8, stride=8), large, layer="", shifts=[(8, 0), (59, 0)])


def test_each_call_of_a_reused_layer_has_to_pass(clouds):
    once = Function(lambda x: x + pattern(x) * (x > 50))  # only in its second call
    model = nn.Sequential(once, Function(lambda x: x + 100), once)
    with pytest.raises(EquivarianceError, match="0#2 is not equivariant"):
        lab.assert_equivariant(model, clouds, layer="0", shifts=[(1, 0)])


# Bad input


def chain(*layers):
    return seeded(lambda: nn.Sequential(nn.Conv2d(1, 2, 3), *layers))


class Unused(nn.Module):
    """A network with a layer that does not run, or only for small batches."""

    def __init__(self, *, small=False):
        super().__init__()
        self.conv, self.never, self.small = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3), small

    def forward(self, x):
        return self.never(self.conv(x)) if self.small and len(x) < 3 else self.conv(x)


CLOUDS = fractal_images(4, (12, 12), channels=1)
PATCHES = fractal_images(4, (10, 14), channels=1)


def case(message, build=chain, images=CLOUDS, **options):
    return build, images, options, message


FAILS = r"the model fails on images of shape \(1, 1, 12, 12\): "
SOME = "quantities must be a list of some of equivariance, invariance, sorting: "
SOLID_COLOURS = torch.rand(4, 3, 1, 1).expand(4, 3, 8, 8).contiguous()
PAIRS = r"shifts must be a list of pairs \(dy, dx\): "
BAD = {
    "no-spatial-layer": case(
        "no layer keeps positions.*: is the first one fully connected",
        lambda: nn.Sequential(Function(lambda x: x.mean((2, 3))), nn.Linear(1, 3)),
    ),
    "shift-too-large": case(r"smaller than the image: \|dx\|=12, w=12", shifts=[(0, 12)]),
    "shift-too-large-up": case(r"smaller than the image: \|dy\|=10, h=10", images=PATCHES, shifts=[(-10, 0)]),
    "shift-not-whole": case("only mode='wrap' takes fractions of a pixel", shifts=[(0.5, 0)]),
    "wrapped-shift-not-whole": case("shifts must be whole numbers of pixels: .*0.5", shifts=[(0.5, 0)], mode="wrap"),
    "shifts-of-one": case(PAIRS + r"\[1, 2\]", shifts=[1, 2]),
    "shifts-of-three": case(PAIRS + r"\[\(1, 2, 3\)\]", shifts=[(1, 2, 3)]),
    "shifts-of-text": case(PAIRS + "'ab'", shifts="ab"),
    "no-shifts": case("there must be at least one shift", shifts=[]),
    "images-elsewhere": case("images must be on the model's device: meta, cpu", images=CLOUDS.to("meta")),
    "model-elsewhere": case("images must be on the model's device: cpu, meta", lambda: chain().to("meta")),
    "nan-images": case(r"images must be finite: \d+ of 576", images=CLOUDS.where(CLOUDS > 0, math.nan)),
    "constant-images": case("images must not be constant", lambda: nn.Conv2d(3, 2, 3), SOLID_COLOURS),
    "identical-images": case("two different images, or one: 3 given, all the same", images=CLOUDS[[0, 0, 0]]),
    "no-images": case(r"at least one image and one pixel: shape \(0, 1, 12, 12\)", images=CLOUDS[:0]),
    "integer-images": case("images must be floating point.*int64", images=CLOUDS.long()),
    "half-images": case("of the model's type: torch.float16, torch.float32", images=CLOUDS.half()),
    "images-without-channels": case(r"n c h w.*shape \(4, 12, 12\)", images=CLOUDS[:, 0]),
    "other-type": case("of the model's type: torch.float64, torch.float32", images=CLOUDS.double()),
    "background-nan": case("background must be finite: nan", background=math.nan),
    "unknown-layer": case("no layer 'conv9': the model has 0", layers=["conv9"]),
    "layers-as-text": case("layers must be a list of names: '0'", layers="0"),
    "no-layers": case("no layer asked for: the model has 0", layers=[]),
    "second-name": case(
        "layer '1' is the same module as '0': ask for that",
        lambda: nn.Sequential(*[nn.Conv2d(1, 1, 3)] * 2),
        layers=["1"],
    ),
    "unused-layer": case("layer did not run, or returned no floating-point tensor: never", Unused, layers=["never"]),
    "layer-by-value": case("layer 'never' does not run on every batch", lambda: Unused(small=True)),
    "channels": case(FAILS + "RuntimeError: .*3 channels, but got 1", lambda: nn.Conv2d(3, 2, 3)),
    "size": case(FAILS + r"\w+: ", lab.LabModel),
    "raises": case(FAILS + "KeyError: ", lambda: chain(Function(lambda x: {}["first\nsecond"]))),
    "returns-nan": case("^1 returns NaN or an infinite value", lambda: chain(Function(torch.log))),
    "returns-inf": case("^1 returns NaN or an infinite value", lambda: chain(Function(lambda x: x / 0))),
    "unknown-mode": case("mode must be one of background, wrap: 'mirror'", mode="mirror"),
    "unknown-quantity": case(SOME + r"\['speed'\]", quantities=["speed"]),
    "quantity-as-text": case(SOME + "'sorting'", quantities="sorting"),
    "no-quantity": case(SOME + r"\[\]", quantities=[]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_line_and_the_model_is_as_it_was(name, unchecked):
    build, images, options, message = BAD[name]
    model = build()
    before = state(model)
    with pytest.raises(InputError, match=message) as caught:
        lab.meter(model, images, **({"shifts": [(1, 0)]} | options))
    assert "\n" not in str(caught.value)
    assert state(model) == before


@pytest.mark.parametrize("quantities", [["equivariance"], ["invariance"], ["equivariance", "invariance", "sorting"]])
def test_nan_for_translated_images_alone_is_found(quantities, clouds):
    def fragile(x):
        return torch.where((x[:, :, :2] == 0).all((1, 2, 3), keepdim=True), math.nan, x)

    model = nn.Sequential(nn.Identity(), Function(fragile))
    with pytest.raises(InputError, match=r"^1 returns NaN or an infinite value"):
        lab.meter(model, clouds, [(2, 0)], quantities=quantities)
    with pytest.raises(InputError, match=r"^1 returns NaN"):
        lab.assert_equivariant(model, clouds, layer="1", shifts=[(3, 0)])


def test_large_finite_activations_are_not_taken_for_infinite(clouds):
    """Their sum is."""
    (row,) = lab.meter(nn.Sequential(Function(lambda x: x.abs() * 1e37)), clouds, [(1, 0)]).rows
    assert row.observed == "exact"


# The model is as it was


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(2), nn.Dropout(0.5)], ids=["batch-norm", "dropout"])
def test_a_network_in_training_mode_is_measured_in_evaluation_mode_and_stays_in_training_mode(layer, clouds):
    model = chain(layer, nn.ReLU())
    evaluated = lab.meter(model, clouds, [(1, 0)])
    before = state(model.train())
    assert_alike(lab.meter(model, clouds, [(1, 0)]).rows, evaluated.rows)
    assert state(model) == before


class Delicate(nn.Module):
    """Everything that could be left changed, and a counter of its runs that can be told to raise."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular")
        self.norm = nn.BatchNorm2d(4).eval()
        self.act = nn.ReLU(inplace=True)
        self.mean = nn.Conv2d(4, 2, 1).requires_grad_(False)
        self.position = nn.Parameter(0.1 * torch.randn(1, 2, 16, 16))
        self.drop = nn.Dropout().eval()
        self.runs, self.raise_at, self.error = itertools.count(1), None, None

    def forward(self, x):
        run = next(self.runs)
        torch.rand(3)  # moves the random number generator on
        x = self.act(self.norm(self.conv(x)))
        if run == self.raise_at:
            raise self.error
        return self.drop(self.mean(x).roll(1, 2).softmax(1) + self.position)


def state(model):
    """All that a measurement must leave: objects by identity, numbers by their bits."""

    def bits(t):
        return (id(t), t.dtype, t.device, t.requires_grad, t.grad, None if t.is_meta else t.detach().numpy().tobytes())

    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")
    modules = {
        name: (id(module), type(module), module.training, [list(getattr(module, kind).items()) for kind in kinds])
        for name, module in model.named_modules(remove_duplicate=False)
    }
    tensors = {name: bits(t) for name, t in (*model.named_parameters(), *model.named_buffers())}
    return modules, tensors, torch.get_rng_state().numpy().tobytes(), torch.is_grad_enabled(), torch.get_default_dtype()


@pytest.fixture
def delicate():
    model = seeded(Delicate)
    model.act.train()  # a mode of its own
    model.conv.register_forward_hook(lambda *_: None)
    model.register_forward_pre_hook(lambda *_: None)
    return model


@pytest.mark.parametrize("mode", ["background", "wrap"])
def test_a_measurement_leaves_the_model_as_it_was(mode, delicate, clouds):
    before = state(delicate)
    report = lab.meter(delicate, clouds, [(1, 0)], mode=mode)
    assert state(delicate) == before
    assert [row.layer for row in report.rows] == ["conv", "norm", "act", "mean", "drop"]
    with pytest.raises(EquivarianceError):
        lab.assert_equivariant(delicate, clouds, layer="drop", shifts=[(1, 0)], mode=mode)
    assert state(delicate) == before


@pytest.mark.parametrize("error", [RuntimeError("first line\nsecond"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_whenever_the_model_raises_it_is_left_as_it_was(error, delicate, clouds):
    images, messages = clouds.clone(), []
    before = state(delicate), images.numpy().tobytes()
    for delicate.raise_at in itertools.count(1):
        delicate.runs, delicate.error = itertools.count(1), error
        try:
            lab.meter(delicate, images, [(1, 0), (0, 2)])
        except (InputError, KeyboardInterrupt) as caught:
            messages.append(str(caught))
        assert (state(delicate), images.numpy().tobytes()) == before
        if next(delicate.runs) <= delicate.raise_at:
            break  # it ran to the end
    assert len(messages) >= 6, "trace, trace of two images, the images, two translations, the blank image"
    if isinstance(error, RuntimeError):
        clear = r"the model fails on images of shape \(\d+, 1, 16, 16\): RuntimeError: first line"
        assert all(re.fullmatch(clear, message) for message in messages)


def test_images_may_ask_for_gradients(clouds):
    images = clouds.clone().requires_grad_()
    report = lab.meter(ring(), images, [(1, 0)])
    assert_alike(report.rows, lab.meter(ring(), clouds, [(1, 0)]).rows)
    assert images.grad is None
    assert images.requires_grad


# Seeds


def test_the_same_seed_gives_the_same_report(ink):
    model = seeded(lambda: lab.PooledCNN(padding=1))
    first, second = (json.dumps(lab.meter(model, ink, [(1, 0), (4, 4)], seed=3).to_dict()) for _ in range(2))
    assert first == second


def test_another_seed_changes_the_controls_and_no_equivariance_error(ink):
    model = seeded(lambda: lab.PooledCNN(padding=1))
    a, b = (lab.meter(model, ink, [(1, 0), (4, 4)], seed=seed) for seed in (0, 3))  # these pair four images otherwise
    for one, other in zip(a.rows, b.rows, strict=True):
        same = ("full", "interior", "border", "interior_share", "wrong_shift")
        assert repr([getattr(one, key) for key in same]) == repr([getattr(other, key) for key in same])
        if not math.isnan(one.unrelated):
            assert one.unrelated != other.unrelated
        assert one.invariance_unrelated != other.invariance_unrelated
        # the distance is the same, its scale is a mean over 20 other pairs
        assert one.invariance == pytest.approx(other.invariance, rel=0.2)
        assert (one.observed, one.theory) == (other.observed, other.theory)


# Networks of every kind


class Outputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.pair = Function(lambda x: (2 * x, {"sum": x.sum(1, keepdim=True), "count": x.sum(), "none": None}))

    def forward(self, x):
        double, parts = self.pair(self.conv(x))
        return double + parts["sum"]


def test_tuples_and_dictionaries_are_measured_part_by_part(clouds):
    report = lab.meter(seeded(Outputs), clouds, [(1, -2)])
    assert list(report.geometry) == ["conv", "pair[0]", "pair[1][sum]", ""], "a sum over the batch is no layer's answer"
    assert {row.observed for row in report.rows} == {"exact"}
    lab.assert_equivariant(seeded(Outputs), clouds, layer="pair", shifts=[(1, 0)])


@pytest.mark.parametrize("measure", [lab.meter, lab.activations], ids=["meter", "activations"])
def test_a_module_may_be_called_like_a_call_or_a_part_of_an_output(measure, clouds):
    convs = OrderedDict({"bn[4]": nn.Conv2d(1, 2, 3), "c#1": nn.Conv2d(2, 2, 3)})
    model = seeded(lambda: nn.Sequential(convs))
    for layers in (None, ["bn[4]", "c#1"], ["c#1"]):
        found = measure(model, clouds, layers=layers)
        assert list(found if measure is lab.activations else found.geometry) == (layers or ["bn[4]", "c#1"])


class Reused(nn.Module):
    def __init__(self, *, inplace):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.relu = nn.ReLU(inplace=inplace)

    def forward(self, x):
        return self.relu(self.conv(self.relu(self.conv(x))))


def test_each_call_of_a_reused_module_is_measured_and_in_place_operations_change_nothing(clouds):
    reports = [lab.meter(seeded(lambda i=inplace: Reused(inplace=i)), clouds, [(-1, 0)]) for inplace in (False, True)]
    assert list(reports[0].geometry) == ["conv", "relu", "conv#2", "relu#2"]
    assert [axis.y.receptive_field for axis in (reports[0].geometry[name].grid for name in ("conv", "conv#2"))] == [
        3,
        5,
    ]
    assert_alike(*(report.rows for report in reports))
    assert reports[0].of("conv")[0].full != reports[0].of("relu")[0].full


def test_tied_weights_stay_tied(clouds):
    model = ring(nn.Conv2d(4, 4, 3, bias=False), nn.Conv2d(4, 4, 3, bias=False), nn.AdaptiveAvgPool2d(1))
    model[2].weight = model[1].weight
    report = lab.meter(model, clouds, [(1, 0)])
    assert model[2].weight is model[1].weight
    assert {row.observed for row in report.rows[:3]} == {"exact"}


@pytest.mark.parametrize("channels", [1, 3])
def test_images_and_strides_need_not_be_square(channels):
    images = fractal_images(4, (20, 33), channels=channels)
    conv = nn.Conv2d(channels, 4, (3, 5), stride=(1, 3), padding=(1, 0))
    model = seeded(lambda: nn.Sequential(conv, nn.ReLU(inplace=True), nn.MaxPool2d((2, 1))))
    report = lab.meter(model, images, [(-2, 3), (1, 3), (2, 1)])
    observed = {(row.layer, row.dy, row.dx): row.observed for row in report.rows}
    broken = {("0", 2, 1), ("1", 2, 1), ("2", 2, 1), ("2", 1, 3)}
    assert {key for key, value in observed.items() if value == "not exact"} == broken
    assert set(observed.values()) == {"exact", "not exact"}
    assert not report.disagreements
    assert report.off_period("2").shape == (2, 3)
    assert min(row.error for row in report.rows if row.observed == "not exact") > 0.05


def test_a_network_without_submodules_is_measured_as_a_whole(clouds):
    report = lab.meter(Function(lambda x: F.avg_pool2d(x, 2)), clouds, [(2, 0), (1, 0)])
    assert [(row.layer, row.observed) for row in report.rows] == [("", "exact"), ("", "not exact")]
    assert "(output)" in printed(report, 100)
    with pytest.raises(EquivarianceError, match="the output is not equivariant"):
        lab.assert_equivariant(Function(lambda x: F.avg_pool2d(x, 2)), clouds, layer="", shifts=[(1, 0)])


def test_buffers_may_be_of_another_type_than_the_images(clouds):
    model = ring(nn.BatchNorm2d(4))
    model.register_buffer("scale", torch.tensor(0.5, dtype=torch.float64))
    assert {row.observed for row in lab.meter(model, clouds, [(1, 0)]).rows} == {"exact"}


def test_in_float64_the_tolerance_is_float64s(clouds):
    broken = ring(Function(lambda x: x + 1e-9 * pattern(x))).double()
    rows = lab.meter(broken, clouds.double(), [(3, 2)], mode="wrap").rows
    assert [row.observed for row in rows] == ["exact", "not exact"]
    assert rows[1].in_float64 is None


def test_shifts_may_be_a_tensor_and_are_taken_once(clouds, unchecked):
    report = lab.meter(ring(), clouds, torch.tensor([[1, 0], [0, -2], [1, 0]]))
    assert report.settings["shifts"] == [[1, 0], [0, -2]]
    json.dumps(report.to_dict())


def test_without_shifts_they_double_up_to_a_quarter_of_the_image(clouds):
    assert lab.meter(ring(), clouds).settings["shifts"] == [[1, -1], [2, -2], [4, -4]]


def test_blocks_are_measured_when_asked_for(clouds):
    model = nn.Sequential(ring(nn.ReLU()), nn.Flatten())
    assert list(lab.meter(model, clouds, [(1, 0)]).geometry) == ["0.0", "0.1", "1"]
    (row,) = lab.meter(model, clouds, [(1, 0)], layers=["0"]).rows
    assert (row.layer, row.observed) == ("0", "exact")


def test_where_no_output_is_free_of_the_border_there_still_are_errors_of_the_full_frame(clouds):
    report = lab.meter(seeded(lambda: nn.Conv2d(1, 1, 17, padding=8)), clouds, [(1, 2)])
    (row,) = report.rows
    assert (row.theory, row.observed) == ("untestable", "not exact")
    assert row.error == row.full > 0.01
    assert any("no output is free of the border at any shift" in note for note in report.notes)


def test_a_single_image_has_errors_but_no_controls(clouds):
    report = lab.meter(seeded(lambda: lab.PooledCNN(padding=1)), F.pad(clouds[:1], (6, 6, 6, 6)), [(4, 0)])
    row = report.of("conv1")[0]
    assert (row.theory, row.observed, row.agrees) == ("exact", "exact", True)
    assert math.isnan(row.unrelated)
    assert report.of("fc1")[0].observed == "nothing"


def test_a_model_with_several_inputs_is_measured_through_a_function_of_the_image(clouds):
    class Timed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.embed = nn.Conv2d(1, 4, 3), nn.Linear(1, 4)

        def forward(self, x, time):
            return self.conv(x) + self.embed(time)[:, :, None, None]

    model, time = seeded(Timed), torch.ones(1, 1)
    with pytest.raises(InputError, match="missing 1 required positional argument: 'time'"):
        lab.meter(model, clouds, [(1, 2)])
    for images in (clouds, clouds.double()):
        report = lab.meter(model.to(images.dtype), images, [(1, 2)], forward=lambda x: model(x, time.to(x.dtype)))
        assert [(row.layer, row.theory, row.observed) for row in report.rows if row.layer != "embed"] == [
            ("conv", "exact", "exact"),
            ("", "exact", "exact"),
        ]


def test_where_there_are_class_scores_the_report_tells_how_often_the_class_stays(clouds):
    model = seeded(lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 14 * 14, 5)))
    report = lab.meter(model, clouds, [(1, 0), (-3, 2)])
    with torch.no_grad():
        a, *moved = (model(lab.shift(clouds, *t)) for t in [(0, 0), (1, 0), (-3, 2)])
    for one, b in zip(report.classes, moved, strict=True):
        assert (one.consistency, one.kappa) == (lab.consistency(a, b), lab.cohen_kappa(a, b))
    assert "The predicted class stays at shift (1, 0) " in printed(report, 160)
    assert lab.meter(ring(), clouds, [(1, 0)]).classes == ()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_judged_by_its_own_rounding(dtype, clouds):
    model = seeded(lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2))).to(dtype)
    rows = lab.meter(model, clouds.to(dtype), [(2, -4), (1, 0)]).rows
    assert [(row.theory, row.observed) for row in rows[::2]] == [("exact", "exact")] * 3
    assert (rows[-1].theory, rows[-1].observed) == ("broken", "not exact")


def test_an_error_of_the_lab_itself_in_float64_is_not_taken_for_the_models(monkeypatch):
    measure = instrument.measure_layers

    def faulty(task):
        if task.images.dtype == torch.float64:
            raise RuntimeError("of the lab")
        return measure(task)

    monkeypatch.setattr(instrument, "measure_layers", faulty)
    ramp = torch.linspace(0, 1e-4, 14)  # broken by little, so that it may be rounding
    net = nn.Sequential(nn.Conv2d(1, 2, 3), Function(lambda x: x + ramp))
    with pytest.raises(RuntimeError, match="of the lab"):
        lab.meter(net, torch.rand(4, 1, 16, 16), [(0, 1)])
