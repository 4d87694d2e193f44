"""Films: what `lab.plotting.Film` records, what the renderer makes of it, and what a reader can do with it."""

import html
import json
import re
from base64 import b64decode
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import execution
import material
import nbformat
import numpy as np
import pytest
import rendering
import torch
from axe_playwright_python.sync_playwright import Axe
from film import markup
from matplotlib import rc_context
from matplotlib.colors import to_hex
from matplotlib.image import imread

import lab
from lab.errors import InputError
from lab.plotting import FILM, Film

DOCS = Path(__file__).parents[2] / "docs"
AT = [0, 1, 2, 4, 8, 16]
LAST = len(AT) - 1
DARK, BRIGHT = (68, 1, 84), (253, 231, 37)  # the ends of viridis
PHONE = {"width": 390, "height": 844}


def panels(k: int) -> list:
    """Two pictures: one that brightens from frame to frame, one that stays blank where it is defined."""
    blank = torch.zeros(3, 3)
    blank[0] = torch.nan
    return [("T f(x)", torch.full((3, 3), float(k)), "feature"), ("f(Tx) < f(x)?", blank, "difference")]


@pytest.fixture(scope="module")
def film() -> Film:
    """Its curves in no alphabetical order."""
    return Film(
        "step",
        AT,
        {"loss": [k / LAST for k in range(LAST + 1)], "error": [0.0] * len(AT)},
        [*map(panels, range(len(AT)))],
    )


def bundle(film: Film) -> dict:
    """What a page gets of a film, in the site's style."""
    with rc_context(fname=DOCS / "_hooks" / "matplotlibrc"):
        return film._repr_mimebundle_()


def picture(strip: dict) -> np.ndarray:
    return (imread(BytesIO(b64decode(strip["png"])), format="png") * 255).round().astype(int)


# ---- what is recorded


def test_each_panel_is_one_picture_of_all_frames_on_one_scale(film):
    bright, blank = film.record(film.figure())["panels"]
    assert (bright["title"], bright["width"], bright["height"]) == ("T f(x)", 3, 3)
    assert picture(bright).shape == (3 * len(AT), 3, 4)
    np.testing.assert_allclose(picture(bright)[0, 0], (*DARK, 255), atol=1)
    np.testing.assert_allclose(picture(bright)[-1, -1], (*BRIGHT, 255), atol=1)
    assert len(np.unique(picture(blank)[1:3].reshape(-1, 4), axis=0)) == 1


def test_nan_is_transparent_and_nothing_else_is(film):
    blank = picture(film.record(film.figure())["panels"][1])
    assert (blank[::3, :, 3] == 0).all()
    assert (np.delete(blank, np.s_[::3], axis=0)[:, :, 3] == 255).all()


def test_positions_rise_within_the_axes_and_zero_is_said_as_zero(film):
    record = film.record(film.figure())
    assert record["x"] == sorted(record["x"])
    assert 0 < record["x"][0] < record["x"][-1] <= 1
    assert 0 < record["y"][0] < record["y"][1] < 1
    assert record["readings"] == [
        ["loss", ["0", "0.20", "0.40", "0.60", "0.80", "1.00"]],
        ["error", ["0"] * len(AT)],
    ]


def test_the_mark_stands_on_the_curve(film):
    figure = film.figure()
    record = film.record(figure)
    (axes,) = figure.axes
    line = axes.lines[0].get_path().transformed(axes.lines[0].get_transform()).vertices
    np.testing.assert_allclose(record["x"], line[:, 0] / figure.bbox.width, atol=1e-4)


@pytest.mark.parametrize(
    "arguments",
    [
        ("step", [0, 1], {"a": [0.0]}, [panels(0), panels(1)]),
        ("step", [0, 1], {"a": [0.0, 1.0]}, [panels(0)]),
        ("step", [1, 0], {"a": [0.0, 1.0]}, [panels(0), panels(1)]),
        ("step", [0], {"a": [0.0]}, [panels(0)]),
    ],
    ids=["a short curve", "a frame too few", "descending", "one position"],
)
def test_a_film_without_a_value_or_a_frame_at_each_position_is_refused(arguments):
    with pytest.raises(InputError, match="a film needs ascending positions"):
        Film(*arguments)


def test_the_same_film_gives_the_same_bytes(film):
    assert bundle(film) == bundle(film)


# ---- what the renderer makes of it


