"""Networks and images from the words of a command line."""

import os
import pickle
import struct
import sys
import warnings
import zlib
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lab
from lab.data import BACKGROUND
from lab.errors import InputError
from lab.metering import inputs as loading

MODULE = """
from torch import nn

def make(): return nn.Sequential(nn.Conv2d(2, 4, 3), nn.Dropout())
ready = nn.Conv2d(1, 1, 2)
def fails(): raise RuntimeError("no weights here\\nand a second line")
def wrong(): return 7
def leaves(): raise SystemExit(3)

class Wide(nn.Sequential):
    def __init__(self, channels=1, *, width=4):
        super().__init__(nn.Conv2d(channels, width, 3), nn.BatchNorm2d(width))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A current folder with a module of the user's own."""
    (tmp_path / "lab_test_networks.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "lab_test_networks", raising=False)
    return tmp_path


def test_a_networks_weights_depend_on_the_seed_alone(folder):
    def weight(name, seed):
        torch.rand(3)
        return next(loading.load_model(name, seed=seed).parameters())

    for name in ("given", "pooled", "torchvision:squeezenet1_1", "lab_test_networks:make", "lab_test_networks.py:Wide"):
        assert torch.equal(weight(name, 0), weight(name, 0)), name
        assert not torch.equal(weight(name, 0), weight(name, 1)), name


def test_making_a_network_draws_no_random_number(folder):
    before = torch.random.get_rng_state()
    loading.load_model("lab_test_networks:make", seed=3)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("name", ["make", "ready"], ids=["a callable", "a module"])
def test_a_network_of_the_users_own_comes_in_evaluation_mode(folder, name):
    model = loading.load_model(f"lab_test_networks:{name}", seed=0)
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet18", "model must be .*, torchvision:NAME, timm:NAME, file.py:NAME or package.module:NAME: 'resnet18'"),
        ("torchvision:", "model must be given, pooled"),
        ("torchvision:resnet81", "there is no 'resnet81' in torchvision; there is resnet18"),
        (
            "torchvision:quantized_resnet18",
            r"integer weights \(int8\) is not measured.*: quantized_resnet18; there is resnet",
        ),
        ("timm:resnet81", "there is no 'resnet81' in timm; there is resnet18"),
        ("timm:hf-hub:someone/net", "there is no 'hf-hub:someone/net' in timm"),
        (
            "no_such_package:make",
            "ModuleNotFoundError: No module named 'no_such_package'; looked in /.* and the installed",
        ),
        ("lab_test_networks:nothing", "there is no 'nothing' in lab_test_networks$"),
        ("lab_test_networks:mak", "there is no 'mak' in lab_test_networks; there is make"),
        ("lab_test_network.py:make", "there is no 'lab_test_network.py' in /.*; there is lab_test_networks.py"),
        ("nowhere/net.py:Net", "there is no 'net.py' in /.*nowhere$"),
        ("lab_test_networks.py:Wide(open('x'))", r"arguments must be literals, as in \(1, width=8\): \(open\('x'\)\)"),
        ("lab_test_networks.py:Wide(1)(2)", r"arguments must be literals.*: \(1\)\(2\)"),
        ("lab_test_networks.py:Wide(1, width=)", "arguments must be literals"),
        ("lab_test_networks.py:Wide(1", "model must be given"),
        ("lab_test_networks.py:Wide(1, depth=3)", "cannot be made: TypeError: .*unexpected keyword argument 'depth'"),
        ("lab_test_networks:ready(1)", "cannot be made: TypeError"),
        ("lab_test_networks:leaves", "cannot be made: SystemExit: 3"),
        ("lab_test_networks:fails", "cannot be made: RuntimeError: no weights here$"),
        ("lab_test_networks:wrong", "must be a torch.nn.Module, or return one: int"),
    ],
)
def test_what_is_no_network_is_said_in_one_line(folder, name, said):
    with pytest.raises(InputError, match=said):
        loading.load_model(name, seed=0)


def test_arguments_are_those_of_the_call(folder):
    name = "lab_test_networks.py:Wide(2, width=3)"
    assert loading.load_model(name, seed=0)[0].weight.shape == (3, 2, 3, 3)
    assert loading.load_model("torchvision:squeezenet1_1(num_classes=5)", seed=0).num_classes == 5


