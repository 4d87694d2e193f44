"""Each kind of operation by the smallest network that shows it: what theory says, against the independent twin."""

import pytest
import torch
import torch.nn.functional as F
from layers import Function
from torch import nn
from twins import as_maps, equivariance_error, moved, outputs, relative

import lab

EXACT = 1e-10  # relative, float64: sums of at most 10,000 products


def twin_error(model, images, t, geometry, *, wrap):
    """What f(T x) and T f(x) differ by where the meter claims that they can be compared."""
    key = (geometry.layer.module, geometry.layer.call, geometry.layer.place)
    fx, ftx = outputs(model, images)[key], outputs(model, moved(images, t, wrap=wrap))[key]
    if geometry.grid is None:
        return relative(fx, ftx)
    fx, ftx = as_maps(geometry.layout, fx), as_maps(geometry.layout, ftx)
    return equivariance_error(geometry.grid, fx, ftx, t, wrap=wrap)


class Chain(nn.Sequential):
    """Functions as layers, behind a convolution whose padding shows."""

    def __init__(self, *functions):
        super().__init__(
            nn.Conv2d(1, 4, 3, padding=1), *(f if isinstance(f, nn.Module) else Function(f) for f in functions)
        )


def sized(*size, **options):
    return lambda x: F.interpolate(x, size, **options)


def blurred(x):
    line = torch.tensor([1.0, 2.0, 1.0], dtype=x.dtype) / 4
    kernel = (line[:, None] * line).expand(x.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(x, (1, 1, 1, 1), "circular"), kernel, stride=2, groups=x.shape[1])


class OwnKernel(nn.Module):
    """A kernel that the image makes. B. Klein et al., A Dynamic Convolutional Layer, CVPR 2015."""

    def __init__(self):
        super().__init__()
        self.kernels = nn.Linear(4, 36)

    def forward(self, x):
        kernels = self.kernels(x.mean((2, 3))).view(-1, 1, 3, 3)
        return F.conv2d(x.reshape(1, -1, *x.shape[2:]), kernels, groups=len(kernels)).unflatten(1, (-1, 4))[0]


def padded_by_slices(x):
    out = x.new_zeros(*x.shape[:2], x.shape[2] + 2, x.shape[3] + 2)
    out[:, :, 1:-1, 1:-1] = x
    return out


def unfolded(x):
    return F.unfold(x, 3, padding=1).unflatten(1, (4, 9)).amax(2).unflatten(2, x.shape[2:])


def sorted_channels(x):
    return x.sort(1).values + x.topk(1, 1).values + x.cumsum(1)


class Beside(nn.Module):
    """A U-Net's two halves, as channels beside each other."""

    def __init__(self):
        super().__init__()
        self.low = nn.Sequential(nn.AvgPool2d(3), nn.GELU(), nn.Conv2d(4, 4, 3), nn.Upsample(scale_factor=3))

    def forward(self, x):
        return torch.cat([x[:, :, 3:-3, 3:-3], self.low(x)], 1)


def with_columns(x):
    return torch.cat([x, torch.linspace(0, 1, x.shape[3]).to(x).expand(len(x), 1, *x.shape[2:])], 1)


def tokens(x):
    return x.flatten(2).mT


def read_polyphase(x):
    """Adaptive polyphase sampling, with numbers of Python."""
    grids = [x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]
    return torch.stack([max((g[k] for g in grids), key=lambda one: one.norm().item()) for k in range(len(x))])


