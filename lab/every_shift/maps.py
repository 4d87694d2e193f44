"""What a network returns at every shift of an image: all scores at once, or maps of what they come to.

Moving an image inside its background is moving the window over a larger canvas. A network without padding can
therefore run once over the canvas (`dense`), in place of once for each shift (`brute`);
see [`dense_equivalent`][lab.every_shift.dense.dense_equivalent].
"""

import sys
import time
import warnings
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int64
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Column, Table
from torch import Tensor, nn

from lab.checkpoints import restored
from lab.errors import InputError, LabWarning, NotDenseError, check_finite, check_images, check_labels, failures
from lab.every_shift.dense import Dense, check_close, dense_equivalent
from lab.files import finite
from lab.models import scores
from lab.observing import evaluating

Method = Literal["auto", "dense", "brute"]
Network = Dense | nn.Module
Images = Float[Tensor, "n c h w"]
VALUES = 2**20  # of the largest map of a batch: small enough for the cache, and memory is bounded whatever the image
PIXELS = 2**16  # of a batch that runs once for each shift: 83 images of MNIST, as fast as 50 or 100
RINGS = ("accuracy", "consistency", "kappa", "confidence", "margin")


def shift_map(
    model: nn.Module, images: Images, *, radius: int = 14, background: float = 0.0, method: Method = "auto"
) -> Float[Tensor, "n side side classes"]:
    """The network's scores at every shift, up to `radius` pixels up, down, left and right.

    Entry `[:, radius + dy, radius + dx]` is `model(lab.shift(images, dy, dx, background=background))`, also where
    the shift is larger than the image. [`shift_maps`][lab.every_shift.maps.shift_maps] keeps only one
    batch of scores in memory.

    Args:
        model: takes `n c h w` and returns scores, alone or first in a tuple; runs in evaluation mode, and is left as
            it was.
        images: as the model takes them (normalised, if it was trained so), on its device and of its type.
        radius: pixels; the map has `side = 2 * radius + 1` rows (dy) and columns (dx).
        background: the value of background pixels; `lab.data.BACKGROUND` for normalised MNIST.
        method: `"dense"` runs once over a larger canvas, `"brute"` once for each shift; `"auto"` is dense where
            that is exact, and else brute, with a warning that says why.

    Returns:
        Logits, or whatever scores the model returns; on the model's device. Dense and brute round in another order: in
        float32 they differ by about 1e-6 of the largest.

    Raises:
        InputError: bad images, radius or background; a model that fails on the images, or returns no finite
            `n classes`; `"dense"`, where that would not be exact.

    Source:
        P. Sermanet et al., OverFeat, 2014, section 3.5, arXiv:1312.6229; A. Giusti et al., Fast image scanning with
        deep max-pooling convolutional neural networks, 2013, arXiv:1302.1700; J. Long et al., Fully convolutional
        networks for semantic segmentation, 2015, section 3.2, arXiv:1411.4038.

    Examples:
        >>> import torch, lab
        >>> model, images = lab.build_model("given", seed=0), torch.rand(2, 1, 28, 28)
        >>> logits = lab.shift_map(model, images, radius=3)
        >>> logits.shape
        torch.Size([2, 7, 7, 10])
        >>> torch.allclose(logits[:, 3 + 2, 3 - 1], model(lab.shift(images, 2, -1))[0], atol=1e-5)
        True
    """
    _check(images, radius, background, method)
    with restored(model), evaluating(model, images.device), failures(images.shape):
        network, _ = _choose(model, images, radius, background, method)
        batches = images.split(_batch_size(network, images))
        return torch.cat([_outputs(network, batch, radius, background).flip(1, 2) for batch in batches])


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
        margin: mean of the label's score minus the best other score, which is negative where an image is misclassified;
            infinite where there is one class only.
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
        return torch.bincount(ring, weights=getattr(self, name).flatten()) / torch.bincount(ring)

    def table(self) -> Table:
        """For a terminal: means over the shifts of each distance, then what holds for all of them."""
        columns = [Column(name, justify="right") for name in ("Distance (px)", *map(str.capitalize, RINGS))]
        title = f"{self.images:,} images at {self.accuracy.numel():,} shifts"
        how = f"{self.method}, {self.seconds:.1f} s" + (f"; {self.why}" if self.why else "")
        caption = escape(f"right at every shift: {self.worst_case:.1%} of the images; computed {how}")
        table = Table(*columns, title=title, title_justify="left", caption=caption, caption_justify="left")
        for distance, values in enumerate(zip(*(self.rings(name).tolist() for name in RINGS), strict=True)):
            table.add_row(str(distance), *(f"{value:.3f}" for value in values))
        return table


