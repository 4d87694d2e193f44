"""What theory predicts, row by row of its table: the smallest network that has it, measured, and one that lacks it."""

import math
import random
import re
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from layers import Function
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import lab
from lab.metering.inputs import fractal_images
from lab.metering.operations import tied_share
from lab.metering.receptive_fields import trace
from lab.metering.theory import expect

EXACT = {torch.float32: 1e-6, torch.float64: 1e-12}  # sums of at most 100 products, at 6e-8 or 1e-16 each, relative
CLEAR = 0.02  # a control's error: 20,000 × EXACT in float32; about 1 would be another image
ON, OFF = (4, -8), (1, 3)  # shifts that strides of 1, 2 and 4 divide, and that 2 and 4 do not


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield


@pytest.fixture(scope="module")
def clouds():
    """Images with something at each edge, as photographs have."""
    return fractal_images(8, (28, 28), channels=1, seed=0)


# Reference modules, from the definitions of the papers


class BlurPool(nn.Module):
    """A binomial filter, then every second position. R. Zhang, ICML 2019, section 3.2."""

    def __init__(self, channels, padding_mode="circular"):
        super().__init__()
        line = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("kernel", (line[:, None] * line).expand(channels, 1, 3, 3).clone())
        self.padding_mode = padding_mode

    def forward(self, x):
        return F.conv2d(F.pad(x, (1, 1, 1, 1), self.padding_mode), self.kernel, stride=2, groups=x.shape[1])


class AdaptivePolyphaseSampling(nn.Module):
    """Of the four grids of every second position, the one of largest norm. A. Chaman, I. Dokmanić, CVPR 2021."""

    def forward(self, x):
        grids = torch.stack([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)], 1)
        return grids[torch.arange(len(x)), grids.flatten(2).norm(dim=2).argmax(1)]


class EverySecond(nn.Module):
    """What both of them replace."""

    def forward(self, x):
        return x[:, :, ::2, ::2]


class PositionalEmbedding(nn.Module):
    """A vector for each position is added. A. Dosovitskiy et al., ICLR 2021, equation 1."""

    def __init__(self, channels, size, scale=1.0):
        super().__init__()
        self.embedding = nn.Parameter(scale * torch.randn(1, channels, size, size))

    def forward(self, x):
        return x + self.embedding


class PixelAffine(nn.Module):
    def __init__(self, channels, size):
        super().__init__()
        self.gain = nn.Parameter(torch.randn(channels, size, size))

    def forward(self, x):
        return self.gain * x


class SqueezeExcite(nn.Module):
    """Channels scaled by what their averages say. J. Hu et al., CVPR 2018, section 3."""

    def __init__(self, channels):
        super().__init__()
        self.squeeze, self.excite = nn.Linear(channels, 2), nn.Linear(2, channels)

    def forward(self, x):
        gates = self.excite(self.squeeze(x.mean((2, 3))).relu()).sigmoid()
        return x * gates[:, :, None, None]


class SelfAttention(nn.Module):
    """A. Vaswani et al., NeurIPS 2017, section 3.2.1: softmax(Q Kᵀ / √d) V over all positions, and the map again."""

    def __init__(self, channels):
        super().__init__()
        self.qkv = nn.Linear(channels, 3 * channels)

    def forward(self, x):
        q, k, v = self.qkv(x.flatten(2).mT).chunk(3, dim=-1)
        weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        return (weights @ v).mT.unflatten(2, x.shape[2:])


class Mixer(nn.Module):
    """Patches to tokens, a linear layer over tokens, one over channels. I. Tolstikhin et al., NeurIPS 2021."""

    def __init__(self, side=7):
        super().__init__()
        self.patches, self.tokens_norm = nn.Conv2d(1, 8, 28 // side, stride=28 // side), nn.LayerNorm(8)
        self.mix_tokens, self.mix_channels = nn.Linear(side**2, side**2), nn.Linear(8, 8)

    def forward(self, x):
        tokens = self.tokens_norm(self.patches(x).flatten(2).mT)
        tokens = tokens + self.mix_tokens(tokens.mT).mT
        return self.mix_channels(tokens).mean(1)


def ring(inputs, outputs, kernel=3, **options):
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, padding_mode="circular", **options)


def framed(inputs, outputs, kernel=3, **options):
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


def batch_norm(channels):
    """As after training: no two channels alike."""
    norm = nn.BatchNorm2d(channels)
    for values in (norm.running_mean, norm.running_var, norm.weight.data, norm.bias.data):
        values.uniform_(0.5, 2)
    return norm


def chain(**layers):
    return nn.Sequential(OrderedDict(layers)).eval()


def average(channels):
    return {"pooled": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "head": nn.Linear(channels, 3)}


def rows(model, images, *shifts, mode="wrap", dtype=torch.float32):
    """(layer, shift) -> what theory says of it and what was observed, for an otherwise silent report."""
    quantities = ["equivariance", "invariance"]
    report = lab.meter(model.to(dtype), images.to(dtype), shifts or [ON, OFF], mode=mode, quantities=quantities)
    return {(row.layer, (row.dy, row.dx)): row for row in report.rows}


def layer_of(model, layer, size=28):
    return trace(model, torch.rand(1, 1, size, size))[layer]


def assert_exact(row, bound=EXACT[torch.float32], *, where="everywhere"):
    assert (row.theory, row.observed, row.agrees) == ("exact", "exact", True), row
    pooled = math.isnan(row.full)  # then relative to how images differ, down to a tenth of what is rounded
    assert row.error <= (10 * bound if pooled else bound), row
    assert where in row.why
    assert (row.invariance_unrelated if pooled else row.wrong_shift) > CLEAR, row


def assert_broken(row, why):
    assert (row.theory, row.observed, row.agrees) == ("broken", "not exact", True), row
    assert row.error > CLEAR, row
    assert why in row.why


# Convolution of stride 1, ReLU, batch normalisation in evaluation mode


