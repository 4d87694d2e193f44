"""What a network returns, for any `nn.Module`: the activations of each layer, class scores, accuracy.

A network is observed in evaluation mode and without gradients, whatever mode it is in, and is left as it was: its
mode, hooks, parameters, buffers and the random number generators.
"""

import sys
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lab.checkpoints import restored
from lab.data import Split, check_split, normalize
from lab.errors import InputError, LabError, check_labels, require
from lab.models import device_of, scores

Modules = Mapping[str, nn.Module]
Forward = Callable[[Tensor], object]


@dataclass(frozen=True)
class Layer:
    """One tensor among those that a module returns: in which of its calls, and where in its output.

    Attributes:
        module: its name in `model.named_modules()`; `""` is the network itself.
        call: counted from 1 each time that the network runs.
        place: keys and indices that lead to the tensor where the output is a dict or a tuple.
    """

    module: str
    call: int = 1
    place: tuple[object, ...] = ()

    def __str__(self) -> str:
        """`conv1`; its third call is `conv1#3`, and what that returns first `conv1#3[0]`."""
        call = "" if self.call == 1 else f"#{self.call}"
        return self.module + call + "".join(f"[{key}]" for key in self.place)


Found = dict[Layer, Tensor]  # what layers returned, in the order in which they did


def activations(
    model: nn.Module, x: Tensor, layers: Sequence[str] | None = None, *, batch_size: int = 256
) -> "OrderedDict[str, Tensor]":
    """Run the network over `x` and keep what its layers return, in the order in which they ran.

    Each activation is a copy, so that an in-place operation after the layer does not change it.

    Args:
        model: any module whose forward takes one tensor.
        x: `n ...`, a batch of at least one, on the model's device.
        layers: names as in `model.named_modules()`; `""` is the network itself. By default every
            submodule except `nn.Sequential`, whose output is that of its last member.
        batch_size: how many of `x` go through the network at a time.

    Returns:
        Layer name -> `n ...`, on the device of `x`. The second call of a reused module is `name#2`, the
        third `name#3`; the tensors of a module that returns a tuple or a dict are `name[0]`, `name[key]`.

    Raises:
        InputError: an empty `x`, an unknown layer or one that did not run, an output whose first dimension is not
            the batch, or two layers of one name.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from lab import activations
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True))
        >>> {name: tuple(a.shape) for name, a in activations(net, torch.rand(4, 1, 8, 8)).items()}
        {'0': (4, 2, 6, 6), '1': (4, 2, 6, 6)}
    """
    require(x.dim() > 0 and x.numel() > 0, f"there must be at least one input: shape {tuple(x.shape)}")
    model = original(model)
    require(batch_size >= 1, f"batch_size must be at least 1: {batch_size}")
    modules, batches = _select(model, layers), x.split(batch_size)
    with restored(model):
        runs = [outputs(model, modules, batch) for batch in batches]
    seen = by_name(dict.fromkeys(chain.from_iterable(runs)))
    _check_ran(seen, runs, layers or (), len(x))
    kept = _batch_first(seen, runs, batches, layers)
    return OrderedDict((name, torch.cat([run[layer] for run in runs])) for name, layer in kept.items())


def _check_ran(seen: Mapping[str, Layer], runs: Sequence[Found], layers: Sequence[str], n: int) -> None:
    silent = sorted(set(layers) - {layer.module for layer in seen.values()})
    require(not silent, f"layer did not run, or returned no tensor: {', '.join(silent)}")
    partial = ", ".join(sorted(name for name, layer in seen.items() if not all(layer in run for run in runs)))
    require(not partial, f"layer ran for some batches only: {partial}; raise batch_size to {n}")


def _batch_first(
    seen: Mapping[str, Layer], runs: Sequence[Found], batches: Sequence[Tensor], wanted: Sequence[str] | None
) -> dict[str, Layer]:
    """The layers whose first dimension is the batch; one that was asked for has to be one of them."""
    kept = dict(seen)
    for name, layer in seen.items():
        shapes = [(tuple(run[layer].shape), len(batch)) for run, batch in zip(runs, batches, strict=True)]
        if other := next((one for one in shapes if one[0][:1] != one[1:]), None):
            said = f"{name!r} has shape {other[0]} for {other[1]} inputs"
            require(not wanted, f"a layer's first dimension must be the batch: {said}")
            del kept[name]
    require(kept, f"no layer's first dimension is the batch: {', '.join(seen)}")
    return kept


def outputs(model: nn.Module, modules: Modules, x: Tensor, *, forward: Forward | None = None) -> Found:
    """What the modules return when the network runs once, in the order in which they returned: copies."""
    found: Found = {}
    with watching(model, modules, lambda layer, a: found.update({layer: a.clone()})), evaluating(model, x.device):
        (forward or model)(x)
    return found


