"""The same study through processes, and through a Dask scheduler with workers, one of which is killed in the middle."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from distributed import Client

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


def started(stack: ExitStack, *arguments: str, log: Path) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "LAB_DATA": str(log.parent)}
    command = [sys.executable, "-m", *arguments]
    process = subprocess.Popen(command, env=environment, stdout=log.open("w"), stderr=subprocess.STDOUT)
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process


@pytest.fixture
def cluster(tmp_path):
    """The address of a scheduler, and its two workers."""
    with ExitStack() as stack:
        file = tmp_path / "scheduler.json"
        ports = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
        started(stack, "distributed.cli.dask_scheduler", *ports, log=tmp_path / "scheduler.log")
        until(file.exists)
        known = [
            "--scheduler-file",
            str(file),
            "--host",
            "127.0.0.1",
            "--nthreads",
            "1",
            "--no-nanny",
            "--no-dashboard",
        ]
        workers = [
            started(stack, "distributed.cli.dask_worker", *known, log=tmp_path / f"worker{i}.log") for i in (0, 1)
        ]
        with Client(scheduler_file=str(file)) as client:
            client.wait_for_workers(2, timeout=WAIT)
            address = client.scheduler.address
        yield address, workers


def until(holds):
    end = time.monotonic() + WAIT
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_worker_that_is_killed_loses_nothing_and_no_run_is_there_twice(cluster, tiny, embedded, done, tmp_path):
    address, workers = cluster
    kept = scheduling.keep

    def kill_after_the_first(folder, record, sha256):
        if workers[0].poll() is None:
            workers[0].send_signal(signal.SIGKILL)
        kept(folder, record, sha256)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scheduling, "keep", kill_after_the_first)
        found = lab.run_study(tiny, embedded, scheduler=address, folder=tmp_path / "studies")
    assert workers[0].wait(WAIT) == -signal.SIGKILL
    assert found.records == done.records  # bit for bit what one process finds
    assert len(list((tmp_path / "studies").glob("*.json"))) == len(found.records)


def test_two_processes_find_what_one_finds(tiny, embedded, done, tmp_path):
    assert lab.run_study(tiny, embedded, jobs=2, folder=tmp_path).records == done.records


def test_a_scheduler_that_is_not_there_is_one_line_after_a_time_out(tiny, embedded, tmp_path, monkeypatch):
    monkeypatch.setattr(scheduling, "CONNECT", 1)
    with pytest.raises(LabError, match=r"no scheduler answers at tcp://127\.0\.0\.1:9 within 1 s") as caught:
        lab.run_study(tiny, embedded, scheduler="tcp://127.0.0.1:9", folder=tmp_path)
    assert "\n" not in str(caught.value)
