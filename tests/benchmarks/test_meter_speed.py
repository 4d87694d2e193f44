"""What the meter must reach, measured: beside `tmeasures`, beside plain forward passes, and with ever more images.

`make bench` installs `tmeasures` where nothing else sees it. Like test_speed.py: on an idle machine; quote the ratios.
"""

import json
import os
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from processes import timed
from test_speed import report
from torchvision.models import resnet18

import lab
from lab.data import BACKGROUND
from lab.files import data_root
from lab.metering.inputs import fractal_images
from lab.training import RECIPES

HERE = Path(__file__).parent
TMEASURES = HERE.parents[1] / ".cache" / "tmeasures" / "bin" / "python"
SQUARE = [(dy, dx) for dy in range(-4, 5) for dx in range(-4, 5)]
NO_SHIFT = (0, 0)


def cost(run) -> tuple[float, float]:
    """Seconds on the wall, and of the processor: on one core of an idle machine they are the same."""
    start = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def forward(model, images, shifts, *, background=0.0):
    """The plain forward passes that shifts need, in batches of 128: what no meter can do without."""
    with torch.no_grad():
        for t in shifts:
            for batch in lab.shift(images, *t, background=background).split(128):
                model(batch)


@pytest.fixture(scope="module")
def mnist():
    return lab.load_mnist("full")


@pytest.fixture(scope="module")
def pooled(mnist):
    model = lab.build_model("pooled", seed=0)
    lab.fit(model, mnist.train, RECIPES["pooled"])
    return model.eval()


@pytest.fixture
def one_core():
    """`tmeasures` runs a thread for each layer, whatever torch is told: on one core the count is the same for both."""
    if not hasattr(os, "sched_setaffinity"):
        pytest.fail("this system does not let a process choose its cores")
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    yield
    os.sched_setaffinity(0, cores)


@pytest.fixture
def their_way(pooled, tmp_path):
    """Runs `tmeasures` on images under shifts: what it costs, and what it finds for the units of each layer."""
    if not TMEASURES.exists():
        pytest.fail("tmeasures is not installed: use make bench")

    def run(way, images, shifts):
        task = {"state": pooled.state_dict(), "images": images, "shifts": shifts, "root": str(data_root())}
        torch.save(task, tmp_path / "task.pt")
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        script = HERE / "tmeasures_way.py"
        finished = timed(TMEASURES, "-W", "ignore", script, tmp_path, way, env=environment)
        return json.loads(finished.stdout)["cost"], torch.load(tmp_path / "found.pt")

    return run


@pytest.mark.parametrize("way", ["memory", "documented"], ids=["images in memory", "as documented"])
def test_invariance_to_81_shifts_against_tmeasures(benchmark, one_core, mnist, pooled, their_way, way):
    images = lab.normalize(mnist.test.images[:1000])

    def ours():
        return lab.meter(pooled, images, SQUARE, background=BACKGROUND, quantities=["invariance"])

    def plain():
        forward(pooled, images, SQUARE, background=BACKGROUND)

    rounds = [(cost(ours), cost(plain)) for _ in range(2)]
    theirs, found = their_way(way, images, SQUARE)
    rounds += [(cost(ours), cost(plain)) for _ in range(2)]
    assert list(benchmark.pedantic(ours, rounds=1).geometry) == list(found)
    for clock, seconds in enumerate(("seconds", "processor seconds")):
        meter, passes = (statistics.median(one[clock] for one in kind) for kind in zip(*rounds, strict=True))
        report(f"the meter, faster than tmeasures by ({seconds})", theirs[clock] / meter, "≥ 12 ×")
        report("  plain forward passes, faster than tmeasures by", theirs[clock] / passes, "none")
        report("  the meter over plain forward passes", meter / passes, "none")
        report("  the meter itself", meter, f"tmeasures: {theirs[clock]:.1f} s", "s")


