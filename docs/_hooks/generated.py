"""What pages show of the walkthroughs: tables of claims, of origins and of the course; single figures and values.

And what they show of the project itself: how to cite it, and where to get it.
"""

import html
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from itertools import groupby
from pathlib import Path, PurePath

import bank
import citation
import lessons
import mistakes
import tables
from execution import ROOT, WalkthroughError
from markupsafe import Markup, escape
from mathml import locate
from mkdocs.exceptions import PluginError
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url
from rendering import Rendered

from lab.claims import COLUMNS, KINDS, Claim, cells
from lab.files import html_table

PLACE = re.compile(
    r"<!-- (results|mistakes|kinds|origins|route|citation|clone|course|show|observed|controls|ask|answer|seen|exercise)"
    r"(?:: (.+?))? -->"
)
EDITIONS = {"blank": "walkthroughs/exercise", "solved": "walkthroughs/exercise_solved"}  # where their files lie
NBSP = "\N{NO-BREAK SPACE}"
GITHUB = re.compile(r"https://github\.com/([\w.-]+/[\w.-]+)")


@dataclass(frozen=True)
class Walkthrough:
    """A page of the course, and what its run gave."""

    page: Page
    rendered: Rendered

    @property
    def stem(self) -> str:
        """The name of its script, without its ending."""
        return PurePath(self.page.file.src_uri).stem


def in_bank(walkthroughs: Sequence[Walkthrough]) -> list[bank.Item]:
    """The questions of the question bank.

    Raises:
        PluginError: what `bank.SOURCE` says does not fit the pages.
    """
    pages = [bank.Page(each.stem, str(each.page.title), each.rendered.asked) for each in walkthroughs]
    try:
        return bank.items(pages, ROOT / "docs" / bank.SOURCE)
    except WalkthroughError as error:
        raise PluginError(str(error)) from None


def fill_in(page: Page, walkthroughs: Sequence[Walkthrough], docs: Path, repository: str = "") -> str:
    """The page's HTML, with what is generated in the places that ask for it, such as `<!-- show: label -->`.

    Args:
        page: the page.
        walkthroughs: all of them.
        docs: the folder of the pages, for messages.
        repository: its address, where one is known.

    Raises:
        PluginError: no walkthrough has the label, or the claim.
    """

    def generated(match: re.Match[str]) -> str:
        kind, name = match.groups()
        if kind in PROJECT:
            return PROJECT[kind](repository)
        if kind in TABLES:
            return TABLES[kind](page, walkthroughs)
        edition = kind == "exercise"
        found = _edition(name, page, repository) if edition else PARTS[kind](html.unescape(name), walkthroughs)
        if found is None:
            where = locate(docs, page.file.src_uri, match[0])
            raise PluginError(f"{where}: no {WHAT[kind]} is called {name!r}")
        return found

    return PLACE.sub(generated, page.content or "")


def _edition(name: str, page: Page, repository: str) -> str | None:
    """Links to an edition of the exercise, blank or solved."""
    links = {"Notebook": ".ipynb", "Script": ".py"}
    return _downloads(links, get_relative_url(EDITIONS[name], page.url), repository) if name in EDITIONS else None


def _show(label: str, walkthroughs: Sequence[Walkthrough]) -> str | None:
    """The output of the cell with this label."""
    found = (each.rendered.labels[label] for each in walkthroughs if label in each.rendered.labels)
    output = next(found, None)
    return f'<div class="nb-output" data-search-exclude>{output}</div>' if output else None


def _observed(name: str, walkthroughs: Sequence[Walkthrough]) -> str | None:
    """What was measured for the claim of this name."""
    return _cell(name, "Observed", walkthroughs)


def _controls(name: str, walkthroughs: Sequence[Walkthrough]) -> str | None:
    """What its controls gave, and the bounds that they have to keep."""
    return _cell(name, "Control", walkthroughs)


def _cell(name: str, column: str, walkthroughs: Sequence[Walkthrough]) -> str | None:
    claims = (claim for each in walkthroughs for claim in each.rendered.judged if claim.name == name)
    claim = next(claims, None)
    return tables.with_formulas(escape(cells(claim)[COLUMNS.index(column)])) if claim else None


