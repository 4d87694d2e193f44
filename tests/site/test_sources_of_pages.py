"""The Markdown of the pages, before it is one: lists come out as they were written."""

import re
from pathlib import Path

import jupytext
import markdown
import pytest
from execution import options
from mkdocs.config import load_config
from rendering import front_matter

ROOT = Path(__file__).parents[2]
SOURCES = [
    path
    for path in sorted([*(ROOT / "docs").rglob("*.md"), *(ROOT / "docs" / "walkthroughs").glob("*.py")])
    if path.name != "changelog.md"  # it takes in CHANGELOG.md
] + [ROOT / "CHANGELOG.md"]
NOT_PROSE = re.compile(r"^( *)(`{3,}|~{3,}).*?^\1\2`*$|^ *\$\$.*?\$\$|<!--.*?-->", re.M | re.S)
LI = re.compile(r"<li\b")  # no <live-lab>
ITEM = re.compile(r"^( *)(?:[-*+]|(\d+)[.)])\s+\S")


def texts(path: Path) -> list[str]:
    """What is Markdown in a source: all of it, or that of a walkthrough's cells."""
    if path.suffix == ".md":
        return [front_matter(path.read_text(encoding="utf-8"))[0]]
    found = []
    for cell in jupytext.read(path).cells:
        markdown_cell = cell.cell_type == "markdown"
        found.append(front_matter(cell.source)[0] if markdown_cell else str(options(cell.source).get("text", "")))
    return [text for text in found if text]


def written(text: str) -> int:
    """The items of all lists, as the author counted them: a numbered one follows the one before it, or begins at 1."""
    count, last = 0, {}
    for line in NOT_PROSE.sub("", text).splitlines():
        if not (found := ITEM.match(line)):
            continue
        indent, number = len(found[1]), found[2]
        if number is None:
            count += 1
        elif int(number) in (1, last.get(indent, 0) + 1):
            count += 1
            last[indent] = int(number)
    return count + len(LI.findall(text))


@pytest.fixture(scope="module")
def rendered():
    config = load_config(str(ROOT / "mkdocs.yml"), plugins=[])
    known = [each for each in config.markdown_extensions if each != "pymdownx.snippets"]
    converter = markdown.Markdown(extensions=known, extension_configs=config.mdx_configs)

    def items(text: str) -> int:
        content = converter.reset().convert(text)
        return len(LI.findall(re.sub(r'<div class="footnote">.*?</div>', "", content, flags=re.S)))

    return items


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_a_list_has_as_many_items_as_were_written(path, rendered):
    for text in texts(path):
        assert rendered(text) == written(text), text[:200]


@pytest.mark.parametrize(
    "text",
    [
        "1. The error is\n0. Its control is not.\n2. The second.\n",
        "1. A first.\n\n2. A second, in the year\n   1998. It has a third line.\n1999. No item.\n",
        "A line before\n1. a list without a blank line.\n",
    ],
    ids=["a number that begins a line", "a year that does", "no blank line"],
)
def test_a_list_that_comes_out_otherwise_is_noticed(text, rendered):
    assert rendered(text) != written(text)


def test_a_list_that_comes_out_as_written_is_none(rendered):
    text = "1. One.\n2. Two,\n   with\n\n    - a\n    - b\n\n3. Three.\n\n```\n1. code\n```\n"
    assert rendered(text) == written(text) == 5
