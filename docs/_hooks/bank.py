"""The question bank: what the pages ask, as files for the quizzes of a learning platform.

The one source are the fences of the walkthroughs, executed: see `questions`. `docs/teach/bank.yml` says which
predictions can be asked away from their page, and with which words before them, and holds a few questions more.

Sources: Moodle's documentation of its *GIFT format* and *Moodle XML format*, and the importers that read them,
`question/format/gift/format.php` and `question/format/xml/format.php` in Moodle's repository.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import questions
import yaml
from execution import WalkthroughError
from questions import Choice, Observed, Place, Predict, Quiz
from wording import as_html, as_tex, plain

SOURCE = Path("teach") / "bank.yml"
MOODLE, GIFT = Path("teach") / "equivariance-questions.xml", Path("teach") / "equivariance-questions.gift.txt"
ROOT_CATEGORY = "$course$/top/Equivariance Lab"
SPECIAL = re.compile(r"[\\~=#{}:]")
NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
WORDS_OF_ID, LONGEST_NAME = 6, 90
FIXED = re.compile(  # answers that speak of the others, or of a scale: their order is a part of the question
    r"\b(all|both|none|neither|either|nothing|nowhere|everywhere|alike|same|only|others?|likewise)\b|^(yes|no|not)\b",
    re.I,
)


@dataclass(frozen=True)
class Page:
    """What the bank wants to know of a walkthrough."""

    stem: str
    title: str
    asked: questions.Asked


@dataclass(frozen=True)
class Answer:
    """One answer to choose; its text, and why it is right or wrong, are HTML."""

    text: str
    right: bool
    why: str


@dataclass(frozen=True)
class Item:
    """A question with answers to choose from, or where there are none, with a number and its tolerance.

    Attributes:
        id: stable while the question is not reworded; unique in the bank.
        name: for a teacher's list of questions.
        category: the page that it belongs to.
        text: HTML with TeX, as `reason` is, which a student reads after any answer.
        shuffled: whether the order of the answers does not matter.
    """

    id: str
    name: str
    category: str
    text: str
    reason: str
    answers: tuple[Answer, ...] = ()
    shuffled: bool = False
    value: str = ""
    tolerance: str = ""


def items(pages: Sequence[Page], source: Path) -> list[Item]:
    """All questions of the bank, page by page: predictions that stand alone, quizzes, and those that `source` adds.

    Raises:
        WalkthroughError: `source` is malformed or names a page or a prediction that is not there, or two questions
            begin alike.
    """
    given = _read(source)
    given.check({page.stem: {each.id for each in page.asked.all(Predict)} for page in pages})
    found = [item for page in pages for item in _of_page(page, given)]
    ids = [item.id for item in found]
    if twice := {name for name in ids if ids.count(name) > 1}:
        raise WalkthroughError(f"two questions of the bank begin alike: {min(twice)}")
    return found


def _read(source: Path) -> "_Source":
    text = source.read_text(encoding="utf-8")
    try:
        content = yaml.load(text, yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise WalkthroughError(f"docs/teach/{source.name}: bad YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or sorted(content) != ["alone", "more"]:
        raise WalkthroughError(f"docs/teach/{source.name}: it holds `alone` and `more`, and nothing else")
    return _Source({part: content[part] or {} for part in content}, text, source.name)


@dataclass(frozen=True)
class _Source:
    """What `bank.yml` says."""

    content: Mapping[str, Any]
    text: str
    name: str

    def alone(self, stem: str) -> Mapping[str, str]:
        return self.content["alone"].get(stem, {})

    def more(self, stem: str) -> list[tuple[str, list[Choice]]]:
        found = self.content["more"].get(stem, [])
        return questions.quiz(found, self.place(stem, "more")) if found else []

    def place(self, stem: str, part: str = "alone") -> Place:
        start = self.text.find(f"\n{part}:")
        return Place(f"docs/teach/{self.name}", self.text.count("\n", 0, self.text.find(f"\n  {stem}:", start)) + 2)

    def check(self, predictions: Mapping[str, set[str]]) -> None:
        for part in ("alone", "more"):
            for stem in self.content[part]:
                if stem not in predictions:
                    raise self.place(stem, part).error(f"there is no page {stem!r}")
        for stem, known in predictions.items():
            if unknown := sorted(set(self.alone(stem)) - known):
                raise self.place(stem).error(f"{stem} has no prediction {unknown[0]!r}")


def _of_page(page: Page, given: _Source) -> Iterator[Item]:
    alone = given.alone(page.stem)
    for observed in page.asked.all(Observed):
        if observed.predict.id in alone:
            yield _prediction(page, observed, alone[observed.predict.id])
    asked = [each for quiz in page.asked.all(Quiz) for each in quiz.questions]
    for text, choices in [*asked, *given.more(page.stem)]:
        yield _quiz(page, text, choices)


def _prediction(page: Page, observed: Observed, context: str) -> Item:
    predict = observed.predict
    head = f"{page.stem[:2]}-{predict.id}", _name(page, predict.question), _category(page.title)
    asked = f"{context.strip()}\n\n{predict.question}".strip()
    if predict.choices:
        seen = predict.choices[observed.right - 1] + (f" ({observed.value})" if observed.value else "")
        answers = [Answer(_html(text), i == observed.right, "") for i, text in enumerate(predict.choices, 1)]
        reason = _html(f"**Observed:** {seen}\n\n{observed.reason}")
        return Item(*head, _html(asked), reason, tuple(answers), _may_shuffle(predict.choices))
    text = _html(asked + (f" (A number, in {predict.unit}.)" if predict.unit else " (A number.)"))
    reason = _html(f"**Observed:** {questions.amount(observed.value, predict.unit)}\n\n{observed.reason}")
    within = (Decimal(observed.high) - Decimal(observed.low)) / 2
    return Item(*head, text, reason, value=observed.value, tolerance=f"{within.normalize():f}")


def _quiz(page: Page, text: str, choices: Sequence[Choice]) -> Item:
    words = re.findall(r"[a-z0-9]+", plain(_html(text)).lower())[:WORDS_OF_ID]
    answers = [Answer(_html(each.text), each.right, _html(_sentence(each.why))) for each in choices]
    shuffled = _may_shuffle([each.text for each in choices])
    head = f"{page.stem[:2]}-{'-'.join(words)}", _name(page, text), _category(page.title)
    return Item(*head, _html(text), "", tuple(answers), shuffled)


def _name(page: Page, question: str) -> str:
    words = re.sub(r"\\[()\[\]]", "", plain(_html(question)))
    short = words if len(words) <= LONGEST_NAME else words[:LONGEST_NAME].rpartition(" ")[0] + " …"
    return f"{page.stem[:2]} {short}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _html(text: str) -> str:
    return NOT_IN_XML.sub("", as_html(text, as_tex))


def _category(title: str) -> str:
    """A page's title without what would end a category's name or begin another one."""
    return " ".join(re.sub(r"[/\\~=#{}:$]", " ", title).split())


def _may_shuffle(choices: Iterable[str]) -> bool:
    """Whether no answer speaks of the others, and they are no scale of numbers."""
    texts = list(choices)
    return not any(FIXED.search(text) for text in texts) and sum(bool(re.search(r"\d", text)) for text in texts) < 2


# Moodle XML


def to_moodle(found: Sequence[Item]) -> str:
    """Moodle XML, a category for each page.

    Each question bears its `id` as Moodle's idnumber. Answers are shuffled only where their order does not matter.
    """
    quiz, category = ET.Element("quiz"), ""
    for item in found:
        if item.category != category:
            category = item.category
            _text(ET.SubElement(quiz, "question", type="category"), "category", f"{ROOT_CATEGORY}/{category}", None)
        (_multichoice if item.answers else _numerical)(quiz, item)
    ET.indent(quiz, " ")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(quiz, encoding="unicode")}\n'


def _multichoice(quiz: ET.Element, item: Item) -> None:
    question = _question(quiz, item, "multichoice")
    for name, value in {
        "single": "true",
        "shuffleanswers": "true" if item.shuffled else "false",
        "answernumbering": "abc",
        "showstandardinstruction": "0",
    }.items():
        ET.SubElement(question, name).text = value
    for each in item.answers:
        answer = _text(question, "answer", each.text, "html", fraction="100" if each.right else "0")
        _text(answer, "feedback", each.why, "html")


def _numerical(quiz: ET.Element, item: Item) -> None:
    question = _question(quiz, item, "numerical")
    answer = _text(question, "answer", item.value, "moodle_auto_format", fraction="100")
    ET.SubElement(answer, "tolerance").text = item.tolerance
    _text(answer, "feedback", "", "html")


def _question(quiz: ET.Element, item: Item, kind: str) -> ET.Element:
    question = ET.SubElement(quiz, "question", type=kind)
    _text(question, "name", item.name, None)
    _text(question, "questiontext", item.text, "html")
    _text(question, "generalfeedback", item.reason, "html")
    for name, value in {"defaultgrade": "1", "penalty": "0.3333333", "hidden": "0", "idnumber": item.id}.items():
        ET.SubElement(question, name).text = value
    return question


def _text(parent: ET.Element, name: str, text: str, form: str | None, **attributes: str) -> ET.Element:
    """An element that holds its words in `<text>`, as everything does in Moodle XML."""
    element = ET.SubElement(parent, name, attributes | ({"format": form} if form else {}))
    ET.SubElement(element, "text").text = text
    return element


# GIFT


def to_gift(found: Sequence[Item]) -> str:
    """The same in GIFT, which cannot say whether answers may be shuffled: a comment before the question does."""
    lines, category = ["// Equivariance Lab: question bank", ""], ""
    for item in found:
        if item.category != category:
            category = item.category
            lines += [f"$CATEGORY: {ROOT_CATEGORY}/{category}", ""]
        lines += [*_gift(item), ""]
    return "\n".join(lines)


def _gift(item: Item) -> Iterator[str]:
    yield f"// [id:{item.id}]{'' if item.shuffled or not item.answers else ' keep the order of the answers'}"
    start = f"::{escape(item.name)}::[html]{escape(item.text)}{{"
    yield start if item.answers else f"{start}#{item.value}:{item.tolerance}"
    for each in item.answers:
        why = f"#[html]{escape(each.why)}" if each.why else ""
        yield f"\t{'=' if each.right else '~'}[html]{escape(each.text)}{why}"
    if item.reason:
        yield f"\t####[html]{escape(item.reason)}"
    yield "}"


def escape(text: str) -> str:
    r"""A text in which nothing means anything to GIFT; a line's end is `\n`, because an empty line ends a question.

    >>> escape(r"\(a = b\)")
    '\\\\(a \\= b\\\\)'
    """
    return SPECIAL.sub(r"\\\g<0>", text).replace("\n", r"\n")


def write(site: Path, found: Sequence[Item]) -> None:
    """Write both files below the site's folder."""
    for path, text in ((MOODLE, to_moodle(found)), (GIFT, to_gift(found))):
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text, encoding="utf-8")
