"""Runs what a student handed in, in a process of its own, and has it reviewed there.

The process gets a scratch folder for all that it writes, limits of time, memory and disk, and no network. That keeps
the mistakes of one program from the others. It is no sandbox: a program that means harm finds a way around it.
"""

import ast
import faulthandler
import json
import linecache
import os
import re
import signal
import sys
import time
import tokenize
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from subprocess import DEVNULL, Popen
from tempfile import TemporaryDirectory, TemporaryFile
from threading import Event
from traceback import TracebackException
from types import ModuleType, SimpleNamespace
from typing import Any

from lab.errors import InputError, LabError, require

REVIEW_SECONDS = 120  # for the review, beside the program's own time
MEMORY, DISK = 4, 1  # GiB: for each process, and in all
FORKS = 500  # child processes of a program; theirs have none
KEPT = ("PATH", "PYTHONPATH", "LD_", "LANG", "CUDA", "VIRTUAL_ENV", "CONDA")  # how variables begin that it gets
PART = re.compile(r"script|adapter|cell \d+")  # what the parts of a program are compiled as
MAGIC = re.compile(r"\s*(\w+\s*=\s*)?[%!?]|[^#'\"]*\?\s*$")  # lines that Jupyter understands, and Python does not
PYTHON_BELOW = ("%%time", "%%capture", "%%prun")  # cells of Python, all the same; %%timeit is one
# IPython's, otter's
SILENT = ("run_line_magic", "run_cell_magic", "system", "getoutput", "check", "check_all", "export")
CONTROL = re.compile(r"\\u00[0189][0-9a-f]")  # characters that command a terminal, as JSON writes them
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = (
    "os.remove os.mkdir os.rmdir os.truncate os.chmod os.chown os.utime os.rename os.link os.symlink shutil.rmtree"
)


class _TimeUpError(BaseException):
    """The time is over; no `except Exception` of a program holds it up."""


SENTENCES: list[tuple[type[BaseException], str, str]] = [  # an error, a part of its text -> what the student reads
    (_TimeUpError, "", "is still running when its time is over"),
    (SystemExit, "", "ends the program, as exit() does; what follows was not run"),
    (EOFError, "reading a line", "asks for input(), and nobody answers"),
    (OSError, "File too large", f"writes a file of more than {DISK} GB"),
    (MemoryError, "", f"needs more than {MEMORY} GB of memory"),
    (RuntimeError, "can't allocate memory", f"needs more than {MEMORY} GB of memory"),
]


@dataclass(frozen=True)
class Outcome:
    """What came of one submission.

    Attributes:
        error: what kept the program from its end, in a sentence; None where nothing did.
        notes: what else there is to know, such as lines that were left out.
        seconds: how long it took, its review included.
        feedback: what `lab.review` found, a task each, as plain values.
    """

    error: str | None
    notes: Sequence[str]
    seconds: float
    feedback: Sequence[dict[str, Any]]


def run_submission(path: Path, adapter: str, seconds: float, shared: Path, stop: Event) -> Outcome:
    """Run a notebook or script, and review what it defines, in a process that ends with all that it started.

    Args:
        path: of the submission.
        adapter: Python that runs after it, statement by statement, and maps its names to the agreed ones.
        seconds: how long the program may take, and again the adapter.
        shared: a folder with MNIST's files in `MNIST/raw`, and matplotlib's cache in `matplotlib`; they are only read.
        stop: when set, it is ended.

    Raises:
        LabError: no process can be started.
    """
    start = time.monotonic()
    with TemporaryDirectory(prefix="lab-review-", ignore_cleanup_errors=True) as folder, TemporaryFile("w+") as results:
        scratch = Path(folder).resolve()
        for place in ("lab", "work", "work/data"):  # for `lab.load_mnist`, and where programs often look
            (scratch / place).mkdir()
            (scratch / place / "MNIST").symlink_to(shared / "MNIST")
        job = json.dumps([str(path.resolve()), adapter, seconds, results.fileno()])
        streams: Any = {"stdin": DEVNULL, "stdout": DEVNULL, "stderr": DEVNULL, "pass_fds": [results.fileno()]}
        command, at = [sys.executable, "-m", "lab.review.running", job], scratch / "work"
        process = Popen(command, cwd=at, env=_environment(scratch, shared), start_new_session=True, **streams)
        try:
            ended = _wait(process, scratch, start + 2 * seconds + 2 * REVIEW_SECONDS, stop)
        finally:
            _end_all(process.pid, scratch)
            process.wait()
        results.seek(0)
        return _outcome(results.read(), ended, time.monotonic() - start)


