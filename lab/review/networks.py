"""The network and its activations: is it the given one, and is what comes out of it what the layers returned?"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lab.checkpoints import restored
from lab.data import normalize
from lab.errors import InputError, require
from lab.observing import original
from lab.review.feedback import Feedback, Notes
from lab.review.reading import as_tensor, call, embedded, fitting, quiet

SHAPES = ((1, 1, 2, 2), (1,), (10, 729), (10,))  # the weights of conv1 and fc1, and their biases
CLOSE = 1e-4  # of the largest value: float32 sums of 730 terms round by less than 730 · 2⁻²⁴ = 4e-5
PROBES = 16


@dataclass(frozen=True)
class Layers:
    """What the given network's layers compute.

    Attributes:
        conv: of the convolution, before ReLU; `n 729`.
        fc: of the linear layer; `n 10`.
        spoilt: whether something overwrote what the convolution had returned.
    """

    conv: Tensor
    fc: Tensor
    spoilt: bool = False


@dataclass
class Watch(TorchDispatchMode):
    """Keeps what every convolution and matrix product returns: the tensor itself, and a copy."""

    _should_skip_dynamo = classmethod(lambda _: False)  # or its first use loads the compiler, which takes seconds
    kept: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and any(word in str(func) for word in ("conv", "mm", "linear", "matmul")):
            self.kept.append((out, out.clone()))
        return out

    def layers(self, n: int) -> Layers | None:
        """What the two layers returned for the last `n` images; None where that was not seen."""
        conv = [(now, was) for now, was in self.kept if was.shape[-2:] == (27, 27)]
        maps = torch.cat([was.reshape(-1, 729) for _, was in conv] or [torch.empty(0, 729)])[-n:].cpu()
        fc = torch.cat([was for _, was in self.kept if was.shape[1:] == (10,)] or [torch.empty(0, 10)])[-n:].cpu()
        whole = len(maps) == len(fc) == n
        return Layers(maps, fc, any(not torch.equal(*both) for both in conv)) if whole else None


def given_weights(model: nn.Module) -> tuple[Tensor, ...] | None:
    """The weights of the given network's two layers, whatever they are called; None where there are others."""
    by_shape = {tuple(one.shape): one.detach() for one in model.parameters()}
    same = sorted(tuple(one.shape) for one in model.parameters()) == sorted(SHAPES)
    return tuple(by_shape[shape] for shape in SHAPES) if same else None


def given_layers(weights: tuple[Tensor, ...], images: Tensor) -> Layers:
    """What the given network with these weights computes."""
    conv = F.conv2d(images.reshape(-1, 1, 28, 28), weights[0], weights[1]).flatten(1)
    return Layers(conv, F.linear(F.relu(conv), weights[2], weights[3]))


