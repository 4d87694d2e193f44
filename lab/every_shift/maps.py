"""What a network answers at every shift of an image: all logits at once, or maps of what they come to.

Moving an image inside its background is moving the window over a larger canvas. A network without padding can
therefore run once over the canvas (`dense`), in place of once for each shift (`brute`);
see [`dense_equivalent`][lab.every_shift.dense.dense_equivalent].
"""

import math
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from operator import index
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int64
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from lab.errors import InputError, LabWarning, NotDenseError
from lab.every_shift.dense import Dense, dense_equivalent, framed
from lab.files import finite
from lab.models import scores
from lab.observing import check_mode, evaluating, failures
from lab.shifting import check_finite, check_images

Method = Literal["auto", "dense", "brute"]
BRUTE_BATCH = 100  # images: the fastest of 50, 100 and 300 for both networks of the lab
ALIGNED = 16  # images: rows of whole cache lines, in which matrix products are a quarter faster
VALUES = 2**20  # of the largest map of a batch: small enough for the cache, and memory is bounded whatever the image
PIXELS = 2**18  # of a batch that runs once for each shift, at most
RINGS = ("accuracy", "consistency", "kappa", "confidence", "margin")
CLOSE = 1e-4  # relative: 10 × what rounding may do


def shift_map(
    model: nn.Module,
    images: Float[Tensor, "n c h w"],
    *,
    radius: int = 14,
    background: float = 0.0,
    method: Method = "auto",
) -> Float[Tensor, "n side side classes"]:
    """The network's answer at every shift, up to `radius` pixels up, down, left and right.

    Entry `[:, radius + dy, radius + dx]` is `model(lab.shift(images, dy, dx, background=background))`, also where
    the shift is larger than the image. [`shift_maps`][lab.every_shift.maps.shift_maps] holds no more
    of it than a batch.

    Args:
        model: takes `n c h w`, in evaluation mode as far as that matters; of a tuple, the first is meant. Left as
            it was.
        images: as the model takes them (normalised, if it was trained so), on its device and of its type.
        radius: pixels; the map has `side = 2 * radius + 1` rows (dy) and columns (dx).
        background: the value of background pixels; `lab.data.BACKGROUND` for normalised MNIST.
        method: `"dense"` runs once over a larger canvas, `"brute"` once for each shift; `"auto"` is dense where
            that is exact, and else brute, with a warning that says why.

    Returns:
        Logits, or whatever scores the model returns; on the model's device. Dense and brute round in another order: on
        the given network's 84 million scores for MNIST, in float32, they differ by up to 4e-7 of the largest.

    Raises:
        InputError: bad images, radius or background; a model in training mode, or that fails on the images, or
            returns no finite `n classes`; `"dense"`, where that would not be exact.

    Source:
        P. Sermanet et al., OverFeat, 2014, section 3.5, arXiv:1312.6229; A. Giusti et al., Fast image scanning with
        deep max-pooling convolutional neural networks, 2013, arXiv:1302.1700.

    Examples:
        >>> import torch, lab
        >>> model, images = lab.build_model("given", seed=0), torch.rand(2, 1, 28, 28)
        >>> logits = lab.shift_map(model, images, radius=3)
        >>> logits.shape
        torch.Size([2, 7, 7, 10])
        >>> torch.allclose(logits[:, 3 + 2, 3 - 1], model(lab.shift(images, 2, -1))[0], atol=1e-5)
        True
    """
    radius = _check(model, images, radius, background, method)
    with evaluating(model, images.device), failures(images.shape):
        plan, _ = _choose(model, images, radius, background, method)
        reach = _reach(plan, images, radius)
        logits, done = images.new_empty(0), 0
        batches = images.split(_batch_size(plan or model, images, reach))
        for answers in _answers(plan or model, batches, reach, background):
            logits = logits if done else answers.new_empty(len(images), *answers.shape[1:])
            whole = answers.permute(1, 2, 3, 0).flip(0, 1).reshape(-1, len(answers))
            logits[done : done + len(answers)].view(len(answers), -1).copy_(whole.T)  # a plain transpose: twice as fast
            done += len(answers)
        return _beyond(logits.movedim(-1, 1), radius).movedim(1, -1).contiguous()


