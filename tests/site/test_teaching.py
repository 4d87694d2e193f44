"""What a lecturer needs: lessons whose links show what they say, slides and sheets that fit, right answers."""

import re
from collections.abc import Iterator
from urllib.parse import urldefrag

import lessons
import pytest
import torch
import torch.nn.functional as F
from asking import write_project
from playwright.sync_api import expect
from questions import Asked
from test_site import PAPERS, PHONE, UNNAMED, violations
from wording import first_sentences

import lab

DECKS = [page for page in PAPERS if "slides" in page]
SHEETS = [page for page in PAPERS if "slides" not in page]
SLIDE = {"width": 1280, "height": 720}
LEGIBLE = (
    1 / 40
)  # of a slide's height, for text: at four metres from a screen 1 m high as large as 12 pt at arm's length
LETTERING = 1 / 72  # for the lettering of figures, which the text beside them repeats
PAGE_SIZES = {"A4": (210, 297), "Letter": (215.9, 279.4)}  # mm
MARGIN = 14  # mm, as paper.css has it
CSS_PIXELS = 96 / 25.4  # to a millimetre
EXACT = {  # what each live state of the lessons has to show: which layers are exact or invariant
    "dx=1": "conv1 relu1",
    "dx=4&dy=-2": "conv1 relu1",
    "weights=untrained&dx=4&dy=-2": "conv1 relu1",
    "dx=3&sort=conv1": "conv1 relu1",
    "dx=3&sort=conv1&trap=flip": "conv1 relu1",
    "net=pooled&dx=1": "conv1 relu1",
    "net=pooled&dx=2": "conv1 relu1 pool1 conv2 relu2",
    "net=pooled&dx=4": "conv1 relu1 pool1 conv2 relu2 pool2",
    "enter=wrap&dy=-8": "conv1 relu1",
    "map=1": "",
    "question=1": "",
    "question=2": "",
}
READY = """() => {
    const { explorer } = document.querySelector("live-lab")
    const { name, trained } = explorer?.probe?.network.description ?? {}
    return name === explorer?.state.network && trained === explorer.state.trained && !explorer.pending && !explorer.rest
}"""
OVERFLOW = """(selector) => [...document.querySelectorAll(selector)].map((part) =>
    [part.closest("section").id, part.scrollHeight - part.clientHeight, part.scrollWidth - part.clientWidth]
).filter(([, down, across]) => down > 0 || across > 0)"""
SMALLEST = """() => {
    const walker = document.createTreeWalker(document.querySelector("article"), NodeFilter.SHOW_TEXT)
    const found = { text: [], lettering: [] }
    while (walker.nextNode()) {
        const parent = walker.currentNode.parentElement
        const idle = !walker.currentNode.data.trim() || parent.closest(".slide-foot, math")
        if (idle || !parent.checkVisibility()) continue
        const svg = parent.closest("svg text")
        const scale = svg ? Math.hypot(svg.getScreenCTM().a, svg.getScreenCTM().b) : 1
        const size = parseFloat(getComputedStyle(parent).fontSize) * scale
        found[svg ? "lettering" : "text"].push([size, parent.textContent])
    }
    return found
}"""
STEPS = """(id) => {
    const found = []
    let at = document.getElementById(id).nextElementSibling
    for (; at && at.tagName !== "H2"; at = at.nextElementSibling) {
        if (at.tagName === "H3") found.push([at.textContent, []])
        else if (at.tagName === "UL") found.at(-1)[1].push(...[...at.children].map((item) => item.textContent))
    }
    return found
}"""


@pytest.fixture(scope="module")
def teach(lasting_tab, address):
    return lasting_tab(f"{address}teach.html", width=1366, height=650)


def test_what_to_do_for_tomorrow_stands_on_the_first_screen(teach):
    first = teach.locator("article h2").first
    expect(first).to_contain_text("Tomorrow's lab in twenty minutes")
    steps = teach.locator("article ol").first.locator("> li")
    minutes = [int(re.match(r"(\d+) minutes", step.inner_text())[1]) for step in steps.all()]
    assert sum(minutes) == 20
    assert steps.last.bounding_box()["y"] < 650
    assert teach.locator("nav a[href$='teach.html']").first.is_visible()