def local(conv, **head):
    return chain(conv=conv(1, 8), norm=batch_norm(8), relu=nn.ReLU(), again=conv(8, 4), **head)


@pytest.mark.parametrize("dtype", EXACT, ids=str)
def test_layers_of_stride_one_are_exact_on_a_ring(clouds, dtype):
    found = rows(local(ring), clouds, dtype=dtype)
    for layer in ("conv", "norm", "relu", "again"):
        for t in (ON, OFF):
            assert_exact(found[layer, t], EXACT[dtype])
            assert found[layer, t].full == found[layer, t].error  # no border is left out


@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("mode", ["wrap", "background"])
def test_with_zero_padding_they_are_exact_away_from_the_border_and_broken_at_it(clouds, mode, dtype):
    found = rows(local(framed), clouds, mode=mode, dtype=dtype)
    for layer in ("conv", "norm", "relu", "again"):
        for t in (ON, OFF):
            assert_exact(found[layer, t], EXACT[dtype], where="away from the border")
            assert found[layer, t].border > 5 * CLEAR


@pytest.mark.parametrize("pool", [nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d], ids=lambda pool: pool.__name__)
def test_a_vector_pooled_over_a_ring_is_invariant_and_with_zero_padding_is_not(clouds, pool):
    head = {"pooled": pool(1), "flat": nn.Flatten(), "head": nn.Linear(4, 3)}
    closed, open_ = (rows(local(conv, **head), clouds, OFF) for conv in (ring, framed))
    for layer in head:
        assert_exact(closed[layer, OFF])
        row = open_[layer, OFF]
        assert (row.theory, row.observed) == ("broken", "not exact")
        assert CLEAR / 10 < row.error < row.invariance_unrelated


def test_a_global_maximum_is_the_same_bit_for_bit_and_a_global_average_up_to_rounding(clouds):
    with torch.no_grad():
        maps = local(ring)(clouds)
    moved = lab.shift(maps, *OFF, mode="wrap")
    assert torch.equal(maps.amax((2, 3)), moved.amax((2, 3)))
    rounding = {"rtol": 1e-6, "atol": 1e-6}  # 784 terms in another order
    torch.testing.assert_close(maps.mean((2, 3)), moved.mean((2, 3)), **rounding)
    cropped = lab.shift(maps, *OFF)  # what leaves the frame is lost
    assert not torch.equal(maps.amax((2, 3)), cropped.amax((2, 3)))
    assert (maps.mean((2, 3)) - cropped.mean((2, 3))).abs().mean() > CLEAR


@pytest.mark.parametrize(
    ("kernel", "dilation", "padding"), [(1, 1, 0), (3, 1, 1), (3, 2, 2), (5, 1, 2), (5, 2, 4), (2, 2, 1), (4, 2, 3)]
)
def test_circular_convolution_closes_the_ring_only_if_its_padding_makes_up_for_its_kernel(
    clouds, kernel, dilation, padding
):
    for p in (padding - 1, padding, padding + 1):
        if p < 0:
            continue
        conv = nn.Conv2d(1, 4, kernel, dilation=dilation, padding=p, padding_mode="circular")
        model = chain(conv=conv, relu=nn.ReLU())
        row = rows(model, clouds)["relu", OFF]
        closes = 2 * p == dilation * (kernel - 1)
        assert_exact(row, where="everywhere" if closes else "away from the border")
        first, second = (lab.activations(model, x)["relu"] for x in (clouds, lab.shift(clouds, *OFF, mode="wrap")))
        error = lab.equivariance_error(second, lab.shift(first, *OFF, mode="wrap")).mean()
        assert error <= EXACT[torch.float32] if closes else error > CLEAR


# Max and average pooling, strided convolution

STRIDES = {
    "max": lambda channels, conv: nn.MaxPool2d(2),
    "average": lambda channels, conv: nn.AvgPool2d(2),
    "convolution": lambda channels, conv: conv(channels, channels, stride=2),
    "function": lambda channels, conv: Function(lambda x: F.max_pool2d(x, 2)),
}


def strided(kind, conv=ring, **head):
    return chain(conv=conv(1, 8), relu=nn.ReLU(), down=STRIDES[kind](8, conv), again=conv(8, 8), last=nn.ReLU(), **head)


@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("kind", STRIDES)
def test_a_stride_is_exact_on_a_ring_for_shifts_that_it_divides_and_breaks_others(clouds, kind, dtype):
    found = rows(strided(kind), clouds, (2, 0), (-6, 4), (1, 0), (2, 1), dtype=dtype)
    for layer in ("down", "again", "last"):
        for t in ((2, 0), (-6, 4)):
            assert_exact(found[layer, t], EXACT[dtype])
        for t in ((1, 0), (2, 1)):
            assert_broken(found[layer, t], "S = 2 does not divide the shift: down skips positions")


@pytest.mark.parametrize("kind", STRIDES)
def test_with_zero_padding_a_stride_is_exact_away_from_the_border(clouds, kind):
    row = rows(strided(kind, framed), clouds, (2, -4))["last", (2, -4)]
    assert_exact(row, where="away from the border")
    assert row.border > CLEAR


@pytest.mark.parametrize("kind", ["max", "average", "convolution"])
def test_a_ring_closes_only_if_every_stride_divides_the_size_of_its_input(clouds, kind):
    assert_exact(rows(strided(kind), clouds, (2, 0))["last", (2, 0)])
    row = rows(strided(kind), clouds[:, :, 1:, 1:], (2, 0))["last", (2, 0)]  # 27 pixels
    assert_exact(row, where="away from the border")
    assert row.full > CLEAR