def in_windows(x):
    """Attention of each position to the four of its window."""
    n, c, h, w = x.shape
    windows = x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(n, -1, 4, c)
    out = (windows @ windows.mT).softmax(-1) @ windows
    return out.view(n, h // 2, w // 2, 2, 2, c).permute(0, 5, 1, 3, 2, 4).reshape(x.shape)


CASES = {
    "attention in windows": ([in_windows], (4, -2), "background", "exact"),
    "positions chosen by numbers that forward reads": ([read_polyphase], (4, 0), "background", "untestable"),
    "maps of several windows beside each other": ([Beside()], (3, -6), "background", "exact"),
    "the mean of maps of several windows": ([Beside(), lambda x: x.amax((2, 3))], (3, -6), "background", "broken"),
    "a linear layer that takes maps of several windows": (
        [Beside(), nn.Flatten(), nn.Linear(8 * 18 * 30, 3)],
        (3, -6),
        "background",
        "broken",
    ),
    "each position with each other, which is no map": (
        [lambda x: tokens(x) @ tokens(x).mT],
        (2, -1),
        "background",
        "untestable",
    ),
    "a few outputs far apart, which are a map": ([nn.Conv2d(4, 2, 5, 9)], (9, 0), "background", "exact"),
    "coordinates beside a skip, whose channels have other windows": (
        [Beside(), with_columns],
        (3, -3),
        "background",
        "broken",
    ),
    "values along rows, beside polyphase components": (
        [nn.PixelUnshuffle(2), lambda x: x + torch.arange(x.shape[2]).sin()[:, None]],
        (4, 0),
        "background",
        "broken",
    ),
    "a linear layer that weighs rows, after the mean over columns, for a shift along these": (
        [nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), lambda x: x.mean(3), nn.Flatten(), nn.Linear(96, 3)],
        (0, 5),
        "wrap",
        "broken",
    ),
    "the same positions, once more": ([lambda x: x.repeat(1, 1, 2, 1)], (1, 0), "background", "untestable"),
    "a flattened crop of several channels": (
        [lambda x: x[:, :, 1:, 1:].flatten(1)],
        (1, -1),
        "background",
        "untestable",
    ),
    "a dilated transposed convolution, whose windows go to and fro": (
        [nn.Conv2d(4, 4, 3, 2), nn.ConvTranspose2d(4, 3, 3, 3, padding=1, dilation=2, output_padding=1)],
        (2, -2),
        "background",
        "exact",
    ),
    "polyphase components as channels": ([nn.PixelUnshuffle(2)], (2, -4), "background", "exact"),
    "a convolution with a kernel that the image makes": (
        [OwnKernel()],
        (2, -1),
        "background",
        "broken",
    ),
    "windows by unfold": ([unfolded], (2, -1), "background", "exact"),
    "padding by slices": ([padded_by_slices, nn.Conv2d(4, 2, 3)], (2, -1), "background", "exact"),
    "channels in order": ([sorted_channels], (2, -1), "background", "exact"),
    "positions in order": ([lambda x: x.sort(2).values], (2, -1), "background", "untestable"),
    "a triangle of zeros": ([torch.tril, nn.Conv2d(4, 2, 3)], (2, -1), "background", "broken"),
    "another type in between": ([lambda x: x.float().double()], (2, -1), "background", "exact"),
    "interpolation between the corners, whose step is not the image's": (
        [nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)],
        (4, 0),
        "background",
        "untestable",
    ),
    "interpolation to a size that the image's does not divide": (
        [sized(49, 73, mode="bilinear")],
        (4, 0),
        "background",
        "untestable",
    ),
    "interpolation by three, every third output of which lies on an input": (
        [nn.Upsample(scale_factor=3, mode="bicubic")],
        (5, -1),
        "background",
        "exact",
    ),
    "interpolation by three behind a stride of two, in thirds of pixels that float32 rounds": (
        [nn.MaxPool2d(2), nn.Upsample(scale_factor=3, mode="bicubic")],
        (2, -2),
        "background",
        "exact",
    ),
    "as many outputs as pixels, after a period that does not go round the image evenly": (
        [nn.AvgPool2d(2, 5), nn.ConvTranspose2d(4, 4, 3, 5), lambda x: F.pad(x, (0, 3, 0, 3))],
        (5, 0),
        "wrap",
        "exact",
    ),
    "values along columns, beside strides along rows": (
        [blurred, lambda x: x + torch.arange(x.shape[3]).sin()],
        (4, 0),
        "wrap",
        "exact",
    ),
}


@pytest.mark.parametrize("case", CASES, ids=list(CASES))
def test_theory_says_what_the_twin_sees(case):
    layers, t, mode, expected = CASES[case]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model, images = Chain(*layers).double().eval(), torch.rand(3, 1, 24, 36, dtype=torch.float64)
    report = lab.meter(model, images, [t], mode=mode)
    row = report.rows[-1]
    error = twin_error(model, images, t, report.geometry[row.layer], wrap=mode == "wrap")
    assert row.theory == expected, row.why
    bound = 1e-5 if report.geometry[row.layer].facts.rounding > 1e-9 else EXACT  # on the way float32
    assert (error is not None and error < bound) == (expected == "exact")


def test_noise_that_sums_up_to_nothing_is_found():
    model, images = Chain(lambda x: x + 1e-3 * torch.randn_like(x)).eval(), torch.rand(2, 1, 64, 64)
    assert [row.theory for row in lab.meter(model, images, [(1, 0)]).rows] == ["exact", "untestable"]
