"""How long a run takes, what a second job gains, and what Dask costs on one machine. Wants two idle cores."""

import time
from statistics import median

import pytest
from distributed import Client, LocalCluster
from test_speed import report

import lab
from lab.study import runs
from lab.study.plans import Run, Study

FULL_SIZE = lab.Setting(digits=8_000, epochs=3, width=16, padding="none")  # as PooledCNN
FACTORS = {"pooling": ["max", "average"], "head": ["maximum"], "digits": [2_000], "epochs": [1]}
SEEDS = 10  # 20 runs: what a study costs once, a second, is small beside them


@pytest.fixture(autouse=True)
def _no_network():
    """In place of the tests' guard: Dask's processes talk to each other on this machine."""


@pytest.fixture(scope="module")
def mnist():
    return lab.load_mnist("embedded")


def seconds(mnist, folder, **how):
    start = time.perf_counter()
    found = lab.run_study(Study("speed", "How fast?", SEEDS, FACTORS), mnist, folder=folder, **how)
    assert not [record.failure for record in found.failed]
    return time.perf_counter() - start


def share(spent: dict[str, float]) -> float:
    return 100 * spent["measuring"] / sum(spent.values())


def test_one_run_and_the_share_of_measuring(mnist):
    expected = (runs.version(), mnist.sha256)
    for what, setting in {"full size": FULL_SIZE, "of the page": lab.Setting(head="maximum")}.items():
        spent = runs.execute(Run(setting, 0), "embedded", "", expected).seconds
        report(f"one run, {what}", sum(spent.values()), "12", "s")
        report(f"one run, {what}: measuring", share(spent), "33", "%")


def test_two_jobs_against_one_and_dask_against_processes(mnist, tmp_path, monkeypatch):
    monkeypatch.setenv("DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED", "False")  # as docs/studies.md tells
    seconds(mnist, tmp_path / "warm", jobs=2)  # processes are started, and torch is loaded
    one, two = seconds(mnist, tmp_path / "1", jobs=1), seconds(mnist, tmp_path / "2", jobs=2)
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        address = client.scheduler.address
        seconds(mnist, tmp_path / "dask-warm", scheduler=address)
        ratios = []
        for turn in range(3):
            plain = seconds(mnist, tmp_path / f"plain-{turn}", jobs=2)
            ratios.append(seconds(mnist, tmp_path / f"dask-{turn}", scheduler=address) / plain)
    report("two jobs against one", one / two, "1.7")
    report("Dask on one machine against processes, median of three", 100 * (median(ratios) - 1), "15", "%")
