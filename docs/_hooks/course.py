"""What the course adds to MkDocs: executed walkthroughs, their provenance, generated tables, and checks.

mkdocs-jupyter makes the scripts below `walkthroughs/` pages and offers them for download. They are executed here, and
MkDocs itself renders the Markdown that this gives.
"""

import html
import os
import re
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from types import MethodType
from typing import Any

import bank
import execution_cache
import figures
import generated
import indexing
import live
import mistakes
import questions
import sharing
import strict
import student
import tables
from execution import WalkthroughError
from generated import Walkthrough
from mathfont import write_font
from mathml import MathMLExtension, locate
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.plugins import CombinedEvent, event_priority
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.nav import Navigation
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url
from rendering import insert_outputs, lighten, render, to_download

REPOSITORY = os.environ.get("REPOSITORY_URL", "").rstrip("/")

formulas = MathMLExtension()
notebooks: dict[str, Any] = {}
walkthroughs: dict[str, Walkthrough] = {}
LIVE = "stylesheets/live.css"
ELEMENTS = {  # of pages that have a network: styles, and the script
    "live-lab": ((LIVE,), "javascripts/live.js"),
    "net-lab": ((LIVE, "stylesheets/playground.css"), "javascripts/playground.js"),
}
live_pages: dict[str, set[str]] = {element: set() for element in ELEMENTS}  # by element, the pages that have it
shown: dict[str, str] = {}  # a page's HTML, while the search has another one


def on_startup(**_: Any) -> None:
    """Let no warning pass."""
    strict.listen(formulas)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Begin a build: no page is known yet."""
    config.markdown_extensions.append(formulas)
    if REPOSITORY:
        if not re.match(r"https?://[^/]+/.", REPOSITORY):
            raise PluginError(f"REPOSITORY_URL must be an address, as https://github.com/OWNER/NAME: {REPOSITORY!r}")
        config.edit_uri = f"{REPOSITORY}/edit/main/docs/"
    notebooks.clear()
    walkthroughs.clear()
    for pages in live_pages.values():
        pages.clear()
    generated.commit.cache_clear()
    formulas.docs = Path(config.docs_dir)
    return config


def _is_walkthrough(file: File) -> bool:
    return file.is_documentation_page() and file.src_uri.endswith(".py")


def on_nav(nav: Navigation, config: MkDocsConfig, files: Files) -> Navigation:
    """Execute the walkthroughs, or take them from the cache, before the first page is made."""
    found = {file.src_uri: Path(file.abs_src_path) for file in files.documentation_pages() if _is_walkthrough(file)}
    found |= student.source(Path(config.docs_dir))
    cache = Path(config.config_file_path).parent / ".cache" / "notebooks"
    try:
        with ThreadPoolExecutor(1) as beside:  # what goes wrong there is told by the page that asks for the table
            if files.get_file_from_path(mistakes.PAGE):
                beside.submit(mistakes.rows)
            executed = execution_cache.all_executed([*found.values()], cache)
    except WalkthroughError as error:
        raise PluginError(str(error)) from None
    notebooks.update(zip(found, executed, strict=True))
    for file in student.files(config, notebooks, REPOSITORY):
        files.append(file)
    return nav


@event_priority(-100)
def on_pre_page(page: Page, **_: Any) -> Page:
    """Render a walkthrough as MkDocs renders any page, not as mkdocs-jupyter renders a notebook."""
    if _is_walkthrough(page.file):
        page.render = MethodType(Page.render, page)
    return page


@event_priority(100)
def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The Markdown of an executed walkthrough, with a box on its origin below the title."""
    formulas.page = page.file.src_uri
    indexing.boost(page)
    if not _is_walkthrough(page.file):
        return markdown
    stem, notebook = Path(page.file.src_uri).stem, notebooks[page.file.src_uri]
    try:
        rendered = render(notebook, f"docs/{page.file.src_uri}", stem)
    except WalkthroughError as error:
        raise PluginError(str(error)) from None
    walkthroughs[page.file.src_uri] = Walkthrough(page, rendered)
    download = to_download(notebook, REPOSITORY, page.canonical_url or "" if config.site_url else "")
    place = str(Path(page.file.src_uri).with_suffix(".ipynb").as_posix())
    files.append(File.generated(config, place, content=download, inclusion=InclusionLevel.INCLUDED))
    page.meta.update(rendered.meta | {"description": html.escape(rendered.meta["description"])})
    title, _, rest = rendered.markdown.lstrip().partition("\n")
    return f"{title}\n\n{generated.provenance(rendered, stem, REPOSITORY)}\n\n{rest}"


