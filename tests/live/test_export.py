"""The exported files: whoever reads them as documented has the networks, and finds the same outputs."""

import gzip
import hashlib
import itertools
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open

import lab
from lab import cli
from lab.data import MEAN, STD
from lab.errors import InputError, OutputError
from lab.live import export
from lab.live.export import export_networks, layer_outputs
from lab.metrics import sort_positions, unrelated_distance
from lab.training import RECIPES

SEED, GOLDEN, SCALE_IMAGES = 3, 24, 200
QUICK = {name: replace(recipe, epochs=1, batch_size=25) for name, recipe in RECIPES.items()}
NETWORKS = ["given-trained", "given-untrained", "pooled-trained", "pooled-untrained"]


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "RECIPES", QUICK)
        patch.setattr(export, "SCALE_IMAGES", SCALE_IMAGES)
        yield


@pytest.fixture(scope="module")
def few():
    """Embedded digits, but only 800 to train on and 400 to test with."""
    mnist = lab.load_mnist("embedded")
    return replace(mnist, train=mnist.train.sample(800, seed=0), test=mnist.test.sample(400, seed=0))


@pytest.fixture(scope="module")
def done(few, tmp_path_factory):
    """One export, the cache of its checkpoints, and what it returned."""
    folder, cache = tmp_path_factory.mktemp("export"), tmp_path_factory.mktemp("cache")
    options = {"seed": SEED, "digits": 20, "golden": GOLDEN, "cache": cache}
    return SimpleNamespace(folder=folder, cache=cache, manifest=export_networks(folder, few, **options))


def described(done, stem):
    (network,) = (network for network in done.manifest["networks"] if network["file"] == f"{stem}.bin")
    return network


def halves(content):
    """The parameters of a `.bin` file, read as documented: first the high bytes, then the low ones."""
    high, low = np.frombuffer(content, np.uint8).reshape(2, -1).astype(np.uint16)
    return (high << 8 | low).view(np.float16)


def parameters(done, stem, dtype=torch.float32):
    """`LAYER.weight` and `LAYER.bias` of an exported network, from its file and what the manifest says of it."""
    network = described(done, stem)
    flat = torch.from_numpy(halves((done.folder / network["file"]).read_bytes()).copy()).to(dtype)
    return {
        f"{layer['name']}.{kind}": flat[at["offset"] :][: np.prod(at["shape"])].reshape(at["shape"])
        for layer in network["layers"]
        for kind in ("weight", "bias")
        if (at := layer.get(kind))
    }


def rebuilt(done, stem):
    model = lab.build_model(described(done, stem)["name"], seed=99)  # nothing may be left of these weights
    model.load_state_dict(parameters(done, stem))
    return model.eval()


def outputs_of(done, stem, x):
    """Every layer's output, in float64, from nothing but the files: what another language would compute."""
    weights, found = parameters(done, stem, torch.float64), {}
    for layer in described(done, stem)["layers"]:
        own = [weights.get(f"{layer['name']}.{kind}") for kind in ("weight", "bias")]
        if layer["kind"] == "conv2d":
            x = F.conv2d(x, *own)
        elif layer["kind"] == "linear":
            x = F.linear(x.flatten(1), *own)
        else:
            x = x.relu() if layer["kind"] == "relu" else F.max_pool2d(x, layer["kernel_size"])
        found[layer["name"]] = x
    return found


def nearest(values):
    """The slow twin of the rounding: the nearest multiple of the step between numbers of 9 bits, then of float16."""
    values = values.detach().numpy().astype(np.float64)
    magnitude = np.floor(np.log2(np.abs(values), where=values != 0, out=np.zeros_like(values)))
    step = 2.0 ** (magnitude - 8)
    return torch.from_numpy(np.rint(values / step) * step).half().float()


def trained_before_rounding(done, few, name):
    model = lab.build_model(name, seed=SEED)
    run = lab.fit(model, few.train, replace(QUICK[name], seed=SEED), cache=done.cache)
    assert run.from_cache  # the one that was exported
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_layers_of_the_given_network_return_what_its_forward_returns(digits, dtype):
    model = lab.build_model("given", seed=0).to(dtype)
    x = lab.normalize(digits.images[:8]).to(dtype)
    found = layer_outputs(model, x)
    scores, after_conv, after_fc = model(x)
    assert list(found) == ["conv1", "relu1", "fc1"]
    assert torch.equal(found["conv1"], after_conv)
    assert torch.equal(found["relu1"], after_conv.relu())
    assert not torch.equal(found["relu1"], after_conv)
    assert torch.equal(found["fc1"], after_fc)
    assert torch.equal(found["fc1"].log_softmax(1), scores)


