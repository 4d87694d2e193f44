"""Points by a rubric; a page for each student; a table of the class. Loads no torch."""

import csv
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

import lab
from lab.errors import InputError, check_choice, require
from lab.files import fill_template
from lab.review.feedback import Feedback, Finding, Level, knowledge
from lab.review.running import Outcome

COLUMNS = ["file", "points", "passed", "network", "training", "pairs", "measure", "conclusion", "error", "seconds"]


@dataclass(frozen=True)
class Rubric:
    """How feedback becomes points.

    Attributes:
        points: task -> its most points.
        deductions: mistake -> what it costs, in points; one that is absent costs all of its task or part.
        not_looked_at: the share that counts of a task that was not looked at, in [0, 1].
    """

    points: Mapping[str, float]
    deductions: Mapping[str, float]
    not_looked_at: float

    @property
    def most(self) -> float:
        """The points of a submission without a mistake."""
        return sum(self.points.values())

    def grade(self, feedback: Sequence[Feedback]) -> float:
        """Points in [0, most]; parts of the same task share its points.

        Examples:
            >>> from lab.review.feedback import Feedback, Finding
            >>> from lab.review.grading import Rubric
            >>> right = Feedback("measure", seen=("100 pairs",))
            >>> wrong = Feedback("pairs", findings=(Finding("wrapped", "In 3 of 64 pairs."),))
            >>> Rubric({"pairs": 3.0, "measure": 4.0}, {"wrapped": 1.0}, 0.0).grade([right, wrong])
            6.0
        """
        parts = Counter(one.task for one in feedback)
        return round(sum((self._earned(one, self.points[one.task] / parts[one.task]) for one in feedback), 0.0), 2)

    def _earned(self, one: Feedback, most: float) -> float:
        if not one.findings and not one.seen:
            return most * self.not_looked_at
        return max(0.0, most - sum(self.deductions.get(mistake, most) for mistake in one.mistakes))


def read_rubric(path: Path | None = None) -> Rubric:
    """Read a rubric from a TOML file, by default the lab's own; what it leaves out is as there.

    Raises:
        InputError: no such file, no TOML, an unknown task or mistake, or points that are no number.
    """
    usual = tomllib.loads(resources.files("lab.review").joinpath("rubric.toml").read_text(encoding="utf-8"))
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8")) if path else {}
    except (OSError, ValueError) as error:
        raise InputError(f"the rubric {path} cannot be read: {error}") from None
    _check_rubric(found, {"points": usual["points"], "deductions": knowledge()["mistakes"], "not_looked_at": ""})
    points, deductions = ({**usual[key], **found.get(key, {})} for key in ("points", "deductions"))
    share = found.get("not_looked_at", usual["not_looked_at"])
    return Rubric(_floats(points), _floats(deductions), float(share))


def _check_rubric(found: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    for key, value in found.items():
        check_choice("a key of the rubric", key, known)
        for name, number in value.items() if isinstance(value, dict) else [(key, value)]:
            check_choice(f"what the rubric says on {key}", name, known[key] or [key])
            most = 1 if key == "not_looked_at" else 1000
            fits = type(number) in (int, float) and 0 <= number <= most
            require(fits, f"{name} in the rubric must be a number from 0 to {most}: {number!r}")


def _floats(numbers: Mapping[str, int | float]) -> dict[str, float]:
    return {name: float(number) for name, number in numbers.items()}


@dataclass(frozen=True)
class Graded:
    """A submission with its points.

    Attributes:
        file: its path.
        digits: which digits it was run on.
        outcome: what came of it.
        feedback: the review, a task each; empty if it did not come to that.
        points: by the rubric.
    """

    file: str
    digits: str
    outcome: Outcome
    feedback: Sequence[Feedback]
    points: float

    @property
    def passed(self) -> bool:
        """Whether each task was looked at and holds no mistake."""
        return bool(self.feedback) and all(one.passed for one in self.feedback)

    @property
    def mistakes(self) -> list[str]:
        """The stable names of all mistakes, as often as they were made."""
        return [mistake for one in self.feedback for mistake in one.mistakes]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        plain = {"file": self.file, "passed": self.passed, "points": self.points, "digits": self.digits}
        return plain | asdict(self.outcome)

    def row(self) -> list[str]:
        """A cell for each of `COLUMNS`."""
        found = {"file": self.file, "points": f"{self.points:g}", "passed": "yes" if self.passed else "no"}
        found |= {"error": self.outcome.error or "", "seconds": f"{self.outcome.seconds:g}"}
        for one in self.feedback:
            said = " ".join(one.mistakes) or ("right" if one.seen else "not looked at")
            found[one.task] = "; ".join(filter(None, [found.get(one.task), f"{one.subject} {said}".strip()]))
        return [found.get(column, "") for column in COLUMNS]


def grade(file: str, digits: str, outcome: Outcome, rubric: Rubric) -> Graded:
    """A submission with its points."""
    found = []
    for one in outcome.feedback:
        findings = tuple(map(Finding, one["mistakes"], one["did"]))
        found.append(Feedback(one["task"], one["subject"], findings, tuple(one["seen"]), tuple(one["unseen"])))
    return Graded(file, digits, outcome, found, rubric.grade(found))


def to_csv(graded: Sequence[Graded]) -> str:
    """A row a submission, for a spreadsheet; no cell can be taken for a formula."""
    text = StringIO()
    cells = [[f"'{cell}" if cell.startswith(("=", "+", "-", "@")) else cell for cell in one.row()] for one in graded]
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *cells])
    return text.getvalue()


def student_page(one: Graded, rubric: Rubric, level: Level, solution: bool) -> str:
    """All that a student should know, as one page that needs no other file."""
    texts = [feedback.text(level) + (f"\n\n{feedback.solution()}" if solution else "") for feedback in one.feedback]
    return _page("student.html", {"one": one, "most": rubric.most, "texts": texts})


def class_page(graded: Mapping[str, Graded], rubric: Rubric) -> str:
    """Name of each page -> its submission, as a table; and which mistakes were made, how often."""
    counts = Counter(mistake for one in graded.values() for mistake in set(one.mistakes)).most_common()
    rows = [(one, f"{quote(name)}.html", one.row()) for name, one in graded.items()]
    titled = [(count, mistake, knowledge()["mistakes"][mistake]["title"]) for mistake, count in counts]
    return _page("class.html", {"rows": rows, "columns": COLUMNS, "mistakes": titled, "most": rubric.most})


def _page(template: str, values: dict[str, Any]) -> str:
    from markdown_it import MarkdownIt  # which only pages need

    reader = MarkdownIt("commonmark", {"html": False}).disable("image")  # which would ask another host
    shown = {"markdown": lambda text: Markup(reader.render(text)), "version": lab.__version__}
    return fill_template("lab.review", template, values | shown)