def rendered(film: Film, options: str = "#| alt: Two curves.\n#| caption: A *film*.\n", films: int = 1):
    """A page with films, as the renderer gets it from an executed notebook."""
    output = nbformat.v4.new_output("display_data", bundle(film))
    control = lab.Control("null", 1.0, ">=", 0.5)
    verdicts = lab.check([lab.Claim("nothing", "exact", 0.0, 0.0, (control,), kind="exact")])
    claims = nbformat.v4.new_output("display_data", verdicts._repr_mimebundle_())
    cells = [nbformat.v4.new_markdown_cell("---\ndescription: A test.\n---\n# A page")]
    cells += [nbformat.v4.new_code_cell(f"{options}film", outputs=[output]) for _ in range(films)]
    cells += [nbformat.v4.new_code_cell("check", outputs=[claims])]
    for number, cell in enumerate(cells):
        cell.metadata["line"] = number + 1
    facts = {"lab": {"seconds": 0.0, "versions": {}}}
    return rendering.render(nbformat.v4.new_notebook(cells=cells, metadata=facts), "page.py", "page")


def test_a_film_is_a_figure_with_curves_three_stills_and_controls_that_wait_for_a_script(film):
    page = rendered(film)
    (figure,) = (output for output in page.outputs if "nb-film" in output)
    assert '<figcaption markdown="span">A *film*.</figcaption>' in page.markdown
    assert 'role="img" aria-label="Two curves."' in figure
    assert re.findall(r'<div class="nb-film-frame"><p>(step \d+): ([^<]*)', figure) == [
        ("step 0", "loss 0, error 0"),
        ("step 2", "loss 0.40, error 0"),
        ("step 16", "loss 1.00, error 0"),
    ]
    assert '<div class="nb-film-controls" hidden>' in figure
    data = json.loads(html.unescape(re.search(r'data-film="([^"]*)"', figure)[1]))
    assert data["at"] == AT
    assert "f(Tx) &lt; f(x)?" in figure
    assert "f(Tx) < f(x)?" not in figure


def test_each_reading_has_the_colour_of_its_curve_also_from_a_notebook_on_disk(film):
    """Where the keys of a dict come back sorted."""
    record = json.loads(json.dumps(bundle(film), sort_keys=True))[FILM]
    controls = markup(record, '<svg viewBox="0 0 1 1"></svg>', "A film.", "film")
    lines = {line.get_label(): to_hex(line.get_color()) for line in film.figure().axes[0].lines}
    assert dict(re.findall(r"--film-colour: (#\w+)\"><dt>(\w+)", controls)) == {c: name for name, c in lines.items()}


def test_a_film_without_alt_or_caption_fails_like_any_figure(film):
    with pytest.raises(execution.WalkthroughError, match=r"page\.py:2: this figure has no alt and no caption"):
        rendered(film, options="")


def test_ids_of_two_films_differ_and_each_picture_refers_to_its_own(film):
    text = "".join(rendered(film, films=2).outputs)
    ids = re.findall(r'<image id="([^"]+)"', text)
    assert len(ids) == len(set(ids)) == 4
    assert set(re.findall(r'<use href="#([^"]+)"/></svg><span>', text)) == set(ids)


# ---- what a reader can do with it


@pytest.fixture(scope="module")
def address(film, tmp_path_factory) -> str:
    """A page with two films, in the theme's style and that of every page."""
    theme = Path(material.__file__).parent / "templates" / "assets" / "stylesheets"
    ours = re.search(r"^extra_css: \[(.+)\]$", (DOCS.parent / "mkdocs.yml").read_text(), re.MULTILINE)[1].split(", ")
    styles = [*theme.glob("main.*.css"), *theme.glob("palette.*.css"), *(DOCS / name for name in ours)]
    links = "".join(f'<link rel="stylesheet" href="{path.as_uri()}">' for path in styles)
    films = "".join(
        f'<figure class="nb-figure"><div class="nb-output">{output}</div><figcaption>A film.</figcaption></figure>'
        for output in rendered(film, films=2).outputs
        if "nb-film" in output
    )
    page = tmp_path_factory.mktemp("film") / "page.html"
    page.write_text(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Films</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">{links}'
        f'<script src="{(DOCS / "javascripts" / "film.js").as_uri()}" defer></script></head>'
        f'<body dir="ltr" data-md-color-scheme="SCHEME" data-md-color-primary="indigo" data-md-color-accent="indigo">'
        f'<div class="md-content"><article class="md-content__inner md-typeset">{films}</article></div></body></html>'
    )
    dark = page.with_name("dark.html")
    dark.write_text(page.read_text().replace("SCHEME", "slate"))
    page.write_text(page.read_text().replace("SCHEME", "default"))
    return page.as_uri()


def parts(page, which: int = 0) -> SimpleNamespace:
    root = page.locator(".nb-film").nth(which)
    return SimpleNamespace(
        root=root,
        button=root.locator("button"),
        slider=root.locator("input"),
        readings=root.locator("dd"),
        mark=root.locator(".nb-film-mark"),
        pictures=root.locator(".nb-film-screen svg"),
        stills=root.locator(".nb-film-stills .nb-film-frame"),
    )


