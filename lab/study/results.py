"""What a study found: records by setting, tidy rows, a table, and the comparisons."""

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import StringIO
from typing import Any

import torch
from jaxtyping import Float64
from rich.markup import escape
from rich.table import Column, Table
from torch import Tensor

from lab.errors import InputError, require
from lab.metrics import cohen_kappa
from lab.study.networks import CLASSES, Setting
from lab.study.plans import Study
from lab.study.runs import Record
from lab.study.statistics import Comparison, Interval, compare, interval, ranking_stability

SCHEMA = "equivariance-lab/study/1"
QUANTITIES = "accuracy", "moved", "consistency", "kappa"
SHARES = "In per cent of the digits: right in place, right when moved, of one class at both places (κ: beyond chance)."


@dataclass(frozen=True)
class Numbers:
    """What a record comes to.

    Attributes:
        accuracy: share of the test digits, as they are, that are classified right.
        moved: the same of digits moved once each, all their ink inside.
        consistency: share of digits that get the same class at both places.
        kappa: the same beyond chance.
    """

    accuracy: float
    moved: float
    consistency: float
    kappa: float


def numbers(record: Record) -> Numbers:
    """Shares in [0, 1], and Cohen's κ, at most 1."""
    labels, in_place, moved = (torch.tensor(list(map(int, each))) for each in texts(record))
    one_hot = [torch.nn.functional.one_hot(each, CLASSES).double() for each in (in_place, moved)]
    shares = [(each == truth).double().mean().item() for each, truth in ((in_place, labels), (moved, labels))]
    consistency, kappa = (in_place == moved).double().mean().item(), cohen_kappa(*one_hot)
    return Numbers(shares[0], shares[1], consistency, kappa)


def texts(record: Record) -> tuple[str, str, str]:
    """Labels, and the classes predicted in place and elsewhere."""
    return record.labels, record.in_place, record.moved


def right(record: Record, *, moved: bool = False) -> list[bool]:
    """Of each test digit, whether it is classified right."""
    found = record.moved if moved else record.in_place
    return [a == b for a, b in zip(record.labels, found, strict=True)]