def _question(show: Callable[[lessons.Question], str], name: str, walkthroughs: Sequence[Walkthrough]) -> str | None:
    """A question of a page, or its answer."""
    found = lessons.find(name, {each.stem: each.rendered.asked for each in walkthroughs})
    return show(found) if found else None


def _course(what: str, walkthroughs: Sequence[Walkthrough]) -> str | None:
    """How many pages the course has, or how long it takes to read."""
    if what == "pages":
        return str(len(walkthroughs))
    if what == "questions":
        return str(len(in_bank(walkthroughs)))
    return _hours(sum(each.rendered.minutes for each in walkthroughs)) if what == "time" else None


def _hours(minutes: int) -> str:
    """`45 min`, `2 h`, `2 h 5 min`, which no line may break."""
    hours, rest = divmod(minutes, 60)
    parts = [f"{hours} h"] * bool(hours) + [f"{rest} min"] * bool(rest or not hours)
    return " ".join(parts).replace(" ", NBSP)


def _route(page: Page, walkthroughs: Sequence[Walkthrough]) -> str:
    """The walkthroughs, part by part, with what they are about and how long they take."""
    groups = []
    for part, found in groupby(walkthroughs, key=lambda each: each.page.parent):
        inside = list(found)
        rows = [[_link(each.page, page), each.rendered.meta["description"], *_times([each])] for each in inside]
        heading = Markup('<th colspan="2" scope="rowgroup">{}</th>{}').format(part.title, _cells(_times(inside)))
        groups.append((heading if part else "", rows))
    total = f'<tfoot><tr><th colspan="2" scope="row">In all</th>{_cells(_times(walkthroughs))}</tr></tfoot>'
    return _grouped("nb-route", ("Page", "What it shows", "To read", "To run"), groups, total)


def _times(walkthroughs: Sequence[Walkthrough]) -> tuple[str, str]:
    """How long some of them take to read, and to run."""
    minutes = sum(each.rendered.minutes for each in walkthroughs)
    seconds = sum(round(each.rendered.seconds) for each in walkthroughs)
    return _hours(minutes), f"{seconds}{NBSP}s" if seconds < 120 else _hours(round(seconds / 60))


def _results(page: Page, walkthroughs: Sequence[Walkthrough]) -> str:
    """All claims, page by page, and the fields that choose among them."""
    groups = []
    for each in walkthroughs:
        heading = Markup('<th colspan="{}" scope="rowgroup">{}</th>').format(len(COLUMNS), _link(each.page, page))
        groups.append((heading, [cells(claim) for claim in each.rendered.judged]))
    claims = [claim for each in walkthroughs for claim in each.rendered.judged]
    return _filter(claims) + tables.dressed(_grouped("nb-results", COLUMNS, groups))


def _filter(claims: Sequence[Claim]) -> str:
    """Fields that a script shows and listens to; without it, all rows are there."""
    kinds, verdicts = Counter(claim.kind for claim in claims), Counter(claim.verdict for claim in claims)
    known = ("agree", "disagree", "no control", "degenerate")
    return (
        '<form class="nb-filter" role="search" aria-label="Claims" hidden>'
        '<label>Words <input type="search" placeholder="conv1, invariance, untrained …" autocomplete="off"></label>'
        f"{_select('Kind', {kind: kinds[kind] for kind in KINDS})}"
        f"{_select('Verdict', {verdict: verdicts[verdict] for verdict in known})}"
        '<button type="reset">Show all</button><span role="status"></span></form>'
    )


def _select(name: str, counts: dict[str, int]) -> str:
    """One of the values of a column; each tells how many rows have it."""
    options = "".join(f'<option value="{value}">{value} ({count})</option>' for value, count in counts.items())
    return f'<label>{name} <select data-column="{name}"><option value="">all</option>{options}</select></label>'


