"""What to point the meter at: a network by name or from a file, its weights, and images by name or from files."""

import ast
import importlib
import os
import pickle
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from inspect import signature
from operator import attrgetter
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from lab.data import BACKGROUND, load_mnist, normalize
from lab.errors import InputError, check_finite, check_seed, require
from lab.files import data_root, expanded
from lab.models import MODELS, build_model
from lab.training import RECIPES, fit

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
ARRAYS = (".npy", ".pt", ".pth")
DEFAULT = "DEFAULT"  # the weights that a network is published with, by torchvision's word for them
SPEC = re.compile(r"(.+?\.py|[\w.-]+):([^()]+)(\(.*\))?", re.DOTALL)  # file.py:Net(1, width=8)
WRAPPED = ("state_dict", "model_state_dict", "model")  # where a checkpoint keeps its weights, if not at the top
PREFIXES = ("module.", "_orig_mod.", "model.")  # of DataParallel, torch.compile, and modules that hold the network
INTEGERS = "a network of integer weights (int8) is not measured, for rounding hides what is exact"
ORIGINAL = "pass the nn.Module that it was made from"
UNFLATTEN = f"{ORIGINAL}, or torch.export.unflatten(program)"
HIDING = {"ScriptModule": ORIGINAL, "ExportedProgram": UNFLATTEN, "_StatefulGraphModule": UNFLATTEN}  # torch.export's
Images = Float[Tensor, "n channels h w"]
Size = tuple[int, int]
Scale = tuple[Sequence[float], Sequence[float]] | None  # mean and standard deviation: one number, or one a channel


def load_model(name: str, *, seed: int, weights: str = "") -> nn.Module:
    """A network in evaluation mode; if it is new, its weights depend on the seed alone, and nothing is downloaded.

    Args:
        name: `given`, `pooled`, `torchvision:NAME`, `timm:NAME`, `path/file.py:thing` or `package.module:thing`, where
            the thing is a module, or something that returns one; all but the first two may be followed by arguments,
            `(1, width=8)`, which are literals. A file's own folder is searched for what it imports, and the current
            folder for modules.
        seed: of the weights.
        weights: a checkpoint, of safetensors or `torch.save`; it is read without running code from it. Or `DEFAULT`:
            those that torchvision or timm publish, which are downloaded; `given` and `pooled` are trained, or taken
            from the checkpoints kept.

    Raises:
        InputError: no such network or checkpoint, it cannot be made, or the two do not fit.
    """
    check_seed(seed)
    published = weights == DEFAULT
    model = build_model(name, seed=seed) if name in MODELS else _made(name, seed, published=published)
    if weights and not published:
        _load_weights(model, expanded(weights))
    elif published and name in MODELS:
        fit(model, load_mnist().train, replace(RECIPES[name], seed=seed), cache=data_root() / "checkpoints")
    return model.eval()


def _made(name: str, seed: int, *, published: bool) -> nn.Module:
    if not (parts := SPEC.fullmatch(name)):
        choice = "given, pooled, torchvision:NAME, timm:NAME, file.py:NAME or package.module:NAME"
        raise InputError(f"model must be {choice}: {name!r}")
    where, what, call = parts.groups("()")
    arguments, options = _literals(call)
    try:
        with torch.random.fork_rng(devices=[]):
            make = MAKERS.get(where, partial(_own, where))(what, published)
            torch.default_generator.manual_seed(seed)  # after the import, which may draw numbers the first time
            model = make if isinstance(make, nn.Module) and call == "()" else make(*arguments, **options)
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # somebody else's code, which may raise anything, and a script may exit
        raise InputError(f"model {name!r} cannot be made: {_in_short(error)}") from error
    if not isinstance(model, nn.Module):
        raise InputError(f"model {name!r} must be a torch.nn.Module, or return one: {type(model).__name__}")
    return model


