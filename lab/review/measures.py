"""A student's measure, called on activations whose answer is known; the pattern of its answers names the mistake.

The known activations are those of one convolution and one linear layer with fixed weights, for digits that lie in the
frame with all their ink. They are moved as the student's own pairs are, for the measure may know these displacements
from elsewhere.
"""

import inspect
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lab.data import normalize
from lab.errors import InputError, check_choice, require
from lab.metrics import derangement
from lab.review.feedback import Feedback, Notes, knowledge
from lab.review.reading import as_tensor, call, embedded, like
from lab.shifting import ink_margins, shift

Property = Literal["equivariance", "invariance"]
FEW = 32  # pairs: enough to tell the answers apart
MANY = 2048  # pairs: more than the usual batch, to see whether all count
PATIENCE = 1.5  # seconds of computing that one call with many pairs may take
ZERO = 1e-3  # of the control: an answer below it counts as 0, far above rounding and far below any real difference
ANY = torch.tensor([(dy, dx) for dy in range(-3, 4) for dx in range(-3, 4) if dy or dx])  # where none are known
ARRAY = np.zeros((0, 1, 27, 27), np.float32)
KERNEL = torch.tensor([[[[0.6, -0.4], [0.3, 0.5]]]])
BIAS = torch.tensor([0.2])
Pair = tuple[Tensor, Tensor]


class MutationError(Exception):
    """A measure changes what it is given."""


