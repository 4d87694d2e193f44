"""A network without padding, run once over a larger canvas: the answers of all its windows at once.

The network is watched while it runs on one window; what it did is done again on whole maps. A stride s becomes stride
1, after which the map is split into its s × s phases (shift-and-stitch), so that all that follows stays an ordinary
operation; flatten and linear become a convolution. What cannot be done so is refused by name.

Source: A. Giusti et al., Fast image scanning with deep max-pooling convolutional neural networks, 2013,
arXiv:1302.1700; P. Sermanet et al., OverFeat, 2014, section 3.5, arXiv:1312.6229.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import product, takewhile
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.module_tracker import ModuleTracker

from lab.errors import InputError, NotDenseError
from lab.models import scores
from lab.observing import evaluating, failures
from lab.shifting import check_images

OPTIONS = {  # names of what follows the images, in the order of torch's signatures
    "conv2d": ("weight", "bias", "stride", "padding", "dilation", "groups"),
    "max_pool2d": ("kernel_size", "stride", "padding", "dilation"),
    "avg_pool2d": ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    "linear": ("weight", "bias"),
    **dict.fromkeys(("softmax", "log_softmax"), ("dim",)),
}
WINDOWED = ("conv2d", "max_pool2d", "avg_pool2d")
POINTWISE = {
    *("relu", "relu6", "leaky_relu", "prelu", "elu", "selu", "celu", "gelu", "silu", "mish", "sigmoid", "logsigmoid"),
    *("tanh", "hardtanh", "hardswish", "hardsigmoid", "softplus", "softsign", "abs", "neg", "exp", "square", "sqrt"),
    *("clamp", "clamp_min", "clamp_max", "clone", "detach", "contiguous", "add", "sub", "mul", "div", "pow"),
    *("true_divide", "rsub", "rdiv", "rpow", "iadd", "isub", "imul", "itruediv", "truediv"),
    *("batch_norm", "dropout", "dropout1d", "dropout2d", "alpha_dropout", "feature_alpha_dropout"),
}
SHAPES = ("get", "size", "dim", "numel", "len", "is_floating_point", "is_contiguous")  # the same for all windows
PADS = "pads its input, so that windows see their frame"
REASONS = {
    PADS: ("pad",),
    "joins positions or channels": ("mean", "sum", "amax", "max"),
    "is global: it sees the whole window": (
        *("adaptive_avg_pool2d", "adaptive_max_pool2d", "group_norm", "layer_norm", "instance_norm"),
        *("scaled_dot_product_attention", "softmax", "log_softmax"),
    ),
    "lets the values decide what runs": ("bool", "item", "tolist", "float", "int"),
    "rearranges positions": ("view", "reshape", "getitem", "permute", "transpose"),
}
WIDE = 8  # pixels: from a kernel of this size on, one channel is convolved by its frequencies, 4 × faster
FEW = 4  # weights: up to here, one channel is convolved as a sum of its shifts


@dataclass(frozen=True)
class Map:
    """What a layer answers to all windows: at its position j, window t sees `t + stride * j`.

    Attributes:
        values: `phases * n, c, y, x`: the phases that strides split the map into, newest outermost.
        window: channels, height and width of the answer to one window, before it is flattened.
        margin: rows and columns left out on each side; they, and the outermost that are not, equal the corner.
        splits: the strides (y, x) so far.
    """

    values: Tensor
    window: tuple[int, ...]
    margin: int = 0
    splits: tuple[tuple[int, int], ...] = ()

    def whole(self) -> Tensor:
        """The values with nothing left out."""
        corner = self.values[:1, :, :1, :1]
        return F.pad(self.values - corner, (self.margin,) * 4) + corner if self.margin else self.values

    def split(self, sy: int, sx: int, rows: int, columns: int) -> "Map":
        """Each of the s × s phases as an image of its own, cut or filled: what was at stride 1 is now at stride s."""
        n, c, y, x = self.values.shape
        fitting = F.pad(self.values, (0, sx * columns - x, 0, sy * rows - y))
        phases = fitting.reshape(n, c, rows, sy, columns, sx).permute(3, 5, 0, 1, 2, 4)
        return replace(self, values=phases.reshape(-1, c, rows, columns), splits=(*self.splits, (sy, sx)))

    def joined(self) -> Tensor:
        """The values, their phases together again."""
        values = self.whole()
        for sy, sx in reversed(self.splits):
            _, c, y, x = values.shape
            values = values.reshape(sy, sx, -1, c, y, x).permute(2, 3, 4, 0, 5, 1).reshape(-1, c, y * sy, x * sx)
        return values


@dataclass(frozen=True)
class Slot:
    """Stands for a tensor that depends on the images."""

    number: int


@dataclass(frozen=True)
class Step:
    """One operation of the network: which, of which layer, on what; `Slot`s stand for what earlier ones returned.

    Attributes:
        before: shape of the first tensor that depends on the images.
        after: shape of the result.
        output: its slot.
    """

    layer: str
    function: Callable[..., Tensor]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    before: tuple[int, ...]
    after: tuple[int, ...]
    output: int

    @property
    def name(self) -> str:
        """Of the operation, without what marks it as an operator or as in place."""
        return self.function.__name__.strip("_")

    @property
    def inputs(self) -> list[int]:
        """The slots of what it works on."""
        return [value.number for value in (*self.args, *self.kwargs.values()) if isinstance(value, Slot)]

    @property
    def options(self) -> dict[str, Any]:
        """What was given besides the images, by name."""
        return dict(zip(OPTIONS[self.name], self.args[1:], strict=False)) | self.kwargs

    @property
    def stride(self) -> tuple[int, int]:
        """Of a convolution or a pooling; else 1."""
        if self.name not in WINDOWED:
            return 1, 1
        return _pair(self.options.get("stride") or self.options.get("kernel_size", 1))

    def refuse(self, why: str | None = None) -> NotDenseError:
        """The error that says why this operation cannot be done on whole maps."""
        known = (reason for reason, names in REASONS.items() if self.name in names)
        why = why or next(known, "is not an operation that is known to fit")
        return NotDenseError(f"layer {self.layer!r} ({self.name}) {why}")


def _pair(value: Any) -> tuple[int, int]:
    first, *others = value if isinstance(value, tuple | list) else (value,)
    return first, (others or [first])[0]


class _Tape(TorchFunctionMode):
    """Records every operation on what depends on the images."""

    def __init__(self, images: Tensor, tracker: ModuleTracker) -> None:
        super().__init__()
        self.kept = [images]  # so that no other tensor gets the id of one of them
        self.slots = {id(images): 0}
        self.steps: list[Step] = []
        self.tracker = tracker

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        before = next((t for t in _tensors((args, *kwargs.values())) if id(t) in self.slots), None)
        if before is None:
            return function(*args, **kwargs)
        given, named = tuple(map(self.slot, args)), {key: self.slot(value) for key, value in kwargs.items()}
        shape = tuple(before.shape)
        result = function(*args, **kwargs)
        names = self.tracker.parents - {"Global"}  # of the modules that run, behind the class of the whole
        layer = max(names, key=len, default="").partition(".")[2]
        step = Step(layer, function, given, named, shape, (), len(self.kept))
        if isinstance(result, Tensor):
            self.slots[id(result)] = len(self.kept)
            self.kept.append(result)
            self.steps.append(replace(step, after=tuple(result.shape)))
        elif step.name not in SHAPES:
            raise step.refuse()
        return result

    def slot(self, value: Any) -> Any:
        """What stands for a value: tensors that do not depend on the images are copied."""
        if not isinstance(value, Tensor):
            return value
        return Slot(self.slots[id(value)]) if id(value) in self.slots else value.detach().clone()

    def needed(self, output: int) -> tuple[Step, ...]:
        """The steps that the output depends on."""
        wanted, steps = {output}, []
        for step in reversed(self.steps):
            if step.output in wanted:
                steps.append(step)
                wanted |= set(step.inputs)
        return tuple(reversed(steps))


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)


@dataclass(frozen=True)
class Dense:
    """The dense equivalent of a network, with the weights that it had; `print` shows what it does.

    Attributes:
        steps: the operations, in running order.
        window: channels, height and width of the images.
        output: the slot of the answer.
    """

    steps: tuple[Step, ...]
    window: tuple[int, ...]
    output: int
    kernels: dict[Any, "Frequencies"] = field(default_factory=dict, repr=False)

    def __call__(self, canvas: Float[Tensor, "n c y x"]) -> Float[Tensor, "n rows columns classes"]:
        """The answer to each window of a canvas, by the window's first row and column.

        Raises:
            InputError: a canvas with other channels, or smaller than a window.
        """
        c, h, w = self.window
        if canvas.dim() != 4 or canvas.shape[1] != c or canvas.shape[2] < h or canvas.shape[3] < w:
            raise InputError(f"a canvas must be n {c} y x, at least {h} × {w}: shape {tuple(canvas.shape)}")
        return self._run(canvas, 0)

    def shifts(self, images: Tensor, radius: int, background: float) -> Tensor:
        """As on the canvas of the images; what its first layers see of the background alone is left out there."""
        first = takewhile(lambda step: step.stride == (1, 1) and step.name != "linear", self.steps)
        shrinking = (zip(step.before[2:], step.after[2:], strict=False) for step in first)
        reach = sum(max((b - a for b, a in sides), default=0) for sides in shrinking)
        near = min(radius, reach + 1)  # one more, so that the corner sees no image
        return self._run(framed(images, near, background), radius - near)

    def _run(self, canvas: Tensor, margin: int) -> Tensor:
        maps = {0: Map(canvas, self.window, margin)}
        for step in self.steps:
            maps[step.output] = _do(step, [maps[number] for number in step.inputs], self.kernels)
        sizes = zip(canvas.shape[2:], self.window[1:], strict=True)
        rows, columns = (side + 2 * margin - size + 1 for side, size in sizes)
        return maps[self.output].joined()[:, :, :rows, :columns].permute(0, 2, 3, 1)

    def __str__(self) -> str:
        lines = [f"window {self.window[1]} × {self.window[2]}, {self.window[0]} channels"]
        for step in self.steps:
            done = ""
            if step.stride != (1, 1):
                done = f": stride 1, then {step.stride[0]} × {step.stride[1]} phases"
            elif step.name == "linear":
                done = f": a convolution of {step.before[1]} inputs"
            lines.append(f"{step.layer or '(forward)'} {step.name}{done}")
        return "\n".join(lines)

    @property
    def unscaled(self) -> "Dense":
        """Without a last log-softmax, which changes neither ranks nor differences nor the softmax of the scores."""
        if self.steps[-1].name != "log_softmax":
            return self
        return replace(self, steps=self.steps[:-1], output=self.steps[-1].inputs[0])


def framed(images: Tensor, radius: int, background: float) -> Tensor:
    """The canvas that holds all windows: the window of the shift (dy, dx) begins at `radius - dy, radius - dx`."""
    return F.pad(images, (radius,) * 4, value=background)


def _do(step: Step, inputs: list[Map], kernels: dict[Any, "Frequencies"]) -> Map:
    """One operation of the network, on whole maps.

    Raises:
        NotDenseError: the operation, or an option of it, does not fit.
    """
    if not inputs or (not isinstance(step.args[0], Slot) and step.name not in POINTWISE):
        raise step.refuse("takes the images in another way than is known to fit")
    x = inputs[0]
    by_channel = len(step.before) == 4 or x.window[1:] == (1, 1)  # dimension 1 is the channels, not all positions
    if step.name in WINDOWED:
        return _windowed(step, x)
    if step.name == "linear":
        return _linear(step, x, kernels)
    flattened = (step.before[0], math.prod(step.before[1:]))
    if step.name in ("flatten", "view", "reshape") and step.after in (step.before, flattened):
        return x
    if step.name.endswith("softmax") and by_channel and step.options.get("dim") in (1, 1 - len(step.after)):
        return replace(x, values=_softmax(step, x.values))
    if step.name not in POINTWISE:
        raise step.refuse()
    return _pointwise(step, inputs, by_channel)


def _softmax(step: Step, values: Tensor) -> Tensor:
    """Over the channels; in the order in which the values lie in memory, for softmax copies what is in another one."""
    order = sorted(range(4), key=values.stride, reverse=True)
    found: Tensor = step.function(values.permute(order), order.index(1))
    return found.permute([order.index(axis) for axis in range(4)])


def _pointwise(step: Step, inputs: list[Map], by_channel: bool) -> Map:
    """The same for every position; never in place, for another branch would see it."""
    others = [value for value in (*step.args, *step.kwargs.values()) if isinstance(value, Tensor)]
    if step.kwargs.get("training"):
        raise step.refuse("is random or batch-dependent")
    if step.name == "batch_norm" and not by_channel:
        raise step.refuse("has weights for each position")
    if any(value.numel() > 1 for value in others) and not (step.name in ("prelu", "batch_norm") and by_channel):
        raise step.refuse("takes a tensor that may differ from position to position")
    first = inputs[0]
    if step.after != step.before or any((m.window, m.splits) != (first.window, first.splits) for m in inputs):
        raise step.refuse("joins branches that do not fit position by position")
    in_place = step.name != step.function.__name__ or step.kwargs.get("inplace")
    values = iter([m.values.clone() if in_place else m.values for m in inputs])
    args = [next(values) if isinstance(value, Slot) else value for value in step.args]
    kwargs = {key: next(values) if isinstance(value, Slot) else value for key, value in step.kwargs.items()}
    return replace(first, values=step.function(*args, **kwargs))


def _windowed(step: Step, x: Map) -> Map:
    """A convolution or a pooling: at stride 1, then split into phases."""
    given, dilation = step.options, _pair(step.options.get("dilation", 1))
    size = _pair(tuple(given["weight"].shape[2:]) if "weight" in given else given["kernel_size"])
    _check_windows(step, size, dilation)
    if step.stride != (1, 1):
        x = replace(x, values=x.whole(), margin=0)
    if step.name == "conv2d" and given["weight"].shape[:2] == (1, 1) and given["weight"].numel() <= FEW:
        values = _by_weights(x.values, given["weight"], given.get("bias"), dilation)
    elif step.name == "conv2d":
        values = F.conv2d(x.values, given["weight"], given.get("bias"), 1, 0, dilation, given.get("groups", 1))
    elif step.name == "max_pool2d":
        values = _largest(_largest(x.values, 2, size[0], dilation[0]), 3, size[1], dilation[1])
    else:
        values = F.avg_pool2d(x.values, size, 1, divisor_override=given.get("divisor_override"))
    found = replace(x, values=values, window=step.after[1:])
    if step.stride == (1, 1):
        return found
    sides = zip(x.values.shape[2:], step.before[2:], step.after[2:], step.stride, strict=True)
    rows, columns = (-(-(places - b + 1) // s) + a - 1 for places, b, a, s in sides)
    return found.split(*step.stride, rows, columns)


def _check_windows(step: Step, size: tuple[int, int], dilation: tuple[int, int]) -> None:
    before, after, padding = step.before[2:], step.after[2:], step.options.get("padding", 0)
    if len(step.before) != 4:
        raise step.refuse("does not take a map of n c h w")
    if padding not in (0, (0, 0), [0, 0], "valid"):
        raise step.refuse(f"{PADS}: padding {padding}")
    sides = zip(before, after, step.stride, dilation, size, strict=True)
    if any(b < (a - 1) * s + d * (k - 1) + 1 for b, a, s, d, k in sides):
        raise step.refuse(f"has windows that reach beyond their input: ceil_mode, input {before}, size {size}")


def _largest(values: Tensor, axis: int, size: int, dilation: int) -> Tensor:
    """Maximum along one axis of each `size` values: 30 × faster than max_pool2d at stride 1."""
    length = values.shape[axis] - dilation * (size - 1)
    largest = values.narrow(axis, 0, length)
    for i in range(1, size):
        largest = torch.maximum(largest, values.narrow(axis, i * dilation, length))
    return largest


def _by_weights(values: Tensor, weight: Tensor, bias: Tensor | None, dilation: tuple[int, int]) -> Tensor:
    """A convolution of one channel as a sum of its shifts: with few weights 4 × faster than conv2d."""
    (h, w), (dy, dx) = weight.shape[2:], dilation
    rows, columns = values.shape[2] - dy * (h - 1), values.shape[3] - dx * (w - 1)
    total = values.new_zeros(1) if bias is None else bias
    for (i, j), factor in zip(product(range(h), range(w)), weight.flatten().tolist(), strict=True):
        total = torch.add(total, values[:, :, dy * i :, dx * j :][:, :, :rows, :columns], alpha=factor)
    return total


def _linear(step: Step, x: Map, kernels: dict[Any, "Frequencies"]) -> Map:
    """The first linear layer is a convolution whose kernel is as large as the window's map; others are 1 × 1."""
    if len(step.before) != 2:
        raise step.refuse("does not take a flattened map")
    weight, bias = step.options["weight"].reshape(-1, *x.window), step.options.get("bias")
    if x.window[0] == 1 and min(x.window[1:]) >= WIDE:
        key = step.output, x.values.shape[2:], x.margin, x.values.dtype
        if key not in kernels:
            kernels[key] = Frequencies.of(weight, x)
        values = kernels[key].convolve(x, 0.0 if bias is None else bias)
    else:
        values = F.conv2d(x.whole(), weight, bias)
    return replace(x, values=values, window=(len(weight), 1, 1), margin=0)


