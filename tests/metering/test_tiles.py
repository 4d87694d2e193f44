"""Safe tiles: what `lab.tiling` says, held against networks that are cut, run and put together by hand."""

import json
import re
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from layers import Function
from torch import nn

import lab
from lab.errors import InputError

ROUNDING = 1e-5  # relative, as everywhere: sums in float32


class UNet(nn.Module):
    """Convolutions, poolings, and the way back, with skips; channels double with each level."""

    def __init__(self, depth, up, *, padding_mode="zeros", norm=nn.Identity):
        super().__init__()
        sizes, options = [1, *(4 * 2**k for k in range(depth + 1))], {"padding": 1, "padding_mode": padding_mode}
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, **options) for a, b in pairwise(sizes))
        self.up = nn.ModuleList(up(b, a) for a, b in pairwise(sizes[1:]))
        self.join = nn.ModuleList(nn.Conv2d(2 * a, a, 3, **options) for a in sizes[1:-1])
        self.norm = norm(4)

    def forward(self, x):
        skips = []
        for level, conv in enumerate(self.down):
            x = F.relu(conv(F.max_pool2d(x, 2) if level else x))
            x = x if level else self.norm(x)
            skips.append(x)
        for level in reversed(range(len(self.up))):
            x = F.relu(self.join[level](torch.cat([self.up[level](x), skips[level]], 1)))
        return x


def transposed(inside, outside):
    return nn.ConvTranspose2d(inside, outside, 2, stride=2)


def odd_kernel(inside, outside):
    return nn.ConvTranspose2d(inside, outside, 3, stride=2, padding=1, output_padding=1)


def upsample(mode, **options):
    return lambda inside, outside: nn.Sequential(
        nn.Upsample(scale_factor=2, mode=mode, **options), nn.Conv2d(inside, outside, 1)
    )


def conv(*sizes, **options):
    return nn.Conv2d(*sizes, **options)


NETWORKS = {
    "plain convolutions": lambda: nn.Sequential(conv(1, 4, 3, padding=1), nn.ReLU(), conv(4, 2, 5, padding=2)),
    "without padding": lambda: nn.Sequential(conv(1, 4, 3), nn.ReLU(), conv(4, 2, 4)),
    "strided encoder": lambda: nn.Sequential(
        conv(1, 4, 7, stride=2, padding=3), nn.MaxPool2d(3, 2, 1), nn.ReLU(), conv(4, 4, 3, stride=2, padding=1)
    ),
    "U-Net, transposed": lambda: UNet(3, transposed),
    "U-Net, transposed, kernel 3": lambda: UNet(3, odd_kernel),
    "U-Net, nearest": lambda: UNet(2, upsample("nearest")),
    "U-Net, bilinear": lambda: UNet(2, upsample("bilinear", align_corners=False)),
    "U-Net, reflect": lambda: UNet(2, transposed, padding_mode="reflect"),
    "dilated": lambda: nn.Sequential(
        conv(1, 4, 3, padding=4, dilation=4), nn.ReLU(), conv(4, 2, 3, padding=1, dilation=(1, 2))
    ),
    "pixel shuffle": lambda: nn.Sequential(conv(1, 8, 5, padding=2), nn.ReLU(), nn.PixelShuffle(2)),
    "rows and columns differ": lambda: nn.Sequential(
        conv(1, 4, (5, 3), stride=(4, 1), padding=(2, 1)), nn.ReLU(), conv(4, 2, (1, 7), padding=(0, 3))
    ),
    "more padding than kernel": lambda: nn.Sequential(conv(1, 4, 3, padding=3), nn.ReLU(), conv(4, 1, 3)),
}
networks = pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)


