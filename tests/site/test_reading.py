"""What a reader has to be able to do with each page: read its figures, its code and its tables, undisturbed."""

import re
import time
from types import SimpleNamespace

import pytest
from patience import PAGE
from test_site import PAGES, PHONE, UNLIKE, WALKTHROUGHS, unfold

LEAST = 9  # CSS pixels of the smallest lettering; below, it cannot be read at arm's length
WIDEST = 2  # screens that a figure may be wide on a phone, where it scrolls in its own box
STILL = 0.05  # cumulative layout shift; 0.1 is what web.dev calls good
VIEWS = {"laptop": {"width": 1366, "height": 650}, "phone": PHONE}
LETTERING = """() => [...document.querySelectorAll("article .nb-svg svg text")].map((text) => {
    const { a, b } = text.getScreenCTM()
    const inked = [text, ...text.querySelectorAll("tspan")].filter(({ childNodes }) =>
        [...childNodes].some(({ nodeType, data }) => nodeType === Node.TEXT_NODE && data.trim()))
    const size = Math.max(...inked.map((part) => parseFloat(getComputedStyle(part).fontSize)))
    return [size * Math.hypot(a, b), text.textContent.trim()]
}).filter(([size]) => size > 0)"""
CUT = """() => {
    const walker = document.createTreeWalker(document.querySelector("article"), NodeFilter.SHOW_TEXT)
    const found = []
    const cut = (element, right) => {
        for (let box = element; box && box !== document.documentElement; box = box.parentElement) {
            const { overflowX, position } = getComputedStyle(box)
            if (position === "absolute" && box.clientWidth <= 1) return false // for screen readers alone
            if (["auto", "scroll"].includes(overflowX) && box.scrollWidth > box.clientWidth) return false
            if (["hidden", "clip"].includes(overflowX) && right > box.getBoundingClientRect().right + 1) return true
        }
        return right > innerWidth + 1
    }
    while (walker.nextNode()) {
        const text = walker.currentNode
        const range = document.createRange()
        range.selectNodeContents(text)
        const right = Math.max(...[...range.getClientRects()].map((box) => box.right))
        if (text.data.trim() && text.parentElement.checkVisibility() && cut(text.parentElement, right))
            found.push(text.data.trim().slice(0, 60))
    }
    return found
}"""
WATCH = """
    globalThis.shifts = []
    new PerformanceObserver((list) => {
        for (const { value, hadRecentInput, sources } of list.getEntries()) {
            const what = sources.map(({ node }) => node?.outerHTML?.slice(0, 60) ?? node?.data?.slice(0, 60))
            if (!hadRecentInput) shifts.push([value, what])
        }
    }).observe({ type: "layout-shift", buffered: true })
"""
SCROLL = """() => {
    const to = (y) => {
        scrollTo(0, y)
        globalThis.scrolled = y >= document.body.scrollHeight
        if (!scrolled) setTimeout(to, 50, y + innerHeight / 2)
    }
    to(0)
}"""
TEX = re.compile(r"\$[^\s$][^$]*\$|\\[A-Za-z]+|[_^]\{")
WORDS = """() => {
    const article = document.querySelector("article").cloneNode(true)
    article.querySelectorAll("pre, code, script, style, annotation").forEach((part) => part.remove())
    return article.textContent
}"""


MEASURE = f"""() => ({{
    lettering: ({LETTERING})(),
    widths: [...document.querySelectorAll(".nb-svg svg")].map((svg) => svg.clientWidth / innerWidth),
    cut: ({CUT})(),
    words: ({WORDS})(),
    wide: [...document.querySelectorAll(".doc-signature code, .highlight code")]
        .filter((code) => code.scrollWidth > code.clientWidth + 1)
        .map((code) => [code.closest(".doc-signature") ? "signature" : "code", code.textContent.slice(0, 60)]),
}})"""


@pytest.fixture(scope="module")
def seen(address, chromium):
    """What was measured on a page, in one visit for each view: first while it loads, then with all folds open.

    Of pages that are made alike, only one is watched while it loads: to scroll through the others takes minutes.
    """
    contexts, known = {}, {}
    for view, size in VIEWS.items():
        contexts[view] = chromium.new_context(viewport=size)
        contexts[view].add_init_script(WATCH)

    def visit(page, view):
        if (page, view) not in known:
            opened = contexts[view].new_page()
            opened.goto(address + page)
            if page in UNLIKE:
                opened.evaluate(SCROLL)
                opened.wait_for_function("scrolled", timeout=1_000 * PAGE)  # a promise of the page may never come
            if opened.locator("live-lab").count():
                opened.locator("live-lab").first.evaluate("(lab) => lab.scrollIntoView()")  # it may be passed unseen
                opened.wait_for_selector("live-lab[data-ready]")
                opened.wait_for_timeout(200)
            shifts = opened.evaluate("shifts")
            unfold(opened)
            known[page, view] = SimpleNamespace(shifts=shifts, **opened.evaluate(MEASURE))
            opened.close()
        return known[page, view]

    yield visit
    for context in contexts.values():
        context.close()


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("page", [*WALKTHROUGHS, "index.html"])
def test_the_lettering_of_every_figure_can_be_read(page, view, seen):
    found = seen(page, view)
    assert found.lettering, "no figure has any lettering"
    assert not [(round(size, 1), text) for size, text in found.lettering if size < LEAST - 0.05]
    assert max(found.widths) <= WIDEST


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("page", PAGES)
def test_no_text_is_cut_without_a_scrollbar(page, view, seen):
    assert not seen(page, view).cut


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("reference/")])
def test_signatures_wrap(page, view, seen):
    assert not [text for kind, text in seen(page, view).wide if kind == "signature"]