def _environment(scratch: Path, shared: Path) -> dict[str, str]:
    """Nothing of the caller's but what Python needs: no display, no home, no secret; one thread."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(KEPT)}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    folders = {"HOME": scratch, "TMPDIR": scratch, "LAB_DATA": scratch / "lab", "MPLCONFIGDIR": shared / "matplotlib"}
    others = {"MPLBACKEND": "agg", "PYTHONUTF8": "1", "PIP_NO_INDEX": "1"}
    return kept | threads | others | {name: str(folder) for name, folder in folders.items()}


def _wait(process: "Popen[bytes]", scratch: Path, end: float, stop: Event) -> str:
    """How it ended, or why it has to be ended."""
    while process.poll() is None:
        if stop.wait(0.2):
            return "is stopped"
        with suppress(OSError):  # a file that is just being removed
            if sum(path.lstat().st_size for path in scratch.rglob("*")) > DISK * 2**30:
                return f"writes more than {DISK} GB"
        if time.monotonic() > end:
            return "is still running when its time is over, and cannot be interrupted"
    return _ending(process.returncode)


def _ending(code: int) -> str:
    """What the exit code of a process says."""
    if code == -signal.SIGKILL:
        return "is ended by the system, as happens when memory runs out"
    return f"crashes: {signal.strsignal(-code)}" if code < 0 else f"ends at once with code {code}, as by os._exit()"


def _end_all(pid: int, scratch: Path) -> None:
    """End its group, and those that left the group and still have the scratch folder among their variables."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if os.fsencode(scratch) in path.read_bytes():
                os.kill(int(path.parent.name), signal.SIGKILL)


def _outcome(text: str, ended: str, seconds: float) -> Outcome:
    """From the records that the process left, the last of which is missing where it died."""
    found: dict[str, list[Any]] = {key: [] for key in ("at", "note", "error", "feedback", "done")}
    for line in text.splitlines():
        with suppress(ValueError, AttributeError):  # what a crash leaves is no record
            for key, value in json.loads(CONTROL.sub(r"\\ufffd", line)).items():
                found[key] += [value] if value is not None else []
    if not found["at"]:
        raise LabError(f"no process can be started for a submission: it {ended}")
    if not found["done"]:
        crash = re.search(rf'File "({PART.pattern})", line (\d+)', text)
        where = f"{crash[1]}, line {crash[2]}" if crash else found["at"][-1]
        found["error"].append(f"{where.removeprefix('script, ')}: {ended}")
    return Outcome("; ".join(found["error"]) or None, found["note"], round(seconds, 1), found["feedback"])


def main() -> None:
    """In the process: run the program, then the adapter, then the review; write each down as soon as it is known."""
    path, adapter, seconds, handle = json.loads(sys.argv[1])
    results, own = os.fdopen(handle, "w"), os.getpid()

    def tell(**record: Any) -> None:
        if os.getpid() != own:
            os._exit(0)  # a copy that the program made of itself, by a fork
        results.write(json.dumps(record) + "\n")
        results.flush()

    faulthandler.enable(results)
    faulthandler.dump_traceback_later(2 * seconds + 1.5 * REVIEW_SECONDS, exit=True, file=results)
    tell(at="the start")
    names = _prepare(Path(path), adapter)
    tell(error=_attempt(partial(_run_program, Path(path), names, tell), seconds))
    for statement in ast.parse(adapter, "adapter").body:
        code = compile(ast.Module([statement], []), "adapter", "exec")
        tell(note=_attempt(partial(exec, code, names), seconds))
    tell(at="the review")
    tell(error=_attempt(partial(_review, names, tell), REVIEW_SECONDS), done=True)
    os._exit(0)  # threads of the program may go on for ever