def close(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same up to rounding."""
    a, b = (one.detach().cpu().double().flatten() for one in (a, b))
    return a.shape == b.shape and bool((a - b).abs().max() <= CLOSE * b.abs().max().clamp(min=1e-12))


def network(model: Any, activations: Callable[..., Any] | None = None, *, images: Any = None) -> Feedback:
    """Review the network, and how its activations are taken.

    Args:
        model: the network; any class with the given architecture, whatever its layers are called.
        activations: `activations(model, images)` -> a mapping with `"conv"` and `"fc"`; without it, the tuple that
            the network returns is reviewed.
        images: some images as `activations` takes them; digits `n 1 28 28` by default.

    Examples:
        >>> import lab
        >>> from lab import review
        >>> review.network(lab.build_model("given", seed=0)).passed
        True
    """
    notes = Notes("network")
    if not isinstance(model, nn.Module):
        return Feedback("network", unseen=(no_network(model),))
    model, probes = original(model), normalize(embedded().test.images[:PROBES])
    with restored(model), quiet():
        model.eval()
        try:
            tupled = _architecture(model, probes, notes)
            if activations is not None:
                _function(model, activations, probes if images is None else images, notes)
            elif not tupled and not notes.findings:
                notes.unseen.append("the activations: the network returns no tuple, and there is no `activations`")
        except InputError as error:
            notes.unseen.append(str(error))
    return notes.feedback()


def no_network(model: Any) -> str:
    """What is said of something that is none."""
    kind = f"the class `{model.__name__}`" if isinstance(model, type) else f"a `{type(model).__name__}`"
    return f"`model` must be a network, an `nn.Module`: it is {kind}"


def _architecture(model: nn.Module, images: Tensor, notes: Notes) -> bool:
    """Compare the network with the given one; whether it returns its activations beside the scores."""
    weights = given_weights(model)
    if weights is None:
        shapes = ", ".join(str(tuple(one.shape)) for one in model.parameters()) or "none"
        notes.find("other-architecture", f"Your weights are {shapes}; those given {', '.join(map(str, SHAPES))}.")
        return False
    images = _showing(fitting(model, images), model)
    with torch.enable_grad(), Watch() as watch:
        output = call(model, images, on="sixteen digits")
    parts = [*output.values()] if isinstance(output, Mapping) else output
    tensors = [one for one in (parts if isinstance(parts, tuple | list) else [parts]) if isinstance(one, Tensor)]
    truth, watched = given_layers(weights, images), watch.layers(len(images))
    if not any(_same_scores(one, truth.fc) for one in tensors):
        did = "With your own weights, convolution, ReLU, flatten and linear layer give other scores than your network."
        notes.find("other-architecture", did)
        return False
    notes.seen.append("the network: a 1 → 1 convolution of 2 × 2, ReLU, a linear layer 729 → 10")
    truth = Layers(truth.conv, truth.fc, bool(watched and watched.spoilt))
    return _tuple(tensors, truth, notes)


def _same_scores(output: Tensor, fc: Tensor) -> bool:
    """Whether they are the linear layer's, before or after softmax or its logarithm."""
    if output.shape != fc.shape:
        return False
    output, wanted = output.detach().double(), fc.double().log_softmax(1)
    return close(output.log_softmax(1), wanted) or close(output, wanted.exp())


def _tuple(tensors: list[Tensor], truth: Layers, notes: Notes) -> bool:
    """Look at the activations that the network returns, if it returns any."""
    conv = [one for one in tensors if one.numel() == truth.conv.numel()]
    fc = [one for one in tensors[1:] if one.shape == truth.fc.shape] or [truth.fc]
    if not conv:
        return False
    _compare(conv[0], fc[-1], truth, "Your network returns", notes)
    for name, one in (("conv", conv[0]), ("fc", fc[-1])):
        if one.requires_grad:
            notes.find("not-detached", f"The activations `{name}` still carry a gradient: `requires_grad` is True.")
    if not notes.findings:
        notes.seen.append("the activations that the network returns: taken before ReLU, detached")
    return True


def _compare(conv: Tensor, fc: Tensor, truth: Layers, who: str, notes: Notes) -> None:
    if not close(conv, truth.conv):
        share = f"{(truth.conv < 0).double().mean():.0%} of conv's values are negative"
        if close(conv, truth.conv.relu()):
            did = f"On the images tried here, {share} before ReLU, and none of those you keep."
            notes.find("spoilt-in-place" if truth.spoilt else "after-relu", did)
        else:
            notes.find("other-activations", f"{who} as `conv` something that the convolution did not return.")
    _compare_scores(fc, truth, who, notes)


def _compare_scores(fc: Tensor, truth: Layers, who: str, notes: Notes) -> None:
    if not close(fc, truth.fc):
        soft = any(close(fc, one) for one in (truth.fc.log_softmax(1), truth.fc.softmax(1)))
        what = "what softmax made of the scores." if soft else "something that the linear layer did not return."
        notes.find("after-softmax" if soft else "other-activations", f"{who} as `fc` {what}")


def _function(model: nn.Module, f: Callable[..., Any], images: Any, notes: Notes) -> None:
    """Look at what `activations(model, images)` returns, and at what it leaves behind."""
    images = _showing(images, f, model)
    before, hooks, count = as_tensor(images).clone(), _hooks(model), len(notes.findings)
    with Watch() as watch:
        found = _mapping(call(f, model, images, on="a few images"))
    if left := _hooks(model) - hooks:
        notes.find("hooks-left-behind", f"One call of `activations` leaves {left} more hooks on the network.")
    if not torch.equal(as_tensor(images), before):
        notes.find("mutates-its-input", "`activations` has changed the images that it was given.")
        return
    truth = watch.layers(len(before))
    if truth and "other-architecture" not in [one.mistake for one in notes.findings]:
        _compare(found["conv"], found["fc"], truth, "`activations` returns", notes)
    half = _mapping(call(f, model, images[: len(before) // 2], on="half of them"))
    if not all(close(found[key][: len(half[key])], half[key]) for key in half):
        notes.find("depends-on-batch", "The same image has other activations in another batch.")
    if len(notes.findings) == count:
        notes.seen.append("`activations`: what the two layers returned, whatever the batch")


def _showing(images: Any, f: Callable[..., Any], *given: Any) -> Any:
    """The images; or their negatives, where the convolution returns nothing below 0, and ReLU would change nothing."""
    with Watch() as watch:
        call(f, *given, copy.deepcopy(images), on="a few images")
    layers = watch.layers(len(images))
    hidden = layers is not None and close(layers.conv.relu(), layers.conv)
    can_be = isinstance(images, Tensor | np.ndarray) and as_tensor(images).is_floating_point()
    return -images if hidden and can_be else images


def _mapping(found: Any) -> dict[str, Tensor]:
    """What the student's function returned for `"conv"` and `"fc"`.

    Raises:
        InputError: it is no mapping with these keys.
    """
    keys = [*found] if isinstance(found, Mapping) else type(found).__name__
    fit = isinstance(found, Mapping) and {"conv", "fc"} <= {*found}
    require(fit, f"`activations` must return a mapping with 'conv' and 'fc': it returns {keys}")
    return {key: as_tensor(found[key]) for key in ("conv", "fc")}


def _hooks(model: nn.Module) -> int:
    return sum(len(one._forward_hooks) + len(one._forward_pre_hooks) for one in model.modules())
