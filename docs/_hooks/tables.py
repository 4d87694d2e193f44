"""Tables of claims as pages show them: formulas set, and a name before each cell where a row becomes a card."""

import html
import re
from collections.abc import Sequence

from mathml import LatexError, inline
from mkdocs.exceptions import PluginError

from lab.claims import COLUMNS

FORMULA = re.compile(r"\$([^$<>]+)\$")


def dressed(table: str, columns: Sequence[str] = COLUMNS) -> str:
    """A claims' table from `lab`, for a page: each cell bears its column's name, and `$…$` becomes a formula.

    On a narrow screen the style sheet makes a card of each row and shows these names.
    """
    table = re.sub(r"<tr>(?=<td>)(.*?)</tr>", lambda row: _row(row[1], columns), table, flags=re.S)
    return with_formulas(re.sub(r"<table>", '<table class="nb-cards">', table))


def _row(cells: str, columns: Sequence[str]) -> str:
    names = iter(columns)
    return f'<tr class="nb-claim">{re.sub("<td>", lambda _: _cell(next(names)), cells)}</tr>'


def _cell(name: str) -> str:
    return f'<td data-label="{html.escape(name)}">'


def with_formulas(text: str) -> str:
    """HTML in which `$…$` is a formula.

    Raises:
        PluginError: it is none.
    """
    return FORMULA.sub(_formula, text)


def _formula(match: re.Match[str]) -> str:
    try:
        return inline(html.unescape(match[1]))
    except LatexError as error:
        raise PluginError(f"bad formula {match[0]} in a claim: {error}") from None
