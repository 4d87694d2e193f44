"""Building the site: what must fail fails with page and line, what is cached is right, what was good stays."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import execution_cache
import nbformat
import psutil
import pytest
import rendering
from execution import WalkthroughError
from patience import PROGRAM, heeds_interrupts

ROOT = Path(__file__).parents[2]
CONFIG = f"""
site_name: Test
strict: true
use_directory_urls: false
theme: {{name: material, font: false}}
hooks: [{ROOT}/docs/_hooks/course.py]
plugins:
  - mkdocs-jupyter: {{include: ["walkthroughs/*.py"], include_source: true}}
markdown_extensions:
  - admonition
  - attr_list
  - md_in_html
  - pymdownx.details
  - pymdownx.superfences
  - pymdownx.arithmatex: {{generic: true}}
validation: {{anchors: warn, unrecognized_links: warn}}
"""
PAGE = """\
# %% [markdown]
# ---
# description: A test.
# ---
# # A page
#
# Twice {{ value }} is {{ 2 * value:.1f }}, and $a < b$; see [the other](../other.md).

# %%
import lab

value = 1

# %%
control = lab.Control("null", 1.0, ">=", 0.5)
lab.check([lab.Claim("nothing", "exact", 0.0, 0.0 * value, (control,), kind="exact")], seeds=[7])
"""
PAGE = PAGE.replace("# Twice", "# Before any code.\n\n# %%\nvalue = 1\n\n# %% [markdown]\n# Twice", 1)
FIGURE = """
# %%
#| alt: A line from lower left to upper right.
#| caption: A line.
import matplotlib.pyplot as plt

fig, ax = plt.subplots()
ax.plot([0, 1])
ax.legend(["line"])
"""


@pytest.fixture(scope="module")
def good(mkdocs, tmp_path_factory):
    """A small site with the course's hooks and two walkthroughs that do the same: as it was built, and what it said."""
    folder = tmp_path_factory.mktemp("good")
    (folder / "mkdocs.yml").write_text(CONFIG)
    pages = folder / "docs" / "walkthroughs"
    pages.mkdir(parents=True)
    (folder / "docs" / "index.md").write_text("# Home\n\nGood.\n")
    (folder / "docs" / "other.md").write_text("# Other\n\nGood, too.\n")
    for name in ("a", "b"):
        (pages / f"{name}.py").write_text(PAGE + FIGURE)
    return SimpleNamespace(folder=folder, built=mkdocs(folder))


@pytest.fixture
def project(good, tmp_path):
    """A copy of the small site, where both walkthroughs have been executed; change its pages in `docs`."""
    return shutil.copytree(good.folder, tmp_path / "site", ignore=shutil.ignore_patterns("site"))


def line_of(path: Path, text: str) -> int:
    return next(n for n, line in enumerate(path.read_text().splitlines(), 1) if text in line)


def executed(said: str) -> list[str]:
    return re.findall(r"Executing (\w+)\.py", said)


def test_a_good_site_builds_and_its_page_says_what_ran(good):
    assert good.built.returncode == 0, good.built.stderr
    assert sorted(executed(good.built.stderr)) == ["a", "b"]
    site = good.folder / "site"
    text = (site / "walkthroughs" / "a.html").read_text()
    assert "Twice 1 is 2.0" in text
    assert "<math" in text
    assert '<div class="nb-svg" role="img" aria-label="A line from lower left to upper right."' in text
    assert "currentColor" in text
    assert "#|" not in text
    assert "matplotlib.legend" not in text
    assert "seed 7" in text
    notebook = nbformat.read(site / "walkthroughs" / "a.ipynb", as_version=4)
    nbformat.validate(notebook)
    sources = [cell.source for cell in notebook.cells]
    assert any("Twice 1 is 2.0" in source for source in sources)
    assert "*A line.*" in sources
    assert not any("#|" in source for source in sources)
    assert (site / "assets" / "fonts" / "stix-two-math.woff2").stat().st_size > 1000


def test_a_site_without_a_live_page_exports_no_network(good):
    site = good.folder / "site"
    assert not (site / "assets" / "live").exists()
    assert not (site / "javascripts" / "live.js").exists()
    assert "live.js" not in (site / "index.html").read_text()