def near(length, multiple):
    """A multiple; an odd one, so that no larger one divides it."""
    return (length // multiple // 2 * 2 + 1) * multiple


def made(make):
    torch.manual_seed(0)
    return make().eval()


@pytest.fixture(scope="module")
def image():
    """Larger than every tile with its halo, and of different height and width."""
    return lab.fractal_images(1, (192, 160), channels=1, seed=3)


@torch.no_grad()
def put_together(net, image, core, halo, step, whole, first):
    """The output for tiles, beginning at `first`; nan where no tile is. The last core ends where the image ends."""
    found = torch.full_like(whole, torch.nan)
    ends = [int(n * s) for n, s in zip(whole.shape[2:], step, strict=True)]
    for y in range(first[0], ends[0], core[0]):
        for x in range(first[1], ends[1], core[1]):
            top, left = max(y - halo[0][0], 0), max(x - halo[1][0], 0)
            bottom = y + core[0] + halo[0][1] if y + core[0] < ends[0] else None
            right = x + core[1] + halo[1][1] if x + core[1] < ends[1] else None
            tile = net(image[:, :, top:bottom, left:right])
            inner = tile[:, :, int((y - top) / step[0]) :, int((x - left) / step[1]) :]
            target = found[:, :, int(y / step[0]) :, int(x / step[1]) :]
            target = target[:, :, : int(core[0] / step[0]), : int(core[1] / step[1])]
            here = inner[:, :, : target.shape[2], : target.shape[3]]
            target[:, :, : here.shape[2], : here.shape[3]] = here
    return found


def seam(net, image, core, halo, step, first=(0, 0)):
    """The largest difference from the output for the whole image, over its largest; nan where outputs are missing."""
    with torch.no_grad():
        whole = net(image)
    there = tuple(slice(int(f / s), None) for f, s in zip(first, step, strict=True))
    tiled = put_together(net, image, core, halo, step, whole, first)
    return ((tiled - whole)[..., *there].abs().max() / whole.abs().max()).item()


@networks
def test_tiles_with_this_halo_give_what_the_whole_image_gives(make, image):
    net = made(make)
    found = lab.tiling(net, image)
    assert found.why == ""
    assert found.error <= ROUNDING
    py, px = found.multiple
    for core, first in [((near(40, py), near(32, px)), (0, 0)), ((near(50, py), near(70, px)), (py, 3 * px))]:
        assert seam(net, image, core, found.halo, found.step, first) <= ROUNDING, (core, first)


@networks
def test_a_halo_that_is_one_period_smaller_on_any_side_leaves_seams(make, image):
    """In float64, for what is one period away enters with small weights."""
    net, image = made(make).double(), image.double()
    found = lab.tiling(net, image)
    core = tuple(near(60, p) for p in found.multiple)
    assert seam(net, image, core, found.halo, found.step) <= 1e-12
    for axis, end in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        halo = [list(one) for one in found.halo]
        halo[axis][end] -= found.multiple[axis]
        if halo[axis][end] >= 0:
            assert not seam(net, image, core, halo, found.step) <= 1e-9, (axis, end)


@pytest.mark.parametrize("name", [name for name in NETWORKS if "U-Net" in name])
@torch.no_grad()
def test_a_tile_that_begins_off_the_multiple_leaves_seams(name, image):
    """With a halo that is wider than needed: all that is wrong is where the tile begins."""
    net = made(NETWORKS[name])
    whole, (p, _) = net(image), lab.tiling(net, image).multiple
    error = {}
    for begin in (5 * p, 5 * p + p // 2):
        tile = net(image[:, :, begin : begin + 112])[:, :, 40:72]
        error[begin] = (tile - whole[:, :, begin + 40 : begin + 72]).abs().max() / whole.abs().max()
    assert error[5 * p] <= ROUNDING
    assert error[5 * p + p // 2] > 50 * ROUNDING


@torch.no_grad()
def test_where_padding_is_circular_the_halo_comes_from_the_other_edge(image):
    net = made(lambda: UNet(2, transposed, padding_mode="circular"))
    found = lab.tiling(net, image)
    assert (found.circular, found.why) == ((True, True), "")
    whole, ((top, bottom), (left, right)) = net(image), found.halo
    for y, x in [(0, 0), (144, 112), (48, 0)]:  # tiles of 48 × 48, at a corner, at the opposite one, at an edge
        rows = torch.arange(y - top, y + 48 + bottom) % 192
        columns = torch.arange(x - left, x + 48 + right) % 160
        tile = net(image[:, :, rows[:, None], columns])[:, :, top : top + 48, left : left + 48]
        expected = whole[:, :, y : y + 48, x : x + 48]
        assert (tile - expected).abs().max() <= ROUNDING * whole.abs().max()
    without = net(image[:, :, : 48 + bottom, : 48 + right])[:, :, :48, :48]
    assert (without - whole[:, :, :48, :48]).abs().max() > 1000 * ROUNDING * whole.abs().max()


def test_what_is_found_does_not_depend_on_the_size_of_the_images():
    net = made(lambda: UNet(3, transposed))
    images = lab.fractal_images(1, (160, 200), channels=1)
    small, large = (lab.tiling(net, images[:, :, :h, :w]) for h, w in ((16, 24), (160, 200)))
    assert (small.halo, small.multiple) == (large.halo, large.multiple)
    assert (small.size, large.size) == ((88, 88), (160, 200)), "the small one is continued by mirrored copies"


def test_outputs_that_are_finer_or_coarser_than_the_image_are_put_where_they_belong():
    images = lab.fractal_images(1, (64, 64), channels=1)
    finer = lab.tiling(made(NETWORKS["pixel shuffle"]), images)
    coarser = lab.tiling(made(NETWORKS["strided encoder"]), images)
    assert [str(one.step[0]) for one in (finer, coarser)] == ["1/2", "8"]


def test_the_smallest_tile_that_pays_is_half_of_what_is_computed(image):
    found = lab.tiling(made(NETWORKS["rows and columns differ"]), image)
    for step in (0, 1):
        (t, u), ((top, bottom), (left, right)) = found.smallest_tile, found.halo
        t, u = t - step * found.multiple[0], u - step * found.multiple[1]
        assert (2 * t * u >= (t + top + bottom) * (u + left + right)) == (step == 0)


def with_noise(x):
    return x + torch.rand_like(x)


class Positions(nn.Module):
    """Adds a value for each column."""

    def __init__(self):
        super().__init__()
        self.column = nn.Parameter(torch.randn(24))

    def forward(self, x):
        return x + self.column


class SqueezeExcite(nn.Module):
    def forward(self, x):
        return x * x.mean((2, 3), keepdim=True).sigmoid()


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        tokens = x.flatten(2).mT
        return self.inner(tokens, tokens, tokens)[0].mT.unflatten(2, x.shape[2:])


FORBIDDEN = {
    "instance norm": (lambda: nn.InstanceNorm2d(4), "1 on, every output sees the whole image"),
    "group norm": (lambda: nn.GroupNorm(2, 4), "1 on, every output sees the whole image"),
    "squeeze and excitation": (SqueezeExcite, "1 on, every output sees the whole image"),
    "attention": (Attention, "1.inner on, every output sees the whole image"),
    "positional values": (Positions, r"1\.column has a value for each position"),
    "noise": (lambda: Function(with_noise), "1: random numbers"),
    "corners aligned": (lambda: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), "on a regular grid"),
    "as many outputs whatever the size": (lambda: nn.AdaptiveAvgPool2d(8), "of 1 depends on the size of the image"),
    "fully connected": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(4 * 24 * 24, 24 * 24), nn.Unflatten(1, (1, 24, 24))),
        "1.1 weighs positions",
    ),
}


