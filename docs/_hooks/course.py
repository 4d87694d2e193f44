"""What the course adds to MkDocs: executed walkthroughs, their provenance, generated tables, and checks.

mkdocs-jupyter makes the scripts below `walkthroughs/` pages and offers them for download. They are executed here, and
MkDocs itself renders the Markdown that this gives.
"""

import html
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from types import MethodType
from typing import Any

import execution_cache
import generated
import live
import strict
from execution import WalkthroughError
from generated import Walkthrough
from mathfont import write_font
from mathml import MathMLExtension, locate
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url
from rendering import insert_outputs, lighten, render, to_download

REPOSITORY = os.environ.get("REPOSITORY_URL", "").rstrip("/")

formulas = MathMLExtension()
walkthroughs: dict[str, Walkthrough] = {}
live_pages: set[str] = set()


def on_startup(**_: Any) -> None:
    """Let no warning pass."""
    strict.listen(formulas)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Begin a build: no page is known yet."""
    config.markdown_extensions.append(formulas)
    if REPOSITORY:
        config.edit_uri = f"{REPOSITORY}/edit/main/docs/"
    walkthroughs.clear()
    live_pages.clear()
    generated.commit.cache_clear()
    formulas.docs = Path(config.docs_dir)
    return config


def _is_walkthrough(file: File) -> bool:
    return file.is_documentation_page() and file.src_uri.endswith(".py")


@event_priority(-100)
def on_pre_page(page: Page, **_: Any) -> Page:
    """Render a walkthrough as MkDocs renders any page, not as mkdocs-jupyter renders a notebook."""
    if _is_walkthrough(page.file):
        page.render = MethodType(Page.render, page)
    return page


@event_priority(100)
def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Execute a walkthrough or take it from the cache; its Markdown, with a box on its origin below the title."""
    formulas.page = page.file.src_uri
    if not _is_walkthrough(page.file):
        return markdown
    stem, root = Path(page.file.src_uri).stem, Path(config.config_file_path).parent
    try:
        notebook = execution_cache.executed(Path(page.file.abs_src_path), root / ".cache" / "notebooks")
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
    found = walkthroughs.get(page.file.src_uri)
    return insert_outputs(lighten(content), found.rendered.outputs) if found else content


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
    page.content = generated.fill_in(page, list(walkthroughs.values()), formulas.docs)
    return context


def on_post_page(output: str, page: Page, **_: Any) -> str:
    """Leave style and scripts of some pages to those."""
    if not page.file.src_uri.startswith("reference/"):
        output = re.sub(r'<link rel="stylesheet" href="[^"]*_mkdocstrings.css">\s*', "", output)
    if "<live-lab" in output:
        style, script = (get_relative_url(path, page.url) for path in ("stylesheets/live.css", "javascripts/live.js"))
        tags = f'<link rel="stylesheet" href="{style}"><script defer src="{script}"></script>\n'
        output = output.replace("</head>", f"{tags}</head>", 1)
        live_pages.add(page.url)
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
