"""What the trace finds: on chains against the closed formula, beyond chains against what is known of each network."""

from dataclasses import dataclass

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lab.geometry import trace


@dataclass
class Formula:
    """DESIGN's closed formula along one axis: the trace's slow, clear twin."""

    size: int
    outputs: int
    stride: int = 1
    reach: int = 1
    padding: int = 0

    def after(self, module: nn.Module, axis: int, outputs: int) -> "Formula":
        if isinstance(module, nn.ReLU):
            return self
        k, s, p, d = (pair(getattr(module, name, 1))[axis] for name in ("kernel_size", "stride", "padding", "dilation"))
        S = self.stride
        return Formula(self.size, outputs, S * s, self.reach + (k - 1) * d * S, self.padding + p * S)

    @property
    def interior(self) -> list[int]:
        first, last = -(-self.padding // self.stride), (self.size - self.reach + self.padding) // self.stride
        return [j for j in range(self.outputs) if first <= j <= last]

    @property
    def begins(self) -> list[int]:
        return [self.stride * j - self.padding for j in range(self.outputs)]

    @property
    def is_free(self) -> bool:
        """Whether some window holds neither the first pixel nor the last."""
        return any(begin > 0 and begin + self.reach < self.size for begin in self.begins)

    @property
    def shows(self) -> bool:
        """Whether three windows begin, and three end, between the first pixel and the last."""
        begins, ends = self.begins, [begin + self.reach - 1 for begin in self.begins]
        return all(sum(0 < p < self.size - 1 for p in some) > 2 for some in (begins, ends))


def pair(value):
    return value if isinstance(value, tuple) else (value, value)


def formulas(net: nn.Sequential, image: torch.Tensor) -> dict[str, tuple[Formula, ...]]:
    found, state, x = {}, tuple(Formula(n, n) for n in image.shape[2:]), image
    for name, module in net.named_children():
        x = module(x)
        state = found[name] = tuple(one.after(module, axis, x.shape[2 + axis]) for axis, one in enumerate(state))
    return found


@st.composite
def chains(draw, *, gaps: bool) -> tuple[nn.Sequential, torch.Tensor]:
    """Convolutions, poolings and ReLUs, each axis with its own kernel, stride, padding, dilation.

    Args:
        draw: hypothesis's.
        gaps: whether windows may have gaps: dilation, and strides larger than the kernel.
    """
    x = image = torch.rand(1, draw(st.integers(1, 3)), draw(st.integers(6, 40)), draw(st.integers(6, 40)))
    modules: list[nn.Module] = []
    for kind in draw(st.lists(st.sampled_from(["conv", "conv", "max", "average", "relu"]), min_size=1, max_size=5)):
        kernel = tuple(draw(st.integers(1, 5)) for _ in range(2))
        stride = tuple(draw(st.sampled_from([s for s in (1, 2, 3, 5) if gaps or s <= k])) for k in kernel)
        dilation = tuple(draw(st.integers(1, 3 if gaps and kind != "average" else 1)) for _ in range(2))
        most = [d * (k - 1) if gaps and kind == "conv" else k // 2 for k, d in zip(kernel, dilation, strict=True)]
        padding = tuple(draw(st.integers(0, p)) for p in most)
        ceil = draw(st.booleans())
        if any(d * (k - 1) >= n for n, k, d in zip(x.shape[2:], kernel, dilation, strict=True)):
            continue  # a tap that meets the map nowhere shows nowhere
        if kind == "conv":
            modules.append(nn.Conv2d(x.shape[1], draw(st.integers(1, 3)), kernel, stride, padding, dilation))
        elif kind == "max":
            modules.append(nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil))
        else:
            modules.append(nn.AvgPool2d(kernel, stride, padding, ceil_mode=ceil) if kind == "average" else nn.ReLU())
        x = modules[-1](x)
    return nn.Sequential(*modules, nn.ReLU()), image


@settings(max_examples=120, deadline=None)
@given(chains(gaps=True))
def test_what_the_trace_says_of_a_chain_is_what_the_formula_says(chain):
    net, image = chain
    found = trace(net, image)
    for name, expected in formulas(net, image).items():
        grid = found[name].grid
        for axis, formula in zip((grid.y, grid.x) if grid else (), expected, strict=bool(grid)):
            assert (axis.size, axis.outputs) == (formula.size, formula.outputs)
            if axis.reach is None:
                assert (axis.offset, list(axis.interior), axis.circular) == (None, [], False)
                assert axis.stride in (None, axis.size / axis.outputs), "an assumption, and documented as such"
            else:
                assert (axis.stride, axis.reach, -axis.offset) == (formula.stride, formula.reach, formula.padding)
                assert list(axis.interior) == formula.interior


@settings(max_examples=120, deadline=None)
@given(chains(gaps=False))
def test_the_trace_knows_a_chain_without_gaps_wherever_three_windows_begin_and_end_inside(chain):
    net, image = chain
    found = trace(net, image)
    for name, expected in formulas(net, image).items():
        if all(one.is_free for one in expected):
            grid = found[name].grid
            known = [axis.reach is not None for axis in (grid.y, grid.x)] if grid else [False, False]
            assert known == [one.shows for one in expected]


class Do(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Branches(nn.Module):
    """What several modules make of the same input, put together."""

    def __init__(self, together, *branches):
        super().__init__()
        self.branches, self.together = nn.ModuleList(branches), together

    def forward(self, x):
        return self.together([branch(x) for branch in self.branches])


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
    return axis.stride, axis.reach, axis.offset


# what it is: the network, then S, R and -P along rows and along columns
BEYOND_CHAINS = {
    "slicing": (Do(lambda x: x[..., ::2, ::3]), (2, 1, 0), (3, 1, 0)),
    "slicing from the second row": (Do(lambda x: x[..., 1::2, 2::3]), (2, 1, 1), (3, 1, 2)),
    "crop": (Do(lambda x: x[..., 2:-2, 3:-1]), (1, 1, 2), (1, 1, 3)),
    "crop and pool": (nn.Sequential(Do(lambda x: x[..., 3:-3, 1:-1]), nn.MaxPool2d(3)), (3, 3, 3), (3, 3, 1)),
    "asymmetric F.pad": (nn.Sequential(Do(lambda x: F.pad(x, (1, 2, 3, 0))), conv(4)), (1, 4, -3), (1, 4, -1)),
    "padding by hand": (nn.Sequential(Do(padded_by_hand), conv(5)), (1, 5, -1), (1, 5, -3)),
    "reflection": (nn.Sequential(nn.ReflectionPad2d(2), conv(5)), (1, 5, -2), (1, 5, -2)),
    "residual sum": (Branches(sum, nn.Identity(), conv(3, padding=1), conv(7, padding=3)), (1, 7, -3), (1, 7, -3)),
    "shortcut": (Branches(sum, conv(1, stride=2), conv(5, stride=2, padding=2)), (2, 5, -2), (2, 5, -2)),
    "concatenation": (Branches(torch.hstack, conv(5, padding=2), conv((1, 3), padding=(0, 1))), (1, 5, -2), (1, 5, -2)),
    "dilation": (conv(3, dilation=(2, 3), padding=(2, 0)), (1, 5, -2), (1, 7, 0)),
    "pixel unshuffle": (nn.PixelUnshuffle(2), (2, 2, 0), (2, 2, 0)),
    "in place": (nn.Sequential(conv(), nn.ReLU(inplace=True), Do(lambda x: x.mul_(2))), (1, 3, 0), (1, 3, 0)),
    "unfold": (Do(lambda x: F.unfold(x, 4, stride=4).unflatten(2, (x.shape[2] // 4, -1))), (4, 4, 0), (4, 4, 0)),
    "no channels": (nn.Sequential(conv(3, padding=1), Do(lambda x: x.mean(1))), (1, 3, -1), (1, 3, -1)),
    "columns before rows": (nn.Sequential(conv((3, 5)), Do(lambda x: x.mT)), (1, 3, 0), (1, 5, 0)),
    "channels last": (nn.Sequential(conv(3), Do(lambda x: x.permute(0, 2, 3, 1)), nn.LayerNorm(2)), (1, 3, 0), (1, 3, 0)),
    "row by row": (nn.Sequential(conv(3), Do(lambda x: x.flatten(2).mT), nn.Linear(2, 3)), (1, 3, 0), (1, 3, 0)),
    "regular adaptive pooling": (nn.AdaptiveAvgPool2d((6, 8)), (4, 4, 0), (4, 4, 0)),
    "down and up, seen as one step down": (Branches(sum, nn.MaxPool2d(4), nn.AvgPool2d(4)), (4, 4, 0), (4, 4, 0)),
    "an unused last row": (nn.Sequential(nn.MaxPool2d((5, 2)), conv(3, padding=1)), (5, 15, -5), (2, 6, -2)),
}


@pytest.mark.parametrize("name", BEYOND_CHAINS)
def test_the_windows_of_networks_that_are_no_chains(name):
    net, rows, columns = BEYOND_CHAINS[name]
    grid = traced(net)[""].grid
    assert (geometry(grid.y), geometry(grid.x)) == (rows, columns)
