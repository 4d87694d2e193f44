"""The meter's numbers against slow, direct computations; how parts and batches add up; exactness on real networks."""

import math
import sys
from collections import Counter, OrderedDict
from itertools import compress, product
from unittest.mock import ANY

import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.pooling import _AvgPoolNd, _MaxPoolNd
from torchvision.models.convnext import CNBlockConfig

import lab
from lab.data import BACKGROUND
from lab.errors import InputError
from lab.metering.inputs import fractal_images
from lab.metering.measuring import Task, takes_channels_last
from lab.metering.receptive_fields import trace
from lab.metrics import TIE, Comparison, derangement, sort_positions

FLOAT64 = {"rel": 1e-9, "abs": 1e-12}  # 1e4 terms * 1e-16, and room for the cancellation in f(T x) − T f(x)


def assert_alike(rows, others):
    """The same rows, but for sums in another order."""
    for row, other in zip(rows, others, strict=True):
        for name, value in vars(row).items():
            same = pytest.approx(value, rel=1e-5, nan_ok=True) if isinstance(value, float) else value
            assert getattr(other, name) == same, name


def couples(axis, move: int, wrap: bool, still: bool) -> list[tuple[int, int, bool]]:
    """Position of the translated image's map, that of the image's map, and whether both windows lie in the image."""

    def inside(j):
        if still or axis.receptive_field is None:
            return still
        begin = axis.step * j + axis.offset
        return begin >= 0 and begin + axis.receptive_field <= axis.size

    ring = wrap and axis.step * axis.outputs == axis.size
    found = []
    for j in range(axis.outputs):
        i = (j - move) % axis.outputs if ring else j - move
        if 0 <= i < axis.outputs:
            found.append((j, i, (ring and axis.circular) or (inside(j) and inside(i))))
    return found


def aligned(a, b, grid, move, t, wrap):
    """T f(x) and f(T x), `n c p`, and which of the p positions are free of the border; None if there are none."""
    y, x = (couples(axis, m, wrap, not p) for axis, m, p in zip((grid.y, grid.x), move, t, strict=True))
    if not y or not x:
        return None
    (j_y, i_y, free_y), (j_x, i_x, free_x) = (list(zip(*one, strict=True)) for one in (y, x))
    first, second = a, b
    free = torch.tensor(free_y)[:, None] & torch.tensor(free_x)
    return first[:, :, i_y][..., i_x].flatten(2), second[:, :, j_y][..., j_x].flatten(2), free.flatten()


def pooled(cases) -> float:
    """‖f(T x) − T f(x)‖ / ‖T f(x)‖ of all images together; nan where there is nothing."""
    cases = [(expected.flatten(), found.flatten()) for expected, found in cases]
    expected, found = (torch.cat(parts) for parts in zip(*cases, strict=True)) if cases else [torch.zeros(0)] * 2
    return ((found - expected).norm() / expected.norm()).item()


def best(a, b, grid, moves, t, wrap):
    """For each image T f(x), f(T x) and what is free, of the first move with the smallest error on its interior."""
    candidates = [c for move in moves if (c := aligned(a, b, grid, move, t, wrap))]
    candidates = [c for c in candidates if c[2].any()] or candidates

    def error(case):
        value = pooled([judged(case)])
        return 0.0 if math.isnan(value) else value

    def first_best(cases):
        errors = [*map(error, cases)]
        return next(case for case, one in zip(cases, errors, strict=True) if one <= (1 + TIE) * min(errors))

    images = [[(e[i], f[i], free) for e, f, free in candidates] for i in range(len(a))]
    return [first_best(cases) for cases in images if cases]


def judged(case):
    """Only the interior, if there is one."""
    expected, found, free = case
    where = free if free.any() else ~free
    return expected[..., where], found[..., where]


def right_moves(grid, t):
    axes = (grid.y, t[0]), (grid.x, t[1])
    return [sorted({math.floor(pixels / axis.step), math.ceil(pixels / axis.step)}) for axis, pixels in axes]


def wrong_move(grid, t):
    """The whole move next to the right ones, nearer to none at all, along the axes that the shift is along."""
    moves = right_moves(grid, t)
    return [m[0] - 1 if p > 0 else m[-1] + 1 if p < 0 or not any(t) else m[0] for m, p in zip(moves, t, strict=True)]


