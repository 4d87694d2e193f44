"""The playground against PyTorch and the meter, on architectures drawn at random; its programs, files and rules.

300 architectures in the suite, and seven made by hand; `LAB_NETWORKS=1000` draws as many.
"""

import base64
import contextlib
import io
import json
import os
import re
from types import SimpleNamespace

import playground
import pytest
import torch
from torch.nn import (
    AdaptiveAvgPool2d,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Identity,
    InstanceNorm2d,
    LayerNorm,
    Linear,
    MaxPool2d,
    Module,
    ReLU,
    Sequential,
    Softmax,
    Upsample,
)
from torch.nn.functional import avg_pool2d

import lab
from lab.data import load_mnist
from lab.errors import InputError
from lab.live.chains import LIMITS, MOST_BLOCKS, MOST_PARAMETERS, SCHEMA, chain_of, export_chain

NETWORKS = int(os.environ.get("LAB_NETWORKS", "300"))
GROUND = lab.normalize(torch.zeros(1, 1)).item()  # what the digits' background is, rounded as they are
EVEN = "ignore:Using padding='same' with even kernel lengths:UserWarning"  # PyTorch's note on speed
CLOSE = 1e-5  # of the largest activation so far: what float32 may lose in ten blocks
CLOSER = 1e-10  # the same in float64
MEASURE = """({ net, seed, images, background, shifts, wrap }) => {
  const made = chained({ net, seed })
  const probes = [0, 1].map((i) => {
    const probe = new verdicts.Probe(made)
    probe.take(images[i], images[1 - i], background)
    return probe
  })
  const rows = shifts.map(([dy, dx]) => {
    const [first, second] = probes.map((probe) => probe.measure(dy, dx, wrap))
    return first.map(({ geometry, part, error, sharp }, i) => {
      const both = [part, second[i].part]
      const observed = verdicts.observation(both)
      const said = verdicts.afterwards(theory.expect(geometry, dy, dx, wrap), observed)
      const silent = both.every((one) => one.silent)
      return { name: geometry.name, dy, dx, observed, theory: said.expectation, why: said.why, silent, sharp }
    })
  })
  return {
    rows: rows.flat(),
    geometry: probes[0].geometry,
    outputs: probes[0].first.outputs.slice(1).map(({ data }) => data),
    text: pytorch.programOf(made, seed, { dy: 0, dx: 1, wrap }),
  }
}"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return playground.modules(tmp_path_factory.mktemp("playground"))


@pytest.fixture
def js(folder):
    return lambda code, cases: playground.run(folder, code, cases)


@pytest.fixture(scope="module")
def digits():
    return lab.normalize(load_mnist("embedded").test.images[:2])


def made(text):
    """The network of a program that the page has copied."""
    names = {"__name__": "copied"}
    exec(text, names)  # that is what a reader does with it
    return names["model"]


@pytest.fixture(scope="module")
def compared(folder, digits):
    """Each possible architecture: what the page finds, and the module that it copies."""
    seeds = []
    for first in range(0, 100 * NETWORKS, 10 * NETWORKS):
        cases = [{"net": playground.architecture(seed), "seed": seed} for seed in range(first, first + 10 * NETWORKS)]
        refused = playground.run(folder, "(one) => refusal(() => (chained(one), null))", cases)
        seeds += [case["seed"] for case, found in zip(cases, refused, strict=True) if found is None]
        if len(seeds) >= NETWORKS:
            break
    drawn = [(playground.architecture(seed), seed, *playground.shifts_of(seed)) for seed in seeds[:NETWORKS]]
    drawn += [(net, 0, [(0, 1), (2, -2)], True) for net in playground.BY_HAND]
    images = digits.double().flatten(1).tolist()
    cases = [
        {"net": net, "seed": seed, "shifts": shifts, "wrap": wrap, "images": images, "background": GROUND}
        for net, seed, shifts, wrap in drawn
    ]
    found = playground.run(folder, MEASURE, cases)
    return [SimpleNamespace(**case, page=page) for case, page in zip(cases, found, strict=True)]


def test_the_suite_has_as_many_architectures_as_it_says(compared):
    assert len(compared) == NETWORKS + len(playground.BY_HAND)
    kinds = {block.partition(".")[0] for one in compared for block in one.net.split(",")}
    assert NETWORKS < 24 or kinds == set(playground.KINDS) | {"gap", "gmp", "linear"}


# ---- activations and programs


def outputs(model, x):
    found = {}
    hooks = [
        module.register_forward_hook(lambda _m, _i, out, name=name: found.update({name: out}))
        for name, module in model.named_children()
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return found


def far(model, x, page):
    """How far the page's activations are from the module's, relative to the largest so far: at worst."""
    worst, largest = 0.0, x.abs().max().item()
    for a, b in zip(outputs(model, x).values(), page["outputs"], strict=True):
        largest = max(largest, a.abs().max().item())
        worst = max(worst, (a.flatten().double() - torch.tensor(b, dtype=torch.float64)).abs().max().item() / largest)
    return worst


@pytest.mark.filterwarnings(EVEN)
def test_the_copied_module_computes_what_the_page_does(compared, digits):
    for one in compared:
        model = made(one.page["text"])
        assert far(model, digits[:1], one.page) <= CLOSE, one.net
        assert far(model.double(), digits[:1].double(), one.page) <= CLOSER, one.net


@pytest.mark.filterwarnings(EVEN)
def test_another_seed_computes_something_else(compared, digits):
    weighed = [one for one in compared if "conv" in one.net][:5]
    for one in weighed:
        other = made(re.sub(r"seed=\d+\)$", f"seed={one.seed + 1})", one.page["text"], flags=re.MULTILINE))
        assert far(other, digits[:1], one.page) > 100 * CLOSE, one.net


def test_a_program_with_stored_weights_has_them(js, digits):
    net = "conv.2.3.1.circular.1,relu,gap,linear.3"
    code = """(one) => {
      const weights = Float32Array.from({ length: 29 }, (_, i) => Math.sin(i))
      const made = new chain.Chain(blocks.parse(one.net), weights)
      return { weights, text: pytorch.programOf(made, null, { dy: 0, dx: 0, wrap: false }) }
    }"""
    (found,) = js(code, [{"net": net}])
    state = torch.cat([p.flatten() for p in made(found["text"]).parameters()])
    assert torch.equal(state, torch.tensor(found["weights"]).float())


# ---- theory and observation


def axis_of(axis):
    step = None if axis.step is None else [axis.step.numerator, axis.step.denominator]
    interior = [axis.interior.start, axis.interior.stop]
    numbers = {"size": axis.size, "outputs": axis.outputs, "step": step, "period": axis.period, "interior": interior}
    seen = {"receptiveField": axis.receptive_field, "offset": axis.offset, "circular": axis.circular}
    return numbers | seen


def geometry_of(name, layer):
    facts = layer.facts
    pairs = {"period": facts.period, "sharp": facts.sharp, "closed": facts.closed, "weighed": facts.weighed}
    pairs |= {"meanPeriod": facts.mean_period, "maxPeriod": facts.max_period}
    words = {name: getattr(facts, name) for name in ("head", "mixing", "chosen", "blurred", "subsampling")}
    grid = layer.grid and [axis_of(layer.grid.y), axis_of(layer.grid.x)]
    known = {name: list(pair) for name, pair in pairs.items()} | words
    return {"name": name, "grid": grid, "flat": layer.flat, "circular": layer.circular, "facts": known}


@pytest.mark.filterwarnings(EVEN)
def test_the_geometry_is_that_of_the_lab(compared, digits):
    for one in compared:
        found = lab.trace(made(one.page["text"]), digits[:1])
        layers = [geometry_of(name, layer) for name, layer in found.items() if name]
        page = [dict(layer) for layer in one.page["geometry"]]
        for layer in page:
            layer["facts"] = {name: value for name, value in layer["facts"].items() if name != "ties"}
        assert page == layers, one.net


def report_of(one, digits):
    how = {"mode": "wrap" if one.wrap else "background", "quantities": ["equivariance", "invariance"]}
    with contextlib.suppress(InputError):  # no layer keeps positions: nothing can move
        return lab.meter(made(one.page["text"]), digits, one.shifts, background=GROUND, **how)
    return None


@pytest.mark.filterwarnings(EVEN)
def test_the_verdicts_are_those_of_the_meter(compared, digits):
    seen, silent = set(), 0
    for one in compared:
        report = report_of(one, digits)
        rows = {(row.layer, row.dy, row.dx): row for row in report.rows} if report else {}
        for page in one.page["rows"] if report else ():
            row = rows[page["name"], page["dy"], page["dx"]]
            silent += page["silent"]
            if not page["silent"]:  # else the meter divides rounding by rounding; the page says that nothing is seen
                said = page["theory"], page["observed"], page["why"]
                assert said == (row.theory, row.observed, row.why), (one.net, one.wrap, row)
            seen.add((row.theory, row.observed))
    assert {("exact", "exact"), ("broken", "not exact"), ("untestable", "not exact")} <= seen
    assert silent < 0.05 * sum(len(one.page["rows"]) for one in compared)


def test_without_a_blur_the_error_is_the_meters(js, digits):
    net, shifts = "conv.3.3.1.circular.1,relu,blur.3.2.circular,conv.2.3.1.circular.1", [(1, 0), (0, 3), (1, -1)]
    case = {"net": net, "seed": 1, "shifts": shifts, "wrap": True, "background": GROUND}
    (page,) = js(MEASURE, [case | {"images": digits.double().flatten(1).tolist()}])
    report = lab.meter(made(page["text"]).double(), digits[:1].double(), shifts, mode="wrap", background=GROUND)
    rows = {(row.layer, row.dy, row.dx): row for row in report.rows}
    found = [(one, rows[one["name"], one["dy"], one["dx"]]) for one in page["rows"] if one["theory"] == "approximate"]
    assert len(found) == 6
    for one, row in found:
        assert one["sharp"] == pytest.approx(row.without_blur, rel=1e-9)  # the same sums in another order
        assert row.error < one["sharp"]


@pytest.mark.parametrize("preset", ["invariant", "blurred", "unet"])
def test_the_copied_program_measures_what_the_page_shows(preset, js, digits, monkeypatch):
    images = digits.double().flatten(1).tolist()
    shifts, wrap = [(0, 1)], preset != "unet"
    case = {"preset": preset, "seed": 0, "shifts": shifts, "wrap": wrap, "images": images, "background": GROUND}
    (page,) = js(f"(one) => ({MEASURE})({{ ...one, net: presets.PRESETS[one.preset].net }})", [case])
    monkeypatch.setattr(lab, "load_mnist", lambda _: load_mnist("embedded"), raising=False)
    names, printed = {"__name__": "__main__"}, io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(page["text"], names)
    assert names["report"].settings["mode"] == ("wrap" if wrap else "background")
    found = [(row.layer, row.theory, row.observed) for row in names["report"].rows]
    assert found == [(row["name"], row["theory"], row["observed"]) for row in page["rows"]]
    assert page["rows"][0]["name"] in printed.getvalue()


# ---- rules, addresses, challenges

REFUSED = {
    "no block": ("", "there is no block called"),
    "an unknown block": ("conv.4.3.1.zeros.1,drop", "there is no block called drop"),
    "a member of every object": ("constructor", "there is no block called constructor"),
    "a billion parameters": ("conv.1000000000.3.1.zeros.1", "channels must be 1 to 32: 1000000000"),
    "many parameters": ("conv.32.3.1.zeros.1,linear.64", "at most 500,000 parameters: 1,6"),
    "much work": ("conv.32.7.1.zeros.1,conv.32.7.1.zeros.1", r"at most 10,000,000 products for an image: 40,"),
    "a kernel larger than the map": ("max.7.4,conv.1.7.1.none.1", "the window must fit into the map: 7 × 7 into 6 × 6"),
    "a word": ("conv.1.3.1.edge.1", "padding must be one of zeros, circular, reflect, none: edge"),
    "too few parameters": ("conv.1.3", "conv takes 5 parameters: 2"),
    "no number": ("conv.x.3.1.zeros.1", "channels must be 1 to 32: NaN"),
    "an even kernel of BlurPool": ("blur.4.2.circular", "BlurPool's kernel must be 3 or 5: 4"),
    "an even kernel with a stride": ("conv.1.2.2.circular.1", "padding needs a window of odd length: 2, stride 2"),
    "a sampling that does not fit": ("conv.1.2.1.none.1,aps.2", "must divide the map: 2 does not divide 27"),
    "a map after values": ("gap,conv.1.3.1.zeros.1", "convolution needs a map with positions: none are left"),
    "a skip of another shape": ("conv.2.3.1.zeros.1,relu,add.0", "the same shape: 2 × 28 × 28, 1 × 28 × 28"),
    "a skip beside another size": ("relu,max.2.2,cat.1", "as many positions: 1 × 14 × 14, 1 × 28 × 28"),
    "a skip from itself": ("relu,add.1", "a skip comes from 0, the image, or from a block up to 0: 1"),
    "a skip around nothing": ("add.0", "a skip needs a block in front of it"),
    "eleven blocks": (",".join(11 * ["relu"]), "at most 10 blocks: 11"),
    "nothing but its mean": ("norm,gap", "the mean behind an instance norm is always 0"),
    "huge maps": ("up.4,up.2", "a map may have 112 positions a side: 224"),
    "a single position": ("max.7.4,max.6.4", "at least 3 × 3 positions must be left"),
}


def test_impossible_architectures_are_refused_with_the_rule(js):
    found = js("(net) => refusal(() => chained({ net, seed: 0 }).names)", [net for net, _ in REFUSED.values()])
    for (what, (_, rule)), one in zip(REFUSED.items(), found, strict=True):
        assert re.search(rule, one["refused"]), (what, one)


def test_an_architecture_survives_its_address_and_whatever_is_hostile_is_left_out(js):
    texts = [playground.architecture(seed) for seed in range(50)]
    assert js("(net) => blocks.format(blocks.parse(net))", texts) == texts
    (first,) = js("(text) => address.parseAddress(text, 40)", [""])
    hostile = ["#net=<img src=x>&seed=1e9&dx=99&dy=--1&digit=-1&block=0&challenge=9&weights=__proto__"]
    hostile += ["#" + "&".join(f"dx={i}" for i in range(10_000)), "#=&&=%00&net", "#dx=1&dx=100"]
    for found in js("(text) => address.parseAddress(text, 40)", hostile):
        assert found == first
    states = ["net=relu&seed=7&enter=wrap&digit=3&dy=1&dx=-4&block=2&challenge=2", "weights=trained&dx=14", ""]
    again = """(text) => {
      const one = address.parseAddress(text, 40)
      return address.formatAddress(one, blocks.parse(one.net))
    }"""
    assert js(again, states) == states


JUDGED = """({ number, net, images, background }) => {
  const challenge = presets.CHALLENGES[number]
  const probe = new verdicts.Probe(new chain.Chain(blocks.parse(net ?? challenge.start), 0))
  probe.take(images[0], images[1], background)
  const steps = judging.judge(challenge.goal, probe)
  let step = steps.next()
  while (!step.done) step = steps.next()
  return { ...step.value, solution: challenge.solution }
}"""
OTHER_SOLUTIONS = [
    (0, "conv.4.5.1.circular.1,relu,gap,linear.10", True),
    (0, "conv.4.3.1.circular.1,max.2.2,gmp", True),  # the maximum of maxima is simply the maximum
    (0, "conv.4.3.1.zeros.1,relu,gmp,linear.10", False),
    (0, "conv.4.3.1.circular.1,relu", False),
    (1, "avg.2.2,gap", True),
    (1, "conv.4.3.1.circular.1,relu,blur.3.2.circular", False),
    (1, "conv.4.3.1.circular.1,relu", False),
    (2, "conv.4.3.1.zeros.1,norm", True),
    (2, "conv.4.3.2.zeros.1,norm", False),
    (2, "conv.4.3.1.circular.1,norm", False),
]


def test_challenges_begin_unsolved_and_their_solutions_solve_them(js, digits):
    given = {"images": digits.double().flatten(1).tolist(), "background": GROUND}
    begun = js(JUDGED, [given | {"number": number} for number in range(3)])
    assert [one["solved"] for one in begun] == [False, False, False]
    assert all(one["says"] for one in begun)
    nets = [(number, one["solution"], True) for number, one in enumerate(begun)] + OTHER_SOLUTIONS
    found = js(JUDGED, [given | {"number": number, "net": net} for number, net, _ in nets])
    for (number, net, solved), one in zip(nets, found, strict=True):
        assert one["solved"] == solved, (number, net, one)


def test_skips_keep_their_source_when_blocks_come_and_go_before_them(js):
    net = "conv.2.3.1.zeros.1,relu,conv.2.3.1.zeros.1,add.2"
    code = """([net, what, at]) => {
      const row = blocks.parse(net)
      const found = what === "removed" ? editing.removed(row, at) : editing.inserted(row, at, what)
      return blocks.format(found)
    }"""
    changed = {
        ("norm", 0): "norm,conv.2.3.1.zeros.1,relu,conv.2.3.1.zeros.1,add.3",
        ("norm", 2): "conv.2.3.1.zeros.1,relu,norm,conv.2.3.1.zeros.1,add.2",
        ("removed", 0): "relu,conv.2.3.1.zeros.1,add.1",
        ("removed", 1): "conv.2.3.1.zeros.1,conv.2.3.1.zeros.1,add.1",
        ("removed", 2): "conv.2.3.1.zeros.1,relu,add.2",
        ("conv", 4): f"{net},conv.4.3.1.zeros.1",
        ("add", 4): f"{net},add.3",
        ("aps", 4): f"{net},aps.2",
    }
    assert js(code, [[net, *key] for key in changed]) == list(changed.values())


def test_presets_can_be_and_two_are_the_labs_networks(js):
    code = """(_) => Object.values(presets.PRESETS).map(({ net, trained }) => {
      return [chained({ net, seed: 0 }).parameters, net, trained]
    })"""
    found = js(code, [0])
    known = {trained: (count, net) for count, net, trained in found[0] if trained}
    for name in ("given", "pooled"):
        model = lab.build_model(name, seed=0)
        blocks = ",".join(block.text for block in chain_of(model))
        assert known[name] == (sum(p.numel() for p in model.parameters()), blocks)
    assert len(found[0]) == 7


# ---- the reader's own network

READ = """([text, name]) => refusal(() => {
  const own = dropped.readNetwork(text, name)
  return { ...own, parameters: new chain.Chain(own.blocks, own.weights).parameters }
})"""


class Own(Module):
    """Functions and modules, a skip, no bias, batch norm, something for training, and class scores at the end."""

    def __init__(self):
        super().__init__()
        self.first = Conv2d(1, 4, 3, padding=1, padding_mode="circular", bias=False)
        self.drop = Dropout(0.5)
        self.second = Conv2d(4, 4, 3, padding="same")
        self.batch = BatchNorm2d(4)
        self.norm = InstanceNorm2d(4)
        self.fc = Linear(8, 10)
        for tensor in (self.batch.weight, self.batch.bias, self.batch.running_mean, self.batch.running_var):
            torch.nn.init.uniform_(tensor, 0.5, 2)

    def forward(self, x):
        x = torch.relu(self.first(x))
        x = self.batch(self.drop(self.second(x))) + x
        x = avg_pool2d(torch.cat([self.norm(x), x], 1), 2)
        return self.fc(x.amax((2, 3))).log_softmax(1)


def test_a_network_of_ones_own_computes_on_the_page_what_it_does_in_pytorch(js, digits, tmp_path):
    torch.manual_seed(0)
    model = Own().eval()
    blocks = export_chain(model, tmp_path / "network.json", name="mine")
    layers = ["first", "relu", "second, batch", "add", "norm", "cat", "avg_pool2d", "amax", "fc"]
    assert [block.layer for block in blocks] == layers
    code = """([text, name, pixels]) => {
      const own = dropped.readNetwork(text, name)
      const made = new chain.Chain(own.blocks, own.weights)
      const run = made.run()
      run.outputs[0].data.set(pixels)
      made.forward(run)
      return { name: own.name, layers: own.layers, scores: run.outputs.at(-1).data }
    }"""
    text = (tmp_path / "network.json").read_text()
    (found,) = js(code, [[text, "network.json", digits[0].flatten().double().tolist()]])
    assert (found["name"], found["layers"]) == ("mine", layers)
    with torch.no_grad():
        expected = model(digits[:1])[0]
    scores = torch.tensor(found["scores"], dtype=torch.float64).log_softmax(0)
    torch.testing.assert_close(scores, expected.double(), rtol=CLOSE, atol=CLOSE)


@pytest.mark.filterwarnings(EVEN)
def test_what_the_page_copies_can_be_exported_and_is_the_same_again(compared):
    for one in compared:
        blocks = chain_of(made(one.page["text"]))
        net = re.sub(r"(conv\.\d+\.1\.\d)\.\w+", r"\1.none", one.net)  # a kernel of 1 needs no padding
        assert ",".join(block.text for block in blocks) == net


def network(**changed):
    text = {"schema": SCHEMA, "name": "mine", "net": "conv.1.2.1.none.1", "layers": ["c"]}
    return text | {"weights": base64.b64encode(bytes(20)).decode()} | changed


BAD_FILES = {
    "no JSON": ("\x89PNG", "is not a network that lab export --model has written, or it is damaged"),
    "null": ("null", "is not a network that lab export --model has written"),
    "another format": ('{"schema": "something/1"}', "is not a network that lab export --model has written"),
    "later": (json.dumps(network(schema="equivariance-lab/network/2")), "is of a later version than this page: 2"),
    "no version": (json.dumps(network(schema="equivariance-lab/network/x")), None),
    "weights that do not fit": (json.dumps(network(net="conv.1.3.1.none.1")), "is damaged: its blocks and its weights"),
    "no base64": (json.dumps(network(weights="%")), "is damaged"),
    "weights of another type": (json.dumps(network(weights={"a": 1})), "is damaged"),
    "no number": (json.dumps(network(weights=base64.b64encode(b"\xff" * 20).decode())), "is damaged"),
    "a network that cannot be": (json.dumps(network(net="conv.999.2.1.none.1")), "is damaged"),
    "no blocks": (json.dumps(network(net=7)), "is damaged"),
}


def test_a_bad_file_is_told_in_one_sentence(js):
    found = js(READ, [[text, "cat.png"] for text, _ in BAD_FILES.values()])
    for (what, (_, said)), one in zip(BAD_FILES.items(), found, strict=True):
        if said:
            assert one["refused"].startswith(f"cat.png {said}"), (what, one)
            assert one["refused"].count(". ") == 0, what
    (good,) = js(READ, [[json.dumps(network()), "a.json"]])
    assert (good["name"], good["parameters"]) == ("mine", 5)


class Branching(Module):
    """Takes an early output where no block can."""

    def __init__(self):
        super().__init__()
        self.a, self.b = Conv2d(1, 1, 3, padding=1), Conv2d(1, 1, 3, padding=1)

    def forward(self, x):
        return self.a(x) * self.b(x)


class Skipping(Module):
    """Takes the output of a convolution with its batch norm, and without."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = Conv2d(1, 1, 3), BatchNorm2d(1)

    def forward(self, x):
        x = self.conv(x)
        return self.norm(x) + x