def by_name(layers: Iterable[Layer]) -> dict[str, Layer]:
    """The layers by their names.

    Raises:
        InputError: two have the same name, as the second call of `c` and a module that is called `c#2`.
    """
    found: dict[str, Layer] = {}
    for layer in layers:
        if found.setdefault(str(layer), layer) != layer:
            raise InputError(f"two layers are called {str(layer)!r}: ask for their modules one by one")
    return found


def _select(model: nn.Module, layers: Sequence[str] | None) -> dict[str, nn.Module]:
    """Name -> module of the layers asked for, or of every submodule except `nn.Sequential`; of `""`, if it has none."""
    if layers is None:
        return {n: m for n, m in model.named_modules() if n and not isinstance(m, nn.Sequential)} or {"": model}
    known = dict(model.named_modules(remove_duplicate=False))
    unknown = ", ".join(repr(name) for name in layers if name not in known)
    require(layers and not unknown, f"no layer {unknown}: the model has {', '.join(filter(None, known))}")
    return {name: known[name] for name in layers}


class Fault(BaseException):
    """An error of the lab itself while a model runs, not an error of the model."""


@contextmanager
def watching(model: nn.Module, modules: Modules, see: Callable[[Layer, Tensor], None]) -> Iterator[None]:
    """While the body runs, call `see(layer, tensor)` with each tensor that one of the modules returns.

    Calls are counted anew each time that `model` runs. The tensor is the module's own, no copy: an in-place operation
    may change it as soon as `see` returns.
    """
    calls: Counter[str] = Counter()

    def hook(name: str, _module: nn.Module, _inputs: object, output: object) -> None:
        calls[name] += 1
        try:
            for place, tensor in _tensors(output):
                see(Layer(name, calls[name], place), tensor.detach())
        except LabError:
            raise
        except Exception as error:  # it is not the model that fails
            raise Fault from error

    with ExitStack() as hooks:
        hooks.enter_context(model.register_forward_pre_hook(lambda *_: calls.clear()))
        for name, module in modules.items():
            hooks.enter_context(module.register_forward_hook(partial(hook, name)))
        yield


def _tensors(output: object, place: tuple[object, ...] = ()) -> Iterator[tuple[tuple[object, ...], Tensor]]:
    if isinstance(output, Tensor):
        yield place, output
    elif isinstance(output, Mapping | tuple | list):
        for key, value in output.items() if isinstance(output, Mapping) else enumerate(output):
            yield from _tensors(value, (*place, key))


@contextmanager
def evaluating(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Run the body without gradients and in evaluation mode; then put the model and the RNGs back as they were.

    Whatever forward changes is put back, even if it fails. Parameters are the exception: `restored` puts them back
    once, at the end. A compiled network runs uncompiled, because a hook would make it compile again.
    """
    compiling = "torch._dynamo" in sys.modules  # else nothing was compiled
    eager = torch.compiler.set_stance("force_eager") if compiling else nullcontext()
    random = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    with restored(model, parameters=False), random, torch.no_grad(), eager:
        model.eval()
        yield


def original(model: nn.Module) -> nn.Module:
    """The model that `torch.compile` was given; any other model as it is."""
    inner = getattr(model, "_orig_mod", model)
    return inner if isinstance(inner, nn.Module) else model


def predict(model: nn.Module, images: Float[Tensor, "n c h w"], *, batch_size: int = 500) -> Float[Tensor, "n classes"]:
    """Class scores of images in [0, 1], which are normalised here; on the CPU.

    Raises:
        InputError: the model returns no scores, `n classes`.
    """
    device = device_of(model)
    with restored(model), evaluating(model, device):
        return torch.cat([scores(model(normalize(part.to(device)))).cpu() for part in images.split(batch_size)])


@dataclass(frozen=True)
class Evaluation:
    """How well a network does on all images of a split.

    Attributes:
        accuracy: share of images whose largest log-probability is the label's, in [0, 1].
        loss: mean cross-entropy, in nats.
        images: how many there were.
    """

    accuracy: float
    loss: float
    images: int


def evaluate(model: nn.Module, split: Split) -> Evaluation:
    """Accuracy and loss over all images of a split (in [0, 1]; they are normalised here).

    Raises:
        InputError: no images, NaN or an infinite value, or a label that is not a class.
    """
    check_split(split, "evaluation")
    found = predict(model, split.images)
    check_labels(split.labels, found.shape[1])
    accuracy = (found.argmax(1) == split.labels).double().mean().item()
    return Evaluation(accuracy, nn.functional.cross_entropy(found, split.labels).item(), len(split))