@pytest.fixture
def still(tab, address):
    """Opens the page with time standing still."""

    def open_page(**options):
        page = tab("about:blank", **options)
        page.clock.install(time=0)  # which goes on as time does, until it is stopped
        page.goto(address)
        page.clock.pause_at(3600)
        return page

    return open_page


def state(film: SimpleNamespace) -> tuple[int, list[str]]:
    return int(film.slider.input_value()), film.readings.all_inner_texts()


def colour(picture) -> tuple[int, ...]:
    """Of the middle of a picture, as it is painted."""
    pixels = (imread(BytesIO(picture.screenshot()), format="png") * 255).round().astype(int)
    return tuple(pixels[pixels.shape[0] // 2, pixels.shape[1] // 2, :3])


def test_the_slider_moves_pictures_readings_and_mark_by_keyboard(tab, address):
    page = tab(address)
    film = parts(page)
    assert state(film) == (0, ["0", "0", "0"])
    np.testing.assert_allclose(colour(film.pictures.first), DARK, atol=2)
    start = float(film.mark.get_attribute("x1"))
    film.slider.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert state(film) == (2, ["2", "0.40", "0"])
    assert film.slider.get_attribute("aria-valuetext") == "2: loss 0.40, error 0"
    assert film.pictures.first.get_attribute("aria-label") == "T f(x), step 2"
    page.keyboard.press("End")
    assert state(film) == (LAST, ["16", "1.00", "0"])
    np.testing.assert_allclose(colour(film.pictures.first), BRIGHT, atol=2)
    assert float(film.mark.get_attribute("x1")) == float(film.mark.get_attribute("x2")) > start
    assert state(parts(page, 1))[0] == 0, "the other film stays where it is"
    assert not page.problems


def test_play_goes_to_the_end_and_then_from_the_start(still):
    page = still()
    film = parts(page)
    page.clock.run_for(5000)
    assert state(film)[0] == 0, "nothing moves before the reader wants it"
    film.button.press("Enter")
    assert film.button.inner_text() == "Pause"
    page.clock.run_for(650)
    assert state(film)[0] == 3
    page.clock.run_for(5000)
    assert state(film)[0] == LAST
    assert film.button.inner_text() == "Play"
    film.button.click()
    assert state(film)[0] == 0


def test_pause_stops_and_so_does_the_slider(still):
    page = still()
    film = parts(page)
    film.button.click()
    film.button.click()
    page.clock.run_for(5000)
    assert state(film)[0] == 1
    film.button.click()
    film.slider.focus()
    page.keyboard.press("Home")
    page.clock.run_for(5000)
    assert state(film)[0] == 0
    assert film.button.inner_text() == "Play"


def test_with_reduced_motion_the_button_goes_frame_by_frame(still):
    page = still(reduced_motion="reduce")
    film = parts(page)
    assert film.button.inner_text() == "Next"
    film.button.click()
    page.clock.run_for(5000)
    assert state(film)[0] == 1
    assert film.button.inner_text() == "Next"


def test_without_scripts_curves_and_stills_are_there_and_no_dead_control(tab, address):
    page = tab(address, java_script_enabled=False)
    film = parts(page)
    assert film.stills.count() == 3
    assert all(frame.is_visible() for frame in film.stills.all())
    assert film.root.locator(".nb-svg svg").is_visible()
    assert not film.slider.is_visible()
    assert not film.button.is_visible()
    assert not film.mark.is_visible()
    np.testing.assert_allclose(colour(film.stills.last.locator("svg").first), BRIGHT, atol=2)


def test_with_scripts_one_frame_is_shown_and_on_paper_three(tab, address):
    page = tab(address)
    film = parts(page)
    assert film.pictures.first.is_visible()
    assert not film.stills.first.is_visible()
    page.emulate_media(media="print")
    assert all(frame.is_visible() for frame in film.stills.all())
    assert not film.pictures.first.is_visible()
    assert not film.slider.is_visible()


def test_on_a_phone_it_fits_and_can_be_touched_and_read(tab, address):
    page = tab(address, **PHONE, has_touch=True)
    film = parts(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for control in (film.button, film.slider):
        assert control.bounding_box()["height"] >= 24
    sizes = film.root.locator(".nb-svg text").evaluate_all(
        "texts => texts.map((t) => parseFloat(getComputedStyle(t).fontSize) * t.getScreenCTM().a)"
    )
    assert min(sizes) >= 9
    film.button.tap()
    assert film.button.inner_text() == "Pause"


@pytest.mark.parametrize("name", ["page.html", "dark.html"])
def test_a_film_is_accessible_in_both_schemes(name, tab, address):
    page = tab(address.replace("page.html", name))
    found = Axe().run(page, context="article", options={"resultTypes": ["violations"]}).response["violations"]
    assert not [f"{v['id']}: {[n['target'] for n in v['nodes']]}" for v in found]
