"""Doing all runs of a study: by processes of this machine, through joblib, or by workers of a Dask scheduler.

Records are kept one by one, here, as they come in. Whatever ends a study, what was done stays done.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lab.data import Mnist
from lab.errors import LabError, require
from lab.files import data_root, output_errors
from lab.study.plans import Run, Study
from lab.study.results import StudyResult
from lab.study.runs import Record, execute, keep, kept, version

if sys.platform != "win32":
    import fcntl

CONNECT = 10  # seconds until a scheduler that does not answer, or a worker, counts as not there
AGAIN = "start again to go on"


def run_study(
    study: Study,
    mnist: Mnist,
    *,
    jobs: int = 1,
    scheduler: str = "",
    folder: Path | None = None,
    progress: bool = False,
) -> StudyResult:
    """Do all runs of a study that were not done before.

    Args:
        study: from [`load_study`][lab.study.plans.load_study].
        mnist: the data; every worker loads its own copy, and refuses to work with another.
        jobs: processes on this machine, each with one thread; -1 for as many as it has cores.
        scheduler: address of a Dask scheduler, such as `"tcp://10.0.0.1:8786"`; its workers do the runs then.
        folder: of the records; by default `studies` in the data root.
        progress: show a bar and an estimate on standard error.

    Returns:
        One record for each run, in the study's order; those that failed say why.

    Raises:
        InputError: no job.
        LabError: the scheduler does not answer or has no worker; a worker has other code or data than this process, or
            died too often. What was done is kept.
        OutputError: the disk takes no more records. Likewise.
    """
    require(jobs >= 1 or jobs == -1, f"jobs must be at least 1, or -1 for all cores: {jobs}")
    folder = folder or data_root() / "studies"
    runs = list(study.runs())
    with _alone(folder, f"{study.name}-{mnist.name}"):
        found = {run: record for run in runs if (record := kept(folder, run, mnist.sha256))}
        missing = [run for run in runs if run not in found]
        with _bar(len(runs), len(found), shown=progress) as advance:
            for record in _records(missing, mnist, jobs, scheduler) if missing else ():
                keep(folder, record, mnist.sha256)
                found[Run(record.setting, record.seed)] = record
                advance()
    return StudyResult(study, tuple(found[run] for run in runs), mnist.name, mnist.sha256, version())


def _records(runs: Sequence[Run], mnist: Mnist, jobs: int, scheduler: str) -> Iterator[Record]:
    """Records in the order in which they are done."""
    source = "full" if mnist.name == "MNIST" else "embedded"
    given = source, str(data_root()), (version(), mnist.sha256)
    return _of_workers(runs, given, scheduler) if scheduler else _of_processes(runs, given, jobs)


def _of_processes(runs: Sequence[Run], given: tuple[Any, ...], jobs: int) -> Iterator[Record]:
    """By processes of this machine; by this one, for a single job."""
    from joblib import Parallel, delayed  # takes a quarter of a second, and only this needs it
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    tasks = (delayed(execute)(run, *given) for run in runs)
    try:
        yield from Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1, pre_dispatch="all")(tasks)
    except TerminatedWorkerError as error:
        raise LabError(f"a worker process was killed, as by a lack of memory; {AGAIN}") from error


def _of_workers(runs: Sequence[Run], given: tuple[Any, ...], scheduler: str) -> Iterator[Record]:
    """By the workers of a scheduler.

    Not through joblib's backend for Dask: with a single worker it does the runs in this process, and where a run has
    killed its workers it waits for ever.
    """
    try:
        from distributed import Client, KilledWorker, as_completed
    except ImportError as error:
        raise LabError("--scheduler needs the extra cluster: pip install 'equivariance-lab[cluster]'") from error
    try:
        client = Client(scheduler, timeout=CONNECT)
    except (OSError, ValueError) as error:
        raise LabError(f"no scheduler answers at {scheduler} within {CONNECT} s: {error}") from error
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT)
            for future in as_completed([client.submit(execute, run, *given, pure=False) for run in runs]):
                yield future.result()
        except TimeoutError as error:
            raise LabError(f"the scheduler at {scheduler} has no worker within {CONNECT} s") from error
        except KilledWorker as error:
            raise LabError(f"one run has killed its workers, as by a lack of memory; {AGAIN}") from error
        except CancelledError as error:
            raise LabError(f"the scheduler at {scheduler} is gone; {AGAIN}") from error


@contextmanager
def _alone(folder: Path, name: str) -> Iterator[None]:
    """Wait while another process does the same study here, then find its records. The lock ends with its process."""
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / f".{name}.lock").open("w")
    with lock:
        if sys.platform != "win32":
            with suppress(OSError):  # some network disks know no locks; then both do all of it
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _bar(total: int, done: int, *, shown: bool) -> Iterator[Callable[[], object]]:
    """A function that moves the bar on by one run."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), disable=not shown, transient=True) as bar:
        task = bar.add_task("runs", total=total, completed=done)
        yield lambda: bar.advance(task)