def test_a_repository_that_is_no_address_is_one_line_and_nothing_is_executed(project, mkdocs):
    built = mkdocs(project, "--quiet", REPOSITORY_URL="github.com/someone/lab")
    assert built.returncode == 1
    rule = "REPOSITORY_URL must be an address, as https://github.com/OWNER/NAME: 'github.com/someone/lab'"
    assert built.stderr.count(rule) == 1
    assert not executed(built.stderr)


def test_only_what_changed_runs_again_and_a_known_repository_brings_edit_and_colab_buttons(project, mkdocs):
    config = (project / "mkdocs.yml").read_text().replace("font: false", "font: false, features: [content.action.edit]")
    (project / "mkdocs.yml").write_text(config)
    other = project / "docs" / "walkthroughs" / "b.py"
    other.write_text(other.read_text().replace("A page", "Another page"))
    built = mkdocs(project, REPOSITORY_URL="https://github.com/someone/lab", SITE_URL="https://someone.github.io/lab/")
    assert built.returncode == 0, built.stderr
    assert executed(built.stderr) == ["b"]
    assert "Another page" in (project / "site" / "walkthroughs" / "b.html").read_text()
    text = (project / "site" / "walkthroughs" / "a.html").read_text()
    assert "https://colab.research.google.com/github/someone/lab/blob/notebooks/a.ipynb" in text
    assert "https://github.com/someone/lab/edit/main/docs/walkthroughs/a.py" in text
    first = json.loads((project / "site" / "walkthroughs" / "a.ipynb").read_text())["cells"][0]
    assert "git+https://github.com/someone/lab" in "".join(first["source"])


FAULTS = {
    "failing cell": ("value = 1\n\n# %%\ncontrol", "value = 1 / 0\n\n# %%\ncontrol", "1 / 0", "ZeroDivisionError"),
    "failed claim": ("0.0 * value, (", "0.5 * value, (", "0.5 * value", "nothing: disagree"),
    "killed kernel": ("import lab\n", "import os; os.abort()\n", None, "DeadKernelError"),
    "bad expression": ("{{ 2 * value:.1f }}", "{{ missing }}", "Twice", "{{ missing }} failed: NameError"),
    "expression that warns": (
        "[the other](../other.md).\n",
        "[the other](../other.md),\n# not {{ __import__('warnings').warn('careful') }}.\n",
        "# not",
        "{{ __import__('warnings').warn('careful') }} warned: UserWarning: careful",
    ),
    "expression that prints": ("{{ 2 * value:.1f }}", "{{ print('twice') }}", "Twice", "printed: twice"),
    "bad formula": ("$a < b$", r"$\frac{a$", r"\frac{a", "bad formula"),
    "figure without alt": ("#| alt: A line from lower left to upper right.\n", "", "#| caption: A line.", "no alt"),
    "figure without caption": ("#| caption: A line.\n", "", "#| alt: A line", "no caption"),
    "no description": ("# description: A test.\n", "# title: A test.\n", None, "front matter and a description"),
    "no claims": ("seeds=[7])", "seeds=[7]).failed", None, "must end in lab.check"),
}


BUILT = ("failing cell", "figure without alt", "bad formula")  # where the page is executed, rendered, and converted


def faulty(fault: str, page: Path) -> tuple[str, str]:
    """Writes the page with the fault: what must be said of its place, and of the fault."""
    good, bad, where, message = FAULTS[fault]
    whole = PAGE + (FIGURE if good in FIGURE else "")
    assert good in whole
    page.write_text(whole.replace(good, bad))
    return f"docs/walkthroughs/a.py{f':{line_of(page, where)}' if where else ''}: ", message


@pytest.mark.parametrize("fault", BUILT)
def test_a_fault_in_a_walkthrough_fails_the_build_with_page_and_line(fault, project, mkdocs):
    place, message = faulty(fault, project / "docs" / "walkthroughs" / "a.py")
    built = mkdocs(project)
    assert built.returncode == 1
    assert place in built.stderr, built.stderr
    assert message in built.stderr
    assert "Traceback" not in built.stderr


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault not in BUILT])
def test_a_fault_in_a_walkthrough_is_told_with_page_and_line(fault, tmp_path):
    """In the two steps that the build takes, without MkDocs around them."""
    page = tmp_path / "walkthroughs" / "a.py"
    page.parent.mkdir()
    place, message = faulty(fault, page)
    with pytest.raises(WalkthroughError) as found:
        rendering.render(execution_cache.executed(page, tmp_path / "cache"), "docs/walkthroughs/a.py", "a")
    assert str(found.value).startswith(place)
    assert message in str(found.value)


