"""A network without padding, run once over a larger canvas: the answers of all its windows at once.

The network is watched while it runs on one window; what it did is done again on whole maps. A stride s becomes stride
1, after which the map is split into its s × s phases (shift-and-stitch), so that all that follows stays an ordinary
operation; flatten and linear become a convolution. What cannot be done so is refused by name.

Source: A. Giusti et al., Fast image scanning with deep max-pooling convolutional neural networks, 2013,
arXiv:1302.1700; P. Sermanet et al., OverFeat, 2014, section 3.5, arXiv:1312.6229.
"""

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lab.errors import InputError, NotDenseError
from lab.models import check_mode, evaluating, failures
from lab.shifting import check_images

POINTWISE = {
    *("relu", "relu6", "leaky_relu", "prelu", "elu", "selu", "celu", "gelu", "silu", "mish", "sigmoid", "logsigmoid"),
    *("tanh", "hardtanh", "hardswish", "hardsigmoid", "softplus", "softsign", "abs", "neg", "exp", "square", "sqrt"),
    *("clamp", "clamp_min", "clamp_max", "clone", "detach", "contiguous", "add", "sub", "mul", "div", "pow"),
    *("true_divide", "rsub", "rdiv", "rpow", "iadd", "isub", "imul", "itruediv", "truediv"),
}
SHAPES = ("__get__", "size", "dim", "numel", "__len__", "is_floating_point", "is_contiguous")  # same for all windows
REASONS = {
    **dict.fromkeys(("pad",), "pads its input, so that windows see their frame"),
    **dict.fromkeys(("mean", "sum", "amax", "max"), "joins positions or channels"),
    **dict.fromkeys(("adaptive_avg_pool2d", "adaptive_max_pool2d"), "is global: it sees the whole window"),
    **dict.fromkeys(("group_norm", "layer_norm", "instance_norm"), "is global: it normalises over the whole window"),
    **dict.fromkeys(("scaled_dot_product_attention", "softmax", "log_softmax"), "is global: it joins all positions"),
    **dict.fromkeys(("__bool__", "item", "tolist", "__float__", "__int__"), "lets the values decide what runs"),
    **dict.fromkeys(("view", "reshape", "getitem", "permute", "transpose"), "rearranges positions"),
}
FEW = 4  # weights: a convolution of no more than that is done one by one, 3 × faster
WIDE = 8  # pixels: from a kernel of this size on, one channel is convolved by its frequencies, 4 × faster
WHOLE = (0, 0, 0, 0)