def equivariance(batches, grid, t, wrap) -> dict[str, float]:
    """What a row says of equivariance, from f(x) and f(T x) of each batch."""
    moves = list(product(*right_moves(grid, t)))
    cases = [case for a, b in batches for case in best(a, b, grid, moves, t, wrap)]
    unrelated = [case for a, b in few(batches) for case in best(a[other(a)], b, grid, moves, t, wrap)]
    wrong = [case for a, b in few(batches) for case in best(a, b, grid, [wrong_move(grid, t)], t, wrap)]
    errors = torch.tensor([pooled([judged(case)]) for case in cases], dtype=torch.float64)
    interior = [(expected[..., free], found[..., free]) for expected, found, free in cases]
    energy = [sum(part[0].square().sum().item() for part in parts) for parts in (interior, cases)]
    return {
        "error": pooled(map(judged, cases)),
        "worst": errors.max().item(),
        "worst_image": which(errors),
        "full": pooled((expected, found) for expected, found, _ in cases),
        "interior": pooled(interior),
        "border": pooled((expected[..., ~free], found[..., ~free]) for expected, found, free in cases),
        "interior_share": energy[0] / energy[1],
        "wrong_shift": pooled(map(judged, wrong)),
        "unrelated": pooled(map(judged, unrelated)),
    }


def distances(batches, some, chosen=None):
    """‖f(T x) − f(x)‖ of all, and ‖f(T x) − f(x')‖ of some, each over the mean ‖f(x) − f(x')‖ of its batch."""

    def far(a, b):
        return torch.linalg.vector_norm((a - b).flatten(1), dim=1)

    scales = [far(a, a[other(a, seed=0)]).mean() for a, _ in batches]
    near = [(far(a, b), scale) for (a, b), scale in zip(batches, scales, strict=True)]
    theirs = compress(scales, chosen or [True] * len(batches))
    return near, [(far(a[other(a)], b), scale) for (a, b), scale in zip(some, theirs, strict=True)]


def mean_of(parts) -> float:
    """Mean distance over mean scale, an image counting as much as another."""
    scales = torch.cat([scale.expand(len(distances)) for distances, scale in parts])
    return (torch.cat([distances for distances, _ in parts]).mean() / scales.mean()).item()


def twin(batches, grid, t, wrap) -> dict[str, float]:
    """Every number of a row, slowly."""
    sort = sort_positions if grid else (lambda a: a)
    ordered = [(sort(a), sort(b)) for a, b in few(batches)]
    near, far = distances(batches, few(batches), controls(batches))
    sorted_near, sorted_far = distances(ordered, ordered)
    each = torch.cat([distances / scale for distances, scale in near])
    row = {"error": mean_of(near), "worst": each.max().item(), "worst_image": which(each)}
    if grid:
        row = equivariance(batches, grid, t, wrap)
    names = ("invariance", "invariance_unrelated", "sorting", "sorting_unrelated")
    means = [mean_of(parts) for parts in (near, far, sorted_near, sorted_far)]
    return row | dict(zip(names, means, strict=True))


def which(errors):
    """The worst image; any, where the errors are rounding."""
    return int(errors.argmax()) if errors.max() > 1e-9 else ANY


def few(batches):
    """Controls and sorted activations are taken of a quarter of the first batches, until there are enough."""
    return [(a[:n], b[:n]) for (a, b), n in zip(batches, controls(batches), strict=True) if n]


