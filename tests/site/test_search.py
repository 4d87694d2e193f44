"""The search of the built site, as the theme runs it in the browser: what readers look for comes first."""

from pathlib import Path
from urllib.parse import quote

import indexing
import mathml
import pytest
from test_site import PAGES

ROOT = Path(__file__).parents[2]
WANTED = {  # what a reader types -> the page that is to come first
    "equivariance": "walkthroughs/01_two_words",
    "commuting square": "walkthroughs/01_two_words",
    "shift": "walkthroughs/02_shifting",
    "translation": "walkthroughs/02_shifting",
    "sorting": "walkthroughs/04_sorting",
    "scramble": "walkthroughs/04_sorting",
    "stride": "walkthroughs/05_strides",
    "pooling": "walkthroughs/05_strides",
    "padding": "walkthroughs/06_borders",
    "aliasing": "walkthroughs/07_aliasing",
    "invariance": "walkthroughs/08_invariance",
    "fully connected": "walkthroughs/08_invariance",
    "receptive field": "walkthroughs/10_meter",
    "lab.meter": "walkthroughs/10_meter",
    "ResNet": "walkthroughs/10_meter",
    "shift map": "walkthroughs/11_shift_maps",
    "tile": "walkthroughs/12_tiles",
    "remedy": "walkthroughs/13_what_helps",
    "replication": "walkthroughs/14_the_paper_says",
    "do it yourself": "exercise",
    "kappa": "glossary",
    "claims": "results",
    "live lab": "live",
    "playground": "playground",
    "install": "start",
    "cite": "start",
    "unrelated_distance": "reference/metrics",  # a name of the package is still found
    "DataError": "reference/errors",
}


@pytest.fixture(scope="module")
def search(lasting_tab, address):
    opened = lasting_tab(f"{address}references.html")

    def first(query):
        opened.goto(f"{address}references.html?q={quote(query)}")
        result = opened.locator(".md-search-result__item a").first
        result.wait_for()
        return result

    return first


@pytest.mark.parametrize("query", WANTED)
def test_the_page_that_is_looked_for_comes_first(query, search, address):
    found = search(query).evaluate("(link) => link.href.split(/[?#]/)[0]")
    assert found == f"{address}{WANTED[query]}.html"


def test_the_words_for_the_search_are_those_of_pages_that_are_there():
    assert {page.rpartition(".")[0] + ".html" for page in indexing.TAUGHT} <= set(PAGES)


def test_a_formula_is_found_and_shown_as_words(address, tab):
    index = tab(address + "index.html").evaluate("fetch('search/search_index.json').then((answer) => answer.json())")
    texts = " ".join(entry["text"] for entry in index["docs"])
    assert "f(T_" in texts
    assert not [raw for raw in (r"\norm", "<math", "semantics") if raw in texts]


@pytest.mark.parametrize(
    ("latex", "words"),
    [
        ("N", "N"),
        ("f(T_s x) = T_s f(x)", "f(T_s x) = T_s f(x)"),
        (r"\norm{a - b} \le 2^{-24}", "‖a − b‖ ≤ 2^−24"),
        (r"\frac{a}{b}", "a / b"),
        (r"x < y", "x < y"),
    ],
)
def test_formulas_are_spelled_in_one_line(latex, words):
    assert indexing.spelled(mathml.inline(latex)) == words
    assert indexing.searchable(f"<p>{mathml.inline(latex)}</p>").count("<") == 2
