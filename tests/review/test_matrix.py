"""Each mistake is named, none of the others is claimed, and no right program is blamed.

`LAB_MATRIX=all python -m pytest tests/review/test_matrix.py` runs ten seeds and both data sets.
"""

import os

import pytest
from programs import RIGHT, STYLES, WRONG, diagnosis, run
from sources import SOURCES

from lab import review
from lab.review.feedback import knowledge

ALL = os.environ.get("LAB_MATRIX") == "all"
CASES = [(seed, data) for seed in range(10 if ALL else 1) for data in (SOURCES if ALL else ["embedded"])]


@pytest.mark.parametrize(("seed", "data"), CASES, ids=lambda one: str(one))
@pytest.mark.parametrize("style", STYLES)
def test_no_right_program_is_blamed(style, seed, data):
    source = (RIGHT / f"{style}.py").read_text(encoding="utf-8")
    found = review.submission(run(source, seed=seed, data=data))
    assert not [(one.task, finding) for one in found for finding in one.findings]
    assert all(one.seen for one in found if one.task != "conclusion"), found.text()


@pytest.mark.parametrize(("seed", "data"), CASES, ids=lambda one: str(one))
@pytest.mark.parametrize("program", WRONG, ids=lambda one: f"{one.mistakes.replace(' ', '+')}-{one.base}")
def test_each_mistake_is_named_and_no_other(program, seed, data):
    found = diagnosis(run(program.source, seed=seed, data=data))
    assert [(task, mistake) for task, mistake, _ in found] == [(program.task, one) for one in program.mistakes.split()]


def test_every_mistake_has_a_program():
    assert {one for program in WRONG for one in program.mistakes.split()} == {*knowledge()["mistakes"]}
