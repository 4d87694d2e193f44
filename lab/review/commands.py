"""The command `lab review`, which the command line registers. Loads no torch."""

import ast
import hashlib
import json
import os
import re
import struct
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import track
from rich.table import Table
from rich.text import Text

import lab
from lab.errors import InputError, require
from lab.files import data_root, output_errors, staged_output, to_json
from lab.review.feedback import Level
from lab.review.grading import COLUMNS, Graded, Rubric, class_page, grade, read_rubric, student_page, to_csv
from lab.review.running import Outcome, run_submission

LARGEST = 100  # MB of a file
Files = Annotated[list[Path], typer.Argument(help="Notebooks (.ipynb), scripts (.py), or folders of them.")]


def review(
    files: Files,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON, and nothing else.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print a row for each submission, and nothing else.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds that each program may take.")] = 600.0,
    jobs: Annotated[int, typer.Option(help="How many run at a time; by default, one for each core.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder of the pages; lab-review for more than one file.")] = None,
    rubric: Annotated[Path | None, typer.Option(help="Points of tasks and mistakes, in TOML.")] = None,
    adapter: Annotated[Path | None, typer.Option(help="Python to run after each: equivariance = my_metric")] = None,
    level: Annotated[Level, typer.Option(help="How much is said.")] = "nudge",
    solution: Annotated[bool, typer.Option("--solution", help="Say also how to do it right.")] = False,
) -> None:
    """Run what students hand in, each in a process of its own; say which mistakes it holds, and give points.

    The process has limits of time, memory and disk, a folder of its own to write into, and no network. It is no
    sandbox: do not run what may mean harm.
    """
    require(sys.platform != "win32", "lab review needs limits that Windows has not: use Linux, macOS or WSL")
    require(not (as_json and as_csv), "what is printed is --json or --csv: not both")
    require(timeout > 0 and jobs >= 0, f"timeout must be above 0 and jobs at least 0: {timeout:g}, {jobs}")
    rules, code, paths = read_rubric(rubric), _adapter(adapter), _found(files)
    if not out and (len(paths) > 1 or paths != files):
        out = Path("lab-review")
    names = _names(paths)
    done = _outcomes(names, code, timeout, jobs or os.cpu_count() or 1, out)
    graded = [grade(_plain(path), *done[path], rules) for path in paths]
    if out:
        _write(out, dict(zip(names.values(), graded, strict=True)), rules, level, solution)
    if as_json or as_csv:
        typer.echo(_to_json(graded) if as_json else to_csv(graded), nl=False)
    else:
        _show(graded, rules, level, solution, out)
    _check_all_ran(graded)


def _check_all_ran(graded: Sequence[Graded]) -> None:
    """Refuse what was given and is no submission.

    Raises:
        InputError: which, and why.
    """
    wrong = [f"{one.file}: {one.outcome.error}" for one in graded if not one.digits]
    require(not wrong, f"{len(wrong)} of {len(graded)} could not be run: {'; '.join(wrong)}")


def _adapter(path: Path | None) -> str:
    """The adapter's source, which Python can read.

    Raises:
        InputError: it cannot be read.
    """
    try:
        source = path.read_text(encoding="utf-8") if path else ""
        ast.parse(source)
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"the adapter {path} cannot be read: {error}") from None
    return source


def _found(files: Sequence[Path]) -> list[Path]:
    """The files, and what is in the folders, each once; a folder that holds none stands for itself."""
    paths: list[Path] = []
    for given in files:
        paths += [path for path in sorted(given.rglob("*")) if _is_program(path, given)] or [given]
    return list(dict.fromkeys(paths))


def _is_program(path: Path, folder: Path) -> bool:
    hidden = re.search(r"(^|/)(\.|__pycache__)", str(path.relative_to(folder)))
    return path.suffix in (".ipynb", ".py") and not path.is_dir() and not hidden


def _names(paths: Sequence[Path]) -> dict[Path, str]:
    """Path -> a file name of its own, from where it is below the folder that holds all of them."""
    common = os.path.commonpath([path.absolute().parent for path in paths])
    names = {}
    for path in paths:
        inner = _plain(path.absolute().relative_to(common))
        plain = re.sub(r"[^\w./-]", "_", inner)[:100].replace("/", "+")
        same = plain.replace("+", "/") == inner
        names[path] = plain if same else f"{plain}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"
    return names