def controls(batches):
    """Of each batch, of how many images."""
    n = sum(len(a) for a, _ in batches)
    wanted = max(2, min(n // 4, 4), n // 16)
    counts = [min(max(2, len(a) // 4), wanted) for a, _ in batches]
    return [count if sum(counts[:i]) < wanted else 0 for i, count in enumerate(counts)]


def other(a, seed=1):
    return derangement(len(a), seed=seed)


def narrow(**padding):
    """The layers of `lab.PooledCNN`, a tenth as wide: the twin is slow, and no number depends on the width."""
    layers = OrderedDict(conv1=nn.Conv2d(1, 3, 3, **padding), relu1=nn.ReLU(), pool1=nn.MaxPool2d(2))
    layers |= OrderedDict(conv2=nn.Conv2d(3, 4, 3, **padding), relu2=nn.ReLU(), pool2=nn.MaxPool2d(2))
    layers |= OrderedDict(flat=nn.Flatten(), fc1=nn.Linear(4 * (49 if padding else 25), 8), relu3=nn.ReLU())
    return nn.Sequential(layers | OrderedDict(fc2=nn.Linear(8, 10)))


MODELS = {
    "given": lab.LabModel,
    "pooled": narrow,
    "pooled-padded": lambda: narrow(padding=1),
    "pooled-ring": lambda: narrow(padding=1, padding_mode="circular"),
}
SHIFTS = [(1, 0), (-3, 2), (4, -4), (0, -8), (0, 0)]  # on and off strides of 2 and 4


def seeded(build):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build().eval()


@pytest.fixture(scope="module")
def images(digits):
    return lab.normalize(digits.images[:8])


def parts_of(images, parts, model, layer, t, mode, background=BACKGROUND):
    moved = lab.shift(images, *t, mode=mode, background=background)
    a, b = (lab.activations(model, x, [layer])[layer] for x in (images, moved))
    return list(zip(a.tensor_split(parts), b.tensor_split(parts), strict=True))


@pytest.mark.parametrize(("mode", "parts"), [("background", 1), ("background", 3), ("wrap", 3)], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_every_number_of_a_row_equals_its_slow_twin(name, mode, parts, images, monkeypatch):
    model, images = seeded(MODELS[name]).double(), images.double()
    monkeypatch.setattr("lab.metering.measuring.LARGEST_BATCH", -(-len(images) // parts))
    layers = ["conv1", "fc1"] if name == "given" else ["conv1", "pool1", "conv2", "pool2", "fc2"]
    report = lab.meter(model, images, SHIFTS, mode=mode, background=BACKGROUND, layers=layers)
    compared = set()
    for row in report.rows:
        t, grid = (row.dy, row.dx), report.geometry[row.layer].grid
        expected = twin(parts_of(images, parts, model, row.layer, t, mode), grid, t, mode == "wrap")
        found = {key: getattr(row, key) for key in expected}
        assert found.pop("worst_image") == expected.pop("worst_image"), (row.layer, t)
        assert found == pytest.approx(expected, nan_ok=True, **FLOAT64), (row.layer, t)
        compared |= {key for key, value in expected.items() if value > 0.01}
    shown = {
        "interior_share",
        "wrong_shift",
        "unrelated",
        "invariance",
        "invariance_unrelated",
        "sorting",
        "sorting_unrelated",
    }
    shown |= {"error", "worst", "full", "interior"} if name != "given" else {"error"}  # off stride; of fc1
    shown |= {"border"} if "-" in name and (name, mode) != ("pooled-ring", "wrap") else set()
    assert shown <= compared, "these were all 0 or nan: nothing was compared"


@pytest.mark.parametrize(("n", "few"), [(8, 2), (15, 3), (16, 4), (64, 4), (80, 5), (200, 12)])
def test_controls_are_taken_of_a_quarter_of_few_images_and_a_sixteenth_of_many(n, few, monkeypatch):
    taken = []

    def spy(outputs, *args, **options):
        found = Comparison(outputs, *args, **options)
        taken.append(found.few)
        return found

    monkeypatch.setattr("lab.metering.measuring.Comparison", spy)
    monkeypatch.setattr("lab.metering.measuring.LARGEST_BATCH", n)
    images = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    lab.meter(torch.nn.Conv2d(1, 1, 3), images, [(1, 0)])
    assert taken[0] == few
    assert taken[0] == max(2, n // 4 if n <= 16 else 4 if n <= 64 else n // 16), "as the docstring of `meter` says"


class Fickle(nn.Module):
    """A network whose second layer runs only on images that `chosen` says."""

    def __init__(self, chosen):
        super().__init__()
        self.first, self.second, self.chosen = nn.Conv2d(1, 2, 3), nn.Conv2d(1, 2, 5), chosen

    def forward(self, x):
        return (self.first(x), self.second(x)) if self.chosen(x) else (self.first(x), None)


@pytest.mark.parametrize(
    "chosen",
    [lambda x: x[0, 0, 0, 0] == 0, lambda x: x[0, 0, 4, 4] == 1],
    ids=["of some batches", "under some shifts"],
)
def test_a_layer_that_runs_on_a_part_of_the_images_only_is_refused(chosen, monkeypatch):
    """What it did on the rest would look like an error over all images."""
    monkeypatch.setattr("lab.metering.measuring.LARGEST_BATCH", 2)
    images = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    images[:, :, :1] = 0
    images[4:, :, :1] = 0.5  # the last batch
    images[:, 0, 4, 4] = 1
    with pytest.raises(InputError, match="second' does not run on every batch"):
        lab.meter(Fickle(chosen), images, [(0, -1)], layers=["first", "second"])
    everywhere = lab.meter(Fickle(lambda _: True), images, [(0, -1)], layers=["first", "second"])
    assert [row.observed for row in everywhere.rows] == ["exact", "exact"]


def test_in_float32_the_numbers_equal_the_twins_up_to_rounding(images):
    model = seeded(MODELS["pooled-padded"])
    report = lab.meter(model, images, SHIFTS[:3], background=BACKGROUND, layers=["conv1", "pool2", "fc1"])
    for row in report.rows:
        t, grid = (row.dy, row.dx), report.geometry[row.layer].grid
        batches = parts_of(images.double(), 1, seeded(MODELS["pooled-padded"]).double(), row.layer, t, "background")
        expected = twin(batches, grid, t, wrap=False)
        assert row.worst_image == expected.pop("worst_image")
        # pool2's and fc1's values: up to 800 terms * 6e-8, relative to the sum of their absolute values
        assert {key: getattr(row, key) for key in expected} == pytest.approx(expected, rel=1e-4, abs=5e-5, nan_ok=True)


def test_invariance_and_sorting_are_those_of_the_metrics(images):
    model, images = seeded(MODELS["pooled"]).double(), images.double()
    for row in lab.meter(model, images, [(2, -1)], background=BACKGROUND, layers=["conv2", "fc2"]).rows:
        ((a, b),) = batches = parts_of(images, 1, model, row.layer, (2, -1), "background")
        assert row.invariance == pytest.approx(lab.invariance_error(a, b).mean().item(), **FLOAT64)
        ((a, b),) = few(batches)
        assert row.sorting == pytest.approx(lab.sorted_distance(a, b).mean().item(), **FLOAT64)
        assert min(row.invariance, row.sorting) > 0.01


def test_the_control_of_invariance_is_of_other_pairs_than_its_scale():
    """Else it would be 1, whatever a layer does."""
    a = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    control = Comparison(a, None).errors(a, (0, 0)).invariance_unrelated
    assert 0.5 < control.overall < 2
    assert control.overall != pytest.approx(1, rel=1e-6)


SUMMED = (
    "error",
    "worst",
    "full",
    "interior",
    "border",
    "interior_share",
)  # over all images; the others are of samples
BATCHES = 1e-5  # activations of other batch sizes: 144 terms * 6e-8; squares of 32 channels: 33 * 6e-8


@pytest.mark.parametrize("limit", ["LARGEST_BATCH", "MEMORY"])
def test_batches_make_no_difference_but_rounding(limit, digits, monkeypatch):
    model, images = seeded(MODELS["pooled-padded"]), lab.normalize(digits.images[:15])
    asked = {"background": BACKGROUND, "layers": ["conv1", "conv2", "pool2"], "shifts": [(-1, 0), (2, -2)]}
    fewer = lab.meter(model, images[:10], **asked)
    batches = []
    model.register_forward_pre_hook(lambda _module, inputs: batches.append(len(inputs[0])))
    whole, seen = lab.meter(model, images, **asked), Counter(batches)
    monkeypatch.setattr(f"lab.metering.measuring.{limit}", 1)
    parts, seen_in_parts = lab.meter(model, images, **asked), Counter(batches[seen.total() :])
    assert seen_in_parts - seen == {2: 18, 3: 3}, "as they are and twice shifted; a single image has no unrelated one"
    for a, b in zip(whole.rows, parts.rows, strict=True):
        numbers = [getattr(a, key) for key in SUMMED], [getattr(b, key) for key in SUMMED]
        assert numbers[0] == pytest.approx(numbers[1], rel=BATCHES, abs=BATCHES, nan_ok=True)
        assert a.worst_image == b.worst_image or a.worst < BATCHES
        assert a.invariance == pytest.approx(b.invariance, rel=0.5), "the pairs of unrelated images are others"
    unlike = [abs(a.full - b.full) for a, b in zip(whole.rows, fewer.rows, strict=True)]
    assert max(unlike) > 100 * BATCHES, "images that were left out must show"


# The split


@st.composite
def networks(draw):
    """Convolutions with every kind of window, padded or not, and maybe a pooling layer."""
    layers, channels = [], 1
    for _ in range(draw(st.integers(1, 3))):
        kernel, stride = draw(st.integers(1, 4)), draw(st.integers(1, 2))
        if draw(st.booleans()):
            padding, dilation = draw(st.integers(0, 3)), draw(st.integers(1, 2))
            ring = {"padding_mode": draw(st.sampled_from(["zeros", "circular", "reflect"]))}
            layers.append(nn.Conv2d(channels, 2, kernel, stride, padding, dilation, **ring))
            channels = 2
        else:
            pool = draw(st.sampled_from([nn.MaxPool2d, nn.AvgPool2d]))
            layers.append(pool(kernel, stride, padding=draw(st.integers(0, kernel // 2))))
    return nn.Sequential(*layers)


def recombined(row):
    """full² = w · interior² + (1 − w) · border², where a part without weight has no error."""
    interior = row.interior_share * row.interior**2 if row.interior_share > 0 else 0.0
    border = (1 - row.interior_share) * row.border**2 if row.interior_share < 1 else 0.0
    return math.sqrt(interior + border)


@settings(max_examples=40, suppress_health_check=[HealthCheck.filter_too_much])
@given(
    networks(),
    st.tuples(st.integers(8, 16), st.integers(8, 16)),
    st.tuples(st.integers(-4, 4), st.integers(-4, 4)),
    st.sampled_from(["background", "wrap"]),
)
def test_interior_and_border_recombine_to_the_full_frame(model, size, t, mode):
    images = fractal_images(3, size, channels=1).double()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for layer in model:
            if isinstance(layer, nn.Conv2d):
                layer.reset_parameters()
    try:
        report = lab.meter(model.double().eval(), images, [t], mode=mode)
    except InputError as error:
        assume(not any(rule in str(error) for rule in ("no output of any layer", "keeps positions", "the model fails")))
        raise
    for row in report.rows:
        grid = report.geometry[row.layer].grid
        if grid is None or grid.step is None or math.isnan(row.full):
            continue
        assert row.full == pytest.approx(recombined(row), **FLOAT64)
        batches = parts_of(images, 1, model, row.layer, t, mode, background=0.0)
        expected = equivariance(batches, grid, t, mode == "wrap")
        for key in ("full", "interior", "border", "interior_share"):
            assert getattr(row, key) == pytest.approx(expected[key], nan_ok=True, **FLOAT64), key


def test_of_moves_that_fit_alike_the_first_is_taken():
    """Each map is constant and fits wherever it is moved; rounding would choose another move for some images."""
    columns = 1 + torch.rand(64, 1, 1, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    images, model = columns.repeat(1, 1, 10, 5), nn.MaxPool2d(1, stride=2)
    (row,) = lab.meter(model, images, [(0, -1)], mode="background").rows
    ((before, after),) = parts_of(images, 1, model, "", (0, -1), "background")
    assert row.full == pytest.approx(pooled([(before, after)]), **FLOAT64)


def test_the_split_adds_up_by_its_weight_alone(images):
    model = seeded(lambda: lab.PooledCNN(padding=1))
    report = lab.meter(model, images, [(-4, -4)], background=BACKGROUND, layers=["conv2"])
    (row,) = report.rows
    # 784 positions, summed in float64 from the same squares
    assert row.full == pytest.approx(recombined(row), rel=1e-12)
    assert row.interior == 0 < row.border
    assert row.full**2 == pytest.approx((1 - row.interior_share) * row.border**2)
    assert abs(row.full**2 - row.interior_share * row.border**2) > 0.01, (
        "the weights are those of the energy, not swapped"
    )


def test_a_border_without_any_activation_has_no_error():
    """Computed as full frame less interior, 1e-16 over 1e-16 would stand where there is nothing."""
    model = seeded(lambda: nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.AvgPool2d(2))).double()
    images = F.pad(fractal_images(6, (17, 17), channels=1).double(), (7, 8, 7, 8))
    for row in lab.meter(model, images, [(1, 1), (-1, -3)], layers=["1"]).rows:
        assert row.interior > 0.1
        assert math.isnan(row.border)
        assert row.interior_share == 1


# Null models


@pytest.mark.parametrize("t", [(1, 0), (-1, 0), (0, 3), (0, -3), (1, -1)], ids=str)
def test_off_stride_the_wrong_shift_is_none_of_the_right_ones(t, images):
    """Of the two whole moves next to -1 px on a grid of 4 px, 0 is the better one: as a null model it would be none."""
    ring = seeded(lambda: nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, padding_mode="circular"), nn.AvgPool2d(4)))
    (row,) = lab.meter(ring, images, [t], mode="wrap", layers=["1"]).rows
    assert row.wrong_shift > 1.5 * row.error


def test_the_wrong_shift_is_along_the_shift(images):
    """Stripes look the same one row further down: only a null model along the columns shows that the shift was one."""
    stripes = images[:, :, 14:15].expand(-1, -1, 28, -1).contiguous()
    model = seeded(lambda: nn.Conv2d(1, 4, 3))
    across, along = lab.meter(model, stripes, [(0, 1), (1, 0)], mode="wrap").rows
    assert across.wrong_shift > 0.1
    assert across.observed == "exact"
    assert along.wrong_shift < 1e-5
    assert along.observed == "degenerate"


# Numbers of every size


def test_an_image_without_activations_has_an_infinite_error_where_its_translation_has_some():
    images = fractal_images(6, (12, 12), channels=1)
    images[4, :, ::2] = 0  # what is left lies between the rows that a stride of 2 sees
    model = nn.MaxPool2d(1, stride=2)
    (row,) = lab.meter(model, images, [(1, 0)], mode="wrap").rows
    assert (row.worst, row.worst_image) == (math.inf, 4)
    assert 0.1 < row.error < 10
    assert row.observed == "not exact"
    (row,) = lab.meter(
        model, images[[4, 4, 4]] * torch.tensor([1.0, 2, 3])[:, None, None, None], [(1, 0)], mode="wrap"
    ).rows
    assert (row.error, row.observed) == (math.inf, "not exact"), "f(x) is the same for all, but not f(T x)"


def test_a_shift_beyond_the_map_leaves_nothing_to_compare_and_hurts_nobody():
    """59 px are 7 and 8 steps of 8 px, and the map has 7 rows."""
    images = fractal_images(4, (60, 60), channels=1)
    near, far = lab.meter(nn.Conv2d(1, 2, 8, stride=8), images, [(8, 0), (59, 0)]).rows
    assert (near.observed, far.observed) == ("exact", "nothing")
    assert all(math.isnan(value) for value in (far.error, far.worst, far.full, far.interior, far.border, far.unrelated))
    assert far.worst_image == -1
    assert far.invariance > 0.1


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e36], ids=str)
def test_errors_do_not_depend_on_the_unit_of_the_activations(scale, images):
    """Squares of these do not fit float32."""
    model = seeded(lambda: nn.Conv2d(1, 2, 3, padding=1))
    scaled = seeded(lambda: nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), Scale(scale)))
    (one,) = lab.meter(model, images, [(-1, 0)], background=BACKGROUND).rows
    (other,) = lab.meter(scaled, images, [(-1, 0)], background=BACKGROUND, layers=["1"]).rows
    assert one.full > 0.05
    # 1e4 terms in float32, of which torch adds hundreds at a time: 1e-6
    numbers = ("full", "interior", "border", "interior_share", "wrong_shift", "unrelated", "invariance", "sorting")
    expected = [getattr(one, key) for key in numbers]
    assert [getattr(other, key) for key in numbers] == pytest.approx(expected, rel=1e-5)
    assert other.observed == one.observed == "exact"


class Scale(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


# Exactness on real networks, untrained


def convnext():
    """Of the first stages of ConvNeXt-T, with a quarter of the channels: later ones have no interior at this size."""
    return torchvision.models.ConvNeXt([CNBlockConfig(24, 48, 3), CNBlockConfig(48, 96, 3)], num_classes=10)


def vit():
    return torchvision.models.VisionTransformer(64, 16, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64)


NETWORKS = {  # how to make it, its images' size, a shift, and how many layers of these kinds have an interior for it
    "resnet18": (torchvision.models.resnet18, 96, 16, 24),
    "mobilenet_v3_small": (torchvision.models.mobilenet_v3_small, 64, 4, 6),
    "convnext": (convnext, 64, 4, 5),
    "vit": (vit, 64, 16, 1),
}
UNPADDED = ("features.0.0", "conv_proj")  # of convnext and vit: patches side by side, so that there is no border
KINDS = (_ConvNd, _BatchNorm, _MaxPoolNd, _AvgPoolNd, nn.ReLU, nn.GELU, nn.Hardswish)
EXACT = {torch.float32: 1e-6, torch.float64: 1e-12}  # what the project promises


@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_on_torchvisions_networks_the_interior_is_exact_on_the_stride_and_nothing_else_is(name, dtype):
    make, size, step, layers = NETWORKS[name]
    model = seeded(make).to(dtype)
    images = fractal_images(2, (size, size)).to(dtype)
    local = [key for key, layer in trace(model, images[:1]).items() if layer.grid and layer.grid.y.interior]
    local = [key for key in local if isinstance(model.get_submodule(key.partition("#")[0]), KINDS)]
    asked = {"layers": sorted({key.partition("#")[0] for key in local}), "quantities": ["equivariance"]}
    report = lab.meter(model, images, [(-step, -step), (1, 1)], **asked)
    assert not report.disagreements

    rows = [row for row in report.rows if not math.isnan(row.interior)]
    on = [row for row in rows if row.dy < 0 and all(step % s == 0 for s in report.geometry[row.layer].grid.period)]
    assert len(on) == layers
    assert {row.theory for row in on} == {"exact"}
    assert max(row.interior for row in on) <= EXACT[dtype]
    assert min(row.wrong_shift for row in on) > 0.1  # 0.4 seen
    borders = [row.border for row in on if row.layer not in UNPADDED or name in ("resnet18", "mobilenet_v3_small")]
    assert min(borders, default=1) > 1e-3
    off = [row.interior for row in rows if row.dy == 1]
    assert len(off) >= layers
    assert min(off) > 1e-2


# How images lie in memory


class Flattened(nn.Module):
    """`view` wants positions side by side."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4 * 14 * 14, 2)

    def forward(self, x):
        a = self.conv(x)
        return self.fc(a.view(len(a), -1))


class TakesStridesForGranted(nn.Module):
    """Reads memory as if positions lay side by side, whatever the strides say."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(torch.as_strided(x, x.shape, (3 * 16 * 16, 16 * 16, 16, 1)))


@pytest.mark.parametrize(
    ("build", "taken"),
    [
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 49, 2)), True),
        (Flattened, False),
        (TakesStridesForGranted, False),
    ],
    ids=["convolution", "view", "as_strided"],
)
def test_channels_lie_last_only_for_networks_that_return_the_same(build, taken, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(sys.modules["lab.metering.measuring"], "MANY", 0)  # else so few are not looked at
    model, images = build().eval(), fractal_images(4, (16, 16))
    geometry = trace(model, images[:1])
    options = {"mode": "wrap", "background": 0.0, "quantities": ["invariance"], "seed": 0, "controls": 2}
    assert takes_channels_last(Task(model, model, images, [], geometry, **options)) is taken
    found = lab.meter(model, images, [(2, 0), (1, 1)]).rows
    monkeypatch.setattr(sys.modules["lab.metering.instrument"], "takes_channels_last", lambda *_: False)
    assert_alike(found, lab.meter(model, images, [(2, 0), (1, 1)]).rows)