@dataclass(frozen=True)
class StudyResult:
    """All records of a study.

    Attributes:
        study: what was asked.
        records: in its order, also those that failed.
        data: name of the data set.
        sha256: its digest.
        version: digest of the code.
    """

    study: Study
    records: tuple[Record, ...]
    data: str
    sha256: str
    version: str

    @property
    def failed(self) -> tuple[Record, ...]:
        """The records of runs that failed."""
        return tuple(record for record in self.records if record.failure)

    def of(self, **factors: Any) -> tuple[Record, ...]:
        """The records, of runs that did not fail, whose setting has these values.

        Raises:
            InputError: there is none.
        """
        known = set(asdict(Setting()))
        require(set(factors) <= known, f"factors must be of {', '.join(sorted(known))}: {', '.join(factors)}")
        good = [record for record in self.records if not record.failure]
        found = [one for one in good if all(getattr(one.setting, name) == value for name, value in factors.items())]
        if not found:
            raise InputError(f"no run of the study {self.study.name} has {factors}")
        return tuple(found)

    def interval(self, quantity: str, **factors: Any) -> Interval:
        """Mean and interval over the runs that have these values: `accuracy`, `moved`, `consistency`, `kappa`."""
        return interval([getattr(numbers(record), quantity) for record in self.of(**factors)])

    def compare(self, first: dict[str, Any], second: dict[str, Any], *, moved: bool = False) -> Comparison:
        """The second setting against the first, on the same digits: as they are, or moved once each.

        Raises:
            InputError: the two have not as many runs.
        """
        return compare(*([right(one, moved=moved) for one in self.of(**factors)] for factors in (first, second)))

    def ranking(self, quantity: str) -> list[tuple[Setting, Interval]]:
        """The settings, the best one first."""
        each = [(setting, self.interval(quantity, **asdict(setting))) for setting in self._done()]
        return sorted(each, key=lambda pair: -pair[1].mean)

    def stability(self, quantity: str) -> float:
        """How alike the seeds rank the settings: [Kendall's τ][lab.study.statistics.ranking_stability]."""
        found = [[getattr(numbers(record), quantity) for record in self.of(**asdict(one))] for one in self._done()]
        whole = [shares for shares in found if len(shares) == self.study.seeds]
        return ranking_stability(whole)

    def map_of(self, name: str, **factors: Any) -> Float64[Tensor, "17 17"]:
        """`accuracy` or `agreement` at every shift up to ±8 px, entry `[8 + dy, 8 + dx]`: mean over such runs."""
        maps = [getattr(record, name) for record in self.of(**factors)]
        return torch.tensor(maps, dtype=torch.float64).mean(0)

    def seconds(self, **factors: Any) -> float:
        """Mean of the training's."""
        found = self.of(**factors)
        return sum(record.seconds["training"] for record in found) / len(found)

    def _done(self) -> list[Setting]:
        """The settings of which at least one run did not fail."""
        done = {record.setting for record in self.records if not record.failure}
        return [setting for setting in self.study.settings if setting in done]

    def rows(self) -> list[dict[str, Any]]:
        """Tidy: one row for each run, one column for each factor and quantity."""
        rows = []
        for record in self.records:
            found = dict.fromkeys(QUANTITIES, "") if record.failure else asdict(numbers(record))
            spent = {name: record.seconds.get(name, "") for name in ("training", "measuring")}
            more = {"parameters": record.parameters, **spent, "failure": record.failure}
            rows.append({**asdict(record.setting), "seed": record.seed, **found, **more})
        return rows

    def to_csv(self) -> str:
        """The rows under the names of the columns."""
        text, rows = StringIO(), self.rows()
        writer = csv.DictWriter(text, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values for JSON: the study, the origin, every record."""
        origin = {"data": self.data, "sha256": self.sha256, "version": self.version}
        study = {"study": self.study.to_dict(), **origin}
        return {"schema": SCHEMA, **study, "records": [record.to_dict() for record in self.records]}

    def table(self) -> Table:
        """For a terminal of 80 columns: a row for each setting, mean and 95 % interval over the seeds."""
        factors = self.study.factors
        varied = [name for name, values in factors.items() if len(values) > 1] or list(factors)
        heads = [Column(name, justify="right", no_wrap=True) for name in ("In place", "Moved", "Alike", "κ", "Seconds")]
        title = f"{self.study.title} {self.data}, {self.study.seeds} seeds"
        left: Any = {"title_justify": "left", "caption_justify": "left"}
        table = Table(", ".join(varied), *heads, title=escape(title), caption=self._caption(varied), **left)
        for setting in self._done():
            values = asdict(setting)
            found = [self.interval(quantity, **values) for quantity in QUANTITIES]
            shares = [f"{100 * one.mean:.1f}\n{100 * one.low:.1f}–{100 * one.high:.1f}" for one in found[:-1]]
            kappa = f"{found[-1].mean:.2f}\n{found[-1].low:.2f}–{found[-1].high:.2f}"
            named = ", ".join(str(values[factor]) for factor in varied)
            table.add_row(escape(named), *shares, kappa, f"{self.seconds(**values):.1f}")
        return table

    def _caption(self, varied: Sequence[str]) -> str:
        lines = [SHARES, "Below each mean its 95 % bootstrap interval over the seeds. Seconds: of training, on a core."]
        if same := [f"{name} {values[0]}" for name, values in self.study.factors.items() if name not in varied]:
            lines.append(f"The same for all: {', '.join(same)}.")
        if self.failed:
            lines.append(f"{len(self.failed)} of {len(self.records)} runs failed: {self.failed[0].failure}")
        elif self.study.seeds > 1 and len(self._done()) > 1:
            tau = f"τ = {self.stability('moved'):.2f} (1 is the same order)"
            lines.append(f"Moved digits rank the settings alike from seed to seed: {tau}.")
        return escape("\n".join(lines))