@dataclass(frozen=True)
class ShiftMaps:
    """What a network makes of labelled images at every shift; every map float64, entry `[radius + dy, radius + dx]`.

    Attributes:
        radius: pixels.
        images: how many.
        accuracy: share of images whose largest score is the label's, in [0, 1].
        consistency: share of images classified as without a shift, right or wrong, in [0, 1].
        kappa: the same beyond chance, as [`cohen_kappa`][lab.metrics.cohen_kappa]; at most 1.
        confidence: mean of the largest probability (softmax of the scores), in [1 / classes, 1].
        margin: mean of the label's score minus the best other score, which is negative where an image is misclassified.
        per_class: accuracy on the images of each class; nan where there is none.
        worst_case: share of images classified right at every shift.
        method: how it was computed.
        why: why not densely; "" where it was.
        seconds: how long it took.
    """

    radius: int
    images: int
    accuracy: Float[Tensor, "side side"]
    consistency: Float[Tensor, "side side"]
    kappa: Float[Tensor, "side side"]
    confidence: Float[Tensor, "side side"]
    margin: Float[Tensor, "side side"]
    per_class: Float[Tensor, "classes side side"]
    worst_case: float
    method: Literal["dense", "brute"]
    why: str
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values for JSON; nan as a string."""
        plain = {name: value.tolist() if isinstance(value, Tensor) else value for name, value in vars(self).items()}
        one_by_one = [[[finite(value) for value in row] for row in rows] for rows in plain["per_class"]]
        return plain | {"per_class": one_by_one}

    def rings(self, name: str) -> Float[Tensor, " rings"]:
        """Means of one map over the shifts with max(|dy|, |dx|) = 0, 1, …, radius; `name` as in `"accuracy"`."""
        steps = torch.arange(-self.radius, self.radius + 1).abs()
        ring = torch.maximum(steps[:, None], steps).flatten()
        sums = torch.bincount(ring, weights=getattr(self, name).flatten())
        return sums / torch.bincount(ring)

    def table(self) -> Table:
        """For a terminal: means over the shifts of each distance, then what holds for all of them."""
        table = Table(title=f"{self.images:,} images at {self.accuracy.numel():,} shifts", title_justify="left")
        for column in ("Distance (px)", *(name.capitalize() for name in RINGS)):
            table.add_column(column, justify="right")
        rows = zip(*(self.rings(name).tolist() for name in RINGS), strict=True)
        for distance, values in enumerate(rows):
            table.add_row(str(distance), *(f"{value:.3f}" for value in values))
        how = f"{self.method}, {self.seconds:.1f} s" + (f"; {self.why}" if self.why else "")
        table.caption = escape(f"right at every shift: {self.worst_case:.1%} of the images; computed {how}")
        table.caption_justify = "left"
        return table


def shift_maps(
    model: nn.Module,
    images: Float[Tensor, "n c h w"],
    labels: Int64[Tensor, " n"],
    *,
    radius: int = 14,
    background: float = 0.0,
    method: Method = "auto",
    progress: bool = False,
) -> ShiftMaps:
    """Accuracy, consistency, confidence and margin at every shift, in the memory of one batch.

    Args:
        model: as in [`shift_map`][lab.every_shift.maps.shift_map], like all that follows.
        images: likewise.
        labels: of the images, from 0 to classes - 1.
        radius: pixels.
        background: the value of background pixels.
        method: `"auto"`, `"dense"` or `"brute"`.
        progress: show a bar on standard error, if that is a terminal.

    Raises:
        InputError: as in [`shift_map`][lab.every_shift.maps.shift_map]; labels that do not fit.

    Examples:
        >>> import torch, lab
        >>> model, images = lab.build_model("given", seed=0), torch.rand(8, 1, 28, 28)
        >>> maps = lab.shift_maps(model, images, torch.arange(8), radius=2)
        >>> maps.accuracy.shape, maps.consistency[2, 2].item(), maps.method
        (torch.Size([5, 5]), 1.0, 'dense')
    """
    radius = _check(model, images, radius, background, method)
    if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
        raise InputError(f"labels must be int64, one an image: {labels.dtype}, {tuple(labels.shape)}, {len(images)}")
    start = time.perf_counter()
    with evaluating(model, images.device), failures(images.shape):
        plan, why = _choose(model, images, radius, background, method)
        network, reach = plan.unscaled if plan else model, _reach(plan, images, radius)
        size = _batch_size(network, images, reach)
        sums: dict[str, Tensor] = {}
        labels, order = labels.to(images.device).sort(stable=True)  # equal labels together, as is fastest to measure
        batches = (images[batch] for batch in order.split(size))
        steps = zip(_answers(network, batches, reach, background), labels.split(size), strict=True)
        console = Console(stderr=True)
        total = -(-len(images) // size)
        hidden = not (progress and console.is_terminal)
        for answers, batch in track(steps, "shifting", total, console=console, disable=hidden, transient=True):
            if not sums:
                _check_labels(labels, answers.shape[-1])
            sums = {name: sums.get(name, 0) + value.double() for name, value in _measured(answers, batch).items()}
    how: dict[str, Any] = {"method": "dense" if plan else "brute", "why": why, "seconds": time.perf_counter() - start}
    return ShiftMaps(radius, len(images), **_averaged(sums, len(images), radius), **how)


def _check(model: nn.Module, images: Tensor, radius: int, background: float, method: str) -> int:
    """Refuse what cannot be mapped; the radius as a Python integer."""
    check_images(images)
    if images.dim() != 4:
        raise InputError(f"images must be n c h w: shape {tuple(images.shape)}")
    try:
        radius = index(radius)
    except TypeError:
        raise InputError(f"radius must be a whole number of pixels: {radius!r}") from None
    if radius < 0:
        raise InputError(f"radius must be at least 0: {radius}")
    if not abs(background) < float("inf"):
        raise InputError(f"background must be finite: {background}")
    if method not in get_args(Method):
        raise InputError(f"method must be one of {', '.join(get_args(Method))}: {method!r}")
    check_mode(model)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device != images.device:
            raise InputError(f"images must be on the model's device: {images.device}, {tensor.device}")
    return radius


def _choose(
    model: nn.Module, images: Tensor, radius: int, background: float, method: Method
) -> tuple[Dense | None, str]:
    """The dense network, or None and why not."""
    if method == "brute":
        return None, "asked for"
    try:
        plan = dense_equivalent(model, images)
        _verify(plan, model, images[:2], _reach(plan, images, radius), background)
        return plan, ""
    except NotDenseError as error:
        if method == "dense":
            raise
        why = str(error)
    warnings.warn(f"running once for each shift, since dense evaluation is not exact: {why}", LabWarning, stacklevel=4)
    return None, why


def _verify(plan: Dense, model: nn.Module, images: Tensor, radius: int, background: float) -> None:
    """Compare both ways on windows of each phase: a network that chooses by its input what runs is found out."""
    answers, whole = plan.shifts(images, radius, background), framed(images, radius, background)
    last = 2 * radius
    for y, x in {(0, 0), (radius, radius), (last, last), (0, last), (min(1, last), min(2, last)), (last, last // 2)}:
        expected = scores(model(_window(whole, images, y, x)))
        if (answers[:, y, x] - expected).abs().max() > CLOSE * expected.abs().max():
            at = f"dy={radius - y}, dx={radius - x}"
            raise NotDenseError(f"the dense network answers otherwise than the network itself does at {at}")


def _reach(plan: Dense | None, images: Tensor, radius: int) -> int:
    """The largest shift to be computed: densely, none that leaves only background; brute force takes no short cut."""
    return min(radius, max(images.shape[2:])) if plan else radius


def _beyond(maps: Float[Tensor, "*leading inner inner"], radius: int) -> Float[Tensor, "*leading side side"]:
    """Maps for all shifts, where those further away answer as the outermost do."""
    reach = maps.shape[-1] // 2
    at = torch.arange(-radius, radius + 1, device=maps.device).clamp(-reach, reach) + reach
    return maps if reach == radius else maps[..., at[:, None], at]


def _window(whole: Tensor, images: Tensor, y: int, x: int) -> Tensor:
    return whole[:, :, y : y + images.shape[2], x : x + images.shape[3]]


def _batch_size(network: Dense | nn.Module, images: Tensor, radius: int) -> int:
    c, h, w = images.shape[1:]
    if not isinstance(network, Dense):
        return max(1, min(BRUTE_BATCH, PIXELS // (c * h * w)))
    maps = [step.after[1] for step in network.steps if len(step.after) == 4]
    canvas, answers = (h + 2 * radius) * (w + 2 * radius), (2 * radius + 1) ** 2
    features = [step.after[1] for step in network.steps if step.name == "linear"]
    size = VALUES // max(max([c, *maps]) * canvas, max([1, *features]) * answers)
    return max(1, size // ALIGNED * ALIGNED or size)


def _answers(
    network: Dense | nn.Module, batches: Iterable[Tensor], radius: int, background: float
) -> Iterator[Float[Tensor, "n side side classes"]]:
    """Batch by batch, by the window's first row and column on the canvas: a shift of `radius` comes first."""
    for batch in batches:
        shifted = network.shifts if isinstance(network, Dense) else partial(_one_by_one, network)
        found = shifted(batch, radius, background)
        check_finite("the model's scores", found)
        yield found


