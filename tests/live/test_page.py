"""The live network in a real browser: its numbers against PyTorch's, its inputs, its address, its failures."""

import base64
import gzip
import hashlib
import itertools
import json
import math
import random
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from safetensors import safe_open
from test_export import NETWORKS, rebuilt

import lab
from lab.data import BACKGROUND, normalize
from lab.files import data_root
from lab.live.export import export_networks, layer_outputs

CLOSE = 1e-5  # activations reach 10, where float32's steps are 1e-6; sums of some hundred terms were off by 2e-6
RADIUS, SIZE = 14, 28
NUMBERS = {"rtol": 1e-4, "atol": 1e-6}  # errors, from activations that agree to CLOSE; below 1e-6 is rounding
VIEWS = {"desktop": (1280, 900), "phone": (390, 844)}
COLOURS = ["color-contrast", "link-in-text-block"]  # the rules of axe whose outcome hangs on the colour scheme
READY = """() => {
    const { explorer } = document.querySelector("live-lab")
    const { name, trained } = explorer?.probe?.network.description ?? {}
    return name === explorer?.state.network && trained === explorer.state.trained && !explorer.pending
}"""
VISIT = """(hash) => new Promise((done) => {
    const { explorer } = document.querySelector("live-lab")
    clearTimeout(explorer.rest)
    if (new URL(`#${hash}`, location).hash === location.hash.replace(/^#$/, "")) explorer.restore().then(() => done())
    else {
        addEventListener("hashchange", () => done(), { once: true })
        location.hash = hash
    }
})"""
TEXT = """(array) => {
    const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength)
    return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""))
}"""
OUTPUTS = f"""() => {{
    const {{ second }} = document.querySelector("live-lab").explorer.probe
    const text = {TEXT}
    return Object.entries(second).map(([name, {{ data, shape }}]) => [name, text(data), shape])
}}"""
FINDINGS = """() => {
    const { findings } = document.querySelector("live-lab").explorer
    return findings.map(({ layer: { name, stride }, ...finding }) => {
        const { move, error, full, control } = finding
        return { name, stride, move, error, full, control }
    })
}"""
SHIFT_MAP = """() => {
    const { joystick } = document.querySelector("live-lab").explorer
    const { width, height } = joystick.canvas
    const copy = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true })
    copy.drawImage(joystick.canvas, 0, 0)
    const { data } = copy.getImageData(0, 0, width, height)
    const cell = width / 29
    const corners = Array.from({ length: 841 }, (_, i) => 4 * (Math.floor(i / 29) * cell * width + (i % 29) * cell))
    return [[...joystick.predicted], corners.map((at) => [data[at], data[at + 2]]), joystick.filled]
}"""
PIXELS = """(canvas) => {
    const { width, height } = canvas
    const copy = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true })
    copy.drawImage(canvas, 0, 0)
    return [...copy.getImageData(0, 0, width, height).data]
}"""
STILL = """() => new Promise((done) => {
    let before = "", frames = 0
    const look = () => {
        const now = [scrollX, scrollY, document.body.scrollHeight].join()
        frames = now === before ? frames + 1 : 0
        before = now
        if (frames === 20) done()
        else requestAnimationFrame(look)
    }
    look()
})"""  # nothing has moved for 20 frames
IN_VIEW = """(selector) => {
    const { top, bottom } = document.querySelector(selector).getBoundingClientRect()
    return 0 < top && bottom < innerHeight
}"""
STATE = f"""() => {{
    const {{ state }} = document.querySelector("live-lab").explorer
    return {{ ...state, ink: state.ink && ({TEXT})(state.ink) }}
}}"""


def settled(page):
    page.wait_for_function(READY)
    return page


def visit(page, address="dx=0"):
    """Follow a link to a state, at first one where nothing has moved, and wait for what it shows."""
    page.evaluate(VISIT, address)
    return settled(page)


def rested(page):
    """When the address says the state: it is written once the reader has paused."""
    settled(page).wait_for_function("!document.querySelector('live-lab').explorer.rest")


def state(page):
    return settled(page).evaluate(STATE)


def decoded(text, shape):
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), "<f4").reshape(shape).copy())


def outputs(page):
    return {name: decoded(text, shape) for name, text, shape in page.evaluate(OUTPUTS)}


def link(*, net="given-trained", **parts):
    """The part of the address behind `#`, in the order in which the page writes it."""
    network, weights = net.split("-")
    given = {"net": network, "weights": weights} | parts
    first = {"net": "given", "weights": "trained", "dy": 0, "dx": 0}
    return "&".join(f"{key}={value}" for key, value in given.items() if value != first.get(key))


@pytest.fixture(scope="module")
def exported(site, tmp_path_factory):
    """What the site was built from, exported once more with golden activations."""
    built = json.loads((site / "assets/live/manifest.json").read_bytes())
    source = "embedded" if built["data"]["name"] == lab.load_mnist("embedded").name else "full"
    folder = tmp_path_factory.mktemp("golden")
    cache = data_root() / "checkpoints"
    manifest = export_networks(folder, lab.load_mnist(source), golden=24, cache=cache)
    with safe_open(folder / "golden.safetensors", "pt") as file:
        golden = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no dictionary
        cases = json.loads(file.metadata()["cases"])
    pixels = np.frombuffer((folder / "digits.bin").read_bytes(), np.uint8).reshape(-1, 1, SIZE, SIZE)
    digits = torch.from_numpy(pixels.copy()).float() / 255
    done = SimpleNamespace(folder=folder, manifest=manifest)
    models = {stem: rebuilt(done, stem).double() for stem in NETWORKS}
    return SimpleNamespace(built=built, manifest=manifest, golden=golden, cases=cases, digits=digits, models=models)


@pytest.fixture(scope="module")
def opened(lasting_tab, address):
    page = lasting_tab(f"{address}live.html", permissions=["clipboard-read", "clipboard-write"])
    page.wait_for_selector("live-lab[data-ready]")
    return settled(page)


@pytest.fixture
def live(opened):
    """The live lab in its initial state; no test may leave a complaint in the console."""
    opened.locator("[data-do=reset]").click()
    visit(opened)
    yield opened
    problems, opened.problems[:] = opened.problems[:], []
    assert not problems


def case_link(case, net):
    parts = {key: case[key] for key in ("digit", "dy", "dx")}
    enters = {"enter": "wrap"} if case["mode"] == "wrap" else {}
    return link(net=net, **enters, **parts)


# Numbers


