import os
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import jaxtyping
import pytest
import torch

import lab
from lab.data import data_root

ROOT = Path(__file__).parent.parent
MNIST_FILE = "train-images-idx3-ubyte"


def _full_mnist() -> Path | None:
    """The folder of the official files, where they are on this machine already; the tests never download."""
    raw = data_root() / "MNIST" / "raw"
    return raw.parent if any(raw.glob(f"{MNIST_FILE}*")) else None


FULL = _full_mnist()
SOURCES = ["embedded", "full"] if FULL else ["embedded"]


def pytest_report_header() -> str:
    return f"MNIST: {' and '.join(SOURCES)}" + ("" if FULL else f" (no official files in {data_root()})")


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise OSError("the tests use no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def unchecked():
    """Calls as a user makes them, without the annotations' checks: bad input meets the lab's own errors."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session", params=SOURCES)
def source(request) -> str:
    return request.param


@pytest.fixture(scope="session")
def root(source, tmp_path_factory) -> Path:
    """A data root of its own, so that no checkpoint is found or left; with the official files for `full`."""
    folder = tmp_path_factory.mktemp(source)
    if source == "full":
        (folder / "MNIST").symlink_to(FULL, target_is_directory=True)
    return folder


@pytest.fixture(scope="session")
def mnist(source, root) -> lab.Mnist:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return lab.load_mnist(source, root)


@pytest.fixture(scope="session")
def digits() -> lab.Split:
    """500 embedded digits, for tests that need real images but not a whole set."""
    return lab.load_mnist("embedded").test.sample(500, seed=0)


@pytest.fixture(scope="session")
def mkdocs():
    """Runs MkDocs in a folder: its exit code and what it says. No address of a site or a repository is known to it."""

    def run(folder, *arguments, **environment):
        env = {k: v for k, v in os.environ.items() if k not in ("SITE_URL", "REPOSITORY_URL")}
        env |= {"NO_MKDOCS_2_WARNING": "1", "OMP_NUM_THREADS": "1"} | environment
        command = [sys.executable, "-m", "mkdocs", "build", *arguments]
        return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=1800)

    return run


@pytest.fixture(scope="session")
def site(mkdocs, tmp_path_factory) -> Path:
    """The whole site, built from the tree; walkthroughs that have not changed come from the execution cache."""
    folder = tmp_path_factory.mktemp("site")
    built = mkdocs(ROOT, "--quiet", "--site-dir", str(folder))
    if built.returncode != 0:
        pytest.fail(f"the site cannot be built:\n{built.stdout}{built.stderr}", pytrace=False)
    return folder
