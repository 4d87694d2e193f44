"""The state of networks, kept: on disk, under a key of all that the training depends on; and in memory for a while."""

import copy
import hashlib
import inspect
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lab.data import Split, normalize
from lab.errors import LabWarning, OutputError
from lab.files import staged_output
from lab.models import device_of, scores

PROBE = 64  # images that the key sees a network at work on


class Kept(NamedTuple):
    """What is kept beside the weights: the loss of each step, and how long the training took."""

    loss: Tensor
    seconds: float


def checkpoint_path(folder: Path, model: nn.Module, split: Split, config: Any) -> Path | None:
    """Where the result of this training belongs: the name is a digest of all that it depends on.

    That is the recipe, the data, the weights, the code of the training and of every class of the network, the values of
    its attributes, and its outputs for the first images. These outputs show what the others cannot: functions that the
    network calls or holds. Two networks that differ in nothing else, and only on other images or after some steps, are
    mistaken for each other.

    None where the code cannot be read, as when it was typed into a plain prompt, or where the network cannot be copied.
    """
    kinds = {kind for module in model.modules() for kind in type(module).__mro__}
    own = [kind for kind in kinds - {object} if kind.__module__.partition(".")[0] not in ("torch", "typing")]
    try:
        trainer = sys.modules[type(config).__module__]  # where the recipe is defined, and followed
        code = [inspect.getsource(trainer), *sorted(map(inspect.getsource, own))]
        tensors = [{"images": split.images, "labels": split.labels}, model.state_dict(), _trial(model, split.images)]
    except (OSError, TypeError, RuntimeError) as error:
        name = type(model).__name__
        warnings.warn(f"the trained network is not kept, {name} cannot be told from others: {error}", LabWarning, 3)
        return None
    usual, named = vars(nn.Module()), model.named_modules()
    held = [(name, key, value) for name, module in named for key, value in vars(module).items() if key not in usual]
    text = repr([asdict(config), code, held, torch.__version__, device_of(model).type, *map(_digest, tensors)])
    key = hashlib.sha256(re.sub(" at 0x[0-9a-fA-F]+", "", text).encode())  # no addresses of functions
    return folder / f"{type(model).__name__}-{key.hexdigest()[:24]}.safetensors"


def _trial(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """One step of a copy, as in training, on the first images: outputs, gradients, and the buffers behind it."""
    model, images = copy.deepcopy(model).train(), images[:PROBE].to(device_of(model))
    with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
        outputs = scores(model(normalize(images)))
    outputs.square().sum().backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return {"outputs": outputs, **dict(model.named_buffers()), **gradients}


def save_checkpoint(path: Path | None, model: nn.Module, loss: Tensor, seconds: float) -> None:
    """Write all or nothing; if the disk cannot be written, the checkpoint is lost, not the training."""
    if path is None:
        return
    tensors = {f"model.{name}": value.cpu().clone().contiguous() for name, value in model.state_dict().items()}
    tensors["loss"] = loss
    try:
        with staged_output(path.parent) as stage:
            save_file(tensors, stage / path.name, {"seconds": repr(seconds), "sha256": _digest(tensors)})
    except (OSError, SafetensorError, OutputError) as error:
        warnings.warn(f"the trained network is not kept, {path} cannot be written: {error}", LabWarning, stacklevel=3)


def load_checkpoint(path: Path | None, model: nn.Module) -> Kept | None:
    """Restore a checkpoint into the model; None where there is none, or a damaged one."""
    if path is None or not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no dict
        if metadata["sha256"] != _digest(tensors):
            raise ValueError("SHA-256 differs")
        loss = tensors.pop("loss")
        model.load_state_dict({name.removeprefix("model."): value for name, value in tensors.items()})
        model.eval()
        return Kept(loss, float(metadata["seconds"]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        warnings.warn(f"training again, the checkpoint {path} is damaged: {error}", LabWarning, stacklevel=3)
        return None


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor).cpu().numpy().data)
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> Tensor:
    """The same for two tensors only if they are equal bit for bit: nan equals itself, and 0 is not −0."""
    return tensor.detach().contiguous().flatten().view(torch.uint8)


@contextmanager
def restored(model: nn.Module, *, parameters: bool = True) -> Iterator[None]:
    """Put back what the body changes in a model, even if it fails: buffers, attributes, modes, and `parameters`."""
    states = [_State(module, parameters=parameters) for module in model.modules()]
    try:
        yield
    finally:
        for state in states:
            state.restore()


class _State:
    """A module's attributes, and copies of what can be changed in place: containers and tensors."""

    def __init__(self, module: nn.Module, *, parameters: bool) -> None:
        self.module, self.attributes = module, dict(vars(module))
        containers = [value for value in self.attributes.values() if isinstance(value, dict | list | set)]
        self.containers = [(value, value.copy()) for value in containers]
        inside = module._parameters.values() if parameters else ()
        tensors = (*inside, *module._buffers.values(), *self.attributes.values())
        self.tensors = [(one, one.detach().clone()) for one in tensors if isinstance(one, Tensor) and not one.is_meta]

    def restore(self) -> None:
        vars(self.module).clear()
        vars(self.module).update(self.attributes)
        for value, before in self.containers:
            value.clear()
            value.extend(before) if isinstance(value, list) else value.update(before)
        with torch.no_grad():
            for tensor, copy in self.tensors:
                if tensor.shape != copy.shape:
                    tensor.set_(copy)  # type: ignore[call-overload]  # its stubs know no tensor
                elif not torch.equal(_bytes(tensor), _bytes(copy)):
                    tensor.copy_(copy)
