"""Where each value of a network comes from: carried along by every operation while the network runs on one image.

A value that was computed from the image knows, along rows and along columns, at which pixel it stands, which pixels it
was computed from, and whether padding entered it. `lab.metering.operations` says what an operation makes of that; here
it is kept, a storage at a time, so that views and in-place operations need nothing else. The network runs as it is, on
a true image: nothing is changed in it, and whatever its forward function does is seen, whether in a module or not.

Source:
    The rules for windows are those of A. Araujo et al., Computing Receptive Fields of Convolutional Neural Networks,
    Distill 2019, applied to each output by itself.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from lab.observing import Fault

AT, LOW, HIGH, PAD = range(4)  # of a value, along one axis; see `Origin`
Along = Float[Tensor, "4 ..."]
LONGEST = 128  # outputs after which positions repeat, at most: rows of tokens, align_corners
Pair = tuple[int, int]  # of rows and columns
PERIODS = "period", "sharp", "mean_period", "max_period"  # of `Facts`


@dataclass(frozen=True)
class Facts:
    """What is true of all values of a tensor; `""` where there is no such thing. Pairs are of rows and columns.

    Attributes:
        period: S, the smallest shift in input pixels under which the values can move exactly.
        sharp: the same without the strides that blur first.
        mean_period: the same of the mean over all positions.
        max_period: the same of the maximum.
        closed: whatever was summed up over all positions went once around a circle.
        positions: the constant that has a value for each position.
        everywhere: whether that marks all positions, unlike a mask of two values, which may do so at the frame alone.
        head: the layer that weighs each position by itself.
        weighed: along which axes it does.
        ties: ρ of its weights, 1 if they are equal at all positions; nan if it cannot be told.
        mixing: the first layer in which every output sees every position.
        unknown: the first operation that the lab does not know, so that it may look at anything.
        chosen: the layer in which the data chose the positions.
        patched: the layer that changes values at some positions only.
        pairs: each value belongs to two positions, such as a query's and a key's.
        read: the module that had read values of the image as numbers of Python, which may choose what runs.
        blurred: the last stride that blurs first; `subsampling` the last that does not.
        rounding: the largest relative rounding of the types on the way.
    """

    period: Pair = (1, 1)
    sharp: Pair = (1, 1)
    mean_period: Pair = (1, 1)
    max_period: Pair = (1, 1)
    closed: tuple[bool, bool] = (True, True)
    positions: tuple[str, str] = ("", "")
    everywhere: bool = False
    head: str = ""
    weighed: tuple[bool, bool] = (False, False)
    ties: float = 1.0
    mixing: str = ""
    unknown: str = ""
    chosen: str = ""
    patched: str = ""
    pairs: bool = False
    read: str = ""
    blurred: str = ""
    subsampling: str = ""
    rounding: float = 0.0

    def joined(self, other: "Facts") -> "Facts":
        """Of values that are computed from both."""
        loosest = min(self, other, key=lambda one: one.ties if one.head else 2.0)
        joined = {name: _either(value, getattr(other, name)) for name, value in vars(self).items()}
        found = Facts(**joined).but(head=loosest.head, ties=loosest.ties, rounding=max(self.rounding, other.rounding))
        return found.but(closed=(self.closed[0] and other.closed[0], self.closed[1] and other.closed[1])).repeating(
            other
        )

    def repeating(self, *others: "Facts") -> "Facts":
        """The same again only where the others are so too."""
        periods = {name: getattr(self, name) for name in PERIODS}
        for other in others:
            periods = {name: lcm(period, getattr(other, name)) for name, period in periods.items()}
        return self.but(**periods)

    def along(self, axis: int, **values: Any) -> "Facts":
        """With other values along one axis."""
        pairs = {name: list(getattr(self, name)) for name in values}
        for name, value in values.items():
            pairs[name][axis] = value
        return self.but(**{name: tuple(pair) for name, pair in pairs.items()})

    def but(self, **values: Any) -> "Facts":
        """With other values."""
        return replace(self, **values)


def _either(a: Any, b: Any) -> Any:
    """What is true of one of two, of rows and of columns by themselves."""
    return tuple(map(_either, a, b)) if isinstance(a, tuple) else a or b


def lcm(a: Pair, b: Pair) -> Pair:
    """Least common multiples along rows and along columns."""
    return math.lcm(a[0], b[0]), math.lcm(a[1], b[1])


@dataclass(frozen=True)
class Origin:
    """Where the values of a tensor come from.

    Attributes:
        along: along rows, and along columns, of each value: `AT`, the pixel at which it stands, nan if at none; `LOW`
            and `HIGH`, the first and the last pixel that it was computed from, infinite if from all of them, +inf and
            -inf if from none; `PAD`, 1 if padding entered. A dimension along which nothing differs has size 1. Pixels
            before the image and after it are counted on.
        facts: of all values.
    """

    along: tuple[Along, Along]
    facts: Facts

    def changed(self, change: Callable[[Along, int], Along]) -> "Origin":
        """Along rows and along columns what `change` makes of it and of the axis, 0 or 1."""
        return Origin((change(self.along[0], 0), change(self.along[1], 1)), self.facts)

    @classmethod
    def of_image(cls, size: Pair, rounding: float) -> "Origin":
        """Of the pixels themselves, `1 c h w`."""
        pixels = []
        for axis, n in enumerate(size):
            p = torch.arange(float(n)).reshape((1, 1, n, 1) if axis == 0 else (1, 1, 1, n))
            pixels.append(torch.stack([p, p, p, torch.zeros_like(p)]))
        return cls((pixels[0], pixels[1]), Facts(rounding=rounding))


def nothing(dims: int) -> Along:
    """Of constants: at no pixel, and computed from none."""
    return torch.tensor([math.nan, math.inf, -math.inf, 0.0]).reshape(4, *[1] * dims)


def _anywhere(p: Along, dims: int) -> Along:
    """At no pixel, and computed from whatever any value is."""
    low, high, pad = p[LOW].min(), p[HIGH].max(), p[PAD].max()
    return torch.stack([torch.full_like(low, math.nan), low, high, pad]).reshape(4, *[1] * dims)


def tight(p: Along) -> Along:
    """With size 1 along each dimension along which nothing differs."""
    for dim in range(1, p.dim()):
        if p.shape[dim] > 1:
            first = p.narrow(dim, 0, 1)
            if p.stride(dim) == 0 or bool(((p == first) | (p.isnan() & first.isnan())).all()):
                p = first
    return p


def extent(values: Tensor) -> float:
    """How far the finite ones are apart."""
    known = values[values.isfinite()]
    return (known.max() - known.min()).item() if len(known) else 0.0


@dataclass(frozen=True)
class Pattern:
    """How positions go on along a dimension: `every` outputs later, all is `distance` pixels later."""

    every: int
    distance: int

    @property
    def step(self) -> Fraction:
        """Input pixels from one output to the next."""
        return Fraction(self.distance, self.every)


def find_pattern(p: Float[Tensor, "4 n"]) -> Pattern | None:
    """The shortest that holds in the middle half, because the ends may be irregular; None if none does."""
    n = p.shape[1]
    known = p[: HIGH + 1].isfinite().any(1) & (p[: HIGH + 1] != p[: HIGH + 1, :1]).any(1)
    rows = p[: HIGH + 1][known]
    for every in range(1, min(max(n // 2, 1), LONGEST) + 1 if bool(known[AT]) else 1):  # twice at least
        later = rows[:, every:] - rows[:, :-every]
        cut = later.shape[1] // 4 if n > 8 else 0
        middle = later[:, cut : later.shape[1] - cut]
        distance = round(middle[0, 0].item()) if middle[0, 0].isfinite() else 0
        back = -rows[0].diff()[cut : n - cut].amin()  # if far, they are the same positions once more
        if (
            distance > 0
            and bool(((middle - distance).abs() < 1e-3).all())
            and back <= (distance if 2 * every <= n else 0)
        ):
            return Pattern(every, distance)
    return None


class Call:
    """One operation that ran: its name, arguments by name, result, and the module (`place`) in which it ran."""

    def __init__(self, tracer: "Tracer", operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any):
        schema = operation._schema
        self.name, self.tags, self.out = schema.name.split("::")[1], operation.tags, out
        self.place = tracer.place
        self.full_name, self._tracer, self.operation = schema.name.replace("::", "."), tracer, operation
        names = [argument.name for argument in schema.arguments]
        defaults = {one.name: one.default_value for one in schema.arguments if one.has_default_value()}
        self.arguments: dict[str, Any] = defaults | dict(zip(names, args, strict=False)) | dict(kwargs)
        self.size = tracer.size
        writes = {one.name for one in schema.arguments if one.alias_info is not None and one.alias_info.is_write}
        changed = (value for name, value in self.arguments.items() if name in writes and isinstance(value, Tensor))
        self.written = {tensor.untyped_storage()._cdata for tensor in changed}

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors among the arguments."""
        return [one for one in tree_flatten(list(self.arguments.values()))[0] if isinstance(one, Tensor)]

    def of(self, tensor: object) -> Origin | None:
        """Where an argument comes from; None for a constant."""
        return self._tracer.of(tensor) if isinstance(tensor, Tensor) else None

    @property
    def sources(self) -> list[Origin]:
        """Where those arguments come from that are no constants."""
        return [one for one in map(self.of, self.tensors) if one]

    def constant_name(self, tensor: Tensor) -> str:
        """What people call a constant: its parameter, or where it was computed."""
        storage = tensor.untyped_storage()._cdata
        return self._tracer.names.get(storage, f"a constant of {self.place}")

    @property
    def results(self) -> list[Tensor]:
        """The tensors that it returned."""
        return [one for one in tree_flatten(self.out)[0] if isinstance(one, Tensor)]