def _one_by_one(model: nn.Module, images: Tensor, radius: int, background: float) -> Tensor:
    """Once for each shift: the clear slow twin."""
    side, whole = range(2 * radius + 1), framed(images, radius, background)
    rows = [torch.stack([scores(model(_window(whole, images, y, x))) for x in side], 1) for y in side]
    return torch.stack(rows, 1)


def _check_labels(labels: Tensor, classes: int) -> None:
    low, high = int(labels.min()), int(labels.max())
    if classes < 2 or not 0 <= low <= high < classes:
        raise InputError(f"labels must be below the number of classes, at least 2: {low} to {high}, {classes}")


def _measured(answers: Float[Tensor, "n side side classes"], labels: Int64[Tensor, " n"]) -> dict[str, Tensor]:
    """What the maps are made of, summed over a batch; by column, then row. The fastest layout: classes, x, y, n.

    The answers are overwritten: on this way every pass and all fresh memory count. Fastest where equal labels adjoin.
    """
    _, side, _, classes = answers.shape
    wide = torch.promote_types(answers.dtype, torch.float32)  # in which all ranks and sums fit
    below = answers.permute(3, 2, 1, 0).contiguous().to(wide)
    below.sub_(below.amax(0))  # the best score
    rank, right, same, own = (torch.zeros_like(below[0]) for _ in range(4))
    for label, one in enumerate(below):  # of equals the first, as in argmax
        torch.maximum(rank, torch.eq(one, 0, out=same).mul_(classes - label), out=rank)
    torch.eq(rank, (classes - labels).to(wide), out=right)  # 4 × faster than comparing into bool
    torch.eq(rank, rank[side // 2, side // 2], out=same)
    place = torch.arange(side**2, device=labels.device).view(side, side, 1) * (classes + 1)
    predicted = torch.bincount((place + rank.long()).flatten(), minlength=side**2 * (classes + 1))
    hits = right.new_zeros(side, side, classes)
    runs, counts = labels.unique_consecutive(return_counts=True)
    parts = (whole.split(counts.tolist(), -1) for whole in (below, own, right))
    for label, scored, kept, hit in zip(runs.tolist(), *parts, strict=True):
        kept.copy_(scored[label])
        scored[label] = -torch.inf  # what is left are the others
        hits[..., label] += hit.sum(-1)
    margin, scale = (own - below.amax(0)).sum(-1), math.log2(math.e)
    total = below.mul_(scale).exp2_().sum(0) + own.mul_(scale).exp2_()  # exp is 3 × slower
    return {
        "right": hits,
        "always": right.flatten(0, 1).amin(0).sum(),
        "same": same.sum(-1),
        "predicted": predicted.view(side, side, -1),
        "confidence": total.reciprocal_().sum(-1),
        "margin": margin,
        "labels": labels.bincount(minlength=classes),
    }


def _averaged(sums: dict[str, Tensor], n: int, radius: int) -> dict[str, Any]:
    """The maps; turned round, so that a window further down is an image further up."""
    same, shares, middle = sums["same"] / n, sums["predicted"] / n, len(sums["same"]) // 2
    chance = (shares * shares[middle, middle]).sum(-1)
    maps = {
        "accuracy": sums["right"].sum(-1) / n,
        "consistency": same,
        "kappa": torch.where(chance < 1, (same - chance) / (1 - chance), 0.0),
        "confidence": sums["confidence"] / n,
        "margin": sums["margin"] / n,
        "per_class": (sums["right"] / sums["labels"]).movedim(-1, 0),
    }
    turned = {name: _beyond(values.mT.flip(-2, -1), radius).cpu() for name, values in maps.items()}
    return turned | {"worst_case": sums["always"].item() / n}
