"""Networks and images from the words of a command line."""

import struct
import sys
import zlib

import pytest
import torch
from PIL import Image
from torch import nn

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

    for name in ("given", "pooled", "torchvision:squeezenet1_1", "lab_test_networks:make"):
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
        ("resnet18", "model must be given, pooled, torchvision:NAME or package.module:callable: 'resnet18'"),
        ("torchvision:", "model must be given, pooled"),
        ("torchvision:resnet1", "'torchvision:resnet1' cannot be made: ValueError: Unknown model resnet1"),
        ("no_such_package:make", "cannot be made: ModuleNotFoundError: No module named 'no_such_package'"),
        ("lab_test_networks:nothing", "cannot be made: AttributeError: module 'lab_test_networks' has no attribute"),
        ("lab_test_networks:fails", "cannot be made: RuntimeError: no weights here$"),
        ("lab_test_networks:wrong", "must be a torch.nn.Module, or return one: int"),
    ],
)
def test_what_is_no_network_is_said_in_one_line(folder, name, said):
    with pytest.raises(InputError, match=said):
        loading.load_model(name, seed=0)


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


@pytest.mark.usefixtures("_embedded")
@pytest.mark.parametrize(
    ("source", "n", "size", "channels", "said"),
    [
        ("mnist", 4, (20, 40), 1, "digits are 28 × 28, and do not fit into 20 × 40"),
        ("fractal", 0, (8, 8), 3, "count and size must be at least 1: count 0"),
        ("fractal", 2, (8, 0), 3, "count and size must be at least 1: count 2, size 8 0"),
        ("nowhere", 2, (8, 8), 3, "images must be mnist, fractal or a folder of pictures: 'nowhere'"),
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
