"""Points, pages and tables, from feedback that is given."""

import csv
import io
import json
import re

import pytest
from axe_playwright_python.sync_playwright import Axe

from lab.errors import InputError
from lab.review.feedback import Feedback, Finding, knowledge
from lab.review.grading import COLUMNS, Rubric, class_page, grade, read_rubric, student_page, to_csv
from lab.review.running import Outcome

WRAPPED = Finding("wrapped", "In 3 of 64 pairs.")
LOST = Finding("ink-lost", "In 5 of 64 pairs.")
RIGHT = ("all of it",)
POINTS = {"network": 1.0, "training": 1.0, "pairs": 3.0, "measure": 4.0, "conclusion": 1.0}
RUBRIC = Rubric(POINTS, {"ink-lost": 1.0, "no-control": 0.0}, 0.0)


def outcome(*feedback, error=None, notes=()):
    return Outcome(error, [*notes], 1.5, [json.loads(json.dumps(one.to_dict())) for one in feedback])


def both(equivariance=(), invariance=()):
    """Feedback on the two measures; without a finding, they are right."""
    return [
        Feedback("measure", name, found, RIGHT)
        for name, found in (("equivariance", equivariance), ("invariance", invariance))
    ]


@pytest.mark.parametrize(
    ("feedback", "points"),
    [
        ([], 0),
        ([Feedback("pairs", "", (), RIGHT)], 3),
        ([Feedback("pairs", "", (WRAPPED,), RIGHT)], 0),
        ([Feedback("pairs", "", (LOST,))], 2),
        ([Feedback("pairs", "", (LOST, LOST, LOST, LOST))], 0),
        ([Feedback("pairs", "", (LOST, WRAPPED))], 0),
        ([Feedback("pairs", unseen=("there is no `first`",))], 0),
        ([Feedback("pairs", seen=RIGHT, unseen=("labels",))], 3),
        (both(), 4),
        (both((Finding("no-control", ""),)), 4),
        (both((Finding("absolute-norm", ""),)), 2),
        (both((Finding("absolute-norm", ""),), (Finding("ink-lost", ""),)), 1),
    ],
)
def test_points_of_a_task_go_down_with_its_mistakes_and_not_below_zero(feedback, points):
    assert RUBRIC.grade(feedback) == points


def test_a_task_that_was_not_looked_at_counts_as_the_rubric_says():
    unseen = [Feedback("pairs", unseen=("no `first`",)), Feedback("network", seen=RIGHT)]
    assert [Rubric(RUBRIC.points, {}, share).grade(unseen) for share in (0.0, 0.5, 1.0)] == [1, 2.5, 4]


def test_the_usual_rubric_gives_ten_points_and_knows_its_mistakes():
    rubric = read_rubric()
    assert rubric.most == 10
    assert rubric.not_looked_at == 0
    assert set(rubric.deductions) <= set(knowledge()["mistakes"])


def test_a_rubric_changes_what_it_names(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("not_looked_at = 0.5\n[points]\npairs = 7.5\n[deductions]\nunmatched = 2\n")
    rubric = read_rubric(path)
    assert (rubric.points["pairs"], rubric.points["network"], rubric.not_looked_at) == (7.5, 1, 0.5)
    assert rubric.deductions["unmatched"] == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[points]\npears = 3", r"what the rubric says on points must be one of network, .*, conclusion: 'pears'"),
        ("[deductions]\nunmached = 3", r"what the rubric says on deductions must be one of .*unmatched.*: 'unmached'"),
        ("[marks]\nx = 3", r"a key of the rubric must be one of points, deductions, not_looked_at: 'marks'"),
        ("points = 3", r"what the rubric says on points must be one of network.*: 'points'"),
        ("[points]\npairs = -1", r"pairs in the rubric must be a number from 0 to 1000: -1"),
        ("[points]\npairs = 'many'", r"pairs in the rubric must be a number from 0 to 1000: 'many'"),
        ("[points]\npairs = true", r"pairs in the rubric must be a number from 0 to 1000: True"),
        ("[points]\npairs = nan", r"pairs in the rubric must be a number from 0 to 1000: nan"),
        ("not_looked_at = 2", r"not_looked_at in the rubric must be a number from 0 to 1: 2"),
        ("[points", r"the rubric .*mine.toml cannot be read: "),
    ],
)
def test_a_wrong_rubric_is_refused_with_what_there_is(text, said, tmp_path):
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(InputError, match=f"^{said}"):
        read_rubric(tmp_path / "mine.toml")
    with pytest.raises(InputError, match="cannot be read"):
        read_rubric(tmp_path)


