"""What the course adds to MkDocs: executed walkthroughs, their provenance, generated tables, and checks.

mkdocs-jupyter finds the walkthroughs, calls the function that executes one, and caches what it returns; two of its
functions are replaced, so that this is an executed notebook and not HTML (a test holds that they still fit).
"""

import html
import json
import logging
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from importlib.metadata import version
from pathlib import Path
from typing import Any

import execution
import live
import nbformat
from mathfont import write_font
from mathml import MathMLExtension, locate
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.plugins import event_priority
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url
from mkdocs_jupyter import plugin as jupyter
from rendering import Rendered, insert_outputs, lighten, render, to_download

from lab.claims import COLUMNS, cells

ROOT = execution.ROOT
REPOSITORY = os.environ.get("REPOSITORY_URL", "").rstrip("/")
GITHUB = re.compile(r"https://github\.com/([\w.-]+/[\w.-]+)")

jupyter.convert.nb2html = execution.execute
jupyter._get_nb_toc_tokens = lambda *_: ([], None)  # MkDocs finds title and contents in the Markdown

formulas = MathMLExtension()
walkthroughs: dict[str, tuple[Page, Rendered, Any]] = {}
live_pages: set[str] = set()


def on_startup(**_: Any) -> None:
    """Have every warning about a link or a reference tell the line too."""
    for handler in logging.getLogger("mkdocs").handlers:
        handler.addFilter(_with_line)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Choose the execution cache of this state of the package and the data, and the address of the repository."""
    caches = Path(config.config_file_path).parent / ".cache" / "notebooks"
    cache = caches / execution.digest()
    for old in [path for path in caches.glob("*") if path != cache]:
        shutil.rmtree(old)
    for entry in cache.glob("*.json"):
        if not _is_whole(entry):
            entry.unlink()
    config.plugins["mkdocs-jupyter"].config["cache_dir"] = str(cache)
    config.markdown_extensions.append(formulas)
    if REPOSITORY:
        config.edit_uri = f"{REPOSITORY}/edit/main/docs/"
    walkthroughs.clear()
    live_pages.clear()
    formulas.docs = Path(config.docs_dir)
    return config


def _is_whole(entry: Path) -> bool:
    try:
        nbformat.validate(nbformat.reads(json.loads(entry.read_text(encoding="utf-8"))["content"], as_version=4))
    except (OSError, ValueError, KeyError, TypeError, nbformat.ValidationError):
        return False
    return True


@event_priority(100)
def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Execute a walkthrough or take it from the cache; its Markdown, with a box on its origin below the title."""
    formulas.page = page.file.src_uri
    if not isinstance(page.file, jupyter.NotebookFile):
        return markdown
    page.render(config, files)  # mkdocs-jupyter's; see the module's docstring
    notebook = nbformat.reads(str(page.content), as_version=4)
    del page.render  # MkDocs's own again
    page.content = None
    rendered = render(notebook, f"docs/{page.file.src_uri}", Path(page.file.src_uri).stem)
    walkthroughs[page.file.src_uri] = (page, rendered, notebook)
    page.meta.update(rendered.meta | {"description": html.escape(rendered.meta["description"])})
    title, _, rest = rendered.markdown.lstrip().partition("\n")
    return f"{title}\n\n{_provenance(page, rendered)}\n\n{rest}"


def _provenance(page: Page, rendered: Rendered) -> str:
    """Time, data, seeds, versions and commit, and the downloads."""
    stem = Path(page.file.src_uri).stem
    seeds = f"seed {rendered.seeds[0]}" if len(rendered.seeds) == 1 else f"seeds {_list(rendered.seeds)}"
    links = {"Executed notebook": f"{stem}.ipynb", "Script": f"{stem}.py"}
    downloads = " · ".join(f'<a href="{file}" download>{name}</a>' for name, file in links.items())
    if github := GITHUB.fullmatch(REPOSITORY):
        address = f"https://colab.research.google.com/github/{github[1]}/blob/notebooks/{stem}.ipynb"
        downloads += f' · <a href="{address}">Open in Colab</a>'
    versions = {"lab": version("equivariance-lab"), **rendered.versions}
    facts = [f"{name} {number}" for name, number in versions.items()] + [f"commit {_commit()}"]
    return (
        f'<div class="nb-provenance"><p>{rendered.minutes} min to read · ran in {rendered.seconds:.0f} s on '
        f"{rendered.data}, {seeds} · {downloads}</p><p>Made with {', '.join(facts)}.</p></div>"
    )


