"""Figures in a page: wide enough that their lettering can be read, on a phone too, and with a button to enlarge."""

import math
import re

LEAST = 9.0  # CSS pixels of the smallest lettering
PHONE = 358  # CSS pixels that a figure has on a phone of 390
FIGURE = re.compile(
    r'<div class="nb-svg"(?P<rest>[^>]*)>(?P<svg><svg[^>]*? width="(?P<width>[\d.]+)".*?</svg>)\s*</div>', re.S
)
BUTTON = (
    '<button type="button" class="nb-enlarge" aria-haspopup="dialog"><span aria-hidden="true">⤢</span> Enlarge</button>'
)
SIZE = re.compile(r"\bfont(?:-size)?: ?(?:[a-z]+ )*([\d.]+)px")


def legible(content: str) -> str:
    """HTML whose figures are never drawn so small that lettering falls below `LEAST` pixels, and can be enlarged.

    On a narrow screen, a figure with fine lettering keeps that width and scrolls within its own box, by keyboard too.
    What the button does is in figures.js; it stands here so that nothing moves when that has loaded.
    """
    return FIGURE.sub(_figure, content)


def _figure(match: re.Match[str]) -> str:
    texts = [SIZE.findall(text) for text in re.findall(r"<text.*?</text>", match["svg"], re.S)]
    sizes = [max(map(float, found)) for found in texts if found]  # of an index beside its letter, the letter's
    if not sizes:
        return f"{match[0]}{BUTTON}"
    least = math.ceil(float(match["width"]) * LEAST / min(sizes))
    focus = ' tabindex="0"' if least > PHONE else ""
    svg = match["svg"].replace("<svg", f'<svg style="min-width: {least}px"', 1)
    return f'<div class="nb-svg"{match["rest"]}{focus}>{svg}</div>{BUTTON}'
