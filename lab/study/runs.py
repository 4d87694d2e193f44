"""One run of a study: train a network, measure it, and keep what was found as plain values.

A record depends on the run, the data, the code and torch alone: on one machine two of them are equal bit for bit, but
for the seconds. The name of its file is a digest of all that, so that no record is ever out of date.
"""

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from lab.data import BACKGROUND, Mnist, Split, load_mnist, normalize
from lab.errors import DataError, LabError, OutputError
from lab.files import staged_output
from lab.metering.instrument import meter
from lab.observing import predict
from lab.shifting import InkMargins, ink_margins, shift
from lab.study.networks import Setting, study_network
from lab.study.plans import Run
from lab.training import TrainConfig, fit

RADIUS = 8  # pixels: every shift up to it is looked at
TESTED = 2_000  # test digits; the embedded set has no more
A_SHIFT = 40  # digits at each of the 289 shifts, other ones each time, so that their means are over many
METERED = 8  # digits, with room for the largest of the meter's shifts
ONE_AT_A_TIME = Lock()  # seeds and the number of threads are those of the whole process
SHIFTS = (1, -1), (2, -2), (4, -4)
RECIPE = TrainConfig(batch_size=64, learning_rate=0.1, weight_decay=5e-4)
Grid = list[list[float]]
CORE = ["checkpoints", "data", "errors", "files", "models", "training", "shifting", "observing", "metrics"]
SHOWING = ["__init__", "remedies", "report", "tiles", "scheduling", "statistics", "results", "figures", "commands"]


@dataclass(frozen=True)
class LayerFound:
    """What the meter found of one layer under one shift; nan as `None`.

    Attributes:
        layer: name.
        dy: pixels down.
        dx: pixels right.
        theory: what was expected.
        observed: what was seen.
        error: equivariance error of the interior; on a ring, of all outputs.
        control: the same of an unrelated image.
        invariance: invariance error.
    """

    layer: str
    dy: int
    dx: int
    theory: str
    observed: str
    error: float | None
    control: float | None
    invariance: float | None


@dataclass(frozen=True)
class Record:
    """What a run found; empty but for `failure`, where it failed.

    Attributes:
        setting: of the run.
        seed: likewise.
        parameters: weights that were trained.
        labels: of the test digits, a character each; the same digits in the same order in every run.
        in_place: the classes predicted for these digits as they are, a character each.
        moved: the same for each digit at another place, drawn once among those up to 8 px away at which all its ink is
            inside; the same places in every run.
        accuracy: share of right ones at each shift up to ±8 px, rows dy, columns dx; some digits each time.
        agreement: share of those that get the class that they have in place.
        layers: errors of each layer.
        seconds: of `"training"` and `"measuring"`, on the processor, so that waiting does not count; not part of what
            is compared.
        failure: why there is nothing else.
    """

    setting: Setting
    seed: int
    parameters: int = 0
    labels: str = ""
    in_place: str = ""
    moved: str = ""
    accuracy: Grid = field(default_factory=list)
    agreement: Grid = field(default_factory=list)
    layers: tuple[LayerFound, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict, compare=False)
    failure: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "Record":
        """What `to_dict` gave."""
        layers = tuple(LayerFound(**layer) for layer in plain["layers"])
        return cls(**plain | {"setting": Setting(**plain["setting"]), "layers": layers})


def sources() -> list[Path]:
    """The files whose change may change a record: what a run calls, but not what only shows records or reports."""
    package = Path(__file__).parents[1]
    found = [*(package / f"{name}.py" for name in CORE), *package.glob("metering/*.py"), *package.glob("study/*.py")]
    return sorted(path for path in found if path.stem not in SHOWING)


@cache
def version() -> str:
    """A digest of the code that a record depends on, and of torch's release."""
    code = b"".join(path.read_bytes() for path in sources())
    return hashlib.sha256(torch.__version__.encode() + code).hexdigest()[:16]