@pytest.mark.parametrize("kind", STRIDES)
def test_a_vector_pooled_after_a_stride_is_invariant_only_to_shifts_that_it_divides(clouds, kind):
    found = rows(strided(kind, **average(8)), clouds, (2, 0), OFF)
    padded = rows(strided(kind, framed, **average(8)), clouds, (2, 0), OFF)
    for layer in average(8):
        assert_exact(found[layer, (2, 0)])
        assert_broken(found[layer, OFF], "skips positions")
        assert (padded[layer, (2, 0)].theory, padded[layer, (2, 0)].observed) == ("broken", "not exact")
        assert_broken(padded[layer, OFF], "skips positions")


@pytest.mark.parametrize(
    ("down", "pooled", "same"),
    [
        (nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), True),
        (nn.MaxPool2d(2), nn.AdaptiveMaxPool2d(1), True),
        (nn.Sequential(nn.MaxPool2d(2), nn.ReLU()), nn.AdaptiveMaxPool2d(1), True),
        (nn.AvgPool2d(2), nn.AdaptiveMaxPool2d(1), False),
        (nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), False),
        (nn.Sequential(nn.AvgPool2d(2), Function(lambda x: (5 * x).sin())), nn.AdaptiveAvgPool2d(1), False),
        (nn.Sequential(nn.CircularPad2d((0, 1, 0, 1)), nn.AvgPool2d(3, stride=2)), nn.AdaptiveAvgPool2d(1), False),
    ],
    ids=[
        *("averages of averages", "maxima of maxima", "maxima of maxima above 0", "maxima of averages"),
        *("averages of maxima", "averages of bent averages", "averages of overlapping averages"),
    ],
)
def test_averages_of_averages_and_maxima_of_maxima_are_invariant_whatever_the_stride(clouds, down, pooled, same):
    row = rows(chain(conv=ring(1, 8), relu=nn.ReLU(), down=down, pooled=pooled), clouds)["pooled", OFF]
    if same:
        assert_exact(row)
    else:
        assert_broken(row, "skips positions")


# BlurPool


def blurred(padding_mode="circular", conv=ring, **head):
    blur = BlurPool(8, padding_mode)
    return chain(conv=conv(1, 8), relu=nn.ReLU(), down=blur, again=conv(8, 8), last=nn.ReLU(), **head)


@pytest.mark.parametrize("dtype", EXACT, ids=str)
def test_blurpool_is_exact_where_its_stride_divides_and_better_than_a_bare_stride_where_not(clouds, dtype):
    model = blurred()
    found = rows(model, clouds, (2, -4), OFF, dtype=dtype)
    model.down = EverySecond()
    plain = rows(model, clouds, OFF, dtype=dtype)
    for layer in ("down", "again", "last"):
        assert_exact(found[layer, (2, -4)], EXACT[dtype])
        row = found[layer, OFF]
        assert (row.theory, row.observed, row.agrees) == ("approximate", "not exact", True)
        assert "down blurs first" in row.why
        assert CLEAR < row.error < 0.7 * plain[layer, OFF].error


def test_after_blurpool_a_pooled_vector_is_nearly_invariant(clouds):
    model = blurred(**average(8))
    found = rows(model, clouds, (2, 0), OFF)
    model.down = EverySecond()
    plain = rows(model, clouds, OFF)
    for layer in average(8):
        assert_exact(found[layer, (2, 0)])
        row = found[layer, OFF]
        assert (row.theory, row.observed) == ("approximate", "not exact")
        assert 10 * EXACT[torch.float32] < row.error < 0.7 * plain[layer, OFF].error


@pytest.mark.parametrize("down", [BlurPool(8), EverySecond()], ids=["blurred", "not"])
def test_an_average_taken_right_after_blurpool_is_invariant_for_the_filter_has_no_nyquist_frequency(clouds, down):
    row = rows(chain(conv=ring(1, 8), relu=nn.ReLU(), down=down, **average(8)), clouds, (1, 0))["head", (1, 0)]
    assert row.observed == ("exact" if isinstance(down, BlurPool) else "not exact")
    assert row.theory == ("approximate" if isinstance(down, BlurPool) else "broken")


def test_with_zero_padding_blurpool_too_is_exact_away_from_the_border(clouds):
    found = rows(blurred("constant", framed), clouds, (2, -4), OFF)
    for layer in ("down", "again", "last"):
        assert_exact(found[layer, (2, -4)], where="away from the border")
        assert found[layer, (2, -4)].border > CLEAR
        assert (found[layer, OFF].theory, found[layer, OFF].observed) == ("approximate", "not exact")


# Adaptive polyphase sampling


def adaptive(conv=ring, down=AdaptivePolyphaseSampling, **head):
    return chain(conv=conv(1, 8), relu=nn.ReLU(), down=down(), again=conv(8, 8), last=nn.ReLU(), more=down(), **head)


@pytest.mark.parametrize("dtype", EXACT, ids=str)
def test_adaptive_sampling_is_exact_for_every_shift_up_to_whole_moves_of_the_map(clouds, dtype):
    shifts = [(1, 0), (2, -1), (4, 8)]
    model = adaptive(**average(8))
    found = rows(model, clouds, *shifts, dtype=dtype)
    model.down = model.more = EverySecond()
    plain = rows(model, clouds, *shifts[:2], dtype=dtype)
    for layer in ("down", "again", "last", "more", "pooled", "head"):
        for t in shifts:
            assert_exact(found[layer, t], EXACT[dtype])
    for layer in ("down", "again", "last"):
        for t in shifts[:2]:
            assert_broken(plain[layer, t], "skips positions")


def test_adaptive_sampling_is_not_exact_where_two_grids_tie():
    stripes = torch.ones(4, 1, 28, 28) * torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None, None, None]
    stripes[:, :, :, 1::2] *= -1  # all four grids have the same norm, so that the first is chosen always
    model = chain(conv=ring(1, 1, bias=False), down=AdaptivePolyphaseSampling())
    row = rows(model, stripes, (0, 1))["down", (0, 1)]
    assert (row.theory, row.observed) == ("exact", "not exact")
    assert "ties aside" in row.why


