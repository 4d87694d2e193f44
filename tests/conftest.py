import contextlib
import functools
import http.server
import os
import socket
import subprocess
import sys
import threading
import warnings
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlparse

import jaxtyping
import pytest
import torch
from browser import HELP, find
from filelock import FileLock
from hypothesis import settings
from playwright.sync_api import sync_playwright

import lab
from lab.files import data_root

ROOT = Path(__file__).parent.parent
MNIST_FILE = "train-images-idx3-ubyte"

FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]


def _full_mnist() -> Path | None:
    """The folder of the official files, where they are on this machine already; the tests never download."""
    raw = data_root() / "MNIST" / "raw"
    return raw.parent if any(raw.glob(f"{MNIST_FILE}*")) else None


settings.register_profile("search", deadline=None)  # new examples each time; the suite measures no time
settings.register_profile("suite", settings.get_profile("search"), derandomize=True)  # the same examples each time
settings.load_profile("suite")

FULL = _full_mnist()
SOURCES = ["embedded", "full"] if FULL else ["embedded"]


FIRST = [  # the site is built by the first file; those that wait for it too come when it is there, even when it is new
    *("test_site", "test_walkthroughs", "test_cli", "test_build", "test_maps", "test_meter", "test_modules"),
    *("test_exercise", "test_page", "test_ways_to_read"),
]


def pytest_collection_modifyitems(items):
    """Files that take long begin first, so that two processes end together."""
    items.sort(key=lambda item: FIRST.index(item.path.stem) if item.path.stem in FIRST else len(FIRST))


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


@pytest.fixture(scope="session")
def offline_path(tmp_path_factory) -> Path:
    """A folder for `PYTHONPATH`: a process that has it there can reach no network."""
    folder = tmp_path_factory.mktemp("offline")
    (folder / "sitecustomize.py").write_text(
        "import socket\n"
        "def refuse(*_args, **_kwargs):\n"
        "    raise OSError('the tests use no network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n",
        encoding="utf-8",
    )
    return folder


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
    """The whole site, built from the tree; walkthroughs that have not changed come from the execution cache.

    Built once, also by several processes of pytest-xdist: the first that wants it builds it, the others wait.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # of the whole run; each process has a folder in it
    folder, complaint = shared / "built-site", shared / "built-site.txt"
    with FileLock(f"{folder}.lock"):
        if not complaint.exists():
            built = mkdocs(ROOT, "--site-dir", str(folder))
            complaint.write_text("" if built.returncode == 0 else f"{built.stdout}{built.stderr}\n", encoding="utf-8")
    if complaint.read_text(encoding="utf-8"):
        pytest.fail(f"the site cannot be built:\n{complaint.read_text(encoding='utf-8')}", pytrace=False)
    return folder


@pytest.fixture(scope="session")
def address(site):
    handler = functools.partial(QuietHandler, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def handle(self):
        with suppress(ConnectionError):  # a browser that has left while a page was loading
            super().handle()

    def log_message(self, *arguments):
        """Say nothing."""


@pytest.fixture(scope="session")
def chromium():
    path = find()
    if path is None:
        pytest.fail(HELP, pytrace=False)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=FLAGS)
        yield browser
        browser.close()


@contextlib.contextmanager
def tabs(chromium):
    """Opens pages; whatever one complains of or asks other hosts for is in its `problems`."""
    contexts = []

    def open_page(url, *, scheme="light", width=1280, height=900, **options):
        context = chromium.new_context(color_scheme=scheme, viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.problems = []
        own = urlparse(url).scheme + "://" + urlparse(url).netloc
        page.on("console", lambda m: page.problems.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on(
            "request",
            lambda r: page.problems.append(f"asks {r.url}") if not r.url.startswith((own, "data:", "blob:")) else None,
        )
        page.on("response", lambda r: page.problems.append(f"{r.status} {r.url}") if r.status >= 400 else None)
        page.responses = []
        page.on("response", lambda response: page.responses.append(response))
        page.goto(url)  # until it has loaded; that the network is idle may be said of a page still being parsed
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def tab(chromium):
    """Opens a page for one test; see `tabs`."""
    with tabs(chromium) as open_page:
        yield open_page


@pytest.fixture(scope="module")
def lasting_tab(chromium):
    """Opens a page for all tests of a file; see `tabs`."""
    with tabs(chromium) as open_page:
        yield open_page