@event_priority(-100)
def on_page_content(content: str, page: Page, **_: Any) -> str:
    """Put the outputs in, let wide tables scroll by keyboard too, and refuse images without a text alternative."""
    if "<img" in content:
        _Images(page).feed(content)
    content = re.sub(r"<table>.*?</table>", r'<div class="nb-table" tabindex="0">\g<0></div>', content, flags=re.S)
    if found := walkthroughs.get(page.file.src_uri):
        outputs = [tables.dressed(each) if 'class="nb-claims"' in each else each for each in found.rendered.outputs]
        return insert_outputs(lighten(content), outputs)
    return content


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
def _fill_in(context: dict[str, Any], page: Page, **_: Any) -> dict[str, Any]:
    """Fill in what is generated from all walkthroughs; by now each of them has run. The search comes next."""
    content = generated.fill_in(page, list(walkthroughs.values()), formulas.docs, REPOSITORY)
    shown[page.file.src_uri] = figures.legible(content)
    page.content = indexing.searchable(content)
    return context


@event_priority(-100)
def _show(context: dict[str, Any], page: Page, **_: Any) -> dict[str, Any]:
    """What readers get, once the search has had its own."""
    page.content = shown.pop(page.file.src_uri)
    page.meta.pop("tags", None)
    return context


on_page_context = CombinedEvent(_fill_in, _show)


def on_template_context(context: dict[str, Any], template_name: str, config: MkDocsConfig) -> dict[str, Any]:
    """Without an address of the site, let the page for what is missing look for the site's folder: see 404.html."""
    if template_name == "404.html" and not config.site_url:
        context["base_url"] = "."
    return context


def on_post_template(output: str, template_name: str, config: MkDocsConfig) -> str:
    """A list of pages without addresses would be no valid sitemap: then there is none."""
    return "" if template_name == "sitemap.xml" and not config.site_url else output


def on_post_page(output: str, page: Page, **_: Any) -> str:
    """Leave style and scripts of some pages to those."""
    if not page.file.src_uri.startswith("reference/"):
        output = re.sub(r'<link rel="stylesheet" href="[^"]*_mkdocstrings.css">\s*', "", output)
    for element, (styles, script) in ELEMENTS.items():
        if f"<{element}" in output:
            links = (f'<link rel="stylesheet" href="{get_relative_url(path, page.url)}">' for path in styles)
            source = get_relative_url(script, page.url)
            small = all("preset=" in tag for tag in re.findall(rf"<{element}[^>]*>", output))  # extra.js loads it then
            tag = f'<meta name="nb-later" content="{source}">' if small else f'<script defer src="{source}"></script>'
            output = output.replace("</head>", f"{''.join(links)}{tag}\n</head>", 1)
            live_pages[element].add(page.url)
    return output


def on_post_build(config: MkDocsConfig) -> None:
    """Write the math font for the formulas that the pages have, the live network, and what the theme wants to load."""
    site = Path(config.site_dir)
    write_font(site)
    asked = {Path(name).stem: found.rendered.asked for name, found in walkthroughs.items()}
    questions.write_script(Path(config.docs_dir), site, asked)
    if (Path(config.docs_dir) / bank.SOURCE).is_file():
        bank.write(site, generated.in_bank(list(walkthroughs.values())))
    scripts = Path(config.docs_dir) / "javascripts"
    if any(live_pages.values()):
        live.write_networks(site / "assets" / "live")
    if live_pages["live-lab"]:
        (site / "javascripts" / "live.js").write_text(live.page_script(scripts / "live"), encoding="utf-8")
    if live_pages["net-lab"]:
        script = live.script(scripts / "playground", "playground")
        (site / "javascripts" / "playground.js").write_text(script, encoding="utf-8")
    if config.site_url:
        sharing.write_card(site / sharing.CARD, config.site_name)
    index = site / "search" / "search_index.js"
    index.parent.mkdir(exist_ok=True)
    index.write_text('var __index = {"config": {}, "docs": []}\n', encoding="utf-8")
