"""The playground in a real browser: blocks, fields, keys, addresses, challenges, files; on a page with nothing else."""

import functools
import hashlib
import http.server
import json
import shutil
import threading
from pathlib import Path

import live
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from serving import QuietHandler

import lab
from lab.data import MEAN, STD, load_mnist
from lab.live.chains import export_chain

DOCS = Path(__file__).parents[2] / "docs"
PAGE = """<!doctype html><html lang="en"><head><title>Playground</title><meta charset="utf-8">
<link rel="icon" href="data:,"><link rel="stylesheet" href="live.css"><link rel="stylesheet" href="playground.css">
<style>body { --md-default-fg-color: #000; --md-default-bg-color: #fff; --md-default-fg-color--light: #555;
  --md-default-fg-color--lighter: #bbb; --md-default-fg-color--lightest: #eee; --md-code-bg-color: #f5f5f5 }
  html { font-size: 125% }</style><script defer src="playground.js"></script></head>
<body><main class="md-typeset"><h1>Playground</h1><div><net-lab src="assets/"></net-lab></div></main></body></html>"""
SHOWN = """() => {
  const { builder } = document.querySelector("net-lab")
  return builder && !builder.pending && !builder.rest
}"""
STATE = """() => {
  const { builder } = document.querySelector("net-lab")
  const { choice, findings, probe } = builder
  const rows = findings.map(({ theory, observed, error }) => ({ theory: theory.expectation, observed, error }))
  return { ...choice, rows, weights: Array.from(probe.chain.weights[0]?.weight ?? []) }
}"""
INVARIANT = "net=conv.8.3.1.circular.1,relu,conv.8.3.1.circular.1,relu,gmp,linear.10&enter=wrap"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The page, with digits, and without the trained networks, which nothing here is about."""
    folder = tmp_path_factory.mktemp("page")
    assets = folder / "assets"
    assets.mkdir()
    test = load_mnist("embedded").test
    pixels = (test.images[:40] * 255).round().to(torch.uint8).numpy().tobytes()
    (assets / "digits.bin").write_bytes(pixels)
    digits = {"file": "digits.bin", "bytes": len(pixels), "sha256": hashlib.sha256(pixels).hexdigest()}
    digits |= {"labels": test.labels[:40].tolist(), "indices": list(range(40))}
    manifest = {"schema": "equivariance-lab/export/1", "digits": digits, "networks": []}
    manifest |= {"normalisation": {"mean": MEAN, "std": STD}}
    (assets / "manifest.json").write_text(json.dumps(manifest))
    (folder / "index.html").write_text(PAGE)
    script = live.script(DOCS / "javascripts" / "playground", "playground")
    (folder / "playground.js").write_text(script, encoding="utf-8")
    for name in ("live", "playground"):
        shutil.copy(DOCS / "stylesheets" / f"{name}.css", folder)
    return folder


@pytest.fixture(scope="module")
def opened(place, lasting_tab):
    handler = functools.partial(QuietHandler, directory=place)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        options = {"permissions": ["clipboard-read", "clipboard-write"]}
        page = lasting_tab(f"http://127.0.0.1:{server.server_port}/index.html", **options)
        page.wait_for_selector("net-lab[data-ready]")
        yield page
        server.shutdown()


@pytest.fixture
def lab_page(opened):
    """The playground as it is at first; no test may leave a complaint in the console."""
    visit(opened, "dx=4")
    visit(opened, "dx=3")
    yield opened
    problems, opened.problems[:] = opened.problems[:], []
    assert not problems


def visit(page, address):
    page.evaluate("(hash) => { location.hash = hash }", address)
    rested(page)


def rested(page):
    page.wait_for_timeout(50)
    page.wait_for_function(SHOWN)


def state(page):
    rested(page)
    return page.evaluate(STATE)


def field(page, name):
    return page.locator(f".net-parameters [name={name}]")


def test_the_first_view_shows_what_keeps_and_what_breaks(lab_page):
    found = state(lab_page)
    assert [row["observed"] for row in found["rows"]] == ["exact", "exact", "not exact"]
    assert lab_page.locator(".net-row button").count() == 3
    assert "2 of 3 blocks exact; the output changes" in lab_page.inner_text(".net-says")
    assert lab_page.locator(".net-row [data-exact=true]").count() == 2


def test_every_preset_can_be_chosen_and_shows_its_blocks(lab_page):
    counts = {}
    for preset in ("pooled", "circular", "blurred", "strided", "invariant", "unet", "given"):
        lab_page.check(f"[name=net-preset][value={preset}]")
        found = state(lab_page)
        counts[preset] = len(found["rows"])
        for row in found["rows"]:
            assert (row["theory"], row["observed"]) != ("exact", "not exact"), preset
    assert counts == {"pooled": 9, "circular": 4, "blurred": 6, "strided": 4, "invariant": 6, "unet": 9, "given": 3}


def test_the_keys_move_the_digit_and_go_from_block_to_block(lab_page):
    lab_page.locator(".live-pad canvas").focus()
    lab_page.keyboard.press("ArrowRight")
    lab_page.keyboard.press("ArrowDown")
    found = state(lab_page)
    assert (found["dy"], found["dx"]) == (-1, 4)
    lab_page.locator(".net-row button").first.focus()
    lab_page.keyboard.press("ArrowRight")
    lab_page.keyboard.press("Enter")
    assert state(lab_page)["block"] == 1
    assert "block=2" in lab_page.url
    assert lab_page.inner_text(".net-title strong") == "2. ReLU"


def test_dragging_moves_the_digit(lab_page):
    lab_page.locator(".live-pad canvas").scroll_into_view_if_needed()
    box = lab_page.locator(".live-pad canvas").bounding_box()
    pixel, middle = box["width"] / 28, (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    lab_page.mouse.move(*middle)
    lab_page.mouse.down()
    lab_page.mouse.move(middle[0] - 4 * pixel, middle[1] + 5 * pixel)
    lab_page.mouse.up()
    found = state(lab_page)
    assert (found["dy"], found["dx"]) == (3, -1)


def test_blocks_are_added_changed_moved_and_removed(lab_page):
    lab_page.select_option("[name=net-kind]", "norm")
    lab_page.click("[data-do=add]")
    assert state(lab_page)["net"] == "conv.1.2.1.none.1,norm,relu,linear.10"
    assert lab_page.inner_text(".net-title strong") == "2. instance norm"
    lab_page.click("[data-do=later]")
    assert state(lab_page)["net"] == "conv.1.2.1.none.1,relu,norm,linear.10"
    lab_page.click("[data-do=remove]")
    lab_page.locator(".net-row button").first.click()
    field(lab_page, "channels").fill("3")
    field(lab_page, "channels").press("Tab")
    field(lab_page, "padding").select_option("circular")
    found = state(lab_page)
    assert found["net"] == "conv.3.2.1.circular.1,relu,linear.10"
    assert "net=conv.3.2.1.circular.1,relu,linear.10" in lab_page.url


def test_what_cannot_be_is_refused_where_it_was_chosen_and_nothing_changes(lab_page):
    before = state(lab_page)
    field(lab_page, "kernel").fill("9")
    field(lab_page, "kernel").press("Tab")
    assert lab_page.inner_text(".net-refused") == "Not possible. Block 1: kernel must be 1 to 7: 9."
    assert field(lab_page, "kernel").input_value() == "2"
    assert state(lab_page) == before
    lab_page.locator(".net-row button").nth(1).click()  # it was about another block
    assert lab_page.locator(".net-refused").is_hidden()
    lab_page.locator(".net-row button").first.click()
    field(lab_page, "kernel").fill("3")
    field(lab_page, "kernel").press("Tab")
    assert lab_page.locator(".net-refused").is_hidden()
    assert state(lab_page)["net"].startswith("conv.1.3.")


@pytest.mark.parametrize(
    ("net", "said"),
    [("conv.1000000000.3.1.zeros.1", "channels must be 1 to 32: 1000000000"), ("relu,drop", "no block called drop")],
)
def test_an_address_that_cannot_be_is_refused_and_the_last_network_stays(lab_page, net, said):
    before = state(lab_page)["net"]
    visit(lab_page, f"net={net}&dx=1")
    assert said in lab_page.inner_text(".net-complaint")
    found = state(lab_page)
    assert (found["net"], found["dx"]) == (before, 1)
    visit(lab_page, INVARIANT)
    assert lab_page.locator(".net-complaint").is_hidden()


def test_an_address_opens_the_same_state_again(lab_page):
    visit(lab_page, f"{INVARIANT}&seed=5&digit=7&dy=4&dx=-3&block=5")
    first, url = state(lab_page), lab_page.url
    visit(lab_page, "dx=1")
    visit(lab_page, url.partition("#")[2])
    assert state(lab_page) == first
    assert [row["observed"] for row in first["rows"]] == 6 * ["exact"]


def test_a_challenge_is_solved_by_building(lab_page):
    lab_page.check("[name=net-challenge][value='1']")
    assert state(lab_page)["wrap"]
    lab_page.wait_for_function("document.querySelector('.net-judged').textContent.includes('Theory')")
    assert lab_page.get_attribute(".net-challenge", "data-solved") == "false"
    lab_page.click("[data-do=hint]")
    assert lab_page.locator(".net-hints li").count() == 1
    field(lab_page, "padding").select_option("circular")
    lab_page.locator(".net-row button").nth(1).click()
    lab_page.select_option("[name=net-kind]", "gmp")
    lab_page.click("[data-do=add]")
    lab_page.wait_for_selector(".net-challenge[data-solved=true]")
    assert "exact at all shifts by theory, and at 48 of 48 on this digit" in lab_page.inner_text(".net-judged")
    lab_page.check("[name=net-challenge][value='0']")
    assert lab_page.locator(".net-challenge").is_hidden()


def test_the_program_is_copied_and_runs(lab_page):
    visit(lab_page, "net=conv.2.3.1.circular.1,relu,gap,linear.3&seed=4")
    lab_page.click("[data-do=copy]")
    lab_page.wait_for_function("document.querySelector('[data-do=copy]').textContent === 'Copied'")
    names = {"__name__": "copied"}
    exec(lab_page.evaluate("navigator.clipboard.readText()"), names)
    model = names["model"]
    assert model(torch.zeros(1, 1, 28, 28)).shape == (1, 3)
    assert model.conv1.weight.flatten().tolist() == state(lab_page)["weights"]
    assert lab_page.locator(".net-program code").get_attribute("tabindex") == "0"  # the theme lets it scroll


def test_a_network_of_ones_own_is_opened_and_a_bad_file_is_told(lab_page, tmp_path):
    export_chain(lab.build_model("given", seed=3), tmp_path / "network.json", name="<b>mine</b>")
    lab_page.set_input_files("[type=file]", tmp_path / "network.json")
    lab_page.wait_for_function("document.querySelector('.net-says').textContent.includes('mine')")
    found = state(lab_page)
    expected = lab.build_model("given", seed=3).conv1.weight.flatten().tolist()
    assert found["weights"] == expected
    assert lab_page.inner_text(".net-says").startswith("<b>mine</b>, your own network: 7,305 parameters.")
    bad = tmp_path / "cat.png"
    bad.write_bytes(b"\x89PNG")
    lab_page.set_input_files("[type=file]", bad)
    lab_page.wait_for_selector(".net-complaint:not([hidden])")
    assert lab_page.inner_text(".net-complaint").startswith("cat.png is not a network that lab export")
    assert state(lab_page)["weights"] == expected
    large = tmp_path / "large.json"
    large.write_bytes(bytes(8_000_001))
    lab_page.set_input_files("[type=file]", large)
    lab_page.wait_for_function("document.querySelector('.net-complaint').textContent.includes('8 MB')")


def test_trained_weights_that_are_not_there_are_told(lab_page):
    lab_page.select_option("[name=net-weights]", "trained")
    lab_page.wait_for_selector(".net-complaint:not([hidden])")
    assert "there is no trained given network" in lab_page.inner_text(".net-complaint")
    assert not state(lab_page)["trained"]


@pytest.mark.parametrize("width", [1366, 390])
def test_nothing_is_wider_than_the_screen_and_axe_is_content(lab_page, width):
    height = {1366: 650, 390: 844}[width]
    lab_page.set_viewport_size({"width": width, "height": height})
    visit(lab_page, "net=conv.4.3.1.zeros.1,relu,max.2.2,conv.8.3.1.zeros.1,relu,up.2,cat.2,relu,norm,relu&challenge=3")
    assert lab_page.evaluate("document.documentElement.scrollWidth") <= width
    found = Axe().run(lab_page, context="net-lab")
    assert not found.response["violations"], found.generate_report()
    lab_page.set_viewport_size({"width": 1280, "height": 900})
