"""What to do about what the meter found: one remedy for each cause, at the first layer that has it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lab.metering.operations import TIED
from lab.metering.receptive_fields import LayerGeometry
from lab.metering.theory import divides

PAGE = "walkthroughs/13_what_helps.html#what-should-you-do"  # below the course's own address, which nobody knows here
VISIBLE = 1e-3  # a border error below is rounding, or nothing to act upon


@dataclass(frozen=True)
class Remedy:
    """A cause, where it comes in, and what removes it.

    Attributes:
        cause: `"head"`, a linear layer that tells positions apart; `"stride"`, positions that are skipped; `"border"`,
            windows that reach beyond the image; `"position"`, values that belong to a place.
        layer: the first layer, in running order, at which it shows.
        what: to do, the first try first.
        page: of the course, with the section that measures what it gains and costs.
    """

    cause: Literal["head", "stride", "border", "position"]
    layer: str
    what: str
    page: str = PAGE

    def __str__(self) -> str:
        return f"{self.layer or '(output)'}, {self.cause}: {self.what}"


def find_remedies(rows: Sequence[Any], geometry: Mapping[str, LayerGeometry]) -> tuple[Remedy, ...]:
    """The remedies for rows that are not exact, of a [report][lab.metering.report.Report]; each cause once.

    Examples:
        >>> import torch, lab
        >>> report = lab.meter(lab.build_model("pooled", seed=0), torch.rand(4, 1, 28, 28), [(1, 0)])
        >>> [remedy.cause for remedy in report.remedies]
        ['stride', 'head']
    """
    found: dict[str, Remedy] = {}
    for row in rows:
        if row.observed == "not exact":
            for remedy in _of(row, geometry[row.layer]):
                found.setdefault(remedy.cause, remedy)
    return tuple(found.values())


def _of(row: Any, layer: LayerGeometry) -> Iterator[Remedy]:
    facts, t = layer.facts, (row.dy, row.dx)
    if any(facts.positions):
        marked = next(filter(None, facts.positions))
        what = f"{marked} says where a value is: keep it if the task asks where; else make it the same at all positions"
        yield Remedy("position", row.layer, what)
    if any(facts.weighed) and not facts.ties >= TIED:
        what = f"pool over all positions before {facts.head}; if it cannot change, train on images that move"
        yield Remedy("head", row.layer, what)
    if facts.subsampling and not divides(facts.period, t):
        what = f"blur before {facts.subsampling}, choose its grid by the image (adaptive polyphase), or use stride 1"
        yield Remedy("stride", row.layer, what)
    if row.border > VISIBLE and divides(facts.period, t):
        what = "use a larger input, crop the outputs to the interior, or pad with what continues the image"
        yield Remedy("border", row.layer, what)
