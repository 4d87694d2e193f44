"""What a review says: findings, each a mistake with a stable name, in three levels of detail. Loads no torch."""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Literal, get_args

from lab.errors import check_choice

Level = Literal["nudge", "hint", "explanation"]
LEVELS: tuple[Level, ...] = get_args(Level)


@cache
def knowledge() -> Mapping[str, Any]:
    """All that `mistakes.toml` holds: `mistakes`, `patterns`, `bounds`, `choices` and `names`."""
    return tomllib.loads(resources.files("lab.review").joinpath("mistakes.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Finding:
    """A mistake.

    Attributes:
        mistake: its stable name, such as `"unmatched"`.
        did: what the student did, with the student's numbers.
    """

    mistake: str
    did: str

    @property
    def texts(self) -> Mapping[str, str]:
        """What is said about the mistake: `title`, `nudge`, `hint`, `explanation`, `see`, `read` and `solution`."""
        found: Mapping[str, str] = knowledge()["mistakes"][self.mistake]
        return found

    def text(self, level: Level = "nudge") -> str:
        """Markdown: what was done, and a question to think about; or more, at a higher level."""
        texts = self.texts
        parts = [f"**{texts['title']}.** {self.did}", texts["nudge"]]
        if level != "nudge":
            parts += [texts["hint"], f"```python\n{texts['see'].strip()}\n```"]
        if level == "explanation":
            parts += [texts["explanation"], f"Read: {texts['read']}"]
        return "\n\n".join(part.strip() for part in parts)


@dataclass(frozen=True)
class Feedback:
    """The review of one task.

    Attributes:
        task: `"network"`, `"training"`, `"pairs"`, `"measure"` or `"conclusion"`.
        subject: which function was reviewed, such as `"equivariance"`; else empty.
        findings: the mistakes, the cause first.
        seen: what was looked at, and is right.
        unseen: what was not looked at, and why.

    Examples:
        >>> from lab import review
        >>> feedback = review.Feedback("pairs", findings=(review.Finding("wrapped", "In 3 of 64 pairs."),))
        >>> feedback.passed, feedback.mistakes
        (False, ('wrapped',))
    """

    task: str
    subject: str = ""
    findings: tuple[Finding, ...] = ()
    seen: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether something was looked at, and no mistake was found."""
        return bool(self.seen) and not self.findings

    @property
    def mistakes(self) -> tuple[str, ...]:
        """The stable names of the mistakes."""
        return tuple(finding.mistake for finding in self.findings)

    def text(self, level: Level = "nudge") -> str:
        """The whole feedback as Markdown.

        Raises:
            InputError: an unknown level.
        """
        check_choice("level", level, LEVELS)
        title = f"### {self.task}" + (f": `{self.subject}`" if self.subject else "")
        parts = [title, *(finding.text(level) for finding in self.findings)]
        rest = "Not looked at" if self.seen or self.findings else "Nothing to look at yet"
        parts += [_listed("Looked at, and right", self.seen), _listed(rest, self.unseen)]
        return "\n\n".join(filter(None, parts))

    def solution(self) -> str:
        """How to do it right, for each mistake that was found."""
        return "\n\n".join(f"**{one.texts['title']}.**\n\n{one.texts['solution'].strip()}" for one in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; `texts` holds what is said about each mistake, without the solution."""
        texts = {one.mistake: {k: v for k, v in one.texts.items() if k != "solution"} for one in self.findings}
        found: dict[str, Any] = {"task": self.task, "subject": self.subject, "passed": self.passed}
        found |= {"mistakes": [*self.mistakes], "did": [one.did for one in self.findings]}
        return found | {"seen": [*self.seen], "unseen": [*self.unseen], "texts": texts}

    def __str__(self) -> str:
        return self.text()

    def _repr_markdown_(self) -> str:
        more = "For more: `.text('hint')`, `.text('explanation')`; the way out: `.solution()`."
        return f"{self.text()}\n\n{more}" if self.findings else self.text()


def _listed(title: str, sentences: tuple[str, ...]) -> str:
    return f"{title}:\n\n" + "\n".join(f"- {one}" for one in sentences) if sentences else ""


@dataclass
class Notes:
    """What a review writes down while it looks; see `Feedback`."""

    task: str
    subject: str = ""
    findings: list[Finding] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)

    def find(self, mistake: str, did: str) -> None:
        """A mistake was made; of two of one name, the first is kept."""
        if mistake not in [one.mistake for one in self.findings]:
            self.findings.append(Finding(mistake, did))

    def feedback(self) -> Feedback:
        """All of it."""
        return Feedback(self.task, self.subject, tuple(self.findings), tuple(self.seen), tuple(self.unseen))


@dataclass(frozen=True)
class Review:
    """The review of a whole program: one feedback for each task, `measure` twice."""

    feedback: tuple[Feedback, ...]

    def __iter__(self) -> Iterator[Feedback]:
        return iter(self.feedback)

    @property
    def passed(self) -> bool:
        """Whether every task passed."""
        return all(one.passed for one in self.feedback)

    def text(self, level: Level = "nudge") -> str:
        """All of it as Markdown."""
        return "\n\n".join(one.text(level) for one in self.feedback)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"passed": self.passed, "feedback": [one.to_dict() for one in self.feedback]}

    def __str__(self) -> str:
        return self.text()

    def _repr_markdown_(self) -> str:
        return "\n\n".join(one._repr_markdown_() for one in self.feedback)