@pytest.mark.parametrize("mode", ["wrap", "background"])
def test_with_zero_padding_the_border_has_a_say_in_the_choice(clouds, mode):
    found = rows(adaptive(framed, **average(8)), clouds, OFF, (4, 4), mode=mode)
    for t in (OFF, (4, 4)):
        row = found["last", t]
        assert (row.theory, row.observed, row.agrees) == ("untestable", "not exact", None)
        assert "chooses the positions by the data, the border included" in row.why
        assert CLEAR < row.error < row.unrelated
        assert found["head", t].theory == "broken"


# Group and instance normalisation, and other global operations

GLOBAL = {
    "group": lambda: nn.GroupNorm(2, 8),
    "instance": lambda: nn.InstanceNorm2d(8),
    "layer": lambda: nn.LayerNorm((8, 28, 28)),
    "squeeze-excite": lambda: SqueezeExcite(8),
    "attention": lambda: SelfAttention(8),
}


def mixed(kind, conv=ring, **head):
    return chain(conv=conv(1, 8, bias=False), mix=chain(one=GLOBAL[kind]()), relu=nn.ReLU(), again=conv(8, 8), **head)


@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("kind", GLOBAL)
def test_a_global_operation_is_exact_on_a_ring(clouds, kind, dtype):
    found = rows(mixed(kind, last=nn.ReLU(), **average(8)), clouds[:4], OFF, dtype=dtype)
    for layer in ("relu", "again"):
        assert_exact(found[layer, OFF], EXACT[dtype])
    assert_exact(found["head", OFF], EXACT[dtype])


def test_zero_padding_is_known_of_a_layer_that_sees_the_whole_image_anyway(clouds):
    for conv, theory in ((ring, "exact"), (framed, "broken")):
        row = rows(chain(conv=ring(1, 8), mix=SqueezeExcite(8), again=conv(8, 8)), clouds[:4])["again", ON]
        assert (row.theory, row.agrees) == (theory, True)


@pytest.mark.parametrize("kind", GLOBAL)
def test_with_zero_padding_a_global_operation_breaks_even_what_is_free_of_the_border(clouds, kind):
    model = mixed(kind, framed).to(torch.float64)
    row = rows(model, clouds[:4], ON, dtype=torch.float64)["relu", ON]
    assert (row.theory, row.observed, row.agrees) == ("broken", "not exact", True)
    assert "the border included" in row.why
    first, second = (
        lab.activations(model, x)  # on J of the convolution before, which is exact there
        for x in (clouds[:4].double(), lab.shift(clouds[:4].double(), *ON, mode="wrap"))
    )
    error = {
        layer: lab.equivariance_error(second[layer][:, :, 5:-1, 1:-9], first[layer][:, :, 1:-5, 9:-1]).mean()
        for layer in ("conv", "relu")
    }
    assert error["conv"] <= EXACT[torch.float64]
    assert error["relu"] > 1e-4  # 10⁸ × rounding


# Flatten and linear


def connected(conv=ring, tied=False):
    head = nn.Linear(8 * 784, 3)
    if tied:
        head.weight.data = torch.randn(3, 8, 1).expand(-1, -1, 784).flatten(1).clone()
    return chain(conv=conv(1, 8), relu=nn.ReLU(), flat=nn.Flatten(), head=head, more=nn.Linear(3, 2))


@pytest.mark.parametrize("conv", [ring, framed])
def test_a_linear_layer_on_a_flattened_map_is_not_invariant(clouds, conv):
    found = rows(connected(conv), clouds)
    for t in (ON, OFF):
        for layer in ("head", "more"):
            assert_broken(found[layer, t], "head weighs positions differently")


def test_a_linear_layer_whose_weights_are_equal_at_all_positions_is_invariant(clouds):
    found = rows(connected(tied=True), clouds)
    for layer in ("head", "more"):
        assert_exact(found[layer, OFF])
    row = rows(connected(framed, tied=True), clouds)["head", OFF]
    assert (row.theory, row.observed) == ("broken", "not exact")


# Positions

POSITIONS = {
    "embedding": lambda scale: PositionalEmbedding(8, 28, scale),
    "affine": lambda scale: PixelAffine(8, 28),
    "layer norm": lambda scale: nn.LayerNorm((8, 28, 28)),
}


def positioned(kind, conv=ring, scale=1.0, differs=True):
    layer = POSITIONS[kind](scale)
    (values, *_) = layer.parameters()
    values.data = torch.randn_like(values) if differs else torch.full_like(values, 0.5)
    down = {"down": nn.AvgPool2d(2), "again": conv(8, 8), "last": nn.ReLU()}
    return chain(conv=conv(1, 8), place=layer, relu=nn.ReLU(), **down, **average(8))


@pytest.mark.parametrize("conv", [ring, framed])
@pytest.mark.parametrize("kind", POSITIONS)
def test_a_parameter_that_differs_between_positions_breaks_all_that_depends_on_it(clouds, kind, conv):
    found = rows(positioned(kind, conv), clouds)
    name, _ = next(positioned(kind).place.named_parameters(prefix="place"))
    for t in (ON, OFF):
        for layer in ("relu", "down", "last", "head"):
            assert_broken(found[layer, t], f"{name} has a value for each position")
        assert found["conv", t].theory == "exact"


@pytest.mark.parametrize("kind", POSITIONS)
def test_one_that_is_the_same_everywhere_breaks_nothing(clouds, kind):
    found = rows(positioned(kind, differs=False), clouds)
    for layer in ("relu", "down", "head"):
        assert_exact(found[layer, ON])


def test_an_embedding_that_is_only_added_cancels_from_an_average(clouds):
    row = rows(chain(conv=ring(1, 8), place=PositionalEmbedding(8, 28), **average(8)), clouds)["head", OFF]
    assert (row.theory, row.observed) == ("broken", "exact")  # theory cannot tell what is only added, and says so
    assert "unless it is only added" in row.why


# A black canvas