@pytest.mark.parametrize(("make", "why"), FORBIDDEN.values(), ids=FORBIDDEN)
def test_the_layer_that_forbids_tiles_is_named(make, why):
    images = lab.fractal_images(1, (24, 24), channels=1)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), make()).eval()
    found = lab.tiling(net, images)
    assert re.search(why, found.why), found.why
    assert (found.halo, found.multiple, found.smallest_tile) == (None, None, None)
    before = lab.tiling(net, images, layer="0")
    assert (before.why, before.halo) == ("", ((1, 1), (1, 1)))


def test_what_no_trace_can_see_is_found_by_running():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), Function(lambda x: x * (x.shape[2] / 64))).eval()
    found = lab.tiling(net, lab.fractal_images(1, (64, 64), channels=1))
    assert found.halo is None
    assert found.error > 0.1
    assert re.match(r"tiles differ from the whole by \S+ of the largest output: is there what cannot", found.why)


def test_tiles_that_turn_into_nan_are_no_proof():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), Function(lambda x: x * (1.0 if x.shape[2] >= 64 else torch.nan)))
    found = lab.tiling(net, lab.fractal_images(1, (64, 64), channels=1))
    assert (found.halo, found.why != "") == (None, True)


def test_images_whose_size_is_no_multiple_may_have_to_be_padded():
    torch.manual_seed(0)

    def halved(x):
        return F.interpolate(F.avg_pool2d(x, 2), size=x.shape[2:], mode="bilinear")

    net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), Function(halved)).eval()
    images = lab.fractal_images(1, (65, 65), channels=1)
    assert lab.tiling(net, images[:, :, :64, :64]).why == ""
    assert "pad images to multiples of 2 × 2 px" in lab.tiling(net, images).why