@dataclass(frozen=True)
class Frequencies:
    """One channel convolved with large kernels: by frequency along x, directly along y, as three matrix products.

    Attributes:
        analysis: real and imaginary part of each frequency k of a row.
        kernels: what these of each input row add to these of each output row, kernel by kernel.
        synthesis: output columns from frequencies.
        constant: what each kernel answers to a map of ones.
    """

    analysis: Float[Tensor, "k2 w"]
    kernels: Float[Tensor, "o k out2 in2"]
    synthesis: Float[Tensor, "columns k2"]
    constant: Float[Tensor, " o"]

    @classmethod
    def of(cls, weight: Float[Tensor, "o 1 h w"], x: Map) -> "Frequencies":
        """For maps like this one."""
        (h, w), (rows, columns) = weight.shape[2:], _inside(x).shape[1:]
        margin = (x.values.shape[2] + 2 * x.margin - rows) // 2
        ys, xs = rows + 2 * margin - h + 1, columns + 2 * margin - w + 1
        length = columns + margin  # the shortest circle on which nothing that counts meets itself
        k = torch.arange(length // 2 + 1, device=weight.device).flip(0)  # the largest are added last: half the rounding
        at = torch.arange(max(length, w), device=weight.device)

        def waves(place: Tensor) -> Tensor:
            return torch.exp(-2j * math.pi / length * (k[:, None] * place).double())

        share = (2 - ((k == 0) | (2 * k == length)).double())[:, None] / length  # others stand for their conjugates too
        spectrum = waves(at[:w]).conj() @ (weight[:, 0].double() + 0j).mT  # o k h
        row = torch.arange(rows, device=k.device) + margin - torch.arange(ys, device=k.device)[:, None]
        inside = ((row >= 0) & (row < h)).to(weight.dtype)
        re, im = (part.to(weight.dtype)[:, :, row.clamp(0, h - 1)] * inside for part in (spectrum.real, spectrum.imag))
        synthesis = torch.view_as_real(waves(torch.arange(xs, device=k.device) - margin) * share)
        return cls(
            torch.view_as_real(waves(at[:columns])).transpose(1, 2).reshape(-1, columns).to(weight.dtype),
            torch.cat([torch.cat([re, -im], 3), torch.cat([im, re], 3)], 2),
            synthesis.transpose(1, 2).reshape(-1, xs).T.to(weight.dtype).contiguous(),
            weight.sum((1, 2, 3)),
        )

    def convolve(self, x: Map, bias: Tensor | float) -> Float[Tensor, "n o rows columns"]:
        """Where a margin was left out, the corner's value is convolved by itself: the rest is 0 there."""
        corner = x.values[0, 0, 0, 0] if x.margin else x.values.new_zeros(())
        part, (out, k, out2, _) = _inside(x) - corner, self.kernels.shape
        n, rows, columns = part.shape
        waves = (self.analysis @ part.permute(2, 1, 0).reshape(columns, rows * n)).view(k, 2 * rows, n)
        answers = waves.new_empty(out, len(self.synthesis), out2 // 2 * n)
        constant = (corner * self.constant + bias).expand(out)
        for o, kernel in enumerate(self.kernels):  # one by one, so that the products stay in the cache
            answers[o] = constant[o]
            answers[o].addmm_(self.synthesis, torch.bmm(kernel, waves).view(2 * k, -1))
        return answers.view(out, len(self.synthesis), -1, n).permute(3, 0, 2, 1)


def _inside(x: Map) -> Float[Tensor, "n h w"]:
    """Where values may differ from the corner."""
    return x.values[:, 0, 1:-1, 1:-1] if x.margin else x.values[:, 0]


def dense_equivalent(model: nn.Module, images: Float[Tensor, "n c h w"]) -> Dense:
    """The network turned into one that runs over a larger canvas, and answers to all its windows at once.

    Args:
        model: without padding, of convolutions, poolings, linear layers, and what is the same for each position; it
            is left as it was.
        images: one is enough; what the network does with it shows what it does.

    Returns:
        To be called with a canvas; it keeps a copy of the weights.

    Raises:
        NotDenseError: an `InputError` that names the layer that does not fit, and why.
        InputError: bad images, or a model that fails on them.

    Examples:
        >>> import torch, lab
        >>> dense = lab.dense_equivalent(lab.build_model("pooled", seed=0), torch.rand(1, 1, 28, 28))
        >>> dense(torch.rand(1, 1, 30, 33)).shape
        torch.Size([1, 3, 6, 10])
    """
    check_images(images)
    two = images[:1].expand(2, *images.shape[1:]).clone()
    with evaluating(model, images.device), failures(images.shape), ModuleTracker() as tracker:
        with _Tape(two, tracker) as tape:
            returned = model(two)
        output = scores(returned)
        if id(output) not in tape.slots:
            raise NotDenseError("the network returns what no operation made that can be followed")
        number = tape.slots[id(output)]
        dense = Dense(tape.needed(number), tuple(images.shape[1:]), number)
        found = dense(two)[:, 0, 0]
    if found.shape != output.shape or (found - output).abs().max() > 1e-4 * output.abs().max():  # rounding: 1e-5
        raise NotDenseError("the dense network answers otherwise than the network itself does")
    return dense