def test_what_a_file_imports_is_looked_for_beside_it(folder, tmp_path, monkeypatch):
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "beside_it.py").write_text("width = 6\n")
    (inside / "my-net.py").write_text(
        "from beside_it import width\nfrom torch import nn\nnet = nn.Conv2d(1, width, 3)\n"
    )
    assert loading.load_model("inside/my-net.py:net", seed=0).out_channels == 6
    monkeypatch.delitem(sys.modules, "beside_it")


@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "segmentation/lraspp_mobilenet_v3_large"])
def test_without_weights_not_even_a_backbone_is_downloaded(name, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("a download")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    loading.load_model(f"torchvision:{name}", seed=0)
    with pytest.raises(InputError, match="cannot be made: AssertionError: a download"):
        loading.load_model(f"torchvision:{name}", seed=0, weights="DEFAULT")


def test_timm_makes_its_networks_untrained_and_is_asked_for_trained_ones(monkeypatch):
    import timm

    asked = []
    monkeypatch.setattr(
        timm, "create_model", lambda name, *, pretrained: asked.append((name, pretrained)) or nn.Linear(1, 1)
    )
    loading.load_model("timm:resnet18.a1_in1k", seed=0)
    loading.load_model("timm:resnet18", seed=0, weights="DEFAULT")
    assert asked == [("resnet18.a1_in1k", False), ("resnet18", True)]


def test_without_timm_a_line_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match="cannot be made: ModuleNotFoundError: import of timm halted"):
        loading.load_model("timm:resnet18", seed=0)


def test_published_weights_come_with_the_scale_of_their_pixels(tmp_path, monkeypatch):
    """The file lies where torchvision keeps what it has downloaded, so that it asks no network."""
    from torchvision.models import SqueezeNet1_1_Weights, squeezenet1_1

    published, weights = squeezenet1_1(weights=None), SqueezeNet1_1_Weights.DEFAULT
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(published.state_dict(), tmp_path / "hub" / "checkpoints" / weights.url.rpartition("/")[2])
    model = loading.load_model("torchvision:squeezenet1_1", seed=7, weights="DEFAULT")
    assert torch.equal(model.features[0].weight, published.features[0].weight)
    assert loading.published_scale("torchvision:squeezenet1_1", model, "DEFAULT") == (
        [0.485, 0.456, 0.406],
        [0.229, 0.224, 0.225],
    )
    assert loading.published_scale("torchvision:squeezenet1_1", model, "") is None
    model.pretrained_cfg = {"mean": (0.5,), "std": (0.25,)}
    assert loading.published_scale("timm:any", model, "DEFAULT") == ((0.5,), (0.25,))
    assert loading.published_scale("given", nn.Linear(1, 1), "DEFAULT") is None


def test_the_exercises_networks_are_trained_by_the_usual_recipe_or_taken_from_where_those_are_kept(monkeypatch):
    asked = []
    monkeypatch.setattr(loading, "load_mnist", lambda: lab.load_mnist("embedded"))
    monkeypatch.setattr(loading, "fit", lambda *given, cache: asked.append((*given, cache)))
    model = loading.load_model("pooled", seed=3, weights="DEFAULT")
    ((trained, split, recipe, cache),) = asked
    assert trained is model
    assert len(split) == 8000
    assert recipe == replace(lab.RECIPES["pooled"], seed=3)
    assert cache == lab.data_root() / "checkpoints"


def test_own_networks_have_no_published_weights(folder):
    said = "DEFAULT weights are those of given, pooled, torchvision and timm: lab_test_networks needs a file"
    with pytest.raises(InputError, match=said):
        loading.load_model("lab_test_networks:make", seed=0, weights="DEFAULT")


WIDE = "lab_test_networks.py:Wide"
HELD = {
    "a state_dict": lambda state: state,
    "beside the epoch": lambda state: {"epoch": 3, "state_dict": state},
    "as model": lambda state: {"model": state, "optimizer": {"lr": 0.1}},
    "as model_state_dict": lambda state: {"model_state_dict": state},
    "of DataParallel": lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}},
    "of torch.compile": lambda state: {f"_orig_mod.{name}": value for name, value in state.items()},
    "without counters of batches": lambda state: {name: v for name, v in state.items() if "num_batches" not in name},
}