def test_of_several_outputs_the_first_map_is_taken_or_the_one_asked_for():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.near, self.far = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(1, 2, 7, padding=3)

        def forward(self, x):
            near, far = self.near(x), self.far(x)
            return {"pooled": far.mean((2, 3)), "near": near, "far": far}

    torch.manual_seed(0)
    net, images = Two().eval(), lab.fractal_images(1, (40, 40), channels=1)
    assert [lab.tiling(net, images, layer=layer).halo[0][0] for layer in ("", "[far]", "far")] == [1, 3, 3]
    with pytest.raises(InputError, match=r"far2 returns no tensor: the last maps are far, \[near\], \[far\]"):
        lab.tiling(net, images, layer="far2")
    with pytest.raises(InputError, match=r"returns 2 values without a place"):
        lab.tiling(net, images, layer="[pooled]")


def test_a_layer_before_a_head_that_takes_one_size_only_can_be_cut():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Flatten(), nn.Linear(2 * 28 * 28, 10))
    digits = lab.fractal_images(1, (28, 28), channels=1)
    assert lab.tiling(net, digits, layer="0").halo == ((1, 1), (1, 1))


def test_a_model_of_several_inputs_is_run_by_a_function_of_the_image():
    class Conditioned(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 5, padding=2)

        def forward(self, x, time):
            return self.conv(x) * time

    torch.manual_seed(0)
    net, images = Conditioned(), lab.fractal_images(1, (40, 40), channels=1)
    before = {name: one.clone() for name, one in net.state_dict().items()}
    found = lab.tiling(net, images, forward=lambda x: net(x, 3.0))
    assert (found.why, found.halo) == ("", ((2, 2), (2, 2)))
    assert net.training
    assert all(torch.equal(one, before[name]) for name, one in net.state_dict().items())


def test_outputs_that_are_all_0_prove_nothing():
    net = nn.Conv2d(1, 1, 3)
    nn.init.zeros_(net.weight)
    nn.init.zeros_(net.bias)
    with pytest.raises(InputError, match="outputs must be finite, and not all 0"):
        lab.tiling(net, lab.fractal_images(1, (40, 40), channels=1))


def test_what_is_found_is_told_in_words_and_as_plain_values(image):
    net = made(lambda: UNet(2, transposed, norm=nn.InstanceNorm2d))
    assert lab.tiling(net, image).lines() == [
        "No tiles: from norm on, every output sees the whole image, the border included."
    ]
    found = lab.tiling(made(NETWORKS["U-Net, nearest"]), image)
    first, second, *_ = found.lines()
    (top, bottom), (left, right) = found.halo
    assert first == f"Halo: top {top}, bottom {bottom}, left {left}, right {right} px; none at the image's own edge."
    assert second.endswith("multiples of 4 × 4 px.")
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert (plain["step"], plain["multiple"], plain["why"]) == (["1", "1"], [4, 4], "")