def _in_short(error: BaseException) -> str:
    said = str(error).strip().partition("\n")[0]
    places = f"; looked in {os.getcwd()} and the installed packages" if isinstance(error, ImportError) else ""
    return f"{type(error).__name__}: {said}{places}"


def _literals(call: str) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a call such as `(1, width=8)`; nothing in it is run."""
    try:
        node = ast.parse(f"f{call}", mode="eval").body
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            raise TypeError(call)
        options = {str(one.arg): ast.literal_eval(one.value) for one in node.keywords}
        return [ast.literal_eval(one) for one in node.args], options
    except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"arguments must be literals, as in (1, width=8): {call}") from error


def _check_known(what: str, known: Sequence[str], where: str) -> None:
    """Refuse a name that is not there, and say which are like it."""
    near = ", ".join(get_close_matches(what, known))
    require(what in known, f"there is no {what!r} in {where}" + (f"; there is {near}" if near else ""))


def _of_torchvision(what: str, published: bool) -> Callable[..., object]:
    models, what = importlib.import_module("torchvision.models"), what.rpartition("/")[2]  # segmentation/fcn_resnet50
    _check_known(what, models.list_models(), "torchvision")
    require(not what.startswith("quantized_"), f"{INTEGERS}: {what}; there is {what.removeprefix('quantized_')}")
    builder = models.get_model_builder(what)
    backbone = {"weights_backbone": None} if "weights_backbone" in signature(builder).parameters else {}
    return partial(builder, weights=DEFAULT if published else None, **backbone)


def _of_timm(what: str, published: bool) -> Callable[..., object]:
    timm = importlib.import_module("timm")
    _check_known(what.partition(".")[0], timm.list_models(), "timm")  # it would look for others on its hub
    return partial(timm.create_model, what, pretrained=published)


MAKERS = {"torchvision": _of_torchvision, "timm": _of_timm}


def _own(where: str, what: str, published: bool) -> Any:
    require(not published, f"{DEFAULT} weights are those of given, pooled, torchvision and timm: {where} needs a file")
    path = expanded(where).resolve()
    file = path.suffix == ".py"
    if file:
        _check_known(path.name, [one.name for one in path.parent.glob("*.py")], str(path.parent))
    sys.path.insert(0, str(path.parent) if file else os.getcwd())  # as Python does with scripts, and with -m
    module = SimpleNamespace(**run_path(str(path))) if file else importlib.import_module(where)
    _check_known(what.partition(".")[0], dir(module), where)
    return attrgetter(what)(module)


def _load_weights(model: nn.Module, path: Path) -> None:
    own, state = model.state_dict(), _state_dict(path)
    for prefix in () if own.keys() & state.keys() else PREFIXES:
        consume_prefix_in_state_dict_if_present(state, prefix)
    try:
        model.load_state_dict(state)
    except Exception as error:  # a layer may read its part of it in its own way
        said = _misfits(own, state, str(error)) or " ".join(str(error).split())
        raise InputError(f"{path.name} does not fit the model: {said}") from error


def _misfits(own: Mapping[str, Any], state: Mapping[str, Any], said: str) -> str:
    """The first few names of each kind; an old checkpoint without counters of batches fits."""
    sizes = re.findall(r"mismatch for (.+?): .*?Size\((.*?)\).*?Size\((.*?)\)", said)
    wrong = {
        "missing": [name for name in own.keys() - state if not name.endswith("num_batches_tracked")],
        "unexpected": [*state.keys() - own.keys()],
        "of another shape": [f"{name} ({held}, not {wanted})" for name, held, wanted in sizes],
    }
    return "; ".join(f"{what}: {_few(sorted(names))}" for what, names in wrong.items() if names)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _state_dict(path: Path) -> dict[str, Any]:
    found = _read(path, load_file if path.suffix == ".safetensors" else _unpickled)
    held = [found.get(key) for key in WRAPPED] if isinstance(found, Mapping) else []
    state = next((one for one in held if isinstance(one, Mapping)), found)
    named = isinstance(state, Mapping) and {*map(type, state)} == {str}
    require(named, f"a checkpoint must hold a state_dict: {path.name} holds {type(state).__name__}")
    return dict(state)


_unpickled = partial(torch.load, map_location="cpu", weights_only=True)


def _read(path: Path, reader: Callable[[Path], Any]) -> Any:
    """What a file holds, read without running code from it."""
    require(path.is_file(), f"there is no file {path}")
    require(path.stat().st_size, f"the file {path.name} is empty")
    try:
        with warnings.catch_warnings(action="ignore"):
            return reader(path)
    except pickle.UnpicklingError as error:
        said = re.search(r"GLOBAL (\S+)", str(error))
        what = f"for reading it would run code ({said[1]})" if said else "it is damaged, or holds more than tensors"
        raise InputError(f"{path.name} is refused, {what}: save model.state_dict(), or tensors alone") from error
    except Exception as error:  # a damaged file raises whatever its reader comes upon
        raise InputError(f"{path.name} cannot be read; is it damaged? {_in_short(error)}") from error


def input_channels(model: nn.Module) -> int:
    """Of the first convolution; 3 if there is none."""
    return next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)), 3)


def fitted(images: Images, model: nn.Module) -> Images:
    """On the network's device and of its type."""
    return images.to(next((weight for weight in model.parameters() if weight.is_floating_point()), images))


