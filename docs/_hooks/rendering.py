"""Executed notebook -> the Markdown of a page and its outputs; and -> the notebook that readers download.

The prose goes through the site's own Markdown, so that admonitions, cross-references and link checks work in a
walkthrough as on any page. Outputs would only be slowed down or damaged by it: the Markdown holds an empty element
in place of each, and `insert_outputs` puts them in afterwards.
"""

import copy
import html
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import film
import markdown
import nbformat
import questions
import yaml
from execution import WalkthroughError, options, without_options
from nbconvert.filters import ansi2html

from lab.claims import MIME_TYPE, Claim, Control
from lab.plotting import FILM

INK = "#0a0b0c"  # as in matplotlibrc
FOLDED_BOX = re.compile(r"^\?\?\? .*(?:\n(?: {4}.*|[ \t]*$))*", re.M)
WARNED = re.compile(r"^\S*ipykernel_\S*:\d+: (.*)\n  .*$", re.M)  # Python adds a file that no reader has, and its line
WORDS_A_MINUTE, LINES_A_MINUTE = 180, 25  # prose read with care, and code


@dataclass
class Rendered:
    """A walkthrough, ready for the site."""

    meta: dict[str, Any]
    markdown: str
    outputs: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    claims: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    minutes: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    asked: questions.Asked = field(default_factory=questions.Asked)
    hidden_by: str = ""  # the prediction, as `page/id`, behind which the cell stands that is being rendered

    @property
    def data(self) -> str:
        """The data sets that its claims were measured on."""
        return ", ".join(dict.fromkeys(found["data"] for found in self.claims if found["data"])) or "no data set"

    @property
    def judged(self) -> list[Claim]:
        """All its claims."""
        return [_claim(record) for found in self.claims for record in found["claims"]]

    @property
    def seeds(self) -> list[int]:
        """All seeds that its claims depend on."""
        return sorted({seed for found in self.claims for seed in found["seeds"]})


def _claim(record: dict[str, Any]) -> Claim:
    """A claim from its JSON, where nan and infinities are strings."""
    fields = {name: value for name, value in record.items() if name not in ("verdict", "controls")}
    controls = tuple(Control(**control | {"observed": float(control["observed"])}) for control in record["controls"])
    return Claim(**fields | {"observed": float(record["observed"]), "controls": controls})


def render(notebook: Any, source: str, stem: str) -> Rendered:
    """The page of an executed notebook; `source` is how messages name it, `stem` makes ids unique.

    Raises:
        WalkthroughError: a figure without `alt` or `caption`, a question that is malformed, or a walkthrough without
            description or claims.
    """
    _, meta = front_matter(notebook.cells[0].source)
    if not meta.get("description"):
        raise WalkthroughError(f"{source}: the first cell has to begin with front matter and a description")
    page = Rendered(
        meta, "", seconds=notebook.metadata["lab"]["seconds"], versions=notebook.metadata["lab"]["versions"]
    )
    page.asked = questions.read(notebook, source)
    parts = []
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":
            parts.append(_code_cell(page, cell, source, stem))
        else:
            parts.append("".join(map(questions.to_page, page.asked.pieces[number])))
            page.hidden_by = _still_hidden(page, page.asked.pieces[number], stem)
    parts[0] = front_matter(parts[0])[0]
    page.markdown = "\n\n".join([*parts, questions.answers(page.asked, stem)])
    page.minutes = _reading_minutes(notebook)
    if not page.claims:
        raise WalkthroughError(f"{source}: a walkthrough must end in lab.check([...]) as the last line of a cell")
    return page


def _still_hidden(page: Rendered, pieces: list[questions.Piece], stem: str) -> str:
    """Which prediction hides what stands behind these pieces."""
    opened = page.hidden_by
    for piece in pieces:
        if isinstance(piece, questions.Predict):
            opened = f"{stem}/{piece.id}"
        elif isinstance(piece, questions.Observed):
            opened = ""
    return opened


def front_matter(text: str) -> tuple[str, dict[str, Any]]:
    """A Markdown text without the YAML that it begins with, and that."""
    match = re.match(r"---\n(.*?)\n---\s*", text, re.S)
    return (text[match.end() :], yaml.safe_load(match[1]) or {}) if match else (text, {})


def _reading_minutes(notebook: Any) -> int:
    """For prose, questions and code that stand open, hidden parts of predictions included, rounded up to five.

    Folded boxes, folded code and solutions do not count: whoever opens them takes the time.
    """
    prose = [FOLDED_BOX.sub("", cell.source) for cell in notebook.cells if cell.cell_type == "markdown"]
    words = sum(len(text.split()) for text in prose)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code" and _stands_open(options(cell.source))]
    lines = sum(len(without_options(source).splitlines()) for source in code)
    return math.ceil((words / WORDS_A_MINUTE + lines / LINES_A_MINUTE) / 5) * 5


