"""Trained networks on disk, under a key of all that the training depends on."""

import hashlib
import inspect
import json
import os
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lab.data import MEAN, STD, Split, normalize
from lab.errors import LabWarning


def checkpoint_path(folder: Path, model: nn.Module, split: Split, config: Any, trainer: Any) -> Path | None:
    """Where the result of this training belongs: the name is a digest of all that it depends on.

    None where the code of the model cannot be read, as when it was typed into a plain prompt.
    """
    kinds = sorted({type(module) for module in model.modules()}, key=str)
    parts: list[Any] = [trainer, normalize, *kinds]
    try:
        code = [inspect.getsource(part) for part in parts]
    except (OSError, TypeError):
        name = type(model).__name__
        warnings.warn(f"the trained network is not kept, the source of {name} is not at hand", LabWarning, stacklevel=3)
        return None
    code += [repr(model), f"{MEAN} {STD}", *(f"{n} {p.requires_grad}" for n, p in model.named_parameters())]
    machine = [torch.__version__, next(model.parameters()).device.type]
    digest = hashlib.sha256(json.dumps([asdict(config), code, machine]).encode())
    digest.update(_digest({"images": split.images, "labels": split.labels, **model.state_dict()}).encode())
    return folder / f"{type(model).__name__}-{digest.hexdigest()[:24]}.safetensors"


def save_checkpoint(path: Path, model: nn.Module, loss: Tensor, seconds: float) -> None:
    """Write all or nothing; a disk that cannot be written costs the checkpoint, not the training."""
    tensors = {f"model.{name}": value.cpu().clone().contiguous() for name, value in model.state_dict().items()}
    tensors["loss"] = loss
    metadata = {"seconds": repr(seconds), "sha256": _digest(tensors)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as folder:
            whole = Path(folder) / path.name
            save_file(tensors, whole, metadata)
            os.replace(whole, path)
    except (OSError, SafetensorError) as error:
        warnings.warn(f"the trained network is not kept, {path} cannot be written: {error}", LabWarning, stacklevel=3)


def load_checkpoint(path: Path, model: nn.Module) -> tuple[Tensor, float] | None:
    """Restore a checkpoint into the model; None where there is none, or a damaged one."""
    if not path.is_file():
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
        return loss, float(metadata["seconds"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        warnings.warn(f"training again, the checkpoint {path} is damaged: {error}", LabWarning, stacklevel=3)
        return None


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()
