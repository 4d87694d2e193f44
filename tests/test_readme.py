"""The README keeps its word: its example runs, its commands and files exist, its options are those of the program."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


def run_example(tmp_path, marker: str) -> str:
    (code,) = (code for code in re.findall(r"```python\n(.*?)```", TEXT, re.S) if marker in code)
    code = code.replace("lab.load_mnist()", "lab.load_mnist('embedded')")
    code = code.replace("mnist.train,", "mnist.train.sample(1_000, seed=0),")  # what it prints needs no better network
    options = {"capture_output": True, "text": True, "check": True, "cwd": tmp_path}
    return subprocess.run([sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": "1"}, **options).stdout


def test_the_example_runs_and_prints_what_its_comments_say(tmp_path):
    out = run_example(tmp_path, "translated_pairs")
    equivariance, invariance = (float(v) for v in re.findall(r"tensor\((\S+), dtype", out))
    assert equivariance <= 1e-6
    assert 0.1 < invariance < 1.1


def test_the_meters_example_tells_exact_layers_from_broken_ones(tmp_path):
    rows = dict(re.findall(r"\('(\w+)', '(\w+)', ", run_example(tmp_path, "lab.meter")))
    assert rows["conv1"] == "exact"
    assert rows["pool1"] == rows["fc1"] == "broken"


def test_every_linked_file_and_make_target_exists():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", TEXT):
        assert (ROOT / target).exists(), target
    makefile = (ROOT / "Makefile").read_text()
    for name in re.findall(r"make (lab|test|course|serve|bench)", TEXT):
        assert re.search(rf"^{name}:", makefile, re.M), name


def test_without_make_the_same_releases_are_installed():
    assert "pip install -c constraints.txt -e '.[test]'" in TEXT


def test_it_names_every_folder_of_the_package():
    folders = {path.parent.name for path in (ROOT / "lab").glob("*/__init__.py")}
    assert not {name for name in folders if f"`{name}/`" not in TEXT}


@pytest.mark.parametrize(
    ("command", "heading"),
    [
        ("run", "## What `lab run` does"),
        ("exercise", "## Do it yourself"),
        ("meter", "## Use it on your own"),
        ("tile", "## Cut large images"),
        ("shiftmap", "## Every shift at once"),
        ("export", "## The network in the page"),
        ("review", "## Review a class"),
    ],
    ids=["run", "exercise", "meter", "tile", "shiftmap", "export", "review"],
)
def test_the_table_of_options_is_complete(command, heading):
    program = [Path(sys.executable).with_name("lab"), command, "--help"]
    environment = os.environ | {"COLUMNS": "200", "NO_COLOR": "1"}
    help_text = subprocess.run(program, env=environment, capture_output=True, text=True, check=True).stdout
    (section,) = (part for part in re.split(r"^(?=## )", TEXT, flags=re.M) if part.startswith(heading))
    table = "\n".join(line.split("|")[1] for line in section.splitlines() if line.startswith("| `--"))
    documented = set(re.findall(r"--[a-z-]+", table)) | {"--help"}
    hidden = {"run": {"--cache", "--json"}, "meter": {"--seed"}}.get(command, set())  # said otherwise, or alike for all
    assert documented | hidden == set(re.findall(r"--[a-z-]+", help_text))