def _kinds(_page: Page, walkthroughs: Sequence[Walkthrough]) -> str:
    """What the kinds of claims mean, and how many there are of each."""
    found = Counter(claim.kind for each in walkthroughs for claim in each.rendered.judged)
    items = (f"<dt>{kind} ({found[kind]})</dt><dd>{escape(why)}</dd>" for kind, why in KINDS.items())
    return f'<dl class="nb-kinds">{"".join(items)}</dl>'


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


def _clone(repository: str) -> str:
    """Where to get the repository."""
    if repository:
        return f"run <code>git clone {escape(repository)}</code>"
    return "get a copy of the repository (<code>git clone</code> and its address, or a ZIP file, unpacked)"


TABLES: dict[str, Callable[[Page, Sequence[Walkthrough]], str]] = {
    "results": _results,
    "mistakes": lambda _page, _walkthroughs: mistakes.as_html(),
    "kinds": _kinds,
    "origins": _origins,
    "route": _route,
}
PARTS: dict[str, Callable[[str, Sequence[Walkthrough]], str | None]] = {
    "show": _show,
    "observed": _observed,
    "controls": _controls,
    "course": _course,
    "ask": partial(_question, lessons.ask),
    "answer": partial(_question, lessons.answer),
    "seen": partial(_question, lessons.seen),
}
WHAT = {"show": "label of a cell", "observed": "claim", "controls": "claim", "course": "number of the course"}
WHAT |= dict.fromkeys(("ask", "answer", "seen"), "question of a page") | {"exercise": "edition of the exercise"}
PROJECT: dict[str, Callable[[str], str]] = {"clone": _clone, "citation": citation.as_html}


def _link(other: Page, page: Page) -> Markup:
    return Markup('<a href="{}">{}</a>').format(get_relative_url(other.url, page.url), str(other.title))


def _cells(texts: Iterable[str]) -> Markup:
    return Markup("").join(Markup("<td>{}</td>").format(text) for text in texts)


def _grouped(
    name: str, columns: Sequence[str], groups: Iterable[tuple[str, Iterable[Sequence[str]]]], end: str = ""
) -> str:
    """A table whose rows stand in groups, each below a heading of its own."""
    bodies = []
    for heading, rows in groups:
        body = html_table(columns, rows).partition("<tbody>")[2].partition("</tbody>")[0]
        above = f'<tr class="nb-group">{heading}</tr>' if heading else ""
        bodies.append(f"<tbody>{above}{body}</tbody>")
    head = html_table(columns, []).partition("<tbody>")[0]
    inside = f"{head}{''.join(bodies)}{end}</table>"
    return f'<div class="nb-html {name}" tabindex="0" data-search-exclude>{inside}</div>'


def _table(name: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return f'<div class="nb-html {name}" tabindex="0" data-search-exclude>{html_table(columns, rows)}</div>'


def provenance(rendered: Rendered, stem: str, repository: str) -> str:
    """The box below a walkthrough's title: time, data, seeds, versions and commit, and the downloads."""
    seeds = f"seed {rendered.seeds[0]}" if len(rendered.seeds) == 1 else f"seeds {_numbers(rendered.seeds)}"
    downloads = _downloads({"Executed notebook": ".ipynb", "Script": ".py"}, stem, repository)
    versions = {"lab": version("equivariance-lab"), **rendered.versions}
    return (
        f'<div class="nb-provenance"><p>{rendered.minutes} min to read · ran in {rendered.seconds:.0f} s on '
        f"{rendered.data}, {seeds} · {downloads}</p><p>Made with {_made_with(versions)}.</p></div>"
    )


def _downloads(links: dict[str, str], path: str, repository: str) -> str:
    """Links to files of one name with several endings; and to its notebook in Colab, where the repository is known."""
    found = [f'<a href="{path}{ending}" download>{name}</a>' for name, ending in links.items()]
    if github := GITHUB.fullmatch(repository):
        stem = path.rpartition("/")[2]
        address = f"https://colab.research.google.com/github/{github[1]}/blob/notebooks/{stem}.ipynb"
        found.append(f'<a href="{address}">Open in Colab</a>')
    return " · ".join(found)


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