def _stands_open(chosen: dict[str, Any]) -> bool:
    return not chosen.get("code-fold") and "fold" not in chosen and chosen.get("echo") is not False


def _code_title(chosen: dict[str, Any]) -> str:
    """What a folded cell's bar reads, such as "Code: draw the zigzag"; a first word such as MNIST stays as it is."""
    title = str(chosen.get("code-title", "")).strip()
    small = title if title[1:2].isupper() else title[:1].lower() + title[1:]
    return f"Code: {html.escape(small)}" if title else "Code"


def _code_cell(page: Rendered, cell: Any, source: str, stem: str) -> str:
    where = f"{source}:{cell.metadata['line']}"
    chosen = options(cell.source)
    code = f"``````python\n{without_options(cell.source)}\n``````"
    if chosen.get("code-fold"):
        code = f'<details class="nb-code" markdown="1"><summary>{_code_title(chosen)}</summary>\n\n{code}\n\n</details>'
    parts = [] if chosen.get("echo") is False else [code]
    for output in cell.outputs:
        parts.append(_output(page, output, chosen, where, stem))
    if "fold" not in chosen:
        return "\n\n".join(parts)
    text = cell.metadata.get("text", chosen.get("text", ""))
    inside = "\n\n".join([text, *parts])
    title = html.escape(str(chosen["fold"]))
    return f'<details class="example" markdown="1"><summary>{title}</summary>\n\n{inside}\n\n</details>'


def _output(page: Rendered, output: Any, chosen: dict[str, Any], where: str, stem: str) -> str:
    """The Markdown of one output: where it goes, and for a figure its caption."""
    if output.output_type == "stream":
        kind, text = "note" if output.name == "stderr" else "text", WARNED.sub(r"\1", output.text)
        return _place(page, f'<pre class="nb-{kind}" tabindex="0">{ansi2html(text)}</pre>')
    data = output.data
    if MIME_TYPE in data:
        page.claims.append(data[MIME_TYPE])
        return _place(page, f'<div class="nb-claims" tabindex="0">{data["text/html"]}</div>')
    if "image/svg+xml" in data:
        if missing := [name for name in ("alt", "caption") if not str(chosen.get(name, "")).strip()]:
            raise WalkthroughError(f"{where}: this figure has no {' and no '.join(missing)} (`#| {missing[0]}: ...`)")
        prefix, alt = f"{stem}-{len(page.outputs)}", chosen["alt"].strip()
        image = _svg(data["image/svg+xml"], prefix)
        figure = f'<div class="nb-svg" role="img" aria-label="{html.escape(alt)}">{image}</div>'
        if FILM in data:
            figure = film.markup(data[FILM], image, alt, f"film-{prefix}")
        caption = markdown.markdown(chosen["caption"].strip()).removeprefix("<p>").removesuffix("</p>")
        _label(page, chosen, stem, f'<figure class="nb-figure">{figure}<figcaption>{caption}</figcaption></figure>')
        caption = f'<figcaption markdown="span">{chosen["caption"].strip()}</figcaption>'
        return f'<figure class="nb-figure" markdown="1">\n{_place(page, figure)}\n{caption}\n</figure>'
    if "text/html" in data:
        _label(page, chosen, stem, data["text/html"])
        return _place(page, f'<div class="nb-html" tabindex="0">{data["text/html"]}</div>')
    return _place(page, f'<pre class="nb-text" tabindex="0">{ansi2html(data["text/plain"])}</pre>')


def _label(page: Rendered, chosen: dict[str, Any], stem: str, markup: str) -> None:
    """Keep it for other pages, under its label, its code's title, and the prediction that hides it."""
    title = f"{stem}: {chosen['code-title']}" if "code-title" in chosen else ""
    for name in filter(None, (str(chosen.get("label", "")), title, page.hidden_by)):
        page.labels.setdefault(name, markup)


def _place(page: Rendered, markup: str) -> str:
    page.outputs.append(markup)
    return f'<div data-output="{len(page.outputs) - 1}"></div>'


def lighten(content: str) -> str:
    """Code without the marks of names, spaces and punctuation, which need no colour of their own."""
    return re.sub(r'<span class="[nwp]">([^<]*)</span>', r"\1", content)


