"""Training that can be read in one sitting: the data set is one tensor, a batch is an index into it.

The weights depend on the arguments alone: two runs on one machine give the same bits. A trained network is
kept on disk under a key of all that it depends on, and taken from there the next time.
"""

import math
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from jaxtyping import Float
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from lab.checkpoints import checkpoint_path, load_checkpoint, save_checkpoint
from lab.data import Split, check_split, normalize
from lab.errors import TrainingError, check_labels, check_seed, require
from lab.models import device_of, scores


@dataclass(frozen=True)
class TrainConfig:
    """How to train: SGD with Nesterov momentum and a one-cycle learning rate.

    Attributes:
        epochs: passes over the training images.
        batch_size: images in each step.
        learning_rate: at the peak of the cycle.
        momentum: Nesterov's.
        weight_decay: L2 penalty on all weights.
        seed: of the order of the images, and of dropout where a network has it.
        threads: CPU threads. The sums, and so the last bits of the weights, depend on it. One is the default
            because on these small networks a second gains at most 1.3 ×, and waiting for it under load costs 20 ×.
        max_shift: augmentation: each time an image is used, it is moved first by up to so many input pixels along each
            axis, every displacement alike; background enters.
    """

    epochs: int = 3
    batch_size: int = 128
    learning_rate: float = 0.03
    momentum: float = 0.9
    weight_decay: float = 0.0
    seed: int = 0
    threads: int = 1
    max_shift: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)
        for name, least in (("epochs", 1), ("batch_size", 1), ("threads", 1), ("max_shift", 0)):
            value = getattr(self, name)
            require(isinstance(value, int) and value >= least, f"{name} must be at least {least}: {value}")
        require(0 < self.learning_rate < math.inf, f"learning_rate must be positive: {self.learning_rate}")
        require(0 <= self.momentum < 1, f"momentum must be in [0, 1): {self.momentum}")
        require(0 <= self.weight_decay < math.inf, f"weight_decay must be at least 0: {self.weight_decay}")


GIVEN, POOLED = TrainConfig(), TrainConfig(epochs=2, batch_size=64, learning_rate=0.06, weight_decay=5e-4)
RECIPES = MappingProxyType({"given": GIVEN, "pooled": POOLED})
Cache = str | Path | None


@dataclass(frozen=True)
class TrainingRun:
    """What training did.

    Attributes:
        loss: mean cross-entropy (nats) of each step's batch, before the step.
        seconds: of the training loop, when it ran.
        from_cache: whether the weights came from disk.
    """

    loss: Float[Tensor, " steps"]
    seconds: float
    from_cache: bool


def fit(
    model: nn.Module, split: Split, config: TrainConfig = GIVEN, *, cache: Cache = None, progress: bool | None = None
) -> TrainingRun:
    """Train a network in place, on normalised images.

    Args:
        model: returns class scores or log-probabilities, `n classes`, alone or first in a tuple.
        split: images in [0, 1]; they are normalised here. Moved to the model's device.
        config: the recipe; by default that of the given network.
        cache: folder of checkpoints. With the same recipe, data, code and initial weights the result is loaded instead
            of trained again. What else the network computes with (attributes, helper functions) shows in its outputs
            for the first images; see [`checkpoint_path`][lab.checkpoints.checkpoint_path].
        progress: show a bar on standard error; by default where that is a terminal.

    Raises:
        InputError: no images, NaN or an infinite value; a label that is not a class of the model; no weight to train.
        TrainingError: the loss is no longer finite; the model cannot be used then.
    """
    check_split(split, "training")
    weights = any(weight.requires_grad for weight in model.parameters())
    require(weights, "training needs weights that can change: the model has none, or all are frozen")
    bar = sys.stderr.isatty() if progress is None else progress
    with _reproducible(config, device_of(model)):
        path = None if cache is None else checkpoint_path(Path(cache), model, split, config)
        if (kept := load_checkpoint(path, model)) is not None:
            return TrainingRun(kept.loss, kept.seconds, from_cache=True)
        start = time.perf_counter()
        loss = _train(model, split, config, bar)
        run = TrainingRun(loss, time.perf_counter() - start, from_cache=False)
        save_checkpoint(path, model, run.loss, run.seconds)
    return run


def _train(model: nn.Module, split: Split, config: TrainConfig, bar: bool) -> Tensor:
    """The loss of each step.

    Source: I. Sutskever et al., On the importance of initialization and momentum in deep learning, ICML 2013; L. Smith,
        N. Topin, Super-Convergence, 2017, arXiv:1708.07120.
    """
    images, labels = split.images.to(device_of(model)), split.labels.to(device_of(model))
    steps = config.epochs * math.ceil(len(images) / config.batch_size)
    optimizer, cycle = _optimizer(model, config, steps)
    losses = []
    model.train()
    batches, moves = _batches(len(images), config), torch.Generator().manual_seed(config.seed)
    for index in track(batches, "training", steps, console=Console(stderr=True), disable=not bar, transient=True):
        outputs = scores(model(normalize(_moved(images[index], config.max_shift, moves))))
        check_labels(labels[index], outputs.shape[1])
        loss = nn.functional.cross_entropy(outputs, labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        if len(losses) < steps:
            cycle.step()
    optimizer.zero_grad()
    model.eval()
    history = torch.stack(losses).cpu()
    if not history.isfinite().all():
        step = int((~history.isfinite()).nonzero()[0])
        raise TrainingError(f"the loss must stay finite: {history[step]} at step {step}, {config}")
    return history


def _moved(images: Tensor, max_shift: int, generator: torch.Generator) -> Tensor:
    """Each image by a displacement of its own, as `lab.shift` moves it, but all at once: windows of a larger canvas."""
    if max_shift == 0:
        return images
    h, w = images.shape[-2:]
    windows = nn.functional.pad(images, (max_shift,) * 4).unfold(2, h, 1).unfold(3, w, 1)
    row, column = torch.randint(2 * max_shift + 1, (2, len(images)), generator=generator).to(images.device)
    return windows[torch.arange(len(images), device=images.device), :, row, column]


def _optimizer(model: nn.Module, config: TrainConfig, steps: int) -> tuple[Optimizer, LRScheduler]:
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    rate, momentum, decay = config.learning_rate, config.momentum, config.weight_decay
    optimizer = SGD(weights, rate, momentum, weight_decay=decay, nesterov=momentum > 0, fused=True)
    return optimizer, OneCycleLR(optimizer, rate, steps, cycle_momentum=False)


def _batches(n: int, config: TrainConfig) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(config.seed)
    for _ in range(config.epochs):
        yield from torch.randperm(n, generator=generator).split(config.batch_size)


@contextmanager
def _reproducible(config: TrainConfig, device: torch.device) -> Iterator[None]:
    with ExitStack() as afterwards:
        afterwards.enter_context(torch.random.fork_rng(devices=[device] if device.type == "cuda" else []))
        afterwards.enter_context(torch.backends.cudnn.flags(enabled=True, deterministic=True, benchmark=False))
        afterwards.callback(torch.set_num_threads, torch.get_num_threads())
        torch.manual_seed(config.seed)
        torch.set_num_threads(config.threads)
        yield