@dataclass
class _Kept:
    """The origins of one storage, as one of the tensors that lie in it, with so many bytes a value."""

    alive: StorageWeakRef
    bytes: int
    layout: tuple[Sequence[int], Sequence[int], int]
    origin: Origin


Rule = Callable[[Call, Sequence[Tensor]], Sequence[Origin | None]]


class Tracer(TorchDispatchMode):
    """While it is entered, follow where values come from.

    Args:
        image: `1 c h w`, whose values are followed.
        names: storage -> what people call a parameter or a buffer.
        rule: from an operation that ran, and its results, the origin of each of these; None for a constant.
    """

    _should_skip_dynamo = classmethod(lambda _: False)  # or its first use loads the compiler, which takes seconds

    def __init__(self, image: Tensor, names: Mapping[int, str], rule: Rule) -> None:
        super().__init__()
        self.size: Pair = (image.shape[-2], image.shape[-1])
        self.names, self.rule, self.module, self._paused = names, rule, "", False
        self.read: dict[str, None] = {}  # modules whose forward function read values of the image
        self._kept: dict[int, _Kept] = {}
        self._put(image, Origin.of_image(self.size, torch.finfo(image.dtype).eps))

    def __torch_dispatch__(self, operation: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, then follow it."""
        out = operation(*args, **(kwargs or {}))
        if not self._paused and not operation.is_view and torch.Tag.inplace_view not in operation.tags:
            try:
                self._follow(Call(self, operation, args, kwargs or {}, out))
            except Exception as error:  # it is not the model that fails
                raise Fault(f"{operation} cannot be followed") from error
        return out

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Follow nothing while the body runs."""
        self._paused = True
        yield
        self._paused = False

    def of(self, tensor: Tensor) -> Origin | None:
        """Where a tensor comes from; None for a constant."""
        kept = self._kept.get(tensor.untyped_storage()._cdata)
        if kept is None:
            return None
        if kept.layout == _layout(tensor) and kept.bytes == tensor.element_size():
            return kept.origin
        if kept.bytes != tensor.element_size():  # real parts, say
            y, x = (_anywhere(p, tensor.dim()) for p in kept.origin.along)
            return Origin((y, x), kept.origin.facts)
        views = [tight(_flat(kept, p, tensor).as_strided(*_strided(tensor))) for p in kept.origin.along]
        return Origin((views[0], views[1]), kept.origin.facts)

    def _follow(self, call: Call) -> None:
        if not any(self.of_storage(tensor) for tensor in call.tensors):
            return
        if call.name == "_local_scalar_dense":
            self.read[call.place] = None
        viewed = {tensor.untyped_storage()._cdata for tensor in call.tensors} - call.written
        results = [one for one in call.results if one.untyped_storage()._cdata not in viewed]
        for tensor, origin in zip(results, self.rule(call, results) if results else (), strict=True):
            if origin is not None:
                rounding = torch.finfo(tensor.dtype).eps if tensor.is_floating_point() else 0.0
                facts = replace(origin.facts, rounding=max(rounding, origin.facts.rounding))
                facts = replace(facts, read=facts.read or next(iter(self.read), ""))
                self._put(tensor, Origin(origin.along, facts))
            elif self.of_storage(tensor):
                self._put(tensor, Origin((nothing(tensor.dim()), nothing(tensor.dim())), Facts()))

    @property
    def place(self) -> str:
        """The module that runs."""
        return self.module or "the model"

    def of_storage(self, tensor: Tensor) -> bool:
        """Whether anything in the tensor's storage comes from the image."""
        return tensor.untyped_storage()._cdata in self._kept

    def _put(self, tensor: Tensor, origin: Origin) -> None:
        """Keep the origin of a tensor; of a part of a storage, beside that of the rest."""
        storage = tensor.untyped_storage()
        kept = self._kept.get(storage._cdata)
        whole = tensor.numel() * tensor.element_size() == storage.nbytes()
        if kept and not whole and _is_part(self.of(tensor), kept.origin):  # the rest of the map stays as it was
            facts = kept.origin.facts.joined(replace(origin.facts, patched=origin.facts.patched or self.place))
            kept.origin = Origin(kept.origin.along, facts)
            return
        if not whole:
            kept = kept or _Kept(
                StorageWeakRef(storage),
                tensor.element_size(),
                _layout(tensor),
                Origin((nothing(0), nothing(0)), Facts()),
            )
            parts = []
            for before, p in zip(kept.origin.along, origin.along, strict=True):
                flat = _flat(kept, before, tensor).clone()
                flat.as_strided(*_strided(tensor)).copy_(p)
                parts.append(flat)
            origin = Origin((parts[0], parts[1]), origin.facts.joined(kept.origin.facts))
            layout = ((parts[0].shape[1],), (1,), 0)
            self._kept[storage._cdata] = _Kept(kept.alive, kept.bytes, layout, origin)
            return
        for key in [key for key, one in self._kept.items() if one.alive.expired()]:
            del self._kept[key]
        self._kept[storage._cdata] = _Kept(StorageWeakRef(storage), tensor.element_size(), _layout(tensor), origin)


def _is_part(view: Origin | None, whole: Origin) -> bool:
    """Whether a view holds values at some positions of a map, but not at all."""
    pairs = zip(view.along if view else (), whole.along, strict=False)
    counts = [(len(p[AT][~p[AT].isnan()].unique()), len(q[AT][~q[AT].isnan()].unique())) for p, q in pairs]
    return any(0 < some < every for some, every in counts)


def _layout(tensor: Tensor) -> tuple[Sequence[int], Sequence[int], int]:
    return tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset())


def _strided(tensor: Tensor) -> tuple[Sequence[int], Sequence[int], int]:
    """How to see values that lie side by side, four times, as the tensor sees its own."""
    n = tensor.untyped_storage().nbytes() // tensor.element_size()
    return (4, *tensor.shape), (n, *tensor.stride()), int(tensor.storage_offset())


def _flat(kept: _Kept, p: Along, tensor: Tensor) -> Float[Tensor, "4 n"]:
    """What is kept of a storage, for each of its values in order."""
    n = tensor.untyped_storage().nbytes() // tensor.element_size()
    size, stride, offset = kept.layout
    if p.dim() == 2 and p.shape[1] == n:
        return p
    flat = nothing(1).repeat(1, n)
    if p.dim() > 1 or math.prod(size) == 1:
        flat.as_strided((4, *size), (n, *stride), offset).copy_(p)
    return flat
