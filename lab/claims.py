"""Theory against observation: a claim says what must be seen and what its control must show, `check` judges."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from lab.errors import ClaimError, require
from lab.files import finite, html_table

if TYPE_CHECKING:  # claims load no torch
    import lab.data

SIGNS = {"==": "", "<=": "≤ ", ">=": "≥ "}
KINDS = {
    "exact": "theory gives the value; the tolerance is derived from rounding",
    "empirical": "the bound was set after a pilot run",
    "by construction": "true whatever was measured: a check of the code",
}


@dataclass(frozen=True)
class Control:
    """The measurement that must come out differently, or the claim shows nothing.

    Attributes:
        what: what was measured, such as `"unrelated images"`.
        observed: its value, in the claim's unit.
        relation: how it has to compare with `bound`.
        bound: the stated margin.
    """

    what: str
    observed: float
    relation: Literal["<=", ">="]
    bound: float

    def __post_init__(self) -> None:
        require(self.relation in ("<=", ">="), f"{self.what}: a control's relation must be <= or >=: {self.relation!r}")
        require(math.isfinite(self.bound), f"{self.what}: the bound of a control must be a finite number: {self.bound}")

    @property
    def holds(self) -> bool:
        """Whether the control came out as it has to; never for nan."""
        return self.observed <= self.bound if self.relation == "<=" else self.observed >= self.bound


@dataclass(frozen=True)
class Claim:
    """One quantitative sentence that a run can refute.

    Attributes:
        name: what is observed where, such as `"trained conv1: equivariance error on the overlap"`.
        theory: what theory says, in words.
        predicted: the value, or the bound, that theory gives.
        observed: the measured value.
        controls: the measurements that must come out differently, at least one.
        relation: how `observed` has to compare with `predicted`.
        tolerance: how far `observed` may miss, in its own unit.
        why: the reason for the tolerance, or for the bound.
        kind: where predicted value and tolerance come from: `"exact"`, from theory and rounding; `"empirical"`, a bound
            that was set after a pilot run; `"by construction"`, true whatever is measured: a check of the code.
        n: how many values `observed` summarises, such as images × shifts; `None` where it is a single value.

    Examples:
        >>> from lab import Claim, Control
        >>> control = Control("unrelated images", 1.02, ">=", 0.5)
        >>> Claim("relu", "exact", 0.0, 0.0, (control,), why="pointwise", kind="exact", n=64).verdict
        'agree'
    """

    name: str
    theory: str
    predicted: float
    observed: float
    controls: tuple[Control, ...]
    relation: Literal["==", "<=", ">="] = "=="
    tolerance: float = 0.0
    why: str = ""
    kind: Literal["exact", "empirical", "by construction"] = field(kw_only=True)
    n: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        require(self.kind in KINDS, f"{self.name}: the kind must be one of {', '.join(KINDS)}: {self.kind!r}")
        require(self.n is None or self.n > 0, f"{self.name}: a claim over no value shows nothing: n={self.n}")
        bound = self.relation != "=="
        require(not bound or self.kind != "exact", f"{self.name}: an exact claim predicts no bound: {self.relation}")
        require(self.relation in SIGNS, f"{self.name}: the relation of a claim must be ==, <= or >=: {self.relation!r}")
        require(self.controls, f"{self.name}: a claim without a control shows nothing")
        fit = 0 <= self.tolerance < math.inf and math.isfinite(self.predicted)
        require(fit, f"{self.name}: tolerance must be at least 0 and predicted a finite number: {self}")
        require(self.why or not (bound or self.tolerance), f"{self.name}: a tolerance or bound needs a reason in `why`")

    @property
    def verdict(self) -> Literal["agree", "disagree", "no control", "degenerate"]:
        """`agree` only where observation fits theory and the control shows that it need not have.

        `degenerate` is nan: the layer is zero, or its output is always the same, which shows nothing.
        """
        if math.isnan(self.observed):
            return "degenerate"
        excess = self.observed - self.predicted
        distance = {"==": abs(excess), "<=": excess, ">=": -excess}[self.relation]
        if distance > self.tolerance:
            return "disagree"
        return "agree" if all(control.holds for control in self.controls) else "no control"

    def to_dict(self) -> dict[str, Any]:
        """The claim, its controls and its verdict as plain values for JSON; nan and infinities as strings."""
        record = asdict(self) | {"verdict": self.verdict}
        for part in (record, *record["controls"]):
            part["observed"] = finite(part["observed"])
        return record


@dataclass(frozen=True)
class Verdicts:
    """Judged claims, and what they were measured with: the name and SHA-256 of the data, and the seeds."""

    claims: tuple[Claim, ...]
    data: str = ""
    sha256: str = ""
    seeds: tuple[int, ...] = ()

    @property
    def failed(self) -> tuple[Claim, ...]:
        """The claims that do not agree."""
        return tuple(claim for claim in self.claims if claim.verdict != "agree")

    def to_html(self) -> str:
        """A table for a page: *claim | theory | observed | control | kind | verdict*."""
        return html_table(COLUMNS, map(cells, self.claims))

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        """The table for a notebook, and the claims as data for programs that read its outputs."""
        origin = {"data": self.data, "sha256": self.sha256, "seeds": list(self.seeds)}
        return {"text/html": self.to_html(), MIME_TYPE: origin | {"claims": self.to_dict()}}

    def to_dict(self) -> list[dict[str, Any]]:
        """For programs: one record for each claim."""
        return [claim.to_dict() for claim in self.claims]


MIME_TYPE = "application/vnd.equivariance-lab.claims+json"
COLUMNS = ("Claim", "Theory", "Observed", "Control", "Kind", "Verdict")


def check(
    claims: Iterable[Claim], *, strict: bool = True, data: "lab.data.Mnist | None" = None, seeds: Sequence[int] = ()
) -> Verdicts:
    """Judge claims.

    Args:
        claims: at least one.
        strict: raise if one does not agree; else the caller looks at `failed`.
        data: the set that they were measured on, which is recorded with them.
        seeds: all that they depend on; recorded too.

    Raises:
        InputError: no claim.
        ClaimError: theory and observation disagree, or a control does not hold; says which, with the values.
    """
    verdicts = Verdicts(tuple(claims), data.name if data else "", data.sha256 if data else "", tuple(seeds))
    require(verdicts.claims, "there must be at least one claim")
    if strict and verdicts.failed:
        raise ClaimError("; ".join(map(describe, verdicts.failed)))
    return verdicts


def describe(claim: Claim) -> str:
    """A claim in one line, with its values."""
    predicted = f"predicted {claim.relation} {claim.predicted:.3g} ± {claim.tolerance:.3g}"
    controls = (f"control {c.what} {c.observed:.3g}, must be {c.relation} {c.bound:.3g}" for c in claim.controls)
    note = " (the layer is zero, or its output is always the same)" if claim.verdict == "degenerate" else ""
    return f"{claim.name}: {claim.verdict}{note}: observed {claim.observed:.3g}, {predicted}; {'; '.join(controls)}"


def cells(claim: Claim) -> tuple[str, ...]:
    """A claim as a row of `COLUMNS`."""
    tolerance = f" ± {claim.tolerance:.2g}" if claim.tolerance else ""
    theory = f"{claim.theory}: {SIGNS[claim.relation]}{claim.predicted:.3g}{tolerance}"
    controls = "; ".join(f"{c.what} {c.observed:.3g} ({SIGNS[c.relation]}{c.bound:.3g})" for c in claim.controls)
    observed = f"{claim.observed:.3g}" + (f" (n = {claim.n:,})" if claim.n else "")
    return claim.name, theory, observed, controls, claim.kind, claim.verdict
