"""A network of the reader's own as one file that the playground opens, if it is a chain of the playground's blocks.

`torch.fx` traces the network, on one digit; each step becomes a block, or is refused by the name of its layer. What is
nothing in evaluation mode is left out, and so is a softmax at the end; batch norm becomes part of its convolution.
"""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jaxtyping
import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.modules.utils import _pair
from torch.nn.utils.fusion import fuse_conv_bn_weights

from lab.checkpoints import restored
from lab.errors import InputError, failures, require
from lab.files import output_errors, staged_output

SCHEMA = "equivariance-lab/network/1"
IMAGE = (1, 1, 28, 28)  # what the page gives a network: one normalised digit
MOST_BLOCKS = 10
MOST_PARAMETERS = 500_000
LIMITS = {"channels": (1, 32), "kernel": (1, 7), "stride": (1, 4), "dilation": (1, 4), "outputs": (1, 64)}
LIMITS |= {"factor": (2, 4), "window": (2, 7)}
LEAVES = {"BlurPool", "AdaptiveSampling", "FullyConnected"}  # classes of the page's own programs
NOTHING = {"Dropout", "Identity", "Flatten", "dropout", "clone", "detach", "contiguous", "flatten"}
AT_THE_END = {"Softmax", "LogSoftmax", "softmax", "log_softmax"}
VECTORS = ("relu", "linear")  # blocks that take values without positions


@dataclass(frozen=True)
class Step:
    """One step of a traced network.

    Attributes:
        layer: what people call it.
        kind: the name of its class, or of its function.
        module: the module that runs; None if it is a function.
        node: of the trace.
    """

    layer: str
    kind: str
    module: nn.Module | None
    node: fx.Node

    def option(self, name: str, place: int, usual: Any = None) -> Any:
        """An attribute of the module, or an argument of the function."""
        if self.module is not None:
            return getattr(self.module, name, usual)
        given = self.node.args[place] if place < len(self.node.args) else usual
        return self.node.kwargs.get(name, given)

    def need(self, holds: object, rule: str) -> None:
        """Refuse the layer.

        Raises:
            InputError: the rule does not hold; says which layer breaks it.
        """
        require(holds, f"layer {self.layer!r} ({self.kind}) does not fit into the playground: {rule}")

    def number(self, name: str, value: Any) -> int:
        """One whole number for rows and columns, within the page's limits."""
        pair = _pair(value)
        low, high = LIMITS[name]
        one = pair[0] == pair[1] and isinstance(pair[0], int | float) and pair[0] == int(pair[0])
        self.need(one and low <= pair[0] <= high, f"{name} must be one number from {low} to {high}: {value}")
        return int(pair[0])


@dataclass(frozen=True)
class Block:
    """A block as the page's address writes it, the layer that it was, and its weights."""

    text: str
    layer: str
    weights: tuple[Tensor, ...] = ()


def export_chain(model: nn.Module, path: Path, *, name: str = "") -> list[Block]:
    """Write a network into one file, JSON, that the playground opens.

    `schema` names the format; `net` is the row of blocks, as in the address of the playground; `layers` what each was
    called; `weights` all numbers in float32, little-endian, in base64: of each block the weights, then the biases.

    Args:
        model: takes one channel of 28 × 28, normalised as `lab.normalize` does; a chain of the playground's blocks.
        path: of the file, which appears whole or not at all.
        name: what the page calls it.

    Returns:
        The blocks.

    Raises:
        InputError: the network is no such chain; says which layer does not fit, and the rule.
        OutputError: the file cannot be written.
    """
    blocks = chain_of(model)
    values = [tensor.detach().float().flatten() for block in blocks for tensor in block.weights]
    row = torch.cat(values) if values else torch.empty(0)
    require(len(row) <= MOST_PARAMETERS, f"the playground takes at most {MOST_PARAMETERS:,} parameters: {len(row):,}")
    require(bool(row.isfinite().all()), "weights must be finite, for they are written as numbers")
    weights = base64.b64encode(row.numpy().astype("<f4").tobytes()).decode()
    net, layers = ",".join(block.text for block in blocks), [block.layer for block in blocks]
    called = {"schema": SCHEMA, "name": name or type(model).__name__}
    described = called | {"net": net, "layers": layers, "weights": weights}
    with staged_output(path.parent) as stage, output_errors(path.parent):
        (stage / path.name).write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    return blocks


def chain_of(model: nn.Module) -> list[Block]:
    """The blocks of a network, in order.

    Raises:
        InputError: it is no chain of the playground's blocks.

    Examples:
        >>> import lab
        >>> from lab.live.chains import chain_of
        >>> [block.text for block in chain_of(lab.build_model("given", seed=0))]
        ['conv.1.2.1.none.1', 'relu', 'linear.10']
    """
    with restored(model):
        model.eval()
        graph = _traced(model)
        blocks: list[Block] = []
        at: dict[fx.Node, int] = {}
        for node in graph.graph.nodes:
            if node.op == "placeholder":
                require(not at, "a network in the playground takes one image, and nothing else")
                at[node] = 0
            elif node.op not in ("output", "get_attr"):
                at[node] = _followed(_step(graph, node), at, blocks)
    require(blocks, "the network has no block that the playground knows")
    require(len(blocks) <= MOST_BLOCKS, f"the playground takes at most {MOST_BLOCKS} blocks: {len(blocks)}")
    return blocks


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Also the blocks that the page's programs define."""
        return type(m).__name__ in LEAVES or super().is_leaf_module(m, module_qualified_name)


