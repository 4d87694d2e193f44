"""The picture and the table of the house, in docs/contributing.md, show the tree as it is."""

import re

import pytest
from house import CORE, PACKAGE, ROOT, SUPPORT, TARGET, parts, svg
from test_architecture import MODULES, imported_modules, name_of

PARTS = parts()
WINGS = [name for name in PARTS if name not in ("core", "support")]
TEXT = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")


def test_the_picture_is_drawn_from_the_tree():
    """Draw it anew by `python tests/house.py`."""
    assert TARGET.read_text(encoding="utf-8") == svg(PARTS)
    assert re.search(r"!\[[^\]]{80,}\]\(assets/house\.svg\)", TEXT)


def test_core_and_support_are_all_that_stands_at_the_top():
    assert sorted(CORE + SUPPORT) == sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_the_table_says_of_each_module_where_it_belongs(path):
    kind, module = path.parent.name + "/", path.stem
    if path.parent == PACKAGE:
        kind = "core" if module in CORE else "support"
    rows = [line for line in TEXT.splitlines() if line.startswith("|") and f"`{module}`" in line]
    assert any(kind in line.split("|")[1] for line in rows)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_the_way_the_picture_says(path):
    module, imported = name_of(path), imported_modules(path)
    wings = {name.partition(".")[0] for name in imported if "." in name}
    if path.parent != PACKAGE:
        assert wings <= set(WINGS[: WINGS.index(path.parent.name) + 1])
        assert "cli" not in imported
    elif module != "cli":
        assert not wings
    if module in CORE:
        assert not imported & set(CORE[CORE.index(module) :])


def test_the_table_names_every_folder():
    folders = [
        "docs/",
        "docs/walkthroughs/",
        "docs/exercise/",
        "docs/javascripts/live/",
        "docs/javascripts/playground/",
        "docs/javascripts/questions/",
        "docs/_hooks/",
        "tests/",
        ".ci/",
        ".github/",
    ]
    table = [line.split("|")[1] for line in TEXT.splitlines() if line.startswith("|")]
    for folder in folders:
        assert any(f"`{folder}`" in cell for cell in table), folder
