"""Run a walkthrough: percent script in, executed notebook out.

Everything that an executed notebook depends on, besides its own text, goes into `digest`; so the results of a change
here are never taken from the cache.
"""

import hashlib
import os
import platform
import re
import tempfile
from collections.abc import Iterator
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import yaml
from mkdocs.exceptions import PluginError
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError

from lab.files import data_root

HOOKS = Path(__file__).resolve().parent
ROOT = HOOKS.parents[1]
VERSIONS = ("torch", "torchvision", "numpy", "matplotlib")
CELL_TIMEOUT = 900  # seconds; the longest cell trains for half a minute on two idle cores
EXPRESSION = re.compile(r"\{\{ (.+?) ?\}\}")
VALUES = "application/vnd.equivariance-lab.values+json"
OPTION = "#|"


def digest() -> str:
    """Of the package, of what executes and draws, of the data set that is there, and of the versions."""
    total = hashlib.sha256(platform.python_version().encode())
    for name in (*VERSIONS, "nbclient", "ipykernel", "jupytext"):
        total.update(f"{name}={version(name)}".encode())
    sources = [path for path in (ROOT / "lab").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    for path in sorted([*sources, HOOKS / "execution.py", HOOKS / "matplotlibrc"]):
        total.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    for path in sorted((data_root() / "MNIST" / "raw").glob("*-ubyte")):
        total.update(path.name.encode() + path.read_bytes())
    return total.hexdigest()[:16]


def options(source: str) -> dict[str, Any]:
    """The options in a code cell's first lines, YAML behind `#|`."""
    lines = [line for line in source.splitlines() if line.startswith(OPTION)]
    return yaml.safe_load("\n".join(line.removeprefix(OPTION).removeprefix(" ") for line in lines)) or {}


def without_options(source: str) -> str:
    """The cell as the page shows it."""
    return "\n".join(line for line in source.splitlines() if not line.startswith(OPTION)).strip("\n")


def cell_lines(path: Path) -> list[int]:
    """The line on which each cell's source begins, counted from 1."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [number + 1 for number, line in enumerate(lines, 1) if line.startswith("# %%")]


def execute(path: str | Path, **_: object) -> str:
    """The executed notebook as JSON, with the values of its `{{ expressions }}` filled in.

    Raises:
        PluginError: a cell failed; names the page, the line and the error.
    """
    path = Path(path)
    name = f"docs/{path.parent.name}/{path.name}"
    notebook = _with_probes(jupytext.read(path), cell_lines(path))
    env = {**os.environ, "MATPLOTLIBRC": str(HOOKS / "matplotlibrc")}
    env.setdefault("OMP_NUM_THREADS", "1")  # the last bits depend on it; see TrainConfig.threads
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        resources={"metadata": {"path": str(ROOT)}},
        extra_arguments=["--matplotlib=inline", "--InlineBackend.figure_formats=svg", "--log-level=ERROR"],
    )
    with tempfile.TemporaryFile("w+") as log:  # what the kernel itself says, such as noise when it is shut down
        try:
            client.execute(env=env, stdout=log, stderr=log)
        except (CellExecutionError, CellTimeoutError, RuntimeError) as error:  # the last: a kernel that dies
            log.seek(0)
            raise PluginError(_failure(name, notebook, error, log.read())) from None
    seconds = _seconds(notebook)
    notebook = _fill_in(notebook)
    notebook.metadata["lab"] = {
        "seconds": seconds,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in VERSIONS}},
    }
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return nbformat.writes(notebook)


def _text(cell: Any) -> str:
    """What may hold expressions: a Markdown cell, or the `text` of a code cell."""
    return cell.source if cell.cell_type == "markdown" else str(options(cell.source).get("text", ""))


def _with_probes(notebook: Any, lines: list[int]) -> Any:
    """Before each Markdown cell with expressions, and after each code cell whose text has some, a cell of them."""
    cells = []
    for cell, line in zip(notebook.cells, lines, strict=True):
        cell.metadata["line"] = line
        probes = []
        if expressions := EXPRESSION.findall(_text(cell)):
            values = ", ".join(f"f{'{' + expression + '}'!r}" for expression in expressions)
            code = f"from IPython.display import display\ndisplay({{{VALUES!r}: [{values}]}}, raw=True)"
            metadata = {"line": line, "probe": expressions, "of": cell.cell_type}
            probes = [nbformat.v4.new_code_cell(code, metadata=metadata)]
        cells += [*probes, cell] if cell.cell_type == "markdown" else [cell, *probes]
    notebook.cells = cells
    return notebook


def _fill_in(notebook: Any) -> Any:
    """Replace the expressions by the values that the probes found, and drop the probes."""
    cells, waiting = [], iter(())
    for cell in notebook.cells:
        if "probe" in cell.metadata:
            values = iter(cell.outputs[0].data[VALUES])
            if cell.metadata["of"] == "code":
                cells[-1].metadata["text"] = _replace(_text(cells[-1]), values)
            else:
                waiting = values
            continue
        if cell.cell_type == "markdown":
            cell.source = _replace(cell.source, waiting)
            waiting = iter(())
        cell.metadata.pop("execution", None)
        if any("image/svg+xml" in output.get("data", {}) for output in cell.get("outputs", [])):
            cell.outputs = [output for output in cell.outputs if "image/svg+xml" in output.get("data", {})]
        cells.append(cell)
    notebook.cells = cells
    return notebook


def _replace(text: str, values: Iterator[str]) -> str:
    return EXPRESSION.sub(lambda match: next(values), text)


def _seconds(notebook: Any) -> float:
    """From the first cell's start to the last one's end."""
    times = [cell.metadata["execution"] for cell in notebook.cells if "execution" in cell.metadata]
    start, end = times[0]["iopub.execute_input"], times[-1]["shell.execute_reply"]
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def _failure(name: str, notebook: Any, error: Exception, log: str) -> str:
    """The page, the line and the error of the cell that failed."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                trace = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(output.traceback))
                where = re.search(r"Cell In\[\d+\], line (\d+)", trace)
                line = cell.metadata["line"] + (int(where[1]) - 1 if where and "probe" not in cell.metadata else 0)
                what = f" in {{{{ }}}} ({'; '.join(cell.metadata['probe'])})" if "probe" in cell.metadata else ""
                return f"{name}:{line}: cell failed{what}: {output.ename}: {output.evalue}"
    said = " ".join(f"{error} {log[-300:]}".split())
    return f"{name}: {type(error).__name__}: {said}"
