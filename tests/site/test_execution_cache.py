"""What an executed page depends on, and what is kept of it: no page runs again for nothing, none is out of date."""

import gzip
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import execution
import execution_cache
import lab_imports
import live
import pytest

import lab

ROOT = Path(__file__).parents[2]
HOOKS = ROOT / "docs" / "_hooks"
HIDDEN = {  # what they use beyond their import statements
    "__init__.py": "the module of each public name, as the hooks read it there",
    "metering/inputs.py": "what its user names",
    "files.py": "a template beside its caller",
}

USERS = {"metering": ["run_study"], "every_shift": []}  # what has a wing at work without being of it


@pytest.fixture
def tree(tmp_path):
    """A copy of all that the digest of a page takes in, to be changed."""
    shutil.copytree(ROOT / "lab", tmp_path / "lab", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "docs" / "_hooks").mkdir(parents=True)
    for name in ("execution.py", "matplotlibrc"):
        shutil.copy(HOOKS / name, tmp_path / "docs" / "_hooks")
    return tmp_path


@pytest.fixture(scope="module")
def pages():
    """Each walkthrough's code."""
    paths = sorted((ROOT / "docs" / "walkthroughs").glob("[0-9]*.py"))
    return {path.stem: execution.code_of(path) for path in paths}


@pytest.mark.parametrize("kept", [True, False], ids=["beside the packed ones", "in their place"])
def test_unpacking_the_data_executes_nothing_again_and_other_data_does(kept, tmp_path, monkeypatch):
    """Whoever reads the downloaded files first leaves them unpacked, which may be a page."""
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    none = execution_cache.digest("import lab")
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        (raw / f"{name}.gz").write_bytes(gzip.compress(name.encode()))
    packed = execution_cache.digest("import lab")
    for path in sorted(raw.glob("*.gz")):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        if not kept:
            path.unlink()
    assert execution_cache.digest("import lab") == packed
    (raw / "train-labels-idx1-ubyte").write_bytes(b"others")
    assert execution_cache.digest("import lab") not in (packed, none)


def with_names_of(wing: str, pages: dict[str, str]) -> set[str]:
    modules = {name: getattr(getattr(lab, name), "__module__", "") for name in lab.__all__}
    names = [
        n for n, module in modules.items() if module.startswith(f"lab.{wing}.") and module != "lab.metering.inputs"
    ]
    used = re.compile(rf"\blab\.({'|'.join(names + USERS.get(wing, [])) or 'none'})\b")
    return {page for page, code in pages.items() if used.search(code)}


@pytest.mark.parametrize(
    ("changed", "wing"),
    [
        *((path, "metering") for path in ("metering/instrument.py", "metering/measuring.py")),
        *((path, "every_shift") for path in ("every_shift/dense.py", "every_shift/maps.py")),
        *((path, "none") for path in ("live/export.py", "reporting/report.py", "reporting/report.html", "cli.py")),
        *((path, "") for path in ("shifting.py", "data.py", "embedded/mnist10k.npz", "plotting.py")),
        ("../docs/_hooks/matplotlibrc", ""),
    ],
)
def test_a_change_executes_exactly_the_pages_that_depend_on_it(changed, wing, pages, tree):
    before = {page: execution_cache.digest(code, root=tree) for page, code in pages.items()}
    with (tree / "lab" / changed).open("ab") as file:
        file.write(b"\n# changed\n")
    after = {page: execution_cache.digest(code, root=tree) for page, code in pages.items()}
    assert {page for page in pages if after[page] != before[page]} == (
        with_names_of(wing, pages) if wing else set(pages)
    )


def test_the_wings_have_pages_and_not_all_of_them(pages):
    for wing in ("metering", "every_shift"):
        assert 0 < len(with_names_of(wing, pages)) < len(pages)


def test_the_exported_networks_depend_on_neither_meter_nor_maps():
    found = {path.relative_to(ROOT / "lab").as_posix() for path in lab_imports.reached(live.PROGRAM, ROOT / "lab")}
    assert {"live/export.py", "models.py", "training.py", "data.py", "embedded/mnist10k.npz"} <= found
    assert not [path for path in found if path.startswith(("metering", "every_shift", "reporting", "cli"))]


