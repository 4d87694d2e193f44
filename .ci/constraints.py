"""Writes the two lists of releases that the package is tested with: `python .ci/constraints.py known` or `oldest`.

`known` is what is installed here, all of which works together; `make constraints` keeps it in constraints.txt. `oldest`
is the lower bound of each dependency in pyproject.toml; `make oldest` runs the tests on them.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parent.parent / "pyproject.toml"
# PyTorch's own choice, exact already, and another one on each platform; and the installer
PLATFORM = re.compile(r"(nvidia|cuda|triton|pip$|setuptools$|wheel$)")
KNOWN = """\
# Releases that are known to work together, on Python 3.11 and newer. Made by `make constraints`: do not edit.
# What only one platform needs (PyTorch's libraries for GPUs) is left out.
"""
OLDEST = """\
# The oldest release that pyproject.toml allows, of each dependency. Made by .ci/constraints.py.
"""


def declared(project: dict) -> list[str]:
    """Every requirement of the package and of its extras but for the package itself."""
    extras = project["optional-dependencies"]
    everything = [*project["dependencies"], *(one for extra in extras.values() for one in extra)]
    return [one for one in everything if not one.startswith(project["name"])]


def known(frozen: str) -> list[str]:
    """What `pip freeze` prints, as constraints for any platform: no GPU libraries, no local version like `+cpu`."""
    pins = [line.partition("+")[0] for line in frozen.splitlines() if re.fullmatch(r"[\w.-]+==\S+", line)]
    return sorted((pin for pin in pins if not PLATFORM.match(pin.partition("==")[0])), key=str.lower)


def oldest(requirements: list[str]) -> list[str]:
    """Each lower bound as a pin."""
    return [re.sub(r"(\[\w+\])?[>=]=([^,]+).*", r"==\2", requirement) for requirement in requirements]


if __name__ == "__main__":
    if sys.argv[1:] == ["known"]:
        freeze = [sys.executable, "-m", "pip", "freeze", "--exclude-editable"]
        lines = known(subprocess.run(freeze, check=True, capture_output=True, text=True).stdout)
        sys.stdout.write(KNOWN + "\n".join(lines) + "\n")
    elif sys.argv[1:] == ["oldest"]:
        lines = oldest(declared(tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]))
        sys.stdout.write(OLDEST + "\n".join(lines) + "\n")
    else:
        sys.exit(__doc__)
