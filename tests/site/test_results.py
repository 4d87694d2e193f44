"""The page of all claims: grouped, filtered, and read on a phone."""

import re

import pytest
from test_site import PHONE, WALKTHROUGHS

from lab.claims import COLUMNS, KINDS

ROW = ".nb-results .nb-claim"


@pytest.fixture
def results(address, tab):
    return tab(address + "results.html")


def of_column(opened, name):
    return opened.locator(f'{ROW}:visible [data-label="{name}"]').all_inner_texts()


def test_each_page_is_named_once_above_its_claims(results):
    names = results.locator(".nb-results .nb-group").all_inner_texts()
    assert len(names) == len(set(names)) == len(WALKTHROUGHS)
    assert results.locator(".nb-results tbody").count() == len(names)
    assert results.locator(f"{ROW} a").count() == 0
    assert results.locator(".nb-results thead th").all_inner_texts() == list(COLUMNS)


def test_every_control_tells_its_bound(results):
    controls = of_column(results, "Control")
    assert controls
    assert all(re.search(r"\([≤≥] \S+\)", control) for control in controls)


def test_the_page_says_what_the_kinds_mean_and_how_many_claims_there_are_of_each(results):
    kinds = of_column(results, "Kind")
    told = results.locator(".nb-kinds dt").all_inner_texts()
    assert told == [f"{kind} ({kinds.count(kind)})" for kind in KINDS]
    assert results.locator(".nb-kinds dd").all_inner_texts() == list(KINDS.values())


def test_claims_are_found_by_words_kind_and_verdict(results):
    everything = results.locator(f"{ROW}:visible").count()
    results.get_by_label("Words").fill("fc1 invariance")
    texts = [text.lower() for text in results.locator(f"{ROW}:visible").all_inner_texts()]
    assert 0 < len(texts) < everything
    results.get_by_label("Words").fill("two words")  # of the page's name
    assert results.locator(".nb-results tbody:visible").count() == 1
    results.get_by_label("Words").fill("")
    for kind in KINDS:
        (option,) = [text for text in results.locator("option").all_inner_texts() if text.startswith(f"{kind} (")]
        results.get_by_label("Kind").select_option(kind)
        assert option == f"{kind} ({len(of_column(results, 'Kind'))})"
        assert set(of_column(results, "Kind")) <= {kind}
    results.get_by_label("Verdict").select_option("disagree")
    assert results.locator(f"{ROW}:visible").count() == 0
    assert results.locator(".nb-results tbody:visible").count() == 0
    assert results.locator(".nb-filter [role=status]").inner_text() == f"0 of {everything} claims"
    results.get_by_role("button", name="Show all").click()
    results.wait_for_function(f"document.querySelectorAll('{ROW}:not([hidden])').length === {everything}")


@pytest.mark.parametrize("page", ["results.html", "walkthroughs/03_exercise.html"])
def test_on_a_phone_all_of_a_claim_is_on_the_screen(page, address, tab):
    opened = tab(address + page, **PHONE)
    cells = opened.locator(".nb-cards .nb-claim:visible td")
    assert cells.count() >= len(COLUMNS)
    boxes = cells.evaluate_all("(all) => all.map((cell) => cell.getBoundingClientRect()).map((b) => [b.left, b.right])")
    assert all(0 <= left < right <= PHONE["width"] for left, right in boxes)
    labels = opened.locator(".nb-cards td[data-label=Control]").first.evaluate(
        "(e) => getComputedStyle(e, '::before').content"
    )
    assert "Control" in labels or "attr(data-label)" in labels


def test_a_formula_in_a_claims_name_is_set():
    from tables import dressed

    from lab.claims import Claim, Control, check

    claim = Claim("$T_s x$ < 1", "exact", 0.0, 0.0, (Control("b", 1.0, ">=", 0.5),), kind="exact")
    table = dressed(check([claim]).to_html())
    assert "<math" in table
    assert "$" not in table
    assert "&lt; 1" in table
    assert table.count("<td") == len(COLUMNS) == len(re.findall('<td data-label="', table))


def test_the_course_says_how_long_its_parts_take(address, tab):
    opened = tab(address + "index.html")

    def minutes(text):
        return sum(int(n) * {"h": 60, "min": 1}[unit] for n, unit in re.findall(r"(\d+)\s(h|min)", text))

    rows = [
        minutes(text) for text in opened.locator(".nb-route tbody tr:not(.nb-group) td:nth-child(3)").all_inner_texts()
    ]
    parts = [minutes(text) for text in opened.locator(".nb-route .nb-group td:nth-child(2)").all_inner_texts()]
    total = opened.locator(".nb-route tfoot td").first.inner_text().replace("\N{NO-BREAK SPACE}", " ")
    text = opened.inner_text("article").replace("\N{NO-BREAK SPACE}", " ")
    assert len(rows) == len(WALKTHROUGHS)
    assert len(parts) == 4
    assert sum(rows) == sum(parts) == minutes(total) > 0
    assert f"has {len(rows)} pages and takes {total} to read" in " ".join(text.split())