def shift_maps(
    model: nn.Module,
    images: Images,
    labels: Int64[Tensor, " n"],
    *,
    radius: int = 14,
    background: float = 0.0,
    method: Method = "auto",
    progress: bool = False,
) -> ShiftMaps:
    """Accuracy, consistency, confidence and margin at every shift; holds one batch of scores at a time.

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
    _check(images, radius, background, method)
    if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
        raise InputError(f"labels must be int64, one per image: {labels.dtype}, {tuple(labels.shape)}, {len(images)}")
    start, labels, bar = time.perf_counter(), labels.to(images.device), progress and sys.stderr.isatty()
    with restored(model), evaluating(model, images.device), failures(images.shape):
        network, why = _choose(model, images, radius, background, method)
        size = _batch_size(network, images)
        batches, measured = list(zip(images.split(size), labels.split(size), strict=True)), []
        for batch, own in track(batches, "shifting", console=Console(stderr=True), disable=not bar, transient=True):
            outputs = _outputs(network, batch, radius, background)
            check_labels(labels, classes := outputs.shape[-1])
            measured.append(_measured(outputs, own))
    return _maps(measured, labels.cpu(), classes, why, start)


def _check(images: Tensor, radius: int, background: float, method: str) -> None:
    """Refuse what cannot be mapped."""
    check_images(images)
    if images.dim() != 4:
        raise InputError(f"images must be n c h w: shape {tuple(images.shape)}")
    if not hasattr(radius, "__index__"):
        raise InputError(f"radius must be a whole number of pixels: {radius!r}")
    if radius < 0:
        raise InputError(f"radius must be at least 0: {radius}")
    if not abs(background) < float("inf"):
        raise InputError(f"background must be finite: {background}")
    if method not in get_args(Method):
        raise InputError(f"method must be one of {', '.join(get_args(Method))}: {method!r}")


def _choose(model: nn.Module, images: Tensor, radius: int, background: float, method: Method) -> tuple[Network, str]:
    """The dense network; or the network itself, and why."""
    if method == "brute":
        return model, "asked for"
    try:
        dense = dense_equivalent(model, images)
        _verify(dense, model, images[:2], radius, background)
        return dense, ""
    except NotDenseError as error:
        if method == "dense":
            raise
        said = f"running once for each shift, since dense evaluation is not exact: {error}"
        warnings.warn(said, LabWarning, stacklevel=4)
        return model, str(error)


def _verify(dense: Dense, model: nn.Module, images: Tensor, radius: int, background: float) -> None:
    """Compare both ways in up to 16 consecutive rows: in every phase of the rows, and in many of the columns.

    This detects a network that does not do the same every time, and phases that are mixed up.
    """
    canvas, side = _canvas(images, radius, background), 2 * radius + 1
    found = dense(canvas)
    for y in range(min(side, 16)):
        x = 7 * y % side
        expected = scores(model(_window(canvas, images.shape, y, x)))
        check_close(found[:, y, x], expected, f"dy={radius - y}, dx={radius - x}")


def _canvas(images: Tensor, radius: int, background: float) -> Images:
    """The canvas that holds all windows: that of the shift (dy, dx) begins at `radius - dy, radius - dx`."""
    return F.pad(images, (radius,) * 4, value=background)


def _window(canvas: Tensor, shape: torch.Size, y: int, x: int) -> Images:
    """A copy, because the network may work in place."""
    return canvas[:, :, y : y + shape[2], x : x + shape[3]].clone()


def _batch_size(network: Network, images: Tensor) -> int:
    if isinstance(network, Dense):
        return max(1, 2 * VALUES // network.largest)  # on the canvas of the two images that were compared
    return max(1, PIXELS // images[0].numel())


def _outputs(network: Network, batch: Images, radius: int, background: float) -> Float[Tensor, "n side side classes"]:
    """By the window's first row and column on the canvas: a shift of `radius` comes first."""
    canvas = _canvas(batch, radius, background)
    found = network(canvas) if isinstance(network, Dense) else _one_by_one(network, canvas, batch.shape)
    check_finite("the model's scores", found)
    return found


def _one_by_one(model: nn.Module, canvas: Tensor, shape: torch.Size) -> Float[Tensor, "n side side classes"]:
    """Once for each shift: the clear slow twin."""
    side = range(canvas.shape[2] - shape[2] + 1)
    rows = [torch.stack([scores(model(_window(canvas, shape, y, x))) for x in side], 1) for y in side]
    return torch.stack(rows, 1)


def _measured(
    outputs: Float[Tensor, "n side side classes"], labels: Int64[Tensor, " n"]
) -> tuple[Int[Tensor, "side side n"], Float[Tensor, "2 side side"]]:
    """The predicted classes; confidence and margin, summed over the batch. The outputs are overwritten."""
    wide = torch.promote_types(outputs.dtype, torch.float32)
    values = outputs.permute(3, 1, 2, 0).to(wide).contiguous()  # classes outermost, images innermost: fastest
    predicted, confidence = values.max(0).indices, values.softmax(0).amax(0)  # of equals the first, as argmax
    label = labels.expand(1, *predicted.shape)
    own = values.gather(0, label)[0]
    margin = own - values.scatter_(0, label, -torch.inf).amax(0)
    return predicted.int(), torch.stack([confidence.sum(-1), margin.sum(-1)])


def _maps(measured: list[tuple[Tensor, Tensor]], labels: Tensor, classes: int, why: str, start: float) -> ShiftMaps:
    """The means, turned round: a window further down shows the image further up."""
    parts, sums = zip(*measured, strict=True)
    predicted, n = torch.cat(parts, -1).flip(0, 1).cpu(), len(labels)
    confidence, margin = torch.stack(sums).double().sum(0).flip(1, 2).cpu() / n
    radius, right = len(predicted) // 2, predicted == labels
    hits = (right.float() @ F.one_hot(labels, classes).float()).double()  # counts: exact
    same = (predicted == predicted[radius, radius]).sum(-1).double() / n
    place = torch.arange(same.numel()).view(*same.shape, 1) * classes
    shares = torch.bincount((place + predicted).flatten(), minlength=hits.numel()).view_as(hits).double() / n
    chance = (shares * shares[radius, radius]).sum(-1)
    return ShiftMaps(
        radius=radius,
        images=n,
        accuracy=hits.sum(-1) / n,
        consistency=same,
        kappa=torch.where(chance < 1, (same - chance) / (1 - chance), 0.0),
        confidence=confidence,
        margin=margin,
        per_class=(hits / labels.bincount(minlength=classes)).movedim(-1, 0),
        worst_case=right.all(0).all(0).double().mean().item(),
        method="brute" if why else "dense",
        why=why,
        seconds=time.perf_counter() - start,
    )
