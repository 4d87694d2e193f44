"""What is installed and shipped: known releases that fit the bounds, a complete source package, a whole wheel."""

import email
import importlib.util
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
KNOWN = {canonicalize_name(name): Version(version) for name, version in (line.split("==") for line in LINES)}
CACHES = {"__pycache__", ".ruff_cache", ".mypy_cache", ".pytest_cache", ".ipynb_checkpoints"}
ADDRESSES = {"REPOSITORY_URL": "https://github.com/someone/the-lab", "SITE_URL": "https://lab.example/"}


def script(name: str):
    """A module of the folder .ci, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CONSTRAINTS = script("constraints")
REQUIREMENTS = [Requirement(line) for line in CONSTRAINTS.declared(PROJECT)]
TOOLS = [Requirement(line) for line in PROJECT["optional-dependencies"]["test"][1:]]


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda requirement: requirement.name)
def test_a_known_release_of_each_dependency_fits_its_bounds(requirement):
    assert KNOWN[canonicalize_name(requirement.name)] in requirement.specifier


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_linters_and_test_tools_are_pinned_to_the_known_release(tool):
    assert str(tool.specifier) == f"=={KNOWN[canonicalize_name(tool.name)]}"


def test_the_known_releases_fit_every_platform():
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in LINES)  # no +cpu, no path, no marker
    assert not [name for name in KNOWN if name.startswith(("nvidia", "cuda", "triton"))]


def test_of_what_is_installed_the_releases_are_kept_and_what_only_one_platform_needs_is_not():
    frozen = """\
torch==2.14.1+cpu
nvidia-cublas==13.1
triton==3.8
Jinja2==3.1
-e /somewhere/lab
other @ file:///x
ruff==0.17.6
"""
    assert CONSTRAINTS.known(frozen) == ["Jinja2==3.1", "ruff==0.17.6", "torch==2.14.1"]


def test_the_oldest_release_is_the_lower_bound():
    bounds = ["torch>=2.9", "mkdocs>=1.6.1,<2", "mkdocstrings[python]>=1.0", "ruff==0.17.6"]
    assert CONSTRAINTS.oldest(bounds) == ["torch==2.9", "mkdocs==1.6.1", "mkdocstrings==1.0", "ruff==0.17.6"]
    for requirement, pin in zip(REQUIREMENTS, CONSTRAINTS.oldest(CONSTRAINTS.declared(PROJECT)), strict=True):
        name, version = pin.split("==")
        assert name == requirement.name
        assert version in requirement.specifier


@pytest.mark.parametrize(
    ("options", "taken"),
    [((), "--constraint constraints.txt"), (("CONSTRAINTS=",), ""), (("CONSTRAINTS=o.txt",), "--constraint o.txt")],
    ids=["as a rule", "the newest", "another list"],
)
def test_make_installs_what_is_known_to_work_unless_told_otherwise(options, taken, tmp_path):
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    for name in ("pyproject.toml", "constraints.txt", "o.txt"):
        (tmp_path / name).touch()
    environment = {name: value for name, value in os.environ.items() if name not in ("CONSTRAINTS", "MAKEFLAGS")}
    for target in ("run", "site", "test"):
        command = ["make", "--dry-run", f".venv/{target}.stamp", *options]
        said = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout
        (install,) = (line for line in said.splitlines() if "pip install" in line)
        assert re.search(r"--quiet (.*?) ?--editable", install)[1] == taken


LINTED = ["ruff has said check", "ruff has said format", "mypy has said"]


@pytest.mark.parametrize(
    ("failing", "expected"),
    [
        ("nothing", ["pytest has said -n", *LINTED]),
        ("ruff check", ["pytest has said -n", *LINTED[:1]]),
        ("mypy", ["pytest has said -n", *LINTED]),
        ("pytest", ["pytest has said -n", "pytest has said --last-failed", *LINTED]),
        ("pytest -n", ["pytest has said -n", "pytest has said --last-failed", *LINTED]),
    ],
)
def test_make_test_lints_beside_the_tests_and_fails_with_either(failing, expected, tmp_path):
    """And runs failed tests once more on their own."""
    made = make_test(tmp_path, failing, code=1)
    assert (made.returncode == 0) == (failing in ("nothing", "pytest -n"))
    assert [line for line in made.stdout.splitlines() if " has said" in line] == expected


@pytest.mark.parametrize("code", [2, 3, 5])
def test_make_test_does_not_go_on_after_an_interrupt_or_an_error_of_pytest(code, tmp_path):
    made = make_test(tmp_path, "pytest -n", code)
    assert made.returncode != 0
    assert "--last-failed" not in made.stdout


def make_test(folder: Path, failing: str, code: int) -> subprocess.CompletedProcess:
    """`make test` where programs only say that they run; those whose command begins with `failing` end with `code`."""
    (folder / "Makefile").write_text((ROOT / "Makefile").read_text())
    for name in ("pyproject.toml", "constraints.txt", "tests/browser.py", "bin/python"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    (folder / ".venv").mkdir()
    for stamp in ("python", "run", "site", "test", "browser"):
        (folder / ".venv" / f"{stamp}.stamp").touch()
    for name in ("pytest", "ruff", "mypy"):
        program = folder / "bin" / name
        ends = f'case "{name} $*" in "{failing}"*) exit {code};; esac'
        program.write_text(f"#!/bin/sh\necho {name} has said $1\n{ends}\n")
        program.chmod(0o755)
    return subprocess.run(["make", "test", "BIN=bin"], cwd=folder, capture_output=True, text=True)


def built(folder: Path, kind: str, source: Path = ROOT, **addresses: str) -> Path:
    """The package that hatchling builds from a source tree: no network, no environment of its own."""
    environment = {name: value for name, value in os.environ.items() if name not in ADDRESSES} | addresses
    command = [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", folder]
    subprocess.run(command, cwd=source, env=environment, check=True, capture_output=True)
    (package,) = folder.glob("*.tar.gz" if kind == "sdist" else "*.whl")
    return package


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """The source package, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(built(folder, "sdist", **ADDRESSES)) as archive:
        archive.extractall(folder, filter="data")
    (inside,) = (path for path in folder.iterdir() if path.is_dir())
    return inside


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    """The wheel, built from the source package as an index's users build it: nobody names an address again."""
    return zipfile.ZipFile(built(tmp_path_factory.mktemp("wheel"), "wheel", sdist))


