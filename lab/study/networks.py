"""Networks as data: a head, a way to subsample, a padding; every layer is a named submodule.

All have two stages of convolution, batch norm, ReLU and subsampling by 2 on 28 × 28 images. With a padding, the maps
have 28, 14 and 7 rows, so that every stride divides its input and circular padding makes the image a ring.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lab.errors import check_choice, check_seed, require

Head = Literal["flatten", "average", "maximum"]
Pooling = Literal["max", "average", "stride", "blur", "adaptive"]
Padding = Literal["none", "zeros", "circular", "reflect"]
Maps = Float[Tensor, "n c h w"]
SIZE, CLASSES = 28, 10


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A network and how it is trained: one value of each factor.

    Attributes:
        head: what turns maps into features: all positions (`"flatten"`), or one number of each channel.
        pooling: how each stage halves its map: the largest (`"max"`) or the mean (`"average"`) of 2 × 2 values; a
            `"stride"` of the convolution; or the largest of all neighbours, then a `"blur"` or an `"adaptive"` grid.
        padding: what stands beyond the edge of each map; `"none"` makes the maps smaller.
        augmentation: largest shift of a training image, in pixels, drawn anew each time; 0 for none.
        digits: how many images to train on.
        epochs: passes over them.
        width: channels of the first convolution; the second has twice, a third four times as many.
    """

    head: Head = "flatten"
    pooling: Pooling = "max"
    padding: Padding = "circular"
    augmentation: int = 0
    digits: int = 4_000
    epochs: int = 3
    width: int = 8

    def __post_init__(self) -> None:
        for factor, choices in (("head", Head), ("pooling", Pooling), ("padding", Padding)):
            check_choice(factor, getattr(self, factor), get_args(choices))
        for factor in ("augmentation", "digits", "epochs", "width"):
            value, least = getattr(self, factor), int(factor != "augmentation")
            whole = isinstance(value, int) and not isinstance(value, bool)
            require(whole and value >= least, f"{factor} must be a whole number, at least {least}: {value!r}")
        small = self.augmentation < SIZE
        require(small, f"augmentation must be smaller than the image, {SIZE} px: {self.augmentation}")


class Edge(nn.Module):
    """Adds rows and columns, as many as the windows of a whole stage need: no other layer knows of the padding."""

    def __init__(self, before: int, after: int, padding: Padding) -> None:
        super().__init__()
        self.widths = (before, after, before, after)
        self.mode = "constant" if padding == "zeros" else padding

    def forward(self, x: Maps) -> Float[Tensor, "n c oh ow"]:
        """The larger map."""
        return F.pad(x, self.widths, self.mode)


