import contextlib
import functools
import http.server
import os
import re
import socket
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from urllib.parse import urlparse

import checked  # noqa: F401  # from here on, annotations of the lab are checked: before the lab is imported
import jaxtyping
import pytest
from browser import HELP, find
from filelock import FileLock
from hypothesis import settings
from patience import PAGE, PROGRAM
from playwright.sync_api import expect, sync_playwright
from serving import QuietHandler
from sources import FULL, SOURCES, STUDIES
from xdist.scheduler import LoadFileScheduling

import lab
from lab.files import data_root

ROOT = Path(__file__).parent.parent
pytest_plugins = ["study_fixtures"]

FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]


settings.register_profile("search", deadline=None)  # new examples each time; the suite measures no time
settings.register_profile("suite", settings.get_profile("search"), derandomize=True)  # the same examples each time
settings.load_profile("suite")
expect.set_options(timeout=1_000 * PAGE)


FIRST = [  # the site is built by the first file; those that wait for it too come when it is there, even when it is new
    *("test_site", "test_walkthroughs", "test_cli", "test_build", "test_page", "pages of test_site", "test_reading"),
    *("test_ways_to_read", "test_exercise", "test_questions", "test_measuring", "test_theory"),
    *("test_receptive_fields", "test_modules", "test_strict", "test_meter"),
]
APART = ["test_walkthroughs"]  # files without a shared set-up, whose tests any process may take
BY_PAGE = ["test_site", "test_reading", "test_ways_to_read"]  # a process takes all tests of one page of the site


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """One more than there are processor cores: the tests in the browser wait as much as they work."""
    return (os.cpu_count() or 1) + 1


def page_of(nodeid: str) -> str:
    """The page of the site in a test's parameters; none, if there is none."""
    return "".join(re.findall(r"[\w/]+\.html", nodeid.partition("[")[2])[:1])


def turn(item) -> int:
    """When a test comes: its file's place in `FIRST`. The pages wait until others have built the site.

    So do the scripts with a study, whose records the build makes.
    """
    name = item.path.stem
    if name == "test_walkthroughs" and "plain_script" in item.nodeid and any(page in item.nodeid for page in STUDIES):
        return len(FIRST)
    name = f"pages of {name}" if name == "test_site" and page_of(item.nodeid) else name
    return FIRST.index(name) if name in FIRST else len(FIRST)


class InOrder(LoadFileScheduling):
    """As `--dist loadfile`: a process takes a file as a whole, but of some all tests of a page, or one test."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        if Path(file).stem in APART:
            return nodeid
        return f"{file}: {page_of(nodeid)}" if page_of(nodeid) and Path(file).stem in BY_PAGE else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return InOrder(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(items):
    """Files that take long begin first, so that all processes end together."""
    items.sort(key=turn)


def pytest_report_header() -> str:
    return f"MNIST: {' and '.join(SOURCES)}" + ("" if FULL else f" (no official files in {data_root()})")


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    import torch  # which the process that only hands out the tests does without

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
def shared(tmp_path_factory) -> Path:
    """A folder of this test run, the same one for all processes of pytest-xdist."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def root_of(shared):
    """Data set -> a data root for it, of this test run, so that no older checkpoint is found, and none is left."""

    def root(source: str) -> Path:
        folder = shared / f"data-{source}"
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                folder.mkdir()
                if source == "full":
                    (folder / "MNIST").symlink_to(FULL, target_is_directory=True)
        return folder

    return root


@pytest.fixture(scope="session")
def root(source, root_of) -> Path:
    return root_of(source)


@pytest.fixture(scope="session")
def mnist(source, root) -> "lab.Mnist":
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return lab.load_mnist(source, root)


@pytest.fixture(scope="session")
def trained_once(root_of):
    """Data set -> a folder with the checkpoint of the given network, trained once by whoever needs it first."""

    def checkpoints(source: str) -> Path:
        folder = root_of(source) / "checkpoints"
        with FileLock(f"{folder}.lock"):
            lab.fit(lab.build_model("given", seed=0), lab.load_mnist(source, root_of(source)).train, cache=folder)
        return folder

    return checkpoints


@pytest.fixture(scope="session")
def digits() -> "lab.Split":
    """500 embedded digits, for tests that need real images but not a whole set."""
    return lab.load_mnist("embedded").test.sample(500, seed=0)


@pytest.fixture(scope="session")
def mkdocs():
    """Runs MkDocs in a folder: its exit code and what it says. No address of a site or a repository is known to it."""

    def run(folder, *arguments, **environment):
        env = {k: v for k, v in os.environ.items() if k not in ("SITE_URL", "REPOSITORY_URL")}
        env |= {"NO_MKDOCS_2_WARNING": "1", "OMP_NUM_THREADS": "1"} | environment
        command = [sys.executable, "-m", "mkdocs", "build", *arguments]
        return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=PROGRAM)

    return run


@pytest.fixture(scope="session")
def site(mkdocs, shared) -> Path:
    """The whole site, built from the tree; walkthroughs that have not changed come from the execution cache.

    Built once, also by several processes of pytest-xdist: the first that wants it builds it, the others wait.
    """
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
        context.set_default_timeout(1_000 * PAGE)
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
