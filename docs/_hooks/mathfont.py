"""The math font: STIX Two Math (SIL Open Font License, from the `ziamath` package), cut down to the site's formulas."""

import html
import re
from importlib.util import find_spec
from pathlib import Path

from fontTools import subset
from mkdocs.exceptions import PluginError

ALWAYS = "()[]{}|‖√∑∏∫⌊⌋⌈⌉⟨⟩→⏞⏟ˆ˜¯‾"
ITALIC = {  # single letters are drawn in math italic: first and last letter, and where its italics begin
    (0x41, 0x5A): 0x1D434,
    (0x61, 0x7A): 0x1D44E,
    (0x391, 0x3A9): 0x1D6E2,
    (0x3B1, 0x3C9): 0x1D6FC,
}
ITALIC_EXCEPTIONS = {0x68: 0x210E, 0x3D5: 0x1D719, 0x3F5: 0x1D716}


def characters(pages: list[str]) -> set[int]:
    """The code points that the formulas of these HTML pages are drawn with."""
    found, letters = set(map(ord, ALWAYS)), set()
    for formula in (formula for page in pages for formula in re.findall(r"<math.*?</math>", page, re.S)):
        shown = re.sub(r"<annotation.*?</annotation>", "", formula, flags=re.S)
        single = re.findall(r"<mi>(\w)</mi>", shown)  # drawn in italics
        letters |= set(map(ord, single))
        found |= set(map(ord, html.unescape(re.sub(r"<mi>\w</mi>|<[^>]+>", "", shown))))
    for (first, last), italic in ITALIC.items():
        found |= {italic + c - first for c in letters if first <= c <= last}
    return found | {ITALIC_EXCEPTIONS[c] for c in letters if c in ITALIC_EXCEPTIONS}


def write_font(site: Path) -> None:
    """Write `assets/fonts/stix-two-math.woff2` for the pages below `site`."""
    package = find_spec("ziamath")  # importing it would warn
    if package is None or package.origin is None:
        raise PluginError("the math font is not there: pip install ziamath")
    chosen = subset.Options(flavor="woff2", layout_features=[], glyph_names=False, hinting=False)
    font = subset.load_font(str(Path(package.origin).parent / "fonts" / "STIXTwoMath-Regular.ttf"), chosen)
    subsetter = subset.Subsetter(chosen)
    subsetter.populate(unicodes=characters([page.read_text(encoding="utf-8") for page in site.rglob("*.html")]))
    subsetter.subset(font)
    target = site / "assets" / "fonts" / "stix-two-math.woff2"
    target.parent.mkdir(parents=True, exist_ok=True)
    subset.save_font(font, str(target), chosen)
