"""The exercise as students get it: nothing of a solution in the blank one, and both run from top to bottom."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jupytext
import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nbclient import NotebookClient

from lab import build_model, normalize, review
from lab.errors import InputError
from lab.review import editions
from lab.review.feedback import knowledge

ROOT = Path(__file__).parents[2]
SOURCE = editions.source()
BLANK = editions.blank(SOURCE)
QUESTIONS = tomllib.loads((ROOT / "lab" / "review" / "questions.toml").read_text(encoding="utf-8"))
SOLUTIONS = re.findall(r"^ *### BEGIN SOLUTION\n(.*?)^ *### END SOLUTION\n", SOURCE, re.M | re.S)
CHECK = "### BEGIN HIDDEN TESTS"
CALL = re.compile(r"^review\.\w+\(.*\)$", re.M)


def lines(text: str) -> set[str]:
    return {line.strip() for line in text.splitlines() if re.search(r"\w", line)}


@pytest.fixture(scope="module")
def run(root_of, offline_path):
    """Runs a program without a network: what it prints."""

    def running(program: str, folder: Path) -> str:
        path = folder / "exercise.py"
        path.write_text(program, encoding="utf-8")
        env = os.environ | {"LAB_DATA": str(root_of("embedded")), "PYTHONPATH": str(offline_path)}
        env |= {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-W", "error", str(path)]
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return running


def test_no_line_of_a_solution_is_in_the_blank_edition():
    assert len(SOLUTIONS) == SOURCE.count("SOLUTION") / 2 >= 6
    assert not set.union(*map(lines, SOLUTIONS)) & lines(BLANK)
    assert not re.search("SOLUTION|HIDDEN", BLANK)


def test_each_solution_has_a_line_that_waits_for_the_students_code():
    before = [part.rstrip().splitlines()[-1] for part in SOURCE.split("### BEGIN SOLUTION")[:-1]]
    assert all(line.endswith(("# your code", "# your letter")) for line in before)
    assert len(re.findall("# your (?:code|letter)$", BLANK, re.M)) == len(before)


@pytest.mark.parametrize("text", [SOURCE, BLANK], ids=["solved", "blank"])
def test_the_notebook_is_valid_and_has_the_cells_that_jupytext_reads(text):
    notebook = nbformat.reads(editions.notebook(text), as_version=4)
    nbformat.validate(notebook)
    expected = [(cell.cell_type, cell.source) for cell in jupytext.reads(text, fmt="py:percent").cells]
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == expected
    assert all("outputs" not in cell or not cell.outputs for cell in notebook.cells)


def test_nbgrader_finds_solutions_and_the_check_in_cells_that_are_marked_for_it():
    """Its `generate_assignment` refuses them elsewhere, and two cells of one id."""
    cells = json.loads(editions.notebook(SOURCE))["cells"]
    marks = [cell["metadata"].get("nbgrader", {}) for cell in cells]
    assert [mark.get("solution", False) for mark in marks] == ["### BEGIN SOLUTION" in c["source"] for c in cells]
    assert [mark.get("grade", False) for mark in marks] == [CHECK in cell["source"] for cell in cells]
    names = [mark["grade_id"] for mark in marks if mark]
    assert len(set(names)) == len(names)


def test_a_script_prints_what_a_notebook_shows():
    shown = CALL.findall(BLANK)
    assert len(shown) >= 9
    program = editions.script(BLANK)
    assert not CALL.findall(program)
    assert all(f"print({call})" in program for call in shown)


def test_the_blank_edition_runs_before_anything_is_filled_in_and_says_what_is_missing(run, tmp_path):
    said = run(editions.script(BLANK), tmp_path)
    assert said.count("No answer yet") == len(QUESTIONS)
    last = said.rpartition("No answer yet")[2]
    for name in ("`model` is missing", "`first` is missing", "`equivariance`", "`invariance`", "the conclusion"):
        assert name in last, name


def test_the_blank_notebook_runs_too(root_of, offline_path, tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_DATA", str(root_of("embedded")))
    monkeypatch.setenv("PYTHONPATH", str(offline_path))
    notebook = nbformat.reads(editions.notebook(BLANK), as_version=4)
    ran = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    reviews = [cell for cell in ran.cells if cell.cell_type == "code" and CALL.search(cell.source)]
    assert len(reviews) == len(CALL.findall(BLANK))
    assert all("text/markdown" in cell.outputs[-1].data for cell in reviews)


def test_the_review_finds_nothing_in_the_solved_edition(run, tmp_path):
    """Its last cell fails otherwise; on the embedded digits here, on the full set where the site has it."""
    assert f"{CHECK}\nfound = review.submission(globals())\nassert found.passed" in SOURCE
    said = run(editions.script(SOURCE), tmp_path)
    assert len(re.findall(r"\*\*\w\*\* is right\. ", said)) == len(QUESTIONS)
    accuracy, exact, unrelated = (
        float(re.search(pattern, said)[1])
        for pattern in (r"accuracy ([\d.e-]+)", r"largest ([\d.e-]+)", r"largest .*digits ([\d.e-]+)")
    )
    assert accuracy > 0.85
    assert exact <= 1e-5 < 0.5 < unrelated


def test_a_mistake_put_into_the_solution_fails_the_solved_edition(run, tmp_path):
    wrong = "second = second.flip(-1)\nprint(len(first)"
    assert SOURCE.count("print(len(first)") == 1
    with pytest.raises(AssertionError, match=r"AssertionError: .*mirrored"):
        run(editions.script(SOURCE.replace("print(len(first)", wrong)), tmp_path)


def test_the_questions_have_the_choices_that_have_reasons():
    asked = dict(re.findall(r"(\*\*Question \d\.\*\*.*?)\nreview\.answer\(\"(\w+)\"", SOURCE, re.S))
    assert sorted(asked.values()) == sorted(QUESTIONS)
    for text, name in asked.items():
        assert re.findall(r"^# - \*\*(\w)\.\*\*", text, re.M) == [*QUESTIONS[name]["reasons"]]
        assert f'answer = "{QUESTIONS[name]["right"]}"' in text
    assert len({question["right"] for question in QUESTIONS.values()}) > 1


def test_the_conclusion_offers_the_choices_that_the_review_knows():
    offered = re.findall(r'^#     - `"(.+?)"`: ', SOURCE, re.M)
    assert sorted(offered) == sorted(knowledge()["choices"]["conditions"])


@pytest.mark.parametrize("name", QUESTIONS)
def test_an_answer_is_right_or_not_and_says_why(name):
    right, reasons = QUESTIONS[name]["right"], QUESTIONS[name]["reasons"]
    for letter, reason in reasons.items():
        said = review.answer(name, letter)
        assert said.startswith(f"**{letter}** is {'right' if letter == right else 'not right'}. ")
        assert reason.strip() in said
        assert review.answer(name, f" {letter.upper()}.) ") == said


@pytest.mark.parametrize("letter", [None, "", "e", "ab", 1, 2.5, ["a"], ..., "c\n\nd"], ids=repr)
def test_what_is_no_letter_is_no_answer_yet(letter):
    assert review.answer("fill", letter) == "No answer yet: set `answer` to a letter in quotes, one of a, b, c, d."


def test_an_unknown_question_says_which_there_are():
    with pytest.raises(InputError, match="question must be one of augmentation, fill, sorting: 'banana'"):
        review.answer("banana", "a")


def numpy_equivariance(a, b, dy, dx):
    """A right measure, of arrays alone."""
    errors = []
    for x, y, u, v in zip(a[:, 0], b[:, 0], dy, dx, strict=True):
        inside = np.s_[max(u, 0) : 27 + min(u, 0), max(v, 0) : 27 + min(v, 0)]
        moved = np.roll(x, (u, v), (0, 1))[inside]
        errors.append(np.linalg.norm(moved - y[inside]) / np.linalg.norm(moved))
    return np.array(errors)


@pytest.mark.parametrize("form", [np.asarray, torch.as_tensor], ids=["arrays", "tensors"])
def test_a_measure_of_arrays_is_not_blamed_in_its_own_cell(form):
    """The cell knows no activations, from which the review of the whole sees what the measure takes."""
    dy, dx = np.random.default_rng(0).integers(-4, 5, (2, 100))
    found = review.measure(numpy_equivariance, "equivariance", dy=form(dy), dx=form(dx))
    assert (found.mistakes, found.passed) == ((), True)


def test_a_published_answer_that_moves_up_and_down_only_and_fills_with_0_hears_both(digits):
    """A ninth of its pairs does not move: no more than of any other displacement, and no mistake of its own."""
    first, dy = normalize(digits.images.repeat(3, 1, 1, 1)), torch.arange(1500) % 9 - 4
    second = torch.stack([F.pad(x, (0, 0, t, -t)) for x, t in zip(first, dy.tolist(), strict=True)])
    found = review.pairs(first, second, dy, torch.zeros_like(dy))
    assert found.mistakes == ("filled-after-normalising", "one-direction")
    assert "pairs looked at" in found.findings[0].did


def test_what_is_not_there_yet_is_nothing_to_look_at():
    for found in (review.training(None), review.pairs(None, None), review.network(None)):
        assert "Nothing to look at yet:" in found.text()
        assert not found.passed
    assert "Not looked at:" in review.training(build_model("given", seed=0)).text()


def lab(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    program = [sys.executable, "-c", "from lab.cli import main; main()", "exercise", *arguments]
    return subprocess.run(program, cwd=cwd, env=os.environ | environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "name", "content"),
    [
        ((), "exercise.ipynb", editions.notebook(BLANK)),
        (("--format", "py"), "exercise.py", editions.script(BLANK)),
        (("--solved", "--out", "a/b"), "a/b/exercise_solved.ipynb", editions.notebook(SOURCE)),
        (("--solved", "--format", "py"), "exercise_solved.py", editions.script(SOURCE)),
    ],
    ids=["notebook", "script", "solved, in a new folder", "solved script"],
)
def test_the_command_writes_the_exercise(arguments, name, content, tmp_path):
    done = lab(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"The exercise: {name}\n"
    assert (tmp_path / name).read_text(encoding="utf-8") == content


def test_a_students_work_is_never_overwritten(tmp_path):
    (tmp_path / "exercise.ipynb").write_text("my work")
    done = lab(cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    said = "error: exercise.ipynb is there already, and may hold your work: move it, or name another folder by --out\n"
    assert done.stderr == said
    assert (tmp_path / "exercise.ipynb").read_text() == "my work"
    assert lab("--format", "py", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--format", "pdf"), 2, "'pdf' is not one of 'ipynb', 'py'"),
        (("--out", "taken"), 1, "the files cannot be written to taken"),
        (("--out", ""), 2, "a path must not be empty"),
    ],
    ids=["unknown format", "a file where the folder would be", "no folder"],
)
def test_wrong_usage_is_one_line(arguments, code, said, tmp_path):
    (tmp_path / "taken").write_text("")
    done = lab(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_an_installed_package_writes_the_same(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", tmp_path]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    subprocess.run([sys.executable, "-m", "zipfile", "-e", wheel, installed], check=True)
    assert not (installed / "docs").exists()
    assert lab("--format", "py", cwd=tmp_path, PYTHONPATH=str(installed)).returncode == 0
    assert (tmp_path / "exercise.py").read_text(encoding="utf-8") == editions.script(BLANK)
    check = "import lab.review; print(lab.review.__file__, lab.review.answer('fill', 'b'))"
    options = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(installed)}, "text": True}
    said = subprocess.run([sys.executable, "-c", check], check=True, capture_output=True, **options).stdout
    assert said.startswith(str(installed))
    assert "**b** is right." in said