def test_the_site_has_the_networks_that_pytorch_ran(exported, site):
    for described, again in zip(exported.built["networks"], exported.manifest["networks"], strict=True):
        content = (site / "assets/live" / described["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == described["sha256"] == again["sha256"]
    assert exported.built["digits"] == exported.manifest["digits"]


@pytest.mark.parametrize("net", NETWORKS)
def test_every_activation_is_pytorchs(net, exported, live):
    layers = [layer["name"] for layer in exported.built["networks"][NETWORKS.index(net)]["layers"]]
    far = []
    assert len(exported.cases) == 24
    for number, case in enumerate(exported.cases):
        visit(live, case_link(case, net))
        found = outputs(live)
        assert list(found) == ["input", *layers]
        for name in layers:
            expected = exported.golden[f"{number}/{net}/{name}"]
            assert found[name].shape == expected.shape
            far.append((found[name] - expected).abs().max().item())
    assert max(far) <= CLOSE


@pytest.mark.parametrize("net", NETWORKS)
def test_another_shifts_activations_are_told_apart(net, exported, live):
    case, other = exported.cases[6], exported.cases[8]  # of other digits and shifts
    visit(live, case_link(case | {"dy": other["dy"], "dx": other["dx"]}, net))
    for name, found in outputs(live).items():
        if name != "input":
            assert (found - exported.golden[f"6/{net}/{name}"]).abs().max() > 1e-2, name  # 1,000 times CLOSE


def translated(a, move, mode, blank):
    """T f(x): each channel takes what the layer says of plain background for what enters."""
    channels = [lab.shift(c[None], *move, mode=mode, background=b.item())[0] for c, b in zip(a, blank, strict=True)]
    return torch.stack(channels)


def interior_error(after, before, move, mode, blank):
    """The equivariance error where both saw the same pixels; NaN where nothing did."""
    expected = translated(before, move, mode, blank)
    valid = lab.shift(torch.ones(after.shape[-2:]), *move).bool()
    if not valid.any():
        return math.nan, expected
    return lab.equivariance_error(after[None], expected[None], valid).item(), expected


def expected_finding(layer, first, second, other, blank, dy, dx, mode):
    """What the lab's own functions say of a layer: error, full and control, as the page shows them."""
    name, stride = layer["name"], layer["stride"]
    before, after = first[name][0], second[name][0]
    if stride is None:
        distances = [(after - reference).norm().item() for reference in (before, other[name][0])]
        error, control = (distance / layer["unrelated_distance"] for distance in distances)
        return error, math.nan, control
    levels = blank[name][0][:, 0, 0]
    right = [sorted({math.floor(t / stride), math.ceil(t / stride)}) for t in (dy, dx)]
    errors = [interior_error(after, before, move, mode, levels) for move in itertools.product(*right)]
    error, expected = min(errors, key=lambda pair: math.inf if math.isnan(pair[0]) else pair[0])
    full = lab.equivariance_error(after[None], expected[None]).item()
    wrong = []
    for steps, t in zip(right, (dy, dx), strict=True):
        beside = steps[0] - 1 if steps[-1] > 0 else steps[-1] + 1
        wrong.append(steps[0] if (dy or dx) and not t else beside)
    return error, full, interior_error(after, before, wrong, mode, levels)[0]


@pytest.mark.parametrize("net", NETWORKS)
@pytest.mark.parametrize("mode", ["background", "wrap"])
def test_errors_and_controls_are_the_labs(net, mode, exported, live):
    model = exported.models[net]
    described = exported.built["networks"][NETWORKS.index(net)]["layers"]
    digit = 31
    unrelated = (digit + len(exported.digits) // 2) % len(exported.digits)

    def run(image):
        return layer_outputs(model, normalize(image)[None].double())

    first, other, blank = run(exported.digits[digit]), run(exported.digits[unrelated]), run(torch.zeros(1, SIZE, SIZE))
    for dy, dx in [(0, 1), (2, -2), (4, 8), (-3, 5), (-4, 0), (6, -7), (1, -1)]:  # on and off strides 2 and 4
        second = run(lab.shift(exported.digits[digit], dy, dx, mode=mode))
        enters = {"enter": "wrap"} if mode == "wrap" else {}
        found = visit(live, link(net=net, **enters, digit=digit, dy=dy, dx=dx)).evaluate(FINDINGS)
        for layer, finding in zip(described, found, strict=True):
            expected = expected_finding(layer, first, second, other, blank, dy, dx, mode)
            numbers = [finding[key] for key in ("error", "full", "control")]
            np.testing.assert_allclose(numbers, expected, **NUMBERS, err_msg=f"{layer['name']} at {dy}, {dx}")
            if layer["stride"] and dy % layer["stride"] == dx % layer["stride"] == 0:
                assert finding["error"] <= 1e-6  # what theory says
                assert finding["control"] > 0.1


# Controls


def pad(page):
    canvas = page.locator(".live-pad canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    return SimpleNamespace(canvas=canvas, x=box["x"], y=box["y"], pixel=box["width"] / SIZE)


def drag(page, start, by):
    """With the mouse: from a place on the pad, in pixels of the image down and right."""
    on = pad(page)
    x, y = on.x + on.pixel * (start[1] + 0.5), on.y + on.pixel * (start[0] + 0.5)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + on.pixel * by[1], y + on.pixel * by[0], steps=4)
    page.mouse.up()
    return settled(page)


def shifted(page):
    now = state(page)
    return now["dy"], now["dx"]


def test_the_mouse_drags_the_digit_and_its_layers(live):
    assert shifted(drag(live, (14, 14), (3, -5))) == (3, -5)
    assert shifted(drag(live, (14, 14), (-1, 2))) == (2, -3)
    moves = {finding["name"]: finding["move"] for finding in live.evaluate(FINDINGS)}
    assert moves["conv1"] == [2, -3]


def test_a_drag_ends_at_the_largest_shift(live):
    assert shifted(drag(live, (1, 1), (25, 25))) == (RADIUS, RADIUS)
    assert shifted(drag(live, (26, 26), (-25, -20))) == (RADIUS - 25, RADIUS - 20)
    assert shifted(drag(live, (26, 26), (-25, -25))) == (-RADIUS, -RADIUS)


def test_the_right_mouse_button_drags_nothing(live):
    on = pad(live)
    live.mouse.move(on.x + 50, on.y + 50)
    live.mouse.down(button="right")
    live.mouse.move(on.x + 100, on.y + 100, steps=3)
    live.mouse.up(button="right")
    live.keyboard.press("Escape")
    assert shifted(live) == (0, 0)


def test_arrow_keys_move_the_digit_and_stop_at_the_largest_shift(live):
    canvas = pad(live).canvas
    canvas.focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowLeft", "ArrowUp"):
        live.keyboard.press(key)
    assert shifted(live) == (1, -1)
    for _ in range(RADIUS + 2):
        live.keyboard.press("ArrowRight")
        live.keyboard.press("ArrowUp")
    assert shifted(live) == (-RADIUS, RADIUS)


def test_sliders_move_the_digit_and_follow_it(live):
    down, right = (live.locator(f"[name=live-{axis}]") for axis in ("dy", "dx"))
    down.fill("5")
    right.focus()
    live.keyboard.press("ArrowLeft")
    assert shifted(live) == (5, -1)
    drag(live, (14, 14), (-2, 4))
    assert (down.input_value(), right.input_value()) == ("3", "3")
    assert live.locator("output[data-of=dy]").inner_text() == "3"


def test_a_finger_drags_the_digit_and_does_not_scroll_the_page(tab, address):
    page = tab(f"{address}live.html#dx=0", width=390, height=844, has_touch=True, is_mobile=True)
    page.wait_for_selector("live-lab[data-ready]")
    on, before = pad(settled(page)), page.evaluate("scrollY")
    touch = page.context.new_cdp_session(page)

    def send(kind, *places):
        points = [{"x": on.x + on.pixel * x, "y": on.y + on.pixel * y} for y, x in places]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    send("touchStart", (14.5, 14.5))
    for step in range(1, 5):
        send("touchMove", (14.5 - 2 * step, 14.5 + step))
    send("touchEnd")
    assert shifted(page) == (-8, 4)
    assert page.evaluate("scrollY") == before
    assert not page.problems


@pytest.mark.parametrize(
    ("setting", "value", "key", "expected"),
    [
        ("network", "pooled", "network", "pooled"),
        ("weights", "untrained", "trained", False),
        ("mode", "wrap", "mode", "wrap"),
        ("digit", "7", "digit", 7),
    ],
)
def test_a_choice_changes_the_state_the_outputs_and_the_address(setting, value, key, expected, live):
    visit(live, "dx=5&dy=9")
    before = outputs(live)
    live.locator(".live-digits").evaluate("(folded) => { folded.open = true }")
    live.locator(f"[name=live-{setting}][value='{value}']").check()
    live.locator(".live-digits").evaluate("(folded) => { folded.open = false }")
    assert state(live)[key] == expected
    after = outputs(live)
    assert not torch.equal(before["conv1"], after["conv1"])
    rested(live)
    hash_ = live.evaluate("location.hash")
    assert value in hash_
    visit(live)
    visit(live, hash_[1:])
    assert live.locator(f"[name=live-{setting}]:checked").input_value() == value


def test_the_facts_name_the_network_that_is_shown(live, exported):
    for net, described in zip(NETWORKS, exported.built["networks"], strict=True):
        facts = visit(live, link(net=net)).locator(".live-facts").inner_text()
        assert f"{described['parameters']:,}" in facts
        assert f"{100 * described['accuracy']:.1f}" in facts
        assert live.locator(".live-strip [data-layer]").evaluate_all(
            "(rows) => rows.map((row) => row.dataset.layer)"
        ) == [layer["name"] for layer in described["layers"]]


def test_a_channel_slider_shows_another_map(live):
    visit(live, "net=pooled&dx=2")
    square = live.locator(".live-square")
    before = square.locator("[data-map=after]").evaluate(PIXELS)
    square.locator("[name=square-channel]").fill("2")
    assert state(live)["channels"]["conv1"] == 2
    assert square.locator(".square-channel output").inner_text() == "3 of 16"
    assert square.locator("[data-map=after]").evaluate(PIXELS) != before


def test_all_layers_are_in_view_with_what_was_observed_while_the_digit_is_dragged(live):
    for address in ("net=pooled&dx=1", "net=pooled&dx=2", "dx=3"):
        visit(live, address)
        on = pad(live)
        live.mouse.move(on.x + 9 * on.pixel, on.y + 9 * on.pixel)
        live.mouse.down()
        live.mouse.move(on.x + 9 * on.pixel, on.y + 11 * on.pixel)  # two pixels down, and the button is still pressed
        findings = settled(live).evaluate(FINDINGS)
        buttons = live.locator(".live-strip button").all()
        assert len(buttons) == len(findings)
        for button, finding in zip(buttons, findings, strict=True):
            name, sign, number = button.inner_text().split()
            assert name == finding["name"]
            assert sign == ("✓" if finding["error"] <= 1e-6 else "✗")
            ratio = finding["error"] / finding["control"]
            assert float(number) == pytest.approx(ratio, abs=0.0051 if ratio >= 0.01 else 0.5 * ratio)
            box = button.bounding_box()
            assert 0 < box["y"] < box["y"] + box["height"] < VIEWS["desktop"][1]
        live.mouse.up()


def levels(page, of):
    """Red and blue of a map, by its positions."""
    canvas = page.locator(f".live-square [data-map={of}]")
    width = canvas.evaluate("(canvas) => canvas.width")
    return torch.tensor(canvas.evaluate(PIXELS)).reshape(-1, width, 4)[..., [0, 2]]


def test_the_difference_is_blank_where_the_square_commutes_and_its_control_is_not(live):
    for address, exact in [("net=pooled&dx=2&layer=pool1", True), ("net=pooled&dx=1&layer=pool1", False)]:
        visit(live, f"{address}&channels=pool1.3")
        named = {finding["name"]: finding for finding in live.evaluate(FINDINGS)}["pool1"]
        move = named["move"][1]
        difference, control = levels(live, "difference")[:, move:], levels(live, "control")
        blank = levels(live, "difference")[0, -1]  # above the digit
        assert (difference == blank).all() == exact
        assert (control != blank).any(-1).sum() > 20  # one step wrong shows at many places, on the same colours
        ends = (control == torch.tensor([5, 97])).all(-1) | (control == torch.tensor([103, 31])).all(-1)
        assert ends.any()  # one scale for both, up to the larger: the last blue or the last red is there
        sign = live.locator(".square-sign").inner_text()
        assert sign == ("=" if exact else "≠")
        shown = live.locator("[data-square=error]").inner_text(), live.locator("[data-square=control]").inner_text()
        assert float(shown[0]) == pytest.approx(named["error"], abs=0.0051)
        assert float(shown[1]) == pytest.approx(named["control"], abs=0.0051)


def test_a_click_on_a_layer_shows_its_square_and_the_address_keeps_it(live):
    visit(live, "net=pooled&dx=2")
    for name, shape in [("pool2", (5, 5)), ("fc2", None), ("conv2", (11, 11))]:
        live.locator(f".live-strip [data-layer={name}]").click()
        assert state(live)["layer"] == name
        assert live.locator(".live-strip [aria-pressed=true]").get_attribute("data-layer") == name
        assert live.locator(".live-name strong").inner_text() == name
        size = live.locator("[data-map=before]").evaluate("(canvas) => [canvas.height, canvas.width]")
        assert shape is None or size == list(shape)
        side = live.locator("[data-map=before]").bounding_box()
        assert min(side["width"], side["height"]) >= 200  # on a desktop
    rested(live)
    assert "layer=conv2" in live.url


def test_the_two_ways_round_are_laid_over_each_other_and_wiped_or_blinked(live):
    visit(live, "dx=3")
    over = live.locator(".square-over")
    clip = "(over) => getComputedStyle(over).clipPath"
    live.locator("[name=square-wipe]").fill("100")
    assert "100%" in over.evaluate(clip)
    live.locator("[name=square-wipe]").fill("20")
    assert "20%" in over.evaluate(clip)
    blink = live.locator("[data-square=blink]")
    blink.click()
    assert blink.get_attribute("aria-pressed") == "true"
    assert over.evaluate("(over) => over.getAnimations().length") == 1
    blink.click()
    assert over.evaluate("(over) => over.getAnimations().length") == 0


def test_both_networks_side_by_side_have_the_numbers_of_each_alone(live):
    visit(live, "dx=3")
    live.locator("[data-panel=compare] summary").click()
    live.locator(".live-compare table").nth(1).wait_for()
    tables = live.locator(".live-compare table").all()
    assert state(live)["compare"] is True
    shown = [
        [[td.inner_text() for td in row.locator("td").all()] for row in t.locator("tbody tr").all()] for t in tables
    ]
    for rows, net in zip(shown, ("given", "pooled"), strict=True):
        for dx, cells in zip((1, 2, 4), rows, strict=True):
            visit(live, f"net={net}&dx={dx}")
            alone = live.locator(".live-strip button").all_inner_texts()
            assert [text.split() for text in cells] == [text.split()[1:] for text in alone]


def test_the_summary_counts_what_the_findings_say(live):
    text = visit(live, "net=pooled&dx=2").locator(".live-summary").inner_text()
    findings = [finding for finding in live.evaluate(FINDINGS) if finding["stride"]]
    findings = [finding for finding in findings if not math.isnan(finding["error"])]  # a dead map shows nothing
    exact = sum(finding["error"] <= 1e-6 for finding in findings)
    assert f"{exact} of {len(findings)}" in text
    assert "2 px right" in text


def test_theory_promises_no_more_and_no_less_than_follows(live):
    for net in ("given", "pooled"):
        visit(live, f"net={net}&dx=1")
        for finding in live.evaluate(FINDINGS):
            live.locator(f".live-strip [data-layer={finding['name']}]").click()
            sentence = settled(live).locator(".live-verdict span").inner_text()
            promised = finding["stride"] == 1
            assert sentence.startswith("Theory: commutes, since" if promised else "Theory: not guaranteed, since")
            assert "the layer before it" not in sentence  # from there nothing follows
    assert "nothing makes its output invariant" in sentence


@pytest.mark.parametrize(
    "move", ["dx=4", "dx=4&net=pooled", "dx=3&net=pooled", "dx=5&enter=wrap&dy=-2"], ids=lambda part: part
)
def test_a_blank_drawing_has_one_verdict_nothing_to_see(move, live):
    live.locator("[name=live-tool][value=draw]").check()
    blank = state(live)["ink"]
    assert decoded(blank, (SIZE, SIZE)).sum() == 0
    rested(live)
    ink_part = re.search(r"ink=[^&]*", live.url)[0]
    visit(live, f"{move}&{ink_part}&sort=conv1")
    said_ = live.locator(".live-strip button").evaluate_all(
        "(all) => all.map((one) => one.ariaLabel.split(/[:,] /)[1])"
    )
    assert set(said_) == {"nothing to see"}
    assert live.locator(".live-verdict b").inner_text() == "nothing to see"
    assert live.locator(".live-strip button:not([data-exact=null])").count() == 0
    summary = live.locator(".live-summary").inner_text()
    assert "nothing to see" in summary
    assert "exactly" not in summary
    assert "Every test is passed" in live.locator(".live-sorted").inner_text()
    live.locator("[data-do=clear]").click()
    drag(live, (10, 10), (6, 4))
    assert "nothing to see" not in settled(live).locator(".live-summary").inner_text()


@pytest.mark.parametrize("width", [1366, 320])
def test_every_probability_stands_on_one_line_inside_its_cell(width, tab, address):
    opened = tab(f"{address}live.html", width=width)
    opened.wait_for_selector("live-lab[data-ready]")
    opened.evaluate("document.querySelectorAll('.live-says td b').forEach((b) => { b.textContent = '100' })")
    found = opened.locator(".live-says td b").evaluate_all("""(all) => all.map((b) => {
        const range = document.createRange()
        range.selectNodeContents(b)
        const cell = b.parentElement.getBoundingClientRect()
        const boxes = [...range.getClientRects()]
        return [boxes.length, boxes[0].left - cell.left, cell.right - boxes[0].right]
    })""")
    assert len(found) == 20
    assert all(lines == 1 and left > -1 and right > -1 for lines, left, right in found), found[0]


def test_all_settings_and_the_square_are_on_the_first_screen_of_a_small_laptop(tab, address):
    page = tab(f"{address}live.html", width=1366, height=650)
    page.wait_for_selector("live-lab[data-ready]")
    parts = [".live-bar", ".live-digits summary", ".live-strip", ".square-x", ".square-both", ".square-difference"]
    for part in [*parts, ".live-says", ".live-map-pad"]:
        box = page.locator(part).first.bounding_box()
        assert box["y"] > 0, part
        assert box["y"] + box["height"] <= 650, part
    summary = page.locator(".live-summary").inner_text()
    assert "2 px up and 4 px right" in summary  # and something has happened


@pytest.mark.parametrize(
    ("page", "hash_", "state"),
    [
        ("live", "#map=1", "document.querySelector('live-lab').explorer.state.map"),
        ("playground", "#dx=5", "document.querySelector('net-lab').builder.choice.dx === 5"),
    ],
)
def test_a_link_leads_on_though_the_page_writes_its_own_address_meanwhile(page, hash_, state, tab, address):
    opened = tab(f"{address}{page}.html")
    opened.wait_for_selector(":is(live-lab, net-lab)[data-ready]")
    opened.evaluate(f"location.hash = '{hash_}'; history.replaceState(null, '', '#dx=1')")
    opened.wait_for_function(state)


@pytest.mark.parametrize("view", ["desktop", "phone"])
@pytest.mark.parametrize(
    ("link", "panel"), [("Cheat the sort test", "sort"), ("all three beside", "compare"), ("shift map", "map")]
)
def test_a_link_to_a_panel_leads_to_it(link, panel, view, tab, address):
    width, height = VIEWS[view]
    opened = tab(f"{address}live.html", width=width, height=height)
    opened.wait_for_selector("live-lab[data-ready]")
    opened.locator("article ol").get_by_role("link", name=link).click()
    opened.wait_for_function(f"document.querySelector('live-lab').explorer.state.{panel}")
    opened.wait_for_function(READY)
    part = f"[data-panel={panel}] {'.live-map-pad' if panel == 'map' else 'summary'}"
    opened.wait_for_function(IN_VIEW, arg=part)  # under load it may be drawn much later
    opened.evaluate(STILL)
    target = opened.locator(part)
    seen = target.evaluate("""(target) => {
        const { top, bottom, left } = target.getBoundingClientRect()
        const above = document.elementFromPoint(left + 20, (top + bottom) / 2)
        return [top, bottom, target.contains(above)]
    }""")
    assert 0 < seen[0] < seen[1] < height, seen
    assert seen[2], "something covers it"


def test_the_probabilities_are_pytorchs(live, exported):
    visit(live, "digit=12&dx=-4")
    cells = [
        [int(row.locator("td b").nth(column).inner_text()) for row in live.locator(".live-says tbody tr").all()]
        for column in (0, 1)
    ]
    images = torch.stack([exported.digits[12], lab.shift(exported.digits[12], 0, -4)])
    shares = 100 * exported.models["given-trained"](normalize(images).double())[0].softmax(1)
    np.testing.assert_allclose(cells, shares.detach().numpy(), atol=0.501)  # they are rounded to whole per cent


def ink(page):
    text = state(page)["ink"]
    return None if text is None else decoded(text, (SIZE, SIZE))


def restored_after_a_reload(page):
    rested(page)
    page.reload()
    page.wait_for_selector("live-lab[data-ready]")
    return ink(page)


def test_a_drawing_by_mouse_is_seen_by_the_network_and_carried_by_the_address(live):
    live.locator("[name=live-tool][value=draw]").check()
    assert ink(live).sum() == 0
    drag(live, (5, 14), (16, 0))
    drawn = ink(live)
    assert drawn[6:20, 13:16].min() > 0
    assert drawn[:, :10].max() == 0
    image = normalize(drawn[None])
    torch.testing.assert_close(outputs(live)["input"], image, rtol=0, atol=CLOSE)
    again = restored_after_a_reload(live)
    assert torch.equal(drawn, again)
    assert live.locator("[name=live-digit]:checked").count() == 0
    live.locator(".live-digits summary").click()
    live.locator("[name=live-digit][value='3']").check()
    assert ink(live) is None
    live.keyboard.press("Escape")
    assert live.locator(".live-gallery").is_hidden()


def test_a_drawing_by_keyboard_is_carried_by_the_address(live):
    live.locator("[name=live-tool][value=draw]").check()
    pad(live).canvas.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "Space", "ArrowLeft", "Space"):
        live.keyboard.press(key)
    drawn = ink(live)
    assert drawn[15, 15] == drawn[15, 16] == 1
    assert torch.equal(drawn, restored_after_a_reload(live))


def test_a_stroke_lies_where_the_pointer_is_on_a_digit_that_has_moved(live):
    live.locator("[name=live-tool][value=draw]").check()
    live.locator("[name=live-dx]").fill("6")
    drag(live, (14, 14), (0, 0))
    drawn = ink(live)
    assert drawn[14, 14 - 6] == 1
    assert drawn[14, 14] == 0
    live.locator("[data-do=clear]").click()
    assert ink(live).sum() == 0


def sort_numbers(page):
    """Sorted distance and equivariance error, as the panel says them."""
    text = settled(page).locator(".live-sorted").inner_text()
    distance = re.search(r"[Ss]orted distance: ([\d.e-]*\d)", text)[1]
    error = re.search(r"[Ee]quivariance error[^:]*: ([\d.e-]*\d)", text)[1]
    return float(distance), float(error)


def test_flip_and_scramble_pass_the_sort_test_and_fail_equivariance(live):
    visit(live, "dx=3")
    live.locator("[data-panel=sort] summary").click()
    live.wait_for_function("document.querySelector('live-lab').explorer.state.sort === 'conv1'")
    honest = sort_numbers(live)
    assert honest[1] == 0
    for trap in ("flip", "scramble"):
        live.locator(f"[name=live-trap][value={trap}]").check()
        distance, error = sort_numbers(live)
        assert distance == honest[0]  # sorting forgets positions: the same numbers in the same order
        assert error > 0.3
    live.locator("[name=live-sort]").select_option("relu1")
    assert state(live)["sort"] == "relu1"
    live.locator("[data-panel=sort] summary").click()
    live.wait_for_function("document.querySelector('live-lab').explorer.state.sort === null")
    assert state(live)["trap"] == "none"


def shift_map_hits(exported, net, digit):
    """Where the network finds the digit's class: by lab.shift_map, of the exported weights."""
    image = normalize(exported.digits[digit])[None].double()
    logits = lab.shift_map(exported.models[net], image, radius=RADIUS, background=BACKGROUND)[0]
    return logits.argmax(-1) == exported.built["digits"]["labels"][digit]


def shift_map_done(page):
    page.wait_for_function("document.querySelector('live-lab').explorer.joystick.filled === 841")


@pytest.mark.parametrize("net", ["given-trained", "pooled-trained"])
def test_the_shift_map_is_the_labs(net, exported, live):
    visit(live, link(net=net, digit=14))
    shift_map_done(live)
    predicted, colours, _ = live.evaluate(SHIFT_MAP)
    expected = shift_map_hits(exported, net, 14)
    hits = torch.tensor(predicted).reshape(29, 29) == exported.built["digits"]["labels"][14]
    assert torch.equal(hits, expected)
    assert 0 < expected.sum() < 841  # both colours
    plain = torch.tensor([red < blue for red, blue in colours]).reshape(29, 29)
    assert (plain == expected).float().mean() > 0.95  # classes are written over some of the corners
    assert f" {int(expected.sum())} of 841" in live.locator(".live-map-text").inner_text()


def test_the_shift_map_is_the_same_without_a_worker(live, tab, address):
    visit(live, "digit=14")
    shift_map_done(live)
    page = tab(f"{address}404.html")
    page.add_init_script("Object.defineProperty(globalThis, 'liveLabWorker', { value: '', writable: false })")
    page.route("**/live.js", lambda route: route.fulfill(body=route.fetch().text().partition("\n")[2]))
    page.goto(f"{address}live.html#digit=14")
    page.wait_for_selector("live-lab[data-ready]")
    shift_map_done(page)
    assert page.evaluate("document.querySelector('live-lab').explorer.joystick.filling.worker") is None
    assert page.evaluate(SHIFT_MAP)[0] == live.evaluate(SHIFT_MAP)[0]
    assert not page.problems


def test_no_shift_map_outlasts_its_network(live):
    visit(live, "digit=14")
    shift_map_done(live)
    live.evaluate("document.querySelector('live-lab').explorer.joystick.filling.start = () => {}")  # nothing new begins
    visit(live, link(net="pooled-trained", digit=14))
    _, colours, filled = live.evaluate(SHIFT_MAP)
    live.evaluate("delete document.querySelector('live-lab').explorer.joystick.filling.start")
    assert filled == 0
    assert set(map(tuple, colours)) == {(0, 0)}
    assert "841" not in live.locator(".live-map-text").text_content()


def test_the_shift_map_is_a_joystick(live):
    canvas = live.locator(".live-joystick canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    cell = box["width"] / 29

    def place(dy, dx):
        return box["x"] + (RADIUS + dx + 0.5) * cell, box["y"] + (RADIUS + dy + 0.5) * cell

    live.mouse.move(*place(-5, 7))
    live.mouse.down()
    assert shifted(live) == (-5, 7)
    live.mouse.move(*place(3, -2), steps=3)
    assert shifted(live) == (3, -2)
    live.mouse.move(*place(60, 0))
    live.mouse.up()
    assert shifted(live) == (RADIUS, 0)
    canvas.focus()
    live.keyboard.press("ArrowUp")
    live.keyboard.press("ArrowLeft")
    assert shifted(live) == (RADIUS - 1, -1)
    here, pad_box = live.locator(".live-here").bounding_box(), live.locator(".live-map-pad").bounding_box()
    assert here["x"] + here["width"] / 2 - pad_box["x"] == pytest.approx((RADIUS - 0.5) * cell, abs=1)
    assert here["y"] + here["height"] / 2 - pad_box["y"] == pytest.approx((2 * RADIUS - 0.5) * cell, abs=1)


def test_reset_brings_everything_back(live):
    first = state(visit(live, ""))
    assert (first["dy"], first["dx"]) == (-2, 4)
    visit(
        live, "net=pooled&weights=untrained&enter=wrap&digit=3&dy=4&layer=pool2&channels=conv1.2&sort=conv1&compare=1"
    )
    live.locator("[name=live-tool][value=draw]").check()
    live.locator("[data-do=reset]").click()
    assert state(live) == first
    assert live.locator("[name=live-tool]:checked").input_value() == "move"
    assert live.locator("live-lab details[open]").count() == 0
    live.wait_for_function("location.hash.length <= 1")


def test_the_link_is_copied(live):
    visit(live, "dx=4&dy=-2")
    drag(live, (14, 14), (1, 1))
    live.locator("[data-do=link]").click()
    live.wait_for_function("/^Copied/.test(document.querySelector('[data-do=link]').textContent)")
    copied = live.evaluate("navigator.clipboard.readText()")
    assert copied == live.url
    assert copied.endswith("#dy=-1&dx=5")


# Predict first


def answer(page, *, exact=()):
    """Expect these layers to be exact; what is said of each: whether that was right."""
    for name in exact:
        page.locator(f".live-challenge input[value={name}]").check()
    page.locator(".live-challenge [type=submit]").click()
    return page.locator(".live-challenge [data-right]").evaluate_all("(all) => all.map((li) => li.dataset.right)")


def test_a_question_hides_the_answers_from_everybody(live):
    lab_ = live.locator("live-lab")
    visit(live, "net=pooled&dx=2")
    assert "pool2" in lab_.aria_snapshot()
    live.locator("[data-do=ask]").click()
    number = state(live)["question"]
    assert 1 <= number <= 9999
    assert live.locator(".live-challenge").is_visible()
    asked = live.locator(".live-challenge input").evaluate_all("(boxes) => boxes.map((box) => box.value)")
    assert "conv1" in asked
    seen = lab_.aria_snapshot()
    assert "between the two ways" not in seen
    assert "Channel" not in seen
    assert "px" not in live.locator(".live-summary").inner_text()
    hidden = live.locator(".live-strip, details.live-panel, .live-says, .live-joystick, .square-fx, .square-both")
    assert hidden.filter(visible=True).count() == 0
    before = shifted(live)
    assert shifted(drag(live, (14, 14), (3, 3))) == before  # the question stays as it is asked
    for setting in ("network", "mode", "tool", "digit", "dy", "dx"):
        assert live.locator(f"[name=live-{setting}]").first.is_disabled(), setting
    answer(live)
    assert "between the two ways" in lab_.aria_snapshot()
    assert live.locator(".live-says").is_visible()
    assert shifted(drag(live, (14, 14), (-before[0], -before[1] + 1))) == (0, 1)


def test_the_challenge_keeps_score_goes_on_and_ends(live):
    visit(live, "question=1")
    first = state(live)
    assert live.locator(".live-challenge input").count() == 2  # conv1 and fc1 of the given network
    said = answer(live, exact=["conv1", "fc1"])
    assert said == ["true", "false"]
    texts = live.locator(".live-challenge li").all_inner_texts()
    assert "same weights" in texts[0]
    assert "weights of its own" in texts[1]
    score = [int(n) for n in re.findall(r"\d+", live.locator(".live-challenge [role=status]").inner_text())]
    live.locator("[data-action=next]").click()
    assert state(live)["question"] == 2
    assert state(live) != first
    total = len(answer(live))
    again = [int(n) for n in re.findall(r"\d+", live.locator(".live-challenge [role=status]").inner_text())]
    assert again[1] - score[1] == total
    assert 0 <= again[0] - score[0] <= total
    live.locator("[data-action=leave]").click()
    assert state(live)["question"] == 0
    assert live.locator(".live-challenge").is_hidden()
    assert live.locator("[name=live-network]").first.is_enabled()
    assert live.locator(".live-strip").is_visible()


def test_the_right_answers_are_what_the_network_does(live):
    kinds = set()
    for number in range(1, 31):
        visit(live, f"question={number}")
        exact = [right == "false" for right in answer(live)]  # nothing was expected to be exact
        found = [finding for finding in settled(live).evaluate(FINDINGS) if not finding["name"].startswith("relu")]
        assert len(found) == len(exact)
        for finding, theory in zip(found, exact, strict=True):
            if not math.isnan(finding["error"]):
                assert (finding["error"] <= 1e-6) == theory, (number, finding)
                kinds.add((finding["stride"], theory))
    assert kinds == {(1, True), (2, True), (2, False), (4, True), (4, False), (None, False)}


def test_a_question_has_an_address(live):
    visit(live, "question=17")
    first = state(live)
    visit(live)
    assert state(visit(live, "question=17")) == first


# The address


def random_link(draw):
    """An address as the page writes it, and the state that it stands for."""
    net = draw.choice(NETWORKS)
    trained, mode = net.endswith("-trained"), draw.choice(["background", "wrap"])
    text = {"enter": "wrap"} if mode == "wrap" else {}
    digit = draw.choice([digit for digit in range(40) if digit != 28])
    now = {"network": net.split("-")[0], "trained": trained, "mode": mode, "digit": digit, "ink": None}
    text["digit"] = digit
    if draw.random() < 0.3:
        levels = [draw.randrange(16) for _ in range(SIZE * SIZE)]
        text["ink"] = drawing(levels)
        now["ink"] = base64.b64encode((np.array(levels) / 15).astype("<f4").tobytes()).decode()
    now |= {axis: draw.randint(-RADIUS, RADIUS) for axis in ("dy", "dx")}
    text |= {axis: now[axis] for axis in ("dy", "dx")}
    if now["network"] == "pooled":
        now["channels"] = {"conv1": draw.randint(1, 3), "pool2": draw.randint(1, 3)}
        text["channels"] = ",".join(f"{layer}.{channel}" for layer, channel in now["channels"].items())
    now["layer"] = draw.choice([None, "conv1", "fc1"])
    if now["layer"]:
        channels = text.pop("channels", None)
        text |= {"layer": now["layer"]} | ({"channels": channels} if channels else {})
    now["sort"] = draw.choice([None, "conv1"])
    now["trap"] = draw.choice(["none", "flip", "scramble"]) if now["sort"] else "none"
    now["map"] = draw.random() < 0.1
    text |= {"sort": "conv1"} if now["sort"] else {}
    text |= {"trap": now["trap"]} if now["trap"] != "none" else {}
    now["compare"] = draw.random() < 0.1
    text |= {"map": 1} if now["map"] else {}
    text |= {"compare": 1} if now["compare"] else {}
    return link(net=net, **text), now


def drawing(levels):
    """As documented in ink.js: two characters of base64url for three pixels of 16 levels."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    levels = [*levels, 0, 0][: 3 * math.ceil(len(levels) / 3)]
    bits = [(a << 8) | (b << 4) | c for a, b, c in zip(levels[::3], levels[1::3], levels[2::3], strict=True)]
    return "".join(alphabet[number >> 6] + alphabet[number & 63] for number in bits)


def test_every_state_has_an_address_that_brings_it_back(live):
    draw = random.Random(0)
    for _ in range(40):
        address, expected = random_link(draw)
        found = state(visit(live, address))
        channels = {name: channel for name, channel in found.pop("channels").items() if channel}
        assert channels == expected.pop("channels", {})
        assert {key: found[key] for key in expected} == expected
        live.evaluate("document.querySelector('live-lab').explorer.settle()")
        assert live.evaluate("location.hash.slice(1)") == address


HOSTILE = {
    "too long": "&".join(["digit=5"] * 5_000),
    "script": "digit=<script>window.hacked=1</script>&sort=<img src=x onerror=window.hacked=1>",
    "escaped script": "sort=%3Cscript%3Ewindow.hacked=1%3C/script%3E&net=%22%3E%3Cimg%20src=x%20onerror=hacked=1%3E",
    "quotes": "net=\"pooled\"&weights='untrained'&enter=`wrap`",
    "backslashes": "net=\\pooled&dy=\\u0034&sort=conv1\\",
    "no number": "dy=NaN&dx=Infinity&digit=1e1&question=0x10",
    "huge": "dy=1e9&dx=1000000000&digit=4000&question=10000",
    "beyond the range": "dy=15&dx=-15&digit=40&question=-1",
    "negative digit": "digit=-1",
    "fraction": "dy=1.5&dx=2,5&digit=0.0",
    "prototype": "__proto__=1&channels=__proto__.3,constructor.1,toString.2&sort=__proto__",
    "wrong values": "net=resnet&weights=maybe&enter=hell&map=yes&trap=flip",
    "short drawing": "ink=AAAA",
    "drawing of other characters": "ink=" + "." * 524,
    "not an assignment": "dy&=&dx==3&%%%&%E0%A4%A",
    "null": "dy=%00&dx=\u2028",
}


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_hostile_address_shows_the_initial_state(hostile, live):
    first = state(visit(live, ""))
    scripts = live.locator("script, img").count()
    visit(live, "dx=3")
    found = state(visit(live, HOSTILE[hostile]))
    if hostile == "too long":  # what was cut off is not missed: it says the same
        assert (found.pop("digit"), found.pop("dy"), found.pop("dx")) == (5, 0, 0)
        first = {key: value for key, value in first.items() if key not in ("digit", "dy", "dx")}
    assert found == first
    assert live.locator("script, img").count() == scripts
    assert live.evaluate("[window.hacked, {}.polluted, Object.prototype[3]].join('')") == ""
    assert "hacked" not in live.locator("live-lab").inner_html()


def test_layers_and_channels_that_are_not_there_are_put_right(live):
    found = state(visit(live, "net=pooled&channels=conv1.99,conv9.1,fc1.3&sort=conv7&layer=conv8"))
    assert found["layer"] is None
    assert found["channels"]["conv1"] < 99
    assert "conv9" not in found["channels"]
    assert found["channels"].get("fc1", 0) == 0
    assert found["sort"] == "conv1"


def test_a_page_that_is_opened_with_a_hostile_address_works(tab, address):
    page = tab(f"{address}live.html#" + "&".join(HOSTILE.values())[-6_000:])
    page.wait_for_selector("live-lab[data-ready]")
    assert shifted(drag(page, (14, 14), (2, 2))) == (-2 + 2, 4 + 2)
    assert not page.problems


# Failures

FAULTS = {
    "missing": lambda body: {"status": 404, "body": "not there"},
    "truncated": lambda body: {"body": body[: len(body) // 2]},
    "bit-flipped": lambda body: {"body": body[:100] + bytes([body[100] ^ 1]) + body[101:]},
    "unreachable": None,
    "of another version": lambda body: {"body": body.replace(b"export/1", b"export/9")},
    "empty": lambda body: {"body": b""},
    "incomplete": lambda body: {"body": b'{"schema": "equivariance-lab/export/1"}'},
}


def spoil(page, site, file, fault):
    """From now on, the page gets this file so."""
    make = FAULTS[fault]
    body = (site / "assets/live" / file).read_bytes()
    page.route(f"**/{file}", lambda route: route.abort() if make is None else route.fulfill(**make(body)))


def own_complaints(page):
    """What the browser itself says of a request that fails is no complaint of the page."""
    return [text for text in page.problems if "Failed to load resource" not in text and not text.startswith("404 ")]


@pytest.fixture
def spoiled(tab, address, site):
    """A live page some of whose files are not what they were."""
    pages = []

    def open_page(state, **faults):
        page = tab(f"{address}404.html")
        for file, fault in faults.items():
            spoil(page, site, file, fault)
        page.goto(f"{address}live.html#{state}")
        pages.append(page)
        return page

    yield open_page
    assert not [text for page in pages for text in own_complaints(page)]


def said(page):
    alert = page.locator("live-lab [role=alert]")
    alert.filter(visible=True).wait_for()
    return alert.inner_text()


WORDS = {
    "missing": "404",
    "truncated": "bytes",
    "bit-flipped": "damaged",
    "unreachable": "cannot be loaded",
    "of another version": "version",
    "empty": "damaged",
    "incomplete": "damaged",
}


@pytest.mark.parametrize("fault", ["missing", "truncated", "bit-flipped", "unreachable"])
def test_weights_that_are_not_whole_are_named_and_all_else_goes_on(fault, spoiled):
    page = spoiled("dx=2", **{"pooled-trained.bin": fault})
    page.wait_for_selector("live-lab[data-ready]")
    page.locator("[name=live-network][value=pooled]").click()
    message = said(page)
    assert "pooled-trained.bin" in message
    assert WORDS[fault] in message
    in_sight = "(alert) => alert.getBoundingClientRect().bottom <= innerHeight"
    assert page.locator("live-lab [role=alert]").evaluate(in_sight), "where the reader has chosen"
    assert state(page)["network"] == "given"  # that which is there is shown, and goes on
    assert page.locator("[name=live-network]:checked").input_value() == "given"
    assert shifted(drag(page, (14, 14), (3, 0))) == (3, 2)
    page.locator("[name=live-weights][value=untrained]").check()
    page.locator("[name=live-network][value=pooled]").check()
    assert (state(page)["network"], state(page)["trained"]) == ("pooled", False)
    assert page.locator("live-lab [role=alert]").is_hidden()
    page.locator("[name=live-weights][value=trained]").click()
    said(page)
    page.unroute_all()
    page.locator("live-lab [role=alert] button").click()
    assert (state(page)["network"], state(page)["trained"]) == ("pooled", True)
    assert page.locator("live-lab [role=alert]").is_hidden()


def test_while_a_network_loads_the_page_says_that_it_is_busy(spoiled):
    page = spoiled("", **{"pooled-trained.bin": "missing"})
    page.wait_for_selector("live-lab[data-ready]")
    assert page.locator("live-lab").get_attribute("aria-busy") == "false"
    page.locator("[name=live-network][value=pooled]").click()
    said(page)
    assert page.locator("live-lab").get_attribute("aria-busy") == "false"
    page.unroute_all()
    held = []
    page.route("**/pooled-trained.bin", lambda route: held.append(route))
    page.locator("live-lab [role=alert] button").click()
    page.wait_for_selector("live-lab[aria-busy=true]")
    assert page.locator(".live-body").evaluate("(layers) => getComputedStyle(layers).opacity") < "1"
    while not held:
        page.wait_for_timeout(10)
    held[0].continue_()
    page.wait_for_selector("live-lab[aria-busy=false]")
    assert state(page)["network"] == "pooled"


def test_without_the_first_network_another_can_be_chosen(spoiled):
    page = spoiled("", **{"given-trained.bin": "missing"})
    assert "given-trained.bin" in said(page)
    page.locator("[name=live-weights][value=untrained]").check()
    assert state(page)["trained"] is False
    assert page.locator("[data-layer=conv1]").is_visible()
    assert page.locator("live-lab [role=alert]").is_hidden()


def test_a_question_whose_network_is_not_there_can_be_tried_again(spoiled):
    page = spoiled("", **{"pooled-trained.bin": "missing", "pooled-untrained.bin": "missing"})
    page.wait_for_selector("live-lab[data-ready]")
    page.evaluate("location.hash = 'question=2'")
    said(page)
    assert state(page)["question"] == 0
    page.unroute_all()
    page.locator("live-lab [role=alert] button").click()
    page.locator(".live-challenge").wait_for()
    assert (state(page)["question"], state(page)["network"]) == (2, "pooled")


@pytest.mark.parametrize(
    ("file", "fault"),
    [
        *(("manifest.json", fault) for fault in FAULTS if fault != "bit-flipped"),
        *(("digits.bin", fault) for fault in ("missing", "truncated", "bit-flipped")),
    ],
)
def test_without_manifest_or_digits_the_page_says_so_and_tries_again(file, fault, spoiled):
    page = spoiled("dx=2", **{file: fault})
    message = said(page)
    assert file in message
    words = WORDS["empty"] if (file, fault) == ("manifest.json", "truncated") else WORDS[fault]
    assert words in message
    assert page.locator("article h2").first.is_visible()
    page.unroute_all()
    page.locator("live-lab button").click()
    page.wait_for_selector("live-lab[data-ready]")
    assert shifted(page) == (0, 2)


# For everybody

STATES = {
    "error": "",  # first, as long as no other state has loaded what is not there
    "initial": "",
    "moved": "net=pooled&dx=3&dy=-2",
    "scores": "dx=3&layer=fc1",
    "sort test and side by side": "dx=3&sort=conv1&trap=flip&compare=1",
    "question": "question=5",
    "question answered": "question=6",
    "drawing": "dx=4",
}


def show(page, name):
    page.locator("[data-do=reset]").click()
    visit(page, STATES[name])
    if name == "question answered":
        answer(page, exact=["conv1"])
    if name == "sort test and side by side":
        shift_map_done(page)
        page.locator(".live-compare table").nth(1).wait_for()
        page.locator(".live-digits summary").click()
    if name == "drawing":
        page.locator("[name=live-tool][value=draw]").check()
        drag(page, (5, 14), (16, 0))
    if name == "error":
        page.route("**/pooled-untrained.bin", lambda route: route.abort())
        page.evaluate("location.hash = 'net=pooled&weights=untrained'")
        said(page)
        page.unroute_all()
    return settled(page)


@pytest.mark.parametrize(("view", "scheme"), [("desktop", "light"), ("desktop", "dark"), ("phone", "light")])
def test_every_state_is_accessible_and_fits(view, scheme, tab, address):
    """In the dark the colours alone are others, on every screen the same ones."""
    width, height = VIEWS[view]
    page = tab(f"{address}live.html", scheme=scheme, width=width, height=height, reduced_motion="reduce")
    page.wait_for_selector("live-lab[data-ready]")
    options = {"resultTypes": ["violations"]} | ({"runOnly": COLOURS, "preload": False} if scheme == "dark" else {})
    problems = []
    for name in STATES:
        show(page, name)
        found = Axe().run(page, context="live-lab", options=options).response["violations"]
        problems += [f"{name}: {v['id']} {[n['target'] for n in v['nodes']][:3]}" for v in found]
        for narrow in (width, 320) if view == "phone" else (width,):
            page.set_viewport_size({"width": narrow, "height": height})
            if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
                problems.append(f"{name}: scrolls sideways at {narrow}")
        page.set_viewport_size({"width": width, "height": height})
    assert not problems + own_complaints(page)


def test_a_screen_reader_hears_the_summary_after_a_move(live):
    status = live.locator(".live-status")
    assert status.get_attribute("role") == "status"
    pad(live).canvas.focus()
    live.keyboard.press("ArrowRight")
    live.keyboard.press("ArrowRight")
    live.wait_for_function("/2 px right/.test(document.querySelector('.live-status').textContent)")
    assert status.inner_text() == live.locator(".live-summary").inner_text()


def test_nothing_moves_by_itself_where_the_reader_wants_that(tab, address):
    running = """() => document.getAnimations().filter((animation) => animation.playState === "running"
        && animation.effect.target.closest("live-lab")).length"""
    found = {}
    for wish in ("reduce", "no-preference"):
        page = tab(f"{address}live.html", reduced_motion=wish)
        page.wait_for_selector("live-lab[data-ready]")
        found[wish] = page.evaluate(running)
    assert found["reduce"] == 0
    assert found["no-preference"] > 0


def test_every_widget_has_a_name(live):
    visit(live, "net=pooled&dx=3&sort=conv1&compare=1")
    live.locator(".live-digits").evaluate("(folded) => { folded.open = true }")
    session = live.context.new_cdp_session(live)
    document = session.send("DOM.getDocument")["root"]["nodeId"]
    found = session.send("DOM.querySelector", {"nodeId": document, "selector": "live-lab"})
    nodes = session.send("Accessibility.queryAXTree", found)["nodes"]
    session.detach()
    live.locator(".live-digits").evaluate("(folded) => { folded.open = false }")
    kinds = {"radio", "slider", "button", "combobox", "checkbox", "application", "DisclosureTriangle", "image", "link"}
    widgets = [node for node in nodes if not node["ignored"] and node["role"]["value"] in kinds]
    assert len(widgets) > 60
    assert not [node["role"]["value"] for node in widgets if not node["name"]["value"].strip()]


FOCUS = """() => {
    const here = document.activeElement
    if (!here.closest("live-lab")) return null
    const sign = here.matches(".live-choice input, .live-gallery input") ? here.nextElementSibling : here
    const { outlineStyle, outlineWidth, visibility } = getComputedStyle(sign)
    const box = sign.getBoundingClientRect()
    const seen = outlineStyle !== "none" && parseFloat(outlineWidth) > 0 && box.width > 0 && visibility === "visible"
    const { dataset, parentElement: around } = here
    const name = here.name || dataset.do || dataset.square || around.dataset.panel || around.className
    return [here.dataset.layer ?? "", here.tagName, name, seen]
}"""


def test_the_tab_key_reaches_every_control_and_the_focus_is_seen(live):
    visit(live, "net=pooled&dx=3&sort=conv1")
    live.locator("[name=live-network]:checked").focus()
    live.keyboard.press("Shift+Tab")
    walked = []
    for _ in range(60):
        live.keyboard.press("Tab")
        place = live.evaluate(FOCUS)
        if place is None:
            break
        walked.append(place)
    assert not [place for place in walked if not place[3]]
    names = [name for _, _, name, _ in walked]
    wanted = [
        "live-network",
        "live-weights",
        "live-mode",
        "live-tool",
        "live-digits",
        "ask",
        "link",
        "reset",
        "live-strip",
    ]
    wanted += ["live-pad", "square-wipe", "blink", "square-channel", "live-map-pad", "live-dy", "live-dx", "compare"]
    wanted += ["sort", "live-sort", "live-trap"]
    assert sorted(name for name in wanted if not any(name in found for found in names)) == []
    first = [next(i for i, found in enumerate(names) if name in found) for name in wanted]
    assert first == sorted(first)
    assert [layer for layer, _, _, _ in walked if layer] == [finding["name"] for finding in live.evaluate(FINDINGS)]


# From a folder, on the home page, for a long time


def test_the_live_lab_works_from_a_folder(site, tab):
    page = tab((site / "live.html").as_uri() + "#dx=2")
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_selector("live-lab[data-ready]")
    for net in reversed(NETWORKS):
        name, weights = net.split("-")
        page.locator(f"[name=live-weights][value={weights}]").check()
        page.locator(f"[name=live-network][value={name}]").check()
        now = state(page)
        assert (now["network"], now["trained"]) == (name, weights == "trained")
    page.locator("[name=live-network][value=pooled]").check()
    assert shifted(drag(page, (14, 14), (5, 1))) == (5, 3)
    shift_map_done(page)
    assert page.evaluate("document.querySelector('live-lab').explorer.joystick.filling.worker instanceof Worker")
    rested(page)
    page.reload()
    page.wait_for_selector("live-lab[data-ready]")
    now = state(page)
    assert (now["network"], now["dy"], now["dx"]) == ("pooled", 5, 3)
    assert not [url for url in asked if not url.startswith((site.as_uri() + "/", "data:", "blob:"))]
    assert not page.problems


def test_a_file_that_is_missing_from_the_folder_is_named(site, tab, tmp_path):
    folder = shutil.copytree(site, tmp_path / "copy", ignore=shutil.ignore_patterns("pooled-trained.bin.js"))
    page = tab((folder / "live.html").as_uri())
    page.wait_for_selector("live-lab[data-ready]")
    page.locator("[name=live-network][value=pooled]").click()
    assert "pooled-trained.bin" in said(page)
    name = "assets/live/pooled-trained.bin.js"
    shutil.copy(site / name, folder / name)
    page.locator("live-lab [role=alert] button").click()
    page.locator(".live-strip [data-layer=pool2]").wait_for()
    assert not own_complaints(page)


HERO = """() => {
    const { state, drift, probe } = document.querySelector("live-lab").hero
    return { dy: state.dy, dx: state.dx, digit: state.digit, drifts: drift !== undefined, ready: probe !== null }
}"""


def home(page):
    page.wait_for_selector("live-lab[data-ready]")
    return page.evaluate(HERO)


@pytest.mark.parametrize("where", ["server", "folder"])
def test_on_the_home_page_a_digit_drifts_until_it_is_touched(where, site, address, tab):
    page = tab(address + "index.html" if where == "server" else (site / "index.html").as_uri())
    first = home(page)
    assert first["drifts"]
    page.wait_for_function(f"document.querySelector('live-lab').hero.state.dx !== {first['dx']}")
    on = pad(page)
    page.mouse.move(on.x + on.pixel * 14, on.y + on.pixel * 14)
    page.mouse.down()
    held = page.evaluate(HERO)
    assert not held["drifts"]
    page.mouse.move(on.x + on.pixel * 14, on.y + on.pixel * 15, steps=2)
    page.mouse.up()
    assert page.evaluate(HERO)["dy"] == held["dy"] + 1
    page.wait_for_timeout(700)  # two steps of the drift
    now = page.evaluate(HERO)
    assert (now["dy"], now["dx"], now["drifts"]) == (held["dy"] + 1, held["dx"], False)
    page.locator("[data-do=next]").click()
    assert page.evaluate(HERO)["digit"] != held["digit"]
    page.locator("[data-live-link]").click()
    page.wait_for_selector("live-lab:not([compact])[data-ready]")
    assert shifted(page) == (now["dy"], now["dx"])
    assert not page.problems


@pytest.mark.parametrize("view", [(1366, 650), (390, 844)])
def test_the_first_screen_of_home_has_the_insight_and_four_doors_even_where_nothing_may_move(view, tab, address):
    width, height = view
    page = tab(f"{address}index.html", width=width, height=height, reduced_motion="reduce")
    first = home(page)
    assert not first["drifts"]
    along, mind = page.locator(".hero-map figcaption"), page.locator(".hero-bars figcaption")
    assert "convolution: moves along" in along.inner_text()
    assert re.search(r"error 0\s", along.inner_text())
    assert re.search(r"fully connected: changes its mind: from \d to \d", mind.inner_text())
    doors = page.locator(".doors a")
    assert [door.inner_text().split("\n")[0] for door in doors.all()] == [
        *("Do the exercise", "Learn", "Teach", "Check my model")
    ]
    for part in (along, mind, *doors.all()):
        box = part.bounding_box()
        assert box["y"] + box["height"] <= height
    assert all("you leave" in door.inner_text() for door in doors.all())
    page.wait_for_timeout(400)
    assert page.evaluate(HERO) == first


def test_the_home_page_says_what_the_network_does(live, tab, address):
    page = tab(f"{address}index.html", reduced_motion="reduce")
    home(page)
    pad(page).canvas.focus()
    for key in ("ArrowRight", "ArrowDown", "ArrowDown", "ArrowDown"):
        page.keyboard.press(key)
    page.wait_for_function("document.querySelector('live-lab').hero.pending === 0")
    shown = [float(page.locator(f"[data-of={of}]").inner_text()) for of in ("convolution", "connected")]
    visit(live, "dx=5&dy=1")
    findings = live.evaluate(FINDINGS)
    assert shown == pytest.approx([findings[0]["error"], findings[-1]["error"]], abs=0.0051)
    page.wait_for_function("/1 px down and 5 px right/.test(document.querySelector('.live-status').textContent)")
    assert not page.problems


def test_without_scripts_home_and_the_live_lab_have_a_still_picture(tab, address):
    for name in ("index.html", "live.html"):
        page = tab(address + name, java_script_enabled=False)
        picture = page.locator("live-lab img")
        assert picture.is_visible()
        assert len(picture.get_attribute("alt")) > 60
        assert not page.problems


def test_before_the_first_interaction_little_is_loaded(address, tab, site):
    page = tab(f"{address}live.html")
    page.wait_for_selector("live-lab[data-ready]")
    shift_map_done(page)
    loaded = sorted(r.url.rpartition("/")[2] for r in page.responses if "/assets/live/" in r.url)
    assert loaded == ["digits.bin", "given-trained.bin", "manifest.json"]
    files = [
        site / "javascripts/live.js",
        site / "stylesheets/live.css",
        *(site / "assets/live" / name for name in loaded),
    ]
    assert sum(len(gzip.compress(path.read_bytes())) for path in files) <= 60_000
    assert not page.problems


def test_all_of_the_live_lab_is_a_small_download(site):
    files = [site / "javascripts/live.js", site / "stylesheets/live.css", *(site / "assets/live").glob("*.json")]
    files += (site / "assets/live").glob("*.bin")
    sizes = {path.name: len(gzip.compress(path.read_bytes())) for path in files}
    assert len(sizes) == 8
    assert sum(sizes.values()) <= 300_000, sizes


FRAMES = """async (count) => {
    const { explorer } = document.querySelector("live-lab")
    for (let i = 0; i < count; i++) {
        explorer.change({ dy: (i % 29) - 14, dx: ((7 * i) % 29) - 14 })
        explorer.frame()
        if (i % 100 === 99) await new Promise(requestAnimationFrame)
    }
}"""


def test_frames_leave_no_memory_behind(live):
    visit(live, "sort=conv1&trap=scramble")
    session = live.context.new_cdp_session(live)

    def used():
        for _ in range(3):  # what only a finalizer lets go is collected the next time
            session.send("HeapProfiler.collectGarbage")
        return session.send("Runtime.getHeapUsage")["usedSize"]

    live.evaluate(FRAMES, 300)  # all code is compiled, all room taken
    before = used()
    live.evaluate(FRAMES, 2_000)
    after = used()
    session.detach()
    assert after - before < 2_000 * 50, (before, after)  # the smallest object that a frame could leave has 50 bytes


# In the chapters

CHAPTERS = ["undo", "sort", "zigzag", "border", "half", "window"]
PRESETS = """(presets) => {
    const article = document.querySelector("article")
    article.replaceChildren(...presets.map((preset) => {
        const part = document.createElement("live-lab")
        part.setAttribute("src", "assets/live/")
        part.setAttribute("preset", preset)
        return part
    }))
}"""


@pytest.fixture(scope="module")
def chapters(lasting_tab, address):
    """The small labs of all chapters on one page, as they stand in those, near enough to be loaded."""
    page = lasting_tab(f"{address}index.html", height=3_000)
    page.evaluate(PRESETS, CHAPTERS)
    page.locator("live-lab[data-ready]").nth(len(CHAPTERS) - 1).wait_for()
    yield page
    assert not page.problems


def lesson(page, preset, *, dy=0, dx=0, choice=None):
    """What a small lab says at a shift."""
    place = page.locator(f"live-lab[preset={preset}]")
    if choice:
        place.locator(f"input[value={choice}]").check()
    place.evaluate("(part, [dy, dx]) => { part.mini.moveTo(dy, dx); part.mini.frame() }", [dy, dx])
    return place.locator(".mini-said").inner_text()


def test_undoing_a_translation_loses_the_pixels_that_had_left(chapters, exported):
    image = exported.digits[28]
    back = lab.shift(lab.shift(image, 5, 11), -5, -11)
    lost = int((back != image).sum())
    assert lost > 10
    assert f", {lost} pixels" in lesson(chapters, "undo", dy=5, dx=11, choice="background")
    assert "all is as before" in lesson(chapters, "undo", dy=5, dx=11, choice="wrap")


def test_the_zigzag_is_that_of_the_live_lab(chapters, live):
    for dx in (1, 2, 4):
        lesson(chapters, "zigzag", dx=dx)
        shown = chapters.locator("live-lab[preset=zigzag] .live-strip > *").all_inner_texts()
        alone = visit(live, f"net=pooled&dx={dx}").locator(".live-strip button").all_inner_texts()[:6]
        assert [text.split() for text in shown] == [text.split() for text in alone]


def test_the_border_comes_in_behind_each_padded_layer_and_not_on_a_ring(chapters, exported):
    weight = torch.tensor([0.5, 0.25, -0.25, 0.25, 1, 0.25, -0.25, 0.25, -0.5]).reshape(1, 1, 3, 3).double()
    first = exported.digits[28].double()[None] - 0.5
    second = lab.shift(first, 0, 3, mode="wrap")
    for depth in range(4):
        first, second = (torch.nn.functional.conv2d(x, weight, padding=1) + 0.5 for x in (first, second))
        far = (second - lab.shift(first, 0, 3, mode="wrap")).abs() > 1e-5
        assert far[..., -1 - depth].any(), "the border comes in by a column with every layer"
        assert not far[..., -2 - depth].any()
    broken = (second - lab.shift(first, 0, 3, mode="wrap")).abs() > 1e-5
    said_ = lesson(chapters, "border", dx=3, choice="background")
    assert int(re.search(r"(\d+) % of the map", said_)[1]) == pytest.approx(100 * broken.double().mean().item(), abs=1)
    assert "Every map moved along" in lesson(chapters, "border", dx=3, choice="wrap")


def test_half_a_pixel_is_the_labs(chapters, exported):
    image = exported.digits[28].double()[None]
    moved = lab.shift(image, 0, 1, mode="wrap")
    spectrum = torch.fft.rfft(image, dim=-1)
    spectrum[..., SIZE // 4 :] = 0
    smooth = torch.fft.irfft(spectrum, n=SIZE, dim=-1)
    errors = []
    for x, y in ((image, moved), (smooth, lab.shift(smooth, 0, 1, mode="wrap"))):
        expected = lab.shift(x[..., ::2, ::2], 0, 0.5, mode="wrap")
        errors.append(lab.equivariance_error(y[..., ::2, ::2], expected).item())
    assert errors[0] > 0.1 > 1e-9 > errors[1]
    plain = lesson(chapters, "half", dx=1, choice="plain")
    assert f": {errors[0]:.2f}. What is left is aliasing" in plain
    assert "nothing is left" in lesson(chapters, "half", dx=1, choice="smooth")


def test_the_window_moves_the_other_way_and_sort_and_flip_are_told_apart(chapters, live):
    says = lesson(chapters, "window", dy=-2, dx=4)
    own = visit(live, "dy=-2&dx=4").evaluate("document.querySelector('live-lab').explorer.summary.textContent")
    assert re.search(r"says (\d)", says)[1] == re.search(r"(?:still|to) (\d)", own)[1]
    frame = chapters.locator("live-lab[preset=window] .square-interior").evaluate("(frame) => frame.style.inset")
    top, left = (100 * (RADIUS - t) / (2 * SIZE) for t in (-2, 4))  # per cent of the canvas
    edges = [float(share) for share in re.findall(r"[\d.]+", frame)]
    assert edges == pytest.approx([top, 50 - left, 50 - top, left], abs=0.01)
    lesson(chapters, "sort", dx=3, choice="flip")
    text = chapters.locator("live-lab[preset=sort] .live-sorted").inner_text()
    assert "Sorted distance: 0 " in text
    assert "does not move along" in text


def test_small_labs_are_dragged_named_and_accessible(chapters):
    place = chapters.locator("live-lab[preset=undo]")
    canvas = place.locator(".live-pad canvas")
    box = canvas.bounding_box()
    lesson(chapters, "undo")
    chapters.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    chapters.mouse.down()
    chapters.mouse.move(box["x"] + box["width"] / 2 + 3 * box["width"] / SIZE, box["y"] + box["height"] / 2, steps=2)
    chapters.mouse.up()
    chapters.wait_for_function("document.querySelector('live-lab[preset=undo]').mini.state.dx === 3")
    found = Axe().run(chapters, context="article", options={"resultTypes": ["violations"]}).response["violations"]
    assert [f"{v['id']} {[n['target'] for n in v['nodes']][:3]}" for v in found] == []