def _attempt(step: Callable[[], object], seconds: float) -> str | None:
    """Take a step, which an alarm ends, and again each second should that be caught; what happened, and where."""

    def end(*_: object) -> None:
        raise _TimeUpError

    signal.signal(signal.SIGALRM, end)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds, 1)
        step()
        signal.setitimer(signal.ITIMER_REAL, 0)
    except BaseException as error:  # a program may raise whatever it likes
        signal.setitimer(signal.ITIMER_REAL, 0)
        return _sentence(error)
    return None


def _sentence(error: BaseException) -> str:
    """The line of the program where it happened, the line that led there, and what."""
    seen = TracebackException.from_exception(error)
    frames: list[Any] = [*seen.stack, error] if isinstance(error, SyntaxError) else [*seen.stack]
    spots = [_spot(frame) for frame in frames if PART.fullmatch(frame.filename or "")]
    text = [*seen.format_exception_only()][-1 if isinstance(error, SyntaxError) else 0].strip().partition("\n")[0]
    fits = (sentence for kind, part, sentence in SENTENCES if isinstance(error, kind) and part in text)
    what = next(fits, text.removeprefix("lab.errors.InputError: ")[:300])
    return f"{' → '.join(dict.fromkeys([*spots[:1], *spots[-1:]])) or 'the file'}: {what}"


def _spot(frame: Any) -> str:
    code = linecache.getline(frame.filename, frame.lineno).strip()[:80]
    return f"{frame.filename}, line {frame.lineno} (`{code}`)".removeprefix("script, ").replace(" (``)", "")


def _run_program(path: Path, names: dict[str, Any], tell: Callable[..., None]) -> None:
    parts = _parts(path)
    require(any(source.strip() for _, source in parts), "there is no code in it")
    for part, source in parts:
        tell(at=part.replace("script", "the program"))
        linecache.cache[part] = (len(source), None, source.splitlines(True), part)
        tree = _parsed(part, source, tell)
        try:
            exec(compile(tree, part, "exec"), names)
        except SystemExit as error:
            last = [frame for frame in TracebackException.from_exception(error).stack if frame.filename == part][-1]
            if error.code or part != parts[-1][0] or (last.lineno or 0) < tree.body[-1].lineno:
                raise  # all but `sys.exit(main())` at the end


def _parts(path: Path) -> list[tuple[str, str]]:
    """Name and source: of a script, or of each cell of a notebook that holds code.

    Raises:
        InputError: the file is neither.
    """
    try:
        if path.suffix == ".py":
            with tokenize.open(path) as file:
                return [("script", file.read())]
        cells = [cell for cell in json.loads(path.read_bytes())["cells"] if cell["cell_type"] == "code"]
        return [(f"cell {number}", _source(cell)) for number, cell in enumerate(cells, 1)]
    except (ValueError, SyntaxError, LookupError, TypeError, AttributeError, RecursionError):
        kind = "a script in UTF-8" if path.suffix == ".py" else "a notebook of format 4, which Jupyter writes today"
        raise InputError(f"it is not {kind}") from None


def _source(cell: dict[str, Any]) -> str:
    """Of a cell; a test of nbgrader's, which may fail and end all, is one that is left out."""
    role = cell.get("metadata", {}).get("nbgrader", {})
    return "%%nbgrader, a test" if role.get("grade") and not role.get("solution") else "".join(cell["source"])


def _parsed(part: str, source: str, tell: Callable[..., None]) -> ast.Module:
    """What Python can read; tells which lines are left out, because they are for Jupyter or a shell."""
    other = source.startswith("%%") and not source.startswith(PYTHON_BELOW)
    lines = source.split("\n")[: 1 if other else None]
    while True:
        try:
            return ast.parse("\n".join(lines), part)
        except SyntaxError as error:
            at = (error.lineno or 0) - 1
            if not (0 <= at < len(lines) and MAGIC.match(lines[at])):
                raise
            tell(note=f"{part}, line {at + 1}, is left out: {lines[at].strip()}")
            lines[at] = re.sub(r"\S.*", "pass", lines[at])


def _review(names: dict[str, Any], tell: Callable[..., None]) -> None:
    from lab.review.submissions import one_by_one

    for feedback in one_by_one(names):
        tell(feedback=feedback.to_dict())