def some():
    return [
        grade("a/<b>x</b>.py", "MNIST", outcome(Feedback("pairs", "", (LOST,)), *both((WRAPPED,))), RUBRIC),
        grade("=2+3.py", "MNIST", outcome(error='cell 3: "<i>", x', notes=("cell 1: left out: !ls",)), RUBRIC),
        grade("c.py", "MNIST", outcome(*(Feedback(task, "", (), RIGHT) for task in RUBRIC.points)), RUBRIC),
    ]


def test_plain_values_are_as_promised():
    first, second, third = (one.to_dict() for one in some())
    assert [one["passed"] for one in (first, second, third)] == [False, False, True]
    assert (first["file"], first["points"], first["error"], first["seconds"]) == ("a/<b>x</b>.py", 4, None, 1.5)
    assert [(one["task"], one["subject"], one["passed"], one["mistakes"]) for one in first["feedback"]] == [
        ("pairs", "", False, ["ink-lost"]),
        ("measure", "equivariance", False, ["wrapped"]),
        ("measure", "invariance", True, []),
    ]
    assert second["feedback"] == []


def test_a_table_holds_a_row_for_each_and_no_formula():
    rows = [*csv.DictReader(io.StringIO(to_csv(some())))]
    assert [*rows[0]] == COLUMNS
    assert rows[0]["measure"] == "equivariance wrapped; invariance right"
    assert (rows[0]["pairs"], rows[0]["network"], rows[0]["points"]) == ("ink-lost", "", "4")
    assert rows[1]["file"] == "'=2+3.py"
    assert rows[1]["error"] == 'cell 3: "<i>", x'


LEVELS = {"nudge": 1, "hint": 2, "explanation": 3}


@pytest.mark.parametrize("level", LEVELS)
def test_a_students_page_says_as_much_as_was_asked_for(level):
    texts = knowledge()["mistakes"]["ink-lost"]
    page = student_page(some()[0], RUBRIC, level, False)
    shown = [plain(texts[name]) in plain(page) for name in ("nudge", "hint", "explanation")]
    assert shown == [rank <= LEVELS[level] for rank in (1, 2, 3)]
    assert plain(texts["solution"]) not in plain(page)
    assert plain(texts["solution"]) in plain(student_page(some()[0], RUBRIC, level, True))


def plain(text):
    """The letters of a text, as Markdown or HTML."""
    without = re.sub(r"<[^>]+>|&\w+;|\]\([^)]*\)|[^\w]", "", text)
    return without.replace("quot", "")


def test_pages_hold_what_students_wrote_as_text_and_ask_no_other_host():
    wild = Finding("ink-lost", "<script>alert(1)</script> ![x](https://example.org/x.png) [y](javascript:alert(2))")
    one = grade("<script>x", "MNIST", outcome(Feedback("pairs", "", (wild,)), error="<img src=x>"), RUBRIC)
    for page in (student_page(one, RUBRIC, "explanation", True), class_page({"x y'.py": one}, RUBRIC)):
        assert "<script" not in page
        assert "<img" not in page
        assert 'href="javascript' not in page
        assert "&lt;script&gt;x" in page
    assert 'href="x%20y%27.py.html"' in class_page({"x y'.py": one}, RUBRIC)


def test_the_class_shows_which_mistakes_were_made_how_often():
    page = class_page(dict(zip("abc", some(), strict=True)), RUBRIC)
    assert knowledge()["mistakes"]["ink-lost"]["title"] in page
    assert "Without a mistake: 1. Not run to the end: 1." in page
    assert "Mean: 4.7 of 10 points" in page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_pages_fit_a_phone_and_can_be_read_by_everyone(scheme, width, tmp_path, tab):
    graded = dict(zip("abc", some(), strict=True))
    (tmp_path / "student.html").write_text(student_page(some()[0], RUBRIC, "explanation", True), encoding="utf-8")
    (tmp_path / "class.html").write_text(class_page(graded, RUBRIC), encoding="utf-8")
    for name in ("student.html", "class.html"):
        page = tab(f"file://{tmp_path / name}", scheme=scheme, width=width)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert Axe().run(page).response["violations"] == []
        assert [problem for problem in page.problems if not problem.startswith("asks file:")] == []
