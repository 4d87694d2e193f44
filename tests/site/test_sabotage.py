"""Pages refute a broken `lab`: with one thing turned wrong in a copy of it, they fail by a claim, not by an exception.

Takes minutes: all of it with `LAB_SABOTAGE=1`, as once a week; in the suite, one page.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from execution import code_of

ROOT = Path(__file__).parents[2]
PAGES = {path.stem[:2]: path for path in sorted((ROOT / "docs" / "walkthroughs").glob("*.py"))}

BIASED = '''
class Biased(nn.Conv2d):
    """A convolution with a bias for each pixel."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y + torch.linspace(0, 1, y.shape[-1], dtype=y.dtype)


class LabModel('''
SABOTAGE = {  # what goes wrong -> file, the lines that do it right, the same wrong
    "the sign of shift is turned": [
        ("shifting.py", '    check_choice("mode", mode', '    dy, dx = -dy, -dx\n    check_choice("mode", mode')
    ],
    "where maps can be compared is ignored": [
        ("metrics.py", "    if valid is not None:\n", "    if valid is not None and not valid.any():\n"),
        ("metrics.py", "inside = torch.full((self.outputs,), still)", "inside = torch.full((self.outputs,), True)"),
    ],
    "convolutions have a bias for each pixel": [
        ("models.py", "\nclass LabModel(", BIASED),
        ("models.py", "nn.Conv2d(1, ", "Biased(1, "),
    ],
}
CASES = [
    *(("the sign of shift is turned", page) for page in ("01", "02", "04", "11")),
    *(("where maps can be compared is ignored", page) for page in ("01", "02", "04")),
    *(("convolutions have a bias for each pixel", page) for page in ("01", "04", "05", "08")),
]
CASES = CASES if os.environ.get("LAB_SABOTAGE") else CASES[:1]


def sabotaged(how: str, folder: Path) -> None:
    """A copy of the lab in which one thing is wrong."""
    shutil.copytree(ROOT / "lab", folder / "lab", ignore=shutil.ignore_patterns("__pycache__"))
    for file, right, wrong in SABOTAGE[how]:
        path = folder / "lab" / file
        text = path.read_text(encoding="utf-8")
        assert right in text, f"{file} has changed: {right!r} is not in it"
        path.write_text(text.replace(right, wrong), encoding="utf-8")


@pytest.mark.parametrize(("how", "page"), CASES)
def test_a_page_finds_out_what_is_wrong(how, page, tmp_path, offline_path):
    sabotaged(how, tmp_path)
    (tmp_path / "page.py").write_text(code_of(PAGES[page]), encoding="utf-8")
    paths = os.pathsep.join([str(tmp_path), str(offline_path)])
    environment = os.environ | {
        "PYTHONPATH": paths,
        "MPLBACKEND": "agg",
        "LAB_DATA": str(tmp_path / "data"),
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
    }
    ended = subprocess.run([sys.executable, "page.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    last = ended.stderr.strip().splitlines()[-1:]
    assert ended.returncode != 0, "the page believed it"
    assert last[0].startswith("lab.errors.ClaimError: "), ended.stderr[-1500:]