def files(*folders: str) -> set[str]:
    """The tree's files, without what running the lab leaves among them."""
    found = (path.relative_to(ROOT) for name in folders for path in (ROOT / name).rglob("*") if path.is_file())
    return {path.as_posix() for path in found if not CACHES & set(path.parts)}


def test_the_source_package_builds_the_site_and_runs_the_tests(sdist):
    top = {
        "mkdocs.yml",
        "constraints.txt",
        "Makefile",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "CITATION.cff",
    }
    wanted = top | files("lab", "docs", "tests", ".ci", ".github")
    assert not {name for name in wanted if not (sdist / name).is_file()}
    ignored = (".venv", ".cache", ".data", "site", "lab-report")
    assert not {name for name in ignored if (sdist / name).exists()}


def test_the_wheel_holds_the_whole_package_and_nothing_else(wheel):
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == files("lab") | {"lab/review/edition.txt"}  # what `lab exercise` writes
    assert wheel.read("lab/review/edition.txt") == (ROOT / "docs" / "exercise" / "exercise.py").read_bytes()
    assert {"lab/py.typed", "lab/embedded/mnist10k.npz", "lab/metering/__init__.py"} <= names
    assert any(name.endswith(".html") for name in names)
    licences = {name.partition("licenses/")[2] for name in wheel.namelist() if "licenses/" in name}
    assert licences == {"LICENSE", "lab/embedded/LICENSE.md"}


def test_an_index_shows_working_links_and_the_addresses_that_the_builder_named(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = email.message_from_bytes(wheel.read(name))
    repository = ADDRESSES["REPOSITORY_URL"]
    assert f"Repository, {repository}" in metadata.get_all("Project-URL")
    assert "Documentation, https://lab.example/" in metadata.get_all("Project-URL")
    text = metadata.get_payload(decode=True).decode()
    assert f"]({repository}/raw/main/docs/assets/pair.png)" in text
    assert f"]({repository}/blob/main/LICENSE)" in text
    assert not re.findall(r"\]\((?!https?://|#)", text)


def test_without_an_address_none_is_invented():
    addresses = script("metadata")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert addresses.readme(text, "") == text
    assert addresses.urls("", "") == {}
