"""A whole program, by the names that it defines."""

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from numbers import Number
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lab.data import Mnist, Split, _read_unpacked
from lab.errors import InputError
from lab.files import data_root
from lab.metrics import derangement
from lab.review.conclusions import conclusion
from lab.review.feedback import Feedback, Review, knowledge
from lab.review.measures import Caller, MutationError, Property, given_moves, measure
from lab.review.networks import network
from lab.review.reading import SIDE, as_tensor, call, embedded
from lab.review.trained import training
from lab.review.translations import UNKNOWN, pairs, read_pairs, sort_pairs

CONTROL = re.compile(r"control|unrelated|baseline|chance|mismatch|shuffle|unmatched|wrong|other", re.IGNORECASE)
REPORTED = ("test_accuracy", "test_acc", "accuracy")
LAYER: dict[Property, str] = {"equivariance": "conv", "invariance": "fc"}
ALIGNED = {"no-alignment", "border-included", "sign-turned", "axes-swapped", "no-control"}  # of a measure that aligns
FARTHEST = 12  # pixels: farther moved, little of the known digits would be left


def submission(names: Mapping[str, Any]) -> Review:
    """Review all that a finished program defines, by the agreed names.

    Args:
        names: `globals()` of the program: `model`; `first`, `second`, and `dy`, `dx` (or `shifts`), `labels`, if it has
            them; `activations(model, images)` -> a mapping with `"conv"` and `"fc"`; `equivariance(a, b)` and
            `invariance(a, b)` -> a number or one a pair, small for the property; `conclusion`.

    Returns:
        Feedback on `network`, `training`, `pairs`, `measure` (of equivariance, and of invariance) and `conclusion`.

    Examples:
        >>> from lab import review
        >>> found = review.submission({})
        >>> [one.task for one in found], found.passed
        (['network', 'training', 'pairs', 'measure', 'measure', 'conclusion'], False)
    """
    return Review(tuple(one_by_one(names)))


def one_by_one(names: Mapping[str, Any]) -> Iterator[Feedback]:
    """The same, each feedback as soon as it is known: should the program end all, those before are not lost."""
    work = _Work({name: value for name, value in names.items() if value is not None})
    before: list[Feedback] = []
    for task, part in (("network", work.network), ("training", work.training), ("pairs", work.pairs)):
        before.append(_tried(task, part))
        yield before[-1]
    sound: list[bool] = []
    for which in LAYER:
        yield (measured := _tried("measure", partial(work.measure, which), which))
        sound.append(not any(one.findings for one in (*before, measured)))
    yield _tried("conclusion", partial(work.conclusion, sound))


def _tried(task: str, part: Callable[[], Feedback], subject: str = "") -> Feedback:
    """The feedback of a part; where a program's objects fail in a way that nothing foresaw, a sentence."""
    try:
        return part()
    except Exception as error:  # somebody else's objects may raise anything
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return Feedback(task, subject, unseen=(f"this task: what you define cannot be used ({said})",))