@pytest.mark.parametrize("held", HELD)
def test_a_checkpoint_fills_the_network_wherever_it_keeps_its_weights(held, folder):
    state = loading.load_model(WIDE, seed=5).state_dict()
    torch.save(HELD[held](state), "net.pt")
    found = loading.load_model(WIDE, seed=0, weights="net.pt").state_dict()
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_a_checkpoint_of_safetensors_fills_the_network(folder):
    state = loading.load_model(WIDE, seed=5).state_dict()
    save_file(state, "net.safetensors")
    found = loading.load_model(WIDE, seed=0, weights="net.safetensors").state_dict()
    assert all(torch.equal(found[name], state[name]) for name in state)
    assert not torch.equal(state["0.weight"], loading.load_model(WIDE, seed=0)[0].weight)


class Writes:
    """Pickled, it is the order to make a folder."""

    def __reduce__(self):
        return os.mkdir, ("code-has-run",)


def test_a_pickled_file_that_wants_to_run_code_is_refused_and_runs_none(folder):
    torch.save({"state_dict": Writes()}, "evil.pt")
    for load in (
        lambda: loading.load_model(WIDE, seed=0, weights="evil.pt"),
        lambda: loading.load_images("evil.pt", 2, None, channels=1, seed=0),
    ):
        with pytest.raises(
            InputError, match=r"evil\.pt is refused, for reading it would run code \(\w+\.mkdir\): save"
        ):
            load()
    assert not os.path.exists("code-has-run")
    torch.load("evil.pt", weights_only=False)
    assert os.path.exists("code-has-run"), "the file is harmless, and the test shows nothing"


UNFIT = {
    "nowhere.pt": (None, "there is no file nowhere.pt"),
    "empty.pt": (b"", r"the file empty\.pt is empty"),
    "text.pt": (b"hello world, no weights", r"text\.pt cannot be read; is it damaged\? "),
    "cut.safetensors": (b"\x08\x00", r"cut\.safetensors cannot be read; is it damaged\? SafetensorError"),
    "raw.pkl": (pickle.dumps({1: Path}), r"raw\.pkl is refused, .*: save model\.state_dict\(\)"),
    "module.pt": (nn.Conv2d(1, 1, 1), r"run code \(torch\.nn\.modules\.conv\.Conv2d\): save model\.state_dict\(\)"),
    "list.pt": ([1, 2], r"a checkpoint must hold a state_dict: list\.pt holds list"),
    "numbers.pt": ({1: torch.ones(1)}, r"a checkpoint must hold a state_dict: numbers\.pt holds dict"),
    "words.pt": (
        {
            **dict.fromkeys(("0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"), torch.ones(4)),
            "0.weight": 1,
        },
        r"words\.pt does not fit the model: Error\(s\) in loading .*0\.weight.* received <class 'int'>",
    ),
    "other.pt": (
        {f"layer{i}.weight": torch.ones(1) for i in range(5)},
        r"other\.pt does not fit the model: missing: 0\.bias, 0\.weight, 1\.bias and 3 more; "
        r"unexpected: layer0\.weight, layer1\.weight, layer2\.weight and 2 more$",
    ),
    "wide.pt": (
        {"0.weight": torch.ones(8, 1, 3, 3), **dict.fromkeys(("1.bias", "1.weight"), torch.ones(4))},
        r"missing: 0\.bias, 1\.running_mean, 1\.running_var; "
        r"of another shape: 0\.weight \(\[8, 1, 3, 3\], not \[4, 1, 3, 3\]\)$",
    ),
}


@pytest.mark.parametrize("name", UNFIT)
def test_a_checkpoint_that_does_not_fit_is_one_line_that_says_why(name, folder):
    held, said = UNFIT[name]
    if isinstance(held, bytes):
        Path(name).write_bytes(held)
    elif held is not None:
        torch.save(held, name)
    with pytest.raises(InputError, match=said) as raised:
        loading.load_model(WIDE, seed=0, weights=name)
    assert "\n" not in str(raised.value)


def test_channels_are_those_of_the_first_convolution_or_three():
    assert loading.input_channels(nn.Sequential(nn.Conv2d(2, 5, 1), nn.Conv2d(5, 1, 1))) == 2
    assert loading.input_channels(nn.Linear(4, 4)) == 3


@pytest.fixture
def _embedded(monkeypatch):
    monkeypatch.setattr(loading, "load_mnist", lambda: lab.load_mnist("embedded"))


@pytest.mark.usefixtures("_embedded")
def test_digits_stand_in_the_middle_of_a_larger_background():
    images, background = loading.load_images("mnist", 5, (40, 31), channels=3, seed=0)
    plain, _ = loading.load_images("mnist", 5, (28, 28), channels=1, seed=0)
    assert background == BACKGROUND
    assert images.shape == (5, 3, 40, 31)
    assert torch.equal(images[:, 1:2, 6:34, 1:29], plain)
    images[:, :, 6:34, 1:29] = background
    assert (images - background).abs().max() < 1e-6  # float32 of a number below 1