def _plain(path: Path) -> str:
    """A path as text without what commands a terminal, or is no text."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in str(path))


def _content(path: Path) -> bytes:
    """What is in a submission.

    Raises:
        InputError: it is none, or cannot be read.
    """
    require(not path.is_dir(), "the folder holds no notebook (.ipynb) and no script (.py)")
    require(path.exists(), "there is no such file")
    require(path.is_file() and path.suffix in (".ipynb", ".py"), "it is neither a notebook (.ipynb) nor a script (.py)")
    require(path.stat().st_size < LARGEST * 1e6, f"it is larger than {LARGEST} MB")
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"it cannot be read: {error.strerror}") from None


Done = dict[Path, tuple[str, Outcome]]


def _outcomes(names: dict[Path, str], adapter: str, timeout: float, jobs: int, out: Path | None) -> Done:
    """Path -> on which digits it was run, and what came of it; from an earlier start, where nothing has changed."""
    package = sorted(path for path in Path(lab.__file__).parent.rglob("*") if path.suffix in (".py", ".toml", ".npz"))
    code = hashlib.sha256(b"".join(path.read_bytes() for path in package) + adapter.encode()).digest()
    done, keys = Done(), dict[Path, str]()
    for path, name in names.items():
        try:
            keys[path] = hashlib.sha256(code + _content(path)).hexdigest()
        except InputError as error:
            done[path] = "", Outcome(str(error), [], 0.0, [])
        if out and path in keys and (kept := _kept(out / "runs" / f"{name}.json", keys[path], timeout)):
            done[path] = kept
    todo = [path for path in names if path not in done]
    for path, digits, outcome in _run(todo, adapter, timeout, jobs) if todo else ():
        done[path] = digits, outcome
        if out:
            record = {"key": keys[path], "timeout": timeout, "digits": digits, "outcome": asdict(outcome)}
            _write_files(out / "runs", {f"{names[path]}.json": to_json(record)})
    return done


def _kept(path: Path, key: str, timeout: float) -> tuple[str, Outcome] | None:
    """What an earlier start found, if nothing has changed; an error stands only under the same time limit."""
    with suppress(OSError, ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["key"] == key and (found["timeout"] == timeout or not found["outcome"]["error"]):
            return found["digits"], Outcome(**found["outcome"])
    return None


def _run(paths: Sequence[Path], adapter: str, timeout: float, jobs: int) -> Iterator[tuple[Path, str, Outcome]]:
    """Each as soon as it is done; what still runs when this is left ends with it."""
    stop, told = Event(), Console(stderr=True)
    shared_folder = TemporaryDirectory(prefix="lab-review-digits-")
    with output_errors(Path("the temporary folder")), shared_folder as shared, ThreadPoolExecutor(jobs) as pool:
        try:
            digits = _prepare(Path(shared))
            futures = {pool.submit(run_submission, path, adapter, timeout, Path(shared), stop): path for path in paths}
            quiet: Any = {"console": told, "transient": True, "disable": not told.is_terminal}
            for future in track(as_completed(futures), "Running", len(paths), **quiet):
                yield futures[future], digits, future.result()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def _prepare(shared: Path) -> str:
    """Put MNIST's files, if need be of the embedded digits, and matplotlib's cache into a folder; which digits."""
    from matplotlib import font_manager, get_cachedir  # noqa: F401  # which looks for fonts, once for all

    mnist = lab.load_mnist()
    (shared / "matplotlib").symlink_to(get_cachedir())
    if mnist.name == "MNIST":
        (shared / "MNIST").symlink_to((data_root() / "MNIST").resolve())
        return "MNIST"
    raw = shared / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, split in (("train", mnist.train), ("t10k", mnist.test)):
        pixels, labels, n = (split.images * 255).round().byte(), split.labels.byte(), len(split)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 0x803, n, 28, 28) + pixels.numpy().tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, n) + labels.numpy().tobytes())
    return mnist.name


def _write(out: Path, graded: dict[str, Graded], rubric: Rubric, level: Level, solution: bool) -> None:
    """A page for each, and the class."""
    pages = {f"{name}.html": student_page(one, rubric, level, solution) for name, one in graded.items()}
    every = [*graded.values()]
    pages |= {"class.html": class_page(graded, rubric), "class.csv": to_csv(every)}
    _write_files(out, pages | {"class.json": _to_json(every)})


def _to_json(graded: Sequence[Graded]) -> str:
    plain: Any = [one.to_dict() for one in graded]
    return to_json(plain)


def _write_files(folder: Path, texts: dict[str, str]) -> None:
    with staged_output(folder) as stage, output_errors(folder):
        for name, text in texts.items():
            (stage / name).write_text(text, encoding="utf-8", errors="replace")


def _show(graded: Sequence[Graded], rubric: Rubric, level: Level, solution: bool, out: Path | None) -> None:
    """The table of the class; the feedback in words, if there is one submission."""
    console = Console(highlight=False)
    table = Table("File", "Points", f"What was found, of {rubric.most:g} points", box=SIMPLE_HEAD, pad_edge=False)
    for one in graded:
        open_tasks = {feedback.task for feedback in one.feedback if not feedback.passed}
        cells = dict(zip(COLUMNS, one.row(), strict=True))
        said = [f"{task}: {text}" for task, text in cells.items() if task in open_tasks]
        found = "\n".join([one.outcome.error or "", *said]).strip() or "right"
        table.add_row(*(Text(cell, overflow="fold") for cell in (one.file, f"{one.points:g}", found)))
    console.print(table)
    for feedback in graded[0].feedback if len(graded) == 1 else ():
        console.print(Markdown(feedback.text(level) + (f"\n\n{feedback.solution()}" if solution else "")))
    console.print(Text(f"Pages: {out}" if out else "For pages, say --out FOLDER."), soft_wrap=True)
