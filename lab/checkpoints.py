"""Trained networks on disk, under a key of all that the training depends on."""

import copy
import hashlib
import inspect
import json
import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lab.data import Split, normalize
from lab.errors import LabWarning, OutputError
from lab.files import staged_output
from lab.models import check_labels, device_of, scores

PROBE = 64  # images that the key sees a network at work on


@dataclass(frozen=True)
class Kept:
    """What is kept beside the weights: the loss of each step, and how long the training took."""

    loss: Tensor
    seconds: float


def checkpoint_path(folder: Path, model: nn.Module, split: Split, config: Any) -> Path | None:
    """Where the result of this training belongs: the name is a digest of all that it depends on.

    That is the recipe, the data, the weights, the code of the training and of every class of the network, the values of
    its attributes, and what it makes of the first images. The last shows what the others cannot: functions that it
    calls or holds. Of two networks that differ in nothing else, and do so only on other images or after some steps,
    one is taken for the other.

    None where the code cannot be read, as when it was typed into a plain prompt, or where the network cannot be copied.
    """
    try:
        trainer = sys.modules[type(config).__module__]  # where the recipe is defined, and followed
        code = [inspect.getsource(trainer), *sorted(map(inspect.getsource, _classes(model)))]
        tensors = _behaviour(model, split)
    except (OSError, TypeError, RuntimeError) as error:
        name = type(model).__name__
        warnings.warn(f"the trained network is not kept, {name} cannot be told from others: {error}", LabWarning, 3)
        return None
    tensors |= {"images": split.images, "labels": split.labels, **model.state_dict()}
    machine = [torch.__version__, device_of(model).type]
    text = json.dumps([asdict(config), code, list(_attributes(model)), machine, _digest(tensors)])
    return folder / f"{type(model).__name__}-{hashlib.sha256(text.encode()).hexdigest()[:24]}.safetensors"


def _classes(model: nn.Module) -> Iterator[type]:
    """Of all modules, and those that they inherit from; torch's own are known by its version."""
    classes = {kind for module in model.modules() for kind in type(module).__mro__}
    return (
        kind for kind in classes if kind is not object and kind.__module__.partition(".")[0] not in ("torch", "typing")
    )


def _attributes(model: nn.Module) -> Iterator[str]:
    """What each module holds beside weights and modules, without the addresses of functions."""
    usual = vars(nn.Module())
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if key not in usual:
                yield re.sub(r" at 0x[0-9a-fA-F]+", "", f"{name}.{key}={value!r}")


def _behaviour(model: nn.Module, split: Split) -> dict[str, Tensor]:
    """Scores of the first images in both modes, and the gradients and buffers after one step."""
    model = copy.deepcopy(model)
    images, labels = (part[:PROBE].to(device_of(model)) for part in (split.images, split.labels))
    seen = {}
    with torch.random.fork_rng(devices=[device_of(model)] if images.is_cuda else []):
        for mode in (False, True):
            seen[f"training={mode}"] = outputs = scores(model.train(mode)(normalize(images)))
    check_labels(labels, outputs.shape[1])
    F.cross_entropy(outputs, labels).backward()
    gradients = {f"gradient of {name}": w.grad for name, w in model.named_parameters() if w.grad is not None}
    return seen | gradients | {f"buffer {name}": buffer for name, buffer in model.named_buffers()}


def save_checkpoint(path: Path | None, model: nn.Module, loss: Tensor, seconds: float) -> None:
    """Write all or nothing; a disk that cannot be written costs the checkpoint, not the training."""
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
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
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
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