PACKAGE = {
    "__init__.py": "from lab.a import one as one\nfrom lab.wing.b import two as two\n__version__ = '0'\n",
    "a.py": "one = 1\n",
    "c.py": "def three():\n    from lab import d\n    return d.four\n",
    "d.py": "four = 4\n",
    "pixels/digits.npz": "",
    "wing/__init__.py": "",
    "wing/b.py": "from lab.c import three\ntwo = 2\n",
    "wing/page.html": "",
}
CORE = {"pixels/digits.npz"}
WING = CORE | {"wing/__init__.py", "wing/b.py", "wing/page.html", "c.py", "d.py"}


@pytest.mark.parametrize(
    ("source", "files"),
    [
        ("import torch", set()),
        ("import lab\nlab.one", CORE | {"a.py"}),
        ("from lab import one", CORE | {"a.py"}),
        ("import lab.a", CORE | {"a.py"}),
        ("import lab\nlab.d.four", CORE | {"d.py"}),
        ("def f():\n    import lab\n    return lab.c", CORE | {"c.py", "d.py"}),
        ("import lab\nlab.two", WING),
        ("from lab.wing import b", WING),
        ("import lab\nlab.wing", WING),
        ("import lab\nlab.__version__", CORE | {"__init__.py"}),
        ("class lab:\n    x = 1\nlab.x", set()),
    ],
)
def test_imports_are_followed_to_the_end(source, files, tmp_path):
    assert {path.relative_to(tmp_path).as_posix() for path in lab_imports.reached(source, package(tmp_path))} == files


@pytest.mark.parametrize(
    "source",
    [
        "import lab\nname = 'one'\ngetattr(lab, name)",
        "import lab\nprint(dir(lab))",
        "import lab as laboratory\nlaboratory.one",
        "from lab import *",
        "import importlib\nimportlib.import_module('lab.a')",
        "from importlib import import_module as load\nload('lab.a')",
        "__import__('lab.a')",
        "exec('import lab.a')",
        "import subprocess\nsubprocess.run(['lab', 'run'])",
        "import lab\nlab.unknown",
        "this is no Python",
    ],
)
def test_what_cannot_be_followed_depends_on_the_whole_package(source, tmp_path):
    files = {path.relative_to(tmp_path).as_posix() for path in lab_imports.reached(source, package(tmp_path))}
    assert files == set(PACKAGE)


def package(folder: Path) -> Path:
    for name, text in PACKAGE.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_no_module_of_the_package_hides_an_import():
    hidden = set()
    for path in (ROOT / "lab").rglob("*.py"):
        try:
            lab_imports._used(path.read_text(encoding="utf-8"), hidden=lab_imports.HIDES_IMPORTS)
        except lab_imports.UnclearImportError:
            hidden.add(path.relative_to(ROOT / "lab").as_posix())
    review = {f"review/{name}.py" for name in ("__init__", "editions", "feedback", "grading", "running")}
    assert hidden == set(HIDDEN) | review


def test_the_newest_entries_are_kept(tmp_path):
    for age in range(6):
        entry = tmp_path / f"{age}"
        entry.mkdir() if age % 2 else entry.touch()
        os.utime(entry, (1_000_000 - age, 1_000_000 - age))
    (tmp_path / ".writing-by-another").mkdir()
    execution_cache.drop_oldest(tmp_path, kept=3)
    assert {path.name for path in tmp_path.iterdir()} == {"0", "1", "2", ".writing-by-another"}


def test_a_walkthrough_becomes_markdown_without_mkdocs(tmp_path):
    """Another builder could take it from here."""
    page = tmp_path / "walkthroughs" / "a.py"
    page.parent.mkdir()
    page.write_text(
        "# %% [markdown]\n# ---\n# description: A test.\n# ---\n# # A page\n#\n# It is {{ 1 + 1 }}.\n\n"
        "# %%\nimport lab\n\n"
        'control = lab.Control("other", 1.0, ">=", 0.5)\n'
        'lab.check([lab.Claim("none", "exact", 0.0, 0.0, (control,), kind="exact")], seeds=[7])\n'
    )
    program = (
        "import sys\nfrom pathlib import Path\n"
        f"sys.path.insert(0, {str(HOOKS)!r})\n"
        "sys.modules.update(dict.fromkeys(['mkdocs', 'mkdocs_jupyter', 'material', 'mkdocstrings']))\n"
        "from execution_cache import executed\nfrom rendering import render\n"
        f"notebook = executed(Path({str(page)!r}), Path({str(tmp_path / 'cache')!r}))\n"
        "print(render(notebook, 'a.py', 'a').markdown)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "# A page\n\nIt is 2." in ran.stdout