@pytest.mark.parametrize("length", [90, 45])
def test_a_lesson_has_a_question_something_to_show_an_answer_and_a_sentence_for_each_minute(length, teach):
    steps = teach.evaluate(STEPS, f"a-lesson-of-{length}-minutes")
    spans = [tuple(map(int, re.match(r"(\d+)–(\d+) · ", title).groups())) for title, _ in steps]
    assert [start for start, _ in spans] == [0, *(end for _, end in spans[:-1])]
    assert spans[-1][1] == length
    assert all(end > start for start, end in spans)
    for title, parts in steps:
        assert [part.split()[0] for part in parts] == ["Ask", "Show", "Answer", "Say"], title


def live_addresses(teach):
    links = teach.locator("article a[href*='live.html#']")
    links = links.evaluate_all("links => links.map((a) => a.getAttribute('href'))")
    return {urldefrag(link)[1] for link in links}


def test_every_live_state_of_the_lessons_is_tried(teach):
    assert live_addresses(teach) == set(EXACT)


@pytest.fixture(scope="module")
def live(lasting_tab, address):
    return lasting_tab(f"{address}live.html")


@pytest.mark.parametrize("state", EXACT)
def test_a_live_link_opens_the_state_that_the_text_names(state, live, address):
    live.goto("about:blank")
    live.goto(f"{address}live.html#{state}")
    live.wait_for_selector("live-lab[data-ready]")
    live.wait_for_function(READY)
    kept = live.evaluate("document.querySelector('live-lab').explorer.state")
    for key, value in (part.split("=") for part in state.split("&")):
        name, known = {"net": ("network", value), "weights": ("trained", value != "untrained")}.get(key, (key, value))
        name, known = {"enter": ("mode", value), "map": ("map", value == "1")}.get(key, (name, known))
        assert str(kept[name]) == str(known), key
    if state.startswith("question"):
        assert live.locator(".live-challenge").is_visible()
        return
    rows = live.locator(".live-strip [data-exact=true]").all()
    assert " ".join(row.get_attribute("data-layer") for row in rows) == EXACT[state]
    says(live, state)


def says(live, state):
    """What the text of a lesson says beside the link, and no verdict shows."""
    summary = live.inner_text(".live-summary")
    if state == "dx=1":
        assert "the class is still" in summary
    if state == "dx=4&dy=-2":
        assert "the class changed" in summary
        assert "Every map moved along exactly" in summary
    if "sort" in state:
        text = live.inner_text(".live-sorted")
        assert "Sorted distance: 0 " in text
        assert ("does not move along" in text) == ("flip" in state)
    if state == "enter=wrap&dy=-8":
        assert float(live.locator(".live-layer [data-of=full]").inner_text()) > 0.1
    if state == "map=1":
        expect(live.locator(".live-map-text")).to_contain_text("of 841 shifts", timeout=60_000)


@pytest.mark.parametrize("page", DECKS)
@pytest.mark.parametrize("size", [SLIDE, {"width": 1024, "height": 768}, {"width": 1920, "height": 1080}], ids=str)
def test_every_slide_fits_and_can_be_read_from_the_last_row(page, size, address, tab):
    opened = tab(address + page, **size)
    assert opened.evaluate(OVERFLOW, ".slide-body") == []
    height = min(size["height"], size["width"] * 9 / 16)
    found = opened.evaluate(SMALLEST)
    assert found["text"]
    assert found["lettering"]
    assert not [each for each in found["text"] if each[0] < LEGIBLE * height]
    assert not [each for each in found["lettering"] if each[0] < LETTERING * height]
    assert not opened.problems