def block(background=0.0):
    """Noise with 4 px of background above it, and more on the other sides."""
    images = torch.full((8, 1, 28, 28), background)
    images[:, :, 4:20, 6:22] = torch.rand(8, 1, 16, 16) + background
    return images


def silent(bias=(None, None)):
    """Two padded convolutions, with this bias each, or none."""
    layers = [framed(1, 8, bias=bias[0] is not None), nn.ReLU(), framed(8, 8, bias=bias[1] is not None)]
    for conv, value in zip((layers[0], layers[2]), bias, strict=True):
        if value is not None:
            nn.init.constant_(conv.bias, value)
    return nn.Sequential(*layers).eval()


def full_error(model, images, dy, **options):
    (row,) = lab.meter(model, images, [(dy, 0)], layers=["2"], **options).rows
    assert row.theory == row.observed == "exact"  # away from the border, as ever
    return row.full


@pytest.mark.parametrize("bias", [(None, None), (None, 0.5), (-0.5, 0.5)], ids=str)
def test_a_black_canvas_is_as_good_as_an_infinite_one_if_what_is_padded_maps_black_to_black(bias):
    error = full_error(silent(bias), block(), -3)
    assert error <= EXACT[torch.float32]  # a bias does no harm in the last layer, nor where ReLU makes it 0


def test_a_bias_before_padding_shows_the_frame():
    assert full_error(silent((0.5, None)), block(), -3) > CLEAR


def test_normalised_pixels_show_the_frame():
    background = lab.normalize(torch.zeros(1, 1, 1, 1)).item()
    images = block(background)
    assert full_error(silent(), images, -3, background=background) > CLEAR
    assert full_error(silent(), images - background, -3) <= EXACT[torch.float32]


def test_the_margin_has_to_exceed_what_the_layers_before_the_last_padding_see():
    assert full_error(silent(), block(), -3) <= EXACT[torch.float32]  # 1 px is left; the first layer sees 1 px around
    assert full_error(silent(), block(), -4) > CLEAR  # none is


def test_on_a_black_canvas_a_global_operation_is_exact_which_theory_allows_for():
    model = chain(conv=framed(1, 8, bias=False), norm=nn.GroupNorm(2, 8), relu=nn.ReLU())
    assert expect(layer_of(model, "norm"), -3, 0).unless_blank
    assert not expect(layer_of(connected(framed), "head"), -3, 0).unless_blank
    found = rows(model, block(), (-3, 0), (-4, 0), mode="background")
    row = found["norm", (-3, 0)]
    assert (row.theory, row.observed, row.agrees) == ("untestable", "exact", None)
    assert "but no content is there" in row.why
    row = found["norm", (-4, 0)]
    assert (row.theory, row.observed) == ("broken", "not exact")
    assert row.error > 1e-3  # 1,000 × rounding


# The weights of linear heads


def head_of(weight, flat):
    """A network that takes 8 maps of 14 × 14 with these weights, `out c h w`, in a linear layer or a convolution."""
    head = nn.Linear(8 * 196, len(weight)) if flat else nn.Conv2d(8, len(weight), 14)
    head.weight.data = weight.reshape(head.weight.shape).clone()
    return chain(conv=nn.Conv2d(1, 8, 2, stride=2), flat=nn.Flatten() if flat else nn.Identity(), head=head)


@pytest.mark.parametrize("flat", [True, False], ids=["linear", "convolution"])
def test_the_share_of_tied_weights_is_one_and_of_random_weights_one_over_positions(flat):
    def share(weight):
        return layer_of(head_of(weight, flat), "head").facts.ties

    tied, untied = torch.randn(10, 8, 1, 1).expand(-1, -1, 14, 14), torch.randn(10, 8, 14, 14)
    assert share(tied) == pytest.approx(1, abs=1e-6)  # the threshold of theory
    assert share(untied) == pytest.approx(1 / 196, rel=0.5)  # 80 averages: sd √(2/80) = 16 %
    assert share(tied + untied) == pytest.approx(0.5, abs=0.1)
    assert share(untied - untied.mean((2, 3), keepdim=True)) == pytest.approx(0, abs=1e-12)
    assert math.isnan(share(torch.zeros(10, 8, 14, 14)))


def test_the_share_is_per_channel_so_that_scrambled_positions_keep_it_and_scrambled_channels_do_not():
    tied = torch.randn(10, 8, 1).expand(-1, -1, 196)
    assert tied_share(tied[:, :, torch.randperm(196)].mT) == pytest.approx(1, abs=1e-6)
    assert tied_share(tied.reshape(10, 196, 8)) < 0.5  # as if the map had been flattened channels last


def test_channels_last_before_flatten_are_told_from_channels_first():
    tied = torch.randn(10, 8, 1).expand(-1, -1, 196)
    model = head_of(tied, True)
    assert layer_of(model, "head").facts.ties == pytest.approx(1, abs=1e-6)
    model.flat = Function(lambda x: x.permute(0, 2, 3, 1).flatten(1))
    assert layer_of(model, "head").facts.ties < 0.5
    model.head.weight.data = tied.mT.reshape(10, -1).clone()
    assert layer_of(model, "head").facts.ties == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("mode", ["background", "wrap"])
def test_a_linear_layer_on_the_pixels_themselves_weighs_positions_too(clouds, mode):
    pixels = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).eval()
    random = lab.meter(pixels, clouds, [OFF], mode=mode, layers=["1"]).of("1")[0]
    assert (random.theory, random.observed) == ("broken", "not exact")
    pixels[1].weight.data = torch.rand(10, 1).expand(-1, 784) / 784
    tied = lab.meter(pixels, clouds, [OFF], mode=mode, layers=["1"]).of("1")[0]
    assert tied.theory == {"background": "broken", "wrap": "exact"}[mode]
    assert tied.agrees is not False
    assert tied.error < 0.5 * random.error


