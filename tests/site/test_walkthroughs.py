"""The walkthroughs as text and as programs: each has its parts, and each runs as a plain script."""

import ast
import copy
import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import execution
import execution_cache
import jupytext
import pytest
import questions
import rendering
from patience import PROGRAM
from sources import LONG, STUDIES

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "docs" / "walkthroughs").glob("[0-9]*.py"))
CELL_LINES = 15
LONGEST = 25  # minutes to read
WORDS_FIRST = 150  # before the first picture, front matter included: a laptop's first screen
RAW = (ast.Tuple, ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
each = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


@functools.cache
def script(path: Path):
    """The page as a notebook, not to be changed."""
    return jupytext.read(path)


def cells(path: Path, kind: str) -> list[str]:
    return [cell.source for cell in script(path).cells if cell.cell_type == kind]


def code(source: str) -> list[str]:
    return [line for line in source.splitlines() if line.strip() and not line.startswith("#|")]


def notebook(path: Path):
    """The page before it has run: each `{{ expression }}` stands as the number 1."""
    read = copy.deepcopy(script(path))
    for cell, line in zip(read.cells, execution.cell_lines(path), strict=True):
        cell.metadata["line"] = line
        if cell.cell_type == "markdown":
            cell.source = execution.EXPRESSION.sub("1", cell.source)
    return read


def all_options(path: Path) -> list[dict]:
    return [execution.options(source) for source in cells(path, "code")]


def test_the_course_has_its_fourteen_pages():
    assert [path.stem[:2] for path in FILES] == [f"{number:02}" for number in range(1, 15)]


def test_the_pages_that_do_a_study_are_known():
    """See `turn` in conftest.py."""
    assert [path.stem for path in FILES if "lab.run_study(" in path.read_text(encoding="utf-8")] == STUDIES


@each
def test_page_has_its_parts(path):
    prose = "\n\n".join(cells(path, "markdown"))
    assert prose.startswith("---\ndescription: ")
    assert len(re.findall(r"^# ", prose, re.M)) == 1, "one H1"
    assert prose.count('!!! abstract "After this page you can"') == 1
    headings = re.findall(r"^## (.+)", re.sub(r"^```.*?^```", "", prose, flags=re.M | re.S), re.M)
    assert headings[-3:] == ["Theory and observation", "Try it yourself", "Questions"]


@each
def test_page_asks_before_it_shows_and_once_more_at_the_end(path):
    """What a fence must have, such as one right choice and a reason for each other one, is checked as it is read."""
    asked = questions.read(notebook(path), path.name)
    assert 3 <= len(asked.all(questions.Predict)) <= 6
    (quiz,) = asked.all(questions.Quiz)
    assert 3 <= len(quiz.questions) <= 5
    assert not re.search(r'^(!!! question "Predict|\?\?\? success "Answer)|<fieldset', path.read_text()[2:], re.M)


@each
def test_the_right_answer_is_not_always_in_the_same_place(path):
    asked = questions.read(notebook(path), path.name)
    places = {
        [c.right for c in choices].index(True) for quiz in asked.all(questions.Quiz) for _, choices in quiz.questions
    }
    assert len(places) > 1


@each
def test_what_is_observed_comes_from_the_run(path):
    """A value beside the reader's answer is never typed by hand."""
    for fence in re.findall(r"^```observed\n(.*?)^```", "\n\n".join(cells(path, "markdown")), re.M | re.S):
        values = re.findall(r"^value: *(.+)", fence, re.M)
        assert all(execution.EXPRESSION.search(value) for value in values), fence


@each
def test_a_picture_stands_on_the_first_screen(path):
    words = before = 0
    for cell in script(path).cells:
        options = execution.options(cell.source) if cell.cell_type == "code" else {}
        if "alt" in options or "film" in options:
            break
        if cell.cell_type == "markdown":
            words += len(re.split(r"<svg|!\[", cell.source)[0].split())
            if re.search(r"<svg|!\[", cell.source):
                break
        before += cell.cell_type == "code"
    assert words <= WORDS_FIRST
    assert before <= 1, "code cells before the first figure"


@each
def test_page_takes_no_longer_than_a_sitting(path):
    assert rendering._reading_minutes(notebook(path)) <= LONGEST


@each
def test_folded_code_says_what_it_does(path):
    folded = [options for options in all_options(path) if options.get("code-fold") and options.get("echo") is not False]
    titles = [str(options.get("code-title", "")).strip() for options in folded]
    assert all(titles)
    assert sorted(set(titles)) == sorted(titles), "each bar reads differently"


@each
def test_no_cell_shows_a_raw_tuple_list_or_dict(path):
    for source in cells(path, "code"):
        last = ast.parse(source).body[-1:]
        shown = last[0].value if last and isinstance(last[0], ast.Expr) else None
        assert not isinstance(shown, RAW), source
        assert not (isinstance(shown, ast.Attribute) and shown.attr == "shape"), source


@each
def test_exercises_have_executed_solutions(path):
    exercises = re.findall(r"\*\*Exercise (\d)", "\n".join(cells(path, "markdown")))
    solutions = re.findall(r'^#\| fold: "?Solution (\d)', "\n".join(cells(path, "code")), re.M)
    assert 2 <= len(exercises) <= 4
    assert set(exercises) == set(solutions)


@each
def test_what_is_written_on_a_picture_has_a_colour_of_its_own(path):
    """The page's ink is light on a dark page, and a picture stays as it is."""
    for source in cells(path, "code"):
        if re.search(r"\.(imshow|set_facecolor)\(", source):
            calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
            written = [one for one in calls if isinstance(one.func, ast.Attribute) and one.func.attr == "text"]
            assert all({"color", None} & {word.arg for word in one.keywords} for one in written), source


@each
def test_cells_are_short_and_without_magics(path):
    for source in cells(path, "code"):
        assert len(code(source)) <= CELL_LINES or "#| code-fold: true" in source, source
        assert not re.search(r"^[%!]", source, re.M), source


@each
def test_what_is_drawn_at_random_has_the_seed_of_the_page(path):
    """Layers made by hand draw their weights from torch's own generator, which begins anywhere."""
    lines = [line for source in cells(path, "code") for line in code(source)]
    seeded = next((i for i, line in enumerate(lines) if "torch.manual_seed(SEED)" in line), len(lines))
    draws = re.compile(r"\w.*\b(lab\.(PooledCNN|LabModel)|nn\.(Conv2d|Linear)|torch\.rand\w*)\((?!.*generator)")
    assert not list(filter(draws.match, lines[:seeded]))


@each
def test_claims_tell_their_data_and_their_seeds(path):
    with_claims = [source for source in cells(path, "code") if "lab.check(" in source]
    assert with_claims
    assert all("seeds=" in source for source in with_claims)
    assert any("data=mnist" in source for source in with_claims)


@each
def test_measured_numbers_are_not_typed(path):
    """Decimals in prose and reasons are values of the run, except those of definitions; guesses may be typed."""
    allowed = {"0.1307", "0.3081", "0.424", "0.5", "2.30", "0.0"}
    text = "\n".join(cells(path, "markdown"))
    reasons = re.findall(r"^```observed\n.*?^(reason: .*?)^```", text, re.M | re.S)
    prose = re.sub(
        r"\{\{ .+? ?\}\}|`[^`]*`|```.*?```|\$[^$]*\$|\]\([^)]*\)|<[^>]+>",
        "",
        "\n".join([text, *reasons]),
        flags=re.S,
    )
    typed = set(re.findall(r"(?<![\w.])\d+\.\d+(?![\w.])", prose)) - allowed
    assert not typed


@each
def test_walkthrough_runs_as_a_plain_script(path, root_of, offline_path, monkeypatch):
    """Once for each state of all that it depends on, as the site executes it: what has run so is kept below .cache.

    Long ones with `LAB_SCRIPTS=1` alone, as once a week: in each check, the site's build runs all of their cells.

    On the embedded digits, which the site has not where the official files are; but pages with a study, whose
    networks take minutes, on the site's own records.
    """
    if path.stem in LONG and not os.environ.get("LAB_SCRIPTS"):
        pytest.skip("takes long: with LAB_SCRIPTS=1")
    embedded = path.stem not in STUDIES
    if embedded:
        monkeypatch.setenv("LAB_DATA", str(root_of("embedded")))  # with the networks that others have trained there
    ran = ROOT / ".cache" / "scripts" / path.stem / execution_cache.digest(execution.code_of(path), path.read_text())
    if ran.exists():
        return
    env = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", "PYTHONPATH": str(offline_path)}
    done = subprocess.run([sys.executable, path], env=env, capture_output=True, text=True, timeout=PROGRAM)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not embedded or "using the 10,000 embedded digits" in done.stderr
    ran.parent.mkdir(parents=True, exist_ok=True)
    ran.touch()
    execution_cache.drop_oldest(ran.parent, execution_cache.KEPT)
