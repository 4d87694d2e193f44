"""The student's edition on the site: a blank and a solved one, one click from the page, and none that is wrong."""

import re
import shutil
from types import SimpleNamespace

import nbformat
import pytest
from test_build import CONFIG, PAGE, executed, line_of

EXERCISE = """\
# %% [markdown]
# # An exercise
#
# With $a < b$, and a link to [a page](a.py).

# %%
import lab

value = None  # your code
### BEGIN SOLUTION
value = 41 + 1
print("The value is", value)
### END SOLUTION

# %%
### BEGIN SOLUTION
assert value == 42, "the review finds a mistake"
### END SOLUTION
"""
HOME = "# Home\n\nBlank: <!-- exercise: blank -->\n\nSolved: <!-- exercise: solved -->\n"


@pytest.fixture(scope="module")
def good(mkdocs, tmp_path_factory):
    """A small site with one walkthrough and an exercise."""
    folder = tmp_path_factory.mktemp("good")
    config = CONFIG.replace("strict: true", "strict: true\nsite_url: !ENV [SITE_URL, '']\nexclude_docs: /exercise/")
    (folder / "mkdocs.yml").write_text(config)
    for name, text in {"walkthroughs/a.py": PAGE, "exercise/exercise.py": EXERCISE, "index.md": HOME}.items():
        path = folder / "docs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "docs" / "other.md").write_text("# Other\n\nGood.\n")
    return SimpleNamespace(folder=folder, built=mkdocs(folder))


@pytest.fixture
def project(good, tmp_path):
    return shutil.copytree(good.folder, tmp_path / "site", ignore=shutil.ignore_patterns("site"))


def test_both_editions_lie_beside_the_walkthroughs_and_the_source_does_not(good):
    assert good.built.returncode == 0, good.built.stderr
    assert sorted(executed(good.built.stderr)) == ["a", "exercise"]
    names = {path.name for path in (good.folder / "site" / "walkthroughs").iterdir()}
    assert {f"{stem}{ending}" for stem in ("exercise", "exercise_solved") for ending in (".ipynb", ".py")} <= names
    assert not (good.folder / "site" / "exercise").exists()


def test_the_blank_one_has_no_solution_and_the_solved_one_what_it_printed(good):
    folder = good.folder / "site" / "walkthroughs"
    blank, solved = (nbformat.read(folder / f"{name}.ipynb", as_version=4) for name in ("exercise", "exercise_solved"))
    nbformat.validate(blank)
    nbformat.validate(solved)
    sources = ["\n".join(cell.source for cell in notebook.cells) for notebook in (blank, solved)]
    assert "value = None  # your code" in sources[0]
    assert "[a page](a.ipynb)" in sources[0]
    assert "41 + 1" not in sources[0]
    assert "41 + 1" in sources[1]
    assert not any(cell.get("outputs") for cell in blank.cells)
    assert "The value is 42\n" in [output.text for cell in solved.cells for output in cell.get("outputs", [])]
    assert "41 + 1" not in (folder / "exercise.py").read_text()
    assert (folder / "exercise_solved.py").read_text() == EXERCISE


def links(page: str) -> list[str]:
    return re.findall(r'<a href="([^"]*exercise[^"]*)"', page)


def test_a_page_links_to_them_and_to_colab_where_the_repository_is_known(good, project, mkdocs):
    files = [f"walkthroughs/{stem}{end}" for stem in ("exercise", "exercise_solved") for end in (".ipynb", ".py")]
    assert links((good.folder / "site" / "index.html").read_text()) == files
    built = mkdocs(project, REPOSITORY_URL="https://github.com/someone/the-lab/", SITE_URL="https://lab.example/it/")
    assert not executed(built.stderr)
    colab = "https://colab.research.google.com/github/someone/the-lab/blob/notebooks/exercise"
    expected = [*files[:2], f"{colab}.ipynb", *files[2:], f"{colab}_solved.ipynb"]
    assert links((project / "site" / "index.html").read_text()) == expected
    notebook = nbformat.read(project / "site" / "walkthroughs" / "exercise.ipynb", as_version=4)
    assert '%pip install -q "equivariance-lab @ git+https://github.com/someone/the-lab"' in notebook.cells[0].source
    assert "[a page](https://lab.example/it/walkthroughs/a.html)" in notebook.cells[1].source


def test_a_mistake_in_the_solved_one_fails_the_build_with_its_line(project, mkdocs):
    source = project / "docs" / "exercise" / "exercise.py"
    source.write_text(EXERCISE.replace("41 + 1", "41 + 2"))
    built = mkdocs(project)
    assert built.returncode != 0
    line = line_of(source, "assert value")
    assert f"docs/exercise/exercise.py:{line}: cell failed: AssertionError: the review finds a mistake" in built.stderr


def test_an_unknown_edition_fails_the_build_with_its_line(project, mkdocs):
    (project / "docs" / "index.md").write_text("# Home\n\nA line.\n\n<!-- exercise: easy -->\n")
    built = mkdocs(project)
    assert built.returncode != 0
    assert "index.md:5: no edition of the exercise is called 'easy'" in built.stderr


def test_page_3_offers_the_blank_edition_on_its_first_screen_and_no_solution(site):
    opening = (site / "walkthroughs" / "03_exercise.html").read_text(encoding="utf-8").partition("<figure")[0]
    assert links(opening)[-2:] == ["exercise.ipynb", "exercise.py"]
    assert "exercise_solved" not in opening
    assert all((site / "walkthroughs" / name).is_file() for name in links(opening)[-2:])


def test_the_solution_is_one_click_further_away_than_the_blank_edition(site):
    text = (site / "exercise.html").read_text(encoding="utf-8")
    folded = "".join(re.findall(r"<details.*?</details>", text, re.S))
    assert [link for link in links(text) if "solved" in link] == [link for link in links(folded) if "solved" in link]
    assert links(folded)[:2] == ["walkthroughs/exercise_solved.ipynb", "walkthroughs/exercise_solved.py"]
    assert {"walkthroughs/exercise.ipynb", "walkthroughs/exercise.py"} <= set(links(text))