def test_clouds_fall_with_frequency_as_one_over_f():
    images, background = loading.load_images("fractal", 16, (64, 64), channels=1, seed=0)
    amplitude = torch.fft.rfft2(images[:, 0]).abs().square().mean(0).sqrt()
    along = amplitude[0, 1:32]
    slope = torch.linalg.lstsq(
        torch.stack([torch.arange(1, 32).log(), torch.ones(31)], 1), along.log()[:, None]
    ).solution[0]
    assert background == 0
    assert slope.item() == pytest.approx(-1, abs=0.1)  # 31 points of 16 images each: standard error about 0.05
    assert images.std().item() == pytest.approx(1, abs=1e-3)
    assert images.mean((1, 2, 3)).std() > 0.1, "images that all have the same mean hide what averages do"


def test_pictures_of_a_folder_are_resized_and_scaled(tmp_path):
    for i, size in enumerate([(20, 10), (5, 8)]):
        Image.new("RGB", size, (40 * i + 10, 100, 200)).save(tmp_path / f"{i}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    images, background = loading.load_images(str(tmp_path), 8, (12, 16), channels=3, seed=0)
    assert images.shape == (2, 3, 12, 16)
    assert background == 0
    assert images.mean().item() == pytest.approx(0, abs=1e-5)
    assert images[0, 0].mean() < images[1, 0].mean() < images[0, 1].mean() < images[0, 2].mean()
    assert loading.load_images(str(tmp_path), 1, (4, 4), channels=1, seed=0)[0].shape == (1, 1, 4, 4)


def test_pictures_lie_in_folders_of_folders_too_and_come_sorted(tmp_path):
    for i, name in enumerate(["b/1.png", "a/c/2.png", "3.PNG"]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), 255 if i == 2 else 100 * i).save(tmp_path / name)
    images, _ = loading.load_images(str(tmp_path), 8, (4, 4), channels=1, seed=0, scale=([0.0], [1.0]))
    assert torch.allclose(images[:, 0, 0, 0], torch.tensor([255.0, 100, 0]) / 255)  # 3.PNG, a/c/2.png, b/1.png


def test_pixels_are_scaled_as_asked_or_as_the_weights_want_it(tmp_path):
    Image.new("RGB", (4, 4), (255, 51, 0)).save(tmp_path / "one.png")
    np.save(tmp_path / "one.npy", np.array([255, 51, 0], dtype=np.uint8).reshape(1, 3, 1, 1).repeat(4, 2).repeat(4, 3))
    for name in ("", "one.npy"):
        read = partial(loading.load_images, str(tmp_path / name), 1, (4, 4), channels=3, seed=0)
        scale, usual = ([0.5], [0.5]), ([0.0, 0.1, 0.0], [1.0, 0.1, 1.0])
        asked, wanted = read(scale=scale, usual=usual)[0], read(usual=usual)[0]
        assert asked[0, :, 0, 0].tolist() == pytest.approx([1, -0.6, -1])
        assert wanted[0, :, 0, 0].tolist() == pytest.approx([1, 1, 0], abs=1e-6)
        assert read()[0].mean().item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", ["a.npy", "a.pt", "list.pt", "gray.npy", "large.npy"])
def test_a_file_holds_images_as_the_model_takes_them(name, tmp_path):
    values = torch.rand(5, 1, 6, 7, generator=torch.Generator().manual_seed(0))
    held = {"list.pt": list(values), "gray.npy": values[:, 0].double()}.get(name, values)
    if name.endswith(".npy"):
        np.save(tmp_path / name, np.asarray(held, dtype=">f8" if name == "large.npy" else None))
    else:
        torch.save(held, tmp_path / name)
    images, background = loading.load_images(str(tmp_path / name), 3, None, channels=2, seed=0)
    assert background == 0
    assert images.dtype == torch.float32
    assert torch.equal(images, values[:3].expand(-1, 2, -1, -1))
    scaled, _ = loading.load_images(str(tmp_path / name), 3, (6, 7), channels=1, seed=0, scale=([0.5], [2.0]))
    assert torch.allclose(scaled, (values[:3] - 0.5) / 2)