def _traced(model: nn.Module) -> fx.GraphModule:
    """What the network does to make its first output."""
    disabled = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)  # stand-ins break a network's annotations
    try:
        graph = _Tracer().trace(model)
    except Exception as error:  # whatever the model does with what is only traced
        said = str(error).strip().partition("\n")[0]
        raise InputError(f"the network is not a chain that can be traced: {said}") from error
    finally:
        jaxtyping.config.update("jaxtyping_disable", disabled)
    output = graph.output_node()
    first = output.args[0]
    output.args = (first[0] if isinstance(first, tuple | list) else first,)
    graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    traced = fx.GraphModule(model, graph)
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    with failures(IMAGE), torch.no_grad():
        ShapeProp(traced).propagate(torch.zeros(IMAGE, dtype=dtype))
    return traced


def _step(graph: fx.GraphModule, node: fx.Node) -> Step:
    if node.op == "call_module":
        module = graph.get_submodule(str(node.target))
        return Step(str(node.target), type(module).__name__, module, node)
    kind = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    return Step(node.name, str(kind).rstrip("_"), None, node)


def _followed(step: Step, at: dict[fx.Node, int], blocks: list[Block]) -> int:
    """Which output a step returns, counted from the image; it may add a block."""
    inputs = [node for node in step.node.all_input_nodes if node in at]
    step.need(inputs, "it takes nothing that comes from the image")
    if step.kind in AT_THE_END:
        step.need(all(user.op == "output" for user in step.node.users), "it may stand at the end alone")
    if step.kind in NOTHING | AT_THE_END:
        return at[inputs[0]]
    if step.kind == "BatchNorm2d":
        _fold(step, at, blocks)
        return len(blocks)
    make = MAKERS.get(step.kind)
    step.need(make, "there is no such block")
    assert make
    before = at[inputs[0]]
    if step.kind in JOINS:
        step.need(len(inputs) == 2, "it must join what is in front of it with one earlier output")
        before = max(at[one] for one in inputs)
    step.need(before == len(blocks), "it takes an earlier output; only skips, added or put beside, can")
    block = make(step, _shape(inputs[0]), at)
    kind = block.text.partition(".")[0]
    step.need(len(_shape(inputs[0])) == 4 or kind in VECTORS, "it needs a map with positions")
    blocks.append(block)
    return len(blocks)


def _fold(step: Step, at: dict[fx.Node, int], blocks: list[Block]) -> None:
    """Give the last block, a convolution that nothing else takes, the weights that it has with its batch norm."""
    norm: Any = step.module
    last = [node for node, place in at.items() if place == len(blocks)]
    behind = blocks and blocks[-1].text.startswith("conv.") and step.node.all_input_nodes[0] in last
    alone = all(len(node.users) == 1 for node in last)
    step.need(behind and alone, "it must be all that stands behind a convolution, of which it becomes a part")
    step.need(norm.running_mean is not None, "it must have running statistics")
    (weight, bias), statistics = blocks[-1].weights, (norm.running_mean, norm.running_var, norm.eps)
    weights = fuse_conv_bn_weights(weight, bias, *statistics, norm.weight, norm.bias)
    blocks[-1] = replace(blocks[-1], layer=f"{blocks[-1].layer}, {step.layer}", weights=weights)


def _shape(node: fx.Node) -> tuple[int, ...]:
    """Of what a step returns, with the batch; a map with a single position is no map."""
    shape = tuple(node.meta["tensor_meta"].shape)
    return shape[:2] if shape[2:] == (1, 1) else shape


Places = dict[fx.Node, int]


def _convolution(step: Step, _: tuple[int, ...], __: Places) -> Block:
    conv = step.module
    assert isinstance(conv, nn.Conv2d)
    step.need(conv.groups == 1, f"groups must be 1: {conv.groups}")
    channels = step.number("channels", conv.out_channels)
    kernel, stride, dilation = (step.number(n, getattr(conv, a)) for n, a in _CONVOLUTION)
    words = [str(one) for one in (channels, kernel, stride, _padding(step, conv, kernel, dilation), dilation)]
    return Block(".".join(("conv", *words)), step.layer, (conv.weight, _bias(conv.weight, conv.bias)))


_CONVOLUTION = (("kernel", "kernel_size"), ("stride", "stride"), ("dilation", "dilation"))


