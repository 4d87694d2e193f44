"""Formulas -> MathML while the site is built: no script and no request in the reader's browser."""

import html
import re
from pathlib import Path

import math_core
from markdown import Markdown
from markdown.extensions import Extension
from markdown.postprocessors import Postprocessor
from math_core import LatexError
from mkdocs.exceptions import PluginError

REGION = re.compile(r'<(span|div) class="arithmatex">(.*?)</\1>', re.S)
MACROS = {"norm": r"\lVert #1 \rVert"}


def locate(docs: Path, page: str, text: str) -> str:
    """`docs/page.md:12`, where the source of the page has the text; else the page alone."""
    source = docs / page
    lines = source.read_text(encoding="utf-8").splitlines() if source.is_file() else []
    number = next((number for number, line in enumerate(lines, 1) if text in line), None)
    return f"docs/{page}:{number}" if number else f"docs/{page}"


CONVERTER = math_core.LatexToMathML(macros=MACROS, annotation=True, fancy_error=False)


def inline(latex: str, display: bool = False) -> str:
    """A formula as MathML, which the search index leaves out: see `indexing`.

    Raises:
        LatexError: it is no formula.
    """
    mathml = CONVERTER.convert_with_local_state(latex, displaystyle=display)
    mathml = mathml.replace(' scriptlevel="0"', "")  # the default, and no attribute of MathML 3
    return mathml.replace("<math", "<math data-search-exclude", 1)


class MathMLExtension(Extension):
    """Converts what `pymdownx.arithmatex` found.

    Attributes:
        docs: the folder of the pages.
        page: path of the page in it, for messages; set before each page.
    """

    docs = Path()
    page = ""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802  # Python-Markdown's name
        """Register with Python-Markdown, after all that could add or move a formula."""
        md.postprocessors.register(_MathML(self), "mathml", 0)


class _MathML(Postprocessor):
    def __init__(self, extension: MathMLExtension) -> None:
        super().__init__()
        self.extension = extension

    def run(self, text: str) -> str:
        return REGION.sub(self._replace, text)

    def _replace(self, match: re.Match[str]) -> str:
        latex = html.unescape(match[2]).strip()
        if latex[:2] in (r"\(", r"\["):
            latex = latex[2:-2].strip()
        try:
            mathml = inline(latex, display=match[1] == "div")
        except LatexError as error:
            where = locate(self.extension.docs, self.extension.page, latex.splitlines()[0])
            raise PluginError(f"{where}: bad formula {latex!r}: {error}") from None
        if match[1] == "span":
            return mathml
        return f'<div class="math" tabindex="0">{mathml}</div>'  # a long one scrolls, by keyboard too