GOOD = np.zeros((2, 1, 6, 6))
FILES = {
    "nowhere.npy": (None, "there is no file .*nowhere.npy"),
    "empty.npy": (b"", r"the file empty\.npy is empty"),
    "damaged.npy": (b"no array", r"damaged\.npy cannot be read; is it damaged\? ValueError"),
    "objects.npy": (np.array([GOOD, "a"], dtype=object), r"objects\.npy cannot be read; is it damaged\? ValueError"),
    "number.npy": (np.array(3.0), r"number\.npy cannot be read"),
    "complex.npy": (GOOD * 1j, "images must be numbers: complex128"),
    "nan.npy": (GOOD * np.nan, "images must be finite: 72 of 72 values are NaN or infinite"),
    "int.npy": (GOOD.astype(int), r"images must be uint8 or floating point: torch\.int64"),
    "colour.npy": (np.zeros((2, 3, 6, 6)), r"n c h w with c = 1, which the model takes: \(3, 6, 6\)"),
    "channels-last.npy": (np.zeros((2, 6, 6, 3)), r"n c h w with c = 1, .*: \(6, 6, 3\)"),
    "flat.npy": (np.zeros((6, 6)), r"n h w, or n c h w with c = 1, .*: \(6,\)"),
    "sizes.pt": (
        [torch.zeros(1, 6, 6), torch.zeros(1, 7, 6)],
        r"images, all of one size: \[\(1, ., 6\), \(1, ., 6\)\]",
    ),
    "none.pt": ([], r"a list must hold images, all of one size: \[\]"),
    "weights.pt": (
        {"a": torch.zeros(1)},
        "images must be a tensor n c h w, an array or a list of images; .*: dict",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_holds_no_such_images_is_one_line_that_says_why(name, tmp_path):
    held, said = FILES[name]
    if isinstance(held, bytes):
        (tmp_path / name).write_bytes(held)
    elif isinstance(held, np.ndarray):
        np.save(tmp_path / name, held, allow_pickle=True)
    elif held is not None:
        torch.save(held, tmp_path / name)
    with pytest.raises(InputError, match=said) as raised:
        loading.load_images(str(tmp_path / name), 2, None, channels=1, seed=0)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("scale", "said"),
    [
        (([0.5, 0.5], [1.0]), "one number, or one for each channel"),
        (([0.5], [0.0]), "std must be positive"),
        (None, ""),
    ],
)
def test_a_scale_fits_the_channels(scale, said, tmp_path):
    np.save(tmp_path / "a.npy", GOOD)
    size = (6, 6) if said else (8, 8)
    with pytest.raises(InputError, match=said or r"images of a file keep their size: \(6, 6\), not \(8, 8\)"):
        loading.load_images(str(tmp_path / "a.npy"), 2, size, channels=1, seed=0, scale=scale)


def test_what_is_made_here_takes_no_scale():
    with pytest.raises(InputError, match="mean and std are for pictures and files: images are fractal"):
        loading.load_images("fractal", 2, (8, 8), channels=1, seed=0, scale=([0.5], [1.0]))


def test_images_go_where_the_network_is_and_become_of_its_type():
    images = torch.rand(2, 1, 4, 4)
    assert loading.fitted(images, nn.Conv2d(1, 1, 1).double()).dtype == torch.float64
    assert loading.fitted(images, nn.ReLU()) is images


def test_arrays_and_lists_of_images_become_one_tensor():
    array = np.random.default_rng(0).random((3, 1, 4, 5), dtype=np.float32)
    tensor = torch.from_numpy(array)
    assert loading.as_images(tensor) is tensor
    assert torch.equal(loading.as_images(array), tensor)
    assert torch.equal(loading.as_images(list(array)), tensor)
    assert torch.equal(loading.as_images(tuple(tensor)), tensor)
    assert torch.equal(loading.as_images(array[:, :, ::-1]), tensor.flip(2))
    frozen = array.copy()
    frozen.flags.writeable = False
    assert torch.equal(loading.as_images(frozen), tensor)


LOADER = DataLoader(TensorDataset(torch.rand(2, 1, 4, 4)))
NO_IMAGES = {
    "None": (None, "images must be a tensor n c h w, an array or a list of images; .*: NoneType"),
    "a function": (len, "or a list of images; .*: builtin_function_or_method"),
    "a loader": (LOADER, r"of a loader one batch, next\(iter\(loader\)\)\[0\]: DataLoader"),
    "uint8": (
        np.zeros((2, 1, 4, 4), dtype=np.uint8),
        r"floating point, normalised .*; divide pixels by 255: torch\.uint8",
    ),
    "a batch with labels": ([torch.rand(2, 1, 4, 4), torch.zeros(2).long()], "all of one size"),
    "words": (np.array(["a"]), "images must be numbers: <U1"),
    "files": (["a.png"], "or a list of images; .*: list"),
}


@pytest.mark.parametrize("case", NO_IMAGES)
def test_what_is_no_images_is_said_in_one_line(case):
    given, said = NO_IMAGES[case]
    with pytest.raises(InputError, match=said):
        loading.as_images(given)


def test_of_a_compiled_network_the_original_is_meant():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
    assert loading.check_model(model) is model
    assert loading.check_model(torch.compile(model)) is model
    model.compile()
    plain = loading.check_model(model)
    assert plain._compiled_call_impl is None
    assert plain[0] is model[0]
    assert model._compiled_call_impl is not None


def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is no longer developed
        return torch.jit.trace(nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 2, 2))


