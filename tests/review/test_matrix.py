"""Each mistake is named, none of the others is claimed, and no right program is blamed.

What the site's table shows, seed 0 on the embedded digits, is taken from there; the build makes it once.
`LAB_MATRIX=all python -m pytest tests/review/test_matrix.py` runs ten seeds and both data sets.
"""

import os

import mistakes
import pytest
from filelock import FileLock
from programs import RIGHT, SEEDS, STYLES, WRONG, complaints, diagnosis, run, run_wrong
from sources import SOURCES

from lab.review.feedback import knowledge

ALL = os.environ.get("LAB_MATRIX") == "all"
BUILT = (0, "embedded")
CASES = [(seed, data) for seed in range(SEEDS) for data in SOURCES] if ALL else [BUILT]
each_case = pytest.mark.parametrize(("seed", "data"), CASES, ids=str)


@pytest.fixture(scope="module")
def table(shared) -> dict:
    """What the site shows; it cannot be made where a diagnosis is wrong."""
    with FileLock(shared / "mistakes.lock"):
        return mistakes.rows()


@pytest.mark.parametrize("style", STYLES)
@each_case
def test_no_right_program_is_blamed(style, seed, data, table):
    source = (RIGHT / f"{style}.py").read_text(encoding="utf-8")
    if (seed, data) == BUILT:
        assert source.split('"""')[1] in table["right"]
    else:
        assert not complaints(run(source, seed=seed, data=data))


@pytest.mark.parametrize("program", WRONG, ids=lambda one: f"{one.mistakes.replace(' ', '+')}-{one.base}")
@each_case
def test_each_mistake_is_named_and_no_other(program, seed, data, table):
    wanted = [(program.task, one) for one in program.mistakes.split()]
    if (seed, data) == BUILT:
        row = table["wrong"][WRONG.index(program)]
        assert row["edits"] == [[*edit] for edit in program.edits]
        assert [(row["task"], one) for one in row["mistakes"]] == wanted
        assert len(row["did"]) == len(wanted)
    else:
        assert [found[:2] for found in diagnosis(run_wrong(program, seed=seed, data=data))] == wanted


def test_every_mistake_has_a_program():
    assert {one for program in WRONG for one in program.mistakes.split()} == {*knowledge()["mistakes"]}