def test_the_same_formula_gives_the_same_answer_and_the_definitions_differ_by_steps(mnist, pooled, their_way):
    images = lab.normalize(mnist.test.images[:200])
    _, theirs = their_way("exact", images, SQUARE)
    _, interpolated = their_way("memory", images, SQUARE)
    ours = lab.meter(pooled, images, SQUARE, background=BACKGROUND, quantities=["invariance"])
    steps = ("tmeasures", "exact", "root last", "layer whole", "from 0", "the meter")
    sys.stdout.write("\n  invariance".ljust(15) + "".join(step.rjust(13) for step in steps))
    worst = 0.0
    for name, units in variation(pooled, images, SQUARE).items():
        # Both take float32 activations, whose last bits depend on the batch, and go on in float64.
        torch.testing.assert_close(units["quotient"], theirs[name].flatten(), rtol=1e-4, atol=1e-6)
        other = (units["root last"] - theirs[name].flatten()).abs().max()
        assert other > 1e-2  # the control: another formula gives another answer
        worst = max(worst, ((units["quotient"] - theirs[name].flatten()).abs() / units["quotient"]).max().item())
        moved = [row.invariance for row in ours.of(name) if (row.dy, row.dx) != NO_SHIFT]
        values = (
            *(one[one.isfinite()].mean() for one in (interpolated[name], theirs[name], units["root last"])),
            *(units["layer whole"], units["from 0"], statistics.mean(moved)),
        )
        sys.stdout.write(f"\n  {name}".ljust(15) + "".join(f"{float(value):13.3f}" for value in values))
    report("the same formula: largest relative difference of a unit", worst, "≤ 1e-4", "")


def variation(model, images, shifts):
    """How activations vary with the shift, over how they vary with the image, from one definition to the other.

    - `quotient`, of each unit, as `tmeasures` has it: the standard deviation over shifts, averaged over images, over
      the standard deviation over images, averaged over shifts; 1 for a unit that never changes.
    - `root last`: variances are averaged, and the root is taken of their quotient.
    - `layer whole`: variances are summed over the units first, so that a unit counts as much as it varies.
    - `from 0`: each shift is compared with the image as it is, not with each other shift; unrelated images likewise.
    """
    still = {name: a.flatten(1).double() for name, a in lab.activations(model, images).items()}
    sums = {name: defaultdict(float) for name in still}
    n = len(shifts)
    for t in shifts:
        for name, a in lab.activations(model, lab.shift(images, *t, background=BACKGROUND)).items():
            moved, one = a.flatten(1).double(), sums[name]
            difference = moved - still[name]
            one["difference"] += difference
            one["square"] += difference.square()
            one["over images"] += moved.std(0) / n
            one["variance over images"] += moved.var(0) / n
    found = {}
    for name, one in sums.items():
        variance = ((one["square"] - one["difference"].square() / n) / (n - 1)).clamp(min=0)  # of each image
        over_shifts, by_images = variance.sqrt().mean(0), one["variance over images"]
        unrelated = 2 * still[name].var(0).sum()  # the mean square distance of two images
        found[name] = {
            "quotient": quotient(over_shifts, one["over images"]),
            "root last": quotient(variance.mean(0), by_images).sqrt(),
            "layer whole": (variance.mean(0).sum() / by_images.sum()).sqrt(),
            "from 0": (one["square"].mean(0).sum() / (n - 1) / unrelated).sqrt(),
        }
    return found


def quotient(above, below):
    return torch.where((above == 0) & (below == 0), 1.0, above / below)


METER = """
import sys, time, torch, lab
from lab.data import BACKGROUND
torch.set_num_threads(1)
model, images = lab.build_model("pooled", seed=0).eval(), torch.load(sys.argv[1])
shifts = [(dy, dx) for dy in range(int(sys.argv[2])) for dx in range(int(sys.argv[2]))]
start = time.process_time()
lab.meter(model, images, shifts, background=BACKGROUND)
seconds = time.process_time() - start
print(seconds)
"""