def insert_outputs(content: str, outputs: list[str]) -> str:
    """Put the outputs where the page's HTML holds their places."""
    return re.sub(
        r'<div data-output="(\d+)"></div>',
        lambda match: f'<div class="nb-output" data-search-exclude>{outputs[int(match[1])]}</div>',
        content,
    )


def _svg(image: str, prefix: str) -> str:
    """Matplotlib's SVG, fit to stand in a page: ids of its own, ink in the page's colour, and light."""
    image = re.sub(r"^.*?(?=<svg)|<metadata>.*?</metadata>|<!--.*?-->", "", image, flags=re.S)
    used = set(re.findall(r"#([\w-]+)", image))
    image = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", image)
    image = re.sub(r'\bid="|(?<=href="#)|(?<=url\(#)', lambda match: f"{match[0]}figure-{prefix}-", image)
    image = re.sub(r'(<svg[^>]*?) width="([\d.]+)pt" height="([\d.]+)pt"', r'\1 width="\2" height="\3"', image, count=1)
    image = re.sub(r'\b(?:d|x|y|width|height|transform|points)="[^"]*"', _rounded, image)
    image = re.sub(r"font-family: [^;]*", "font-family: sans-serif", image)
    return re.sub(r"\n\s*", "\n", image.replace(INK, "currentColor")).strip()


def _rounded(attribute: re.Match[str]) -> str:
    """Coordinates to a tenth of a point."""
    return re.sub(r"-?\d+\.\d{2,}", lambda number: f"{float(number[0]):.1f}", attribute[0])


def to_download(notebook: Any, repository: str, page_url: str) -> str:
    """The executed notebook as readers get it: plain Markdown, and with a repository the means to install the lab."""
    setup = "%matplotlib inline"
    package = f"equivariance-lab @ git+{repository}"
    if repository:
        setup = f'try:\n    import lab\nexcept ImportError:\n    %pip install -q "{package}"\n{setup}'
    cells = [nbformat.v4.new_code_cell(setup)]
    asked = questions.read(notebook, "notebook")
    for number, original in enumerate(notebook.cells):
        cell = copy.deepcopy(original)
        prose = "".join(map(questions.to_notebook, asked.pieces.get(number, [])))
        before, after = [_plain_markdown(front_matter(prose)[0], page_url)], []
        if cell.cell_type == "code":
            chosen = options(cell.source)
            text = cell.metadata.get("text", chosen.get("text", ""))
            before = [f"**{chosen['fold']}**", _plain_markdown(text, page_url)] if "fold" in chosen else []
            after = [f"*{chosen['caption'].strip()}*"] if "caption" in chosen else []
            cell.metadata, cell.source = {}, without_options(cell.source)
        cells += [nbformat.v4.new_markdown_cell("\n\n".join(before))] if before else []
        cells += [cell] if cell.cell_type == "code" else []
        cells += [nbformat.v4.new_markdown_cell("\n\n".join(after))] if after else []
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"  # the same for the same page
    return nbformat.writes(
        nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": notebook.metadata["kernelspec"]})
    )


def _plain_markdown(text: str, page_url: str) -> str:
    """What Jupyter does not know in words that it does: boxes as quotes or folds, cross-references as code."""
    from wording import without_macros  # which needs MkDocs

    text = without_macros(re.sub(r"\[([^\]]+)\]\[[\w.]*\]", r"\1", text))
    text = re.sub(r"\]\((?!https?:|#)([^)]+?)\)", lambda match: _site_link(match[1], page_url), text)
    box = re.compile(r'^(!!!|\?\?\?\+?|===) ?(\w*) ?(?:"([^"]*)")?\n((?:(?:    .*)?\n?)+)', re.M)
    return box.sub(_plain_box, text)


def _plain_box(match: re.Match[str]) -> str:
    marker, kind, title, body = match.groups()
    title = title or kind.capitalize()
    body = re.sub(r"^    ", "", body, flags=re.M).strip("\n")
    if marker.startswith("?"):
        return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>\n\n"
    quoted = "\n".join(f"> {line}".rstrip() for line in body.splitlines())
    return f"> **{title}**\n>\n{quoted}\n\n"


def _site_link(link: str, page_url: str) -> str:
    """A link to another page of the site; without an address of the site, to the other notebook or the page's file."""
    path, mark, anchor = link.partition("#")
    if page_url:
        base = page_url.rsplit("/", 1)[0]
        return f"]({base}/{re.sub(r'[.](py|md)$', '.html', path)}{mark}{anchor})"
    return f"]({Path(path).with_suffix('.ipynb' if path.endswith('.py') else '.html')}{mark}{anchor})"