def _prepare(path: Path, adapter: str) -> dict[str, Any]:
    """Limits, guards, and what a program expects to find; the namespace it runs in."""
    import resource  # which Windows has not

    import torch

    from lab.review import submissions  # noqa: F401  # from here on, all that it needs is loaded

    scratch = os.environ["TMPDIR"]
    torch.set_num_threads, torch.save = _nothing, partial(_save, torch.save)
    if b"torchvision" in path.read_bytes() + adapter.encode():
        _find_digits(f"{scratch}/lab/MNIST/raw")
    for what, amount in ((resource.RLIMIT_DATA, MEMORY), (resource.RLIMIT_FSIZE, DISK), (resource.RLIMIT_CORE, 0)):
        with suppress(ValueError):  # the system allows less
            resource.setrlimit(what, (amount * 2**30, amount * 2**30))
    module = sys.modules["__main__"] = ModuleType("__main__")
    vars(module).update(display=_nothing, get_ipython=_silent)
    sys.modules["otter"] = otter = ModuleType("otter")
    vars(otter).update(Notebook=_silent)
    vars(module).update({"__file__": str(path)} if path.suffix == ".py" else {})
    sys.argv, sys.dont_write_bytecode = [str(path)], True
    sys.path.append(str(path.parent))  # last, so that a file there hides no package
    sys.addaudithook(partial(_guard, scratch, os.getpid(), count(1)))
    return vars(module)


def _nothing(*_args: object, **_options: object) -> None:
    """What a call does that means nothing here."""


def _silent(*_args: object, **_options: object) -> SimpleNamespace:
    """In place of IPython's shell, and of otter-grader's notebook, whose tests are not run here."""
    return SimpleNamespace(**dict.fromkeys(SILENT, _nothing))


def _save(save: Callable[..., None], obj: object, f: Any, *args: Any, **options: Any) -> None:
    """`torch.save`, which by itself opens a file where no guard sees it."""
    with open(f, "wb") if isinstance(f, str | os.PathLike) else nullcontext(f) as file:
        save(obj, file, *args, **options)


def _find_digits(raw: str) -> None:
    """Have torchvision's MNIST find its files, whatever its folder; and put them there, where it may."""
    from torchvision.datasets import MNIST

    usual = MNIST.raw_folder.fget

    def raw_folder(self: Any) -> str:
        if self.resources is not MNIST.resources:  # FashionMNIST and the like
            return str(usual(self))
        with suppress(OSError):
            os.makedirs(os.path.dirname(usual(self)), exist_ok=True)
            os.symlink(raw, usual(self))
        return raw

    MNIST.raw_folder = property(raw_folder)


def _guard(scratch: str, own: int, forks: Iterator[int], event: str, args: tuple[Any, ...]) -> None:
    """Refuse to fork without end, to reach the network, and to write outside of a folder.

    Raises:
        RuntimeError: too many processes.
        OSError: the network, or a file outside.
    """
    if event == "os.fork" and os.getpid() != own:
        os._exit(1)  # a copy makes no copies
    if event == "os.fork" and next(forks) > FORKS:
        raise RuntimeError("starts too many processes")
    if event in ("socket.connect", "socket.getaddrinfo"):
        _check_host(args[0] if event == "socket.getaddrinfo" else args[1][0])
    changed = args[event == "os.symlink" : 2] if event in CHANGES.split() else ()
    if event == "open" and isinstance(args[2], int) and args[2] & WRITES:
        changed = args[:1]
    for path in changed:
        if isinstance(path, str | bytes | os.PathLike) and not _is_own(os.fsdecode(path), scratch):
            raise PermissionError(f"writes outside of its own folder, which a review does not allow: {path!s}")


def _check_host(host: object) -> None:
    if isinstance(host, str) and not host.startswith(("127.", "::1", "localhost", "/")):  # "/": within this machine
        raise OSError(f"there is no network in a review: {host}")


def _is_own(path: str, scratch: str) -> bool:
    real = os.path.realpath(path)
    return real == os.devnull or real.startswith(scratch + os.sep)


if __name__ == "__main__":
    main()
