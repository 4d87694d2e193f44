"""The README keeps its word: its example runs, its commands and files exist, its options are those of the program."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


def test_the_example_runs_and_prints_what_its_comments_say(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    code = code.replace("lab.load_mnist()", "lab.load_mnist('embedded')")
    options = {"capture_output": True, "text": True, "check": True, "cwd": tmp_path}
    out = subprocess.run([sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": "1"}, **options).stdout
    equivariance, invariance = (float(v) for v in re.findall(r"tensor\((\S+), dtype", out))
    assert equivariance <= 1e-6
    assert 0.1 < invariance < 1.1


def test_every_linked_file_and_make_target_exists():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", TEXT):
        assert (ROOT / target).exists(), target
    makefile = (ROOT / "Makefile").read_text()
    for name in re.findall(r"make (lab|test|course|serve|bench)", TEXT):
        assert re.search(rf"^{name}:", makefile, re.M), name


def test_the_table_of_options_is_complete():
    command = [Path(sys.executable).with_name("lab"), "run", "--help"]
    environment = os.environ | {"COLUMNS": "200", "NO_COLOR": "1"}
    help_text = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    documented = set(re.findall(r"^\| `(--[a-z-]+)`", TEXT, re.M)) | {"--json", "--help", "--cache"}
    assert documented == set(re.findall(r"--[a-z-]+", help_text))
