"""Predictions and quizzes: the fences `predict`, `observed` and `quiz` of a walkthrough, read, checked and rendered.

A prediction hides all that stands between its question and the `observed` that ends it, until the reader has answered.
Without scripts that is a fold, and a quiz shows its reasons by style alone; `docs/javascripts/questions` does the rest.
"""

import hashlib
import html
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import yaml
from execution import WalkthroughError

FENCE = re.compile(r"^```(predict|observed|quiz)[ \t]*\n(.*?)^```[ \t]*$\n?", re.M | re.S)
OPENED = re.compile(r"^`{3,}\s*(predict|observed|quiz)\b", re.M)
ANY_FENCE = re.compile(r"^(`{3,}).*?^\1`*[ \t]*$", re.M | re.S)
HEADING = re.compile(r"^#{1,6} ", re.M)
ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
KEYS = {
    "predict": {"id", "question", "choices", "number"},
    "observed": {"id", "right", "value", "within", "reason"},
    "question": {"question", "choices"},
    "choice": {"text", "right", "why"},
    "number": {"unit", "places"},
}


@dataclass(frozen=True)
class Place:
    """Where a fence begins; its errors name that line."""

    source: str
    line: int

    def error(self, reason: str, lines: int = 0) -> WalkthroughError:
        """An error in the line that stands so many lines further down."""
        return WalkthroughError(f"{self.source}:{self.line + lines}: {reason}")


@dataclass(frozen=True)
class Predict:
    """A question that comes before what is observed; its answer is a choice, or where there are none, a number."""

    place: Place
    id: str
    question: str
    choices: list[str]
    unit: str = ""
    places: str = ""


@dataclass(frozen=True)
class Observed:
    """What ends the hidden part of a prediction: the right choice or the value, and the reason."""

    predict: Predict
    reason: str
    right: int = 0
    value: str = ""
    low: str = ""
    high: str = ""


@dataclass(frozen=True)
class Choice:
    """One answer of a quiz question."""

    text: str
    right: bool
    why: str


@dataclass(frozen=True)
class Quiz:
    """Questions with one right answer each; `first` is the number of the first on its page."""

    first: int
    questions: list[tuple[str, list[Choice]]]


Piece = str | Predict | Observed | Quiz


@dataclass
class Asked:
    """What a page asks: for each Markdown cell its pieces, by the number of the cell."""

    pieces: dict[int, list[Piece]] = field(default_factory=dict)

    def all(self, kind: type) -> list[Any]:
        """All pieces of a kind, in order."""
        return [piece for pieces in self.pieces.values() for piece in pieces if isinstance(piece, kind)]

    @property
    def count(self) -> int:
        """How many predictions and questions there are."""
        return len(self.all(Predict)) + sum(len(quiz.questions) for quiz in self.all(Quiz))

    @property
    def edition(self) -> str:
        """A digest of the questions and their choices: answers to others do not count."""
        predictions = [[each.id, each.question, each.choices, each.unit] for each in self.all(Predict)]
        quizzes = [[text, [c.text for c in choices]] for quiz in self.all(Quiz) for text, choices in quiz.questions]
        return hashlib.sha256(json.dumps([predictions, quizzes]).encode()).hexdigest()[:12]


def read(notebook: Any, source: str) -> Asked:
    """The questions of an executed notebook; `source` is how messages name it.

    Raises:
        WalkthroughError: a fence is malformed, or a prediction and its `observed` do not belong together.
    """
    asked, reader = Asked(), _Reader(source)
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            asked.pieces[number] = list(reader.pieces(cell.source, cell.metadata["line"]))
    if reader.open:
        raise reader.open.place.error(f"the prediction {reader.open.id!r} has no `observed`")
    return asked


