"""A warning fails the build, whatever warns and however the build was started."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from patience import PROGRAM

ROOT = Path(__file__).parents[2]
CONFIG = f"""
site_name: Test
strict: true
use_directory_urls: false
theme: {{name: mkdocs}}
hooks: [{ROOT}/docs/_hooks/course.py, other.py]
plugins: [mkdocstrings]
validation: {{omitted_files: warn, absolute_links: warn, unrecognized_links: warn, anchors: warn}}
nav: [index.md]
"""
HOME = """\
# Home

[a](none.md)

[b](#none)

[c][lab.none]

[d](/index.html)

[e](folder)
"""
HOOK = """
import logging, warnings
def on_nav(nav, **_):
    logging.getLogger("mkdocs.plugins.other").{level}("a plugin's words")
    logging.getLogger("other").{level}("a library's words")
    warnings.warn_explicit("Python's words", {category}, "other.py", 1)
"""
SAID = (
    "docs/index.md:3: Doc file 'index.md' contains a link 'none.md'",
    "docs/index.md:5: Doc file 'index.md' contains a link '#none'",
    "docs/index.md:7: ",
    "docs/index.md:9: Doc file 'index.md' contains an absolute link '/index.html'",
    "docs/index.md:11: Doc file 'index.md' contains an unrecognized relative link 'folder'",
    "forgotten.md",
    "a plugin's words",
    "a library's words",
    "Python's words",
)
WAYS = {
    "build": [sys.executable, "-m", "mkdocs", "build"],
    "build quietly": [sys.executable, "-m", "mkdocs", "build", "--quiet"],
    "make site": ["make", "site", f"BIN={Path(sys.executable).parent}"],
    "serve": [sys.executable, "-m", "mkdocs", "serve", "--dev-addr", "127.0.0.1:0"],
}


@pytest.fixture
def project(tmp_path):
    """A small site without a fault, where others say that all is well."""
    (tmp_path / "mkdocs.yml").write_text(CONFIG)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Home\n")
    (tmp_path / "other.py").write_text(HOOK.format(level="info", category="DeprecationWarning"))
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "constraints.txt").touch()
    (tmp_path / ".venv").mkdir()
    for stamp in ("python", "run", "site"):
        (tmp_path / ".venv" / f"{stamp}.stamp").touch()
    return tmp_path


def start(way: str, folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run(WAYS[way], cwd=folder, capture_output=True, text=True, timeout=PROGRAM)


@pytest.mark.parametrize("way", WAYS)
def test_each_kind_of_warning_is_told_and_fails_the_build(way, project):
    (project / "docs" / "index.md").write_text(HOME)
    (project / "docs" / "forgotten.md").write_text("# Forgotten\n")
    (project / "other.py").write_text(HOOK.format(level="warning", category="UserWarning"))
    built = start(way, project)
    text = built.stdout + built.stderr
    assert built.returncode != 0, text
    assert not [words for words in SAID if words not in text], text
    assert f"Aborted with {len(SAID)} warnings in strict mode" in text  # so each of them has counted


@pytest.mark.parametrize("way", ["build quietly", "make site"])
def test_a_site_without_a_warning_is_built(way, project):
    built = start(way, project)
    assert built.returncode == 0, built.stdout + built.stderr
    assert (project / "site" / "index.html").is_file()
    if way == "build quietly":
        assert not built.stdout + built.stderr


def test_the_site_itself_is_built_strictly():
    config = (ROOT / "mkdocs.yml").read_text()
    assert "\nstrict: true\n" in config
    (validation,) = re.findall(r"^validation:\n((?:  .*\n)+)", config, re.M)
    assert set(re.findall(r": (\w+)", validation)) == {"warn"}
    assert validation.count("warn") == 4
