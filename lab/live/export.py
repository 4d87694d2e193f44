"""The trained networks as files that a page can load: weights, digits, and the outputs of every layer for some of them.

`manifest.json` describes the networks as exported, with rounded weights: their accuracy, the scales of their errors and
the golden activations are all measured after rounding.
"""

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import cycle, islice, product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Float, Int64
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from lab.data import MEAN, STD, Mnist, Split, normalize
from lab.errors import InputError
from lab.files import output_errors, staged_output
from lab.metrics import sort_positions, unrelated_distance
from lab.models import MODELS, LabModel, PooledCNN, build_model
from lab.observing import activations, evaluate
from lab.shifting import Mode, shift
from lab.training import RECIPES, TrainConfig, fit

CLASSES = 10
Network = LabModel | PooledCNN
SIGNIFICANT_BITS = 9  # of 11 that float16 has: the other two cost 28 KB, and accuracy does not notice
SCALE_IMAGES = 1_000  # test images between which the mean distance of unrelated ones is taken
KINDS = {nn.Conv2d: "conv2d", nn.ReLU: "relu", nn.MaxPool2d: "maxPool2d", nn.Linear: "linear"}
GOLDEN_SHIFTS = [(0, 0), (0, 1), (-1, 0), (2, -2), (3, 5), (-4, 4), (8, -12), (-14, 14)]


@dataclass(frozen=True)
class Exported:
    """A network as exported, its weights rounded, and its recipe if it was trained."""

    name: str
    training: TrainConfig | None
    model: Network

    @property
    def stem(self) -> str:
        """What its files are called."""
        return f"{self.name}-{'trained' if self.training else 'untrained'}"


def export_networks(
    folder: Path, mnist: Mnist, *, seed: int = 0, digits: int = 40, golden: int = 0, cache: Path | None = None
) -> dict[str, Any]:
    """Train the given network and `PooledCNN`, and write both, and an untrained twin of each, into a folder.

    All files are written, or none. `NETWORK` is `given` or `pooled`, everything is in row-major order, and each `.bin`
    file has its name (`file`), length (`bytes`) and `sha256` in the manifest.

    `NETWORK-trained.bin` and `NETWORK-untrained.bin`
    :   All parameters as float16, of which no more than 9 significant bits are used: first the high byte of each, in
        order, then the low byte of each. So they compress better.

    `digits.bin`
    :   A byte for each pixel, `n height width`, 0 = background. A network's input is `(byte / 255 - mean) / std`, in
        float32.

    `manifest.json`
    :   - `schema`: what this text describes, by name and number.
        - `data`: the `name` of the data set, the `sha256` of its pixels and labels, and how many `test_images` it has.
        - `seed`: the argument.
        - `normalisation`: the `mean` and `std` of the input.
        - `digits`: the file, `height` and `width` in pixels, and for each digit its place among the test images
          (`indices`) and its class (`labels`).
        - `networks`, each with `name`, whether it is `trained`, its number of `parameters`, the `accuracy` on all test
          images (0 to 1), `training` (the recipe; null if untrained), the file, and its `layers` in order.

    Each of the `layers`
    :   - `name`; `kind`: `conv2d` (stride 1, no padding), `relu`, `maxPool2d` (square windows of `kernel_size`, side by
          side) or `linear`, which takes its input flattened.
        - `shape`: of its output for one image, `c h w` or `c`; `stride`: how many input pixels lie between two of its
          positions, null where it has none.
        - `weight` and `bias`, where it has them: the `shape`, as PyTorch has it, and the `offset` of the first number
          among the network's parameters (in numbers, not bytes).
        - `unrelated_distance`: the mean distance of its outputs for unrelated test images, which an invariance error
          calls 1; `unrelated_sorted_distance`: the same of outputs sorted within each channel. 0 = the output is the
          same for every image.

    `golden.safetensors`, if asked for
    :   Every layer's output, without a batch dimension, as `CASE/NETWORK-trained/LAYER` and
        `CASE/NETWORK-untrained/LAYER`: computed in float64, kept as float32. `CASE` counts from 0 through `cases`,
        JSON in the file's metadata: the number of the `digit`, which is shifted by `dy, dx` in `mode` (see
        [`shift`][lab.shifting.shift]) before it is normalised.

    Args:
        folder: of the files; made if it is not there. Files of these names in it are replaced, others stay.
        mnist: what to train on; the digits are the first of each class among its test images, in their order.
        seed: of the weights, of the order of the training images, and of the unrelated test images.
        digits: how many; a multiple of 10, as many of each class, class by class.
        golden: how many cases of digit, shift and mode get golden activations; 0 writes no such file, and leaves one
            that is there.
        cache: folder of checkpoints; see [`fit`][lab.training.fit].

    Returns:
        What `manifest.json` says.

    Raises:
        InputError: a number of digits that is not a multiple of 10 or too large, a negative number of cases, a seed
            below 0 or from 2 ** 63 on.
        OutputError: the folder does not take the files.
    """
    index = _first_of_each_class(mnist.test.labels, digits)
    chosen = Split(mnist.test.images[index], mnist.test.labels[index])
    if golden < 0:
        raise InputError(f"golden must not be negative: {golden}")
    with staged_output(folder) as stage:
        networks = [network for name in MODELS for network in _networks(name, mnist.train, seed, cache)]
        pixels = (chosen.images * 255).round().to(torch.uint8)
        size = {"height": pixels.shape[-2], "width": pixels.shape[-1]}
        which = {"indices": index.tolist(), "labels": chosen.labels.tolist()}
        manifest = {
            "schema": "equivariance-lab/export/1",
            "data": {"name": mnist.name, "sha256": mnist.sha256, "test_images": len(mnist.test)},
            "seed": seed,
            "normalisation": {"mean": MEAN, "std": STD},
            "digits": _write(stage / "digits.bin", pixels.numpy().tobytes()) | size | which,
            "networks": [_write_network(stage, network, mnist.test, seed) for network in networks],
        }
        if golden:
            _write(stage / "golden.safetensors", _golden(networks, chosen.images, golden))
        _write(stage / "manifest.json", (json.dumps(manifest, indent=1) + "\n").encode())
    return manifest


