"""What each layer of a network answers: layer name -> tensor, for any `nn.Module`."""

import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from lab.data import Split, check_split, normalize
from lab.errors import InputError
from lab.models import scores


@contextmanager
def evaluating(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Run the body without gradients, in evaluation mode; then restore each submodule's mode and the RNGs."""
    modes = [(module, module.training) for module in model.modules()]
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            model.eval()
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def check_mode(model: nn.Module) -> None:
    """Refuse a model in training mode, where that matters.

    Raises:
        InputError: which layer would be random, or depend on the batch.
    """
    kinds = (_BatchNorm, _DropoutNd)
    if busy := [name for name, module in model.named_modules() if module.training and isinstance(module, kinds)]:
        raise InputError(
            f"the model is in training mode, in which {busy[0]!r} is random or batch-dependent: .eval() it"
        )


@contextmanager
def failures(shape: Sequence[int]) -> Iterator[None]:
    """Raise what the model itself raises as an error of the lab that says on what.

    Raises:
        InputError: the model fails.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # somebody else's forward may raise anything
        said = str(error).strip().partition("\n")[0]
        raise InputError(
            f"the model fails on images of shape {tuple(shape)}: {type(error).__name__}: {said}"
        ) from error


def activations(
    model: nn.Module, x: Tensor, layers: Sequence[str] | None = None, *, batch_size: int = 256
) -> "OrderedDict[str, Tensor]":
    """Run the network once over `x` and keep what its layers return, in the order in which they ran.

    The network runs in evaluation mode and without gradients, and is left as it was: hooks, the mode of
    each submodule, parameters, buffers and the random number generators. Each activation is a copy, so that
    an in-place operation after the layer does not change it.

    Args:
        model: any module whose forward takes one tensor.
        x: `n ...`, a batch of at least one, on the model's device.
        layers: names as in `model.named_modules()`; `""` is the network itself. Without it, every
            submodule except `nn.Sequential`, whose output is its last member's.
        batch_size: how many of `x` go through the network at a time.

    Returns:
        Layer name -> `n ...`, on the device of `x`. The second call of a reused module is `name#2`, the
        third `name#3`; the tensors of a module that returns a tuple or a dict are `name[0]`, `name[key]`.

    Raises:
        InputError: an empty `x`, an unknown layer or one that did not run, or an output whose first
            dimension is not the batch.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from lab import activations
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True))
        >>> {name: tuple(a.shape) for name, a in activations(net, torch.rand(4, 1, 8, 8)).items()}
        {'0': (4, 2, 6, 6), '1': (4, 2, 6, 6)}
    """
    if x.dim() == 0 or x.numel() == 0:
        raise InputError(f"there must be at least one input: shape {tuple(x.shape)}")
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1: {batch_size}")
    modules = _select(model, layers)
    found: OrderedDict[str, Tensor] = OrderedDict()
    kept: OrderedDict[str, Tensor] = OrderedDict()
    rows: Counter[str] = Counter()
    with observing(model, modules, lambda name, a: kept.update({name: a.clone()})), evaluating(model, x.device):
        for start in range(0, len(x), batch_size):
            batch = x[start : start + batch_size]
            model(batch)
            for name, value in kept.items():
                _store(found, name, value, start, len(batch), len(x))
                rows[name] += len(batch)
            kept.clear()
    if partial := sorted(name for name, rows in rows.items() if rows < len(x)):
        raise InputError(f"layer ran for some batches only: {', '.join(partial)}; raise batch_size to {len(x)}")
    silent = set(layers or ()) - {module_of(name) for name in found}
    if silent:
        raise InputError(f"layer did not run, or returned no tensor: {', '.join(sorted(silent))}")
    return found


def module_of(name: str) -> str:
    """The module that an activation is of: its name without the number of the call and the place in the output."""
    return re.split(r"[#\[]", name)[0]


def _select(model: nn.Module, layers: Sequence[str] | None) -> dict[str, nn.Module]:
    """Name -> module of the layers asked for, or of every submodule except `nn.Sequential`; of `""`, if it has none.

    Raises:
        InputError: an unknown layer.
    """
    if layers is None:
        parts = {n: m for n, m in model.named_modules() if n and not isinstance(m, nn.Sequential)}
        return parts or {"": model}
    known = dict(model.named_modules(remove_duplicate=False))
    unknown = [name for name in layers if name not in known]
    if unknown or not layers:
        raise InputError(f"no layer {', '.join(map(repr, unknown))}: the model has {', '.join(filter(None, known))}")
    return {name: known[name] for name in layers}


@contextmanager
def observing(model: nn.Module, modules: Mapping[str, nn.Module], see: Callable[[str, Tensor], None]) -> Iterator[None]:
    """While the body runs, call `see(name, tensor)` with each tensor that one of the modules returns.

    The names are those of [`activations`][lab.observing.activations], counted anew each time `model` runs. The
    tensor is the module's own, no copy: an in-place operation may change it as soon as `see` returns.
    """
    calls: Counter[str] = Counter()

    def watch(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            calls[name] += 1
            call = name if calls[name] == 1 else f"{name}#{calls[name]}"
            for path, tensor in _tensors(output):
                see(call + path, tensor)

        return hook

    handles = [model.register_forward_pre_hook(lambda *_: calls.clear())]
    try:
        handles += [module.register_forward_hook(watch(name)) for name, module in modules.items()]
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tensors(output: object, path: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(output, Tensor):
        yield path, output
    elif isinstance(output, Mapping):
        for key, value in output.items():
            yield from _tensors(value, f"{path}[{key}]")
    elif isinstance(output, tuple | list):
        for i, value in enumerate(output):
            yield from _tensors(value, f"{path}[{i}]")


def _store(found: "OrderedDict[str, Tensor]", name: str, value: Tensor, start: int, n: int, total: int) -> None:
    if value.dim() == 0 or len(value) != n:
        raise InputError(
            f"a layer's first dimension must be the batch: {name!r} has shape {tuple(value.shape)} for {n} inputs"
        )
    if n == total:
        found[name] = value
        return
    if name not in found:
        found[name] = value.new_empty(total, *value.shape[1:])
    found[name][start : start + n] = value


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


def predict(model: nn.Module, images: Float[Tensor, "n 1 h w"], *, batch_size: int = 500) -> Float[Tensor, "n classes"]:
    """Class scores of images in [0, 1], which are normalised here; in evaluation mode, model left as it was."""
    device = next(model.parameters()).device
    with evaluating(model, device):
        parts = [scores(model(normalize(part.to(device)))).cpu() for part in images.split(batch_size)]
    return torch.cat(parts)


def evaluate(model: nn.Module, split: Split) -> Evaluation:
    """Accuracy and loss over all images of a split (in [0, 1]; they are normalised here).

    Raises:
        InputError: no images, NaN or an infinite value.
    """
    check_split(split, "evaluation")
    scores = predict(model, split.images)
    accuracy = (scores.argmax(1) == split.labels).double().mean().item()
    return Evaluation(accuracy, F.cross_entropy(scores, split.labels).item(), len(split))