@pytest.mark.parametrize("page", WALKTHROUGHS)
def test_code_needs_no_scrolling_on_a_laptop(page, seen):
    assert not seen(page, "laptop").wide


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("page", UNLIKE)
def test_nothing_moves_while_a_page_loads_and_is_scrolled(page, view, seen):
    shifts = seen(page, view).shifts
    assert sum(value for value, _ in shifts) <= STILL, shifts


def test_nothing_moves_when_the_font_of_formulas_comes_late(address, chromium):
    context = chromium.new_context(viewport=PHONE)
    context.add_init_script(WATCH)
    opened, late = context.new_page(), []

    def wait(route):
        late.append(route.request.url)
        time.sleep(0.5)
        route.continue_()

    opened.route("**/*.woff2", wait)
    opened.goto(address + "glossary.html")
    opened.evaluate("document.fonts.ready.then(() => true)")
    opened.wait_for_timeout(300)
    assert late
    assert sum(value for value, _ in opened.evaluate("shifts")) <= STILL
    context.close()


@pytest.mark.parametrize("page", PAGES)
def test_formulas_are_set_and_no_tex_is_left(page, seen):
    assert not TEX.findall(seen(page, "laptop").words)


@pytest.mark.parametrize("raw", ["share with T_{s+t} x", "where $a<b$", r"S \mid t", "2^{-24}"])
def test_tex_that_is_left_is_noticed(raw):
    assert TEX.search(raw)


def test_text_that_is_cut_is_noticed(address, tab):
    opened = tab(address + "references.html", **PHONE)
    opened.evaluate("document.querySelector('article p').style.cssText = 'overflow: hidden; white-space: nowrap'")
    assert opened.evaluate(CUT)


@pytest.fixture(params=["laptop", "phone"])
def figure(request, address, tab):
    """A page with figures, and what a reader does with the first."""
    opened = tab(address + "walkthroughs/01_two_words.html", **VIEWS[request.param])
    opened.figure = opened.locator(".nb-figure:visible").first
    opened.dialog = opened.locator("dialog.nb-zoom")
    yield opened
    assert not opened.problems


def width(opened, place):
    return opened.locator(f"{place} svg").first.evaluate("(svg) => svg.getBoundingClientRect().width")


def focused(opened):
    return opened.evaluate("document.activeElement.className")


@pytest.mark.parametrize("key", ["Enter", " "])
def test_a_figure_is_enlarged_by_key_and_escape_closes_it_where_the_reader_was(key, figure):
    button = figure.figure.locator(".nb-enlarge")
    assert "Enlarge" in button.inner_text()
    before, ids = width(figure, ".nb-figure .nb-svg"), figure.locator("svg [id]").count()
    button.focus()
    at = figure.evaluate("scrollY")
    figure.keyboard.press(key)
    assert figure.dialog.evaluate("(dialog) => dialog.matches(':modal')")
    assert width(figure, ".nb-zoomed") > 1.1 * before
    assert figure.locator(".nb-zoomed").get_attribute("aria-label") == figure.figure.locator(".nb-svg").get_attribute(
        "aria-label"
    )
    caption = figure.figure.locator("figcaption").inner_text()
    assert figure.dialog.locator("p").inner_text() == caption
    figure.keyboard.press("Escape")
    assert not figure.dialog.is_visible()
    assert focused(figure).startswith("nb-enlarge")
    assert (width(figure, ".nb-figure .nb-svg"), figure.locator("svg [id]").count()) == (before, ids)
    assert figure.evaluate("scrollY") == at


def test_a_click_enlarges_a_figure_and_another_one_closes_it(figure):
    figure.figure.locator("svg").first.click()
    assert figure.dialog.is_visible()
    figure.locator(".nb-zoomed svg").click(position={"x": 40, "y": 40})
    assert not figure.dialog.is_visible()
    figure.figure.locator("svg").first.click()
    figure.locator(".nb-close").click()
    assert not figure.dialog.is_visible()
    assert figure.figure.locator("svg").first.is_visible()


def test_on_paper_and_without_scripts_nothing_offers_to_enlarge(address, tab):
    opened = tab(address + "walkthroughs/01_two_words.html")
    opened.emulate_media(media="print")
    assert opened.locator(".nb-figure svg").first.is_visible()
    assert not opened.locator(".nb-enlarge:visible").count()
    opened = tab(address + "walkthroughs/01_two_words.html", java_script_enabled=False)
    assert not opened.locator(".nb-enlarge:visible").count()