def key(run: Run, sha256: str) -> str:
    """Of all that a record depends on."""
    text = json.dumps([asdict(run), sha256, version()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def kept(folder: Path, run: Run, sha256: str) -> Record | None:
    """The record of a run that was done before; None where there is none, or a damaged one."""
    try:
        plain = json.loads((folder / f"{key(run, sha256)}.json").read_text(encoding="utf-8"))
        return Record.from_dict(plain)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep(folder: Path, record: Record, sha256: str) -> None:
    """Write a record whole or not at all; one that failed is not kept, so that it is tried again.

    Raises:
        OutputError: the disk does not take it.
    """
    if record.failure:
        return
    name = f"{key(Run(record.setting, record.seed), sha256)}.json"
    try:
        with staged_output(folder) as stage:
            (stage / name).write_text(json.dumps(record.to_dict()), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"the record of a run cannot be written to {folder}: {error.strerror or error}") from error


def execute(run: Run, source: Literal["full", "embedded"], root: str, expected: tuple[str, str]) -> Record:
    """Do a run, here or in another process or machine.

    Args:
        run: the setting and the seed.
        source: of MNIST.
        root: data root; where there is none here, this machine's own.
        expected: the [`version`][lab.study.runs.version], and the data's SHA-256, of whoever asks.

    A process does one run at a time, however many threads ask for one, as those of a Dask worker may.

    Returns:
        The record; where the run failed, one that says why.

    Raises:
        LabError: this process has another version or other data; results would mix.
    """
    mnist = _mnist(source, root if Path(root).is_dir() else None)
    if (version(), mnist.sha256) != expected:
        raise LabError(f"all workers must have the same code, torch and data: {(version(), mnist.sha256)}, {expected}")
    with ONE_AT_A_TIME:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the last bits depend on it
        try:
            return _found(run, mnist)
        except (LabError, RuntimeError, ArithmeticError, ValueError, MemoryError) as error:
            said = " ".join(str(error).split()) or type(error).__name__
            return Record(run.setting, run.seed, failure=said)
        finally:
            torch.set_num_threads(threads)


@cache
def _mnist(source: Literal["full", "embedded"], root: str | None) -> Mnist:
    """Loaded once a process."""
    return load_mnist(source, root)


def _found(run: Run, mnist: Mnist) -> Record:
    setting = run.setting
    if setting.digits > len(mnist.train):
        raise DataError(f"digits must be at most {len(mnist.train):,}, all that {mnist.name} has: {setting.digits:,}")
    start = time.process_time()
    model = study_network(setting, seed=run.seed)
    recipe = replace(RECIPE, seed=run.seed, epochs=setting.epochs, max_shift=setting.augmentation)
    fit(model, mnist.train.sample(setting.digits, seed=run.seed), recipe, progress=False)
    trained = time.process_time()
    test = mnist.test.sample(TESTED, seed=0)
    in_place = _classes(model, test.images)
    accuracy, agreement = _at_every_shift(model, test, in_place)
    return Record(
        setting,
        run.seed,
        parameters=sum(weight.numel() for weight in model.parameters()),
        labels=_text(test.labels),
        in_place=_text(in_place),
        moved=_text(_classes(model, moved_once(test))),
        accuracy=accuracy,
        agreement=agreement,
        layers=tuple(_layers(model, test, wrap=setting.padding == "circular")),
        seconds={"training": trained - start, "measuring": time.process_time() - trained},
    )


def moved_once(test: Split) -> Float[Tensor, "n c h w"]:
    """Each digit at another place, drawn among all up to 8 px away at which its ink is inside."""
    room, random = ink_margins(test.images), torch.Generator().manual_seed(0)
    moves = [_drawn(*sides, random) for sides in ((room.up, room.down), (room.left, room.right))]
    still = (moves[0] == 0) & (moves[1] == 0) & (room.down + room.up > 0)
    moves[0] = torch.where(still, torch.where(room.down > 0, 1, -1), moves[0])
    return shift(test.images, *moves)


def _drawn(before: Int64[Tensor, " n"], after: Int64[Tensor, " n"], random: torch.Generator) -> Int64[Tensor, " n"]:
    """Along one axis."""
    low, high = -before.clamp(max=RADIUS), after.clamp(max=RADIUS)
    return low + (torch.rand(len(low), generator=random) * (high - low + 1)).long()


def _classes(model: nn.Module, images: Float[Tensor, "n c h w"]) -> Int64[Tensor, " n"]:
    return predict(model, images).argmax(1)


def _text(classes: Int64[Tensor, " n"]) -> str:
    return "".join(map(str, classes.tolist()))


def _at_every_shift(model: nn.Module, test: Split, in_place: Int64[Tensor, " n"]) -> tuple[Grid, Grid]:
    """Shares of right and of unchanged predictions, of other digits at each shift."""
    side, n = range(-RADIUS, RADIUS + 1), min(A_SHIFT, len(test))
    shifts = [(dy, dx) for dy in side for dx in side]
    index = torch.arange(n * len(shifts)).view(-1, n) % len(test)
    images = torch.cat([shift(test.images[own], *t) for own, t in zip(index, shifts, strict=True)])
    found = _classes(model, images).view_as(index)
    shares = [(found == truth[index]).double().mean(1).view(len(side), -1) for truth in (test.labels, in_place)]
    return shares[0].tolist(), shares[1].tolist()


def _layers(model: nn.Module, test: Split, *, wrap: bool) -> Iterator[LayerFound]:
    """By the meter, on digits with room for its shifts."""
    room = ink_margins(test.images)
    images = normalize(test.images[_roomy(room)][:METERED])
    mode: Literal["wrap", "background"] = "wrap" if wrap else "background"
    asked: Any = {"mode": mode, "background": BACKGROUND, "quantities": ["equivariance", "invariance"]}
    for row in meter(model, images, SHIFTS, **asked).rows:
        numbers = (None if value != value else value for value in (row.error, row.control, row.invariance))
        yield LayerFound(row.layer, row.dy, row.dx, row.theory, row.observed, *numbers)


def _roomy(room: InkMargins) -> Tensor:
    return torch.stack([room.fits(*t) for t in SHIFTS]).all(0)
