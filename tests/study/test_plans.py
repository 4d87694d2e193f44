"""A study as data: what a file may say, and what is refused."""

import pytest

import lab
from lab.errors import InputError
from lab.study.plans import known_studies

GOOD = 'title = "One"\nseeds = 1\n[factors]\nhead = ["flatten"]\n'


@pytest.fixture
def file(tmp_path):
    def write(text):
        (tmp_path / "own.toml").write_text(text, encoding="utf-8")
        return tmp_path / "own.toml"

    return write


def test_the_studies_of_the_lab_are_named_and_can_be_loaded():
    names = [study.name for study in known_studies()]
    assert "remedies" in names
    assert all(lab.load_study(name).settings for name in names)


def test_the_study_of_the_page_has_18_settings_and_5_seeds():
    study = lab.load_study("remedies")
    assert (len(study.settings), study.seeds, len(list(study.runs()))) == (18, 5, 90)


def test_runs_go_seed_by_seed_so_that_a_part_has_some_of_everything(tiny):
    assert [run.seed for run in tiny.runs()] == [0, 0, 1, 1]


def test_a_file_is_named_after_itself_and_seeds_can_be_changed(file):
    study = lab.load_study(file(GOOD), seeds=7)
    assert (study.name, study.seeds, len(study.settings)) == ("own", 7, 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD + 'padings = ["none"]', "a factor must be one of head, pooling.*'padings'"),
        (GOOD + 'pooling = ["median"]', "pooling must be one of max, average.*'median'"),
        (GOOD + "head = 3", "must be TOML"),
        ("seeds = 0\n[factors]\nhead = ['flatten']", "seeds must be a whole number, at least 1: 0"),
        ("[factors]\nhead = []", "head must be a list of different values, at least one"),
        ("[factors]\nhead = ['flatten', 'flatten']", "different values"),
        ("seed = 3\n[factors]\nhead = ['flatten']", "a key must be one of title, about, seeds, factors: 'seed'"),
        ("seeds = 3", "factors"),
        ("<xml/>", "must be TOML"),
        ("[factors]\ndigits = [0]", "digits must be a whole number, at least 1: 0"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_file_that_makes_no_study_is_refused_in_one_line(file, text, said):
    with pytest.raises(InputError, match=said) as caught:
        lab.load_study(file(text))
    assert "\n" not in str(caught.value)


def test_an_unknown_name_is_refused_and_the_known_ones_are_named():
    with pytest.raises(InputError, match=r"study must be one of remedies.*'cures'"):
        lab.load_study("cures")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        lab.load_study(tmp_path / "none.toml")
