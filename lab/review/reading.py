"""What students write, in any style: their data as tensors, and their functions called without a trace."""

import io
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from itertools import islice
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lab.data import Mnist, load_mnist
from lab.errors import InputError, require
from lab.models import device_of

LIMIT = 10_000  # images of a set that are looked at: as many as MNIST's test images
SIDE = 28


@cache
def embedded() -> Mnist:
    """The embedded digits, read once."""
    return load_mnist("embedded")


@contextmanager
def quiet() -> Iterator[None]:
    """Swallow what the body prints and warns of, and put the random number generators back."""
    states = random.getstate(), np.random.get_state()
    devices = [*range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    silence = redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO())
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=devices), silence[0], silence[1]:
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def call(f: Callable[..., Any], *given: Any, on: str, **named: Any) -> Any:
    """What a student's function returns.

    Raises:
        InputError: the function fails; says how, and on what.
    """
    name = getattr(f, "__name__", type(f).__name__)
    try:
        with quiet():
            return f(*given, **named)
    except (Exception, SystemExit) as error:  # somebody else's code may raise anything
        _fail(f"`{name}` fails on {on}", error)


def _fail(what: str, error: BaseException) -> NoReturn:
    said = " ".join(str(error).split())[:200]
    raise InputError(f"{what}: {type(error).__name__}" + (f": {said}" if said else "")) from error


def as_tensor(value: Any) -> Tensor:
    """A number, a tensor, an array or a (nested) list of them, on the CPU and without a gradient.

    Raises:
        InputError: it is none of these.
    """
    if isinstance(value, Tensor):
        return value.detach().cpu()
    try:
        if isinstance(value, list | tuple) and value and isinstance(value[0], Tensor):
            return torch.stack([as_tensor(one) for one in value])
        return torch.from_numpy(np.array(value))
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"it holds no numbers in a regular shape: {type(value).__name__}") from None


def is_images(value: Tensor) -> bool:
    """Whether the last dimensions are an image: 28 28, another square of at least 8 pixels, or 784."""
    square = value.dim() >= 2 and value.shape[-1] == value.shape[-2] >= 8
    return square or (value.dim() >= 1 and value.shape[-1] == SIDE**2)


def as_images(value: Tensor) -> Tensor:
    """float64, `n h w`.

    Raises:
        InputError: they have several channels.
    """
    one = value.dim() != 4 or value.shape[1] == 1 or value.shape[-1] == SIDE**2
    require(one, f"images must have one channel, as n 1 28 28 or n 28 28: shape {tuple(value.shape)}")
    sides = value.shape[-2:] if value.dim() >= 2 and value.shape[-1] == value.shape[-2] else (SIDE, SIDE)
    return value.reshape(-1, *sides).double()


def columns(value: Any) -> list[Tensor]:
    """What a tensor, an array, a list, a Dataset or a DataLoader holds: images `n h w`, and what stands beside them.

    Raises:
        InputError: nothing that can be read.
    """
    try:
        with quiet():
            found = _columns(value)
    except InputError:
        raise
    except Exception as error:  # a student's Dataset may raise anything
        _fail("it cannot be read", error)
    require(found and all(len(one) for one in found), "it is empty")
    return found


def _columns(value: Any) -> list[Tensor]:
    if isinstance(value, DataLoader):
        return _joined(list(islice(value, LIMIT)))
    if isinstance(value, Dataset):
        return _joined([value[i] for i in range(min(len(value), LIMIT))])  # type: ignore[arg-type]  # most have a length
    if isinstance(value, list | tuple) and value and not isinstance(value[0], int | float):
        return _joined(value)
    return [_flat([as_tensor(value)])]


def _joined(rows: Sequence[Any]) -> list[Tensor]:
    """The columns of rows; where rows are single things, or differ in kind, what each of them holds."""
    require(rows, "it is empty")
    if isinstance(rows[0], list | tuple):
        return [column for part in zip(*rows, strict=True) for column in _joined(part)]
    tensors = [as_tensor(row) for row in rows]
    if len({(is_images(one), one.dim()) for one in tensors}) > 1:  # images, then labels
        return [_flat([one]) for one in tensors]
    return [_flat(tensors)]


def _flat(tensors: list[Tensor]) -> Tensor:
    if not is_images(tensors[0]):
        return torch.cat([one.reshape(-1) for one in tensors])[:LIMIT]
    return torch.cat([as_images(one) for one in tensors])[:LIMIT]


def like(values: Tensor, sample: Any) -> Any:
    """Maps `n c h w`, or scores `n 10`, in the student's own form: shape, type, array or tensor, and device."""
    if values.dim() == 4:
        values = {2: values.flatten(1), 3: values.flatten(0, 1)}.get(getattr(sample, "ndim", 4), values)
    if isinstance(sample, np.ndarray):
        return values.numpy().astype(sample.dtype)
    return values.to(sample) if isinstance(sample, Tensor) else values.float()


def fitting(model: nn.Module, images: Tensor) -> Tensor:
    """Images `n 1 h w` on the model's device and of its type, in the first shape that the model takes.

    Raises:
        InputError: it takes none of `n 1 h w`, `n h w` and `n 784`; says what happens on the first.
    """
    weight = next(model.parameters(), torch.zeros(0))
    images = images.to(device_of(model), weight.dtype)
    failures = []
    for shaped in (images, images[:, 0], images.flatten(1)):
        try:
            with torch.no_grad():
                call(model, shaped[:2], on=f"images of shape {tuple(shaped[:2].shape)}")
            return shaped
        except InputError as error:
            failures.append(error)
    raise failures[0]