def test_the_report_has_the_share_of_each_head_beside_that_of_random_weights(clouds):
    model = connected(tied=True)
    assert lab.meter(model, clouds, [ON], mode="wrap").heads == {"head": (pytest.approx(1, abs=1e-6), 1 / 784)}
    model.head.weight.data.zero_()
    (row,) = lab.meter(model, clouds, [ON], mode="wrap", layers=["head"]).rows
    assert row.observed == "degenerate"


def test_a_convolution_as_large_as_the_map_is_a_linear_layer(clouds):
    model = chain(conv=ring(1, 8), relu=nn.ReLU(), head=nn.Conv2d(8, 3, 28))
    assert_broken(rows(model, clouds)["head", ON], "head weighs positions differently")
    model.head.weight.data = torch.randn(3, 8, 1, 1).expand(-1, -1, 28, 28).clone()
    assert_exact(rows(model, clouds)["head", OFF])


# What cannot be tested, and why


def test_what_is_flattened_has_no_rows_and_columns_to_align(clouds):
    for mix in (nn.ReLU(), nn.GroupNorm(2, 8)):  # the second lets every output see the whole image
        found = rows(chain(conv=ring(1, 8), mix=mix, flat=nn.Flatten(), drop=nn.Dropout()), clouds)
        for layer in ("flat", "drop"):
            assert (found[layer, ON].theory, found[layer, ON].agrees) == ("untestable", None)
            assert "not as rows and columns" in found[layer, ON].why
        assert found["mix", ON].theory == "exact"


@pytest.mark.parametrize("channels", [1, 8])
def test_what_is_pooled_along_one_axis_moves_along_the_other(clouds, channels):
    pooled = {"pooled": nn.AdaptiveAvgPool2d((1, None)), "relu": nn.ReLU()}
    for conv in (ring, framed):
        found = rows(chain(conv=conv(1, channels), **pooled), clouds, ON, (0, 5))
        for layer in pooled:
            assert_exact(found[layer, (0, 5)], where="everywhere" if conv is ring else "away from the border")
            row = found[layer, ON]
            assert (row.theory, row.agrees) == (("exact", True) if conv is ring else ("untestable", None))
            assert conv is ring or "a single output along the shift" in row.why


def test_a_receptive_field_beyond_the_image_leaves_nothing_to_test_except_on_a_ring(clouds):
    wide = {"first": 11, "second": 23, "third": 23}  # a receptive field of 55 px: the last row sees the first
    for conv, theory in ((framed, "untestable"), (ring, "exact")):
        model = chain(**{name: conv(1, 1, kernel) for name, kernel in wide.items()})
        row = rows(model, clouds)["third", ON]
        assert row.theory == theory
        too_wide = "receptive field 55 px, image 28 px, shift 4 px: no output is free of the border"
        assert row.why == too_wide or theory == "exact"
        assert rows(model, clouds)["first", ON].theory == "exact"


def test_a_shift_that_leaves_no_output_free_of_the_border_in_both_images_is_untestable(clouds):
    found = rows(chain(conv=nn.Conv2d(1, 4, 9), relu=nn.ReLU()), clouds, (0, 19), (0, 20), mode="background")
    assert found["relu", (0, 19)].theory == "exact"
    assert found["relu", (0, 20)].theory == "untestable"
    assert found["relu", (0, 20)].why == (
        "receptive field 9 px, image 28 px, shift 20 px: no output is free of the border"
    )


class Selected(nn.Module):
    """A ReLU that compares: of NaN it makes 0."""

    def forward(self, x):
        return torch.where(x > 0, x, torch.zeros_like(x))


@pytest.mark.parametrize("relu", [nn.ReLU(), Selected()])
def test_what_compares_and_selects_is_known_too(relu, clouds):
    found = rows(chain(conv=ring(1, 4), relu=relu, again=ring(4, 4), head=nn.Conv2d(4, 2, 28)), clouds)
    for layer in ("conv", "relu", "again"):
        assert_exact(found[layer, ON])
    assert_broken(found["head", ON], "head weighs positions differently")


def test_an_operation_that_is_not_known_is_named_and_its_maps_still_have_errors(clouds):
    spectrum = Function(lambda x: torch.fft.ifft2(torch.fft.fft2(x) * 2).real)
    row = rows(chain(conv=ring(1, 4), spectrum=spectrum), clouds)["spectrum", ON]
    assert (row.theory, row.agrees) == ("untestable", None)
    assert "it is not known which pixels aten._fft_c2c looks at" in row.why
    assert row.full <= EXACT[torch.float32] < row.wrong_shift


def test_windows_that_repeat_after_several_outputs_are_exact_after_as_many(clouds):
    found = rows(chain(conv=ring(1, 4), pooled=nn.AdaptiveAvgPool2d(12), relu=nn.ReLU()), clouds, (7, 14), ON)
    assert_exact(found["relu", (7, 14)])
    assert_broken(found["relu", ON], "S = 7 does not divide the shift: pooled skips positions")


def test_outputs_on_no_regular_grid_are_untestable_but_have_errors(clouds):
    row = rows(chain(conv=ring(1, 4), flipped=Function(lambda x: x.flip(2, 3))), clouds)["flipped", ON]
    assert (row.theory, row.observed) == ("untestable", "not exact")
    assert "do not lie on a regular grid" in row.why
    assert row.full > CLEAR


@pytest.mark.parametrize("first", [nn.Identity, lambda: SqueezeExcite(8)], ids=["local", "global"])
def test_what_is_upsampled_again_is_not_exact_for_shifts_that_the_coarser_stride_does_not_divide(clouds, first):
    up = {"up": nn.Upsample(scale_factor=2), "again": ring(8, 4)}
    model = chain(conv=ring(1, 8), first=first(), down=nn.MaxPool2d(2), **up)
    found = rows(model, clouds)
    for layer in up:
        assert_exact(found[layer, ON])
        assert_broken(found[layer, OFF], "S = 2 does not divide the shift: down skips positions")
    row = rows(model, clouds, mode="background")["again", ON]
    assert row.theory == ("exact" if first is nn.Identity else "broken")