class _Reader:
    """Goes through the Markdown of a page in order, and knows which prediction is open."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.open: Predict | None = None
        self.ids: set[str] = set()
        self.questions = 0

    def pieces(self, text: str, line: int) -> Iterator[Piece]:
        end = 0
        for match in FENCE.finditer(text):
            yield self._prose(text, end, match.start(), line)
            place = Place(self.source, line + text[: match.start()].count("\n"))
            content = _content(match[2], place)
            yield {"predict": self._predict, "observed": self._observed, "quiz": self._quiz}[match[1]](content, place)
            end = match.end()
        yield self._prose(text, end, len(text), line)

    def _prose(self, text: str, start: int, end: int, line: int) -> str:
        """Markdown between fences; in a hidden part it has no heading."""
        prose = text[start:end]
        without_code = ANY_FENCE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), prose)
        at = Place(self.source, line + text[:start].count("\n"))
        if found := OPENED.search(prose):
            raise at.error(f"the fence `{found[1]}` has no end", prose[: found.start()].count("\n"))
        if self.open and (found := HEADING.search(without_code)):
            lines = prose[: found.start()].count("\n")
            raise at.error(f"a heading stands in the hidden part of the prediction {self.open.id!r}", lines)
        return prose

    def _predict(self, content: Any, place: Place) -> Predict:
        given = _mapping(content, "predict", place)
        name = _id(given, place)
        if self.open:
            raise place.error(f"the prediction {name!r} stands inside the prediction {self.open.id!r}")
        if name in self.ids:
            raise place.error(f"two predictions have the id {name!r}")
        if ("choices" in given) == ("number" in given):
            raise place.error("a prediction has either `choices` or `number`")
        number = {key: str(text) for key, text in _mapping(given.get("number") or {}, "number", place).items()}
        if not number.get("places", "0").isdecimal():
            raise place.error(f"`places` is a whole number, not {number['places']!r}")
        choices = _list(given, "choices", place) if "choices" in given else []
        choices = [_line(choice, "choice", place) for choice in choices]
        question = _line(given.get("question"), "question", place)
        self.open = Predict(place, name, question, choices, number.get("unit", ""), number.get("places", ""))
        self.ids.add(name)
        return self.open

    def _observed(self, content: Any, place: Place) -> Observed:
        given = _mapping(content, "observed", place)
        name, predict = _id(given, place), self.open
        if predict is None or predict.id != name:
            opened = f"the prediction that is open is {predict.id!r}" if predict else "no prediction is open"
            raise place.error(f"`observed` ends the prediction {name!r}, but {opened}")
        self.open = None
        reason = given.get("reason")
        if not isinstance(reason, str) or not reason.strip():
            raise place.error("`reason` is missing")
        if predict.choices:
            return _observed_choice(predict, given, reason.strip(), place)
        return _observed_number(predict, given, reason.strip(), place)

    def _quiz(self, content: Any, place: Place) -> Quiz:
        if self.open:
            raise place.error(f"a quiz stands in the hidden part of the prediction {self.open.id!r}")
        questions = quiz(content, place)
        first = self.questions + 1
        self.questions += len(questions)
        return Quiz(first, questions)


def quiz(content: Any, place: Place) -> list[tuple[str, list[Choice]]]:
    """The questions of a quiz, and their choices.

    Raises:
        WalkthroughError: it is malformed.
    """
    if not isinstance(content, list) or not content:
        raise place.error("a quiz is a list of questions")
    return [_question(each, number, place) for number, each in enumerate(content, 1)]


def _content(text: str, place: Place) -> Any:
    """The YAML of a fence; every scalar is a string, so that a choice `1.0` or `yes` stays as it was written."""
    try:
        return yaml.load(text, yaml.BaseLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = " ".join(filter(None, (getattr(error, "problem", None), getattr(error, "context", None)))) or str(error)
        raise place.error(f"bad YAML: {what}", mark.line + 1 if mark else 0) from None


def _mapping(content: Any, kind: str, place: Place) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise place.error(f"`{kind}` holds names and values, such as `id: my-question`")
    if unknown := sorted(set(content) - KEYS[kind]):
        raise place.error(f"`{kind}` has no `{unknown[0]}`, only {', '.join(sorted(KEYS[kind]))}")
    return content


def _id(given: Mapping[str, Any], place: Place) -> str:
    name = given.get("id")
    if not isinstance(name, str) or not ID.fullmatch(name):
        raise place.error(f"`id` is {'missing' if not name else f'{name!r}, not small letters and hyphens'}")
    return name


def _line(text: Any, what: str, place: Place) -> str:
    """A text of one line, for inline Markdown."""
    if not isinstance(text, str) or not text.strip():
        raise place.error(f"a {what} is missing or is no text")
    return " ".join(text.split())


def _list(given: Mapping[str, Any], name: str, place: Place) -> list[Any]:
    found = given.get(name)
    if not isinstance(found, list) or len(found) < 2:
        raise place.error(f"`{name}` is a list of two or more")
    return found


def _observed_choice(predict: Predict, given: Mapping[str, str], reason: str, place: Place) -> Observed:
    right = str(given.get("right", ""))
    if not right.isdecimal() or not 1 <= int(right) <= len(predict.choices):
        raise place.error(f"`right` is the number of a choice, 1 to {len(predict.choices)}, not {right!r}")
    if "within" in given:
        raise place.error("`within` belongs to a `number`")
    return Observed(predict, reason, int(right), " ".join(str(given.get("value", "")).split()))


def _observed_number(predict: Predict, given: Mapping[str, str], reason: str, place: Place) -> Observed:
    if "right" in given:
        raise place.error("`right` belongs to `choices`")
    value, within = (_decimal(given, name, predict.unit, place) for name in ("value", "within"))
    if within < 0:
        raise place.error("`within` is negative")
    shown = given["value"].strip().removesuffix(predict.unit).strip()
    return Observed(predict, reason, 0, shown, f"{float(value - within):.6g}", f"{float(value + within):.6g}")


def _decimal(given: Mapping[str, str], name: str, unit: str, place: Place) -> Decimal:
    text = str(given.get(name, "")).strip()
    try:
        number = Decimal(text.removesuffix(unit).strip())
    except InvalidOperation:
        number = Decimal("nan")
    if not number.is_finite():
        raise place.error(f"`{name}` is {'missing' if not text else f'{text!r}, not a number'}")
    return number


def _question(content: Any, number: int, place: Place) -> tuple[str, list[Choice]]:
    given = _mapping(content, "question", place)
    text = _line(given.get("question"), "question", place)
    choices = [_choice(each, number, place) for each in _list(given, "choices", place)]
    if (right := sum(choice.right for choice in choices)) != 1:
        raise place.error(f"question {number} has {right} right choices, not one")
    return text, choices


def _choice(content: Any, number: int, place: Place) -> Choice:
    given = _mapping(content, "choice", place)
    said = str(given.get("right", "false"))
    if said not in ("true", "false"):
        raise place.error(f"question {number}: `right` is true or false, not {said!r}")
    right, why = said == "true", str(given.get("why", ""))
    if not right and not why.strip():
        raise place.error(f"question {number}: a wrong choice needs a `why`")
    return Choice(_line(given.get("text"), "choice", place), right, " ".join(why.split()))


# As Markdown of the page


def to_page(piece: Piece) -> str:
    """Markdown, with HTML that holds Markdown, as the site renders it."""
    if isinstance(piece, Predict):
        return _page_predict(piece)
    if isinstance(piece, Observed):
        return _page_observed(piece)
    return _page_quiz(piece) if isinstance(piece, Quiz) else piece


def amount(number: str, unit: str) -> str:
    """A number with its unit, which does not go to another line."""
    return f"{number}{unit}" if unit in ("", "%") else f"{number}\N{NO-BREAK SPACE}{unit}"


def _radio(name: str, number: int, text: str, kind: str = "") -> str:
    radio = f'<input type="radio" name="{name}" value="{number}"{kind}>'
    return f'<p class="ask-choice" markdown="span"><label>{radio} <span>{text}</span></label></p>'


def _actions(*parts: str) -> str:
    check = '<button type="button" class="ask-check">Check</button>'
    return f'<div class="ask-actions">{"".join(parts)}{check}</div>\n<p class="ask-verdict" role="status"></p>'


def _page_predict(piece: Predict) -> str:
    name = f"predict-{piece.id}"
    if piece.choices:
        fields = [_radio(name, number, choice) for number, choice in enumerate(piece.choices, 1)]
        fields.append(_actions())
    else:
        fields = [_actions(_number_field(piece, name))]
    return "\n".join(
        [
            f'\n<fieldset class="ask ask-predict" id="{name}" data-search-exclude markdown="1">',
            f'<legend markdown="span"><b class="ask-kind">Predict</b> <span>{piece.question}</span></legend>',
            *fields,
            "</fieldset>\n",
            '<details class="predict" markdown="1"><summary>Show what is observed</summary>\n',
        ]
    )


def _number_field(piece: Predict, name: str) -> str:
    hint = {"": "", "0": ", a whole number", "1": ", to one decimal place"}
    places = hint.get(piece.places, f", to {piece.places} decimal places")
    unit = f" <span>{html.escape(piece.unit)}</span>" if piece.unit else ""
    field = f'<input type="text" inputmode="text" name="{name}" size="8" autocomplete="off" spellcheck="false">'
    return f'<label class="ask-number">Your guess{places}: {field}{unit}</label>'


def _page_observed(piece: Observed) -> str:
    predict = piece.predict
    if predict.choices:
        shown = predict.choices[piece.right - 1] + (f" ({piece.value})" if piece.value else "")
        data = f'data-right="{piece.right}"'
    else:
        shown = amount(piece.value, predict.unit)
        data = f'data-low="{piece.low}" data-high="{piece.high}" data-value="{piece.value}"'
        data += f' data-unit="{html.escape(predict.unit)}"'
        counts = amount(f"{piece.low} to {piece.high}", predict.unit)
        shown += f"<small>{counts} counts as right</small>" if piece.low != piece.high else ""
    return "\n".join(
        [
            f'\n<div class="observed" id="observed-{predict.id}" {data} markdown="1">',
            '<div class="observed-values" markdown="1">',
            f'<p class="observed-value" markdown="span"><b class="ask-kind">Observed</b> <span>{shown}</span></p>',
            "</div>\n",
            f"{piece.reason}\n",
            "</div>\n",
            "</details>\n",
        ]
    )


def _page_quiz(piece: Quiz) -> str:
    lines = []
    for number, (question, choices) in enumerate(piece.questions, piece.first):
        name = f"quiz-{number}"
        lines += [
            f'\n<fieldset class="ask quiz" id="{name}" data-search-exclude markdown="1">',
            f'<legend markdown="span"><b class="ask-kind">{number}</b> <span>{question}</span></legend>',
        ]
        for place, choice in enumerate(choices, 1):
            verdict = "<b>✓ Right.</b>" if choice.right else "<b>✗ Not right.</b>"
            lines.append(_radio(name, place, choice.text, ' data-right=""' if choice.right else ""))
            why = choice.why[:1].upper() + choice.why[1:]
            lines.append(f'<p class="quiz-why" markdown="span">{verdict} {why}</p>')
        lines += [_actions(), "</fieldset>\n"]
    return "\n".join(lines)


def answers(asked: Asked, page: str) -> str:
    """The end of a page: the score, which the scripts fill in and show, and the buttons that erase answers."""
    if not asked.count:
        return ""
    return "\n".join(
        [
            f'\n<div class="answers" data-page="{page}" data-edition="{asked.edition}" data-search-exclude hidden>',
            '<p class="answers-score"></p>',
            '<p class="answers-erase"><button type="button" data-erase="page">Erase my answers on this page</button>',
            '<button type="button" data-erase="all">Erase my answers on all pages</button></p>',
            '<p class="answers-note">Your answers stay in this browser. <span role="status"></span></p>',
            "</div>\n",
        ]
    )


# As Markdown of the notebook that readers download


def to_notebook(piece: Piece) -> str:
    """Plain Markdown: questions as quotes and lists, the answers to a quiz in a fold."""
    if isinstance(piece, Predict):
        choices = "".join(f"\n> - {choice}" for choice in piece.choices)
        return f"> **Predict:** {piece.question}\n" + (f">{choices}\n" if choices else "")
    if isinstance(piece, Observed):
        return _notebook_observed(piece)
    return _notebook_quiz(piece) if isinstance(piece, Quiz) else piece


def _notebook_observed(piece: Observed) -> str:
    if piece.predict.choices:
        shown = piece.predict.choices[piece.right - 1] + (f" ({piece.value})" if piece.value else "")
    else:
        shown = amount(piece.value, piece.predict.unit)
    return f"**What is observed:** {shown}\n\n{piece.reason}\n"


def _notebook_quiz(piece: Quiz) -> str:
    parts = []
    for number, (question, choices) in enumerate(piece.questions, piece.first):
        parts.append(f"**{number}.** {question}")
        parts.append("\n".join(f"- {choice.text}" for choice in choices))
        verdicts = [f"- {c.text}: **{'right' if c.right else 'not right'}.** {c.why}".rstrip() for c in choices]
        parts.append("\n".join(["<details><summary>Answer</summary>\n", *verdicts, "\n</details>\n"]))
    return "\n\n".join(parts)


# The script


def write_script(docs: Path, site: Path, pages: Mapping[str, Asked]) -> None:
    """Write the script of all pages, which knows the edition of each page's questions, where any page has some."""
    editions = {page: {"edition": asked.edition, "count": asked.count} for page, asked in pages.items() if asked.count}
    if not editions:
        return
    import live  # it needs MkDocs, and a page's questions are read without it

    script = live.script(docs / "javascripts" / "questions", "questions")
    before, mark, after = script.partition("const EDITIONS = {}")
    (site / "javascripts").mkdir(exist_ok=True)
    text = f"{before}{mark[:-2]}{json.dumps(editions)}{after}"
    (site / "javascripts" / "questions.js").write_text(text, encoding="utf-8")