def test_a_slide_that_overflows_is_noticed(address, tab):
    opened = tab(address + DECKS[0], **SLIDE)
    opened.evaluate("document.querySelector('#slide-2 p').textContent = 'word '.repeat(900)")
    assert [name for name, *_ in opened.evaluate(OVERFLOW, ".slide-body")] == ["slide-2"]


@pytest.mark.parametrize("page", DECKS)
def test_on_paper_each_slide_is_a_page(page, address, tab):
    opened = tab(address + page)
    slides = opened.locator(".slide").count()
    pdf = opened.pdf(prefer_css_page_size=True)
    assert pages(pdf) == slides
    assert sizes(pdf) == {(960, 540)}  # points: 13⅓ × 7½ inches


def pages(pdf: bytes) -> int:
    return len(re.findall(rb"/Type\s*/Page\b", pdf))


def sizes(pdf: bytes) -> set[tuple[int, int]]:
    boxes = re.findall(rb"/MediaBox\s*\[\s*0 0 ([\d.]+) ([\d.]+)\s*\]", pdf)
    return {(round(float(width)), round(float(height))) for width, height in boxes}


def current(opened):
    return opened.evaluate("Math.round(scrollY / innerHeight) + 1")


def test_slides_are_turned_by_keyboard_and_their_address_says_which(address, tab):
    opened = tab(address + DECKS[0], **SLIDE)
    last = opened.locator(".slide").count()
    for key, number in {
        "ArrowRight": 2,
        "PageDown": 3,
        " ": 4,
        "ArrowLeft": 3,
        "Shift+ ": 2,
        "End": last,
        "ArrowDown": last,
        "Home": 1,
        "ArrowUp": 1,
    }.items():
        opened.keyboard.press("Shift+Space" if key == "Shift+ " else "Space" if key == " " else key)
        assert current(opened) == number, key
        assert opened.url.endswith(f"#slide-{number}")
    opened.get_by_role("button", name="Next slide").press("Enter")
    assert current(opened) == 2
    opened.goto(address + DECKS[0] + "#slide-5")
    assert current(opened) == 5
    assert not opened.problems


@pytest.mark.parametrize("page", PAPERS)
def test_slides_and_sheets_work_from_a_folder_without_scripts_and_on_a_phone(page, site, tab):
    opened = tab((site / page).as_uri(), java_script_enabled=False, **PHONE)
    assert opened.locator("h1").is_visible()
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert not opened.problems


@pytest.mark.parametrize("page", PAPERS)
def test_slides_and_sheets_are_accessible(page, address, tab):
    opened = tab(address + page)
    assert not violations(opened, rules=UNNAMED) + opened.problems


@pytest.mark.parametrize("paper", PAGE_SIZES)
@pytest.mark.parametrize("page", SHEETS)
def test_the_worksheet_and_its_answers_are_two_pages_and_nothing_is_cut(page, paper, address, tab):
    width, height = PAGE_SIZES[paper]
    opened = tab(address + page, width=round((width - 2 * MARGIN) * CSS_PIXELS), height=900)
    pdf = opened.pdf(format=paper)
    assert pages(pdf) == 2
    assert sizes(pdf) <= {tuple(round(side * 72 / 25.4) + more for side in (width, height)) for more in (0, 1)}
    opened.emulate_media(media="print")
    assert opened.evaluate(OVERFLOW, ".sheet") == []
    assert opened.locator(".sheet").first.bounding_box()["height"] <= (height - 2 * MARGIN) * CSS_PIXELS


def test_the_worksheet_leaves_room_to_write(address, tab):
    opened = tab(f"{address}teach/worksheet.html", width=688, height=900)
    opened.emulate_media(media="print")
    lines = [line.bounding_box()["height"] / CSS_PIXELS for line in opened.locator(".write i").all()]
    assert len(lines) >= 12
    assert min(lines) >= 6  # mm


def rows(page, heading) -> Iterator[list[str]]:
    table = page.locator(f"h2:has-text('{heading}') ~ .cells table").first
    for row in table.locator("tbody tr").all():
        yield [cell.inner_text().strip() for cell in row.locator("td").all()]


