"""What the playground must reach, in headless Chromium on the built site: frames of a drag, memory, bytes.

Like test_live_speed.py. A frame is the network on the moved image, all errors, all cards, the square, every word, and
the layout that it causes.
"""

import gzip

import pytest
from test_live_speed import spread
from test_speed import report

PRESETS = ("given", "pooled", "circular", "blurred", "strided", "invariant", "unet")
FRAMES = """async (count) => {
  const root = document.querySelector("net-lab")
  const { builder } = root
  const times = []
  for (let i = 0; i < count; i++) {
    if (i % 50 === 0) await new Promise(requestAnimationFrame)
    const start = performance.now()
    Object.assign(builder.choice, { dy: ((i * 5) % 29) - 14, dx: ((i * 3) % 29) - 14 })
    builder.frame()
    root.getBoundingClientRect()
    times.push(performance.now() - start)
  }
  return times
}"""
CHANGES = """async (count) => {
  const root = document.querySelector("net-lab")
  const presets = [...root.querySelectorAll("[name=net-preset]")].map(({ value }) => value)
  for (let i = 0; i < count; i++) {
    root.builder.begin(presets[i % presets.length])
    root.builder.moveTo((i % 9) - 4, (i % 7) - 3)
    root.builder.frame()
    await new Promise(requestAnimationFrame)
  }
}"""


@pytest.fixture
def page(chromium, address):
    context = chromium.new_context(viewport={"width": 1366, "height": 650})
    opened = context.new_page()
    opened.goto(f"{address}playground.html")
    opened.wait_for_selector("net-lab[data-ready]")
    yield opened
    context.close()


@pytest.mark.parametrize("preset", PRESETS)
def test_a_frame_of_a_drag(benchmark, page, preset):
    page.evaluate(f"document.querySelector('net-lab').builder.begin('{preset}')")
    page.locator(".net-row button").last.click()
    page.evaluate(FRAMES, 60)  # compiled
    spread(f"{preset}: everything, with layout", benchmark.pedantic(lambda: page.evaluate(FRAMES, 300), rounds=1))


def test_memory_after_200_changes_of_architecture(benchmark, page):
    devtools = page.context.new_cdp_session(page)

    def memory():
        page.wait_for_timeout(600)  # the address and the screen reader are told
        for _ in range(3):
            devtools.send("HeapProfiler.collectGarbage")
        return devtools.send("Runtime.getHeapUsage")["usedSize"] / 1e6, devtools.send("Memory.getDOMCounters")

    page.evaluate(CHANGES, 980)  # compiled for good, and ends on the preset that 210 end on
    before, counted = memory()
    benchmark.pedantic(lambda: page.evaluate(CHANGES, 210), rounds=1)
    after, recounted = memory()
    report("heap before", before, "none", "MB")
    report("heap after 210 changes, grown by", after - before, "0 MB, up to 0.1", "MB")
    for what in ("nodes", "jsEventListeners"):
        report(f"{what}: {counted[what]}, grown by", recounted[what] - counted[what], "0", "")


def test_bytes_over_the_wire(benchmark, site):
    files = [site / "javascripts" / "playground.js", site / "stylesheets" / "playground.css"]
    sizes = benchmark.pedantic(lambda: [len(gzip.compress(path.read_bytes())) / 1e3 for path in files], rounds=1)
    for path, size in zip(files, sizes, strict=True):
        report(f"{path.name}, gzipped", size, "none", "kB")
    report("in all", sum(sizes), "≤ 60 kB", "kB")