def test_dead_links_anchors_and_references_fail_the_build_with_page_and_line(project, mkdocs):
    config = project / "mkdocs.yml"
    config.write_text(config.read_text().replace("plugins:\n", "plugins:\n  - mkdocstrings\n"))
    home = project / "docs" / "index.md"
    home.write_text("# Home\n\n[a](none.md)\n\n[b](walkthroughs/a.py#none)\n\n[c][lab.none]\n")
    (project / "docs" / "other.md").unlink()
    line = line_of(project / "docs" / "walkthroughs" / "a.py", "../other.md")
    built = mkdocs(project)
    assert built.returncode == 1
    for place in ("index.md:3", "index.md:5", "index.md:7", f"walkthroughs/a.py:{line}"):
        assert f"docs/{place}: " in built.stderr, built.stderr


def test_an_image_without_a_text_alternative_fails_the_build_with_page_and_line(project, mkdocs):
    (project / "docs" / "index.md").write_text("# Home\n\n![](picture.png)\n")
    (project / "docs" / "picture.png").write_bytes(b"")
    built = mkdocs(project)
    assert built.returncode == 1
    assert "docs/index.md:3: image picture.png has no text alternative" in built.stderr


def test_a_label_that_no_walkthrough_has_fails_the_build_with_page_and_line(project, mkdocs):
    (project / "docs" / "index.md").write_text("# Home\n\n<!-- show: banana -->\n")
    built = mkdocs(project)
    assert built.returncode == 1
    assert "docs/index.md:3: " in built.stderr


@pytest.fixture
def runs(good, monkeypatch):
    """Which pages are executed, in a list; each takes what the build's own execution gave."""
    (entry,) = (good.folder / ".cache" / "notebooks" / "a").glob("*.ipynb")
    notebook, pages = nbformat.read(entry, as_version=4), []

    async def execute(path):
        pages.append(path.stem)
        return notebook

    monkeypatch.setattr(execution_cache, "execute", execute)
    return pages


@pytest.mark.parametrize("damage", ["", "{}", '{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'])
def test_a_damaged_execution_cache_is_rebuilt(damage, project, runs):
    page, cache = project / "docs" / "walkthroughs" / "a.py", project / ".cache" / "notebooks"
    good = execution_cache.executed(page, cache)
    assert runs == []
    (entry,) = (cache / "a").iterdir()
    entry.write_text(damage)
    for _ in range(2):  # executed, and then from the cache
        assert execution_cache.executed(page, cache) == good
        assert runs == ["a"]


def test_builds_with_different_data_execute_for_themselves_and_leave_each_other_what_they_did(
    project, runs, tmp_path, monkeypatch
):
    monkeypatch.setenv("LAB_DATA", str(tmp_path / "root"))
    raw = tmp_path / "root" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for expected in (["a", "a"], ["a", "a"]):
        for content in (b"some data", b"other data"):
            (raw / "train-images-idx3-ubyte").write_bytes(content)
            execution_cache.executed(project / "docs" / "walkthroughs" / "a.py", project / ".cache" / "notebooks")
        assert runs == expected


STEPS = """\
# %%
import os
import time
from pathlib import Path


def begin(name):
    Path({folder!r}, name).write_text(str(os.getpid()))


def wait_for(name):
    end = time.monotonic() + {patience}
    while not Path({folder!r}, name).exists() and time.monotonic() < end:
        time.sleep(0.05)
    return Path({folder!r}, name).exists()


# %%
"""


def pages_of(folder: Path, **code: str) -> list[Path]:
    """Walkthroughs that wait for each other's files."""
    for name, last in code.items():
        (folder / f"{name}.py").write_text(f"{STEPS.format(folder=str(folder), patience=PROGRAM)}{last}\n")
    return [folder / f"{name}.py" for name in code]


