r"""The words of a question away from its page, in a slide, on paper or in a quiz of another system: Markdown as HTML.

Links within the course keep their words alone; formulas become MathML, or TeX between `\(` and `\)`.
"""

import html
import re
from collections.abc import Callable
from html.parser import HTMLParser

import markdown
from mathml import LatexError, inline
from mkdocs.exceptions import PluginError

CODE_OR_MATH = re.compile(r"(?P<code>`+)(?:.*?)(?P=code)|\$\$(?P<block>.+?)\$\$|\$(?P<inline>[^$]+?)\$", re.S)
LINK = re.compile(r"\[([^\]]+)\](?:\((?!https?:)[^)]+\)|\[[\w.]*\])")
HELD = re.compile("\ue000(\\d+)\ue001")  # characters for private use stand for a formula while Markdown works
END = re.compile(r"(?<=[.?!])\s+(?=\S)")

Formula = Callable[[str, bool], str]


def as_tex(latex: str, block: bool) -> str:
    r"""A formula as MathJax reads it: `\(…\)`, or `\[…\]` on a line of its own."""
    first, last = (r"\[", r"\]") if block else (r"\(", r"\)")
    return f"{first}{html.escape(without_macros(latex.strip()), quote=False)}{last}"


def as_mathml(latex: str, block: bool) -> str:
    """A formula as the site's pages have it.

    Raises:
        PluginError: it is none.
    """
    try:
        return inline(latex.strip(), display=block)
    except LatexError as error:
        raise PluginError(f"bad formula {latex!r} in a question: {error}") from None


def as_html(text: str, formula: Formula = as_mathml) -> str:
    r"""Markdown as HTML, without a paragraph around a single one.

    >>> as_html("See [page 4](04_sorting.py): $a < b$ and `x`", as_tex)
    'See page 4: \\(a &lt; b\\) and <code>x</code>'
    """
    held: list[str] = []

    def hold(match: re.Match[str]) -> str:
        if match["code"]:
            return match[0]
        held.append(formula(match["block"] or match["inline"], bool(match["block"])))
        return f"\ue000{len(held) - 1}\ue001"

    found = markdown.markdown(LINK.sub(r"\1", CODE_OR_MATH.sub(hold, text)), extensions=["tables"])
    if found.count("<p>") == 1 and found.startswith("<p>") and found.endswith("</p>"):
        found = found.removeprefix("<p>").removesuffix("</p>")
    return HELD.sub(lambda match: held[int(match[1])], found)


def first_sentences(text: str, words: int) -> str:
    """The beginning of a text, in whole sentences: the first one, and others as long as they fit.

    >>> first_sentences("One two. Three four. Five.", 4)
    'One two. Three four.'
    """
    taken: list[str] = []
    for sentence in END.split(text.strip().split("\n\n")[0]):
        if taken and sum(len(one.split()) for one in [*taken, sentence]) > words:
            break
        taken.append(sentence)
    return " ".join(" ".join(taken).split())


def plain(markup: str) -> str:
    """The text of HTML, in one line; TeX stays as it is.

    >>> plain("<p>a &lt; <em>b</em></p>")
    'a < b'
    """
    reader = _Text()
    reader.feed(markup)
    reader.close()
    return " ".join("".join(reader.parts).split())


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []

    def handle_data(self, data: str) -> None:
        self.parts.append(data)


def without_macros(text: str) -> str:
    r"""The site's own LaTeX macro `\norm{...}` written out.

    >>> without_macros(r"\norm{a_{b}}")
    '\\lVert a_{b} \\rVert'
    """
    before, macro, rest = text.partition(r"\norm{")
    if not macro:
        return text
    depth, end = 1, 0
    while depth and end < len(rest):
        depth += {"{": 1, "}": -1}.get(rest[end], 0)
        end += 1
    inside = without_macros(rest[: end - 1])
    return rf"{before}\lVert {inside} \rVert{without_macros(rest[end:])}"
