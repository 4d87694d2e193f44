"""What the search finds: the course before the reference, and formulas as words that can be read."""

import html
import re
from xml.etree import ElementTree

from mkdocs.structure.pages import Page

MATH = re.compile(r"<math\b.*?</math>", re.S)
ENTITY = re.compile(r"&(?!(?:lt|gt|amp|quot|apos|#\w+);)\w+;")
BOOSTS = {"walkthroughs/": 4.0, "glossary.md": 2.0, "reference/": 0.1, "changelog.md": 0.05, "contributing.md": 0.3}
SPACED = "=≠≈≤≥<>∈→−+·×/∘"
TAUGHT = {  # what a reader who looks for these words wants to read first; the search shows them below the page's name
    "walkthroughs/01_two_words.py": ["equivariance", "commuting square"],
    "walkthroughs/02_shifting.py": ["shift", "translation", "wrap", "canvas"],
    "walkthroughs/03_exercise.py": ["exercise", "training"],
    "walkthroughs/04_sorting.py": ["sorting", "scramble"],
    "walkthroughs/05_strides.py": ["stride", "pooling"],
    "walkthroughs/06_borders.py": ["border", "padding", "ring"],
    "walkthroughs/07_aliasing.py": ["aliasing", "blur", "Nyquist"],
    "walkthroughs/08_invariance.py": ["invariance", "fully connected", "global pooling"],
    "walkthroughs/09_debug.py": ["mistakes"],
    "walkthroughs/10_meter.py": ["meter", "receptive field"],
    "walkthroughs/11_shift_maps.py": ["shift map", "dense evaluation"],
    "walkthroughs/12_tiles.py": ["tile", "halo"],
    "walkthroughs/13_what_helps.py": ["remedy", "what helps", "augmentation", "seeds"],
    "walkthroughs/14_the_paper_says.py": ["paper", "literature", "replication"],
    "exercise.md": ["do it yourself", "review"],
    "live.md": ["live lab"],
    "playground.md": ["playground", "challenge"],
    "results.md": ["claims"],
}
BETWEEN = {"msub": "_", "msup": "^", "mfrac": " / ", "munder": "_", "mover": "^"}


def boost(page: Page) -> None:
    """Say how much a page's sections weigh in the search, unless its front matter does, and what it teaches."""
    found = (value for start, value in BOOSTS.items() if page.file.src_uri.startswith(start))
    if value := next(found, None):
        page.meta["search"] = {"boost": value} | (page.meta.get("search") or {})
    if taught := TAUGHT.get(page.file.src_uri):
        page.meta["tags"] = taught


def searchable(content: str) -> str:
    """A page's HTML for the index: each formula as plain text."""
    return MATH.sub(lambda match: html.escape(spelled(match[0]), quote=False), content)


def spelled(mathml: str) -> str:
    """A formula in one line, such as `T_s x` or `‖a − b‖`."""
    known_to_xml = ENTITY.sub(lambda match: html.unescape(match[0]), mathml.replace(" data-search-exclude", ""))
    text = _spelled(ElementTree.fromstring(known_to_xml))
    return re.sub(r"(^|[_^(‖]) ?([−+]) ", r"\1\2", re.sub(r"\s+", " ", text).strip())


def _spelled(element: ElementTree.Element) -> str:
    name = element.tag.rpartition("}")[2]
    if name.startswith("annotation"):
        return ""
    parts = [_spelled(child) for child in element]
    if name in BETWEEN:
        return BETWEEN[name].join(part.strip() for part in parts) + " "
    if name in ("msubsup", "munderover"):
        return f"{parts[0]}_{parts[1]}^{parts[2]} "
    text = (element.text or "") + "".join(parts)
    return f" {text} " if text and text in SPACED else text
