"""What the trace finds: on chains against the closed formula, beyond chains against what is known of each network."""

from dataclasses import dataclass
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from layers import Branches, Function
from torch import nn

import lab
from lab.errors import InputError
from lab.metering.receptive_fields import trace, trace_network
from lab.metrics import _overlap as overlap


@dataclass
class Formula:
    """DESIGN's closed formula along one axis: the trace's slow, clear twin."""

    size: int
    outputs: int
    stride: int = 1
    receptive_field: int = 1
    padding: int = 0

    def after(self, module: nn.Module, axis: int, outputs: int) -> "Formula":
        if isinstance(module, nn.ReLU):
            return self
        k, s, p, d = (pair(getattr(module, name, 1))[axis] for name in ("kernel_size", "stride", "padding", "dilation"))
        S = self.stride
        return Formula(self.size, outputs, S * s, self.receptive_field + (k - 1) * d * S, self.padding + p * S)

    @property
    def interior(self) -> list[int]:
        first, last = -(-self.padding // self.stride), (self.size - self.receptive_field + self.padding) // self.stride
        return [j for j in range(self.outputs) if first <= j <= last]

    @property
    def begins(self) -> list[int]:
        return [self.stride * j - self.padding for j in range(self.outputs)]


def pair(value):
    return value if isinstance(value, tuple) else (value, value)


def formulas(net: nn.Sequential, image: torch.Tensor) -> dict[str, tuple[Formula, ...]]:
    found, state, x = {}, tuple(Formula(n, n) for n in image.shape[2:]), image
    for name, module in net.named_children():
        x = module(x)
        state = found[name] = tuple(one.after(module, axis, x.shape[2 + axis]) for axis, one in enumerate(state))
    return found


@st.composite
def chains(draw) -> tuple[nn.Sequential, torch.Tensor]:
    """Convolutions, poolings and ReLUs, each axis with its own kernel, stride, padding, dilation."""
    x = image = torch.rand(1, draw(st.integers(1, 3)), draw(st.integers(6, 40)), draw(st.integers(6, 40)))
    modules: list[nn.Module] = []
    for kind in draw(st.lists(st.sampled_from(["conv", "conv", "max", "average", "relu"]), min_size=1, max_size=5)):
        kernel = tuple(draw(st.integers(1, 5)) for _ in range(2))
        stride = tuple(draw(st.sampled_from([1, 2, 3, 5])) for _ in range(2))
        dilation = tuple(draw(st.integers(1, 3 if kind != "average" else 1)) for _ in range(2))
        most = [d * (k - 1) if kind == "conv" else k // 2 for k, d in zip(kernel, dilation, strict=True)]
        padding = tuple(draw(st.integers(0, p)) for p in most)
        ceil = draw(st.booleans())
        if any(d * (k - 1) >= n for n, k, d in zip(x.shape[2:], kernel, dilation, strict=True)):
            continue
        if kind == "conv":
            modules.append(nn.Conv2d(x.shape[1], draw(st.integers(1, 3)), kernel, stride, padding, dilation))
        elif kind == "max":
            modules.append(nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil))
        else:
            modules.append(nn.AvgPool2d(kernel, stride, padding, ceil_mode=ceil) if kind == "average" else nn.ReLU())
        x = modules[-1](x)
    return nn.Sequential(*modules, nn.ReLU()), image


@settings(max_examples=60)
@given(chains())
def test_what_the_trace_says_of_a_chain_is_what_the_formula_says(chain):
    net, image = chain
    found = trace(net, image)
    for name, expected in formulas(net, image).items():
        layer = found[name]
        for axis, formula in zip((layer.grid.y, layer.grid.x) if layer.grid else (), expected, strict=bool(layer.grid)):
            assert (axis.size, axis.outputs) == (formula.size, formula.outputs)
            if axis.outputs > 1:
                assert (axis.step, axis.period) == (formula.stride, formula.stride)
                assert (axis.receptive_field, -axis.offset) == (formula.receptive_field, formula.padding)
                assert list(axis.interior) == formula.interior
        assert layer.grid or all(formula.outputs == 1 for formula in expected)


def conv(kernel=3, channels=(1, 2), **options):
    return nn.Conv2d(*channels, kernel, **options)


def padded_by_hand(x):
    """One row of zeros above and two below, three columns of zeros on the left."""
    n, c, _, w = x.shape
    x = torch.cat([x.new_zeros(n, c, 1, w), x, x.new_zeros(n, c, 2, w)], 2)
    return torch.cat([x.new_zeros(n, c, x.shape[2], 3), x], 3)


def traced(net, height=24, width=32, channels=1):
    return trace(net, torch.rand(1, channels, height, width))


def geometry(axis):
    return axis.step, axis.receptive_field, axis.offset


# what it is: the network, then S, R and -P along rows and along columns
BEYOND_CHAINS = {
    "slicing": (Function(lambda x: x[..., ::2, ::3]), (2, 1, 0), (3, 1, 0)),
    "slicing from the second row": (Function(lambda x: x[..., 1::2, 2::3]), (2, 1, 1), (3, 1, 2)),
    "crop": (Function(lambda x: x[..., 2:-2, 3:-1]), (1, 1, 2), (1, 1, 3)),
    "crop and pool": (nn.Sequential(Function(lambda x: x[..., 3:-3, 1:-1]), nn.MaxPool2d(3)), (3, 3, 3), (3, 3, 1)),
    "asymmetric F.pad": (nn.Sequential(Function(lambda x: F.pad(x, (1, 2, 3, 0))), conv(4)), (1, 4, -3), (1, 4, -1)),
    "padding by hand": (nn.Sequential(Function(padded_by_hand), conv(5)), (1, 5, -1), (1, 5, -3)),
    "reflection": (nn.Sequential(nn.ReflectionPad2d(2), conv(5)), (1, 5, -2), (1, 5, -2)),
    "residual sum": (Branches(sum, nn.Identity(), conv(3, padding=1), conv(7, padding=3)), (1, 7, -3), (1, 7, -3)),
    "shortcut": (Branches(sum, conv(1, stride=2), conv(5, stride=2, padding=2)), (2, 5, -2), (2, 5, -2)),
    "concatenation": (Branches(torch.hstack, conv(5, padding=2), conv((1, 3), padding=(0, 1))), (1, 5, -2), (1, 5, -2)),
    "dilation": (conv(3, dilation=(2, 3), padding=(2, 0)), (1, 5, -2), (1, 7, 0)),
    "pixel unshuffle": (nn.PixelUnshuffle(2), (2, 2, 0), (2, 2, 0)),
    "in place": (nn.Sequential(conv(), nn.ReLU(inplace=True), Function(lambda x: x.mul_(2))), (1, 3, 0), (1, 3, 0)),
    "unfold": (Function(lambda x: F.unfold(x, 4, stride=4).unflatten(2, (x.shape[2] // 4, -1))), (4, 4, 0), (4, 4, 0)),
    "no channels": (nn.Sequential(conv(3, padding=1), Function(lambda x: x.mean(1))), (1, 3, -1), (1, 3, -1)),
    "columns before rows": (nn.Sequential(conv((3, 5)), Function(lambda x: x.mT)), (1, 3, 0), (1, 5, 0)),
    "channels last": (
        nn.Sequential(conv(3), Function(lambda x: x.permute(0, 2, 3, 1)), nn.LayerNorm(2)),
        (1, 3, 0),
        (1, 3, 0),
    ),
    "row by row": (nn.Sequential(conv(3), Function(lambda x: x.flatten(2).mT), nn.Linear(2, 3)), (1, 3, 0), (1, 3, 0)),
    "regular adaptive pooling": (nn.AdaptiveAvgPool2d((6, 8)), (4, 4, 0), (4, 4, 0)),
    "down and up, seen as one step down": (Branches(sum, nn.MaxPool2d(4), nn.AvgPool2d(4)), (4, 4, 0), (4, 4, 0)),
    "unused last columns": (nn.Sequential(nn.MaxPool2d((2, 5)), conv(3, padding=1)), (2, 6, -2), (5, 15, -5)),
    "gaps wider than the padding": (conv(2, stride=3, padding=1, dilation=(4, 2)), (3, 5, -1), (3, 3, -1)),
}


@pytest.mark.parametrize("name", BEYOND_CHAINS)
def test_the_windows_of_networks_that_are_no_chains(name):
    net, rows, columns = BEYOND_CHAINS[name]
    grid = traced(net)[""].grid
    assert (geometry(grid.y), geometry(grid.x)) == (rows, columns)


class Reused(nn.Module):
    """Calls one module three times, and returns what has no tensor beside what has."""

    def __init__(self):
        super().__init__()
        self.conv = conv(channels=(1, 1), padding=1)
        self.pair = Function(lambda x: (x[..., ::2], {"all": x, "none": None}))

    def forward(self, x):
        return self.pair(self.conv(self.conv(self.conv(x))))[0]


def test_each_call_and_each_tensor_of_a_module_has_its_own_geometry():
    found = traced(Reused())
    assert list(found) == ["conv", "conv#2", "conv#3", "pair[0]", "pair[1][all]", ""]
    assert [found[name].grid.x.receptive_field for name in found] == [3, 5, 7, 7, 7, 7]
    assert [found[name].grid.x.step for name in found] == [1, 1, 1, 2, 1, 2]


def test_the_activation_is_read_before_a_later_operation_changes_it_in_place():
    net = nn.Sequential(conv(padding=1), Function(lambda x: x.mul_(x.mean())))
    found = traced(net)
    assert not found["0"].sees_all
    assert found["0"].grid.y.receptive_field == 3
    assert found["1"].sees_all


LAYOUTS = {  # the network and where its output keeps rows and columns: dimensions, size, tokens before
    "rows and columns": (conv(4, stride=4), (2, 3), (6, 8), 0),
    "channels last": (nn.Sequential(conv(4, stride=4), Function(lambda x: x.permute(0, 2, 3, 1))), (1, 2), (6, 8), 0),
    "columns first": (nn.Sequential(conv(4, stride=4), Function(lambda x: x.mT)), (3, 2), (6, 8), 0),
    "without channels": (nn.Sequential(conv(4, stride=4), Function(lambda x: x[:, 0])), (1, 2), (6, 8), 0),
    "tokens": (nn.Sequential(conv(4, stride=4), Function(lambda x: x.flatten(2).mT)), (1, 1), (6, 8), 0),
    "after a class token": (
        nn.Sequential(conv(4, stride=4), Function(lambda x: F.pad(x.flatten(2).mT, (0, 0, 1, 0)))),
        *((1, 1), (6, 8), 1),
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_brings_the_positions_to_the_last_two_dimensions(name):
    net, *expected = LAYOUTS[name]
    x = torch.rand(2, 1, 24, 32)
    layout = trace(net, x[:1])[""].layout
    assert [layout.dims, layout.size, layout.prefix] == expected
    channels = 1 if name == "without channels" else 2
    assert torch.equal(layout.maps(net(x)), (net if isinstance(net, nn.Conv2d) else net[0])(x)[:, :channels])


def test_tokens_that_are_no_rows_of_the_image_have_no_positions():
    registers = Function(lambda x: F.pad(x.flatten(2).mT, (0, 0, 0, 3)))  # three more tokens at the end
    flat = nn.Flatten()
    for last in (registers, flat):
        assert traced(nn.Sequential(conv(4, stride=4), last))[""].grid is None


class Attention(nn.Module):
    """A vision transformer of one block; `prefix` class tokens."""

    def __init__(self, prefix):
        super().__init__()
        self.patches, self.prefix = conv(4, (1, 8), stride=4), prefix
        self.norm, self.mix, self.mlp = nn.LayerNorm(8), nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 8)

    def forward(self, x):
        x = self.norm(F.pad(self.patches(x).flatten(2).mT, (0, 0, self.prefix, 0)))
        return self.mlp(x + self.mix(x, x, x, need_weights=False)[0])


@pytest.mark.parametrize("prefix", [0, 1])
def test_attention_sees_everything_and_its_tokens_keep_their_positions(prefix):
    found = traced(Attention(prefix), 24, 24)
    assert [name for name in found if found[name].sees_all] == ["mix[0]", "mlp", ""]
    assert {found[name].layout.size for name in found} == {(6, 6)}
    assert {found[name].layout.prefix for name in ("norm", "mix[0]", "mlp")} == {prefix}
    assert geometry(found["norm"].grid.y) == (4, 4, 0)
    assert geometry(found["mlp"].grid.y) == (4, None, None), "every output sees all"


SEES_ALL = {  # and whether it keeps positions
    "group norm": (nn.GroupNorm(1, 2), True),
    "instance norm": (nn.InstanceNorm2d(2), True),
    "batch norm without running statistics": (nn.BatchNorm2d(2, track_running_stats=False), True),
    "squeeze and excitation": (torchvision.ops.SqueezeExcitation(2, 1), True),
    "global average": (nn.AdaptiveAvgPool2d(1), False),
    "global maximum": (nn.AdaptiveMaxPool2d(1), False),
    "mean": (Function(lambda x: x.mean((2, 3))), False),
    "flatten and linear": (nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), False),
    "a convolution as large as the map": (nn.LazyConv2d(3, (22, 30)), False),
    "softmax over positions": (Function(lambda x: x.flatten(2).softmax(2).view_as(x)), True),
    "Fourier transform": (Function(lambda x: torch.fft.ifft2(torch.fft.fft2(x)).real), True),
}


@pytest.mark.parametrize("name", SEES_ALL)
def test_a_global_operation_sees_all(name):
    last, keeps = SEES_ALL[name]
    net = nn.Sequential(conv(), last).eval()
    net(torch.rand(2, 1, 24, 32))  # lazy modules learn their sizes
    found = traced(net)
    assert found["1"].sees_all
    assert (found["1"].grid is not None) == keeps
    assert not found["0"].sees_all, "the convolution before it does not"


@pytest.mark.parametrize("last", [nn.BatchNorm2d(2), nn.LayerNorm(30), nn.AvgPool2d(3), nn.LocalResponseNorm(2)])
def test_an_operation_that_is_not_global_does_not_see_all(last):
    found = traced(nn.Sequential(conv(), last).eval())
    assert found["1"].sees_all is False


def test_an_axis_along_which_everything_is_seen_leaves_the_map_its_positions():
    found = traced(nn.Sequential(conv((24, 3), padding=(12, 1)), Function(lambda x: x.mean(2, keepdim=True))))
    assert [layer.layout.size for layer in found.values()] == [(25, 32), (1, 32), (1, 32)]
    assert [layer.sees_all for layer in found.values()] == [False] * 3
    assert [len(layer.grid.y.interior) for layer in found.values()] == [1, 0, 0], "a window of 24 px in 24 px"
    assert all(layer.grid.x.interior for layer in found.values()), "a shift along columns needs no more"


ARGUMENTS = {"Threshold": (0.1, 0.2), **dict.fromkeys(["Softmax", "Softmin", "LogSoftmax", "GLU"], (1,))}
ACTIVATIONS = sorted(set(nn.modules.activation.__all__) - {"MultiheadAttention"})


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_function_of_torch_leaves_positions_alone(name):
    activation = getattr(nn, name)(*ARGUMENTS.get(name, ()))
    found = traced(nn.Sequential(conv(padding=1), activation))["1"]
    assert geometry(found.grid.y) == geometry(found.grid.x) == (1, 3, -1)


def circular(*pads):
    return Function(lambda x: F.pad(x, pads, mode="circular"))


CIRCLES = {  # the network, and whether its rows and its columns are circular
    "convolution": (conv(padding=1, padding_mode="circular"), (True, True)),
    "dilated": (conv(dilation=3, padding=3, padding_mode="circular"), (True, True)),
    "strided": (conv(stride=2, padding=1, padding_mode="circular"), (True, True)),
    "strided and dilated": (conv(stride=4, dilation=2, padding=2, padding_mode="circular"), (True, True)),
    "padded by a function, on one side": (nn.Sequential(circular(2, 0, 0, 2), conv()), (True, True)),
    "pooled": (nn.Sequential(conv(padding=1, padding_mode="circular"), nn.MaxPool2d(4)), (True, True)),
    "nothing to continue": (nn.AvgPool2d(2), (True, True)),
    "columns only": (nn.Sequential(circular(1, 1, 0, 0), conv(padding=(1, 0))), (False, True)),
    "columns, rows unpadded": (nn.Sequential(circular(1, 1, 0, 0), conv()), (False, True)),
    "zeros": (conv(padding=1), (False, False)),
    "reflected": (conv(padding=1, padding_mode="reflect"), (False, False)),
    "replicated": (conv(padding=1, padding_mode="replicate"), (False, False)),
    "pooled with padding": (nn.MaxPool2d(3, 2, 1), (False, False)),
    "one column is left over": (conv((1, 3), stride=(1, 5), padding=(0, 1), padding_mode="circular"), (True, False)),
    "a circle of another size": (nn.Sequential(conv(5), circular(4, 4, 4, 4), conv(5, (2, 2))), (False, False)),
}
MIXTURES = [
    ("circular", *kinds) if first else (*kinds, "circular")
    for first in (True, False)
    for kinds in [("zeros",), ("reflect",), ("replicate",), ("zeros", "circular"), ("circular", "replicate")]
]


def goes_round(grid):
    return grid.y.circular and grid.x.circular


@pytest.mark.parametrize("name", CIRCLES)
def test_an_axis_is_circular_where_windows_continue_on_the_other_side(name):
    net, expected = CIRCLES[name]
    grid = traced(net)[""].grid
    assert (grid.y.circular, grid.x.circular) == expected


@pytest.mark.parametrize("modes", MIXTURES, ids=" ".join)
def test_a_mixture_of_circular_and_other_padding_is_not_circular(modes):
    def mixture(modes):
        layers = [conv(channels=(1, 1), padding=1, padding_mode=mode) for mode in modes]
        return Function(nn.Sequential(*layers).forward)  # one module, in which the trace sees no single layer

    assert not goes_round(traced(mixture(modes))[""].grid)
    assert goes_round(traced(mixture(["circular"] * len(modes)))[""].grid)


def test_a_circular_network_may_see_around_nearly_the_whole_circle():
    net = nn.Sequential(*(conv(channels=(1, 1), padding=1, padding_mode="circular") for _ in range(8)))
    found = [layer.grid.y for layer in traced(net, 16, 16).values()][:-1]
    assert [axis.receptive_field for axis in found[:6]] == [3, 5, 7, 9, 11, 13]
    assert all(axis.circular for axis in found[:6])
    assert (found[-1].receptive_field, found[-1].circular) == (17, True), "17 pixels of 16"


HALF = Fraction(1, 2)
UPWARDS = {  # the network and the image's size; then step, period, receptive field, offset
    "upsampling": (nn.Upsample(scale_factor=2), 16, (HALF, 1, 1, 0)),
    "bilinear upsampling": (nn.Upsample(scale_factor=2, mode="bilinear"), 16, (HALF, 1, 2, -1)),
    "by a half more": (nn.Upsample(scale_factor=1.5), 16, (Fraction(2, 3), 2, 1, 0)),
    "down and up": (nn.Sequential(nn.AvgPool2d(2), nn.Upsample(scale_factor=2)), 16, (1, 2, 2, 0)),
    "down and up in one module": (
        Function(lambda x: F.interpolate(F.avg_pool2d(x, 2), scale_factor=2)),
        22,
        (1, 2, 2, 0),
    ),
    "down by four and up by two": (
        Function(lambda x: F.interpolate(F.avg_pool2d(x, 4), scale_factor=2)),
        24,
        (2, 4, 4, 0),
    ),
    "transposed convolution": (nn.Sequential(nn.MaxPool2d(2), nn.ConvTranspose2d(1, 1, 3, 2, 1, 1)), 16, (1, 2, 4, 0)),
    "pixel shuffle": (nn.Sequential(conv(3, (1, 4), padding=1), nn.PixelShuffle(2)), 16, (HALF, 1, 3, -1)),
    "irregular adaptive pooling that repeats": (nn.AdaptiveAvgPool2d(8), 28, (Fraction(7, 2), 7, 4, 0)),
    "two outputs": (conv(8, stride=8), 16, (8, 8, 8, 0)),
    "taps as far apart as the image": (conv(3, padding=4, dilation=4), 7, (1, 1, 9, -4)),
}


@pytest.mark.parametrize("name", UPWARDS)
def test_step_and_period_where_outputs_lie_closer_than_strides(name):
    net, size, expected = UPWARDS[name]
    axis = traced(net, size, size)[""].grid.y
    assert (axis.step, axis.period, axis.receptive_field, axis.offset) == expected


def test_a_map_without_a_regular_grid_has_no_step():
    flipped = Function(lambda x: x.flip(2, 3))
    for axis in (traced(flipped)[""].grid.y, traced(nn.Sequential(conv(), flipped))[""].grid.x):
        assert (axis.step, axis.period, axis.receptive_field, axis.offset) == (None,) * 4
        assert (axis.interior, axis.circular) == (range(0), False)


@pytest.mark.parametrize(
    ("size", "first", "S", "R"),
    [(36, conv(3, stride=5, padding=1), 5, 3), (12, conv(2, stride=3), 3, 2), (30, conv(15), 1, 15)],
    ids=["of 8 outputs of 36 px", "of 4 outputs of 12 px", "of 16 outputs of 30 px"],
)
def test_a_stride_that_divides_the_image_evenly_is_not_taken_for_granted(size, first, S, R):
    axis = traced(first, size, size)[""].grid.y
    assert (axis.step, axis.period, axis.receptive_field) == (S, S, R)


def test_maps_of_one_position_have_no_grid_and_maps_of_one_row_have_one():
    assert traced(conv((24, 32)))[""].grid is None
    found = traced(conv((24, 3)))[""]
    assert found.layout.size == (1, 30)
    assert found.grid.y.receptive_field is None


def test_modules_whose_first_dimension_is_not_the_batch_are_left_out():
    class Windows(nn.Module):
        """Cuts the image into four, that are a batch of their own, and puts them together."""

        def __init__(self):
            super().__init__()
            self.inner, self.twice, self.number = (
                conv(padding=1),
                Function(lambda x: torch.cat([x, x])),
                Function(torch.numel),
            )

        def forward(self, x):
            self.number(self.twice(x))
            windows = torch.cat(x.chunk(4, 3))
            return torch.cat(self.inner(windows).chunk(4), 3)

    assert list(traced(Windows())) == [""]


def test_the_stride_of_a_network_that_chooses_by_value_where_to_look_is_known():
    """The image decides which of the four grids adaptive polyphase sampling takes; all have the same step."""

    def polyphase(x):
        grids = torch.stack([x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)], 1)
        return grids[torch.arange(len(x)), grids.flatten(2).norm(dim=2).argmax(1)]

    grid = traced(nn.Sequential(conv(padding=1, padding_mode="circular"), Function(polyphase)))[""].grid
    assert grid.period == (2, 2)
    assert goes_round(grid)


def residual():
    block = Branches(
        sum, nn.Identity(), nn.Sequential(conv(3, (4, 4), padding=1), nn.ReLU(), conv(5, (4, 4), padding=2))
    )
    return nn.Sequential(
        conv(3, (1, 4), padding=1), nn.ReLU(), block, nn.MaxPool2d(2), block, conv(2, (4, 4), stride=2)
    )


def channels_last():
    block = [Function(lambda x: x.permute(0, 2, 3, 1)), nn.LayerNorm(4), nn.Linear(4, 4), nn.GELU()]
    return nn.Sequential(conv(4, (1, 4), stride=4), conv(3, (4, 4), padding=1, groups=4), *block)


def ring(*, padding_mode="circular"):
    def layer(channels, **options):
        return conv(3, channels, padding_mode=padding_mode, **options)

    first = layer((1, 4), dilation=2, padding=2)
    return nn.Sequential(
        first, nn.Tanh(), nn.AvgPool2d(2), layer((4, 4), stride=2, padding=1), layer((4, 4), padding=1)
    )


TIGHT = {  # the layers, the network, its image's size, and the shift in pixels
    "plain chain": (
        ("0", "2"),
        lambda: nn.Sequential(conv(5, (1, 4), padding=3), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
        *(24, (2, -4)),
    ),
    "other along columns": (
        ("0", "1"),
        lambda: nn.Sequential(
            conv((3, 1), (1, 4), padding=(2, 1), stride=(1, 2)), conv((1, 5), (4, 4), padding=(1, 3))
        ),
        *(20, (3, 2)),
    ),
    "padded by a function": (
        ("1", "2"),
        lambda: nn.Sequential(
            Function(lambda x: F.pad(x, (0, 3, 2, 1))), conv(3), conv(3, (2, 2), dilation=2, padding=2)
        ),
        *(16, (1, 2)),
    ),
    "residual": (("2", "2#2", "5"), residual, 48, (-4, 4)),
    "channels last": (("1", "5"), channels_last, 32, (4, -4)),
    "zeros around strides": (("2", "3", "4"), lambda: ring(padding_mode="zeros"), 48, (8, -4)),
    "resnet18": (
        ("conv1", "maxpool", "layer1", "layer2.0"),
        lambda: torchvision.models.resnet18(weights=None),
        *(96, (8, -8)),
    ),
}
EXACT = 1e-12  # float64: sums of up to 4608 terms, through up to 12 layers, in another order
BROKEN = 1e-6  # beyond the image a window sees 0 or -inf, in the other image 0.5 or more: nowhere near rounding


def compared(net, layer, images, t, mode):
    """|f(T x) − T f(x)| relative to f at each position that has a counterpart; which are comparable along each axis."""
    geometry = trace(net, images[:1])[layer]
    grid = geometry.grid
    both = (images, lab.shift(images, *t, mode=mode, background=0.5))
    first, second = (geometry.maps(lab.activations(net, x, [layer.partition("#")[0]])[layer]) for x in both)
    scale, free = first.abs().max(), []
    for dim, axis, pixels in ((2, grid.y, t[0]), (3, grid.x, t[1])):
        move = pixels // axis.step
        free.append(axis.comparable(move, wrap=mode == "wrap"))
        if mode == "wrap" and axis.rolls:
            first = first.roll(move, dim)
        else:
            here, there = overlap(axis.outputs, move)
            first, second = (a.movedim(dim, 0)[one].movedim(0, dim) for a, one in ((first, there), (second, here)))
    return (second - first).abs().amax((0, 1)) / scale, free


def ring_around(free):
    """The position before the first that is free and the one after the last, where there is one."""
    index = free.nonzero()[:, 0].tolist()
    return [j for j in (index[0] - 1, index[-1] + 1) if 0 <= j < len(free)]


@pytest.mark.parametrize("mode", ["background", "wrap"])
@pytest.mark.parametrize("name", TIGHT)
def test_the_comparable_outputs_are_exact_and_one_ring_more_is_not(name, mode):
    layers, build, size, t = TIGHT[name]
    torch.manual_seed(0)
    net = build().double().eval()
    images = torch.rand(2, 3 if name == "resnet18" else 1, size, size, dtype=torch.float64)
    for layer in layers:
        difference, (rows, columns) = compared(net, layer, images, t, mode)
        assert difference[rows][:, columns].max() <= EXACT
        more = [difference[j][columns].max() for j in ring_around(rows)]
        more += [difference[:, j][rows].max() for j in ring_around(columns)]
        assert len(more) >= 2, "there is something to widen"
        assert min(more) > BROKEN


@pytest.mark.parametrize("t", [(8, -4), (-16, 4)])
def test_a_circular_network_is_exact_everywhere_and_one_with_zeros_is_not(t):
    torch.manual_seed(0)
    images = torch.rand(2, 1, 48, 32, dtype=torch.float64)
    for padding_mode, exact in (("circular", True), ("zeros", False)):
        difference, free = compared(ring(padding_mode=padding_mode).double(), "", images, t, "wrap")
        assert [bool(one.all()) for one in free] == [exact, exact]
        assert (difference.max() <= EXACT) if exact else (difference.max() > BROKEN)


class Failing(nn.Module):
    """Fails at one of its calls; counts them, and keeps a buffer, an attribute and a list up to date."""

    def __init__(self, fails_at, error):
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.seen, self.all, self.calls = 0, [], iter(range(1, 100))
        self.fails_at, self.error = fails_at, error

    def forward(self, x):
        self.mean.mul_(0.9).add_(x.mean())
        self.seen, self.cache = self.seen + 1, x
        self.all.append(x)
        if next(self.calls) == self.fails_at:
            raise self.error("no more")
        return x


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("fails_at", [None, 1, 2])
def test_the_model_is_left_as_it_was_also_after_an_exception(fails_at, error):
    failing = Failing(fails_at, error)
    net = nn.Sequential(conv(), nn.BatchNorm2d(2), nn.Dropout(), failing, nn.ReLU())
    net[1].eval()
    image, state = torch.rand(1, 1, 16, 16), {name: value.clone() for name, value in net.state_dict().items()}
    copy, modes, random = image.clone(), [module.training for module in net.modules()], torch.get_rng_state()
    if fails_at:
        with pytest.raises(error, match="no more"):
            trace(net, image)
    else:
        trace(net, image)
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert (failing.seen, failing.all, hasattr(failing, "cache")) == (0, [], False)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(image, copy)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (1, 8, 8)], ids=str)
def test_what_is_no_image_is_refused(shape, unchecked):
    rule = rf"one image, 1 c h w: shape \({str(shape)[1:-1]}\)"
    with pytest.raises(InputError, match=rule):
        trace(conv(), torch.zeros(shape))


def test_a_model_that_returns_no_tensor_with_the_batch_first_is_refused():
    with pytest.raises(InputError, match="whose first dimension is the batch"):
        trace(Function(lambda x: x.sum()), torch.zeros(1, 1, 8, 8))


def leaves(net):
    return list(trace_network(net.eval(), torch.rand(1, 1, 24, 32)).leaves)


def test_the_layers_that_compute_are_those_that_run_no_other():
    relu, again = (["2.branches.1.0" + call, f"2.branches.1.1{call}", f"2.branches.1.2{call}"] for call in ("", "#2"))
    assert leaves(residual()) == ["0", "1", "2.branches.0", *relu, "2", "3", "2.branches.0#2", *again, "2#2", "5"]
    assert leaves(conv()) == [""], "a network of one module is a leaf"


def test_a_block_is_among_them_if_it_computes_something_itself():
    flat = nn.Sequential(conv(), nn.Flatten())
    after = Branches(lambda outputs: outputs[0].relu(), conv())
    same = Branches(lambda outputs: outputs[0], conv())
    assert leaves(flat) == ["0", "1"]
    assert leaves(after) == ["branches.0", ""]
    assert leaves(same) == ["branches.0"]


def test_the_receptive_fields_of_resnet18_are_the_published_ones():
    """A. Araujo et al., Distill 2019, for conv1 to layer4."""
    found = trace(torchvision.models.resnet18(weights=None), torch.zeros(1, 3, 224, 224))
    grids = {name: found[name].grid for name in ("conv1", "layer1", "layer2", "layer3", "layer4")}
    assert [grid.y.receptive_field for grid in grids.values()] == [7, 43, 99, 211, 435]
    assert [grid.period for grid in grids.values()] == [(S, S) for S in (2, 4, 8, 16, 32)]
    assert [found[name].layout.size for name in grids] == [(n, n) for n in (112, 56, 28, 14, 7)]
    assert [len(grid.x.interior) for grid in grids.values()] == [109, 45, 15, 1, 0]
    assert not found["layer4"].sees_all, "its first output sees up to pixel 217"
    assert found["avgpool"].sees_all