# What lies on the way


def test_a_shift_has_to_be_a_multiple_only_of_the_strides_that_are_neither_blurred_nor_adaptive(clouds):
    for down, theory in ((BlurPool(8), "approximate"), (AdaptivePolyphaseSampling(), "exact")):
        found = rows(chain(stem=ring(1, 8, stride=2), down=down, last=ring(8, 4)), clouds, (1, 0), (2, 0), (4, 0))
        assert_broken(found["last", (1, 0)], "stem skips positions")
        assert (found["last", (2, 0)].theory, found["last", (2, 0)].agrees) == (theory, True)
        assert_exact(found["last", (4, 0)])


def test_a_stride_that_is_not_blurred_counts_in_a_shortcut_too(clouds):
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.down, self.shortcut = ring(1, 8), BlurPool(8), ring(1, 8, stride=2)

        def forward(self, x):
            return self.down(self.conv(x)) + self.shortcut(x)

    found = rows(chain(block=Residual(), relu=nn.ReLU()), clouds)
    assert found["block.down", OFF].theory == "approximate"
    assert_broken(found["relu", OFF], "block.shortcut skips positions")


def test_a_blur_is_known_by_its_kernel_and_not_by_its_name():
    class MyBlurPool(nn.Module):
        def forward(self, x):
            return x[..., ::2, ::2]

    kernel = torch.tensor([1.0, 2.0, 1.0])[:, None] * torch.tensor([1.0, 2.0, 1.0])
    smooth = Function(lambda x: F.conv2d(x, kernel.expand(8, 1, 3, 3), stride=2, groups=8))
    edges = Function(lambda x: F.conv2d(x, (kernel - 3).expand(8, 1, 3, 3), stride=2, groups=8))
    for down, blurs in ((MyBlurPool(), False), (smooth, True), (edges, False), (BlurPool(8), True)):
        layer = layer_of(chain(conv=ring(1, 8), down=down, relu=ring(8, 8)), "relu")
        assert (layer.facts.blurred != "", layer.facts.subsampling != "") == (blurs, not blurs)
        assert expect(layer, 2, 0, wrap=True).expectation == "exact" or not layer.circular


def test_a_global_average_by_a_large_window_is_not_a_stride(clouds):
    model = adaptive(pooled=nn.AvgPool2d(7), flat=nn.Flatten(), head=nn.Linear(8, 3))
    assert layer_of(model, "head").facts.sharp == (1, 1)
    assert_exact(rows(model, clouds)["head", OFF])


def test_padding_of_its_own_keeps_the_ring_closed_if_it_is_circular_and_breaks_it_if_not(clouds):
    for pad, where in ((nn.CircularPad2d(1), "everywhere"), (nn.ZeroPad2d(1), "away from the border")):
        found = rows(chain(pad=pad, conv=nn.Conv2d(1, 8, 3), relu=nn.ReLU(), **average(8)), clouds)
        assert_exact(found["relu", OFF], where=where)
        assert found["head", OFF].theory == ("exact" if where == "everywhere" else "broken")


def test_weights_that_are_nearly_the_same_at_all_positions_are_not_tied(clouds):
    head = nn.Linear(28 * 28, 3)
    with torch.no_grad():
        head.weight.copy_(1 + 0.2 * torch.randn(3, 28 * 28, generator=torch.Generator().manual_seed(0)))
    row = rows(chain(conv=ring(1, 1), flat=nn.Flatten(), head=head), clouds, ON)["head", ON]
    assert row.theory == "broken"
    assert re.search(r"head weighs positions differently \(ρ = 0\.9\d, 1 is tied\)", row.why)


def test_each_head_answers_for_itself(clouds):
    class TwoHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fixed, self.more = ring(1, 4), nn.Linear(4 * 784, 3), nn.Linear(3, 2)
            self.invariant, self.both = nn.Linear(4, 3), nn.Linear(5, 2)

        def forward(self, x):
            x = self.conv(x).relu()
            fixed = self.more(self.fixed(x.flatten(1)))
            invariant = self.invariant(x.mean((2, 3)))
            return self.both(torch.cat([fixed, invariant], 1))

    found = rows(TwoHeads().eval(), clouds)
    assert_exact(found["invariant", OFF])
    for layer in ("fixed", "more", "both"):
        assert_broken(found[layer, OFF], "fixed weighs positions differently")


def test_a_linear_layer_under_a_parametrization_is_found_too():
    model = connected()
    model.head = weight_norm(model.head)
    assert layer_of(model, "more").facts.head == "head"


def test_as_many_features_as_positions_do_not_make_a_pooled_vector_a_map(clouds):
    as_many = nn.Linear(49, 49 * 49)
    model = chain(conv=ring(1, 49, stride=4), relu=nn.ReLU(), pooled=Function(lambda x: x.mean((2, 3))), head=as_many)
    assert layer_of(model, "head").facts.head == ""
    assert_exact(rows(model, clouds)["head", ON])


def test_as_many_channels_as_columns_do_not_make_channels_positions(clouds):
    model = chain(conv=ring(1, 28), norm=batch_norm(28), relu=nn.ReLU())
    assert layer_of(model, "relu").facts.positions == ("", "")
    assert_exact(rows(model, clouds[:4])["relu", OFF])


@pytest.mark.parametrize("model", ["alexnet", "vgg"])
def test_dropout_and_adaptive_pooling_before_a_linear_layer_do_not_hide_the_map(model):
    between = {
        "alexnet": {"drop": nn.Dropout(), "head": nn.Linear(8 * 28 * 28, 3)},
        "vgg": {"pooled": nn.AdaptiveAvgPool2d(7), "flat": nn.Flatten(), "head": nn.Linear(8 * 7 * 7, 3)},
    }[model]
    start = {"alexnet": {"flatten": Function(lambda x: x.flatten(1))}, "vgg": {}}[model]
    facts = layer_of(chain(conv=framed(1, 8), relu=nn.ReLU(), **start, **between), "head").facts
    positions = {"alexnet": 784, "vgg": 49}[model]
    assert facts.head == "head"
    assert facts.ties == pytest.approx(1 / positions, rel=0.7)  # 24 averages: sd √(2/24) = 29 %