def running(told: Path) -> bool:
    """Whether the process that has written its number into a file still is."""
    try:
        os.kill(int(told.read_text()), 0)
    except ProcessLookupError:
        return False
    return True


def test_pages_are_executed_at_the_same_time_and_come_back_in_their_order(tmp_path):
    a, b = (f'begin("{one}"); print({one}, flush=True); print(wait_for("{two}"))' for one, two in ((1, 2), (2, 1)))
    pages = pages_of(tmp_path, a=a, b=b)
    both = execution_cache.all_executed(pages, tmp_path / "cache", at_once=2)
    said = [[output.text for output in notebook.cells[1].outputs] for notebook in both]
    assert said == [["1\nTrue\n"], ["2\nTrue\n"]]  # in one piece, however long it took
    assert execution_cache.all_executed(pages, tmp_path / "cache") == both  # each has its entry


def test_of_pages_that_fail_the_first_is_told_whichever_failed_first_and_those_behind_it_end(tmp_path):
    b = 'wait_for("3"); begin("2"); raise ValueError("b")'
    pages = pages_of(tmp_path, a='wait_for("2"); raise ValueError("a")', b=b, c='begin("3"); time.sleep(600)')
    with pytest.raises(WalkthroughError, match=r"a\.py:.* ValueError: a$"):
        execution_cache.all_executed(pages, tmp_path / "cache", at_once=3)
    assert not running(tmp_path / "3")


def test_a_page_given_up_while_its_process_starts_leaves_none(tmp_path):
    pages = pages_of(tmp_path, b="print()")
    with pytest.raises(FileNotFoundError):  # at once, when the page before it has just begun
        execution_cache.all_executed([tmp_path / "none.py", *pages], tmp_path / "cache", at_once=2)
    assert not [child for child in psutil.Process().children() if "ipykernel_launcher" in child.cmdline()]


def test_ctrl_c_ends_a_build_and_all_that_it_executes(tmp_path):
    pages_of(tmp_path, a='begin("1"); time.sleep(600)', b='begin("2"); time.sleep(600)')
    program = (
        f"import sys\nfrom pathlib import Path\nsys.path.insert(0, {str(ROOT / 'docs' / '_hooks')!r})\n"
        "import execution_cache\n"
        f"here = Path({str(tmp_path)!r})\n"
        "execution_cache.all_executed([here / 'a.py', here / 'b.py'], here / 'cache', at_once=2)\n"
    )
    build = subprocess.Popen(
        [sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, preexec_fn=heeds_interrupts
    )
    try:
        end = time.monotonic() + PROGRAM
        while not all((tmp_path / name).exists() and (tmp_path / name).read_text() for name in ("1", "2")):
            assert time.monotonic() < end, "the pages do not begin"
            time.sleep(0.05)
        build.send_signal(signal.SIGINT)
        said = build.communicate(timeout=PROGRAM)[1]
    finally:
        build.kill()
    assert said.strip().endswith("KeyboardInterrupt")
    assert not running(tmp_path / "1")
    assert not running(tmp_path / "2")


@pytest.mark.parametrize("outcome", ["good", "failed"])
def test_a_build_that_fails_leaves_the_last_good_site(outcome, tmp_path):
    """The recipe of `make site`, with a builder that writes half a page and then succeeds or fails."""
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "constraints.txt").write_text("")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("last good site")
    (tmp_path / ".venv").mkdir()
    for stamp in ("python", "run", "site"):
        (tmp_path / ".venv" / f"{stamp}.stamp").touch()
    (tmp_path / "bin").mkdir()
    builder = tmp_path / "bin" / "mkdocs"
    builder.write_text(
        f"#!{sys.executable}\nimport pathlib, sys\n"
        "target = pathlib.Path(sys.argv[-1])\ntarget.mkdir(parents=True)\n"
        f"(target / 'index.html').write_text('new')\nsys.exit({int(outcome == 'failed')})\n"
    )
    builder.chmod(0o755)
    made = subprocess.run(["make", "site", "BIN=bin"], cwd=tmp_path, capture_output=True, text=True)
    assert (made.returncode == 0) == (outcome == "good"), made.stderr
    expected = "new" if outcome == "good" else "last good site"
    assert (tmp_path / "site" / "index.html").read_text() == expected
