"""The networks of the exercise. Every layer is a named submodule, so that it can be observed by its name."""

from itertools import chain
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lab.errors import InputError, check_choice, check_seed, require

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


class LabModel(nn.Module):
    """The network that the exercise gives, exactly as given: one convolution, no pooling, one linear layer.

    Attributes:
        STRIDES: total stride of each layer that keeps positions, in input pixels.
    """

    STRIDES: ClassVar[dict[str, int]] = {"conv1": 1}

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 1, kernel_size=2)
        self.fc1 = nn.Linear(729, 10)

    def forward(
        self, x: Float[Tensor, "n 1 28 28"]
    ) -> tuple[Float[Tensor, "n 10"], Float[Tensor, "n 1 27 27"], Float[Tensor, "n 10"]]:
        """Log-probabilities, the activation after the convolution, the activation after `fc1`."""
        x = self.conv1(x)
        after_conv = x.clone().detach()
        x = torch.flatten(F.relu(x), 1)
        x = self.fc1(x)
        after_fc = x.clone().detach()
        return F.log_softmax(x, dim=1), after_conv, after_fc


class PooledCNN(nn.Module):
    """The CNN with pooling that the exercise's text speaks of: conv-ReLU-pool twice, then two linear layers.

    Args:
        padding: pixels of padding of both convolutions; 0 keeps every output inside the image, 1 keeps the size.
        padding_mode: what stands there, as in `torch.nn.Conv2d`: `"zeros"`, `"reflect"` (the mirror image),
            `"replicate"` (copies of the outermost pixel) or `"circular"` (the opposite side).

    Attributes:
        STRIDES: total stride of each layer that keeps positions, in input pixels.
    """

    STRIDES: ClassVar[dict[str, int]] = dict(conv1=1, relu1=1, pool1=2, conv2=2, relu2=2, pool2=4)

    def __init__(self, *, padding: int = 0, padding_mode: PaddingMode = "zeros") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=padding, padding_mode=padding_mode)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=padding, padding_mode=padding_mode)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(2)
        side = ((28 - 2 + 2 * padding) // 2 - 2 + 2 * padding) // 2
        self.fc1 = nn.Linear(32 * side * side, 64)
        self.relu3 = nn.ReLU()
        self.fc2 = nn.Linear(64, 10)

    def forward(self, x: Float[Tensor, "n 1 28 28"]) -> Float[Tensor, "n 10"]:
        """Logits of the ten digits."""
        x = self.pool1(self.relu1(self.conv1(x)))
        x = self.pool2(self.relu2(self.conv2(x)))
        x = self.relu3(self.fc1(torch.flatten(x, 1)))
        return self.fc2(x)  # type: ignore[no-any-return]  # torch types every submodule call as Any


Network = LabModel | PooledCNN
MODELS: dict[str, type[LabModel] | type[PooledCNN]] = {"given": LabModel, "pooled": PooledCNN}


def build_model(name: str, *, seed: int) -> Network:
    """An untrained network, `"given"` or `"pooled"`, whose weights depend on the seed alone.

    Raises:
        InputError: an unknown name, or a seed that is not a whole number from 0 to 2 ** 63 − 1.

    Examples:
        >>> from lab import build_model
        >>> sum(p.numel() for p in build_model("given", seed=0).parameters())
        7305
    """
    check_choice("model", name, MODELS)
    check_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the accelerators too
        return MODELS[name]()


def device_of(model: nn.Module) -> torch.device:
    """Where the model's weights are; the CPU, if it has none.

    Raises:
        InputError: they are on the meta device, and hold no values.
    """
    device = next((tensor.device for tensor in chain(model.parameters(), model.buffers())), torch.device("cpu"))
    require(device.type != "meta", "the model must hold weights: those on the meta device have no values")
    return device


def scores(output: object) -> Tensor:
    """The class scores among what a network returns: all of it, or the first of a tuple or list.

    Raises:
        InputError: that is not one row of classes for each image.
    """
    first = output[0] if isinstance(output, tuple | list) and output else output
    if not isinstance(first, Tensor) or first.dim() != 2 or not first.is_floating_point():
        shape = f"shape {tuple(first.shape)}" if isinstance(first, Tensor) else type(first).__name__
        raise InputError(f"the model must return scores, n classes: {shape}")
    return first