def test_memory_is_bounded_by_a_batch_and_time_grows_with_the_images(mnist, tmp_path):
    images = {n: lab.normalize(mnist.test.images[:n]) for n in (1_000, 10_000)}
    for n, some in images.items():
        torch.save(some.clone(), tmp_path / f"{n}.pt")

    def run(n, side):
        finished = timed(sys.executable, "-c", METER, tmp_path / f"{n}.pt", side)
        return float(finished.stdout), finished.peak_gb

    run(1_000, 1)  # byte code and disk cache
    runs = [(run(1_000, 3), run(10_000, 3), run(1_000, 9)) for _ in range(3)]
    few, many, long = (statistics.median(peak for _, peak in kind) for kind in zip(*runs, strict=True))
    slower = statistics.median(b[0] / a[0] for a, b, _ in runs)
    grown = (images[10_000].nbytes - images[1_000].nbytes) / 1e9
    report("10 × the images, slower by", slower, "10 × ± 20 %")
    report("10 × the images, peak memory grows by", 100 * (many / few - 1), "≤ 10 %", "%")
    report(f"the same without the images' own {1000 * grown:.0f} MB", 100 * ((many - grown) / few - 1), "≤ 10 %", "%")
    report("9 × the shifts, peak memory grows by", 100 * (long / few - 1), "≤ 10 %", "%")
    report("peak memory of 1,000 images, whole process", few, "none", "GB")


@pytest.mark.parametrize(
    "shifts",
    [[(1, -1), (4, -4), (16, -16), (32, -32)], [(1, -1), (3, -5), (7, -7), (9, -11)]],
    ids=["strides that divide", "strides that divide none"],
)
def test_the_whole_report_of_resnet18_against_its_forward_passes(benchmark, shifts):
    torch.manual_seed(0)
    model, images = resnet18().eval(), fractal_images(8, (224, 224))

    def ours():
        lab.meter(model, images, shifts)

    def plain():
        forward(model, images, [NO_SHIFT, *shifts])

    plain()  # the first pass prepares the convolutions
    rounds = [(cost(ours), cost(plain)) for _ in range(4)]
    benchmark.pedantic(ours, rounds=1)
    for clock, seconds in enumerate(("seconds", "processor seconds")):
        ratio = statistics.median(whole[clock] / passes[clock] for whole, passes in rounds)
        report(f"the whole report of resnet18, over the plain forward passes ({seconds})", ratio, "≤ 3.5 ×")


LARGE = """
import time, torch, lab
from torchvision.models import resnet50
torch.set_num_threads(1)
torch.manual_seed(0)
model, images, shifts = resnet50().eval(), lab.fractal_images(64, (224, 224)), [(32, 0), (0, -64)]

def passes():
    start = time.process_time()
    with torch.no_grad():
        for t in [(0, 0), *shifts]:
            for batch in lab.shift(images, *t).split(8):
                model(batch)
    return time.process_time() - start

passes()
start = time.process_time()
lab.meter(model, images, shifts)
print((time.process_time() - start) / passes())
"""


def test_resnet50_on_many_images_against_its_forward_passes():
    finished = timed(sys.executable, "-c", LARGE)
    report("the whole report of resnet50, 64 images, over the plain passes", float(finished.stdout), "≤ 2 ×")
    report("peak memory of both, whole process", finished.peak_gb, "≤ 3 GB", "GB")


def test_a_compiled_network_costs_what_the_plain_one_costs():
    torch.manual_seed(0)
    model, images = resnet18().eval(), fractal_images(4, (96, 96))
    compiled = torch.compile(model)
    rounds = [
        (cost(lambda: lab.meter(compiled, images, [(1, -1)])), cost(lambda: lab.meter(model, images, [(1, -1)])))
        for _ in range(4)
    ]
    ratio = statistics.median(one[0] / two[0] for one, two in rounds)
    report("the meter on a compiled network, over the plain one", ratio, "1 ×")
