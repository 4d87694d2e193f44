"""The built site as other readers meet it: in the dark, without any script, and from a folder."""

import pytest
from test_site import COLOURS, UNLIKE, unfold, violations


@pytest.fixture(scope="module")
def window(lasting_tab):
    """Opens page after page in one window for each set of options; what pages before complained of is forgotten."""
    windows = {}

    def turn_to(url, **options):
        key = tuple(options.items())
        if key not in windows:
            windows[key] = lasting_tab(url, **options)
            return windows[key]
        windows[key].goto("about:blank")  # whatever the page before still asks for
        windows[key].problems.clear()
        windows[key].goto(url)
        return windows[key]

    return turn_to


@pytest.mark.parametrize("page", UNLIKE)
def test_page_has_colours_with_contrast_in_the_dark_too(page, address, window):
    opened = window(address + page, scheme="dark")
    unfold(opened)
    assert opened.locator("body").get_attribute("data-md-color-scheme") == "slate"
    assert not violations(opened, runOnly=COLOURS, rules={}, preload=False) + opened.problems


@pytest.mark.parametrize("page", UNLIKE)
def test_page_reads_without_any_script(page, address, window):
    opened = window(address + page, java_script_enabled=False)
    assert opened.locator("article h1").is_visible()
    assert all(figure.is_visible() for figure in opened.locator("article > figure svg").all())


@pytest.mark.parametrize("page", UNLIKE)
def test_page_opens_from_a_folder(page, site, window):
    opened = window((site / page).as_uri())
    opened.wait_for_load_state("networkidle")
    assert not opened.problems
    assert "Search needs a web server" in opened.inner_text("header")


def test_links_between_pages_work_from_a_folder(site, tab):
    opened = tab((site / "index.html").as_uri())
    opened.locator("article a[href$='03_exercise.html']").first.click()
    assert opened.locator("article h1").inner_text().startswith("3. ")
    opened.locator("a.md-footer__link--next").click()
    assert opened.locator("article h1").inner_text().startswith("4. ")