class Reading(Module):
    """Looks at values, so that it cannot be traced."""

    def forward(self, x):
        return x if x.sum() > 0 else -x


MISFITS = {
    "batch norm behind ReLU": (
        Sequential(Conv2d(1, 2, 3), ReLU(), BatchNorm2d(2)), r"'2' \(BatchNorm2d\) .*it must be all that stands behind"
    ),
    "batch norm beside a skip": (Skipping(), r"'norm' \(BatchNorm2d\) .*all that stands behind a convolution"),
    "batch norm alone": (Sequential(BatchNorm2d(1)), "all that stands behind a convolution"),
    "batch norm of each batch": (
        Sequential(Conv2d(1, 2, 3), BatchNorm2d(2, track_running_stats=False)), "it must have running statistics"
    ),
    "layer norm": (Sequential(LayerNorm([1, 28, 28])), r"'0' \(LayerNorm\) .*there is no such block"),
    "groups": (Sequential(Conv2d(1, 2, 3), Conv2d(2, 2, 3, groups=2)), r"'1' \(Conv2d\) .*groups must be 1: 2"),
    "a long kernel": (Sequential(Conv2d(1, 1, (3, 5))), r"kernel must be one number from 1 to 7: \(3, 5\)"),
    "other padding": (Sequential(Conv2d(1, 1, 5, padding=1)), r"padding must be 0, or keep the size: \(1, 1\)"),
    "replicated": (Sequential(Conv2d(1, 1, 3, padding=1, padding_mode="replicate")), "zeros, circular or reflect"),
    "padded pooling": (Sequential(MaxPool2d(3, 2, padding=1)), "it must have no padding, dilation or ceil_mode"),
    "bilinear": (Sequential(Upsample(scale_factor=2, mode="bilinear")), "it must be nearest, by a scale_factor"),
    "affine": (Sequential(InstanceNorm2d(1, affine=True)), "it must be plain"),
    "not flattened": (Sequential(Linear(28, 10)), "it must take all values in a row"),
    "softmax inside": (Sequential(Softmax(1), Conv2d(1, 1, 3)), "it may stand at the end alone"),
    "branches": (Branching(), r"layer 'b' \(Conv2d\) .*it takes an earlier output"),
    "choices": (Reading(), "the network is not a chain that can be traced"),
    "many blocks": (Sequential(*11 * [ReLU()]), "at most 10 blocks: 11"),
    "nothing": (Sequential(Identity()), "the network has no block that the playground knows"),
    "three channels": (Sequential(Conv2d(3, 4, 3)), "1, 1, 28, 28"),
    "a map after values": (
        Sequential(AdaptiveAvgPool2d(1), Conv2d(1, 4, 1)), r"layer '1' \(Conv2d\) .*it needs a map with positions"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", MISFITS)
def test_what_does_not_fit_is_told_by_layer(what):
    model, said = MISFITS[what]
    with pytest.raises(InputError, match=said):
        chain_of(model.eval())


def test_limits_are_the_same_in_both_languages(js):
    code = """(_) => {
      const all = Object.values(blocks.KINDS).flatMap(({ parameters }) => parameters)
      const bounds = all.map(({ label, low, high, words }) => [label, low, high, words ?? null])
      return [blocks.MOST_BLOCKS, blocks.MOST_PARAMETERS, bounds]
    }"""
    (found,) = js(code, [0])
    assert found[:2] == [MOST_BLOCKS, MOST_PARAMETERS]
    page = {}
    for label, low, high, words in found[2]:
        if not words and label in LIMITS:
            least, most = page.get(label, (low, high))
            page[label] = (min(least, low), max(most, high))
    assert page == LIMITS
