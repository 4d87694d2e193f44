import gzip
import hashlib
import socket
import urllib.error

import numpy as np
import pytest
import torch

import lab
from lab import data, files
from lab.errors import DataError, InputError, LabWarning

SIZES = {"embedded": (8_000, 2_000, "MNIST-10k"), "full": (60_000, 10_000, "MNIST")}


def test_a_set_has_the_documented_shapes_types_and_ranges(mnist, source):
    train, test, name = SIZES[source]
    assert (len(mnist.train), len(mnist.test), mnist.name) == (train, test, name)
    for split, n in ((mnist.train, train), (mnist.test, test)):
        assert split.images.shape == (n, 1, 28, 28)
        assert split.images.dtype == torch.float32
        assert (split.images.min(), split.images.max()) == (0, 1)
        assert split.labels.dtype == torch.int64
        assert split.labels.unique().tolist() == list(range(10))


def test_a_set_is_frozen(mnist):
    with pytest.raises(AttributeError):
        mnist.name = "other"


def test_mean_and_standard_deviation_are_those_of_the_training_images(mnist, source):
    images = mnist.train.images.double()
    # given to four digits for the full set; 8,000 of its images have a mean within 3 / √8000 of its spread (0.04)
    slack = 5e-5 if source == "full" else 0.0015
    assert images.mean().item() == pytest.approx(data.MEAN, abs=slack)
    assert images.std().item() == pytest.approx(data.STD, abs=slack)


def test_normalised_background_is_the_documented_value():
    assert lab.normalize(torch.zeros(1, 1, 2, 2)).unique().item() == pytest.approx(data.BACKGROUND)
    assert pytest.approx(-0.4242, abs=1e-4) == data.BACKGROUND


def test_the_embedded_digits_are_the_first_10000_training_images_bit_for_bit():
    embedded = lab.load_mnist("embedded")
    images = torch.cat([embedded.train.images, embedded.test.images])
    labels = torch.cat([embedded.train.labels, embedded.test.labels])
    pixels = images.mul(255).round().byte()
    assert torch.equal(pixels.float() / 255, images)
    digest = hashlib.sha256(pixels.numpy().tobytes() + labels.byte().numpy().tobytes()).hexdigest()
    # of the first 10,000 images and labels in the official files
    assert digest == "2e49afdffc567fd5f9f306a04e2bafced2432146ae04f4b9a58b25505ba05b2e"


def test_the_embedded_digits_are_the_first_of_the_set_at_hand(mnist):
    embedded = lab.load_mnist("embedded")
    both = embedded.train.images, embedded.test.images
    assert torch.equal(torch.cat(both)[: len(mnist.train)], mnist.train.images[:10_000])
    assert torch.equal(embedded.train.labels, mnist.train.labels[:8_000])


def test_the_licence_beside_the_digits_names_their_digest():
    licence = (data.EMBEDDED_FILE.parent / "LICENSE.md").read_text()
    assert data.EMBEDDED_FILE_SHA256 in licence
    assert "CC BY-SA 3.0" in licence