def quantised():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.ReLU(), nn.Linear(2, 2)), {nn.Linear})


def exported():
    return torch.export.export(nn.Conv2d(1, 1, 1), (torch.zeros(1, 1, 2, 2),))


def int8():
    model = nn.Linear(2, 2)
    model.weight = nn.Parameter(torch.zeros(2, 2, dtype=torch.int8), requires_grad=False)
    return model


NO_MODELS = {
    "a function": (
        lambda: torch.relu,
        "model must be a torch.nn.Module, so wrap anything else in one: builtin_function",
    ),
    "a class": (lambda: nn.ReLU, "model must be a torch.nn.Module, so wrap anything else in one: type"),
    "TorchScript": (scripted, "ScriptModule hides its layers: pass the nn.Module that it was made from"),
    "an exported program": (
        exported,
        r"ExportedProgram hides its layers: .*, or torch\.export\.unflatten\(program\)",
    ),
    "its module": (lambda: exported().module(), "_StatefulGraphModule hides its layers"),
    "a quantised layer": (quantised, r"integer weights \(int8\) is not measured, .*: 1"),
    "lazy layers": (
        lambda: nn.LazyConv2d(2, 3),
        "run the model once, so that its lazy layers know their sizes: .*weight",
    ),
    "int8 weights": (int8, r"integer weights \(int8\) is not measured, .*: weight"),
}


@pytest.mark.parametrize("case", NO_MODELS)
def test_what_hides_its_layers_or_is_no_network_is_said_in_one_line(case):
    make, said = NO_MODELS[case]
    with pytest.raises(InputError, match=said) as raised:
        loading.check_model(make())
    assert "\n" not in str(raised.value)


@pytest.mark.usefixtures("_embedded")
@pytest.mark.parametrize(
    ("source", "n", "size", "channels", "said"),
    [
        ("mnist", 4, (20, 40), 1, "digits are 28 × 28, and do not fit into 20 × 40"),
        ("fractal", 0, (8, 8), 3, "count and size must be at least 1: count 0"),
        ("fractal", 2, (8, 0), 3, "count and size must be at least 1: count 2, size 8 0"),
        ("nowhere", 2, (8, 8), 3, "images must be mnist, fractal, a folder of pictures or a file .*: 'nowhere'"),
        (".", 2, (8, 8), 3, "a folder must hold pictures, for 1 or 3 channels: 0 in ., 3 channels"),
    ],
)
def test_images_that_cannot_be_had_are_said_in_one_line(folder, source, n, size, channels, said):
    with pytest.raises(InputError, match=said):
        loading.load_images(source, n, size, channels=channels, seed=0)


def png(width, height, *, bits=8):
    """A PNG that is no more than its header, with the right checksum."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


DAMAGED = {
    "no picture": b"not a picture",
    "30000 x 30000": png(30_000, 30_000),
    "no pixels": png(0, 0),
    "impossible bits": png(8, 8, bits=77),
    "header cut off": png(8, 8)[:20],
    "header of another length": png(8, 8)[:11] + b"\x05" + png(8, 8)[12:],
    "no data": png(8, 8),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_picture_is_named(tmp_path, damage):
    (tmp_path / "broken.png").write_bytes(DAMAGED[damage])
    with pytest.raises(InputError, match=r"broken\.png is no picture"):
        loading.load_images(str(tmp_path), 2, (8, 8), channels=3, seed=0)
