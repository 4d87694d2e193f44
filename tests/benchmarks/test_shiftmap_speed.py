"""What dense evaluation must reach, measured: beside one run for each shift, with ever more images and shifts.

Like test_speed.py: on an idle machine; quote the ratios. Both ways give the same predictions in the same run. Brute is
measured on fewer images, for its time is linear in them.
"""

import copy
import statistics
import sys
import time

import pytest
import torch
from processes import timed
from test_speed import report

import lab
from lab.data import BACKGROUND
from lab.training import RECIPES

BRUTE = 300  # images
ORACLE = {"given": 10_000, "pooled": 500}  # images whose logits are compared
TARGETS = {"given": 25, "pooled": 30}


@pytest.fixture(scope="module")
def mnist():
    return lab.load_mnist("full")


@pytest.fixture(scope="module", params=["given", "pooled"])
def trained(request, mnist):
    torch.set_num_threads(1)
    model = lab.build_model(request.param, seed=0)
    lab.fit(model, mnist.train, RECIPES[request.param])
    return request.param, model.eval()


def processor_seconds(run, method, n):
    start = time.process_time()
    run(method, n)
    return time.process_time() - start


def test_841_shifts_of_10000_images_against_one_run_for_each_shift(benchmark, mnist, trained):
    name, model = trained
    images, labels = lab.normalize(mnist.test.images), mnist.test.labels

    def logits(method, n):
        lab.shift_map(model, images[:n], background=BACKGROUND, method=method)

    def maps(method, n):
        lab.shift_maps(model, images[:n], labels[:n], background=BACKGROUND, method=method)

    n = len(images)
    for what, run in (("maps", maps), ("logits", logits)):
        run("dense", 960)
        rounds = [
            (processor_seconds(run, "dense", n) / n, processor_seconds(run, "brute", BRUTE) / BRUTE) for _ in range(3)
        ]
        dense, brute = (1e3 * statistics.median(one) for one in zip(*rounds, strict=True))
        report(f"{name}, {what}: dense faster than brute by", brute / dense, f"≥ {TARGETS[name]} ×")
        report("  dense, an image", dense, f"brute: {brute:.3g} ms", "ms")
    benchmark.pedantic(lambda: maps("dense", n), rounds=1)


def test_both_ways_give_the_same_logits_and_predictions(mnist, trained):
    """The oracle is brute force in float64: of two results in float32 each has its own rounding."""
    name, model = trained
    images = lab.normalize(mnist.test.images[: ORACLE[name]])
    double = copy.deepcopy(model).double()
    rows = []
    for batch in images.split(500):
        dense, brute = (lab.shift_map(model, batch, background=BACKGROUND, method=way) for way in ("dense", "brute"))
        exact = lab.shift_map(double, batch.double(), background=BACKGROUND, method="brute")
        dense64 = lab.shift_map(double, batch[:20].double(), background=BACKGROUND, method="dense")
        gaps = [(a - b).abs().max() for a, b in ((dense, exact), (brute, exact), (dense, brute))]
        other = (dense64 - exact[:20]).abs().max(), (dense[:, :-1] - brute[:, 1:]).abs().max()
        rows.append([*gaps, exact.abs().max(), *other, (dense.argmax(-1) != brute.argmax(-1)).sum()])
    columns = torch.tensor(rows, dtype=torch.float64)
    from_exact, brute_own, between, largest, in_double, beside = columns.amax(0).tolist()[:-1]
    report(f"{name}, {len(images):,} images: largest logit difference from the oracle", from_exact, "≤ 1e-5", "")
    report("  that of brute force in float32", brute_own, "none", "")
    report("  dense from brute force, both in float32", between, "≤ the sum of these", "")
    report("  the same over the largest logit", between / largest, "≤ 1e-5", "")
    report("  the same in float64", in_double, "≤ 1e-12", "")
    report("  predictions that differ", columns[:, -1].sum().item(), "0", "")
    assert beside > 1e-2  # the control: one pixel down


MAPS = """
import sys, time, torch, lab
from lab.data import BACKGROUND
torch.set_num_threads(1)
model = lab.build_model(sys.argv[1], seed=0).eval()
images, labels = torch.load(sys.argv[2])
lab.shift_maps(model, images[:1000], labels[:1000], background=BACKGROUND)  # what the first call alone costs
start = time.process_time()
lab.shift_maps(model, images, labels, radius=int(sys.argv[3]), background=BACKGROUND)
seconds = time.process_time() - start
print(seconds)
"""


@pytest.mark.parametrize("name", ["given", "pooled"])
def test_memory_is_bounded_and_time_grows_with_images_and_area(mnist, name, tmp_path):
    for n in (1_000, 10_000):
        torch.save((lab.normalize(mnist.test.images[:n]), mnist.test.labels[:n].clone()), tmp_path / f"{n}.pt")

    def run(n, radius):
        finished = timed(sys.executable, "-c", MAPS, name, tmp_path / f"{n}.pt", radius)
        return float(finished.stdout), finished.peak_gb

    run(1_000, 1)  # byte code and disk cache
    runs = [(run(1_000, 14), run(10_000, 14), run(1_000, 28), run(1_000, 42)) for _ in range(3)]
    few, many, wide, widest = (statistics.median(seconds for seconds, _ in kind) for kind in zip(*runs, strict=True))
    report(f"{name}: 10 × the images, slower by", many / few, "about 10 ×")
    for radius, seconds in ((28, wide), (42, widest)):
        canvas, shifts = ((28 + 2 * radius) / 56) ** 2, ((2 * radius + 1) / 29) ** 2
        report(
            f"  radius {radius} for 14, slower by",
            seconds / few,
            f"{canvas:.2g} × (canvas); {shifts:.2g} × as many shifts",
        )
    for what, kind in zip(("1,000 images", "10,000 images", "radius 28", "42"), zip(*runs, strict=True), strict=True):
        report(f"  peak memory, whole process, {what}", max(peak for _, peak in kind), "≤ 1 GB", "GB")