@dataclass(frozen=True)
class Map:
    """What a layer answers to all windows: at its position j, window t sees `t + stride * j`.

    Attributes:
        values: `phases * n, c, y, x`: the phases that strides split the map into, newest outermost.
        window: channels, height and width of the answer to one window.
        flat: whether the network has flattened that.
        splits: the strides (y, x) so far.
        margin: rows and columns left out, left, right, top and bottom, all equal to the corner.
    """

    values: Tensor
    window: tuple[int, int, int]
    flat: bool = False
    splits: tuple[tuple[int, int], ...] = ()
    margin: tuple[int, int, int, int] = WHOLE

    def whole(self) -> "Map":
        """With nothing left out."""
        if not any(self.margin):
            return self
        corner = self.values[:1, :, :1, :1]
        return replace(self, values=F.pad(self.values - corner, self.margin) + corner, margin=WHOLE)

    def split(self, sy: int, sx: int) -> "Map":
        """Each of the s × s phases as an image of its own: what was at stride 1 is now at stride s."""
        if sy == sx == 1:
            return self
        n, c, y, x = self.values.shape
        phases = self.values.reshape(n, c, y // sy, sy, x // sx, sx).permute(3, 5, 0, 1, 2, 4)
        return replace(self, values=phases.reshape(sy * sx * n, c, y // sy, x // sx), splits=(*self.splits, (sy, sx)))

    def joined(self) -> "Map":
        """The phases together again, once each window has one position left."""
        values, depth = self.whole().values, len(self.splits)
        _, c, y, x = values.shape
        phases = values.reshape(*(s for pair in self.splits[::-1] for s in pair), -1, c, y, x)
        rows, columns = (range(axis, 2 * depth, 2) for axis in (0, 1))  # newest split outermost, oldest varies fastest
        order = (2 * depth, 2 * depth + 1, 2 * depth + 2, *rows, 2 * depth + 3, *columns)
        sy, sx = (math.prod(pair[axis] for pair in self.splits) for axis in (0, 1))
        whole = phases.permute(order).reshape(-1, c, y * sy, x * sx) if depth else values
        return replace(self, values=whole, splits=(), margin=WHOLE)


@dataclass(frozen=True)
class Step:
    """One operation of the network: which, of which layer, on what; `Slot`s stand for what earlier ones returned."""

    layer: str
    function: Callable[..., Tensor]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    before: tuple[int, ...]
    after: tuple[int, ...]
    output: int

    @property
    def name(self) -> str:
        """Of the operation, without what marks it as in place."""
        return self.function.__name__ if self.function.__name__ in SHAPES else self.function.__name__.strip("_")

    @property
    def stride(self) -> tuple[int, int]:
        """Of a convolution or a pooling; else 1."""
        if self.name not in WINDOWED:
            return 1, 1
        given = inspect.signature(WINDOWED[self.name]).bind(self, *self.args, **self.kwargs).arguments
        return _pair(given.get("stride") or given.get("kernel_size", 1))

    def refuse(self, why: str) -> NotDenseError:
        """The error that says why this operation cannot be done on whole maps."""
        return NotDenseError(f"layer {self.layer!r} ({self.name}) {why}")


@dataclass(frozen=True)
class Slot:
    """Stands for a tensor that depends on the images."""

    number: int


class _Tape(TorchFunctionMode):
    """Records every operation on what depends on the images."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.kept: list[object] = [images]  # so that no other tensor gets the id of one of them
        self.slots = {id(images): 0}
        self.steps: list[Step] = []
        self.layers = [""]

    def slot(self, value: object) -> object:
        if isinstance(value, Tensor):
            return Slot(self.slots[id(value)]) if id(value) in self.slots else value.detach().clone()
        return type(value)(map(self.slot, value)) if isinstance(value, tuple | list) else value

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        before = [value for value in _tensors((args, *kwargs.values())) if id(value) in self.slots]
        if not before:
            return function(*args, **kwargs)
        given: Any = self.slot(tuple(args))
        named = {key: self.slot(value) for key, value in kwargs.items()}
        shape = tuple(before[0].shape[1:])
        result = function(*args, **kwargs)
        step = Step(self.layers[-1], function, given, named, shape, (), len(self.kept))
        if isinstance(result, Tensor):
            if tuple(result.shape[:1]) != tuple(before[0].shape[:1]):
                step = replace(step, after=(-1,))
            else:
                step = replace(step, after=tuple(result.shape[1:]))
            self.slots[id(result)] = len(self.kept)
            self.kept.append(result)
            self.steps.append(step)
        elif step.name not in SHAPES:
            raise step.refuse(REASONS.get(function.__name__, "is not an operation that is known to fit"))
        return result


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)


@contextmanager
def _named(model: nn.Module, layers: list[str]) -> Iterator[None]:
    """Keep the name of the module that runs at the end of `layers`."""
    handles = []

    def leave(*_: object) -> None:
        layers.pop()

    try:
        for name, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(lambda *_, name=name: layers.append(name)))
            handles.append(module.register_forward_hook(leave, always_call=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def scores(output: object) -> Tensor:
    """What the network returns, or the first of it; one row of classes an image.

    Raises:
        InputError: it is something else.
    """
    first = output[0] if isinstance(output, tuple | list) and output else output
    if not isinstance(first, Tensor) or first.dim() != 2 or not first.is_floating_point():
        shape = f"shape {tuple(first.shape)}" if isinstance(first, Tensor) else type(first).__name__
        raise InputError(f"the model must return scores, n classes: {shape}")
    return first


@dataclass(frozen=True)
class Dense:
    """The dense equivalent of a network, with the weights that it had; `print` shows what it does.

    Attributes:
        steps: the operations, in running order.
        window: channels, height and width of the images.
    """

    steps: tuple[Step, ...]
    window: tuple[int, int, int]
    output: int
    kernels: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __call__(self, canvas: Float[Tensor, "n c y x"]) -> Float[Tensor, "n rows columns classes"]:
        """The answer to each window of a canvas, by the window's first row and column.

        Raises:
            InputError: a canvas with other channels, or smaller than a window.
        """
        c, h, w = self.window
        rows, columns = canvas.shape[-2] - h + 1, canvas.shape[-1] - w + 1
        if canvas.dim() != 4 or canvas.shape[1] != c or rows < 1 or columns < 1:
            raise InputError(f"a canvas must be n {c} y x, at least {h} × {w}: shape {tuple(canvas.shape)}")
        return self._run(canvas, rows, columns, (0, 0))

    def shifts(self, images: Tensor, radius: int, background: float) -> Tensor:
        """As on the canvas of the images; what its first layers see of the background alone is left out there."""
        reach, side = max(self._reach()), 2 * radius + 1
        if radius <= reach:
            return self._run(framed(images, radius, background), side, side)
        near = F.pad(images, (reach + 1, reach, reach + 1, reach), value=background)  # so the corner sees no image
        return self._run(near, side, side, left_out=(radius - reach - 1, radius - reach))

    def _reach(self) -> list[int]:
        """Pixels by which the maps shrink before the first stride or linear layer."""
        reach = [0, 0]
        for step in self.steps:
            if step.stride != (1, 1) or step.name == "linear":
                break
            if len(step.before) == len(step.after) == 3:
                reach = [r + b - a for r, b, a in zip(reach, step.before[1:], step.after[1:], strict=True)]
        return reach

    def _run(self, canvas: Tensor, rows: int, columns: int, left_out: tuple[int, int] = (0, 0)) -> Tensor:
        strides = [step.stride for step in self.steps]
        more = [-n % math.prod(s[axis] for s in strides) for axis, n in enumerate((rows, columns))]
        before, after = left_out
        margin = (before, after + more[1], before, after + more[0])
        if after == 0:  # what fills the last phases is in no window that is asked for
            canvas, margin = F.pad(canvas, margin), WHOLE
        maps: dict[int, Map] = {0: Map(canvas, self.window, margin=margin)}
        for step in self.steps:
            maps[step.output] = _do(step, maps, self.kernels)
        found = maps[self.output].joined().values
        return found[:, :, :rows, :columns].permute(0, 2, 3, 1)

    def __str__(self) -> str:
        lines = [f"window {self.window[1]} × {self.window[2]}, {self.window[0]} channels"]
        for step in self.steps:
            done = ""
            if step.stride != (1, 1):
                done = f": stride 1, then {step.stride[0]} × {step.stride[1]} phases"
            elif step.name == "linear" and math.prod(step.before) > 1:
                done = f": a convolution of {math.prod(step.before)} inputs"
            lines.append(f"{step.layer or '(forward)'} {step.name}{done}")
        return "\n".join(lines)

    @property
    def unscaled(self) -> "Dense":
        """Without a last log-softmax, which changes neither ranks nor differences nor the softmax of the scores."""
        if self.steps[-1].name != "log_softmax":
            return self
        (source,) = (arg.number for arg in self.steps[-1].args if isinstance(arg, Slot))
        return replace(self, steps=self.steps[:-1], output=source)


def framed(images: Tensor, radius: int, background: float) -> Tensor:
    """The canvas that holds all windows: the window of the shift (dy, dx) begins at `radius - dy, radius - dx`."""
    return F.pad(images, (radius,) * 4, value=background)


def _do(step: Step, maps: dict[int, Map], kernels: dict[Any, Any]) -> Map:
    """One operation of the network, on whole maps.

    Raises:
        NotDenseError: the operation, or an option of it, does not fit.
    """
    inputs = [maps[value.number] for value in (*step.args, *step.kwargs.values()) if isinstance(value, Slot)]
    others = [value for value in (*step.args, *step.kwargs.values()) if isinstance(value, Tensor)]
    first = inputs[0] if inputs else None
    if first is None or (not isinstance(step.args[0], Slot) and step.name not in POINTWISE):
        raise step.refuse("takes the images in another way than is known to fit")
    if step.name in WINDOWED:
        return _windowed(step, first)
    if step.name == "linear":
        return _linear(step, first, kernels)
    if step.name in ("flatten", "view", "reshape") and step.after in (step.before, (math.prod(step.before),)):
        return replace(first, flat=len(step.after) == 1)
    one = not first.flat or math.prod(first.window[1:]) == 1  # so that dimension 1 is the channels
    if step.name in ("log_softmax", "softmax") and one and step.kwargs.get("dim") in (1, len(step.after) - 1 or -1, 1):
        return _softmax(step, first)
    if step.name.endswith(("dropout", "dropout1d", "dropout2d", "batch_norm")):
        given = inspect.signature(step.function).bind(*step.args, **step.kwargs)
        given.apply_defaults()
        if given.arguments["training"]:
            raise step.refuse("is random or batch-dependent")
        if step.name == "batch_norm" and not one:
            raise step.refuse("has weights for each position")
    elif step.name not in POINTWISE:
        raise step.refuse(REASONS.get(step.name, "is not an operation that is known to fit"))
    elif any(value.numel() > 1 for value in others) and not (step.name == "prelu" and one):
        raise step.refuse("takes a tensor that may differ from position to position")
    return _pointwise(step, inputs)


def _pointwise(step: Step, inputs: list[Map]) -> Map:
    """The same for every position; in place, as the network may do it, another branch would see it."""
    first = inputs[0]
    if any((m.window, m.splits, m.flat) != (first.window, first.splits, first.flat) for m in inputs):
        raise step.refuse("joins branches that do not fit position by position")
    values = iter([m.values.clone() if "_" in step.function.__name__ else m.values for m in inputs])
    args = [next(values) if isinstance(value, Slot) else value for value in step.args]
    kwargs = {key: next(values) if isinstance(value, Slot) else value for key, value in step.kwargs.items()}
    if "inplace" in kwargs:
        kwargs["inplace"] = False
    return replace(first, values=step.function(*args, **kwargs))


def _softmax(step: Step, x: Map) -> Map:
    softmax = torch.log_softmax if step.name == "log_softmax" else torch.softmax
    return replace(x, values=softmax(x.whole().values, 1), margin=WHOLE)


def _windowed(step: Step, x: Map) -> Map:
    """A convolution or a pooling: at stride 1, then split into phases."""
    if x.flat or len(step.before) != 3 or step.after[0] < 0:
        raise step.refuse("does not take a map of n c h w")
    if step.stride != (1, 1):
        x = x.whole()
    values = WINDOWED[step.name](step, *(x.values if isinstance(a, Slot) else a for a in step.args), **step.kwargs)
    c, h, w = step.after
    axes = zip(x.values.shape[2:], step.before[1:], (h, w), step.stride, strict=True)
    rows, columns = (places - (before - 1) + s * (after - 1) for places, before, after, s in axes)
    if step.stride != (1, 1):
        values = values[:, :, :rows, :columns]  # rounding down, the network may drop the last of a window
    return replace(x, values=values, window=(c, h, w)).split(*step.stride)


def _conv2d(
    step: Step,
    values: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    if padding not in ("valid", 0) and _pair(padding) != (0, 0):
        raise step.refuse(f"pads its input, so that windows see their frame: padding {padding}")
    if weight.numel() <= FEW and groups == 1:
        return _by_weights(values, weight, bias, _pair(dilation))
    return F.conv2d(values, weight, bias, 1, 0, dilation, groups)


def _by_weights(values: Tensor, weight: Tensor, bias: Tensor | None, dilation: tuple[int, int]) -> Tensor:
    """A convolution of few weights, as that many sums of whole maps."""
    out, channels, h, w = weight.shape
    rows, columns = values.shape[2] - dilation[0] * (h - 1), values.shape[3] - dilation[1] * (w - 1)
    answers = values.new_zeros(len(values), out, rows, columns)
    for o, c, y, x in product(range(out), range(channels), range(h), range(w)):
        seen = values[:, c].narrow(1, y * dilation[0], rows).narrow(2, x * dilation[1], columns)
        answers[:, o].add_(seen, alpha=weight[o, c, y, x].item())
    return answers if bias is None else answers.add_(bias.view(-1, 1, 1))


def _max_pool2d(
    step: Step,
    values: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor:
    size, dilation = _pair(kernel_size), _pair(dilation)
    _check_pooling(step, size, stride, padding, dilation)
    for axis, (k, d) in enumerate(zip(size, dilation, strict=True), start=2):  # 30 × faster than F.max_pool2d
        length = values.shape[axis] - d * (k - 1)
        largest = values.narrow(axis, 0, length)
        for i in range(1, k):
            largest = torch.maximum(largest, values.narrow(axis, i * d, length))
        values = largest
    return values


def _avg_pool2d(
    step: Step,
    values: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    _check_pooling(step, _pair(kernel_size), stride, padding, (1, 1))
    return F.avg_pool2d(values, kernel_size, 1, divisor_override=divisor_override)


WINDOWED: dict[str, Callable[..., Tensor]] = {
    "conv2d": _conv2d,
    "max_pool2d": _max_pool2d,
    "avg_pool2d": _avg_pool2d,
}


def _check_pooling(step: Step, size: tuple[int, int], stride: Any, padding: Any, dilation: tuple[int, int]) -> None:
    if _pair(padding) != (0, 0):
        raise step.refuse(f"pads its input, so that windows see their frame: padding {padding}")
    sizes = zip(step.before[1:], step.after[1:], size, _pair(stride or size), dilation, strict=True)
    if any((after - 1) * s + d * (k - 1) + 1 > before for before, after, k, s, d in sizes):
        raise step.refuse(f"has windows that reach beyond their input: ceil_mode, input {step.before[1:]}, size {size}")


def _pair(value: Any) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, tuple | list) else (value,)
    return (pair * 2)[0], (pair * 2)[1]


def _linear(step: Step, x: Map, kernels: dict[Any, Any]) -> Map:
    """The first linear layer is a convolution whose kernel is as large as the window's map; others are 1 × 1."""
    if not x.flat or len(step.args) < 2:
        raise step.refuse("does not take a flattened map")
    weight, bias = step.args[1], (*step.args[2:], step.kwargs.get("bias"))[0]
    weight = weight.reshape(-1, *x.window)
    out, channels, h, w = weight.shape
    if channels == 1 and min(h, w) >= WIDE:
        key = step.output, x.values.shape[2:], x.margin, x.values.dtype
        if key not in kernels:
            kernels[key] = Frequencies.of(weight, x)
        if x.margin != WHOLE:  # what was subtracted all over the canvas
            constant = kernels[key].corner(x) * weight.sum((1, 2, 3))
            bias = constant if bias is None else bias + constant
        values = kernels[key].convolve(x.values)
        values = values if bias is None else values.add_(bias.view(-1, 1, 1))
    else:
        values = F.conv2d(x.whole().values, weight, bias)
    x = replace(x, values=values, margin=WHOLE)
    return replace(x, values=x.joined().values, splits=(), window=(out, 1, 1))


@dataclass(frozen=True)
class Frequencies:
    """One channel convolved with large kernels: by frequency along x, directly along y, as three matrix products.

    A canvas whose margins are all alike is 0 there once that value is subtracted; only what is inside is looked at.

    Attributes:
        analysis: real and imaginary part of each frequency of a row.
        kernels: what real and imaginary part of each input row and frequency add to each output row.
        synthesis: output columns from frequencies.
        inside: where values differ from the corner, first row and column.
        rows: of the output.
    """

    analysis: Float[Tensor, "k2 w"]
    kernels: tuple[Float[Tensor, "k rows h"], Float[Tensor, "k rows h"]]
    synthesis: Float[Tensor, "columns k2"]
    inside: int
    rows: int

    @classmethod
    def of(cls, weight: Float[Tensor, "o 1 h w"], x: Map) -> "Frequencies":
        """For maps like this one."""
        left, right, top, bottom = x.margin
        inside = 1 if any(x.margin) else 0
        left, top = left + inside, top + inside
        rows, columns = (s - inside for s in x.values.shape[2:])
        out, _, h, w = weight.shape
        ys, xs = top + rows + bottom - h + 1, left + columns + right - w + 1
        length = max(left + columns, columns + right)  # the shortest circle on which nothing that counts meets itself
        k = torch.arange(length // 2 + 1, dtype=torch.float64, device=weight.device)
        turns = 2 * math.pi / length * k[:, None]
        angle = turns * torch.arange(columns, device=k.device)
        analysis = torch.stack([angle.cos(), -angle.sin()], 1).flatten(0, 1)
        share = (2 - ((k == 0) | (2 * k == length)).double())[:, None] / length  # others stand for their conjugates too
        angle = turns * (torch.arange(xs, device=k.device) - left)
        synthesis = torch.stack([angle.cos() * share, -angle.sin() * share], 1).flatten(0, 1).T
        spectrum = torch.fft.rfft(weight[:, 0].double(), n=length) if w <= length else None
        if spectrum is None:
            spectrum = (weight[:, 0].double() + 0j) @ torch.exp(-1j * turns * torch.arange(w, device=k.device)).T
        at = torch.arange(rows, device=k.device) + top - torch.arange(ys, device=k.device)[:, None]
        inner = ((at >= 0) & (at < h))[..., None]
        band = spectrum.conj()[:, at.clamp(0, h - 1)] * inner  # o ys rows k
        real, imag = band.real.permute(3, 0, 1, 2), band.imag.permute(3, 0, 1, 2)
        pairs = torch.stack([real, imag], 1), torch.stack([-imag, real], 1)
        dtype = x.values.dtype
        first, second = (pair.reshape(len(k), 2 * out * ys, rows).to(dtype) for pair in pairs)
        return cls(analysis.to(dtype), (first, second), synthesis.to(dtype).contiguous(), inside, ys)

    def corner(self, x: Map) -> Tensor | float:
        """The value that is left out; 0 where nothing is."""
        return x.values[0, 0, 0, 0] if self.inside else 0.0

    def convolve(self, values: Float[Tensor, "n 1 y x"]) -> Float[Tensor, "n o rows columns"]:
        """Without bias, of the values minus the corner's."""
        part = values[:, 0, self.inside :, self.inside :]
        if self.inside:
            part = part - values[0, 0, 0, 0]
        n, h, w = part.shape
        k = len(self.kernels[0])
        waves = (self.analysis @ part.reshape(n * h, w).T).view(k, 2, n, h).mT
        answers = torch.bmm(self.kernels[0], waves[:, 0]).baddbmm_(self.kernels[1], waves[:, 1])
        by_class = answers.view(2 * k, -1, self.rows * n).transpose(0, 1)
        rows = (self.synthesis @ by_class).view(len(by_class), len(self.synthesis), self.rows, n)
        return rows.permute(3, 0, 2, 1)


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
    check_mode(model)
    c, h, w = images.shape[1:]
    two = images[:1].expand(2, c, h, w).clone()
    tape = _Tape(two)
    with evaluating(model, images.device), failures(images.shape), _named(model, tape.layers):
        with tape:
            returned = model(two)
        output = scores(returned)
        if id(output) not in tape.slots:
            raise NotDenseError("the network returns what no operation made that can be followed")
        dense = Dense(_needed(tape, tape.slots[id(output)]), (c, h, w), tape.slots[id(output)])
        ours, theirs = dense(two)[:, 0, 0], output
    if ours.shape != theirs.shape or (ours - theirs).abs().max() > 1e-4 * theirs.abs().max():  # rounding is below 1e-5
        raise NotDenseError("the dense network answers otherwise than the network itself does")
    return dense


def _needed(tape: _Tape, output: int) -> tuple[Step, ...]:
    """The steps that the output depends on."""
    wanted, steps = {output}, []
    for step in reversed(tape.steps):
        if step.output in wanted:
            steps.append(step)
            wanted |= {value.number for value in (*step.args, *step.kwargs.values()) if isinstance(value, Slot)}
    return tuple(reversed(steps))