class BlurPool(nn.Module):
    """A binomial filter of 3 × 3, then every second row and column. It adds no edge of its own.

    Args:
        channels: of the map.

    Source:
        R. Zhang, Making convolutional networks shift-invariant again, ICML 2019, section 3.2, arXiv:1904.11486.

    Examples:
        >>> import torch, lab
        >>> lab.BlurPool(1)(torch.ones(1, 1, 5, 5))
        tensor([[[[1., 1.],
                  [1., 1.]]]])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        line = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("kernel", torch.outer(line, line).repeat(channels, 1, 1, 1))

    def forward(self, x: Maps) -> Float[Tensor, "n c oh ow"]:
        """The blurred map at every second position."""
        return F.conv2d(x, cast(Tensor, self.kernel), stride=2, groups=x.shape[1])


class AdaptivePolyphase(nn.Module):
    """Of the four grids of every second row and column, the one of largest norm, for each image.

    On a ring the choice moves along with the image, so that global pooling behind it is invariant to every shift,
    trained or not, unless two grids have the same norm.

    Source:
        A. Chaman, I. Dokmanić, Truly shift-invariant convolutional neural networks, CVPR 2021, section 4.1,
        arXiv:2011.14214.

    Examples:
        >>> import torch, lab
        >>> image = torch.rand(1, 1, 8, 8)
        >>> first, second = (lab.AdaptivePolyphase()(x) for x in (image, lab.shift(image, 1, 0, mode="wrap")))
        >>> torch.equal(first.amax(), second.amax())
        True
    """

    def forward(self, x: Maps) -> Float[Tensor, "n c oh ow"]:
        """Half the rows and columns; of an odd number, the last is left out."""
        even = x[:, :, : x.shape[2] // 2 * 2, : x.shape[3] // 2 * 2]
        grids = torch.stack([even[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)], 1)
        norms = grids.square().sum((2, 3, 4))
        return grids[torch.arange(len(x), device=x.device), norms.argmax(1)]


class StudyNetwork(nn.Sequential):
    """Two stages and a head, as a setting says; its layers are those of `named_children`, in running order."""

    def forward(self, x: Float[Tensor, "n 1 28 28"]) -> Float[Tensor, "n 10"]:
        """Logits of the ten digits."""
        found = super().forward(x.to(memory_format=torch.channels_last))  # twice as fast, to the same numbers
        return cast(Tensor, found)


def study_network(setting: Setting, *, seed: int) -> StudyNetwork:
    """An untrained network, whose weights depend on setting and seed alone.

    Raises:
        InputError: a seed that is not a whole number from 0 to 2 ** 63 − 1.

    Examples:
        >>> import lab
        >>> list(dict(lab.study_network(lab.Setting(head="maximum"), seed=0).named_children()))[-3:]
        ['pooled', 'flat', 'fc']
    """
    check_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the accelerators too
        c = setting.width
        layers = _stage(1, 1, c, setting) | _stage(2, c, 2 * c, setting)
        side = nn.Sequential(layers)(torch.zeros(2, 1, SIZE, SIZE)).shape[-1]
        return StudyNetwork(OrderedDict(layers | _head(setting, 2 * c, side))).to(memory_format=torch.channels_last)


def _stage(i: int, channels: int, out: int, setting: Setting) -> OrderedDict[str, nn.Module]:
    """Convolution, normalisation, ReLU, subsampling, behind one edge for all of them."""
    others = {"blur": (2, 3), "adaptive": (1, 2)}  # as the windows of the layers behind the convolution need
    before, after = others.get(setting.pooling, (1, 1))
    stride = 2 if setting.pooling == "stride" else 1
    layers = _convolution(channels, out, Edge(before, after, setting.padding), stride)
    layers |= _subsampling(setting.pooling, out)
    return OrderedDict((f"{name}{i}", layer) for name, layer in layers.items())


def _subsampling(pooling: Pooling, channels: int) -> dict[str, nn.Module]:
    """What stands behind a convolution of stride 1; nothing, where it has a stride of its own."""
    if pooling == "stride":
        return {}
    if pooling in ("max", "average"):
        return {"pool": nn.MaxPool2d(2) if pooling == "max" else nn.AvgPool2d(2)}
    last: dict[str, nn.Module] = {"grid": AdaptivePolyphase()}
    return {"largest": nn.MaxPool2d(2, stride=1)} | ({"blur": BlurPool(channels)} if pooling == "blur" else last)


def _convolution(channels: int, out: int, edge: Edge, stride: int = 1) -> dict[str, nn.Module]:
    first = {} if edge.mode == "none" else {"edge": edge}
    conv = nn.Conv2d(channels, out, 3, stride=stride, bias=False)
    return first | {"conv": conv, "norm": nn.BatchNorm2d(out), "relu": nn.ReLU()}


def _head(setting: Setting, channels: int, side: int) -> dict[str, nn.Module]:
    """Two linear layers on all positions; or a third convolution, global pooling and one linear layer."""
    if setting.head == "flatten":
        hidden = nn.Linear(channels * side * side, 64)
        return {"flat": nn.Flatten(), "fc1": hidden, "relu3": nn.ReLU(), "fc": nn.Linear(64, CLASSES)}
    pool = nn.AdaptiveAvgPool2d(1) if setting.head == "average" else nn.AdaptiveMaxPool2d(1)
    third = _convolution(channels, 2 * channels, Edge(1, 1, setting.padding))
    last = {"pooled": pool, "flat": nn.Flatten(), "fc": nn.Linear(2 * channels, CLASSES)}
    return {f"{name}3": layer for name, layer in third.items()} | last
