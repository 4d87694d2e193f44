"""The exercise as students get it, blank or solved, as notebook or script; and its questions. Loads no torch."""

import json
import os
import re
import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

import typer

from lab.errors import OutputError, check_choice, require
from lab.files import expanded, staged_output

CELL = re.compile(r"^# %%(.*)\n((?:(?!# %%).*\n?)*)", re.M)
MARKED = re.compile(r"^ *### BEGIN (SOLUTION|HIDDEN TESTS)\n.*?^ *### END \1\n", re.M | re.S)  # as nbgrader has them
PROSE: dict[str, object] = {"cell_type": "markdown"}
CODE: dict[str, object] = {"cell_type": "code", "outputs": [], "execution_count": None}
NBGRADER = {"schema_version": 3, "task": False, "points": 1}
SHOWN = re.compile(r"^(review\..+)$", re.M)  # the last line of a cell, whose value a notebook shows
CHECKOUT = Path(__file__).parents[2] / "docs" / "exercise" / "exercise.py"  # edition.txt in an installed package
KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}


class Answer(str):
    """What is said about an answer: Markdown, and shown as such in a notebook."""

    def _repr_markdown_(self) -> str:
        return self


def answer(question: str, letter: object = None) -> Answer:
    """What is right or wrong about an answer to one of the exercise's questions.

    Args:
        question: `"augmentation"`, `"fill"` or `"sorting"`.
        letter: of the choice; anything else is no answer yet.

    Raises:
        InputError: an unknown question.

    Examples:
        >>> from lab import review
        >>> review.answer("sorting", "c").partition(":")[0]
        '**c** is not right. Invariant means that the map *stays*'
    """
    questions = tomllib.loads(_read("questions.toml"))
    check_choice("question", question, questions)
    found, given = questions[question], str(letter).strip(" .()").lower()
    if given not in found["reasons"]:
        return Answer(f"No answer yet: set `answer` to a letter in quotes, one of {', '.join(found['reasons'])}.")
    return Answer(f"**{given}** is {'' if given == found['right'] else 'not '}right. {found['reasons'][given].strip()}")


def source() -> str:
    """The exercise with its solutions, as a script with cells."""
    return CHECKOUT.read_text(encoding="utf-8") if CHECKOUT.is_file() else _read("edition.txt")


def blank(text: str) -> str:
    """The exercise without its solutions."""
    return MARKED.sub("", text)


def script(text: str) -> str:
    """The program, which prints what a notebook shows."""
    return SHOWN.sub(r"print(\1)", text)


def notebook(text: str) -> str:
    """The notebook, as JSON; nbgrader knows by their metadata which cells are to solve, and which to grade."""
    cells = []
    for number, (head, body) in enumerate(CELL.findall(text)):
        code = "[markdown]" not in head
        lines = body.strip() if code else re.sub(r"^# ?", "", body.strip(), flags=re.M)
        marks = MARKED.findall(f"{lines}\n")
        graded = "HIDDEN TESTS" in marks
        known = {"grade_id": f"cell-{number}", "solution": not graded, "grade": graded, "locked": graded, **NBGRADER}
        metadata = {"nbgrader": known} if marks else {}
        cells.append({**(CODE if code else PROSE), "id": f"cell-{number}", "metadata": metadata, "source": lines})
    return json.dumps({"cells": cells, "metadata": KERNEL, "nbformat": 4, "nbformat_minor": 5}, indent=1) + "\n"


def exercise(
    out: Annotated[str, typer.Option(help="Folder of the file.", metavar="FOLDER")] = ".",
    form: Annotated[Literal["ipynb", "py"], typer.Option("--format", help="A notebook, or a script.")] = "ipynb",
    solved: Annotated[bool, typer.Option("--solved", help="With the solutions.")] = False,
) -> None:
    """Write the exercise: three tasks to fill in, and cells that review what you wrote."""
    require(out.strip(), "a path must not be empty")
    path = expanded(out) / f"exercise{'_solved' * solved}.{form}"
    if os.path.lexists(path):
        raise OutputError(f"{path} is there already, and may hold your work: move it, or name another folder by --out")
    text = (notebook if form == "ipynb" else script)(source() if solved else blank(source()))
    with staged_output(path.parent) as stage:
        (stage / path.name).write_text(text, encoding="utf-8")
    typer.echo(f"The exercise: {path}")


def _read(name: str) -> str:
    return resources.files("lab.review").joinpath(name).read_text(encoding="utf-8")
