"""The same study through processes, and through a Dask scheduler with workers, one of which is killed in the middle."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from distributed import Client
from house import PACKAGE

import lab
from lab.errors import LabError
from lab.study import scheduling

WAIT = 60  # seconds until a process that does not come up is a failure
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::UserWarning")


CONNECT, LOOK_UP = socket.socket.connect, socket.getaddrinfo  # before the other tests' ban on both


@pytest.fixture(autouse=True)
def _this_machine_alone(monkeypatch, _no_network):
    """Connections within this machine, and no others."""

    def allowed(call, host, *arguments, **options):
        if host != "127.0.0.1":
            raise OSError(f"the tests use no network: {host}")
        return call(*arguments, **options)

    monkeypatch.setattr(socket.socket, "connect", lambda self, to: allowed(CONNECT, to[0], self, to))
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *a, **k: allowed(LOOK_UP, host, host, *a, **k))


class Cluster:
    """A Dask scheduler and its workers, as processes of this machine."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.stack, self.folder, self.file = stack, folder, folder / "scheduler.json"
        ports = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(self.file)]
        self.scheduler = self.started("scheduler", *ports, DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="1")
        until(self.file.exists)
        self.address = json.loads(self.file.read_text())["address"]

    def started(self, name: str, *arguments: str, **environment: str) -> subprocess.Popen:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "LAB_DATA": str(self.folder)} | environment
        command = [sys.executable, "-m", f"distributed.cli.dask_{name}", *arguments]
        log = self.stack.enter_context((self.folder / f"{name}.log").open("a"))
        process = subprocess.Popen(command, env=environment, cwd=self.folder, stdout=log, stderr=log)
        self.stack.callback(process.wait)
        self.stack.callback(process.kill)
        return process

    def workers(self, n: int, *arguments: str, **environment: str) -> list[subprocess.Popen]:
        """So many more, which are there."""
        known = ["--scheduler-file", str(self.file), "--host", "127.0.0.1", "--nthreads", "1", "--no-dashboard"]
        started = [self.started("worker", *known, *arguments, **environment) for _ in range(n)]
        with Client(self.address) as client:
            client.wait_for_workers(n, timeout=WAIT)
        return started


@pytest.fixture
def cluster(tmp_path):
    with ExitStack() as stack:
        yield Cluster(stack, tmp_path)


@pytest.fixture
def other_lab(tmp_path):
    """A copy of the package, which a worker finds before ours if its folder is the `PYTHONPATH`."""
    shutil.copytree(PACKAGE, tmp_path / "other" / "lab")
    return tmp_path / "other" / "lab"


def until(holds):
    end = time.monotonic() + WAIT
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_worker_that_is_killed_loses_nothing_and_no_run_is_there_twice(cluster, tiny, embedded, done, tmp_path):
    first, _ = cluster.workers(2, "--no-nanny")
    kept = scheduling.keep

    def kill_after_the_first(folder, record, sha256):
        if first.poll() is None:
            first.send_signal(signal.SIGKILL)
        kept(folder, record, sha256)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scheduling, "keep", kill_after_the_first)
        found = lab.run_study(tiny, embedded, scheduler=cluster.address, folder=tmp_path / "studies")
    assert first.wait(WAIT) == -signal.SIGKILL
    assert found.records == done.records  # bit for bit what one process finds
    assert len(list((tmp_path / "studies").glob("*.json"))) == len(found.records)


def test_a_single_worker_does_the_runs_and_is_refused_with_other_code(cluster, other_lab, tiny, embedded, tmp_path):
    """Were they done in this process, nobody would notice the other code."""
    with (other_lab / "metrics.py").open("a") as source:
        source.write("# changed\n")
    cluster.workers(1, "--no-nanny", PYTHONPATH=str(other_lab.parent))
    with pytest.raises(LabError, match="all workers must have the same code, torch and data"):
        lab.run_study(tiny, embedded, scheduler=cluster.address, folder=tmp_path / "studies")


def test_a_run_that_kills_its_workers_ends_the_study_with_one_line(cluster, other_lab, tiny, embedded, tmp_path):
    """As a lack of memory does; the nanny starts each worker again."""
    source = other_lab / "__init__.py"  # no record depends on it
    source.write_text(source.read_text() + "\nimport os, threading\nthreading.Timer(0.1, os._exit, [9]).start()\n")
    cluster.workers(1, PYTHONPATH=str(other_lab.parent))
    with pytest.raises(LabError, match="one run has killed its workers, as by a lack of memory; start again") as caught:
        lab.run_study(tiny, embedded, scheduler=cluster.address, folder=tmp_path / "studies")
    assert "\n" not in str(caught.value)


def test_a_scheduler_without_workers_is_one_line_after_a_time_out(cluster, tiny, embedded, tmp_path, monkeypatch):
    monkeypatch.setattr(scheduling, "CONNECT", 2)
    with pytest.raises(LabError, match=r"the scheduler at tcp://127\.0\.0\.1:\d+ has no worker within 2 s"):
        lab.run_study(tiny, embedded, scheduler=cluster.address, folder=tmp_path)


def test_a_scheduler_that_goes_away_ends_the_study_with_one_line(cluster, tiny, embedded, tmp_path, monkeypatch):
    cluster.workers(1, "--no-nanny")
    monkeypatch.setattr(scheduling, "keep", lambda *_: cluster.scheduler.kill())
    with pytest.raises(LabError, match=r"the scheduler at tcp://127\.0\.0\.1:\d+ is gone; start again to go on"):
        lab.run_study(tiny, embedded, scheduler=cluster.address, folder=tmp_path / "studies")


def test_two_processes_find_what_one_finds(tiny, embedded, done, tmp_path):
    assert lab.run_study(tiny, embedded, jobs=2, folder=tmp_path).records == done.records


def test_a_scheduler_that_is_not_there_is_one_line_after_a_time_out(tiny, embedded, tmp_path, monkeypatch):
    monkeypatch.setattr(scheduling, "CONNECT", 1)
    with pytest.raises(LabError, match=r"no scheduler answers at tcp://127\.0\.0\.1:9 within 1 s") as caught:
        lab.run_study(tiny, embedded, scheduler="tcp://127.0.0.1:9", folder=tmp_path)
    assert "\n" not in str(caught.value)