def test_a_linear_layer_over_tokens_weighs_positions(clouds):
    model = Mixer().eval()
    found = rows(model, clouds[:4])
    assert_exact(found["tokens_norm", ON])
    for layer in ("mix_tokens", "mix_channels"):
        assert_broken(found[layer, ON], "mix_tokens weighs positions differently")
    assert expect(layer_of(model, ""), *ON, wrap=True).expectation == "broken"  # averaged over tokens


def test_a_model_of_a_single_layer_has_a_name_in_the_reasons(clouds):
    assert_broken(rows(nn.MaxPool2d(2), clouds)["", OFF], "the model skips positions")
    head = nn.Conv2d(1, 3, 28)
    assert expect(layer_of(head, ""), *ON, wrap=True).why.startswith("the model weighs positions differently")


def test_attention_is_exact_on_a_ring_until_tokens_have_positions_and_its_weights_are_not_a_map(clouds):
    class Tokens(nn.Module):
        def __init__(self, scale):
            super().__init__()
            self.patches, self.place = nn.Conv2d(1, 8, 4, stride=4), nn.Parameter(scale * torch.randn(1, 49, 8))
            self.norm, self.attention = nn.LayerNorm(8), nn.MultiheadAttention(8, 2, batch_first=True)
            self.head = nn.Linear(8, 3)

        def forward(self, x):
            tokens = self.norm(self.patches(x).flatten(2).mT + self.place)
            return self.head((tokens + self.attention(tokens, tokens, tokens)[0]).mean(1))

    found = rows(Tokens(0.0).eval(), clouds[:4])
    for layer in ("patches", "norm", "attention[0]"):
        assert_exact(found[layer, ON])
        assert_broken(found[layer, OFF], "patches skips positions")
    assert_exact(found["head", ON])
    assert found["attention[1]", ON].theory == "untestable"
    found = rows(Tokens(1.0).eval(), clouds[:4])
    assert_exact(found["patches", ON])
    for layer in ("norm", "attention[0]", "head"):
        assert_broken(found[layer, ON], "place has a value for each position")


def test_a_shift_by_nothing_is_exact_whatever_the_network():
    assert expect(layer_of(positioned("affine", framed), "head"), 0, 0).expectation == "exact"


def test_a_layer_says_what_came_before():
    head = layer_of(mixed("squeeze-excite", down=nn.MaxPool2d(2), **average(8)), "head")
    assert (head.facts.mixing, head.facts.period, head.facts.subsampling) == ("mix.one", (2, 2), "down")
    assert head.circular
    again = layer_of(mixed("group", framed), "again")
    assert (again.facts.mixing, again.circular, again.facts.period) == ("mix.one", False, (1, 1))


# Whatever the network

BLOCKS = {
    "conv": lambda c, n: ring(c, c, random.choice([1, 3, 5])),
    "relu": lambda c, n: nn.LeakyReLU(0.1),
    "batch norm": lambda c, n: batch_norm(c),
    "group norm": lambda c, n: nn.GroupNorm(2, c),
    "squeeze-excite": lambda c, n: SqueezeExcite(c),
    "attention": lambda c, n: SelfAttention(c),
    "embedding": lambda c, n: nn.Sequential(PositionalEmbedding(c, n), nn.GELU()),
    "max": lambda c, n: nn.MaxPool2d(2),
    "strided": lambda c, n: ring(c, c, stride=2),
    "blurred": lambda c, n: BlurPool(c),
    "adaptive": lambda c, n: AdaptivePolyphaseSampling(),
    "function": lambda c, n: Function(lambda x: F.max_pool2d(x, 2)),
    "up": lambda c, n: nn.Upsample(scale_factor=2),
}
HEADS = {
    "average": lambda c, n: [ring(c, c), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 3)],
    "flat": lambda c, n: [nn.Flatten(), nn.Dropout(), nn.Linear(c * n * n, 3)],
}


def network(seed):
    random.seed(seed)
    layers, size = [ring(1, 4), nn.GELU()], 16
    for _ in range(random.randint(2, 5)):
        name = random.choice(list(BLOCKS))
        halves = name in ("max", "strided", "blurred", "adaptive", "function")
        if (halves and size < 4) or (name == "up" and size > 8):
            continue
        layers.append(BLOCKS[name](4, size))
        size = size // 2 if halves else size * 2 if name == "up" else size
    return nn.Sequential(*layers, *HEADS[random.choice(list(HEADS))](4, size)).eval()


@pytest.mark.usefixtures("unchecked")  # checks of the annotations would take most of the time
@pytest.mark.parametrize("seed", range(16))
def test_no_random_network_on_a_ring_refutes_theory(seed):
    torch.default_generator.manual_seed(seed)
    images = fractal_images(6, (16, 16), channels=1, seed=seed)
    quantities = ["equivariance", "invariance"]
    report = lab.meter(network(seed), images, [OFF, (2, 2), ON], mode="wrap", quantities=quantities)
    assert not [(row.layer, row.dy, row.dx, row.why) for row in report.disagreements]
    assert "exact" in {row.theory for row in report.rows}


def test_positions_that_a_forward_function_computes_are_seen(clouds):
    ramp = Function(lambda x: x * torch.linspace(0, 1, x.shape[-1]))
    found = rows(chain(conv=ring(1, 4), ramp=ramp), clouds, OFF, (3, 0))
    assert_broken(found["ramp", OFF], "a constant of ramp has a value for each position")
    assert_exact(found["ramp", (3, 0)])  # it differs along rows alone
