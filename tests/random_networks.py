"""Small networks drawn at random, from all that changes which pixels an output sees."""

import math
import random
from dataclasses import dataclass
from fractions import Fraction

import torch
import torch.nn.functional as F
from layers import Branches, Function
from torch import nn

ACTIVATIONS = [nn.ReLU(), nn.GELU(), nn.LeakyReLU(0.1), nn.SiLU(), nn.Hardswish(), nn.Softplus(), nn.Tanh(), nn.ELU()]


class OwnForward(nn.Module):
    """Modules and functions, one after another; a function is no module, so that nothing tells of it."""

    def __init__(self, steps):
        super().__init__()
        for i, step in enumerate(steps):
            setattr(self, f"s{i}", step.function if isinstance(step, Function) and i % 3 else step)
        self.steps = len(steps)

    def forward(self, x):
        for i in range(self.steps):
            x = getattr(self, f"s{i}")(x)
        return x


class Attention(nn.Module):
    """Every position with every other, or with those of its window; with or without values for each position."""

    def __init__(self, channels, window=None, bias=None, positions=None, fused=True):
        super().__init__()
        self.qkv, self.window, self.fused = nn.Conv2d(channels, 3 * channels, 1), window, fused
        self.bias = nn.Parameter(torch.randn(bias)) if bias else None
        self.positions = nn.Parameter(torch.randn(positions)) if positions else None

    def forward(self, x):
        n, c, h, w = x.shape
        if self.positions is not None:
            x = x + self.positions
        p, r = self.window or (h, w)
        tokens = self.qkv(x).view(n, 3, c, h // p, p, w // r, r).permute(1, 0, 3, 5, 4, 6, 2)
        q, k, v = tokens.reshape(3, n, -1, p * r, c)
        if self.fused:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias)
        else:
            scores = q @ k.transpose(-2, -1) / c**0.5
            out = (scores if self.bias is None else scores + self.bias).softmax(-1) @ v
        out = out.reshape(n, h // p, w // r, p, r, c).permute(0, 5, 1, 3, 2, 4)
        return x + out.reshape(n, c, h, w)


class Tokens(nn.Module):
    """The library's attention over all positions."""

    def __init__(self, channels, positions):
        super().__init__()
        self.attention = nn.MultiheadAttention(channels, 1, batch_first=True)
        self.positions = nn.Parameter(torch.randn(positions, channels)) if positions else None

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        tokens = tokens if self.positions is None else tokens + self.positions
        return (tokens + self.attention(tokens, tokens, tokens)[0]).transpose(1, 2).unflatten(2, x.shape[2:])


class Scaled(nn.Module):
    """Squeeze and excite."""

    def __init__(self, channels):
        super().__init__()
        self.weigh = nn.Linear(channels, channels)

    def forward(self, x):
        return x * torch.sigmoid(self.weigh(x.mean((2, 3))))[:, :, None, None]


class Added(nn.Module):
    """Values of some shape, added or multiplied; as a parameter or a buffer."""

    def __init__(self, values, *, buffer=False, times=False):
        super().__init__()
        self.times = times
        if buffer:
            self.register_buffer("values", values)
        else:
            self.values = nn.Parameter(values)

    def forward(self, x):
        return x * self.values if self.times else x + self.values


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each position."""

    def __init__(self, channels):
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x):
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def with_coordinates(x):
    rows = torch.linspace(-1, 1, x.shape[2], dtype=x.dtype)[:, None].expand(len(x), 1, -1, x.shape[3])
    return torch.cat([x, rows], 1)


@dataclass
class Network:
    """A network, and what is known of it from how it was made.

    Attributes:
        model: in evaluation mode, of float64.
        size: height and width of its images.
        channels: of its images.
        local: an output depends on nothing but its window, whatever the image's size.
        step: along rows and columns, of its output, by the definition.
        period: likewise.
        made: the names of its steps, for messages.
    """

    model: nn.Module
    size: tuple[int, int]
    channels: int
    local: bool
    step: tuple[Fraction, Fraction]
    period: tuple[int, int]
    made: list[str]

    @property
    def smallest(self):
        """Whether it is a chain of convolutions, maxima and U-Nets, so that no smaller period than its own can be."""
        return self.local and all(name.partition(":")[0] in ("conv", "activation", "unet") for name in self.made)

    def images(self, n, *, seed=0):
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(n, self.channels, *self.size, generator=generator, dtype=torch.float64) + 0.1


class Maker:
    """Draws steps that fit an activation, and keeps account of step and period."""

    def __init__(self, rng):
        self.rng, self.local, self.made = rng, True, []
        self.step, self.period = [Fraction(1)] * 2, [1, 1]

    def two(self, *values):
        return (self.rng.choice(values), self.rng.choice(values))

    def strides(self, *values):
        """A stride, mostly the same along both axes, as few networks have another."""
        one = self.rng.choice(values)
        return (one, one) if self.rng.random() < 0.8 else self.two(*values)

    def moves(self, stride=(1, 1), up=(1, 1)):
        for i in (0, 1):
            self.step[i] = self.step[i] * stride[i] / up[i]
            self.period[i] = math.lcm(self.period[i], self.step[i].numerator)

    # each returns a module, or None where none fits

    def conv(self, x):
        rng, c = self.rng, x.shape[1]
        kernel, stride = self.two(1, 2, 3, 3, 3, 4, 5), self.strides(1, 1, 1, 2, 2, 3)
        dilation = self.two(1, 1, 1, 2)
        groups = rng.choice([1, 1, c])
        out = groups * rng.choice([1, 2, 3]) if groups > 1 else rng.choice([2, 3, 4])
        span = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        padding = tuple(rng.choice([0, s // 2, s // 2, s]) for s in span)
        mode = rng.choice(["zeros", "zeros", "zeros", "circular", "reflect", "replicate"])
        if stride == (1, 1) and kernel[0] % 2 == kernel[1] % 2 == 1 and rng.random() < 0.2:
            padding = "same"
        if min(x.shape[2:]) <= max(span) + 1:
            return None
        self.moves(stride)
        return nn.Conv2d(c, out, kernel, stride, padding, dilation, groups, rng.random() < 0.7, mode)

    def pool(self, x):
        rng, kernel = self.rng, self.strides(2, 2, 3, 4)
        stride = kernel if rng.random() < 0.6 else self.strides(1, 2, 3)
        padding = tuple(rng.choice([0, 0, k // 2]) for k in kernel)
        if min(x.shape[2:]) <= 2 * max(kernel):
            return None
        self.moves(stride)
        options = {"ceil_mode": rng.random() < 0.4}
        kind = rng.choice(["max", "max", "average", "power", "dilated"])
        if kind == "power":
            return nn.LPPool2d(2, kernel, stride, **options)
        if kind == "average":
            return nn.AvgPool2d(kernel, stride, padding, **options, count_include_pad=rng.random() < 0.5)
        return nn.MaxPool2d(kernel, stride, padding, dilation=2 if kind == "dilated" else 1, **options)

    def adaptive(self, x):
        self.local = False
        size = tuple(self.rng.choice([2, 3, n // 2, n // 3, n, None]) for n in x.shape[2:])
        return self.rng.choice([nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d])(size)

    def pad(self, x):
        pads = [self.rng.choice([0, 0, 1, 2, -1, 3]) for _ in range(4)]
        mode = self.rng.choice(["constant", "constant", "circular", "reflect", "replicate"])
        if mode != "constant":
            pads = [max(p, 0) for p in pads]
        if min(x.shape[2:]) < 7:
            return None
        value = {"value": self.rng.choice([0.0, 1.0])} if mode == "constant" else {}
        return Function(lambda x: F.pad(x, pads, mode, **value))

    def transposed(self, x):
        kernel, stride = self.two(1, 2, 3, 4), self.strides(1, 2, 2, 3)
        if max(x.shape[2:]) > 30:
            return None
        c = x.shape[1]
        self.moves(up=stride)
        return nn.ConvTranspose2d(
            c,
            self.rng.choice([2, 3]),
            kernel,
            stride,
            padding=tuple(self.rng.choice([0, 0, (k - 1) // 2]) for k in kernel),
            output_padding=tuple(self.rng.randrange(s) for s in stride),
            dilation=self.rng.choice([1, 1, 2]) if min(stride) > 1 else 1,
        )

    def upsample(self, x):
        factor = self.strides(2, 2, 3)
        if max(x.shape[2:]) > 30:
            return None
        kind = self.rng.choice(["nearest", "nearest-exact", "bilinear", "bicubic", "sized", "corners"])
        if kind == "sized":
            self.local = False
            size = tuple(n * self.rng.choice([1, 2, 3]) + self.rng.choice([0, 0, 1]) for n in x.shape[2:])
            mode = self.rng.choice(["nearest", "bilinear", "bicubic"])
            return Function(lambda x: F.interpolate(x, size, mode=mode))
        if kind == "corners":
            self.local = False
            return nn.Upsample(scale_factor=factor, mode="bilinear", align_corners=True)
        self.moves(up=factor)
        return nn.Upsample(scale_factor=factor, mode=kind)

    def shuffle(self, x):
        if self.rng.random() < 0.5 and x.shape[2] % 2 == x.shape[3] % 2 == 0:
            self.moves((2, 2))
            return nn.PixelUnshuffle(2)
        if x.shape[1] % 4 == 0 and max(x.shape[2:]) < 30:
            self.moves(up=(2, 2))
            return nn.PixelShuffle(2)
        return None

    def cut(self, x):
        """A crop, every second position, or the positions in another order."""
        if min(x.shape[2:]) < 8:
            return None
        kind = self.rng.choice(["crop", "crop", "slice", "roll", "flip", "turn"])
        a, b = self.rng.choice([1, 2, 3]), self.rng.choice([0, 1, 2])
        if kind == "crop":
            return Function(lambda x: x[:, :, a : x.shape[2] - b, b : x.shape[3] - a])
        if kind == "slice":
            start = self.rng.choice([0, 1])
            self.moves((2, 2))
            return Function(lambda x: x[:, :, start::2, ::2])
        self.local = False
        if kind == "roll":
            return Function(lambda x: x.roll((a, -b), (2, 3)))
        return Function((lambda x: x.flip(3)) if kind == "flip" else (lambda x: x.mT))

    def norm(self, x):
        c, kind = x.shape[1], self.rng.choice(["batch", "batch", "instance", "group", "channels", "local", "layer"])
        if kind in ("instance", "group", "layer"):
            self.local = False
        if kind == "layer":
            shape = self.rng.choice([tuple(x.shape[1:]), tuple(x.shape[2:])])
            return nn.LayerNorm(shape, elementwise_affine=self.rng.random() < 0.5)
        if kind == "instance":
            return nn.InstanceNorm2d(c, affine=True, track_running_stats=self.rng.random() < 0.2)
        made = {"batch": nn.BatchNorm2d, "channels": ChannelNorm}
        if kind in made:
            return made[kind](c)
        return nn.GroupNorm(self.rng.choice([1, c]), c) if kind == "group" else nn.LocalResponseNorm(3)

    def activation(self, _x):
        return self.rng.choice([*ACTIVATIONS, nn.Softmax(1), nn.Dropout(0.5), Function(torch.square)])

    def squeeze(self, x):
        self.local = False
        return Scaled(x.shape[1])

    def attend(self, x):
        self.local = False
        _n, c, h, w = x.shape
        if h * w > 600:
            return None
        fused, kind = self.rng.random() < 0.5, self.rng.choice(["full", "library", "window", "biased", "placed"])
        if kind == "library":
            return Tokens(c, self.rng.choice([0, h * w]))
        if kind == "placed":
            return Attention(c, positions=self.rng.choice([(1, c, h, w), (h, 1), (w,), (1, 1, h, w)]), fused=fused)
        p, r = (next((k for k in (4, 3, 2) if m % k == 0), 1) for m in (h, w))
        if kind == "full" or p * r == 1:
            return Attention(c, fused=fused)
        windows = (h // p) * (w // r)
        for i, k in enumerate((p, r)):
            self.period[i] = math.lcm(self.period[i], (self.step[i] * k).numerator)
        bias = self.rng.choice([(p * r, p * r), (windows, p * r, p * r)]) if kind == "biased" else None
        return Attention(c, (p, r), bias=bias, fused=fused)

    def place(self, x):
        self.local = False
        _n, c, h, w = x.shape
        shapes = [(w,), (h, 1), (h, w), (c, h, w), (1, c, h, w), (1, 1, h, 1), (c, 1, w)]
        kind = self.rng.choice(["values", "values", "coordinates", "made"])
        if kind == "values":
            values = torch.randn(self.rng.choice(shapes))
            return Added(values, buffer=self.rng.random() < 0.5, times=self.rng.random() < 0.3)
        if kind == "coordinates":
            return Function(with_coordinates)
        return Function(lambda x: x + torch.arange(x.shape[3], dtype=x.dtype).sin())

    def branches(self, x):
        c, kernel = x.shape[1], self.rng.choice([1, 3])
        kind = self.rng.choice(["add", "add", "cat", "crop"])
        inner = nn.Sequential(nn.Conv2d(c, c, kernel, padding=kernel // 2), nn.GELU())
        if kind == "crop" and min(x.shape[2:]) > 8:
            cropped = Function(lambda x: x[:, :, 1:-1, 1:-1])
            return Branches(lambda y: torch.cat(y, 1), nn.Conv2d(c, 2, 3), cropped)
        return Branches(sum if kind == "add" else (lambda y: torch.cat(y, 1)), nn.Identity(), inner)

    def unet(self, x):
        """Down, something, up, and beside what was there before, padded or cropped to its size."""
        c, rng = x.shape[1], self.rng
        if min(x.shape[2:]) < 12:
            return None
        k = rng.choice([2, 2, 3])
        down = rng.choice([nn.MaxPool2d(k), nn.Conv2d(c, c, k, k), nn.AvgPool2d(k), nn.Conv2d(c, c, 3, k, padding=1)])
        up = rng.choice(
            [nn.ConvTranspose2d(c, c, k, k), nn.Upsample(scale_factor=k), nn.Upsample(scale_factor=k, mode="bilinear")]
        )
        for i in (0, 1):
            self.period[i] = math.lcm(self.period[i], (self.step[i] * k).numerator)

        def together(both):
            skip, low = both
            dy, dx = skip.shape[2] - low.shape[2], skip.shape[3] - low.shape[3]
            return torch.cat([skip, F.pad(low, (0, dx, 0, dy))], 1)

        middle = nn.Conv2d(c, c, 3, padding=1)
        return Branches(together, nn.Identity(), nn.Sequential(down, nn.GELU(), middle, nn.GELU(), up))

    def blur(self, x):
        c = x.shape[1]
        line = torch.tensor([1.0, 2.0, 1.0], dtype=x.dtype) / 4
        kernel = (line[:, None] * line).expand(c, 1, 3, 3).clone()
        mode = self.rng.choice(["circular", "reflect", "constant"])
        if min(x.shape[2:]) < 6:
            return None
        self.moves((2, 2))
        return Function(lambda x: F.conv2d(F.pad(x, (1, 1, 1, 1), mode), kernel, stride=2, groups=c))

    def head(self, x):
        _n, c, h, w = x.shape
        kind = self.rng.choice(["flat", "mean", "max", "functional", "conv", "einsum", "pooled", "stripes"])
        if kind == "flat":
            return nn.Sequential(nn.Flatten(), nn.Linear(c * h * w, 4))
        if kind == "mean":
            return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 4))
        if kind == "max":
            return nn.Sequential(Function(lambda x: x.amax((2, 3))), nn.Linear(c, 4), nn.ReLU(), nn.Linear(4, 3))
        if kind == "conv":
            return nn.Sequential(nn.Conv2d(c, 4, (h, w)), nn.Flatten())
        if kind == "pooled":
            return nn.Sequential(nn.AdaptiveAvgPool2d((2, 2)), nn.Flatten(), nn.Linear(4 * c, 3))
        if kind == "stripes":
            return nn.Sequential(Function(lambda x: x.mean(3)), nn.Flatten(), nn.Linear(c * h, 3))
        weight = torch.randn(4, c, h, w, dtype=x.dtype)
        if kind == "einsum":
            return Function(lambda x: torch.einsum("nchw,kchw->nk", x, weight))
        return Function(lambda x: F.linear(F.max_pool2d(x, 1).flatten(1), weight.flatten(1)))


COMMON = [
    "conv",
    "conv",
    "conv",
    "pool",
    "activation",
    "norm",
    "transposed",
    "upsample",
    "cut",
    "branches",
    "unet",
    "pad",
]
RARE = ["adaptive", "shuffle", "squeeze", "attend", "place", "blur"]
CHAIN = ["conv", "conv", "pool", "activation", "pad", "transposed", "upsample"]


def random_network(seed):
    """One network."""
    rng = random.Random(seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return _made(rng)


def _made(rng):
    size, channels = (rng.randint(20, 36), rng.randint(20, 36)), rng.choice([1, 2, 3])
    if rng.random() < 0.5:
        size = (rng.choice([24, 36]), rng.choice([24, 36]))  # on which strides close a circle
    maker, steps, kinds = Maker(rng), [], rng.choice([CHAIN, COMMON, COMMON + RARE, COMMON + RARE + RARE])
    x = torch.rand(2, channels, *size, dtype=torch.float64)
    for _ in range(rng.randint(2, 5)):
        x = _add(maker, rng.choice(kinds), steps, x)
    if rng.random() < 0.3:
        x = _add(maker, "head", steps, x)
    model = (nn.Sequential(*steps) if rng.random() < 0.5 else OwnForward(steps)).double().eval()
    return Network(model, size, channels, maker.local, tuple(maker.step), tuple(maker.period), maker.made)


def _add(maker, kind, steps, x):
    before = maker.local, list(maker.step), list(maker.period)
    module = getattr(maker, kind)(x) if min(x.shape[2:]) > 3 else None
    if module is None:
        return x
    module = _generic(module.double().eval())
    y = module(x)
    if y.numel() == 0 or (y.dim() == 4 and min(y.shape[2:]) < 2):
        maker.local, maker.step, maker.period = before
        return x
    steps.append(module)
    maker.made.append(f"{kind}: {module if not isinstance(module, Function) else 'function'} -> {tuple(y.shape[1:])}")
    return y.detach()


def _generic(module):
    """Weights as training leaves them: none 0 or 1 by construction."""
    for name, values in (*module.named_parameters(), *module.named_buffers()):
        if (
            values.is_floating_point()
            and name.split(".")[-1] in ("weight", "bias", "running_mean")
            and values.dim() == 1
        ):
            values.data = values.data + 0.3 * torch.rand_like(values)
    return module
