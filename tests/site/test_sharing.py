"""The site as other programs meet it: crawlers, shared links, reference managers, and servers with a page missing."""

import functools
import http.server
import re
import shutil
import subprocess
import sys
import threading
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from PIL import Image
from serving import QuietHandler

ROOT = Path(__file__).parents[2]
ADDRESS, REPOSITORY = "https://someone.github.io/lab/", "https://github.com/someone/lab"
CONFIG = f"""
site_name: Test
site_description: "What a test is"
site_url: !ENV [SITE_URL, ""]
strict: true
use_directory_urls: false
theme: {{name: material, font: false, favicon: assets/favicon.svg, custom_dir: {ROOT}/docs/_theme}}
hooks: [{ROOT}/docs/_hooks/course.py]
plugins: [search]
nav:
  - Home: index.md
  - Course: [{{"I. A part": [course/first.md]}}]
  - Live lab: live.md
  - Results: results.md
  - Glossary: glossary.md
"""
PAGES = {
    "index.md": "---\ndescription: A test.\n---\n# Home\n\nA word: banana. Now <!-- clone -->.\n\n<!-- citation -->\n",
    "course/first.md": "---\ndescription: The first page.\n---\n# First page\n\nGood.\n",
    **{f"{name}.md": f"# {name}\n\nGood.\n" for name in ("live", "results", "glossary")},
}


@pytest.fixture(scope="module")
def sites(mkdocs, tmp_path_factory):
    """One small site, built with addresses of its own and of its repository, and without."""
    folder = tmp_path_factory.mktemp("shared")
    (folder / "mkdocs.yml").write_text(CONFIG)
    for name, text in PAGES.items():
        (folder / "docs" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "docs" / name).write_text(text)
    (folder / "docs" / "assets").mkdir()
    for name in ("pair.png", "favicon.svg"):
        shutil.copy(ROOT / "docs" / "assets" / name, folder / "docs" / "assets")
    for name, given in {"known": {"SITE_URL": ADDRESS, "REPOSITORY_URL": REPOSITORY}, "unknown": {}}.items():
        built = mkdocs(folder, "--site-dir", str(folder / name), **given)
        assert built.returncode == 0, built.stderr
    return SimpleNamespace(known=folder / "known", unknown=folder / "unknown")