def _networks(name: str, train: Split, seed: int, cache: Path | None) -> list[Exported]:
    """One network, trained, and its untrained twin; both rounded."""
    recipe = replace(RECIPES[name], seed=seed)
    trained, untrained = build_model(name, seed=seed), build_model(name, seed=seed)
    fit(trained, train, recipe, cache=cache)
    return [Exported(name, recipe, _rounded(trained)), Exported(name, None, _rounded(untrained))]


def layer_outputs(model: Network, x: Float[Tensor, "n 1 28 28"]) -> dict[str, Float[Tensor, "n ..."]]:
    """The output of each layer, in order, ReLU included, which the given network calls as a function: there `relu1`.

    Args:
        model: of any floating type.
        x: normalised images, of that type.
    """
    found = dict(activations(model, x, batch_size=len(x)))
    if isinstance(model, LabModel):
        return {"conv1": found["conv1"], "relu1": found["conv1"].relu(), "fc1": found["fc1"]}
    return found


def _rounded(model: Network) -> Network:
    """The network itself, its weights rounded to `SIGNIFICANT_BITS`, so that float16 holds them."""
    for parameter in model.parameters():
        mantissa, exponent = parameter.data.frexp()
        rounded = (mantissa * 2**SIGNIFICANT_BITS).round() / 2**SIGNIFICANT_BITS
        parameter.data = torch.ldexp(rounded, exponent).half().float()
    return model.eval()


def _first_of_each_class(labels: Int64[Tensor, " n"], digits: int) -> Int64[Tensor, " digits"]:
    """Where the chosen images are: the first of each class, by class, then in their order."""
    if digits < CLASSES or digits % CLASSES:
        raise InputError(f"digits must be a multiple of {CLASSES}, as many of each class: {digits}")
    each = digits // CLASSES
    by_class = [(labels == label).nonzero()[:each, 0] for label in range(CLASSES)]
    if short := [f"{len(index)} of {label}" for label, index in enumerate(by_class) if len(index) < each]:
        raise InputError(f"digits needs {each} test images of each class: there are {', '.join(short)}")
    return torch.cat(by_class)


def _write(path: Path, content: bytes) -> dict[str, Any]:
    with output_errors(path.parent.parent):  # the folder that is staged
        path.write_bytes(content)
    return {"file": path.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _write_network(stage: Path, network: Exported, test: Split, seed: int) -> dict[str, Any]:
    """Write the parameters; what the manifest says of the network."""
    few = normalize(test.sample(SCALE_IMAGES, seed=seed).images)
    values = parameters_to_vector(network.model.parameters()).detach().numpy()
    halves = values.astype("<f2").view(np.uint8).reshape(-1, 2)
    described = {
        "name": network.name,
        "trained": network.training is not None,
        "parameters": len(values),
        "accuracy": evaluate(network.model, test).accuracy,
        "layers": _layers(network.model, layer_outputs(network.model, few)),
        "training": asdict(network.training) if network.training else None,
    }
    return described | _write(stage / f"{network.stem}.bin", halves[:, ::-1].T.tobytes())


def _layers(model: Network, outputs: dict[str, Tensor]) -> list[dict[str, Any]]:
    """What the manifest says of each layer."""
    modules = {"relu1": nn.ReLU()} | dict(model.named_children())  # the given network has no module of that name
    layers, offset, stride = [], 0, 1
    for name, output in outputs.items():
        module = modules[name]
        stride = model.STRIDES.get(name, stride)  # a ReLU keeps what was there
        layer: dict[str, Any] = {"name": name, "kind": KINDS[type(module)], "shape": list(output.shape[1:])}
        layer["stride"] = stride if output.dim() == 4 else None
        layer["unrelated_distance"] = unrelated_distance(output).item()
        layer["unrelated_sorted_distance"] = unrelated_distance(sort_positions(output)).item()
        if isinstance(module, nn.MaxPool2d):
            layer["kernel_size"] = module.kernel_size
        for kind, parameter in module.named_parameters():
            layer[kind] = {"shape": list(parameter.shape), "offset": offset}
            offset += parameter.numel()
        layers.append(layer)
    return layers


def _golden(networks: Sequence[Exported], images: Tensor, count: int) -> bytes:
    """Every layer's activations of every network for `count` cases of digit, shift and mode, and the list of those."""
    shifts = list(islice(cycle(product(GOLDEN_SHIFTS, get_args(Mode))), count))
    chosen = [number * len(images) // count for number in range(count)]
    cases = [{"digit": i, "dy": dy, "dx": dx, "mode": mode} for i, ((dy, dx), mode) in zip(chosen, shifts, strict=True)]
    shifted = [shift(images[case["digit"]], case["dy"], case["dx"], mode=case["mode"]) for case in cases]
    x = normalize(torch.stack(shifted)).double()
    tensors = {
        f"{number}/{network.stem}/{layer}": output.float().contiguous()
        for network in networks
        for layer, outputs in layer_outputs(copy.deepcopy(network.model).double(), x).items()
        for number, output in enumerate(outputs)
    }
    content: bytes = save(tensors, {"cases": json.dumps(cases)})
    return content
