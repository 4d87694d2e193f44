"""Training that can be read in one sitting: the data set is one tensor, a batch is an index into it.

The weights depend on the arguments alone: two runs on one machine give the same bits. A trained network is
kept on disk under a key of all that it depends on, and taken from there the next time.
"""

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
import torch.nn.functional as F
from jaxtyping import Float
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from lab.checkpoints import checkpoint_path, load_checkpoint, save_checkpoint
from lab.data import Split, check_split, normalize
from lab.errors import DeviceError, InputError, TrainingError
from lab.models import check_seed, scores


@dataclass(frozen=True)
class TrainConfig:
    """How to train: SGD with Nesterov momentum and a one-cycle learning rate.

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step.
        learning_rate: at the peak of the cycle.
        momentum: Nesterov's.
        weight_decay: L2 penalty on all weights.
        seed: of the order of the images, and of dropout where a network has it.
        threads: CPU threads. The sums, and so the last bits of the weights, depend on it. One is the default
            because on these small networks a second gains at most 1.3 ×, and waiting for it under load costs 20 ×.
    """

    epochs: int = 3
    batch_size: int = 128
    learning_rate: float = 0.03
    momentum: float = 0.9
    weight_decay: float = 0.0
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "threads"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1: {getattr(self, name)}")
        check_seed(self.seed)
        if not 0 < self.learning_rate < math.inf:
            raise InputError(f"learning_rate must be positive: {self.learning_rate}")
        if not 0 <= self.momentum < 1 or not 0 <= self.weight_decay < math.inf:
            raise InputError(
                "momentum must be in [0, 1) and weight_decay at least 0: "
                f"momentum={self.momentum}, weight_decay={self.weight_decay}"
            )


RECIPES = MappingProxyType(
    {
        "given": TrainConfig(),
        "pooled": TrainConfig(epochs=2, batch_size=64, learning_rate=0.06, weight_decay=5e-4),
    }
)


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
    model: nn.Module,
    split: Split,
    config: TrainConfig | None = None,
    *,
    cache: str | Path | None = None,
    progress: bool | None = None,
) -> TrainingRun:
    """Train a network in place, on normalised images.

    Args:
        model: returns class scores or log-probabilities, `n classes`, alone or first in a tuple.
        split: images in [0, 1]; they are normalised here. Moved to the model's device.
        config: the recipe.
        cache: folder of checkpoints. Same recipe, data, code and initial weights: loaded instead of trained.
        progress: show a bar on standard error; by default where that is a terminal.

    Raises:
        InputError: no images, NaN or an infinite value.
        TrainingError: the loss is no longer finite; the model is then of no use.
    """
    config = config or TrainConfig()
    check_split(split, "training")
    path = checkpoint_path(Path(cache), model, split, config, sys.modules[__name__]) if cache is not None else None
    if path is not None and (kept := load_checkpoint(path, model)) is not None:
        return TrainingRun(loss=kept[0], seconds=kept[1], from_cache=True)
    bar = sys.stderr.isatty() if progress is None else progress
    device = next(model.parameters()).device
    with _reproducible(config, device):
        start = time.perf_counter()
        loss = _sgd(model, split.images.to(device), split.labels.to(device), config, bar)
        run = TrainingRun(loss, time.perf_counter() - start, from_cache=False)
    if path is not None:
        save_checkpoint(path, model, run.loss, run.seconds)
    return run


def _sgd(model: nn.Module, images: Tensor, labels: Tensor, config: TrainConfig, bar: bool) -> Tensor:
    """Nesterov's SGD as in `torch.optim.SGD`, which would load the compiler first: 1.5 s and 150 MB.

    Source: I. Sutskever et al., On the importance of initialization and momentum in deep learning, ICML 2013; as in
        PyTorch's `SGD`, the learning rate stands outside the velocity.
    """
    steps = config.epochs * -(-len(images) // config.batch_size)
    parameters = [p for p in model.parameters() if p.requires_grad]
    velocities = [torch.zeros_like(p) for p in parameters]
    losses = []
    model.train()
    console = Console(stderr=True)
    batches = track(_batches(len(images), config), "training", steps, console=console, disable=not bar, transient=True)
    for step, index in enumerate(batches):
        loss = F.cross_entropy(scores(model(normalize(images[index]))), labels[index])
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        rate = one_cycle(step, steps, config.learning_rate)
        with torch.no_grad():
            for parameter, velocity, gradient in zip(parameters, velocities, gradients, strict=True):
                slope = gradient + config.weight_decay * parameter
                velocity.mul_(config.momentum).add_(slope)
                parameter.sub_(rate * (slope + config.momentum * velocity))
        losses.append(loss.detach())
    model.eval()
    history = torch.stack(losses).cpu()
    if not history.isfinite().all():
        step = int((~history.isfinite()).nonzero()[0])
        raise TrainingError(f"the loss must stay finite: {history[step]} at step {step}, {config}")
    return history


def one_cycle(step: int, steps: int, peak: float) -> float:
    """The learning rate at `step` of `steps`: a cosine up from peak / 25 for 30 % of them, then one down to nearly 0.

    Source: L. Smith, N. Topin, Super-Convergence, 2017, arXiv:1708.07120; the shape of PyTorch's `OneCycleLR`.
    """
    start, end, turn, last = peak / 25, peak / 25e4, 0.3 * steps - 1, steps - 1
    if step <= turn:
        low, high, at = start, peak, step / turn
    else:
        low, high, at = peak, end, (step - turn) / (last - turn)
    return low + (high - low) * (1 - math.cos(math.pi * at)) / 2


def _batches(n: int, config: TrainConfig) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(config.seed)
    for _ in range(config.epochs):
        yield from torch.randperm(n, generator=generator).split(config.batch_size)


def select_device(name: str) -> torch.device:
    """The device called `auto`, `cpu`, `cuda` or `mps`; `auto` is the fastest that is there.

    Raises:
        InputError: unknown name.
        DeviceError: the device is not there.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, there in present.items() if there)
    if name not in present:
        raise InputError(f"device must be one of auto, cpu, cuda, mps: {name!r}")
    if not present[name]:
        raise DeviceError(
            f"device {name} is not there: this machine offers {', '.join(d for d in present if present[d])}"
        )
    return torch.device(name)


@contextmanager
def _reproducible(config: TrainConfig, device: torch.device) -> Iterator[None]:
    threads = torch.get_num_threads()
    devices = [device] if device.type == "cuda" else []
    deterministic = torch.backends.cudnn.flags(enabled=True, deterministic=True, benchmark=False)
    with torch.random.fork_rng(devices=devices), deterministic:
        torch.manual_seed(config.seed)
        torch.set_num_threads(config.threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