@dataclass(frozen=True)
class _Work:
    """A program's names, and what several reviews need of them."""

    names: Mapping[str, Any]

    def absent(self, *wanted: str) -> tuple[str, ...]:
        """What is said of names that are missing."""
        said = "`{0}` is missing: {1}. If yours has another name, add a last cell: `{0} = your_name`"
        return tuple(said.format(name, knowledge()["names"][name]) for name in wanted if name not in self.names)

    def network(self) -> Feedback:
        if absent := self.absent("model"):
            return Feedback("network", unseen=absent)
        f, images = self.names.get("activations"), self.images("first")
        found = network(self.names["model"], f, images=None if images is None else images[:16])
        return replace(found, unseen=(*found.unseen, *self.absent("activations")))

    def training(self) -> Feedback:
        if absent := self.absent("model"):
            return Feedback("training", unseen=absent)
        numbers = [self.names.get(name) for name in REPORTED]
        reported = next((one for one in numbers if isinstance(one, Number | Tensor)), None)
        tests, trains = ([], []) if reported is None else self.sets()
        return training(self.names["model"], reported, tests=tests, trains=trains, scale=self.scale())

    def pairs(self) -> Feedback:
        alone = "second" not in self.names and self.read is not None  # `first` holds both
        if absent := self.absent("first", *([] if alone else ["second"])):
            return Feedback("pairs", unseen=absent)
        keys = ("first", "second", "dy", "dx", "labels", "second_labels", "shifts")
        return pairs(*(self.names.get(key) for key in keys))

    def measure(self, which: Property) -> Feedback:
        if absent := self.absent(which):
            return Feedback("measure", which, unseen=absent)
        f, said = self.names[which], {key: self.names.get(key) for key in ("dy", "dx", "shifts")}
        sample = self.activations("first").get(LAYER[which])
        found = measure(f, which, **said, moves=self.moves, sample=sample, control=self.has_control(f))
        if self.moves is not None or not {*found.mistakes} & ALIGNED:
            return found
        why = f"`{which}`: where it moves the maps to, since your pairs do not tell how far they were moved"
        kept = tuple(one for one in found.findings if one.mistake not in ALIGNED)
        return replace(found, findings=kept, unseen=(*found.unseen, why))

    def conclusion(self, sound: Sequence[bool]) -> Feedback:
        if absent := self.absent("conclusion"):
            return Feedback("conclusion", unseen=absent)
        shares = [self.own_share(which) if fine else None for which, fine in zip(LAYER, sound, strict=True)]
        return conclusion(self.names["conclusion"], *shares)

    @cached_property
    def read(self) -> tuple[list[Tensor], list[Tensor]] | None:
        """The columns of the pairs; None where they cannot be read."""
        try:
            return read_pairs(self.names.get("first"), self.names.get("second"))
        except InputError:
            return None

    def images(self, name: str) -> Any:
        """A copy of the pairs' images as the student has them, or as a tensor; None where there are none."""
        value = self.names.get(name)
        if isinstance(value, Tensor | np.ndarray) and value.ndim > 1:
            return copy.deepcopy(value)
        return None if self.read is None else self.read[name == "second"][0][:, None].float()

    @cached_property
    def moves(self) -> Tensor | None:
        """The displacements that the pixels say; else those that the program says, or those of other pairs."""
        if self.read is None:
            return None
        n = min(len(images[0]) for images in self.read)
        try:
            found = sort_pairs(*(images[0][:n] for images in self.read)).moves
        except InputError:
            return None
        known = (found != UNKNOWN).all(1)
        said = self.said(n)
        if said is None:
            if 2 * int(known.sum()) < n:
                return None
            said = found[known][torch.arange(n) % int(known.sum())]
        return torch.where(known[:, None], found, said).clamp(-FARTHEST, FARTHEST)

    def said(self, n: int) -> Tensor | None:
        """What the program says of the displacements: `dy` and `dx`, or whole numbers `n 2` under any name."""
        found = [given_moves(self.names.get("dy"), self.names.get("dx"), n)]
        for value in self.names.values():
            if isinstance(value, Tensor | np.ndarray | list) and getattr(value, "ndim", 1) != 0 and len(value) == n:
                with suppress(InputError):
                    both = as_tensor(value)
                    found += [both.long()] if both.shape == (n, 2) and bool((both.abs() < SIDE).all()) else []
        return next((one for one in found if one is not None and len(one) == n), None)

    def activations(self, name: str) -> Mapping[str, Any]:
        """What the program's own function returns for the images of its pairs; nothing, where it fails."""
        f, images = self.names.get("activations"), self.images(name)
        try:
            found = call(f, self.names.get("model"), images, on=f"`{name}`") if callable(f) else {}
        except InputError:
            return {}
        return found if isinstance(found, Mapping) else {}

    def own_share(self, which: Property) -> float | None:
        """What the program's own measure gives for its own pairs, as a share of what it gives for unrelated ones."""
        a, b = (self.activations(name).get(LAYER[which]) for name in ("first", "second"))
        caller = Caller(self.names.get(which), a, *(self.names.get(key) for key in ("dy", "dx", "shifts")))  # type: ignore[arg-type]  # it checks
        try:
            moves, order = self.moves, derangement(len(b)).tolist()  # type: ignore[arg-type]  # else caught
            one, other = (caller.own(a, each, moves) for each in (b, b[order]))  # type: ignore[arg-type,index]  # else caught
        except (InputError, MutationError, TypeError, IndexError):
            return None  # which the measure's own review tells
        return one / other if other else None

    def has_control(self, f: Any) -> bool:
        """Whether something in the program may be a control, or the measure uses a number from outside."""
        used = {*getattr(getattr(f, "__code__", None), "co_names", ())}
        values = {name: value for name, value in self.names.items() if not isinstance(value, ModuleType)}
        numbers = {name for name, one in values.items() if isinstance(one, Number) or getattr(one, "ndim", 1) == 0}
        return bool(used & numbers) or any(map(CONTROL.search, values))

    def scale(self) -> tuple[float, float] | None:
        """Factor and offset that make the images, as the network gets them, of pixels in [0, 1]."""
        model, f, images = self.names["model"], self.names.get("activations"), self.images("first")
        if not isinstance(model, nn.Module) or not callable(f) or images is None:
            return None
        got: list[Tensor] = []
        handle = model.register_forward_pre_hook(lambda _, inputs: got.append(as_tensor(inputs[0]).double()))
        try:
            call(f, model, images[:64], on="`first`")
        except InputError:
            return None
        finally:
            handle.remove()
        spread = (got[0].max() - got[0].min()).item() if got else 0.0
        return (spread, got[0].min().item()) if spread else None

    def sets(self) -> tuple[list[Split], list[Split]]:
        """Test and training images that the accuracy may be of: the full set, if it is here, and the program's own."""
        full = _read_unpacked(data_root() / "MNIST" / "raw")
        tests, trains = ([full.test], [embedded().train, full.train]) if full else ([], [embedded().train])
        for value in self.names.values():
            if isinstance(value, Mnist):
                tests.append(value.test)
                trains.append(value.train)
            images, targets = getattr(value, "data", None), getattr(value, "targets", None)
            if isinstance(images, Tensor) and isinstance(targets, Tensor) and images.shape[1:] == (28, 28):
                split = Split(images[:, None].float() / 255, targets)
                (trains if getattr(value, "train", False) else tests).append(split)
        return tests, trains