def test_layers_of_the_pooled_network_return_what_each_computes_from_the_one_before(digits):
    model, x = lab.build_model("pooled", seed=0), lab.normalize(digits.images[:8])
    found = layer_outputs(model, x)
    assert list(found) == [name for name, _ in model.named_children()]
    scores = model(x)
    for name, layer in model.named_children():
        x = layer(x.flatten(1) if isinstance(layer, torch.nn.Linear) else x)
        assert torch.equal(found[name], x)
    assert torch.equal(found["fc2"], scores)
    assert not any(a.requires_grad for a in found.values())


def test_the_manifest_is_what_the_function_returns_and_lists_every_file_beside_itself(done):
    assert json.loads((done.folder / "manifest.json").read_text()) == done.manifest
    assert done.manifest["schema"] == "equivariance-lab/export/1"
    files = [done.manifest["digits"], *done.manifest["networks"]]
    assert {file["file"] for file in files} == {f"{stem}.bin" for stem in NETWORKS} | {"digits.bin"}
    assert {path.name for path in done.folder.iterdir()} == {
        *(file["file"] for file in files),
        *("manifest.json", "golden.safetensors"),
    }
    for file in files:
        content = (done.folder / file["file"]).read_bytes()
        assert (file["bytes"], file["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())


def test_the_manifest_says_from_what_it_was_made(done, few):
    assert done.manifest["data"] == {"name": "MNIST-10k", "sha256": few.sha256, "test_images": len(few.test)}
    assert done.manifest["seed"] == SEED
    assert done.manifest["normalisation"] == {"mean": MEAN, "std": STD}
    for stem in NETWORKS:
        network = described(done, stem)
        name, kind = stem.split("-")
        assert (network["name"], network["trained"]) == (name, kind == "trained")
        assert network["training"] == (asdict(replace(QUICK[name], seed=SEED)) if network["trained"] else None)


@pytest.mark.parametrize("stem", NETWORKS)
def test_parameters_fill_the_file_without_a_gap(done, stem):
    network = described(done, stem)
    places = [layer[kind] for layer in network["layers"] for kind in ("weight", "bias") if kind in layer]
    ends = [0, *itertools.accumulate(int(np.prod(place["shape"])) for place in places)]
    assert [place["offset"] for place in places] == ends[:-1]
    assert ends[-1] == network["parameters"] == network["bytes"] / 2
    model = lab.build_model(network["name"], seed=0)
    assert network["parameters"] == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("stem", NETWORKS)
def test_layers_are_described_as_they_are(done, few, stem):
    network = described(done, stem)
    model = lab.build_model(network["name"], seed=0)
    outputs = layer_outputs(model, few.test.images[:2])
    assert {layer["name"]: tuple(layer["shape"]) for layer in network["layers"]} == {
        name: tuple(a.shape[1:]) for name, a in outputs.items()
    }
    kinds = {"conv": "conv2d", "relu": "relu", "pool": "maxPool2d", "fc": "linear"}
    for layer in network["layers"]:
        assert layer["kind"] == kinds[layer["name"].rstrip("123")]
        assert layer["stride"] == {**model.STRIDES, "relu1": 1}.get(layer["name"])
        assert layer.get("kernel_size") == (2 if layer["kind"] == "maxPool2d" else None)
        assert ("weight" in layer) == ("bias" in layer) == (layer["kind"] in ("conv2d", "linear"))


@pytest.mark.parametrize("name", ["given", "pooled"])
def test_the_trained_file_holds_the_bits_of_the_trained_network_rounded(done, few, name):
    model = trained_before_rounding(done, few, name)
    found = parameters(done, f"{name}-trained")
    assert set(found) == set(model.state_dict())
    for key, value in model.state_dict().items():
        assert torch.equal(found[key], nearest(value)), key
    assert any(not torch.equal(found[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["given", "pooled"])
def test_the_untrained_twin_is_the_network_before_training_rounded(done, name):
    found = parameters(done, f"{name}-untrained")
    for key, value in lab.build_model(name, seed=SEED).state_dict().items():
        assert torch.equal(found[key], nearest(value)), key
        assert not torch.equal(found[key], parameters(done, f"{name}-trained")[key]), key
        assert not torch.equal(found[key], nearest(lab.build_model(name, seed=SEED + 1).state_dict()[key])), key


@pytest.mark.parametrize("name", ["given", "pooled"])
def test_rounding_changes_no_weight_by_more_than_two_to_the_minus_nine(done, few, name):
    models = trained_before_rounding(done, few, name), rebuilt(done, f"{name}-trained")
    before, after = (torch.nn.utils.parameters_to_vector(model.parameters()).detach().double() for model in models)
    error = (after - before).abs()
    # half of the last of 9 bits is 2⁻⁹ of the first; below 2⁻¹⁴ float16 has steps of 2⁻²⁴, whatever the size
    assert (error <= before.abs() * 2**-9 + (before.abs() < 2**-14) * 2**-25).all()
    large = before.abs() >= 2**-14
    assert (error / before.abs())[large].max() > 2**-10  # the control: with one bit more, none would be this large


@pytest.mark.parametrize("stem", NETWORKS)
def test_normal_numbers_leave_the_last_two_bits_of_float16_empty(done, stem):
    values = halves((done.folder / f"{stem}.bin").read_bytes())
    bits = values.view(np.uint16)[np.abs(values) >= 2**-14]
    assert len(bits) > 7_000  # nearly all
    assert not (bits & 0b11).any()
    assert (bits & 0b100).any()


def test_the_four_networks_are_small_and_larger_with_their_bytes_in_the_usual_order(done):
    contents = [(done.folder / f"{stem}.bin").read_bytes() for stem in NETWORKS]
    size = sum(len(gzip.compress(content)) for content in contents)
    assert size < 200_000  # the README's promise
    assert size < 0.95 * sum(len(gzip.compress(halves(content).tobytes())) for content in contents)


@pytest.mark.parametrize("stem", NETWORKS)
def test_the_accuracy_and_the_scales_are_those_of_the_decoded_weights(done, few, stem):
    network, model = described(done, stem), rebuilt(done, stem)
    assert network["accuracy"] == lab.evaluate(model, few.test).accuracy
    outputs = layer_outputs(model, lab.normalize(few.test.sample(SCALE_IMAGES, seed=SEED).images))
    for layer in network["layers"]:
        a = outputs[layer["name"]]
        assert layer["unrelated_distance"] == unrelated_distance(a).item() > 0
        assert layer["unrelated_sorted_distance"] == unrelated_distance(sort_positions(a)).item()
        if len(layer["shape"]) == 1:  # nothing to sort
            assert layer["unrelated_sorted_distance"] == layer["unrelated_distance"]
        else:  # a digit of another shape, but with much the same values
            assert layer["unrelated_sorted_distance"] < layer["unrelated_distance"]


@pytest.mark.parametrize("name", ["given", "pooled"])
def test_only_the_trained_network_knows_digits(done, name):
    trained, untrained = (described(done, f"{name}-{kind}")["accuracy"] for kind in ("trained", "untrained"))
    assert trained > 0.6  # 32 steps; guessing is 0.1
    assert untrained < 0.3


def test_digits_are_the_first_test_images_of_each_class_in_their_order(done, few):
    said = done.manifest["digits"]
    assert said["labels"] == [label for label in range(10) for _ in range(2)]
    assert few.test.labels[said["indices"]].tolist() == said["labels"]
    for label in range(10):
        first, second = said["indices"][2 * label : 2 * label + 2]
        assert [i for i in range(second + 1) if few.test.labels[i] == label] == [first, second]
    pixels = np.frombuffer((done.folder / "digits.bin").read_bytes(), np.uint8)
    images = torch.from_numpy(pixels.copy()).reshape(20, 1, said["height"], said["width"])
    assert torch.equal(images.float() / 255, few.test.images[said["indices"]])


def golden(done):
    with safe_open(done.folder / "golden.safetensors", "pt") as file:
        keys = file.keys()
        return json.loads(file.metadata()["cases"]), {key: file.get_tensor(key) for key in keys}


def shifted(done, case):
    """The case's input, in float32 as `lab.normalize` computes it; shifted by other code than the lab's."""
    pixels = np.frombuffer((done.folder / "digits.bin").read_bytes(), np.uint8).reshape(-1, 28, 28)
    image, (dy, dx) = pixels[case["digit"]], (case["dy"], case["dx"])
    moved = np.roll(image, (dy, dx), (0, 1))
    if case["mode"] == "background":
        y, x = np.mgrid[:28, :28]
        moved = np.where((y >= dy) & (y < 28 + dy) & (x >= dx) & (x < 28 + dx), moved, 0)
    x = (moved.astype(np.float32) / np.float32(255) - np.float32(MEAN)) / np.float32(STD)
    return torch.from_numpy(x)[None, None].double()


def test_golden_cases_are_of_both_modes_many_shifts_and_many_digits(done):
    cases, tensors = golden(done)
    assert len(cases) == GOLDEN
    assert {case["mode"] for case in cases} == {"background", "wrap"}
    for mode in ("background", "wrap"):
        shifts = {(case["dy"], case["dx"]) for case in cases if case["mode"] == mode}
        assert (0, 0) in shifts
        assert len(shifts) == 8
    assert {case["digit"] for case in cases} == set(range(20))
    layers = {stem: [layer["name"] for layer in described(done, stem)["layers"]] for stem in NETWORKS}
    assert set(tensors) == {f"{n}/{stem}/{layer}" for n in range(GOLDEN) for stem in NETWORKS for layer in layers[stem]}


@pytest.mark.parametrize("stem", NETWORKS)
def test_golden_activations_are_those_of_a_network_rebuilt_from_the_files(done, stem):
    cases, tensors = golden(done)
    for number, case in enumerate(cases):
        for layer, a in outputs_of(done, stem, shifted(done, case)).items():
            kept = tensors[f"{number}/{stem}/{layer}"]
            assert kept.dtype == torch.float32
            # kept as float32: half of its last bit, 2⁻²⁴; sums of 800 terms below 100 in float64: √800 · 100 · 2⁻⁵³
            torch.testing.assert_close(kept.double(), a[0], rtol=2**-24, atol=1e-12)


def test_golden_activations_tell_digit_mode_and_network_apart(done):
    cases, tensors = golden(done)
    (number,) = (n for n, case in enumerate(cases) if (case["dy"], case["mode"]) == (-14, "background"))
    wrong = {
        "digit": outputs_of(done, "pooled-trained", shifted(done, cases[number] | {"digit": 0}))["fc2"],
        "mode": outputs_of(done, "pooled-trained", shifted(done, cases[number] | {"mode": "wrap"}))["fc2"],
        "shift": outputs_of(done, "pooled-trained", shifted(done, cases[number] | {"dx": 13}))["fc2"],
        "network": outputs_of(done, "pooled-untrained", shifted(done, cases[number]))["fc2"],
    }
    for what, a in wrong.items():
        assert (a[0] - tensors[f"{number}/pooled-trained/fc2"]).abs().max() > 0.01, what


def test_a_second_export_trained_anew_writes_the_same_bytes(done, few, tmp_path):
    assert export_networks(tmp_path, few, seed=SEED, digits=20, golden=GOLDEN) == done.manifest
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {
        p.name: p.read_bytes() for p in done.folder.iterdir()
    }


def test_without_golden_cases_there_is_no_such_file_and_the_rest_is_the_same(done, few, tmp_path):
    export_networks(tmp_path / "new" / "folder", few, seed=SEED, digits=20, cache=done.cache)
    found = {p.name: p.read_bytes() for p in (tmp_path / "new" / "folder").iterdir()}
    assert found == {p.name: p.read_bytes() for p in done.folder.iterdir() if p.suffix != ".safetensors"}


def test_every_file_can_be_read_by_whoever_can_read_the_manifest(done):
    assert len({path.stat().st_mode for path in done.folder.iterdir()}) == 1


BAD = {
    "no digits": ({"digits": 0}, "digits must be a multiple of 10, as many of each class: 0"),
    "digits below zero": ({"digits": -10}, "digits must be a multiple of 10, as many of each class: -10"),
    "digits no multiple": ({"digits": 15}, "digits must be a multiple of 10, as many of each class: 15"),
    "too many digits": (
        {"digits": 100_000},
        r"digits needs 10000 test images of each class: there are \d+ of 0, ",
    ),
    "golden below zero": ({"golden": -1}, "golden must not be negative: -1"),
    "seed below zero": ({"seed": -1}, r"seed must be at least 0 and below 2 \*\* 63: -1"),
    "enormous seed": ({"seed": 2**64}, r"seed must be at least 0 and below 2 \*\* 63: 18446744073709551616"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_error_and_leaves_no_file(case, few, tmp_path):
    changed, said = BAD[case]
    with pytest.raises(InputError, match=said) as raised:
        export_networks(tmp_path / "out", few, **changed)
    assert "\n" not in str(raised.value)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("full", ["digits.bin", "pooled-trained.bin", "golden.safetensors", "manifest.json"])
def test_a_full_disk_is_one_clear_error_and_keeps_the_old_files(full, done, few, tmp_path, monkeypatch):
    (tmp_path / "manifest.json").write_text("old")
    real = Path.write_bytes

    def write(path, content):
        if path.name == full:
            raise OSError(28, "No space left on device")
        return real(path, content)

    monkeypatch.setattr(Path, "write_bytes", write)
    monkeypatch.setattr(Path, "write_text", lambda path, text, **_: write(path, text.encode()))
    with pytest.raises(OutputError, match=f"cannot be written to {tmp_path}: No space left on device"):
        export_networks(tmp_path, few, seed=SEED, digits=20, golden=1, cache=done.cache)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"manifest.json": "old"}


@pytest.fixture
def command(unchecked, monkeypatch, tmp_path, capsys):
    """Runs `lab export` in this process, in a folder of its own: exit code, output, errors."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["lab", "export", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as ended:
            code = ended.code
        return SimpleNamespace(code=code, **capsys.readouterr()._asdict())

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAB_DATA", str(tmp_path / "data"))
    return run


def test_the_command_writes_the_files_and_says_how_good_the_networks_are(command, few, monkeypatch):
    monkeypatch.setattr("lab.data.load_mnist", {"embedded": few}.get)
    done = command("--data", "embedded", "--digits", 10, "--golden", 2)
    assert (done.code, done.err) == (0, "")
    assert {path.name for path in Path("lab-export").iterdir()} == {
        *(f"{stem}.bin" for stem in NETWORKS),
        *("digits.bin", "golden.safetensors", "manifest.json"),
    }
    networks = json.loads(Path("lab-export/manifest.json").read_text())["networks"]
    expected = [f"{n['accuracy']:.1%} of MNIST-10k's test digits right" for n in networks]
    *lines, last = done.out.splitlines()
    assert [line.partition(": ")[2] for line in lines] == expected
    assert lines[1].startswith("given, untrained: ")
    assert last == "Files: lab-export"


USAGE = {
    "no digits": (["--digits", 0], 2, "digits must be a multiple of 10, as many of each class: 0"),
    "digits no multiple": (["--digits", 15], 2, "digits must be a multiple of 10, as many of each class: 15"),
    "too many digits": (["--digits", 100_000], 2, "digits needs 10000 test images of each class: there are 206 of 0"),
    "golden below zero": (["--golden", -1], 2, "golden must not be negative: -1"),
    "unknown data": (["--data", "cifar"], 2, "source must be one of auto, full, embedded: 'cifar'"),
    "enormous seed": (["--seed", 2**64], 2, "seed must be at least 0 and below 2 ** 63: 18446744073709551616"),
    "digits no number": (["--digits", "many"], 2, "Invalid value for '--digits'"),
    "out is a file": (["--out", "file"], 1, "cannot be written to file: File exists"),
    "out cannot be made": (["--out", "/proc/files"], 1, "cannot be written to /proc/files"),
    "no such data": (["--data", "full"], 1, "the full MNIST set is not in"),
}


@pytest.mark.parametrize("case", USAGE)
def test_what_the_command_cannot_do_is_one_line_and_an_exit_code(case, command, tmp_path):
    (tmp_path / "file").write_text("mine")
    arguments, code, said = USAGE[case]
    done = command("--data", "embedded", *arguments)
    assert (done.code, done.out) == (code, ""), done.err
    assert done.err.startswith("error: ")
    assert said in done.err
    assert done.err.count("\n") == 1
    assert [(p.name, p.read_text()) for p in tmp_path.rglob("*") if p.is_file()] == [("file", "mine")]