def pages_of(site):
    found = {path.relative_to(site).as_posix(): path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    assert len(found) == len(PAGES) + 1
    return found


def tags(text):
    return dict(re.findall(r'<meta (?:property|name)="((?:og|twitter):[\w:]+)" content="([^"]*)">', text))


def test_with_an_address_the_sitemap_lists_every_page(sites):
    listed = ElementTree.parse(sites.known / "sitemap.xml").getroot()
    places = {place.text for place in listed.iter("{http://www.sitemaps.org/schemas/sitemap/0.9}loc")}
    home, *others = [page.replace(".md", ".html") for page in PAGES]
    assert places == {f"{ADDRESS}{page}" for page in others} | {ADDRESS if ADDRESS in places else ADDRESS + home}


def test_without_an_address_there_is_no_sitemap(sites):
    assert not list(sites.unknown.glob("sitemap*"))


def test_every_page_tells_what_a_shared_link_shows(sites):
    for page, text in pages_of(sites.known).items():
        found = tags(text)
        assert found["og:site_name"] == "Test"
        if page == "404.html":
            continue
        assert re.findall(r'<link rel="canonical" href="([^"]*)">', text) == [found["og:url"]]
        assert found["og:url"].startswith(ADDRESS)
        assert found["og:image"] == f"{ADDRESS}assets/card.png"
        assert found["og:image:alt"]
    first = tags(pages_of(sites.known)["course/first.html"])
    assert (first["og:title"], first["og:description"]) == ("First page", "The first page.")
    assert tags(pages_of(sites.known)["live.html"])["og:description"] == "What a test is"


def test_the_picture_of_a_shared_link_is_the_courses_figure(sites):
    with Image.open(sites.known / "assets" / "card.png") as card:
        assert (card.format, card.size, card.mode) == ("PNG", (1200, 630), "RGB")
        assert len(card.convert("P").getcolors()) > 50  # no blank sheet
    given = tags(pages_of(sites.known)["index.html"])
    assert (given["og:image:width"], given["og:image:height"]) == ("1200", "630")


def test_without_an_address_no_page_names_one(sites):
    for text in pages_of(sites.unknown).values():
        found = tags(text)
        assert found["og:title"]
        assert not found.keys() & {"og:url", "og:image", "twitter:card"}
        assert 'rel="canonical"' not in text
    assert not (sites.unknown / "assets" / "card.png").exists()


def test_a_known_repository_is_what_to_clone_and_to_cite(sites):
    known, unknown = (pages_of(site)["index.html"] for site in (sites.known, sites.unknown))
    assert f"<code>git clone {REPOSITORY}</code>" in known
    assert f"url = {{{REPOSITORY}}}" in known
    assert "a copy of the repository" in unknown
    assert "url = " not in unknown
    for text in (known, unknown):
        assert f"version {version('equivariance-lab')}, 20" in text
        assert "@software{" in text


def test_the_citation_file_is_valid_and_names_this_version():
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.citation-file-format"]
    checked = subprocess.run([*command, str(ROOT / "CITATION.cff")], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.+)$", text, re.M)[1] == version("equivariance-lab")


class InAFolder(QuietHandler):
    """Holds a site in a folder of the server, and answers with the site's own page where there is none."""

    folder = "/"

    def translate_path(self, path):
        return super().translate_path("/" + path.removeprefix(self.folder) if path.startswith(self.folder) else "/none")

    def send_error(self, code, *_):
        page = (Path(self.directory) / "404.html").read_bytes()
        self.send_response(code)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(page)


@pytest.fixture
def serve():
    servers = []

    def start(site, folder):
        handler = functools.partial(type("Handler", (InAFolder,), {"folder": folder}), directory=site)
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("place", ["none.html", "course/none.html", "a/b/c/moved-banana"])
@pytest.mark.parametrize(
    ("name", "folder"), [("unknown", "/"), ("unknown", "/some/where/"), ("known", "/lab/")], ids=lambda part: str(part)
)
def test_the_page_for_what_is_missing_works_in_any_folder_and_leads_on(place, name, folder, sites, serve, tab):
    address = serve(getattr(sites, name), folder)
    opened = tab(f"{address}{folder}{place}")
    assert opened.locator("h1").inner_text() == "There is no such page"
    header = opened.locator(".md-header").evaluate("(header) => getComputedStyle(header).position")
    assert header == "sticky"  # it has its style
    links = {link.inner_text(): link.get_attribute("href") for link in opened.locator("article li a").all()}
    assert list(links) == ["Home", "Course", "Live lab", "Results", "glossary"]
    found = opened.evaluate("""async () => {
        const links = [...document.querySelectorAll("article li a")]
        return Promise.all(links.map((link) => fetch(link.href).then(({ status }) => status)))
    }""")
    assert found == [200] * 5
    words = opened.locator(".nb-missing input")
    assert words.input_value() == ("moved banana" if "banana" in place else "none")
    words.fill("banana")
    words.press("Enter")
    opened.locator(".md-search-result__item", has_text="Home").first.wait_for()
    assert opened.url.startswith(f"{address}{folder}index.html")


def test_the_search_of_the_page_for_what_is_missing_finds_pages(sites, serve, tab):
    opened = tab(f"{serve(sites.unknown, '/some/where/')}/some/where/a/none.html")
    opened.keyboard.press("/")
    opened.keyboard.type("banana")
    result = opened.locator(".md-search-result__item a").first
    result.wait_for()
    assert "/some/where/index.html" in result.evaluate("(link) => link.href")