def published_scale(name: str, model: nn.Module, weights: str) -> Scale:
    """Of the pixels, in [0, 1], that torchvision's or timm's published weights were trained with; None for others."""
    found = getattr(model, "pretrained_cfg", {}) if weights == DEFAULT else {}  # timm's
    if weights == DEFAULT and (parts := SPEC.fullmatch(name)) and parts[1] == "torchvision":
        kinds = importlib.import_module("torchvision.models").get_model_weights(parts[2].rpartition("/")[2])
        found = vars(kinds.DEFAULT.transforms())
    return (found["mean"], found["std"]) if "mean" in found else None


def load_images(
    source: str, n: int | None, size: Size | None, *, channels: int, seed: int, scale: Scale = None, usual: Scale = None
) -> tuple[Images, float]:
    """Images for a network, and the value of their background.

    Args:
        source: `mnist` (test digits, normalised as for training), `fractal`
            ([`fractal_images`][lab.metering.inputs.fractal_images]), a folder of pictures, also in folders of it, which
            are resized; or a file, `.npy` or `.pt`, of `n c h w` or `n h w`, whose images keep their size.
        n: how many, at most; by default 64 digits, or 8 others.
        size: height and width, by default 28 × 28 for digits, else 224 × 224; digits are put in the middle of a larger
            background.
        channels: 1 is gray, 3 is colour; gray images are repeated.
        seed: decides which digits, or which clouds.
        scale: mean and standard deviation, which pictures and files are normalised with; pixels are in [0, 1].
        usual: the same, for pixels (pictures, and files of uint8) where no scale is given. Without either, pixels get a
            mean of 0 and a standard deviation of 1 over all of them; floating-point values stay as they are.

    Raises:
        InputError: unknown source, no picture, digits that do not fit, or a file that holds no such images.
    """
    make, many, large = MADE.get(source, (None, 8, (224, 224)))
    n, (h, w) = many if n is None else n, size or large
    require(n >= 1 and min(h, w) >= 1, f"count and size must be at least 1: count {n}, size {h} {w}")
    require(make is None or scale is None, f"mean and std are for pictures and files: images are {source}")
    if make:
        return make(n, (h, w), channels, seed)
    path = expanded(source)
    images = _from_file(path, n, size, channels) if path.suffix in ARRAYS else _pictures(path, n, (h, w), channels)
    return _scaled(images, scale, usual), 0.0


