"""A film in a page: curves with a mark that moves along, a slider, and the pictures at its position.

Without scripts, and on paper, a reader has the curves and three stills: the first frame, one in between, the last.
"""

import html
import json
import re
from typing import Any

from lab.plotting import COLORS


def markup(film: dict[str, Any], svg: str, alt: str, prefix: str) -> str:
    """The film of a [`lab.plotting.Film`][lab.plotting.Film]'s record; `svg` are its curves, `prefix` makes ids unique.

    `docs/javascripts/film.js` moves what has to move.
    """
    last = len(film["at"]) - 1
    stills = "".join(_frame(film, k, prefix) for k in sorted({0, last // 2, last}))
    data = {name: film[name] for name in ("unit", "at", "readings", "x")}
    return (
        f'<div class="nb-film" data-film="{html.escape(json.dumps(data, separators=(",", ":")))}">'
        f'<div class="nb-svg" role="img" aria-label="{html.escape(alt)}">{_with_mark(svg, film)}</div>'
        f"{_strips(film, prefix)}{_controls(film, last)}"
        f'<div class="nb-film-stills">{stills}</div></div>'
    )


def _with_mark(svg: str, film: dict[str, Any]) -> str:
    """The curves with a line at the first position, over the height of the axes."""
    width, height = (float(number) for number in re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)[0])
    x, (top, bottom) = film["x"][0] * width, film["y"]
    ends = f'x1="{x:.1f}" x2="{x:.1f}" y1="{top * height:.1f}" y2="{bottom * height:.1f}"'
    return svg.replace("</svg>", f'<line class="nb-film-mark" {ends}/></svg>')


def _strips(film: dict[str, Any], prefix: str) -> str:
    """Every panel's pictures, one below the other, to be shown in part by those that refer to them."""
    count = len(film["at"])
    images = "".join(
        f'<image id="{prefix}-{i}" href="data:image/png;base64,{panel["png"]}" '
        f'width="{panel["width"]}" height="{panel["height"] * count}" preserveAspectRatio="none"/>'
        for i, panel in enumerate(film["panels"])
    )
    return f'<svg class="nb-film-strips" width="0" height="0" aria-hidden="true"><defs>{images}</defs></svg>'


def _controls(film: dict[str, Any], last: int) -> str:
    """What only a script can use: hidden until there is one."""
    unit = html.escape(film["unit"])
    readings = "".join(
        f'<div style="--film-colour: {color}"><dt>{html.escape(name)}</dt><dd></dd></div>'
        for color, (name, _) in zip(COLORS, film["readings"], strict=False)
    )
    return (
        '<div class="nb-film-controls" hidden><button type="button">Play</button>'
        f'<input type="range" min="0" max="{last}" step="1" value="0" aria-label="{unit}">'
        f'<dl class="nb-film-readings"><div><dt>{unit}</dt><dd></dd></div>{readings}</dl></div>'
    )


def _frame(film: dict[str, Any], k: int, prefix: str) -> str:
    """The pictures at one position."""
    place = html.escape(f"{film['unit']} {film['at'][k]:,}")
    said = html.escape(", ".join(f"{name} {texts[k]}" for name, texts in film["readings"]))
    pictures = "".join(
        f'<div><svg viewBox="0 {panel["height"] * k} {panel["width"]} {panel["height"]}" role="img" '
        f'aria-label="{title}, {place}"><use href="#{prefix}-{i}"/></svg><span>{title}</span></div>'
        for i, (panel, title) in enumerate((panel, html.escape(panel["title"])) for panel in film["panels"])
    )
    return f'<div class="nb-film-frame"><p>{place}: {said}</p><div>{pictures}</div></div>'
