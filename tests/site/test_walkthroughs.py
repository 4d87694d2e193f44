"""The walkthroughs as text and as programs: each has its parts, and each runs as a plain script."""

import os
import re
import subprocess
import sys
from pathlib import Path

import execution
import execution_cache
import jupytext
import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "docs" / "walkthroughs").glob("[0-9]*.py"))
CELL_LINES = 15
each = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def cells(path: Path, kind: str) -> list[str]:
    return [cell.source for cell in jupytext.read(path).cells if cell.cell_type == kind]


def code(source: str) -> list[str]:
    return [line for line in source.splitlines() if line.strip() and not line.startswith("#|")]


def test_the_course_has_its_eight_pages():
    assert [path.stem[:2] for path in FILES] == ["01", "02", "03", "04", "05", "06", "07", "08"]


@each
def test_page_has_its_parts(path):
    first, *_ = cells(path, "markdown")
    prose = "\n\n".join(cells(path, "markdown"))
    assert first.startswith("---\ndescription: ")
    assert len(re.findall(r"^# ", prose, re.M)) == 1, "one H1"
    assert '!!! abstract "After this page you can"' in first
    assert len(re.findall(r"^!!! question \"Predict", prose, re.M)) >= 1
    answers = len(re.findall(r'^\?\?\? success "Answer', prose, re.M))
    assert answers >= len(re.findall(r"^!!! question", prose, re.M))
    for heading in ("## What you should have seen", "## Theory and observation", "## Try it yourself"):
        assert f"\n{heading}\n" in f"\n{prose}\n", heading


@each
def test_exercises_have_executed_solutions(path):
    exercises = re.findall(r"\*\*Exercise (\d)", "\n".join(cells(path, "markdown")))
    solutions = re.findall(r'^#\| fold: "?Solution (\d)', "\n".join(cells(path, "code")), re.M)
    assert 2 <= len(exercises) <= 4
    assert set(exercises) == set(solutions)


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
def test_claims_are_the_last_code_before_the_exercises(path):
    with_claims = [source for source in cells(path, "code") if "lab.check(" in source]
    assert len(with_claims) == 1
    assert "data=mnist" in with_claims[0]
    assert "seeds=" in with_claims[0]


@each
def test_measured_numbers_are_not_typed(path):
    """Decimals in the prose are values of the run, except those of definitions."""
    allowed = {"0.1307", "0.3081", "0.424", "0.5", "2.30", "0.0"}
    prose = re.sub(
        r"\{\{ .+? \}\}|`[^`]*`|```.*?```|\$[^$]*\$|\]\([^)]*\)|<[^>]+>",
        "",
        "\n".join(cells(path, "markdown")),
        flags=re.S,
    )
    typed = set(re.findall(r"(?<![\w.])\d+\.\d+(?![\w.])", prose)) - allowed
    assert not typed


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """A data root without digits, in which a walkthrough finds the networks that an earlier one has trained."""
    return tmp_path_factory.mktemp("networks")


@each
def test_walkthrough_runs_as_a_plain_script_on_the_embedded_digits(path, networks, offline_path, monkeypatch):
    """Once for each state of all that it depends on, as the site executes it: what has run so is kept below .cache."""
    monkeypatch.setenv("LAB_DATA", str(networks))
    ran = ROOT / ".cache" / "scripts" / path.stem / execution_cache.digest(execution.code_of(path), path.read_text())
    if ran.exists():
        return
    env = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", "PYTHONPATH": str(offline_path)}
    done = subprocess.run([sys.executable, path], env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "using the 10,000 embedded digits" in done.stderr
    ran.parent.mkdir(parents=True, exist_ok=True)
    ran.touch()
    execution_cache.drop_oldest(ran.parent, execution_cache.KEPT)