@dataclass(frozen=True)
class Known:
    """Activations of pairs whose displacement is known.

    Attributes:
        moves: dy, dx of each pair, `n 2`.
        offset: which of the embedded digits is the first.
    """

    moves: Tensor
    offset: int = 0

    @cached_property
    def _first(self) -> Tensor:
        digits = embedded().test.images
        digits = digits[(torch.arange(len(self.moves)) + self.offset) % len(digits)]
        margins, (dy, dx) = ink_margins(digits), self.moves.unbind(1)
        return shift(digits, (margins.down - margins.up - dy) // 2, (margins.right - margins.left - dx) // 2)

    def maps(self, moves: Tensor | None = None) -> Tensor:
        """What the convolution makes of the first images, or of these translations of them; `n 1 27 27`."""
        images = self._first if moves is None else shift(self._first, *moves.unbind(1))
        return F.conv2d(normalize(images), KERNEL, BIAS)

    def scores(self) -> Tensor:
        """What the linear layer makes of the first images; `n 10`."""
        weights = torch.randn(10, 729, generator=torch.Generator().manual_seed(0)) / 27
        return self.maps().relu().flatten(1) @ weights.T

    def without_partner(self) -> Tensor:
        """Where the moved map is not defined; `n 1 27 27`, boolean."""
        return shift(torch.ones(len(self.moves), 1, 27, 27), *self.moves.unbind(1)) == 0


def equivariance_cases(known: Known, other: Known) -> dict[str, Pair]:
    """What a measure of equivariance is called on; what each shows, `patterns` in mistakes.toml says."""
    a, b, c = known.maps(), known.maps(known.moves), other.maps(known.moves)
    random = torch.Generator().manual_seed(0)
    places, columns = torch.randperm(729, generator=random), torch.randperm(27, generator=random)
    two = torch.cat([a, other.maps()], 1)
    return {
        "moved": (a, b),
        "still": (a, a),
        "permuted": (a, a[derangement(len(a))]),
        "scrambled": (a, a.flatten(2)[..., places].view_as(a)),
        "rows": (a, a[..., columns]),
        "turned": (a, known.maps(-known.moves)),
        "swapped": (a, known.maps(known.moves.flip(1))),
        "strips": (a, b + 10 * known.without_partner()),
        "channels": (two, two.flip(1)),
        **_common(a, b, c),
    }


def invariance_cases(known: Known, other: Known) -> dict[str, Pair]:
    """What a measure of invariance is called on."""
    a, c = known.scores(), other.scores()
    same = a.clone()
    return {
        "moved": (a, same),
        "permuted": (a, a[derangement(len(a))]),
        "channels": (a, a.roll(3, 1)),
        "class": (a, a.where(a == a.amax(1, keepdim=True), a.amin(1, keepdim=True))),
        **_common(a, same, c),
    }


def _common(a: Tensor, b: Tensor, c: Tensor) -> dict[str, Pair]:
    """Both properties: `a` belongs to `b`, and `c` to another image."""
    size, n = a.abs().mean(), len(a)
    signs = torch.ones_like(b[0]).flatten()
    signs[1::2] = -1
    each = torch.ones(n, *[1] * (b.dim() - 1))
    each[1::2] = -1
    noise = torch.rand(b.shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    broken = b.clone()
    broken[: n // 2 - n // 8] = broken[n // 2 + n // 8 :] = torch.nan
    return {
        "unrelated": (a, c),
        "offset": (a, b + size),
        "lowered": (a, b - size),
        "far": (a, b + 1e4 * size),
        "alternating": (a, b + size * signs.view_as(b[0])),
        "by pair": (a, b + size * each),
        "large": (100 * a, 100 * c),
        "twice": (torch.cat([a, a]), torch.cat([c, c])),
        "rounded": (a, b * (1 + 1e-6 * noise)),
        "nan": (a, broken),
    }


@dataclass(frozen=True)
class Caller:
    """Calls a student's measure in the way that it wants to be called.

    Attributes:
        f: the measure.
        sample: activations as the student's own function returns them; None: tensors `n c h w`.
        dy: the student's own displacements; None where there are none.
        dx: likewise.
        shifts: both together, `n 2`, in the student's order.
    """

    f: Callable[..., Any]
    sample: Any = None
    dy: Any = None
    dx: Any = None
    shifts: Any = None

    def __call__(self, pair: Pair, moves: Tensor, on: str = "known activations") -> float:
        """The answer, as the mean over the pairs.

        Raises:
            InputError: the measure fails, or returns no number.
        """
        a, b = (like(one, self.sample) for one in pair)
        return self.own(a, b, moves.repeat(len(pair[0]) // len(moves), 1), on)

    def own(self, a: Any, b: Any, moves: Tensor, on: str = "your own activations") -> float:
        """The answer on activations in the student's own form."""
        before = [as_tensor(one).clone() for one in (a, b)]
        given, named = self._displacements(moves)
        answer = numbers(call(self.f, a, b, *given, on=on, **named))
        if not all(
            torch.equal(one.nan_to_num(), as_tensor(two).nan_to_num()) for one, two in zip(before, (a, b), strict=True)
        ):
            raise MutationError
        return answer.mean().item()

    def _displacements(self, moves: Tensor) -> tuple[list[Any], dict[str, Any]]:
        """What is passed behind the activations, by position and by name."""
        parameters = _parameters(self.f)
        dy, dx = (_as_own(own, one) for own, one in zip((self.dy, self.dx), moves.unbind(1), strict=True))
        if {"dy", "dx"} <= {one.name for one in parameters}:
            return [], {"dy": dy, "dx": dx}
        required = [one for one in parameters if one.default is one.empty and one.kind in (0, 1)]
        return {3: [_as_own(self.shifts, moves)], 4: [dy, dx]}.get(len(required), []), {}


def _parameters(f: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return [*inspect.signature(f).parameters.values()]
    except (TypeError, ValueError):  # of some built-in functions
        return []


def _as_own(own: Any, values: Tensor) -> Any:
    """Displacements as the student has them: one number, a list, an array, a tensor; the student's own if they fit."""
    if isinstance(own, int | float) or getattr(own, "ndim", 1) == 0:
        return own
    if isinstance(own, list | tuple | np.ndarray | Tensor) and len(own) >= len(values):
        return own[: len(values)]
    if isinstance(own, np.ndarray):
        return values.numpy().astype(own.dtype)
    return values.tolist() if isinstance(own, list | tuple) else values


def numbers(value: Any) -> Tensor:
    """What a measure returned, as float64 numbers; of a tuple or a dict the first; a property that holds (True) is 0.

    Raises:
        InputError: it is no number.
    """
    require(value is not None, "it returns nothing (None)")
    if isinstance(value, Mapping) and value:
        value = next(iter(value.values()))
    found = as_tensor(value[0] if isinstance(value, tuple) and 0 < len(value) <= 3 else value)
    require(found.numel() and not found.is_complex(), f"it returns no number: shape {tuple(found.shape)}")
    return (1 - found.double() if found.dtype == torch.bool else found.double()).flatten()


def measure(
    f: Any,
    property: Property = "equivariance",
    dy: Any = None,
    dx: Any = None,
    *,
    moves: Tensor | None = None,
    sample: Any = None,
    shifts: Any = None,
    control: bool = False,
) -> Feedback:
    """Review a measure by what it answers where the answer is known.

    Args:
        f: `f(a, b)`, also with displacements `f(a, b, dy, dx)` or `f(a, b, shifts)`; returns a number, or one a
            pair, small where b has the property with respect to a.
        property: `"equivariance"`, of maps, or `"invariance"`, of class scores.
        dy: the displacements that f may know from elsewhere, pixels down.
        dx: pixels right.
        moves: those of the pairs themselves, `n 2`, where they differ from `dy` and `dx`.
        sample: activations in the form in which f takes them.
        shifts: both together, `n 2`, where f takes them so.
        control: whether the student has a control to read absolute numbers beside.

    Raises:
        InputError: an unknown property.

    Examples:
        >>> from lab import review
        >>> review.measure(lambda a, b: (a - b).norm() / a.norm()).mistakes
        ('no-alignment',)
    """
    check_choice("property", property, ("equivariance", "invariance"))
    if not callable(f):
        return Feedback("measure", property, unseen=(f"`{property}` must be a function: it is a {type(f).__name__}",))
    notes, moves = Notes("measure", property), given_moves(dy, dx) if moves is None else moves
    try:
        answers = _answers(Caller(f, sample, dy, dx, shifts), property, ANY if moves is None else moves)
        _judge(property, answers, control, notes)
    except MutationError:
        notes.find("mutates-its-input", f"`{property}` has changed the activations that it was given.")
    except InputError as error:
        notes.find("returns-nothing" if "it returns" in str(error) else "fails", f"`{property}`: {error}.")
    return notes.feedback()


def given_moves(dy: Any, dx: Any, n: int = 64) -> Tensor | None:
    """Displacements as `n 2`; None where they are none."""
    try:
        both = [as_tensor(one).long().reshape(-1) for one in (dy, dx)]
        count = max(len(both[0]), len(both[1]))
        return torch.stack([one.expand(n if count == 1 else count) for one in both], 1)
    except (InputError, RuntimeError, TypeError):
        return None


def _answers(caller: Caller, property: str, moves: Tensor) -> dict[str, float]:
    """Each case's answer, on a few pairs, or where that fails on all; nan where the measure fails on the case alone.

    Where it is not known in which form the measure takes activations, and it fails on tensors, it gets arrays.
    """
    make = equivariance_cases if property == "equivariance" else invariance_cases
    failures, sizes = [], [*dict.fromkeys((min(FEW, len(moves)), len(moves)))]
    forms = [caller] if caller.sample is not None else [caller, replace(caller, sample=ARRAY)]
    for caller, n in product(forms, sizes):
        cases = make(Known(moves[:n]), Known(moves[:n], 1000))
        try:
            basic = {name: caller(cases[name], moves[:n]) for name in ("moved", "unrelated")}
        except InputError as error:
            failures.append(error)
            continue
        rest = {name: _or_nan(caller, case, moves[:n]) for name, case in cases.items() if name not in basic}
        return basic | rest | _parts(caller, make, moves[:MANY])
    raise failures[len(sizes) - 1]  # of the first form, on all pairs


def _or_nan(caller: Caller, case: Pair, moves: Tensor) -> float:
    try:
        return caller(case, moves)
    except InputError:
        return math.nan


def _parts(caller: Caller, make: Callable[..., dict[str, Pair]], moves: Tensor) -> dict[str, float]:
    """What is said where only a part of many pairs is broken: the last three quarters, or the first."""
    cases, n = make(Known(moves), Known(moves, 1000)), len(moves)
    (a, b), (_, c) = cases["moved"], cases["unrelated"]
    few, start = min(FEW, n), time.process_time()
    _or_nan(caller, (a[:few], b[:few]), moves[:few])
    if (time.process_time() - start) * n / few > PATIENCE:
        return {}
    late, found = torch.arange(n) >= n // 4, {}
    for name, broken in (("tail", late), ("head", late.flip(0))):
        found[name] = _or_nan(caller, (a, torch.where(broken.view(-1, *[1] * (b.dim() - 1)), c, b)), moves)
    return found


def _judge(property: str, answers: Mapping[str, float], control: bool, notes: Notes) -> None:
    """Compare the answers with the patterns of mistakes.toml."""
    words = {name: _word(name, answers) for name in answers}
    values = {name.replace(" ", "_"): f"{value:.3g}" for name, value in answers.items()}
    for one in _fitting(property, words):
        if not (control and one["mistake"] == "absolute-norm"):
            notes.find(one["mistake"], one["did"].format_map(values))
    missing = {name for name, word in words.items() if word == "?"} - {"channels", "twice"}
    if missing:
        notes.unseen.append(f"what it answers on known activations ({', '.join(sorted(missing))}): it fails there")
    if "tail" not in answers:
        notes.unseen.append("whether all of many pairs count: a call with many of them takes too long")
    if not notes.findings:
        notes.seen.append(f"its answers on {len(answers) - len(missing)} pairs of known activations fit")


def _fitting(property: str, words: Mapping[str, str]) -> Iterator[Mapping[str, Any]]:
    """The patterns that fit: of the causes the first, and the others unless that cause hides all else."""
    cause: Mapping[str, Any] = {}
    for one in knowledge()["patterns"]:
        hidden = cause and (one["cause"] or "last" in cause)
        if not hidden and _fits(one, property, words):
            cause = one if one["cause"] else cause
            yield one


def _fits(pattern: Mapping[str, Any], property: str, words: Mapping[str, str]) -> bool:
    answers = pattern["answers"].items()
    return property in pattern["of"] and all(words.get(name, "?") in wanted.split(" or ") for name, wanted in answers)


def _word(name: str, answers: Mapping[str, float]) -> str:
    """The answer beside others, as `patterns` in mistakes.toml has it."""
    value, control, moved = answers[name], answers["unrelated"], answers["moved"]
    if math.isnan(value):
        return "nan" if name == "nan" else "?"
    if name in BESIDE:
        return BESIDE[name](value, answers)
    if name == "far" or not control:
        return "zero" if abs(value - moved) <= 1e-9 else "large"
    share = abs(value) / abs(control)
    return "zero" if share <= ZERO else "small" if share < 0.5 else "large"


def _unrelated(value: float, answers: Mapping[str, float]) -> str:
    moved = answers["moved"]
    if not value:
        return "zero" if not moved else "less"
    if value < 0.9 * moved and answers["offset"] <= moved:
        return "less"
    return "same" if value < 1.5 * moved else "large"


def _cancels(value: float, answers: Mapping[str, float]) -> str:
    moved, offset = answers["moved"], abs(answers["offset"] - answers["moved"])
    seen = offset > ZERO * abs(answers["unrelated"])  # a softmax does not see it
    return "zero" if seen and abs(value - moved) < 0.1 * offset else "large"


def _opposite(value: float, other: float, least: float) -> str:
    """Whether two answers have opposite signs, rather than being 0 up to rounding."""
    return "opposite" if value * other < 0 and min(abs(value), abs(other)) > least else "same"


def _grows(value: float, least: float) -> str:
    return "more" if value > least else "same"


BESIDE: dict[str, Callable[[float, Mapping[str, float]], str]] = {
    "unrelated": _unrelated,
    "alternating": _cancels,
    "by pair": _cancels,
    "lowered": lambda value, all_: _opposite(value, all_["offset"], ZERO * abs(all_["unrelated"])),
    "large": lambda value, all_: _grows(value, 10 * abs(all_["unrelated"])),  # a norm grows by 100
    "twice": lambda value, all_: _grows(value, 1.3 * abs(all_["unrelated"])),  # a norm over all pairs grows by 1.4
    "strips": lambda value, all_: _grows(value, 1.01 * all_["moved"] + ZERO * abs(all_["unrelated"])),
}
