"""A network without padding, run once over a larger canvas: the outputs of all its windows at once.

`torch.fx` traces the network; an interpreter does on whole maps what the trace does on one window. A stride s becomes
stride 1, after which the map is split into its s × s phases (shift-and-stitch), so that all that follows stays an
ordinary operation; flatten and linear become a convolution. Operations for which this is impossible are refused by
name.

Source: P. Sermanet et al., OverFeat, 2014, section 3.5, arXiv:1312.6229; A. Giusti et al., Fast image scanning with
deep max-pooling convolutional neural networks, 2013, arXiv:1302.1700; J. Long et al., Fully convolutional networks for
semantic segmentation, 2015, section 3.2 (shift-and-stitch), arXiv:1411.4038.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import Any

import jaxtyping
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.utils import _pair

from lab.checkpoints import restored
from lab.errors import InputError, NotDenseError, check_images, failures
from lab.models import scores
from lab.observing import evaluating

Pair = tuple[int, int]
POINTWISE = {
    *("relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "sigmoid", "logsigmoid"),
    *("tanh", "hardtanh", "hardswish", "hardsigmoid", "softplus", "softsign", "abs", "neg", "exp", "square", "sqrt"),
    *("clamp", "clamp_min", "clamp_max", "clone", "detach", "contiguous", "add", "sub", "mul", "div", "pow"),
    *("true_divide", "truediv", "iadd", "isub", "imul", "itruediv", "batch_norm"),
    *("dropout", "dropout1d", "dropout2d", "alpha_dropout", "feature_alpha_dropout"),
}
SHAPES = ("getattr", "size", "dim", "numel", "is_floating_point", "is_contiguous")  # the same for all windows
PADS = "pads its input, so that windows see their frame"
GLOBAL = ("adaptive_avg_pool2d", "adaptive_max_pool2d", "group_norm", "layer_norm", "softmax", "log_softmax")
REASONS = {
    PADS: ("pad",),
    "joins positions or channels": ("mean", "sum", "amax", "max"),
    "is global: it sees the whole window": GLOBAL,
    "rearranges positions": ("view", "reshape", "flatten", "getitem", "permute", "transpose"),
}
WINDOWED: dict[str, dict[str, Any]] = {  # their options in torch's order, with its defaults
    "conv2d": dict(weight=None, bias=None, stride=1, padding=0, dilation=1, groups=1),
    "max_pool2d": dict(kernel_size=None, stride=None, padding=0, dilation=1, ceil_mode=False),
    "avg_pool2d": dict(
        kernel_size=None, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
    ),
}
CLOSE = 1e-4  # relative: 10 × what rounding may do


@dataclass(frozen=True, eq=False)
class Map:
    """What a layer returns for all windows: at its position j, window t sees `t + stride * j`.

    Attributes:
        values: `phases * n, c, y, x`: the phases that strides split the map into, newest outermost.
        window: channels, height and width of what it returns for one window, before it is flattened.
        flat: whether it is flattened.
        strides: (y, x), so far.
    """

    values: Float[Tensor, "pn c y x"]
    window: tuple[int, ...]
    flat: bool = False
    strides: tuple[Pair, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one window, without the batch."""
        return (math.prod(self.window),) if self.flat else self.window

    @property
    def by_channel(self) -> bool:
        """Whether dimension 1 holds the channels, and not all positions of them."""
        return not self.flat or self.window[1:] == (1, 1)

    def __str__(self) -> str:
        return f"{' × '.join(map(str, self.shape))}, phases: {math.prod(map(math.prod, self.strides))}"

    def split(self, stride: Pair) -> "Map":
        """Each of the s × s phases as an image of its own, all of one size: what was at stride 1 is now at stride s."""
        (n, c, y, x), (sy, sx) = self.values.shape, stride
        rows, columns = -(-y // sy), -(-x // sx)
        filled = F.pad(self.values, (0, sx * columns - x, 0, sy * rows - y))
        phases = filled.reshape(n, c, rows, sy, columns, sx).permute(3, 5, 0, 1, 2, 4)
        return replace(self, values=phases.reshape(-1, c, rows, columns), strides=(*self.strides, stride))

    def joined(self) -> Float[Tensor, "n c y x"]:
        """The values, their phases together again."""
        values = self.values
        for sy, sx in reversed(self.strides):
            _, c, y, x = values.shape
            values = values.reshape(sy, sx, -1, c, y, x).permute(2, 3, 4, 0, 5, 1).reshape(-1, c, y * sy, x * sx)
        return values


@dataclass(frozen=True)
class Step:
    """One operation of the network.

    Attributes:
        layer: the module that does it; "" is the network itself.
        name: of the operation.
        result: what it returned for the images that were traced.
        maps: those of its arguments that depend on the images.
        run: does it, given all arguments as a tuple and a dictionary.
    """

    layer: str
    name: str
    result: Any
    maps: list[Map]
    run: Callable[..., Any]

    @property
    def after(self) -> tuple[int, ...]:
        """Shape of what it returns for one window, without the batch; () where that is no tensor."""
        return tuple(self.result.shape[1:]) if isinstance(self.result, Tensor) else ()

    def refuse(self, why: str = "is not an operation that is known to fit") -> NotDenseError:
        """The error that says why this operation cannot be done on whole maps."""
        known = (reason for reason, names in REASONS.items() if self.name in names)
        return NotDenseError(f"layer {self.layer!r} ({self.name}) {next(known, why)}")


class _Tracer(fx.Tracer):
    """Sees through all modules, also through batch norm, whose forward looks at the shape of its input."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return False

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if isinstance(m, _BatchNorm) and m.running_mean is not None:

            def as_in_evaluation(x: Any) -> Any:
                return F.batch_norm(x, m.running_mean, m.running_var, m.weight, m.bias, eps=m.eps)

            forward = as_in_evaluation
        return super().call_module(m, forward, args, kwargs)


class _Results(fx.Interpreter):
    """Notes what each operation returns; for a tensor everything but its values."""

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        n.meta["result"] = result.to("meta") if isinstance(result, Tensor) else result
        return result


def _traced(model: nn.Module, images: Tensor) -> fx.GraphModule:
    """What the network does to make its first output, with a copy of the weights."""
    tracer, root = _Tracer(), nn.Sequential(model)  # in a list, so that arguments with a default value keep it
    disabled = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)  # stand-ins break a network's annotations
    try:
        graph = tracer.trace(root)
        output = graph.output_node()
        returned = output.args[0]
        output.args = (returned[0] if isinstance(returned, tuple | list) else returned,)
        graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output") or str(node.target).endswith("_"))
        traced = copy.deepcopy(fx.GraphModule(root, graph))
        _Results(traced).run(images)
    except Exception as error:  # somebody else's forward may raise anything
        said = str(error).partition("\n")[0]
        where = f"layer {_layer(tracer.module_stack)!r}"  # where it ended
        raise NotDenseError(f"{where} lets its input decide what runs, or else cannot be traced: {said}") from error
    finally:
        jaxtyping.config.update("jaxtyping_disable", disabled)
    return traced


def _layer(stack: Any) -> str:
    """The innermost module of those that run, as the network names it."""
    return str([*stack.values()][-1][0]).partition(".")[2] if stack else ""


class Dense(fx.Interpreter):
    """The dense equivalent of a network, with the weights that it had; `print` shows what it does.

    Attributes:
        window: channels, height and width of the images.
        largest: how many values the largest map of all runs so far had.
    """

    def __init__(self, graph: fx.GraphModule, window: tuple[int, ...]) -> None:
        super().__init__(graph)
        self.extra_traceback = False
        self.window, self.largest, self.lines = window, 0, dict[str, str]()

    def __call__(self, canvas: Float[Tensor, "n c y x"]) -> Float[Tensor, "n rows columns classes"]:
        """The output for each window of a canvas, by the window's first row and column.

        Args:
            canvas: of any size that holds a window.

        Raises:
            InputError: a canvas with other channels, or smaller than a window.
        """
        c, h, w = self.window
        if canvas.dim() != 4 or canvas.shape[1] != c or canvas.shape[2] < h or canvas.shape[3] < w:
            raise InputError(f"a canvas must be n {c} y x, at least {h} × {w}: shape {tuple(canvas.shape)}")
        found = self.run(canvas)
        if not isinstance(found, Map):
            raise NotDenseError("the network returns what no operation made that can be followed")
        rows, columns = canvas.shape[2] - h + 1, canvas.shape[3] - w + 1
        return found.joined()[:, :, :rows, :columns].permute(0, 2, 3, 1)

    def run_node(self, n: fx.Node) -> Any:
        """One operation, on whole maps; what does not depend on the images runs as it is."""
        maps = [self.env[source] for source in n.all_input_nodes if isinstance(self.env[source], Map)]
        if n.op == "placeholder":
            return Map(super().run_node(n).clone(), self.window)  # for the network may work in place
        if n.op == "output" or not maps:
            return super().run_node(n)
        name = str(n.target if isinstance(n.target, str) else getattr(n.target, "__name__", n.target)).strip("_")
        run = partial(getattr(self, n.op), n.target)
        step = Step(_layer(n.meta.get("nn_module_stack")), name, n.meta["result"], maps, run)
        found = _on_maps(step, *self.fetch_args_kwargs_from_env(n))
        if isinstance(found, Map):
            self.lines[n.name] = f"{step.layer or '(forward)'} {name}: {found}"
            self.largest = max(self.largest, found.values.numel())
        return found

    def __str__(self) -> str:
        return "\n".join(self.lines.values())


def _on_maps(step: Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """One operation, where `Map`s stand for what depends on the images.

    Raises:
        NotDenseError: the operation, or an option of it, does not fit.
    """
    if step.name in SHAPES and not isinstance(step.result, Tensor):
        return step.result
    if step.name not in OPERATIONS:
        raise step.refuse()
    if kwargs.get("training"):
        raise step.refuse("is random or batch-dependent")
    if step.name not in POINTWISE and step.maps != [args[0]]:
        raise step.refuse("takes the images in another way than is known to fit")
    return OPERATIONS[step.name](step, *args, **kwargs)


def _pointwise(step: Step, *args: Any, **kwargs: Any) -> Map:
    """The same for every position."""
    first = step.maps[0]
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    by_channel = step.name == "batch_norm" and first.by_channel
    if not by_channel and any(tensor.numel() > 1 for tensor in tensors):
        raise step.refuse("takes a tensor that may differ from position to position")
    if {(one.shape, one.window, one.strides) for one in step.maps} != {(step.after, first.window, first.strides)}:
        raise step.refuse("joins branches that do not fit position by position")
    values = step.run(*map_aggregate((args, kwargs), lambda v: v.values if isinstance(v, Map) else v))
    return replace(first, values=values)


def _windowed(step: Step, x: Map, *rest: Any, **named: Any) -> Map:
    """A convolution or a pooling: at stride 1, then split into phases."""
    defaults = WINDOWED[step.name]
    options = defaults | dict(zip(defaults, rest, strict=False)) | named
    size = _pair(options.get("kernel_size") or options["weight"].shape[2:])
    stride, dilation = _pair(options["stride"] or size), _pair(options.get("dilation", 1))
    if x.flat:
        raise step.refuse("does not take a map of n c h w")
    if options["padding"] not in (0, (0, 0), [0, 0], "valid"):
        raise step.refuse(f"{PADS}: padding {options['padding']}")
    sides = zip(x.window[1:], size, stride, dilation, strict=True)
    if step.after[1:] != tuple((side - d * (k - 1) - 1) // s + 1 for side, k, s, d in sides):
        raise step.refuse(f"has windows that reach beyond their input: ceil_mode, input {x.window[1:]}, size {size}")
    if step.name == "max_pool2d":
        values = largest(x.values, size, dilation)
    else:
        values = step.run((x.values,), options | {"stride": 1, "padding": 0})
    found = replace(x, values=values, window=step.after)
    return found if stride == (1, 1) else found.split(stride)


def largest(values: Float[Tensor, "n c y x"], size: Pair, dilation: Pair) -> Float[Tensor, "n c y2 x2"]:
    """`max_pool2d` at stride 1, much faster: along one axis, then along the other."""
    for axis, (k, d) in enumerate(zip(size, dilation, strict=True), 2):
        length = values.shape[axis] - d * (k - 1)
        values = reduce(torch.maximum, [values.narrow(axis, i * d, length) for i in range(k)])
    return values


def _linear(step: Step, x: Map, weight: Tensor, bias: Any = None) -> Map:
    """The first linear layer is a convolution whose kernel is as large as the window's map; others are 1 × 1."""
    if not x.flat:
        raise step.refuse("does not take a flattened map")
    return replace(x, values=F.conv2d(x.values, weight.reshape(-1, *x.window), bias), window=(len(weight), 1, 1))


def _flatten(step: Step, x: Map, *_: Any, **__: Any) -> Map:
    if step.after not in (x.shape, (math.prod(x.shape),)):
        raise step.refuse()
    return replace(x, flat=len(step.after) == 1)


def _softmax(step: Step, x: Map, dim: Any = None, _stacklevel: int = 3, dtype: Any = None) -> Map:
    """Over the channels."""
    if not x.by_channel or dim not in (1, -len(x.shape)):
        raise step.refuse()
    return replace(x, values=getattr(F, step.name)(x.values, 1, dtype=dtype))


OPERATIONS: dict[str, Callable[..., Map]] = {
    **dict.fromkeys(POINTWISE, _pointwise),
    **dict.fromkeys(WINDOWED, _windowed),
    **dict.fromkeys(("linear",), _linear),
    **dict.fromkeys(("flatten", "view", "reshape"), _flatten),
    **dict.fromkeys(("softmax", "log_softmax"), _softmax),
}


def dense_equivalent(model: nn.Module, images: Float[Tensor, "n c h w"]) -> Dense:
    """The network turned into one that runs over a larger canvas, and gives the outputs of all its windows at once.

    Args:
        model: without padding, of convolutions, poolings, linear layers, and what is the same for each position; it
            is left as it was.
        images: one is enough, for the shapes.

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
    two = images[:1].expand(2, *images.shape[1:])  # a network that joins the batch shows it
    with restored(model), evaluating(model, images.device), failures(images.shape):
        expected = scores(model(two.clone()))
        dense = Dense(_traced(model, two.clone()), tuple(images.shape[1:]))
        check_close(dense(two.clone())[:, 0, 0], expected, "the window that was traced")
    return dense


def check_close(found: Tensor, expected: Tensor, where: str) -> None:
    """Refuse outputs that are not the network's own.

    Raises:
        NotDenseError: they differ by more than rounding.
    """
    if found.shape != expected.shape or (found - expected).abs().max() > CLOSE * expected.abs().max():
        raise NotDenseError(f"the outputs of the dense network differ from those of the network itself at {where}")
