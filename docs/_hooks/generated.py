"""What pages show of the walkthroughs: tables of claims, of origins and of the course; single figures and values."""

import html
import re
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

from execution import ROOT
from markupsafe import Markup
from mathml import locate
from mkdocs.exceptions import PluginError
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url
from rendering import Rendered

from lab.claims import COLUMNS, cells
from lab.files import html_table

PLACE = re.compile(r"<!-- (results|origins|route|show|observed)(?:: (.+?))? -->")
GITHUB = re.compile(r"https://github\.com/([\w.-]+/[\w.-]+)")


@dataclass(frozen=True)
class Walkthrough:
    """A page of the course, and what its run gave."""

    page: Page
    rendered: Rendered


def fill_in(page: Page, walkthroughs: Sequence[Walkthrough], docs: Path) -> str:
    """The page's HTML, with what is generated in the places that ask for it, such as `<!-- show: label -->`.

    Raises:
        PluginError: no walkthrough has the label, or the claim.
    """

    def generated(match: re.Match[str]) -> str:
        kind, name = match.groups()
        if kind in TABLES:
            return TABLES[kind](page, walkthroughs)
        if (found := PARTS[kind](html.unescape(name), walkthroughs)) is None:
            what = "claim" if kind == "observed" else "label of a cell"
            raise PluginError(f"{locate(docs, page.file.src_uri, match[0])}: no {what} is called {name!r}")
        return found

    return PLACE.sub(generated, page.content or "")


def _show(label: str, walkthroughs: Sequence[Walkthrough]) -> str | None:
    """The output of the cell with this label."""
    found = (each.rendered.labels[label] for each in walkthroughs if label in each.rendered.labels)
    output = next(found, None)
    return f'<div class="nb-output" data-search-exclude>{output}</div>' if output else None


def _observed(name: str, walkthroughs: Sequence[Walkthrough]) -> str | None:
    """What was measured for the claim of this name."""
    claims = (claim for each in walkthroughs for claim in each.rendered.judged if claim.name == name)
    claim = next(claims, None)
    return cells(claim)[COLUMNS.index("Observed")] if claim else None


def _route(page: Page, walkthroughs: Sequence[Walkthrough]) -> str:
    """The walkthroughs with what they are about and how long they take."""
    rows = [
        [
            _link(each.page, page),
            each.rendered.meta["description"],
            f"{each.rendered.minutes} min",
            f"{each.rendered.seconds:.0f} s",
        ]
        for each in walkthroughs
    ]
    return _table("nb-route", ("Page", "What it shows", "To read", "To run"), rows)


def _results(page: Page, walkthroughs: Sequence[Walkthrough]) -> str:
    """All claims of all walkthroughs in one table."""
    rows = [[_link(each.page, page), *cells(claim)] for each in walkthroughs for claim in each.rendered.judged]
    return _table("nb-results", ("Page", *COLUMNS), rows)


def _origins(page: Page, walkthroughs: Sequence[Walkthrough]) -> str:
    """What each walkthrough ran on."""
    rows = [
        [
            _link(each.page, page),
            each.rendered.data,
            _numbers(each.rendered.seeds),
            str(len(each.rendered.judged)),
            f"{each.rendered.seconds:.0f}",
        ]
        for each in walkthroughs
    ]
    versions: dict[str, str] = {}
    digests: dict[str, str] = {}
    for each in walkthroughs:
        versions |= each.rendered.versions
        digests |= {found["data"]: found["sha256"] for found in each.rendered.claims if found["data"]}
    data = "; ".join(f"{name}: SHA-256 <code>{value}</code>" for name, value in digests.items())
    table = _table("nb-origins", ("Page", "Data", "Seeds", "Claims", "Seconds"), rows)
    return f"{table}<p>Made with {_made_with(versions)}. {data}.</p>"


TABLES: dict[str, Callable[[Page, Sequence[Walkthrough]], str]] = {
    "results": _results,
    "origins": _origins,
    "route": _route,
}
PARTS: dict[str, Callable[[str, Sequence[Walkthrough]], str | None]] = {"show": _show, "observed": _observed}


def _link(other: Page, page: Page) -> Markup:
    return Markup('<a href="{}">{}</a>').format(get_relative_url(other.url, page.url), str(other.title))


def _table(name: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return f'<div class="nb-html {name}" tabindex="0" data-search-exclude>{html_table(columns, rows)}</div>'


def provenance(rendered: Rendered, stem: str, repository: str) -> str:
    """The box below a walkthrough's title: time, data, seeds, versions and commit, and the downloads."""
    seeds = f"seed {rendered.seeds[0]}" if len(rendered.seeds) == 1 else f"seeds {_numbers(rendered.seeds)}"
    links = {"Executed notebook": f"{stem}.ipynb", "Script": f"{stem}.py"}
    downloads = " · ".join(f'<a href="{file}" download>{name}</a>' for name, file in links.items())
    if github := GITHUB.fullmatch(repository):
        address = f"https://colab.research.google.com/github/{github[1]}/blob/notebooks/{stem}.ipynb"
        downloads += f' · <a href="{address}">Open in Colab</a>'
    versions = {"lab": version("equivariance-lab"), **rendered.versions}
    return (
        f'<div class="nb-provenance"><p>{rendered.minutes} min to read · ran in {rendered.seconds:.0f} s on '
        f"{rendered.data}, {seeds} · {downloads}</p><p>Made with {_made_with(versions)}.</p></div>"
    )


def _numbers(found: list[int]) -> str:
    """`0, 1, 2`, or `0–4` for a run of more than two."""
    if len(found) > 2 and found == list(range(found[0], found[-1] + 1)):
        return f"{found[0]}–{found[-1]}"
    return ", ".join(map(str, found)) or "none"


def _made_with(versions: dict[str, str]) -> str:
    return ", ".join([*(f"{name} {number}" for name, number in versions.items()), f"commit {commit()}"])


@cache
def commit() -> str:
    """Which commit the site is built from; asked once in a build."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + (" with changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
