"""What records come to, by records written by hand."""

import math
from dataclasses import replace

import pytest

import lab
from lab.errors import InputError
from lab.study.plans import Study
from lab.study.results import StudyResult, numbers, right
from lab.study.runs import Record

GOOD, BAD = lab.Setting(pooling="adaptive"), lab.Setting(pooling="max")
LABELS = "0123"


def record(setting, seed, in_place, moved, training=1.0):
    maps = {"accuracy": [[0.1 * seed] * 17] * 17, "agreement": [[1.0 - seed] * 17] * 17}
    spent = {"training": training, "measuring": 9.0}
    return Record(setting, seed, parameters=5, labels=LABELS, in_place=in_place, moved=moved, seconds=spent, **maps)


@pytest.fixture
def result():
    records = (
        record(BAD, 0, "0123", "0000"),
        record(GOOD, 0, "0122", "0122", training=2.0),
        record(BAD, 1, "0123", "0100"),
        record(GOOD, 1, "0123", "0123", training=4.0),
    )
    return StudyResult(
        Study("hand", "By hand", 2, {"pooling": ["max", "adaptive"]}), records, "MNIST", "sha", "version"
    )


def test_the_numbers_of_a_record_are_shares_of_its_digits(result):
    found = numbers(result.records[2])
    assert (found.accuracy, found.moved, found.consistency) == (1.0, 0.5, 0.5)
    assert found.kappa == pytest.approx((0.5 - 0.25) / 0.75)  # by chance 3/4 · 1/4 + 1/4 · 1/4 = 1/4
    assert right(result.records[2]) == [True] * 4
    assert right(result.records[2], moved=True) == [True, True, False, False]


def test_the_best_setting_comes_first(result):
    assert [setting for setting, _ in result.ranking("moved")] == [GOOD, BAD]
    assert [setting for setting, _ in result.ranking("accuracy")] == [BAD, GOOD]


def test_means_are_over_the_runs_that_have_the_values(result):
    assert result.interval("moved", pooling="max").mean == pytest.approx((0.25 + 0.5) / 2)
    assert result.seconds(pooling="adaptive") == 3.0
    assert result.map_of("accuracy", pooling="max")[0, 0] == pytest.approx(0.05)
    assert result.map_of("agreement", pooling="max")[0, 0] == pytest.approx(0.5)


def test_the_second_setting_is_compared_with_the_first_on_the_digits_that_are_asked_for(result):
    first, second = {"pooling": "max"}, {"pooling": "adaptive"}
    assert result.compare(first, second, moved=True).difference.mean == pytest.approx((0.5 + 0.5) / 2)
    assert result.compare(first, second).difference.mean == pytest.approx(-0.125)


def test_a_run_that_failed_counts_nowhere_but_in_the_rows(result):
    failed = Record(BAD, 0, failure="no memory")
    less = replace(result, records=(failed, *result.records[1:]))
    assert less.of(pooling="max") == (result.records[2],)
    assert less.failed == (failed,)
    assert math.isnan(less.interval("moved", pooling="max").spread)
    assert less.rows()[0]["failure"] == "no memory"
    assert less.rows()[0]["moved"] == ""
    with pytest.raises(InputError, match="as many seeds of both"):
        less.compare({"pooling": "max"}, {"pooling": "adaptive"})
    with pytest.raises(InputError, match="a ranking needs two settings and two seeds"):
        less.stability("moved")  # one setting is left that has all its seeds


def test_no_run_and_no_factor_are_refused(result):
    with pytest.raises(InputError, match="no run of the study hand has"):
        result.of(pooling="blur")
    with pytest.raises(InputError, match="factors must be of"):
        result.of(colour="red")
