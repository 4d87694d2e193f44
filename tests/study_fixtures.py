"""A study that takes a second a run, and where its records are."""

from pathlib import Path

import pytest
from filelock import FileLock

import lab
from lab.study.plans import Study

TINY = {"pooling": ["max", "adaptive"], "head": ["maximum"], "digits": [64], "epochs": [1], "width": [2]}


@pytest.fixture(scope="session")
def tiny() -> Study:
    return Study("tiny", "Does it run?", 2, TINY)


@pytest.fixture(scope="session")
def embedded() -> lab.Mnist:
    return lab.load_mnist("embedded")


@pytest.fixture(scope="session")
def records(shared, tiny, embedded) -> Path:
    """A folder with the records of the tiny study, made once."""
    folder = shared / "studies"
    with FileLock(f"{folder}.lock"):
        lab.run_study(tiny, embedded, folder=folder)
    return folder


@pytest.fixture(scope="session")
def done(tiny, embedded, records) -> lab.StudyResult:
    return lab.run_study(tiny, embedded, folder=records)