def _digits(n: int, size: Size, channels: int, seed: int) -> tuple[Images, float]:
    digits = load_mnist().test.sample(n, seed=seed).images
    down, right = size[0] - digits.shape[2], size[1] - digits.shape[3]
    require(down >= 0 and right >= 0, f"digits are 28 × 28, and do not fit into {size[0]} × {size[1]}")
    framed = nn.functional.pad(digits, (right // 2, right - right // 2, down // 2, down - down // 2))
    return normalize(framed).expand(-1, channels, -1, -1).contiguous(), BACKGROUND


def _clouds(n: int, size: Size, channels: int, seed: int) -> tuple[Images, float]:
    return fractal_images(n, size, channels=channels, seed=seed), 0.0


MADE = {"mnist": (_digits, 64, (28, 28)), "fractal": (_clouds, 8, (224, 224))}  # how, and the usual number and size


def _scaled(images: Shaped[Tensor, "n channels h w"], scale: Scale, usual: Scale) -> Images:
    """Less the mean, over the standard deviation: those given, or, for pixels, the usual ones, or those of all."""
    if images.dtype == torch.uint8:
        images = images / 255
        scale = scale or usual or ([images.mean().item()], [max(images.std().item(), 1e-6)])
    if scale is None:
        return images
    sizes, mean, std = {1, images.shape[1]}, *(torch.tensor(values).reshape(-1, 1, 1) for values in scale)
    require({len(mean), len(std)} <= sizes, f"mean and std must be one number, or one for each channel: {scale}")
    require((std > 0).all(), f"std must be positive: {scale[1]}")
    return (images - mean) / std


def _pictures(folder: Path, n: int, size: Size, channels: int) -> UInt8[Tensor, "n channels h w"]:
    wanted = f"mnist, fractal, a folder of pictures or a file ({', '.join(ARRAYS)})"
    require(folder.is_dir(), f"images must be {wanted}: {str(folder)!r}")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES)[:n]
    found = f"{len(files)} in {folder}, {channels} channels"
    require(files and channels in (1, 3), f"a folder must hold pictures, for 1 or 3 channels: {found}")
    return torch.stack([_picture(path, size, channels) for path in files])


def _picture(path: Path, size: Size, channels: int) -> UInt8[Tensor, "channels h w"]:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            resized = picture.convert("RGB" if channels == 3 else "L").resize((size[1], size[0]))
    except Exception as error:  # a damaged file raises whatever its format's reader comes upon; one too large, too
        raise InputError(f"{path.name} is no picture: {error}") from error
    return torch.from_numpy(np.array(resized)).reshape(*size, channels).permute(2, 0, 1)


def _from_file(path: Path, n: int, size: Size | None, channels: int) -> Shaped[Tensor, "n channels h w"]:
    images = _stacked(_read(path, partial(_first, n)))
    images = images[:, None] if images.dim() == 3 else images
    rule = f"a file must hold images n h w, or n c h w with c = {channels}, which the model takes"
    require(images.dim() == 4 and images.shape[1] in (1, channels), f"{rule}: {tuple(images.shape[1:])}")
    own = tuple(images.shape[2:])
    require(size in (None, own), f"images of a file keep their size: {own}, not {size}")
    pixels = images.dtype == torch.uint8
    require(pixels or images.is_floating_point(), f"images must be uint8 or floating point: {images.dtype}")
    check_finite("images", images)
    return (images if pixels else images.float()).expand(-1, channels, -1, -1)


def _first(n: int, path: Path) -> Any:
    found = np.load(path, mmap_mode="r") if path.suffix == ".npy" else _unpickled(path)
    return found if isinstance(found, Mapping) else found[:n]


def as_images(images: object) -> Tensor:
    """What people hold images in, as one tensor: a tensor as it is, an array, or a list of either.

    Raises:
        InputError: it is something else, of integers, or of several sizes.
    """
    stacked = _stacked(images)
    rule = "images must be floating point, normalised as for training; divide pixels by 255"
    require(isinstance(images, Tensor) or stacked.is_floating_point(), f"{rule}: {stacked.dtype}")
    return stacked


def _stacked(images: object) -> Tensor:
    if isinstance(images, Tensor):
        return images
    if isinstance(images, np.ndarray):
        require(images.dtype.kind in "biuf", f"images must be numbers: {images.dtype}")
        return torch.from_numpy(images.astype(images.dtype.newbyteorder("="), order="C"))
    if isinstance(images, list | tuple) and all(isinstance(one, np.ndarray | Tensor) for one in images):
        parts = [_stacked(one) for one in images]
        sizes = {*map(Tensor.size, parts)}
        require(len(sizes) == 1, f"a list must hold images, all of one size: {[*map(tuple, sizes)]}")
        return torch.stack(parts)
    rule = "images must be a tensor n c h w, an array or a list of images; of a loader one batch, next(iter(loader))[0]"
    raise InputError(f"{rule}: {type(images).__name__}")


def check_model(model: object) -> nn.Module:
    """The network that is meant: of a compiled one the original, whose layers can be seen.

    Raises:
        InputError: no `nn.Module`, or one that hides its layers, has no sizes yet, or computes with integers.
    """
    kinds = [kind.__name__ for kind in type(model).__mro__]  # by name, for importing what they are of takes seconds
    if "OptimizedModule" in kinds:
        return check_model(model._orig_mod)  # type: ignore[attr-defined]  # torch.compile's
    for kind, instead in HIDING.items():
        require(kind not in kinds, f"{kind} hides its layers: {instead}")
    if not isinstance(model, nn.Module):
        raise InputError(f"model must be a torch.nn.Module, so wrap anything else in one: {kinds[0]}")
    _check_weights(model)
    return copy(model) if model._compiled_call_impl else model  # a copy of it has the same layers, and is not compiled


def _check_weights(model: nn.Module) -> None:
    lazy = [name for name, weight in model.named_parameters() if isinstance(weight, nn.UninitializedParameter)]
    require(not lazy, f"run the model once, so that its lazy layers know their sizes: {_few(lazy)}")
    integers = [name for name, weight in model.named_parameters() if weight.dtype in (torch.int8, torch.uint8)]
    integers += [name for name, module in model.named_modules() if hasattr(module, "_packed_params")]
    require(not integers, f"{INTEGERS}: {_few(integers)}")


def fractal_images(n: int, size: tuple[int, int], *, channels: int = 3, seed: int = 0) -> Images:
    """Clouds: random images whose amplitude falls with frequency f as 1/f, as that of natural images does.

    For networks that expect photographs, where none are at hand. Special weights aside, the architecture alone decides
    which layers are exact, so any image shows it. White noise would do too, but its images all look alike once they are
    averaged.

    Args:
        n: how many.
        size: height and width.
        channels: each with the same clouds, and some of its own.
        seed: of the phases.

    Returns:
        Mean about 0 and standard deviation about 1 over all images.

    Source:
        D. Field, Relations between the statistics of natural images and the response properties of cortical cells,
        JOSA A 4 (1987), doi:10.1364/JOSAA.4.002379.

    Examples:
        >>> from lab import fractal_images
        >>> fractal_images(2, (8, 12)).shape
        torch.Size([2, 3, 8, 12])
    """
    h, w = size
    noise = torch.randn(n, channels + 1, h, w, generator=torch.Generator().manual_seed(seed))
    noise = noise[:, :1] + 0.5 * noise[:, 1:]
    frequency = torch.hypot(torch.fft.fftfreq(h)[:, None], torch.fft.rfftfreq(w))
    frequency[0, 0] = 0.5 / max(h, w)  # images differ in their mean too
    images: Tensor = torch.fft.irfft2(torch.fft.rfft2(noise) / frequency, s=(h, w))
    return (images - images.mean()) / images.std()