def _list(numbers: list[int]) -> str:
    """`0, 1, 2`, or `0–4` for a run of more than two."""
    if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]}–{numbers[-1]}"
    return ", ".join(map(str, numbers)) or "none"


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + (" with changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@event_priority(-100)
def on_page_content(content: str, page: Page, **_: Any) -> str:
    """Put the outputs in, let wide tables scroll by keyboard too, and refuse images without a text alternative."""
    _Images(page).feed(content)
    content = re.sub(r"<table>.*?</table>", r'<div class="nb-table" tabindex="0">\g<0></div>', content, flags=re.S)
    found = walkthroughs.get(page.file.src_uri)
    return insert_outputs(lighten(content), found[1].outputs) if found else content


class _Images(HTMLParser):
    """Finds images without text alternative in a page's own Markdown."""

    def __init__(self, page: Page) -> None:
        super().__init__()
        self.page = page

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if tag == "img" and not (given.get("alt") or "").strip():
            name = Path(given.get("src") or "").name
            raise PluginError(
                f"{locate(formulas.docs, self.page.file.src_uri, name)}: image {name} has no text alternative"
            )


@event_priority(100)
def on_page_context(context: dict[str, Any], page: Page, **_: Any) -> dict[str, Any]:
    """Fill in what is generated from all walkthroughs; by now each of them has run."""
    page.content = re.sub(
        r"<!-- (results|origins|route|show|observed)(?:: (.+?))? -->",
        lambda match: _generated(match, page),
        page.content or "",
    )
    return context


def _generated(match: re.Match[str], page: Page) -> str:
    kind, name = match.groups()
    if kind in ("results", "origins", "route"):
        return {"results": _results, "origins": _origins, "route": _route}[kind](page)
    for _, rendered, _ in walkthroughs.values():
        if kind == "show" and name in rendered.labels:
            return f'<div class="nb-output" data-search-exclude>{rendered.labels[name]}</div>'
        if kind == "observed" and (found := [c for c in rendered.judged if c.name == html.unescape(name)]):
            return cells(found[0])[COLUMNS.index("Observed")]
    where = locate(formulas.docs, page.file.src_uri, match[0])
    raise PluginError(f"{where}: no {'claim' if kind == 'observed' else 'label of a cell'} is called {name!r}")


def _link(other: Page, page: Page) -> str:
    return f'<a href="{get_relative_url(other.url, page.url)}">{html.escape(str(other.title))}</a>'


def _route(page: Page) -> str:
    """The walkthroughs with what they are about and how long they take."""
    columns = ("Page", "What it shows", "To read", "To run")
    rows = [
        [
            _link(other, page),
            html.escape(rendered.meta["description"]),
            f"{rendered.minutes} min",
            f"{rendered.seconds:.0f} s",
        ]
        for other, rendered, _ in walkthroughs.values()
    ]
    return _table("nb-route", columns, rows)


def _results(page: Page) -> str:
    """All claims of all walkthroughs in one table."""
    rows = [
        [_link(other, page), *map(html.escape, cells(claim))]
        for other, rendered, _ in walkthroughs.values()
        for claim in rendered.judged
    ]
    return _table("nb-results", ("Page", *COLUMNS), rows)


def _origins(page: Page) -> str:
    """What each walkthrough ran on."""
    columns = ("Page", "Data", "Seeds", "Claims", "Seconds")
    rows = []
    for other, rendered, _ in walkthroughs.values():
        rows.append(
            [
                _link(other, page),
                rendered.data,
                _list(rendered.seeds),
                str(len(rendered.judged)),
                f"{rendered.seconds:.0f}",
            ]
        )
    versions = {name: number for _, rendered, _ in walkthroughs.values() for name, number in rendered.versions.items()}
    digests = {
        found["data"]: found["sha256"] for _, r, _ in walkthroughs.values() for found in r.claims if found["data"]
    }
    facts = [*(f"{name} {number}" for name, number in versions.items()), f"commit {_commit()}"]
    data = "; ".join(f"{name}: SHA-256 <code>{value}</code>" for name, value in digests.items())
    return f"{_table('nb-origins', columns, rows)}<p>Made with {', '.join(facts)}. {data}.</p>"


def _table(name: str, columns: tuple[str, ...], rows: list[list[str]]) -> str:
    head = "".join(f'<th scope="col">{column}</th>' for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<div class="nb-html {name}" tabindex="0" data-search-exclude><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Write the notebook that readers download; leave style and scripts of some pages to those."""
    if not page.file.src_uri.startswith("reference/"):
        output = re.sub(r'<link rel="stylesheet" href="[^"]*_mkdocstrings.css">\s*', "", output)
    if "<live-lab" in output:
        style, script = (get_relative_url(path, page.url) for path in ("stylesheets/live.css", "javascripts/live.js"))
        tags = f'<link rel="stylesheet" href="{style}"><script defer src="{script}"></script>\n'
        output = output.replace("</head>", f"{tags}</head>", 1)
        live_pages.add(page.url)
    if found := walkthroughs.get(page.file.src_uri):
        target = Path(page.file.abs_dest_path).with_name(Path(page.file.src_uri).stem + ".ipynb")
        target.parent.mkdir(parents=True, exist_ok=True)
        address = page.canonical_url or "" if config.site_url else ""
        target.write_text(to_download(found[2], REPOSITORY, address), encoding="utf-8")
    return output


def on_post_build(config: MkDocsConfig) -> None:
    """Write the math font for the formulas that the pages have, the live network, and what the theme wants to load."""
    site = Path(config.site_dir)
    write_font(site)
    if live_pages:
        live.write_networks(site / "assets" / "live")
        script = live.script(Path(config.docs_dir) / "javascripts" / "live")
        (site / "javascripts" / "live.js").write_text(script, encoding="utf-8")
    index = site / "search" / "search_index.js"
    index.parent.mkdir(exist_ok=True)
    index.write_text('var __index = {"config": {}, "docs": []}\n', encoding="utf-8")


PROBLEMS = (
    re.compile(r"Doc file '(?P<page>[^']+)' contains [^']*'(?P<text>[^']+)'"),
    re.compile(r"(?P<page>[\w./-]+\.(?:md|py)): Could not find cross-reference target '(?P<text>[^']+)'"),
)


def _with_line(record: logging.LogRecord) -> bool:
    """Put page and line before a message that names a page and a link."""
    if record.levelno >= logging.WARNING and not hasattr(record, "located"):
        message = record.getMessage()
        for problem in PROBLEMS:
            if match := problem.search(message):
                record.msg, record.args = f"{locate(formulas.docs, match['page'], match['text'])}: {message}", ()
        record.located = True
    return True