def test_the_answers_that_are_found_by_hand_are_right(address, tab):
    opened = tab(f"{address}teach/answers.html")
    x = torch.tensor([0.0, 1, 2, 0, 0, 0])
    moved = lab.shift(x.view(1, 1, 1, -1), 0, 1).flatten()
    f = [(row[:-1] + row[1:]).int().tolist() for row in (x, moved)]
    wanted = [x.int().tolist(), f[0], moved.int().tolist(), f[1], ["?", *f[0][:-1]]]
    found = [[cell for cell in row[1:] if cell != "–"] for row in rows(opened, "2. By hand")]
    assert found == [[str(cell) for cell in row] for row in wanted]
    assert f[1][1:] == f[0][:-1]  # outputs 1 to 4 agree
    y = torch.tensor([0.0, 1, 5, 2, 0, 0, 0, 0]).view(1, 1, 1, -1)
    for t, row in enumerate(rows(opened, "3. By hand")):
        pixels = lab.shift(y, 0, t)
        assert row[1:-1] == [str(int(value)) for value in pixels.flatten()]
        assert row[-1].split() == [str(int(value)) for value in F.max_pool2d(pixels, (1, 2)).flatten()]


@pytest.mark.parametrize("page", [*PAPERS, "teach.html", "teach/wrong_ideas.html", "teach/oral.html"])
def test_nothing_that_a_run_fills_in_tears_a_sentence_apart(page, address, tab):
    """A comment at the start of a line would be a paragraph of its own."""
    texts = tab(address + page).locator("article p, article li").all_inner_texts()
    assert not [text for text in texts if re.match(r"[.,;:)]", text.strip())]
    assert not [text for text in texts if "<!--" in text]


def test_each_wrong_idea_has_a_figure_a_question_and_a_sentence(address, tab):
    opened = tab(f"{address}teach/wrong_ideas.html")
    ideas = opened.locator("article h2").count()
    assert ideas >= 8
    for what in ("Ask back:", "The sentence that helps:", "Read:"):
        assert opened.locator(f"article li:has-text('{what}')").count() == ideas
    assert opened.locator("article figure").count() == ideas
    assert all(figure.is_visible() for figure in opened.locator("article figure").all())


def test_the_oral_exam_has_ten_questions_with_good_and_poor_answers(address, tab):
    opened = tab(f"{address}teach/oral.html")
    assert opened.locator("article h2").count() == 10 + 1
    for what in ("Good:", "Poor:", "Go on:"):
        assert opened.locator(f"article li:has-text('{what}')").count() == 10


def test_a_question_that_is_not_there_is_none():
    assert lessons.find("03_exercise/none", {"03_exercise": Asked()}) is None
    assert lessons.find("03_exercise/quiz-1", {"03_exercise": Asked()}) is None
    assert lessons.find("99/quiz-0", {}) is None


@pytest.mark.parametrize("comment", ["ask: 01_asks/none", "answer: 01_asks/quiz-9", "seen: 99/x", "show: 01_asks/none"])
def test_a_lesson_that_asks_for_what_is_not_there_fails_the_build_with_page_and_line(comment, asked_site, mkdocs):
    (asked_site / "docs" / "index.md").write_text(f"# Home\n\n<!-- {comment} -->\n")
    built = mkdocs(asked_site)
    assert built.returncode == 1
    assert "docs/index.md:3: no " in built.stderr


@pytest.fixture(scope="module")
def asked_site(tmp_path_factory):
    return write_project(tmp_path_factory.mktemp("asked"))


@pytest.mark.parametrize(
    ("text", "words", "first"),
    [
        ("One. Two three. Four.", 3, "One. Two three."),
        ("One two three four. Five.", 2, "One two three four."),
        ("In one: two. Three.", 3, "In one: two."),
        ("One.\n\nTwo.", 9, "One."),
    ],
)
def test_a_reason_is_cut_after_a_sentence(text, words, first):
    assert first_sentences(text, words) == first