def test_a_damaged_embedded_file_is_refused(tmp_path, monkeypatch):
    damaged = tmp_path / "mnist10k.npz"
    content = bytearray(data.EMBEDDED_FILE.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    monkeypatch.setattr(data, "EMBEDDED_FILE", damaged)
    with pytest.raises(DataError, match="embedded digits are damaged"):
        lab.load_mnist("embedded")


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_source_is_refused():
    with pytest.raises(InputError, match="source must be one of auto, full, embedded: 'complete'"):
        lab.load_mnist("complete")


@pytest.fixture
def offline(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


@pytest.mark.usefixtures("offline")
def test_full_without_network_is_one_clear_error(tmp_path):
    with pytest.raises(DataError, match=r"full MNIST set is not in .* and cannot be fetched"):
        lab.load_mnist("full", tmp_path)


@pytest.mark.usefixtures("offline")
def test_auto_without_network_takes_the_embedded_digits_and_says_so(tmp_path):
    with pytest.warns(LabWarning, match=r"using the 10,000 embedded digits \(MNIST-10k\)"):
        assert lab.load_mnist("auto", tmp_path).name == "MNIST-10k"


@pytest.mark.usefixtures("offline")
def test_a_data_root_that_cannot_be_written_is_one_clear_error(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(DataError, match="cannot be fetched"):
        lab.load_mnist("full", blocked / "root")


def test_the_root_is_the_argument_else_the_variable_else_a_user_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_DATA", str(tmp_path / "variable"))
    assert data.data_root(tmp_path / "argument") == tmp_path / "argument"
    assert data.data_root() == tmp_path / "variable"
    monkeypatch.delenv("LAB_DATA")
    assert data.data_root().name == "equivariance-lab"
    with pytest.raises(InputError, match="there is no such home folder: ~nobody-has-this-name/data"):
        data.data_root("~nobody-has-this-name/data")


def test_a_sample_is_random_without_repeats_and_depends_on_the_seed(digits):
    one, again, other = (digits.sample(100, seed=s) for s in (1, 1, 2))
    assert torch.equal(one.images, again.images)
    assert not torch.equal(one.images, other.images)
    assert len(digits.sample(10_000, seed=0)) == len(digits)


@pytest.mark.parametrize("n", [0, -1, -3, -500])
def test_a_sample_of_no_image_is_refused(digits, n):
    with pytest.raises(InputError, match=f"a sample must hold at least one image: {n}"):
        digits.sample(n, seed=0)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("seed", [-1, 2**64, 0.5, True, None], ids=repr)
def test_a_sample_needs_a_seed(digits, seed):
    with pytest.raises(InputError, match="seed must be at least 0 and below"):
        digits.sample(1, seed=seed)


def test_a_missing_embedded_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "EMBEDDED_FILE", tmp_path / "mnist10k.npz")
    with pytest.raises(DataError, match="embedded digits are damaged, reinstall the package"):
        lab.load_mnist("embedded")


def test_downloads_have_a_timeout_which_is_taken_back(tmp_path, monkeypatch):
    seen = []

    def refuse(*_args, **_kwargs):
        seen.append(socket.getdefaulttimeout())
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(DataError):
        lab.load_mnist("full", tmp_path)
    assert set(seen) == {files.NETWORK_TIMEOUT}
    assert socket.getdefaulttimeout() is None
    assert list((tmp_path / "MNIST" / "raw").iterdir()) == [], "nothing half done stays"


# The four official files in miniature: torchvision's own reader and MD5 check, on files made here.


@pytest.fixture
def miniature(tmp_path, monkeypatch):
    """A data root with four small `.gz` files that torchvision accepts as MNIST, and the digest that goes with them."""
    from torchvision.datasets import MNIST

    rng = np.random.default_rng(0)
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    resources, digest = [], hashlib.sha256()
    for part, n in (("train", 5), ("t10k", 3)):
        images = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        labels = rng.integers(0, 10, n, dtype=np.uint8)
        for array, kind, magic in ((images, "images-idx3", 2051), (labels, "labels-idx1", 2049)):
            header = b"".join(int(v).to_bytes(4, "big") for v in (magic, *array.shape))
            packed = gzip.compress(header + array.tobytes())
            (raw / f"{part}-{kind}-ubyte.gz").write_bytes(packed)
            resources.append((f"{part}-{kind}-ubyte.gz", hashlib.md5(packed).hexdigest()))
            digest.update(array.tobytes())
    monkeypatch.setattr(MNIST, "resources", resources)
    monkeypatch.setattr(data, "FULL_SHA256", digest.hexdigest())
    return tmp_path


@pytest.mark.usefixtures("offline")
def test_packed_files_in_the_root_are_verified_and_unpacked_without_a_network(miniature):
    loaded = lab.load_mnist("full", miniature)
    assert (len(loaded.train), len(loaded.test), loaded.sha256) == (5, 3, data.FULL_SHA256)
    assert lab.load_mnist("auto", miniature).name == "MNIST"


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("damage", ["truncated", "corrupted"])
def test_a_damaged_packed_file_is_one_clear_error_and_auto_goes_on(miniature, damage):
    path = miniature / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content[: len(content) // 2] if damage == "truncated" else content)
    with pytest.raises(DataError, match="cannot be fetched"):
        lab.load_mnist("full", miniature)
    with pytest.warns(LabWarning, match="embedded"):
        assert lab.load_mnist("auto", miniature).name == "MNIST-10k"


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("damage", ["truncated", "one bit", "empty"])
def test_a_damaged_unpacked_file_is_unpacked_again(miniature, damage):
    lab.load_mnist("full", miniature)
    path = miniature / "MNIST" / "raw" / "train-images-idx3-ubyte"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes({"truncated": content[:-100], "one bit": content, "empty": b""}[damage])
    assert lab.load_mnist("full", miniature).sha256 == data.FULL_SHA256


@pytest.mark.usefixtures("offline")
def test_damaged_unpacked_files_without_packed_ones_are_one_clear_error(miniature):
    lab.load_mnist("full", miniature)
    raw = miniature / "MNIST" / "raw"
    for path in raw.glob("*.gz"):
        path.unlink()
    (raw / "t10k-labels-idx1-ubyte").write_bytes(b"")
    good = {path.name: path.read_bytes() for path in raw.iterdir()}
    with pytest.raises(DataError, match="cannot be fetched"):
        lab.load_mnist("full", miniature)
    assert {path.name: path.read_bytes() for path in raw.iterdir()} == good, "nothing is lost for want of a network"


@pytest.mark.usefixtures("offline")
def test_the_set_is_read_as_torchvision_reads_it(miniature):
    from torchvision.datasets import MNIST

    ours = lab.load_mnist("full", miniature)
    for split, train in ((ours.train, True), (ours.test, False)):
        theirs = MNIST(miniature, train=train)
        assert torch.equal(split.images[:, 0], theirs.data / 255)
        assert torch.equal(split.labels, theirs.targets)


@pytest.mark.usefixtures("offline")
def test_files_that_are_not_the_official_ones_are_refused(miniature, monkeypatch):
    monkeypatch.setattr(data, "FULL_SHA256", "0" * 64)
    with pytest.raises(DataError, match="not the official ones"):
        lab.load_mnist("full", miniature)