def _padding(step: Step, conv: nn.Conv2d, kernel: int, dilation: int) -> str:
    """The page pads so that a map keeps its size, or not at all."""
    whole = dilation * (kernel - 1)
    given = conv.padding if isinstance(conv.padding, str) else _pair(conv.padding)
    if given in ("valid", (0, 0)):
        return "none"
    same = given == "same" or (whole % 2 == 0 and given == (whole // 2, whole // 2))
    step.need(same, f"padding must be 0, or keep the size: {conv.padding}")
    step.need(conv.padding_mode != "replicate", "padding must be zeros, circular or reflect: replicate")
    return conv.padding_mode


def _bias(weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.zeros(len(weight)) if bias is None else bias


def _linear(step: Step, shape: tuple[int, ...], _: Places) -> Block:
    linear = step.module
    assert isinstance(linear, nn.Linear)
    flat = len(shape) == 2 or step.kind == "FullyConnected"
    step.need(flat, f"it must take all values in a row: shape {shape}")
    outputs = step.number("outputs", linear.out_features)
    return Block(f"linear.{outputs}", step.layer, (linear.weight, _bias(linear.weight, linear.bias)))


def _pooling(kind: str) -> Callable[..., Block]:
    def make(step: Step, _: tuple[int, ...], __: Places) -> Block:
        size = step.option("kernel_size", 1)
        stride = step.option("stride", 2) or size
        padded = _pair(step.option("padding", 3, 0)) != (0, 0) or _pair(step.option("dilation", 4, 1)) != (1, 1)
        plain = not padded and not step.option("ceil_mode", 5, False)
        step.need(plain, "it must have no padding, dilation or ceil_mode")
        text = f"{kind}.{step.number('window', size)}.{step.number('stride', stride)}"
        return Block(text, step.layer)

    return make


def _adaptive(kind: str) -> Callable[..., Block]:
    def make(step: Step, _: tuple[int, ...], __: Places) -> Block:
        size = step.option("output_size", 1)
        step.need(_pair(size) == (1, 1), f"its output must be a single position: {size}")
        return Block(kind, step.layer)

    return make


def _over_positions(kind: str) -> Callable[..., Block]:
    def make(step: Step, shape: tuple[int, ...], _: Places) -> Block:
        dims = step.option("dim", 1)
        both = isinstance(dims, tuple | list) and sorted(d % len(shape) for d in dims) == [2, 3]
        step.need(both, f"it must go over rows and columns, dim=(2, 3): {dims}")
        return Block(kind, step.layer)

    return make


def _normalised(step: Step, _: tuple[int, ...], __: Places) -> Block:
    norm = step.module
    assert isinstance(norm, nn.InstanceNorm2d)
    plain = not norm.affine and not norm.track_running_stats and norm.eps == 1e-5
    step.need(plain, "it must be plain: no affine, no running statistics, eps of 1e-5")
    return Block("norm", step.layer)


def _upsampling(step: Step, _: tuple[int, ...], __: Places) -> Block:
    mode, factor = step.option("mode", 3, "nearest"), step.option("scale_factor", 2)
    step.need(mode == "nearest" and factor, f"it must be nearest, by a scale_factor: {mode}, {factor}")
    return Block(f"up.{step.number('factor', factor)}", step.layer)


def _joining(kind: str) -> Callable[..., Block]:
    def make(step: Step, _: tuple[int, ...], at: Places) -> Block:
        first, second = (at[node] for node in step.node.all_input_nodes)
        if kind == "cat":
            step.need(step.option("dim", 1, 0) == 1, "it must put channels side by side, dim=1")
            step.need(first > second, "what is in front of it must come first, then what is earlier")
        return Block(f"{kind}.{min(first, second)}", step.layer)

    return make


def _blurring(step: Step, _: tuple[int, ...], __: Places) -> Block:
    module: Any = step.module
    mode = {"constant": "zeros"}.get(module.padding, module.padding)
    return Block(f"blur.{module.kernel.shape[-1]}.{step.number('stride', module.stride)}.{mode}", step.layer)


def _sampling(step: Step, _: tuple[int, ...], __: Places) -> Block:
    module: Any = step.module
    return Block(f"aps.{step.number('stride', module.stride)}", step.layer)


def _relu(step: Step, _: tuple[int, ...], __: Places) -> Block:
    return Block("relu", step.layer)


JOINS = ("add", "iadd", "cat", "concat")
MAKERS: dict[str, Callable[[Step, tuple[int, ...], Places], Block]] = {
    "Conv2d": _convolution,
    **dict.fromkeys(["Linear", "FullyConnected"], _linear),
    **dict.fromkeys(["ReLU", "relu"], _relu),
    **dict.fromkeys(["MaxPool2d", "max_pool2d"], _pooling("max")),
    **dict.fromkeys(["AvgPool2d", "avg_pool2d"], _pooling("avg")),
    **dict.fromkeys(["AdaptiveAvgPool2d", "adaptive_avg_pool2d"], _adaptive("gap")),
    **dict.fromkeys(["AdaptiveMaxPool2d", "adaptive_max_pool2d"], _adaptive("gmp")),
    "mean": _over_positions("gap"),
    "amax": _over_positions("gmp"),
    "InstanceNorm2d": _normalised,
    **dict.fromkeys(["Upsample", "UpsamplingNearest2d", "interpolate"], _upsampling),
    **dict.fromkeys(["add", "iadd"], _joining("add")),
    **dict.fromkeys(["cat", "concat"], _joining("cat")),
    "BlurPool": _blurring,
    "AdaptiveSampling": _sampling,
}
